//! Whether we vote about the next decision.
//!
//! Of a host whose store was lost or set back nobody knows what it promised before: with the promise of a single other elector it may
//! have made up a majority. So it votes once all the other electors have shown that they promised nothing about the same decision, or
//! after a while: had it been taken, whoever knows would have told by then.

use std::{collections::BTreeSet, time::Duration};

use super::log::{Decision, Log};
use crate::{ipam::paxos::NodeClaims, peer::PeerName, time::Timestamp};

/// How long a host without a memory abstains from a decision.
const ABSTAINS: Duration = Duration::from_secs(60);

/// From when on we vote, and what we know of that.
#[derive(Clone, Debug, Default)]
pub struct Ballot {
    /// From which decision on we may vote; not known yet after the store was lost or set back.
    from: Option<u64>,
    abstains_until: Option<Timestamp>,
    /// Electors that have promised nothing, by their own word.
    clear: BTreeSet<PeerName>,
    /// What others know us to have promised, and we do not.
    reminded: NodeClaims<Decision>,
}

impl Ballot {
    /// One that votes from this decision on; if it is not known, later.
    pub fn from(from: Option<u64>) -> Ballot {
        Ballot { from, ..Ballot::default() }
    }

    /// From which decision on we may vote, for the disk.
    pub fn known_from(&self) -> Option<u64> {
        self.from
    }

    /// When we vote though it is not known what we promised.
    pub fn due(&self) -> Option<Timestamp> {
        self.abstains_until
    }

    /// Whether we vote about the next decision.
    pub fn votes(&self, me: PeerName, log: &Log) -> bool {
        log.electors().contains(&me) && self.from.is_some_and(|from| from <= log.next())
    }

    /// Nobody, we among them, has promised anything about this decision.
    pub fn begin_at(&mut self, number: u64) {
        self.from.get_or_insert(number);
        self.abstains_until = None;
        self.forget_the_last();
    }

    /// It is about another decision from now on, by what others know. If that bears the same number, and others decide, it is open again
    /// what we promised about it.
    pub fn move_on(&mut self, from: u64, to: u64) {
        if from == to {
            self.from = self.from.filter(|known| *known < from);
        }
        self.forget_the_last();
    }

    fn forget_the_last(&mut self) {
        self.reminded = NodeClaims::default();
        self.clear.clear();
    }

    /// We do not remember all that we promised. Returns whether we did vote.
    pub fn doubt(&mut self) -> bool {
        self.clear.clear();
        self.from.take().is_some()
    }

    /// Somebody knows us to have promised this.
    pub fn remind(&mut self, told: &NodeClaims<Decision>) {
        let known = &mut self.reminded;
        known.promise = known.promise.max(told.promise);
        if told.accepted > known.accepted {
            known.accepted = told.accepted;
            known.value = told.value.clone();
        }
    }

    /// While it is not known: a peer knows of the same decision; `is_clear` if nobody has promised anything, as far as it is known there
    /// and here. Returns whether we vote from now on.
    pub fn hear(
        &mut self,
        now: Timestamp,
        (me, from): (PeerName, PeerName),
        log: &Log,
        is_clear: bool,
    ) -> bool {
        if self.from.is_some() {
            return false;
        }
        self.abstains_until.get_or_insert(now + ABSTAINS);
        match is_clear {
            true => drop(self.clear.insert(from)),
            false => self.clear.clear(),
        }
        let votes = log.electors().iter().all(|elector| *elector == me || self.clear.contains(elector));
        if votes {
            self.begin_at(log.next());
        }
        votes
    }

    /// It has been long enough. Returns what we are bound by, as far as anybody knows, if we vote from now on.
    pub fn wake(&mut self, now: Timestamp, number: u64) -> Option<NodeClaims<Decision>> {
        self.abstains_until.filter(|until| *until <= now)?;
        let bound = std::mem::take(&mut self.reminded);
        self.begin_at(number);
        Some(bound)
    }
}
