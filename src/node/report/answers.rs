//! What becomes of those who wait: when their wait is over, and what they are told.

use super::{overview::Overview, status::refused_step};
use crate::{
    addr::Address,
    node::{
        boundary::waiting::{HAND_OVER, HAND_OVER_LOOKS, LOOKS, Sight, Waiter},
        cluster::peers::Peers,
        facts::Leave,
        protocol::request::{Connected, Refusal, RefusalKind, Response},
        reconcile::Reconcile,
    },
    peer::PeerName,
    plan::{Change, Plan},
    state::{Fault, FaultKind, link_name},
    time::Timestamp,
};

impl Overview<'_> {
    /// The answer to whoever waits for this, if there is one.
    pub(in crate::node) fn result(
        &self,
        since: Timestamp,
        waiter: &Waiter,
        late: bool,
    ) -> Option<Result<Response, Refusal>> {
        match waiter {
            Waiter::Converged(changes) => self.converged_since(since, changes),
            Waiter::Ready => self.is_ready().then_some(Ok(Response::Done)),
            Waiter::Looks(sight) => {
                let unseen = self.work.unseen_since(since);
                let probed = self.is_probed_since(since, sight);
                (late || (unseen.is_empty() && probed)).then(|| Ok(self.told(sight, &unseen)))
            }
            Waiter::Attach { ident } => self.attached(ident, late),
            Waiter::Connect { ident, .. } => self.connected(ident, late),
            Waiter::Lend { ident, .. } => self.loan(ident, late),
            Waiter::Check { ident } => {
                let looked = late || self.work.converge.host.has_ended_since(since);
                looked.then(|| self.connected(ident, late)).flatten()
            }
            Waiter::Looked => {
                (late || self.work.converge.host.has_ended_since(since)).then_some(Ok(Response::Done))
            }
            Waiter::Detach { address } => {
                let host = self.work.converge.host.seen();
                let gone = host.is_some_and(|host| !host.links.contains_key(address))
                    && !self.local.containers.is_leaving(*address);
                (gone || late).then(|| match gone {
                    true => Ok(Response::Done),
                    false => Err(Refusal::new(
                        RefusalKind::Failed,
                        format!("the link of {address} is still there"),
                    )
                    .hint("`weavers status` names the step that fails")),
                })
            }
            &Waiter::Forget { peer, addresses, since } => self.forgotten((peer, addresses, since), late),
            &Waiter::Drain { addresses, to } => {
                let done = !self.routes_lead_here() && !self.is_resigning();
                (late || done).then(|| self.peers.drained(addresses, to))
            }
            Waiter::Reset => self.reset_done(since, late),
        }
    }

    /// Whether probes that were sent since have shown what such a sight is to tell of paths.
    fn is_probed_since(&self, since: Timestamp, sight: &Sight) -> bool {
        let probed = |peer| self.probes.prober.is_known_since(since, peer);
        match sight {
            Sight::Address(address) => self.probed_owner(*address).is_none_or(|owner| probed(Some(owner))),
            Sight::Status => probed(None),
            Sight::Plan | Sight::Preview(_) => true,
        }
    }

    pub(in crate::node) fn told(&self, sight: &Sight, unseen: &[&str]) -> Response {
        let mut plan = match sight {
            &Sight::Address(address) => return Response::Explanation(Box::new(self.explain(address))),
            Sight::Plan => {
                let mut plan = self.work.plan.clone();
                plan.notes.extend(self.coming_move());
                self.with_impact(plan)
            }
            Sight::Preview(config) => self.preview(config),
            Sight::Status => return Response::Status(Box::new(self.status())),
        };
        let late = |view: &&str| format!("{view} could not be looked at within {LOOKS:?}: as last seen");
        plan.unread.extend(unseen.iter().map(late));
        Response::Plan(Box::new(plan))
    }

    fn converged_since(&self, since: Timestamp, changes: &[Change]) -> Option<Result<Response, Refusal>> {
        let seen =
            self.work.converge.host.is_seen_since(since) && self.work.converge.vpc.is_seen_since(since);
        if seen
            && self.work.plan.is_empty()
            && !self.work.converge.is_at_work()
            && self.work.converge.is_confirmed()
        {
            let plan = Plan { changes: changes.to_vec(), ..self.work.plan.clone() };
            return Some(Ok(Response::Plan(Box::new(self.with_impact(plan)))));
        }
        let (host, vpc) = (&self.work.converge.host, &self.work.converge.vpc);
        let view_fault = host.fault_since(since).or(vpc.fault_since(since));
        if let Some(fault) = view_fault.filter(|_| !self.work.converge.is_at_work()) {
            return Some(Err(Refusal::from(fault)));
        }
        let blocked = |change: &Change| {
            let action = &change.action;
            self.work.converge.blocked(action).is_some()
                || self.work.converge.held_up(action, &self.work.plan).is_some()
        };
        if seen
            && !self.work.plan.is_empty()
            && !self.work.converge.is_at_work()
            && self.work.plan.changes.iter().all(blocked)
        {
            if let Some(first) = self.work.plan.changes.first() {
                return self.work.converge.blocked(&first.action).map(|fault| Err(fault.into()));
            }
            let refused = refused_step(self.work.plan.refused.first()?);
            let refusal = Refusal::new(RefusalKind::Failed, refused.what);
            return Some(Err(refused.hint.into_iter().fold(refusal, Refusal::hint)));
        }
        None
    }

    pub(in crate::node) fn attached(&self, ident: &str, late: bool) -> Option<Result<Response, Refusal>> {
        let Some(attached) = self.local.containers.all().get(ident) else {
            let message = format!("`{ident}` was detached before it was connected");
            return Some(Err(Refusal::new(RefusalKind::Failed, message)));
        };
        if attached.address.is_none() && !late {
            return None;
        }
        let hopeless = self.work.hopeless_link(attached);
        match (self.missing(attached), attached.address) {
            (None, Some(address)) => {
                let mtu = attached.mtu.unwrap_or(self.link_mtu());
                let ipv6 = self.ipv6_of(address.addr().into(), mtu);
                Some(Ok(Response::Attached { address, ipv6, mtu: self.link_mtu() }))
            }
            (Some(missing), _) if late || hopeless.is_some() => {
                let message =
                    format!("`{ident}` is attached, but packets cannot flow yet: missing {missing}");
                let hint = self.work.hindrance(attached).and_then(|note| note.hint).unwrap_or_else(|| {
                    "it is still being worked on: see `weavers status`, or undo it with `weavers detach`"
                        .into()
                });
                Some(Err(Refusal::new(RefusalKind::Failed, message).hint(hint)))
            }
            (Some(_) | None, _) => None,
        }
    }

    /// Nothing of ours is left on the host, and the routes are gone.
    fn reset_done(&self, since: Timestamp, late: bool) -> Option<Result<Response, Refusal>> {
        if late && let Some(refusal) = self.work.unread_routes(since) {
            return Some(Err(refusal));
        }
        // Without an instance there is no VPC.
        let read = self.facts.identity.instance.is_none() || self.work.converge.vpc.is_seen_since(since);
        let counted_on = self.is_resigning() && !late;
        let done =
            read && !self.routes_lead_here() && self.work.plan.is_empty() && !self.work.converge.is_at_work();
        if done && !counted_on {
            let both = self.work.converge.host.fault().is_none();
            return both.then_some(Ok(Response::Done));
        }
        None
    }

    /// Whether the heir of a host that leaves did not take its routes over in time, so that they are withdrawn. What an older look
    /// shows may be the heir's by now, and a call to delete a route does not say whose.
    pub(in crate::node) fn gives_up_on_heir(&self, since: Timestamp, waiter: &Waiter, late: bool) -> bool {
        let waits = *waiter == Waiter::Reset && late && self.facts.leave == Leave::HandingOver;
        waits && self.work.converge.vpc.is_seen_since(since + HAND_OVER)
    }
}

