//! What the targets share: a mesh that a fuzzer talks to, and the bytes around what it says.

use std::net::SocketAddr;

use bytes::Bytes;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use weavers::{
    gob::{Encoder, Schema, Value},
    mesh::{ConnId, Input, Mesh, OVERLAY, Output, SLEEVE, Settings},
    peer::{PeerName, PeerUid},
    time::Timestamp,
};

/// Our name.
pub const US: PeerName = PeerName::from_u64(1);
/// Whose words the fuzzer puts.
pub const PEER: PeerName = PeerName::from_u64(0x0a0b_0c0d_0e0f);

const CONN: ConnId = ConnId(1);

/// A mesh of ours with one connection on which nothing was said yet.
pub fn mesh(password: Option<&[u8]>, outbound: bool) -> Mesh {
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
pub fn introduced(overlay: &str) -> Mesh {
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

/// The peer sends bytes.
pub fn receive(mesh: &mut Mesh, bytes: &[u8]) {
    mesh.handle(Timestamp::ZERO, Input::Received(CONN, Bytes::copy_from_slice(bytes)));
    carry_out(mesh);
}

/// It sends a datagram.
pub fn receive_datagram(mesh: &mut Mesh, bytes: &[u8]) {
    let input = Input::Datagram { from: remote(), bytes: Bytes::copy_from_slice(bytes) };
    mesh.handle(Timestamp::ZERO, input);
    carry_out(mesh);
}

/// A message as it stands on a connection in clear.
pub fn framed(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes(), body].concat()
}

/// Gossip of the peer on a channel, as a message.
pub fn gossip(channel: &str, data: &[u8]) -> Vec<u8> {
    const GOSSIP: u8 = 4;
    let mut message = vec![GOSSIP];
    message.extend(Encoder::new().encode(&Schema::Str, &Value::text(channel)));
    message.extend(Encoder::new().encode(&Schema::Uint, &Value::Uint(PEER.as_u64())));
    message.extend(Encoder::new().encode(&Schema::Bytes, &Value::Bytes(data.to_vec())));
    message
}

/// Cuts an input into pieces, each with its length in two bytes before it, so that a fuzzer can say several things.
pub fn pieces(mut input: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (len, rest) = input.split_first_chunk()?;
        let (piece, rest) = rest.split_at(rest.len().min(u16::from_be_bytes(*len).into()));
        input = rest;
        Some(piece)
    })
}

fn carry_out(mesh: &mut Mesh) {
    while let Some(output) = mesh.next_output() {
        if let Output::Close(conn, reason) = output {
            mesh.handle(Timestamp::ZERO, Input::Closed(conn, reason));
        }
    }
}

fn remote() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 2], 6783))
}
