//! TCP 6783: listen, dial, bytes in and out by [`ConnId`]; and the UDP port of the same number, where it is wanted.
//!
//! ```text
//!  accept ─┐                  ┌─ reader ──► Event ──► whoever drives (bounded: a reader awaits its place)
//!  dial ───┴─► connection ────┤
//!                             └─ writer ◄── queue (bounded in bytes: a peer that does not read is closed)
//! ```
//!
//! All queues together have a bound too, so that many peers that stall at once do not take the memory of the host: of them that one is
//! closed for which most waits.
//!
//! It knows nothing of what the bytes mean, when to dial again, or who may connect. Every connection that was
//! announced is reported [`Event::Closed`] once, after its last [`Event::Received`], whoever closed it.

mod connection;
mod datagrams;
mod names;
mod dial;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use nix::errno::Errno;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{Semaphore, mpsc},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};
use tracing::{debug, warn};

pub use self::names::{Answers, RESOLVE, resolve, resolve_by};
use self::{connection::Connection, datagrams::Datagrams};
use crate::{
    mesh::{ConnId, INTRODUCTIONS_MAX, Input},
    node::CONN_LIMIT,
};

/// Connections that others may hold open with us at a time: all that the mesh keeps, and some that it has just closed.
const INBOUND_MAX: usize = CONN_LIMIT + INTRODUCTIONS_MAX + 56;
/// Bytes that may wait for all peers together.
const QUEUES_BYTES_MAX: usize = 128 << 20;
/// A shorter queue is never too much: they fit, of all peers that may be connected.
const LONG_QUEUE_BYTES_MIN: usize = 256 << 10;
/// Connections accepted without a pause.
const ACCEPT_BURST: u32 = 20;
/// After a burst, one connection is accepted in this time.
const ACCEPT_EVERY: Duration = Duration::from_millis(50);
/// How long to wait where accepting cannot succeed (no file descriptor left, no memory).
const ACCEPT_RETRY: Duration = Duration::from_secs(1);
/// Connections that the kernel completes before we accept them.
const BACKLOG: u32 = 128;
/// Dials in progress; more fail at once.
const DIALS_MAX: usize = 256;

/// What happened on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody connected.
    Accepted {
        /// The new connection.
        conn: ConnId,
        /// The other end.
        remote: SocketAddr,
    },
    /// A dial succeeded.
    Dialled {
        /// What was dialled, as asked.
        target: String,
        /// The new connection.
        conn: ConnId,
        /// The other end.
        remote: SocketAddr,
    },
    /// A dial failed on every address of its target.
    DialFailed {
        /// What was dialled, as asked.
        target: String,
        /// Why, in words.
        reason: String,
    },
    /// Bytes, in the order of the stream; how they were cut means nothing.
    Received(ConnId, Bytes),
    /// The connection is gone, and why, in words.
    Closed(ConnId, String),
    /// A datagram came, no longer than those of the mesh.
    Datagram {
        /// The other end.
        from: SocketAddr,
        /// What it says.
        bytes: Bytes,
    },
}

impl From<Event> for Input {
    fn from(event: Event) -> Input {
        match event {
            Event::Accepted { conn, remote } => Input::Accepted { conn, remote },
            Event::Dialled { target, conn, remote } => Input::Dialled { target, conn, remote },
            Event::DialFailed { target, reason } => Input::DialFailed { target, reason },
            Event::Received(conn, bytes) => Input::Received(conn, bytes),
            Event::Closed(conn, reason) => Input::Closed(conn, reason),
            Event::Datagram { from, bytes } => Input::Datagram { from, bytes },
        }
    }
}

/// All connections of one node.
#[derive(Debug)]
pub struct Transport {
    shared: Arc<Shared>,
    local: SocketAddr,
    acceptor: JoinHandle<()>,
    datagrams: Option<Datagrams>,
}

/// What the tasks of a transport have in common.
#[derive(Debug)]
struct Shared {
    events: mpsc::Sender<Event>,
    bounds: Bounds,
    default_port: u16,
    /// Dials start from the address that is listened on, where that is a particular one.
    source: IpAddr,
    next_conn: AtomicU64,
    connections: Mutex<BTreeMap<ConnId, Connection>>,
    dialling: Mutex<BTreeSet<String>>,
}

