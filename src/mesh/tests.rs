//! Whole peers, joined by wires in memory, under a clock that the tests move.

use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use proptest::prelude::*;
use rand::SeedableRng;

use super::*;
use crate::{digest::Digest, peer::PeerUid};

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
        let to = target.split(':').next().and_then(|ip| ip.parse::<Ipv4Addr>().ok());
        let to = to.and_then(|ip| (0..self.peers.len()).find(|peer| address(*peer) == ip));
        let Some(to) = to.filter(|_| !self.cut) else {
            return self.later(from, Input::DialFailed { target, reason: "connection refused".to_owned() });
        };
        self.count += 2;
        let (near, far) = (ConnId(self.count), ConnId(self.count + 1));
        self.wires.insert(near, (from, far));
        self.wires.insert(far, (to, near));
        let port = 20000 + (self.count % 40000) as u16;
        self.later(from, Input::Dialled { target, conn: near, remote: SocketAddr::new(address(to), 6783) });
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

#[test]
fn two_peers_connect_in_both_versions_with_and_without_a_password() {
    for only_version_1 in [false, true] {
        for password in ["", "secret"] {
            let mut world = World::with_passwords(&[password, password]);
            world.only_version_1 = only_version_1;
            world.connect(0, &[1]);
            world.run(600);
            assert!(world.established(0, 1), "{only_version_1} {password} {:?}", world.closed);
            let connection = world.peers[1].connections().next().unwrap();
            assert_eq!(connection.encrypted, !password.is_empty());
            assert_eq!(connection.nickname.as_deref(), Some("host1"));
            assert_eq!(world.texts(0, |kind| matches!(kind, Kind::Gossip { .. })), ["state of 1"]);
            assert_eq!(world.texts(1, |kind| matches!(kind, Kind::Gossip { .. })), ["state of 0"]);
            // Who names no overlay, as in version 1, is to send no packets this way.
            let packets = world.peers[0].routes.unicast().contains_key(&name(1));
            assert_eq!(packets, !only_version_1, "both call it established");
        }
    }
}

fn is_gossip(kind: &Kind) -> bool {
    matches!(kind, Kind::Gossip { .. })
}

/// Three that all know each other, and what they had to say is said.
fn at_rest(only_version_1: bool) -> World {
    let mut world = World::of((1..=3).map(welcoming));
    world.only_version_1 = only_version_1;
    world.connect(0, &[1, 2]);
    world.connect(1, &[2]);
    world.run(5000);
    world.delivered.iter_mut().for_each(Vec::clear);
    world.bytes = 0;
    world
}

#[test]
fn hosts_that_know_the_same_tell_each_other_nothing() {
    let mut world = at_rest(false);
    world.run(600_000);
    assert_eq!(world.delivered.iter().map(Vec::len).sum::<usize>(), 0);
    let of_a_host = world.bytes / 3 / 10;
    assert!(of_a_host < 1000, "{of_a_host} bytes a minute");
}

#[test]
fn a_host_that_missed_something_is_told_all_of_it_within_a_minute() {
    let mut world = at_rest(false);
    world.knows[2] = Digest(2);
    world.run(60_000);
    let told = |peer: usize| world.texts(peer, is_gossip);
    assert!(told(2).contains(&"all that 0 knows".to_owned()), "{:?}", told(2));
    assert!(told(0).contains(&"all that 2 knows".to_owned()), "{:?}", told(0));
    assert!(told(0).iter().all(|text| text == "all that 2 knows"), "{:?}", told(0));
}

#[test]
fn a_description_that_was_lost_on_its_way_is_told_within_minutes() {
    let mut world = at_rest(false);
    let mut peer = world.peers[0].topology.peers()[&name(1)].clone();
    peer.version += 5;
    let version = peer.version;
    world.peers[0].topology.merge(vec![(name(1), peer)]);
    world.run(120_000);
    for peer in [1, 2] {
        assert!(world.peers[peer].topology.peers()[&name(1)].version > version, "peer {peer}");
    }
}

#[test]
fn whoever_asks_again_and_again_is_told_once() {
    let mut world = at_rest(false);
    world.run(60_000);
    world.delivered.iter_mut().for_each(Vec::clear);
    let conn = world.peers[1].neighbours[&name(0)];
    for _ in 0..100 {
        world.peers[1].want(conn, APPLICATION);
        world.peers[1].want(conn, "weavers/other");
    }
    world.carry_out(1);
    world.run(1000);
    assert_eq!(world.texts(1, is_gossip), ["all that 0 knows"]);
}

