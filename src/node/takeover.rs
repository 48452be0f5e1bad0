//! What becomes of the dead: what EC2 says of them, what the peers agree on, and who waits for that.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Node,
    facts::Leave,
    io::Output,
    memory::{Identity, Write},
    out::{CHANNEL, DEAD_CHANNEL, Effect, PROBE_CHANNEL},
    overview::Overview,
    peers::Peers,
    request::{Refusal, RefusalKind, RequestId, Response},
    status::Note,
    view::View,
    waiting::Waiter,
};
use crate::{
    config::Config,
    ipam::{
        NodeId, Refused,
        takeover::{self, Coming, TakeOver},
    },
    mesh::{Delivery, Kind, Recipients},
    peer::PeerName,
    state::{Fault, FaultKind, InstanceState},
    time::Timestamp,
};

/// Of an instance that EC2 just said is there it is not asked again before this.
const BELIEVED: Duration = Duration::from_secs(5);
/// Where nobody agrees, an owner that is not heard for so long is named.
const NAMED_AFTER: Duration = Duration::from_secs(60);

/// What a node knows of the dead.
#[derive(Debug)]
pub(super) struct Dead {
    /// Weave Net routers do not take part in agreements: where they share the cluster there are none.
    channels: &'static [&'static str],
    pub(super) takeover: TakeOver,
    look: View<BTreeMap<String, InstanceState>>,
    looked_for: BTreeSet<String>,
    /// Peers that somebody wants to be taken over from, unless EC2 says that their instances run.
    wanted: BTreeSet<PeerName>,
    /// Owners that are not heard, and since when.
    silent: BTreeMap<PeerName, Timestamp>,
    /// Something changed since it was last considered.
    touched: bool,
}

impl Dead {
    pub(super) fn new(identity: &Identity, boot: &str, saved: takeover::Saved, config: &Config) -> Dead {
        let me = NodeId { name: identity.name, uid: identity.acceptor.0 };
        let alone = config.mesh.weave_peers;
        let mut takeover = TakeOver::new(me, identity.instance.clone(), saved);
        takeover.set_boot(boot);
        Dead {
            channels: if alone { &[CHANNEL] } else { &[CHANNEL, DEAD_CHANNEL, PROBE_CHANNEL] },
            takeover,
            look: View::default(),
            looked_for: BTreeSet::new(),
            wanted: BTreeSet::new(),
            silent: BTreeMap::new(),
            touched: true,
        }
    }

    /// What the mesh is to hand us.
    pub(super) fn channels(&self) -> &'static [&'static str] {
        self.channels
    }

    /// To be considered anew.
    pub(super) fn touch(&mut self) {
        self.touched = true;
    }

    /// Why the last look at instances failed.
    pub(super) fn fault(&self) -> Option<&Fault> {
        self.look.fault()
    }

    pub(super) fn next_wake(&self, now: Timestamp) -> Option<Timestamp> {
        let looks = !self.suspects(now).is_empty();
        let look = self.look.next_look().filter(|_| looks);
        [look, self.takeover.next_wake()].into_iter().flatten().min()
    }

    /// Instances to ask EC2 about.
    fn suspects(&self, now: Timestamp) -> BTreeSet<String> {
        let wanted = self.wanted.iter().filter_map(|peer| self.takeover.instance(*peer));
        self.takeover.suspects(now).into_values().chain(wanted.map(str::to_owned)).collect()
    }

    pub(super) fn agrees(&self) -> bool {
        self.channels.contains(&DEAD_CHANNEL)
    }
}

/// What the ring and the mesh say at one moment.
struct Around {
    owners: BTreeMap<PeerName, u64>,
    reachable: BTreeSet<PeerName>,
    grace: Option<Duration>,
}

impl Around {
    fn view(&self) -> takeover::View<'_> {
        takeover::View { owners: &self.owners, reachable: &self.reachable, grace: self.grace }
    }
}

