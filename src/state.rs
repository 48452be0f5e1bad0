//! The vocabulary of what is and what should be, on the host and in the VPC.
//!
//! [`Desired`] comes from the configuration, the ring and the attachments; [`Actual`] from netlink,
//! nftables and DescribeRouteTables. What could not be read is `None` there: unread, not absent.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::{
    attachment::{Far, HOST_MAC, Key, Kind, Mac},
    paths::{Fate, Loss, Packet, Path},
    port::{Port, Ports, Protocol, Published},
};
pub use crate::ipam::takeover::InstanceState;
use crate::{
    addr::{Address, Range},
    peer::PeerName,
};

pub mod attachment;
mod paths;
mod port;
mod shared;

/// What should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// On this host.
    pub host: Host,
    /// In the VPC; `None` while the ring is absent, so that nothing there is judged.
    pub vpc: Option<DesiredVpc>,
}

/// What is, as far as it could be read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Actual<'a> {
    /// On this host.
    pub host: Option<&'a Host>,
    /// In the VPC.
    pub vpc: Option<&'a Vpc>,
}

// ===== the host =====

/// How much of the host a look is to ask about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of it, whatever was seen before.
    Whole,
    /// What the kernel has told of, and in turns the rest: the host's side every few times, a part of the containers each time.
    /// Where it does not tell of changes, all of it.
    Routine,
    /// What the kernel has told of since the look before. What it tells nobody of is as it was then.
    Changed,
}

/// All that is ours on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Kernel settings by dotted name (`net.ipv4.ip_forward`). Observed: those that were asked for.
    pub sysctls: BTreeMap<String, String>,
    /// The nftables table `inet weave`; `None` if it is absent or is not what was asked for.
    pub rules: Option<Rules>,
    /// Whether other programs' forward chains let our packets through (Docker's drop policy).
    pub forward: Forward,
    /// Whether the host has [`GATEWAY`] on `lo`, so that it answers containers that ask for its MAC address.
    pub gateway: bool,
    /// CIDRs with an `unreachable` route: what we own, so that a free address answers at once.
    pub blocks: BTreeSet<Ipv4Net>,
    /// Ports of the host that lead into containers, in a table of their own; `None` if there is none. Observed: empty if it is not
    /// what was asked for.
    pub ports: Option<Ports>,
    /// Container links by the address they serve. Observed: every link named as ours.
    pub links: Arc<BTreeMap<Address, Link>>,
    /// Observed only: wanted links whose namespace is gone for good.
    pub gone: BTreeSet<Address>,
    /// Observed only: links whose other end nobody has set up, of those that are not known to lead into some namespace.
    pub idle: BTreeSet<Address>,
    /// Observed only: routes inside the range that are not ours, as text. Reported, never touched.
    pub foreign: BTreeMap<Ipv4Net, String>,
    /// Observed only: the interfaces that carry traffic between hosts and to the outside, and their MTU.
    pub uplinks: BTreeMap<String, u32>,
    /// Asked only: addresses of other hosts to which the kernel is asked the way.
    pub others: BTreeSet<Address>,
    /// Observed only: what the kernel would do with packets of containers.
    pub paths: Vec<Arc<Path>>,
    /// Observed only: the table of tracked connections, where it is full.
    pub tracking: Option<Tracking>,
}

impl Host {
    /// Its links, to be changed. Whoever shares them keeps them as they are.
    pub fn links_mut(&mut self) -> &mut BTreeMap<Address, Link> {
        Arc::make_mut(&mut self.links)
    }

    /// The container range, as far as this says it. Rules that stand for whatever an earlier life left say nothing of it.
    pub fn range(&self) -> Option<Ipv4Net> {
        let of_rules = self.rules.as_ref().map(|rules| rules.range).filter(|range| range.prefix_len() > 0);
        of_rules.or_else(|| self.links.values().next().map(|link| link.range))
    }
}

/// A table of tracked connections that has no room. What finds none is dropped, of containers and of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracking {
    /// Connections in it.
    pub used: u64,
    /// Connections that it holds.
    pub most: u64,
    /// Connections that were turned away since the look before.
    pub dropped: u64,
}

impl Tracking {
    /// What to do about it.
    pub const WAY_OUT: &str = "sysctl -w net.netfilter.nf_conntrack_max=N, larger and kept in /etc/sysctl.d; see who opens so many: conntrack -L, or /proc/net/nf_conntrack";
}

impl fmt::Display for Tracking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tracking { used, most, dropped } = self;
        write!(f, "the table of tracked connections is full ({used} of {most}): new ones are dropped")?;
        if *dropped > 0 {
            write!(f, ", {dropped} since the look before")?;
        }
        Ok(())
    }
}

/// What our nftables table does. Rendered by `kernel::nft`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rules {
    /// The container address space.
    pub range: Ipv4Net,
    /// Interfaces that carry traffic between hosts.
    pub uplinks: BTreeSet<String>,
    /// Port of the mesh, of TCP and UDP, which containers do not reach.
    pub mesh_port: u16,
    /// Whether containers are kept from 169.254.169.254.
    pub block_metadata: bool,
    /// Which containers are kept from which.
    #[serde(default)]
    pub isolation: Isolation,
}

