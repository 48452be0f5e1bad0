//! One host's network: what `kernel` observes and changes on a real one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv6Addr, SocketAddrV4},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net};

use crate::{
    addr::{Address, Prefix},
    state::{
        Fate, Fault, FaultKind, Forward, Host, HostAction, HostRoutes, Link, Loss, Made, Netns, Packet, Path,
        Ports, Remote, Rules, Surroundings, TUNNEL, Tunnel, TunnelKey, TunnelPeer, link_name,
    },
};

/// The uplink of every host, and its MTU.
const UPLINK: &str = "eth0";
const UPLINK_MTU: u32 = 9001;
/// Without it what comes in by the uplink is not passed on. The kernel turns it on with the setting for all.
const FORWARDING: &str = "net.ipv4.conf.eth0.forwarding";
const FORWARDING_OF_ALL: &str = "net.ipv4.ip_forward";

/// The network of one host, from one boot to the next.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its own address, with the length of the network around it.
    network: Ipv4Net,
    boots: u32,
    namespaces: BTreeSet<u64>,
    sysctls: BTreeMap<String, String>,
    rules: Option<Rules>,
    forward: Forward,
    gateway: bool,
    blocks: BTreeSet<IpNet>,
    host_routes: HostRoutes,
    tunnel: Option<Tunnel>,
    links: BTreeMap<Address, Veth>,
    ports: Option<Ports>,
}

/// A link and the namespace that its far end is in.
#[derive(Clone, Debug)]
struct Veth {
    /// 0, which no namespace has, where a runtime moves the far end.
    cookie: u64,
    mtu: u32,
    range: Ipv4Net,
    prefix: Option<Prefix>,
    broken: bool,
}

impl Kernel {
    /// A host with this address that was just switched on.
    pub fn new(network: Ipv4Net) -> Kernel {
        Kernel {
            network,
            boots: 1,
            namespaces: BTreeSet::new(),
            sysctls: BTreeMap::new(),
            rules: None,
            forward: Forward::Open,
            gateway: false,
            blocks: BTreeSet::new(),
            host_routes: HostRoutes::new(),
            tunnel: None,
            links: BTreeMap::new(),
            ports: None,
        }
    }

    /// Switched off and on again: nothing is left.
    pub fn reboot(&mut self) {
        *self = Kernel { boots: self.boots + 1, ..Kernel::new(self.network) };
    }

    /// The address of the link that leads into a namespace.
    pub fn link_into(&self, netns: &Netns) -> Option<Address> {
        let mut links = self.links.iter().filter(|_| self.holds(netns));
        links.find(|(_, veth)| veth.cookie == netns.cookie).map(|(address, _)| *address)
    }

    /// The id of this boot.
    pub fn boot(&self) -> String {
        format!("boot-{}", self.boots)
    }

    /// What is, as `Kernel::observe` reads it.
    pub fn observe(&self, wanted: &Host) -> Host {
        let links = self.links.iter().map(|(&address, veth)| {
            (address, Arc::new(self.observe_link(veth, wanted.links.get(&address).map(|one| &**one))))
        });
        let gone = wanted.links.iter().filter(|(address, link)| {
            let lost = link.netns.as_ref().is_some_and(|netns| !self.holds(netns));
            lost && !self.links.contains_key(address)
        });
        let sysctl = |name: &String| self.sysctls.get(name).cloned().unwrap_or_else(|| "0".to_owned());
        Host {
            sysctls: wanted.sysctls.keys().map(|name| (name.clone(), sysctl(name))).collect(),
            rules: match &wanted.rules {
                Some(rules) => self.rules.clone().filter(|found| found == rules),
                None => self.rules.clone(),
            },
            forward: self.forward.clone(),
            gateway: self.gateway,
            blocks: self.blocks.clone(),
            gone: gone.map(|(address, _)| *address).collect(),
            idle: BTreeSet::new(),
            ports: self.ports.clone(),
            links: Arc::new(links.collect()),
            lent: Arc::default(),
            foreign: BTreeMap::new(),
            uplinks: [(UPLINK.to_owned(), UPLINK_MTU)].into(),
            remote: Remote {
                routes: Arc::new(self.host_routes.clone()),
                tunnel: self.tunnel.clone().map(Arc::new),
                networks: [(self.network, UPLINK.to_owned())].into(),
                links6: [(UPLINK.to_owned(), self.link6())].into(),
                ..Remote::default()
            }
            .into(),
            paths: self.paths(wanted).into_iter().map(Arc::new).collect(),
            surroundings: Surroundings::default(),
        }
    }

