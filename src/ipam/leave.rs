//! Taking over what a dead peer owned, and giving away what we own.

use std::{collections::BTreeSet, net::Ipv4Addr};

use super::{Allocator, Effect, Record, Refused, Ring};
use crate::{
    addr::{Address, Range, without_all},
    peer::PeerName,
    time::Timestamp,
};

impl Allocator {
    /// Takes over the ranges of a dead peer without asking anybody, as Weave Net does. Returns how many
    /// addresses that were.
    pub fn forget(&mut self, now: Timestamp, peer: PeerName) -> Result<u32, Refused> {
        self.now = now;
        self.check_forget(peer)?;
        self.stand_up_to(peer);
        let taken = self.take_over(peer);
        self.rest_on();
        Ok(taken.iter().map(|range| range.len()).sum())
    }

    /// Whether a peer may be taken for dead, as far as we know.
    pub fn check_forget(&self, peer: PeerName) -> Result<(), Refused> {
        self.check_stays()?;
        if peer == self.settings.me {
            return Err(Refused::Myself { peer });
        }
        if self.peers.reachable.contains(&peer) {
            return Err(Refused::PeerAlive { peer, nickname: self.nickname_of(peer) });
        }
        if self.ring.is_empty() {
            return Err(Refused::NoRing);
        }
        let owns = self.ring.entries().iter().any(|entry| entry.owner == peer);
        let claims = self.disputes.are_with(peer);
        if !owns && !claims && !self.peers.nicknames.contains_key(&peer) {
            return Err(Refused::UnknownPeer { peer });
        }
        Ok(())
    }

    /// It was decided that a peer is dead. Its heir takes its ranges over; they rest until everybody else
    /// has shown that it knows.
    pub fn bury(&mut self, now: Timestamp, dead: PeerName, heir: PeerName) {
        self.now = now;
        let heard = self.peers.reachable.contains(&dead);
        // It is no elector any more, and that is all.
        if heir == PeerName::UNKNOWN && !self.ring.owned_by(dead).is_empty() {
            return;
        }
        // One that is heard has come back since that was decided, and owns again what it owns by now.
        if heir == self.settings.me && dead != heir && !heard && !self.leaving && !self.ring.is_empty() {
            self.begin_rest(self.ring.owned_by(dead), dead);
            self.take_over(dead);
        }
        if !heard {
            self.peers.nicknames.remove(&dead);
            self.stand_up_to(dead);
        }
        self.rest_on();
    }

    /// Says again what of ours this peer claimed, now that it is dead.
    fn stand_up_to(&mut self, dead: PeerName) {
        if self.disputes.end_with(&mut self.ring, dead) {
            self.settle();
            self.announce();
            self.advance();
        } else {
            self.avoid();
        }
    }

    /// What we own rests if we do not remember what we gave away.
    pub(super) fn quarantine_what_is_owned(&mut self) {
        let rests = |range: &Range| self.quarantine.ranges().iter().any(|resting| resting.covers(*range));
        if !self.owned().iter().all(rests) {
            self.begin_rest(self.owned(), self.settings.me);
            self.avoid();
            self.push(Effect::RingChanged);
        }
    }

    /// What came to be ours rests if we do not remember all that we gave away, and whoever had it, as far as we knew, has shown nothing
    /// before: it may have been given to us in what we do not remember, and have been given away since.
    pub(super) fn let_old_gifts_rest(&mut self, before: &Ring) {
        let me = self.settings.me;
        let known =
            before.pieces().filter(|(_, entry)| entry.owner == me || self.peers.heard.contains(&entry.owner));
        let known: Vec<Range> = known.map(|(piece, _)| piece).collect();
        let old = without_all(&self.owned(), &known);
        if !old.is_empty() {
            self.begin_rest(old, me);
            self.push(Effect::RingChanged);
        }
    }

    /// These ranges of one owner rest until everybody else has shown what of them is theirs.
    fn begin_rest(&mut self, ranges: Vec<Range>, owner: PeerName) {
        let owners = self.ring.entries().iter().map(|entry| entry.owner);
        let mut awaited: BTreeSet<PeerName> = owners.chain(self.peers.reachable.iter().copied()).collect();
        awaited.retain(|peer| *peer != owner && *peer != self.settings.me);
        self.quarantine.begin(ranges, awaited);
        self.save_rest();
    }

    fn take_over(&mut self, dead: PeerName) -> Vec<Range> {
        let taken = self.ring.transfer(dead, self.settings.me, &[]);
        self.peers.nicknames.remove(&dead);
        if !taken.is_empty() {
            self.settle();
            self.announce();
            self.advance();
        }
        taken
    }

    // ===== what rests =====

    /// Who is to be asked for its word on what rests; nobody while a look at EC2 may show that nothing need rest.
    pub fn awaited(&self) -> &BTreeSet<PeerName> {
        const NOBODY: &BTreeSet<PeerName> = &BTreeSet::new();
        if self.is_unproven() { NOBODY } else { self.quarantine.awaited() }
    }

    /// Which rest it is, if anything rests: another number, other hosts may be unconfirmed.
    pub fn quarantine_number(&self) -> Option<u64> {
        self.quarantine.number()
    }

