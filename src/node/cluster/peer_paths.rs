//! The path to each other host: where this host is, what others say of where they are, and the routes that follow.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use ipnet::Ipv4Net;

use crate::{
    addr::{Range, join},
    mesh::{Delivery, Kind, Mesh},
    node::boundary::out::PATH_CHANNEL,
    peer::PeerName,
    state::{Hop, HostRoutes},
    time::Timestamp,
    underlay::{Exchange, Path, Talk, Underlay},
};

/// Where this host is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::node) struct Own {
    pub underlay: Underlay,
    /// The interface of each of its addresses.
    pub links: BTreeMap<Ipv4Net, String>,
}

/// What is known of the paths.
#[derive(Debug, Default)]
pub(in crate::node) struct PeerPaths {
    /// `None` where Weave Net routers share the cluster: they tell no path, and all goes by the VPC.
    exchange: Option<Exchange>,
    links: BTreeMap<Ipv4Net, String>,
    /// The routes of this host to what others own, as last made up.
    routes: Arc<HostRoutes>,
}

impl PeerPaths {
    pub fn new(weave_peers: bool) -> PeerPaths {
        PeerPaths { exchange: (!weave_peers).then(Exchange::default), ..PeerPaths::default() }
    }

    /// Where this host is, once that is known; what was known stays.
    pub fn set_own(&mut self, now: Timestamp, own: Option<Own>) {
        if let (Some(exchange), Some(Own { underlay, links })) = (&mut self.exchange, own) {
            exchange.set_own(now, Some(underlay));
            self.links = links;
        }
    }

    /// Other peers are there, or others are connected. Returns whether any was found where it was not before.
    pub fn see(&mut self, now: Timestamp, mesh: &Mesh) -> bool {
        let Some(exchange) = &mut self.exchange else { return false };
        let established = mesh.connections().filter(|view| view.established);
        let found = established.filter_map(|view| Some((view.peer?, inet(view.remote.ip())?)));
        let is_found = exchange.see(now, &mesh.reachable(), found);
        let is_vouched = exchange.wants_vouchers() && {
            let links = mesh.links().filter_map(|(from, to, ip)| Some((from, to, inet(ip)?)));
            exchange.vouch(links)
        };
        is_found || is_vouched
    }

    /// A peer says where it is. What cannot be read is of a later version. Returns whether it is news.
    pub fn on_talk(&mut self, now: Timestamp, delivery: &Delivery) -> bool {
        let (Kind::Unicast { from }, Some(exchange)) = (delivery.kind, &mut self.exchange) else {
            return false;
        };
        Talk::decode(&delivery.payload).is_ok_and(|talk| exchange.hear(now, from, talk))
    }

    /// Says what there is to say. Whoever loses it is told again.
    pub fn settle(&mut self, now: Timestamp, mesh: &mut Mesh) -> bool {
        let mut any = false;
        while let Some((peer, talk)) = self.exchange.as_mut().and_then(|exchange| exchange.next(now)) {
            any = true;
            let _ = mesh.unicast(peer, PATH_CHANNEL, &talk.encode());
        }
        any
    }

    /// When there is something to say.
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.exchange.as_ref()?.next_wake()
    }

    /// The path to a peer.
    pub fn to(&self, peer: PeerName) -> Path {
        self.exchange.as_ref().map_or(Path::Vpc, |exchange| exchange.path(peer))
    }

    /// Whether it is known that no path leads to a peer.
    pub fn is_apart(&self, peer: PeerName) -> bool {
        matches!(self.to(peer), Path::Apart { .. })
    }

    /// Where packets for a peer are handed to, where they go past the VPC.
    pub fn hop(&self, peer: PeerName) -> Option<Hop> {
        match self.to(peer) {
            Path::Direct { from, to } => Some(Hop { via: to, interface: self.links.get(&from)?.clone() }),
            Path::Vpc | Path::Apart { .. } | Path::Unknown(_) => None,
        }
    }

    /// The routes of this host to what others own, as last made up.
    pub fn routes(&self) -> &Arc<HostRoutes> {
        &self.routes
    }

    /// Makes them up for these owners, of whom `me` is this host. Where nothing is led past the VPC that takes no time.
    pub fn lead(&mut self, owners: &[(Range, PeerName)], me: PeerName, seen: &HostRoutes) {
        let has_direct = self.exchange.as_ref().is_some_and(Exchange::has_direct);
        let routes =
            if has_direct || !seen.is_empty() { self.made_up(owners, me, seen) } else { HostRoutes::new() };
        if *self.routes != routes {
            self.routes = Arc::new(routes);
        }
    }

    /// As few as the pieces allow. Of those in place, `seen`, the ones stay that lead to peers of whom it is not known where they are;
    /// all of them while it is not known who owns what.
    fn made_up(&self, owners: &[(Range, PeerName)], me: PeerName, seen: &HostRoutes) -> HostRoutes {
        if owners.is_empty() {
            return seen.clone();
        }
        let (mut by_hop, mut unknown) = (BTreeMap::<Hop, Vec<Range>>::new(), Vec::new());
        let mut known: BTreeMap<PeerName, (Option<Hop>, bool)> = BTreeMap::new();
        for &(piece, owner) in owners.iter().filter(|(_, owner)| *owner != me && *owner != PeerName::UNKNOWN)
        {
            let path = || (self.hop(owner), matches!(self.to(owner), Path::Unknown(_)));
            match known.entry(owner).or_insert_with(path) {
                (Some(hop), _) => by_hop.entry(hop.clone()).or_default().push(piece),
                (None, true) => unknown.push(piece),
                (None, false) => {}
            }
        }
        let mut routes = HostRoutes::new();
        for (hop, pieces) in by_hop {
            let cidrs = join(pieces).into_iter().flat_map(Range::cidrs);
            routes.extend(cidrs.map(|cidr| (cidr, hop.clone())));
        }
        let is_kept = |cidr: &Ipv4Net| unknown.iter().any(|piece| piece.overlaps((*cidr).into()));
        for (cidr, hop) in seen.iter().filter(|(cidr, _)| is_kept(cidr)) {
            routes.entry(*cidr).or_insert_with(|| hop.clone());
        }
        routes
    }
}

