//! What is asked on the control socket, and what was left there for us.

use std::time::Duration;

use tokio::sync::oneshot;

use super::{Daemon, Event, leases, runtimes};
use crate::{
    api::{Answer, ApiRequest, server::Call},
    kernel::target::{self, Found},
    node::protocol::{
        docker::Order,
        request::{Container, Refusal, RefusalKind, Request, Response},
    },
    state::{Far, Fault, Key, Kind, Port},
};

/// Ranges of ports in which is looked for those that programs have. Each port costs some microseconds of the loop.
const RANGES_MAX: usize = 16;

impl Daemon {
    pub(super) fn on_call(&mut self, mut call: Call) {
        if let Some(port) = ports_of(&call.request).iter().find(|port| runtimes::is_in_use(port)) {
            return drop(call.reply.send(Err(in_use(port))));
        }
        if let ApiRequest::Node(Request::Docker(Order::Publish { ports, in_use, .. })) = &mut call.request {
            let wide = ports.iter().filter(|range| range.is_wide()).take(RANGES_MAX);
            *in_use = wide.flat_map(|range| range.ports()).filter(runtimes::is_in_use).collect();
        }
        match call.request {
            ApiRequest::Node(Request::Apply) => self.apply(None, None, call.reply),
            ApiRequest::ApplyOnTerms { plan, confirm_timeout_ms } => {
                let patience = confirm_timeout_ms.map(Duration::from_millis);
                self.apply(plan.map(|plan| *plan), patience, call.reply);
            }
            ApiRequest::Node(Request::Collect) => {
                let then = (Request::Collect, call.reply);
                leases::look(self.node.overview().borrowers(), self.events.clone(), Some(then));
            }
            ApiRequest::Node(request) => self.ask(request, call.reply),
            ApiRequest::Preview { config } => self.preview(&config, call.reply),
            ApiRequest::Permissions => {
                let range = self.file.config().ipam.range;
                self.hands.permissions(range, self.node.overview().first_table(), call.reply);
            }
            ApiRequest::Metrics => drop(call.reply.send(Ok(self.measurements()))),
            ApiRequest::Reload => self.reload(Some(call.reply)),
            ApiRequest::RotateKey => self.rotate_key(call.reply),
            ApiRequest::AttachTarget { target, name, subnet } => {
                self.find(target, Far::NAME, call.reply, move |_, found| {
                    let (netns, link) = found.map_err(no_target)?;
                    Ok(Request::Attach { netns, link, name, subnet })
                });
            }
            ApiRequest::ConnectTarget { target, wish } => {
                // What was deleted before is not meant any more.
                runtimes::forget_note(&self.options.socket, &wish.key);
                let interface = wish.key.interface.clone();
                self.find(target, &interface, call.reply, move |_, found| {
                    let (netns, link) = found.map_err(no_target)?;
                    Ok(Request::Connect { netns, link, wish })
                });
            }
            ApiRequest::CheckTarget { target, key } => {
                self.find(target, Far::NAME, call.reply, move |_, found| {
                    let (netns, _) = found.map_err(no_target)?;
                    Ok(Request::Check { key, netns })
                });
            }
            ApiRequest::LendTarget { target, loan } => {
                runtimes::forget_note(&self.options.socket, &loan.key);
                let interface = loan.key.interface.clone();
                self.find(target, &interface, call.reply, move |_, found| {
                    let (netns, _) = found.map_err(no_target)?;
                    Ok(Request::Lend { netns, loan })
                });
            }
            // A name may be all digits, and the pid of somebody else.
            ApiRequest::DetachTarget { target } if self.node.overview().knows_container(&target) => {
                self.ask(Request::Detach { target: Container::Name(target) }, call.reply);
            }
            ApiRequest::DetachTarget { target } => {
                self.find(target, Far::NAME, call.reply, |target, found| {
                    let container = match found {
                        Ok((netns, link)) => Container::Netns { netns, link },
                        Err(_) => Container::Name(target),
                    };
                    Ok(Request::Detach { target: container })
                });
            }
        }
    }

    fn measurements(&self) -> Response {
        let mut status = self.node.status();
        self.complete(&mut status);
        let process = self.measured.process();
        Response::Metrics(self.measured.metrics.text(&self.node, &status, &process))
    }

    /// Looks where a target leads, beside the loop: its path may lie where nobody answers. Where containers may be known by their
    /// link alone, the one that ends in `interface` is looked for, too.
    fn find(
        &self,
        target: String,
        interface: &str,
        reply: oneshot::Sender<Answer>,
        request: impl FnOnce(String, Result<Found, Fault>) -> Result<Request, Refusal> + Send + 'static,
    ) {
        let events = self.events.clone();
        let interface = self.node.overview().knows_by_link().then(|| interface.to_owned());
        tokio::spawn(async move {
            let found = target::find(target.clone(), interface).await;
            // The loop is gone only when the daemon stops.
            let _ = events.send(Event::Found(request(target, found), reply)).await;
        });
    }

    /// What was deleted while no daemon was there. The note goes once that is done.
    pub(super) fn delete_noted(&mut self, key: Key) {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Detach { target: Container::Name(key.ident()) }, reply);
        let socket = self.options.socket.clone();
        tokio::spawn(async move {
            if let Ok(Ok(_)) = answer.await {
                runtimes::forget_note(&socket, &key);
            }
        });
    }
}

/// The ports of this host that a call is to lead into a container, where there is no choice, and that a program may have. Podman binds
/// those of its containers before it asks us, as long as they run.
fn ports_of(request: &ApiRequest) -> Vec<Port> {
    match request {
        ApiRequest::ConnectTarget { wish, .. } if wish.key.kind == Kind::Podman => Vec::new(),
        ApiRequest::ConnectTarget { wish, .. } => wish.ports.clone(),
        ApiRequest::Node(Request::Docker(Order::Publish { ports, .. })) => {
            ports.iter().filter(|range| !range.is_wide()).map(|range| range.first).collect()
        }
        _ => Vec::new(),
    }
}

fn in_use(port: &Port) -> Refusal {
    let message = format!("port {} is in use by a program of this host", port.of_host());
    Refusal::new(RefusalKind::Taken, message).hint("stop that program, or choose another port")
}

fn no_target(Fault { message, hint, .. }: Fault) -> Refusal {
    Refusal { hint, ..Refusal::new(RefusalKind::Invalid, message) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{node::protocol::request::Wish, state::Protocol};

    fn connect(kind: Kind) -> ApiRequest {
        let key = Key { kind, network: "w".to_owned(), id: "c".to_owned(), interface: "eth0".to_owned() };
        let port = Port { protocol: Protocol::Tcp, host_ip: None, host: 8080, container: 80 };
        let wish = Wish { ports: vec![port], ..Wish::of(key) };
        ApiRequest::ConnectTarget { target: "/run/netns/c".to_owned(), wish }
    }

    #[test]
    fn a_port_that_podman_has_bound_itself_is_not_looked_at() {
        assert_eq!(ports_of(&connect(Kind::Podman)).len(), 0);
        assert_eq!(ports_of(&connect(Kind::Cni)).len(), 1);
    }
}
