//! Somebody changed links, addresses, routes, policy rules, neighbours, settings of interfaces or nftables: time
//! to look again.
//!
//! An event says only that. The kernel removes routes without a word when their interface goes down, and
//! drops events when they come too fast, so what they say is not worth reading.

use std::{io, time::Duration};

use nix::{errno::Errno, libc};
use rtnetlink::sys::{
    AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
};
use tokio::{sync::mpsc, time::timeout};

use super::fault::{Cause, fault};
use crate::state::Fault;

/// How long events gather before they count as one.
const GATHER: Duration = Duration::from_millis(20);

/// `RTNLGRP_LINK`, `_NEIGH`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV4_RULE`, `_IPV6_IFADDR` (who allows IPv6 on a host end
/// gives it an address), `_IPV4_NETCONF` (forwarding and reverse paths), `_NEXTHOP`: group n is bit n - 1. What has no
/// group is seen by looking: `rp_filter` of all links at once.
const ROUTE_GROUPS: u32 = 1 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 23 | 1 << 31;

/// `NFNLGRP_NFTABLES` is group 7.
const NFTABLES_GROUP: u32 = 1 << 6;

/// One value for every burst of changes, whoever made them. Ends when the receiver is dropped.
pub fn disturbances() -> Result<mpsc::Receiver<()>, Fault> {
    let (wake, woken) = mpsc::channel(1);
    for (protocol, groups) in [(NETLINK_ROUTE, ROUTE_GROUPS), (NETLINK_NETFILTER, NFTABLES_GROUP)] {
        let socket = subscribe(protocol, groups).map_err(|error| {
            fault(format_args!("watching netlink {protocol}, groups {groups:#x}"), &error)
        })?;
        tokio::spawn(watch(socket, wake.clone()));
    }
    Ok(woken)
}

fn subscribe(protocol: isize, groups: u32) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(protocol)?;
    socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
    Ok(socket)
}

async fn watch(socket: TokioSocket, wake: mpsc::Sender<()>) {
    loop {
        tokio::select! {
            disturbed = disturbed(&socket) => if let Err(error) = disturbed {
                tracing::warn!(%error, "the kernel's changes are no longer watched");
                return;
            },
            () = wake.closed() => return,
        }
        // The rest of the burst, until none of it comes or it has lasted long enough.
        let burst = async { while disturbed(&socket).await.is_ok() {} };
        let _ = timeout(GATHER, burst).await;
        // A full channel holds a waking that nobody has answered yet; it stands for this one, too.
        let _ = wake.try_send(());
    }
}

/// Waits for an event that matters.
async fn disturbed(socket: &TokioSocket) -> io::Result<()> {
    let mut head = Vec::with_capacity(64);
    loop {
        head.clear();
        match socket.recv(&mut head).await {
            Ok(()) if matters(&head) => return Ok(()),
            Ok(()) => {}
            // Events were lost: anything may have changed.
            Err(error) if error.errno() == Errno::ENOBUFS => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Neighbours on the uplinks come and age all the time; only that one is deleted may concern us.
fn matters(message: &[u8]) -> bool {
    let kind = message.get(4..6).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    kind != Some(libc::RTM_NEWNEIGH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_that_ages_disturbs_nobody() {
        let of_kind = |kind: u16| [&[0; 4][..], &kind.to_ne_bytes()].concat();
        assert!(!matters(&of_kind(libc::RTM_NEWNEIGH)));
        assert!(matters(&of_kind(libc::RTM_DELNEIGH)));
        assert!(matters(&of_kind(libc::RTM_NEWLINK)));
    }
}
