//! How a connection is kept secret: a key agreed on for each connection, and messages sealed with it.
//!
//! ```text
//! shared      = X25519(own secret key, their public key)
//! precomputed = HSalsa20(shared, 16 zero bytes)
//! session key = SHA-256(precomputed || password)
//! sealed      = XSalsa20-Poly1305(session key, nonce, message), 16 bytes longer than the message
//! nonce       = C0 by the dialler, 40 by the acceptor || 15 zero bytes || u64 number of the message
//! ```
//!
//! The nonce is never sent, so messages must be opened in the order in which they were sealed. Datagrams bear their number, and their
//! nonce begins with 80 by the dialler or 00 by the acceptor.

use dryoc::classic::{
    crypto_box::crypto_box_beforenm,
    crypto_core::crypto_scalarmult_base,
    crypto_secretbox::{crypto_secretbox_easy, crypto_secretbox_open_easy},
};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// By how much sealing makes a message longer.
pub const SEAL_LEN: usize = 16;

/// Why the bytes of the other side are no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CryptoError {
    /// A point of low order, for instance.
    #[error("the other side's public key is no key")]
    PublicKey,
    /// The tag does not fit. The commonest cause is another password.
    #[error("a message cannot be decrypted: the passwords differ, or it was damaged on the way")]
    Sealed,
}

/// The keys of one side, made anew for each connection.
#[derive(Clone)]
pub struct KeyPair {
    /// Sent to the other side.
    pub public: [u8; 32],
    secret: [u8; 32],
}

/// What both sides of a connection arrive at, if their passwords are the same.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionKey([u8; 32]);

/// The datagrams beside a connection, in both directions.
#[derive(Clone)]
pub struct Datagrams {
    key: SessionKey,
    we_dialled: bool,
    sent: u64,
    /// The highest number that came, of those without and with [`WHOLE`].
    seen: [Option<u64>; 2],
}

/// Datagrams that are not to be cut on the way bear this bit in their number, and are counted by themselves. Ours all do.
const WHOLE: u64 = 1 << 63;

/// One direction of a connection.
#[derive(Clone)]
pub struct Channel {
    key: SessionKey,
    by_dialler: bool,
    sequence: u64,
}

/// The public key that belongs to a secret one, as WireGuard has it, too.
pub fn public_key_of(secret: [u8; 32]) -> [u8; 32] {
    KeyPair::from_secret(secret).public
}

impl KeyPair {
    /// New keys.
    pub fn generate(rng: &mut ChaCha8Rng) -> KeyPair {
        let mut secret = [0; 32];
        rng.fill_bytes(&mut secret);
        KeyPair::from_secret(secret)
    }

    /// The keys that belong to a secret one.
    pub fn from_secret(secret: [u8; 32]) -> KeyPair {
        let mut public = [0; 32];
        crypto_scalarmult_base(&mut public, &secret);
        KeyPair { public, secret }
    }

    /// The key to share with the owner of this public key.
    pub fn agree(&self, theirs: &[u8; 32], password: &[u8]) -> Result<SessionKey, CryptoError> {
        let precomputed = crypto_box_beforenm(theirs, &self.secret).map_err(|_| CryptoError::PublicKey)?;
        let digest = Sha256::new().chain_update(precomputed).chain_update(password).finalize();
        Ok(SessionKey(digest.into()))
    }
}

impl Channel {
    /// The direction in which the dialler, or else the acceptor, writes.
    pub fn new(key: SessionKey, by_dialler: bool) -> Channel {
        Channel { key, by_dialler, sequence: 0 }
    }

    /// Seals the next message.
    pub fn seal(&mut self, message: &[u8]) -> Vec<u8> {
        let nonce = self.next_nonce();
        self.key.seal(&nonce, message)
    }

    /// Opens the next message.
    pub fn open(&mut self, sealed: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let nonce = self.next_nonce();
        self.key.open(&nonce, sealed)
    }

    fn next_nonce(&mut self) -> [u8; 24] {
        let number = self.sequence;
        self.sequence += 1;
        nonce(if self.by_dialler { 0xc0 } else { 0x40 }, number)
    }
}

impl Datagrams {
    /// Those of the end that dialled the connection, or of the other.
    pub fn new(key: SessionKey, we_dialled: bool) -> Datagrams {
        Datagrams { key, we_dialled, sent: 0, seen: [None; 2] }
    }

