//! Containers: from a namespace to packets that flow, and back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::Ipv4Net;

use super::{
    Node,
    memory::{Attached, LastRead, Write},
    out::Effect,
    overview::Overview,
    reconcile::Reconcile,
    request::{Container, Refusal, RefusalKind, RequestId, Response},
    status::Note,
    waiting::{Purpose, Waiter},
};
use crate::{
    addr::{Address, Range},
    ipam::{Ask, Refused, Ticket},
    plan::{Change, Plane, leads_to},
    state::{Action, Far, Fault, Host, Netns, link_name},
};

/// The containers of this host, by the name their address is filed under.
#[derive(Debug)]
pub struct Containers {
    all: BTreeMap<String, Attached>,
    /// The store is new: links that are found belong to containers that it forgot.
    forgetful: bool,
    /// Questions that wait until those links were looked at.
    early: Vec<(Ticket, Ask)>,
    /// Who was leaving when the look that is under way began.
    parting: BTreeSet<String>,
    /// Who comes under a name that is leaving.
    successors: BTreeMap<String, Attached>,
    /// Goes up where links may follow from another state of them.
    version: u64,
}

impl Containers {
    /// The containers that were remembered; `forgetful` if the links of this host were never learned from.
    pub fn new(all: BTreeMap<String, Attached>, forgetful: bool) -> Containers {
        Containers {
            all,
            forgetful,
            early: Vec::new(),
            parting: BTreeSet::new(),
            successors: BTreeMap::new(),
            version: 0,
        }
    }

    /// Whether addresses may be in use that nothing is known of.
    pub fn is_forgetful(&self) -> bool {
        self.forgetful
    }

    /// All of them.
    pub fn all(&self) -> &BTreeMap<String, Attached> {
        &self.all
    }

    /// Another number, another state of what their links follow from.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Their links may be others by now.
    pub(super) fn touch(&mut self) {
        self.version += 1;
    }

    /// A look at the host begins: what it shows of the links of those who are leaving now can be relied on.
    pub fn look_begins(&mut self) {
        self.parting = self.all.values().filter(|one| one.leaving).map(|one| one.ident.clone()).collect();
    }

    /// The container in this namespace that is connected by this interface. One that was found by its link alone is known by the link that
    /// leads into the namespace.
    pub(super) fn of_netns(
        &self,
        netns: &Netns,
        interface: &str,
        link: Option<Address>,
    ) -> Option<&Attached> {
        let staying = || self.all.values().filter(|attached| !attached.leaving);
        let is_there = |one: &&Attached| one.is_in(netns) && one.far.name == interface;
        let known = staying().find(is_there);
        known.or_else(|| staying().find(|one| one.is_found() && link.is_some() && one.link_address() == link))
    }

    /// The container that a person or a runtime calls so.
    pub(super) fn named(&self, name: &str) -> Option<&Attached> {
        let by_label = |one: &&Attached| one.label.as_deref() == Some(name) || one.short() == name;
        let mut called = self.all.values().filter(|one| !one.leaving).filter(by_label);
        let only = called.next().filter(|_| called.next().is_none());
        self.all.get(name).or(only)
    }

    /// The container in this namespace that waits for its name to become free.
    fn coming(&self, netns: &Netns) -> Option<&Attached> {
        self.successors.values().find(|one| one.is_in(netns) && one.key.is_none())
    }

    /// The container that was last found by this pid or path, which leads to no namespace any more.
    fn of_dead_path(&self, target: &str) -> Option<&Attached> {
        let path = Netns::path_of(target);
        let known =
            |one: &&Attached| !one.leaving && one.netns.as_ref().is_some_and(|own| *own.path == *path);
        self.all.values().find(known)
    }

    /// Namespaces that were found by another path than the one that is remembered.
    fn moved(&self, host: &Host) -> Vec<Attached> {
        let moved = |one: &Attached| {
            let (own, found) = (one.netns.as_ref()?, host.links.get(&one.link_address()?)?.netns.as_ref()?);
            // Most of them share the path with what was looked for.
            let has_moved = !one.leaving && !Arc::ptr_eq(&own.path, &found.path) && own.path != found.path;
            let has_moved = has_moved && own.is_same(found);
            has_moved.then(|| Attached { netns: Some(found.clone()), ..one.clone() })
        };
        self.all.values().filter_map(moved).collect()
    }

