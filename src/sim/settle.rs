//! What must hold once all is quiet.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use ipnet::Ipv4Net;

use super::{
    machine::Power,
    vpc::{RouteTarget, SubnetId},
    world::World,
};
use crate::{
    addr::{Address, Range},
    node::{
        Node, WRITES_AN_HOUR,
        protocol::status::{PathState, ProbeStatus},
    },
    peer::PeerName,
    state::{InterfaceId, RouteState, TableId},
    time::Timestamp,
};

/// How long a world may take to settle once all is well, but for the time that its hosts wait for two looks at their route tables.
const SETTLE_MAX: Duration = Duration::from_secs(210);
/// How long it is watched afterwards.
const WATCH: Duration = Duration::from_secs(35);
/// The longest time between two looks of a host at its route tables when nothing happens.
const LOOK_MAX: Duration = Duration::from_secs(35);
/// How long a look does not count after ranges have changed hands.
const RESTLESS: Duration = Duration::from_secs(15);
/// How long a block rests whose addresses were freed, and until it has moved then.
const RESTS: Duration = Duration::from_secs(75);
/// From so many hosts on they look more seldom the more they are, and never further apart than this for each of them.
const LARGE: u32 = 20;
const LOOK_SHARE_MAX: Duration = Duration::from_millis(7200);
const STEP: Duration = Duration::from_secs(5);
/// When dead hosts are forgotten: what they gave away is known by then.
const FORGET_AFTER: Duration = Duration::from_secs(40);

/// The longest time between two looks of a host at its route tables, where so many look.
fn longest_between_looks(hosts: u32) -> Duration {
    if hosts < LARGE { LOOK_MAX } else { LOOK_SHARE_MAX * hosts }
}

impl World {
    /// All must be as it should within a bound, and then stay so without a call that changes anything.
    pub(super) fn settle_down(&mut self) {
        let begun = self.now;
        let look_max = longest_between_looks(self.machines.len() as u32);
        let settle_max = SETTLE_MAX + 2 * look_max;
        let deadline = begun + settle_max;
        let mut settled_at: Option<Timestamp> = None;
        loop {
            let before = self.writes();
            self.run_until(self.now + STEP);
            // What one host wrote may give another, or itself after a while, something to do.
            settled_at = settled_at.filter(|_| self.writes() == before);
            self.check_all();
            if self.journal.violation.is_some() {
                return;
            }
            let stuck = (0..self.machines.len()).find(|&host| self.has_turn(host));
            let stuck = stuck.is_some_and(|host| self.most_electors_are_dead(host));
            if self.now >= begun + FORGET_AFTER {
                self.keep_somebody();
                self.make_room();
                self.forget_all(self.left_to_people(stuck));
                self.forget_claimants();
            }
            let unsettled = self.unsettled();
            let is_settled = unsettled.is_none() && self.now >= begun + FORGET_AFTER;
            settled_at = settled_at.or(Some(self.now)).filter(|_| is_settled);
            if let Some(why) = unsettled.filter(|_| self.now >= deadline) {
                return self.violate(format!("not settled {settle_max:?} after all was made well: {why}"));
            }
            let Some(settled_at) = settled_at else { continue };
            match self.who_has_not_looked_since(settled_at + RESTLESS) {
                None if self.now >= settled_at + RESTS => break,
                Some(host) if self.now >= settled_at + RESTLESS + look_max + STEP => {
                    return self.violate(format!("host {host} does not look at its route tables"));
                }
                None | Some(_) => {}
            }
        }
        // Whoever has few writes left to have fewer routes has more after a while.
        let node = |host: usize| self.machines[host].node.as_ref();
        let left = |host: &usize| node(*host).map_or(0, |node| node.overview().writes_left());
        let is_done = |host: &usize| left(host) > WRITES_AN_HOUR / 2;
        self.watched = (0..self.machines.len()).filter(is_done).collect();
        self.run_until(self.now + WATCH);
        self.check_all();
        if let Some(why) = self.unsettled() {
            self.violate(format!("settled, and then not any more: {why}"));
        }
    }

    /// Where all who live are leaving nobody is left to take over from the dead: people start one of them again, as it tells them to.
    fn keep_somebody(&mut self) {
        let is_left = |host: usize| self.machines[host].power == Power::Terminated && !self.is_buried(host);
        let all_leave = self.nodes().all(|(_, node)| node.overview().has_left());
        let first = self.nodes().next().map(|(host, _)| host);
        if let Some(first) = first.filter(|_| all_leave && (0..self.machines.len()).any(is_left)) {
            self.crash(first, Duration::ZERO);
        }
    }

    /// A host on EC2 that may find something to do when it looks at its route tables next.
    fn who_has_not_looked_since(&self, calm_from: Timestamp) -> Option<usize> {
        let looks = |host: &usize| {
            let machine = &self.machines[*host];
            machine.power != Power::Terminated && machine.is_on_ec2()
        };
        let has_not = |host: &usize| self.routes.looked.get(host).is_none_or(|begun| *begun < calm_from);
        (0..self.machines.len()).filter(looks).find(has_not)
    }

