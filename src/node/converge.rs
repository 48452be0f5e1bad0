//! The loop's memory: what was last seen of the host and of the VPC, what is being done about it,
//! and how each step ended.
//!
//! A view is looked at, compared, changed step by step, and looked at again until nothing is left.
//! Each plane has one action in flight. A step that fails is tried again after a growing pause and
//! never stops the others; one that is denied waits until somebody asks again.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use ipnet::Ipv4Net;

use crate::{
    plan::{Change, Plan, Plane},
    state::{Action, Fault, FaultKind, Host, InterfaceId, Route, RouteState, TableId, Target, Vpc},
    time::Timestamp,
};

/// First pause after a look or a step that failed; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Pause after a denial, which lasts until somebody changes a policy.
const PAUSE_DENIED: Duration = Duration::from_secs(300);
/// Time between the looks that confirm a write.
const CONFIRM: Duration = Duration::from_secs(1);
/// A write that EC2 acknowledged is not repeated until this many reads begun after it deny it.
const DENIALS: u8 = 2;
/// Steps kept for `status`.
const STEPS_MAX: usize = 100;

/// What was last seen of one side of the world.
#[derive(Debug)]
pub struct View<T> {
    /// As it was read.
    seen: Option<T>,
    /// Why the last look failed.
    fault: Option<Fault>,
    /// When the look now under way began.
    looking: Option<Timestamp>,
    /// Looks that failed in a row.
    failures: u32,
    /// When to look next.
    due: Timestamp,
    /// Begin of the last look that succeeded.
    seen_at: Option<Timestamp>,
}

impl<T> View<T> {
    fn new() -> View<T> {
        View { seen: None, fault: None, looking: None, failures: 0, due: Timestamp::ZERO, seen_at: None }
    }

    /// As it was last read, even if the last look failed.
    pub fn seen(&self) -> Option<&T> {
        self.seen.as_ref()
    }

    /// Why the last look failed.
    pub fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    /// Whether the last look succeeded and began at `since` or later.
    pub fn is_seen_since(&self, since: Timestamp) -> bool {
        self.fault.is_none() && self.seen_at.is_some_and(|at| at >= since)
    }

    /// When the last look began.
    pub fn last_begun(&self) -> Option<Timestamp> {
        self.looking.or(self.seen_at)
    }

    /// To be looked at no later than `at`.
    pub fn look_by(&mut self, at: Timestamp) {
        self.due = self.due.min(at);
    }

    /// Whether a look is due; if so it counts as begun.
    fn begin(&mut self, now: Timestamp) -> bool {
        let due = self.looking.is_none() && self.due <= now;
        if due {
            self.looking = Some(now);
            self.due = Timestamp::from_micros(u64::MAX);
        }
        due
    }

    /// Takes in what a look brought. Returns when it began.
    fn end(&mut self, now: Timestamp, result: Result<T, Fault>, interval: Duration) -> Timestamp {
        let begun = self.looking.take().unwrap_or(now);
        match result {
            Ok(seen) => {
                (self.seen, self.fault, self.failures) = (Some(seen), None, 0);
                self.seen_at = Some(begun);
                self.look_by(now + interval);
            }
            Err(fault) => {
                self.failures += 1;
                self.look_by(now + pause(&fault, self.failures));
                self.fault = Some(fault);
            }
        }
        begun
    }

    fn is_current(&self) -> bool {
        self.seen.is_some() && self.fault.is_none() && self.looking.is_none()
    }
}

/// How long to wait after this many failures.
fn pause(fault: &Fault, failures: u32) -> Duration {
    match fault.kind {
        FaultKind::Denied => PAUSE_DENIED,
        FaultKind::Outdated if failures <= 1 => Duration::ZERO,
        FaultKind::Throttled
        | FaultKind::Quota
        | FaultKind::Outdated
        | FaultKind::Unreachable
        | FaultKind::Invalid => doubled(failures),
    }
}

fn doubled(times: u32) -> Duration {
    PAUSE_MIN.saturating_mul(1 << times.saturating_sub(1).min(10)).min(PAUSE_MAX)
}

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
    not_before: Timestamp,
    fault: Option<Fault>,
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
    beliefs: BTreeMap<(TableId, Ipv4Net), Belief>,
    queues: BTreeMap<Plane, VecDeque<Change>>,
    in_flight: BTreeMap<Plane, Change>,
    failed: BTreeMap<Plane, bool>,
    attempts: BTreeMap<Action, Attempt>,
    steps: VecDeque<Step>,
}

impl Converge {
    /// Nothing seen, nothing done.
    pub fn new() -> Converge {
        Converge {
            host: View::new(),
            vpc: View::new(),
            beliefs: BTreeMap::new(),
            queues: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            failed: BTreeMap::new(),
            attempts: BTreeMap::new(),
            steps: VecDeque::new(),
        }
    }

