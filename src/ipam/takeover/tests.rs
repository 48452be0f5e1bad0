//! Peers on a network in memory that decide about each other: they die, come back, lose what they knew,
//! and are cut off from each other.

use std::collections::VecDeque;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::mesh::MESSAGE_LEN_MAX;

mod deaths;
mod disks;
mod electors;
mod laws;
mod returns;
mod words;

const GRACE: Duration = Duration::from_secs(60);

fn peer(number: u64) -> PeerName {
    PeerName::from_u64(number)
}

fn instance(peer: PeerName) -> String {
    format!("i-{}", peer.as_u64())
}

struct Host {
    takeover: TakeOver,
    saved: Saved,
    uid: u64,
    boots: u32,
}

struct Network {
    hosts: BTreeMap<PeerName, Host>,
    seeds: Vec<PeerName>,
    down: BTreeSet<PeerName>,
    cut: BTreeSet<(PeerName, PeerName)>,
    /// Nothing that is sent to them arrives, and nobody has noticed yet.
    deaf: BTreeSet<PeerName>,
    /// Instances that EC2 calls terminated, and such that it calls stopped.
    terminated: BTreeSet<PeerName>,
    stopped: BTreeSet<PeerName>,
    owners: BTreeMap<PeerName, u64>,
    wires: VecDeque<(PeerName, PeerName, Vec<u8>)>,
    /// What each peer was told was decided, in this order.
    decisions: Vec<(PeerName, Decision)>,
    now: Timestamp,
    grace: Option<Duration>,
    rng: ChaCha8Rng,
    /// Of a thousand messages and effects, how many get lost, and how many are a host's last.
    loss: u32,
    crash: u32,
}

impl Network {
    /// So many peers, of which the first few founded the ring and all own a part.
    fn of(peers: u64, founders: u64) -> Network {
        let mut network = Network {
            hosts: BTreeMap::new(),
            seeds: (1..=founders).map(peer).collect(),
            down: BTreeSet::new(),
            cut: BTreeSet::new(),
            deaf: BTreeSet::new(),
            terminated: BTreeSet::new(),
            stopped: BTreeSet::new(),
            owners: (1..=peers).map(|number| (peer(number), 100 - number)).collect(),
            wires: VecDeque::new(),
            decisions: Vec::new(),
            now: Timestamp::ZERO,
            grace: Some(GRACE),
            rng: ChaCha8Rng::seed_from_u64(0),
            loss: 0,
            crash: 0,
        };
        for number in 1..=peers {
            network.install(peer(number), 1000 + number);
        }
        network.turn();
        network
    }

    fn install(&mut self, name: PeerName, uid: u64) {
        let me = NodeId { name, uid };
        let mut takeover = TakeOver::new(me, Some(instance(name)), Saved::default());
        takeover.set_boot("boot 0");
        self.hosts.insert(name, Host { takeover, saved: Saved::default(), uid, boots: 0 });
    }

    fn reachable(&self, of: PeerName) -> BTreeSet<PeerName> {
        let joined = |one: PeerName, other: PeerName| {
            one == other || !self.cut.contains(&(one.min(other), one.max(other)))
        };
        self.hosts.keys().copied().filter(|&other| !self.down.contains(&other) && joined(of, other)).collect()
    }

    fn consider(&mut self, me: PeerName) {
        let reachable = self.reachable(me);
        let (owners, grace, now) = (self.owners.clone(), self.grace, self.now);
        let view = View { owners: &owners, reachable: &reachable, grace };
        let seeds = self.seeds.clone();
        let host = self.hosts.get_mut(&me).unwrap();
        host.takeover.begin(&seeds);
        let suspects: BTreeSet<String> = host.takeover.suspects(now).into_values().collect();
        if !suspects.is_empty() {
            let state = |peer: &PeerName| match self.stopped.contains(peer) {
                true => InstanceState::Stopped,
                false => InstanceState::Running,
            };
            let there = self.owners.keys().filter(|peer| !self.terminated.contains(peer));
            let there = there.map(|peer| (instance(*peer), state(peer))).collect();
            host.takeover.hear_ec2(now, &suspects, &there);
        }
        host.takeover.consider(now, view);
        self.act(me);
    }

    /// Carries out what a peer wants to be done, unless it crashes before the end.
    fn act(&mut self, me: PeerName) {
        while let Some(effect) = self.hosts.get_mut(&me).and_then(|host| host.takeover.next_effect()) {
            if self.rng.random_range(0..1000) < self.crash {
                return self.restart(me);
            }
            let host = self.hosts.get_mut(&me).unwrap();
            match effect {
                Effect::Save(kept) => host.saved.kept = Some(kept),
                Effect::SaveInstance(peer, Some(instance)) => {
                    drop(host.saved.instances.insert(peer, instance))
                }
                Effect::SaveInstance(peer, None) => drop(host.saved.instances.remove(&peer)),
                Effect::Broadcast(said) => {
                    let others: Vec<PeerName> =
                        self.reachable(me).into_iter().filter(|to| *to != me).collect();
                    self.wires.extend(others.into_iter().map(|to| (me, to, said.clone())));
                }
                Effect::Tell(to, said) => self.wires.push_back((me, to, said)),
                Effect::Decided(decision) => {
                    if decision.heir == me
                        && let Some(share) = self.owners.remove(&decision.dead)
                    {
                        *self.owners.entry(me).or_default() += share;
                    }
                    self.decisions.push((me, decision));
                }
                Effect::Awaited(_) | Effect::SetBack => {}
            }
        }
    }

