//! Values as Go writes them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weavers::gob::Decoder;

fuzz_target!(|input: &[u8]| {
    let (mut whole, mut stream) = (input, input);
    let mut decoder = Decoder::new();
    while let Ok(Some(_)) = decoder.next(&mut whole) {}
    let mut decoder = Decoder::new();
    while let Ok(Some(_)) = decoder.next_in_stream(&mut stream) {}
});
