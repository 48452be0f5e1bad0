//! Who waits for what, and until when.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    Node,
    facts::Leave,
    io::Output,
    overview::Overview,
    peers::Peers,
    reconcile::Reconcile,
    request::{Refusal, RefusalKind, RequestId, Response},
};
use crate::{
    addr::Address,
    config::Config,
    ipam::Ticket,
    peer::PeerName,
    plan::{Change, Plan},
    state::{Action, Fault, FaultKind},
    time::Timestamp,
};

/// How long an answer may take; `apply` and `status --wait` bring a time of their own and hang up.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long looks may take before the last ones must do.
const LOOKS: Duration = Duration::from_secs(3);
/// How long a leaving host waits for its heir to take the routes over.
const HAND_OVER: Duration = Duration::from_secs(10);
/// Time between the looks that show how far it is.
const HAND_OVER_LOOKS: Duration = Duration::from_secs(1);
/// How long a runtime's question may take: it gives up after 30 s, and is to hear why before.
const PATIENCE_OF_RUNTIMES: Duration = Duration::from_secs(25);
/// How many may wait at once.
const WAITERS_MAX: usize = 10_000;

/// What somebody waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiter {
    /// That the plan is empty after looks begun now; with what was changed on the way.
    Converged(Vec<Change>),
    /// That the node is ready.
    Ready,
    /// That looks begun now have ended.
    Looks(Sight),
    /// That packets of this container flow.
    Attach { ident: String },
    /// That packets of this container, which a runtime asked for, flow. One that was made for that is not to be left where they
    /// cannot.
    Connect { ident: String, made: bool },
    /// The same of one that was connected before, by a look begun now.
    Check { ident: String },
    /// That a look at the host begun now has ended.
    Looked,
    /// That the link of this address is gone.
    Detach { address: Address },
    /// That the peers have agreed, in a decision not before `since`, who takes over what this peer owned.
    Forget { peer: PeerName, addresses: u32, since: u64 },
    /// That no route leads to us any more.
    Drain { addresses: u32, to: Option<PeerName> },
    /// That nothing of ours is left.
    Reset,
}

/// What is told by looks begun when it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// All there is to know of an address.
    Address(Address),
    /// The plan.
    Plan,
    /// The plan under another configuration.
    Preview(Box<Config>),
    /// All there is to know of this host.
    Status,
}

/// What a question to the address manager is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// An address for a container.
    Attach(String),
    /// Somebody asked for an address itself.
    Request(RequestId),
}

/// Everybody who waits.
#[derive(Debug, Default)]
pub struct Waiting {
    waiters: BTreeMap<RequestId, (Timestamp, Arc<Waiter>)>,
    tickets: BTreeMap<Ticket, Purpose>,
    last_ticket: u64,
}

impl Waiting {
    /// Whether as many wait as may.
    pub fn is_full(&self) -> bool {
        self.waiters.len() + self.tickets.len() >= WAITERS_MAX
    }

    /// Somebody waits from `now` on.
    pub fn add(&mut self, now: Timestamp, id: RequestId, waiter: Waiter) {
        self.waiters.insert(id, (now, Arc::new(waiter)));
    }

    /// A new ticket for a question to the address manager.
    pub fn ticket(&mut self, purpose: Purpose) -> Ticket {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.tickets.insert(ticket, purpose);
        ticket
    }

    /// What the ticket was for; it is spent.
    pub fn spend(&mut self, ticket: Ticket) -> Option<Purpose> {
        self.tickets.remove(&ticket)
    }

    /// Forgets the tickets whose purpose is this, and returns them.
    pub fn drop_tickets(&mut self, is_it: impl Fn(&Purpose) -> bool) -> std::vec::IntoIter<Ticket> {
        let tickets: Vec<Ticket> =
            self.tickets.iter().filter(|(_, purpose)| is_it(purpose)).map(|(ticket, _)| *ticket).collect();
        self.tickets.retain(|_, purpose| !is_it(purpose));
        tickets.into_iter()
    }

    /// Forgets who asked. Returns the tickets that were for them.
    pub fn cancel(&mut self, id: RequestId) -> std::vec::IntoIter<Ticket> {
        self.waiters.remove(&id);
        self.drop_tickets(|purpose| *purpose == Purpose::Request(id))
    }

    /// Forgets who asked, and says for what they waited.
    pub fn take(&mut self, id: RequestId) -> Option<Waiter> {
        self.waiters.remove(&id).map(|(_, waiter)| Arc::unwrap_or_clone(waiter))
    }

    /// Whether this one waits for an answer.
    pub fn is_waiting(&self, id: RequestId) -> bool {
        self.waiters.contains_key(&id)
    }

