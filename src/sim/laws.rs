//! What must hold after each step, and once all is quiet.

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
    node::{
        Node, WRITES_AN_HOUR,
        persist::memory::Write,
        protocol::status::{PathState, ProbeStatus},
    },
    peer::PeerName,
    state::{Ec2Action, Fault, InterfaceId, RouteState, Side, TableId, Target, Vpc},
    time::Timestamp,
};

/// How long a world may take to settle once all is well.
const SETTLE_MAX: Duration = Duration::from_secs(240);
/// How long it is watched afterwards.
const WATCH: Duration = Duration::from_secs(35);
/// How often a host looks at its route tables when nothing happens.
const LOOK_EVERY: Duration = Duration::from_secs(35);
/// How long a look does not count after ranges have changed hands.
const RESTLESS: Duration = Duration::from_secs(15);
/// The longest time between two looks of a host at EC2 in a large cluster, for each host of it.
const LOOK_SHARE: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_secs(5);
/// When dead hosts are forgotten: what they gave away is known by then.
const FORGET_AFTER: Duration = Duration::from_secs(40);
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

    fn nodes(&self) -> impl Iterator<Item = (usize, &Node)> {
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
            _ => whole,
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

    // ===== when all is quiet =====

    /// All must be as it should within a bound, and then stay so without a call that changes anything.
    pub(super) fn settle_down(&mut self) {
        let begun = self.now;
        // The more hosts there are, the more seldom each of them looks.
        let hosts = self.machines.len() as u32;
        let look_every = LOOK_EVERY.max(LOOK_SHARE * hosts) + RESTLESS;
        let settle_max = SETTLE_MAX + 2 * LOOK_SHARE * hosts;
        let deadline = begun + settle_max;
        let mut settled_at = None;
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
                self.forget_all(self.left_to_people(stuck));
                self.forget_claimants();
            }
            // Everybody has looked once more after the last change of anybody.
            match self.unsettled() {
                None if self.now >= begun + FORGET_AFTER => {
                    if self.now >= *settled_at.get_or_insert(self.now) + look_every {
                        break;
                    }
                    continue;
                }
                Some(why) if self.now >= deadline => {
                    return self
                        .violate(format!("not settled {settle_max:?} after all was made well: {why}"));
                }
                None | Some(_) => {}
            }
            settled_at = None;
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
