//! Another configuration: what it would change, and its adoption.

use ipnet::Ipv4Net;

use super::{
    Node,
    request::{Refusal, RefusalKind, RequestId, Response},
};
use crate::config::Config;

impl Node {
    pub(super) fn on_previewed(&mut self, id: RequestId, config: Config) {
        if let Some(refusal) = self.objection(&config) {
            return self.answer(id, Err(refusal));
        }
        let restart = self.config.needs_restart(&config);
        let mut plan = self.plan_for(&self.desired(&config.adopted_by(&self.config)));
        plan.notes
            .extend(restart.iter().map(|key| format!("{key} takes effect with a restart of the daemon")));
        self.answer(id, Ok(Response::Plan(Box::new(plan))));
    }

    fn objection(&self, config: &Config) -> Option<Refusal> {
        let changed = config.ipam.range != self.config.ipam.range && !self.ipam.owned().is_empty();
        changed.then(|| another_range(config, self.config.ipam.range))
    }

    pub(super) fn on_configured(&mut self, id: RequestId, config: Config) {
        if let Some(refusal) = self.objection(&config) {
            return self.answer(id, Err(refusal));
        }
        let config = config.adopted_by(&self.config);
        if config != self.config {
            if config.ec2_tag != self.config.ec2_tag {
                self.forget_found();
            }
            self.config = config;
            self.dead.touch();
            self.dial_targets();
            self.converge.hurry(self.now);
            self.disturbed = true;
        }
        self.answer(id, Ok(Response::Done));
    }
}

fn another_range(config: &Config, known: Ipv4Net) -> Refusal {
    let message =
        format!("[ipam] range {} differs from {known}, of which this host owns a part", config.ipam.range);
    Refusal::new(RefusalKind::Unsafe, message)
        .hint("restore the range, or run `weavers reset` on this host first")
}
