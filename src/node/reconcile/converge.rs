//! The loop's memory: what was last seen of the host and of the VPC, what is being done about it,
//! and how each step ended.
//!
//! A view is looked at, compared, changed step by step, and looked at again until nothing is left.
//! Each plane has one action in flight, or several that are each about a link of its own. A step that
//! fails is tried again after a growing pause and never stops the others; one that is denied waits
//! longer, or until somebody asks again.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use ipnet::Ipv4Net;

use super::drift::Drift;
use crate::{
    addr::Address,
    node::observe::view::{CALM, PAUSE_DENIED, View, doubled, pause},
    plan::{Change, Plan, Plane},
    state::{
        Action, Ec2Action, Fault, FaultKind, Host, HostAction, InterfaceId, Made, Route, RouteState, Side,
        TUNNEL, Target, Vpc,
    },
    time::Timestamp,
};

/// Time between the looks that confirm a write.
const CONFIRM: Duration = Duration::from_secs(1);
/// A write that EC2 acknowledged is not repeated until this many reads deny it.
const DENIALS: u8 = 2;
/// Reads begun sooner after a write do not deny it: EC2 may show for a while what was before.
const SETTLES: Duration = Duration::from_secs(5);
/// Steps kept for `status`, of the host and of EC2 each.
const STEPS_MAX: usize = 100;
/// Links that are worked on at once.
const LINKS_AT_ONCE_MAX: usize = 16;

/// What was written to a route table and not seen there yet.
#[derive(Debug)]
struct Belief {
    /// The interface the route leads to; `None`: the route is gone.
    target: Option<InterfaceId>,
    at: Timestamp,
    denials: u8,
}

/// How often a step was taken without the world coming to be as it should.
#[derive(Debug)]
struct Attempt {
    times: u32,
    /// Looks at its side of the world that had begun when it ended.
    looks: u64,
    not_before: Timestamp,
    fault: Option<Fault>,
}

/// The plan that a plane works on.
#[derive(Debug, Default)]
struct Work {
    queue: VecDeque<Change>,
    in_flight: Vec<Change>,
    /// What failed or was put off.
    failed: Vec<Action>,
}

/// How a step ended.
#[derive(Clone, Debug)]
pub struct Step {
    /// The step and why it was taken.
    pub change: Change,
    /// When it ended.
    pub at: Timestamp,
    /// EC2's request id, or why it failed.
    pub outcome: Result<Option<String>, Fault>,
}

/// Both views, the steps to take, and those that were taken.
#[derive(Debug)]
pub struct Converge {
    /// The host.
    pub host: View<Host>,
    /// The VPC as it was read; see [`Converge::believed`].
    pub vpc: View<Vpc>,
    beliefs: BTreeMap<(Side, Ipv4Net), Belief>,
    work: BTreeMap<Plane, Work>,
    attempts: BTreeMap<Action, Attempt>,
    /// What others change of what is ours.
    pub drift: Drift,
    /// Links that were made and read back, and whose steps have yet to end.
    made: BTreeSet<Address>,
    /// Whether all that was done on the host since the last look was read back then.
    is_read_back: bool,
    /// How long a step that was denied waits: in a large cluster all ask the account together.
    pub pause_denied: Duration,
    steps: VecDeque<Step>,
}

impl Default for Converge {
    fn default() -> Converge {
        Converge::new()
    }
}

impl Converge {
    /// Nothing seen, nothing done.
    pub fn new() -> Converge {
        Converge {
            host: View::default(),
            vpc: View::default(),
            beliefs: BTreeMap::new(),
            work: BTreeMap::new(),
            attempts: BTreeMap::new(),
            drift: Drift::default(),
            made: BTreeSet::new(),
            is_read_back: true,
            pause_denied: PAUSE_DENIED,
            steps: VecDeque::new(),
        }
    }

    /// Whether to look at the host now; if so the look counts as begun. Links that go take their time, and hold up no look.
    pub fn begin_host(&mut self, now: Timestamp) -> bool {
        let begins = !self.is_busy(|plane| *plane == Plane::Host) && self.host.begin(now);
        self.is_read_back |= begins;
        begins
    }

    /// Whether to look at the VPC now; if so the look counts as begun.
    pub fn begin_vpc(&mut self, now: Timestamp) -> bool {
        !self.is_busy(|plane| !is_host(plane)) && self.vpc.begin(now)
    }

    /// A look at the host has ended.
    pub fn host_seen(&mut self, now: Timestamp, result: Result<Host, Fault>, interval: Duration) {
        self.host.end(now, result, interval);
    }

