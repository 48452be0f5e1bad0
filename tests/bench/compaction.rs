//! How many routes a cluster needs whose hosts are replaced, and what has to be written, by its address managers alone: what one says
//! all others hear at once, and the table has a route to each block, a second later. There is neither a mesh nor EC2, so it is played
//! for many more hosts than the simulation of whole hosts (`turnover`) can be.
//!
//! ```sh
//! cargo bench --no-default-features --bench compaction            # 200 hosts, each replaced five times
//! cargo bench --no-default-features --bench compaction -- 60 5
//! ```

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
    time::{Duration, Instant},
};

use ipnet::Ipv4Net;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weavers::{
    ipam::{Allocator, Ask, Effect, Init, NodeId, Saved, Settings, Source, Ticket, compact::Compaction},
    peer::PeerName,
    time::Timestamp,
};

const HOSTS: usize = 200;
const TIMES: usize = 5;
const FOUNDERS: usize = 5;
const RANGE: &str = "10.32.0.0/12";
/// Seconds between two hosts that are replaced, and until somebody takes over from one that was not drained.
const PAUSE_S: u64 = 10;
const GRACE: Duration = Duration::from_secs(10);
/// Between two blocks that one host offers.
const OFFER_PAUSE: Duration = Duration::from_secs(60);
/// Containers that come or go in each second, and how many of a thousand of them come.
const USERS: usize = 4;
const COME: u32 = 600;
/// How long it is watched afterwards, and how often.
const AFTER_S: u64 = 300;
const LOOKS: usize = 12;
/// How long a newcomer waits for its first address.
const PATIENCE_S: u64 = 600;

struct Host {
    ipam: Allocator,
    compaction: Compaction,
    containers: Vec<u64>,
}

struct Cluster {
    hosts: BTreeMap<PeerName, Host>,
    /// Those that run, the oldest generation first.
    running: Vec<PeerName>,
    wires: VecDeque<(PeerName, Source, Rc<Vec<u8>>)>,
    /// Dead, and from when on they are taken over from.
    dead: VecDeque<(Timestamp, PeerName)>,
    now: Timestamp,
    rng: ChaCha8Rng,
    made: u64,
    asked: u64,
    moves: bool,
    /// To whom a route leads.
    table: BTreeMap<Ipv4Net, PeerName>,
    /// Routes created, replaced, deleted.
    written: [usize; 3],
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let number = |at: usize, otherwise| numbers.get(at).copied().unwrap_or(otherwise);
    let (hosts, times) = (number(0, HOSTS), number(1, TIMES));
    for moves in [true, false] {
        println!("{hosts} hosts, each replaced {times} times; blocks move: {moves}");
        println!("      time  replaced  routes  a host  created  replaced  deleted      CPU");
        let begun = Instant::now();
        let mut cluster = Cluster::found(hosts, moves);
        cluster.show(0, begun);
        for number in 1..=times * hosts {
            cluster.replace(hosts - (number - 1) % hosts, number % 2 == 0);
            cluster.pass(PAUSE_S);
            if number % (hosts / 2).max(1) == 0 {
                cluster.show(number, begun);
            }
        }
        for _ in 0..LOOKS {
            cluster.pass(AFTER_S);
            cluster.show(times * hosts, begun);
        }
        cluster.assert_sound();
    }
}

impl Cluster {
    fn found(hosts: usize, moves: bool) -> Cluster {
        let mut cluster = Cluster {
            hosts: BTreeMap::new(),
            running: Vec::new(),
            wires: VecDeque::new(),
            dead: VecDeque::new(),
            now: Timestamp::ZERO,
            rng: ChaCha8Rng::seed_from_u64(1),
            made: 0,
            asked: 0,
            moves,
            table: BTreeMap::new(),
            written: [0; 3],
        };
        let founders = hosts.min(FOUNDERS);
        (0..founders).for_each(|_| cluster.add(Init::Consensus));
        cluster.tell_who_is_there();
        cluster.pass(30);
        for _ in founders..hosts {
            cluster.join();
        }
        cluster.pass(1);
        cluster
    }

    fn add(&mut self, init: Init) {
        self.made += 1;
        let me = PeerName::from_u64(self.made);
        let settings = Settings {
            me,
            nickname: format!("host{}", self.made),
            universe: range().into(),
            init,
            expected_peers: FOUNDERS,
            acceptor: NodeId { name: me, uid: self.made },
        };
        let mut ipam = Allocator::new(settings, Saved::default()).unwrap();
        ipam.prove_memory(|_| false);
        self.hosts.insert(me, Host { ipam, compaction: Compaction::default(), containers: Vec::new() });
        self.running.push(me);
    }

