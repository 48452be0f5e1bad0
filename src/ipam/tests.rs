//! Address managers on a network in memory: wires that keep their order, lose messages and are cut,
//! and hosts that crash between any two effects and come back with what they saved.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use ipnet::Ipv4Net;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::time::Timestamp;

const UNIVERSE: &str = "10.32.0.0/24";

fn peer(number: u64) -> PeerName {
    PeerName::from_u64(number)
}

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

fn settings(number: u64, init: Init, expected_peers: usize) -> Settings {
    Settings {
        me: peer(number),
        nickname: format!("host{number}"),
        universe: net(UNIVERSE).into(),
        init,
        expected_peers,
        acceptor: NodeId { name: peer(number), uid: 1000 + number },
    }
}

struct Host {
    settings: Settings,
    allocator: Allocator,
    saved: Saved,
}

type Wire = (PeerName, Source, Vec<u8>);

struct Network {
    hosts: BTreeMap<PeerName, Host>,
    down: BTreeSet<PeerName>,
    cut: BTreeSet<(PeerName, PeerName)>,
    wires: VecDeque<(PeerName, Wire)>,
    now: Timestamp,
    answers: BTreeMap<Ticket, Result<Vec<Ipv4Net>, Refused>>,
    /// What was acknowledged and not freed.
    promised: BTreeMap<(PeerName, String), Ipv4Net>,
    asked: BTreeMap<Ticket, (PeerName, String)>,
    rng: ChaCha8Rng,
    /// Of a thousand messages and effects, how many get lost, and how many are a host's last.
    loss: u32,
    crash: u32,
}

impl Network {
    fn new(hosts: Vec<Settings>) -> Network {
        let mut network = Network {
            hosts: BTreeMap::new(),
            down: BTreeSet::new(),
            cut: BTreeSet::new(),
            wires: VecDeque::new(),
            now: Timestamp::ZERO,
            answers: BTreeMap::new(),
            promised: BTreeMap::new(),
            asked: BTreeMap::new(),
            rng: ChaCha8Rng::seed_from_u64(0),
            loss: 0,
            crash: 0,
        };
        for settings in hosts {
            let mut allocator = Allocator::new(settings.clone(), Saved::default()).unwrap();
            allocator.prove_memory(|_| false);
            network.hosts.insert(settings.me, Host { settings, allocator, saved: Saved::default() });
        }
        network
    }

    /// So many electors, connected, that expect each other.
    fn of(electors: u64) -> Network {
        let mut network =
            Network::new((1..=electors).map(|n| settings(n, Init::Consensus, electors as usize)).collect());
        network.connect();
        network
    }

    fn host(&mut self, number: u64) -> &mut Allocator {
        &mut self.hosts.get_mut(&peer(number)).unwrap().allocator
    }

    fn joined(&self, one: PeerName, other: PeerName) -> bool {
        let up = !self.down.contains(&one) && !self.down.contains(&other);
        one != other && up && !self.cut.contains(&(one.min(other), one.max(other)))
    }

    fn neighbours(&self, of: PeerName) -> BTreeSet<PeerName> {
        self.hosts.keys().copied().filter(|&other| self.joined(of, other)).collect()
    }

    /// All that can be reached over others as well.
    fn reachable(&self, of: PeerName) -> BTreeSet<PeerName> {
        let mut found = BTreeSet::from([of]);
        let mut next = vec![of];
        while let Some(at) = next.pop() {
            next.extend(self.neighbours(at).into_iter().filter(|&other| found.insert(other)));
        }
        found
    }

    /// Tells everybody whom it reaches; then neighbours tell each other all they know.
    fn connect(&mut self) {
        let up: Vec<PeerName> = self.hosts.keys().copied().filter(|me| !self.down.contains(me)).collect();
        for me in up {
            let reachable = self.reachable(me);
            let host = self.hosts.get_mut(&me).unwrap();
            host.allocator.set_reachable(self.now, reachable);
            host.allocator.wake(self.now);
            self.act(me);
            self.gossip(me, None);
        }
        self.run();
    }

    fn gossip(&mut self, from: PeerName, except: Option<PeerName>) {
        if self.down.contains(&from) {
            return;
        }
        let state = self.hosts.get_mut(&from).unwrap().allocator.state();
        self.act(from);
        for to in self.neighbours(from).into_iter().filter(|&to| Some(to) != except) {
            let payload = state.clone().unwrap();
            self.wires.push_back((to, (from, Source::Gossip { from }, payload)));
        }
    }

    /// Carries out the effects of a host, up to a crash.
    fn act(&mut self, me: PeerName) {
        while let Some(effect) = self.hosts.get_mut(&me).unwrap().allocator.next_effect() {
            if self.rng.random_range(0..1000) < self.crash {
                return self.restart(me);
            }
            match effect {
                Effect::Save(record) => save(&mut self.hosts.get_mut(&me).unwrap().saved, record),
                Effect::Broadcast(payload) => {
                    for to in self.neighbours(me) {
                        self.wires.push_back((to, (me, Source::Broadcast { from: me }, payload.clone())));
                    }
                }
                Effect::Unicast(to, payload) => {
                    if self.reachable(me).contains(&to) && !self.down.contains(&me) {
                        self.wires.push_back((to, (me, Source::Unicast { from: me }, payload)));
                    }
                }
                Effect::Answer(ticket, answer) => {
                    if let (Some(asker), Ok(nets)) = (self.asked.get(&ticket), &answer) {
                        self.promised.insert(asker.clone(), nets[0]);
                    }
                    self.answers.insert(ticket, answer);
                }
                Effect::RingChanged | Effect::SetBack => {}
            }
        }
    }

    fn restart(&mut self, me: PeerName) {
        let reachable = self.reachable(me);
        let host = self.hosts.get_mut(&me).unwrap();
        host.allocator = Allocator::new(host.settings.clone(), host.saved.clone()).unwrap();
        host.allocator.set_reachable(self.now, reachable);
    }

