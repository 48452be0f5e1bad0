//! A configuration that is tried: the former one comes back unless somebody confirms the new one in
//! time, and sooner when a peer that was reachable is lost for longer than a restart takes.
//!
//! The disk has the former one before the new one is adopted, and is told when it is confirmed. So a
//! daemon that ends meanwhile comes back with the former one.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Node,
    io::Output,
    memory::Write,
    order::Order,
    out::Effect,
    overview::Overview,
    pending::Pending,
    request::{Refusal, RefusalKind, RequestId, Response},
};
use crate::{config::Config, peer::PeerName, time::Timestamp};

/// How long a peer may be lost: one that is started anew, by an upgrade or by whoever watches over it, is no
/// fault of the configuration, and open connections outlast it.
const GRACE: Duration = Duration::from_secs(5);

/// What is being tried, if anything is.
#[derive(Debug)]
pub(super) struct Trials {
    /// The disk has a configuration that nobody has confirmed.
    kept: bool,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// What is in force was confirmed, or never tried.
    Idle,
    /// The disk is being told what would come back.
    Preparing,
    Trying(Box<Trying>),
}

#[derive(Debug)]
struct Trying {
    former: Config,
    until: Timestamp,
    /// Who was reachable when it began.
    peers: BTreeSet<PeerName>,
    /// Those of them who are not now, and since when.
    lost: BTreeMap<PeerName, Timestamp>,
    /// Who waits until all is done.
    asked: RequestId,
}

/// Why a trial ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Lost(PeerName),
    Unconfirmed,
}

impl Trials {
    pub(super) fn new(kept: bool) -> Trials {
        Trials { kept, stage: Stage::Idle }
    }

    fn trying(&self) -> Option<&Trying> {
        match &self.stage {
            Stage::Idle | Stage::Preparing => None,
            Stage::Trying(trying) => Some(trying),
        }
    }

    /// When to judge next, if nothing happens before.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        let trying = self.trying()?;
        trying.lost.values().map(|since| *since + GRACE).chain([trying.until]).min()
    }
}

impl Trying {
    /// Takes in who can be reached now.
    fn judge(&mut self, now: Timestamp, is_reachable: impl Fn(PeerName) -> bool) -> Option<End> {
        self.lost.retain(|peer, _| !is_reachable(*peer));
        for peer in self.peers.iter().filter(|peer| !is_reachable(**peer)) {
            self.lost.entry(*peer).or_insert(now);
        }
        let lost = self.lost.iter().find(|(_, since)| **since + GRACE <= now);
        match lost {
            Some((peer, _)) => Some(End::Lost(*peer)),
            None => (self.until <= now).then_some(End::Unconfirmed),
        }
    }
}

impl Overview<'_> {
    /// Seconds until the former configuration comes back.
    pub(super) fn trial_left(&self) -> Option<u64> {
        self.pending.trials.trying().map(|trying| trying.until.since(self.facts.now).as_secs())
    }
}

impl Pending {
    /// Nothing else is adopted while something is tried: what would come back then?
    pub(super) fn is_trying(&self) -> Option<Refusal> {
        let (what, hint) = match self.trials.stage {
            Stage::Idle => return None,
            Stage::Preparing => ("a configuration is about to be tried", "wait for it: see `weavers status`"),
            Stage::Trying(_) => (
                "a configuration is being tried",
                "keep it with `weavers confirm`, or wait until the former one is back",
            ),
        };
        Some(Refusal::new(RefusalKind::Untimely, what).hint(hint))
    }
}

impl Node {
    /// Has the disk keep what is in force before anything is changed.
    pub(super) fn prepare_trial(&mut self, order: Box<Order>) {
        let record = order.trial.as_ref().map(|terms| &terms.record);
        self.out.ledger.write(Write::trial(record));
        (self.pending.trials.kept, self.pending.trials.stage) = (true, Stage::Preparing);
        self.out.let_out(Effect::FormerKept(order));
    }

    pub(super) fn begin_trial(&mut self, order: Order) {
        let patience = order.trial.as_ref().map_or(Duration::ZERO, |terms| terms.patience);
        self.pending.trials.stage = Stage::Trying(Box::new(Trying {
            former: self.facts.config.clone(),
            until: self.facts.now + patience,
            peers: self.peers.mesh.reachable(),
            lost: BTreeMap::new(),
            asked: order.done,
        }));
        self.carry_out(order);
    }

