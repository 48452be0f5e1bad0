//! Which hosts packets reach: probes between canaries.
//!
//! A canary is a container of ours, one on each host: a namespace, a link, an address. What passes between two canaries
//! takes the way that packets of containers take, so that whatever drops those drops probes.
//!
//! ```text
//!  turn ──► request ─────────────► canary of the other host, which replies
//!            │ no reply, five times
//!            └──► question, over the mesh: did you get any of these? ──► dies on the way out, or on the way back
//! ```
//!
//! [`Prober`] is pure: datagrams and moments come in, [`Effect`]s go out. It sends to at most [`TURN_MAX`] hosts a second,
//! however many there are, and answers at most [`REPLIES_MAX`] requests a second, whoever asks.

pub mod packet;
mod path;
mod talk;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use self::{
    packet::{Kind, LEN_MIN, Packet, Probe, len_of},
    path::{Path, Told},
};
use crate::{
    addr::{MTU6_MIN, Prefix},
    peer::PeerName,
    time::Timestamp,
};

pub use self::{
    packet::PORT,
    path::{Direction, Verdict},
    talk::{NONCES_MAX, Talk, Unreadable},
};

/// Time from one turn to the next.
const TURN: Duration = Duration::from_secs(1);
/// Hosts that are probed in one turn.
pub const TURN_MAX: usize = 3;
/// The same after something changed, and hosts whose losses are followed up within one pause.
const HURRY_MAX: usize = 16;
/// Every so many turns of a host a large packet goes with the small one; the first time, too.
const LARGE_EVERY: u32 = 3;
/// Requests that are answered within a second.
pub const REPLIES_MAX: u32 = 1000;
/// Requests of each host that are remembered.
const HEARD_MAX: usize = 24;

/// The canary of a host, as it tells its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// Its address.
    pub address: Ipv4Addr,
    /// MTU of its link.
    pub mtu: u32,
    /// Digest of what its host keeps apart: between hosts that do not agree on it the stricter one drops packets. `None` of a
    /// version that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<u64>,
    /// What its host makes IPv6 addresses of: hosts that do not agree on it do not reach each other's containers by them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Prefix>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send this datagram from our canary: to port [`PORT`] from a port of its own, so that firewalls see a new connection
    /// each time; to any other, which is an answer, from [`PORT`].
    Send(SocketAddr, Vec<u8>),
    /// Say this to a peer, over the mesh.
    Tell(PeerName, Talk),
    /// Probes between us and this peer are lost: what is written may not be what is.
    Doubt(PeerName),
    /// What is known of the path to this peer is another verdict now.
    Changed(PeerName, Verdict),
}

/// One host's part in it.
#[derive(Debug)]
pub struct Prober {
    me: PeerName,
    rng: ChaCha8Rng,
    canary: Option<Canary>,
    others: BTreeMap<PeerName, Canary>,
    paths: BTreeMap<PeerName, Path>,
    /// Requests that arrived, by sender, the latest last.
    heard: BTreeMap<PeerName, VecDeque<u64>>,
    next_turn: Timestamp,
    /// The next turn takes more hosts.
    hurried: bool,
    /// Requests answered in the second that began then.
    replies: (Timestamp, u32),
    effects: VecDeque<Effect>,
}

impl Prober {
    /// One that knows of no canary.
    pub fn new(me: PeerName, rng: ChaCha8Rng) -> Prober {
        Prober {
            me,
            rng,
            canary: None,
            others: BTreeMap::new(),
            paths: BTreeMap::new(),
            heard: BTreeMap::new(),
            next_turn: Timestamp::ZERO,
            hurried: false,
            replies: (Timestamp::ZERO, 0),
            effects: VecDeque::new(),
        }
    }

    /// Our own canary, once its link is there; without one nothing is sent, and nothing is known.
    pub fn set_canary(&mut self, now: Timestamp, canary: Option<Canary>) {
        if self.canary != canary {
            self.canary = canary;
            self.paths.clear();
            self.hurry(now);
        }
    }

    /// Our own canary.
    pub fn canary(&self) -> Option<Canary> {
        self.canary
    }

    /// The canaries of the peers that the mesh reaches. What was known of a path stays while the canary is the same.
    pub fn set_others(&mut self, now: Timestamp, others: BTreeMap<PeerName, Canary>) {
        if self.others == others {
            return;
        }
        self.paths
            .retain(|peer, _| others.get(peer).is_some_and(|canary| self.others.get(peer) == Some(canary)));
        self.heard.retain(|peer, _| others.contains_key(peer));
        self.others = others;
        self.next_turn = self.next_turn.min(now + TURN / 4);
    }

    /// Something changed, or somebody asks: the hosts whose turn is due take it now.
    pub fn hurry(&mut self, now: Timestamp) {
        (self.next_turn, self.hurried) = (now, true);
    }

