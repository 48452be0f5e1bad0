//! The links by which packets leave this host, by the addresses that the cloud knows them by.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, UdpSocket},
};

use nix::{ifaddrs::getifaddrs, sys::socket::SockaddrStorage};

/// An address that is nobody's (RFC 5737). Nothing is sent there.
const OUTSIDE: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);

/// MAC addresses of the named links, or else of the one by which the kernel sends what has no route of its own.
pub fn macs(named: Option<&BTreeSet<String>>) -> Vec<String> {
    let names = named.cloned().unwrap_or_else(|| default_link().into_iter().collect());
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    let macs = interfaces.filter(|one| names.contains(&one.interface_name)).filter_map(|one| {
        let mac = one.address?.as_link_addr()?.addr()?;
        Some(mac.map(|byte| format!("{byte:02x}")).join(":"))
    });
    macs.collect()
}

/// The link of the address that the kernel would send from. Only a connected socket makes it decide.
fn default_link() -> Option<String> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(OUTSIDE).ok()?;
    let source = socket.local_addr().ok()?.ip();
    let has_it = |address: &SockaddrStorage| {
        address.as_sockaddr_in().is_some_and(|address| IpAddr::V4(address.ip()) == source)
    };
    let found = getifaddrs().ok()?.find(|one| one.address.as_ref().is_some_and(has_it));
    found.map(|one| one.interface_name)
}