    /// The dead that hosts do not clean up by themselves: all where they must not or cannot agree, and those that never told
    /// anybody on which instance they run.
    fn left_to_people(&self, stuck: bool) -> Vec<usize> {
        let all = stuck || self.climate.reclaim.is_none();
        let is_known = |name| self.nodes().any(|(_, node)| node.overview().instance_of(name).is_some());
        let dead = self.machines.iter().enumerate().filter(|(_, machine)| machine.power == Power::Terminated);
        dead.filter(|(_, machine)| all || !is_known(machine.name)).map(|(host, _)| host).collect()
    }

    /// Calls so far that change something in EC2.
    fn writes(&self) -> u64 {
        self.vpc.calls().iter().filter(|(action, _)| action.mutates()).map(|(_, count)| count).sum()
    }

    /// What is not yet as it should be.
    fn unsettled(&self) -> Option<String> {
        let alive = |host: &usize| self.machines[*host].power != Power::Terminated;
        let hosts: Vec<usize> = (0..self.machines.len()).filter(alive).collect();
        for &host in &hosts {
            let Some(node) = &self.machines[host].node else { return Some(format!("host {host} is down")) };
            if !node.overview().is_converged_but_for_paths() {
                let status = node.status();
                return Some(format!(
                    "host {host} is not converged: waits {:?}, problems {:?}, plan {:?}",
                    status.waits,
                    status.problems,
                    node.overview().plan()
                ));
            }
            if !node.overview().plan().changes.is_empty() || !node.overview().plan().conflicts.is_empty() {
                return Some(format!("host {host} has a plan: {:?}", node.overview().plan()));
            }
        }
        if let Some(dead) = (0..self.machines.len()).find(|host| !alive(host) && !self.is_buried(*host)) {
            let known = |(host, node): (usize, &Node)| {
                (host, node.overview().decided().cloned(), node.status().problems)
            };
            let known: Vec<_> = self.nodes().map(known).collect();
            let dead = (dead, self.machines[dead].name);
            return Some(format!("{dead:?} is dead and nobody has taken over from it: {known:?}"));
        }
        if let Some((host, node)) = self.nodes().find(|(_, node)| !node.overview().quarantined().is_empty()) {
            let (resting, waits) = (node.overview().quarantined(), node.status().waits);
            return Some(format!("host {host} does not use yet what it took over: {resting:?}: {waits:?}"));
        }
        self.unmoved(&hosts)
            .or_else(|| self.unheard(&hosts))
            .or_else(|| self.disagreeing(&hosts))
            .or_else(|| self.astray(&hosts))
            .or_else(|| self.misled(&hosts))
            .or_else(|| self.too_many_host_routes(&hosts))
            .or_else(|| self.unlinked())
            .or_else(|| self.unprobed())
            .or_else(|| self.superfluous())
    }

    /// Nobody has a block to give that another would take: moves come to an end.
    fn unmoved(&self, hosts: &[usize]) -> Option<String> {
        let node = |host: usize| self.machines[host].node.as_ref();
        let tired =
            hosts.iter().filter(|host| node(**host).is_none_or(|node| !node.overview().takes_blocks()));
        let tired: BTreeSet<PeerName> = tired.map(|host| self.machines[*host].name).collect();
        let moves = |host: &usize| Some((*host, node(*host)?.overview().spare_block(&tired)?));
        hosts.iter().find_map(moves).map(|(host, gift)| format!("host {host} has not given {gift:?}"))
    }

    /// Whether nobody counts on a host any more, as everybody alive has it.
    pub(super) fn is_buried(&self, dead: usize) -> bool {
        let name = self.machines[dead].name;
        let decides =
            |node: &Node| node.overview().decided().is_some_and(|log| log.electors().contains(&name));
        self.nodes().all(|(_, node)| node.overview().ring().owned_by(name).is_empty() && !decides(node))
    }

    /// Everybody hears everybody, through others where there are many.
    fn unheard(&self, hosts: &[usize]) -> Option<String> {
        for &host in hosts {
            let node = self.machines[host].node.as_ref()?;
            let heard = node.overview().reachable();
            let silent =
                hosts.iter().find(|&&other| other != host && !heard.contains(&self.machines[other].name));
            if let Some(other) = silent {
                return Some(format!("host {host} does not hear host {other}: {:?}", node.status().targets));
            }
        }
        None
    }

    fn disagreeing(&self, hosts: &[usize]) -> Option<String> {
        let claims = |host: usize| -> Vec<(Address, u32, PeerName)> {
            let entries = self.machines[host].node.iter().flat_map(|node| node.overview().ring().entries());
            entries.map(|entry| (entry.token, entry.version, entry.owner)).collect()
        };
        let first = claims(*hosts.first()?);
        let other = hosts.iter().find(|&&host| claims(host) != first)?;
        Some(format!(
            "the rings of hosts {} and {other} differ: {first:?} and {:?}",
            hosts[0],
            claims(*other)
        ))
    }

