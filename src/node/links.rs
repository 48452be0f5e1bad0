//! What containers that are to be connected need of the host: links, and ports that lead to them. It is made up anew only where
//! something has changed that it follows from, so that a host with a thousand containers compares two maps and copies none.

use std::sync::Arc;

use ipnet::Ipv4Net;

use super::{
    Node,
    desired::{Connected, link_mtu},
    memory::Attached,
    overview::Overview,
};
use crate::{
    addr::Address,
    config::Config,
    state::{Far, Link, Netns},
};

/// What that follows from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Basis {
    /// Which state of the containers.
    containers: u64,
    canary: Option<(Address, Netns)>,
    mtu: u32,
    range: Ipv4Net,
}

/// What is needed, as it was made up last.
#[derive(Debug, Default)]
pub(super) struct Wanted(Option<(Basis, Connected)>);

impl Overview<'_> {
    /// What containers need of the host under this configuration.
    pub(super) fn connected_by(&self, config: &Config) -> Connected {
        let basis = self.basis_of_links(config);
        match &self.work.wanted.0 {
            Some((known, connected)) if *known == basis => connected.clone(),
            Some(_) | None => self.make_up(&basis),
        }
    }

    fn basis_of_links(&self, config: &Config) -> Basis {
        Basis {
            containers: self.local.containers.version(),
            canary: self.local.canary.link(),
            mtu: link_mtu(config, self.work.converge.host.seen()),
            range: config.ipam.range,
        }
    }

    fn make_up(&self, basis: &Basis) -> Connected {
        let &Basis { mtu, range, .. } = basis;
        let usual = |netns| Link { netns, mtu, range, far: Far::default(), faults: Vec::new() };
        let of = |attached: &Attached| {
            let (mtu, far) = (attached.mtu.unwrap_or(mtu), attached.far.clone());
            Some((attached.link_address()?, Link { mtu, far, ..usual(attached.netns.clone()) }))
        };
        let canary = basis.canary.clone().map(|(address, netns)| (address, usual(Some(netns))));
        let links = self.linked().filter_map(of).chain(canary).collect();
        Connected { links: Arc::new(links), ports: self.linked().flat_map(Attached::published).collect() }
    }

    /// Containers that are to have a link: those that are staying, once the disk has them. Otherwise a crash
    /// could leave the link of one container at the address that the disk has for another.
    pub(super) fn linked(&self) -> impl Iterator<Item = &Attached> {
        let seen = self.work.converge.host.seen();
        let is_linked = move |one: &Attached| {
            let address = one.link_address();
            address.is_some_and(|address| seen.is_some_and(|host| host.links.contains_key(&address)))
        };
        let unkept = self.ledger.unkept_containers();
        let staying = self.local.containers.all().values().filter(|one| !one.leaving);
        staying.filter(move |one| !unkept.contains(one.ident.as_str()) || is_linked(one))
    }
}

impl Node {
    /// Makes it up, if it may be something else by now.
    pub(super) fn renew_wanted(&mut self) {
        let basis = self.overview().basis_of_links(&self.facts.config);
        if self.work.wanted.0.as_ref().is_none_or(|(known, _)| *known != basis) {
            let connected = self.overview().make_up(&basis);
            self.work.wanted = Wanted(Some((basis, connected)));
        }
    }
}
