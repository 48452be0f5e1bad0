//! Linux: look at links, routes, sysctls and nftables, and change one thing at a time.
//!
//! ```text
//!  Kernel::observe ─► link, far, route,    rtnetlink, here and, within bounds, inside each
//!                     address, neighbour   container's namespace
//!                     sysctl, tracking     /proc
//!                     nft, forward         nft
//!                     tunnel               wg
//!                     packets, path        rtnetlink: what would become of a packet
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
    path::PathBuf,
    pin::pin,
    sync::Arc,
};

use futures_util::{Stream, StreamExt, stream::FuturesUnordered};
use ipnet::Ipv4Net;
use rtnetlink::Handle;

use crate::{
    addr::{Address, Prefix},
    state::{Docker0, Fault, FaultKind, Host, HostAction, Links, Scope, Surroundings, link_name},
};

mod fault;
mod bound;
mod address;
pub mod netns;
pub mod canary;
mod raw;
mod farewell;
mod prompt;
mod dump;
mod neighbour;
mod route;
mod sysctl;
pub mod ways;
mod visit;
mod number;
mod link;
mod seen;
mod host_route;
mod source;
mod container_end;
mod event;
pub mod watch;
mod path;
pub mod read_back;
mod container_link;
mod generation;
mod listing;
mod nft;
mod tunnel;
mod forward;
mod known;
mod inspect;
mod packets;
mod published;
pub mod removal;
pub mod target;
mod tracking;
pub mod uplink;
pub mod weave_net;

use fault::{fault, found};
use known::Known;
use link::Wanted;
use number::NUMBERS;
use published::Publisher;
use read_back::{ReadBack, Reader};
use removal::Remover;
use seen::Seen;
use tunnel::is_of_tunnel;
use watch::{Changes, Told};

