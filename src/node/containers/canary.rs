//! The canary of this host: a container of ours by which packets are tried.
//!
//! ```text
//!  nothing ─► namespace ─► address that is free here ─► link, by the plan ─► told to the peers
//! ```
//!
//! Its address is kept out of what is handed out and given away, and is not in the store: containers come first. It takes one
//! only where many are free, and gives it up before a container would get none.

use std::time::Duration;

use crate::{
    addr::{Address, Range},
    config::Config,
    ipam::{Ask, Ticket},
    node::{
        boundary::{io::Output, out::Out},
        cluster::peers::Peers,
        facts::{Facts, Leave},
        reconcile::Reconcile,
    },
    probe::Canary,
    state::{Fault, Host, Netns},
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
pub(in crate::node) struct OwnCanary {
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

    /// Brings it a step further, or back. Returns claims of its address that wait no more, as that is anybody's now.
    pub fn tend(
        &mut self,
        facts: &Facts,
        peers: &Peers,
        work: &mut Reconcile,
        wanted: bool,
        out: &mut Out,
    ) -> Vec<(Ticket, Ask)> {
        self.tend_namespace(facts.now, wanted, out);
        self.tend_address(facts, peers, work, wanted);
        self.see_it_go(work)
    }

    fn tend_namespace(&mut self, now: Timestamp, wanted: bool, out: &mut Out) {
        let due = match (&self.namespace, wanted) {
            (Namespace::Absent, true) => true,
            (Namespace::Failed(at, _), true) => *at + AGAIN <= now,
            (Namespace::Made(_), false) if self.held.is_none() => {
                self.namespace = Namespace::Absent;
                out.outputs.push_back(Output::DropCanary);
                false
            }
            (Namespace::Failed(..), false) => {
                self.namespace = Namespace::Absent;
                false
            }
            (Namespace::Absent, false) | (Namespace::Making, _) | (Namespace::Made(_), _) => false,
        };
        if due {
            self.namespace = Namespace::Making;
            out.outputs.push_back(Output::MakeCanary);
        }
    }

    /// Its namespace was made, or could not be.
    pub fn made(&mut self, facts: &Facts, work: &mut Reconcile, result: Result<Netns, Fault>) {
        self.namespace = match result {
            Ok(netns) => Namespace::Made(netns),
            Err(fault) => {
                self.give_up(facts.now, work);
                Namespace::Failed(facts.now, fault)
            }
        };
    }

    fn tend_address(&mut self, facts: &Facts, peers: &Peers, work: &mut Reconcile, wanted: bool) {
        let Some(held) = self.held else {
            let is_made = matches!(self.namespace, Namespace::Made(_));
            let spare = peers.ipam.spare(facts.config.ipam.default_subnet, SPARE_TO_TAKE);
            if let Some(address) = spare.filter(|spare| wanted && is_made && !peers.ipam.is_doubtful(*spare))
            {
                self.held = Some(Held { address, told: false, leaving_since: None });
            }
            return;
        };
        let ours = peers.ipam.ring().owner(held.address) == Some(facts.identity.name);
        let inside = Range::from(facts.config.ipam.default_subnet).contains(held.address);
        // A host whose disk was set back takes it before it hears that it may have given it away.
        let doubtful = peers.ipam.is_doubtful(held.address);
        if !(wanted && ours && inside && !doubtful && self.leaves_room(facts, peers)) {
            self.give_up(facts.now, work);
        }
    }

    /// Gives its address up: its link goes first.
    fn give_up(&mut self, now: Timestamp, work: &mut Reconcile) {
        if let Some(held) = self.held.as_mut().filter(|held| held.leaving_since.is_none()) {
            held.leaving_since = Some(now);
            work.converge.host.look_at_changes_by(now);
        }
    }

    /// The link of a canary that gives its address up was seen to be gone: the address is anybody's.
    fn see_it_go(&mut self, work: &Reconcile) -> Vec<(Ticket, Ask)> {
        let Some((address, since)) = self.held.and_then(|held| Some((held.address, held.leaving_since?)))
        else {
            return Vec::new();
        };
        let linked = |host: &Host| host.links.contains_key(&address);
        let host = &work.converge.host;
        if host.seen_at().is_none_or(|at| at < since) || host.seen().is_some_and(linked) {
            return Vec::new();
        }
        self.held = None;
        std::mem::take(&mut self.claims)
    }

    /// The canary as the peers are to know it: once its link was seen as it should be.
    pub fn told(&mut self, host: Option<&Host>, mtu: u32, config: &Config) -> Option<Canary> {
        let (address, netns) = self.link()?;
        let link = host.and_then(|host| host.links.get(&address));
        let sound = link.is_some_and(|link| {
            link.faults.is_empty() && link.netns.as_ref().is_some_and(|found| found.is_same(&netns))
        });
        let held = self.held.as_mut()?;
        held.told |= sound;
        let (isolation, ipv6) = (Some(config.ipam.isolation.digest().0), config.network.ipv6);
        held.told.then(|| Canary { address: address.into(), mtu, isolation, ipv6 })
    }

    /// Somebody claims the very address of the canary: it gives it up, and the claim waits until its link is gone. Returns the
    /// question if it is another one.
    pub fn make_way(
        &mut self,
        now: Timestamp,
        work: &mut Reconcile,
        ticket: Ticket,
        ask: Ask,
    ) -> Option<(Ticket, Ask)> {
        let claimed = match &ask {
            Ask::Claim { address, .. } => Some(Address::from(address.addr())),
            // Its address is in no block that is free.
            Ask::Allocate { .. } | Ask::Hold { .. } => None,
        };
        let held = self.held.map(|held| held.address);
        if claimed.is_none() || claimed != held || self.claims.len() >= CLAIMS_MAX {
            return Some((ticket, ask));
        }
        self.claims.push((ticket, ask));
        self.give_up(now, work);
        None
    }

    /// Whether containers have addresses enough beside it.
    pub fn leaves_room(&self, facts: &Facts, peers: &Peers) -> bool {
        self.address().is_none()
            || peers.ipam.spare(facts.config.ipam.default_subnet, SPARE_TO_KEEP).is_some()
    }
}

/// Whether this host is to have one, by all but its containers. Where Weave Net routers share the cluster nobody says where canaries
/// are.
pub(in crate::node) fn is_wanted(facts: &Facts, peers: &Peers) -> bool {
    let stays = facts.leave == Leave::No && !peers.ipam.owned().is_empty();
    let is_probed = facts.config.probe.enable && !facts.config.mesh.weave_peers;
    is_probed && peers.has_ring() && facts.ring_kept && stays
}
