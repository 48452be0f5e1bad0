//! Which containers of this host each change of a plan concerns.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::Ipv4Net;

use super::overview::Overview;
use crate::{
    addr::{Address, Range},
    node::persist::memory::Attached,
    plan::{Change, Plan},
    state::{Action, HostAction, Side, Vpc},
};

/// How the canary is called where its link is changed.
const CANARY: &str = "the canary of weavers";

/// Containers by their address, as people call them.
type ByAddress = BTreeMap<Address, String>;

impl Overview<'_> {
    /// The plan with the containers whose packets each change touches. It is worked out for whoever asks, not
    /// at every turn of the loop.
    pub fn with_impact(&self, mut plan: Plan) -> Plan {
        if plan.is_empty() {
            return plan;
        }
        let all = self.local.containers.all().values();
        let name = |one: &Attached| one.label.clone().unwrap_or_else(|| one.short());
        let containers: ByAddress = all.filter_map(|one| Some((one.link_address()?, name(one)))).collect();
        let vpc = self.work.converge.believed();
        let canary = self.local.canary.address();
        for change in &mut plan.changes {
            concerned(change, &containers, vpc.as_deref());
            if change.action.link().is_some_and(|address| Some(address) == canary) {
                change.containers = vec![CANARY.to_owned()];
            }
        }
        plan
    }
}

fn concerned(change: &mut Change, containers: &ByAddress, vpc: Option<&Vpc>) {
    let names = |found: Vec<&String>| found.into_iter().cloned().collect();
    let at = |address: Address| names(containers.get(&address).into_iter().collect());
    let all = || names(containers.values().collect());
    change.containers = match &change.action {
        Action::Ec2(action) => match action.route() {
            Some((table, destination)) => names(carried(containers, vpc, table, destination)),
            None => all(),
        },
        // What answers for a free address: containers have routes of their own.
        Action::Host(HostAction::AddBlock(_) | HostAction::DeleteBlock(_)) => Vec::new(),
        Action::Host(HostAction::SetPorts(ports)) => {
            let led: BTreeSet<Address> = ports.iter().map(|published| published.to).collect();
            names(led.iter().filter_map(|address| containers.get(address)).collect())
        }
        Action::Host(action) => action.link().map_or_else(all, at),
    };
}

/// Those for which the route is the longest match in its table.
fn carried<'a>(
    containers: &'a ByAddress,
    vpc: Option<&Vpc>,
    table: &Side,
    destination: Ipv4Net,
) -> Vec<&'a String> {
    let routes = vpc.and_then(|vpc| vpc.tables.get(table)).map(|table| &table.routes);
    let longer: Vec<Ipv4Net> = routes
        .into_iter()
        .flat_map(BTreeMap::keys)
        .copied()
        .filter(|other| *other != destination && destination.contains(other))
        .collect();
    let Range { start, end } = Range::from(destination);
    containers
        .range(start..end)
        .filter(|(address, _)| !longer.iter().any(|cidr| Range::from(*cidr).contains(**address)))
        .map(|(_, name)| name)
        .collect()
}
