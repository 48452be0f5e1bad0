//! Among our own kind what is known is compared before it is told.
//!
//! Now and then a peer offers some neighbours digests of what it knows, channel by channel. Whoever knows something else wants to
//! hear of that channel, and is told all of it, once. Whoever does not say that it compares, as a router of Weave Net, is told all of it
//! unasked. News do not wait for this: they are told as they come.
//!
//! The topology of many hosts is large, and where two differ they do in a few descriptions. So whoever has another one says which
//! descriptions it has, and is told those that are older or missing; if it has later ones itself, it is asked for them in the same way.
//!
//! ```text
//! offer   0, and for each channel the length of its name (1), its name, and the digest (8)
//! want    1, and for each channel the length of its name (1), and its name
//! have    2, and for each peer its name (8), the UID (8) and the version (8) of its description, and 1 if that says the short id (1)
//! ```

use super::{
    CHANNEL_LEN_MAX, ConnId, Mesh, Offer, Output, Recipients, TOPOLOGY, connection::Connection,
    description::Known, topology::PEERS_MAX,
};
use crate::{
    digest::Digest,
    peer::{PeerName, PeerUid},
};

/// The channel on which neighbours compare.
pub(super) const COMPARE: &str = "weavers/compare";

const OFFER: u8 = 0;
const WANT: u8 = 1;
const HAVE: u8 = 2;
/// Channels in one message; further ones are not looked at.
const CHANNELS_MAX: usize = 8;
const DIGEST_LEN: usize = size_of::<u64>();
const KNOWN_LEN: usize = 3 * size_of::<u64>() + 1;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Offer(Vec<(String, Digest)>),
    Want(Vec<String>),
    Have(Vec<Known>),
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
            Said::Have(known) => {
                let one = |&Known { name, uid, version, has_short_id }: &Known| {
                    let numbers = [name.as_u64(), uid.0, version].map(u64::to_be_bytes);
                    [numbers.concat(), vec![u8::from(has_short_id)]].concat()
                };
                [vec![HAVE], known.iter().flat_map(one).collect()].concat()
            }
        }
    }

    /// What cannot be read is of a later version, and means nothing.
    fn decode(payload: &[u8]) -> Option<Said> {
        let (&kind, mut rest) = payload.split_first()?;
        if kind == HAVE {
            return known(rest).map(Said::Have);
        }
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

/// Descriptions of further peers than are kept are not looked at.
fn known(bytes: &[u8]) -> Option<Vec<Known>> {
    let (all, []) = bytes.as_chunks::<KNOWN_LEN>() else { return None };
    let one = |bytes: &[u8; KNOWN_LEN]| {
        let (numbers, short) = bytes.as_chunks::<8>();
        let [name, uid, version] = numbers else { return None };
        let [name, uid, version] = [name, uid, version].map(|number| u64::from_be_bytes(*number));
        let has_short_id = short == [1];
        Some(Known { name: PeerName::from_u64(name), uid: PeerUid(uid), version, has_short_id })
    };
    all.iter().take(PEERS_MAX).map(one).collect()
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
        let channels: Vec<&'static str> = digests.iter().map(|(channel, _)| *channel).collect();
        self.note_offered(conn, &channels);
        let digests = digests.iter().map(|&(channel, digest)| (channel.to_owned(), digest)).collect();
        self.gossip(Recipients::One(conn), COMPARE, &Said::Offer(digests).encode());
    }

    fn note_offered(&mut self, conn: ConnId, channels: &[&'static str]) {
        if let Some(neighbour) = self.connections.get_mut(&conn).and_then(|found| found.neighbour()) {
            neighbour.offered.extend(channels);
        }
    }

    fn say_what_we_have(&mut self, conn: ConnId) {
        let have = Said::Have(self.topology.known());
        self.gossip(Recipients::One(conn), COMPARE, &have.encode());
    }

    /// A neighbour to which we have offered the topology has another one.
    fn on_had(&mut self, conn: ConnId, theirs: &[Known]) {
        let neighbour = self.connections.get_mut(&conn).and_then(|found| found.neighbour());
        if neighbour.is_none_or(|neighbour| !neighbour.offered.remove(TOPOLOGY)) {
            return;
        }
        let later = self.topology.later_than(theirs);
        if !later.is_empty() {
            let payload = self.topology.encode(later);
            self.gossip(Recipients::One(conn), TOPOLOGY, &payload);
        }
        // It has not offered it: what it is asked in turn it answers once.
        if self.topology.is_behind(theirs) {
            self.say_what_we_have(conn);
        }
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
            Some(Said::Have(theirs)) => self.on_had(conn, &theirs),
            None => {}
        }
    }

    fn on_offered(&mut self, conn: ConnId, (channel, digest): (String, Digest)) {
        if channel == TOPOLOGY {
            if self.topology.digest() != digest {
                self.say_what_we_have(conn);
                self.note_offered(conn, &[TOPOLOGY]);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        let digests = vec![("weavers/dead".to_owned(), Digest(7)), ("topology".to_owned(), Digest(u64::MAX))];
        let known = Known { name: PeerName::from_u64(7), uid: PeerUid(8), version: 9, has_short_id: true };
        let have = Said::Have(vec![known, Known { has_short_id: false, ..known }]);
        let want = Said::Want(vec!["topology".to_owned()]);
        for said in [Said::Offer(digests), Said::Offer(Vec::new()), want, have, Said::Have(Vec::new())] {
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
