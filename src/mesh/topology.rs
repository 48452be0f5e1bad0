//! Who is in the mesh and who is connected to whom, as far as gossip tells.
//!
//! Each peer describes itself and counts its descriptions; the higher count wins. A peer that restarts
//! counts from zero under a new UID, so when it hears a description of its former life it goes on counting from there.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{
    description::{self, Known, LINKS, Link, Peer, SUMMARY, TopologyError},
    features::SHORT_ID_MAX,
    routes,
};
use crate::{counter::Believed, digest::Digest, gob::Encoder, peer::PeerName};

/// Peers that are kept. Further ones are not heard of.
pub const PEERS_MAX: usize = 1024;
/// Connections of all peers together that are kept, so that what we know fits into one message.
pub const ALL_LINKS_MAX: usize = 1 << 17;

/// What a description changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merge {
    /// The peers of which something was new.
    pub news: BTreeSet<PeerName>,
    /// A former life of ours was described: we count on from it and must say so.
    pub ourselves: bool,
}

/// All that is known, ourselves included.
#[derive(Clone, Debug)]
pub struct Topology {
    own: PeerName,
    peers: BTreeMap<PeerName, Peer>,
    /// Of whom a version was refused.
    refused: BTreeMap<PeerName, Believed>,
    written: Written,
}

/// Descriptions in the bytes of the wire: each is passed on many times, and written once.
#[derive(Clone, Debug)]
struct Written {
    types: [Vec<u8>; 2],
    encoder: Encoder,
    /// Summary and links.
    peers: BTreeMap<PeerName, [Vec<u8>; 2]>,
}

impl Topology {
    /// We alone.
    pub fn new(own: PeerName, ourselves: Peer) -> Topology {
        let peers = BTreeMap::from([(own, ourselves)]);
        Topology { own, peers, refused: BTreeMap::new(), written: Written::new() }
    }

    /// All peers.
    pub fn peers(&self) -> &BTreeMap<PeerName, Peer> {
        &self.peers
    }

    /// Ourselves.
    pub fn ourselves(&self) -> &Peer {
        self.peers.get(&self.own).expect("we are among the peers")
    }

    fn ourselves_mut(&mut self) -> &mut Peer {
        self.written.peers.remove(&self.own);
        self.peers.get_mut(&self.own).expect("we are among the peers")
    }

    /// A peer introduced itself. Whoever is known already is described by gossip alone.
    pub fn introduce(&mut self, name: PeerName, peer: Peer) {
        self.peers.entry(name).or_insert(Peer { nickname: description::cut(&peer.nickname), ..peer });
    }

    /// We are connected to a peer.
    pub fn link(&mut self, to: PeerName, link: Link) {
        self.ourselves_mut().links.insert(to, link);
        self.count();
    }

    /// We are no longer connected to a peer.
    pub fn unlink(&mut self, from: PeerName) {
        self.ourselves_mut().links.remove(&from);
        self.count();
    }

    /// Our description is a new one. The last number of all is never left, rather than begun again at zero.
    fn count(&mut self) {
        let ourselves = self.ourselves_mut();
        ourselves.version = ourselves.version.saturating_add(1);
    }

    /// What of a payload of the channel `topology` is newer than what we know.
    pub fn read(&self, payload: &[u8]) -> Result<Vec<(PeerName, Peer)>, TopologyError> {
        let is_news = |name: PeerName, peer: &Peer| {
            let known = self.peers.get(&name);
            known.is_none_or(|known| peer.supersedes(known) || name == self.own && peer.uid != known.uid)
        };
        description::read(payload, is_news)
    }

    /// Takes what is newer than what we know.
    pub fn merge(&mut self, described: Vec<(PeerName, Peer)>) -> Merge {
        let mut merge = Merge::default();
        let (mut placeholders, mut refused) = (BTreeSet::new(), BTreeSet::new());
        let mut links: usize = self.peers.values().map(|peer| peer.links.len()).sum();
        for (name, peer) in described {
            if peer.version > self.believed(name) {
                refused.insert(name);
                continue;
            }
            if name == self.own {
                merge.ourselves |= self.hear_of_ourselves(&peer);
                continue;
            }
            placeholders.extend(peer.links.keys().copied());
            let known = self.peers.get(&name);
            let links_after = links - known.map_or(0, |known| known.links.len()) + peer.links.len();
            let room = self.peers.len() < PEERS_MAX;
            let newer = known.map_or(room, |known| peer.supersedes(known));
            if newer && links_after <= ALL_LINKS_MAX {
                links = links_after;
                self.written.peers.remove(&name);
                self.peers.insert(name, peer);
                merge.news.insert(name);
            }
        }
        for name in placeholders {
            if self.peers.len() < PEERS_MAX {
                self.peers.entry(name).or_default();
            }
        }
        refused.retain(|name| self.peers.contains_key(name));
        for name in refused {
            let known = self.version(name);
            self.refused.entry(name).or_default().refuse(known);
        }
        merge
    }

