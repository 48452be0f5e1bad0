//! What happens to processes, disks and power: crashes, hosts that freeze, full disks, lost stores, and
//! hosts that are gone for good.

use std::time::Duration;

use rand::RngExt;

use super::{
    machine::Power,
    world::{Event, World},
};
use crate::{
    ipam::Ring,
    node::{Input, persist::memory::Memory},
};

impl World {
    pub(super) fn crash(&mut self, host: usize, pause: Duration) {
        if self.machines[host].node.is_none() {
            return;
        }
        let saved = self.rng.random();
        self.machines[host].stop(saved);
        self.hang_up(host, false);
        self.forget_process(host);
        self.schedule(pause, Event::Start(host));
    }

    pub(super) fn power_off(&mut self, host: usize, long: bool) {
        if self.machines[host].power != Power::On {
            return;
        }
        let saved = self.rng.random();
        self.machines[host].stop(saved);
        self.machines[host].power = Power::Off;
        self.machines[host].kernel.reboot();
        self.hang_up(host, true);
        self.forget_process(host);
        self.users.rebooted(host);
        if long && self.machines[host].is_on_ec2() {
            let instance = self.machines[host].cloud.instance.clone();
            self.vpc.set_power(self.now, &instance, super::vpc::Power::Stopped);
        }
        let off = self.random(Duration::from_secs(3), Duration::from_secs(if long { 40 } else { 25 }));
        self.schedule(off, Event::PowerOn(host));
    }

    /// A host that has given its ranges away is stopped, and comes back.
    pub(super) fn leave(&mut self, host: usize, pause: Duration) {
        self.crash(host, pause);
    }

    pub(super) fn power_on(&mut self, host: usize) {
        if self.machines[host].power == Power::Off {
            self.machines[host].power = Power::On;
            if self.machines[host].is_on_ec2() {
                let instance = self.machines[host].cloud.instance.clone();
                self.vpc.set_power(self.now, &instance, super::vpc::Power::Running);
            }
            self.start(host);
        }
    }

    /// A host that uses nothing is off for so long that somebody takes over what it owns; then it
    /// comes back.
    pub(super) fn take_for_dead(&mut self, host: usize, emptied: bool) {
        if self.stormy && !emptied && self.has_turn(host) && self.net.blocked.is_empty() {
            self.vacate(host);
            self.machines[host].until.calm = self.now + Duration::from_secs(5);
            return self.schedule(Duration::from_secs(4), Event::Emptied(host));
        }
        let node = self.machines[host].node.as_ref();
        let used = node.is_none_or(|node| {
            !node.overview().allocations().is_empty() || node.overview().ring().is_empty()
        });
        // What was freed and not yet written would be in use again.
        let kept = Memory::read(&self.machines[host].disk.now)
            .is_ok_and(|memory| !memory.ipam.allocations.is_empty());
        if !used && !kept && !self.users.uses(host) && self.net.blocked.is_empty() {
            self.power_off(host, true);
            self.schedule(Duration::from_secs(15), Event::Usurp(host));
        }
    }

    pub(super) fn take_over(&mut self, host: usize) {
        if self.stormy
            && self.machines[host].power == Power::Off
            && self.net.blocked.is_empty()
            && self.is_spread(host)
        {
            // It hears of it when it comes back; until then it is not asked for anything.
            let hears_by = self.now + Duration::from_secs(70);
            (self.machines[host].until.calm, self.machines[host].until.unaware) = (hears_by, hears_by);
            self.machines[host].until.disk_full = self.now;
            self.usurp(host);
        }
    }

    /// The process gets no turn for a while: its machine is moved, or it is out of memory. Its clock
    /// goes on, or, as on a machine that sleeps, stands still.
    pub(super) fn freeze(&mut self, host: usize) {
        // One that is to hear something by then is not kept from it.
        if self.machines[host].node.is_none() || self.machines[host].until.calm > self.now {
            return;
        }
        let lasts = self.random(Duration::from_millis(50), Duration::from_secs(40));
        let asleep = self.rng.random();
        self.machines[host].freeze(self.now, lasts, asleep);
    }

    /// All that was to come in a while is over at once, without a message from anybody meanwhile.
    pub(super) fn jump_clock(&mut self, host: usize) {
        if self.machines[host].until.calm > self.now || !self.has_turn(host) {
            return;
        }
        let ahead = self.random(Duration::from_secs(1), Duration::from_secs(7200));
        self.machines[host].jump_clock(ahead);
        self.feed(host, Input::Woken);
    }

    /// Nothing can be saved for a while.
    pub(super) fn fill_disk(&mut self, host: usize) {
        let lasts = self.random(Duration::from_millis(100), Duration::from_secs(30));
        // One that could not save that it was taken for dead would own again what it lost, after each restart.
        if self.machines[host].until.calm > self.now {
            return;
        }
        self.machines[host].until.disk_full = self.now + lasts;
    }

    fn forget_process(&mut self, host: usize) {
        self.routes.written.retain(|(of, _, _), _| *of != host);
        self.users.process_ended(host);
    }

