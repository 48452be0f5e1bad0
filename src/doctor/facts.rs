//! What a doctor is told.

use std::net::Ipv4Addr;

use crate::{
    config::Config,
    node::protocol::{request::Permission, status::Status},
    state::{Fault, Host, Vpc as Tables},
    vpc::{Identity, groups::Group},
};

/// All that could be read, and why the rest could not.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Where the configuration file is, and what it says; otherwise what is wrong with it.
    pub file: (String, Result<Config, String>),
    /// How many bytes the password of the mesh has, or why it cannot be read; `None` where there is to be none.
    pub password: Option<Result<usize, String>>,
    /// What the daemon says of itself; otherwise why nothing.
    pub daemon: Result<Box<Status>, String>,
    /// What EC2 and the instance metadata say.
    pub cloud: Result<Cloud, Fault>,
    /// The host's network.
    pub host: Result<Host, Fault>,
    /// What `nft --version` says.
    pub nft: Result<String, String>,
    /// How large packets get to the hosts of other peers.
    pub probes: Vec<Probe>,
}

/// What EC2 says.
#[derive(Clone, Debug)]
pub struct Cloud {
    /// Who this host is.
    pub identity: Identity,
    /// The route tables and the own interface.
    pub tables: Result<Tables, Fault>,
    /// What this host may ask.
    pub permissions: Vec<Permission>,
    /// Prefix lists of the tables whose entries are not known, and why.
    pub lists: Vec<Fault>,
    /// The security groups of the own interface.
    pub groups: Result<Vec<Group>, Fault>,
    /// Seconds that this host's clock is ahead of EC2's.
    pub ahead_s: Option<i64>,
}

/// Packets that were sent to the host of another peer, never in fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The host.
    pub to: Ipv4Addr,
    /// How large the large ones were.
    pub size: u32,
    /// What came back.
    pub outcome: Outcome,
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The large ones.
    Large,
    /// Only small ones.
    SmallOnly,
    /// None.
    Nothing,
    /// There is no `ping` here.
    NoTool,
}
