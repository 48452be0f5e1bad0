//! Who takes over from the dead: exactly one peer, on which the others agree.
//!
//! The ring cannot say: it breaks ties by what it hears first, and two peers that take over from a third
//! would both own its ranges for a while. So it is decided, one decision after another, by Paxos
//! ([`super::paxos`]) on a channel of our own. Some founders of the ring decide first; each decision says
//! who takes part in the next one, so that no two views of that differ ([`log`]).
//!
//! ```text
//!  EC2: instance gone ─► gone ──┐                       ┌─► log, and the heir inherits
//!  somebody: forget   ─► asks ──┴─► seconds ─► Paxos ──┤
//!                   (statements)      a majority          └─► the others go on with the next one
//! ```
//!
//! An elector seconds what it can vouch for: that it does not hear the peer itself, for the grace time if
//! only EC2's statement stands for it. Once a majority has, the lowest of them proposes. Whoever is taken for
//! dead and is not loses what it does not use, and nothing else: see [`super::merge`].
//!
//! An elector whose instance is gone loses its seat long before that, and at first nothing else: where hosts are replaced one after
//! the other within the grace time, most of the electors are there at any moment.
//!
//! An heir takes over if it heard how it was chosen. Whoever hears of it later, having been away, cut off, or without a store, takes
//! over nothing: what became of the dead since it does not know, and they are decided about again if they still own something.

pub mod decisions;
mod ballot;
mod statements;
mod message;
mod exchange;
mod liveness;
mod proposals;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use self::{ballot::Ballot, liveness::Liveness, statements::Statements};
use super::{
    excess::Excess,
    paxos::{NodeClaims, NodeId, Paxos},
};
use crate::{counter::Believed, peer::PeerName, probe::Canary, time::Timestamp};

pub use self::{
    decisions::{Decision, Log},
    message::Unreadable,
};

/// How long a peer was not heard before EC2 is asked about it.
const SUSPECT_AFTER: Duration = Duration::from_secs(10);
/// How long an elector whose instance is gone keeps its seat at most. Where the grace time is no longer, all is decided at once.
const SEAT_KEPT: Duration = Duration::from_secs(60);
/// How long a peer must have been there to be made an elector where there are few.
const SETTLED_AFTER: Duration = Duration::from_secs(30);
/// How much longer each elector waits than the one below it.
const TURN: Duration = Duration::from_millis(500);
/// First and longest pause after a round that led nowhere.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(16);
/// How long an heir has to take over before the same peer is decided about again.
const HEIR_PATIENCE: Duration = Duration::from_secs(20);
/// How often is said again what somebody waits for.
const REPEAT: Duration = Duration::from_secs(5);
/// Statements of others that are repeated at once.
const RETOLD: usize = 64;
/// Bytes of statements of others in one message: with all that was decided and promised, it fits into a frame.
const STATEMENTS_LEN_MAX: usize = 3 << 20;
/// Instances that EC2 is asked about at once.
const SUSPECTS_MAX: usize = 100;

/// What must survive a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    log: Log,
    votes_from: Option<u64>,
    claims: NodeClaims<Decision>,
    /// The boot of the host in which it was sure that this is no old disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    boot: Option<String>,
}

/// What was on disk at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// Decisions and promises.
    pub kept: Option<Kept>,
    /// On which instance each peer runs.
    pub instances: BTreeMap<PeerName, String>,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant)]
pub enum Effect {
    /// Put this on disk before anything that follows.
    Save(Kept),
    /// Remember on which instance a peer runs, or forget it.
    SaveInstance(PeerName, Option<String>),
    /// Send to all peers.
    Broadcast(Vec<u8>),
    /// Send to this peer.
    Tell(PeerName, Vec<u8>),
    /// It was decided. The heir takes over.
    Decided(Decision),
    /// Our store was set back: others know of promises of ours that it does not have.
    SetBack,
    /// This heir wants to hear what we own.
    Awaited(PeerName),
}

/// What the ring and the mesh say, at the time of asking.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// How many addresses each peer owns.
    pub owners: &'a BTreeMap<PeerName, u64>,
    /// Who can be reached.
    pub reachable: &'a BTreeSet<PeerName>,
    /// How long a peer whose instance is gone must not have been heard; `None`: that is no reason.
    pub grace: Option<Duration>,
}

/// What EC2 says of an instance that it knows and that is not terminated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InstanceState {
    /// It runs, or is about to.
    Running,
    /// It does not, and may come back.
    Stopped,
}

/// A peer that will be taken over from, or could be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coming {
    /// The peer.
    pub peer: PeerName,
    /// Its instance, if it ever said.
    pub instance: Option<String>,
    /// How long until the grace is over; `None` if there is none.
    pub grace_left: Option<Duration>,
    /// Electors that must still agree for a majority, with nobody among them that already has.
    pub missing: Vec<PeerName>,
}

