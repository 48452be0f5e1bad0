//! Docker's networks and endpoints, and the addresses that it was lent.
//!
//! ```text
//!  RequestAddress ─► a lease, filed under a name of its own      Allocate, Claim
//!  CreateEndpoint ─► an attachment at that address               Endpoint
//!  -p             ─► its ports                                   Publish
//!  DeleteEndpoint ─► the attachment goes, once its link is gone  NoEndpoint
//!  ReleaseAddress ─► the lease goes, not before the attachment   Release
//! ```
//!
//! Docker says each of these once, and nothing where it could not reach us. What it has forgotten by its own account, given from time to
//! time ([`Order::Told`]), is let go: not before a minute, and no link that somebody uses.

use std::{collections::BTreeSet, time::Duration};

use ipnet::Ipv4Net;

use super::{
    connect::check_mtu,
    local::{Context, Local},
    ports::check_kinds,
};
use crate::{
    addr::{Address, MTU6_MIN},
    node::{
        boundary::waiting::{Reply, Waiter},
        cluster::peers::Peers,
        facts::{Facts, Leave},
        persist::memory::{Attached, Write},
        protocol::{
            docker::{LEASE, Network, Order, Told, ToldEndpoint},
            request::{Joined, Pool, Refusal, RefusalKind, Response, leaving},
        },
        reconcile::Reconcile,
    },
    state::{Far, Key, Kind, Mac, Port, PortRange},
};

/// How long Docker must have known nothing of a thing.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// Networks of one host. Docker itself has room for fewer.
const NETWORKS_MAX: usize = 4096;

impl Local {
    /// Does what Docker says.
    pub(in crate::node) fn on_docker(&mut self, cx: &mut Context<'_>, order: Order) -> Reply {
        let answer = match order {
            Order::Pool { pool, part } => pool_within(cx.facts.config.ipam.range, pool, part),
            Order::Network { id, network, pools, subnet } => {
                expect_of_subnet(cx.facts, &pools, subnet).and_then(|()| self.learn_network(cx, id, network))
            }
            Order::NoNetwork { id } => {
                self.forget_network(cx, &id);
                Ok(Response::Done)
            }
            Order::Endpoint { network, id, address, mac } => {
                return self.begin_endpoint(cx, &key(&network, &id), address, mac).into();
            }
            Order::Join { network, id, sandbox } => self.join(cx, &network, &id, sandbox),
            Order::Publish { network, id, ports, in_use } => {
                return self.publish(cx, &key(&network, &id), ports, &in_use).into();
            }
            Order::Unpublish { network, id } => {
                if let Some(known) = self.endpoint(&network, &id).ok().cloned() {
                    self.remember(cx, Attached { ports: Vec::new(), ..known });
                }
                Ok(Response::Done)
            }
            Order::NoEndpoint { network, id } => match self.end_endpoint(cx, &network, &id) {
                Some(waiter) => return Reply::When(waiter),
                None => Ok(Response::Done),
            },
            Order::Release { address } => {
                self.take_back_lease(cx, address);
                Ok(Response::Done)
            }
            Order::Pending => {
                Ok(if self.has_of_docker(cx.peers) { Response::Done } else { Response::Absent })
            }
            Order::Told(networks) => {
                self.on_told(cx, networks);
                Ok(Response::Done)
            }
        };
        Reply::Now(answer)
    }

    fn learn_network(
        &mut self,
        cx: &mut Context<'_>,
        id: String,
        network: Network,
    ) -> Result<Response, Refusal> {
        let invalid = |message: String| Refusal::new(RefusalKind::Invalid, message);
        key(&id, "endpoint").check().map_err(|wrong| invalid(wrong.to_string()))?;
        check_mtu(network.mtu)?;
        let networks = &mut self.docker.networks;
        if networks.len() >= NETWORKS_MAX && !networks.contains_key(&id) {
            return Err(invalid(format!("there are {NETWORKS_MAX} networks already")));
        }
        cx.out.ledger.write(Write::network(&id, Some(&network)));
        networks.insert(id, network);
        Ok(Response::Done)
    }

    fn forget_network(&mut self, cx: &mut Context<'_>, id: &str) {
        if self.docker.networks.remove(id).is_some() {
            cx.out.ledger.write(Write::network(id, None));
        }
    }

