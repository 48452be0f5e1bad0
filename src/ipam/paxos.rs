//! One value, agreed on by a majority, carried by gossip: which peers make the first ring, and later
//! who takes over from the dead ([`super::takeover`]).
//!
//! Every node is proposer, acceptor and learner at once, and gossips all it knows: of each acceptor
//! its highest promise and what it accepted last. It is Paxos in the form of Weave Net's
//! `ipam/paxos`, with the same messages and three rules that are stricter.
//!
//! - *An acceptor keeps its word across a restart.* Its claims are on disk before they leave, under an
//!   identity that is kept with them. A proposer is one too: its own promise is saved with the rest, so
//!   that a restarted one proposes in a higher round and never twice under one number.
//! - *Chosen is what a majority accepted under one and the same number.* Weave Net counts acceptances
//!   of one origin, whatever their numbers. That is not enough: with three acceptors, A having accepted
//!   x in round 1, C y in round 2 and B x again in round 3, "A and B accepted x" holds, while A and C
//!   may still choose y in round 4.
//! - *A majority is one of names.* Two lives of one peer are not two votes.
//!
//! It is safe by the usual argument. A proposer picks its value once, after a majority promised its
//! number `n`, and takes that of the highest acceptance it knows of. Suppose `x` was chosen under
//! `m < n`: some acceptor is in both majorities, it accepted under `m` before it promised `n`, and its
//! promise carries that acceptance or a later one. By induction every acceptance from `m` up to `n`
//! carries `x`, so the highest one does. That acceptances of others than the majority are looked at as
//! well changes nothing: they too are numbered from `m` up, or are not the highest. What a node accepts
//! on hearsay (its promise was accepted by another) is what the proposer sent, since numbers are unique.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{counter::Believed, peer::PeerName};

/// Nodes kept in mind; claims of further ones are not heard.
pub const NODES_MAX: usize = 4096;
/// Lives of one peer among them. A Weave Net router begins one at each start.
pub const LIVES_MAX: usize = 16;
/// Names in one value: more peers than a mesh has.
pub const VALUE_NAMES_MAX: usize = 1024;

/// An acceptor: a peer, and which of its lives or stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId {
    /// The peer.
    pub name: PeerName,
    /// Made once and kept. A Weave Net router makes a new one at each start.
    pub uid: u64,
}

/// The number of a proposal: unique, and ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProposalId {
    /// From 1 up; 0 in the proposal that does not exist.
    pub round: u64,
    /// Who proposes.
    pub proposer: NodeId,
}

/// What can be agreed on.
pub trait Choice: Clone + Default + PartialEq {
    /// What a proposer makes its value of, where no other is under way.
    type Ground: ?Sized;
    /// Names in all the values that are kept, so that all that is known fits into one message.
    const NAMES_MAX: usize;

    /// How many peers it names.
    fn names(&self) -> usize;

    /// The value of a proposer, from its ground and from who has promised.
    fn choose(ground: &Self::Ground, promised: BTreeSet<PeerName>) -> Self;
}

/// The peers that the first ring is made for: who is there, and who has promised.
impl Choice for Vec<PeerName> {
    type Ground = BTreeSet<PeerName>;
    const NAMES_MAX: usize = 1 << 20;

    fn names(&self) -> usize {
        self.len()
    }

    fn choose(names: &BTreeSet<PeerName>, promised: BTreeSet<PeerName>) -> Vec<PeerName> {
        promised.union(names).copied().take(VALUE_NAMES_MAX).collect()
    }
}

/// What was accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedValue<V = Vec<PeerName>> {
    /// The value.
    pub value: V,
    /// The proposal that carried it first.
    pub origin: ProposalId,
}

/// What a node has promised and accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeClaims<V = Vec<PeerName>> {
    /// It accepts nothing below this.
    pub promise: ProposalId,
    /// The last proposal it accepted.
    pub accepted: ProposalId,
    /// With this value.
    pub value: AcceptedValue<V>,
}

