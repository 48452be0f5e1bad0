//! What a person, a runtime or the configuration file can ask of a node, and what it answers.
//!
//! These are the bodies of the control socket, so they are plain data.

use std::net::Ipv6Addr;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    docker::Order,
    explanation::Explanation,
    status::{Piece, Status},
};
use crate::{
    addr::Address,
    ipam::Refused,
    peer::PeerName,
    plan::Plan,
    state::{Fault, Key, Mac, Netns, Port},
};

/// Names one question, so that its answer finds the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// A question or an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // The fields say what they are.
pub enum Request {
    /// All there is to know of this host, and what it is waiting for.
    Status,
    /// The status, by looks begun and probes sent now.
    Examine,
    /// What would change, and why, by looks begun now.
    Plan,
    /// Look and converge now; answered when the plan is empty or a step is blocked.
    Apply,
    /// Answered when the node is ready.
    AwaitReady,
    /// Connect a network namespace; answered when packets can flow. `link` is the address of the link of
    /// ours that leads into it already, if one does.
    Attach { netns: Netns, link: Option<Address>, name: Option<String>, subnet: Option<Pool> },
    /// Connect an interface that a runtime asks for, as [`Wish`] says; answered when packets can flow. Where they cannot, or nobody
    /// waits any more, nothing is left. `link` is the address of the link of ours that ends in it already, if one does.
    Connect { netns: Netns, link: Option<Address>, wish: Wish },
    /// Whether the interface of this key is as it was made; by a look begun now.
    Check { key: Key, netns: Netns },
    /// Whether a container that is connected now would be reached, from what is known.
    CanConnect,
    /// Look for containers whose namespace is gone, and let go of them.
    Collect,
    /// What Docker tells us. Not asked on the control socket.
    #[serde(skip)]
    Docker(Order),
    /// Lend an address to an interface that another plugin makes in this namespace; answered when packets can flow there. Where they cannot,
    /// or nobody waits any more, it is taken back.
    Lend { netns: Netns, loan: Loan },
    /// What was lent to this key.
    Lent { key: Key },
    /// These namespaces are gone, with all that was lent there. Not said on the control socket.
    #[serde(skip)]
    LeasesGone { gone: Vec<(Key, Netns)> },
    /// Disconnect a network namespace, by itself or by the name it was attached under.
    Detach { target: Container },
    /// Who owns what.
    ShowRing,
    /// The container address space.
    Range,
    /// Whose an address is, who uses it, what carries its packets, and what is missing.
    Explain { address: Address },
    /// Keep the configuration that is being tried.
    Confirm,
    /// Hand out an address to a name that the caller chose.
    Allocate { ident: String, subnet: Option<Pool> },
    /// Hand out this address.
    Claim { ident: String, address: Address },
    /// Take back one address of a name, or all of them.
    Free { ident: String, address: Option<Address> },
    /// The addresses of a name.
    Lookup { ident: String },
    /// Take over the ranges of a peer that is gone for good, by name or nickname; `alone` without the
    /// agreement of the others, since most electors are gone for good too.
    Forget {
        peer: String,
        #[serde(default)]
        alone: bool,
    },
    /// Give all ranges away.
    Drain,
    /// Undo everything on this host, and give all ranges away.
    Reset,
}

/// What a runtime asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// What it will know it by. The interface is to be named so.
    pub key: Key,
    /// The one address that it is to have; otherwise any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// The MAC address that it is to have; otherwise one that follows from the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// The MTU of its link; otherwise that of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Where its address is to come from; otherwise the default subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Pool>,
    /// What the runtime calls the container for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Ports of the host that are to lead to it. Port 0 is one that we choose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
}

impl Wish {
    /// Nothing but what it is known by.
    pub fn of(key: Key) -> Wish {
        Wish { key, address: None, mac: None, mtu: None, subnet: None, name: None, ports: Vec::new() }
    }
}

/// What another plugin asks an address for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loan {
    /// What it will know it by.
    pub key: Key,
    /// The one address that it is to have; otherwise any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// Where the address, or the block, is to come from; otherwise the default subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Pool>,
    /// It is one of a block that the network has to itself, which has a prefix of this length; otherwise it is one of many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<u8>,
    /// What the runtime calls the container for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Where an address is to come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Pool {
    /// From this part of the range.
    Cidr(Ipv4Net),
    /// From the subnet that the configuration file calls so.
    Named(String),
}

impl From<&str> for Pool {
    fn from(text: &str) -> Pool {
        text.parse().map_or_else(|_| Pool::Named(text.to_owned()), Pool::Cidr)
    }
}

/// How a caller names an attached container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Container {
    /// By its network namespace, and by the address of the link of ours that leads into it.
    #[allow(missing_docs)]
    Netns { netns: Netns, link: Option<Address> },
    /// By the name it was attached under.
    Name(String),
}

