//! What is asked, and by whom it is answered.

use std::collections::BTreeSet;

use ipnet::Ipv4Net;

use super::{
    Node,
    facts::{Facts, Leave},
    io::Output,
    local::Local,
    memory::Attached,
    overview::Overview,
    peers::Peers,
    request::{Pool, Refusal, RefusalKind, Request, RequestId, Response},
    status::Piece,
    waiting::{Purpose, Sight, Waiter},
};
use crate::{
    addr::{Address, Range},
    ipam::{Ask, Refused, Ticket},
    peer::PeerName,
    state::Target,
};

impl Node {
    pub(super) fn on_asked(&mut self, id: RequestId, request: Request) {
        match request {
            Request::Status => self.out.answer(id, Ok(Response::Status(Box::new(self.overview().status())))),
            Request::Confirm => self.on_confirm(id),
            Request::CanConnect => {
                let answer = self.overview().can_connect();
                self.out.answer(id, answer);
            }
            Request::Range => {
                self.out.answer(id, Ok(Response::Addresses(vec![self.facts.config.ipam.range])))
            }
            Request::ShowRing => self.out.answer(id, Ok(Response::Ring(self.overview().pieces()))),
            Request::Free { ident, address } => self.on_free(id, &ident, address),
            Request::Lookup { ident } => {
                let found = self.peers.ipam.lookup(&ident).to_vec();
                self.out.answer(id, Ok(Response::Addresses(found)));
            }
            // What is above keeps nobody waiting.
            _ if self.waiting.is_full() => self.out.answer(id, Err(Refusal::busy())),
            Request::Apply => self.on_apply(id),
            Request::AwaitReady => self.waiting.add(self.facts.now, id, Waiter::Ready),
            Request::Attach { .. }
            | Request::Connect { .. }
            | Request::Allocate { .. }
            | Request::Claim { .. }
                if self.facts.leave != Leave::No =>
            {
                self.out.answer(id, Err(leaving()));
            }
            Request::Attach { netns, link, name, subnet } => match self.facts.named_subnet(subnet) {
                Ok(subnet) => self.on_attach(id, netns, link, name, subnet),
                Err(refusal) => self.out.answer(id, Err(refusal)),
            },
            Request::Connect { netns, link, wish } => self.on_connect(id, netns, link, wish),
            Request::Docker(order) => self.on_docker(id, order),
            Request::Check { key, netns } => self.on_check(id, &key, &netns),
            Request::Collect => {
                self.work.converge.host.look_by(self.facts.now);
                self.waiting.add(self.facts.now, id, Waiter::Looked);
                self.out.disturbed = true;
            }
            Request::Detach { target } => self.on_detach(id, &target),
            Request::Examine => self.tell_anew(id, Sight::Status),
            Request::Plan => self.tell_anew(id, Sight::Plan),
            Request::Explain { address } => self.tell_anew(id, Sight::Address(address)),
            Request::Allocate { ident, subnet } => match self.facts.named_subnet(subnet) {
                Ok(subnet) => {
                    let subnet = subnet.unwrap_or(self.facts.config.ipam.default_subnet);
                    self.ask(id, Ask::Allocate { ident, subnet });
                }
                Err(refusal) => self.out.answer(id, Err(refusal)),
            },
            Request::Claim { ident, address } => {
                let length = self.facts.config.ipam.default_subnet.prefix_len();
                self.ask(id, Ask::Claim { ident, address: Ipv4Net::new_assert(address.into(), length) });
            }
            Request::Forget { peer, alone: false } => self.on_forget(id, &peer),
            Request::Forget { peer, alone: true } => self.on_forget_alone(id, &peer),
            Request::Drain => self.on_drain(id),
            Request::Reset => self.on_reset(id),
        }
    }

    pub(super) fn on_cancelled(&mut self, id: RequestId) {
        self.withdraw_order(id);
        if let Some(waiter) = self.waiting.take(id) {
            self.undo_connect(&waiter);
        }
        for ticket in self.waiting.cancel(id) {
            self.take_back(ticket);
        }
    }

