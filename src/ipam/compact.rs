//! Fewer routes: a block that nobody uses goes to the owner beside it whose addresses it makes a larger block of, or to whom one route
//! can lead for both.
//!
//! ```text
//!  giver ──── offer, block ────► taker      both look at their own ring, and take part in one exchange at a time
//!  giver ◄─── take or keep ───── taker
//!  giver ═════ the ring ═══════► everybody  as any gift: saved before it is told
//! ```
//!
//! A host needs one route for each block: the CIDRs of what it owns, neighbours joined; or fewer, where a route covers what others own
//! as well, and theirs are more specific, so that what was given from inside a block costs one route. Each gift lowers the number of
//! all blocks, or of the routes of a table that is laid out at its best, and raises neither; so they come to an end. What is lost or
//! outdated costs a while and nothing else: neither side remembers it for longer than that, nor over a restart.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Allocator;
use crate::{
    addr::{Address, Range},
    peer::PeerName,
    time::Timestamp,
};

/// Free addresses that a giver keeps at the least; and as many as it uses, so that it asks nobody for more before it has twice as many
/// containers.
const KEPT_MIN: u32 = 16;
/// How long an exchange may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// For how many pauses a peer that took nothing is offered nothing: it does not know of this, or has other things to do.
const DEAF_PAUSES: u32 = 5;
/// Length of the longest message that is read.
const LEN_MAX: usize = 256;

/// What a giver and a taker say to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// Would you take this block?
    Offer(Ipv4Net),
    /// I would.
    Take(Ipv4Net),
    /// Not now.
    Keep(Ipv4Net),
}

/// Bytes that are no such message.
#[derive(Debug, Error)]
pub enum Unreadable {
    /// It is no JSON of this form.
    #[error("a message about blocks cannot be read")]
    Malformed(#[from] serde_json::Error),
    /// It is longer than any of ours.
    #[error("a message about blocks has {0} bytes")]
    TooLong(usize),
}

impl Said {
    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a network is a string")
    }

    /// What was received.
    pub fn decode(bytes: &[u8]) -> Result<Said, Unreadable> {
        match bytes.len() {
            0..=LEN_MAX => Ok(serde_json::from_slice(bytes)?),
            long => Err(Unreadable::TooLong(long)),
        }
    }
}

/// The one exchange that a host takes part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Exchange {
    with: PeerName,
    block: Ipv4Net,
    gives: bool,
    until: Timestamp,
}

/// One host's part in it.
#[derive(Clone, Debug, Default)]
pub struct Compaction {
    exchange: Option<Exchange>,
    /// Peers that took nothing, and until when they are offered nothing.
    deaf: BTreeMap<PeerName, Timestamp>,
    /// Nothing is offered before this.
    next_offer: Timestamp,
    /// How long lies between two offers.
    pause: Duration,
    /// What we own.
    owned: Vec<Range>,
}

impl Compaction {
    /// When to offer something, or to wait no longer.
    pub fn next_wake(&self) -> Timestamp {
        self.exchange.map_or(self.next_offer, |exchange| exchange.until)
    }

    /// Whether it is time to offer something. The next time comes after a pause.
    pub fn is_due(&mut self, now: Timestamp, pause: Duration) -> bool {
        self.pause = pause;
        self.give_up(now);
        let due = self.exchange.is_none() && self.next_offer <= now;
        if due {
            self.next_offer = now + pause;
        }
        due
    }

    /// Peers that are offered nothing for a while.
    pub fn left_out(&self) -> BTreeSet<PeerName> {
        self.deaf.keys().copied().collect()
    }

    /// Offers this block of ours.
    pub fn offer(&mut self, now: Timestamp, block: Ipv4Net, with: PeerName) -> Said {
        self.exchange = Some(Exchange { with, block, gives: true, until: now + PATIENCE });
        Said::Offer(block)
    }

    /// Whether to take what a peer offers, where that makes no more blocks of ours. If both have offered each other something, the
    /// lower name gives.
    pub fn take(&mut self, now: Timestamp, me: PeerName, from: PeerName, block: Ipv4Net) -> bool {
        self.give_up(now);
        let is_free = match self.exchange {
            None => true,
            Some(ours) => ours.with == from && (!ours.gives || from < me),
        };
        if is_free {
            self.exchange = Some(Exchange { with: from, block, gives: false, until: now + PATIENCE });
        }
        is_free
    }

