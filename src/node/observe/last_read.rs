//! The last look at the route tables, kept over a restart.
//!
//! What EC2 showed is written to the store where it differs from what the store has, and now and then to renew its time. A daemon
//! that is started while EC2 cannot be asked believes it, until a look succeeds: routes do not go away because a daemon does. Nothing
//! is created or deleted for it, since the plan compares with looks of this life alone. A machine that was started anew and whose
//! metadata are silent may be a copy of the one that wrote it, and believes nothing.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    addr::{Address, Family, Prefix, Range, join},
    node::{
        boundary::out::Out,
        facts::Facts,
        persist::memory::{LastRead, Write},
    },
    time::Timestamp,
};

/// A record that says the same is written again after so long, for its time.
const RENEWED_AFTER_S: u64 = 600;
/// CIDRs that a record holds at most. A host with more of them in its tables keeps none, and is careful after a restart.
pub(in crate::node) const LED_MAX: usize = 4096;

/// What the store has, and what of it is believed.
#[derive(Debug)]
pub(in crate::node) struct LastReads {
    /// By an earlier life; until this one has read.
    recalled: Option<LastRead>,
    /// As the store has it.
    kept: Option<LastRead>,
    /// When this life began, in seconds since 1970.
    began_s: u64,
}

impl LastReads {
    pub(in crate::node) fn new(recalled: Option<LastRead>, began_s: u64) -> LastReads {
        LastReads { kept: recalled.clone(), recalled, began_s }
    }

    /// Seconds since 1970.
    pub(in crate::node) fn wall_s(&self, now: Timestamp) -> u64 {
        self.began_s + now.since(Timestamp::ZERO).as_secs()
    }

    /// A look has succeeded: it is what counts from now on, and what a next life goes by.
    pub(in crate::node) fn keep(&mut self, out: &mut Out, read: Option<LastRead>) {
        self.recalled = None;
        let Some(read) = read else { return };
        let same = |kept: &LastRead| {
            read.at_s.saturating_sub(kept.at_s) < RENEWED_AFTER_S
                && *kept == LastRead { at_s: kept.at_s, ..read.clone() }
        };
        if !self.kept.as_ref().is_some_and(same) {
            out.ledger.write(Write::last_read(&read));
            self.kept = Some(read);
        }
    }

    /// What an earlier life read, where nothing was read since and it was this host's.
    pub(in crate::node) fn recalled(&self, facts: &Facts) -> Option<&LastRead> {
        let recalled = self.recalled.as_ref()?;
        let is_ours = match &facts.metadata {
            Some(metadata) => metadata.interface == recalled.interface,
            None => recalled.boot == facts.boot,
        };
        (is_ours && recalled.range == facts.config.ipam.range).then_some(recalled)
    }

    /// IPv6 prefixes other than this one of which routes lead here by the last read, of this life or an earlier one.
    pub(in crate::node) fn retired(&self, prefix: Option<Prefix>) -> BTreeSet<Prefix> {
        let led = self.kept.iter().flat_map(|read| read.led.keys());
        let prefixes = led.filter_map(|side| match side.family {
            Family::V4 => None,
            Family::V6(of_side) => Some(of_side),
        });
        prefixes.filter(|of_side| Some(*of_side) != prefix).collect()
    }

    /// How old that is.
    pub(in crate::node) fn age_of(&self, now: Timestamp, read: &LastRead) -> Duration {
        Duration::from_secs(self.wall_s(now).saturating_sub(read.at_s))
    }
}

impl LastRead {
    /// The first table that did not lead this address to the host; `None`: all that were read did.
    pub(in crate::node) fn not_led(&self, address: Address) -> Option<&crate::state::Side> {
        let misses = |led: &[ipnet::Ipv4Net]| !led.iter().any(|cidr| Range::from(*cidr).contains(address));
        self.led.iter().find(|(_, led)| misses(led)).map(|(id, _)| id)
    }

    /// Whether every table led all of this to the host.
    pub(in crate::node) fn led_all(&self, owned: &[Range]) -> bool {
        let leads = |led: &Vec<ipnet::Ipv4Net>| {
            let led = join(led.iter().map(|cidr| Range::from(*cidr)));
            owned.iter().all(|range| led.iter().any(|part| part.covers(*range)))
        };
        !self.led.is_empty() && self.led.values().all(leads)
    }
}