    /// Somebody asks: look at once, and try again what was refused.
    pub(super) fn hurry(&mut self) {
        self.work.quotas.doubt();
        self.out.outputs.push_back(Output::DoubtCheck);
        self.work.converge.hurry(self.facts.now);
    }

    fn on_apply(&mut self, id: RequestId) {
        self.hurry();
        self.waiting.add(self.facts.now, id, Waiter::Converged(Vec::new()));
        self.out.disturbed = true;
    }

    fn ask(&mut self, id: RequestId, ask: Ask) {
        let ticket = self.waiting.ticket(Purpose::Request(id));
        self.put(ticket, ask);
    }

    pub(super) fn on_ipam_answer(&mut self, ticket: Ticket, result: Result<Vec<Ipv4Net>, Refused>) {
        self.out.disturbed |= !self.overview().leaves_room();
        match self.waiting.spend(ticket) {
            Some(Purpose::Attach(ident)) => self.on_address(ident, result),
            Some(Purpose::Request(id)) => {
                let result = result.map(Response::Addresses).map_err(|refused| Refusal::from(&refused));
                self.out.answer(id, result);
            }
            None => {}
        }
    }

    fn on_free(&mut self, id: RequestId, ident: &str, address: Option<Address>) {
        if self.local.containers.all().contains_key(ident) {
            let message = format!("`{ident}` is an attached container");
            let hint = format!("run `weavers detach {ident}`");
            return self.out.answer(id, Err(Refusal::new(RefusalKind::Unsafe, message).hint(hint)));
        }
        if let Some(user) =
            self.peers.ipam.lookup(ident).iter().find_map(|net| self.local.user_of(net.addr().into()))
        {
            let message = format!("an address of `{ident}` is that of {user}");
            let refusal = Refusal::new(RefusalKind::Unsafe, message).hint("stop or detach it before");
            return self.out.answer(id, Err(refusal));
        }
        let freed = self.peers.ipam.free(ident, address);
        self.out.answer(id, freed.map(Response::Addresses).map_err(|refused| Refusal::from(&refused)));
    }

    /// Gives all ranges away, if nothing uses them.
    fn on_drain(&mut self, id: RequestId) {
        if let Some(attached) = self.local.containers.all().values().next() {
            let message = format!("containers are attached, `{}` among them", attached.ident);
            let refusal = Refusal::new(RefusalKind::Unsafe, message).hint("detach them first");
            return self.out.answer(id, Err(refusal));
        }
        self.shun_leavers();
        let drained = self.peers.ipam.drain(self.facts.now);
        self.settle_ipam();
        match drained {
            Ok((addresses, to)) => {
                self.out.disturbed = true;
                self.resign();
                self.waiting.add(self.facts.now, id, Waiter::Drain { addresses, to });
            }
            Err(refused) => self.out.answer(id, Err(Refusal::from(&refused))),
        }
    }

    /// Undoes everything on this host: containers, rules, routes; ranges go to an heir if there is one.
    fn on_reset(&mut self, id: RequestId) {
        for ident in self.local.containers.all().keys().cloned().collect::<Vec<String>>() {
            self.discard(&ident);
        }
        let others: Vec<String> = self.peers.ipam.allocations().keys().cloned().collect();
        for ident in others {
            let _ = self.peers.ipam.free(&ident, None);
        }
        self.shun_leavers();
        // Refused where it was done before.
        let _ = self.peers.ipam.drain(self.facts.now);
        self.settle_ipam();
        let shares = self.peers.ipam.ring().shares();
        let has_heir = !shares.is_empty() && !shares.contains_key(&self.facts.identity.name);
        self.facts.leave = if has_heir { Leave::HandingOver } else { Leave::Withdrawing };
        self.resign();
        self.hurry();
        self.out.disturbed = true;
        self.waiting.add(self.facts.now, id, Waiter::Reset);
    }
}

