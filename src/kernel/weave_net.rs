//! What Weave Net has made on this host: its bridge, and the links that lead from there into containers.
//!
//! A link is taken out of use in three steps that can each be the last: its end in the container is set aside, down and under another
//! name, so that ours can be made in its place; then ours is made by whom it concerns; then Weave Net's goes. Until it has gone it is
//! found again by the addresses that it still has.

use std::{collections::BTreeMap, sync::Arc};

use ipnet::Ipv4Net;
use rtnetlink::{
    Handle, LinkUnspec,
    packet_route::{
        AddressFamily,
        route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol},
    },
};

use super::{
    address,
    bound::{self, CHANGE, READ_MAX},
    fault::{already_gone, already_there, fault, found},
    link::{self, End},
    number, sysctl,
    visit::{self, Inside, Visitor},
    ways,
};
use crate::{
    migrate::{Bridge, SET_ASIDE, Survey, WeaveLink},
    peer::PeerName,
    state::{Far, Fault, FaultKind, Netns},
};

/// How the names of the links begin that connect the bridge with Weave Net's own datapath, and not with a container.
const OWN_LINKS: [&str; 2] = ["vethwe-bridge", "vethwe-datapath"];
/// The setting by which the bridge answers for what is elsewhere.
const PROXY_ARP: &str = "net.ipv4.conf.weave.proxy_arp";

/// All of it. What is in namespaces that nobody can enter any more is not found.
pub async fn survey() -> Result<Survey, Fault> {
    let all = link::all().await?;
    let Some(bridge) = all.iter().find(|end| end.name == Bridge::NAME) else { return Ok(Survey::default()) };
    let is_container_s =
        |end: &&End| end.controller == Some(bridge.index) && end.veth && !OWN_LINKS.contains(&&*end.name);
    let mut ends: BTreeMap<u32, End> =
        all.iter().map(|end| &**end).filter(is_container_s).map(|end| (end.index, end.clone())).collect();
    let ours = all.iter().filter(|end| end.serves.is_some());
    let ours: BTreeMap<u32, End> = ours.map(|end| (end.index, End::clone(end))).collect();
    let (mut links, mut unread) = (Vec::new(), Vec::new());
    for (netns, looked) in look_into_all(ends.clone(), ours).await {
        match looked {
            Ok(found) => links.extend(found),
            Err(fault) => unread.push(format!("{}: {fault}", netns.path.display())),
        }
    }
    links.iter().for_each(|link: &WeaveLink| drop(ends.remove(&link.host_end.0)));
    // Where each link was found it does not matter what else cannot be looked into.
    if ends.is_empty() {
        unread.clear();
    }
    unread.extend(ends.values().map(|end| format!("{}: it is not known where it leads", end.name)));
    links.sort_by_key(|link| link.host_end.0);
    let is_aws_vpc = sysctl::Tree::open()?.observe([PROXY_ARP.to_owned()].iter())?;
    let bridge =
        Bridge { name: name_of(&bridge.mac), is_aws_vpc: is_aws_vpc.values().any(|value| value == "1") };
    Ok(Survey { bridge: Some(bridge), links, unread })
}

fn name_of(mac: &[u8]) -> Option<PeerName> {
    let mac: [u8; 6] = mac.try_into().ok()?;
    Some(PeerName::from_u64(mac.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte))))
}

// ===== looking =====

/// A namespace, and what is looked for in it.
struct Visit {
    netns: Netns,
    ends: Arc<BTreeMap<u32, End>>,
    ours: Arc<BTreeMap<u32, End>>,
}

type Looked = (Netns, Result<Vec<WeaveLink>, Fault>);

async fn look_into_all(ends: BTreeMap<u32, End>, ours: BTreeMap<u32, End>) -> Vec<Looked> {
    if ends.is_empty() {
        return Vec::new();
    }
    let (all, ends, ours) = (ways::all(), Arc::new(ends), Arc::new(ours));
    let visit = |netns: &Netns| Visit { netns: netns.clone(), ends: ends.clone(), ours: ours.clone() };
    let visits = all.iter().map(visit).collect();
    let looked = visit::each(visits, |visitor, visit| Box::pin(look_into(visitor, visit))).await;
    all.into_iter().zip(looked).collect()
}

async fn look_into(visitor: &Visitor, visit: &Visit) -> Result<Vec<WeaveLink>, Fault> {
    let inside = visitor.enter(&visit.netns)?;
    // Indices alone are the same in many namespaces.
    let Some(number) = number::of(&visitor.host, &inside).await else { return Ok(Vec::new()) };
    let interfaces = link::all_inside(&inside.handle).await?;
    let other_end = |far: &End, ends: &BTreeMap<u32, End>| {
        let near = ends.get(&far.peer?).filter(|near| near.is_other_end_of(far))?;
        Some(near.clone()).filter(|near| near.namespace == Some(number))
    };
    let mut ours = interfaces.iter().filter(|far| far.name == Far::NAME);
    let ours = ours.find_map(|far| other_end(far, &visit.ours)?.serves);
    let mut links = Vec::new();
    for far in &interfaces {
        let Some(near) = other_end(far, &visit.ends) else { continue };
        links.push(WeaveLink {
            host_end: (near.index, near.name),
            interface: (far.index, far.name.clone()),
            netns: inside.netns.clone(),
            addresses: addresses(&inside, far).await?,
            ours,
        });
    }
    Ok(links)
}

