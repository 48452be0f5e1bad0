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
mod dispatch;
mod attach;
mod canary;
mod compare;
pub mod connect;
mod converge;
mod desired;
mod discovery;
pub mod docker;
mod docker_order;
mod doubt;
mod drift;
mod election;
mod explain;
pub mod explanation;
pub mod identity;
mod impact;
mod io;
mod last_read;
pub mod ledger;
mod links;
mod observe;
pub mod memory;
mod moves;
mod names;
pub mod order;
mod paths;
pub mod peer_subnets;
mod ports;
mod probes;
mod quota;
mod takeover;
mod relay;
mod report;
pub mod request;
mod settings;
pub mod status;
pub mod story;
mod unconfirmed;
pub mod trial;
mod view;
mod waiting;

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use self::{
    attach::Containers,
    canary::OwnCanary,
    converge::Converge,
    discovery::Discovery,
    docker::Docker,
    identity::Metadata,
    last_read::LastReads,
    ledger::{Ledger, SaveFault, SaveId},
    links::Wanted,
    memory::{Identity, Memory, Write},
    moves::Moves,
    names::Names,
    order::Order,
    paths::LostPaths,
    peer_subnets::Places,
    probes::Probes,
    quota::Quotas,
    request::{Refusal, RefusalKind, RequestId, Response},
    story::Story,
    takeover::Dead,
    trial::Trials,
    unconfirmed::Unconfirmed,
    view::PAUSE_DENIED,
    waiting::Waiting,
};
pub use self::{
    io::{Input, Output},
    report::UNREAD_WAY_OUT,
    settings::{Birth, CONN_LIMIT},
};
use crate::{
    config::Config,
    digest::Digest,
    ipam::{self, Allocator},
    mesh::{self, Mesh, Recipients},
    peer::PeerName,
    plan::Plan,
    state::{Action, Actual, Desired, Fault, FaultKind, Rules},
    time::Timestamp,
};

/// The gossip channel of the address manager, as in Weave Net.
pub const CHANNEL: &str = "IPallocation";
/// The gossip channel on which peers agree who takes over from the dead; ours alone.
pub const DEAD_CHANNEL: &str = "weavers/dead";
/// The channel on which peers say which probes arrived; ours alone.
pub const PROBE_CHANNEL: &str = "weavers/probe";
/// Shortest time between two looks at a host that is disturbed again and again.
const CALM: Duration = Duration::from_millis(200);

/// One peer.
pub struct Node {
    now: Timestamp,
    identity: Identity,
    /// What the metadata have said in this life.
    metadata: Option<Metadata>,
    nickname: String,
    config: Config,
    mesh: Mesh,
    ipam: Allocator,
    ledger: Ledger<Effect>,
    containers: Containers,
    waiting: Waiting,
    converge: Converge,
    discovery: Discovery,
    names: Names,
    dead: Dead,
    unconfirmed: Unconfirmed,
    places: Places,
    docker: Docker,
    canary: OwnCanary,
    probes: Probes,
    plan: Plan,
    /// There is a ring, and the disk has it.
    ring_kept: bool,
    wanted: Wanted,
    lost_paths: LostPaths,
    story: Story,
    /// The rules that the last look at the host compared with.
    looked_for: Option<Rules>,
    /// When to pass on what was heard, and who alone told us of it.
    relay: Option<(Timestamp, Option<PeerName>)>,
    /// The plan may be out of date.
    disturbed: bool,
    quotas: Quotas,
    last_reads: LastReads,
    moves: Moves,
    /// When it may be even if nothing happens: a look is due, or a step.
    turn_due: Option<Timestamp>,
    leave: Leave,
    /// An order that waits for fresh looks, since the moment it came.
    order: Option<(Timestamp, Box<Order>)>,
    trials: Trials,
    /// Which part of the usual time passes before the next look at EC2.
    spread: f64,
    rng: ChaCha8Rng,
    outputs: VecDeque<Output>,
}

/// How far a node is with leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    /// It stays.
    No,
    /// Its ranges were given away; it undoes its host and waits for the heir to take the routes over.
    HandingOver,
    /// Its routes go, whoever owns the addresses.
    Withdrawing,
}

