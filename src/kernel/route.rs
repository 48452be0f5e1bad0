//! Routes of the main table, as values that can be compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
};

use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::{
    Error, Handle, RouteMessageBuilder,
    packet_route::route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteScope, RouteType,
    },
};

use super::fault::{already_gone, already_there, fault, found};
use crate::state::{Fault, FaultKind};

/// The protocol number that our routes carry.
pub const PROTOCOL: u8 = 67;

/// Behind every route that leads somewhere: a block may be a single address, and then that address'
/// own route has the same destination.
const BLOCK_METRIC: u32 = 1024;

/// A route. Two that are equal are the same to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where packets go to.
    pub destination: Ipv4Net,
    /// By which interface; `None` if by none or several.
    pub interface: Option<u32>,
    /// By which neighbour.
    pub gateway: Option<Ipv4Addr>,
    /// As whom, unless the sender says.
    pub source: Option<Ipv4Addr>,
    /// Sent, refused, dropped.
    pub kind: RouteType,
    /// How far away the destination is.
    pub scope: RouteScope,
    /// The neighbour is on the link whatever the addresses say.
    pub onlink: bool,
    /// Lower ones are preferred.
    pub metric: u32,
    /// Who made it.
    pub protocol: u8,
}

impl Entry {
    /// The host's route to a container.
    pub fn to_container(address: Ipv4Addr, interface: u32) -> Entry {
        Entry {
            destination: address.into(),
            interface: Some(interface),
            gateway: None,
            source: None,
            kind: RouteType::Unicast,
            scope: RouteScope::Link,
            onlink: false,
            metric: 0,
            protocol: PROTOCOL,
        }
    }

    /// A container's route out.
    pub fn out(destination: Ipv4Net, interface: u32, gateway: Ipv4Addr, source: Ipv4Addr) -> Entry {
        Entry {
            destination,
            interface: Some(interface),
            gateway: Some(gateway),
            source: Some(source),
            kind: RouteType::Unicast,
            scope: RouteScope::Universe,
            onlink: true,
            metric: 0,
            protocol: PROTOCOL,
        }
    }

    /// What answers for the free addresses of an owned CIDR.
    pub fn block(destination: Ipv4Net) -> Entry {
        Entry {
            destination,
            interface: None,
            gateway: None,
            source: None,
            kind: RouteType::Unreachable,
            scope: RouteScope::Universe,
            onlink: false,
            metric: BLOCK_METRIC,
            protocol: PROTOCOL,
        }
    }

    /// Whether it is an `unreachable` route of ours.
    pub fn is_block(&self) -> bool {
        self.kind == RouteType::Unreachable && self.protocol == PROTOCOL
    }

    /// Whether it is a default route that leads somewhere.
    pub fn is_default(&self) -> bool {
        self.destination.prefix_len() == 0 && self.kind == RouteType::Unicast
    }

    /// The route in a message of the kernel's, and the interfaces it uses; `None` if it is not of the main table.
    fn read(message: &RouteMessage) -> Option<(Entry, Vec<u32>)> {
        let header = &message.header;
        let mut entry = Entry {
            destination: Ipv4Net::new(Ipv4Addr::UNSPECIFIED, header.destination_prefix_length).ok()?,
            interface: None,
            gateway: None,
            source: None,
            kind: header.kind,
            scope: header.scope,
            onlink: header.flags.contains(RouteFlags::Onlink),
            metric: 0,
            protocol: header.protocol.into(),
        };
        let mut table = u32::from(header.table);
        let mut interfaces = Vec::new();
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                    entry.destination = Ipv4Net::new(*address, header.destination_prefix_length).ok()?;
                }
                RouteAttribute::Gateway(RouteAddress::Inet(address)) => entry.gateway = Some(*address),
                RouteAttribute::PrefSource(RouteAddress::Inet(address)) => entry.source = Some(*address),
                RouteAttribute::Oif(index) => {
                    entry.interface = Some(*index);
                    interfaces.push(*index);
                }
                RouteAttribute::MultiPath(hops) => {
                    interfaces.extend(hops.iter().map(|hop| hop.interface_index))
                }
                RouteAttribute::Priority(metric) => entry.metric = *metric,
                RouteAttribute::Table(number) => table = *number,
                _ => {}
            }
        }
        let cloned = header.flags.contains(RouteFlags::Cloned);
        (table == u32::from(RouteHeader::RT_TABLE_MAIN) && !cloned).then_some((entry, interfaces))
    }

    fn message(&self) -> RouteMessage {
        let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(self.destination.network(), self.destination.prefix_len())
            .kind(self.kind)
            .scope(self.scope)
            .protocol(self.protocol.into());
        if let Some(index) = self.interface {
            route = route.output_interface(index);
        }
        if let Some(gateway) = self.gateway {
            route = route.gateway(gateway);
        }
        if let Some(source) = self.source {
            route = route.pref_source(source);
        }
        if self.onlink {
            route = route.onlink();
        }
        if self.metric != 0 {
            route = route.priority(self.metric);
        }
        route.build()
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = format!("{:?}", self.kind).to_lowercase();
        write!(f, "{kind} {} protocol {}", self.destination, self.protocol)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        Ok(())
    }
}

