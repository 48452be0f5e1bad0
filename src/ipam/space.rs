//! The addresses of this host: which of those it owns are in use.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::recent::Recent;
use crate::{
    addr::{Address, Range, join},
    time::Timestamp,
};

/// How long what has become ours is new. No call to EC2 lasts longer.
const SETTLES: Duration = Duration::from_secs(15);

/// What this host owns, what of it is in use, and what must not be handed out.
#[derive(Clone, Debug, Default)]
pub struct Space {
    owned: Vec<Range>,
    used: BTreeSet<Address>,
    avoided: Vec<Range>,
    /// What was freed lately, and can be handed out if there is nothing else.
    recent: Recent,
    /// What has become ours lately, and when.
    grown: Vec<(Timestamp, Range)>,
    /// What can be handed out: ends of chunks by their starts. It follows from the rest and is kept, so that an address
    /// costs the same however many are in use. Two neighbouring chunks never touch.
    free: BTreeMap<Address, Address>,
}

impl Space {
    /// Sets what we own. What is lost is no longer free, and addresses used in it are given back to
    /// the caller: whoever uses them must ask their new owner.
    pub fn set_owned(&mut self, owned: Vec<Range>) -> Vec<Address> {
        let owned = join(owned);
        if owned == self.owned {
            return Vec::new();
        }
        let lost: Vec<Address> =
            self.used.iter().copied().filter(|&address| !covered(&owned, address)).collect();
        for address in &lost {
            self.used.remove(address);
        }
        self.owned = owned;
        self.recarve();
        lost
    }

    /// Sets where nothing is handed out and nothing counts as free.
    pub fn set_avoided(&mut self, avoided: impl IntoIterator<Item = Range>) {
        let avoided = join(avoided);
        if avoided != self.avoided {
            self.avoided = avoided;
            self.recarve();
        }
    }

    fn recarve(&mut self) {
        let (owned, avoided) = (&self.owned, &self.avoided);
        self.recent.retain(|address| covered(owned, address) && !covered(avoided, address));
        self.free = self.carve();
    }

    /// What we own, ascending, neighbours joined.
    pub fn owned(&self) -> &[Range] {
        &self.owned
    }

    /// These have become ours.
    pub fn note_growth(&mut self, now: Timestamp, ranges: Vec<Range>) {
        self.grown.retain(|(since, _)| now.since(*since) < SETTLES);
        self.grown.extend(ranges.into_iter().map(|range| (now, range)));
    }

    /// Whether some of this range has become ours so lately that a call that leads its route here may be under way: it would come
    /// after one of its next owner.
    pub fn is_new(&self, now: Timestamp, range: Range) -> bool {
        self.grown.iter().any(|(since, new)| now.since(*since) < SETTLES && new.overlaps(range))
    }

    /// Whether we own this address.
    pub fn owns(&self, address: Address) -> bool {
        covered(&self.owned, address)
    }

    /// Whether this address must not be handed out.
    pub fn avoids(&self, address: Address) -> bool {
        covered(&self.avoided, address)
    }

    /// Whether an address of ours in this range is in use.
    pub fn uses(&self, range: Range) -> bool {
        self.used.range(range.start..range.end).next().is_some()
    }

    /// The addresses in use, ascending.
    pub fn used(&self) -> &BTreeSet<Address> {
        &self.used
    }

    /// Addresses in this range that we own.
    pub fn owned_in(&self, range: Range) -> u32 {
        self.owned.iter().map(|owned| owned.intersection(range).len()).sum()
    }

    /// Addresses in this range that could be handed out.
    pub fn free_in(&self, range: Range) -> u32 {
        self.chunks(range).map(Range::len).sum::<u32>() + self.recent.count(range)
    }

    /// Whether so many addresses in this range could be handed out; at no more cost than it takes to find them.
    pub fn has_free(&self, range: Range, least: u32) -> bool {
        let mut found = self.recent.count(range);
        found >= least
            || self.chunks(range).any(|chunk| {
                found += chunk.len();
                found >= least
            })
    }

    /// Whether nobody uses an address of this range, which is all ours, and none was freed lately.
    pub fn is_untouched(&self, range: Range) -> bool {
        self.chunks(range).next() == Some(range)
    }

    /// The address in this range to hand out next, of those that were not freed lately: the lowest of the block that comes first.
    pub fn next_in(&self, range: Range) -> Option<Address> {
        self.in_turn(range).into_iter().find_map(|part| self.chunks(part).next()).map(|chunk| chunk.start)
    }

