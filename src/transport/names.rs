//! Names to addresses, and which of those are this host's own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::{net::lookup_host, time::timeout};

use crate::mesh::{Endpoint, Hosts};

/// How long a name may take to resolve.
pub const RESOLVE: Duration = Duration::from_secs(10);
/// Names that are resolved at a time.
const AT_A_TIME: usize = 64;

/// What each target stands for, or why that is not known.
pub type Answers = BTreeMap<String, Result<Hosts, String>>;

/// Resolves each of these targets by the host's own resolver, which is given so long for each.
pub async fn resolve(targets: impl IntoIterator<Item = String>, patience: Duration) -> Answers {
    resolve_by(|host| lookup(host, patience), &own_addresses(), targets).await
}

/// The same by another resolver, on a host that has these addresses.
pub async fn resolve_by<F>(
    resolver: impl Fn(String) -> F,
    own: &BTreeSet<IpAddr>,
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
        (target, found.map(|addresses| Hosts::new(addresses, own)))
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

/// Every address of this host.
pub(super) fn own_addresses() -> BTreeSet<IpAddr> {
    let Ok(addresses) = nix::ifaddrs::getifaddrs() else { return BTreeSet::new() };
    let of = |address: nix::sys::socket::SockaddrStorage| {
        address
            .as_sockaddr_in()
            .map(|v4| IpAddr::from(v4.ip()))
            .or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    };
    addresses.filter_map(|interface| interface.address.and_then(of)).collect()
}
