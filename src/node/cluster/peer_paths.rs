//! The path to each other host: where this host is, what others say of where they are, and the routes that follow.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net};

use super::other_ends::OtherEnds;
use crate::{
    addr::{Family, MTU6_MIN, Range, join},
    mesh::{Delivery, Kind, Mesh},
    node::boundary::out::PATH_CHANNEL,
    peer::PeerName,
    state::{Hop, HostRoutes, Remote, TUNNEL_OVERHEAD, Tunnel, TunnelKey, TunnelPeer},
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
    /// What leads to what others own, as last made up.
    led: Remote,
    /// What hosts own that want all encrypted.
    encrypted: BTreeSet<Ipv4Net>,
    /// Where the other ends of tunnels are.
    ends: OtherEnds,
}

/// What there is to lead to.
#[derive(Clone, Copy, Debug)]
pub(in crate::node) struct Owned<'a> {
    /// Who owns what; nothing while that is not known.
    pub owners: &'a [(Range, PeerName)],
    /// This host.
    pub me: PeerName,
    /// The kinds of addresses that containers have.
    pub families: &'a [Family],
}

/// What other hosts own, and the path to each.
type Others = BTreeMap<PeerName, (Path, Vec<Range>)>;
/// The other ends of the tunnel.
type Ends = BTreeMap<TunnelKey, TunnelPeer>;

/// The device of the tunnel, as it is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::node) enum Device {
    /// There is to be none.
    Off,
    /// It is not known yet: it stays as it is.
    AsItIs,
    /// With this key, at this port, for packets no longer than this.
    On { key: TunnelKey, port: u16, mtu: u32 },
}

