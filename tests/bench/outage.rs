//! What it costs an elector when half of a cluster is lost at once: all that it has to consider until every range has an heir.
//!
//! `cargo bench --no-default-features --features sim --bench outage` prints it for 500 hosts; other sizes may be given as arguments.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use weavers::{
    ipam::{
        NodeId,
        takeover::{Effect, InstanceState, Saved, TakeOver, View},
    },
    peer::PeerName,
    time::Timestamp,
};

const GRACE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(250);
/// Simulated time by which all must be over.
const STEPS_MAX: usize = 4 * 3600;

fn main() {
    let sizes: Vec<u64> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![500] } else { sizes };
    println!("hosts   lost  considered   simulated    time in one elector");
    for hosts in sizes {
        measure(hosts);
    }
}

fn measure(hosts: u64) {
    let mut cluster = Cluster::of(hosts);
    cluster.settle();
    let lost = cluster.lose_the_upper_half(hosts);
    (cluster.considered, cluster.spent) = (0, Duration::ZERO);
    let begun = cluster.now;
    cluster.run_until_all_have_heirs(&lost);
    println!(
        "{hosts:5}  {:5}  {:10}  {:8.0} s  {:10.3} s",
        lost.len(),
        cluster.considered,
        cluster.now.since(begun).as_secs_f64(),
        cluster.spent.as_secs_f64(),
    );
}

/// The electors; of the other hosts only what they said of themselves.
struct Cluster {
    electors: BTreeMap<PeerName, TakeOver>,
    wires: VecDeque<(PeerName, PeerName, Vec<u8>)>,
    owners: BTreeMap<PeerName, u64>,
    reachable: BTreeSet<PeerName>,
    now: Timestamp,
    /// Of the first elector.
    considered: u64,
    spent: Duration,
}

fn peer(number: u64) -> PeerName {
    PeerName::from_u64(number)
}

fn host(name: PeerName, seeds: &[PeerName]) -> TakeOver {
    let me = NodeId { name, uid: 1_000_000 + name.as_u64() };
    let mut takeover = TakeOver::new(me, Some(format!("i-{}", name.as_u64())), Saved::default());
    takeover.begin(seeds);
    takeover
}

impl Cluster {
    fn of(hosts: u64) -> Cluster {
        let all: Vec<PeerName> = (1..=hosts).map(peer).collect();
        let mut electors = BTreeMap::new();
        let mut wires = VecDeque::new();
        for &name in &all {
            let mut takeover = host(name, &all);
            let chosen: Vec<PeerName> = takeover.log().unwrap().electors().iter().copied().collect();
            wires.extend(chosen.iter().map(|to| (name, *to, takeover.all_known())));
            if chosen.contains(&name) {
                electors.insert(name, takeover);
            }
        }
        let owners = all.iter().map(|name| (*name, 1000 + name.as_u64())).collect();
        let reachable = all.into_iter().collect();
        Cluster {
            electors,
            wires,
            owners,
            reachable,
            now: Timestamp::ZERO,
            considered: 0,
            spent: Duration::ZERO,
        }
    }

    fn settle(&mut self) {
        for _ in 0..8 {
            self.step();
        }
    }

    fn lose_the_upper_half(&mut self, hosts: u64) -> BTreeSet<PeerName> {
        let lost: BTreeSet<PeerName> = (hosts / 2 + 1..=hosts).map(peer).collect();
        self.reachable.retain(|peer| !lost.contains(peer));
        lost
    }

    fn run_until_all_have_heirs(&mut self, lost: &BTreeSet<PeerName>) {
        for _ in 0..STEPS_MAX {
            self.step();
            if lost.iter().all(|peer| !self.owners.contains_key(peer)) {
                return;
            }
        }
        panic!("some have no heir yet");
    }

    /// A quarter of a second passes: everybody considers, and all messages arrive.
    fn step(&mut self) {
        self.now += STEP;
        let names: Vec<PeerName> = self.electors.keys().copied().collect();
        for &me in &names {
            self.consider(me, None);
        }
        while let Some((from, to, said)) = self.wires.pop_front() {
            self.consider(to, Some((from, said)));
        }
    }

    fn consider(&mut self, me: PeerName, heard: Option<(PeerName, Vec<u8>)>) {
        let is_first = self.electors.keys().next() == Some(&me);
        let takeover = self.electors.get_mut(&me).unwrap();
        let view = View { owners: &self.owners, reachable: &self.reachable, grace: Some(GRACE) };
        let begun = Instant::now();
        match heard {
            Some((from, said)) => drop(takeover.hear(self.now, from, &said).unwrap()),
            None => {
                let asked: BTreeSet<String> = takeover.suspects(self.now).into_values().collect();
                let found: BTreeMap<String, InstanceState> = BTreeMap::new();
                takeover.hear_ec2(self.now, &asked, &found);
            }
        }
        takeover.consider(self.now, view);
        if is_first {
            self.spent += begun.elapsed();
            self.considered += 1;
        }
        self.carry_out(me);
    }

    fn carry_out(&mut self, me: PeerName) {
        while let Some(effect) = self.electors.get_mut(&me).unwrap().next_effect() {
            match effect {
                Effect::Broadcast(said) => {
                    let others = self.electors.keys().copied().filter(|to| *to != me);
                    self.wires.extend(others.map(|to| (me, to, said.clone())));
                }
                Effect::Tell(to, said) => self.wires.push_back((me, to, said)),
                Effect::Decided(decision) => {
                    if let Some(share) = self.owners.remove(&decision.dead) {
                        *self.owners.entry(decision.heir).or_default() += share;
                    }
                }
                _ => {}
            }
        }
    }
}
