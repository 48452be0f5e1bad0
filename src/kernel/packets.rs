//! Which packets the kernel is asked about: all that matter for the containers that are there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use rtnetlink::Handle;

use super::{
    address,
    known::Known,
    path::{Asker, Carriers, Source},
    seen::Seen,
};
use crate::{
    addr::Address,
    state::{Fault, Host, Links, Packet, Path},
};

/// Addresses that are nobody's (RFC 5737), in two networks, since one may be taken for containers.
const OUTSIDE: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 1)];
/// Addresses of this host of which is asked how they reach a container.
const OWN_MAX: usize = 16;

/// What the kernel said, and which interfaces carry traffic by it.
#[derive(Debug, Default)]
pub struct Paths {
    pub paths: Vec<Arc<Path>>,
    /// Interfaces by which packets of containers get where the VPC is, by name, with their MTU.
    pub uplinks: BTreeMap<String, u32>,
}

/// Asks about everything that matters for the containers that are there.
pub async fn observe(
    handle: &Handle,
    seen: &Seen,
    wanted: &Host,
    links: &Links,
    known: &mut Known,
) -> Result<Paths, Fault> {
    let asker = Asker { handle, seen };
    // Of one that is broken in itself its faults are told.
    let sound = links.iter().filter(|(_, link)| link.is_sound());
    let sound: Vec<Address> = sound.map(|(address, _)| *address).collect();
    let container = sound.first().and_then(|address| asker.source_behind(*address));

    let mut paths = Vec::new();
    let mut carriers = Carriers::default();
    for &other in &wanted.remote.asked {
        let answer = asker.ask(other.into(), container.as_ref()).await?;
        carriers.see(&asker, &answer, other.into());
        paths.push(Arc::new(answer.path(Packet::ToOther(other))));
    }
    // Where the VPC leads what comes for containers is told by the way that the host itself takes, see `uplink`.
    if let Some(other) = wanted.remote.asked.first() {
        carriers.see(&asker, &asker.ask((*other).into(), None).await?, (*other).into());
    }
    let outside = outside_of(wanted);
    let answer = asker.ask(outside, container.as_ref()).await?;
    carriers.see_outside(&asker, &answer, outside);
    paths.push(Arc::new(answer.path(Packet::Outside)));

    known.ask_by(carriers.names());
    for &address in &sound {
        if let Some(known) = known.paths(address) {
            paths.extend(known.iter().cloned());
            continue;
        }
        let to_container = carriers.to_container(&asker, address).await?;
        paths.extend(to_container.iter().cloned());
        known.keep_paths(address, to_container);
    }
    if let Some(&to) = sound.first() {
        for from in own_addresses(seen) {
            let own = Source { address: from, interface: None };
            let answer = asker.ask(to.into(), Some(&own)).await?;
            paths.push(Arc::new(answer.path(Packet::FromHost { from, to })));
        }
    }
    let uplinks = carriers.uplinks();
    // Whoever is the first container of this host is not answered by what was asked for none.
    known.keep_carriers(container.map(|_| Arc::new(carriers)));
    Ok(Paths { paths, uplinks })
}

/// An address of the outside.
fn outside_of(wanted: &Host) -> Ipv4Addr {
    let range = wanted.range();
    let is_outside = |address: &&Ipv4Addr| range.is_none_or(|range| !range.contains(*address));
    OUTSIDE.iter().find(is_outside).copied().unwrap_or(OUTSIDE[0])
}

/// Addresses of this host by which its services may answer.
fn own_addresses(seen: &Seen) -> BTreeSet<Ipv4Addr> {
    let of_others = |index| seen.interface(index).is_some_and(|end| end.up && end.serves.is_none());
    let held = seen.addresses.iter().filter(|held| of_others(held.header.index)).filter_map(address::ip);
    let inet = held.filter_map(|ip| match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    });
    inet.filter(|address| !address.is_loopback() && !address.is_link_local()).take(OWN_MAX).collect()
}