    /// The highest version at which a peer is believed to be.
    fn believed(&self, name: PeerName) -> u64 {
        self.refused.get(&name).copied().unwrap_or_default().up_to(self.version(name))
    }

    fn version(&self, name: PeerName) -> u64 {
        self.peers.get(&name).map_or(0, |known| known.version)
    }

    fn hear_of_ourselves(&mut self, described: &Peer) -> bool {
        let ourselves = self.ourselves_mut();
        let former_life = described.uid != ourselves.uid && described.version >= ourselves.version;
        // Somebody else said it: nobody would listen to us any more.
        let made_up = described.uid == ourselves.uid && described.version > ourselves.version;
        let counts_on = former_life || made_up;
        if counts_on {
            ourselves.version = described.version.saturating_add(1);
        }
        counts_on
    }

    /// Whether there is a way to a peer other than a connection of our own to it, by connections that both ends describe: nobody is
    /// cut off by what a third says.
    pub fn has_detour(&self, to: PeerName) -> bool {
        let describes = |from: PeerName, to: PeerName| {
            self.peers.get(&from).is_some_and(|peer| peer.links.contains_key(&to))
        };
        let (mut seen, mut next) = (BTreeSet::from([self.own]), vec![self.own]);
        while let Some(at) = next.pop() {
            let links = self.peers.get(&at).into_iter().flat_map(|peer| peer.links.keys().copied());
            for neighbour in links.filter(|&neighbour| (at, neighbour) != (self.own, to)) {
                if !seen.contains(&neighbour) && describes(neighbour, at) {
                    if neighbour == to {
                        return true;
                    }
                    seen.insert(neighbour);
                    next.push(neighbour);
                }
            }
        }
        false
    }

    /// Forgets the peers that cannot be reached, and returns them.
    pub fn collect(&mut self) -> BTreeSet<PeerName> {
        let reached = routes::hops(&self.peers, self.own, false);
        let lost = self.peers.keys().copied().filter(|name| !reached.contains_key(name)).collect();
        self.peers.retain(|name, _| reached.contains_key(name));
        self.refused.retain(|name, _| reached.contains_key(name));
        self.written.peers.retain(|name, _| reached.contains_key(name));
        lost
    }

    /// Gives up our short id if a peer of a lower name has the same. Returns whether it did.
    pub fn settle_short_id(&mut self, rng: &mut ChaCha8Rng) -> bool {
        let ours = self.ourselves().short_id;
        let lower = self.peers.range(..self.own);
        if ours.is_some() && !lower.into_iter().any(|(_, peer)| peer.short_id == ours) {
            return false;
        }
        let taken: BTreeSet<u16> = self.peers.values().filter_map(|peer| peer.short_id).collect();
        let free: Vec<u16> = (0..=SHORT_ID_MAX).filter(|id| !taken.contains(id)).collect();
        let Some(&id) = free.get(rng.random_range(0..free.len().max(1))) else { return false };
        self.ourselves_mut().short_id = Some(id);
        self.count();
        true
    }

    /// What makes each description that we have another: whose it is, of which life, and its number.
    pub fn known(&self) -> Vec<Known> {
        let described = self.peers.iter().filter(|(_, peer)| peer.version > 0);
        let known = described.map(|(&name, peer)| Known {
            name,
            uid: peer.uid,
            version: peer.version,
            has_short_id: peer.short_id.is_some(),
        });
        known.collect()
    }

    /// A digest of that.
    pub fn digest(&self) -> Digest {
        let numbers = self.known().into_iter().flat_map(|Known { name, uid, version, has_short_id }| {
            [name.as_u64(), uid.0, version, u64::from(has_short_id)].map(u64::to_be_bytes)
        });
        Digest::of(&numbers.flatten().collect::<Vec<u8>>())
    }

