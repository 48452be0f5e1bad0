//! What the daemon logs of a cluster. Each kind of event has a number, by which the journal finds it and the words that explain it
//! (`packaging/systemd/weavers.catalog`, journalctl(1), `-x`).
//!
//! A field `journal.…` goes to the journal alone: the sentence says it already.

use tracing::{info, warn};

use crate::{
    node::{
        boundary::event::Event,
        protocol::status::{PathState, PathStatus},
    },
    state::{Action, Fault},
};

/// The configuration file was adopted.
pub(super) const ADOPTED: &str = "2ad4885e11610a843d0645b1de583b8a";
/// It was not, since something is wrong with it or it was rolled back.
pub(super) const REFUSED: &str = "bb6834c6b9eb95daab0e6c615ff50065";
/// A route that somebody had changed or deleted was set back.
const REPAIRED: &str = "8b8721c24afd97b51b18026d380ad830";

/// The number of an event; what others do not differ in has none.
fn number(event: &Event) -> Option<&'static str> {
    Some(match event {
        Event::Ready => "48968aefa073c91040ee081ac6d2af65",
        Event::FirstRing { .. } => "b39e19bd17ae62cc08e4d11d156865e1",
        Event::PeerConnected(_) => "cb9db3f8976205ad21b0f29fcb9adbcc",
        Event::PeerLost(_) => "5c23806f9cd122bebb6568f511ccb671",
        Event::RangeReceived { .. } => "b6ae583eb95eb89884b51da7f3c17ccb",
        Event::RangeGiven { .. } => "21484cee782ae5192f3b5d93ba3f235d",
        Event::TakeOverDecided { .. } => "6dd4383f66d4fa7917e8cd398cb380e0",
        Event::QuarantineBegun { .. } => "ca48bc799f0674805c4d2fad39c1f824",
        Event::QuarantineEnded => "73318118152e6785da8c1e40fb2eadbe",
        Event::ReadsFail { .. } => "0191a68a8bdab267ec74e8acf64bd08c",
        Event::ReadsWork { .. } => "0cf27df9421fa1baaa7790d28e15609d",
        Event::ConflictFound(_) => "36bdf7c6235a4077f3831c53b8274b6f",
        Event::More { .. } => return None,
    })
}

/// The fields of an event, as the journal shows them.
#[derive(Default)]
struct Fields<'e> {
    peer: Option<&'e str>,
    heir: Option<&'e str>,
    founders: Option<String>,
    range: Option<String>,
    table: Option<String>,
    target: Option<&'e str>,
    what: Option<&'e str>,
    fault: Option<String>,
    hint: Option<&'e str>,
}

impl<'e> From<&'e Event> for Fields<'e> {
    fn from(event: &'e Event) -> Fields<'e> {
        let none = Fields::default();
        match event {
            Event::PeerConnected(peer) | Event::PeerLost(peer) => Fields { peer: Some(peer), ..none },
            Event::FirstRing { founders } => Fields { founders: Some(founders.join(" ")), ..none },
            Event::RangeReceived { range, from } => {
                Fields { range: Some(range.to_string()), peer: from.as_deref(), ..none }
            }
            Event::RangeGiven { range, to } => {
                Fields { range: Some(range.to_string()), peer: Some(to), ..none }
            }
            Event::TakeOverDecided { dead, heir } => Fields { peer: Some(dead), heir: Some(heir), ..none },
            Event::ReadsFail { what, fault } => Fields {
                what: Some(what),
                fault: Some(fault.to_string()),
                hint: fault.hint.as_deref(),
                ..none
            },
            Event::ReadsWork { what } => Fields { what: Some(what), ..none },
            Event::ConflictFound(conflict) => {
                let (place, destination) = conflict.found_at();
                let (table, range) = (Some(place), Some(destination.to_string()));
                Fields { table, range, target: Some(&conflict.target), ..none }
            }
            Event::QuarantineBegun { .. } | Event::QuarantineEnded | Event::Ready | Event::More { .. } => {
                none
            }
        }
    }
}

/// Something that happened in the cluster.
pub(super) fn event(event: &Event) {
    let Fields { peer, heir, founders, range, table, target, what, fault, hint } = Fields::from(event);
    let number = number(event);
    // A macro has its level written out.
    macro_rules! tell {
        ($level:ident) => {
            $level!(
                journal.message_id = number,
                journal.peer = peer,
                journal.heir = heir,
                journal.founders = founders,
                journal.range = range,
                journal.table = table,
                journal.target = target,
                journal.what = what,
                journal.fault = fault,
                journal.hint = hint,
                "{event}"
            )
        };
    }
    match event.is_trouble() {
        true => tell!(warn),
        false => tell!(info),
    }
}

