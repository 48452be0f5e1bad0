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

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

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
    fault::{Cause, fault},
    link::End,
    seen::Seen,
};
use crate::{
    addr::Address,
    state::{Fate, Fault, Loss, Packet, Path, link_name},
};

/// The interfaces that lead where the VPC is, each with an address that answers come from by it.
#[derive(Debug, Default)]
pub(super) struct Carriers {
    by: BTreeMap<End, Ipv4Addr>,
}

impl Carriers {
    /// How packets reach the container of a host end of which alone all this was read; `None` where any does not by that one.
    pub async fn lead_to(
        &self,
        handle: &Handle,
        seen: &Seen,
        address: Address,
    ) -> Result<Option<Vec<Arc<Path>>>, Fault> {
        let link = link_name(address);
        let by_it = |path: &Arc<Path>| match &path.fate {
            Fate::Leaves { interface, gateway: None } => *interface == link,
            Fate::Leaves { .. } | Fate::Stays | Fate::Lost(_) => false,
        };
        let paths = self.to_container(&Asker { handle, seen }, address).await?;
        Ok(paths.iter().all(by_it).then_some(paths))
    }

    /// How packets that come in by them reach a container.
    pub async fn to_container(&self, asker: &Asker<'_>, address: Address) -> Result<Vec<Arc<Path>>, Fault> {
        let mut paths = Vec::with_capacity(self.by.len());
        for (uplink, from) in &self.by {
            let arrived = Source { address: *from, interface: Some(uplink.clone()) };
            let answer = asker.ask(address.into(), Some(&arrived)).await?;
            let packet = Packet::ToContainer { address, uplink: uplink.name.clone() };
            paths.push(Arc::new(answer.path(packet)));
        }
        Ok(paths)
    }

    /// A packet to another host is carried by the VPC's router. What leads there without one is somebody's
    /// shortcut, a tunnel as a rule, and what it leads to is not known to be the VPC.
    pub fn see(&mut self, asker: &Asker<'_>, answer: &Answer, other: Ipv4Addr) {
        if let Fate::Leaves { interface, gateway: Some(_) } = &answer.fate {
            self.add(asker.seen, interface, other);
        }
    }

    /// Where everything else goes by a tunnel, the default route beneath it is still the way into the VPC.
    pub fn see_outside(&mut self, asker: &Asker<'_>, answer: &Answer, outside: Ipv4Addr) {
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

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &String> + Clone {
        self.by.keys().map(|end| &end.name)
    }

    /// Their names, each with its MTU.
    pub fn uplinks(&self) -> BTreeMap<String, u32> {
        self.by.keys().map(|end| (end.name.clone(), end.mtu)).collect()
    }
}

/// Whom a packet comes from.
pub(super) struct Source {
    pub address: Ipv4Addr,
    /// Where it came in; `None`: it is the host's own.
    pub interface: Option<End>,
}

/// Who asks, and what is known of the host.
pub(super) struct Asker<'a> {
    pub handle: &'a Handle,
    pub seen: &'a Seen,
}

/// What the kernel would do, and by which route.
pub(super) struct Answer {
    fate: Fate,
    route: Option<String>,
}

impl Answer {
    /// The same, as it is told of a packet.
    pub fn path(self, packet: Packet) -> Path {
        Path { packet, fate: self.fate, route: self.route }
    }
}

impl Asker<'_> {
    /// The container with this address.
    pub fn source_behind(&self, address: Address) -> Option<Source> {
        let end = self.seen.links.iter().find(|end| end.serves == Some(address))?;
        Some(Source { address: address.into(), interface: Some(End::clone(end)) })
    }

    /// What would become of a packet.
    pub async fn ask(&self, to: Ipv4Addr, from: Option<&Source>) -> Result<Answer, Fault> {
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
