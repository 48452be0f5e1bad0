//! EC2 as one host calls it: the model's answers in the words of [`state`](crate::state), as the real
//! hand reads them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;

use super::vpc::{
    self, Answer, ApiError, Call, Caller, Check, Find, InstanceId, InstanceView, Origin, Power, RouteTarget,
    RouteView, SubnetId, TableView, Targets,
};
use crate::{
    addr::{Family, Range, Universe},
    node::{identity::Metadata, observe::peer_subnets::CALL_MAX},
    state::{
        Ec2Action, Fault, FaultKind, InstanceState, InterfaceId, Route, Side, Table, Tables, Target, Vpc,
        VpcId,
    },
    time::Timestamp,
};

/// Looks between two looks at the source/destination check once it is off.
const SELDOM: u64 = 10;

/// A write that EC2 acknowledged and no later read has shown yet.
#[derive(Clone, Debug)]
pub struct Written {
    /// What was written.
    pub action: Ec2Action,
    /// When it was acknowledged.
    pub at: Timestamp,
    /// Reads that have denied it.
    pub denials: u8,
}

/// The hand of one host.
#[derive(Clone, Debug)]
pub struct Cloud {
    /// Its instance.
    pub instance: InstanceId,
    /// Its interface.
    pub interface: InterfaceId,
    subnet: SubnetId,
    passes: u64,
    check: Option<bool>,
    check_due: u64,
}

impl Cloud {
    /// The hand of an instance.
    pub fn new(instance: InstanceId, interface: InterfaceId, subnet: SubnetId) -> Cloud {
        Cloud { instance, interface, subnet, passes: 0, check: None, check_due: 0 }
    }

    /// The hand of a host outside EC2, which is never asked for anything.
    pub fn nowhere(number: usize) -> Cloud {
        let named = |kind: &str| format!("{kind}-of-no-instance-{number}");
        Cloud::new(InstanceId(named("i")), InterfaceId(named("eni")), SubnetId(named("subnet")))
    }

    /// A new process remembers nothing of the calls of the one before.
    pub fn restart(&mut self) {
        *self = Cloud::new(self.instance.clone(), self.interface.clone(), self.subnet.clone());
    }

    /// What the instance metadata say, which answer always here.
    pub fn metadata(&self) -> Metadata {
        Metadata {
            instance: self.instance.0.clone(),
            interface: self.interface.clone(),
            subnet: self.subnet.clone(),
            vpc: VpcId("vpc-sim".to_owned()),
        }
    }

    /// The next look reads the source/destination check, too.
    pub fn doubt_check(&mut self) {
        self.check_due = 0;
    }

    /// A look at the selected tables.
    pub fn observe(
        &mut self,
        now: Timestamp,
        vpc: &mut vpc::Vpc,
        universe: &Universe,
        selected: &Tables,
    ) -> Result<Vpc, Fault> {
        self.passes += 1;
        let found = match selected {
            Tables::Serving(others) => self.serving(self.describe(now, vpc, Find::default())?, others),
            Tables::Named(ids) => {
                let ids = ids.iter().map(|id| id.0.clone()).collect();
                self.describe(now, vpc, Find { ids, ..Find::default() })?
            }
            Tables::Tagged(key, value) => {
                let filters = vec![(format!("tag:{key}"), vec![value.clone()])];
                self.describe(now, vpc, Find { filters, ..Find::default() })?
            }
        };
        let sides = |prefixes: &mut dyn Iterator<Item = Family>| {
            let families: Vec<Family> = prefixes.collect();
            let of_table = |table: &TableView| {
                let of = |family: &Family| {
                    let side = Side { table: table.id.clone(), family: *family };
                    (side, read_table(table, *family, universe.range))
                };
                families.iter().map(of).collect::<Vec<_>>()
            };
            found.iter().flat_map(of_table).collect()
        };
        let tables = sides(&mut universe.families());
        let retired = sides(&mut universe.retired.iter().copied().map(Family::V6));
        let source_dest_check = self.source_dest_check(now, vpc);
        Ok(Vpc { interface: self.interface.clone(), source_dest_check, tables, retired })
    }

