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

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use futures_util::TryStreamExt;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::errno::Errno;
use rtnetlink::{
    Error, Handle, LinkGetRequest, LinkMessageBuilder, LinkUnspec, LinkVeth,
    packet_route::{
        AddressFamily,
        address::AddressMessage,
        link::{
            AfSpecInet, AfSpecInet6, AfSpecUnspec, InetDevConf, InfoData, InfoKind, InfoVeth, LinkAttribute,
            LinkExtentMask, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
        },
    },
};
use tokio::time::sleep;

use super::{
    address,
    bound::{self, READ_MAX},
    dump,
    fault::{Cause, already_gone, already_there, fault, found},
    neighbour, route, sysctl,
    visit::Inside,
};
use crate::{
    addr::{Address, Prefix},
    state::{Far, Fault, FaultKind, GATEWAY, GATEWAY6, HOST_MAC, Netns, address_of_link, link_name},
};

/// What a host end is set to: a forged source is dropped, anything else of IPv4 is passed on, and no router is listened to. Of IPv6
/// nothing is taken in where containers have no such addresses. Who allows IPv6 on all interfaces allows it on these, and then
/// routers are still not listened to. The order counts: nobody listens before it is said to whom.
const HOST_END: [Setting; 4] = [
    Setting {
        key: "rp_filter",
        value: |_| 1,
        of: |settings| settings.rp_filter,
        set: Set::Inet(|inet| inet.rp_filter = 1),
    },
    Setting {
        key: "forwarding",
        value: |_| 1,
        of: |settings| settings.forwarding,
        set: Set::Inet(|inet| inet.forwarding = 1),
    },
    Setting {
        key: "accept_ra",
        value: |_| 0,
        of: |settings| settings.accept_ra,
        set: Set::Inet6("accept_ra"),
    },
    Setting {
        key: "disable_ipv6",
        value: |has_v6| i32::from(!has_v6),
        of: |settings| settings.disable_ipv6,
        set: Set::Inet6("disable_ipv6"),
    },
];

/// Of `addr_gen_mode`: no address is made up.
const ADDR_GEN_NONE: i32 = 1;

/// One queue each way, which is all that a veth uses. The kernel makes one for each processor otherwise, drops the others again, and
/// waits until no processor uses them any more: twice for each link, and longer than for all else that is done for it.
const QUEUES: [LinkAttribute; 2] = [LinkAttribute::NumTxQueues(1), LinkAttribute::NumRxQueues(1)];

/// A setting as it should be.
struct Setting {
    key: &'static str,
    /// Depends on whether containers have IPv6 addresses.
    value: fn(bool) -> i32,
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
    pub prefix: Option<Prefix>,
    pub far: &'a Far,
}

/// The length of the prefix that a container's IPv6 address is given with: nobody else is on its link.
pub(super) const OWN6_LEN: u8 = 128;

/// What a container has of one kind of addresses.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    pub kind: AddressFamily,
    /// The container's address.
    pub address: IpAddr,
    /// The length of the prefix that it is given with.
    pub length: u8,
    /// Where its links lead: to other containers.
    pub range: IpNet,
    /// And to everybody else.
    pub world: IpNet,
    /// Whom packets are handed to.
    pub gateway: IpAddr,
}

