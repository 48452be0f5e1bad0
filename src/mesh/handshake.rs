//! How two peers introduce themselves, as a table.
//!
//! ```text
//!            version 2                          version 1
//! header     `weave` min max                    the same
//! key        00, or 01 and a public key         nothing
//! features   one frame, sealed with a password  first value of the gob stream, in clear
//! proof      nothing                            with a password any message, which is sealed
//! ```
//!
//! Neither side writes a stage before it has read the one before. With a password the side that was dialled seals nothing before it
//! has opened something that the dialler sealed: on sealed bytes whoever can connect could try passwords, as many as he likes. A
//! router of Weave Net does not wait for us when it dials. Whom we dial can still try: only a long password stands against that.

use bytes::Bytes;
use thiserror::Error;

use super::{
    crypto::{Channel, CryptoError, KeyPair, SessionKey},
    features::{FEATURES, FeatureError, Features},
    frame::{FrameError, Reader, Version, Writer},
    message,
};
use crate::gob::Value;

const PROTOCOL: [u8; 5] = *b"weave";
const VERSION_MAX: u8 = Version::V2 as u8;

/// One side of an introduction.
pub struct Handshake {
    stage: Stage,
    outbound: bool,
    oldest: Version,
    ours: Features,
    secret: Option<Secret>,
    key: Option<SessionKey>,
    /// Who the other side says that it is, until it has proven that it has the password.
    claimed: Option<Features>,
    reader: Reader,
    writer: Writer,
}

/// What a side needs to encrypt.
pub struct Secret {
    /// Shared by all peers.
    pub password: Vec<u8>,
    /// For this connection only.
    pub keys: KeyPair,
}

/// What comes of an introduction.
pub struct Introduced {
    /// Who is there.
    pub theirs: Features,
    /// Holds what came behind the introduction.
    pub reader: Reader,
    /// For everything that follows.
    pub writer: Writer,
    /// What the stream is sealed with from here on.
    pub key: Option<SessionKey>,
    /// Each end thinks that the network needs no encryption.
    pub trusted: bool,
}