impl Device {
    /// The tunnel that it makes with these other ends, where there is this one.
    fn tunnel(self, seen: Option<&Tunnel>, peers: Ends) -> Option<Tunnel> {
        match self {
            Device::Off => None,
            Device::AsItIs => seen.cloned(),
            Device::On { key, port, mtu } => Some(Tunnel { key, port, mtu, up: true, peers }),
        }
    }
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
        let is_found = exchange.see(now, mesh.reachable(), found);
        let is_met = exchange.meet(mesh.met().filter_map(|(peer, ip)| Some((peer, inet(ip)?))));
        let is_vouched = exchange.wants_vouchers() && {
            let links = mesh.links().filter_map(|(from, to, ip)| Some((from, to, inet(ip)?)));
            exchange.vouch(links)
        };
        is_found || is_met || is_vouched
    }

    /// A peer says where it is. What cannot be read is of a later version. Returns whether it is news.
    pub fn on_talk(&mut self, now: Timestamp, delivery: &Delivery) -> bool {
        let (Kind::Unicast { from }, Some(exchange)) = (delivery.kind, &mut self.exchange) else {
            return false;
        };
        Talk::decode(&delivery.payload).is_ok_and(|talk| exchange.hear(now, from, talk))
    }

    /// Time has passed. Returns whether another path may follow from that.
    pub fn pass(&mut self, now: Timestamp) -> bool {
        self.exchange.as_mut().is_some_and(|exchange| exchange.pass(now))
    }

    /// Says what there is to say. Whoever loses it is told again.
    pub fn settle(&mut self, now: Timestamp, mesh: &mut Mesh) -> bool {
        let mut any = false;
        while let Some((peer, talk)) = self.exchange.as_mut().and_then(|exchange| exchange.next(now)) {
            any = true;
            let _ = mesh.unicast(peer, PATH_CHANNEL, &talk.encode());
        }
        if let Some(exchange) = &self.exchange {
            mesh.seek(now, &exchange.sought().iter().copied().map(IpAddr::V4).collect());
        }
        any
    }

    /// When there is something to say, or enough time has passed.
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.exchange.as_ref()?.next_wake()
    }

    /// The path to a peer.
    pub fn to(&self, peer: PeerName) -> Path {
        self.exchange.as_ref().map_or(Path::Vpc, |exchange| exchange.path(peer))
    }

    /// Whether it is known that no path leads to a peer.
    pub fn is_apart(&self, peer: PeerName) -> bool {
        matches!(self.to(peer), Path::Apart { .. } | Path::Bare { .. })
    }

    /// The longest packet that gets to a peer, where it may be shorter than its links take.
    pub fn mtu(&self, peer: PeerName) -> Option<u32> {
        match self.to(peer) {
            Path::Tunnel { mtu, .. } => Some(mtu),
            Path::Vpc | Path::Direct { .. } | Path::Apart { .. } | Path::Bare { .. } | Path::Unknown(_) => {
                None
            }
        }
    }

    /// Where packets for a peer are handed to, where they go past the VPC.
    pub fn hop(&self, peer: PeerName) -> Option<Hop> {
        self.hop_of(&self.to(peer), Family::V4)
    }

    /// The same of addresses of one kind, where the path carries them.
    fn hop_of(&self, path: &Path, family: Family) -> Option<Hop> {
        match (path, family) {
            (Path::Direct { from, to, .. }, Family::V4) => {
                Some(Hop::direct(IpAddr::V4(*to), self.links.get(from)?))
            }
            (Path::Direct { from, to6, .. }, Family::V6(_)) => {
                Some(Hop::direct(IpAddr::V6((*to6)?), self.links.get(from)?))
            }
            (Path::Tunnel { mtu, .. }, _) if carries(*mtu, family) => {
                Some(Hop::tunnel(Some(*mtu).filter(|mtu| Some(*mtu) != self.device_mtu())))
            }
            (
                Path::Tunnel { .. } | Path::Vpc | Path::Apart { .. } | Path::Bare { .. } | Path::Unknown(_),
                _,
            ) => None,
        }
    }

    /// The longest packet that the device takes.
    fn device_mtu(&self) -> Option<u32> {
        let end = self.exchange.as_ref()?.own()?.tunnel?;
        Some(end.mtu - TUNNEL_OVERHEAD)
    }

    /// What leads to what others own, as last made up.
    pub fn led(&self) -> &Remote {
        &self.led
    }

    /// Makes it up for these owners, of whom `me` is this host. Where nothing is led past the VPC that takes no time.
    pub fn lead(&mut self, now: Timestamp, owned: Owned<'_>, seen: &Remote, device: Device) {
        let leads = self.exchange.as_ref().is_some_and(Exchange::leads_past_vpc);
        let others = match leads || !seen.routes.is_empty() || seen.tunnel.is_some() {
            true => self.others(owned),
            false => Others::new(),
        };
        let there = seen.tunnel.as_deref();
        // While it is not known who owns what, all stays.
        let (routes, ends) = match owned.owners.is_empty() {
            true => ((*seen.routes).clone(), there.map(|there| there.peers.clone()).unwrap_or_default()),
            false => {
                let ends = self.ends_for(now, &others, owned.families, there);
                (self.routes_to(&others, owned.families, &seen.routes), ends)
            }
        };
        let tunnel = device.tunnel(there, ends);
        self.encrypted = self.encrypted_of(&others);
        if *self.led.routes != routes {
            self.led.routes = Arc::new(routes);
        }
        if self.led.tunnel.as_deref() != tunnel.as_ref() {
            self.led.tunnel = tunnel.map(Arc::new);
        }
    }

    /// What others than this host own, and the path to each.
    fn others(&self, Owned { owners, me, .. }: Owned<'_>) -> Others {
        let mut others = Others::new();
        for &(piece, owner) in owners.iter().filter(|(_, owner)| ![me, PeerName::UNKNOWN].contains(owner)) {
            others.entry(owner).or_insert_with(|| (self.to(owner), Vec::new())).1.push(piece);
        }
        others
    }

    /// What hosts own that want all encrypted, whatever this host wants.
    fn encrypted_of(&self, others: &Others) -> BTreeSet<Ipv4Net> {
        let Some(exchange) = &self.exchange else { return BTreeSet::new() };
        let encrypts =
            |peer| exchange.underlay(peer).and_then(|there| there.tunnel).is_some_and(|end| end.encrypts);
        let theirs = others.iter().filter(|(peer, _)| encrypts(**peer));
        cidrs(theirs.flat_map(|(_, (_, pieces))| pieces)).collect()
    }

    /// What other hosts own whose packets are to be encrypted, since those hosts want it so.
    pub fn encrypted(&self) -> &BTreeSet<Ipv4Net> {
        &self.encrypted
    }

    /// As few as the pieces allow. Of those in place, `seen`, the ones stay that lead to peers of whom it is not known where they are.
    fn routes_to(&self, others: &Others, families: &[Family], seen: &HostRoutes) -> HostRoutes {
        let mut by_hop = BTreeMap::<(Family, Hop), Vec<Range>>::new();
        for (path, pieces) in others.values() {
            let hops = families.iter().filter_map(|family| Some((*family, self.hop_of(path, *family)?)));
            hops.for_each(|way| by_hop.entry(way).or_default().extend(pieces));
        }
        let mut routes = HostRoutes::new();
        for ((family, hop), pieces) in by_hop {
            routes.extend(cidrs(&pieces).map(|cidr| (family.cidr(cidr), hop.clone())));
        }
        let unknown = unknown(others);
        for (cidr, hop) in seen.iter().filter(|(cidr, _)| is_of_any(**cidr, families, &unknown)) {
            routes.entry(*cidr).or_insert_with(|| hop.clone());
        }
        routes
    }

    /// The other ends of tunnels, each with what its host owns. Of those in place the ones stay that have what is owned by peers of whom
    /// it is not known where they are.
    fn ends_for(
        &mut self,
        now: Timestamp,
        others: &Others,
        families: &[Family],
        seen: Option<&Tunnel>,
    ) -> Ends {
        let is_by_tunnel = |peer| matches!(others.get(&peer), Some((Path::Tunnel { .. }, _)));
        self.ends.retain(is_by_tunnel);
        let mut ends = BTreeMap::new();
        for (&peer, (path, pieces)) in others {
            let &Path::Tunnel { key, endpoint, mtu } = path else { continue };
            let end = self.ends.see(now, peer, endpoint, seen.and_then(|seen| seen.peers.get(&key)));
            // Whoever says that he has the key of another takes nothing from that one.
            let carried = families.iter().filter(|family| carries(mtu, **family));
            let allowed = carried.flat_map(|family| cidrs(pieces).map(|cidr| family.cidr(cidr)));
            ends.entry(key).or_insert(end).allowed.extend(allowed);
        }
        let unknown = unknown(others);
        for (key, end) in seen.into_iter().flat_map(|seen| &seen.peers) {
            let kept: BTreeSet<IpNet> =
                end.allowed.iter().filter(|cidr| is_of_any(**cidr, families, &unknown)).copied().collect();
            if !kept.is_empty() {
                let as_it_is = || TunnelPeer::new(None, BTreeSet::new());
                ends.entry(*key).or_insert_with(as_it_is).allowed.extend(kept);
            }
        }
        ends
    }
}

