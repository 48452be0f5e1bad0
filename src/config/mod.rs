//! `weave.toml`, from text to a checked [`Config`] or every problem found in it.
//!
//! [`schema`] lists the keys; [`sources`] are the texts; `reader` walks them, `value` reads one value, `check` (with
//! `subnets`, for the tables of that name) makes a `Config` of them whose values need no second look; [`diagnostic`] is
//! how a problem is shown, [`origin`] where each value comes from.
//! Nothing here reads a file: whoever calls [`check`] has the texts.

pub mod sources;
pub mod diagnostic;
pub mod schema;
mod value;
mod reader;
pub mod origin;
mod subnets;
mod outside;
mod paths;
mod check;

use std::{
    collections::BTreeSet,
    net::{SocketAddr, SocketAddrV4},
    path::PathBuf,
    time::Duration,
};

use ipnet::Ipv4Net;
use sha2::{Digest, Sha256};

pub use self::{
    diagnostic::{Problem, Problems},
    sources::{Source, Sources},
};
use crate::{
    addr::{Prefix, Universe},
    peer::PeerName,
    state::{Isolation, SubnetId, TableId, Tables},
};

/// Reads the text of a `weave.toml` that stands alone.
pub fn parse(text: &str) -> Result<Config, Problems> {
    check(&text.into()).map(|(config, _)| config)
}

/// Reads a `weave.toml` and its drop-ins; with what is accepted but does nothing in this version.
pub fn check(sources: &Sources) -> Result<(Config, Vec<Problem>), Problems> {
    check::check(sources)
}

/// What tells one text from another: its SHA-256.
pub fn digest(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What `weave.toml` says, checked whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Hosts to dial, as written (`name`, `name:port`, `address`, `address:port`).
    pub peers: Vec<String>,
    /// `[network]`
    pub network: Network,
    /// `[ipam]`
    pub ipam: Ipam,
    /// `[discovery] ec2_tag`, split at `=`.
    pub ec2_tag: Option<(String, String)>,
    /// `[mesh]`
    pub mesh: Mesh,
    /// `[vpc]`
    pub vpc: Vpc,
    /// `[paths]`
    pub paths: Paths,
    /// `[probe]`
    pub probe: Probe,
    /// `[cni]`
    pub cni: Cni,
    /// `[docker]`
    pub docker: Docker,
    /// `[metrics] listen`: where measurements are read by HTTP; `None`: on the control socket alone.
    pub metrics: Option<SocketAddr>,
    /// `[reconcile]`
    pub reconcile: Reconcile,
}

/// `[network]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Interfaces that carry traffic between hosts; `None`: those by which the kernel sends it.
    pub uplinks: Option<BTreeSet<String>>,
    /// Whether containers are kept from the instance metadata.
    pub block_metadata: bool,
    /// MTU of the links; `None`: the uplink's.
    pub mtu: Option<u32>,
    /// What makes IPv6 addresses of the containers' IPv4 addresses; `None`: they have none.
    pub ipv6: Option<Prefix>,
}

/// `[ipam]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipam {
    /// The container address space.
    pub range: Ipv4Net,
    /// Where addresses come from unless a subnet is named; overlaps the range.
    pub default_subnet: Ipv4Net,
    /// The tables of `[[ipam.subnet]]`.
    pub isolation: Isolation,
    /// How the first ring comes to be.
    pub init: Init,
    /// Peers that the first ring waits for, this host included; `None`: those of `peers` other
    /// than this host, plus one. Only the daemon knows which of them this host is.
    pub expected_peers: Option<usize>,
    /// Whether blocks move so that there are fewer routes, and how long a host waits between two of them.
    pub compact: Option<Duration>,
}

/// How the first ring comes to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Init {
    /// By election among the peers.
    Consensus,
    /// From this list, the same on every host.
    Seed(Vec<PeerName>),
    /// By others.
    Observer,
}

/// `[mesh]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// This peer's name; `None`: from the instance, kept for life.
    pub name: Option<PeerName>,
    /// Its nickname; `None`: the host name.
    pub nickname: Option<String>,
    /// Where it listens.
    pub listen: SocketAddr,
    /// File that holds the password. The daemon reads it.
    pub password_file: Option<PathBuf>,
    /// Networks where the data plane needs no encryption.
    pub trusted_subnets: Vec<Ipv4Net>,
    /// Whether Weave Net routers share the cluster.
    pub weave_peers: bool,
}

