//! The far end of a link, inside the container's namespace.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use rtnetlink::{
    Handle, LinkUnspec,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressFlags, AddressMessage},
        link::InetDevConf,
    },
};

use super::{
    address,
    fault::{already_there, fault},
    link::{self, End, OWN6_LEN, Own, Wanted, mac_text, of_kind},
    neighbour::{self, Neighbour},
    route::{self, Entry, Table},
    source,
    visit::{Inside, Visitor},
};
use crate::{
    addr::Address,
    state::{Far, Fault, HOST_MAC},
};

/// What the far end is set to when it is made. A container may have another interface by which it answers the world: what
/// comes in here is welcome all the same. And it says so when its MAC address is another, or when it is up again.
fn settings() -> InetDevConf {
    let mut settings = InetDevConf::default();
    (settings.rp_filter, settings.arp_notify) = (2, 1);
    settings
}

/// What the far end is set to of IPv6, in this order, where the container has such an address: it heeds no router, and takes it in
/// whatever its runtime has set for interfaces without one. These are files and nothing else.
const SETTINGS6: [(&str, &str); 2] = [("accept_ra", "0"), ("disable_ipv6", "0")];

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
    let settings6 = wanted.prefix.is_none() || has_settings6(&far);
    check(settings6, &|| "the far end heeds routers, or takes in no IPv6".into());
    for own in wanted.own() {
        faults.extend(faults_of(handle, &far, wanted, &own).await?);
    }
    Ok(faults)
}

async fn faults_of(handle: &Handle, far: &End, wanted: &Wanted<'_>, own: &Own) -> Result<Vec<String>, Fault> {
    let (mut faults, of) = (Vec::new(), of_kind(own));
    let mut check = |right: bool, what: &str| {
        if !right {
            faults.push(format!("{what}{of} missing"));
        }
    };
    let addresses = address::inside(handle, far.index, own.kind).await?;
    check(addresses.iter().any(|held| is_wanted(held, own)), "address");
    check(neighbour::is_permanent(handle, &gateway(far, own)).await?, "neighbour of the far end");
    let ours = Table::ours_by(handle, far.index, own.kind).await?;
    check(ours.holds(&range_route(far, wanted, own)), "range route");
    check(Table::begin(handle, own.kind).await?.entries().any(Entry::is_default), "default route");
    let sent = !is_second(handle, far, wanted, own).await?
        || source::is_right(handle, &default_route(far, wanted, own)).await?;
    if !sent {
        faults.push(format!("what it sends{of} by this link goes by another"));
    }
    for stale in stale_routes(&ours, far, wanted, own) {
        faults.push(format!("route {} of the far end is stale", stale.destination));
    }
    for stale in addresses.iter().filter(|held| is_stale(held, own)) {
        faults.push(format!("address {} of the far end is stale", address::text(stale)));
    }
    Ok(faults)
}

/// Makes the far end be whole.
pub async fn mend(
    visitor: &Visitor,
    inside: &Inside,
    (near, far): (&End, &End),
    wanted: &Wanted<'_>,
) -> Result<(), Fault> {
    let handle = &inside.handle;
    if let Some(lo) = link::find(handle, "lo").await?.filter(|lo| !lo.up) {
        let up = handle.link().set(LinkUnspec::new_with_index(lo.index).up().build());
        up.execute().await.map_err(|error| fault("setting lo up", &error))?;
    }
    if wanted.prefix.is_some() && !has_settings6(far) {
        visitor.set6(inside, &far.name, &SETTINGS6)?;
    }
    let (mtu, is_new) = (wanted_mtu(near, far, wanted), !near.is_finished(wanted));
    if !far.up || mtu.is_some() || is_new {
        let mut set = LinkUnspec::new_with_index(far.index).mtu(mtu.unwrap_or(far.mtu)).up().build();
        set.attributes.extend(is_new.then(|| link::with_settings(settings())));
        let done = handle.link().set(set).execute().await;
        done.map_err(|error| fault(format_args!("setting {} up", far.name), &error))?;
    }
    for own in wanted.own() {
        mend_of(handle, far, wanted, &own).await?;
    }
    let had_v6 = near.is_finished(wanted) && near.has_v6() == Some(true);
    if had_v6 && wanted.prefix.is_none() { withdraw6(handle, far, wanted.address).await } else { Ok(()) }
}

/// Takes away what was made of IPv6: the host passes nothing of it on any more.
async fn withdraw6(handle: &Handle, far: &End, address: Address) -> Result<(), Fault> {
    for route in Table::ours_by(handle, far.index, AddressFamily::Inet6).await?.entries() {
        route::remove(handle, route).await?;
    }
    let held = address::inside(handle, far.index, AddressFamily::Inet6).await?;
    for held in held.iter().filter(|held| goes_with(held, address)) {
        address::remove(handle, held).await?;
    }
    Ok(())
}

