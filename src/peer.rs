//! Who a peer is: its name, its life, its nickname.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A peer's name: 48 bits, written like a MAC address. Unique in the mesh and kept for life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PeerName(u64);

/// One life of a peer: random, not zero, new at every start of its process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerUid(pub u64);

impl PeerName {
    /// The name that nobody has.
    pub const UNKNOWN: PeerName = PeerName(0);

    /// The name with these low 48 bits.
    pub const fn from_u64(bits: u64) -> PeerName {
        PeerName(bits & 0xffff_ffff_ffff)
    }

    /// The name as the 48-bit integer that goes on the wire.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// A locally administered unicast name from the first six of these bytes.
    pub fn from_digest(digest: [u8; 6]) -> PeerName {
        let [first, rest @ ..] = digest;
        let [b, c, d, e, f] = rest;
        PeerName(u64::from_be_bytes([0, 0, (first & 0xfe) | 0x02, b, c, d, e, f]))
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [_, _, a, b, c, d, e, g] = self.0.to_be_bytes();
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not a peer's name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not a peer name: expected six hexadecimal bytes such as 02:1f:00:00:00:01")]
pub struct BadPeerName(String);

impl FromStr for PeerName {
    type Err = BadPeerName;

    /// Six groups of one or two hexadecimal digits; one `::` may stand for a run of zero groups,
    /// as Weave Net's peers accept it.
    fn from_str(text: &str) -> Result<PeerName, BadPeerName> {
        parse(text).ok_or_else(|| BadPeerName(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<PeerName> {
    let groups = match text.split_once("::") {
        None => groups(text)?,
        Some((head, tail)) => {
            let (head, tail) = (groups(head)?, groups(tail)?);
            let zeros = 6usize.checked_sub(head.len() + tail.len()).filter(|&zeros| zeros > 0)?;
            [head, vec![0; zeros], tail].concat()
        }
    };
    let bytes: [u8; 6] = groups.try_into().ok()?;
    Some(PeerName(bytes.iter().fold(0, |name, &byte| name << 8 | u64::from(byte))))
}

fn groups(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split(':')
        .map(|group| {
            let plain = (1..=2).contains(&group.len()) && group.bytes().all(|b| b.is_ascii_hexdigit());
            plain.then(|| u8::from_str_radix(group, 16).ok())?
        })
        .collect()
}

impl From<PeerName> for String {
    fn from(name: PeerName) -> String {
        name.to_string()
    }
}

impl TryFrom<String> for PeerName {
    type Error = BadPeerName;

    fn try_from(text: String) -> Result<PeerName, BadPeerName> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_as_it_is_written() {
        let name = PeerName::from_u64(0x7a9f_ebb6_0c6e);
        assert_eq!(name.to_string(), "7a:9f:eb:b6:0c:6e");
        assert_eq!(name.to_string().parse(), Ok(name));
    }

    #[test]
    fn short_groups_upper_case_and_a_run_of_zeros_are_read() {
        assert_eq!("::1".parse(), Ok(PeerName::from_u64(1)));
        assert_eq!("A:b::C".parse(), Ok(PeerName::from_u64(0x0a0b_0000_000c)));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["", "1:2:3", "1:2:3:4:5:6:7", "1:2:3:4:5:g6", "1::2::3", "+1:2:3:4:5:6", "1:2:3::4:5:6"]
        {
            assert!(text.parse::<PeerName>().is_err(), "{text}");
        }
    }
}