    /// The same, beginning with this one.
    pub fn hurry_to(&mut self, now: Timestamp, peer: PeerName) {
        if let Some(path) = self.paths.get_mut(&peer) {
            path.turn_at = None;
        }
        self.hurry(now);
    }

    /// What is to be done next.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// What is known of each path.
    pub fn paths(&self) -> impl Iterator<Item = (PeerName, &Path)> {
        self.paths.iter().map(|(peer, path)| (*peer, path))
    }

    /// Whether outcomes are known of probes sent since, to this peer or to all; true where there is nothing to probe.
    pub fn is_known_since(&self, since: Timestamp, peer: Option<PeerName>) -> bool {
        let asked = |one: &PeerName| peer.is_none_or(|peer| peer == *one);
        let known = |one: &PeerName| self.paths.get(one).is_some_and(|path| path.is_known_since(since));
        self.canary.is_none() || self.others.keys().filter(|one| asked(one)).all(known)
    }

    /// When [`Prober::wake`] is due.
    pub fn next_wake(&self) -> Option<Timestamp> {
        if self.canary.is_none() || self.others.is_empty() {
            return None;
        }
        let lanes = self.paths.values().flat_map(|path| path.lanes().map(|(_, lane)| lane.next_wake()));
        lanes.flatten().chain([self.next_turn]).min()
    }

    /// Does what is due.
    pub fn wake(&mut self, now: Timestamp) {
        if self.canary.is_none() {
            return;
        }
        self.expire(now);
        self.ask();
        self.probe_suspects(now);
        if self.next_turn <= now {
            self.take_turn(now);
        }
    }

    // ===== probing =====

    fn take_turn(&mut self, now: Timestamp) {
        let most = if std::mem::take(&mut self.hurried) { HURRY_MAX } else { TURN_MAX };
        self.next_turn = now + TURN.mul_f64(self.rng.random_range(0.9..1.1));
        let turn_at = |peer: &PeerName| self.paths.get(peer).and_then(|path| path.turn_at);
        let mut next: Vec<PeerName> = self.others.keys().copied().collect();
        next.sort_by_key(turn_at);
        for peer in next.into_iter().take(most) {
            let path = self.paths.entry(peer).or_default();
            let may_flow = !path.small.is_suspect();
            let large = path.turns.is_multiple_of(LARGE_EVERY) && may_flow;
            (path.turn_at, path.turns) = (Some(now), path.turns.wrapping_add(1));
            let probes = [Some(Probe::Small), large.then_some(Probe::Large), may_flow.then_some(Probe::V6)];
            for probe in probes.into_iter().flatten() {
                self.probe(now, peer, probe);
            }
        }
    }

    /// Follows up on what was lost.
    fn probe_suspects(&mut self, now: Timestamp) {
        let due = |(peer, path): (&PeerName, &Path)| {
            let due = path.lanes().into_iter().find(|(_, lane)| lane.is_due(now));
            due.map(|(probe, _)| (*peer, probe))
        };
        let suspects: Vec<(PeerName, Probe)> = self.paths.iter().filter_map(due).collect();
        for (peer, probe) in suspects {
            self.probe(now, peer, probe);
        }
    }

    fn probe(&mut self, now: Timestamp, peer: PeerName, probe: Probe) {
        let (Some(own), Some(other)) = (self.canary, self.others.get(&peer)) else { return };
        let (Some(path), Some((to, len))) = (self.paths.get_mut(&peer), target(&own, other, probe)) else {
            return;
        };
        if path.lane(probe).is_out() {
            return;
        }
        let nonce = self.rng.next_u64();
        path.lane(probe).sent(now, nonce);
        let packet =
            Packet { kind: Kind::Request, probe, nonce, sender: self.me, seen: Ipv4Addr::UNSPECIFIED };
        self.effects.push_back(Effect::Send(to, packet.encode(len)));
    }

    fn expire(&mut self, now: Timestamp) {
        let suspect = |path: &&Path| path.lanes().iter().any(|(_, lane)| lane.is_suspect());
        let suspects = self.paths.values().filter(suspect).count();
        let pauses = suspects.div_ceil(HURRY_MAX).max(1) as u32;
        for (peer, path) in &mut self.paths {
            let small = path.small.expire(now, pauses);
            if path.small.is_suspect() {
                // Small ones say enough.
                (path.large, path.v6) = (path::Lane::default(), path::Lane::default());
            }
            if small | path.large.expire(now, pauses) | path.v6.expire(now, pauses) {
                self.effects.push_back(Effect::Doubt(*peer));
            }
        }
    }

