//! How two copies of the ring become one.
//!
//! Token by token the better claim stands: the higher version; of equal versions the one with more
//! free addresses, as Weave Net has it; of those the lower name, where Weave Net would keep whichever
//! it heard first. That order is total, so copies that have exchanged their claims agree, whatever the
//! order in which they heard them.
//!
//! One thing stands above it. A piece in which this host uses an address is not given away by what a
//! peer says: that claim is refused, for its token alone, and the rest of the ring is taken. The owner
//! then says again that the piece is his, one version above the claim ([`Ring::reissue`]). He does the
//! same where only the names broke a tie, because a Weave Net peer may have broken it the other way.

use thiserror::Error;

use super::ring::{ENTRIES_MAX, Entry, Ring, RingError, raised};
use crate::{
    addr::{Address, Range},
    peer::PeerName,
};

/// What a merge did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Something was taken from the other copy.
    pub changed: bool,
    /// A token is new or has another owner, or an entry of ours has another version.
    pub must_save: bool,
    /// Claims of others that were refused: the pieces are in use here.
    pub refused: Vec<Entry>,
    /// Claims of others as good as ours but for the name.
    pub tied: Vec<Entry>,
    /// Entries that were passed over: no honest history reaches their versions.
    pub unbelievable: Vec<Entry>,
    /// The pieces, by their tokens, of which the other copy has something that only this host can have written, and ours does not:
    /// the disk was set back. Only where two stand by one piece the other may have written it.
    pub forgotten: Vec<Address>,
    /// The pieces of ours, by their tokens, of which the other copy gives something to another: whoever took this host for dead wrote
    /// that, or it was given away by us and we do not remember it.
    pub lost: Vec<Address>,
}

/// Why nothing of a received ring can be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)] // The texts say what the fields are.
pub enum MergeError {
    #[error("the received ring is not valid")]
    Invalid(#[from] RingError),
    #[error(
        "IP allocation was seeded by different peers (received: {}, ours: {}): \
         two clusters met; reset the hosts of one of them",
        names(received),
        names(ours)
    )]
    OtherSeeds { received: Vec<PeerName>, ours: Vec<PeerName> },
    #[error(
        "incompatible IP allocation ranges (received: {received}, ours: {ours}): \
         set the same ipam.range on every host"
    )]
    OtherUniverse { received: Range, ours: Range },
}

