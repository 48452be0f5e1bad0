//! What can be asked of EC2, and the shape of an answer.

use std::{fmt, str::FromStr, time::Duration};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use super::{ApiError, GroupView, InstanceId, InstanceView, TableView};

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Caller {
    /// A colleague with a console: may do everything, and neither faults nor counts apply.
    Console,
    /// The role of an instance.
    Instance(InstanceId),
}

/// The kind of a call, by EC2's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)] // They are EC2's names.
pub enum Action {
    CreateRoute,
    DeleteRoute,
    DescribeInstances,
    DescribeRouteTables,
    DescribeSecurityGroups,
    ModifyInstanceAttribute,
    ModifyNetworkInterfaceAttribute,
    ReplaceRoute,
}

/// A call. Ids and CIDRs are text as the caller sent them: refusing them is part of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields are EC2's parameters.
pub enum Call {
    CreateRoute { table: String, destination: Destination, targets: Targets, dry_run: bool },
    ReplaceRoute { table: String, destination: Destination, targets: Targets, dry_run: bool },
    DeleteRoute { table: String, destination: Destination, dry_run: bool },
    ModifyNetworkInterfaceAttribute { interface: String, check: Check, dry_run: bool },
    ModifyInstanceAttribute { instance: String, check: Check, dry_run: bool },
    DescribeRouteTables(Find),
    DescribeInstances(Find),
    DescribeSecurityGroups(Find),
}

/// The destinations that a call names; EC2 accepts exactly one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destination {
    /// `DestinationCidrBlock`
    pub v4: Option<String>,
    /// `DestinationIpv6CidrBlock`
    pub v6: Option<String>,
}

impl From<IpNet> for Destination {
    fn from(cidr: IpNet) -> Destination {
        match cidr {
            IpNet::V4(cidr) => Destination { v4: Some(cidr.to_string()), v6: None },
            IpNet::V6(cidr) => Destination { v4: None, v6: Some(cidr.to_string()) },
        }
    }
}

impl From<Ipv4Net> for Destination {
    fn from(cidr: Ipv4Net) -> Destination {
        IpNet::from(cidr).into()
    }
}

/// By `DestinationCidrBlock`.
impl From<&str> for Destination {
    fn from(text: &str) -> Destination {
        Destination { v4: Some(text.to_owned()), v6: None }
    }
}

/// The targets that a call names; EC2 accepts exactly one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// `NetworkInterfaceId`
    pub interface: Option<String>,
    /// `InstanceId`
    pub instance: Option<String>,
    /// `GatewayId` and the like: anything that is not ours to follow.
    pub gateway: Option<String>,
    /// `LocalTarget`
    pub local: bool,
}

/// The source/destination check of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Foreign addresses are dropped.
    On,
    /// Foreign addresses pass.
    Off,
}

/// What a describe call looks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Find {
    /// Ids, if named.
    pub ids: Vec<String>,
    /// All filters must match, by one of their values each.
    pub filters: Vec<(String, Vec<String>)>,
    /// Results on one page.
    pub max_results: Option<usize>,
    /// Where the page before ended.
    pub next_token: Option<String>,
    /// `DryRun`
    pub dry_run: bool,
}

/// An answer and how long it takes to come.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Time on the way.
    pub after: Duration,
    /// It breaks off before its end.
    pub cut: bool,
    /// The answer.
    pub result: Result<Answer, ApiError>,
}

/// What is answered when all went well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To a change.
    Done,
    /// To DescribeRouteTables.
    #[allow(missing_docs)]
    Tables { tables: Vec<TableView>, next_token: Option<String> },
    /// To DescribeInstances.
    #[allow(missing_docs)]
    Instances { instances: Vec<InstanceView>, next_token: Option<String> },
    /// To DescribeSecurityGroups.
    #[allow(missing_docs)]
    Groups { groups: Vec<GroupView>, next_token: Option<String> },
}

impl Action {
    /// All there are.
    pub const ALL: [Action; 8] = [
        Action::CreateRoute,
        Action::DeleteRoute,
        Action::DescribeInstances,
        Action::DescribeRouteTables,
        Action::DescribeSecurityGroups,
        Action::ModifyInstanceAttribute,
        Action::ModifyNetworkInterfaceAttribute,
        Action::ReplaceRoute,
    ];

    /// EC2's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Action::CreateRoute => "CreateRoute",
            Action::DeleteRoute => "DeleteRoute",
            Action::DescribeInstances => "DescribeInstances",
            Action::DescribeRouteTables => "DescribeRouteTables",
            Action::DescribeSecurityGroups => "DescribeSecurityGroups",
            Action::ModifyInstanceAttribute => "ModifyInstanceAttribute",
            Action::ModifyNetworkInterfaceAttribute => "ModifyNetworkInterfaceAttribute",
            Action::ReplaceRoute => "ReplaceRoute",
        }
    }

    /// Whether it changes anything.
    pub fn mutates(self) -> bool {
        !matches!(
            self,
            Action::DescribeInstances | Action::DescribeRouteTables | Action::DescribeSecurityGroups
        )
    }
}

impl Call {
    /// Its kind.
    pub fn action(&self) -> Action {
        match self {
            Call::CreateRoute { .. } => Action::CreateRoute,
            Call::ReplaceRoute { .. } => Action::ReplaceRoute,
            Call::DeleteRoute { .. } => Action::DeleteRoute,
            Call::ModifyNetworkInterfaceAttribute { .. } => Action::ModifyNetworkInterfaceAttribute,
            Call::ModifyInstanceAttribute { .. } => Action::ModifyInstanceAttribute,
            Call::DescribeRouteTables(_) => Action::DescribeRouteTables,
            Call::DescribeInstances(_) => Action::DescribeInstances,
            Call::DescribeSecurityGroups(_) => Action::DescribeSecurityGroups,
        }
    }

    /// Whether only the permission is asked for.
    pub fn dry_run(&self) -> bool {
        match self {
            Call::CreateRoute { dry_run, .. }
            | Call::ReplaceRoute { dry_run, .. }
            | Call::DeleteRoute { dry_run, .. }
            | Call::ModifyNetworkInterfaceAttribute { dry_run, .. }
            | Call::ModifyInstanceAttribute { dry_run, .. } => *dry_run,
            Call::DescribeRouteTables(find)
            | Call::DescribeInstances(find)
            | Call::DescribeSecurityGroups(find) => find.dry_run,
        }
    }
}

impl Targets {
    /// One interface.
    pub fn interface(id: impl Into<String>) -> Targets {
        Targets { interface: Some(id.into()), ..Targets::default() }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name().fmt(f)
    }
}

impl FromStr for Action {
    type Err = ApiError;

    fn from_str(text: &str) -> Result<Action, ApiError> {
        let known = Action::ALL.into_iter().find(|action| action.name() == text);
        known.ok_or_else(|| {
            ApiError::client("InvalidAction", format!("the action {text} is not valid for this web service"))
        })
    }
}
