//! Whom to dial, and when again.
//!
//! A target is configured (direct), was mentioned by others (discovered), or is where a peer may be that is connected otherwise (sought).
//! Once there are [`ENOUGH`] neighbours only those are
//! dialled of whom nothing is heard through them: in a large mesh the peers pass on each other's messages. One that fails is dialled again after
//! a pause that grows; one that turned out to be ourselves, or to bear our name, is not dialled again until somebody says so.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::target::Hosts;
use crate::{peer::PeerName, time::Timestamp};

/// First pause.
pub const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest pause.
pub const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A connection that lived so long is dialled again at once.
const LONG_LIFE: Duration = Duration::from_secs(60);
/// Neighbours that are enough to hear of everybody.
pub const ENOUGH: usize = 16;
/// Discovered targets that are kept.
pub const DISCOVERED_MAX: usize = 512;

/// What a target is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetState {
    /// For its time, or for nothing more.
    Waiting,
    /// Dialling, or being introduced.
    Attempting,
    /// There is a connection that we dialled.
    Connected,
    /// Not dialled: connected otherwise, or never again.
    Suspended,
    /// Not dialled: it is this host.
    Own,
}

/// The live connections, as far as they bear on whom to dial.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// Addresses of other ends.
    pub remotes: BTreeSet<SocketAddr>,
    /// Hosts that dialled us.
    pub inbound: BTreeSet<IpAddr>,
    /// Peers that we are connected to.
    pub peers: BTreeSet<PeerName>,
    /// Who is heard of, through others too, and at which hosts.
    pub heard: (BTreeSet<PeerName>, BTreeSet<IpAddr>),
}

impl Live {
    /// Whether only those are dialled of whom nothing is heard.
    pub fn is_enough(&self) -> bool {
        self.peers.len() >= ENOUGH
    }
}

/// Configured targets of which nothing is heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unheard {
    /// Where they are.
    pub hosts: BTreeSet<IpAddr>,
    /// Those of which nobody knows where they are, as they are written.
    pub targets: BTreeSet<String>,
}

/// What became of a connection that we dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// After a pause.
    Later,
    /// Not until somebody says so.
    Never,
    /// Nor until then: it leads to ourselves.
    Own,
}

#[derive(Clone, Debug)]
struct Target {
    direct: bool,
    phase: Phase,
    pause: Duration,
    error: Option<String>,
    /// Where it was found, or is if it is written as an address.
    address: Option<SocketAddr>,
    /// Written without a port: whoever dials us from that host is taken for it.
    portless: bool,
    /// Who was found there.
    peer: Option<PeerName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting { due: Timestamp },
    Attempting,
    Connected { since: Timestamp },
    Never,
    Own,
}

impl Phase {
    fn is_given_up(self) -> bool {
        match self {
            Phase::Never | Phase::Own => true,
            Phase::Waiting { .. } | Phase::Attempting | Phase::Connected { .. } => false,
        }
    }
}

/// All targets.
#[derive(Clone, Debug)]
pub struct Dialler {
    port: u16,
    targets: BTreeMap<String, Target>,
    /// Where peers may be that are connected otherwise: each is dialled until it turned out who is there.
    sought: BTreeSet<SocketAddr>,
    /// When the next one is due may be another moment than was said last.
    changed: bool,
}

impl Dialler {
    /// No targets yet. Those without a port are on `port`.
    pub fn new(port: u16) -> Dialler {
        Dialler { port, targets: BTreeMap::new(), sought: BTreeSet::new(), changed: false }
    }

    /// These are the direct targets from now on. Added ones are due at once, and so are those given up for ever.
    pub fn set_direct(&mut self, now: Timestamp, direct: &BTreeSet<String>) {
        self.changed = true;
        self.targets.retain(|text, target| !target.direct || direct.contains(text));
        for text in direct {
            let fresh = Target::new(now, text, self.port, true);
            let target = self.targets.entry(text.clone()).or_insert_with(|| fresh.clone());
            target.direct = true;
            if target.phase.is_given_up() {
                *target = fresh;
            }
        }
    }

