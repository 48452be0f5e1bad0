//! Addresses, half-open ranges of them, and how a range is cut into CIDRs.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

pub use self::prefix::{Family, MTU6_MIN, NotAPrefix, Prefix, Universe};

mod prefix;

/// An IPv4 address that can be counted with.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "Ipv4Addr", from = "Ipv4Addr")]
pub struct Address(pub u32);

/// The addresses from `start` up to, not including, `end`.
///
/// The last address of all cannot be in a range; `config` refuses a universe that would need it.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Range {
    /// First address.
    pub start: Address,
    /// First address after it.
    pub end: Address,
}

impl Range {
    /// The range from `start` up to `end`; empty if they are not in order.
    pub fn new(start: Address, end: Address) -> Range {
        Range { start, end: end.max(start) }
    }

    /// Number of addresses.
    pub fn len(self) -> u32 {
        self.end.0 - self.start.0
    }

    /// Whether there is no address in it.
    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// Whether `address` is in it.
    pub fn contains(self, address: Address) -> bool {
        self.start <= address && address < self.end
    }

    /// Whether all of `other` is in it.
    pub fn covers(self, other: Range) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// Whether some address is in both.
    pub fn overlaps(self, other: Range) -> bool {
        !self.intersection(other).is_empty()
    }

    /// The addresses that are in both.
    pub fn intersection(self, other: Range) -> Range {
        Range::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// What is left of it without another: one part before, one behind, either of them maybe empty.
    pub fn without(self, other: Range) -> [Range; 2] {
        let taken = self.intersection(other);
        if taken.is_empty() {
            return [self, Range::new(self.end, self.end)];
        }
        [Range::new(self.start, taken.start), Range::new(taken.end, self.end)]
    }

    /// The fewest CIDRs that together are this range, ascending.
    pub fn cidrs(self) -> Vec<Ipv4Net> {
        let mut cidrs = Vec::new();
        let mut rest = self;
        while !rest.is_empty() {
            let block = rest.first_block();
            cidrs.push(block);
            rest.start = Range::from(block).end;
        }
        cidrs
    }

    /// The largest CIDR in it; of equal ones the first.
    pub fn biggest_cidr(self) -> Option<Ipv4Net> {
        self.cidrs().into_iter().min_by_key(Ipv4Net::prefix_len)
    }

    /// The largest CIDR that begins where the range begins and does not leave it.
    fn first_block(self) -> Ipv4Net {
        let aligned = self.start.0.trailing_zeros();
        let fits = 31 - self.len().leading_zeros();
        let bits = aligned.min(fits) as u8;
        Ipv4Net::new_assert(self.start.into(), 32 - bits)
    }
}

/// What is left of ranges without all of the others.
pub fn without_all(ranges: &[Range], others: &[Range]) -> Vec<Range> {
    let less = |left: Vec<Range>, other: &Range| -> Vec<Range> {
        left.into_iter().flat_map(|range| range.without(*other)).filter(|rest| !rest.is_empty()).collect()
    };
    others.iter().fold(ranges.to_vec(), less)
}

/// Joins ranges that overlap or touch. The result is ascending.
pub fn join(ranges: impl IntoIterator<Item = Range>) -> Vec<Range> {
    let mut sorted: Vec<Range> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
    sorted.sort();
    let mut joined: Vec<Range> = Vec::new();
    for range in sorted {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

impl From<Ipv4Net> for Range {
    fn from(cidr: Ipv4Net) -> Range {
        let end = u32::from(cidr.broadcast()).saturating_add(1);
        Range::new(cidr.network().into(), Address(end))
    }
}

impl From<Ipv4Addr> for Address {
    fn from(address: Ipv4Addr) -> Address {
        Address(address.into())
    }
}

impl From<Address> for Ipv4Addr {
    fn from(address: Address) -> Ipv4Addr {
        Ipv4Addr::from(address.0)
    }
}

impl FromStr for Address {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Address, Self::Err> {
        text.parse::<Ipv4Addr>().map(Address::from)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv4Addr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A range that is one CIDR is written as it, any other as `start-last`.
impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cidrs().as_slice() {
            [] => write!(f, "nothing at {}", self.start),
            [cidr] => cidr.fmt(f),
            _ => write!(f, "{}-{}", self.start, Address(self.end.0 - 1)),
        }
    }
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u32, end: u32) -> Range {
        Range::new(Address(start), Address(end))
    }

    #[test]
    fn a_cidr_and_its_range_are_the_same_addresses() {
        let cidr: Ipv4Net = "10.32.0.0/12".parse().unwrap();
        assert_eq!(Range::from(cidr).cidrs(), [cidr]);
        assert_eq!(Range::from(cidr).len(), 1 << 20);
    }

    #[test]
    fn a_crooked_range_is_cut_into_the_fewest_cidrs() {
        let cidrs: Vec<String> = range(1, 9).cidrs().iter().map(ToString::to_string).collect();
        assert_eq!(cidrs, ["0.0.0.1/32", "0.0.0.2/31", "0.0.0.4/30", "0.0.0.8/32"]);
    }

    #[test]
    fn neighbours_are_joined_and_strangers_are_not() {
        assert_eq!(
            join([range(8, 9), range(0, 4), range(4, 8), range(20, 30)]),
            [range(0, 9), range(20, 30)]
        );
    }

    #[test]
    fn an_empty_range_has_no_cidr_and_overlaps_nothing() {
        assert!(range(5, 5).cidrs().is_empty());
        assert!(!range(5, 5).overlaps(range(0, 10)));
    }
}
