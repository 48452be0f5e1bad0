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

mod compaction;
mod election;
mod exchange;
mod laws;
mod leaving;
mod memory;
mod questions;

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
        self.asked.insert(ticket, (peer(number), ask.ident().to_owned()));
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
        Record::Quarantine(ranges) => saved.rest = ranges,
    }
}
