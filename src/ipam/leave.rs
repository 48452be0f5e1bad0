//! Taking over what a dead peer owned, and giving away what we own.

use super::{Allocator, Effect, Refused};
use crate::{addr::Address, peer::PeerName, time::Timestamp};

impl Allocator {
    /// Takes over the ranges of a dead peer. Returns how many addresses that were.
    pub fn forget(&mut self, now: Timestamp, peer: PeerName) -> Result<u32, Refused> {
        self.now = now;
        self.check_stays()?;
        if peer == self.settings.me {
            return Err(Refused::Myself { peer });
        }
        if self.reachable.contains(&peer) {
            return Err(Refused::PeerAlive { peer, nickname: self.nickname_of(peer) });
        }
        if self.ring.is_empty() {
            return Err(Refused::NoRing);
        }
        let owns = self.ring.entries().iter().any(|entry| entry.owner == peer);
        if !owns && !self.nicknames.contains_key(&peer) {
            return Err(Refused::UnknownPeer { peer });
        }
        let taken = self.ring.transfer(peer, self.settings.me);
        self.nicknames.remove(&peer);
        if !taken.is_empty() {
            self.settle();
            self.announce();
            self.advance();
        }
        Ok(taken.iter().map(|range| range.len()).sum())
    }

    /// Gives all that we own to an heir and refuses every question from now on. Returns how many
    /// addresses that were, and who has them.
    pub fn drain(&mut self, now: Timestamp) -> Result<(u32, Option<PeerName>), Refused> {
        self.now = now;
        self.check_stays()?;
        self.check_unused()?;
        self.leaving = true;
        for ticket in self.requests.take_all() {
            self.push(Effect::Answer(ticket, Err(Refused::Leaving)));
        }
        let Some(heir) = self.heir().filter(|_| !self.ring.is_empty()) else { return Ok((0, None)) };
        let given = self.ring.transfer(self.settings.me, heir);
        if !given.is_empty() {
            self.settle();
            self.announce();
        }
        Ok((given.iter().map(|range| range.len()).sum(), Some(heir)))
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
    /// anybody.
    fn heir(&self) -> Option<PeerName> {
        let me = self.settings.me;
        let owners = || self.ring.entries().iter().map(|entry| entry.owner).filter(move |&peer| peer != me);
        let known = || self.nicknames.keys().copied().filter(move |&peer| peer != me);
        let alive = |peer: &PeerName| self.reachable.contains(peer);
        owners()
            .find(alive)
            .or_else(|| known().find(alive))
            .or_else(|| owners().next())
            .or_else(|| known().next())
    }
}
