//! Who is in the mesh and who is connected to whom, as far as gossip tells.
//!
//! Each peer describes itself and counts its descriptions; the higher count wins. A peer that restarts
//! counts from zero under a new UID, so when it hears a description of its former life it goes on counting from there.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use thiserror::Error;

use super::{features::SHORT_ID_MAX, routes};
use crate::{
    gob::{Decoder, Encoder, GobError, Schema, Value},
    peer::{PeerName, PeerUid},
};

/// Peers that are kept. Further ones are not heard of.
pub const PEERS_MAX: usize = 1024;
/// Connections of one peer that are kept.
pub const LINKS_MAX: usize = 512;
/// Longest nickname; longer ones are cut.
pub const NICKNAME_LEN_MAX: usize = 255;
/// Longest address; longer ones are dropped.
const ADDRESS_LEN_MAX: usize = 300;

const SUMMARY: Schema = Schema::Struct {
    name: "peerSummary",
    fields: &[
        ("NameByte", Schema::Bytes),
        ("NickName", Schema::Str),
        ("UID", Schema::Uint),
        ("Version", Schema::Uint),
        ("ShortID", Schema::Uint),
        ("HasShortID", Schema::Bool),
    ],
};
const LINK: Schema = Schema::Struct {
    name: "connectionSummary",
    fields: &[
        ("NameByte", Schema::Bytes),
        ("RemoteTCPAddr", Schema::Str),
        ("Outbound", Schema::Bool),
        ("Established", Schema::Bool),
    ],
};
const LINKS: Schema = Schema::Slice { name: "", elem: &LINK };

/// What is known of a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Zero: it was only mentioned.
    pub uid: PeerUid,
    /// Counts its descriptions.
    pub version: u64,
    /// For people.
    pub nickname: String,
    /// If it has one.
    pub short_id: Option<u16>,
    /// Its connections, by neighbour.
    pub links: BTreeMap<PeerName, Link>,
}

/// A connection, as the peer at one end describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Of the other end.
    pub address: String,
    /// The peer that describes it dialled.
    pub outbound: bool,
    /// Packets can be carried.
    pub established: bool,
}

/// What a description changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merge {
    /// The peers of which something was new.
    pub news: BTreeSet<PeerName>,
    /// A former life of ours was described: we count on from it and must say so.
    pub ourselves: bool,
}

/// Why a description is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)] // The messages say what they are.
pub enum TopologyError {
    #[error("a description of peers cannot be read")]
    Gob(#[from] GobError),
    #[error("a description of peers has a peer without a name")]
    Nameless,
}

/// All that is known, ourselves included.
#[derive(Clone, Debug)]
pub struct Topology {
    own: PeerName,
    peers: BTreeMap<PeerName, Peer>,
}

impl Topology {
    /// We alone.
    pub fn new(own: PeerName, ourselves: Peer) -> Topology {
        Topology { own, peers: BTreeMap::from([(own, ourselves)]) }
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
        self.peers.get_mut(&self.own).expect("we are among the peers")
    }

