//! What can be done, one thing at a time.

use std::{collections::BTreeSet, fmt, net::SocketAddrV4};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use super::{
    attachment::Far,
    host::Rules,
    link::{GATEWAY, Netns, link_name},
    port::Ports,
    remote::Hop,
    tunnel::{TUNNEL, TunnelKey, some_of},
    vpc::{InterfaceId, Side},
};
use crate::addr::{Address, Prefix};

/// One change of the world, on the host or in EC2.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Action {
    /// Of the host's network.
    Host(HostAction),
    /// Of the VPC.
    Ec2(Ec2Action),
}

/// One change of the host's network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)] // The fields say what they are.
pub enum HostAction {
    /// Set a kernel setting.
    SetSysctl { name: String, value: String },
    /// Load our nftables table, whole, in one transaction.
    LoadRules(Rules),
    /// Let our packets through other programs' forward chains.
    OpenForward {
        uplinks: BTreeSet<String>,
        /// All of this range, by whatever interface: addresses of it were lent.
        #[serde(default)]
        range: Option<Ipv4Net>,
        /// Those of IPv6, too.
        #[serde(default)]
        has_v6: bool,
    },
    /// Add the `unreachable` route of an owned CIDR.
    AddBlock(IpNet),
    /// Make the device of the tunnel, or mend it. It has the private key that belongs to this one.
    SetTunnel { key: TunnelKey, port: u16, mtu: u32 },
    /// Give it another end, which is sent what is for these addresses, and may send from these alone. Where no endpoint is named it stays
    /// as it is.
    SetTunnelPeer { key: TunnelKey, endpoint: Option<SocketAddrV4>, allowed: BTreeSet<IpNet> },
    /// Lead what another host owns there, in place of a route of ours to the same destination.
    AddHostRoute { destination: IpNet, hop: Hop },
    /// Give the host [`GATEWAY`].
    AddGateway,
    /// Make a container's link, both ends.
    CreateLink {
        address: Address,
        netns: Netns,
        mtu: u32,
        range: Ipv4Net,
        #[serde(default)]
        prefix: Option<Prefix>,
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
        prefix: Option<Prefix>,
        #[serde(default)]
        far: Far,
    },
    /// Make or mend the host's end of a link whose other end a runtime moves.
    MakePair {
        address: Address,
        mtu: u32,
        #[serde(default)]
        prefix: Option<Prefix>,
        far: Far,
    },
    /// Load the table of ports that lead into containers, whole; without any, remove it.
    SetPorts(Ports),
    /// Remove a container's link.
    DeleteLink(Address),
    /// Take [`GATEWAY`] from the host.
    DeleteGateway,
    /// Remove the `unreachable` route of a CIDR.
    DeleteBlock(IpNet),
    /// Lead it there no longer.
    DeleteHostRoute { destination: IpNet, hop: Hop },
    /// Take an end from the tunnel.
    DeleteTunnelPeer(TunnelKey),
    /// Remove the device of the tunnel.
    DeleteTunnel,
    /// Remove what `OpenForward` added.
    CloseForward,
    /// Remove our nftables table.
    DeleteRules,
}

/// One change of the VPC.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)] // The fields say what they are.
pub enum Ec2Action {
    /// Turn off the source/destination check of our interface.
    DisableCheck { interface: InterfaceId },
    /// Point an existing route at our interface, in place.
    ReplaceRoute { table: Side, destination: Ipv4Net, interface: InterfaceId },
    /// Add a route to our interface.
    CreateRoute { table: Side, destination: Ipv4Net, interface: InterfaceId },
    /// Remove a route of ours.
    DeleteRoute { table: Side, destination: Ipv4Net },
}

impl From<HostAction> for Action {
    fn from(action: HostAction) -> Action {
        Action::Host(action)
    }
}

impl From<Ec2Action> for Action {
    fn from(action: Ec2Action) -> Action {
        Action::Ec2(action)
    }
}

impl Action {
    /// What is done, in one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Action::Host(action) => action.kind(),
            Action::Ec2(action) => action.kind(),
        }
    }

    /// The address whose link it makes or mends.
    pub fn makes_link(&self) -> Option<Address> {
        match self {
            Action::Host(action) => action.makes_link(),
            Action::Ec2(_) => None,
        }
    }

    /// The address whose link it changes.
    pub fn link(&self) -> Option<Address> {
        match self {
            Action::Host(action) => action.link(),
            Action::Ec2(_) => None,
        }
    }

    /// The route that it writes: its table, and its destination.
    pub fn route(&self) -> Option<(&Side, Ipv4Net)> {
        match self {
            Action::Host(_) => None,
            Action::Ec2(action) => action.route(),
        }
    }
}

