//! What is to be carried out, and on which terms.

use std::time::Duration;

use crate::{
    config::Config,
    node::{
        persist::memory,
        protocol::request::{Refusal, RefusalKind, RequestId, SavedPlan},
    },
};

/// A configuration to adopt and to carry out.
#[derive(Debug)]
pub struct Order {
    /// Answered when it is adopted, or why not.
    pub adopted: RequestId,
    /// Answered when nothing is left to do, or why not.
    pub done: RequestId,
    /// The configuration.
    pub config: Config,
    /// Only if this is what it takes.
    pub plan: Option<SavedPlan>,
    /// The former one comes back unless this one is confirmed.
    pub trial: Option<Terms>,
}

/// What is tried, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What comes back.
    pub record: memory::Trial,
    /// How long to wait for a confirmation.
    pub patience: Duration,
}

/// An order that does not fit what is.
pub(in crate::node) fn untimely(message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Untimely, message).hint("make a new plan: `weavers plan --out FILE`")
}
