//! A host: namespaces wired to the VPC's router, and the real `weavers` in them.

use std::{
    fs::{self, File},
    io::Write,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::{Command as StdCommand, ExitStatus, Output, Stdio},
    time::Duration,
};

use anyhow::Context;
use nix::{
    sched::{CloneFlags, setns, unshare},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};
use weavers::{sim::vpc::InstanceId, state::InterfaceId};

use crate::{
    fabric::{addresses6, link_name},
    net,
    standin::mac_of,
};

/// How often, and how long between, a new link is looked at until it carries packets.
const CARRIER_LOOKS_MAX: u32 = 250;
const CARRIER_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);
const LINK_MTU: u32 = 9001;
/// Control socket, in a `/run/weave` that each host has for itself.
const SOCKET: &str = "/run/weave/weavers.sock";

/// What sets one host's `weave.toml` apart from the default.
pub struct Settings<'a> {
    /// Addresses of all hosts, or a tag that they all bear.
    pub peers: Peers<'a>,
    /// The container address space.
    pub range: &'a str,
    /// MTU of the container links.
    pub mtu: u32,
    /// Time between looks.
    pub interval: &'a str,
}

/// How hosts find each other.
#[derive(Clone, Copy)]
pub enum Peers<'a> {
    /// By their addresses.
    Listed(&'a [Ipv4Addr]),
    /// By a tag, `key=value`; so many make the first ring.
    Tagged(&'a str, usize),
}

/// A host of the lab.
pub struct Host {
    /// `h1`
    pub name: String,
    /// Its private address.
    pub address: Ipv4Addr,
    /// The instance that it is.
    pub instance: InstanceId,
    /// That instance's interface.
    pub interface: InterfaceId,
    /// Configuration, state and log.
    pub dir: PathBuf,
    /// The process that keeps its namespaces.
    keeper: Child,
    daemon: Option<Child>,
}

/// The router, as the hosts of the first subnet see it.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);

/// The router, as each host sees it on its link.
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xffff);

/// The router, as a host of this address sees it: the first address of its subnet.
fn router_of(address: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, _] = address.octets();
    Ipv4Addr::new(a, b, c, 1)
}

/// Makes a host's namespaces and the link to the router; the process that keeps them.
pub async fn wire(name: &str, address: Ipv4Addr) -> anyhow::Result<Child> {
    let mut keeper = keep_namespaces(name).await?;
    let pid = keeper.id().context("the keeper of the namespaces has ended")?;
    plug_in(pid, "eth0", address).await?;
    if keeper.try_wait()?.is_some() {
        anyhow::bail!("the keeper of {name}'s namespaces has ended");
    }
    Ok(keeper)
}

/// Links a host to the router by this device, and leads its default route there.
async fn plug_in(pid: u32, device: &str, address: Ipv4Addr) -> anyhow::Result<()> {
    let (link, router) = (link_name(address), router_of(address));
    let mac = mac_of(address);
    net::ip_batch(&[
        format!(
            "link add {link} mtu {LINK_MTU} type veth peer name {device} mtu {LINK_MTU} address {mac} netns {pid}"
        ),
        format!("addr add {router}/32 dev {link}"),
        format!("link set {link} up"),
        format!("route add {address}/32 dev {link}"),
    ])
    .await?;
    net::sysctl(&format!("conf/{link}/proxy_arp"), "1")?;
    net::sysctl(&format!("neigh/{link}/proxy_delay"), "0")?;
    net::sysctl(&format!("conf/{link}/rp_filter"), "0")?;
    net::sysctl(&format!("conf/{link}/send_redirects"), "0")?;
    let lines = format!(
        "link set lo up\naddr add {address}/24 dev {device}\nlink set {device} up\n\
         route replace default via {router} dev {device}\n"
    );
    let mut ip = enter(pid);
    net::feed(ip.args(["ip", "-batch", "-"]), &lines).await?;
    await_carrier(&mut Command::new("ip"), &link).await?;
    await_carrier(enter(pid).arg("ip"), device).await
}