/// The main table, read in one dump.
#[derive(Debug, Default)]
pub struct Table {
    routes: Vec<(Entry, Vec<u32>)>,
}

impl Table {
    /// Reads it.
    pub async fn read(handle: &Handle) -> Result<Table, Fault> {
        let mut dump = Box::pin(handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute());
        let mut routes = Vec::new();
        while let Some(message) =
            dump.try_next().await.map_err(|error| fault("reading the routes", &error))?
        {
            routes.extend(Entry::read(&message));
        }
        Ok(Table { routes })
    }

    /// All routes.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.routes.iter().map(|(entry, _)| entry)
    }

    /// Whether this very route is there.
    pub fn holds(&self, wanted: &Entry) -> bool {
        self.entries().any(|entry| entry == wanted)
    }

    /// Interfaces of the default routes.
    pub fn default_interfaces(&self) -> BTreeSet<u32> {
        self.routes.iter().filter(|(entry, _)| entry.is_default()).flat_map(|(_, by)| by.clone()).collect()
    }

    /// CIDRs that we block.
    pub fn blocks(&self) -> BTreeSet<Ipv4Net> {
        self.entries().filter(|entry| entry.is_block()).map(|entry| entry.destination).collect()
    }

    /// Routes inside `range` that are neither blocks of ours nor lead by one of `ours`, our links.
    pub fn foreign(
        &self,
        range: Ipv4Net,
        ours: &BTreeSet<u32>,
        names: &BTreeMap<u32, String>,
    ) -> BTreeMap<Ipv4Net, String> {
        let inside = |entry: &Entry| range.contains(&entry.destination);
        let mine =
            |entry: &Entry| entry.is_block() || entry.interface.is_some_and(|index| ours.contains(&index));
        self.routes
            .iter()
            .filter(|(entry, _)| inside(entry) && !mine(entry))
            .map(|(entry, by)| {
                let devices: String =
                    by.iter().filter_map(|i| names.get(i)).map(|name| format!(" dev {name}")).collect();
                (entry.destination, format!("{entry}{devices}"))
            })
            .collect()
    }
}

/// Makes a route be there. One of ours that is in its place is replaced, one of others' is not touched.
pub async fn ensure(handle: &Handle, wanted: &Entry) -> Result<(), Fault> {
    let table = Table::read(handle).await?;
    if table.holds(wanted) {
        return Ok(());
    }
    let rival = |entry: &&Entry| entry.destination == wanted.destination && entry.metric == wanted.metric;
    let add = handle.route().add(wanted.message());
    match table.entries().find(rival) {
        Some(entry) if entry.protocol != PROTOCOL => {
            let message = format!("{} has a route that is not ours: {entry}", wanted.destination);
            let hint = Some(format!(
                "remove it, or move it out of the container range: ip route show {}",
                entry.destination
            ));
            Err(Fault { hint, ..found(FaultKind::Outdated, message) })
        }
        Some(_) => executed(wanted, add.replace().execute().await),
        None => executed(wanted, already_there(add.execute().await)),
    }
}

/// Makes a route of ours be gone.
pub async fn remove(handle: &Handle, unwanted: &Entry) -> Result<(), Fault> {
    let gone = already_gone(handle.route().del(unwanted.message()).execute().await);
    gone.map_err(|error| fault(format_args!("removing route {unwanted}"), &error))
}

fn executed(wanted: &Entry, result: Result<(), Error>) -> Result<(), Fault> {
    result.map_err(|error| fault(format_args!("adding route {wanted}"), &error))
}
