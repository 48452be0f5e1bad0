//! Whether the route table says what the ring says.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use weavers::{
    addr::{Address, Range, join},
    sim::vpc::{Origin, RouteTarget, RouteView},
    state::{InterfaceId, RouteState},
};

/// Who says to own what: CIDRs and the interface of the host that said so.
pub type Owners = Vec<(Ipv4Net, InterfaceId)>;

/// Whether the owners' CIDRs are the whole range, each address once.
pub fn owned_once(range: Ipv4Net, owners: &Owners) -> Result<(), String> {
    let owned: Vec<Range> = owners.iter().map(|(cidr, _)| Range::from(*cidr)).collect();
    let sum: u64 = owned.iter().map(|range| u64::from(range.len())).sum();
    let whole = Range::from(range);
    if join(owned) != [whole] || sum != u64::from(whole.len()) {
        return Err(format!("what the hosts own is not {range} once: {owners:?}"));
    }
    Ok(())
}

/// Whether the longest match of every owned address leads to its owner.
///
/// Between two borders of routes or owned CIDRs nothing changes, so one address stands for all there.
pub fn leads_to_owners(owners: &Owners, routes: &[RouteView]) -> Result<(), String> {
    let cidrs = owners.iter().map(|(cidr, _)| *cidr).chain(routes.iter().map(|route| route.destination));
    let mut borders: Vec<Address> =
        cidrs.flat_map(|cidr| [Range::from(cidr).start, Range::from(cidr).end]).collect();
    borders.sort();
    borders.dedup();
    for address in borders {
        let Some((_, owner)) = owners.iter().find(|(cidr, _)| Range::from(*cidr).contains(address)) else {
            continue;
        };
        let matching = routes.iter().filter(|route| route.destination.contains(&Ipv4Addr::from(address)));
        let best = matching.max_by_key(|route| route.destination.prefix_len());
        let leads = best.is_some_and(|route| {
            route.state == RouteState::Active && route.target == RouteTarget::Interface(owner.clone())
        });
        if !leads {
            let found = best.map(|route| route.destination.to_string()).unwrap_or_else(|| "no route".into());
            return Err(format!("{address} belongs to {owner}, but its longest match is {found}"));
        }
    }
    Ok(())
}

/// Whether there are no more routes inside the range than CIDRs that somebody owns.
pub fn no_more_than_owned(range: Ipv4Net, owned: usize, routes: &[RouteView]) -> Result<(), String> {
    let ours =
        routes.iter().filter(|route| route.origin == Origin::Created && range.contains(&route.destination));
    let count = ours.count();
    if count > owned {
        return Err(format!("{count} routes for {owned} owned CIDRs"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_and_an_overlap_are_found() {
        let range = cidr("10.32.0.0/12");
        assert!(owned_once(range, &owners(&[("10.32.0.0/13", "a"), ("10.40.0.0/13", "b")])).is_ok());
        assert!(owned_once(range, &owners(&[("10.32.0.0/13", "a"), ("10.40.0.0/14", "b")])).is_err());
        assert!(owned_once(range, &owners(&[("10.32.0.0/12", "a"), ("10.40.0.0/14", "b")])).is_err());
        assert!(owned_once(range, &owners(&[("10.32.0.0/12", "a"), ("10.32.0.0/12", "b")])).is_err());
    }

    #[test]
    fn one_covering_route_serves_its_holder_and_a_longer_one_the_other() {
        let owners = owners(&[("10.32.0.0/13", "a"), ("10.40.0.0/13", "b")]);
        let good = [route("10.32.0.0/12", "a"), route("10.40.0.0/13", "b")];
        assert_eq!(leads_to_owners(&owners, &good), Ok(()));
        assert!(leads_to_owners(&owners, &good[..1]).is_err(), "b has no route");
        assert!(leads_to_owners(&owners, &good[1..]).is_err(), "a has no route");
        let stray = [good[0].clone(), good[1].clone(), route("10.47.255.255/32", "a")];
        assert!(leads_to_owners(&owners, &stray).is_err(), "one address leads astray");
        let dead = [good[0].clone(), RouteView { state: RouteState::Blackhole, ..good[1].clone() }];
        assert!(leads_to_owners(&owners, &dead).is_err(), "b's route is a blackhole");
    }

    #[test]
    fn more_routes_than_owned_cidrs_are_too_many() {
        let range = cidr("10.32.0.0/12");
        let routes = [route("10.32.0.0/13", "a"), route("10.40.0.0/13", "a")];
        assert!(no_more_than_owned(range, 1, &routes).is_err());
        assert!(no_more_than_owned(range, 1, &routes[..1]).is_ok());
    }

    fn cidr(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn owners(list: &[(&str, &str)]) -> Owners {
        list.iter().map(|(range, id)| (cidr(range), InterfaceId((*id).to_owned()))).collect()
    }

    fn route(destination: &str, to: &str) -> RouteView {
        RouteView {
            destination: cidr(destination),
            target: RouteTarget::Interface(InterfaceId(to.to_owned())),
            instance: None,
            origin: Origin::Created,
            state: RouteState::Active,
        }
    }
}
