//! What can happen in the cluster that the log tells of.

use std::fmt;

use crate::{addr::Range, plan::Conflict, state::Fault};

/// Something that happened. Peers are named as people know them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The sentences say what they are.
pub enum Event {
    PeerConnected(String),
    PeerLost(String),
    FirstRing { founders: Vec<String> },
    RangeReceived { range: Range, from: Option<String> },
    RangeGiven { range: Range, to: String },
    TakeOverDecided { dead: String, heir: String },
    QuarantineBegun { ranges: usize },
    QuarantineEnded,
    ReadsFail { what: &'static str, fault: Fault },
    ReadsWork { what: &'static str },
    Ready,
    ConflictFound(Conflict),
    More { events: usize },
}

impl Event {
    /// Whether somebody should look after it.
    pub fn is_trouble(&self) -> bool {
        matches!(self, Event::ReadsFail { .. } | Event::ConflictFound(_))
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::PeerConnected(peer) => write!(f, "peer {peer} is connected to the cluster"),
            Event::PeerLost(peer) => write!(f, "peer {peer} is not reached any more"),
            Event::FirstRing { founders } => {
                write!(f, "the first ring was agreed on: the range is divided among {}", founders.join(", "))
            }
            Event::RangeReceived { range, from: Some(from) } => {
                write!(f, "range {range} received from {from}")
            }
            Event::RangeReceived { range, from: None } => write!(f, "range {range} received"),
            Event::RangeGiven { range, to } => write!(f, "range {range} given to {to}"),
            Event::TakeOverDecided { dead, heir } => {
                write!(f, "take-over decided: {heir} takes over the ranges of {dead}")
            }
            Event::QuarantineBegun { ranges } => {
                write!(
                    f,
                    "quarantine begun: {ranges} ranges of this host are not used yet, see `weavers status`"
                )
            }
            Event::QuarantineEnded => f.write_str("quarantine ended: all ranges of this host are used"),
            Event::ReadsFail { what, fault } => write!(f, "{what} cannot be read: {fault}"),
            Event::ReadsWork { what } => write!(f, "{what} can be read again"),
            Event::Ready => f.write_str("ready: a container that is attached now is reached"),
            Event::ConflictFound(Conflict { place, destination, target }) => {
                write!(f, "conflict: {place} {destination} -> {target} is not ours and is left alone")
            }
            Event::More { events } => write!(f, "and {events} more of that kind"),
        }
    }
}
