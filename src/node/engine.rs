//! What follows from what happened: peers agree, looks are taken, the plan is made and carried out.

use std::collections::BTreeSet;

use ipnet::Ipv4Net;

use super::{
    boundary::{
        io::Output,
        order::Order,
        out::{Effect, Out},
        tickets::Purpose,
    },
    cluster::{
        observed::Observed,
        peer_paths::Owned,
        peers::{News, Peers},
        probes::Probes,
    },
    containers::{
        canary,
        local::{Context, Local},
    },
    facts::Facts,
    identity::{Metadata, contradicted},
    observe::{
        cadence::{has_room_for_the_check, usual_share},
        discovery::Discovery,
        view::{CALM, PAUSE_DENIED, View},
    },
    persist::{
        ledger::{SaveFault, SaveId},
        memory::Write,
    },
    protocol::request::{Refusal, Response},
    reconcile::{Reconcile, desired::link_mtu},
    report::overview::Overview,
    story::Story,
};
use crate::{
    addr::{Address, Family, Range, Universe},
    config::{Config, RouteTables},
    ipam::{Refused, Ticket},
    mesh,
    peer::PeerName,
    state::{Action, Ec2Action, Fault, FaultKind, Host, Made, Remote, Vpc},
    time::Timestamp,
};

/// Each subject, and what is to leave.
pub(super) struct Engine {
    pub facts: Facts,
    pub peers: Peers,
    pub observed: Observed,
    pub work: Reconcile,
    pub local: Local,
    pub probes: Probes,
    pub story: Story,
    pub out: Out,
    /// When it may be even if nothing happens: a look is due, or a step.
    pub turn_due: Option<Timestamp>,
}

/// What others than the engine go on with.
#[derive(Debug)]
pub(super) enum Upshot {
    /// The disk has the configuration that comes back: the order may be carried out.
    FormerKept(Box<Order>),
    /// The container of this name got no address.
    NoAddress(String, Refused),
    /// Nothing could be lent to the interface of this name.
    NoLoan(String, Refusal),
}

