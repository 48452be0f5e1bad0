//! Routes of the main table, as values that can be compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures_util::TryStreamExt;
use ipnet::{IpNet, Ipv4Net};
use nix::errno::Errno;
use rtnetlink::{
    Error, Handle, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        route::{
            RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteScope,
            RouteType,
        },
    },
};

use super::{
    address::{BOTH, family_of},
    bound::{self, READ_MAX},
    fault::{Cause, already_gone, fault, found},
};
use crate::{
    addr::Prefix,
    state::{Fault, FaultKind},
};

/// The protocol number that our routes carry.
pub const PROTOCOL: u8 = 67;

/// The table that packets go by where no policy rule says otherwise, and that of the host's own addresses.
const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;
const LOCAL: u32 = 255;

/// Behind every route that leads somewhere: a block may be a single address, and then that address'
/// own route has the same destination.
const BLOCK_METRIC: u32 = 1024;

/// What the kernel takes for no metric of an IPv6 route.
const METRIC6: u32 = 1024;
/// Behind the block as well: what this host owns is never led to another one.
const TO_HOST_METRIC: u32 = 2048;

/// A route. Two that are equal are the same to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where packets go to.
    pub destination: IpNet,
    /// By which interface; `None` if by none or several.
    pub interface: Option<u32>,
    /// By which neighbour.
    pub gateway: Option<IpAddr>,
    /// As whom, unless the sender says.
    pub source: Option<IpAddr>,
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
    /// The longest packet that gets there. Read of routes to other hosts only: in its own namespace a container may have it shorter.
    pub mtu: Option<u32>,
}

