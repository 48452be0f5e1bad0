//! What this host knows of the dead: what EC2 said of them, who is asked for, and who is not heard.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    config::Config,
    ipam::{
        NodeId,
        takeover::{self, TakeOver},
    },
    node::{
        boundary::out::{CHANNEL, COMPACT_CHANNEL, DEAD_CHANNEL, PATH_CHANNEL, PROBE_CHANNEL},
        observe::view::View,
        persist::memory::Identity,
    },
    peer::PeerName,
    state::{Fault, InstanceState},
    time::Timestamp,
};

/// What a node knows of the dead.
#[derive(Debug)]
pub(in crate::node) struct Dead {
    /// Weave Net routers do not take part in agreements: where they share the cluster there are none.
    pub channels: &'static [&'static str],
    pub takeover: TakeOver,
    pub look: View<BTreeMap<String, InstanceState>>,
    pub looked_for: BTreeSet<String>,
    /// Peers that somebody wants to be taken over from, unless EC2 says that their instances run.
    pub wanted: BTreeSet<PeerName>,
    /// Owners that are not heard, and since when.
    pub silent: BTreeMap<PeerName, Timestamp>,
    /// Something changed since it was last considered.
    pub touched: bool,
}

impl Dead {
    pub fn new(identity: &Identity, boot: &str, saved: takeover::Saved, config: &Config) -> Dead {
        let me = NodeId { name: identity.name, uid: identity.acceptor.0 };
        let alone = config.mesh.weave_peers;
        let mut takeover = TakeOver::new(me, identity.instance.clone(), saved);
        takeover.set_boot(boot);
        Dead {
            channels: match alone {
                true => &[CHANNEL],
                false => &[CHANNEL, DEAD_CHANNEL, PROBE_CHANNEL, COMPACT_CHANNEL, PATH_CHANNEL],
            },
            takeover,
            look: View::default(),
            looked_for: BTreeSet::new(),
            wanted: BTreeSet::new(),
            silent: BTreeMap::new(),
            touched: true,
        }
    }

    /// What the mesh is to hand us.
    pub fn channels(&self) -> &'static [&'static str] {
        self.channels
    }

    /// To be considered anew.
    pub fn touch(&mut self) {
        self.touched = true;
    }

    /// Why the last look at instances failed.
    pub fn fault(&self) -> Option<&Fault> {
        self.look.fault()
    }

    /// When something is due. Whoever has no instance asks EC2 about none.
    pub fn next_wake(&self, now: Timestamp, has_instance: bool) -> Option<Timestamp> {
        let looks = has_instance && !self.suspects(now).is_empty();
        let look = self.look.next_look().filter(|_| looks);
        [look, self.takeover.next_wake()].into_iter().flatten().min()
    }

    /// Instances to ask EC2 about.
    pub fn suspects(&self, now: Timestamp) -> BTreeSet<String> {
        let wanted = self.wanted.iter().filter_map(|peer| self.takeover.instance(*peer));
        self.takeover.suspects(now).into_values().chain(wanted.map(str::to_owned)).collect()
    }

    pub fn agrees(&self) -> bool {
        self.channels.contains(&DEAD_CHANNEL)
    }

    /// Notes which owners are not heard.
    pub fn note_the_silent(&mut self, now: Timestamp, me: PeerName, around: &Around) {
        let is_silent = |peer: &PeerName| *peer != me && !around.reachable.contains(peer);
        self.silent.retain(|peer, _| is_silent(peer) && around.owners.contains_key(peer));
        for &peer in around.owners.keys().filter(|peer| is_silent(peer)) {
            self.silent.entry(peer).or_insert(now);
        }
    }

    /// Nobody waits any more for other peers than these to be taken over from.
    pub fn forget_wishes_but(&mut self, wished: &BTreeSet<PeerName>, me: PeerName) {
        self.wanted.retain(|peer| wished.contains(peer));
        for peer in self.takeover.asked().clone() {
            if peer != me && !wished.contains(&peer) {
                self.takeover.unask(peer);
                self.touched = true;
            }
        }
    }

    /// Leaves the electors, who would wait for us otherwise, or stays away from them.
    pub fn resign(&mut self, me: PeerName) {
        if self.agrees() {
            self.takeover.ask(me);
            self.touched = true;
        }
    }
}

/// What the ring and the mesh say at one moment.
pub(in crate::node) struct Around {
    pub owners: BTreeMap<PeerName, u64>,
    pub reachable: BTreeSet<PeerName>,
    pub grace: Option<Duration>,
}

impl Around {
    pub fn view(&self) -> takeover::View<'_> {
        takeover::View { owners: &self.owners, reachable: &self.reachable, grace: self.grace }
    }
}
