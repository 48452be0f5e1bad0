//! What the kernel says of links that go. It tells everybody who listens as soon as nobody finds a link any more, and whoever asked for
//! its removal only when every processor has forgotten it, some 20 ms later.

use std::{collections::BTreeSet, io};

use nix::libc;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use tokio::io::unix::AsyncFd;

use super::raw::{self, BODY};

/// `RTNLGRP_LINK`: group n is bit n - 1.
const LINK_GROUP: u32 = 1;
/// Bytes of what is told that are read: its head, and which interface it is about.
const HEAD_LEN: usize = 32;

/// An ear for links of the host that go.
pub(super) struct Farewells {
    socket: AsyncFd<Socket>,
}

impl Farewells {
    /// Listens from now on.
    pub fn listen() -> io::Result<Farewells> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        socket.bind(&SocketAddr::new(0, LINK_GROUP))?;
        #[expect(deprecated, reason = "the socket owns its descriptor for as long as it lives")]
        Ok(Farewells { socket: AsyncFd::new(socket)? })
    }

    /// Ends once all of these interfaces have gone since; with an error where some of what was told may have been lost.
    pub async fn of(&self, mut interfaces: BTreeSet<u32>) -> io::Result<()> {
        while !interfaces.is_empty() {
            let mut readable = self.socket.readable().await?;
            if let Ok(told) = readable.try_io(|socket| next(socket.get_ref())) {
                told?.map(|gone| interfaces.remove(&gone));
            }
        }
        Ok(())
    }
}

/// The interface that is told to be gone, if it is that what is told next.
fn next(socket: &Socket) -> io::Result<Option<u32>> {
    let mut head = [0; HEAD_LEN];
    socket.recv(&mut &mut head[..], 0)?;
    Ok(gone(&head))
}

/// Of a port that leaves its bridge the same is told, as of that family.
fn gone(head: &[u8]) -> Option<u32> {
    let is_of_link = head.get(BODY) == Some(&(libc::AF_UNSPEC as u8));
    let index = raw::word(head, BODY + 4).map(u32::from_ne_bytes);
    index.filter(|_| is_of_link && raw::kind(head) == Some(libc::RTM_DELLINK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_gone_when_it_is_deleted_and_not_when_it_leaves_a_bridge() {
        let told = |kind: u16, family: libc::c_int| {
            let head =
                [&[0; 4][..], &kind.to_ne_bytes(), &[0; 10], &[family as u8, 0, 0, 0], &7u32.to_ne_bytes()];
            gone(&head.concat())
        };
        assert_eq!(told(libc::RTM_DELLINK, libc::AF_UNSPEC), Some(7));
        assert_eq!(told(libc::RTM_DELLINK, libc::AF_BRIDGE), None);
        assert_eq!(told(libc::RTM_NEWLINK, libc::AF_UNSPEC), None);
        assert_eq!(gone(&[]), None);
    }
}