/// Why an introduction failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)] // The messages say what they are.
pub enum HandshakeError {
    #[error("the other side does not speak this protocol")]
    NotWeave,
    #[error("the other side speaks versions {min} to {max} of the protocol, we {ours} to {VERSION_MAX}")]
    Version { min: u8, max: u8, ours: u8 },
    #[error("we have a password and the other side has none")]
    PasswordOnlyHere,
    #[error("the other side has a password and we have none")]
    PasswordOnlyThere,
    #[error("the other side sent {0:#04x} where it should say whether it encrypts")]
    Flag(u8),
    #[error("what came does not belong at this stage")]
    OutOfOrder,
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    #[error("the introduction cannot be read")]
    Frame(#[source] FrameError),
    #[error(transparent)]
    Feature(#[from] FeatureError),
}

impl From<FrameError> for HandshakeError {
    fn from(error: FrameError) -> HandshakeError {
        match error {
            FrameError::Crypto(error) => error.into(),
            error => HandshakeError::Frame(error),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Header,
    Key,
    Features(Version),
    Proof,
}

/// What the other side can say.
enum Event {
    Header { min: u8, max: u8 },
    Clear,
    Key([u8; 32]),
    Features(Value),
    Proof,
}

impl Handshake {
    /// A side that speaks no version before `oldest`, and has nothing to say before the header: see [`Handshake::header`].
    pub fn new(outbound: bool, oldest: Version, ours: Features, secret: Option<Secret>) -> Handshake {
        Handshake {
            stage: Stage::Header,
            outbound,
            oldest,
            ours,
            secret,
            key: None,
            claimed: None,
            reader: Reader::new(),
            writer: Writer::new(Version::V2),
        }
    }

    /// The first bytes of both sides, sent without waiting.
    pub fn header(&self) -> Bytes {
        [&PROTOCOL[..], &[self.oldest as u8, VERSION_MAX]].concat().into()
    }

    /// Whether the other side has sent its header.
    pub fn has_header(&self) -> bool {
        self.stage != Stage::Header
    }

    /// Whether all is said but for the proof, which a router of Weave Net gives when it has something to say.
    pub fn awaits_proof(&self) -> bool {
        self.stage == Stage::Proof
    }

    /// Whether the other side encrypts with us, as far as is known.
    pub fn encrypts(&self) -> bool {
        self.secret.is_some()
    }

    /// Takes what came and adds what to send. Returns the features of the other side once they are there; then
    /// [`Handshake::finish`] is due.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        out: &mut Vec<Bytes>,
    ) -> Result<Option<Features>, HandshakeError> {
        self.reader.push(bytes);
        while let Some(event) = self.next_event()? {
            if let Some(theirs) = self.on_event(event, out)? {
                return Ok(Some(theirs));
            }
        }
        Ok(None)
    }

    /// What the connection goes on with.
    pub fn finish(mut self, theirs: Features) -> Introduced {
        self.reader.trust();
        let trusted = self.ours.trusted && theirs.trusted;
        Introduced { theirs, reader: self.reader, writer: self.writer, key: self.key, trusted }
    }

    fn next_event(&mut self) -> Result<Option<Event>, HandshakeError> {
        match self.stage {
            Stage::Header => match self.reader.take::<7>() {
                None => Ok(None),
                Some([name @ .., min, max]) if name == PROTOCOL => Ok(Some(Event::Header { min, max })),
                Some(_) => Err(HandshakeError::NotWeave),
            },
            Stage::Key => match self.reader.peek() {
                None => Ok(None),
                Some(0) => Ok(self.reader.take::<1>().map(|_| Event::Clear)),
                Some(1) => Ok(self.reader.take::<33>().map(|[_, key @ ..]| Event::Key(key))),
                Some(flag) => Err(HandshakeError::Flag(flag)),
            },
            Stage::Features(_) => Ok(self.reader.features()?.map(Event::Features)),
            Stage::Proof => Ok(self.reader.is_proven()?.then_some(Event::Proof)),
        }
    }

    fn on_event(&mut self, event: Event, out: &mut Vec<Bytes>) -> Result<Option<Features>, HandshakeError> {
        self.stage = match (self.stage, event) {
            (Stage::Header, Event::Header { min, max }) => match version(self.oldest, min, max)? {
                Version::V1 => {
                    self.reader.frames(Version::V1);
                    self.writer = Writer::new(Version::V1);
                    out.push(self.features(Version::V1));
                    Stage::Features(Version::V1)
                }
                Version::V2 => {
                    out.push(self.key());
                    Stage::Key
                }
            },
            (Stage::Key, Event::Clear) if self.secret.is_none() => {
                out.push(self.features(Version::V2));
                Stage::Features(Version::V2)
            }
            (Stage::Key, Event::Clear) => return Err(HandshakeError::PasswordOnlyHere),
            (Stage::Key, Event::Key(theirs)) => {
                self.seal(&theirs)?;
                if self.outbound {
                    out.push(self.features(Version::V2));
                }
                Stage::Features(Version::V2)
            }
            (Stage::Features(Version::V1), Event::Features(theirs)) if self.secret.is_some() => {
                self.claimed = Some(self.on_features(Version::V1, &theirs)?);
                if self.outbound {
                    out.push(self.writer.message(&message::heartbeat()));
                }
                Stage::Proof
            }
            (Stage::Features(Version::V1), Event::Features(theirs)) => {
                return self.on_features(Version::V1, &theirs).map(Some);
            }
            (Stage::Features(Version::V2), Event::Features(theirs)) => {
                let theirs = self.on_features(Version::V2, &theirs)?;
                if self.secret.is_some() && !self.outbound {
                    out.push(self.features(Version::V2));
                }
                return Ok(Some(theirs));
            }
            (Stage::Proof, Event::Proof) => {
                if !self.outbound {
                    out.push(self.writer.message(&message::heartbeat()));
                }
                return Ok(self.claimed.take());
            }
            (Stage::Header, Event::Clear | Event::Key(_) | Event::Features(_) | Event::Proof)
            | (Stage::Key, Event::Header { .. } | Event::Features(_) | Event::Proof)
            | (Stage::Features(_), Event::Header { .. } | Event::Clear | Event::Key(_) | Event::Proof)
            | (Stage::Proof, Event::Header { .. } | Event::Clear | Event::Key(_) | Event::Features(_)) => {
                return Err(HandshakeError::OutOfOrder);
            }
        };
        Ok(None)
    }

    /// In version 1 the public keys come with the features, and sealing begins behind them. So anybody can say that he is
    /// a peer, and is believed only once he has sealed something.
    fn on_features(&mut self, version: Version, theirs: &Value) -> Result<Features, HandshakeError> {
        let theirs = Features::from_value(theirs, version)?;
        match (version, &self.secret, theirs.public_key) {
            (Version::V2, _, _) | (Version::V1, None, None) => {}
            (Version::V1, Some(_), None) => return Err(HandshakeError::PasswordOnlyHere),
            (Version::V1, _, Some(key)) => self.seal(&key)?,
        }
        Ok(theirs)
    }

    fn seal(&mut self, theirs: &[u8; 32]) -> Result<(), HandshakeError> {
        let Some(Secret { password, keys }) = &self.secret else {
            return Err(HandshakeError::PasswordOnlyThere);
        };
        let key = keys.agree(theirs, password)?;
        self.reader.sealed(Channel::new(key.clone(), !self.outbound));
        self.writer.sealed(Channel::new(key.clone(), self.outbound));
        self.key = Some(key);
        Ok(())
    }

    fn key(&self) -> Bytes {
        match &self.secret {
            None => Bytes::from_static(&[0]),
            Some(secret) => [&[1], &secret.keys.public[..]].concat().into(),
        }
    }

    fn features(&mut self, version: Version) -> Bytes {
        self.ours.public_key = self.secret.as_ref().map(|secret| secret.keys.public);
        self.writer.features(&FEATURES, &self.ours.to_value(version))
    }
}

/// The highest version that both sides speak.
fn version(oldest: Version, min: u8, max: u8) -> Result<Version, HandshakeError> {
    let ours = oldest as u8;
    match (min.max(ours), max.min(VERSION_MAX)) {
        (lo, hi) if lo > hi => Err(HandshakeError::Version { min, max, ours }),
        (_, VERSION_MAX) => Ok(Version::V2),
        (_, _) => Ok(Version::V1),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use serde_json::Value as Json;

    use super::*;
    use crate::mesh::vectors::{group, unhex};

    fn features(inputs: &Json, side: &str) -> Features {
        let entries = inputs[format!("{side}_features_in_wire_order")].as_array().unwrap();
        let text = |wanted: &str| {
            let entry = entries.iter().find(|entry| entry["key"] == wanted);
            entry.map(|entry| entry["value"].as_str().unwrap().to_owned())
        };
        Features {
            name: text("Name").unwrap().parse().unwrap(),
            nickname: text("NickName").unwrap(),
            uid: crate::peer::PeerUid(text("UID").unwrap().parse().unwrap()),
            conn_id: text("ConnID").unwrap().parse().unwrap(),
            short_id: text("ShortID").map(|id| id.parse().unwrap()),
            trusted: text("Trusted").as_deref() == Some("true"),
            overlays: text("Overlays"),
            public_key: None,
            program: text("WeaversVersion"),
            compares: false,
        }
    }

    fn secret(inputs: &Json, side: &str) -> Option<Secret> {
        let key = &inputs[format!("{side}_private_key")];
        let keys = || KeyPair::from_secret(unhex(key).try_into().unwrap());
        key.is_string().then(|| Secret { password: b"mesh-test-password".to_vec(), keys: keys() })
    }

    /// Plays one side against the recorded other, byte by byte, and returns what it sent.
    fn play(side: &str, inputs: &Json, heard: &[u8]) -> (Vec<u8>, Option<Introduced>) {
        let outbound = side == "dialler";
        let mut handshake =
            Handshake::new(outbound, Version::V1, features(inputs, side), secret(inputs, side));
        let mut out = vec![handshake.header()];
        for byte in heard {
            if let Some(theirs) = handshake.receive(&[*byte], &mut out).unwrap() {
                return (out.concat(), Some(handshake.finish(theirs)));
            }
        }
        (out.concat(), None)
    }

    fn recorded(group: &[(Json, Vec<u8>)], what: &str) -> Vec<u8> {
        let found = group.iter().find(|(vector, _)| vector["name"].as_str().unwrap().ends_with(what));
        found.expect("there is such a vector").1.clone()
    }

    #[test]
    fn introductions_are_those_of_go_in_both_versions() {
        for kind in ["intro_v2_plain", "intro_v2_encrypted", "intro_v1_plain", "intro_v1_encrypted"] {
            let vectors = group(kind);
            let inputs = &vectors[0].0["inputs"];
            for (side, other) in [("dialler", "acceptor"), ("acceptor", "dialler")] {
                let wanted = recorded(&vectors, &format!("{kind}_{side}_to_{other}"));
                let heard = recorded(&vectors, &format!("{kind}_{other}_to_{side}"));
                let (mut sent, introduced) = play(side, inputs, &heard_by(heard, kind));
                sent[6] = wanted[6]; // The dialler of version 1 speaks no other; we always offer both.
                if kind == "intro_v1_encrypted" {
                    assert!(introduced.is_none() && sent.starts_with(&wanted), "{side}: it may be anybody");
                    continue;
                }
                let introduced = introduced.unwrap();
                assert_eq!(sent, wanted, "{kind} {side}");
                assert_eq!(introduced.key.is_some(), kind.ends_with("encrypted"));
                assert_eq!(introduced.theirs.name, features(inputs, other).name);
            }
        }
    }

    #[test]
    fn a_peer_that_says_only_what_it_must_is_introduced() {
        let vectors = group("intro_v2_plain");
        let heard = recorded(&vectors, "minimal_features_dialler");
        let introduced = play("acceptor", &vectors[0].0["inputs"], &heard).1.unwrap();
        assert_eq!((introduced.theirs.short_id, introduced.theirs.overlays), (None, None));
    }

    /// In version 1 one end forbids version 2: here always the recorded one.
    fn heard_by(mut heard: Vec<u8>, kind: &str) -> Vec<u8> {
        if kind.contains("v1") {
            heard[6] = 1;
        }
        heard
    }

    #[test]
    fn frames_behind_the_introduction_are_sealed_as_go_seals_them() {
        for (kind, frames) in
            [("intro_v2_encrypted", "frame_v2_encrypted"), ("intro_v1_encrypted", "frame_v1_encrypted")]
        {
            let vectors = group(kind);
            let inputs = &vectors[0].0["inputs"];
            let said = |side| heard_by(recorded(&vectors, side), kind);
            let from_dialler = play("dialler", inputs, &said("_acceptor_to_dialler")).0;
            let (from_acceptor, theirs) = play("acceptor", inputs, &heard_by(from_dialler.clone(), kind));
            let mut ours = play("dialler", inputs, &heard_by(from_acceptor.clone(), kind)).1.unwrap();
            let mut theirs = theirs.unwrap();
            for (vector, frame) in group(frames) {
                let message = unhex(&vector["inputs"]["plaintext"]);
                let (from, to) = match vector["inputs"]["direction"].as_str().unwrap() {
                    "dialler->acceptor" => (&mut ours.writer, &mut theirs.reader),
                    _ => (&mut theirs.writer, &mut ours.reader),
                };
                // The first one of version 1 has been sent as a proof.
                if !from_dialler.ends_with(&frame) && !from_acceptor.ends_with(&frame) {
                    assert_eq!(from.message(&message), frame, "{}", vector["name"]);
                    to.push(&frame);
                }
                assert_eq!(to.message().unwrap().unwrap(), message);
            }
        }
    }

    #[test]
    fn in_version_1_nobody_is_believed_before_he_has_sealed_something() {
        let vectors = group("intro_v1_encrypted");
        let inputs = &vectors[0].0["inputs"];
        let claim = heard_by(recorded(&vectors, "_dialler_to_acceptor"), "intro_v1_encrypted");
        let proof = recorded(&group("frame_v1_encrypted"), "_seq0");
        let forged = [&proof[..proof.len() - 1], &[!proof[proof.len() - 1]]].concat();
        let acceptor =
            || Handshake::new(false, Version::V1, features(inputs, "acceptor"), secret(inputs, "acceptor"));
        for (sealed, believed) in
            [(&proof, Ok(true)), (&forged, Err(HandshakeError::Crypto(CryptoError::Sealed)))]
        {
            let mut handshake = acceptor();
            assert_eq!(handshake.receive(&claim, &mut Vec::new()), Ok(None));
            let heard = handshake.receive(sealed, &mut Vec::new());
            assert_eq!(heard.map(|theirs| theirs.is_some()), believed);
        }
        let mut handshake = acceptor();
        assert_eq!(handshake.receive(&claim, &mut Vec::new()), Ok(None));
        let endless = [&[0xfc, 0, 0x80, 0, 0][..], &[0; 2 << 20]].concat();
        assert!(matches!(handshake.receive(&endless, &mut Vec::new()), Err(HandshakeError::Frame(_))));
    }

    #[test]
    fn the_highest_common_version_is_spoken() {
        let (v1, v2) = (Version::V1, Version::V2);
        assert_eq!(version(v1, 1, 2), Ok(v2));
        assert_eq!(version(v2, 1, 9), Ok(v2));
        assert_eq!(version(v1, 0, 1), Ok(v1));
        assert_eq!(version(v2, 0, 1), Err(HandshakeError::Version { min: 0, max: 1, ours: 2 }));
        assert_eq!(version(v1, 3, 9), Err(HandshakeError::Version { min: 3, max: 9, ours: 1 }));
        assert_eq!(version(v1, 0, 0), Err(HandshakeError::Version { min: 0, max: 0, ours: 1 }));
    }

    #[test]
    fn keys_are_new_for_each_connection() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        assert_ne!(KeyPair::generate(&mut rng).public, KeyPair::generate(&mut rng).public);
    }
}
