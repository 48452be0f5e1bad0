//! What a node in a story is born with, where the story does not turn on it.

use weavers::{
    node::{Birth, persist::memory::Identity},
    peer::PeerUid,
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
