//! Whatever comes in, no decoder panics, and none takes more memory than the input is worth.
//!
//! The bound is [`TIMES`] bytes for each byte of the input and [`ROOM`] besides, for inputs up to [`LEN_MAX`]. A gob value takes
//! 32 bytes and comes as one byte; a list that grows holds its old and its new place for a moment.

use std::{collections::BTreeMap, net::SocketAddr};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weavers::{
    addr::Range,
    config, docker,
    gob::{Decoder, Encoder, Schema, Value},
    ipam::{
        Allocator, Init, NodeId, Saved, Settings as IpamSettings, Source,
        message::{State, Unicast},
        takeover::{self, TakeOver},
    },
    mesh::{ConnId, Input, Mesh, Output, Settings},
    netavark,
    node::{persist::memory::Memory, protocol::request::Request},
    peer::{PeerName, PeerUid},
    time::Timestamp,
};

use super::{go, memory::peak};

const LEN_MAX: usize = 64 << 10;
const TIMES: usize = 128;
const ROOM: usize = 1 << 20;
/// Damaged inputs tried for each decoder.
const ROUNDS: u64 = 300;

const PEER: PeerName = PeerName::from_u64(0x0200_0000_0002);

/// Fails if the decoder takes more than the bound. Returns what it took.
fn within_bounds(decoder: &str, input: &[u8], decode: impl FnOnce(&[u8])) -> usize {
    assert!(input.len() <= LEN_MAX, "{decoder}: {} bytes", input.len());
    let held = peak(|| decode(input));
    let bound = TIMES * input.len() + ROOM;
    assert!(
        held <= bound,
        "{decoder} takes {held} bytes for {} ({}…), {bound} are allowed",
        input.len(),
        input.iter().take(40).map(|byte| format!("{byte:02x}")).collect::<String>(),
    );
    held
}

#[test]
fn gob_stays_within_bounds() {
    let mut most = 0;
    for input in gob_inputs() {
        let held = within_bounds("gob", &input, decode_gob);
        most = most.max(held / input.len().max(LEN_MAX / 2));
        within_bounds("gob in a stream", &input, |mut input| {
            let mut decoder = Decoder::new();
            while let Ok(Some(_)) = decoder.next_in_stream(&mut input) {}
        });
    }
    println!("gob: at most {most} bytes for one");
    assert!(most > 32, "the bombs are duds: at most {most} bytes for one");
}

#[test]
fn messages_of_the_address_manager_stay_within_bounds() {
    for input in gob_inputs() {
        within_bounds("ipam state", &input, |input| drop(State::decode(input)));
        within_bounds("ipam unicast", &input, |input| drop(Unicast::decode(input)));
        let settings = IpamSettings {
            me: PeerName::from_u64(1),
            nickname: "us".to_owned(),
            universe: Range::from("10.32.0.0/12".parse::<ipnet::Ipv4Net>().unwrap()),
            init: Init::Consensus,
            expected_peers: 3,
            acceptor: NodeId { name: PeerName::from_u64(1), uid: 1 },
        };
        let sources =
            [Source::Gossip { from: PEER }, Source::Unicast { from: PEER }, Source::Broadcast { from: PEER }];
        for source in sources {
            let mut allocator = Allocator::new(settings.clone(), Saved::default()).unwrap();
            within_bounds("address manager", &input, |input| {
                drop(allocator.receive(Timestamp::ZERO, source, input));
                while allocator.next_effect().is_some() {}
            });
        }
    }
}

#[test]
fn a_stranger_at_the_port_stays_within_bounds() {
    let introductions: [&[u8]; 5] =
        [b"", b"weave\x01\x02", b"weave\x01\x02\x00", b"weave\x01\x02\x01", b"weave\x01\x01"];
    for password in [None, Some(b"secret".to_vec())] {
        for input in gob_inputs() {
            for introduction in introductions {
                let framed = framed(&input);
                for rest in [&input, &framed] {
                    let mut mesh = mesh(password.clone());
                    let bytes =
                        [introduction, &rest[..rest.len().min(LEN_MAX - introduction.len())]].concat();
                    within_bounds("handshake", &bytes, |bytes| receive(&mut mesh, bytes));
                }
            }
        }
    }
}

