//! A hostile peer can neither crash, hang, grow nor corrupt us: from a stranger who knows the port to a peer that was introduced.
//!
//! What arbitrary bytes do to the decoders is in [`crate::decoders`]; the times after which a silent stranger is closed, and how
//! many may be introduced at once, are in the tests of `mesh`; a peer that does not read is in those of `transport`.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weavers::{
    addr::{Address, Range},
    gob::{Encoder, Schema, Value},
    ipam::{
        message::{State, Unicast},
        ring::{Entry, Ring},
    },
    mesh::{ConnId, FRAME_LEN_MAX, INTRODUCTION_LEN_MAX, Input, Mesh, OVERLAY, Output, RECENT_MAX, Settings},
    node::{
        DEAD_CHANNEL,
        protocol::request::{Request, Response},
    },
    peer::{PeerName, PeerUid},
    time::Timestamp,
};

use super::{
    crowd::{Crowd, LOW},
    memory::peak,
    mesh_peers::{Ours, Talker, Whole, eventually, settings},
};

const FEATURES: Schema = Schema::Map { name: "", key: &Schema::Str, elem: &Schema::Str };
const CHANNEL: &str = "IPallocation";
const HOSTILE: PeerName = PeerName::from_u64(66);
const MIB: usize = 1 << 20;

/// What a peer of this name says first, without a password.
fn introduction(name: PeerName) -> Vec<u8> {
    let name = name.to_string();
    let features = [
        ("Name", &name[..]),
        ("NickName", "hostile"),
        ("UID", "1"),
        ("ConnID", "1"),
        ("PeerNameFlavour", "mac"),
    ];
    let features = features.map(|(key, text)| (Value::text(key), Value::text(text))).to_vec();
    let features = framed(&Encoder::new().encode(&FEATURES, &Value::Map(features)));
    [b"weave\x01\x02\x00", &features[..]].concat()
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes(), body].concat()
}

/// A message of gossip (4), for one peer (5), or for all (6).
fn message(tag: u8, channel: &str, names: &[PeerName], data: &[u8]) -> Vec<u8> {
    let mut body = vec![tag];
    body.extend(Encoder::new().encode(&Schema::Str, &Value::text(channel)));
    for name in names {
        body.extend(Encoder::new().encode(&Schema::Uint, &Value::Uint(name.as_u64())));
    }
    body.extend(Encoder::new().encode(&Schema::Bytes, &Value::Bytes(data.to_vec())));
    framed(&body)
}

// ===== on real sockets =====

/// Somebody at our port.
struct Stranger(TcpStream);

impl Stranger {
    fn at(address: SocketAddr) -> Stranger {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
        Stranger(stream)
    }

    /// One who is let in.
    fn introduced(address: SocketAddr) -> Stranger {
        let mut stranger = Stranger::at(address);
        stranger.send(&introduction(HOSTILE));
        stranger
    }

    /// Whether the bytes could be handed to the kernel.
    fn send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    /// Reads on until it is closed.
    fn is_closed(&mut self) -> bool {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match self.0.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return !matches!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
    }
}

/// Two honest peers that are connected.
fn honest() -> (Ours<Talker>, Ours<Talker>) {
    let (one, two) = (Ours::<Talker>::start(settings(1)), Ours::<Talker>::start(settings(2)));
    one.dial(&[two.address]);
    eventually("the honest are connected", || one.is_connected_to(two.name) && two.is_connected_to(one.name));
    (one, two)
}

#[test]
fn garbage_at_any_stage_ends_its_connection_and_no_other() {
    let (one, two) = honest();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let introduction = introduction(HOSTILE);
    for stage in [0, 5, 7, 8, 20, introduction.len()] {
        let garbage: Vec<u8> = (0..10_000).map(|_| rng.random::<u8>() | 0x80).collect();
        let mut stranger = Stranger::at(one.address);
        stranger.send(&introduction[..stage]);
        stranger.send(&garbage);
        assert!(stranger.is_closed(), "after {stage} good bytes");
    }
    assert!(one.is_connected_to(two.name) && two.is_connected_to(one.name));
}

