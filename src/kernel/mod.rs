//! Linux: look at links, routes, sysctls and nftables, and change one thing at a time.
//!
//! ```text
//!  Kernel::observe ─► link, far, route,    rtnetlink, here and, within bounds, inside each
//!                     address, neighbour   container's namespace
//!                     sysctl, tracking     /proc
//!                     nft, forward         nft
//!                     path                 rtnetlink: what would become of a packet
//!  Kernel::apply   ─► the same, one action
//!  watch           ─► somebody changed something: look again
//! ```
//!
//! Decides nothing: `plan` does. Only this module names rtnetlink. It works in the network namespace
//! of the thread that calls it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::Ipv4Addr,
    pin::pin,
};

use futures_util::{Stream, StreamExt, stream::FuturesUnordered};
use ipnet::Ipv4Net;
use rtnetlink::Handle;

use crate::{
    addr::Address,
    state::{Action, Fault, FaultKind, Host, Link, Netns, Scope, link_name},
};

mod address;
mod bound;
pub mod canary;
mod event;
mod far;
mod fault;
mod forward;
mod generation;
mod known;
mod link;
mod listing;
mod neighbour;
pub mod netns;
mod nft;
mod path;
mod published;
mod raw;
pub mod removal;
mod route;
mod source;
mod sysctl;
mod tracking;
pub mod uplink;
mod visit;
pub mod watch;
mod ways;

use fault::{fault, found};
use known::Known;
use link::{End, Seen, Wanted};
use published::Publisher;
use removal::Remover;
use visit::Visitor;
use watch::{Changes, Told};

/// The host's network, seen and changed from the namespace in which it was made.
pub struct Kernel {
    handle: Handle,
    /// Is answered what was asked for only.
    strict: Handle,
    nft: nft::Nft,
    published: Publisher,
    forward: forward::Observed,
    tracking: tracking::Watch,
    changes: Changes,
    known: Known,
}

impl Kernel {
    /// Connects to the kernel; the connection lives on the current tokio runtime. `changes` are those of a watch that began
    /// before: without one every look has to be whole.
    pub fn new(changes: Changes) -> Result<Kernel, Fault> {
        let cannot = |error: io::Error| fault("connecting to rtnetlink", &error);
        let (connection, handle, _) = rtnetlink::new_connection().map_err(cannot)?;
        tokio::spawn(connection);
        let (connection, strict, _) = rtnetlink::new_connection_with_strict_check().map_err(cannot)?;
        tokio::spawn(connection);
        Ok(Kernel {
            handle,
            strict,
            nft: nft::Nft::default(),
            published: Publisher::default(),
            forward: forward::Observed::default(),
            tracking: tracking::Watch::default(),
            changes,
            known: Known::default(),
        })
    }

    /// What is, of what is ours. `wanted` says which settings to read, which rules to compare with, and how
    /// each link should be; a link that is not wanted is observed without its namespace.
    pub async fn observe(&mut self, wanted: &Host, scope: Scope) -> Result<Host, Fault> {
        // A look that fails leaves nothing that is known, so that the next one is whole.
        let (mut told, mut known) = (self.changes.take(), std::mem::take(&mut self.known));
        // The kernel tells of our own changes as well, a little later.
        told.interfaces.extend(self.acted_on(&mut known).await?);
        let seen = self.look(scope, &told, known.seen()).await?;
        known.forget(scope, &told, &seen);
        self.changes.care_for(seen.ours().values().filter_map(|end| end.namespace).collect());
        let rules = self.nft.observe(wanted.rules.as_ref()).await?;
        let ports = self.published.observe(wanted.ports.as_ref()).await?;
        let forward = self.forward.observe(&uplinks_of(wanted)).await?;
        let links = observe_links(&seen, wanted, &mut known, scope).await?;
        let path::Paths { paths, uplinks } =
            path::observe(&self.handle, &seen, wanted, &links, &known).await?;
        known.keep_paths(&paths);
        let host = Host {
            sysctls: sysctl::observe(wanted.sysctls.keys())?,
            rules,
            forward,
            gateway: seen.addresses.iter().any(address::is_gateway),
            blocks: seen.routes.blocks(),
            gone: gone(wanted, &links),
            idle: idle(&seen, wanted),
            ports,
            links,
            foreign: foreign(&seen, wanted),
            uplinks,
            others: BTreeSet::new(),
            paths,
            tracking: self.tracking.observe(),
        };
        known.keep_seen(seen);
        self.known = known;
        Ok(host)
    }

    /// The interfaces of links that were changed by ours since the look before.
    async fn acted_on(&self, known: &mut Known) -> Result<BTreeSet<u32>, Fault> {
        let (addresses, mut interfaces) = known.acted_on();
        for address in addresses {
            let end = link::find(&self.handle, &link_name(address)).await?;
            interfaces.extend(end.map(|end| end.index));
        }
        Ok(interfaces)
    }

