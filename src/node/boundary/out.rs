//! What leaves a node: outputs in order, and effects that wait until the disk has what they rest on.

use std::collections::VecDeque;

use super::{io::Output, order::Order};
use crate::{
    digest::Digest,
    mesh::Recipients,
    node::{
        persist::ledger::{Ledger, SaveFault, SaveId},
        protocol::request::{Refusal, RefusalKind, RequestId, Response},
    },
    peer::PeerName,
    time::Timestamp,
};

/// The gossip channel of the address manager, as in Weave Net.
pub const CHANNEL: &str = "IPallocation";
/// The gossip channel on which peers agree who takes over from the dead; ours alone.
pub const DEAD_CHANNEL: &str = "weavers/dead";
/// The channel on which peers say which probes arrived; ours alone.
pub const PROBE_CHANNEL: &str = "weavers/probe";
/// The channel on which peers offer each other blocks; ours alone.
pub const COMPACT_CHANNEL: &str = "weavers/compact";
/// The channel on which peers say where they are; ours alone.
pub const PATH_CHANNEL: &str = "weavers/path";
/// What waits in the ledger until it may leave.
#[derive(Debug)]
pub(in crate::node) enum Effect {
    Gossip(&'static str, Recipients, Vec<u8>),
    Broadcast(&'static str, PeerName, Vec<u8>),
    Offer(Vec<(&'static str, Digest)>),
    Unicast(&'static str, PeerName, Vec<u8>),
    Answer(RequestId, Result<Response, Refusal>),
    /// A crash cannot take what was in force before: the order may be carried out.
    FormerKept(Box<Order>),
    Finish,
}

/// What is to leave, and to be written.
#[derive(Debug)]
pub(in crate::node) struct Out {
    pub ledger: Ledger<Effect>,
    pub outputs: VecDeque<Output>,
    /// Effects whose time has come.
    ready: VecDeque<Effect>,
    /// The plan may be out of date.
    pub disturbed: bool,
}

impl Out {
    /// Nothing yet, but that there is no plan.
    pub fn new() -> Out {
        Out { ledger: Ledger::new(), outputs: VecDeque::new(), ready: VecDeque::new(), disturbed: true }
    }

    /// Lets an effect happen as soon as the disk has what it rests on.
    pub fn let_out(&mut self, effect: Effect) {
        let ready = match &effect {
            Effect::Gossip(.., bytes) | Effect::Broadcast(.., bytes) | Effect::Unicast(.., bytes) => {
                self.ledger.rest_message(bytes.len(), effect)
            }
            Effect::Offer(digests) => {
                let bytes = size_of_val(digests.as_slice());
                self.ledger.rest_message(bytes, effect)
            }
            Effect::Answer(_, result) if !promises(result) => Some(effect),
            Effect::Answer(..) | Effect::FormerKept(_) | Effect::Finish => self.ledger.rest(effect),
        };
        self.ready.extend(ready);
    }

    /// Answers who asked. Nothing is promised while more answers than may wait for the disk.
    pub fn answer(&mut self, id: RequestId, result: Result<Response, Refusal>) {
        let refused = promises(&result) && !self.ledger.has_room();
        let result = if refused { Err(unkept(self.ledger.fault())) } else { result };
        self.let_out(Effect::Answer(id, result));
    }

    /// A save has ended.
    pub fn stored(&mut self, now: Timestamp, id: SaveId, result: Result<(), SaveFault>) {
        self.ready.extend(self.ledger.stored(now, id, result));
    }

    /// The next effect whose time has come.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.ready.pop_front()
    }

    /// Has the disk told what is new, unless it is busy.
    pub fn save(&mut self, now: Timestamp) {
        if let Some((id, writes)) = self.ledger.begin(now) {
            self.outputs.push_back(Output::Save(id, writes));
        }
    }
}

/// Why something that was done is not promised.
fn unkept(fault: Option<&SaveFault>) -> Refusal {
    let why = fault.map_or("the disk is slow", |fault| &fault.message);
    let hint = fault.and_then(|fault| fault.hint.clone());
    Refusal { hint, ..Refusal::new(RefusalKind::Failed, format!("it is done and may be lost: {why}")) }
}

/// Whether somebody relies on it that the answer still holds after a restart. What only tells how things are does not wait
/// for a disk that is full.
fn promises(answer: &Result<Response, Refusal>) -> bool {
    match answer {
        Ok(Response::Status(_) | Response::Plan(_) | Response::Ring(_)) => false,
        // The disk had the endpoint before there was anything to join; where its sandbox is, Docker knows as well.
        Ok(Response::Joined(_)) => false,
        Ok(Response::Explanation(_) | Response::Permissions(_) | Response::Metrics(_)) | Err(_) => false,
        Ok(
            Response::Attached { .. }
            | Response::Connected(_)
            | Response::Lent(_)
            | Response::Addresses(_)
            | Response::Moved { .. },
        ) => true,
        Ok(Response::Absent | Response::Done) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::persist::memory::Write;

    #[test]
    fn more_answers_than_may_wait_for_a_disk_are_refused_and_nothing_that_goes_on_by_itself_is_lost() {
        let (mut out, mut asked) = (Out::new(), 0);
        let fault = SaveFault { message: "no space left".to_owned(), hint: Some("make room".to_owned()) };
        out.ledger.write(Write::format());
        let (id, _) = out.ledger.begin(Timestamp::ZERO).unwrap();
        out.stored(Timestamp::ZERO, id, Err(fault));
        while out.ledger.has_room() {
            out.answer(RequestId(asked), Ok(Response::Done));
            asked += 1;
        }
        out.answer(RequestId(asked), Ok(Response::Done));
        let Some(Effect::Answer(_, Err(refusal))) = out.next_effect() else { panic!("it is not answered") };
        assert_eq!(refusal.message, "it is done and may be lost: no space left");
        assert_eq!(refusal.hint.as_deref(), Some("make room"));
        out.let_out(Effect::Finish);
        let (id, _) = out.ledger.begin(Timestamp::from_micros(u64::MAX)).unwrap();
        out.stored(Timestamp::ZERO, id, Ok(()));
        let left: Vec<Effect> = std::iter::from_fn(|| out.next_effect()).collect();
        assert_eq!(left.len() as u64, asked + 1);
        assert!(matches!(left.last(), Some(Effect::Finish)));
    }
}
