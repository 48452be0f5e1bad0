//! What passes between canaries: one UDP datagram asks, another answers.
//!
//! ```text
//!  0      4       5      6      7       8        16       22        26
//!  | wvrs | version | kind | probe | zero | nonce | sender | seen as | padding …
//! ```
//!
//! A request and its reply are equally long, so that both ways carry a packet of that size, and so that nobody makes
//! a canary send more than it is sent. Only who was sent the nonce can answer.

use std::net::Ipv4Addr;

use crate::peer::PeerName;

/// Port of every canary.
pub const PORT: u16 = 6786;
/// Length of a datagram without padding.
pub const LEN_MIN: usize = 26;
/// No datagram is longer.
pub const LEN_MAX: usize = 65_507;
/// What IPv4 and UDP put before a datagram.
const HEADERS_LEN: usize = 28;

const MAGIC: &[u8; 4] = b"wvrs";
const VERSION: u8 = 1;

/// What a probe tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Probe {
    /// Packets as small as can be.
    Small,
    /// Packets as large as the MTU of both ends lets through.
    Large,
    /// Small ones of IPv6.
    V6,
}

/// Whether it asks or answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whoever gets this answers.
    Request,
    /// The answer; the requester came from `seen`.
    Reply,
}

/// A datagram between canaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Whether it asks or answers.
    pub kind: Kind,
    /// What is tried.
    pub probe: Probe,
    /// Which probe this is of.
    pub nonce: u64,
    /// Who sent it.
    pub sender: PeerName,
    /// Of a reply: the address from which the request came. Another one than the canary's was put there on the way.
    pub seen: Ipv4Addr,
}

impl Packet {
    /// The bytes, padded to `len`.
    pub fn encode(&self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len);
        bytes.extend(MAGIC);
        bytes.push(VERSION);
        bytes.push(match self.kind {
            Kind::Request => 1,
            Kind::Reply => 2,
        });
        bytes.push(match self.probe {
            Probe::Small => 1,
            Probe::Large => 2,
            Probe::V6 => 3,
        });
        bytes.push(0);
        bytes.extend(self.nonce.to_be_bytes());
        bytes.extend(&self.sender.as_u64().to_be_bytes()[2..]);
        bytes.extend(self.seen.octets());
        bytes.resize(len.clamp(LEN_MIN, LEN_MAX), 0);
        bytes
    }

    /// The datagram in these bytes; `None` if they are none of this version.
    pub fn decode(bytes: &[u8]) -> Option<Packet> {
        let (head, _) = bytes.split_at_checked(LEN_MIN)?;
        let [m, a, g, i, version, kind, probe, _, rest @ ..] = head else { return None };
        if [*m, *a, *g, *i] != *MAGIC || *version != VERSION {
            return None;
        }
        let kind = match kind {
            1 => Kind::Request,
            2 => Kind::Reply,
            _ => return None,
        };
        let probe = match probe {
            1 => Probe::Small,
            2 => Probe::Large,
            3 => Probe::V6,
            _ => return None,
        };
        let (nonce, rest) = rest.split_first_chunk::<8>()?;
        let (sender, rest) = rest.split_first_chunk::<6>()?;
        let (seen, _) = rest.split_first_chunk::<4>()?;
        let [a, b, c, d, e, f] = *sender;
        Some(Packet {
            kind,
            probe,
            nonce: u64::from_be_bytes(*nonce),
            sender: PeerName::from_u64(u64::from_be_bytes([0, 0, a, b, c, d, e, f])),
            seen: Ipv4Addr::from(*seen),
        })
    }
}

/// Length of a datagram that makes a packet as large as `mtu`.
pub fn len_of(mtu: u32) -> usize {
    (mtu as usize).saturating_sub(HEADERS_LEN).clamp(LEN_MIN, LEN_MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet() -> Packet {
        Packet {
            kind: Kind::Reply,
            probe: Probe::Large,
            nonce: 0x0102_0304_0506_0708,
            sender: "02:1f:00:00:00:01".parse().unwrap(),
            seen: Ipv4Addr::new(10, 32, 0, 1),
        }
    }

    #[test]
    fn a_packet_comes_back_as_it_was_whatever_its_padding() {
        for len in [0, LEN_MIN, 1348, LEN_MAX] {
            assert_eq!(Packet::decode(&packet().encode(len)), Some(packet()), "{len}");
        }
        let request = Packet { kind: Kind::Request, probe: Probe::Small, ..packet() };
        assert_eq!(Packet::decode(&request.encode(LEN_MIN)), Some(request));
    }

    #[test]
    fn a_large_packet_is_as_large_as_the_mtu() {
        assert_eq!(packet().encode(len_of(9001)).len() + HEADERS_LEN, 9001);
        assert_eq!(len_of(0), LEN_MIN);
    }

    #[test]
    fn another_version_is_not_understood() {
        let mut bytes = packet().encode(LEN_MIN);
        bytes[4] = 2;
        assert_eq!(Packet::decode(&bytes), None);
        assert_eq!(Packet::decode(&packet().encode(LEN_MIN)[..LEN_MIN - 1]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            Packet::decode(&bytes);
        }
    }
}