impl Node {
    /// Considers what changed, and carries out what follows.
    pub(super) fn settle_dead(&mut self) -> bool {
        if !self.peers.has_ring() {
            return false;
        }
        if !self.peers.dead.agrees() {
            if std::mem::take(&mut self.peers.dead.touched) {
                self.note_the_silent(&self.overview().around());
            }
            return false;
        }
        let awaited = self.peers.ipam.awaited();
        if *self.peers.dead.takeover.awaited() != *awaited {
            let awaited = awaited.clone();
            self.peers.dead.takeover.set_awaited(awaited);
            self.peers.dead.touched = true;
        }
        if std::mem::take(&mut self.peers.dead.touched) {
            let seeds = self.peers.ipam.ring().seeds().to_vec();
            self.peers.dead.takeover.begin(&seeds);
            let (now, around) = (self.facts.now, self.overview().around());
            self.note_the_silent(&around);
            if self.peers.ipam.is_leaving() {
                self.shun_leavers();
            }
            self.peers.dead.takeover.consider(now, around.view());
            if self.peers.dead.takeover.doubts(now.before(BELIEVED), around.view()) {
                self.peers.dead.look.look_by(now);
            }
        }
        let mut any = false;
        while let Some(effect) = self.peers.dead.takeover.next_effect() {
            any = true;
            self.carry_out_for_the_dead(effect);
        }
        any
    }

    fn carry_out_for_the_dead(&mut self, effect: takeover::Effect) {
        let me = self.facts.identity.name;
        match effect {
            takeover::Effect::Save(kept) => self.out.ledger.write(Write::decided(&kept)),
            takeover::Effect::SaveInstance(peer, instance) => {
                self.out.ledger.write(Write::instance(peer, instance.as_deref()));
            }
            takeover::Effect::Broadcast(said) => self.out.let_out(Effect::Broadcast(DEAD_CHANNEL, me, said)),
            takeover::Effect::Tell(peer, said) => self.out.let_out(Effect::Unicast(DEAD_CHANNEL, peer, said)),
            takeover::Effect::Decided(decision) => {
                self.peers.ipam.bury(self.facts.now, decision.dead, decision.heir);
                self.out.disturbed = true;
            }
            takeover::Effect::SetBack => {
                self.peers.ipam.set_back();
                self.out.disturbed = true;
            }
            takeover::Effect::Awaited(heir) => self.peers.ipam.tell(heir),
        }
    }

    fn note_the_silent(&mut self, around: &Around) {
        let me = self.facts.identity.name;
        let is_silent = |peer: &PeerName| *peer != me && !around.reachable.contains(peer);
        self.peers.dead.silent.retain(|peer, _| is_silent(peer) && around.owners.contains_key(peer));
        for &peer in around.owners.keys().filter(|peer| is_silent(peer)) {
            self.peers.dead.silent.entry(peer).or_insert(self.facts.now);
        }
    }

    // ===== the mesh =====

    pub(super) fn on_said(&mut self, delivery: Delivery) {
        let (from, kind) = match delivery.kind {
            Kind::Gossip { from } | Kind::Unicast { from } | Kind::Broadcast { from } => {
                (from, delivery.kind)
            }
        };
        // What the address manager has to do first.
        self.settle_ipam();
        match self.peers.dead.takeover.hear(self.facts.now, from, &delivery.payload) {
            Ok(news) => {
                // Most of what is said is known, and to consider it takes longer than to hear it.
                if news.is_some() || self.peers.dead.takeover.has_effects() {
                    self.peers.dead.touched = true;
                    self.probes.touch();
                }
                if self.peers.dead.takeover.has_forgotten() {
                    self.peers.ipam.doubt_memory();
                }
                self.pass_on(kind, news, delivery.payload.to_vec());
            }
            Err(error) => self.refuse(&delivery, &error),
        }
        self.settle_dead();
    }

