//! Questions that wait for an answer, and the space asked of other peers for them.
//!
//! A question that cannot be answered from our own space names a range: the whole subnet for any
//! address of it, one address for a claim. Of each such range one peer at a time is asked, whoever has
//! most to give first; one that does not answer in time is followed by the next. A denial concerns the
//! range it names and nothing else.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ipnet::Ipv4Net;

use super::{Allocator, Ask, Effect, Init, Refused, Ticket, message::Unicast, space::Space};
use crate::{
    addr::{Address, Range},
    peer::PeerName,
    time::Timestamp,
};

/// How long a peer may take to answer before the next is asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long after a denial an address that is in use here is asked for again.
const DENIED_PAUSE: Duration = Duration::from_secs(30);
/// Blocks that can be held. Each address of one is a record.
pub const HOLDS: std::ops::RangeInclusive<u8> = 20..=29;
/// So many times as much as it takes is asked of others until a block is whole.
const HOLD_TIMES_MAX: u32 = 4;
/// Questions that may wait at one time.
const PENDING_MAX: usize = 4096;

/// What is waited for.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    pending: Vec<(Ticket, Ask)>,
    /// In use here, but not of our space.
    wanted: BTreeSet<Address>,
    sent: BTreeMap<Range, Request>,
}

/// A range that others are asked for.
#[derive(Clone, Debug, Default)]
struct Request {
    asked: Option<(PeerName, Timestamp)>,
    /// Addresses of the range that were ours when it was asked.
    owned_before: u32,
    tried: BTreeSet<PeerName>,
    denied: BTreeSet<PeerName>,
    /// Not before this is anybody asked a second time.
    again_at: Timestamp,
}

/// What became of trying a question once more.
enum Outcome {
    Answer(Result<Ipv4Net, Refused>),
    /// Until these peers, best first, have something to say on this range.
    Ask(Range, Vec<PeerName>),
    Wait,
}

impl Requests {
    /// Notes addresses that are in use here and not of our space.
    pub fn want(&mut self, addresses: impl IntoIterator<Item = Address>) {
        self.wanted.extend(addresses);
    }

    /// Forgets one of them.
    pub fn unwant(&mut self, address: Address) {
        self.wanted.remove(&address);
    }

    /// All of them.
    pub fn wanted(&self) -> Vec<Address> {
        self.wanted.iter().copied().collect()
    }

    /// Whether a question waits.
    pub fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Drops every question, and says whose they were.
    pub fn take_all(&mut self) -> Vec<Ticket> {
        self.sent.clear();
        std::mem::take(&mut self.pending).into_iter().map(|(ticket, _)| ticket).collect()
    }

    /// A peer has nothing to give in this range.
    pub fn on_denied(&mut self, now: Timestamp, from: PeerName, range: Range) {
        if let Some(request) = self.sent.get_mut(&range)
            && request.asked.is_some_and(|(asked, _)| asked == from)
        {
            request.denied.insert(from);
            request.again_at = now + DENIED_PAUSE;
        }
    }

    /// A peer has answered the oldest of what it was asked. If it gave something that is of no use
    /// (the first address of a subnet, say), it may be asked again at once: that comes to an end.
    pub fn on_answer(&mut self, from: PeerName, space: &Space) {
        let asked = |request: &Request| request.asked.filter(|&(peer, _)| peer == from);
        let sent = self.sent.iter_mut().filter(|(_, request)| asked(request).is_some());
        if let Some((&range, request)) = sent.min_by_key(|(_, request)| request.asked) {
            request.asked = None;
            if space.owned_in(range) <= request.owned_before {
                request.tried.insert(from);
            }
        }
    }

    /// When somebody else is to be asked, or somebody again.
    pub fn next_wake(&self) -> Option<Timestamp> {
        let due = |request: &Request| match request.asked {
            Some((peer, until)) if !request.denied.contains(&peer) => until,
            Some(_) | None => request.again_at,
        };
        self.sent
            .values()
            .filter(|request| !request.tried.is_empty() || request.asked.is_some())
            .map(due)
            .min()
    }
}

