//! Single values.

use weavers::{gob::Decoder, node::protocol::request::Request};

/// Values as Go writes them.
pub fn gob(input: &[u8]) -> bool {
    let (mut whole, mut stream) = (input, input);
    let mut understood = false;
    let mut decoder = Decoder::new();
    while let Ok(Some(_)) = decoder.next(&mut whole) {
        understood = true;
    }
    let mut decoder = Decoder::new();
    while let Ok(Some(_)) = decoder.next_in_stream(&mut stream) {
        understood = true;
    }
    understood
}

/// What is asked on the control socket. What was understood is asked again in the same sense.
pub fn request(input: &[u8]) -> bool {
    let Ok(request) = serde_json::from_slice::<Request>(input) else { return false };
    let text = serde_json::to_vec(&request).expect("a request has string keys");
    assert_eq!(serde_json::from_slice::<Request>(&text).ok(), Some(request));
    true
}
