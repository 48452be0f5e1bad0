//! Beside the loop: network namespaces in which somebody has an address that was lent, and which are gone. The kernel tells nobody of
//! their end, and no link of ours is in them.

use std::time::Duration;

use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::Instant,
};

use super::Event;
use crate::{
    api::Answer,
    kernel::ways,
    node::{Node, protocol::request::Request},
    state::{Key, Netns},
};

/// How often it is looked, unless somebody asks.
const LOOKS: Duration = Duration::from_secs(60);

/// When it was looked last.
#[derive(Debug, Default)]
pub(super) struct Looks(Option<Instant>);

impl Looks {
    /// Looks, if it is time to.
    pub(super) fn look_when_due(&mut self, node: &Node, events: &mpsc::Sender<Event>) {
        if self.0.is_none_or(|last| last.elapsed() >= LOOKS) {
            self.0 = Some(Instant::now());
            look(node.overview().borrowers(), events.clone(), None);
        }
    }
}

/// Looks, tells what is gone, and then asks what somebody wanted to know after that.
pub(super) fn look(
    all: Vec<(Key, Netns)>,
    events: mpsc::Sender<Event>,
    then: Option<(Request, oneshot::Sender<Answer>)>,
) {
    if all.is_empty() && then.is_none() {
        return;
    }
    tokio::spawn(async move {
        let looked = spawn_blocking(|| all.into_iter().filter(|(_, netns)| ways::is_gone(netns)).collect());
        let gone: Vec<(Key, Netns)> = looked.await.unwrap_or_default();
        let forget = (!gone.is_empty()).then(|| (Request::LeasesGone { gone }, oneshot::channel().0));
        for (request, reply) in forget.into_iter().chain(then) {
            // The loop is gone only when the daemon stops.
            let _ = events.send(Event::Found(Ok(request), reply)).await;
        }
    });
}
