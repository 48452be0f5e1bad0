//! A host to dial as it is written, and the hosts that its name stands for.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

/// Hosts that one name stands for at most. Those beyond are heard of through these.
pub const HOSTS_OF_NAME_MAX: usize = 512;

/// A target, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint<'a> {
    /// A name or an address.
    pub host: &'a str,
    /// Its port, where one is written.
    pub port: Option<u16>,
}

impl<'a> Endpoint<'a> {
    /// Takes a target apart. Fails with the reason where it is neither a host nor a host and a port.
    pub fn parse(target: &'a str) -> Result<Endpoint<'a>, String> {
        let malformed = || format!("{target:?} is not a host, host:port or [IPv6 address]:port");
        let (host, port) = if let Some(rest) = target.strip_prefix('[') {
            let (host, port) = rest.split_once(']').ok_or_else(malformed)?;
            host.parse::<Ipv6Addr>().map_err(|_| malformed())?;
            (host, port)
        } else if target.parse::<Ipv6Addr>().is_ok() {
            (target, "")
        } else {
            target.split_at(target.find(':').unwrap_or(target.len()))
        };
        if host.is_empty() {
            return Err(malformed());
        }
        match port.strip_prefix(':') {
            None if port.is_empty() => Ok(Endpoint { host, port: None }),
            None => Err(malformed()),
            Some(digits) => match digits.parse() {
                Ok(port) if port > 0 => Ok(Endpoint { host, port: Some(port) }),
                Ok(_) | Err(_) => Err(malformed()),
            },
        }
    }

    /// Whether its host has to be resolved.
    pub fn is_name(&self) -> bool {
        self.host.parse::<IpAddr>().is_err()
    }

    /// The target that is written as this address, with the same port.
    pub fn at(&self, address: IpAddr) -> String {
        match (address, self.port) {
            (address, None) => address.to_string(),
            (IpAddr::V4(address), Some(port)) => format!("{address}:{port}"),
            (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
        }
    }
}

/// The hosts that a name stands for, by the addresses that it has at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    /// Addresses of others.
    pub others: BTreeSet<IpAddr>,
    /// Whether this host is one of them.
    pub own: bool,
}

impl Hosts {
    /// One for each address. Where there are addresses of IPv4, which container packets travel by, those of IPv6 are the same
    /// hosts' and not counted.
    pub fn new(found: impl IntoIterator<Item = IpAddr>, own: &BTreeSet<IpAddr>) -> Hosts {
        let found: BTreeSet<IpAddr> = found.into_iter().map(|address| address.to_canonical()).collect();
        let is_v4 = found.iter().any(IpAddr::is_ipv4);
        let counted = found.into_iter().filter(|address| address.is_ipv4() == is_v4);
        let (mine, others): (Vec<IpAddr>, Vec<IpAddr>) =
            counted.partition(|address| address.is_loopback() || own.contains(address));
        Hosts { others: others.into_iter().take(HOSTS_OF_NAME_MAX).collect(), own: !mine.is_empty() }
    }

    /// How many they are.
    pub fn count(&self) -> usize {
        self.others.len() + usize::from(self.own)
    }

    /// Whether it is not the name of a single host.
    pub fn are_several(&self) -> bool {
        self.count() > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_host_with_or_without_a_port() {
        for (target, host, port) in [
            ("10.0.1.11", "10.0.1.11", None),
            ("10.0.1.11:7000", "10.0.1.11", Some(7000)),
            ("ip-10-0-1-12.ec2.internal", "ip-10-0-1-12.ec2.internal", None),
            ("ip-10-0-1-12.ec2.internal:1", "ip-10-0-1-12.ec2.internal", Some(1)),
            ("fd00::1", "fd00::1", None),
            ("[fd00::1]", "fd00::1", None),
            ("[fd00::1]:7000", "fd00::1", Some(7000)),
        ] {
            assert_eq!(Endpoint::parse(target), Ok(Endpoint { host, port }), "{target}");
        }
    }

    #[test]
    fn a_malformed_target_is_named() {
        for target in [
            "",
            ":6783",
            "host:",
            "host:0",
            "host:65536",
            "host:x",
            "[fd00::1",
            "[fd00::1]x",
            "[host]:1",
            "a:b:c",
        ] {
            let reason = Endpoint::parse(target).unwrap_err();
            assert!(reason.contains(&format!("{target:?}")), "{reason}");
        }
    }

    fn hosts(found: &[&str], own: &[&str]) -> Hosts {
        let addresses =
            |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<BTreeSet<IpAddr>>();
        Hosts::new(addresses(found), &addresses(own))
    }

    #[test]
    fn the_addresses_of_one_host_are_one_host() {
        let own = hosts(&["127.0.1.1", "10.0.1.11"], &["10.0.1.11"]);
        assert!(own.own && !own.are_several(), "as /etc/hosts of Debian has it");
        assert!(!hosts(&["10.0.1.12", "fd00::12"], &[]).are_several(), "one of each family");
        assert!(!hosts(&["::ffff:10.0.1.12", "10.0.1.12"], &[]).are_several());
        assert!(hosts(&["10.0.1.11", "10.0.1.12"], &["10.0.1.11"]).are_several());
    }

    #[test]
    fn a_name_stands_for_a_bounded_number_of_hosts() {
        let all = (0..5000_u32).map(|number| IpAddr::V4((0x0a00_0000 + number).into()));
        assert_eq!(Hosts::new(all, &BTreeSet::new()).count(), HOSTS_OF_NAME_MAX);
    }
}
