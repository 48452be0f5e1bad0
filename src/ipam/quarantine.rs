//! Addresses that nobody may use yet: ranges that were taken over from the dead, or are ours by the word of others.
//!
//! A peer may have given a part of what it owned to another before it died or lost its store, and nobody
//! else has heard of it. So nothing of it is handed out or given away until every owner, every peer that
//! is there and every stranger, a host that EC2 says runs and that was not heard yet, has shown a ring in
//! which the range is ours: had it been given a part, that part would not be ours by then.
//!
//! One of them may stand by a part of it: it uses addresses there, and has yielded what else is there before our store was lost
//! ([`super::disputes`]). It asks us for what it uses, and is given it, or each of us would wait for the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use super::{inquiry::Inquiry, ring::Ring};
use crate::{
    addr::{Address, Range, join},
    peer::PeerName,
};

/// Ranges kept of those by which one peer stands.
const STOOD_BY_MAX: usize = 1024;

/// What is in quarantine here.
#[derive(Clone, Debug, Default)]
pub struct Quarantine {
    /// Counts what was taken over.
    number: u64,
    ranges: Vec<Range>,
    awaited: BTreeSet<PeerName>,
    shown: BTreeSet<PeerName>,
    /// What of it is their own, as awaited peers have it.
    stood_by: BTreeMap<PeerName, Vec<Range>>,
    /// `None`: it is not known yet which there are.
    unconfirmed: Option<BTreeSet<Ipv4Addr>>,
    /// Where somebody has to be asked.
    pub(super) inquiry: Inquiry,
}

impl Quarantine {
    /// These ranges are in quarantine from now on, and those before as long as they are.
    pub fn begin(&mut self, ranges: impl IntoIterator<Item = Range>, awaited: BTreeSet<PeerName>) {
        self.number += 1;
        self.ranges = join(ranges.into_iter().chain(self.ranges.iter().copied()));
        self.awaited = awaited;
        self.shown.clear();
        self.stood_by.clear();
        self.unconfirmed = None;
        self.end_if_over();
    }

    /// Which quarantine it is, if there is one.
    pub fn number(&self) -> Option<u64> {
        (!self.ranges.is_empty()).then_some(self.number)
    }

    /// These hosts run and have confirmed nothing. Returns whether the quarantine is over.
    pub fn set_unconfirmed(&mut self, unconfirmed: Option<BTreeSet<Ipv4Addr>>) -> bool {
        self.unconfirmed = unconfirmed;
        self.end_if_over()
    }

    /// The hosts that run and are not heard, if that is known.
    pub fn unconfirmed(&self) -> Option<&BTreeSet<Ipv4Addr>> {
        self.unconfirmed.as_ref()
    }

    /// A peer is there, or owns something, that was not known before.
    pub fn meet(&mut self, peer: PeerName) {
        if !self.ranges.is_empty() && !self.shown.contains(&peer) {
            self.awaited.insert(peer);
        }
    }

    /// Whether this address is in quarantine.
    pub fn covers(&self, address: Address) -> bool {
        self.ranges.iter().any(|range| range.contains(address))
    }

    /// These pieces are in quarantine no more: nobody uses them for another reason. Returns whether the quarantine is over.
    pub fn leave_out(&mut self, pieces: &[Range]) -> bool {
        let was = self.ranges.len();
        for piece in pieces {
            let parts = self.ranges.iter().flat_map(|range| range.without(*piece));
            self.ranges = parts.filter(|part| !part.is_empty()).collect();
        }
        was > 0 && self.end_if_over()
    }

    /// What is in quarantine.
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// Whether an awaited peer stands by this range.
    pub fn is_stood_by(&self, peer: PeerName, range: Range) -> bool {
        self.stood_by.get(&peer).is_some_and(|parts| parts.iter().any(|part| part.covers(range)))
    }

    /// Whose ring is waited for.
    pub fn awaited(&self) -> &BTreeSet<PeerName> {
        &self.awaited
    }

    /// Another peer's copy of the ring has become part of `ours`. Returns whether the quarantine is over.
    pub fn hear(&mut self, ours: &Ring, theirs: &Ring) -> bool {
        if !self.awaited.contains(&theirs.holder()) {
            return false;
        }
        let me = ours.holder();
        self.ranges.retain(|range| ours.pieces().any(|(piece, e)| e.owner == me && piece.overlaps(*range)));
        let shows = |range: &Range| {
            let still_ours = |part: Range| ours.owner(part.start) == Some(me);
            let others = theirs.pieces().filter(|(piece, entry)| entry.owner != me && piece.overlaps(*range));
            others.into_iter().all(|(piece, _)| !still_ours(piece.intersection(*range)))
        };
        let shows_all = self.ranges.iter().all(shows);
        if shows_all {
            self.awaited.remove(&theirs.holder());
            self.shown.insert(theirs.holder());
        }
        self.note_stood_by(theirs, shows_all);
        self.end_if_over()
    }