    /// Delivers until nothing is under way.
    fn run(&mut self) {
        let mut steps = 0;
        while let Some((to, (neighbour, source, payload))) = self.wires.pop_front() {
            steps += 1;
            assert!(steps < 20_000, "the hosts never fall silent");
            let lost = self.rng.random_range(0..1000) < self.loss;
            if lost || self.down.contains(&to) || !self.reachable(to).contains(&neighbour) {
                continue;
            }
            let allocator = &mut self.hosts.get_mut(&to).unwrap().allocator;
            let relay = allocator.receive(self.now, source, &payload).unwrap();
            self.act(to);
            match (relay, source) {
                (Relay::State, Source::Gossip { .. }) => self.gossip(to, Some(neighbour)),
                (Relay::Same, Source::Broadcast { from }) => self.relay(to, neighbour, from, &payload),
                (Relay::Nothing, _) => {}
                (relay, source) => panic!("{relay:?} of {source:?}"),
            }
        }
    }

    /// To those that the one before could not reach by itself; enough for a line of hosts.
    fn relay(&mut self, me: PeerName, before: PeerName, from: PeerName, payload: &[u8]) {
        for to in self.neighbours(me) {
            if to != before && !self.joined(before, to) {
                self.wires.push_back((to, (me, Source::Broadcast { from }, payload.to_vec())));
            }
        }
    }

