//! What passes between canaries: as the sender's host or the VPC forwards it at that moment.

use std::net::{IpAddr, SocketAddrV4};

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

    pub(in crate::sim) fn send_probe(&mut self, host: usize, to: SocketAddrV4, bytes: Bytes) {
        let machine = &self.machines[host];
        let Some(from) = machine.canary_address() else { return };
        let by_vpc = || {
            let interface = self.vpc.forward(&machine.cloud.interface, from, *to.ip())?;
            self.machines.iter().position(|one| one.cloud.interface == interface)
        };
        let Some(other) = self.handed_to(host, IpAddr::V4(*to.ip())).or_else(by_vpc) else { return };
        if !self.is_blocked(host, other) {
            let after = self.latency();
            let port = if to.port() == PORT { ASKS_FROM } else { PORT };
            self.schedule(after, Event::Probed(other, SocketAddrV4::new(from, port), to, bytes));
        }
    }

    pub(in crate::sim) fn probed(&mut self, host: usize, from: SocketAddrV4, to: SocketAddrV4, bytes: Bytes) {
        let machine = &self.machines[host];
        if machine.power == Power::On && machine.node.is_some() && machine.canary_address() == Some(*to.ip())
        {
            self.feed(host, Input::Probed(from, bytes));
        }
    }
}
