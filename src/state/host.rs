//! The host: what should be there of ours, and what is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use super::{
    link::Link,
    paths::{Packet, Path},
    port::Ports,
    remote::Remote,
};
use crate::{
    addr::{Address, Prefix},
    digest::Digest,
};

/// How much of the host a look is to ask about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of it, whatever was seen before.
    Whole,
    /// What the kernel has told of, and in turns the rest: the host's side every few times, a part of the containers each time.
    /// Where it does not tell of changes, all of it.
    Routine,
    /// What the kernel has told of since the look before. What it tells nobody of is as it was then.
    Changed,
}

/// Links by the address they serve. Each is shared by all who know it, so that a thousand of them cost little to hand on.
pub type Links = BTreeMap<Address, Arc<Link>>;

/// A link that was made or mended, and was whole when it was read back then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The address that it serves.
    pub address: Address,
    /// The link as it was found.
    pub link: Arc<Link>,
    /// How packets that come in reach it, by each interface that carries traffic between hosts.
    pub paths: Vec<Arc<Path>>,
}

/// All that is ours on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Kernel settings by dotted name (`net.ipv4.ip_forward`). Observed: those that were asked for.
    pub sysctls: BTreeMap<String, String>,
    /// The nftables table `inet weave`; `None` if it is absent or is not what was asked for.
    pub rules: Option<Rules>,
    /// Whether other programs' forward chains let our packets through (Docker's drop policy).
    pub forward: Forward,
    /// Whether the host has [`GATEWAY`] on `lo`, so that it answers containers that ask for its MAC address.
    pub gateway: bool,
    /// CIDRs with an `unreachable` route: what we own, so that a free address answers at once.
    pub blocks: BTreeSet<IpNet>,
    /// Ports of the host that lead into containers, in a table of their own; `None` if there is none. Observed: empty if it is not
    /// what was asked for; where none was asked for, what an earlier life of this program left.
    pub ports: Option<Ports>,
    /// Container links by the address they serve. Observed: every link named as ours.
    pub links: Arc<Links>,
    /// Observed only: wanted links whose namespace is gone for good.
    pub gone: BTreeSet<Address>,
    /// Observed only: links whose other end nobody has set up, of those that are not known to lead into some namespace.
    pub idle: BTreeSet<Address>,
    /// Desired only: addresses and blocks inside the range that were lent. What leads there is the business of whoever has them.
    pub lent: Arc<BTreeSet<Ipv4Net>>,
    /// Observed only: routes inside the range that are not ours, as text. Reported, never touched.
    pub foreign: BTreeMap<Ipv4Net, String>,
    /// Observed only: the interfaces that carry traffic between hosts and to the outside, and their MTU.
    pub uplinks: BTreeMap<String, u32>,
    /// Routes to what other hosts own, and what is known of the networks between.
    pub remote: Box<Remote>,
    /// Observed only: what the kernel would do with packets of containers.
    pub paths: Vec<Arc<Path>>,
    /// Observed only: what is not for containers of ours, and matters to them.
    pub surroundings: Surroundings,
}

/// What is on a host beside what is ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Docker's own bridge, if it has an address.
    pub docker0: Option<Docker0>,
    /// The table of tracked connections, where it is full.
    pub tracking: Option<Tracking>,
}

impl Host {
    /// Its links, to be changed. Whoever shares them keeps them as they are.
    pub fn links_mut(&mut self) -> &mut Links {
        Arc::make_mut(&mut self.links)
    }

    /// One of its links, to be changed in the same way.
    pub fn link_mut(&mut self, address: Address) -> Option<&mut Link> {
        self.links_mut().get_mut(&address).map(Arc::make_mut)
    }

    /// A link was made or mended, and read back, since this was observed.
    pub fn take_in(&mut self, Made { address, link, paths }: Made) {
        let of_it =
            |path: &Path| matches!(path.packet, Packet::ToContainer { address: to, .. } if to == address);
        if self.links_mut().insert(address, link).is_some() {
            self.paths.retain(|path| !of_it(path));
        }
        self.paths.extend(paths);
        self.gone.remove(&address);
        self.idle.remove(&address);
    }

    /// Whether this destination was lent, by itself or as a part of a block.
    pub fn is_lent(&self, destination: Ipv4Net) -> bool {
        let covers = |length| {
            let wider = Ipv4Net::new(destination.network(), length);
            wider.is_ok_and(|wider| self.lent.contains(&wider.trunc()))
        };
        !self.lent.is_empty() && (0..=destination.prefix_len()).any(covers)
    }

    /// The range, where something of it was lent: packets for it pass by other interfaces than our links.
    pub fn lent_range(&self) -> Option<Ipv4Net> {
        self.range().filter(|_| !self.lent.is_empty())
    }