    /// Lets time pass, waking whoever wants to be.
    fn pass(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        for _ in 0..10_000 {
            let up = self.hosts.iter().filter(|(me, _)| !self.down.contains(me));
            let due = up.filter_map(|(&me, host)| Some((host.allocator.next_wake()?, me))).min();
            let Some((at, me)) = due.filter(|&(at, _)| at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(at);
            self.hosts.get_mut(&me).unwrap().allocator.wake(self.now);
            self.act(me);
            self.run();
        }
        panic!("the hosts never sleep");
    }

    fn ask(&mut self, number: u64, ask: Ask) -> Ticket {
        let ticket = Ticket(self.asked.len() as u64 + 1);
        let (Ask::Allocate { ident, .. } | Ask::Claim { ident, .. }) = &ask;
        self.asked.insert(ticket, (peer(number), ident.clone()));
        let now = self.now;
        self.host(number).ask(now, ticket, ask);
        self.act(peer(number));
        self.run();
        ticket
    }

    fn allocate(&mut self, number: u64, ident: &str) -> Ticket {
        self.ask(number, Ask::Allocate { ident: ident.into(), subnet: net(UNIVERSE) })
    }

    fn claim(&mut self, number: u64, ident: &str, address: &str) -> Ticket {
        self.ask(number, Ask::Claim { ident: ident.into(), address: net(address) })
    }

    fn answer(&self, ticket: Ticket) -> Option<Result<String, Refused>> {
        let answer = self.answers.get(&ticket)?.clone();
        Some(answer.map(|nets| nets[0].to_string()))
    }

    fn stop(&mut self, number: u64) {
        self.down.insert(peer(number));
        let names: Vec<PeerName> = self.hosts.keys().copied().collect();
        for me in names {
            let reachable = self.reachable(me);
            self.hosts.get_mut(&me).unwrap().allocator.set_reachable(self.now, reachable);
            self.act(me);
        }
        self.run();
    }

    fn cut(&mut self, one: u64, other: u64) {
        self.cut.insert((peer(one), peer(other)));
    }

    fn owners(&mut self, number: u64) -> Vec<(String, u64)> {
        let owners = self.host(number).owners();
        owners.into_iter().map(|(range, owner)| (range.to_string(), owner.as_u64())).collect()
    }

    fn assert_agreed(&mut self) {
        let up: Vec<PeerName> = self.hosts.keys().copied().filter(|me| !self.down.contains(me)).collect();
        let first = self.hosts[&up[0]].allocator.owners();
        for me in up {
            assert_eq!(self.hosts[&me].allocator.owners(), first, "{me} differs");
        }
    }

    /// Nobody shares an address, and all that was acknowledged is still held.
    fn assert_sound(&self) {
        let mut holders: BTreeMap<Address, PeerName> = BTreeMap::new();
        for (&me, host) in &self.hosts {
            assert_eq!(host.allocator.ring().check(), Ok(()));
            for &used in host.allocator.space.used() {
                assert_eq!(host.allocator.ring().owner(used), Some(me));
                assert_eq!(holders.insert(used, me), None, "{used} has two holders");
            }
        }
        for ((me, ident), net) in &self.promised {
            assert!(self.hosts[me].allocator.lookup(ident).contains(net), "{ident} lost {net}");
            assert!(self.hosts[me].allocator.space.uses(Range::from(Ipv4Net::from(net.addr()))));
        }
    }
}

fn save(saved: &mut Saved, record: Record) {
    match record {
        Record::Ring(ring) => saved.ring = Some(ring),
        Record::Paxos(claims) => saved.paxos = Some(claims),
        Record::Allocation { ident, addresses } if addresses.is_empty() => {
            saved.allocations.remove(&ident);
        }
        Record::Allocation { ident, addresses } => {
            saved.allocations.insert(ident, addresses);
        }
        Record::Rest(ranges) => saved.rest = ranges,
    }
}

// ===== the first ring =====

#[test]
fn three_hosts_that_meet_agree_at_once() {
    let mut network = Network::of(3);
    let expected = [("10.32.0.0/25", 1), ("10.32.0.128/26", 2), ("10.32.0.192/26", 3)];
    assert_eq!(network.now, Timestamp::ZERO);
    for number in 1..=3 {
        assert_eq!(network.owners(number), expected.map(|(range, owner)| (range.to_owned(), owner)));
        assert!(network.host(number).waits().is_empty());
    }
}

#[test]
fn a_majority_waits_three_seconds_for_the_rest() {
    let mut network = Network::new((1..=3).map(|n| settings(n, Init::Consensus, 3)).collect());
    network.down.insert(peer(1));
    network.connect();
    network.pass(2);
    assert!(network.host(2).ring().is_empty());
    network.pass(2);
    assert_eq!(network.owners(3), [("10.32.0.0/25".to_owned(), 2), ("10.32.0.128/25".to_owned(), 3)]);
    network.assert_agreed();
}

#[test]
fn a_host_that_hears_only_itself_elects_nobody_unless_it_is_alone_by_configuration() {
    let mut network = Network::new(vec![settings(1, Init::Consensus, 2)]);
    network.connect();
    network.pass(600);
    assert!(network.host(1).ring().is_empty());
    let (what, hint) = network.host(1).waits().remove(0);
    assert!(what.contains("heard 1 of 2 expected peers, 2 needed: 00:00:00:00:00:01 (host1)"), "{what}");
    assert!(hint.unwrap().contains("expected_peers"));
    let mut network = Network::new(vec![settings(1, Init::Consensus, 1)]);
    network.connect();
    assert_eq!(network.owners(1), [(UNIVERSE.to_owned(), 1)]);
}

#[test]
fn the_next_lowest_proposes_when_the_lowest_falls_silent() {
    let mut network = Network::new((1..=3).map(|n| settings(n, Init::Consensus, 3)).collect());
    // The lowest is heard and believed to be there, but its proposal never leaves.
    let now = network.now;
    let mut silent = network.hosts.remove(&peer(1)).unwrap();
    let payload = silent.allocator.state().unwrap();
    network.connect();
    for number in 2..=3 {
        let all = (1..=3).map(peer).collect();
        network.host(number).set_reachable(now, all);
        let source = Source::Gossip { from: peer(1) };
        network.host(number).receive(now, source, &payload).unwrap();
    }
    network.run();
    assert!(network.host(2).ring().is_empty());
    network.pass(4);
    network.assert_agreed();
    assert_eq!(network.owners(2).len(), 3, "the silent one has its part");
}

#[test]
fn an_observer_that_is_asked_says_so_at_once() {
    let mut host = Allocator::new(settings(5, Init::Observer, 3), Saved::default()).unwrap();
    host.wake(Timestamp::ZERO);
    let ask = Ask::Allocate { ident: "c".to_owned(), subnet: net(UNIVERSE) };
    host.ask(Timestamp::ZERO, Ticket(1), ask.clone());
    let Some(Effect::Broadcast(state)) = host.next_effect() else { panic!("it asks for a ring") };
    let state = message::State::decode(&state).unwrap();
    assert!(state.paxos.is_none() && state.ring.is_none());
    host.ask(Timestamp::ZERO, Ticket(2), ask);
    assert_eq!(host.next_effect(), None, "once is enough until the next round");
}

#[test]
fn nobody_waits_for_an_elector_that_proposes_only_when_asked() {
    let mut host = Allocator::new(settings(5, Init::Consensus, 3), Saved::default()).unwrap();
    host.set_reachable(Timestamp::ZERO, BTreeSet::from([peer(1), peer(2)]));
    let idle = message::State { paxos: Some(BTreeMap::new()), ..message::State::default() }.encode();
    for from in [peer(1), peer(2)] {
        host.receive(Timestamp::ZERO, Source::Gossip { from }, &idle).unwrap();
    }
    host.wake(Timestamp::ZERO);
    let effects = std::iter::from_fn(|| host.next_effect());
    let proposed = effects.filter_map(|effect| match effect {
        Effect::Broadcast(state) => message::State::decode(&state).unwrap().paxos,
        _ => None,
    });
    assert!(proposed.flat_map(BTreeMap::into_values).any(|claims| claims.promise.exists()));
}

#[test]
fn an_observer_between_two_electors_passes_on_what_they_say() {
    let mut network = Network::new(vec![
        settings(1, Init::Consensus, 2),
        settings(2, Init::Observer, 2),
        settings(3, Init::Consensus, 2),
    ]);
    network.cut(1, 3);
    network.connect();
    network.assert_agreed();
    assert_eq!(network.owners(2), [("10.32.0.0/25".to_owned(), 1), ("10.32.0.128/25".to_owned(), 3)]);
}

#[test]
fn a_promise_is_saved_before_it_is_told_and_kept_across_a_restart() {
    let now = Timestamp::ZERO;
    let promise = paxos::ProposalId { round: 1, proposer: NodeId { name: peer(1), uid: 1001 } };
    let claims = NodeClaims { promise, ..NodeClaims::default() };
    let paxos = Some(paxos::Claims::from([(promise.proposer, claims)]));
    let payload = message::State { paxos, ..message::State::default() }.encode();

    let mut network = Network::new(vec![settings(2, Init::Consensus, 3)]);
    network.host(2).receive(now, Source::Broadcast { from: peer(1) }, &payload).unwrap();
    let effects: Vec<Effect> = std::iter::from_fn(|| network.host(2).next_effect()).collect();
    let [Effect::Save(Record::Paxos(saved)), Effect::Broadcast(_)] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    assert_eq!(saved.promise, promise);
    let saved = Saved { paxos: Some(saved.clone()), ..Saved::default() };
    let mut again = Allocator::new(settings(2, Init::Consensus, 3), saved).unwrap();
    let told = message::State::decode(&again.state().unwrap()).unwrap().paxos.unwrap();
    assert_eq!(told[&NodeId { name: peer(2), uid: 1002 }].promise, promise);
}

#[test]
fn a_host_that_must_join_elects_nobody_and_says_why() {
    let mut network = Network::new((1..=2).map(|n| settings(n, Init::Consensus, 2)).collect());
    network.host(1).hold_election(Some("route 10.32.0.0/25 leads to eni-9".to_owned()));
    network.connect();
    network.pass(60);
    assert!(network.host(2).ring().is_empty());
    assert!(network.host(1).waits()[0].0.contains("eni-9"));
    network.host(1).hold_election(None);
    network.connect();
    network.assert_agreed();
    assert_eq!(network.owners(2).len(), 2);
}

#[test]
fn seeds_make_the_ring_without_an_election() {
    let seeds = vec![peer(2), peer(1)];
    let mut network = Network::new((1..=2).map(|n| settings(n, Init::Seed(seeds.clone()), 2)).collect());
    network.connect();
    assert_eq!(network.owners(1), [("10.32.0.0/25".to_owned(), 1), ("10.32.0.128/25".to_owned(), 2)]);
    network.assert_agreed();
}

/// Two seeds; the first gave an address to the second and then lost its store.
fn forgetful_seed() -> Network {
    let seeds = vec![peer(1), peer(2)];
    let mut network = Network::new((1..=2).map(|n| settings(n, Init::Seed(seeds.clone()), 2)).collect());
    network.connect();
    let ticket = network.claim(2, "web", "10.32.0.7/24");
    assert_eq!(network.answer(ticket), Some(Ok("10.32.0.7/24".to_owned())));
    network.hosts.get_mut(&peer(1)).unwrap().saved = Saved::default();
    network.down.insert(peer(2));
    network.restart(peer(1));
    network
}

#[test]
fn a_seed_without_a_memory_makes_no_ring_before_traces_of_an_earlier_life_were_looked_for() {
    let mut network = forgetful_seed();
    network.pass(60);
    assert!(network.host(1).ring().is_empty());
    network.host(1).prove_memory(|owned| {
        assert_eq!(owned, [Range::from(net("10.32.0.0/25"))], "what would be its own");
        false
    });
    assert_eq!(network.host(1).resting(), []);
}

#[test]
fn a_seed_that_lost_its_store_uses_nothing_before_every_owner_has_shown_what_it_was_given() {
    let mut network = forgetful_seed();
    network.host(1).prove_memory(|_| true);
    network.host(1).set_strangers(Some(BTreeSet::new()));
    let ticket = network.claim(1, "db", "10.32.0.7/24");
    network.pass(60);
    assert_eq!(network.answer(ticket), None);
    network.down.clear();
    network.connect();
    assert_eq!(network.host(1).resting(), []);
    assert!(matches!(network.answer(ticket), Some(Err(_))), "it is the other's");
    network.assert_agreed();
    network.assert_sound();
}

/// 1 - 2 - 3, with a Weave Net router in the middle maybe: the third owns something, is far, and never says so by itself. The first
/// lost its store, and what it gave the third meanwhile.
#[test]
fn a_far_owner_among_weave_net_routers_is_asked_for_its_ring_and_gives_nothing_away() {
    let seeds = vec![peer(1), peer(2), peer(3)];
    let mut network = Network::new((1..=3).map(|n| settings(n, Init::Seed(seeds.clone()), 3)).collect());
    network.cut(1, 3);
    network.connect();
    let ticket = network.claim(3, "web", "10.32.0.7/24");
    assert_eq!(network.answer(ticket), Some(Ok("10.32.0.7/24".to_owned())));
    network.hosts.get_mut(&peer(1)).unwrap().saved = Saved::default();
    network.restart(peer(1));
    network.host(1).prove_memory(|_| true);
    network.host(1).set_strangers(Some(BTreeSet::new()));
    network.connect();
    network.pass(60);
    assert_ne!(network.host(1).resting(), [], "the far one has shown nothing");
    let owned = network.host(3).owned();
    network.host(1).set_kin(Some(BTreeSet::new()));
    network.pass(60);
    assert_eq!(network.host(1).resting(), []);
    assert_eq!(network.host(3).owned(), owned);
    network.assert_agreed();
    network.assert_sound();
    assert_eq!(network.host(1).next_wake(), None, "nobody is asked any more");
}

#[test]
fn of_many_owners_among_weave_net_routers_some_are_asked_at_a_time() {
    let seeds: Vec<PeerName> = (1..=100).map(peer).collect();
    let mut host = Allocator::new(settings(1, Init::Seed(seeds.clone()), 3), Saved::default()).unwrap();
    host.set_kin(Some(BTreeSet::new()));
    host.set_reachable(Timestamp::ZERO, seeds.iter().copied().collect());
    host.prove_memory(|_| true);
    let mut asked: Vec<PeerName> = Vec::new();
    let mut now = Timestamp::ZERO;
    for round in 1..=4 {
        now = host.next_wake().unwrap().max(now);
        host.wake(now);
        let effects = std::iter::from_fn(|| host.next_effect());
        asked.extend(effects.filter_map(|effect| match effect {
            Effect::Unicast(to, payload) => {
                assert!(matches!(message::Unicast::decode(&payload), Ok(message::Unicast::Request(_))));
                Some(to)
            }
            _ => None,
        }));
        assert!(asked.len() <= 32 * round);
    }
    assert_eq!(asked.iter().copied().collect::<BTreeSet<PeerName>>().len(), 99, "{asked:?}");
}

#[test]
fn what_is_heard_to_be_its_own_rests_until_a_host_without_a_memory_is_known_to_be_new() {
    let seeds = vec![peer(1), peer(2)];
    let mut network = Network::new((1..=3).map(|n| settings(n, Init::Seed(seeds.clone()), 2)).collect());
    network.down.insert(peer(3));
    network.hosts.get_mut(&peer(1)).unwrap().saved = Saved::default();
    network.restart(peer(1));
    network.connect();
    assert_eq!(network.host(1).resting(), [Range::from(net("10.32.0.0/25"))]);
    network.host(1).prove_memory(|_| false);
    assert_eq!(network.host(1).resting(), []);
}

/// Three hosts; the disk of the second is one that was copied before it gave two addresses to the first, which is down. The third
/// heard of one gift, not of the other.
fn set_back(heard: &str, unheard: &str) -> Network {
    let mut network = Network::of(3);
    let copy = network.hosts[&peer(2)].saved.clone();
    let ticket = network.claim(1, "heard", heard);
    assert!(matches!(network.answer(ticket), Some(Ok(_))));
    network.cut(1, 3);
    network.cut(2, 3);
    let ticket = network.claim(1, "unheard", unheard);
    assert!(matches!(network.answer(ticket), Some(Ok(_))));
    network.stop(1);
    network.hosts.get_mut(&peer(2)).unwrap().saved = copy;
    network.restart(peer(2));
    network.cut.clear();
    network.connect();
    network
}

#[test]
fn a_host_whose_disk_was_set_back_uses_nothing_before_every_owner_has_shown_what_it_was_given() {
    // The second gift begins where a piece does: all that stays is a piece of which the old disk knows nothing.
    for heard in ["10.32.0.140/24", "10.32.0.128/24"] {
        let mut network = set_back(heard, "10.32.0.150/24");
        network.host(2).set_strangers(Some(BTreeSet::new()));
        let claimed = network.claim(2, "db", "10.32.0.150/24");
        network.pass(60);
        assert_eq!(network.answer(claimed), None, "{heard}: it may have given it away since");
        network.down.clear();
        network.connect();
        network.host(2).set_strangers(Some(BTreeSet::new()));
        assert_eq!(network.host(2).resting(), [], "{heard}");
        assert!(matches!(network.answer(claimed), Some(Err(_))), "{heard}: it is the other's");
        network.assert_agreed();
        network.assert_sound();
    }
}

#[test]
fn a_gift_leaves_a_trace_in_what_the_giver_keeps() {
    let mut network = Network::of(3);
    // A piece of one address is left of what was before this, and is given away as it is.
    for address in ["10.32.0.131/24", "10.32.0.129/24"] {
        network.claim(1, address, address);
    }
    let copy = network.hosts[&peer(2)].saved.clone();
    let before = network.host(2).owned();
    let ticket = network.claim(1, "last", "10.32.0.130/24");
    assert!(matches!(network.answer(ticket), Some(Ok(_))));
    network.run();
    assert_ne!(network.host(2).owned(), before);
    network.hosts.get_mut(&peer(2)).unwrap().saved = copy;
    network.restart(peer(2));
    network.connect();
    assert!(!network.host(2).resting().is_empty());
}

/// Both leave at the same moment, and each is the other's heir.
#[test]
fn two_hosts_that_drain_at_once_keep_nothing_of_what_each_gave_the_other() {
    let mut network = Network::of(4);
    let now = network.now;
    for number in [1, 2] {
        network.host(number).drain(now).unwrap();
    }
    network.act(peer(1));
    network.act(peer(2));
    network.run();
    network.connect();
    network.assert_agreed();
    let owners: BTreeSet<u64> = network.owners(3).into_iter().map(|(_, owner)| owner).collect();
    assert_eq!(owners, BTreeSet::from([3, 4]));
}

#[test]
fn what_is_given_to_a_host_that_is_leaving_by_then_goes_to_its_heir_too() {
    let mut network = Network::of(3);
    let now = network.now;
    let request = message::Unicast::Request(Range::from(net("10.32.0.150/32"))).encode();
    network.host(2).receive(now, Source::Unicast { from: peer(1) }, &request).unwrap();
    network.host(1).drain(now).unwrap();
    network.act(peer(2));
    network.act(peer(1));
    network.run();
    network.connect();
    network.assert_agreed();
    assert_eq!(network.host(1).owned(), []);
}

#[test]
fn a_latecomer_learns_the_ring_and_gets_space() {
    let mut network = Network::new((1..=3).map(|n| settings(n, Init::Consensus, 2)).collect());
    network.down.insert(peer(3));
    network.connect();
    network.down.clear();
    network.connect();
    let ticket = network.allocate(3, "web");
    assert_eq!(network.answer(ticket), Some(Ok("10.32.0.64/24".to_owned())));
    network.assert_agreed();
    network.assert_sound();
}

#[test]
fn a_ring_of_another_universe_is_not_gone_on_with() {
    let mut network = Network::of(2);
    network.allocate(1, "web");
    let saved = network.hosts[&peer(1)].saved.clone();
    let other = Settings { universe: net("10.48.0.0/12").into(), ..settings(1, Init::Consensus, 2) };
    let error = Allocator::new(other, saved.clone()).unwrap_err();
    assert!(matches!(error, StartError::OtherUniverse { .. }));
    let again = Allocator::new(settings(1, Init::Consensus, 2), saved).unwrap();
    assert_eq!(again.lookup("web"), [net("10.32.0.1/24")]);
    assert_eq!(again.used(), 1);
}

#[test]
fn two_clusters_that_meet_refuse_each_other_and_say_so() {
    let mut network = Network::new((1..=2).map(|n| settings(n, Init::Seed(vec![peer(n)]), 1)).collect());
    let other = network.host(2).state().unwrap();
    let now = network.now;
    let error = network.host(1).receive(now, Source::Gossip { from: peer(2) }, &other).unwrap_err();
    assert!(error.to_string().contains("seeded by different peers"), "{error}");
    let elsewhere =
        Settings { universe: net("10.48.0.0/24").into(), ..settings(3, Init::Seed(vec![peer(3)]), 1) };
    let mut elsewhere = Allocator::new(elsewhere, Saved::default()).unwrap();
    elsewhere.prove_memory(|_| false);
    let other = elsewhere.state().unwrap();
    let mut network = Network::new(vec![settings(4, Init::Consensus, 2)]);
    let error = network.host(4).receive(now, Source::Gossip { from: peer(3) }, &other).unwrap_err();
    assert!(error.to_string().contains("10.48.0.0/24, ours: 10.32.0.0/24"), "{error}");
}

#[test]
fn bytes_that_are_no_message_are_errors_and_change_nothing() {
    let mut network = Network::of(2);
    let before = network.host(1).ring().clone();
    for source in [
        Source::Unicast { from: peer(2) },
        Source::Gossip { from: peer(2) },
        Source::Broadcast { from: peer(2) },
    ] {
        for payload in [&[][..], &[7], &[0, 1, 2], &[1], &[2, 0xff]] {
            let now = network.now;
            assert!(network.host(1).receive(now, source, payload).is_err(), "{source:?} {payload:?}");
        }
    }
    assert_eq!(network.host(1).ring(), &before);
    assert_eq!(network.host(1).next_effect(), None);
}

#[test]
fn a_request_is_always_answered_with_a_ring_after_a_denial_if_there_is_one() {
    let mut network = Network::of(2);
    let source = Source::Unicast { from: peer(2) };
    let now = network.now;
    for (range, kinds) in [("10.32.0.7/32", vec![1]), ("10.32.0.200/32", vec![2, 1])] {
        let payload = message::Unicast::Request(net(range).into()).encode();
        network.host(1).receive(now, source, &payload).unwrap();
        let effects: Vec<Effect> = std::iter::from_fn(|| network.host(1).next_effect()).collect();
        let sent: Vec<u8> = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Unicast(_, payload) => payload.first().copied(),
                _ => None,
            })
            .collect();
        assert_eq!(sent, kinds);
        let saved = effects.iter().position(|effect| matches!(effect, Effect::Save(Record::Ring(_))));
        let told = effects.iter().position(|effect| matches!(effect, Effect::Broadcast(_)));
        assert_eq!(saved.is_some(), kinds.len() == 1);
        assert!(saved <= told, "what is given is saved before it is told");
    }
}

