//! A container's link: a routed veth, its host end here, its far end made inside the namespace.
//!
//! ```text
//!  host namespace                                container's namespace
//!  A/32 ─► wvXXXXXXXX 02:67:a9:fe:01:01 ═══ 02:67:<A> ethwe ◄─ range, default via 169.254.1.1
//!          neighbour A permanent                      neighbour 169.254.1.1 permanent
//! ```
//!
//! Neither side ever asks for a MAC address, so nothing goes stale when an address moves.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use nix::errno::Errno;
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, LinkVeth,
    packet_route::{
        AddressFamily,
        link::{
            InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
        },
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState},
    },
};
use tokio::{runtime, task, time::sleep};

use super::{
    far,
    fault::{Cause, already_gone, already_there, fault, found},
    netns::{self, Inside},
    route, sysctl,
};
use crate::{
    addr::Address,
    state::{Fault, FaultKind, Netns, link_name},
};

/// MAC of every host end. A container has one link, so that it sees this one only.
pub const HOST_MAC: [u8; 6] = [0x02, 0x67, 0xa9, 0xfe, 0x01, 0x01];

/// Name of the far end.
pub const FAR_NAME: &str = "ethwe";

/// What a host end is set to: a forged source is dropped, anything else is passed on.
const SETTINGS: [(&str, &str); 2] = [("rp_filter", "1"), ("forwarding", "1")];

/// MAC of the far end, from its address.
pub fn far_mac(address: Address) -> [u8; 6] {
    let [a, b, c, d] = address.0.to_be_bytes();
    [0x02, 0x67, a, b, c, d]
}

/// What a link should be.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub address: Address,
    pub netns: &'a Netns,
    pub mtu: u32,
    pub range: Ipv4Net,
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
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => end.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => end.mtu = *mtu,
                LinkAttribute::Address(mac) => end.mac.clone_from(mac),
                LinkAttribute::Link(index) => end.peer = Some(*index),
                LinkAttribute::LinkInfo(info) => end.veth = info.contains(&LinkInfo::Kind(InfoKind::Veth)),
                _ => {}
            }
        }
        end
    }

    /// Whether `self` and `other`, which is in another namespace, are the two ends of one veth.
    pub fn is_other_end_of(&self, other: &End) -> bool {
        self.veth && other.veth && self.peer == Some(other.index) && other.peer == Some(self.index)
    }
}

/// The address that a host end is named for.
pub fn served_by(name: &str) -> Option<Address> {
    let address = Address(u32::from_str_radix(name.strip_prefix("wv")?, 16).ok()?);
    (link_name(address) == name).then_some(address)
}

/// All interfaces.
pub async fn all(handle: &Handle) -> Result<Vec<End>, Fault> {
    let mut dump = Box::pin(handle.link().get().execute());
    let mut ends = Vec::new();
    while let Some(message) = dump.try_next().await.map_err(|error| fault("reading the links", &error))? {
        ends.push(End::read(&message));
    }
    Ok(ends)
}

/// The interface of that name.
pub async fn find(handle: &Handle, name: &str) -> Result<Option<End>, Fault> {
    let mut answer = Box::pin(handle.link().get().match_name(name).execute());
    match answer.try_next().await {
        Ok(message) => Ok(message.as_ref().map(End::read)),
        Err(error) if error.errno() == Errno::ENODEV => Ok(None),
        Err(error) => Err(fault(format_args!("reading link {name}"), &error)),
    }
}

/// A permanent neighbour: who, by which interface, at which MAC.
pub type Neighbour = (u32, Ipv4Addr, Vec<u8>);

/// All permanent neighbours.
pub async fn neighbours(handle: &Handle) -> Result<Vec<Neighbour>, Fault> {
    let mut dump = Box::pin(handle.neighbours().get().set_address_family(AddressFamily::Inet).execute());
    let mut found = Vec::new();
    while let Some(message) =
        dump.try_next().await.map_err(|error| fault("reading the neighbours", &error))?
    {
        let (mut address, mut mac) = (None, Vec::new());
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(inet)) => address = Some(*inet),
                NeighbourAttribute::LinkLayerAddress(bytes) => mac.clone_from(bytes),
                _ => {}
            }
        }
        if let (NeighbourState::Permanent, Some(address)) = (message.header.state, address) {
            found.push((message.header.ifindex, address, mac));
        }
    }
    Ok(found)
}

