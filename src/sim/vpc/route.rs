//! Route tables: what they hold, which change they accept, and which route wins.

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{ApiError, Destination, InstanceId, Power, QUOTA_DEFAULT, State, Table, Targets};
use crate::state::{InterfaceId, RouteState, TableId};

/// A route of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub target: RouteTarget,
    /// How it came to be.
    pub origin: Origin,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteTarget {
    /// The VPC itself.
    Local,
    /// A network interface, which may be gone by now.
    Interface(InterfaceId),
    /// A gateway, a peering, anything else.
    Gateway(String),
}

/// How a route came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// With its table.
    Table,
    /// By CreateRoute.
    Created,
    /// Learned from a virtual gateway.
    Propagated,
}

impl Origin {
    /// EC2's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Origin::Table => "CreateRouteTable",
            Origin::Created => "CreateRoute",
            Origin::Propagated => "EnableVgwRoutePropagation",
        }
    }
}

impl Table {
    pub(super) fn new(local: Ipv4Net) -> Table {
        let route = Route { target: RouteTarget::Local, origin: Origin::Table };
        Table {
            routes: BTreeMap::from([(local, route)]),
            routes6: BTreeMap::new(),
            propagated: BTreeMap::new(),
            quota: QUOTA_DEFAULT,
            tags: BTreeMap::new(),
            edge: None,
        }
    }
}

impl State {
    pub(super) fn create_route(
        &mut self,
        table: &str,
        destination: &Destination,
        targets: &Targets,
    ) -> Result<(), ApiError> {
        let table = self.known_table(table)?;
        // Host bits are cleared here and nowhere else: Replace and Delete want the very text.
        let destination = parse_cidr(destination)?.trunc();
        let target = self.only_target(targets)?;
        if target == RouteTarget::Local {
            return Err(ApiError::value("a local target is only for routes that were local"));
        }
        match destination {
            IpNet::V4(cidr) => self.check_destination(cidr, &target)?,
            IpNet::V6(cidr) if reserved6().contains(&cidr) => {
                return Err(ApiError::value(format!("{cidr} is reserved by AWS")));
            }
            IpNet::V6(_) => {}
        }
        let table = self.tables.get_mut(&table).expect("known_table found it");
        match destination {
            IpNet::V4(cidr) => insert(&mut table.routes, table.quota, cidr, target),
            IpNet::V6(cidr) => insert(&mut table.routes6, table.quota, cidr, target),
        }
    }

    pub(super) fn replace_route(
        &mut self,
        table: &str,
        destination: &Destination,
        targets: &Targets,
    ) -> Result<(), ApiError> {
        let table = self.known_table(table)?;
        let destination = parse_cidr(destination)?;
        let target = self.only_target(targets)?;
        let table = self.tables.get_mut(&table).expect("known_table found it");
        let route = match destination {
            IpNet::V4(cidr) => table.routes.get_mut(&cidr),
            IpNet::V6(cidr) => table.routes6.get_mut(&cidr),
        };
        let Some(route) = route else {
            // Checked against AWS by others: not InvalidRoute.NotFound, as one would think.
            return Err(ApiError::value(format!(
                "There is no route defined for '{destination}' in the route table. Use CreateRoute instead."
            )));
        };
        if target == RouteTarget::Local && route.origin != Origin::Table {
            return Err(ApiError::value(format!("{destination} never was a local route")));
        }
        route.target = target;
        Ok(())
    }

    pub(super) fn delete_route(&mut self, table: &str, destination: &Destination) -> Result<(), ApiError> {
        let id = self.known_table(table)?;
        let destination = parse_cidr(destination)?;
        let table = self.tables.get_mut(&id).expect("known_table found it");
        match destination {
            IpNet::V4(cidr) => remove(&mut table.routes, cidr, &id),
            IpNet::V6(cidr) => remove(&mut table.routes6, cidr, &id),
        }
    }