// ===== questions =====

#[test]
fn the_lowest_host_address_is_handed_out_and_the_same_one_again() {
    let mut network = Network::of(2);
    let first = network.allocate(1, "web");
    let again = network.allocate(1, "web");
    assert_eq!(network.answer(first), Some(Ok("10.32.0.1/24".to_owned())));
    assert_eq!(network.answer(again), network.answer(first));
    assert_eq!(network.host(1).free("web", None), Ok(vec![net("10.32.0.1/24")]));
    assert_eq!(network.host(1).free("web", None), Err(Refused::NothingHeld { ident: "web".to_owned() }));
    network.promised.clear();
    let next = network.allocate(1, "db");
    assert_eq!(
        network.answer(next),
        Some(Ok("10.32.0.2/24".to_owned())),
        "packets for web are still under way"
    );
}

#[test]
fn a_question_before_the_ring_is_answered_when_it_is_there() {
    let mut network = Network::new((1..=2).map(|n| settings(n, Init::Consensus, 2)).collect());
    let ticket = network.allocate(2, "web");
    assert_eq!(network.answer(ticket), None);
    network.connect();
    assert_eq!(network.answer(ticket), Some(Ok("10.32.0.128/24".to_owned())));
}

#[test]
fn addresses_are_handed_out_until_none_is_left_anywhere() {
    let mut network = Network::of(3);
    for n in 0..254 {
        let ticket = network.allocate(2, &format!("c{n}"));
        assert!(matches!(network.answer(ticket), Some(Ok(_))), "{n}: {:?}", network.answer(ticket));
    }
    network.assert_sound();
    let ticket = network.allocate(2, "one too many");
    assert_eq!(network.answer(ticket), Some(Err(Refused::Exhausted { subnet: net(UNIVERSE) })));
    network.host(2).free("c7", None).unwrap();
    network.act(peer(2));
    network.promised.remove(&(peer(2), "c7".to_owned()));
    network.run();
    let ticket = network.allocate(1, "elsewhere");
    assert!(matches!(network.answer(ticket), Some(Ok(_))), "a freed address is found by others");
}

