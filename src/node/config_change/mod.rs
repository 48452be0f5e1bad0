//! Configurations to come: proposed, tried, waiting for a look.

/// A configuration that comes into force for a while.
pub(super) mod trial;
/// One that waits until it may be carried out.
pub(super) mod pending;
/// What another one would change.
pub(super) mod preview;
