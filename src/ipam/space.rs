//! The addresses of this host: which of those it owns are in use.

use std::collections::BTreeSet;

use crate::addr::{Address, Range, join};

/// What this host owns, what of it is in use, and what must not be handed out.
#[derive(Clone, Debug, Default)]
pub struct Space {
    owned: Vec<Range>,
    used: BTreeSet<Address>,
    avoided: Vec<Range>,
}

impl Space {
    /// Sets what we own. What is lost is no longer free, and addresses used in it are given back to
    /// the caller: whoever uses them must ask their new owner.
    pub fn set_owned(&mut self, owned: Vec<Range>) -> Vec<Address> {
        self.owned = join(owned);
        let owned = &self.owned;
        let lost: Vec<Address> =
            self.used.iter().copied().filter(|&address| !covered(owned, address)).collect();
        for address in &lost {
            self.used.remove(address);
        }
        lost
    }

    /// Sets where nothing is handed out and nothing counts as free.
    pub fn set_avoided(&mut self, avoided: impl IntoIterator<Item = Range>) {
        self.avoided = join(avoided);
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
        self.chunks(range).iter().map(|chunk| chunk.len()).sum()
    }

    /// Takes the lowest free address of the range.
    pub fn allocate(&mut self, range: Range) -> Option<Address> {
        let lowest = self.chunks(range).first()?.start;
        self.used.insert(lowest);
        Some(lowest)
    }

    /// Takes this address. Returns whether it was ours and free.
    pub fn claim(&mut self, address: Address) -> bool {
        self.owns(address) && self.used.insert(address)
    }

    /// Gives this address back.
    pub fn free(&mut self, address: Address) {
        self.used.remove(&address);
    }

    /// What to give a peer that asks for space in this range: the largest aligned block that is free,
    /// or its upper half where it is more than half of all that is free (space.go: Donate).
    fn donation(&self, range: Range) -> Option<Range> {
        let chunks = self.chunks(range);
        let free: u32 = chunks.iter().map(|chunk| chunk.len()).sum();
        let biggest = chunks
            .iter()
            .filter_map(|chunk| chunk.biggest_cidr())
            .map(Range::from)
            .max_by_key(|block| block.len())?;
        if biggest.len() > free / 2 {
            let half = biggest.len() / 2;
            return Some(Range::new(Address(biggest.start.0 + half), biggest.end));
        }
        Some(biggest)
    }

    /// What to give a peer that looks for an address in this subnet, or for a single address: never just
    /// the first or the last of a subnet, which nobody can use.
    pub fn gift(&self, subnet: Range) -> Option<Range> {
        let usable = if subnet.len() < 4 {
            subnet
        } else {
            Range::new(Address(subnet.start.0 + 1), Address(subnet.end.0 - 1))
        };
        self.donation(subnet).filter(|gift| gift.overlaps(usable)).or_else(|| self.donation(usable))
    }

    /// What is free in this range, ascending. Two neighbouring chunks never touch.
    fn chunks(&self, range: Range) -> Vec<Range> {
        let mut chunks = Vec::new();
        for owned in &self.owned {
            let mut rest = owned.intersection(range);
            while !rest.is_empty() {
                let taken = self.first_taken(rest);
                chunks.push(Range::new(rest.start, taken.start));
                rest = Range::new(taken.end, rest.end);
            }
        }
        chunks.retain(|chunk| !chunk.is_empty());
        chunks
    }

    /// The first addresses of the range that cannot be handed out, or nothing at its end.
    fn first_taken(&self, range: Range) -> Range {
        let used = self.used.range(range.start..range.end).next();
        let used = used.map(|&address| Range::new(address, Address(address.0 + 1)));
        let avoided = self.avoided.iter().map(|avoided| avoided.intersection(range));
        let avoided = avoided.filter(|avoided| !avoided.is_empty()).min();
        used.into_iter().chain(avoided).min().unwrap_or(Range::new(range.end, range.end))
    }
}

fn covered(ranges: &[Range], address: Address) -> bool {
    let after = ranges.partition_point(|range| range.start <= address);
    after > 0 && ranges[after - 1].contains(address)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

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
        assert_eq!(space.gift(subnet), None);
        space.free(Address(14));
        assert_eq!(space.gift(subnet), Some(range(14, 15)));
        assert_eq!(space.gift(range(15, 16)), Some(range(15, 16)), "asked for by name");
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
                let donation = space.donation(case.request.into());
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
                let free: Vec<u32> = space
                    .chunks(range(0, u32::MAX))
                    .iter()
                    .flat_map(|chunk| [chunk.start.0, chunk.end.0])
                    .collect();
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
        assert_eq!(space.allocate(range(1, 4)), Some(Address(1)));
        assert_eq!(space.allocate(range(1, 4)), Some(Address(2)));
        space.free(Address(1));
        assert_eq!(space.allocate(range(1, 4)), Some(Address(1)));
        assert_eq!(space.allocate(range(1, 4)), Some(Address(3)));
        assert_eq!(space.allocate(range(1, 4)), None);
        assert_eq!(space.free_in(range(0, 4)), 1);
    }

    #[test]
    fn nothing_beneath_what_is_avoided_is_handed_out_or_given_away() {
        let mut space = space(range(0, 16));
        space.set_avoided([range(0, 8), range(12, 20)]);
        assert_eq!(space.free_in(range(0, 16)), 4);
        assert_eq!(space.allocate(range(0, 16)), Some(Address(8)));
        assert_eq!(space.donation(range(0, 16)), Some(range(11, 12)));
        assert_eq!(space.donation(range(0, 8)), None);
    }

    #[test]
    fn what_is_lost_is_no_longer_free_and_its_users_are_named() {
        let mut space = space(range(0, 16));
        assert!(space.claim(Address(3)) && space.claim(Address(9)));
        assert_eq!(space.set_owned(vec![range(0, 8)]), [Address(9)]);
        assert_eq!(space.free_in(range(0, 16)), 7);
        assert!(!space.claim(Address(9)));
    }
}
