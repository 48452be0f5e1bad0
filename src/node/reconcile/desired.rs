//! What should be, from the configuration, the ring and the attachments.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net};

use crate::{
    addr::{Address, Family, Range, join},
    config::{Config, SourceDestCheck},
    peer::PeerName,
    state::{
        Desired, DesiredVpc, Host, InterfaceId, Links, Ports, Remote, RouteState, Rules, Side, SpareWrites,
        TUNNEL, Target, Vpc, link_name,
    },
};

/// MTU of the links while the uplink's is not known yet: what every path carries.
const MTU_SAFE: u32 = 1500;

/// Whether the container range may be used: it must lie outside every CIDR of the VPC, or what is set up for it cuts the host off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may, as a look at the VPC has shown; or there is no VPC.
    Sound,
    /// Nobody has looked yet.
    Unknown,
    /// It may not: these are the CIDRs of the VPC.
    Refused(Vec<Ipv4Net>),
}

/// What containers that are to be connected need of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connected {
    /// Links of containers and of the canary, by the address that each is for.
    pub links: Arc<Links>,
    /// Ports that lead to containers.
    pub ports: Ports,
}

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
    /// What containers that are to be connected need of the host.
    pub connected: Connected,
    /// What was lent to others, who lead there by routes of their own.
    pub lent: Arc<BTreeSet<Ipv4Net>>,
    /// What leads to other hosts past the VPC.
    pub remote: Remote,
    /// The host as last seen.
    pub seen: Option<&'a Host>,
    /// Whether the range may be used.
    pub verdict: Verdict,
    /// Our interface in the VPC, once known.
    pub interface: Option<&'a InterfaceId>,
    /// Routes at which EC2 refused a table another one.
    pub full: BTreeMap<Side, usize>,
    /// What changed hands so lately that the last read need not show what became of it.
    pub restless: Vec<Range>,
    /// Writes to EC2 that may be made only to have fewer routes.
    pub spare_writes: SpareWrites,
    /// This host undoes everything.
    pub leaving: bool,
    /// Its routes go, whoever owns the addresses.
    pub withdraw: bool,
}

