//! Routes that lead what other hosts own to those hosts, and the networks by which they can be reached so.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net};
use rtnetlink::{
    Handle,
    packet_route::address::{AddressHeaderFlags, AddressMessage},
};

use super::{
    address,
    fault::found,
    link::{self, End},
    route::{self, Entry},
    seen::Seen,
};
use crate::state::{Fault, FaultKind, Hop, Remote};

/// Addresses that are told of, at most.
const NETWORKS_MAX: usize = 64;

/// What is there.
pub fn observe(seen: &Seen) -> Remote {
    let name = |index| seen.interface(index).map(|end| end.name.clone());
    let routes = seen.routes.entries().filter(|entry| entry.is_to_host()).filter_map(|entry| {
        Some((
            entry.destination,
            Hop { via: entry.gateway, interface: name(entry.interface?)?, mtu: entry.mtu },
        ))
    });
    let networks = seen.addresses.iter().filter_map(|held| network(seen, held)).take(NETWORKS_MAX);
    Remote {
        routes: Arc::new(routes.collect()),
        networks: BTreeMap::from_iter(networks),
        links6: seen.addresses.iter().filter_map(|held| link6(seen, held)).collect(),
        ..Remote::default()
    }
}

/// Leads a destination to another host; a route of ours that leads it elsewhere is replaced.
pub async fn add(handle: &Handle, destination: IpNet, hop: &Hop) -> Result<(), Fault> {
    match entry(handle, destination, hop).await? {
        Some(entry) => route::ensure(handle, &entry).await,
        None => {
            Err(found(FaultKind::Outdated, format!("no interface of this host is named {}", hop.interface)))
        }
    }
}

/// Leads it there no longer.
pub async fn remove(handle: &Handle, destination: IpNet, hop: &Hop) -> Result<(), Fault> {
    match entry(handle, destination, hop).await? {
        Some(entry) => route::remove(handle, &entry).await,
        // It went with its interface.
        None => Ok(()),
    }
}

async fn entry(handle: &Handle, destination: IpNet, hop: &Hop) -> Result<Option<Entry>, Fault> {
    let end = link::find(handle, &hop.interface).await?;
    Ok(end.map(|end| Entry::to_host(destination, end.index, hop.via, hop.mtu)))
}

/// An address by which other hosts on the link may reach this one, and its interface.
fn network(seen: &Seen, held: &AddressMessage) -> Option<(Ipv4Net, String)> {
    let end = shared(seen, held)?;
    let IpAddr::V4(address) = address::ip(held)? else { return None };
    let is_shared = !address.is_loopback() && !address.is_link_local() && address != Ipv4Addr::UNSPECIFIED;
    let network = Ipv4Net::new(address, held.header.prefix_len).ok()?;
    is_shared.then(|| (network, end.name.clone()))
}

/// An interface, and the address of IPv6 by which whoever is on its link reaches this host, once nobody else is known to have it.
fn link6(seen: &Seen, held: &AddressMessage) -> Option<(String, Ipv6Addr)> {
    let end = shared(seen, held)?;
    let IpAddr::V6(address) = address::ip(held)? else { return None };
    let unsure = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
    (address.is_unicast_link_local() && !held.header.flags.intersects(unsure))
        .then(|| (end.name.clone(), address))
}

/// The interface of an address, where others may be on its link.
fn shared<'a>(seen: &'a Seen, held: &AddressMessage) -> Option<&'a End> {
    seen.interface(held.header.index).filter(|end| end.up && end.serves.is_none())
}
