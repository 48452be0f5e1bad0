//! What goes over the wire between hosts. All of it crosses the router, which is our own network namespace.

use std::{
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
    sync::mpsc::{Receiver, Sender, TryRecvError, channel},
    thread::JoinHandle,
};

use anyhow::{Context, anyhow, ensure};
use ipnet::{IpNet, Ipv4Net};
use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket,
            sockopt::{RcvBuf, ReceiveTimeout},
        },
        time::TimeVal,
    },
};
use weavers::addr::Prefix;

/// As long as a packet can be, also one that the kernel joined of several.
const PACKET_LEN_MAX: usize = 1 << 16;
const HEARD_LEN_MAX: usize = 64 << 20;
const BUFFER_LEN: usize = 8 << 20;
const LOOK_EVERY: TimeVal = TimeVal::new(0, 50_000);
const IP_PROTOCOL: usize = 9;
const SOURCE: usize = 12;
const DESTINATION: usize = 16;
const SOURCE6: usize = 8;
const DESTINATION6: usize = 24;
const TCP: u8 = 6;
const UDP: u8 = 17;
const MESH_PORT: u16 = 6783;

/// What of a packet is kept, if anything.
type Pick = Box<dyn Fn(&[u8]) -> Option<&[u8]> + Send>;

/// An ear on the wire.
pub struct Tap {
    stop: Sender<()>,
    thread: JoinHandle<anyhow::Result<Vec<u8>>>,
}

impl Tap {
    /// Listens from now on to what is said on the port of the mesh.
    pub fn open() -> anyhow::Result<Tap> {
        Tap::pick(Box::new(payload))
    }

    /// Listens to packets from and to these addresses of both kinds that are not in the inside of others.
    pub fn on_addresses(range: Ipv4Net, prefix: Prefix) -> anyhow::Result<Tap> {
        let nets = [range.into(), prefix.net().into()];
        let is_of_any = move |end: IpAddr| nets.iter().any(|net: &IpNet| net.contains(&end));
        Tap::pick(Box::new(move |packet| ends(packet)?.into_iter().any(&is_of_any).then_some(packet)))
    }

    /// Listens to datagrams from or to this port.
    pub fn on_port(port: u16) -> anyhow::Result<Tap> {
        Tap::pick(Box::new(move |packet| {
            let (&UDP, 0x40) = (packet.get(IP_PROTOCOL)?, packet.first()? & 0xf0) else { return None };
            let udp = packet.get(usize::from(packet[0] & 0x0f) * 4..)?;
            let is_it = |at: usize| udp.get(at..at + 2).is_some_and(|bytes| bytes == port.to_be_bytes());
            (is_it(0) || is_it(2)).then_some(packet)
        }))
    }

    fn pick(pick: Pick) -> anyhow::Result<Tap> {
        let socket =
            socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
                .context("no packet socket")?;
        setsockopt(&socket, RcvBuf, &BUFFER_LEN)?;
        setsockopt(&socket, ReceiveTimeout, &LOOK_EVERY)?;
        let (stop, stopped) = channel();
        Ok(Tap { stop, thread: std::thread::spawn(move || listen(&socket, &stopped, &pick)) })
    }

    /// Stops to listen. How many bytes were heard, and which of these words were among them.
    pub fn heard<'a>(self, words: &[&'a str]) -> anyhow::Result<(usize, Vec<&'a str>)> {
        drop(self.stop);
        let heard = self.thread.join().map_err(|_| anyhow!("the tap panicked"))??;
        let is_heard = |word: &&&str| heard.windows(word.len()).any(|bytes| bytes == word.as_bytes());
        Ok((heard.len(), words.iter().filter(is_heard).copied().collect()))
    }
}

fn listen(socket: &OwnedFd, stopped: &Receiver<()>, pick: &Pick) -> anyhow::Result<Vec<u8>> {
    let (mut heard, mut packet) = (Vec::new(), vec![0; PACKET_LEN_MAX]);
    while stopped.try_recv() == Err(TryRecvError::Empty) {
        match recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            Ok(len) => heard.extend(pick(&packet[..len]).unwrap_or_default()),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error).context("nothing can be heard"),
        }
        ensure!(heard.len() <= HEARD_LEN_MAX, "more is said than can be kept");
    }
    Ok(heard)
}

/// Whom a packet is from and for.
fn ends(packet: &[u8]) -> Option<[IpAddr; 2]> {
    match packet.first()? >> 4 {
        4 => Some([bytes::<4>(packet, SOURCE)?.into(), bytes::<4>(packet, DESTINATION)?.into()]),
        6 => Some([bytes::<16>(packet, SOURCE6)?.into(), bytes::<16>(packet, DESTINATION6)?.into()]),
        _ => None,
    }
}

fn bytes<const LEN: usize>(packet: &[u8], at: usize) -> Option<[u8; LEN]> {
    packet.get(at..at + LEN)?.try_into().ok()
}

/// What an IPv4 packet carries of a TCP connection to or from the port of the mesh.
fn payload(packet: &[u8]) -> Option<&[u8]> {
    let (&TCP, 0x40) = (packet.get(IP_PROTOCOL)?, packet.first()? & 0xf0) else { return None };
    let tcp = packet.get(usize::from(packet[0] & 0x0f) * 4..)?;
    let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    let ours = port(0)? == MESH_PORT || port(2)? == MESH_PORT;
    tcp.get(usize::from(tcp.get(12)? >> 4) * 4..).filter(|_| ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Headers without options, and what they carry.
    fn packet(protocol: u8, ports: [u16; 2], data: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        (packet[0], packet[9], packet[32]) = (0x45, protocol, 0x50);
        packet[20..22].copy_from_slice(&ports[0].to_be_bytes());
        packet[22..24].copy_from_slice(&ports[1].to_be_bytes());
        packet.extend(data);
        packet
    }

    #[test]
    fn only_what_the_mesh_says_is_heard() {
        for ports in [[MESH_PORT, 40_000], [40_000, MESH_PORT]] {
            assert_eq!(payload(&packet(TCP, ports, b"hello")), Some(&b"hello"[..]));
        }
        assert_eq!(payload(&packet(TCP, [80, 40_000], b"hello")), None);
        assert_eq!(payload(&packet(17, [MESH_PORT, MESH_PORT], b"hello")), None);
        assert_eq!(payload(&packet(TCP, [MESH_PORT, 1], b"")[..30]), None);
        assert_eq!(payload(&[]), None);
    }
}
