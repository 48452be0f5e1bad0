//! The address manager of one host: what comes in, and what is to be done about it.
//!
//! It holds the parts together and decides little itself. Whatever changes the ring goes through
//! [`Allocator::settle`], which makes the space follow it, and then through the waiting questions.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
    time::Duration,
};

use ipnet::Ipv4Net;

use super::{
    Effect, Init, ReceiveError, Record, Refused, Relay, Ring, Saved, Settings, Source, StartError,
    disputes::Disputes,
    election::Election,
    excess::Excess,
    memory::Memory,
    message::{self, State, Unicast},
    paxos::Claims,
    quarantine::Quarantine,
    requests::{Requests, inner},
    ring::Entry,
    space::Space,
    told::Told,
};
use crate::{
    addr::{Address, Range, without_all},
    peer::PeerName,
    text::printable,
    time::Timestamp,
};

/// How often a host without a ring says again what it knows, in case it was not heard.
const REPEAT: Duration = Duration::from_secs(5);

/// A whole block is given rather than a part of another that is at most so many times as large.
const WHOLE_SHARE: u32 = 4;

/// Who tells somebody that broadcasts without a ring that there is one.
const ANSWERS_MAX: usize = 8;

/// Entries kept of those that are not believed, for people to see.
const UNBELIEVABLE_MAX: usize = 16;

/// Nicknames kept, and their length.
const NICKNAMES_MAX: usize = 4096;
const NICKNAME_LEN_MAX: usize = 255;

/// The address manager of one host.
#[derive(Clone, Debug)]
pub struct Allocator {
    pub(super) settings: Settings,
    pub(super) ring: Ring,
    pub(super) space: Space,
    pub(super) allocations: BTreeMap<String, Vec<Ipv4Net>>,
    pub(super) election: Election,
    pub(super) requests: Requests,
    pub(super) disputes: Disputes,
    pub(super) quarantine: Quarantine,
    pub(super) memory: Memory,
    pub(super) peers: Peers,
    pub(super) avoided: Vec<Range>,
    pub(super) leaving: bool,
    pub(super) doubts: Doubts,
    /// The last moment handed in.
    pub(super) now: Timestamp,
    pub(super) outgoing: Outgoing,
}

/// What is known of the others.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers {
    /// Where Weave Net routers share the cluster: neighbours that are none.
    kin: Option<BTreeSet<PeerName>>,
    pub nicknames: BTreeMap<PeerName, String>,
    pub reachable: BTreeSet<PeerName>,
    /// Those reachable ones whose rings are part of ours: what they give from now on is given now.
    pub heard: BTreeSet<PeerName>,
    /// Those that leave.
    pub leavers: BTreeSet<PeerName>,
}

/// What was said and is not believed.
#[derive(Clone, Debug, Default)]
pub(super) struct Doubts {
    /// What was last told or saved at a version that is not believed, by its token.
    pub unbelievable: BTreeMap<Address, (Timestamp, Entry)>,
    /// What goes beyond all bounds.
    pub excess: Excess,
}

/// What is to leave.
#[derive(Clone, Debug, Default)]
pub(super) struct Outgoing {
    effects: VecDeque<Effect>,
    /// What was told last, as it was written: much is said more than once.
    pub told: Option<Told>,
    /// When to tell the own vote again.
    repeat_at: Timestamp,
}

impl Allocator {
    /// Goes on from what was saved, or starts afresh. The caller wakes it at once.
    pub fn new(settings: Settings, saved: Saved) -> Result<Allocator, StartError> {
        let election = Election::new(&settings, saved.paxos);
        let mut ring = restore(&settings, saved.ring)?;
        let fresh = ring.is_none();
        let unbelievable = ring.as_mut().map(Ring::disbelieve).unwrap_or_default();
        let empty = Ring::empty(settings.me, settings.universe);
        let mut allocator = Allocator {
            ring: ring.unwrap_or(empty),
            space: Space::default(),
            allocations: saved.allocations,
            election,
            requests: Requests::default(),
            disputes: Disputes::default(),
            quarantine: Quarantine::default(),
            memory: if fresh { Memory::Unproven(None) } else { Memory::Read },
            peers: Peers {
                nicknames: BTreeMap::from([(settings.me, settings.nickname.clone())]),
                ..Peers::default()
            },
            avoided: Vec::new(),
            leaving: false,
            doubts: Doubts::default(),
            now: Timestamp::ZERO,
            outgoing: Outgoing::default(),
            settings,
        };
        allocator.requests.want(allocator.allocations.values().flatten().map(|net| net.addr().into()));
        let others = allocator.ring.entries().iter().map(|entry| entry.owner);
        let others = others.filter(|owner| *owner != allocator.settings.me).collect();
        allocator.quarantine.begin(saved.rest, others);
        allocator.note_unbelievable(&unbelievable);
        allocator.settle();
        Ok(allocator)
    }