    /// A link was made or mended and read back: the host is seen with it.
    pub fn link_made(&mut self, made: Made) {
        if let Some(host) = self.host.seen_mut() {
            self.made.insert(made.address);
            host.take_in(made);
        }
    }

    /// A look at the VPC has ended.
    pub fn vpc_seen(&mut self, now: Timestamp, result: Result<Vpc, Fault>, interval: Duration) {
        let begun = self.vpc.end(now, result, interval);
        if let (None, Some(vpc)) = (self.vpc.fault(), self.vpc.seen()) {
            self.drift.see(vpc);
            self.beliefs.retain(|key, belief| belief.survives(key, begun, vpc));
        }
        if !self.beliefs.is_empty() {
            self.vpc.look_by(now + CONFIRM);
        }
    }

    /// The VPC with what was written to it and not yet shown or denied by reads.
    pub fn believed(&self) -> Option<Cow<'_, Vpc>> {
        let seen = self.vpc.seen()?;
        if self.beliefs.is_empty() {
            return Some(Cow::Borrowed(seen));
        }
        let mut vpc = seen.clone();
        for ((table, cidr), belief) in &self.beliefs {
            let Some(table) = vpc.side_mut(table) else { continue };
            match &belief.target {
                Some(interface) => {
                    let target = Target::Interface(interface.clone());
                    let route = Route { target, state: RouteState::Active, created: true };
                    table.used += usize::from(table.routes.insert(*cidr, route).is_none());
                }
                None => {
                    let gone = usize::from(table.routes.remove(cidr).is_some());
                    table.used = table.used.saturating_sub(gone);
                }
            }
        }
        Some(Cow::Owned(vpc))
    }

    /// Whether every write was seen by a later read.
    pub fn is_confirmed(&self) -> bool {
        self.beliefs.is_empty()
    }

    /// Takes in a new plan and returns the steps to take now.
    ///
    /// A plane that is at work goes on with the plan that it has, unless that is outdated.
    pub fn take(&mut self, now: Timestamp, plan: &Plan) -> Vec<Action> {
        self.forget_attempts(plan);
        self.drop_outdated(plan);
        self.forget_idle(plan);
        for plane in self.idle_planes(plan) {
            let steps = plan.changes.iter().filter(|change| Plane::of(&change.action) == plane);
            let queue = steps.cloned().collect();
            self.work.insert(plane, Work { queue, ..Work::default() });
        }
        self.next_steps(now)
    }

    /// Attempts count until a look that began after them shows that the step is not needed any more. While a write is only
    /// believed the plan does not have it, and yet the next look may say that it must be done again.
    fn forget_attempts(&mut self, plan: &Plan) {
        let (host, vpc) = (self.host.seen_look(), self.vpc.seen_look());
        let (beliefs, work, steps) = (&self.beliefs, &self.work, steps_of(plan));
        self.attempts.retain(|action, attempt| {
            let plane = Plane::of(action);
            let seen = if is_host(&plane) { host } else { vpc };
            let believed = written(action).is_some_and(|(key, _)| beliefs.contains_key(&key));
            work.get(&plane).is_some_and(|work| work.is_in_flight(action))
                || steps.contains(action)
                || believed
                || seen <= attempt.looks
        });
    }

    /// Drops what waits for its turn on a plane where the new plan no longer wants some of it, or
    /// wants something built that is neither done nor under way: the order of steps was made for
    /// another state, and a range may be another peer's by now.
    fn drop_outdated(&mut self, plan: &Plan) {
        let steps = steps_of(plan);
        for (plane, work) in self.work.iter_mut().filter(|(_, work)| !work.queue.is_empty()) {
            let waiting: BTreeSet<&Action> = work.queue.iter().map(|change| &change.action).collect();
            let begun = |action: &Action| self.attempts.contains_key(action) || work.is_in_flight(action);
            let mut new = steps.iter().filter(|action| Plane::of(action) == *plane && !is_removal(action));
            let unwanted = waiting.iter().any(|action| !steps.contains(action));
            if unwanted || new.any(|action| !waiting.contains(action) && !begun(action)) {
                work.queue.clear();
            }
        }
    }

    /// What failed on a plane that has nothing to do any more holds up nobody.
    fn forget_idle(&mut self, plan: &Plan) {
        let has_steps = |plane: &Plane| plan.changes.iter().any(|change| Plane::of(&change.action) == *plane);
        self.work.retain(|plane, work| work.is_busy() || has_steps(plane));
    }

    /// Planes with something to do, nothing in flight, and a view that is current.
    fn idle_planes(&self, plan: &Plan) -> Vec<Plane> {
        let mut planes: Vec<Plane> = plan.changes.iter().map(|change| Plane::of(&change.action)).collect();
        planes.sort();
        planes.dedup();
        planes.retain(|plane| {
            let current = if is_host(plane) { self.host.is_current() } else { self.vpc.is_current() };
            current && !self.is_busy(|busy| busy == plane)
        });
        planes
    }

    /// The next steps of all planes.
    fn next_steps(&mut self, now: Timestamp) -> Vec<Action> {
        let planes: Vec<Plane> = self.work.keys().cloned().collect();
        let mut steps = Vec::new();
        for plane in planes {
            while let Some(step) = self.next_step(now, &plane) {
                steps.push(step);
            }
        }
        steps
    }

    fn next_step(&mut self, now: Timestamp, plane: &Plane) -> Option<Action> {
        while let Some(change) = self.work.get_mut(plane)?.queue.pop_front() {
            if !self.may_begin(plane, &change.action) {
                self.work.get_mut(plane)?.queue.push_front(change);
                return None;
            }
            let too_early = self.not_before(&change.action).is_some_and(|earliest| earliest > now);
            let before = self.work.iter().filter(|(other, _)| stands_before(other, plane));
            let mut failed = before.flat_map(|(_, work)| &work.failed);
            let unsafe_now = failed.any(|earlier| rests_on(&change.action, earlier));
            let work = self.work.get_mut(plane)?;
            if !too_early && !unsafe_now {
                let action = change.action.clone();
                work.in_flight.push(change);
                return Some(action);
            }
            // A step that is put off is as good as failed to whatever rests on it.
            if !is_removal(&change.action) {
                work.failed.push(change.action);
            }
        }
        None
    }

    /// Whether a step may be taken beside those that are in flight: of those about links several at once, one a link. What
    /// guards links goes after the last of them.
    fn may_begin(&self, plane: &Plane, action: &Action) -> bool {
        let Some(link) = action.link() else {
            let last = matches!(
                action,
                Action::Host(
                    HostAction::DeleteGateway
                        | HostAction::DeleteBlock(_)
                        | HostAction::CloseForward
                        | HostAction::DeleteRules
                )
            );
            let removing = last && self.is_busy(|busy| *busy == Plane::Removal);
            return !removing && self.work.get(plane).is_none_or(|work| work.in_flight.is_empty());
        };
        let links_only = |work: &Work| {
            let links = work.in_flight.iter().all(|change| change.action.link().is_some());
            links && work.in_flight.len() < LINKS_AT_ONCE_MAX
        };
        let mut in_flight = self.work.values().flat_map(|work| &work.in_flight);
        self.work.get(plane).is_none_or(links_only)
            && in_flight.all(|change| change.action.link() != Some(link))
    }

    /// When a step may be taken that was taken before, by us or against us.
    fn not_before(&self, action: &Action) -> Option<Timestamp> {
        let after_failure = self.attempts.get(action).map(|attempt| attempt.not_before);
        after_failure.max(self.drift.not_before(action))
    }

    /// Why a step that is under way was taken.
    pub fn cause(&self, action: &Action) -> Option<&str> {
        let work = self.work.get(&Plane::of(action))?;
        work.in_flight.iter().find(|change| change.action == *action).map(|change| change.cause.as_str())
    }

    /// Whether a step that is under way undoes what somebody did to a route.
    pub fn is_repair(&self, action: &Action) -> bool {
        let work = self.work.get(&Plane::of(action));
        let change = work.and_then(|work| work.in_flight.iter().find(|change| change.action == *action));
        change.is_some_and(|change| self.drift.is_repair(change))
    }

    /// A step has ended. Returns the next steps to take.
    pub fn applied(
        &mut self,
        now: Timestamp,
        action: &Action,
        outcome: Result<Option<String>, Fault>,
    ) -> Vec<Action> {
        let plane = Plane::of(action);
        let Some(work) = self.work.get_mut(&plane) else { return Vec::new() };
        let Some(at) = work.in_flight.iter().position(|change| change.action == *action) else {
            return Vec::new();
        };
        let change = work.in_flight.remove(at);
        if outcome.is_ok() {
            self.believe(now, action);
            self.drift.wrote(now, &change);
        } else {
            work.failed.push(action.clone());
        }
        let made = action.makes_link().is_some_and(|address| self.made.remove(&address));
        // What was mended is looked at at once: only a look that shows that it helped lets it be mended again without a pause.
        let mends = matches!(action, Action::Host(HostAction::MendLink { .. }));
        self.is_read_back &= made && !mends && outcome.is_ok();
        self.count(now, action, outcome.as_ref().err());
        self.steps.push_back(Step { change, at: now, outcome });
        self.forget_steps(is_host(&plane));
        let next = self.next_steps(now);
        if self.work.get(&plane).is_none_or(|work| work.in_flight.is_empty()) {
            match is_host(&plane) {
                true if self.is_read_back => self.host.look_at_changes_by(now + CALM),
                true => self.host.look_at_changes_by(now),
                false => self.vpc.look_by(now),
            }
        }
        next
    }

    /// A busy host does not push out what was done in EC2.
    fn forget_steps(&mut self, host: bool) {
        let of_side = |step: &Step| is_host(&Plane::of(&step.change.action)) == host;
        if self.steps.iter().filter(|step| of_side(step)).count() > STEPS_MAX
            && let Some(oldest) = self.steps.iter().position(of_side)
        {
            self.steps.remove(oldest);
        }
    }

    fn count(&mut self, now: Timestamp, action: &Action, fault: Option<&Fault>) {
        let looks = if is_host(&Plane::of(action)) { self.host.looks() } else { self.vpc.looks() };
        let attempt = self.attempts.entry(action.clone()).or_insert(Attempt {
            times: 0,
            looks,
            not_before: now,
            fault: None,
        });
        attempt.times += 1;
        attempt.looks = looks;
        attempt.fault = fault.cloned();
        attempt.not_before = now
            + match fault {
                None => doubled(attempt.times),
                Some(fault) if fault.kind == FaultKind::Denied => self.pause_denied,
                Some(fault) => pause(fault, attempt.times),
            };
    }

    fn believe(&mut self, now: Timestamp, action: &Action) {
        if let (Action::Ec2(Ec2Action::DisableCheck { .. }), Some(vpc)) = (action, self.vpc.seen_mut()) {
            vpc.source_dest_check = Some(false);
        }
        if let Some((key, target)) = written(action) {
            self.beliefs.insert(key, Belief { target: target.cloned(), at: now, denials: 0 });
        }
    }

    /// Somebody asks: look at once, and let denied steps be tried again.
    pub fn hurry(&mut self, now: Timestamp) {
        self.attempts.clear();
        self.drift.hurry();
        self.host.look_by(now);
        self.vpc.look_by(now);
    }

    /// Somebody wants this container connected now: what failed on the host may be tried again at once.
    pub fn hurry_host(&mut self, now: Timestamp) {
        self.attempts.retain(|action, _| !is_host(&Plane::of(action)));
        self.host.look_at_changes_by(now);
    }

    /// Whether a step is in flight or waiting for its turn.
    pub fn is_at_work(&self) -> bool {
        self.is_busy(|_| true)
    }

    fn is_busy(&self, on: impl Fn(&Plane) -> bool) -> bool {
        self.work.iter().any(|(plane, work)| on(plane) && work.is_busy())
    }

    /// Why this step cannot be taken: it was denied, or is bound to fail again.
    pub fn blocked(&self, action: &Action) -> Option<&Fault> {
        let fault = self.attempts.get(action)?.fault.as_ref()?;
        let hopeless = match fault.kind {
            FaultKind::Denied | FaultKind::Unsigned | FaultKind::Quota | FaultKind::Invalid => true,
            FaultKind::Throttled | FaultKind::Outdated | FaultKind::Unreachable => false,
        };
        hopeless.then_some(fault)
    }

    /// Why this step is not taken: a step of the plan that it rests on failed.
    pub fn held_up(&self, action: &Action, plan: &Plan) -> Option<&Fault> {
        let plane = Plane::of(action);
        let steps = plan.changes.iter().map(|change| &change.action);
        let earlier = steps.take_while(|other| *other != action);
        let mut before = earlier.filter(|other| stands_before(&Plane::of(other), &plane));
        before.find_map(|other| self.failure(other).filter(|_| rests_on(action, other)))
    }

    /// Why the last try of this step failed.
    pub fn failure(&self, action: &Action) -> Option<&Fault> {
        self.attempts.get(action)?.fault.as_ref()
    }

    /// The steps that were taken, oldest first.
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = &Step> {
        self.steps.iter()
    }

    /// When something is due after `now`: a look, or a step that paused.
    pub fn next_wake(&self, now: Timestamp, plan: &Plan) -> Option<Timestamp> {
        let looks = [
            self.host.next_look().filter(|_| !self.is_busy(|plane| *plane == Plane::Host)),
            self.vpc.next_look().filter(|_| !self.is_busy(|plane| !is_host(plane))),
        ];
        let pauses = plan.changes.iter().filter_map(|change| {
            let not_before = self.not_before(&change.action)?;
            let plane = Plane::of(&change.action);
            let at_work = self.work.get(&plane).is_some_and(|work| !work.in_flight.is_empty());
            (!at_work && not_before > now).then_some(not_before)
        });
        looks.into_iter().flatten().chain(pauses).min()
    }
}

