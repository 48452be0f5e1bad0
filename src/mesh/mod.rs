//! The peer protocol on TCP 6783: introduction, encryption, topology, gossip.
//!
//! [`Mesh`] is one peer's side of it, without sockets and clocks: bytes and moments come in by
//! [`Mesh::handle`], and what is to be done goes out by [`Mesh::next_output`]. It is the protocol of Weave Net, whose
//! routers accept it.
//!
//! ```text
//! handshake ─ who is there (features), is it secret (crypto), where does a message end (frame)
//! admission ─ who is let in
//! message ─── what is said; relay: to whom it is passed on (routes, gossip)
//! topology ── who is in the mesh; dial: whom to connect to; compare: who need not be told
//! ```
//!
//! It differs from Weave Net where nothing on the wire forbids it: routes follow the topology at once, changes are announced after
//! a tenth of a second, and dialling is tried again sooner. Two peers that both offer [`OVERLAY`] notice a
//! silent cut in seconds rather than in a minute. With a router that offers only its own overlay, `sleeve` keeps that
//! one up, and carries nothing.

mod crypto;
mod frame;
mod features;
mod message;
mod handshake;
mod sleeve;
mod connection;
mod target;
mod dial;
mod admission;
mod description;
mod routes;
mod topology;
mod compare;
mod gossip;
mod interface;
mod lately;
mod peering;
mod relay;
mod unsent;

use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::Duration,
};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use self::{
    connection::Connection,
    description::Peer,
    dial::{Dialler, ENOUGH, Live},
    features::SHORT_ID_MAX,
    gossip::{Echoes, Surrogates},
    lately::Lately,
    routes::Routes,
    topology::Topology,
    unsent::Unsent,
};
use crate::{peer::PeerName, time::Timestamp};

pub use admission::{INTRODUCTIONS_MAX, INTRODUCTIONS_OF_HOST_MAX};
pub use crypto::public_key_of;
pub use description::LINKS_MAX;
pub use dial::{DISCOVERED_MAX, ENOUGH as NEIGHBOURS_ENOUGH, PAUSE_MAX, PAUSE_MIN, TargetState, Unheard};
pub use features::NICKNAME_LEN_MAX;
pub use frame::{FRAME_LEN_MAX, INTRODUCTION_LEN_MAX, MESSAGE_LEN_MAX};
pub use gossip::{ECHOES_MAX, RECENT_MAX, SURROGATES_MAX};
pub use interface::{
    ConnId, ConnectionView, Delivery, DroppedView, Input, Kind, NoRoute, Objection, Offer, Output, PeerView,
    Recipients, RefusedView, Settings, TargetView, UnsentView,
};
pub use message::CHANNEL_LEN_MAX;
pub use sleeve::DATAGRAM_LEN_MAX;
pub use target::{Endpoint, HOSTS_OF_NAME_MAX, Hosts};
pub use topology::PEERS_MAX;

/// The overlay of our own: packets go by the routes of the VPC.
pub const OVERLAY: &str = "weavers";
/// The overlay of Weave Net that can be kept up without carrying anything. Offered where its routers are welcome. Its overlay
/// `awsvpc` never is: since version 2.5.0 a router that hears of another one ends.
pub const SLEEVE: &str = "sleeve";
/// The channel that the mesh itself uses.
const TOPOLOGY: &str = "topology";

const GOSSIP_EVERY: Duration = Duration::from_secs(30);
const ANNOUNCE_AFTER: Duration = Duration::from_millis(100);
const PASS_ON_AFTER: Duration = Duration::from_millis(10);
/// How much longer changes are gathered before they are told, for each peer that may have some.
const GATHER_SHARE: Duration = Duration::from_millis(1);
const COLLECT_AFTER: Duration = Duration::from_secs(1);
const DISCOVER_AFTER: Duration = Duration::from_millis(100);
/// How many are dialled at once, and how soon the next: by then those who answer are neighbours.
const WAVE: (usize, Duration) = (8, Duration::from_millis(20));
/// The same where there are neighbours enough: who is not heard of may be cut off together with others.
const WAVE_IF_ENOUGH: (usize, Duration) = (1, Duration::from_secs(1));

