//! What goes wrong: crashes, partitions, cut connections, full disks, bad days at EC2, colleagues and
//! vandals; and how all is made well in the end.

use std::time::Duration;

use ipnet::Ipv4Net;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    climate::{Climate, Kind},
    machine::{Machine, Power},
    vpc::{Action, Call, Caller, Faults, RouteTarget, Targets, Throttle},
    world::{Event, World},
};
use crate::{addr::Range, state::TableId};

impl World {
    /// A world in which hosts lose their stores, or are given old ones back, while others are taken for dead and come back.
    pub fn forgetful(seed: u64) -> World {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let climate = Climate::forgetful(&mut rng);
        World::in_climate(seed, rng, climate)
    }

    /// A world of many hosts, with some trouble.
    pub fn crowd(seed: u64, hosts: usize) -> World {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        World::in_climate(seed, rng, Climate::crowd(hosts))
    }

    pub(super) fn schedule_trouble(&mut self) {
        if !self.climate.trouble_every.is_zero() {
            let after = self.random(Duration::ZERO, self.climate.trouble_every * 2);
            self.schedule(after, Event::Trouble);
        }
    }

    pub(super) fn make_trouble(&mut self) {
        if !self.stormy {
            return;
        }
        self.schedule_trouble();
        if self.now < self.quiet_until {
            return;
        }
        let sum: u32 = self.climate.odds.iter().map(|(_, odds)| odds).sum();
        if sum == 0 {
            return;
        }
        let mut drawn = self.rng.random_range(0..sum);
        let mut odds = self.climate.odds.iter();
        let kind = odds.find_map(|&(kind, odds)| match drawn.checked_sub(odds) {
            Some(rest) => {
                drawn = rest;
                None
            }
            None => Some(kind),
        });
        let host = self.rng.random_range(0..self.machines.len());
        self.note(|| format!("trouble: {kind:?} {host}"));
        match kind {
            Some(Kind::Crash) => {
                let pause = self.random(Duration::from_millis(20), Duration::from_secs(8));
                self.crash(host, pause);
            }
            Some(Kind::PowerLoss) => self.power_off(host, false),
            Some(Kind::Partition) => self.part(),
            Some(Kind::Cut) => self.cut_one(),
            Some(Kind::Weather) => self.spoil_weather(),
            Some(Kind::Colleague) => self.meddle_with_vpc(),
            Some(Kind::Vandal) => self.meddle_with_host(host),
            Some(Kind::LostStore) => self.lose_store(host),
            Some(Kind::CopiedDisk) => self.copy_disk(host),
            Some(Kind::SetBackDisk) => self.replace_disk(host),
            Some(Kind::Freeze) => self.freeze(host),
            Some(Kind::ClockJump) => self.jump_clock(host),
            Some(Kind::FullDisk) => self.fill_disk(host),
            Some(Kind::Terminate) => self.terminate(host),
            Some(Kind::Retire) => self.users.retire(host),
            Some(Kind::Usurp) => self.take_for_dead(host, false),
            None => {}
        }
    }

    /// While there is no ring: a host crashes just after it said something, and another that may have
    /// heard it is cut off. Whoever forgets a promise then makes a second ring with the rest.
    pub(super) fn strike_elector(&mut self, host: usize) {
        if !self.stormy || self.climate.strike_permille == 0 || !self.chance(self.climate.strike_permille) {
            return;
        }
        if self.machines[host].node.as_ref().is_none_or(|node| !node.overview().ring().is_empty()) {
            return;
        }
        let pause = self.random(Duration::from_millis(20), Duration::from_millis(500));
        self.crash(host, pause);
        let other = self.rng.random_range(0..self.machines.len());
        let lasts = self.random(Duration::from_secs(5), Duration::from_secs(15));
        for third in (0..self.machines.len()).filter(|third| *third != other) {
            let pair = (other.min(third), other.max(third));
            if self.net.blocked.insert(pair) {
                self.schedule(lasts, Event::Pass(pair.0, pair.1));
            }
        }
    }

    // ===== the network =====

    /// Some hosts do not reach some others for a while.
    fn part(&mut self) {
        let hosts = self.machines.len();
        let sides: Vec<bool> = (0..hosts).map(|_| self.rng.random()).collect();
        let single: bool = self.rng.random();
        let lasts = self.random(Duration::from_millis(500), Duration::from_secs(30));
        for one in 0..hosts {
            for other in one + 1..hosts {
                let apart = sides[one] != sides[other];
                let chosen = if single { self.chance(200) } else { apart };
                if chosen && self.net.blocked.insert((one, other)) {
                    self.schedule(lasts, Event::Pass(one, other));
                }
            }
        }
    }

    pub(super) fn let_pass(&mut self, one: usize, other: usize) {
        if self.net.blocked.remove(&(one, other)) {
            self.unstall(|host, peer| (host.min(peer), host.max(peer)) == (one, other));
        }
    }

    fn cut_one(&mut self) {
        let all = self.net.wires.all();
        if !all.is_empty() {
            let chosen = all[self.rng.random_range(0..all.len())];
            self.cut(chosen);
        }
    }

    // ===== EC2 =====

