//! What others may want to know.

use ipnet::Ipv4Net;

use std::collections::BTreeMap;

use super::{Allocator, Ring, paxos::Claims};
use crate::{addr::Range, peer::PeerName};

impl Allocator {
    /// The ring; empty until it is agreed on.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// What is known of everybody's promises in the election of the first ring.
    pub fn claims(&self) -> &Claims {
        self.election.known()
    }

    /// What we own, ascending.
    pub fn owned(&self) -> Vec<Range> {
        self.ring.owned_by(self.settings.me)
    }

    /// Who owns what: the whole universe, ascending, neighbouring pieces of one owner joined; nothing
    /// until there is a ring.
    pub fn owners(&self) -> Vec<(Range, PeerName)> {
        self.ring.owners()
    }

    /// Addresses of ours in use.
    pub fn used(&self) -> u32 {
        self.space.used().len() as u32
    }

    /// The nickname of a peer, if it was ever heard.
    pub fn nickname(&self, peer: PeerName) -> Option<&str> {
        self.nicknames.get(&peer).map(String::as_str)
    }

    /// The addresses of a user.
    pub fn lookup(&self, ident: &str) -> &[Ipv4Net] {
        self.allocations.get(ident).map_or(&[], Vec::as_slice)
    }

    /// All addresses in use, by whom.
    pub fn allocations(&self) -> &BTreeMap<String, Vec<Ipv4Net>> {
        &self.allocations
    }

    /// Whether our addresses were given away.
    pub fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// What is waited for, each with the way out if there is one.
    pub fn waits(&self) -> Vec<(String, Option<String>)> {
        if self.ring.is_empty() && !self.leaving {
            return vec![self.election.wait(&self.reachable, &self.nicknames)];
        }
        let mut waits = Vec::new();
        for (piece, with) in self.disputes.opponents(&self.ring) {
            let with = self.named(with);
            waits.push((
                format!("{with} to give up addresses of {piece}, which are in use here too"),
                Some(format!("addresses that both hosts use stay open: free them here or on {with}")),
            ));
        }
        waits.extend(self.request_waits());
        waits
    }

    pub(super) fn nickname_of(&self, peer: PeerName) -> String {
        self.nicknames.get(&peer).cloned().unwrap_or_else(|| "no nickname".to_owned())
    }

    /// A peer as people know it.
    pub(super) fn named(&self, peer: PeerName) -> String {
        match self.nicknames.get(&peer) {
            Some(nickname) => format!("{peer} ({nickname})"),
            None => peer.to_string(),
        }
    }
}