/// One peer's part in it.
#[derive(Clone, Debug)]
pub struct TakeOver {
    me: NodeId,
    boot: Option<String>,
    log: Option<Log>,
    /// How far others are believed to have come.
    believed: Believed,
    ballot: Ballot,
    paxos: Paxos<Decision>,
    statements: Statements,
    /// Peers that somebody here wants to be taken over from.
    asked: BTreeSet<PeerName>,
    /// Peers of which we, as an heir, want to hear.
    awaited: BTreeSet<PeerName>,
    liveness: Liveness,
    round: Round,
    telling: Telling,
    excess: Excess,
    /// Something changes by itself then.
    wake: Option<Timestamp>,
    effects: VecDeque<Effect>,
}

/// How far the next decision is.
#[derive(Clone, Debug, Default)]
struct Round {
    /// Since when there has been something to propose.
    ready: Option<Timestamp>,
    /// When there was the last news of it; never, if there was none since the last one, or our start.
    last_progress: Option<Timestamp>,
    attempts: u32,
}

/// What is told again.
#[derive(Clone, Debug, Default)]
struct Telling {
    repeat_at: Option<Timestamp>,
    /// The last peer whose statement was told again.
    retold: Option<PeerName>,
}

impl TakeOver {
    /// One that goes on from what was saved.
    pub fn new(me: NodeId, instance: Option<String>, saved: Saved) -> TakeOver {
        let mut takeover = TakeOver {
            me,
            boot: None,
            log: None,
            believed: Believed::default(),
            ballot: Ballot::default(),
            paxos: Paxos::observer(me, usize::MAX),
            statements: Statements::remembered(me.uid, instance, saved.instances),
            asked: BTreeSet::new(),
            awaited: BTreeSet::new(),
            liveness: Liveness::default(),
            round: Round::default(),
            telling: Telling::default(),
            excess: Excess::default(),
            wake: None,
            effects: VecDeque::new(),
        };
        if let Some(Kept { log, votes_from, claims, boot }) = saved.kept {
            (takeover.log, takeover.boot) = (Some(log), boot);
            takeover.ballot = Ballot::from_disk(votes_from);
            takeover.open_next(claims);
        }
        takeover
    }

    /// There is a ring, which these peers founded. Does nothing if there was one before.
    pub fn begin(&mut self, seeds: &[PeerName]) {
        if self.log.is_some() || seeds.is_empty() {
            return;
        }
        self.log = Some(Log::new(seeds));
        let alone = seeds == [self.me.name];
        self.ballot = Ballot::from(alone.then_some(0));
        self.open_next(NodeClaims::default());
        self.save();
        self.speak();
    }

    /// In which boot of the host we run. To be said before anything is heard.
    pub fn set_boot(&mut self, boot: &str) {
        if self.boot.as_deref() == Some(boot) {
            self.ballot.trust();
        }
        self.boot = Some(boot.to_owned());
    }

    /// Whether the disk was written in this boot of the host, so that it cannot be an old one.
    pub fn is_of_this_boot(&self) -> bool {
        self.ballot.is_of_this_boot()
    }

    /// It turned out on which instance we run, and all are told.
    pub fn set_instance(&mut self, instance: String) {
        self.statements.own.instance = Some(instance);
        if self.log.is_some() {
            self.speak();
        }
    }

    /// Somebody here wants this peer to be taken over from; ourselves, if we leave: then we decide nothing any more.
    pub fn ask(&mut self, peer: PeerName) {
        self.asked.insert(peer);
    }

    /// Nobody does any more.
    pub fn unask(&mut self, peer: PeerName) {
        self.asked.remove(&peer);
    }

    /// Peers that somebody here wants to be taken over from.
    pub fn asked(&self) -> &BTreeSet<PeerName> {
        &self.asked
    }

    /// Whose statement we, as an heir, want to hear.
    pub fn awaited(&self) -> &BTreeSet<PeerName> {
        &self.awaited
    }

    /// As an heir we want to hear what these peers own.
    pub fn set_awaited(&mut self, peers: BTreeSet<PeerName>) {
        self.awaited = peers;
    }

    /// Takes in what EC2 says of the instances of [`TakeOver::suspects`]; of those that are terminated, or that
    /// it does not know, nothing.
    pub fn hear_ec2(
        &mut self,
        now: Timestamp,
        asked: &BTreeSet<String>,
        found: &BTreeMap<String, InstanceState>,
    ) {
        let turns = self.ec2_turns(now);
        self.liveness.hear_ec2(now, asked, found, &turns, |peer| self.statements.instance(peer));
    }

