//! Somebody changed links, addresses, routes, policy rules, neighbours, settings of interfaces or nftables: time
//! to look again.
//!
//! Of an event no more is read than which interface it is about, or which namespace of a container: that one is looked at, see
//! [`Changes`]. The kernel removes routes without a word when their interface goes down, and drops events when they come too
//! fast.

use std::{
    collections::BTreeSet,
    io::{self, IoSliceMut},
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::{
    cmsg_space,
    errno::Errno,
    libc,
    sys::socket::{ControlMessageOwned, MsgFlags, SetSockOpt, recvmsg, sockopt::RcvBufForce},
};
use rtnetlink::sys::{
    Socket, SocketAddr,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
};
use tokio::{io::unix::AsyncFd, sync::mpsc, time::sleep};

use super::{event::Event, fault::fault, raw};
use crate::state::Fault;

/// How long events gather before they count as one.
const GATHER: Duration = Duration::from_millis(20);

/// `RTNLGRP_LINK`, `_NEIGH`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV4_RULE`, `_IPV6_IFADDR` (who allows IPv6 on a host end
/// gives it an address) and `_IPV6_IFINFO` (which comes a second before that), `_IPV4_NETCONF` (forwarding and reverse paths),
/// `_NEXTHOP`: group n is bit n - 1. What has no group is seen by looking: `rp_filter` of all links at once.
const ROUTE_GROUPS: u32 = 1 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 23 | 1 << 31;
/// Of these what concerns the far end of a link.
const INSIDE_GROUPS: u32 = 1 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 23;
/// Where containers have addresses of IPv6, by their numbers: `RTNLGRP_IPV6_ROUTE`, `_IPV6_RULE`, `_IPV6_NETCONF`. Elsewhere each
/// interface that comes makes some events of them that concern nobody.
const ROUTE_GROUPS6: [u32; 3] = [11, 19, 25];
/// `RTNLGRP_IPV6_IFADDR`, `_IPV6_ROUTE`.
const INSIDE_GROUPS6: [u32; 2] = [9, 11];
/// `NFNLGRP_NFTABLES` is group 7.
const NFTABLES_GROUP: u32 = 1 << 6;

/// Interfaces that are told apart between two looks. Where more than that have changed, all may have.
const INTERFACES_MAX: usize = 4096;
/// Bytes of an event that are read: its head, and where a route or a setting names its interface.
const HEAD_LEN: usize = 256;
/// Bytes of events that may wait, in the kernel: a container that comes makes some dozens of events, of some kilobytes each. What finds no
/// room is lost, and where room is short the kernel holds up whoever changes something.
const ROOM: usize = 8 << 20;
/// Events that are read at one time. Where there are more, some count as lost.
const EVENTS_MAX: usize = 1 << 16;

#[derive(Clone, Copy)]
struct ListenAllNsid;

nix::setsockopt_impl!(
    ListenAllNsid,
    libc::SOL_NETLINK,
    libc::NETLINK_LISTEN_ALL_NSID,
    bool,
    nix::sys::socket::sockopt::SetBool
);

nix::setsockopt_impl!(
    AddMembership,
    libc::SOL_NETLINK,
    libc::NETLINK_ADD_MEMBERSHIP,
    u32,
    nix::sys::socket::sockopt::SetStruct<u32>
);

#[derive(Clone, Copy)]
struct AddMembership;

/// What the kernel has told of since it was last taken; nothing where nobody watches.
#[derive(Clone, Debug, Default)]
pub struct Changes(Arc<Watched>);

#[derive(Debug, Default)]
struct Watched {
    sources: Vec<Source>,
    told: Mutex<Told>,
    cares: Mutex<Cares>,
    hears_v6: AtomicBool,
}

/// What the last look tells of whom events matter of.
#[derive(Debug, Default)]
struct Cares {
    /// The namespaces that links of ours lead into.
    namespaces: BTreeSet<i32>,
    /// Interfaces that are no links of ours, whose neighbours are not either.
    others: BTreeSet<u32>,
}

impl Cares {
    fn for_event(&self, event: &Event) -> bool {
        match event {
            Event::Nothing => false,
            Event::Inside(number) => self.namespaces.contains(number),
            Event::OfNeighbour(index) => !self.others.contains(index),
            Event::OfInterface(_) | Event::Elsewhere | Event::OfRules | Event::Lost | Event::Deaf => true,
        }
    }
}

/// What has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// These interfaces, in some way.
    pub interfaces: BTreeSet<u32>,
    /// Something in these namespaces, by the numbers that the host has for them.
    pub namespaces: BTreeSet<i32>,
    /// Routes, rules, or whatever is of no one interface.
    pub elsewhere: bool,
    /// Rules: which, their number tells, see `generation`.
    pub rules: bool,
    /// Events were dropped: anything.
    pub lost: bool,
    /// Nobody tells of what is changed in containers, or it was more than could be heard.
    pub deaf: bool,
    /// Somebody tells of what is changed on the host.
    pub hears_host: bool,
}

