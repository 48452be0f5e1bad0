//! A target for each decoder that reads what others wrote. Each says whether it understood anything of its input, so that a test can
//! tell one that never gets beyond the first refusal.

mod disk;
mod ipam;
mod mesh;
mod values;

use weavers::peer::PeerName;

/// Takes an input, and panics where something is wrong. Returns whether it understood anything of it.
pub type Target = fn(&[u8]) -> bool;

/// All of them, by their names.
pub const TARGETS: [(&str, Target); 13] = [
    ("gob", values::gob),
    ("request", values::request),
    ("stranger", mesh::stranger),
    ("peer", mesh::peer),
    ("topology", mesh::topology),
    ("datagram", mesh::datagram),
    ("state", ipam::state),
    ("unicast", ipam::unicast),
    ("allocator", ipam::allocator),
    ("dead", ipam::dead),
    ("config", disk::config),
    ("records", disk::records),
    ("router", disk::router),
];

/// Our name.
const US: PeerName = PeerName::from_u64(1);
/// Whose words the fuzzer puts.
const PEER: PeerName = PeerName::from_u64(0x0a0b_0c0d_0e0f);

/// Cuts an input into pieces, each with its length in two bytes before it, so that a fuzzer can say several things.
fn pieces(mut input: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (len, rest) = input.split_first_chunk()?;
        let (piece, rest) = rest.split_at(rest.len().min(u16::from_be_bytes(*len).into()));
        input = rest;
        Some(piece)
    })
}