#[test]
fn a_peer_that_is_introduced_stays_within_bounds() {
    for input in gob_inputs() {
        for tag in 0..8 {
            let body: Vec<u8> = [&[tag], &input[..]].concat();
            let mut mesh = introduced();
            within_bounds("message", &fitting(framed(&body)), |bytes| receive(&mut mesh, bytes));
        }
        let mut mesh = introduced();
        let topology = [&[4], &gossip("topology", &input)[..]].concat();
        within_bounds("topology", &fitting(framed(&topology)), |bytes| receive(&mut mesh, bytes));
    }
}

#[test]
fn a_frame_that_announces_more_than_comes_is_not_believed() {
    for len in [0u32, 1, 4096, 4097, 10 << 20, (10 << 20) + 1, u32::MAX] {
        for mut mesh in [introduced(), mesh(None)] {
            let bytes = [&len.to_be_bytes()[..], &[4; 100]].concat();
            within_bounds("frame", &bytes, |bytes| receive(&mut mesh, bytes));
        }
    }
}

#[test]
fn records_of_the_store_stay_within_bounds() {
    for input in json_inputs() {
        for key in
            ["identity", "ring", "paxos", "rest", "decided", "instance/02::1", "allocation/a", "attached/a"]
        {
            let records = BTreeMap::from([(key.to_owned(), input.clone())]);
            within_bounds(key, &input, |_| drop(Memory::read(&records)));
        }
    }
}

#[test]
fn messages_about_the_dead_stay_within_bounds() {
    for input in json_inputs() {
        let mut takeover = of_the_dead();
        within_bounds("about the dead", &input, |input| {
            drop(takeover.hear(Timestamp::ZERO, PEER, input));
            while takeover.next_effect().is_some() {}
        });
    }
}

fn of_the_dead() -> TakeOver {
    let me = PeerName::from_u64(0x0200_0000_0001);
    let mut takeover = TakeOver::new(NodeId { name: me, uid: 7 }, None, takeover::Saved::default());
    takeover.begin(&[me, PEER]);
    while takeover.next_effect().is_some() {}
    takeover
}

#[test]
fn bodies_of_the_control_socket_stay_within_bounds() {
    for input in json_inputs() {
        within_bounds("body", &input, |input| drop(serde_json::from_slice::<serde_json::Value>(input)));
        within_bounds("request", &input, |input| drop(serde_json::from_slice::<Request>(input)));
    }
}

#[test]
fn what_runtimes_say_stays_within_bounds() {
    let endpoint = r#"{"NetworkID":"n","EndpointID":"e","Interface":{"Address":"10.32.0.5/32","AddressIPv6":"","MacAddress":""},"Options":{"com.docker.network.endpoint.macaddress":"AkKsEQAH","com.docker.network.portmap":[{"Proto":6,"Port":80,"HostIP":"0.0.0.0","HostPort":8080,"HostPortEnd":8080}]}}"#;
    let network = r#"{"NetworkID":"n","Options":{"com.docker.network.generic":{"weavers.mtu":"1400"}},"IPv4Data":[{"AddressSpace":"weavers","Pool":"10.32.0.0/12"}],"IPv6Data":[]}"#;
    let address =
        r#"{"PoolID":"10.32.0.0/12,default","Address":"10.32.0.5","Options":{"RequestAddressType":"x"}}"#;
    let told = r#"{"Id":"a","Containers":{"c":{"Name":"n","EndpointID":"e","IPv4Address":"10.32.0.5/32"}}}"#;
    let container = r#"{"container_id":"a","container_name":"n","port_mappings":[{"container_port":80,"host_port":8080,"range":65535,"protocol":"tcp,udp,sctp"}],"network":{"name":"w","options":{"mtu":"1400"}},"network_options":{"interface_name":"eth0","static_ips":["10.32.2.77"]}}"#;
    let mut inputs = json_inputs();
    for (seed, text) in (7..).zip([endpoint, network, address, told, container]) {
        inputs.push(text.into());
        inputs.extend(damaged(text.as_bytes(), seed));
    }
    for input in inputs {
        for path in [
            "NetworkDriver.CreateNetwork",
            "NetworkDriver.CreateEndpoint",
            "NetworkDriver.Join",
            "NetworkDriver.ProgramExternalConnectivity",
            "IpamDriver.RequestPool",
            "IpamDriver.RequestAddress",
            "IpamDriver.ReleaseAddress",
        ] {
            within_bounds(path, &input, |input| drop(docker::input::parse(path, input)));
        }
        within_bounds("networks", &input, |input| drop(docker::told::ids("weavers", input)));
        within_bounds("network", &input, |input| drop(docker::told::network(input)));
        within_bounds("container", &input, |input| drop(netavark::parse(input)));
        within_bounds("create", &input, |input| {
            drop(netavark::create(input, "10.32.0.0/12".parse().unwrap()));
        });
    }
}

