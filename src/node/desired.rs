//! What should be, from the configuration, the ring and the attachments.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::Ipv4Net;

use super::memory::Attached;
use crate::{
    addr::{Address, Range, join},
    config::{Config, SourceDestCheck},
    peer::PeerName,
    state::{Desired, DesiredVpc, Host, InterfaceId, Link, Rules, TableId},
};

/// MTU of the links while the uplink's is not known yet: what every path carries.
const MTU_SAFE: u32 = 1500;

/// All that the desired state follows from.
pub struct Ground<'a> {
    /// `weave.toml`.
    pub config: &'a Config,
    /// This peer.
    pub me: PeerName,
    /// What we own, by the ring, and may use. What rests may be in use elsewhere, and packets leave for it.
    pub owned: Vec<Range>,
    /// Who owns what, by the ring; `None` while there is none.
    pub owners: Option<Vec<(Range, PeerName)>>,
    /// Containers that are to have a link.
    pub linked: Vec<&'a Attached>,
    /// The host as last seen.
    pub seen: Option<&'a Host>,
    /// Our interface in the VPC, once known.
    pub interface: Option<&'a InterfaceId>,
    /// Routes at which EC2 refused a table another one.
    pub full: BTreeMap<TableId, usize>,
    /// What changed hands so lately that the last read need not show what became of it.
    pub restless: Vec<Range>,
    /// This host undoes everything.
    pub leaving: bool,
    /// Its routes go, whoever owns the addresses.
    pub withdraw: bool,
}

impl Ground<'_> {
    /// What should be.
    pub fn desired(&self) -> Desired {
        Desired { host: if self.leaving { Host::default() } else { self.host() }, vpc: self.vpc() }
    }

    /// MTU of the links. While no uplink carries anything they stay as they are.
    pub fn mtu(&self) -> u32 {
        let uplinks = self.uplink_names();
        let of_uplinks = self.uplinks().filter(|(name, _)| uplinks.contains(*name)).map(|(_, mtu)| *mtu);
        let of_links = || self.seen.into_iter().flat_map(|host| host.links.values()).map(|link| link.mtu);
        let follows = || of_uplinks.min().or_else(|| of_links().max()).unwrap_or(MTU_SAFE);
        self.config.network.mtu.unwrap_or_else(follows)
    }

    fn host(&self) -> Host {
        Host {
            sysctls: self.sysctls(),
            rules: self.rules(),
            blocks: join(self.owned.iter().copied()).into_iter().flat_map(Range::cidrs).collect(),
            links: self.linked.iter().filter_map(|attached| self.link(attached)).collect(),
            ..Host::default()
        }
    }

    /// What comes in by an uplink is passed on only if that one may, whatever holds for all.
    fn sysctls(&self) -> BTreeMap<String, String> {
        let uplinks = self.uplink_names().into_iter();
        let of_uplinks = uplinks.map(|name| format!("net.ipv4.conf.{name}.forwarding"));
        of_uplinks.chain(["net.ipv4.ip_forward".to_owned()]).map(|name| (name, "1".to_owned())).collect()
    }

    /// While no uplink is known, rules are left as they are: they would guard nothing.
    fn rules(&self) -> Option<Rules> {
        let uplinks = self.uplink_names();
        if uplinks.is_empty() {
            return self.seen.and_then(|host| host.rules.clone());
        }
        Some(Rules {
            range: self.config.ipam.range,
            uplinks,
            mesh_port: self.config.mesh.listen.port(),
            block_metadata: self.config.network.block_metadata,
            isolation: self.config.ipam.isolation.clone(),
        })
    }

    /// Those that are configured, or else those that carry the traffic.
    pub fn uplink_names(&self) -> BTreeSet<String> {
        let configured = self.config.network.uplinks.clone();
        configured.unwrap_or_else(|| self.uplinks().map(|(name, _)| name.clone()).collect())
    }

    fn uplinks(&self) -> impl Iterator<Item = (&String, &u32)> {
        self.seen.into_iter().flat_map(|host| &host.uplinks)
    }

    fn link(&self, attached: &Attached) -> Option<(Address, Link)> {
        let address = Address::from(attached.address?.addr());
        let (mtu, range) = (self.mtu(), self.config.ipam.range);
        Some((address, Link { netns: attached.netns.clone(), mtu, range, faults: Vec::new() }))
    }

    fn vpc(&self) -> Option<DesiredVpc> {
        Some(DesiredVpc {
            range: self.config.ipam.range.into(),
            me: self.me,
            interface: self.interface?.clone(),
            disable_check: self.config.vpc.source_dest_check == SourceDestCheck::Disable && !self.leaving,
            // Without a ring nothing is ours to route; our own interface is, already.
            owners: self.owners.clone().unwrap_or_default(),
            quota: self.config.vpc.quota,
            full: self.full.clone(),
            restless: self.restless.clone(),
            withdraw: self.withdraw,
        })
    }
}

/// Every route inside the range that leads to an interface other than ours, and is active: the
/// mark of a cluster that is there already.
pub fn routes_of_others(range: Ipv4Net, vpc: &crate::state::Vpc) -> Vec<(Ipv4Net, String)> {
    let routes = vpc.tables.values().flat_map(|table| &table.routes);
    let alive = routes.filter(|(cidr, route)| {
        range.contains(*cidr) && route.created && route.state == crate::state::RouteState::Active
    });
    alive
        .filter_map(|(cidr, route)| match &route.target {
            crate::state::Target::Interface(id) if *id != vpc.interface => Some((*cidr, id.to_string())),
            crate::state::Target::Interface(_) | crate::state::Target::Other(_) => None,
        })
        .collect()
}
