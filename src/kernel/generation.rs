//! The number of the ruleset: the kernel counts every transaction of nftables, whoever makes it. One question by netlink tells
//! whether anything has changed since, where listing the rules takes a process.

use std::io;

use nix::libc;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN`, and the answer, `NFT_MSG_NEWGEN`.
const GET: u16 = 10 << 8 | 16;
const NEW: u16 = 10 << 8 | 15;
/// `struct nlmsghdr` and `struct nfgenmsg`.
const HEAD_LEN: usize = 20;
/// `NFTA_GEN_ID`, a number of 32 bits.
const ID: u16 = 1;

/// The number of the ruleset of this network namespace; `None` where the kernel does not tell it.
pub(super) fn of_ruleset() -> Option<u32> {
    ask().ok().and_then(|answer| id(&answer))
}

fn ask() -> io::Result<Vec<u8>> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.send_to(&question(), &SocketAddr::new(0, 0), 0)?;
    // The kernel has answered before it returns.
    Ok(socket.recv_from_full()?.0)
}

fn question() -> [u8; HEAD_LEN] {
    let mut question = [0; HEAD_LEN];
    question[..4].copy_from_slice(&(HEAD_LEN as u32).to_ne_bytes());
    question[4..6].copy_from_slice(&GET.to_ne_bytes());
    question[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    question
}

fn id(answer: &[u8]) -> Option<u32> {
    let number = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    if number(4)? != NEW {
        return None;
    }
    let mut at = HEAD_LEN;
    while let (Some(len), Some(kind)) = (number(at), number(at + 2)) {
        if kind == ID {
            return Some(u32::from_be_bytes(answer.get(at + 4..at + 8)?.try_into().ok()?));
        }
        at += usize::from(len).max(4).next_multiple_of(4);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u16, attributes: &[u8]) -> Vec<u8> {
        let mut answer = question().to_vec();
        answer[4..6].copy_from_slice(&kind.to_ne_bytes());
        answer.extend(attributes);
        answer
    }

    #[test]
    fn the_number_is_found_among_what_else_is_told() {
        let name = [&9u16.to_ne_bytes()[..], &3u16.to_ne_bytes(), b"nft\0\0\0\0\0"].concat();
        let number = [&8u16.to_ne_bytes()[..], &1u16.to_ne_bytes(), &7u32.to_be_bytes()].concat();
        assert_eq!(id(&answer(NEW, &[name.clone(), number.clone()].concat())), Some(7));
        assert_eq!(id(&answer(NEW, &name)), None);
        assert_eq!(id(&answer(libc::NLMSG_ERROR as u16, &number)), None);
        assert_eq!(id(&answer(NEW, &number[..6])), None);
        assert_eq!(id(&answer(NEW, &[0; 16])), None);
    }
}