    /// The peers of which we have a later description than somebody else.
    pub fn later_than(&self, theirs: &[Known]) -> Vec<PeerName> {
        let theirs: BTreeMap<PeerName, Peer> = theirs.iter().map(|one| (one.name, one.as_peer())).collect();
        let is_later =
            |name: &PeerName, ours: &Peer| theirs.get(name).is_none_or(|theirs| ours.supersedes(theirs));
        let described = self.peers.iter().filter(|(_, peer)| peer.version > 0);
        described.filter(|(name, ours)| is_later(name, ours)).map(|(name, _)| *name).collect()
    }

    /// Whether somebody else has a later description of a peer than we.
    pub fn is_behind(&self, theirs: &[Known]) -> bool {
        let is_later =
            |one: &Known| self.peers.get(&one.name).is_none_or(|ours| one.as_peer().supersedes(ours));
        theirs.iter().any(is_later)
    }

    /// The descriptions of these peers, as a payload of the channel `topology`.
    pub fn encode(&mut self, names: impl IntoIterator<Item = PeerName>) -> Vec<u8> {
        let Topology { peers, written, .. } = self;
        let mut payload = Vec::new();
        for name in names {
            if let Some(peer) = peers.get(&name) {
                written.put(name, peer, &mut payload);
            }
        }
        payload
    }
}

impl Written {
    fn new() -> Written {
        let mut encoder = Encoder::new();
        let types = [&SUMMARY, &LINKS].map(|schema| encoder.introduce(schema));
        Written { types, encoder, peers: BTreeMap::new() }
    }

