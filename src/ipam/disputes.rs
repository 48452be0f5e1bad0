//! Pieces of the ring that two peers hold for their own, both with addresses in use.
//!
//! It takes two take-overs of one dead peer in two halves of the network, or a disk that was set back.
//! The first time a claim on such a piece is refused, its owner says again that it is his. If the other
//! stands by it too, the lower name goes on saying so and the higher one yields: it hands out nothing
//! more there, keeps its addresses, and asks the other for each of them, as for any claim. What the
//! other gives splits the piece, and then the copies merge. Only an address that both use stays open.
//! Where the piece rests at one of them it is that one who yields: it does not remember what it gave away, and could give nothing.
//! Both may have yielded to each other. Whoever is asked for an address by the other gives it unless it is in use here, also of what it
//! has yielded, so a dispute on an address ends once one of the two frees it.
//! Whoever has yielded does not stand up again, and who leaves leaves it to the other: it may hand out addresses there by now.
//!
//! Whether the other is an honest host or not, nothing that is known can tell. One that is dead stands by nothing:
//! once that is decided, everybody who had yielded to it says again what is his.
//!
//! To a Weave Net router one yields at once. It took over from us, and ends with a failed assertion if it
//! hears that a piece in which it uses nothing is ours after all: its merge gives the piece away, and its
//! free space does not follow.

use std::collections::BTreeMap;

use super::{merge::Merged, ring::Ring};
use crate::{
    addr::{Address, Range},
    peer::PeerName,
};

/// By the token of the piece.
#[derive(Clone, Debug, Default)]
pub struct Disputes(BTreeMap<Address, Dispute>);

#[derive(Clone, Copy, Debug)]
struct Dispute {
    with: PeerName,
    /// Of the other's last claim.
    version: u32,
    yielded: bool,
}

impl Disputes {
    /// Answers the claims that a merge refused; `yields` says to whom we yield at once, `rests` where we yield if somebody stands by
    /// a claim. Returns whether an entry was reissued, so that it must be saved and told.
    pub fn on_merge(
        &mut self,
        ring: &mut Ring,
        theirs: &Ring,
        merged: &Merged,
        yields: impl Fn(PeerName) -> bool,
        rests: impl Fn(Address) -> bool,
    ) -> bool {
        let me = ring.holder();
        self.0.retain(|&token, dispute| {
            let agreed = theirs.holder() == dispute.with && theirs.owner(token) == Some(me);
            !agreed && ring.owner(token) == Some(me)
        });
        let mut reissued = false;
        for claim in &merged.refused {
            let known = self.0.get(&claim.token).filter(|dispute| dispute.with == claim.owner);
            // What is yielded rests no more, and is not stood up for again: the other would yield as well.
            let gives_way = |known: &Dispute| known.yielded || me > claim.owner || rests(claim.token);
            let yields = yields(claim.owner) || known.is_some_and(gives_way);
            let stands = !yields && ring.reissue(claim.token, claim.version);
            let dispute = Dispute { with: claim.owner, version: claim.version, yielded: !stands };
            self.0.insert(claim.token, dispute);
            reissued |= stands;
        }
        reissued
    }

    /// A peer is dead: what we yielded to it is ours again. Returns whether an entry was reissued.
    pub fn end_with(&mut self, ring: &mut Ring, peer: PeerName) -> bool {
        let me = ring.holder();
        let mut reissued = false;
        self.0.retain(|&token, dispute| {
            let with_it = dispute.with == peer && ring.owner(token) == Some(me);
            let stands = with_it && dispute.yielded && ring.reissue(token, dispute.version);
            reissued |= stands;
            dispute.with != peer || with_it && dispute.yielded && !stands
        });
        reissued
    }

    /// What we yielded is the other's, for nobody uses an address of it here any more. Returns whether an entry changed hands.
    pub fn let_go(&mut self, ring: &mut Ring) -> bool {
        let me = ring.holder();
        let mut any = false;
        self.0.retain(|&token, dispute| {
            let goes = dispute.yielded && ring.owner(token) == Some(me);
            if goes {
                ring.concede(token, dispute.with, dispute.version);
            }
            any |= goes;
            !goes
        });
        any
    }

    /// What was given away is not disputed any more.
    pub fn leave_out_given(&mut self, ring: &Ring) {
        self.0.retain(|&token, _| ring.owner(token) == Some(ring.holder()));
    }

    /// Whether another stands by the piece at this token.
    pub fn concerns(&self, token: Address) -> bool {
        self.0.contains_key(&token)
    }

    /// Whether this peer stands against us where this address is.
    pub fn is_stood_by(&self, ring: &Ring, peer: PeerName, address: Address) -> bool {
        let dispute = ring.entry_of(address).and_then(|entry| self.0.get(&entry.token));
        dispute.is_some_and(|dispute| dispute.with == peer)
    }

    /// Whether a peer stands against us somewhere.
    pub fn are_with(&self, peer: PeerName) -> bool {
        self.0.values().any(|dispute| dispute.with == peer)
    }

    /// The pieces that we no longer stand up for.
    pub fn yielded(&self, ring: &Ring) -> Vec<Range> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let yielded = |token: Address| self.0.get(&token).is_some_and(|dispute| dispute.yielded);
        ring.pieces().filter(|(_, entry)| yielded(entry.token)).map(|(piece, _)| piece).collect()
    }

    /// The same, with who has it.
    pub fn opponents(&self, ring: &Ring) -> Vec<(Range, PeerName)> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let with = |token| self.0.get(&token).filter(|dispute| dispute.yielded).map(|dispute| dispute.with);
        ring.pieces().filter_map(|(piece, entry)| Some((piece, with(entry.token)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::ring::tests::{entry, peer, ring},
        *,
    };

    #[test]
    fn who_gave_up_a_piece_because_it_rested_does_not_stand_up_for_it_again() {
        let (mut ours, mut disputes) = (ring(1, 256, vec![entry(0, 1, 3, 255)]), Disputes::default());
        let mut hear = |version, rests| {
            let theirs = ring(2, 256, vec![entry(0, 2, version, 200)]);
            let merged = ours.merge(&theirs, |_| true).unwrap();
            assert_eq!(merged.refused.len(), 1);
            disputes.on_merge(&mut ours, &theirs, &merged, |_| false, |_| rests)
        };
        assert!(hear(9, true), "at first nobody knows of the other");
        assert!(!hear(12, true));
        assert!(!hear(12, false), "what is given up rests no more");
        assert!(disputes.let_go(&mut ours));
        assert_eq!(ours.owner(Address(0)), Some(peer(2)));
    }
}