    /// What of this range lies in each block of ours. A block of which something is in use comes before one that may be given away,
    /// a large one before a small one.
    fn in_turn(&self, range: Range) -> Vec<Range> {
        let near = self.owned.iter().filter(|owned| owned.overlaps(range));
        let mut blocks: Vec<Range> = near.flat_map(|owned| owned.cidrs()).map(Range::from).collect();
        if blocks.len() > 1 {
            blocks.sort_by_cached_key(|block| (self.is_untouched(*block), Reverse(block.len()), block.start));
        }
        blocks.into_iter().map(|block| block.intersection(range)).filter(|part| !part.is_empty()).collect()
    }

    /// The next block of so many addresses, a power of two, at a multiple of its size, of which all are free and none was freed lately.
    pub fn free_block(&self, range: Range, len: u32) -> Option<Range> {
        let first_in = |chunk: Range| {
            let start = chunk.start.0.checked_next_multiple_of(len)?;
            let block = Range::new(Address(start), Address(start.checked_add(len)?));
            (block.end <= chunk.end).then_some(block)
        };
        self.in_turn(range).into_iter().find_map(|part| self.chunks(part).find_map(first_in))
    }

    /// Takes the next free address of the range; if all of them were freed lately, the one that was first.
    pub fn allocate(&mut self, now: Timestamp, range: Range) -> Option<Address> {
        self.thaw(now);
        let address = self.next_in(range).or_else(|| self.recent.oldest(range))?;
        self.take(address);
        Some(address)
    }

    /// Takes this address. Returns whether it was ours and free.
    pub fn claim(&mut self, address: Address) -> bool {
        self.owns(address) && self.take(address)
    }

    /// Gives this address back, to be handed out as late as possible for a while.
    pub fn free(&mut self, now: Timestamp, address: Address) {
        if self.used.remove(&address) && !self.avoids(address) {
            self.recent.add(now, address);
        }
        self.thaw(now);
    }

    /// What was freed long enough ago is like any other.
    pub fn thaw(&mut self, now: Timestamp) {
        while let Some(address) = self.recent.next_over(now) {
            self.put_back(address);
        }
    }

    fn put_back(&mut self, address: Address) {
        let (before, after) = (self.free.range(..address).next_back(), self.free.get(&next(address)));
        let start = before.filter(|&(_, &end)| end == address).map_or(address, |(&start, _)| start);
        let end = after.copied().unwrap_or(next(address));
        self.free.remove(&next(address));
        self.free.insert(start, end);
    }

    /// What to give a peer that asks for space in this range: the largest aligned block that is free and not to be `kept`,
    /// or its upper half where it is more than half of all that is free (space.go: Donate).
    fn donation(&self, range: Range, kept: &[Range]) -> Option<Range> {
        let mut chunks: Vec<Range> = self.chunks(range).collect();
        for piece in kept {
            let parts = chunks.into_iter().flat_map(|chunk| chunk.without(*piece));
            chunks = parts.filter(|part| !part.is_empty()).collect();
        }
        let free = chunks.iter().map(|chunk| chunk.len()).sum::<u32>() + self.recent.count(range);
        let biggest = chunks
            .into_iter()
            .filter_map(Range::biggest_cidr)
            .map(Range::from)
            .max_by_key(|block| block.len())?;
        if biggest.len() > free / 2 {
            let half = biggest.len() / 2;
            return Some(Range::new(Address(biggest.start.0 + half), biggest.end));
        }
        Some(biggest)
    }

    /// What to give a peer that looks for an address in this subnet, or for a single address: never just
    /// the first or the last of a subnet, which nobody can use, and nothing of what is to be `kept`.
    pub fn gift(&mut self, subnet: Range, kept: &[Range]) -> Option<Range> {
        self.settled_gift(subnet, kept).or_else(|| {
            // Better one that was freed lately than none.
            while let Some(address) = self.recent.oldest(subnet) {
                self.recent.take(address);
                self.put_back(address);
            }
            self.settled_gift(subnet, kept)
        })
    }

    fn settled_gift(&self, subnet: Range, kept: &[Range]) -> Option<Range> {
        let usable = if subnet.len() < 4 {
            subnet
        } else {
            Range::new(Address(subnet.start.0 + 1), Address(subnet.end.0 - 1))
        };
        let whole = self.donation(subnet, kept).filter(|gift| gift.overlaps(usable));
        whole.or_else(|| self.donation(usable, kept))
    }

