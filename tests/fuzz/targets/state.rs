//! What an address manager gossips. What was understood is said again in the same sense.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weavers::ipam::message::State;

fuzz_target!(|input: &[u8]| {
    if let Ok(state) = State::decode(input) {
        assert_eq!(State::decode(&state.encode()), Ok(state));
    }
});
