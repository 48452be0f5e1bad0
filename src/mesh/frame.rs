//! Where a message ends in the stream of bytes, in both versions of the protocol.
//!
//! ```text
//! version 1: one gob stream in each direction: the feature map, then a []byte for each message
//! version 2: u32 length || body
//! ```
//!
//! With a password the body, or the content of the `[]byte`, is the sealed message.

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

use super::crypto::{Channel, CryptoError, SEAL_LEN};
use crate::gob::{Decoder, Encoder, GobError, Schema, Value};

/// Longest body of a frame, sealed or not.
pub const FRAME_LEN_MAX: usize = 10 * 1024 * 1024;
/// Longest message that fits into a frame in every version, sealed or not.
pub const MESSAGE_LEN_MAX: usize = FRAME_LEN_MAX - SEAL_LEN - 32;
/// Longest body, and most bytes kept, while we do not know who is there.
pub const INTRODUCTION_LEN_MAX: usize = 4 * 1024;
/// Most bytes kept of the first sealed message of version 1. It may describe a whole mesh.
const PROOF_LEN_MAX: usize = 1024 * 1024;

/// Version of the protocol, as in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // The names say what they are.
pub enum Version {
    V1 = 1,
    V2 = 2,
}

/// Why a stream cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)] // The messages say what they are.
pub enum FrameError {
    #[error("a frame of {len} bytes is longer than {max}")]
    Len { len: usize, max: usize },
    #[error("a frame is not well formed")]
    Gob(#[from] GobError),
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

/// The bytes that came, cut into messages.
pub struct Reader {
    arrived: BytesMut,
    framing: Framing,
    channel: Option<Channel>,
    len_max: usize,
    /// A message that was opened before anybody asked for it.
    opened: Option<Bytes>,
}

/// Messages on their way to bytes.
pub struct Writer {
    /// Version 1 has one encoder for the whole stream.
    stream: Option<Encoder>,
    channel: Option<Channel>,
}

enum Framing {
    Stream(Decoder),
    Lengths,
}

impl Default for Reader {
    fn default() -> Reader {
        Reader::new()
    }
}

impl Reader {
    /// A reader for the start of a connection, when it is not known yet who is there.
    pub fn new() -> Reader {
        Reader {
            arrived: BytesMut::new(),
            framing: Framing::Lengths,
            channel: None,
            len_max: INTRODUCTION_LEN_MAX,
            opened: None,
        }
    }

    /// More bytes came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.arrived.extend_from_slice(bytes);
    }

    /// How many bytes came that are no whole message yet.
    pub fn pending(&self) -> usize {
        self.arrived.len()
    }

    /// The next bytes as they are, once there are so many.
    pub fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let bytes = self.arrived.first_chunk().copied()?;
        self.arrived.advance(N);
        Some(bytes)
    }

    /// The next byte, left where it is.
    pub fn peek(&self) -> Option<u8> {
        self.arrived.first().copied()
    }

    /// From here on there are frames of this version.
    pub fn frames(&mut self, version: Version) {
        self.framing = match version {
            Version::V1 => Framing::Stream(Decoder::new()),
            Version::V2 => Framing::Lengths,
        };
    }

    /// From here on the messages are sealed.
    pub fn sealed(&mut self, channel: Channel) {
        self.channel = Some(channel);
    }

    /// From here on messages may be long: we know who is there.
    pub fn trust(&mut self) {
        self.len_max = FRAME_LEN_MAX;
    }

    /// The feature map, which in version 2 is a frame and in version 1 the first value of the stream.
    pub fn features(&mut self) -> Result<Option<Value>, FrameError> {
        let features = match self.framing {
            Framing::Stream(_) => self.value()?,
            Framing::Lengths => match self.message()? {
                None => None,
                Some(body) => Some(Decoder::new().next(&mut &body[..])?.ok_or(GobError::Truncated)?),
            },
        };
        match self.arrived.len() {
            len if features.is_none() && len > INTRODUCTION_LEN_MAX => {
                Err(FrameError::Len { len, max: INTRODUCTION_LEN_MAX })
            }
            _ => Ok(features),
        }
    }

    /// Whether a sealed message has come and could be opened: who sent it has the password. It is still the next one.
    pub fn is_proven(&mut self) -> Result<bool, FrameError> {
        if self.opened.is_none() {
            self.opened = self.message()?;
        }
        match self.arrived.len() {
            len if self.opened.is_none() && len > PROOF_LEN_MAX => {
                Err(FrameError::Len { len, max: PROOF_LEN_MAX })
            }
            _ => Ok(self.opened.is_some()),
        }
    }

