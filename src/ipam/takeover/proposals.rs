//! What to second, what to propose, and when.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Decision, Effect, HEIR_PATIENCE, PAUSE, PAUSE_MAX, REPEAT, SEAT_KEPT, SETTLED_AFTER, SUSPECT_AFTER, TURN,
    TakeOver, View, decisions::SEATS,
};
use crate::{ipam::paxos::NodeClaims, peer::PeerName, time::Timestamp};

/// What we and those who are there say of others, taken together once: of many dead each is looked up in it.
pub(super) struct Hearsay {
    /// Their instances are gone.
    pub gone: BTreeSet<PeerName>,
    /// Somebody wants them to be taken over from.
    pub asks: BTreeSet<PeerName>,
}

impl TakeOver {
    /// Draws the conclusions from all that is known.
    pub fn consider(&mut self, now: Timestamp, view: View) {
        let Some(log) = &self.log else { return };
        let before = log.next();
        self.look_around(now, view);
        self.update_statement(now, view);
        self.vote(now, view);
        self.propose(now, view);
        self.conclude(now);
        if self.log.as_ref().is_some_and(|log| log.next() > before) {
            // Electors may be others now, and one decision opens the next.
            self.update_statement(now, view);
            self.propose(now, view);
            self.conclude(now);
        }
        self.wake = self.next_change(now, view);
    }

    /// Notes who is not heard.
    fn look_around(&mut self, now: Timestamp, view: View) {
        let Some(log) = &self.log else { return };
        self.liveness.look_around(now, self.me.name, log.electors(), view);
        let liveness = &self.liveness;
        let dropped = self.statements.make_room(|peer| liveness.knows(peer));
        self.effects.extend(dropped.into_iter().map(|peer| Effect::SaveInstance(peer, None)));
        if let Some(bound) = self.ballot.wake(now, log.next(), self.paxos.ours()) {
            self.open_again(bound);
        }
    }

    /// Says anew what we stand for, if it is not what we said last.
    fn update_statement(&mut self, now: Timestamp, view: View) {
        let seconds = self.seconds(now, view);
        let asks = self.asked.iter().any(|peer| *peer != self.me.name || self.is_elector());
        let waits = asks || !self.awaited.is_empty();
        let repeats = waits && self.telling.repeat_at.is_none_or(|at| at <= now);
        let awaits_changed = self.statements.own.awaits.is_empty() != self.awaited.is_empty();
        let changed = self.statements.own.gone != self.liveness.gone
            || self.statements.own.asks != self.asked
            || self.statements.own.seconds != seconds
            || awaits_changed;
        if changed || repeats {
            self.statements.own.gone.clone_from(&self.liveness.gone);
            self.statements.own.asks.clone_from(&self.asked);
            self.statements.own.awaits.clone_from(&self.awaited);
            self.statements.own.seconds = seconds;
            self.speak();
            self.telling.repeat_at = Some(now + REPEAT);
        }
        self.telling.repeat_at = self.telling.repeat_at.filter(|_| waits);
    }

    /// Whom we, as an elector, agree to take for dead.
    fn seconds(&self, now: Timestamp, view: View) -> BTreeSet<PeerName> {
        if !self.may_vote() {
            return BTreeSet::new();
        }
        let said = self.said_by_those_there(view);
        let anew = |peer: &PeerName| !self.liveness.decided.contains_key(peer);
        let dead = self.liveness.unheard.iter().filter(|(peer, since)| {
            let asked = said.asks.contains(*peer) && !self.liveness.running.contains_key(*peer);
            let kept = self.has_seat(**peer).then_some(SEAT_KEPT);
            let silence = view.grace.into_iter().chain(kept).min();
            asked || silence.is_some_and(|least| now.since(**since) >= least) && said.gone.contains(*peer)
        });
        dead.map(|(peer, _)| *peer).chain(self.resigning(view)).filter(anew).collect()
    }

    /// Whether a peer is an elector.
    pub fn has_seat(&self, peer: PeerName) -> bool {
        self.log.as_ref().is_some_and(|log| log.electors().contains(&peer))
    }

    /// Whether all that is decided about this peer now is that it is no elector any more.
    fn loses_its_seat_only(&self, view: View, dead: PeerName) -> bool {
        let leaves = view.reachable.contains(&dead) || dead == self.me.name;
        let is_early = view.grace.is_none_or(|grace| grace > SEAT_KEPT);
        leaves || is_early && self.has_seat(dead) && !self.said_by_those_there(view).asks.contains(&dead)
    }

