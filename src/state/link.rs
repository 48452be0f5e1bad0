//! Containers' links: the namespaces that they lead into, and their names.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path as FilePath, PathBuf},
    sync::Arc,
};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::{attachment::Far, shared};
use crate::addr::{Address, Prefix};

/// A network namespace, known by more than a name: it is this one for as long as this kernel runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Netns {
    /// The kernel's boot id.
    #[serde(serialize_with = "shared::as_it_is", deserialize_with = "shared::text")]
    pub boot: Arc<str>,
    /// The kernel's cookie of the namespace (`SO_NETNS_COOKIE`), never used twice in a boot.
    pub cookie: u64,
    /// Where it was last found: a bind mount or `/proc/PID/ns/net`.
    #[serde(serialize_with = "shared::as_it_is", deserialize_with = "shared::path")]
    pub path: Arc<FilePath>,
}

impl Netns {
    /// The namespace of this cookie in this boot, found there.
    pub fn new(boot: &str, cookie: u64, path: impl AsRef<FilePath>) -> Netns {
        Netns { boot: boot.into(), cookie, path: path.as_ref().into() }
    }

    /// Where the namespace of a target is to be found: a pid's, or what a path leads to.
    pub fn path_of(target: &str) -> PathBuf {
        target.parse::<u32>().map_or_else(|_| target.into(), |pid| format!("/proc/{pid}/ns/net").into())
    }

    /// Whether both are the same namespace, wherever they were found.
    pub fn is_same(&self, other: &Netns) -> bool {
        // Most share the text.
        self.cookie == other.cookie && (Arc::ptr_eq(&self.boot, &other.boot) || self.boot == other.boot)
    }
}

/// The way out of every container. Each host has it for its own containers, and nobody routes it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The same of IPv6. The host's end of each link has it, since such an address is one of a link and not of a host.
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// A routed veth: the host's end and the container's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The namespace of the container's end. Observed: `None` where it could not be entered, or is a runtime's affair.
    pub netns: Option<Netns>,
    /// MTU of both ends. Observed: the host's end.
    pub mtu: u32,
    /// The whole container range, which the container reaches by the link.
    pub range: Ipv4Net,
    /// What makes an IPv6 address of the container's; `None`: it has none.
    #[serde(default)]
    pub prefix: Option<Prefix>,
    /// The container's end, as it is made. Observed: as it is wanted.
    #[serde(default)]
    pub far: Far,
    /// Observed: what is not as it should be, in words (`mtu of the far end is 1376`, `host route missing`).
    /// Desired: empty.
    pub faults: Vec<String>,
}

impl Link {
    /// Whether it was found whole. Of one whose other end is a runtime's, the host's end.
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty() && (self.netns.is_some() || self.far.moved)
    }
}

/// How the names of links of containers begin; the rules take whatever begins so for one.
pub const LINKS: &str = "wv";

/// Name of the host's end of the link of `address`: `wv` and the address in hexadecimal.
pub fn link_name(address: Address) -> String {
    format!("{LINKS}{:08x}", address.0)
}

/// The address whose link's host end is named so.
pub fn address_of_link(name: &str) -> Option<Address> {
    let digits = name.strip_prefix(LINKS).filter(|digits| digits.len() == 8)?;
    let written = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    u32::from_str_radix(digits, 16).ok().filter(|_| written).map(Address)
}
