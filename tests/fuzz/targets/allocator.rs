//! Messages to an address manager that owns a part of the ring and uses some of it. The first byte of each says how it comes.
#![no_main]

use ipnet::Ipv4Net;
use libfuzzer_sys::fuzz_target;
use weavers::{
    addr::{Address, Range},
    ipam::{Allocator, Ask, Init, NodeId, Saved, Settings, Source, Ticket},
    time::Timestamp,
};
use weavers_fuzz::{PEER, US, pieces};

fuzz_target!(|input: &[u8]| {
    let mut allocator = allocator();
    let used = Address(0x0a20_0001);
    for (second, message) in (1..).zip(pieces(input)) {
        let Some((how, payload)) = message.split_first() else { continue };
        let now = Timestamp::from_micros(second * 1_000_000);
        let source = match how % 3 {
            0 => Source::Gossip { from: PEER },
            1 => Source::Unicast { from: PEER },
            _ => Source::Broadcast { from: PEER },
        };
        let _refused = allocator.receive(now, source, payload);
        allocator.wake(now);
        while allocator.next_effect().is_some() {}
        assert_eq!(allocator.ring().check(), Ok(()));
        assert!(allocator.owned().iter().any(|range| range.contains(used)), "an address in use was taken");
    }
});

fn allocator() -> Allocator {
    let subnet: Ipv4Net = "10.32.0.0/12".parse().expect("a subnet");
    let settings = Settings {
        me: US,
        nickname: "us".to_owned(),
        universe: Range::from(subnet),
        init: Init::Seed(vec![US, PEER]),
        expected_peers: 2,
        acceptor: NodeId { name: US, uid: 1 },
    };
    let mut allocator = Allocator::new(settings, Saved::default()).expect("nothing was saved");
    allocator.set_reachable(Timestamp::ZERO, [PEER].into());
    allocator.ask(Timestamp::ZERO, Ticket(1), Ask::Allocate { ident: "a".to_owned(), subnet });
    allocator
}
