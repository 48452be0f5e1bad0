//! Paths to other hosts, as probes find them: who is probed, what a loss leads to, and what people are told.

use std::{collections::BTreeMap, time::Duration};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{
    Node,
    doubt::Doubts,
    io::Output,
    overview::Overview,
    peers::Peers,
    reconcile::Reconcile,
    status::{Note, PathState, PathStatus, ProbeStatus},
};
use crate::{
    addr::{Address, Range},
    config::SourceDestCheck,
    mesh::{Delivery, Kind},
    peer::PeerName,
    probe::{self, Canary, Direction, Prober, Talk, Verdict, packet::Size},
    time::Timestamp,
};

/// A canary whose link has another MTU than any link may have is not believed.
const MTUS: std::ops::RangeInclusive<u32> = 68..=65_535;
/// When all hosts of a cluster lose probes at once, their looks come this far apart.
const DOUBT_SPREAD: Duration = Duration::from_millis(50);
/// Paths whose loss is told in full; of more there is a number.
const TOLD_MAX: usize = 8;

/// What probes need, and what was done about their losses.
#[derive(Debug)]
pub(super) struct Probes {
    pub prober: Prober,
    /// Who has a canary, or who is there, may have changed.
    touched: bool,
    doubts: Doubts,
}

impl Probes {
    pub fn new(me: PeerName, rng: ChaCha8Rng) -> Probes {
        Probes { prober: Prober::new(me, rng), touched: true, doubts: Doubts::default() }
    }

    /// Who is to be probed is to be found out anew.
    pub fn touch(&mut self) {
        self.touched = true;
    }
}

impl Node {
    /// Probes whoever has a canary and is there, and carries out what follows. Returns whether anything did.
    pub(super) fn settle_probes(&mut self) -> bool {
        if std::mem::take(&mut self.probes.touched) {
            let others = self.peers.canaries_of_others();
            self.probes.prober.set_others(self.facts.now, others);
        }
        let mut any = false;
        while let Some(effect) = self.probes.prober.next_effect() {
            any = true;
            match effect {
                probe::Effect::Send(to, bytes) => self.out.outputs.push_back(Output::Probe(to, bytes.into())),
                // Whoever loses the question is asked again.
                probe::Effect::Tell(peer, talk) => {
                    let _ = self.peers.mesh.unicast(peer, super::PROBE_CHANNEL, &talk.encode());
                }
                probe::Effect::Doubt(peer) => self.look_after_a_loss(peer),
                probe::Effect::Changed(peer, verdict) => {
                    let path = self.overview().path_status(peer, verdict, None);
                    self.out.outputs.push_back(Output::PathChanged(Box::new(path)));
                    self.out.disturbed = true;
                }
            }
        }
        any
    }

    /// A peer says something about probes.
    pub(super) fn on_talk(&mut self, delivery: &Delivery) {
        let Kind::Unicast { from } = delivery.kind else { return };
        // What cannot be read is of a later version.
        if let Ok(talk) = Talk::decode(&delivery.payload) {
            self.probes.prober.heard(self.facts.now, from, talk);
        }
    }

    /// Probes are lost: what was written may not be what is any more.
    fn look_after_a_loss(&mut self, peer: PeerName) {
        let dying = self.probes.dying().map(|(peer, ..)| peer).collect();
        let share = self.overview().usual_share();
        if !self.probes.doubts.look(self.facts.now, peer, &dying, share) {
            return;
        }
        let most = DOUBT_SPREAD * self.overview().readers();
        let after = most.mul_f64(self.observed.rng.random_range(0.0..1.0));
        self.out.outputs.push_back(Output::DoubtCheck);
        self.work.converge.host.look_by(self.facts.now);
        self.work.converge.vpc.look_by(self.facts.now + after);
        self.out.disturbed = true;
    }
}

impl Peers {
    /// Canaries of peers that the mesh reaches; an address that is not the peer's own is no canary of it.
    fn canaries_of_others(&self) -> BTreeMap<PeerName, Canary> {
        let believable = |(peer, canary): &(PeerName, Canary)| {
            self.mesh.is_reachable(*peer)
                && MTUS.contains(&canary.mtu)
                && self.ipam.ring().owner(canary.address.into()) == Some(*peer)
        };
        self.dead.takeover.canaries().filter(believable).collect()
    }

    fn canary_of(&self, peer: PeerName) -> Option<Address> {
        let mut others = self.dead.takeover.canaries();
        others.find(|(other, _)| *other == peer).map(|(_, canary)| canary.address.into())
    }
}

