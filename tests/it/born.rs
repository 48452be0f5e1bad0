//! What a node in a story is born with, and finds, where the story does not turn on it.

use std::collections::BTreeMap;

use weavers::{
    node::{Birth, persist::memory::Identity},
    peer::PeerUid,
    state::{InterfaceId, Table, TableId, Vpc},
};

/// A node of this identity, without a password, in its first life on this boot.
pub fn born(identity: Identity) -> Birth {
    Birth {
        identity,
        uid: PeerUid(2),
        nickname: "us".to_owned(),
        password: None,
        boot: "boot".to_owned(),
        seed: 1,
    }
}

/// A VPC of one table without routes, and a host whose source/destination check is off.
pub fn empty_vpc() -> Vpc {
    let tables = BTreeMap::from([(TableId("rtb-1".to_owned()).into(), Table::default())]);
    Vpc {
        interface: InterfaceId("eni-1".to_owned()),
        source_dest_check: Some(false),
        tables,
        retired: BTreeMap::new(),
    }
}