    /// The host's side. Where only links of ours have changed, only they are read.
    async fn look(&self, scope: Scope, told: &Told, before: Option<Seen>) -> Result<Seen, Fault> {
        let narrow = scope == Scope::Changed && !told.lost && !told.elsewhere;
        if let Some(before) = before.filter(|_| narrow)
            && let Some(seen) = before.renewed(&self.handle, &self.strict, &told.interfaces).await?
        {
            return Ok(seen);
        }
        Seen::look(&self.handle).await
    }

    /// Carries out one action. What is already there, or already gone, is success.
    pub async fn apply(&mut self, action: &Action) -> Result<(), Fault> {
        let host = &self.handle;
        if let Action::AddBlock(_) | Action::DeleteBlock(_) = action {
            drop(self.known.seen());
        }
        match action {
            Action::SetSysctl { name, value } => sysctl::set(name, value),
            Action::LoadRules(rules) => {
                expect_uplink(host, &rules.uplinks).await?;
                self.nft.load(rules).await
            }
            Action::SetPorts(ports) => self.published.set(ports).await,
            Action::OpenForward { uplinks } => forward::open(uplinks).await,
            Action::AddBlock(cidr) => route::ensure(host, &route::Entry::block(*cidr)).await,
            Action::AddGateway => address::add_gateway(host).await,
            Action::CreateLink { .. } | Action::MendLink { .. } | Action::MakePair { .. } => {
                let ended = pin!(self.apply_to_links(vec![action.clone()]).await).next().await;
                ended.map_or(Ok(()), |(_, result)| result)
            }
            Action::DeleteLink(address) => {
                let mut results = self.remover().remove(BTreeSet::from([*address])).await;
                results.remove(address).unwrap_or(Ok(()))
            }
            Action::DeleteGateway => address::remove_gateway(host).await,
            Action::DeleteBlock(cidr) => route::remove(host, &route::Entry::block(*cidr)).await,
            Action::CloseForward => forward::close().await,
            Action::DeleteRules => self.nft.delete().await,
            Action::DisableCheck { .. }
            | Action::ReplaceRoute { .. }
            | Action::CreateRoute { .. }
            | Action::DeleteRoute { .. } => Err(not_here(action)),
        }
    }

    /// Makes and mends links side by side, and tells of each as it ends.
    pub async fn apply_to_links(
        &mut self,
        actions: Vec<Action>,
    ) -> impl Stream<Item = (Action, Result<(), Fault>)> + Send + use<> {
        let creates = |action: &Action| matches!(action, Action::CreateLink { .. } | Action::MakePair { .. });
        let fenced = match actions.iter().any(creates) {
            true => self.nft.expect_unchanged().await,
            false => Ok(()),
        };
        actions.iter().for_each(|action| self.known.act_on(action));
        let work = actions.into_iter().map(|action| {
            let fenced = if creates(&action) { fenced.clone() } else { Ok(()) };
            async move {
                let result = match fenced {
                    Ok(()) => link_action(&action).await,
                    Err(fault) => Err(fault),
                };
                (action, result)
            }
        });
        work.collect::<FuturesUnordered<_>>()
    }

    /// Removes links, also while a look is under way.
    pub fn remover(&self) -> Remover {
        Remover { changes: self.changes.clone() }
    }
}

/// Makes or mends a link, on a thread of its own.
async fn link_action(action: &Action) -> Result<(), Fault> {
    let what = |address| format!("making link {}", link_name(address));
    match action.clone() {
        Action::CreateLink { address, netns, mtu, range, far }
        | Action::MendLink { address, netns, mtu, range, far } => {
            let work = async move |visitor: visit::Visitor| {
                link::ensure(&visitor, &netns, &Wanted { address, mtu, range, far: &far }).await
            };
            visit::apart(&what(address), bound::CHANGE, work).await
        }
        Action::MakePair { address, mtu, far } => {
            let work = async move |visitor: visit::Visitor| {
                let range = Ipv4Net::from(Ipv4Addr::from(address));
                link::ensure_pair(&visitor, &Wanted { address, mtu, range, far: &far }).await
            };
            visit::apart(&what(address), bound::CHANGE, work).await
        }
        _ => Err(not_here(action)),
    }
}

fn not_here(action: &Action) -> Fault {
    found(FaultKind::Invalid, format!("not an action of this kind: {action:?}"))
}