impl Allocator {
    /// Takes a question. Its answer is an effect, maybe right away.
    pub fn ask(&mut self, now: Timestamp, ticket: Ticket, ask: Ask) {
        self.now = now;
        let count = self.requests.pending.len();
        let refused = match self.check_stays() {
            Err(refused) => Some(refused),
            Ok(()) if count >= PENDING_MAX => Some(Refused::Busy { count }),
            Ok(()) => None,
        };
        if let Some(refused) = refused {
            return self.push(Effect::Answer(ticket, Err(refused)));
        }
        let first = !self.requests.is_waiting();
        self.requests.pending.push((ticket, ask));
        if first && self.ring.is_empty() && matches!(self.settings.init, Init::Observer) {
            // Electors of Weave Net wait until somebody asks.
            self.broadcast();
        }
        self.advance();
    }

    /// Drops a question. It gets no answer.
    pub fn cancel(&mut self, ticket: Ticket) {
        self.requests.pending.retain(|(pending, _)| *pending != ticket);
        self.advance();
    }

    /// Gives back one address of a user, or all of them, and says which.
    pub fn free(&mut self, ident: &str, address: Option<Address>) -> Result<Vec<Ipv4Net>, Refused> {
        let held = self.allocations.remove(ident);
        let held = held.ok_or_else(|| Refused::NothingHeld { ident: ident.to_owned() })?;
        let goes = |net: &Ipv4Net| address.is_none_or(|address| Address::from(net.addr()) == address);
        let (freed, kept): (Vec<_>, Vec<_>) = held.into_iter().partition(goes);
        if !kept.is_empty() {
            self.allocations.insert(ident.to_owned(), kept);
        }
        if let (true, Some(address)) = (freed.is_empty(), address) {
            return Err(Refused::NotHeld { ident: ident.to_owned(), address });
        }
        self.save_allocation(ident);
        let mut was_full = false;
        for net in &freed {
            let address = net.addr().into();
            self.space.free(self.now, address);
            self.requests.unwant(address);
            was_full |= self.ring.pieces().any(|(piece, entry)| piece.contains(address) && entry.free == 0);
        }
        if was_full {
            // Whoever looks for space believes that there is none here.
            self.broadcast();
        }
        self.advance();
        Ok(freed)
    }

    /// The next address of a subnet that could be handed out here without asking anybody, if there are `least` of them.
    pub fn spare(&self, subnet: Ipv4Net, least: u32) -> Option<Address> {
        if subnet.prefix_len() > 30 {
            return None;
        }
        let whole = Range::from(subnet.trunc());
        let hosts = Range::new(Address(whole.start.0 + 1), Address(whole.end.0 - 1));
        self.space.next_in(hosts).filter(|_| self.space.has_free(hosts, least))
    }

    /// Notes an address that was found in use on this host. It is never handed out again, and claimed
    /// from whoever owns it.
    pub fn adopt(&mut self, ident: &str, address: Ipv4Net) {
        let found = Address::from(address.addr());
        if self.holder(found).is_some() {
            return;
        }
        self.allocations.entry(ident.to_owned()).or_default().push(address);
        self.save_allocation(ident);
        if self.settings.universe.contains(found) && !self.space.claim(found) {
            self.requests.want([found]);
        }
        self.advance();
    }

    /// Tries everything that waits once more, and sees that others are asked for what is missing.
    pub(super) fn advance(&mut self) {
        let mut needed = BTreeSet::new();
        for (address, owner) in self.missing() {
            let range = single(address);
            needed.insert(range);
            self.request(range, &self.only_reachable(vec![owner]));
        }
        // Subnets of which one question has found nothing: to look through all pieces for each of the others would find no more.
        let mut barren = BTreeSet::new();
        for (ticket, ask) in std::mem::take(&mut self.requests.pending) {
            match self.attempt(&ask, &mut barren) {
                Outcome::Answer(Ok(net)) => self.push(Effect::Answer(ticket, Ok(vec![net]))),
                Outcome::Answer(Err(refused)) => self.push(Effect::Answer(ticket, Err(refused))),
                Outcome::Wait => self.requests.pending.push((ticket, ask)),
                Outcome::Ask(range, donors) => {
                    needed.insert(range);
                    self.request(range, &donors);
                    self.requests.pending.push((ticket, ask));
                }
            }
        }
        self.requests.sent.retain(|range, _| needed.contains(range));
    }

