//! Somebody changed links, addresses, routes, policy rules, neighbours, settings of interfaces or nftables: time
//! to look again.
//!
//! Of an event no more is read than which interface it is about: that one is looked at, see [`Changes`]. The kernel removes
//! routes without a word when their interface goes down, and drops events when they come too fast.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nix::{errno::Errno, libc};
use rtnetlink::sys::{
    AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
};
use tokio::{sync::mpsc, time::timeout};

use super::{
    fault::{Cause, fault},
    raw::{self, BODY},
    route,
};
use crate::state::Fault;

/// How long events gather before they count as one.
const GATHER: Duration = Duration::from_millis(20);

/// `RTNLGRP_LINK`, `_NEIGH`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV4_RULE`, `_IPV6_IFADDR` (who allows IPv6 on a host end
/// gives it an address), `_IPV4_NETCONF` (forwarding and reverse paths), `_NEXTHOP`: group n is bit n - 1. What has no
/// group is seen by looking: `rp_filter` of all links at once.
const ROUTE_GROUPS: u32 = 1 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 23 | 1 << 31;

/// `NFNLGRP_NFTABLES` is group 7.
const NFTABLES_GROUP: u32 = 1 << 6;

/// Interfaces that are told apart between two looks. Where more than that have changed, all may have.
const INTERFACES_MAX: usize = 4096;
/// Bytes of an event that are read: its head, and where a route or a setting names its interface.
const HEAD_LEN: usize = 256;

/// What the kernel has told of since it was last taken.
#[derive(Clone, Debug, Default)]
pub struct Changes(Arc<Mutex<Told>>);

/// What has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// These interfaces, in some way.
    pub interfaces: BTreeSet<u32>,
    /// Routes, rules, or whatever is of no one interface.
    pub elsewhere: bool,
    /// Events were dropped: anything.
    pub lost: bool,
}

impl Changes {
    /// What has changed since the last call.
    pub(super) fn take(&self) -> Told {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, event: &Event) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::OfInterface(index) => {
                told.interfaces.insert(*index);
                told.lost |= told.interfaces.len() > INTERFACES_MAX;
            }
            Event::Elsewhere => told.elsewhere = true,
            Event::Lost => told.lost = true,
            // Rules have a number that tells, see `generation`; a neighbour that ages matters to nobody.
            Event::OfRules | Event::Nothing => {}
        }
    }
}

/// One value for every burst of changes, whoever made them, and what they were. Ends when the receiver is dropped.
pub fn disturbances() -> Result<(mpsc::Receiver<()>, Changes), Fault> {
    let (wake, woken) = mpsc::channel(1);
    let changes = Changes::default();
    for (protocol, groups) in [(NETLINK_ROUTE, ROUTE_GROUPS), (NETLINK_NETFILTER, NFTABLES_GROUP)] {
        let socket = subscribe(protocol, groups).map_err(|error| {
            fault(format_args!("watching netlink {protocol}, groups {groups:#x}"), &error)
        })?;
        tokio::spawn(watch(socket, wake.clone(), changes.clone()));
    }
    Ok((woken, changes))
}

fn subscribe(protocol: isize, groups: u32) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(protocol)?;
    socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
    Ok(socket)
}

async fn watch(socket: TokioSocket, wake: mpsc::Sender<()>, changes: Changes) {
    loop {
        tokio::select! {
            disturbed = disturbed(&socket, &changes) => if let Err(error) = disturbed {
                tracing::warn!(%error, "the kernel's changes are no longer watched");
                return;
            },
            () = wake.closed() => return,
        }
        // The rest of the burst, until none of it comes or it has lasted long enough.
        let burst = async { while disturbed(&socket, &changes).await.is_ok() {} };
        let _ = timeout(GATHER, burst).await;
        // A full channel holds a waking that nobody has answered yet; it stands for this one, too.
        let _ = wake.try_send(());
    }
}

/// Waits for an event that matters, and notes all of them.
async fn disturbed(socket: &TokioSocket, changes: &Changes) -> io::Result<()> {
    let mut head = Vec::with_capacity(HEAD_LEN);
    loop {
        head.clear();
        let event = match socket.recv(&mut head).await {
            Ok(()) => Event::read(&head),
            Err(error) if error.errno() == Errno::ENOBUFS => Event::Lost,
            Err(error) => return Err(error),
        };
        changes.note(&event);
        if event != Event::Nothing {
            return Ok(());
        }
    }
}