    fn restart(&mut self, me: PeerName) {
        let host = self.hosts.get_mut(&me).unwrap();
        let id = NodeId { name: me, uid: host.uid };
        host.takeover = TakeOver::new(id, Some(instance(me)), host.saved.clone());
        host.takeover.set_boot(&format!("boot {}", host.boots));
    }

    fn boot(&mut self, number: u64) {
        self.hosts.get_mut(&peer(number)).unwrap().boots += 1;
        self.restart(peer(number));
    }

    fn lose_store(&mut self, number: u64) {
        let uid = self.hosts[&peer(number)].uid + 1_000_000;
        self.install(peer(number), uid);
    }

    /// Everybody thinks, and all messages arrive.
    fn turn(&mut self) {
        for me in self.hosts.keys().copied().collect::<Vec<_>>() {
            if !self.down.contains(&me) {
                self.consider(me);
            }
        }
        while let Some((from, to, said)) = self.wires.pop_front() {
            let lost = self.rng.random_range(0..1000) < self.loss || self.deaf.contains(&to);
            let fits = said.len() <= MESSAGE_LEN_MAX;
            if lost || !fits || self.down.contains(&to) || !self.reachable(to).contains(&from) {
                continue;
            }
            let host = self.hosts.get_mut(&to).unwrap();
            host.takeover.hear(self.now, from, &said).unwrap();
            self.consider(to);
        }
    }

    /// Lets time pass; every half minute neighbours tell each other the gist.
    fn pass(&mut self, seconds: u64) {
        for second in 0..seconds * 4 {
            self.now += Duration::from_millis(250);
            if second % 120 == 0 {
                self.gossip();
            }
            self.turn();
        }
    }

    fn gossip(&mut self) {
        for from in self.hosts.keys().copied().collect::<Vec<_>>() {
            let said = self.hosts.get_mut(&from).unwrap().takeover.all_known();
            for to in self.reachable(from).into_iter().filter(|to| *to != from) {
                self.wires.push_back((from, to, said.clone()));
            }
        }
    }

    fn ask(&mut self, number: u64, dead: u64) {
        self.hosts.get_mut(&peer(number)).unwrap().takeover.ask(peer(dead));
        self.turn();
    }

    /// Nobody hears a peer any more, nor does it hear them.
    fn isolate(&mut self, number: u64) {
        let others: Vec<PeerName> =
            self.hosts.keys().copied().filter(|other| *other != peer(number)).collect();
        self.cut.extend(others.into_iter().map(|other| (peer(number).min(other), peer(number).max(other))));
    }

    /// A peer decides alone that another is dead.
    fn force(&mut self, number: u64, dead: u64) {
        let (owners, reachable) = (self.owners.clone(), self.reachable(peer(number)));
        let view = View { owners: &owners, reachable: &reachable, grace: None };
        let now = self.now;
        self.hosts.get_mut(&peer(number)).unwrap().takeover.force(now, view, peer(dead));
        self.turn();
    }

    fn terminate(&mut self, number: u64) {
        self.down.insert(peer(number));
        self.terminated.insert(peer(number));
    }

    fn stop(&mut self, number: u64) {
        self.down.insert(peer(number));
        self.stopped.insert(peer(number));
    }

    fn electors(&self, number: u64) -> Vec<u64> {
        let log = self.hosts[&peer(number)].takeover.log().unwrap();
        log.electors().iter().map(|peer| peer.as_u64()).collect()
    }

    /// Who took over from this peer, as everybody that is up has it.
    fn heirs(&self, dead: u64) -> BTreeSet<u64> {
        let is_heir = |heir| heir != PeerName::UNKNOWN;
        let about = self.decisions.iter().map(|(_, decision)| decision);
        let about = about.filter(|decision| decision.dead == peer(dead) && is_heir(decision.heir));
        about.map(|decision| decision.heir.as_u64()).collect()
    }

    /// Whoever has come equally far has the same electors: nobody decides apart from the others.
    fn assert_agreed(&self) {
        let mut by_number: BTreeMap<u64, &Log> = BTreeMap::new();
        for host in self.hosts.values() {
            let Some(log) = host.takeover.log() else { continue };
            let first = by_number.entry(log.next()).or_insert(log);
            assert_eq!(first, &log);
        }
    }
}
