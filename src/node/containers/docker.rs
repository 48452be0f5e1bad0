//! What is known of Docker: its networks, what it seems to have forgotten, and the block that its own bridge, `docker0`, has to itself:
//! Docker hands the addresses of that out, and the routes of this host lead to it.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;

use crate::{
    ipam::Allocator,
    node::protocol::{docker::Network, request::Refusal},
    time::Timestamp,
};

/// The name that the block for `docker0` is filed under.
pub(in crate::node) const BRIDGE: &str = "docker-bridge";

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

/// How far the block for `docker0` is.
#[derive(Debug, Default)]
pub(in crate::node) struct DockerBridge {
    /// Somebody is asked for a block.
    pub asked: bool,
    /// What `docker0` has already, of which it is asked whether it can be held: it is no route of others meanwhile.
    pub claimed: Option<Ipv4Net>,
    /// That could not be.
    pub is_others: bool,
    /// Why there is none.
    pub refused: Option<Refusal>,
}

impl DockerBridge {
    /// Whether a route of the host is that of the block that is asked for.
    pub fn claims(&self, destination: Ipv4Net) -> bool {
        self.claimed == Some(destination)
    }
}

/// The block for `docker0`, if one is held.
pub(in crate::node) fn bridge_block(ipam: &Allocator) -> Option<Ipv4Net> {
    ipam.lookup(BRIDGE).first().map(Ipv4Net::trunc)
}
