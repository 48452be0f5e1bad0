//! All that a node knows at one moment, to be read and not to be changed: what it reports, and what it decides by, follows from it.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::Ipv4Net;

use crate::{
    addr::Range,
    ipam::{Ring, paxos::Claims, takeover::Log},
    node::{
        boundary::out::Effect,
        cluster::{observed::Observed, peers::Peers, probes::Probes},
        containers::local::Local,
        facts::Facts,
        persist::ledger::Ledger,
        reconcile::Reconcile,
    },
    peer::PeerName,
    plan::Plan,
    state::{Action, Fault, TableId},
    time::Timestamp,
};

/// What each subject knows.
#[derive(Clone, Copy)]
pub struct Overview<'a> {
    pub(in crate::node) facts: &'a Facts,
    pub(in crate::node) peers: &'a Peers,
    pub(in crate::node) observed: &'a Observed,
    pub(in crate::node) work: &'a Reconcile,
    pub(in crate::node) local: &'a Local,
    pub(in crate::node) probes: &'a Probes,
    pub(in crate::node) ledger: &'a Ledger<Effect>,
}

impl<'a> Overview<'a> {
    /// Who owns what, as this node has it.
    pub fn ring(&self) -> &'a Ring {
        self.peers.ipam.ring()
    }

    /// What this node took over from the dead and does not use yet.
    pub fn quarantined(&self) -> &'a [Range] {
        self.peers.ipam.quarantined()
    }

    /// Whether this node waits for what a peer says of what is in quarantine.
    pub fn awaits(&self, peer: PeerName) -> bool {
        self.peers.ipam.awaited().contains(&peer)
    }

    /// Whether this node has given its addresses away.
    pub fn has_left(&self) -> bool {
        self.peers.ipam.is_leaving()
    }

    /// What was decided about the dead, as far as this node knows.
    pub fn decided(&self) -> Option<&'a Log> {
        self.peers.dead.takeover.log()
    }

    /// What this node knows of everybody's promises in the election of the first ring.
    pub fn claims(&self) -> &'a Claims {
        self.peers.ipam.claims()
    }

    /// The peers there is a way to, without this one.
    pub fn reachable(&self) -> &'a BTreeSet<PeerName> {
        self.peers.ipam.reachable()
    }

    /// The instance of another peer, if it has said.
    pub fn instance_of(&self, peer: PeerName) -> Option<&'a str> {
        self.peers.dead.takeover.instance(peer)
    }

    /// Whether there may be containers of which only the link is known.
    pub fn knows_by_link(&self) -> bool {
        self.local.containers.knows_by_link()
    }

    /// Whether a container is called so.
    pub fn knows_container(&self, name: &str) -> bool {
        self.local.containers.named(name).is_some()
    }

    /// Addresses in use on this host, by whom.
    pub fn allocations(&self) -> &'a BTreeMap<String, Vec<Ipv4Net>> {
        self.peers.ipam.allocations()
    }

    /// What is to change, as last worked out.
    pub fn plan(&self) -> &'a Plan {
        &self.work.plan
    }

    /// One of the route tables that were last read.
    pub fn first_table(&self) -> Option<TableId> {
        self.work.converge.vpc.seen()?.tables.keys().next().map(|side| side.table.clone())
    }

    /// Addresses whose owners are not reached.
    pub fn unreachable_addresses(&self) -> u32 {
        let ring = self.peers.ipam.ring();
        let is_gone =
            |owner: PeerName| owner != self.facts.identity.name && !self.peers.mesh.is_reachable(owner);
        ring.owners().into_iter().filter(|(_, owner)| is_gone(*owner)).map(|(range, _)| range.len()).sum()
    }

    /// When the host and the VPC were last read with success, since this life began.
    pub fn last_looks(&self) -> [(&'static str, Option<Timestamp>); 2] {
        let converge = &self.work.converge;
        [("host", converge.host.seen_at()), ("vpc", converge.vpc.seen_at())]
    }

    /// Requests for addresses that wait.
    pub fn pending_requests(&self) -> usize {
        self.peers.tickets.len()
    }

    /// Routes that somebody else keeps changing.
    pub fn fought_over(&self) -> usize {
        self.work.converge.drift.fights(self.facts.now).count()
    }

    /// Why a step of the plan failed when it was last tried.
    pub fn failure(&self, action: &Action) -> Option<&'a Fault> {
        self.work.converge.failure(action)
    }

    /// Why a step that is under way is taken.
    pub fn cause(&self, action: &Action) -> Option<&'a str> {
        self.work.converge.cause(action)
    }

    /// Whether a step that is under way undoes what somebody did to a route.
    pub fn is_repair(&self, action: &Action) -> bool {
        self.work.converge.is_repair(action)
    }
}
