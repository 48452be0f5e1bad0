//! A container's link: a routed veth, its host end here, its far end made inside the namespace.
//!
//! ```text
//!  host namespace                                container's namespace
//!  A/32 ─► wvXXXXXXXX 02:67:a9:fe:01:01 ═══ 02:67:<A> ethwe ◄─ range, default via 169.254.1.1
//!          neighbour A                                neighbour 169.254.1.1 permanent
//! ```
//!
//! Both sides know each other's MAC address from the start. Where the far end's is set, or the link goes down, the kernel drops
//! what is known there, permanent or not: then the container asks, and the host, which has the gateway's address, answers.
//! What others choose for the far end is theirs: its MAC address, and an MTU that is smaller.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};

use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use nix::errno::Errno;
use rtnetlink::{
    Error, Handle, LinkGetRequest, LinkMessageBuilder, LinkUnspec, LinkVeth,
    packet_route::{
        address::AddressMessage,
        link::{
            AfSpecInet, AfSpecInet6, AfSpecUnspec, InetDevConf, InfoData, InfoKind, InfoVeth, LinkAttribute,
            LinkExtentMask, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
        },
    },
};
use tokio::time::sleep;

use super::{
    address, dump,
    fault::{Cause, already_gone, already_there, fault, found},
    neighbour::{self, Neighbour},
    route, sysctl,
    visit::Inside,
};
use crate::{
    addr::Address,
    state::{Far, Fault, FaultKind, HOST_MAC, Netns, address_of_link, link_name},
};

/// What a host end is set to: a forged source is dropped, anything else of IPv4 is passed on, and of IPv6 nothing is
/// taken in, router advertisements above all. Who allows IPv6 on all interfaces allows it on these, and then they are
/// still not listened to.
const HOST_END: [Setting; 4] = [
    Setting {
        key: "rp_filter",
        value: 1,
        of: |settings| settings.rp_filter,
        set: Set::Inet(|inet| inet.rp_filter = 1),
    },
    Setting {
        key: "forwarding",
        value: 1,
        of: |settings| settings.forwarding,
        set: Set::Inet(|inet| inet.forwarding = 1),
    },
    Setting { key: "accept_ra", value: 0, of: |settings| settings.accept_ra, set: Set::Inet6("accept_ra") },
    Setting {
        key: "disable_ipv6",
        value: 1,
        of: |settings| settings.disable_ipv6,
        set: Set::Inet6("disable_ipv6"),
    },
];

/// One queue each way, which is all that a veth uses. The kernel makes one for each processor otherwise, drops the others again, and
/// waits until no processor uses them any more: twice for each link, and longer than for all else that is done for it.
const QUEUES: [LinkAttribute; 2] = [LinkAttribute::NumTxQueues(1), LinkAttribute::NumRxQueues(1)];

/// A setting as it should be.
struct Setting {
    key: &'static str,
    value: i32,
    of: fn(&Settings) -> Option<i32>,
    set: Set,
}

/// How a setting is set.
enum Set {
    /// With others in one message.
    Inet(fn(&mut InetDevConf)),
    /// By the file of this name.
    Inet6(&'static str),
}

/// Settings of an interface, as they come with it; `None` where its protocol is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Settings {
    rp_filter: Option<i32>,
    forwarding: Option<i32>,
    accept_ra: Option<i32>,
    disable_ipv6: Option<i32>,
}

impl Settings {
    fn read(&mut self, of_protocols: &[AfSpecUnspec]) {
        for of_protocol in of_protocols {
            match of_protocol {
                AfSpecUnspec::Inet(inet) => inet.iter().for_each(|one| {
                    if let AfSpecInet::DevConf(conf) = one {
                        (self.rp_filter, self.forwarding) = (Some(conf.rp_filter), Some(conf.forwarding));
                    }
                }),
                AfSpecUnspec::Inet6(inet6) => inet6.iter().for_each(|one| {
                    if let AfSpecInet6::DevConf(conf) = one {
                        (self.accept_ra, self.disable_ipv6) = (Some(conf.accept_ra), Some(conf.disable_ipv6));
                    }
                }),
                _ => {}
            }
        }
    }
}

