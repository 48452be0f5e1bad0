//! When a host that has no ring lets its address manager make one, and whether it is as new as it believes.

use std::collections::BTreeSet;

use ipnet::Ipv4Net;

use super::{
    cluster::{peers::Peers, unconfirmed::hears_all_listed},
    reconcile::desired::{led_elsewhere, routes_of_others},
    report::overview::Overview,
};
use crate::{
    addr::Range,
    config::Init,
    ipam::Ring,
    peer::PeerName,
    state::{InterfaceId, Target, Vpc},
};

impl Overview<'_> {
    pub(super) fn reason_not_to_elect(&self) -> Option<String> {
        let vpc = &self.work.converge.vpc;
        if !self.facts.config.is_on_ec2() {
            return None;
        }
        match (vpc.seen(), vpc.fault(), &self.facts.config.ipam.init) {
            (None, None, _) => Some("the route tables have not been read yet".to_owned()),
            (None, Some(fault), Init::Seed(_)) => Some(format!(
                "the route tables, which show whether this host gave addresses away before, cannot be read: {fault}"
            )),
            _ => self.reason_to_join().or_else(|| self.reason_to_be_patient()),
        }
    }

    /// Whoever finds routes of other live interfaces inside the range joins and does not elect.
    fn reason_to_join(&self) -> Option<String> {
        let vpc = self.work.converge.vpc.seen()?;
        let (cidr, interface) = routes_of_others(self.facts.config.ipam.range, vpc).into_iter().next()?;
        Some(format!("{cidr} is routed to {interface}: a cluster is there already"))
    }

    /// Whether whoever wrote the file wants this host to be the only one for now, and there is no ring yet.
    fn expects_nobody(&self) -> bool {
        self.facts.config.ec2_tag.is_some()
            && self.facts.config.ipam.expected_peers == Some(1)
            && !self.peers.has_ring()
    }

    /// Why a host whose peers are found by tag elects nobody: whoever sees only itself cannot know whether
    /// the others are not there or not found. One that is to be alone knows it once a look has found nobody else.
    fn reason_to_be_patient(&self) -> Option<String> {
        let (key, value) = self.facts.config.ec2_tag.as_ref()?;
        let looked =
            self.observed.discovery.found.seen().is_some() && self.observed.discovery.found.fault().is_none();
        if self.expects_nobody() && looked && hears_all_listed(&self.peers.mesh, &self.observed.names) {
            return None;
        }
        let alone = self.peers.mesh.reachable().is_empty();
        alone.then(|| match self.observed.discovery.found.fault() {
            Some(fault) => format!("no other instance with tag {key}={value} could be looked for: {fault}"),
            None => format!("no other instance with tag {key}={value} was heard"),
        })
    }
}

impl Peers {
    /// A host that remembers nothing is new unless the route tables show what it owned before, or that what is to be its own
    /// is another's. One that remembers compares that with them. What is read first was there before anything that it writes.
    pub(super) fn look_for_traces(&mut self, range: Ipv4Net, vpc: &Vpc) {
        let led_here = routes_to_here(range, vpc).next().is_some();
        let others: Vec<Range> =
            routes_of_others(range, vpc).into_iter().map(|(cidr, _)| cidr.into()).collect();
        self.ipam.prove_memory(|owned| {
            led_here || owned.iter().any(|ours| others.iter().any(|theirs| ours.overlaps(*theirs)))
        });
        self.ipam.compare_memory(|ring| is_led_to_peers(range, vpc, ring) || is_led_here(range, vpc, ring));
    }
}

/// Whether a route that begins at an address of this host, by the ring, leads to a host to which one leads that begins at an address of
/// another. That host need not run: it may have stopped since. An interface to which no such route leads may be a former one of ours.
fn is_led_to_peers(range: Ipv4Net, vpc: &Vpc, ring: &Ring) -> bool {
    let owner = |cidr| ring.owner(Range::from(cidr).start);
    let led: Vec<(PeerName, &InterfaceId)> =
        led_elsewhere(range, vpc).filter_map(|(cidr, id, _)| Some((owner(cidr)?, id))).collect();
    let of_peers: BTreeSet<&InterfaceId> =
        led.iter().filter(|(owner, _)| *owner != ring.holder()).map(|(_, id)| *id).collect();
    led.iter().any(|(owner, id)| *owner == ring.holder() && of_peers.contains(id))
}

/// Whether a route leads to this host beneath which it owns nothing, by the ring: something there was given to it since. Unless whoever
/// took that over from it has not replaced the route yet, which is no more than a moment where nothing is wrong.
fn is_led_here(range: Ipv4Net, vpc: &Vpc, ring: &Ring) -> bool {
    let owned = ring.owned_by(ring.holder());
    routes_to_here(range, vpc).any(|cidr| !owned.iter().any(|ours| ours.overlaps(cidr.into())))
}

fn routes_to_here(range: Ipv4Net, vpc: &Vpc) -> impl Iterator<Item = Ipv4Net> {
    let routes = vpc.tables.values().flat_map(|table| &table.routes);
    let inside = routes.filter(move |(cidr, _)| range.contains(*cidr));
    inside
        .filter(|(_, route)| route.target == Target::Interface(vpc.interface.clone()))
        .map(|(cidr, _)| *cidr)
}
