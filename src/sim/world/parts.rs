//! What is between the hosts of a world, and what is written down about it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ipnet::Ipv4Net;

use crate::{
    mesh::ConnId,
    sim::{cloud::Written, wire::Wires},
    state::{Side, TableId},
    time::Timestamp,
};

/// What is between the hosts.
#[derive(Debug, Default)]
pub(in crate::sim) struct Net {
    pub wires: Wires,
    pub ephemeral: u16,
    /// Dials that are not answered yet, by host and target.
    pub dialling: BTreeMap<(usize, String), Dial>,
    /// Pairs of hosts between which nothing passes.
    pub blocked: BTreeSet<(usize, usize)>,
}

/// What is known of the route tables, to judge what is written there.
#[derive(Debug, Default)]
pub(in crate::sim) struct Routes {
    /// What hosts wrote, until a read of theirs has shown it.
    pub written: BTreeMap<(usize, Side, Ipv4Net), Written>,
    /// Destinations that somebody else wrote to.
    pub tampered: BTreeSet<Ipv4Net>,
    pub conflicts: BTreeSet<(TableId, Ipv4Net)>,
    /// When the last read of each host that did not fail was begun.
    pub looked: BTreeMap<usize, Timestamp>,
}

/// What happened.
#[derive(Debug, Default)]
pub(in crate::sim) struct Journal {
    /// The law that was broken first.
    pub violation: Option<String>,
    /// So many of the last events are kept.
    pub kept: usize,
    pub history: VecDeque<String>,
    pub events: u64,
    /// Bytes that were sent between hosts.
    pub bytes: u64,
}

impl Journal {
    /// Keeps this event, if any are kept.
    pub fn keep(&mut self, event: impl FnOnce() -> String) {
        if self.kept > 0 {
            if self.history.len() == self.kept {
                self.history.pop_front();
            }
            self.history.push_back(event());
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(in crate::sim) struct Dial {
    pub life: u32,
    pub number: u64,
    pub end: Option<ConnId>,
}