impl Work {
    fn is_busy(&self) -> bool {
        !self.queue.is_empty() || !self.in_flight.is_empty()
    }

    fn is_in_flight(&self, action: &Action) -> bool {
        self.in_flight.iter().any(|change| change.action == *action)
    }
}

impl Belief {
    /// Whether it is still to be believed after a read that began at `begun` and showed `vpc`.
    fn survives(&mut self, (table, cidr): &(Side, Ipv4Net), begun: Timestamp, vpc: &Vpc) -> bool {
        let Some(table) = vpc.side(table) else { return false };
        let shown = table.routes.get(cidr).map(|route| &route.target);
        let agrees = match (&self.target, shown) {
            (Some(interface), Some(Target::Interface(found))) => interface == found,
            (None, None) => true,
            (Some(_) | None, Some(_)) | (Some(_), None) => false,
        };
        self.denials += u8::from(!agrees && begun >= self.at + SETTLES);
        !agrees && self.denials < DENIALS
    }
}

/// All steps of a plan.
fn steps_of(plan: &Plan) -> BTreeSet<&Action> {
    plan.changes.iter().map(|change| &change.action).collect()
}

/// The route that an action writes, and the interface that it leads to then; `None`: it is gone.
fn written(action: &Action) -> Option<((Side, Ipv4Net), Option<&InterfaceId>)> {
    let (table, destination) = action.route()?;
    let target = match action {
        Action::Ec2(Ec2Action::CreateRoute { interface, .. } | Ec2Action::ReplaceRoute { interface, .. }) => {
            Some(interface)
        }
        Action::Ec2(Ec2Action::DeleteRoute { .. } | Ec2Action::DisableCheck { .. }) | Action::Host(_) => None,
    };
    Some(((table.clone(), destination), target))
}

