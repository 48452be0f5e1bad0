//! What was noted of peers lately, so that somebody can be told: whoever was turned away, for one, is not told why.

use std::{collections::BTreeMap, time::Duration};

use crate::{peer::PeerName, time::Timestamp};

/// Peers of which something is kept; of more, those noted last.
const NOTED_MAX: usize = 32;
/// What was noted longer ago is not told any more. A Weave Net router that is turned away comes again within six minutes.
const NOTED_FOR: Duration = Duration::from_secs(600);

/// The last that was noted of each peer.
#[derive(Clone, Debug)]
pub struct Lately<V>(BTreeMap<PeerName, (Timestamp, V)>);

impl<V> Default for Lately<V> {
    fn default() -> Lately<V> {
        Lately(BTreeMap::new())
    }
}

impl<V> Lately<V> {
    /// Keeps this of a peer, instead of what was noted before.
    pub fn note(&mut self, now: Timestamp, peer: PeerName, noted: V) {
        if self.0.len() == NOTED_MAX && !self.0.contains_key(&peer) {
            let oldest = self.0.iter().min_by_key(|(_, (at, _))| *at).map(|(name, _)| *name);
            oldest.and_then(|oldest| self.0.remove(&oldest));
        }
        self.0.insert(peer, (now, noted));
    }

    /// It holds no more.
    pub fn forget(&mut self, peer: PeerName) {
        self.0.remove(&peer);
    }

    /// What was noted of a peer in the last minutes.
    pub fn of(&self, now: Timestamp, peer: PeerName) -> Option<&V> {
        self.0.get(&peer).filter(|(at, _)| now.since(*at) < NOTED_FOR).map(|(_, noted)| noted)
    }

    /// All that was noted in the last minutes.
    pub fn all(&self, now: Timestamp) -> impl Iterator<Item = &V> {
        self.0.values().filter(move |(at, _)| now.since(*at) < NOTED_FOR).map(|(_, noted)| noted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_kept_for_ten_minutes() {
        let peer = PeerName::from_u64;
        let mut lately = Lately::default();
        for number in 0..2000 {
            lately.note(Timestamp::from_micros(number), peer(number), number);
        }
        let at = Timestamp::from_micros(2000);
        let kept: Vec<u64> = lately.all(at).copied().collect();
        assert_eq!(kept, (2000 - NOTED_MAX as u64..2000).collect::<Vec<_>>());
        assert_eq!((lately.of(at, peer(0)), lately.of(at, peer(1999))), (None, Some(&1999)));
        lately.forget(peer(1999));
        assert_eq!(lately.all(at).count(), NOTED_MAX - 1);
        assert_eq!(lately.all(at + NOTED_FOR).count(), 0);
        assert_eq!(lately.of(at + NOTED_FOR, peer(1998)), None);
    }
}
