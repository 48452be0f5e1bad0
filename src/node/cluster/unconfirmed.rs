//! Hosts that run and have confirmed nothing, while something is in quarantine here.
//!
//! A part of it may have been given to a host of which nobody else has heard. So EC2 is asked which of the hosts that are listed, or bear
//! the tag, run: each must have been heard before the quarantine is over. Of many hosts some are asked about at a time, in turns; as long
//! as nothing is known of one of them, it is not known which have confirmed nothing. Nor is it where a name that is listed stands for no
//! host, or for one that has no address of IPv4, by which EC2 could be asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use crate::{
    ipam::Allocator,
    mesh::{Mesh, Unheard},
    node::{
        boundary::{io::Output, out::Out},
        facts::Facts,
        observe::{discovery::Discovery, names::Names, peer_subnets::ASKED_MAX, view::View},
        protocol::status::Note,
    },
    state::Fault,
    time::Timestamp,
};

/// Hosts that one note names.
const NAMED_MAX: usize = 8;

/// What is known of hosts that are not heard.
#[derive(Debug, Default)]
pub(in crate::node) struct Unconfirmed {
    /// Which quarantine it is for, and since when.
    quarantine: Option<(u64, Timestamp)>,
    /// Listed and not heard.
    unheard: BTreeSet<Ipv4Addr>,
    /// The same, where nobody knows where they are; as they are written.
    lost: BTreeSet<String>,
    look: View<()>,
    /// What the last look asks about.
    asked: BTreeSet<Ipv4Addr>,
    /// Whether an instance runs there, by what EC2 said last since the quarantine began.
    runs: BTreeMap<Ipv4Addr, bool>,
    /// Something changed since it was last considered.
    touched: bool,
}

impl Unconfirmed {
    /// To be considered anew.
    pub(in crate::node) fn touch(&mut self) {
        self.touched = true;
    }

    /// Nothing is in quarantine any more. A look may be under way still: it is nobody else's.
    fn forget(&mut self) {
        self.quarantine = None;
        self.unheard.clear();
        self.lost.clear();
        self.runs.clear();
    }

    /// Why the last look failed.
    pub(in crate::node) fn fault(&self) -> Option<&Fault> {
        self.look.fault()
    }

    pub(in crate::node) fn next_look(&self) -> Option<Timestamp> {
        self.quarantine.filter(|_| !self.unheard.is_empty()).and_then(|_| self.look.next_look())
    }

    /// Those of the unheard that run, if EC2 has said of each whether it does.
    fn running(&self) -> Option<BTreeSet<Ipv4Addr>> {
        let is_doubted = !self.unheard.is_empty() && self.look.fault().is_some() || !self.lost.is_empty();
        let all: Option<Vec<(Ipv4Addr, bool)>> =
            self.unheard.iter().map(|address| Some((*address, *self.runs.get(address)?))).collect();
        let all = all.filter(|_| !is_doubted)?;
        Some(all.into_iter().filter(|(_, runs)| *runs).map(|(address, _)| address).collect())
    }

    /// Whoever was heard meanwhile is asked about anew.
    fn set_unheard(&mut self, unheard: BTreeSet<Ipv4Addr>) {
        self.unheard = unheard;
        self.runs.retain(|address, _| self.unheard.contains(address));
    }

    /// Whether there are some that no look has asked about yet. After one that failed it is time for a pause.
    fn wants_another_look(&self) -> bool {
        let unasked = self.unheard.difference(&self.asked).any(|address| !self.runs.contains_key(address));
        unasked && self.look.fault().is_none()
    }

    /// Whom to ask about next: first those of whom nothing is known, and then the others in turns.
    fn turn(&self) -> BTreeSet<Ipv4Addr> {
        let mut all: Vec<Ipv4Addr> = self.unheard.iter().copied().collect();
        let had_its_turn = |address: &Ipv4Addr| self.asked.last() >= Some(address);
        all.sort_by_key(|address| (self.runs.contains_key(address), had_its_turn(address)));
        all.into_iter().take(ASKED_MAX).collect()
    }

    /// Tells the address manager whom else it waits for. Returns whether anything may have changed.
    pub(in crate::node) fn settle(
        &mut self,
        facts: &Facts,
        (mesh, ipam): (&Mesh, &mut Allocator),
        (names, discovery): (&Names, &mut Discovery),
        out: &mut Out,
    ) -> bool {
        let Some(number) = ipam.quarantine_number() else {
            self.forget();
            return false;
        };
        let is_new = self.quarantine.is_none_or(|(known, _)| known != number);
        if !is_new && !std::mem::take(&mut self.touched) {
            return false;
        }
        if is_new {
            self.begin_to_ask(facts, discovery, out, number);
        }
        let running = self.running_now(facts, mesh, (names, discovery), out);
        ipam.set_unconfirmed(running);
        true
    }