    // ===== endpoints =====

    /// Whoever is asked to connect an endpoint of a network that a lost store forgot does so, as of one without options.
    fn begin_endpoint(
        &mut self,
        cx: &mut Context<'_>,
        key: &Key,
        address: Address,
        mac: Option<Mac>,
    ) -> Result<Waiter, Refusal> {
        let refused = |kind, message: String| Refusal::new(kind, message);
        key.check().map_err(|wrong| refused(RefusalKind::Invalid, wrong.to_string()))?;
        if cx.facts.leave != Leave::No {
            return Err(leaving());
        }
        let ident = key.ident();
        if let Some(known) = self.containers.all().get(&ident).filter(|known| !known.leaving) {
            if known.link_address() == Some(address) {
                return Ok(Waiter::Connect { ident, made: false });
            }
            return Err(refused(RefusalKind::Taken, format!("endpoint {} has another address", key.id)));
        }
        if !cx.peers.holder(address).is_some_and(|holder| holder.starts_with(LEASE)) {
            let message = format!("address {address} was not handed out by the IPAM driver of weavers");
            let hint = "create the network with --ipam-driver weavers";
            return Err(refused(RefusalKind::Invalid, message).hint(hint));
        }
        if let Some(other) = self.containers.all().values().find(|one| one.link_address() == Some(address)) {
            let message = match other.leaving {
                true => format!("the link of {address} is still being removed"),
                false => format!("address {address} is that of `{}`", other.ident),
            };
            return Err(refused(RefusalKind::Taken, message));
        }
        let mtu = self.docker.networks.get(&key.network).and_then(|network| network.mtu);
        self.remember(
            cx,
            Attached {
                ident: ident.clone(),
                address: Some(Ipv4Net::new_assert(address.into(), cx.facts.config.ipam.range.prefix_len())),
                key: Some(key.clone()),
                far: Far::to_be_moved(address, mac),
                mtu,
                boot: Some(cx.facts.boot.clone()),
                ..Attached::default()
            },
        );
        Ok(Waiter::Connect { ident, made: true })
    }

    /// Docker gives a container neither two routes to the range nor two to its gateway, and would say less clearly why.
    fn join(
        &mut self,
        cx: &mut Context<'_>,
        network: &str,
        id: &str,
        sandbox: String,
    ) -> Result<Response, Refusal> {
        let attached = self.endpoint(network, id)?.clone();
        let is_other = |one: &&Attached| {
            one.sandbox.as_ref() == Some(&sandbox) && one.ident != attached.ident && !one.leaving
        };
        if let Some(other) = self.containers.all().values().find(is_other) {
            let message = format!("the container is on a network of weavers already, as {}", other.called());
            let hint = "one is enough: containers of all of them reach each other";
            return Err(Refusal::new(RefusalKind::Invalid, message).hint(hint));
        }
        if attached.sandbox.as_ref() != Some(&sandbox) && !sandbox.is_empty() {
            self.remember(cx, Attached { sandbox: Some(sandbox), ..attached.clone() });
        }
        let network6 = cx.facts.config.network.ipv6;
        let has_v6 = attached.mtu.or(cx.facts.config.network.mtu).is_none_or(|mtu| mtu >= MTU6_MIN);
        let range = cx.facts.config.ipam.range;
        Ok(Response::Joined(Joined {
            interface: attached.far.name.clone(),
            range,
            range6: network6.filter(|_| has_v6).map(|prefix| prefix.cidr(range.trunc())),
            internal: self.docker.networks.get(network).is_some_and(|network| network.internal),
        }))
    }

    fn publish(
        &mut self,
        cx: &mut Context<'_>,
        key: &Key,
        ports: Vec<PortRange>,
        in_use: &[Port],
    ) -> Result<Waiter, Refusal> {
        let known = self.endpoint(&key.network, &key.id)?.clone();
        check_kinds(cx.facts, &ports)?;
        let ports = self.chosen_ports(&known.ident, ports, in_use)?;
        let ident = known.ident.clone();
        if known.ports != ports {
            self.remember(cx, Attached { ports, ..known });
        }
        Ok(Waiter::Connect { ident, made: false })
    }

