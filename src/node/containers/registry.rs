//! The containers of this host, and by what they are known.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use crate::{
    addr::Address,
    ipam::{Ask, Ticket},
    node::persist::memory::Attached,
    state::{Host, Netns},
};

/// The containers of this host, by the name their address is filed under.
#[derive(Debug)]
pub struct Containers {
    pub(in crate::node) all: BTreeMap<String, Attached>,
    /// The store is new: links that are found belong to containers that it forgot.
    pub(super) forgetful: bool,
    /// Questions that wait until those links were looked at.
    pub(super) early: Vec<(Ticket, Ask)>,
    /// Who was leaving when the look that is under way began.
    parting: BTreeSet<String>,
    /// Who comes under a name that is leaving.
    pub(super) successors: BTreeMap<String, Attached>,
    /// Goes up where links may follow from another state of them.
    version: u64,
    /// Addresses whose links are not as they were made up last, or lead to others.
    touched: BTreeSet<Address>,
}

impl Containers {
    /// The containers that were remembered; `forgetful` if the links of this host were never learned from.
    pub fn new(all: BTreeMap<String, Attached>, forgetful: bool) -> Containers {
        Containers {
            all,
            forgetful,
            early: Vec::new(),
            parting: BTreeSet::new(),
            successors: BTreeMap::new(),
            version: 0,
            touched: BTreeSet::new(),
        }
    }

    /// Whether addresses may be in use that nothing is known of.
    pub fn is_forgetful(&self) -> bool {
        self.forgetful
    }

    /// Whether there may be some of which only the link is known.
    pub fn knows_by_link(&self) -> bool {
        self.forgetful || self.all.values().any(Attached::is_found)
    }

    /// All of them.
    pub fn all(&self) -> &BTreeMap<String, Attached> {
        &self.all
    }

    /// Another number, another state of what their links follow from.
    pub(in crate::node) fn version(&self) -> u64 {
        self.version
    }

    /// The links of those who have these addresses may be others by now.
    pub(in crate::node) fn touch(&mut self, addresses: impl IntoIterator<Item = Address>) {
        self.version += 1;
        self.touched.extend(addresses);
    }

    /// The link of the container that is remembered by this name may be another by now.
    pub(in crate::node) fn touch_named(&mut self, ident: &str) {
        let address = self.all.get(ident).and_then(Attached::link_address);
        self.touch(address);
    }

    /// Addresses whose links are not as they were made up last.
    pub(in crate::node) fn touched(&self) -> &BTreeSet<Address> {
        &self.touched
    }

    /// All links are made up for what the containers are now.
    pub(in crate::node) fn all_made_up(&mut self) {
        self.touched.clear();
    }

    /// A look at the host begins: what it shows of the links of those who are leaving now can be relied on.
    pub fn look_begins(&mut self) {
        self.parting = self.all.values().filter(|one| one.leaving).map(|one| one.ident.clone()).collect();
    }

    /// The container in this namespace that is connected by this interface. One that was found by its link alone is known by the link that
    /// leads into the namespace.
    pub(super) fn of_netns(
        &self,
        netns: &Netns,
        interface: &str,
        link: Option<Address>,
    ) -> Option<&Attached> {
        let staying = || self.all.values().filter(|attached| !attached.leaving);
        let is_there = |one: &&Attached| one.is_in(netns) && one.far.name == interface;
        let known = staying().find(is_there);
        known.or_else(|| staying().find(|one| one.is_found() && link.is_some() && one.link_address() == link))
    }

    /// The container that a person or a runtime calls so.
    pub(in crate::node) fn named(&self, name: &str) -> Option<&Attached> {
        let by_label = |one: &&Attached| one.label.as_deref() == Some(name) || one.short() == name;
        let mut called = self.all.values().filter(|one| !one.leaving).filter(by_label);
        let only = called.next().filter(|_| called.next().is_none());
        self.all.get(name).or(only)
    }

    /// The container in this namespace that waits for its name to become free.
    pub(in crate::node) fn coming(&self, netns: &Netns) -> Option<&Attached> {
        self.successors.values().find(|one| one.is_in(netns) && one.key.is_none())
    }

    /// The same of one that was last found by this pid or path.
    pub(super) fn coming_from(&self, target: &str) -> Option<&Attached> {
        let path = Netns::path_of(target);
        self.successors.values().find(|one| one.was_at(&path) && one.key.is_none())
    }

    /// The container that was last found by this pid or path, which leads to no namespace any more.
    pub(super) fn of_dead_path(&self, target: &str) -> Option<&Attached> {
        let path = Netns::path_of(target);
        self.all.values().find(|one| !one.leaving && one.was_at(&path))
    }

    /// Namespaces that were found by another path than the one that is remembered.
    pub(in crate::node) fn moved(&self, host: &Host) -> Vec<Attached> {
        let moved = |one: &Attached| {
            let (own, found) = (one.netns.as_ref()?, host.links.get(&one.link_address()?)?.netns.as_ref()?);
            // Most of them share the path with what was looked for.
            let has_moved = !one.leaving && !Arc::ptr_eq(&own.path, &found.path) && own.path != found.path;
            let has_moved = has_moved && own.is_same(found);
            has_moved.then(|| Attached { netns: Some(found.clone()), ..one.clone() })
        };
        self.all.values().filter_map(moved).collect()
    }

    /// Who was seen to have no link any more and is not to have one: those who were leaving when the look began, those
    /// whose namespace is gone, and those who are known by their link alone.
    pub(super) fn parted(&mut self, host: &Host) -> Vec<String> {
        let parting = std::mem::take(&mut self.parting);
        let is_over = |one: &&Attached| {
            let over = |address| match one.leaving {
                true => parting.contains(&one.ident),
                false => one.is_found() || host.gone.contains(&address),
            };
            one.link_address().is_some_and(|address| over(address) && !host.links.contains_key(&address))
        };
        self.all.values().filter(is_over).map(|one| one.ident.clone()).collect()
    }

    /// Whether a container with this address was let go and its link may be there yet.
    pub fn is_leaving(&self, address: Address) -> bool {
        self.all.values().any(|one| one.leaving && one.link_address() == Some(address))
    }
}

impl Attached {
    /// Whether it is in this namespace.
    pub fn is_in(&self, netns: &Netns) -> bool {
        self.netns.as_ref().is_some_and(|own| own.is_same(netns))
    }

    fn was_at(&self, path: &Path) -> bool {
        self.netns.as_ref().is_some_and(|own| *own.path == *path)
    }

    /// Whether nothing is known of it but its link, which a lost store left.
    pub(super) fn is_found(&self) -> bool {
        self.netns.is_none() && !self.far.moved
    }

    /// The name that it is filed under, with long ids shortened as runtimes do.
    pub fn short(&self) -> String {
        const ID_LEN: usize = 12;
        let short =
            |part: &str| part.get(..ID_LEN).filter(|_| part.len() >= 2 * ID_LEN).unwrap_or(part).to_owned();
        match &self.key {
            Some(key) => format!("{}/{}/{}/{}", key.kind, short(&key.network), short(&key.id), key.interface),
            None => self.ident.clone(),
        }
    }

    /// It, as it is named to people.
    pub(in crate::node) fn called(&self) -> String {
        match &self.label {
            Some(label) => format!("`{label}` ({})", self.short()),
            None => format!("`{}`", self.short()),
        }
    }

    /// The address that its link is made for.
    pub fn link_address(&self) -> Option<Address> {
        self.address.map(|address| address.addr().into())
    }
}
