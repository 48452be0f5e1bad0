//! The hands at work beside the loop: the host one job at a time, and several links at once; links that go; EC2 one job for
//! each table.

use std::{
    collections::BTreeSet,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::StreamExt;
use ipnet::Ipv4Net;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::Event;
use crate::{
    addr::{Address, Universe},
    api::Answer,
    config::Config,
    kernel::{Kernel, removal::Remover},
    metrics::Calls,
    node::{
        identity::Metadata,
        protocol::request::{Refusal, RefusalKind, Response},
    },
    state::{
        Action, Ec2Action, Fault, FaultKind, Host, HostAction, Scope, SubnetId, TableId, Tables, Vpc, VpcId,
    },
    transport,
    vpc::Ec2,
};

/// Jobs that may wait for the host: one look, and actions on as many links as are worked on at once.
const JOBS_MAX: usize = 64;

enum Job {
    Observe(Box<Host>, Scope),
    Apply(HostAction),
}

/// What the loop tells to do.
pub(super) struct Hands {
    host: mpsc::Sender<Job>,
    removals: mpsc::Sender<Address>,
    ec2: Arc<Ec2Hand>,
    events: mpsc::Sender<Event>,
}

impl Hands {
    pub(super) fn new(
        kernel: Kernel,
        ec2: Option<Ec2>,
        config: &Config,
        calls: Calls,
        events: mpsc::Sender<Event>,
    ) -> Hands {
        let (removals, going) = mpsc::channel(JOBS_MAX);
        tokio::spawn(remove_links(kernel.remover(), going, events.clone()));
        let (host, jobs) = mpsc::channel(JOBS_MAX);
        tokio::spawn(work_on_host(kernel, jobs, events.clone()));
        let ec2 = Ec2Hand::new(ec2.map(Arc::new), config.clone(), calls, events.clone());
        Hands { host, removals, ec2: Arc::new(ec2), events }
    }

    /// EC2 is asked so from now on: there, and for the interface that is an uplink by this configuration.
    pub(super) fn use_ec2(&mut self, config: &Config) {
        let known = &self.ec2.config;
        let elsewhere = known.vpc.region != config.vpc.region || known.vpc.endpoint != config.vpc.endpoint;
        let by_others = known.network.uplinks != config.network.uplinks;
        if elsewhere || by_others {
            let ec2 = if elsewhere { None } else { self.ec2.in_doubt_of_its_interface() };
            let calls = self.ec2.calls.clone();
            self.ec2 = Arc::new(Ec2Hand::new(ec2, config.clone(), calls, self.events.clone()));
        }
    }

    pub(super) fn observe_host(&self, wanted: Box<Host>, scope: Scope) {
        self.on_host(Job::Observe(wanted, scope));
    }

    pub(super) fn observe_vpc(&self, universe: Universe, tables: Tables) {
        let (ec2, events) = (self.ec2.clone(), self.events.clone());
        tokio::spawn(async move {
            let result = ec2.observe(&universe, &tables).await;
            // The loop is gone only when the daemon stops.
            let _ = events.send(Event::VpcSeen(result)).await;
        });
    }

    pub(super) fn observe_names(&self, names: BTreeSet<String>) {
        let events = self.events.clone();
        tokio::spawn(async move {
            let answers = transport::resolve(names, transport::RESOLVE).await;
            let _ = events.send(Event::NamesSeen(answers)).await;
        });
    }

    /// The next look at the VPC reads the source/destination check, too.
    pub(super) fn doubt_check(&self) {
        self.ec2.is_check_doubted.store(true, Ordering::Relaxed);
    }

    /// Asks EC2 something, and tells the loop what it said.
    pub(super) fn observe<T, F>(
        &self,
        seen: fn(Result<T, Fault>) -> Event,
        question: impl FnOnce(Arc<Ec2>) -> F + Send + 'static,
    ) where
        T: Send + 'static,
        F: Future<Output = Result<T, Fault>> + Send,
    {
        let (ec2, events) = (self.ec2.clone(), self.events.clone());
        tokio::spawn(async move {
            let result = ec2.ask(question).await;
            let _ = events.send(seen(result)).await;
        });
    }

    /// Asks EC2 what it would carry out, and tells whoever asked.
    pub(super) fn permissions(&self, range: Ipv4Net, table: Option<TableId>, reply: oneshot::Sender<Answer>) {
        let ec2 = self.ec2.clone();
        tokio::spawn(async move {
            let answer = match ec2.get().await {
                Ok(ec2) => Ok(Response::Permissions(ec2.permissions(table.as_ref(), range).await)),
                Err(Fault { message, hint, .. }) => {
                    Err(Refusal { hint, ..Refusal::new(RefusalKind::Failed, message) })
                }
            };
            // Whoever hung up knows enough.
            drop(reply.send(answer));
        });
    }

    pub(super) fn apply(&self, action: Action) {
        match action {
            Action::Host(HostAction::DeleteLink(address)) => self.on_link(address),
            Action::Host(action) => self.on_host(Job::Apply(action)),
            Action::Ec2(action) => self.on_ec2(action),
        }
    }

    /// The node has at most one look and so many actions under way that a place is always free.
    fn on_host(&self, job: Job) {
        if self.host.try_send(job).is_err() {
            tracing::error!("the hand that works on the host is gone");
        }
    }

    fn on_link(&self, going: Address) {
        if self.removals.try_send(going).is_err() {
            tracing::error!("the hand that removes links is gone");
        }
    }

    fn on_ec2(&self, action: Ec2Action) {
        let (ec2, events) = (self.ec2.clone(), self.events.clone());
        tokio::spawn(async move {
            let step = &action;
            let outcome = ec2.ask(|ec2| async move { ec2.apply(step).await }).await;
            let _ = events.send(Event::Applied(action.into(), outcome)).await;
        });
    }
}

async fn work_on_host(mut kernel: Kernel, mut jobs: mpsc::Receiver<Job>, events: mpsc::Sender<Event>) {
    let mut held = None;
    while let Some(job) = next(&mut held, &mut jobs).await {
        let action = match job {
            Job::Observe(wanted, scope) => {
                // The loop is gone only when the daemon stops.
                let _ = events.send(Event::HostSeen(kernel.observe(&wanted, scope).await)).await;
                continue;
            }
            Job::Apply(action) => action,
        };
        if action.makes_link().is_some() {
            let actions = with_others(action, &mut held, &mut jobs);
            let mut ended = pin!(kernel.apply_to_links(actions).await);
            while let Some((action, outcome)) = ended.next().await {
                let outcome = match outcome {
                    Ok(Some(read)) => {
                        let _ = events.send(Event::LinkMade(read.made.clone())).await;
                        kernel.take_in(read);
                        Ok(())
                    }
                    outcome => outcome.map(drop),
                };
                let _ = events.send(Event::Applied(action.into(), outcome.map(|()| None))).await;
            }
        } else {
            let outcome = kernel.apply(&action).await;
            let _ = events.send(Event::Applied(action.into(), outcome.map(|()| None))).await;
        }
    }
}

/// The actions on links that wait, too.
fn with_others(first: HostAction, held: &mut Option<Job>, jobs: &mut mpsc::Receiver<Job>) -> Vec<HostAction> {
    let mut actions = vec![first];
    while let Ok(job) = jobs.try_recv() {
        match job {
            Job::Apply(action) if action.makes_link().is_some() => actions.push(action),
            other => {
                *held = Some(other);
                break;
            }
        }
    }
    actions
}

async fn next(held: &mut Option<Job>, jobs: &mut mpsc::Receiver<Job>) -> Option<Job> {
    match held.take() {
        Some(job) => Some(job),
        None => jobs.recv().await,
    }
}

/// Removes links: those that are waiting together.
async fn remove_links(remover: Remover, mut going: mpsc::Receiver<Address>, events: mpsc::Sender<Event>) {
    let mut addresses = Vec::new();
    while going.recv_many(&mut addresses, JOBS_MAX).await > 0 {
        for (address, outcome) in remover.remove(addresses.drain(..).collect()).await {
            let _ = events
                .send(Event::Applied(HostAction::DeleteLink(address).into(), outcome.map(|()| None)))
                .await;
        }
    }
}

/// EC2, connected to when it is first needed and the metadata answers, and with new credentials when the old ones
/// are refused.
struct Ec2Hand {
    ec2: Mutex<Option<Arc<Ec2>>>,
    /// The credentials were refused.
    is_refused: AtomicBool,
    /// The source/destination check may not be as it was last read.
    is_check_doubted: AtomicBool,
    config: Config,
    calls: Calls,
    events: mpsc::Sender<Event>,
}

impl Ec2Hand {
    fn new(ec2: Option<Arc<Ec2>>, config: Config, calls: Calls, events: mpsc::Sender<Event>) -> Ec2Hand {
        Ec2Hand {
            ec2: Mutex::new(ec2),
            is_refused: AtomicBool::new(false),
            is_check_doubted: AtomicBool::new(false),
            config,
            calls,
            events,
        }
    }

    /// What EC2 is asked by, which looks anew which interface is ours. Whoever holds it is about to connect: so does
    /// the hand that comes next.
    fn in_doubt_of_its_interface(&self) -> Option<Arc<Ec2>> {
        let ec2 = self.ec2.try_lock().ok()?;
        ec2.as_ref().map(|ec2| Arc::new(ec2.in_doubt_of_its_interface()))
    }

    /// A look, with the interface that the host has at that moment.
    async fn observe(&self, universe: &Universe, tables: &Tables) -> Result<Vpc, Fault> {
        let known = self.get().await?;
        if self.is_check_doubted.swap(false, Ordering::Relaxed) {
            known.doubt_check();
        }
        // Before the look: connections that leave by an interface that is gone get no answer.
        if let Some(moved) = known.moved(&self.config).await {
            let _ = self.events.send(Event::Identified(metadata(&moved))).await;
            *self.ec2.lock().await = Some(Arc::new(moved));
        }
        self.ask(|ec2| async move { ec2.observe(universe, tables).await }).await
    }

    async fn ask<T, F>(&self, question: impl FnOnce(Arc<Ec2>) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let answer = question(self.get().await?).await;
        if answer.as_ref().is_err_and(|fault| fault.kind == FaultKind::Unsigned) {
            self.is_refused.store(true, Ordering::Relaxed);
        }
        answer
    }

    async fn get(&self) -> Result<Arc<Ec2>, Fault> {
        let mut ec2 = self.ec2.lock().await;
        let fresh = match &*ec2 {
            Some(known) if self.is_refused.swap(false, Ordering::Relaxed) => {
                known.renewed(&self.config.vpc).await
            }
            Some(known) => return Ok(known.clone()),
            None => self.connect().await?,
        };
        Ok(ec2.insert(Arc::new(fresh)).clone())
    }

    async fn connect(&self) -> Result<Ec2, Fault> {
        if !self.config.is_on_ec2() {
            return Err(outside());
        }
        let ec2 = Ec2::connect(&self.config, self.calls.clone()).await?;
        // Before anything that is read there: this may be another instance than the store was made on.
        let _ = self.events.send(Event::Identified(metadata(&ec2))).await;
        Ok(ec2)
    }
}

/// Nothing of a host outside EC2 asks for it but whoever does by hand.
fn outside() -> Fault {
    Fault {
        kind: FaultKind::Invalid,
        message: "EC2 is not asked: by [vpc] provider = \"none\" this host is outside it".to_owned(),
        hint: Some("on an instance of EC2, set it to \"aws\" and restart".to_owned()),
        request_id: None,
    }
}

/// What the metadata said of this host.
pub(super) fn metadata(ec2: &Ec2) -> Metadata {
    let identity = ec2.identity();
    Metadata {
        instance: identity.instance.clone(),
        interface: identity.interface.clone(),
        subnet: SubnetId(identity.subnet.clone()),
        vpc: VpcId(identity.vpc.clone()),
    }
}