#[test]
fn a_frame_that_is_too_long_is_refused_at_its_length() {
    let (one, _two) = honest();
    let header = b"weave\x01\x02\x00";
    let mut stranger = Stranger::at(one.address);
    stranger.send(&[&header[..], &(INTRODUCTION_LEN_MAX as u32 + 1).to_be_bytes()].concat());
    assert!(stranger.is_closed());
    let mut peer = Stranger::introduced(one.address);
    peer.send(&(FRAME_LEN_MAX as u32 + 1).to_be_bytes());
    assert!(peer.is_closed());
}

#[test]
fn a_crowd_that_says_nothing_does_not_keep_others_out() {
    let crowded = Ours::<Talker>::start(settings(1));
    let crowd: Vec<Stranger> = (0..90).map(|_| Stranger::at(crowded.address)).collect();
    let (other, late) = (Ours::<Talker>::start(settings(2)), Ours::<Talker>::start(settings(3)));
    crowded.dial(&[other.address]);
    eventually("whom it dials is connected", || crowded.is_connected_to(other.name));
    let begun = Instant::now();
    late.dial(&[crowded.address]);
    eventually("so is who dials it", || crowded.is_connected_to(late.name));
    assert!(begun.elapsed() < Duration::from_secs(8), "it need not wait until the silent are closed");
    drop(crowd);
}

#[test]
fn a_peer_that_asks_and_never_listens_is_closed() {
    let node = Ours::<Whole>::start(1, 1);
    let mut peer = Stranger::introduced(node.address);
    let (start, end) = (Address(0x0a20_0000), Address(0x0a30_0000));
    let request = Unicast::Request(Range::new(start, end)).encode();
    let request = message(5, CHANNEL, &[HOSTILE, node.name], &request).repeat(100);
    let closed = (0..2000).any(|_| !peer.send(&request));
    assert!(closed, "answers wait for it without end");
    assert!(matches!(node.answer(node.ask(Request::ShowRing)), Ok(Response::Ring(_))), "the node lives");
}

#[test]
fn a_ring_that_claims_everything_takes_no_address_that_is_in_use() {
    // A dispute falls to the lower name.
    for number in [1, 100] {
        claim_everything_of(&Ours::<Whole>::start(number, 1));
    }
}

fn claim_everything_of(node: &Ours<Whole>) {
    let allocate = |ident: &str| Request::Allocate { ident: ident.to_owned(), subnet: None };
    let Ok(Response::Addresses(used)) = node.answer(node.ask(allocate("c"))) else { panic!("it is alone") };
    let used = Address::from(used[0].addr());
    let universe = Range::new(Address(0x0a20_0000), Address(0x0a30_0000));
    let ring = |entries, seeds| {
        let ring = Ring::from_parts(HOSTILE, universe, entries, seeds).unwrap();
        State { ring: Some(ring), ..State::default() }.encode()
    };
    let entry = |token, version, free| Entry { token, owner: HOSTILE, version, free };
    let mut peer = Stranger::introduced(node.address);
    for version in [1_000_000, u32::MAX - 1, u32::MAX] {
        let all = ring(vec![entry(universe.start, version, universe.len())], vec![node.name]);
        let piece = ring(
            vec![entry(universe.start, version, 0), entry(used, version, universe.end.0 - used.0)],
            vec![node.name],
        );
        for claim in [all, piece] {
            peer.send(&message(4, CHANNEL, &[HOSTILE], &claim));
            peer.send(&message(6, CHANNEL, &[HOSTILE], &claim));
            peer.send(&message(5, CHANNEL, &[HOSTILE, node.name], &[&[1], &claim[..]].concat()));
        }
    }
    // Behind all that: once it is answered, all of it was heard.
    peer.send(&message(4, CHANNEL, &[HOSTILE], &ring(vec![entry(universe.start, 0, 0)], vec![HOSTILE])));
    assert!(peer.is_closed(), "a ring of other seeds ends the connection");
    let Ok(Response::Ring(pieces)) = node.answer(node.ask(Request::ShowRing)) else {
        panic!("there is a ring")
    };
    let ours: Vec<_> = pieces.iter().filter(|piece| piece.peer == node.name).collect();
    assert!(!ours.is_empty(), "{pieces:?}");
    let Ok(Response::Addresses(still)) = node.answer(node.ask(Request::Lookup { ident: "c".to_owned() }))
    else {
        panic!("c holds an address")
    };
    assert_eq!(Address::from(still[0].addr()), used);
    // The same ident is given the same address, so it is ours to hand out.
    let Ok(Response::Addresses(again)) = node.answer(node.ask(allocate("c"))) else { panic!("c holds it") };
    assert_eq!(Address::from(again[0].addr()), used);
}