    /// The next whole message. An empty one means nothing.
    pub fn message(&mut self) -> Result<Option<Bytes>, FrameError> {
        if let Some(opened) = self.opened.take() {
            return Ok(Some(opened));
        }
        let body = match self.framing {
            Framing::Lengths => self.body()?,
            Framing::Stream(_) => self.value()?.map(|value| value.into_bytes()).transpose()?.map(Bytes::from),
        };
        match (&mut self.channel, body) {
            (Some(channel), Some(body)) => Ok(Some(channel.open(&body)?.into())),
            (_, body) => Ok(body),
        }
    }

    fn body(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(len) = self.arrived.first_chunk() else { return Ok(None) };
        let len = u32::from_be_bytes(*len) as usize;
        if len > self.len_max {
            return Err(FrameError::Len { len, max: self.len_max });
        }
        if self.arrived.len() < 4 + len {
            return Ok(None);
        }
        self.arrived.advance(4);
        Ok(Some(self.arrived.split_to(len).freeze()))
    }

    fn value(&mut self) -> Result<Option<Value>, FrameError> {
        let Framing::Stream(decoder) = &mut self.framing else { return Ok(None) };
        let mut rest = &self.arrived[..];
        let value = decoder.next_in_stream(&mut rest);
        let used = self.arrived.len() - rest.len();
        self.arrived.advance(used);
        Ok(value?)
    }
}

impl Writer {
    /// A writer of frames of this version, sealed if there is a channel.
    pub fn new(version: Version) -> Writer {
        Writer { stream: (version == Version::V1).then(Encoder::new), channel: None }
    }

    /// From here on the messages are sealed.
    pub fn sealed(&mut self, channel: Channel) {
        self.channel = Some(channel);
    }

    /// The feature map, framed.
    pub fn features(&mut self, schema: &Schema, features: &Value) -> Bytes {
        match &mut self.stream {
            Some(stream) => stream.encode(schema, features).into(),
            None => self.message(&Encoder::new().encode(schema, features)),
        }
    }

    /// A message of at most [`MESSAGE_LEN_MAX`] bytes, framed.
    pub fn message(&mut self, message: &[u8]) -> Bytes {
        let sealed = self.channel.as_mut().map(|channel| channel.seal(message));
        let body = sealed.as_deref().unwrap_or(message);
        match &mut self.stream {
            Some(stream) => stream.encode(&Schema::Bytes, &Value::Bytes(body.to_vec())).into(),
            None => [&(body.len() as u32).to_be_bytes(), body].concat().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::vectors::{group, unhex};

    #[test]
    fn messages_are_framed_as_go_frames_them() {
        let messages = group("message");
        for (vector, frame) in group("frame_v2_plain") {
            let name = vector["name"].as_str().unwrap().replace("frame_v2", "msg");
            let (_, message) = messages.iter().find(|(message, _)| message["name"] == name.as_str()).unwrap();
            assert_eq!(Writer::new(Version::V2).message(message), frame);
            let mut reader = Reader::new();
            reader.push(&frame);
            assert_eq!(reader.message().unwrap().unwrap(), message);
        }
        for (vector, frame) in group("frame_v1_plain") {
            let message = unhex(&vector["inputs"]["plaintext"]);
            assert_eq!(Writer::new(Version::V1).message(&message), frame);
            let mut reader = Reader::new();
            reader.frames(Version::V1);
            reader.push(&frame);
            assert_eq!(reader.message().unwrap().unwrap(), message);
        }
    }

    #[test]
    fn a_frame_may_arrive_byte_by_byte() {
        for version in [Version::V1, Version::V2] {
            let mut reader = Reader::new();
            reader.frames(version);
            let mut writer = Writer::new(version);
            let bytes = [writer.message(b"one"), writer.message(b""), writer.message(b"three")].concat();
            let mut messages = Vec::new();
            for byte in bytes {
                reader.push(&[byte]);
                messages.extend(reader.message().unwrap());
            }
            assert_eq!(messages, [&b"one"[..], b"", b"three"]);
        }
    }

    #[test]
    fn a_stranger_may_not_announce_a_long_frame() {
        let mut reader = Reader::new();
        reader.push(&5000u32.to_be_bytes());
        assert!(matches!(reader.message(), Err(FrameError::Len { len: 5000, .. })));
        let mut reader = Reader::new();
        reader.frames(Version::V1);
        reader.push(&[0xfd, 0x10, 0, 0]);
        reader.push(&[0; 5000]);
        assert!(matches!(reader.features(), Err(FrameError::Len { .. })));
    }

    #[test]
    fn ten_mebibytes_are_a_frame_and_one_byte_more_is_not() {
        for (len, fits) in [(FRAME_LEN_MAX, true), (FRAME_LEN_MAX + 1, false)] {
            let mut reader = Reader::new();
            reader.trust();
            reader.push(&(len as u32).to_be_bytes());
            assert_eq!(reader.message().is_ok(), fits);
        }
    }
}
