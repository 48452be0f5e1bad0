//! What systemd is told: that we serve, how far we are, that the loop turns.

use std::{
    os::{fd::FromRawFd, unix::net::UnixListener as StdListener},
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::net::UnixListener;
use tracing::warn;

use crate::{node::Node, text::short};

/// What fits on a line of `systemctl status`.
const STATUS_LEN_MAX: usize = 400;

/// The socket for Docker that the service manager has opened before this program began: whoever calls it meanwhile waits. Asked once.
#[allow(unsafe_code)]
pub(super) fn listener() -> Option<UnixListener> {
    let descriptor = sd_notify::listen_fds().ok()?.next()?;
    // SAFETY: it was opened for this process by whoever started it, and nothing else here takes it.
    let listener = unsafe { StdListener::from_raw_fd(descriptor) };
    let taken = listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener));
    taken.inspect_err(|error| warn!(%error, "the socket of the service manager cannot be served")).ok()
}

/// The connection to the service manager; does nothing where there is none.
pub(super) struct Systemd {
    watchdog: Option<Duration>,
    said: String,
}

impl Systemd {
    pub(super) fn new() -> Systemd {
        Systemd { watchdog: sd_notify::watchdog_enabled(), said: String::new() }
    }

    /// How often the loop has to report to be held alive.
    pub(super) fn watchdog(&self) -> Duration {
        self.watchdog.map_or(Duration::MAX, |limit| limit / 2)
    }

    pub(super) fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    pub(super) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// Says what the node is at, if that has changed, and that the loop turns.
    pub(super) fn report(&mut self, node: &Node) {
        let words = in_words(node);
        if words != self.said {
            tell(&[NotifyState::Status(&words)]);
            self.said = words;
        }
        if self.watchdog.is_some() {
            tell(&[NotifyState::Watchdog]);
        }
    }
}

/// One line: each further one would be an order to the service manager.
fn in_words(node: &Node) -> String {
    if node.overview().is_converged() {
        return "converged".to_owned();
    }
    if let Some(wait) = node.overview().waits().first() {
        return short(&format!("waiting for {}", wait.what), STATUS_LEN_MAX);
    }
    node.overview()
        .problems()
        .first()
        .map_or("at work".to_owned(), |problem| short(&problem.what, STATUS_LEN_MAX))
}

fn tell(states: &[NotifyState<'_>]) {
    // Without a service manager there is nobody to tell.
    let _ = sd_notify::notify(states);
}