    fn begin_to_ask(&mut self, facts: &Facts, discovery: &mut Discovery, out: &mut Out, number: u64) {
        self.quarantine = Some((number, facts.now));
        self.runs.clear();
        self.look.look_by(facts.now);
        if facts.config.ec2_tag.is_some() {
            discovery.found.look_by(facts.now);
        }
        out.disturbed = true;
    }

    fn running_now(
        &mut self,
        facts: &Facts,
        mesh: &Mesh,
        (names, discovery): (&Names, &Discovery),
        out: &mut Out,
    ) -> Option<BTreeSet<Ipv4Addr>> {
        // Without EC2 nobody else is known.
        if facts.identity.instance.is_none() {
            return Some(BTreeSet::new());
        }
        let (_, since) = self.quarantine?;
        let (unheard, lost) = unheard(mesh, names);
        self.set_unheard(unheard);
        self.lost = lost;
        if self.wants_another_look() {
            self.look.look_by(facts.now);
            out.disturbed = true;
        }
        let listed = facts.config.ec2_tag.is_none() || discovery.found.is_seen_since(since);
        self.running().filter(|_| listed)
    }

    /// Asks EC2, if it is time.
    pub(in crate::node) fn look(&mut self, facts: &Facts, out: &mut Out) {
        if self.next_look().is_some() && self.look.begin(facts.now) {
            self.asked = self.turn();
            out.outputs.push_back(Output::ObserveRunning(self.asked.clone()));
        }
    }

    /// EC2 has said which of those that were asked about run.
    pub(in crate::node) fn seen(
        &mut self,
        now: Timestamp,
        result: Result<BTreeSet<Ipv4Addr>, Fault>,
        interval: Duration,
    ) {
        let Unconfirmed { quarantine, look, asked, runs, .. } = self;
        let running = result.as_ref().ok().cloned();
        let begun = look.end(now, result.map(|_| ()), interval);
        if let Some(running) = running.filter(|_| quarantine.is_some_and(|(_, since)| begun >= since)) {
            runs.extend(asked.iter().map(|address| (*address, running.contains(address))));
        }
        self.touch();
    }

    // ===== what people are told =====

    /// It is not known who else may own a part of what is in quarantine.
    pub(in crate::node) fn problems(&self) -> Vec<Note> {
        let fault = self.look.fault().filter(|_| self.quarantine.is_some());
        let unread = fault.map(|fault| Note {
            what: format!(
                "addresses stay in quarantine: it cannot be read which instances are running: {fault}"
            ),
            hint: fault.hint.clone(),
        });
        unread.into_iter().chain(self.lost_hosts()).collect()
    }

    fn lost_hosts(&self) -> Option<Note> {
        let lost = &self.lost;
        let named: Vec<&str> = lost.iter().take(NAMED_MAX).map(String::as_str).collect();
        let more = match lost.len() - named.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let first = *named.first()?;
        Some(Note {
            what: format!(
                "addresses stay in quarantine: {}{more}, listed in `peers`, has not contacted us and resolves to no IPv4 address, \
                 so EC2 cannot be asked about it",
                named.join(", ")
            ),
            hint: Some(format!(
                "start weavers there, see whether the name resolves here (`getent ahosts {first}`), or list it no more"
            )),
        })
    }
}

/// Where those are whom EC2 can be asked about, and the others as they are written.
pub(in crate::node) fn unheard(mesh: &Mesh, names: &Names) -> (BTreeSet<Ipv4Addr>, BTreeSet<String>) {
    let Unheard { hosts, targets: mut lost } = mesh.unheard(|name| names.hosts_of(name));
    let mut known = BTreeSet::new();
    for host in hosts {
        match host {
            IpAddr::V4(host) => drop(known.insert(host)),
            IpAddr::V6(host) => drop(lost.insert(host.to_string())),
        }
    }
    (known, lost)
}

/// Whether whoever is listed or was found is heard, or is this host.
pub(in crate::node) fn hears_all_listed(mesh: &Mesh, names: &Names) -> bool {
    let (hosts, lost) = unheard(mesh, names);
    hosts.is_empty() && lost.is_empty()
}