/// Which containers are kept from which. Those of a subnet reach their own subnet and the ones that it
/// allows; the addresses outside all of them are one subnet more, the rest. Without a subnet all reach all.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Isolation {
    /// The subnets by name; no two overlap, and none is named [`REST`].
    pub subnets: BTreeMap<String, Subnet>,
    /// The subnets that the rest reaches besides itself.
    pub rest: BTreeSet<String>,
}

/// A part of the container address space that is kept apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Subnet {
    /// Its addresses.
    pub cidr: Ipv4Net,
    /// The subnets, by name, that its containers reach besides their own.
    pub allow: BTreeSet<String>,
}

/// Name of the addresses that are in no subnet.
pub const REST: &str = "rest";

impl Isolation {
    /// The subnets whose containers reach those of `name`, itself included unless it is the rest.
    pub fn reaching(&self, name: &str) -> impl Iterator<Item = &Subnet> {
        let reaches = move |(own, subnet): &(&String, &Subnet)| *own == name || subnet.allow.contains(name);
        self.subnets.iter().filter(reaches).map(|(_, subnet)| subnet)
    }

    /// Whether the rest reaches the containers of `name`.
    pub fn is_open(&self, name: &str) -> bool {
        name == REST || self.rest.contains(name)
    }
}

/// Whether packets from and to our links pass the forward chains of other programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Forward {
    /// They pass.
    #[default]
    Open,
    /// They pass because we amended the named chain.
    Opened(String),
    /// They are dropped by the named chain, which we can amend (Docker's `DOCKER-USER`).
    Closed(String),
    /// They are dropped by the named chain, which only its owner should amend (firewalld).
    Foreign(String),
    /// The named chain cannot be read, so that nobody knows whether it drops them.
    Unread(String),
}

/// A network namespace, known by more than a name: it is this one for as long as this kernel runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Netns {
    /// The kernel's boot id.
    #[serde(serialize_with = "shared::as_it_is", deserialize_with = "shared::text")]
    pub boot: Arc<str>,
    /// The kernel's cookie of the namespace (`SO_NETNS_COOKIE`), never used twice in a boot.
    pub cookie: u64,
    /// Where it was last found: a bind mount or `/proc/PID/ns/net`.
    #[serde(serialize_with = "shared::as_it_is", deserialize_with = "shared::path")]
    pub path: Arc<FilePath>,
}

impl Netns {
    /// The namespace of this cookie in this boot, found there.
    pub fn new(boot: &str, cookie: u64, path: impl AsRef<FilePath>) -> Netns {
        Netns { boot: boot.into(), cookie, path: path.as_ref().into() }
    }

    /// Where the namespace of a target is to be found: a pid's, or what a path leads to.
    pub fn path_of(target: &str) -> PathBuf {
        target.parse::<u32>().map_or_else(|_| target.into(), |pid| format!("/proc/{pid}/ns/net").into())
    }

    /// Whether both are the same namespace, wherever they were found.
    pub fn is_same(&self, other: &Netns) -> bool {
        self.cookie == other.cookie && self.boot == other.boot
    }
}

/// The way out of every container. Each host has it for its own containers, and nobody routes it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// A routed veth: the host's end and the container's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The namespace of the container's end. Observed: `None` where it could not be entered, or is a runtime's affair.
    pub netns: Option<Netns>,
    /// MTU of both ends. Observed: the host's end.
    pub mtu: u32,
    /// The whole container range, which the container reaches by the link.
    pub range: Ipv4Net,
    /// The container's end, as it is made. Observed: as it is wanted.
    #[serde(default)]
    pub far: Far,
    /// Observed: what is not as it should be, in words (`mtu of the far end is 1376`, `host route missing`).
    /// Desired: empty.
    pub faults: Vec<String>,
}

impl Link {
    /// Whether it was found whole. Of one whose other end is a runtime's, the host's end.
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty() && (self.netns.is_some() || self.far.moved)
    }
}

/// How the names of links of containers begin; the rules take whatever begins so for one.
pub const LINKS: &str = "wv";

/// Name of the host's end of the link of `address`: `wv` and the address in hexadecimal.
pub fn link_name(address: Address) -> String {
    format!("{LINKS}{:08x}", address.0)
}

/// The address whose link's host end is named so.
pub fn address_of_link(name: &str) -> Option<Address> {
    let digits = name.strip_prefix(LINKS).filter(|digits| digits.len() == 8)?;
    let written = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    u32::from_str_radix(digits, 16).ok().filter(|_| written).map(Address)
}

/// Whether the kernel takes `name` as that of an interface, and nft as a name and nothing more: no wildcard, no quote.
pub fn is_interface_name(name: &str) -> bool {
    const LENGTH_MAX: usize = 15;
    let plain = |c: char| c.is_ascii_graphic() && !"\"'\\/:*{};,".contains(c);
    // The last two stand for all interfaces in /proc/sys/net.
    let taken = [".", "..", "all", "default"].contains(&name);
    (1..=LENGTH_MAX).contains(&name.len()) && name.chars().all(plain) && !taken
}