#[test]
fn the_edges_of_a_subnet_and_strange_subnets_are_refused() {
    let mut network = Network::of(1);
    let refused = |network: &Network, ticket| network.answer(ticket).unwrap().unwrap_err();
    for edge in ["10.32.0.0/24", "10.32.0.255/24", "10.32.0.64/26", "10.32.0.127/26"] {
        let ticket = network.claim(1, "web", edge);
        assert!(matches!(refused(&network, ticket), Refused::Reserved { .. }), "{edge}");
    }
    let ask = |subnet| Ask::Allocate { ident: "web".to_owned(), subnet: net(subnet) };
    let ticket = network.ask(1, ask("192.168.0.0/24"));
    assert!(matches!(refused(&network, ticket), Refused::OutOfRange { .. }));
    let ticket = network.ask(1, ask("10.32.0.8/31"));
    assert!(matches!(refused(&network, ticket), Refused::TooSmall { .. }));
    let ticket = network.ask(1, ask("10.32.0.8/30"));
    assert_eq!(network.answer(ticket), Some(Ok("10.32.0.9/30".to_owned())));
}

#[test]
fn a_claim_gets_the_address_from_its_owner_and_a_second_one_is_denied() {
    let mut network = Network::of(2);
    let ticket = network.claim(1, "web", "10.32.0.200/24");
    assert_eq!(network.answer(ticket), Some(Ok("10.32.0.200/24".to_owned())));
    network.assert_agreed();
    let denied = network.claim(2, "db", "10.32.0.200/24");
    let text = network.answer(denied).unwrap().unwrap_err().to_string();
    assert!(text.contains("10.32.0.200") && text.contains("host1"), "{text}");
    let here = network.claim(1, "other", "10.32.0.200/24");
    assert!(matches!(network.answer(here), Some(Err(Refused::InUse { .. }))));
    network.assert_sound();
}