#[test]
fn the_text_of_a_configuration_stays_within_bounds() {
    let example = include_str!("../../weave.toml.example").replace("\n# ", "\n");
    let mut inputs = damaged(example.as_bytes(), 1);
    inputs.extend(json_inputs());
    inputs.push(fitting((0..10_000).map(|key| format!("a{key}=1\n")).collect::<String>().into_bytes()));
    inputs.push(fitting("[ipam]\n".repeat(10_000).into_bytes()));
    inputs.push(fitting("peers = [".repeat(10_000).into_bytes()));
    inputs.push(fitting("a.".repeat(40_000).into_bytes()));
    inputs.push(fitting(format!("peers = [{}]", "'', ".repeat(16_000)).into_bytes()));
    for input in inputs {
        let text = String::from_utf8_lossy(&input);
        let text = &text[..text.floor_char_boundary(LEN_MAX)];
        within_bounds("configuration", text.as_bytes(), |_| {
            if let Err(problems) = config::parse(text) {
                drop(problems.to_string());
            }
        });
    }
}

// ===== inputs =====

/// Bytes at random, bytes of real routers and what becomes of them on the way, and bombs.
fn gob_inputs() -> Vec<Vec<u8>> {
    let mut inputs: Vec<Vec<u8>> = bombs();
    let vectors = go::vectors();
    for (seed, vector) in (0..).zip(vectors.iter()) {
        let bytes = go::unhex(&vector.hex);
        let rounds = ROUNDS as usize / vectors.len() + 1;
        inputs.extend(damaged(&bytes, seed).into_iter().take(rounds));
        inputs.push(fitting(bytes.repeat(LEN_MAX / bytes.len().max(1))));
    }
    for seed in 0..ROUNDS {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let mut bytes = vec![0; rng.random_range(0..500)];
        rng.fill(&mut bytes[..]);
        inputs.push(bytes);
    }
    let mut much = vec![0; LEN_MAX];
    ChaCha8Rng::seed_from_u64(0).fill(&mut much[..]);
    inputs.extend([much, vec![0; LEN_MAX], vec![1; LEN_MAX], vec![0xff; LEN_MAX]]);
    inputs
}

/// The same bytes with some changed, cut, or put in twice.
fn damaged(bytes: &[u8], seed: u64) -> Vec<Vec<u8>> {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    let damage = |_| {
        let mut bytes = bytes.to_vec();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..bytes.len().max(1)).min(bytes.len());
            match rng.random_range(0..4) {
                0 if at < bytes.len() => bytes[at] = rng.random(),
                1 => bytes.truncate(at),
                2 => bytes.insert(at, rng.random_range(0xf0..=0xff)),
                _ => bytes.extend_from_within(at..),
            }
        }
        fitting(bytes)
    };
    (0..ROUNDS).map(damage).collect()
}

const BYTES: Schema = Schema::Bytes;
const UINTS: Schema = Schema::Slice { name: "", elem: &Schema::Uint };
const EMPTY: Schema = Schema::Struct { name: "E", fields: &[] };
const EMPTIES: Schema = Schema::Slice { name: "", elem: &EMPTY };
const BOXED: Schema = Schema::Struct { name: "B", fields: &[("A", UINTS)] };
const BOXES: Schema = Schema::Slice { name: "", elem: &BOXED };
const MAP: Schema = Schema::Map { name: "", key: &Schema::Uint, elem: &Schema::Uint };
const L2: Schema = Schema::Slice { name: "", elem: &UINTS };
const L3: Schema = Schema::Slice { name: "", elem: &L2 };
const L4: Schema = Schema::Slice { name: "", elem: &L3 };
const L5: Schema = Schema::Slice { name: "", elem: &L4 };
const L6: Schema = Schema::Slice { name: "", elem: &L5 };
const L7: Schema = Schema::Slice { name: "", elem: &L6 };
const L8: Schema = Schema::Slice { name: "", elem: &L7 };
const STRINGS: Schema = Schema::Slice { name: "", elem: &Schema::Str };

