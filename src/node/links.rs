//! The links that this host is to have. They are made up anew only where something has changed that they follow from, so that
//! a host with a thousand containers compares two maps and copies none.

use std::{collections::BTreeMap, sync::Arc};

use ipnet::Ipv4Net;

use super::{Node, desired::link_mtu, memory::Attached};
use crate::{
    addr::Address,
    config::Config,
    state::{Far, Link, Netns},
};

/// Links by the address that each is for.
type Links = Arc<BTreeMap<Address, Link>>;

/// What they follow from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Basis {
    /// Which state of the containers.
    containers: u64,
    canary: Option<(Address, Netns)>,
    mtu: u32,
    range: Ipv4Net,
}

/// The links as they were made up last.
#[derive(Debug, Default)]
pub(super) struct WantedLinks(Option<(Basis, Links)>);

impl Node {
    /// The links that this host is to have under this configuration.
    pub(super) fn wanted_links(&self, config: &Config) -> Links {
        let basis = self.basis_of_links(config);
        match &self.wanted_links.0 {
            Some((known, links)) if *known == basis => links.clone(),
            Some(_) | None => Arc::new(self.links_by(&basis)),
        }
    }

    /// Makes them up, if they may be others by now.
    pub(super) fn renew_wanted_links(&mut self) {
        let links = self.wanted_links(&self.config);
        self.wanted_links = WantedLinks(Some((self.basis_of_links(&self.config), links)));
    }

    fn basis_of_links(&self, config: &Config) -> Basis {
        Basis {
            containers: self.containers.version(),
            canary: self.canary.link(),
            mtu: link_mtu(config, self.converge.host.seen()),
            range: config.ipam.range,
        }
    }

    fn links_by(&self, basis: &Basis) -> BTreeMap<Address, Link> {
        let &Basis { mtu, range, .. } = basis;
        let usual = |netns| Link { netns, mtu, range, far: Far::default(), faults: Vec::new() };
        let of = |attached: &Attached| {
            let (mtu, far) = (attached.mtu.unwrap_or(mtu), attached.far.clone());
            Some((attached.link_address()?, Link { mtu, far, ..usual(attached.netns.clone()) }))
        };
        let canary = basis.canary.clone().map(|(address, netns)| (address, usual(Some(netns))));
        self.linked().filter_map(of).chain(canary).collect()
    }

    /// Containers that are to have a link: those that are staying, once the disk has them. Otherwise a crash
    /// could leave the link of one container at the address that the disk has for another.
    fn linked(&self) -> impl Iterator<Item = &Attached> {
        let seen = self.converge.host.seen();
        let is_linked = move |one: &Attached| {
            let address = one.link_address();
            address.is_some_and(|address| seen.is_some_and(|host| host.links.contains_key(&address)))
        };
        let unkept = self.unkept_containers();
        let staying = self.containers.all().values().filter(|one| !one.leaving);
        staying.filter(move |one| !unkept.contains(one.ident.as_str()) || is_linked(one))
    }
}