    /// Takes out everybody who waits for this.
    pub fn take_where(&mut self, is_it: impl Fn(&Waiter) -> bool) -> Vec<RequestId> {
        let ids: Vec<RequestId> =
            self.waiters.iter().filter(|(_, (_, waiter))| is_it(waiter)).map(|(id, _)| *id).collect();
        self.waiters.retain(|id, _| !ids.contains(id));
        ids
    }

    /// Peers that somebody wants to be taken over from.
    pub fn forgetting(&self) -> impl Iterator<Item = PeerName> {
        self.waiters.values().filter_map(|(_, waiter)| match &**waiter {
            Waiter::Forget { peer, .. } => Some(*peer),
            _ => None,
        })
    }

    /// Addresses that somebody wants to know all of.
    pub fn explained(&self) -> impl Iterator<Item = Address> {
        self.waiters.values().filter_map(|(_, waiter)| match &**waiter {
            Waiter::Looks(Sight::Address(address)) => Some(*address),
            _ => None,
        })
    }

    /// A step was carried out: whoever waits for convergence is told in the end.
    pub fn count(&mut self, action: &Action, plan: &Plan) {
        let Some(change) = plan.changes.iter().find(|change| change.action == *action) else { return };
        for (_, waiter) in self.waiters.values_mut() {
            if let Waiter::Converged(changes) = Arc::make_mut(waiter) {
                changes.push(change.clone());
            }
        }
    }

    /// The next moment after `now` at which somebody's patience ends.
    pub fn next_deadline(&self, now: Timestamp) -> Option<Timestamp> {
        let deadlines = self.waiters.values().filter_map(|(since, waiter)| waiter.deadline(*since));
        deadlines.filter(|deadline| *deadline > now).min()
    }
}

impl Waiter {
    /// Whether it waits for this container to be connected.
    pub fn is_attaching(&self, of: &str) -> bool {
        match self {
            Waiter::Attach { ident } | Waiter::Connect { ident, .. } | Waiter::Check { ident } => ident == of,
            _ => false,
        }
    }

    fn deadline(&self, since: Timestamp) -> Option<Timestamp> {
        match self {
            Waiter::Converged(_) | Waiter::Ready => None,
            Waiter::Attach { .. } | Waiter::Detach { .. } | Waiter::Forget { .. } => Some(since + PATIENCE),
            Waiter::Connect { .. } | Waiter::Check { .. } => Some(since + PATIENCE_OF_RUNTIMES),
            Waiter::Looks(_) | Waiter::Looked => Some(since + LOOKS),
            Waiter::Drain { .. } | Waiter::Reset => Some(since + HAND_OVER),
        }
    }
}

impl Node {
    /// Answers everybody whose wait is over.
    pub(super) fn answer_waiting(&mut self) {
        let ids: Vec<RequestId> = self.waiting.waiters.keys().copied().collect();
        for id in ids {
            let (since, waiter) = self.waiting.waiters[&id].clone();
            let late = waiter.deadline(since).is_some_and(|deadline| deadline <= self.facts.now);
            let Some(result) = self.result(since, &waiter, late) else { continue };
            self.waiting.waiters.remove(&id);
            let finished = *waiter == Waiter::Reset && result.is_ok();
            if result.is_err() {
                self.undo_connect(&waiter);
            }
            self.out.answer(id, result);
            if finished {
                self.out.let_out(super::Effect::Finish);
            }
        }
        self.forget_wishes();
    }

    fn result(&mut self, since: Timestamp, waiter: &Waiter, late: bool) -> Option<Result<Response, Refusal>> {
        match waiter {
            Waiter::Converged(changes) => self.overview().converged_since(since, changes),
            Waiter::Ready => self.overview().is_ready().then_some(Ok(Response::Done)),
            Waiter::Looks(sight) => {
                self.look_at_the_vpc_last(since);
                let unseen = self.work.unseen_since(since);
                let probed = self.overview().is_probed_since(since, sight);
                (late || (unseen.is_empty() && probed)).then(|| Ok(self.overview().told(sight, &unseen)))
            }
            Waiter::Attach { ident } => self.overview().attached(ident, late),
            Waiter::Connect { ident, .. } => self.overview().connected(ident, late),
            Waiter::Check { ident } => {
                let looked = late || self.work.converge.host.has_ended_since(since);
                looked.then(|| self.overview().connected(ident, late)).flatten()
            }
            Waiter::Looked => {
                (late || self.work.converge.host.has_ended_since(since)).then_some(Ok(Response::Done))
            }
            Waiter::Detach { address } => {
                let host = self.work.converge.host.seen();
                let gone = host.is_some_and(|host| !host.links.contains_key(address))
                    && !self.local.containers.is_leaving(*address);
                (gone || late).then(|| match gone {
                    true => Ok(Response::Done),
                    false => Err(Refusal::new(
                        RefusalKind::Failed,
                        format!("the link of {address} is still there"),
                    )
                    .hint("`weavers status` names the step that fails")),
                })
            }
            &Waiter::Forget { peer, addresses, since } => {
                self.overview().forgotten((peer, addresses, since), late)
            }
            &Waiter::Drain { addresses, to } => {
                self.watch_the_hand_over();
                let done = !self.overview().routes_lead_here() && !self.overview().is_resigning();
                (late || done).then(|| self.peers.drained(addresses, to))
            }
            Waiter::Reset => self.reset_done(since, late),
        }
    }