/// Values that are small on the wire and large in memory, and lengths that nothing follows.
fn bombs() -> Vec<Vec<u8>> {
    let many = |value: Value, count: usize| Value::Slice(vec![value; count]);
    let zero = Value::Uint(0);
    let one = || Value::Slice(vec![Value::Uint(0)]);
    let nested = |depth: usize| (0..depth).fold(one(), |inner, _| Value::Slice(vec![inner]));
    let len = LEN_MAX - 1000;
    let values = [
        (&UINTS, many(zero.clone(), len)),
        (&EMPTIES, many(Value::Struct(Vec::new()), len)),
        (&BOXES, many(Value::fields([("A", one())]), len / 4)),
        (&MAP, Value::Map(vec![(zero.clone(), zero); len / 2])),
        (&L2, many(one(), len / 2)),
        (&L2, many(Value::Slice(Vec::new()), len)),
        (&L8, many(nested(6), len / 8)),
        (&L3, many(many(Value::Slice(Vec::new()), 5), len / 6)),
        (&STRINGS, many(Value::text("x"), len / 2)),
        (&STRINGS, Value::Slice(vec![Value::Str("\u{0}".repeat(len))])),
        (&BYTES, Value::Bytes(vec![0xff; len])),
    ];
    let mut bombs: Vec<Vec<u8>> =
        values.iter().map(|(schema, value)| Encoder::new().encode(schema, value)).collect();
    // Text that is no text grows threefold.
    let mut no_text = Encoder::new().encode(&Schema::Str, &Value::text("x".repeat(len)));
    no_text.iter_mut().skip(10).for_each(|byte| *byte = 0xff);
    bombs.push(no_text);
    // Each list says that it is as long as all that follows.
    let described = Encoder::new().encode(&L8, &Value::Slice(Vec::new()));
    let (head, tail) = described.split_at(described.len() - 5);
    for depth in 1..9 {
        let mut body = tail[1..4].to_vec();
        for level in 0..depth {
            body.extend([0xfe, 0xf0 - level, 0]);
        }
        body.resize(LEN_MAX - head.len() - 3, 0);
        let mut bomb = [head, &[0xfe], &(body.len() as u16).to_be_bytes()[..]].concat();
        bomb.extend(body);
        bombs.push(bomb);
    }
    for length in [
        &[0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff][..],
        &[0xfd, 0x9f, 0xff, 0xff],
        &[0xfc, 0xff, 0xff, 0xff, 0xff],
    ] {
        bombs.push(length.to_vec());
        bombs.push([length, &[0; 1000]].concat());
    }
    // Types with as many nameless fields as fit into a description.
    let fields = 16_000u16;
    let types = (0x81u8..).step_by(2).take(4).flat_map(|id| {
        let mut body = vec![0xff, id, 3, 2, 0xfe];
        body.extend(fields.to_be_bytes());
        body.resize(body.len() + usize::from(fields) + 2, 0);
        [&[0xfe][..], &(body.len() as u16).to_be_bytes(), &body].concat()
    });
    bombs.push(types.collect());
    for bomb in &bombs {
        assert!(bomb.len() <= LEN_MAX, "{}", bomb.len());
    }
    bombs
}

