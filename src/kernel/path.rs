//! What the kernel would do with a packet, policy rules included: the question that `ip route get` asks.
//!
//! ```text
//!  container ─► host end ─► ? other hosts, the outside      asked as if it came in by a host end
//!  uplink ─► ? host end ─► container                        asked as if it came in by the uplink
//!  service of this host ─► ? host end ─► container          asked as its own
//! ```
//!
//! Only whoever asks for what came in is told of policy rules on interfaces, of forwarding that is off, and of
//! reverse paths.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use futures_util::TryStreamExt;
use nix::errno::Errno;
use rtnetlink::{
    Error, Handle, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        route::{RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType},
    },
};

use super::{
    address,
    fault::{Cause, fault},
    known::Known,
    link::{End, Seen},
};
use crate::{
    addr::Address,
    state::{Fate, Fault, Host, Links, Loss, Packet, Path},
};

/// Addresses that are nobody's (RFC 5737), in two networks, since one may be taken for containers.
const OUTSIDE: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 1)];
/// Addresses of this host of which is asked how they reach a container.
const OWN_MAX: usize = 16;

/// What the kernel said, and which interfaces carry traffic by it.
#[derive(Debug, Default)]
pub struct Paths {
    pub paths: Vec<Arc<Path>>,
    /// Interfaces by which packets of containers get where the VPC is, by name, with their MTU.
    pub uplinks: BTreeMap<String, u32>,
}

/// Asks about everything that matters for the containers that are there.
pub async fn observe(
    handle: &Handle,
    seen: &Seen,
    wanted: &Host,
    links: &Links,
    known: &mut Known,
) -> Result<Paths, Fault> {
    let asker = Asker { handle, seen };
    // Of one that is broken in itself its faults are told.
    let sound = links.iter().filter(|(_, link)| link.is_sound());
    let sound: Vec<Address> = sound.map(|(address, _)| *address).collect();
    let container = sound.first().and_then(|address| asker.source_behind(*address));

    let mut paths = Vec::new();
    let mut carriers = Carriers::default();
    for &other in &wanted.others {
        let answer = asker.ask(other.into(), container.as_ref()).await?;
        carriers.see(&asker, &answer, other.into());
        paths.push(Arc::new(answer.path(Packet::ToOther(other))));
    }
    // Where the VPC leads what comes for containers is told by the way that the host itself takes, see `uplink`.
    if let Some(other) = wanted.others.first() {
        carriers.see(&asker, &asker.ask((*other).into(), None).await?, (*other).into());
    }
    let outside = outside_of(wanted);
    let answer = asker.ask(outside, container.as_ref()).await?;
    carriers.see_outside(&asker, &answer, outside);
    paths.push(Arc::new(answer.path(Packet::Outside)));

    for &address in &sound {
        if let Some(known) = known.paths(address).filter(|known| carriers.are_asked_in(known)) {
            paths.extend(known.iter().cloned());
            continue;
        }
        let mut to_container = Vec::new();
        for (uplink, from) in &carriers.by {
            let arrived = Source { address: *from, interface: Some(uplink.clone()) };
            let answer = asker.ask(address.into(), Some(&arrived)).await?;
            let packet = Packet::ToContainer { address, uplink: uplink.name.clone() };
            to_container.push(Arc::new(answer.path(packet)));
        }
        paths.extend(to_container.iter().cloned());
        known.keep_paths(address, to_container);
    }
    if let Some(&to) = sound.first() {
        for from in own_addresses(seen) {
            let own = Source { address: from, interface: None };
            let answer = asker.ask(to.into(), Some(&own)).await?;
            paths.push(Arc::new(answer.path(Packet::FromHost { from, to })));
        }
    }
    Ok(Paths { paths, uplinks: carriers.uplinks() })
}

/// The interfaces that lead where the VPC is, each with an address that answers come from by it.
#[derive(Default)]
struct Carriers {
    by: BTreeMap<End, Ipv4Addr>,
}

