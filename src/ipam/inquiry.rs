//! What rests among Weave Net routers: they are asked for their rings.
//!
//! Where routers share the cluster nobody says whom it awaits, and a router tells its ring to neighbours alone. But it answers
//! whoever asks it for space, whether it had some to give or not. So each is asked for an address that lies outside the range, of
//! which nobody has anything to give.

use std::{collections::BTreeSet, time::Duration};

use super::{Allocator, Effect, message::Unicast};
use crate::{
    addr::{Address, Range},
    peer::PeerName,
    time::Timestamp,
};

/// How often peers are asked, and how many at once.
const ASK_EVERY: Duration = Duration::from_secs(30);
const ASKED_AT_ONCE: usize = 32;

/// Who was asked, and who has answered.
#[derive(Clone, Debug, Default)]
pub struct Inquiry {
    /// When somebody is asked next.
    due: Timestamp,
    /// Who was asked last.
    last: Option<PeerName>,
    /// Who had nothing to give, of course, and is about to show its ring.
    denied: BTreeSet<PeerName>,
}

impl Inquiry {
    /// Whom of these to ask now, in turns.
    fn take_turn(&mut self, now: Timestamp, mut reached: Vec<PeerName>) -> Vec<PeerName> {
        if now < self.due {
            return Vec::new();
        }
        self.due = now + ASK_EVERY;
        reached.sort_by_key(|peer| (self.last.is_some_and(|last| *peer <= last), *peer));
        reached.truncate(ASKED_AT_ONCE);
        self.last = reached.last().copied().or(self.last);
        reached
    }
}

impl Allocator {
    /// Asks those whose rings are awaited, if it is time.
    pub(super) fn ask_the_awaited(&mut self) {
        if !self.has_to_ask() {
            return;
        }
        let reached = self.quarantine.awaited().intersection(&self.peers.reachable).copied().collect();
        for peer in self.quarantine.inquiry.take_turn(self.now, reached) {
            let nothing = Unicast::Request(self.nothing());
            self.push(Effect::Unicast(peer, nothing.encode()));
        }
    }

    /// When it is time.
    pub(super) fn next_ask(&self) -> Option<Timestamp> {
        let reached = || self.quarantine.awaited().intersection(&self.peers.reachable).next().is_some();
        (self.has_to_ask() && reached()).then_some(self.quarantine.inquiry.due)
    }

    fn has_to_ask(&self) -> bool {
        self.has_routers() && !self.is_unproven() && self.quarantine.number().is_some()
    }

    /// One address outside the range.
    fn nothing(&self) -> Range {
        let Range { start, end } = self.settings.universe;
        match start.0.checked_sub(1) {
            Some(before) => Range::new(Address(before), start),
            None => Range::new(end, Address(end.0.saturating_add(1))),
        }
    }

    /// A peer had nothing to give. Returns whether that was what we asked for.
    pub(super) fn is_nothing(&mut self, from: PeerName, range: Range) -> bool {
        let is_it = range == self.nothing();
        if is_it && self.quarantine.awaited().contains(&from) {
            self.quarantine.inquiry.denied.insert(from);
        }
        is_it
    }

    /// Whether this answer is to what we asked for.
    pub(super) fn shows_its_ring(&mut self, from: PeerName) -> bool {
        self.quarantine.inquiry.denied.remove(&from)
    }
}
