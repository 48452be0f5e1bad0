//! Peers that were turned away, so that somebody can be told of them: whoever dialled them, or was dialled, is not told why.

use std::{collections::BTreeMap, time::Duration};

use super::{RefusedView, topology::NICKNAME_LEN_MAX};
use crate::{peer::PeerName, time::Timestamp};

/// Peers that are remembered; of more, those that came last.
pub const REFUSED_MAX: usize = 32;
/// A Weave Net router that is turned away comes again within six minutes.
const REFUSED_FOR: Duration = Duration::from_secs(600);

/// Who was turned away lately.
#[derive(Clone, Debug, Default)]
pub struct Refused {
    peers: BTreeMap<PeerName, (Timestamp, RefusedView)>,
}

impl Refused {
    /// A peer was turned away.
    pub fn note(&mut self, now: Timestamp, mut peer: RefusedView) {
        peer.nickname.truncate(peer.nickname.floor_char_boundary(NICKNAME_LEN_MAX));
        if self.peers.len() == REFUSED_MAX && !self.peers.contains_key(&peer.peer) {
            let oldest = self.peers.iter().min_by_key(|(_, (at, _))| *at).map(|(name, _)| *name);
            oldest.and_then(|oldest| self.peers.remove(&oldest));
        }
        self.peers.insert(peer.peer, (now, peer));
    }

    /// It came in after all.
    pub fn forget(&mut self, peer: PeerName) {
        self.peers.remove(&peer);
    }

    /// Those of the last minutes.
    pub fn all(&self, now: Timestamp) -> impl Iterator<Item = &RefusedView> {
        let lately = self.peers.values().filter(move |(at, _)| now.since(*at) < REFUSED_FOR);
        lately.map(|(_, peer)| peer)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::mesh::Objection;

    fn peer(number: u64) -> RefusedView {
        RefusedView {
            peer: PeerName::from_u64(number),
            nickname: "x".repeat(1000),
            remote: SocketAddr::from(([10, 0, 0, 1], 1)),
            objection: Objection::Name,
        }
    }

    #[test]
    fn the_last_ones_are_remembered_for_ten_minutes() {
        let mut refused = Refused::default();
        for number in 0..2000 {
            refused.note(Timestamp::from_micros(number), peer(number));
        }
        let names: Vec<u64> = refused.all(Timestamp::ZERO).map(|peer| peer.peer.as_u64()).collect();
        assert_eq!(names, (2000 - REFUSED_MAX as u64..2000).collect::<Vec<_>>());
        assert!(refused.all(Timestamp::ZERO).all(|peer| peer.nickname.len() == NICKNAME_LEN_MAX));
        refused.forget(PeerName::from_u64(1999));
        assert_eq!(refused.all(Timestamp::ZERO).count(), REFUSED_MAX - 1);
        assert_eq!(refused.all(Timestamp::ZERO + Duration::from_secs(601)).count(), 0);
    }
}
