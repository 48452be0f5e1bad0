//! What is asked on the control socket, and what was left there for us.

use std::time::Duration;

use tokio::sync::oneshot;

use super::{Daemon, runtimes};
use crate::{
    api::{Answer, ApiRequest, server::Call},
    kernel::netns,
    node::request::{Container, Refusal, RefusalKind, Request},
    state::{Far, Fault, Key, Netns},
};

impl Daemon {
    pub(super) fn on_call(&mut self, call: Call) {
        match call.request {
            ApiRequest::Node(Request::Apply) => self.apply(None, None, call.reply),
            ApiRequest::ApplyOnTerms { plan, confirm_timeout_ms } => {
                let patience = confirm_timeout_ms.map(Duration::from_millis);
                self.apply(plan.map(|plan| *plan), patience, call.reply);
            }
            ApiRequest::Node(request) => self.ask(request, call.reply),
            ApiRequest::Preview { config } => self.preview(&config, call.reply),
            ApiRequest::Permissions => {
                let range = self.file.config().ipam.range;
                self.hands.permissions(range, self.node.first_table(), call.reply);
            }
            ApiRequest::Reload => self.reload(Some(call.reply)),
            ApiRequest::AttachTarget { target, name, subnet } => self.ask_of(&target, call.reply, |netns| {
                let link = netns::link_into(&netns, Far::NAME);
                Request::Attach { netns, link, name, subnet }
            }),
            ApiRequest::ConnectTarget { target, wish } => {
                // What was deleted before is not meant any more.
                runtimes::forget_note(&self.socket, &wish.key);
                self.ask_of(&target, call.reply, |netns| {
                    let link = netns::link_into(&netns, &wish.key.interface);
                    Request::Connect { netns, link, wish }
                });
            }
            ApiRequest::CheckTarget { target, key } => {
                self.ask_of(&target, call.reply, |netns| Request::Check { key, netns });
            }
            ApiRequest::DetachTarget { target } => {
                let container = match netns::of_target(&target) {
                    Ok(netns) => Container::Netns { link: netns::link_into(&netns, Far::NAME), netns },
                    Err(_) => Container::Name(target),
                };
                self.ask(Request::Detach { target: container }, call.reply);
            }
        }
    }

    /// Asks something of the network namespace that a target stands for.
    fn ask_of(
        &mut self,
        target: &str,
        reply: oneshot::Sender<Answer>,
        question: impl FnOnce(Netns) -> Request,
    ) {
        match netns::of_target(target) {
            Ok(netns) => self.ask(question(netns), reply),
            Err(Fault { message, hint, .. }) => {
                let refusal = Refusal { hint, ..Refusal::new(RefusalKind::Invalid, message) };
                drop(reply.send(Err(refusal)));
            }
        }
    }

    /// What was deleted while no daemon was there. The note goes once that is done.
    pub(super) fn delete_noted(&mut self, key: Key) {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Detach { target: Container::Name(key.ident()) }, reply);
        let socket = self.socket.clone();
        tokio::spawn(async move {
            if let Ok(Ok(_)) = answer.await {
                runtimes::forget_note(&socket, &key);
            }
        });
    }
}
