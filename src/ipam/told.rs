//! All that this host knows, in the form in which others are told.

use super::{Allocator, ReceiveError, message::State};
use crate::{digest::Digest, peer::PeerName, time::Timestamp};

/// What was told last.
#[derive(Clone, Debug)]
pub(super) struct Told {
    state: State,
    written: Vec<u8>,
    /// Once somebody wanted to compare it.
    digest: Option<Digest>,
}

impl Allocator {
    /// All we know, for gossip and for passing on a broadcast. Effects that came before it are to be
    /// carried out before it is sent.
    pub fn state(&mut self) -> Option<Vec<u8>> {
        Some(self.told())
    }

    /// A digest of all we know: the same where the same is known. Effects that came before it are to be carried out before it
    /// is sent.
    pub fn digest(&mut self) -> Digest {
        let told = self.tell_anew();
        if let Some(digest) = told.digest {
            return digest;
        }
        let nobodys = told.state.ring.as_ref().map(|ring| ring.held_by(PeerName::UNKNOWN));
        let digest = Digest::of(&State { ring: nobodys, ..told.state.clone() }.encode());
        told.digest = Some(digest);
        digest
    }

    /// A neighbour knows just what we know, as [`Allocator::digest`] says.
    pub fn hear_same(&mut self, now: Timestamp, from: PeerName) -> Result<(), ReceiveError> {
        self.now = now;
        self.peers.heard.insert(from);
        // That it knows the same matters only where it was not known yet what it knows.
        if self.quarantine.awaited().contains(&from) || self.disputes.are_with(from) {
            self.merge(&self.ring.held_by(from))?;
            self.advance();
        }
        Ok(())
    }

    /// What we know, with the free counts of this moment, which are saved before they leave.
    pub(super) fn told(&mut self) -> Vec<u8> {
        self.tell_anew().written.clone()
    }

    fn tell_anew(&mut self) -> &mut Told {
        if self.count_free() {
            self.save_ring();
        }
        let ring = (!self.ring.is_empty()).then_some(&self.ring);
        let paxos = if ring.is_none() { self.election.told() } else { None };
        let nicknames = &self.peers.nicknames;
        let is_the_same = |State { ring: said, paxos: claims, nicknames: known, .. }: &State| {
            said.as_ref() == ring && *claims == paxos && known == nicknames
        };
        let told = self.outgoing.told.take().filter(|told| is_the_same(&told.state));
        let told = told.unwrap_or_else(|| {
            let state = State { now: 0, nicknames: nicknames.clone(), paxos, ring: ring.cloned() };
            Told { written: state.encode(), state, digest: None }
        });
        self.outgoing.told.insert(told)
    }
}