    /// Packets leave by the uplink; those that come in by it reach the containers whose links are sound.
    fn paths(&self, wanted: &Host) -> Vec<Path> {
        let out = wanted.remote.asked.iter().map(|&other| Packet::ToOther(other)).chain([Packet::Outside]);
        let out = out.map(|packet| leaves(packet, UPLINK.to_owned()));
        let sound = self.links.iter().filter(|(_, veth)| !veth.broken).map(|(address, _)| *address);
        out.chain(sound.map(|address| self.inward(address))).collect()
    }

    /// What comes in by the uplink for the container of a sound link.
    fn inward(&self, address: Address) -> Path {
        let packet = Packet::ToContainer { address, uplink: UPLINK.to_owned() };
        match self.sysctls.get(FORWARDING).is_some_and(|value| value == "1") {
            true => leaves(packet, link_name(address)),
            false => Path { packet, fate: Fate::Lost(Loss::NotForwarded(UPLINK.to_owned())), route: None },
        }
    }

    fn observe_link(&self, veth: &Veth, wanted: Option<&Link>) -> Link {
        let mut link = Link { mtu: veth.mtu, range: veth.range, ..Link::default() };
        if let Some(moved) = wanted.filter(|wanted| wanted.far.moved) {
            (link.range, link.prefix, link.far) = (moved.range, moved.prefix, moved.far.clone());
            if veth.prefix != moved.prefix {
                link.faults.push("its addresses are not as they should be".to_owned());
            }
            return link;
        }
        let wanted = wanted.and_then(|wanted| Some((wanted, wanted.netns.as_ref()?)));
        let Some((wanted, netns)) = wanted else { return link };
        (link.range, link.prefix, link.far) = (wanted.range, wanted.prefix, wanted.far.clone());
        if !self.holds(netns) {
            link.faults.push("its namespace cannot be entered".to_owned());
            return link;
        }
        link.netns = Some(netns.clone());
        if veth.cookie != netns.cookie || veth.broken || veth.prefix != wanted.prefix {
            link.faults.push("its far end is not as it should be".to_owned());
        }
        link
    }

    /// Carries out one action.
    pub fn apply(&mut self, action: &HostAction) -> Result<(), Fault> {
        match action {
            HostAction::SetSysctl { name, value } => self.set(name, value),
            HostAction::LoadRules(rules) => self.rules = Some(rules.clone()),
            HostAction::OpenForward { .. } => self.forward = Forward::Opened("DOCKER-USER".to_owned()),
            HostAction::AddBlock(cidr) => drop(self.blocks.insert(*cidr)),
            HostAction::AddHostRoute { hop, .. } if hop.interface == TUNNEL && self.tunnel.is_none() => {
                return Err(outdated("there is no tunnel"));
            }
            HostAction::AddHostRoute { destination, hop } => {
                drop(self.host_routes.insert(*destination, hop.clone()));
            }
            HostAction::SetTunnel { key, port, mtu } => {
                let (key, port, mtu) = (*key, *port, *mtu);
                let peers = self.tunnel.take().map(|tunnel| tunnel.peers).unwrap_or_default();
                self.tunnel = Some(Tunnel { key, port, mtu, up: true, peers });
            }
            HostAction::SetTunnelPeer { key, endpoint, allowed } => {
                self.set_peer(*key, *endpoint, allowed)?
            }
            HostAction::DeleteTunnelPeer(key) => {
                self.tunnel.iter_mut().for_each(|tunnel| drop(tunnel.peers.remove(key)));
            }
            HostAction::DeleteTunnel => {
                self.tunnel = None;
                self.host_routes.retain(|_, hop| hop.interface != TUNNEL);
            }
            HostAction::AddGateway => self.gateway = true,
            HostAction::CreateLink { address, netns, mtu, range, prefix, .. }
            | HostAction::MendLink { address, netns, mtu, range, prefix, .. } => {
                if !self.holds(netns) {
                    return Err(outdated(&format!("namespace {} is gone", netns.cookie)));
                }
                let (mtu, range, prefix) = (*mtu, *range, *prefix);
                let veth = Veth { cookie: netns.cookie, mtu, range, prefix, broken: false };
                self.links.insert(*address, veth);
            }
            HostAction::MakePair { address, mtu, prefix, .. } => {
                let (mtu, range, prefix) = (*mtu, Ipv4Net::default(), *prefix);
                let veth = Veth { cookie: 0, mtu, range, prefix, broken: false };
                self.links.insert(*address, veth);
            }
            HostAction::SetPorts(ports) => self.ports = Some(ports.clone()).filter(|ports| !ports.is_empty()),
            HostAction::DeleteLink(address) => drop(self.links.remove(address)),
            HostAction::DeleteGateway => self.gateway = false,
            HostAction::DeleteBlock(cidr) => drop(self.blocks.remove(cidr)),
            HostAction::DeleteHostRoute { destination, hop } => {
                if self.host_routes.get(destination) == Some(hop) {
                    self.host_routes.remove(destination);
                }
            }
            HostAction::CloseForward => self.forward = Forward::Open,
            HostAction::DeleteRules => self.rules = None,
        }
        Ok(())
    }

