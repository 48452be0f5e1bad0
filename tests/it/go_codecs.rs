//! What the mesh and the address manager write, Go's `encoding/gob` reads as the same values, and what Go writes of values drawn
//! at random, they read.
//!
//! The mesh is driven from outside: a peer whose every byte Go wrote introduces itself to it, and what it answers
//! is read by Go.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use weavers::{
    addr::{Address, Range},
    ipam::{
        NodeClaims, NodeId, Ring,
        message::{State, Unicast},
        paxos::{AcceptedValue, Claims, ProposalId},
        ring::Entry,
    },
    mesh::{ConnId, Input, Kind, Mesh, Output, Recipients, Settings},
    peer::{PeerName, PeerUid},
    time::Timestamp,
};

use super::go::Go;

const CHANNEL: &str = "IPallocation";
const DRAWS: u64 = 60;

// ===== the address manager =====

#[test]
fn go_reads_the_states_that_we_write() {
    let mut go = Go::start();
    for seed in 0..DRAWS {
        let state = random_state(&mut ChaCha8Rng::seed_from_u64(seed));
        let decoded = go.decode("gossipstate", &state.encode());
        assert_eq!((decoded.error, decoded.value), (None, state_as_json(&state)), "seed {seed}");
    }
}

#[test]
fn we_read_the_states_that_go_writes() {
    let mut go = Go::start();
    for seed in 0..DRAWS {
        let state = random_state(&mut ChaCha8Rng::seed_from_u64(seed));
        let bytes = go.encode("gossipstate", &state_as_json(&state));
        assert_eq!(State::decode(&bytes), Ok(state.clone()), "seed {seed}");
        let update = [&[1], &bytes[..]].concat();
        assert_eq!(Unicast::decode(&update), Ok(Unicast::Update(state)), "seed {seed}");
    }
}

#[test]
fn unicasts_are_a_byte_and_what_go_reads_behind_it() {
    let mut go = Go::start();
    for seed in 0..DRAWS {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let start = number(rng) as u32;
        let range = Range::new(Address(start), Address(start.saturating_add(number(rng) as u32)));
        let value = json!({"Start": range.start.0, "End": range.end.0});
        for (kind, unicast) in [(0, Unicast::Request(range)), (2, Unicast::Denied(range))] {
            let bytes = unicast.encode();
            assert_eq!(bytes[0], kind);
            let decoded = go.decode("range", &bytes[1..]);
            assert_eq!((decoded.error, decoded.value), (None, value.clone()), "seed {seed}");
            let theirs = [&[kind], &go.encode("range", &value)[..]].concat();
            assert_eq!(Unicast::decode(&theirs), Ok(unicast), "seed {seed}");
        }
        let update = Unicast::Update(random_state(rng));
        let Unicast::Update(state) = &update else { continue };
        let decoded = go.decode("gossipstate", &update.encode()[1..]);
        assert_eq!((decoded.error, decoded.value), (None, state_as_json(state)), "seed {seed}");
    }
}

/// Every phase: nobody elects, electors at all stages, a ring.
fn random_state(rng: &mut ChaCha8Rng) -> State {
    let nicknames = (0..rng.random_range(0..5)).map(|_| (name(rng), text(rng))).collect();
    let now = number(rng) as i64;
    let (paxos, ring) = match rng.random_range(0..4) {
        0 => (None, None),
        1 => (Some(Claims::new()), None),
        2 => (Some(random_claims(rng)), None),
        _ => (None, Some(random_ring(rng))),
    };
    State { now, nicknames, paxos, ring }
}

fn random_claims(rng: &mut ChaCha8Rng) -> Claims {
    let node = |rng: &mut ChaCha8Rng| NodeId { name: name(rng), uid: number(rng) };
    let proposal = |rng: &mut ChaCha8Rng| match rng.random_bool(0.3) {
        true => ProposalId::default(),
        false => ProposalId { round: number(rng), proposer: node(rng) },
    };
    let claims = |rng: &mut ChaCha8Rng| NodeClaims {
        promise: proposal(rng),
        accepted: proposal(rng),
        value: AcceptedValue { value: names(rng), origin: proposal(rng) },
    };
    (0..rng.random_range(1..6)).map(|_| (node(rng), claims(rng))).collect()
}

