//! Another configuration: what it would change, and its adoption, at once or on terms.

use ipnet::Ipv4Net;

use super::{
    Node,
    order::Order,
    overview::Overview,
    request::{Refusal, RefusalKind, RequestId, Response},
    waiting::{Sight, Waiter},
};
use crate::{
    config::Config,
    plan::{Change, Plan},
};

impl Node {
    pub(super) fn on_previewed(&mut self, id: RequestId, config: Config) {
        match self.overview().objection(&config).or_else(|| self.waiting.is_full().then(Refusal::busy)) {
            Some(refusal) => self.out.answer(id, Err(refusal)),
            None => self.tell_anew(id, Sight::Preview(Box::new(config))),
        }
    }

    pub(super) fn on_configured(&mut self, id: RequestId, config: Config) {
        if let Some(refusal) = self.pending.is_trying().or_else(|| self.overview().objection(&config)) {
            return self.out.answer(id, Err(refusal));
        }
        self.forget_trial();
        self.adopt(config.adopted_by(&self.facts.config));
        self.out.answer(id, Ok(Response::Done));
    }

    pub(super) fn adopt(&mut self, config: Config) {
        if config == self.facts.config {
            return;
        }
        if config.ec2_tag != self.facts.config.ec2_tag {
            self.forget_found();
        }
        if config.peers != self.facts.config.peers {
            self.observed.names.look.look_by(self.facts.now);
        }
        if let Some(expected) = config.ipam.expected_peers {
            self.peers.ipam.set_expected_peers(expected);
        }
        self.peers.mesh.set_trusted_subnets(config.mesh.trusted_subnets.clone());
        self.facts.config = config;
        self.judge_paths();
        self.peers.dead.touch();
        self.dial_targets();
        self.judge_election();
        self.hurry();
        self.out.disturbed = true;
    }

    // ===== on terms =====

    /// What was promised is compared with what looks begun now will show; the rest begins at once.
    pub(super) fn on_ordered(&mut self, order: Box<Order>) {
        let busy = || Refusal::new(RefusalKind::Failed, "another plan is about to be carried out");
        let objection = self.pending.is_trying().or_else(|| self.overview().objection(&order.config));
        let objection = objection.or_else(|| self.waiting.is_full().then(Refusal::busy));
        match (objection, &order.plan) {
            (Some(refusal), _) => self.decline(&order, refusal),
            (None, Some(_)) if self.pending.order.is_some() => self.decline(&order, busy().hint("try again")),
            (None, Some(saved)) if saved.node != self.facts.identity.name => {
                let message =
                    format!("the plan is {}'s, and this is {}", saved.node, self.facts.identity.name);
                self.decline(&order, untimely(message));
            }
            (None, Some(_)) => {
                self.hurry();
                self.pending.order = Some((self.facts.now, order));
                self.out.disturbed = true;
            }
            (None, None) => self.begin(order),
        }
    }

    /// The looks that an order waits for have ended: its plan is what it takes still, or it is declined.
    pub(super) fn judge_order(&mut self) {
        let Some((since, order)) = self.pending.order.take() else { return };
        let (host, vpc) = (&self.work.converge.host, &self.work.converge.vpc);
        if let Some(fault) = host.fault_since(since).or(vpc.fault_since(since)).cloned() {
            return self.decline(&order, Refusal::from(&fault));
        }
        let seen =
            self.work.converge.host.is_seen_since(since) && self.work.converge.vpc.is_seen_since(since);
        if !seen || self.work.converge.is_at_work() {
            self.pending.order = Some((since, order));
            return;
        }
        if let Some(refusal) = self.pending.is_trying() {
            return self.decline(&order, refusal);
        }
        let adopted = order.config.clone().adopted_by(&self.facts.config);
        let now = self.overview().plan_for(&adopted);
        match order.plan.as_ref().and_then(|saved| difference(&saved.plan, &now)) {
            Some(difference) => self.decline(&order, untimely(difference)),
            None => self.begin(order),
        }
    }

    /// Whoever gave the order is gone.
    pub(super) fn withdraw_order(&mut self, id: RequestId) {
        if let Some((_, order)) = self.pending.order.take_if(|(_, order)| order.done == id) {
            self.decline(&order, Refusal::new(RefusalKind::Untimely, "the client disconnected"));
        }
    }

