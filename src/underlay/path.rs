//! The path from one host to another, by where both are. Both find the same, where both have proof of the other's address.

use std::{cmp, collections::BTreeSet, net::Ipv4Addr};

use ipnet::Ipv4Net;

use super::{Place, Underlay};

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
    },
    /// There is none: the two are in networks that have nothing in common.
    Apart {
        /// Where this host is.
        ours: Place,
        /// Where the other is.
        theirs: Place,
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
    let apart = || Path::Apart { ours: ours.place.clone(), theirs: theirs.place.clone() };
    match (&ours.place, &theirs.place) {
        (Place::Vpc { vpc, subnet }, Place::Vpc { vpc: other, subnet: theirs_in }) if vpc == other => {
            let may_be_direct = subnet == theirs_in && ours.direct && theirs.direct;
            may_be_direct.then(|| on_link(ours, theirs, proven)).flatten().unwrap_or(Path::Vpc)
        }
        (Place::Vpc { .. }, Place::Vpc { .. }) => apart(),
        (Place::Outside, Place::Outside | Place::Vpc { .. }) | (Place::Vpc { .. }, Place::Outside) => {
            on_link(ours, theirs, proven).unwrap_or_else(apart)
        }
    }
}

/// The path over a link that both are on, if there is one: of several the one with the lowest addresses, which both take.
fn on_link(ours: &Underlay, theirs: &Underlay, proven: &BTreeSet<Ipv4Addr>) -> Option<Path> {
    let all = ours.addresses.iter().flat_map(|from| theirs.addresses.iter().map(move |to| (*from, *to)));
    let on_link = all.filter(|(from, to)| {
        from.addr() != to.addr() && from.contains(&to.addr()) && to.contains(&from.addr())
    });
    let ends = |(from, to): &(Ipv4Net, Ipv4Net)| {
        (cmp::min(from.addr(), to.addr()), cmp::max(from.addr(), to.addr()))
    };
    let is_unproven = |(_, to): &(Ipv4Net, Ipv4Net)| !proven.contains(&to.addr());
    let best = on_link.min_by_key(|pair| (is_unproven(pair), ends(pair)))?;
    let (from, to) = (best.0, best.1.addr());
    Some(if is_unproven(&best) { Path::Unknown(Why::Unproven(to)) } else { Path::Direct { from, to } })
}

#[cfg(test)]
mod tests {
    use proptest::{collection, prelude::*};

    use super::*;
    use crate::state::{SubnetId, VpcId};

    fn in_vpc(vpc: &str, subnet: &str) -> Place {
        Place::Vpc { vpc: VpcId(vpc.to_owned()), subnet: SubnetId(subnet.to_owned()) }
    }

    fn host(place: Place, addresses: &[&str], direct: bool) -> Underlay {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Underlay { place, addresses, direct }
    }

    fn all_of(underlay: &Underlay) -> BTreeSet<Ipv4Addr> {
        underlay.addresses.iter().map(Ipv4Net::addr).collect()
    }

    /// With proof of every address.
    fn proven(ours: &Underlay, theirs: &Underlay) -> Path {
        path(ours, theirs, &all_of(theirs))
    }

    fn direct(from: &str, to: &str) -> Path {
        Path::Direct { from: from.parse().unwrap(), to: to.parse().unwrap() }
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
    fn two_vpcs_have_nothing_in_common_even_where_their_addresses_look_so() {
        let one = host(in_vpc("vpc-1", "subnet-1"), &["10.0.1.11/24"], true);
        let other = host(in_vpc("vpc-2", "subnet-9"), &["10.0.1.12/24"], true);
        assert!(matches!(proven(&one, &other), Path::Apart { .. }));
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

    #[test]
    fn networks_of_different_length_share_a_link_only_where_each_has_the_other_in_it() {
        let wide = host(Place::Outside, &["10.1.2.3/8"], false);
        let narrow = host(Place::Outside, &["10.9.9.9/24"], false);
        assert!(matches!(proven(&wide, &narrow), Path::Apart { .. }));
        let alone = host(Place::Outside, &["10.1.2.4/32"], false);
        assert!(matches!(proven(&wide, &alone), Path::Apart { .. }), "nobody is on its link");
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
        (place, collection::btree_set(address, 0..4), any::<bool>())
            .prop_map(|(place, addresses, direct)| Underlay { place, addresses, direct })
    }

    proptest! {
        /// A packet that goes one way comes back the same way, or neither goes.
        #[test]
        fn both_ends_find_the_same_path((one, other) in (any_host(), any_host())) {
            let (there, back) = (proven(&one, &other), proven(&other, &one));
            match (&there, &back) {
                (Path::Vpc, Path::Vpc) | (Path::Apart { .. }, Path::Apart { .. }) => {}
                (Path::Direct { from, to }, Path::Direct { from: from_there, to: to_here }) => {
                    prop_assert_eq!((from.addr(), *to), (*to_here, from_there.addr()));
                    prop_assert!(from.contains(to) && from_there.contains(to_here));
                }
                _ => prop_assert!(false, "{there:?} and {back:?}"),
            }
        }

        /// Without proof nothing is led anywhere, and with more proof a path that was found stays one.
        #[test]
        fn only_proof_makes_a_path_direct((one, other) in (any_host(), any_host())) {
            let before = path(&one, &other, &BTreeSet::new());
            prop_assert!(!matches!(before, Path::Direct { .. }), "{before:?}");
            let after = proven(&one, &other);
            match before {
                Path::Unknown(_) => prop_assert!(matches!(after, Path::Direct { .. }), "{after:?}"),
                decided => prop_assert_eq!(decided, after),
            }
        }
    }
}