    /// From every host, packets for every owned range go to its owner. The VPC judges a packet by the subnet that it comes
    /// from, so one host of each subnet is asked.
    fn astray(&self, hosts: &[usize]) -> Option<String> {
        let node = self.machines[*hosts.first()?].node.as_ref()?;
        let subnets = self.vpc.interfaces();
        let senders: BTreeMap<&SubnetId, usize> = hosts
            .iter()
            .filter_map(|&host| Some((&subnets.get(&self.machines[host].cloud.interface)?.subnet, host)))
            .collect();
        for (piece, owner) in node.overview().ring().owners() {
            let to = self.machines.iter().position(|machine| machine.name == owner)?;
            if !self.machines[to].is_on_ec2() {
                continue;
            }
            let right = &self.machines[to].cloud.interface;
            let probes = [piece.start, Address(piece.end.0 - 1), Address(piece.start.0 + piece.len() / 2)];
            for (probe, &from) in
                probes.iter().flat_map(|probe| senders.values().map(move |from| (probe, from)))
            {
                let destination = Ipv4Addr::from(*probe);
                let interface = &self.machines[from].cloud.interface;
                let source = Ipv4Addr::from(Range::from(self.climate.range).start);
                let found = self.vpc.forward(interface, source, destination);
                if found.as_ref() != Some(right) {
                    return Some(format!(
                        "{destination} belongs to host {to} ({right}), from host {from} it goes to {found:?}"
                    ));
                }
                let Some(prefix) = self.climate.ipv6 else { continue };
                let destination = prefix.address(*probe);
                let found = self.vpc.forward6(interface, destination);
                if found.as_ref() != Some(right) {
                    return Some(format!(
                        "{destination} belongs to host {to} ({right}), from host {from} it goes to {found:?}"
                    ));
                }
            }
        }
        None
    }

    fn unlinked(&self) -> Option<String> {
        let mut attached =
            self.users.promises.iter().filter_map(|(key, promise)| Some((key, promise, promise.cookie?)));
        attached.find_map(|((host, ident), promise, cookie)| {
            let linked = self.machines[*host].kernel.leads(promise.address, cookie);
            (!linked).then(|| format!("{ident} of host {host} has no link for {}", promise.address))
        })
    }

    /// Where canaries are, packets are known to flow between all of them.
    fn unprobed(&self) -> Option<String> {
        let probes = self.nodes().map(|(host, node)| (host, node.status().probe));
        let unknown = |(host, probe): (usize, ProbeStatus)| {
            let path = probe.paths.into_iter().find(|path| path.state != PathState::Flows)?;
            Some(format!("host {host} does not know that packets flow: {path:?}"))
        };
        probes.filter_map(unknown).next()
    }

    /// A route of one owner is there only if without it some address would go elsewhere.
    fn superfluous(&self) -> Option<String> {
        let node = self.machines.iter().find_map(|machine| machine.node.as_ref())?;
        let owners = node.overview().ring().owners();
        let range = Range::from(self.climate.range);
        let alive = self.machines.iter().filter(|machine| machine.power != Power::Terminated);
        let interfaces = alive.filter_map(|machine| self.vpc.interfaces().get(&machine.cloud.interface));
        let kept: BTreeSet<&TableId> = interfaces.filter_map(|one| self.vpc.table_of(&one.subnet)).collect();
        for table in kept {
            let routes = self.vpc.routes(table);
            let inside = |cidr: Ipv4Net| range.covers(cidr.into());
            for route in routes.iter().filter(|route| inside(route.destination)) {
                let piece = Range::from(route.destination);
                let one_owner = owners.iter().filter(|(owned, _)| owned.overlaps(piece)).count() == 1;
                // One that covers several is relied on by the owner of its first address alone.
                let owner_of = |destination: Ipv4Net| {
                    let first = Range::from(destination).start;
                    owners.iter().find(|(owned, _)| owned.contains(first)).map(|(_, owner)| *owner)
                };
                let RouteTarget::Interface(target) = &route.target else { continue };
                if route.state == RouteState::Blackhole {
                    return Some(format!("{} -> {target} in {table} leads nowhere", route.destination));
                }
                let others: Vec<(Ipv4Net, &InterfaceId)> = routes
                    .iter()
                    .filter(|other| other.destination != route.destination)
                    .filter(|other| Range::from(other.destination).overlaps(piece))
                    .filter_map(|other| match &other.target {
                        RouteTarget::Interface(interface) => Some((other.destination, interface)),
                        RouteTarget::Local | RouteTarget::Gateway(_) => None,
                    })
                    .collect();
                let elsewhere = |address: u32| {
                    let address = Ipv4Addr::from(address);
                    let matching = others.iter().filter(|(cidr, _)| cidr.contains(&address));
                    let best = matching.max_by_key(|(cidr, _)| cidr.prefix_len());
                    best.is_none_or(|(cidr, interface)| {
                        *interface != target || owner_of(*cidr) != owner_of(route.destination)
                    })
                };
                if one_owner && !(piece.start.0..piece.end.0).any(elsewhere) {
                    return Some(format!("{} -> {target} in {table} is of no use", route.destination));
                }
            }
        }
        None
    }
}