/// All claims that a node knows of.
pub type Claims<V = Vec<PeerName>> = BTreeMap<NodeId, NodeClaims<V>>;

/// A node.
#[derive(Clone, Debug)]
pub struct Paxos<V = Vec<PeerName>> {
    me: NodeId,
    quorum: usize,
    knows: Claims<V>,
    /// How far rounds are believed.
    believed: Believed,
    /// Claims beyond all bounds that were not taken in.
    passed_over: usize,
}

/// Nobody: the proposer of the proposal that does not exist.
impl Default for NodeId {
    fn default() -> NodeId {
        NodeId { name: PeerName::UNKNOWN, uid: 0 }
    }
}

impl ProposalId {
    /// Whether there is such a proposal.
    pub fn exists(&self) -> bool {
        self.round > 0
    }
}

impl<V: Choice> NodeClaims<V> {
    fn round(&self) -> u64 {
        self.promise.round.max(self.accepted.round)
    }
}

impl<V: Choice> Paxos<V> {
    /// A node that votes, bound by what it said in earlier lives.
    pub fn elector(me: NodeId, quorum: usize, saved: NodeClaims<V>) -> Paxos<V> {
        Paxos { knows: BTreeMap::from([(me, saved)]), ..Paxos::observer(me, quorum) }
    }

    /// A node that only passes on what it hears.
    pub fn observer(me: NodeId, quorum: usize) -> Paxos<V> {
        Paxos { me, quorum, knows: BTreeMap::new(), believed: Believed::default(), passed_over: 0 }
    }

    /// Who this node is.
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// All claims known.
    pub fn knows(&self) -> &Claims<V> {
        &self.knows
    }

    /// What we have promised and accepted; `None` if we do not vote.
    pub fn ours(&self) -> Option<&NodeClaims<V>> {
        self.knows.get(&self.me)
    }

    /// How many names make a majority.
    pub fn quorum(&self) -> usize {
        self.quorum
    }

    /// Sets how many names make a majority.
    pub fn set_quorum(&mut self, quorum: usize) {
        self.quorum = quorum;
    }

    /// Names of all nodes heard of, ours included.
    pub fn names(&self) -> BTreeSet<PeerName> {
        self.knows.keys().map(|node| node.name).collect()
    }

    /// Whether anybody has proposed yet.
    pub fn is_under_way(&self) -> bool {
        self.knows.values().any(|claims| claims.promise.exists() || claims.accepted.exists())
    }

    /// Takes in what this node knew before it was bound by something else.
    pub fn go_on_from(&mut self, before: &Paxos<V>) {
        self.believed = before.believed;
        self.believed.reach(before.highest_round());
        self.update(&before.knows);
    }

    /// Whether somebody may have promised and accepted this. A round that left none to go on with would end all agreement.
    pub fn believes(&self, claims: &NodeClaims<V>) -> bool {
        claims.round() <= self.believed.up_to(self.highest_round())
            && claims.value.value.names() <= VALUE_NAMES_MAX
    }

    fn highest_round(&self) -> u64 {
        self.knows.values().map(NodeClaims::round).max().unwrap_or(0)
    }

    /// Takes in what another node knows. Returns whether something was new. Nobody else's word on
    /// what we promised counts.
    pub fn update(&mut self, received: &Claims<V>) -> bool {
        let mut changed = false;
        let highest = self.highest_round();
        let up_to = self.believed.up_to(highest);
        if received.values().any(|theirs| theirs.round() > up_to) {
            self.believed.refuse(highest);
        }
        let mut names: usize = self.knows.values().map(|claims| claims.value.value.names()).sum();
        for (&node, theirs) in received.iter().filter(|(node, _)| **node != self.me) {
            let names_before = self.knows.get(&node).map_or(0, |claims| claims.value.value.names());
            let names_after = names - names_before + theirs.value.value.names();
            let is_believed = theirs.round() <= up_to && theirs.value.value.names() <= VALUE_NAMES_MAX;
            if !is_believed || !self.has_room_for(node) || names_after > V::NAMES_MAX {
                self.passed_over += 1;
                continue;
            }
            let is_new = !self.knows.contains_key(&node);
            let ours = self.knows.entry(node).or_default();
            if theirs.promise > ours.promise {
                ours.promise = theirs.promise;
                changed = true;
            }
            if theirs.accepted > ours.accepted {
                ours.accepted = theirs.accepted;
                ours.value = theirs.value.clone();
                names = names_after;
                changed = true;
            }
            changed |= is_new;
        }
        changed
    }