#[test]
fn a_message_that_no_frame_can_hold_is_counted_and_named() {
    let mut world = at_rest(false);
    world.peers[0].broadcast(name(0), APPLICATION, &vec![0; MESSAGE_LEN_MAX + 1]);
    world.carry_out(0);
    world.run(1000);
    let unsent: Vec<&UnsentView> = world.peers[0].unsent().collect();
    assert_eq!(unsent.len(), 1);
    assert_eq!((unsent[0].channel.as_str(), unsent[0].count), (APPLICATION, 2));
    assert!(world.established(0, 1) && world.established(0, 2), "nobody closed the connection");
}

#[test]
fn a_host_that_does_not_compare_is_told_everything_unasked() {
    let mut world = at_rest(true);
    world.run(60_000);
    for peer in 0..3 {
        let told = world.texts(peer, is_gossip);
        assert!(!told.is_empty() && told.iter().all(|text| text.starts_with("state of")), "{told:?}");
    }
}

#[test]
fn another_password_is_named_as_the_likely_cause() {
    for only_version_1 in [false, true] {
        let mut world = World::with_passwords(&["one", "other"]);
        world.only_version_1 = only_version_1;
        world.connect(0, &[1]);
        world.run(2000);
        assert!(!world.established(0, 1));
        assert!(world.target(0).error.unwrap().contains("password"), "{:?}", world.target(0));
        assert!(world.closed.iter().all(|(_, why)| why.contains("passwords differ")), "{:?}", world.closed);
        assert_eq!(world.peers[0].peers().count(), 0);
    }
}

#[test]
fn a_stranger_who_speaks_version_1_is_nobody_until_he_shows_that_he_has_the_password() {
    let mut world = World::with_passwords(&["secret", "secret"]);
    world.connect(0, &[1]);
    world.run(400);
    let conn = ConnId(1000);
    world.input(0, Input::Accepted { conn, remote: SocketAddr::new(address(8), 20000) });
    let group = super::vectors::group("intro_v1_encrypted");
    world.input(0, Input::Received(conn, group[0].1.clone().into()));
    assert_eq!(world.peers[0].peers().count(), 1);
    assert!(world.peers[0].connections().any(|view| view.conn == conn && view.peer.is_none()));
}

#[test]
fn who_lacks_the_password_is_sent_nothing_to_try_passwords_on() {
    let is_sealed = |sent: &[u8]| sent.len() > 40;
    for version in [2, 1] {
        let mut world = World::of([Settings { password: Some(b"secret".to_vec()), ..welcoming(1) }]);
        world.peers[0].handle(
            world.now,
            Input::Accepted { conn: ConnId(1), remote: SocketAddr::new(address(8), 20000) },
        );
        let said = match version {
            1 => super::vectors::group("intro_v1_encrypted")[0].1.clone(),
            _ => [&b"weave\x01\x02\x01"[..], &[9; 32], &[0; 3]].concat(),
        };
        world.peers[0].handle(world.now, Input::Received(ConnId(1), said.into()));
        let outputs = std::iter::from_fn(|| world.peers[0].next_output());
        let mut sent = outputs.filter_map(|output| match output {
            Output::Send(_, bytes) => Some(bytes),
            _ => None,
        });
        assert_eq!(sent.next().unwrap().len(), 7, "the header");
        // In version 1 the features are in clear; whatever follows is sealed.
        let open = sent.next().unwrap();
        assert!(version == 1 || !is_sealed(&open), "a key");
        assert_eq!(sent.next(), None, "version {version}");
    }
}

#[test]
fn version_1_is_spoken_only_where_routers_of_weave_net_are_welcome() {
    for (settings, spoken) in [(settings(1), false), (welcoming(1), true)] {
        let mut world = World::of([settings]);
        world.accept(0, 1, address(8));
        world.input(0, Input::Received(ConnId(1), Bytes::from_static(b"weave\x01\x01")));
        assert_eq!(world.closed.is_empty(), spoken, "{:?}", world.closed);
    }
}

#[test]
fn a_password_on_one_side_only_is_named() {
    for only_version_1 in [false, true] {
        let mut world = World::with_passwords(&["one", ""]);
        world.only_version_1 = only_version_1;
        world.connect(0, &[1]);
        world.run(400);
        let causes: BTreeSet<_> = world.closed.iter().cloned().collect();
        let here = (0, "we have a password and the other side has none".to_owned());
        let there = (1, "the other side has a password and we have none".to_owned());
        assert!(causes.contains(&here) || causes.contains(&there), "{causes:?}");
    }
}

