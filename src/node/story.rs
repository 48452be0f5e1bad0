//! What happens in the cluster, as the log tells it: each thing once, when it has changed.

use std::collections::{BTreeMap, BTreeSet};

use super::{boundary::event::Event, cluster::peers::Peers, report::overview::Overview};
use crate::{
    addr::{Range, without_all},
    peer::PeerName,
    plan::Conflict,
};

/// Events of one kind that are told one by one at a time; of more there is a number.
const TOLD_MAX: usize = 16;

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
    is_ready: bool,
    conflicts: Vec<Conflict>,
    /// Peers or owners may be others than those that were told of.
    touched: bool,
}

impl Story {
    /// Peers or owners may be others.
    pub(super) fn touch(&mut self) {
        self.touched = true;
    }
}

impl Story {
    /// What was resumed is no news.
    pub(super) fn begin(&mut self, peers: &Peers) {
        self.owners = peers.ipam.ring().owners();
        self.quarantine = peers.ipam.quarantine_number();
        self.decisions = peers.decisions();
    }

    /// Tells what has changed since it was told last.
    pub(super) fn news(&mut self, known: Overview<'_>) -> Vec<Event> {
        let mut kinds = Vec::new();
        if std::mem::take(&mut self.touched) {
            kinds.extend(self.of_peers(known));
            kinds.extend(self.of_ranges(known));
        }
        kinds.push(self.of_take_overs(known));
        kinds.push(self.of_quarantine(known));
        kinds.push(self.of_reads(known));
        kinds.push(self.of_conflicts(known));
        kinds.push(self.of_readiness(known));
        kinds.into_iter().flat_map(few).collect()
    }

    fn of_peers(&mut self, known: Overview<'_>) -> [Vec<Event>; 2] {
        let reached = known.peers.mesh.reachable().clone();
        let before = std::mem::replace(&mut self.reached, reached);
        let connected =
            self.reached.difference(&before).map(|peer| Event::PeerConnected(known.peers.named(*peer)));
        let lost = before.difference(&self.reached).map(|peer| Event::PeerLost(known.peers.named(*peer)));
        [connected.collect(), lost.collect()]
    }

    fn of_ranges(&mut self, known: Overview<'_>) -> [Vec<Event>; 2] {
        let (now, me) = (known.peers.ipam.ring().owners(), known.facts.identity.name);
        let before = std::mem::replace(&mut self.owners, now);
        let now = &self.owners;
        let of_us = |owners: &[(Range, PeerName)]| -> Vec<Range> {
            owners.iter().filter(|(_, owner)| *owner == me).map(|(range, _)| *range).collect()
        };
        let owner = |owners: &[(Range, PeerName)], range: Range| {
            let found = owners.iter().find(|(piece, _)| piece.contains(range.start));
            found.map(|(_, owner)| known.peers.named(*owner))
        };
        let (ours_before, ours_now) = (of_us(&before), of_us(now));
        let received = without_all(&ours_now, &ours_before);
        let received =
            received.into_iter().map(|range| Event::RangeReceived { range, from: owner(&before, range) });
        let given = without_all(&ours_before, &ours_now).into_iter();
        let given = given.filter_map(|range| Some(Event::RangeGiven { range, to: owner(now, range)? }));
        let is_first = before.is_empty() && !now.is_empty();
        let founders = known.peers.ipam.ring().seeds().iter().map(|peer| known.peers.named(*peer)).collect();
        let first = is_first.then_some(Event::FirstRing { founders });
        [first.into_iter().chain(received).collect(), given.collect()]
    }

    fn of_take_overs(&mut self, known: Overview<'_>) -> Vec<Event> {
        let now = known.peers.decisions();
        let before = std::mem::replace(&mut self.decisions, now);
        let (Some(before), Some(log)) = (before.filter(|_| before < now), known.peers.dead.takeover.log())
        else {
            return Vec::new();
        };
        let taken = log.since(before).filter(|one| one.is_take_over());
        let decided = |dead, heir| Event::TakeOverDecided {
            dead: known.peers.named(dead),
            heir: known.peers.named(heir),
        };
        taken.map(|one| decided(one.dead, one.heir)).collect()
    }

    fn of_quarantine(&mut self, known: Overview<'_>) -> Vec<Event> {
        let now = known.peers.ipam.quarantine_number();
        if now == std::mem::replace(&mut self.quarantine, now) {
            return Vec::new();
        }
        let ranges = known.peers.ipam.quarantined().len();
        let begun = now.map(|_| Event::QuarantineBegun { ranges });
        vec![begun.unwrap_or(Event::QuarantineEnded)]
    }

    fn of_conflicts(&mut self, known: Overview<'_>) -> Vec<Event> {
        let now = &known.work.plan.conflicts;
        if *now == self.conflicts {
            return Vec::new();
        }
        let before = std::mem::replace(&mut self.conflicts, now.clone());
        let new = now.iter().filter(|conflict| !before.contains(conflict));
        new.map(|conflict| Event::ConflictFound(conflict.clone())).collect()
    }

    /// For the first time in this life: what it waits for after that is told otherwise.
    fn of_readiness(&mut self, known: Overview<'_>) -> Vec<Event> {
        let is_news = !self.is_ready && known.is_ready();
        self.is_ready |= is_news;
        if is_news { vec![Event::Ready] } else { Vec::new() }
    }

    fn of_reads(&mut self, known: Overview<'_>) -> Vec<Event> {
        let reads = [
            ("the network of this host", known.work.converge.host.fault()),
            ("the VPC", known.work.converge.vpc.fault()),
            ("the addresses of the names in `peers`", known.observed.names.look.fault()),
            ("the tagged instances", known.observed.discovery.found.fault()),
            ("the subnets of the peers", known.observed.places.fault()),
            ("the state of instances", known.peers.dead.fault()),
            ("the running instances", known.peers.unconfirmed.fault()),
        ];
        let mut events = Vec::new();
        for (what, fault) in reads {
            match (fault, self.failing.get(what)) {
                (Some(fault), before) if before != Some(&fault.message) => {
                    self.failing.insert(what, fault.message.clone());
                    events.push(Event::ReadsFail { what, fault: fault.clone() });
                }
                (None, Some(_)) => {
                    self.failing.remove(what);
                    events.push(Event::ReadsWork { what });
                }
                (Some(_), _) | (None, None) => {}
            }
        }
        events
    }
}

/// Of many events of one kind the first, and how many more there are.
fn few(events: Vec<Event>) -> impl Iterator<Item = Event> {
    let more = events.len().saturating_sub(TOLD_MAX);
    events.into_iter().take(TOLD_MAX).chain((more > 0).then_some(Event::More { events: more }))
}