    /// Addresses in use here that another peer has to hand over: those that are not ours by the ring,
    /// and those of pieces that we yielded.
    fn missing(&self) -> Vec<(Address, PeerName)> {
        let me = self.settings.me;
        let wanted =
            self.requests.wanted.iter().filter_map(|&address| Some((address, self.ring.owner(address)?)));
        let mut missing: Vec<(Address, PeerName)> = wanted.filter(|&(_, owner)| owner != me).collect();
        for (piece, with) in self.disputes.opponents(&self.ring) {
            let used = self.space.used().range(piece.start..piece.end);
            missing.extend(used.map(|&address| (address, with)));
        }
        missing
    }

    /// Sees that one of these donors is being asked.
    fn request(&mut self, range: Range, donors: &[PeerName]) {
        let now = self.now;
        let owned = self.space.owned_in(range);
        let request = self.requests.sent.entry(range).or_default();
        if let Some((peer, until)) = request.asked {
            if until > now && donors.contains(&peer) && !request.denied.contains(&peer) {
                return;
            }
            request.tried.insert(peer);
            request.asked = None;
        }
        let mut next = donors.iter().find(|donor| !request.tried.contains(donor));
        if next.is_none() && request.again_at <= now {
            request.tried.clear();
            request.denied.clear();
            next = donors.first();
        }
        let Some(&donor) = next else { return };
        request.asked = Some((donor, now + PATIENCE));
        request.owned_before = owned;
        request.again_at = now + PATIENCE;
        self.push(Effect::Unicast(donor, Unicast::Request(range).encode()));
    }

    fn attempt(&mut self, ask: &Ask, barren: &mut BTreeSet<Range>) -> Outcome {
        match ask {
            Ask::Allocate { ident, subnet } => self.attempt_allocate(ident, subnet.trunc(), barren),
            Ask::Claim { ident, address } => self.attempt_claim(ident, *address),
            Ask::Hold { ident, subnet, prefix_len } => {
                self.attempt_hold(ident, (subnet.trunc(), *prefix_len), barren)
            }
        }
    }

    /// Each address of a block is in use from then on, so that nothing else becomes of it than of any other that is.
    fn attempt_hold(
        &mut self,
        ident: &str,
        (subnet, prefix_len): (Ipv4Net, u8),
        barren: &mut BTreeSet<Range>,
    ) -> Outcome {
        let (universe, whole) = (self.settings.universe, Range::from(subnet));
        if let Some(held) = self.lookup(ident).first() {
            return Outcome::Answer(Ok(held.trunc()));
        }
        if !whole.overlaps(universe) {
            return Outcome::Answer(Err(Refused::OutOfRange { subnet, range: universe }));
        }
        let refused = || Outcome::Answer(Err(Refused::NoBlock { subnet, prefix_len }));
        if !HOLDS.contains(&prefix_len) || prefix_len < subnet.prefix_len() {
            return refused();
        }
        if self.ring.is_empty() {
            return Outcome::Wait;
        }
        let len = 1 << (32 - prefix_len);
        if let Some(block) = self.space.free_block(whole, len) {
            return Outcome::Answer(Ok(self.record_block(ident, block, prefix_len)));
        }
        // Others give what they have in ever smaller pieces: where those add up to no block, they are not asked for the rest.
        if self.space.free_in(whole) >= len.saturating_mul(HOLD_TIMES_MAX) {
            return refused();
        }
        let outcome = self.ask_donors(whole, barren);
        outcome.unwrap_or_else(refused)
    }

