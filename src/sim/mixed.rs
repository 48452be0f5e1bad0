//! Worlds in which packets take other paths than the VPC's: hosts outside EC2 on one link, hosts of one subnet that reach each
//! other directly, and hosts that reach each other by tunnels.

use std::{cmp::Reverse, net::IpAddr};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    climate::{Climate, Kind},
    machine::Machine,
    world::World,
};
use crate::{
    addr::{Address, Family},
    state::{Hop, TUNNEL, TunnelPeer},
};

impl World {
    /// A world of so many hosts on EC2, which reach those of their subnet directly if `direct`, and so many outside it on one link;
    /// with troubles, unless `calm`.
    pub fn mixed(seed: u64, (inside, outside): (usize, usize), direct: bool, calm: bool) -> World {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // In every other world those inside and those outside reach each other, too.
        let tunnels = outside > 0 && seed % 4 < 2;
        let quiet = Climate { outside, direct, tunnels, ..Climate::calm(inside + outside) };
        let quiet = if seed % 3 == 2 { quiet.with_v6() } else { quiet };
        let climate = if calm { quiet } else { quiet.of_the_path(&mut rng) };
        World::in_climate(seed, rng, climate)
    }

    /// Where a host hands what it sends to an address, if it is past the VPC.
    pub(super) fn handed_to(&self, host: usize, address: IpAddr) -> Option<usize> {
        let machine = &self.machines[host];
        let covering = machine.kernel.host_routes().iter();
        let covering = covering.filter(|(cidr, _)| cidr.contains(&address));
        let (_, Hop { via, interface, .. }) = covering.max_by_key(|(cidr, _)| cidr.prefix_len())?;
        match via {
            Some(via) => {
                let has = |other: &Machine| [other.address.ip(), other.kernel.link6().into()].contains(via);
                let shares = |other: &Machine| has(other) && other.shares_link(machine);
                self.machines.iter().position(shares)
            }
            None if interface == TUNNEL => self.at_the_other_end(machine, address),
            None => None,
        }
    }

    /// Who gets by the tunnel of a host what it sends to an address.
    fn at_the_other_end(&self, from: &Machine, address: IpAddr) -> Option<usize> {
        let ends = &from.kernel.tunnel()?.peers;
        let is_for = |end: &TunnelPeer| end.allowed.iter().any(|cidr| cidr.contains(&address));
        let (key, _) = ends.iter().find(|(_, end)| is_for(end))?;
        self.machines.iter().position(|machine| machine.tunnel_key() == *key)
    }

    /// From every host, packets for every owned range that should pass by the VPC do, and those that should not are handed to the owner.
    pub(super) fn misled(&self, hosts: &[usize]) -> Option<String> {
        let node = self.machines[*hosts.first()?].node.as_ref()?;
        for (piece, owner) in node.overview().ring().owners() {
            let to = self.machines.iter().position(|machine| machine.name == owner)?;
            let probes = [piece.start, Address(piece.end.0 - 1), Address(piece.start.0 + piece.len() / 2)];
            for (family, probe) in self.families().flat_map(|family| probes.map(|probe| (family, probe))) {
                let address = family.address(probe);
                for &from in hosts.iter().filter(|from| **from != to) {
                    let right = self.is_led(from, to, family).then_some(to);
                    let found = self.handed_to(from, address);
                    if found != right {
                        return Some(format!(
                            "{address} belongs to host {to}, and host {from} hands it to {found:?} instead of {right:?}"
                        ));
                    }
                }
            }
        }
        None
    }

    /// A host has no more routes to others than there are pieces of theirs, however they are cut.
    pub(super) fn too_many_host_routes(&self, hosts: &[usize]) -> Option<String> {
        let node = self.machines[*hosts.first()?].node.as_ref()?;
        let owners = node.overview().ring().owners();
        let cidrs = |from: usize| -> usize {
            let to = |owner| self.machines.iter().position(|machine| machine.name == owner);
            let is_led = |to: usize, family| to != from && self.is_led(from, to, family);
            let kinds = |to: usize| self.families().filter(|family| is_led(to, *family)).count();
            owners.iter().map(|(piece, owner)| piece.cidrs().len() * to(*owner).map_or(0, kinds)).sum()
        };
        let routes = |host: usize| self.machines[host].kernel.host_routes().len();
        let most = hosts.iter().max_by_key(|host| Reverse(cidrs(**host).saturating_sub(routes(**host))))?;
        (routes(*most) > cidrs(*most)).then(|| {
            format!("host {most} has {} routes to others, where {} would do", routes(*most), cidrs(*most))
        })
    }

    /// The kinds of addresses that containers have.
    fn families(&self) -> impl Iterator<Item = Family> {
        [Family::V4].into_iter().chain(self.climate.ipv6.map(Family::V6))
    }

    /// Whether packets of one kind from one host to another go past the VPC: on a link of both, or by a tunnel.
    fn is_led(&self, from: usize, to: usize, family: Family) -> bool {
        let (one, other) = (&self.machines[from], &self.machines[to]);
        let share_vpc = one.is_on_ec2() && other.is_on_ec2();
        match one.shares_link(other) {
            true => !share_vpc || self.climate.direct && family == Family::V4,
            false => !share_vpc && self.climate.tunnels,
        }
    }
}

impl Climate {
    /// Troubles that paths have to live through.
    fn of_the_path(self, rng: &mut ChaCha8Rng) -> Climate {
        let odds = [Kind::Crash, Kind::PowerLoss, Kind::Partition, Kind::Cut, Kind::Vandal, Kind::Freeze];
        let mut odds: Vec<(Kind, u32)> = odds.map(|kind| (kind, 10)).into();
        odds.push((Kind::FullDisk, 4));
        Climate {
            odds,
            storm: std::time::Duration::from_secs(rng.random_range(30..90)),
            trouble_every: std::time::Duration::from_secs(rng.random_range(2..8)),
            late_permille: 20,
            late_max: std::time::Duration::from_secs(2),
            ..self
        }
    }
}