    /// Whether to look at the host now; if so the look counts as begun.
    pub fn begin_host(&mut self, now: Timestamp) -> bool {
        !self.is_busy(is_host) && self.host.begin(now)
    }

    /// Whether to look at the VPC now; if so the look counts as begun.
    pub fn begin_vpc(&mut self, now: Timestamp) -> bool {
        !self.is_busy(|plane| !is_host(plane)) && self.vpc.begin(now)
    }

    /// A look at the host has ended.
    pub fn host_seen(&mut self, now: Timestamp, result: Result<Host, Fault>, interval: Duration) {
        self.host.end(now, result, interval);
    }

    /// A look at the VPC has ended.
    pub fn vpc_seen(&mut self, now: Timestamp, result: Result<Vpc, Fault>, interval: Duration) {
        let begun = self.vpc.end(now, result, interval);
        if let (None, Some(vpc)) = (&self.vpc.fault, &self.vpc.seen) {
            self.beliefs.retain(|key, belief| belief.survives(key, begun, vpc));
        }
        if !self.beliefs.is_empty() {
            self.vpc.look_by(now + CONFIRM);
        }
    }

    /// The VPC with what was written to it and not yet shown or denied by reads.
    pub fn believed(&self) -> Option<Vpc> {
        let mut vpc = self.vpc.seen.clone()?;
        for ((table, cidr), belief) in &self.beliefs {
            let Some(table) = vpc.tables.get_mut(table) else { continue };
            match &belief.target {
                Some(interface) => {
                    let target = Target::Interface(interface.clone());
                    table.routes.insert(*cidr, Route { target, state: RouteState::Active, created: true });
                }
                None => drop(table.routes.remove(cidr)),
            }
        }
        Some(vpc)
    }

    /// Whether every write was seen by a later read.
    pub fn is_confirmed(&self) -> bool {
        self.beliefs.is_empty()
    }

    /// Takes in a new plan and returns the steps to take now, at most one for each idle plane.
    ///
    /// A plane that is at work goes on with the plan that it has.
    pub fn take(&mut self, now: Timestamp, plan: &Plan) -> Vec<Action> {
        self.attempts.retain(|action, _| {
            self.in_flight.values().any(|change| change.action == *action)
                || plan.changes.iter().any(|change| change.action == *action)
        });
        let idle: Vec<Plane> = self.idle_planes(plan);
        for plane in idle {
            let steps = plan.changes.iter().filter(|change| Plane::of(&change.action) == plane);
            let (steps, failed) = (steps.cloned().collect(), false);
            self.queues.insert(plane.clone(), steps);
            self.failed.insert(plane, failed);
        }
        self.next_steps(now)
    }

    /// Planes with something to do, nothing in flight, and a view that is current.
    fn idle_planes(&self, plan: &Plan) -> Vec<Plane> {
        let mut planes: Vec<Plane> = plan.changes.iter().map(|change| Plane::of(&change.action)).collect();
        planes.sort();
        planes.dedup();
        planes.retain(|plane| {
            let current = if is_host(plane) { self.host.is_current() } else { self.vpc.is_current() };
            let at_work = self.in_flight.contains_key(plane)
                || self.queues.get(plane).is_some_and(|queue| !queue.is_empty());
            current && !at_work
        });
        planes
    }

    /// The next step of each plane that has none in flight.
    fn next_steps(&mut self, now: Timestamp) -> Vec<Action> {
        let planes: Vec<Plane> = self.queues.keys().cloned().collect();
        planes.iter().filter_map(|plane| self.next_step(now, plane)).collect()
    }

    fn next_step(&mut self, now: Timestamp, plane: &Plane) -> Option<Action> {
        if self.in_flight.contains_key(plane) {
            return None;
        }
        while let Some(change) = self.queues.get_mut(plane)?.pop_front() {
            let too_early = self.attempts.get(&change.action).is_some_and(|try_| try_.not_before > now);
            let unsafe_now = is_removal(&change.action) && self.failed.get(plane) == Some(&true);
            if !too_early && !unsafe_now {
                let action = change.action.clone();
                self.in_flight.insert(plane.clone(), change);
                return Some(action);
            }
        }
        None
    }

    /// A step has ended. Returns the next steps to take.
    pub fn applied(
        &mut self,
        now: Timestamp,
        action: &Action,
        outcome: Result<Option<String>, Fault>,
    ) -> Vec<Action> {
        let plane = Plane::of(action);
        let Some(change) = self.in_flight.remove(&plane) else { return Vec::new() };
        if outcome.is_ok() {
            self.believe(now, action);
        } else {
            self.failed.insert(plane.clone(), true);
        }
        self.count(now, action, outcome.as_ref().err());
        self.steps.push_back(Step { change, at: now, outcome });
        self.steps.drain(..self.steps.len().saturating_sub(STEPS_MAX));
        let next = self.next_steps(now);
        if !self.in_flight.contains_key(&plane) {
            if is_host(&plane) { self.host.look_by(now) } else { self.vpc.look_by(now) }
        }
        next
    }

