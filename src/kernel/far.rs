//! The far end of a link, inside the container's namespace.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::{
    Handle, LinkUnspec,
    packet_route::address::{AddressAttribute, AddressFlags, AddressMessage},
};

use super::{
    fault::{already_gone, already_there, fault},
    link::{self, End, FAR_NAME, HOST_MAC, Neighbour, Seen, Wanted, far_mac, mac_text},
    netns::{self, Inside},
    route::{self, Entry},
    sysctl,
};
use crate::state::Fault;

/// The way out of every container: an address that nobody has and that stands for the host end.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// A container may have another interface by which it answers the world; what comes in here is welcome all the same.
const RP_FILTER: &str = "2";

/// What is wrong with the far end of `near`, which is in the namespace that `wanted` names; `Err` says why
/// it cannot be looked at.
pub async fn faults(near: &End, wanted: &Wanted<'_>) -> Result<Vec<String>, Fault> {
    let Inside { handle, rp_filter, .. } = netns::enter(wanted.netns).await?;
    let seen = Seen::look(&handle).await?;
    let mut faults = Vec::new();
    let mut check = |right: bool, wrong: String| {
        if !right {
            faults.push(wrong);
        }
    };
    let named = |name: &str| seen.links.iter().find(|end| end.name == name);
    check(named("lo").is_some_and(|lo| lo.up), "lo down".into());
    let Some(far) = named(FAR_NAME).filter(|far| far.is_other_end_of(near)) else {
        faults.push("far end missing".into());
        return Ok(faults);
    };
    let mac = far_mac(wanted.address);
    check(far.mtu == wanted.mtu, format!("mtu of the far end is {}", far.mtu));
    check(far.up, "far end down".into());
    let rp_filter = rp_filter.unwrap_or_else(|| "absent".into());
    check(rp_filter == RP_FILTER, format!("rp_filter of the far end is {rp_filter}"));
    check(far.mac == mac, format!("mac of the far end is {}", mac_text(&far.mac)));
    let addresses = addresses(&handle, far.index).await?;
    check(addresses.iter().any(|held| is_wanted(held, wanted)), "address missing".into());
    check(seen.neighbours.contains(&gateway(far)), "neighbour of the far end missing".into());
    check(seen.routes.holds(&range_route(far, wanted)), "range route missing".into());
    check(seen.routes.entries().any(Entry::is_default), "default route missing".into());
    for stale in stale_routes(&seen.routes, far, wanted) {
        faults.push(format!("route {} of the far end is stale", stale.destination));
    }
    Ok(faults)
}

/// Makes the far end be whole.
pub async fn mend(inside: &Inside, far: &End, wanted: &Wanted<'_>) -> Result<(), Fault> {
    let handle = &inside.handle;
    if inside.rp_filter.as_deref() != Some(RP_FILTER) {
        inside.set(sysctl::of_interface(FAR_NAME, "rp_filter"), RP_FILTER).await?;
    }
    if let Some(lo) = link::find(handle, "lo").await?.filter(|lo| !lo.up) {
        let up = handle.link().set(LinkUnspec::new_with_index(lo.index).up().build());
        up.execute().await.map_err(|error| fault("setting lo up", &error))?;
    }
    link::set_up(handle, far, wanted.mtu, far_mac(wanted.address)).await?;
    ensure_address(handle, far, wanted).await?;
    link::ensure_neighbour(handle, &gateway(far)).await?;
    route::ensure(handle, &range_route(far, wanted)).await?;
    let routes = route::Table::read(handle).await?;
    for stale in stale_routes(&routes, far, wanted) {
        route::remove(handle, stale).await?;
    }
    let others = |entry: &Entry| entry.is_default() && entry.interface != Some(far.index);
    if routes.entries().any(others) {
        return Ok(());
    }
    route::ensure(handle, &default_route(far, wanted)).await
}

/// Makes the address be there in the one form that adds no route of its own.
async fn ensure_address(handle: &Handle, far: &End, wanted: &Wanted<'_>) -> Result<(), Fault> {
    let held = addresses(handle, far.index).await?;
    if held.iter().any(|message| is_wanted(message, wanted)) {
        return Ok(());
    }
    let address = Ipv4Addr::from(wanted.address);
    let what = |error| fault(format_args!("giving {FAR_NAME} address {address}"), &error);
    for other_form in held.into_iter().filter(|message| local(message) == Some(address)) {
        already_gone(handle.address().del(other_form).execute().await).map_err(what)?;
    }
    let mut add = handle.address().add(far.index, address.into(), wanted.range.prefix_len());
    add.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Noprefixroute));
    already_there(add.execute().await).map_err(what)
}

/// Addresses of one interface.
async fn addresses(handle: &Handle, index: u32) -> Result<Vec<AddressMessage>, Fault> {
    let dump = handle.address().get().set_link_index_filter(index).execute();
    dump.try_collect().await.map_err(|error| fault("reading the addresses", &error))
}

fn is_wanted(message: &AddressMessage, wanted: &Wanted) -> bool {
    let adds_no_route = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Flags(flags) => flags.contains(AddressFlags::Noprefixroute),
        _ => false,
    };
    local(message) == Some(wanted.address.into())
        && message.header.prefix_len == wanted.range.prefix_len()
        && message.attributes.iter().any(adds_no_route)
}

fn local(message: &AddressMessage) -> Option<Ipv4Addr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
        _ => None,
    })
}

fn gateway(far: &End) -> Neighbour {
    (far.index, GATEWAY, HOST_MAC.into())
}

fn range_route(far: &End, wanted: &Wanted) -> Entry {
    Entry::out(wanted.range.trunc(), far.index, GATEWAY, wanted.address.into())
}

fn default_route(far: &End, wanted: &Wanted) -> Entry {
    Entry::out(Ipv4Net::default(), far.index, GATEWAY, wanted.address.into())
}

/// Routes that we made for another range or another address.
fn stale_routes<'a>(routes: &'a route::Table, far: &End, wanted: &Wanted) -> Vec<&'a Entry> {
    let right = [range_route(far, wanted), default_route(far, wanted)];
    let ours = |entry: &&Entry| entry.protocol == route::PROTOCOL && entry.interface == Some(far.index);
    routes.entries().filter(ours).filter(|entry| !right.contains(entry)).collect()
}