    fn record_block(&mut self, ident: &str, block: Range, prefix_len: u8) -> Ipv4Net {
        let mut nets = Vec::with_capacity(block.len() as usize);
        for address in (block.start.0..block.end.0).map(Address) {
            self.space.claim(address);
            nets.push(Ipv4Net::new_assert(address.into(), prefix_len));
        }
        self.allocations.insert(ident.to_owned(), nets);
        self.save_allocation(ident);
        Ipv4Net::new_assert(block.start.into(), prefix_len)
    }

    fn attempt_allocate(&mut self, ident: &str, subnet: Ipv4Net, barren: &mut BTreeSet<Range>) -> Outcome {
        let universe = self.settings.universe;
        let whole = Range::from(subnet);
        if let Some(&net) = self.lookup(ident).iter().find(|net| subnet.contains(&net.addr())) {
            return self.held(net);
        }
        if !whole.overlaps(universe) {
            return Outcome::Answer(Err(Refused::OutOfRange { subnet, range: universe }));
        }
        if subnet.prefix_len() > 30 {
            return Outcome::Answer(Err(Refused::TooSmall { subnet }));
        }
        if self.ring.is_empty() {
            return Outcome::Wait;
        }
        if let Some(address) = self.space.allocate(self.now, inner(whole)) {
            let net = Ipv4Net::new_assert(address.into(), subnet.prefix_len());
            return Outcome::Answer(Ok(self.record(ident, net)));
        }
        let exhausted = || Outcome::Answer(Err(Refused::Exhausted { subnet }));
        self.ask_donors(whole, barren).unwrap_or_else(exhausted)
    }

    /// Whom to ask for space there; `None` where nobody has any and none is to come.
    fn ask_donors(&mut self, whole: Range, barren: &mut BTreeSet<Range>) -> Option<Outcome> {
        if barren.contains(&whole) {
            return Some(Outcome::Wait);
        }
        let mut donors = self.donors(whole);
        if let Some(request) = self.requests.sent.get(&whole) {
            donors.retain(|donor| !request.denied.contains(donor));
        }
        if donors.is_empty() {
            if !self.quarantine.ranges().iter().any(|range| range.overlaps(whole)) {
                return None;
            }
            barren.insert(whole);
            return Some(Outcome::Wait);
        }
        barren.insert(whole);
        Some(Outcome::Ask(whole, self.only_reachable(donors)))
    }

    /// What is held already. A disk that was set back remembers addresses that were given back and are another's by now.
    fn held(&self, net: Ipv4Net) -> Outcome {
        let doubtful = self.memory.may_be_old() && self.is_doubtful(net.addr().into());
        if doubtful { Outcome::Wait } else { Outcome::Answer(Ok(net)) }
    }

    fn attempt_claim(&mut self, ident: &str, net: Ipv4Net) -> Outcome {
        let (address, subnet) = (Address::from(net.addr()), net.trunc());
        if let Some(holder) = self.holder(address).map(str::to_owned) {
            let found = self.lookup(ident).iter().find(|held| held.addr() == net.addr()).copied();
            return found
                .map_or(Outcome::Answer(Err(Refused::InUse { address, holder })), |net| self.held(net));
        }
        let edge = net.addr() == subnet.network() || net.addr() == subnet.broadcast();
        if subnet.prefix_len() <= 30 && edge {
            return Outcome::Answer(Err(Refused::Reserved { address, subnet }));
        }
        if !self.settings.universe.contains(address) {
            return Outcome::Answer(Ok(self.record(ident, net)));
        }
        if self.avoided.iter().any(|avoided| avoided.contains(address)) {
            return Outcome::Answer(Err(Refused::Avoided { address }));
        }
        let Some(owner) = self.ring.owner(address) else { return Outcome::Wait };
        if owner == self.settings.me {
            // One that is avoided all the same lies in a piece that we yielded.
            let ours = !self.space.avoids(address) && self.space.claim(address);
            return if ours { Outcome::Answer(Ok(self.record(ident, net))) } else { Outcome::Wait };
        }
        let range = single(address);
        if self.requests.sent.get(&range).is_some_and(|request| request.denied.contains(&owner)) {
            let nickname = self.nickname_of(owner);
            return Outcome::Answer(Err(Refused::OwnedByPeer { address, peer: owner, nickname }));
        }
        Outcome::Ask(range, self.only_reachable(vec![owner]))
    }