// ===== in memory =====

#[test]
fn a_peer_behind_one_host_cuts_no_other_hosts_from_each_other() {
    for (channel, garbage) in
        [(CHANNEL, &b""[..]), (CHANNEL, &[9, 9]), (CHANNEL, &[1, 7, 7]), (DEAD_CHANNEL, &[0xff; 9])]
    {
        let mut crowd = Crowd::of(3);
        crowd.let_in_at([0]);
        let before = connected(&crowd, 1);
        crowd.whisper(1, channel, garbage);
        crowd.shout(LOW, channel, garbage);
        crowd.shout(PeerName::from_u64(3), channel, garbage);
        assert_eq!(connected(&crowd, 1), before, "{channel} {garbage:?}");
        assert!(
            crowd.notes(1).contains("dropped that 00:00:00:00:00:02 (host-2) passed on"),
            "{}",
            crowd.notes(1)
        );
    }
}

/// Whom a host is connected to.
fn connected(crowd: &Crowd, host: usize) -> Vec<Option<PeerName>> {
    crowd.hosts[host].node.status().connections.into_iter().map(|one| one.peer).collect()
}

// ===== in memory, and counted =====

fn mesh(number: u64, password: Option<&[u8]>) -> Mesh {
    let settings = Settings {
        name: PeerName::from_u64(number),
        uid: PeerUid(number),
        nickname: String::new(),
        port: 6783,
        password: password.map(<[u8]>::to_vec),
        trusted_subnets: Vec::new(),
        conn_limit: 200,
        overlays: vec![OVERLAY.to_owned()],
        discovery: true,
    };
    let mut mesh = Mesh::new(settings, ChaCha8Rng::seed_from_u64(number));
    mesh.set_channels(&[CHANNEL]);
    mesh
}

/// A mesh with a connection to each of these peers, under the number of its name.
fn introduced_to(peers: impl IntoIterator<Item = u64>) -> Mesh {
    let mut mesh = mesh(1, None);
    for number in peers {
        let remote = SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 6783));
        mesh.handle(Timestamp::ZERO, Input::Accepted { conn: ConnId(number), remote });
        hear(&mut mesh, number, &introduction(PeerName::from_u64(number)));
    }
    mesh
}

/// Bytes come; what they cause is counted and dropped.
fn hear(mesh: &mut Mesh, conn: u64, bytes: &[u8]) -> Vec<String> {
    mesh.handle(Timestamp::ZERO, Input::Received(ConnId(conn), Bytes::copy_from_slice(bytes)));
    let mut closed = Vec::new();
    while let Some(output) = mesh.next_output() {
        if let Output::Close(_, why) = output {
            closed.push(why);
        }
    }
    closed
}

#[test]
fn unfinished_messages_of_many_peers_stay_within_a_bound() {
    let mut mesh = introduced_to(2..62);
    let mut closed = Vec::new();
    let held = peak(|| {
        let chunk = vec![0; MIB];
        for number in 2..62 {
            closed.extend(hear(&mut mesh, number, &(FRAME_LEN_MAX as u32).to_be_bytes()));
            for _ in 0..9 {
                closed.extend(hear(&mut mesh, number, &chunk));
            }
        }
    });
    assert!(held < 160 * MIB, "{} MiB are held", held / MIB);
    assert!(closed.len() > 40, "{} are closed", closed.len());
    assert!(closed[0].contains("unfinished messages"), "{closed:?}");
    assert!(mesh.connections().count() >= 6, "the first ones may go on");
}

