//! The links by which packets between hosts leave, by the addresses that the cloud knows them by.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, UdpSocket},
};

use rtnetlink::{Handle, new_connection, packet_route::address::AddressMessage};

use super::{
    address,
    link::{self, End},
};
use crate::{addr::Range, config::Config, state::Fault};

/// Addresses of the container range to which the way is looked for, spread over it. Those of this host lead nowhere.
const OF_RANGE: u32 = 16;
/// An address that is nobody's (RFC 5737).
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Nothing is sent there.
const PORT: u16 = 9;

/// MAC addresses of the links by which packets leave for containers of other hosts; of those that are configured, the
/// ones that do, or else all of them.
pub async fn macs(config: &Config) -> Vec<String> {
    let Ok((connection, handle, _)) = new_connection() else { return Vec::new() };
    let connection = tokio::spawn(connection);
    let links = links(config, &handle).await.unwrap_or_default();
    connection.abort();
    links.iter().map(|end| link::mac_text(&end.mac)).collect()
}

async fn links(config: &Config, handle: &Handle) -> Result<Vec<End>, Fault> {
    let carrier = carrier(config, handle).await?;
    let Some(named) = &config.network.uplinks else { return Ok(carrier.into_iter().collect()) };
    match carrier.filter(|carrier| named.contains(&carrier.name)) {
        Some(carrier) => Ok(vec![carrier]),
        None => found(handle, named).await,
    }
}

async fn found(handle: &Handle, names: &BTreeSet<String>) -> Result<Vec<End>, Fault> {
    let mut found = Vec::new();
    for name in names {
        found.extend(link::find(handle, name).await?.filter(has_mac));
    }
    Ok(found)
}

/// The link that most packets for the range leave by; where none does, for the hosts of peers; and where none is known,
/// for everybody else. What has no MAC address is no interface of the instance.
async fn carrier(config: &Config, handle: &Handle) -> Result<Option<End>, Fault> {
    let range = Range::from(config.ipam.range);
    let step = (range.len() / OF_RANGE).max(1);
    let of_range = (0..OF_RANGE).map(|number| range.start.0.saturating_add(number * step + step / 2));
    let of_range: Vec<Ipv4Addr> =
        of_range.map(Ipv4Addr::from).filter(|address| range.contains((*address).into())).collect();
    let peers = config.peers.iter().filter_map(|peer| peer.parse().ok()).collect();
    let held: BTreeMap<Ipv4Addr, u32> = address::all(handle).await?.iter().filter_map(inet).collect();
    for destinations in [of_range, peers, vec![OUTSIDE]] {
        let mut votes: BTreeMap<u32, usize> = BTreeMap::new();
        let links = destinations.into_iter().filter_map(|to| held.get(&source(to)?).copied());
        links.for_each(|index| *votes.entry(index).or_default() += 1);
        let mut candidates: Vec<(u32, usize)> = votes.into_iter().collect();
        candidates.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        for (index, _) in candidates {
            if let Some(end) = link::numbered(handle, index).await?.filter(has_mac) {
                return Ok(Some(end));
            }
        }
    }
    Ok(None)
}

/// The address that the kernel would send from. Only a connected socket makes it decide. To itself it sends from whatever
/// the destination is.
fn source(destination: Ipv4Addr) -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((destination, PORT)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(source) => Some(source).filter(|source| *source != destination),
        IpAddr::V6(_) => None,
    }
}

fn inet(held: &AddressMessage) -> Option<(Ipv4Addr, u32)> {
    match address::ip(held)? {
        IpAddr::V4(address) => Some((address, held.header.index)),
        IpAddr::V6(_) => None,
    }
}

fn has_mac(end: &End) -> bool {
    end.mac.len() == 6 && end.mac != [0; 6]
}
