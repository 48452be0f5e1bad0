//! Whether a call is carried out at all: permissions, throttling, and faults made on purpose.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    ApiError,
    call::{Action, Caller},
};
use crate::time::Timestamp;

/// The calls that weavers cannot do without; every instance may make them.
const ALWAYS: [Action; 5] = [
    Action::CreateRoute,
    Action::DeleteRoute,
    Action::ReplaceRoute,
    Action::DescribeRouteTables,
    Action::DescribeInstances,
];

/// A thousandth of a call, so that buckets fill without fractions.
const MILLI: u64 = 1000;

/// What goes wrong on purpose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Describe calls see the state of this many milliseconds ago.
    pub stale_ms: u64,
    /// Every answer takes this long.
    pub delay_ms: u64,
    /// How many calls are let through.
    pub throttle: Throttle,
    /// Nobody may make these calls.
    pub denied: BTreeSet<Action>,
    /// Dry runs are carried out, as by stand-ins that do not know them.
    pub deaf_to_dry_runs: bool,
    /// The next so many calls fail and change nothing.
    pub fail: BTreeMap<Action, u32>,
    /// The next so many calls are carried out and their answers lost.
    pub lose: BTreeMap<Action, u32>,
    /// The next so many calls are carried out and their answers break off.
    pub cut: BTreeMap<Action, u32>,
    /// Whether callers are recognised.
    pub signatures: Signatures,
    /// What the metadata service does; the model itself has none.
    pub metadata: Metadata,
}

/// Whether callers are recognised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signatures {
    /// They are.
    #[default]
    Accepted,
    /// The time of their credentials is over.
    ExpiredToken,
    /// Their clocks are off.
    RequestExpired,
}

/// What the metadata service does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metadata {
    /// It answers.
    #[default]
    On,
    /// It is disabled.
    Off,
    /// Its tokens do not come as far as the caller: the hop limit is too small.
    TooFar,
}

/// How many calls are let through: each action has a bucket that all callers share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Throttle {
    /// All.
    #[default]
    Off,
    /// As an AWS account has it.
    Aws,
    /// The same bucket for every action.
    #[allow(missing_docs)]
    Bucket { capacity: u32, per_second: u32 },
}

#[derive(Clone, Debug, Default)]
pub(super) struct Gate {
    faults: Faults,
    permitted: BTreeMap<Caller, BTreeSet<Action>>,
    buckets: BTreeMap<Action, Bucket>,
    calls: BTreeMap<(Caller, Action), u64>,
    throttled: BTreeMap<(Caller, Action), u64>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    filled: Timestamp,
    milli: u64,
}

impl Faults {
    /// How far back a describe call sees.
    pub fn stale(&self) -> Duration {
        Duration::from_millis(self.stale_ms)
    }
}

impl Throttle {
    /// Calls at once and calls a second.
    fn limits(self, action: Action) -> Option<(u64, u64)> {
        match self {
            Throttle::Off => None,
            Throttle::Aws if action == Action::ModifyNetworkInterfaceAttribute => Some((100, 5)),
            Throttle::Aws if action.mutates() => Some((50, 5)),
            Throttle::Aws => Some((100, 20)),
            Throttle::Bucket { capacity, per_second } => Some((capacity.into(), per_second.into())),
        }
    }
}

impl Gate {
    /// Lets a call in. A dry run ends here, whatever it would have done.
    pub fn admit(
        &mut self,
        now: Timestamp,
        caller: &Caller,
        action: Action,
        dry_run: bool,
    ) -> Result<(), ApiError> {
        if *caller == Caller::Console {
            return if dry_run { Err(ApiError::dry_run()) } else { Ok(()) };
        }
        *self.calls.entry((caller.clone(), action)).or_default() += 1;
        if !self.take(now, action) {
            *self.throttled.entry((caller.clone(), action)).or_default() += 1;
            return Err(ApiError::throttled());
        }
        match self.faults.signatures {
            Signatures::Accepted => {}
            Signatures::ExpiredToken => return Err(ApiError::expired_token()),
            Signatures::RequestExpired => return Err(ApiError::request_expired()),
        }
        if !self.may(caller, action) {
            return Err(ApiError::unauthorized(action.name()));
        }
        if dry_run && !self.faults.deaf_to_dry_runs {
            return Err(ApiError::dry_run());
        }
        if strike(&mut self.faults.fail, action) { Err(ApiError::internal()) } else { Ok(()) }
    }

    /// Lets the answer out, unless it is to be lost.
    pub fn dismiss(&mut self, caller: &Caller, action: Action) -> Result<(), ApiError> {
        let lost = *caller != Caller::Console && strike(&mut self.faults.lose, action);
        if lost { Err(ApiError::internal()) } else { Ok(()) }
    }

    /// Whether the answer is to break off.
    pub fn cut(&mut self, caller: &Caller, action: Action) -> bool {
        *caller != Caller::Console && strike(&mut self.faults.cut, action)
    }

    pub fn delay(&self, caller: &Caller) -> Duration {
        match caller {
            Caller::Console => Duration::ZERO,
            Caller::Instance(_) => Duration::from_millis(self.faults.delay_ms),
        }
    }

    pub fn permit(&mut self, caller: &Caller, actions: impl IntoIterator<Item = Action>) {
        self.permitted.entry(caller.clone()).or_default().extend(actions);
    }

    pub fn set_faults(&mut self, faults: Faults) {
        if faults.throttle != self.faults.throttle {
            self.buckets.clear();
        }
        self.faults = faults;
    }

    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    pub fn calls(&self) -> BTreeMap<Action, u64> {
        let mut sums = BTreeMap::new();
        for ((_, action), count) in &self.calls {
            *sums.entry(*action).or_default() += count;
        }
        sums
    }

    pub fn calls_by(&self, caller: &Caller) -> BTreeMap<Action, u64> {
        let own = self.calls.iter().filter(|((by, _), _)| by == caller);
        own.map(|((_, action), count)| (*action, *count)).collect()
    }

    /// Of the calls of a caller, those that were too many.
    pub fn throttled_by(&self, caller: &Caller) -> BTreeMap<Action, u64> {
        let own = self.throttled.iter().filter(|((by, _), _)| by == caller);
        own.map(|((_, action), count)| (*action, *count)).collect()
    }

    fn may(&self, caller: &Caller, action: Action) -> bool {
        let permitted = self.permitted.get(caller).is_some_and(|actions| actions.contains(&action));
        (ALWAYS.contains(&action) || permitted) && !self.faults.denied.contains(&action)
    }

    /// Takes a call from the action's bucket, which starts full.
    fn take(&mut self, now: Timestamp, action: Action) -> bool {
        let Some((capacity, per_second)) = self.faults.throttle.limits(action) else { return true };
        let full = capacity * MILLI;
        let bucket = self.buckets.entry(action).or_insert(Bucket { filled: now, milli: full });
        let elapsed_ms = u64::try_from(now.since(bucket.filled).as_millis()).unwrap_or(u64::MAX);
        bucket.milli = full.min(bucket.milli.saturating_add(elapsed_ms.saturating_mul(per_second)));
        bucket.filled += Duration::from_millis(elapsed_ms);
        let Some(rest) = bucket.milli.checked_sub(MILLI) else { return false };
        bucket.milli = rest;
        true
    }
}

/// Counts a planned failure down; whether there was one left.
fn strike(planned: &mut BTreeMap<Action, u32>, action: Action) -> bool {
    match planned.get_mut(&action) {
        Some(left) if *left > 0 => {
            *left -= 1;
            true
        }
        Some(_) | None => false,
    }
}
