//! What was found of each link, until something may have changed: a look asks anew only about what the kernel has told of since,
//! so that one container costs one container. A whole look forgets it all first; one that comes by itself forgets a part of it, so
//! that each container is entered now and then even if nothing is told of it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    link::{End, Seen},
    watch::Told,
};
use crate::{
    addr::Address,
    state::{Action, Link, Netns, Packet, Path, Scope},
};

/// Looks that come by themselves until each container was entered, where the kernel tells of changes inside.
const ROUNDS: u32 = 10;

/// Found by the look before.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Links in which nothing was wrong.
    sound: BTreeMap<Address, Sound>,
    /// The host's side.
    seen: Option<Seen>,
    /// Links that were changed by ours since.
    acted_on: BTreeSet<Address>,
    /// All host ends of ours, by index.
    ours: BTreeMap<u32, Address>,
    /// How packets reach the containers.
    paths: BTreeMap<Address, Vec<Path>>,
    /// Something in a container may have changed that was not told.
    deaf: bool,
    /// Looks that came by themselves.
    round: u32,
}

/// A link that was looked into, and what it was compared with.
#[derive(Debug)]
struct Sound {
    wanted: Link,
    end: End,
    /// Not that of a link whose other end a runtime has.
    netns: Option<Netns>,
}

impl Known {
    /// Forgets whatever may not be so any more.
    pub fn forget(&mut self, scope: Scope, told: &Told, seen: &Seen) {
        let ours: BTreeMap<u32, Address> =
            seen.ours().iter().map(|(address, end)| (end.index, *address)).collect();
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
        let is_told = |sound: &Sound| sound.end.namespace.is_some_and(|one| told.namespaces.contains(&one));
        self.sound.retain(|_, sound| !is_told(sound));
        let mut elsewhere = told.elsewhere;
        for index in &told.interfaces {
            let of_index = [self.ours.get(index), ours.get(index)].into_iter().flatten();
            elsewhere |= of_index.clone().count() == 0;
            of_index.for_each(|address| drop(self.sound.remove(address)));
        }
        if elsewhere || scope == Scope::Whole || told.lost {
            self.paths.clear();
        }
        self.ours = ours;
    }

    /// Forgets one link.
    pub fn forget_link(&mut self, address: Address) {
        self.sound.remove(&address);
    }

    /// A link is about to be changed by ours.
    pub fn act_on(&mut self, action: &Action) {
        if let Some(address) = action.makes_link() {
            self.forget_link(address);
            self.acted_on.insert(address);
        }
    }

    /// What was changed by ours since the look before: the links, and the interfaces that they had then.
    pub fn acted_on(&mut self) -> (BTreeSet<Address>, BTreeSet<u32>) {
        let links = std::mem::take(&mut self.acted_on);
        let indices = self.ours.iter().filter(|(_, address)| links.contains(address));
        let indices = indices.map(|(index, _)| *index).collect();
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

    /// Whether a link is as it was when nothing was wrong with it.
    pub fn is_sound(&self, address: Address, end: &End, wanted: &Link) -> bool {
        self.sound.get(&address).is_some_and(|sound| sound.end == *end && sound.wanted == *wanted)
    }

    /// The namespace that a link led into then.
    pub fn netns(&self, address: Address) -> Option<&Netns> {
        self.sound.get(&address)?.netns.as_ref()
    }

    /// A link was looked into, and nothing was wrong.
    pub fn keep_link(&mut self, address: Address, end: &End, wanted: &Link, netns: Option<&Netns>) {
        let (wanted, end, netns) = (wanted.clone(), end.clone(), netns.cloned());
        self.sound.insert(address, Sound { wanted, end, netns });
    }

    /// How packets reach the container of a link that has not changed.
    pub fn paths(&self, address: Address) -> Option<&[Path]> {
        self.sound.get(&address)?;
        self.paths.get(&address).map(Vec::as_slice)
    }

    /// The kernel was asked, or would have said the same.
    pub fn keep_paths(&mut self, paths: &[Path]) {
        self.paths.clear();
        for path in paths {
            if let Packet::ToContainer { address, .. } = path.packet {
                self.paths.entry(address).or_default().push(path.clone());
            }
        }
    }
}
