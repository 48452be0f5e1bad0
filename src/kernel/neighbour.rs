//! Neighbours that we make, so that nobody need be asked for a MAC address.
//!
//! In a container the host's entry is permanent. The host's entry for a container is not: when somebody gives the far end
//! another MAC address, the container says so, and the kernel is to believe it at once.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use futures_util::{StreamExt, TryStreamExt};
use nix::errno::Errno;
use rtnetlink::{
    Error, Handle,
    packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    },
};

use super::{
    address::family_of,
    fault::{Cause, fault},
};
use crate::state::Fault;

/// A neighbour that packets can be sent to: who, by which interface, at which MAC.
pub type Neighbour = (u32, IpAddr, Vec<u8>);

/// All of them of these kinds.
pub async fn all(handle: &Handle, families: &[AddressFamily]) -> Result<BTreeSet<Neighbour>, Fault> {
    let mut found = BTreeSet::new();
    for family in families {
        let mut dump = Box::pin(handle.neighbours().get().set_address_family(*family).execute());
        while let Some(message) =
            dump.try_next().await.map_err(|error| fault("reading the neighbours", &error))?
        {
            found.extend(usable(&message));
        }
    }
    Ok(found)
}

/// Leaves out those by this interface.
pub fn forget(found: &mut BTreeSet<Neighbour>, index: u32) {
    let first = |index| (index, Ipv4Addr::UNSPECIFIED.into(), Vec::new());
    let of_it: Vec<Neighbour> = found.range(first(index)..first(index.saturating_add(1))).cloned().collect();
    for neighbour in &of_it {
        found.remove(neighbour);
    }
}

/// One of them, by which packets go to `address`. One question, however many there are.
pub async fn find(handle: &Handle, index: u32, address: IpAddr) -> Result<Option<Neighbour>, Fault> {
    Ok(ask(handle, index, address).await?.as_ref().and_then(usable))
}

/// Whether this one is there, and permanent.
pub async fn is_permanent(handle: &Handle, wanted: &Neighbour) -> Result<bool, Fault> {
    let (index, address, _) = wanted;
    let found = ask(handle, *index, *address).await?;
    let permanent = found.filter(|message| message.header.state == NeighbourState::Permanent);
    Ok(permanent.as_ref().and_then(usable).as_ref() == Some(wanted))
}

async fn ask(handle: &Handle, index: u32, address: IpAddr) -> Result<Option<NeighbourMessage>, Fault> {
    let mut message = NeighbourMessage::default();
    message.header.family = family_of(address);
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    let mut question = NetlinkMessage::from(RouteNetlinkMessage::GetNeighbour(message));
    question.header.flags = NLM_F_REQUEST;
    let what = |error: Error| fault(format_args!("reading neighbour {address}"), &error);
    let answer = handle.clone().request(question).map_err(what)?.next().await;
    match answer.map(|message| message.payload) {
        Some(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(found))) => Ok(Some(found)),
        Some(NetlinkPayload::Error(error)) => match Error::NetlinkError(error) {
            absent if absent.errno() == Errno::ENOENT => Ok(None),
            error => Err(what(error)),
        },
        Some(_) | None => Err(what(Error::RequestFailed)),
    }
}

fn usable(message: &NeighbourMessage) -> Option<Neighbour> {
    let (mut address, mut mac) = (None, Vec::new());
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(inet)) => address = Some((*inet).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(inet)) => address = Some((*inet).into()),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac.clone_from(bytes),
            _ => {}
        }
    }
    let is_usable = match message.header.state {
        NeighbourState::Permanent
        | NeighbourState::Noarp
        | NeighbourState::Reachable
        | NeighbourState::Stale
        | NeighbourState::Delay
        | NeighbourState::Probe => true,
        // Nobody has answered, or the kernel has a new state.
        _ => false,
    };
    address.filter(|_| is_usable).map(|address| (message.header.ifindex, address, mac))
}

/// Makes a neighbour be there for as long as nobody changes a MAC address.
pub async fn ensure_permanent(handle: &Handle, wanted: &Neighbour) -> Result<(), Fault> {
    ensure(handle, wanted, NeighbourState::Permanent, NeighbourFlags::empty()).await
}

/// Makes a neighbour be there until it says that its MAC address is another. It takes none of the room that all neighbours of
/// the machine share.
pub async fn ensure_learning(handle: &Handle, wanted: &Neighbour) -> Result<(), Fault> {
    ensure(handle, wanted, NeighbourState::Reachable, NeighbourFlags::ExtLearned).await
}

async fn ensure(
    handle: &Handle,
    (index, address, mac): &Neighbour,
    state: NeighbourState,
    flags: NeighbourFlags,
) -> Result<(), Fault> {
    let add = handle.neighbours().add(*index, *address).link_layer_address(mac).replace();
    let added = add.state(state).flags(flags).execute().await;
    added.map_err(|error| fault(format_args!("adding neighbour {address}"), &error))
}
