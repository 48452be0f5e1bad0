//! What is remembered of Docker: its networks, and what it seems to have forgotten.

use std::collections::BTreeMap;

use crate::{node::protocol::docker::Network, time::Timestamp};

/// Names that leases are filed under begin so.
pub const LEASE: &str = "docker-lease-";

/// What is remembered of Docker.
#[derive(Debug, Default)]
pub(in crate::node) struct Docker {
    pub networks: BTreeMap<String, Network>,
    /// What Docker did not tell of, by the name it is filed under, and since when.
    pub missing: BTreeMap<String, Timestamp>,
}

impl Docker {
    pub fn new(networks: BTreeMap<String, Network>) -> Docker {
        Docker { networks, missing: BTreeMap::new() }
    }
}