#[test]
fn a_denial_fails_only_the_question_it_belongs_to() {
    let mut network = Network::of(3);
    network.hosts.get_mut(&peer(3)).unwrap().allocator.space.claim(address("10.32.0.200"));
    network.cut(1, 2);
    network.cut(1, 3);
    let waits = network.claim(1, "waits", "10.32.0.210/24");
    let denied = network.claim(1, "denied", "10.32.0.200/24");
    for range in [net(UNIVERSE), net("10.32.0.200/32")] {
        let payload = message::Unicast::Denied(range.into()).encode();
        let source = Source::Unicast { from: peer(3) };
        let now = network.now;
        network.host(1).receive(now, source, &payload).unwrap();
    }
    network.act(peer(1));
    assert_eq!(network.answer(waits), None);
    assert!(matches!(network.answer(denied), Some(Err(Refused::OwnedByPeer { .. }))));
}

#[test]
fn a_donor_that_does_not_answer_is_followed_by_the_next() {
    let mut network =
        Network::new((1..=3).map(|n| settings(n, Init::Seed(vec![peer(1), peer(2)]), 2)).collect());
    network.connect();
    // Silent, but believed to be there.
    network.down.insert(peer(1));
    let ticket = network.allocate(3, "web");
    assert_eq!(network.answer(ticket), None);
    let waits = network.host(3).waits();
    assert!(waits[0].0.contains("space in 10.32.0.0/24 for web from 00:00:00:00:00:01 (host1)"), "{waits:?}");
    network.pass(3);
    assert_eq!(network.answer(ticket), Some(Ok("10.32.0.192/24".to_owned())));
}