    /// One action.
    pub fn apply(
        &mut self,
        now: Timestamp,
        vpc: &mut vpc::Vpc,
        action: &Ec2Action,
    ) -> Result<Option<String>, Fault> {
        let dry_run = false;
        let call = match action {
            Ec2Action::CreateRoute { table, destination, interface } => Call::CreateRoute {
                table: table.table.0.clone(),
                destination: table.destination(*destination).into(),
                targets: Targets::interface(&interface.0),
                dry_run,
            },
            Ec2Action::ReplaceRoute { table, destination, interface } => Call::ReplaceRoute {
                table: table.table.0.clone(),
                destination: table.destination(*destination).into(),
                targets: Targets::interface(&interface.0),
                dry_run,
            },
            Ec2Action::DeleteRoute { table, destination } => Call::DeleteRoute {
                table: table.table.0.clone(),
                destination: table.destination(*destination).into(),
                dry_run,
            },
            Ec2Action::DisableCheck { interface } => {
                self.doubt_check();
                let (interface, check) = (interface.0.clone(), Check::Off);
                Call::ModifyNetworkInterfaceAttribute { interface, check, dry_run }
            }
        };
        match vpc.call(now, &self.caller(), &call).result {
            Ok(_) => Ok(Some("request".to_owned())),
            Err(gone)
                if call.action() == vpc::Action::DeleteRoute && gone.code == "InvalidRoute.NotFound" =>
            {
                Ok(None)
            }
            Err(error) => Err(classify(&error)),
        }
    }

    /// The running instances that bear a tag.
    pub fn peers(
        &self,
        now: Timestamp,
        vpc: &mut vpc::Vpc,
        key: &str,
        value: &str,
    ) -> Result<BTreeSet<Ipv4Addr>, Fault> {
        let filters = [
            (format!("tag:{key}"), value.to_owned()),
            ("instance-state-name".to_owned(), "running".to_owned()),
        ];
        let filters = filters.map(|(name, value)| (name, vec![value])).to_vec();
        let found = self.instances_where(now, vpc, filters)?;
        Ok(found.into_iter().filter_map(|one| Some(one.interfaces.first()?.address)).collect())
    }

    /// Those of these addresses that running instances have.
    pub fn running(
        &self,
        now: Timestamp,
        vpc: &mut vpc::Vpc,
        addresses: &BTreeSet<Ipv4Addr>,
    ) -> Result<BTreeSet<Ipv4Addr>, Fault> {
        let filters = vec![
            ("private-ip-address".to_owned(), addresses.iter().map(ToString::to_string).collect()),
            ("instance-state-name".to_owned(), vec!["running".to_owned()]),
        ];
        let found = self.instances_where(now, vpc, filters)?;
        Ok(found.into_iter().filter_map(|one| Some(one.interfaces.first()?.address)).collect())
    }

    /// Those of these instances that are not terminated.
    pub fn instances(
        &self,
        now: Timestamp,
        vpc: &mut vpc::Vpc,
        ids: &BTreeSet<String>,
    ) -> Result<BTreeMap<String, InstanceState>, Fault> {
        let filters = vec![("instance-id".to_owned(), ids.iter().cloned().collect())];
        let found = self.instances_where(now, vpc, filters)?;
        let state = |power| match power {
            Power::Running => Some(InstanceState::Running),
            Power::Stopped => Some(InstanceState::Stopped),
            Power::Terminated => None,
        };
        Ok(found.into_iter().filter_map(|one| Some((one.id.0, state(one.power)?))).collect())
    }

    fn instances_where(
        &self,
        now: Timestamp,
        vpc: &mut vpc::Vpc,
        filters: Vec<(String, Vec<String>)>,
    ) -> Result<Vec<InstanceView>, Fault> {
        let find = Call::DescribeInstances(Find { filters, ..Find::default() });
        match vpc.call(now, &self.caller(), &find).result {
            Ok(Answer::Instances { instances, .. }) => Ok(instances),
            Ok(Answer::Done | Answer::Tables { .. } | Answer::Groups { .. }) => {
                Err(fault(FaultKind::Invalid, "another answer"))
            }
            Err(error) => Err(classify(&error)),
        }
    }

    /// The subnet of each of these addresses that is an instance's.
    pub fn places(
        &self,
        now: Timestamp,
        vpc: &mut vpc::Vpc,
        addresses: &BTreeSet<Ipv4Addr>,
    ) -> Result<BTreeMap<Ipv4Addr, SubnetId>, Fault> {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let mut found = BTreeMap::new();
        for some in addresses.chunks(CALL_MAX) {
            let filters = vec![("private-ip-address".to_owned(), some.to_vec())];
            let find = Call::DescribeInstances(Find { filters, ..Find::default() });
            match vpc.call(now, &self.caller(), &find).result {
                Ok(Answer::Instances { instances, .. }) => {
                    let first = instances.into_iter().filter_map(|one| one.interfaces.into_iter().next());
                    found.extend(first.map(|interface| (interface.address, interface.subnet)));
                }
                Ok(Answer::Done | Answer::Tables { .. } | Answer::Groups { .. }) => {
                    return Err(fault(FaultKind::Invalid, "another answer"));
                }
                Err(error) => return Err(classify(&error)),
            }
        }
        Ok(found)
    }