/// What a link should be.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub address: Address,
    pub mtu: u32,
    pub range: Ipv4Net,
    pub far: &'a Far,
}

/// One end of a link, or any interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct End {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
    /// It is meant to be up.
    pub up: bool,
    /// It sends what it is given.
    pub running: bool,
    pub mac: Vec<u8>,
    pub veth: bool,
    /// It reaches neighbours by their MAC addresses, as an interface of an instance does and a tunnel does not.
    pub ethernet: bool,
    /// Index of the other end, in its own namespace.
    pub peer: Option<u32>,
    /// The bridge, or whatever else takes its packets before anybody else sees them.
    pub controller: Option<u32>,
    /// What it was once named for. A host end is known by it under another name.
    pub alias: String,
    /// The address that it is the host end for, whatever its name is by now.
    pub serves: Option<Address>,
    /// The number that the host has for the namespace of the other end.
    pub namespace: Option<i32>,
    pub settings: Settings,
}

impl End {
    fn read(message: &LinkMessage) -> End {
        let mut end = End {
            index: message.header.index,
            name: String::new(),
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            running: message.header.flags.contains(LinkFlags::Running),
            mac: Vec::new(),
            veth: false,
            ethernet: message.header.link_layer_type == LinkLayerType::Ether
                && !message.header.flags.intersects(LinkFlags::Noarp | LinkFlags::Pointopoint),
            peer: None,
            controller: None,
            alias: String::new(),
            serves: None,
            namespace: None,
            settings: Settings::default(),
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => end.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => end.mtu = *mtu,
                LinkAttribute::Address(mac) => end.mac.clone_from(mac),
                LinkAttribute::Link(index) => end.peer = Some(*index),
                LinkAttribute::Controller(index) => end.controller = Some(*index).filter(|index| *index != 0),
                LinkAttribute::IfAlias(alias) => end.alias.clone_from(alias),
                LinkAttribute::LinkNetNsId(number) => end.namespace = Some(*number),
                LinkAttribute::AfSpecUnspec(of_protocols) => end.settings.read(of_protocols),
                LinkAttribute::LinkInfo(info) => end.veth = info.contains(&LinkInfo::Kind(InfoKind::Veth)),
                _ => {}
            }
        }
        let by_alias = || address_of_link(&end.alias).filter(|_| end.veth);
        end.serves = address_of_link(&end.name).or_else(by_alias);
        end
    }

    /// Whether `self` and `other`, which is in another namespace, are the two ends of one veth.
    pub fn is_other_end_of(&self, other: &End) -> bool {
        self.veth && other.veth && self.peer == Some(other.index) && other.peer == Some(self.index)
    }

    /// What a host end is not set to as it should be, and what to instead. Where there is no IPv6, nothing of it can be wrong.
    fn wrong_settings(&self) -> impl Iterator<Item = (&'static Setting, String)> {
        HOST_END.iter().filter_map(|setting| match ((setting.of)(&self.settings), &setting.set) {
            (Some(now), _) if now == setting.value => None,
            (Some(now), _) => Some((setting, now.to_string())),
            (None, Set::Inet(_)) => Some((setting, "absent".into())),
            (None, Set::Inet6(_)) => None,
        })
    }

    /// Whether it was once made whole, and the far end with it.
    pub fn is_finished(&self, wanted: &Wanted<'_>) -> bool {
        self.alias == link_name(wanted.address)
    }

    /// Whether its name says that it is a host end of ours.
    fn has_its_name(&self) -> bool {
        address_of_link(&self.name).is_some()
    }

    /// Whether packets that come in by it are passed on.
    pub fn forwards(&self) -> bool {
        self.settings.forwarding.is_none_or(|value| value == 1)
    }
}

/// All interfaces of the calling thread's namespace, by their index.
pub async fn all() -> Result<Vec<Arc<End>>, Fault> {
    let mut ends = Vec::new();
    dump::links(|message| ends.push(Arc::new(End::read(message)))).await?;
    ends.sort_by_key(|end| end.index);
    Ok(ends)
}

