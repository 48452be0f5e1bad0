//! The election of the first ring, in every order in which it can go: three electors, a network that
//! delays, repeats and loses, a few proposals, one crash.
//!
//! A breadth-first walk over [`Paxos`]. A step is a proposal, a message that arrives, or a crash with a
//! restart from what was saved. A message is all that its sender knew when it sent it; whoever changed
//! its claims sends one to everybody, where it arrives at any time and in any order, or never. A crash
//! breaks connections: what was on its way to the elector is lost, and the others tell it what they know
//! when it is back. What a node concludes is on its disk before its message leaves, so that a crash
//! before the save is the crash before the step.
//!
//! Two proposals without a crash, and one proposal with one, are walked to their ends. Two and a crash
//! are followed for so many steps as take seconds: to twelve steps they make 2,509,593 states.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    time::Instant,
};

use weavers::{
    ipam::paxos::{Claims, NodeClaims, NodeId, Paxos, ProposalId},
    peer::PeerName,
};

const ELECTORS: usize = 3;
const QUORUM: usize = 2;

/// What a walk may do.
#[derive(Clone, Copy)]
struct Bounds {
    proposals: u8,
    crashes: u8,
    /// No history is followed further than this.
    steps_max: usize,
    /// A crashed elector comes back without what it had promised.
    forgetful: bool,
}

#[test]
fn no_order_of_events_decides_two_values_and_somebody_can_always_decide() {
    for (proposals, crashes, steps_max) in [(2, 0, usize::MAX), (1, 1, usize::MAX), (2, 1, 9)] {
        let walk = Walk::of(Bounds { proposals, crashes, steps_max, forgetful: false });
        assert_eq!(walk.disagreement, None, "{proposals} proposals, {crashes} crashes");
        assert_eq!(walk.stuck, 0, "{proposals} proposals, {crashes} crashes");
        assert!(walk.values.len() > 3, "who promised first makes a difference: {:?}", walk.values);
    }
}

#[test]
fn an_elector_that_forgets_its_promise_in_a_crash_is_found_out() {
    let walk = Walk::of(Bounds { proposals: 2, crashes: 1, steps_max: 9, forgetful: true });
    assert!(walk.disagreement.is_some(), "the walk would miss a fault");
}

/// A number for what a node knows, or what a message says.
type Known = u32;

/// Everything at one moment.
#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    nodes: [Known; ELECTORS],
    /// What was sent, and to whom of them it would be news.
    messages: BTreeMap<Known, [bool; ELECTORS]>,
    proposals: u8,
    crashes: u8,
    decided: Option<u8>,
}

/// A walk and what it found.
struct Walk {
    forgetful: bool,
    /// What can be known, and its numbers.
    known: Vec<Claims>,
    numbers: BTreeMap<Vec<u8>, Known>,
    /// What becomes of a node that knows the one when it hears the other, and whether it has something to say.
    heard: BTreeMap<(usize, Known, Known), (Known, bool)>,
    /// The value that somebody who knows this takes for decided.
    consensus: Vec<Option<u8>>,
    values: Vec<Vec<PeerName>>,
    can_decide: BTreeMap<[Known; ELECTORS], Option<u8>>,
    states: usize,
    decided: usize,
    /// Steps to the first state in which two values are decided.
    disagreement: Option<usize>,
    /// States from which nobody can decide, or decides something else.
    stuck: usize,
}

impl Walk {
    fn of(bounds: Bounds) -> Walk {
        let begun = Instant::now();
        let mut walk = Walk {
            forgetful: bounds.forgetful,
            known: Vec::new(),
            numbers: BTreeMap::new(),
            heard: BTreeMap::new(),
            consensus: Vec::new(),
            values: Vec::new(),
            can_decide: BTreeMap::new(),
            states: 0,
            decided: 0,
            disagreement: None,
            stuck: 0,
        };
        walk.go(bounds);
        println!(
            "{} proposals, {} crashes, {} steps at most, forgetful {}: {} states, {} decided on {} values, two values after {:?} steps, \
             {} stuck, {:.1} s",
            bounds.proposals,
            bounds.crashes,
            bounds.steps_max,
            bounds.forgetful,
            walk.states,
            walk.decided,
            walk.values.len(),
            walk.disagreement,
            walk.stuck,
            begun.elapsed().as_secs_f64()
        );
        walk
    }

    fn go(&mut self, bounds: Bounds) {
        let nodes = [0, 1, 2].map(|index| self.number(&node(index, NodeClaims::default())));
        let Bounds { proposals, crashes, steps_max, .. } = bounds;
        let first = State { nodes, messages: BTreeMap::new(), proposals, crashes, decided: None };
        let mut seen = BTreeSet::from([digest(&first)]);
        let mut next = VecDeque::from([(0, first)]);
        while let Some((depth, state)) = next.pop_front() {
            self.states += 1;
            self.decided += usize::from(state.decided.is_some());
            let ends_with = self.ends_with(state.nodes);
            self.stuck +=
                usize::from(ends_with.is_none() || state.decided.is_some_and(|d| Some(d) != ends_with));
            if depth == steps_max {
                continue;
            }
            for mut after in self.steps(&state) {
                let decisions: BTreeSet<u8> = after
                    .nodes
                    .iter()
                    .filter_map(|&known| self.consensus[known as usize])
                    .chain(after.decided)
                    .collect();
                if decisions.len() > 1 {
                    self.disagreement = Some(depth + 1);
                    return;
                }
                after.decided = decisions.first().copied();
                if seen.insert(digest(&after)) {
                    next.push_back((depth + 1, after));
                }
            }
        }
    }

