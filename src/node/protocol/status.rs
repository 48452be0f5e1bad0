//! What a node says of itself.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    addr::{Address, Prefix},
    peer::PeerName,
    state::{InterfaceId, Side, Table},
};

/// Version of the status document.
pub(in crate::node) const FORMAT_VERSION: &str = "1.0";

/// All there is to know of a host, and what it is waiting for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of this document: minor changes add, major ones break.
    pub format_version: String,
    /// Version of the program.
    pub version: String,
    /// This peer.
    pub name: PeerName,
    /// Its nickname.
    pub nickname: String,
    /// The instance it runs on, once known.
    pub instance: Option<String>,
    /// The interface that carries its traffic, once known.
    pub interface: Option<InterfaceId>,
    /// It is to be an instance of EC2; otherwise it has neither an instance nor an interface, and no route tables.
    #[serde(default = "on_ec2")]
    pub on_ec2: bool,
    /// The ring is held, our routes were read back active, a container attached now is reachable.
    pub ready: bool,
    /// The last look at every plane left nothing to do.
    pub converged: bool,
    /// What is waited for, in words, and the way out.
    pub waits: Vec<Note>,
    /// What is wrong, in words, and the way out.
    pub problems: Vec<Note>,
    /// The configuration file, as far as the daemon knows it.
    pub config: ConfigStatus,
    /// Connections to other peers.
    pub connections: Vec<ConnectionStatus>,
    /// Configured peers.
    pub targets: Vec<TargetStatus>,
    /// The address manager.
    pub ipam: IpamStatus,
    /// Attached containers.
    pub attachments: Vec<AttachmentStatus>,
    /// The block of Docker's own bridge, where it has one or is to have one.
    #[serde(default)]
    pub docker_bridge: Option<DockerBridgeStatus>,
    /// What probes between the canaries of hosts have found.
    #[serde(default)]
    pub probe: ProbeStatus,
    /// How packets get to each other host; none where Weave Net routers share the cluster.
    #[serde(default)]
    pub peer_paths: Vec<PeerPath>,
    /// The route tables, as last read; only what concerns the range. Those of IPv6 are apart, `rtb-0a1 fd00:1::/96`, and have their
    /// destinations by the IPv4 CIDRs that these go with.
    pub tables: BTreeMap<Side, Table>,
    /// How far each of them is kept.
    #[serde(default)]
    pub upkeep: BTreeMap<Side, Upkeep>,
    /// The last step taken on each thing, newest last, bounded.
    pub steps: Vec<StepStatus>,
}

/// How far a route table is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upkeep {
    /// Routes in it that its quota counts.
    pub used: usize,
    /// Routes that it may hold, if known.
    pub quota: Option<usize>,
    /// All is in it that should be.
    pub kept: bool,
    /// What is missing, in words; or why it does not come to be.
    pub missing: Vec<String>,
}

/// Something to know, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Note {
    /// What is.
    pub what: String,
    /// The way out.
    pub hint: Option<String>,
}

/// The configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// Where it is.
    pub path: String,
    /// It says something else than what is in force: it was edited and not adopted yet, or it was refused or rolled back.
    pub pending: bool,
    /// Its drop-ins that are in force.
    #[serde(default)]
    pub drop_ins: Vec<String>,
    /// SHA-256 of the text that is in force, in hexadecimal; with drop-ins of all texts, with a zero byte before each further one.
    #[serde(default)]
    pub in_force_sha256: Option<String>,
    /// Why the edited file cannot be adopted; the old one is in force.
    pub error: Option<String>,
    /// Keys whose new value needs a restart.
    pub needs_restart: Vec<String>,
    /// It is being tried: seconds until the former one comes back, unless it is confirmed.
    #[serde(default)]
    pub trial_s: Option<u64>,
}

/// A connection to another peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionStatus {
    /// The other end.
    pub address: String,
    /// Its name, once introduced.
    pub peer: Option<PeerName>,
    /// Its nickname.
    pub nickname: Option<String>,
    /// The version of weavers there, if it says so.
    #[serde(default)]
    pub version: Option<String>,
    /// We dialled.
    pub outbound: bool,
    /// The stream is encrypted.
    pub encrypted: bool,
    /// How far it is.
    pub state: ConnectionState,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    /// It is not known yet who the other end is.
    Introducing,
    /// Datagrams have not arrived yet, both ways.
    Pending,
    /// It works.
    Established,
}

impl ConnectionState {
    /// All of them, in order.
    pub const ALL: [ConnectionState; 3] =
        [ConnectionState::Introducing, ConnectionState::Pending, ConnectionState::Established];