impl Facts {
    /// The addresses of what a caller names, if it names any.
    pub(super) fn named_subnet(&self, pool: Option<Pool>) -> Result<Option<Ipv4Net>, Refusal> {
        let name = match pool {
            None => return Ok(None),
            Some(Pool::Cidr(cidr)) => return Ok(Some(cidr)),
            Some(Pool::Named(name)) => name,
        };
        let subnets = &self.config.ipam.isolation.subnets;
        if let Some(subnet) = subnets.get(&name) {
            return Ok(Some(subnet.cidr));
        }
        let known: Vec<&str> = subnets.keys().map(String::as_str).collect();
        let hint = if known.is_empty() {
            "name a CIDR, or add an [[ipam.subnet]] to weave.toml and reload".to_owned()
        } else {
            format!("name a CIDR, or one of {}", known.join(", "))
        };
        Err(Refusal::new(RefusalKind::NotFound, format!("there is no subnet `{name}`")).hint(hint))
    }
}

impl Local {
    /// The container whose link has this address.
    fn user_of(&self, address: Address) -> Option<String> {
        let mut all = self.containers.all().values();
        all.find(|one| one.link_address() == Some(address)).map(Attached::called)
    }
}

impl Peers {
    pub(super) fn find_peer(&self, text: &str) -> Result<PeerName, Refusal> {
        let owners = self.ipam.owners();
        let electors = self.dead.takeover.log().into_iter().flat_map(|log| log.electors());
        let names: BTreeSet<PeerName> =
            owners.iter().map(|(_, owner)| owner).chain(electors).copied().collect();
        let by_nickname: Vec<PeerName> =
            names.into_iter().filter(|name| self.ipam.nickname(*name) == Some(text)).collect();
        match (by_nickname.as_slice(), text.parse()) {
            ([name], _) => Ok(*name),
            ([], Ok(name)) => Ok(name),
            ([], Err(_)) => {
                Err(Refusal::new(RefusalKind::NotFound, format!("no peer `{text}` owns anything"))
                    .hint("`weavers ipam show` lists the owners"))
            }
            (several, _) => {
                let names: Vec<String> = several.iter().map(ToString::to_string).collect();
                let message = format!("nickname `{text}` is borne by {}", names.join(" and "));
                Err(Refusal::new(RefusalKind::Invalid, message).hint("name the peer by its name"))
            }
        }
    }

    fn used_in(&self, range: Range) -> u32 {
        let used = self.ipam.allocations().values().flatten();
        used.filter(|cidr| range.contains(cidr.addr().into())).count() as u32
    }
}

impl Overview<'_> {
    /// Whether some route was last read leading to our interface.
    pub(super) fn routes_lead_here(&self) -> bool {
        let Some(vpc) = self.work.converge.vpc.seen() else { return false };
        let range = Range::from(self.facts.config.ipam.range);
        let mut routes = vpc.tables.values().flat_map(|table| &table.routes);
        routes.any(|(cidr, route)| {
            range.covers((*cidr).into()) && route.target == Target::Interface(vpc.interface.clone())
        })
    }

    pub(super) fn pieces(&self) -> Vec<Piece> {
        let me = self.facts.identity.name;
        self.peers
            .ipam
            .ring()
            .pieces()
            .map(|(range, entry)| Piece {
                range: range.to_string(),
                size: range.len(),
                peer: entry.owner,
                nickname: self.peers.ipam.nickname(entry.owner).map(str::to_owned),
                reachable: entry.owner == me || self.peers.mesh.is_reachable(entry.owner),
                own: entry.owner == me,
                free: if entry.owner == me { range.len() - self.peers.used_in(range) } else { entry.free },
            })
            .collect()
    }
}

pub(super) fn leaving() -> Refusal {
    Refusal::new(RefusalKind::Failed, "this host is leaving the cluster")
}
