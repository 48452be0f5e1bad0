//! What was decided, one decision after another, and who decides the next one.
//!
//! Where somebody decides alone on both sides of a cut, two logs may come equally far with different electors. So logs are ordered by
//! how far they have come and then by their electors: everybody goes on from the greater one, and what the electors of another one
//! promise counts for nothing.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, VecDeque},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::super::paxos::{Choice, VALUE_NAMES_MAX};
use crate::peer::PeerName;

/// Electors that there are at least, as far as there are peers. Two of five may be lost at once.
pub const SEATS: usize = 5;
/// Decisions kept for whoever was away. Of one that was missed nothing is lost: the dead still own what
/// they owned, and are decided about again.
const RECENT_MAX: usize = 32;
/// Bounds of what is believed.
const ELECTORS_MAX: usize = VALUE_NAMES_MAX;
/// Decisions that no cluster takes between two that somebody takes alone.
const FORCED_STEP: u64 = 1 << 32;

/// Who takes over from whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The peer that is gone; [`PeerName::UNKNOWN`] if the decision is about electors alone.
    pub dead: PeerName,
    /// Who takes over what it owned; [`PeerName::UNKNOWN`] if it gave all away itself, or is only no elector any more.
    pub heir: PeerName,
    /// Who decides with the others from now on.
    pub joins: BTreeSet<PeerName>,
    /// Who does no longer, beside the dead.
    pub leaves: BTreeSet<PeerName>,
}

impl Decision {
    /// Whether somebody takes over what another owned.
    pub fn is_take_over(&self) -> bool {
        ![self.dead, self.heir].contains(&PeerName::UNKNOWN)
    }
}

impl Default for Decision {
    fn default() -> Decision {
        let nobody = PeerName::UNKNOWN;
        Decision { dead: nobody, heir: nobody, joins: BTreeSet::new(), leaves: BTreeSet::new() }
    }
}

/// A proposer proposes what it found out, whoever has promised.
impl Choice for Decision {
    type Ground = Decision;
    const NAMES_MAX: usize = 1 << 17;

    fn names(&self) -> usize {
        self.joins.len() + self.leaves.len()
    }

    fn choose(ground: &Decision, _promised: BTreeSet<PeerName>) -> Decision {
        ground.clone()
    }
}

/// A decision that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Taken {
    /// Numbers have gaps where somebody decided alone.
    #[serde(default)]
    number: u64,
    #[serde(flatten)]
    decision: Decision,
}

/// All decisions of one cluster: the number of the next one, and what follows from those before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    cluster: u64,
    next: u64,
    electors: BTreeSet<PeerName>,
    recent: VecDeque<Taken>,
}

impl Log {
    /// The log of a cluster with these founders, in which nothing was decided yet. The lowest of them are its electors, up
    /// to [`SEATS`] and an odd number: of two none may be lost, of one it may be the other.
    pub fn new(seeds: &[PeerName]) -> Log {
        let lowest: BTreeSet<PeerName> = seeds.iter().copied().collect();
        let seats = lowest.len().min(SEATS);
        let odd = seats - usize::from(seats > 1 && seats.is_multiple_of(2));
        let names: Vec<u8> = seeds.iter().flat_map(|seed| seed.as_u64().to_be_bytes()).collect();
        let digest = Sha256::digest(names);
        let [a, b, c, d, e, f, g, h, ..] = *digest.as_array::<32>().expect("SHA-256 has 32 bytes");
        Log {
            cluster: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            next: 0,
            electors: lowest.into_iter().take(odd).collect(),
            recent: VecDeque::new(),
        }
    }

    /// Whether it can be one of this cluster's, however far it has come.
    pub fn is_believable(&self, ours: &Log) -> bool {
        self.cluster == ours.cluster
            && !self.electors.is_empty()
            && self.electors.len() <= ELECTORS_MAX
            && self.recent.len() <= RECENT_MAX
            && self.recent.iter().all(|taken| taken.decision.names() <= VALUE_NAMES_MAX)
    }

    /// Number of the next decision: how many there were.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Who decides next.
    pub fn electors(&self) -> &BTreeSet<PeerName> {
        &self.electors
    }

    /// How many of them it takes.
    pub fn majority(&self) -> usize {
        self.electors.len() / 2 + 1
    }

    /// Who decides after this.
    pub fn electors_after(&self, decision: &Decision) -> BTreeSet<PeerName> {
        let stays = |peer: &PeerName| *peer != decision.dead && !decision.leaves.contains(peer);
        self.electors.iter().copied().filter(stays).chain(decision.joins.iter().copied()).collect()
    }