    /// Numbers and seals the next one.
    pub fn seal(&mut self, message: &[u8]) -> Vec<u8> {
        let number = self.sent | WHOLE;
        self.sent += 1;
        let nonce = nonce(if self.we_dialled { 0x80 } else { 0 }, number);
        [&number.to_be_bytes()[..], &self.key.seal(&nonce, message)].concat()
    }

    /// What one says, unless it is damaged, or older than one that came before.
    pub fn open(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        let (number, sealed) = datagram.split_first_chunk()?;
        let number = u64::from_be_bytes(*number);
        let seen = &mut self.seen[usize::from(number & WHOLE != 0)];
        if seen.is_some_and(|seen| number <= seen) {
            return None;
        }
        let nonce = nonce(if self.we_dialled { 0 } else { 0x80 }, number);
        let message = self.key.open(&nonce, sealed).ok()?;
        *seen = Some(number);
        Some(message)
    }
}

impl SessionKey {
    /// A key that is known already.
    #[cfg(test)]
    pub fn from_bytes(bytes: [u8; 32]) -> SessionKey {
        SessionKey(bytes)
    }

    fn seal(&self, nonce: &[u8; 24], message: &[u8]) -> Vec<u8> {
        let mut sealed = vec![0; message.len() + SEAL_LEN];
        crypto_secretbox_easy(&mut sealed, message, nonce, &self.0)
            .expect("a message of at most 10 MiB, in a buffer of the right size, can be sealed");
        sealed
    }

    fn open(&self, nonce: &[u8; 24], sealed: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let len = sealed.len().checked_sub(SEAL_LEN).ok_or(CryptoError::Sealed)?;
        let mut message = vec![0; len];
        crypto_secretbox_open_easy(&mut message, sealed, nonce, &self.0).map_err(|_| CryptoError::Sealed)?;
        Ok(message)
    }
}

fn nonce(first: u8, number: u64) -> [u8; 24] {
    let mut nonce = [0; 24];
    nonce[0] = first;
    nonce[16..].copy_from_slice(&number.to_be_bytes());
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::vectors::{group, hex, unhex};

    fn key(text: &serde_json::Value) -> [u8; 32] {
        unhex(text).try_into().unwrap()
    }

    #[test]
    fn both_sides_arrive_at_the_key_that_go_arrives_at() {
        let (vector, wanted) =
            group("crypto").into_iter().find(|(v, _)| v["name"] == "session_key_derivation").unwrap();
        let inputs = &vector["inputs"];
        let ours = KeyPair::from_secret(key(&inputs["local_private"]));
        let theirs = KeyPair::from_secret(key(&inputs["remote_private"]));
        assert_eq!(hex(&ours.public), inputs["local_public"]);
        let password = inputs["password_ascii"].as_str().unwrap().as_bytes();
        assert_eq!(ours.agree(&theirs.public, password).unwrap().0.to_vec(), wanted);
        assert_eq!(theirs.agree(&ours.public, password).unwrap().0.to_vec(), wanted);
    }

    #[test]
    fn messages_are_sealed_as_go_seals_them() {
        for (vector, wanted) in group("crypto").into_iter().filter(|(v, _)| !v["inputs"]["nonce"].is_null()) {
            let inputs = &vector["inputs"];
            let mut channel = Channel::new(SessionKey(key(&inputs["session_key"])), true);
            channel.sequence = 5;
            let mut other = channel.clone();
            let message = unhex(&inputs["plaintext"]);
            assert_eq!(channel.seal(&message), wanted);
            assert_eq!(other.open(&wanted), Ok(message));
        }
    }

    #[test]
    fn a_message_out_of_turn_cannot_be_opened() {
        let mut writer = Channel::new(SessionKey([7; 32]), true);
        let mut reader = writer.clone();
        writer.seal(b"first");
        let second = writer.seal(b"second");
        assert_eq!(reader.open(&second), Err(CryptoError::Sealed));
        assert_eq!(reader.open(&[0; 3]), Err(CryptoError::Sealed));
    }

    #[test]
    fn a_public_key_that_is_none_is_refused() {
        let keys = KeyPair::from_secret([3; 32]);
        assert!(keys.agree(&[0; 32], b"x").is_err());
    }
}
