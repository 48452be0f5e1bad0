//! The far end of a link, inside the container's namespace.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use rtnetlink::{
    Handle, LinkUnspec,
    packet_route::{
        address::{AddressAttribute, AddressFlags, AddressMessage},
        link::InetDevConf,
    },
};

use super::{
    address,
    fault::{already_there, fault},
    link::{self, End, Wanted, mac_text},
    neighbour::{self, Neighbour},
    route::{self, Entry, Table},
    source,
    visit::Inside,
};
use crate::state::{Far, Fault, GATEWAY, HOST_MAC};

/// What the far end is set to when it is made. A container may have another interface by which it answers the world: what
/// comes in here is welcome all the same. And it says so when its MAC address is another, or when it is up again.
fn settings() -> InetDevConf {
    let mut settings = InetDevConf::default();
    (settings.rp_filter, settings.arp_notify) = (2, 1);
    settings
}

/// What is wrong with the far end of `near`, which is in this namespace; `Err` says why it cannot be looked at. Things are
/// asked for by name: what else is in there, and how much, is not ours. `mac` is where the host finds it.
pub async fn faults(
    inside: &Inside,
    near: &End,
    wanted: &Wanted<'_>,
    mac: Option<&[u8]>,
) -> Result<Vec<String>, Fault> {
    let handle = &inside.handle;
    let mut faults = Vec::new();
    let mut check = |right: bool, wrong: &dyn Fn() -> String| {
        if !right {
            faults.push(wrong());
        }
    };
    check(link::find(handle, "lo").await?.is_some_and(|lo| lo.up), &|| "lo down".into());
    let Some(far) = link::find(handle, &wanted.far.name).await?.filter(|far| far.is_other_end_of(near))
    else {
        faults.push("far end missing".into());
        return Ok(faults);
    };
    check(wanted_mtu(near, &far, wanted).is_none(), &|| format!("mtu of the far end is {}", far.mtu));
    check(far.up, &|| "far end down".into());
    let found = mac.is_none_or(|mac| mac == far.mac);
    check(found, &|| format!("mac of the far end is {}, which the host does not know", mac_text(&far.mac)));
    let addresses = address::inside(handle, far.index).await?;
    check(addresses.iter().any(|held| is_wanted(held, wanted)), &|| "address missing".into());
    let gateway = neighbour::is_permanent(handle, &gateway(&far)).await?;
    check(gateway, &|| "neighbour of the far end missing".into());
    let ours = Table::ours_by(handle, far.index).await?;
    check(ours.holds(&range_route(&far, wanted)), &|| "range route missing".into());
    let way_out = Table::begin(handle).await?.entries().any(Entry::is_default);
    check(way_out, &|| "default route missing".into());
    let sent = !is_second(handle, &far, wanted).await?
        || source::is_right(handle, &default_route(&far, wanted)).await?;
    if !sent {
        faults.push("what it sends by this link goes by another".into());
    }
    for stale in stale_routes(&ours, &far, wanted) {
        faults.push(format!("route {} of the far end is stale", stale.destination));
    }
    Ok(faults)
}

/// Makes the far end be whole.
pub async fn mend(inside: &Inside, near: &End, far: &End, wanted: &Wanted<'_>) -> Result<(), Fault> {
    let handle = &inside.handle;
    if let Some(lo) = link::find(handle, "lo").await?.filter(|lo| !lo.up) {
        let up = handle.link().set(LinkUnspec::new_with_index(lo.index).up().build());
        up.execute().await.map_err(|error| fault("setting lo up", &error))?;
    }
    let (mtu, is_new) = (wanted_mtu(near, far, wanted), !near.is_finished(wanted));
    if !far.up || mtu.is_some() || is_new {
        let mut set = LinkUnspec::new_with_index(far.index).mtu(mtu.unwrap_or(far.mtu)).up().build();
        set.attributes.extend(is_new.then(|| link::with_settings(settings())));
        let done = handle.link().set(set).execute().await;
        done.map_err(|error| fault(format_args!("setting {} up", far.name), &error))?;
    }
    ensure_address(handle, far, wanted).await?;
    neighbour::ensure_permanent(handle, &gateway(far)).await?;
    Table::ours_by(handle, far.index).await?.ensure(handle, &range_route(far, wanted)).await?;
    let ours = Table::ours_by(handle, far.index).await?;
    for stale in stale_routes(&ours, far, wanted) {
        route::remove(handle, stale).await?;
    }
    if is_second(handle, far, wanted).await? {
        source::ensure(handle, &default_route(far, wanted)).await?;
    }
    let others = |entry: &Entry| entry.is_default() && entry.interface != Some(far.index);
    if Table::begin(handle).await?.entries().any(others) {
        return Ok(());
    }
    ours.ensure(handle, &default_route(far, wanted)).await
}

