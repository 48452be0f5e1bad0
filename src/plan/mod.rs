//! The difference between what should be and what is, as actions in the order in which they are safe.
//!
//! Pure: the same two values always give the same plan. What was not read gives no change.

mod found;
mod tunnel;
mod host;
mod vpc;

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::state::{Action, Actual, Desired, Ec2Action, HostAction, Side};

pub use self::{
    found::{Found, Place},
    vpc::{leads_to, led},
};

/// What to change, and what stands in the way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// In the order in which they run.
    pub changes: Vec<Change>,
    /// What is needed and cannot be done; the cause says why not. Never tried.
    #[serde(default)]
    pub refused: Vec<Change>,
    /// What is not ours and stands in our place; never touched.
    pub conflicts: Vec<Conflict>,
    /// How full each table is, and would be.
    #[serde(default)]
    pub tables: BTreeMap<Side, Usage>,
    /// What it should rest on and was not read, and why: what has to change there is not known.
    #[serde(default)]
    pub unread: Vec<String>,
    /// What the reader should know (`routes follow agreement`).
    pub notes: Vec<String>,
}

/// One action and why it is needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What to do.
    pub action: Action,
    /// Why.
    pub cause: String,
    /// What is there now.
    pub before: Found,
    /// Containers of this host whose packets it concerns, by name, where that was asked for.
    #[serde(default)]
    pub containers: Vec<String>,
}

/// How full a route table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Routes that count, now.
    pub used: usize,
    /// Routes that count, once the plan is carried out.
    pub after: usize,
    /// Routes that it may hold, if known.
    pub quota: Option<usize>,
}

/// Something of others that stands inside the range.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Conflict {
    /// Where it stands.
    pub place: Place,
    /// What it covers, by IPv4. No address beneath it is handed out.
    pub destination: ipnet::Ipv4Net,
    /// Where it leads.
    pub target: String,
}

impl Conflict {
    /// Where it stands, and what it covers as it is called there.
    pub fn found_at(&self) -> (String, IpNet) {
        match &self.place {
            Place::Host => (self.place.to_string(), self.destination.into()),
            Place::Table(side) => (side.table.to_string(), side.destination(self.destination)),
        }
    }
}

impl Plan {
    /// What has to change for `actual` to become `desired`.
    pub fn new(desired: &Desired, actual: Actual<'_>) -> Plan {
        let mut plan = Plan::default();
        if let Some(actual) = actual.host {
            host::compare(&desired.host, actual, &mut plan);
        }
        if let (Some(desired), Some(actual)) = (&desired.vpc, actual.vpc) {
            vpc::compare(desired, actual, &mut plan);
        }
        plan.changes.sort_by_key(|change| step(&change.action));
        plan
    }

    /// Whether nothing has to change.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.refused.is_empty()
    }

    /// Whether everything was read that it rests on.
    pub fn is_complete(&self) -> bool {
        self.unread.is_empty()
    }

    fn push(&mut self, action: impl Into<Action>, before: impl Into<Found>, cause: impl Into<String>) {
        self.changes.push(Change::new(action, before, cause));
    }
}

impl Change {
    fn new(action: impl Into<Action>, before: impl Into<Found>, cause: impl Into<String>) -> Change {
        let (action, cause, before) = (action.into(), cause.into(), before.into());
        Change { action, cause, before, containers: Vec::new() }
    }
}

/// Where an action is carried out. None waits for another, so that a slow EC2 never holds up a repair on the host, nor the
/// end of a link the making of one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Plane {
    /// The host's network.
    Host,
    /// Links that go. The kernel takes its time for each.
    Removal,
    /// Our network interface of EC2.
    Interface,
    /// A route table.
    Table(Side),
}

impl Plane {
    /// Where this action is carried out.
    pub fn of(action: &Action) -> Plane {
        match action {
            Action::Ec2(action) => {
                action.route().map_or(Plane::Interface, |(table, _)| Plane::Table(table.clone()))
            }
            Action::Host(HostAction::DeleteLink(_)) => Plane::Removal,
            Action::Host(_) => Plane::Host,
        }
    }
}

/// The order of the kinds of action: a path is built before traffic is sent down it, and torn down
/// after. Within a kind the order of the plan stays.
fn step(action: &Action) -> u8 {
    match action {
        Action::Host(action) => match action {
            HostAction::SetSysctl { .. } => 0,
            HostAction::LoadRules(_) => 1,
            HostAction::OpenForward { .. } => 2,
            HostAction::AddBlock(_)
            | HostAction::SetTunnel { .. }
            | HostAction::SetTunnelPeer { .. }
            | HostAction::AddHostRoute { .. } => 4,
            HostAction::AddGateway => 5,
            HostAction::CreateLink { .. } => 6,
            HostAction::MendLink { .. } => 7,
            HostAction::MakePair { .. } => 8,
            HostAction::SetPorts(_) => 9,
            HostAction::DeleteLink(_) => 11,
            HostAction::DeleteGateway => 12,
            HostAction::DeleteBlock(_)
            | HostAction::DeleteHostRoute { .. }
            | HostAction::DeleteTunnelPeer(_)
            | HostAction::DeleteTunnel => 13,
            HostAction::CloseForward => 14,
            HostAction::DeleteRules => 15,
        },
        Action::Ec2(Ec2Action::DisableCheck { .. }) => 3,
        Action::Ec2(
            Ec2Action::ReplaceRoute { .. } | Ec2Action::CreateRoute { .. } | Ec2Action::DeleteRoute { .. },
        ) => 10,
    }
}
