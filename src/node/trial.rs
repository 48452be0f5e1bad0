//! A configuration that is tried: the former one comes back unless somebody confirms the new one in
//! time, and at once when a peer that was reachable no longer is.
//!
//! The disk has the former one before the new one is adopted, and is told when it is confirmed. So a
//! daemon that ends meanwhile comes back with the former one.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Effect, Node, Output,
    adopt::Order,
    memory::{self, Write},
    request::{Refusal, RefusalKind, RequestId, Response},
};
use crate::{config::Config, peer::PeerName, time::Timestamp};

/// What is tried, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What comes back.
    pub record: memory::Trial,
    /// How long to wait for a confirmation.
    pub patience: Duration,
}

/// What is being tried, if anything is.
#[derive(Debug)]
pub(super) struct Trials {
    /// The disk has a configuration that nobody has confirmed.
    kept: bool,
    trying: Option<Trying>,
}

#[derive(Debug)]
struct Trying {
    former: Config,
    until: Timestamp,
    /// Who was reachable when it began.
    peers: BTreeSet<PeerName>,
    /// Who waits until all is done.
    asked: RequestId,
}

impl Trials {
    pub(super) fn new(kept: bool) -> Trials {
        Trials { kept, trying: None }
    }

    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.trying.as_ref().map(|trying| trying.until)
    }
}

impl Node {
    /// Seconds until the former configuration comes back.
    pub(super) fn trial_left(&self) -> Option<u64> {
        self.trials.deadline().map(|until| until.since(self.now).as_secs())
    }

    /// Nothing else is adopted while something is tried: what would come back then?
    pub(super) fn is_trying(&self) -> Option<Refusal> {
        self.trials.trying.as_ref()?;
        let refusal = Refusal::new(RefusalKind::Untimely, "a configuration is being tried");
        Some(refusal.hint("keep it with `weavers confirm`, or wait until the former one is back"))
    }

    /// Has the disk keep what is in force before anything is changed.
    pub(super) fn prepare_trial(&mut self, order: Box<Order>) {
        let record = order.trial.as_ref().map(|terms| &terms.record);
        self.ledger.write(Write::trial(record));
        self.trials.kept = true;
        self.let_out(Effect::FormerKept(order));
    }

    pub(super) fn begin_trial(&mut self, order: Order) {
        let patience = order.trial.as_ref().map_or(Duration::ZERO, |terms| terms.patience);
        self.trials.trying = Some(Trying {
            former: self.config.clone(),
            until: self.now + patience,
            peers: self.mesh.reachable(),
            asked: order.done,
        });
        self.carry_out(order);
    }

    /// Somebody adopts a configuration without terms: whatever was tried before is history.
    pub(super) fn forget_trial(&mut self) {
        self.trials.trying = None;
        if std::mem::take(&mut self.trials.kept) {
            self.ledger.write(Write::trial(None));
        }
    }

    pub(super) fn on_confirm(&mut self, id: RequestId) {
        if self.trials.trying.is_none() {
            let refusal = Refusal::new(RefusalKind::NotFound, "no configuration is being tried");
            let hint = "`weavers status` says what is in force, and whether something was rolled back";
            return self.answer(id, Err(refusal.hint(hint)));
        }
        self.forget_trial();
        self.answer(id, Ok(Response::Done));
    }

    pub(super) fn judge_trial(&mut self) {
        let Some(trying) = &self.trials.trying else { return };
        let lost = trying.peers.iter().find(|peer| !self.mesh.is_reachable(**peer));
        let why = match lost {
            Some(&peer) => {
                let named =
                    self.ipam.nickname(peer).map_or(peer.to_string(), |name| format!("{peer} ({name})"));
                format!("peer {named} can no longer be reached")
            }
            None if trying.until <= self.now => "nobody confirmed it in time".to_owned(),
            None => return,
        };
        self.roll_back(why);
    }

    /// The record stays on the disk: the file that failed is not to be adopted by a restart either.
    fn roll_back(&mut self, why: String) {
        let Some(Trying { former, asked, .. }) = self.trials.trying.take() else { return };
        self.adopt(former);
        if self.waiting.is_waiting(asked) {
            self.waiting.cancel(asked);
            let refusal =
                Refusal::new(RefusalKind::Failed, format!("the configuration was rolled back: {why}"));
            self.answer(asked, Err(refusal));
        }
        self.outputs.push_back(Output::RolledBack(why));
    }
}