/// What an event is about.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    /// An interface, its addresses, settings or neighbours, or a route of ours by it.
    OfInterface(u32),
    /// Other routes, policy rules, nexthops.
    Elsewhere,
    /// nftables.
    OfRules,
    /// Neighbours on the uplinks come and age all the time; only that one is deleted may concern us.
    Nothing,
    /// Some were dropped.
    Lost,
}

/// `RTA_OIF` and `NETCONFA_IFINDEX`.
const OIF: u16 = 4;
const IFINDEX: u16 = 1;
/// `RTM_NEWNETCONF`, `RTM_DELNETCONF`.
const NETCONF: [u16; 2] = [80, 81];

impl Event {
    fn read(message: &[u8]) -> Event {
        let of_interface = |index: Option<[u8; 4]>| {
            index.map_or(Event::Elsewhere, |index| Event::OfInterface(u32::from_ne_bytes(index)))
        };
        let Some(kind) = raw::kind(message) else { return Event::Elsewhere };
        match kind {
            libc::RTM_NEWNEIGH => Event::Nothing,
            libc::RTM_NEWLINK
            | libc::RTM_DELLINK
            | libc::RTM_NEWADDR
            | libc::RTM_DELADDR
            | libc::RTM_DELNEIGH => of_interface(raw::word(message, BODY + 4)),
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE if message.get(BODY + 5) == Some(&route::PROTOCOL) => {
                of_interface(raw::attribute(message, BODY + 12, OIF))
            }
            kind if NETCONF.contains(&kind) => of_interface(raw::attribute(message, BODY + 4, IFINDEX)),
            kind if kind >> 8 == libc::NFNL_SUBSYS_NFTABLES as u16 => Event::OfRules,
            _ => Event::Elsewhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let head = [&[0; 4][..], &kind.to_ne_bytes(), &[0; 10]].concat();
        [&head[..], body].concat()
    }

    #[test]
    fn a_neighbour_that_ages_disturbs_nobody() {
        assert_eq!(Event::read(&message(libc::RTM_NEWNEIGH, &[0; 12])), Event::Nothing);
    }

    #[test]
    fn an_event_names_the_interface_that_it_is_about() {
        let of_seven = [0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0];
        for kind in [libc::RTM_NEWLINK, libc::RTM_DELLINK, libc::RTM_NEWADDR, libc::RTM_DELNEIGH] {
            assert_eq!(Event::read(&message(kind, &of_seven)), Event::OfInterface(7));
        }
        let by_seven = [8, 0, 4, 0, 7, 0, 0, 0];
        let route = |protocol| {
            [&[2, 32, 0, 0, 254, protocol, 0, 0, 0, 0, 0, 0][..], &[5, 0, 9, 0, 1, 0, 0, 0], &by_seven]
                .concat()
        };
        assert_eq!(Event::read(&message(libc::RTM_DELROUTE, &route(67))), Event::OfInterface(7));
        assert_eq!(Event::read(&message(libc::RTM_DELROUTE, &route(4))), Event::Elsewhere);
        let setting = [2, 0, 0, 0, 8, 0, 1, 0, 7, 0, 0, 0];
        assert_eq!(Event::read(&message(80, &setting)), Event::OfInterface(7));
    }

    #[test]
    fn an_event_that_cannot_be_read_may_be_about_anything() {
        assert_eq!(Event::read(&[]), Event::Elsewhere);
        assert_eq!(Event::read(&message(libc::RTM_NEWLINK, &[0; 4])), Event::Elsewhere);
        assert_eq!(Event::read(&message(libc::RTM_NEWRULE, &[0; 12])), Event::Elsewhere);
    }

    #[test]
    fn more_interfaces_than_are_told_apart_are_all_of_them() {
        let changes = Changes::default();
        (0..=INTERFACES_MAX as u32).for_each(|index| changes.note(&Event::OfInterface(index)));
        assert!(changes.take().lost);
        assert_eq!(changes.take(), Told::default());
    }
}