impl Ground<'_> {
    /// What should be.
    pub fn desired(&self) -> Desired {
        let host = match &self.verdict {
            _ if self.leaving => Host::default(),
            Verdict::Sound => self.host(),
            Verdict::Unknown => self.host_as_it_is(&[]),
            Verdict::Refused(cidrs) => self.host_as_it_is(cidrs),
        };
        let vpc = match &self.verdict {
            Verdict::Sound | Verdict::Unknown => self.vpc(),
            Verdict::Refused(_) => None,
        };
        Desired { host, vpc }
    }

    /// What a look at the host compares with: all that there is to be once the range may be used.
    pub fn looked_for(&self) -> Host {
        if self.leaving { Host::default() } else { self.host() }
    }

    fn host(&self) -> Host {
        Host {
            sysctls: self.sysctls(),
            rules: rules(self.config, self.seen, &self.owned, &self.remote.encrypted),
            gateway: true,
            blocks: self.blocks(),
            links: self.connected.links.clone(),
            ports: self.ports(),
            lent: self.lent.clone(),
            remote: self.remote.clone().into(),
            ..Host::default()
        }
    }

    /// What answers for the free addresses of what we own, of each kind.
    fn blocks(&self) -> BTreeSet<IpNet> {
        let cidrs: Vec<Ipv4Net> =
            join(self.owned.iter().copied()).into_iter().flat_map(Range::cidrs).collect();
        let of = |family: Family| cidrs.iter().map(move |cidr| family.cidr(*cidr));
        self.config.universe().families().flat_map(of).collect()
    }

    /// What comes in by an uplink is passed on only if that one may, whatever holds for all.
    fn sysctls(&self) -> BTreeMap<String, String> {
        let of_uplinks = ways_out(self.config, self.seen).into_iter();
        let of_uplinks = of_uplinks.map(|name| format!("net.ipv4.conf.{name}.forwarding"));
        let publishers: BTreeSet<Address> =
            self.connected.ports.iter().filter(|one| one.is_at_127()).map(|one| one.to).collect();
        let local = publishers.into_iter().map(|address| local_setting(&link_name(address)));
        let all = of_uplinks.chain(["net.ipv4.ip_forward".to_owned()]).chain(local);
        all.map(|name| (name, "1".to_owned())).chain(self.sysctls6()).collect()
    }

    /// IPv6 is forwarded by all interfaces or none. A host that forwards heeds no router unless told so: uplinks that heed routers
    /// go on with it, and all others are left as they are. Where interfaces begin without IPv6, the tunnel is given it.
    fn sysctls6(&self) -> BTreeMap<String, String> {
        if self.config.network.ipv6.is_none() {
            return BTreeMap::new();
        }
        let seen = |name: &str| self.seen.and_then(|host| host.sysctls.get(name)).map(String::as_str);
        let of_uplink = |uplink: String| {
            let name = format!("net.ipv6.conf.{uplink}.accept_ra");
            let value = match seen(&name) {
                Some("1") | None => "2",
                Some(other) => other,
            };
            (name.clone(), value.to_owned())
        };
        let heeding = uplink_names(self.config, self.seen).into_iter().map(of_uplink);
        let tunnel = tunnel_name(self.config).map(|name| (format!("net.ipv6.conf.{name}.disable_ipv6"), "0"));
        let others = [("net.ipv6.conf.all.forwarding".to_owned(), "1")].into_iter().chain(tunnel);
        heeding.chain(others.map(|(name, value)| (name, value.to_owned()))).collect()
    }

    fn ports(&self) -> Option<Ports> {
        (!self.connected.ports.is_empty()).then(|| self.connected.ports.clone())
    }

    /// What was set up for the range stays, and nothing is added; only blocks and routes go that take addresses of the VPC from the host. Where
    /// containers run, what guards them is kept up.
    fn host_as_it_is(&self, cidrs_of_vpc: &[Ipv4Net]) -> Host {
        let Some(seen) = self.seen else { return Host::default() };
        let wanted = self.host();
        let takes = |cidr: &IpNet| match cidr {
            IpNet::V4(cidr) => {
                cidrs_of_vpc.iter().any(|of_vpc| Range::from(*of_vpc).overlaps(Range::from(*cidr)))
            }
            IpNet::V6(_) => false,
        };
        let links = wanted.links.iter().filter(|(address, _)| seen.links.contains_key(address));
        let links = links.map(|(address, link)| (*address, link.clone()));
        let blocks = seen.blocks.iter().filter(|block| !takes(block)).copied().collect();
        let routes = seen.remote.routes.iter().filter(|(destination, _)| !takes(destination));
        let routes = routes.map(|(destination, hop)| (*destination, hop.clone())).collect();
        let tunnel = seen.remote.tunnel.clone();
        let remote = Box::new(Remote { routes: Arc::new(routes), tunnel, ..Remote::default() });
        match seen.links.is_empty() {
            true => Host {
                rules: seen.rules.clone(),
                gateway: seen.gateway,
                blocks,
                lent: wanted.lent.clone(),
                remote,
                ..Host::default()
            },
            false => Host { links: Arc::new(links.collect()), blocks, remote, ..wanted.clone() },
        }
    }

    fn vpc(&self) -> Option<DesiredVpc> {
        Some(DesiredVpc {
            range: self.config.ipam.range.into(),
            prefix: self.config.network.ipv6,
            me: self.me,
            interface: self.interface?.clone(),
            disable_check: self.config.vpc.source_dest_check == SourceDestCheck::Disable && !self.leaving,
            // Without a ring nothing is ours to route; our own interface is, already.
            owners: self.owners.clone().unwrap_or_default(),
            quota: self.config.vpc.quota,
            full: self.full.clone(),
            restless: self.restless.clone(),
            spare_writes: self.spare_writes,
            withdraw: self.withdraw,
        })
    }
}

/// Name of the setting by which packets to 127.0.0.1 are let to a container.
pub(in crate::node) fn local_setting(link: &str) -> String {
    format!("net.ipv4.conf.{link}.route_localnet")
}

/// MTU of the links of a host that looks so. While no uplink carries anything they stay as they are.
pub fn link_mtu(config: &Config, seen: Option<&Host>) -> u32 {
    let names = uplink_names(config, seen);
    let uplinks = seen.into_iter().flat_map(|host| &host.uplinks);
    let of_uplinks = uplinks.filter(|(name, _)| names.contains(*name)).map(|(_, mtu)| *mtu);
    let of_links = || seen.into_iter().flat_map(|host| host.links.values()).map(|link| link.mtu);
    let follows = || of_uplinks.min().or_else(|| of_links().max()).unwrap_or(MTU_SAFE);
    config.network.mtu.unwrap_or_else(follows)
}

/// While no uplink is known, rules are left as they are: they would guard nothing.
pub(in crate::node) fn rules(
    config: &Config,
    seen: Option<&Host>,
    owned: &[Range],
    encrypted: &BTreeSet<Ipv4Net>,
) -> Option<Rules> {
    if uplink_names(config, seen).is_empty() {
        return seen.and_then(|host| host.rules.clone());
    }
    Some(Rules {
        range: config.ipam.range,
        prefix: config.network.ipv6,
        uplinks: ways_out(config, seen),
        mesh_port: config.mesh.listen.port(),
        metrics_port: config.metrics.map(|listen| listen.port()),
        block_metadata: config.network.block_metadata,
        isolation: config.ipam.isolation.clone().into(),
        encrypted: if config.paths.encrypt { [config.ipam.range.trunc()].into() } else { encrypted.clone() },
        tunnel_source: tunnel_source(config, owned),
    })
}

