//! What the kernel would do with packets of containers, by its own word.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::addr::Address;

/// A packet that the kernel was asked about, and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Path {
    /// The packet.
    pub packet: Packet,
    /// What would become of it.
    pub fate: Fate,
    /// The route that it follows, as far as one was found (`10.0.0.0/8 dev tun0`).
    pub route: Option<String>,
}

/// A packet that the kernel is asked about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Packet {
    /// From a container of this host to this address of another host.
    ToOther(Address),
    /// To a container of this host, come in by an interface that carries traffic between hosts.
    ToContainer {
        /// The container's address.
        address: Address,
        /// The interface.
        uplink: String,
    },
    /// From an address of this host itself to a container of it: the answer of a service.
    FromHost {
        /// The host's address.
        from: Ipv4Addr,
        /// The container's.
        to: Address,
    },
    /// From a container of this host to an address that is nobody's: the way of the default route.
    Outside,
}

/// What would become of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    /// It leaves by this interface.
    Leaves {
        /// The interface.
        interface: String,
        /// The neighbour that it is handed to, if it is not its destination.
        gateway: Option<Ipv4Addr>,
    },
    /// This host takes it for its own.
    Stays,
    /// It gets no further.
    Lost(Loss),
}

/// Why a packet gets no further.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Loss {
    /// No route covers its destination.
    NoRoute,
    /// A route or a policy rule says `unreachable`.
    Unreachable,
    /// One says `prohibit`.
    Prohibited,
    /// One says `blackhole`.
    Blackhole,
    /// Packets that come in by this interface are not passed on.
    NotForwarded(String),
    /// The reverse path filter of this interface does not believe its source.
    ReversePath(String),
    /// The kernel gave this error number.
    Other(i32),
}