/// One peer's side of the protocol.
pub struct Mesh {
    settings: Settings,
    rng: ChaCha8Rng,
    channels: BTreeSet<&'static str>,
    connections: BTreeMap<ConnId, Connection>,
    /// The one connection to each neighbour.
    neighbours: BTreeMap<PeerName, ConnId>,
    topology: Topology,
    routes: Routes,
    surrogates: Surrogates,
    echoes: Echoes,
    dialler: Dialler,
    live: Live,
    troubles: Troubles,
    timers: Timers,
    wake: Option<Timestamp>,
    outputs: VecDeque<Output>,
}

/// What people should know of.
#[derive(Debug, Default)]
struct Troubles {
    /// Peers that were turned away.
    refused: Lately<RefusedView>,
    /// Messages that no frame holds.
    unsent: Unsent,
    /// Messages of others that could not be used.
    dropped: Lately<DroppedView>,
}

/// What is due when, and what changed since it was last looked at.
#[derive(Debug, Default)]
struct Timers {
    gossip: Option<Timestamp>,
    announce: Option<Timestamp>,
    /// Peers to describe in the next announcement, beside ourselves.
    announced: BTreeSet<PeerName>,
    pass_on: Option<Timestamp>,
    news: News,
    collect: Option<Timestamp>,
    discover: Option<Timestamp>,
    /// No connection has anything due before this.
    connections: Option<Timestamp>,
    /// No target is due before this.
    dial: Option<Timestamp>,
    /// Nobody is dialled before this.
    wave: Timestamp,
    /// The routes are not those of the topology.
    stale: Option<Timestamp>,
    /// The application should look.
    changed: bool,
}

/// What was learned of peers and is to be passed on. When many start together this makes one message of many.
#[derive(Debug, Default)]
struct News {
    peers: BTreeSet<PeerName>,
    from: BTreeSet<PeerName>,
}

impl Mesh {
    /// A peer that knows nobody.
    pub fn new(settings: Settings, mut rng: ChaCha8Rng) -> Mesh {
        let ourselves = Peer {
            uid: settings.uid,
            nickname: settings.nickname.clone(),
            short_id: Some(rng.random_range(0..=SHORT_ID_MAX)),
            ..Peer::default()
        };
        let topology = Topology::new(settings.name, ourselves);
        Mesh {
            rng,
            channels: BTreeSet::new(),
            connections: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            routes: Routes::new(topology.peers(), settings.name),
            topology,
            surrogates: Surrogates::default(),
            echoes: Echoes::default(),
            dialler: Dialler::new(settings.port),
            live: Live::default(),
            troubles: Troubles::default(),
            timers: Timers::default(),
            wake: None,
            outputs: VecDeque::new(),
            settings,
        }
    }

