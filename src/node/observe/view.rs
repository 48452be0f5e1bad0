//! What was last seen of one side of the world, and when to look again: soon after something happened, seldom otherwise, and
//! more and more seldom while looks fail.

use std::time::Duration;

use crate::{
    state::{Fault, FaultKind, Scope},
    time::Timestamp,
};

/// Shortest time between two looks at a host that is disturbed again and again.
pub const CALM: Duration = Duration::from_millis(200);
/// First pause after a look or a step that failed; doubles up to [`PAUSE_MAX`].
pub const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest such pause.
pub const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Pause after a denial, which lasts until somebody changes a policy: whoever did need not wait long for it to work.
pub const PAUSE_DENIED: Duration = Duration::from_secs(60);

/// What was last seen of one side of the world.
#[derive(Debug)]
pub struct View<T> {
    /// As it was read.
    seen: Option<T>,
    /// Why the last look failed.
    fault: Option<Fault>,
    /// When the look began that failed.
    failed_at: Option<Timestamp>,
    /// When the look now under way began, and at how much.
    looking: Option<(Timestamp, Scope)>,
    /// Looks that failed in a row.
    failures: u32,
    /// When to look next if nothing happens.
    routine: Timestamp,
    /// When to look at all of it since something did, or somebody asks.
    urgent: Option<Timestamp>,
    /// When to look at what has changed.
    changed: Option<Timestamp>,
    /// Begin of the last look that succeeded.
    seen_at: Option<Timestamp>,
    /// Looks begun so far.
    looks: u64,
    /// The last of them that succeeded.
    seen_look: u64,
    /// There is nothing to look at.
    is_closed: bool,
}

impl<T> Default for View<T> {
    /// Nothing read; a look is due.
    fn default() -> View<T> {
        View {
            seen: None,
            fault: None,
            failed_at: None,
            looking: None,
            failures: 0,
            routine: Timestamp::ZERO,
            urgent: None,
            changed: None,
            seen_at: None,
            looks: 0,
            seen_look: 0,
            is_closed: false,
        }
    }
}

impl<T> View<T> {
    /// One of which there is nothing to see, whoever asks for a look: so none is missing.
    pub fn closed() -> View<T> {
        View { is_closed: true, ..View::default() }
    }

    /// As it was last read, even if the last look failed.
    pub fn seen(&self) -> Option<&T> {
        self.seen.as_ref()
    }

    /// The same, to note what was changed since.
    pub fn seen_mut(&mut self) -> Option<&mut T> {
        self.seen.as_mut()
    }

    /// Why the last look failed.
    pub fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    /// Why it is not known how things are.
    pub fn unread(&self) -> Option<String> {
        match (&self.fault, &self.seen) {
            _ if self.is_closed => None,
            (Some(fault), _) => Some(format!("cannot be read: {fault}")),
            (None, None) => Some("has not been read yet".to_owned()),
            (None, Some(_)) => None,
        }
    }

    /// Why the last look failed, if it began at `since` or later.
    pub fn fault_since(&self, since: Timestamp) -> Option<&Fault> {
        self.fault.as_ref().filter(|_| self.failed_at.is_some_and(|at| at >= since))
    }

    /// Whether the last look succeeded and began at `since` or later.
    pub fn is_seen_since(&self, since: Timestamp) -> bool {
        self.is_closed || self.fault.is_none() && self.seen_at.is_some_and(|at| at >= since)
    }

    /// Whether a look that began at `since` or later has ended, and was the last to.
    pub fn has_ended_since(&self, since: Timestamp) -> bool {
        self.is_seen_since(since) || self.fault_since(since).is_some()
    }

    /// When the look began that brought what is seen.
    pub fn seen_at(&self) -> Option<Timestamp> {
        self.seen_at
    }

    /// When the last look began, however it ended.
    pub fn last_begun(&self) -> Option<Timestamp> {
        self.looking.map(|(begun, _)| begun).or(self.seen_at.max(self.failed_at))
    }

    /// All of it is to be looked at no later than `at`.
    pub fn look_by(&mut self, at: Timestamp) {
        self.urgent = Some(self.urgent.map_or(at, |due| due.min(at)));
    }

    /// What has changed is to be looked at no later than `at`.
    pub fn look_at_changes_by(&mut self, at: Timestamp) {
        self.changed = Some(self.changed.map_or(at, |due| due.min(at)));
    }

    /// Not to be looked at before [`View::look_by`] says so.
    pub fn hold(&mut self) {
        (self.routine, self.urgent, self.changed) = (Timestamp::from_micros(u64::MAX), None, None);
    }

    /// The next look that comes by itself is no sooner than this after the last one.
    pub fn put_off(&mut self, interval: Duration) {
        if let Some(begun) = self.seen_at.filter(|_| self.is_current()) {
            self.routine = self.routine.max(begun + interval);
        }
    }

    /// When to look next.
    pub fn due(&self) -> Timestamp {
        let never = Timestamp::from_micros(u64::MAX);
        if self.is_closed { never } else { self.whole_due().min(self.changed.unwrap_or(never)) }
    }

    /// When to look at all of it next.
    fn whole_due(&self) -> Timestamp {
        self.urgent.map_or(self.routine, |urgent| urgent.min(self.routine))
    }

    /// Whether a look is due; if so it counts as begun. A look at what has changed puts off no other.
    pub fn begin(&mut self, now: Timestamp) -> bool {
        if self.looking.is_some() || self.due() > now {
            return false;
        }
        self.looks += 1;
        self.changed = None;
        let scope = match self.urgent {
            Some(urgent) if urgent <= now => Scope::Whole,
            _ if self.routine <= now => Scope::Routine,
            _ => Scope::Changed,
        };
        if scope != Scope::Changed {
            self.hold();
        }
        self.looking = Some((now, scope));
        true
    }