    /// A broadcast goes on as it came; of gossip only what was news.
    fn pass_on(&mut self, kind: Kind, news: Option<Vec<u8>>, payload: Vec<u8>) {
        match (kind, news) {
            (Kind::Broadcast { from }, _) => self.out.let_out(Effect::Broadcast(DEAD_CHANNEL, from, payload)),
            (Kind::Gossip { from }, Some(news)) => {
                let to = Recipients::Neighbours { except: Some(from) };
                self.out.let_out(Effect::Gossip(DEAD_CHANNEL, to, news));
            }
            (Kind::Unicast { .. }, Some(news)) => {
                let to = Recipients::Neighbours { except: None };
                self.out.let_out(Effect::Gossip(DEAD_CHANNEL, to, news));
            }
            (Kind::Gossip { .. } | Kind::Unicast { .. }, None) => {}
        }
    }

    /// A new neighbour hears all; from time to time some hear the gist.
    pub(super) fn send_dead(&mut self, to: Recipients) {
        if self.peers.dead.agrees() {
            let said = match to {
                Recipients::One(_) => self.peers.dead.takeover.all_known(),
                Recipients::Neighbours { .. } | Recipients::Few | Recipients::Unasked => {
                    self.peers.dead.takeover.summary()
                }
            };
            self.out.let_out(Effect::Gossip(DEAD_CHANNEL, to, said));
        }
    }

    // ===== EC2 =====

    /// Our own instance is asked about as well: an EC2 that does not know it is not the right one.
    pub(super) fn look_for_instances(&mut self) {
        let Some(own) = self.facts.identity.instance.clone().filter(|_| self.peers.dead.agrees()) else {
            return;
        };
        let suspects = self.peers.dead.suspects(self.facts.now);
        if !suspects.is_empty() && self.peers.dead.look.begin(self.facts.now) {
            self.peers.dead.looked_for = suspects.into_iter().chain([own]).collect();
            self.out.outputs.push_back(Output::ObserveInstances(self.peers.dead.looked_for.clone()));
        }
    }

    pub(super) fn on_instances_seen(&mut self, result: Result<BTreeMap<String, InstanceState>, Fault>) {
        let result = result.and_then(|there| match &self.facts.identity.instance {
            Some(own) if !there.contains_key(own) => Err(another_ec2(own)),
            Some(_) | None => Ok(there),
        });
        let asked = std::mem::take(&mut self.peers.dead.looked_for);
        if let Ok(found) = &result {
            self.peers.dead.takeover.hear_ec2(self.facts.now, &asked, found);
        }
        for peer in std::mem::take(&mut self.peers.dead.wanted) {
            if self.peers.dead.takeover.running(peer).is_none() {
                self.peers.dead.takeover.ask(peer);
            }
        }
        let interval = self.jittered(self.facts.config.reconcile.interval) * 2;
        self.peers.dead.look.end(self.facts.now, result, interval);
        self.peers.dead.touched = true;
        self.out.disturbed = true;
    }

    // ===== who asks =====

    /// Takes over what a dead peer owns, once the others agree. With Weave Net routers in the cluster
    /// nobody is asked, as they would not.
    pub(super) fn on_forget(&mut self, id: RequestId, peer: &str) {
        let peer = match self.peers.check_forget(peer) {
            Ok(peer) => peer,
            Err(refusal) => return self.out.answer(id, Err(refusal)),
        };
        let addresses = self.peers.share(peer);
        let log =
            self.peers.dead.takeover.log().filter(|log| addresses > 0 || log.electors().contains(&peer));
        let Some(log) = log.filter(|_| self.peers.dead.agrees()) else {
            return self.forget_at_once(id, peer);
        };
        let since = log.next();
        let can_look = self.facts.identity.instance.is_some() && self.work.converge.vpc.fault().is_none();
        if can_look && self.peers.dead.takeover.instance(peer).is_some() {
            self.peers.dead.wanted.insert(peer);
            self.peers.dead.look.look_by(self.facts.now);
            self.out.disturbed = true;
        } else {
            self.peers.dead.takeover.ask(peer);
            self.peers.dead.touched = true;
        }
        self.waiting.add(self.facts.now, id, Waiter::Forget { peer, addresses, since });
    }