impl HostAction {
    /// What is done, in one word.
    pub fn kind(&self) -> &'static str {
        match self {
            HostAction::SetSysctl { .. } => "SetSysctl",
            HostAction::LoadRules(_) => "LoadRules",
            HostAction::OpenForward { .. } => "OpenForward",
            HostAction::AddBlock(_) => "AddBlock",
            HostAction::SetTunnel { .. } => "SetTunnel",
            HostAction::SetTunnelPeer { .. } => "SetTunnelPeer",
            HostAction::AddHostRoute { .. } => "AddHostRoute",
            HostAction::AddGateway => "AddGateway",
            HostAction::CreateLink { .. } => "CreateLink",
            HostAction::MendLink { .. } => "MendLink",
            HostAction::MakePair { .. } => "MakePair",
            HostAction::SetPorts(_) => "SetPorts",
            HostAction::DeleteLink(_) => "DeleteLink",
            HostAction::DeleteGateway => "DeleteGateway",
            HostAction::DeleteBlock(_) => "DeleteBlock",
            HostAction::DeleteHostRoute { .. } => "DeleteHostRoute",
            HostAction::DeleteTunnelPeer(_) => "DeleteTunnelPeer",
            HostAction::DeleteTunnel => "DeleteTunnel",
            HostAction::CloseForward => "CloseForward",
            HostAction::DeleteRules => "DeleteRules",
        }
    }

    /// The address whose link it makes or mends.
    pub fn makes_link(&self) -> Option<Address> {
        match self {
            HostAction::CreateLink { address, .. }
            | HostAction::MendLink { address, .. }
            | HostAction::MakePair { address, .. } => Some(*address),
            HostAction::SetSysctl { .. }
            | HostAction::LoadRules(_)
            | HostAction::OpenForward { .. }
            | HostAction::AddBlock(_)
            | HostAction::SetTunnel { .. }
            | HostAction::SetTunnelPeer { .. }
            | HostAction::AddHostRoute { .. }
            | HostAction::AddGateway
            | HostAction::SetPorts(_)
            | HostAction::DeleteLink(_)
            | HostAction::DeleteGateway
            | HostAction::DeleteBlock(_)
            | HostAction::DeleteHostRoute { .. }
            | HostAction::DeleteTunnelPeer(_)
            | HostAction::DeleteTunnel
            | HostAction::CloseForward
            | HostAction::DeleteRules => None,
        }
    }

    /// The address whose link it changes.
    pub fn link(&self) -> Option<Address> {
        match self {
            HostAction::DeleteLink(address) => Some(*address),
            other => other.makes_link(),
        }
    }
}

impl Ec2Action {
    /// What is done, in one word: the call of EC2, but for the check.
    pub fn kind(&self) -> &'static str {
        match self {
            Ec2Action::DisableCheck { .. } => "DisableCheck",
            Ec2Action::ReplaceRoute { .. } => "ReplaceRoute",
            Ec2Action::CreateRoute { .. } => "CreateRoute",
            Ec2Action::DeleteRoute { .. } => "DeleteRoute",
        }
    }

    /// The route that it writes: its table, and its destination.
    pub fn route(&self) -> Option<(&Side, Ipv4Net)> {
        match self {
            Ec2Action::ReplaceRoute { table, destination, .. }
            | Ec2Action::CreateRoute { table, destination, .. }
            | Ec2Action::DeleteRoute { table, destination } => Some((table, *destination)),
            Ec2Action::DisableCheck { .. } => None,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Host(action) => action.fmt(f),
            Action::Ec2(action) => action.fmt(f),
        }
    }
}

impl fmt::Display for HostAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostAction::SetSysctl { name, value } => write!(f, "set {name} = {value}"),
            HostAction::LoadRules(_) => write!(f, "load nftables table inet weave"),
            HostAction::OpenForward { .. } => write!(f, "let containers through the forward chain"),
            HostAction::AddBlock(cidr) => write!(f, "add host route unreachable {cidr}"),
            HostAction::SetTunnel { port, mtu, .. } => {
                write!(f, "set up tunnel {TUNNEL}, UDP {port}, MTU {mtu}")
            }
            HostAction::SetTunnelPeer { key, endpoint, allowed } => {
                let ends = endpoint.map_or_else(String::new, |endpoint| format!(" at {endpoint}"));
                write!(f, "set tunnel to {key}{ends} for {}", some_of(allowed))
            }
            HostAction::AddHostRoute { destination, hop } => write!(f, "add host route {destination} {hop}"),
            HostAction::AddGateway => write!(f, "add address {GATEWAY} to lo"),
            HostAction::CreateLink { address, .. } => write!(f, "create link {}", link_name(*address)),
            HostAction::MendLink { address, .. } => write!(f, "mend link {}", link_name(*address)),
            HostAction::MakePair { address, .. } => {
                write!(f, "make link {} for its runtime", link_name(*address))
            }
            HostAction::SetPorts(ports) if ports.is_empty() => {
                write!(f, "delete nftables table inet weave-ports")
            }
            HostAction::SetPorts(_) => write!(f, "load nftables table inet weave-ports"),
            HostAction::DeleteLink(address) => write!(f, "delete link {}", link_name(*address)),
            HostAction::DeleteGateway => write!(f, "delete address {GATEWAY} from lo"),
            HostAction::DeleteBlock(cidr) => write!(f, "delete host route unreachable {cidr}"),
            HostAction::DeleteHostRoute { destination, hop } => {
                write!(f, "delete host route {destination} {hop}")
            }
            HostAction::DeleteTunnelPeer(key) => write!(f, "delete tunnel to {key}"),
            HostAction::DeleteTunnel => write!(f, "delete tunnel {TUNNEL}"),
            HostAction::CloseForward => write!(f, "take our rules out of the forward chain"),
            HostAction::DeleteRules => write!(f, "delete nftables table inet weave"),
        }
    }
}

impl fmt::Display for Ec2Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ec2Action::DisableCheck { interface } => {
                write!(f, "turn off the source/destination check of {interface}")
            }
            Ec2Action::ReplaceRoute { table, destination, interface } => {
                write!(f, "replace {} {} -> {interface}", table.table, table.destination(*destination))
            }
            Ec2Action::CreateRoute { table, destination, interface } => {
                write!(f, "create {} {} -> {interface}", table.table, table.destination(*destination))
            }
            Ec2Action::DeleteRoute { table, destination } => {
                write!(f, "delete {} {}", table.table, table.destination(*destination))
            }
        }
    }
}
