//! What is asked of a node, and what it answers: plain data, which the control socket carries as JSON.

/// What Docker tells, and asks.
pub mod docker;
/// What a node says of itself; [`super::report`] makes it up.
pub mod status;
/// What it says of one address.
pub mod explanation;
/// Requests, answers and refusals.
pub mod request;
