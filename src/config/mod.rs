//! `weave.toml`, from text to a checked [`Config`] or every problem found in it.
//!
//! [`schema`] is the file as serde sees it; [`check`] turns it into a `Config`, whose values need no
//! second look; [`diagnostic`] is how a problem is shown.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::Ipv4Net;

use crate::{peer::PeerName, state::TableId};

/// What `weave.toml` says, checked whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Hosts to dial, as written (`name`, `name:port`, `address`, `address:port`).
    pub peers: Vec<String>,
    /// `[network]`
    pub network: Network,
    /// `[ipam]`
    pub ipam: Ipam,
    /// `[discovery] ec2_tag`, split at `=`.
    pub ec2_tag: Option<(String, String)>,
    /// `[mesh]`
    pub mesh: Mesh,
    /// `[vpc]`
    pub vpc: Vpc,
    /// `[reconcile]`
    pub reconcile: Reconcile,
}

/// `[network]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Interfaces that carry traffic between hosts; `None`: those of the default routes.
    pub uplinks: Option<BTreeSet<String>>,
    /// Whether containers are kept from the instance metadata.
    pub block_metadata: bool,
    /// MTU of the links; `None`: the uplink's.
    pub mtu: Option<u32>,
}

/// `[ipam]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipam {
    /// The container address space.
    pub range: Ipv4Net,
    /// Where addresses come from unless a subnet is named; overlaps the range.
    pub default_subnet: Ipv4Net,
    /// How the first ring comes to be.
    pub init: Init,
    /// Peers that the first ring waits for, this host included.
    pub expected_peers: usize,
}

/// How the first ring comes to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Init {
    /// By election among the peers.
    Consensus,
    /// From this list, the same on every host.
    Seed(Vec<PeerName>),
    /// By others.
    Observer,
}

/// `[mesh]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// This peer's name; `None`: from the instance, kept for life.
    pub name: Option<PeerName>,
    /// Its nickname; `None`: the host name.
    pub nickname: Option<String>,
    /// Where it listens.
    pub listen: SocketAddr,
    /// File that holds the password. The daemon reads it.
    pub password_file: Option<PathBuf>,
    /// Networks where the data plane needs no encryption.
    pub trusted_subnets: Vec<Ipv4Net>,
    /// Whether Weave Net routers share the cluster.
    pub weave_peers: bool,
}

/// `[vpc]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vpc {
    /// Tables to keep; `None`: that of the own subnet.
    pub route_tables: Option<BTreeSet<TableId>>,
    /// What to do about the source/destination check.
    pub source_dest_check: SourceDestCheck,
    /// Routes a table may hold; `None`: learned from a refusal.
    pub quota: Option<usize>,
    /// Grace before a terminated host's ranges are taken over; `None`: never.
    pub reclaim: Option<Duration>,
    /// AWS region; `None`: the instance's.
    pub region: Option<String>,
    /// EC2 endpoint; `None`: the region's.
    pub endpoint: Option<String>,
}

/// What to do about the source/destination check of the own interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceDestCheck {
    /// Turn it off.
    Disable,
    /// Say that it is on.
    Warn,
    /// Nothing.
    Ignore,
}

/// `[reconcile]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reconcile {
    /// Time between looks when nothing happens.
    pub interval: Duration,
    /// What an edited file does.
    pub on_change: OnChange,
}

/// What an edited file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnChange {
    /// It is validated and shown as pending.
    Notice,
    /// It is adopted.
    Apply,
}
