//! The loop: event, input, node, output, hands.
//!
//! ```text
//!  transport ─┐
//!  saver ─────┤                      ┌─► transport, saver
//!  kernel ────┼─► Event ─► Node ─────┼─► kernel, EC2 (one task each)
//!  EC2 ───────┤                      └─► answers
//!  socket, file, signals ─┘
//! ```
//!
//! It samples the clock, hands each event to the node and carries out what the node says. When it
//! stops, the data path stays as it is.

mod asking;
mod log;
mod file;
mod birth;
mod leases;
mod docker_bridge;
mod runtimes;
mod calls;
mod canary;
mod systemd;
mod docker;
mod hands;
mod rotation;
mod measure;
mod heap;
mod offline;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};
use tracing::{info, trace, warn};

pub use self::birth::read_password;
use self::{
    asking::Asking, file::ConfigFile, hands::Hands, measure::Measured, runtimes::Runtimes, systemd::Systemd,
};
use crate::{
    api::{Answer, server},
    config::{Cni, OnChange, Sources},
    docker::daemon_json,
    kernel::{Kernel, canary::Canary},
    metrics::Metrics,
    node::{
        Input, Node, Output,
        boundary::order::Order,
        identity::Metadata,
        persist::ledger::{SaveFault, SaveId},
        persist::memory::Memory,
        protocol::{
            request::{Refusal, Request, RequestId, Response, SavedPlan},
            status::{ConfigStatus, Status},
        },
    },
    plan::Plan,
    state::{Action, Fault, Host, InstanceState, Made, SubnetId, TunnelKey, Vpc},
    store,
    text::short,
    time::Timestamp,
    transport,
    tunnel_key::{self, KeyError},
    watch,
};

/// Events that may wait for the loop.
const EVENTS_MAX: usize = 1024;
/// How often systemd and runtimes are told how we are.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// What is logged of the reason why a connection was closed, which may repeat what the other side said.
const REASON_LEN_MAX: usize = 600;

/// How long a caller may take to hear its answer when the daemon ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// The state directory.
    pub state: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
}

impl Options {
    fn store(&self) -> PathBuf {
        self.state.join("weave.redb")
    }
}

/// What the hands report.
#[derive(Debug)]
enum Event {
    Identified(Metadata),
    HostSeen(Result<Host, Fault>),
    VpcSeen(Result<Vpc, Fault>),
    NamesSeen(transport::Answers),
    PeersSeen(Result<BTreeSet<Ipv4Addr>, Fault>),
    InstancesSeen(Result<BTreeMap<String, InstanceState>, Fault>),
    RunningSeen(Result<BTreeSet<Ipv4Addr>, Fault>),
    PlacesSeen(Result<BTreeMap<Ipv4Addr, SubnetId>, Fault>),
    LinkMade(Made),
    Applied(Action, Result<Option<String>, Fault>),
    CanaryMade(Result<Arc<Canary>, Fault>),
    KeyMade(Result<TunnelKey, KeyError>, oneshot::Sender<Answer>),
    DockerVersion(Option<daemon_json::Version>),
    Probed(SocketAddr, Bytes),
    Cancelled(RequestId),
    /// It is known where the target of a request leads.
    Found(Result<Request, Refusal>, oneshot::Sender<Answer>),
    /// The names in an edited file were resolved; or it cannot be adopted because of what they stand for.
    Resolved(Box<file::Candidate>, Adoption, Option<Refusal>),
}

/// What is to become of an edited file, and who waits for that.
#[derive(Debug)]
enum Adoption {
    Reload(Option<oneshot::Sender<Answer>>),
    Apply { plan: Option<Box<SavedPlan>>, patience: Option<Duration>, reply: oneshot::Sender<Answer> },
}

/// Why the loop has ended.
#[derive(Debug)]
enum End {
    /// It was told to.
    Told,
    /// The node has left, so that its store is to be erased.
    Left,
    /// It cannot go on.
    Refused(Refusal),
}

