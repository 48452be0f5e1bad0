//! What changed hands lately. A read of the route tables may show what was before, and a call of the former owner may still be
//! under way.

use std::time::Duration;

use crate::{addr::Range, peer::PeerName, time::Timestamp};

/// By then every read shows what was before, and every call has ended.
const SETTLES: Duration = Duration::from_secs(15);

/// Who owns what, ascending and without gaps, and since when at the latest.
#[derive(Debug, Default)]
pub struct Moves(Vec<(Range, PeerName, Timestamp)>);

impl Moves {
    /// Takes in who owns what at `now`. What was before the first time is not known.
    pub fn see(&mut self, now: Timestamp, owners: &[(Range, PeerName)]) {
        let known = self.0.iter().map(|(piece, owner, _)| (*piece, *owner));
        if !known.eq(owners.iter().copied()) {
            self.0 =
                owners.iter().map(|&(piece, owner)| (piece, owner, self.since(now, piece, owner))).collect();
        }
    }

    fn since(&self, now: Timestamp, piece: Range, owner: PeerName) -> Timestamp {
        let first = self.0.partition_point(|(before, _, _)| before.end <= piece.start);
        let before = || self.0[first..].iter().take_while(|(before, _, _)| before.start < piece.end);
        let stayed = before().all(|(_, former, _)| *former == owner);
        before().map(|(_, _, since)| *since).max().filter(|_| stayed).unwrap_or(now)
    }

    /// Pieces of which a read that began at `begun` need not show what became of them.
    pub fn before(&self, begun: Timestamp) -> Vec<Range> {
        let late = self.0.iter().filter(|(_, _, since)| *since + SETTLES > begun);
        late.map(|(piece, _, _)| *piece).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Address;

    const ONE: PeerName = PeerName::from_u64(1);
    const OTHER: PeerName = PeerName::from_u64(2);

    fn range(start: u32, end: u32) -> Range {
        Range::new(Address(start), Address(end))
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn what_was_given_away_is_restless_for_a_while_and_what_was_kept_is_not() {
        let mut moves = Moves::default();
        moves.see(at(0), &[(range(0, 16), ONE)]);
        assert_eq!(moves.before(at(14)), [range(0, 16)], "nobody knows what was before");
        assert_eq!(moves.before(at(15)), []);
        moves.see(at(40), &[(range(0, 8), ONE), (range(8, 16), OTHER)]);
        assert_eq!(moves.before(at(41)), [range(8, 16)]);
        moves.see(at(50), &[(range(0, 8), ONE), (range(8, 16), OTHER)]);
        assert_eq!(moves.before(at(70)), []);
        moves.see(at(80), &[(range(0, 16), ONE)]);
        assert_eq!(moves.before(at(81)), [range(0, 16)], "a part of it was not");
    }
}
