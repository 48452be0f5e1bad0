//! What people are told of the paths to other hosts, as probes find them.

use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};

use super::overview::Overview;
use crate::{
    addr::{Address, Family, Prefix, Range},
    config::SourceDestCheck,
    node::{
        cluster::probes::path_status,
        protocol::status::{Note, PathKind, PeerPath, ProbeStatus},
        reconcile::Reconcile,
    },
    peer::PeerName,
    probe::{Direction, Verdict, packet::Probe},
    state::Isolation,
    time::Timestamp,
};

/// Paths whose loss is told in full; of more there is a number.
const TOLD_MAX: usize = 8;

impl Overview<'_> {
    /// The peer whose space this address is in, if it has a canary.
    pub(in crate::node) fn probed_owner(&self, address: Address) -> Option<PeerName> {
        let owner = self.peers.ipam.ring().owner(address)?;
        self.probes.prober.paths().any(|(peer, _)| peer == owner).then_some(owner)
    }

    // ===== what people are told =====

    /// The canary, and the path to each host that has one.
    pub(super) fn probe_status(&self) -> ProbeStatus {
        let paths = self.probes.prober.paths();
        ProbeStatus {
            canary: self.local.canary.address(),
            paths: paths
                .map(|(peer, path)| {
                    path_status(self.facts, self.peers, peer, path.verdict(), path.small.round_trip)
                })
                .collect(),
        }
    }

    /// What probes have found to be wrong, with what to look at.
    pub(super) fn probe_problems(&self) -> Vec<Note> {
        let mut dying = self.probes.dying();
        let told = dying.by_ref().take(TOLD_MAX);
        let mut problems: Vec<Note> =
            told.map(|(peer, probe, direction, since)| self.loss(peer, probe, direction, since)).collect();
        let more = dying.count();
        if more > 0 {
            let what = format!("packets die between this host and {more} more hosts");
            problems.push(Note { what, hint: Some("weavers status --json, `probe`, names them all".into()) });
        }
        problems.extend(self.rewritten());
        problems.extend(self.local.canary.fault().map(|fault| Note {
            what: format!("paths are not probed: {}", fault.message),
            hint: fault.hint.clone(),
        }));
        problems
    }

    /// Of one peer.
    pub(super) fn losses_of(&self, peer: PeerName) -> impl Iterator<Item = Note> {
        let of_peer = self.probes.dying().filter(move |(other, ..)| *other == peer);
        of_peer.map(|(peer, probe, direction, since)| self.loss(peer, probe, direction, since))
    }

    /// Packets to or from a peer that die.
    pub(in crate::node) fn loss(
        &self,
        peer: PeerName,
        probe: Probe,
        direction: Direction,
        since: Timestamp,
    ) -> Note {
        let name = self.peers.named(peer);
        let way = match direction {
            Direction::Out => format!("to {name}"),
            Direction::Back => format!("from {name}"),
        };
        let lasts = humantime::format_duration(Duration::from_secs(self.facts.now.since(since).as_secs()));
        let what = match probe {
            Probe::Small => format!("packets of containers {way} have been lost for {lasts}"),
            Probe::Large => {
                let mtu = self.link_mtu();
                format!("packets of {mtu} bytes {way} have been lost for {lasts}, small ones arrive")
            }
            Probe::V6 => {
                format!(
                    "packets of IPv6 of containers {way} have been lost for {lasts}, those of IPv4 arrive"
                )
            }
        };
        let hint = match probe {
            Probe::Small => self.what_to_look_at(peer, direction, since),
            Probe::Large => {
                "the way carries less than [network] mtu: lower it on all hosts, or let ICMP type 3 code 4 pass"
                    .to_owned()
            }
            Probe::V6 => self.what_to_look_at_of_v6(peer, direction),
        };
        Note { what, hint: Some(hint) }
    }

    /// The likely cause: what is known here to be wrong on that way, otherwise what cannot be seen from here.
    fn what_to_look_at(&self, peer: PeerName, direction: Direction, since: Timestamp) -> String {
        let destination = match direction {
            Direction::Out => self.peers.canary_of(peer).map(|canary| canary.address.into()),
            Direction::Back => self.local.canary.address(),
        };
        // What was read before says nothing of it.
        let is_read = self.work.converge.vpc.is_seen_since(since);
        let known = self.known_cause(destination.filter(|_| is_read), direction);
        if let Some(cause) = known.or_else(|| self.other_subnets(peer)) {
            return cause;
        }
        let way = self.way(peer, direction);
        let carried = match (direction, way.path) {
            (Direction::Out, PathKind::Vpc | PathKind::Unknown) if is_read => {
                destination.map_or_else(String::new, |address| self.work.carried_to(address, &way.receiver))
            }
            (Direction::Out | Direction::Back, _) => String::new(),
        };
        format!("{carried}look at {}", way.suspects(self.facts.config.ipam.range))
    }

    /// The same where IPv6 alone is lost.
    fn what_to_look_at_of_v6(&self, peer: PeerName, direction: Direction) -> String {
        let family = self.facts.config.network.ipv6.map_or(Family::V4, Family::V6);
        let range = family.cidr(self.facts.config.ipam.range);
        format!("look at {}", self.way(peer, direction).suspects_of_v6(range))
    }

    /// The way that what dies would take.
    fn way(&self, peer: PeerName, direction: Direction) -> Way {
        let PeerPath { path, why, .. } = self.peer_path(peer);
        let (this, other) = ("this host".to_owned(), self.peers.named(peer));
        match direction {
            Direction::Out => Way { path, why, sender: this, receiver: other },
            Direction::Back => Way { path, why, sender: other, receiver: this },
        }
    }

    fn known_cause(&self, destination: Option<Address>, direction: Direction) -> Option<String> {
        let route = destination.and_then(|address| self.wrong_route(address));
        let is_on = self.work.converge.vpc.seen().and_then(|vpc| vpc.source_dest_check) == Some(true);
        let check =
            (is_on && self.facts.config.vpc.source_dest_check != SourceDestCheck::Ignore).then(|| {
                "the source/destination check of this host's interface is on: EC2 drops these packets"
                    .to_owned()
            });
        let covered = match direction {
            Direction::Out => destination.and_then(|address| self.work.covering_route(address)),
            Direction::Back => None,
        };
        covered.or(route).or(check)
    }

    /// A host that has adopted other subnets than this one: it may be the one that drops, or this one.
    fn other_subnets(&self, peer: PeerName) -> Option<String> {
        let theirs = self.peers.canary_of(peer)?.isolation?;
        let ours = &self.facts.config.ipam.isolation;
        if theirs == ours.digest().0 {
            return None;
        }
        let name = self.peers.named(peer);
        let what = if theirs == Isolation::default().digest().0 {
            format!("{name} has no [[ipam.subnet]] yet, and this host keeps its subnets apart")
        } else if *ours == Isolation::default() {
            format!("this host has no [[ipam.subnet]] yet, and {name} keeps its subnets apart")
        } else {
            format!("this host and {name} have different [[ipam.subnet]], and the stricter one drops packets")
        };
        Some(format!("{what}: give all hosts the same, and `weavers reload` there"))
    }

    /// Hosts that make other IPv6 addresses of containers' addresses than this one, as far as they have a canary.
    pub(super) fn other_prefixes(&self) -> impl Iterator<Item = Note> {
        let ours = self.facts.config.network.ipv6;
        let told =
            self.peers.mesh.reachable().iter().filter_map(|&peer| Some((peer, self.peers.canary_of(peer)?)));
        let other = told.filter(move |(_, canary)| canary.ipv6 != ours);
        let word =
            |prefix: Option<Prefix>| prefix.map_or_else(|| "none".to_owned(), |prefix| prefix.to_string());
        other.take(TOLD_MAX).map(move |(peer, canary)| Note {
            what: format!(
                "[network] ipv6 of {} is {}, and that of this host {}: containers do not reach each other there by IPv6",
                self.peers.named(peer),
                word(canary.ipv6),
                word(ours)
            ),
            hint: Some("give all hosts the same, and `weavers reload` there".to_owned()),
        })
    }

    /// Whoever sees another address than that of our canary.
    fn rewritten(&self) -> impl Iterator<Item = Note> {
        let flowing = self.probes.prober.paths().filter(|(_, path)| path.verdict() == Verdict::Flows);
        let seen = flowing.filter_map(|(peer, path)| Some((peer, path.rewritten?)));
        seen.take(1).map(|(peer, seen)| Note {
            what: format!("packets of containers arrive at {} as if {seen} had sent them", self.peers.named(peer)),
            hint: Some(format!(
                "a rule that is not ours masquerades inside {}: look for it with `nft list ruleset` and `iptables-save`",
                self.facts.config.ipam.range
            )),
        })
    }
}