/// Where events come from.
#[derive(Debug)]
struct Source {
    socket: AsyncFd<Socket>,
    kind: Kind,
    /// Groups that tell of IPv6.
    groups6: &'static [u32],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The host's own.
    Host,
    /// Those of all namespaces that the host has a number for, as it has for the other end of each veth.
    Containers,
}

impl Kind {
    const ALL: [Kind; 2] = [Kind::Host, Kind::Containers];
}

impl Changes {
    /// What has changed until now.
    pub(super) fn take(&self) -> Told {
        self.drain(&self.0.sources);
        let mut told = std::mem::take(&mut *self.0.lock());
        told.deaf |= !self.hears(Kind::Containers);
        told.hears_host = self.hears(Kind::Host);
        told
    }

    /// From now on, what concerns IPv6 is told as well.
    pub(super) fn hear_v6(&self) {
        if !self.0.hears_v6.swap(true, Ordering::Relaxed) {
            self.0.sources.iter().for_each(Source::hear_v6);
        }
    }

    /// Notes interfaces that were changed by ours.
    pub(super) fn tell(&self, interfaces: impl IntoIterator<Item = u32>) {
        let mut told = self.0.lock();
        interfaces.into_iter().for_each(|index| told.note(Event::OfInterface(index)));
    }

    /// Of containers, only changes in these namespaces are told from now on; and of these interfaces, which are not ours, no neighbours.
    pub(super) fn care_for(&self, namespaces: BTreeSet<i32>, others: BTreeSet<u32>) {
        *self.lock_cares() = Cares { namespaces, others };
    }

    /// A link is about to be read back by whoever changed it: what was told of it until now is what he did. `false` where something
    /// else has changed as well, or nobody tells.
    pub(super) fn absorb(&self, interface: u32, namespace: i32) -> bool {
        self.lock_cares().namespaces.insert(namespace);
        self.drain(&self.0.sources);
        let mut told = self.0.lock();
        told.interfaces.remove(&interface);
        told.namespaces.remove(&namespace);
        let all_told = Kind::ALL.iter().all(|kind| self.hears(*kind));
        all_told && !told.lost && !told.deaf && !told.elsewhere
    }

    fn hears(&self, kind: Kind) -> bool {
        self.0.sources.iter().any(|source| source.kind == kind)
    }

    fn lock_cares(&self) -> MutexGuard<'_, Cares> {
        self.0.cares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is something that no look has taken yet.
    fn is_told(&self) -> bool {
        *self.0.lock() != Told::default()
    }

    /// Reads what has come from there.
    fn drain(&self, sources: &[Source]) {
        let cares = self.lock_cares();
        let mut told = self.0.lock();
        for source in sources {
            let mut events = std::iter::from_fn(|| source.next()).fuse();
            for event in events.by_ref().take(EVENTS_MAX) {
                if cares.for_event(&event) {
                    told.note(event);
                }
            }
            if events.next().is_some() {
                told.note(source.overflow());
            }
        }
    }
}

impl Watched {
    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    fn note(&mut self, event: Event) {
        match event {
            Event::OfInterface(index) | Event::OfNeighbour(index) => {
                self.interfaces.insert(index);
                self.lost |= self.interfaces.len() > INTERFACES_MAX;
            }
            Event::Inside(number) => {
                self.namespaces.insert(number);
                self.deaf |= self.namespaces.len() > INTERFACES_MAX;
            }
            Event::Elsewhere => self.elsewhere = true,
            Event::Lost => self.lost = true,
            Event::Deaf => self.deaf = true,
            Event::OfRules => self.rules = true,
            // A neighbour that ages matters to nobody.
            Event::Nothing => {}
        }
    }
}

impl Source {
    fn new(protocol: isize, groups: u32, kind: Kind) -> io::Result<Source> {
        let mut socket = Socket::new(protocol)?;
        socket.set_non_blocking(true)?;
        if kind == Kind::Containers {
            ListenAllNsid.set(&socket, &true)?;
        }
        // Whoever may not have more than the host gives to each has what that is.
        let _ = RcvBufForce.set(&socket, &ROOM);
        socket.bind(&SocketAddr::new(0, groups))?;
        let groups6: &[u32] = match kind {
            Kind::Host if protocol == NETLINK_ROUTE => &ROUTE_GROUPS6,
            Kind::Host => &[],
            Kind::Containers => &INSIDE_GROUPS6,
        };
        #[expect(deprecated, reason = "the socket owns its descriptor for as long as it lives")]
        Ok(Source { socket: AsyncFd::new(socket)?, kind, groups6 })
    }