    /// The channels that the application handles. What comes on others is passed on between peers.
    pub fn set_channels(&mut self, names: &[&'static str]) {
        self.channels = names.iter().copied().collect();
    }

    /// The peers to connect to. Added ones are dialled at once, removed ones no longer.
    pub fn set_targets(&mut self, now: Timestamp, targets: BTreeSet<String>) {
        self.dialler.set_direct(now, &targets);
        self.settle(now);
    }

    /// Hosts where peers may be that are connected at other addresses. They are dialled until it turned out who is there.
    pub fn seek(&mut self, now: Timestamp, hosts: &BTreeSet<IpAddr>) {
        if self.dialler.seek(now, hosts) {
            self.settle(now);
        }
    }

    /// Who was found where by dialling, also where another connection to that peer was kept.
    pub fn met(&self) -> impl Iterator<Item = (PeerName, IpAddr)> {
        self.dialler.met().map(|(peer, address)| (peer, address.ip()))
    }

    /// The networks that connections made from now on are told to be trusted.
    pub fn set_trusted_subnets(&mut self, subnets: Vec<ipnet::Ipv4Net>) {
        self.settings.trusted_subnets = subnets;
    }

    /// Something happened.
    pub fn handle(&mut self, now: Timestamp, input: Input) {
        match input {
            Input::Dialled { target, conn, remote } => {
                self.dialler.answered(&target, remote);
                self.open(now, conn, remote, Some(target));
            }
            Input::DialFailed { target, reason } => self.dial_failed(now, &target, reason),
            Input::Accepted { conn, remote } => self.open(now, conn, remote, None),
            Input::Received(conn, bytes) => self.received(now, conn, &bytes),
            Input::Closed(conn, why) => self.closed(now, conn, why),
            Input::Datagram { from, bytes } => self.on_datagram(now, from, &bytes),
            Input::Woken => {}
        }
        self.settle(now);
    }

    /// What is to be done next.
    pub fn next_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Woken`] is due, if nothing else happens.
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.wake
    }

    /// The application could not use what came on a channel in this way. If the neighbour itself said it, its connection is closed; what
    /// it passed on is dropped.
    pub fn refuse(&mut self, now: Timestamp, conn: ConnId, channel: &str, kind: Kind, reason: String) {
        let Some(neighbour) = self.connections.get(&conn).and_then(Connection::peer) else { return };
        let garbage = self.garbage(neighbour, channel, kind, reason);
        self.put_down(now, conn, neighbour, garbage);
        self.settle(now);
    }

    /// Whether there is a way to a peer. None leads to ourselves.
    pub fn is_reachable(&self, peer: PeerName) -> bool {
        self.routes.unicast_all().get(&peer).is_some_and(Option::is_some)
    }

    /// The peers there is a way to, without ourselves.
    pub fn reachable(&self) -> &BTreeSet<PeerName> {
        self.routes.reachable()
    }

    /// All known peers, without ourselves.
    pub fn peers(&self) -> impl Iterator<Item = PeerView> {
        let others = self.topology.peers().iter().filter(|(name, _)| **name != self.settings.name);
        others.map(|(&name, peer)| PeerView {
            name,
            uid: peer.uid,
            nickname: peer.nickname.clone(),
            reachable: self.is_reachable(name),
        })
    }

    /// All connections.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionView> {
        self.connections.iter().map(|(&conn, connection)| {
            let peer = connection.peer();
            let known = peer.and_then(|peer| self.topology.peers().get(&peer));
            ConnectionView {
                conn,
                remote: connection.remote,
                outbound: connection.target.is_some(),
                encrypted: connection.encrypted(),
                peer,
                nickname: known.map(|peer| peer.nickname.clone()),
                version: connection.program().map(str::to_owned),
                established: connection.is_established(),
            }
        })
    }

    /// The peers that were turned away lately.
    pub fn refused(&self, now: Timestamp) -> impl Iterator<Item = &RefusedView> {
        self.troubles.refused.all(now)
    }

    /// What was not sent since no frame can hold it.
    pub fn unsent(&self) -> impl Iterator<Item = &UnsentView> {
        self.troubles.unsent.all()
    }

    /// What others said and could not be used, lately.
    pub fn dropped(&self, now: Timestamp) -> impl Iterator<Item = &DroppedView> {
        self.troubles.dropped.all(now)
    }

    /// All targets, configured and discovered.
    pub fn targets(&self) -> Vec<TargetView> {
        let targets = self.dialler.view(&self.live);
        targets
            .map(|(target, state, error)| TargetView {
                target: target.to_owned(),
                state,
                error: error.map(str::to_owned),
            })
            .collect()
    }

    /// The hosts of all peers that can be reached, also of those that only others are connected to.
    pub fn hosts(&self) -> BTreeSet<IpAddr> {
        let links = self.topology.peers().values().flat_map(|peer| &peer.links);
        let of_these = links.filter(|(name, _)| self.reachable().contains(*name));
        of_these.filter_map(|(_, link)| Some(link.at?.ip())).collect()
    }

    /// Connections of all peers, ours too: from whom, to whom, and at which address.
    pub fn links(&self) -> impl Iterator<Item = (PeerName, PeerName, IpAddr)> {
        let peers = self.topology.peers().iter();
        let links =
            peers.flat_map(|(from, peer)| peer.links.iter().map(move |(to, link)| (*from, *to, link)));
        links.filter_map(|(from, to, link)| Some((from, to, link.at?.ip())))
    }

    /// Configured targets of whom nothing is heard: neither by a connection nor through others. `named` says for which hosts a
    /// name stands, as far as it was resolved.
    pub fn unheard(&self, named: impl Fn(&str) -> Option<Hosts>) -> Unheard {
        // Mostly all are connected, and nobody asks.
        let hosts = LazyCell::new(|| self.hosts());
        let heard = |peer, host| self.reachable().contains(&peer) || hosts.contains(&host);
        self.dialler.unheard(&self.live, heard, named)
    }

    /// After each input: what is due is done, and what changed is followed up.
    fn settle(&mut self, now: Timestamp) {
        if take_due(&mut self.timers.connections, now) {
            self.expire(now);
        }
        if take_due(&mut self.timers.collect, now) {
            self.collect(now);
        }
        if take_due(&mut self.timers.announce, now) {
            self.announce();
        }
        if take_due(&mut self.timers.pass_on, now) {
            self.pass_on_news();
        }
        if self.timers.gossip.is_none_or(|due| due <= now) {
            self.gossip_periodically(now);
        }
        if take_due(&mut self.timers.discover, now) {
            self.discover(now);
        }
        if self.timers.stale.is_some_and(|due| due <= now) {
            self.find_routes();
        }
        if std::mem::take(&mut self.timers.changed) {
            self.timers.discover.get_or_insert(now + DISCOVER_AFTER + self.gathering());
            self.outputs.push_back(Output::TopologyChanged);
        }
        self.dial(now);
        self.wake = self.earliest();
    }

    fn dial(&mut self, now: Timestamp) {
        if !self.may_dial() {
            return;
        }
        if self.dialler.has_changed() {
            self.timers.dial = self.next_dial();
        }
        if take_due(&mut self.timers.dial, now) {
            let room = ENOUGH.saturating_sub(self.neighbours.len());
            let (most, pause) = if room == 0 { WAVE_IF_ENOUGH } else { WAVE };
            let most = if room == 0 { most } else { most.min(room) };
            let due = self.dialler.take_due(now, &self.live, most, &mut self.rng);
            self.outputs.extend(due.into_iter().map(Output::Dial));
            self.timers.wave = now + pause;
            self.timers.dial = self.next_dial();
        }
    }

    fn next_dial(&self) -> Option<Timestamp> {
        self.dialler.next_due(&self.live).map(|due| due.max(self.timers.wave))
    }

    fn earliest(&self) -> Option<Timestamp> {
        let Timers { gossip, announce, pass_on, collect, discover, connections, stale, .. } = self.timers;
        let dial = self.timers.dial.filter(|_| self.may_dial());
        [gossip, announce, pass_on, collect, discover, connections, stale, dial].into_iter().flatten().min()
    }

    /// Has an eye on a connection.
    fn watch(&mut self, conn: ConnId) {
        let due = self.connections.get(&conn).map(Connection::next_wake);
        self.timers.connections = self.timers.connections.into_iter().chain(due).min();
    }

    fn find_routes(&mut self) {
        if self.timers.stale.take().is_some() {
            self.routes = Routes::new(self.topology.peers(), self.settings.name);
            self.timers.changed = true;
        }
    }

    /// The topology is another now. It is followed together with what changes soon after, for which nobody waits: where a way is
    /// needed and none is known, it is followed at once.
    fn topology_changed(&mut self, now: Timestamp) {
        self.timers.stale.get_or_insert(now + PASS_ON_AFTER + self.gathering());
    }

    /// Our description changed: say so soon, with all that changes until then.
    fn announce_soon(&mut self, now: Timestamp) {
        self.timers.announce.get_or_insert(now + ANNOUNCE_AFTER + self.gathering());
        self.timers.stale = Some(now);
    }

    fn gathering(&self) -> Duration {
        GATHER_SHARE * self.topology.peers().len() as u32
    }

    fn collect_soon(&mut self, now: Timestamp) {
        self.timers.collect.get_or_insert(now + COLLECT_AFTER);
    }

    fn collect(&mut self, now: Timestamp) {
        if !self.topology.collect().is_empty() {
            self.topology_changed(now);
        }
    }

    fn pass_on_soon(&mut self, now: Timestamp, from: PeerName, peers: BTreeSet<PeerName>) {
        if !peers.is_empty() {
            self.timers.pass_on.get_or_insert(now + PASS_ON_AFTER + self.gathering());
            self.timers.news.peers.extend(peers);
            self.timers.news.from.insert(from);
        }
    }

    fn gossip_periodically(&mut self, now: Timestamp) {
        let first = self.timers.gossip.replace(now + GOSSIP_EVERY).is_none();
        if !first && !self.neighbours.is_empty() {
            self.repeat();
        }
    }

    /// Looks for addresses of peers that we are not connected to. Those that others dialled are taken as they are; of those that
    /// dialled others only the host is known. Texts that are no addresses are never resolved: they come from strangers.
    fn discover(&mut self, now: Timestamp) {
        let far: BTreeSet<PeerName> =
            self.reachable().iter().filter(|name| !self.neighbours.contains_key(name)).copied().collect();
        let mut hosts = BTreeMap::new();
        let mut addresses = BTreeSet::new();
        let wanted = self.settings.discovery && !self.live.is_enough();
        let others = self.topology.peers().iter().filter(|(name, _)| **name != self.settings.name);
        for (name, link) in others.flat_map(|(_, peer)| &peer.links).filter(|(name, _)| far.contains(*name)) {
            // Where nobody more is dialled, one mention is enough to know that a host is heard of.
            if !wanted && hosts.contains_key(name) {
                continue;
            }
            let Some(mut address) = link.at else { continue };
            hosts.insert(*name, address.ip());
            if !link.outbound {
                address.set_port(self.settings.port);
            }
            if wanted {
                addresses.insert(address);
            }
        }
        self.dialler.set_discovered(now, &addresses);
        self.live.heard = (far, hosts.into_values().collect());
    }

    /// At the limit nobody is dialled; when a connection ends this is looked at again.
    fn may_dial(&self) -> bool {
        self.settings.conn_limit == 0 || self.neighbours.len() < self.settings.conn_limit
    }

    /// Takes stock of the connections.
    fn survey(&mut self) {
        self.dialler.reconsider();
        self.live = Live { heard: std::mem::take(&mut self.live.heard), ..Live::default() };
        for connection in self.connections.values() {
            if let Some(peer) = connection.peer() {
                self.live.peers.insert(peer);
                self.live.remotes.insert(connection.remote);
                if connection.target.is_none() {
                    self.live.inbound.insert(connection.remote.ip());
                }
            }
        }
    }
}

/// Whether a timer is due; if so it is stopped.
fn take_due(timer: &mut Option<Timestamp>, now: Timestamp) -> bool {
    timer.take_if(|due| *due <= now).is_some()
}

#[cfg(test)]
mod vectors;
#[cfg(test)]
mod captures;
#[cfg(test)]
mod tests;
