//! IPv6 addresses of containers: each follows from one of IPv4, so that nobody has to agree on a second ring.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::Address;

/// The first 96 bits of every container's IPv6 address. The other 32 are its IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "Ipv6Net", try_from = "Ipv6Net")]
pub struct Prefix(Ipv6Addr);

/// The smallest MTU of IPv6 (RFC 8200, 5).
pub const MTU6_MIN: u32 = 1280;

/// Bits of a prefix, and those that an IPv4 address lacks to one of IPv6.
const LENGTH: u8 = 96;

impl Prefix {
    /// The IPv6 address that goes with one of IPv4.
    pub fn address(self, address: Address) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.0) | u128::from(address.0))
    }

    /// The IPv6 CIDR that goes with one of IPv4.
    pub fn cidr(self, cidr: Ipv4Net) -> Ipv6Net {
        Ipv6Net::new_assert(self.address(cidr.network().into()), LENGTH + cidr.prefix_len())
    }

    /// The prefix of an IPv6 address, and the IPv4 address that it goes with.
    pub fn split(address: Ipv6Addr) -> (Prefix, Address) {
        let last = u128::from(address) as u32;
        (Prefix(Ipv6Addr::from(u128::from(address) ^ u128::from(last))), Address(last))
    }

    /// The IPv4 address that this one goes with; `None` if it has another prefix.
    pub fn address_of(self, address: Ipv6Addr) -> Option<Address> {
        let rest = u128::from(address) ^ u128::from(self.0);
        u32::try_from(rest).ok().map(Address)
    }

    /// The part of the IPv4 address space that an IPv6 CIDR stands for: all of it where it covers the whole prefix, and `None`
    /// where it is apart from it.
    pub fn cidr_of(self, cidr: Ipv6Net) -> Option<Ipv4Net> {
        match cidr.prefix_len().checked_sub(LENGTH) {
            None => cidr.contains(&self.0).then(Ipv4Net::default),
            Some(length) => {
                let network = self.address_of(cidr.network())?;
                Ipv4Net::new(network.into(), length).ok()
            }
        }
    }

    /// As a CIDR.
    pub fn net(self) -> Ipv6Net {
        Ipv6Net::new_assert(self.0, LENGTH)
    }
}

/// Why something is no prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAPrefix {
    /// It is no CIDR of IPv6.
    #[error("it is not an IPv6 CIDR")]
    NotACidr,
    /// It has another length.
    #[error("its length is {0}, and it has to be 96: the other 32 bits are the IPv4 address")]
    Length(u8),
    /// Something is set behind the prefix.
    #[error("bits behind the prefix are set; the prefix itself is {0}")]
    Bits(Ipv6Net),
}

impl TryFrom<Ipv6Net> for Prefix {
    type Error = NotAPrefix;

    fn try_from(cidr: Ipv6Net) -> Result<Prefix, NotAPrefix> {
        match cidr.prefix_len() {
            LENGTH if cidr.trunc() == cidr => Ok(Prefix(cidr.network())),
            LENGTH => Err(NotAPrefix::Bits(cidr.trunc())),
            length => Err(NotAPrefix::Length(length)),
        }
    }
}

impl From<Prefix> for Ipv6Net {
    fn from(prefix: Prefix) -> Ipv6Net {
        prefix.net()
    }
}

impl FromStr for Prefix {
    type Err = NotAPrefix;

    fn from_str(text: &str) -> Result<Prefix, NotAPrefix> {
        text.parse::<Ipv6Net>().map_err(|_| NotAPrefix::NotACidr)?.try_into()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.net().fmt(f)
    }
}

/// All addresses that containers may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Universe {
    /// Those of IPv4.
    pub range: Ipv4Net,
    /// What makes addresses of IPv6 of them, where containers have both.
    pub prefix: Option<Prefix>,
    /// Prefixes that they had before. What is left of them goes.
    pub retired: BTreeSet<Prefix>,
}

impl Universe {
    /// The kinds of addresses that are in use.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        [Family::V4].into_iter().chain(self.prefix.map(Family::V6))
    }
}

/// IPv4 alone.
impl From<Ipv4Net> for Universe {
    fn from(range: Ipv4Net) -> Universe {
        Universe { range, prefix: None, retired: BTreeSet::new() }
    }
}

