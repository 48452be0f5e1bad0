//! What peers said beyond all bounds: it is passed over, counted, and named.

use std::{collections::BTreeMap, time::Duration};

use crate::{peer::PeerName, time::Timestamp};

/// How long it is named.
const NAMED_FOR: Duration = Duration::from_secs(600);

/// What was passed over, by what it was.
#[derive(Clone, Debug, Default)]
pub struct Excess(BTreeMap<&'static str, Passed>);

#[derive(Clone, Copy, Debug)]
struct Passed {
    count: u64,
    /// Whose message it was in last, and when.
    from: PeerName,
    at: Timestamp,
}

impl Excess {
    /// So many of these were passed over in a message of this peer.
    pub fn note(&mut self, now: Timestamp, from: PeerName, what: &'static str, count: usize) {
        if count > 0 {
            let before = self.0.get(what).map_or(0, |passed| passed.count);
            let count = before.saturating_add(count as u64);
            self.0.insert(what, Passed { count, from, at: now });
        }
    }

    /// What was passed over lately, in words, and who said it last.
    pub fn recent(&self, now: Timestamp) -> impl Iterator<Item = (String, PeerName)> {
        let recent = self.0.iter().filter(move |(_, passed)| now.since(passed.at) < NAMED_FOR);
        recent.map(|(what, passed)| {
            (
                format!("{what} were passed over, {} so far: they are beyond all bounds", passed.count),
                passed.from,
            )
        })
    }
}

/// What to do about somebody who says such things.
pub fn way_out(peer: PeerName) -> String {
    format!(
        "if {peer} is one of your hosts, update and restart weavers there; if it is not, change the password of the mesh"
    )
}
