//! Containers: from a namespace to an address, and back.

use ipnet::Ipv4Net;

use super::{
    local::{Context, Local},
    ports::ports_to,
};
use crate::{
    addr::{Address, Range},
    ipam::{Ask, Refused, Ticket},
    node::{
        boundary::{
            tickets::Purpose,
            waiting::{Reply, Waiter},
        },
        persist::memory::{Attached, Write},
        protocol::request::{Container, Pool, Refusal, RefusalKind, Response},
    },
    state::{Far, Host, Netns, link_name},
};

impl Local {
    /// Takes up what was attached before the restart. The namespaces of an earlier boot are gone; an
    /// address that was filed under a name of the caller's choice is kept for whoever comes under it.
    pub(in crate::node) fn resume(&mut self, cx: &mut Context<'_>) {
        for attached in self.containers.all.values().cloned().collect::<Vec<_>>() {
            // One that was found by its link alone is known to be gone when the link is.
            let made_in = attached.netns.as_ref().map(|netns| &*netns.boot).or(attached.boot.as_deref());
            let rebooted = made_in.is_some_and(|made_in| made_in != cx.facts.boot);
            match (rebooted, attached.named && !attached.leaving, attached.address) {
                (true, true, _) => self.forget(cx, &attached.ident),
                (true, false, _) => self.let_go(cx, attached),
                (false, _, None) => self.ask_for_address(cx, attached),
                (false, _, Some(_)) => {}
            }
        }
        self.resume_leases(cx);
    }

    /// Connects a network namespace. `link` is the address of the link of ours that leads into it already, if one does.
    pub(in crate::node) fn attach(
        &mut self,
        cx: &mut Context<'_>,
        netns: Netns,
        link: Option<Address>,
        name: Option<String>,
        subnet: Option<Pool>,
    ) -> Result<Waiter, Refusal> {
        let subnet = cx.facts.named_subnet(subnet)?;
        let ident = match self.containers.of_netns(&netns, Far::NAME, link).cloned() {
            Some(attached) => {
                if let Some(refusal) = elsewhere(&attached, subnet) {
                    return Err(refusal);
                }
                if cx.work.hopeless_link(&attached).is_some() {
                    // Whoever asks again may have done something about it.
                    cx.work.converge.hurry_host(cx.facts.now);
                }
                let ident = attached.ident.clone();
                // The path by which it was known may lead nowhere by now, or not for long.
                if attached.netns.as_ref() != Some(&netns) {
                    self.remember(cx, Attached { netns: Some(netns), ..attached });
                }
                ident
            }
            None => self.begin_attach(cx, netns, name, subnet)?,
        };
        Ok(Waiter::Attach { ident })
    }

    fn begin_attach(
        &mut self,
        cx: &mut Context<'_>,
        netns: Netns,
        name: Option<String>,
        subnet: Option<Ipv4Net>,
    ) -> Result<String, Refusal> {
        if let Some(coming) = self.containers.coming(&netns) {
            return elsewhere(coming, subnet).map_or_else(|| Ok(coming.ident.clone()), Err);
        }
        let named = name.is_some();
        let ident = name.unwrap_or_else(|| format!("netns-{:x}", netns.cookie));
        let leaving = self.containers.all.get(&ident).map(|other| other.leaving);
        let bearer = match leaving {
            Some(true) => self.containers.successors.get(&ident),
            Some(false) | None => self.containers.all.get(&ident),
        };
        if let Some(other) = bearer {
            let path =
                other.netns.as_ref().map_or_else(String::new, |netns| netns.path.display().to_string());
            let message = format!("name `{ident}` is attached already, in namespace {path}");
            return Err(Refusal::new(RefusalKind::Invalid, message)
                .hint(format!("choose another --name, or run `weavers detach {ident}`")));
        }
        let new = Attached { ident: ident.clone(), named, netns: Some(netns), subnet, ..Attached::default() };
        self.let_in(cx, new);
        Ok(ident)
    }

    /// Connects a container, or lets it wait until nobody has its name any more.
    pub(super) fn let_in(&mut self, cx: &mut Context<'_>, new: Attached) {
        if self.containers.all.contains_key(&new.ident) {
            self.containers.successors.insert(new.ident.clone(), new);
        } else {
            self.take_in(cx, new);
        }
    }

    fn take_in(&mut self, cx: &mut Context<'_>, new: Attached) {
        self.remember(cx, new.clone());
        self.ask_for_address(cx, new);
    }

    fn ask_for_address(&mut self, cx: &mut Context<'_>, Attached { ident, subnet, wanted, .. }: Attached) {
        let ticket = cx.peers.tickets.open(Purpose::Attach(ident.clone()));
        let subnet = subnet.unwrap_or(cx.facts.config.ipam.default_subnet);
        let claim = |address: Address| Ipv4Net::new_assert(address.into(), subnet.prefix_len());
        let ask = match wanted {
            Some(address) => Ask::Claim { address: claim(address), ident },
            None => Ask::Allocate { ident, subnet },
        };
        self.put(cx, ticket, ask);
    }