    /// A peer takes a block. Returns whether it was offered it, and in time.
    pub fn is_taken(&mut self, now: Timestamp, from: PeerName, block: Ipv4Net) -> bool {
        self.give_up(now);
        let is_it = |ours: &mut Exchange| ours.gives && ours.with == from && ours.block == block;
        self.exchange.take_if(is_it).is_some()
    }

    /// A peer takes nothing now.
    pub fn on_kept(&mut self, now: Timestamp, from: PeerName, block: Ipv4Net) {
        if self.is_taken(now, from, block) {
            self.deaf.insert(from, now + self.pause * DEAF_PAUSES);
        }
    }

    /// The ring has changed: what was awaited may be there, and what has just become ours stays for a while.
    pub fn see(&mut self, now: Timestamp, pause: Duration, owned: &[Range]) {
        let has_come = |block: Ipv4Net| owned.iter().any(|range| range.covers(block.into()));
        self.exchange.take_if(|ours| !ours.gives && has_come(ours.block));
        if self.owned != owned {
            self.owned = owned.to_vec();
            self.next_offer = now + pause;
        }
    }

    /// What has not come to pass by now does not.
    fn give_up(&mut self, now: Timestamp) {
        self.deaf.retain(|_, until| *until > now);
        if let Some(late) = self.exchange.take_if(|exchange| exchange.until <= now)
            && late.gives
        {
            self.deaf.insert(late.with, now + self.pause * DEAF_PAUSES);
        }
    }
}

impl Allocator {
    /// How many blocks we own.
    pub fn blocks(&self) -> usize {
        count(self.space.owned())
    }

    /// How many of them may go to others, one after the other.
    pub fn movable(&self) -> usize {
        let mut sizes: Vec<u32> =
            self.spare_blocks().into_iter().map(|block| Range::from(block).len()).collect();
        sizes.sort_unstable();
        let mut left = self.spare_addresses();
        let fits = |size: &u32| left.checked_sub(*size).map(|rest| left = rest).is_some();
        sizes.iter().copied().take_while(fits).count()
    }

    /// A block that this host could do without, and who would need no route more with it: first where that saves most, then the
    /// smallest.
    pub fn next_gift(&self, left_out: &BTreeSet<PeerName>) -> Option<(Ipv4Net, PeerName)> {
        if self.leaving || self.ring.is_full() {
            return None;
        }
        let spare = self.spare_blocks();
        let owners = if spare.is_empty() { Vec::new() } else { self.ring.owners() };
        let before = self.routes(&owners);
        let owners = &owners;
        let gifts = spare.iter().flat_map(|block| {
            let range = Range::from(*block);
            let beside = [range.start.0.checked_sub(1).map(Address), Some(range.end)].into_iter().flatten();
            let near: BTreeSet<PeerName> = beside.filter_map(|address| self.ring.owner(address)).collect();
            let takers = near.into_iter().filter(|taker| {
                *taker != self.settings.me
                    && self.peers.reachable.contains(taker)
                    && !left_out.contains(taker)
            });
            takers.filter_map(move |taker| {
                let saves = self.saved(owners, before, range, [self.settings.me, taker])?;
                Some((Reverse(saves), range.len(), *block, taker))
            })
        });
        gifts.min().map(|(.., block, taker)| (block, taker))
    }

    /// Whether a peer may give us this block: it is all its own, and the gift saves something.
    pub fn may_take(&self, from: PeerName, block: Ipv4Net) -> bool {
        let range = Range::from(block);
        let me = self.settings.me;
        let owners = self.ring.owners();
        let theirs = owners.iter().any(|(owned, owner)| *owner == from && owned.covers(range));
        let saves = || self.saved(&owners, self.routes(&owners), range, [from, me]).is_some();
        theirs && !self.leaving && from != me && saves()
    }

