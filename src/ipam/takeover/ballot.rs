//! Whether we vote about the next decision.
//!
//! Of a host whose store was lost or set back nobody knows what it promised before: with the promise of a single other elector it may
//! have made up a majority. So it votes once all the other electors have shown that they promised nothing about the same decision, or
//! after a while: had it been taken, whoever knows would have told by then.
//!
//! A store that was set back looks like any other. But a disk is replaced while its host is down, so what was written in the same boot
//! is no old one. After each boot an elector keeps its vote to itself until so many of the other electors have shown how far they are
//! with the same decision that one of them was in whatever majority it was in: of `n` electors, of which `m` are a majority, `n - m + 1`.
//! What it had promised or accepted by then, as far as that led to anything, one of these has promised or accepted too, and what it
//! hears from them it is bound by and passes on. Where somebody knows of a promise that it does not, its store was set back, and it is as
//! above. Of three electors both others have to be there, and if one of them is dead they never are: then it votes after a while as well,
//! since a dead one must be taken over from.
//!
//! That while is where it may go wrong. If the only one that knows what was decided with our vote is cut off for all of it, or is the
//! dead one, nobody can tell: for us and for whoever is left all is as if it had not been decided. To be safe there would be to
//! stand still in every cluster of three in which one is dead and another was booted.

use std::{collections::BTreeSet, time::Duration};

use super::decisions::{Decision, Log};
use crate::{ipam::paxos::NodeClaims, peer::PeerName, time::Timestamp};

/// How long a host abstains that does not know, or cannot be sure, what it promised.
const ABSTAINS: Duration = Duration::from_secs(60);

/// From when on we vote, and what we know of that.
#[derive(Clone, Debug, Default)]
pub struct Ballot {
    /// From which decision on we may vote; not known yet after the store was lost or set back.
    from: Option<u64>,
    /// What we know of it is from a disk, and nobody has shown yet that it is not an old one.
    from_disk: bool,
    /// What we know of it is from a disk that was written in this boot of the host.
    is_of_this_boot: bool,
    abstains_until: Option<Timestamp>,
    /// Electors that know of the same decision, by their own statement.
    shown: BTreeSet<PeerName>,
    /// Those of them that have promised nothing.
    clear: BTreeSet<PeerName>,
    /// What others know us to have promised, and we do not.
    reminded: NodeClaims<Decision>,
}

impl Ballot {
    /// One that votes from this decision on; if it is not known, later.
    pub fn from(from: Option<u64>) -> Ballot {
        Ballot { from, ..Ballot::default() }
    }

    /// The same, as it was on disk.
    pub fn from_disk(from: Option<u64>) -> Ballot {
        Ballot { from, from_disk: from.is_some(), ..Ballot::default() }
    }

    /// It was written in this boot of the host, so it cannot be an old one.
    pub fn trust(&mut self) {
        (self.from_disk, self.is_of_this_boot) = (false, true);
    }

    /// Whether our disk cannot be an old one, since it was written in this boot of the host.
    pub fn is_of_this_boot(&self) -> bool {
        self.is_of_this_boot
    }

    /// From which decision on we may vote, for the disk.
    pub fn known_from(&self) -> Option<u64> {
        self.from
    }

    /// Whether it is known from when on we vote.
    pub fn is_settled(&self) -> bool {
        self.from.is_some() && !self.from_disk
    }

    /// When we vote though it is not known what we promised.
    pub fn due(&self) -> Option<Timestamp> {
        self.abstains_until
    }

    /// Whether we are an elector that keeps its vote to itself until others have shown that our disk is not an old one.
    pub fn waits(&self) -> bool {
        self.from_disk
    }

    /// Whether we have a vote about the next decision.
    pub fn votes(&self, me: PeerName, log: &Log) -> bool {
        log.electors().contains(&me) && self.from.is_some_and(|from| from <= log.next())
    }

    /// Nobody, we among them, has promised anything about this decision.
    pub fn begin_at(&mut self, number: u64) {
        self.from.get_or_insert(number);
        self.from_disk = false;
        self.abstains_until = None;
        self.forget_the_last();
    }

    /// It was taken, as we found out ourselves, and the next one is open. If it is not known what we promised, it is not of this one
    /// either: others may have come further already, with our help.
    pub fn go_on(&mut self) {
        self.forget_the_last();
    }

    /// It is about another decision from now on, by what others know. If that bears the same number, and others decide, it is open again
    /// what we promised about it.
    pub fn move_on(&mut self, from: u64, to: u64) {
        if from == to {
            self.from = self.from.filter(|known| *known < from);
            self.from_disk &= self.from.is_some();
        }
        self.forget_the_last();
    }

    fn forget_the_last(&mut self) {
        self.reminded = NodeClaims::default();
        self.shown.clear();
        self.clear.clear();
    }

    /// We do not remember all that we promised. Returns whether we did vote.
    pub fn doubt(&mut self) -> bool {
        self.clear.clear();
        (self.from_disk, self.abstains_until) = (false, None);
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

    /// A peer knows of the same decision; `is_clear` if nobody has promised anything, as far as it is known there and here. Returns
    /// whether we vote from now on.
    pub fn hear(
        &mut self,
        now: Timestamp,
        (me, from): (PeerName, PeerName),
        log: &Log,
        is_clear: bool,
    ) -> bool {
        if self.is_settled() {
            return false;
        }
        self.abstains_until.get_or_insert(now + ABSTAINS);
        self.shown.insert(from);
        match is_clear {
            true => drop(self.clear.insert(from)),
            false => self.clear.clear(),
        }
        let votes = match self.from_disk {
            true => self.have_enough_shown(me, log),
            false => log.electors().iter().all(|elector| *elector == me || self.clear.contains(elector)),
        };
        if votes {
            self.begin_at(log.next());
        }
        votes
    }

    /// Whether one of those who have shown what they know was in whatever majority we were in.
    fn have_enough_shown(&self, me: PeerName, log: &Log) -> bool {
        let others = log.electors().iter().filter(|elector| **elector != me && self.shown.contains(elector));
        match log.electors().len() {
            // We were a majority: anybody may have heard of it.
            1 => !self.shown.is_empty(),
            electors => others.count() > electors - log.majority(),
        }
    }

    /// It has been long enough. Returns what we are bound by, as far as anybody knows, if we vote from now on; `ours` is what we know
    /// ourselves.
    pub fn wake(
        &mut self,
        now: Timestamp,
        number: u64,
        ours: Option<&NodeClaims<Decision>>,
    ) -> Option<NodeClaims<Decision>> {
        if self.from_disk {
            self.abstains_until.get_or_insert(now + ABSTAINS);
        }
        self.abstains_until.filter(|until| *until <= now)?;
        ours.into_iter().for_each(|ours| self.remind(ours));
        let bound = std::mem::take(&mut self.reminded);
        self.begin_at(number);
        Some(bound)
    }
}
