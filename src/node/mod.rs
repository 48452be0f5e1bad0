//! One peer, whole: inputs in, outputs out.
//!
//! The daemon drives one [`Node`] with real hands, the simulator many with false ones. Whatever
//! happens is an [`Input`]; whatever is to be done is an [`Output`], carried out in order. Between
//! the two there is no clock, no file and no socket, so that a run can be played again.
//!
//! A node is composed of the mesh (who is there), the address manager (who owns what), the
//! containers, the loop's memory ([`reconcile`]) and the ledger, which holds back every message and
//! answer until the disk has what it rests on. This file only routes between them.

// What is said and kept, and how it comes and goes.
pub mod protocol;
pub mod persist;
pub mod identity;
mod facts;
pub mod boundary;

// From what is to what should be.
pub mod observe;
mod reconcile;

// The subjects.
mod cluster;
mod containers;

// All of them, read and not changed.
mod report;
mod bootstrap;

// All of it together.
mod config_change;
mod story;
mod settings;
mod engine;

use std::collections::BTreeSet;

use ipnet::Ipv4Net;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub use self::{
    boundary::{
        io::{Input, Output},
        out::{CHANNEL, COMPACT_CHANNEL, DEAD_CHANNEL, PATH_CHANNEL, PROBE_CHANNEL},
    },
    report::{compaction::WRITES_AN_HOUR, overview::Overview, status::UNREAD_WAY_OUT},
    settings::{Birth, CONN_LIMIT},
};
use self::{
    boundary::{
        order::Order,
        out::{Effect, Out},
        tickets::Purpose,
        waiting::{Reply, Sight, WAITERS_MAX, Waiter, Waiting},
    },
    cluster::{dead::Dead, observed::Observed, peer_paths::PeerPaths, peers::Peers, probes::Probes},
    config_change::{
        pending::{self, Pending},
        trial::Trials,
    },
    containers::{
        canary::OwnCanary,
        docker::{Docker, DockerBridge},
        lease::Leases,
        local::{Context, Local},
        registry::Containers,
    },
    engine::{Engine, Upshot},
    facts::{Facts, Leave},
    observe::{
        cadence::Cadence, discovery::Discovery, last_read::LastReads, names::Names, peer_subnets::Places,
    },
    persist::memory::Memory,
    protocol::{
        request::{Pool, Refusal, RefusalKind, Request, RequestId, Response, leaving},
        status::Status,
    },
    reconcile::Reconcile,
    story::Story,
};
use crate::{
    config::Config,
    ipam::{self, Allocator, Ask},
    mesh::Mesh,
    time::Timestamp,
};