    /// What is free in this range, ascending.
    fn chunks(&self, range: Range) -> impl Iterator<Item = Range> {
        let before = self.free.range(..range.start).next_back();
        let chunks = before.into_iter().chain(self.free.range(range.start..range.end));
        let chunks = chunks.map(move |(&start, &end)| Range::new(start, end).intersection(range));
        chunks.filter(|chunk| !chunk.is_empty())
    }

    /// Takes an address of ours. Returns whether nobody had it.
    fn take(&mut self, address: Address) -> bool {
        if !self.used.insert(address) {
            return false;
        }
        if self.recent.take(address) {
            return true;
        }
        let chunk = self.free.range(..=address).next_back().map(|(&start, &end)| Range::new(start, end));
        if let Some(chunk) = chunk.filter(|chunk| chunk.contains(address)) {
            self.free.remove(&chunk.start);
            let parts = [Range::new(chunk.start, address), Range::new(next(address), chunk.end)];
            let parts = parts.into_iter().filter(|part| !part.is_empty());
            self.free.extend(parts.map(|part| (part.start, part.end)));
        }
        true
    }

    /// What is free, from what is owned, used, freed lately and avoided.
    fn carve(&self) -> BTreeMap<Address, Address> {
        let mut free = BTreeMap::new();
        for &owned in &self.owned {
            let mut rest = owned;
            while !rest.is_empty() {
                let taken = self.first_taken(rest);
                free.insert(rest.start, taken.start);
                rest = Range::new(taken.end, rest.end);
            }
        }
        free.retain(|start, end| start < end);
        free
    }

    /// The first addresses of the range that cannot be handed out, or nothing at its end.
    fn first_taken(&self, range: Range) -> Range {
        let used = self.used.range(range.start..range.end).next().copied();
        let used = used.into_iter().chain(self.recent.first(range)).min();
        let used = used.map(|address| Range::new(address, next(address)));
        let avoided = self.avoided.iter().map(|avoided| avoided.intersection(range));
        let avoided = avoided.filter(|avoided| !avoided.is_empty()).min();
        used.into_iter().chain(avoided).min().unwrap_or(Range::new(range.end, range.end))
    }
}

fn next(address: Address) -> Address {
    Address(address.0 + 1)
}

