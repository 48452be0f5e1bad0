//! Messages of a peer that is introduced.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weavers::mesh::{OVERLAY, PEERS_MAX};
use weavers_fuzz::{framed, introduced, pieces, receive};

fuzz_target!(|input: &[u8]| {
    let mut mesh = introduced(OVERLAY);
    for message in pieces(input) {
        receive(&mut mesh, &framed(message));
    }
    assert!(mesh.peers().count() <= PEERS_MAX);
});
