//! What an address manager says to another. What was understood is said again in the same sense.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weavers::ipam::message::Unicast;

fuzz_target!(|input: &[u8]| {
    if let Ok(unicast) = Unicast::decode(input) {
        assert_eq!(Unicast::decode(&unicast.encode()), Ok(unicast));
    }
});