impl Wanted<'_> {
    /// What the container has of each kind, IPv4 first.
    pub fn own(&self) -> impl Iterator<Item = Own> + use<> {
        let v4 = Own {
            kind: AddressFamily::Inet,
            address: IpAddr::V4(self.address.into()),
            length: self.range.prefix_len(),
            range: self.range.trunc().into(),
            world: Ipv4Net::default().into(),
            gateway: GATEWAY.into(),
        };
        let v6 = self.prefix.map(|prefix| Own {
            kind: AddressFamily::Inet6,
            address: prefix.address(self.address).into(),
            length: OWN6_LEN,
            range: prefix.cidr(self.range.trunc()).into(),
            world: Ipv6Net::default().into(),
            gateway: GATEWAY6.into(),
        });
        [v4].into_iter().chain(v6)
    }
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
    fn wrong(&self, has_v6: bool) -> impl Iterator<Item = (&'static Setting, String)> {
        HOST_END.iter().filter_map(move |setting| match ((setting.of)(&self.settings), &setting.set) {
            (Some(now), _) if now == (setting.value)(has_v6) => None,
            (Some(now), _) => Some((setting, now.to_string())),
            (None, Set::Inet6(_)) if !has_v6 => None,
            (None, Set::Inet(_) | Set::Inet6(_)) => Some((setting, "absent".into())),
        })
    }

    /// The same in words.
    pub fn wrong_settings(&self, has_v6: bool) -> impl Iterator<Item = String> {
        self.wrong(has_v6).map(|(setting, now)| format!("{} is {now}", setting.key))
    }

    /// Whether it takes in IPv6; `None` where there is none in its namespace.
    pub fn has_v6(&self) -> Option<bool> {
        self.settings.disable_ipv6.map(|value| value == 0)
    }

    /// Whether it listens to routers.
    pub fn heeds_routers(&self) -> bool {
        self.settings.accept_ra.is_some_and(|value| value != 0)
    }

    /// Whether it was once made whole, and the far end with it.
    pub fn is_finished(&self, wanted: &Wanted<'_>) -> bool {
        self.alias == link_name(wanted.address)
    }

    /// Whether its name says that it is a host end of ours.
    pub fn has_its_name(&self) -> bool {
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

/// All interfaces of a container's namespace, unless there are more than anybody has.
pub async fn all_inside(inside: &Handle) -> Result<Vec<End>, Fault> {
    let dump = without_counters(inside.link().get()).execute();
    let messages = bound::all(dump, "interfaces", READ_MAX).await?;
    Ok(messages.iter().map(End::read).collect())
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

/// Whether a host end is to have this address.
pub(super) fn is_of_host_end(held: &AddressMessage, wanted: &Wanted<'_>) -> bool {
    wanted.prefix.is_some() && address::is_gateway6(held)
}

/// How faults of IPv6 are told from those of IPv4.
pub(super) fn of_kind(own: &Own) -> &'static str {
    if own.address.is_ipv6() { " of IPv6" } else { "" }
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
async fn set_host_end(host: &Handle, settings: &sysctl::Tree, near: &End, has_v6: bool) -> Result<(), Fault> {
    let mut inet = InetDevConf::default();
    let set6 = |key: &str, value: i32| {
        settings.set(&format!("net.ipv6.conf.{}.{key}", near.name), &value.to_string())
    };
    if has_v6 {
        // The kernel would give it an address of its own making.
        set6("addr_gen_mode", ADDR_GEN_NONE)?;
    }
    for (setting, _) in near.wrong(has_v6) {
        match setting.set {
            Set::Inet(set) => set(&mut inet),
            Set::Inet6(key) => set6(key, (setting.value)(has_v6))?,
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
    set_host_end(host, settings, near, wanted.prefix.is_some()).await?;
    let held = address::of(host, near.index).await?;
    for other in held.iter().filter(|held| !is_of_host_end(held, wanted)) {
        address::remove(host, other).await?;
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
    if wanted.prefix.is_some() && !held.iter().any(address::is_gateway6) {
        address::add_gateway6(host, near.index).await?;
    }
    for own in wanted.own() {
        let neighbour = (near.index, own.address, mac.clone());
        match wanted.far.moved || own.address.is_ipv6() {
            // It is down for a while, and the kernel would forget what it has learned. Of IPv6 nothing is learned: a look sets it right.
            true => neighbour::ensure_permanent(host, &neighbour).await?,
            false => neighbour::ensure_learning(host, &neighbour).await?,
        }
        route::ensure(host, &route::Entry::to_container(own.address, near.index)).await?;
    }
    Ok(())
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

/// Waits until both ends send, and what is sent to the container by IPv6 is taken in there. After an end comes up the kernel starts it in
/// its own time, and in its own time it makes an address of IPv6 one of the namespace's; until then it drops packets, and a first
/// SYN that is dropped costs a second.
pub(super) async fn settle(
    (host, near): (&Handle, &End),
    (inside, far): (&Handle, &End),
    wanted: &Wanted<'_>,
) -> Result<(), Fault> {
    const LOOKS_MAX: usize = 200;
    for _ in 0..LOOKS_MAX {
        let ends = [find(host, &near.name).await?, find(inside, &far.name).await?];
        let takes_in = match wanted.prefix {
            Some(prefix) => route::is_own(inside, prefix.address(wanted.address).into()).await?,
            None => true,
        };
        if takes_in && ends.iter().flatten().all(|end| end.running) {
            return Ok(());
        }
        sleep(Duration::from_millis(2)).await;
    }
    Err(found(FaultKind::Outdated, format!("link {} is up and passes nothing", near.name)))
}

/// A MAC as it is usually written.
pub fn mac_text(mac: &[u8]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}
