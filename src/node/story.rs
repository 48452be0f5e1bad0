//! What happens in the cluster, as the log tells it: each thing once, when it has changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{Node, io::Output, peers::Peers};
use crate::{
    addr::{Range, without_all},
    peer::PeerName,
    state::Fault,
};

/// Events of one kind that are told one by one at a time; of more there is a number.
const TOLD_MAX: usize = 16;

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
    More { events: usize },
}

impl Event {
    /// Whether somebody should look after it.
    pub fn is_trouble(&self) -> bool {
        matches!(self, Event::ReadsFail { .. })
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
            Event::More { events } => write!(f, "and {events} more of that kind"),
        }
    }
}

/// What was told.
#[derive(Debug, Default)]
pub(super) struct Story {
    reached: BTreeSet<PeerName>,
    owners: Vec<(Range, PeerName)>,
    /// Number of the next decision about the dead; `None` before there is a ring.
    decisions: Option<u64>,
    /// Which quarantine.
    quarantine: Option<u64>,
    failing: BTreeMap<&'static str, String>,
    /// Peers or owners may be others than those that were told of.
    touched: bool,
}

impl Story {
    /// Peers or owners may be others.
    pub(super) fn touch(&mut self) {
        self.touched = true;
    }
}

impl Node {
    /// What was resumed is no news.
    pub(super) fn begin_story(&mut self) {
        self.story.owners = self.peers.ipam.ring().owners();
        self.story.quarantine = self.peers.ipam.quarantine_number();
        self.story.decisions = self.peers.decisions();
    }

    /// Tells what has changed since it was told last.
    pub(super) fn tell_story(&mut self) {
        if std::mem::take(&mut self.story.touched) {
            self.tell_of_peers();
            self.tell_of_ranges();
        }
        self.tell_of_take_overs();
        self.tell_of_quarantine();
        self.tell_of_reads();
    }

    fn tell(&mut self, events: Vec<Event>) {
        let more = events.len().saturating_sub(TOLD_MAX);
        let told =
            events.into_iter().take(TOLD_MAX).chain((more > 0).then_some(Event::More { events: more }));
        self.out.outputs.extend(told.map(Output::Told));
    }

    fn tell_of_peers(&mut self) {
        let reached = self.peers.mesh.reachable();
        let before = std::mem::replace(&mut self.story.reached, reached);
        let connected =
            self.story.reached.difference(&before).map(|peer| Event::PeerConnected(self.peers.named(*peer)));
        let lost =
            before.difference(&self.story.reached).map(|peer| Event::PeerLost(self.peers.named(*peer)));
        let (connected, lost) = (connected.collect(), lost.collect());
        self.tell(connected);
        self.tell(lost);
    }

    fn tell_of_ranges(&mut self) {
        let (now, me) = (self.peers.ipam.ring().owners(), self.facts.identity.name);
        let before = std::mem::replace(&mut self.story.owners, now);
        let now = &self.story.owners;
        let of_us = |owners: &[(Range, PeerName)]| -> Vec<Range> {
            owners.iter().filter(|(_, owner)| *owner == me).map(|(range, _)| *range).collect()
        };
        let owner = |owners: &[(Range, PeerName)], range: Range| {
            let found = owners.iter().find(|(piece, _)| piece.contains(range.start));
            found.map(|(_, owner)| self.peers.named(*owner))
        };
        let (ours_before, ours_now) = (of_us(&before), of_us(now));
        let received = without_all(&ours_now, &ours_before);
        let received =
            received.into_iter().map(|range| Event::RangeReceived { range, from: owner(&before, range) });
        let given = without_all(&ours_before, &ours_now).into_iter();
        let given = given.filter_map(|range| Some(Event::RangeGiven { range, to: owner(now, range)? }));
        let is_first = before.is_empty() && !now.is_empty();
        let founders = self.peers.ipam.ring().seeds().iter().map(|peer| self.peers.named(*peer)).collect();
        let first = is_first.then_some(Event::FirstRing { founders });
        let (changes, given): (Vec<Event>, Vec<Event>) =
            (first.into_iter().chain(received).collect(), given.collect());
        self.tell(changes);
        self.tell(given);
    }

    fn tell_of_take_overs(&mut self) {
        let now = self.peers.decisions();
        let before = std::mem::replace(&mut self.story.decisions, now);
        let (Some(before), Some(log)) = (before.filter(|_| before < now), self.peers.dead.takeover.log())
        else {
            return;
        };
        let is_take_over = |dead: PeerName, heir: PeerName| ![dead, heir].contains(&PeerName::UNKNOWN);
        let taken = log.since(before).filter(|one| is_take_over(one.dead, one.heir));
        let decided = |dead, heir| Event::TakeOverDecided {
            dead: self.peers.named(dead),
            heir: self.peers.named(heir),
        };
        let events = taken.map(|one| decided(one.dead, one.heir)).collect();
        self.tell(events);
    }

    fn tell_of_quarantine(&mut self) {
        let now = self.peers.ipam.quarantine_number();
        if now != std::mem::replace(&mut self.story.quarantine, now) {
            let ranges = self.peers.ipam.quarantined().len();
            let begun = now.map(|_| Event::QuarantineBegun { ranges });
            self.tell(vec![begun.unwrap_or(Event::QuarantineEnded)]);
        }
    }

    fn tell_of_reads(&mut self) {
        let reads = [
            ("the network of this host", self.work.converge.host.fault()),
            ("the VPC", self.work.converge.vpc.fault()),
            ("the tagged instances", self.observed.discovery.found.fault()),
            ("the subnets of the peers", self.observed.places.fault()),
            ("the state of instances", self.peers.dead.fault()),
            ("the running instances", self.peers.unconfirmed.fault()),
        ];
        let mut events = Vec::new();
        for (what, fault) in reads {
            match (fault, self.story.failing.get(what)) {
                (Some(fault), known) if known != Some(&fault.message) => {
                    self.story.failing.insert(what, fault.message.clone());
                    events.push(Event::ReadsFail { what, fault: fault.clone() });
                }
                (None, Some(_)) => {
                    self.story.failing.remove(what);
                    events.push(Event::ReadsWork { what });
                }
                (Some(_), _) | (None, None) => {}
            }
        }
        self.tell(events);
    }
}

impl Peers {
    fn decisions(&self) -> Option<u64> {
        self.dead.takeover.log().map(|log| log.next())
    }
}
