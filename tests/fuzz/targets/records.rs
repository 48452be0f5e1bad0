//! Records of the store, one JSON value a line: an identity, a ring, promises, addresses, a container. What was read is written again
//! in the same sense, and whatever a node can be told of a ring it starts from or refuses.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use weavers::{
    ipam::{Allocator, Init, NodeId, Record, Settings},
    node::persist::memory::{Memory, Write},
};
use weavers_fuzz::US;

const KEYS: [&str; 5] = ["identity", "ring", "paxos", "allocation/a", "attached/a"];

fuzz_target!(|input: &[u8]| {
    let lines = input.split(|&byte| byte == b'\n').map(<[u8]>::to_vec);
    let records = KEYS.into_iter().map(str::to_owned).zip(lines);
    let Ok(mut memory) = Memory::read(&records.filter(|(_, line)| !line.is_empty()).collect()) else { return };
    // A user without addresses is forgotten, not written.
    memory.ipam.allocations.retain(|_, addresses| !addresses.is_empty());
    let again = Memory::read(&written(&memory)).expect("what was written can be read");
    assert_eq!((&again.identity, &again.attached), (&memory.identity, &memory.attached));
    assert_eq!(again.ipam, memory.ipam);
    let Some(ring) = &memory.ipam.ring else { return };
    let settings = Settings {
        me: ring.holder(),
        nickname: "us".to_owned(),
        universe: ring.universe(),
        init: Init::Consensus,
        expected_peers: 1,
        acceptor: NodeId { name: US, uid: 1 },
    };
    if let Ok(mut allocator) = Allocator::new(settings, memory.ipam) {
        while allocator.next_effect().is_some() {}
    }
});

fn written(memory: &Memory) -> BTreeMap<String, Vec<u8>> {
    let ipam = &memory.ipam;
    let mut writes: Vec<Write> = memory.identity.iter().map(Write::identity).collect();
    writes.extend(ipam.ring.iter().map(|ring| Write::ipam(&Record::Ring(ring.clone()))));
    writes.extend(ipam.paxos.iter().map(|claims| Write::ipam(&Record::Paxos(claims.clone()))));
    writes.extend(ipam.allocations.iter().map(|(ident, addresses)| {
        Write::ipam(&Record::Allocation { ident: ident.clone(), addresses: addresses.clone() })
    }));
    writes.extend(memory.attached.iter().map(|(ident, attached)| Write::attached(ident, Some(attached))));
    writes.into_iter().filter_map(|write| Some((write.key, write.value?))).collect()
}
