//! Among our own kind what is known is compared before it is told.
//!
//! Now and then a peer offers some neighbours digests of what it knows, channel by channel. Whoever knows something else wants to
//! hear of that channel, and is told all of it, once. Whoever does not say that it compares, as a router of Weave Net, is told all of it
//! unasked. News do not wait for this: they are told as they come.
//!
//! ```text
//! offer   0, and for each channel the length of its name (1), its name, and the digest (8)
//! want    1, and for each channel the length of its name (1), and its name
//! ```

use std::collections::BTreeSet;

use super::{CHANNEL_LEN_MAX, ConnId, Mesh, Offer, Output, Recipients, TOPOLOGY, peering::Connection};
use crate::digest::Digest;

/// The channel on which neighbours compare.
pub(super) const COMPARE: &str = "weavers/compare";

const OFFER: u8 = 0;
const WANT: u8 = 1;
/// Channels in one message; further ones are not looked at.
const CHANNELS_MAX: usize = 8;
const DIGEST_LEN: usize = size_of::<u64>();

#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Offer(Vec<(String, Digest)>),
    Want(Vec<String>),
}

impl Said {
    fn encode(&self) -> Vec<u8> {
        let named = |channel: &str| [&[channel.len() as u8], channel.as_bytes()].concat();
        match self {
            Said::Offer(digests) => {
                let one = |(channel, digest): &(String, Digest)| {
                    [named(channel), digest.0.to_be_bytes().to_vec()].concat()
                };
                [vec![OFFER], digests.iter().flat_map(one).collect()].concat()
            }
            Said::Want(channels) => {
                [vec![WANT], channels.iter().flat_map(|channel| named(channel)).collect()].concat()
            }
        }
    }

    /// What cannot be read is of a later version, and means nothing.
    fn decode(payload: &[u8]) -> Option<Said> {
        let (&kind, mut rest) = payload.split_first()?;
        let (mut digests, mut channels) = (Vec::new(), Vec::new());
        while !rest.is_empty() && digests.len().max(channels.len()) < CHANNELS_MAX {
            let (&len, after) = rest.split_first()?;
            let (channel, after) = after.split_at_checked(len.into())?;
            let channel = std::str::from_utf8(channel).ok().filter(|name| name.len() <= CHANNEL_LEN_MAX)?;
            rest = after;
            match kind {
                OFFER => {
                    let (digest, after) = rest.split_first_chunk::<DIGEST_LEN>()?;
                    digests.push((channel.to_owned(), Digest(u64::from_be_bytes(*digest))));
                    rest = after;
                }
                WANT => channels.push(channel.to_owned()),
                _ => return None,
            }
        }
        match kind {
            OFFER => Some(Said::Offer(digests)),
            WANT => Some(Said::Want(channels)),
            _ => None,
        }
    }
}

impl Mesh {
    /// What everybody knows already, unless something was lost: the topology to a few, and the rest, which the application
    /// has, to some.
    pub(super) fn repeat(&mut self) {
        let digest = self.topology.digest();
        let mut others = Vec::new();
        for name in self.chosen(Recipients::Few) {
            let Some(&conn) = self.neighbours.get(&name) else { continue };
            match self.compares(conn) {
                true => self.offer_to(conn, &[(TOPOLOGY, digest)]),
                false => others.push(conn),
            }
        }
        others.into_iter().for_each(|conn| self.gossip_topology(Recipients::One(conn)));
        let conns: Vec<ConnId> = self.neighbours.values().copied().collect();
        let comparing = conns.iter().filter(|conn| self.compares(**conn)).count();
        if comparing > 0 {
            self.outputs.push_back(Output::Offer);
        }
        if comparing < conns.len() {
            self.outputs.push_back(Output::SendState(Recipients::Unasked));
        }
    }

    /// Offers what the application knows, by the digests of its channels, to some neighbours. What comes first is compared first.
    pub fn offer(&mut self, digests: &[(&'static str, Digest)]) {
        for name in self.chosen(Recipients::Neighbours { except: None }) {
            if let Some(&conn) = self.neighbours.get(&name).filter(|conn| self.compares(**conn)) {
                self.offer_to(conn, digests);
            }
        }
    }

    fn offer_to(&mut self, conn: ConnId, digests: &[(&'static str, Digest)]) {
        if let Some(neighbour) = self.connections.get_mut(&conn).and_then(|found| found.neighbour()) {
            neighbour.offered.extend(digests.iter().map(|(channel, _)| *channel));
        }
        let digests = digests.iter().map(|&(channel, digest)| (channel.to_owned(), digest)).collect();
        self.gossip(Recipients::One(conn), COMPARE, &Said::Offer(digests).encode());
    }

    /// What a neighbour offered is not what we know.
    pub fn want(&mut self, conn: ConnId, channel: &str) {
        self.gossip(Recipients::One(conn), COMPARE, &Said::Want(vec![channel.to_owned()]).encode());
    }

    /// A neighbour offers what it knows, or wants what we offered: that once, however often it asks.
    pub(super) fn on_compared(&mut self, conn: ConnId, payload: &[u8]) {
        match Said::decode(payload) {
            Some(Said::Offer(digests)) => digests.into_iter().for_each(|one| self.on_offered(conn, one)),
            Some(Said::Want(channels)) => {
                let neighbour = self.connections.get_mut(&conn).and_then(|found| found.neighbour());
                let Some(neighbour) = neighbour else { return };
                let mut taken: Vec<&'static str> = Vec::new();
                for channel in channels {
                    taken.extend(neighbour.offered.take(channel.as_str()));
                }
                for channel in taken {
                    match channel {
                        TOPOLOGY => self.gossip_topology(Recipients::One(conn)),
                        channel => self.outputs.push_back(Output::SendAll(conn, channel)),
                    }
                }
            }
            None => {}
        }
    }

    fn on_offered(&mut self, conn: ConnId, (channel, digest): (String, Digest)) {
        if channel == TOPOLOGY {
            if self.topology.digest() != digest {
                self.want(conn, TOPOLOGY);
            }
        } else if let Some(&channel) = self.channels.get(channel.as_str()) {
            let Some(from) = self.connections.get(&conn).and_then(Connection::peer) else { return };
            self.outputs.push_back(Output::Compare(Offer { conn, from, channel, digest }));
        }
    }

    /// Whether the neighbour there compares before it is told.
    pub(super) fn compares(&self, conn: ConnId) -> bool {
        self.connections.get(&conn).is_some_and(|connection| connection.compares())
    }
}

/// What was offered to a neighbour and not yet told.
pub(super) type Offered = BTreeSet<&'static str>;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        let digests = vec![("weavers/dead".to_owned(), Digest(7)), ("topology".to_owned(), Digest(u64::MAX))];
        for said in [Said::Offer(digests), Said::Offer(Vec::new()), Said::Want(vec!["topology".to_owned()])] {
            assert_eq!(Said::decode(&said.encode()), Some(said));
        }
    }

    #[test]
    fn of_many_channels_some_are_looked_at() {
        let many = Said::Want((0..1000).map(|number| format!("{number}")).collect());
        let Some(Said::Want(channels)) = Said::decode(&many.encode()) else { panic!("it is well formed") };
        assert_eq!(channels.len(), CHANNELS_MAX);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_mean_something_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(said) = Said::decode(&bytes) {
                prop_assert_eq!(Said::decode(&said.encode()), Some(said));
            }
        }
    }
}