    /// Who was seen to have no link any more and is not to have one: those who were leaving when the look began, those
    /// whose namespace is gone, and those who are known by their link alone.
    fn parted(&mut self, host: &Host) -> Vec<String> {
        let parting = std::mem::take(&mut self.parting);
        let is_over = |one: &&Attached| {
            let over = |address| match one.leaving {
                true => parting.contains(&one.ident),
                false => one.is_found() || host.gone.contains(&address),
            };
            one.link_address().is_some_and(|address| over(address) && !host.links.contains_key(&address))
        };
        self.all.values().filter(is_over).map(|one| one.ident.clone()).collect()
    }

    /// Whether a container with this address was let go and its link may be there yet.
    pub fn is_leaving(&self, address: Address) -> bool {
        self.all.values().any(|one| one.leaving && one.link_address() == Some(address))
    }
}

impl Attached {
    /// Whether it is in this namespace.
    pub fn is_in(&self, netns: &Netns) -> bool {
        self.netns.as_ref().is_some_and(|own| own.is_same(netns))
    }

    /// Whether nothing is known of it but its link, which a lost store left.
    pub(super) fn is_found(&self) -> bool {
        self.netns.is_none() && !self.far.moved
    }

    /// The name that it is filed under, with long ids shortened as runtimes do.
    pub fn short(&self) -> String {
        const ID_LEN: usize = 12;
        let short =
            |part: &str| part.get(..ID_LEN).filter(|_| part.len() >= 2 * ID_LEN).unwrap_or(part).to_owned();
        match &self.key {
            Some(key) => format!("{}/{}/{}/{}", key.kind, short(&key.network), short(&key.id), key.interface),
            None => self.ident.clone(),
        }
    }

    /// It, as it is named to people.
    pub(super) fn called(&self) -> String {
        match &self.label {
            Some(label) => format!("`{label}` ({})", self.short()),
            None => format!("`{}`", self.short()),
        }
    }

    /// The address that its link is made for.
    pub fn link_address(&self) -> Option<Address> {
        self.address.map(|address| address.addr().into())
    }
}

impl Overview<'_> {
    /// Whether there may be containers of which only the link is known.
    pub fn knows_by_link(&self) -> bool {
        let containers = &self.local.containers;
        containers.forgetful || containers.all.values().any(Attached::is_found)
    }
}

impl Node {
    /// Takes up what was attached before the restart. The namespaces of an earlier boot are gone; an
    /// address that was filed under a name of the caller's choice is kept for whoever comes under it.
    pub(super) fn resume_attachments(&mut self, boot: &str) {
        for attached in self.local.containers.all.values().cloned().collect::<Vec<_>>() {
            // One that was found by its link alone is known to be gone when the link is.
            let rebooted = attached.netns.as_ref().is_some_and(|netns| *netns.boot != *boot);
            match (rebooted, attached.named && !attached.leaving, attached.address) {
                (true, true, _) => self.forget(&attached.ident),
                (true, false, _) => self.release(&attached),
                (false, _, None) => self.ask_for_address(attached),
                (false, _, Some(_)) => {}
            }
        }
    }

    pub(super) fn on_attach(
        &mut self,
        id: RequestId,
        netns: Netns,
        link: Option<Address>,
        name: Option<String>,
        subnet: Option<Ipv4Net>,
    ) {
        let ident = match self.local.containers.of_netns(&netns, Far::NAME, link).cloned() {
            Some(attached) => {
                if let Some(refusal) = elsewhere(&attached, subnet) {
                    return self.out.answer(id, Err(refusal));
                }
                if self.work.hopeless_link(&attached).is_some() {
                    // Whoever asks again may have done something about it.
                    self.work.converge.hurry_host(self.facts.now);
                }
                let ident = attached.ident.clone();
                // The path by which it was known may lead nowhere by now, or not for long.
                if attached.netns.as_ref() != Some(&netns) {
                    self.remember(Attached { netns: Some(netns), ..attached });
                }
                ident
            }
            None => match self.begin_attach(netns, name, subnet) {
                Ok(ident) => ident,
                Err(refusal) => return self.out.answer(id, Err(refusal)),
            },
        };
        self.waiting.add(self.facts.now, id, Waiter::Attach { ident });
        self.out.disturbed = true;
    }

