//! Peers of ours on real sockets: the mesh alone, or a whole node with neither host nor VPC beneath.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use weavers::{
    config,
    mesh::{self, Delivery, Kind, Mesh, OVERLAY, Recipients, SLEEVE, Settings, TargetView},
    node::{
        self, Birth, Node,
        persist::memory::{Identity, Memory},
        protocol::request::{Refusal, Request, RequestId, Response},
    },
    peer::{PeerName, PeerUid},
    state::{InterfaceId, Vpc},
    time::Timestamp,
    transport::{Event, Transport},
};

use super::{PORT, eventually};

/// The channel of the address manager.
pub const CHANNEL: &str = "IPallocation";

/// What stands between a transport and the test.
pub trait Party: Send + 'static {
    /// Something came by the wire, or its time has come.
    fn take(&mut self, now: Timestamp, input: mesh::Input);
    /// When it is to be woken.
    fn next_wake(&self) -> Option<Timestamp>;
    /// Does what it says.
    fn carry_out(&mut self, now: Timestamp, transport: &mut Transport);
}

/// A running peer of ours.
pub struct Ours<P> {
    pub name: PeerName,
    pub address: SocketAddr,
    party: Arc<Mutex<P>>,
    poke: Arc<Notify>,
    start: Instant,
    task: JoinHandle<()>,
}

/// A peer that is a mesh and nothing else. What is new to it, it passes on.
pub struct Talker {
    pub mesh: Mesh,
    pub heard: Vec<Delivery>,
    pub state: Vec<u8>,
}

/// A node, its disk, and what it answered.
pub struct Whole {
    pub node: Node,
    answers: BTreeMap<RequestId, Result<Response, Refusal>>,
    last: u64,
}

/// How a test wants its peer to be.
pub fn settings(number: u64) -> Settings {
    Settings {
        name: PeerName::from_u64(number),
        uid: PeerUid(rand::random::<u64>().max(1)),
        nickname: format!("ours{number}"),
        port: PORT,
        password: None,
        trusted_subnets: Vec::new(),
        conn_limit: 0,
        overlays: vec![OVERLAY.to_owned()],
        discovery: false,
    }
}

impl Ours<Talker> {
    /// Starts a mesh.
    pub fn start(settings: Settings) -> Ours<Talker> {
        let mut mesh = Mesh::new(settings.clone(), ChaCha8Rng::seed_from_u64(settings.uid.0));
        mesh.set_channels(&[CHANNEL]);
        let datagrams = settings.overlays.iter().any(|overlay| overlay == SLEEVE);
        Ours::run(settings.name, datagrams, Talker { mesh, heard: Vec::new(), state: Vec::new() })
    }

    /// These are the targets from now on.
    pub fn dial(&self, targets: &[SocketAddr]) {
        let targets = targets.iter().map(ToString::to_string).collect();
        self.with(|talker, now| talker.mesh.set_targets(now, targets));
    }

    /// The neighbours, each with whether the stream is encrypted.
    pub fn neighbours(&self) -> Vec<(PeerName, bool)> {
        let peers = |talker: &mut Talker, _| {
            let connections = talker.mesh.connections().filter(|connection| connection.established);
            connections.filter_map(|connection| Some((connection.peer?, connection.encrypted))).collect()
        };
        self.with(peers)
    }

    /// Those that have said who they are, established or not, each with whether the stream is encrypted.
    pub fn introduced(&self) -> Vec<(PeerName, bool)> {
        self.with(|talker, _| {
            talker.mesh.connections().filter_map(|one| Some((one.peer?, one.encrypted))).collect()
        })
    }

    /// Whether there is a connection to a peer.
    pub fn is_connected_to(&self, name: PeerName) -> bool {
        self.neighbours().iter().any(|(peer, _)| *peer == name)
    }

    /// The one target.
    pub fn target(&self) -> TargetView {
        self.with(|talker, _| talker.mesh.targets().remove(0))
    }

    /// Whether a message came in this way.
    pub fn has_heard(&self, kind: Kind, payload: &[u8]) -> bool {
        self.with(|talker, _| {
            talker.heard.iter().any(|delivery| delivery.kind == kind && delivery.payload == payload)
        })
    }