#[test]
fn three_peers_that_start_together_know_each_other_in_half_a_second() {
    let mut world = World::new(3);
    for peer in 0..3 {
        world.connect(peer, &[0, 1, 2]);
    }
    world.run(400);
    for peer in 0..3 {
        assert_eq!(world.peers[peer].reachable().len(), 2, "{peer}");
        assert_eq!(world.peers[peer].routes.unicast().len(), 3, "{peer}");
    }
    world.run(20_000);
    assert!(world.established(0, 1) && world.established(1, 2) && world.established(0, 2));
    let connections: usize = world.peers.iter().map(|peer| peer.connections().count()).sum();
    assert_eq!(connections, 6, "one connection for each pair");
}

#[test]
fn of_two_connections_at_once_both_ends_keep_the_same() {
    for seed in 0..20 {
        let mut world = World::of([
            Settings { uid: PeerUid(seed + 1), ..settings(1) },
            Settings { uid: PeerUid(seed + 100), ..settings(2) },
        ]);
        world.connect(0, &[1]);
        world.connect(1, &[0]);
        world.run(3000);
        assert!(world.established(0, 1));
        let ends: Vec<ConnId> =
            world.peers.iter().flat_map(|peer| peer.connections().map(|c| c.conn)).collect();
        assert_eq!(ends.len(), 2);
        assert_eq!(world.wires[&ends[0]].1, ends[1], "seed {seed}");
    }
}

#[test]
fn a_middle_peer_passes_messages_on() {
    let mut world = line();
    assert_eq!(world.peers[0].reachable(), BTreeSet::from([name(1), name(2)]));
    world.peers[0].unicast(name(2), APPLICATION, b"to you").unwrap();
    world.peers[0].broadcast(name(0), APPLICATION, b"to all");
    world.peers[0].broadcast(name(0), "nameserver", b"of others");
    world.carry_out(0);
    world.run(20);
    assert_eq!(world.texts(2, |kind| matches!(kind, Kind::Unicast { .. })), ["to you"]);
    assert_eq!(world.texts(1, |kind| matches!(kind, Kind::Unicast { .. })), [""; 0]);
    // A broadcast of a channel of its own is the application's to pass on, under the origin.
    assert_eq!(world.texts(1, |kind| matches!(kind, Kind::Broadcast { .. })), ["to all"]);
    assert_eq!(world.texts(2, |kind| matches!(kind, Kind::Broadcast { .. })), [""; 0]);
    world.peers[1].broadcast(name(0), APPLICATION, b"to all");
    world.carry_out(1);
    world.run(20);
    assert_eq!(world.delivered[2].last().unwrap().kind, Kind::Broadcast { from: name(0) });
    assert_eq!(world.texts(0, |kind| matches!(kind, Kind::Broadcast { .. })), [""; 0], "not sent back");
}

#[test]
fn garbage_of_a_far_peer_closes_no_connection_to_the_peer_that_passed_it_on() {
    let torn = |message: Vec<u8>| message[..message.len() - 3].to_vec();
    let garbage = [
        (name(0), torn(message::unicast(APPLICATION, name(0), name(2), b"to you"))),
        (name(0), message::unicast(TOPOLOGY, name(0), name(2), b"to you")),
        (name(7), message::broadcast(TOPOLOGY, name(7), b"to all")),
    ];
    for (from, message) in garbage {
        let mut world = line();
        let conn = world.peers[0].neighbours[&name(1)];
        world.peers[0].send(conn, &message);
        world.carry_out(0);
        world.run(1000);
        assert_eq!(world.closed, []);
        let dropped: Vec<_> =
            world.peers[2].dropped(world.now).chain(world.peers[1].dropped(world.now)).collect();
        assert_eq!((dropped.len(), dropped[0].from, dropped[0].count), (1, Some(from), 1), "{dropped:?}");
    }
}

/// What a router that is no kin of ours passes on as it came, in the name of whoever it likes.
#[test]
fn garbage_that_a_router_passes_on_closes_no_connection_to_it() {
    let long = "x".repeat(message::CHANNEL_LEN_MAX + 1);
    for message in [
        message::unicast(TOPOLOGY, name(1), name(0), b"to you"),
        message::unicast(&long, name(7), name(0), b"to you"),
        message::broadcast(TOPOLOGY, name(1), b"to all"),
        message::gossip(&long, name(1), b"news"),
    ] {
        let mut world = World::of([welcoming(1), router(2)]);
        world.connect(0, &[1]);
        world.run(600);
        let conn = world.peers[1].neighbours[&name(0)];
        world.peers[1].send(conn, &message);
        world.carry_out(1);
        world.run(1000);
        assert_eq!(world.closed, []);
        assert_eq!(world.peers[0].dropped(world.now).next().map(|dropped| dropped.came_by), Some(name(1)));
    }
}

