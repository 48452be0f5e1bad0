//! Configurations that are not in force yet, or not for good.

use super::{order::Order, trial::Trials};
use crate::time::Timestamp;

/// What is about to be carried out, and what is being tried.
#[derive(Debug)]
pub(super) struct Pending {
    /// An order that waits for fresh looks, since the moment it came.
    pub order: Option<(Timestamp, Box<Order>)>,
    pub trials: Trials,
}