impl Engine {
    /// All that it knows.
    pub fn overview(&self) -> Overview<'_> {
        let Engine { facts, peers, observed, work, local, probes, out, .. } = self;
        Overview { facts, peers, observed, work, local, probes, ledger: &out.ledger }
    }

    /// What lives on this host, and what it works with.
    pub fn local(&mut self) -> (&mut Local, Context<'_>) {
        let Engine { facts, peers, work, local, out, .. } = self;
        (local, Context { facts, peers, work, out })
    }

    pub fn wake_up(&mut self, fresh: bool) {
        if fresh {
            self.out.ledger.write(Write::format());
            self.out.ledger.write(Write::identity(&self.facts.identity));
        }
        self.peers.mesh.set_channels(self.peers.dead.channels());
        self.observed.dial(&self.facts, &mut self.peers);
        if self.peers.dead.takeover.is_of_this_boot() {
            self.peers.ipam.trust_memory();
        }
        if self.facts.identity.instance.is_none() {
            // Outside EC2 nothing can be looked for.
            self.peers.ipam.prove_memory(|_| false);
        }
        if !self.facts.config.is_on_ec2() {
            self.work.converge.vpc = View::closed();
        } else if self.facts.config.vpc.route_tables == RouteTables::Auto {
            // Before the first look at the tables it should be known which.
            self.work.converge.vpc.hold();
        }
        let (local, mut cx) = self.local();
        local.resume(&mut cx);
    }

    /// Carries on until nothing more follows from what happened, but for what is not the engine's to do.
    pub fn carry_on(&mut self) -> Vec<Upshot> {
        let mut upshots = Vec::new();
        loop {
            self.judge_election();
            let Engine { facts, peers, observed, work, probes, out, .. } = self;
            let mut any = peers.settle(facts, out);
            let Peers { mesh, ipam, unconfirmed, .. } = &mut *peers;
            any |= unconfirmed.settle(facts, (mesh, ipam), (&observed.names, &mut observed.discovery), out);
            any |= probes.settle(facts, peers, work, &mut observed.cadence, out);
            while let Some(news) = self.peers.news.pop_front() {
                any = true;
                upshots.extend(self.on_news(news));
            }
            while let Some(effect) = self.out.next_effect() {
                any = true;
                upshots.extend(self.perform(effect));
            }
            if !any {
                return upshots;
            }
        }
    }

    /// When the loop is to turn next is found out.
    pub fn rest(&mut self) {
        self.tell_story();
        self.turn_due = self.next_turn();
        self.out.save(self.facts.now);
    }

    /// When to wake it if nothing happens before, but for probes.
    pub fn next_wake(&self) -> Option<Timestamp> {
        let wakes = [
            self.peers.mesh.next_wake(),
            self.peers.ipam.next_wake(),
            self.peers.relay.map(|(due, _)| due),
            self.peers.paths.next_wake(),
            self.turn_due,
            self.out.ledger.next_wake(),
        ];
        wakes.into_iter().flatten().min()
    }

    /// When the loop is to turn next.
    fn next_turn(&self) -> Option<Timestamp> {
        if self.out.disturbed {
            return Some(self.facts.now);
        }
        let wakes = [
            self.work.converge.next_wake(self.facts.now, &self.work.plan),
            self.observed.next_look(&self.facts),
            self.peers.dead.next_wake(self.facts.now, self.facts.identity.instance.is_some()),
            self.peers.unconfirmed.next_look(),
            self.local.canary.next_wake(),
            self.peers.next_offer(&self.facts),
        ];
        wakes.into_iter().flatten().min()
    }

    fn on_ipam_answer(&mut self, ticket: Ticket, result: Result<Vec<Ipv4Net>, Refused>) -> Option<Upshot> {
        self.out.disturbed |= !self.local.canary.leaves_room(&self.facts, &self.peers);
        match self.peers.tickets.spend(ticket)? {
            Purpose::Attach(ident) => {
                let (local, mut cx) = self.local();
                let refused = local.on_address(&mut cx, &ident, result).err()?;
                return Some(Upshot::NoAddress(ident, refused));
            }
            Purpose::Lease(ident) => {
                let (local, mut cx) = self.local();
                let refusal = local.on_leased(&mut cx, &ident, result).err()?;
                return Some(Upshot::NoLoan(ident, refusal));
            }
            Purpose::DockerBridge => {
                let (local, mut cx) = self.local();
                local.on_bridge_block(&mut cx, result);
            }
            Purpose::Request(id) => {
                let result = result.map(Response::Addresses).map_err(|refused| Refusal::from(&refused));
                self.out.answer(id, result);
            }
        }
        None
    }

    /// Whether to elect where there is no ring yet.
    fn judge_election(&mut self) {
        if !self.peers.has_ring() {
            let reason = self.overview().reason_not_to_elect();
            self.peers.ipam.hold_election(reason);
            self.peers.ipam.wake(self.facts.now);
        }
    }

    fn on_news(&mut self, news: News) -> Option<Upshot> {
        match news {
            News::Answered(ticket, result) => return self.on_ipam_answer(ticket, result),
            News::RingChanged => {
                self.story.touch();
                self.probes.touch();
                let owned = self.peers.ipam.owned();
                self.work.converge.drift.keep(&owned);
                let pace = self.facts.config.ipam.compact.unwrap_or_default();
                self.peers.compaction.see(self.facts.now, pace, &owned);
                self.out.disturbed |= self.facts.ring_kept;
            }
            News::TopologyChanged => {
                self.story.touch();
                self.probes.touch();
                self.observed.places.doubt(self.facts.now);
                self.observed.put_off_looks(&self.facts, &self.peers, &mut self.work);
            }
            News::Said => self.probes.touch(),
            News::Path => {
                self.probes.touch();
                self.out.disturbed = true;
            }
            News::Talk(delivery) => self.probes.on_talk(self.facts.now, &delivery),
            News::Block(delivery) => {
                let moves = self.overview().moves();
                self.peers.on_block(&self.facts, &mut self.out, moves, &delivery);
            }
        }
        None
    }

    fn perform(&mut self, effect: Effect) -> Option<Upshot> {
        let mesh = &mut self.peers.mesh;
        match effect {
            Effect::Gossip(channel, to, state) => mesh.gossip(to, channel, &state),
            Effect::Broadcast(channel, origin, state) => mesh.broadcast(origin, channel, &state),
            Effect::Offer(digests) => mesh.offer(&digests),
            // Whoever waits for an answer asks again, or another peer.
            Effect::Unicast(channel, to, message) => drop(mesh.unicast(to, channel, &message)),
            Effect::Answer(id, result) => self.out.outputs.push_back(Output::Answer(id, result)),
            Effect::FormerKept(order) => return Some(Upshot::FormerKept(order)),
            Effect::Finish => self.out.outputs.push_back(Output::Finished),
        }
        None
    }

    /// A save has ended. A crash cannot take any more what it has: routes may lead to ranges, and links be made.
    pub fn on_stored(&mut self, id: SaveId, result: Result<(), SaveFault>) {
        let Engine { facts, out, .. } = self;
        let has = |is_of_kind: fn(&str) -> bool| result.is_ok() && out.ledger.is_saving(id, is_of_kind);
        let (has_ring, has_containers) = (has(Write::is_of_ring), has(Write::is_of_attached));
        facts.ring_kept |= has_ring;
        out.disturbed |= has_ring || has_containers;
        if has_containers {
            self.touch_unkept();
        }
        self.out.stored(self.facts.now, id, result);
    }

    /// Whether the link of a container is kept up that the disk does not have hangs on whether it is there.
    fn touch_unkept(&mut self) {
        for ident in self.out.ledger.unkept_containers() {
            self.local.containers.touch_named(ident);
        }
    }

    pub fn on_woken(&mut self) {
        self.peers.mesh.handle(self.facts.now, mesh::Input::Woken);
        self.peers.ipam.wake(self.facts.now);
        self.peers.dead.touch();
        self.out.disturbed |= self.turn_due.is_some_and(|due| due <= self.facts.now);
    }

    fn tell_story(&mut self) {
        let Engine { facts, peers, observed, work, local, probes, out, story, .. } = self;
        let known = Overview { facts, peers, observed, work, local, probes, ledger: &out.ledger };
        let events = story.news(known);
        self.out.outputs.extend(events.into_iter().map(Output::Told));
    }

    // ===== the loop =====

    /// Looks where a look is due, plans, and takes the next steps.
    pub fn turn(&mut self, explained: &BTreeSet<Address>) {
        let owners = self.peers.ipam.settled_owners();
        self.work.moves.see(self.facts.now, &owners);
        self.tend_canary();
        self.make_up_links();
        self.find_paths(&owners);
        self.observed.look(&self.facts, &mut self.peers, &mut self.work, &mut self.out);
        self.look(explained);
        self.work.plan = self.overview().plan_for(&self.facts.config);
        self.peers.ipam.set_avoided(self.local.avoided(&self.facts, &self.work.plan));
        for action in self.work.converge.take(self.facts.now, &self.work.plan) {
            self.out.outputs.push_back(Output::Apply(action));
        }
        self.offer_block();
    }

    /// Where this host is, and which routes lead to the others.
    fn find_paths(&mut self, owners: &[(Range, PeerName)]) {
        let (own, device) = (self.overview().own_place(), self.overview().own_device());
        let Engine { facts, peers, work, .. } = self;
        let families: Vec<Family> = facts.config.universe().families().collect();
        let owned = Owned { owners, me: facts.identity.name, families: &families };
        peers.paths.set_own(facts.now, own);
        let nothing = Remote::default();
        let seen = work.converge.host.seen().map_or(&nothing, |host| &host.remote);
        peers.paths.lead(facts.now, owned, seen, device);
    }

    /// Offers another a block that this host can do without, if it is time and all is well.
    fn offer_block(&mut self) {
        let Some(pace) =
            self.facts.config.ipam.compact.filter(|_| self.peers.next_offer(&self.facts).is_some())
        else {
            return;
        };
        let pause = self.observed.cadence.jittered(pace);
        if self.peers.compaction.is_due(self.facts.now, pause) && self.overview().moves().gives {
            self.peers.offer_block(&self.facts, &mut self.out);
        }
    }

    /// What containers need of the host is made up for what they are now.
    fn make_up_links(&mut self) {
        let Some(anew) = self.overview().wanted_anew() else { return };
        self.work.wanted.take_in(anew);
        self.local.containers.all_made_up();
        debug_assert!(self.overview().is_made_up(), "what was touched is not all that has changed");
    }

    fn tend_canary(&mut self) {
        let Engine { facts, peers, work, local, out, .. } = self;
        let wanted = canary::is_wanted(facts, peers) && !local.containers.is_forgetful();
        let claims = local.canary.tend(facts, peers, work, wanted, out);
        if !claims.is_empty() {
            peers.ipam.set_avoided(local.avoided(facts, &work.plan));
        }
        for (ticket, ask) in claims {
            peers.ipam.ask(facts.now, ticket, ask);
        }
        let host = work.converge.host.seen();
        let told = local.canary.told(host, link_mtu(&facts.config, host), &facts.config);
        peers.dead.takeover.set_canary(told);
        self.probes.prober.set_canary(facts.now, told);
    }

    /// Looks at the host and at its route tables, where that is due.
    fn look(&mut self, explained: &BTreeSet<Address>) {
        let rules = self.overview().rules_to_look_for();
        if self.work.looked_for != rules {
            self.work.converge.host.look_by(self.facts.now);
        }
        if self.work.converge.begin_host(self.facts.now) {
            self.local.containers.look_begins();
            let known = self.overview();
            let mut wanted = known.ground().looked_for();
            wanted.remote.asked = known.others_to_ask_for(explained);
            self.work.looked_for = wanted.rules.clone();
            let scope = self.work.converge.host.scope();
            self.out.outputs.push_back(Output::ObserveHost(Box::new(wanted), scope));
        }
        if self.work.converge.begin_vpc(self.facts.now) {
            let config = &self.facts.config;
            if has_room_for_the_check(config.reconcile.interval, self.peers.readers(&self.facts)) {
                self.out.outputs.push_back(Output::DoubtCheck);
            }
            let tables = self.observed.tables(&self.facts);
            let retired = self.observed.last_reads.retired(config.network.ipv6);
            let universe = Universe { retired, ..config.universe() };
            self.out.outputs.push_back(Output::ObserveVpc(universe, tables));
        }
    }

    pub fn on_host_seen(&mut self, result: Result<Host, Fault>) {
        let interval = self.observed.cadence.jittered(self.facts.config.reconcile.interval);
        self.work.converge.host_seen(self.facts.now, result, interval);
        self.touch_unkept();
        self.work.judge_paths(&self.facts.config);
        self.out.disturbed = true;
        if self.work.converge.host.fault().is_none() {
            let (local, mut cx) = self.local();
            local.tend(&mut cx);
        }
    }

    pub fn on_vpc_seen(&mut self, result: Result<Vpc, Fault>) {
        let readers = self.peers.readers(&self.facts);
        self.observed.cadence.draw(readers);
        let interval = self.facts.config.reconcile.interval;
        let interval = self.observed.cadence.next_read_in(interval, readers);
        if let Ok(vpc) = &result {
            vpc.tables.iter().for_each(|(id, table)| self.work.quotas.seen(id, table.used));
        }
        let has_read = result.is_ok();
        self.work.converge.vpc_seen(self.facts.now, result, interval);
        if has_read {
            let read = self.overview().as_read();
            self.observed.last_reads.keep(&mut self.out, read);
        }
        if let Some(vpc) = self.work.converge.vpc.seen() {
            self.peers.look_for_traces(self.facts.config.ipam.range, vpc);
        }
        self.out.disturbed = true;
    }

    pub fn on_link_made(&mut self, made: Made) {
        self.work.link_made(&self.facts.config, made);
        self.touch_unkept();
    }

    pub fn on_applied(&mut self, action: &Action, outcome: Result<Option<String>, Fault>) {
        let Engine { facts, work, observed, peers, out, .. } = self;
        if let (Action::Ec2(Ec2Action::CreateRoute { table, .. }), Err(fault)) = (action, &outcome)
            && fault.kind == FaultKind::Quota
        {
            let used = work.converge.believed().and_then(|vpc| Some(vpc.tables.get(table)?.used));
            used.into_iter().for_each(|used| work.quotas.learn(facts.now, table, used));
        }
        work.converge.pause_denied =
            observed.cadence.jittered(PAUSE_DENIED).max(usual_share(peers.readers(facts)));
        for next in work.converge.applied(facts.now, action, outcome) {
            out.outputs.push_back(Output::Apply(next));
        }
        out.disturbed = true;
    }

    pub fn on_disturbed(&mut self) {
        let calm = self.work.converge.host.last_begun().map_or(self.facts.now, |begun| begun + CALM);
        self.work.converge.host.look_at_changes_by(calm.max(self.facts.now));
        self.out.disturbed = true;
    }

    pub fn on_identified(&mut self, metadata: Metadata) {
        match &self.facts.identity.instance {
            Some(known) if *known != metadata.instance => {
                let refusal = contradicted(known, &metadata.instance);
                return self.out.outputs.push_back(Output::Stop(refusal));
            }
            Some(_) => {}
            None => {
                self.facts.identity.instance = Some(metadata.instance.clone());
                self.out.ledger.write(Write::identity(&self.facts.identity));
                self.peers.set_instance(metadata.instance.clone());
            }
        }
        self.facts.metadata = Some(metadata);
        self.out.disturbed = true;
    }

    pub fn adopt(&mut self, config: Config) {
        if config == self.facts.config {
            return;
        }
        if config.ec2_tag != self.facts.config.ec2_tag {
            self.observed.discovery = Discovery::default();
        }
        if config.peers != self.facts.config.peers {
            self.observed.names.look.look_by(self.facts.now);
        }
        if let Some(expected) = config.ipam.expected_peers {
            self.peers.ipam.set_expected_peers(expected);
        }
        self.peers.mesh.set_trusted_subnets(config.mesh.trusted_subnets.clone());
        self.facts.config = config;
        self.work.judge_paths(&self.facts.config);
        self.peers.dead.touch();
        self.observed.dial(&self.facts, &mut self.peers);
        self.hurry();
    }

    /// Somebody asks: look at once, and try again what was refused.
    pub fn hurry(&mut self) {
        self.work.hurry(self.facts.now, &mut self.out);
        self.out.disturbed = true;
    }
}
