//! The block that Docker's own bridge, `docker0`, has to itself: Docker hands its addresses out, and the routes of this host lead to it.

use ipnet::Ipv4Net;

use crate::{ipam::Allocator, node::protocol::request::Refusal};

/// The name that the block is filed under.
pub(in crate::node) const IDENT: &str = "docker-bridge";

/// How far it is.
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

/// The block, if one is held.
pub(in crate::node) fn block(ipam: &Allocator) -> Option<Ipv4Net> {
    ipam.lookup(IDENT).first().map(Ipv4Net::trunc)
}
