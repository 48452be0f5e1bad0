//! What every subject may read: the time, who this host is, and which configuration is in force.

use super::{identity::Metadata, memory::Identity};
use crate::{config::Config, time::Timestamp};

/// What holds at one moment.
#[derive(Debug)]
pub(super) struct Facts {
    pub now: Timestamp,
    pub identity: Identity,
    /// What the metadata have said in this life.
    pub metadata: Option<Metadata>,
    /// How people call this host.
    pub nickname: String,
    /// The configuration in force.
    pub config: Config,
    pub leave: Leave,
    /// There is a ring, and the disk has it.
    pub ring_kept: bool,
}

/// How far a node is with leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// It stays.
    No,
    /// Its ranges were given away; it undoes its host and waits for the heir to take the routes over.
    HandingOver,
    /// Its routes go, whoever owns the addresses.
    Withdrawing,
}
