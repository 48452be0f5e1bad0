//! When to propose who makes the first ring.
//!
//! Everybody who may vote says so at once, by being in the claims that it gossips. The lowest elector
//! heard proposes as soon as all expected peers are heard, or a while after a majority is, so that the
//! first ring holds everybody who is there. If nothing moves the next-lowest tries, and so on, ever
//! more slowly. Who proposes is only a matter of speed: [`super::paxos`] is safe whoever does.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Init, Settings,
    paxos::{Claims, NodeClaims, Paxos},
};
use crate::{peer::PeerName, time::Timestamp};

/// How long a majority waits for the rest.
const GRACE: Duration = Duration::from_secs(3);
/// How much longer each elector waits than the one below it, before anybody has proposed.
const TURN: Duration = Duration::from_secs(1);
/// The same, once somebody has.
const TURN_AGAIN: Duration = Duration::from_millis(700);
/// First and longest pause after a round that led nowhere.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(16);
/// Peers heard of that have not voted.
const HEARD_MAX: usize = 4096;

/// What a host knows of the election while there is no ring.
#[derive(Clone, Debug)]
pub struct Election {
    me: PeerName,
    elector: bool,
    expected: usize,
    held: Option<String>,
    paxos: Paxos,
    /// Weave Net electors that have nothing to say are known by name only.
    heard: BTreeSet<PeerName>,
    majority_since: Option<Timestamp>,
    all_since: Option<Timestamp>,
    last_progress: Timestamp,
    attempts: u32,
    due: Option<Timestamp>,
}

impl Election {
    /// One that goes on from what was saved.
    pub fn new(settings: &Settings, saved: Option<NodeClaims>) -> Election {
        let expected = settings.expected_peers.max(1);
        let elector = matches!(settings.init, Init::Consensus);
        let paxos = match elector {
            true => Paxos::elector(settings.acceptor, majority(expected), saved.unwrap_or_default()),
            false => Paxos::observer(settings.acceptor, majority(expected)),
        };
        Election {
            me: settings.me,
            elector,
            expected,
            held: None,
            paxos,
            heard: BTreeSet::new(),
            majority_since: None,
            all_since: None,
            last_progress: Timestamp::ZERO,
            attempts: 0,
            due: None,
        }
    }

    /// Sets how many peers the first ring waits for.
    pub fn set_expected(&mut self, expected: usize) {
        self.expected = expected.max(1);
        self.paxos.set_quorum(majority(self.expected));
    }

    /// With a reason: take no part, join what others made. Returns whether it takes part from now on.
    pub fn hold(&mut self, reason: Option<String>) -> bool {
        let was_held = std::mem::replace(&mut self.held, reason).is_some();
        was_held && self.votes()
    }

    /// What everybody heard of has promised and accepted.
    pub fn known(&self) -> &Claims {
        self.paxos.knows()
    }

    /// What we have promised and accepted.
    pub fn ours(&self) -> Option<&NodeClaims> {
        self.paxos.ours()
    }

    /// Only our own promises, if we vote.
    pub fn our_vote(&self) -> Option<Claims> {
        let ours = self.paxos.ours().filter(|_| self.votes())?;
        Some(Claims::from([(self.paxos.me(), ours.clone())]))
    }

    /// Whether the last proposal that we accepted is our own.
    pub fn is_ours(&self) -> bool {
        self.ours().is_some_and(|claims| claims.accepted.proposer == self.paxos.me())
    }

    /// What to tell others; an observer passes on what it has heard.
    pub fn told(&self) -> Option<Claims> {
        let mut claims = self.paxos.knows().clone();
        if !self.votes() {
            claims.retain(|node, claims| node.name != self.me || claims.promise.exists());
        }
        (self.votes() || !claims.is_empty()).then_some(claims)
    }

    /// Takes in claims, of which an empty list says that `neighbour` may vote. Returns whether they
    /// brought anything new.
    pub fn hear(&mut self, now: Timestamp, neighbour: Option<PeerName>, claims: &Claims) -> bool {
        let mut news = self.paxos.update(claims);
        let silent = neighbour.filter(|_| claims.is_empty() && self.heard.len() < HEARD_MAX);
        if let Some(name) = silent {
            news |= self.heard.insert(name);
        }
        if news {
            self.last_progress = now;
        }
        news
    }