fn is_host(plane: &Plane) -> bool {
    match plane {
        Plane::Host | Plane::Removal => true,
        Plane::Interface | Plane::Table(_) => false,
    }
}

/// Whether what failed on one plane may concern another.
fn stands_before(other: &Plane, plane: &Plane) -> bool {
    other == plane || is_host(other) && is_host(plane)
}

/// Whether a step must not be taken where an earlier one failed: removals rest on all that was built before them, but for routes to
/// other hosts that lead elsewhere, nothing is connected before the rules are in force, and nothing enters a tunnel that is not set up.
fn rests_on(action: &Action, earlier: &Action) -> bool {
    let is_tunnel = |action: &Action| matches!(action, Action::Host(HostAction::SetTunnel { .. }));
    let connects = action.makes_link().is_some() || is_tunnel(action);
    let fences = matches!(earlier, Action::Host(HostAction::LoadRules(_)));
    is_removal(action) && !leads_elsewhere(earlier, action)
        || connects && fences
        || enters_tunnel(action) && is_tunnel(earlier)
}

fn enters_tunnel(action: &Action) -> bool {
    match action {
        Action::Host(HostAction::SetTunnelPeer { .. }) => true,
        Action::Host(HostAction::AddHostRoute { hop, .. }) => hop.interface == TUNNEL,
        Action::Host(_) | Action::Ec2(_) => false,
    }
}

/// Whether the earlier step leads addresses to another host that the removal does not concern.
fn leads_elsewhere(earlier: &Action, removal: &Action) -> bool {
    let destination = match earlier {
        Action::Host(HostAction::AddHostRoute { destination, .. }) => destination,
        Action::Host(HostAction::SetTunnel { .. } | HostAction::SetTunnelPeer { .. }) => return true,
        _ => return false,
    };
    match removal {
        Action::Host(
            HostAction::DeleteBlock(gone) | HostAction::DeleteHostRoute { destination: gone, .. },
        ) => !destination.contains(gone) && !gone.contains(destination),
        _ => false,
    }
}

fn is_removal(action: &Action) -> bool {
    matches!(
        action,
        Action::Ec2(Ec2Action::DeleteRoute { .. })
            | Action::Host(
                HostAction::DeleteBlock(_)
                    | HostAction::DeleteHostRoute { .. }
                    | HostAction::DeleteTunnelPeer(_)
                    | HostAction::DeleteTunnel
            )
    )
}

#[cfg(test)]
mod tests;