    fn record(&mut self, ident: &str, net: Ipv4Net) -> Ipv4Net {
        self.allocations.entry(ident.to_owned()).or_default().push(net);
        self.save_allocation(ident);
        net
    }

    /// Who has something free in the pieces of this range, most first.
    pub(super) fn donors(&self, range: Range) -> Vec<PeerName> {
        let mut free: BTreeMap<PeerName, u64> = BTreeMap::new();
        for (piece, entry) in self.ring.pieces() {
            if piece.overlaps(range) && entry.owner != self.settings.me && entry.free > 0 {
                *free.entry(entry.owner).or_default() += u64::from(entry.free);
            }
        }
        let mut donors: Vec<PeerName> = free.keys().copied().collect();
        donors.sort_by_key(|donor| Reverse(free[donor]));
        donors
    }

    fn only_reachable(&self, mut peers: Vec<PeerName>) -> Vec<PeerName> {
        peers.retain(|peer| self.peers.reachable.contains(peer));
        peers
    }

    /// What the questions wait for.
    pub(super) fn request_waits(&self) -> Vec<(String, Option<String>)> {
        let mut waits = Vec::new();
        for (address, owner) in self.missing() {
            let what = format!("{} to hand over {address}, which is in use here", self.named(owner));
            waits.push((what, self.way_out(single(address), &[owner])));
        }
        for (_, ask) in &self.requests.pending {
            let (what, range, owners) = match ask {
                Ask::Allocate { ident, subnet } => (
                    format!("space in {subnet} for {ident}"),
                    (*subnet).into(),
                    self.donors((*subnet).into()),
                ),
                Ask::Hold { ident, subnet, prefix_len } => (
                    format!("a block /{prefix_len} of {subnet} for {ident}"),
                    (*subnet).into(),
                    self.donors((*subnet).into()),
                ),
                Ask::Claim { ident, address } => {
                    let wanted = Address::from(address.addr());
                    let owners = self.ring.owner(wanted).into_iter().collect();
                    (format!("address {wanted} for {ident}"), single(wanted), owners)
                }
            };
            let owners: Vec<PeerName> =
                owners.into_iter().filter(|owner| *owner != self.settings.me).collect();
            if owners.is_empty() {
                // It rests here, or another owner stands against us: that is a wait of its own.
                waits.push((format!("{what}, which nobody may use yet"), None));
                continue;
            }
            let names: Vec<String> = owners.iter().map(|&owner| self.named(owner)).collect();
            waits.push((format!("{what} from {}", names.join(", ")), self.way_out(range, &owners)));
        }
        waits
    }

    fn way_out(&self, range: Range, owners: &[PeerName]) -> Option<String> {
        let request = self.requests.sent.get(&range);
        if request.is_some_and(|request| owners.iter().any(|owner| request.denied.contains(owner))) {
            return Some("it is in use there as well: free it on one of the two hosts".to_owned());
        }
        let unreachable = owners.iter().all(|owner| !self.peers.reachable.contains(owner));
        unreachable.then(|| {
            let dead = owners.first().map_or_else(String::new, ToString::to_string);
            format!("it cannot be reached: bring it back, or, if it is dead, `weavers forget {dead}`")
        })
    }
}

/// What of a subnet can be handed out: neither its first address nor its last.
pub(super) fn inner(subnet: Range) -> Range {
    if subnet.len() < 4 {
        return Range::new(subnet.start, subnet.start);
    }
    Range::new(Address(subnet.start.0 + 1), Address(subnet.end.0 - 1))
}

fn single(address: Address) -> Range {
    Range::new(address, Address(address.0 + 1))
}
