//! Addresses that were freed lately. Packets for whoever had one are still under way, so somebody else is given
//! another as long as there are others.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::{
    addr::{Address, Range},
    time::Timestamp,
};

/// How long an address that was freed is not handed out where there are others.
const LASTS: Duration = Duration::from_secs(60);
/// Addresses that are kept back at one time.
const RECENT_MAX: usize = 4096;

/// Those addresses, by when they were freed.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    all: BTreeMap<Address, Timestamp>,
    /// The same in their order, and some that are among them no more.
    order: VecDeque<(Timestamp, Address)>,
}

impl Recent {
    /// Keeps an address back.
    pub fn add(&mut self, now: Timestamp, address: Address) {
        self.all.insert(address, now);
        self.order.push_back((now, address));
    }

    /// The next address that may be handed out as any other: its time is over, or there are too many.
    pub fn next_over(&mut self, now: Timestamp) -> Option<Address> {
        while let Some(&(at, address)) = self.order.front() {
            let is_over = now.since(at) >= LASTS || self.order.len() > RECENT_MAX;
            let is_there = self.all.get(&address) == Some(&at);
            if is_there && !is_over {
                return None;
            }
            self.order.pop_front();
            if is_there {
                self.all.remove(&address);
                return Some(address);
            }
        }
        None
    }

    /// Takes an address out. Returns whether it was kept back.
    pub fn take(&mut self, address: Address) -> bool {
        self.all.remove(&address).is_some()
    }

    /// The address of this range that was freed first.
    pub fn oldest(&self, range: Range) -> Option<Address> {
        let there = self.order.iter().filter(|(at, address)| self.all.get(address) == Some(at));
        there.map(|(_, address)| *address).find(|address| range.contains(*address))
    }

    /// The first address of this range that is kept back.
    pub fn first(&self, range: Range) -> Option<Address> {
        self.all.range(range.start..range.end).next().map(|(address, _)| *address)
    }

    /// How many of this range are kept back.
    pub fn count(&self, range: Range) -> u32 {
        self.all.range(range.start..range.end).count() as u32
    }

    /// Forgets all but these.
    pub fn retain(&mut self, stays: impl Fn(Address) -> bool) {
        self.all.retain(|address, _| stays(*address));
    }
}
