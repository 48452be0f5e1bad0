//! Hosts come and go: each host of a calm cluster is replaced again and again while containers come and go on all of them, and what
//! becomes of the route table is measured.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    climate::{Climate, net},
    machine::Power,
    vpc::{Action, Power as InstancePower},
    world::{Event, World},
};
use crate::{addr::Range, node::protocol::request::Request, time::Timestamp};

/// What is not there by then does not come.
const PATIENCE: Duration = Duration::from_secs(900);
const STEP: Duration = Duration::from_secs(1);
/// Users that come in each step.
const USERS: usize = 4;
/// Hosts that found the cluster; the others join it.
const FOUNDERS: usize = 5;
/// How long a host that is drained has to hand over.
const HAND_OVER: Duration = Duration::from_secs(20);

/// A cluster whose hosts are replaced.
pub struct Turnover {
    world: World,
    hosts: usize,
    /// Those that run. Those of one generation are replaced one after the other in random order.
    running: Vec<usize>,
    /// Those that are drained, and when they are stopped.
    going: Vec<(Timestamp, usize)>,
    next: usize,
}

impl Turnover {
    /// So many hosts, each of which will be replaced so many times; a pause between two blocks that one offers, or none offers any.
    pub fn new(seed: u64, hosts: usize, times: usize, compact: Option<Duration>) -> Turnover {
        let founders = hosts.min(FOUNDERS);
        let climate = Climate {
            listed: 0,
            founders,
            range: net("10.32.0.0/12"),
            users: false,
            reclaim: Some(Duration::from_secs(10)),
            compact,
            start_within: Duration::from_secs(1),
            ..Climate::calm(hosts * (times + 1))
        };
        // Hosts of such a world find each other by a tag.
        let seed = seed * 8;
        let mut world = World::in_climate(seed, ChaCha8Rng::seed_from_u64(seed), climate);
        for host in hosts..world.machines.len() {
            let instance = world.machines[host].cloud.instance.clone();
            world.vpc.set_power(Timestamp::ZERO, &instance, InstancePower::Stopped);
        }
        Turnover { world, hosts, running: (0..hosts).collect(), going: Vec::new(), next: hosts }
    }

    /// Starts all hosts, the founders first, and waits until each has handed out an address.
    pub fn found(&mut self) -> Result<(), String> {
        for host in 0..self.hosts {
            if host < FOUNDERS {
                self.world.schedule(Duration::ZERO, Event::Start(host));
            } else {
                self.world.start(host);
                self.settle_in(host)?;
            }
            if host == FOUNDERS - 1 {
                self.pass(Duration::from_secs(30))?;
            }
        }
        (0..self.hosts).try_for_each(|host| self.settle_in(host))
    }

    /// The next host of the oldest generation is replaced: another starts, and once it has handed out an address, the old one is drained and stopped, or
    /// just stopped.
    pub fn replace(&mut self, drained: bool) -> Result<(), String> {
        let host = self.next;
        self.next += 1;
        let instance = self.world.machines[host].cloud.instance.clone();
        self.world.vpc.set_power(self.world.now, &instance, InstancePower::Running);
        self.world.start(host);
        self.settle_in(host)?;
        self.running.push(host);
        let left = self.hosts - (self.next - 1) % self.hosts;
        let old = self.running.remove(self.world.rng.random_range(0..left));
        self.world.vacate(old);
        if drained {
            self.world.ask_quietly(old, Request::Drain);
        }
        let until = self.world.now + if drained { HAND_OVER } else { Duration::ZERO };
        self.going.push((until, old));
        self.pass(STEP)
    }

    /// Lets time pass under load.
    pub fn pass(&mut self, lasts: Duration) -> Result<(), String> {
        let until = self.world.now + lasts;
        while self.world.now < until {
            self.world.run_until((self.world.now + STEP).min(until));
            if let Some(law) = self.world.journal.violation.take() {
                return Err(law);
            }
            let gone = self.going.extract_if(.., |(at, _)| *at <= self.world.now).collect::<Vec<_>>();
            gone.into_iter().for_each(|(_, host)| self.world.end(host));
            for _ in 0..USERS {
                let host = self.running[self.world.rng.random_range(0..self.running.len())];
                match self.world.chance(600) {
                    true => self.world.ask_for_address(host),
                    false => self.world.free_something(host),
                }
            }
        }
        self.world.check_all();
        self.world.journal.violation.take().map_or(Ok(()), Err)
    }

    /// Routes inside the range, and hosts that run.
    pub fn routes(&self) -> (usize, usize) {
        let range = Range::from(self.world.climate.range);
        let routes = self.world.vpc.tables().flat_map(|table| self.world.vpc.routes(table));
        let routes = routes.filter(|route| range.covers(route.destination.into())).count();
        let runs = |machine: &&super::machine::Machine| machine.power == Power::On && machine.node.is_some();
        (routes, self.world.machines.iter().filter(runs).count())
    }

    /// Blocks of all hosts together, by the ring of one of them.
    pub fn blocks(&self) -> usize {
        let Some(node) = self.world.machines[self.running[0]].node.as_ref() else { return 0 };
        let ring = node.overview().ring();
        let owners: std::collections::BTreeSet<_> = ring.entries().iter().map(|entry| entry.owner).collect();
        owners.into_iter().flat_map(|owner| ring.owned_by(owner)).map(|range| range.cidrs().len()).sum()
    }

    /// Why no block moves, host by host, where one could.
    pub fn waits(&self) -> Vec<String> {
        let nodes = self.running.iter().filter_map(|host| self.world.machines[*host].node.as_ref());
        nodes.filter_map(|node| node.status().ipam.compaction.waits).collect()
    }

    /// Routes written so far: created, replaced, deleted.
    pub fn writes(&self) -> [u64; 3] {
        let calls = self.world.vpc.calls();
        let count = |action| calls.get(&action).copied().unwrap_or(0);
        [Action::CreateRoute, Action::ReplaceRoute, Action::DeleteRoute].map(count)
    }

    /// Simulated time so far.
    pub fn now(&self) -> Duration {
        self.world.now.since(Timestamp::ZERO)
    }

    /// Waits until a host has handed out an address.
    fn settle_in(&mut self, host: usize) -> Result<(), String> {
        let begun = self.world.now;
        while !self.world.holds_address(host) {
            if self.world.now.since(begun) > PATIENCE {
                return Err(format!("{PATIENCE:?} of waiting for an address of host {host}"));
            }
            self.world.ask_for_address(host);
            self.pass(STEP)?;
        }
        Ok(())
    }
}