    fn note_stood_by(&mut self, theirs: &Ring, shows_all: bool) {
        let peer = theirs.holder();
        if shows_all {
            self.stood_by.remove(&peer);
            return;
        }
        let owned = theirs.owned_by(peer);
        let parts = self.ranges.iter().flat_map(|range| owned.iter().map(|piece| piece.intersection(*range)));
        let parts = parts.filter(|part| !part.is_empty()).take(STOOD_BY_MAX).collect();
        self.stood_by.insert(peer, parts);
    }

    /// Only these are worth waiting for: the others own nothing and are not there. Returns whether the
    /// quarantine is over.
    pub fn keep_only(&mut self, worth: impl Fn(PeerName) -> bool) -> bool {
        let before = self.awaited.len();
        self.awaited.retain(|&peer| worth(peer));
        self.awaited.len() < before && self.end_if_over()
    }

    fn end_if_over(&mut self) -> bool {
        let nobody = self.awaited.is_empty() && self.unconfirmed.as_ref().is_some_and(BTreeSet::is_empty);
        let over = nobody || self.ranges.is_empty();
        if over {
            self.end();
        }
        over
    }

    /// There was no reason for it.
    pub fn end(&mut self) {
        *self = Quarantine { number: self.number, ..Quarantine::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::ring::tests::{entry, peer, range, ring},
        *,
    };

    const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 4);

    fn quarantined() -> Quarantine {
        let mut quarantine = Quarantine::default();
        quarantine.begin([range(128, 256)], [peer(2), peer(3)].into());
        quarantine.set_unconfirmed(Some(BTreeSet::new()));
        quarantine
    }

    #[test]
    fn a_range_rests_until_everybody_has_shown_that_it_is_ours() {
        let mut quarantine = quarantined();
        let ours = ring(1, 256, vec![entry(0, 2, 0, 0), entry(128, 1, 100, 0)]);
        let before = ring(2, 256, vec![entry(0, 2, 0, 0), entry(128, 9, 0, 0)]);
        assert!(!quarantine.hear(&ours, &before), "it has not heard of it yet");
        assert_eq!(quarantine.awaited().len(), 2);
        assert!(!quarantine.hear(&ours, &ring(2, 256, ours.entries().to_vec())));
        assert!(quarantine.hear(&ours, &ring(3, 256, ours.entries().to_vec())));
        assert!(quarantine.ranges().is_empty());
    }

    #[test]
    fn what_turns_out_to_be_anothers_is_not_waited_for() {
        let mut quarantine = quarantined();
        // Peer 2 was given the upper half before: by now we know.
        let ours = ring(1, 256, vec![entry(0, 2, 0, 0), entry(128, 1, 100, 0), entry(192, 2, 0, 0)]);
        quarantine.hear(&ours, &ring(2, 256, ours.entries().to_vec()));
        assert_eq!(quarantine.awaited(), &[peer(3)].into());
    }

    #[test]
    fn the_rest_ends_when_nobody_is_left_to_wait_for() {
        let mut quarantine = quarantined();
        assert!(!quarantine.keep_only(|other| other == peer(2)));
        assert!(quarantine.keep_only(|_| false));
    }

    #[test]
    fn a_quarantine_lasts_until_it_is_known_which_hosts_have_confirmed_nothing_and_none_is_left() {
        let mut quarantine = Quarantine::default();
        quarantine.begin([range(128, 256)], BTreeSet::new());
        assert!(!quarantine.set_unconfirmed(Some([HOST].into())));
        assert!(!quarantine.set_unconfirmed(None));
        assert!(quarantine.set_unconfirmed(Some(BTreeSet::new())));
        quarantine.begin([range(0, 128)], BTreeSet::new());
        assert!(!quarantine.keep_only(|_| false), "it was known of what rested before");
    }

    #[test]
    fn whoever_is_met_meanwhile_has_to_show_its_ring_once() {
        let mut quarantine = Quarantine::default();
        quarantine.begin([range(128, 256)], BTreeSet::new());
        quarantine.set_unconfirmed(Some([HOST].into()));
        quarantine.meet(peer(4));
        assert!(!quarantine.set_unconfirmed(Some(BTreeSet::new())));
        let ours = ring(1, 256, vec![entry(0, 2, 0, 0), entry(128, 1, 100, 0)]);
        quarantine.set_unconfirmed(Some([HOST].into()));
        assert!(!quarantine.hear(&ours, &ring(4, 256, ours.entries().to_vec())));
        quarantine.meet(peer(4));
        assert!(quarantine.set_unconfirmed(Some(BTreeSet::new())));
    }
}
