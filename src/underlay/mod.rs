//! What is beneath the container network: where each host is, by its own word, and which path leads from one to another.
//!
//! ```text
//!  Underlay ours ──┐
//!  Underlay theirs ┼─► path ─► Vpc      the route tables lead there, as its owner keeps them
//!  proven ─────────┘           Direct   it is on a link of this host: host routes by its address
//!                              Tunnel   elsewhere, and both have an end of one: WireGuard, by host routes
//!                              Apart    there is none
//!                              Bare     one of both wants all encrypted, and one has no key
//!                              Unknown  it has not said, or has not shown it: what there is stays as it is
//! ```
//!
//! Each host says where it is to each of its own kind, over the mesh, until it has heard that the other knows. An address is believed
//! once a connection of the mesh, on which the other has shown who it is, has led there. So is the key of a tunnel, since it is told by
//! such connections only.

mod path;
mod talk;
mod exchange;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4},
};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

pub use self::{
    exchange::Exchange,
    path::{Path, Why, path, path_before_proof, unproven},
    talk::{Talk, Unreadable},
};
use crate::{
    digest::Digest,
    state::{SubnetId, TunnelKey, VpcId},
};

/// Addresses that a host tells of, at most.
pub const ADDRESSES_MAX: usize = 8;
/// Length of an id of EC2 that is believed.
const ID_LEN_MAX: usize = 64;
/// Longest packets that a link may have.
const TUNNEL_MTUS: std::ops::RangeInclusive<u32> = 576..=65_535;
/// The shortest prefix of a network whose hosts are all on one link.
const PREFIX_MIN: u8 = 8;

/// Where a host is, by its own word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Underlay {
    /// In which network of whom.
    pub place: Place,
    /// Its addresses, each with the length of the prefix that those on its link share.
    pub addresses: BTreeSet<Ipv4Net>,
    /// Hosts of its subnet are to be led to directly, and not by the VPC.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub direct: bool,
    /// Of some of its addresses, the one of IPv6 by which whoever is on that link reaches it, where containers have such.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub links6: BTreeMap<Ipv4Addr, Ipv6Addr>,
    /// Its end of tunnels, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<TunnelEnd>,
}

/// The end of tunnels that a host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelEnd {
    /// Its public key.
    pub key: TunnelKey,
    /// The UDP port at which it listens.
    pub port: u16,
    /// Where others are to send to; otherwise where they find it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddrV4>,
    /// The longest packet that it can send and take.
    pub mtu: u32,
    /// It sends and takes nothing by any other path.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub encrypts: bool,
}

/// In which network of whom a host is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// In a subnet of a VPC of EC2.
    Vpc {
        /// The VPC.
        vpc: VpcId,
        /// The subnet.
        subnet: SubnetId,
    },
    /// Outside EC2.
    Outside,
}

impl Underlay {
    /// Whether it is within bounds, and can be where a host is.
    pub fn is_believable(&self) -> bool {
        let is_named = match &self.place {
            Place::Vpc { vpc, subnet } => is_id(&vpc.0) && is_id(&subnet.0),
            Place::Outside => true,
        };
        is_named
            && self.addresses.len() <= ADDRESSES_MAX
            && self.addresses.iter().all(is_of_a_host)
            && self.links6.iter().all(|(beside, link)| self.has(*beside) && link.is_unicast_link_local())
            && self.tunnel.is_none_or(TunnelEnd::is_believable)
    }

    /// Whether this is one of its addresses.
    fn has(&self, address: Ipv4Addr) -> bool {
        self.addresses.iter().any(|held| held.addr() == address)
    }

    /// The same for hosts that are at the same place.
    pub fn digest(&self) -> Digest {
        Digest::of(&serde_json::to_vec(self).expect("names and addresses can be written"))
    }
}

impl TunnelEnd {
    /// Whether there can be one.
    pub fn is_believable(self) -> bool {
        let is_somewhere = |to: SocketAddrV4| is_of_a_host(&Ipv4Net::from(*to.ip())) && to.port() != 0;
        self.key.is_believable()
            && self.port != 0
            && self.endpoint.is_none_or(is_somewhere)
            && TUNNEL_MTUS.contains(&self.mtu)
    }
}

/// Whether it can be an id of EC2, and nothing that steers a terminal.
fn is_id(id: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (1..=ID_LEN_MAX).contains(&id.len()) && id.chars().all(known)
}

/// Whether other hosts may be sent to it, by whatever link.
pub fn is_of_a_host(address: &Ipv4Net) -> bool {
    let ip = address.addr();
    let is_special = ip.is_unspecified()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip == Ipv4Addr::BROADCAST;
    let is_no_host = address.prefix_len() < 31 && (ip == address.network() || ip == address.broadcast());
    !is_special && !is_no_host && address.prefix_len() >= PREFIX_MIN
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Vpc { vpc, subnet } => write!(f, "{subnet} of {vpc}"),
            Place::Outside => f.write_str("outside EC2"),
        }
    }
}