    /// How many claims were beyond all bounds and not taken in, since this was last asked.
    pub fn take_passed_over(&mut self) -> usize {
        std::mem::take(&mut self.passed_over)
    }

    fn has_room_for(&self, node: NodeId) -> bool {
        let all = NodeId { uid: 0, ..node }..=NodeId { uid: u64::MAX, ..node };
        let room = || self.knows.len() < NODES_MAX && self.knows.range(all).count() < LIVES_MAX;
        self.knows.contains_key(&node) || room()
    }

    /// Begins a round above all that are known, with our own promise. The value is made of `ground`
    /// if a majority promises and no other value is under way. Does nothing if we do not vote.
    pub fn propose(&mut self, ground: &V::Ground) {
        let round = self.highest_round().saturating_add(1);
        let Some(ours) = self.knows.get_mut(&self.me) else { return };
        ours.promise = ProposalId { round, proposer: self.me };
        self.think(ground);
    }

    /// Draws the conclusions for our own claims. Returns whether they changed, so that they must be
    /// saved and then told.
    pub fn think(&mut self, ground: &V::Ground) -> bool {
        let Some(before) = self.knows.get(&self.me).cloned() else { return false };
        let mut ours = before.clone();
        if let Some(highest) = self.knows.values().map(|claims| claims.promise).max() {
            ours.promise = ours.promise.max(highest);
        }
        let our_proposal = ours.promise.exists() && ours.promise.proposer == self.me;
        if our_proposal && ours.accepted < ours.promise && self.is_promised(ours.promise) {
            ours.value = self.value_to_propose(ours.promise, ground);
            ours.accepted = ours.promise;
        }
        let proposal = ours.promise;
        if proposal.exists() && ours.accepted < proposal {
            let accepted = self.knows.values().find(|claims| claims.accepted == proposal);
            if let Some(claims) = accepted {
                ours.value = claims.value.clone();
                ours.accepted = proposal;
            }
        }
        let changed = ours != before;
        self.knows.insert(self.me, ours);
        changed
    }

    /// The value that was chosen, if we can tell.
    pub fn chosen(&self) -> Option<&V> {
        let mut acceptors: BTreeMap<ProposalId, (BTreeSet<PeerName>, &V)> = BTreeMap::new();
        for (node, claims) in &self.knows {
            if claims.accepted.exists() {
                let value = &claims.value.value;
                let (names, _) = acceptors.entry(claims.accepted).or_insert((BTreeSet::new(), value));
                names.insert(node.name);
            }
        }
        let chosen = acceptors.into_values().find(|(names, _)| self.is_quorum(names.len()));
        chosen.map(|(_, value)| value)
    }

    fn is_promised(&self, proposal: ProposalId) -> bool {
        let promised = self.knows.iter().filter(|(_, claims)| claims.promise == proposal);
        self.is_quorum(promised.map(|(node, _)| node.name).collect::<BTreeSet<_>>().len())
    }

    /// That of the highest acceptance, or one of our own.
    fn value_to_propose(&self, proposal: ProposalId, ground: &V::Ground) -> AcceptedValue<V> {
        let highest = self.knows.values().max_by_key(|claims| claims.accepted);
        if let Some(claims) = highest.filter(|claims| claims.accepted.exists()) {
            return claims.value.clone();
        }
        let promised = self.knows.iter().filter(|(_, claims)| claims.promise == proposal);
        let promised = promised.map(|(node, _)| node.name).collect();
        AcceptedValue { value: V::choose(ground, promised), origin: proposal }
    }

    fn is_quorum(&self, names: usize) -> bool {
        self.quorum > 0 && names >= self.quorum
    }
}

