//! Containers that a runtime connects, each known by the runtime's own key.
//!
//! Runtimes ask again, ask late and forget to say that it is over: the same key has the same answer, and a connection that
//! could not be made leaves nothing.

use super::{
    attach::elsewhere,
    local::{Context, Local},
    ports::check_kinds,
};
use crate::{
    addr::{Address, Range},
    node::{
        boundary::waiting::Waiter,
        persist::memory::Attached,
        protocol::request::{Refusal, RefusalKind, Wish},
    },
    state::{Far, Key, Kind, Netns, PortRange},
};

impl Local {
    /// Connects the interface of a key. `link` is the address of the link of ours that ends in it already, if one does.
    pub(in crate::node) fn connect(
        &mut self,
        cx: &mut Context<'_>,
        netns: Netns,
        link: Option<Address>,
        wish: Wish,
    ) -> Result<Waiter, Refusal> {
        self.begin_connect(cx, netns, link, wish).map(|(ident, made)| Waiter::Connect { ident, made })
    }

    /// The name under which it is remembered, and whether it is new.
    fn begin_connect(
        &mut self,
        cx: &mut Context<'_>,
        netns: Netns,
        link: Option<Address>,
        wish: Wish,
    ) -> Result<(String, bool), Refusal> {
        let new = self.wished(cx, netns.clone(), wish)?;
        let ident = new.ident.clone();
        let known = self.containers.all().get(&ident).filter(|one| !one.leaving).cloned();
        match known {
            Some(known) if known.is_in(&netns) => {
                if let Some(refusal) = differs(&known, &new) {
                    return Err(refusal);
                }
                if cx.work.hopeless_link(&known).is_some() {
                    cx.work.converge.hurry_host(cx.facts.now);
                }
                return Ok((ident, false));
            }
            // The runtime has made the container anew.
            Some(known) => {
                self.let_in(cx, new);
                self.release(cx, &known);
            }
            None => {
                let other = self.containers.of_netns(&netns, &new.far.name, link).cloned();
                if let Some(other) = other {
                    // One that was found by its link alone is another's no more than ours.
                    return match other.netns {
                        Some(_) => Err(taken(&other)),
                        None => Err(forgotten(&other)),
                    };
                }
                self.let_in(cx, new);
            }
        }
        Ok((ident, true))
    }

    fn wished(&mut self, cx: &mut Context<'_>, netns: Netns, wish: Wish) -> Result<Attached, Refusal> {
        let Wish { key, address, mac, mtu, subnet, name, ports } = wish;
        let invalid = |message: String| Refusal::new(RefusalKind::Invalid, message);
        key.check().map_err(|wrong| invalid(wrong.to_string()))?;
        if key.kind == Kind::Ipam {
            return Err(invalid(
                "interfaces of kind ipam are another plugin's: lend it an address".to_owned(),
            ));
        }
        let range = cx.facts.config.ipam.range;
        if let Some(address) = address.filter(|address| !Range::from(range).contains(*address)) {
            return Err(invalid(format!("address {address} is outside [ipam] range {range}")));
        }
        check_mtu(mtu)?;
        let ports: Vec<PortRange> = ports.into_iter().map(PortRange::from).collect();
        check_kinds(cx.facts, &ports)?;
        let ports = self.chosen_ports(&key.ident(), ports, &[])?;
        let subnet = cx.facts.named_subnet(subnet)?;
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
    pub(in crate::node) fn check(
        &self,
        cx: &mut Context<'_>,
        key: &Key,
        netns: &Netns,
    ) -> Result<Waiter, Refusal> {
        let ident = key.ident();
        match self.containers.all().get(&ident).filter(|one| !one.leaving) {
            None => Err(Refusal::new(RefusalKind::NotFound, format!("`{ident}` is not attached"))),
            Some(known) if !known.is_in(netns) => {
                let message = format!("`{ident}` is attached in another network namespace");
                Err(Refusal::new(RefusalKind::Invalid, message))
            }
            Some(_) => {
                cx.work.converge.host.look_by(cx.facts.now);
                Ok(Waiter::Check { ident })
            }
        }
    }

    /// Takes a connection back that could not be made, or that nobody waits for any more.
    pub(in crate::node) fn undo_connect(&mut self, cx: &mut Context<'_>, waiter: &Waiter) {
        // One that waits for its name was not let in yet: whoever has the name is leaving already.
        if let Waiter::Connect { ident, made: true } = waiter
            && self.containers.successors.remove(ident).is_none()
            && let Some(attached) = self.containers.all().get(ident).cloned()
        {
            self.release(cx, &attached);
        }
        if let Waiter::Lend { ident, made: true } = waiter {
            self.end_lease(cx, ident);
        }
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