/// How much others may take of us.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Connections that they may hold open with us at a time.
    inbound_max: usize,
    /// Bytes that may wait for all of them together.
    queues_bytes_max: usize,
}

impl Transport {
    /// Listens on `addr`. Dials without a port go to `default_port`. Needs a running tokio runtime.
    pub fn listen(addr: SocketAddr, default_port: u16, events: mpsc::Sender<Event>) -> io::Result<Transport> {
        let bounds = Bounds { inbound_max: INBOUND_MAX, queues_bytes_max: QUEUES_BYTES_MAX };
        Transport::listen_within(bounds, addr, default_port, events)
    }

    fn listen_within(
        bounds: Bounds,
        addr: SocketAddr,
        default_port: u16,
        events: mpsc::Sender<Event>,
    ) -> io::Result<Transport> {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A restarted daemon must not wait for the old one's connections to be forgotten.
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        let listener = socket.listen(BACKLOG)?;
        let local = listener.local_addr()?;
        let shared = Arc::new(Shared {
            events,
            bounds,
            default_port,
            source: addr.ip(),
            next_conn: AtomicU64::new(1),
            connections: Mutex::default(),
            dialling: Mutex::default(),
        });
        let acceptor = tokio::spawn(accept(shared.clone(), listener));
        Ok(Transport { shared, local, acceptor, datagrams: None })
    }

    /// Takes and sends datagrams on the same port from now on.
    pub fn open_datagrams(&mut self) -> io::Result<()> {
        self.datagrams = Some(Datagrams::open(self.local, self.shared.events.clone())?);
        Ok(())
    }

    /// Sends a datagram, unless there is no room for it or [`Transport::open_datagrams`] was not asked for.
    pub fn send_datagram(&mut self, to: SocketAddr, bytes: &[u8]) {
        if let Some(datagrams) = &self.datagrams {
            datagrams.send(to, bytes);
        }
    }

    /// The address that is listened on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Connects to `name`, `name:port`, an IPv4 address or an IPv6 address in brackets. Answered by one `Dialled` or
    /// `DialFailed`, unless a dial of the same target is in progress: its answer serves both.
    pub fn dial(&mut self, target: String) {
        let mut dialling = lock(&self.shared.dialling);
        if dialling.contains(&target) {
            return;
        }
        let crowded = dialling.len() >= DIALS_MAX;
        // A refusal takes a place too, until it is reported: else refusals could pile up.
        if dialling.len() < 2 * DIALS_MAX {
            dialling.insert(target.clone());
            drop(dialling);
            tokio::spawn(dial::run(self.shared.clone(), target, crowded));
        } else {
            warn!(target, "dial dropped: nobody takes the events");
        }
    }

    /// Queues `bytes`. A connection whose queue is full is closed, and the one with the longest queue where all together are too long.
    /// One that is gone is not an error, since its `Closed` is on the way.
    pub fn send(&mut self, conn: ConnId, bytes: Bytes) {
        let connections = lock(&self.shared.connections);
        let Some(connection) = connections.get(&conn) else { return };
        connection.send(bytes);
        if connection.waiting() > LONG_QUEUE_BYTES_MIN {
            shed(&connections, self.shared.bounds.queues_bytes_max);
        }
    }

    /// Closes, after a short time for what is queued.
    pub fn close(&mut self, conn: ConnId) {
        if let Some(connection) = lock(&self.shared.connections).get_mut(&conn) {
            connection.close();
        }
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.acceptor.abort();
        for connection in lock(&self.shared.connections).values() {
            connection.stop("shutting down");
        }
    }
}