async fn mend_of(handle: &Handle, far: &End, wanted: &Wanted<'_>, own: &Own) -> Result<(), Fault> {
    ensure_address(handle, far, own).await?;
    neighbour::ensure_permanent(handle, &gateway(far, own)).await?;
    let ours = Table::ours_by(handle, far.index, own.kind).await?;
    ours.ensure(handle, &range_route(far, wanted, own)).await?;
    let ours = Table::ours_by(handle, far.index, own.kind).await?;
    for stale in stale_routes(&ours, far, wanted, own) {
        route::remove(handle, stale).await?;
    }
    if is_second(handle, far, wanted, own).await? {
        source::ensure(handle, &default_route(far, wanted, own)).await?;
    }
    let others = |entry: &Entry| entry.is_default() && entry.interface != Some(far.index);
    if Table::begin(handle, own.kind).await?.entries().any(others) {
        return Ok(());
    }
    ours.ensure(handle, &default_route(far, wanted, own)).await
}

fn has_settings6(far: &End) -> bool {
    far.has_v6() == Some(true) && !far.heeds_routers()
}

/// The MTU that the far end is to be given: that of the host end, which shows what it was given last. A smaller one since then
/// is somebody's choice; with a larger one packets would be lost.
fn wanted_mtu(near: &End, far: &End, wanted: &Wanted<'_>) -> Option<u32> {
    let chosen = near.mtu == wanted.mtu && far.mtu < wanted.mtu;
    (far.mtu != wanted.mtu && !chosen).then_some(wanted.mtu)
}

/// Makes the address be there in the one form that adds no route of its own.
async fn ensure_address(handle: &Handle, far: &End, own: &Own) -> Result<(), Fault> {
    let held = address::inside(handle, far.index, own.kind).await?;
    for stale in held.iter().filter(|held| is_stale(held, own)) {
        address::remove(handle, stale).await?;
    }
    if held.iter().any(|message| is_wanted(message, own)) {
        return Ok(());
    }
    let address = own.address;
    let what = |error| fault(format_args!("giving {} address {address}", far.name), &error);
    for other_form in held.iter().filter(|message| address::ip(message) == Some(address)) {
        address::remove(handle, other_form).await?;
    }
    let mut add = handle.address().add(far.index, address, own.length);
    // Nobody else can have it.
    let flags = if address.is_ipv6() { AddressFlags::Nodad } else { AddressFlags::empty() };
    let flags = flags | AddressFlags::Noprefixroute;
    add.message_mut().attributes.push(AddressAttribute::Flags(flags));
    already_there(add.execute().await).map_err(what)
}

fn is_wanted(message: &AddressMessage, own: &Own) -> bool {
    address::ip(message) == Some(own.address)
        && message.header.prefix_len == own.length
        && adds_no_route(message)
}

fn adds_no_route(message: &AddressMessage) -> bool {
    message.attributes.iter().any(|attribute| match attribute {
        AddressAttribute::Flags(flags) => flags.contains(AddressFlags::Noprefixroute),
        _ => false,
    })
}

/// Whether it is the IPv6 address that the container had by another prefix.
fn is_stale(message: &AddressMessage, own: &Own) -> bool {
    let IpAddr::V6(ours) = own.address else { return false };
    address::ip(message) != Some(own.address) && goes_with(message, last_of(ours))
}

/// Whether it is an IPv6 address as we give them, for a container of this IPv4 address.
fn goes_with(message: &AddressMessage, address: Address) -> bool {
    let ends_so = matches!(address::ip(message), Some(IpAddr::V6(held)) if last_of(held) == address);
    ends_so && message.header.prefix_len == OWN6_LEN && adds_no_route(message)
}

fn last_of(ip: Ipv6Addr) -> Address {
    Address(u128::from(ip) as u32)
}

fn gateway(far: &End, own: &Own) -> Neighbour {
    (far.index, own.gateway, HOST_MAC.0.into())
}

fn range_route(far: &End, wanted: &Wanted, own: &Own) -> Entry {
    route_out(own.range, far, wanted, own)
}

fn default_route(far: &End, wanted: &Wanted, own: &Own) -> Entry {
    route_out(own.world, far, wanted, own)
}

/// A container may have several links of ours, which come one after the other.
fn route_out(destination: IpNet, far: &End, wanted: &Wanted, own: &Own) -> Entry {
    let metric = if is_first(wanted) { 0 } else { far.index };
    Entry::out(destination, far.index, own.gateway, own.address, metric)
}

fn is_first(wanted: &Wanted) -> bool {
    wanted.far.name == Far::NAME
}

/// Whether another link of ours is preferred to this one.
async fn is_second(handle: &Handle, far: &End, wanted: &Wanted<'_>, own: &Own) -> Result<bool, Fault> {
    if is_first(wanted) {
        return Ok(false);
    }
    let own_route = range_route(far, wanted, own);
    let goes_before =
        |entry: &Entry| entry.destination == own_route.destination && entry.metric < own_route.metric;
    Ok(Table::ours(handle, own.kind).await?.entries().any(goes_before))
}

/// Routes that we made for another range or another address.
fn stale_routes<'a>(routes: &'a Table, far: &End, wanted: &Wanted, own: &Own) -> Vec<&'a Entry> {
    let right = [range_route(far, wanted, own), default_route(far, wanted, own)];
    let ours = |entry: &&Entry| entry.protocol == route::PROTOCOL && entry.interface == Some(far.index);
    routes.entries().filter(ours).filter(|entry| !right.contains(entry)).collect()
}