    /// The tables that serve the own subnet and these others, as the real hand tells them.
    fn serving(&self, tables: Vec<TableView>, others: &BTreeSet<SubnetId>) -> Vec<TableView> {
        let subnets: BTreeSet<SubnetId> = others.iter().chain([&self.subnet]).cloned().collect();
        let of_table = |table: &TableView| -> BTreeSet<SubnetId> {
            table.associations.iter().filter_map(|one| one.subnet.clone()).collect()
        };
        let by_default = !subnets.is_subset(&tables.iter().flat_map(of_table).collect());
        let is_main = |table: &TableView| table.associations.iter().any(|one| one.main);
        let serves =
            |table: &TableView| !of_table(table).is_disjoint(&subnets) || by_default && is_main(table);
        tables.into_iter().filter(serves).collect()
    }

    fn describe(&self, now: Timestamp, vpc: &mut vpc::Vpc, find: Find) -> Result<Vec<TableView>, Fault> {
        match vpc.call(now, &self.caller(), &Call::DescribeRouteTables(find)).result {
            Ok(Answer::Tables { tables, .. }) => Ok(tables),
            Ok(Answer::Done | Answer::Instances { .. } | Answer::Groups { .. }) => {
                Err(fault(FaultKind::Invalid, "another answer"))
            }
            Err(error) => Err(classify(&error)),
        }
    }

    /// Read until it is off, and now and then after.
    fn source_dest_check(&mut self, now: Timestamp, vpc: &mut vpc::Vpc) -> Option<bool> {
        if self.passes < self.check_due {
            return self.check;
        }
        let find = Find { ids: vec![self.instance.0.clone()], ..Find::default() };
        self.check = match vpc.call(now, &self.caller(), &Call::DescribeInstances(find)).result {
            Ok(Answer::Instances { instances, .. }) => {
                let mut interfaces = instances.into_iter().flat_map(|instance| instance.interfaces);
                interfaces.find(|one| one.id == self.interface).map(|one| one.source_dest_check)
            }
            Ok(Answer::Done | Answer::Tables { .. } | Answer::Groups { .. }) | Err(_) => None,
        };
        self.check_due = self.passes + if self.check == Some(false) { SELDOM } else { 1 };
        self.check
    }

    fn caller(&self) -> Caller {
        Caller::Instance(self.instance.clone())
    }
}

/// A side of a table. Of what covers an IPv6 prefix the narrowest counts.
fn read_table(view: &TableView, family: Family, range: Ipv4Net) -> Table {
    match family {
        Family::V4 => read_routes(&view.routes, Some, range),
        Family::V6(prefix) => read_routes(&view.routes6, |cidr| prefix.cidr_of(cidr), range),
    }
}

fn read_routes<N: Copy>(
    views: &[RouteView<N>],
    as_ours: impl Fn(N) -> Option<Ipv4Net>,
    range: Ipv4Net,
) -> Table {
    let mut table = Table::default();
    for route in views {
        let propagated = route.origin == Origin::Propagated;
        table.used += usize::from(!propagated);
        let Some(cidr) = as_ours(route.destination) else { continue };
        if route.target == RouteTarget::Local || route.origin == Origin::Table {
            table.local.push(cidr);
        }
        let destination = Range::from(cidr);
        let concerns = destination.covers(range.into()) || Range::from(range).covers(destination);
        if concerns && (!propagated || !table.routes.contains_key(&cidr)) {
            table.routes.insert(cidr, read_route(route));
        }
    }
    table
}

fn read_route<N>(view: &RouteView<N>) -> Route {
    let target = match &view.target {
        RouteTarget::Local => Target::Other("local".to_owned()),
        RouteTarget::Interface(interface) => Target::Interface(interface.clone()),
        RouteTarget::Gateway(gateway) => Target::Other(gateway.clone()),
    };
    Route { target, state: view.state, created: view.origin == Origin::Created }
}

/// As the real hand judges a refusal.
fn classify(error: &ApiError) -> Fault {
    let kind = match error.code.as_str() {
        "RouteAlreadyExists" | "InvalidRoute.NotFound" => FaultKind::Outdated,
        "InvalidParameterValue" if error.message.contains("no route defined") => FaultKind::Outdated,
        code if code.ends_with("ID.NotFound") => FaultKind::Outdated,
        "RouteLimitExceeded" => FaultKind::Quota,
        "UnauthorizedOperation" => FaultKind::Denied,
        "ExpiredToken" | "RequestExpired" => FaultKind::Unsigned,
        "RequestLimitExceeded" => FaultKind::Throttled,
        "InternalError" => FaultKind::Unreachable,
        _ => FaultKind::Invalid,
    };
    fault(kind, &error.to_string())
}

fn fault(kind: FaultKind, message: &str) -> Fault {
    Fault { kind, message: message.to_owned(), hint: None, request_id: None }
}
