//! What becomes of the dead: what EC2 says of them, what the peers agree on, and who asks for it.

use std::{collections::BTreeMap, time::Duration};

use super::peers::{News, Peers};
use crate::{
    ipam::takeover,
    mesh::{Delivery, Kind, Recipients},
    node::{
        boundary::{
            io::Output,
            out::{DEAD_CHANNEL, Effect, Out},
            waiting::{Reply, Waiter},
        },
        facts::Facts,
        persist::memory::Write,
        protocol::request::{Refusal, Response},
        reconcile::Reconcile,
    },
    peer::PeerName,
    state::{Fault, FaultKind, InstanceState},
};

/// Of an instance that EC2 just said is there it is not asked again before this.
const BELIEVED: Duration = Duration::from_secs(5);

impl Peers {
    /// Considers what changed, and carries out what follows.
    pub fn settle_dead(&mut self, facts: &Facts, out: &mut Out) -> bool {
        if !self.has_ring() {
            return false;
        }
        if !self.dead.agrees() {
            if std::mem::take(&mut self.dead.touched) {
                self.dead.note_the_silent(facts.now, facts.identity.name, &self.around(facts));
            }
            return false;
        }
        let awaited = self.ipam.awaited();
        if *self.dead.takeover.awaited() != *awaited {
            let awaited = awaited.clone();
            self.dead.takeover.set_awaited(awaited);
            self.dead.touched = true;
        }
        if std::mem::take(&mut self.dead.touched) {
            let seeds = self.ipam.ring().seeds().to_vec();
            self.dead.takeover.begin(&seeds);
            let (now, around) = (facts.now, self.around(facts));
            self.dead.note_the_silent(now, facts.identity.name, &around);
            if self.ipam.is_leaving() {
                self.shun_leavers();
            }
            self.dead.takeover.consider(now, around.view());
            if self.dead.takeover.doubts(now.before(BELIEVED), around.view()) {
                self.dead.look.look_by(now);
            }
        }
        let mut any = false;
        while let Some(effect) = self.dead.takeover.next_effect() {
            any = true;
            self.carry_out_for_the_dead(facts, out, effect);
        }
        any
    }

    fn carry_out_for_the_dead(&mut self, facts: &Facts, out: &mut Out, effect: takeover::Effect) {
        let me = facts.identity.name;
        match effect {
            takeover::Effect::Save(kept) => out.ledger.write(Write::decided(&kept)),
            takeover::Effect::SaveInstance(peer, instance) => {
                out.ledger.write(Write::instance(peer, instance.as_deref()));
            }
            takeover::Effect::Broadcast(said) => out.let_out(Effect::Broadcast(DEAD_CHANNEL, me, said)),
            takeover::Effect::Tell(peer, said) => out.let_out(Effect::Unicast(DEAD_CHANNEL, peer, said)),
            takeover::Effect::Decided(decision) => {
                self.ipam.bury(facts.now, decision.dead, decision.heir);
                out.disturbed = true;
            }
            takeover::Effect::SetBack => {
                self.ipam.set_back();
                out.disturbed = true;
            }
            takeover::Effect::Awaited(heir) => self.ipam.tell(heir),
        }
    }

    // ===== the mesh =====

    pub fn on_said(&mut self, facts: &Facts, out: &mut Out, delivery: Delivery) {
        let (from, kind) = match delivery.kind {
            Kind::Gossip { from } | Kind::Unicast { from } | Kind::Broadcast { from } => {
                (from, delivery.kind)
            }
        };
        // What the address manager has to do first.
        self.settle_ipam(facts, out);
        match self.dead.takeover.hear(facts.now, from, &delivery.payload) {
            Ok(news) => {
                // Most of what is said is known, and to consider it takes longer than to hear it.
                if news.is_some() || self.dead.takeover.has_effects() {
                    self.dead.touched = true;
                    self.news.push_back(News::Said);
                }
                if self.dead.takeover.has_forgotten() {
                    self.ipam.doubt_memory();
                }
                pass_on(out, kind, news, delivery.payload.to_vec());
            }
            Err(error) => self.refuse(facts.now, &delivery, &error),
        }
        self.settle_dead(facts, out);
    }

    /// A new neighbour hears all; from time to time some hear the gist.
    pub fn send_dead(&mut self, out: &mut Out, to: Recipients) {
        if self.dead.agrees() {
            let said = match to {
                Recipients::One(_) => self.dead.takeover.all_known(),
                Recipients::Neighbours { .. } | Recipients::Few | Recipients::Unasked => {
                    self.dead.takeover.summary()
                }
            };
            out.let_out(Effect::Gossip(DEAD_CHANNEL, to, said));
        }
    }

    // ===== EC2 =====

    /// Our own instance is asked about as well: an EC2 that does not know it is not the right one.
    pub fn look_for_instances(&mut self, facts: &Facts, out: &mut Out) {
        let Some(own) = facts.identity.instance.clone().filter(|_| self.dead.agrees()) else {
            return;
        };
        let suspects = self.dead.suspects(facts.now);
        if !suspects.is_empty() && self.dead.look.begin(facts.now) {
            self.dead.looked_for = suspects.into_iter().chain([own]).collect();
            out.outputs.push_back(Output::ObserveInstances(self.dead.looked_for.clone()));
        }
    }