/// What waits in the ledger until it may leave.
#[derive(Debug)]
enum Effect {
    Gossip(&'static str, Recipients, Vec<u8>),
    Broadcast(&'static str, PeerName, Vec<u8>),
    Offer(Vec<(&'static str, Digest)>),
    Unicast(&'static str, PeerName, Vec<u8>),
    Answer(RequestId, Result<Response, Refusal>),
    /// A crash cannot take the ring any more.
    RingKept,
    /// Nor a container: its link may be made.
    ContainerKept,
    /// Nor what was in force before: the order may be carried out.
    FormerKept(Box<Order>),
    Finish,
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
        let mut node = Node {
            now,
            identity: birth.identity,
            metadata: None,
            nickname: birth.nickname,
            config,
            mesh,
            ipam,
            ledger: Ledger::new(),
            containers: Containers::new(memory.attached, !memory.links_known),
            waiting: Waiting::default(),
            converge: Converge::new(),
            discovery: Discovery::default(),
            names: Names::default(),
            dead,
            unconfirmed: Unconfirmed::default(),
            places: Places::default(),
            docker: Docker::new(memory.networks),
            canary: OwnCanary::default(),
            probes,
            plan: Plan::default(),
            ring_kept,
            wanted: Wanted::default(),
            lost_paths: LostPaths::default(),
            story: Story::default(),
            looked_for: None,
            relay: None,
            disturbed: true,
            quotas: Quotas::default(),
            last_reads: LastReads::new(memory.last_read, memory.recalled_s, &boot),
            moves: Moves::default(),
            turn_due: None,
            leave: Leave::No,
            order: None,
            trials: Trials::new(memory.trial.is_some()),
            spread: 1.0,
            rng,
            outputs: VecDeque::new(),
        };
        node.begin_story();
        node.wake_up(fresh, &boot);
        Ok(node)
    }

    fn wake_up(&mut self, fresh: bool, boot: &str) {
        if fresh {
            self.ledger.write(Write::format());
            self.ledger.write(Write::identity(&self.identity));
        }
        self.mesh.set_channels(self.dead.channels());
        self.dial_targets();
        if self.identity.instance.is_none() {
            // Outside EC2 nothing can be looked for.
            self.ipam.prove_memory(|_| false);
        }
        self.judge_election();
        self.await_places();
        self.resume_attachments(boot);
        self.settle();
    }

    fn has_ring(&self) -> bool {
        !self.ipam.ring().is_empty()
    }

    /// Takes in what happened at `now`.
    pub fn handle(&mut self, now: Timestamp, input: Input) {
        self.now = now.max(self.now);
        self.ipam.tick(self.now);
        match input {
            Input::Configured(id, config) => self.on_configured(id, *config),
            Input::Ordered(order) => self.on_ordered(order),
            Input::Previewed(id, config) => self.on_previewed(id, *config),
            Input::Mesh(input) => self.mesh.handle(self.now, input),
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
            Input::Probed(from, bytes) => self.probes.prober.hear(self.now, from, &bytes),
            Input::Disturbed => self.on_disturbed(),
            Input::Woken => self.on_woken(),
        }
        self.settle();
    }

    /// The next thing to do, in order.
    pub fn next_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to wake the node if nothing happens before.
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.next_wake_but_probes().into_iter().chain(self.probes.prober.next_wake()).min()
    }

    fn next_wake_but_probes(&self) -> Option<Timestamp> {
        let wakes = [
            self.mesh.next_wake(),
            self.ipam.next_wake(),
            self.relay.map(|(due, _)| due),
            self.turn_due,
            self.waiting.next_deadline(self.now),
            self.ledger.next_wake(),
            self.trials.deadline(),
        ];
        wakes.into_iter().flatten().min()
    }

    fn next_turn(&self) -> Option<Timestamp> {
        if self.disturbed {
            return Some(self.now);
        }
        let wakes = [
            self.converge.next_wake(self.now, &self.plan),
            self.config.ec2_tag.as_ref().and_then(|_| self.discovery.found.next_look()),
            self.next_look_at_names(),
            self.next_look_for_places(),
            self.dead.next_wake(self.now),
            self.unconfirmed.next_look(),
            self.canary.next_wake(),
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
        if std::mem::take(&mut self.disturbed) {
            self.turn();
        }
        self.answer_waiting();
        self.carry_on();
        self.tell_story();
        self.turn_due = self.next_turn();
        if let Some((id, writes)) = self.ledger.begin(self.now) {
            self.outputs.push_back(Output::Save(id, writes));
        }
    }

    fn carry_on(&mut self) {
        while self.settle_mesh()
            | self.settle_ipam()
            | self.settle_dead()
            | self.settle_unconfirmed()
            | self.settle_probes()
        {}
    }

    fn settle_mesh(&mut self) -> bool {
        let mut any = false;
        while let Some(output) = self.mesh.next_output() {
            any = true;
            match output {
                mesh::Output::Dial(target) => self.outputs.push_back(Output::Dial(target)),
                mesh::Output::Send(conn, bytes) => self.outputs.push_back(Output::Send(conn, bytes)),
                mesh::Output::Close(conn, why) => self.outputs.push_back(Output::Close(conn, why)),
                mesh::Output::Datagram(to, bytes) => self.outputs.push_back(Output::Datagram(to, bytes)),
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
        if any && self.expects_nobody() {
            // Whoever was found may have turned out to be ourselves.
            self.judge_election();
        }
        any
    }

    fn on_topology_changed(&mut self) {
        self.places.doubt(self.now);
        self.dead.touch();
        self.probes.touch();
        self.unconfirmed.touch();
        self.story.touch();
        self.ipam.set_kin(self.kin());
        let reachable = self.mesh.reachable();
        if self.ipam.reachable() != &reachable {
            self.judge_election();
            self.ipam.set_reachable(self.now, reachable);
            self.put_off_looks();
        }
    }

    fn settle_ipam(&mut self) -> bool {
        let mut any = false;
        while let Some(effect) = self.ipam.next_effect() {
            any = true;
            match effect {
                ipam::Effect::Save(record) => self.ledger.write(Write::ipam(&record)),
                ipam::Effect::Broadcast(state) => {
                    self.let_out(Effect::Broadcast(CHANNEL, self.identity.name, state));
                }
                ipam::Effect::Unicast(to, message) => self.let_out(Effect::Unicast(CHANNEL, to, message)),
                ipam::Effect::Answer(ticket, result) => self.on_ipam_answer(ticket, result),
                ipam::Effect::SetBack => {
                    self.dead.takeover.doubt();
                    self.dead.touch();
                }
                ipam::Effect::RingChanged => {
                    self.dead.touch();
                    self.story.touch();
                    self.probes.touch();
                    self.converge.drift.keep(&self.ipam.owned());
                    match self.ring_kept {
                        true => self.disturbed = true,
                        false => self.let_out(Effect::RingKept),
                    }
                }
            }
        }
        any
    }

    fn send_state(&mut self, effect: impl FnOnce(Vec<u8>) -> Effect) {
        if let Some(state) = self.ipam.state() {
            self.settle_ipam();
            self.let_out(effect(state));
        }
    }

    /// Carries out an effect as soon as the disk has what it rests on.
    fn let_out(&mut self, effect: Effect) {
        let ready = match &effect {
            Effect::Gossip(.., bytes) | Effect::Broadcast(.., bytes) | Effect::Unicast(.., bytes) => {
                self.ledger.rest_message(bytes.len(), effect)
            }
            Effect::Offer(digests) => {
                let bytes = size_of_val(digests.as_slice());
                self.ledger.rest_message(bytes, effect)
            }
            Effect::Answer(_, result) if !promises(result) => Some(effect),
            Effect::Answer(..)
            | Effect::RingKept
            | Effect::ContainerKept
            | Effect::FormerKept(_)
            | Effect::Finish => self.ledger.rest(effect),
        };
        if let Some(effect) = ready {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Gossip(channel, to, state) => self.mesh.gossip(to, channel, &state),
            Effect::Broadcast(channel, origin, state) => self.mesh.broadcast(origin, channel, &state),
            Effect::Offer(digests) => self.mesh.offer(&digests),
            // Whoever waits for an answer asks again, or another peer.
            Effect::Unicast(channel, to, message) => drop(self.mesh.unicast(to, channel, &message)),
            Effect::Answer(id, result) => self.outputs.push_back(Output::Answer(id, result)),
            Effect::ContainerKept => self.disturbed = true,
            Effect::RingKept => (self.ring_kept, self.disturbed) = (true, true),
            Effect::FormerKept(order) => self.begin_trial(*order),
            Effect::Finish => self.outputs.push_back(Output::Finished),
        }
    }

    fn answer(&mut self, id: RequestId, result: Result<Response, Refusal>) {
        self.let_out(Effect::Answer(id, result));
    }

    fn on_stored(&mut self, id: SaveId, result: Result<(), SaveFault>) {
        self.containers.touch();
        for effect in self.ledger.stored(self.now, id, result) {
            self.perform(effect);
        }
    }

    fn on_woken(&mut self) {
        self.probes.prober.wake(self.now);
        // Probes are due every second, and nothing else follows from that.
        if self.next_wake_but_probes().is_none_or(|due| due > self.now) {
            return;
        }
        self.mesh.handle(self.now, mesh::Input::Woken);
        self.ipam.wake(self.now);
        self.dead.touch();
        self.disturbed |= self.turn_due.is_some_and(|due| due <= self.now);
    }

    // ===== the loop =====

    /// Looks where a look is due, plans, and takes the next steps.
    fn turn(&mut self) {
        self.moves.see(self.now, &self.ipam.settled_owners());
        self.tend_canary();
        self.renew_wanted();
        self.look();
        self.plan = self.plan_for(&self.config, &self.desired(&self.config));
        self.ipam.set_avoided(self.avoided());
        for action in self.converge.take(self.now, &self.plan) {
            self.outputs.push_back(Output::Apply(action));
        }
    }

    fn desired(&self, config: &Config) -> Desired {
        self.ground_of(config).desired()
    }

    fn plan_for(&self, config: &Config, desired: &Desired) -> Plan {
        let vpc = self.converge.believed();
        let actual = Actual { host: self.converge.host.seen(), vpc: vpc.as_deref() };
        let mut plan = Plan::new(desired, actual);
        self.converge.drift.explain(&mut plan);
        if !self.has_ring() && self.leave == Leave::No {
            plan.notes.push("routes follow agreement: there is no ring yet".into());
        }
        plan.unread.extend(self.unread(config));
        plan.notes.extend(self.coming().into_iter().map(|note| note.what));
        plan
    }

    fn on_applied(&mut self, action: &Action, outcome: Result<Option<String>, Fault>) {
        if let (Action::CreateRoute { table, .. }, Err(fault)) = (action, &outcome)
            && fault.kind == FaultKind::Quota
        {
            let used = self.converge.believed().and_then(|vpc| Some(vpc.tables.get(table)?.used));
            used.into_iter().for_each(|used| self.quotas.learn(self.now, table, used));
        }
        if outcome.is_ok() {
            self.waiting.count(action, &self.plan);
        }
        self.converge.pause_denied = self.jittered(PAUSE_DENIED).max(self.usual_share());
        for next in self.converge.applied(self.now, action, outcome) {
            self.outputs.push_back(Output::Apply(next));
        }
        self.disturbed = true;
    }

    fn on_disturbed(&mut self) {
        let calm = self.converge.host.last_begun().map_or(self.now, |begun| begun + CALM);
        self.converge.host.look_at_changes_by(calm.max(self.now));
        self.disturbed = true;
    }
}

/// Whether somebody relies on it that the answer still holds after a restart. What only tells how things are does not wait
/// for a disk that is full.
fn promises(answer: &Result<Response, Refusal>) -> bool {
    match answer {
        Ok(Response::Status(_) | Response::Plan(_) | Response::Ring(_)) => false,
        Ok(Response::Explanation(_) | Response::Permissions(_)) | Err(_) => false,
        Ok(
            Response::Attached { .. }
            | Response::Connected(_)
            | Response::Joined(_)
            | Response::Addresses(_)
            | Response::Moved { .. },
        ) => true,
        Ok(Response::Absent | Response::Done) => true,
    }
}

fn not_resumable(error: ipam::StartError) -> Refusal {
    Refusal::new(RefusalKind::Unsafe, error.to_string())
}
