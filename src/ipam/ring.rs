//! The ring: who owns which addresses.
//!
//! A list of tokens, ascending. A token is the first address of a piece, which runs up to the next
//! token; addresses below the first token belong to the last piece, hence the name. Each token bears
//! its owner, a version that only its owner raises, and the owner's count of free addresses, a hint
//! for whoever looks for space. Tokens are never removed: the list is gossiped whole and without
//! tombstones, so a removed token would come back from anybody who was away.
//!
//! How two copies become one is in [`super::merge`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    addr::{Address, Range, join},
    peer::PeerName,
};

/// Entries a ring may have. Larger ones are refused, and nothing is donated that would pass it.
pub const ENTRIES_MAX: usize = 1 << 16;

/// No honest history reaches a higher version: a piece that changed a thousand times a second would need 24 days without
/// a pause. Higher ones are refused, since nothing could outbid the last of all.
pub const VERSION_MAX: u32 = u32::MAX / 2;

/// How far a take-over raises the version, so that it stands above what the old owner did meanwhile.
const TRANSFER_STEP: u32 = 100;

/// A token and what is said of its piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// First address of the piece.
    pub token: Address,
    /// Whose it is.
    pub owner: PeerName,
    /// Raised at each change.
    pub version: u32,
    /// Addresses of the piece that nobody uses, by the owner's count.
    pub free: u32,
}

/// Who owns which addresses, as one peer knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ring {
    universe: Range,
    holder: PeerName,
    pub(super) entries: Vec<Entry>,
    pub(super) seeds: Vec<PeerName>,
}

/// Why a ring is not one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)] // The texts say what the fields are.
pub enum RingError {
    #[error("token {0} of the ring follows a higher one")]
    NotSorted(Address),
    #[error("token {0} appears twice in the ring")]
    TokenTwice(Address),
    #[error("token {token} of the ring is outside {universe}")]
    OutOfRange { token: Address, universe: Range },
    #[error("piece {token} of the ring has {length} addresses but reports {free} free")]
    TooMuchFree { token: Address, free: u32, length: u32 },
    #[error("the ring has {0} entries, more than {ENTRIES_MAX}")]
    TooLarge(usize),
    #[error("the ring covers no addresses: {start} to {end}")]
    NoUniverse { start: Address, end: Address },
}

/// The range is not all ours to give, or no version is left to say so with.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0} is not ours to give")]
pub struct NotOurs(pub Range);

impl Ring {
    /// A ring that nobody owns anything of.
    pub fn empty(holder: PeerName, universe: Range) -> Ring {
        Ring { universe, holder, entries: Vec::new(), seeds: Vec::new() }
    }

    /// The first ring: the universe halved, and the halves halved, until each of these peers has a
    /// piece. In ascending order of names, so that everybody who knows the list makes the same ring.
    pub fn seeded(holder: PeerName, universe: Range, peers: impl IntoIterator<Item = PeerName>) -> Ring {
        let mut seeds: Vec<PeerName> = peers.into_iter().collect();
        seeds.sort();
        seeds.dedup();
        let mut entries = Vec::new();
        subdivide(universe, &seeds, &mut entries);
        Ring { universe, holder, entries, seeds }
    }

    /// A ring as received or read, checked.
    pub fn from_parts(
        holder: PeerName,
        universe: Range,
        entries: Vec<Entry>,
        seeds: Vec<PeerName>,
    ) -> Result<Ring, RingError> {
        let ring = Ring { universe, holder, entries, seeds };
        ring.check()?;
        Ok(ring)
    }

    /// What must hold of every ring.
    pub fn check(&self) -> Result<(), RingError> {
        let Range { start, end } = self.universe;
        if self.universe.is_empty() {
            return Err(RingError::NoUniverse { start, end });
        }
        if self.entries.len().max(self.seeds.len()) > ENTRIES_MAX {
            return Err(RingError::TooLarge(self.entries.len().max(self.seeds.len())));
        }
        for pair in self.entries.windows(2) {
            let [before, after] = pair else { continue };
            if before.token == after.token {
                return Err(RingError::TokenTwice(after.token));
            }
            if before.token > after.token {
                return Err(RingError::NotSorted(after.token));
            }
        }
        let outside = self.entries.iter().find(|entry| !self.universe.contains(entry.token));
        if let Some(&Entry { token, .. }) = outside {
            return Err(RingError::OutOfRange { token, universe: self.universe });
        }
        for (index, &Entry { token, free, .. }) in self.entries.iter().enumerate() {
            let length = self.length(index);
            if free > length {
                return Err(RingError::TooMuchFree { token, free, length });
            }
        }
        Ok(())
    }