#[test]
fn garbage_that_bears_the_name_of_the_peer_that_passes_it_on_closes_nothing_either() {
    let mut world = line();
    let conn = world.peers[0].neighbours[&name(1)];
    let forged = message::unicast(TOPOLOGY, name(1), name(2), b"to you");
    world.peers[0].send(conn, &forged);
    world.carry_out(0);
    world.run(1000);
    assert_eq!(world.closed, []);
}

#[test]
fn garbage_of_the_neighbour_itself_closes_its_connection() {
    for message in [
        message::unicast(TOPOLOGY, name(0), name(1), b"to you"),
        message::gossip(TOPOLOGY, name(0), b"news"),
        message::gossip(TOPOLOGY, name(0), b"news")[..8].to_vec(),
    ] {
        let mut world = line();
        let conn = world.peers[0].neighbours[&name(1)];
        world.peers[0].send(conn, &message);
        world.carry_out(0);
        world.run(5);
        assert!(world.closed.iter().any(|(peer, _)| *peer == 1), "{:?}", world.closed);
    }
}

#[test]
fn channels_that_are_not_ours_are_passed_on_once() {
    let mut world = line();
    world.peers[1].set_channels(&[]);
    world.peers[0].gossip(Recipients::Neighbours { except: None }, APPLICATION, b"news");
    world.peers[0].gossip(Recipients::Neighbours { except: None }, APPLICATION, b"news");
    world.peers[0].broadcast(name(0), APPLICATION, b"to all");
    world.carry_out(0);
    world.run(20);
    let is_new = |text: &&String| !text.starts_with("state");
    let texts = world.texts(2, |_| true);
    assert_eq!(texts.iter().filter(is_new).collect::<Vec<_>>(), ["news", "to all"]);
}

#[test]
fn a_peer_that_others_mention_is_dialled() {
    let mut world = World::new(3);
    world.connect(0, &[1]);
    world.connect(2, &[1]);
    world.run(3000);
    assert!(world.established(0, 2));
}

#[test]
fn a_name_that_others_mention_is_never_dialled() {
    let mut world = World::new(2);
    world.connect(0, &[1]);
    world.run(400);
    let link =
        |address: &str, outbound| topology::Link { address: address.to_owned(), outbound, established: true };
    for address in ["evil.example:6783", "10.0.0.9:6783"] {
        world.peers[1].topology.link(PeerName::from_u64(99), link(address, true));
        world.peers[1].announce_soon(world.now);
        world.input(1, Input::Woken);
        world.run(500);
    }
    assert!(world.dials.contains(&(0, "10.0.0.9:6783".to_owned())), "{:?}", world.dials);
    assert!(!world.dials.iter().any(|(_, target)| target.contains("evil")), "{:?}", world.dials);
}

#[test]
fn a_peer_that_restarts_is_heard_again() {
    let mut world = line();
    for _ in 0..20 {
        world.peers[0].topology.link(
            PeerName::from_u64(77),
            topology::Link { address: String::new(), outbound: false, established: false },
        );
        world.peers[0].announce_soon(world.now);
        world.input(0, Input::Woken);
        world.run(200);
    }
    assert!(world.peers[2].topology.peers()[&name(0)].version > 20);
    // The others still believe in the old connection when the new life begins.
    world.peers[0] = mesh(Settings { uid: PeerUid(5), discovery: false, ..settings(1) });
    world.connect(0, &[1]);
    world.run(30_000);
    assert!(world.established(0, 1));
    for peer in [1, 2] {
        assert_eq!(world.peers[peer].topology.peers()[&name(0)].uid, PeerUid(5), "{peer}");
    }
    assert!(world.peers[2].is_reachable(name(0)));
}

#[test]
fn our_own_address_among_the_targets_is_harmless() {
    let mut world = World::new(1);
    world.connect(0, &[0]);
    world.run(120_000);
    assert_eq!(world.dials.len(), 1);
    assert_eq!(world.target(0).state, TargetState::Suspended);
    assert_eq!(world.target(0).error.as_deref(), Some("connected to ourselves"));
    world.connect(0, &[0]);
    world.run(1000);
    assert_eq!(world.dials.len(), 2, "only when told again");
}

