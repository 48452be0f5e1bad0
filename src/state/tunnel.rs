//! The tunnel: one WireGuard device, by which packets get to hosts that have neither a VPC nor a link in common with this one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddrV4,
    str::FromStr,
    time::Duration,
};

use base64::prelude::{BASE64_STANDARD, Engine};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The device. Containers' links begin otherwise, and so does the bridge of Weave Net.
pub const TUNNEL: &str = "weave-tunnel";
/// By how much WireGuard makes a packet longer that is sent by IPv4: its own head and tag, UDP and IP.
pub const TUNNEL_OVERHEAD: u32 = 60;
/// Seconds after which an end that has nothing to say says so, and a router that translates addresses keeps the way open.
pub const KEEPALIVE_S: u16 = 25;
/// An end that is there shows where within so long: WireGuard makes a handshake every two minutes where there is something to send.
pub const HEARD_WITHIN: Duration = Duration::from_secs(180);
/// Where a tunnel listens unless told otherwise.
pub const TUNNEL_PORT: u16 = 6784;

const KEY_LEN: usize = 32;

/// A public key, as text in base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TunnelKey(pub [u8; KEY_LEN]);

/// A text that is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("it is not the key of a tunnel: 44 letters of base64")]
pub struct NotAKey;

/// The device, as it should be or is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// What others know it by.
    pub key: TunnelKey,
    /// The UDP port at which it listens.
    pub port: u16,
    /// The longest packet that it takes.
    pub mtu: u32,
    /// Whether it takes any.
    pub up: bool,
    /// The other ends.
    pub peers: BTreeMap<TunnelKey, TunnelPeer>,
}

/// The other end of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelPeer {
    /// Where to send what is for it; `None`: it comes to us, and is answered where it came from.
    pub endpoint: Option<SocketAddrV4>,
    /// The addresses whose packets it is sent, and from which alone it may send.
    pub allowed: BTreeSet<IpNet>,
    /// Seconds after which it is told that we are there; 0: never.
    pub keepalive_s: u16,
    /// Observed only: it has shown of late that it is where the endpoint says.
    pub heard: bool,
    /// Desired only: it has moved since the device can have found it elsewhere.
    pub moved: bool,
}

impl TunnelPeer {
    /// One that owns these addresses.
    pub fn new(endpoint: Option<SocketAddrV4>, allowed: BTreeSet<IpNet>) -> TunnelPeer {
        TunnelPeer { endpoint, allowed, keepalive_s: KEEPALIVE_S, heard: false, moved: false }
    }
}

impl TunnelKey {
    /// Whether it can be one: that of zeros stands for none, and everybody could read what it seals.
    pub fn is_believable(&self) -> bool {
        self.0 != [0; KEY_LEN]
    }
}

/// Some of these, fit for a line.
pub fn some_of(cidrs: &BTreeSet<IpNet>) -> String {
    const NAMED_MAX: usize = 3;
    let named: Vec<String> = cidrs.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    match cidrs.len().saturating_sub(NAMED_MAX) {
        0 if named.is_empty() => "nothing".to_owned(),
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// Bytes of a key as text.
pub fn to_base64(key: &[u8; KEY_LEN]) -> String {
    BASE64_STANDARD.encode(key)
}

/// A key from its text, which there is only one of.
pub fn from_base64(text: &str) -> Result<[u8; KEY_LEN], NotAKey> {
    let key = BASE64_STANDARD.decode(text).map_err(|_| NotAKey)?;
    key.try_into().map_err(|_| NotAKey)
}

impl FromStr for TunnelKey {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<TunnelKey, NotAKey> {
        from_base64(text).map(TunnelKey)
    }
}

impl TryFrom<String> for TunnelKey {
    type Error = NotAKey;

    fn try_from(text: String) -> Result<TunnelKey, NotAKey> {
        text.parse()
    }
}

impl From<TunnelKey> for String {
    fn from(key: TunnelKey) -> String {
        key.to_string()
    }
}

impl fmt::Display for TunnelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_base64(&self.0))
    }
}

impl fmt::Debug for TunnelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tunnel { key, port, mtu, up, .. } = self;
        let state = if *up { "" } else { ", down" };
        write!(f, "UDP {port}, MTU {mtu}, key {key}{state}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_written_as_wg_writes_it() {
        let key = TunnelKey(std::array::from_fn(|n| n as u8));
        let text = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        assert_eq!(key.to_string(), text);
        assert_eq!(text.parse(), Ok(key));
    }

    #[test]
    fn what_is_no_key_is_not_read_as_one() {
        let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let wrong = [
            String::new(),
            key.trim_end_matches('=').to_owned(),
            format!("{key}="),
            key.replace("h8=", "h9="),
            key.replace("AAEC", "AAE\n"),
            key.replace("AAEC", "AAE="),
            "=".repeat(44),
            "ä".repeat(22),
        ];
        for text in wrong {
            assert_eq!(text.parse::<TunnelKey>(), Err(NotAKey), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_key_has_one_text(key in any::<[u8; 32]>(), text in "[A-Za-z0-9+/]{43}=") {
            prop_assert_eq!(to_base64(&key).parse(), Ok(TunnelKey(key)));
            if let Ok(key) = text.parse::<TunnelKey>() {
                prop_assert_eq!(key.to_string(), text);
            }
        }
    }
}