/// The host's network, seen and changed from the namespace in which it was made.
pub struct Kernel {
    handle: Handle,
    /// Is answered what was asked for only.
    strict: Handle,
    settings: Arc<sysctl::Tree>,
    nft: nft::Nft,
    published: Publisher,
    forward: forward::Observed,
    tracking: tracking::Watch,
    tunnel: tunnel::Device,
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
            settings: Arc::new(sysctl::Tree::open()?),
            nft: nft::Nft::default(),
            published: Publisher::default(),
            forward: forward::Observed::default(),
            tracking: tracking::Watch::default(),
            tunnel: tunnel::Device::default(),
            changes,
            known: Known::default(),
        })
    }

    /// The private key of tunnels is in this file.
    pub fn with_tunnel_key(mut self, file: PathBuf) -> Kernel {
        self.tunnel.set_key(file);
        self
    }

    /// What is, of what is ours. `wanted` says which settings to read, which rules to compare with, and how
    /// each link should be; a link that is not wanted is observed without its namespace.
    pub async fn observe(&mut self, wanted: &Host, scope: Scope) -> Result<Host, Fault> {
        if wanted.prefix().is_some() {
            self.changes.hear_v6();
        }
        // A look that fails leaves nothing that is known, so that the next one is whole.
        let (mut told, mut known) = (self.changes.take(), std::mem::take(&mut self.known));
        // The kernel tells of our own changes as well, a little later.
        told.interfaces.extend(self.acted_on(&mut known).await?);
        let before = known.seen();
        let mut touched =
            before.as_ref().map(|before| before.host_ends(&told.interfaces)).unwrap_or_default();
        let is_narrow = match scope {
            Scope::Whole => false,
            Scope::Routine => told.hears_host && known.is_between_rounds(),
            Scope::Changed => true,
        };
        let seen = self.look(is_narrow, &told, before, wanted.prefix()).await?;
        touched.extend(seen.host_ends(&told.interfaces));
        known.forget(scope, &told, &touched);
        let ours = seen.ours();
        let others = seen.links.iter().filter(|end| end.serves.is_none()).map(|end| end.index);
        let namespaces = ours.values().filter_map(|end| end.namespace).collect();
        NUMBERS.learn(&namespaces);
        self.changes.care_for(namespaces, others.collect());
        let rules = self.nft.observe(wanted.rules.as_ref()).await?;
        let ports = self.published.observe(wanted.ports.as_ref()).await?;
        let has_v6 = wanted.prefix().is_some();
        let forward = self.forward.observe(&uplinks_of(wanted), wanted.lent_range(), has_v6).await?;
        let docker0 = docker0(&seen, self.forward.drops_for_docker0());
        let links = inspect::links(&seen, &ours, wanted, &mut known, scope).await;
        let packets::Paths { paths, uplinks } =
            packets::observe(&self.handle, &seen, wanted, &links, &mut known).await?;
        let mut remote = host_route::observe(&seen);
        self.tunnel.observe(&seen, scope, &told, &mut remote).await;
        let host = Host {
            sysctls: self.settings.observe(wanted.sysctls.keys())?,
            rules,
            forward,
            gateway: seen.addresses.iter().any(address::is_gateway),
            blocks: seen.routes.blocks(),
            gone: gone(wanted, &links),
            idle: idle(&ours, wanted),
            ports,
            links: Arc::new(links),
            lent: Arc::default(),
            foreign: foreign(&seen, wanted),
            uplinks,
            remote: remote.into(),
            paths,
            surroundings: Surroundings { docker0, tracking: self.tracking.observe() },
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
    async fn look(
        &self,
        is_narrow: bool,
        told: &Told,
        before: Option<Seen>,
        prefix: Option<Prefix>,
    ) -> Result<Seen, Fault> {
        let is_narrow = is_narrow && !told.lost && !told.elsewhere;
        if let Some(before) = before.filter(|before| is_narrow && before.knows_v6() == prefix.is_some())
            && let Some(seen) = before.renewed(&self.handle, &self.strict, &told.interfaces, prefix).await?
        {
            return Ok(seen);
        }
        Seen::look(&self.handle, prefix.is_some()).await
    }

    /// Carries out one action. What is already there, or already gone, is success.
    pub async fn apply(&mut self, action: &HostAction) -> Result<(), Fault> {
        let host = &self.handle;
        if changes_routes(action) {
            drop(self.known.seen());
        }
        match action {
            HostAction::SetSysctl { name, value } => self.settings.set(name, value),
            HostAction::LoadRules(rules) => {
                expect_uplink(host, &rules.uplinks).await?;
                self.nft.load(rules).await
            }
            HostAction::SetPorts(ports) => self.published.set(ports).await,
            HostAction::OpenForward { uplinks, range, has_v6 } => {
                forward::open(uplinks, *range, *has_v6).await
            }
            HostAction::AddBlock(cidr) => route::ensure(host, &route::Entry::block(*cidr)).await,
            HostAction::AddHostRoute { destination, hop } => host_route::add(host, *destination, hop).await,
            HostAction::SetTunnel { .. }
            | HostAction::SetTunnelPeer { .. }
            | HostAction::DeleteTunnelPeer(_)
            | HostAction::DeleteTunnel => self.tunnel.apply(host, action).await,
            HostAction::AddGateway => address::add_gateway(host).await,
            HostAction::CreateLink { .. } | HostAction::MendLink { .. } | HostAction::MakePair { .. } => {
                let ended = pin!(self.apply_to_links(vec![action.clone()]).await).next().await;
                ended.map_or(Ok(()), |(_, result)| result.map(drop))
            }
            HostAction::DeleteLink(address) => {
                let mut results = self.remover().remove(BTreeSet::from([*address])).await;
                results.remove(address).unwrap_or(Ok(()))
            }
            HostAction::DeleteGateway => address::remove_gateway(host).await,
            HostAction::DeleteBlock(cidr) => route::remove(host, &route::Entry::block(*cidr)).await,
            HostAction::DeleteHostRoute { destination, hop } => {
                host_route::remove(host, *destination, hop).await
            }
            HostAction::CloseForward => forward::close().await,
            HostAction::DeleteRules => self.nft.delete().await,
        }
    }

    /// Makes and mends links side by side, and tells of each as it ends; with what was read back, which is to be taken in.
    pub async fn apply_to_links(
        &mut self,
        actions: Vec<HostAction>,
    ) -> impl Stream<Item = (HostAction, Result<Option<ReadBack>, Fault>)> + Send + use<> {
        let creates = |action: &HostAction| {
            matches!(action, HostAction::CreateLink { .. } | HostAction::MakePair { .. })
        };
        let fenced = match actions.iter().any(creates) {
            true => self.nft.expect_unchanged().await,
            false => Ok(()),
        };
        actions.iter().for_each(|action| self.known.act_on(action));
        let reader = Reader { changes: self.changes.clone(), carriers: self.known.carriers() };
        let work = actions.into_iter().map(|action| {
            let fenced = if creates(&action) { fenced.clone() } else { Ok(()) };
            let (settings, reader) = (self.settings.clone(), reader.clone());
            async move {
                let result = match fenced {
                    Ok(()) => link_action(settings, reader, &action).await,
                    Err(fault) => Err(fault),
                };
                (action, result)
            }
        });
        work.collect::<FuturesUnordered<_>>()
    }

    /// A link was read back after it was changed: the next look need not.
    pub fn take_in(&mut self, read: ReadBack) {
        self.known.take_in(read);
    }

    /// Removes links, also while a look is under way.
    pub fn remover(&self) -> Remover {
        Remover { changes: self.changes.clone() }
    }
}

/// Makes or mends a link, on a thread of its own.
async fn link_action(
    settings: Arc<sysctl::Tree>,
    reader: Reader,
    action: &HostAction,
) -> Result<Option<ReadBack>, Fault> {
    let what = |address| format!("making link {}", link_name(address));
    match action.clone() {
        HostAction::CreateLink { address, netns, mtu, range, prefix, far }
        | HostAction::MendLink { address, netns, mtu, range, prefix, far } => {
            let work = async move |visitor: visit::Visitor| {
                let wanted = Wanted { address, mtu, range, prefix, far: &far };
                container_link::ensure(&visitor, &settings, &netns, &wanted, &reader).await
            };
            visit::apart(&visit::FOR_LINKS, &what(address), bound::CHANGE, work).await
        }
        HostAction::MakePair { address, mtu, prefix, far } => {
            let work = async move |visitor: visit::Visitor| {
                let range = Ipv4Net::from(Ipv4Addr::from(address));
                let wanted = Wanted { address, mtu, range, prefix, far: &far };
                container_link::ensure_pair(&visitor, &settings, &wanted).await.map(|()| None)
            };
            visit::apart(&visit::FOR_LINKS, &what(address), bound::CHANGE, work).await
        }
        _ => Err(not_here(action)),
    }
}

/// Whether it changes an interface or a route of the host that is no container's: a look at links alone does not show that.
fn changes_routes(action: &HostAction) -> bool {
    is_of_tunnel(action)
        || matches!(
            action,
            HostAction::AddBlock(_)
                | HostAction::DeleteBlock(_)
                | HostAction::AddHostRoute { .. }
                | HostAction::DeleteHostRoute { .. }
        )
}

fn not_here(action: &HostAction) -> Fault {
    found(FaultKind::Invalid, format!("not an action of this kind: {action:?}"))
}

/// Wanted links that are not there, and whose namespace is not either. Whoever holds such a link forgets it,
/// so it has to be certain.
fn gone(wanted: &Host, links: &Links) -> BTreeSet<Address> {
    let absent = wanted.links.iter().filter(|(address, _)| !links.contains_key(address));
    let gone = absent.filter(|(_, link)| link.netns.as_ref().is_some_and(ways::is_gone));
    gone.map(|(address, _)| *address).collect()
}

/// Links that lead to nobody who has set his end up, of those whose other end is not known to be in some namespace.
fn idle(ours: &BTreeMap<Address, &Arc<link::End>>, wanted: &Host) -> BTreeSet<Address> {
    let strays = |address: &Address| wanted.links.get(address).is_none_or(|link| link.netns.is_none());
    let idle = ours.iter().filter(|(address, end)| !end.running && strays(address));
    idle.map(|(address, _)| *address).collect()
}

/// Docker's own bridge, by its first address of IPv4.
fn docker0(seen: &Seen, drops: bool) -> Option<Docker0> {
    let end = seen.links.iter().find(|end| end.serves.is_none() && end.name == Docker0::NAME)?;
    let held = seen
        .addresses
        .iter()
        .find(|held| held.header.index == end.index && address::ip(held).is_some_and(|ip| ip.is_ipv4()))?;
    let address: Ipv4Net = address::text(held).parse().ok()?;
    Some(Docker0 { address, drops })
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
    let Some(range) = wanted.range() else { return BTreeMap::new() };
    let ours: BTreeSet<u32> =
        seen.links.iter().filter(|end| end.serves.is_some()).map(|end| end.index).collect();
    seen.routes.foreign((range, wanted.prefix()), &ours, &|index| seen.name(index))
}