#[test]
fn a_peer_with_our_name_is_refused_and_named() {
    let mut world = World::of([settings(1), Settings { uid: PeerUid(7), ..settings(1) }]);
    world.connect(0, &[1]);
    world.run(120_000);
    assert_eq!(world.dials.len(), 1);
    assert!(world.target(0).error.unwrap().contains("another peer has our name 00:00:00:00:00:01"));
    // Whoever was dialled can only be told this way.
    assert!(world.peers[1].refused(world.now).any(|refused| refused.objection == Objection::Name));
}

#[test]
fn without_an_overlay_in_common_there_is_no_connection() {
    let of = |number, overlay: &str| Settings { overlays: vec![overlay.to_owned()], ..settings(number) };
    let mut world = World::of([of(1, OVERLAY), of(2, "sleeve")]);
    world.connect(0, &[1]);
    world.run(400);
    assert!(!world.established(0, 1));
    assert!(world.closed.iter().any(|(_, why)| why.contains("no overlay in common")), "{:?}", world.closed);
    let mut world = World::of([of(1, OVERLAY), Settings { overlays: Vec::new(), ..settings(2) }]);
    world.connect(0, &[1]);
    world.run(400);
    assert!(world.established(0, 1), "who says nothing is content");
}

#[test]
fn routers_of_weave_net_in_its_own_vpc_mode_are_refused_and_plain_ones_accepted() {
    for (vector, established) in [("awsvpc_dialler", false), ("minimal_features_dialler", true)] {
        let vectors = vectors::group("intro_v2_plain").into_iter();
        let (_, bytes) = vectors.rev().find(|(v, _)| v["name"].as_str().unwrap().ends_with(vector)).unwrap();
        let mut world = World::new(1);
        let remote = SocketAddr::new(address(8), 40000);
        world.input(0, Input::Accepted { conn: ConnId(1), remote });
        world.input(0, Input::Received(ConnId(1), bytes.into()));
        assert_eq!(world.peers[0].connections().any(|connection| connection.established), established);
    }
}

#[test]
fn a_silent_cut_is_noticed_in_ten_seconds_and_mended_after_it() {
    // Whenever in the time between two heartbeats it comes.
    for phase in (0..2000).step_by(125) {
        let mut world = World::new(2);
        world.connect(0, &[1]);
        world.run(30_000 + phase);
        assert!(world.established(0, 1), "heartbeats keep it: {:?}", world.closed);
        world.cut = true;
        world.run(9_100);
        assert_eq!(world.peers[0].reachable().len() + world.peers[1].reachable().len(), 0, "{phase}");
        world.cut = false;
        world.run(35_000);
        assert!(world.established(0, 1));
    }
}

#[test]
fn a_peer_of_another_kind_is_left_its_own_times() {
    let mut world = World::of([welcoming(1), router(2)]);
    world.connect(0, &[1]);
    world.run(100_000);
    assert!(world.established(0, 1), "heartbeats every thirty seconds keep it: {:?}", world.closed);
    world.cut = true;
    world.run(30_000);
    assert!(world.established(0, 1));
    world.run(31_000);
    assert_eq!(world.peers[0].reachable().len() + world.peers[1].reachable().len(), 0);
}

#[test]
fn a_router_that_closes_as_soon_as_it_hears_of_us_is_suspected_of_other_addresses() {
    for (after, suspected) in [(20, true), (5_000, false)] {
        let mut world = World::of([welcoming(1), router(2)]);
        world.connect(0, &[1]);
        world.run(after);
        let conn = world.peers[1].connections().next().unwrap().conn;
        world.peers[1].close(world.now, conn, "it has other addresses".to_owned(), dial::Again::Later);
        world.carry_out(1);
        world.run(2);
        assert_eq!(world.target(0).error.unwrap().contains("ipam.range may differ"), suspected);
    }
}

#[test]
fn a_peer_of_our_own_kind_says_why_it_closes() {
    let mut world = World::new(2);
    world.connect(0, &[1]);
    world.run(20);
    let conn = world.peers[1].connections().next().unwrap().conn;
    world.peers[1].close(world.now, conn, "it has other addresses".to_owned(), dial::Again::Later);
    world.carry_out(1);
    world.run(2);
    let reason = format!("closed by peer {}: it has other addresses", name(1));
    assert_eq!(world.target(0).error, Some(reason));
}

/// A peer of ours in a cluster with Weave Net routers.
fn welcoming(number: u64) -> Settings {
    Settings { overlays: vec![OVERLAY.to_owned(), SLEEVE.to_owned()], ..settings(number) }
}

/// What stands for a Weave Net router: it offers none of ours.
fn router(number: u64) -> Settings {
    Settings { overlays: vec!["fastdp".to_owned(), SLEEVE.to_owned()], ..settings(number) }
}

