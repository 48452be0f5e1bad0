//! A configuration that is tried: the former one comes back unless somebody confirms the new one in
//! time, and sooner when a peer that was reachable is lost for longer than a restart takes.
//!
//! The disk has the former one before the new one is adopted, and is told when it is confirmed. So a
//! daemon that ends meanwhile comes back with the former one.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    config::Config,
    node::{
        boundary::{
            order::Order,
            out::{Effect, Out},
        },
        cluster::peers::Peers,
        facts::Facts,
        persist::memory::Write,
        protocol::request::{Refusal, RefusalKind, RequestId, Response},
    },
    peer::PeerName,
    time::Timestamp,
};

/// How long a peer may be lost: one that is started anew, by an upgrade or by whoever watches over it, is no
/// fault of the configuration, and open connections outlast it.
const GRACE: Duration = Duration::from_secs(5);

/// What is being tried, if anything is.
#[derive(Debug)]
pub(in crate::node) struct Trials {
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
    pub(in crate::node) fn new(kept: bool) -> Trials {
        Trials { kept, stage: Stage::Idle }
    }

    fn trying(&self) -> Option<&Trying> {
        match &self.stage {
            Stage::Idle | Stage::Preparing => None,
            Stage::Trying(trying) => Some(trying),
        }
    }

    /// Seconds until the former configuration comes back.
    pub(in crate::node) fn left_s(&self, now: Timestamp) -> Option<u64> {
        self.trying().map(|trying| trying.until.since(now).as_secs())
    }

    /// When to judge next, if nothing happens before.
    pub(in crate::node) fn deadline(&self) -> Option<Timestamp> {
        let trying = self.trying()?;
        trying.lost.values().map(|since| *since + GRACE).chain([trying.until]).min()
    }

    /// Whether one is tried, or about to be.
    pub(in crate::node) fn is_under_way(&self) -> bool {
        !matches!(self.stage, Stage::Idle)
    }

    /// Nothing else is adopted while something is tried: what would come back then?
    pub(in crate::node) fn is_trying(&self, now: Timestamp) -> Option<Refusal> {
        let (what, hint) = match &self.stage {
            Stage::Idle => return None,
            Stage::Preparing => {
                ("a configuration is about to be tried", "wait for it: see `weavers status`".to_owned())
            }
            Stage::Trying(trying) => (
                "a configuration is being tried",
                format!(
                    "keep it with `weavers confirm`, or wait until the former one is back, in {} s; then adopt another",
                    trying.until.since(now).as_secs()
                ),
            ),
        };
        Some(Refusal::new(RefusalKind::Untimely, what).hint(hint))
    }

    /// Has the disk keep what is in force before anything is changed.
    pub(super) fn prepare(&mut self, order: Box<Order>, out: &mut Out) {
        let record = order.trial.as_ref().map(|terms| &terms.record);
        out.ledger.write(Write::trial(record));
        (self.kept, self.stage) = (true, Stage::Preparing);
        out.let_out(Effect::FormerKept(order));
    }

    /// The disk has it: what is ordered is being tried from now on.
    pub(in crate::node) fn begin(&mut self, facts: &Facts, peers: &Peers, order: &Order) {
        let patience = order.trial.as_ref().map_or(Duration::ZERO, |terms| terms.patience);
        self.stage = Stage::Trying(Box::new(Trying {
            former: facts.config.clone(),
            until: facts.now + patience,
            peers: peers.mesh.reachable().clone(),
            lost: BTreeMap::new(),
            asked: order.done,
        }));
    }

    /// Somebody adopts a configuration without terms: whatever was tried before is history.
    pub(in crate::node) fn forget(&mut self, out: &mut Out) {
        self.stage = Stage::Idle;
        if std::mem::take(&mut self.kept) {
            out.ledger.write(Write::trial(None));
        }
    }

    /// Somebody keeps what is being tried.
    pub(in crate::node) fn confirm(&mut self, out: &mut Out) -> Result<Response, Refusal> {
        if self.trying().is_none() {
            let refusal = Refusal::new(RefusalKind::NotFound, "no configuration is being tried");
            let hint = "`weavers status` says what is in force, and whether something was rolled back";
            return Err(refusal.hint(hint));
        }
        self.forget(out);
        Ok(Response::Done)
    }

    /// Whether the former configuration comes back now: that, who waits for what was tried, and why it ends. The record stays on the
    /// disk: the file that failed is not to be adopted by a restart either.
    pub(in crate::node) fn ended(
        &mut self,
        now: Timestamp,
        peers: &Peers,
    ) -> Option<(Config, RequestId, String)> {
        let Stage::Trying(trying) = &mut self.stage else { return None };
        let why = match trying.judge(now, |peer| peers.mesh.is_reachable(peer))? {
            End::Lost(peer) => format!("peer {} can no longer be reached", peers.named(peer)),
            End::Unconfirmed => "nobody confirmed it in time".to_owned(),
        };
        let stage = std::mem::replace(&mut self.stage, Stage::Idle);
        let Stage::Trying(trying) = stage else { return None };
        Some((trying.former, trying.asked, why))
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