    /// Inside the VPC only the whole of a subnet may be steered, and only to an interface.
    fn check_destination(&self, destination: Ipv4Net, target: &RouteTarget) -> Result<(), ApiError> {
        let reserved = Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 168, 0), 22);
        if reserved.contains(&destination) {
            return Err(ApiError::value(format!("{destination} is reserved by AWS")));
        }
        if destination == self.cidr || !self.cidr.contains(&destination) {
            return Ok(());
        }
        let subnet = self.subnets.values().any(|subnet| subnet.cidr == destination);
        match target {
            RouteTarget::Interface(_) if subnet => Ok(()),
            RouteTarget::Interface(_) => Err(ApiError::value(format!(
                "{destination} is inside {} and is not the CIDR of a subnet",
                self.cidr
            ))),
            RouteTarget::Gateway(_) | RouteTarget::Local => Err(ApiError::value(
                "Route target is not supported. This route only supports interface and instance targets.",
            )),
        }
    }

    fn only_target(&self, targets: &Targets) -> Result<RouteTarget, ApiError> {
        let Targets { interface, instance, gateway, local } = targets;
        match (interface, instance, gateway, local) {
            (None, None, None, false) => Err(ApiError::missing("NetworkInterfaceId")),
            (Some(interface), None, None, false) => {
                self.known_interface(interface).map(RouteTarget::Interface)
            }
            (None, Some(instance), None, false) => self.only_interface(instance).map(RouteTarget::Interface),
            (None, None, Some(gateway), false) => Ok(RouteTarget::Gateway(gateway.clone())),
            (None, None, None, true) => Ok(RouteTarget::Local),
            _ => Err(ApiError::combination("exactly one target is allowed")),
        }
    }

    // ===== ids =====

    pub(super) fn known_table(&self, text: &str) -> Result<TableId, ApiError> {
        check_form(text, "rtb", "InvalidRouteTableId.Malformed")?;
        let id = TableId(text.to_owned());
        if self.tables.contains_key(&id) {
            return Ok(id);
        }
        let message = format!("the route table '{text}' does not exist");
        Err(ApiError::client("InvalidRouteTableID.NotFound", message))
    }

    pub(super) fn known_interface(&self, text: &str) -> Result<InterfaceId, ApiError> {
        check_form(text, "eni", "InvalidNetworkInterfaceId.Malformed")?;
        let id = InterfaceId(text.to_owned());
        if self.interfaces.contains_key(&id) {
            return Ok(id);
        }
        let message = format!("the network interface '{text}' does not exist");
        Err(ApiError::client("InvalidNetworkInterfaceID.NotFound", message))
    }

    pub(super) fn known_instance(&self, text: &str) -> Result<InstanceId, ApiError> {
        check_form(text, "i", "InvalidInstanceID.Malformed")?;
        let id = InstanceId(text.to_owned());
        if self.instances.contains_key(&id) {
            return Ok(id);
        }
        let message = format!("the instance '{text}' does not exist");
        Err(ApiError::client("InvalidInstanceID.NotFound", message))
    }

    /// What an instance stands for as a target: its interface, if it has exactly one.
    pub(super) fn only_interface(&self, instance: &str) -> Result<InterfaceId, ApiError> {
        let id = self.known_instance(instance)?;
        if self.instances.get(&id).is_some_and(|instance| instance.power == Power::Terminated) {
            let message =
                format!("the terminated instance '{id}' is not in a valid state for this operation");
            return Err(ApiError::client("InvalidInstanceID", message));
        }
        match self.interfaces_of(&id).as_slice() {
            [(_, only)] => Ok(only.clone()),
            [] => Err(ApiError::client("InvalidInstanceID", format!("'{id}' has no network interface"))),
            _ => Err(ApiError::client(
                "InvalidInstanceID",
                format!(
                    "There are multiple interfaces attached to instance '{id}'. Please specify an interface \
                     ID for the operation instead."
                ),
            )),
        }
    }

    // ===== packets =====

    /// The target of the longest match. A blackhole wins like any other, and drops.
    pub(super) fn lookup(&self, table: &TableId, destination: Ipv4Addr) -> Option<RouteTarget> {
        let table = self.tables.get(table)?;
        let fixed = table.routes.iter().map(|(cidr, route)| (*cidr, true, route.target.clone()));
        let learned =
            table.propagated.iter().map(|(cidr, at)| (*cidr, false, RouteTarget::Gateway(at.clone())));
        let best = fixed
            .chain(learned)
            .filter(|(cidr, ..)| cidr.contains(&destination))
            .max_by_key(|(cidr, fixed, _)| (cidr.prefix_len(), *fixed));
        let (_, _, target) = best?;
        (self.route_state(&target) == RouteState::Active).then_some(target)
    }

    /// The same of IPv6, of which nothing is learned here.
    pub(super) fn lookup6(&self, table: &TableId, destination: Ipv6Addr) -> Option<RouteTarget> {
        let routes = self.tables.get(table)?.routes6.iter();
        let best =
            routes.filter(|(cidr, _)| cidr.contains(&destination)).max_by_key(|(cidr, _)| cidr.prefix_len());
        let target = best?.1.target.clone();
        (self.route_state(&target) == RouteState::Active).then_some(target)
    }
}