#[test]
fn a_router_is_established_by_heartbeats_over_udp_whoever_dials_and_whether_encrypted_or_trusted() {
    for (from, to) in [(0, 1), (1, 0)] {
        for (password, trust) in
            [(false, [false; 2]), (true, [false; 2]), (true, [true, false]), (true, [true; 2])]
        {
            let with = |settings: Settings, trusts| Settings {
                password: password.then(|| b"secret".to_vec()),
                trusted_subnets: if trusts { vec!["10.0.0.0/8".parse().unwrap()] } else { Vec::new() },
                ..settings
            };
            let mut world = World::of([with(welcoming(1), trust[0]), with(router(2), trust[1])]);
            world.no_datagrams = true;
            world.connect(from, &[to]);
            world.run(5_000);
            assert_eq!(world.peers[0].reachable().len(), 1, "gossip goes all the same");
            assert!(!world.established(0, 1));
            world.no_datagrams = false;
            world.run(600);
            assert!(world.established(0, 1), "{from} dials, password {password}, trust {trust:?}");
            let before = world.datagrams;
            world.run(60_000);
            assert!((10..=14).contains(&(world.datagrams - before)), "then one in ten seconds each");
            // Nobody is to send packets this way: both ends say so.
            assert!(!world.peers[1].routes.unicast().contains_key(&name(0)));
        }
    }
}

#[test]
fn an_old_router_that_names_no_overlay_is_established_too() {
    let mut world = World::of([welcoming(1), router(2)]);
    world.only_version_1 = true;
    world.connect(0, &[1]);
    world.run(600);
    assert!(world.established(0, 1), "{:?}", world.closed);
}

#[test]
fn among_ourselves_no_datagram_is_sent() {
    let mut world = World::of([welcoming(1), welcoming(2), settings(3)]);
    world.connect(0, &[1, 2]);
    world.run(60_000);
    assert!(world.established(0, 1) && world.established(0, 2) && world.established(1, 2));
    assert_eq!(world.datagrams, 0);
}

#[test]
fn datagrams_of_strangers_and_of_our_own_kind_mean_nothing() {
    let mut world = World::of([welcoming(1), welcoming(2)]);
    world.connect(0, &[1]);
    world.run(400);
    let from = SocketAddr::new(address(7), 6783);
    for sender in [2u64, 9] {
        let bytes = [&sender.to_be_bytes()[2..], &[0; 36]].concat();
        world.input(0, Input::Datagram { from, bytes: bytes.into() });
    }
    world.input(0, Input::Datagram { from, bytes: Bytes::new() });
    world.run(1_000);
    assert_eq!(world.datagrams, 0);
    assert!(world.established(0, 1));
}

#[test]
fn who_is_turned_away_is_named_until_it_comes_in() {
    let mut world = World::of([settings(1), router(2)]);
    world.connect(1, &[0]);
    world.run(400);
    let refused: Vec<_> = world.peers[0].refused(world.now).cloned().collect();
    let objection = Objection::Overlay { theirs: "fastdp sleeve".to_owned(), ours: OVERLAY.to_owned() };
    let remote = refused[0].remote;
    let nickname = "host2".to_owned();
    assert_eq!(refused, [RefusedView { peer: name(1), nickname, remote, objection }]);
    assert_eq!(remote.ip(), address(1));
    world.peers[1] = mesh(Settings { uid: PeerUid(5), ..settings(2) });
    world.connect(1, &[0]);
    world.run(400);
    assert_eq!(world.peers[0].refused(world.now).count(), 0);
}

#[test]
fn who_says_nothing_or_stops_in_the_middle_is_closed_after_ten_seconds() {
    for said in [&b""[..], b"weave\x01\x02", b"weave\x01\x02\x00\x00\x00"] {
        let mut world = World::new(1);
        world.accept(0, 1, address(8));
        world.run(5_000);
        world.input(0, Input::Received(ConnId(1), Bytes::from_static(said)));
        world.run(4_900);
        assert_eq!(world.peers[0].connections().count(), 1);
        world.run(200);
        let why = if said.is_empty() {
            "the other side did not say what it speaks"
        } else {
            "the introduction took too long"
        };
        assert_eq!(world.closed, [(0, why.to_owned())]);
    }
}

#[test]
fn versions_and_protocols_that_are_not_ours_are_refused_at_the_header() {
    for (header, why) in [
        (&b"WEAVE\x01\x02"[..], "the other side does not speak this protocol"),
        (b"weave\x03\x09", "the other side speaks versions 3 to 9 of the protocol, we 2 to 2"),
        (b"weave\x02\x02\x07", "the other side sent 0x07 where it should say whether it encrypts"),
    ] {
        let mut world = World::new(1);
        let remote = SocketAddr::new(address(8), 40000);
        world.input(0, Input::Accepted { conn: ConnId(1), remote });
        world.input(0, Input::Received(ConnId(1), Bytes::from_static(header)));
        assert_eq!(world.closed, [(0, why.to_owned())]);
    }
}

