//! All that a node knows at one moment, to be read and not to be changed: what it reports, and what it decides by, follows from it.

use super::{
    facts::Facts, ledger::Ledger, local::Local, observed::Observed, out::Effect, peers::Peers,
    probes::Probes, reconcile::Reconcile,
};

/// What each subject knows.
#[derive(Clone, Copy)]
pub struct Overview<'a> {
    pub(super) facts: &'a Facts,
    pub(super) peers: &'a Peers,
    pub(super) observed: &'a Observed,
    pub(super) work: &'a Reconcile,
    pub(super) local: &'a Local,
    pub(super) probes: &'a Probes,
    pub(super) ledger: &'a Ledger<Effect>,
}