/// A new link drops packets for a moment. A real host's is up before anything is started on it.
pub async fn await_carrier(ip: &mut Command, link: &str) -> anyhow::Result<()> {
    ip.args(["-o", "link", "show", link]);
    for _ in 0..CARRIER_LOOKS_MAX {
        if net::run(ip).await?.contains("state UP") {
            return Ok(());
        }
        tokio::time::sleep(CARRIER_PAUSE).await;
    }
    anyhow::bail!("link {link} does not come up")
}

/// Mounts of the lab still reach the host (`ip netns` makes them), the host's own stay with it.
pub async fn keep_namespaces(name: &str) -> anyhow::Result<Child> {
    let script = format!(
        "hostname {name} && mkdir -p /run/weave /run/wireguard && mount -t tmpfs tmpfs /run/weave && \
         mount -t tmpfs tmpfs /run/wireguard && \
         {{ mount -t sysfs sysfs /sys 2>/dev/null || true; }} && echo up && exec sleep infinity"
    );
    let mut keeper = Command::new("unshare")
        .args(["--net", "--uts", "--mount", "--propagation", "slave", "sh", "-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("unshare cannot be run")?;
    let stdout = keeper.stdout.take().context("no stdout")?;
    let said = BufReader::new(stdout).lines().next_line().await?;
    anyhow::ensure!(said.as_deref() == Some("up"), "the namespaces of {name} could not be made");
    Ok(keeper)
}

/// A command that runs its arguments in the namespaces that a process keeps.
pub fn enter(pid: u32) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &pid.to_string(), "--net", "--uts", "--mount", "--"]);
    command
}