    /// The host is gone for good, and so is whatever ran on it.
    pub(super) fn terminate(&mut self, host: usize) {
        let alive = self.machines.iter().filter(|machine| machine.power != Power::Terminated).count();
        // A majority must be left to agree on the first ring.
        if alive - 1 <= self.machines.len() / 2 || self.machines[host].power != Power::On {
            return;
        }
        self.end(host);
    }

    /// The instance of a host is terminated.
    pub(super) fn end(&mut self, host: usize) {
        self.power_off(host, false);
        self.machines[host].power = Power::Terminated;
        self.users.host_lost(host);
        let instance = self.machines[host].cloud.instance.clone();
        self.vpc.set_power(self.now, &instance, super::vpc::Power::Terminated);
    }

    /// The store of a host is lost. Only one that has long been down, in a network that is whole: what
    /// it gave away must have been heard by somebody other than its heir.
    pub(super) fn lose_store(&mut self, host: usize) {
        let agreed = self.machines.iter().all(|machine| {
            machine.power == Power::Terminated
                || machine.node.as_ref().is_some_and(|node| !node.overview().ring().is_empty())
        });
        if !agreed || !self.net.blocked.is_empty() {
            return;
        }
        self.crash(host, Duration::from_secs(40));
        self.schedule(Duration::from_secs(20), Event::Erase(host));
    }

    pub(super) fn erase_store(&mut self, host: usize) {
        if !self.stormy || self.machines[host].power != Power::On || !self.is_spread(host) {
            return;
        }
        let torn: bool = self.rng.random();
        let machine = &mut self.machines[host];
        match torn {
            true => machine.tear_store(),
            false => machine.disk.now.clear(),
        }
        // One whose link is broken cannot be mended when nobody knows its namespace.
        let linked = machine.kernel.sound();
        // It has to learn first what they use.
        machine.until.calm = self.now + Duration::from_secs(40);
        self.note(|| format!("host {host} loses its store; links {linked:?}"));
        self.users.store_lost(host, &linked);
    }

    /// Somebody copies the disk of a host, if there is a ring on it.
    pub(super) fn copy_disk(&mut self, host: usize) {
        let machine = &mut self.machines[host];
        if machine.keeps_ring() {
            machine.disk.copy = Some(machine.disk.now.clone());
        }
    }

    /// A host is switched off, to be given the disk of which there is a copy, while the network is whole: what it gave away since, those
    /// know to whom it gave it.
    pub(super) fn replace_disk(&mut self, host: usize) {
        let mut others = self.machines.iter().filter(|other| other.power != Power::Terminated);
        let agreed =
            others.all(|other| other.node.as_ref().is_some_and(|node| !node.overview().ring().is_empty()));
        if !agreed || !self.net.blocked.is_empty() || self.machines[host].disk.copy.is_none() {
            return self.copy_disk(host);
        }
        self.power_off(host, true);
        self.schedule(Duration::from_secs(2), Event::SetBack(host));
    }

    pub(super) fn set_disk_back(&mut self, host: usize) {
        if !self.stormy || self.machines[host].power != Power::Off {
            return;
        }
        let machine = &mut self.machines[host];
        let Some(copy) = machine.disk.copy.clone() else { return };
        let Ok(Memory { ipam, .. }) = Memory::read(&copy) else { return };
        machine.disk.now = copy;
        machine.untidy = true;
        // It has to hear first what it did meanwhile.
        let hears_by = self.now + Duration::from_secs(90);
        (machine.until.calm, machine.until.unaware) = (hears_by, hears_by);
        machine.until.disk_full = self.now;
        self.note(|| {
            format!("the disk of host {host} is set back to {:?}", ipam.ring.map(|ring| ring.owners()))
        });
        self.users.disk_set_back(host, &ipam.allocations);
        self.schedule(Duration::from_secs(20), Event::TidyUp(host));
    }

    /// Somebody tells a host which of those who have addresses, by its old disk, are gone.
    pub(super) fn tidy_up(&mut self, host: usize) {
        let knows = self.machines[host].node.as_ref().is_some_and(|node| !node.overview().ring().is_empty());
        match (self.machines[host].power, knows) {
            (Power::Terminated, _) => {}
            (Power::On, true) => {
                self.free_the_gone(host);
                self.machines[host].untidy = false;
            }
            (Power::On | Power::Off, _) => self.schedule(Duration::from_secs(5), Event::TidyUp(host)),
        }
    }

    /// Whether the host is down and all others hold the ring that it saved.
    fn is_spread(&self, host: usize) -> bool {
        let machine = &self.machines[host];
        let Ok(Memory { ipam, .. }) = Memory::read(&machine.disk.now) else { return false };
        let saved = ipam.ring.as_ref().map(Ring::owners).unwrap_or_default();
        let others = self.machines.iter().filter(|other| other.name != machine.name);
        let mut alive = others.filter(|other| other.power != Power::Terminated);
        machine.node.is_none()
            && alive
                .all(|other| other.node.as_ref().is_some_and(|node| node.overview().ring().owners() == saved))
    }

    /// A host that has left ends; its store is erased.
    pub(super) fn finish(&mut self, host: usize) {
        self.machines[host].stop(false);
        self.machines[host].disk.now.clear();
        self.hang_up(host, false);
        self.forget_process(host);
    }
}