/// Makes a permanent neighbour be there.
pub async fn ensure_neighbour(handle: &Handle, (index, address, mac): &Neighbour) -> Result<(), Fault> {
    let add = handle.neighbours().add(*index, (*address).into()).link_layer_address(mac).replace();
    add.execute().await.map_err(|error| fault(format_args!("adding neighbour {address}"), &error))
}

/// What the host has, in one dump of each kind.
pub struct Seen {
    pub links: Vec<End>,
    pub routes: route::Table,
    pub neighbours: Vec<Neighbour>,
}

impl Seen {
    /// Looks. The kernel keeps track of one dump for each socket, so they follow each other.
    pub async fn look(handle: &Handle) -> Result<Seen, Fault> {
        Ok(Seen {
            links: all(handle).await?,
            routes: route::Table::read(handle).await?,
            neighbours: neighbours(handle).await?,
        })
    }

    /// The names of all links by their index.
    pub fn names(&self) -> BTreeMap<u32, String> {
        self.links.iter().map(|end| (end.index, end.name.clone())).collect()
    }

    /// What is wrong with a host end.
    pub fn faults(&self, end: &End, wanted: &Wanted) -> Result<Vec<String>, Fault> {
        let address = Ipv4Addr::from(wanted.address);
        let mut faults = Vec::new();
        let mut check = |right: bool, wrong: String| {
            if !right {
                faults.push(wrong);
            }
        };
        check(end.veth, "host end is not a veth".into());
        check(end.mtu == wanted.mtu, format!("mtu of the host end is {}", end.mtu));
        check(end.up, "host end down".into());
        check(end.mac == HOST_MAC, format!("mac of the host end is {}", mac_text(&end.mac)));
        check(
            self.routes.holds(&route::Entry::to_container(address, end.index)),
            "host route missing".into(),
        );
        check(
            self.neighbours.contains(&(end.index, address, far_mac(wanted.address).into())),
            "host neighbour missing".into(),
        );
        for (key, value) in SETTINGS {
            let now = sysctl::get(&sysctl::of_interface(&end.name, key))?.unwrap_or_else(|| "absent".into());
            check(now == value, format!("{key} is {now}"));
        }
        Ok(faults)
    }
}

/// Makes a link be whole, whatever is there of it.
pub async fn ensure(host: &Handle, wanted: &Wanted<'_>) -> Result<(), Fault> {
    let inside = netns::enter(wanted.netns).await?;
    let (near, far) = match pair(host, &inside, wanted).await? {
        Some(pair) => pair,
        None => {
            create(host, &inside, wanted).await?;
            pair(host, &inside, wanted).await?.ok_or_else(|| {
                found(
                    FaultKind::Outdated,
                    format!("link {} went away while it was made", link_name(wanted.address)),
                )
            })?
        }
    };
    far::mend(&inside, &far, wanted).await?;
    mend(host, &near, wanted).await?;
    settle(host, &near, &inside.handle, &far).await
}

/// Removes a link, both ends.
pub async fn delete(host: &Handle, address: Address) -> Result<(), Fault> {
    let name = link_name(address);
    let Some(end) = find(host, &name).await? else {
        return Ok(());
    };
    // From here on no packet passes.
    let down = host.link().set(LinkUnspec::new_with_index(end.index).down().build()).execute().await;
    already_gone(down).map_err(|error| fault(format_args!("setting link {name} down"), &error))?;
    let destroyed = task::spawn_blocking(move || destroy(end.index)).await;
    destroyed
        .unwrap_or(Err(Errno::ECANCELED))
        .map_err(|cause| fault(format_args!("removing link {name}"), &cause))
}

/// The kernel lets go of a device within the call that asks for it, and that takes 15 ms and more: too long
/// for a thread that has other things to do.
fn destroy(index: u32) -> Result<(), Errno> {
    let runtime =
        runtime::Builder::new_current_thread().enable_io().build().map_err(|error| error.errno())?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| error.errno())?;
        tokio::spawn(connection);
        already_gone(handle.link().del(index).execute().await).map_err(|error| error.errno())
    })
}

