//! The host's part of the plan: set difference, thing by thing.

use std::sync::Arc;

use super::{Change, Conflict, Place, Plan, tunnel};
use crate::{
    addr::Address,
    state::{Forward, Host, HostAction, HostRoutes, Link, Ports},
};

/// Why no container is connected where it is not known which interfaces the rules are to name.
const UNFENCED: &str = "no uplink is known, so no rules can keep containers from this host";

pub(super) fn compare(desired: &Host, actual: &Host, plan: &mut Plan) {
    sysctls(desired, actual, plan);
    rules(desired, actual, plan);
    forward(desired, actual, plan);
    blocks(desired, actual, plan);
    tunnel::set_up(&desired.remote, &actual.remote, plan);
    remote(&desired.remote.routes, &actual.remote.routes, plan);
    tunnel::tear_down(&desired.remote, &actual.remote, plan);
    gateway(desired, actual, plan);
    links(desired, actual, plan);
    ports(desired, actual, plan);
    let foreign = actual.foreign.iter().filter(|(destination, _)| !desired.is_lent(**destination));
    plan.conflicts.extend(foreign.map(|(&destination, target)| Conflict {
        place: Place::Host,
        destination,
        target: target.clone(),
    }));
}

/// How the name ends of the setting by which an interface heeds router advertisements.
const HEEDS_ROUTERS: &str = ".accept_ra";

/// Before a host forwards IPv6 its interfaces are told to heed routers all the same, or it loses its default route.
/// What does not exist, as a setting of an interface that is not there, cannot be set.
fn sysctls(desired: &Host, actual: &Host, plan: &mut Plan) {
    let (first, then): (Vec<_>, Vec<_>) =
        desired.sysctls.iter().partition(|(name, _)| name.ends_with(HEEDS_ROUTERS));
    for (name, value) in first.into_iter().chain(then) {
        if let Some(found) = actual.sysctls.get(name).filter(|found| *found != value) {
            let action = HostAction::SetSysctl { name: name.clone(), value: value.clone() };
            plan.push(action, found.clone(), "containers need it");
        }
    }
}

fn rules(desired: &Host, actual: &Host, plan: &mut Plan) {
    match (&desired.rules, &actual.rules) {
        (Some(rules), None) => plan.push(HostAction::LoadRules(rules.clone()), "", "missing or changed"),
        (Some(rules), Some(found)) if rules != found => {
            plan.push(HostAction::LoadRules(rules.clone()), "another ruleset", "configuration");
        }
        (None, Some(_)) => plan.push(HostAction::DeleteRules, "ruleset", "no longer wanted"),
        (Some(_), Some(_)) | (None, None) => {}
    }
}

fn forward(desired: &Host, actual: &Host, plan: &mut Plan) {
    match (&desired.rules, &actual.forward) {
        (Some(rules), Forward::Closed(chain)) => {
            let range = desired.lent_range();
            let action = HostAction::OpenForward {
                uplinks: rules.uplinks.clone(),
                range,
                has_v6: rules.prefix.is_some(),
            };
            plan.push(action, chain.clone(), "it drops what containers send and receive");
        }
        (None, Forward::Opened(chain)) => {
            plan.push(HostAction::CloseForward, chain.clone(), "no longer wanted")
        }
        (
            _,
            Forward::Open
            | Forward::Opened(_)
            | Forward::Closed(_)
            | Forward::Foreign(_)
            | Forward::Unread(_),
        ) => {}
    }
}

fn blocks(desired: &Host, actual: &Host, plan: &mut Plan) {
    for &block in desired.blocks.difference(&actual.blocks) {
        plan.push(HostAction::AddBlock(block), "", "owned here");
    }
    for &block in actual.blocks.difference(&desired.blocks) {
        plan.push(HostAction::DeleteBlock(block), "unreachable", "no longer owned as this CIDR");
    }
}

/// A route that leads elsewhere is replaced in place, so that no packet falls between two.
fn remote(desired: &HostRoutes, actual: &HostRoutes, plan: &mut Plan) {
    for (&destination, hop) in desired {
        let found = actual.get(&destination);
        if found != Some(hop) {
            let before = found.map_or_else(String::new, ToString::to_string);
            let action = HostAction::AddHostRoute { destination, hop: hop.clone() };
            plan.push(action, before, "owned by the host that is there");
        }
    }
    for (&destination, hop) in actual.iter().filter(|(destination, _)| !desired.contains_key(destination)) {
        let action = HostAction::DeleteHostRoute { destination, hop: hop.clone() };
        plan.push(action, hop.to_string(), "no longer owned there, or reached by another path");
    }
}

