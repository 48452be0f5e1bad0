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

use super::{
    drift::Drift,
    view::{PAUSE_DENIED, View, doubled, pause},
};
use crate::{
    addr::Address,
    plan::{Change, Plan, Plane},
    state::{Action, Fault, FaultKind, Host, InterfaceId, Route, RouteState, TableId, Target, Vpc},
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
    beliefs: BTreeMap<(TableId, Ipv4Net), Belief>,
    work: BTreeMap<Plane, Work>,
    attempts: BTreeMap<Action, Attempt>,
    /// What others change of what is ours.
    pub drift: Drift,
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
            pause_denied: PAUSE_DENIED,
            steps: VecDeque::new(),
        }
    }

    /// Whether to look at the host now; if so the look counts as begun. Links that go take their time, and hold up no look.
    pub fn begin_host(&mut self, now: Timestamp) -> bool {
        !self.is_busy(|plane| *plane == Plane::Host) && self.host.begin(now)
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
            let Some(table) = vpc.tables.get_mut(table) else { continue };
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
        let Some(link) = link_of(action) else {
            let last = matches!(
                action,
                Action::DeleteGateway | Action::DeleteBlock(_) | Action::CloseForward | Action::DeleteRules
            );
            let removing = last && self.is_busy(|busy| *busy == Plane::Removal);
            return !removing && self.work.get(plane).is_none_or(|work| work.in_flight.is_empty());
        };
        let links_only = |work: &Work| {
            let links = work.in_flight.iter().all(|change| link_of(&change.action).is_some());
            links && work.in_flight.len() < LINKS_AT_ONCE_MAX
        };
        let mut in_flight = self.work.values().flat_map(|work| &work.in_flight);
        self.work.get(plane).is_none_or(links_only)
            && in_flight.all(|change| link_of(&change.action) != Some(link))
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
        self.count(now, action, outcome.as_ref().err());
        self.steps.push_back(Step { change, at: now, outcome });
        self.forget_steps(is_host(&plane));
        let next = self.next_steps(now);
        if self.work.get(&plane).is_none_or(|work| work.in_flight.is_empty()) {
            if is_host(&plane) { self.host.look_at_changes_by(now) } else { self.vpc.look_by(now) }
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
        if let (Action::DisableCheck { .. }, Some(vpc)) = (action, self.vpc.seen_mut()) {
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
    fn survives(&mut self, (table, cidr): &(TableId, Ipv4Net), begun: Timestamp, vpc: &Vpc) -> bool {
        let Some(table) = vpc.tables.get(table) else { return false };
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
fn written(action: &Action) -> Option<((TableId, Ipv4Net), Option<&InterfaceId>)> {
    match action {
        Action::CreateRoute { table, destination, interface }
        | Action::ReplaceRoute { table, destination, interface } => {
            Some(((table.clone(), *destination), Some(interface)))
        }
        Action::DeleteRoute { table, destination } => Some(((table.clone(), *destination), None)),
        Action::SetSysctl { .. }
        | Action::LoadRules(_)
        | Action::OpenForward { .. }
        | Action::DisableCheck { .. }
        | Action::AddBlock(_)
        | Action::AddGateway
        | Action::CreateLink { .. }
        | Action::MendLink { .. }
        | Action::MakePair { .. }
        | Action::SetPorts(_)
        | Action::DeleteLink(_)
        | Action::DeleteGateway
        | Action::DeleteBlock(_)
        | Action::CloseForward
        | Action::DeleteRules => None,
    }
}

/// The link that a step is about.
fn link_of(action: &Action) -> Option<Address> {
    match action {
        Action::CreateLink { address, .. }
        | Action::MendLink { address, .. }
        | Action::MakePair { address, .. }
        | Action::DeleteLink(address) => Some(*address),
        Action::SetSysctl { .. }
        | Action::LoadRules(_)
        | Action::SetPorts(_)
        | Action::OpenForward { .. }
        | Action::AddBlock(_)
        | Action::AddGateway
        | Action::DeleteGateway
        | Action::DeleteBlock(_)
        | Action::CloseForward
        | Action::DeleteRules
        | Action::DisableCheck { .. }
        | Action::ReplaceRoute { .. }
        | Action::CreateRoute { .. }
        | Action::DeleteRoute { .. } => None,
    }
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

/// Whether a step must not be taken where an earlier one failed: removals rest on all that was built before them, and
/// no container is connected before the rules are in force.
fn rests_on(action: &Action, earlier: &Action) -> bool {
    let connects = action.makes_link().is_some();
    let fences = matches!(earlier, Action::LoadRules(_));
    is_removal(action) || connects && fences
}

fn is_removal(action: &Action) -> bool {
    match action {
        Action::DeleteRoute { .. } | Action::DeleteBlock(_) => true,
        Action::SetSysctl { .. }
        | Action::LoadRules(_)
        | Action::OpenForward { .. }
        | Action::DisableCheck { .. }
        | Action::AddBlock(_)
        | Action::AddGateway
        | Action::CreateLink { .. }
        | Action::MendLink { .. }
        | Action::MakePair { .. }
        | Action::SetPorts(_)
        | Action::ReplaceRoute { .. }
        | Action::CreateRoute { .. }
        | Action::DeleteLink(_)
        | Action::DeleteGateway
        | Action::CloseForward
        | Action::DeleteRules => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::view::{PAUSE_MAX, PAUSE_MIN},
        *,
    };
    use crate::state::{Far, Forward, Isolation, Netns, Rules};

    const INTERVAL: Duration = Duration::from_secs(60);

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_micros(ms * 1000)
    }

    fn cidr(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn table(name: &str) -> TableId {
        TableId(name.to_owned())
    }

    fn interface() -> InterfaceId {
        InterfaceId("eni-us".to_owned())
    }

    fn create(name: &str, destination: &str) -> Action {
        Action::CreateRoute { table: table(name), destination: cidr(destination), interface: interface() }
    }

    fn delete(name: &str, destination: &str) -> Action {
        Action::DeleteRoute { table: table(name), destination: cidr(destination) }
    }

    fn add_block(destination: &str) -> Action {
        Action::AddBlock(cidr(destination))
    }

    fn plan(actions: impl IntoIterator<Item = Action>) -> Plan {
        let change =
            |action| Change { action, cause: String::new(), before: String::new(), containers: Vec::new() };
        Plan { changes: actions.into_iter().map(change).collect(), ..Plan::default() }
    }

    fn vpc(tables: &[&str], routes: &[&str]) -> Vpc {
        let target = Target::Interface(interface());
        let route = Route { target, state: RouteState::Active, created: true };
        let routes = routes.iter().map(|destination| (cidr(destination), route.clone())).collect();
        let shown = crate::state::Table { routes, used: 1, local: Vec::new() };
        Vpc {
            interface: interface(),
            source_dest_check: Some(true),
            tables: tables.iter().map(|name| (table(name), shown.clone())).collect(),
        }
    }

    fn fault(kind: FaultKind) -> Fault {
        Fault { kind, message: "no".to_owned(), hint: None, request_id: None }
    }

    fn look_at_vpc(converge: &mut Converge, now: Timestamp, shown: Vpc) {
        converge.vpc.look_by(now);
        assert!(converge.begin_vpc(now), "a look is due");
        converge.vpc_seen(now, Ok(shown), INTERVAL);
    }

    fn look_at_host(converge: &mut Converge, now: Timestamp) {
        converge.host.look_by(now);
        assert!(converge.begin_host(now), "a look is due");
        converge.host_seen(now, Ok(Host { forward: Forward::Open, ..Host::default() }), INTERVAL);
    }

    /// Both sides were looked at; nothing stands in two tables.
    fn ready(now: Timestamp) -> Converge {
        let mut converge = Converge::new();
        look_at_host(&mut converge, now);
        look_at_vpc(&mut converge, now, vpc(&["rtb-1", "rtb-2"], &[]));
        converge
    }

    fn is_believed(converge: &Converge, destination: &str) -> bool {
        converge.believed().unwrap().tables[&table("rtb-1")].routes.contains_key(&cidr(destination))
    }

    /// Takes the one step of the plan, which is carried out.
    fn carry_out(converge: &mut Converge, now: Timestamp, action: &Action) {
        assert_eq!(converge.take(now, &plan([action.clone()])), std::slice::from_ref(action));
        assert_eq!(converge.applied(now, action, Ok(None)), []);
    }

    #[test]
    fn a_write_is_believed_until_two_reads_begun_well_after_it_deny_it() {
        let mut converge = ready(at(0));
        carry_out(&mut converge, at(10), &create("rtb-1", "10.0.0.0/8"));
        assert!(is_believed(&converge, "10.0.0.0/8") && !converge.is_confirmed());
        for soon in [at(20), at(1000), at(4000)] {
            look_at_vpc(&mut converge, soon, vpc(&["rtb-1"], &[]));
            assert!(is_believed(&converge, "10.0.0.0/8"), "EC2 may show what was before");
        }
        look_at_vpc(&mut converge, at(5010), vpc(&["rtb-1"], &[]));
        assert!(is_believed(&converge, "10.0.0.0/8"), "one read may be old");
        look_at_vpc(&mut converge, at(5020), vpc(&["rtb-1"], &[]));
        assert!(!is_believed(&converge, "10.0.0.0/8") && converge.is_confirmed());
    }

    #[test]
    fn a_read_begun_before_the_write_denies_nothing() {
        let mut converge = ready(at(0));
        let action = create("rtb-1", "10.0.0.0/8");
        assert_eq!(converge.take(at(10), &plan([action.clone()])), std::slice::from_ref(&action));
        converge.applied(at(20), &action, Ok(None));
        for _ in 0..5 {
            converge.vpc_seen(at(15), Ok(vpc(&["rtb-1"], &[])), INTERVAL);
        }
        assert!(is_believed(&converge, "10.0.0.0/8"));
    }

    #[test]
    fn a_write_that_a_read_shows_is_no_longer_a_matter_of_belief() {
        let mut converge = ready(at(0));
        carry_out(&mut converge, at(10), &create("rtb-1", "10.0.0.0/8"));
        look_at_vpc(&mut converge, at(20), vpc(&["rtb-1"], &["10.0.0.0/8"]));
        assert!(converge.is_confirmed());
        carry_out(&mut converge, at(30), &delete("rtb-1", "10.0.0.0/8"));
        assert!(!is_believed(&converge, "10.0.0.0/8"), "a removal is believed too");
        look_at_vpc(&mut converge, at(40), vpc(&["rtb-1"], &["10.0.0.0/8"]));
        assert!(!is_believed(&converge, "10.0.0.0/8"));
        look_at_vpc(&mut converge, at(50), vpc(&["rtb-1"], &[]));
        assert!(converge.is_confirmed());
    }

    #[test]
    fn a_write_is_looked_for_soon_and_not_at_the_end_of_the_interval() {
        let mut converge = ready(at(0));
        carry_out(&mut converge, at(10), &create("rtb-1", "10.0.0.0/8"));
        look_at_vpc(&mut converge, at(20), vpc(&["rtb-1"], &[]));
        assert_eq!(converge.next_wake(at(20), &Plan::default()), Some(at(20) + CONFIRM));
    }

    #[test]
    fn each_plane_has_one_step_in_flight() {
        let mut converge = ready(at(0));
        let (host, one, other) =
            (add_block("10.0.0.0/8"), create("rtb-1", "10.0.0.0/8"), create("rtb-2", "10.0.0.0/8"));
        let (host2, one2) = (add_block("11.0.0.0/8"), create("rtb-1", "11.0.0.0/8"));
        let all = plan([host.clone(), host2.clone(), one.clone(), one2.clone(), other.clone()]);
        let taken: std::collections::BTreeSet<Action> = converge.take(at(10), &all).into_iter().collect();
        assert_eq!(taken, [host.clone(), one.clone(), other].into());
        assert_eq!(converge.take(at(11), &all), [], "each is at work");
        assert_eq!(converge.applied(at(12), &one, Ok(None)), [one2], "EC2 goes on while the host works");
        assert_eq!(converge.applied(at(13), &host, Ok(None)), [host2]);
        assert!(!converge.begin_vpc(at(14)), "nobody looks while something is being changed");
    }

    #[test]
    fn a_step_that_was_seen_to_have_helped_does_not_pause_when_it_is_needed_again() {
        let mut converge = ready(at(0));
        let block = add_block("10.32.0.0/13");
        for now in [at(10), at(20), at(30)] {
            look_at_host(&mut converge, now);
            assert_eq!(converge.take(now, &plan([block.clone()])), std::slice::from_ref(&block));
            converge.applied(now, &block, Ok(None));
            // This look begins in the same turn of the loop in which the step ended.
            look_at_host(&mut converge, now);
            assert_eq!(converge.take(now, &plan([])), []);
        }
    }

    #[test]
    fn a_step_that_fails_pauses_longer_each_time_and_holds_up_no_other() {
        let mut converge = ready(at(0));
        let (failing, fine) = (create("rtb-1", "10.0.0.0/8"), create("rtb-1", "11.0.0.0/8"));
        let wanted = plan([failing.clone(), fine.clone()]);
        assert_eq!(converge.take(at(0), &wanted), std::slice::from_ref(&failing));
        let next = converge.applied(at(0), &failing, Err(fault(FaultKind::Throttled)));
        assert_eq!(next, std::slice::from_ref(&fine));
        converge.applied(at(0), &fine, Ok(None));

        let (mut now, mut pauses) = (at(0), Vec::new());
        let still = plan([failing.clone()]);
        for _ in 0..12 {
            look_at_vpc(&mut converge, now, vpc(&["rtb-1", "rtb-2"], &["11.0.0.0/8"]));
            assert_eq!(converge.take(now, &still), [], "it pauses");
            let woken = loop {
                let due = converge.next_wake(now, &still).expect("a pause ends");
                now = due.max(now + Duration::from_millis(1));
                look_at_vpc(&mut converge, now, vpc(&["rtb-1", "rtb-2"], &["11.0.0.0/8"]));
                if !converge.take(now, &still).is_empty() {
                    break now;
                }
            };
            pauses.push(woken.since(converge.steps().last().unwrap().at));
            converge.applied(now, &failing, Err(fault(FaultKind::Throttled)));
        }
        assert!(pauses[0] >= PAUSE_MIN && pauses.is_sorted(), "{pauses:?}");
        assert!(pauses[11] >= PAUSE_MAX && pauses[11] < 2 * PAUSE_MAX, "{pauses:?}");
    }

    #[test]
    fn nothing_is_removed_where_what_it_rests_on_failed() {
        let mut converge = ready(at(0));
        let (build, remove) = (create("rtb-1", "10.0.0.0/8"), delete("rtb-1", "10.0.0.0/9"));
        let elsewhere = delete("rtb-2", "10.0.0.0/9");
        let taken = converge.take(at(1), &plan([build.clone(), remove, elsewhere.clone()]));
        assert_eq!(taken, [build.clone(), elsewhere], "another table has a fate of its own");
        assert_eq!(converge.applied(at(2), &build, Err(fault(FaultKind::Quota))), []);
    }

    #[test]
    fn no_container_is_connected_where_the_rules_could_not_be_loaded_and_it_is_when_they_are() {
        let mut converge = ready(at(0));
        let (load, block) = (Action::LoadRules(rules()), add_block("10.32.0.0/13"));
        let (create, mend, delete) = (link("10.32.0.1", false), link("10.32.0.2", true), delete_link());
        let wanted = plan([load.clone(), block.clone(), create.clone(), mend.clone(), delete.clone()]);
        assert_eq!(converge.take(at(1), &wanted), [load.clone(), delete.clone()]);
        assert_eq!(converge.applied(at(2), &delete, Ok(None)), []);
        let next = converge.applied(at(3), &load, Err(fault(FaultKind::Invalid)));
        assert_eq!(next, std::slice::from_ref(&block), "what needs no rules goes on");
        assert_eq!(converge.applied(at(4), &block, Ok(None)), [], "and nobody is connected");

        look_at_host(&mut converge, at(5));
        let still = plan([load.clone(), create.clone(), mend.clone()]);
        assert_eq!(converge.take(at(6), &still), [], "nor while the rules wait for their next try");
        look_at_host(&mut converge, at(60_000));
        assert_eq!(converge.take(at(60_000), &still), std::slice::from_ref(&load));
        assert_eq!(converge.applied(at(60_001), &load, Ok(None)), [create, mend]);
    }

    fn links(count: usize) -> Vec<Action> {
        (0..count).map(|number| link(&format!("10.32.1.{number}"), false)).collect()
    }

    #[test]
    fn several_links_are_worked_on_at_once_and_another_as_soon_as_one_is_done() {
        let mut converge = ready(at(0));
        let wanted = links(LINKS_AT_ONCE_MAX + 2);
        let taken = converge.take(at(1), &plan(wanted.clone()));
        assert_eq!(taken, wanted[..LINKS_AT_ONCE_MAX]);
        assert_eq!(converge.applied(at(2), &wanted[3], Ok(None)), wanted[LINKS_AT_ONCE_MAX..][..1]);
        assert_eq!(converge.take(at(3), &plan(wanted)), [], "none of them twice");
    }

    #[test]
    fn what_is_done_for_all_links_is_done_alone() {
        let mut converge = ready(at(0));
        let (block, link) = (add_block("10.32.0.0/13"), link("10.32.0.1", false));
        let wanted = plan([block.clone(), link.clone()]);
        assert_eq!(converge.take(at(1), &wanted), std::slice::from_ref(&block));
        assert_eq!(converge.applied(at(2), &block, Ok(None)), [link]);
    }

    #[test]
    fn a_link_that_goes_holds_up_neither_another_that_comes_nor_a_look() {
        let mut converge = ready(at(0));
        let (delete, create) = (delete_link(), link("10.32.0.1", false));
        assert_eq!(converge.take(at(1), &plan([delete.clone()])), std::slice::from_ref(&delete));
        converge.host.look_by(at(2));
        assert!(converge.begin_host(at(2)));
        converge.host_seen(at(3), Ok(Host::default()), INTERVAL);
        let wanted = plan([create.clone(), delete]);
        assert_eq!(converge.take(at(3), &wanted), [create], "and it is not asked for twice");
    }

    #[test]
    fn a_link_comes_once_the_former_one_of_its_address_is_gone() {
        let mut converge = ready(at(0));
        let (delete, create) = (delete_link(), link("10.32.0.3", false));
        assert_eq!(converge.take(at(1), &plan([delete.clone()])), std::slice::from_ref(&delete));
        look_at_host(&mut converge, at(2));
        assert_eq!(converge.take(at(2), &plan([create.clone()])), []);
        assert_eq!(converge.applied(at(3), &delete, Ok(None)), [create]);
    }

    #[test]
    fn what_guards_links_goes_after_the_last_of_them() {
        let mut converge = ready(at(0));
        let (delete, rules) = (delete_link(), Action::DeleteRules);
        let wanted = plan([delete.clone(), rules.clone()]);
        assert_eq!(converge.take(at(1), &wanted), std::slice::from_ref(&delete));
        assert_eq!(converge.applied(at(2), &delete, Ok(None)), [rules]);
    }

    fn rules() -> Rules {
        Rules {
            range: cidr("10.32.0.0/12"),
            uplinks: ["eth0".to_owned()].into(),
            mesh_port: 6783,
            block_metadata: true,
            isolation: Isolation::default(),
        }
    }

    fn link(address: &str, is_there: bool) -> Action {
        let address = address.parse().unwrap();
        let netns = Netns::new("boot", 1, "/run/netns/a");
        let (mtu, range) = (1500, cidr("10.32.0.0/12"));
        match is_there {
            true => Action::MendLink { address, netns, mtu, range, far: Far::default() },
            false => Action::CreateLink { address, netns, mtu, range, far: Far::default() },
        }
    }

    fn delete_link() -> Action {
        Action::DeleteLink("10.32.0.3".parse().unwrap())
    }

    #[test]
    fn nothing_is_removed_while_what_it_rests_on_is_put_off() {
        let mut converge = ready(at(0));
        let (build, remove) = (create("rtb-1", "10.0.0.0/8"), delete("rtb-1", "10.0.0.0/9"));
        let wanted = plan([build.clone(), remove.clone()]);
        assert_eq!(converge.take(at(1), &wanted), std::slice::from_ref(&build));
        converge.applied(at(2), &build, Err(fault(FaultKind::Throttled)));
        look_at_vpc(&mut converge, at(3), vpc(&["rtb-1"], &["10.0.0.0/9"]));
        assert_eq!(converge.take(at(4), &wanted), [], "another look does not make it safe");
    }

    #[test]
    fn what_is_believed_of_a_table_counts() {
        let mut converge = ready(at(0));
        let action = create("rtb-1", "10.0.0.0/8");
        let used = |converge: &Converge| converge.believed().unwrap().tables[&TableId("rtb-1".into())].used;
        let before = used(&converge);
        converge.take(at(1), &plan([action.clone()]));
        converge.applied(at(2), &action, Ok(None));
        assert_eq!(used(&converge), before + 1);
    }

    #[test]
    fn a_busy_host_does_not_push_out_what_was_done_in_ec2() {
        let mut converge = ready(at(0));
        let route = create("rtb-1", "10.0.0.0/8");
        converge.take(at(0), &plan([route.clone()]));
        converge.applied(at(0), &route, Ok(Some("request-1".into())));
        for number in 0..STEPS_MAX as u64 + 50 {
            let action = add_block(&format!("10.{}.{}.0/24", number / 256, number % 256));
            look_at_host(&mut converge, at(number));
            converge.take(at(number), &plan([action.clone()]));
            converge.applied(at(number), &action, Ok(None));
        }
        assert_eq!(converge.steps().count(), STEPS_MAX + 1);
        assert_eq!(converge.steps().next().unwrap().change.action, route);
    }

    #[test]
    fn a_denied_step_is_blocked_until_somebody_asks() {
        let mut converge = ready(at(0));
        let action = create("rtb-1", "10.0.0.0/8");
        let wanted = plan([action.clone()]);
        converge.take(at(0), &wanted);
        converge.applied(at(0), &action, Err(fault(FaultKind::Denied)));
        assert!(converge.blocked(&action).is_some());
        look_at_vpc(&mut converge, at(30_000), vpc(&["rtb-1"], &[]));
        assert_eq!(converge.take(at(30_000), &wanted), [], "a pass does not try it again");
        converge.hurry(at(31_000));
        assert!(converge.blocked(&action).is_none());
        look_at_vpc(&mut converge, at(31_000), vpc(&["rtb-1"], &[]));
        assert_eq!(converge.take(at(31_000), &wanted), [action]);
    }

    #[test]
    fn what_passes_by_itself_is_not_blocked() {
        for kind in [FaultKind::Throttled, FaultKind::Outdated, FaultKind::Unreachable] {
            let mut converge = ready(at(0));
            let action = create("rtb-1", "10.0.0.0/8");
            converge.take(at(0), &plan([action.clone()]));
            converge.applied(at(0), &action, Err(fault(kind)));
            assert!(converge.blocked(&action).is_none() && converge.failure(&action).is_some(), "{kind:?}");
        }
    }

    #[test]
    fn nothing_is_changed_while_the_last_look_failed() {
        let mut converge = ready(at(0));
        converge.vpc.look_by(at(1));
        assert!(converge.begin_vpc(at(1)));
        let wanted = plan([create("rtb-1", "10.0.0.0/8")]);
        assert_eq!(converge.take(at(1), &wanted), [], "a look is under way");
        converge.vpc_seen(at(2), Err(fault(FaultKind::Unreachable)), INTERVAL);
        assert_eq!(converge.take(at(2), &wanted), []);
        assert!(converge.vpc.seen().is_some(), "what was seen is not forgotten");
    }

    #[test]
    fn looks_that_fail_are_repeated_more_and_more_seldom() {
        let mut converge = Converge::new();
        let (mut now, mut looks) = (at(0), 0);
        while now < at(600_000) {
            if converge.begin_vpc(now) {
                looks += 1;
                converge.vpc_seen(now, Err(fault(FaultKind::Throttled)), INTERVAL);
            }
            now = converge.vpc.due().max(now + Duration::from_millis(1));
        }
        assert!((10..25).contains(&looks), "{looks} looks in ten minutes");
    }

    /// Drives the loop for ten minutes with a hand that reports success and changes nothing. Like a node it plans from what is
    /// believed. Returns the number of actions and of looks.
    fn ten_minutes_of_empty_success(wanted: &Action) -> (usize, usize) {
        let (mut converge, mut now) = (Converge::new(), at(0));
        let (mut actions, mut looks) = (0, 0);
        let mut pending: VecDeque<Action> = VecDeque::new();
        while now < at(600_000) {
            let plan_now =
                if is_wanted(&converge, wanted) { plan([wanted.clone()]) } else { Plan::default() };
            pending.extend(converge.take(now, &plan_now));
            if let Some(action) = pending.pop_front() {
                actions += 1;
                pending.extend(converge.applied(now, &action, Ok(None)));
            } else if converge.begin_host(now) {
                looks += 1;
                converge.host_seen(now, Ok(Host::default()), INTERVAL);
            } else if converge.begin_vpc(now) {
                looks += 1;
                converge.vpc_seen(now, Ok(vpc(&["rtb-1"], &["11.0.0.0/8"])), INTERVAL);
            } else {
                let due = converge.next_wake(now, &plan_now).expect("there is always a next look");
                now = due.max(now + Duration::from_millis(1));
            }
        }
        (actions, looks)
    }

    fn is_wanted(converge: &Converge, action: &Action) -> bool {
        let Some(vpc) = converge.believed() else { return false };
        match action {
            Action::CreateRoute { table, destination, .. } => {
                !vpc.tables[table].routes.contains_key(destination)
            }
            Action::DeleteRoute { table, destination } => vpc.tables[table].routes.contains_key(destination),
            Action::DisableCheck { .. } => vpc.source_dest_check == Some(true),
            _ => true,
        }
    }

    #[test]
    fn a_hand_that_changes_nothing_is_not_asked_without_end() {
        let check = Action::DisableCheck { interface: interface() };
        for action in
            [create("rtb-1", "10.0.0.0/8"), delete("rtb-1", "11.0.0.0/8"), check, add_block("10.0.0.0/8")]
        {
            let (actions, looks) = ten_minutes_of_empty_success(&action);
            assert!((8..=25).contains(&actions), "`{action}` {actions} times in ten minutes");
            assert!(looks <= 150, "`{action}` {looks} looks in ten minutes");
        }
    }

    #[test]
    fn what_was_done_is_remembered_up_to_a_bound() {
        let mut converge = ready(at(0));
        for number in 0..STEPS_MAX as u64 + 50 {
            let action = add_block(&format!("10.{}.{}.0/24", number / 256, number % 256));
            look_at_host(&mut converge, at(number));
            assert_eq!(converge.take(at(number), &plan([action.clone()])).len(), 1);
            converge.applied(at(number), &action, Ok(None));
        }
        assert_eq!(converge.steps().count(), STEPS_MAX);
    }
}