    fn begin(&mut self, order: Box<Order>) {
        match &order.trial {
            Some(_) => self.prepare_trial(order),
            None => {
                self.forget_trial();
                self.carry_out(*order);
            }
        }
    }

    pub(super) fn carry_out(&mut self, order: Order) {
        self.adopt(order.config.adopted_by(&self.facts.config));
        self.out.answer(order.adopted, Ok(Response::Done));
        self.hurry();
        self.waiting.add(self.facts.now, order.done, Waiter::Converged(Vec::new()));
        self.out.disturbed = true;
    }

    fn decline(&mut self, order: &Order, refusal: Refusal) {
        self.out.answer(order.adopted, Err(refusal.clone()));
        self.out.answer(order.done, Err(refusal));
    }
}

impl Overview<'_> {
    /// What would change under another configuration, by the last looks.
    pub(super) fn preview(&self, config: &Config) -> Plan {
        let restart = self.facts.config.needs_restart(config);
        let adopted = config.clone().adopted_by(&self.facts.config);
        let mut plan = self.plan_for(&adopted);
        plan.notes
            .extend(restart.iter().map(|key| format!("{key} takes effect with a restart of the daemon")));
        self.with_impact(plan)
    }

    pub(super) fn objection(&self, config: &Config) -> Option<Refusal> {
        let changed =
            config.ipam.range != self.facts.config.ipam.range && !self.peers.ipam.owned().is_empty();
        changed.then(|| another_range(config, self.facts.config.ipam.range))
    }
}

/// The first thing in which what is to be done now differs from what was promised.
fn difference(promised: &Plan, now: &Plan) -> Option<String> {
    let same = |one: &Change, other: &Change| one.action == other.action && one.before == other.before;
    let missing = |these: &Plan, others: &Plan| {
        let is_missing = |change: &&Change| !others.changes.iter().any(|other| same(change, other));
        these.changes.iter().find(is_missing).map(|change| change.action.to_string())
    };
    if let Some(action) = missing(promised, now) {
        return Some(format!(
            "the world has moved since the plan was made: `{action}` is not what it takes now"
        ));
    }
    if let Some(action) = missing(now, promised) {
        return Some(format!("the world has moved since the plan was made: `{action}` is needed now, too"));
    }
    let in_order = promised.changes.iter().zip(&now.changes).all(|(one, other)| same(one, other));
    (!in_order)
        .then(|| "the world has moved since the plan was made: the order of its steps is another".to_owned())
}

fn untimely(message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Untimely, message).hint("make a new plan: `weavers plan --out FILE`")
}

fn another_range(config: &Config, known: Ipv4Net) -> Refusal {
    let message =
        format!("[ipam] range {} differs from {known}, of which this host owns a part", config.ipam.range);
    Refusal::new(RefusalKind::Unsafe, message)
        .hint("restore the range, or run `weavers reset` on this host first")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Action;

    fn plan(steps: &[(&str, &str)]) -> Plan {
        let change = |(name, before): &(&str, &str)| Change {
            action: Action::SetSysctl { name: (*name).to_owned(), value: "1".to_owned() },
            cause: "told apart by nobody".to_owned(),
            before: (*before).to_owned(),
            containers: Vec::new(),
        };
        Plan { changes: steps.iter().map(change).collect(), ..Plan::default() }
    }

    #[test]
    fn a_plan_is_the_same_by_its_steps_what_they_find_and_their_order() {
        let promised = plan(&[("a", "0"), ("b", "0")]);
        assert_eq!(difference(&promised, &plan(&[("a", "0"), ("b", "0")])), None);
        let said = |now: &[(&str, &str)]| difference(&promised, &plan(now)).unwrap();
        assert!(said(&[("a", "0")]).ends_with("`set b = 1` is not what it takes now"));
        assert!(said(&[("a", "0"), ("b", "2")]).ends_with("`set b = 1` is not what it takes now"));
        assert!(said(&[("a", "0"), ("b", "0"), ("c", "0")]).ends_with("`set c = 1` is needed now, too"));
        assert!(said(&[("b", "0"), ("a", "0")]).ends_with("the order of its steps is another"));
    }
}