    fn count(&mut self, now: Timestamp, action: &Action, fault: Option<&Fault>) {
        let attempt =
            self.attempts.entry(action.clone()).or_insert(Attempt { times: 0, not_before: now, fault: None });
        attempt.times += 1;
        attempt.fault = fault.cloned();
        attempt.not_before = now + fault.map_or(doubled(attempt.times), |fault| pause(fault, attempt.times));
    }

    fn believe(&mut self, now: Timestamp, action: &Action) {
        let (table, cidr, target) = match action {
            Action::CreateRoute { table, destination, interface }
            | Action::ReplaceRoute { table, destination, interface } => (table, destination, Some(interface)),
            Action::DeleteRoute { table, destination } => (table, destination, None),
            Action::DisableCheck { .. } => {
                if let Some(vpc) = &mut self.vpc.seen {
                    vpc.source_dest_check = Some(false);
                }
                return;
            }
            Action::SetSysctl { .. }
            | Action::LoadRules(_)
            | Action::OpenForward { .. }
            | Action::AddBlock(_)
            | Action::CreateLink { .. }
            | Action::MendLink { .. }
            | Action::DeleteLink(_)
            | Action::DeleteBlock(_)
            | Action::CloseForward
            | Action::DeleteRules => return,
        };
        let belief = Belief { target: target.cloned(), at: now, denials: 0 };
        self.beliefs.insert((table.clone(), *cidr), belief);
    }

    /// Somebody asks: look at once, and let denied steps be tried again.
    pub fn hurry(&mut self, now: Timestamp) {
        self.attempts.clear();
        self.host.look_by(now);
        self.vpc.look_by(now);
    }

    /// Whether a step is in flight or waiting for its turn.
    pub fn is_at_work(&self) -> bool {
        self.is_busy(|_| true)
    }

    fn is_busy(&self, on: impl Fn(&Plane) -> bool) -> bool {
        self.in_flight.keys().any(&on)
            || self.queues.iter().any(|(plane, queue)| on(plane) && !queue.is_empty())
    }

    /// Why this step cannot be taken: it was denied, or is bound to fail again.
    pub fn blocked(&self, action: &Action) -> Option<&Fault> {
        let fault = self.attempts.get(action)?.fault.as_ref()?;
        let hopeless = matches!(fault.kind, FaultKind::Denied | FaultKind::Quota | FaultKind::Invalid);
        hopeless.then_some(fault)
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
            (self.host.looking.is_none() && !self.is_busy(is_host)).then_some(self.host.due),
            (self.vpc.looking.is_none() && !self.is_busy(|plane| !is_host(plane))).then_some(self.vpc.due),
        ];
        let pauses = plan.changes.iter().filter_map(|change| {
            let attempt = self.attempts.get(&change.action)?;
            let at_work = self.in_flight.contains_key(&Plane::of(&change.action));
            (!at_work && attempt.not_before > now).then_some(attempt.not_before)
        });
        looks.into_iter().flatten().chain(pauses).min()
    }
}

impl Belief {
    /// Whether it is still to be believed after a read that began at `begun` and showed `vpc`.
    fn survives(&mut self, (table, cidr): &(TableId, Ipv4Net), begun: Timestamp, vpc: &Vpc) -> bool {
        let Some(table) = vpc.tables.get(table) else { return false };
        let shown = table.routes.get(cidr).map(|route| &route.target);
        let agrees = match (&self.target, shown) {
            (Some(interface), Some(Target::Interface(found))) => interface == found,
            (None, None) => true,
            (Some(_) | None, Some(_)) | (Some(_), None) => false,
        };
        self.denials += u8::from(!agrees && begun >= self.at);
        !agrees && self.denials < DENIALS
    }
}

fn is_host(plane: &Plane) -> bool {
    match plane {
        Plane::Host => true,
        Plane::Interface | Plane::Table(_) => false,
    }
}

/// Removals rest on what was built before them.
fn is_removal(action: &Action) -> bool {
    match action {
        Action::DeleteRoute { .. } | Action::DeleteBlock(_) => true,
        Action::SetSysctl { .. }
        | Action::LoadRules(_)
        | Action::OpenForward { .. }
        | Action::DisableCheck { .. }
        | Action::AddBlock(_)
        | Action::CreateLink { .. }
        | Action::MendLink { .. }
        | Action::ReplaceRoute { .. }
        | Action::CreateRoute { .. }
        | Action::DeleteLink(_)
        | Action::CloseForward
        | Action::DeleteRules => false,
    }
}