impl Carriers {
    /// A packet to another host is carried by the VPC's router. What leads there without one is somebody's
    /// shortcut, a tunnel as a rule, and what it leads to is not known to be the VPC.
    fn see(&mut self, asker: &Asker<'_>, answer: &Answer, other: Ipv4Addr) {
        if let Fate::Leaves { interface, gateway: Some(_) } = &answer.fate {
            self.add(asker.seen, interface, other);
        }
    }

    /// Where everything else goes by a tunnel, the default route beneath it is still the way into the VPC.
    fn see_outside(&mut self, asker: &Asker<'_>, answer: &Answer, outside: Ipv4Addr) {
        if let Fate::Leaves { interface, .. } = &answer.fate {
            self.add(asker.seen, interface, outside);
        }
        if self.by.is_empty() {
            let indices = asker.seen.routes.default_interfaces();
            let beneath = asker.seen.links.iter().filter(|end| end.ethernet && indices.contains(&end.index));
            self.by.extend(beneath.map(|end| (End::clone(end), outside)));
        }
    }

    fn add(&mut self, seen: &Seen, interface: &str, from: Ipv4Addr) {
        let into_vpc = |end: &&Arc<End>| end.serves.is_none() && end.ethernet && end.name == interface;
        if let Some(end) = seen.links.iter().find(into_vpc) {
            self.by.entry(End::clone(end)).or_insert(from);
        }
    }

    /// Whether it is by these interfaces that a container was asked about.
    fn are_asked_in(&self, paths: &[Arc<Path>]) -> bool {
        let asked = paths.iter().filter_map(|path| match &path.packet {
            Packet::ToContainer { uplink, .. } => Some(uplink),
            Packet::ToOther(_) | Packet::FromHost { .. } | Packet::Outside => None,
        });
        asked.eq(self.by.keys().map(|end| &end.name))
    }

    fn uplinks(&self) -> BTreeMap<String, u32> {
        self.by.keys().map(|end| (end.name.clone(), end.mtu)).collect()
    }
}

/// Whom a packet comes from.
struct Source {
    address: Ipv4Addr,
    /// Where it came in; `None`: it is the host's own.
    interface: Option<End>,
}

struct Asker<'a> {
    handle: &'a Handle,
    seen: &'a Seen,
}

/// What the kernel would do, and by which route.
struct Answer {
    fate: Fate,
    route: Option<String>,
}

impl Answer {
    fn path(self, packet: Packet) -> Path {
        Path { packet, fate: self.fate, route: self.route }
    }
}

