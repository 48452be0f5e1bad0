//! What peers say once they are introduced: a tag, and for gossip an envelope of gob values.
//!
//! ```text
//! 0 heartbeat
//! 4 gossip      channel, neighbour that sends it, data
//! 5 unicast     channel, origin, destination, data
//! 6 broadcast   channel, origin, data
//! 100 farewell  why the connection is closed next, among our own kind
//! ```
//!
//! Tags 1, 2, 3 and 7 concern overlays. Of them only one message is ever sent, that heartbeats come through (`07 00 01`, or
//! `01` to a peer that names no overlays), and only to who offers that overlay: what is wrong in one ends the process
//! of a Weave Net router.

use bytes::Bytes;
use thiserror::Error;

use crate::{
    gob::{Decoder, Encoder, GobError, Schema, Value},
    peer::PeerName,
    text::short,
};

/// Longest name of a channel.
pub const CHANNEL_LEN_MAX: usize = 64;
/// What is kept of a reason that another gives.
const REASON_LEN_MAX: usize = 400;

const HEARTBEAT: u8 = 0;
const GOSSIP: u8 = 4;
const UNICAST: u8 = 5;
const BROADCAST: u8 = 6;
const OVERLAY: u8 = 7;
/// Far from what Weave Net has.
const FAREWELL: u8 = 100;
/// Among the messages of the overlay `sleeve`.
const ESTABLISHED: u8 = 1;
/// Its place among the overlays in common with a peer that does not offer ours.
const SLEEVE: u8 = 0;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// I am here.
    Heartbeat,
    /// An empty message, or one that concerns others.
    Ignored,
    /// Our heartbeats of the overlay `sleeve` come through.
    Established {
        /// Said by a peer that names no overlays.
        bare: bool,
    },
    /// The other end closes the connection next.
    Farewell {
        /// Why, in words.
        why: String,
    },
    /// For neighbours, hop by hop.
    Gossip {
        /// Who it is for.
        channel: String,
        /// The neighbour that sends it.
        from: PeerName,
        /// What it is.
        data: Bytes,
    },
    /// For one peer.
    Unicast {
        /// Who it is for.
        channel: String,
        /// Its origin.
        from: PeerName,
        /// Its destination.
        to: PeerName,
        /// What it is, not yet looked at.
        data: Sealed,
    },
    /// For all peers.
    Broadcast {
        /// Who it is for.
        channel: String,
        /// Its origin.
        from: PeerName,
        /// What it is.
        data: Bytes,
    },
}

/// The data of a unicast, which only their addressee opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed(Bytes);

/// Why a message cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MessageError {
    /// The envelope is torn.
    #[error("an envelope cannot be read")]
    Envelope(#[from] GobError),
    /// See [`CHANNEL_LEN_MAX`].
    #[error("a channel's name is longer than {CHANNEL_LEN_MAX} bytes")]
    Channel,
    /// It is not 48 bits.
    #[error("{0} is not the number of a peer")]
    Name(u64),
}

impl Message {
    /// What these bytes say.
    pub fn decode(message: &Bytes) -> Result<Message, MessageError> {
        let Some((&tag, envelope)) = message.split_first() else { return Ok(Message::Ignored) };
        let mut fields = Fields::new(envelope);
        match tag {
            HEARTBEAT => Ok(Message::Heartbeat),
            GOSSIP => {
                Ok(Message::Gossip { channel: fields.channel()?, from: fields.name()?, data: fields.data()? })
            }
            UNICAST => Ok(Message::Unicast {
                channel: fields.channel()?,
                from: fields.name()?,
                to: fields.name()?,
                data: Sealed(message.slice_ref(fields.rest)),
            }),
            BROADCAST => Ok(Message::Broadcast {
                channel: fields.channel()?,
                from: fields.name()?,
                data: fields.data()?,
            }),
            FAREWELL => Ok(Message::Farewell { why: short(fields.value()?.as_str()?, REASON_LEN_MAX) }),
            ESTABLISHED => Ok(Message::Established { bare: true }),
            OVERLAY if envelope.starts_with(&[SLEEVE, ESTABLISHED]) => {
                Ok(Message::Established { bare: false })
            }
            _ => Ok(Message::Ignored),
        }
    }
}

/// Whether a message that cannot be read may have been written by another than who sent it: what is for one peer or for all is passed on
/// as it is, and so is the name of a channel that is not known.
pub fn may_be_passed_on(message: &[u8], error: &MessageError) -> bool {
    matches!(message.first(), Some(&(UNICAST | BROADCAST))) || *error == MessageError::Channel
}

impl Sealed {
    /// The data.
    pub fn open(&self) -> Result<Bytes, MessageError> {
        Fields::new(&self.0).data()
    }
}

/// The channel of a message that has one, without a look at the rest.
pub fn channel(message: &[u8]) -> Option<String> {
    let (_, envelope) = message.split_first()?;
    Fields::new(envelope).channel().ok()
}

/// I am here.
pub fn heartbeat() -> Vec<u8> {
    vec![HEARTBEAT]
}

/// Heartbeats of the overlay `sleeve` come through.
pub fn overlay_established(bare: bool) -> Vec<u8> {
    if bare { vec![ESTABLISHED] } else { vec![OVERLAY, SLEEVE, ESTABLISHED] }
}

/// The connection is closed next.
pub fn farewell(why: &str) -> Vec<u8> {
    [&[FAREWELL][..], &Encoder::new().encode(&Schema::Str, &Value::text(why))].concat()
}

