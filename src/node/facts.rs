//! What every subject may read: the time, who this host is, and which configuration is in force.

use ipnet::Ipv4Net;

use super::{
    identity::Metadata,
    persist::memory::Identity,
    protocol::request::{Pool, Refusal, RefusalKind},
};
use crate::{config::Config, state::TunnelKey, time::Timestamp};

/// What holds at one moment.
#[derive(Debug)]
pub(super) struct Facts {
    pub now: Timestamp,
    pub identity: Identity,
    /// What the metadata have said in this life.
    pub metadata: Option<Metadata>,
    /// What others know this host's end of tunnels by, if it has one.
    pub tunnel_key: Option<TunnelKey>,
    /// The kernel's boot id.
    pub boot: String,
    /// How people call this host.
    pub nickname: String,
    /// The configuration in force.
    pub config: Config,
    pub leave: Leave,
    /// The configuration in force is being tried.
    pub on_trial: bool,
    /// There is a ring, and the disk has it.
    pub ring_kept: bool,
}

/// How far a node is with leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// It stays.
    No,
    /// Its ranges were given away; it undoes its host and waits for the heir to take the routes over.
    HandingOver,
    /// Its routes go, whoever owns the addresses.
    Withdrawing,
}

impl Facts {
    /// The addresses of what a caller names, if it names any.
    pub(super) fn named_subnet(&self, pool: Option<Pool>) -> Result<Option<Ipv4Net>, Refusal> {
        let name = match pool {
            None => return Ok(None),
            Some(Pool::Cidr(cidr)) => return Ok(Some(cidr)),
            Some(Pool::Named(name)) => name,
        };
        let subnets = &self.config.ipam.isolation.subnets;
        if let Some(subnet) = subnets.get(&name) {
            return Ok(Some(subnet.cidr));
        }
        let known: Vec<&str> = subnets.keys().map(String::as_str).collect();
        let hint = if known.is_empty() {
            "name a CIDR, or add an [[ipam.subnet]] to weave.toml and reload".to_owned()
        } else {
            format!("name a CIDR, or one of {}", known.join(", "))
        };
        Err(Refusal::new(RefusalKind::NotFound, format!("there is no subnet `{name}`")).hint(hint))
    }
}