    /// The decision on who takes over from a peer that was taken at `since` or later, if it is remembered.
    pub fn decision_on(&self, peer: PeerName, since: u64) -> Option<&Decision> {
        self.since(since).filter(|decision| decision.dead == peer && decision.is_take_over()).last()
    }

    /// The decisions with this number or a higher one, if they are remembered, oldest first.
    pub fn since(&self, number: u64) -> impl Iterator<Item = &Decision> {
        self.recent.iter().filter(move |taken| taken.number >= number).map(|taken| &taken.decision)
    }

    /// Adds what was decided.
    pub fn add(&mut self, decision: Decision) {
        self.electors = self.electors_after(&decision);
        let number = self.next;
        self.next = self.next.saturating_add(1);
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(Taken { number, decision });
    }

    /// Adds what somebody decided alone, since most electors are gone for good. The number is one that those who decide together
    /// do not reach: if two do so at once, all go on from one of them.
    pub fn force(&mut self, me: PeerName, decision: Decision) {
        self.next = self.next.saturating_add(FORCED_STEP + me.as_u64() % FORCED_STEP);
        self.add(decision);
    }

    /// Which of two logs is to be gone on from: the greater one. Of equal ones the next decision is the same.
    pub fn order(&self, other: &Log) -> Ordering {
        (self.next, &self.electors).cmp(&(other.next, &other.electors))
    }

    /// Goes on from what another knows, if it is the greater one, and says what was decided meanwhile, oldest first.
    pub fn catch_up(&mut self, theirs: Log) -> Vec<Decision> {
        let missed = self.next;
        if theirs.order(self) != Ordering::Greater {
            return Vec::new();
        }
        *self = theirs;
        self.since(missed).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u64) -> PeerName {
        PeerName::from_u64(number)
    }

    fn over(dead: u64, heir: u64) -> Decision {
        Decision { dead: peer(dead), heir: peer(heir), ..Decision::default() }
    }

    #[test]
    fn a_dead_elector_leaves_its_seat_to_another() {
        let mut log = Log::new(&[peer(1), peer(2), peer(3)]);
        log.add(Decision { joins: [peer(7)].into(), ..over(3, 1) });
        assert_eq!(log.electors(), &BTreeSet::from([peer(1), peer(2), peer(7)]));
        assert_eq!((log.next(), log.majority()), (1, 2));
    }

    #[test]
    fn of_many_founders_a_few_decide() {
        let electors =
            |founders: u64| Log::new(&(1..=founders).map(peer).collect::<Vec<_>>()).electors().len();
        assert_eq!([1, 2, 3, 4, 5, 6, 200].map(electors), [1, 1, 3, 3, 5, 5, 5]);
    }

    #[test]
    fn whoever_was_away_hears_what_was_decided_meanwhile() {
        let mut away = Log::new(&[peer(1), peer(2), peer(3)]);
        let mut there = away.clone();
        away.add(over(9, 1));
        there.add(over(9, 1));
        there.add(over(8, 2));
        there.add(over(7, 3));
        assert_eq!(away.catch_up(there.clone()), [over(8, 2), over(7, 3)]);
        assert_eq!(away, there);
        assert_eq!(away.catch_up(there), []);
    }

    #[test]
    fn what_was_known_is_not_heard_anew_when_somebody_decided_alone() {
        let mut one = Log::new(&[peer(1), peer(2), peer(3)]);
        one.add(over(9, 1));
        let mut other = one.clone();
        other.force(peer(2), over(8, 2));
        assert_eq!(other.decision_on(peer(9), 1), None);
        assert_eq!(one.catch_up(other), [over(8, 2)]);
    }

    #[test]
    fn a_decision_is_found_if_it_is_not_older_than_asked() {
        let mut log = Log::new(&[peer(1)]);
        log.add(over(9, 1));
        assert_eq!(log.decision_on(peer(9), 0), Some(&over(9, 1)));
        assert_eq!(log.decision_on(peer(9), 1), None);
    }

    #[test]
    fn the_log_of_another_cluster_is_not_believed() {
        let (ours, theirs) = (Log::new(&[peer(1), peer(2)]), Log::new(&[peer(1), peer(3)]));
        assert!(!theirs.is_believable(&ours));
        assert!(ours.is_believable(&ours));
    }

    #[test]
    fn a_long_log_keeps_its_end() {
        let mut log = Log::new(&[peer(1)]);
        (0..100).for_each(|number| log.add(over(1000 + number, 1)));
        assert_eq!(log.recent.len(), RECENT_MAX);
        let mut away = Log::new(&[peer(1)]);
        assert_eq!(away.catch_up(log.clone()).len(), RECENT_MAX);
        assert_eq!(away.next(), 100);
    }
}