/// One of the two kinds of addresses that a container may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    #[default]
    V4,
    /// IPv6, with what precedes the IPv4 address.
    V6(Prefix),
}

impl Family {
    /// A container's address of this kind.
    pub fn address(self, address: Address) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::from(address).into(),
            Family::V6(prefix) => prefix.address(address).into(),
        }
    }

    /// The CIDR of this kind that goes with one of IPv4.
    pub fn cidr(self, cidr: Ipv4Net) -> IpNet {
        match self {
            Family::V4 => cidr.into(),
            Family::V6(prefix) => prefix.cidr(cidr).into(),
        }
    }

    /// The IPv4 CIDR that one of this kind goes with; `None` for one of another kind, or apart from the prefix.
    pub fn cidr_of(self, cidr: IpNet) -> Option<Ipv4Net> {
        match (self, cidr) {
            (Family::V4, IpNet::V4(cidr)) => Some(cidr),
            (Family::V6(prefix), IpNet::V6(cidr)) => prefix.cidr_of(cidr),
            (Family::V4, IpNet::V6(_)) | (Family::V6(_), IpNet::V4(_)) => None,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6(_) => "IPv6",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PREFIX: &str = "fd12:3456:789a:1::/96";

    fn prefix() -> Prefix {
        PREFIX.parse().unwrap()
    }

    proptest! {
        #[test]
        fn an_ipv6_address_goes_with_one_ipv4_address_and_back(high: u128, address: u32) {
            let prefix = Prefix(Ipv6Addr::from(high << 32));
            let address = Address(address);
            prop_assert_eq!(prefix.address_of(prefix.address(address)), Some(address));
            prop_assert!(prefix.net().contains(&prefix.address(address)));
        }

        #[test]
        fn a_cidr_holds_the_same_addresses_in_both_kinds(network: u32, length in 0..=32u8, address: u32) {
            let cidr = Ipv4Net::new_assert(network.into(), length).trunc();
            let both = prefix().cidr(cidr);
            prop_assert_eq!(prefix().cidr_of(both), Some(cidr));
            let held = both.contains(&prefix().address(Address(address)));
            prop_assert_eq!(held, cidr.contains(&Ipv4Addr::from(address)));
        }

        #[test]
        fn what_is_apart_from_the_prefix_goes_with_nothing(high: u128, length in 0..=128u8) {
            let cidr = Ipv6Net::new_assert(high.into(), length).trunc();
            let apart = !cidr.contains(&prefix().net()) && !prefix().net().contains(&cidr);
            prop_assert_eq!(prefix().cidr_of(cidr).is_none(), apart);
        }

        #[test]
        fn a_prefix_is_read_as_it_is_written(high: u128) {
            let prefix = Prefix(Ipv6Addr::from(high << 32));
            prop_assert_eq!(prefix.to_string().parse::<Prefix>(), Ok(prefix));
        }
    }

    #[test]
    fn the_last_four_bytes_are_the_ipv4_address() {
        let address = prefix().address("10.32.0.5".parse().unwrap());
        assert_eq!(address, "fd12:3456:789a:1::a20:5".parse::<Ipv6Addr>().unwrap());
        let cidr = prefix().cidr("10.40.0.0/13".parse().unwrap());
        assert_eq!(cidr.to_string(), "fd12:3456:789a:1::a28:0/109");
    }

    #[test]
    fn what_covers_the_prefix_covers_every_address() {
        for covering in ["::/0", "fd00::/8", PREFIX] {
            assert_eq!(prefix().cidr_of(covering.parse().unwrap()), Some(Ipv4Net::default()), "{covering}");
        }
    }

    #[test]
    fn a_prefix_has_96_bits_and_nothing_behind_them() {
        assert_eq!("fd00::/64".parse::<Prefix>(), Err(NotAPrefix::Length(64)));
        assert_eq!("fd00::1/96".parse::<Prefix>(), Err(NotAPrefix::Bits("fd00::/96".parse().unwrap())));
        assert_eq!("10.0.0.0/8".parse::<Prefix>(), Err(NotAPrefix::NotACidr));
    }
}
