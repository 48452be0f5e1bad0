//! When a host that has no ring lets its address manager elect one.

use super::{Node, desired::routes_of_others};

impl Node {
    /// Whether to elect where there is no ring yet.
    pub(super) fn judge_election(&mut self) {
        if !self.has_ring() {
            self.ipam.hold_election(self.reason_not_to_elect());
            self.ipam.wake(self.now);
        }
    }

    fn reason_not_to_elect(&self) -> Option<String> {
        let vpc = &self.converge.vpc;
        let early = vpc.seen().is_none() && vpc.fault().is_none();
        let early = early.then(|| "the route tables have not been read yet".to_owned());
        early.or_else(|| self.reason_to_join()).or_else(|| self.reason_to_be_patient())
    }

    /// Whoever finds routes of other live interfaces inside the range joins and does not elect.
    fn reason_to_join(&self) -> Option<String> {
        let vpc = self.converge.vpc.seen()?;
        let (cidr, interface) = routes_of_others(self.config.ipam.range, vpc).into_iter().next()?;
        Some(format!("{cidr} is routed to {interface}: a cluster is there already"))
    }

    /// Why a host whose peers are found by tag elects nobody: whoever sees only itself cannot know whether
    /// the others are not there or not found.
    fn reason_to_be_patient(&self) -> Option<String> {
        let (key, value) = self.config.ec2_tag.as_ref()?;
        let alone = self.mesh.reachable().is_empty();
        alone.then(|| match self.discovery.found.fault() {
            Some(fault) => format!("no other instance with tag {key}={value} could be looked for: {fault}"),
            None => format!("no other instance with tag {key}={value} was heard"),
        })
    }
}