/// The links of ours. Containers are looked into where something may have changed.
async fn observe_links(
    seen: &Seen,
    wanted: &Host,
    known: &mut Known,
    scope: Scope,
) -> Result<BTreeMap<Address, Link>, Fault> {
    let ours = seen.ours();
    let (mut links, mut visits) = (BTreeMap::new(), Vec::new());
    for (&address, &end) in &ours {
        let mut link = Link { mtu: end.mtu, ..Link::default() };
        if let Some(wanted) = wanted.links.get(&address)
            && (wanted.netns.is_some() || wanted.far.moved)
        {
            let right = Wanted { address, mtu: wanted.mtu, range: wanted.range, far: &wanted.far };
            (link.range, link.far) = (wanted.range, wanted.far.clone());
            let is_sound = known.is_sound(address, end, wanted);
            if !is_sound || scope != Scope::Changed {
                link.faults = seen.faults(end, &right);
            }
            link.netns = known.netns(address).filter(|_| is_sound).cloned();
            // What a runtime moved is not looked into.
            if let Some(netns) = wanted.netns.as_ref().filter(|_| !is_sound) {
                let mac = seen.mac_of(end, address).map(Into::into);
                let (end, wanted, netns) = (end.clone(), wanted.clone(), netns.clone());
                visits.push(Visit { address, end, wanted, netns, mac });
            }
        }
        links.insert(address, link);
    }
    let addresses: Vec<Address> = visits.iter().map(|visit| visit.address).collect();
    let found = visit::each(visits, |visitor, visit| Box::pin(look_inside(visitor, visit))).await;
    for (address, found) in addresses.into_iter().zip(found) {
        let Some(link) = links.get_mut(&address) else { continue };
        match found {
            Ok((netns, faults)) => {
                link.netns = Some(netns);
                link.faults.extend(faults);
            }
            Err(fault) => link.faults.push(fault.message),
        }
        link.faults = bound::faults(std::mem::take(&mut link.faults));
    }
    for (address, link) in &links {
        match wanted.links.get(address) {
            Some(wanted) if link.is_sound() => {
                known.keep_link(*address, ours[address], wanted, link.netns.as_ref());
            }
            Some(_) | None => known.forget_link(*address),
        }
    }
    Ok(links)
}

/// A link that is to be looked at from inside its container.
struct Visit {
    address: Address,
    end: End,
    wanted: Link,
    netns: Netns,
    /// Where the host finds the container.
    mac: Option<Vec<u8>>,
}

/// The namespace of a link where it was found, and what is wrong with the far end. A namespace that cannot be looked into
/// is a fault of its link, not of the look.
async fn look_inside(visitor: &Visitor, visit: &Visit) -> Result<(Netns, Vec<String>), Fault> {
    let Visit { address, end, wanted, netns, mac } = visit;
    let right = Wanted { address: *address, mtu: wanted.mtu, range: wanted.range, far: &wanted.far };
    let inside = visitor.enter(netns)?;
    let faults = far::faults(&inside, end, &right, mac.as_deref()).await?;
    Ok((inside.netns, faults))
}

/// Wanted links that are not there, and whose namespace is not either. Whoever holds such a link forgets it,
/// so it has to be certain.
fn gone(wanted: &Host, links: &BTreeMap<Address, Link>) -> BTreeSet<Address> {
    let absent = wanted.links.iter().filter(|(address, _)| !links.contains_key(address));
    let gone = absent.filter(|(_, link)| link.netns.as_ref().is_some_and(netns::is_gone));
    gone.map(|(address, _)| *address).collect()
}

/// Links that lead to nobody who has set his end up, of those whose other end is not known to be in some namespace.
fn idle(seen: &Seen, wanted: &Host) -> BTreeSet<Address> {
    let strays = |address: &Address| wanted.links.get(address).is_none_or(|link| link.netns.is_none());
    let ours = seen.ours().into_iter();
    ours.filter(|(address, end)| !end.running && strays(address)).map(|(address, _)| address).collect()
}

/// Rules that name no interface of this host would shut its peers out, so they are not loaded.
async fn expect_uplink(host: &Handle, uplinks: &BTreeSet<String>) -> Result<(), Fault> {
    for uplink in uplinks {
        // A name that nft would not take is refused there.
        if nft::quoted(uplink).is_err() || link::find(host, uplink).await?.is_some() {
            return Ok(());
        }
    }
    let names: Vec<&str> = uplinks.iter().map(String::as_str).collect();
    Err(Fault {
        hint: Some("correct [network] uplinks, and run `weavers apply`; see `ip -br link`".into()),
        ..found(FaultKind::Invalid, format!("no interface of this host is named {}", names.join(" or ")))
    })
}

fn uplinks_of(wanted: &Host) -> BTreeSet<String> {
    wanted.rules.as_ref().map(|rules| rules.uplinks.clone()).unwrap_or_default()
}

/// Routes of others inside the container range. Where no range is wanted, none is judged.
fn foreign(seen: &Seen, wanted: &Host) -> BTreeMap<Ipv4Net, String> {
    let of_links = || wanted.links.values().next().map(|link| link.range);
    let Some(range) = wanted.rules.as_ref().map(|rules| rules.range).or_else(of_links) else {
        return BTreeMap::new();
    };
    let ours: BTreeSet<u32> =
        seen.links.iter().filter(|end| end.serves().is_some()).map(|end| end.index).collect();
    seen.routes.foreign(range, &ours, &|index| seen.name(index))
}
