//! The canary of this host: a container of ours by which packets are tried.
//!
//! ```text
//!  nothing ─► namespace ─► address that is free here ─► link, by the plan ─► told to the peers
//! ```
//!
//! Its address is kept out of what is handed out and given away, and is not in the store: containers come first. It takes one
//! only where many are free, and gives it up before a container would get none.

use std::time::Duration;

use super::{Node, facts::Leave, io::Output, overview::Overview};
use crate::{
    addr::{Address, Range},
    ipam::{Ask, Ticket},
    probe::Canary,
    state::{Fault, Netns},
    time::Timestamp,
};

/// Addresses of the default subnet that must be free here before a canary takes one.
const SPARE_TO_TAKE: u32 = 8;
/// The same for it to keep what it has.
const SPARE_TO_KEEP: u32 = 4;
/// How long after a failure a namespace is made again.
const AGAIN: Duration = Duration::from_secs(60);
/// Claims of its address that may wait until it has given it up.
const CLAIMS_MAX: usize = 64;

/// How far the canary is.
#[derive(Debug, Default)]
pub(super) struct OwnCanary {
    namespace: Namespace,
    held: Option<Held>,
    /// Claims of its address that wait until its link is gone.
    claims: Vec<(Ticket, Ask)>,
}

#[derive(Debug, Default)]
enum Namespace {
    #[default]
    Absent,
    Making,
    Failed(Timestamp, Fault),
    Made(Netns),
}

#[derive(Clone, Copy, Debug)]
struct Held {
    address: Address,
    /// Its link was seen as it should be.
    told: bool,
    /// It is given up: its link goes first, so that nobody inherits it.
    leaving_since: Option<Timestamp>,
}

impl OwnCanary {
    /// Where nothing is handed out on its account.
    pub fn kept(&self) -> Option<Range> {
        self.held.map(|held| Range::new(held.address, Address(held.address.0 + 1)))
    }

    /// The link that should be.
    pub fn link(&self) -> Option<(Address, Netns)> {
        let held = self.held.filter(|held| held.leaving_since.is_none())?;
        match &self.namespace {
            Namespace::Made(netns) => Some((held.address, netns.clone())),
            Namespace::Absent | Namespace::Making | Namespace::Failed(..) => None,
        }
    }

    /// When it wants to be tended though nothing happened.
    pub fn next_wake(&self) -> Option<Timestamp> {
        match &self.namespace {
            Namespace::Failed(at, _) => Some(*at + AGAIN),
            Namespace::Absent | Namespace::Making | Namespace::Made(_) => None,
        }
    }

    /// Why there is none, where that is a fault.
    pub fn fault(&self) -> Option<&Fault> {
        match &self.namespace {
            Namespace::Failed(_, fault) => Some(fault),
            Namespace::Absent | Namespace::Making | Namespace::Made(_) => None,
        }
    }

    /// Its address.
    pub fn address(&self) -> Option<Address> {
        self.held.filter(|held| held.leaving_since.is_none()).map(|held| held.address)
    }
}

impl Node {
    /// Brings the canary a step further, or back.
    pub(super) fn tend_canary(&mut self) {
        let wanted = self.overview().wants_canary();
        self.tend_namespace(wanted);
        self.tend_address(wanted);
        let canary = self.told_canary();
        self.peers.dead.takeover.set_canary(canary);
        self.probes.prober.set_canary(self.facts.now, canary);
    }

    fn tend_namespace(&mut self, wanted: bool) {
        let due = match (&self.local.canary.namespace, wanted) {
            (Namespace::Absent, true) => true,
            (Namespace::Failed(at, _), true) => *at + AGAIN <= self.facts.now,
            (Namespace::Made(_), false) if self.local.canary.held.is_none() => {
                self.local.canary.namespace = Namespace::Absent;
                self.out.outputs.push_back(Output::DropCanary);
                false
            }
            (Namespace::Failed(..), false) => {
                self.local.canary.namespace = Namespace::Absent;
                false
            }
            (Namespace::Absent, false) | (Namespace::Making, _) | (Namespace::Made(_), _) => false,
        };
        if due {
            self.local.canary.namespace = Namespace::Making;
            self.out.outputs.push_back(Output::MakeCanary);
        }
    }