/// Runs until told to stop.
pub async fn run(options: Options) -> anyhow::Result<()> {
    heap::tend();
    let file = ConfigFile::read(&options.config, birth::trial(&options)?.as_ref())?;
    let (stored, saved) = mpsc::channel(EVENTS_MAX);
    let (events, reported) = mpsc::channel(EVENTS_MAX);
    let (calls_in, calls) = mpsc::channel(EVENTS_MAX);
    let (moved, wire) = mpsc::channel(EVENTS_MAX);

    // Docker finds its plugin before the metadata are read: it waits, and does not ask again.
    docker::start(&file.config().docker, &calls_in);
    let metrics = Metrics::new();
    let born = birth::begin(&options, &file, metrics.calls()).await?;
    let socket = server::Socket::bind(&options.socket).await?;
    let listen = born.config.mesh.listen;
    let mut transport = transport::Transport::listen(listen, listen.port(), moved)
        .with_context(|| format!("cannot listen on {listen}, which peers dial"))?;
    if born.config.mesh.weave_peers {
        transport.open_datagrams().with_context(|| format!("cannot take datagrams on {listen}"))?;
    }
    let (disturbed, changes) = crate::kernel::watch::disturbances()?;
    let kernel = Kernel::new(changes)?.with_tunnel_key(tunnel_key::file(&options.state));
    let edited = watch::changes(options.config.clone());
    let known = born.ec2.as_ref().map(hands::metadata).map(Input::Identified).into_iter();
    let known: Vec<Input> = known.chain(born.tunnel_key.map(Input::Keyed)).collect();
    let hands = Hands::new(kernel, born.ec2, &born.config, metrics.calls().clone(), events.clone());
    let clock = Instant::now();
    let node = Node::new(Timestamp::ZERO, born.birth, born.config, born.memory)?;
    let saver = store::Saver::start(born.store, stored)?;
    let measured = Measured::new(metrics, calls_in.clone());
    let mut server = tokio::spawn(socket.serve(calls_in));

    let mut daemon = Daemon {
        node,
        clock,
        file,
        transport,
        saver,
        hands,
        canary: canary::Hand::default(),
        events,
        asking: Asking::default(),
        reloading: BTreeMap::new(),
        measured,
        systemd: Systemd::new(),
        options: options.clone(),
        runtimes: Runtimes::default(),
        end: None,
    };
    let inlets = Inlets {
        wire,
        saved,
        reported,
        calls,
        disturbed,
        edited,
        hangup: signal(SignalKind::hangup())?,
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
    };
    known.into_iter().for_each(|input| daemon.handle(input));
    let end = daemon.run(inlets).await;
    // The loop takes no calls any more; whoever still waits is answered, the caller of a reset among them.
    if timeout(FAREWELL, &mut server).await.is_err() {
        server.abort();
    }
    match end {
        End::Told => {}
        End::Left => birth::forget(&options)?,
        End::Refused(refusal) => return Err(refusal.into()),
    }
    info!("stopped; the data path stays as it is");
    Ok(())
}

/// What would change, worked out without a daemon from what can be read, and from what is saved or, in its place, `memory`.
pub async fn plan_offline(options: Options, memory: Option<Memory>) -> anyhow::Result<Plan> {
    offline::plan(options, memory).await
}

/// Where events come from.
struct Inlets {
    wire: mpsc::Receiver<transport::Event>,
    saved: mpsc::Receiver<(u64, Result<(), store::StoreError>)>,
    reported: mpsc::Receiver<Event>,
    calls: mpsc::Receiver<server::Call>,
    disturbed: mpsc::Receiver<()>,
    edited: mpsc::Receiver<()>,
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

struct Daemon {
    node: Node,
    clock: Instant,
    file: ConfigFile,
    transport: transport::Transport,
    saver: store::Saver,
    hands: Hands,
    canary: canary::Hand,
    events: mpsc::Sender<Event>,
    asking: Asking,
    /// Configurations on their way into the node, with the texts they were read from.
    reloading: BTreeMap<RequestId, file::Candidate>,
    measured: Measured,
    systemd: Systemd,
    options: Options,
    runtimes: Runtimes,
    end: Option<End>,
}

impl Daemon {
    /// Goes on until it is told to stop, or has to.
    async fn run(mut self, mut inlets: Inlets) -> End {
        self.carry_out();
        for key in runtimes::deleted(&self.options.socket) {
            self.delete_noted(key);
        }
        self.systemd.ready();
        let mut report = tokio::time::interval(STATUS_EVERY.min(self.systemd.watchdog()));
        while self.end.is_none() {
            let wake = self.next_wake();
            // All arms are cancel-safe, and none waits inside its body.
            tokio::select! {
                Some(event) = inlets.wire.recv() => self.handle(Input::Mesh(event.into())),
                Some((id, result)) = inlets.saved.recv() => {
                    self.handle(Input::Stored(SaveId(id), result.map_err(|error| save_fault(&error))));
                }
                Some(event) = inlets.reported.recv() => self.on_event(event),
                Some(call) = inlets.calls.recv() => self.on_call(call),
                Some(()) = inlets.disturbed.recv() => self.handle(Input::Disturbed),
                Some(()) = inlets.edited.recv() => self.on_edited(),
                _ = inlets.hangup.recv() => self.reload(None),
                _ = inlets.terminate.recv() => break,
                _ = inlets.interrupt.recv() => break,
                () = sleep_until(wake), if wake_is_set(wake, self.clock) => self.handle(Input::Woken),
                _ = report.tick() => self.report(),
            }
        }
        self.systemd.stopping();
        if matches!(self.end, Some(End::Left)) {
            self.runtimes.conflists.keep(&Cni::default(), &self.options.socket);
        }
        self.saver.finish();
        self.end.unwrap_or(End::Told)
    }

