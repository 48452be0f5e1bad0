//! What peers tell each other: what comes by the channels of the application, how news are passed on, and what is not told since
//! the other knows it.

use std::time::Duration;

use super::peers::{News, Peers};
use crate::{
    digest::Digest,
    ipam::{Relay, Source},
    mesh::{ConnId, Delivery, Kind, Offer, Recipients},
    node::{
        boundary::out::{CHANNEL, COMPACT_CHANNEL, DEAD_CHANNEL, Effect, Out, PATH_CHANNEL, PROBE_CHANNEL},
        facts::Facts,
    },
    time::Timestamp,
};

/// How long news of the address manager are gathered before they are passed on, and how much longer for each peer.
const RELAY_AFTER: Duration = Duration::from_millis(5);
const RELAY_SHARE: Duration = Duration::from_micros(500);

impl Peers {
    pub fn on_delivery(&mut self, facts: &Facts, out: &mut Out, delivery: Delivery) {
        match delivery.channel.as_str() {
            PROBE_CHANNEL => return self.news.push_back(News::Talk(delivery)),
            COMPACT_CHANNEL => return self.news.push_back(News::Block(delivery)),
            PATH_CHANNEL => {
                let is_news = self.paths.on_talk(facts.now, &delivery);
                if is_news {
                    self.paths.see(facts.now, &self.mesh);
                    self.news.push_back(News::Path);
                }
                return;
            }
            _ => {}
        }
        if delivery.channel != CHANNEL {
            return self.on_said(facts, out, delivery);
        }
        let source = match delivery.kind {
            Kind::Gossip { from } => Source::Gossip { from },
            Kind::Unicast { from } => Source::Unicast { from },
            Kind::Broadcast { from } => Source::Broadcast { from },
        };
        let received = self.ipam.receive(facts.now, source, &delivery.payload);
        self.settle_ipam(facts, out);
        match received {
            Ok(Relay::Nothing) => {}
            Ok(Relay::State) => self.relay_soon(facts.now, delivery.kind),
            Ok(Relay::Same) => {
                let Kind::Broadcast { from } = delivery.kind else { return };
                self.mesh.broadcast(from, CHANNEL, &delivery.payload);
            }
            Err(error) => self.refuse(facts.now, &delivery, &error),
        }
    }

    /// What cannot be used is the fault of whoever said it.
    pub fn refuse(&mut self, now: Timestamp, delivery: &Delivery, error: &dyn std::error::Error) {
        let Delivery { conn, ref channel, kind, .. } = *delivery;
        self.mesh.refuse(now, conn, channel, kind, error.to_string());
    }

    /// Passes on what was new, as our own state, with what comes soon after it: the more peers there are to say something, the
    /// longer that is waited for.
    fn relay_soon(&mut self, now: Timestamp, kind: Kind) {
        let from = match kind {
            Kind::Gossip { from } => Some(from),
            Kind::Unicast { .. } | Kind::Broadcast { .. } => None,
        };
        let peers = self.ipam.reachable().len() as u32;
        let due = now + RELAY_AFTER + RELAY_SHARE * peers;
        self.relay = match self.relay {
            None => Some((due, from)),
            Some((due, earlier)) => Some((due, earlier.filter(|_| earlier == from))),
        };
    }

    /// Passes on what was heard, if it is time.
    pub fn relay(&mut self, facts: &Facts, out: &mut Out) {
        if let Some((_, except)) = self.relay.take_if(|(due, _)| *due <= facts.now) {
            self.send_state(facts, out, |state| {
                Effect::Gossip(CHANNEL, Recipients::Neighbours { except }, state)
            });
        }
    }

    // ===== what neighbours of our own kind know already is not told: digests are compared =====

    /// Offers what we know, as far as the disk has it.
    pub fn offer(&mut self, facts: &Facts, out: &mut Out) {
        // A peer that lost its store is to know that before it learns what it owns.
        let channels = [DEAD_CHANNEL, CHANNEL].into_iter();
        let digests =
            channels.filter_map(|channel| Some((channel, self.digest(facts, out, channel)?))).collect();
        out.let_out(Effect::Offer(digests));
    }

    /// A neighbour offers what it knows of a channel.
    pub fn compare(&mut self, facts: &Facts, out: &mut Out, Offer { conn, from, channel, digest }: Offer) {
        let Some(ours) = self.digest(facts, out, channel) else { return };
        if ours != digest {
            return self.mesh.want(conn, channel);
        }
        if channel == DEAD_CHANNEL {
            self.dead.takeover.hear_same(facts.now, from);
            if self.dead.takeover.has_effects() {
                self.dead.touch();
            }
        } else if let Err(error) = self.ipam.hear_same(facts.now, from) {
            self.mesh.refuse(facts.now, conn, channel, Kind::Gossip { from }, error.to_string());
        }
    }

    /// A neighbour knows something else.
    pub fn send_all(&mut self, facts: &Facts, out: &mut Out, conn: ConnId, channel: &'static str) {
        let to = Recipients::One(conn);
        match channel {
            CHANNEL => self.send_state(facts, out, |state| Effect::Gossip(CHANNEL, to, state)),
            DEAD_CHANNEL => self.send_dead(out, to),
            _ => {}
        }
    }

    fn digest(&mut self, facts: &Facts, out: &mut Out, channel: &str) -> Option<Digest> {
        match channel {
            CHANNEL => {
                let digest = self.ipam.digest();
                self.settle_ipam(facts, out);
                Some(digest)
            }
            DEAD_CHANNEL if self.dead.agrees() => Some(self.dead.takeover.digest()),
            _ => None,
        }
    }

    /// Tells our state as it is, once the disk has it.
    pub fn send_state(&mut self, facts: &Facts, out: &mut Out, effect: impl FnOnce(Vec<u8>) -> Effect) {
        if let Some(state) = self.ipam.state() {
            self.settle_ipam(facts, out);
            out.let_out(effect(state));
        }
    }
}