    fn begin_attach(
        &mut self,
        netns: Netns,
        name: Option<String>,
        subnet: Option<Ipv4Net>,
    ) -> Result<String, Refusal> {
        if let Some(coming) = self.local.containers.coming(&netns) {
            return elsewhere(coming, subnet).map_or_else(|| Ok(coming.ident.clone()), Err);
        }
        let named = name.is_some();
        let ident = name.unwrap_or_else(|| format!("netns-{:x}", netns.cookie));
        let leaving = self.local.containers.all.get(&ident).map(|other| other.leaving);
        let bearer = match leaving {
            Some(true) => self.local.containers.successors.get(&ident),
            Some(false) | None => self.local.containers.all.get(&ident),
        };
        if let Some(other) = bearer {
            let path =
                other.netns.as_ref().map_or_else(String::new, |netns| netns.path.display().to_string());
            let message = format!("name `{ident}` is attached already, in namespace {path}");
            return Err(Refusal::new(RefusalKind::Invalid, message)
                .hint(format!("choose another --name, or run `weavers detach {ident}`")));
        }
        let new = Attached { ident: ident.clone(), named, netns: Some(netns), subnet, ..Attached::default() };
        self.let_in(new);
        Ok(ident)
    }

    /// Connects a container, or lets it wait until nobody has its name any more.
    pub(super) fn let_in(&mut self, new: Attached) {
        if self.local.containers.all.contains_key(&new.ident) {
            self.local.containers.successors.insert(new.ident.clone(), new);
        } else {
            self.take_in(new);
        }
    }

    fn take_in(&mut self, new: Attached) {
        self.remember(new.clone());
        self.ask_for_address(new);
    }

    fn ask_for_address(&mut self, Attached { ident, subnet, wanted, .. }: Attached) {
        let ticket = self.waiting.ticket(Purpose::Attach(ident.clone()));
        let subnet = subnet.unwrap_or(self.facts.config.ipam.default_subnet);
        let claim = |address: Address| Ipv4Net::new_assert(address.into(), subnet.prefix_len());
        let ask = match wanted {
            Some(address) => Ask::Claim { address: claim(address), ident },
            None => Ask::Allocate { ident, subnet },
        };
        self.put(ticket, ask);
    }

    /// Puts a question to the address manager, as soon as it is known which addresses the links of this
    /// host use.
    pub(super) fn put(&mut self, ticket: Ticket, ask: Ask) {
        if self.local.containers.forgetful {
            self.local.containers.early.push((ticket, ask));
        } else if let Some((ticket, ask)) = self.make_way(ticket, ask) {
            self.peers.ipam.ask(self.facts.now, ticket, ask);
        }
    }

    /// Takes a question back.
    pub(super) fn take_back(&mut self, ticket: Ticket) {
        self.local.containers.early.retain(|(early, _)| *early != ticket);
        self.peers.ipam.cancel(ticket);
    }

    /// The address manager has answered for a container. Its link is made once the disk has it.
    pub(super) fn on_address(&mut self, ident: String, result: Result<Vec<Ipv4Net>, Refused>) {
        let Some(attached) = self.local.containers.all.get(&ident).cloned() else { return };
        match result {
            Ok(addresses) => {
                let length = self.facts.config.ipam.range.prefix_len();
                let address = addresses.first().map(|address| Ipv4Net::new_assert(address.addr(), length));
                self.remember(Attached { address, ..attached });
            }
            Err(refused) => {
                self.forget(&ident);
                for id in self.waiting.take_where(|waiter| waiter.is_attaching(&ident)) {
                    self.out.answer(id, Err(Refusal::from(&refused)));
                }
            }
        }
        self.out.disturbed = true;
    }

    pub(super) fn on_detach(&mut self, id: RequestId, target: &Container) {
        let attached = match target {
            Container::Netns { netns, link } => self.local.containers.of_netns(netns, Far::NAME, *link),
            Container::Name(name) => {
                self.local.containers.named(name).or_else(|| self.local.containers.of_dead_path(name))
            }
        };
        if let (None, Container::Netns { netns, .. }) = (attached, target)
            && let Some(ident) = self.local.containers.coming(netns).map(|coming| coming.ident.clone())
        {
            self.local.containers.successors.remove(&ident);
            return self.out.answer(id, Ok(Response::Done));
        }
        // Already gone is success: a runtime may call twice.
        let Some(attached) = attached.cloned() else { return self.out.answer(id, Ok(Response::Absent)) };
        self.local.containers.successors.remove(&attached.ident);
        self.release(&attached);
        match attached.link_address() {
            Some(address) => self.waiting.add(self.facts.now, id, Waiter::Detach { address }),
            None => self.out.answer(id, Ok(Response::Done)),
        }
    }