    /// Tells systemd how it is, and runtimes that they can be served. That file stays where they cannot for a while: without it they
    /// would delete nothing either.
    fn report(&mut self) {
        self.adopt_late();
        self.systemd.report(&self.node);
        self.runtimes.tend(&self.node, self.file.config(), &self.events);
        self.measured.keep(self.file.config().metrics);
        self.tell_runtimes();
    }

    fn tell_runtimes(&mut self) {
        if self.node.overview().is_ready() {
            self.runtimes.conflists.keep(&self.file.config().cni, &self.options.socket);
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.clock.elapsed().as_micros() as u64)
    }

    fn next_wake(&self) -> Instant {
        let micros = self.node.next_wake().map_or(NEVER.as_micros() as u64, Timestamp::as_micros);
        self.clock + Duration::from_micros(micros).min(NEVER)
    }

    fn handle(&mut self, input: Input) {
        trace!(?input);
        self.node.handle(self.now(), input);
        self.carry_out();
        if self.runtimes.conflists.are_due(&self.file.config().cni) {
            self.tell_runtimes();
        }
    }

    /// Carries out what the node says, in order.
    fn carry_out(&mut self) {
        while let Some(output) = self.node.next_output() {
            trace!(?output);
            match output {
                Output::Dial(target) => self.transport.dial(target),
                Output::Send(conn, bytes) => self.transport.send(conn, bytes),
                Output::Close(conn, reason) => {
                    info!(conn = conn.0, reason = short(&reason, REASON_LEN_MAX), "connection closed");
                    self.transport.close(conn);
                }
                Output::Datagram(to, bytes) => self.transport.send_datagram(to, &bytes),
                Output::Save(id, writes) => self.save(id.0, writes),
                Output::ObserveHost(wanted, scope) => self.hands.observe_host(wanted, scope),
                Output::DoubtCheck => self.hands.doubt_check(),
                Output::ObserveVpc(universe, tables) => self.hands.observe_vpc(universe, tables),
                Output::ObserveNames(names) => self.hands.observe_names(names),
                Output::ObservePlaces(addresses) => {
                    self.hands.observe(Event::PlacesSeen, |ec2| async move { ec2.places(&addresses).await });
                }
                Output::ObservePeers(key, value) => {
                    self.hands.observe(Event::PeersSeen, |ec2| async move { ec2.peers(&key, &value).await });
                }
                Output::ObserveInstances(ids) => {
                    self.hands.observe(Event::InstancesSeen, |ec2| async move { ec2.instances(&ids).await });
                }
                Output::ObserveRunning(addresses) => {
                    self.hands
                        .observe(Event::RunningSeen, |ec2| async move { ec2.running(&addresses).await });
                }
                Output::MakeCanary => self.canary.make(self.events.clone()),
                Output::DropCanary => self.canary.drop(),
                Output::Probe(to, bytes) => self.canary.send(to, bytes),
                Output::Told(event) => log::event(&event),
                Output::PathChanged(path) => log::path(&path),
                Output::Apply(action) => self.hands.apply(action),
                Output::Answer(id, result) => self.answer(id, result),
                Output::Adopted(id) => self.settle(id, None),
                Output::RolledBack(why) => {
                    self.file.roll_back(&why);
                    self.hands.use_ec2(self.file.config());
                }
                Output::Finished => self.end = Some(End::Left),
                Output::Stop(refusal) => self.end = Some(End::Refused(refusal)),
            }
        }
    }