/// What is answered when all went well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // The fields say what they are.
pub enum Response {
    /// To `Status`.
    Status(Box<Status>),
    /// To `Plan` (what would change) and `Apply` (what was changed).
    Plan(Box<Plan>),
    /// To `Attach`: the address, with the length of the container range, and the one of IPv6 if there is any.
    Attached {
        address: Ipv4Net,
        #[serde(default)]
        ipv6: Option<Ipv6Addr>,
        mtu: u32,
    },
    /// To `Connect` and `Check`.
    Connected(Connected),
    /// To `Lend` and `Lent`.
    Lent(Lent),
    /// To Docker's `Join`.
    Joined(Joined),
    /// To `ShowRing`: pieces in ascending order.
    Ring(Vec<Piece>),
    /// To `Explain`.
    Explanation(Box<Explanation>),
    /// What EC2 would carry out.
    Permissions(Vec<Permission>),
    /// What is measured, as text of Prometheus.
    Metrics(String),
    /// To `Allocate`, `Claim` and `Lookup`.
    Addresses(Vec<Ipv4Net>),
    /// To `Forget` and `Drain`: how many addresses changed hands, and to whom.
    Moved { addresses: u32, to: Option<PeerName> },
    /// To `Detach`, where nothing was attached.
    Absent,
    /// To the rest.
    Done,
}

/// An interface that a runtime asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connected {
    /// Its address.
    pub address: Address,
    /// Its address of IPv6, if it has one.
    #[serde(default)]
    pub ipv6: Option<Ipv6Addr>,
    /// The MAC address that it was made with.
    pub mac: Mac,
    /// The MTU of its link.
    pub mtu: u32,
    /// The host's end of its link.
    pub link: String,
}

/// An address that another plugin asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lent {
    /// The address, and how much of what is around it is behind the same interface, or the way back.
    pub address: Ipv4Net,
    /// The way back: an address of this host.
    pub gateway: Address,
}

/// What a container needs to know whose link Docker moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The end that is to be moved.
    pub interface: String,
    /// The container address space.
    pub range: Ipv4Net,
    /// The same of IPv6, if it has such an address.
    #[serde(default)]
    pub range6: Option<Ipv6Net>,
    /// It has no way out of that.
    pub internal: bool,
}

/// A plan that was shown, kept to be carried out as it is or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedPlan {
    /// The peer whose plan it is.
    pub node: PeerName,
    /// SHA-256 of the configuration file that it follows from.
    pub config_sha256: String,
    /// The plan.
    pub plan: Plan,
}

/// Whether EC2 would carry out a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    /// EC2's name of the call.
    pub action: String,
    /// What EC2 says.
    pub verdict: Verdict,
    /// weavers does without it.
    pub optional: bool,
    /// In words, where it is not allowed.
    pub said: Option<String>,
    /// What to add to which policy, where it is denied.
    pub statement: Option<String>,
}

/// What EC2 says of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It would go through.
    Allowed,
    /// It would not.
    Denied,
    /// It was not asked, or not answered.
    Unknown,
}

/// What is answered otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[error("{message}")]
pub struct Refusal {
    /// What a program may decide by.
    pub kind: RefusalKind,
    /// What is wrong, naming the thing.
    pub message: String,
    /// The way out, if there is one.
    pub hint: Option<String>,
}

/// What a program may decide by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The request itself cannot be right.
    Invalid,
    /// What it names does not exist.
    NotFound,
    /// It would do harm (exit code 5).
    Unsafe,
    /// It would be right at another time: the world has moved, or something else is under way (exit code 5).
    Untimely,
    /// The configuration file cannot be adopted (exit code 78).
    Config,
    /// What it asks for is somebody else's: the address, the interface.
    Taken,
    /// It could not be done.
    Failed,
    /// Nor would anything else be: packets of the containers that are there are lost, too.
    Impaired,
}

impl Refusal {
    /// A refusal without a hint.
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Refusal {
        Refusal { kind, message: message.into(), hint: None }
    }

    /// The same with a way out.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Refusal {
        Refusal { hint: Some(hint.into()), ..self }
    }

    /// As many wait as may.
    pub fn busy() -> Refusal {
        Refusal::new(RefusalKind::Failed, "too many requests wait for an answer").hint("try again later")
    }
}

/// What could not be read or changed.
impl From<&Fault> for Refusal {
    fn from(fault: &Fault) -> Refusal {
        Refusal { kind: RefusalKind::Failed, message: fault.message.clone(), hint: fault.hint.clone() }
    }
}

/// What the address manager refuses.
impl From<&Refused> for Refusal {
    fn from(refused: &Refused) -> Refusal {
        let kind = match refused {
            Refused::PeerAlive { .. } | Refused::InstanceRuns { .. } | Refused::StillInUse { .. } => {
                RefusalKind::Unsafe
            }
            Refused::NothingHeld { .. } | Refused::NotHeld { .. } | Refused::UnknownPeer { .. } => {
                RefusalKind::NotFound
            }
            Refused::InUse { .. } | Refused::OwnedByPeer { .. } => RefusalKind::Taken,
            Refused::OutOfRange { .. }
            | Refused::TooSmall { .. }
            | Refused::Reserved { .. }
            | Refused::Myself { .. } => RefusalKind::Invalid,
            Refused::Leaving
            | Refused::Exhausted { .. }
            | Refused::NoBlock { .. }
            | Refused::Avoided { .. }
            | Refused::NoRing
            | Refused::Busy { .. } => RefusalKind::Failed,
        };
        Refusal::new(kind, refused.to_string())
    }
}

/// Nothing new is promised any more.
pub(in crate::node) fn leaving() -> Refusal {
    Refusal::new(RefusalKind::Failed, "this host is leaving the cluster")
}
