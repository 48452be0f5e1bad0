//! Who else is there and who owns what: the mesh, the address manager, and what becomes of the dead.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::Ipv4Net;

use super::{
    dead::{Around, Dead},
    peer_paths::PeerPaths,
    unconfirmed::Unconfirmed,
};
use crate::{
    addr::{Address, Range},
    ipam::{self, Allocator, Refused, Ticket, compact::Compaction},
    mesh::{self, Delivery, Mesh},
    node::{
        boundary::{
            io::Output,
            out::{CHANNEL, Effect, Out},
            tickets::Tickets,
        },
        facts::Facts,
        persist::memory::Write,
        protocol::request::{Refusal, RefusalKind},
    },
    peer::PeerName,
    probe::Canary,
    time::Timestamp,
};

/// A canary whose link has another MTU than any link may have is not believed.
const MTUS: std::ops::RangeInclusive<u32> = 68..=65_535;

/// What peers agree on, and how.
pub(in crate::node) struct Peers {
    pub mesh: Mesh,
    pub ipam: Allocator,
    /// What the address manager was asked, and for whom.
    pub tickets: Tickets,
    pub dead: Dead,
    pub unconfirmed: Unconfirmed,
    /// When to pass on what was heard, and who alone told us of it.
    pub relay: Option<(Timestamp, Option<PeerName>)>,
    pub compaction: Compaction,
    /// How packets get to the others.
    pub paths: PeerPaths,
    /// What others have to hear of.
    pub news: VecDeque<News>,
}

/// What happened among the peers that concerns more than them.
#[derive(Debug)]
pub(in crate::node) enum News {
    /// The address manager has answered.
    Answered(Ticket, Result<Vec<Ipv4Net>, Refused>),
    /// Something has another owner.
    RingChanged,
    /// Other peers are there, or others are connected.
    TopologyChanged,
    /// Something was said of the dead, or of canaries.
    Said,
    /// A peer says something about probes.
    Talk(Delivery),
    /// A peer says something about a block.
    Block(Delivery),
    /// The path to a peer may be another.
    Path,
}

impl Peers {
    pub fn new(mesh: Mesh, ipam: Allocator, dead: Dead, paths: PeerPaths) -> Peers {
        Peers {
            mesh,
            ipam,
            tickets: Tickets::default(),
            dead,
            unconfirmed: Unconfirmed::default(),
            relay: None,
            compaction: Compaction::default(),
            paths,
            news: VecDeque::new(),
        }
    }

    /// Carries on until nothing more follows. Returns whether anything did.
    pub fn settle(&mut self, facts: &Facts, out: &mut Out) -> bool {
        let is_late = self.paths.pass(facts.now);
        self.news.extend(is_late.then_some(News::Path));
        let told = self.paths.settle(facts.now, &mut self.mesh);
        told | self.settle_mesh(facts, out) | self.settle_ipam(facts, out) | self.settle_dead(facts, out)
    }

    fn settle_mesh(&mut self, facts: &Facts, out: &mut Out) -> bool {
        let mut any = false;
        while let Some(output) = self.mesh.next_output() {
            any = true;
            match output {
                mesh::Output::Dial(target) => out.outputs.push_back(Output::Dial(target)),
                mesh::Output::Send(conn, bytes) => out.outputs.push_back(Output::Send(conn, bytes)),
                mesh::Output::Close(conn, why) => out.outputs.push_back(Output::Close(conn, why)),
                mesh::Output::Datagram(to, bytes) => out.outputs.push_back(Output::Datagram(to, bytes)),
                mesh::Output::Deliver(delivery) => self.on_delivery(facts, out, delivery),
                mesh::Output::SendState(to) => {
                    // A peer that lost its store is to know that before it learns what it owns.
                    self.send_dead(out, to);
                    self.send_state(facts, out, |state| Effect::Gossip(CHANNEL, to, state));
                }
                mesh::Output::Offer => self.offer(facts, out),
                mesh::Output::Compare(offer) => self.compare(facts, out, offer),
                mesh::Output::SendAll(conn, channel) => self.send_all(facts, out, conn, channel),
                mesh::Output::TopologyChanged => self.on_topology_changed(facts),
            }
        }
        any
    }

    fn on_topology_changed(&mut self, facts: &Facts) {
        self.dead.touch();
        self.unconfirmed.touch();
        self.ipam.set_kin(self.kin(facts));
        let reachable = self.mesh.reachable();
        if self.ipam.reachable() != reachable {
            self.ipam.set_reachable(facts.now, reachable.clone());
        }
        let is_found = self.paths.see(facts.now, &self.mesh);
        self.news.extend(is_found.then_some(News::Path));
        self.news.push_back(News::TopologyChanged);
    }

    /// Carries out what the address manager wants.
    pub fn settle_ipam(&mut self, facts: &Facts, out: &mut Out) -> bool {
        let mut any = false;
        while let Some(effect) = self.ipam.next_effect() {
            any = true;
            match effect {
                ipam::Effect::Save(record) => out.ledger.write(Write::ipam(&record)),
                ipam::Effect::Broadcast(state) => {
                    out.let_out(Effect::Broadcast(CHANNEL, facts.identity.name, state));
                }
                ipam::Effect::Unicast(to, message) => out.let_out(Effect::Unicast(CHANNEL, to, message)),
                ipam::Effect::Answer(ticket, result) => self.news.push_back(News::Answered(ticket, result)),
                ipam::Effect::SetBack => {
                    self.dead.takeover.doubt();
                    self.dead.touch();
                }
                ipam::Effect::RingChanged => {
                    self.dead.touch();
                    self.news.push_back(News::RingChanged);
                }
            }
        }
        any
    }