impl Overview<'_> {
    /// Whether a container that is connected now would be reached, from what is known.
    pub(in crate::node) fn can_connect(&self) -> Result<Response, Refusal> {
        if self.is_ready() {
            return Ok(Response::Done);
        }
        let first = self.waits().into_iter().next();
        let what = first.as_ref().map_or("the first looks", |note| note.what.as_str());
        let impaired = self.work.lost_paths.loses_packets(self.work.converge.host.seen())
            || self.probes.probes_reach_nobody();
        let kind = if impaired { RefusalKind::Impaired } else { RefusalKind::Failed };
        let refusal = Refusal::new(kind, format!("weavers is not ready: it waits for {what}"));
        let hint = first.and_then(|note| note.hint).unwrap_or_else(|| "see `weavers status`".to_owned());
        Err(refusal.hint(hint))
    }

    pub(in crate::node) fn connected(&self, ident: &str, late: bool) -> Option<Result<Response, Refusal>> {
        let answer = self.attached(ident, late)?;
        let attached = self.local.containers.all().get(ident);
        Some(answer.map(|response| match (response, attached) {
            (Response::Attached { address, ipv6, mtu }, Some(attached)) => {
                let address = Address::from(address.addr());
                let mtu = attached.mtu.unwrap_or(mtu);
                let mac = attached.far.mac(address);
                Response::Connected(Connected { address, ipv6, mac, mtu, link: link_name(address) })
            }
            (other, _) => other,
        }))
    }
}