fn names(peers: &[PeerName]) -> String {
    peers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

impl Ring {
    /// Takes from another copy all that is better than what we have. `in_use` says whether this host
    /// uses an address in a range. On error nothing was taken.
    pub fn merge(&mut self, theirs: &Ring, in_use: impl Fn(Range) -> bool) -> Result<Merged, MergeError> {
        theirs.check()?;
        if !self.seeds.is_empty() && !theirs.seeds.is_empty() && self.seeds != theirs.seeds {
            return Err(MergeError::OtherSeeds { received: theirs.seeds.clone(), ours: self.seeds.clone() });
        }
        if self.universe() != theirs.universe() {
            return Err(MergeError::OtherUniverse { received: theirs.universe(), ours: self.universe() });
        }
        let mut merged = Merged::default();
        // Most of what is gossiped is known.
        if theirs.is_empty() || theirs.entries == self.entries && theirs.seeds == self.seeds {
            return Ok(merged);
        }
        let before = self.clone();
        if self.seeds.is_empty() && !theirs.seeds.is_empty() {
            self.seeds.clone_from(&theirs.seeds);
            merged.changed = true;
            merged.must_save = true;
        }
        self.join(&before, theirs, &mut merged);
        // Tokens are never removed: a ring that peers refuse, or that cannot be loaded again, must not come to be.
        if self.entries.len() > ENTRIES_MAX {
            let error = RingError::TooLarge(self.entries.len());
            *self = before;
            return Err(error.into());
        }
        self.refuse(&before, in_use, &mut merged);
        self.cut_free_counts();
        Ok(merged)
    }

    /// The better claim on each token, before anything is refused.
    fn join(&mut self, before: &Ring, theirs: &Ring, merged: &mut Merged) {
        let me = self.holder();
        let mut joined: Vec<Entry> = Vec::with_capacity(self.entries.len().max(theirs.entries.len()));
        let mut mine = std::mem::take(&mut self.entries).into_iter().peekable();
        let (believable, not): (Vec<Entry>, Vec<Entry>) =
            theirs.entries.iter().copied().partition(Entry::is_believable);
        merged.unbelievable = not;
        for their in believable {
            while let Some(earlier) = mine.next_if(|entry| entry.token < their.token) {
                joined.push(earlier);
            }
            match mine.next_if(|entry| entry.token == their.token) {
                None => {
                    merged.changed = true;
                    merged.must_save = true;
                    // Nobody else makes tokens in a piece of ours.
                    let within = before.entry_of(their.token).filter(|entry| entry.owner == me);
                    let told = if their.owner == me { &mut merged.forgotten } else { &mut merged.lost };
                    told.extend(within.map(|entry| entry.token));
                    joined.push(their);
                }
                Some(ours) => joined.push(better(me, ours, their, merged)),
            }
        }
        joined.extend(mine);
        self.entries = joined;
    }

    /// Takes back each piece of ours that went to another and is in use here. The tokens stay as
    /// they are after the join, so no other piece grows by it.
    fn refuse(&mut self, before: &Ring, in_use: impl Fn(Range) -> bool, merged: &mut Merged) {
        let me = self.holder();
        let lost: Vec<Address> = self
            .pieces()
            .filter(|(piece, entry)| {
                entry.owner != me && before.owner(piece.start) == Some(me) && in_use(*piece)
            })
            .map(|(_, entry)| entry.token)
            .collect();
        for token in lost {
            let index = self.find(token).expect("the token was just read from the ring");
            let their = self.entries[index];
            merged.refused.push(their);
            self.entries[index] = match before.find(token) {
                Ok(index) if before.entries[index].owner == me => before.entries[index],
                Ok(_) | Err(_) => Entry { owner: me, ..their },
            };
        }
    }

    /// A piece that a new token has shortened cannot have more free addresses than it has addresses.
    fn cut_free_counts(&mut self) {
        for index in 0..self.entries.len() {
            let length = self.length(index);
            let entry = &mut self.entries[index];
            entry.free = entry.free.min(length);
        }
    }
}

/// The better of two claims on one token.
fn better(me: PeerName, ours: Entry, their: Entry, merged: &mut Merged) -> Entry {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let same_owner = ours.owner == their.owner;
    match their.version.cmp(&ours.version) {
        Less => ours,
        // Nobody else raises our versions: we did, and forgot it.
        Greater if same_owner && ours.owner == me => {
            merged.must_save = true;
            merged.forgotten.push(ours.token);
            Entry { version: raised(their.version), ..ours }
        }
        Greater => {
            merged.changed = true;
            merged.must_save |= !same_owner;
            merged.lost.extend((ours.owner == me).then_some(ours.token));
            their
        }
        Equal if same_owner && ours.owner == me => ours,
        Equal if same_owner => Entry { free: ours.free.max(their.free), ..ours },
        Equal => {
            if ours.owner == me && ours.free == their.free && me < their.owner {
                merged.tied.push(their);
            }
            let ours_stands =
                (ours.free, std::cmp::Reverse(ours.owner)) > (their.free, std::cmp::Reverse(their.owner));
            if ours_stands {
                return ours;
            }
            merged.changed = true;
            merged.must_save = true;
            their
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::{
        super::ring::tests::{Row, entries, entry, peer, range, ring},
        *,
    };

    #[derive(Deserialize)]
    struct Vectors {
        ring: Cases,
    }

    #[derive(Deserialize)]
    struct Cases {
        merge: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        desc: String,
        every_range_has_allocations: bool,
        mine: Vec<Row>,
        theirs: Vec<Row>,
        range: (u32, u32),
        their_range: (u32, u32),
        my_seeds: Option<Vec<u64>>,
        their_seeds: Option<Vec<u64>>,
        seeds_after: Option<Vec<u64>>,
        result: Vec<Row>,
        updated: bool,
        error: Option<String>,
    }

    fn copy(size: u32, rows: &[Row], seeds: Option<Vec<u64>>) -> Ring {
        let mut ring = ring(1, size, entries(rows));
        ring.seeds = seeds.unwrap_or_default().into_iter().map(peer).collect();
        ring
    }

    /// Where we differ from Weave Net on purpose, what comes out instead, before anything is reissued.
    fn ours_instead(desc: &str) -> Option<Vec<Entry>> {
        let split = vec![entry(0, 1, 6, 128), entry(128, 2, 0, 128)];
        Some(match desc {
            // Refused for that entry alone, where Weave Net drops the connection.
            "tie on my token with allocations" => vec![entry(0, 1, 4, 100)],
            "newer version of my token, given to another, allocations" => vec![entry(0, 1, 4, 255)],
            "foreign token between two of mine, allocations" => {
                vec![entry(0, 1, 4, 64), entry(64, 1, 0, 64), entry(128, 1, 4, 128)]
            }
            // Checked, where Weave Net takes it unchecked.
            "foreign token before my first token: accepted unchecked" => {
                vec![entry(0, 1, 0, 1), entry(64, 1, 0, 192)]
            }
            "split of a range I own via a newer version of my own token, WITH allocations: \
             accepted unchecked" => vec![entry(0, 1, 6, 128), entry(128, 1, 0, 128)],
            // Nothing is in use there, so the order of tokens cannot matter.
            "foreign token after my last token (trailing): error even without allocations" => split,
            // A piece that became shorter has fewer free addresses; that is no reason to refuse a ring.
            "merge result violates invariant" => vec![entry(0, 2, 9, 100), entry(100, 3, 0, 156)],
            _ => return None,
        })
    }

    #[test]
    fn copies_merge_as_in_weave_net_but_for_the_cases_named() {
        let vectors: Vectors = serde_json::from_str(include_str!("../../tests/it/data/ipam.json")).unwrap();
        let mut differing = 0;
        for case in vectors.ring.merge {
            let mut mine = copy(case.range.1, &case.mine, case.my_seeds);
            let theirs = copy(case.their_range.1, &case.theirs, case.their_seeds);
            let merged = mine.merge(&theirs, |_| case.every_range_has_allocations);
            assert_eq!(mine.check(), Ok(()), "{}", case.desc);
            if let Some(expected) = ours_instead(&case.desc) {
                differing += 1;
                assert!(merged.is_ok(), "{}", case.desc);
                assert_eq!(mine.entries, expected, "{}", case.desc);
                continue;
            }
            assert_eq!(merged.is_err(), case.error.is_some(), "{}", case.desc);
            assert_eq!(mine.entries, entries(&case.result), "{}", case.desc);
            let seeds: Vec<PeerName> = case.seeds_after.unwrap_or_default().into_iter().map(peer).collect();
            assert_eq!(mine.seeds, seeds, "{}", case.desc);
            if let Ok(merged) = merged {
                assert_eq!(merged.changed, case.updated, "{}", case.desc);
            }
        }
        assert_eq!(differing, 7);
    }

    #[test]
    fn a_tie_that_only_names_break_falls_to_the_lower_name_on_both_sides() {
        let mut one = ring(1, 256, vec![entry(0, 1, 100, 256)]);
        let mut two = ring(2, 256, vec![entry(0, 2, 100, 256)]);
        let first = two.clone();
        assert!(two.merge(&one, |_| false).unwrap().changed);
        let merged = one.merge(&first, |_| false).unwrap();
        assert_eq!(merged.tied, first.entries, "whoever wins it says it again");
        assert_eq!(one.entries, two.entries);
    }

    #[test]
    fn an_address_in_use_outlasts_a_take_over_and_the_rest_goes() {
        let mut mine = ring(1, 256, vec![entry(0, 1, 3, 128), entry(128, 1, 2, 127)]);
        let theirs = ring(2, 256, vec![entry(0, 2, 103, 128), entry(128, 2, 102, 127)]);
        let merged = mine.merge(&theirs, |piece| piece.contains(Address(200))).unwrap();
        assert_eq!(merged.refused, [entry(128, 2, 102, 127)]);
        assert_eq!(mine.entries, [entry(0, 2, 103, 128), entry(128, 1, 2, 127)]);
        mine.reissue(Address(128), 102);
        assert_eq!(mine.entries[1].version, 103);
    }

    /// One entry of a random ring over 64 addresses.
    fn claim() -> impl Strategy<Value = (u32, u64, u32, u32)> {
        (0u32..16, 1u64..5, 0u32..4, 0u32..5)
    }

    /// A ring of these claims; the first on a token counts, and the free counts are cut to fit.
    fn random_ring(claims: &[(u32, u64, u32, u32)]) -> Ring {
        let mut rows: Vec<Entry> = Vec::new();
        for &(token, owner, version, free) in claims {
            if rows.iter().all(|row| row.token != Address(token * 4)) {
                rows.push(entry(token * 4, owner, version, free));
            }
        }
        rows.sort_by_key(|row| row.token);
        let mut ring = ring(9, 64, rows);
        ring.cut_free_counts();
        ring
    }

    #[test]
    fn a_ring_that_would_grow_too_large_is_refused_whole() {
        let universe = range(0, 1 << 20);
        let every_other = |first: u32, owner: u64| {
            let tokens = (first..).step_by(2).take(ENTRIES_MAX / 2 + 1);
            let entries = tokens.map(|token| entry(token, owner, 7, 1)).collect();
            Ring::from_parts(peer(owner), universe, entries, Vec::new()).unwrap()
        };
        let (mut mine, theirs) = (every_other(0, 1), every_other(1, 2));
        let before = mine.clone();
        let refusal = MergeError::Invalid(RingError::TooLarge(ENTRIES_MAX + 2));
        assert_eq!(mine.merge(&theirs, |_| false), Err(refusal));
        assert_eq!(mine, before);
    }

    proptest! {
        #[test]
        fn copies_that_exchanged_their_claims_agree_in_any_order(
            claims in prop::collection::vec(prop::collection::vec(claim(), 1..6), 2..6),
            order in prop::collection::vec((0usize..6, 0usize..6), 0..30),
        ) {
            let mut copies: Vec<Ring> = claims.iter().map(|claims| random_ring(claims)).collect();
            let mut deliver = |to: usize, from: usize| {
                let from = copies[from].clone();
                copies[to].merge(&from, |_| false).map(|merged| merged.changed)
            };
            for (to, from) in order {
                deliver(to % claims.len(), from % claims.len()).unwrap();
            }
            // Twice round: the first collects every claim, the second spreads it.
            for (to, from) in (0..2).flat_map(|_| (0..claims.len()).flat_map(|to| (0..claims.len()).map(move |from| (to, from)))) {
                deliver(to, from).unwrap();
            }
            for copy in &copies {
                prop_assert_eq!(copy.check(), Ok(()));
                prop_assert_eq!(&copy.entries, &copies[0].entries);
            }
        }

        #[test]
        fn no_ring_takes_an_address_in_use(
            mine in prop::collection::vec(claim(), 1..8),
            theirs in prop::collection::vec(prop::collection::vec(claim(), 1..8), 1..5),
            used in prop::collection::btree_set(0u32..64, 0..10),
        ) {
            let mut mine = random_ring(&mine);
            let me = mine.entries[0].owner;
            mine = Ring::from_parts(me, range(0, 64), mine.entries, vec![]).unwrap();
            let used: Vec<Address> =
                used.into_iter().map(Address).filter(|&a| mine.owner(a) == Some(me)).collect();
            for theirs in theirs {
                let merged =
                    mine.merge(&random_ring(&theirs), |piece| used.iter().any(|&a| piece.contains(a))).unwrap();
                for refused in merged.refused {
                    mine.reissue(refused.token, refused.version);
                }
                prop_assert_eq!(mine.check(), Ok(()));
                for &address in &used {
                    prop_assert_eq!(mine.owner(address), Some(me));
                }
            }
        }
    }
}