    /// The same copy, as another holds it.
    pub fn held_by(&self, holder: PeerName) -> Ring {
        Ring { holder, ..self.clone() }
    }

    /// All addresses that can be owned.
    pub fn universe(&self) -> Range {
        self.universe
    }

    /// Whose copy it is.
    pub fn holder(&self) -> PeerName {
        self.holder
    }

    /// The entries, ascending by token.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The peers with which the first ring was made: the identity of the cluster.
    pub fn seeds(&self) -> &[PeerName] {
        &self.seeds
    }

    /// Whether nobody owns anything yet.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether another grant could make it larger than peers accept.
    pub fn is_full(&self) -> bool {
        self.entries.len() + 2 > ENTRIES_MAX
    }

    /// The pieces, ascending. Where the ring wraps, the last entry's comes in two.
    pub fn pieces(&self) -> impl Iterator<Item = (Range, &Entry)> {
        let head = match (self.entries.first(), self.entries.last()) {
            (Some(first), Some(last)) if first.token > self.universe.start => {
                Some((Range::new(self.universe.start, first.token), last))
            }
            _ => None,
        };
        let ends = self.entries.iter().skip(1).map(|entry| entry.token).chain([self.universe.end]);
        let rest = self.entries.iter().zip(ends);
        head.into_iter().chain(rest.map(|(entry, end)| (Range::new(entry.token, end), entry)))
    }

    /// Who owns this address.
    pub fn owner(&self, address: Address) -> Option<PeerName> {
        self.entry_of(address).map(|entry| entry.owner)
    }

    /// The entry of the piece with this address.
    pub(super) fn entry_of(&self, address: Address) -> Option<&Entry> {
        if !self.universe.contains(address) {
            return None;
        }
        let after = self.entries.partition_point(|entry| entry.token <= address);
        if after == 0 { self.entries.last() } else { self.entries.get(after - 1) }
    }

    /// Who gave us all that they had, in what this copy has and `before` did not: a gift raises a version by less.
    pub fn donors_of_all(&self, before: &Ring) -> BTreeSet<PeerName> {
        let ours = self.entries.iter().filter(|entry| entry.owner == self.holder);
        let given = ours.filter_map(|entry| {
            let former = before.entries[before.find(entry.token).ok()?];
            let is_all = former.owner != self.holder && entry.version >= former.version + TRANSFER_STEP;
            is_all.then_some(former.owner)
        });
        given.collect()
    }

    /// What a peer owns, ascending, neighbours joined.
    pub fn owned_by(&self, peer: PeerName) -> Vec<Range> {
        join(self.pieces().filter(|(_, entry)| entry.owner == peer).map(|(piece, _)| piece))
    }

    /// Who owns what: the whole universe, ascending, neighbouring pieces of one owner joined.
    pub fn owners(&self) -> Vec<(Range, PeerName)> {
        let mut owners: Vec<(Range, PeerName)> = Vec::new();
        for (piece, entry) in self.pieces() {
            match owners.last_mut() {
                Some((range, owner)) if *owner == entry.owner => range.end = piece.end,
                _ => owners.push((piece, entry.owner)),
            }
        }
        owners
    }

    /// How many addresses each peer owns.
    pub fn shares(&self) -> BTreeMap<PeerName, u64> {
        let mut shares = BTreeMap::new();
        for (piece, entry) in self.pieces() {
            *shares.entry(entry.owner).or_default() += u64::from(piece.len());
        }
        shares
    }