    /// The same without the agreement of the others, on the word of whoever asks.
    pub(super) fn on_forget_alone(&mut self, id: RequestId, peer: &str) {
        let peer = match self.peers.check_forget(peer) {
            Ok(peer) => peer,
            Err(refusal) => return self.out.answer(id, Err(refusal)),
        };
        if !self.peers.dead.agrees() || self.peers.dead.takeover.log().is_none() {
            return self.forget_at_once(id, peer);
        }
        let addresses = self.peers.share(peer);
        let around = self.overview().around();
        self.peers.dead.takeover.force(self.facts.now, around.view(), peer);
        self.settle_dead();
        let moved = Response::Moved { addresses, to: Some(self.facts.identity.name) };
        self.out.answer(id, self.peers.kept_by(peer).map_or(Ok(moved), Err));
    }

    fn forget_at_once(&mut self, id: RequestId, peer: PeerName) {
        let taken = self.peers.ipam.forget(self.facts.now, peer).map_err(|refused| Refusal::from(&refused));
        self.settle_ipam();
        self.out.disturbed = true;
        let to = Some(self.facts.identity.name);
        let moved = taken.map(|addresses| Response::Moved { addresses, to });
        self.out.answer(id, moved.and_then(|moved| self.peers.kept_by(peer).map_or(Ok(moved), Err)));
    }

    /// Nobody waits any more for a peer to be taken over from.
    pub(super) fn forget_wishes(&mut self) {
        let wished: BTreeSet<PeerName> = self.waiting.forgetting().collect();
        let me = self.facts.identity.name;
        self.peers.dead.wanted.retain(|peer| wished.contains(peer));
        for peer in self.peers.dead.takeover.asked().clone() {
            if peer != me && !wished.contains(&peer) {
                self.peers.dead.takeover.unask(peer);
                self.peers.dead.touched = true;
            }
        }
    }

    /// Leaves the electors, who would wait for us otherwise, or stays away from them.
    pub(super) fn resign(&mut self) {
        if self.peers.dead.agrees() {
            self.peers.dead.takeover.ask(self.facts.identity.name);
            self.peers.dead.touched = true;
        }
    }

    /// What this host gives away is not to go to others that leave.
    pub(super) fn shun_leavers(&mut self) {
        self.peers.ipam.set_leavers(self.peers.dead.takeover.leavers());
    }
}

