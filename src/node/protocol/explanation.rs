//! What people are told of one address.

use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use super::status::{AttachmentStatus, Note, PeerPath, Piece};
use crate::{
    addr::Address,
    state::{RouteState, Side},
};

/// All there is to know of one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Version of this document: minor changes add, major ones break.
    pub format_version: String,
    /// The address.
    pub address: Address,
    /// The IPv6 address that goes with it, where containers have some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// Whose it is.
    pub standing: Standing,
    /// The same in words.
    pub summary: String,
    /// The piece of the ring that it lies in.
    pub piece: Option<Piece>,
    /// The name that it is handed out to on this host.
    pub ident: Option<String>,
    /// The container on this host that has it.
    pub container: Option<AttachmentStatus>,
    /// The path to the host of its owner, if that is another.
    #[serde(default)]
    pub path: Option<PeerPath>,
    /// What this host does with its packets, as last seen.
    pub host: Option<HostRoute>,
    /// What the VPC does with them, table by table, as last read.
    pub tables: Vec<Carrier>,
    /// What keeps its packets from flowing, and the way out.
    pub missing: Vec<Note>,
}

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It lies outside the container range.
    Outside,
    /// There is no ring yet.
    Unowned,
    /// It is another peer's.
    Peer,
    /// It is ours, and nobody uses it.
    Free,
    /// It is handed out here.
    Used,
}

/// A route of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRoute {
    /// What it covers.
    pub destination: Ipv4Net,
    /// Where it leads: a link, `unreachable`, or what another program made.
    pub target: String,
}

/// The longest match in a route table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carrier {
    /// The table, and the kind of its routes.
    pub table: Side,
    /// What the route covers, as EC2 has it; `None`: there is no route.
    pub destination: Option<IpNet>,
    /// Where it leads.
    pub target: Option<String>,
    /// Whether packets pass.
    pub state: Option<RouteState>,
    /// It leads to this host.
    pub here: bool,
}