    /// Whether gossip with this content came from whichever neighbour.
    pub fn has_heard_gossip(&self, payload: &[u8]) -> bool {
        let gossip = |delivery: &Delivery| matches!(delivery.kind, Kind::Gossip { .. });
        self.with(|talker, _| {
            talker.heard.iter().any(|delivery| gossip(delivery) && delivery.payload == payload)
        })
    }
}

impl Ours<Whole> {
    /// Starts a node of a cluster of this many peers.
    pub fn start(number: u64, expected: usize) -> Ours<Whole> {
        let text = format!("ipam.expected_peers = {expected}\nmesh.listen = '0.0.0.0:{PORT}'");
        let birth = Birth {
            identity: Identity {
                name: PeerName::from_u64(number),
                acceptor: PeerUid(7000 + number),
                instance: None,
            },
            uid: PeerUid(rand::random::<u64>().max(1)),
            nickname: format!("ours{number}"),
            password: None,
            boot: String::new(),
            seed: number,
        };
        let name = birth.identity.name;
        let config = config::parse(&text).unwrap();
        let node = Node::new(Timestamp::ZERO, birth, config, Memory::default()).unwrap();
        Ours::run(name, false, Whole { node, answers: BTreeMap::new(), last: 0 })
    }

    /// These are the peers from now on.
    pub fn dial(&self, targets: &[SocketAddr], expected: usize) {
        let peers: Vec<String> = targets.iter().map(ToString::to_string).collect();
        let text =
            format!("peers = {peers:?}\nipam.expected_peers = {expected}\nmesh.listen = '0.0.0.0:{PORT}'");
        let config = config::parse(&text).unwrap();
        self.with(|whole, now| {
            whole.node.handle(now, node::Input::Configured(RequestId(0), Box::new(config)));
        });
    }

    /// Asks, without waiting for the answer.
    pub fn ask(&self, request: Request) -> RequestId {
        self.with(|whole, now| {
            whole.last += 1;
            let id = RequestId(whole.last);
            whole.node.handle(now, node::Input::Asked(id, request));
            id
        })
    }

    /// Waits for an answer.
    pub fn answer(&self, id: RequestId) -> Result<Response, Refusal> {
        eventually("the node answers", || self.with(|whole, _| whole.answers.contains_key(&id)));
        self.with(|whole, _| whole.answers.remove(&id)).unwrap()
    }
}

impl<P: Party> Ours<P> {
    fn run(name: PeerName, datagrams: bool, party: P) -> Ours<P> {
        let address = super::free_address();
        let (events, mut wire) = mpsc::channel(64);
        let _inside = super::runtime().enter();
        let mut transport = Transport::listen(address, PORT, events).unwrap();
        if datagrams {
            transport.open_datagrams().unwrap();
        }
        let party = Arc::new(Mutex::new(party));
        let poke = Arc::new(Notify::new());
        let start = Instant::now();
        let (driven, poked) = (party.clone(), poke.clone());
        let task = tokio::spawn(async move {
            loop {
                let wake = {
                    let mut party = driven.lock().unwrap();
                    party.carry_out(now_since(start), &mut transport);
                    let wake = party.next_wake().map(|at| start + Duration::from_micros(at.as_micros()));
                    wake.unwrap_or(start + Duration::from_secs(3600))
                };
                let input = tokio::select! {
                    Some(event) = wire.recv() => on_wire(event),
                    () = poked.notified() => mesh::Input::Woken,
                    () = sleep_until(wake) => mesh::Input::Woken,
                };
                driven.lock().unwrap().take(now_since(start), input);
            }
        });
        Ours { name, address, party, poke, start, task }
    }

    /// Looks at the peer, or makes it do something.
    pub fn with<T>(&self, work: impl FnOnce(&mut P, Timestamp) -> T) -> T {
        let result = work(&mut self.party.lock().unwrap(), now_since(self.start));
        self.poke.notify_one();
        result
    }
}

impl<P> Drop for Ours<P> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn now_since(start: Instant) -> Timestamp {
    Timestamp::from_micros(start.elapsed().as_micros() as u64)
}

