//! Calls of hosts to EC2.

use std::time::Duration;

use rand::RngExt;

use super::{Event, World};
use crate::{
    addr::{Address, Universe},
    sim::{machine::Power, vpc::Faults},
    state::{Ec2Action, Tables},
};

impl World {
    pub(super) fn cloud_delay(&mut self) -> Duration {
        let slow = Duration::from_millis(self.vpc.faults().delay_ms) / 2;
        slow + self.random(Duration::from_millis(1), Duration::from_millis(60))
    }

    pub(super) fn look_at_vpc(&mut self, host: usize, life: u32, universe: Universe, tables: Tables) {
        // A look that the process did not live to see changes nothing.
        if !self.is_alive(host, life) {
            return;
        }
        let begun = self.now;
        let faults = self.vpc.faults().clone();
        if faults.stale_ms > 0 {
            let stale_ms = self.rng.random_range(0..=faults.stale_ms);
            self.vpc.set_faults(Faults { stale_ms, ..faults.clone() });
        }
        let seen = self.machines[host].cloud.observe(self.now, &mut self.vpc, &universe, &tables);
        let left = self.vpc.faults().clone();
        self.vpc.set_faults(Faults { stale_ms: faults.stale_ms, ..left });
        let after = self.cloud_delay();
        self.schedule(after, Event::VpcSeen(host, life, begun, Box::new(seen)));
    }

    /// What was sent is carried out even if the process that sent it is gone.
    pub(super) fn act_on_vpc(&mut self, host: usize, life: u32, action: Ec2Action) {
        if self.machines[host].power == Power::Terminated {
            return;
        }
        let destination = action.route().map(|(_, destination)| destination);
        let before = destination.map(|destination| self.arriving(destination)).unwrap_or_default();
        let outcome = self.machines[host].cloud.apply(self.now, &mut self.vpc, &action);
        let after = destination.map(|destination| self.arriving(destination)).unwrap_or_default();
        let mut lost = before.difference(&after);
        let is_at_fault =
            |(of, _, address): &&(usize, _, Address)| *of == host || self.knows_as_anothers(host, *address);
        if let Some(lost) = lost.find(is_at_fault) {
            self.violate(format!("host {host} keeps packets from {lost:?}: {action}"));
        }
        if self.watched.contains(&host) {
            self.violate(format!(
                "host {host} writes to EC2 although nothing was to do: {action}: {outcome:?}"
            ));
        }
        self.note(|| format!("EC2: host {host}: {action}: {outcome:?}"));
        let after = self.cloud_delay();
        self.schedule(after, Event::Acted(host, life, action, Box::new(outcome)));
    }
}