    /// Another host comes, hears from one that is there, and gets an address.
    fn join(&mut self) {
        let from = self.running[self.rng.random_range(0..self.running.len())];
        self.add(Init::Observer);
        let me = self.running[self.running.len() - 1];
        self.tell_who_is_there();
        let state = self.hosts.get_mut(&from).unwrap().ipam.state().unwrap();
        self.wires.push_back((me, Source::Gossip { from }, Rc::new(state)));
        self.deliver();
        self.start_container(me);
        for _ in 0..PATIENCE_S {
            if self.hosts[&me].ipam.used() > 0 {
                return;
            }
            self.pass(1);
        }
        panic!("{me} is given no address");
    }

    /// Another host comes for one of the first so many.
    fn replace(&mut self, oldest: usize, drained: bool) {
        self.join();
        let old = self.running.remove(self.rng.random_range(0..oldest));
        let containers = std::mem::take(&mut self.hosts.get_mut(&old).unwrap().containers);
        containers.into_iter().for_each(|container| self.end_container(old, container));
        if drained {
            self.hosts.get_mut(&old).unwrap().ipam.drain(self.now).unwrap();
            self.act(old);
            self.deliver();
        } else {
            self.dead.push_back((self.now + GRACE, old));
        }
        self.hosts.remove(&old);
        self.tell_who_is_there();
    }

    fn tell_who_is_there(&mut self) {
        let all: BTreeSet<PeerName> = self.hosts.keys().copied().collect();
        for &me in &all {
            let ipam = &mut self.hosts.get_mut(&me).unwrap().ipam;
            ipam.set_reachable(self.now, all.clone());
            ipam.wake(self.now);
            self.act(me);
        }
        self.deliver();
    }

    /// Somebody takes over from each whose time has come, and hears what all others own.
    fn bury(&mut self) {
        while self.dead.front().is_some_and(|(at, _)| *at <= self.now) {
            let (_, dead) = self.dead.pop_front().unwrap();
            let heir = self.running[self.rng.random_range(0..self.running.len())];
            self.each(|ipam, now| ipam.bury(now, dead, heir));
            self.hosts.get_mut(&heir).unwrap().ipam.set_unconfirmed(Some(BTreeSet::new()));
            self.each(|ipam, _| ipam.tell(heir));
        }
    }

    fn each(&mut self, act: impl Fn(&mut Allocator, Timestamp)) {
        for me in self.hosts.keys().copied().collect::<Vec<_>>() {
            act(&mut self.hosts.get_mut(&me).unwrap().ipam, self.now);
            self.act(me);
        }
        self.deliver();
    }

    fn start_container(&mut self, host: PeerName) {
        self.asked += 1;
        let host_of_it = self.hosts.get_mut(&host).unwrap();
        host_of_it.containers.push(self.asked);
        let ask = Ask::Allocate { ident: ident(self.asked), subnet: range() };
        host_of_it.ipam.ask(self.now, Ticket(self.asked), ask);
        self.act(host);
        self.deliver();
    }