/// The address under which what a host that owns this sends itself may enter the tunnel: one of the default subnet, in the longest
/// range, which changes hands last. A container may have it, too: answers are told apart by their connections.
fn tunnel_source(config: &Config, owned: &[Range]) -> Option<Address> {
    let subnet = Range::from(config.ipam.default_subnet.trunc());
    if !config.paths.tunnel || subnet.len() <= 2 {
        return None;
    }
    // The first and the last address of a network are for no host.
    let hosts = Range::new(Address(subnet.start.0 + 1), Address(subnet.end.0 - 1));
    let parts = owned.iter().filter(|range| range.overlaps(hosts)).map(|range| range.intersection(hosts));
    parts.max_by_key(|part| (part.len(), Reverse(part.start))).map(|part| part.start)
}

/// Those that are configured, or else those that carry the traffic.
pub(in crate::node) fn uplink_names(config: &Config, seen: Option<&Host>) -> BTreeSet<String> {
    let seen = || seen.into_iter().flat_map(|host| host.uplinks.keys().cloned()).collect();
    config.network.uplinks.clone().unwrap_or_else(seen)
}

/// By which traffic between hosts goes: these, and the tunnel where there is to be one.
pub(in crate::node) fn ways_out(config: &Config, seen: Option<&Host>) -> BTreeSet<String> {
    uplink_names(config, seen).into_iter().chain(tunnel_name(config)).collect()
}

fn tunnel_name(config: &Config) -> Option<String> {
    config.paths.tunnel.then(|| TUNNEL.to_owned())
}

/// A CIDR of the VPC that shares addresses with the range, or with what is of IPv6.
pub(in crate::node) fn taken(config: &Config, vpc: &Vpc) -> Option<IpNet> {
    let range = Range::from(config.ipam.range);
    let mut local =
        vpc.tables.iter().flat_map(|(side, table)| table.local.iter().map(move |cidr| (side, *cidr)));
    let (side, cidr) = local.find(|(_, cidr)| Range::from(*cidr).overlaps(range))?;
    Some(side.destination(cidr))
}

/// Every route inside the range that leads to an interface other than ours, and is active: the
/// mark of a cluster that is there already.
pub fn routes_of_others(range: Ipv4Net, vpc: &Vpc) -> Vec<(Ipv4Net, String)> {
    let alive = led_elsewhere(range, vpc).filter(|(_, _, state)| *state == RouteState::Active);
    alive.map(|(cidr, id, _)| (cidr, id.to_string())).collect()
}

/// Every route inside the range that leads to an interface other than ours, also to one where nothing arrives.
pub(in crate::node) fn led_elsewhere(
    range: Ipv4Net,
    vpc: &Vpc,
) -> impl Iterator<Item = (Ipv4Net, &InterfaceId, RouteState)> {
    let routes = vpc.tables.values().flat_map(|table| &table.routes);
    let inside = routes.filter(move |(cidr, route)| range.contains(*cidr) && route.created);
    inside.filter_map(|(cidr, route)| match &route.target {
        Target::Interface(id) if *id != vpc.interface => Some((*cidr, id, route.state)),
        Target::Interface(_) | Target::Other(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(owned: &[&str]) -> Option<String> {
        let subnet = "10.32.0.0/16".parse().unwrap();
        let mut config = Config::default();
        (config.paths.tunnel, config.ipam.default_subnet) = (true, subnet);
        let owned: Vec<Range> =
            owned.iter().map(|cidr| Range::from(cidr.parse::<Ipv4Net>().unwrap())).collect();
        tunnel_source(&config, &owned).map(|address| address.to_string())
    }

    #[test]
    fn a_host_enters_the_tunnel_by_an_address_of_the_default_subnet_in_its_longest_range() {
        let cases: [(&[&str], Option<&str>); 5] = [
            (&["10.32.4.0/24", "10.32.8.0/22", "10.40.0.0/14"], Some("10.32.8.0")),
            (&["10.32.8.0/24", "10.32.4.0/24"], Some("10.32.4.0")),
            (&["10.32.0.0/16"], Some("10.32.0.1")),
            (&["10.32.0.0/32", "10.32.255.255/32", "10.40.0.0/14"], None),
            (&[], None),
        ];
        for (owned, found) in cases {
            assert_eq!(source(owned).as_deref(), found, "{owned:?}");
        }
    }
}