    fn ask(&mut self) {
        for (peer, path) in &mut self.paths {
            let (small, large, v6) = (path.small.question(), path.large.question(), path.v6.question());
            if [&small, &large, &v6].iter().any(|lost| !lost.is_empty()) {
                self.effects.push_back(Effect::Tell(*peer, Talk::Got { small, large, v6 }));
            }
        }
    }

    // ===== what comes in =====

    /// A datagram came to our canary, from this address.
    pub fn hear(&mut self, now: Timestamp, from: SocketAddr, bytes: &[u8]) {
        let Some(packet) = Packet::decode(bytes) else { return };
        match packet.kind {
            Kind::Request => self.reply(now, from, packet, bytes.len()),
            Kind::Reply => self.on_reply(now, packet),
        }
    }

    fn reply(&mut self, now: Timestamp, from: SocketAddr, request: Packet, len: usize) {
        if self.others.contains_key(&request.sender) {
            let heard = self.heard.entry(request.sender).or_default();
            heard.truncate(HEARD_MAX - 1);
            heard.push_front(request.nonce);
        }
        if now.since(self.replies.0) >= Duration::from_secs(1) {
            self.replies = (now, 0);
        }
        self.replies.1 += 1;
        if self.replies.1 <= REPLIES_MAX {
            let seen = match from.ip() {
                IpAddr::V4(seen) => seen,
                IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
            };
            let reply = Packet { kind: Kind::Reply, sender: self.me, seen, ..request };
            self.effects.push_back(Effect::Send(from, reply.encode(len)));
        }
    }

    fn on_reply(&mut self, now: Timestamp, reply: Packet) {
        let own = self.canary.map(|canary| canary.address);
        let Some(path) = self.paths.get_mut(&reply.sender) else { return };
        let before = path.verdict();
        if path.lane(reply.probe).replied(now, reply.nonce) {
            if reply.probe != Probe::V6 {
                path.rewritten = Some(reply.seen).filter(|seen| Some(*seen) != own);
            }
            self.follow(reply.sender, before);
        }
    }

    /// A peer says something over the mesh.
    pub fn heard(&mut self, now: Timestamp, peer: PeerName, talk: Talk) {
        match talk {
            Talk::Got { small, large, v6 } => {
                let answer = self.answer(peer, [&small, &large, &v6]);
                self.effects.push_back(Effect::Tell(peer, answer));
                self.effects.push_back(Effect::Doubt(peer));
                self.hurry_to(now, peer);
            }
            Talk::Answer { canary, small, large, v6 } => {
                let Some(path) = self.paths.get_mut(&peer) else { return };
                let before = path.verdict();
                let told = |got: Option<bool>| match (canary, got?) {
                    (false, _) => Some(Told::HasNone),
                    (true, true) => Some(Told::Got),
                    (true, false) => Some(Told::GotNone),
                };
                for (probe, got) in [(Probe::Small, small), (Probe::Large, large), (Probe::V6, v6)] {
                    if let Some(told) = told(got) {
                        path.lane(probe).told(now, told);
                    }
                }
                self.follow(peer, before);
            }
        }
    }

    fn answer(&self, peer: PeerName, asked: [&[u64]; 3]) -> Talk {
        let heard = self.heard.get(&peer);
        let got = |asked: &[u64]| {
            let any = asked.iter().any(|nonce| heard.is_some_and(|heard| heard.contains(nonce)));
            (!asked.is_empty()).then_some(any)
        };
        // Whoever does not know the asker's canary yet has kept none of its requests.
        let canary = self.canary.is_some() && self.others.contains_key(&peer);
        let [small, large, v6] = asked.map(got);
        Talk::Answer { canary, small, large, v6 }
    }

    fn follow(&mut self, peer: PeerName, before: Verdict) {
        let now = self.paths.get(&peer).map(Path::verdict);
        if let Some(verdict) = now.filter(|now| *now != before) {
            self.effects.push_back(Effect::Changed(peer, verdict));
        }
    }
}

/// Where a probe goes and how long it is; `None` where it is not to be tried. Hosts that do not agree on what makes IPv6 addresses do not
/// reach each other by those, nor do they where less than IPv6 needs gets there.
fn target(own: &Canary, other: &Canary, probe: Probe) -> Option<(SocketAddr, usize)> {
    let mtu = own.mtu.min(other.mtu);
    let to = SocketAddr::from((other.address, PORT));
    match probe {
        Probe::Small => Some((to, LEN_MIN)),
        Probe::Large => Some((to, len_of(mtu))),
        Probe::V6 => {
            let prefix = own.ipv6.filter(|prefix| other.ipv6 == Some(*prefix) && mtu >= MTU6_MIN)?;
            Some((SocketAddr::from((prefix.address(other.address.into()), PORT)), LEN_MIN))
        }
    }
}