/// `[vpc]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vpc {
    /// Where this host is.
    pub provider: Provider,
    /// How packets get to hosts of the same subnet.
    pub same_subnet: SameSubnet,
    /// Tables to keep.
    pub route_tables: RouteTables,
    /// What to do about the source/destination check.
    pub source_dest_check: SourceDestCheck,
    /// Routes a table may hold; `None`: learned from a refusal.
    pub quota: Option<usize>,
    /// Grace before a terminated host's ranges are taken over; `None`: never.
    pub reclaim: Option<Duration>,
    /// AWS region; `None`: the instance's.
    pub region: Option<String>,
    /// EC2 endpoint; `None`: the region's.
    pub endpoint: Option<String>,
}

/// Where this host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// On an instance of EC2, as its metadata say.
    Aws,
    /// Outside EC2: there are no metadata, no credentials and no route tables.
    None,
}

/// How packets get to hosts of the same subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSubnet {
    /// By the route tables, as to all others.
    Vpc,
    /// By their addresses, past the route tables, where they have it so, too.
    Direct,
}

/// Route tables to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteTables {
    /// Those of the subnets that peers live in.
    Auto,
    /// These.
    Named(BTreeSet<TableId>),
    /// Those that bear this tag, by key and value.
    Tagged(String, String),
}

impl RouteTables {
    /// Which tables to look at where peers live in these subnets.
    pub fn serving(&self, subnets: BTreeSet<SubnetId>) -> Tables {
        match self {
            RouteTables::Auto => Tables::Serving(subnets),
            RouteTables::Named(ids) => Tables::Named(ids.clone()),
            RouteTables::Tagged(key, value) => Tables::Tagged(key.clone(), value.clone()),
        }
    }
}

/// What to do about the source/destination check of the own interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceDestCheck {
    /// Turn it off.
    Disable,
    /// Say that it is on.
    Warn,
    /// Nothing.
    Ignore,
}

/// `[paths]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Whether hosts elsewhere are reached by a tunnel.
    pub tunnel: bool,
    /// The UDP port at which this host's end listens.
    pub port: u16,
    /// Where others are to send to; `None`: to where they find this host.
    pub endpoint: Option<SocketAddrV4>,
    /// Whether nothing is sent to other hosts, and taken from them, by any other path.
    pub encrypt: bool,
}

/// `[probe]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Whether this host has a canary and probes those of others.
    pub enable: bool,
}

/// `[cni]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cni {
    /// Where runtimes look for their networks; `None`: no file is written for them.
    pub conf_dir: Option<PathBuf>,
    /// Where Nomad does.
    pub nomad_conf_dir: Option<PathBuf>,
    /// Plugins that come after ours, in this order.
    pub plugins: Vec<String>,
}

/// `[docker]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Docker {
    /// Where Docker finds its plugin.
    pub plugin: Plugin,
    /// Docker's own socket.
    pub socket: PathBuf,
    /// Whether `docker0` has a block of addresses of this host.
    pub bridge: Bridge,
    /// The length of that block's prefix.
    pub bridge_len: u8,
    /// Docker's own configuration file.
    pub daemon_json: PathBuf,
}

/// Whether `docker0` has a block of addresses of this host, and who tells Docker so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bridge {
    /// It has none.
    Off,
    /// It has one, and somebody else writes Docker's file.
    Print,
    /// It has one, and we write the file.
    Write,
}

impl Bridge {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Bridge::Off => "off",
            Bridge::Print => "print",
            Bridge::Write => "write",
        }
    }
}

/// Where Docker finds its plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// At the usual place, if there is a Docker.
    Auto,
    /// Nowhere.
    Off,
    /// Here.
    At(PathBuf),
}

/// `[reconcile]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reconcile {
    /// Time between looks when nothing happens.
    pub interval: Duration,
    /// What an edited file does.
    pub on_change: OnChange,
}

/// What an edited file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnChange {
    /// It is validated and shown as pending.
    Notice,
    /// It is adopted.
    Apply,
}

/// What an empty file says.
impl Default for Config {
    fn default() -> Config {
        parse("").expect("an empty file has no problem")
    }
}

impl Config {
    /// All addresses that containers may have.
    pub fn universe(&self) -> Universe {
        Universe { prefix: self.network.ipv6, ..self.ipam.range.into() }
    }