/// Both ends, if both are there and belong together. What is in the way of ours goes, if it is ours.
async fn pair(host: &Handle, inside: &Inside, wanted: &Wanted<'_>) -> Result<Option<(End, End)>, Fault> {
    let near = find(host, &link_name(wanted.address)).await?;
    let far = find(&inside.handle, FAR_NAME).await?;
    match (near, far) {
        (Some(near), Some(far)) if near.is_other_end_of(&far) => Ok(Some((near, far))),
        (near, Some(far)) => Err(in_the_way(host, near, &far, wanted).await?),
        (Some(_), None) => delete(host, wanted.address).await.map(|()| None),
        (None, None) => Ok(None),
    }
}

/// Why the `ethwe` that is there cannot be the far end.
async fn in_the_way(
    host: &Handle,
    near: Option<End>,
    far: &End,
    wanted: &Wanted<'_>,
) -> Result<Fault, Fault> {
    let path = wanted.netns.path.display();
    let served = |end: &End| served_by(&end.name).filter(|_| end.is_other_end_of(far));
    let other = all(host).await?.iter().find_map(served);
    if let Some(other) = other {
        return Ok(found(FaultKind::Outdated, format!("{FAR_NAME} in {path} is still the link of {other}")));
    }
    let elsewhere = if near.is_some() { " (the link of that address is elsewhere)" } else { "" };
    Ok(Fault {
        hint: Some(format!("remove or rename {FAR_NAME} there, then attach again")),
        ..found(FaultKind::Invalid, format!("{FAR_NAME} in {path} exists and is not ours{elsewhere}"))
    })
}

/// One message makes both ends, with names, MTU and MACs. The far end cannot be made up.
async fn create(host: &Handle, inside: &Inside, wanted: &Wanted<'_>) -> Result<(), Fault> {
    let name = link_name(wanted.address);
    let far = LinkMessageBuilder::<LinkUnspec>::new()
        .name(FAR_NAME)
        .mtu(wanted.mtu)
        .address(far_mac(wanted.address).into())
        .setns_by_fd(inside.fd())
        .build();
    let near = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(&*name)
        .mtu(wanted.mtu)
        .address(HOST_MAC.into())
        .up()
        .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
        .build();
    let made = already_there(host.link().add(near).execute().await);
    made.map_err(|error| fault(format_args!("making link {name}"), &error))
}

async fn mend(host: &Handle, near: &End, wanted: &Wanted<'_>) -> Result<(), Fault> {
    set_up(host, near, wanted.mtu, HOST_MAC).await?;
    for (key, value) in SETTINGS {
        let setting = sysctl::of_interface(&near.name, key);
        if sysctl::get(&setting)?.as_deref() != Some(value) {
            sysctl::set(&setting, value)?;
        }
    }
    let address = Ipv4Addr::from(wanted.address);
    ensure_neighbour(host, &(near.index, address, far_mac(wanted.address).into())).await?;
    route::ensure(host, &route::Entry::to_container(address, near.index)).await
}

/// Waits until both ends send. After an end comes up the kernel starts it in its own time, and until then
/// drops packets; a first SYN that is dropped costs a second.
async fn settle(host: &Handle, near: &End, inside: &Handle, far: &End) -> Result<(), Fault> {
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

/// Gives one end its MTU and MAC and brings it up.
pub async fn set_up(handle: &Handle, end: &End, mtu: u32, mac: [u8; 6]) -> Result<(), Fault> {
    if end.up && end.mtu == mtu && end.mac == mac {
        return Ok(());
    }
    let set = LinkUnspec::new_with_index(end.index).mtu(mtu).address(mac.into()).up().build();
    let done = handle.link().set(set).execute().await;
    done.map_err(|error| fault(format_args!("setting link {} up with mtu {mtu}", end.name), &error))
}

/// A MAC as it is usually written.
pub fn mac_text(mac: &[u8]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_known_by_its_name_and_by_nothing_like_it() {
        let address: Address = "10.32.1.2".parse().unwrap();
        assert_eq!(served_by(&link_name(address)), Some(address));
        for name in ["wv0a2001", "wv0A200102", "wv+a200102", "wvlan0", "eth0", "wv"] {
            assert_eq!(served_by(name), None, "{name}");
        }
    }

    #[test]
    fn the_far_end_s_mac_follows_from_the_address() {
        assert_eq!(mac_text(&far_mac("10.32.1.2".parse().unwrap())), "02:67:0a:20:01:02");
    }
}