// ===== the VPC =====

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

// ===== what can be done =====

/// One change of the world. The variants stand in the order in which they run: a path is built
/// before traffic is sent down it, and torn down after.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)] // The fields say what they are.
pub enum Action {
    /// Set a kernel setting.
    SetSysctl { name: String, value: String },
    /// Load our nftables table, whole, in one transaction.
    LoadRules(Rules),
    /// Let our packets through other programs' forward chains.
    OpenForward { uplinks: BTreeSet<String> },
    /// Turn off the source/destination check of our interface.
    DisableCheck { interface: InterfaceId },
    /// Add the `unreachable` route of an owned CIDR.
    AddBlock(Ipv4Net),
    /// Give the host [`GATEWAY`].
    AddGateway,
    /// Make a container's link, both ends.
    CreateLink {
        address: Address,
        netns: Netns,
        mtu: u32,
        range: Ipv4Net,
        #[serde(default)]
        far: Far,
    },
    /// Mend a container's link that is there.
    MendLink {
        address: Address,
        netns: Netns,
        mtu: u32,
        range: Ipv4Net,
        #[serde(default)]
        far: Far,
    },
    /// Make or mend the host's end of a link whose other end a runtime moves.
    MakePair { address: Address, mtu: u32, far: Far },
    /// Load the table of ports that lead into containers, whole; without any, remove it.
    SetPorts(Ports),
    /// Point an existing route at our interface, in place.
    ReplaceRoute { table: TableId, destination: Ipv4Net, interface: InterfaceId },
    /// Add a route to our interface.
    CreateRoute { table: TableId, destination: Ipv4Net, interface: InterfaceId },
    /// Remove a route of ours.
    DeleteRoute { table: TableId, destination: Ipv4Net },
    /// Remove a container's link.
    DeleteLink(Address),
    /// Take [`GATEWAY`] from the host.
    DeleteGateway,
    /// Remove the `unreachable` route of a CIDR.
    DeleteBlock(Ipv4Net),
    /// Remove what `OpenForward` added.
    CloseForward,
    /// Remove our nftables table.
    DeleteRules,
}

// ===== what can go wrong =====

/// Why a look or an action failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[error("{message}")]
pub struct Fault {
    /// What a program decides by.
    pub kind: FaultKind,
    /// What is wrong, naming the thing.
    pub message: String,
    /// The way out, if there is one.
    pub hint: Option<String>,
    /// EC2's request id, if it answered.
    pub request_id: Option<String>,
}

/// What a program decides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultKind {
    /// Not permitted: it stays so until somebody changes a policy or a capability.
    Denied,
    /// The caller is not recognised: its credentials or its clock will not do. Later it may pass, or with others.
    Unsigned,
    /// Too many calls; later it may pass.
    Throttled,
    /// The table is full.
    Quota,
    /// Something stands there that the plan did not know, or what the plan knew is gone: look again.
    Outdated,
    /// No answer: the change may have happened or not.
    Unreachable,
    /// It cannot succeed as it is.
    Invalid,
}

impl Action {
    /// The address whose link it makes or mends.
    pub fn makes_link(&self) -> Option<Address> {
        match self {
            Action::CreateLink { address, .. }
            | Action::MendLink { address, .. }
            | Action::MakePair { address, .. } => Some(*address),
            _ => None,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::SetSysctl { name, value } => write!(f, "set {name} = {value}"),
            Action::LoadRules(_) => write!(f, "load nftables table inet weave"),
            Action::OpenForward { .. } => write!(f, "let containers through the forward chain"),
            Action::DisableCheck { interface } => {
                write!(f, "turn off the source/destination check of {interface}")
            }
            Action::AddBlock(cidr) => write!(f, "add host route unreachable {cidr}"),
            Action::AddGateway => write!(f, "add address {GATEWAY} to lo"),
            Action::CreateLink { address, .. } => write!(f, "create link {}", link_name(*address)),
            Action::MendLink { address, .. } => write!(f, "mend link {}", link_name(*address)),
            Action::MakePair { address, .. } => {
                write!(f, "make link {} for its runtime", link_name(*address))
            }
            Action::SetPorts(ports) if ports.is_empty() => {
                write!(f, "delete nftables table inet weave-ports")
            }
            Action::SetPorts(_) => write!(f, "load nftables table inet weave-ports"),
            Action::ReplaceRoute { table, destination, interface } => {
                write!(f, "replace {table} {destination} -> {interface}")
            }
            Action::CreateRoute { table, destination, interface } => {
                write!(f, "create {table} {destination} -> {interface}")
            }
            Action::DeleteRoute { table, destination } => write!(f, "delete {table} {destination}"),
            Action::DeleteLink(address) => write!(f, "delete link {}", link_name(*address)),
            Action::DeleteGateway => write!(f, "delete address {GATEWAY} from lo"),
            Action::DeleteBlock(cidr) => write!(f, "delete host route unreachable {cidr}"),
            Action::CloseForward => write!(f, "take our rules out of the forward chain"),
            Action::DeleteRules => write!(f, "delete nftables table inet weave"),
        }
    }
}
