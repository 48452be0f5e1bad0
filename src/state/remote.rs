//! What concerns other hosts: routes that lead to what they own, and the networks that this host shares with them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use super::{
    fault::Fault,
    tunnel::{TUNNEL, Tunnel},
};
use crate::addr::Address;

/// Routes of ours to what other hosts own, each by its next hop.
pub type HostRoutes = BTreeMap<IpNet, Hop>;

/// What concerns other hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// Routes to what others own that the host leads there by itself, past the route tables of a VPC.
    pub routes: Arc<HostRoutes>,
    /// The device by which packets go to hosts elsewhere. Observed: `None` as well where it could not be read.
    pub tunnel: Option<Arc<Tunnel>>,
    /// Observed only: why it could not be read.
    pub tunnel_unread: Option<Fault>,
    /// Desired only: what others own whose packets are to go by the tunnel or not at all, since those others want it so.
    pub encrypted: BTreeSet<Ipv4Net>,
    /// Asked only: addresses of other hosts to which the kernel is asked the way.
    pub asked: BTreeSet<Address>,
    /// Observed only: addresses of the host itself, each with the length of the network around it, by interface.
    pub networks: BTreeMap<Ipv4Net, String>,
    /// Observed only: the address of IPv6 by which whoever is on the link of an interface reaches this host, by interface.
    pub links6: BTreeMap<String, Ipv6Addr>,
}

/// Where packets for another host are handed to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hop {
    /// The other host, on the link of the interface; `None`: whoever is at the other end of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// The interface.
    pub interface: String,
    /// The longest packet that gets there, where it is shorter than the interface takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

impl Hop {
    /// To a host on the link of an interface.
    pub fn direct(via: IpAddr, interface: &str) -> Hop {
        Hop { via: Some(via), interface: interface.to_owned(), mtu: None }
    }

    /// Through the tunnel.
    pub fn tunnel(mtu: Option<u32>) -> Hop {
        Hop { via: None, interface: TUNNEL.to_owned(), mtu }
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(via) = self.via {
            write!(f, "via {via} ")?;
        }
        write!(f, "dev {}", self.interface)?;
        if let Some(mtu) = self.mtu {
            write!(f, " mtu {mtu}")?;
        }
        Ok(())
    }
}