/// The interface of that name.
pub async fn find(handle: &Handle, name: &str) -> Result<Option<End>, Fault> {
    one(handle.link().get().match_name(name), name).await
}

/// The host end of the link of an address, also under another name.
pub async fn host_end(host: &Handle, address: Address) -> Result<Option<End>, Fault> {
    match find(host, &link_name(address)).await? {
        None => {
            let all = all().await?;
            Ok(all.iter().find(|end| end.serves == Some(address)).map(|end| End::clone(end)))
        }
        found => Ok(found),
    }
}

/// The interface of that index.
pub async fn numbered(handle: &Handle, index: u32) -> Result<Option<End>, Fault> {
    one(handle.link().get().match_index(index), index).await
}

/// Counters are half of what the kernel says of an interface.
fn without_counters(mut question: LinkGetRequest) -> LinkGetRequest {
    let attributes = &mut question.message_mut().attributes;
    attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    question
}

async fn one(question: LinkGetRequest, which: impl fmt::Display) -> Result<Option<End>, Fault> {
    match Box::pin(without_counters(question).execute()).try_next().await {
        Ok(message) => Ok(message.as_ref().map(End::read)),
        Err(error) if error.errno() == Errno::ENODEV => Ok(None),
        Err(error) => Err(fault(format_args!("reading link {which}"), &error)),
    }
}

/// What the host has, in one dump of each kind.
#[derive(Debug)]
pub struct Seen {
    /// By their index. What knows an interface that has not changed shares it.
    pub links: Vec<Arc<End>>,
    pub routes: route::Table,
    pub neighbours: BTreeSet<Neighbour>,
    pub addresses: Vec<AddressMessage>,
}

impl Seen {
    /// Looks. The kernel keeps track of one dump for each socket, so they follow each other.
    pub async fn look(handle: &Handle) -> Result<Seen, Fault> {
        Ok(Seen {
            links: all().await?,
            routes: route::Table::read(handle).await?,
            neighbours: neighbour::all(handle).await?,
            addresses: address::all(handle).await?,
        })
    }

    /// The same with these interfaces looked at anew, at a cost that does not grow with the others; `None` if one of them is not
    /// a host end of ours, since then there is no telling what else has changed. `strict` is answered what was asked for only.
    pub async fn renewed(
        mut self,
        handle: &Handle,
        strict: &Handle,
        interfaces: &BTreeSet<u32>,
    ) -> Result<Option<Seen>, Fault> {
        for &index in interfaces {
            let place = self.links.binary_search_by_key(&index, |end| end.index);
            let was_ours = place.is_ok_and(|place| self.links[place].serves.is_some());
            let end = numbered(handle, index).await?.map(Arc::new);
            match &end {
                Some(end) if end.serves.is_none() => return Ok(None),
                None if !was_ours => return Ok(None),
                Some(_) | None => {}
            }
            self.routes.renew(strict, index).await?;
            neighbour::forget(&mut self.neighbours, index);
            self.addresses.retain(|held| held.header.index != index);
            if let Some(address) = end.as_ref().and_then(|end| end.serves) {
                self.neighbours.extend(neighbour::find(handle, index, address.into()).await?);
                self.addresses.extend(address::of(strict, index).await?);
            }
            match (place, end) {
                (Ok(place), Some(end)) => self.links[place] = end,
                (Err(place), Some(end)) => self.links.insert(place, end),
                (Ok(place), None) => drop(self.links.remove(place)),
                (Err(_), None) => {}
            }
        }
        Ok(Some(self))
    }

    /// The host end of an address, with what was read of it alone: of routes the one that packets to that address take.
    pub async fn of_one(strict: &Handle, index: u32, address: Address) -> Result<Option<Seen>, Fault> {
        let Some(end) = numbered(strict, index).await?.filter(|end| end.serves == Some(address)) else {
            return Ok(None);
        };
        Ok(Some(Seen {
            links: vec![Arc::new(end)],
            routes: route::Table::leading_to(strict, address.into()).await?,
            neighbours: neighbour::find(strict, index, address.into()).await?.into_iter().collect(),
            addresses: address::of(strict, index).await?,
        }))
    }

