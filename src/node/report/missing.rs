//! Why packets of a container cannot flow yet.

use super::{overview::Overview, status::refused_step};
use crate::{
    addr::{Address, Range},
    node::{
        persist::memory::{Attached, LastRead, Write},
        protocol::status::Note,
        reconcile::Reconcile,
    },
    plan::{Change, Plane, leads_to},
    state::{Action, Fault, link_name},
};

impl Overview<'_> {
    /// Why packets of this container cannot flow yet, or `None` if they can: its link was last seen
    /// without fault, in every table its longest match was last read leading to our active
    /// interface, and the kernel passes on what comes for it and what it sends.
    pub(in crate::node) fn missing(&self, attached: &Attached) -> Option<String> {
        if attached.leaving {
            return Some("its link is being removed".into());
        }
        let Some(address) = attached.link_address() else {
            let waits = self.peers.ipam.waits();
            return Some(
                waits.first().map_or("an address".into(), |(what, _)| format!("an address: {what}")),
            );
        };
        let way = || self.missing_way(address).map(|note| format!("a way for its packets: {}", note.what));
        self.missing_record(attached)
            .or_else(|| self.work.missing_link(attached, address))
            .or_else(|| self.missing_route(address))
            .or_else(|| attached.missing_ports(self.work.converge.host.seen(), self.prefix_of(attached)))
            .or_else(way)
    }

    /// A link is made once the disk has whose it is.
    fn missing_record(&self, attached: &Attached) -> Option<String> {
        let fault = self.ledger.fault()?;
        let is_kept = self.ledger.is_kept(&Write::key_of_attached(&attached.ident));
        (!is_kept).then(|| format!("its record on the disk: {}", fault.message))
    }

    pub(super) fn missing_route(&self, address: Address) -> Option<String> {
        if !self.facts.config.is_on_ec2() {
            return None;
        }
        let Some(vpc) = self.work.converge.vpc.seen() else {
            if let Some(read) = self.observed.last_reads.recalled(self.facts) {
                return self.missing_by(read, address);
            }
            return Some(format!("a look at the route tables{}", why(self.work.converge.vpc.fault())));
        };
        let range = Range::new(address, Address(address.0 + 1));
        let table = vpc.tables.iter().find(|(_, table)| !leads_to(table, range, &vpc.interface));
        let (id, _) = table?;
        let plane = Plane::Table(id.clone());
        let steps = self.work.plan.changes.iter().map(|change| &change.action);
        let failure =
            steps.filter(|step| Plane::of(step) == plane).find_map(|step| self.work.converge.failure(step));
        Some(format!("a route to it in {id}{}", why(failure)))
    }

    /// The same by a look of an earlier life.
    fn missing_by(&self, read: &LastRead, address: Address) -> Option<String> {
        let age = || humantime::format_duration(self.observed.last_reads.age_of(self.facts.now, read));
        read.not_led(address).map(|id| format!("a route to it in {id}, as read {} ago", age()))
    }
}

impl Reconcile {
    fn missing_link(&self, attached: &Attached, address: Address) -> Option<String> {
        let name = link_name(address);
        let Some(host) = self.converge.host.seen() else {
            return Some(format!("a look at the host's network{}", why(self.converge.host.fault())));
        };
        let absent = || {
            let why = self.hindrance(attached).map_or_else(String::new, |note| format!(": {}", note.what));
            format!("its link {name}{why}")
        };
        let Some(link) = host.links.get(&address) else { return Some(absent()) };
        let same = match (&link.netns, &attached.netns) {
            (Some(found), Some(wanted)) => found.is_same(wanted),
            (None, _) | (_, None) => attached.far.moved,
        };
        match link.faults.first() {
            Some(fault) => Some(format!("its link {name}: {fault}")),
            None if !same => Some(absent()),
            None => None,
        }
    }

    /// Why the link of this container is not made, and the way out.
    pub(super) fn hindrance(&self, attached: &Attached) -> Option<Note> {
        let address = attached.link_address()?;
        if let Some(refused) = self.plan.refused.iter().find(|change| is_on_link(change, address)) {
            return Some(refused_step(refused));
        }
        let of_step =
            |action| self.converge.held_up(action, &self.plan).or_else(|| self.converge.failure(action));
        // What cannot be looked at is not changed either.
        let fault = self.step_on_link(address).and_then(of_step).or_else(|| self.converge.host.fault())?;
        Some(Note { what: fault.message.clone(), hint: fault.hint.clone() })
    }

    /// What is to be done about the link of this address.
    fn step_on_link(&self, address: Address) -> Option<&Action> {
        self.plan.changes.iter().find(|change| is_on_link(change, address)).map(|change| &change.action)
    }

    /// Why the link of a container will not be there unless somebody does something about it.
    pub(in crate::node) fn hopeless_link(&self, attached: &Attached) -> Option<&Fault> {
        self.converge.blocked(self.step_on_link(attached.link_address()?)?)
    }
}

fn why(fault: Option<&Fault>) -> String {
    fault.map_or_else(String::new, |fault| format!(": {fault}"))
}

/// Whether a step makes or mends the link of this address.
fn is_on_link(change: &Change, address: Address) -> bool {
    change.action.makes_link() == Some(address)
}
