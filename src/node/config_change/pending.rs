//! Configurations that are not in force yet, or not for good.

use ipnet::Ipv4Net;

use super::trial::Trials;
use crate::{
    config::Config,
    node::{
        boundary::{
            order::{Order, untimely},
            out::Out,
        },
        cluster::peers::Peers,
        facts::Facts,
        protocol::request::{Refusal, RefusalKind, RequestId},
        reconcile::Reconcile,
    },
    time::Timestamp,
};

/// What is about to be carried out, and what is being tried.
#[derive(Debug)]
pub(in crate::node) struct Pending {
    /// An order that waits for fresh looks, since the moment it came.
    order: Option<(Timestamp, Box<Order>)>,
    pub trials: Trials,
}

impl Pending {
    pub fn new(trials: Trials) -> Pending {
        Pending { order: None, trials }
    }

    /// Takes an order: `Some` where it begins at once. What was promised is compared with what looks begun now will show.
    pub fn take(
        &mut self,
        facts: &Facts,
        peers: &Peers,
        busy: Option<Refusal>,
        order: Box<Order>,
    ) -> Result<Option<Box<Order>>, (Box<Order>, Refusal)> {
        let trying = self.trials.is_trying(facts.now);
        let objection = trying.or_else(|| objection(facts, peers, &order.config)).or(busy);
        let another = || Refusal::new(RefusalKind::Failed, "another plan is about to be carried out");
        match (objection, &order.plan) {
            (Some(refusal), _) => Err((order, refusal)),
            (None, Some(_)) if self.order.is_some() => Err((order, another().hint("try again"))),
            (None, Some(saved)) if saved.node != facts.identity.name => {
                let message = format!("the plan is {}'s, and this is {}", saved.node, facts.identity.name);
                Err((order, untimely(message)))
            }
            (None, Some(_)) => {
                self.order = Some((facts.now, order));
                Ok(None)
            }
            (None, None) => Ok(Some(order)),
        }
    }

    /// The order whose looks have ended, and whether it may be compared with what they brought.
    pub fn looked(&mut self, now: Timestamp, work: &Reconcile) -> Option<(Box<Order>, Result<(), Refusal>)> {
        let (since, order) = self.order.take()?;
        let (host, vpc) = (&work.converge.host, &work.converge.vpc);
        if let Some(fault) = host.fault_since(since).or(vpc.fault_since(since)) {
            return Some((order, Err(Refusal::from(fault))));
        }
        let seen = host.is_seen_since(since) && vpc.is_seen_since(since);
        if !seen || work.converge.is_at_work() {
            self.order = Some((since, order));
            return None;
        }
        let trying = self.trials.is_trying(now);
        Some((order, trying.map_or(Ok(()), Err)))
    }

    /// Whoever gave the order is gone.
    pub fn withdraw(&mut self, id: RequestId) -> Option<Box<Order>> {
        self.order.take_if(|(_, order)| order.done == id).map(|(_, order)| order)
    }

    /// Begins an order: `Some` where it is carried out now, and otherwise once the disk has what is to come back.
    pub fn begin(&mut self, order: Box<Order>, out: &mut Out) -> Option<Box<Order>> {
        if order.trial.is_some() {
            self.trials.prepare(order, out);
            return None;
        }
        self.trials.forget(out);
        Some(order)
    }
}

/// Why this configuration cannot come into force.
pub(in crate::node) fn objection(facts: &Facts, peers: &Peers, config: &Config) -> Option<Refusal> {
    let known = facts.config.ipam.range;
    let changed = config.ipam.range != known && !peers.ipam.owned().is_empty();
    changed.then(|| another_range(config, known))
}

fn another_range(config: &Config, known: Ipv4Net) -> Refusal {
    let message =
        format!("[ipam] range {} differs from {known}, of which this host owns a part", config.ipam.range);
    Refusal::new(RefusalKind::Unsafe, message)
        .hint("restore the range, or run `weavers reset` on this host first")
}
