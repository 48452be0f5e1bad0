//! What can be done, one thing at a time.

use std::{collections::BTreeSet, fmt};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::{
    attachment::Far,
    host::Rules,
    link::{GATEWAY, Netns, link_name},
    port::Ports,
    vpc::{InterfaceId, TableId},
};
use crate::addr::Address;

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
