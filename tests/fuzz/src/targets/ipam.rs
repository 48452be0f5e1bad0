//! What address managers say to each other.

use std::{collections::BTreeSet, time::Duration};

use ipnet::Ipv4Net;
use weavers::{
    addr::{Address, Range},
    ipam::{
        Allocator, Ask, Init, NodeId, Saved, Settings, Source, Ticket,
        message::{State, Unicast},
        takeover::{self, TakeOver, View},
    },
    peer::PeerName,
    time::Timestamp,
};

use super::{PEER, US, pieces};

/// What an address manager gossips. What was understood is said again in the same sense.
pub fn state(input: &[u8]) -> bool {
    let Ok(state) = State::decode(input) else { return false };
    assert_eq!(State::decode(&state.encode()), Ok(state));
    true
}

/// What an address manager says to another. What was understood is said again in the same sense.
pub fn unicast(input: &[u8]) -> bool {
    let Ok(unicast) = Unicast::decode(input) else { return false };
    assert_eq!(Unicast::decode(&unicast.encode()), Ok(unicast));
    true
}

/// Messages to an address manager that owns a part of the ring and uses some of it. The first byte of each says how it comes.
pub fn allocator(input: &[u8]) -> bool {
    let mut allocator = part_owner();
    let used: Vec<Ipv4Net> = allocator.allocations().values().flatten().copied().collect();
    assert!(!used.is_empty());
    let mut understood = false;
    for (second, message) in (1..).zip(pieces(input)) {
        let Some((how, payload)) = message.split_first() else { continue };
        let now = Timestamp::from_micros(second * 1_000_000);
        let source = match how % 3 {
            0 => Source::Gossip { from: PEER },
            1 => Source::Unicast { from: PEER },
            _ => Source::Broadcast { from: PEER },
        };
        understood |= allocator.receive(now, source, payload).is_ok();
        allocator.wake(now);
        while allocator.next_effect().is_some() {}
        assert_eq!(allocator.ring().check(), Ok(()));
        let is_owned =
            |net: &Ipv4Net| allocator.owned().iter().any(|range| range.contains(Address::from(net.addr())));
        assert!(used.iter().all(is_owned), "an address in use was taken");
    }
    understood
}

fn part_owner() -> Allocator {
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
    allocator.prove_memory(|_| false);
    allocator.set_reachable(Timestamp::ZERO, [PEER].into());
    allocator.ask(Timestamp::ZERO, Ticket(1), Ask::Allocate { ident: "a".to_owned(), subnet });
    allocator
}

/// The third elector, which is not heard.
const OTHER: PeerName = PeerName::from_u64(2);

/// What peers say to each other about the dead, one message after another: whatever they say, we go on deciding.
pub fn dead(input: &[u8]) -> bool {
    let mut takeover = TakeOver::new(NodeId { name: US, uid: 1 }, None, takeover::Saved::default());
    takeover.begin(&[US, OTHER, PEER]);
    let (owners, reachable) = ([(US, 1), (OTHER, 1), (PEER, 1)].into(), BTreeSet::from([PEER]));
    let mut now = Timestamp::ZERO;
    for piece in pieces(input) {
        now += Duration::from_secs(7);
        drop(takeover.hear(now, PEER, piece));
        takeover.consider(
            now,
            View { owners: &owners, reachable: &reachable, grace: Some(Duration::from_secs(20)) },
        );
        while takeover.next_effect().is_some() {}
    }
    takeover.instance(PEER).is_some()
}
