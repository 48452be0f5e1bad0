//! One peer, whole: inputs in, outputs out.
//!
//! The daemon drives one [`Node`] with real hands, the simulator many with false ones. Whatever
//! happens is an [`Input`]; whatever is to be done is an [`Output`], carried out in order. Between
//! the two there is no clock, no file and no socket, so that a run can be played again.
//!
//! A node is composed of the mesh (who is there), the address manager (who owns what), the
//! containers, the loop's memory ([`converge`]) and the ledger, which holds back every message and
//! answer until the disk has what it rests on. This file only routes between them.

pub mod adopt;
mod attach;
mod canary;
mod pending;
mod compare;
pub mod connect;
mod converge;
mod desired;
mod discovery;
mod dispatch;
pub mod docker;
mod docker_order;
mod doubt;
mod drift;
mod election;
mod explain;
pub mod explanation;
mod facts;
pub mod identity;
mod impact;
mod io;
mod last_read;
pub mod ledger;
mod links;
mod local;
pub mod memory;
mod moves;
mod names;
mod observe;
pub mod order;
mod out;
mod overview;
mod paths;
pub mod peer_subnets;
mod peers;
mod ports;
mod probes;
mod quota;
mod reconcile;
mod relay;
mod report;
pub mod request;
mod settings;
mod observed;
pub mod status;
pub mod story;
mod takeover;
pub mod trial;
mod unconfirmed;
mod view;
mod waiting;

use std::{collections::BTreeSet, time::Duration};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use self::{
    attach::Containers,
    canary::OwnCanary,
    discovery::Discovery,
    docker::Docker,
    facts::{Facts, Leave},
    last_read::LastReads,
    ledger::{SaveFault, SaveId},
    local::Local,
    memory::{Memory, Write},
    names::Names,
    observed::Observed,
    out::{Effect, Out},
    overview::Overview,
    peer_subnets::Places,
    peers::Peers,
    pending::Pending,
    probes::Probes,
    reconcile::Reconcile,
    request::{Refusal, RefusalKind},
    story::Story,
    takeover::Dead,
    trial::Trials,
    unconfirmed::Unconfirmed,
    view::PAUSE_DENIED,
    waiting::Waiting,
};
pub use self::{
    io::{Input, Output},
    out::{CHANNEL, DEAD_CHANNEL, PROBE_CHANNEL},
    report::UNREAD_WAY_OUT,
    settings::{Birth, CONN_LIMIT},
};
use crate::{
    config::Config,
    ipam::{self, Allocator},
    mesh::{self, Mesh},
    plan::Plan,
    state::{Action, Actual, Fault, FaultKind},
    time::Timestamp,
};

/// Shortest time between two looks at a host that is disturbed again and again.
const CALM: Duration = Duration::from_millis(200);

/// One peer.
pub struct Node {
    facts: Facts,
    peers: Peers,
    observed: Observed,
    work: Reconcile,
    local: Local,
    probes: Probes,
    waiting: Waiting,
    pending: Pending,
    story: Story,
    out: Out,
    /// When it may be even if nothing happens: a look is due, or a step.
    turn_due: Option<Timestamp>,
}

impl Node {
    /// A node with what it remembers. Refused if the memory is of another container range.
    pub fn new(now: Timestamp, birth: Birth, config: Config, memory: Memory) -> Result<Node, Refusal> {
        let fresh = memory.identity.is_none();
        let mut rng = ChaCha8Rng::seed_from_u64(birth.seed);
        let mesh = Mesh::new(settings::of_mesh(&birth, &config), ChaCha8Rng::seed_from_u64(rng.next_u64()));
        let ring_kept = memory.ipam.ring.is_some();
        let mut ipam =
            Allocator::new(settings::of_ipam(&birth, &config), memory.ipam).map_err(not_resumable)?;
        // A router may tell its ring before anybody is known.
        ipam.set_kin(config.mesh.weave_peers.then(BTreeSet::new));
        let dead = Dead::new(&birth.identity, &birth.boot, memory.takeover, &config);
        let probes = Probes::new(birth.identity.name, ChaCha8Rng::seed_from_u64(rng.next_u64()));
        let boot = birth.boot;
        let local = Local {
            containers: Containers::new(memory.attached, !memory.links_known),
            docker: Docker::new(memory.networks),
            canary: OwnCanary::default(),
        };
        let observed = Observed {
            discovery: Discovery::default(),
            names: Names::default(),
            places: Places::default(),
            last_reads: LastReads::new(memory.last_read, memory.recalled_s, &boot),
            looked_for: None,
            spread: 1.0,
            rng,
        };
        let facts = Facts {
            now,
            identity: birth.identity,
            metadata: None,
            nickname: birth.nickname,
            config,
            leave: Leave::No,
            ring_kept,
        };
        let mut node = Node {
            facts,
            peers: Peers { mesh, ipam, dead, unconfirmed: Unconfirmed::default(), relay: None },
            observed,
            work: Reconcile::default(),
            local,
            probes,
            waiting: Waiting::default(),
            pending: Pending { order: None, trials: Trials::new(memory.trial.is_some()) },
            story: Story::default(),
            out: Out::new(),
            turn_due: None,
        };
        node.begin_story();
        node.wake_up(fresh, &boot);
        Ok(node)
    }