    /// It is so late now.
    pub fn tick(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
    }

    /// Takes what a peer sent. On error the caller closes the connection it came on.
    pub fn receive(&mut self, now: Timestamp, source: Source, payload: &[u8]) -> Result<Relay, ReceiveError> {
        self.now = now;
        match source {
            Source::Unicast { from } => {
                match Unicast::decode(payload)? {
                    Unicast::Request(range) => self.on_request(from, range),
                    Unicast::Denied(range) if self.is_nothing(from, range) => {}
                    Unicast::Denied(range) => self.requests.on_denied(now, from, range),
                    Unicast::Update(state) => {
                        let asked_for_nothing = self.shows_its_ring(from);
                        self.on_state(source, state)?;
                        if !asked_for_nothing {
                            self.requests.on_answer(from, &self.space);
                        }
                    }
                }
                self.advance();
                Ok(Relay::Nothing)
            }
            Source::Gossip { .. } => {
                let news = self.on_state(source, State::decode(payload)?)?;
                self.advance();
                Ok(if news { Relay::State } else { Relay::Nothing })
            }
            Source::Broadcast { .. } => {
                self.on_state(source, State::decode(payload)?)?;
                self.advance();
                Ok(Relay::Same)
            }
        }
    }

    /// Says which peers a unicast can reach.
    pub fn set_reachable(&mut self, now: Timestamp, peers: BTreeSet<PeerName>) {
        self.now = now;
        self.peers.reachable = peers;
        self.peers.reachable.remove(&self.settings.me);
        self.peers.heard.retain(|peer| self.peers.reachable.contains(peer));
        self.peers.reachable.iter().for_each(|&peer| self.quarantine.meet(peer));
        self.rest_on();
        self.elect();
        self.advance();
    }

    /// Where Weave Net routers share the cluster: the peers of which it is known that they are none.
    pub fn set_kin(&mut self, kin: Option<BTreeSet<PeerName>>) {
        self.peers.kin = kin;
    }

    pub(super) fn has_routers(&self) -> bool {
        self.peers.kin.is_some()
    }

    /// With a reason, joins a ring that others made and elects nobody. Without one it takes part, and
    /// says so at once: until now it was not counted.
    pub fn hold_election(&mut self, reason: Option<String>) {
        if self.election.hold(reason) && self.ring.is_empty() && !self.leaving {
            self.tell_vote();
            self.elect();
            self.advance();
        }
    }

    /// Sets how many peers the first ring waits for.
    pub fn set_expected_peers(&mut self, expected: usize) {
        self.election.set_expected(expected);
    }

    /// Sets the ranges beneath which nothing is handed out.
    pub fn set_avoided(&mut self, ranges: Vec<Range>) {
        self.avoided = ranges;
        self.avoid();
        let usable = inner(self.settings.universe);
        let counted_none = self.ring.pieces().any(|(piece, entry)| {
            let free = || self.space.free_in(piece.intersection(usable));
            entry.owner == self.settings.me && entry.free == 0 && free() > 0
        });
        if counted_none {
            // Whoever looks for space believes that there is none here.
            self.broadcast();
        }
        self.advance();
    }

    /// Does what is due.
    pub fn wake(&mut self, now: Timestamp) {
        self.now = now;
        self.space.thaw(now);
        self.ask_the_awaited();
        self.elect();
        if self.outgoing.repeat_at == Timestamp::ZERO {
            // The start: there is nobody to hear it yet.
            self.outgoing.repeat_at = now + REPEAT;
        } else if self.repeats() && self.outgoing.repeat_at <= now {
            self.tell_vote();
            self.outgoing.repeat_at = now + REPEAT;
        }
        self.advance();
    }

