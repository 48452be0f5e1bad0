//! From Weave Net to here, one host after the other, in one ring: what a Weave Net host has, and what would become of it.
//!
//! ```text
//!  bolt file ──► bolt ─► Database ─┐
//!  kernel    ──► Survey ───────────┼─► Plan ─► records of a new store, containers to reconnect
//!  weave.toml ─► Config ───────────┘
//! ```
//!
//! This host takes over the router's name, its ring and the addresses in use, before weavers starts for the first time. To the other
//! hosts, routers or not, it is the same peer as before. Then each container's link is made anew with the address that it has.
//! Weave Net's files are read only.

use ipnet::Ipv4Net;

use crate::{addr::Address, peer::PeerName, state::Netns};

pub mod bolt;
pub mod database;
pub mod plan;

pub use self::{
    database::{Database, DatabaseError},
    plan::Plan,
};

/// What Weave Net has made on this host, as the kernel shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The bridge, or the datapath in its place.
    pub bridge: Option<Bridge>,
    /// Links that lead from it into containers.
    pub links: Vec<WeaveLink>,
    /// Links of which it is not known where they lead, and why.
    pub unread: Vec<String>,
}

/// What containers are connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Its MAC address, which is the router's name unless the router was given another one.
    pub name: Option<PeerName>,
    /// It answers for what is elsewhere, as it does in the mode whose packets go by the routes of the VPC. Routers of that mode and others
    /// do not connect to each other, so all of a cluster are in it, or none.
    pub is_aws_vpc: bool,
}

impl Bridge {
    /// What Weave Net calls it.
    pub const NAME: &str = "weave";
}

/// A link of Weave Net's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeaveLink {
    /// Its end on the host: index and name.
    pub host_end: (u32, String),
    /// Its end in the container: index and name.
    pub interface: (u32, String),
    /// The container's namespace.
    pub netns: Netns,
    /// The addresses of that end.
    pub addresses: Vec<Ipv4Net>,
    /// The address of our link in that namespace, where there is one.
    pub ours: Option<Address>,
}

/// What the container's end is called while our link is made in its place.
pub const SET_ASIDE: &str = "ethwe-weavenet";