    /// Already gone is success.
    fn end_endpoint(&mut self, cx: &mut Context<'_>, network: &str, id: &str) -> Option<Waiter> {
        let known = self.containers.all().get(&key(network, id).ident())?.clone();
        let address = known.link_address()?;
        self.release(cx, &known);
        Some(Waiter::Detach { address })
    }

    /// An address that is some container's stays until its link is gone. Of one that nobody has lent nothing is taken back, but for that of a
    /// link that a lost store left and nobody uses.
    fn take_back_lease(&mut self, cx: &mut Context<'_>, address: Address) {
        let attached =
            self.containers.all().values().find(|one| one.link_address() == Some(address)).cloned();
        let lease = cx.peers.holder(address).filter(|holder| holder.starts_with(LEASE));
        match (attached, lease) {
            (Some(attached), Some(lease)) => self.remember(cx, Attached { owed: Some(lease), ..attached }),
            (Some(attached), None) if attached.is_found() && is_idle(cx.work, address) => {
                self.release(cx, &attached);
            }
            (None, Some(lease)) => {
                let _ = cx.peers.ipam.free(&lease, None);
                cx.out.disturbed = true;
            }
            (_, None) => {}
        }
    }

    // ===== what Docker knows =====

    fn on_told(&mut self, cx: &mut Context<'_>, networks: Vec<Told>) {
        let mut missing: BTreeSet<String> = self.docker.networks.keys().cloned().collect();
        let has_networks = !networks.is_empty();
        let mut used = BTreeSet::new();
        let mut known = BTreeSet::new();
        for Told { id, network, endpoints, reserved } in networks {
            if !missing.remove(&id) {
                // A lost store forgot it; one that cannot be is none of ours.
                let _ = self.learn_network(cx, id.clone(), network);
            }
            used.extend(reserved);
            for endpoint in endpoints {
                used.extend(endpoint.address);
                known.insert(key(&id, &endpoint.id).ident());
                self.learn_endpoint(cx, &id, endpoint);
            }
        }
        // Whose a link is that a lost store left was learned just now, if Docker knows it.
        let unheard = |one: &&Attached| {
            (is_dockers(one) || has_networks && one.is_found())
                && !one.leaving
                && !known.contains(&one.ident)
                && one.link_address().is_none_or(|address| is_idle(cx.work, address))
        };
        let all = self.containers.all().values();
        missing.extend(all.filter(unheard).map(|one| one.ident.clone()));
        let attached: BTreeSet<Address> =
            self.containers.all().values().filter_map(Attached::link_address).collect();
        let is_used = |address: &Address| used.contains(address) || attached.contains(address);
        missing.extend(
            leases(cx.peers).filter(|(_, address)| !is_used(address)).map(|(ident, _)| ident.clone()),
        );
        self.let_go_of_forgotten(cx, missing);
    }

    fn let_go_of_forgotten(&mut self, cx: &mut Context<'_>, missing: BTreeSet<String>) {
        let before = std::mem::take(&mut self.docker.missing);
        for name in missing {
            let since = before.get(&name).copied().unwrap_or(cx.facts.now);
            if cx.facts.now.since(since) < FORGOTTEN_AFTER {
                self.docker.missing.insert(name, since);
            } else if let Some(attached) = self.containers.all().get(&name).cloned() {
                self.let_go(cx, attached);
            } else if name.starts_with(LEASE) {
                let _ = cx.peers.ipam.free(&name, None);
                cx.out.disturbed = true;
            } else {
                self.forget_network(cx, &name);
            }
        }
    }

    /// Releases a container, and with it what Docker was lent for it and will not give back.
    pub(super) fn let_go(&mut self, cx: &mut Context<'_>, attached: Attached) {
        let lease = attached.link_address().and_then(|address| cx.peers.holder(address));
        let owed = lease.filter(|holder| holder.starts_with(LEASE)).or(attached.owed.clone());
        self.release(cx, &Attached { owed, ..attached });
    }