fn on_wire(event: Event) -> mesh::Input {
    match event {
        Event::Accepted { conn, remote } => mesh::Input::Accepted { conn, remote },
        Event::Dialled { target, conn, remote } => mesh::Input::Dialled { target, conn, remote },
        Event::DialFailed { target, reason } => mesh::Input::DialFailed { target, reason },
        Event::Received(conn, bytes) => mesh::Input::Received(conn, bytes),
        Event::Closed(conn, reason) => mesh::Input::Closed(conn, reason),
        Event::Datagram { from, bytes } => mesh::Input::Datagram { from, bytes },
    }
}

impl Party for Talker {
    fn take(&mut self, now: Timestamp, input: mesh::Input) {
        self.mesh.handle(now, input);
    }

    fn next_wake(&self) -> Option<Timestamp> {
        self.mesh.next_wake()
    }

    fn carry_out(&mut self, _now: Timestamp, transport: &mut Transport) {
        while let Some(output) = self.mesh.next_output() {
            match output {
                mesh::Output::Dial(target) => transport.dial(target),
                mesh::Output::Send(conn, bytes) => transport.send(conn, bytes),
                mesh::Output::Close(conn, _) => transport.close(conn),
                mesh::Output::Deliver(delivery) => self.hear(delivery),
                mesh::Output::SendState(to) => {
                    if !self.state.is_empty() {
                        self.mesh.gossip(to, CHANNEL, &self.state);
                    }
                }
                mesh::Output::Datagram(to, bytes) => transport.send_datagram(to, &bytes),
                // It compares nothing: whoever offers is told no wish, and it offers nothing.
                mesh::Output::Offer | mesh::Output::Compare(..) | mesh::Output::SendAll(..) => {}
                mesh::Output::TopologyChanged => {}
            }
        }
    }
}

impl Talker {
    fn hear(&mut self, delivery: Delivery) {
        let known = self.heard.iter().any(|other| other.payload == delivery.payload);
        match delivery.kind {
            Kind::Gossip { from } if !known => {
                self.mesh.gossip(Recipients::Neighbours { except: Some(from) }, CHANNEL, &delivery.payload);
            }
            Kind::Broadcast { from } => self.mesh.broadcast(from, CHANNEL, &delivery.payload),
            Kind::Gossip { .. } | Kind::Unicast { .. } => {}
        }
        self.heard.push(delivery);
    }
}

impl Party for Whole {
    fn take(&mut self, now: Timestamp, input: mesh::Input) {
        match input {
            mesh::Input::Woken => self.node.handle(now, node::Input::Woken),
            input => self.node.handle(now, node::Input::Mesh(input)),
        }
    }

    fn next_wake(&self) -> Option<Timestamp> {
        self.node.next_wake()
    }

    /// Every save succeeds, the host is as it should be, and the VPC has no table.
    fn carry_out(&mut self, now: Timestamp, transport: &mut Transport) {
        use node::{Input, Output};
        while let Some(output) = self.node.next_output() {
            match output {
                Output::Dial(target) => transport.dial(target),
                Output::Send(conn, bytes) => transport.send(conn, bytes),
                Output::Close(conn, _) => transport.close(conn),
                Output::Save(id, _) => self.node.handle(now, Input::Stored(id, Ok(()))),
                Output::ObserveHost(wanted, _) => self.node.handle(now, Input::HostSeen(Ok(*wanted))),
                Output::ObserveVpc(..) => self.node.handle(now, Input::VpcSeen(Ok(no_table()))),
                Output::Apply(action) => self.node.handle(now, Input::Applied(action, Ok(None))),
                Output::Answer(id, result) => drop(self.answers.insert(id, result)),
                Output::ObservePlaces(..) => {
                    self.node.handle(now, Input::PlacesSeen(Ok(Default::default())));
                }
                Output::Stop(refusal) => panic!("{}", refusal.message),
                Output::DoubtCheck
                | Output::ObserveNames(..)
                | Output::ObservePeers(..)
                | Output::ObserveInstances(..)
                | Output::ObserveRunning(..)
                | Output::Datagram(..)
                | Output::Adopted(_)
                | Output::RolledBack(_)
                | Output::MakeCanary
                | Output::DropCanary
                | Output::Probe(..)
                | Output::Told(_)
                | Output::PathChanged(_)
                | Output::Finished => {}
            }
        }
    }
}

fn no_table() -> Vpc {
    Vpc {
        interface: InterfaceId("eni-0".to_owned()),
        source_dest_check: Some(false),
        tables: BTreeMap::new(),
        retired: BTreeMap::new(),
    }
}
