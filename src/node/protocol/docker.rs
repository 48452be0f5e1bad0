//! What Docker tells us, and asks.

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::{
    addr::Address,
    state::{Mac, Port, PortRange},
};

/// Names that leases are filed under begin so.
pub const LEASE: &str = "docker-lease-";

/// What Docker tells us, and asks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields say what they are.
pub enum Order {
    /// Whether a network may have these addresses, or those of a part of them; answered with the pool and, unless that is the default
    /// subnet, where its addresses come from.
    Pool { pool: Option<Ipv4Net>, part: Option<Ipv4Net> },
    /// There is such a network, with addresses of these pools, which are to be those of a subnet.
    Network { id: String, network: Network, pools: Vec<Ipv4Net>, subnet: Option<String> },
    /// There is none any more.
    NoNetwork { id: String },
    /// Make a link at an address that was lent; answered when packets can flow.
    Endpoint { network: String, id: String, address: Address, mac: Option<Mac> },
    /// What a container needs to know that is about to have it, in this sandbox.
    Join { network: String, id: String, sandbox: String },
    /// Of each of these the first port of the host that is free leads to it, and no others do. Port 0 is one that we choose. `in_use`: ports of
    /// wide ranges that programs of the host have.
    Publish { network: String, id: String, ports: Vec<PortRange>, in_use: Vec<Port> },
    /// None of the host's ports leads to it any more.
    Unpublish { network: String, id: String },
    /// It is over; answered when the link is gone.
    NoEndpoint { network: String, id: String },
    /// Take an address back.
    Release { address: Address },
    /// Whether there is anything that Docker may have forgotten.
    Pending,
    /// All that Docker knows of the networks that are ours.
    Told(Vec<Told>),
}

/// A network of Docker's, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// MTU of its links, if not that of all.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Its containers have no way out.
    #[serde(default)]
    pub internal: bool,
}

/// A network, as Docker tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its id.
    pub id: String,
    /// What it was made with.
    pub network: Network,
    /// The endpoints of containers that run.
    pub endpoints: Vec<ToldEndpoint>,
    /// Addresses that were put aside for it.
    pub reserved: Vec<Address>,
}

/// An endpoint, as Docker tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToldEndpoint {
    /// Its id.
    pub id: String,
    /// The container's name.
    pub name: String,
    /// Its address.
    pub address: Option<Address>,
    /// Its MAC address.
    pub mac: Option<Mac>,
}
