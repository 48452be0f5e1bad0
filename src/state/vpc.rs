//! The VPC: what should be there of ours, and what was read.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::{addr::Range, peer::PeerName};

/// A network interface of EC2, `eni-…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InterfaceId(pub String);

/// A subnet of EC2, `subnet-…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SubnetId(pub String);

/// A route table of EC2, `rtb-…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TableId(pub String);

/// Which route tables are looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tables {
    /// Those that serve the own subnet and these others.
    Serving(BTreeSet<SubnetId>),
    /// These.
    Named(BTreeSet<TableId>),
    /// Those of the own VPC that bear this tag, by key and value.
    Tagged(String, String),
}

/// What should be in the VPC, and what is needed to know whose a route is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredVpc {
    /// The universe: routes outside it are invisible to us.
    pub range: Range,
    /// Our name.
    pub me: PeerName,
    /// Our interface, the target of every route of ours.
    pub interface: InterfaceId,
    /// Whether the source/destination check of that interface is to be turned off.
    pub disable_check: bool,
    /// Who owns what, ascending and without gaps, by the ring; empty while there is none.
    pub owners: Vec<(Range, PeerName)>,
    /// Routes a table may hold, if configured.
    pub quota: Option<usize>,
    /// Routes at which EC2 refused a table another one.
    pub full: BTreeMap<TableId, usize>,
    /// What changed hands so lately that the tables as they were read need not show what became of it.
    pub restless: Vec<Range>,
    /// Writes that may be made only to have fewer routes.
    pub spare_writes: usize,
    /// Leave: every route of ours goes.
    pub withdraw: bool,
}

impl DesiredVpc {
    /// Routes that a table may hold, if known.
    pub fn quota_of(&self, table: &TableId) -> Option<usize> {
        self.quota.into_iter().chain(self.full.get(table).copied()).min()
    }
}

/// What was read of the VPC in one pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vpc {
    /// The interface that carries our traffic.
    pub interface: InterfaceId,
    /// Its source/destination check; `None` if it could not be read.
    pub source_dest_check: Option<bool>,
    /// The selected tables.
    pub tables: BTreeMap<TableId, Table>,
}

/// A route table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Routes that lie inside the range or cover it.
    pub routes: BTreeMap<Ipv4Net, Route>,
    /// IPv4 routes in it, of all kinds: what its quota counts.
    pub used: usize,
    /// CIDRs of the VPC itself.
    pub local: Vec<Ipv4Net>,
}

/// A route of a route table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where it leads.
    pub target: Target,
    /// Whether packets pass.
    pub state: RouteState,
    /// Whether CreateRoute made it; routes of other origin are never ours.
    pub created: bool,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Target {
    /// To a network interface.
    Interface(InterfaceId),
    /// Elsewhere: gateway, peering, `local`, an interface that is gone.
    Other(String),
}

/// Whether packets pass a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RouteState {
    /// They do.
    Active,
    /// The target is not available: they are dropped.
    Blackhole,
    /// A state that was unknown when this was written.
    Other,
}

impl fmt::Display for InterfaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SubnetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Interface(id) => id.fmt(f),
            Target::Other(text) => text.fmt(f),
        }
    }
}