    fn save(&mut self, id: u64, writes: Vec<crate::node::persist::memory::Write>) {
        if let Err(error) = self.saver.save(id, writes) {
            self.node.handle(self.now(), Input::Stored(SaveId(id), Err(save_fault(&error))));
        }
    }

    fn on_event(&mut self, event: Event) {
        let input = match event {
            Event::Identified(metadata) => Input::Identified(metadata),
            Event::HostSeen(result) => {
                self.measured.metrics.looked("host", &result);
                Input::HostSeen(result)
            }
            Event::VpcSeen(result) => {
                self.measured.metrics.looked("vpc", &result);
                Input::VpcSeen(result)
            }
            Event::NamesSeen(answers) => {
                self.judge_names(&answers);
                Input::NamesSeen(answers)
            }
            Event::PeersSeen(result) => Input::PeersSeen(result),
            Event::InstancesSeen(result) => Input::InstancesSeen(result),
            Event::RunningSeen(result) => Input::RunningSeen(result),
            Event::PlacesSeen(result) => Input::PlacesSeen(result),
            Event::LinkMade(made) => Input::LinkMade(made),
            Event::Applied(action, outcome) => {
                let known = self.node.overview();
                log::step(&action, known.cause(&action), known.is_repair(&action), &outcome);
                self.measured.metrics.stepped(&action, &outcome);
                Input::Applied(action, outcome)
            }
            Event::CanaryMade(result) => Input::CanaryMade(result.map(|made| {
                let netns = made.netns.clone();
                self.canary.hold(made, self.events.clone());
                netns
            })),
            Event::DockerVersion(version) => {
                self.runtimes.bridge_file.learn(version);
                return self.runtimes.tend(&self.node, self.file.config(), &self.events);
            }
            Event::Probed(from, bytes) => Input::Probed(from, bytes),
            Event::Cancelled(id) => {
                self.asking.take(id);
                Input::Cancelled(id)
            }
            Event::KeyMade(made, reply) => return self.on_key_made(made, reply),
            Event::Found(Ok(request), reply) => return self.ask(request, reply),
            Event::Found(Err(refusal), reply) => return drop(reply.send(Err(refusal))),
            Event::Resolved(candidate, adoption, objection) => {
                return self.on_resolved(*candidate, adoption, objection);
            }
        };
        self.handle(input);
    }

    /// A name that had no answer at the start may stand for several hosts: without a ring the daemon ends as it would have then.
    fn judge_names(&mut self, answers: &transport::Answers) {
        if self.node.overview().ring().is_empty() {
            self.end = birth::uncounted(self.file.config(), answers).map(End::Refused);
        }
    }

    // ===== questions =====

    fn ask(&mut self, request: Request, reply: oneshot::Sender<Answer>) {
        let id = self.asking.wait(reply, &self.events);
        self.handle(Input::Asked(id, request));
    }

    fn answer(&mut self, id: RequestId, mut result: Answer) {
        self.settle(id, result.as_ref().err());
        if let Ok(Response::Status(status)) = &mut result {
            self.complete(status);
        }
        if let Some(reply) = self.asking.take(id) {
            drop(reply.send(result));
        }
    }

    /// Adds what the daemon knows of the configuration file.
    fn complete(&self, status: &mut Status) {
        status.config = ConfigStatus { trial_s: status.config.trial_s, ..self.file.status() };
        self.runtimes.bridge_file.tell(&self.file.config().docker, status);
        self.runtimes.conflists.tell(status);
    }

    // ===== the configuration file =====

    fn on_edited(&mut self) {
        if self.file.look() == file::Edit::Sound && self.file.on_change() == OnChange::Apply {
            self.reload(None);
        }
    }

    /// An edit that came while another configuration was being tried is adopted once that is over, where edits are.
    fn adopt_late(&mut self) {
        let is_wanted = self.file.is_edited() && self.file.on_change() == OnChange::Apply;
        if is_wanted && self.reloading.is_empty() && !self.node.is_trying() {
            self.reload(None);
        }
    }

