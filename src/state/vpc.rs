//! The VPC: what should be there of ours, and what was read.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use crate::{
    addr::{Family, NotAPrefix, Prefix, Range},
    peer::PeerName,
};

/// A network interface of EC2, `eni-…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InterfaceId(pub String);

/// A subnet of EC2, `subnet-…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SubnetId(pub String);

/// A VPC, `vpc-…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VpcId(pub String);

/// A route table of EC2, `rtb-…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TableId(pub String);

/// The routes of one family in a route table. Each side has a quota of its own and is kept by itself; destinations are written by
/// their IPv4 CIDRs on both, and [`Side::destination`] is what EC2 calls them.
///
/// As text it is the table, and behind that of IPv6 the prefix: `rtb-0a1 fd00:1::/96`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Side {
    /// The table.
    pub table: TableId,
    /// The kind of its routes.
    pub family: Family,
}

impl Side {
    /// A destination as EC2 has it.
    pub fn destination(&self, cidr: Ipv4Net) -> IpNet {
        self.family.cidr(cidr)
    }
}

/// The side of IPv4.
impl From<TableId> for Side {
    fn from(table: TableId) -> Side {
        Side { table, family: Family::V4 }
    }
}

impl From<Side> for String {
    fn from(side: Side) -> String {
        side.to_string()
    }
}

impl TryFrom<String> for Side {
    type Error = NotAPrefix;

    fn try_from(text: String) -> Result<Side, NotAPrefix> {
        text.parse()
    }
}

impl FromStr for Side {
    type Err = NotAPrefix;

    fn from_str(text: &str) -> Result<Side, NotAPrefix> {
        Ok(match text.split_once(' ') {
            None => TableId(text.to_owned()).into(),
            Some((table, prefix)) => {
                Side { table: TableId(table.to_owned()), family: Family::V6(prefix.parse()?) }
            }
        })
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.family {
            Family::V4 => self.table.fmt(f),
            Family::V6(prefix) => write!(f, "{} {prefix}", self.table),
        }
    }
}

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
    /// What makes IPv6 addresses of it, where containers have some. Routes of another prefix that lead to us go.
    pub prefix: Option<Prefix>,
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
    /// Routes at which EC2 refused a side of a table another one.
    pub full: BTreeMap<Side, usize>,
    /// What changed hands so lately that the tables as they were read need not show what became of it.
    pub restless: Vec<Range>,
    /// Writes that may be made only to have fewer routes.
    pub spare_writes: SpareWrites,
    /// Leave: every route of ours goes.
    pub withdraw: bool,
}

/// Writes to EC2 that may be made only to have fewer routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpareWrites {
    /// For one route to a block in the place of several to its parts.
    pub merges: usize,
    /// For one around addresses of several owners. None while a block is to go to another host, after which there may be no need for it.
    pub covers: usize,
}

impl SpareWrites {
    /// What is left of them after so many writes.
    pub fn less(self, writes: usize) -> SpareWrites {
        let SpareWrites { merges, covers } = self;
        SpareWrites { merges: merges.saturating_sub(writes), covers: covers.saturating_sub(writes) }
    }
}

impl DesiredVpc {
    /// Whether this side of a table is kept.
    pub fn keeps(&self, side: &Side) -> bool {
        match side.family {
            Family::V4 => true,
            Family::V6(prefix) => Some(prefix) == self.prefix,
        }
    }

    /// Routes that a side of a table may hold, if known.
    pub fn quota_of(&self, side: &Side) -> Option<usize> {
        self.quota.into_iter().chain(self.full.get(side).copied()).min()
    }
}

/// What was read of the VPC in one pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vpc {
    /// The interface that carries our traffic.
    pub interface: InterfaceId,
    /// Its source/destination check; `None` if it could not be read.
    pub source_dest_check: Option<bool>,
    /// The selected tables, each side by itself.
    pub tables: BTreeMap<Side, Table>,
    /// The same of IPv6 prefixes that are in use no more.
    #[serde(default)]
    pub retired: BTreeMap<Side, Table>,
}

impl Vpc {
    /// Whether this table was read.
    pub fn has(&self, table: &TableId) -> bool {
        self.tables.keys().any(|side| side.table == *table)
    }

    /// A side of a table, in use or not.
    pub fn side(&self, side: &Side) -> Option<&Table> {
        self.tables.get(side).or_else(|| self.retired.get(side))
    }

    /// The same, to be changed.
    pub fn side_mut(&mut self, side: &Side) -> Option<&mut Table> {
        self.tables.get_mut(side).or_else(|| self.retired.get_mut(side))
    }
}

/// One side of a route table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Routes that lie inside the range or cover it. Of IPv6 all that cover the prefix are one, for all addresses: the narrowest.
    pub routes: BTreeMap<Ipv4Net, Route>,
    /// Routes of its family in it, of all kinds: what its quota counts.
    pub used: usize,
    /// CIDRs of the VPC itself; of IPv6 those that share addresses with the prefix.
    pub local: Vec<Ipv4Net>,
}

impl Table {
    /// The destinations of routes that CreateRoute has led to this interface.
    pub fn leading_to(&self, interface: &InterfaceId) -> impl Iterator<Item = Ipv4Net> {
        let target = Target::Interface(interface.clone());
        let leads = move |route: &Route| route.created && route.target == target;
        self.routes.iter().filter(move |(_, route)| leads(route)).map(|(cidr, _)| *cidr)
    }
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

impl fmt::Display for VpcId {
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
