//! The path from one host to another, by where both are. Both find the same, where both have proof of the other's address.

use std::{
    cmp,
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4},
};

use ipnet::Ipv4Net;

use super::{Place, Underlay};
use crate::state::{TUNNEL_OVERHEAD, TunnelKey};

/// The longest packet that gets to another network without being cut, as far as anybody can know.
const FAR_MTU: u32 = 1500;

/// How packets get from this host to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    /// By the route tables of the VPC in which both are.
    Vpc,
    /// The other is on a link of this host.
    Direct {
        /// Our address on that link.
        from: Ipv4Net,
        /// The other's.
        to: Ipv4Addr,
        /// The same of IPv6, where both have one there, unless the VPC of both carries what is of IPv6.
        to6: Option<Ipv6Addr>,
    },
    /// The two have no network in common, and each an end of a tunnel.
    Tunnel {
        /// The other's key.
        key: TunnelKey,
        /// Where to send what is for it; `None`: it has to come to us.
        endpoint: Option<SocketAddrV4>,
        /// The longest packet that gets there whole.
        mtu: u32,
    },
    /// There is none: the two are in networks that have nothing in common.
    Apart {
        /// Where this host is.
        ours: Place,
        /// Where the other is.
        theirs: Place,
    },
    /// There is none: one of the two sends and takes nothing unless it is encrypted, and one has no key.
    Bare {
        /// Which has none: this host, or the other.
        here: bool,
    },
    /// It cannot be told yet. What there is stays as it is.
    Unknown(Why),
}

/// Why the path is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// This host does not know yet where it is itself.
    Here,
    /// The other has not said where it is.
    Unsaid,
    /// No connection has shown that the other has this address.
    Unproven(Ipv4Addr),
}

/// The path to a host that has said where it is, and was found at the addresses in `proven`.
pub fn path(ours: &Underlay, theirs: &Underlay, proven: &BTreeSet<Ipv4Addr>) -> Path {
    let (direct, share_vpc) = (direct(ours, theirs, proven), share_vpc(ours, theirs));
    if encrypts(ours) || encrypts(theirs) {
        let distance = match direct {
            Some(Path::Direct { to, .. }) => Distance::Near(Some(to)),
            _ if share_vpc => Distance::Near(theirs.addresses.first().map(Ipv4Net::addr)),
            _ => Distance::Far,
        };
        return tunnel(ours, theirs, distance).unwrap_or(Path::Bare { here: ours.tunnel.is_none() });
    }
    match (direct, share_vpc) {
        (Some(direct @ Path::Direct { .. }), _) => direct,
        (unproven, true) => unproven.unwrap_or(Path::Vpc),
        (unproven, false) => tunnel(ours, theirs, Distance::Far)
            .or(unproven)
            .unwrap_or_else(|| Path::Apart { ours: ours.place.clone(), theirs: theirs.place.clone() }),
    }
}

/// The same while the other may still be found on a link of both: what there is stays until then, and no tunnel takes its place.
pub fn path_before_proof(ours: &Underlay, theirs: &Underlay, proven: &BTreeSet<Ipv4Addr>) -> Path {
    let on_link = unproven(ours, theirs, proven).filter(|_| !encrypts(ours) && !encrypts(theirs));
    on_link.map_or_else(|| path(ours, theirs, proven), |address| Path::Unknown(Why::Unproven(address)))
}

/// Whether a host wants all that it sends and takes encrypted.
fn encrypts(host: &Underlay) -> bool {
    host.tunnel.is_some_and(|end| end.encrypts)
}

/// The address of the other on a link that both seem to be on, while no connection has found it there.
pub fn unproven(ours: &Underlay, theirs: &Underlay, proven: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    match direct(ours, theirs, proven)? {
        Path::Unknown(Why::Unproven(address)) => Some(address),
        Path::Vpc
        | Path::Direct { .. }
        | Path::Tunnel { .. }
        | Path::Apart { .. }
        | Path::Bare { .. }
        | Path::Unknown(_) => None,
    }
}

fn share_vpc(ours: &Underlay, theirs: &Underlay) -> bool {
    match (&ours.place, &theirs.place) {
        (Place::Vpc { vpc, .. }, Place::Vpc { vpc: other, .. }) => vpc == other,
        (Place::Outside, _) | (_, Place::Outside) => false,
    }
}

