//! What was promised is saved before it is sent: effects wait here until the disk has what they rest on.
//!
//! One save is under way at a time; what changes meanwhile goes with the next, so that many callers
//! share one flush.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::memory::Write;
use crate::time::Timestamp;

/// Names one save.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SaveId(pub u64);

/// How many messages may wait for the disk. Those beyond it are dropped: gossip repeats them.
const MESSAGES_MAX: usize = 10_000;
/// How many bytes of them: a few states of a large cluster for each of its neighbours.
const BYTES_MAX: usize = 64 << 20;
/// How many effects may wait in all before nothing more is promised.
const HELD_MAX: usize = 3 * MESSAGES_MAX;
/// First pause after a save that failed; doubles up to [`PAUSE_MAX`]. A full disk says no at once.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Why a save failed, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaveFault {
    /// What the store says.
    pub message: String,
    /// The way out, if there is one.
    pub hint: Option<String>,
}

/// Effects of type `E` in the order in which they arose, each with the save that it rests on.
#[derive(Debug)]
pub struct Ledger<E> {
    next: SaveId,
    under_way: Option<(SaveId, Vec<Write>)>,
    unsaved: BTreeMap<String, Option<Vec<u8>>>,
    held: VecDeque<Held<E>>,
    /// Of the messages that are held.
    bytes: usize,
    fault: Option<SaveFault>,
    /// Saves that failed in a row.
    failures: u32,
    /// Nothing is saved before this.
    not_before: Timestamp,
}

/// An effect that waits.
#[derive(Debug)]
struct Held<E> {
    on: SaveId,
    /// Of a message.
    bytes: usize,
    effect: E,
}

impl<E> Default for Ledger<E> {
    fn default() -> Ledger<E> {
        Ledger::new()
    }
}

impl<E> Ledger<E> {
    /// Nothing to save, nothing held.
    pub fn new() -> Ledger<E> {
        Ledger {
            next: SaveId(1),
            under_way: None,
            unsaved: BTreeMap::new(),
            held: VecDeque::new(),
            bytes: 0,
            fault: None,
            failures: 0,
            not_before: Timestamp::ZERO,
        }
    }

    /// Whether the disk has the last value of this key.
    pub fn is_kept(&self, key: &str) -> bool {
        let under_way = self.under_way.as_ref().map_or(&[][..], |(_, writes)| writes);
        let on_its_way = under_way.binary_search_by(|write| write.key.as_str().cmp(key)).is_ok();
        !on_its_way && !self.unsaved.contains_key(key)
    }

    /// The keys whose last value the disk does not have.
    pub fn unkept(&self) -> impl Iterator<Item = &str> {
        let under_way = self.under_way.iter().flat_map(|(_, writes)| writes).map(|write| write.key.as_str());
        under_way.chain(self.unsaved.keys().map(String::as_str))
    }

    /// Containers that the disk does not have as they are.
    pub fn unkept_containers(&self) -> BTreeSet<&str> {
        self.unkept().filter_map(Write::ident_of_attached).collect()
    }

    /// To be saved with the next save.
    pub fn write(&mut self, write: Write) {
        self.unsaved.insert(write.key, write.value);
    }

    /// Whether one more may wait of what somebody asks for, and goes on asking for while the disk refuses.
    pub fn has_room(&self) -> bool {
        self.held.len() < HELD_MAX
    }

    /// Lets an effect out as soon as all that was written before it is saved: `Some` if that is now. Whoever adds many asks before
    /// whether there is room.
    pub fn rest(&mut self, effect: E) -> Option<E> {
        let Some(on) = self.last_save() else { return Some(effect) };
        self.held.push_back(Held { on, bytes: 0, effect });
        None
    }