impl Overview<'_> {
    fn around(&self) -> Around {
        let (mut owners, reachable) = (self.peers.ipam.ring().shares(), self.peers.mesh.reachable());
        // Whoever claims what is ours matters to us as much as an owner does.
        for (_, peer) in self.peers.ipam.contested() {
            owners.entry(peer).or_default();
        }
        Around { owners, reachable, grace: self.facts.config.vpc.reclaim }
    }

    // ===== what people are told =====

    /// Who is or could be taken over from.
    pub(super) fn coming(&self) -> Vec<Note> {
        if !self.peers.dead.agrees() {
            return self.silent_owners();
        }
        let around = self.around();
        let coming = self.peers.dead.takeover.coming(self.facts.now, around.view());
        let note = |coming: Coming| self.peers.note_on(&coming, around.owners.contains_key(&coming.peer));
        let untraceable = self.peers.dead.takeover.untraceable(self.facts.now, around.view());
        let unknown = untraceable.into_iter().map(|peer| Note {
            what: format!(
                "{} is not heard, and nobody knows on which instance it runs, so EC2 cannot be asked",
                self.peers.named(peer)
            ),
            hint: Some(format!("bring it back, or, if it is dead, `weavers forget {peer}`")),
        });
        coming.into_iter().map(note).chain(unknown).collect()
    }

    /// Owners of whom nothing is known but that somebody said they own something: no founder, never heard, no nickname, no
    /// instance.
    pub(super) fn unmet_owners(&self) -> Option<Note> {
        let founders = self.peers.ipam.ring().seeds();
        let late =
            self.peers.dead.silent.iter().filter(|(_, since)| self.facts.now.since(**since) >= NAMED_AFTER);
        let is_known = |peer: PeerName| {
            founders.contains(&peer)
                || self.peers.ipam.nickname(peer).is_some()
                || self.peers.dead.takeover.instance(peer).is_some()
        };
        let unmet: Vec<PeerName> = late.map(|(peer, _)| *peer).filter(|peer| !is_known(*peer)).collect();
        let first = unmet.first()?;
        let addresses: u64 = unmet.iter().map(|&peer| u64::from(self.peers.share(peer))).sum();
        let who = match unmet.len() {
            1 => format!("{first} was never met, and owns"),
            more => format!("{more} owners were never met, {first} among them, and own"),
        };
        Some(Note {
            what: format!("{who} {addresses} addresses by what some peer said"),
            hint: Some(format!(
                "`weavers ipam show` lists them; start the hosts if they are yours, otherwise `weavers forget {first}`, \
                 and so on"
            )),
        })
    }

    /// Whom nobody takes over from unless somebody says so.
    fn silent_owners(&self) -> Vec<Note> {
        let late =
            self.peers.dead.silent.iter().filter(|(_, since)| self.facts.now.since(**since) >= NAMED_AFTER);
        let note = |(&peer, _)| Note {
            what: format!(
                "{} has not contacted us, and with mesh.weave_peers its {} addresses are not taken over automatically",
                self.peers.named(peer),
                self.peers.share(peer)
            ),
            hint: Some(format!("bring it back, or, if it is dead, `weavers forget {peer}`")),
        };
        late.map(note).collect()
    }

    /// Where Weave Net routers share the cluster: neighbours that are none.
    pub(super) fn kin(&self) -> Option<BTreeSet<PeerName>> {
        let ours = self.peers.mesh.connections().filter(|view| view.version.is_some());
        self.facts.config.mesh.weave_peers.then(|| ours.filter_map(|view| view.peer).collect())
    }

    /// The answer to whoever wants a peer to be taken over from, once there is one.
    pub(super) fn forgotten(
        &self,
        (peer, addresses, since): (PeerName, u32, u64),
        late: bool,
    ) -> Option<Result<Response, Refusal>> {
        let log = self.peers.dead.takeover.log()?;
        if let Some(decision) = log.decision_on(peer, since) {
            let moved = Response::Moved { addresses, to: Some(decision.heir) };
            // What was decided is done once the ring says so.
            return match self.peers.kept_by(peer) {
                None => Some(Ok(moved)),
                Some(kept) => late.then_some(Err(kept)),
            };
        }
        if self.peers.mesh.is_reachable(peer) {
            let alive = Refused::PeerAlive { peer, nickname: self.peers.ipam.nickname_of(peer) };
            return Some(Err(Refusal::from(&alive)));
        }
        let is_asked =
            self.peers.dead.wanted.contains(&peer) || self.peers.dead.takeover.asked().contains(&peer);
        if let Some(instance) = self.peers.dead.takeover.running(peer).filter(|_| !is_asked) {
            let (nickname, instance) = (self.peers.ipam.nickname_of(peer), instance.to_owned());
            return Some(Err(Refusal::from(&Refused::InstanceRuns { peer, nickname, instance })));
        }
        late.then(|| Err(self.not_forgotten(peer)))
    }

    fn not_forgotten(&self, peer: PeerName) -> Refusal {
        let missing = self.peers.dead.takeover.missing(self.around().view(), peer);
        let missing: Vec<String> = missing.iter().map(|&peer| self.peers.named(peer)).collect();
        let message = format!(
            "the peers have not agreed that {} is dead: {} did not",
            self.peers.named(peer),
            if missing.is_empty() { "some".to_owned() } else { missing.join(", ") }
        );
        let hint = match self.peers.dead.takeover.abstains() {
            true => {
                "this host does not vote yet, as others have to show first what it may have forgotten: try again in a minute"
            }
            false => {
                "bring enough of them back; if most electors are gone for good, `weavers forget --alone`"
            }
        };
        Refusal::new(RefusalKind::Failed, message).hint(hint)
    }

    /// Whether the electors still count on us though we leave.
    pub(super) fn is_resigning(&self) -> bool {
        self.facts.leave != Leave::No
            && self.peers.dead.agrees()
            && self.peers.dead.takeover.is_resigning(&self.peers.mesh.reachable())
    }
}

