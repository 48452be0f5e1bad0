//! Addresses of interfaces.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::{
    Handle,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    },
};

use super::{
    bound::{self, READ_MAX},
    fault::{already_gone, already_there, fault},
};
use crate::state::{Fault, GATEWAY, GATEWAY6};

/// The length of the prefix around the gateway of IPv6: all of the link.
const GATEWAY6_LEN: u8 = 64;

/// Index of `lo` in every namespace.
const LOOPBACK: u32 = 1;

/// The kinds of addresses that containers may have.
pub const BOTH: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

/// The kind of an address.
pub fn family_of(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// Of these the second one only where it is in use.
pub fn families(has_v6: bool) -> &'static [AddressFamily] {
    if has_v6 { &BOTH } else { &BOTH[..1] }
}

/// Gives the host [`GATEWAY`], of a scope in which it is nobody's source.
pub async fn add_gateway(handle: &Handle) -> Result<(), Fault> {
    let mut add = handle.address().add(LOOPBACK, GATEWAY.into(), 32);
    add.message_mut().header.scope = AddressScope::Link;
    let added = already_there(add.execute().await);
    added.map_err(|error| fault(format_args!("adding address {GATEWAY} to lo"), &error))
}

/// Takes it off again.
pub async fn remove_gateway(handle: &Handle) -> Result<(), Fault> {
    for held in all(handle).await?.iter().filter(|held| is_gateway(held)) {
        remove(handle, held).await?;
    }
    Ok(())
}

/// Whether it is that one.
pub fn is_gateway(message: &AddressMessage) -> bool {
    message.header.index == LOOPBACK && ip(message) == Some(IpAddr::V4(GATEWAY))
}

/// Gives the host's end of a link the gateway of IPv6. Nobody else is on that link, so nobody is asked whether he has it already.
pub async fn add_gateway6(handle: &Handle, index: u32) -> Result<(), Fault> {
    let mut add = handle.address().add(index, GATEWAY6.into(), GATEWAY6_LEN);
    add.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    let added = already_there(add.execute().await);
    added.map_err(|error| fault(format_args!("adding address {GATEWAY6} to a host end"), &error))
}

/// Whether it is that one.
pub fn is_gateway6(message: &AddressMessage) -> bool {
    message.header.prefix_len == GATEWAY6_LEN && ip(message) == Some(IpAddr::V6(GATEWAY6))
}

/// All addresses of all interfaces, of both kinds.
pub async fn all(handle: &Handle) -> Result<Vec<AddressMessage>, Fault> {
    let dump = handle.address().get().execute();
    dump.try_collect().await.map_err(|error| fault("reading the addresses", &error))
}

/// All addresses of one interface of the host, by a handle that checks strictly.
pub async fn of(handle: &Handle, index: u32) -> Result<Vec<AddressMessage>, Fault> {
    let mut question = handle.address().get().set_link_index_filter(index);
    question.message_mut().header.index = index;
    let dump = question.execute();
    dump.try_collect().await.map_err(|error| fault("reading the addresses of an interface", &error))
}

/// The addresses of one kind of one interface of a container, by a handle that checks strictly.
pub async fn inside(
    handle: &Handle,
    index: u32,
    family: AddressFamily,
) -> Result<Vec<AddressMessage>, Fault> {
    let mut question = handle.address().get().set_link_index_filter(index);
    let header = &mut question.message_mut().header;
    (header.family, header.index) = (family, index);
    bound::all(question.execute(), "addresses", READ_MAX).await
}

/// Takes an address off its interface.
pub async fn remove(handle: &Handle, message: &AddressMessage) -> Result<(), Fault> {
    let gone = already_gone(handle.address().del(message.clone()).execute().await);
    gone.map_err(|error| fault(format_args!("removing address {}", text(message)), &error))
}

/// The address itself; of a link to one other host, not the other's.
pub fn ip(message: &AddressMessage) -> Option<IpAddr> {
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            _ => {}
        }
    }
    local.or(address)
}

/// An address and its length.
pub fn text(message: &AddressMessage) -> String {
    let ip = ip(message).map_or_else(|| "of another kind".into(), |ip| ip.to_string());
    format!("{ip}/{}", message.header.prefix_len)
}