    /// Does the same with a message of so many bytes, which is dropped while many wait: it is sent again.
    pub fn rest_message(&mut self, bytes: usize, message: E) -> Option<E> {
        let Some(on) = self.last_save() else { return Some(message) };
        if self.held.len() < MESSAGES_MAX && self.bytes.saturating_add(bytes) <= BYTES_MAX {
            self.bytes += bytes;
            self.held.push_back(Held { on, bytes, effect: message });
        }
        None
    }

    /// The save that has all that was written, unless the disk has it.
    fn last_save(&self) -> Option<SaveId> {
        match &self.under_way {
            _ if !self.unsaved.is_empty() => Some(self.next),
            Some((id, _)) => Some(*id),
            None => None,
        }
    }

    /// Whether this save is under way and has a record of this kind.
    pub fn is_saving(&self, id: SaveId, is_of_kind: impl Fn(&str) -> bool) -> bool {
        let writes = self.under_way.iter().filter(|(under_way, _)| *under_way == id);
        writes.flat_map(|(_, writes)| writes).any(|write| is_of_kind(&write.key))
    }

    /// The save to begin now, if one is due and none is under way.
    pub fn begin(&mut self, now: Timestamp) -> Option<(SaveId, Vec<Write>)> {
        if self.under_way.is_some() || self.unsaved.is_empty() || now < self.not_before {
            return None;
        }
        let writes: Vec<Write> =
            std::mem::take(&mut self.unsaved).into_iter().map(|(key, value)| Write { key, value }).collect();
        let save = (self.next, writes);
        self.next.0 += 1;
        self.under_way = Some(save.clone());
        Some(save)
    }

    /// The disk has answered: the effects that may go out now. After an error the same writes are
    /// due again after a pause, under a new number, and all that rests on them goes on waiting.
    pub fn stored(&mut self, now: Timestamp, id: SaveId, result: Result<(), SaveFault>) -> Vec<E> {
        let Some((_, writes)) = self.under_way.take_if(|(under_way, _)| *under_way == id) else {
            return Vec::new();
        };
        self.fault = result.err();
        self.failures = if self.fault.is_some() { self.failures.saturating_add(1) } else { 0 };
        if self.fault.is_some() {
            let doubled = PAUSE_MIN.saturating_mul(1 << self.failures.saturating_sub(1).min(10));
            self.not_before = now + doubled.min(PAUSE_MAX);
            for Write { key, value } in writes {
                self.unsaved.entry(key).or_insert(value);
            }
            self.held.iter_mut().for_each(|held| held.on = self.next);
            return Vec::new();
        }
        let ready = self.held.iter().take_while(|held| held.on <= id).count();
        let ready: Vec<Held<E>> = self.held.drain(..ready).collect();
        self.bytes -= ready.iter().map(|held| held.bytes).sum::<usize>();
        ready.into_iter().map(|held| held.effect).collect()
    }

    /// When to try a save again that failed.
    pub fn next_wake(&self) -> Option<Timestamp> {
        (self.failures > 0 && self.under_way.is_none() && !self.unsaved.is_empty()).then_some(self.not_before)
    }