impl Reconcile {
    /// Where the route tables lead what is sent to an address of another host: whose interface that is only that host knows.
    fn carried_to(&self, address: Address, receiver: &str) -> String {
        let carriers = self.carriers(address).into_iter();
        let leads = carriers.filter_map(|carrier| {
            Some(format!("{} leads {} to {}", carrier.table, carrier.destination?, carrier.target?))
        });
        let leads: Vec<String> = leads.take(TOLD_MAX).collect();
        if leads.is_empty() {
            return String::new();
        }
        format!("{}, which must be an interface of {receiver}; ", leads.join(", "))
    }

    /// A route on this host that is not ours and takes what is sent to this address.
    fn covering_route(&self, address: Address) -> Option<String> {
        let host = self.converge.host.seen()?;
        let (cidr, target) = host.foreign.iter().find(|(cidr, _)| Range::from(**cidr).contains(address))?;
        Some(format!("this host has a route that is not ours, {cidr} {target}: remove it"))
    }
}

/// A path, and who would send by it to whom, as people call them.
struct Way {
    path: PathKind,
    /// What is known to be wrong with it.
    why: Option<String>,
    sender: String,
    receiver: String,
}

impl Way {
    /// What may drop all packets there and cannot be seen from this host.
    fn suspects(&self, range: Ipv4Net) -> String {
        let Way { path, why, sender, receiver } = self;
        let firewalls = format!("firewalls (`nft list ruleset`) on {sender} and on {receiver}");
        match path {
            PathKind::Vpc | PathKind::Unknown | PathKind::None => format!(
                "the security group of {receiver} (it must let {range} in), the network ACLs of both subnets, the \
                 source/destination check of both, and {firewalls}"
            ),
            PathKind::Direct => format!(
                "the link of both, {firewalls}, and of a host on EC2 at its security group (it must let {range} in) and its \
                 source/destination check"
            ),
            PathKind::Tunnel => {
                let why = why.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
                format!("the tunnel{why}: {}", PathKind::TUNNEL_WAY_OUT)
            }
        }
    }

