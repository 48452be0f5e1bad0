//! How a cluster grows: a calm world is founded, joined by one host more, and left idle, and what that takes is measured.

use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{
    climate::{Climate, net},
    vpc::{Action, Faults, Throttle},
    world::{Event, World},
};
use crate::{
    node::{Node, protocol::request::Request},
    time::Timestamp,
};

/// How exactly moments are told.
const STEP: Duration = Duration::from_millis(10);
/// What is not there by then does not come.
const PATIENCE: Duration = Duration::from_secs(600);

/// A cluster, and one host that is not of it yet.
pub struct Growth {
    world: World,
    founders: usize,
}

/// How long the founding of a cluster took, from the moment when its hosts start, all within a second.
#[derive(Clone, Copy, Debug)]
pub struct Founding {
    /// Until somebody had the ring.
    pub first_ring: Duration,
    /// Until everybody had it.
    pub every_ring: Duration,
    /// Until every plan was empty and read back.
    pub settled: Duration,
}

impl Growth {
    /// So many hosts, not started yet, and one more.
    pub fn new(seed: u64, founders: usize) -> Growth {
        Growth::listing(seed, founders, founders + 1)
    }

    /// The same, where all hosts list one of them.
    pub fn behind_one(seed: u64, founders: usize) -> Growth {
        Growth::listing(seed, founders, 1)
    }

    fn listing(seed: u64, founders: usize, listed: usize) -> Growth {
        let climate = Climate {
            listed,
            founders,
            range: net("10.32.0.0/14"),
            two_tables: true,
            users: false,
            start_within: Duration::from_secs(1),
            ..Climate::calm(founders + 1)
        };
        let world = World::in_climate(seed, ChaCha8Rng::seed_from_u64(seed), climate);
        Growth { world, founders }
    }

    /// Starts the founders and waits until they have settled.
    pub fn found(&mut self) -> Result<Founding, String> {
        for host in 0..self.founders {
            let late = self.world.random(Duration::ZERO, self.world.climate.start_within);
            self.world.schedule(late, Event::Start(host));
        }
        let founders = self.founders;
        let has_ring = |node: &Node| !node.overview().ring().is_empty();
        let first_ring = self.wait("a first ring", |growth| growth.count(has_ring) > 0)?;
        let every_ring = self.wait("a ring everywhere", |growth| growth.count(has_ring) == founders)?;
        let settled = self.wait("all to settle", |growth| {
            growth.count(|node| node.overview().is_converged()) == founders
        })?;
        let every_ring = first_ring + every_ring;
        Ok(Founding { first_ring, every_ring, settled: every_ring + settled })
    }

    /// Starts one host more, and waits until it has an address to give out.
    pub fn join(&mut self) -> Result<Duration, String> {
        let host = self.founders;
        self.world.start(host);
        self.world.ask_for_address(host);
        self.wait("an address for the newcomer", |growth| growth.world.holds_address(host))
    }

    /// Lets time pass.
    pub fn idle(&mut self, lasts: Duration) -> Result<(), String> {
        self.world.run_until(self.world.now + lasts);
        self.world.check_all();
        self.world.journal.violation.take().map_or(Ok(()), Err)
    }

    /// Every host is disturbed at once, as by a change of its file.
    pub fn hurry_everybody(&mut self) {
        for host in 0..=self.founders {
            if self.world.has_turn(host) {
                self.world.ask_quietly(host, Request::Apply);
            }
        }
    }

    /// EC2 refuses most of what hosts ask, or does not any more.
    pub fn throttle(&mut self, on: bool) {
        let throttle = Throttle::Bucket { capacity: 1, per_second: 0 };
        let faults = if on { Faults { throttle, ..Faults::default() } } else { Faults::default() };
        self.world.vpc.set_faults(faults);
    }

    /// Bytes that all hosts sent to each other so far.
    pub fn bytes(&self) -> u64 {
        self.world.journal.bytes
    }

    /// Calls of all hosts so far that only read.
    pub fn reads(&self) -> u64 {
        let calls = self.world.vpc.calls();
        let reads = [Action::DescribeRouteTables, Action::DescribeInstances];
        reads.iter().filter_map(|action| calls.get(action)).sum()
    }

    /// Simulated time so far.
    pub fn now(&self) -> Duration {
        self.world.now.since(Timestamp::ZERO)
    }

    /// Events so far.
    pub fn events(&self) -> u64 {
        self.world.journal.events
    }

    fn count(&self, is_it: impl Fn(&Node) -> bool) -> usize {
        self.world
            .machines
            .iter()
            .filter_map(|machine| machine.node.as_ref())
            .filter(|node| is_it(node))
            .count()
    }

    fn wait(&mut self, what: &str, is_there: impl Fn(&Growth) -> bool) -> Result<Duration, String> {
        let begun = self.world.now;
        while !is_there(self) {
            if self.world.now.since(begun) > PATIENCE {
                return Err(format!("{PATIENCE:?} of waiting for {what}"));
            }
            self.world.run_until(self.world.now + STEP);
            if let Some(law) = self.world.journal.violation.take() {
                return Err(law);
            }
        }
        Ok(self.world.now.since(begun))
    }
}
