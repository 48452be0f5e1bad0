//! From what is to what should be: what was seen, the plan, and how far it is carried out.

use super::{
    converge::Converge, desired::uplink_names, io::Output, links::Wanted, moves::Moves, out::Out,
    paths::LostPaths, quota::Quotas,
};
use crate::{config::Config, plan::Plan, state::Rules, time::Timestamp};

/// What is compared, and what follows.
#[derive(Debug, Default)]
pub(super) struct Reconcile {
    pub converge: Converge,
    pub plan: Plan,
    pub moves: Moves,
    pub quotas: Quotas,
    pub wanted: Wanted,
    pub lost_paths: LostPaths,
    /// The rules that the last look at the host compared with.
    pub looked_for: Option<Rules>,
}

impl Reconcile {
    /// Somebody asks: look at once, and try again what was refused.
    pub fn hurry(&mut self, now: Timestamp, out: &mut Out) {
        self.quotas.doubt();
        out.outputs.push_back(Output::DoubtCheck);
        self.converge.hurry(now);
    }

    /// Judges anew what would become of packets, after a look or under another configuration.
    pub fn judge_paths(&mut self, config: &Config) {
        let host = self.converge.host.seen();
        self.lost_paths = LostPaths::judge(host, &uplink_names(config, host));
    }
}