fn random_ring(rng: &mut ChaCha8Rng) -> Ring {
    let start = rng.random_range(0..1 << 31);
    let universe = Range::new(Address(start), Address(start + rng.random_range(1000..1 << 24)));
    let tokens: BTreeSet<u32> =
        (0..rng.random_range(1..20)).map(|_| rng.random_range(start..universe.end.0)).collect();
    let entry =
        |token| Entry { token: Address(token), owner: name(rng), version: number(rng) as u32, free: 0 };
    let mut entries: Vec<Entry> = tokens.into_iter().map(entry).collect();
    for at in 1..entries.len() {
        entries[at - 1].free = rng.random_range(0..=entries[at].token.0 - entries[at - 1].token.0);
    }
    Ring::from_parts(name(rng), universe, entries, names(rng)).unwrap()
}

fn state_as_json(state: &State) -> Value {
    let nicknames: Vec<Value> = state
        .nicknames
        .iter()
        .map(|(name, nickname)| json!({"Name": name.as_u64(), "NickName": nickname}))
        .collect();
    let paxos = state.paxos.as_ref().map(|claims| claims.iter().map(claims_as_json).collect::<Vec<_>>());
    let ring = state.ring.as_ref().map(|ring| {
        let entry = |entry: &Entry| {
            json!({
                "Token": entry.token.0, "Peer": entry.owner.as_u64(), "Version": entry.version, "Free": entry.free,
            })
        };
        json!({
            "Start": ring.universe().start.0,
            "End": ring.universe().end.0,
            "Peer": ring.holder().as_u64(),
            "Entries": ring.entries().iter().map(entry).collect::<Vec<_>>(),
            "Seeds": numbers(ring.seeds()),
        })
    });
    json!({"Now": state.now, "Nicknames": nicknames, "Paxos": paxos, "Ring": ring})
}

fn claims_as_json((node, claims): (&NodeId, &NodeClaims)) -> Value {
    let node_as_json = |node: &NodeId| json!({"Name": node.name.as_u64(), "UID": node.uid});
    let proposal = |id: &ProposalId| json!({"Round": id.round, "Proposer": node_as_json(&id.proposer)});
    json!({
        "Node": node_as_json(node),
        "Promise": proposal(&claims.promise),
        "Accepted": proposal(&claims.accepted),
        "AcceptedVal": {"Value": numbers(&claims.value.value), "Origin": proposal(&claims.value.origin)},
    })
}

// ===== the mesh =====

/// Our mesh and a peer whose bytes are all written by Go.
struct Meeting {
    go: Go,
    mesh: Mesh,
    us: PeerName,
    now: Timestamp,
    /// All that the mesh sent.
    sent: Vec<u8>,
    delivered: Vec<(String, Kind, Bytes)>,
}

const CONN: ConnId = ConnId(1);

impl Meeting {
    /// Both sides are introduced. Returns what we say of ourselves.
    fn begin(go: Go, rng: &mut ChaCha8Rng, features: &Value) -> (Meeting, Value) {
        let settings = Settings {
            name: name(rng),
            uid: PeerUid(number(rng)),
            nickname: text(rng),
            port: 6783,
            password: None,
            trusted_subnets: Vec::new(),
            conn_limit: 0,
            overlays: vec!["weavers".to_owned()],
            discovery: false,
        };
        let (us, uid, nickname) = (settings.name, settings.uid, settings.nickname.clone());
        let mut mesh = Mesh::new(settings, ChaCha8Rng::seed_from_u64(rng.random()));
        mesh.set_channels(&[CHANNEL]);
        let mut meeting =
            Meeting { go, mesh, us, now: Timestamp::ZERO, sent: Vec::new(), delivered: Vec::new() };
        let remote: SocketAddr = "10.0.0.2:6783".parse().unwrap();
        meeting.input(Input::Accepted { conn: CONN, remote });
        meeting.receive(b"weave\x01\x02\x00");
        let theirs = meeting.go.encode("features", features);
        meeting.receive(&frame(&theirs));
        assert_eq!(meeting.sent[..8], *b"weave\x02\x02\x00");
        meeting.sent.drain(..8);
        let ours = meeting.frames().remove(0);
        let decoded = meeting.go.decode("features", &ours);
        assert_eq!(decoded.error, None);
        for (key, value) in [("Name", us.to_string()), ("UID", uid.0.to_string()), ("NickName", nickname)] {
            assert_eq!(decoded.value[key], value, "{key}");
        }
        (meeting, decoded.value)
    }

    fn input(&mut self, input: Input) {
        self.mesh.handle(self.now, input);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.mesh.next_output() {
            match output {
                Output::Send(_, bytes) => self.sent.extend(bytes),
                Output::Close(_, why) => panic!("closed: {why}"),
                Output::Deliver(delivery) => {
                    self.delivered.push((delivery.channel, delivery.kind, delivery.payload));
                }
                Output::Dial(_) | Output::Datagram(..) | Output::SendState(_) | Output::TopologyChanged => {}
                Output::Offer | Output::Compare(..) | Output::SendAll(..) => {}
            }
        }
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.input(Input::Received(CONN, Bytes::copy_from_slice(bytes)));
    }