    /// When it wants to be woken. Right away, after the start.
    pub fn next_wake(&self) -> Option<Timestamp> {
        let elects = self.ring.is_empty() && !self.leaving;
        let election = elects.then(|| self.election.due()).flatten();
        let started = self.outgoing.repeat_at > Timestamp::ZERO;
        let repeat = (self.repeats() || !started).then_some(self.outgoing.repeat_at);
        [election, repeat, self.requests.next_wake(), self.next_ask()].into_iter().flatten().min()
    }

    /// What is to be done next.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.outgoing.effects.pop_front()
    }

    // ===== what was received =====

    /// Returns whether it brought something that others should hear at once. Free counts and nicknames
    /// are not: they travel with whatever is gossiped next, or a busy mesh would drown in them.
    fn on_state(&mut self, source: Source, state: State) -> Result<bool, ReceiveError> {
        self.hear_nicknames(source.peer(), state.nicknames);
        if let Some(ring) = state.ring {
            return self.merge(&ring);
        }
        if !self.ring.is_empty() {
            if self.is_to_answer(source) {
                self.update(source.peer());
            }
            return Ok(false);
        }
        let Some(claims) = state.paxos else { return Ok(false) };
        Ok(self.on_claims(source, &claims))
    }

    /// Whether we tell somebody without a ring that there is one. Of all who hear a broadcast only some do: those who follow it
    /// in the order of names.
    fn is_to_answer(&self, source: Source) -> bool {
        let (me, peer) = (self.settings.me, source.peer());
        let Source::Broadcast { .. } = source else { return peer != me };
        let count = |names: (Bound<PeerName>, Bound<PeerName>)| self.peers.reachable.range(names).count();
        let between = match peer < me {
            true => count((Bound::Excluded(peer), Bound::Excluded(me))),
            false => {
                count((Bound::Excluded(peer), Bound::Unbounded))
                    + count((Bound::Unbounded, Bound::Excluded(me)))
            }
        };
        peer != me && between < ANSWERS_MAX
    }

    fn on_claims(&mut self, source: Source, claims: &Claims) -> bool {
        // What a broadcast brings may be a relay's own state under another's name.
        let neighbour = match source {
            Source::Gossip { from } | Source::Unicast { from } => Some(from),
            Source::Broadcast { .. } => None,
        };
        let news = self.election.hear(self.now, neighbour, claims);
        let passed_over = self.election.take_passed_over();
        self.doubts.excess.note(self.now, source.peer(), "promises about the first ring", passed_over);
        if news {
            self.elect();
        }
        news
    }

    pub(super) fn merge(&mut self, theirs: &Ring) -> Result<bool, ReceiveError> {
        let knew_none = self.ring.is_empty();
        let doubts = self.memory.is_doubtful() || knew_none && self.is_unproven();
        let before = (self.leaving || doubts).then(|| self.ring.clone());
        let space = &self.space;
        let merged = self.ring.merge(theirs, |range| space.uses(range))?;
        self.note_unbelievable(&merged.unbelievable);
        let mut reissued = false;
        for tied in &merged.tied {
            reissued |= self.ring.reissue(tied.token, tied.version);
        }
        self.judge_memory(&merged);
        let kin = self.peers.kin.as_ref();
        let yields = |peer| kin.is_some_and(|kin| !kin.contains(&peer));
        let rest = &self.quarantine;
        let rests = |token| rest.covers(token);
        reissued |= self.disputes.on_merge(&mut self.ring, theirs, &merged, yields, rests);
        // What they own may be all in what is refused here.
        merged.refused.iter().for_each(|claim| self.quarantine.meet(claim.owner));
        if self.quarantine.leave_out(&self.disputes.yielded(&self.ring)) {
            self.end_rest();
        }
        if merged.must_save || reissued {
            self.settle();
            self.save_ring();
            self.push(Effect::RingChanged);
        }
        if let Some(before) = before.as_ref().filter(|_| doubts) {
            self.let_old_gifts_rest(before);
        }
        if let (true, Memory::Unproven(rest)) = (knew_none, &mut self.memory) {
            *rest = self.quarantine.number();
        }
        self.hear_on_rest(theirs, merged.must_save);
        self.peers.heard.insert(theirs.holder());
        self.avoid();
        if reissued {
            self.broadcast();
        }
        if let Some(before) = before.filter(|_| self.leaving && merged.must_save) {
            self.pass_on(&before);
        }
        Ok(merged.must_save)
    }

    fn note_unbelievable(&mut self, entries: &[Entry]) {
        for entry in entries {
            if self.doubts.unbelievable.len() < UNBELIEVABLE_MAX
                || self.doubts.unbelievable.contains_key(&entry.token)
            {
                self.doubts.unbelievable.insert(entry.token, (self.now, *entry));
            }
        }
    }

    /// A peer asks for space. It always gets an answer, once there is a ring.
    fn on_request(&mut self, from: PeerName, range: Range) {
        if self.ring.is_empty() || from == self.settings.me {
            return;
        }
        let gift = if self.leaving { None } else { self.gift(range) };
        let gift = gift.or_else(|| self.stood_by(from, range)).filter(|_| !self.ring.is_full());
        if !gift.is_some_and(|gift| self.hand_over(gift, from)) {
            self.push(Effect::Unicast(from, Unicast::Denied(range).encode()));
        }
        self.update(from);
    }

    /// What to give a peer that asks for space in this range: a block that can be done without, unless that is small beside a part of
    /// another. So the peer has one block, and nobody has more than before.
    fn gift(&mut self, range: Range) -> Option<Range> {
        let whole = self.spare_blocks().into_iter().map(Range::from);
        let whole = whole.filter(|block| range.covers(*block) && block.overlaps(inner(range)));
        let whole = whole.max_by_key(|block| block.len());
        let part = self.space.gift(range, &self.ring.unmovable());
        whole.filter(|whole| part.is_none_or(|part| whole.len() >= part.len() / WHOLE_SHARE)).or(part)
    }

    /// Makes this range another's, and tells everybody. Returns whether it was ours to give.
    pub(super) fn hand_over(&mut self, gift: Range, to: PeerName) -> bool {
        if self.ring.grant(gift, to).is_err() {
            return false;
        }
        // A higher version would be a claim: what is yielded is not stood up for again.
        let yielded = self.disputes.yielded(&self.ring);
        self.ring.leave_trace(&yielded);
        self.disputes.leave_out_given(&self.ring);
        self.settle();
        self.announce();
        if self.quarantine.leave_out(&[gift]) {
            self.end_rest();
        }
        true
    }

    /// An address that another uses by its own claim, and nobody here: it rests, or two stand by its piece. It goes to no one else, so
    /// whoever leaves gives it as well.
    fn stood_by(&self, peer: PeerName, range: Range) -> Option<Range> {
        let is_one = range.len() == 1 && self.space.owns(range.start) && !self.space.uses(range);
        let stands = match self.quarantine.covers(range.start) {
            // Its own ring has to say so: of what rests a part may be a third one's.
            true => self.quarantine.is_stood_by(peer, range),
            false => self.disputes.is_stood_by(&self.ring, peer, range.start),
        };
        (is_one && stands).then_some(range)
    }

    fn hear_nicknames(&mut self, from: PeerName, heard: BTreeMap<PeerName, String>) {
        let mut passed_over = 0;
        for (peer, nickname) in heard {
            let known = self.peers.nicknames.contains_key(&peer);
            let fits =
                nickname.len() <= NICKNAME_LEN_MAX && (known || self.peers.nicknames.len() < NICKNAMES_MAX);
            passed_over += usize::from(!fits);
            if fits && peer != self.settings.me {
                self.peers.nicknames.insert(peer, printable(&nickname));
            }
        }
        self.doubts.excess.note(self.now, from, "nicknames", passed_over);
    }

    // ===== the first ring =====

    /// Votes, proposes if it is our turn, and makes the ring once its peers are chosen.
    fn elect(&mut self) {
        if !self.ring.is_empty() || self.leaving {
            return;
        }
        let present = self.election.present(&self.peers.reachable);
        let voted = self.election.vote(self.now, &present);
        let proposed = self.election.propose(self.now, &present);
        if voted || proposed {
            if let Some(claims) = self.election.ours() {
                let claims = claims.clone();
                self.push(Effect::Save(Record::Paxos(claims)));
            }
            self.tell_vote();
        }
        if let Some(peers) = self.election.consensus() {
            let ours = self.election.is_ours();
            self.begin_ring(peers);
            if ours {
                self.broadcast();
            }
        }
    }

    /// Tells everybody what we have promised and accepted, and nothing else: it is a small part of what all have.
    fn tell_vote(&mut self) {
        let Some(paxos) = self.election.our_vote() else { return self.broadcast() };
        let nicknames = BTreeMap::from([(self.settings.me, self.settings.nickname.clone())]);
        let vote = State { nicknames, paxos: Some(paxos), ..State::default() };
        self.push(Effect::Broadcast(vote.encode()));
    }

    /// Everybody who hears the votes makes the same ring, so it need not be told.
    pub(super) fn begin_ring(&mut self, peers: Vec<PeerName>) {
        self.ring = Ring::seeded(self.settings.me, self.settings.universe, peers);
        self.settle();
        self.count_free();
        self.save_ring();
        self.push(Effect::RingChanged);
    }

    /// Whether to say again what we know: while we vote, and while somebody waits.
    fn repeats(&self) -> bool {
        let waits = !matches!(self.settings.init, Init::Observer) || self.requests.is_waiting();
        self.ring.is_empty() && !self.leaving && waits
    }

    // ===== shared by the parts =====

    /// Makes the space follow the ring. An address in use that became ours is taken; one that is no
    /// longer ours is claimed from its new owner.
    pub(super) fn settle(&mut self) {
        let owned = self.ring.owned_by(self.settings.me);
        self.space.note_growth(self.now, without_all(&owned, self.space.owned()));
        let lost = self.space.set_owned(owned);
        self.requests.want(lost);
        for address in self.requests.wanted() {
            if self.space.owns(address) {
                self.space.claim(address);
                self.requests.unwant(address);
            }
        }
        self.avoid();
    }

    /// Nothing is handed out beneath a route of somebody else, where another owner stands against us, or
    /// of what rests.
    pub(super) fn avoid(&mut self) {
        let yielded = self.disputes.yielded(&self.ring);
        let resting = self.quarantine.ranges().iter().copied();
        self.space.set_avoided(self.avoided.iter().copied().chain(yielded).chain(resting));
    }

    /// Saves the ring and tells everybody, after a change of ours.
    pub(super) fn announce(&mut self) {
        self.count_free();
        self.save_ring();
        self.broadcast();
        self.push(Effect::RingChanged);
    }

    pub(super) fn broadcast(&mut self) {
        let state = self.told();
        self.push(Effect::Broadcast(state));
    }

    /// Tells one peer all we know.
    pub(super) fn update(&mut self, peer: PeerName) {
        let update = message::update(&self.told());
        self.push(Effect::Unicast(peer, update));
    }

    pub(super) fn push(&mut self, effect: Effect) {
        self.outgoing.effects.push_back(effect);
    }

    /// The first and the last address of the universe are no use to anybody, so that nobody is to ask for them.
    pub(super) fn count_free(&mut self) -> bool {
        let yielded = self.disputes.yielded(&self.ring);
        let (space, usable) = (&self.space, inner(self.settings.universe));
        let free_in = |piece: Range| space.free_in(piece.intersection(usable));
        self.ring.report_free(|piece| (!yielded.contains(&piece)).then(|| free_in(piece)))
    }

    pub(super) fn save_ring(&mut self) {
        let record = Record::Ring(self.ring.clone());
        match self.outgoing.effects.back_mut() {
            Some(Effect::Save(last @ Record::Ring(_))) => *last = record,
            _ => self.push(Effect::Save(record)),
        }
    }

    /// Who uses an address of this host.
    pub(super) fn holder(&self, address: Address) -> Option<&str> {
        if self.space.owns(address) && !self.space.used().contains(&address) {
            return None;
        }
        let mut holders = self.allocations.iter();
        let found = holders.find(|(_, nets)| nets.iter().any(|net| Address::from(net.addr()) == address));
        found.map(|(ident, _)| ident.as_str())
    }

    pub(super) fn save_allocation(&mut self, ident: &str) {
        let addresses = self.allocations.get(ident).cloned().unwrap_or_default();
        self.push(Effect::Save(Record::Allocation { ident: ident.to_owned(), addresses }));
    }

    /// A change that is refused because of what this host has become.
    pub(super) fn check_stays(&self) -> Result<(), Refused> {
        if self.leaving { Err(Refused::Leaving) } else { Ok(()) }
    }
}

fn restore(settings: &Settings, saved: Option<Ring>) -> Result<Option<Ring>, StartError> {
    let Some(ring) = saved.filter(|ring| !ring.is_empty()) else { return Ok(None) };
    ring.check()?;
    if ring.universe() != settings.universe {
        return Err(StartError::OtherUniverse { saved: ring.universe(), configured: settings.universe });
    }
    if ring.holder() != settings.me {
        return Err(StartError::OtherPeer { saved: ring.holder(), configured: settings.me });
    }
    Ok(Some(ring))
}