    /// What is saved if the first of these two gives this block to the second: routes, of so many before, and blocks of the two.
    /// `None` if there are more of either, or fewer of neither.
    fn saved(
        &self,
        owners: &[(Range, PeerName)],
        routes: usize,
        block: Range,
        both: [PeerName; 2],
    ) -> Option<(usize, usize)> {
        let after = given(owners, block, both[1]);
        let blocks = |owners: &[(Range, PeerName)]| -> usize {
            let of_both = owners.iter().filter(|(_, owner)| both.contains(owner));
            of_both.map(|(range, _)| range.cidrs().len()).sum()
        };
        let routes = routes.checked_sub(self.routes(&after))?;
        let blocks = blocks(owners).checked_sub(blocks(&after))?;
        (routes + blocks > 0).then_some((routes, blocks))
    }

    /// Routes of a table that is laid out at its best for these owners.
    fn routes(&self, owners: &[(Range, PeerName)]) -> usize {
        routes(owners, self.settings.universe, None)
    }

    /// Gives a block away, if it can still be done without. Returns whether it was given.
    pub fn give(&mut self, now: Timestamp, block: Ipv4Net, to: PeerName) -> bool {
        self.now = now;
        let may = !self.leaving && !self.ring.is_full() && self.spare_blocks().contains(&block);
        let given = may && self.hand_over(block.into(), to);
        if given {
            self.update(to);
            self.advance();
        }
        given
    }

    /// Blocks that have been ours for a while, of which nobody uses an address, none was freed lately, and each of which leaves
    /// enough to this host.
    pub(super) fn spare_blocks(&self) -> Vec<Ipv4Net> {
        let owned = self.space.owned();
        let blocks: Vec<Ipv4Net> = owned.iter().copied().flat_map(Range::cidrs).collect();
        if blocks.len() < 2 {
            return Vec::new();
        }
        let unmovable = self.ring.unmovable();
        let most = self.spare_addresses();
        let is_spare = |block: &Ipv4Net| {
            let range = Range::from(*block);
            range.len() <= most
                && self.space.is_untouched(range)
                && !self.space.is_new(self.now, range)
                && !unmovable.iter().any(|fixed| fixed.overlaps(range))
        };
        blocks.into_iter().filter(is_spare).collect()
    }

    /// Free addresses that this host can do without.
    fn spare_addresses(&self) -> u32 {
        let free: u32 = self.space.owned().iter().map(|range| self.space.free_in(*range)).sum();
        free.saturating_sub(self.used().max(KEPT_MIN))
    }
}

/// Routes that it takes in a block of these owners, who are ascending and without gaps, where a route over it leads to `over`: one
/// leads to the owner of its first address, and covers those in its halves who need another.
pub(super) fn routes(owners: &[(Range, PeerName)], block: Range, over: Option<PeerName>) -> usize {
    let Some(&(_, first)) = owners.first() else { return 0 };
    let own = usize::from(over != Some(first));
    if owners.len() == 1 || block.len() < 2 {
        return own;
    }
    let middle = Address(block.start.0 + block.len() / 2);
    let lower = owners.partition_point(|(range, _)| range.start < middle);
    let upper = owners.partition_point(|(range, _)| range.end <= middle);
    own + routes(&owners[..lower], Range::new(block.start, middle), Some(first))
        + routes(&owners[upper..], Range::new(middle, block.end), Some(first))
}

/// These owners, once this range is another's.
fn given(owners: &[(Range, PeerName)], given: Range, to: PeerName) -> Vec<(Range, PeerName)> {
    let mut after: Vec<(Range, PeerName)> = Vec::with_capacity(owners.len() + 2);
    for &(range, owner) in owners {
        let [before, behind] = range.without(given);
        let taken = range.intersection(given);
        for (part, owner) in [(before, owner), (taken, to), (behind, owner)] {
            match after.last_mut() {
                _ if part.is_empty() => {}
                Some((last, before)) if *before == owner => last.end = part.end,
                Some(_) | None => after.push((part, owner)),
            }
        }
    }
    after
}

/// The CIDRs of these ranges.
fn count(ranges: &[Range]) -> usize {
    ranges.iter().map(|range| range.cidrs().len()).sum()
}