    /// How much the look that is under way is to ask about.
    pub fn scope(&self) -> Scope {
        self.looking.map_or(Scope::Whole, |(_, scope)| scope)
    }

    /// Takes in what a look brought. Returns when it began.
    pub fn end(&mut self, now: Timestamp, result: Result<T, Fault>, interval: Duration) -> Timestamp {
        let (begun, scope) = self.looking.take().unwrap_or((now, Scope::Whole));
        match result {
            Ok(seen) => {
                (self.seen, self.fault, self.failures) = (Some(seen), None, 0);
                (self.seen_at, self.seen_look) = (Some(begun), self.looks);
                if scope != Scope::Changed {
                    self.routine = now + interval;
                }
            }
            Err(fault) => {
                self.failures += 1;
                self.routine = now + pause_before_look(&fault, self.failures, interval);
                (self.fault, self.failed_at) = (Some(fault), Some(begun));
            }
        }
        begun
    }

    /// When to look next, unless a look is under way.
    pub fn next_look(&self) -> Option<Timestamp> {
        self.looking.is_none().then(|| self.due())
    }

    /// Looks begun so far.
    pub fn looks(&self) -> u64 {
        self.looks
    }

    /// Which of them was the last that succeeded.
    pub fn seen_look(&self) -> u64 {
        self.seen_look
    }

    /// Whether it is as the world was at the last look, and none is under way.
    pub fn is_current(&self) -> bool {
        self.seen.is_some() && self.fault.is_none() && self.looking.is_none()
    }
}

/// How long to wait with a look after this many failures. A large cluster that is refused by EC2 as a whole does not ask more often
/// for it than it does otherwise: not for long after any fault, and much sooner if it is throttled.
fn pause_before_look(fault: &Fault, failures: u32, interval: Duration) -> Duration {
    match fault.kind {
        FaultKind::Denied => PAUSE_DENIED.max(interval),
        FaultKind::Outdated => pause(fault, failures),
        FaultKind::Throttled => doubled_up_to(failures, interval / 4, PAUSE_MAX.max(interval)),
        FaultKind::Quota | FaultKind::Unsigned | FaultKind::Unreachable | FaultKind::Invalid => {
            doubled_up_to(failures, PAUSE_MIN, PAUSE_MAX.max(interval))
        }
    }
}

/// How long to wait after this many failures.
pub fn pause(fault: &Fault, failures: u32) -> Duration {
    match fault.kind {
        FaultKind::Denied => PAUSE_DENIED,
        FaultKind::Outdated if failures <= 1 => Duration::ZERO,
        FaultKind::Unsigned
        | FaultKind::Throttled
        | FaultKind::Quota
        | FaultKind::Outdated
        | FaultKind::Unreachable
        | FaultKind::Invalid => doubled(failures),
    }
}

/// The pause after so many failures, if nothing is known of them.
pub fn doubled(times: u32) -> Duration {
    doubled_up_to(times, PAUSE_MIN, PAUSE_MAX)
}

fn doubled_up_to(times: u32, first: Duration, most: Duration) -> Duration {
    first.max(PAUSE_MIN).saturating_mul(1 << times.saturating_sub(1).min(20)).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp::from_micros(1_000 * milliseconds)
    }

    #[test]
    fn of_what_is_not_there_no_look_is_due_and_none_is_missing() {
        let mut view: View<()> = View::closed();
        view.look_by(at(0));
        view.look_at_changes_by(at(0));
        assert!(!view.begin(at(1_000_000)));
        assert_eq!(view.next_look(), Some(Timestamp::from_micros(u64::MAX)));
        assert!(view.is_seen_since(at(1)) && view.has_ended_since(at(1)) && view.unread().is_none());
        assert!(view.seen().is_none() && !view.is_current());
    }

    fn failed() -> Result<(), Fault> {
        let message = "no".to_owned();
        Err(Fault { kind: FaultKind::Unreachable, message, hint: None, request_id: None })
    }

    #[test]
    fn a_look_that_failed_has_begun_as_well() {
        let mut view = View::default();
        assert!(view.begin(at(10)));
        view.end(at(20), failed(), INTERVAL);
        assert_eq!(view.last_begun(), Some(at(10)));
    }

    #[test]
    fn looks_at_what_has_changed_put_off_no_look_at_all_of_it() {
        let mut view = View::default();
        assert!(view.begin(at(0)));
        assert_eq!(view.scope(), Scope::Routine);
        view.end(at(10), Ok(()), INTERVAL);
        for second in 1..30 {
            view.look_at_changes_by(at(1_000 * second));
            assert!(view.begin(at(1_000 * second)));
            assert_eq!(view.scope(), Scope::Changed);
            view.end(at(1_000 * second + 10), Ok(()), INTERVAL);
        }
        assert_eq!(view.due(), at(30_010));
        view.look_at_changes_by(at(30_010));
        assert!(view.begin(at(30_010)));
        assert_eq!(view.scope(), Scope::Routine, "and it is that of the change as well");
        assert_eq!(view.next_look(), None);
    }

    #[test]
    fn whoever_asks_is_told_by_a_look_at_all_of_it() {
        let mut view = View::default();
        assert!(view.begin(at(0)));
        view.end(at(10), Ok(()), INTERVAL);
        view.look_at_changes_by(at(20));
        view.look_by(at(20));
        assert!(view.begin(at(20)));
        assert_eq!(view.scope(), Scope::Whole);
    }
}
