//! The UDP port: a task that reads, at a pace that no flood can raise. Longer datagrams than the mesh knows are dropped.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket as StdSocket},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    net::UdpSocket,
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};
use tracing::{debug, trace};

use super::{Event, Pace, canonical};
use crate::mesh::DATAGRAM_LEN_MAX;

/// Datagrams taken without a pause; each router sends two a second at most.
const BURST: u32 = 512;
/// After a burst, one is taken in this time. The kernel drops what does not fit its buffer meanwhile.
const EVERY: Duration = Duration::from_micros(500);
/// How long to wait where receiving cannot succeed.
const RETRY: Duration = Duration::from_secs(1);

/// An open port.
#[derive(Debug)]
pub(super) struct Datagrams {
    socket: Arc<UdpSocket>,
    reader: JoinHandle<()>,
}

impl Datagrams {
    pub(super) fn open(local: SocketAddr, events: mpsc::Sender<Event>) -> io::Result<Datagrams> {
        let socket = StdSocket::bind(local)?;
        socket.set_nonblocking(true)?;
        let socket = Arc::new(UdpSocket::from_std(socket)?);
        let reader = tokio::spawn(read(socket.clone(), events));
        Ok(Datagrams { socket, reader })
    }

    /// What cannot be sent at once is lost, as it may be on the way.
    pub(super) fn send(&self, to: SocketAddr, bytes: &[u8]) {
        let v6 = self.socket.local_addr().is_ok_and(|local| local.is_ipv6());
        let to = match to.ip() {
            IpAddr::V4(ip) if v6 => SocketAddr::new(ip.to_ipv6_mapped().into(), to.port()),
            _ => to,
        };
        if let Err(error) = self.socket.try_send_to(bytes, to) {
            trace!(%to, %error, "datagram not sent");
        }
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read(socket: Arc<UdpSocket>, events: mpsc::Sender<Event>) {
    let mut pace = Pace::new(Instant::now(), BURST, EVERY);
    // A longer one is cut to one byte too many.
    let mut buffer = [0; DATAGRAM_LEN_MAX + 1];
    loop {
        sleep_until(pace.next(Instant::now())).await;
        match socket.recv_from(&mut buffer).await {
            Ok((len, from)) if len <= DATAGRAM_LEN_MAX => {
                let bytes = Bytes::copy_from_slice(&buffer[..len]);
                // Where nobody takes the events it is lost.
                let _ = events.try_send(Event::Datagram { from: canonical(from), bytes });
            }
            Ok(_) => {}
            Err(error) => {
                debug!(%error, "cannot receive datagrams");
                sleep(RETRY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::transport::Transport;

    #[tokio::test]
    async fn datagrams_come_and_go_by_the_port_that_is_listened_on_unless_they_are_too_long() {
        let (sender, mut events) = mpsc::channel(4);
        let mut transport = Transport::listen("127.0.0.1:0".parse().unwrap(), 6783, sender).unwrap();
        transport.open_datagrams().unwrap();
        let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (ours, theirs) = (transport.local_addr(), other.local_addr().unwrap());
        other.send_to(&[1; DATAGRAM_LEN_MAX + 1], ours).await.unwrap();
        other.send_to(&[2; 60_000], ours).await.unwrap();
        other.send_to(&[3; DATAGRAM_LEN_MAX], ours).await.unwrap();
        let event = timeout(Duration::from_secs(10), events.recv()).await.unwrap();
        let bytes = Bytes::from(vec![3; DATAGRAM_LEN_MAX]);
        assert_eq!(event, Some(Event::Datagram { from: theirs, bytes }));

        transport.send_datagram(theirs, b"back");
        let mut buffer = [0; 10];
        let (len, from) = other.recv_from(&mut buffer).await.unwrap();
        assert_eq!((&buffer[..len], from), (&b"back"[..], ours));
    }

    #[tokio::test]
    async fn a_flood_that_nobody_takes_is_dropped() {
        let (sender, mut events) = mpsc::channel(4);
        let mut transport = Transport::listen("127.0.0.1:0".parse().unwrap(), 6783, sender).unwrap();
        transport.open_datagrams().unwrap();
        let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for _ in 0..2000 {
            other.send_to(&[1; 42], transport.local_addr()).await.unwrap();
            tokio::task::yield_now().await;
        }
        for _ in 0..4 {
            assert!(matches!(events.recv().await, Some(Event::Datagram { .. })));
        }
    }
}