    /// These addresses are mentioned now. Others that were are forgotten unless in use.
    pub fn set_discovered(&mut self, now: Timestamp, mentioned: &BTreeSet<SocketAddr>) {
        self.changed = true;
        self.targets.retain(|_, target| {
            let idle = matches!(target.phase, Phase::Waiting { .. }) || target.phase.is_given_up();
            let is_wanted = |address| mentioned.contains(&address) || self.sought.contains(&address);
            target.direct || !idle || target.address.is_some_and(is_wanted)
        });
        self.add_discovered(now, mentioned);
    }

    /// Hosts where peers may be that are connected otherwise, from now on. Returns whether those are others than before.
    pub fn seek(&mut self, now: Timestamp, hosts: &BTreeSet<IpAddr>) -> bool {
        let sought: BTreeSet<SocketAddr> =
            hosts.iter().map(|host| SocketAddr::new(*host, self.port)).collect();
        let are_others = sought != self.sought;
        if are_others {
            self.changed = true;
            self.add_discovered(now, &sought);
            self.sought = sought;
        }
        are_others
    }

    fn add_discovered(&mut self, now: Timestamp, addresses: &BTreeSet<SocketAddr>) {
        let known: BTreeSet<SocketAddr> = self.targets.values().filter_map(|target| target.address).collect();
        for address in addresses.difference(&known) {
            if self.targets.values().filter(|target| !target.direct).count() == DISCOVERED_MAX {
                return;
            }
            let text = address.to_string();
            self.targets.insert(text.clone(), Target::new(now, &text, self.port, false));
        }
    }

    /// The live connections are others, or a target is: what was said to be due next holds no more. Asked once.
    pub fn has_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The live connections are others now.
    pub fn reconsider(&mut self) {
        self.changed = true;
    }

    /// Some targets whose time has come, at most so many.
    pub fn take_due(
        &mut self,
        now: Timestamp,
        live: &Live,
        most: usize,
        rng: &mut ChaCha8Rng,
    ) -> Vec<String> {
        let is_due = |target: &Target| target.due(live).is_some_and(|due| due <= now);
        let mut due: Vec<String> =
            self.targets.iter().filter(|(_, target)| is_due(target)).map(|(text, _)| text.clone()).collect();
        while due.len() > most {
            due.swap_remove(rng.random_range(0..due.len()));
        }
        for text in &due {
            self.targets.entry(text.clone()).and_modify(|target| target.phase = Phase::Attempting);
        }
        due
    }

    /// When the next target's time comes.
    pub fn next_due(&self, live: &Live) -> Option<Timestamp> {
        self.targets.values().filter_map(|target| target.due(live)).min()
    }

