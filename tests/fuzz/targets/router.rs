//! A bolt file, and in it the data of a Weave Net router. What was understood can be written down and is understood again, and a node
//! can start from it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weavers::{
    migrate::{Database, Plan, Survey, bolt::bucket, plan::Stage},
    node::persist::memory::Memory,
    peer::PeerUid,
};

fuzz_target!(|input: &[u8]| {
    let _ = bucket(input, b"top");
    let Ok(database) = Database::read(input) else { return };
    let plan = Plan::new(&database, &Survey::default(), &Stage::Before);
    let records = plan.records(&database, PeerUid(1)).into_iter();
    let records = records.filter_map(|write| Some((write.key, write.value?))).collect();
    let memory = Memory::read(&records).expect("what was written can be read");
    assert_eq!(memory.identity.map(|identity| identity.name), Some(database.name));
    assert_eq!(memory.ipam.ring, Some(database.ring));
});
