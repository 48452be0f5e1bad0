//! What must hold after each step.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use ipnet::Ipv4Net;

use super::{
    cloud::Written,
    machine::Power,
    vpc::{RouteTarget, SubnetId},
    world::World,
};
use crate::{
    addr::{Address, Family, Range},
    node::{Node, persist::memory::Write},
    peer::PeerName,
    state::{Ec2Action, Fault, InterfaceId, RouteState, Side, Target, Vpc},
    time::Timestamp,
};

/// Reads begun after a write that have to deny it before it is repeated.
const DENIALS: u8 = 2;

/// How often a node may be woken in a second.
const WAKES_MAX: u32 = 500;

impl World {
    // ===== after each answer =====

    /// Whoever is told of an address finds it again after a crash.
    pub(super) fn check_on_disk(&mut self, host: usize, ident: &str, address: Address) {
        let record = crate::ipam::Record::Allocation { ident: ident.to_owned(), addresses: Vec::new() };
        let Write { key, .. } = Write::ipam(&record);
        let disk = &self.machines[host].disk.now;
        let kept: Option<Vec<Ipv4Net>> = disk.get(&key).and_then(|value| serde_json::from_slice(value).ok());
        let kept = kept.unwrap_or_default().iter().any(|net| Address::from(net.addr()) == address);
        if !kept {
            self.violate(format!("host {host} acknowledged {address} to {ident} before it was on disk"));
        }
    }

    // ===== after each step =====