/// What is owned by peers of whom it is not known where they are.
fn unknown(others: &Others) -> Vec<Range> {
    let of_unknown = others.values().filter(|(path, _)| matches!(path, Path::Unknown(_)));
    of_unknown.flat_map(|(_, pieces)| pieces).copied().collect()
}

/// As few CIDRs as these pieces are together.
fn cidrs<'a>(pieces: impl IntoIterator<Item = &'a Range>) -> impl Iterator<Item = Ipv4Net> {
    join(pieces.into_iter().copied()).into_iter().flat_map(Range::cidrs)
}

/// Whether a CIDR of one of these kinds has addresses of the pieces.
fn is_of_any(cidr: IpNet, families: &[Family], pieces: &[Range]) -> bool {
    let mut of_v4 = families.iter().filter_map(|family| family.cidr_of(cidr)).map(Range::from);
    of_v4.any(|cidr| pieces.iter().any(|piece| piece.overlaps(cidr)))
}

/// Whether a tunnel for packets no longer than this carries addresses of that kind.
fn carries(mtu: u32, family: Family) -> bool {
    match family {
        Family::V4 => true,
        Family::V6(_) => mtu >= MTU6_MIN,
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
    use crate::underlay::{Place, TunnelEnd};

    const US: PeerName = PeerName::from_u64(1);
    const B: PeerName = PeerName::from_u64(2);
    const C: PeerName = PeerName::from_u64(3);

    fn at(address: &str) -> Underlay {
        let addresses = [address.parse().unwrap()].into();
        Underlay { place: Place::Outside, addresses, direct: false, links6: [].into(), tunnel: None }
    }

    fn owner(first: &str, last: &str, peer: PeerName) -> (Range, PeerName) {
        (Range::new(first.parse().unwrap(), last.parse().unwrap()), peer)
    }

    fn routes(list: &[(&str, u8)]) -> HostRoutes {
        let hop = |host| Hop::direct([192, 168, 7, host].into(), "eth0");
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

    /// As this host, with addresses of IPv4 alone.
    fn of(owners: &[(Range, PeerName)]) -> Owned<'_> {
        Owned { owners, me: US, families: &[Family::V4] }
    }

    fn led(paths: &mut PeerPaths, owners: &[(Range, PeerName)], seen: &HostRoutes) -> HostRoutes {
        let seen = Remote { routes: seen.clone().into(), ..Remote::default() };
        paths.lead(Timestamp::ZERO, of(owners), &seen, Device::Off);
        (*paths.led().routes).clone()
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

    const PREFIX: &str = "fd00:1::/96";

    /// As this host, with addresses of both kinds.
    fn of_both<'a>(owners: &'a [(Range, PeerName)], families: &'a [Family; 2]) -> Owned<'a> {
        Owned { families, ..of(owners) }
    }

    fn both() -> [Family; 2] {
        [Family::V4, Family::V6(PREFIX.parse().unwrap())]
    }

    #[test]
    fn what_is_of_ipv6_is_led_over_the_link_by_its_addresses_of_ipv6() {
        let owners = [owner("10.32.0.0", "10.36.0.0", B)];
        let mut paths = beside_b();
        let v6 = "fd00:1::a20:0/110".parse().unwrap();
        paths.lead(Timestamp::ZERO, of_both(&owners, &both()), &Remote::default(), Device::Off);
        assert_eq!(paths.led().routes.get(&v6), None, "neither has one there");
        let exchange = paths.exchange.as_mut().unwrap();
        let on = |host: &str, link: &str| {
            let links6 = [(host.parse().unwrap(), link.parse().unwrap())].into();
            Underlay { links6, ..at(&format!("{host}/24")) }
        };
        exchange.set_own(Timestamp::ZERO, Some(on("192.168.7.1", "fe80::1:1")));
        let said = Talk { underlay: on("192.168.7.2", "fe80::1:2"), knows: None, asks: false };
        exchange.hear(Timestamp::ZERO, B, said);
        paths.lead(Timestamp::ZERO, of_both(&owners, &both()), &Remote::default(), Device::Off);
        let wanted = Hop::direct("fe80::1:2".parse().unwrap(), "eth0");
        assert_eq!(paths.led().routes.get(&v6), Some(&wanted));
        assert_eq!(paths.led().routes.len(), 2);
    }

    #[test]
    fn routes_of_ipv6_to_whom_nothing_is_known_of_stay_and_those_of_another_prefix_go() {
        let owners = [owner("10.36.0.0", "10.40.0.0", C)];
        let hop = || Hop::direct("fe80::3".parse().unwrap(), "eth0");
        let [kept, gone] = ["fd00:1::a24:0/110", "fd00:2::a24:0/110"].map(|cidr| cidr.parse().unwrap());
        let seen: HostRoutes = [(kept, hop()), (gone, hop())].into();
        let seen = Remote { routes: seen.into(), ..Remote::default() };
        let mut paths = beside_b();
        paths.lead(Timestamp::ZERO, of_both(&owners, &both()), &seen, Device::Off);
        assert_eq!(*paths.led().routes, [(kept, hop())].into());
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

    const KEY: TunnelKey = TunnelKey([1; 32]);
    const ON: Device = Device::On { key: KEY, port: 6784, mtu: 1440 };

    fn end(key: u8, mtu: u32) -> Option<TunnelEnd> {
        Some(TunnelEnd { key: TunnelKey([key; 32]), port: 6784, endpoint: None, mtu, encrypts: false })
    }

    /// With an end of a tunnel, and B elsewhere with another, which was found at an address whose last part is this.
    fn elsewhere_from_b(found: u8) -> PeerPaths {
        let mut paths = PeerPaths::new(false);
        let underlay = Underlay { tunnel: end(1, 1500), ..at("192.168.7.1/24") };
        paths.set_own(Timestamp::ZERO, Some(Own { underlay, links: BTreeMap::new() }));
        let said = Underlay { tunnel: end(2, 1400), ..at("10.9.9.9/24") };
        let exchange = paths.exchange.as_mut().unwrap();
        exchange.hear(Timestamp::ZERO, B, Talk { underlay: said, knows: None, asks: false });
        exchange.see(Timestamp::ZERO, &[B, C].into(), [(B, [203, 0, 113, found].into())].into_iter());
        paths
    }

    fn ends(paths: &mut PeerPaths, owners: &[(Range, PeerName)], seen: &Remote) -> Remote {
        paths.lead(Timestamp::ZERO, of(owners), seen, ON);
        paths.led().clone()
    }

    fn nets(list: &[&str]) -> BTreeSet<IpNet> {
        list.iter().map(|cidr| cidr.parse().unwrap()).collect()
    }

    #[test]
    fn a_tunnel_takes_and_sends_what_the_other_host_owns_and_nothing_else() {
        let owners = [
            owner("10.32.0.0", "10.34.0.0", US),
            owner("10.34.0.0", "10.35.0.0", B),
            owner("10.35.0.0", "10.36.0.0", B),
            owner("10.36.0.0", "10.37.0.0", C),
            owner("10.37.0.0", "10.38.0.0", B),
        ];
        let led = ends(&mut elsewhere_from_b(7), &owners, &Remote::default());
        let tunnel = led.tunnel.unwrap();
        let of_b = nets(&["10.34.0.0/15", "10.37.0.0/16"]);
        let endpoint = "203.0.113.7:6784".parse().ok();
        assert_eq!(tunnel.peers, [(TunnelKey([2; 32]), TunnelPeer::new(endpoint, of_b.clone()))].into());
        assert_eq!((tunnel.key, tunnel.mtu, tunnel.up), (KEY, 1440, true));
        let through: BTreeSet<IpNet> = led.routes.keys().copied().collect();
        assert_eq!(through, of_b);
        assert!(led.routes.values().all(|hop| *hop == Hop::tunnel(Some(1340))), "what B's link can carry");
    }

    #[test]
    fn a_tunnel_carries_both_kinds_unless_its_packets_are_too_short_for_ipv6() {
        let owners = [owner("10.34.0.0", "10.35.0.0", B)];
        for (mtu, carried) in
            [(1400, vec!["10.34.0.0/16", "fd00:1::a22:0/112"]), (1339, vec!["10.34.0.0/16"])]
        {
            let mut paths = elsewhere_from_b(7);
            let said = Underlay { tunnel: end(2, mtu), ..at("10.9.9.9/24") };
            let exchange = paths.exchange.as_mut().unwrap();
            exchange.hear(Timestamp::ZERO, B, Talk { underlay: said, knows: None, asks: false });
            paths.lead(Timestamp::ZERO, of_both(&owners, &both()), &Remote::default(), ON);
            let end = paths.led().tunnel.as_ref().unwrap().peers.values().next().unwrap();
            assert_eq!(end.allowed, nets(&carried), "{mtu}");
            assert_eq!(paths.led().routes.keys().copied().collect::<BTreeSet<_>>(), nets(&carried), "{mtu}");
        }
    }

    #[test]
    fn a_host_that_says_it_has_the_key_of_another_takes_nothing_from_that_one() {
        let owners = [owner("10.32.0.0", "10.34.0.0", B), owner("10.36.0.0", "10.37.0.0", C)];
        let mut paths = elsewhere_from_b(7);
        let said = Underlay { tunnel: end(2, 1400), ..at("10.9.9.8/24") };
        let exchange = paths.exchange.as_mut().unwrap();
        exchange.hear(Timestamp::ZERO, C, Talk { underlay: said, knows: None, asks: false });
        exchange.see(Timestamp::ZERO, &[B, C].into(), [(C, [203, 0, 113, 9].into())].into_iter());
        let led = ends(&mut paths, &owners, &Remote::default());
        let both = TunnelPeer::new("203.0.113.7:6784".parse().ok(), nets(&["10.32.0.0/15", "10.36.0.0/16"]));
        assert_eq!(led.tunnel.unwrap().peers, [(TunnelKey([2; 32]), both)].into());
    }

    #[test]
    fn the_tunnel_of_a_host_that_knows_nothing_yet_stays_as_it_is() {
        let owners = [owner("10.32.0.0", "10.36.0.0", B), owner("10.36.0.0", "10.40.0.0", US)];
        let seen = ends(&mut elsewhere_from_b(7), &owners, &Remote::default());
        let mut anew = PeerPaths::new(false);
        anew.lead(Timestamp::ZERO, of(&owners), &seen, Device::AsItIs);
        assert_eq!(*anew.led(), seen, "nobody has said where he is");
        let mut anew = PeerPaths::new(false);
        let kept = ends(&mut anew, &owners, &seen);
        let end = TunnelPeer::new(None, nets(&["10.32.0.0/14"]));
        assert_eq!(kept.tunnel.unwrap().peers, [(TunnelKey([2; 32]), end)].into(), "wherever it is sent to");
        assert_eq!(kept.routes, seen.routes);
        let kept = ends(&mut anew, &[], &seen);
        assert_eq!(kept.tunnel, seen.tunnel, "nor is it known who owns what");
        anew.lead(Timestamp::ZERO, of(&owners), &seen, Device::Off);
        assert_eq!(anew.led().tunnel, None);
    }

    #[test]
    fn a_host_on_our_link_is_led_to_as_before_until_it_was_found_there_or_was_not_for_too_long() {
        let owners = [owner("10.32.0.0", "10.36.0.0", B)];
        let direct = routes(&[("10.32.0.0/14", 2)]);
        let by_tunnel: HostRoutes = direct.keys().map(|cidr| (*cidr, Hop::tunnel(None))).collect();
        let mut paths = beside_b();
        paths.exchange = Some(Exchange::default());
        let underlay = Underlay { tunnel: end(1, 1500), ..at("192.168.7.1/24") };
        paths.set_own(Timestamp::ZERO, Some(Own { underlay, links: paths.links.clone() }));
        let exchange = paths.exchange.as_mut().unwrap();
        let said = Underlay { tunnel: end(2, 1500), ..at("192.168.7.2/24") };
        exchange.hear(Timestamp::ZERO, B, Talk { underlay: said, knows: None, asks: false });
        for seen in [&direct, &by_tunnel, &HostRoutes::new()] {
            assert_eq!(led(&mut paths, &owners, seen), *seen, "it may be found any moment");
        }
        let late = paths.next_wake().unwrap();
        assert!(!paths.pass(Timestamp::ZERO) && paths.pass(late));
        assert_eq!(
            led(&mut paths, &owners, &direct),
            by_tunnel,
            "it is on another link that looks like ours"
        );
        let exchange = paths.exchange.as_mut().unwrap();
        let said = Underlay { tunnel: end(3, 1500), ..at("192.168.7.2/24") };
        exchange.hear(late, B, Talk { underlay: said, knows: None, asks: false });
        assert_eq!(led(&mut paths, &owners, &direct), by_tunnel, "another key does not bring it here");
        let exchange = paths.exchange.as_mut().unwrap();
        assert!(exchange.meet([(B, Ipv4Addr::new(192, 168, 7, 2))].into_iter()));
        assert_eq!(led(&mut paths, &owners, &by_tunnel), direct);
        assert!(!paths.pass(late));
    }

    #[test]
    fn a_host_that_moves_is_sent_to_where_it_is_once_and_then_followed() {
        let owners = [owner("10.32.0.0", "10.36.0.0", B)];
        let mut paths = elsewhere_from_b(7);
        let mut moved = |found: u8, seen: &Remote| {
            let exchange = paths.exchange.as_mut().unwrap();
            exchange.see(Timestamp::ZERO, &[B].into(), [(B, [203, 0, 113, found].into())].into_iter());
            let led = ends(&mut paths, &owners, seen);
            let end = led.tunnel.as_ref().unwrap().peers.values().next().unwrap().clone();
            (end.moved, led)
        };
        let (is_moved, seen) = moved(7, &Remote::default());
        assert!(!is_moved, "it is new");
        assert!(!moved(7, &seen).0);
        let (is_moved, then) = moved(8, &seen);
        assert!(is_moved && moved(8, &seen).0, "until the device was told");
        assert!(!moved(8, &then).0 && !moved(8, &seen).0, "and then it may find it elsewhere");
    }
}
