//! The vocabulary of what is and what should be, on the host and in the VPC.
//!
//! [`Desired`] comes from the configuration, the ring and the attachments; [`Actual`] from netlink,
//! nftables and DescribeRouteTables. What could not be read is `None` there: unread, not absent.

pub use self::{
    action::{Action, Ec2Action, HostAction},
    attachment::{Far, HOST_MAC, Key, Kind, Mac, is_interface_name},
    fault::{Fault, FaultKind},
    host::{
        Docker0, Forward, Host, Isolation, Links, Made, REST, Rules, Scope, Subnet, Surroundings, Tracking,
    },
    link::{GATEWAY, GATEWAY6, LINKS, Link, Netns, address_of_link, link_name},
    paths::{Fate, Loss, Packet, Path},
    port::{Port, PortRange, Ports, Protocol, Published},
    remote::{Hop, HostRoutes, Remote},
    tunnel::{
        HEARD_WITHIN, KEEPALIVE_S, NotAKey, TUNNEL, TUNNEL_OVERHEAD, TUNNEL_PORT, Tunnel, TunnelKey,
        TunnelPeer, from_base64, some_of, to_base64,
    },
    vpc::{
        DesiredVpc, InterfaceId, Route, RouteState, Side, SpareWrites, SubnetId, Table, TableId, Tables,
        Target, Vpc, VpcId,
    },
};
pub use crate::ipam::takeover::InstanceState;

pub mod attachment;
mod fault;
mod shared;
mod link;
mod paths;
mod port;
mod tunnel;
mod remote;
mod host;
mod vpc;
mod action;

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
