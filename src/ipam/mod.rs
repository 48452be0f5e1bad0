//! Who owns which addresses: the ring, how it is first agreed on, and what is handed out of it.
//!
//! ```text
//!  message  bytes ⇄ State, Unicast
//!  ring     tokens and owners       merge    two copies become one
//!  paxos    one value, by majority  space    what of ours is in use
//!
//!  allocator   what comes in, what goes out; composes
//!    election    when to propose          requests   questions, and space asked of others
//!    disputes    pieces claimed twice     leave      take over, give away
//!    quarantine  what was taken over, until everybody knows
//!    compact     blocks that move so that there are fewer routes
//!    excess      what peers said beyond all bounds       told     what others are told
//!
//!  takeover    who takes over from the dead, by agreement
//! ```
//!
//! [`Allocator`] is driven like the rest of the core: time comes in with each input, what is to be
//! done comes out as [`Effect`]s, which are carried out in their order, so that what is promised is on
//! disk before it is sent.

pub mod ring;
pub mod merge;
mod disputes;
pub mod paxos;
pub mod election;
pub mod excess;
mod memory;
pub mod message;
mod recent;
pub mod space;
mod requests;
mod inquiry;
mod quarantine;
mod told;
pub mod allocator;
pub mod compact;
mod leave;
pub mod takeover;
mod views;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    addr::{Address, Range},
    peer::PeerName,
};
pub use allocator::Allocator;
pub use message::ReceiveError;
pub use paxos::{NodeClaims, NodeId};
pub use requests::HOLDS;
pub use ring::{Ring, RingError};

/// Names a caller's question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ticket(pub u64);

/// How the first ring comes to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Init {
    /// By election among the peers.
    Consensus,
    /// From this list, the same on every host.
    Seed(Vec<PeerName>),
    /// By others.
    Observer,
}

/// What an address manager is told once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Our name.
    pub me: PeerName,
    /// Our nickname.
    pub nickname: String,
    /// All addresses that can be owned.
    pub universe: Range,
    /// How the first ring comes to be.
    pub init: Init,
    /// Peers that the first ring waits for, this host included.
    pub expected_peers: usize,
    /// Our identity in the election, made once and kept.
    pub acceptor: NodeId,
}

/// What was on disk at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// The ring.
    pub ring: Option<Ring>,
    /// What we promised and accepted under [`Settings::acceptor`].
    pub paxos: Option<NodeClaims>,
    /// Addresses in use, by whom.
    pub allocations: BTreeMap<String, Vec<Ipv4Net>>,
    /// Ranges that were taken over and rest.
    pub rest: Vec<Range>,
}

/// What must be on disk before later effects leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant)]
pub enum Record {
    /// The ring.
    Ring(Ring),
    /// What we promised and accepted.
    Paxos(NodeClaims),
    /// All addresses of one user; none: it is forgotten.
    Allocation {
        /// Whose.
        ident: String,
        /// With the prefix length of their subnet.
        addresses: Vec<Ipv4Net>,
    },
    /// Ranges that were taken over and rest.
    Quarantine(Vec<Range>),
}

/// How a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// From this neighbour, who told what it knows.
    Gossip {
        /// The neighbour.
        from: PeerName,
    },
    /// From this peer to us alone.
    Unicast {
        /// The sender.
        from: PeerName,
    },
    /// From this peer to all. Weave Net relays put what they know in the place of what it said.
    Broadcast {
        /// The sender.
        from: PeerName,
    },
}

impl Source {
    /// Whoever is meant.
    pub fn peer(self) -> PeerName {
        match self {
            Source::Gossip { from } | Source::Unicast { from } | Source::Broadcast { from } => from,
        }
    }
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Put this on disk before anything that follows.
    Save(Record),
    /// Send to all peers.
    Broadcast(Vec<u8>),
    /// Send to one peer. It may get lost.
    Unicast(PeerName, Vec<u8>),
    /// Answer a question: the addresses it is about.
    Answer(Ticket, Result<Vec<Ipv4Net>, Refused>),
    /// Who owns what has changed.
    RingChanged,
    /// Our store was set back: others know what we did after it was written.
    SetBack,
}