    /// Has the node plan for another configuration without adopting it.
    fn preview(&mut self, sources: &Sources, reply: oneshot::Sender<Answer>) {
        match file::check(sources) {
            Ok(config) => {
                let id = self.asking.wait(reply, &self.events);
                self.handle(Input::Previewed(id, Box::new(config)));
            }
            Err(refusal) => drop(reply.send(Err(refusal))),
        }
    }

    /// Adopts the file and converges.
    fn apply(&mut self, plan: Option<SavedPlan>, patience: Option<Duration>, reply: oneshot::Sender<Answer>) {
        let candidate = self.file.candidate().and_then(|candidate| candidate.expected_by(plan.as_ref()));
        match candidate {
            Ok(candidate) => {
                self.resolve(candidate, Adoption::Apply { plan: plan.map(Box::new), patience, reply });
            }
            Err(refusal) => drop(reply.send(Err(refusal))),
        }
    }

    /// Reads the file and hands it to the node; a bad file leaves all as it was.
    fn reload(&mut self, reply: Option<oneshot::Sender<Answer>>) {
        match self.file.candidate() {
            Ok(candidate) => self.resolve(candidate, Adoption::Reload(reply)),
            Err(refusal) => {
                warn!(
                    journal.message_id = log::REFUSED,
                    error = refusal.message,
                    "the configuration file is not adopted"
                );
                if let Some(reply) = reply {
                    drop(reply.send(Err(refusal)));
                }
            }
        }
    }

    /// Has the names in a file resolved beside the loop: what they stand for may be a reason not to adopt it.
    fn resolve(&self, candidate: file::Candidate, adoption: Adoption) {
        let events = self.events.clone();
        tokio::spawn(async move {
            let answers = birth::resolved(&candidate.config).await;
            let objection = birth::uncounted(&candidate.config, &answers);
            let _ = events.send(Event::Resolved(Box::new(candidate), adoption, objection)).await;
        });
    }

    fn on_resolved(&mut self, candidate: file::Candidate, adoption: Adoption, objection: Option<Refusal>) {
        match (objection, adoption) {
            (None, Adoption::Reload(reply)) => {
                let id = match reply {
                    Some(reply) => self.asking.wait(reply, &self.events),
                    None => self.asking.next(),
                };
                self.adopt(id, candidate);
            }
            (None, Adoption::Apply { plan, patience, reply }) => {
                self.order(candidate, plan.map(|plan| *plan), patience, reply);
            }
            (Some(refusal), adoption) => {
                self.file.refuse(candidate, &refusal);
                if let Adoption::Reload(Some(reply)) | Adoption::Apply { reply, .. } = adoption {
                    drop(reply.send(Err(refusal)));
                }
            }
        }
    }

    fn adopt(&mut self, id: RequestId, candidate: file::Candidate) {
        let config = candidate.config.clone();
        // Before the node looks with it; where it refuses, what was in force comes back.
        self.hands.use_ec2(&config);
        self.reloading.insert(id, candidate);
        self.handle(Input::Configured(id, Box::new(config)));
    }

    /// The node has adopted a file, or refused it.
    fn settle(&mut self, id: RequestId, refusal: Option<&Refusal>) {
        let Some(candidate) = self.reloading.remove(&id) else { return };
        match refusal {
            None => self.file.adopt(candidate),
            Some(refusal) => self.file.refuse(candidate, refusal),
        }
        self.hands.use_ec2(self.file.config());
    }

    /// The node is asked to adopt a file and to converge at once, so that no step that follows from the file is taken before it
    /// begins to count.
    fn order(
        &mut self,
        candidate: file::Candidate,
        plan: Option<SavedPlan>,
        patience: Option<Duration>,
        reply: oneshot::Sender<Answer>,
    ) {
        let (done, adopted) = (self.asking.wait(reply, &self.events), self.asking.next());
        let trial = patience.and_then(|patience| self.file.trial(&candidate, patience));
        let config = candidate.config.clone();
        self.hands.use_ec2(&config);
        self.reloading.insert(adopted, candidate);
        self.handle(Input::Ordered(Box::new(Order { adopted, done, config, plan, trial })));
    }
}

/// Longer than any process lives; `Instant` overflows before `Timestamp` does.
const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

fn wake_is_set(wake: Instant, start: Instant) -> bool {
    wake.duration_since(start) < NEVER
}

fn save_fault(error: &store::StoreError) -> SaveFault {
    SaveFault { message: error.in_full(), hint: error.hint() }
}