fn inet(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::underlay::Place;

    const US: PeerName = PeerName::from_u64(1);
    const B: PeerName = PeerName::from_u64(2);
    const C: PeerName = PeerName::from_u64(3);

    fn at(address: &str) -> Underlay {
        Underlay { place: Place::Outside, addresses: [address.parse().unwrap()].into(), direct: false }
    }

    fn owner(first: &str, last: &str, peer: PeerName) -> (Range, PeerName) {
        (Range::new(first.parse().unwrap(), last.parse().unwrap()), peer)
    }

    fn routes(list: &[(&str, u8)]) -> HostRoutes {
        let hop = |host| Hop { via: [192, 168, 7, host].into(), interface: "eth0".to_owned() };
        list.iter().map(|(cidr, host)| (cidr.parse().unwrap(), hop(*host))).collect()
    }

    /// On a link with one that was found there.
    fn beside_b() -> PeerPaths {
        let mut paths = PeerPaths::new(false);
        let underlay = at("192.168.7.1/24");
        let links = [("192.168.7.1/24".parse().unwrap(), "eth0".to_owned())].into();
        paths.set_own(Timestamp::ZERO, Some(Own { underlay, links }));
        let exchange = paths.exchange.as_mut().unwrap();
        exchange.see(Timestamp::ZERO, &[B, C].into(), [(B, Ipv4Addr::new(192, 168, 7, 2))].into_iter());
        let said = Talk { underlay: at("192.168.7.2/24"), knows: None, asks: false };
        exchange.hear(Timestamp::ZERO, B, said);
        paths
    }

    fn led(paths: &mut PeerPaths, owners: &[(Range, PeerName)], seen: &HostRoutes) -> HostRoutes {
        paths.lead(owners, US, seen);
        (**paths.routes()).clone()
    }

    #[test]
    fn pieces_of_one_host_that_lie_together_take_one_route() {
        let owners = [
            owner("10.32.0.0", "10.33.0.0", US),
            owner("10.33.0.0", "10.34.0.0", B),
            owner("10.34.0.0", "10.36.0.0", B),
            owner("10.36.0.0", "10.40.0.0", B),
        ];
        let wanted = routes(&[("10.33.0.0/16", 2), ("10.34.0.0/15", 2), ("10.36.0.0/14", 2)]);
        assert_eq!(led(&mut beside_b(), &owners, &HostRoutes::new()), wanted);
        let owners = [owner("10.36.0.0", "10.38.0.0", B), owner("10.38.0.0", "10.40.0.0", B)];
        assert_eq!(led(&mut beside_b(), &owners, &HostRoutes::new()), routes(&[("10.36.0.0/14", 2)]));
    }

    #[test]
    fn routes_to_whom_nothing_is_known_of_stay_and_those_to_nobody_go() {
        let owners = [owner("10.32.0.0", "10.36.0.0", B), owner("10.36.0.0", "10.40.0.0", C)];
        let seen = routes(&[("10.32.0.0/14", 9), ("10.36.0.0/14", 3), ("10.44.0.0/14", 3)]);
        let wanted = routes(&[("10.32.0.0/14", 2), ("10.36.0.0/14", 3)]);
        assert_eq!(led(&mut beside_b(), &owners, &seen), wanted);
    }

    #[test]
    fn a_host_without_a_ring_leaves_all_routes_as_they_are() {
        let seen = routes(&[("10.32.0.0/14", 9), ("10.44.0.0/14", 3)]);
        assert_eq!(led(&mut beside_b(), &[], &seen), seen);
    }

    #[test]
    fn a_host_that_knows_nothing_yet_leaves_all_routes_to_others_as_they_are() {
        let owners = [owner("10.32.0.0", "10.36.0.0", B), owner("10.36.0.0", "10.40.0.0", US)];
        let seen = routes(&[("10.32.0.0/14", 2), ("10.36.0.0/14", 2)]);
        let kept = routes(&[("10.32.0.0/14", 2)]);
        assert_eq!(led(&mut PeerPaths::new(false), &owners, &seen), kept);
        assert_eq!(led(&mut PeerPaths::new(true), &owners, &seen), HostRoutes::new(), "all goes by the VPC");
    }
}