/// Whether what was received is to be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relay {
    /// No.
    Nothing,
    /// Yes, in the form of [`Allocator::state`].
    State,
    /// Yes, as it is.
    Same,
}

/// A question. The answer may take until space or a peer comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Any address of the subnet; the one it has, if it has one.
    Allocate {
        /// For whom.
        ident: String,
        /// Where from.
        subnet: Ipv4Net,
    },
    /// This address.
    Claim {
        /// For whom.
        ident: String,
        /// The address, with the prefix length of its subnet.
        address: Ipv4Net,
    },
    /// A whole block of addresses that somebody else hands out; the one it has, if it has one. The answer is its CIDR.
    Hold {
        /// For whom.
        ident: String,
        /// Where from.
        subnet: Ipv4Net,
        /// How large.
        prefix_len: u8,
    },
}

impl Ask {
    /// For whom it is.
    pub fn ident(&self) -> &str {
        match self {
            Ask::Allocate { ident, .. } | Ask::Claim { ident, .. } | Ask::Hold { ident, .. } => ident,
        }
    }
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[allow(missing_docs)] // The texts say what the fields are.
pub enum Refused {
    #[error("this host has given its addresses away and is leaving: restart the daemon to join again")]
    Leaving,
    #[error("no address of {subnet} is free to be given: free one, or name another subnet")]
    Exhausted { subnet: Ipv4Net },
    #[error(
        "no whole /{prefix_len} of {subnet} is free: ask for a smaller block, free addresses, or name another subnet"
    )]
    NoBlock { subnet: Ipv4Net, prefix_len: u8 },
    #[error("subnet {subnet} is outside range {range}: name one inside")]
    OutOfRange { subnet: Ipv4Net, range: Range },
    #[error("subnet {subnet} has no addresses for hosts: name a /30 or larger")]
    TooSmall { subnet: Ipv4Net },
    #[error("{address} is the first or last address of {subnet}: claim another")]
    Reserved { address: Address, subnet: Ipv4Net },
    #[error("address {address} is already in use by {holder}: free it there first")]
    InUse { address: Address, holder: String },
    #[error("address {address} is in use at peer {peer} ({nickname}): free it there first")]
    OwnedByPeer { address: Address, peer: PeerName, nickname: String },
    #[error("address {address} lies beneath a route that is not ours: remove the route, or claim another")]
    Avoided { address: Address },
    #[error("{ident} has no addresses")]
    NothingHeld { ident: String },
    #[error("{ident} does not have address {address}")]
    NotHeld { ident: String, address: Address },
    #[error("peer {peer} ({nickname}) is alive: stop it first, or drain it")]
    PeerAlive { peer: PeerName, nickname: String },
    #[error("EC2 says that instance {instance} of peer {peer} ({nickname}) runs: stop or terminate it first")]
    InstanceRuns { peer: PeerName, nickname: String, instance: String },
    #[error("peer {peer} is unknown here: see the owners in `weavers ipam show`")]
    UnknownPeer { peer: PeerName },
    #[error("{peer} is this host: to give its addresses away, drain it")]
    Myself { peer: PeerName },
    #[error("{count} addresses are in use here, such as {address} by {holder}: free them first")]
    StillInUse { count: usize, address: Address, holder: String },
    #[error("the peers have not agreed yet who owns what: see `weavers status`")]
    NoRing,
    #[error("{count} questions are waiting already: try again later")]
    Busy { count: usize },
}

/// Why what was saved cannot be gone on with. Nothing was erased.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)] // The texts say what the fields are.
pub enum StartError {
    #[error(
        "the saved ring is of range {saved}, the configured range is {configured}: set ipam.range back, or reset this host"
    )]
    OtherUniverse { saved: Range, configured: Range },
    #[error(
        "the saved ring is of peer {saved}, this is peer {configured}: set mesh.name back, or reset this host"
    )]
    OtherPeer { saved: PeerName, configured: PeerName },
    #[error("the saved ring is damaged: reset this host")]
    Damaged(#[from] RingError),
}
