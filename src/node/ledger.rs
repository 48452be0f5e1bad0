//! What was promised is saved before it is sent: effects wait here until the disk has what they rest on.
//!
//! One save is under way at a time; what changes meanwhile goes with the next, so that many callers
//! share one flush.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::memory::Write;

/// Names one save.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SaveId(pub u64);

/// How many effects may wait for the disk. Messages beyond it are dropped: gossip repeats them.
const HELD_MAX: usize = 10_000;

/// Effects of type `E` in the order in which they arose, each with the save that it rests on.
#[derive(Debug)]
pub struct Ledger<E> {
    next: SaveId,
    under_way: Option<(SaveId, Vec<Write>)>,
    unsaved: BTreeMap<String, Option<Vec<u8>>>,
    held: VecDeque<(SaveId, E)>,
    fault: Option<String>,
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
            fault: None,
        }
    }

    /// To be saved with the next save.
    pub fn write(&mut self, write: Write) {
        self.unsaved.insert(write.key, write.value);
    }

    /// Lets an effect out as soon as all that was written before it is saved: `Some` if that is now.
    pub fn rest(&mut self, effect: E) -> Option<E> {
        let on = match &self.under_way {
            _ if !self.unsaved.is_empty() => self.next,
            Some((id, _)) => *id,
            None => return Some(effect),
        };
        if self.held.len() < HELD_MAX {
            self.held.push_back((on, effect));
        }
        None
    }

    /// The save to begin now, if one is due and none is under way.
    pub fn begin(&mut self) -> Option<(SaveId, Vec<Write>)> {
        if self.under_way.is_some() || self.unsaved.is_empty() {
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
    /// due again, under a new number, and all that rests on them goes on waiting.
    pub fn stored(&mut self, id: SaveId, result: Result<(), String>) -> Vec<E> {
        let Some((_, writes)) = self.under_way.take_if(|(under_way, _)| *under_way == id) else {
            return Vec::new();
        };
        self.fault = result.err();
        if self.fault.is_some() {
            for Write { key, value } in writes {
                self.unsaved.entry(key).or_insert(value);
            }
            self.held.iter_mut().for_each(|(on, _)| *on = self.next);
            return Vec::new();
        }
        let ready = self.held.iter().take_while(|(on, _)| *on <= id).count();
        self.held.drain(..ready).map(|(_, effect)| effect).collect()
    }

    /// Why the last save failed.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(key: &str) -> Write {
        Write { key: key.into(), value: Some(Vec::new()) }
    }

    #[test]
    fn an_effect_that_rests_on_nothing_leaves_at_once() {
        assert_eq!(Ledger::new().rest("sent"), Some("sent"));
    }

    #[test]
    fn an_effect_waits_for_the_save_that_has_what_was_written_before_it() {
        let mut ledger = Ledger::new();
        ledger.write(write("a"));
        assert_eq!(ledger.rest("a sent"), None);
        let (first, _) = ledger.begin().unwrap();
        ledger.write(write("b"));
        assert_eq!(ledger.rest("b sent"), None);
        assert!(ledger.begin().is_none(), "one save at a time");
        assert_eq!(ledger.stored(first, Ok(())), ["a sent"]);
        let (second, writes) = ledger.begin().unwrap();
        assert_eq!(writes, [write("b")]);
        assert_eq!(ledger.stored(second, Ok(())), ["b sent"]);
    }

    #[test]
    fn a_failed_save_is_tried_again_whole_and_newer_values_win() {
        let mut ledger = Ledger::new();
        ledger.write(write("a"));
        assert_eq!(ledger.rest("sent"), None);
        let (first, _) = ledger.begin().unwrap();
        ledger.write(Write { key: "a".into(), value: None });
        assert!(ledger.stored(first, Err("no space left".into())).is_empty());
        assert_eq!(ledger.fault(), Some("no space left"));
        let (second, writes) = ledger.begin().unwrap();
        assert_eq!(writes, [Write { key: "a".into(), value: None }]);
        assert_eq!(ledger.stored(second, Ok(())), ["sent"]);
    }
}