impl Entry {
    /// The host's route to a container.
    pub fn to_container(address: IpAddr, interface: u32) -> Entry {
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
            mtu: None,
        }
        .listed_by_the_kernel()
    }

    /// A container's route out.
    pub fn out(destination: IpNet, interface: u32, gateway: IpAddr, source: IpAddr, metric: u32) -> Entry {
        Entry {
            destination,
            interface: Some(interface),
            gateway: Some(gateway),
            source: Some(source),
            kind: RouteType::Unicast,
            scope: RouteScope::Universe,
            onlink: true,
            metric,
            protocol: PROTOCOL,
            mtu: None,
        }
        .listed_by_the_kernel()
    }

    /// Of IPv6 the kernel knows no scope, takes a gateway on the link for such by its address, and gives what has no metric one.
    fn listed_by_the_kernel(self) -> Entry {
        match self.destination {
            IpNet::V4(_) => self,
            IpNet::V6(_) => {
                let metric = METRIC6 + self.metric;
                Entry { scope: RouteScope::Universe, onlink: false, metric, ..self }
            }
        }
    }

    /// What answers for the free addresses of an owned CIDR.
    pub fn block(destination: IpNet) -> Entry {
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
            mtu: None,
        }
        .listed_by_the_kernel()
    }

    /// What leads a destination to the host that owns it.
    pub fn to_host(destination: IpNet, interface: u32, host: Option<IpAddr>, mtu: Option<u32>) -> Entry {
        Entry {
            destination,
            interface: Some(interface),
            gateway: host,
            source: None,
            kind: RouteType::Unicast,
            scope: if host.is_some() { RouteScope::Universe } else { RouteScope::Link },
            onlink: false,
            metric: TO_HOST_METRIC,
            protocol: PROTOCOL,
            mtu,
        }
        .listed_by_the_kernel()
    }

    /// Whether it is a route of ours to another host.
    pub fn is_to_host(&self) -> bool {
        let metric = match self.destination {
            IpNet::V4(_) => TO_HOST_METRIC,
            IpNet::V6(_) => METRIC6 + TO_HOST_METRIC,
        };
        self.protocol == PROTOCOL && self.kind == RouteType::Unicast && self.metric == metric
    }

    /// Whether it is an `unreachable` route of ours.
    pub fn is_block(&self) -> bool {
        self.kind == RouteType::Unreachable && self.protocol == PROTOCOL
    }

    /// Whether it is a default route that leads somewhere.
    pub fn is_default(&self) -> bool {
        self.destination.prefix_len() == 0 && self.kind == RouteType::Unicast
    }

    /// The route in a message of the kernel's; `None` if it leads to addresses of this host itself.
    fn read(message: &RouteMessage) -> Option<Row> {
        let header = &message.header;
        let all: IpAddr = match header.address_family {
            AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
            AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        let mut entry = Entry {
            destination: IpNet::new(all, header.destination_prefix_length).ok()?,
            interface: None,
            gateway: None,
            source: None,
            kind: header.kind,
            scope: header.scope,
            onlink: header.flags.contains(RouteFlags::Onlink),
            metric: 0,
            protocol: header.protocol.into(),
            mtu: None,
        };
        let mut table = u32::from(header.table);
        let (mut interfaces, mut nexthop, mut mtu) = (Vec::new(), None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => {
                    entry.destination = IpNet::new(ip(address)?, header.destination_prefix_length).ok()?;
                }
                RouteAttribute::Gateway(address) => entry.gateway = ip(address),
                RouteAttribute::PrefSource(address) => entry.source = ip(address),
                RouteAttribute::Oif(index) => {
                    entry.interface = Some(*index);
                    interfaces.push(*index);
                }
                RouteAttribute::MultiPath(hops) => {
                    interfaces.extend(hops.iter().map(|hop| hop.interface_index))
                }
                RouteAttribute::Priority(metric) => entry.metric = *metric,
                RouteAttribute::Table(number) => table = *number,
                RouteAttribute::NhId(number) => nexthop = Some(*number),
                RouteAttribute::Metrics(metrics) => mtu = metrics.iter().find_map(mtu_of),
                _ => {}
            }
        }
        // An IPv6 route that leads nowhere is one by `lo`.
        if matches!((entry.kind, entry.destination), (RouteType::Unreachable, IpNet::V6(_))) {
            entry.interface = None;
        }
        entry.mtu = mtu.filter(|_| entry.is_to_host());
        let cloned = header.flags.contains(RouteFlags::Cloned);
        (table != LOCAL && !cloned).then_some(Row { entry, interfaces, nexthop, table })
    }

    /// The route in a message of the kernel's, whatever its table.
    pub fn read_of(message: &RouteMessage) -> Option<Entry> {
        Entry::read(message).map(|row| row.entry)
    }

    /// As the kernel is told of it, in the main table.
    pub fn message(&self) -> RouteMessage {
        let mut message = match self.destination {
            IpNet::V4(cidr) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(cidr.network(), cidr.prefix_len())
                .build(),
            IpNet::V6(cidr) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(cidr.network(), cidr.prefix_len())
                .build(),
        };
        let header = &mut message.header;
        (header.kind, header.scope, header.protocol) = (self.kind, self.scope, self.protocol.into());
        if self.onlink {
            header.flags.insert(RouteFlags::Onlink);
        }
        let attributes = &mut message.attributes;
        attributes.extend(self.interface.map(RouteAttribute::Oif));
        attributes.extend(self.gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
        attributes.extend(self.source.map(|source| RouteAttribute::PrefSource(source.into())));
        attributes.extend((self.metric != 0).then_some(RouteAttribute::Priority(self.metric)));
        attributes.extend(self.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
        message
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

fn mtu_of(metric: &RouteMetric) -> Option<u32> {
    match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// Tells what the interface of an index is called.
pub type Names<'a> = &'a dyn Fn(u32) -> Option<String>;

/// A route and what does not make it another.
#[derive(Debug)]
struct Row {
    entry: Entry,
    /// The interfaces it uses.
    interfaces: Vec<u32>,
    /// The nexthop object that it names. The kernel may be set to name no interface then.
    nexthop: Option<u32>,
    /// The number of its table.
    table: u32,
}

impl Row {
    fn is_main(&self) -> bool {
        self.table == MAIN
    }

    /// ` dev eth0`, or ` nhid 1` where no interface is named; ` table 100` unless it is the main one.
    fn place(&self, names: Names<'_>) -> String {
        let devices = self.interfaces.iter().filter_map(|index| names(*index));
        let devices: String = devices.map(|name| format!(" dev {name}")).collect();
        let nexthop = self.nexthop.filter(|_| devices.is_empty()).map(|id| format!(" nhid {id}"));
        let table = (!self.is_main()).then(|| format!(" table {}", self.table));
        [Some(devices), nexthop, table].into_iter().flatten().collect()
    }
}

/// The one route that packets to this address take.
async fn matched(handle: &Handle, address: IpAddr) -> Result<Option<RouteMessage>, Error> {
    let mut question = RouteMessage::default();
    question.attributes.push(RouteAttribute::Destination(address.into()));
    // A question is of no kind and about any table, which of IPv6 need not be said, and must not.
    let any_table = if address.is_ipv4() { RouteFlags::LookupTable } else { RouteFlags::empty() };
    question.header = RouteHeader {
        address_family: family_of(address),
        destination_prefix_length: IpNet::from(address).max_prefix_len(),
        flags: any_table | RouteFlags::FibMatch,
        ..RouteHeader::default()
    };
    Box::pin(handle.route().get(question).execute()).try_next().await
}

/// Whether packets to this address are the namespace's own.
pub async fn is_own(handle: &Handle, address: IpAddr) -> Result<bool, Fault> {
    match matched(handle, address).await {
        Ok(route) => Ok(route.is_some_and(|route| route.header.kind == RouteType::Local)),
        Err(error) if matches!(error.errno(), Errno::ENETUNREACH | Errno::EHOSTUNREACH) => Ok(false),
        Err(error) => Err(fault(format_args!("asking whose {address} is"), &error)),
    }
}

/// The main table, read in one dump for each kind of addresses; and beside it those that policy rules may lead to.
#[derive(Debug, Default)]
pub struct Table {
    /// In the order of their destinations.
    rows: Vec<Row>,
}

impl Table {
    /// Reads it.
    pub async fn read(handle: &Handle) -> Result<Table, Fault> {
        let mut rows = Vec::new();
        for family in BOTH {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            let mut dump = Box::pin(handle.route().get(question).execute());
            while let Some(message) =
                dump.try_next().await.map_err(|error| fault("reading the routes", &error))?
            {
                // A kernel without IPv6 answers with routes of IPv4.
                if message.header.address_family == family {
                    rows.extend(Entry::read(&message));
                }
            }
        }
        Ok(Table::ordered(rows))
    }

    /// Reads the routes by one interface anew, by a handle that checks strictly.
    pub async fn renew(
        &mut self,
        handle: &Handle,
        interface: u32,
        families: &[AddressFamily],
    ) -> Result<(), Fault> {
        self.rows.retain(|row| !row.interfaces.contains(&interface));
        for &family in families {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            question.attributes.push(RouteAttribute::Oif(interface));
            let mut dump = Box::pin(handle.route().get(question).execute());
            loop {
                match dump.try_next().await {
                    Ok(Some(message)) => self.rows.extend(Entry::read(&message)),
                    Ok(None) => break,
                    // The interface is gone.
                    Err(error) if error.errno() == Errno::ENODEV => break,
                    Err(error) => return Err(fault("reading the routes by an interface", &error)),
                }
            }
        }
        self.rows.sort_by_key(|row| row.entry.destination);
        Ok(())
    }

    /// Reads the one route that packets to this address take. However many there are, the kernel looks at no other.
    pub async fn leading_to(handle: &Handle, address: IpAddr) -> Result<Table, Fault> {
        match matched(handle, address).await {
            Ok(route) => Ok(Table::of(route.into_iter().collect())),
            Err(error) => Err(fault(format_args!("reading the route to {address}"), &error)),
        }
    }

    /// Takes in routes that were read since.
    pub fn take_in(&mut self, since: Table) {
        for row in since.rows {
            let place = (row.entry.destination, row.entry.interface);
            self.rows.retain(|known| (known.entry.destination, known.entry.interface) != place);
            self.rows.push(row);
        }
        self.rows.sort_by_key(|row| row.entry.destination);
    }

    /// Our routes by one interface of a container, by a handle that checks strictly: the kernel leaves out all others.
    pub async fn ours_by(handle: &Handle, interface: u32, family: AddressFamily) -> Result<Table, Fault> {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        question.header.table = RouteHeader::RT_TABLE_MAIN;
        question.header.protocol = PROTOCOL.into();
        question.attributes.push(RouteAttribute::Oif(interface));
        let dump = handle.route().get(question).execute();
        Ok(Table::of(bound::all(dump, "routes", READ_MAX).await?))
    }

    /// Our routes in the main table of a container, by such a handle.
    pub async fn ours(handle: &Handle, family: AddressFamily) -> Result<Table, Fault> {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        question.header.table = RouteHeader::RT_TABLE_MAIN;
        question.header.protocol = PROTOCOL.into();
        Ok(Table::of(bound::all(handle.route().get(question).execute(), "routes", READ_MAX).await?))
    }

    /// Where the main table of a container begins, by such a handle: with its default routes. The rest of it may still
    /// be on its way then, so no other dump can follow.
    pub async fn begin(handle: &Handle, family: AddressFamily) -> Result<Table, Fault> {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        question.header.table = RouteHeader::RT_TABLE_MAIN;
        let dump = handle.route().get(question).execute();
        Ok(Table::of(bound::first(dump, "routes", READ_MAX).await?))
    }

    fn of(messages: Vec<RouteMessage>) -> Table {
        Table::ordered(messages.iter().filter_map(Entry::read).collect())
    }

    fn ordered(mut rows: Vec<Row>) -> Table {
        rows.sort_by_key(|row| row.entry.destination);
        Table { rows }
    }

    /// All routes of the main table.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.main().map(|row| &row.entry)
    }

    fn main(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.is_main())
    }

    /// Whether this very route is there.
    pub fn holds(&self, wanted: &Entry) -> bool {
        let first = self.rows.partition_point(|row| row.entry.destination < wanted.destination);
        let same = self.rows[first..].iter().take_while(|row| row.entry.destination == wanted.destination);
        same.filter(|row| row.is_main()).any(|row| row.entry == *wanted)
    }

    /// Makes a route be there, where these are. One of ours that is in its place is replaced, one of others' is not
    /// touched.
    pub async fn ensure(&self, handle: &Handle, wanted: &Entry) -> Result<(), Fault> {
        if self.holds(wanted) {
            return Ok(());
        }
        let rival = |entry: &&Entry| entry.destination == wanted.destination && entry.metric == wanted.metric;
        let add = handle.route().add(wanted.message());
        let what = |error: Error| fault(format_args!("adding route {wanted}"), &error);
        match self.entries().find(rival) {
            Some(entry) if entry.protocol != PROTOCOL => Err(occupied(wanted, &format!(": {entry}"))),
            Some(_) => add.replace().execute().await.map_err(what),
            None => match add.execute().await {
                Err(error) if error.errno() == Errno::EEXIST => Err(occupied(wanted, "")),
                result => result.map_err(what),
            },
        }
    }

    /// Interfaces of the default route that is preferred to all others.
    pub fn default_interfaces(&self) -> BTreeSet<u32> {
        let of_v4 = |row: &&Row| matches!(row.entry.destination, IpNet::V4(_));
        let defaults = self.main().filter(of_v4).filter(|row| row.entry.is_default());
        defaults
            .min_by_key(|row| row.entry.metric)
            .into_iter()
            .flat_map(|row| row.interfaces.clone())
            .collect()
    }

    /// The longest match of one kind for an address, as text: in the table of this number, or in any.
    pub fn matched(
        &self,
        to: Ipv4Addr,
        kind: RouteType,
        table: Option<u32>,
        names: Names<'_>,
    ) -> Option<String> {
        let in_table = |row: &&Row| table.is_none_or(|table| table == row.table);
        let covers = |row: &&Row| row.entry.kind == kind && row.entry.destination.contains(&IpAddr::V4(to));
        let longest = self.rows.iter().filter(in_table).filter(covers);
        let row =
            longest.max_by_key(|row| (row.entry.destination.prefix_len(), u32::MAX - row.entry.metric))?;
        let kind = match kind {
            RouteType::Unicast => String::new(),
            other => format!("{other:?} ").to_lowercase(),
        };
        Some(format!("{kind}{}{}", row.entry.destination, row.place(names)))
    }

    /// CIDRs that we block.
    pub fn blocks(&self) -> BTreeSet<IpNet> {
        self.entries().filter(|entry| entry.is_block()).map(|entry| entry.destination).collect()
    }

    /// Routes inside `range` that are neither blocks of ours nor lead to other hosts or by one of `ours`, our links. One for all of it by
    /// a router is the way to other hosts, and not in the way of anything. Those of IPv6 by the IPv4 CIDRs that they stand for.
    pub fn foreign(
        &self,
        (range, prefix): (Ipv4Net, Option<Prefix>),
        ours: &BTreeSet<u32>,
        names: Names<'_>,
    ) -> BTreeMap<Ipv4Net, String> {
        let as_v4 = |destination: IpNet| match destination {
            IpNet::V4(cidr) => Some(cidr),
            IpNet::V6(cidr) => prefix?.cidr_of(cidr),
        };
        let way_out = |entry: &Entry, cidr: Ipv4Net| cidr == range.trunc() && entry.gateway.is_some();
        let mine = |entry: &Entry| {
            let by_link = entry.interface.is_some_and(|index| ours.contains(&index));
            entry.is_block() || entry.is_to_host() || by_link
        };
        let foreign = self.main().filter(|row| !mine(&row.entry)).filter_map(|row| {
            let cidr = as_v4(row.entry.destination).filter(|cidr| range.contains(cidr))?;
            (!way_out(&row.entry, cidr)).then(|| (cidr, format!("{}{}", row.entry, row.place(names))))
        });
        foreign.collect()
    }
}

/// Makes a route of the host be there. What else there is is read where something is in its place only.
pub async fn ensure(handle: &Handle, wanted: &Entry) -> Result<(), Fault> {
    match handle.route().add(wanted.message()).execute().await {
        Ok(()) => Ok(()),
        Err(_) => Table::read(handle).await?.ensure(handle, wanted).await,
    }
}

/// Makes a route of ours be gone.
pub async fn remove(handle: &Handle, unwanted: &Entry) -> Result<(), Fault> {
    let gone = already_gone(handle.route().del(unwanted.message()).execute().await);
    gone.map_err(|error| fault(format_args!("removing route {unwanted}"), &error))
}

fn occupied(wanted: &Entry, by: &str) -> Fault {
    let destination = wanted.destination;
    let flag = if matches!(destination, IpNet::V6(_)) { "-6 " } else { "" };
    let message = format!("{destination} has a route that is not ours{by}");
    let hint = format!("remove it, or move it out of the container range: ip {flag}route show {destination}");
    Fault { hint: Some(hint), ..found(FaultKind::Outdated, message) }
}