    /// Keys whose value differs in `new` and is only read at the start.
    pub fn needs_restart(&self, new: &Config) -> Vec<&'static str> {
        let (seed, seed_new) = (self.ipam.init.seed(), new.ipam.init.seed());
        let same = [
            ("ipam.range", self.ipam.range == new.ipam.range),
            ("ipam.init", self.ipam.init.word() == new.ipam.init.word()),
            ("ipam.seed", seed == seed_new),
            ("mesh.name", self.mesh.name == new.mesh.name),
            ("mesh.nickname", self.mesh.nickname == new.mesh.nickname),
            ("mesh.listen", self.mesh.listen == new.mesh.listen),
            ("mesh.password_file", self.mesh.password_file == new.mesh.password_file),
            ("mesh.weave_peers", self.mesh.weave_peers == new.mesh.weave_peers),
            ("vpc.provider", self.vpc.provider == new.vpc.provider),
            ("paths.tunnel", self.paths.tunnel == new.paths.tunnel),
            ("docker.plugin", self.docker.plugin == new.docker.plugin),
            ("docker.socket", self.docker.socket == new.docker.socket),
        ];
        same.into_iter().filter(|(_, same)| !same).map(|(key, _)| key).collect()
    }

    /// Whether this host is on EC2, so that metadata, credentials and route tables are needed.
    pub fn is_on_ec2(&self) -> bool {
        self.vpc.provider == Provider::Aws
    }

    /// Whether it is looked for which route tables there are to keep.
    pub fn finds_tables(&self) -> bool {
        self.is_on_ec2() && self.vpc.route_tables == RouteTables::Auto
    }

    /// What is in force once a running daemon has adopted this: what needs a restart stays as it is.
    pub fn adopted_by(self, running: &Config) -> Config {
        let same_range = self.ipam.range == running.ipam.range;
        let subnet = if same_range { &self.ipam } else { &running.ipam };
        let (default_subnet, isolation) = (subnet.default_subnet, subnet.isolation.clone());
        // Where the key is missing the number follows from `peers`, as it did at the start.
        let expected_peers = self.ipam.expected_peers.or(running.ipam.expected_peers);
        let ipam = Ipam { default_subnet, isolation, expected_peers, ..running.ipam.clone() };
        let mesh = Mesh { trusted_subnets: self.mesh.trusted_subnets.clone(), ..running.mesh.clone() };
        let Docker { plugin, socket, .. } = running.docker.clone();
        let docker = Docker { plugin, socket, ..self.docker.clone() };
        let vpc = Vpc { provider: running.vpc.provider, ..self.vpc.clone() };
        let paths = Paths { tunnel: running.paths.tunnel, ..self.paths.clone() };
        Config { ipam, mesh, docker, vpc, paths, ..self }
    }
}

impl Init {
    /// The word for it in the file.
    pub fn word(&self) -> &'static str {
        match self {
            Init::Consensus => "consensus",
            Init::Seed(_) => "seed",
            Init::Observer => "observer",
        }
    }

    fn seed(&self) -> &[PeerName] {
        match self {
            Init::Seed(names) => names,
            Init::Consensus | Init::Observer => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{schema::KEYS, *};

    #[test]
    fn a_key_that_needs_a_restart_is_one_that_the_schema_says_is_not_live() {
        let old = Config::default();
        let text = r#"
            [ipam]
            range = "10.0.0.0/8"
            init = "seed"
            seed = ["::1"]
            [mesh]
            name = "02:00:00:00:00:01"
            nickname = "one"
            listen = "127.0.0.1:6783"
            password_file = "/etc/weave/password"
            weave_peers = true
            [docker]
            plugin = "off"
            socket = "/var/run/other.sock"
        "#;
        // Where Weave Net routers are there is nobody outside EC2, and no tunnel.
        let outside =
            "vpc.provider = 'none'\npaths.tunnel = 'on'\nmesh.password_file = '/etc/weave/password'";
        let [new, outside] = [text, outside].map(|text| parse(text).unwrap());
        let restarts = [&new, &outside].map(|new| old.needs_restart(new));
        let named: BTreeSet<_> = restarts.into_iter().flatten().collect();
        let not_live: BTreeSet<_> = KEYS.iter().filter(|key| !key.live).map(|key| key.path).collect();
        assert_eq!(named, not_live);
    }

    #[test]
    fn what_is_live_needs_no_restart() {
        let new = parse("peers = ['a']\nnetwork.mtu = 9000\nreconcile.interval = '1m'").unwrap();
        assert!(Config::default().needs_restart(&new).is_empty());
    }
}
