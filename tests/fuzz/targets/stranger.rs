//! Whatever comes on a connection before anybody has introduced himself. The first byte says how it was made.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weavers_fuzz::{mesh, receive};

fuzz_target!(|input: &[u8]| {
    let Some((how, bytes)) = input.split_first() else { return };
    let password = (how & 1 == 1).then_some(&b"secret"[..]);
    let mut mesh = mesh(password, how & 2 == 2);
    // In two parts, since a decoder must not mind where the network cuts.
    let (first, second) = bytes.split_at(bytes.len().min(usize::from(how >> 2)));
    receive(&mut mesh, first);
    receive(&mut mesh, second);
    assert!(password.is_none() || mesh.peers().next().is_none(), "nobody gets in without the password");
});