    fn steps(&mut self, state: &State) -> Vec<State> {
        let mut steps = Vec::new();
        for index in 0..ELECTORS {
            if state.proposals > 0 {
                let known = self.proposed(index, state.nodes[index]);
                let after = State { proposals: state.proposals - 1, ..state.clone() };
                steps.push(self.after(after, index, known, true));
            }
            if state.crashes > 0 {
                let known = self.crashed(index, state.nodes[index]);
                let mut after = State { crashes: state.crashes - 1, ..state.clone() };
                after.messages.values_mut().for_each(|to| to[index] = false);
                for other in (0..ELECTORS).filter(|&other| other != index) {
                    after.messages.entry(state.nodes[other]).or_default()[index] = true;
                }
                steps.push(self.after(after, index, known, false));
            }
            for (&message, to) in &state.messages {
                if to[index] {
                    let (known, speaks) = self.hear(index, state.nodes[index], message);
                    steps.push(self.after(state.clone(), index, known, speaks));
                }
            }
        }
        steps
    }

    fn after(&mut self, mut state: State, index: usize, known: Known, speaks: bool) -> State {
        state.nodes[index] = known;
        if speaks {
            state.messages.insert(known, [true; ELECTORS]);
        }
        let nodes = state.nodes;
        state.messages.retain(|&message, to| {
            for (index, (news, known)) in to.iter_mut().zip(nodes).enumerate() {
                *news &= self.hear(index, known, message).0 != known;
            }
            to.contains(&true)
        });
        state
    }

    // ===== what becomes of one node =====

    fn proposed(&mut self, index: usize, known: Known) -> Known {
        let mut paxos = self.paxos(index, known);
        paxos.propose(&alone(index));
        self.number(&paxos)
    }

    fn crashed(&mut self, index: usize, known: Known) -> Known {
        let ours = self.known[known as usize].get(&id(index)).cloned();
        let saved = ours.filter(|_| !self.forgetful).unwrap_or_default();
        self.number(&node(index, saved))
    }

    fn hear(&mut self, index: usize, known: Known, message: Known) -> (Known, bool) {
        if let Some(&after) = self.heard.get(&(index, known, message)) {
            return after;
        }
        let mut paxos = self.paxos(index, known);
        let changed = paxos.update(&self.known[message as usize]);
        let speaks = changed && paxos.think(&alone(index));
        let after = (if changed { self.number(&paxos) } else { known }, speaks);
        self.heard.insert((index, known, message), after);
        after
    }

    /// What everybody learns if all goes well from here on and one more proposal is made.
    fn ends_with(&mut self, nodes: [Known; ELECTORS]) -> Option<u8> {
        if let Some(&value) = self.can_decide.get(&nodes) {
            return value;
        }
        let mut now = nodes;
        now[0] = self.proposed(0, now[0]);
        for (to, from) in
            (0..4).flat_map(|_| (0..ELECTORS).flat_map(|to| (0..ELECTORS).map(move |from| (to, from))))
        {
            now[to] = self.hear(to, now[to], now[from]).0;
        }
        let [one, two, three] = now.map(|known| self.consensus[known as usize]);
        let value = one.filter(|_| one == two && two == three);
        self.can_decide.insert(nodes, value);
        value
    }

    // ===== numbers =====

    fn paxos(&self, index: usize, known: Known) -> Paxos {
        let claims = &self.known[known as usize];
        let mut paxos = node(index, claims.get(&id(index)).cloned().unwrap_or_default());
        paxos.update(claims);
        paxos
    }

    fn number(&mut self, paxos: &Paxos) -> Known {
        let bytes = encoded(paxos.knows());
        if let Some(&number) = self.numbers.get(&bytes) {
            return number;
        }
        let number = self.known.len() as Known;
        self.known.push(paxos.knows().clone());
        self.numbers.insert(bytes, number);
        let value = paxos.consensus().map(<[PeerName]>::to_vec);
        let value = value.map(|value| match self.values.iter().position(|other| *other == value) {
            Some(place) => place as u8,
            None => {
                self.values.push(value);
                self.values.len() as u8 - 1
            }
        });
        self.consensus.push(value);
        number
    }
}

/// What tells a state from all others.
fn digest(state: &State) -> u128 {
    let half = |seed: u8| {
        let mut hasher = DefaultHasher::new();
        (seed, state).hash(&mut hasher);
        hasher.finish()
    };
    u128::from(half(0)) << 64 | u128::from(half(1))
}

fn encoded(claims: &Claims) -> Vec<u8> {
    let number = |proposal: ProposalId| [proposal.round as u8, proposal.proposer.uid as u8];
    let mut bytes = Vec::new();
    for (node, claims) in claims {
        bytes.push(node.uid as u8);
        bytes.extend([claims.promise, claims.accepted, claims.value.origin].map(number).as_flattened());
        bytes.push(claims.value.value.iter().fold(0, |members, name| members | 1 << name.as_u64()));
    }
    bytes
}

fn node(index: usize, saved: NodeClaims) -> Paxos {
    Paxos::elector(id(index), QUORUM, saved)
}

fn id(index: usize) -> NodeId {
    NodeId { name: name(index), uid: 10 + index as u64 }
}

fn name(index: usize) -> PeerName {
    PeerName::from_u64(index as u64 + 1)
}

/// Each proposes itself and who promised, so that their values differ.
fn alone(index: usize) -> BTreeSet<PeerName> {
    BTreeSet::from([name(index)])
}
