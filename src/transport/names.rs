//! Names to addresses, and which of those are this host's own.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::{net::lookup_host, time::timeout};

use crate::mesh::{Endpoint, Hosts};

/// How long a name may take to resolve.
pub const RESOLVE: Duration = Duration::from_secs(10);
/// Which port does not matter to where packets leave from.
const ANY_PORT: u16 = 9;
/// Names that are resolved at a time.
const AT_A_TIME: usize = 64;

/// What each target stands for, or why that is not known.
pub type Answers = BTreeMap<String, Result<Hosts, String>>;

/// Resolves each of these targets by the host's own resolver, which is given so long for each.
pub async fn resolve(targets: impl IntoIterator<Item = String>, patience: Duration) -> Answers {
    resolve_by(|host| lookup(host, patience), is_own, targets).await
}

/// Resolves them by another resolver, on a host that has the addresses of which `is_own` says so.
pub async fn resolve_by<F>(
    resolver: impl Fn(String) -> F,
    is_own: impl Fn(IpAddr) -> bool,
    targets: impl IntoIterator<Item = String>,
) -> Answers
where
    F: Future<Output = Result<Vec<IpAddr>, String>>,
{
    let one = async |target: String| {
        let found = match Endpoint::parse(&target) {
            Ok(endpoint) => resolver(endpoint.host.to_owned()).await,
            Err(malformed) => Err(malformed),
        };
        (target, found.map(|addresses| hosts(&addresses, &is_own)))
    };
    stream::iter(targets).map(one).buffer_unordered(AT_A_TIME).collect().await
}

/// The addresses of a name, in the order in which the host's resolver gives them.
pub(super) async fn lookup(host: String, patience: Duration) -> Result<Vec<IpAddr>, String> {
    let found = match timeout(patience, lookup_host((host.as_str(), 0))).await {
        Ok(Ok(found)) => found.map(|address| address.ip()).collect::<Vec<_>>(),
        Ok(Err(error)) => return Err(format!("cannot resolve {host}: {error}")),
        Err(_) => return Err(format!("cannot resolve {host}: no answer in {} s", patience.as_secs())),
    };
    if found.is_empty() { Err(format!("cannot resolve {host}: it has no address")) } else { Ok(found) }
}

/// The hosts that these addresses are.
pub(super) fn hosts(found: &[IpAddr], is_own: impl Fn(IpAddr) -> bool) -> Hosts {
    let own = found.iter().copied().filter(|address| is_own(*address)).collect();
    Hosts::new(found.iter().copied(), &own)
}

/// Whether this host has the address: it would send from it what it sends there. To list all addresses takes the longer the more
/// containers there are. Nothing is sent.
pub(super) fn is_own(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((address, ANY_PORT))?;
        socket.local_addr()
    });
    // To any other address of the loopback interface a host sends from the first.
    address.is_loopback() || source.is_ok_and(|source| source.ip() == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_knows_its_own_addresses_and_takes_no_others_for_them() {
        for own in ["127.0.0.1", "127.3.2.1"] {
            assert!(is_own(own.parse().unwrap()), "{own}");
        }
        for other in ["192.0.2.1", "255.255.255.255", "0.0.0.0", "2001:db8::1"] {
            assert!(!is_own(other.parse().unwrap()), "{other}");
        }
        let listed = nix::ifaddrs::getifaddrs().unwrap().filter_map(|one| one.address);
        let listed = listed.filter_map(|address| Some(IpAddr::from(address.as_sockaddr_in()?.ip())));
        let missed: Vec<IpAddr> = listed.filter(|address| !is_own(*address)).collect();
        assert!(missed.is_empty(), "{missed:?}");
    }
}
