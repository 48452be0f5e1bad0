//! Names of `peers`, and the hosts that they stand for.
//!
//! The name of a single host is dialled as it is written: whoever dials resolves it. One with several addresses stands for as many
//! hosts, each of which is a target of its own. All are resolved anew from time to time, so that the targets follow the answer; where
//! there is none, the last one holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::view::View;
use crate::{
    mesh::{Endpoint, Hosts},
    node::{
        boundary::{io::Output, out::Out},
        facts::Facts,
        protocol::status::Note,
    },
    state::{Fault, FaultKind},
    time::Timestamp,
};

/// What is known of the names of `peers`.
#[derive(Debug, Default)]
pub(in crate::node) struct Names {
    pub(in crate::node) look: View<()>,
    /// The names among `peers`.
    listed: Vec<String>,
    /// The hosts of each name, as last resolved.
    known: BTreeMap<String, Hosts>,
    /// Why the last try failed.
    failed: BTreeMap<String, String>,
}

impl Names {
    /// These are `peers` from now on. It is asked after every message whether there are names among them.
    pub(in crate::node) fn list(&mut self, peers: &[String]) {
        let is_name = |peer: &&String| Endpoint::parse(peer).is_ok_and(|endpoint| endpoint.is_name());
        self.listed = peers.iter().filter(is_name).cloned().collect();
    }

    /// Whom to dial for this peer.
    pub(in crate::node) fn targets_of(&self, peer: &str) -> BTreeSet<String> {
        match (self.known.get(peer).filter(|hosts| hosts.are_several()), Endpoint::parse(peer)) {
            (Some(hosts), Ok(endpoint)) => hosts.others.iter().map(|other| endpoint.at(*other)).collect(),
            (Some(_) | None, Ok(_) | Err(_)) => [peer.to_owned()].into(),
        }
    }

    /// For which hosts a name stands, as last resolved.
    pub(in crate::node) fn hosts_of(&self, name: &str) -> Option<Hosts> {
        self.known.get(name).cloned()
    }

    fn take_in(&mut self, answers: BTreeMap<String, Result<Hosts, String>>) -> Result<(), Fault> {
        self.known.retain(|name, _| answers.contains_key(name));
        self.failed.clear();
        for (name, answer) in answers {
            match answer {
                Ok(hosts) => drop(self.known.insert(name, hosts)),
                Err(why) => drop(self.failed.insert(name, why)),
            }
        }
        match self.failed.values().next().cloned() {
            None => Ok(()),
            Some(message) => {
                Err(Fault { kind: FaultKind::Unreachable, message, hint: None, request_id: None })
            }
        }
    }

    /// When to look next.
    pub(in crate::node) fn next_look(&self) -> Option<Timestamp> {
        self.look.next_look().filter(|_| !self.listed.is_empty())
    }

    /// Has them resolved, if it is time.
    pub(in crate::node) fn look(&mut self, facts: &Facts, out: &mut Out) {
        if self.next_look().is_some() && self.look.begin(facts.now) {
            out.outputs.push_back(Output::ObserveNames(self.listed.iter().cloned().collect()));
        }
    }

    /// They were resolved.
    pub(in crate::node) fn seen(
        &mut self,
        now: Timestamp,
        answers: BTreeMap<String, Result<Hosts, String>>,
        interval: Duration,
    ) {
        let result = self.take_in(answers);
        self.look.end(now, result, interval);
    }

    /// Names whose hosts may be others by now.
    pub(in crate::node) fn unresolved(&self) -> impl Iterator<Item = Note> {
        let outdated = |name: &&String| self.known.get(*name).is_some_and(Hosts::are_several);
        self.failed.iter().filter(move |(name, _)| outdated(name)).map(|(name, why)| Note {
            what: format!("peers: {why}; the hosts that {name} stood for before are dialled"),
            hint: Some("check the name server of this host (`getent ahosts`)".into()),
        })
    }
}