#[test]
fn a_flood_of_gossip_is_not_remembered_without_bound() {
    let mut mesh = introduced_to([66]);
    let held = peak(|| {
        for number in 0..100_000u64 {
            let (name, channel) = (PeerName::from_u64(number + 100), format!("channel {}", number % 1000));
            hear(&mut mesh, 66, &message(4, &channel, &[HOSTILE], &number.to_be_bytes()));
            hear(&mut mesh, 66, &message(6, "nameserver", &[name], b"x"));
            hear(&mut mesh, 66, &message(6, CHANNEL, &[name], b"x"));
            hear(&mut mesh, 66, &message(5, CHANNEL, &[name, name], b"x"));
        }
    });
    let bound = 2 * MIB + 64 * RECENT_MAX * 128;
    assert!(held < bound, "{held} bytes are held, {bound} are allowed");
}

#[test]
fn a_description_of_a_mesh_without_end_is_cut_and_ours_still_goes_out() {
    const SUMMARY: Schema = Schema::Struct {
        name: "",
        fields: &[("NameByte", Schema::Bytes), ("Version", Schema::Uint), ("UID", Schema::Uint)],
    };
    const LINK: Schema =
        Schema::Struct { name: "", fields: &[("NameByte", Schema::Bytes), ("RemoteTCPAddr", Schema::Str)] };
    const LINKS: Schema = Schema::Slice { name: "", elem: &LINK };
    let bytes = |number: u64| Value::Bytes(number.to_be_bytes()[2..].to_vec());
    let link = |number: u64| {
        Value::fields([("NameByte", bytes(number)), ("RemoteTCPAddr", Value::text("x".repeat(300)))])
    };
    let mut mesh = introduced_to([66]);
    let mut payloads = Vec::new();
    for chunk in 0..60u64 {
        let mut encoder = Encoder::new();
        let mut payload = Vec::new();
        for peer in 0..20 {
            let number = 66 + 20 * chunk + peer;
            let summary = [("NameByte", bytes(number)), ("Version", Value::Uint(9)), ("UID", Value::Uint(9))];
            payload.extend(encoder.encode(&SUMMARY, &Value::fields(summary)));
            // The hostile peer itself leads to all others, so that none is forgotten.
            let far: Vec<Value> = (0..700).map(|other| link(66 + (number + other) % 1200)).collect();
            payload.extend(encoder.encode(&LINKS, &Value::Slice(far)));
        }
        payloads.push(message(4, "topology", &[HOSTILE], &payload));
    }
    let held = peak(|| {
        for payload in &payloads {
            assert_eq!(hear(&mut mesh, 66, payload), [""; 0]);
        }
    });
    assert!(held < 128 * MIB, "{} MiB are held", held / MIB);
    assert!(mesh.peers().count() > 200);
    drop(payloads);
    // The next round of gossip: all we know, in one message.
    mesh.handle(Timestamp::from_micros(31_000_000), Input::Woken);
    mesh.handle(
        Timestamp::from_micros(31_000_000),
        Input::Accepted { conn: ConnId(2), remote: SocketAddr::from(([10, 0, 0, 2], 1)) },
    );
    while mesh.next_output().is_some() {}
    let bytes = introduction(PeerName::from_u64(2)).into();
    mesh.handle(Timestamp::from_micros(31_000_000), Input::Received(ConnId(2), bytes));
    let sent = std::iter::from_fn(|| mesh.next_output()).filter_map(|output| match output {
        Output::Send(ConnId(2), bytes) => Some(bytes.len()),
        _ => None,
    });
    let longest = sent.max().unwrap();
    assert!(
        longest > MIB / 2,
        "a newcomer is told everything: {longest} bytes, {} peers",
        mesh.peers().count()
    );
}

// ===== replays =====

/// Two peers with a password, and what the dialler has said.
struct Pair {
    dialler: Mesh,
    acceptor: Mesh,
    said: Vec<Bytes>,
}