    /// While something rests: these hosts run and are not heard; `None` if that is not known.
    pub fn set_unconfirmed(&mut self, unconfirmed: Option<BTreeSet<Ipv4Addr>>) {
        if self.quarantine.number().is_some() && self.quarantine.set_unconfirmed(unconfirmed) {
            self.end_rest();
            self.advance();
        }
    }

    /// An heir wants to hear what we own.
    pub fn tell(&mut self, heir: PeerName) {
        if !self.ring.is_empty() {
            self.update(heir);
        }
    }

    /// Waits no longer for whoever owns nothing, claims nothing of ours, and is gone.
    pub(super) fn rest_on(&mut self) {
        let (ring, reachable, disputes) = (&self.ring, &self.peers.reachable, &self.disputes);
        let owns = |peer: PeerName| ring.entries().iter().any(|entry| entry.owner == peer);
        let matters = |peer: PeerName| reachable.contains(&peer) || owns(peer) || disputes.are_with(peer);
        if self.quarantine.keep_only(matters) {
            self.end_rest();
        }
    }

    /// A peer has shown its ring, which is part of ours by now.
    pub(super) fn hear_on_rest(&mut self, theirs: &Ring, has_news: bool) {
        if has_news {
            let (ring, me) = (&self.ring, self.settings.me);
            let others = ring.entries().iter().map(|entry| entry.owner).filter(|owner| *owner != me);
            others.for_each(|owner| self.quarantine.meet(owner));
        }
        if self.quarantine.hear(&self.ring, theirs) {
            self.end_rest();
        }
        if has_news {
            self.rest_on();
        }
    }

    pub(super) fn end_rest(&mut self) {
        self.save_rest();
        self.avoid();
        if self.leaving {
            self.leave_what_came();
        }
        // Whoever looks for space believes that there is none here.
        self.broadcast();
        self.push(Effect::RingChanged);
    }

    fn save_rest(&mut self) {
        self.push(Effect::Save(Record::Quarantine(self.quarantine.ranges().to_vec())));
    }

    /// These peers have given all away, or are about to: nobody leaves anything to them.
    pub fn set_leavers(&mut self, peers: BTreeSet<PeerName>) {
        self.peers.leavers.extend(peers);
    }

    /// Gives all that we own to an heir and refuses every question from now on. What rests is given once it does not: of it something
    /// may be another's already. Returns how many addresses that were, and who has them.
    pub fn drain(&mut self, now: Timestamp) -> Result<(u32, Option<PeerName>), Refused> {
        self.now = now;
        // Asked again while something rests, it is waited for again.
        if self.quarantine.number().is_none() {
            self.check_stays()?;
        }
        self.check_unused()?;
        self.leaving = true;
        let addresses = self.owned().iter().map(|range| range.len()).sum();
        for ticket in self.requests.take_all() {
            self.push(Effect::Answer(ticket, Err(Refused::Leaving)));
        }
        let Some(heir) = self.heir().filter(|_| !self.ring.is_empty()) else { return Ok((0, None)) };
        self.leave_all_to(heir);
        Ok((addresses, Some(heir)))
    }

    /// Whether somebody has what can be given of what this host owned.
    pub fn has_heir(&self) -> bool {
        self.leaving && !self.ring.is_empty() && self.heir().is_some()
    }

    fn leave_all_to(&mut self, heir: PeerName) {
        let yielded = self.disputes.let_go(&mut self.ring);
        let given = self.ring.transfer(self.settings.me, heir, self.quarantine.ranges());
        if yielded || !given.is_empty() {
            self.settle();
            self.announce();
        }
    }

    /// What comes to be ours while we leave goes on to an heir. Whoever gave us all that it had is leaving as well.
    pub(super) fn pass_on(&mut self, before: &Ring) {
        self.peers.leavers.extend(self.ring.donors_of_all(before));
        self.leave_what_came();
    }

    fn leave_what_came(&mut self) {
        if let Some(heir) = self.heir().filter(|_| !self.owned().is_empty()) {
            self.leave_all_to(heir);
        }
    }

    fn check_unused(&self) -> Result<(), Refused> {
        let universe = self.settings.universe;
        let mut used = self
            .allocations
            .iter()
            .flat_map(|(ident, nets)| nets.iter().map(move |net| (ident, Address::from(net.addr()))));
        let inside = |&(_, address): &(&String, Address)| universe.contains(address);
        let Some((holder, address)) = used.by_ref().find(inside) else { return Ok(()) };
        let count = 1 + used.filter(inside).count();
        Err(Refused::StillInUse { count, address, holder: holder.clone() })
    }

    /// Whom to leave it to, as Weave Net chooses: an owner that is alive, anybody alive, an owner,
    /// anybody. Of those who stay.
    fn heir(&self) -> Option<PeerName> {
        let stays = |peer: &PeerName| *peer != self.settings.me && !self.peers.leavers.contains(peer);
        let owners = || self.ring.entries().iter().map(|entry| entry.owner).filter(stays);
        let known = || self.peers.nicknames.keys().copied().filter(stays);
        let alive = |peer: &PeerName| self.peers.reachable.contains(peer);
        owners()
            .find(alive)
            .or_else(|| known().find(alive))
            .or_else(|| owners().next())
            .or_else(|| known().next())
    }
}
