//! A mesh that a fuzzer talks to, and the bytes around what it says.

use std::net::SocketAddr;

use bytes::Bytes;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use weavers::{
    gob::{Encoder, Schema, Value},
    mesh::{ConnId, Input, Mesh, OVERLAY, Output, PEERS_MAX, SLEEVE, Settings},
    peer::PeerUid,
    time::Timestamp,
};

use super::{PEER, US, pieces};

const CONN: ConnId = ConnId(1);

/// Whatever comes on a connection before anybody has introduced himself. The first byte says how it was made.
pub fn stranger(input: &[u8]) -> bool {
    let Some((how, bytes)) = input.split_first() else { return false };
    let password = (how & 1 == 1).then_some(&b"secret"[..]);
    let mut mesh = mesh(password, how & 2 == 2);
    // In two parts, since a decoder must not mind where the network cuts.
    let (first, second) = bytes.split_at(bytes.len().min(usize::from(how >> 2)));
    receive(&mut mesh, first);
    receive(&mut mesh, second);
    let is_in = mesh.peers().next().is_some();
    assert!(password.is_none() || !is_in, "nobody gets in without the password");
    is_in
}

/// Messages of a peer that is introduced.
pub fn peer(input: &[u8]) -> bool {
    let mut mesh = introduced(OVERLAY);
    let mut acted = false;
    for message in pieces(input) {
        acted |= receive(&mut mesh, &framed(message));
    }
    assert!(mesh.peers().count() <= PEERS_MAX);
    acted && mesh.connections().next().is_some()
}

/// Who is in the mesh, by the word of a peer.
pub fn topology(input: &[u8]) -> bool {
    let mut mesh = introduced(OVERLAY);
    let before = mesh.peers().count();
    for topology in pieces(input) {
        receive(&mut mesh, &framed(&gossip("topology", topology)));
    }
    let after = mesh.peers().count();
    assert!(after <= PEERS_MAX);
    after > before
}

/// Datagrams of the overlay that Weave Net routers and we keep up.
pub fn datagram(input: &[u8]) -> bool {
    let mut mesh = introduced(SLEEVE);
    let mut answered = false;
    for datagram in pieces(input) {
        mesh.handle(
            Timestamp::ZERO,
            Input::Datagram { from: remote(), bytes: Bytes::copy_from_slice(datagram) },
        );
        answered |= carry_out(&mut mesh);
    }
    answered
}

/// A mesh of ours with one connection on which nothing was said yet.
fn mesh(password: Option<&[u8]>, outbound: bool) -> Mesh {
    let settings = Settings {
        name: US,
        uid: PeerUid(1),
        nickname: "us".to_owned(),
        port: 6783,
        password: password.map(<[u8]>::to_vec),
        trusted_subnets: Vec::new(),
        conn_limit: 0,
        overlays: vec![OVERLAY.to_owned(), SLEEVE.to_owned()],
        discovery: true,
    };
    let mut mesh = Mesh::new(settings, ChaCha8Rng::seed_from_u64(1));
    mesh.set_channels(&["IPallocation"]);
    let target = "10.0.0.2:6783".to_owned();
    let input = if outbound {
        mesh.set_targets(Timestamp::ZERO, [target.clone()].into());
        Input::Dialled { target, conn: CONN, remote: remote() }
    } else {
        Input::Accepted { conn: CONN, remote: remote() }
    };
    mesh.handle(Timestamp::ZERO, input);
    carry_out(&mut mesh);
    mesh
}

/// The same, with a peer that has introduced itself and offers this overlay.
fn introduced(overlay: &str) -> Mesh {
    const FEATURES: Schema = Schema::Map { name: "", key: &Schema::Str, elem: &Schema::Str };
    let name = PEER.to_string();
    let features = [
        ("Name", &name[..]),
        ("NickName", "b"),
        ("UID", "1"),
        ("ConnID", "1"),
        ("PeerNameFlavour", "mac"),
        ("Overlays", overlay),
    ];
    let features = features.map(|(key, text)| (Value::text(key), Value::text(text))).to_vec();
    let features = framed(&Encoder::new().encode(&FEATURES, &Value::Map(features)));
    let mut mesh = mesh(None, false);
    receive(&mut mesh, &[b"weave\x01\x02\x00", &features[..]].concat());
    assert_eq!(mesh.connections().next().and_then(|view| view.peer), Some(PEER));
    mesh
}

/// The peer sends bytes. Returns whether there was anything to do.
fn receive(mesh: &mut Mesh, bytes: &[u8]) -> bool {
    mesh.handle(Timestamp::ZERO, Input::Received(CONN, Bytes::copy_from_slice(bytes)));
    carry_out(mesh)
}

/// A message as it stands on a connection in clear.
fn framed(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes(), body].concat()
}

/// Gossip of the peer on a channel, as a message.
fn gossip(channel: &str, data: &[u8]) -> Vec<u8> {
    const GOSSIP: u8 = 4;
    let mut message = vec![GOSSIP];
    message.extend(Encoder::new().encode(&Schema::Str, &Value::text(channel)));
    message.extend(Encoder::new().encode(&Schema::Uint, &Value::Uint(PEER.as_u64())));
    message.extend(Encoder::new().encode(&Schema::Bytes, &Value::Bytes(data.to_vec())));
    message
}

/// Returns whether there was anything to do.
fn carry_out(mesh: &mut Mesh) -> bool {
    let mut any = false;
    while let Some(output) = mesh.next_output() {
        any = true;
        if let Output::Close(conn, reason) = output {
            mesh.handle(Timestamp::ZERO, Input::Closed(conn, reason));
        }
    }
    any
}

fn remote() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 2], 6783))
}
