//! Peers that are found by themselves: the running instances that bear a tag, beside those that are listed.
//!
//! What is found says whom to dial and nothing else: how many peers make a quorum is configured.

use std::{collections::BTreeSet, net::Ipv4Addr};

use super::{Node, io::Output, overview::Overview, view::View};
use crate::state::Fault;

/// The instances that were found.
#[derive(Debug, Default)]
pub struct Discovery {
    /// Their addresses, as last read.
    pub found: View<BTreeSet<Ipv4Addr>>,
}

impl Discovery {
    fn addresses(&self) -> impl Iterator<Item = &Ipv4Addr> {
        self.found.seen().into_iter().flatten()
    }
}

impl Node {
    pub(super) fn look_for_peers(&mut self) {
        let Some((key, value)) = self.facts.config.ec2_tag.clone() else { return };
        if self.observed.discovery.found.begin(self.facts.now) {
            self.out.outputs.push_back(Output::ObservePeers(key, value));
        }
    }

    pub(super) fn on_peers_seen(&mut self, result: Result<BTreeSet<Ipv4Addr>, Fault>) {
        let interval = self.vpc_interval();
        let before = self.overview().targets();
        self.observed.discovery.found.end(self.facts.now, result, interval);
        if self.overview().targets() != before {
            self.dial_targets();
        }
        self.peers.unconfirmed.touch();
        self.judge_election();
    }

    /// Looks anew where the tag has changed.
    pub(super) fn forget_found(&mut self) {
        self.observed.discovery = Discovery::default();
    }

    pub(super) fn dial_targets(&mut self) {
        self.observed.names.list(&self.facts.config.peers);
        self.peers.mesh.set_targets(self.facts.now, self.overview().targets());
        self.peers.unconfirmed.touch();
    }
}

impl Overview<'_> {
    /// Whom to dial: who is listed, and who was found.
    pub(super) fn targets(&self) -> BTreeSet<String> {
        let tagged = self.facts.config.ec2_tag.iter().flat_map(|_| self.observed.discovery.addresses());
        let listed = self.facts.config.peers.iter().flat_map(|peer| self.observed.names.targets_of(peer));
        listed.chain(tagged.map(ToString::to_string)).collect()
    }
}