#[test]
fn idle_connections_from_one_host_keep_no_other_host_out() {
    let mut world = World::new(2);
    (0..100).for_each(|conn| world.accept(0, 1000 + conn, address(8)));
    assert!(world.peers[0].connections().count() <= 4, "{:?}", world.closed.last());
    world.connect(1, &[0]);
    world.run(400);
    assert!(world.established(0, 1), "{:?}", world.closed);
}

#[test]
fn idle_connections_from_many_hosts_give_way_to_those_that_come_later() {
    let mut world = World::new(2);
    for conn in 0..200 {
        world.accept(0, 1000 + conn, Ipv4Addr::new(10, 1, 0, conn as u8).into());
    }
    assert_eq!(world.peers[0].connections().count(), INTRODUCTIONS_MAX);
    // Of the most crowded address the oldest goes first.
    world.accept(0, 2000, Ipv4Addr::new(10, 1, 0, 199).into());
    world.accept(0, 2001, Ipv4Addr::new(10, 2, 0, 0).into());
    let left: BTreeSet<u64> = world.peers[0].connections().map(|view| view.conn.0).collect();
    assert!(!left.contains(&1199) && left.contains(&1198) && left.contains(&2000), "{left:?}");
    world.connect(1, &[0]);
    world.run(400);
    assert!(world.established(0, 1), "{:?}", world.closed);
}

#[test]
fn hosts_that_we_dial_and_that_say_nothing_keep_nobody_out() {
    let mut world = World::new(2);
    for number in 0..100u8 {
        let remote = SocketAddr::from(([10, 1, 0, number], 6783));
        let input =
            Input::Dialled { target: remote.to_string(), conn: ConnId(1000 + u64::from(number)), remote };
        world.input(0, input);
    }
    world.connect(1, &[0]);
    world.run(400);
    assert!(world.established(0, 1), "{:?}", world.closed);
}

#[test]
fn the_connection_limit_holds() {
    let quiet = |number, conn_limit| Settings { conn_limit, discovery: false, ..settings(number) };
    let mut world = World::of([quiet(1, 1), quiet(2, 9), quiet(3, 9)]);
    world.connect(1, &[0]);
    world.run(400);
    world.connect(2, &[0]);
    world.run(2000);
    assert!(world.established(0, 1) && !world.established(0, 2));
    assert!(world.closed.iter().any(|(_, why)| why.contains("which is the limit")));
    // Who is refused is told so.
    let error = world.target(2).error.unwrap();
    assert!(
        error.contains("there are 1 connections, which is the limit, and no neighbour can be spared"),
        "{error}"
    );
    world.connect(0, &[2]);
    world.run(2000);
    assert!(!world.dials.iter().any(|(from, _)| *from == 0), "nobody is dialled at the limit");
}

#[test]
fn all_peers_that_know_one_address_come_in_though_it_has_no_room_for_all() {
    come_in_by_one_address(60);
}

#[test]
#[ignore = "takes minutes"]
fn five_hundred_peers_that_know_one_address_come_in_though_it_has_room_for_200() {
    come_in_by_one_address(500);
}

/// The limit is two fifths of them.
fn come_in_by_one_address(count: u64) {
    let conn_limit = count as usize * 2 / 5;
    let mut world = World::of((1..=count).map(|number| Settings { conn_limit, ..settings(number) }));
    for peer in 1..count as usize {
        world.connect(peer, &[0]);
        world.run(20);
    }
    let everybody = count as usize - 1;
    let is_in = |world: &World, peer: usize| world.peers[peer].reachable().len() == everybody;
    let mut seconds = 0;
    while !(0..count as usize).all(|peer| is_in(&world, peer)) {
        let alone = (0..count as usize).filter(|peer| !is_in(&world, *peer)).count();
        assert!(seconds < 120, "{alone} of {count} are not in: {:?}", world.closed.last());
        world.run(1000);
        seconds += 1;
    }
    // Nobody takes places from others any more.
    world.run(60_000);
    world.closed.clear();
    world.run(60_000);
    let taken: Vec<_> = world.closed.iter().filter(|(_, why)| why.contains("takes this place")).collect();
    assert!(taken.is_empty(), "{taken:?}");
    assert!((0..count as usize).all(|peer| is_in(&world, peer)));
    assert!(world.peers.iter().all(|peer| peer.connections().count() <= conn_limit));
    // Those for which there is no room at the listed one miss nothing.
    let errors: Vec<_> = (1..count as usize).filter_map(|peer| world.target(peer).error).collect();
    assert_eq!(errors, [""; 0]);
}