    /// An address is that of one end only.
    fn set_peer(
        &mut self,
        key: TunnelKey,
        endpoint: Option<SocketAddrV4>,
        allowed: &BTreeSet<IpNet>,
    ) -> Result<(), Fault> {
        let tunnel = self.tunnel.as_mut().ok_or_else(|| outdated("there is no tunnel"))?;
        tunnel.peers.values_mut().for_each(|other| other.allowed.retain(|cidr| !allowed.contains(cidr)));
        let known = tunnel.peers.get(&key).and_then(|known| known.endpoint);
        tunnel.peers.insert(key, TunnelPeer::new(endpoint.or(known), allowed.clone()));
        Ok(())
    }

    /// What whoever made or mended a link reads back then, where it is whole and packets reach it.
    pub fn read_back(&self, action: &HostAction) -> Option<Made> {
        let (HostAction::CreateLink { address, netns, mtu, range, prefix, far }
        | HostAction::MendLink { address, netns, mtu, range, prefix, far }) = action
        else {
            return None;
        };
        let (mtu, range, prefix, far) = (*mtu, *range, *prefix, far.clone());
        let wanted = Link { netns: Some(netns.clone()), mtu, range, prefix, far, faults: Vec::new() };
        let link = self.observe_link(self.links.get(address)?, Some(&wanted));
        let paths = vec![Arc::new(self.inward(*address))];
        let is_whole = link == wanted && paths.iter().all(|path| matches!(path.fate, Fate::Leaves { .. }));
        is_whole.then(|| Made { address: *address, link: Arc::new(link), paths })
    }

    fn set(&mut self, name: &str, value: &str) {
        self.sysctls.insert(name.to_owned(), value.to_owned());
        if name == FORWARDING_OF_ALL {
            self.sysctls.insert(FORWARDING.to_owned(), value.to_owned());
        }
    }

    /// A container starts.
    pub fn make_namespace(&mut self, cookie: u64) -> Netns {
        self.namespaces.insert(cookie);
        Netns::new(&self.boot(), cookie, format!("/run/netns/c{cookie}"))
    }

    /// A container ends, and its link with it.
    pub fn drop_namespace(&mut self, cookie: u64) {
        self.namespaces.remove(&cookie);
        self.links.retain(|_, veth| veth.cookie != cookie);
    }

    /// Whether a sound link leads from this address into this namespace.
    pub fn leads(&self, address: Address, cookie: u64) -> bool {
        self.links.get(&address).is_some_and(|veth| veth.cookie == cookie && !veth.broken)
    }

    /// The addresses of all links.
    pub fn linked(&self) -> Vec<Address> {
        self.links.keys().copied().collect()
    }

    /// The addresses of the links that nobody meddled with.
    pub fn sound(&self) -> Vec<Address> {
        self.links.iter().filter(|(_, veth)| !veth.broken).map(|(address, _)| *address).collect()
    }

    /// Its routes to other hosts.
    pub fn host_routes(&self) -> &HostRoutes {
        &self.host_routes
    }

    /// Its tunnel.
    pub fn tunnel(&self) -> Option<&Tunnel> {
        self.tunnel.as_ref()
    }

    /// Its own address, with the length of the network around it.
    pub fn network(&self) -> Ipv4Net {
        self.network
    }

    /// Its own address of IPv6 on that link.
    pub fn link6(&self) -> Ipv6Addr {
        let [a, b, c, d] = self.network.addr().octets();
        Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d])
    }

    // ===== what others do to it =====

    /// Somebody deletes a link.
    pub fn lose_link(&mut self, address: Address) {
        self.links.remove(&address);
    }

    /// Somebody meddles with the far end of a link.
    pub fn break_link(&mut self, address: Address) {
        if let Some(veth) = self.links.get_mut(&address) {
            veth.broken = true;
        }
    }

    /// Somebody flushes the rules, the routes and the settings.
    pub fn flush(&mut self) {
        self.rules = None;
        self.gateway = false;
        self.blocks.clear();
        self.host_routes.clear();
        self.tunnel = None;
        self.sysctls.clear();
    }

    /// Docker starts and drops what it does not know.
    pub fn close_forward(&mut self) {
        self.forward = Forward::Closed("DOCKER-USER".to_owned());
    }

    fn holds(&self, netns: &Netns) -> bool {
        *netns.boot == *self.boot() && self.namespaces.contains(&netns.cookie)
    }
}

fn outdated(message: &str) -> Fault {
    Fault { kind: FaultKind::Outdated, message: message.to_owned(), hint: None, request_id: None }
}

fn leaves(packet: Packet, interface: String) -> Path {
    let fate = Fate::Leaves { interface, gateway: None };
    Path { packet, fate, route: None }
}
