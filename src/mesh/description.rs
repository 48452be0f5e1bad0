//! What a peer says of itself and of its connections, in the bytes of the channel `topology`.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use thiserror::Error;

use super::features::NICKNAME_LEN_MAX;
use crate::{
    gob::{Decoder, Encoder, GobError, Schema, Value},
    peer::{PeerName, PeerUid},
    text,
};

/// Connections of one peer that are kept.
pub const LINKS_MAX: usize = 512;
/// Longest address, which is one of IPv6 with its port; longer texts are dropped.
pub(super) const ADDRESS_LEN_MAX: usize = 48;

pub(super) const SUMMARY: Schema = Schema::Struct {
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
pub(super) const LINKS: Schema = Schema::Slice { name: "", elem: &LINK };

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

/// Which description of a peer somebody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Whose it is.
    pub name: PeerName,
    /// Of which life.
    pub uid: PeerUid,
    /// Its number.
    pub version: u64,
    /// Whether it says the short id.
    pub has_short_id: bool,
}

impl Known {
    /// As much of the description as decides which of two is the later one.
    pub(super) fn as_peer(&self) -> Peer {
        let Known { uid, version, has_short_id, .. } = *self;
        Peer { uid, version, short_id: has_short_id.then_some(0), ..Peer::default() }
    }
}

/// A connection, as the peer at one end describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Of the other end, as it was told.
    pub address: String,
    /// The same, if it is one.
    pub at: Option<SocketAddr>,
    /// The peer that describes it dialled.
    pub outbound: bool,
    /// Packets can be carried.
    pub established: bool,
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

impl Peer {
    /// Whether this description is to be taken in place of what is known.
    pub(super) fn supersedes(&self, known: &Peer) -> bool {
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

    pub(super) fn encode(&self, name: PeerName, encoder: &mut Encoder) -> [Vec<u8>; 2] {
        let summary = Value::fields([
            ("NameByte", name_bytes(name)),
            ("NickName", Value::text(&self.nickname)),
            ("UID", Value::Uint(self.uid.0)),
            ("Version", Value::Uint(self.version)),
            ("ShortID", Value::Uint(self.short_id.unwrap_or(0).into())),
            ("HasShortID", Value::Bool(self.short_id.is_some())),
        ]);
        // There are many: they share the names of their fields.
        let fields: [Arc<str>; 4] = ["NameByte", "RemoteTCPAddr", "Outbound", "Established"].map(Arc::from);
        let links = self.links.iter().map(|(name, link)| {
            let values = [
                name_bytes(*name),
                Value::text(&link.address),
                Value::Bool(link.outbound),
                Value::Bool(link.established),
            ];
            Value::Struct(fields.iter().cloned().zip(values).collect())
        });
        [encoder.encode(&SUMMARY, &summary), encoder.encode(&LINKS, &Value::Slice(links.collect()))]
    }

    /// A peer without its links.
    fn decode(summary: &Value) -> Result<(PeerName, Peer), TopologyError> {
        let short_id = summary.narrow_at("ShortID")?;
        let peer = Peer {
            uid: PeerUid(summary.uint_at("UID")?),
            version: summary.uint_at("Version")?,
            nickname: cut(summary.str_at("NickName")?),
            short_id: summary.bool_at("HasShortID")?.then_some(short_id),
            links: BTreeMap::new(),
        };
        Ok((name_of(summary)?, peer))
    }

    fn decode_links(&mut self, links: &Value) -> Result<(), TopologyError> {
        for link in links.as_slice()? {
            let (name, link) = (name_of(link)?, Link::decode(link)?);
            if self.links.len() < LINKS_MAX {
                self.links.insert(name, link);
            }
        }
        Ok(())
    }
}

impl Link {
    /// To an address.
    pub fn new(address: String, outbound: bool, established: bool) -> Link {
        let at = address.parse().ok();
        Link { address, at, outbound, established }
    }

    fn decode(link: &Value) -> Result<Link, TopologyError> {
        let address = link.str_at("RemoteTCPAddr")?;
        let address = if address.len() > ADDRESS_LEN_MAX { "" } else { address };
        Ok(Link::new(text::printable(address), link.bool_at("Outbound")?, link.bool_at("Established")?))
    }
}

/// The peers that a payload of the channel `topology` describes. The links of those that are no news are passed over: most of
/// what is gossiped is known already.
pub(super) fn read(
    mut payload: &[u8],
    is_news: impl Fn(PeerName, &Peer) -> bool,
) -> Result<Vec<(PeerName, Peer)>, TopologyError> {
    let mut decoder = Decoder::new();
    let mut described = Vec::new();
    // What ends behind a summary loses that one peer, as it does in Go.
    while let Some(summary) = decoder.next(&mut payload)? {
        let (name, mut peer) = Peer::decode(&summary)?;
        if !is_news(name, &peer) {
            decoder.skip(&mut payload)?;
        } else if let Some(links) = decoder.next(&mut payload)? {
            peer.decode_links(&links)?;
            described.push((name, peer));
        }
    }
    Ok(described)
}

/// All peers that a payload describes.
#[cfg(test)]
pub fn decode(payload: &[u8]) -> Result<Vec<(PeerName, Peer)>, TopologyError> {
    read(payload, |_, _| true)
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

/// A nickname as it is kept, shown and passed on. Who a peer is does not hang on it.
pub(super) fn cut(nickname: &str) -> String {
    text::short(nickname, NICKNAME_LEN_MAX)
}