    /// All that it knows.
    pub fn overview(&self) -> Overview<'_> {
        let Node { facts, peers, observed, work, local, probes, waiting, pending, out, .. } = self;
        Overview { facts, peers, observed, work, local, probes, waiting, pending, ledger: &out.ledger }
    }

    fn wake_up(&mut self, fresh: bool, boot: &str) {
        if fresh {
            self.out.ledger.write(Write::format());
            self.out.ledger.write(Write::identity(&self.facts.identity));
        }
        self.peers.mesh.set_channels(self.peers.dead.channels());
        self.dial_targets();
        if self.facts.identity.instance.is_none() {
            // Outside EC2 nothing can be looked for.
            self.peers.ipam.prove_memory(|_| false);
        }
        self.judge_election();
        self.await_places();
        self.resume_attachments(boot);
        self.settle();
    }

    /// Takes in what happened at `now`.
    pub fn handle(&mut self, now: Timestamp, input: Input) {
        self.facts.now = now.max(self.facts.now);
        self.peers.ipam.tick(self.facts.now);
        match input {
            Input::Configured(id, config) => self.on_configured(id, *config),
            Input::Ordered(order) => self.on_ordered(order),
            Input::Previewed(id, config) => self.on_previewed(id, *config),
            Input::Mesh(input) => self.peers.mesh.handle(self.facts.now, input),
            Input::Asked(id, request) => self.on_asked(id, request),
            Input::Cancelled(id) => self.on_cancelled(id),
            Input::Identified(metadata) => self.on_identified(metadata),
            Input::HostSeen(result) => self.on_host_seen(result),
            Input::VpcSeen(result) => self.on_vpc_seen(result),
            Input::NamesSeen(answers) => self.on_names_seen(answers),
            Input::PeersSeen(result) => self.on_peers_seen(result),
            Input::InstancesSeen(result) => self.on_instances_seen(result),
            Input::RunningSeen(result) => self.on_running_seen(result),
            Input::PlacesSeen(result) => self.on_places_seen(result),
            Input::Applied(action, outcome) => self.on_applied(&action, outcome),
            Input::Stored(id, result) => self.on_stored(id, result),
            Input::CanaryMade(result) => self.on_canary_made(result),
            Input::Probed(from, bytes) => self.probes.prober.hear(self.facts.now, from, &bytes),
            Input::Disturbed => self.on_disturbed(),
            Input::Woken => self.on_woken(),
        }
        self.settle();
    }

    /// The next thing to do, in order.
    pub fn next_output(&mut self) -> Option<Output> {
        self.out.outputs.pop_front()
    }

    /// When to wake the node if nothing happens before.
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.next_wake_but_probes().into_iter().chain(self.probes.prober.next_wake()).min()
    }

    fn next_wake_but_probes(&self) -> Option<Timestamp> {
        let wakes = [
            self.peers.mesh.next_wake(),
            self.peers.ipam.next_wake(),
            self.peers.relay.map(|(due, _)| due),
            self.turn_due,
            self.waiting.next_deadline(self.facts.now),
            self.out.ledger.next_wake(),
            self.pending.trials.deadline(),
        ];
        wakes.into_iter().flatten().min()
    }

    fn next_turn(&self) -> Option<Timestamp> {
        if self.out.disturbed {
            return Some(self.facts.now);
        }
        let wakes = [
            self.work.converge.next_wake(self.facts.now, &self.work.plan),
            self.facts.config.ec2_tag.as_ref().and_then(|_| self.observed.discovery.found.next_look()),
            self.observed.next_look_at_names(),
            self.overview().next_look_for_places(),
            self.peers.dead.next_wake(self.facts.now),
            self.peers.unconfirmed.next_look(),
            self.local.canary.next_wake(),
        ];
        wakes.into_iter().flatten().min()
    }

    // ===== the mesh and the address manager =====

    /// Carries on until nothing more follows from what happened.
    fn settle(&mut self) {
        self.relay();
        self.carry_on();
        self.judge_trial();
        self.judge_order();
        if std::mem::take(&mut self.out.disturbed) {
            self.turn();
        }
        self.answer_waiting();
        self.carry_on();
        self.tell_story();
        self.turn_due = self.next_turn();
        self.out.save(self.facts.now);
    }

    fn carry_on(&mut self) {
        while self.perform_ready()
            | self.settle_mesh()
            | self.settle_ipam()
            | self.settle_dead()
            | self.settle_unconfirmed()
            | self.settle_probes()
        {}
    }

    fn settle_mesh(&mut self) -> bool {
        let mut any = false;
        while let Some(output) = self.peers.mesh.next_output() {
            any = true;
            match output {
                mesh::Output::Dial(target) => self.out.outputs.push_back(Output::Dial(target)),
                mesh::Output::Send(conn, bytes) => self.out.outputs.push_back(Output::Send(conn, bytes)),
                mesh::Output::Close(conn, why) => self.out.outputs.push_back(Output::Close(conn, why)),
                mesh::Output::Datagram(to, bytes) => self.out.outputs.push_back(Output::Datagram(to, bytes)),
                mesh::Output::Deliver(delivery) => self.on_delivery(delivery),
                mesh::Output::SendState(to) => {
                    // A peer that lost its store is to know that before it learns what it owns.
                    self.send_dead(to);
                    self.send_state(|state| Effect::Gossip(CHANNEL, to, state));
                }
                mesh::Output::Offer => self.offer(),
                mesh::Output::Compare(offer) => self.compare(offer),
                mesh::Output::SendAll(conn, channel) => self.send_all(conn, channel),
                mesh::Output::TopologyChanged => self.on_topology_changed(),
            }
        }
        if any && self.overview().expects_nobody() {
            // Whoever was found may have turned out to be ourselves.
            self.judge_election();
        }
        any
    }

    fn on_topology_changed(&mut self) {
        self.observed.places.doubt(self.facts.now);
        self.peers.dead.touch();
        self.probes.touch();
        self.peers.unconfirmed.touch();
        self.story.touch();
        self.peers.ipam.set_kin(self.overview().kin());
        let reachable = self.peers.mesh.reachable();
        if self.peers.ipam.reachable() != &reachable {
            self.judge_election();
            self.peers.ipam.set_reachable(self.facts.now, reachable);
            self.put_off_looks();
        }
    }

    fn settle_ipam(&mut self) -> bool {
        let mut any = false;
        while let Some(effect) = self.peers.ipam.next_effect() {
            any = true;
            match effect {
                ipam::Effect::Save(record) => self.out.ledger.write(Write::ipam(&record)),
                ipam::Effect::Broadcast(state) => {
                    self.out.let_out(Effect::Broadcast(CHANNEL, self.facts.identity.name, state));
                }
                ipam::Effect::Unicast(to, message) => self.out.let_out(Effect::Unicast(CHANNEL, to, message)),
                ipam::Effect::Answer(ticket, result) => self.on_ipam_answer(ticket, result),
                ipam::Effect::SetBack => {
                    self.peers.dead.takeover.doubt();
                    self.peers.dead.touch();
                }
                ipam::Effect::RingChanged => {
                    self.peers.dead.touch();
                    self.story.touch();
                    self.probes.touch();
                    self.work.converge.drift.keep(&self.peers.ipam.owned());
                    match self.facts.ring_kept {
                        true => self.out.disturbed = true,
                        false => self.out.let_out(Effect::RingKept),
                    }
                }
            }
        }
        any
    }

    fn send_state(&mut self, effect: impl FnOnce(Vec<u8>) -> Effect) {
        if let Some(state) = self.peers.ipam.state() {
            self.settle_ipam();
            self.out.let_out(effect(state));
        }
    }

    fn perform_ready(&mut self) -> bool {
        let mut any = false;
        while let Some(effect) = self.out.next_effect() {
            any = true;
            self.perform(effect);
        }
        any
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Gossip(channel, to, state) => self.peers.mesh.gossip(to, channel, &state),
            Effect::Broadcast(channel, origin, state) => self.peers.mesh.broadcast(origin, channel, &state),
            Effect::Offer(digests) => self.peers.mesh.offer(&digests),
            // Whoever waits for an answer asks again, or another peer.
            Effect::Unicast(channel, to, message) => drop(self.peers.mesh.unicast(to, channel, &message)),
            Effect::Answer(id, result) => self.out.outputs.push_back(Output::Answer(id, result)),
            Effect::ContainerKept => self.out.disturbed = true,
            Effect::RingKept => (self.facts.ring_kept, self.out.disturbed) = (true, true),
            Effect::FormerKept(order) => self.begin_trial(*order),
            Effect::Finish => self.out.outputs.push_back(Output::Finished),
        }
    }

    fn on_stored(&mut self, id: SaveId, result: Result<(), SaveFault>) {
        self.local.containers.touch();
        self.out.stored(self.facts.now, id, result);
    }

    fn on_woken(&mut self) {
        self.probes.prober.wake(self.facts.now);
        // Probes are due every second, and nothing else follows from that.
        if self.next_wake_but_probes().is_none_or(|due| due > self.facts.now) {
            return;
        }
        self.peers.mesh.handle(self.facts.now, mesh::Input::Woken);
        self.peers.ipam.wake(self.facts.now);
        self.peers.dead.touch();
        self.out.disturbed |= self.turn_due.is_some_and(|due| due <= self.facts.now);
    }

    // ===== the loop =====

    /// Looks where a look is due, plans, and takes the next steps.
    fn turn(&mut self) {
        self.work.moves.see(self.facts.now, &self.peers.ipam.settled_owners());
        self.tend_canary();
        self.renew_wanted();
        self.look();
        self.work.plan = self.overview().plan_for(&self.facts.config);
        self.peers.ipam.set_avoided(self.overview().avoided());
        for action in self.work.converge.take(self.facts.now, &self.work.plan) {
            self.out.outputs.push_back(Output::Apply(action));
        }
    }

    fn on_applied(&mut self, action: &Action, outcome: Result<Option<String>, Fault>) {
        if let (Action::CreateRoute { table, .. }, Err(fault)) = (action, &outcome)
            && fault.kind == FaultKind::Quota
        {
            let used = self.work.converge.believed().and_then(|vpc| Some(vpc.tables.get(table)?.used));
            used.into_iter().for_each(|used| self.work.quotas.learn(self.facts.now, table, used));
        }
        if outcome.is_ok() {
            self.waiting.count(action, &self.work.plan);
        }
        self.work.converge.pause_denied = self.jittered(PAUSE_DENIED).max(self.overview().usual_share());
        for next in self.work.converge.applied(self.facts.now, action, outcome) {
            self.out.outputs.push_back(Output::Apply(next));
        }
        self.out.disturbed = true;
    }

    fn on_disturbed(&mut self) {
        let calm = self.work.converge.host.last_begun().map_or(self.facts.now, |begun| begun + CALM);
        self.work.converge.host.look_at_changes_by(calm.max(self.facts.now));
        self.out.disturbed = true;
    }
}

impl Peers {
    pub(super) fn has_ring(&self) -> bool {
        !self.ipam.ring().is_empty()
    }
}

impl Overview<'_> {
    pub(super) fn plan_for(&self, config: &Config) -> Plan {
        let vpc = self.work.converge.believed();
        let actual = Actual { host: self.work.converge.host.seen(), vpc: vpc.as_deref() };
        let mut plan = Plan::new(&self.desired(config), actual);
        self.work.converge.drift.explain(&mut plan);
        if !self.peers.has_ring() && self.facts.leave == Leave::No {
            plan.notes.push("routes follow agreement: there is no ring yet".into());
        }
        plan.unread.extend(self.unread(config));
        plan.notes.extend(self.coming().into_iter().map(|note| note.what));
        plan
    }
}

fn not_resumable(error: ipam::StartError) -> Refusal {
    Refusal::new(RefusalKind::Unsafe, error.to_string())
}