    /// Looks at once: what is said to be missing, or there, must not have changed since the last looks.
    pub(super) fn tell_anew(&mut self, id: RequestId, sight: Sight) {
        self.work.converge.host.look_by(self.facts.now);
        self.out.outputs.push_back(Output::DoubtCheck);
        match &sight {
            Sight::Address(address) => {
                if let Some(owner) = self.overview().probed_owner(*address) {
                    self.probes.prober.hurry_to(self.facts.now, owner);
                }
            }
            Sight::Status => self.probes.prober.hurry(self.facts.now),
            Sight::Plan | Sight::Preview(_) => {}
        }
        self.waiting.add(self.facts.now, id, Waiter::Looks(sight));
        self.out.disturbed = true;
    }

    /// What such a look finds is mended at once, and would be told no more if the host had yet to be looked at. There
    /// it matters less: the kernel tells by itself when something has changed.
    fn look_at_the_vpc_last(&mut self, since: Timestamp) {
        let vpc = &mut self.work.converge.vpc;
        let begun = vpc.last_begun().is_some_and(|begun| begun >= since) || vpc.has_ended_since(since);
        if self.work.converge.host.has_ended_since(since) && !begun {
            vpc.look_by(self.facts.now);
        }
    }

    /// An heir takes one route after the other, so one look is not enough.
    fn watch_the_hand_over(&mut self) {
        let vpc = &mut self.work.converge.vpc;
        if let Some(begun) = vpc.seen_at().filter(|_| vpc.is_current()) {
            vpc.look_by(begun + HAND_OVER_LOOKS);
        }
    }

    /// Nothing of ours is left on the host, and the routes are gone; those that the heir did not
    /// take over in time are withdrawn. What an older look shows may be the heir's by now, and a call to delete a route
    /// does not say whose.
    fn reset_done(&mut self, since: Timestamp, late: bool) -> Option<Result<Response, Refusal>> {
        if late && let Some(refusal) = self.work.unread_routes(since) {
            return Some(Err(refusal));
        }
        // Without an instance there is no VPC.
        let read = self.facts.identity.instance.is_none() || self.work.converge.vpc.is_seen_since(since);
        let counted_on = self.overview().is_resigning() && !late;
        let done = read
            && !self.overview().routes_lead_here()
            && self.work.plan.is_empty()
            && !self.work.converge.is_at_work();
        if done && !counted_on {
            let both = self.work.converge.host.fault().is_none();
            return both.then_some(Ok(Response::Done));
        }
        self.watch_the_hand_over();
        if late
            && self.facts.leave == Leave::HandingOver
            && self.work.converge.vpc.is_seen_since(since + HAND_OVER)
        {
            self.facts.leave = Leave::Withdrawing;
            self.out.disturbed = true;
        }
        None
    }
}