    /// All that must hold at any moment.
    pub(super) fn check_all(&mut self) {
        self.check_rings();
        self.check_votes();
        self.check_decisions();
        self.check_allocations();
        self.check_promises();
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = (usize, &Node)> {
        self.machines.iter().enumerate().filter_map(|(host, machine)| Some((host, machine.node.as_ref()?)))
    }

    fn check_rings(&mut self) {
        let mut broken = None;
        let mut owned: Vec<(Range, usize)> = Vec::new();
        let mut seeds: Option<&[PeerName]> = None;
        for (host, node) in self.nodes().filter(|(_, node)| !node.overview().ring().is_empty()) {
            let ring = node.overview().ring();
            if let Err(error) = ring.check() {
                broken = Some(format!("the ring of host {host}: {error}"));
            }
            if *seeds.get_or_insert(ring.seeds()) != ring.seeds() {
                broken = Some(format!("host {host} has the ring of another election: {:?}", ring.seeds()));
            }
            if self.machines[host].until.unaware > self.now {
                continue;
            }
            // What was taken over rests until everybody else was heard on it.
            let rests =
                |piece: Range| node.overview().quarantined().iter().any(|range| range.overlaps(piece));
            let pieces = ring.pieces().filter(|(_, entry)| entry.owner == self.machines[host].name);
            owned.extend(pieces.filter(|(piece, _)| !rests(*piece)).map(|(piece, _)| (piece, host)));
        }
        owned.sort();
        for pair in owned.windows(2) {
            if let [(one, by), (other, also)] = pair
                && one.overlaps(*other)
            {
                broken = Some(format!("{one} of host {by} and {other} of host {also} overlap"));
            }
        }
        broken.into_iter().for_each(|broken| self.violate(broken));
    }

    /// What anybody knows an elector to have promised is on that elector's disk.
    fn check_votes(&mut self) {
        if self.nodes().all(|(_, node)| !node.overview().ring().is_empty()) {
            return;
        }
        let mut broken = None;
        for (host, _) in self.nodes() {
            let (elector, saved) = (self.machines[host].acceptor, self.machines[host].saved_claims());
            for (other, node) in self.nodes().filter(|(other, _)| *other != host) {
                let Some(told) = node.overview().claims().get(&elector) else { continue };
                if told.promise > saved.promise || told.accepted > saved.accepted {
                    broken =
                        Some(format!("host {host} told host {other} {told:?} and has {saved:?} on disk"));
                }
            }
        }
        broken.into_iter().for_each(|broken| self.violate(broken));
    }

    /// Whoever knows of as many decisions knows of the same electors, also where an elector's disk was set back.
    fn check_decisions(&mut self) {
        let mut electors: BTreeMap<u64, &BTreeSet<PeerName>> = BTreeMap::new();
        let mut broken = None;
        for (host, log) in self.nodes().filter_map(|(host, node)| Some((host, node.overview().decided()?))) {
            let first = electors.entry(log.next()).or_insert(log.electors());
            if *first != log.electors() {
                broken = Some(format!(
                    "after {} decisions host {host} has {log:?}, another {first:?}",
                    log.next()
                ));
            }
        }
        broken.into_iter().for_each(|broken| self.violate(broken));
    }

    fn check_allocations(&mut self) {
        let range = Range::from(self.climate.range);
        let mut holders: BTreeMap<Address, (usize, &str)> = BTreeMap::new();
        let mut twice = None;
        for (host, node) in self.nodes() {
            for (ident, net) in
                node.overview().allocations().iter().flat_map(|(i, nets)| nets.iter().map(move |n| (i, n)))
            {
                if self.machines[host].untidy && !self.users.knows(host, ident) {
                    continue;
                }
                let address = Address::from(net.addr());
                if let Some(other) =
                    holders.insert(address, (host, ident)).filter(|_| range.contains(address))
                {
                    twice = Some(format!("{address} is held by {other:?} and by {:?}", (host, ident)));
                }
            }
        }
        twice.into_iter().for_each(|twice| self.violate(twice));
    }

    fn check_promises(&mut self) {
        let range = Range::from(self.climate.range);
        let mut lost = None;
        for ((host, ident), promise) in &self.users.promises {
            let machine = &self.machines[*host];
            let Some(node) = &machine.node else { continue };
            if machine.until.calm > self.now {
                continue;
            }
            let held = node.overview().allocations().get(ident).into_iter().flatten();
            let address = promise.address;
            if !held.into_iter().any(|net| Address::from(net.addr()) == address) {
                lost = Some(format!("host {host} lost {address}, which it acknowledged to {ident}"));
            }
            let owner = node.overview().ring().owner(address);
            // One that lost its store may not have heard of the ring yet.
            let alone = node.overview().reachable().iter().all(|peer| *peer == machine.name);
            let unheard = node.overview().ring().is_empty() || alone && ident.starts_with("found-");
            if range.contains(address) && owner != Some(machine.name) && !unheard {
                lost =
                    Some(format!("{address} of {ident} of host {host} belongs to {owner:?} by its own ring"));
            }
        }
        lost.into_iter().for_each(|lost| self.violate(lost));
    }

    /// A node that is woken again and again does nothing else.
    pub(super) fn check_wakes(&mut self, host: usize) {
        let (since, wakes) = &mut self.machines[host].clock.wakes;
        if self.now.since(*since) > Duration::from_secs(1) {
            (*since, *wakes) = (self.now, 0);
        }
        *wakes += 1;
        if *wakes > WAKES_MAX {
            let status = self.machines[host].node.as_ref().map(|node| node.status());
            let status = status.map(|status| (status.waits, status.problems));
            self.violate(format!("host {host} was woken {WAKES_MAX} times in a second: {status:?}"));
        }
    }

    // ===== before each write to EC2 =====

    /// Every destination has one writer, and a write is not repeated while EC2 may not show it yet.
    pub(super) fn check_write(&mut self, host: usize, action: &Ec2Action) {
        let Some((table, destination)) = action.route().map(|(table, to)| (table.clone(), to)) else {
            return;
        };
        let known = self.routes.written.get(&(host, table.clone(), destination));
        if known.is_some_and(|written| written.action == *action && written.denials < DENIALS) {
            self.violate(format!("host {host} repeats a write that EC2 acknowledged: {action}"));
        }
        let Some(node) = &self.machines[host].node else { return };
        let me = self.machines[host].name;
        let owners: Vec<PeerName> = node
            .overview()
            .ring()
            .owners()
            .into_iter()
            .filter(|(piece, _)| piece.overlaps(destination.into()))
            .map(|(_, owner)| owner)
            .collect();
        let whole = owners.iter().all(|owner| *owner == me) && !owners.is_empty();
        let foreign = !owners.is_empty() && owners.iter().all(|owner| *owner == owners[0] && *owner != me);
        let first = owners.first() == Some(&me);
        let allowed = match action {
            Ec2Action::DeleteRoute { .. } => {
                !foreign && (whole || first || self.is_holder(host, &table, destination))
            }
            Ec2Action::ReplaceRoute { .. } => whole || first && self.is_dead(host, &table, destination),
            _ => first,
        };
        if !allowed {
            self.violate(format!(
                "host {host} ({me}) is not the writer of {destination}: {action}; owners {owners:?}"
            ));
        }
    }

    /// The writer of a destination that covers several owners is the owner of its first address; its holder only while it leaves.
    fn is_holder(&self, host: usize, side: &Side, destination: Ipv4Net) -> bool {
        let Some((target, _)) = self.route_at(side, destination) else { return true };
        let ours = RouteTarget::Interface(self.machines[host].cloud.interface.clone());
        target == ours || self.routes.tampered.contains(&destination)
    }

    fn route_at(&self, side: &Side, destination: Ipv4Net) -> Option<(RouteTarget, RouteState)> {
        match side.family {
            Family::V4 => {
                let mut routes = self.vpc.routes(&side.table).into_iter();
                routes.find(|route| route.destination == destination).map(|route| (route.target, route.state))
            }
            Family::V6(prefix) => {
                let mut routes = self.vpc.routes6(&side.table).into_iter();
                let route = routes.find(|route| route.destination == prefix.cidr(destination));
                route.map(|route| (route.target, route.state))
            }
        }
    }

    /// Whether a route leads nowhere, or did when this host last looked. Its target may be back since; EC2 has no write on a condition.
    fn is_dead(&self, host: usize, side: &Side, destination: Ipv4Net) -> bool {
        let now = self.route_at(side, destination);
        let tables = self.machines[host].node.as_ref().map(|node| node.status().tables).unwrap_or_default();
        let read = tables.get(side).and_then(|table| table.routes.get(&destination));
        read.is_some_and(|route| route.state == RouteState::Blackhole)
            || now.is_none_or(|(_, state)| state == RouteState::Blackhole)
    }

    pub(super) fn learn_what_was_written(
        &mut self,
        host: usize,
        action: &Ec2Action,
        outcome: &Result<Option<String>, Fault>,
    ) {
        if let (Ok(_), Some((table, destination))) = (outcome, action.route()) {
            let written = Written { action: action.clone(), at: self.now, denials: 0 };
            self.routes.written.insert((host, table.clone(), destination), written);
        }
    }

    pub(super) fn learn_what_was_read(&mut self, host: usize, begun: Timestamp, seen: &Result<Vpc, Fault>) {
        let Ok(vpc) = seen else { return };
        self.routes.looked.insert(host, begun);
        self.routes.written.retain(|(of, table, destination), written| {
            if *of != host {
                return true;
            }
            let Some(table) = vpc.side(table) else { return false };
            let shown = table.routes.get(destination).map(|route| &route.target);
            let agrees = match &written.action {
                Ec2Action::DeleteRoute { .. } => shown.is_none(),
                _ => matches!(shown, Some(Target::Interface(found)) if *found == vpc.interface),
            };
            written.denials += u8::from(!agrees && begun >= written.at);
            !agrees
        });
    }

    /// Whether an address is another's by what this host knows. Of its own it may not know yet that another uses one.
    pub(super) fn knows_as_anothers(&self, host: usize, address: Address) -> bool {
        let ring = self.machines[host].node.as_ref().map(|node| node.overview().ring());
        ring.is_none_or(|ring| ring.owner(address) != Some(self.machines[host].name))
    }

    /// The addresses in this destination on which somebody relies and whose packets arrive, from each subnet; none in a world with
    /// troubles, where a call may still be under way as what it concerns is given away.
    pub(super) fn arriving(&self, destination: Ipv4Net) -> BTreeSet<(usize, SubnetId, Address)> {
        if !self.climate.trouble_every.is_zero() {
            return BTreeSet::new();
        }
        let alive = self.machines.iter().filter(|machine| machine.power != Power::Terminated);
        let senders = alive.filter_map(|machine| {
            let interface = &machine.cloud.interface;
            Some((self.vpc.interfaces().get(interface)?.subnet.clone(), interface))
        });
        let senders: BTreeMap<SubnetId, &InterfaceId> = senders.collect();
        let inside = |address: Address| destination.contains(&Ipv4Addr::from(address));
        let promised = self.users.promises.iter().filter(|(_, promise)| inside(promise.address));
        let source = Ipv4Addr::from(Range::from(self.climate.range).start);
        let mut arriving = BTreeSet::new();
        for ((host, _), promise) in promised {
            let right = &self.machines[*host].cloud.interface;
            for (subnet, from) in &senders {
                if self.vpc.forward(from, source, promise.address.into()).as_ref() == Some(right) {
                    arriving.insert((*host, subnet.clone(), promise.address));
                }
            }
        }
        arriving
    }
}