    /// Takes in what was read of host ends since.
    pub fn take_in(&mut self, since: Seen) {
        for end in since.links {
            let index = end.index;
            neighbour::forget(&mut self.neighbours, index);
            self.addresses.retain(|held| held.header.index != index);
            match self.links.binary_search_by_key(&index, |end| end.index) {
                Ok(place) => self.links[place] = end,
                Err(place) => self.links.insert(place, end),
            }
        }
        self.routes.take_in(since.routes);
        self.neighbours.extend(since.neighbours);
        self.addresses.extend(since.addresses);
    }

    /// The interface of that index.
    pub fn interface(&self, index: u32) -> Option<&End> {
        let place = self.links.binary_search_by_key(&index, |end| end.index);
        place.ok().map(|place| &*self.links[place])
    }

    /// The host ends of ours among these interfaces.
    pub fn host_ends(&self, interfaces: &BTreeSet<u32>) -> BTreeSet<(u32, Address)> {
        let end = |index: &u32| Some((*index, self.interface(*index)?.serves?));
        interfaces.iter().filter_map(end).collect()
    }

    /// The name of a link, fit to be shown.
    pub fn name(&self, index: u32) -> Option<String> {
        self.interface(index).map(|end| end.name.escape_default().to_string())
    }

    /// Host ends of ours, by the address that each is for. One that has its name goes before one that had it.
    pub fn ours(&self) -> BTreeMap<Address, &Arc<End>> {
        let mut ours: Vec<(Address, &Arc<End>)> =
            self.links.iter().filter_map(|end| Some((end.serves?, end))).collect();
        // Of two for one address the last is kept.
        let named = |(_, end): &(Address, &Arc<End>)| end.has_its_name();
        ours.sort_by(|one, other| one.0.cmp(&other.0).then_with(|| named(one).cmp(&named(other))));
        ours.into_iter().collect()
    }

    /// The MAC address at which the host finds a container.
    pub fn mac_of(&self, end: &End, address: Address) -> Option<&[u8]> {
        let from = (end.index, Ipv4Addr::from(address), Vec::new());
        let found = self.neighbours.range(from..).next();
        let (_, _, mac) = found.filter(|(index, of, _)| (*index, *of) == (end.index, address.into()))?;
        Some(mac)
    }

    /// What is wrong with a host end.
    pub fn faults(&self, end: &End, wanted: &Wanted) -> Vec<String> {
        let address = Ipv4Addr::from(wanted.address);
        let mut faults = Vec::new();
        let mut check = |right: bool, wrong: &dyn Fn() -> String| {
            if !right {
                faults.push(wrong());
            }
        };
        let name = link_name(wanted.address);
        check(end.name == name, &|| format!("host end is named {}", end.name.escape_default()));
        check(end.alias == name, &|| "alias of the host end missing".into());
        check(end.veth, &|| "host end is not a veth".into());
        check(end.mtu == wanted.mtu, &|| format!("mtu of the host end is {}", end.mtu));
        check(end.up, &|| "host end down".into());
        check(end.controller.is_none(), &|| {
            let taker = end.controller.and_then(|index| self.name(index)).unwrap_or_default();
            format!("host end is a port of {taker}, which takes its packets")
        });
        check(end.mac == HOST_MAC.0, &|| format!("mac of the host end is {}", mac_text(&end.mac)));
        check(self.routes.holds(&route::Entry::to_container(address, end.index)), &|| {
            "host route missing".into()
        });
        check(self.mac_of(end, wanted.address).is_some(), &|| "host neighbour missing".into());
        for (setting, now) in end.wrong_settings() {
            faults.push(format!("{} is {now}", setting.key));
        }
        for held in self.addresses.iter().filter(|held| held.header.index == end.index) {
            faults.push(format!("address {} on the host end, which is to have none", address::text(held)));
        }
        faults
    }
}