impl Asker<'_> {
    /// The container with this address.
    fn source_behind(&self, address: Address) -> Option<Source> {
        let end = self.seen.links.iter().find(|end| end.serves == Some(address))?;
        Some(Source { address: address.into(), interface: Some(End::clone(end)) })
    }

    async fn ask(&self, to: Ipv4Addr, from: Option<&Source>) -> Result<Answer, Fault> {
        let interface = from.and_then(|source| source.interface.as_ref());
        match self.answer(to, from).await {
            Ok(Some(message)) => Ok(self.read(&message, to)),
            Ok(None) => Ok(self.lost(to, Loss::NoRoute)),
            Err(error) => {
                let loss = match (error.errno(), interface) {
                    (Errno::EINVAL, Some(end)) => Some(self.discarded(to, end).await),
                    (errno, interface) => loss(errno, interface),
                };
                match loss {
                    Some(loss) => Ok(self.lost(to, loss)),
                    None => Err(fault(format_args!("asking for the way to {to}"), &error)),
                }
            }
        }
    }

    /// For what came in the kernel says the same of a blackhole and of a source that it does not believe. What is
    /// its own it lets go unless there is a blackhole.
    async fn discarded(&self, to: Ipv4Addr, came_in: &End) -> Loss {
        match self.answer(to, None).await {
            Err(error) if error.errno() == Errno::EINVAL => Loss::Blackhole,
            Ok(_) | Err(_) => Loss::ReversePath(came_in.name.clone()),
        }
    }

    async fn answer(&self, to: Ipv4Addr, from: Option<&Source>) -> Result<Option<RouteMessage>, Error> {
        let mut question = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, 32);
        if let Some(Source { address, .. }) = from {
            question = question.source_prefix(*address, 32);
        }
        if let Some(end) = from.and_then(|source| source.interface.as_ref()) {
            question = question.input_interface(end.index);
        }
        let mut question = question.build();
        // A question is of no kind and about any table.
        question.header = RouteHeader {
            address_family: AddressFamily::Inet,
            destination_prefix_length: 32,
            source_prefix_length: if from.is_some() { 32 } else { 0 },
            flags: RouteFlags::LookupTable,
            ..RouteHeader::default()
        };
        Box::pin(self.handle.route().get(question).execute()).try_next().await
    }

    fn read(&self, message: &RouteMessage, to: Ipv4Addr) -> Answer {
        let (mut interface, mut gateway, mut table) = (None, None, u32::from(message.header.table));
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => interface = self.seen.name(*index),
                RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
                RouteAttribute::Table(number) => table = *number,
                _ => {}
            }
        }
        match (message.header.kind, interface) {
            (RouteType::Unicast, Some(interface)) => {
                let route = self.matched(to, RouteType::Unicast, Some(table));
                Answer { fate: Fate::Leaves { interface, gateway }, route }
            }
            (RouteType::Unicast, None) => self.lost(to, Loss::NoRoute),
            (RouteType::Unreachable, _) => self.lost(to, Loss::Unreachable),
            (RouteType::Prohibit, _) => self.lost(to, Loss::Prohibited),
            (RouteType::BlackHole, _) => self.lost(to, Loss::Blackhole),
            (_, _) => Answer { fate: Fate::Stays, route: None },
        }
    }

    fn matched(&self, to: Ipv4Addr, kind: RouteType, table: Option<u32>) -> Option<String> {
        self.seen.routes.matched(to, kind, table, &|index| self.seen.name(index))
    }

    fn lost(&self, to: Ipv4Addr, loss: Loss) -> Answer {
        let kind = match &loss {
            Loss::Unreachable => Some(RouteType::Unreachable),
            Loss::Prohibited => Some(RouteType::Prohibit),
            Loss::Blackhole => Some(RouteType::BlackHole),
            Loss::NoRoute | Loss::NotForwarded(_) | Loss::ReversePath(_) | Loss::Other(_) => None,
        };
        let route = kind.and_then(|kind| self.matched(to, kind, None));
        Answer { fate: Fate::Lost(loss), route }
    }
}

/// What the error number says of a packet; `None`: nothing, the question failed.
fn loss(errno: Errno, came_in: Option<&End>) -> Option<Loss> {
    match (errno, came_in) {
        (Errno::ENETUNREACH, _) => Some(Loss::NoRoute),
        (Errno::EHOSTUNREACH, Some(end)) if !end.forwards() => Some(Loss::NotForwarded(end.name.clone())),
        (Errno::EHOSTUNREACH, _) => Some(Loss::Unreachable),
        (Errno::EACCES, _) => Some(Loss::Prohibited),
        (Errno::EXDEV, Some(end)) => Some(Loss::ReversePath(end.name.clone())),
        (Errno::EINVAL, _) => Some(Loss::Blackhole),
        // The interface went away since it was seen, or nobody answered: the next look shows how it is.
        (Errno::ENODEV | Errno::EPERM | Errno::ENOBUFS | Errno::ECONNRESET, _) => None,
        (other, _) => Some(Loss::Other(other as i32)),
    }
}

/// An address of the outside.
fn outside_of(wanted: &Host) -> Ipv4Addr {
    let range = wanted.range();
    let is_outside = |address: &&Ipv4Addr| range.is_none_or(|range| !range.contains(*address));
    OUTSIDE.iter().find(is_outside).copied().unwrap_or(OUTSIDE[0])
}

/// Addresses of this host by which its services may answer.
fn own_addresses(seen: &Seen) -> BTreeSet<Ipv4Addr> {
    let of_others = |index| seen.interface(index).is_some_and(|end| end.up && end.serves.is_none());
    let held = seen.addresses.iter().filter(|held| of_others(held.header.index)).filter_map(address::ip);
    let inet = held.filter_map(|ip| match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    });
    inet.filter(|address| !address.is_loopback() && !address.is_link_local()).take(OWN_MAX).collect()
}
