//! What was found of each link, until something may have changed: a look asks anew only about what the kernel has told of since,
//! so that one container costs one container. A whole look forgets it all first; one that comes by itself forgets a part of it, so
//! that the host's side is read and each container is entered now and then even if nothing is told of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{link::End, path::Carriers, read_back::ReadBack, seen::Seen, watch::Told};
use crate::{
    addr::Address,
    state::{HostAction, Link, Path, Scope},
};

/// Looks that come by themselves until each container was entered, where the kernel tells of changes inside.
const ROUNDS: u32 = 120;
/// The same until the host's side was read as a whole, where the kernel tells of changes there.
const HOST_ROUNDS: u32 = 4;

/// Found by the look before.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Links in which nothing was wrong.
    sound: BTreeMap<Address, Sound>,
    /// The host's side.
    seen: Option<Seen>,
    /// Links that were changed by ours since.
    acted_on: BTreeSet<Address>,
    /// How packets reach the containers.
    paths: BTreeMap<Address, Vec<Arc<Path>>>,
    /// The interfaces by which they come in there.
    asked_by: Vec<String>,
    /// By what they come in, where the last look asked for a container.
    carriers: Option<Arc<Carriers>>,
    /// Something in a container may have changed that was not told.
    deaf: bool,
    /// Looks that came by themselves.
    round: u32,
}

/// A link that was looked into, and what it was compared with.
#[derive(Debug)]
struct Sound {
    wanted: Arc<Link>,
    end: Arc<End>,
    found: Arc<Link>,
}

impl Known {
    /// Forgets whatever may not be so any more. `touched` are the host ends of ours among the interfaces that were told of.
    pub fn forget(&mut self, scope: Scope, told: &Told, touched: &BTreeSet<(u32, Address)>) {
        self.deaf |= told.deaf;
        let (deaf, round) = (self.deaf, self.round);
        match scope {
            Scope::Whole => self.sound.clear(),
            Scope::Routine => {
                self.sound.retain(|address, _| !deaf && address.0 % ROUNDS != round % ROUNDS);
                (self.deaf, self.round) = (false, round.wrapping_add(1));
            }
            Scope::Changed => {}
        }
        if told.lost {
            self.sound.clear();
        }
        if !told.namespaces.is_empty() {
            let is_told =
                |sound: &Sound| sound.end.namespace.is_some_and(|one| told.namespaces.contains(&one));
            self.sound.retain(|_, sound| !is_told(sound));
        }
        touched.iter().for_each(|(_, address)| self.forget_link(*address));
        let is_ours =
            |index: &u32| touched.range((*index, Address(0))..).next().is_some_and(|(one, _)| one == index);
        let elsewhere = told.elsewhere || !told.interfaces.iter().all(is_ours);
        if elsewhere || scope == Scope::Whole || told.lost {
            self.paths.clear();
        }
    }

    /// Whether a look that comes by itself need not read the host's side as a whole.
    pub fn is_between_rounds(&self) -> bool {
        !self.round.is_multiple_of(HOST_ROUNDS)
    }

    /// Forgets one link.
    pub fn forget_link(&mut self, address: Address) {
        self.sound.remove(&address);
        self.paths.remove(&address);
    }

    /// A link is about to be changed by ours.
    pub fn act_on(&mut self, action: &HostAction) {
        if let Some(address) = action.makes_link() {
            self.forget_link(address);
            self.acted_on.insert(address);
        }
    }

    /// A link that was changed by ours was read back then.
    pub fn take_in(&mut self, ReadBack { made, seen }: ReadBack) {
        let (address, link) = (made.address, made.link);
        let (Some(known), Some(end)) = (&mut self.seen, seen.links.first().cloned()) else { return };
        known.take_in(seen);
        self.acted_on.remove(&address);
        self.paths.insert(address, made.paths);
        self.keep_link(address, &end, &link, &link);
    }

    /// What was changed by ours since the look before: the links, and the interfaces that they had then.
    pub fn acted_on(&mut self) -> (BTreeSet<Address>, BTreeSet<u32>) {
        let links = std::mem::take(&mut self.acted_on);
        let ends = self.seen.iter().filter(|_| !links.is_empty()).flat_map(|seen| &seen.links);
        let of_these = |end: &&Arc<End>| end.serves.is_some_and(|address| links.contains(&address));
        let indices = ends.filter(of_these).map(|end| end.index).collect();
        (links, indices)
    }

    /// The host's side as it was, which is not known any more then.
    pub fn seen(&mut self) -> Option<Seen> {
        self.seen.take()
    }

    /// The host's side as it is.
    pub fn keep_seen(&mut self, seen: Seen) {
        self.seen = Some(seen);
    }

    /// A link that is as it was when nothing was wrong with it.
    pub fn link(&mut self, address: Address, end: &Arc<End>, wanted: &Arc<Link>) -> Option<&Arc<Link>> {
        let sound = self.sound.get_mut(&address)?;
        if !(is_as_it_was(&sound.end, end) && is_as_it_was(&sound.wanted, wanted)) {
            return None;
        }
        // One of two that are the same is enough.
        if !Arc::ptr_eq(&sound.wanted, wanted) {
            sound.wanted = wanted.clone();
            share(&mut sound.found, wanted);
        }
        Some(&sound.found)
    }

    /// A link was looked into, and nothing was wrong.
    pub fn keep_link(&mut self, address: Address, end: &Arc<End>, wanted: &Arc<Link>, found: &Arc<Link>) {
        let (wanted, end, found) = (wanted.clone(), end.clone(), found.clone());
        self.sound.insert(address, Sound { wanted, end, found });
    }

    /// By what packets for containers come in, as far as the last look asked for one.
    pub fn carriers(&self) -> Option<Arc<Carriers>> {
        self.carriers.clone()
    }

    /// It was asked for a container, or for none.
    pub fn keep_carriers(&mut self, carriers: Option<Arc<Carriers>>) {
        self.carriers = carriers;
    }

    /// Packets for containers come in by these interfaces: what was asked of others is not known.
    pub fn ask_by<'a>(&mut self, interfaces: impl Iterator<Item = &'a String> + Clone) {
        if !interfaces.clone().eq(&self.asked_by) {
            self.paths.clear();
            self.asked_by = interfaces.cloned().collect();
        }
    }

    /// How packets reach the container of a link that has not changed.
    pub fn paths(&self, address: Address) -> Option<&[Arc<Path>]> {
        self.paths.get(&address).map(Vec::as_slice)
    }

    /// The kernel was asked how packets reach the container of a sound link.
    pub fn keep_paths(&mut self, address: Address, paths: Vec<Arc<Path>>) {
        self.paths.insert(address, paths);
    }
}

/// Most links are just as they are wanted: then one of both is enough.
pub(super) fn share(found: &mut Arc<Link>, wanted: &Arc<Link>) {
    if found == wanted {
        *found = wanted.clone();
    }
}

/// Most of what is compared is the same thing.
fn is_as_it_was<T: PartialEq>(before: &Arc<T>, now: &Arc<T>) -> bool {
    Arc::ptr_eq(before, now) || before == now
}
