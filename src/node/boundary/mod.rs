//! What goes into a node, what comes out of it, and who waits for an answer.

/// What the log tells of the cluster.
pub mod event;
/// A configuration that is to be carried out, and on which terms.
pub mod order;
pub(super) mod io;
/// Outputs in order, and what the disk holds back of them.
pub(super) mod out;
/// What the address manager was asked, and what its answers are for.
pub(super) mod tickets;
/// Who waits for what, and until when.
pub(super) mod waiting;
