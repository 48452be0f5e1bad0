//! Whether the route table says what the ring says.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;
use weavers::{
    addr::{Address, Range, join},
    sim::vpc::{Origin, RouteTarget, RouteView},
    state::{InterfaceId, RouteState},
};

/// Who owns what: the interface of each owner by CIDR.
pub type Owners = BTreeMap<Ipv4Net, InterfaceId>;

/// Whether the owners' CIDRs are the whole range, each address once.
pub fn owned_once(range: Ipv4Net, owners: &Owners) -> Result<(), String> {
    let owned: Vec<Range> = owners.keys().map(|&cidr| Range::from(cidr)).collect();
    let sum: u64 = owned.iter().map(|range| u64::from(range.len())).sum();
    let whole = Range::from(range);
    if join(owned) != [whole] || sum != u64::from(whole.len()) {
        return Err(format!(
            "what the hosts own is not {range} once: {:?}",
            owners.keys().collect::<Vec<_>>()
        ));
    }
    Ok(())
}

/// Whether the longest match of every owned address leads to its owner.
///
/// Between two borders of routes or owned CIDRs nothing changes, so one address stands for all there.
pub fn leads_to_owners(owners: &Owners, routes: &[RouteView]) -> Result<(), String> {
    let cidrs = owners.keys().copied().chain(routes.iter().map(|route| route.destination));
    let mut borders: Vec<Address> =
        cidrs.flat_map(|cidr| [Range::from(cidr).start, Range::from(cidr).end]).collect();
    borders.sort();
    borders.dedup();
    for address in borders {
        let Some((_, owner)) = owners.iter().find(|(cidr, _)| Range::from(**cidr).contains(address)) else {
            continue;
        };
        let matching =
            routes.iter().filter(|route| route.destination.contains(&std::net::Ipv4Addr::from(address)));
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
pub fn no_more_than_owned(range: Ipv4Net, owners: &Owners, routes: &[RouteView]) -> Result<(), String> {
    let ours =
        routes.iter().filter(|route| route.origin == Origin::Created && range.contains(&route.destination));
    let (count, owned) = (ours.count(), owners.len());
    if count > owned {
        return Err(format!("{count} routes for {owned} owned CIDRs"));
    }
    Ok(())
}