/// Where AWS has services of its own.
fn reserved6() -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0), 32)
}

/// Each family has a quota of its own.
fn insert<N: Copy + Ord + fmt::Display>(
    routes: &mut BTreeMap<N, Route>,
    quota: usize,
    destination: N,
    target: RouteTarget,
) -> Result<(), ApiError> {
    if routes.contains_key(&destination) {
        let message = format!("the route identified by {destination} already exists");
        return Err(ApiError::client("RouteAlreadyExists", message));
    }
    if routes.len() >= quota {
        let message = format!("the maximum number of routes, {quota}, has been reached");
        return Err(ApiError::client("RouteLimitExceeded", message));
    }
    routes.insert(destination, Route { target, origin: Origin::Created });
    Ok(())
}

fn remove<N: Ord + fmt::Display>(
    routes: &mut BTreeMap<N, Route>,
    destination: N,
    table: &TableId,
) -> Result<(), ApiError> {
    match routes.get(&destination) {
        None => Err(ApiError::client(
            "InvalidRoute.NotFound",
            format!("no route with destination-cidr-block {destination} in route table {table}"),
        )),
        Some(route) if route.origin == Origin::Table => {
            Err(ApiError::value(format!("cannot remove local route {destination} in route table {table}")))
        }
        Some(_) => {
            routes.remove(&destination);
            Ok(())
        }
    }
}

fn parse_cidr(destination: &Destination) -> Result<IpNet, ApiError> {
    let wrong = |text: &str, parameter: &str| {
        ApiError::value(format!("value ({text}) for parameter {parameter} is invalid: not a CIDR block"))
    };
    match (&destination.v4, &destination.v6) {
        (None, None) => Err(ApiError::missing("DestinationCidrBlock")),
        (Some(_), Some(_)) => Err(ApiError::combination("exactly one destination is allowed")),
        (Some(text), None) => text.parse().map(IpNet::V4).map_err(|_| wrong(text, "destinationCidrBlock")),
        (None, Some(text)) => {
            text.parse().map(IpNet::V6).map_err(|_| wrong(text, "destinationIpv6CidrBlock"))
        }
    }
}

/// `rtb-` and 8 or 17 hexadecimal digits; other texts are refused before anything is looked up.
fn check_form(text: &str, kind: &str, code: &str) -> Result<(), ApiError> {
    let digits = text.strip_prefix(kind).and_then(|rest| rest.strip_prefix('-')).unwrap_or_default();
    let plain = digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if plain && [8, 17].contains(&digits.len()) {
        return Ok(());
    }
    Err(ApiError::client(code, format!("invalid id: '{text}' (expecting '{kind}-...')")))
}