    /// Why the last save failed.
    pub fn fault(&self) -> Option<&SaveFault> {
        self.fault.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::ZERO;

    fn write(key: &str) -> Write {
        Write { key: key.into(), value: Some(Vec::new()) }
    }

    fn full() -> SaveFault {
        SaveFault { message: "no space left".into(), hint: Some("make room".into()) }
    }

    #[test]
    fn large_messages_wait_for_a_disk_up_to_a_bound_and_answers_find_room_beside_them() {
        let mut ledger = Ledger::new();
        ledger.write(write("a"));
        for number in 0..100 {
            assert_eq!(ledger.rest_message(BYTES_MAX / 10, number), None);
        }
        assert_eq!(ledger.rest(1_000), None);
        let (id, _) = ledger.begin(NOW).unwrap();
        let out = ledger.stored(NOW, id, Ok(()));
        assert_eq!(out, (0..10).chain([1_000]).collect::<Vec<_>>());
        ledger.write(write("b"));
        assert_eq!(ledger.rest_message(BYTES_MAX, 7), None);
        let (id, _) = ledger.begin(NOW).unwrap();
        assert_eq!(ledger.stored(NOW, id, Ok(())), [7], "what has left takes no room");
    }

    #[test]
    fn an_effect_that_rests_on_nothing_leaves_at_once() {
        assert_eq!(Ledger::new().rest("sent"), Some("sent"));
    }

    #[test]
    fn what_is_on_its_way_to_the_disk_is_not_kept_yet() {
        let mut ledger = Ledger::<()>::new();
        assert!(ledger.is_kept("a"), "nothing is known against it");
        ledger.write(write("a"));
        assert!(!ledger.is_kept("a"));
        let (first, _) = ledger.begin(Timestamp::ZERO).unwrap();
        assert!(!ledger.is_kept("a"));
        ledger.stored(Timestamp::ZERO, first, Ok(()));
        assert!(ledger.is_kept("a"));
    }

    #[test]
    fn an_effect_waits_for_the_save_that_has_what_was_written_before_it() {
        let mut ledger = Ledger::new();
        ledger.write(write("a"));
        assert_eq!(ledger.rest("a sent"), None);
        let (first, _) = ledger.begin(NOW).unwrap();
        ledger.write(write("b"));
        assert_eq!(ledger.rest("b sent"), None);
        assert!(ledger.begin(NOW).is_none(), "one save at a time");
        assert_eq!(ledger.stored(NOW, first, Ok(())), ["a sent"]);
        let (second, writes) = ledger.begin(NOW).unwrap();
        assert_eq!(writes, [write("b")]);
        assert_eq!(ledger.stored(NOW, second, Ok(())), ["b sent"]);
    }

    #[test]
    fn a_failed_save_is_tried_again_whole_and_newer_values_win() {
        let mut ledger = Ledger::new();
        ledger.write(write("a"));
        assert_eq!(ledger.rest("sent"), None);
        let (first, _) = ledger.begin(NOW).unwrap();
        ledger.write(Write { key: "a".into(), value: None });
        assert!(ledger.stored(NOW, first, Err(full())).is_empty());
        assert_eq!(ledger.fault(), Some(&full()));
        let (second, writes) = ledger.begin(NOW + PAUSE_MIN).unwrap();
        assert_eq!(writes, [Write { key: "a".into(), value: None }]);
        assert_eq!(ledger.stored(NOW, second, Ok(())), ["sent"]);
    }

    #[test]
    fn gossip_that_waits_for_a_full_disk_leaves_room_for_those_who_wait_for_an_answer() {
        let mut ledger = Ledger::new();
        ledger.write(write("a"));
        (0..2 * MESSAGES_MAX).for_each(|_| assert_eq!(ledger.rest_message(6, "gossip"), None));
        assert_eq!(ledger.rest("answer"), None);
        let (first, _) = ledger.begin(NOW).unwrap();
        let out = ledger.stored(NOW, first, Ok(()));
        assert_eq!((out.len(), out.last()), (MESSAGES_MAX + 1, Some(&"answer")));
    }

    #[test]
    fn a_full_disk_is_asked_more_and_more_seldom_and_at_once_when_it_has_recovered() {
        let (mut ledger, mut now, mut saves) = (Ledger::<()>::new(), NOW, 0);
        ledger.write(write("a"));
        while now < NOW + Duration::from_secs(60) {
            if let Some((id, _)) = ledger.begin(now) {
                saves += 1;
                ledger.stored(now, id, Err(full()));
            }
            now = ledger.next_wake().expect("what failed is tried again");
        }
        assert!((12..25).contains(&saves), "{saves} saves in a minute");
        let (id, _) = ledger.begin(now).unwrap();
        ledger.stored(now, id, Ok(()));
        assert_eq!(ledger.next_wake(), None);
        ledger.write(write("b"));
        assert!(ledger.begin(now).is_some());
    }
}
