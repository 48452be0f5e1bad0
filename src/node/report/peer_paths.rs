//! The paths to other hosts: what they rest on, and what people are told of them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::Ipv4Net;

use super::overview::Overview;
use crate::{
    addr::Range,
    config::SameSubnet,
    node::{
        cluster::peer_paths::{Device, Own},
        protocol::status::{Note, PathKind, PeerPath},
    },
    peer::PeerName,
    state::{TUNNEL_OVERHEAD, TunnelKey},
    underlay::{ADDRESSES_MAX, Path, Place, TunnelEnd, Underlay, Why, is_of_a_host},
};

/// What to do where no path leads from one host to another.
pub(super) const APART_WAY_OUT: &str = "hosts of one VPC reach each other, and hosts on one link: give both a network in common, or set paths.tunnel = \"on\" on both";
/// The same where packets are to be encrypted and cannot be.
const BARE_WAY_OUT: &str = "set paths.tunnel = \"on\" and a mesh password on both, and restart weavers there; or paths.encrypt = \"off\"";
/// Hosts without a path that are named.
const NAMED_MAX: usize = 8;

impl Overview<'_> {
    /// Where this host is, once its network was looked at and, on EC2, its metadata were read.
    pub(in crate::node) fn own_place(&self) -> Option<Own> {
        let (config, host) = (&self.facts.config, self.work.converge.host.seen()?);
        let place = match (config.is_on_ec2(), &self.facts.metadata) {
            (true, Some(metadata)) => {
                Place::Vpc { vpc: metadata.vpc.clone(), subnet: metadata.subnet.clone() }
            }
            (true, None) => return None,
            (false, _) => Place::Outside,
        };
        let (uplinks, range) = (self.uplink_names(), Range::from(config.ipam.range));
        let is_underlay = |address: &Ipv4Net| is_of_a_host(address) && !range.contains(address.addr().into());
        let links = host.remote.networks.iter();
        let links = links.filter(|(address, link)| is_underlay(address) && uplinks.contains(*link));
        let links: BTreeMap<Ipv4Net, String> =
            links.take(ADDRESSES_MAX).map(|(address, link)| (*address, link.clone())).collect();
        // A link that is down for a moment is no reason to tell all others to lead nothing here.
        if links.is_empty() {
            return None;
        }
        let direct = config.is_on_ec2() && config.vpc.same_subnet == SameSubnet::Direct;
        let (addresses, tunnel) = (links.keys().copied().collect(), self.own_end());
        let links6 = self.links6(&links);
        Some(Own { underlay: Underlay { place, addresses, direct, links6, tunnel }, links })
    }

    /// The address of IPv6 beside each of these on its link, where containers have such.
    fn links6(&self, links: &BTreeMap<Ipv4Net, String>) -> BTreeMap<Ipv4Addr, Ipv6Addr> {
        let has_v6 = self.facts.config.network.ipv6.is_some();
        let Some(host) = self.work.converge.host.seen().filter(|_| has_v6) else { return BTreeMap::new() };
        let beside =
            |(address, link): (&Ipv4Net, &String)| Some((address.addr(), *host.remote.links6.get(link)?));
        links.iter().filter_map(beside).collect()
    }

    /// Whether this host has an end of tunnels.
    pub fn has_tunnel_key(&self) -> bool {
        self.facts.tunnel_key.is_some()
    }

    /// This host's end of tunnels, where it is to have one, and its key and its uplinks are known.
    fn own_end(&self) -> Option<TunnelEnd> {
        let config = self.facts.config.paths.tunnel.then_some(&self.facts.config.paths)?;
        let (uplinks, host) = (self.uplink_names(), self.work.converge.host.seen()?);
        let carried = host.uplinks.iter().filter(|(name, _)| uplinks.contains(*name)).map(|(_, mtu)| *mtu);
        let (key, port) = (self.facts.tunnel_key?, config.port);
        let end =
            TunnelEnd { key, port, endpoint: config.endpoint, mtu: carried.min()?, encrypts: config.encrypt };
        Some(end).filter(|end| end.is_believable())
    }

    /// The device by which packets go to hosts elsewhere, as it is to be.
    pub(in crate::node) fn own_device(&self) -> Device {
        match (self.facts.config.paths.tunnel, self.own_end()) {
            (false, _) => Device::Off,
            (true, None) => Device::AsItIs,
            (true, Some(TunnelEnd { key, port, mtu, .. })) => {
                Device::On { key, port, mtu: mtu - TUNNEL_OVERHEAD }
            }
        }
    }

    /// The peers that the mesh reaches and to which no path leads.
    pub(in crate::node) fn apart(&self) -> impl Iterator<Item = PeerName> {
        let reachable = self.peers.ipam.reachable().iter().copied();
        reachable.filter(|peer| self.peers.paths.is_apart(*peer))
    }

    // ===== what people are told =====

    /// The path to each peer that is reached, or owns something.
    pub(super) fn peer_paths(&self) -> Vec<PeerPath> {
        if self.facts.config.mesh.weave_peers {
            return Vec::new();
        }
        let owners = self.peers.ipam.owners().into_iter().map(|(_, owner)| owner);
        let mut peers: Vec<PeerName> = owners.chain(self.peers.ipam.reachable().iter().copied()).collect();
        peers.retain(|peer| *peer != self.facts.identity.name && *peer != PeerName::UNKNOWN);
        peers.sort();
        peers.dedup();
        peers.into_iter().map(|peer| self.peer_path(peer)).collect()
    }

    /// The path to one peer.
    pub(super) fn peer_path(&self, peer: PeerName) -> PeerPath {
        let (kind, why) = match self.peers.paths.to(peer) {
            Path::Vpc => (PathKind::Vpc, None),
            Path::Direct { .. } => (PathKind::Direct, None),
            Path::Tunnel { key, .. } => (PathKind::Tunnel, self.silence_of(key)),
            Path::Apart { ours, theirs } => (PathKind::None, Some(apart(&ours, &theirs))),
            Path::Bare { here } => (PathKind::None, Some(bare(here).to_owned())),
            Path::Unknown(why) => (PathKind::Unknown, Some(unknown(why, self.facts.config.is_on_ec2()))),
        };
        let (path, hop) = (self.peers.paths.to(peer), self.peers.paths.hop(peer));
        let endpoint = match path {
            Path::Tunnel { endpoint, .. } => endpoint.map(|endpoint| IpAddr::V4(*endpoint.ip())),
            Path::Vpc | Path::Direct { .. } | Path::Apart { .. } | Path::Bare { .. } | Path::Unknown(_) => {
                None
            }
        };
        PeerPath {
            peer,
            nickname: self.peers.ipam.nickname(peer).map(str::to_owned),
            path: kind,
            via: hop.as_ref().and_then(|hop| hop.via).or(endpoint),
            interface: hop.map(|hop| hop.interface),
            why,
        }
    }

    /// Why nothing may get through a tunnel, by the last look.
    fn silence_of(&self, key: TunnelKey) -> Option<String> {
        if self.work.unread_tunnel().is_some() {
            return Some("this host's end of it cannot be read".to_owned());
        }
        let tunnel = self.work.converge.host.seen()?.remote.tunnel.as_ref();
        match tunnel.map(|tunnel| tunnel.peers.get(&key)) {
            None => Some("this host's end of it is not set up yet".to_owned()),
            Some(None) => Some("it owns nothing that could be reached by it".to_owned()),
            Some(Some(end)) if end.heard => None,
            Some(Some(_)) => {
                Some("nothing was heard of it by the tunnel in the last three minutes".to_owned())
            }
        }
    }

    /// What is wrong with the path to one peer.
    pub(super) fn no_path_to(&self, peer: PeerName) -> Option<Note> {
        let PeerPath { path: PathKind::None, why, .. } = self.peer_path(peer) else { return None };
        let what = format!("no path leads to {}: {}", self.peers.named(peer), why.unwrap_or_default());
        let way_out = match self.peers.paths.to(peer) {
            Path::Bare { .. } => BARE_WAY_OUT,
            Path::Vpc | Path::Direct { .. } | Path::Tunnel { .. } | Path::Apart { .. } | Path::Unknown(_) => {
                APART_WAY_OUT
            }
        };
        Some(Note { what, hint: Some(way_out.to_owned()) })
    }

    /// Hosts to which no path leads, and the way out.
    pub(super) fn missing_paths(&self) -> Vec<Note> {
        let apart: Vec<PeerName> = self.apart().collect();
        let keyless = (self.facts.config.paths.tunnel && self.facts.tunnel_key.is_none()).then(|| Note {
            what: "this host has no key, so no tunnel leads to it".to_owned(),
            hint: Some("the log of weavers says why: journalctl -u weavers".to_owned()),
        });
        let mut notes: Vec<Note> = keyless.into_iter().collect();
        notes.extend(apart.iter().take(NAMED_MAX).filter_map(|peer| self.no_path_to(*peer)));
        if let Some(more) = apart.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
            let what = format!("no path leads to {more} more hosts");
            notes.push(Note {
                what,
                hint: Some("weavers status --json, `peer_paths`, names them all".into()),
            });
        }
        notes
    }
}

fn apart(ours: &Place, theirs: &Place) -> String {
    format!(
        "it is {}, this host {}, and they are on no link together",
        whereabouts(theirs),
        whereabouts(ours)
    )
}

fn bare(here: bool) -> &'static str {
    match here {
        true => "it sends and takes nothing unless it is encrypted, and this host has no key",
        false => "packets to and from it are to be encrypted, and it has no key that can be used",
    }
}

fn whereabouts(place: &Place) -> String {
    match place {
        Place::Vpc { .. } => format!("in {place}"),
        Place::Outside => place.to_string(),
    }
}

fn unknown(why: Why, is_on_ec2: bool) -> String {
    match why {
        Why::Here if is_on_ec2 => "the instance metadata have not said yet where this host is".to_owned(),
        Why::Here => "this host's network has not been looked at yet".to_owned(),
        Why::Unsaid => {
            "it has not said where it is: it runs an earlier version, or is not reached".to_owned()
        }
        Why::Unproven(address) => format!("no connection of the mesh has found it at {address} yet"),
    }
}