    fn end_container(&mut self, host: PeerName, container: u64) {
        let ipam = &mut self.hosts.get_mut(&host).unwrap().ipam;
        ipam.tick(self.now);
        ipam.cancel(Ticket(container));
        // One that waited for its address has none.
        let _ = ipam.free(&ident(container), None);
        self.act(host);
        self.deliver();
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            for me in self.hosts.keys().copied().collect::<Vec<_>>() {
                let ipam = &mut self.hosts.get_mut(&me).unwrap().ipam;
                if ipam.next_wake().is_some_and(|at| at <= self.now) {
                    ipam.wake(self.now);
                    self.act(me);
                }
            }
            self.deliver();
            self.bury();
            self.load();
            self.move_blocks();
            self.write_routes();
        }
    }

    /// A route leads to each block, as one of the hosts knows them.
    fn write_routes(&mut self) {
        let owners = self.hosts[&self.running[0]].ipam.owners();
        let wanted: BTreeMap<Ipv4Net, PeerName> = owners
            .into_iter()
            .flat_map(|(range, owner)| range.cidrs().into_iter().map(move |cidr| (cidr, owner)))
            .collect();
        let [created, replaced, deleted] = &mut self.written;
        for (cidr, owner) in &wanted {
            match self.table.get(cidr) {
                None => *created += 1,
                Some(led) => *replaced += usize::from(led != owner),
            }
        }
        *deleted += self.table.keys().filter(|cidr| !wanted.contains_key(*cidr)).count();
        self.table = wanted;
    }

    fn load(&mut self) {
        for _ in 0..USERS {
            let host = self.running[self.rng.random_range(0..self.running.len())];
            let containers = &mut self.hosts.get_mut(&host).unwrap().containers;
            if self.rng.random_range(0..1000) < COME {
                self.start_container(host);
            } else if !containers.is_empty() {
                let container = containers.swap_remove(self.rng.random_range(0..containers.len()));
                self.end_container(host, container);
            }
        }
    }

    /// In peace, each that may offers a block to whom it makes a larger one.
    fn move_blocks(&mut self) {
        let rests = self.hosts.values().any(|host| host.ipam.quarantine_number().is_some());
        if !self.moves || !self.dead.is_empty() || rests {
            return;
        }
        for giver in self.running.clone() {
            let now = self.now;
            let host = self.hosts.get_mut(&giver).unwrap();
            host.ipam.tick(now);
            if host.ipam.blocks() < 2 || !host.compaction.is_due(now, OFFER_PAUSE) {
                continue;
            }
            let Some((block, to)) = host.ipam.next_gift(&host.compaction.left_out()) else { continue };
            host.compaction.offer(now, block, to);
            let taker = self.hosts.get_mut(&to).unwrap();
            let takes = taker.ipam.may_take(giver, block) && taker.compaction.take(now, to, giver, block);
            let host = self.hosts.get_mut(&giver).unwrap();
            if !takes {
                host.compaction.on_kept(now, to, block);
            } else if host.compaction.is_taken(now, to, block) {
                host.ipam.give(now, block, to);
            }
            self.act(giver);
            self.deliver();
        }
    }

    /// Carries out what a host wants done.
    fn act(&mut self, me: PeerName) {
        while let Some(effect) = self.hosts.get_mut(&me).unwrap().ipam.next_effect() {
            match effect {
                Effect::Broadcast(said) => {
                    let said = Rc::new(said);
                    let others = self.hosts.keys().filter(|other| **other != me);
                    let from = Source::Broadcast { from: me };
                    self.wires.extend(others.map(|other| (*other, from, Rc::clone(&said))));
                }
                Effect::Unicast(to, said) => {
                    self.wires.push_back((to, Source::Unicast { from: me }, Rc::new(said)));
                }
                Effect::RingChanged => {
                    let host = self.hosts.get_mut(&me).unwrap();
                    host.compaction.see(self.now, OFFER_PAUSE, &host.ipam.owned());
                }
                Effect::Save(_) | Effect::Answer(..) | Effect::SetBack => {}
            }
        }
    }

    fn deliver(&mut self) {
        while let Some((to, source, said)) = self.wires.pop_front() {
            if let Some(host) = self.hosts.get_mut(&to) {
                host.ipam.receive(self.now, source, &said).unwrap();
                self.act(to);
            }
        }
    }

    fn show(&self, replaced: usize, begun: Instant) {
        let (routes, [created, changed, deleted]) = (self.table.len(), self.written);
        println!(
            "{:8.0} s  {replaced:8}  {routes:6}  {:6.2}  {created:7}  {changed:8}  {deleted:7}  {:5.0} s",
            self.now.since(Timestamp::ZERO).as_secs_f64(),
            routes as f64 / self.hosts.len() as f64,
            begun.elapsed().as_secs_f64()
        );
    }

    /// All know the same, every address has one owner, and every container has one.
    fn assert_sound(&self) {
        let first = self.hosts.values().next().unwrap().ipam.owners();
        for host in self.hosts.values() {
            assert_eq!(host.ipam.owners(), first);
            assert_eq!(host.ipam.ring().check(), Ok(()));
            let has = |container: &u64| !host.ipam.lookup(&ident(*container)).is_empty();
            assert!(host.containers.iter().all(has), "a container has lost its address");
        }
    }
}

fn range() -> Ipv4Net {
    RANGE.parse().unwrap()
}

fn ident(container: u64) -> String {
    format!("c{container}")
}