/// Runs a program in the network and mount namespaces that a process keeps, from a thread that is there: `nsenter` would take as long as
/// a plugin does.
pub fn run_inside(pid: u32, mut command: StdCommand, input: &[u8]) -> anyhow::Result<Output> {
    let namespaces = ["net", "mnt"].map(|kind| File::open(format!("/proc/{pid}/ns/{kind}")));
    // What threads share of the file system keeps them in one mount namespace.
    unshare(CloneFlags::CLONE_FS)?;
    for namespace in namespaces {
        setns(namespace?, CloneFlags::empty())?;
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("no stdin")?.write_all(input)?;
    Ok(child.wait_with_output()?)
}

impl Host {
    /// A wired host whose `weave.toml` is written and whose daemon is not started.
    pub fn new(
        name: String,
        address: Ipv4Addr,
        (instance, interface): (InstanceId, InterfaceId),
        keeper: Child,
        dir: PathBuf,
    ) -> anyhow::Result<Host> {
        fs::create_dir_all(dir.join("state")).with_context(|| format!("{} cannot be made", dir.display()))?;
        Ok(Host { name, address, instance, interface, dir, keeper, daemon: None })
    }

    /// Writes `weave.toml`.
    pub fn configure(&self, settings: &Settings<'_>) -> anyhow::Result<()> {
        let Settings { peers, range, mtu, interval } = settings;
        let (listed, tag, expected) = match peers {
            Peers::Listed(peers) => {
                let peers: Vec<String> = peers.iter().map(|peer| format!("\"{peer}\"")).collect();
                (peers.join(", "), "", String::new())
            }
            Peers::Tagged(tag, count) => (String::new(), *tag, format!("expected_peers = {count}\n")),
        };
        let text = format!(
            "peers = [{listed}]\n\n[network]\nmtu = {mtu}\n\n[ipam]\nrange = \"{range}\"\n\
             default_subnet = \"{range}\"\n{expected}\n[discovery]\nec2_tag = \"{tag}\"\n\n\
             [vpc]\nendpoint = \"http://169.254.169.254\"\n\n[reconcile]\ninterval = \"{interval}\"\n"
        );
        fs::write(self.config(), text)
            .with_context(|| format!("{} cannot be written", self.config().display()))
    }

    /// Starts the daemon; its log goes to `weavers.log`.
    pub fn start(&mut self, weavers: &Path) -> anyhow::Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.log())?;
        let mut command = self.enter()?;
        clean(&mut command).arg(weavers).arg("run").arg("--config").arg(self.config());
        command.arg("--state").arg(self.dir.join("state")).args(["--socket", SOCKET]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        self.daemon = Some(command.spawn().context("weavers cannot be started")?);
        Ok(())
    }

    /// Ends the daemon as a service manager does, or as a crash does; waits for its end.
    pub async fn end(&mut self, signal: Signal) -> anyhow::Result<Option<ExitStatus>> {
        self.signal(signal)?;
        if let Some(mut daemon) = self.daemon.take() {
            return Ok(Some(daemon.wait().await?));
        }
        Ok(None)
    }

    /// Waits until the daemon has ended by itself, and says how.
    pub async fn ended(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let daemon =
            self.daemon.as_mut().with_context(|| format!("weavers does not run on {}", self.name))?;
        let ended = tokio::time::timeout(limit, daemon.wait()).await;
        let status =
            ended.with_context(|| format!("weavers on {} still runs after {limit:?}", self.name))??;
        self.daemon = None;
        Ok(status)
    }

    /// Whether a daemon was started and not ended.
    pub fn runs(&self) -> bool {
        self.daemon.is_some()
    }

    /// The process that the daemon is, as the lab numbers it.
    pub fn daemon_pid(&self) -> anyhow::Result<u32> {
        self.daemon
            .as_ref()
            .and_then(Child::id)
            .with_context(|| format!("weavers does not run on {}", self.name))
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        // nsenter has become weavers, so this is the daemon itself.
        match self.daemon.as_ref().and_then(Child::id) {
            Some(pid) => Ok(kill(Pid::from_raw(pid.cast_signed()), signal)?),
            None => Ok(()),
        }
    }

    /// Fails if the daemon has ended by itself.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        match self.daemon.as_mut().map(Child::try_wait).transpose()?.flatten() {
            None => Ok(()),
            Some(status) => anyhow::bail!("weavers on {} has ended ({status})", self.name),
        }
    }

    /// A `weavers` command on this host, spoken to its daemon.
    pub fn weavers(&self, weavers: &Path, args: &[&str]) -> anyhow::Result<Command> {
        let mut command = self.enter()?;
        clean(&mut command).arg(weavers).args(args).args(["--socket", SOCKET]);
        Ok(command)
    }

    /// A command that runs its arguments on this host.
    pub fn enter(&self) -> anyhow::Result<Command> {
        Ok(enter(self.keeper_pid()?))
    }

    /// A second link to the router, by which from now on leaves what has no route of its own.
    pub async fn plug_in(&self, device: &str, address: Ipv4Addr) -> anyhow::Result<()> {
        plug_in(self.keeper_pid()?, device, address).await
    }

    /// Gives it addresses of IPv6 on its first link, and leads all else of IPv6 to the router.
    pub async fn add_v6(&self) -> anyhow::Result<()> {
        let (link, [link_local, own]) = (link_name(self.address), addresses6(self.address));
        net::ip_batch(&[format!("addr add {ROUTER6}/64 dev {link} nodad")]).await?;
        let lines = format!(
            "addr add {link_local}/64 dev eth0 nodad\naddr add {own}/128 dev eth0 nodad\n\
             route replace ::/0 via {ROUTER6} dev eth0\n"
        );
        net::feed(self.enter()?.args(["ip", "-batch", "-"]), &lines).await
    }

    /// The process that keeps its namespaces, as the lab numbers it.
    pub fn keeper_pid(&self) -> anyhow::Result<u32> {
        self.keeper.id().with_context(|| format!("the namespaces of {} are gone", self.name))
    }

    /// Its network namespace.
    pub fn netns(&self) -> anyhow::Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/ns/net", self.keeper_pid()?)))
    }

    /// Its control socket, as the lab reaches it.
    pub fn socket(&self) -> anyhow::Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/root{SOCKET}", self.keeper_pid()?)))
    }

    /// Where the daemon keeps what must survive a restart.
    pub fn store(&self) -> PathBuf {
        self.dir.join("state/weave.redb")
    }

    /// Where `weave.toml` is.
    pub fn config(&self) -> PathBuf {
        self.dir.join("weave.toml")
    }

    /// Where the daemon's log is.
    pub fn log(&self) -> PathBuf {
        self.dir.join("weavers.log")
    }
}

/// Nothing of the user's environment reaches weavers, least of all AWS credentials. Where the machine's kernel has no WireGuard, a
/// program takes its place.
fn clean(command: &mut Command) -> &mut Command {
    command.env_clear().env("WEAVERS_USERSPACE_WIREGUARD", "wireguard-go");
    for name in ["PATH", "RUST_LOG", "RUST_BACKTRACE"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}
