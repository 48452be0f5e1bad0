//! What comes by the channels of the application, and how news of the address manager are passed on.

use std::time::Duration;

use super::{
    Node,
    out::{CHANNEL, Effect, PROBE_CHANNEL},
};
use crate::{
    ipam::{Relay, Source},
    mesh::{Delivery, Kind, Recipients},
};

/// How long news of the address manager are gathered before they are passed on, and how much longer for each peer.
const RELAY_AFTER: Duration = Duration::from_millis(5);
const RELAY_SHARE: Duration = Duration::from_micros(500);

impl Node {
    pub(super) fn on_delivery(&mut self, delivery: Delivery) {
        if delivery.channel == PROBE_CHANNEL {
            return self.on_talk(&delivery);
        }
        if delivery.channel != CHANNEL {
            return self.on_said(delivery);
        }
        let source = match delivery.kind {
            Kind::Gossip { from } => Source::Gossip { from },
            Kind::Unicast { from } => Source::Unicast { from },
            Kind::Broadcast { from } => Source::Broadcast { from },
        };
        let received = self.peers.ipam.receive(self.facts.now, source, &delivery.payload);
        self.settle_ipam();
        match received {
            Ok(Relay::Nothing) => {}
            Ok(Relay::State) => self.relay_soon(delivery.kind),
            Ok(Relay::Same) => {
                let Kind::Broadcast { from } = delivery.kind else { return };
                self.peers.mesh.broadcast(from, CHANNEL, &delivery.payload);
            }
            Err(error) => self.refuse(&delivery, &error),
        }
    }

    /// What cannot be used is the fault of whoever said it.
    pub(super) fn refuse(&mut self, delivery: &Delivery, error: &dyn std::error::Error) {
        let Delivery { conn, ref channel, kind, .. } = *delivery;
        self.peers.mesh.refuse(self.facts.now, conn, channel, kind, error.to_string());
    }

    /// Passes on what was new, as our own state, with what comes soon after it: the more peers there are to say something, the
    /// longer that is waited for.
    fn relay_soon(&mut self, kind: Kind) {
        let from = match kind {
            Kind::Gossip { from } => Some(from),
            Kind::Unicast { .. } | Kind::Broadcast { .. } => None,
        };
        let peers = self.peers.ipam.reachable().len() as u32;
        let due = self.facts.now + RELAY_AFTER + RELAY_SHARE * peers;
        self.peers.relay = match self.peers.relay {
            None => Some((due, from)),
            Some((due, earlier)) => Some((due, earlier.filter(|_| earlier == from))),
        };
    }

    pub(super) fn relay(&mut self) {
        if let Some((_, except)) = self.peers.relay.take_if(|(due, _)| *due <= self.facts.now) {
            self.send_state(|state| Effect::Gossip(CHANNEL, Recipients::Neighbours { except }, state));
        }
    }
}
