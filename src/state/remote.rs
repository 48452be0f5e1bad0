//! What concerns other hosts: routes that lead to what they own, and the networks that this host shares with them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
    sync::Arc,
};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::addr::Address;

/// Routes of ours to what other hosts own, each by its next hop.
pub type HostRoutes = BTreeMap<Ipv4Net, Hop>;

/// What concerns other hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// Routes to what others own that the host leads there by itself, past the route tables of a VPC.
    pub routes: Arc<HostRoutes>,
    /// Asked only: addresses of other hosts to which the kernel is asked the way.
    pub asked: BTreeSet<Address>,
    /// Observed only: addresses of the host itself, each with the length of the network around it, by interface.
    pub networks: BTreeMap<Ipv4Net, String>,
}

/// Where packets for another host are handed to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hop {
    /// The other host, on the link of the interface.
    pub via: Ipv4Addr,
    /// The interface.
    pub interface: String,
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "via {} dev {}", self.via, self.interface)
    }
}