    /// The configured targets that are neither connected nor, by `heard`, known otherwise. One found to be ourselves is none of
    /// them; `named` knows the hosts of some names, of whom one is ourselves maybe.
    pub fn unheard(
        &self,
        live: &Live,
        heard: impl Fn(PeerName, IpAddr) -> bool,
        named: impl Fn(&str) -> Option<Hosts>,
    ) -> Unheard {
        let missed = |target: &&Target| {
            target.direct
                && !matches!(target.phase, Phase::Connected { .. })
                && !target.phase.is_given_up()
                && !target.is_connected_otherwise(live)
        };
        let mut unheard = Unheard::default();
        for (text, target) in self.targets.iter().filter(|(_, target)| missed(target)) {
            let hosts: Option<BTreeSet<IpAddr>> = match target.address {
                Some(address) => Some([address.ip()].into()),
                None => named(text).map(|hosts| hosts.others),
            };
            let peer = target.peer.unwrap_or(PeerName::UNKNOWN);
            match hosts {
                Some(hosts) => unheard.hosts.extend(hosts.into_iter().filter(|host| !heard(peer, *host))),
                None if heard(peer, IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => {}
                None => drop(unheard.targets.insert(text.clone())),
            }
        }
        unheard
    }

    /// Whether a target was configured, so that an unknown peer may be found there.
    pub fn is_direct(&self, target: &str) -> bool {
        self.targets.get(target).is_some_and(|target| target.direct)
    }

    /// Somebody answered.
    pub fn answered(&mut self, target: &str, remote: SocketAddr) {
        if let Some(target) = self.targets.get_mut(target) {
            target.address = Some(remote);
        }
        self.changed = true;
    }

    /// It turned out who answered. Returns whether that was not known.
    pub fn recognised(&mut self, target: &str, peer: PeerName) -> bool {
        self.changed = true;
        let target = self.targets.get_mut(target);
        target.is_some_and(|target| target.peer.replace(peer) != Some(peer))
    }

    /// Who was found at which addresses, also where another connection to that peer was kept.
    pub fn met(&self) -> impl Iterator<Item = (PeerName, SocketAddr)> {
        self.targets.values().filter_map(|target| Some((target.peer?, target.address?)))
    }

    /// The connection is one.
    pub fn connected(&mut self, now: Timestamp, target: &str) {
        if let Some(target) = self.targets.get_mut(target) {
            target.phase = Phase::Connected { since: now };
            target.error = None;
        }
        self.changed = true;
    }

    /// There was no connection, or it ended.
    pub fn ended(&mut self, now: Timestamp, rng: &mut ChaCha8Rng, target: &str, why: String, again: Again) {
        self.changed = true;
        let Some(target) = self.targets.get_mut(target) else { return };
        target.error = Some(why);
        target.phase = match (again, target.phase) {
            (Again::Never, _) => Phase::Never,
            (Again::Own, _) => Phase::Own,
            (Again::Later, Phase::Connected { since }) if now.since(since) > LONG_LIFE => {
                target.pause = PAUSE_MIN;
                Phase::Waiting { due: now }
            }
            (Again::Later, _) => {
                let pause = target.pause;
                target.pause = (pause * 3 / 2).min(PAUSE_MAX);
                let spread = rng.random_range(0..pause.as_micros().max(1) as u64);
                Phase::Waiting { due: now + pause / 2 + Duration::from_micros(spread) }
            }
        };
    }

    /// Each target, its state, and what went wrong last if there is still no connection.
    pub fn view(&self, live: &Live) -> impl Iterator<Item = (&str, TargetState, Option<&str>)> {
        self.targets.iter().map(|(text, target)| {
            let heard = target.is_connected_otherwise(live) || target.is_spared(live);
            let amiss = target.phase.is_given_up() || !heard;
            (text.as_str(), target.state(live), target.error.as_deref().filter(|_| amiss))
        })
    }
}

impl Target {
    fn new(now: Timestamp, text: &str, port: u16, direct: bool) -> Target {
        let ip = text.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, port));
        let address = text.parse().ok().or(ip);
        let portless = ip.is_some() || !text.contains(':');
        let phase = Phase::Waiting { due: now };
        Target { direct, phase, pause: PAUSE_MIN, error: None, address, portless, peer: None }
    }

    fn due(&self, live: &Live) -> Option<Timestamp> {
        match self.phase {
            Phase::Waiting { due } if !self.is_connected_otherwise(live) && !self.is_spared(live) => {
                Some(due)
            }
            Phase::Waiting { .. } | Phase::Attempting | Phase::Connected { .. } => None,
            Phase::Never | Phase::Own => None,
        }
    }

    fn is_connected_otherwise(&self, live: &Live) -> bool {
        let there = |address: SocketAddr| {
            live.remotes.contains(&address) || self.portless && live.inbound.contains(&address.ip())
        };
        self.peer.is_some_and(|peer| live.peers.contains(&peer)) || self.address.is_some_and(there)
    }

    /// There are neighbours enough, and it is heard of through them.
    fn is_spared(&self, live: &Live) -> bool {
        let (peers, hosts) = &live.heard;
        let heard = self.peer.is_some_and(|peer| peers.contains(&peer))
            || self.address.is_some_and(|address| hosts.contains(&address.ip()));
        live.is_enough() && heard
    }

    fn state(&self, live: &Live) -> TargetState {
        match self.phase {
            Phase::Waiting { .. } if self.is_connected_otherwise(live) || self.is_spared(live) => {
                TargetState::Suspended
            }
            Phase::Waiting { .. } => TargetState::Waiting,
            Phase::Attempting => TargetState::Attempting,
            Phase::Connected { .. } => TargetState::Connected,
            Phase::Never => TargetState::Suspended,
            Phase::Own => TargetState::Own,
        }
    }
}
