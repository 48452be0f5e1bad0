//! Containers that a runtime connects, each known by the runtime's own key.
//!
//! Runtimes ask again, ask late and forget to say that it is over: the same key has the same answer, and a connection that
//! could not be made leaves nothing.

use super::{
    Node,
    attach::elsewhere,
    memory::Attached,
    overview::Overview,
    request::{Connected, Refusal, RefusalKind, RequestId, Response, Wish},
    waiting::Waiter,
};
use crate::{
    addr::{Address, Range},
    state::{Far, Key, Netns, link_name},
};

impl Node {
    /// Connects the interface of a key. `link` is the address of the link of ours that ends in it already, if one does.
    pub(super) fn on_connect(&mut self, id: RequestId, netns: Netns, link: Option<Address>, wish: Wish) {
        match self.begin_connect(netns, link, wish) {
            Ok((ident, made)) => {
                self.waiting.add(self.facts.now, id, Waiter::Connect { ident, made });
                self.out.disturbed = true;
            }
            Err(refusal) => self.out.answer(id, Err(refusal)),
        }
    }

    /// The name under which it is remembered, and whether it is new.
    fn begin_connect(
        &mut self,
        netns: Netns,
        link: Option<Address>,
        wish: Wish,
    ) -> Result<(String, bool), Refusal> {
        let new = self.wished(netns.clone(), wish)?;
        let ident = new.ident.clone();
        let known = self.local.containers.all().get(&ident).filter(|one| !one.leaving).cloned();
        match known {
            Some(known) if known.is_in(&netns) => {
                if let Some(refusal) = differs(&known, &new) {
                    return Err(refusal);
                }
                if self.work.hopeless_link(&known).is_some() {
                    self.work.converge.hurry_host(self.facts.now);
                }
                return Ok((ident, false));
            }
            // The runtime has made the container anew.
            Some(known) => {
                self.let_in(new);
                self.release(&known);
            }
            None => {
                let other = self.local.containers.of_netns(&netns, &new.far.name, link).cloned();
                if let Some(other) = other {
                    // One that was found by its link alone is another's no more than ours.
                    return match other.netns {
                        Some(_) => Err(taken(&other)),
                        None => Err(forgotten(&other)),
                    };
                }
                self.let_in(new);
            }
        }
        Ok((ident, true))
    }

    fn wished(&mut self, netns: Netns, wish: Wish) -> Result<Attached, Refusal> {
        let Wish { key, address, mac, mtu, subnet, name, ports } = wish;
        let invalid = |message: String| Refusal::new(RefusalKind::Invalid, message);
        key.check().map_err(|wrong| invalid(wrong.to_string()))?;
        let range = self.facts.config.ipam.range;
        if let Some(address) = address.filter(|address| !Range::from(range).contains(*address)) {
            return Err(invalid(format!("address {address} is outside [ipam] range {range}")));
        }
        check_mtu(mtu)?;
        let ports = self.chosen_ports(&key.ident(), ports)?;
        let subnet = self.facts.named_subnet(subnet)?;
        Ok(Attached {
            ident: key.ident(),
            netns: Some(netns),
            subnet,
            far: Far { name: key.interface.clone(), mac, moved: false },
            label: name,
            ports,
            key: Some(key),
            wanted: address,
            mtu,
            ..Attached::default()
        })
    }

    /// Whether what a key stands for is as it was made; answered by a look begun now, and after what that finds is mended.
    pub(super) fn on_check(&mut self, id: RequestId, key: &Key, netns: &Netns) {
        let ident = key.ident();
        let known = self.local.containers.all().get(&ident).filter(|one| !one.leaving);
        match known {
            None => {
                let message = format!("`{ident}` is not attached");
                self.out.answer(id, Err(Refusal::new(RefusalKind::NotFound, message)));
            }
            Some(known) if !known.is_in(netns) => {
                let message = format!("`{ident}` is attached in another network namespace");
                self.out.answer(id, Err(Refusal::new(RefusalKind::Invalid, message)));
            }
            Some(_) => {
                self.work.converge.host.look_by(self.facts.now);
                self.waiting.add(self.facts.now, id, Waiter::Check { ident });
                self.out.disturbed = true;
            }
        }
    }

    /// Takes a connection back that could not be made, or that nobody waits for any more.
    pub(super) fn undo_connect(&mut self, waiter: &Waiter) {
        if let Waiter::Connect { ident, made: true } = waiter
            && let Some(attached) = self.local.containers.all().get(ident).cloned()
        {
            self.release(&attached);
        }
    }
}

impl Overview<'_> {
    /// Whether a container that is connected now would be reached, from what is known.
    pub(super) fn can_connect(&self) -> Result<Response, Refusal> {
        if self.is_ready() {
            return Ok(Response::Done);
        }
        let first = self.waits().into_iter().next();
        let what = first.as_ref().map_or("the first looks", |note| note.what.as_str());
        let refusal = Refusal::new(RefusalKind::Failed, format!("weavers is not ready: it waits for {what}"));
        let hint = first.and_then(|note| note.hint).unwrap_or_else(|| "see `weavers status`".to_owned());
        Err(refusal.hint(hint))
    }

    pub(super) fn connected(&self, ident: &str, late: bool) -> Option<Result<Response, Refusal>> {
        let answer = self.attached(ident, late)?;
        let attached = self.local.containers.all().get(ident);
        Some(answer.map(|response| match (response, attached) {
            (Response::Attached { address, mtu }, Some(attached)) => {
                let address = Address::from(address.addr());
                let mtu = attached.mtu.unwrap_or(mtu);
                let mac = attached.far.mac(address);
                Response::Connected(Connected { address, mac, mtu, link: link_name(address) })
            }
            (other, _) => other,
        }))
    }
}

/// The least that IPv4 asks of a link, and the most that a veth can be given.
const MTU_MIN: u32 = 576;
const MTU_MAX: u32 = 65_535;

/// An MTU that a link can have.
pub(super) fn check_mtu(mtu: Option<u32>) -> Result<(), Refusal> {
    match mtu.filter(|mtu| !(MTU_MIN..=MTU_MAX).contains(mtu)) {
        None => Ok(()),
        Some(mtu) => {
            let message = format!("mtu {mtu} is not between {MTU_MIN} and {MTU_MAX}");
            Err(Refusal::new(RefusalKind::Invalid, message))
        }
    }
}

/// Why an attachment is not what is asked for now.
fn differs(known: &Attached, new: &Attached) -> Option<Refusal> {
    let other = known.link_address().zip(new.wanted).filter(|(address, wanted)| address != wanted);
    match other {
        Some((address, wanted)) => {
            let message = format!("`{}` is attached already, with {address} and not {wanted}", known.ident);
            Some(Refusal::new(RefusalKind::Taken, message).hint("delete it before it is added anew"))
        }
        None => elsewhere(known, new.subnet),
    }
}

fn taken(other: &Attached) -> Refusal {
    let message = format!("interface {} in that namespace is that of `{}`", other.far.name, other.ident);
    Refusal::new(RefusalKind::Taken, message).hint(format!("run `weavers detach {}` before", other.ident))
}

fn forgotten(other: &Attached) -> Refusal {
    let message = format!("a link of ours leads there already, `{}`: its key is lost", other.ident);
    Refusal::new(RefusalKind::Taken, message).hint(format!("run `weavers detach {}` before", other.ident))
}
