//! What peers tell each other about the dead, and what follows from what is heard.

use std::{cmp::Ordering, collections::BTreeMap};

use super::{
    Effect, HEIR_PATIENCE, Kept, RETOLD, Round, STATEMENTS_LEN_MAX, TakeOver, Unreadable,
    decisions::{Decision, Log},
    message::Said,
    statements::{NOT_SAID, Statement},
};
use crate::{
    digest::Digest,
    ipam::{
        excess::Excess,
        paxos::{Claims, NodeClaims, Paxos},
    },
    peer::PeerName,
    time::Timestamp,
};

impl TakeOver {
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
        let statements = self.hear_statements(said.statements);
        self.excess.note(now, from, "words about the dead", self.statements.take_passed_over());
        let told = fitting(statements.iter()).map(|(peer, statement)| (*peer, statement.clone()));
        Ok((decided || !statements.is_empty()).then(|| self.said(told.collect())))
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
            self.round.last_progress = Some(now);
        }
        progress || is_ahead
    }

    /// Returns the statements that were news.
    fn hear_statements(
        &mut self,
        statements: BTreeMap<PeerName, Statement>,
    ) -> BTreeMap<PeerName, Statement> {
        let mut news = BTreeMap::new();
        for (peer, statement) in statements {
            if peer == self.me.name {
                self.statements.has_forgotten |=
                    ![NOT_SAID, self.statements.own.store].contains(&statement.store);
                let is_believed = self.statements.believes(peer, self.statements.own.number, &statement);
                // A statement of a former life that is still passed on: ours goes above it.
                if statement.number >= self.statements.own.number
                    && statement != self.statements.own
                    && is_believed
                {
                    self.statements.own.number = statement.number;
                    self.speak();
                }
                continue;
            }
            let instance = self.statements.instance(peer).map(str::to_owned);
            if !self.statements.hear(peer, statement.clone()) {
                continue;
            }
            if statement.instance.is_some() && statement.instance != instance {
                self.effects.push_back(Effect::SaveInstance(peer, statement.instance.clone()));
            }
            if statement.awaits.contains(&self.me.name) {
                self.effects.push_back(Effect::Awaited(peer));
            }
            news.insert(peer, statement);
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
    pub(super) fn takes_part(&self, now: Timestamp) -> bool {
        let Some(log) = &self.log else { return false };
        let is_there = |peer: &&PeerName| **peer == self.me.name || self.liveness.heard.contains_key(*peer);
        let is_recent = self.round.last_progress.is_some_and(|at| now.since(at) < HEIR_PATIENCE);
        is_recent
            && self.paxos.is_under_way()
            && log.electors().iter().filter(is_there).count() >= log.majority()
    }

    /// Does what follows from a decision.
    pub(super) fn follow(&mut self, now: Timestamp, decision: Decision) {
        self.note(now, &decision);
        if decision.dead != self.me.name && decision.is_take_over() {
            self.asked.remove(&decision.dead);
        }
        self.effects.push_back(Effect::Decided(decision));
    }

    /// Its heir has some time to take over before the same peer is decided about again.
    pub(super) fn note(&mut self, now: Timestamp, decision: &Decision) {
        if decision.is_take_over() {
            self.liveness.note_decided(now, decision.dead);
        }
    }

    /// Begins with the next decision, bound by what we promised about it.
    pub(super) fn open_next(&mut self, claims: NodeClaims<Decision>) {
        let Some(log) = &self.log else { return };
        self.paxos = match self.ballot.votes(self.me.name, log) {
            true => Paxos::elector(self.me, log.majority(), claims),
            false => Paxos::observer(self.me, log.majority()),
        };
        self.round = Round::default();
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
    pub(super) fn open_again(&mut self, bound: NodeClaims<Decision>) {
        let (before, at) = (self.paxos.clone(), self.round.last_progress);
        self.open_next(bound);
        self.paxos.go_on_from(&before);
        self.round.last_progress = at;
        self.save();
    }

    pub(super) fn is_elector(&self) -> bool {
        self.has_seat(self.me.name)
    }

    pub(super) fn save(&mut self) {
        if let Some(log) = self.log.clone() {
            let claims = self.paxos.ours().cloned().unwrap_or_default();
            let boot = self.boot.clone().filter(|_| self.ballot.is_settled());
            let kept = Kept { log, votes_from: self.ballot.known_from(), claims, boot };
            self.effects.push_back(Effect::Save(kept));
        }
    }

    /// Makes our statement the latest, and tells it.
    pub(super) fn speak(&mut self) {
        self.statements.own.number = self.statements.own.number.saturating_add(1);
        self.tell();
    }

    pub(super) fn tell(&mut self) {
        let said = self.said(self.own_statement());
        self.effects.push_back(Effect::Broadcast(said));
    }

    /// What we say of ourselves and of the next decision, and the statements of some others in turn, for whoever may have missed
    /// them: a peer that is gone cannot say again on which instance it ran.
    pub fn summary(&mut self) -> Vec<u8> {
        let statements = self.in_turn(RETOLD, |peer| self.matters(peer));
        self.telling.retold = statements.last().map(|(peer, _)| *peer);
        self.said(statements.into_iter().chain(self.own_statement()).collect())
    }

    /// All we know, for whoever may know less. Statements that find no room in one message have their turn in the next.
    pub fn all_known(&mut self) -> Vec<u8> {
        let statements = self.in_turn(usize::MAX, |_| true);
        if statements.len() < self.statements.all().len() {
            self.telling.retold = statements.last().map(|(peer, _)| *peer);
        }
        self.said(statements.into_iter().chain(self.own_statement()).collect())
    }

    /// A digest of all we know: the same where the same is known of what was decided and promised, and of those who are there or
    /// matter still the same statements.
    pub fn digest(&self) -> Digest {
        let spoken = self
            .statements
            .all()
            .iter()
            .filter(|(peer, statement)| statement.number > NOT_SAID && self.matters(peer));
        let numbers = spoken
            .map(|(peer, statement)| (*peer, statement.number))
            .chain([(self.me.name, self.statements.own.number)]);
        let numbers: BTreeMap<PeerName, u64> = numbers.collect();
        let numbers =
            numbers.into_iter().flat_map(|(peer, number)| [peer.as_u64(), number].map(u64::to_be_bytes));
        let agreed = Said::new(self.log.as_ref(), self.paxos.knows(), BTreeMap::new()).encode();
        Digest::of(&numbers.flatten().chain(agreed).collect::<Vec<u8>>())
    }

    /// A neighbour knows just what we know, as [`TakeOver::digest`] says.
    pub fn hear_same(&mut self, now: Timestamp, from: PeerName) {
        if self.ballot.is_settled() {
            return;
        }
        let claims = self.paxos.knows().clone();
        self.find_out_whether_we_vote(now, from, &claims);
    }

    /// So many statements of others, from where the last ones ended, as far as there is room for them.
    fn in_turn(&self, count: usize, is_meant: impl Fn(&PeerName) -> bool) -> Vec<(PeerName, Statement)> {
        let after = |peer: &PeerName| self.telling.retold.is_some_and(|last| *peer > last);
        let statements = self.statements.all().iter().filter(|(peer, _)| is_meant(peer));
        let (later, first): (Vec<_>, Vec<_>) = statements.partition(|(peer, _)| after(peer));
        let told = fitting(later.into_iter().chain(first)).take(count);
        told.map(|(peer, statement)| (*peer, statement.clone())).collect()
    }

    /// Whether a peer is there, or is missing though it owns something or decides.
    fn matters(&self, peer: &PeerName) -> bool {
        self.liveness.knows(peer)
    }

    fn own_statement(&self) -> BTreeMap<PeerName, Statement> {
        BTreeMap::from([(self.me.name, self.statements.own.clone().cut())])
    }

    fn said(&self, statements: BTreeMap<PeerName, Statement>) -> Vec<u8> {
        Said::new(self.log.as_ref(), self.paxos.knows(), statements).encode()
    }
}

/// As many statements as there is room for in one message.
fn fitting<'a>(
    statements: impl Iterator<Item = (&'a PeerName, &'a Statement)>,
) -> impl Iterator<Item = (&'a PeerName, &'a Statement)> {
    let mut len = 0;
    statements.take_while(move |(_, statement)| {
        len += statement.len();
        len <= STATEMENTS_LEN_MAX
    })
}