fn covered(ranges: &[Range], address: Address) -> bool {
    let after = ranges.partition_point(|range| range.start <= address);
    after > 0 && ranges[after - 1].contains(address)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    const NOW: Timestamp = Timestamp::ZERO;

    #[derive(Deserialize)]
    struct Vectors {
        space_donate: Vec<Donate>,
        address: Addresses,
    }

    #[derive(Deserialize)]
    struct Donate {
        desc: String,
        owned: Bounds,
        in_use: Option<Vec<u32>>,
        request: Bounds,
        donations: Vec<Donation>,
    }

    #[derive(Deserialize)]
    struct Donation {
        ok: bool,
        start: u32,
        end: u32,
        free_after: Vec<u32>,
    }

    #[derive(Deserialize)]
    struct Addresses {
        biggest_cidr_range: Vec<Biggest>,
        range_to_cidrs: Vec<Cidrs>,
    }

    #[derive(Deserialize)]
    struct Biggest {
        #[serde(rename = "in")]
        of: Bounds,
        out: Bounds,
    }

    #[derive(Deserialize)]
    struct Cidrs {
        start: Address,
        end_exclusive: Address,
        cidrs: Vec<ipnet::Ipv4Net>,
    }

    #[derive(Clone, Copy, Deserialize)]
    struct Bounds {
        start: u32,
        end: u32,
    }

    impl From<Bounds> for Range {
        fn from(bounds: Bounds) -> Range {
            range(bounds.start, bounds.end)
        }
    }

    fn range(start: u32, end: u32) -> Range {
        Range::new(Address(start), Address(end))
    }

    fn space(owned: Range) -> Space {
        let mut space = Space::default();
        space.set_owned(vec![owned]);
        space
    }

    fn vectors() -> Vectors {
        serde_json::from_str(include_str!("../../tests/it/data/ipam.json")).unwrap()
    }

    #[test]
    fn the_edges_of_a_subnet_alone_are_no_gift() {
        let subnet = range(0, 16);
        let mut space = space(subnet);
        (1..15).for_each(|address| assert!(space.claim(Address(address))));
        assert_eq!(space.gift(subnet, &[]), None);
        space.free(NOW, Address(14));
        assert_eq!(space.gift(subnet, &[]), Some(range(14, 15)));
        assert_eq!(space.gift(range(15, 16), &[]), Some(range(15, 16)), "asked for by name");
    }

    #[test]
    fn donations_are_those_of_weave_net() {
        for case in vectors().space_donate {
            let mut space = space(case.owned.into());
            for address in case.in_use.unwrap_or_default() {
                assert!(space.claim(Address(address)));
            }
            let mut owned = vec![Range::from(case.owned)];
            for step in case.donations {
                let donation = space.donation(case.request.into(), &[]);
                let expected = step.ok.then(|| range(step.start, step.end));
                assert_eq!(donation, expected, "{}", case.desc);
                let Some(given) = donation else { continue };
                owned = owned
                    .iter()
                    .flat_map(|&r| {
                        [
                            Range::new(r.start, r.end.min(given.start)),
                            Range::new(r.start.max(given.end), r.end),
                        ]
                    })
                    .collect();
                assert!(space.set_owned(owned.clone()).is_empty());
                let free: Vec<u32> =
                    space.chunks(range(0, u32::MAX)).flat_map(|chunk| [chunk.start.0, chunk.end.0]).collect();
                assert_eq!(free, step.free_after, "{}", case.desc);
            }
        }
    }

    #[test]
    fn ranges_are_cut_as_weave_net_cuts_them() {
        let vectors = vectors().address;
        for case in vectors.biggest_cidr_range {
            assert_eq!(Range::from(case.of).biggest_cidr().map(Range::from), Some(case.out.into()));
        }
        // Our ranges have no room for the last address of all.
        for case in vectors.range_to_cidrs.into_iter().filter(|case| case.end_exclusive.0 != 0) {
            assert_eq!(Range::new(case.start, case.end_exclusive).cidrs(), case.cidrs);
        }
    }

    #[test]
    fn the_lowest_free_address_is_handed_out_first_and_again_when_it_comes_back() {
        let mut space = space(range(0, 4));
        assert_eq!(space.allocate(NOW, range(1, 4)), Some(Address(1)));
        assert_eq!(space.allocate(NOW, range(1, 4)), Some(Address(2)));
        space.free(NOW, Address(1));
        let later = NOW + Duration::from_secs(60);
        assert_eq!(space.allocate(later, range(1, 4)), Some(Address(1)));
        assert_eq!(space.allocate(later, range(1, 4)), Some(Address(3)));
        assert_eq!(space.allocate(later, range(1, 4)), None);
        assert_eq!(space.free_in(range(0, 4)), 1);
    }

    #[test]
    fn of_several_blocks_the_largest_in_use_is_filled_first_and_what_may_move_stays_free() {
        let mut space = Space::default();
        space.set_owned(vec![range(0, 4), range(16, 32), range(64, 128)]);
        assert!(space.claim(Address(2)) && space.claim(Address(20)));
        let handed_out: Vec<Address> = (0..19).map_while(|_| space.allocate(NOW, range(0, 128))).collect();
        let expected = (16..20).chain(21..32).chain([0, 1, 3, 64]).map(Address);
        assert_eq!(handed_out, expected.collect::<Vec<_>>());
        assert!(!space.is_untouched(range(64, 128)) && space.is_untouched(range(65, 128)));
    }

    #[test]
    fn a_block_is_whole_and_at_a_multiple_of_its_size() {
        let mut space = space(range(3, 64));
        assert_eq!(space.free_block(range(0, 64), 16), Some(range(32, 48)), "of the largest block");
        assert!(space.claim(Address(20)));
        assert_eq!(space.free_block(range(0, 64), 16), Some(range(32, 48)));
        assert_eq!(space.free_block(range(0, 40), 16), None, "not all of it is in there");
        assert_eq!(space.free_block(range(0, 64), 4), Some(range(16, 20)), "of one that is in use");
        assert_eq!(space.free_block(range(0, 64), 64), None);
        space.free(NOW, Address(20));
        assert_eq!(space.free_block(range(16, 32), 16), None, "one was freed lately");
    }

    #[test]
    fn the_packets_of_a_container_that_was_deleted_do_not_reach_the_next_one() {
        let mut space = space(range(0, 5));
        let hosts = range(1, 5);
        assert_eq!(space.allocate(NOW, hosts), Some(Address(1)));
        assert_eq!(space.allocate(NOW, hosts), Some(Address(2)));
        space.free(NOW, Address(2));
        space.free(NOW, Address(1));
        assert_eq!(space.free_in(hosts), 4, "it counts as free all the same");
        assert_eq!(space.allocate(NOW, hosts), Some(Address(3)));
        assert_eq!(space.allocate(NOW, hosts), Some(Address(4)));
        assert_eq!(
            space.allocate(NOW, hosts),
            Some(Address(2)),
            "where there are no others, what was freed first"
        );
        assert!(space.claim(Address(1)), "and by its name it is there at once");
        assert_eq!(space.allocate(NOW, hosts), None);
    }

    #[test]
    fn of_many_that_were_freed_lately_only_so_many_are_kept_back() {
        let mut space = space(range(0, 20_000));
        (0..10_000).for_each(|address| assert!(space.claim(Address(address))));
        (0..10_000).for_each(|address| space.free(NOW, Address(address)));
        assert_eq!(space.free_in(range(0, 20_000)), 20_000);
        assert_eq!(space.allocate(NOW, range(0, 20_000)), Some(Address(0)));
        assert_eq!(space.allocate(NOW, range(9_000, 20_000)), Some(Address(10_000)));
    }

    #[test]
    fn nothing_beneath_what_is_avoided_is_handed_out_or_given_away() {
        let mut space = space(range(0, 16));
        space.set_avoided([range(0, 8), range(12, 20)]);
        assert_eq!(space.free_in(range(0, 16)), 4);
        assert_eq!(space.allocate(NOW, range(0, 16)), Some(Address(8)));
        assert_eq!(space.donation(range(0, 16), &[]), Some(range(11, 12)));
        assert_eq!(space.donation(range(0, 8), &[]), None);
    }

    #[test]
    fn what_is_lost_is_no_longer_free_and_its_users_are_named() {
        let mut space = space(range(0, 16));
        assert!(space.claim(Address(3)) && space.claim(Address(9)));
        assert_eq!(space.set_owned(vec![range(0, 8)]), [Address(9)]);
        assert_eq!(space.free_in(range(0, 16)), 7);
        assert!(!space.claim(Address(9)));
    }

    /// What can happen to a space of 64 addresses.
    #[derive(Clone, Debug)]
    enum Event {
        Owned(Vec<(u32, u32)>),
        Avoided(Vec<(u32, u32)>),
        Allocated(u32, u32),
        Claimed(u32),
        Freed(u32),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let ranges = || prop::collection::vec((0..64u32, 0..64u32), 0..4);
        let event = prop_oneof![
            1 => ranges().prop_map(Event::Owned),
            1 => ranges().prop_map(Event::Avoided),
            4 => (0..64u32, 0..64u32).prop_map(|(start, end)| Event::Allocated(start, end)),
            4 => (0..64u32).prop_map(Event::Claimed),
            6 => (0..64u32).prop_map(Event::Freed),
        ];
        prop::collection::vec(event, 1..80)
    }

    proptest! {
        #[test]
        fn what_is_free_follows_from_what_is_owned_used_and_avoided(events in events()) {
            let mut space = space(range(0, 64));
            for event in events {
                let ranges = |bounds: Vec<(u32, u32)>| bounds.into_iter().map(|(start, end)| range(start, end));
                match event {
                    Event::Owned(bounds) => drop(space.set_owned(ranges(bounds).collect())),
                    Event::Avoided(bounds) => space.set_avoided(ranges(bounds)),
                    Event::Allocated(start, end) => {
                        let free = |&address: &u32| {
                            let address = Address(address);
                            space.owns(address) && !space.avoids(address) && !space.used.contains(&address)
                        };
                        let there: Vec<u32> = (start..end).filter(free).collect();
                        let kept_back = |&&address: &&u32| space.recent.count(range(address, address + 1)) > 0;
                        let kept_back_before: Vec<u32> = there.iter().filter(kept_back).copied().collect();
                        let lowest = there.iter().find(|address| !kept_back(address)).copied().map(Address);
                        let blocks: usize = space.owned.iter().map(|owned| owned.cidrs().len()).sum();
                        let allocated = space.allocate(NOW, range(start, end));
                        prop_assert!(lowest.is_none() || blocks > 1 || allocated == lowest);
                        let is_fit = |address: Address| {
                            there.contains(&address.0) && !kept_back_before.contains(&address.0)
                        };
                        prop_assert!(lowest.is_none() || allocated.is_some_and(is_fit));
                        prop_assert_eq!(allocated.is_none(), there.is_empty());
                    }
                    Event::Claimed(address) => drop(space.claim(Address(address))),
                    Event::Freed(address) => space.free(NOW, Address(address)),
                }
                prop_assert_eq!(&space.free, &space.carve());
            }
        }
    }
}