    /// Puts a question to the address manager, as soon as it is known which addresses the links of this
    /// host use.
    pub(in crate::node) fn put(&mut self, cx: &mut Context<'_>, ticket: Ticket, ask: Ask) {
        if self.containers.forgetful {
            self.containers.early.push((ticket, ask));
            return;
        }
        match self.canary.make_way(cx.facts.now, cx.work, ticket, ask) {
            Some((ticket, ask)) => cx.peers.ipam.ask(cx.facts.now, ticket, ask),
            None => cx.out.disturbed = true,
        }
    }

    /// Takes a question back.
    pub(in crate::node) fn take_back(&mut self, cx: &mut Context<'_>, ticket: Ticket) {
        self.containers.early.retain(|(early, _)| *early != ticket);
        cx.peers.ipam.cancel(ticket);
    }

    /// The address manager has answered for a container. Its link is made once the disk has it. Where it is refused nothing is left of
    /// the container.
    pub(in crate::node) fn on_address(
        &mut self,
        cx: &mut Context<'_>,
        ident: &str,
        result: Result<Vec<Ipv4Net>, Refused>,
    ) -> Result<(), Refused> {
        let Some(attached) = self.containers.all.get(ident).cloned() else { return Ok(()) };
        cx.out.disturbed = true;
        match result {
            Ok(addresses) => {
                let length = cx.facts.config.ipam.range.prefix_len();
                let address = addresses.first().map(|address| Ipv4Net::new_assert(address.addr(), length));
                self.remember(cx, Attached { address, ..attached });
            }
            Err(refused) => {
                self.forget(cx, ident);
                return Err(refused);
            }
        }
        Ok(())
    }

    /// Disconnects a container.
    pub(in crate::node) fn detach(&mut self, cx: &mut Context<'_>, target: &Container) -> Reply {
        if let Container::Name(name) = target
            && self.end_lease(cx, name)
        {
            return Reply::Now(Ok(Response::Done));
        }
        let attached = match target {
            Container::Netns { netns, link } => self.containers.of_netns(netns, Far::NAME, *link),
            Container::Name(name) => {
                self.containers.named(name).or_else(|| self.containers.of_dead_path(name))
            }
        };
        let Some(attached) = attached.cloned() else {
            let coming = match target {
                Container::Netns { netns, .. } => self.containers.coming(netns),
                Container::Name(path) => self.containers.coming_from(path),
            };
            let coming = coming.map(|coming| coming.ident.clone());
            let withdrawn = coming.and_then(|ident| self.containers.successors.remove(&ident));
            // Already gone is success: a runtime may call twice.
            return Reply::Now(Ok(withdrawn.map_or(Response::Absent, |_| Response::Done)));
        };
        self.containers.successors.remove(&attached.ident);
        self.release(cx, &attached);
        match attached.link_address() {
            Some(address) => Reply::When(Waiter::Detach { address }),
            None => Reply::Now(Ok(Response::Done)),
        }
    }

    /// Lets a container go. Its address is taken back once its link was seen gone, so that the next one
    /// that is given the address never inherits the link.
    pub(super) fn release(&mut self, cx: &mut Context<'_>, attached: &Attached) {
        let tickets =
            cx.peers.tickets.drop_where(|purpose| *purpose == Purpose::Attach(attached.ident.clone()));
        tickets.for_each(|ticket| self.take_back(cx, ticket));
        if attached.address.is_none() {
            return self.discard(cx, &attached.ident);
        }
        self.remember(cx, Attached { leaving: true, ..attached.clone() });
        cx.work.converge.host.look_at_changes_by(cx.facts.now);
        cx.out.disturbed = true;
    }

    /// Forgets a container and takes its address back, whatever became of its link.
    fn discard(&mut self, cx: &mut Context<'_>, ident: &str) {
        // An address that the address manager does not know is as good as free.
        let _ = cx.peers.ipam.free(ident, None);
        if let Some(owed) = self.containers.all.get(ident).and_then(|one| one.owed.clone()) {
            let _ = cx.peers.ipam.free(&owed, None);
        }
        self.forget(cx, ident);
        cx.out.disturbed = true;
        if let Some(successor) = self.containers.successors.remove(ident) {
            self.take_in(cx, successor);
        }
    }

    pub(super) fn remember(&mut self, cx: &mut Context<'_>, attached: Attached) {
        cx.out.ledger.write(Write::attached(&attached.ident, Some(&attached)));
        let address = attached.link_address();
        let former = self.containers.all.insert(attached.ident.clone(), attached);
        self.containers.touch(address.into_iter().chain(former.and_then(|former| former.link_address())));
    }

    pub(in crate::node) fn forget(&mut self, cx: &mut Context<'_>, ident: &str) {
        cx.out.ledger.write(Write::attached(ident, None));
        let former = self.containers.all.remove(ident);
        self.containers.touch(former.and_then(|former| former.link_address()));
    }

