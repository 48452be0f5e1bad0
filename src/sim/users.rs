//! Who attaches and detaches, allocates, claims and frees; and what they were promised.

use std::time::Duration;

use ipnet::Ipv4Net;
use rand::RngExt;

use super::{
    machine::Power,
    promises::{Asked, Promise, Running, What},
    world::{Event, World},
};
use crate::{
    addr::{Address, Range},
    node::{
        Input,
        protocol::request::{Container, Refusal, Request, RequestId, Response},
    },
    peer::PeerName,
    state::link_name,
};

/// Containers that one host runs at most.
const CONTAINERS_MAX: usize = 12;

impl World {
    /// A user of this host does something, and comes again.
    pub(super) fn ask_something(&mut self, host: usize) {
        if !self.stormy || self.machines[host].node.is_none() {
            return;
        }
        let again = self.random(Duration::from_millis(200), Duration::from_secs(5));
        self.schedule(again, Event::Ask(host));
        if self.machines[host].until.calm > self.now {
            return;
        }
        if self.users.retiring.contains(&host) {
            return self.wind_up(host);
        }
        let running: Vec<u64> = self
            .users
            .containers
            .iter()
            .filter(|(_, one)| one.host == host)
            .map(|(cookie, _)| *cookie)
            .collect();
        match self.rng.random_range(0..20) {
            0..=5 if running.len() < CONTAINERS_MAX => self.attach_new(host),
            6 if !running.is_empty() => {
                let cookie = self.pick(&running);
                self.attach(cookie);
            }
            7..=8 if !running.is_empty() => {
                let cookie = self.pick(&running);
                self.detach(cookie);
            }
            9 if !running.is_empty() => {
                let cookie = self.pick(&running);
                self.end_container(cookie);
            }
            10..=12 => self.allocate(host),
            13..=14 => self.claim(host),
            15..=16 => self.free_something(host),
            17 => self.ask(host, What::Other, Request::Apply),
            18 => self.ask(host, What::Other, Request::Status),
            _ => self.ask(host, What::Other, Request::ShowRing),
        }
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.rng.random_range(0..from.len())].clone()
    }

    fn ask(&mut self, host: usize, what: What, request: Request) {
        self.users.last_request += 1;
        let id = RequestId(self.users.last_request);
        self.note(|| format!("host {host} is asked {id:?}: {request:?}"));
        self.users.asked.insert(id, Asked { host, what });
        self.feed(host, Input::Asked(id, request));
    }

    // ===== containers =====

    fn attach_new(&mut self, host: usize) {
        self.users.last_cookie += 1;
        let cookie = self.users.last_cookie;
        let netns = self.machines[host].kernel.make_namespace(cookie);
        let named: bool = self.rng.random();
        let taken: Vec<String> = self
            .users
            .containers
            .values()
            .filter(|one| one.host == host)
            .filter_map(|one| one.name.clone())
            .collect();
        let name = named.then(|| format!("c{}", self.rng.random_range(0..20)));
        let name = name.filter(|name| !taken.contains(name));
        self.users.containers.insert(cookie, Running { host, netns, name });
        self.attach(cookie);
    }

    fn attach(&mut self, cookie: u64) {
        let Some(Running { host, netns, name }) = self.users.containers.get(&cookie).cloned() else { return };
        let link = self.machines[host].kernel.link_into(&netns);
        self.ask(host, What::Attach(cookie), Request::Attach { netns, link, name, subnet: None });
    }

    fn detach(&mut self, cookie: u64) {
        let Some(container) = self.users.containers.get(&cookie).cloned() else { return };
        self.let_go(&container);
        let link = self.machines[container.host].kernel.link_into(&container.netns);
        let target = Container::Netns { netns: container.netns, link };
        self.ask(container.host, What::Other, Request::Detach { target });
    }

    /// Where nobody has an address to hand out people detach a container, as they are told to make room.
    pub(super) fn make_room(&mut self) {
        let stay = || self.nodes().map(|(_, node)| node.overview()).filter(|overview| !overview.has_left());
        let is_full = stay().next().is_some() && stay().all(|overview| overview.lacks_room());
        let first = self.users.containers.iter().find(|(_, one)| is_full && self.has_turn(one.host));
        if let Some((&cookie, _)) = first {
            self.detach(cookie);
        }
    }

    /// A container ends, and nobody says so.
    fn end_container(&mut self, cookie: u64) {
        let Some(container) = self.users.containers.get(&cookie).cloned() else { return };
        self.let_go(&container);
        self.machines[container.host].kernel.drop_namespace(cookie);
        self.note(|| format!("container {cookie} of host {} ends", container.host));
        if self.rng.random() {
            let life = self.machines[container.host].life;
            self.schedule(Duration::from_millis(3), Event::Disturb(container.host, life));
        }
    }

    fn let_go(&mut self, container: &Running) {
        let cookie = container.netns.cookie;
        self.users.containers.remove(&cookie);
        self.users.give_back(container.host, &container.ident());
        let found = self.users.promises.iter().find(|(_, promise)| promise.cookie == Some(cookie));
        if let Some((key, _)) = found {
            let (host, ident) = key.clone();
            self.users.give_back(host, &ident);
        }
    }

    // ===== addresses =====

    fn allocate(&mut self, host: usize) {
        let ident = format!("a{}", self.rng.random_range(0..8));
        if self.is_pending(host, &ident) {
            return;
        }
        self.ask(host, What::Address(ident.clone()), Request::Allocate { ident, subnet: None });
    }

    fn claim(&mut self, host: usize) {
        let ident = format!("b{}", self.rng.random_range(0..4));
        let known = self.users.promises.contains_key(&(host, ident.clone()));
        if known || self.is_pending(host, &ident) {
            return;
        }
        let range = Range::from(self.climate.range);
        let address = Address(range.start.0 + self.rng.random_range(0..range.len()));
        self.ask(host, What::Address(ident.clone()), Request::Claim { ident, address });
    }

    /// Somebody gives back an address, if somebody has one.
    pub(super) fn free_something(&mut self, host: usize) {
        let mut idents = self.users.idents(host);
        let promises = &self.users.promises;
        idents.retain(|ident| promises[&(host, ident.clone())].cookie.is_none());
        idents.retain(|ident| !self.is_pending(host, ident));
        if !idents.is_empty() {
            let ident = self.pick(&idents);
            self.users.give_back(host, &ident);
            self.ask(host, What::Other, Request::Free { ident, address: None });
        }
    }

    fn is_pending(&self, host: usize, ident: &str) -> bool {
        self.users
            .asked
            .values()
            .any(|asked| asked.host == host && matches!(&asked.what, What::Address(other) if other == ident))
    }

    /// Frees what a host has filed under names on which nobody relies.
    pub(super) fn free_the_gone(&mut self, host: usize) {
        let allocations =
            self.machines[host].node.iter().flat_map(|node| node.overview().allocations().keys());
        let chosen = |ident: &&String| ident.len() <= 3 && ident.starts_with(['a', 'b', 'c']);
        let gone = allocations.filter(chosen).filter(|ident| !self.users.knows(host, ident));
        for ident in gone.cloned().collect::<Vec<String>>() {
            self.ask(host, What::Other, Request::Free { ident, address: None });
        }
    }

    // ===== coming and going =====

    /// Gives back all that this host uses.
    pub(super) fn vacate(&mut self, host: usize) {
        let containers: Vec<u64> = self
            .users
            .containers
            .iter()
            .filter(|(_, one)| one.host == host)
            .map(|(cookie, _)| *cookie)
            .collect();
        for cookie in containers {
            self.detach(cookie);
        }
        for ident in self.users.idents(host) {
            self.users.give_back(host, &ident);
            self.users.lose_interest(host, &ident);
            self.ask(host, What::Other, Request::Free { ident, address: None });
        }
    }

    /// Gives back what this host uses, then its ranges.
    fn wind_up(&mut self, host: usize) {
        self.vacate(host);
        let draining =
            self.users.asked.values().any(|asked| asked.host == host && matches!(asked.what, What::Drain));
        if !draining {
            self.ask(host, What::Drain, Request::Drain);
        }
    }

    /// Somebody asks one survivor, or two at the same moment, to take over what these dead hosts owned.
    pub(super) fn forget_all(&mut self, dead: Vec<usize>) {
        for dead in dead {
            if self.is_buried(dead) || self.is_being_forgotten(dead) {
                continue;
            }
            let mut survivors: Vec<usize> =
                (0..self.machines.len()).filter(|&host| self.has_turn(host)).collect();
            // Who leaves takes nothing over, and is asked only where there is no other; who has left takes no question either.
            survivors.sort_by_key(|&host| (self.users.retiring.contains(&host), self.has_left(host)));
            survivors.truncate(survivors.partition_point(|host| !self.users.retiring.contains(host)).max(1));
            let Some(&first) = survivors.first() else { return };
            let second = survivors.last().copied().filter(|&last| last != first && self.chance(500));
            let peer = self.machines[dead].name.to_string();
            if self.most_electors_are_dead(first) {
                self.ask(first, What::Forget(dead), Request::Forget { peer, alone: true });
                continue;
            }
            for host in [first].into_iter().chain(second) {
                self.ask(host, What::Forget(dead), Request::Forget { peer: peer.clone(), alone: false });
            }
        }
    }

    /// Where a host waits for one that is dead and of which all others know that it owns nothing, its status says what to do.
    pub(super) fn forget_claimants(&mut self) {
        let is_dead = |dead: &usize| self.machines[*dead].power == Power::Terminated && self.is_buried(*dead);
        let dead: Vec<usize> = (0..self.machines.len()).filter(is_dead).collect();
        for host in (0..self.machines.len()).filter(|&host| self.has_turn(host)).collect::<Vec<_>>() {
            for &dead in &dead {
                let name = self.machines[dead].name;
                if self.machines[host].node.as_ref().is_some_and(|node| node.overview().awaits(name)) {
                    self.ask_quietly(host, Request::Forget { peer: name.to_string(), alone: false });
                }
            }
        }
    }

    /// Somebody asks a host for an address, and nothing else.
    pub(super) fn ask_for_address(&mut self, host: usize) {
        self.allocate(host);
    }

    /// Whether somebody was given an address of this host.
    pub(super) fn holds_address(&self, host: usize) -> bool {
        self.users.uses(host)
    }

    /// Asks without an eye on the answer.
    pub(super) fn ask_quietly(&mut self, host: usize, request: Request) {
        self.ask(host, What::Other, request);
    }

    pub(super) fn most_electors_are_dead(&self, host: usize) -> bool {
        let log = self.machines[host].node.as_ref().and_then(|node| node.overview().decided());
        let alive = |name: &PeerName| {
            let machine = self.machines.iter().find(|machine| machine.name == *name);
            machine.is_some_and(|machine| machine.power != Power::Terminated)
        };
        log.is_some_and(|log| log.electors().iter().filter(|name| alive(name)).count() < log.majority())
    }

    /// Whether it has given its addresses away, and only a restart lets it join again.
    fn has_left(&self, host: usize) -> bool {
        self.machines[host].node.as_ref().is_some_and(|node| node.overview().has_left())
    }

    fn is_being_forgotten(&self, dead: usize) -> bool {
        self.users.asked.values().any(|asked| matches!(asked.what, What::Forget(other) if other == dead))
    }

    /// Somebody takes a host for dead.
    pub(super) fn usurp(&mut self, dead: usize) {
        let survivor = (0..self.machines.len()).find(|&host| self.has_turn(host));
        if let Some(host) = survivor {
            // Whoever is taken for dead and is not must be able to hear of it before it is asked again.
            self.quiet_until = self.now + Duration::from_secs(3);
            let peer = self.machines[dead].name.to_string();
            self.ask(host, What::Other, Request::Forget { peer, alone: false });
        }
    }

    // ===== answers =====

    pub(super) fn answered(&mut self, host: usize, id: RequestId, result: Result<Response, Refusal>) {
        self.note(|| format!("host {host} answers {id:?}: {:.300}", format!("{result:?}")));
        let Some(Asked { what, .. }) = self.users.asked.remove(&id) else { return };
        match (what, result) {
            (What::Attach(cookie), Ok(Response::Attached { address, .. })) => {
                if let Some(container) = self.users.containers.get(&cookie) {
                    // A container that was found by its link keeps the name that it was filed under then.
                    let found = format!("found-{}", link_name(address.addr().into()));
                    let node = self.machines[host].node.as_ref();
                    let is_found =
                        node.is_some_and(|node| node.overview().allocations().contains_key(&found));
                    let ident = if is_found { found } else { container.ident() };
                    self.promise(host, ident, address.addr().into(), Some(cookie));
                }
            }
            (What::Address(ident), Ok(Response::Addresses(addresses))) => {
                for Ipv4Net { .. } in addresses.iter().skip(1) {
                    self.violate(format!("host {host} gives {ident} more than one address: {addresses:?}"));
                }
                if let Some(address) = addresses.first() {
                    self.promise(host, ident, address.addr().into(), None);
                }
            }
            (What::Drain, Ok(_)) => {
                self.users.retiring.remove(&host);
                let pause = self.random(Duration::from_millis(100), Duration::from_secs(5));
                self.leave(host, pause);
            }
            (What::Attach(_) | What::Address(_) | What::Drain | What::Forget(_) | What::Other, _) => {}
        }
    }

    fn promise(&mut self, host: usize, ident: String, address: Address, cookie: Option<u64>) {
        self.check_on_disk(host, &ident, address);
        let key = (host, ident);
        match self.users.holders.get(&address) {
            Some(holder) if *holder != key => {
                let (by, of) = holder.clone();
                let (host, ident) = key;
                return self.violate(format!(
                    "{address} was given to {ident} of host {host}, but {of} of host {by} has it"
                ));
            }
            Some(_) | None => {}
        }
        if let Some(before) = self.users.promises.get(&key)
            && before.address != address
        {
            let was = before.address;
            return self.violate(format!("{key:?} had {was} and was given {address}"));
        }
        self.users.promised += 1;
        self.users.holders.insert(address, key.clone());
        self.users.promises.insert(key, Promise { address, cookie });
    }
}
