//! Permanent neighbours: who is asked for no MAC address.

use std::{collections::BTreeSet, net::Ipv4Addr};

use futures_util::{StreamExt, TryStreamExt};
use nix::errno::Errno;
use rtnetlink::{
    Error, Handle,
    packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    },
};

use super::fault::{Cause, fault};
use crate::state::Fault;

/// A permanent neighbour: who, by which interface, at which MAC.
pub type Neighbour = (u32, Ipv4Addr, Vec<u8>);

/// All permanent neighbours.
pub async fn all(handle: &Handle) -> Result<BTreeSet<Neighbour>, Fault> {
    let mut dump = Box::pin(handle.neighbours().get().set_address_family(AddressFamily::Inet).execute());
    let mut found = BTreeSet::new();
    while let Some(message) =
        dump.try_next().await.map_err(|error| fault("reading the neighbours", &error))?
    {
        found.extend(permanent(&message));
    }
    Ok(found)
}

/// Whether this permanent neighbour is there. One question, however many neighbours there are.
pub async fn is_there(handle: &Handle, wanted: &Neighbour) -> Result<bool, Fault> {
    let (index, address, _) = wanted;
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = *index;
    message.attributes.push(NeighbourAttribute::Destination((*address).into()));
    let mut question = NetlinkMessage::from(RouteNetlinkMessage::GetNeighbour(message));
    question.header.flags = NLM_F_REQUEST;
    let what = |error: Error| fault(format_args!("reading neighbour {address}"), &error);
    let answer = handle.clone().request(question).map_err(what)?.next().await;
    match answer.map(|message| message.payload) {
        Some(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(found))) => {
            Ok(permanent(&found).as_ref() == Some(wanted))
        }
        Some(NetlinkPayload::Error(error)) => match Error::NetlinkError(error) {
            absent if absent.errno() == Errno::ENOENT => Ok(false),
            error => Err(what(error)),
        },
        Some(_) | None => Err(what(Error::RequestFailed)),
    }
}

fn permanent(message: &NeighbourMessage) -> Option<Neighbour> {
    let (mut address, mut mac) = (None, Vec::new());
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(inet)) => address = Some(*inet),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac.clone_from(bytes),
            _ => {}
        }
    }
    let is_permanent = message.header.state == NeighbourState::Permanent;
    address.filter(|_| is_permanent).map(|address| (message.header.ifindex, address, mac))
}

/// Makes a permanent neighbour be there.
pub async fn ensure(handle: &Handle, (index, address, mac): &Neighbour) -> Result<(), Fault> {
    let add = handle.neighbours().add(*index, (*address).into()).link_layer_address(mac).replace();
    add.execute().await.map_err(|error| fault(format_args!("adding neighbour {address}"), &error))
}