    /// How many claims were beyond all bounds and not heard, since this was last asked.
    pub fn take_passed_over(&mut self) -> usize {
        self.paxos.take_passed_over()
    }

    /// Votes on what was heard, with who is present. Returns whether our own claims changed.
    pub fn vote(&mut self, now: Timestamp, present: &BTreeSet<PeerName>) -> bool {
        let changed = self.votes() && self.paxos.think(present);
        if changed {
            self.last_progress = now;
        }
        changed
    }

    /// Proposes if it is our turn. Returns whether our own claims changed.
    pub fn propose(&mut self, now: Timestamp, present: &BTreeSet<PeerName>) -> bool {
        self.count(now, present.len());
        self.due = self.turn(present);
        if self.due().is_none_or(|due| due > now) {
            return false;
        }
        self.attempts = self.attempts.saturating_add(1);
        self.last_progress = now;
        self.paxos.propose(present);
        self.due = self.turn(present);
        true
    }

    /// When it is our turn to propose, as things stood at the last look.
    pub fn due(&self) -> Option<Timestamp> {
        self.due.filter(|_| self.votes())
    }

    fn turn(&self, present: &BTreeSet<PeerName>) -> Option<Timestamp> {
        let ready = match (self.all_since, self.majority_since) {
            (Some(since), _) => since,
            (None, Some(since)) => since + GRACE,
            (None, None) => return None,
        };
        // Weave Net electors that have nothing to say propose only when they are asked for an address.
        let lower = present.range(..self.me).filter(|peer| !self.heard.contains(peer)).count();
        let rank = lower as u32;
        if self.attempts == 0 && !self.paxos.is_under_way() {
            return Some(ready + TURN * rank);
        }
        let pause = PAUSE.saturating_mul(1 << self.attempts.min(8)).min(PAUSE_MAX);
        Some(ready.max(self.last_progress) + pause + TURN_AGAIN * rank)
    }

    /// The peers of the first ring, once it is known that they were chosen.
    pub fn consensus(&self) -> Option<Vec<PeerName>> {
        if self.held.is_some() { None } else { self.paxos.consensus().map(<[PeerName]>::to_vec) }
    }

    /// What is waited for, and the way out.
    pub fn wait(
        &self,
        reachable: &BTreeSet<PeerName>,
        nicknames: &BTreeMap<PeerName, String>,
    ) -> (String, Option<String>) {
        if let Some(reason) = &self.held {
            let what = format!("a peer that has the ring, making none: {reason}");
            let hint = "check that the peers are reachable on port 6783; routes that a cluster of the past left behind are \
                        to be deleted";
            return (what, Some(hint.to_owned()));
        }
        if !self.elector {
            let hint = "an observer does not vote; a peer with init = \"consensus\" must".to_owned();
            return ("the electors to agree on the first ring".to_owned(), Some(hint));
        }
        let present = self.present(reachable);
        let names: Vec<String> = present
            .iter()
            .map(|peer| match nicknames.get(peer) {
                Some(nickname) => format!("{peer} ({nickname})"),
                None => peer.to_string(),
            })
            .collect();
        let (heard, quorum) = (names.join(", "), self.paxos.quorum());
        if present.len() < quorum {
            let what = format!(
                "a majority to make the first ring: heard {} of {} expected peers, {quorum} \
                 needed: {heard}",
                present.len(),
                self.expected,
            );
            let hint = "start the other peers, or set ipam.expected_peers to how many there are";
            return (what, Some(hint.to_owned()));
        }
        let what = format!(
            "agreement on the first ring: heard {} of {} expected peers: {heard}",
            present.len(),
            self.expected
        );
        (what, None)
    }

    fn votes(&self) -> bool {
        self.elector && self.held.is_none()
    }

    /// The electors heard that are still there, and we.
    pub fn present(&self, reachable: &BTreeSet<PeerName>) -> BTreeSet<PeerName> {
        let mut present = self.paxos.names();
        present.extend(&self.heard);
        present.retain(|peer| reachable.contains(peer));
        present.insert(self.me);
        present
    }

    fn count(&mut self, now: Timestamp, present: usize) {
        let since = |before: Option<Timestamp>, enough: bool| enough.then(|| before.unwrap_or(now));
        self.majority_since = since(self.majority_since, present >= self.paxos.quorum());
        self.all_since = since(self.all_since, present >= self.expected);
    }
}

fn majority(expected: usize) -> usize {
    expected / 2 + 1
}
