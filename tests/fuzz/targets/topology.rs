//! Who is in the mesh, by the word of a peer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weavers::mesh::{OVERLAY, PEERS_MAX};
use weavers_fuzz::{framed, gossip, introduced, pieces, receive};

fuzz_target!(|input: &[u8]| {
    let mut mesh = introduced(OVERLAY);
    for topology in pieces(input) {
        receive(&mut mesh, &framed(&gossip("topology", topology)));
    }
    assert!(mesh.peers().count() <= PEERS_MAX);
});
