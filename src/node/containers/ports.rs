//! Ports of the host that are to lead into containers: each to one.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use rand::Rng;

use super::local::Local;
use crate::{
    addr::{Address, Prefix},
    node::{
        facts::Facts,
        persist::memory::Attached,
        protocol::request::{Refusal, RefusalKind},
        reconcile::desired::local_setting,
    },
    state::{Host, Port, PortRange, Published},
};

/// Ports of one container. Each costs an element of a map.
const PORTS_MAX: usize = 4096;
/// Ports that are chosen where none is asked for: those that nobody registers.
const CHOSEN: std::ops::RangeInclusive<u16> = 49_153..=65_535;

impl Attached {
    /// What it publishes, where this makes its address of IPv6.
    pub(in crate::node) fn published(&self, prefix: Option<Prefix>) -> impl Iterator<Item = Published> {
        let to = self.link_address();
        self.ports.iter().flat_map(move |port| to.into_iter().flat_map(move |to| port.to(to, prefix)))
    }

    /// Why its ports do not lead to it yet.
    pub(in crate::node) fn missing_ports(
        &self,
        host: Option<&Host>,
        prefix: Option<Prefix>,
    ) -> Option<String> {
        let first = self.ports.first()?;
        let link = crate::state::link_name(self.link_address()?);
        let in_force = host.and_then(|host| host.ports.as_ref());
        let published: Vec<Published> = self.published(prefix).collect();
        if !published.iter().all(|one| in_force.is_some_and(|ports| ports.contains(one))) {
            return Some(format!("its port {}", first.of_host()));
        }
        let local = host.and_then(|host| host.sysctls.get(&local_setting(&link)));
        let is_shut = published.iter().any(Published::is_at_127) && local.map(String::as_str) != Some("1");
        is_shut.then(|| format!("its port {} at 127.0.0.1", first.of_host()))
    }
}

/// The ports of a host that lead to this container. One at all addresses leads there for packets of both kinds, or of IPv6 alone.
pub(super) fn ports_to(host: &Host, address: Address) -> Vec<Port> {
    let published = host.ports.iter().flatten().filter(|published| published.to == address);
    let (v4, v6): (Vec<&Published>, Vec<&Published>) = published.partition(|one| one.prefix.is_none());
    let of_both: BTreeSet<Port> = v4.iter().map(|one| one.port).collect();
    let alone = v6.iter().map(|one| one.port).filter(|port| !of_both.contains(port));
    let alone =
        alone.map(|port| Port { host_ip: port.host_ip.or(Some(Ipv6Addr::UNSPECIFIED.into())), ..port });
    of_both.iter().copied().chain(alone).take(PORTS_MAX).collect()
}

/// Refuses what leads nowhere: ports of IPv6 alone where containers have no address of it, and those at ::1, from where the kernel
/// passes nothing on.
pub(super) fn check_kinds(facts: &Facts, wanted: &[PortRange]) -> Result<(), Refusal> {
    let (has_v6, v4) = (facts.config.network.ipv6.is_some(), Ipv4Addr::UNSPECIFIED.into());
    for port in wanted.iter().map(|range| range.first) {
        let wrong = match port.host_ip {
            Some(IpAddr::V6(Ipv6Addr::LOCALHOST)) => (
                "the kernel leads nothing from ::1 into a container",
                "publish it at 127.0.0.1, or at another address",
            ),
            _ if !has_v6 && !port.is_of(v4) => {
                ("containers have no addresses of IPv6", "set [network] ipv6, see weavers-ipv6(7)")
            }
            _ => continue,
        };
        let (why, hint) = wrong;
        let message = format!("port {} cannot be published: {why}", port.of_host());
        return Err(Refusal::new(RefusalKind::Invalid, message).hint(hint));
    }
    Ok(())
}

impl Local {
    /// These ports for the container of this name, with those chosen that are left to us: of a range the first that neither another container
    /// nor a program of the host has. A port that another one has is refused.
    pub(super) fn chosen_ports(
        &mut self,
        ident: &str,
        wanted: Vec<PortRange>,
        in_use: &[Port],
    ) -> Result<Vec<Port>, Refusal> {
        if wanted.len() > PORTS_MAX {
            let message = format!("{} ports are published; {PORTS_MAX} are the most", wanted.len());
            return Err(Refusal::new(RefusalKind::Invalid, message));
        }
        let mut ports: Vec<Port> = Vec::new();
        let wanted: BTreeSet<PortRange> = wanted.into_iter().collect();
        let before = self.containers.all().get(ident).map(|one| one.ports.clone()).unwrap_or_default();
        let (wide, single): (Vec<PortRange>, Vec<PortRange>) =
            wanted.into_iter().partition(PortRange::is_wide);
        let (open, named): (Vec<Port>, Vec<Port>) =
            single.into_iter().map(|range| range.first).partition(|port| port.host == 0);
        for port in named {
            if let Some(taken) = ports.iter().find(|other| other.overlaps(&port)) {
                let message = format!("port {} is to lead to {taken} and to {port}", port.of_host());
                return Err(Refusal::new(RefusalKind::Invalid, message));
            }
            if let Some(other) = self.publisher_of(ident, &port) {
                let message = format!("port {} is published by {}", port.of_host(), other.called());
                let hint = "stop that container, or choose another port";
                return Err(Refusal::new(RefusalKind::Taken, message).hint(hint));
            }
            ports.push(port);
        }
        // Whoever asks again is answered the same.
        let again = |ports: &[Port], is_it: &dyn Fn(&Port) -> bool| {
            let free = |one: &&Port| !ports.iter().any(|other| other.overlaps(one));
            before.iter().filter(|one| is_it(one)).find(free).copied()
        };
        for range in wide {
            let port = again(&ports, &|one| range.ports().any(|port| port == *one));
            let port = port.or_else(|| self.first_free(ident, &ports, range, in_use));
            let none = || {
                let hint = "stop what has them, or choose other ports";
                Refusal::new(RefusalKind::Taken, format!("no port of {range} is free")).hint(hint)
            };
            ports.push(port.ok_or_else(none)?);
        }
        for port in open {
            let chosen = again(&ports, &|one| Port { host: 0, ..*one } == port);
            let chosen = chosen.or_else(|| self.open_port(ident, &ports, port));
            let none = || Refusal::new(RefusalKind::Failed, format!("no port is free of {CHOSEN:?}"));
            ports.push(chosen.ok_or_else(none)?);
        }
        ports.sort();
        Ok(ports)
    }

    fn first_free(&self, ident: &str, taken: &[Port], range: PortRange, in_use: &[Port]) -> Option<Port> {
        range.ports().find(|port| {
            !taken.iter().any(|other| other.overlaps(port))
                && !in_use.contains(port)
                && self.publisher_of(ident, port).is_none()
        })
    }

    fn open_port(&mut self, ident: &str, taken: &[Port], port: Port) -> Option<Port> {
        let count = u32::from(CHOSEN.end() - CHOSEN.start()) + 1;
        let from = self.rng.next_u32() % count;
        let candidates = (0..count).map(|step| CHOSEN.start() + ((from + step) % count) as u16);
        let mut candidates = candidates.map(|host| Port { host, ..port });
        candidates.find(|port| {
            !taken.iter().any(|other| other.overlaps(port)) && self.publisher_of(ident, port).is_none()
        })
    }

    /// Another container that has the port.
    fn publisher_of(&self, ident: &str, port: &Port) -> Option<&Attached> {
        let others = self.containers.all().values().filter(|one| one.ident != ident && !one.leaving);
        others.into_iter().find(|one| one.ports.iter().any(|other| other.overlaps(port)))
    }
}