    /// The same where those of IPv6 alone are dropped.
    fn suspects_of_v6(&self, range: IpNet) -> String {
        let Way { path, sender, receiver, .. } = self;
        let on_hosts = format!(
            "the routes of {sender} (`ip -6 route`) and firewalls on both (`nft list ruleset`); weavers-ipv6(7) says what IPv6 needs"
        );
        match path {
            PathKind::Vpc | PathKind::Unknown | PathKind::None => format!(
                "the security group of {receiver} (it must let {range} in), the network ACLs of both subnets, {on_hosts}"
            ),
            PathKind::Direct | PathKind::Tunnel => on_hosts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_looked_at_is_what_packets_meet_on_their_path() {
        let range = "10.32.0.0/12".parse().unwrap();
        let way = |path| Way {
            path,
            why: Some("silent".to_owned()),
            sender: "this host".to_owned(),
            receiver: "b (h2)".to_owned(),
        };
        let of_all = |path| way(path).suspects(range);
        let of_v6 = |path| way(path).suspects_of_v6("fd00:1::a20:0/108".parse().unwrap());
        for text in [of_all(PathKind::Vpc), of_v6(PathKind::Vpc)] {
            assert!(text.contains("the security group of b (h2)") && text.contains("network ACLs"), "{text}");
        }
        assert!(of_v6(PathKind::Vpc).contains("fd00:1::a20:0/108"));
        assert!(of_all(PathKind::Direct).starts_with("the link of both, firewalls"));
        assert!(of_all(PathKind::Tunnel).starts_with("the tunnel (silent): wg show weave-tunnel"));
        for text in [of_all(PathKind::Tunnel), of_v6(PathKind::Tunnel), of_v6(PathKind::Direct)] {
            assert!(!text.contains("security group"), "{text}");
        }
    }
}