    /// Gives a range of ours away. The tokens this makes are ours to make, since the piece is ours.
    pub fn grant(&mut self, range: Range, to: PeerName) -> Result<(), NotOurs> {
        if range.is_empty() || !self.holds(range) {
            return Err(NotOurs(range));
        }
        let to_next = match self.entries.iter().find(|entry| entry.token > range.start) {
            Some(next) => next.token.0 - range.start.0,
            None => self.universe.end.0 - range.start.0 + self.head_length(),
        };
        let free = to_next.min(range.len());
        match self.find(range.start) {
            Ok(index) => self.entries[index].change(to, free),
            Err(index) => {
                self.entries.insert(index, Entry { token: range.start, owner: to, version: 0, free });
                let before = index.checked_sub(1).unwrap_or(self.entries.len() - 1);
                let length = self.length(before);
                self.entries[before].change(self.holder, length);
            }
        }
        for entry in &mut self.entries {
            if range.start < entry.token && entry.token < range.end {
                entry.change(to, entry.free.min(range.end.0 - entry.token.0));
            }
        }
        let rest = if range.end == self.universe.end { self.universe.start } else { range.end };
        if let Err(index) = self.find(rest) {
            let entry = Entry { token: rest, owner: self.holder, version: 0, free: 0 };
            self.entries.insert(index, entry);
            self.entries[index].free = self.length(index);
        }
        Ok(())
    }

    /// Raises the version of something that is ours, but not of these pieces, so that whoever heard of a gift can tell a disk from
    /// before it.
    pub fn leave_trace(&mut self, but_for: &[Range]) {
        let stays = |entry: &Entry| but_for.iter().any(|piece| piece.contains(entry.token));
        let ours = self.entries.iter_mut().filter(|entry| entry.owner == self.holder && !stays(entry));
        if let Some(entry) = ours.max_by_key(|entry| entry.version) {
            entry.version = raised(entry.version);
        }
    }

    /// Makes all that `from` owns the property of `to`, but for pieces with something of `kept` and as far as a version is left for
    /// that, and says what that was.
    pub fn transfer(&mut self, from: PeerName, to: PeerName, kept: &[Range]) -> Vec<Range> {
        let stays = |piece: Range| kept.iter().any(|range| range.overlaps(piece));
        let pieces = self.pieces().filter(|(_, entry)| entry.owner == from);
        let staying: BTreeSet<Address> =
            pieces.filter(|(piece, entry)| entry.is_fixed() || stays(*piece)).map(|(_, e)| e.token).collect();
        let moves = |entry: &Entry| entry.owner == from && !staying.contains(&entry.token);
        let moved = join(self.pieces().filter(|(_, entry)| moves(entry)).map(|(piece, _)| piece));
        for entry in self.entries.iter_mut().filter(|entry| moves(entry)) {
            entry.owner = to;
            entry.version += TRANSFER_STEP;
        }
        moved
    }

    /// Takes a claim of another, at this version, on the piece of ours at this token.
    pub fn concede(&mut self, token: Address, owner: PeerName, version: u32) {
        let Ok(index) = self.find(token) else { return };
        let entry = &mut self.entries[index];
        *entry = Entry { token, owner, version: entry.version.max(version), free: 0 };
    }

    /// Pieces of ours that cannot change hands any more.
    pub fn unmovable(&self) -> Vec<Range> {
        let ours = self.pieces().filter(|(_, entry)| entry.owner == self.holder && entry.is_fixed());
        ours.map(|(piece, _)| piece).collect()
    }

    /// Addresses of each peer that cannot change hands any more: no version is left that would outbid theirs.
    pub fn fixed(&self) -> BTreeMap<PeerName, u64> {
        let mut fixed = BTreeMap::new();
        for (piece, entry) in self.pieces().filter(|(_, entry)| entry.is_fixed()) {
            *fixed.entry(entry.owner).or_default() += u64::from(piece.len());
        }
        fixed
    }

    /// Brings the free counts of our own pieces up to date, but for those of which `free_in` says
    /// nothing. Returns whether one changed.
    pub fn report_free(&mut self, free_in: impl Fn(Range) -> Option<u32>) -> bool {
        let mut counts: BTreeMap<Address, u32> = BTreeMap::new();
        for (piece, entry) in self.pieces().filter(|(_, entry)| entry.owner == self.holder) {
            if let Some(free) = free_in(piece) {
                *counts.entry(entry.token).or_default() += free;
            }
        }
        let mut changed = false;
        for entry in &mut self.entries {
            if let Some(&free) = counts.get(&entry.token).filter(|&&free| free != entry.free) {
                entry.change(entry.owner, free);
                changed = true;
            }
        }
        changed
    }