/// The path over a link, where the places of both let there be one.
fn direct(ours: &Underlay, theirs: &Underlay, proven: &BTreeSet<Ipv4Addr>) -> Option<Path> {
    let may_be = match (&ours.place, &theirs.place) {
        (Place::Vpc { .. }, Place::Vpc { .. }) => ours.place == theirs.place && ours.direct && theirs.direct,
        (Place::Outside, _) | (_, Place::Outside) => true,
    };
    may_be.then(|| on_link(ours, theirs, proven)).flatten()
}

/// What lies between the ends of a tunnel.
enum Distance {
    /// A VPC or a link of both, on which the other has this address. What both send gets there whole.
    Near(Option<Ipv4Addr>),
    /// Nobody knows.
    Far,
}

/// The tunnel, if both have an end of one. Two with one key, as a copied disk makes them, would be taken for each other.
fn tunnel(ours: &Underlay, theirs: &Underlay, distance: Distance) -> Option<Path> {
    let (ours, theirs) = (ours.tunnel?, theirs.tunnel?);
    let (carried, near) = match distance {
        Distance::Near(address) => (u32::MAX, address),
        Distance::Far => (FAR_MTU, None),
    };
    let endpoint = theirs.endpoint.or(near.map(|address| SocketAddrV4::new(address, theirs.port)));
    let mtu = ours.mtu.min(theirs.mtu).min(carried) - TUNNEL_OVERHEAD;
    (ours.key != theirs.key).then_some(Path::Tunnel { key: theirs.key, endpoint, mtu })
}

/// The path over a link that both are on, if there is one: of several the one with the lowest addresses, which both take.
fn on_link(ours: &Underlay, theirs: &Underlay, proven: &BTreeSet<Ipv4Addr>) -> Option<Path> {
    let all = ours.addresses.iter().flat_map(|from| theirs.addresses.iter().map(move |to| (*from, *to)));
    // What both have is on two links that only look alike, or leads to whoever answers first.
    let on_link = all.filter(|(from, to)| {
        let is_one = from.contains(&to.addr()) && to.contains(&from.addr());
        is_one && !theirs.has(from.addr()) && !ours.has(to.addr())
    });
    let ends = |(from, to): &(Ipv4Net, Ipv4Net)| {
        (cmp::min(from.addr(), to.addr()), cmp::max(from.addr(), to.addr()))
    };
    let is_unproven = |(_, to): &(Ipv4Net, Ipv4Net)| !proven.contains(&to.addr());
    let best = on_link.min_by_key(|pair| (is_unproven(pair), ends(pair)))?;
    let (from, to) = (best.0, best.1.addr());
    if is_unproven(&best) {
        return Some(Path::Unknown(Why::Unproven(to)));
    }
    // What a subnet of EC2 makes of such packets is not known; there the VPC carries them.
    let may_lead = ours.links6.contains_key(&from.addr()) && !share_vpc(ours, theirs);
    let to6 = theirs.links6.get(&to).filter(|_| may_lead).copied();
    Some(Path::Direct { from, to, to6 })
}

#[cfg(test)]
mod tests {
    use proptest::{collection, option, prelude::*};

    use super::{super::TunnelEnd, *};
    use crate::state::{SubnetId, VpcId};

    fn in_vpc(vpc: &str, subnet: &str) -> Place {
        Place::Vpc { vpc: VpcId(vpc.to_owned()), subnet: SubnetId(subnet.to_owned()) }
    }

    fn host(place: Place, addresses: &[&str], direct: bool) -> Underlay {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Underlay { place, addresses, direct, links6: [].into(), tunnel: None }
    }

    fn all_of(underlay: &Underlay) -> BTreeSet<Ipv4Addr> {
        underlay.addresses.iter().map(Ipv4Net::addr).collect()
    }

    /// The address of IPv6 on the same link.
    fn beside(address: Ipv4Addr) -> Ipv6Addr {
        format!("fe80::{address}").parse().unwrap()
    }

    /// With proof of every address.
    fn proven(ours: &Underlay, theirs: &Underlay) -> Path {
        path(ours, theirs, &all_of(theirs))
    }

    fn direct(from: &str, to: &str) -> Path {
        Path::Direct { from: from.parse().unwrap(), to: to.parse().unwrap(), to6: None }
    }