impl Peers {
    fn note_on(&self, coming: &Coming, owns: bool) -> Note {
        let named = self.named(coming.peer);
        let instance = coming.instance.as_deref().unwrap_or("unknown");
        let what = if owns { "its ranges are taken over" } else { "it is removed from the electors" };
        let gone = format!("{named}: EC2 says that instance {instance} is gone");
        match coming.grace_left {
            None => Note {
                what: format!("{gone}; [vpc] reclaim is off"),
                hint: Some(format!("`weavers forget {}` takes over what it owned", coming.peer)),
            },
            Some(left) if !left.is_zero() => {
                let left = Duration::from_secs(left.as_secs().max(1));
                Note { what: format!("{gone}; {what} in {}", humantime::format_duration(left)), hint: None }
            }
            Some(_) => {
                let missing: Vec<String> = coming.missing.iter().map(|&peer| self.named(peer)).collect();
                let waits = match missing.is_empty() {
                    true => String::new(),
                    false => format!(" once enough of these agree: {}", missing.join(", ")),
                };
                Note { what: format!("{gone}; {what}{waits}"), hint: None }
            }
        }
    }

    pub(super) fn named(&self, peer: PeerName) -> String {
        match self.ipam.nickname(peer) {
            Some(nickname) => format!("{peer} ({nickname})"),
            None => peer.to_string(),
        }
    }

    fn check_forget(&self, peer: &str) -> Result<PeerName, Refusal> {
        let peer = self.find_peer(peer)?;
        match self.ipam.check_forget(peer) {
            // It owns nothing, and is counted on still.
            Err(Refused::UnknownPeer { .. }) if self.is_elector(peer) => Ok(peer),
            checked => checked.map(|()| peer).map_err(|refused| Refusal::from(&refused)),
        }
    }

    fn is_elector(&self, peer: PeerName) -> bool {
        self.dead.takeover.log().is_some_and(|log| log.electors().contains(&peer))
    }

    /// Addresses that a peer owns, or claims though they are ours.
    pub(super) fn share(&self, peer: PeerName) -> u32 {
        let contested = self.ipam.contested().into_iter().filter(|(_, with)| *with == peer);
        let contested: u64 = contested.map(|(piece, _)| u64::from(piece.len())).sum();
        let share = self.ipam.ring().shares().get(&peer).copied().unwrap_or(0) + contested;
        u32::try_from(share).unwrap_or(u32::MAX)
    }

    /// Why a peer still owns something though it was taken over from, if it does.
    fn kept_by(&self, peer: PeerName) -> Option<Refusal> {
        let kept = self.share(peer);
        let fixed = self.ipam.ring().fixed().get(&peer).copied().unwrap_or(0);
        let named = self.named(peer);
        let (why, hint) = match (kept, fixed) {
            (0, _) => return None,
            (_, 0) => (
                "they have not been taken over yet".to_owned(),
                "see `weavers ipam show`, and run the command again if it goes on".to_owned(),
            ),
            (_, fixed) => (
                format!("of {fixed} the version in the ring is the last, which nobody can outbid"),
                "leave them where they are; to have them back, `weavers reset` on every host, or another [ipam] range"
                    .to_owned(),
            ),
        };
        let message = format!("{kept} addresses still are those of {named}: {why}");
        Some(Refusal::new(RefusalKind::Failed, message).hint(hint))
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
