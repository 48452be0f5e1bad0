//! Routes that lead what other hosts own to those hosts, and the networks by which they can be reached so.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net};
use rtnetlink::{Handle, packet_route::address::AddressMessage};

use super::{
    address,
    fault::found,
    link,
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
        let IpNet::V4(destination) = entry.destination else { return None };
        let via = entry.gateway.and_then(inet);
        Some((destination, Hop { via, interface: name(entry.interface?)?, mtu: entry.mtu }))
    });
    let networks = seen.addresses.iter().filter_map(|held| network(seen, held)).take(NETWORKS_MAX);
    Remote {
        routes: Arc::new(routes.collect()),
        networks: BTreeMap::from_iter(networks),
        ..Remote::default()
    }
}

/// Leads a destination to another host; a route of ours that leads it elsewhere is replaced.
pub async fn add(handle: &Handle, destination: Ipv4Net, hop: &Hop) -> Result<(), Fault> {
    match entry(handle, destination, hop).await? {
        Some(entry) => route::ensure(handle, &entry).await,
        None => {
            Err(found(FaultKind::Outdated, format!("no interface of this host is named {}", hop.interface)))
        }
    }
}

/// Leads it there no longer.
pub async fn remove(handle: &Handle, destination: Ipv4Net, hop: &Hop) -> Result<(), Fault> {
    match entry(handle, destination, hop).await? {
        Some(entry) => route::remove(handle, &entry).await,
        // It went with its interface.
        None => Ok(()),
    }
}

async fn entry(handle: &Handle, destination: Ipv4Net, hop: &Hop) -> Result<Option<Entry>, Fault> {
    let end = link::find(handle, &hop.interface).await?;
    Ok(end.map(|end| Entry::to_host(destination, end.index, hop.via, hop.mtu)))
}

/// An address by which other hosts on the link may reach this one, and its interface.
fn network(seen: &Seen, held: &AddressMessage) -> Option<(Ipv4Net, String)> {
    let end = seen.interface(held.header.index).filter(|end| end.up && end.serves.is_none())?;
    let address = inet(address::ip(held)?)?;
    let is_shared = !address.is_loopback() && !address.is_link_local() && address != Ipv4Addr::UNSPECIFIED;
    let network = Ipv4Net::new(address, held.header.prefix_len).ok()?;
    is_shared.then(|| (network, end.name.clone()))
}

fn inet(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}
