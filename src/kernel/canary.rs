//! The namespace of the canary, and the sockets by which it speaks.
//!
//! A thread of this process lives in it, so that it lasts as long as the process, and nothing is left of it afterwards.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::mpsc,
    thread,
};

use nix::{
    errno::Errno,
    libc,
    sched::{CloneFlags, unshare},
    sys::socket::SetSockOpt,
    unistd::gettid,
};
use tokio::{net::UdpSocket, sync::oneshot};

use super::{
    fault::{Cause, fault},
    netns,
};
use crate::{
    probe::{PORT, packet},
    state::{Fault, Netns},
};

/// Sockets that may be asked for and not made yet.
const ASKED_MAX: usize = 64;

#[derive(Clone, Copy)]
struct IpMtuDiscover;

nix::setsockopt_impl!(
    IpMtuDiscover,
    libc::IPPROTO_IP,
    libc::IP_MTU_DISCOVER,
    libc::c_int,
    nix::sys::socket::sockopt::SetStruct<libc::c_int>
);

#[derive(Clone, Copy)]
struct Ipv6MtuDiscover;

nix::setsockopt_impl!(
    Ipv6MtuDiscover,
    libc::IPPROTO_IPV6,
    libc::IPV6_MTU_DISCOVER,
    libc::c_int,
    nix::sys::socket::sockopt::SetStruct<libc::c_int>
);

type Made = io::Result<std::net::UdpSocket>;

/// A socket that somebody asks for: for which kind of addresses, and whom to give it.
type Wanted = (IpAddr, oneshot::Sender<Made>);

/// A namespace of ours.
#[derive(Debug)]
pub struct Canary {
    /// How it is known to whoever makes its link.
    pub netns: Netns,
    /// Takes requests and sends answers.
    pub socket: UdpSocket,
    /// Asks the thread inside for a socket.
    ask: mpsc::SyncSender<Wanted>,
}

impl Canary {
    /// Makes one. Fails where namespaces may not be made.
    pub async fn make() -> Result<Canary, Fault> {
        let (ask, asked) = mpsc::sync_channel(ASKED_MAX);
        let (done, made) = oneshot::channel();
        let life = move || live_inside(done, asked);
        thread::Builder::new().name("canary".into()).spawn(life).map_err(|error| cannot(&error))?;
        let made = made.await.unwrap_or(Err(Errno::ECANCELED));
        let (thread, cookie, socket) = made.map_err(|cause| cannot(&cause))?;
        let path = format!("/proc/{}/task/{thread}/ns/net", std::process::id());
        let netns = Netns::new(netns::boot_id(), cookie, path);
        let socket = UdpSocket::from_std(socket).map_err(|error| cannot(&error))?;
        Ok(Canary { netns, socket, ask })
    }

    /// A socket on a port that was not used lately, which hears from this address only.
    pub async fn socket_to(&self, to: SocketAddr) -> io::Result<UdpSocket> {
        let (done, made) = oneshot::channel();
        let kind = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        self.ask.try_send((kind, done)).map_err(io::Error::other)?;
        let socket = UdpSocket::from_std(made.await.map_err(io::Error::other)??)?;
        socket.connect(to).await?;
        Ok(socket)
    }

    /// Answers whoever asked by the port of canaries. What cannot be sent at once is lost.
    pub fn answer(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<usize> {
        let to = match (to.ip(), self.socket.local_addr()?) {
            (IpAddr::V4(ip), SocketAddr::V6(_)) => SocketAddr::new(ip.to_ipv6_mapped().into(), to.port()),
            _ => to,
        };
        self.socket.try_send_to(bytes, to)
    }
}

/// Moves into a namespace of its own and makes sockets there, as long as anybody may ask for one.
fn live_inside(
    done: oneshot::Sender<Result<(nix::unistd::Pid, u64, std::net::UdpSocket), Errno>>,
    asked: mpsc::Receiver<Wanted>,
) {
    let made = unshare(CloneFlags::CLONE_NEWNET).and_then(|()| {
        let cookie = netns::cookie()?;
        let socket = listener().map_err(|error| error.errno())?;
        Ok((gettid(), cookie, socket))
    });
    // Nobody waits any more: the namespace goes with this thread.
    if done.send(made).is_err() {
        return;
    }
    while let Ok((kind, reply)) = asked.recv() {
        drop(reply.send(socket_on(kind, 0)));
    }
}

/// The port of canaries, for both kinds of addresses where the kernel knows both.
fn listener() -> Made {
    match socket_on(Ipv6Addr::UNSPECIFIED.into(), PORT) {
        Err(error) if error.errno() == Errno::EAFNOSUPPORT => socket_on(Ipv4Addr::UNSPECIFIED.into(), PORT),
        made => made,
    }
}

/// Packets go as they are or not at all, whatever was once learned of the MTU of the way.
fn socket_on(address: IpAddr, port: u16) -> Made {
    let socket = std::net::UdpSocket::bind((address, port))?;
    socket.set_nonblocking(true)?;
    IpMtuDiscover.set(&socket, &libc::IP_PMTUDISC_PROBE)?;
    if address.is_ipv6() {
        Ipv6MtuDiscover.set(&socket, &libc::IPV6_PMTUDISC_PROBE)?;
    }
    Ok(socket)
}

/// The next datagram that can be one of ours: its length, and where it comes from. Fails where the socket is of no use any
/// more.
pub async fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Result<(usize, SocketAddr), Fault> {
    loop {
        match socket.recv_from(buffer).await {
            Ok((len, from)) if len >= packet::LEN_MIN => {
                return Ok((len, SocketAddr::new(from.ip().to_canonical(), from.port())));
            }
            Ok(_) => {}
            Err(error) if passes(&error) => {}
            Err(error) => return Err(fault("listening on the canary's port", &error)),
        }
    }
}

/// What a socket says of an earlier datagram that found nobody or no way.
fn passes(error: &io::Error) -> bool {
    let passing =
        [Errno::ECONNREFUSED, Errno::EHOSTUNREACH, Errno::ENETUNREACH, Errno::EMSGSIZE, Errno::EPERM];
    passing.contains(&error.errno())
}

fn cannot(cause: &impl Cause) -> Fault {
    Fault {
        hint: Some(
            "CAP_SYS_ADMIN is needed, and RestrictNamespaces=net in the unit; or set [probe] enable = false"
                .into(),
        ),
        ..fault("making the network namespace of the canary", cause)
    }
}