    /// After a look at the host: containers whose namespace is gone are released, and what a lost
    /// store forgot is learned from the links that are there.
    pub(in crate::node) fn tend(&mut self, cx: &mut Context<'_>) {
        self.tend_bridge(cx);
        self.tend_containers(cx);
        self.tend_blocks(cx);
    }

    fn tend_containers(&mut self, cx: &mut Context<'_>) {
        let Some(host) = cx.work.converge.host.seen() else { return };
        let (parted, moved) = (self.containers.parted(host), self.containers.moved(host));
        if std::mem::take(&mut self.containers.forgetful) {
            let host = host.clone();
            self.learn_from_links(cx, &host);
            cx.out.ledger.write(Write::links_known());
            let avoided = self.avoided(cx.facts, &cx.work.plan);
            cx.peers.ipam.set_avoided(avoided);
            for (ticket, ask) in std::mem::take(&mut self.containers.early) {
                cx.peers.ipam.ask(cx.facts.now, ticket, ask);
            }
        }
        for ident in parted {
            self.discard(cx, &ident);
        }
        for attached in moved {
            self.remember(cx, attached);
        }
    }

    fn learn_from_links(&mut self, cx: &mut Context<'_>, host: &Host) {
        let range = cx.facts.config.ipam.range;
        let known: Vec<Address> = self.containers.all.values().filter_map(Attached::link_address).collect();
        for &address in host.links.keys().filter(|a| Range::from(range).contains(**a) && !known.contains(a)) {
            let cidr = Ipv4Net::new_assert(address.into(), range.prefix_len());
            let ident = format!("found-{}", link_name(address));
            cx.peers.ipam.adopt(&ident, cidr);
            let ports = ports_to(host, address);
            self.remember(cx, Attached { ident, address: Some(cidr), ports, ..Attached::default() });
        }
    }

    /// Lets go of all containers, and of all that was lent, at once.
    pub(in crate::node) fn discard_all(&mut self, cx: &mut Context<'_>) {
        for ident in self.containers.all.keys().cloned().collect::<Vec<String>>() {
            self.discard(cx, &ident);
        }
        self.end_all_leases(cx);
    }

    /// Gives all ranges away, if nothing uses them.
    pub(in crate::node) fn drain(&mut self, cx: &mut Context<'_>) -> Reply {
        if let Some(attached) = self.containers.all().values().next() {
            let message = format!("containers are attached, `{}` among them", attached.ident);
            let refusal = Refusal::new(RefusalKind::Unsafe, message).hint("detach them first");
            return Reply::Now(Err(refusal));
        }
        cx.peers.shun_leavers();
        let drained = cx.peers.ipam.drain(cx.facts.now);
        cx.peers.settle_ipam(cx.facts, cx.out);
        match drained {
            Ok((addresses, to)) => {
                cx.peers.dead.resign(cx.facts.identity.name);
                Reply::When(Waiter::Drain { addresses, to })
            }
            Err(refused) => Reply::Now(Err(Refusal::from(&refused))),
        }
    }

    /// Takes an address back that was handed out to a name, and not to a container.
    pub(in crate::node) fn free(
        &mut self,
        cx: &mut Context<'_>,
        ident: &str,
        address: Option<Address>,
    ) -> Result<Response, Refusal> {
        if self.containers.all().contains_key(ident) {
            let message = format!("`{ident}` is an attached container");
            let hint = format!("run `weavers detach {ident}`");
            return Err(Refusal::new(RefusalKind::Unsafe, message).hint(hint));
        }
        if let Some(user) = cx.peers.ipam.lookup(ident).iter().find_map(|net| self.user_of(net.addr().into()))
        {
            let message = format!("an address of `{ident}` is that of {user}");
            return Err(Refusal::new(RefusalKind::Unsafe, message).hint("stop or detach it before"));
        }
        let freed = cx.peers.ipam.free(ident, address);
        freed.map(Response::Addresses).map_err(|refused| Refusal::from(&refused))
    }

    /// The container whose link has this address, or whom it was lent to.
    fn user_of(&self, address: Address) -> Option<String> {
        let mut all = self.containers.all().values();
        let attached = all.find(|one| one.link_address() == Some(address)).map(Attached::called);
        attached.or_else(|| self.leases.borrower_of(address).map(|ident| format!("`{ident}`")))
    }
}

/// Why a container that is attached does not do where an address of `subnet` is asked for.
pub(in crate::node) fn elsewhere(attached: &Attached, subnet: Option<Ipv4Net>) -> Option<Refusal> {
    let (address, subnet) = (attached.address?.addr(), subnet?);
    if subnet.contains(&address) {
        return None;
    }
    let message =
        format!("it is attached already, as `{}` with {address}, which is not in {subnet}", attached.ident);
    let hint = format!("run `weavers detach {}` before", attached.ident);
    Some(Refusal::new(RefusalKind::Invalid, message).hint(hint))
}
