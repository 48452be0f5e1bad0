//! Messages that could not be used and are not the fault of the neighbour that passed them on: they are dropped, and counted so
//! that somebody can be told.

use std::{collections::BTreeMap, time::Duration};

use super::DroppedView;
use crate::{peer::PeerName, time::Timestamp};

/// Neighbours of which it is remembered; of more, those by which something came last.
pub const DROPPED_MAX: usize = 32;
/// What came longer ago is not told any more.
const DROPPED_FOR: Duration = Duration::from_secs(600);

/// What was dropped lately, by the neighbour that it came by.
#[derive(Clone, Debug, Default)]
pub struct Dropped {
    messages: BTreeMap<PeerName, (Timestamp, DroppedView)>,
}

impl Dropped {
    /// A message was dropped. Who wrote it is what it says itself, if that can be read.
    pub fn note(&mut self, now: Timestamp, came_by: PeerName, from: Option<PeerName>, why: String) {
        let lately = self.messages.remove(&came_by).filter(|(at, _)| now.since(*at) < DROPPED_FOR);
        let before = lately.map_or(0, |(_, dropped)| dropped.count);
        if self.messages.len() == DROPPED_MAX {
            let oldest = self.messages.iter().min_by_key(|(_, (at, _))| *at).map(|(name, _)| *name);
            oldest.and_then(|oldest| self.messages.remove(&oldest));
        }
        let dropped = DroppedView { came_by, from, count: before.saturating_add(1), why };
        self.messages.insert(came_by, (now, dropped));
    }

    /// What was dropped in the last minutes.
    pub fn all(&self, now: Timestamp) -> impl Iterator<Item = &DroppedView> {
        let lately = self.messages.values().filter(move |(at, _)| now.since(*at) < DROPPED_FOR);
        lately.map(|(_, dropped)| dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_by_the_last_neighbours_is_counted_for_ten_minutes() {
        let mut dropped = Dropped::default();
        let at = |number: u64| Timestamp::from_micros(number);
        for number in 0..200 {
            dropped.note(at(number), PeerName::from_u64(number % 100), None, "torn".to_owned());
        }
        let counts: Vec<(u64, u64)> =
            dropped.all(at(200)).map(|dropped| (dropped.came_by.as_u64(), dropped.count)).collect();
        assert_eq!(counts.len(), DROPPED_MAX);
        assert!(counts.contains(&(99, 1)), "what was forgotten is counted anew: {counts:?}");
        dropped.note(at(300), PeerName::from_u64(99), None, "torn".to_owned());
        assert!(dropped.all(at(300)).any(|dropped| dropped.count == 2));
        assert_eq!(dropped.all(at(300) + DROPPED_FOR).count(), 0);
    }
}
