//! What a mesh is told, and what it asks for.

use std::net::SocketAddr;

use bytes::Bytes;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::dial::TargetState;
use crate::{
    digest::Digest,
    peer::{PeerName, PeerUid},
};

/// Names a connection. Chosen by the transport and never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConnId(pub u64);

/// Who we are and how we behave.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our name.
    pub name: PeerName,
    /// This life of ours.
    pub uid: PeerUid,
    /// For people.
    pub nickname: String,
    /// Where peers listen unless they say otherwise.
    pub port: u16,
    /// With one, everything is encrypted, and only those who have it can connect.
    pub password: Option<Vec<u8>>,
    /// Networks where the data plane needs no encryption.
    pub trusted_subnets: Vec<Ipv4Net>,
    /// Connections at once; 0 for no limit.
    pub conn_limit: usize,
    /// Ways to carry packets that we offer, by preference.
    pub overlays: Vec<String>,
    /// Dial peers that others mention.
    pub discovery: bool,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields say what they are.
pub enum Input {
    /// A target answered.
    Dialled { target: String, conn: ConnId, remote: SocketAddr },
    /// A target did not.
    DialFailed { target: String, reason: String },
    /// Somebody dialled us.
    Accepted { conn: ConnId, remote: SocketAddr },
    /// Bytes came.
    Received(ConnId, Bytes),
    /// A connection ended, and why.
    Closed(ConnId, String),
    /// A datagram came to the port of the mesh.
    Datagram { from: SocketAddr, bytes: Bytes },
    /// Time went by.
    Woken,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Answered by [`Input::Dialled`] or [`Input::DialFailed`].
    Dial(String),
    /// Bytes to send.
    Send(ConnId, Bytes),
    /// A datagram to send from the port of the mesh. It may get lost.
    Datagram(SocketAddr, Bytes),
    /// Close it, once the bytes before are sent. The text is for the log.
    Close(ConnId, String),
    /// A message for the application.
    Deliver(Delivery),
    /// The application should hand its full state, channel by channel, to [`super::Mesh::gossip`].
    SendState(Recipients),
    /// The application should hand the digests of its channels to [`super::Mesh::offer`].
    Offer,
    /// A neighbour has this digest of what it knows on a channel: if ours is another, [`super::Mesh::want`].
    Compare(Offer),
    /// What the neighbour there knows of this channel is other than ours: the application should tell it all.
    SendAll(ConnId, &'static str),
    /// Somebody came, went, or became reachable or not.
    TopologyChanged,
}

/// What a neighbour offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The connection to it.
    pub conn: ConnId,
    /// Who it is.
    pub from: PeerName,
    /// Of what.
    pub channel: &'static str,
    /// What it knows of that.
    pub digest: Digest,
}

/// A message for the application. Unless it is a unicast, the application passes it on: gossip to
/// [`super::Mesh::gossip`] with what was new in it, and a broadcast to [`super::Mesh::broadcast`] under its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The connection it came by.
    pub conn: ConnId,
    /// Whom in the application it is for.
    pub channel: String,
    /// How it came.
    pub kind: Kind,
    /// What it is.
    pub payload: Bytes,
}

/// How a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields say what they are.
pub enum Kind {
    /// From a neighbour.
    Gossip { from: PeerName },
    /// From this peer to us alone.
    Unicast { from: PeerName },
    /// From this peer to all.
    Broadcast { from: PeerName },
}

/// Whom gossip is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields say what they are.
pub enum Recipients {
    /// The peer at the other end.
    One(ConnId),
    /// Some neighbours, as many as it takes to reach all soon.
    Neighbours { except: Option<PeerName> },
    /// A few neighbours, in case something was lost.
    Few,
    /// Some neighbours, without those that compare before they are told.
    Unasked,
}

/// There is no way to a peer now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("peer {0} cannot be reached")]
pub struct NoRoute(pub PeerName);

/// What is known of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// Its name.
    pub name: PeerName,
    /// This life of it; zero if it was only mentioned.
    pub uid: PeerUid,
    /// For people.
    pub nickname: String,
    /// Gossip can get there.
    pub reachable: bool,
}

/// What is known of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionView {
    /// Its id.
    pub conn: ConnId,
    /// The other end.
    pub remote: SocketAddr,
    /// We dialled.
    pub outbound: bool,
    /// Everything is encrypted.
    pub encrypted: bool,
    /// Who is there; `None` while it is being introduced.
    pub peer: Option<PeerName>,
    /// Its nickname.
    pub nickname: Option<String>,
    /// The version of weavers there, if it says so.
    pub version: Option<String>,
    /// Both ends are content with it. A Weave Net router is when our heartbeats come through.
    pub established: bool,
}

/// A peer that was turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedView {
    /// Its name.
    pub peer: PeerName,
    /// For people.
    pub nickname: String,
    /// Where it is.
    pub remote: SocketAddr,
    /// Why.
    pub objection: Objection,
}

/// Messages that were dropped because they could not be used. The peer that they came by passed them on, and is not to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppedView {
    /// The neighbour.
    pub came_by: PeerName,
    /// Who wrote the last one, by its own word; `None` if that cannot be read.
    pub from: Option<PeerName>,
    /// How many.
    pub count: u64,
    /// What was wrong with the last one.
    pub why: String,
}

/// Why a peer was turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields say what they are.
pub enum Objection {
    /// There is no overlay in common.
    Overlay { theirs: String, ours: String },
    /// It bears our name.
    Name,
}

/// Messages of a channel that were not sent since no frame can hold them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsentView {
    /// The channel.
    pub channel: String,
    /// How long the last one was.
    pub len: usize,
    /// How many there were.
    pub count: u64,
}

/// What is known of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetView {
    /// As configured.
    pub target: String,
    /// What it is doing.
    pub state: TargetState,
    /// What went wrong last.
    pub error: Option<String>,
}