    pub(super) fn on_canary_made(&mut self, result: Result<Netns, Fault>) {
        self.local.canary.namespace = match result {
            Ok(netns) => Namespace::Made(netns),
            Err(fault) => {
                self.give_canary_up();
                Namespace::Failed(self.facts.now, fault)
            }
        };
        self.out.disturbed = true;
    }

    fn tend_address(&mut self, wanted: bool) {
        let Some(held) = self.local.canary.held else {
            let is_made = matches!(self.local.canary.namespace, Namespace::Made(_));
            let spare = self.peers.ipam.spare(self.facts.config.ipam.default_subnet, SPARE_TO_TAKE);
            if let Some(address) =
                spare.filter(|spare| wanted && is_made && !self.peers.ipam.is_doubtful(*spare))
            {
                self.local.canary.held = Some(Held { address, told: false, leaving_since: None });
            }
            return;
        };
        let ours = self.peers.ipam.ring().owner(held.address) == Some(self.facts.identity.name);
        let inside = Range::from(self.facts.config.ipam.default_subnet).contains(held.address);
        // A host whose disk was set back takes it before it hears that it may have given it away.
        let doubtful = self.peers.ipam.is_doubtful(held.address);
        if !(wanted && ours && inside && !doubtful && self.overview().leaves_room()) {
            self.give_canary_up();
        }
        self.see_canary_go();
    }

    fn give_canary_up(&mut self) {
        if let Some(held) = self.local.canary.held.as_mut().filter(|held| held.leaving_since.is_none()) {
            held.leaving_since = Some(self.facts.now);
            self.work.converge.host.look_at_changes_by(self.facts.now);
        }
    }

    /// The link of a canary that gives its address up was seen to be gone: the address is anybody's.
    fn see_canary_go(&mut self) {
        let Some(since) = self.local.canary.held.and_then(|held| held.leaving_since) else { return };
        let address = self.local.canary.held.map(|held| held.address);
        let linked = |host: &crate::state::Host| address.is_some_and(|one| host.links.contains_key(&one));
        let host = &self.work.converge.host;
        if host.seen_at().is_some_and(|at| at >= since) && !host.seen().is_some_and(linked) {
            self.local.canary.held = None;
            self.peers.ipam.set_avoided(self.overview().avoided());
            for (ticket, ask) in std::mem::take(&mut self.local.canary.claims) {
                self.peers.ipam.ask(self.facts.now, ticket, ask);
            }
        }
    }

    /// The canary as the peers are to know it: once its link was seen as it should be.
    fn told_canary(&mut self) -> Option<Canary> {
        let (address, netns) = self.local.canary.link()?;
        let mtu = self.overview().link_mtu();
        let link = self.work.converge.host.seen().and_then(|host| host.links.get(&address));
        let sound = link.is_some_and(|link| {
            link.faults.is_empty() && link.netns.as_ref().is_some_and(|found| found.is_same(&netns))
        });
        let held = self.local.canary.held.as_mut()?;
        held.told |= sound;
        held.told.then(|| Canary { address: address.into(), mtu })
    }

    /// Somebody claims the very address of the canary: it gives it up, and the claim waits until its link is gone. Returns the
    /// question if it is another one.
    pub(super) fn make_way(&mut self, ticket: Ticket, ask: Ask) -> Option<(Ticket, Ask)> {
        let claimed = match &ask {
            Ask::Claim { address, .. } => Some(Address::from(address.addr())),
            Ask::Allocate { .. } => None,
        };
        let held = self.local.canary.held.map(|held| held.address);
        if claimed.is_none() || claimed != held || self.local.canary.claims.len() >= CLAIMS_MAX {
            return Some((ticket, ask));
        }
        self.local.canary.claims.push((ticket, ask));
        self.give_canary_up();
        self.out.disturbed = true;
        None
    }
}

impl Overview<'_> {
    /// Where Weave Net routers share the cluster nobody says where canaries are.
    fn wants_canary(&self) -> bool {
        let settled = self.peers.has_ring() && self.facts.ring_kept && !self.local.containers.is_forgetful();
        let stays = self.facts.leave == Leave::No && !self.peers.ipam.owned().is_empty();
        self.facts.config.probe.enable && !self.facts.config.mesh.weave_peers && settled && stays
    }

    /// Whether containers have addresses enough beside it.
    pub(super) fn leaves_room(&self) -> bool {
        self.local.canary.address().is_none()
            || self.peers.ipam.spare(self.facts.config.ipam.default_subnet, SPARE_TO_KEEP).is_some()
    }
}
