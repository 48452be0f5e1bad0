//! From what is to what should be: what was seen, the plan, and how far it is carried out.

/// What others change of what is ours.
pub(super) mod drift;
/// What was seen, what is under way, and how each step ended.
pub(super) mod converge;
/// What should be.
pub(super) mod desired;
/// What of it containers need, made up anew only where something has changed.
pub(super) mod links;
/// What changed hands lately.
pub(super) mod moves;
/// Whether the kernel leads packets where they should go.
pub(super) mod paths;
/// How many routes a table holds.
pub(super) mod quota;

use self::{
    converge::Converge, desired::ways_out, links::Wanted, moves::Moves, paths::LostPaths, quota::Quotas,
};
use crate::{
    config::Config,
    node::boundary::{io::Output, out::Out},
    plan::Plan,
    state::{Made, Rules},
    time::Timestamp,
};

/// What is compared, and what follows.
#[derive(Debug, Default)]
pub(in crate::node) struct Reconcile {
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

    /// A link was made or mended and read back: it is as seen from now on, without a look.
    pub fn link_made(&mut self, config: &Config, mut made: Made) {
        // One of two that are the same is enough.
        if let Some(wanted) = self.wanted.links().get(&made.address).filter(|wanted| **wanted == made.link) {
            made.link = wanted.clone();
        }
        let (address, paths) = (made.address, made.paths.clone());
        self.converge.link_made(made);
        let host = self.converge.host.seen();
        self.lost_paths.judge_anew(address, &paths, host, &ways_out(config, host));
    }

    /// Judges anew what would become of packets, after a look or under another configuration.
    pub fn judge_paths(&mut self, config: &Config) {
        let host = self.converge.host.seen();
        self.lost_paths = LostPaths::judge(host, &ways_out(config, host));
    }
}
