//! Whole peers, joined by wires in memory, under a clock that the tests move.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use proptest::prelude::*;
use rand::SeedableRng;

use super::*;
use crate::{digest::Digest, peer::PeerUid};

mod admission;
mod compare;
mod connections;
mod garbage;
mod introduction;
mod relay;
mod routers;

const APPLICATION: &str = "IPallocation";

/// Peers on hosts 10.0.0.1, 10.0.0.2 and so on, all listening on the usual port.
struct World {
    now: Timestamp,
    peers: Vec<Mesh>,
    delivered: Vec<Vec<Delivery>>,
    closed: Vec<(usize, String)>,
    dials: Vec<(usize, String)>,
    /// The peer at one end of a wire, and the other end.
    wires: BTreeMap<ConnId, (usize, ConnId)>,
    coming: BTreeMap<(Timestamp, u64), (usize, Input)>,
    /// Other addresses of peers.
    also_at: BTreeMap<IpAddr, usize>,
    count: u64,
    /// Makes both ends believe that the other speaks version 1 only.
    only_version_1: bool,
    /// Bytes are lost without a word.
    cut: bool,
    /// Datagrams are.
    no_datagrams: bool,
    datagrams: usize,
    /// What the application of each peer knows.
    knows: Vec<Digest>,
    /// Bytes that were sent.
    bytes: usize,
}

fn settings(number: u64) -> Settings {
    Settings {
        name: PeerName::from_u64(number),
        uid: PeerUid(1000 + number),
        nickname: format!("host{number}"),
        port: 6783,
        password: None,
        trusted_subnets: Vec::new(),
        conn_limit: 200,
        overlays: vec![OVERLAY.to_owned()],
        discovery: true,
    }
}

fn mesh(settings: Settings) -> Mesh {
    let seed = settings.uid.0;
    let mut mesh = Mesh::new(settings, ChaCha8Rng::seed_from_u64(seed));
    mesh.set_channels(&[APPLICATION]);
    mesh
}

fn name(peer: usize) -> PeerName {
    PeerName::from_u64(peer as u64 + 1)
}

fn address(peer: usize) -> IpAddr {
    Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + peer as u32).into()
}

impl World {
    fn new(count: u64) -> World {
        World::of((1..=count).map(settings))
    }

    fn of(settings: impl IntoIterator<Item = Settings>) -> World {
        let peers: Vec<Mesh> = settings.into_iter().map(mesh).collect();
        World {
            now: Timestamp::ZERO,
            delivered: peers.iter().map(|_| Vec::new()).collect(),
            knows: peers.iter().map(|_| Digest(1)).collect(),
            bytes: 0,
            peers,
            closed: Vec::new(),
            dials: Vec::new(),
            wires: BTreeMap::new(),
            coming: BTreeMap::new(),
            also_at: BTreeMap::new(),
            count: 0,
            only_version_1: false,
            cut: false,
            no_datagrams: false,
            datagrams: 0,
        }
    }

    fn with_passwords(passwords: &[&str]) -> World {
        World::of((1u64..).zip(passwords).map(|(number, password)| Settings {
            password: Some(password.as_bytes().to_vec()),
            ..welcoming(number)
        }))
    }

    fn connect(&mut self, from: usize, to: &[usize]) {
        let targets = to.iter().map(|&to| address(to).to_string()).collect();
        self.peers[from].set_targets(self.now, targets);
        self.carry_out(from);
    }

    fn input(&mut self, peer: usize, input: Input) {
        self.peers[peer].handle(self.now, input);
        self.carry_out(peer);
    }

    fn carry_out(&mut self, peer: usize) {
        while let Some(output) = self.peers[peer].next_output() {
            match output {
                Output::Dial(target) => self.dial(peer, target),
                Output::Send(conn, bytes) => self.send(conn, bytes),
                Output::Close(conn, why) => {
                    self.closed.push((peer, why));
                    if let Some((_, end)) = self.wires.remove(&conn)
                        && let Some((other, _)) = self.wires.remove(&end)
                    {
                        self.later(other, Input::Closed(end, "connection reset".to_owned()));
                    }
                }
                Output::Deliver(delivery) => self.delivered[peer].push(delivery),
                Output::SendState(recipients) => {
                    let state = format!("state of {peer}");
                    self.peers[peer].gossip(recipients, APPLICATION, state.as_bytes());
                }
                Output::Offer => self.peers[peer].offer(&[(APPLICATION, self.knows[peer])]),
                Output::Compare(Offer { conn, channel, digest, .. }) => {
                    if digest != self.knows[peer] {
                        self.peers[peer].want(conn, channel);
                    }
                }
                Output::SendAll(conn, channel) => {
                    let all = format!("all that {peer} knows");
                    self.peers[peer].gossip(Recipients::One(conn), channel, all.as_bytes());
                }
                Output::Datagram(to, bytes) => self.send_datagram(peer, to, bytes),
                Output::TopologyChanged => {}
            }
        }
    }