/// One peer.
pub struct Node {
    engine: Engine,
    waiting: Waiting,
    pending: Pending,
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
        let paths = PeerPaths::new(config.mesh.weave_peers);
        let probes = Probes::new(birth.identity.name, ChaCha8Rng::seed_from_u64(rng.next_u64()));
        let local = Local {
            containers: Containers::new(memory.attached, !memory.links_known),
            docker: Docker::new(memory.networks),
            bridge: DockerBridge::default(),
            leases: Leases::new(memory.leases),
            canary: OwnCanary::default(),
            rng: ChaCha8Rng::seed_from_u64(rng.next_u64()),
        };
        let observed = Observed {
            discovery: Discovery::default(),
            names: Names::default(),
            places: Places::default(),
            last_reads: LastReads::new(memory.last_read, memory.recalled_s),
            cadence: Cadence::new(rng),
        };
        let facts = Facts {
            now,
            identity: birth.identity,
            metadata: None,
            tunnel_key: None,
            boot: birth.boot,
            nickname: birth.nickname,
            config,
            leave: Leave::No,
            on_trial: false,
            ring_kept,
        };
        let engine = Engine {
            facts,
            peers: Peers::new(mesh, ipam, dead, paths),
            observed,
            work: Reconcile::default(),
            local,
            probes,
            story: Story::default(),
            out: Out::new(),
            turn_due: None,
        };
        let pending = Pending::new(Trials::new(memory.trial.is_some()));
        let mut node = Node { engine, waiting: Waiting::default(), pending };
        node.engine.story.begin(&node.engine.peers);
        node.engine.wake_up(fresh);
        node.settle();
        Ok(node)
    }

    /// All that it knows.
    pub fn overview(&self) -> Overview<'_> {
        self.engine.overview()
    }

    /// Peers, addresses, routes and containers of this host, and what it is waiting for. The daemon adds what it knows of the
    /// configuration file.
    pub fn status(&self) -> Status {
        self.with_trial(self.overview().status())
    }

    /// Whether a configuration is being tried, so that no other is adopted.
    pub fn is_trying(&self) -> bool {
        self.pending.trials.is_trying(self.engine.facts.now).is_some()
    }

    fn with_trial(&self, mut status: Status) -> Status {
        status.config.trial_s = self.pending.trials.left_s(self.engine.facts.now);
        status
    }

    /// Takes in what happened at `now`.
    pub fn handle(&mut self, now: Timestamp, input: Input) {
        self.engine.facts.now = now.max(self.engine.facts.now);
        self.engine.peers.ipam.tick(self.engine.facts.now);
        let Engine { facts, peers, observed, work, local, probes, out, .. } = &mut self.engine;
        match input {
            Input::Configured(id, config) => self.on_configured(id, *config),
            Input::Ordered(order) => self.on_ordered(order),
            Input::Previewed(id, config) => self.on_previewed(id, *config),
            Input::Mesh(input) => peers.mesh.handle(facts.now, input),
            Input::Asked(id, request) => self.on_asked(id, request),
            Input::Cancelled(id) => self.on_cancelled(id),
            Input::Identified(metadata) => self.engine.on_identified(metadata),
            Input::HostSeen(result) => self.engine.on_host_seen(result),
            Input::VpcSeen(result) => self.engine.on_vpc_seen(result),
            Input::NamesSeen(answers) => observed.on_names_seen(facts, peers, answers),
            Input::PeersSeen(result) => observed.on_peers_seen(facts, peers, result),
            Input::InstancesSeen(result) => {
                observed.on_instances_seen(facts, peers, result);
                out.disturbed = true;
            }
            Input::RunningSeen(result) => observed.on_running_seen(facts, peers, result),
            Input::PlacesSeen(result) => observed.on_places_seen(facts, peers, work, out, result),
            Input::LinkMade(made) => self.engine.on_link_made(made),
            Input::Keyed(key) => {
                (facts.tunnel_key, out.disturbed) = (Some(key), true);
            }
            Input::Applied(action, outcome) => {
                if outcome.is_ok() {
                    self.waiting.count(&action, &work.plan);
                }
                self.engine.on_applied(&action, outcome);
            }
            Input::Stored(id, result) => self.engine.on_stored(id, result),
            Input::CanaryMade(result) => {
                local.canary.made(facts, work, result);
                out.disturbed = true;
            }
            Input::Probed(from, bytes) => probes.prober.hear(facts.now, from, &bytes),
            Input::Disturbed => self.engine.on_disturbed(),
            Input::Woken => self.on_woken(),
        }
        self.settle();
    }

    /// The next thing to do, in order.
    pub fn next_output(&mut self) -> Option<Output> {
        self.engine.out.outputs.pop_front()
    }

    /// When to wake the node if nothing happens before.
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.next_wake_but_probes().into_iter().chain(self.engine.probes.prober.next_wake()).min()
    }

    fn next_wake_but_probes(&self) -> Option<Timestamp> {
        let now = self.engine.facts.now;
        let wakes =
            [self.engine.next_wake(), self.waiting.next_deadline(now), self.pending.trials.deadline()];
        wakes.into_iter().flatten().min()
    }

    fn on_woken(&mut self) {
        let due = self.next_wake_but_probes();
        self.engine.probes.prober.wake(self.engine.facts.now);
        // Probes are due every second, and nothing else follows from that.
        if due.is_some_and(|due| due <= self.engine.facts.now) {
            self.engine.on_woken();
        }
    }

    /// Carries on until nothing more follows from what happened.
    fn settle(&mut self) {
        self.engine.peers.relay(&self.engine.facts, &mut self.engine.out);
        self.carry_on();
        self.judge_trial();
        self.judge_order();
        self.engine.facts.on_trial = self.pending.trials.is_under_way();
        if std::mem::take(&mut self.engine.out.disturbed) {
            self.engine.turn(&self.waiting.explained().collect());
        }
        self.answer_waiting();
        self.carry_on();
        self.engine.rest();
    }

    fn carry_on(&mut self) {
        loop {
            let upshots = self.engine.carry_on();
            if upshots.is_empty() {
                return;
            }
            upshots.into_iter().for_each(|upshot| self.go_on_with(upshot));
        }
    }

    fn go_on_with(&mut self, upshot: Upshot) {
        match upshot {
            Upshot::FormerKept(order) => {
                self.pending.trials.begin(&self.engine.facts, &self.engine.peers, &order);
                self.carry_out(*order);
            }
            Upshot::NoAddress(ident, refused) => {
                for id in self.waiting.take_where(|waiter| waiter.is_attaching(&ident)) {
                    self.engine.out.answer(id, Err(Refusal::from(&refused)));
                }
            }
            Upshot::NoLoan(ident, refusal) => {
                for id in self.waiting.take_where(|waiter| waiter.is_lending(&ident)) {
                    self.engine.out.answer(id, Err(refusal.clone()));
                }
            }
        }
    }

    // ===== configurations =====

    fn on_previewed(&mut self, id: RequestId, config: Config) {
        match pending::objection(&self.engine.facts, &self.engine.peers, &config).or_else(|| self.busy()) {
            Some(refusal) => self.engine.out.answer(id, Err(refusal)),
            None => self.tell_anew(id, Sight::Preview(Box::new(config))),
        }
    }

    fn on_configured(&mut self, id: RequestId, config: Config) {
        let objection = || pending::objection(&self.engine.facts, &self.engine.peers, &config);
        if let Some(refusal) = self.pending.trials.is_trying(self.engine.facts.now).or_else(objection) {
            return self.engine.out.answer(id, Err(refusal));
        }
        self.pending.trials.forget(&mut self.engine.out);
        self.adopt(id, config);
    }

    fn adopt(&mut self, id: RequestId, config: Config) {
        self.engine.adopt(config.adopted_by(&self.engine.facts.config));
        self.engine.out.outputs.push_back(Output::Adopted(id));
        self.engine.out.answer(id, Ok(Response::Done));
    }

    fn on_ordered(&mut self, order: Box<Order>) {
        let busy = self.busy();
        match self.pending.take(&self.engine.facts, &self.engine.peers, busy, order) {
            Ok(Some(order)) => self.begin(order),
            Ok(None) => self.engine.hurry(),
            Err((order, refusal)) => self.decline(&order, &refusal),
        }
    }

    /// The looks that an order waits for have ended: its plan is what it takes still, or it is declined.
    fn judge_order(&mut self) {
        let Some((order, looked)) = self.pending.looked(self.engine.facts.now, &self.engine.work) else {
            return;
        };
        match looked.and_then(|()| self.engine.overview().still_takes(&order)) {
            Ok(()) => self.begin(order),
            Err(refusal) => self.decline(&order, &refusal),
        }
    }

    fn begin(&mut self, order: Box<Order>) {
        if let Some(order) = self.pending.begin(order, &mut self.engine.out) {
            self.carry_out(*order);
        }
    }

    fn carry_out(&mut self, order: Order) {
        self.adopt(order.adopted, order.config);
        self.engine.hurry();
        self.reply(order.done, Reply::When(Waiter::Converged(Vec::new())));
    }

    fn decline(&mut self, order: &Order, refusal: &Refusal) {
        self.engine.out.answer(order.adopted, Err(refusal.clone()));
        self.engine.out.answer(order.done, Err(refusal.clone()));
    }

    /// Something that was tried may end, and the former configuration come back.
    fn judge_trial(&mut self) {
        let Some((former, asked, why)) = self.pending.trials.ended(self.engine.facts.now, &self.engine.peers)
        else {
            return;
        };
        self.engine.adopt(former);
        if self.waiting.take(asked).is_some() {
            let message = format!("the configuration was rolled back: {why}");
            self.engine.out.answer(asked, Err(Refusal::new(RefusalKind::Failed, message)));
        }
        self.engine.out.outputs.push_back(Output::RolledBack(why));
    }

    // ===== who asks =====

    fn busy(&self) -> Option<Refusal> {
        let many = self.waiting.len() + self.engine.peers.tickets.len() >= WAITERS_MAX;
        many.then(Refusal::busy)
    }

    fn reply(&mut self, id: RequestId, reply: Reply) {
        match reply {
            Reply::Now(answer) => self.engine.out.answer(id, answer),
            Reply::When(waiter) => {
                self.waiting.add(self.engine.facts.now, id, waiter);
                self.engine.out.disturbed = true;
            }
        }
    }

    fn on_asked(&mut self, id: RequestId, request: Request) {
        let adds = matches!(
            request,
            Request::Attach { .. }
                | Request::Connect { .. }
                | Request::Lend { .. }
                | Request::Allocate { .. }
                | Request::Claim { .. }
        );
        let (busy, leaves) = (self.busy(), self.engine.facts.leave != Leave::No);
        let Engine { facts, peers, work, local, out, .. } = &mut self.engine;
        let reply = match request {
            Request::Status => Reply::Now(Ok(Response::Status(Box::new(self.status())))),
            Request::Confirm => Reply::Now(self.pending.trials.confirm(out)),
            Request::CanConnect => Reply::Now(self.engine.overview().can_connect()),
            Request::Range => Reply::Now(Ok(Response::Addresses(vec![facts.config.ipam.range]))),
            Request::ShowRing => Reply::Now(Ok(Response::Ring(self.engine.overview().pieces()))),
            Request::Free { ident, address } => {
                Reply::Now(local.free(&mut Context { facts, peers, work, out }, &ident, address))
            }
            Request::Lookup { ident } => {
                Reply::Now(Ok(Response::Addresses(peers.ipam.lookup(&ident).to_vec())))
            }
            Request::Lent { key } => Reply::Now(self.engine.overview().lent_to(&key)),
            Request::LeasesGone { gone } => {
                local.end_gone_leases(&mut Context { facts, peers, work, out }, gone);
                Reply::Now(Ok(Response::Done))
            }
            // What is above keeps nobody waiting.
            _ if busy.is_some() => Reply::Now(Err(Refusal::busy())),
            _ if adds && leaves => Reply::Now(Err(leaving())),
            Request::Allocate { ident, subnet } => return self.on_allocate(id, ident, subnet),
            Request::Claim { ident, address } => {
                let length = facts.config.ipam.default_subnet.prefix_len();
                let address = Ipv4Net::new_assert(address.into(), length);
                return self.ask(id, Ask::Claim { ident, address });
            }
            Request::Examine => return self.tell_anew(id, Sight::Status),
            Request::Plan => return self.tell_anew(id, Sight::Plan),
            Request::Explain { address } => return self.tell_anew(id, Sight::Address(address)),
            Request::Apply => {
                self.engine.hurry();
                Reply::When(Waiter::Converged(Vec::new()))
            }
            Request::AwaitReady => Reply::When(Waiter::Ready),
            Request::Collect => {
                work.converge.host.look_by(facts.now);
                Reply::When(Waiter::Looked)
            }
            Request::Attach { netns, link, name, subnet } => {
                local.attach(&mut Context { facts, peers, work, out }, netns, link, name, subnet).into()
            }
            Request::Connect { netns, link, wish } => {
                local.connect(&mut Context { facts, peers, work, out }, netns, link, wish).into()
            }
            Request::Lend { netns, loan } => {
                local.lend(&mut Context { facts, peers, work, out }, netns, loan).into()
            }
            Request::Docker(order) => local.on_docker(&mut Context { facts, peers, work, out }, order),
            Request::Check { key, netns } => {
                local.check(&mut Context { facts, peers, work, out }, &key, &netns).into()
            }
            Request::Detach { target } => local.detach(&mut Context { facts, peers, work, out }, &target),
            Request::Forget { peer, alone: false } => peers.forget(facts, work, out, &peer),
            Request::Forget { peer, alone: true } => peers.forget_alone(facts, out, &peer),
            Request::Drain => local.drain(&mut Context { facts, peers, work, out }),
            Request::Reset => self.on_reset(),
        };
        self.reply(id, reply);
    }

    fn on_allocate(&mut self, id: RequestId, ident: String, subnet: Option<Pool>) {
        match self.engine.facts.named_subnet(subnet) {
            Ok(subnet) => {
                let subnet = subnet.unwrap_or(self.engine.facts.config.ipam.default_subnet);
                self.ask(id, Ask::Allocate { ident, subnet });
            }
            Err(refusal) => self.engine.out.answer(id, Err(refusal)),
        }
    }

    fn ask(&mut self, id: RequestId, ask: Ask) {
        let ticket = self.engine.peers.tickets.open(Purpose::Request(id));
        let (local, mut cx) = self.engine.local();
        local.put(&mut cx, ticket, ask);
    }

    fn on_cancelled(&mut self, id: RequestId) {
        if let Some(order) = self.pending.withdraw(id) {
            self.decline(&order, &Refusal::new(RefusalKind::Untimely, "the client disconnected"));
        }
        let waiter = self.waiting.take(id);
        let (local, mut cx) = self.engine.local();
        if let Some(waiter) = waiter {
            local.undo_connect(&mut cx, &waiter);
        }
        for ticket in cx.peers.tickets.drop_where(|purpose| *purpose == Purpose::Request(id)) {
            local.take_back(&mut cx, ticket);
        }
    }

    /// Looks at once: what is said to be missing, or there, must not have changed since the last looks.
    fn tell_anew(&mut self, id: RequestId, sight: Sight) {
        self.engine.work.converge.host.look_by(self.engine.facts.now);
        self.engine.out.outputs.push_back(Output::DoubtCheck);
        match &sight {
            Sight::Address(address) => {
                if let Some(owner) = self.engine.overview().probed_owner(*address) {
                    self.engine.probes.prober.hurry_to(self.engine.facts.now, owner);
                }
            }
            Sight::Status => self.engine.probes.prober.hurry(self.engine.facts.now),
            Sight::Plan | Sight::Preview(_) => {}
        }
        self.reply(id, Reply::When(Waiter::Looks(sight)));
    }

    /// Undoes everything on this host: containers, rules, routes; ranges go to an heir if there is one.
    fn on_reset(&mut self) -> Reply {
        let (local, mut cx) = self.engine.local();
        local.discard_all(&mut cx);
        self.engine.facts.leave =
            match self.engine.peers.give_all_away(&self.engine.facts, &mut self.engine.out) {
                true => Leave::HandingOver,
                false => Leave::Withdrawing,
            };
        self.engine.hurry();
        Reply::When(Waiter::Reset)
    }

    /// Answers everybody whose wait is over.
    fn answer_waiting(&mut self) {
        for (id, since, waiter, late) in self.waiting.all(self.engine.facts.now) {
            self.engine.work.look_for(self.engine.facts.now, since, &waiter);
            if self.engine.overview().gives_up_on_heir(since, &waiter, late) {
                (self.engine.facts.leave, self.engine.out.disturbed) = (Leave::Withdrawing, true);
            }
            let Some(result) = self.engine.overview().result(since, &waiter, late) else { continue };
            let result = result.map(|answer| match answer {
                Response::Status(status) => Response::Status(Box::new(self.with_trial(*status))),
                answer => answer,
            });
            self.waiting.take(id);
            let finished = *waiter == Waiter::Reset && result.is_ok();
            if result.is_err() {
                let (local, mut cx) = self.engine.local();
                local.undo_connect(&mut cx, &waiter);
            }
            self.engine.out.answer(id, result);
            if finished {
                self.engine.out.let_out(Effect::Finish);
            }
        }
        let wished: BTreeSet<_> = self.waiting.forgetting().collect();
        self.engine.peers.dead.forget_wishes_but(&wished, self.engine.facts.identity.name);
    }
}

fn not_resumable(error: ipam::StartError) -> Refusal {
    Refusal::new(RefusalKind::Unsafe, error.to_string())
}
