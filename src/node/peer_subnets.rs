//! Where peers live: the subnets whose route tables are kept, beside our own.
//!
//! The mesh knows addresses; EC2 says in which subnet each of them is. A peer that cannot be reached still lives where it lived:
//! only EC2 says that an instance is gone. What cannot be read leaves the tables as they are known.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use super::{Node, io::Output, overview::Overview, peers::Peers, status::Note, view::View};
use crate::{
    config::RouteTables,
    state::{Fault, SubnetId, Tables},
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
    seen: View<BTreeMap<Ipv4Addr, SubnetId>>,
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
    pub(super) fn fault(&self) -> Option<&Fault> {
        self.seen.fault()
    }

    fn calls(&self) -> u32 {
        self.asked.len().div_ceil(CALL_MAX).max(1) as u32
    }

    fn subnets(&self) -> BTreeSet<SubnetId> {
        self.seen.seen().into_iter().flat_map(BTreeMap::values).cloned().collect()
    }
}

impl Overview<'_> {
    /// Which tables to look at, as configured.
    pub(super) fn tables(&self) -> Tables {
        self.facts.config.vpc.route_tables.serving(self.observed.places.subnets())
    }

    pub(super) fn next_look_for_places(&self) -> Option<Timestamp> {
        let looks = [self.observed.places.seen.next_look(), self.observed.places.doubted];
        let auto = self.facts.config.vpc.route_tables == RouteTables::Auto;
        looks.into_iter().flatten().min().filter(|_| auto)
    }

    /// Other tables than those that are known may need our routes.
    pub(super) fn unknown_places(&self) -> Option<Note> {
        let fault = self
            .observed
            .places
            .fault()
            .filter(|_| self.facts.config.vpc.route_tables == RouteTables::Auto)?;
        Some(Note {
            what: format!("the peers' subnets cannot be read, so tables of theirs may be missing: {fault}"),
            hint: fault.hint.clone().or_else(|| Some("or name the tables in `[vpc] route_tables`".into())),
        })
    }
}

impl Node {
    /// Before the first look at the tables it should be known which.
    pub(super) fn await_places(&mut self) {
        if self.facts.config.vpc.route_tables == RouteTables::Auto {
            self.work.converge.vpc.hold();
        }
    }

    pub(super) fn look_for_places(&mut self) {
        if self.facts.config.vpc.route_tables != RouteTables::Auto {
            return;
        }
        if self.observed.places.doubted.take_if(|due| *due <= self.facts.now).is_some()
            && self.peers.hosts().any(|host| !self.observed.places.asked.contains(&host))
        {
            let pause = self.overview().usual_share();
            let soon = self.observed.places.seen.last_begun().map_or(self.facts.now, |begun| begun + pause);
            self.observed.places.seen.look_by(soon.max(self.facts.now));
        }
        if !self.observed.places.seen.begin(self.facts.now) {
            return;
        }
        let known = self.observed.places.seen.seen().into_iter().flat_map(BTreeMap::keys).copied();
        let mut asked = BTreeSet::new();
        for host in self.peers.hosts().chain(known) {
            if asked.len() < ASKED_MAX {
                asked.insert(host);
            }
        }
        self.observed.places.asked = asked.clone();
        match asked.is_empty() {
            true => self.on_places_seen(Ok(BTreeMap::new())),
            false => self.out.outputs.push_back(Output::ObservePlaces(asked)),
        }
    }

    pub(super) fn on_places_seen(&mut self, result: Result<BTreeMap<Ipv4Addr, SubnetId>, Fault>) {
        // Tables of peers may be missing until it succeeds.
        let often = if result.is_ok() { SELDOM } else { SELDOM_FAILED };
        let interval: Duration = self.vpc_interval() * often * self.observed.places.calls();
        let before = self.overview().tables();
        self.observed.places.seen.end(self.facts.now, result, interval);
        if self.overview().tables() != before || self.work.converge.vpc.last_begun().is_none() {
            self.work.converge.vpc.look_by(self.facts.now);
            self.out.disturbed = true;
        }
    }
}

impl Peers {
    /// Addresses of peers: of those we are connected to, of those we would like to be, and of those that others are.
    pub(super) fn hosts(&self) -> impl Iterator<Item = Ipv4Addr> {
        let inet = |ip| match ip {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        };
        let connected = self.mesh.connections().filter(|view| view.peer.is_some());
        let connected = connected.filter_map(move |view| inet(view.remote.ip()));
        let named = self.mesh.targets().into_iter().filter_map(|view| {
            let host = view.target.rsplit_once(':').map_or(view.target.as_str(), |(host, _)| host);
            host.parse().ok()
        });
        connected.chain(named).chain(self.mesh.hosts().into_iter().filter_map(inet))
    }
}