    /// Somebody adopts a configuration without terms: whatever was tried before is history.
    pub(super) fn forget_trial(&mut self) {
        self.pending.trials.stage = Stage::Idle;
        if std::mem::take(&mut self.pending.trials.kept) {
            self.out.ledger.write(Write::trial(None));
        }
    }

    pub(super) fn on_confirm(&mut self, id: RequestId) {
        if self.pending.trials.trying().is_none() {
            let refusal = Refusal::new(RefusalKind::NotFound, "no configuration is being tried");
            let hint = "`weavers status` says what is in force, and whether something was rolled back";
            return self.out.answer(id, Err(refusal.hint(hint)));
        }
        self.forget_trial();
        self.out.answer(id, Ok(Response::Done));
    }

    pub(super) fn judge_trial(&mut self) {
        let Stage::Trying(trying) = &mut self.pending.trials.stage else { return };
        let why = match trying.judge(self.facts.now, |peer| self.peers.mesh.is_reachable(peer)) {
            Some(End::Lost(peer)) => {
                let named = self
                    .peers
                    .ipam
                    .nickname(peer)
                    .map_or(peer.to_string(), |name| format!("{peer} ({name})"));
                format!("peer {named} can no longer be reached")
            }
            Some(End::Unconfirmed) => "nobody confirmed it in time".to_owned(),
            None => return,
        };
        self.roll_back(why);
    }

    /// The record stays on the disk: the file that failed is not to be adopted by a restart either.
    fn roll_back(&mut self, why: String) {
        let stage = std::mem::replace(&mut self.pending.trials.stage, Stage::Idle);
        let Stage::Trying(trying) = stage else { return };
        let Trying { former, asked, .. } = *trying;
        self.adopt(former);
        if self.waiting.is_waiting(asked) {
            self.waiting.cancel(asked);
            let refusal =
                Refusal::new(RefusalKind::Failed, format!("the configuration was rolled back: {why}"));
            self.out.answer(asked, Err(refusal));
        }
        self.out.outputs.push_back(Output::RolledBack(why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(120);

    fn trial_with(peers: &[u64]) -> Trying {
        Trying {
            former: Config::default(),
            until: Timestamp::ZERO + LONG,
            peers: peers.iter().map(|number| PeerName::from_u64(*number)).collect(),
            lost: BTreeMap::new(),
            asked: RequestId(1),
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn a_peer_that_is_started_anew_ends_no_trial_and_one_that_stays_away_does() {
        let (restarted, gone) = (PeerName::from_u64(1), PeerName::from_u64(2));
        let mut trial = trial_with(&[1, 2]);
        assert_eq!(trial.judge(at(0), |_| true), None);
        assert_eq!(trial.judge(at(10), |peer| peer != restarted), None);
        assert_eq!(trial.judge(at(13), |_| true), None);
        assert_eq!(trial.judge(at(14), |peer| peer != gone), None, "its absence is counted anew");
        assert_eq!(trial.judge(at(18), |peer| peer != gone), None);
        assert_eq!(trial.judge(at(19), |peer| peer != gone), Some(End::Lost(gone)));
    }

    #[test]
    fn a_trial_is_judged_again_when_the_grace_of_a_lost_peer_is_over_or_its_time() {
        let mut trials = Trials { kept: true, stage: Stage::Trying(Box::new(trial_with(&[1]))) };
        assert_eq!(trials.deadline(), Some(at(120)));
        let judge = |trials: &mut Trials, seconds, reachable| {
            let Stage::Trying(trial) = &mut trials.stage else { return None };
            trial.judge(at(seconds), |_| reachable)
        };
        assert_eq!(judge(&mut trials, 30, false), None);
        assert_eq!(trials.deadline(), Some(at(35)));
        assert_eq!(judge(&mut trials, 34, true), None);
        assert_eq!(trials.deadline(), Some(at(120)));
        assert_eq!(judge(&mut trials, 120, true), Some(End::Unconfirmed));
    }
}
