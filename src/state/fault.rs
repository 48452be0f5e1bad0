//! What can go wrong with a look or an action.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a look or an action failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[error("{message}")]
pub struct Fault {
    /// What a program decides by.
    pub kind: FaultKind,
    /// What is wrong, naming the thing.
    pub message: String,
    /// The way out, if there is one.
    pub hint: Option<String>,
    /// EC2's request id, if it answered.
    pub request_id: Option<String>,
}

/// What a program decides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultKind {
    /// Not permitted: it stays so until somebody changes a policy or a capability.
    Denied,
    /// The caller is not recognised: its credentials or its clock will not do. Later it may pass, or with others.
    Unsigned,
    /// Too many calls; later it may pass.
    Throttled,
    /// The table is full.
    Quota,
    /// Something stands there that the plan did not know, or what the plan knew is gone: look again.
    Outdated,
    /// No answer: the change may have happened or not.
    Unreachable,
    /// It cannot succeed as it is.
    Invalid,
}