#[test]
fn at_the_limit_a_peer_that_is_in_already_is_refused_and_whom_we_dialled_is_kept() {
    let limited = |number, conn_limit| Settings { conn_limit, discovery: false, ..settings(number) };
    let mut world = World::of([limited(1, 2), limited(2, 9), limited(3, 9), limited(4, 9), limited(5, 9)]);
    // 1 and 2 are connected to each other and to 0, which dialled one of them.
    world.connect(0, &[1]);
    world.connect(2, &[0, 1]);
    world.connect(3, &[1, 0]);
    world.run(3000);
    assert!(
        world.established(0, 1) && world.established(0, 2) && world.established(1, 3),
        "{:?}",
        world.closed
    );
    let error = world.peers[3].targets().into_iter().find_map(|target| target.error).unwrap();
    assert!(error.contains("is connected to others"), "{error}");
    // Whom nobody else knows takes the place of 2, which can do without.
    world.connect(4, &[0]);
    world.run(3000);
    assert!(
        world.established(0, 1) && world.established(0, 4) && !world.established(0, 2),
        "{:?}",
        world.closed
    );
    assert_eq!(world.peers[4].reachable().len(), 4);
}

#[test]
fn a_target_that_does_not_answer_is_tried_less_and_less() {
    let mut world = World::new(1);
    world.connect(0, &[4]);
    world.run(600_000);
    let dials = world.dials.len();
    assert!((20..40).contains(&dials), "{dials}");
    assert_eq!(world.target(0).error.as_deref(), Some("connection refused"));
    world.peers[0].set_targets(world.now, BTreeSet::new());
    world.run(600_000);
    assert_eq!(world.dials.len(), dials);
}

#[test]
fn a_peer_that_leaves_is_forgotten_by_all() {
    let mut world = line();
    let conn = world.peers[0].connections().next().unwrap().conn;
    world.peers[0].set_targets(world.now, BTreeSet::new());
    world.peers[0].close(world.now, conn, "it sent nonsense".to_owned(), dial::Again::Later);
    world.peers[0].settle(world.now);
    world.carry_out(0);
    world.run(2000);
    assert!(world.closed.contains(&(0, "it sent nonsense".to_owned())));
    for peer in [1, 2] {
        assert!(!world.peers[peer].is_reachable(name(0)));
        assert!(world.peers[peer].peers().all(|known| known.name != name(0)));
    }
}

/// A peer with a connection at the wanted stage, and the connection.
fn at_stage(stage: u8) -> (World, ConnId) {
    let mut world = World::new(2);
    let remote = SocketAddr::new(address(1), 40000);
    match stage {
        0 => world.input(0, Input::Accepted { conn: ConnId(1), remote }),
        1 => {
            world.input(0, Input::Accepted { conn: ConnId(1), remote });
            world.input(0, Input::Received(ConnId(1), Bytes::from_static(b"weave\x01\x02\x00")));
        }
        2 => {
            world = World::of([welcoming(1), welcoming(2)]);
            world.input(0, Input::Accepted { conn: ConnId(1), remote });
            world.input(0, Input::Received(ConnId(1), Bytes::from_static(b"weave\x01\x01")));
        }
        _ => {
            world.connect(0, &[1]);
            world.run(400);
        }
    }
    let conn = world.peers[0].connections().next().unwrap().conn;
    (world, conn)
}

proptest! {
    #[test]
    fn arbitrary_bytes_at_any_stage_never_panic(
        stage in 0u8..4,
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..5),
        framed in any::<bool>(),
        tag in 0u8..9,
    ) {
        let (mut world, conn) = at_stage(stage);
        for chunk in chunks {
            let message = [vec![tag], chunk].concat();
            let bytes = match framed {
                true => [&(message.len() as u32).to_be_bytes()[..], &message].concat(),
                false => message,
            };
            world.input(0, Input::Received(conn, bytes.into()));
        }
        world.run(70_000);
    }

    #[test]
    fn damaged_gossip_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let (mut world, conn) = at_stage(3);
        let (_, mut frame) = vectors::group("frame_v2_plain").swap_remove(1);
        let at = 4 + at.index(frame.len() - 4);
        frame[at] = byte;
        world.input(0, Input::Received(conn, frame.into()));
        world.run(2000);
    }
}