    #[test]
    fn hosts_of_one_vpc_go_by_its_tables_unless_both_want_to_be_led_to_in_their_subnet() {
        let one = host(in_vpc("vpc-1", "subnet-1"), &["10.0.1.11/24"], true);
        let beside = host(in_vpc("vpc-1", "subnet-1"), &["10.0.1.12/24"], true);
        let unwilling = Underlay { direct: false, ..beside.clone() };
        let elsewhere = host(in_vpc("vpc-1", "subnet-2"), &["10.0.2.12/24"], true);
        assert_eq!(proven(&one, &beside), direct("10.0.1.11/24", "10.0.1.12"));
        assert_eq!(proven(&one, &unwilling), Path::Vpc);
        assert_eq!(proven(&one, &elsewhere), Path::Vpc);
    }

    #[test]
    fn hosts_outside_ec2_reach_those_on_their_link_and_nobody_else() {
        let one = host(Place::Outside, &["192.168.7.11/24", "10.8.0.1/16"], false);
        let beside = host(Place::Outside, &["10.8.3.9/16", "192.168.7.12/24"], false);
        let behind = host(Place::Outside, &["192.168.8.12/24"], false);
        let on_ec2 = host(in_vpc("vpc-1", "subnet-1"), &["10.0.1.11/24"], false);
        assert_eq!(proven(&one, &beside), direct("10.8.0.1/16", "10.8.3.9"), "of two links the lower one");
        for other in [behind, on_ec2] {
            assert!(matches!(proven(&one, &other), Path::Apart { .. }), "{other:?}");
        }
    }

    #[test]
    fn what_is_of_ipv6_is_led_over_a_link_where_both_have_an_address_of_it_there_and_in_a_vpc_by_its_tables()
    {
        let on = |host: Underlay| {
            let links6 = all_of(&host).into_iter().map(|address| (address, beside(address))).collect();
            Underlay { links6, ..host }
        };
        let to6 = |ours: &Underlay, theirs: &Underlay| match proven(ours, theirs) {
            Path::Direct { to6, .. } => to6,
            other => panic!("{other:?}"),
        };
        let one = host(Place::Outside, &["192.168.7.11/24"], false);
        let other = host(Place::Outside, &["192.168.7.12/24"], false);
        assert_eq!(to6(&on(one.clone()), &on(other.clone())), "fe80::192.168.7.12".parse().ok());
        assert_eq!((to6(&on(one.clone()), &other), to6(&one, &on(other))), (None, None));
        let here = on(host(in_vpc("vpc-1", "subnet-1"), &["192.168.7.13/24"], true));
        let there = on(host(in_vpc("vpc-1", "subnet-1"), &["192.168.7.14/24"], true));
        assert_eq!(to6(&here, &there), None);
        assert_eq!(to6(&here, &on(one)), "fe80::192.168.7.11".parse().ok());
    }

    #[test]
    fn two_vpcs_have_nothing_in_common_even_where_their_addresses_look_so() {
        let one = host(in_vpc("vpc-1", "subnet-1"), &["10.0.1.11/24"], true);
        let other = host(in_vpc("vpc-2", "subnet-9"), &["10.0.1.12/24"], true);
        assert!(matches!(proven(&one, &other), Path::Apart { .. }));
    }

    #[test]
    fn an_address_that_both_have_leads_to_neither() {
        let both = ["10.0.1.3/16", "10.0.1.4/16"];
        let (one, other) = (host(Place::Outside, &both, false), host(Place::Outside, &both, false));
        assert!(matches!(proven(&one, &other), Path::Apart { .. }));
        let third = host(Place::Outside, &["10.0.1.3/16", "10.0.1.5/16"], false);
        assert_eq!(proven(&one, &third), direct("10.0.1.4/16", "10.0.1.5"));
    }

    /// Half of all offices have a network 192.168.1.0/24.
    #[test]
    fn an_address_that_nobody_was_found_at_decides_nothing() {
        let one = host(Place::Outside, &["192.168.1.11/24"], false);
        let other = host(Place::Outside, &["192.168.1.12/24"], false);
        let unproven = Path::Unknown(Why::Unproven("192.168.1.12".parse().unwrap()));
        assert_eq!(path(&one, &other, &BTreeSet::new()), unproven);
        assert_eq!(path(&one, &other, &["10.0.0.1".parse().unwrap()].into()), unproven);
    }

    fn end(key: u8, mtu: u32, says: bool) -> TunnelEnd {
        let endpoint = says.then(|| SocketAddrV4::new([192, 0, 2, key].into(), 6784));
        TunnelEnd { key: TunnelKey([key; 32]), port: 6784, endpoint, mtu, encrypts: false }
    }

