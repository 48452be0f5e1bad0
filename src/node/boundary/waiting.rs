//! Who waits for what, and until when.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    addr::Address,
    config::Config,
    node::protocol::request::{Refusal, RequestId, Response},
    peer::PeerName,
    plan::{Change, Plan},
    state::Action,
    time::Timestamp,
};

/// How long an answer may take; `apply` and `status --wait` bring a time of their own and hang up.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long looks may take before the last ones must do.
pub(in crate::node) const LOOKS: Duration = Duration::from_secs(3);
/// How long a leaving host waits for its heir to take the routes over.
pub(in crate::node) const HAND_OVER: Duration = Duration::from_secs(10);
/// Time between the looks that show how far it is.
pub(in crate::node) const HAND_OVER_LOOKS: Duration = Duration::from_secs(1);
/// How long a runtime's question may take: it gives up after 30 s, and is to hear why before.
const PATIENCE_OF_RUNTIMES: Duration = Duration::from_secs(25);
/// How many may wait at once.
pub(in crate::node) const WAITERS_MAX: usize = 10_000;

/// What somebody waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiter {
    /// That the plan is empty after looks begun now; with what was changed on the way.
    Converged(Vec<Change>),
    /// That the node is ready.
    Ready,
    /// That looks begun now have ended.
    Looks(Sight),
    /// That packets of this container flow.
    Attach { ident: String },
    /// That packets of this container, which a runtime asked for, flow. One that was made for that is not to be left where they
    /// cannot.
    Connect { ident: String, made: bool },
    /// The same of one that was connected before, by a look begun now.
    Check { ident: String },
    /// That there is an address for this interface of another plugin's, and a way to it. One that was made for that is taken back where
    /// there is none.
    Lend { ident: String, made: bool },
    /// That a look at the host begun now has ended.
    Looked,
    /// That the link of this address is gone.
    Detach { address: Address },
    /// That the peers have agreed, in a decision not before `since`, who takes over what this peer owned.
    Forget { peer: PeerName, addresses: u32, since: u64 },
    /// That no route leads to us any more.
    Drain { addresses: u32, to: Option<PeerName> },
    /// That nothing of ours is left.
    Reset,
}

/// What is told by looks begun when it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// All there is to know of an address.
    Address(Address),
    /// The plan.
    Plan,
    /// The plan under another configuration.
    Preview(Box<Config>),
    /// All there is to know of this host.
    Status,
}

/// What whoever asks is told: an answer, or first nothing.
#[derive(Debug)]
pub enum Reply {
    /// This is the answer.
    Now(Result<Response, Refusal>),
    /// It comes when this wait is over.
    When(Waiter),
}

impl From<Result<Waiter, Refusal>> for Reply {
    fn from(begun: Result<Waiter, Refusal>) -> Reply {
        begun.map_or_else(|refusal| Reply::Now(Err(refusal)), Reply::When)
    }
}

/// Everybody who waits.
#[derive(Debug, Default)]
pub struct Waiting {
    waiters: BTreeMap<RequestId, (Timestamp, Arc<Waiter>)>,
}

impl Waiting {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiters.len()
    }

    /// Somebody waits from `now` on.
    pub fn add(&mut self, now: Timestamp, id: RequestId, waiter: Waiter) {
        self.waiters.insert(id, (now, Arc::new(waiter)));
    }

    /// Forgets who asked, and says for what they waited.
    pub fn take(&mut self, id: RequestId) -> Option<Waiter> {
        self.waiters.remove(&id).map(|(_, waiter)| Arc::unwrap_or_clone(waiter))
    }

    /// Everybody, for what they wait since when, and whether their patience is over.
    pub fn all(&self, now: Timestamp) -> Vec<(RequestId, Timestamp, Arc<Waiter>, bool)> {
        let late = |since: Timestamp, waiter: &Waiter| waiter.deadline(since).is_some_and(|end| end <= now);
        let all = self.waiters.iter();
        all.map(|(id, (since, waiter))| (*id, *since, waiter.clone(), late(*since, waiter))).collect()
    }

    /// Takes out everybody who waits for this.
    pub fn take_where(&mut self, is_it: impl Fn(&Waiter) -> bool) -> Vec<RequestId> {
        let ids: Vec<RequestId> =
            self.waiters.iter().filter(|(_, (_, waiter))| is_it(waiter)).map(|(id, _)| *id).collect();
        self.waiters.retain(|id, _| !ids.contains(id));
        ids
    }

    /// Peers that somebody wants to be taken over from.
    pub fn forgetting(&self) -> impl Iterator<Item = PeerName> {
        self.waiters.values().filter_map(|(_, waiter)| match &**waiter {
            Waiter::Forget { peer, .. } => Some(*peer),
            _ => None,
        })
    }

    /// Addresses that somebody wants to know all of.
    pub fn explained(&self) -> impl Iterator<Item = Address> {
        self.waiters.values().filter_map(|(_, waiter)| match &**waiter {
            Waiter::Looks(Sight::Address(address)) => Some(*address),
            _ => None,
        })
    }

    /// A step was carried out: whoever waits for convergence is told in the end.
    pub fn count(&mut self, action: &Action, plan: &Plan) {
        let Some(change) = plan.changes.iter().find(|change| change.action == *action) else { return };
        for (_, waiter) in self.waiters.values_mut() {
            if let Waiter::Converged(changes) = Arc::make_mut(waiter) {
                changes.push(change.clone());
            }
        }
    }

    /// The next moment after `now` at which somebody's patience ends.
    pub fn next_deadline(&self, now: Timestamp) -> Option<Timestamp> {
        let deadlines = self.waiters.values().filter_map(|(since, waiter)| waiter.deadline(*since));
        deadlines.filter(|deadline| *deadline > now).min()
    }
}

impl Waiter {
    /// Whether it waits for this container to be connected.
    pub fn is_attaching(&self, of: &str) -> bool {
        match self {
            Waiter::Attach { ident } | Waiter::Connect { ident, .. } | Waiter::Check { ident } => ident == of,
            _ => false,
        }
    }

    /// Whether it waits for an address that is lent to this one.
    pub fn is_lending(&self, to: &str) -> bool {
        matches!(self, Waiter::Lend { ident, .. } if ident == to)
    }

    fn deadline(&self, since: Timestamp) -> Option<Timestamp> {
        match self {
            Waiter::Converged(_) | Waiter::Ready => None,
            Waiter::Attach { .. } | Waiter::Detach { .. } | Waiter::Forget { .. } => Some(since + PATIENCE),
            Waiter::Connect { .. } | Waiter::Lend { .. } | Waiter::Check { .. } => {
                Some(since + PATIENCE_OF_RUNTIMES)
            }
            Waiter::Looks(_) | Waiter::Looked => Some(since + LOOKS),
            Waiter::Drain { .. } | Waiter::Reset => Some(since + HAND_OVER),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_waits_for_is_not_copied_to_be_looked_at() {
        let mut waiting = Waiting::default();
        let plan = Sight::Preview(Box::default());
        waiting.add(Timestamp::ZERO, RequestId(1), Waiter::Looks(plan));
        let [one, again] = [(); 2].map(|()| waiting.all(Timestamp::ZERO).remove(0));
        assert!(Arc::ptr_eq(&one.2, &again.2));
        assert_eq!(waiting.take(RequestId(1)).as_ref(), Some(&*one.2));
    }
}
