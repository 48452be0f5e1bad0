//! Who waits for an answer of the node.

use std::collections::BTreeMap;

use tokio::sync::{mpsc, oneshot};

use super::Event;
use crate::{api::Answer, node::protocol::request::RequestId};

/// The ways back to them.
#[derive(Default)]
pub(super) struct Asking {
    replies: BTreeMap<RequestId, oneshot::Sender<Answer>>,
    last: u64,
}

impl Asking {
    /// The number of a request that nobody waits for.
    pub fn next(&mut self) -> RequestId {
        self.last += 1;
        RequestId(self.last)
    }

    /// Keeps the way back to who asked, and notices when they hang up.
    pub fn wait(&mut self, mut reply: oneshot::Sender<Answer>, events: &mpsc::Sender<Event>) -> RequestId {
        let id = self.next();
        let (sender, answer) = oneshot::channel();
        self.replies.insert(id, sender);
        let events = events.clone();
        tokio::spawn(async move {
            tokio::select! {
                answer = answer => if let Ok(answer) = answer { drop(reply.send(answer)) },
                () = reply.closed() => drop(events.send(Event::Cancelled(id)).await),
            }
        });
        id
    }

    /// Who asked this, if they still wait.
    pub fn take(&mut self, id: RequestId) -> Option<oneshot::Sender<Answer>> {
        self.replies.remove(&id)
    }
}