    #[test]
    fn hosts_with_nothing_in_common_go_by_a_tunnel_if_both_have_an_end_of_one() {
        let with = |underlay: Underlay, tunnel| Underlay { tunnel: Some(tunnel), ..underlay };
        let on_ec2 = with(host(in_vpc("vpc-1", "subnet-1"), &["10.0.1.11/24"], false), end(1, 9001, false));
        let beside = with(host(in_vpc("vpc-1", "subnet-2"), &["10.0.2.11/24"], false), end(2, 9001, false));
        let abroad = with(host(in_vpc("vpc-2", "subnet-9"), &["10.0.1.12/24"], false), end(3, 9001, true));
        let outside = with(host(Place::Outside, &["192.168.7.11/24"], false), end(4, 1400, false));
        let without = host(Place::Outside, &["192.168.8.11/24"], false);
        let endpoint = "192.0.2.3:6784".parse().ok();
        let tunnel = |key, endpoint, mtu| Path::Tunnel { key: TunnelKey([key; 32]), endpoint, mtu };
        assert_eq!(proven(&on_ec2, &abroad), tunnel(3, endpoint, 1440));
        assert_eq!(proven(&abroad, &outside), tunnel(4, None, 1340), "what the smaller of both can carry");
        assert_eq!(proven(&on_ec2, &beside), Path::Vpc, "what has a network in common needs none");
        let copied = with(host(Place::Outside, &["192.168.9.11/24"], false), end(1, 1500, true));
        for (one, other) in [(&on_ec2, &without), (&without, &outside), (&on_ec2, &copied)] {
            assert!(matches!(proven(one, other), Path::Apart { .. }), "{one:?} {other:?}");
        }
    }

    #[test]
    fn a_host_that_wants_all_encrypted_goes_by_tunnels_in_its_vpc_and_on_its_link_too_with_packets_as_large_as_they_carry()
     {
        let with = |underlay: Underlay, tunnel| Underlay { tunnel: Some(tunnel), ..underlay };
        let all = |key| TunnelEnd { encrypts: true, ..end(key, 9001, false) };
        let here = || host(in_vpc("vpc-1", "subnet-1"), &["10.0.1.11/24"], true);
        let beside = || host(in_vpc("vpc-1", "subnet-1"), &["10.0.1.12/24"], true);
        let mtu = |path| match path {
            Path::Tunnel { mtu, .. } => Some(mtu),
            _ => None,
        };
        for [one, other] in [[all(1), end(2, 9001, false)], [end(1, 9001, false), all(2)], [all(1), all(2)]] {
            assert_eq!(mtu(proven(&with(here(), one), &with(beside(), other))), Some(8941));
        }
        let outside = with(host(Place::Outside, &["192.168.7.11/24"], false), all(3));
        assert_eq!(mtu(proven(&with(here(), all(1)), &outside)), Some(1440));
        assert_eq!(proven(&with(here(), all(1)), &beside()), Path::Bare { here: false });
        assert_eq!(proven(&beside(), &with(here(), all(1))), Path::Bare { here: true });
    }

    /// Half of all offices have a network 192.168.1.0/24, and they are not one.
    #[test]
    fn hosts_that_only_seem_to_be_on_one_link_go_by_a_tunnel_until_they_are_found_there() {
        let with = |address, key| Underlay {
            tunnel: Some(end(key, 1500, false)),
            ..host(Place::Outside, &[address], false)
        };
        let (one, other) = (with("192.168.1.11/24", 1), with("192.168.1.12/24", 2));
        let nowhere = BTreeSet::new();
        assert!(matches!(path(&one, &other, &nowhere), Path::Tunnel { .. }));
        assert_eq!(unproven(&one, &other, &nowhere), "192.168.1.12".parse().ok());
        assert_eq!(proven(&one, &other), direct("192.168.1.11/24", "192.168.1.12"));
    }

    #[test]
    fn networks_of_different_length_share_a_link_only_where_each_has_the_other_in_it() {
        let wide = host(Place::Outside, &["10.1.2.3/8"], false);
        let narrow = host(Place::Outside, &["10.9.9.9/24"], false);
        assert!(matches!(proven(&wide, &narrow), Path::Apart { .. }));
        let alone = host(Place::Outside, &["10.1.2.4/32"], false);
        assert!(matches!(proven(&wide, &alone), Path::Apart { .. }), "nobody is on its link");
    }