/// Both ends, if both are there and belong together. What is in the way of ours goes, if it is ours.
pub(super) async fn pair(
    host: &Handle,
    inside: &Inside,
    wanted: &Wanted<'_>,
) -> Result<Option<(End, End)>, Fault> {
    let near = find(host, &link_name(wanted.address)).await?;
    let far = find(&inside.handle, &wanted.far.name).await?;
    match (near, far) {
        (Some(near), Some(far)) if near.is_other_end_of(&far) => Ok(Some((near, far))),
        (near, Some(far)) => {
            let other = all().await?.into_iter().find(|end| end.is_other_end_of(&far));
            match other.as_deref().filter(|end| near.is_none() && is_renamed(end, &far, wanted)) {
                Some(end) => Ok(Some((named_back(host, end, wanted.address).await?, far))),
                None => Err(in_the_way((near, &far), &inside.netns, wanted).await?),
            }
        }
        (Some(near), None) => remove(host, wanted.address, near.index).await.map(|()| None),
        (None, None) => Ok(None),
    }
}

/// Whether both are the link that is wanted, and the host end has lost its name only.
fn is_renamed(near: &End, far: &End, wanted: &Wanted<'_>) -> bool {
    let ours = near.mac == HOST_MAC.0 && far.mac == wanted.far.mac(wanted.address).0;
    !near.has_its_name() && (ours || near.serves == Some(wanted.address))
}

/// Removes a link by the index of its host end.
pub(super) async fn remove(host: &Handle, address: Address, index: u32) -> Result<(), Fault> {
    let gone = already_gone(host.link().del(index).execute().await);
    gone.map_err(|error| fault(format_args!("removing link {}", link_name(address)), &error))
}

/// Gives a host end its name back. Only one that is down can be renamed by every kernel.
pub(super) async fn named_back(host: &Handle, end: &End, address: Address) -> Result<End, Fault> {
    let name = link_name(address);
    let what = |error: Error| fault(format_args!("renaming {} to {name}", end.name.escape_default()), &error);
    let down = LinkUnspec::new_with_index(end.index).down().build();
    host.link().set(down).execute().await.map_err(what)?;
    let named = LinkUnspec::new_with_index(end.index).name(&*name).build();
    host.link().set(named).execute().await.map_err(what)?;
    Ok(End { name, up: false, running: false, ..end.clone() })
}

/// Why the interface that has its name cannot be the far end.
async fn in_the_way(
    (near, far): (Option<End>, &End),
    netns: &Netns,
    wanted: &Wanted<'_>,
) -> Result<Fault, Fault> {
    let (path, name) = (netns.path.display(), &wanted.far.name);
    let served = |end: &Arc<End>| end.serves.filter(|_| end.is_other_end_of(far));
    let other = all().await?.iter().find_map(served);
    if let Some(other) = other {
        return Ok(found(FaultKind::Outdated, format!("{name} in {path} is still the link of {other}")));
    }
    let elsewhere = if near.is_some() { " (the link of that address is elsewhere)" } else { "" };
    Ok(Fault {
        hint: Some(format!("remove or rename {name} there, then attach again")),
        ..found(FaultKind::Invalid, format!("{name} in {path} exists and is not ours{elsewhere}"))
    })
}

/// One message makes both ends, with names, MTU and MACs. The far end cannot be made up, and the host end is not to be
/// before it is set as it should be.
pub(super) async fn create(host: &Handle, inside: Option<&Inside>, wanted: &Wanted<'_>) -> Result<(), Fault> {
    let name = link_name(wanted.address);
    let far = LinkMessageBuilder::<LinkUnspec>::new()
        .name(&*wanted.far.name)
        .mtu(wanted.mtu)
        .address(wanted.far.mac(wanted.address).0.into());
    let far = inside.iter().fold(far, |far, inside| far.setns_by_fd(inside.fd()));
    let far = QUEUES.into_iter().fold(far, |far, queue| far.append_extra_attribute(queue)).build();
    let near = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(&*name)
        .mtu(wanted.mtu)
        .address(HOST_MAC.0.into())
        .set_info_data(InfoData::Veth(InfoVeth::Peer(far)));
    let near = QUEUES.into_iter().fold(near, |near, queue| near.append_extra_attribute(queue)).build();
    let made = already_there(host.link().add(near).execute().await);
    made.map_err(|error| fault(format_args!("making link {name}"), &error))
}

