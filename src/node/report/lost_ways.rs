//! Which ways are asked about at a look, and what is told of packets that get lost on them.

use std::collections::{BTreeMap, BTreeSet};

use super::overview::Overview;
use crate::{
    addr::{Address, Range},
    node::{
        protocol::status::Note,
        reconcile::paths::{Place, concerned, place, told},
    },
    peer::PeerName,
    state::{Packet, Path},
};

/// Other hosts to which the way is asked in one look; where there are more they take turns.
const OTHERS_MAX: usize = 64;

impl Overview<'_> {
    /// One address of each other owner, and those that somebody wants explained. Where there are too many they take
    /// turns, but a way that was lost is asked for until it is found.
    pub(in crate::node) fn others_to_ask_for(&self, explained: &BTreeSet<Address>) -> BTreeSet<Address> {
        let mut firsts: BTreeMap<_, Address> = BTreeMap::new();
        for (range, owner) in self.peers.ipam.settled_owners() {
            if owner != self.facts.identity.name && owner != PeerName::UNKNOWN {
                firsts.entry(owner).or_insert(range.start);
            }
        }
        let all: Vec<Address> = firsts.into_values().collect();
        let range = Range::from(self.facts.config.ipam.range);
        let explained = explained.iter().copied().filter(|address| range.contains(*address));
        let is_other =
            |address: &Address| self.peers.ipam.ring().owner(*address) != Some(self.facts.identity.name);
        let lost = self.work.lost_paths.astray().iter().filter_map(|(path, _)| match path.packet {
            Packet::ToOther(address) => Some(address),
            Packet::ToContainer { .. } | Packet::FromHost { .. } | Packet::Outside => None,
        });
        let first = (self.work.converge.host.looks() as usize).wrapping_mul(OTHERS_MAX) % all.len().max(1);
        let in_turn = all.iter().cycle().skip(first).take(all.len()).copied();
        let mut asked = BTreeSet::new();
        for address in explained.filter(is_other).chain(lost.filter(is_other)).chain(in_turn) {
            if asked.len() < OTHERS_MAX {
                asked.insert(address);
            }
        }
        asked
    }

    /// Why packets from or to this address are lost, as far as the kernel was asked about them: its own if it is a
    /// container here, or else all of them.
    pub(super) fn missing_way(&self, address: Address) -> Option<Note> {
        let concerns = |packet: &Packet| match packet {
            Packet::ToOther(other) => *other == address,
            Packet::ToContainer { address: own, .. } => *own == address,
            Packet::FromHost { .. } | Packet::Outside => false,
        };
        let astray = self.work.lost_paths.astray();
        let own = astray.iter().find(|(path, _)| concerns(&path.packet));
        let any = || {
            let out = |path: &Path| matches!(path.packet, Packet::ToOther(_) | Packet::Outside);
            astray.iter().find(|(path, _)| out(path)).filter(|_| self.is_cut_off())
        };
        let (path, astray) = own.or_else(any)?;
        let addresses: Vec<Address> = concerned(path).into_iter().collect();
        Some(told(&place(path, astray.clone()), &addresses, &self.facts.config, &self.uplink_names()))
    }

    /// Where packets are lost, one note for each place, and the way out.
    pub(super) fn lost_packets(&self) -> Vec<Note> {
        let mut places: BTreeMap<Place, Vec<Address>> = BTreeMap::new();
        for (path, astray) in self.work.lost_paths.astray() {
            places.entry(place(path, astray.clone())).or_default().extend(concerned(path));
        }
        let uplinks = self.uplink_names();
        places.iter().map(|(place, addresses)| told(place, addresses, &self.facts.config, &uplinks)).collect()
    }

    /// Whether a container attached now is not reachable: its packets reach none of the other hosts, or none of
    /// theirs reach it.
    pub(in crate::node) fn is_cut_off(&self) -> bool {
        self.work.lost_paths.is_cut_off(self.work.converge.host.seen())
    }
}