    fn hear_v6(&self) {
        for group in self.groups6 {
            if let Err(error) = AddMembership.set(&self.socket, group) {
                tracing::warn!(%error, group, "changes of IPv6 are found by looking only, as their netlink group cannot be joined");
            }
        }
    }

    /// The next event that has come.
    fn next(&self) -> Option<Event> {
        let mut head = [0; HEAD_LEN];
        let mut room = cmsg_space!(i32);
        let mut parts = [IoSliceMut::new(&mut head)];
        let socket = self.socket.get_ref().as_raw_fd();
        let (len, number) = match recvmsg::<()>(socket, &mut parts, Some(&mut room), MsgFlags::MSG_DONTWAIT) {
            Ok(message) => (message.bytes, message.cmsgs().into_iter().flatten().find_map(number)),
            Err(Errno::ENOBUFS) => return Some(self.overflow()),
            Err(Errno::EINTR) => return Some(Event::Nothing),
            Err(_) => return None,
        };
        Some(match (self.kind, number) {
            (Kind::Host, _) => Event::read(&head[..len]),
            // The host's own come by the other socket.
            (Kind::Containers, None) => Event::Nothing,
            (Kind::Containers, Some(number)) => Event::read_inside(&head[..len], number),
        })
    }

    fn overflow(&self) -> Event {
        match self.kind {
            Kind::Host => Event::Lost,
            Kind::Containers => Event::Deaf,
        }
    }
}

/// The number of the namespace that an event comes from.
fn number(control: ControlMessageOwned) -> Option<i32> {
    let ControlMessageOwned::Unknown(unknown) = control else { return None };
    let head = unknown.cmsg_header;
    let is_it = head.cmsg_level == libc::SOL_NETLINK && head.cmsg_type == libc::NETLINK_LISTEN_ALL_NSID;
    raw::word(&unknown.data_bytes, 0).filter(|_| is_it).map(i32::from_ne_bytes)
}

/// One value for every burst of changes, whoever made them, and what they were. Ends when the receiver is dropped.
pub fn disturbances() -> Result<(mpsc::Receiver<()>, Changes), Fault> {
    let (wake, woken) = mpsc::channel(1);
    let mut sources = Vec::new();
    for (protocol, groups) in [(NETLINK_ROUTE, ROUTE_GROUPS), (NETLINK_NETFILTER, NFTABLES_GROUP)] {
        sources.push(Source::new(protocol, groups, Kind::Host).map_err(|error| {
            fault(format_args!("watching netlink {protocol}, groups {groups:#x}"), &error)
        })?);
    }
    match Source::new(NETLINK_ROUTE, INSIDE_GROUPS, Kind::Containers) {
        Ok(source) => sources.push(source),
        Err(error) => tracing::info!(
            %error, "changes inside containers are found by looking only; CAP_NET_BROADCAST would let the kernel tell of them"
        ),
    }
    let count = sources.len();
    let changes = Changes(Arc::new(Watched { sources, ..Watched::default() }));
    for at in 0..count {
        tokio::spawn(watch(changes.clone(), at, wake.clone()));
    }
    Ok((woken, changes))
}

async fn watch(changes: Changes, at: usize, wake: mpsc::Sender<()>) {
    loop {
        let readable = tokio::select! {
            readable = changes.0.sources[at].socket.readable() => readable,
            () = wake.closed() => return,
        };
        let mut readable = match readable {
            Ok(readable) => readable,
            Err(error) => {
                tracing::warn!(%error, "netlink subscription lost: changes on the host are found by polling");
                return;
            }
        };
        changes.drain(&changes.0.sources[at..=at]);
        readable.clear_ready();
        if changes.is_told() {
            // The rest of the burst.
            sleep(GATHER).await;
            changes.drain(&changes.0.sources);
        }
        // What we did ourselves may be known by now.
        if changes.is_told() {
            // A full channel holds a waking that nobody has answered yet; it stands for this one, too.
            let _ = wake.try_send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_interfaces_than_are_told_apart_are_all_of_them() {
        let changes = Changes::default();
        changes.tell(0..=INTERFACES_MAX as u32);
        assert!(changes.take().lost);
        assert!(!changes.take().lost);
    }
}
