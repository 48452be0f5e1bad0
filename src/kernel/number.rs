//! The numbers that the host has for namespaces of containers.
//!
//! For each message about a link, and twice for each event inside a container, the kernel goes through these numbers from the least on until it
//! comes to the namespace in question; it gives each new one the least that is free, which is the last of all where none has gone. So that one more
//! container does not cost what all others cost, a new one is given a number below theirs.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicI32, Ordering},
};

use futures_util::StreamExt;
use rtnetlink::{
    Handle,
    packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        nsid::{NsidAttribute, NsidMessage},
    },
};

use super::visit::Inside;

/// Of the host that this program runs on.
pub(super) static NUMBERS: Numbers = Numbers::new();

/// Numbers below are left to the kernel.
const LEAST: i32 = 1 << 20;

/// Which number is given next, unless it is too small.
pub(super) struct Numbers(AtomicI32);

impl Numbers {
    const fn new() -> Numbers {
        Numbers(AtomicI32::new(1 << 30))
    }

    /// Takes in which are in use: an earlier life of this program may have given them.
    pub fn learn(&self, in_use: &BTreeSet<i32>) {
        if let Some(least) = in_use.range(LEAST..).next() {
            self.0.fetch_min(least - 1, Ordering::Relaxed);
        }
    }

    /// Gives a namespace a number. One that has a number keeps it, and one that cannot be given any is given one by the kernel: it costs more.
    pub async fn give(&self, host: &Handle, inside: &Inside) {
        let Some(number) = self.next() else { return };
        let mut message = NsidMessage::default();
        message.attributes = vec![NsidAttribute::Id(number), NsidAttribute::Fd(inside.fd().unsigned_abs())];
        let mut question = NetlinkMessage::from(RouteNetlinkMessage::NewNsId(message));
        question.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        if let Ok(mut answer) = host.clone().request(question) {
            while answer.next().await.is_some() {}
        }
    }

    fn next(&self) -> Option<i32> {
        let lower = |next: i32| (next >= LEAST).then(|| next - 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lower).ok()
    }
}

/// The number that the host has for a namespace that was entered; `None` if it has none.
pub(super) async fn of(host: &Handle, inside: &Inside) -> Option<i32> {
    let mut message = NsidMessage::default();
    message.attributes = vec![NsidAttribute::Fd(inside.fd().unsigned_abs())];
    let mut question = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(message));
    question.header.flags = NLM_F_REQUEST;
    let answer = host.clone().request(question).ok()?.next().await?;
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(known)) = answer.payload else {
        return None;
    };
    let number = known.attributes.iter().find_map(|attribute| match attribute {
        NsidAttribute::Id(number) => Some(*number),
        _ => None,
    });
    number.filter(|number| *number >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_below_those_that_are_in_use() {
        let numbers = Numbers::new();
        let first = numbers.next().unwrap();
        assert!(numbers.next() < Some(first));
        numbers.learn(&[0, 7, first - 100, first].into());
        assert_eq!(numbers.next(), Some(first - 101), "of an earlier life, and not of the kernel");
        numbers.learn(&[first].into());
        assert_eq!(numbers.next(), Some(first - 102), "those that have gone are not given again");
    }

    #[test]
    fn where_no_number_is_left_the_kernel_chooses() {
        let numbers = Numbers::new();
        numbers.learn(&[LEAST + 1].into());
        assert_eq!((numbers.next(), numbers.next()), (Some(LEAST), None));
    }
}
