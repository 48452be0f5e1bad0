//! What containers that are to be connected need of the host: links, and ports that lead to them. It is made up anew only where
//! something has changed that it follows from, so that a host with a thousand containers compares two maps and copies none.

use std::{collections::BTreeSet, sync::Arc};

use ipnet::Ipv4Net;

use super::desired::Connected;
use crate::{
    addr::{Address, MTU6_MIN, Prefix},
    state::{Far, Link, Links, Netns},
};

/// What that follows from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::node) struct Basis {
    /// Which state of the containers.
    pub containers: u64,
    pub canary: Option<(Address, Netns)>,
    pub mtu: u32,
    pub range: Ipv4Net,
    pub prefix: Option<Prefix>,
}

impl Basis {
    /// What makes IPv6 addresses of containers whose packets are no larger than this: too small ones have none.
    pub fn prefix_at(&self, mtu: u32) -> Option<Prefix> {
        self.prefix.filter(|_| mtu >= MTU6_MIN)
    }

    /// A link as it is to be.
    pub fn link(&self, netns: Option<Netns>, mtu: u32, far: Far) -> Link {
        let prefix = self.prefix_at(mtu);
        Link { netns, mtu, range: self.range, prefix, far, faults: Vec::new() }
    }
}

/// What is needed, as it was made up last.
#[derive(Debug, Default)]
pub(in crate::node) struct Wanted(Option<(Basis, Connected)>);

impl Wanted {
    /// What was made up, if it follows from this.
    pub fn if_of(&self, basis: &Basis) -> Option<&Connected> {
        self.0.as_ref().filter(|(known, _)| known == basis).map(|(_, connected)| connected)
    }

    /// The links that were made up last.
    pub fn links(&self) -> &Links {
        static NONE: Links = Links::new();
        self.0.as_ref().map_or(&NONE, |(_, connected)| &connected.links)
    }

    /// Whether it follows from the same but for the containers.
    pub fn is_of_other_containers(&self, basis: &Basis) -> bool {
        self.0.as_ref().is_some_and(|(known, _)| {
            let containers = known.containers;
            Basis { containers, ..basis.clone() } == *known
        })
    }

    /// Takes in what was made up.
    pub fn take_in(&mut self, Anew { basis, of, connected }: Anew) {
        match (of, &mut self.0) {
            (Some(addresses), Some((known, all))) => {
                let canary = basis.canary.as_ref().map(|(address, _)| *address);
                let links = Arc::make_mut(&mut all.links);
                // A canary's address is no container's.
                for address in addresses.iter().filter(|address| Some(**address) != canary) {
                    links.remove(address);
                }
                links.extend(connected.links.iter().map(|(address, link)| (*address, link.clone())));
                all.ports.retain(|published| !addresses.contains(&published.to));
                all.ports.extend(connected.ports);
                *known = basis;
            }
            (_, all) => *all = Some((basis, connected)),
        }
    }
}

/// What was made up.
pub(in crate::node) struct Anew {
    pub basis: Basis,
    /// Of these addresses only; `None`: of all.
    pub of: Option<BTreeSet<Address>>,
    pub connected: Connected,
}
