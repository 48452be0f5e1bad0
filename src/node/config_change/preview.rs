//! What another configuration would change.

use crate::{
    config::Config,
    node::{
        boundary::order::{Order, untimely},
        protocol::request::Refusal,
        report::overview::Overview,
    },
    plan::{Change, Plan},
};

impl Overview<'_> {
    /// What would change under another configuration, by the last looks.
    pub(in crate::node) fn preview(&self, config: &Config) -> Plan {
        let restart = self.facts.config.needs_restart(config);
        let adopted = config.clone().adopted_by(&self.facts.config);
        let mut plan = self.plan_for(&adopted);
        plan.notes
            .extend(restart.iter().map(|key| format!("{key} takes effect with a restart of the daemon")));
        self.with_impact(plan)
    }

    /// Whether what this order promised is what it takes still.
    pub(in crate::node) fn still_takes(&self, order: &Order) -> Result<(), Refusal> {
        let adopted = order.config.clone().adopted_by(&self.facts.config);
        let now = self.plan_for(&adopted);
        let difference = order.plan.as_ref().and_then(|saved| difference(&saved.plan, &now));
        difference.map_or(Ok(()), |difference| Err(untimely(difference)))
    }
}

/// The first thing in which what is to be done now differs from what was promised.
fn difference(promised: &Plan, now: &Plan) -> Option<String> {
    // A saved plan has in words what is there.
    let same = |one: &Change, other: &Change| {
        one.action == other.action && one.before.to_string() == other.before.to_string()
    };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Action, HostAction};

    fn plan(steps: &[(&str, &str)]) -> Plan {
        let change = |(name, before): &(&str, &str)| Change {
            action: Action::Host(HostAction::SetSysctl { name: (*name).to_owned(), value: "1".to_owned() }),
            cause: "told apart by nobody".to_owned(),
            before: (*before).into(),
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