fn gateway(desired: &Host, actual: &Host, plan: &mut Plan) {
    match (desired.gateway, actual.gateway) {
        (true, false) => plan.push(HostAction::AddGateway, "", "containers ask for its MAC address"),
        (false, true) => plan.push(HostAction::DeleteGateway, "lo", "no longer wanted"),
        (true, true) | (false, false) => {}
    }
}

fn links(desired: &Host, actual: &Host, plan: &mut Plan) {
    // Rules that name no uplink fence nothing.
    let fenced = desired.rules.as_ref().is_some_and(|rules| !rules.uplinks.is_empty());
    let mut found = actual.links.iter().peekable();
    let mut unwanted = Vec::new();
    for (&address, wanted) in desired.links.iter() {
        while let Some((&other, _)) = found.next_if(|(other, _)| **other < address) {
            unwanted.push(other);
        }
        let found = found.next_if(|(other, _)| **other == address).map(|(_, link)| link);
        // Of a thousand links most were found to be the very thing that is wanted.
        if found.is_some_and(|found| Arc::ptr_eq(found, wanted)) {
            continue;
        }
        let Some(change) = link(address, wanted, found.map(|found| &**found)) else { continue };
        match fenced {
            _ if actual.gone.contains(&address) => {}
            true => plan.changes.push(change),
            false => plan.refused.push(Change { cause: UNFENCED.into(), ..change }),
        }
    }
    for address in unwanted.into_iter().chain(found.map(|(&address, _)| address)) {
        plan.push(HostAction::DeleteLink(address), "link", "no container attached to it");
    }
}

/// A table that fails to load leaves the rules that guard containers as they are: it is another one.
fn ports(desired: &Host, actual: &Host, plan: &mut Plan) {
    match (&desired.ports, &actual.ports) {
        (Some(ports), found) if Some(ports) != found.as_ref() => {
            let before = if found.is_some() { "other ports" } else { "" };
            plan.push(HostAction::SetPorts(ports.clone()), before, "published");
        }
        (None, Some(_)) => plan.push(HostAction::SetPorts(Ports::new()), "ports", "no longer wanted"),
        (Some(_), _) | (None, None) => {}
    }
}

/// The host's end alone, where a runtime has the other.
fn pair(address: Address, wanted: &Link, found: Option<&Link>) -> Option<Change> {
    let Link { mtu, prefix, .. } = *wanted;
    let make = || HostAction::MakePair { address, mtu, prefix, far: wanted.far.clone() };
    match found {
        None => Some(Change::new(make(), "", "attached")),
        Some(found) if found.mtu == wanted.mtu && found.faults.is_empty() => None,
        Some(found) => Some(Change::new(make(), "link", faults(found, wanted).join(", "))),
    }
}

fn faults(found: &Link, wanted: &Link) -> Vec<String> {
    let mut faults = found.faults.clone();
    if found.mtu != wanted.mtu {
        faults.insert(0, format!("mtu {} -> {}", found.mtu, wanted.mtu));
    }
    faults
}

fn link(address: Address, wanted: &Link, found: Option<&Link>) -> Option<Change> {
    if wanted.far.moved {
        return pair(address, wanted, found);
    }
    let netns = wanted.netns.as_ref()?;
    let is_elsewhere = |found: &Link| found.netns.as_ref().is_some_and(|other| !other.is_same(netns));
    let Link { mtu, range, prefix, .. } = *wanted;
    let (far, netns) = (|| wanted.far.clone(), || netns.clone());
    let create = || HostAction::CreateLink { address, netns: netns(), mtu, range, prefix, far: far() };
    match found {
        None => Some(Change::new(create(), "", "attached")),
        Some(found) if is_elsewhere(found) => {
            Some(Change::new(create(), "link into another namespace", "attached"))
        }
        Some(found) if found.mtu == mtu && found.faults.is_empty() => None,
        Some(found) => {
            let mend = HostAction::MendLink { address, netns: netns(), mtu, range, prefix, far: far() };
            Some(Change::new(mend, "link", faults(found, wanted).join(", ")))
        }
    }
}