    fn spoil_weather(&mut self) {
        let mut faults = Faults::default();
        let mutating = [Action::CreateRoute, Action::ReplaceRoute, Action::DeleteRoute];
        if self.rng.random() {
            faults.stale_ms = self.rng.random_range(500..6000);
        }
        if self.chance(300) {
            faults.delay_ms = self.rng.random_range(100..5000);
        }
        if self.chance(300) {
            let (capacity, per_second) = (self.rng.random_range(1..5), self.rng.random_range(1..4));
            faults.throttle = Throttle::Bucket { capacity, per_second };
        }
        if self.chance(400) {
            let lost = mutating.map(|action| (action, self.rng.random_range(0..4)));
            faults.lose = lost.into();
        }
        if self.chance(300) {
            let all = [Action::DescribeRouteTables, Action::CreateRoute, Action::DeleteRoute];
            faults.fail = all.map(|action| (action, self.rng.random_range(0..6))).into();
        }
        self.note(|| format!("weather: {faults:?}"));
        self.vpc.set_faults(faults);
        let lasts = self.random(Duration::from_secs(2), Duration::from_secs(30));
        self.schedule(lasts, Event::Weather);
    }

    pub(super) fn clear_weather(&mut self) {
        self.vpc.set_faults(Faults::default());
    }

    /// A colleague with a console deletes a route, turns it elsewhere, or adds one.
    fn meddle_with_vpc(&mut self) {
        let tables: Vec<TableId> = self.vpc.tables().cloned().collect();
        let table = tables[self.rng.random_range(0..tables.len())].clone();
        let range = Range::from(self.climate.range);
        let routes: Vec<Ipv4Net> = self
            .vpc
            .routes(&table)
            .into_iter()
            .filter(|route| {
                range.covers(route.destination.into()) && matches!(route.target, RouteTarget::Interface(_))
            })
            .map(|route| route.destination)
            .collect();
        let chosen = (!routes.is_empty()).then(|| routes[self.rng.random_range(0..routes.len())]);
        let anywhere = {
            let length = self.rng.random_range(self.climate.range.prefix_len()..=30);
            let address = range.start.0 + self.rng.random_range(0..range.len());
            Ipv4Net::new_assert(address.into(), length).trunc()
        };
        let number = self.rng.random_range(0..self.machines.len());
        let elsewhere = Targets::interface(self.machines[number].cloud.interface.0.clone());
        let text = table.0.clone();
        let mut alive = self.machines.iter().filter(|machine| machine.power != Power::Terminated);
        let has_ring = alive.any(Machine::keeps_ring);
        let (destination, call) = match (self.rng.random_range(0..4), chosen) {
            (0, Some(route)) => (route, delete(text, route)),
            // Where nobody has a ring everybody would wait for whom such a route leads to.
            (1, Some(route)) if has_ring => (route, replace(text, route, elsewhere)),
            (2, _) if has_ring => (anywhere, create(text, anywhere, elsewhere)),
            (_, _) => {
                let gateway = Targets { gateway: Some("igw-1".to_owned()), ..Targets::default() };
                (anywhere, create(text, anywhere, gateway))
            }
        };
        self.routes.tampered.insert(destination);
        let done = self.vpc.call(self.now, &Caller::Console, &call).result;
        let foreign = matches!(&call, Call::CreateRoute { targets, .. } if targets.gateway.is_some());
        if foreign && done.is_ok() {
            self.routes.conflicts.insert((table, destination));
        }
        self.note(|| format!("a colleague: {call:?}: {done:?}"));
    }

    fn remove_conflicts(&mut self) {
        for (table, destination) in std::mem::take(&mut self.routes.conflicts) {
            let call = delete(table.0, destination);
            // It may be gone already.
            let _ = self.vpc.call(self.now, &Caller::Console, &call);
        }
    }

    // ===== the host =====

    fn meddle_with_host(&mut self, host: usize) {
        let kernel = &mut self.machines[host].kernel;
        let linked = kernel.linked();
        let mut spoilt = None;
        match self.rng.random_range(0..4) {
            0 => kernel.flush(),
            1 => kernel.close_forward(),
            kind => {
                if !linked.is_empty() {
                    let address = linked[self.rng.random_range(0..linked.len())];
                    match kind {
                        2 => {
                            kernel.lose_link(address);
                            spoilt = Some(address);
                        }
                        _ => {
                            // Whose namespace is not known cannot be mended.
                            kernel.break_link(address);
                            spoilt = Some(address);
                        }
                    }
                }
            }
        }
        if let Some(address) = spoilt {
            self.users.link_lost(host, address);
        }
        if self.chance(700) {
            let life = self.machines[host].life;
            self.schedule(Duration::from_millis(5), Event::Disturb(host, life));
        }
    }

    // ===== in the end =====

    /// All that is broken is mended, and nobody asks for anything more.
    pub(super) fn make_well(&mut self) {
        self.stormy = false;
        for (one, other) in std::mem::take(&mut self.net.blocked) {
            self.net.blocked.remove(&(one, other));
        }
        self.unstall(|_, _| true);
        self.clear_weather();
        self.remove_conflicts();
        for host in 0..self.machines.len() {
            self.power_on(host);
            self.schedule(Duration::from_secs(1), Event::Start(host));
        }
        self.note(|| "all is made well".to_owned());
    }
}

fn create(table: String, destination: Ipv4Net, targets: Targets) -> Call {
    Call::CreateRoute { table, destination: destination.into(), targets, dry_run: false }
}

fn replace(table: String, destination: Ipv4Net, targets: Targets) -> Call {
    Call::ReplaceRoute { table, destination: destination.into(), targets, dry_run: false }
}

fn delete(table: String, destination: Ipv4Net) -> Call {
    Call::DeleteRoute { table, destination: destination.into(), dry_run: false }
}