    /// Its container's name; and where a lost store left its link alone, whose that is.
    fn learn_endpoint(&mut self, cx: &mut Context<'_>, network: &str, told: ToldEndpoint) {
        let key = key(network, &told.id);
        if let Some(known) = self.containers.all().get(&key.ident()).cloned() {
            if known.label.as_ref() != Some(&told.name) && !known.leaving {
                self.remember(cx, Attached { label: Some(told.name), ..known });
            }
            return;
        }
        let all = self.containers.all().values();
        let at_address = |one: &&Attached| told.address.is_some() && one.link_address() == told.address;
        let Some(found) = all.filter(|one| one.is_found()).find(at_address).cloned() else { return };
        let (Some(address), Ok(())) = (told.address, key.check()) else { return };
        self.forget(cx, &found.ident);
        self.remember(
            cx,
            Attached {
                ident: key.ident(),
                address: found.address,
                owed: Some(found.ident),
                far: Far::to_be_moved(address, told.mac.filter(|mac| *mac != Mac::of(address))),
                mtu: self.docker.networks.get(network).and_then(|network| network.mtu),
                label: Some(told.name),
                key: Some(key),
                ports: found.ports,
                boot: Some(cx.facts.boot.clone()),
                ..Attached::default()
            },
        );
    }

    /// What a lost store left may be Docker's, too.
    fn has_of_docker(&self, peers: &Peers) -> bool {
        let may_be = |one: &Attached| is_dockers(one) || one.is_found();
        !self.docker.networks.is_empty()
            || self.containers.all().values().any(may_be)
            || leases(peers).next().is_some()
    }

    fn endpoint(&self, network: &str, id: &str) -> Result<&Attached, Refusal> {
        let known = self.containers.all().get(&key(network, id).ident()).filter(|one| !one.leaving);
        known.ok_or_else(|| Refusal::new(RefusalKind::NotFound, format!("endpoint {id} is not known")))
    }
}

fn key(network: &str, id: &str) -> Key {
    let (network, id) = (network.to_owned(), id.to_owned());
    Key { kind: Kind::Docker, network, id, interface: "eth".to_owned() }
}

fn is_dockers(attached: &Attached) -> bool {
    attached.key.as_ref().is_some_and(|key| key.kind == Kind::Docker)
}

/// Addresses that Docker was lent, with the names that they are filed under.
fn leases(peers: &Peers) -> impl Iterator<Item = (&String, Address)> {
    let of_docker = peers.ipam.allocations().range(LEASE.to_owned()..);
    let of_docker = of_docker.take_while(|(ident, _)| ident.starts_with(LEASE));
    of_docker.flat_map(|(ident, nets)| nets.iter().map(move |net| (ident, net.addr().into())))
}

/// Whether nobody has the other end of this link, as far as was seen.
fn is_idle(work: &Reconcile, address: Address) -> bool {
    let Some(host) = work.converge.host.seen() else { return false };
    host.idle.contains(&address) || !host.links.contains_key(&address)
}

/// Docker before version 27 asks for another pool for ever where it finds that one overlaps a route of the host, as each does.
fn pool_within(range: Ipv4Net, pool: Option<Ipv4Net>, part: Option<Ipv4Net>) -> Result<Response, Refusal> {
    let invalid = |message: String| Refusal::new(RefusalKind::Invalid, message);
    let way_out = format!("name the subnet: --subnet {range}");
    let Some(pool) = pool.map(|pool| pool.trunc()) else {
        return Err(invalid("a network of weavers has no subnet of its own".to_owned()).hint(way_out));
    };
    let from = part.map_or(pool, |part| part.trunc());
    if !range.contains(&pool) || !pool.contains(&from) {
        let wrong = if range.contains(&pool) { from } else { pool };
        return Err(invalid(format!("{wrong} is outside [ipam] range {range}")).hint(way_out));
    }
    if from.prefix_len() > 30 {
        return Err(invalid(format!("{from} has no room for containers")).hint(way_out));
    }
    let from = (from != range).then_some(from);
    Ok(Response::Addresses([Some(pool), from].into_iter().flatten().collect()))
}

/// Addresses are lent before it is known for which network.
fn expect_of_subnet(facts: &Facts, pools: &[Ipv4Net], subnet: Option<String>) -> Result<(), Refusal> {
    let Some(name) = subnet else { return Ok(()) };
    let cidr = facts.named_subnet(Some(Pool::Named(name.clone())))?.unwrap_or_default();
    match pools.iter().find(|pool| !cidr.contains(*pool)) {
        None => Ok(()),
        Some(pool) => {
            let message = format!("addresses of {pool} are not those of subnet {name}");
            Err(Refusal::new(RefusalKind::Invalid, message).hint(format!("take --subnet {cidr}")))
        }
    }
}