    /// Go writes the envelope.
    fn say(&mut self, tag: u8, kind: &str, envelope: &Value) {
        let body = [&[tag], &self.go.encode(kind, envelope)[..]].concat();
        self.receive(&frame(&body));
    }

    /// The bodies of the frames that were sent since.
    fn frames(&mut self) -> Vec<Vec<u8>> {
        let mut rest = std::mem::take(&mut self.sent);
        let mut frames = Vec::new();
        while let Some(len) = rest.first_chunk() {
            let len = u32::from_be_bytes(*len) as usize;
            frames.push(rest[4..4 + len].to_vec());
            rest.drain(..4 + len);
        }
        assert!(rest.is_empty(), "a frame is torn");
        frames
    }

    /// What Go reads in the envelopes of this tag that were sent since.
    fn heard(&mut self, tag: u8, kind: &str) -> Vec<Value> {
        let frames = self.frames();
        let envelopes = frames.iter().filter(|frame| frame.first() == Some(&tag));
        let read = envelopes.map(|frame| self.go.decode(kind, &frame[1..]));
        read.map(|decoded| {
            assert_eq!(decoded.error, None);
            decoded.value
        })
        .collect()
    }

    /// Time goes by, moment by moment as the mesh wishes.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.mesh.next_wake().filter(|due| *due <= end) {
            self.now = due.max(self.now + Duration::from_micros(1));
            self.input(Input::Woken);
        }
        self.now = end;
    }
}

#[test]
fn a_mesh_of_peers_described_by_go_is_described_to_go_again() {
    let mut go = Some(Go::start());
    for seed in 0..DRAWS / 3 {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let them = name(rng);
        let nickname = text(rng);
        let features = features_of(them, &nickname, rng);
        let (mut meeting, _) = Meeting::begin(go.take().unwrap(), rng, &features);
        let mut others: BTreeSet<PeerName> = (0..rng.random_range(0..12)).map(|_| name(rng)).collect();
        others.retain(|other| *other != them && *other != meeting.us);
        let mut links: BTreeSet<PeerName> = others.clone();
        links.insert(meeting.us);
        let mut described = BTreeMap::from([(them, peer_as_json(them, &links, rng))]);
        for other in &others {
            described.insert(*other, peer_as_json(*other, &[them].into(), rng));
        }
        let peers: Vec<Value> = described.values().cloned().collect();
        let data = hex(&meeting.go.encode("topology", &json!(peers)));
        let envelope = json!({"Channel": "topology", "Source": them.as_u64(), "Data": data});
        meeting.say(4, "envelope-gossip", &envelope);

        for view in meeting.mesh.peers() {
            let told = &described[&view.name];
            assert_eq!(told["UID"], view.uid.0, "seed {seed}");
            assert_eq!(told["NickName"], view.nickname, "seed {seed}");
        }
        assert_eq!(meeting.mesh.peers().count(), described.len(), "seed {seed}");

        meeting.frames();
        meeting.pass(Duration::from_secs(31));
        let heard = meeting.heard(4, "envelope-gossip");
        let mut again = BTreeMap::new();
        for envelope in heard.iter().filter(|envelope| envelope["Channel"] == "topology") {
            assert_eq!(envelope["Source"], meeting.us.as_u64());
            let payload = super::go::unhex(envelope["Data"].as_str().unwrap());
            let decoded = meeting.go.decode("topology", &payload);
            assert_eq!(decoded.error, None, "seed {seed}");
            for peer in decoded.value.as_array().unwrap() {
                again.insert(peer["NameByte"].as_str().unwrap().to_owned(), peer.clone());
            }
        }
        let ourselves = again.remove(&hex_name(meeting.us)).expect("we describe ourselves");
        assert_eq!(ourselves["Connections"][0]["NameByte"], hex_name(them));
        let told: BTreeMap<String, Value> =
            described.into_iter().map(|(name, peer)| (hex_name(name), peer)).collect();
        assert_eq!(again, told, "seed {seed}");
        go = Some(meeting.go);
    }
}

