//! The peer protocol on TCP 6783: introduction, encryption, topology, gossip.

use serde::{Deserialize, Serialize};

/// Names one connection; chosen by the transport, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConnId(pub u64);
