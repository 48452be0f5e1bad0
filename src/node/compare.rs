//! What neighbours of our own kind know already is not told: digests are compared.

use super::{
    Node,
    out::{CHANNEL, DEAD_CHANNEL, Effect},
};
use crate::{
    digest::Digest,
    mesh::{ConnId, Kind, Offer, Recipients},
};

impl Node {
    /// Offers what we know, as far as the disk has it.
    pub(super) fn offer(&mut self) {
        // A peer that lost its store is to know that before it learns what it owns.
        let channels = [DEAD_CHANNEL, CHANNEL].into_iter();
        let digests = channels.filter_map(|channel| Some((channel, self.digest(channel)?))).collect();
        self.out.let_out(Effect::Offer(digests));
    }

    /// A neighbour offers what it knows of a channel.
    pub(super) fn compare(&mut self, Offer { conn, from, channel, digest }: Offer) {
        let Some(ours) = self.digest(channel) else { return };
        if ours != digest {
            return self.peers.mesh.want(conn, channel);
        }
        if channel == DEAD_CHANNEL {
            self.peers.dead.takeover.hear_same(self.facts.now, from);
            if self.peers.dead.takeover.has_effects() {
                self.peers.dead.touch();
            }
        } else if let Err(error) = self.peers.ipam.hear_same(self.facts.now, from) {
            self.peers.mesh.refuse(self.facts.now, conn, channel, Kind::Gossip { from }, error.to_string());
        }
    }

    /// A neighbour knows something else.
    pub(super) fn send_all(&mut self, conn: ConnId, channel: &'static str) {
        let to = Recipients::One(conn);
        match channel {
            CHANNEL => self.send_state(|state| Effect::Gossip(CHANNEL, to, state)),
            DEAD_CHANNEL => self.send_dead(to),
            _ => {}
        }
    }

    fn digest(&mut self, channel: &str) -> Option<Digest> {
        match channel {
            CHANNEL => {
                let digest = self.peers.ipam.digest();
                self.settle_ipam();
                Some(digest)
            }
            DEAD_CHANNEL if self.peers.dead.agrees() => Some(self.peers.dead.takeover.digest()),
            _ => None,
        }
    }
}