    fn dial(&mut self, from: usize, target: String) {
        self.dials.push((from, target.clone()));
        let host = target.split(':').next().and_then(|ip| ip.parse::<IpAddr>().ok());
        let at = |host| (0..self.peers.len()).find(|peer| address(*peer) == host);
        let to = host.and_then(|host| Some((host, at(host).or(self.also_at.get(&host).copied())?)));
        let Some((host, to)) = to.filter(|_| !self.cut) else {
            return self.later(from, Input::DialFailed { target, reason: "connection refused".to_owned() });
        };
        self.count += 2;
        let (near, far) = (ConnId(self.count), ConnId(self.count + 1));
        self.wires.insert(near, (from, far));
        self.wires.insert(far, (to, near));
        let port = 20000 + (self.count % 40000) as u16;
        self.later(from, Input::Dialled { target, conn: near, remote: SocketAddr::new(host, 6783) });
        self.later(to, Input::Accepted { conn: far, remote: SocketAddr::new(address(from), port) });
    }

    fn send(&mut self, conn: ConnId, bytes: Bytes) {
        let Some(&(_, end)) = self.wires.get(&conn) else { return };
        let Some(&(other, _)) = self.wires.get(&end) else { return };
        let mut bytes = bytes.to_vec();
        self.bytes += bytes.len();
        if self.only_version_1 && bytes.len() == 7 && bytes.starts_with(b"weave") {
            bytes[6] = 1;
        }
        if !self.cut {
            self.later(other, Input::Received(end, bytes.into()));
        }
    }

    fn send_datagram(&mut self, from: usize, to: SocketAddr, bytes: Bytes) {
        self.datagrams += 1;
        let to = (0..self.peers.len()).find(|peer| address(*peer) == to.ip());
        if let Some(to) = to.filter(|_| !self.cut && !self.no_datagrams) {
            self.later(to, Input::Datagram { from: SocketAddr::new(address(from), 6783), bytes });
        }
    }

    fn later(&mut self, peer: usize, input: Input) {
        self.count += 2;
        let at = self.now + Duration::from_millis(1);
        self.coming.insert((at, self.count), (peer, input));
    }

    fn run(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        loop {
            let coming = self.coming.keys().next().map(|(at, _)| *at);
            let wakes = self.peers.iter().map(Mesh::next_wake);
            let wake = wakes.enumerate().filter_map(|(peer, at)| Some((at?, peer))).min();
            match (coming, wake) {
                (Some(at), wake) if at <= end && wake.is_none_or(|(wake, _)| at <= wake) => {
                    self.now = self.now.max(at);
                    let (_, (peer, input)) = self.coming.pop_first().unwrap();
                    self.input(peer, input);
                }
                (_, Some((at, peer))) if at <= end => {
                    self.now = self.now.max(at);
                    self.input(peer, Input::Woken);
                    assert!(self.peers[peer].next_wake().is_none_or(|next| next > self.now), "it sleeps");
                }
                (_, _) => break,
            }
        }
        self.now = end;
    }

    /// Somebody connects to a peer, and says nothing yet.
    fn accept(&mut self, peer: usize, conn: u64, host: IpAddr) {
        self.input(peer, Input::Accepted { conn: ConnId(conn), remote: SocketAddr::new(host, 40000) });
    }

    fn established(&self, a: usize, b: usize) -> bool {
        let ends = [(a, b), (b, a)];
        ends.iter().all(|&(here, there)| {
            let mut connections = self.peers[here].connections();
            connections.any(|connection| connection.peer == Some(name(there)) && connection.established)
        })
    }

    fn texts(&self, peer: usize, wanted: fn(&Kind) -> bool) -> Vec<String> {
        let wanted = self.delivered[peer].iter().filter(|delivery| wanted(&delivery.kind));
        wanted.map(|delivery| String::from_utf8(delivery.payload.to_vec()).unwrap()).collect()
    }

    fn target(&self, peer: usize) -> TargetView {
        self.peers[peer].targets().remove(0)
    }
}

/// 0 - 1 - 2, where 0 and 2 do not dial each other.
fn line() -> World {
    let quiet = |number| Settings { discovery: false, ..settings(number) };
    let mut world = World::of([quiet(1), quiet(2), quiet(3)]);
    world.connect(0, &[1]);
    world.connect(2, &[1]);
    world.run(400);
    world
}

/// A peer of ours in a cluster with Weave Net routers.
fn welcoming(number: u64) -> Settings {
    Settings { overlays: vec![OVERLAY.to_owned(), SLEEVE.to_owned()], ..settings(number) }
}

/// What stands for a Weave Net router: it offers none of ours.
fn router(number: u64) -> Settings {
    Settings { overlays: vec!["fastdp".to_owned(), SLEEVE.to_owned()], ..settings(number) }
}
