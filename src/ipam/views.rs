//! What others may want to know.

use ipnet::Ipv4Net;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use super::{Allocator, Ring, excess::way_out, memory::Memory, paxos::Claims, requests::inner, ring::Entry};
use crate::{
    addr::{Address, Range, join},
    peer::PeerName,
};

/// Hosts that one wait names.
const NAMED_MAX: usize = 20;
/// How long what was told and not believed is named.
const NAMED_FOR: Duration = Duration::from_secs(600);

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

    /// What was taken over and rests: nobody is to use it yet.
    pub fn quarantined(&self) -> &[Range] {
        self.quarantine.ranges()
    }

    /// Whether an address of ours may be another's: it rests, or another stands by the piece in which it is.
    pub fn is_doubtful(&self, address: Address) -> bool {
        let is_disputed = |entry: &Entry| self.disputes.concerns(entry.token);
        self.quarantine.covers(address) || self.ring.entry_of(address).is_some_and(is_disputed)
    }

    /// What we own and may use, ascending.
    pub fn settled(&self) -> Vec<Range> {
        let pieces = self.settled_pieces();
        join(pieces.filter(|(_, owner)| *owner == self.settings.me).map(|(piece, _)| piece))
    }

    /// Who may use what: as [`Allocator::owners`], but what rests is nobody's.
    pub fn settled_owners(&self) -> Vec<(Range, PeerName)> {
        let mut owners: Vec<(Range, PeerName)> = Vec::new();
        for (piece, owner) in self.settled_pieces() {
            match owners.last_mut() {
                Some((range, before)) if *before == owner => range.end = piece.end,
                _ => owners.push((piece, owner)),
            }
        }
        owners
    }

    fn settled_pieces(&self) -> impl Iterator<Item = (Range, PeerName)> {
        self.ring.pieces().map(|(piece, entry)| {
            let rests = self.quarantine.ranges().iter().any(|range| range.overlaps(piece));
            (piece, if rests && entry.owner == self.settings.me { PeerName::UNKNOWN } else { entry.owner })
        })
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

    /// Whether an address of ours in this range is in use.
    pub fn uses(&self, range: Range) -> bool {
        self.space.uses(range)
    }

    /// Whether somebody waits for an address.
    pub fn is_waiting(&self) -> bool {
        self.requests.is_waiting()
    }

    /// The peers that a unicast can reach, without ourselves.
    pub fn reachable(&self) -> &BTreeSet<PeerName> {
        &self.peers.reachable
    }

    /// The nickname of a peer, if it was ever heard.
    pub fn nickname(&self, peer: PeerName) -> Option<&str> {
        self.peers.nicknames.get(&peer).map(String::as_str)
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

    /// What peers claim of ours and we yielded: nothing of it is handed out.
    pub fn contested(&self) -> Vec<(Range, PeerName)> {
        self.disputes.opponents(&self.ring)
    }

    /// Whether an address of this subnet can be handed out: one of ours, or one of a peer that can be reached and
    /// contests nothing of ours.
    pub fn has_room(&self, subnet: Ipv4Net) -> bool {
        let whole = Range::from(subnet.trunc());
        let opponents: BTreeSet<PeerName> = self.contested().into_iter().map(|(_, with)| with).collect();
        let gives = |peer: &PeerName| self.peers.reachable.contains(peer) && !opponents.contains(peer);
        self.space.free_in(inner(whole)) > 0 || self.donors(whole).iter().any(gives)
    }

    /// What is wrong and does not mend itself, each with the way out.
    pub fn problems(&self) -> Vec<(String, String)> {
        let fixed = self.ring.fixed().into_iter().map(|(peer, addresses)| {
            (
                format!(
                    "{addresses} addresses of {} can never change hands: their version in the ring is the last",
                    self.named(peer)
                ),
                "leave them where they are; to have them back, `weavers reset` on every host, or another [ipam] range"
                    .to_owned(),
            )
        });
        let recent = self.doubts.unbelievable.iter().filter(|(_, (at, _))| self.now.since(*at) < NAMED_FOR);
        let unbelievable = recent.map(|(token, (_, entry))| {
            (
                format!(
                    "the piece at {token} of {} is told at version {}, which no honest history reaches: it is not believed",
                    self.named(entry.owner),
                    entry.version
                ),
                "restart weavers on the hosts that still believe it (`weavers ipam show` there); \
                 a Weave Net router has to be reset"
                    .to_owned(),
            )
        });
        let excess = self.doubts.excess.recent(self.now);
        let excess =
            excess.map(|(what, peer)| (format!("{what}, the last by {}", self.named(peer)), way_out(peer)));
        let set_back = self.old_store().filter(|_| self.quarantine.number().is_some()).map(|what| {
            (
                what.to_owned(),
                "nothing of what it owns is handed out until the other peers have shown what they own; \
                 if a copy of the disk runs elsewhere, stop that host"
                    .to_owned(),
            )
        });
        fixed.chain(unbelievable).chain(excess).chain(set_back).collect()
    }

    /// Whether the store of this host is older than what it told others, or may be.
    fn old_store(&self) -> Option<&'static str> {
        match self.memory {
            Memory::SetBack => Some(
                "the store of this host is older than what it told its peers: its disk was set back, or a copy of it is in \
                 use elsewhere",
            ),
            Memory::Bereft => Some(
                "peers own what this host owned by its store, as they or the routes say: it was taken for dead, or its disk was \
                 set back, or a copy of it is in use elsewhere",
            ),
            Memory::Whole
            | Memory::Read
            | Memory::BorneOut
            | Memory::Unproven(_)
            | Memory::New
            | Memory::Lost => None,
        }
    }

    /// What is waited for, each with the way out if there is one.
    pub fn waits(&self) -> Vec<(String, Option<String>)> {
        if self.ring.is_empty() && !self.leaving {
            return vec![self.election.wait(&self.peers.reachable, &self.peers.nicknames)];
        }
        let mut waits = Vec::new();
        for (piece, peer) in self.disputes.opponents(&self.ring) {
            let with = self.named(peer);
            let hint = match self.peers.reachable.contains(&peer) {
                true => format!(
                    "addresses that both hosts use stay open: free them here or on {with}; if it is none of your \
                     hosts, change the password of the mesh, and then `weavers forget {peer}`"
                ),
                false => {
                    format!("it cannot be reached: bring it back, or, if it is gone, `weavers forget {peer}`")
                }
            };
            let what = format!(
                "{with} to give up addresses of {piece}, which are in use here: until then none of it is handed out"
            );
            waits.push((what, Some(hint)));
        }
        waits.extend(self.quarantine_wait());
        waits.extend(self.request_waits());
        waits
    }

    /// Whom what rests waits for, with the way out if there is one.
    pub fn quarantine_wait(&self) -> Option<(String, Option<String>)> {
        self.quarantine.number()?;
        let resting: u32 = self.quarantine.ranges().iter().map(|range| range.len()).sum();
        let addresses = format!("{resting} quarantined addresses");
        let awaited: Vec<String> = self.quarantine.awaited().iter().map(|&peer| self.named(peer)).collect();
        let silent = self.quarantine.awaited().iter().find(|peer| !self.peers.reachable.contains(peer));
        let unconfirmed: Vec<String> =
            self.quarantine.unconfirmed().into_iter().flatten().map(Ipv4Addr::to_string).collect();
        let hint = match (silent, unconfirmed.first()) {
            (Some(peer), _) => Some(format!(
                "{peer} cannot be reached: bring it back, or, if it is dead, `weavers forget {peer}`"
            )),
            (None, Some(host)) => Some(format!(
                "the instance at {host} is running but has not contacted us: start weavers there, or remove it from `peers` and the tag"
            )),
            (None, None) => None,
        };
        let mut all = [awaited, unconfirmed].concat();
        let more = all.len().saturating_sub(NAMED_MAX);
        all.truncate(NAMED_MAX);
        let mut names = all.join(", ");
        if more > 0 {
            names += &format!(" and {more} more");
        }
        let what = match all.is_empty() {
            true => format!("EC2 to say which running instances may own some of {addresses}"),
            false => format!("confirmation from {names} which of {addresses} they own"),
        };
        Some((what, hint))
    }

    /// The same, in words if it was not.
    pub fn nickname_of(&self, peer: PeerName) -> String {
        self.peers.nicknames.get(&peer).cloned().unwrap_or_else(|| "no nickname".to_owned())
    }

    /// A peer as people know it.
    pub(super) fn named(&self, peer: PeerName) -> String {
        match self.peers.nicknames.get(&peer) {
            Some(nickname) => format!("{peer} ({nickname})"),
            None => peer.to_string(),
        }
    }
}
