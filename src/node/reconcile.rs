//! From what is to what should be: what was seen, the plan, and how far it is carried out.

use super::{converge::Converge, links::Wanted, moves::Moves, paths::LostPaths, quota::Quotas};
use crate::plan::Plan;

/// What is compared, and what follows.
#[derive(Debug, Default)]
pub(super) struct Reconcile {
    pub converge: Converge,
    pub plan: Plan,
    pub moves: Moves,
    pub quotas: Quotas,
    pub wanted: Wanted,
    pub lost_paths: LostPaths,
}