/// For a neighbour.
pub fn gossip(channel: &str, from: PeerName, data: &[u8]) -> Vec<u8> {
    envelope(GOSSIP, channel, &[from], data)
}

/// For one peer.
pub fn unicast(channel: &str, from: PeerName, to: PeerName, data: &[u8]) -> Vec<u8> {
    envelope(UNICAST, channel, &[from, to], data)
}

/// For all peers.
pub fn broadcast(channel: &str, from: PeerName, data: &[u8]) -> Vec<u8> {
    envelope(BROADCAST, channel, &[from], data)
}

/// All the fields are of gob's own types, so no type is described.
fn envelope(tag: u8, channel: &str, names: &[PeerName], data: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new();
    let mut message = vec![tag];
    message.extend(encoder.encode(&Schema::Str, &Value::text(channel)));
    for name in names {
        message.extend(encoder.encode(&Schema::Uint, &Value::Uint(name.as_u64())));
    }
    message.extend(encoder.encode(&Schema::Bytes, &Value::Bytes(data.to_vec())));
    message
}

/// The fields of an envelope that are still to be read.
struct Fields<'a> {
    decoder: Decoder,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn new(rest: &'a [u8]) -> Fields<'a> {
        Fields { decoder: Decoder::new(), rest }
    }

    fn value(&mut self) -> Result<Value, GobError> {
        self.decoder.next(&mut self.rest)?.ok_or(GobError::Truncated)
    }

    fn channel(&mut self) -> Result<String, MessageError> {
        let value = self.value()?;
        let channel = value.as_str()?;
        if channel.len() > CHANNEL_LEN_MAX {
            return Err(MessageError::Channel);
        }
        Ok(channel.to_owned())
    }

    fn name(&mut self) -> Result<PeerName, MessageError> {
        let number = self.value()?.as_uint()?;
        let name = PeerName::from_u64(number);
        if name.as_u64() == number { Ok(name) } else { Err(MessageError::Name(number)) }
    }

    fn data(&mut self) -> Result<Bytes, MessageError> {
        Ok(self.value()?.into_bytes()?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::vectors::{group, unhex};

    #[test]
    fn messages_are_written_and_read_as_go_does() {
        let three_peers =
            group("topology").into_iter().find(|(vector, _)| vector["name"] == "topology_3_peers");
        let three_peers = three_peers.unwrap().1;
        for (vector, bytes) in group("message") {
            let inputs = &vector["inputs"];
            let name = |key: &str| inputs[key].as_str().unwrap().parse().unwrap();
            let channel = inputs["channel"].as_str().unwrap_or("");
            let data = match inputs["payload_ascii"].as_str() {
                Some(text) => text.as_bytes().to_vec(),
                None => three_peers.clone(),
            };
            let written = match inputs["tag"].as_u64().unwrap() {
                0 => heartbeat(),
                4 => gossip(channel, name("src"), &data),
                5 => unicast(channel, name("src"), name("dst"), &data),
                6 => broadcast(channel, name("src"), &data),
                _ => {
                    let bare = vector["inputs"]["tag"] == 1;
                    let ours = bytes == overlay_established(bare);
                    let wanted = if ours { Message::Established { bare } } else { Message::Ignored };
                    assert_eq!(Message::decode(&bytes.into()), Ok(wanted), "{}", vector["name"]);
                    continue;
                }
            };
            assert_eq!(written, bytes, "{}", vector["name"]);
            match Message::decode(&bytes.into()).unwrap() {
                Message::Heartbeat => {}
                Message::Ignored | Message::Established { .. } | Message::Farewell { .. } => {
                    panic!("{}", vector["name"])
                }
                Message::Unicast { channel: to, data: sealed, .. } => {
                    assert_eq!((to.as_str(), &sealed.open().unwrap()[..]), (channel, &data[..]));
                }
                Message::Gossip { channel: to, from, data: found }
                | Message::Broadcast { channel: to, from, data: found } => {
                    assert_eq!((to.as_str(), from, &found[..]), (channel, name("src"), &data[..]));
                }
            }
        }
    }

    #[test]
    fn blank_messages_and_unknown_tags_mean_nothing() {
        for message in [&b""[..], &[200, 1, 2], &[7], &[7, 0], &[7, 1, 1], &[7, 0, 3, 1], &[2], &[3, 1]] {
            assert_eq!(Message::decode(&Bytes::from_static(message)), Ok(Message::Ignored));
        }
        assert_eq!(Message::decode(&Bytes::from_static(&[0, 9])), Ok(Message::Heartbeat));
    }

    #[test]
    fn a_reason_is_read_as_one_short_line() {
        let said = farewell(&format!("there are 200 connections\n\x1b[2J{}", "x".repeat(10_000)));
        let Message::Farewell { why } = Message::decode(&said.into()).unwrap() else { panic!("it is one") };
        assert!(why.starts_with("there are 200 connections??[2Jxx") && why.len() <= REASON_LEN_MAX, "{why}");
    }

    #[test]
    fn a_torn_envelope_is_refused() {
        let whole = unicast("IPallocation", PeerName::from_u64(1), PeerName::from_u64(2), b"x");
        for len in 1..whole.len() - 5 {
            assert!(Message::decode(&whole[..len].to_vec().into()).is_err(), "{len}");
        }
        let long = gossip(&"x".repeat(65), PeerName::from_u64(1), b"x");
        assert_eq!(Message::decode(&long.into()), Err(MessageError::Channel));
        let number = serde_json::Value::from("04040c0001780b0600f801000000000000010a0a0000");
        assert!(Message::decode(&unhex(&number).into()).is_err());
    }
}
