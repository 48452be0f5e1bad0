//! Peers that are found by themselves: the running instances that bear a tag, beside those that are listed.
//!
//! What is found says whom to dial and nothing else: how many peers make a quorum is configured.

use std::{collections::BTreeSet, net::Ipv4Addr};

use super::view::View;
use crate::node::{
    boundary::{io::Output, out::Out},
    facts::Facts,
};

/// The instances that were found.
#[derive(Debug, Default)]
pub struct Discovery {
    /// Their addresses, as last read.
    pub found: View<BTreeSet<Ipv4Addr>>,
}

impl Discovery {
    /// Looks, if it is time.
    pub(in crate::node) fn look(&mut self, facts: &Facts, out: &mut Out) {
        let Some((key, value)) = facts.config.ec2_tag.clone() else { return };
        if self.found.begin(facts.now) {
            out.outputs.push_back(Output::ObservePeers(key, value));
        }
    }

    pub(in crate::node) fn addresses(&self) -> impl Iterator<Item = &Ipv4Addr> {
        self.found.seen().into_iter().flatten()
    }
}