    /// The metadata have said on which instance this is.
    pub fn set_instance(&mut self, instance: String) {
        self.dead.takeover.set_instance(instance);
        self.dead.touch();
        self.unconfirmed.touch();
    }

    // ===== what is known =====

    /// How many take turns in reading: of each peer the tables, and the instances that bear a tag.
    pub fn readers(&self, facts: &Facts) -> u32 {
        let peers = self.mesh.reachable().len() as u32 + 1;
        peers * (1 + u32::from(facts.config.ec2_tag.is_some()))
    }

    pub fn has_ring(&self) -> bool {
        !self.ipam.ring().is_empty()
    }

    /// What the ring and the mesh say now.
    pub fn around(&self, facts: &Facts) -> Around {
        let (mut owners, reachable) = (self.ipam.ring().shares(), self.mesh.reachable().clone());
        // Whoever claims what is ours matters to us as much as an owner does.
        for (_, peer) in self.ipam.contested() {
            owners.entry(peer).or_default();
        }
        Around { owners, reachable, grace: facts.config.vpc.reclaim }
    }

    /// Where Weave Net routers share the cluster: neighbours that are none.
    fn kin(&self, facts: &Facts) -> Option<BTreeSet<PeerName>> {
        let ours = self.mesh.connections().filter(|view| view.version.is_some());
        facts.config.mesh.weave_peers.then(|| ours.filter_map(|view| view.peer).collect())
    }

    pub fn named(&self, peer: PeerName) -> String {
        match self.ipam.nickname(peer) {
            Some(nickname) => format!("{peer} ({nickname})"),
            None => peer.to_string(),
        }
    }

    /// Addresses that a peer owns, or claims though they are ours.
    pub fn share(&self, peer: PeerName) -> u32 {
        let contested = self.ipam.contested().into_iter().filter(|(_, with)| *with == peer);
        let contested: u64 = contested.map(|(piece, _)| u64::from(piece.len())).sum();
        let share = self.ipam.ring().shares().get(&peer).copied().unwrap_or(0) + contested;
        u32::try_from(share).unwrap_or(u32::MAX)
    }

    /// Addresses of peers: of those we are connected to, of those we would like to be, and of those that others are.
    pub fn hosts(&self) -> impl Iterator<Item = Ipv4Addr> {
        let inet = |ip| match ip {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        };
        let connected = self.mesh.connections().filter(|view| view.peer.is_some());
        let connected = connected.filter_map(move |view| inet(view.remote.ip()));
        let named = self.mesh.targets().into_iter().filter_map(|view| {
            let host = view.target.rsplit_once(':').map_or(view.target.as_str(), |(host, _)| host);
            host.parse().ok()
        });
        connected.chain(named).chain(self.mesh.hosts().into_iter().filter_map(inet))
    }

    pub fn holder(&self, address: Address) -> Option<String> {
        let holds = |cidrs: &[Ipv4Net]| cidrs.iter().any(|cidr| Address::from(cidr.addr()) == address);
        self.ipam.allocations().iter().find(|(_, cidrs)| holds(cidrs)).map(|(ident, _)| ident.clone())
    }

    pub fn rests(&self, address: Address) -> bool {
        self.ipam.quarantined().iter().any(|range| range.contains(address))
    }

    pub fn find_peer(&self, text: &str) -> Result<PeerName, Refusal> {
        let owners = self.ipam.owners();
        let electors = self.dead.takeover.log().into_iter().flat_map(|log| log.electors());
        let names: BTreeSet<PeerName> =
            owners.iter().map(|(_, owner)| owner).chain(electors).copied().collect();
        let by_nickname: Vec<PeerName> =
            names.into_iter().filter(|name| self.ipam.nickname(*name) == Some(text)).collect();
        match (by_nickname.as_slice(), text.parse()) {
            ([name], _) => Ok(*name),
            ([], Ok(name)) => Ok(name),
            ([], Err(_)) => {
                Err(Refusal::new(RefusalKind::NotFound, format!("no peer `{text}` owns anything"))
                    .hint("`weavers ipam show` lists the owners"))
            }
            (several, _) => {
                let names: Vec<String> = several.iter().map(ToString::to_string).collect();
                let message = format!("nickname `{text}` is borne by {}", names.join(" and "));
                Err(Refusal::new(RefusalKind::Invalid, message).hint("name the peer by its name"))
            }
        }
    }

    pub fn used_in(&self, range: Range) -> u32 {
        let used = self.ipam.allocations().values().flatten();
        used.filter(|cidr| range.contains(cidr.addr().into())).count() as u32
    }

    /// Canaries of peers that the mesh reaches, and a path, with no more than gets there; an address that is not the peer's own is no
    /// canary of it.
    pub fn canaries_of_others(&self) -> BTreeMap<PeerName, Canary> {
        let believable = |(peer, canary): &(PeerName, Canary)| {
            self.mesh.is_reachable(*peer)
                && !self.paths.is_apart(*peer)
                && MTUS.contains(&canary.mtu)
                && self.ipam.ring().owner(canary.address.into()) == Some(*peer)
        };
        let canaries = self.dead.takeover.canaries().filter(believable);
        let reached = canaries.map(|(peer, canary)| {
            let mtu = canary.mtu.min(self.paths.mtu(peer).unwrap_or(u32::MAX));
            (peer, Canary { mtu, ..canary })
        });
        reached.collect()
    }

    pub fn canary_of(&self, peer: PeerName) -> Option<Canary> {
        let mut others = self.dead.takeover.canaries();
        others.find(|(other, _)| *other == peer).map(|(_, canary)| canary)
    }

    pub fn decisions(&self) -> Option<u64> {
        self.dead.takeover.log().map(|log| log.next())
    }
}
