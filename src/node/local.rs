//! What lives on this host: containers, those of Docker's networks among them, and the canary.

use super::{attach::Containers, canary::OwnCanary, docker::Docker};

/// What is to have a link.
#[derive(Debug)]
pub(super) struct Local {
    pub containers: Containers,
    pub docker: Docker,
    pub canary: OwnCanary,
}