impl Paxos {
    /// The peers of the first ring that were chosen, if we can tell.
    pub fn consensus(&self) -> Option<&[PeerName]> {
        self.chosen().map(Vec::as_slice).filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::counter::{HONEST_MAX, STEP_MAX};

    #[derive(Deserialize)]
    struct Vectors {
        paxos: Vec<Transcript>,
    }

    #[derive(Deserialize)]
    struct Transcript {
        desc: String,
        nodes: u64,
        quorum: usize,
        steps: Vec<Step>,
    }

    #[derive(Deserialize)]
    struct Step {
        op: String,
        #[serde(default)]
        node: u64,
        #[serde(default)]
        from: u64,
        #[serde(default)]
        to: u64,
        #[serde(rename = "think_changed(broadcast)")]
        thought: Option<bool>,
        state: State,
    }

    #[derive(Deserialize)]
    struct State {
        consensus: bool,
        knows: Vec<Known>,
    }

    #[derive(Deserialize)]
    struct Known {
        node: String,
        promise: String,
        accepted: String,
        value: Vec<u64>,
        value_origin: String,
    }

    fn node(number: u64) -> NodeId {
        NodeId { name: PeerName::from_u64(number), uid: 100 + number }
    }

    fn elector(number: u64, quorum: usize) -> Paxos {
        Paxos::elector(node(number), quorum, NodeClaims::default())
    }

    fn text(proposal: ProposalId) -> String {
        match proposal.exists() {
            true => {
                format!("{}@{}/{}", proposal.round, proposal.proposer.name.as_u64(), proposal.proposer.uid)
            }
            false => "-".to_owned(),
        }
    }

    /// Weave Net's nodes are unknown to each other until they say something; ours know themselves.
    fn assert_knows(paxos: &Paxos, state: &State, context: &str) {
        let told: Vec<_> = paxos
            .knows()
            .iter()
            .filter(|(_, claims)| claims.promise.exists() || claims.accepted.exists())
            .collect();
        assert_eq!(told.len(), state.knows.len(), "{context}");
        for ((id, claims), expected) in told.into_iter().zip(&state.knows) {
            assert_eq!(format!("{}/{}", id.name.as_u64(), id.uid), expected.node, "{context}");
            assert_eq!(text(claims.promise), expected.promise, "{context}");
            assert_eq!(text(claims.accepted), expected.accepted, "{context}");
            let value: Vec<u64> = claims.value.value.iter().map(|name| name.as_u64()).collect();
            assert_eq!(value, expected.value, "{context}");
            assert_eq!(text(claims.value.origin), expected.value_origin, "{context}");
        }
    }

    /// In "later proposer must adopt" Weave Net's node 3 reports consensus while node 2 accepted in an
    /// older round than node 3: acceptances of one origin, not of one number. We wait for the latter.
    #[test]
    fn the_transcripts_of_weave_net_are_followed() {
        let vectors: Vectors = serde_json::from_str(include_str!("../../tests/it/data/ipam.json")).unwrap();
        for transcript in vectors.paxos {
            let mut nodes: BTreeMap<u64, Paxos> =
                (1..=transcript.nodes).map(|n| (n, elector(n, transcript.quorum))).collect();
            for (number, step) in transcript.steps.iter().enumerate() {
                let context = format!("{}, step {number}", transcript.desc);
                let at = if step.op == "propose" { step.node } else { step.to };
                let mut paxos = nodes[&at].clone();
                if step.op == "propose" {
                    let names = paxos.names();
                    paxos.propose(&names);
                } else {
                    let heard = nodes[&step.from].knows().clone();
                    paxos.update(&heard);
                    let names = paxos.names();
                    assert_eq!(Some(paxos.think(&names)), step.thought, "{context}");
                }
                assert_knows(&paxos, &step.state, &context);
                assert!(step.state.consensus || paxos.consensus().is_none(), "{context}");
                nodes.insert(at, paxos);
            }
            let told = nodes.values().filter_map(Paxos::consensus).next();
            assert!(told.is_some(), "{}", transcript.desc);
        }
    }

    fn claims(promise: ProposalId, accepted: ProposalId, value: u64, origin: ProposalId) -> NodeClaims {
        let value = AcceptedValue { value: vec![PeerName::from_u64(value)], origin };
        NodeClaims { promise, accepted, value }
    }

    #[test]
    fn acceptances_under_two_numbers_are_no_majority() {
        let [first, third] = [1, 3].map(|round| ProposalId { round, proposer: node(1) });
        let mut paxos = elector(9, 2);
        paxos.update(&BTreeMap::from([
            (node(1), claims(third, first, 7, first)),
            (node(2), claims(third, third, 7, first)),
        ]));
        assert_eq!(paxos.consensus(), None);
        paxos.update(&BTreeMap::from([(node(1), claims(third, third, 7, first))]));
        assert_eq!(paxos.consensus(), Some(&[PeerName::from_u64(7)][..]));
    }

    #[test]
    fn two_lives_of_one_peer_are_one_vote() {
        let proposal = ProposalId { round: 1, proposer: node(1) };
        let other_life = NodeId { uid: 7, ..node(1) };
        let mut paxos = elector(9, 2);
        paxos.update(&BTreeMap::from([
            (node(1), claims(proposal, proposal, 7, proposal)),
            (other_life, claims(proposal, proposal, 7, proposal)),
        ]));
        assert_eq!(paxos.consensus(), None);
    }

    #[test]
    fn two_lives_of_one_peer_are_one_promise() {
        let mut paxos = elector(9, 3);
        paxos.propose(&BTreeSet::new());
        let proposal = paxos.ours().unwrap().promise;
        let promised = NodeClaims { promise: proposal, ..NodeClaims::default() };
        let other_life = NodeId { uid: 7, ..node(1) };
        paxos.update(&BTreeMap::from([(node(1), promised.clone()), (other_life, promised.clone())]));
        assert!(!paxos.think(&BTreeSet::new()));
        paxos.update(&BTreeMap::from([(node(2), promised)]));
        assert!(paxos.think(&BTreeSet::new()), "three names have promised");
        assert_eq!(paxos.ours().unwrap().accepted, proposal);
    }

    #[test]
    fn what_is_known_of_promises_fits_into_one_message_whatever_was_said() {
        use crate::{ipam::message::State, mesh::MESSAGE_LEN_MAX};
        let names =
            |count: usize| (0..count as u64).map(|name| PeerName::from_u64((1 << 47) + name)).collect();
        let proposal = ProposalId { round: HONEST_MAX, proposer: NodeId { uid: u64::MAX, ..node(1) } };
        let said = |count| {
            let value = AcceptedValue { value: names(count), origin: proposal };
            NodeClaims { promise: proposal, accepted: proposal, value }
        };
        let mut paxos = elector(1, 2);
        let voters = (0..VALUE_NAMES_MAX as u64 + 10).map(|name| (node(1000 + name), said(VALUE_NAMES_MAX)));
        paxos.update(&voters.collect());
        assert_eq!(paxos.take_passed_over(), 10);
        assert_eq!(paxos.take_passed_over(), 0);
        let lives = (0..100).map(|uid| (NodeId { uid, ..node(2) }, said(0)));
        paxos.update(&lives.collect());
        paxos.update(&Claims::from([(node(3), said(VALUE_NAMES_MAX + 1))]));
        assert_eq!(paxos.take_passed_over(), 100 - LIVES_MAX + 1);
        let others = (0..2 * NODES_MAX as u64).map(|name| (node(10_000 + name), said(0)));
        paxos.update(&others.collect());
        assert_eq!(paxos.knows().len(), NODES_MAX);
        let nicknames =
            (0..4096).map(|name| (PeerName::from_u64((1 << 46) + name), "x".repeat(255))).collect();
        let state = State { nicknames, paxos: Some(paxos.knows().clone()), ..State::default() };
        assert!(state.encode().len() < MESSAGE_LEN_MAX - 1000);
    }

    /// Somebody claims a promise in a round as high as is believed, or higher. One elector never hears of it.
    #[test]
    fn a_false_round_ends_no_agreement() {
        let believed = HONEST_MAX + STEP_MAX;
        for round in [HONEST_MAX, HONEST_MAX + 1, believed, believed + 1, u64::MAX] {
            let liar = node(7);
            let promise = ProposalId { round, proposer: liar };
            let lie = Claims::from([(liar, NodeClaims { promise, ..NodeClaims::default() })]);
            let mut nodes = [1, 2, 3].map(|number| elector(number, 2));
            nodes[..2].iter_mut().for_each(|node| _ = node.update(&lie));
            nodes[0].propose(&BTreeSet::new());
            let told = |nodes: &mut [Paxos; 3], from: usize, to: usize| {
                let said = Claims::from([(nodes[from].me, nodes[from].ours().unwrap().clone())]);
                // What is refused is told again.
                (0..2).for_each(|_| _ = nodes[to].update(&said));
                nodes[to].think(&BTreeSet::new());
            };
            for (from, to) in [(0, 2), (2, 0), (0, 2)] {
                told(&mut nodes, from, to);
            }
            assert!(nodes[2].chosen().is_some(), "after a promise in round {round}");
        }
    }

    #[test]
    fn of_a_crowd_so_many_make_the_first_ring_as_others_believe() {
        let crowd: BTreeSet<PeerName> = (1..5000).map(PeerName::from_u64).collect();
        assert_eq!(Vec::choose(&crowd, BTreeSet::new()).len(), VALUE_NAMES_MAX);
    }

    #[test]
    fn a_restarted_proposer_never_uses_a_number_twice() {
        let mut paxos = elector(1, 2);
        paxos.propose(&BTreeSet::new());
        let saved = paxos.ours().unwrap().clone();
        let mut again = Paxos::elector(node(1), 2, saved.clone());
        again.propose(&BTreeSet::new());
        assert!(again.ours().unwrap().promise > saved.promise);
    }

    #[test]
    fn an_observer_never_votes() {
        let mut paxos = Paxos::observer(node(9), 2);
        let mut proposer = elector(1, 2);
        proposer.propose(&BTreeSet::new());
        assert!(paxos.update(proposer.knows()));
        assert!(!paxos.think(&BTreeSet::new()));
        assert_eq!(paxos.knows(), proposer.knows());
    }

    /// Random electors that propose, gossip over lossy wires and restart from what they saved.
    fn choose(seed: u64, electors: u64, steps: usize) -> BTreeSet<Vec<PeerName>> {
        use rand::{RngExt, SeedableRng};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let quorum = electors as usize / 2 + 1;
        let mut nodes: Vec<Paxos> = (0..electors).map(|n| elector(n + 1, quorum)).collect();
        let mut chosen = BTreeSet::new();
        for _ in 0..steps {
            let at = rng.random_range(0..nodes.len());
            let other = rng.random_range(0..nodes.len());
            match rng.random_range(0..20) {
                0 => {
                    let names = BTreeSet::from([nodes[at].me.name]);
                    nodes[at].propose(&names);
                }
                1 => {
                    let saved = nodes[at].ours().unwrap().clone();
                    nodes[at] = Paxos::elector(nodes[at].me, quorum, saved);
                }
                _ => {
                    let heard = nodes[other].knows().clone();
                    nodes[at].update(&heard);
                    let names = BTreeSet::from([nodes[at].me.name]);
                    nodes[at].think(&names);
                }
            }
            chosen.extend(nodes[at].consensus().map(<[PeerName]>::to_vec));
        }
        chosen
    }

    #[test]
    fn only_one_value_is_ever_chosen_also_under_restarts() {
        let mut decided = 0;
        for seed in 0..3000 {
            let chosen = choose(seed, 3 + seed % 3, 120);
            assert!(chosen.len() <= 1, "seed {seed} chose {chosen:?}");
            decided += chosen.len();
        }
        assert!(decided > 1000, "only {decided} of 3000 runs decided anything");
    }
}