    /// Says again, above `version`, that the piece at this token is ours, so that no copy can be
    /// left that holds another claim for as good. Returns whether there was a version left for that.
    pub fn reissue(&mut self, token: Address, version: u32) -> bool {
        let me = self.holder;
        let Ok(index) = self.find(token) else { return false };
        let entry = &mut self.entries[index];
        debug_assert_eq!(entry.owner, me);
        let raised = raised(entry.version.max(version));
        let is_higher = raised > entry.version && raised > version;
        entry.version = raised;
        is_higher
    }

    /// Counts versions that no honest history reaches as none, so that they can be outbid. Returns what bore them.
    pub fn disbelieve(&mut self) -> Vec<Entry> {
        let unbelievable: Vec<Entry> = self.entries.iter().copied().filter(|e| !e.is_believable()).collect();
        self.entries.iter_mut().filter(|entry| !entry.is_believable()).for_each(|entry| entry.version = 0);
        unbelievable
    }

    /// Index of the entry with this token, or where it would stand.
    pub(super) fn find(&self, token: Address) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&token, |entry| entry.token)
    }

    /// Addresses from this entry's token to the next one.
    pub(super) fn length(&self, index: usize) -> u32 {
        let token = self.entries[index].token;
        match self.entries.get(index + 1) {
            Some(next) => next.token.0 - token.0,
            None => self.universe.end.0 - token.0 + self.head_length(),
        }
    }

    /// Addresses below the first token.
    fn head_length(&self) -> u32 {
        self.entries.first().map_or(0, |first| first.token.0 - self.universe.start.0)
    }

    fn holds(&self, range: Range) -> bool {
        !self.is_empty()
            && self.universe.covers(range)
            && self.pieces().all(|(piece, entry)| {
                entry.owner == self.holder && !entry.is_fixed() || !piece.overlaps(range)
            })
    }
}

impl Entry {
    fn change(&mut self, owner: PeerName, free: u32) {
        *self = Entry { token: self.token, owner, version: raised(self.version), free };
    }

    /// Whether an honest history may have reached its version.
    pub fn is_believable(&self) -> bool {
        self.version <= VERSION_MAX
    }

    /// Whether no version is left with which it could change hands.
    pub fn is_fixed(&self) -> bool {
        self.version > VERSION_MAX - TRANSFER_STEP
    }
}

/// The next version that others believe; the last of them if there is none.
pub(super) fn raised(version: u32) -> u32 {
    if version < VERSION_MAX { version + 1 } else { version }
}