/// The MTU that the far end is to be given: that of the host end, which shows what it was given last. A smaller one since then
/// is somebody's choice; with a larger one packets would be lost.
fn wanted_mtu(near: &End, far: &End, wanted: &Wanted<'_>) -> Option<u32> {
    let chosen = near.mtu == wanted.mtu && far.mtu < wanted.mtu;
    (far.mtu != wanted.mtu && !chosen).then_some(wanted.mtu)
}

/// Makes the address be there in the one form that adds no route of its own.
async fn ensure_address(handle: &Handle, far: &End, wanted: &Wanted<'_>) -> Result<(), Fault> {
    let held = address::inside(handle, far.index).await?;
    if held.iter().any(|message| is_wanted(message, wanted)) {
        return Ok(());
    }
    let address = Ipv4Addr::from(wanted.address);
    let what = |error| fault(format_args!("giving {} address {address}", far.name), &error);
    for other_form in held.iter().filter(|message| address::ip(message) == Some(IpAddr::V4(address))) {
        address::remove(handle, other_form).await?;
    }
    let mut add = handle.address().add(far.index, address.into(), wanted.range.prefix_len());
    add.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Noprefixroute));
    already_there(add.execute().await).map_err(what)
}

fn is_wanted(message: &AddressMessage, wanted: &Wanted) -> bool {
    let adds_no_route = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Flags(flags) => flags.contains(AddressFlags::Noprefixroute),
        _ => false,
    };
    address::ip(message) == Some(IpAddr::V4(wanted.address.into()))
        && message.header.prefix_len == wanted.range.prefix_len()
        && message.attributes.iter().any(adds_no_route)
}

fn gateway(far: &End) -> Neighbour {
    (far.index, GATEWAY, HOST_MAC.0.into())
}

fn range_route(far: &End, wanted: &Wanted) -> Entry {
    route_out(wanted.range.trunc(), far, wanted)
}

fn default_route(far: &End, wanted: &Wanted) -> Entry {
    route_out(Ipv4Net::default(), far, wanted)
}

/// A container may have several links of ours, which come one after the other.
fn route_out(destination: Ipv4Net, far: &End, wanted: &Wanted) -> Entry {
    let metric = if wanted.far.name == Far::NAME { 0 } else { far.index };
    Entry { metric, ..Entry::out(destination, far.index, GATEWAY, wanted.address.into()) }
}

/// Whether another link of ours is preferred to this one.
async fn is_second(handle: &Handle, far: &End, wanted: &Wanted<'_>) -> Result<bool, Fault> {
    let own = range_route(far, wanted);
    if own.metric == 0 {
        return Ok(false);
    }
    let goes_before = |entry: &Entry| entry.destination == own.destination && entry.metric < own.metric;
    Ok(Table::ours(handle).await?.entries().any(goes_before))
}

/// Routes that we made for another range or another address.
fn stale_routes<'a>(routes: &'a Table, far: &End, wanted: &Wanted) -> Vec<&'a Entry> {
    let right = [range_route(far, wanted), default_route(far, wanted)];
    let ours = |entry: &&Entry| entry.protocol == route::PROTOCOL && entry.interface == Some(far.index);
    routes.entries().filter(ours).filter(|entry| !right.contains(entry)).collect()
}
