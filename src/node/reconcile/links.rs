//! What containers that are to be connected need of the host: links, and ports that lead to them. It is made up anew only where
//! something has changed that it follows from, so that a host with a thousand containers compares two maps and copies none.

use ipnet::Ipv4Net;

use super::desired::Connected;
use crate::{
    addr::Address,
    state::{Links, Netns},
};

/// What that follows from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::node) struct Basis {
    /// Which state of the containers.
    pub containers: u64,
    pub canary: Option<(Address, Netns)>,
    pub mtu: u32,
    pub range: Ipv4Net,
}

/// What is needed, as it was made up last.
#[derive(Debug, Default)]
pub(in crate::node) struct Wanted(Option<(Basis, Connected)>);

impl Wanted {
    /// What was made up, if it follows from this.
    pub fn if_of(&self, basis: &Basis) -> Option<&Connected> {
        self.0.as_ref().filter(|(known, _)| known == basis).map(|(_, connected)| connected)
    }

    /// The links that were made up last.
    pub fn links(&self) -> &Links {
        static NONE: Links = Links::new();
        self.0.as_ref().map_or(&NONE, |(_, connected)| &connected.links)
    }

    /// This was made up.
    pub fn new(basis: Basis, connected: Connected) -> Wanted {
        Wanted(Some((basis, connected)))
    }
}
