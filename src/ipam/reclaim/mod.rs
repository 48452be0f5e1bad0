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
//!                       (words)     a majority          └─► the others go on with the next one
//! ```
//!
//! An elector seconds what it can vouch for: that it does not hear the peer itself, for the grace time if
//! only EC2's word stands for it. Once a majority has, the lowest of them proposes. Whoever is taken for
//! dead and is not loses what it does not use, and nothing else: see [`super::merge`].
//!
//! An heir takes over if it heard how it was chosen. Whoever hears of it later, having been away, cut off, or without a store, takes
//! over nothing: what became of the dead since it does not know, and they are decided about again if they still own something.

mod ballot;
pub mod log;
mod judge;
mod message;
mod words;

#[cfg(test)]
mod tests;

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use self::{
    ballot::Ballot,
    message::Said,
    words::{NOT_SAID, Word, Words},
};
use super::{
    excess::Excess,
    paxos::{Claims, NodeClaims, NodeId, Paxos},
};
use crate::{counter::Believed, digest::Digest, peer::PeerName, probe::Canary, time::Timestamp};

pub use self::{
    log::{Decision, Log},
    message::Unreadable,
};

/// How long a peer was not heard before EC2 is asked about it.
const SUSPECT_AFTER: Duration = Duration::from_secs(10);
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
/// Words of others that are repeated at once.
const RETOLD: usize = 64;
/// Bytes of words of others in one message: with all that was decided and promised, it fits into a frame.
const WORDS_LEN_MAX: usize = 3 << 20;
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
pub struct Reclaim {
    me: NodeId,
    boot: Option<String>,
    log: Option<Log>,
    /// How far others are believed to have come.
    believed: Believed,
    ballot: Ballot,
    paxos: Paxos<Decision>,
    ours: Word,
    /// Others know a word that we said before our store was lost.
    has_forgotten: bool,
    words: Words,
    /// Peers that somebody here wants to be taken over from.
    asked: BTreeSet<PeerName>,
    /// Peers of which we, as an heir, want to hear.
    awaited: BTreeSet<PeerName>,
    /// Owners and electors that are not heard, and since when.
    unheard: BTreeMap<PeerName, Timestamp>,
    /// Who is heard, and since when.
    heard: BTreeMap<PeerName, Timestamp>,
    /// What EC2 said of the instances of those who are not, and when.
    gone: BTreeSet<PeerName>,
    running: BTreeMap<PeerName, Timestamp>,
    /// The last one that EC2 was asked about.
    ec2_turn: Option<PeerName>,
    /// When the last decision about a peer was learned.
    decided: BTreeMap<PeerName, Timestamp>,
    /// Since when there has been something to propose.
    ready: Option<Timestamp>,
    /// When there was the last news of the next decision; never, if there was none since the last one, or our start.
    last_progress: Option<Timestamp>,
    attempts: u32,
    repeat_at: Option<Timestamp>,
    /// The last peer whose word was told again.
    retold: Option<PeerName>,
    excess: Excess,
    /// Something changes by itself then.
    wake: Option<Timestamp>,
    effects: VecDeque<Effect>,
}