/// Settings of IPv4 as a link is given them by rtnetlink.
pub(super) fn with_settings(settings: InetDevConf) -> LinkAttribute {
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(settings)])])
}

/// Those of IPv6 are files and nothing else.
async fn set_host_end(host: &Handle, settings: &sysctl::Tree, near: &End) -> Result<(), Fault> {
    let mut inet = InetDevConf::default();
    for (setting, _) in near.wrong_settings() {
        match setting.set {
            Set::Inet(set) => set(&mut inet),
            Set::Inet6(key) => {
                settings.set(&format!("net.ipv6.conf.{}.{key}", near.name), &setting.value.to_string())?
            }
        }
    }
    if inet == InetDevConf::default() {
        return Ok(());
    }
    let mut message: LinkMessage = LinkUnspec::new_with_index(near.index).build();
    message.attributes.push(with_settings(inet));
    let set = host.link().set(message).execute().await;
    set.map_err(|error| fault(format_args!("setting forwarding and rp_filter of {}", near.name), &error))
}

/// Makes the host end be as it should be. `mac` is where the host finds the container.
pub(super) async fn mend(
    host: &Handle,
    settings: &sysctl::Tree,
    (near, mac): (&End, Vec<u8>),
    wanted: &Wanted<'_>,
) -> Result<(), Fault> {
    set_host_end(host, settings, near).await?;
    for held in address::of(host, near.index).await? {
        address::remove(host, &held).await?;
    }
    if !near.up || near.mac != HOST_MAC.0 {
        let set = LinkUnspec::new_with_index(near.index).address(HOST_MAC.0.into()).up().build();
        let done = host.link().set(set).execute().await;
        done.map_err(|error| fault(format_args!("setting link {} up", near.name), &error))?;
    }
    if near.controller.is_some() {
        let freed = LinkUnspec::new_with_index(near.index).nocontroller().build();
        let done = host.link().set(freed).execute().await;
        done.map_err(|error| {
            fault(format_args!("taking {} out of what it is a port of", near.name), &error)
        })?;
    }
    let address = Ipv4Addr::from(wanted.address);
    let neighbour = (near.index, address, mac);
    match wanted.far.moved {
        // It is down for a while, and the kernel would forget what it has learned.
        true => neighbour::ensure_permanent(host, &neighbour).await?,
        false => neighbour::ensure_learning(host, &neighbour).await?,
    }
    route::ensure(host, &route::Entry::to_container(address, near.index)).await
}

/// What says that all is done comes last: the MTU, which the far end is given with it, and the alias, with which it is set
/// up once.
pub(super) async fn finish(host: &Handle, near: &End, wanted: &Wanted<'_>) -> Result<(), Fault> {
    let name = link_name(wanted.address);
    if near.is_finished(wanted) && near.mtu == wanted.mtu {
        return Ok(());
    }
    let set = LinkUnspec::new_with_index(near.index).mtu(wanted.mtu).alias(&*name).build();
    let done = host.link().set(set).execute().await;
    done.map_err(|error| fault(format_args!("giving link {name} its alias and mtu {}", wanted.mtu), &error))
}

/// Waits until both ends send. After an end comes up the kernel starts it in its own time, and until then
/// drops packets; a first SYN that is dropped costs a second.
pub(super) async fn settle(host: &Handle, near: &End, inside: &Handle, far: &End) -> Result<(), Fault> {
    const LOOKS_MAX: usize = 200;
    for _ in 0..LOOKS_MAX {
        let ends = [find(host, &near.name).await?, find(inside, &far.name).await?];
        if ends.iter().flatten().all(|end| end.running) {
            return Ok(());
        }
        sleep(Duration::from_millis(2)).await;
    }
    Err(found(FaultKind::Outdated, format!("link {} is up and sends nothing", near.name)))
}

/// A MAC as it is usually written.
pub fn mac_text(mac: &[u8]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}
