//! Who is heard and who is not, and what EC2 says of the instances of those who are not.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use super::{HEIR_PATIENCE, InstanceState, SUSPECT_AFTER, SUSPECTS_MAX, View};
use crate::{peer::PeerName, time::Timestamp};

/// What is known of the life of peers that own something or decide.
#[derive(Clone, Debug, Default)]
pub(super) struct Liveness {
    /// Owners and electors that are not heard, and since when.
    pub unheard: BTreeMap<PeerName, Timestamp>,
    /// Who is heard, and since when.
    pub heard: BTreeMap<PeerName, Timestamp>,
    /// Those who are not, and whose instances EC2 said are gone.
    pub gone: BTreeSet<PeerName>,
    /// Those whose instances it said run, and when.
    pub running: BTreeMap<PeerName, Timestamp>,
    /// When the last decision about a peer was learned.
    pub decided: BTreeMap<PeerName, Timestamp>,
    /// The last one that EC2 was asked about.
    ec2_turn: Option<PeerName>,
}

impl Liveness {
    /// Notes who is heard, of all and of these electors.
    pub fn look_around(&mut self, now: Timestamp, me: PeerName, electors: &BTreeSet<PeerName>, view: View) {
        let counts = |peer: &PeerName| view.owners.contains_key(peer) || electors.contains(peer);
        self.unheard.retain(|peer, _| counts(peer) && !view.reachable.contains(peer));
        let all = view.owners.keys().chain(electors);
        for &peer in all.filter(|peer| **peer != me && !view.reachable.contains(peer)) {
            self.unheard.entry(peer).or_insert(now);
        }
        // Mostly they are the same as before.
        if !self.heard.keys().eq(view.reachable) {
            self.heard.retain(|peer, _| view.reachable.contains(peer));
            for &peer in view.reachable {
                self.heard.entry(peer).or_insert(now);
            }
        }
        let unheard = &self.unheard;
        self.gone.retain(|peer| unheard.contains_key(peer));
        self.running.retain(|peer, _| unheard.contains_key(peer));
        self.decided.retain(|_, at| now.since(*at) < HEIR_PATIENCE);
    }

    /// Whether a peer is there, or is missing though it owns something or decides.
    pub fn knows(&self, peer: &PeerName) -> bool {
        self.heard.contains_key(peer) || self.unheard.contains_key(peer)
    }

    /// A decision about this peer was learned. Its heir has some time to take over before it is decided about again.
    pub fn note_decided(&mut self, now: Timestamp, dead: PeerName) {
        self.decided.insert(dead, now);
        self.gone.remove(&dead);
    }

    /// Whom EC2 is to be asked about, with their instances: of peers that were not heard for a while, of many some at a time.
    pub fn ec2_turns<'a>(
        &self,
        now: Timestamp,
        instance: impl Fn(PeerName) -> Option<&'a str>,
    ) -> Vec<(PeerName, String)> {
        let last = self.ec2_turn.unwrap_or(PeerName::UNKNOWN);
        let after = self.unheard.range((Bound::Excluded(last), Bound::Unbounded));
        let late =
            after.chain(self.unheard.range(..=last)).filter(|(_, since)| now.since(**since) >= SUSPECT_AFTER);
        let unknown = late.map(|(peer, _)| *peer).filter(|peer| !self.gone.contains(peer));
        unknown.filter_map(|peer| Some((peer, instance(peer)?.to_owned()))).take(SUSPECTS_MAX).collect()
    }

    /// EC2 was asked about these instances, in these turns, and found some.
    pub fn hear_ec2<'a>(
        &mut self,
        now: Timestamp,
        asked: &BTreeSet<String>,
        found: &BTreeMap<String, InstanceState>,
        turns: &[(PeerName, String)],
        instance: impl Fn(PeerName) -> Option<&'a str>,
    ) {
        let asked_last = turns.iter().rfind(|(_, instance)| asked.contains(instance));
        self.ec2_turn = asked_last.map(|(peer, _)| *peer).or(self.ec2_turn);
        for &peer in self.unheard.keys() {
            let Some(instance) = instance(peer).filter(|one| asked.contains(*one)) else { continue };
            self.running.remove(&peer);
            self.gone.remove(&peer);
            match found.get(instance) {
                Some(InstanceState::Running) => drop(self.running.insert(peer, now)),
                Some(InstanceState::Stopped) => {}
                None => drop(self.gone.insert(peer)),
            }
        }
    }
}
