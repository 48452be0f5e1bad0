//! What is read from disk.

use std::{collections::BTreeMap, str};

use weavers::{
    config,
    ipam::{Allocator, Init, NodeId, Record, Settings},
    migrate::{Database, Plan, Survey, bolt::bucket, plan::Stage},
    node::persist::memory::{Memory, Write},
    peer::PeerUid,
};

use super::US;

/// The text of a `weave.toml`: a configuration, or problems that can be shown.
pub fn config(input: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(input) else { return false };
    let parsed = config::parse(text);
    if let Err(problems) = &parsed {
        assert!(!problems.to_string().is_empty());
    }
    parsed.is_ok()
}

/// A bolt file, and in it the data of a Weave Net router. What was understood can be written down and is understood again, and a node
/// can start from it.
pub fn router(input: &[u8]) -> bool {
    let _ = bucket(input, b"top");
    let Ok(database) = Database::read(input) else { return false };
    let plan = Plan::new(&database, &Survey::default(), &Stage::Before);
    let records = plan.records(&database, PeerUid(1)).into_iter();
    let records = records.filter_map(|write| Some((write.key, write.value?))).collect();
    let memory = Memory::read(&records).expect("what was written can be read");
    assert_eq!(memory.identity.map(|identity| identity.name), Some(database.name));
    assert_eq!(memory.ipam.ring, Some(database.ring));
    true
}

const KEYS: [&str; 5] = ["identity", "ring", "paxos", "allocation/a", "attached/a"];

/// Records of the store, one JSON value a line: an identity, a ring, promises, addresses, a container. What was read is written again
/// in the same sense, and whatever a node can be told of a ring it starts from or refuses.
pub fn records(input: &[u8]) -> bool {
    let lines = input.split(|&byte| byte == b'\n').map(<[u8]>::to_vec);
    let records = KEYS.into_iter().map(str::to_owned).zip(lines);
    let Ok(mut memory) = Memory::read(&records.filter(|(_, line)| !line.is_empty()).collect()) else {
        return false;
    };
    // A user without addresses is forgotten, not written.
    memory.ipam.allocations.retain(|_, addresses| !addresses.is_empty());
    let again = Memory::read(&written(&memory)).expect("what was written can be read");
    assert_eq!((&again.identity, &again.attached), (&memory.identity, &memory.attached));
    assert_eq!(again.ipam, memory.ipam);
    let Some(ring) = &memory.ipam.ring else { return true };
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
    true
}

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
