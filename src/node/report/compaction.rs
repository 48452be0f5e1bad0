//! Fewer routes, in peace: when a block may move, how many writes that may cost, and what is said of it.

use std::{collections::BTreeSet, time::Duration};

use ipnet::Ipv4Net;

use super::overview::Overview;
use crate::{
    addr::Range,
    node::{cluster::compact::Moves, facts::Leave, protocol::status::CompactionStatus},
    peer::PeerName,
    state::{SpareWrites, Target},
};

/// Writes to EC2 that a host may have made within an hour, for whatever reason, when it makes one only to have fewer routes. Of a
/// cluster of 200 that is three a second at the worst, which EC2 lets through at all times; and a host can take fifteen blocks an hour.
pub const WRITES_AN_HOUR: usize = 60;
const HOUR: Duration = Duration::from_secs(3600);
/// Writes that a block costs whoever takes it: its route is replaced; later one is created for it and what was there before, and
/// two are deleted.
const WRITES_A_BLOCK: usize = 4;

impl Overview<'_> {
    /// Why nothing moves: this host or another is in trouble, or has something else to do.
    pub(in crate::node) fn unrest(&self) -> Option<&'static str> {
        let converge = &self.work.converge;
        let is_read = converge.host.seen().is_some() && converge.vpc.seen().is_some();
        let fault = converge.host.fault().is_some() || converge.vpc.fault().is_some();
        let (ipam, dead) = (&self.peers.ipam, &self.peers.dead);
        let reasons = [
            (self.facts.leave != Leave::No || ipam.is_leaving(), "this host leaves"),
            (self.facts.on_trial, "a configuration is on trial"),
            (!self.peers.has_ring() || !self.facts.ring_kept, "there is no ring yet"),
            (!is_read || fault, "the host or the route tables cannot be read"),
            (self.ledger.fault().is_some(), "the disk takes nothing"),
            (!dead.silent.is_empty(), "an owner of addresses is not heard"),
            (!ipam.quarantined().is_empty(), "addresses are in quarantine"),
            (!ipam.contested().is_empty(), "another stands by addresses of this host"),
            (ipam.is_waiting(), "a container waits for an address"),
            (self.fought_over() > 0, "somebody else changes routes of this host"),
            (!self.work.plan.conflicts.is_empty(), "routes of others stand in the range"),
            (self.probes.probes_are_lost(), "packets are lost"),
        ];
        reasons.into_iter().find(|(is_so, _)| *is_so).map(|(_, reason)| reason)
    }

    /// The same, and why there is no time for it now.
    fn hindrance_to_moves(&self) -> Option<&'static str> {
        let busy = || (!self.is_converged()).then_some("the plan is being carried out");
        self.unrest().or_else(busy)
    }

    /// Writes to EC2 that may be made now only to have fewer routes.
    pub(in crate::node) fn spare_writes(&self) -> SpareWrites {
        if !self.peers.compacts(self.facts) || self.unrest().is_some() {
            return SpareWrites::default();
        }
        let writes = self.writes_left();
        SpareWrites { merges: writes, covers: if self.next_gift().is_some() { 0 } else { writes } }
    }

    /// Writes that the last hour has left for that.
    pub fn writes_left(&self) -> usize {
        let since = self.facts.now.before(HOUR);
        let steps = self.work.converge.steps().rev();
        let written = steps.filter(|step| step.at > since && step.change.action.route().is_some()).count();
        WRITES_AN_HOUR.saturating_sub(written)
    }

    /// Whether this host may give a block, and whether it may take one.
    pub(in crate::node) fn moves(&self) -> Moves {
        let gives = self.peers.compacts(self.facts) && self.hindrance_to_moves().is_none();
        Moves { gives, takes: gives && self.spare_writes().merges >= WRITES_A_BLOCK }
    }

    /// How many routes this host has, and could have.
    pub(in crate::node) fn compaction(&self) -> CompactionStatus {
        let compacts = self.peers.compacts(self.facts);
        let routes = self.work.converge.vpc.seen().map_or(0, |vpc| {
            let range = Range::from(self.facts.config.ipam.range);
            let ours = Target::Interface(vpc.interface.clone());
            let of_table = |table: &crate::state::Table| {
                let mut routes = table.routes.iter().filter(|(cidr, _)| range.covers((**cidr).into()));
                routes.by_ref().filter(|(_, route)| route.target == ours).count()
            };
            vpc.tables.values().map(of_table).max().unwrap_or(0)
        });
        let routes_least = routes.min(self.peers.ipam.blocks() - self.peers.ipam.movable());
        let next = self.next_move().filter(|_| compacts);
        let idle = || next.is_none().then(|| self.why_nothing_is_next());
        let waits = || self.hindrance_to_moves().or_else(idle).map(str::to_owned);
        CompactionStatus {
            on: compacts,
            routes,
            routes_least,
            waits: (compacts && routes > routes_least).then(waits).flatten(),
            next,
        }
    }

    /// Why no block goes to another host although there could be fewer routes, and nothing is in the way.
    fn why_nothing_is_next(&self) -> &'static str {
        let ipam = &self.peers.ipam;
        if ipam.movable() == 0 {
            return "after addresses changed hands the route tables are read again first";
        }
        match ipam.next_gift(&BTreeSet::new()) {
            None => "no block fits beside one of another host",
            Some(_) => "the hosts beside its blocks take none",
        }
    }

    /// The block that this host would offer next, and to whom, if it left out these.
    pub fn spare_block(&self, left_out: &BTreeSet<PeerName>) -> Option<(Ipv4Net, PeerName)> {
        self.moves().gives.then(|| self.peers.ipam.next_gift(left_out)).flatten()
    }

    /// Whether this host would take a block.
    pub fn takes_blocks(&self) -> bool {
        self.moves().takes
    }

    /// What a plan says of it.
    pub(in crate::node) fn coming_move(&self) -> Option<String> {
        self.next_move().filter(|_| self.peers.compacts(self.facts) && self.unrest().is_none())
    }

    /// What is to move next, and to whom.
    fn next_gift(&self) -> Option<(Ipv4Net, PeerName)> {
        self.peers.ipam.next_gift(&self.peers.compaction.left_out())
    }

    /// The same, in words.
    pub(in crate::node) fn next_move(&self) -> Option<String> {
        let (block, to) = self.next_gift()?;
        Some(format!("{block}, which nobody uses, is to go to {}: one route less", self.peers.named(to)))
    }
}
