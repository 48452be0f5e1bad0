//! Hosts that EC2 says run and that are not heard, while something rests here.
//!
//! A part of it may have been given to a host of which nobody else has heard. So whoever lets it rest asks EC2 which of the hosts
//! that are listed, or bear the tag, run: each must have been heard before the rest is over.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use super::{Node, Output, places::ASKED_MAX, status::Note, view::View};
use crate::{state::Fault, time::Timestamp};

/// What is known of hosts that are not heard.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    /// Which rest it is for, and since when.
    rest: Option<(u64, Timestamp)>,
    /// Listed and not heard.
    unheard: BTreeSet<Ipv4Addr>,
    /// Which addresses running instances have, of those that were asked about last.
    look: View<BTreeSet<Ipv4Addr>>,
    asked: BTreeSet<Ipv4Addr>,
    /// Something changed since it was last considered.
    touched: bool,
}

impl Strangers {
    /// To be considered anew.
    pub(super) fn touch(&mut self) {
        self.touched = true;
    }

    pub(super) fn next_look(&self) -> Option<Timestamp> {
        self.rest.filter(|_| !self.unheard.is_empty()).and_then(|_| self.look.next_look())
    }

    /// Those of the unheard that run, if EC2 was asked about all of them at `since` or later.
    fn running(&self, since: Timestamp) -> Option<BTreeSet<Ipv4Addr>> {
        if self.unheard.is_empty() {
            return Some(BTreeSet::new());
        }
        let is_fresh = self.look.is_current() && self.look.is_seen_since(since);
        let seen = self.look.seen().filter(|_| is_fresh && self.unheard.is_subset(&self.asked))?;
        Some(seen.intersection(&self.unheard).copied().collect())
    }
}

impl Node {
    /// Tells the address manager whom else it waits for. Returns whether anything may have changed.
    pub(super) fn settle_strangers(&mut self) -> bool {
        let Some(rest) = self.ipam.rest_number() else {
            if self.strangers.rest.is_some() {
                self.strangers = Strangers::default();
            }
            return false;
        };
        let is_new = self.strangers.rest.is_none_or(|(known, _)| known != rest);
        if !is_new && !std::mem::take(&mut self.strangers.touched) {
            return false;
        }
        if is_new {
            self.begin_to_ask(rest);
        }
        let running = self.running_strangers();
        self.ipam.set_strangers(running);
        true
    }

    fn begin_to_ask(&mut self, rest: u64) {
        self.strangers.rest = Some((rest, self.now));
        self.strangers.look.look_by(self.now);
        if self.config.ec2_tag.is_some() {
            self.discovery.found.look_by(self.now);
        }
        self.disturbed = true;
    }

    fn running_strangers(&mut self) -> Option<BTreeSet<Ipv4Addr>> {
        // Without EC2 nobody else is known.
        if self.identity.instance.is_none() {
            return Some(BTreeSet::new());
        }
        let (_, since) = self.strangers.rest?;
        self.strangers.unheard = self.unheard();
        if !self.strangers.unheard.is_subset(&self.strangers.asked) {
            self.strangers.look.look_by(self.now);
            self.disturbed = true;
        }
        let listed = self.config.ec2_tag.is_none() || self.discovery.found.is_seen_since(since);
        self.strangers.running(since).filter(|_| listed)
    }

    fn unheard(&self) -> BTreeSet<Ipv4Addr> {
        let v4 = |address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        };
        self.mesh.unheard().into_iter().filter_map(v4).take(ASKED_MAX).collect()
    }

    pub(super) fn look_for_strangers(&mut self) {
        if self.strangers.next_look().is_some() && self.strangers.look.begin(self.now) {
            self.strangers.asked = self.strangers.unheard.clone();
            self.outputs.push_back(Output::ObserveRunning(self.strangers.asked.clone()));
        }
    }

    pub(super) fn on_running_seen(&mut self, result: Result<BTreeSet<Ipv4Addr>, Fault>) {
        let interval = self.jittered(self.config.reconcile.interval) * 2;
        self.strangers.look.end(self.now, result, interval);
        self.strangers.touch();
    }

    /// It is not known who else may own a part of what rests.
    pub(super) fn unknown_strangers(&self) -> Option<Note> {
        let fault = self.strangers.look.fault()?;
        let what = format!("addresses rest here, for it cannot be read which hosts run: {fault}");
        Some(Note { what, hint: fault.hint.clone() })
    }
}
