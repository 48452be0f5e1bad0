//! What address managers say to each other, in the bytes of Weave Net.
//!
//! Gossip and broadcasts are a [`State`]; a unicast is one byte that names its kind and then
//!
//! ```text
//!  0 request   Range      give me space in this range, or this one address
//!  1 update    State      always the answer to a request
//!  2 denied    Range      nothing is free in this range; sent before the update
//! ```
//!
//! Other bytes are never sent: a Weave Net router hangs on them, and crashes on an empty payload.

use std::collections::BTreeMap;

use thiserror::Error;

use super::{
    merge::MergeError,
    paxos::{AcceptedValue, Claims, NodeClaims, NodeId, ProposalId},
    ring::{Entry, Ring, RingError},
};
use crate::{
    addr::{Address, Range},
    gob::{Decoder, Encoder, GobError, Schema, Value},
    peer::PeerName,
};

/// What a peer knows. Never both claims and a ring, and never an empty ring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Unix seconds. Nobody reads it; we send none.
    pub now: i64,
    /// Of all peers heard of.
    pub nicknames: BTreeMap<PeerName, String>,
    /// While there is no ring. Absent in one that takes no part, empty in an idle Weave Net elector.
    pub paxos: Option<Claims>,
    /// The ring.
    pub ring: Option<Ring>,
}

/// A unicast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unicast {
    /// Asks for space.
    Request(Range),
    /// Answers.
    Update(State),
    /// Says that there was nothing to give.
    Denied(Range),
}