    /// What makes IPv6 addresses of containers' addresses, as far as this says it.
    pub fn prefix(&self) -> Option<Prefix> {
        let of_rules = self.rules.as_ref().and_then(|rules| rules.prefix);
        of_rules.or_else(|| self.links.values().next().and_then(|link| link.prefix))
    }

    /// The container range, as far as this says it. Rules that stand for whatever an earlier life left say nothing of it.
    pub fn range(&self) -> Option<Ipv4Net> {
        let of_rules = self.rules.as_ref().map(|rules| rules.range).filter(|range| range.prefix_len() > 0);
        of_rules.or_else(|| self.links.values().next().map(|link| link.range))
    }
}

/// Docker's own bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Docker0 {
    /// Its address, with the length of what is around it.
    pub address: Ipv4Net,
    /// Docker drops what comes for its containers by any other interface, before all other rules.
    pub drops: bool,
}

impl Docker0 {
    /// Its name.
    pub const NAME: &str = "docker0";
}

/// A table of tracked connections that has no room. What finds none is dropped, of containers and of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracking {
    /// Connections in it.
    pub used: u64,
    /// Connections that it holds.
    pub most: u64,
    /// Connections that were turned away since the look before.
    pub dropped: u64,
}

impl Tracking {
    /// What to do about it.
    pub const WAY_OUT: &str = "sysctl -w net.netfilter.nf_conntrack_max=N, larger and kept in /etc/sysctl.d; see who opens so many: conntrack -L, or /proc/net/nf_conntrack";
}

impl fmt::Display for Tracking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tracking { used, most, dropped } = self;
        write!(f, "the table of tracked connections is full ({used} of {most}): new ones are dropped")?;
        if *dropped > 0 {
            write!(f, ", {dropped} since the look before")?;
        }
        Ok(())
    }
}

/// What our nftables table does. Rendered by `kernel::nft`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rules {
    /// The container address space.
    pub range: Ipv4Net,
    /// What makes IPv6 addresses of it, where containers have some.
    #[serde(default)]
    pub prefix: Option<Prefix>,
    /// Interfaces that carry traffic between hosts.
    pub uplinks: BTreeSet<String>,
    /// Port of the mesh, of TCP and UDP, which containers do not reach.
    pub mesh_port: u16,
    /// Port of the measurements, of TCP, which they do not reach either.
    #[serde(default)]
    pub metrics_port: Option<u16>,
    /// Whether containers are kept from 169.254.169.254.
    pub block_metadata: bool,
    /// Which containers are kept from which.
    #[serde(default)]
    pub isolation: Box<Isolation>,
    /// What other hosts own whose packets go by the tunnel or not at all.
    #[serde(default)]
    pub encrypted: BTreeSet<Ipv4Net>,
    /// The address, of those that this host owns, under which what it sends itself enters the tunnel: the other end believes no other.
    #[serde(default)]
    pub tunnel_source: Option<Address>,
}

/// Which containers are kept from which. Those of a subnet reach their own subnet and the ones that it
/// allows; the addresses outside all of them are one subnet more, the rest. Without a subnet all reach all.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Isolation {
    /// The subnets by name; no two overlap, and none is named [`REST`].
    pub subnets: BTreeMap<String, Subnet>,
    /// The subnets that the rest reaches besides itself.
    pub rest: BTreeSet<String>,
}

/// A part of the container address space that is kept apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Subnet {
    /// Its addresses.
    pub cidr: Ipv4Net,
    /// The subnets, by name, that its containers reach besides their own.
    pub allow: BTreeSet<String>,
}

/// Name of the addresses that are in no subnet.
pub const REST: &str = "rest";

impl Isolation {
    /// The subnets whose containers reach those of `name`, itself included unless it is the rest.
    pub fn reaching(&self, name: &str) -> impl Iterator<Item = &Subnet> {
        let reaches = move |(own, subnet): &(&String, &Subnet)| *own == name || subnet.allow.contains(name);
        self.subnets.iter().filter(reaches).map(|(_, subnet)| subnet)
    }

    /// The same on hosts that keep the same apart.
    pub fn digest(&self) -> Digest {
        Digest::of(&serde_json::to_vec(self).expect("names and addresses can be written"))
    }

    /// Whether the rest reaches the containers of `name`.
    pub fn is_open(&self, name: &str) -> bool {
        name == REST || self.rest.contains(name)
    }
}

/// Whether packets from and to our links pass the forward chains of other programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Forward {
    /// They pass.
    #[default]
    Open,
    /// They pass because we amended the named chain.
    Opened(String),
    /// They are dropped by the named chain, which we can amend (Docker's `DOCKER-USER`).
    Closed(String),
    /// They are dropped by the named chain, which only its owner should amend (firewalld).
    Foreign(String),
    /// The named chain cannot be read, so that nobody knows whether it drops them.
    Unread(String),
}