    /// Our canary is another one now, or none.
    pub fn set_canary(&mut self, canary: Option<Canary>) {
        if self.statements.own.canary != canary {
            self.statements.own.canary = canary;
            self.speak();
        }
    }

    /// The canaries of the others.
    pub fn canaries(&self) -> impl Iterator<Item = (PeerName, Canary)> {
        self.statements.canaries()
    }

    /// What is to be done next.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Whether something is to be done.
    pub fn has_effects(&self) -> bool {
        !self.effects.is_empty()
    }

    /// Whether we had another store before, as others remember.
    pub fn has_forgotten(&self) -> bool {
        self.statements.has_forgotten
    }

    /// When it wants to be considered again.
    pub fn next_wake(&self) -> Option<Timestamp> {
        [self.wake, self.telling.repeat_at, self.ballot.due()].into_iter().flatten().min()
    }

    // ===== what others may want to know =====

    /// The decisions, once there is a ring.
    pub fn log(&self) -> Option<&Log> {
        self.log.as_ref()
    }

    /// Instances that EC2 is to be asked about: of peers that were not heard for a while, of many some at a time, in turns. Electors
    /// ask, and whoever wants to take over.
    pub fn suspects(&self, now: Timestamp) -> BTreeMap<PeerName, String> {
        self.ec2_turns(now).into_iter().collect()
    }

    fn ec2_turns(&self, now: Timestamp) -> Vec<(PeerName, String)> {
        match self.is_elector() || !self.asked.is_empty() {
            true => self.liveness.ec2_turns(now, |peer| self.statements.instance(peer)),
            false => Vec::new(),
        }
    }

    /// The instance of a peer, by its own statement.
    pub fn instance(&self, peer: PeerName) -> Option<&str> {
        self.statements.instance(peer)
    }

    /// The instance of a peer, if EC2 last said that it runs.
    pub fn running(&self, peer: PeerName) -> Option<&str> {
        self.liveness.running.get(&peer).and_then(|_| self.statements.instance(peer))
    }

    /// Whether a peer is to be taken over from of which EC2 said before `since` that its instance runs.
    pub fn doubts(&self, since: Timestamp, view: View) -> bool {
        let mut stale = self.liveness.running.iter().filter(|(_, at)| **at < since).peekable();
        stale.peek().is_some() && {
            let said = self.said_by_those_there(view);
            stale.any(|(peer, _)| said.asks.contains(peer))
        }
    }

    /// Peers that say that they leave.
    pub fn leavers(&self) -> BTreeSet<PeerName> {
        let statements = self.statements.all().iter();
        statements.filter(|(peer, statement)| statement.asks.contains(*peer)).map(|(peer, _)| *peer).collect()
    }

    /// Whether we are an elector that does not vote yet: it is not sure what it promised.
    pub fn abstains(&self) -> bool {
        self.is_elector() && !self.ballot.is_settled()
    }

    /// Whether we wait for others to agree that we leave.
    pub fn is_resigning(&self, reachable: &BTreeSet<PeerName>) -> bool {
        let me = self.me.name;
        let others = reachable.iter().any(|&peer| peer != me && self.statements.has_spoken(peer));
        self.asked.contains(&me) && self.is_elector() && others
    }

    /// Peers that will be taken over from, or could be.
    pub fn coming(&self, now: Timestamp, view: View) -> Vec<Coming> {
        let said = self.said_by_those_there(view);
        let known = self.liveness.unheard.iter().filter(|(peer, _)| said.gone.contains(*peer));
        known
            .map(|(&peer, &since)| Coming {
                peer,
                instance: self.statements.instance(peer).map(str::to_owned),
                grace_left: view.grace.map(|grace| grace.saturating_sub(now.since(since))),
                missing: self.missing(view, peer),
            })
            .collect()
    }

    /// Owners and electors that were not heard for the grace time and that EC2 cannot be asked about, since nobody knows on
    /// which instance they run.
    pub fn untraceable(&self, now: Timestamp, view: View) -> Vec<PeerName> {
        let late = |since: Timestamp| view.grace.is_some_and(|grace| now.since(since) >= grace);
        let unheard = self
            .liveness
            .unheard
            .iter()
            .filter(|(peer, since)| late(**since) && self.instance(**peer).is_none());
        unheard.map(|(peer, _)| *peer).collect()
    }

    /// Electors without whom there is no majority to agree that a peer is dead: all that have not, unless
    /// enough have.
    pub fn missing(&self, view: View, dead: PeerName) -> Vec<PeerName> {
        let Some(log) = &self.log else { return Vec::new() };
        let seconders = self.seconders(view, dead);
        if seconders.len() >= log.majority() {
            return Vec::new();
        }
        log.electors().iter().copied().filter(|elector| !seconders.contains(elector)).collect()
    }
}
