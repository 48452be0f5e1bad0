//! What outlives a restart: the records, and what waits until the disk has them.

/// The records, as the keys and values of the store.
pub mod memory;
/// Effects that must not happen before a save, and one save at a time.
pub mod ledger;
