//! What the desired state follows from, as this node knows it.

use std::{collections::BTreeSet, net::Ipv6Addr, sync::Arc};

use super::overview::Overview;
use crate::{
    addr::{Address, Family, Prefix},
    config::Config,
    node::{
        facts::Leave,
        persist::memory::Attached,
        reconcile::{
            desired::{Connected, Ground, Verdict, link_mtu, rules, taken, uplink_names},
            links::{Anew, Basis},
        },
    },
    plan::Plan,
    state::{Actual, Desired, Far, Link, Remote, Rules},
};

impl<'a> Overview<'a> {
    /// MTU of the links of this host.
    pub(in crate::node) fn link_mtu(&self) -> u32 {
        link_mtu(&self.facts.config, self.work.converge.host.seen())
    }

    /// The interfaces that carry the traffic of this host.
    pub(in crate::node) fn uplink_names(&self) -> BTreeSet<String> {
        uplink_names(&self.facts.config, self.work.converge.host.seen())
    }

    /// The rules that a look at this host compares with.
    pub(in crate::node) fn rules_to_look_for(&self) -> Option<Rules> {
        match self.facts.leave {
            Leave::No => {
                let (seen, owned) = (self.work.converge.host.seen(), self.peers.ipam.settled());
                rules(&self.facts.config, seen, &owned, self.peers.paths.encrypted())
            }
            Leave::HandingOver | Leave::Withdrawing => None,
        }
    }

    pub(in crate::node) fn ground(&self) -> Ground<'a> {
        self.ground_of(&self.facts.config)
    }

    /// Whether the range may be used.
    pub(in crate::node) fn verdict(&self) -> Verdict {
        match self.work.converge.vpc.seen() {
            Some(vpc) => match taken(&self.facts.config, vpc) {
                Some(_) => {
                    let of_v4 = vpc.tables.iter().filter(|(side, _)| side.family == Family::V4);
                    Verdict::Refused(of_v4.flat_map(|(_, table)| &table.local).copied().collect())
                }
                None => Verdict::Sound,
            },
            // Outside EC2 there is nobody to ask.
            None if !self.facts.config.is_on_ec2() => Verdict::Sound,
            None if self.facts.identity.instance.is_none()
                || self.observed.last_reads.recalled(self.facts).is_some() =>
            {
                Verdict::Sound
            }
            None => Verdict::Unknown,
        }
    }

    /// What should be under this configuration.
    pub(in crate::node) fn desired(&self, config: &Config) -> Desired {
        self.ground_of(config).desired()
    }

    fn ground_of<'b>(&self, config: &'b Config) -> Ground<'b>
    where
        'a: 'b,
    {
        Ground {
            config,
            me: self.facts.identity.name,
            owned: self.peers.ipam.settled(),
            // A ring that a crash can still take must leave no routes: everybody would take them for those
            // of a cluster to join, and nobody would make another ring.
            owners: (self.peers.has_ring() && self.facts.ring_kept).then(|| self.peers.ipam.settled_owners()),
            connected: self.connected_by(config),
            lent: self.local.leases.lent(),
            remote: Remote {
                encrypted: self.peers.paths.encrypted().clone(),
                ..self.peers.paths.led().clone()
            },
            seen: self.work.converge.host.seen(),
            verdict: self.verdict(),
            interface: self.work.converge.vpc.seen().map(|vpc| &vpc.interface),
            full: self.work.quotas.full(self.facts.now),
            restless: self
                .work
                .converge
                .vpc
                .seen_at()
                .map(|begun| self.work.moves.before(begun))
                .unwrap_or_default(),
            spare_writes: self.spare_writes(),
            leaving: self.facts.leave != Leave::No,
            withdraw: self.facts.leave == Leave::Withdrawing,
        }
    }
}

