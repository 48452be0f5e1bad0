//! What peers say to each other about the dead, one message after another: whatever they say, we go on deciding.
#![no_main]

use std::{collections::BTreeSet, time::Duration};

use libfuzzer_sys::fuzz_target;
use weavers::{
    ipam::{
        NodeId,
        takeover::{TakeOver, Saved, View},
    },
    peer::PeerName,
    time::Timestamp,
};
use weavers_fuzz::{PEER, US, pieces};

/// The third elector, which is not heard.
const OTHER: PeerName = PeerName::from_u64(2);

fuzz_target!(|input: &[u8]| {
    let mut takeover = TakeOver::new(NodeId { name: US, uid: 1 }, None, Saved::default());
    takeover.begin(&[US, OTHER, PEER]);
    let (owners, reachable) = ([(US, 1), (OTHER, 1), (PEER, 1)].into(), BTreeSet::from([PEER]));
    let mut now = Timestamp::ZERO;
    for piece in pieces(input) {
        now += Duration::from_secs(7);
        drop(takeover.hear(now, PEER, piece));
        takeover.consider(now, View { owners: &owners, reachable: &reachable, grace: Some(Duration::from_secs(20)) });
        while takeover.next_effect().is_some() {}
    }
});