/// Closes the connection for which most waits, if too much waits for all together.
fn shed(connections: &BTreeMap<ConnId, Connection>, queues_bytes_max: usize) {
    let all: usize = connections.values().map(Connection::waiting).sum();
    if all <= queues_bytes_max {
        return;
    }
    if let Some(longest) = connections.values().max_by_key(|connection| connection.waiting()) {
        longest.stop(&format!(
            "the other end does not read: {} MiB wait for it, and {} MiB for all peers together",
            longest.waiting() >> 20,
            all >> 20
        ));
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let inbound_max = shared.bounds.inbound_max;
    let places = Arc::new(Semaphore::new(inbound_max));
    let mut pace = Pace::new(Instant::now(), ACCEPT_BURST, ACCEPT_EVERY);
    loop {
        sleep_until(pace.next(Instant::now())).await;
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if spoiled_one_connection_only(&error) => {
                debug!(%error, "connection lost before it was accepted");
                continue;
            }
            Err(error) => {
                warn!(%error, "cannot accept connections");
                sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let remote = canonical(remote);
        let Ok(place) = places.clone().try_acquire_owned() else {
            debug!(%remote, inbound_max, "connection refused: too many are open");
            continue;
        };
        shared.adopt(stream, Some(place), |conn| Event::Accepted { conn, remote }).await;
    }
}

/// Errors of accept(2) that concern the one connection and not the listener; Linux reports pending
/// network errors of the new socket there.
fn spoiled_one_connection_only(error: &io::Error) -> bool {
    let fatal = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::EBADF, Errno::EINVAL];
    error.raw_os_error().is_some_and(|raw| !fatal.contains(&Errno::from_raw(raw)))
}

/// An IPv4 peer of an IPv6 socket is known by its IPv4 address.
fn canonical(remote: SocketAddr) -> SocketAddr {
    SocketAddr::new(remote.ip().to_canonical(), remote.port())
}

/// A bucket of tokens: so many at once, then one in each interval.
struct Pace {
    burst: u32,
    every: Duration,
    /// When the bucket would be full again.
    full: Instant,
}

impl Pace {
    fn new(now: Instant, burst: u32, every: Duration) -> Pace {
        Pace { burst, every, full: now }
    }

    /// Takes a token; the moment from which it may be used.
    fn next(&mut self, now: Instant) -> Instant {
        self.full = self.full.max(now) + self.every;
        (self.full - self.every * self.burst).max(now)
    }
}

impl Shared {
    fn new_conn(&self) -> ConnId {
        ConnId(self.next_conn.fetch_add(1, Ordering::Relaxed))
    }
}

/// Nothing here can be left half done by a panic, so a poisoned lock is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener as StdListener};

    use tokio::time::timeout;

    use super::*;

    const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    const SOON: Duration = Duration::from_secs(10);

    /// A transport and what it reported.
    struct Peer {
        transport: Transport,
        events: mpsc::Receiver<Event>,
    }

    #[tokio::test]
    async fn two_peers_exchange_bytes_in_order_however_slowly_they_are_taken() {
        let (mut a, mut b) = (peer(), peer());
        let (from_a, from_b) = connect(&mut a, &mut b).await;
        let sent: Vec<u8> = (0..10u32 << 18).flat_map(u32::to_le_bytes).collect();
        a.transport.send(from_a, Bytes::from_static(b"weave"));
        a.transport.send(from_a, Bytes::from(sent.clone()));
        b.transport.send(from_b, Bytes::from_static(b"evaew"));

        let received = b.receive(from_b, 5 + sent.len()).await;
        assert_eq!(received[..5], *b"weave");
        assert!(received[5..] == sent, "10 MiB arrive as they were sent");
        assert_eq!(a.receive(from_a, 5).await, b"evaew");
    }

    #[tokio::test]
    async fn a_refused_dial_names_the_address() {
        let mut a = peer();
        let free = StdListener::bind(LOOPBACK).unwrap().local_addr().unwrap();
        a.transport.dial(free.to_string());
        let Event::DialFailed { target, reason } = a.next().await else { panic!("nobody listens there") };
        assert_eq!(target, free.to_string());
        assert!(reason.contains(&target) && reason.contains("refused"), "{reason}");
    }

    #[tokio::test]
    async fn a_name_that_does_not_resolve_is_a_failed_dial() {
        let mut a = peer();
        // Longer than a name can be, so that no name server is asked.
        let name = "a".repeat(300);
        a.transport.dial(name.clone());
        let Event::DialFailed { target, reason } = a.next().await else { panic!("no such name") };
        assert_eq!(target, name);
        assert!(reason.starts_with("cannot resolve aaa"), "{reason}");
    }

    #[tokio::test]
    async fn a_dial_without_a_port_goes_to_the_default_one() {
        let mut b = peer();
        let (sender, events) = mpsc::channel(4);
        let port = b.transport.local_addr().port();
        let mut a = Peer { transport: Transport::listen(LOOPBACK, port, sender).unwrap(), events };
        a.transport.dial("127.0.0.1".to_owned());
        assert!(matches!(a.next().await, Event::Dialled { target, .. } if target == "127.0.0.1"));
        assert!(matches!(b.next().await, Event::Accepted { .. }));
    }

    #[tokio::test]
    async fn a_target_dialled_twice_is_connected_once() {
        let (mut a, mut b) = (peer(), peer());
        let target = b.transport.local_addr().to_string();
        a.transport.dial(target.clone());
        a.transport.dial(target.clone());
        assert!(matches!(a.next().await, Event::Dialled { .. }));
        assert!(matches!(b.next().await, Event::Accepted { .. }));
        assert_eq!(a.quiet().await, None);
        a.transport.dial(target);
        assert!(
            matches!(a.next().await, Event::Dialled { .. }),
            "once it is answered it may be dialled again"
        );
    }

    #[tokio::test]
    async fn a_peer_that_never_reads_is_closed() {
        let mut a = peer();
        let listener = StdListener::bind(LOOPBACK).unwrap();
        a.transport.dial(listener.local_addr().unwrap().to_string());
        let Event::Dialled { conn, .. } = a.next().await else { panic!("somebody listens there") };
        let _deaf = listener.accept().unwrap();
        for _ in 0..40 {
            a.transport.send(conn, Bytes::from(vec![0; 1 << 20]));
            tokio::task::yield_now().await;
        }
        let Event::Closed(closed, reason) = a.next().await else { panic!("it cannot go on for ever") };
        assert_eq!(closed, conn);
        assert_eq!(reason, "the other end does not read: 16 MiB wait for it");
        assert_eq!(a.quiet().await, None);
    }

    #[tokio::test]
    async fn many_peers_that_never_read_do_not_take_more_together_than_a_few() {
        let (sender, events) = mpsc::channel(16);
        let bounds = Bounds { inbound_max: 2, queues_bytes_max: 32 << 20 };
        let mut a =
            Peer { transport: Transport::listen_within(bounds, LOOPBACK, 6783, sender).unwrap(), events };
        let listener = StdListener::bind(LOOPBACK).unwrap();
        let (mut deaf, mut conns) = (Vec::new(), Vec::new());
        // Each may have that much waiting for it, but not all of them.
        for number in 1..=4 {
            a.transport.dial(listener.local_addr().unwrap().to_string());
            let Event::Dialled { conn, .. } = a.next().await else { panic!("somebody listens there") };
            deaf.push(listener.accept().unwrap());
            conns.push(conn);
            for _ in 0..8 + number {
                a.transport.send(conn, Bytes::from(vec![0; 1 << 20]));
            }
        }
        let Event::Closed(closed, reason) = a.next().await else { panic!("they cannot all go on") };
        assert!(conns.contains(&closed) && reason.contains("for all peers together"), "{reason}");
        assert_eq!(a.quiet().await, None, "the others may");
    }

    #[tokio::test]
    async fn what_was_sent_before_a_close_arrives_and_the_close_is_reported_once_at_both_ends() {
        let (mut a, mut b) = (peer(), peer());
        let (from_a, from_b) = connect(&mut a, &mut b).await;
        b.transport.send(from_b, Bytes::from_static(b"crossing"));
        a.transport.send(from_a, Bytes::from(vec![7; 100_000]));
        a.transport.close(from_a);
        a.transport.close(from_a);
        a.transport.send(from_a, Bytes::from_static(b"too late"));

        assert_eq!(b.receive(from_b, 100_000).await.len(), 100_000);
        assert_eq!(b.next().await, Event::Closed(from_b, "closed by the other end".to_owned()));
        let mut event = a.next().await;
        while matches!(event, Event::Received(..)) {
            event = a.next().await;
        }
        assert_eq!(event, Event::Closed(from_a, "closed".to_owned()));
        b.transport.close(from_b);
        assert_eq!((a.quiet().await, b.quiet().await), (None, None));
    }

    #[tokio::test]
    async fn a_close_does_not_wait_for_a_peer_that_does_not_read() {
        let mut a = peer();
        let listener = StdListener::bind(LOOPBACK).unwrap();
        a.transport.dial(listener.local_addr().unwrap().to_string());
        let Event::Dialled { conn, .. } = a.next().await else { panic!("somebody listens there") };
        let _deaf = listener.accept().unwrap();
        a.transport.send(conn, Bytes::from(vec![0; 15 << 20]));
        let start = Instant::now();
        a.transport.close(conn);
        assert_eq!(a.next().await, Event::Closed(conn, "closed".to_owned()));
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn more_connections_than_there_are_places_are_refused_until_one_is_free() {
        let (sender, events) = mpsc::channel(16);
        let bounds = Bounds { inbound_max: 2, queues_bytes_max: QUEUES_BYTES_MAX };
        let mut b =
            Peer { transport: Transport::listen_within(bounds, LOOPBACK, 6783, sender).unwrap(), events };
        let mut a = peer();
        let (first, _) = connect(&mut a, &mut b).await;
        connect(&mut a, &mut b).await;
        a.transport.dial(b.transport.local_addr().to_string());
        let Event::Dialled { conn, .. } = a.next().await else { panic!("the kernel accepts") };
        let Event::Closed(closed, _) = a.next().await else { panic!("there is no place") };
        assert_eq!(closed, conn);

        a.transport.close(first);
        assert!(matches!(a.next().await, Event::Closed(..)));
        assert!(matches!(b.next().await, Event::Closed(..)));
        connect(&mut a, &mut b).await;
    }

    #[tokio::test]
    async fn a_transport_that_is_dropped_lets_go_of_its_connections_and_its_port() {
        let (mut a, mut b) = (peer(), peer());
        let (_, from_b) = connect(&mut a, &mut b).await;
        let addr = a.transport.local_addr();
        drop(a);
        assert!(matches!(b.next().await, Event::Closed(conn, _) if conn == from_b));
        let (sender, _events) = mpsc::channel(1);
        Transport::listen(addr, 6783, sender).unwrap();
    }

    #[test]
    fn a_burst_is_accepted_at_once_and_the_rest_at_a_steady_pace() {
        let now = Instant::now();
        let mut pace = Pace::new(now, ACCEPT_BURST, ACCEPT_EVERY);
        let waits: Vec<Duration> = (0..23).map(|_| pace.next(now) - now).collect();
        assert!(waits[..20].iter().all(Duration::is_zero), "{waits:?}");
        assert_eq!(waits[20..], [50, 100, 150].map(Duration::from_millis));

        let later = now + Duration::from_secs(60);
        assert_eq!(pace.next(later), later, "a pause fills the bucket");
    }

    fn peer() -> Peer {
        let (sender, events) = mpsc::channel(2);
        Peer { transport: Transport::listen(LOOPBACK, 6783, sender).unwrap(), events }
    }

    /// Connects `a` to `b`; the connection as each of them knows it.
    async fn connect(a: &mut Peer, b: &mut Peer) -> (ConnId, ConnId) {
        a.transport.dial(b.transport.local_addr().to_string());
        let Event::Dialled { conn: from_a, remote, .. } = a.next().await else { panic!("a dials b") };
        assert_eq!(remote, b.transport.local_addr());
        let Event::Accepted { conn: from_b, .. } = b.next().await else { panic!("b accepts a") };
        (from_a, from_b)
    }

    impl Peer {
        async fn next(&mut self) -> Event {
            timeout(SOON, self.events.recv())
                .await
                .expect("something happens soon")
                .expect("it is not dropped")
        }

        /// What happens in a while in which nothing should.
        async fn quiet(&mut self) -> Option<Event> {
            timeout(Duration::from_millis(300), self.events.recv()).await.unwrap_or(None)
        }

        async fn receive(&mut self, conn: ConnId, count: usize) -> Vec<u8> {
            let mut all = Vec::new();
            while all.len() < count {
                let Event::Received(from, bytes) = self.next().await else {
                    panic!("{} bytes came", all.len())
                };
                assert_eq!(from, conn);
                all.extend_from_slice(&bytes);
            }
            all
        }
    }
}