/// Why what was received cannot be used. The connection it came on is closed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)] // The texts say what the fields are.
pub enum ReceiveError {
    #[error("an address message is empty")]
    Empty,
    #[error("an address message is of unknown kind {0}")]
    UnknownKind(u8),
    #[error("an address message cannot be read")]
    Undecodable(#[from] GobError),
    #[error(transparent)]
    Unmergeable(#[from] MergeError),
}

impl From<NotARing> for ReceiveError {
    fn from(error: NotARing) -> ReceiveError {
        match error {
            NotARing::Undecodable(error) => ReceiveError::Undecodable(error),
            NotARing::Invalid(error) => ReceiveError::Unmergeable(MergeError::Invalid(error)),
        }
    }
}

/// Why bytes are no ring.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)] // The texts say what the fields are.
pub enum NotARing {
    #[error(transparent)]
    Undecodable(#[from] GobError),
    #[error(transparent)]
    Invalid(#[from] RingError),
}

const NODE: Schema = Schema::Struct { name: "", fields: &[("Name", Schema::Uint), ("UID", Schema::Uint)] };
const PROPOSAL: Schema =
    Schema::Struct { name: "ProposalID", fields: &[("Round", Schema::Uint), ("Proposer", NODE)] };
const ACCEPTED: Schema = Schema::Struct {
    name: "AcceptedValue",
    fields: &[("Value", Schema::Slice { name: "Value", elem: &Schema::Uint }), ("Origin", PROPOSAL)],
};
const CLAIMS: Schema = Schema::Struct {
    name: "",
    fields: &[("Promise", PROPOSAL), ("Accepted", PROPOSAL), ("AcceptedVal", ACCEPTED)],
};
const ENTRY: Schema = Schema::Struct {
    name: "",
    fields: &[
        ("Token", Schema::Uint),
        ("Peer", Schema::Uint),
        ("Version", Schema::Uint),
        ("Free", Schema::Uint),
    ],
};
const RING: Schema = Schema::Struct {
    name: "Ring",
    fields: &[
        ("Start", Schema::Uint),
        ("End", Schema::Uint),
        ("Peer", Schema::Uint),
        ("Entries", Schema::Slice { name: "entries", elem: &ENTRY }),
        ("Seeds", Schema::Slice { name: "[]mesh.PeerName", elem: &Schema::Uint }),
    ],
};
const STATE: Schema = Schema::Struct {
    name: "gossipState",
    fields: &[
        ("Now", Schema::Int),
        (
            "Nicknames",
            Schema::Map { name: "map[mesh.PeerName]string", key: &Schema::Uint, elem: &Schema::Str },
        ),
        ("Paxos", Schema::Map { name: "GossipState", key: &NODE, elem: &CLAIMS }),
        ("Ring", Schema::Optional(&RING)),
    ],
};
const RANGE: Schema =
    Schema::Struct { name: "Range", fields: &[("Start", Schema::Uint), ("End", Schema::Uint)] };

/// A router that has described a state before numbers the range after it.
const RANGE_ID: i64 = 77;

const REQUEST: u8 = 0;
const UPDATE: u8 = 1;
const DENIED: u8 = 2;

// ===== encoding =====

impl Unicast {
    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Unicast::Request(range) => (REQUEST, encode_range(*range)),
            Unicast::Update(state) => return update(&state.encode()),
            Unicast::Denied(range) => (DENIED, encode_range(*range)),
        };
        [&[kind], body.as_slice()].concat()
    }

    /// What was received.
    pub fn decode(payload: &[u8]) -> Result<Unicast, ReceiveError> {
        let (&kind, body) = payload.split_first().ok_or(ReceiveError::Empty)?;
        match kind {
            REQUEST => Ok(Unicast::Request(decode_range(body)?)),
            UPDATE => Ok(Unicast::Update(State::decode(body)?)),
            DENIED => Ok(Unicast::Denied(decode_range(body)?)),
            other => Err(ReceiveError::UnknownKind(other)),
        }
    }
}

impl State {
    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        let nicknames = self.nicknames.iter().map(|(peer, name)| (peer_value(*peer), Value::text(name)));
        let mut fields = vec![("Now", Value::Int(self.now)), ("Nicknames", Value::Map(nicknames.collect()))];
        if let Some(claims) = &self.paxos {
            let claims = claims.iter().map(|(node, claims)| (node_value(node), claims_value(claims)));
            fields.push(("Paxos", Value::Map(claims.collect())));
        }
        if let Some(ring) = &self.ring {
            fields.push(("Ring", ring_value(ring)));
        }
        let fields = fields.into_iter().map(|(name, value)| (name.into(), value)).collect();
        Encoder::new().encode(&STATE, &Value::Struct(fields))
    }

    /// What was received.
    pub fn decode(bytes: &[u8]) -> Result<State, ReceiveError> {
        let value = decode_one(bytes)?;
        let mut nicknames = BTreeMap::new();
        for (peer, name) in value.map_at("Nicknames")?.unwrap_or_default() {
            nicknames.insert(peer_of(peer.as_uint()?)?, name.as_str()?.to_owned());
        }
        let paxos = value.map_at("Paxos")?.map(claims_of).transpose()?;
        let ring = value.field("Ring").map(ring_of).transpose()?;
        Ok(State { now: value.int_at("Now")?, nicknames, paxos, ring })
    }
}

/// A ring by itself, as Weave Net's routers keep theirs on disk.
pub fn encode_ring(ring: &Ring) -> Vec<u8> {
    Encoder::new().encode(&RING, &ring_value(ring))
}

/// An update of these bytes of a [`State`].
pub fn update(state: &[u8]) -> Vec<u8> {
    [&[UPDATE], state].concat()
}

fn encode_range(range: Range) -> Vec<u8> {
    let value = Value::fields([("Start", address_value(range.start)), ("End", address_value(range.end))]);
    Encoder::numbered_from(RANGE_ID).encode(&RANGE, &value)
}

fn peer_value(peer: PeerName) -> Value {
    Value::Uint(peer.as_u64())
}

fn address_value(address: Address) -> Value {
    Value::Uint(address.0.into())
}

fn node_value(node: &NodeId) -> Value {
    Value::fields([("Name", peer_value(node.name)), ("UID", Value::Uint(node.uid))])
}

fn proposal_value(proposal: &ProposalId) -> Value {
    Value::fields([("Round", Value::Uint(proposal.round)), ("Proposer", node_value(&proposal.proposer))])
}

fn claims_value(claims: &NodeClaims) -> Value {
    let names = claims.value.value.iter().copied().map(peer_value).collect();
    let value =
        Value::fields([("Value", Value::Slice(names)), ("Origin", proposal_value(&claims.value.origin))]);
    Value::fields([
        ("Promise", proposal_value(&claims.promise)),
        ("Accepted", proposal_value(&claims.accepted)),
        ("AcceptedVal", value),
    ])
}

fn ring_value(ring: &Ring) -> Value {
    let entries = ring.entries().iter().map(|entry| {
        Value::fields([
            ("Token", address_value(entry.token)),
            ("Peer", peer_value(entry.owner)),
            ("Version", Value::Uint(entry.version.into())),
            ("Free", Value::Uint(entry.free.into())),
        ])
    });
    Value::fields([
        ("Start", address_value(ring.universe().start)),
        ("End", address_value(ring.universe().end)),
        ("Peer", peer_value(ring.holder())),
        ("Entries", Value::Slice(entries.collect())),
        ("Seeds", Value::Slice(ring.seeds().iter().copied().map(peer_value).collect())),
    ])
}

// ===== decoding =====

/// A ring that stands by itself, as Weave Net's routers keep theirs on disk.
pub fn decode_ring(bytes: &[u8]) -> Result<Ring, NotARing> {
    ring_of(&decode_one(bytes)?)
}

fn decode_one(mut bytes: &[u8]) -> Result<Value, GobError> {
    Decoder::new().next(&mut bytes)?.ok_or(GobError::Truncated)
}

fn decode_range(bytes: &[u8]) -> Result<Range, GobError> {
    let value = decode_one(bytes)?;
    Ok(Range::new(address_at(&value, "Start")?, address_at(&value, "End")?))
}

fn address_at(value: &Value, field: &'static str) -> Result<Address, GobError> {
    value.narrow_at(field).map(Address)
}

/// The peer of this name on the wire.
pub fn peer_of(bits: u64) -> Result<PeerName, GobError> {
    let peer = PeerName::from_u64(bits);
    let fits = peer.as_u64() == bits;
    fits.then_some(peer).ok_or(GobError::OutOfRange { field: "Peer", value: bits })
}

fn peers_at(value: &Value, field: &'static str) -> Result<Vec<PeerName>, GobError> {
    value.slice_at(field)?.iter().map(|peer| peer_of(peer.as_uint()?)).collect()
}

fn node_of(value: &Value) -> Result<NodeId, GobError> {
    Ok(NodeId { name: peer_of(value.uint_at("Name")?)?, uid: value.uint_at("UID")? })
}

fn proposal_at(value: &Value, field: &str) -> Result<ProposalId, GobError> {
    let Some(value) = value.field(field) else { return Ok(ProposalId::default()) };
    let proposer = value.field("Proposer").map(node_of).transpose()?.unwrap_or_default();
    Ok(ProposalId { round: value.uint_at("Round")?, proposer })
}

fn claims_of(map: &[(Value, Value)]) -> Result<Claims, GobError> {
    let mut all = Claims::new();
    for (node, claims) in map {
        let value = match claims.field("AcceptedVal") {
            Some(value) => {
                AcceptedValue { value: peers_at(value, "Value")?, origin: proposal_at(value, "Origin")? }
            }
            None => AcceptedValue::default(),
        };
        let promise = proposal_at(claims, "Promise")?;
        let accepted = proposal_at(claims, "Accepted")?;
        all.insert(node_of(node)?, NodeClaims { promise, accepted, value });
    }
    Ok(all)
}

fn ring_of(value: &Value) -> Result<Ring, NotARing> {
    let mut entries = Vec::new();
    for entry in value.slice_at("Entries")? {
        entries.push(Entry {
            token: address_at(entry, "Token")?,
            owner: peer_of(entry.uint_at("Peer")?)?,
            version: entry.narrow_at("Version")?,
            free: entry.narrow_at("Free")?,
        });
    }
    let universe = Range::new(address_at(value, "Start")?, address_at(value, "End")?);
    let holder = peer_of(value.uint_at("Peer")?)?;
    Ok(Ring::from_parts(holder, universe, entries, peers_at(value, "Seeds")?)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(serde::Deserialize)]
    struct Vector {
        name: String,
        kind: String,
        hex: String,
    }

    fn vectors(kind: &str) -> Vec<(String, Vec<u8>)> {
        let all: Vec<Vector> =
            serde_json::from_str(include_str!("../../tests/it/data/ipam_messages.json")).unwrap();
        let unhex = |hex: &str| {
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
        };
        let of_kind: Vec<_> = all
            .into_iter()
            .filter(|vector| vector.kind == kind && !vector.name.starts_with("typeids"))
            .map(|vector| (vector.name, unhex(&vector.hex)))
            .collect();
        assert!(!of_kind.is_empty(), "{kind}");
        of_kind
    }

    /// Weave Net writes its maps in random order. We write them ascending.
    const RANDOM_ORDER: &str = "gossip.elector2.accepted";

    #[test]
    fn the_states_of_weave_net_are_read_and_written_again() {
        for (name, bytes) in vectors("gossipState") {
            let state = State::decode(&bytes).unwrap();
            let again = state.encode();
            if name == RANDOM_ORDER {
                assert_eq!(State::decode(&again), Ok(state), "{name}");
            } else {
                assert_eq!(again, bytes, "{name}");
            }
        }
    }

    #[test]
    fn the_unicasts_of_weave_net_are_read_and_written_again() {
        for (name, bytes) in vectors("unicast") {
            assert_eq!(Unicast::decode(&bytes).unwrap().encode(), bytes, "{name}");
        }
    }

    #[test]
    fn an_idle_elector_and_an_observer_differ() {
        let paxos = |name: &str| {
            let all = vectors("gossipState");
            let (_, bytes) = all.iter().find(|(found, _)| found == name).unwrap();
            State::decode(bytes).unwrap().paxos
        };
        assert_eq!(paxos("gossip.elector.idle"), Some(Claims::new()));
        assert_eq!(paxos("gossip.observer.noring"), None);
    }

    #[test]
    fn what_is_no_unicast_is_an_error() {
        assert_eq!(Unicast::decode(&[]), Err(ReceiveError::Empty));
        assert_eq!(Unicast::decode(&[3, 1, 2]), Err(ReceiveError::UnknownKind(3)));
        assert_eq!(Unicast::decode(&[0]), Err(ReceiveError::Undecodable(GobError::Truncated)));
    }

    proptest! {
        #[test]
        fn damaged_messages_never_panic(
            which in 0usize..10, at in 0usize..800, byte: u8, cut in 0usize..800,
        ) {
            let all = vectors("gossipState");
            let mut bytes = all[which % all.len()].1.clone();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(cut.max(1));
            let _ = State::decode(&bytes);
            let _ = Unicast::decode(&bytes);
        }
    }
}