async fn addresses(inside: &Inside, far: &End) -> Result<Vec<Ipv4Net>, Fault> {
    let held = address::inside(&inside.handle, far.index, AddressFamily::Inet).await?;
    let net = |held: &_| address::text(held).parse().ok();
    Ok(held.iter().filter_map(net).collect())
}

// ===== changing =====

/// A link whose end in the container was set aside: what it takes to put it back.
#[derive(Debug)]
pub struct Aside {
    link: WeaveLink,
    routes: Vec<RouteMessage>,
}

/// Takes the container's end down and gives it another name. From now on the container is cut off.
pub async fn set_aside(link: &WeaveLink) -> Result<Aside, Fault> {
    let what = format!("setting {} of {} aside", link.interface.1, link.netns.path.display());
    let link = link.clone();
    let work = async move |visitor: Visitor| {
        let inside = visitor.enter(&link.netns)?;
        let far = expect(&visitor.host, &inside, &link).await?;
        let routes = routes_by(&inside.handle, far.index).await?;
        match name(&inside.handle, far.index, SET_ASIDE).await {
            Ok(()) => Ok(Aside { link, routes }),
            Err(fault) => restore(&inside.handle, far.index, &far.name, routes).await.and(Err(fault)),
        }
    };
    visit::apart(&visit::FOR_LINKS, &what, CHANGE, work).await
}

/// Puts it back as it was, with the routes that it had.
pub async fn put_back(aside: Aside) -> Result<(), Fault> {
    let Aside { link, routes } = aside;
    // Of one that somebody else has set aside it is not known what it was called.
    let former = if link.interface.1 == SET_ASIDE { Far::NAME.to_owned() } else { link.interface.1.clone() };
    let what = format!("putting {former} of {} back", link.netns.path.display());
    let work = async move |visitor: Visitor| {
        let inside = visitor.enter(&link.netns)?;
        let far = expect(&visitor.host, &inside, &link).await?;
        restore(&inside.handle, far.index, &former, routes).await
    };
    visit::apart(&visit::FOR_LINKS, &what, CHANGE, work).await
}

async fn restore(inside: &Handle, index: u32, former: &str, routes: Vec<RouteMessage>) -> Result<(), Fault> {
    name(inside, index, former).await?;
    let up = LinkUnspec::new_with_index(index).up().build();
    let cannot = |error| fault(format_args!("setting {former} up"), &error);
    inside.link().set(up).execute().await.map_err(cannot)?;
    for route in routes {
        let added = already_there(inside.route().add(route).execute().await);
        added.map_err(|error| fault(format_args!("putting a route by {former} back"), &error))?;
    }
    Ok(())
}

/// Removes it, both ends. What is already gone is success.
pub async fn remove(link: &WeaveLink) -> Result<(), Fault> {
    let (index, expected) = link.host_end.clone();
    let what = format!("removing {expected}");
    let work = async move |visitor: Visitor| match link::numbered(&visitor.host, index).await? {
        Some(end) if end.name == expected && end.veth => {
            let gone = already_gone(visitor.host.link().del(index).execute().await);
            gone.map_err(|error| fault(format_args!("removing {expected}"), &error))
        }
        Some(_) | None => Ok(()),
    };
    visit::apart(&visit::FOR_LINKS, &what, CHANGE, work).await
}

/// The container's end, if the link is still what it was when it was looked at.
async fn expect(host: &Handle, inside: &Inside, link: &WeaveLink) -> Result<End, Fault> {
    let near = link::numbered(host, link.host_end.0).await?.filter(|near| near.name == link.host_end.1);
    let far = link::numbered(&inside.handle, link.interface.0).await?;
    match (near, far) {
        (Some(near), Some(far)) if near.is_other_end_of(&far) => Ok(far),
        _ => {
            Err(found(FaultKind::Outdated, format!("link {} is not as it was: look again", link.host_end.1)))
        }
    }
}

/// Only an interface that is down can be renamed by every kernel.
async fn name(inside: &Handle, index: u32, name: &str) -> Result<(), Fault> {
    let down = LinkUnspec::new_with_index(index).down().build();
    let cannot = |error| fault(format_args!("naming an interface {name}"), &error);
    inside.link().set(down).execute().await.map_err(cannot)?;
    let named = LinkUnspec::new_with_index(index).name(name.to_owned()).build();
    inside.link().set(named).execute().await.map_err(cannot)
}

/// Routes by an interface that the kernel did not make by itself, and will not make again by itself.
async fn routes_by(inside: &Handle, index: u32) -> Result<Vec<RouteMessage>, Fault> {
    let mut question = RouteMessage::default();
    question.header.address_family = AddressFamily::Inet;
    question.header.table = RouteHeader::RT_TABLE_MAIN;
    question.attributes.push(RouteAttribute::Oif(index));
    let all = bound::all(inside.route().get(question).execute(), "routes", READ_MAX).await?;
    Ok(all.into_iter().filter(|route| route.header.protocol != RouteProtocol::Kernel).collect())
}