    fn any_end() -> impl Strategy<Value = TunnelEnd> {
        (1..9_u8, 576..9001_u32, any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(key, mtu, says, encrypts)| TunnelEnd { encrypts, ..end(key, mtu, says) })
    }

    fn any_host() -> impl Strategy<Value = Underlay> {
        let place = prop_oneof![
            Just(Place::Outside),
            (0..2_u8, 0..2_u8)
                .prop_map(|(vpc, subnet)| in_vpc(&format!("vpc-{vpc}"), &format!("s-{vpc}{subnet}"))),
        ];
        let address = (0..2_u8, 1..5_u8, prop_oneof![Just(16_u8), Just(24), Just(32)]);
        let address = address
            .prop_map(|(net, host, length)| Ipv4Net::new(Ipv4Addr::new(10, 0, net, host), length).unwrap());
        (place, collection::btree_set(address, 0..4), any::<bool>(), any::<bool>(), option::of(any_end()))
            .prop_map(|(place, addresses, direct, has_v6, tunnel)| {
                let links6 =
                    addresses.iter().filter(|_| has_v6).map(|held| (held.addr(), beside(held.addr())));
                Underlay { links6: links6.collect(), place, addresses, direct, tunnel }
            })
    }

    proptest! {
        /// A packet that goes one way comes back the same way, or neither goes.
        #[test]
        fn both_ends_find_the_same_path((one, other) in (any_host(), any_host())) {
            let (there, back) = (proven(&one, &other), proven(&other, &one));
            match (&there, &back) {
                (Path::Vpc, Path::Vpc) | (Path::Apart { .. }, Path::Apart { .. }) => {}
                (Path::Tunnel { key, endpoint, mtu }, Path::Tunnel { key: our_key, mtu: mtu_there, .. }) => {
                    let theirs = other.tunnel.unwrap();
                    prop_assert_eq!(*key, theirs.key);
                    prop_assert!(theirs.endpoint.is_none() || *endpoint == theirs.endpoint);
                    prop_assert_eq!(*our_key, one.tunnel.unwrap().key);
                    prop_assert_eq!(mtu, mtu_there);
                    prop_assert!(*mtu < theirs.mtu);
                }
                (Path::Bare { here }, Path::Bare { here: there }) => {
                    prop_assert!(one.tunnel.is_none() == *here && (one.tunnel.is_some() || other.tunnel.is_some()));
                    prop_assert!(here != there || one.tunnel.map(|end| end.key) == other.tunnel.map(|end| end.key));
                }
                (
                    Path::Direct { from, to, to6 },
                    Path::Direct { from: from_there, to: to_here, to6: to_here6 },
                ) => {
                    prop_assert_eq!((from.addr(), *to), (*to_here, from_there.addr()));
                    prop_assert_eq!(to6.is_some(), to_here6.is_some());
                    prop_assert!(from.contains(to) && from_there.contains(to_here));
                }
                _ => prop_assert!(false, "{there:?} and {back:?}"),
            }
        }

        /// Who wants all encrypted sends nothing otherwise, and is sent nothing otherwise.
        #[test]
        fn nobody_who_wants_all_encrypted_is_led_to_in_the_clear((one, other) in (any_host(), any_host())) {
            let path = proven(&one, &other);
            if encrypts(&one) || encrypts(&other) {
                prop_assert!(matches!(path, Path::Tunnel { .. } | Path::Bare { .. }), "{path:?}");
            } else {
                let is_bare = matches!(path, Path::Bare { .. });
                prop_assert!(!is_bare);
            }
        }

        /// Without proof nothing is led anywhere, and with more proof a path that was found stays one.
        #[test]
        fn only_proof_makes_a_path_direct((one, other) in (any_host(), any_host())) {
            let before = path(&one, &other, &BTreeSet::new());
            prop_assert!(!matches!(before, Path::Direct { .. }), "{before:?}");
            let after = proven(&one, &other);
            match before {
                // One in another network of the same name is reached by a tunnel; one that was found on the link is not.
                Path::Tunnel { .. } if matches!(after, Path::Direct { .. } | Path::Tunnel { .. }) => {}
                Path::Unknown(_) => prop_assert!(matches!(after, Path::Direct { .. }), "{after:?}"),
                decided => prop_assert_eq!(decided, after),
            }
        }
    }
}
