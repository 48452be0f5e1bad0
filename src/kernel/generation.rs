//! The number of the ruleset: the kernel counts every transaction of nftables, whoever makes it. One question by netlink tells
//! whether anything has changed since, where listing the rules takes a process.

use std::io;

use nix::libc;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::raw::{self, BODY, NFGEN_LEN};

const GET: u16 = of_nftables(libc::NFT_MSG_GETGEN);
const NEW: u16 = of_nftables(libc::NFT_MSG_NEWGEN);
const QUESTION_LEN: usize = BODY + NFGEN_LEN;
/// `NFTA_GEN_ID`.
const ID: u16 = 1;

const fn of_nftables(message: libc::c_int) -> u16 {
    (libc::NFNL_SUBSYS_NFTABLES << 8 | message) as u16
}

/// The number of the ruleset of this network namespace; `None` where the kernel does not tell it.
pub(super) fn of_ruleset() -> Option<u32> {
    ask().ok().and_then(|answer| id(&answer))
}

fn ask() -> io::Result<Vec<u8>> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    // The kernel has answered before it returns, so nobody ever waits.
    socket.set_non_blocking(true)?;
    socket.bind_auto()?;
    socket.send_to(&question(), &SocketAddr::new(0, 0), 0)?;
    Ok(socket.recv_from_full()?.0)
}

fn question() -> [u8; QUESTION_LEN] {
    let mut question = [0; QUESTION_LEN];
    question[..4].copy_from_slice(&(QUESTION_LEN as u32).to_ne_bytes());
    question[4..6].copy_from_slice(&GET.to_ne_bytes());
    question[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    question
}

fn id(answer: &[u8]) -> Option<u32> {
    let is_it = raw::kind(answer)? == NEW;
    raw::attribute(answer, QUESTION_LEN, ID).filter(|_| is_it).map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_tells_the_number() {
        let answer = |kind: u16| {
            let mut answer = question().to_vec();
            answer[4..6].copy_from_slice(&kind.to_ne_bytes());
            answer.extend([&8u16.to_ne_bytes()[..], &ID.to_ne_bytes(), &7u32.to_be_bytes()].concat());
            answer
        };
        assert_eq!(id(&answer(NEW)), Some(7));
        assert_eq!(id(&answer(libc::NLMSG_ERROR as u16)), None);
    }
}
