//! What lives on this host: containers, those of Docker's networks among them, what was lent to others, and the canary.

use rand_chacha::ChaCha8Rng;

use super::{
    canary::OwnCanary,
    docker::{Docker, DockerBridge},
    lease::Leases,
    registry::Containers,
};
use crate::{
    addr::Range,
    node::{boundary::out::Out, cluster::peers::Peers, facts::Facts, reconcile::Reconcile},
    plan::Plan,
};

/// What is to have a link.
#[derive(Debug)]
pub(in crate::node) struct Local {
    pub containers: Containers,
    pub docker: Docker,
    pub bridge: DockerBridge,
    pub leases: Leases,
    pub canary: OwnCanary,
    /// Chooses ports of the host.
    pub rng: ChaCha8Rng,
}

/// What it works with.
pub(in crate::node) struct Context<'a> {
    pub facts: &'a Facts,
    pub peers: &'a mut Peers,
    pub work: &'a mut Reconcile,
    pub out: &'a mut Out,
}

impl Local {
    /// Where nothing is handed out or given away: beneath routes of others, where the canary is, and nowhere while a
    /// link may use an address that the store has forgotten.
    pub fn avoided(&self, facts: &Facts, plan: &Plan) -> Vec<Range> {
        let conflicts = plan.conflicts.iter().map(|conflict| conflict.destination);
        let conflicts = conflicts.filter(|destination| !self.bridge.claims(*destination));
        let forgotten = self.containers.is_forgetful().then_some(facts.config.ipam.range);
        conflicts.chain(forgotten).map(Range::from).chain(self.canary.kept()).collect()
    }
}