    /// Adds a peer to a payload. Each type is described before its first value.
    fn put(&mut self, name: PeerName, peer: &Peer, payload: &mut Vec<u8>) {
        let first = payload.is_empty();
        let values = self.peers.entry(name).or_insert_with(|| peer.encode(name, &mut self.encoder));
        for (types, value) in self.types.iter().zip(values) {
            if first {
                payload.extend_from_slice(types);
            }
            payload.extend_from_slice(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use serde_json::Value as Json;

    use super::*;
    use crate::{
        counter::{HONEST_MAX, STEP_MAX},
        mesh::{
            MESSAGE_LEN_MAX,
            description::{ADDRESS_LEN_MAX, LINKS_MAX, decode},
            features::NICKNAME_LEN_MAX,
            vectors::group,
        },
        peer::PeerUid,
    };

    const OWN: PeerName = PeerName::from_u64(0x0100_0000_00a0);

    fn number(json: &Json) -> u64 {
        json.as_u64().or_else(|| json.as_str()?.parse().ok()).unwrap()
    }

    fn name(json: &Json) -> PeerName {
        json.as_str().unwrap().parse().unwrap()
    }

    /// A peer as the vectors write it.
    fn peer(json: &Json) -> Peer {
        let links = json["Connections"].as_array().into_iter().flatten().map(|link| {
            let described = Link::new(
                link["RemoteTCPAddr"].as_str().unwrap().to_owned(),
                link["Outbound"].as_bool().unwrap(),
                link["Established"].as_bool().unwrap(),
            );
            (name(&link["Name"]), described)
        });
        Peer {
            uid: PeerUid(number(&json["UID"])),
            version: number(&json["Version"]),
            nickname: json["NickName"].as_str().unwrap().to_owned(),
            short_id: json["HasShortID"].as_bool().unwrap().then(|| number(&json["ShortID"]) as u16),
            links: links.collect(),
        }
    }

    fn knowing(peers: impl IntoIterator<Item = (PeerName, Peer)>) -> Topology {
        let mut topology = Topology::new(OWN, Peer { uid: PeerUid(1), ..Peer::default() });
        topology.peers.extend(peers);
        topology
    }

    #[test]
    fn descriptions_are_read_and_written_as_go_does() {
        for (vector, payload) in ["topology", "tolerance"].into_iter().flat_map(group) {
            let Some(described) = vector["inputs"]["peers"].as_array() else { continue };
            let described: Vec<_> = described.iter().map(|json| (name(&json["Name"]), peer(json))).collect();
            if vector["name"] == "topology_peerSummary_only" {
                assert_eq!(decode(&payload), Ok(vec![]), "a summary alone is lost");
                continue;
            }
            assert_eq!(decode(&payload).unwrap(), described, "{}", vector["name"]);
            if vector["group"] == "topology" {
                // In the process that made the vectors one type was numbered before.
                let mut encoder = Encoder::numbered_from(66);
                let written = described.iter().flat_map(|(name, peer)| peer.encode(*name, &mut encoder));
                assert_eq!(written.collect::<Vec<_>>().concat(), payload, "{}", vector["name"]);
            }
        }
    }

    #[test]
    fn what_we_describe_we_understand() {
        let link = Link::new("10.0.0.2:6783".to_owned(), true, true);
        let mut topology = knowing([(PeerName::from_u64(2), Peer { version: 3, ..Peer::default() })]);
        topology.link(PeerName::from_u64(2), link);
        let described: BTreeMap<_, _> =
            decode(&topology.encode([OWN, PeerName::from_u64(2)])).unwrap().into_iter().collect();
        assert_eq!(described, topology.peers);
    }

    #[test]
    fn what_was_written_once_is_written_anew_when_it_has_changed() {
        let link = || Link::new("10.0.0.2:6783".to_owned(), true, true);
        let other = PeerName::from_u64(2);
        let mut topology = knowing([(other, Peer { version: 3, ..Peer::default() })]);
        for version in 4..7 {
            topology.link(PeerName::from_u64(version), link());
            let links = BTreeMap::from([(PeerName::from_u64(version), link())]);
            topology.merge(vec![(other, Peer { version, links, ..Peer::default() })]);
            let described: BTreeMap<_, _> =
                decode(&topology.encode([OWN, other])).unwrap().into_iter().collect();
            assert_eq!(described[&OWN], topology.peers[&OWN]);
            assert_eq!(described[&other], topology.peers[&other]);
        }
    }

    #[test]
    fn only_news_are_read() {
        let peer = |version| Peer { version, ..Peer::default() };
        let known = [(PeerName::from_u64(2), peer(3)), (PeerName::from_u64(3), peer(3))];
        let mut theirs = known.clone();
        theirs[1].1.version = 4;
        let payload = knowing(theirs).encode(known.iter().map(|(name, _)| *name));
        assert_eq!(knowing(known).read(&payload), Ok(vec![(PeerName::from_u64(3), peer(4))]));
    }

    #[test]
    fn descriptions_that_go_refuses_are_refused() {
        for (vector, payload) in group("decoder_cases") {
            let found = decode(&payload);
            let expect = &vector["expect"];
            let case = vector["inputs"]["case"].as_str().unwrap();
            if expect["real_decoder_error"].is_null() {
                let count = found.unwrap_or_else(|error| panic!("{case}: {error}")).len() as u64;
                assert_eq!(count, number(&expect["peers_decoded_before_error"]), "{case}");
            } else {
                assert!(found.is_err(), "{case}");
            }
        }
    }

    #[test]
    fn newer_descriptions_are_taken_as_go_takes_them() {
        for (vector, payload) in group("behaviour_merge") {
            let received = decode(&payload).unwrap();
            let described = received[0].0;
            let mut topology = knowing([(described, peer(&vector["inputs"]["known"]))]);
            let merge = topology.merge(received);
            let expect = &vector["expect"];
            assert_eq!(merge.news.contains(&described), expect["taken_and_propagated"].as_bool().unwrap());
            assert_eq!(topology.peers[&described], peer(&expect["after"]), "{}", vector["name"]);
        }
    }

    #[test]
    fn a_new_life_counts_on_from_the_last() {
        for (vector, _) in group("behaviour_self_version") {
            let inputs = &vector["inputs"];
            // Go lets others speak in its name: see the next test but one.
            if inputs["received_uid_is_ours"].as_bool().unwrap() {
                continue;
            }
            let mut topology = knowing([]);
            topology.ourselves_mut().version = number(&inputs["our_version"]);
            let (uid, version) = (PeerUid(2), number(&inputs["received_version"]));
            let merge = topology.merge(vec![(OWN, Peer { uid, version, ..Peer::default() })]);
            assert_eq!(merge.ourselves, vector["expect"]["re_broadcast"].as_bool().unwrap());
            assert_eq!(topology.ourselves().version, number(&vector["expect"]["our_version_after"]));
        }
    }

    /// Each tells each of the others all that it knows, so many times over.
    fn gossip(all: &mut [Topology], rounds: usize) {
        let count = all.len();
        let pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        let pairs: Vec<_> = pairs.filter(|(from, to)| from != to).collect();
        for (from, to) in pairs.repeat(rounds) {
            let names: Vec<PeerName> = all[from].peers.keys().copied().collect();
            let told = all[from].encode(names);
            let news = all[to].read(&told).unwrap();
            all[to].merge(news);
        }
    }

    /// Somebody told a newcomer a falsehood, which is passed on or not; some had heard of the peer before, and one only hears
    /// what it answers.
    #[test]
    fn a_false_description_at_a_high_version_silences_nobody() {
        let believed = HONEST_MAX + STEP_MAX;
        for version in [HONEST_MAX, HONEST_MAX + 1, believed, believed + 1, u64::MAX - 1, u64::MAX] {
            let described = |nickname: &str, version| Peer {
                uid: PeerUid(1),
                version,
                nickname: nickname.to_owned(),
                ..Peer::default()
            };
            let host = |number: u64| Topology::new(PeerName::from_u64(number), Peer::default());
            let mut all = [knowing([]), host(2), host(3), host(4)];
            all[0].ourselves_mut().version = 7;
            all[1].peers.insert(OWN, Peer::default());
            all[2].peers.insert(OWN, described("", 7));
            all[3].peers.insert(OWN, described("", 7));
            all[1].merge(vec![(OWN, described("made up", version))]);
            gossip(&mut all[..3], 3);
            gossip(&mut all, 3);
            all[0].count();
            gossip(&mut all, 1);
            let ours = all[0].ourselves().clone();
            assert!(all.iter().all(|one| one.peers[&OWN] == ours), "at version {version}");
        }
    }

    #[test]
    fn a_false_description_that_goes_up_and_up_takes_one_step_a_message() {
        let mut topology = knowing([(PeerName::from_u64(2), Peer { version: 7, ..Peer::default() })]);
        let last = Peer { version: u64::MAX, ..Peer::default() };
        for step in 1..100 {
            topology.merge(vec![(PeerName::from_u64(2), last.clone()); 50]);
            assert_eq!(topology.believed(PeerName::from_u64(2)), HONEST_MAX + (step + 1) * STEP_MAX);
        }
        topology.merge((1000..9000).map(|number| (PeerName::from_u64(number), last.clone())).collect());
        assert_eq!(topology.refused.len(), 1, "who is not known takes no room");
    }

    #[test]
    fn whoever_is_described_by_another_has_the_last_word() {
        for (uid, version) in [(1, 50), (9, 50), (1, HONEST_MAX), (9, HONEST_MAX)] {
            let (mut ours, mut theirs) = (knowing([]), knowing([]));
            let made_up =
                Peer { uid: PeerUid(uid), version, nickname: "made up".to_owned(), ..Peer::default() };
            theirs.own = PeerName::from_u64(3);
            theirs.merge(vec![(OWN, made_up.clone())]);
            assert!(ours.merge(vec![(OWN, made_up)]).ourselves);
            let answer = decode(&ours.encode([OWN])).unwrap();
            assert!(theirs.merge(answer).news.contains(&OWN), "at version {version}");
            assert_eq!(theirs.peers[&OWN].nickname, "");
        }
    }

    #[test]
    fn of_two_topologies_each_has_what_the_other_lacks_and_the_rest_need_not_be_told() {
        let described =
            |number: u64, version| (PeerName::from_u64(number), Peer { version, ..Peer::default() });
        let all = (2..100).map(|number| described(number, 1));
        let (mut ours, mut theirs) = (knowing(all.clone()), knowing(all));
        ours.ourselves_mut().version = 1;
        theirs.ourselves_mut().version = 1;
        assert_eq!((ours.later_than(&theirs.known()), ours.is_behind(&theirs.known())), (vec![], false));
        ours.merge(vec![described(5, 2), described(200, 1)]);
        assert!(!ours.is_behind(&theirs.known()));
        theirs.merge(vec![described(6, 2)]);
        let lacks = [5, 200].map(PeerName::from_u64);
        assert_eq!(
            (ours.later_than(&theirs.known()), ours.is_behind(&theirs.known())),
            (lacks.to_vec(), true)
        );
        assert_eq!(theirs.later_than(&ours.known()), [PeerName::from_u64(6)]);
    }

    #[test]
    fn who_is_only_mentioned_is_known_until_nobody_mentions_it() {
        let link = || Link::new(String::new(), false, false);
        let (near, far) = (PeerName::from_u64(2), PeerName::from_u64(3));
        let mut topology = knowing([]);
        topology.link(near, link());
        let links = BTreeMap::from([(far, link())]);
        topology.merge(vec![(near, Peer { version: 1, links, ..Peer::default() })]);
        assert_eq!(topology.peers[&far], Peer::default());
        assert!(topology.collect().is_empty());
        topology.unlink(near);
        assert_eq!(topology.collect(), BTreeSet::from([near, far]));
    }

    #[test]
    fn a_way_to_a_neighbour_leads_over_connections_that_both_ends_describe() {
        let to = |names: &[u64]| {
            let link = Link::new(String::new(), true, true);
            let links = names.iter().map(|name| (PeerName::from_u64(*name), link.clone()));
            Peer { version: 1, links: links.collect(), ..Peer::default() }
        };
        let own = OWN.as_u64();
        let [two, three, four] = [2, 3, 4].map(PeerName::from_u64);
        let mut topology = knowing([(two, to(&[own, 3])), (three, to(&[2, own])), (four, to(&[own]))]);
        topology.ourselves_mut().links = to(&[2, 3, 4]).links;
        assert!(topology.has_detour(two) && topology.has_detour(three));
        assert!(!topology.has_detour(four), "it has nobody but us");
        topology.peers.insert(three, to(&[2, 4, own]));
        assert!(!topology.has_detour(four), "a third says so, and not itself");
        topology.peers.insert(four, to(&[own, 3]));
        assert!(topology.has_detour(four));
    }

    #[test]
    fn of_two_peers_with_one_short_id_the_higher_name_gives_way() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let same = || Peer { short_id: Some(7), ..Peer::default() };
        let lower = PeerName::from_u64(OWN.as_u64() - 1);
        let higher = PeerName::from_u64(OWN.as_u64() + 1);
        for (other, gives_way) in [(lower, true), (higher, false)] {
            let mut topology = knowing([(other, same())]);
            topology.ourselves_mut().short_id = Some(7);
            assert_eq!(topology.settle_short_id(&mut rng), gives_way);
            assert_eq!(topology.ourselves().short_id != Some(7), gives_way);
        }
    }

    #[test]
    fn the_number_of_peers_and_their_links_is_bounded() {
        let mut topology = knowing([]);
        let link = || Link::new("x".repeat(400), true, true);
        let links = (1..5000).map(|number| (PeerName::from_u64(number), link())).collect();
        let crowded = Peer { nickname: "\u{e9}".repeat(400), links, ..Peer::default() };
        let described = decode(&knowing([(PeerName::from_u64(9), crowded)]).encode([PeerName::from_u64(9)]));
        let described = described.unwrap();
        let (_, peer) = &described[0];
        assert_eq!((peer.links.len(), peer.nickname.len()), (LINKS_MAX, NICKNAME_LEN_MAX - 1));
        assert!(peer.links.values().all(|link| link.address.is_empty()));
        topology.merge(described);
        topology.merge((10..5000).map(|number| (PeerName::from_u64(number), Peer::default())).collect());
        assert_eq!(topology.peers.len(), PEERS_MAX);
    }

    #[test]
    fn all_that_is_known_fits_into_one_message_whatever_was_said() {
        let link = || Link::new("x".repeat(ADDRESS_LEN_MAX), true, true);
        let mut topology = knowing([]);
        for name in 1..=PEERS_MAX as u64 {
            let links =
                (1..=LINKS_MAX as u64).map(|number| (PeerName::from_u64(number << 32), link())).collect();
            let nickname = "x".repeat(NICKNAME_LEN_MAX);
            let peer =
                Peer { uid: PeerUid(u64::MAX), version: HONEST_MAX, nickname, short_id: Some(4095), links };
            topology.merge(vec![(PeerName::from_u64(name), peer)]);
        }
        let links: usize = topology.peers.values().map(|peer| peer.links.len()).sum();
        assert_eq!(links, ALL_LINKS_MAX);
        let names: Vec<PeerName> = topology.peers.keys().copied().collect();
        let payload = topology.encode(names);
        assert!(payload.len() < MESSAGE_LEN_MAX - 1000, "{}", payload.len());
    }
}