    /// A peer introduced itself. Whoever is known already is described by gossip alone.
    pub fn introduce(&mut self, name: PeerName, peer: Peer) {
        self.peers.entry(name).or_insert(Peer { nickname: cut(&peer.nickname), ..peer });
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

    /// Takes what is newer than what we know.
    pub fn merge(&mut self, described: Vec<(PeerName, Peer)>) -> Merge {
        let mut merge = Merge::default();
        let mut placeholders = BTreeSet::new();
        for (name, peer) in described {
            if name == self.own {
                merge.ourselves |= self.hear_of_ourselves(&peer);
                continue;
            }
            placeholders.extend(peer.links.keys().copied());
            let room = self.peers.len() < PEERS_MAX;
            let newer = self.peers.get(&name).map_or(room, |known| peer.supersedes(known));
            if newer {
                self.peers.insert(name, peer);
                merge.news.insert(name);
            }
        }
        for name in placeholders {
            if self.peers.len() < PEERS_MAX {
                self.peers.entry(name).or_default();
            }
        }
        merge
    }

    fn hear_of_ourselves(&mut self, described: &Peer) -> bool {
        let ourselves = self.ourselves_mut();
        let former_life = described.uid != ourselves.uid && described.version >= ourselves.version;
        if former_life {
            ourselves.version = described.version.saturating_add(1);
        }
        former_life
    }

    /// Forgets the peers that cannot be reached, and returns them.
    pub fn collect(&mut self) -> BTreeSet<PeerName> {
        let reached = routes::reach(&self.peers, self.own, None, false).hops;
        let lost = self.peers.keys().copied().filter(|name| !reached.contains_key(name)).collect();
        self.peers.retain(|name, _| reached.contains_key(name));
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

    /// The descriptions of these peers, as a payload of the channel `topology`.
    pub fn encode(&self, names: impl IntoIterator<Item = PeerName>) -> Vec<u8> {
        let mut encoder = Encoder::new();
        let mut payload = Vec::new();
        for name in names {
            if let Some(peer) = self.peers.get(&name) {
                peer.encode(name, &mut encoder, &mut payload);
            }
        }
        payload
    }
}

impl Peer {
    /// Whether this description is to be taken in place of what is known.
    fn supersedes(&self, known: &Peer) -> bool {
        match (self.version.cmp(&known.version), self.uid.cmp(&known.uid)) {
            (std::cmp::Ordering::Less, _) => false,
            (std::cmp::Ordering::Greater, _) => true,
            (std::cmp::Ordering::Equal, std::cmp::Ordering::Less) => false,
            (std::cmp::Ordering::Equal, std::cmp::Ordering::Greater) => true,
            (std::cmp::Ordering::Equal, std::cmp::Ordering::Equal) => {
                self.short_id.is_some() && known.short_id.is_none()
            }
        }
    }

    fn encode(&self, name: PeerName, encoder: &mut Encoder, payload: &mut Vec<u8>) {
        let summary = Value::fields([
            ("NameByte", name_bytes(name)),
            ("NickName", Value::text(&self.nickname)),
            ("UID", Value::Uint(self.uid.0)),
            ("Version", Value::Uint(self.version)),
            ("ShortID", Value::Uint(self.short_id.unwrap_or(0).into())),
            ("HasShortID", Value::Bool(self.short_id.is_some())),
        ]);
        let links = self.links.iter().map(|(name, link)| {
            Value::fields([
                ("NameByte", name_bytes(*name)),
                ("RemoteTCPAddr", Value::text(&link.address)),
                ("Outbound", Value::Bool(link.outbound)),
                ("Established", Value::Bool(link.established)),
            ])
        });
        payload.extend(encoder.encode(&SUMMARY, &summary));
        payload.extend(encoder.encode(&LINKS, &Value::Slice(links.collect())));
    }

    fn decode(summary: &Value, links: &Value) -> Result<(PeerName, Peer), TopologyError> {
        let short_id = summary.narrow_at("ShortID")?;
        let mut peer = Peer {
            uid: PeerUid(summary.uint_at("UID")?),
            version: summary.uint_at("Version")?,
            nickname: cut(summary.str_at("NickName")?),
            short_id: summary.bool_at("HasShortID")?.then_some(short_id),
            links: BTreeMap::new(),
        };
        for link in links.as_slice()? {
            let (name, link) = (name_of(link)?, Link::decode(link)?);
            if peer.links.len() < LINKS_MAX {
                peer.links.insert(name, link);
            }
        }
        Ok((name_of(summary)?, peer))
    }
}

impl Link {
    fn decode(link: &Value) -> Result<Link, TopologyError> {
        let address = link.str_at("RemoteTCPAddr")?;
        let address = if address.len() > ADDRESS_LEN_MAX { "" } else { address };
        Ok(Link {
            address: address.to_owned(),
            outbound: link.bool_at("Outbound")?,
            established: link.bool_at("Established")?,
        })
    }
}

/// The peers that a payload of the channel `topology` describes.
pub fn decode(mut payload: &[u8]) -> Result<Vec<(PeerName, Peer)>, TopologyError> {
    let mut decoder = Decoder::new();
    let mut described = Vec::new();
    // What ends behind a summary loses that one peer, as it does in Go.
    while let Some(summary) = decoder.next(&mut payload)?
        && let Some(links) = decoder.next(&mut payload)?
    {
        described.push(Peer::decode(&summary, &links)?);
    }
    Ok(described)
}

fn name_bytes(name: PeerName) -> Value {
    Value::Bytes(name.as_u64().to_be_bytes()[2..].to_vec())
}

/// Bytes of any number are folded into the name.
fn name_of(described: &Value) -> Result<PeerName, TopologyError> {
    let bytes = described.bytes_at("NameByte")?;
    let name = PeerName::from_u64(bytes.iter().fold(0, |name, &byte| name << 8 | u64::from(byte)));
    if name == PeerName::UNKNOWN { Err(TopologyError::Nameless) } else { Ok(name) }
}

fn cut(nickname: &str) -> String {
    let end = nickname.floor_char_boundary(NICKNAME_LEN_MAX);
    nickname[..end].to_owned()
}