impl Reclaim {
    /// One that goes on from what was saved.
    pub fn new(me: NodeId, instance: Option<String>, saved: Saved) -> Reclaim {
        let mut reclaim = Reclaim {
            me,
            boot: None,
            log: None,
            believed: Believed::default(),
            ballot: Ballot::default(),
            paxos: Paxos::observer(me, usize::MAX),
            ours: Word { number: 1, store: me.uid, instance, ..Word::default() },
            has_forgotten: false,
            words: Words::remembered(saved.instances),
            asked: BTreeSet::new(),
            awaited: BTreeSet::new(),
            unheard: BTreeMap::new(),
            heard: BTreeMap::new(),
            gone: BTreeSet::new(),
            running: BTreeMap::new(),
            ec2_turn: None,
            decided: BTreeMap::new(),
            ready: None,
            last_progress: None,
            attempts: 0,
            repeat_at: None,
            retold: None,
            excess: Excess::default(),
            wake: None,
            effects: VecDeque::new(),
        };
        if let Some(Kept { log, votes_from, claims, boot }) = saved.kept {
            (reclaim.log, reclaim.boot) = (Some(log), boot);
            reclaim.ballot = Ballot::from_disk(votes_from);
            reclaim.open_next(claims);
        }
        reclaim
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

    /// It turned out on which instance we run, and all are told.
    pub fn set_instance(&mut self, instance: String) {
        self.ours.instance = Some(instance);
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

    /// Whose word we, as an heir, want to hear.
    pub fn awaited(&self) -> &BTreeSet<PeerName> {
        &self.awaited
    }

    /// As an heir we want to hear what these peers own.
    pub fn set_awaited(&mut self, peers: BTreeSet<PeerName>) {
        self.awaited = peers;
    }

    /// Takes in what EC2 says of the instances of [`Reclaim::suspects`]; of those that are terminated, or that
    /// it does not know, nothing.
    pub fn hear_ec2(
        &mut self,
        now: Timestamp,
        asked: &BTreeSet<String>,
        found: &BTreeMap<String, InstanceState>,
    ) {
        let asked_last = self.ec2_turns(now).into_iter().rfind(|(_, instance)| asked.contains(instance));
        let asked_last = asked_last.map(|(peer, _)| peer).or(self.ec2_turn);
        let suspects: Vec<PeerName> = self.unheard.keys().copied().collect();
        for peer in suspects {
            let Some(instance) = self.words.instance(peer).filter(|one| asked.contains(*one)) else {
                continue;
            };
            let state = found.get(instance).copied();
            self.running.remove(&peer);
            self.gone.remove(&peer);
            match state {
                Some(InstanceState::Running) => drop(self.running.insert(peer, now)),
                Some(InstanceState::Stopped) => {}
                None => drop(self.gone.insert(peer)),
            }
        }
        self.ec2_turn = asked_last;
    }

    /// Our canary is another one now, or none.
    pub fn set_canary(&mut self, canary: Option<Canary>) {
        if self.ours.canary != canary {
            self.ours.canary = canary;
            self.speak();
        }
    }

    /// The canaries of the others.
    pub fn canaries(&self) -> impl Iterator<Item = (PeerName, Canary)> {
        self.words.canaries()
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
        self.has_forgotten
    }

    /// When it wants to be considered again.
    pub fn next_wake(&self) -> Option<Timestamp> {
        [self.wake, self.repeat_at, self.ballot.due()].into_iter().flatten().min()
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
        if !self.is_elector() && self.asked.is_empty() {
            return Vec::new();
        }
        let last = self.ec2_turn.unwrap_or(PeerName::UNKNOWN);
        let after = self.unheard.range((Bound::Excluded(last), Bound::Unbounded));
        let late =
            after.chain(self.unheard.range(..=last)).filter(|(_, since)| now.since(**since) >= SUSPECT_AFTER);
        let unknown = late.map(|(peer, _)| *peer).filter(|peer| !self.gone.contains(peer));
        unknown.filter_map(|peer| Some((peer, self.instance(peer)?.to_owned()))).take(SUSPECTS_MAX).collect()
    }

    /// The instance of a peer, by its own word.
    pub fn instance(&self, peer: PeerName) -> Option<&str> {
        self.words.instance(peer)
    }

    /// The instance of a peer, if EC2 last said that it runs.
    pub fn running(&self, peer: PeerName) -> Option<&str> {
        self.running.get(&peer).and_then(|_| self.words.instance(peer))
    }

    /// Whether a peer is to be taken over from of which EC2 said before `since` that its instance runs.
    pub fn doubts(&self, since: Timestamp, view: View) -> bool {
        let mut stale = self.running.iter().filter(|(_, at)| **at < since).peekable();
        stale.peek().is_some() && {
            let said = self.said_by_those_there(view);
            stale.any(|(peer, _)| said.asks.contains(peer))
        }
    }

    /// Peers that say that they leave.
    pub fn leavers(&self) -> BTreeSet<PeerName> {
        let words = self.words.all().iter();
        words.filter(|(peer, word)| word.asks.contains(*peer)).map(|(peer, _)| *peer).collect()
    }

    /// Whether we are an elector that does not vote yet: it is not sure what it promised.
    pub fn abstains(&self) -> bool {
        self.is_elector() && !self.ballot.is_settled()
    }

    /// Whether we wait for others to agree that we leave.
    pub fn is_resigning(&self, reachable: &BTreeSet<PeerName>) -> bool {
        let me = self.me.name;
        let others = reachable.iter().any(|&peer| peer != me && self.words.has_spoken(peer));
        self.asked.contains(&me) && self.is_elector() && others
    }

    /// Peers that will be taken over from, or could be.
    pub fn coming(&self, now: Timestamp, view: View) -> Vec<Coming> {
        let said = self.said_by_those_there(view);
        let known = self.unheard.iter().filter(|(peer, _)| said.gone.contains(*peer));
        known
            .map(|(&peer, &since)| Coming {
                peer,
                instance: self.words.instance(peer).map(str::to_owned),
                grace_left: view.grace.map(|grace| grace.saturating_sub(now.since(since))),
                missing: self.missing(view, peer),
            })
            .collect()
    }

    /// Owners and electors that were not heard for the grace time and that EC2 cannot be asked about, since nobody knows on
    /// which instance they run.
    pub fn untraceable(&self, now: Timestamp, view: View) -> Vec<PeerName> {
        let late = |since: Timestamp| view.grace.is_some_and(|grace| now.since(since) >= grace);
        let unheard =
            self.unheard.iter().filter(|(peer, since)| late(**since) && self.instance(**peer).is_none());
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

    // ===== what is received and sent =====

    /// Takes what a peer said. Returns what of it is to be passed on.
    pub fn hear(
        &mut self,
        now: Timestamp,
        from: PeerName,
        payload: &[u8],
    ) -> Result<Option<Vec<u8>>, Unreadable> {
        let said = Said::decode(payload)?;
        let claims = said.claims();
        let decided = said.log.is_some_and(|theirs| self.hear_log(now, from, theirs, &claims));
        self.excess.note(now, from, "promises about the dead", self.paxos.take_passed_over());
        let words = self.hear_words(said.words);
        self.excess.note(now, from, "words about the dead", self.words.take_passed_over());
        let told = fitting(words.iter()).map(|(peer, word)| (*peer, word.clone()));
        Ok((decided || !words.is_empty()).then(|| self.said(told.collect())))
    }

    /// What peers said beyond all bounds.
    pub fn excess(&self) -> &Excess {
        &self.excess
    }

    /// Returns whether there was news.
    fn hear_log(&mut self, now: Timestamp, from: PeerName, theirs: Log, claims: &Claims<Decision>) -> bool {
        let Some(log) = self.log.as_ref() else { return false };
        let reaches = theirs.next() <= self.believed.up_to(log.next());
        if !reaches {
            self.believed.refuse(log.next());
        }
        if !reaches || !theirs.is_believable(log) {
            self.excess.note(now, from, "decisions about the dead, of another cluster maybe,", 1);
            return false;
        }
        let is_ahead = match theirs.order(log) {
            Ordering::Less => {
                if from != self.me.name {
                    let all = self.all_known();
                    self.effects.push_back(Effect::Tell(from, all));
                }
                return false;
            }
            Ordering::Equal => false,
            Ordering::Greater => true,
        };
        if is_ahead {
            self.learn(now, theirs);
        }
        let progress = self.find_out_whether_we_vote(now, from, claims);
        if progress {
            self.last_progress = Some(now);
        }
        progress || is_ahead
    }

    /// Returns the words that were news.
    fn hear_words(&mut self, words: BTreeMap<PeerName, Word>) -> BTreeMap<PeerName, Word> {
        let mut news = BTreeMap::new();
        for (peer, word) in words {
            if peer == self.me.name {
                self.has_forgotten |= ![NOT_SAID, self.ours.store].contains(&word.store);
                let is_believed = self.words.believes(peer, self.ours.number, &word);
                // A word of a former life that is still passed on: ours goes above it.
                if word.number >= self.ours.number && word != self.ours && is_believed {
                    self.ours.number = word.number;
                    self.speak();
                }
                continue;
            }
            let instance = self.words.instance(peer).map(str::to_owned);
            if !self.words.hear(peer, word.clone()) {
                continue;
            }
            if word.instance.is_some() && word.instance != instance {
                self.effects.push_back(Effect::SaveInstance(peer, word.instance.clone()));
            }
            if word.awaits.contains(&self.me.name) {
                self.effects.push_back(Effect::Awaited(peer));
            }
            news.insert(peer, word);
        }
        news
    }

    /// Others have decided. If that was what we heard them vote about, it is as if we had heard the last vote.
    fn learn(&mut self, now: Timestamp, theirs: Log) {
        let takes_part = self.takes_part(now);
        let Some(log) = &mut self.log else { return };
        let before = log.next();
        let missed = log.catch_up(theirs);
        let number = log.next();
        self.ballot.move_on(before, number);
        self.open_next(NodeClaims::default());
        self.save();
        let is_next = number == before + 1;
        for decision in missed {
            match takes_part && is_next {
                true => self.follow(now, decision),
                false => self.note(now, &decision),
            }
        }
    }

    /// Whether we hear how the next decision is taken: votes came in just now, and a majority of those who vote is there.
    fn takes_part(&self, now: Timestamp) -> bool {
        let Some(log) = &self.log else { return false };
        let is_there = |peer: &&PeerName| **peer == self.me.name || self.heard.contains_key(*peer);
        let is_recent = self.last_progress.is_some_and(|at| now.since(at) < HEIR_PATIENCE);
        is_recent
            && self.paxos.is_under_way()
            && log.electors().iter().filter(is_there).count() >= log.majority()
    }

    /// Does what follows from a decision.
    fn follow(&mut self, now: Timestamp, decision: Decision) {
        self.note(now, &decision);
        if decision.dead != self.me.name {
            self.asked.remove(&decision.dead);
        }
        self.effects.push_back(Effect::Decided(decision));
    }

    /// Its heir has some time to take over before the same peer is decided about again.
    fn note(&mut self, now: Timestamp, decision: &Decision) {
        self.decided.insert(decision.dead, now);
        self.gone.remove(&decision.dead);
    }

    /// Begins with the next decision, bound by what we promised about it.
    fn open_next(&mut self, claims: NodeClaims<Decision>) {
        let Some(log) = &self.log else { return };
        self.paxos = match self.ballot.votes(self.me.name, log) {
            true => Paxos::elector(self.me, log.majority(), claims),
            false => Paxos::observer(self.me, log.majority()),
        };
        (self.ready, self.attempts, self.last_progress) = (None, 0, None);
    }

    /// Somebody else knows of the same decision to come, and of promises about it.
    fn find_out_whether_we_vote(
        &mut self,
        now: Timestamp,
        from: PeerName,
        claims: &Claims<Decision>,
    ) -> bool {
        if let Some(told) = claims.get(&self.me).filter(|told| self.paxos.believes(told)) {
            let ours = self.paxos.ours();
            let is_new = |ours: &NodeClaims<_>| told.promise > ours.promise || told.accepted > ours.accepted;
            if ours.is_some_and(is_new) {
                self.doubt();
                self.effects.push_back(Effect::SetBack);
            }
            self.ballot.remind(told);
        }
        // What they promised binds us before we vote.
        let progress = self.paxos.update(claims);
        let is_clear = claims.is_empty() && !self.paxos.is_under_way();
        let Some(log) = &self.log else { return progress };
        if self.ballot.hear(now, (self.me.name, from), log, is_clear) {
            let bound = self.paxos.ours().cloned().unwrap_or_default();
            self.open_again(bound);
        }
        progress
    }

    /// Our store was set back: we do not remember all that we promised.
    pub fn doubt(&mut self) {
        if let Some(ours) = self.paxos.ours().cloned() {
            self.ballot.remind(&ours);
        }
        if self.ballot.doubt() {
            self.open_again(NodeClaims::default());
        }
    }

    /// Goes on with the same decision, bound by this.
    fn open_again(&mut self, bound: NodeClaims<Decision>) {
        let (before, at) = (self.paxos.clone(), self.last_progress);
        self.open_next(bound);
        self.paxos.go_on_from(&before);
        self.last_progress = at;
        self.save();
    }

    fn is_elector(&self) -> bool {
        self.log.as_ref().is_some_and(|log| log.electors().contains(&self.me.name))
    }

    fn save(&mut self) {
        if let Some(log) = self.log.clone() {
            let claims = self.paxos.ours().cloned().unwrap_or_default();
            let boot = self.boot.clone().filter(|_| self.ballot.is_settled());
            let kept = Kept { log, votes_from: self.ballot.known_from(), claims, boot };
            self.effects.push_back(Effect::Save(kept));
        }
    }

    /// Makes our word the latest, and tells it.
    fn speak(&mut self) {
        self.ours.number = self.ours.number.saturating_add(1);
        self.tell();
    }

    fn tell(&mut self) {
        let said = self.said(self.own_word());
        self.effects.push_back(Effect::Broadcast(said));
    }

    /// What we say of ourselves and of the next decision, and the words of some others in turn, for whoever may have missed
    /// them: a peer that is gone cannot say again on which instance it ran.
    pub fn summary(&mut self) -> Vec<u8> {
        let words = self.in_turn(RETOLD, |peer| self.matters(peer));
        self.retold = words.last().map(|(peer, _)| *peer);
        self.said(words.into_iter().chain(self.own_word()).collect())
    }

    /// All we know, for whoever may know less. Words that find no room in one message have their turn in the next.
    pub fn all_known(&mut self) -> Vec<u8> {
        let words = self.in_turn(usize::MAX, |_| true);
        if words.len() < self.words.all().len() {
            self.retold = words.last().map(|(peer, _)| *peer);
        }
        self.said(words.into_iter().chain(self.own_word()).collect())
    }

    /// A digest of all we know: the same where the same is known of what was decided and promised, and of those who are there or
    /// matter still the same words.
    pub fn digest(&self) -> Digest {
        let spoken =
            self.words.all().iter().filter(|(peer, word)| word.number > NOT_SAID && self.matters(peer));
        let numbers =
            spoken.map(|(peer, word)| (*peer, word.number)).chain([(self.me.name, self.ours.number)]);
        let numbers: BTreeMap<PeerName, u64> = numbers.collect();
        let numbers =
            numbers.into_iter().flat_map(|(peer, number)| [peer.as_u64(), number].map(u64::to_be_bytes));
        let agreed = Said::new(self.log.as_ref(), self.paxos.knows(), BTreeMap::new()).encode();
        Digest::of(&numbers.flatten().chain(agreed).collect::<Vec<u8>>())
    }

    /// A neighbour knows just what we know, as [`Reclaim::digest`] says.
    pub fn hear_same(&mut self, now: Timestamp, from: PeerName) {
        if self.ballot.is_settled() {
            return;
        }
        let claims = self.paxos.knows().clone();
        self.find_out_whether_we_vote(now, from, &claims);
    }

    /// So many words of others, from where the last ones ended, as far as there is room for them.
    fn in_turn(&self, count: usize, is_meant: impl Fn(&PeerName) -> bool) -> Vec<(PeerName, Word)> {
        let after = |peer: &PeerName| self.retold.is_some_and(|last| *peer > last);
        let words = self.words.all().iter().filter(|(peer, _)| is_meant(peer));
        let (later, first): (Vec<_>, Vec<_>) = words.partition(|(peer, _)| after(peer));
        let told = fitting(later.into_iter().chain(first)).take(count);
        told.map(|(peer, word)| (*peer, word.clone())).collect()
    }

    /// Whether a peer is there, or is missing though it owns something or decides.
    fn matters(&self, peer: &PeerName) -> bool {
        self.heard.contains_key(peer) || self.unheard.contains_key(peer)
    }

    fn own_word(&self) -> BTreeMap<PeerName, Word> {
        BTreeMap::from([(self.me.name, self.ours.clone().cut())])
    }

    fn said(&self, words: BTreeMap<PeerName, Word>) -> Vec<u8> {
        Said::new(self.log.as_ref(), self.paxos.knows(), words).encode()
    }
}

/// As many words as there is room for in one message.
fn fitting<'a>(
    words: impl Iterator<Item = (&'a PeerName, &'a Word)>,
) -> impl Iterator<Item = (&'a PeerName, &'a Word)> {
    let mut len = 0;
    words.take_while(move |(_, word)| {
        len += word.len();
        len <= WORDS_LEN_MAX
    })
}