#[test]
fn an_owner_that_cannot_be_reached_is_waited_for_by_name_until_cancelled() {
    let mut network = Network::of(2);
    network.stop(2);
    let ticket = network.claim(1, "web", "10.32.0.200/24");
    network.pass(60);
    assert_eq!(network.answer(ticket), None);
    let (what, hint) = network.host(1).waits().remove(0);
    assert!(what.contains("10.32.0.200") && what.contains("host2"), "{what}");
    assert!(hint.unwrap().contains("weavers forget 00:00:00:00:00:02"));
    network.host(1).cancel(ticket);
    assert!(network.host(1).waits().is_empty());
}

#[test]
fn nothing_is_handed_out_beneath_a_route_of_others() {
    let mut network = Network::of(1);
    network.host(1).set_avoided(vec![net("10.32.0.0/28").into()]);
    let ticket = network.allocate(1, "web");
    assert_eq!(network.answer(ticket), Some(Ok("10.32.0.16/24".to_owned())));
    let ticket = network.claim(1, "db", "10.32.0.3/24");
    assert_eq!(network.answer(ticket), Some(Err(Refused::Avoided { address: address("10.32.0.3") })));
}

#[test]
fn space_that_could_not_be_given_before_is_told_at_once() {
    let mut network = Network::new((1..=2).map(|n| settings(n, Init::Consensus, 2)).collect());
    network.host(1).set_avoided(vec![net(UNIVERSE).into()]);
    network.connect();
    let free = |network: &mut Network, at| {
        let entries = network.host(at).ring().entries();
        entries.iter().filter(|entry| entry.owner == peer(1)).map(|entry| entry.free).sum::<u32>()
    };
    assert_eq!(free(&mut network, 2), 0);
    network.host(1).set_avoided(Vec::new());
    network.act(peer(1));
    network.run();
    assert_eq!(free(&mut network, 2), 128);
    network.host(1).set_avoided(Vec::new());
    assert_eq!(network.host(1).next_effect(), None, "once is enough");
}

#[test]
fn an_address_found_in_use_is_never_handed_out_and_claimed_from_its_owner() {
    let mut network = Network::new((1..=2).map(|n| settings(n, Init::Consensus, 2)).collect());
    network.host(1).adopt("old", net("10.32.0.1/24"));
    network.host(1).adopt("far", net("10.32.0.200/24"));
    network.connect();
    network.assert_agreed();
    assert_eq!(network.host(1).used(), 2);
    assert_eq!(network.host(2).ring().owner(address("10.32.0.200")), Some(peer(1)));
    let ticket = network.allocate(1, "new");
    assert_eq!(network.answer(ticket), Some(Ok("10.32.0.2/24".to_owned())));
    assert!(network.host(1).waits().is_empty());
}

// ===== leaving, and being left =====

#[test]
fn a_dead_peer_is_taken_over_and_a_live_one_is_not() {
    let mut network = Network::of(3);
    let now = network.now;
    assert!(matches!(network.host(1).forget(now, peer(2)), Err(Refused::PeerAlive { .. })));
    assert!(matches!(network.host(1).forget(now, peer(1)), Err(Refused::Myself { .. })));
    assert!(matches!(network.host(1).forget(now, peer(9)), Err(Refused::UnknownPeer { .. })));
    network.stop(2);
    assert_eq!(network.host(1).forget(now, peer(2)), Ok(64));
    network.act(peer(1));
    network.run();
    network.assert_agreed();
    assert_eq!(network.host(3).ring().owner(address("10.32.0.130")), Some(peer(1)));
}

#[test]
fn a_drained_host_leaves_all_to_an_heir_and_takes_no_more_questions() {
    let mut network = Network::of(2);
    let now = network.now;
    network.allocate(1, "web");
    assert!(matches!(network.host(1).drain(now), Err(Refused::StillInUse { count: 1, .. })));
    network.host(1).free("web", None).unwrap();
    network.promised.clear();
    assert_eq!(network.host(1).drain(now), Ok((128, Some(peer(2)))));
    network.act(peer(1));
    network.run();
    assert_eq!(network.owners(2), [(UNIVERSE.to_owned(), 2)]);
    let ticket = network.allocate(1, "web");
    assert_eq!(network.answer(ticket), Some(Err(Refused::Leaving)));
    let ticket = network.allocate(2, "web");
    assert!(matches!(network.answer(ticket), Some(Ok(_))));
}

