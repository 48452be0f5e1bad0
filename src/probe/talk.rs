//! What peers say to each other over the mesh about probes, as JSON on a channel of our own.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Probes that one question may name, of each sort.
pub const NONCES_MAX: usize = 16;
/// Length of the longest message that is read.
const LEN_MAX: usize = 4096;

/// A question or an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Talk {
    /// Did any of these requests arrive?
    Got {
        /// Nonces of small ones.
        #[serde(default)]
        small: Vec<u64>,
        /// Nonces of large ones.
        #[serde(default)]
        large: Vec<u64>,
        /// Nonces of those of IPv6.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        v6: Vec<u64>,
    },
    /// What is so.
    Answer {
        /// The answering host has a canary, and knows of the asker's.
        canary: bool,
        /// A small one did; `None` if none was asked about.
        #[serde(default)]
        small: Option<bool>,
        /// A large one did.
        #[serde(default)]
        large: Option<bool>,
        /// One of IPv6 did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        v6: Option<bool>,
    },
}

/// Bytes that are no such message.
#[derive(Debug, Error)]
pub enum Unreadable {
    /// It is no JSON of this form.
    #[error("a message about probes cannot be read")]
    Malformed(#[from] serde_json::Error),
    /// It is longer than any of ours.
    #[error("a message about probes has {0} bytes, or names too many of them")]
    TooLong(usize),
}

impl Talk {
    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and truth values, and names of fields as keys")
    }

    /// What was received.
    pub fn decode(bytes: &[u8]) -> Result<Talk, Unreadable> {
        if bytes.len() > LEN_MAX {
            return Err(Unreadable::TooLong(bytes.len()));
        }
        let talk = serde_json::from_slice(bytes)?;
        match &talk {
            Talk::Got { small, large, v6 } if [small, large, v6].iter().any(|all| all.len() > NONCES_MAX) => {
                Err(Unreadable::TooLong(bytes.len()))
            }
            Talk::Got { .. } | Talk::Answer { .. } => Ok(talk),
        }
    }
}