    /// Lets a container go. Its address is taken back once its link was seen gone, so that the next one
    /// that is given the address never inherits the link.
    pub(super) fn release(&mut self, attached: &Attached) {
        let tickets =
            self.waiting.drop_tickets(|purpose| *purpose == Purpose::Attach(attached.ident.clone()));
        tickets.for_each(|ticket| self.take_back(ticket));
        if attached.address.is_none() {
            return self.discard(&attached.ident);
        }
        self.remember(Attached { leaving: true, ..attached.clone() });
        self.work.converge.host.look_at_changes_by(self.facts.now);
        self.out.disturbed = true;
    }

    /// Forgets a container and takes its address back, whatever became of its link.
    pub(super) fn discard(&mut self, ident: &str) {
        // An address that the address manager does not know is as good as free.
        let _ = self.peers.ipam.free(ident, None);
        if let Some(owed) = self.local.containers.all.get(ident).and_then(|one| one.owed.clone()) {
            let _ = self.peers.ipam.free(&owed, None);
        }
        self.forget(ident);
        self.out.disturbed = true;
        if let Some(successor) = self.local.containers.successors.remove(ident) {
            self.take_in(successor);
        }
    }

    pub(super) fn remember(&mut self, attached: Attached) {
        self.out.ledger.write(Write::attached(&attached.ident, Some(&attached)));
        self.local.containers.all.insert(attached.ident.clone(), attached);
        self.local.containers.touch();
        self.out.let_out(Effect::ContainerKept);
    }

    pub(super) fn forget(&mut self, ident: &str) {
        self.out.ledger.write(Write::attached(ident, None));
        self.local.containers.all.remove(ident);
        self.local.containers.touch();
    }

    /// After a look at the host: containers whose namespace is gone are released, and what a lost
    /// store forgot is learned from the links that are there.
    pub(super) fn tend_containers(&mut self) {
        let Some(host) = self.work.converge.host.seen() else { return };
        let (parted, moved) = (self.local.containers.parted(host), self.local.containers.moved(host));
        if std::mem::take(&mut self.local.containers.forgetful) {
            let host = host.clone();
            self.learn_from_links(&host);
            self.out.ledger.write(Write::links_known());
            self.peers.ipam.set_avoided(self.overview().avoided());
            for (ticket, ask) in std::mem::take(&mut self.local.containers.early) {
                self.peers.ipam.ask(self.facts.now, ticket, ask);
            }
        }
        for ident in parted {
            self.discard(&ident);
        }
        for attached in moved {
            self.remember(attached);
        }
    }

    fn learn_from_links(&mut self, host: &Host) {
        let range = self.facts.config.ipam.range;
        let known: Vec<Address> =
            self.local.containers.all.values().filter_map(Attached::link_address).collect();
        for &address in host.links.keys().filter(|a| Range::from(range).contains(**a) && !known.contains(a)) {
            let cidr = Ipv4Net::new_assert(address.into(), range.prefix_len());
            let ident = format!("found-{}", link_name(address));
            self.peers.ipam.adopt(&ident, cidr);
            self.remember(Attached { ident, address: Some(cidr), ..Attached::default() });
        }
    }
}

