//! What passes between canaries: as the sender's host or the VPC forwards it at that moment.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::{Event, World};
use crate::{node::Input, probe::PORT, sim::machine::Power};

/// The port from which requests come.
const ASKS_FROM: u16 = 50_000;

impl World {
    pub(in crate::sim) fn make_canary(&mut self, host: usize, life: u32) {
        if self.is_alive(host, life) {
            self.sequence += 1;
            let cookie = self.sequence;
            let netns = self.machines[host].make_canary(cookie);
            self.feed(host, Input::CanaryMade(Ok(netns)));
        }
    }

    pub(in crate::sim) fn send_probe(&mut self, host: usize, to: SocketAddr, bytes: Bytes) {
        let machine = &self.machines[host];
        let Some(from) = self.canary_of(host, to.ip()) else { return };
        let by_vpc = || {
            let interface = match to.ip() {
                IpAddr::V4(to) => {
                    self.vpc.forward(&machine.cloud.interface, machine.canary_address()?, to)?
                }
                IpAddr::V6(to) => self.vpc.forward6(&machine.cloud.interface, to)?,
            };
            self.machines.iter().position(|one| one.cloud.interface == interface)
        };
        let Some(other) = self.handed_to(host, to.ip()).or_else(by_vpc) else { return };
        if !self.is_blocked(host, other) {
            let after = self.latency();
            let port = if to.port() == PORT { ASKS_FROM } else { PORT };
            self.schedule(after, Event::Probed(other, SocketAddr::new(from, port), to, bytes));
        }
    }

    pub(in crate::sim) fn probed(&mut self, host: usize, from: SocketAddr, to: SocketAddr, bytes: Bytes) {
        let machine = &self.machines[host];
        let is_there = self.canary_of(host, to.ip()) == Some(to.ip());
        if machine.power == Power::On && machine.node.is_some() && is_there {
            self.feed(host, Input::Probed(from, bytes));
        }
    }

    /// The address of a host's canary that is of the kind of this one.
    fn canary_of(&self, host: usize, kind: IpAddr) -> Option<IpAddr> {
        let address = self.machines[host].canary_address()?;
        match kind {
            IpAddr::V4(_) => Some(address.into()),
            IpAddr::V6(_) => self.climate.ipv6.map(|prefix| prefix.address(address.into()).into()),
        }
    }
}