    /// As people read it.
    pub fn word(self) -> &'static str {
        match self {
            ConnectionState::Introducing => "introducing",
            ConnectionState::Pending => "pending",
            ConnectionState::Established => "established",
        }
    }
}

/// A configured or discovered peer address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetStatus {
    /// As configured.
    pub target: String,
    /// What it is doing.
    pub state: TargetState,
    /// It is this host.
    #[serde(default)]
    pub own: bool,
    /// What went wrong last.
    pub error: Option<String>,
}

/// What a target is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetState {
    /// For its time.
    Waiting,
    /// Dialling, or being introduced.
    Attempting,
    /// There is a connection that we dialled.
    Connected,
    /// Not dialled: connected otherwise, or never again.
    Suspended,
}

impl TargetState {
    /// As people read it.
    pub fn word(self) -> &'static str {
        match self {
            TargetState::Waiting => "waiting",
            TargetState::Attempting => "attempting",
            TargetState::Connected => "connected",
            TargetState::Suspended => "suspended",
        }
    }
}

impl TargetStatus {
    /// A host that is connected by its own dialling is no longer dialled, and nothing is amiss with it. Nor with the
    /// own address, which is among the peers where all hosts have one list.
    pub fn is_missing(&self) -> bool {
        match self.state {
            TargetState::Connected => false,
            TargetState::Suspended => self.error.is_some() && !self.own,
            TargetState::Waiting | TargetState::Attempting => true,
        }
    }
}

/// The address manager.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamStatus {
    /// The container address space.
    pub range: Ipv4Net,
    /// What makes IPv6 addresses of it, where containers have some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Prefix>,
    /// `idle`, `electing`, `waiting`, `ready`, `leaving`, and the reason in words.
    pub state: String,
    /// What we own, in the fewest CIDRs.
    pub owned: Vec<Ipv4Net>,
    /// Addresses we own.
    pub owned_addresses: u32,
    /// Addresses of those in use.
    pub used: u32,
    /// Peers that own something.
    pub owners: u32,
    /// Peers that agree on who takes over from the dead; none where Weave Net routers share the cluster.
    #[serde(default)]
    pub electors: Vec<String>,
    /// How many routes lead to this host, and how few could.
    #[serde(default)]
    pub compaction: CompactionStatus,
}

/// How many routes lead to this host, and how few could.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactionStatus {
    /// Blocks move so that there are fewer routes.
    pub on: bool,
    /// Routes that lead here, in the table that has most of them.
    pub routes: usize,
    /// The same once all blocks have moved of which nobody uses an address.
    pub routes_least: usize,
    /// Why nothing moves now, if there could be fewer.
    pub waits: Option<String>,
    /// What moves next, in words.
    pub next: Option<String>,
}

/// An attached container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentStatus {
    /// The name it was attached under, or its namespace's.
    pub ident: String,
    /// Where its namespace was last found.
    pub netns: String,
    /// Its address, once it has one.
    pub address: Option<Address>,
    /// What its runtime calls it, where that is known.
    #[serde(default)]
    pub name: Option<String>,
    /// Ports of the host that lead to it, as `8080->80/tcp`.
    #[serde(default)]
    pub ports: Vec<String>,
    /// Packets can flow; otherwise what is missing.
    pub missing: Option<String>,
}

/// The block of Docker's own bridge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DockerBridgeStatus {
    /// `print` or `write`; `off` where one is held still.
    pub mode: String,
    /// The block that is held for it, once there is one.
    pub block: Option<Ipv4Net>,
    /// The address of `docker0`, if it has one.
    pub docker0: Option<Ipv4Net>,
    /// `docker0` has the block.
    pub agrees: bool,
    /// What Docker's `daemon.json` has to say, key by key, once it is known.
    pub daemon_json: Option<BTreeMap<String, Value>>,
    /// Keys that it lacks.
    pub missing: Vec<String>,
}

/// What probes between the canaries of hosts have found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeStatus {
    /// The address of this host's canary; `None`: it has none, and probes nobody.
    pub canary: Option<Address>,
    /// Each host that has a canary.
    pub paths: Vec<PathStatus>,
}

/// What probes have found of the way to another host and back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStatus {
    /// The other host.
    pub peer: PeerName,
    /// Its nickname, if known.
    pub nickname: Option<String>,
    /// What becomes of packets.
    pub state: PathState,
    /// Seconds since the first loss, where packets die.
    pub since_s: Option<u64>,
    /// Microseconds from the last probe that was answered to its reply.
    pub round_trip_us: Option<u64>,
}