impl Overview<'_> {
    /// Whether probes that were sent since have shown what such a sight is to tell of paths.
    fn is_probed_since(&self, since: Timestamp, sight: &Sight) -> bool {
        let probed = |peer| self.probes.prober.is_known_since(since, peer);
        match sight {
            Sight::Address(address) => self.probed_owner(*address).is_none_or(|owner| probed(Some(owner))),
            Sight::Status => probed(None),
            Sight::Plan | Sight::Preview(_) => true,
        }
    }

    pub(super) fn told(&self, sight: &Sight, unseen: &[&str]) -> Response {
        let mut plan = match sight {
            &Sight::Address(address) => return Response::Explanation(Box::new(self.explain(address))),
            Sight::Plan => self.with_impact(self.work.plan.clone()),
            Sight::Preview(config) => self.preview(config),
            Sight::Status => return Response::Status(Box::new(self.status())),
        };
        let late = |view: &&str| format!("{view} could not be looked at within {LOOKS:?}: as last seen");
        plan.unread.extend(unseen.iter().map(late));
        Response::Plan(Box::new(plan))
    }

    fn converged_since(&self, since: Timestamp, changes: &[Change]) -> Option<Result<Response, Refusal>> {
        let seen =
            self.work.converge.host.is_seen_since(since) && self.work.converge.vpc.is_seen_since(since);
        if seen
            && self.work.plan.is_empty()
            && !self.work.converge.is_at_work()
            && self.work.converge.is_confirmed()
        {
            let plan = Plan { changes: changes.to_vec(), ..self.work.plan.clone() };
            return Some(Ok(Response::Plan(Box::new(self.with_impact(plan)))));
        }
        let (host, vpc) = (&self.work.converge.host, &self.work.converge.vpc);
        let view_fault = host.fault_since(since).or(vpc.fault_since(since));
        if let Some(fault) = view_fault.filter(|_| !self.work.converge.is_at_work()) {
            return Some(Err(Refusal::from(fault)));
        }
        let blocked = |change: &Change| {
            let action = &change.action;
            self.work.converge.blocked(action).is_some()
                || self.work.converge.held_up(action, &self.work.plan).is_some()
        };
        if seen
            && !self.work.plan.is_empty()
            && !self.work.converge.is_at_work()
            && self.work.plan.changes.iter().all(blocked)
        {
            if let Some(first) = self.work.plan.changes.first() {
                return self.work.converge.blocked(&first.action).map(|fault| Err(fault.into()));
            }
            let refused = super::report::refused_step(self.work.plan.refused.first()?);
            let refusal = Refusal::new(RefusalKind::Failed, refused.what);
            return Some(Err(refused.hint.into_iter().fold(refusal, Refusal::hint)));
        }
        None
    }

    pub(super) fn attached(&self, ident: &str, late: bool) -> Option<Result<Response, Refusal>> {
        let Some(attached) = self.local.containers.all().get(ident) else {
            let message = format!("`{ident}` was detached before it was connected");
            return Some(Err(Refusal::new(RefusalKind::Failed, message)));
        };
        if attached.address.is_none() && !late {
            return None;
        }
        let hopeless = self.work.hopeless_link(attached);
        match (self.missing(attached), attached.address) {
            (None, Some(address)) => Some(Ok(Response::Attached { address, mtu: self.link_mtu() })),
            (Some(missing), _) if late || hopeless.is_some() => {
                let message =
                    format!("`{ident}` is attached, but packets cannot flow yet: missing {missing}");
                let hint = self.work.hindrance(attached).and_then(|note| note.hint).unwrap_or_else(|| {
                    "it is still being worked on: see `weavers status`, or undo it with `weavers detach`"
                        .into()
                });
                Some(Err(Refusal::new(RefusalKind::Failed, message).hint(hint)))
            }
            (Some(_) | None, _) => None,
        }
    }
}

impl Reconcile {
    /// What no look begun since has brought or failed to bring.
    fn unseen_since(&self, since: Timestamp) -> Vec<&'static str> {
        let (host, vpc) = (&self.converge.host, &self.converge.vpc);
        let views = [("the host", host.has_ended_since(since)), ("the VPC", vpc.has_ended_since(since))];
        views.into_iter().filter(|(_, ended)| !ended).map(|(view, _)| view).collect()
    }

    /// Why nobody knows whether routes still lead here, unless it passes by itself.
    fn unread_routes(&self, since: Timestamp) -> Option<Refusal> {
        let passes = |fault: &&Fault| matches!(fault.kind, FaultKind::Throttled | FaultKind::Outdated);
        let fault = self.converge.vpc.fault_since(since).filter(|fault| !passes(fault))?;
        let message = format!("routes may lead here still, as the VPC cannot be read: {}", fault.message);
        let first = fault.hint.iter().map(|hint| format!("{hint}; "));
        let hint = first.chain(["once it can be read, `weavers reset` again".to_owned()]).collect::<String>();
        Some(Refusal::new(RefusalKind::Failed, message).hint(hint))
    }
}

impl Peers {
    /// Whether what was to be given away was.
    pub(super) fn drained(&self, addresses: u32, to: Option<PeerName>) -> Result<Response, Refusal> {
        let kept: u32 = self.ipam.owned().iter().map(|range| range.len()).sum();
        if to.is_none() || kept == 0 {
            return Ok(Response::Moved { addresses, to });
        }
        let message = format!(
            "{kept} addresses stay with this host: their version in the ring is the last, which nobody can outbid"
        );
        Err(Refusal::new(RefusalKind::Failed, message)
            .hint("restart weavers here to go on with them; or `weavers reset` on every host, or another [ipam] range"))
    }
}