fn json_inputs() -> Vec<Vec<u8>> {
    let said = String::from_utf8(of_the_dead().all_known()).unwrap();
    let word = r#"{"words":{"02::2":{"number":3,"instance":"i-2","gone":["02::3"],"asks":["02::3"],"awaits":["02::1"]}}}"#;
    let records = [
        said.as_str(),
        word,
        r#"{"name":"02:00:00:00:00:01","acceptor":7,"instance":"i-1"}"#,
        r#"{"universe":{"start":"10.32.0.0","end":"10.48.0.0"},"holder":"02:00:00:00:00:01","entries":[{"token":"10.32.0.0","owner":"02:00:00:00:00:01","version":1,"free":3}],"seeds":["02:00:00:00:00:01"]}"#,
        r#"["10.32.0.1/12","10.32.0.2/12"]"#,
        r#"{"ident":"a","named":true,"netns":{"boot":"b","cookie":1,"path":"/run"},"address":"10.32.0.1/12"}"#,
        r#"{"claim":{"ident":"a","address":"10.32.0.1"}}"#,
    ];
    let mut inputs: Vec<Vec<u8>> = vec![
        vec![b'['; LEN_MAX],
        b"[0,".repeat(LEN_MAX / 3),
        [b"[", &b"0,".repeat(LEN_MAX / 2 - 2)[..], b"0]"].concat(),
        [b"[", &b"{},".repeat(LEN_MAX / 3 - 2)[..], b"0]"].concat(),
        [b"[", &b"[],".repeat(LEN_MAX / 3 - 2)[..], b"0]"].concat(),
        [b"[", &b"[0],".repeat(LEN_MAX / 4 - 2)[..], b"0]"].concat(),
        [b"[", &b"\"\",".repeat(LEN_MAX / 3 - 2)[..], b"0]"].concat(),
        [b"[", &b"{\"\":0},".repeat(LEN_MAX / 7 - 2)[..], b"0]"].concat(),
        [b"\"", &b"\\u0000".repeat(LEN_MAX / 6 - 2)[..], b"\""].concat(),
        b"9".repeat(LEN_MAX),
        b"{\"a\":".repeat(LEN_MAX / 5),
        [b"{\"words\":{\"::\":{\"asks\":[", &b"\"::\",".repeat(LEN_MAX / 5 - 9)[..], b"\"::\"]}}}"].concat(),
        [b"[", &b"\"10.32.0.1/12\",".repeat(LEN_MAX / 15 - 2)[..], b"\"10.32.0.1/12\"]"].concat(),
    ];
    for (seed, record) in (0..).zip(records) {
        inputs.push(record.into());
        inputs.extend(damaged(record.as_bytes(), seed));
    }
    inputs
}

fn fitting(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(LEN_MAX);
    bytes
}

// ===== who receives =====

fn decode_gob(mut input: &[u8]) {
    let mut decoder = Decoder::new();
    while let Ok(Some(_)) = decoder.next(&mut input) {}
}

fn mesh(password: Option<Vec<u8>>) -> Mesh {
    let settings = Settings {
        name: PeerName::from_u64(1),
        uid: PeerUid(1),
        nickname: "us".to_owned(),
        port: 6783,
        password,
        trusted_subnets: Vec::new(),
        conn_limit: 0,
        overlays: vec!["weavers".to_owned()],
        discovery: true,
    };
    let mut mesh = Mesh::new(settings, ChaCha8Rng::seed_from_u64(1));
    mesh.set_channels(&["IPallocation"]);
    let remote: SocketAddr = "10.0.0.2:6783".parse().unwrap();
    mesh.handle(Timestamp::ZERO, Input::Accepted { conn: ConnId(1), remote });
    mesh
}

/// A mesh with a connection to a peer.
fn introduced() -> Mesh {
    const FEATURES: Schema = Schema::Map { name: "", key: &Schema::Str, elem: &Schema::Str };
    let name = PEER.to_string();
    let features =
        [("Name", &name[..]), ("NickName", "b"), ("UID", "1"), ("ConnID", "1"), ("PeerNameFlavour", "mac")];
    let features = features.map(|(key, text)| (Value::text(key), Value::text(text))).to_vec();
    let features = framed(&Encoder::new().encode(&FEATURES, &Value::Map(features)));
    let mut mesh = mesh(None);
    receive(&mut mesh, &[b"weave\x01\x02\x00", &features[..]].concat());
    assert_eq!(mesh.connections().next().and_then(|view| view.peer), Some(PEER));
    mesh
}

fn receive(mesh: &mut Mesh, bytes: &[u8]) {
    mesh.handle(Timestamp::ZERO, Input::Received(ConnId(1), Bytes::copy_from_slice(bytes)));
    while let Some(output) = mesh.next_output() {
        if let Output::Deliver(delivery) = output {
            drop(State::decode(&delivery.payload));
        }
    }
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes(), body].concat()
}

fn gossip(channel: &str, data: &[u8]) -> Vec<u8> {
    let mut envelope = Encoder::new().encode(&Schema::Str, &Value::text(channel));
    envelope.extend(Encoder::new().encode(&Schema::Uint, &Value::Uint(PEER.as_u64())));
    envelope.extend(Encoder::new().encode(&Schema::Bytes, &Value::Bytes(data.to_vec())));
    envelope
}
