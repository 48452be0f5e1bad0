//! Datagrams of the overlay that Weave Net routers and we keep up.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weavers::mesh::SLEEVE;
use weavers_fuzz::{introduced, pieces, receive_datagram};

fuzz_target!(|input: &[u8]| {
    let mut mesh = introduced(SLEEVE);
    for datagram in pieces(input) {
        receive_datagram(&mut mesh, datagram);
    }
});