impl Overview<'_> {
    /// What would change under this configuration.
    pub(in crate::node) fn plan_for(&self, config: &Config) -> Plan {
        let vpc = self.work.converge.believed();
        let actual = Actual { host: self.work.converge.host.seen(), vpc: vpc.as_deref() };
        let mut plan = Plan::new(&self.desired(config), actual);
        self.work.converge.drift.explain(&mut plan);
        if !self.peers.has_ring() && self.facts.leave == Leave::No {
            plan.notes.push("routes follow agreement: there is no ring yet".into());
        }
        plan.unread.extend(self.unread(config));
        plan.notes.extend(self.coming().into_iter().map(|note| note.what));
        plan
    }

    /// What containers need of the host under this configuration.
    fn connected_by(&self, config: &Config) -> Connected {
        let basis = self.basis_of_links(config);
        self.work.wanted.if_of(&basis).cloned().unwrap_or_else(|| self.make_up(&basis))
    }

    fn basis_of_links(&self, config: &Config) -> Basis {
        Basis {
            containers: self.local.containers.version(),
            canary: self.local.canary.link(),
            mtu: link_mtu(config, self.work.converge.host.seen()),
            range: config.ipam.range,
            prefix: config.network.ipv6,
        }
    }

    /// The IPv6 address of the container of this address whose packets are no larger than this.
    pub(super) fn ipv6_of(&self, address: Address, mtu: u32) -> Option<Ipv6Addr> {
        let prefix = self.basis_of_links(&self.facts.config).prefix_at(mtu)?;
        Some(prefix.address(address))
    }

    /// What makes the IPv6 address of a container, if it has one.
    pub(super) fn prefix_of(&self, attached: &Attached) -> Option<Prefix> {
        prefix_of(attached, &self.basis_of_links(&self.facts.config))
    }

    fn make_up(&self, basis: &Basis) -> Connected {
        let canary = basis
            .canary
            .clone()
            .map(|(address, netns)| (address, Arc::new(basis.link(Some(netns), basis.mtu, Far::default()))));
        let links = self.linked().filter_map(|one| self.link_of(one, basis)).chain(canary).collect();
        let ports = self.linked().flat_map(|one| one.published(prefix_of(one, basis))).collect();
        Connected { links: Arc::new(links), ports }
    }

    /// The link of a container.
    fn link_of(&self, attached: &Attached, basis: &Basis) -> Option<(Address, Arc<Link>)> {
        let address = attached.link_address()?;
        let known = self.work.wanted.links().get(&address).filter(|link| is_for(link, attached, basis));
        let made = || {
            let mtu = attached.mtu.unwrap_or(basis.mtu);
            Arc::new(basis.link(attached.netns.clone(), mtu, attached.far.clone()))
        };
        Some((address, known.cloned().unwrap_or_else(made)))
    }

    /// Containers that are to have a link: those that are staying, once the disk has them. Otherwise a crash
    /// could leave the link of one container at the address that the disk has for another.
    pub(in crate::node) fn linked(&self) -> impl Iterator<Item = &Attached> {
        self.linked_among(self.local.containers.all().values())
    }

    fn linked_among<'a>(
        &self,
        some: impl Iterator<Item = &'a Attached>,
    ) -> impl Iterator<Item = &'a Attached> {
        let seen = self.work.converge.host.seen();
        let is_linked = move |one: &Attached| {
            let address = one.link_address();
            address.is_some_and(|address| seen.is_some_and(|host| host.links.contains_key(&address)))
        };
        let unkept = self.ledger.unkept_containers();
        let staying = some.filter(|one| !one.leaving);
        staying.filter(move |one| !unkept.contains(one.ident.as_str()) || is_linked(one))
    }

    /// It, made up for the configuration in force, if that may be something else by now.
    pub(in crate::node) fn wanted_anew(&self) -> Option<Anew> {
        let basis = self.basis_of_links(&self.facts.config);
        if self.work.wanted.if_of(&basis).is_some() {
            return None;
        }
        if !self.work.wanted.is_of_other_containers(&basis) {
            let connected = self.make_up(&basis);
            return Some(Anew { basis, of: None, connected });
        }
        let touched = self.local.containers.touched();
        let is_touched = |one: &&Attached| one.link_address().is_some_and(|one| touched.contains(&one));
        let of_touched = self.local.containers.all().values().filter(is_touched);
        let linked: Vec<&Attached> = self.linked_among(of_touched).collect();
        let links = linked.iter().filter_map(|one| self.link_of(one, &basis)).collect();
        let ports = linked.iter().flat_map(|one| one.published(prefix_of(one, &basis))).collect();
        let connected = Connected { links: Arc::new(links), ports };
        Some(Anew { basis, of: Some(touched.clone()), connected })
    }

    /// Whether what was made up last, part by part, is what would be made up of all now.
    pub(in crate::node) fn is_made_up(&self) -> bool {
        let basis = self.basis_of_links(&self.facts.config);
        self.work.wanted.if_of(&basis) == Some(&self.make_up(&basis))
    }
}

/// What makes the IPv6 address of a container, if it has one.
fn prefix_of(attached: &Attached, basis: &Basis) -> Option<Prefix> {
    basis.prefix_at(attached.mtu.unwrap_or(basis.mtu))
}

/// Whether a link is what this container is to have.
fn is_for(link: &Link, attached: &Attached, basis: &Basis) -> bool {
    let same_netns = match (&link.netns, &attached.netns) {
        // Most of them share the path, which is slow to compare.
        (Some(one), Some(other)) => {
            one.is_same(other) && (Arc::ptr_eq(&one.path, &other.path) || one.path == other.path)
        }
        (one, other) => one.is_none() && other.is_none(),
    };
    let mtu = attached.mtu.unwrap_or(basis.mtu);
    let addresses = (basis.range, basis.prefix_at(mtu));
    same_netns && link.mtu == mtu && (link.range, link.prefix) == addresses && link.far == attached.far
}