#[test]
fn envelopes_of_both_sides_arrive() {
    let mut go = Some(Go::start());
    for seed in 0..DRAWS / 3 {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let them = name(rng);
        let nickname = text(rng);
        let features = features_of(them, &nickname, rng);
        let (mut meeting, _) = Meeting::begin(go.take().unwrap(), rng, &features);
        let view = meeting.mesh.connections().next().unwrap();
        assert_eq!((view.peer, view.nickname), (Some(them), Some(nickname)), "seed {seed}");
        let us = meeting.us;
        let peers = json!([peer_as_json(them, &[us].into(), rng)]);
        let data = hex(&meeting.go.encode("topology", &peers));
        meeting.say(
            4,
            "envelope-gossip",
            &json!({"Channel": "topology", "Source": them.as_u64(), "Data": data}),
        );
        meeting.frames();

        let mut payload = vec![0; rng.random_range(0..3000)];
        rng.fill(&mut payload[..]);
        let expected =
            |source: PeerName| json!({"Channel": CHANNEL, "Source": source.as_u64(), "Data": hex(&payload)});
        let to_one = |from: PeerName, to: PeerName| {
            let mut envelope = expected(from);
            envelope["Destination"] = json!(to.as_u64());
            envelope
        };
        meeting.mesh.gossip(Recipients::One(CONN), CHANNEL, &payload);
        meeting.carry_out();
        assert_eq!(meeting.heard(4, "envelope-gossip"), [expected(us)], "seed {seed}");
        meeting.mesh.unicast(them, CHANNEL, &payload).unwrap();
        meeting.carry_out();
        assert_eq!(meeting.heard(5, "envelope-unicast"), [to_one(us, them)], "seed {seed}");
        meeting.mesh.broadcast(us, CHANNEL, &payload);
        meeting.carry_out();
        assert_eq!(meeting.heard(6, "envelope-gossip"), [expected(us)], "seed {seed}");

        meeting.say(4, "envelope-gossip", &expected(them));
        meeting.say(5, "envelope-unicast", &to_one(them, us));
        meeting.say(6, "envelope-gossip", &expected(them));
        let kinds =
            [Kind::Gossip { from: them }, Kind::Unicast { from: them }, Kind::Broadcast { from: them }];
        let came = kinds.map(|kind| (CHANNEL.to_owned(), kind, Bytes::from(payload.clone())));
        assert_eq!(meeting.delivered, came, "seed {seed}");
        go = Some(meeting.go);
    }
}

fn features_of(peer: PeerName, nickname: &str, rng: &mut ChaCha8Rng) -> Value {
    json!({
        "Name": peer.to_string(), "NickName": nickname, "UID": number(rng).to_string(),
        "ConnID": number(rng).to_string(), "PeerNameFlavour": "mac", "Trusted": "true",
        "ShortID": rng.random_range(0..4096).to_string(),
    })
}

fn peer_as_json(peer: PeerName, links: &BTreeSet<PeerName>, rng: &mut ChaCha8Rng) -> Value {
    // Connections come in the order of names, as in Go only by chance.
    let links: Vec<Value> = links
        .iter()
        .map(|to| {
            json!({
                "NameByte": hex_name(*to), "RemoteTCPAddr": format!("10.0.0.{}:6783", rng.random_range(0..256)),
                "Outbound": rng.random::<bool>(), "Established": true,
            })
        })
        .collect();
    let short_id: Option<u16> = rng.random_bool(0.8).then(|| rng.random_range(0..4096));
    json!({
        "NameByte": hex_name(peer), "NickName": text(rng), "UID": number(rng),
        "Version": (number(rng) >> 1).max(1), "ShortID": short_id.unwrap_or(0), "HasShortID": short_id.is_some(),
        "Connections": links,
    })
}

fn frame(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes(), body].concat()
}

// ===== chance =====

/// As often short as long.
fn number(rng: &mut ChaCha8Rng) -> u64 {
    rng.random::<u64>() >> rng.random_range(0..64)
}

fn name(rng: &mut ChaCha8Rng) -> PeerName {
    PeerName::from_u64(number(rng).max(1) | 1 << rng.random_range(0..48))
}

fn names(rng: &mut ChaCha8Rng) -> Vec<PeerName> {
    (0..rng.random_range(0..5)).map(|_| name(rng)).collect()
}

fn numbers(names: &[PeerName]) -> Vec<u64> {
    names.iter().map(|name| name.as_u64()).collect()
}

/// What is not fit to be shown is not kept as it is.
fn text(rng: &mut ChaCha8Rng) -> String {
    let drawn: String = (0..rng.random_range(0..40)).map(|_| rng.random::<char>()).collect();
    weavers::text::printable(&drawn)
}

fn hex_name(name: PeerName) -> String {
    name.to_string().replace(':', "")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