impl Reconcile {
    /// Looks for what somebody waits for, where nothing else leads to it.
    pub(in crate::node) fn look_for(&mut self, now: Timestamp, since: Timestamp, waiter: &Waiter) {
        match waiter {
            Waiter::Looks(_) => self.look_at_the_vpc_last(now, since),
            Waiter::Drain { .. } | Waiter::Reset => self.watch_the_hand_over(),
            _ => {}
        }
    }

    /// What such a look finds is mended at once, and would be told no more if the host had yet to be looked at. There
    /// it matters less: the kernel tells by itself when something has changed.
    fn look_at_the_vpc_last(&mut self, now: Timestamp, since: Timestamp) {
        let vpc = &mut self.converge.vpc;
        let begun = vpc.last_begun().is_some_and(|begun| begun >= since) || vpc.has_ended_since(since);
        if self.converge.host.has_ended_since(since) && !begun {
            vpc.look_by(now);
        }
    }

    /// An heir takes one route after the other, so one look is not enough.
    fn watch_the_hand_over(&mut self) {
        let vpc = &mut self.converge.vpc;
        if let Some(begun) = vpc.seen_at().filter(|_| vpc.is_current()) {
            vpc.look_by(begun + HAND_OVER_LOOKS);
        }
    }

    /// What no look begun since has brought or failed to bring.
    fn unseen_since(&self, since: Timestamp) -> Vec<&'static str> {
        let (host, vpc) = (&self.converge.host, &self.converge.vpc);
        let views = [("the host", host.has_ended_since(since)), ("the VPC", vpc.has_ended_since(since))];
        views.into_iter().filter(|(_, ended)| !ended).map(|(view, _)| view).collect()
    }

    /// Why nobody knows whether routes still lead here, unless it passes by itself.
    fn unread_routes(&self, since: Timestamp) -> Option<Refusal> {
        let passes = |fault: &&Fault| matches!(fault.kind, FaultKind::Throttled | FaultKind::Outdated);
        let fault = self.converge.vpc.fault_since(since).filter(|fault| !passes(fault))?;
        let message = format!("routes may lead here still, as the VPC cannot be read: {}", fault.message);
        let first = fault.hint.iter().map(|hint| format!("{hint}; "));
        let hint = first.chain(["once it can be read, `weavers reset` again".to_owned()]).collect::<String>();
        Some(Refusal::new(RefusalKind::Failed, message).hint(hint))
    }
}

impl Peers {
    /// Whether what was to be given away was.
    pub(in crate::node) fn drained(&self, addresses: u32, to: Option<PeerName>) -> Result<Response, Refusal> {
        let kept: u32 = self.ipam.owned().iter().map(|range| range.len()).sum();
        if to.is_none() || kept == 0 {
            return Ok(Response::Moved { addresses, to });
        }
        if let Some((awaited, _)) = self.ipam.quarantine_wait() {
            let message = format!("{kept} addresses stay with this host, which waits for {awaited}");
            return Err(Refusal::new(RefusalKind::Failed, message).hint(
                "keep weavers running here, and bring those hosts back; `weavers forget`, on another host, those that are gone: \
                 then the addresses are given away",
            ));
        }
        let message = format!(
            "{kept} addresses stay with this host: their version in the ring is the last, which nobody can outbid"
        );
        Err(Refusal::new(RefusalKind::Failed, message)
            .hint("restart weavers here to go on with them; or `weavers reset` on every host, or another [ipam] range"))
    }
}