    /// Electors that want to be none any more.
    fn resigning(&self, view: View) -> Vec<PeerName> {
        let electors = self.log.iter().flat_map(|log| log.electors()).copied();
        electors
            .filter(|&peer| match peer == self.me.name {
                true => self.asked.contains(&peer),
                false => {
                    view.reachable.contains(&peer)
                        && self
                            .statements
                            .all()
                            .get(&peer)
                            .is_some_and(|statement| statement.asks.contains(&peer))
                }
            })
            .collect()
    }

    pub(super) fn said_by_those_there(&self, view: View) -> Hearsay {
        // What we would say now, before we have said it.
        let mut said = Hearsay { gone: self.liveness.gone.clone(), asks: self.asked.clone() };
        for (_, statement) in self.statements.all().iter().filter(|(peer, _)| view.reachable.contains(peer)) {
            said.gone.extend(&statement.gone);
            said.asks.extend(&statement.asks);
        }
        said
    }

    /// Electors that are there and take this peer for dead.
    pub(super) fn seconders(&self, view: View, dead: PeerName) -> BTreeSet<PeerName> {
        let electors = self.log.iter().flat_map(|log| log.electors()).copied();
        electors
            .filter(|&elector| match elector == self.me.name {
                true => self.statements.own.seconds.contains(&dead),
                false => {
                    view.reachable.contains(&elector)
                        && self
                            .statements
                            .all()
                            .get(&elector)
                            .is_some_and(|statement| statement.seconds.contains(&dead))
                }
            })
            .collect()
    }

    /// Decides alone that we take over from a peer, and that those who are there decide from now on. Somebody
    /// vouches for it that most electors are gone for good.
    pub fn force(&mut self, now: Timestamp, view: View, dead: PeerName) {
        let heir = self.me.name;
        let Some(log) = &self.log else { return };
        let there = |peer: &PeerName| *peer == heir || view.reachable.contains(peer);
        let leaves: BTreeSet<PeerName> = log.electors().iter().copied().filter(|peer| !there(peer)).collect();
        let stay = log.electors().iter().filter(|peer| there(peer)).count();
        let others = self.candidates(view, dead).into_iter().filter(|peer| !log.electors().contains(peer));
        let mut joins: BTreeSet<PeerName> = others.take(SEATS.saturating_sub(stay)).collect();
        if (stay + joins.len()).is_multiple_of(2) {
            joins.pop_last();
        }
        let decision = Decision { dead, heir, joins, leaves };
        if let Some(log) = &mut self.log {
            log.force(heir, decision.clone());
            // Nobody has promised anything about the next one.
            self.ballot.begin_at(log.next());
        }
        self.go_on();
        self.follow(now, decision);
        self.tell();
    }

    // ===== Paxos =====

    /// Whether we are an elector, and are sure of what we promised.
    fn may_vote(&self) -> bool {
        self.paxos.ours().is_some() && !self.ballot.waits()
    }

    /// Votes on what was heard, and tells it.
    fn vote(&mut self, now: Timestamp, view: View) {
        if !self.may_vote() {
            return;
        }
        let ground = self.ground(now, view).unwrap_or_default();
        if self.paxos.think(&ground) {
            self.round.last_progress = Some(now);
            self.save();
            self.tell();
        }
    }

    /// Proposes if there is something to propose and it is our turn.
    fn propose(&mut self, now: Timestamp, view: View) {
        let Some(ground) = self.ground(now, view) else {
            self.round.ready = None;
            return;
        };
        let since = *self.round.ready.get_or_insert(now);
        if self.due(since, view) > now {
            return;
        }
        self.round.attempts = self.round.attempts.saturating_add(1);
        self.round.last_progress = Some(now);
        self.paxos.propose(&ground);
        self.save();
        self.tell();
    }

    /// When it is our turn, as things stand.
    fn due(&self, since: Timestamp, view: View) -> Timestamp {
        let electors = self.log.iter().flat_map(|log| log.electors());
        let lower = electors.filter(|peer| **peer < self.me.name && view.reachable.contains(peer)).count();
        let turn = TURN.saturating_mul(lower as u32);
        if self.round.attempts == 0 && !self.paxos.is_under_way() {
            return since + turn;
        }
        let pause = PAUSE.saturating_mul(1 << self.round.attempts.min(8)).min(PAUSE_MAX);
        self.round.last_progress.map_or(since, |at| at.max(since)) + pause + turn
    }

    /// What there is to propose: about the lowest peer that a majority takes for dead, or to fill seats.
    fn ground(&self, now: Timestamp, view: View) -> Option<Decision> {
        let log = self.log.as_ref().filter(|_| self.may_vote())?;
        let agreed = |dead: &PeerName| self.seconders(view, *dead).len() >= log.majority();
        let Some(dead) = self.statements.own.seconds.iter().copied().find(agreed) else {
            return self.more_electors(now, view);
        };
        let heir = match self.loses_its_seat_only(view, dead) {
            true => PeerName::UNKNOWN,
            false => self.heir(view, dead),
        };
        let (joins, leaves) = self.seats(view, dead, |_| true);
        let decision = Decision { dead, heir, joins, leaves };
        (!log.electors_after(&decision).is_empty()).then_some(decision)
    }

