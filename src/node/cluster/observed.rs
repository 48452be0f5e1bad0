//! What is looked at beside the host and its route tables: names, instances, subnets; and whom to dial by what was found.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use super::peers::Peers;
use crate::{
    mesh::Hosts,
    node::{
        boundary::out::Out,
        facts::Facts,
        observe::{
            cadence::{Cadence, is_small, usual_share},
            discovery::Discovery,
            last_read::LastReads,
            names::Names,
            peer_subnets::Places,
        },
        protocol::status::Note,
        reconcile::Reconcile,
    },
    state::{Fault, InstanceState, SubnetId, Tables},
    time::Timestamp,
};

/// What such looks have shown, and how far apart they are.
#[derive(Debug)]
pub(in crate::node) struct Observed {
    pub discovery: Discovery,
    pub names: Names,
    pub places: Places,
    pub last_reads: LastReads,
    pub cadence: Cadence,
}

impl Observed {
    /// Looks where a look is due.
    pub fn look(&mut self, facts: &Facts, peers: &mut Peers, work: &mut Reconcile, out: &mut Out) {
        self.names.look(facts, out);
        self.discovery.look(facts, out);
        peers.look_for_instances(facts, out);
        peers.unconfirmed.look(facts, out);
        if facts.config.finds_tables() {
            let share = usual_share(peers.readers(facts));
            if self.places.look(facts.now, || peers.hosts().collect(), share, out) {
                // There is nobody to ask about.
                self.on_places_seen(facts, peers, work, out, Ok(BTreeMap::new()));
            }
        }
    }

    /// When to look next.
    pub fn next_look(&self, facts: &Facts) -> Option<Timestamp> {
        let tagged = facts.config.ec2_tag.as_ref().and_then(|_| self.discovery.found.next_look());
        let places = self.places.next_look().filter(|_| facts.config.finds_tables());
        [tagged, self.names.next_look(), places].into_iter().flatten().min()
    }

    /// Looks that were to come soon when the cluster was smaller.
    pub fn put_off_looks(&mut self, facts: &Facts, peers: &Peers, work: &mut Reconcile) {
        let readers = peers.readers(facts);
        if !is_small(facts.config.reconcile.interval, readers) {
            let share = self.cadence.share(readers);
            work.converge.vpc.put_off(share);
            self.discovery.found.put_off(share);
            self.places.put_off(share);
        }
    }

    // ===== what was seen =====

    /// Names were resolved.
    pub fn on_names_seen(
        &mut self,
        facts: &Facts,
        peers: &mut Peers,
        answers: BTreeMap<String, Result<Hosts, String>>,
    ) {
        let before = self.targets(facts);
        let interval = self.cadence.jittered(facts.config.reconcile.interval);
        self.names.seen(facts.now, answers, interval);
        self.dial_others_than(&before, facts, peers);
        // It may be known now where a host is that is not heard.
        peers.unconfirmed.touch();
    }

    /// A look for peers has ended.
    pub fn on_peers_seen(
        &mut self,
        facts: &Facts,
        peers: &mut Peers,
        result: Result<BTreeSet<Ipv4Addr>, Fault>,
    ) {
        let interval = self.next_read_in(facts, peers);
        let before = self.targets(facts);
        self.discovery.found.end(facts.now, result, interval);
        self.dial_others_than(&before, facts, peers);
        peers.unconfirmed.touch();
    }

    /// A look for the subnets of peers has ended: other tables may need our routes.
    pub fn on_places_seen(
        &mut self,
        facts: &Facts,
        peers: &Peers,
        work: &mut Reconcile,
        out: &mut Out,
        result: Result<BTreeMap<Ipv4Addr, SubnetId>, Fault>,
    ) {
        let apart = self.next_read_in(facts, peers);
        let interval = self.places.pause(&result, apart);
        let before = self.tables(facts);
        self.places.seen.end(facts.now, result, interval);
        if self.tables(facts) != before || work.converge.vpc.last_begun().is_none() {
            work.converge.vpc.look_by(facts.now);
            out.disturbed = true;
        }
    }

    /// A look for instances has ended.
    pub fn on_instances_seen(
        &mut self,
        facts: &Facts,
        peers: &mut Peers,
        result: Result<BTreeMap<String, InstanceState>, Fault>,
    ) {
        let interval = self.cadence.jittered(facts.config.reconcile.interval) * 2;
        peers.on_instances_seen(facts, result, interval);
    }

    /// A look for running instances has ended.
    pub fn on_running_seen(
        &mut self,
        facts: &Facts,
        peers: &mut Peers,
        result: Result<BTreeSet<Ipv4Addr>, Fault>,
    ) {
        let interval = self.cadence.jittered(facts.config.reconcile.interval) * 2;
        peers.unconfirmed.seen(facts.now, result, interval);
    }

    fn next_read_in(&mut self, facts: &Facts, peers: &Peers) -> Duration {
        self.cadence.next_read_in(facts.config.reconcile.interval, peers.readers(facts))
    }

    // ===== what follows =====

    /// Whom to dial: who is listed, and who was found.
    pub fn targets(&self, facts: &Facts) -> BTreeSet<String> {
        let tagged = facts.config.ec2_tag.iter().flat_map(|_| self.discovery.addresses());
        let listed = facts.config.peers.iter().flat_map(|peer| self.names.targets_of(peer));
        listed.chain(tagged.map(ToString::to_string)).collect()
    }

    fn dial_others_than(&mut self, before: &BTreeSet<String>, facts: &Facts, peers: &mut Peers) {
        if self.targets(facts) != *before {
            self.dial(facts, peers);
        }
    }

    /// Has the mesh dial them.
    pub fn dial(&mut self, facts: &Facts, peers: &mut Peers) {
        self.names.list(&facts.config.peers);
        peers.mesh.set_targets(facts.now, self.targets(facts));
        peers.unconfirmed.touch();
    }

    /// Which route tables to look at, as configured.
    pub fn tables(&self, facts: &Facts) -> Tables {
        facts.config.vpc.route_tables.serving(self.places.subnets())
    }

    /// Other tables than those that are known may need our routes.
    pub fn unknown_places(&self, facts: &Facts) -> Option<Note> {
        let fault = self.places.fault().filter(|_| facts.config.finds_tables())?;
        Some(Note {
            what: format!("the peers' subnets cannot be read, so tables of theirs may be missing: {fault}"),
            hint: fault.hint.clone().or_else(|| Some("or name the tables in `[vpc] route_tables`".into())),
        })
    }
}