fn subdivide(range: Range, peers: &[PeerName], entries: &mut Vec<Entry>) {
    let Some(&owner) = peers.first() else { return };
    match range.len() {
        0 => {}
        length if length == 1 || peers.len() == 1 => {
            entries.push(Entry { token: range.start, owner, version: 0, free: length });
        }
        length => {
            let (lower, upper) = peers.split_at(peers.len() / 2);
            // Of an odd range the lower half takes the middle address, and does not count it
            // (ring.go: subdivide), so that the seeds of both implementations agree.
            let middle = Address(range.start.0 + length / 2);
            let upper_start = Address(range.end.0 - length / 2);
            subdivide(Range::new(range.start, middle), lower, entries);
            subdivide(Range::new(upper_start, range.end), upper, entries);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Vectors {
        ring: Cases,
    }

    #[derive(Deserialize)]
    struct Cases {
        grant: Vec<Grant>,
        subdivide: Vec<Subdivide>,
        transfer: Vec<Transfer>,
    }

    #[derive(Deserialize)]
    struct Grant {
        desc: String,
        start: u32,
        end: u32,
        to: u64,
        before: Vec<Row>,
        after: Vec<Row>,
        #[serde(default)]
        panic: bool,
    }

    #[derive(Deserialize)]
    struct Subdivide {
        peers: u64,
        size: u32,
        entries: Vec<Row>,
    }

    #[derive(Deserialize)]
    struct Transfer {
        from: u64,
        to: u64,
        before: Vec<Row>,
        after: Vec<Row>,
    }

    /// An entry as the vectors write it.
    #[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
    pub struct Row {
        token: u32,
        peer: u64,
        version: u32,
        free: u32,
    }

    pub fn peer(number: u64) -> PeerName {
        PeerName::from_u64(number)
    }

    pub fn range(start: u32, end: u32) -> Range {
        Range::new(Address(start), Address(end))
    }

    pub fn entry(token: u32, owner: u64, version: u32, free: u32) -> Entry {
        Entry { token: Address(token), owner: peer(owner), version, free }
    }

    pub fn entries(rows: &[Row]) -> Vec<Entry> {
        rows.iter().map(|row| entry(row.token, row.peer, row.version, row.free)).collect()
    }

    /// The copy that peer `holder` has of a ring over the addresses below `size`.
    pub fn ring(holder: u64, size: u32, entries: Vec<Entry>) -> Ring {
        Ring { universe: range(0, size), holder: peer(holder), entries, seeds: Vec::new() }
    }

    fn vectors() -> Cases {
        let vectors: Vectors = serde_json::from_str(include_str!("../../tests/it/data/ipam.json")).unwrap();
        vectors.ring
    }

    #[test]
    fn grants_leave_the_entries_that_weave_net_leaves() {
        for case in vectors().grant {
            let mut ring = ring(1, 256, entries(&case.before));
            let result = ring.grant(range(case.start, case.end), peer(case.to));
            assert_eq!(result.is_err(), case.panic, "{}", case.desc);
            assert_eq!(ring.entries, entries(&case.after), "{}", case.desc);
            assert_eq!(ring.check(), Ok(()));
        }
    }

    #[test]
    fn the_universe_is_subdivided_as_weave_net_does() {
        for case in vectors().subdivide {
            let ring = Ring::seeded(peer(1), range(0, case.size), (1..=case.peers).map(peer));
            assert_eq!(ring.entries, entries(&case.entries), "{} peers", case.peers);
            assert_eq!(ring.check(), Ok(()));
        }
    }

    #[test]
    fn a_transfer_moves_all_that_a_peer_owns() {
        for case in vectors().transfer {
            let mut ring = ring(1, 256, entries(&case.before));
            let moved = ring.transfer(peer(case.from), peer(case.to), &[]);
            assert_eq!(moved, [range(10, 128), range(200, 256)]);
            assert_eq!(ring.entries, entries(&case.after));
        }
    }

    #[test]
    fn the_addresses_below_the_first_token_belong_to_the_last_piece() {
        let ring = ring(1, 256, vec![entry(64, 1, 0, 64), entry(128, 2, 0, 192)]);
        assert_eq!(ring.check(), Ok(()));
        assert_eq!(ring.owner(Address(3)), Some(peer(2)));
        assert_eq!(ring.owned_by(peer(2)), [range(0, 64), range(128, 256)]);
        assert_eq!(ring.owner(Address(256)), None);
    }

    #[test]
    fn owners_cover_the_universe_and_neighbours_of_one_owner_are_one() {
        let ring = ring(1, 256, vec![entry(0, 1, 0, 0), entry(64, 1, 0, 0), entry(128, 2, 0, 0)]);
        assert_eq!(ring.owners(), [(range(0, 128), peer(1)), (range(128, 256), peer(2))]);
    }

    #[test]
    fn a_changed_free_count_is_told_once() {
        let mut ring = ring(1, 256, vec![entry(0, 1, 0, 128), entry(128, 2, 0, 128)]);
        assert!(ring.report_free(|piece| Some(piece.len() - 1)));
        assert_eq!(ring.entries, [entry(0, 1, 1, 127), entry(128, 2, 0, 128)]);
        assert!(!ring.report_free(|piece| Some(piece.len() - 1)));
    }

    #[test]
    fn a_ring_that_is_not_one_is_refused() {
        let check = |entries| Ring::from_parts(peer(1), range(0, 256), entries, vec![]).err();
        assert_eq!(check(vec![]), None);
        assert_eq!(check(vec![entry(9, 1, 0, 0), entry(3, 1, 0, 0)]), Some(RingError::NotSorted(Address(3))));
        assert_eq!(
            check(vec![entry(3, 1, 0, 0), entry(3, 1, 0, 0)]),
            Some(RingError::TokenTwice(Address(3)))
        );
        assert!(matches!(check(vec![entry(256, 1, 0, 0)]), Some(RingError::OutOfRange { .. })));
        assert!(matches!(check(vec![entry(0, 1, 0, 257)]), Some(RingError::TooMuchFree { .. })));
    }
}
