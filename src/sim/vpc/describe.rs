//! Answers to describe calls: tables and instances as EC2 shows them.

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::{
    Answer, ApiError, Find, GroupId, InstanceId, Origin, Power, RouteTarget, State, SubnetId, Table, filter,
};
use crate::state::{InterfaceId, RouteState, TableId};

const TABLES_PAGE_MAX: usize = 100;
const INSTANCES_PAGE_MAX: usize = 1000;

/// A route table as DescribeRouteTables shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields are EC2's.
pub struct TableView {
    pub id: TableId,
    pub vpc_id: String,
    pub owner: String,
    pub associations: Vec<Association>,
    pub routes: Vec<RouteView>,
    pub routes6: Vec<RouteView<Ipv6Net>>,
    pub tags: BTreeMap<String, String>,
}

/// What a table is associated with. A subnet that is on the main table by implication has none.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields are EC2's.
pub struct Association {
    pub id: String,
    pub main: bool,
    pub subnet: Option<SubnetId>,
    pub gateway: Option<String>,
}

/// A route as DescribeRouteTables shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields are EC2's.
pub struct RouteView<N = Ipv4Net> {
    pub destination: N,
    pub target: RouteTarget,
    /// The instance that the target interface is attached to.
    pub instance: Option<InstanceId>,
    pub origin: Origin,
    pub state: RouteState,
}

/// An instance as DescribeInstances shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields are EC2's.
pub struct InstanceView {
    pub id: InstanceId,
    pub power: Power,
    pub interfaces: Vec<InterfaceView>,
    pub tags: BTreeMap<String, String>,
}

/// An interface of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields are EC2's.
pub struct InterfaceView {
    pub id: InterfaceId,
    pub device: u32,
    pub subnet: SubnetId,
    pub zone: String,
    pub address: Ipv4Addr,
    pub source_dest_check: bool,
    pub groups: Vec<GroupId>,
}

/// The DNS name that a VPC gives to a private address.
pub fn private_dns_name(address: Ipv4Addr, region: &str) -> String {
    let [a, b, c, d] = address.octets();
    let domain =
        if region == "us-east-1" { "ec2.internal".to_owned() } else { format!("{region}.compute.internal") };
    format!("ip-{a}-{b}-{c}-{d}.{domain}")
}

impl State {
    pub(super) fn describe_tables(&self, find: &Find) -> Result<Answer, ApiError> {
        filter::check(find)?;
        let named = find.ids.iter().map(|id| self.known_table(id)).collect::<Result<Vec<_>, _>>()?;
        let mut found = Vec::new();
        for (id, table) in &self.tables {
            let view = self.view_table(id, table);
            if (named.is_empty() || named.contains(id)) && table_passes(&view, find)? {
                found.push(view);
            }
        }
        let (tables, next_token) = filter::page(found, find, TABLES_PAGE_MAX)?;
        Ok(Answer::Tables { tables, next_token })
    }

    pub(super) fn describe_instances(&self, find: &Find) -> Result<Answer, ApiError> {
        filter::check(find)?;
        if !find.ids.is_empty() && find.max_results.is_some() {
            return Err(ApiError::combination("instance ids and maxResults do not go together"));
        }
        let named = find.ids.iter().map(|id| self.known_instance(id)).collect::<Result<Vec<_>, _>>()?;
        let mut found = Vec::new();
        for id in self.instances.keys() {
            let view = self.view_instance(id);
            if (named.is_empty() || named.contains(id)) && self.instance_passes(&view, find)? {
                found.push(view);
            }
        }
        let (instances, next_token) = filter::page(found, find, INSTANCES_PAGE_MAX)?;
        Ok(Answer::Instances { instances, next_token })
    }

    fn view_table(&self, id: &TableId, table: &Table) -> TableView {
        let suffix = id.0.trim_start_matches("rtb-");
        let association = |name: String| Association { id: name, main: false, subnet: None, gateway: None };
        let mut associations = Vec::new();
        if *id == self.main {
            associations.push(Association { main: true, ..association(format!("rtbassoc-{suffix}")) });
        }
        for (subnet, _) in self.subnets.iter().filter(|(_, subnet)| subnet.table.as_ref() == Some(id)) {
            let name = format!("rtbassoc-{}", subnet.0.trim_start_matches("subnet-"));
            associations.push(Association { subnet: Some(subnet.clone()), ..association(name) });
        }
        if let Some(gateway) = &table.edge {
            let name = format!("rtbassoc-{suffix}");
            associations.push(Association { gateway: Some(gateway.clone()), ..association(name) });
        }
        TableView {
            id: id.clone(),
            vpc_id: self.vpc_id.clone(),
            owner: self.account.clone(),
            associations,
            routes: self.view_routes(table),
            routes6: self.view_routes6(table),
            tags: table.tags.clone(),
        }
    }

    pub(super) fn view_routes(&self, table: &Table) -> Vec<RouteView> {
        let fixed = table.routes.iter().map(|(cidr, route)| (*cidr, route.target.clone(), route.origin));
        let learned = table
            .propagated
            .iter()
            .map(|(cidr, gateway)| (*cidr, RouteTarget::Gateway(gateway.clone()), Origin::Propagated));
        fixed.chain(learned).map(|(cidr, target, origin)| self.view_route(cidr, target, origin)).collect()
    }

    pub(super) fn view_routes6(&self, table: &Table) -> Vec<RouteView<Ipv6Net>> {
        let routes = table.routes6.iter();
        routes.map(|(cidr, route)| self.view_route(*cidr, route.target.clone(), route.origin)).collect()
    }