impl Pair {
    fn introduced() -> Pair {
        let (mut dialler, mut acceptor) = (mesh(1, Some(b"secret")), mesh(2, Some(b"secret")));
        let address = |number: u8| SocketAddr::from(([10, 0, 0, number], 6783));
        dialler.set_targets(Timestamp::ZERO, ["10.0.0.2".to_owned()].into());
        let target = "10.0.0.2".to_owned();
        dialler.handle(Timestamp::ZERO, Input::Dialled { target, conn: ConnId(1), remote: address(2) });
        acceptor.handle(Timestamp::ZERO, Input::Accepted { conn: ConnId(1), remote: address(1) });
        let mut pair = Pair { dialler, acceptor, said: Vec::new() };
        pair.run();
        assert_eq!(
            pair.acceptor.connections().next().and_then(|view| view.peer),
            Some(PeerName::from_u64(1))
        );
        pair
    }

    /// Carries bytes until nothing is left to say.
    fn run(&mut self) {
        loop {
            let (there, back) = (sent(&mut self.dialler), sent(&mut self.acceptor));
            if there.is_empty() && back.is_empty() {
                return;
            }
            for bytes in there {
                self.said.push(bytes.clone());
                self.acceptor.handle(Timestamp::ZERO, Input::Received(ConnId(1), bytes));
            }
            for bytes in back {
                self.dialler.handle(Timestamp::ZERO, Input::Received(ConnId(1), bytes));
            }
        }
    }
}

fn sent(mesh: &mut Mesh) -> Vec<Bytes> {
    let outputs = std::iter::from_fn(|| mesh.next_output());
    let sent = outputs.filter_map(|output| match output {
        Output::Send(ConnId(1), bytes) => Some(bytes),
        _ => None,
    });
    sent.collect()
}

/// What became of bytes: messages delivered, and why connections were closed.
fn outcome(mesh: &mut Mesh) -> BTreeMap<&'static str, Vec<String>> {
    let mut outcome: BTreeMap<_, Vec<_>> = BTreeMap::new();
    while let Some(output) = mesh.next_output() {
        match output {
            Output::Deliver(delivery) => outcome.entry("delivered").or_default().push(delivery.channel),
            Output::Close(_, why) => outcome.entry("closed").or_default().push(why),
            _ => {}
        }
    }
    outcome
}

#[test]
fn a_frame_played_again_is_not_heard_again() {
    let mut pair = Pair::introduced();
    pair.dialler.unicast(PeerName::from_u64(2), CHANNEL, b"once").unwrap();
    let frame = sent(&mut pair.dialler).remove(0);
    pair.acceptor.handle(Timestamp::ZERO, Input::Received(ConnId(1), frame.clone()));
    assert_eq!(outcome(&mut pair.acceptor)["delivered"], [CHANNEL]);
    pair.acceptor.handle(Timestamp::ZERO, Input::Received(ConnId(1), frame));
    let outcome = outcome(&mut pair.acceptor);
    assert!(!outcome.contains_key("delivered"));
    assert!(outcome["closed"][0].contains("cannot be decrypted"), "{outcome:?}");
}

#[test]
fn a_session_played_again_lets_nobody_in() {
    let mut pair = Pair::introduced();
    pair.acceptor.handle(Timestamp::ZERO, Input::Closed(ConnId(1), "gone".to_owned()));
    outcome(&mut pair.acceptor);
    let remote = SocketAddr::from(([10, 0, 0, 1], 40000));
    pair.acceptor.handle(Timestamp::ZERO, Input::Accepted { conn: ConnId(2), remote });
    for bytes in pair.said {
        pair.acceptor.handle(Timestamp::ZERO, Input::Received(ConnId(2), bytes));
    }
    let outcome = outcome(&mut pair.acceptor);
    assert!(!outcome.contains_key("delivered"));
    assert!(outcome["closed"][0].contains("cannot be decrypted"), "{outcome:?}");
    assert_eq!(pair.acceptor.connections().count(), 0);
}