/// What becomes of packets between this host and another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathState {
    /// Nothing is known yet.
    Unknown,
    /// They arrive, both ways.
    Flows,
    /// None arrives there.
    DiesOut,
    /// None arrives here.
    DiesBack,
    /// Large ones do not arrive there.
    LargeDiesOut,
    /// Large ones do not arrive here.
    LargeDiesBack,
    /// Those of IPv6 do not arrive there.
    V6DiesOut,
    /// Those of IPv6 do not arrive here.
    V6DiesBack,
}

impl PathState {
    /// Which packets are lost, and on which way (`large packets`, `to` the other host).
    pub fn lost(self) -> Option<(&'static str, &'static str)> {
        match self {
            PathState::Unknown | PathState::Flows => None,
            PathState::DiesOut => Some(("all packets", "to")),
            PathState::DiesBack => Some(("all packets", "from")),
            PathState::LargeDiesOut => Some(("large packets", "to")),
            PathState::LargeDiesBack => Some(("large packets", "from")),
            PathState::V6DiesOut => Some(("packets of IPv6", "to")),
            PathState::V6DiesBack => Some(("packets of IPv6", "from")),
        }
    }
}

/// How packets of containers get to another host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerPath {
    /// The other host.
    pub peer: PeerName,
    /// Its nickname, if known.
    pub nickname: Option<String>,
    /// By which path.
    pub path: PathKind,
    /// The address that they are handed to, where it is not the VPC's to know.
    pub via: Option<IpAddr>,
    /// The interface by which they leave then.
    pub interface: Option<String>,
    /// Why there is no path, none is known yet, or nothing is heard by it.
    pub why: Option<String>,
}

impl PeerPath {
    /// How packets get there, and why they may not, in a few words.
    pub fn by(&self) -> String {
        let way = match (self.path, &self.via, &self.interface) {
            (PathKind::Tunnel, Some(to), _) => Some(format!("to {to}")),
            (PathKind::Tunnel, None, _) => Some("to wherever it comes from".to_owned()),
            (_, Some(via), Some(interface)) => Some(format!("by {via} on {interface}")),
            (_, _, _) => None,
        };
        way.into_iter().chain(self.why.clone()).collect::<Vec<_>>().join("; ")
    }
}

/// By which path packets get to another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathKind {
    /// By the route tables of the VPC.
    Vpc,
    /// To the other host's address, on a link of this one.
    Direct,
    /// By WireGuard, to a host elsewhere.
    Tunnel,
    /// By none.
    None,
    /// That is not known yet; what there is stays as it is.
    Unknown,
}

impl PathKind {
    /// What to look at where nothing comes by a tunnel.
    pub const TUNNEL_WAY_OUT: &str = "wg show weave-tunnel; UDP paths.port must be let in on one of both, and behind a router that translates addresses \
         set paths.endpoint on the other";

    /// As people read it.
    pub fn word(self) -> &'static str {
        match self {
            PathKind::Vpc => "vpc",
            PathKind::Direct => "direct",
            PathKind::Tunnel => "tunnel",
            PathKind::None => "none",
            PathKind::Unknown => "unknown",
        }
    }
}

/// Documents of earlier versions are of hosts on EC2.
fn on_ec2() -> bool {
    true
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepStatus {
    /// The step, as in the plan.
    pub action: String,
    /// Why it was taken.
    pub cause: String,
    /// Seconds ago.
    pub age_s: u64,
    /// `done`, or the error.
    pub outcome: String,
    /// EC2's request id.
    pub request_id: Option<String>,
}

/// A piece of the ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// What it covers: one CIDR, or `first-last`.
    pub range: String,
    /// Number of addresses.
    pub size: u32,
    /// Who owns it.
    pub peer: PeerName,
    /// The owner's nickname, if known.
    pub nickname: Option<String>,
    /// Whether the owner can be reached now; ourselves always.
    pub reachable: bool,
    /// Whether it is this host's.
    #[serde(default)]
    pub own: bool,
    /// Addresses of it that are in quarantine here: nobody may use them yet.
    #[serde(default)]
    pub quarantined: u32,
    /// What is free. Of another's piece, what it told last: it tells when somebody runs short.
    pub free: u32,
}

impl Piece {
    /// Its owner as people know it.
    pub fn owner(&self) -> String {
        match &self.nickname {
            Some(nickname) => format!("{nickname} ({})", self.peer),
            None => self.peer.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_state_are_those_of_the_document() {
        for state in ConnectionState::ALL {
            assert_eq!(serde_json::json!(state), state.word());
        }
        use TargetState::{Attempting, Connected, Suspended, Waiting};
        for state in [Waiting, Attempting, Connected, Suspended] {
            assert_eq!(serde_json::json!(state), state.word());
        }
    }
}