impl Overview<'_> {
    /// The peer whose space this address is in, if it has a canary.
    pub(super) fn probed_owner(&self, address: Address) -> Option<PeerName> {
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
                .map(|(peer, path)| self.path_status(peer, path.verdict(), path.small.round_trip))
                .collect(),
        }
    }

    fn path_status(&self, peer: PeerName, verdict: Verdict, round_trip: Option<Duration>) -> PathStatus {
        let state = match verdict {
            Verdict::Unknown => PathState::Unknown,
            Verdict::Flows => PathState::Flows,
            Verdict::Dies { size: Size::Small, direction: Direction::Out, .. } => PathState::DiesOut,
            Verdict::Dies { size: Size::Small, direction: Direction::Back, .. } => PathState::DiesBack,
            Verdict::Dies { size: Size::Large, direction: Direction::Out, .. } => PathState::LargeDiesOut,
            Verdict::Dies { size: Size::Large, direction: Direction::Back, .. } => PathState::LargeDiesBack,
        };
        let since_s = match verdict {
            Verdict::Dies { since, .. } => Some(self.facts.now.since(since).as_secs()),
            Verdict::Unknown | Verdict::Flows => None,
        };
        PathStatus {
            peer,
            nickname: self.peers.ipam.nickname(peer).map(str::to_owned),
            state,
            since_s,
            round_trip_us: round_trip.map(|time| time.as_micros() as u64),
        }
    }

    /// What probes have found to be wrong, with what to look at.
    pub(super) fn probe_problems(&self) -> Vec<Note> {
        let mut dying = self.probes.dying();
        let told = dying.by_ref().take(TOLD_MAX);
        let mut problems: Vec<Note> =
            told.map(|(peer, size, direction, since)| self.loss(peer, size, direction, since)).collect();
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
        of_peer.map(|(peer, size, direction, since)| self.loss(peer, size, direction, since))
    }

    /// Packets to or from a peer that die.
    pub(super) fn loss(&self, peer: PeerName, size: Size, direction: Direction, since: Timestamp) -> Note {
        let name = self.peers.named(peer);
        let way = match direction {
            Direction::Out => format!("to {name}"),
            Direction::Back => format!("from {name}"),
        };
        let lasts = humantime::format_duration(Duration::from_secs(self.facts.now.since(since).as_secs()));
        let what = match size {
            Size::Small => format!("packets of containers {way} have been lost for {lasts}"),
            Size::Large => {
                let mtu = self.link_mtu();
                format!("packets of {mtu} bytes {way} have been lost for {lasts}, small ones arrive")
            }
        };
        let hint = match size {
            Size::Small => self.what_to_look_at(peer, direction, since),
            Size::Large => {
                "the way carries less than [network] mtu: lower it on all hosts, or let ICMP type 3 code 4 pass"
                    .to_owned()
            }
        };
        Note { what, hint: Some(hint) }
    }

    /// The likely cause: what is known here to be wrong on that way, otherwise what cannot be seen from here.
    fn what_to_look_at(&self, peer: PeerName, direction: Direction, since: Timestamp) -> String {
        let (ours, theirs) = (self.local.canary.address(), self.peers.canary_of(peer));
        let destination = match direction {
            Direction::Out => theirs,
            Direction::Back => ours,
        };
        // What was read before says nothing of it.
        let is_read = self.work.converge.vpc.is_seen_since(since);
        if let Some(cause) = self.known_cause(destination.filter(|_| is_read), direction) {
            return cause;
        }
        let range = self.facts.config.ipam.range;
        let (sender, receiver) = match direction {
            Direction::Out => ("this host".to_owned(), self.peers.named(peer)),
            Direction::Back => (self.peers.named(peer), "this host".to_owned()),
        };
        let carried = match direction {
            Direction::Out if is_read => {
                destination.map_or_else(String::new, |address| self.work.carried_to(address, &receiver))
            }
            Direction::Out | Direction::Back => String::new(),
        };
        format!(
            "{carried}look at the security group of {receiver} (it must let {range} in), the network ACLs of both subnets, the \
             source/destination check of both, and firewalls (`nft list ruleset`) on {sender} and on {receiver}"
        )
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

impl Probes {
    /// Whether probes to or from some host are known to die.
    pub(super) fn probes_are_lost(&self) -> bool {
        self.dying().next().is_some()
    }

    /// Whether packets are known to die between this host and every other that was probed.
    pub(super) fn probes_reach_nobody(&self) -> bool {
        let flows = self.prober.paths().any(|(_, path)| path.verdict() == Verdict::Flows);
        !flows && self.probes_are_lost()
    }

    pub(super) fn dying(&self) -> impl Iterator<Item = (PeerName, Size, Direction, Timestamp)> {
        self.prober.paths().filter_map(|(peer, path)| match path.verdict() {
            Verdict::Dies { size, direction, since } => Some((peer, size, direction, since)),
            Verdict::Unknown | Verdict::Flows => None,
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