    /// Where there are few electors, peers that have been there for a while become some.
    fn more_electors(&self, now: Timestamp, view: View) -> Option<Decision> {
        let nobody = PeerName::UNKNOWN;
        let settled =
            |peer| self.liveness.heard.get(&peer).is_some_and(|since| now.since(*since) >= SETTLED_AFTER);
        let (joins, leaves) = self.seats(view, nobody, settled);
        (!joins.is_empty()).then_some(Decision { dead: nobody, heir: nobody, joins, leaves })
    }

    /// Who joins the electors and who leaves them when `dead` is gone. They shall be [`SEATS`], if so many are
    /// there, and an odd number: of four no more may be lost than of three, and of two none.
    fn seats(
        &self,
        view: View,
        dead: PeerName,
        suits: impl Fn(PeerName) -> bool,
    ) -> (BTreeSet<PeerName>, BTreeSet<PeerName>) {
        let electors = self.log.iter().flat_map(|log| log.electors()).copied();
        let left: BTreeSet<PeerName> = electors.filter(|elector| *elector != dead).collect();
        let new = self.candidates(view, dead).into_iter().filter(|peer| !left.contains(peer) && suits(*peer));
        let mut joins: BTreeSet<PeerName> = new.take(SEATS.saturating_sub(left.len())).collect();
        if (left.len() + joins.len()) % 2 == 1 || left.len() + joins.len() == 0 {
            return (joins, BTreeSet::new());
        }
        if joins.pop_last().is_some() || dead == PeerName::UNKNOWN {
            return (joins, BTreeSet::new());
        }
        let others = left.into_iter().filter(|elector| *elector != self.me.name);
        let spared = others.max_by_key(|elector| (!view.reachable.contains(elector), *elector));
        (joins, spared.into_iter().collect())
    }

    /// Who takes over: whoever asked for it, otherwise whoever owns least.
    fn heir(&self, view: View, dead: PeerName) -> PeerName {
        let asks = |peer: PeerName| match peer == self.me.name {
            true => self.asked.contains(&dead),
            false => self.statements.all().get(&peer).is_some_and(|statement| statement.asks.contains(&dead)),
        };
        let owned = |peer: PeerName| view.owners.get(&peer).copied().unwrap_or(0);
        let candidates = self.candidates(view, dead);
        let best = candidates.into_iter().min_by_key(|&peer| (!asks(peer), owned(peer), peer));
        best.unwrap_or(self.me.name)
    }

    /// Peers that are there, speak as we do, and stay.
    fn candidates(&self, view: View, dead: PeerName) -> Vec<PeerName> {
        let stays = |peer: &PeerName| match *peer == self.me.name {
            true => !self.asked.contains(peer),
            false => self.statements.all().get(peer).is_some_and(|statement| !statement.asks.contains(peer)),
        };
        let there = view.reachable.iter().copied().filter(|&peer| self.statements.has_spoken(peer));
        let all: BTreeSet<PeerName> = there.chain([self.me.name]).collect();
        all.into_iter().filter(|peer| *peer != dead && stays(peer)).collect()
    }

    /// If it can be told what was decided, goes on with the next decision.
    fn conclude(&mut self, now: Timestamp) {
        let Some(decision) = self.paxos.chosen().cloned() else { return };
        let takes_part = self.takes_part(now);
        let Some(log) = &mut self.log else { return };
        log.add(decision.clone());
        self.go_on();
        match takes_part {
            true => self.follow(now, decision),
            false => self.note(now, &decision),
        }
        self.tell();
    }

    fn go_on(&mut self) {
        self.ballot.go_on();
        self.open_next(NodeClaims::default());
        self.save();
    }

    /// When something changes by itself: a peer becomes suspect, its grace is over, it is our turn.
    fn next_change(&self, now: Timestamp, view: View) -> Option<Timestamp> {
        let unheard = self.liveness.unheard.values();
        let spans: BTreeSet<Duration> = view.grace.into_iter().chain([SUSPECT_AFTER, SEAT_KEPT]).collect();
        let over = unheard.flat_map(|since| spans.iter().map(|span| *since + *span));
        let again = self.liveness.decided.values().map(|at| *at + HEIR_PATIENCE);
        let settled = self.liveness.heard.values().map(|since| *since + SETTLED_AFTER);
        let turn = self.round.ready.map(|since| self.due(since, view));
        over.chain(again).chain(settled).chain(turn).filter(|at| *at > now).min()
    }
}