    pub fn on_instances_seen(
        &mut self,
        facts: &Facts,
        result: Result<BTreeMap<String, InstanceState>, Fault>,
        interval: Duration,
    ) {
        let result = result.and_then(|there| match &facts.identity.instance {
            Some(own) if !there.contains_key(own) => Err(another_ec2(own)),
            Some(_) | None => Ok(there),
        });
        let asked = std::mem::take(&mut self.dead.looked_for);
        if let Ok(found) = &result {
            self.dead.takeover.hear_ec2(facts.now, &asked, found);
        }
        for peer in std::mem::take(&mut self.dead.wanted) {
            if self.dead.takeover.running(peer).is_none() {
                self.dead.takeover.ask(peer);
            }
        }
        self.dead.look.end(facts.now, result, interval);
        self.dead.touched = true;
    }

    // ===== who asks =====

    /// Takes over what a dead peer owns, once the others agree. With Weave Net routers in the cluster
    /// nobody is asked, as they would not.
    pub fn forget(&mut self, facts: &Facts, work: &Reconcile, out: &mut Out, peer: &str) -> Reply {
        let peer = match self.check_forget(peer) {
            Ok(peer) => peer,
            Err(refusal) => return Reply::Now(Err(refusal)),
        };
        let addresses = self.share(peer);
        let log = self.dead.takeover.log().filter(|log| addresses > 0 || log.electors().contains(&peer));
        let Some(log) = log.filter(|_| self.dead.agrees()) else {
            return self.forget_at_once(facts, out, peer);
        };
        let since = log.next();
        let can_look = facts.identity.instance.is_some() && work.converge.vpc.fault().is_none();
        if can_look && self.dead.takeover.instance(peer).is_some() {
            self.dead.wanted.insert(peer);
            self.dead.look.look_by(facts.now);
            out.disturbed = true;
        } else {
            self.dead.takeover.ask(peer);
            self.dead.touched = true;
        }
        Reply::When(Waiter::Forget { peer, addresses, since })
    }

    /// The same without the agreement of the others, on the word of whoever asks.
    pub fn forget_alone(&mut self, facts: &Facts, out: &mut Out, peer: &str) -> Reply {
        let peer = match self.check_forget(peer) {
            Ok(peer) => peer,
            Err(refusal) => return Reply::Now(Err(refusal)),
        };
        if !self.dead.agrees() || self.dead.takeover.log().is_none() {
            return self.forget_at_once(facts, out, peer);
        }
        let addresses = self.share(peer);
        let around = self.around(facts);
        self.dead.takeover.force(facts.now, around.view(), peer);
        self.settle_dead(facts, out);
        let moved = Response::Moved { addresses, to: Some(facts.identity.name) };
        Reply::Now(self.kept_by(peer).map_or(Ok(moved), Err))
    }

    fn forget_at_once(&mut self, facts: &Facts, out: &mut Out, peer: PeerName) -> Reply {
        let taken = self.ipam.forget(facts.now, peer).map_err(|refused| Refusal::from(&refused));
        self.settle_ipam(facts, out);
        out.disturbed = true;
        let to = Some(facts.identity.name);
        let moved = taken.map(|addresses| Response::Moved { addresses, to });
        Reply::Now(moved.and_then(|moved| self.kept_by(peer).map_or(Ok(moved), Err)))
    }

    /// Gives all ranges away, and leaves the electors. Returns whether there is an heir.
    pub fn give_all_away(&mut self, facts: &Facts, out: &mut Out) -> bool {
        let others: Vec<String> = self.ipam.allocations().keys().cloned().collect();
        for ident in others {
            let _ = self.ipam.free(&ident, None);
        }
        self.shun_leavers();
        // Refused where it was done before.
        let _ = self.ipam.drain(facts.now);
        self.settle_ipam(facts, out);
        self.dead.resign(facts.identity.name);
        self.ipam.has_heir()
    }

    /// What this host gives away is not to go to others that leave.
    pub fn shun_leavers(&mut self) {
        self.ipam.set_leavers(self.dead.takeover.leavers());
    }
}

/// A broadcast goes on as it came; of gossip only what was news.
fn pass_on(out: &mut Out, kind: Kind, news: Option<Vec<u8>>, payload: Vec<u8>) {
    match (kind, news) {
        (Kind::Broadcast { from }, _) => out.let_out(Effect::Broadcast(DEAD_CHANNEL, from, payload)),
        (Kind::Gossip { from }, Some(news)) => {
            let to = Recipients::Neighbours { except: Some(from) };
            out.let_out(Effect::Gossip(DEAD_CHANNEL, to, news));
        }
        (Kind::Unicast { .. }, Some(news)) => {
            let to = Recipients::Neighbours { except: None };
            out.let_out(Effect::Gossip(DEAD_CHANNEL, to, news));
        }
        (Kind::Gossip { .. } | Kind::Unicast { .. }, None) => {}
    }
}

fn another_ec2(own: &str) -> Fault {
    Fault {
        kind: FaultKind::Invalid,
        message: format!(
            "EC2 does not know {own}, on which this daemon runs: what it says of others is not believed"
        ),
        hint: Some("check [vpc] region and endpoint".to_owned()),
        request_id: None,
    }
}
