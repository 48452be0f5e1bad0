//! The difference between what should be and what is, as actions in the order in which they are safe.

use serde::{Deserialize, Serialize};

use crate::state::Action;

/// What to change, and what stands in the way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// In the order in which they run.
    pub changes: Vec<Change>,
    /// What is not ours and stands in our place; never touched.
    pub conflicts: Vec<String>,
    /// What the reader should know (`routes follow agreement`).
    pub notes: Vec<String>,
}

/// One action and why it is needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What to do.
    pub action: Action,
    /// Why.
    pub cause: String,
    /// What is there now, as the plan shows it; empty if nothing.
    pub before: String,
}
