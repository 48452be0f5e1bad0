//! Another key for this host's end of tunnels.

use std::sync::{Mutex, PoisonError};

use tokio::{sync::oneshot, task::spawn_blocking};
use tracing::info;

use super::{Daemon, Event};
use crate::{
    api::Answer,
    node::{
        Input,
        protocol::request::{Refusal, RefusalKind, Response},
    },
    state::TunnelKey,
    tunnel_key::{self, KeyError},
};

/// The key that is told last is the one on the disk.
static RENEWING: Mutex<()> = Mutex::new(());

impl Daemon {
    /// Makes the key beside the loop: the disk may be slow.
    pub(super) fn rotate_key(&self, reply: oneshot::Sender<Answer>) {
        if !self.node.overview().has_tunnel_key() {
            let refusal = Refusal::new(RefusalKind::Invalid, "this host has no end of tunnels")
                .hint("set [paths] tunnel = \"on\", and restart weavers");
            return drop(reply.send(Err(refusal)));
        }
        let (state, events) = (self.options.state.clone(), self.events.clone());
        spawn_blocking(move || {
            let _one_at_a_time = RENEWING.lock().unwrap_or_else(PoisonError::into_inner);
            let made = tunnel_key::renew(&state);
            // The loop is gone only when the daemon stops.
            let _ = events.blocking_send(Event::KeyMade(made, reply));
        });
    }

    /// It is on the disk: the others are told, and the device is given it.
    pub(super) fn on_key_made(&mut self, made: Result<TunnelKey, KeyError>, reply: oneshot::Sender<Answer>) {
        let answer = match made {
            Ok(key) => {
                info!(%key, "the tunnel has another key");
                self.handle(Input::Keyed(key));
                Ok(Response::Done)
            }
            Err(error) => Err(Refusal::new(RefusalKind::Failed, error.to_string())),
        };
        drop(reply.send(answer));
    }
}