/// A step that has ended.
pub(super) fn step(
    action: &Action,
    cause: Option<&str>,
    is_repair: bool,
    outcome: &Result<Option<String>, Fault>,
) {
    let route = action.route();
    let (table, range) = route.map(|(table, cidr)| (table.to_string(), cidr.to_string())).unzip();
    let number = (is_repair && outcome.is_ok()).then_some(REPAIRED);
    match outcome {
        Ok(request_id) => info!(
            journal.message_id = number,
            journal.table = table,
            journal.range = range,
            %action,
            cause,
            request_id,
            "done"
        ),
        Err(fault) => {
            warn!(journal.table = table, journal.range = range, %action, cause, %fault, "failed");
        }
    }
}

/// What becomes of packets is part of the story of a cluster.
pub(super) fn path(path: &PathStatus) {
    let PathStatus { peer, nickname, since_s, .. } = path;
    match (path.state, path.state.lost()) {
        (_, Some((which, way))) => warn!(which, way, %peer, nickname, since_s, "packets are lost"),
        (PathState::Flows, None) => info!(%peer, nickname, "packets flow"),
        (_, None) => info!(%peer, nickname, "it is not known any more whether packets flow"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{addr::Range, plan::Conflict, state::FaultKind};

    const CATALOG: &str = include_str!("../../packaging/systemd/weavers.catalog");

    fn events() -> Vec<Event> {
        let range: Range = "10.32.0.0/16".parse::<ipnet::Ipv4Net>().unwrap().into();
        let (peer, what) = ("b".to_owned(), "the VPC");
        let fault = Fault { kind: FaultKind::Denied, message: String::new(), hint: None, request_id: None };
        let conflict = Conflict {
            place: crate::plan::Place::Host,
            destination: "10.32.0.0/16".parse().unwrap(),
            target: "pcx-1".to_owned(),
        };
        vec![
            Event::Ready,
            Event::FirstRing { founders: vec![peer.clone()] },
            Event::PeerConnected(peer.clone()),
            Event::PeerLost(peer.clone()),
            Event::RangeReceived { range, from: None },
            Event::RangeGiven { range, to: peer.clone() },
            Event::TakeOverDecided { dead: peer.clone(), heir: peer },
            Event::QuarantineBegun { ranges: 1 },
            Event::QuarantineEnded,
            Event::ReadsFail { what, fault },
            Event::ReadsWork { what },
            Event::ConflictFound(conflict),
        ]
    }

    /// The entries of the catalog: the number of each, and its text.
    fn entries() -> Vec<(&'static str, &'static str)> {
        let entries = CATALOG.split("\n-- ").skip(1);
        entries.map(|entry| entry.split_once('\n').expect("a number, then the text")).collect()
    }

    #[test]
    fn each_kind_of_event_has_a_number_of_its_own_and_an_entry_in_the_catalog_and_no_other_has() {
        let of_events = events();
        let numbers = of_events.iter().filter_map(number).chain([ADOPTED, REFUSED, REPAIRED]);
        let numbers: BTreeSet<&str> = numbers.collect();
        assert_eq!(numbers.len(), of_events.len() + 3);
        assert_eq!(entries().into_iter().map(|(number, _)| number).collect::<BTreeSet<_>>(), numbers);
    }

    #[test]
    fn each_entry_says_what_it_is_and_what_to_do_and_names_no_field_that_nobody_writes() {
        let known =
            ["PEER", "HEIR", "FOUNDERS", "RANGE", "TABLE", "TARGET", "WHAT", "FAULT", "CAUSE", "ERROR"];
        for (number, text) in entries() {
            let (head, body) = text.split_once("\n\n").expect("a head, an empty line, and the words");
            for line in ["Subject: ", "Defined-By: weavers", "Documentation: man:weavers(8)"] {
                assert!(head.lines().any(|found| found.starts_with(line)), "{number}: {line}");
            }
            assert!(body.contains("weavers "), "{number} names the way out");
            for field in text.split('@').skip(1).step_by(2) {
                assert!(known.contains(&field), "{number}: {field}");
            }
        }
    }
}