    fn view_route<N>(&self, destination: N, target: RouteTarget, origin: Origin) -> RouteView<N> {
        let (instance, state) = (self.instance_behind(&target), self.route_state(&target));
        RouteView { instance, state, destination, target, origin }
    }

    fn instance_behind(&self, target: &RouteTarget) -> Option<InstanceId> {
        let RouteTarget::Interface(interface) = target else { return None };
        self.interfaces.get(interface)?.attached.as_ref().map(|(instance, _)| instance.clone())
    }

    fn view_instance(&self, id: &InstanceId) -> InstanceView {
        let instance = &self.instances[id];
        let interfaces = self.interfaces_of(id).into_iter().map(|(device, interface)| {
            let record = &self.interfaces[&interface];
            InterfaceView {
                id: interface,
                device,
                subnet: record.subnet.clone(),
                zone: self.subnets.get(&record.subnet).map(|s| s.zone.clone()).unwrap_or_default(),
                address: record.address,
                source_dest_check: record.source_dest_check,
                groups: record.groups.clone(),
            }
        });
        InstanceView {
            id: id.clone(),
            power: instance.power,
            interfaces: interfaces.collect(),
            tags: instance.tags.clone(),
        }
    }

    fn instance_passes(&self, view: &InstanceView, find: &Find) -> Result<bool, ApiError> {
        let first = view.interfaces.first();
        let of_first = |get: &dyn Fn(&InterfaceView) -> String| first.map(get).into_iter().collect();
        let of_all = |get: &dyn Fn(&InterfaceView) -> String| view.interfaces.iter().map(get).collect();
        let mut passes = true;
        for (name, patterns) in &find.filters {
            let values: Vec<String> = match name.as_str() {
                "instance-id" => vec![view.id.to_string()],
                "instance-state-name" => vec![power_name(view.power).to_owned()],
                "vpc-id" => of_first(&|_| self.vpc_id.clone()),
                "subnet-id" => of_first(&|i| i.subnet.to_string()),
                "availability-zone" => of_first(&|i| i.zone.clone()),
                "private-ip-address" => of_first(&|i| i.address.to_string()),
                "private-dns-name" => of_first(&|i| private_dns_name(i.address, &self.region)),
                "source-dest-check" => of_first(&|i| i.source_dest_check.to_string()),
                "network-interface.network-interface-id" => of_all(&|i| i.id.to_string()),
                "network-interface.addresses.private-ip-address" => of_all(&|i| i.address.to_string()),
                "network-interface.source-dest-check" => of_all(&|i| i.source_dest_check.to_string()),
                "network-interface.subnet-id" => of_all(&|i| i.subnet.to_string()),
                _ => tag_values(name, &view.tags)?,
            };
            passes &= filter::matches(patterns, &values);
        }
        Ok(passes)
    }
}

fn table_passes(view: &TableView, find: &Find) -> Result<bool, ApiError> {
    let of_associations = |get: &dyn Fn(&Association) -> Option<String>| -> Vec<String> {
        view.associations.iter().filter_map(get).collect()
    };
    let of_routes = |get: &dyn Fn(&RouteView) -> Option<String>| -> Vec<String> {
        view.routes.iter().filter_map(get).collect()
    };
    let mut passes = true;
    for (name, patterns) in &find.filters {
        let values = match name.as_str() {
            "route-table-id" => vec![view.id.to_string()],
            "vpc-id" => vec![view.vpc_id.clone()],
            "owner-id" => vec![view.owner.clone()],
            "association.main" => of_associations(&|a| Some(a.main.to_string())),
            "association.subnet-id" => of_associations(&|a| a.subnet.as_ref().map(|id| id.to_string())),
            "association.gateway-id" => of_associations(&|a| a.gateway.clone()),
            "association.route-table-association-id" => of_associations(&|a| Some(a.id.clone())),
            "association.route-table-id" => of_associations(&|_| Some(view.id.to_string())),
            "route.destination-cidr-block" => of_routes(&|r| Some(r.destination.to_string())),
            "route.destination-ipv6-cidr-block" => {
                view.routes6.iter().map(|route| route.destination.to_string()).collect()
            }
            "route.instance-id" => of_routes(&|r| r.instance.as_ref().map(|id| id.to_string())),
            "route.origin" => of_routes(&|r| Some(r.origin.name().to_owned())),
            "route.state" => of_routes(&|r| Some(state_name(r.state).to_owned())),
            "route.gateway-id" => of_routes(&|r| match &r.target {
                RouteTarget::Local => Some("local".to_owned()),
                RouteTarget::Gateway(gateway) => Some(gateway.clone()),
                RouteTarget::Interface(_) => None,
            }),
            _ => tag_values(name, &view.tags)?,
        };
        passes &= filter::matches(patterns, &values);
    }
    Ok(passes)
}

fn tag_values(filter: &str, tags: &BTreeMap<String, String>) -> Result<Vec<String>, ApiError> {
    match filter.strip_prefix("tag:") {
        Some(key) => Ok(tags.get(key).cloned().into_iter().collect()),
        None if filter == "tag-key" => Ok(tags.keys().cloned().collect()),
        None => Err(filter::unknown(filter)),
    }
}

/// EC2's name for a route's state.
pub fn state_name(state: RouteState) -> &'static str {
    match state {
        RouteState::Active => "active",
        RouteState::Blackhole => "blackhole",
        RouteState::Other => "filtered",
    }
}

/// EC2's name for an instance's state.
pub fn power_name(power: Power) -> &'static str {
    match power {
        Power::Running => "running",
        Power::Stopped => "stopped",
        Power::Terminated => "terminated",
    }
}
