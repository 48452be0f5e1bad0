//! When a lost probe leads to a look at EC2: at once, and more and more seldom where looks cure nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{peer::PeerName, time::Timestamp};

/// Shortest time between two such looks.
const EVERY: Duration = Duration::from_secs(10);
/// How often that doubles for a path that goes on losing all.
const DOUBLINGS_MAX: u32 = 5;

/// What was looked at for the sake of lost probes.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    last: Option<Timestamp>,
    /// Of each peer whose probes go on dying: the last look since they did, and how many before have not cured it.
    uncured: BTreeMap<PeerName, (Timestamp, u32)>,
}

impl Doubts {
    /// Whether a probe that was lost on the way to or from `peer` leads to a look now. `dying` are those with whom packets are
    /// known to die, `share` is the time that belongs to one look of this host.
    pub fn look(
        &mut self,
        now: Timestamp,
        peer: PeerName,
        dying: &BTreeSet<PeerName>,
        share: Duration,
    ) -> bool {
        // What was cured, or was a probe lost now and then, is forgotten: the next loss is news.
        self.uncured.retain(|peer, _| dying.contains(peer));
        let of_peer = self.uncured.get(&peer).map(|(at, times)| *at + EVERY.saturating_mul(1 << times));
        let of_all = self.last.map(|at| at + EVERY.max(share));
        if of_peer.into_iter().chain(of_all).any(|due| now < due) {
            return false;
        }
        self.last = Some(now);
        // One look is for all of them.
        for &peer in dying {
            let uncured = self.uncured.entry(peer);
            uncured
                .and_modify(|(at, times)| (*at, *times) = (now, (*times + 1).min(DOUBLINGS_MAX)))
                .or_insert((now, 0));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u64) -> PeerName {
        PeerName::from_u64(number)
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_secs(seconds)
    }

    /// The seconds at which a probe lost each second leads to a look.
    fn looks(doubts: &mut Doubts, seconds: std::ops::Range<u64>, dying: &BTreeSet<PeerName>) -> Vec<u64> {
        seconds.filter(|second| doubts.look(at(*second), peer(1), dying, Duration::ZERO)).collect()
    }

    #[test]
    fn what_looks_do_not_cure_is_looked_at_more_and_more_seldom() {
        let mut doubts = Doubts::default();
        let none = BTreeSet::new();
        assert_eq!(looks(&mut doubts, 0..3, &none), [0], "the first losses: at once, and once");
        let dying = BTreeSet::from([peer(1)]);
        assert_eq!(looks(&mut doubts, 3..300, &dying), [10, 20, 40, 80, 160]);
        assert_eq!(looks(&mut doubts, 300..1300, &dying), [320, 640, 960, 1280]);
    }

    #[test]
    fn a_loss_that_was_cured_makes_no_later_one_wait() {
        let mut doubts = Doubts::default();
        let none = BTreeSet::new();
        for second in (0..1000).step_by(11) {
            assert!(doubts.look(at(second), peer(1), &none, Duration::ZERO), "at {second} s");
        }
    }

    #[test]
    fn a_path_that_is_dead_for_days_holds_up_the_look_for_no_other() {
        let mut doubts = Doubts::default();
        let dead = BTreeSet::from([peer(1)]);
        looks(&mut doubts, 0..2000, &dead);
        assert!(!doubts.look(at(2001), peer(1), &dead, Duration::ZERO));
        assert!(doubts.look(at(2001), peer(2), &dead, Duration::ZERO), "this one is news");
        let both = BTreeSet::from([peer(1), peer(2)]);
        let later: Vec<u64> =
            (2002..2200).filter(|second| doubts.look(at(*second), peer(2), &both, Duration::ZERO)).collect();
        assert_eq!(later, [2011, 2021, 2041, 2081, 2161]);
    }

    #[test]
    fn where_many_look_each_keeps_to_its_share() {
        let mut doubts = Doubts::default();
        let share = Duration::from_secs(60);
        let due = |second: &u64| doubts.look(at(*second), peer(*second), &BTreeSet::new(), share);
        assert_eq!((1..130).filter(due).collect::<Vec<_>>(), [1, 61, 121]);
    }
}
