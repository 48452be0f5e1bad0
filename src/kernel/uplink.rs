//! The links by which packets between hosts leave, by the addresses that the cloud knows them by.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, UdpSocket},
};

use nix::{
    ifaddrs::{InterfaceAddress, getifaddrs},
    sys::socket::SockaddrStorage,
};

use crate::{addr::Range, config::Config};

/// Addresses of the container range to which the way is looked for, spread over it. Those of this host lead nowhere.
const OF_RANGE: u32 = 16;
/// An address that is nobody's (RFC 5737).
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Nothing is sent there.
const PORT: u16 = 9;

/// MAC addresses of the links by which packets leave for containers of other hosts; of those that are configured, the
/// ones that do, or else all of them.
pub fn macs(config: &Config) -> Vec<String> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    let interfaces: Vec<InterfaceAddress> = interfaces.collect();
    let macs: BTreeMap<&str, String> = interfaces.iter().filter_map(mac).collect();
    let carrier = carrier(config, &interfaces, &macs);
    match (&config.network.uplinks, carrier) {
        (Some(named), Some(carrier)) if named.contains(carrier) => vec![macs[carrier].clone()],
        (Some(named), _) => named.iter().filter_map(|name| macs.get(name.as_str()).cloned()).collect(),
        (None, carrier) => carrier.map(|carrier| macs[carrier].clone()).into_iter().collect(),
    }
}

/// The link that most packets for the range leave by; where none does, for the hosts of peers; and where none is known,
/// for everybody else. What has no MAC address is no interface of the instance.
fn carrier<'a>(
    config: &Config,
    interfaces: &'a [InterfaceAddress],
    macs: &BTreeMap<&'a str, String>,
) -> Option<&'a str> {
    let range = Range::from(config.ipam.range);
    let step = (range.len() / OF_RANGE).max(1);
    let of_range = (0..OF_RANGE).map(|number| range.start.0.saturating_add(number * step + step / 2));
    let of_range: Vec<Ipv4Addr> =
        of_range.map(Ipv4Addr::from).filter(|address| range.contains((*address).into())).collect();
    let peers = config.peers.iter().filter_map(|peer| peer.parse().ok()).collect();
    [of_range, peers, vec![OUTSIDE]].into_iter().find_map(|destinations| {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        let links = destinations.into_iter().filter_map(|to| link_to(to, interfaces));
        links.filter(|link| macs.contains_key(link)).for_each(|link| *votes.entry(link).or_default() += 1);
        votes.into_iter().max_by_key(|(_, count)| *count).map(|(link, _)| link)
    })
}

/// The link of the address that the kernel would send from. Only a connected socket makes it decide.
fn link_to(destination: Ipv4Addr, interfaces: &[InterfaceAddress]) -> Option<&str> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((destination, PORT)).ok()?;
    let source = socket.local_addr().ok()?.ip();
    let has_it = |address: &SockaddrStorage| {
        address.as_sockaddr_in().is_some_and(|address| IpAddr::V4(address.ip()) == source)
    };
    let found = interfaces.iter().find(|one| one.address.as_ref().is_some_and(has_it));
    // To itself it sends from whatever the destination is.
    found.filter(|_| source != destination).map(|one| one.interface_name.as_str())
}

fn mac(interface: &InterfaceAddress) -> Option<(&str, String)> {
    let mac = interface.address.as_ref()?.as_link_addr()?.addr().filter(|mac| *mac != [0; 6])?;
    Some((&interface.interface_name, mac.map(|byte| format!("{byte:02x}")).join(":")))
}
