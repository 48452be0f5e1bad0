//! What is asked on the control socket. What was understood is asked again in the same sense.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weavers::node::protocol::request::Request;

fuzz_target!(|input: &[u8]| {
    if let Ok(request) = serde_json::from_slice::<Request>(input) {
        let text = serde_json::to_vec(&request).expect("a request has string keys");
        assert_eq!(serde_json::from_slice::<Request>(&text).ok(), Some(request));
    }
});
