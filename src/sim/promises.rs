//! Who has asked for something and is not answered yet, and what was promised to whom.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::Ipv4Net;

use crate::{
    addr::Address,
    node::protocol::request::RequestId,
    state::{Netns, link_name},
};

/// Everybody who asks.
#[derive(Debug, Default)]
pub struct Users {
    pub(super) asked: BTreeMap<RequestId, Asked>,
    pub(super) last_request: u64,
    pub(super) last_cookie: u64,
    pub(super) containers: BTreeMap<u64, Running>,
    /// What was acknowledged and not given back, by host and name.
    pub(super) promises: BTreeMap<(usize, String), Promise>,
    pub(super) holders: BTreeMap<Address, (usize, String)>,
    /// Promises that were ever made.
    pub(super) promised: u64,
    /// Hosts that are to give their ranges away, and come back.
    pub(super) retiring: BTreeSet<usize>,
}

/// A container.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub host: usize,
    pub netns: Netns,
    pub name: Option<String>,
}

/// An address that somebody relies on.
#[derive(Clone, Debug)]
pub(super) struct Promise {
    pub address: Address,
    /// The container that has it, if one has.
    pub cookie: Option<u64>,
}

/// What was asked, and on which host.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub host: usize,
    pub what: What,
}

/// What was asked.
#[derive(Clone, Debug)]
pub(super) enum What {
    Attach(u64),
    Address(String),
    Drain,
    Forget(usize),
    Other,
}

impl Running {
    pub fn ident(&self) -> String {
        self.name.clone().unwrap_or_else(|| format!("netns-{:x}", self.netns.cookie))
    }
}

impl Users {
    /// A process began: nothing that was asked of the one before will be answered.
    pub fn began(&mut self, host: usize, _life: u32) {
        self.process_ended(host);
    }

    /// A process ended.
    pub fn process_ended(&mut self, host: usize) {
        self.asked.retain(|_, asked| asked.host != host);
    }

    /// The namespaces of a host are gone. An address under a name of the user's choice is kept.
    pub fn rebooted(&mut self, host: usize) {
        let ended: Vec<Running> = self.containers.values().filter(|one| one.host == host).cloned().collect();
        for container in ended {
            self.containers.remove(&container.netns.cookie);
            if container.name.is_none() {
                self.give_back(host, &container.ident());
            }
        }
        let left: Vec<String> = self.idents(host);
        for ident in left {
            let promise = self.promises.get_mut(&(host, ident.clone()));
            let Some(promise) = promise else { continue };
            promise.cookie = None;
            if ident.starts_with("found-") {
                self.give_back(host, &ident);
            }
        }
    }

    /// A host is gone for good.
    pub fn host_lost(&mut self, host: usize) {
        for ident in self.idents(host) {
            self.give_back(host, &ident);
        }
        self.containers.retain(|_, container| container.host != host);
    }

    /// What a lost store forgot is lost, but for the containers whose links are there.
    pub fn store_lost(&mut self, host: usize, linked: &[Address]) {
        for ident in self.idents(host) {
            let Some(promise) = self.promises.get(&(host, ident.clone())).cloned() else { continue };
            self.give_back(host, &ident);
            if promise.cookie.is_some() && linked.contains(&promise.address) {
                let found = format!("found-{}", link_name(promise.address));
                self.holders.insert(promise.address, (host, found.clone()));
                self.promises.insert((host, found), promise);
            }
        }
    }

    /// The disk of a host was set back, after it was switched off: what was acknowledged since is lost.
    pub fn disk_set_back(&mut self, host: usize, kept: &BTreeMap<String, Vec<Ipv4Net>>) {
        for ident in self.idents(host) {
            let Some(promise) = self.promises.get(&(host, ident.clone())) else { continue };
            let held = kept.get(&ident).into_iter().flatten();
            if !held.into_iter().any(|net| Address::from(net.addr()) == promise.address) {
                self.give_back(host, &ident);
            }
        }
    }

    /// Whether somebody relies on what this host has filed under a name, or would if it asked.
    pub fn knows(&self, host: usize, ident: &str) -> bool {
        self.promises.contains_key(&(host, ident.to_owned()))
    }

    /// Somebody deleted a link: one that was found on a host without a store is not known otherwise.
    pub fn link_lost(&mut self, host: usize, address: Address) {
        self.give_back(host, &format!("found-{}", link_name(address)));
    }

    /// A host is to give its ranges away when nothing uses them.
    pub fn retire(&mut self, host: usize) {
        self.retiring.insert(host);
    }

    /// Whether somebody relies on this host.
    pub fn uses(&self, host: usize) -> bool {
        !self.idents(host).is_empty() || self.containers.values().any(|container| container.host == host)
    }

    pub(super) fn idents(&self, host: usize) -> Vec<String> {
        self.promises.keys().filter(|(at, _)| *at == host).map(|(_, ident)| ident.clone()).collect()
    }

    /// Whoever asked for an address under this name does not rely on the answer any more.
    pub(super) fn lose_interest(&mut self, host: usize, ident: &str) {
        for asked in self.asked.values_mut().filter(|asked| asked.host == host) {
            if matches!(&asked.what, What::Address(other) if other == ident) {
                asked.what = What::Other;
            }
        }
    }

    pub(super) fn give_back(&mut self, host: usize, ident: &str) {
        if let Some(promise) = self.promises.remove(&(host, ident.to_owned())) {
            self.holders.remove(&promise.address);
        }
    }
}