/// Hosts 1 and 2 take over host 3 in two halves of the network.
fn taken_over_twice(used_by_one: &[&str], used_by_two: &[&str]) -> Network {
    let mut network = Network::of(3);
    network.stop(3);
    network.cut(1, 2);
    let now = network.now;
    for (number, used) in [(1, used_by_one), (2, used_by_two)] {
        network.host(number).set_reachable(now, BTreeSet::new());
        network.host(number).forget(now, peer(3)).unwrap();
        network.act(peer(number));
        for address in used {
            let ticket = network.claim(number, address, address);
            assert!(matches!(network.answer(ticket), Some(Ok(_))));
        }
    }
    network.run();
    network.cut.clear();
    network.connect();
    network.pass(5);
    network
}

#[test]
fn of_two_take_overs_the_one_that_is_in_use_stands() {
    let mut network = taken_over_twice(&[], &["10.32.0.200/24"]);
    network.assert_agreed();
    network.assert_sound();
    assert_eq!(network.host(1).ring().owner(address("10.32.0.200")), Some(peer(2)));
}

#[test]
fn two_take_overs_without_use_fall_to_the_lower_name() {
    let mut network = taken_over_twice(&[], &[]);
    network.assert_agreed();
    assert_eq!(network.host(2).ring().owner(address("10.32.0.200")), Some(peer(1)));
}

#[test]
fn two_take_overs_that_are_both_in_use_are_taken_apart() {
    let mut network =
        taken_over_twice(&["10.32.0.200/24", "10.32.0.220/24"], &["10.32.0.210/24", "10.32.0.230/24"]);
    network.assert_agreed();
    network.assert_sound();
    assert!(network.host(1).waits().is_empty() && network.host(2).waits().is_empty());
    assert_eq!(network.host(1).ring().owner(address("10.32.0.210")), Some(peer(2)));
    assert_eq!(network.host(1).ring().owner(address("10.32.0.205")), Some(peer(1)));
}

#[test]
fn an_address_that_two_hosts_use_stays_open_and_is_named() {
    let mut network = taken_over_twice(&["10.32.0.200/24"], &["10.32.0.200/24"]);
    assert!(!network.host(2).waits().is_empty());
    assert_eq!(network.host(2).lookup("10.32.0.200/24"), [net("10.32.0.200/24")]);
    network.host(2).free("10.32.0.200/24", None).unwrap();
    network.promised.remove(&(peer(2), "10.32.0.200/24".to_owned()));
    network.connect();
    network.assert_agreed();
    network.assert_sound();
}

/// Host 2 takes over from host 1, which comes back with an address in use.
fn taken_for_dead(kin: Option<BTreeSet<PeerName>>) -> Network {
    let mut network = Network::of(2);
    network.allocate(1, "web");
    network.stop(1);
    let now = network.now;
    network.host(2).forget(now, peer(1)).unwrap();
    network.act(peer(2));
    network.run();
    network.host(1).set_kin(kin);
    network.down.clear();
    network.connect();
    network.pass(5);
    network.assert_agreed();
    network.assert_sound();
    network
}

#[test]
fn whoever_was_taken_for_dead_tells_its_own_kind_that_a_piece_in_use_is_still_its_own() {
    let mut network = taken_for_dead(None);
    assert_eq!(network.host(1).owned(), [net("10.32.0.0/25").into()]);
}

#[test]
fn of_a_weave_net_router_it_asks_for_its_addresses_since_to_be_told_would_crash_it() {
    let mut network = taken_for_dead(Some(BTreeSet::new()));
    assert_eq!(network.host(1).owned(), [net("10.32.0.1/32").into()]);
}

// ===== whatever happens =====

/// One step of a world in which anything may happen.
fn disturb(network: &mut Network, hosts: u64) {
    let number = network.rng.random_range(1..=hosts);
    let ident = format!("c{}", network.rng.random_range(0..30u32));
    match network.rng.random_range(0..12) {
        0..=4 => {
            network.allocate(number, &ident);
        }
        5 => {
            let last = network.rng.random_range(1..255);
            network.claim(number, &ident, &format!("10.32.0.{last}/24"));
        }
        6 | 7 => {
            network.promised.remove(&(peer(number), ident.clone()));
            let _ = network.host(number).free(&ident, None);
            let tickets: Vec<Ticket> = network.asked.keys().copied().collect();
            for ticket in tickets {
                if network.asked[&ticket] == (peer(number), ident.clone()) {
                    network.host(number).cancel(ticket);
                }
            }
            network.act(peer(number));
        }
        8 => {
            let other = network.rng.random_range(1..=hosts);
            if number < other {
                network.cut(number, other);
            }
            network.connect();
        }
        9 => {
            network.cut.clear();
            network.connect();
        }
        10 => {
            network.restart(peer(number));
            network.connect();
        }
        _ => network.pass(3),
    }
    network.run();
}

#[test]
fn there_is_one_ring_no_address_has_two_holders_and_nothing_acknowledged_is_lost() {
    let mut answered = 0;
    for seed in 0..60 {
        let hosts = 3 + seed % 3;
        let mut network =
            Network::new((1..=hosts).map(|n| settings(n, Init::Consensus, hosts as usize)).collect());
        network.rng = ChaCha8Rng::seed_from_u64(seed);
        (network.loss, network.crash) = (100, 30);
        network.connect();
        let mut seeds: BTreeSet<Vec<PeerName>> = BTreeSet::new();
        for _ in 0..80 {
            disturb(&mut network, hosts);
            network.assert_sound();
            let rings = network.hosts.values().map(|host| host.allocator.ring());
            seeds.extend(rings.filter(|ring| !ring.is_empty()).map(|ring| ring.seeds().to_vec()));
            assert!(seeds.len() <= 1, "seed {seed}: {seeds:?}");
        }
        (network.loss, network.crash) = (0, 0);
        network.cut.clear();
        for _ in 0..4 {
            network.connect();
            network.pass(40);
        }
        network.assert_agreed();
        network.assert_sound();
        assert!(!network.owners(1).is_empty(), "seed {seed}: no ring");
        answered += network.answers.values().filter(|answer| answer.is_ok()).count();
    }
    assert!(answered > 600, "only {answered} questions were answered");
}
