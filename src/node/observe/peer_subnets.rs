//! Where peers live: the subnets whose route tables are kept, beside our own.
//!
//! The mesh knows addresses; EC2 says in which subnet each of them is. A peer that cannot be reached still lives where it lived:
//! only EC2 says that an instance is gone. What cannot be read leaves the tables as they are known.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use super::view::View;
use crate::{
    node::boundary::{io::Output, out::Out},
    state::{Fault, SubnetId},
    time::Timestamp,
};

/// Addresses that are asked about, at most.
pub const ASKED_MAX: usize = 1000;
/// Addresses that fit into one call.
pub const CALL_MAX: usize = 200;
/// Looks at the tables between two looks for what seldom changes.
const SELDOM: u32 = 10;
/// The same after a look that failed, for longer and longer pauses.
const SELDOM_FAILED: u32 = 2;
/// How long changes of the mesh are gathered before they are looked into.
const GATHER: Duration = Duration::from_secs(1);

/// The subnets of the peers.
#[derive(Debug, Default)]
pub struct Places {
    /// By the addresses of instances, as last read.
    pub(in crate::node) seen: View<BTreeMap<Ipv4Addr, SubnetId>>,
    /// What was asked about last.
    asked: BTreeSet<Ipv4Addr>,
    /// When to see whether the mesh knows others.
    doubted: Option<Timestamp>,
}

impl Places {
    /// The mesh has changed.
    pub fn doubt(&mut self, now: Timestamp) {
        self.doubted.get_or_insert(now + GATHER);
    }

    /// The next look that comes by itself is no sooner than this allows, a share of the reading calls.
    pub fn put_off(&mut self, share: Duration) {
        self.seen.put_off(share * SELDOM * self.calls());
    }

    /// Why the last look failed.
    pub(in crate::node) fn fault(&self) -> Option<&Fault> {
        self.seen.fault()
    }

    fn calls(&self) -> u32 {
        self.asked.len().div_ceil(CALL_MAX).max(1) as u32
    }

    pub(in crate::node) fn subnets(&self) -> BTreeSet<SubnetId> {
        self.seen.seen().into_iter().flat_map(BTreeMap::values).cloned().collect()
    }

    /// When to look next.
    pub(in crate::node) fn next_look(&self) -> Option<Timestamp> {
        [self.seen.next_look(), self.doubted].into_iter().flatten().min()
    }

    /// Asks for the subnets of the peers at these addresses, if it is time; not sooner than a share of the reading calls after the
    /// last look. Returns whether that time has come and there is nobody to ask about. Of many peers it takes long to say where they
    /// are.
    pub(in crate::node) fn look(
        &mut self,
        now: Timestamp,
        hosts: impl FnOnce() -> BTreeSet<Ipv4Addr>,
        share: Duration,
        out: &mut Out,
    ) -> bool {
        if self.next_look().is_none_or(|due| due > now) {
            return false;
        }
        let hosts = hosts();
        if self.doubted.take_if(|due| *due <= now).is_some()
            && hosts.iter().any(|host| !self.asked.contains(host))
        {
            let soon = self.seen.last_begun().map_or(now, |begun| begun + share);
            self.seen.look_by(soon.max(now));
        }
        if !self.seen.begin(now) {
            return false;
        }
        let known = self.seen.seen().into_iter().flat_map(BTreeMap::keys).copied();
        let mut asked = BTreeSet::new();
        for host in hosts.iter().copied().chain(known) {
            if asked.len() < ASKED_MAX {
                asked.insert(host);
            }
        }
        self.asked = asked.clone();
        if asked.is_empty() {
            return true;
        }
        out.outputs.push_back(Output::ObservePlaces(asked));
        false
    }

    /// How long to wait with the next look after this result, where others come so far apart.
    pub(in crate::node) fn pause(
        &self,
        result: &Result<BTreeMap<Ipv4Addr, SubnetId>, Fault>,
        apart: Duration,
    ) -> Duration {
        // Tables of peers may be missing until it succeeds.
        let often = if result.is_ok() { SELDOM } else { SELDOM_FAILED };
        apart * often * self.calls()
    }
}
