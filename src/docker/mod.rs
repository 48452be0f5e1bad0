//! Docker's plugin protocol for networks and their addresses: what Docker says, and what it is answered.
//!
//! ```text
//!  POST /NetworkDriver.CreateEndpoint {…} ─► input ─► Call ─► (the daemon) ─► output ─► {…} or {"Err":…}
//!  GET /networks/ID of Docker's own API   ─► told  ─► what it knows
//!  daemon.json, where `docker0` has a block ─► daemon_json ─► the same, with keys of ours
//! ```
//!
//! Pure: nothing is asked or read here. What a network's addresses come from is in the id of its pool, so that nothing has to be
//! remembered of pools.

use serde_json::Value;

use crate::{
    addr::Address,
    node::protocol::{
        docker::Order,
        request::{Pool, Request},
    },
};

pub mod daemon_json;
pub mod output;
pub mod input;
pub mod told;

/// The driver's name in `docker network create`, unless its socket has another.
pub const DRIVER: &str = "weavers";
/// The socket by which Docker finds it.
pub const PLUGIN: &str = "/run/docker/plugins/weavers.sock";
/// The name of the one address space. Docker before version 27 asks for pools for ever where local and global ones differ.
const ADDRESS_SPACE: &str = "weavers";

/// What is to be done for Docker.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// Nothing but to answer this.
    Say(Value),
    /// Say whether a network may have these addresses.
    Pool(Order),
    /// Lend an address.
    Lend {
        /// Where it comes from; otherwise the default subnet.
        from: Option<Pool>,
        /// Which one; otherwise any.
        address: Option<Address>,
    },
    /// Tell the node, which answers when it is done.
    Tell(Order),
    /// Make a link. Docker wants to know the MAC address only if it did not name one itself.
    Connect {
        /// What the node is told.
        order: Order,
        /// Whether the answer holds the MAC address.
        tell_mac: bool,
    },
    /// Say how a container gets its end of a link.
    Join(Order),
}

impl Call {
    /// What the node is asked, if it is. `ident` is the name that an address is filed under.
    pub fn request(&self, ident: &str) -> Option<Request> {
        let ident = ident.to_owned();
        match self {
            Call::Say(_) => None,
            Call::Pool(order) | Call::Tell(order) | Call::Join(order) | Call::Connect { order, .. } => {
                Some(Request::Docker(order.clone()))
            }
            Call::Lend { address: Some(address), .. } => Some(Request::Claim { ident, address: *address }),
            Call::Lend { from, address: None } => Some(Request::Allocate { ident, subnet: from.clone() }),
        }
    }
}

/// Why there is nothing to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// There is no such call: Docker does without some.
    Unknown,
    /// It is not a call.
    Garbled(String),
    /// It asks for what is not given; with the way out.
    Refused(String),
}

#[cfg(test)]
mod tests;