impl Overview<'_> {
    /// Why packets of this container cannot flow yet, or `None` if they can: its link was last seen
    /// without fault, in every table its longest match was last read leading to our active
    /// interface, and the kernel passes on what comes for it and what it sends.
    pub(super) fn missing(&self, attached: &Attached) -> Option<String> {
        if attached.leaving {
            return Some("its link is being removed".into());
        }
        let Some(address) = attached.link_address() else {
            let waits = self.peers.ipam.waits();
            return Some(
                waits.first().map_or("an address".into(), |(what, _)| format!("an address: {what}")),
            );
        };
        let way = || self.missing_way(address).map(|note| format!("a way for its packets: {}", note.what));
        self.missing_record(attached)
            .or_else(|| self.work.missing_link(attached, address))
            .or_else(|| self.missing_route(address))
            .or_else(|| attached.missing_ports(self.work.converge.host.seen()))
            .or_else(way)
    }

    /// A link is made once the disk has whose it is.
    fn missing_record(&self, attached: &Attached) -> Option<String> {
        let fault = self.ledger.fault()?;
        let is_kept = self.ledger.is_kept(&Write::key_of_attached(&attached.ident));
        (!is_kept).then(|| format!("its record on the disk: {}", fault.message))
    }

    fn missing_route(&self, address: Address) -> Option<String> {
        let Some(vpc) = self.work.converge.vpc.seen() else {
            if let Some(read) = self.recalled() {
                return self.missing_by(read, address);
            }
            return Some(format!("a look at the route tables{}", why(self.work.converge.vpc.fault())));
        };
        let range = Range::new(address, Address(address.0 + 1));
        let table = vpc.tables.iter().find(|(_, table)| !leads_to(table, range, &vpc.interface));
        let (id, _) = table?;
        let plane = Plane::Table(id.clone());
        let steps = self.work.plan.changes.iter().map(|change| &change.action);
        let failure =
            steps.filter(|step| Plane::of(step) == plane).find_map(|step| self.work.converge.failure(step));
        Some(format!("a route to it in {id}{}", why(failure)))
    }

    /// The same by a look of an earlier life.
    fn missing_by(&self, read: &LastRead, address: Address) -> Option<String> {
        let age = || humantime::format_duration(self.age_of(read));
        read.not_led(address).map(|id| format!("a route to it in {id}, as read {} ago", age()))
    }
}

impl Reconcile {
    fn missing_link(&self, attached: &Attached, address: Address) -> Option<String> {
        let name = link_name(address);
        let Some(host) = self.converge.host.seen() else {
            return Some(format!("a look at the host's network{}", why(self.converge.host.fault())));
        };
        let absent = || {
            let why = self.hindrance(attached).map_or_else(String::new, |note| format!(": {}", note.what));
            format!("its link {name}{why}")
        };
        let Some(link) = host.links.get(&address) else { return Some(absent()) };
        let same = match (&link.netns, &attached.netns) {
            (Some(found), Some(wanted)) => found.is_same(wanted),
            (None, _) | (_, None) => attached.far.moved,
        };
        match link.faults.first() {
            Some(fault) => Some(format!("its link {name}: {fault}")),
            None if !same => Some(absent()),
            None => None,
        }
    }

    /// Why the link of this container is not made, and the way out.
    pub(super) fn hindrance(&self, attached: &Attached) -> Option<Note> {
        let address = attached.link_address()?;
        if let Some(refused) = self.plan.refused.iter().find(|change| is_on_link(change, address)) {
            return Some(super::report::refused_step(refused));
        }
        let of_step =
            |action| self.converge.held_up(action, &self.plan).or_else(|| self.converge.failure(action));
        // What cannot be looked at is not changed either.
        let fault = self.step_on_link(address).and_then(of_step).or_else(|| self.converge.host.fault())?;
        Some(Note { what: fault.message.clone(), hint: fault.hint.clone() })
    }

    /// What is to be done about the link of this address.
    fn step_on_link(&self, address: Address) -> Option<&Action> {
        self.plan.changes.iter().find(|change| is_on_link(change, address)).map(|change| &change.action)
    }

    /// Why the link of a container will not be there unless somebody does something about it.
    pub(super) fn hopeless_link(&self, attached: &Attached) -> Option<&Fault> {
        self.converge.blocked(self.step_on_link(attached.link_address()?)?)
    }
}

fn why(fault: Option<&Fault>) -> String {
    fault.map_or_else(String::new, |fault| format!(": {fault}"))
}

/// Whether a step makes or mends the link of this address.
fn is_on_link(change: &Change, address: Address) -> bool {
    change.action.makes_link() == Some(address)
}

/// Why a container that is attached does not do where an address of `subnet` is asked for.
pub(super) fn elsewhere(attached: &Attached, subnet: Option<Ipv4Net>) -> Option<Refusal> {
    let (address, subnet) = (attached.address?.addr(), subnet?);
    if subnet.contains(&address) {
        return None;
    }
    let message =
        format!("it is attached already, as `{}` with {address}, which is not in {subnet}", attached.ident);
    let hint = format!("run `weavers detach {}` before", attached.ident);
    Some(Refusal::new(RefusalKind::Invalid, message).hint(hint))
}
