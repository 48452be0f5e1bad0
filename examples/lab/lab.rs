//! The lab as a scenario sees it: hosts, containers, and what can be done with them.

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr},
    ops::Range,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use ipnet::Ipv4Net;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::{net::TcpListener, process::Command, sync::watch, time::sleep};
use weavers::{
    sim::vpc::{Action, Caller, InstanceId, Power, SubnetId, Vpc},
    state::{InterfaceId, TableId},
    time::Timestamp,
};

use crate::{
    Options,
    enclosure::{Entry, script},
    fabric,
    host::{self, Host, Peers, Settings},
    net,
    report::Ping,
    scenario::Scenario,
    site::Site,
    standin::Cloud,
};

/// The container address space, where the scenario does not choose another.
pub const RANGE: &str = "10.32.0.0/12";
const POLL: Duration = Duration::from_millis(50);
const FABRIC_TIMEOUT: Duration = Duration::from_secs(5);
const LOG_TAIL_LINES: usize = 30;

/// A VPC, its hosts and their containers.
pub struct Lab {
    /// How it was called for.
    pub options: Options,
    /// How often a host looks again when nothing happens.
    pub interval: String,
    /// EC2 and the metadata service.
    pub cloud: Cloud,
    /// The hosts, in order.
    pub hosts: Vec<Host>,
    /// The containers, in the order of their attachment.
    pub containers: Vec<Container>,
    /// The container address space.
    pub range: Ipv4Net,
    /// The subnet that hosts are made in.
    pub subnet: SubnetId,
    /// The table of that subnet.
    pub table: TableId,
    dir: PathBuf,
    entry: Entry,
    weavers: PathBuf,
    /// The version of the model that the router has.
    applied: watch::Receiver<u64>,
}

/// A network namespace that is attached to a host.
#[derive(Clone, Debug)]
pub struct Container {
    /// `h1c1`
    pub name: String,
    /// Index of its host.
    pub host: usize,
    /// Its namespace.
    pub netns: PathBuf,
    /// The address it was given.
    pub address: Ipv4Addr,
}

/// A network namespace that is attached to nothing yet.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// `h1c1`
    pub name: String,
    /// Where it is mounted.
    pub path: PathBuf,
}

impl Lab {
    /// The router with the stand-in, and as many hosts as asked for; no daemon runs yet.
    pub async fn build(
        options: Options,
        scenario: &Scenario,
        dir: PathBuf,
        entry: Entry,
    ) -> anyhow::Result<Lab> {
        let weavers = find_weavers(&options)?;
        build_router().await?;
        let now = Timestamp::ZERO;
        let mut vpc = Vpc::new("10.0.0.0/16".parse()?, "eu-central-1");
        let subnet = vpc.add_subnet(now, "10.0.1.0/24".parse()?, "eu-central-1a");
        let table = vpc.add_table(now);
        vpc.associate(now, &subnet, Some(&table));
        let cloud = Cloud::new(vpc);
        let listener = TcpListener::bind(("169.254.169.254", 80)).await.context("169.254.169.254:80")?;
        tokio::spawn(cloud.clone().serve(listener));
        let (applying, applied) = watch::channel(0);
        tokio::spawn(fabric::follow(cloud.clone(), applying));
        let (hosts, containers, range) = (Vec::new(), Vec::new(), RANGE.parse()?);
        let interval = options.interval.clone().unwrap_or_else(|| scenario.interval.to_owned());
        let mut lab = Lab {
            options,
            interval,
            cloud,
            hosts,
            containers,
            range,
            subnet,
            table,
            dir,
            entry,
            weavers,
            applied,
        };
        for _ in 0..lab.options.hosts.unwrap_or(scenario.hosts) {
            lab.add_host().await?;
        }
        lab.configure()?;
        Ok(lab)
    }

    // ===== hosts =====

    /// One more host, wired to the router; its index.
    pub async fn add_host(&mut self) -> anyhow::Result<usize> {
        self.add_host_in(&self.subnet.clone()).await
    }

    /// One more host in this subnet; its index.
    pub async fn add_host_in(&mut self, subnet: &SubnetId) -> anyhow::Result<usize> {
        let index = self.hosts.len();
        let (name, address) = (format!("h{}", index + 1), self.address_of(index, subnet)?);
        let keeper = host::wire(&name, address).await?;
        let made = self.cloud.with(|vpc, now| {
            let made = vpc.launch(now, subnet, address);
            vpc.tag_instance(now, &made.0, "Name", &name);
            let extra = [Action::ModifyNetworkInterfaceAttribute, Action::ModifyInstanceAttribute];
            vpc.permit(&Caller::Instance(made.0.clone()), extra);
            made
        });
        let dir = self.dir.join("hosts").join(&name);
        let host = Host::new(name, address, made, keeper, dir)?;
        self.write_script(&host)?;
        self.hosts.push(host);
        Ok(index)
    }

    /// One more host, there and not in the VPC; its index.
    pub async fn add_host_outside(&mut self, site: Site) -> anyhow::Result<usize> {
        let index = self.hosts.len();
        let number = u8::try_from(index + 1).context("too many hosts")?;
        let (name, address) = (format!("h{number}"), site.address_of(10 + number));
        let keeper = site.wire(&name, address).await?;
        let made = (InstanceId("none".to_owned()), InterfaceId("none".to_owned()));
        let dir = self.dir.join("hosts").join(&name);
        let host = Host::new(name, address, made, keeper, dir)?;
        self.write_script(&host)?;
        self.hosts.push(host);
        Ok(index)
    }

    /// Gives a host a second interface, in this subnet, that its traffic goes by.
    pub async fn add_interface(&mut self, host: usize, subnet: &SubnetId) -> anyhow::Result<()> {
        let address = self.address_of(host, subnet)?;
        self.hosts[host].plug_in("eth1", address).await?;
        let instance = self.hosts[host].instance.clone();
        self.hosts[host].interface =
            self.cloud.with(|vpc, now| vpc.attach_interface(now, &instance, subnet, address));
        Ok(())
    }

    /// Detaches a host's second interface: its routes become blackholes, and its link is gone.
    pub async fn detach_interface(&mut self, host: usize) -> anyhow::Result<()> {
        let interface = self.hosts[host].interface.clone();
        self.cloud.with(|vpc, now| vpc.detach_interface(now, &interface));
        self.settle().await?;
        net::run(self.hosts[host].enter()?.args(["ip", "link", "del", "eth1"])).await.map(|_| ())
    }

    fn address_of(&self, host: usize, subnet: &SubnetId) -> anyhow::Result<Ipv4Addr> {
        let number = u8::try_from(host + 1).context("too many hosts")?;
        let cidr = self.cloud.with(|vpc, _| vpc.subnets().get(subnet).map(|subnet| subnet.cidr));
        let [a, b, c, _] = cidr.context("no such subnet")?.network().octets();
        Ok(Ipv4Addr::new(a, b, c, 10 + number))
    }

    /// Writes every host's `weave.toml`, with all hosts as peers.
    pub fn configure(&self) -> anyhow::Result<()> {
        let peers: Vec<Ipv4Addr> = self.hosts.iter().map(|host| host.address).collect();
        let (mtu, interval) = (self.options.mtu, self.interval.as_str());
        let settings =
            Settings { peers: Peers::Listed(&peers), range: &self.range.to_string(), mtu, interval };
        self.hosts.iter().try_for_each(|host| host.configure(&settings))
    }

    /// Writes every host's `weave.toml` so that they find each other by a tag; so many make the first ring.
    pub fn configure_by_tag(&self, tag: &str, expected: usize) -> anyhow::Result<()> {
        let (mtu, interval) = (self.options.mtu, self.interval.as_str());
        let peers = Peers::Tagged(tag, expected);
        let settings = Settings { peers, range: &self.range.to_string(), mtu, interval };
        self.hosts.iter().try_for_each(|host| host.configure(&settings))
    }

    /// Gives a host's instance a tag.
    pub fn tag_host(&self, host: usize, key: &str, value: &str) {
        let instance = &self.hosts[host].instance;
        self.cloud.with(|vpc, now| vpc.tag_instance(now, instance, key, value));
    }

    /// Starts a host's daemon.
    pub fn start_host(&mut self, host: usize) -> anyhow::Result<()> {
        let weavers = self.weavers.clone();
        self.hosts[host].start(&weavers)
    }

    /// Starts another binary as a host's daemon.
    pub fn start_host_with(&mut self, host: usize, weavers: &Path) -> anyhow::Result<()> {
        self.hosts[host].start(weavers)
    }

    /// The weavers binary that hosts run.
    pub fn binary(&self) -> &Path {
        &self.weavers
    }

    /// Whether it is root on the machine, and not in a user namespace.
    pub fn is_root(&self) -> bool {
        !self.entry.user_namespace
    }

    /// Where files of the lab may lie.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Stops a host's daemon as a service manager does; the data path stays.
    #[allow(dead_code)] // For scenarios.
    pub async fn stop_host(&mut self, host: usize) -> anyhow::Result<()> {
        let status = self.hosts[host].end(Signal::SIGTERM).await?;
        ensure!(
            status.is_none_or(|status| status.success()),
            "weavers on h{} ended with {status:?}",
            host + 1
        );
        Ok(())
    }

    /// Kills a host's daemon.
    #[allow(dead_code)] // For scenarios.
    pub async fn kill_host(&mut self, host: usize) -> anyhow::Result<()> {
        self.hosts[host].end(Signal::SIGKILL).await.map(|_| ())
    }

    /// Terminates a host's instance: its daemon is gone, its interface too, its routes stay as blackholes.
    #[allow(dead_code)] // For scenarios.
    pub async fn terminate_host(&mut self, host: usize) -> anyhow::Result<()> {
        self.hosts[host].end(Signal::SIGKILL).await?;
        let instance = self.hosts[host].instance.clone();
        self.cloud.with(|vpc, now| vpc.set_power(now, &instance, Power::Terminated));
        Ok(())
    }

    /// Starts all daemons and waits until the last is ready; how long that took.
    pub async fn start_all(&mut self) -> anyhow::Result<Duration> {
        self.start_hosts(0..self.hosts.len()).await
    }

    /// The same on some hosts.
    pub async fn start_hosts(&mut self, hosts: Range<usize>) -> anyhow::Result<Duration> {
        self.settle().await?;
        let start = Instant::now();
        for host in hosts.clone() {
            self.start_host(host)?;
        }
        for host in hosts {
            self.await_ready(host).await?;
        }
        Ok(start.elapsed())
    }

    /// Waits until a host says that it is ready.
    pub async fn await_ready(&mut self, host: usize) -> anyhow::Result<()> {
        let limit = Duration::from_secs(self.options.timeout);
        let waiting = async {
            loop {
                self.hosts[host].check_alive()?;
                let mut command = self.hosts[host].weavers(&self.weavers, &["status", "--wait", "ready"])?;
                if net::output(&mut command).await?.status.success() {
                    return Ok(());
                }
                sleep(POLL).await;
            }
        };
        match tokio::time::timeout(limit, waiting).await {
            Ok(result) => result,
            Err(_) => {
                let status =
                    self.weavers(host, &["status"]).await.unwrap_or_else(|error| format!("{error:#}"));
                bail!("h{} is not ready after {limit:?}:\n{status}", host + 1)
            }
        }
    }

    /// Runs `weavers` on a host; what it prints.
    pub async fn weavers(&self, host: usize, args: &[&str]) -> anyhow::Result<String> {
        net::run(&mut self.command(host, args)?).await
    }

    /// A `weavers` command on a host.
    pub fn command(&self, host: usize, args: &[&str]) -> anyhow::Result<Command> {
        self.hosts[host].weavers(&self.weavers, args)
    }

    /// A host's `weavers status --json`.
    pub async fn status(&self, host: usize) -> anyhow::Result<Value> {
        let text = self.weavers(host, &["status", "--json"]).await?;
        serde_json::from_str(&text).with_context(|| format!("the status of h{} is not JSON", host + 1))
    }

    // ===== containers =====

    /// Makes a network namespace and attaches it to a host; its index.
    pub async fn attach(&mut self, host: usize) -> anyhow::Result<usize> {
        self.attach_with(host, &[]).await
    }

    /// The same with more arguments.
    pub async fn attach_with(&mut self, host: usize, more: &[&str]) -> anyhow::Result<usize> {
        let netns = self.make_netns(host).await?;
        let path = netns.path.to_string_lossy().into_owned();
        self.weavers(host, &[&["attach", path.as_str()], more].concat()).await?;
        self.adopt(host, netns).await
    }

    /// A network namespace that is attached to nothing yet.
    pub async fn make_netns(&self, host: usize) -> anyhow::Result<Namespace> {
        let name = |number| format!("{}c{number}", self.hosts[host].name);
        let is_free = |name: &String| !Path::new("/run/netns").join(name).exists();
        let name = (1..).map(name).find(is_free).context("numbers do not end")?;
        net::run(Command::new("ip").args(["netns", "add", &name])).await?;
        net::run(Command::new("ip").args(["-n", &name, "link", "set", "lo", "up"])).await?;
        Ok(Namespace { path: Path::new("/run/netns").join(&name), name })
    }

    /// An attached namespace becomes one of the containers; its index.
    pub async fn adopt(&mut self, host: usize, Namespace { name, path }: Namespace) -> anyhow::Result<usize> {
        let address = self.address_in(&name).await?;
        self.containers.push(Container { name, host, netns: path, address });
        Ok(self.containers.len() - 1)
    }

    /// The address that a namespace was given inside the range.
    pub async fn address_in(&self, netns: &str) -> anyhow::Result<Ipv4Addr> {
        let text = net::run(Command::new("ip").args(["-n", netns, "-4", "-o", "addr"])).await?;
        let words = text.split_whitespace().filter_map(|word| word.split('/').next()?.parse().ok());
        let mut inside = words.filter(|address: &Ipv4Addr| self.range.contains(address));
        inside.next().with_context(|| format!("{netns} was given no address inside {}: {text}", self.range))
    }

    /// Pings one container from another, with packets as large as the MTU and never in fragments.
    pub async fn ping(&self, from: usize, to: usize) -> anyhow::Result<Ping> {
        self.ping_with(from, to, self.options.mtu).await
    }

    /// The same with packets of this many bytes.
    pub async fn ping_with(&self, from: usize, to: usize, bytes: u32) -> anyhow::Result<Ping> {
        let output = self.knock(from, self.containers[to].address.into(), bytes).await?;
        let (from, to) = (&self.containers[from], &self.containers[to]);
        let text = String::from_utf8_lossy(&output.stdout);
        let rtt_us = text.split("time=").skip(1).filter_map(rtt_us).min();
        let ok = output.status.success() && text.contains(" 0% packet loss");
        let said =
            if ok { String::new() } else { format!("{text}{}", String::from_utf8_lossy(&output.stderr)) };
        Ok(Ping { from: from.name.clone(), to: to.name.clone(), ok, rtt_us, said })
    }

    /// Sends one packet of this many bytes from a container to an address, never in fragments: what `ping` says of it.
    pub async fn knock(&self, from: usize, to: IpAddr, bytes: u32) -> anyhow::Result<Output> {
        let headers = if to.is_ipv4() { 20 + 8 } else { 40 + 8 };
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.containers[from].netns.display()));
        command.args(["ping", "-n", "-M", "do", "-c", "1", "-W", "2"]);
        net::output(command.args(["-s", &(bytes - headers).to_string(), &to.to_string()])).await
    }

    /// Pings every container from every other. No two at once from one container: each `ping` is handed the
    /// answers to all, and more of this size than fit its buffer while the machine is busy.
    pub async fn ping_all(&self) -> anyhow::Result<Vec<Ping>> {
        self.settle().await?;
        let count = self.containers.len();
        let mut pings = Vec::new();
        for step in 1..count {
            let round = (0..count).map(|from| self.ping(from, (from + step) % count));
            pings.push(futures_util::future::try_join_all(round).await?);
        }
        Ok((0..count).flat_map(|from| pings.iter().map(move |round| round[from].clone())).collect())
    }

    // ===== the VPC =====

    /// Waits until the router does what the route tables say.
    pub async fn settle(&self) -> anyhow::Result<()> {
        let version = self.cloud.with(|vpc, _| vpc.version());
        let mut applied = self.applied.clone();
        let reached = tokio::time::timeout(FABRIC_TIMEOUT, applied.wait_for(|&at| at >= version));
        reached.await.context("the router does not follow the VPC")??;
        Ok(())
    }

    /// EC2 calls of the hosts so far, by action.
    pub fn calls(&self) -> std::collections::BTreeMap<Action, u64> {
        self.cloud.with(|vpc, _| vpc.calls())
    }

    // ===== people =====

    /// The last lines of every daemon's log.
    pub fn log_tails(&self) -> String {
        let mut text = String::new();
        for host in &self.hosts {
            let log = fs::read_to_string(host.log()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
            let _ = write!(text, "--- {} ---\n{}\n", host.log().display(), tail.join("\n"));
        }
        text
    }

    /// How a person gets into a host.
    pub fn how_to_enter(&self) -> String {
        let dir = self.dir.display();
        format!(
            "\nThe lab is up until ctrl-C. From another shell, without an argument for a shell on the host:\n  \
             {dir}/h1 weavers status\n  \
             {dir}/h1 ip netns exec h1c1 ping ADDRESS\n  \
             {dir}/h1 curl -s http://169.254.169.254/lab/state     more: examples/lab/standin/control.rs\n\
             {dir}/hosts/h1/ holds weave.toml, state and log.\n\nWorth typing:\n  \
             {dir}/h1 weavers ipam map                              who owns which addresses\n  \
             {dir}/h1 weavers explain ADDRESS                       of a container on h2: what carries its packets\n  \
             {dir}/h1 ip link del LINK; {dir}/h1 weavers status     a link of `ip link`: it is back\n  \
             {dir}/h1 weavers doctor                                what is wrong, why, what to type\n  \
             {dir}/h1 weavers report --html > report.html           all of it as one page\n"
        )
    }

    /// A script in the lab's directory that runs a command on a host.
    fn write_script(&self, host: &Host) -> anyhow::Result<()> {
        let tools = self.weavers.parent().context("weavers has no directory")?;
        // So that commands work on a host as they are written for one.
        let files = self.dir.join("hosts").join(&host.name);
        let steps = format!(
            "nsenter --target {} --net --uts --mount -- env WEAVERS_CONFIG={config} WEAVERS_STATE={state}",
            host.keeper_pid()?,
            config = files.join("weave.toml").display(),
            state = files.join("state").display(),
        );
        let path = self.dir.join(&host.name);
        fs::write(&path, script(&self.entry, tools, &steps))?;
        Ok(fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?)
    }
}

/// Our own network namespace becomes the router.
async fn build_router() -> anyhow::Result<()> {
    net::ip_batch(&["link set lo up".to_owned(), "addr add 169.254.169.254/32 dev lo".to_owned()]).await?;
    net::sysctl("ip_forward", "1")?;
    net::sysctl("conf/all/rp_filter", "0")?;
    net::sysctl("conf/all/send_redirects", "0")?;
    // The first one makes /run/netns a shared mount, which hosts made later follow.
    net::run(Command::new("ip").args(["netns", "add", "first"])).await?;
    net::run(Command::new("ip").args(["netns", "del", "first"])).await?;
    Ok(())
}

/// `weavers` is built beside the lab: `target/debug/examples/lab`, `target/debug/weavers`.
fn find_weavers(options: &Options) -> anyhow::Result<PathBuf> {
    let beside = || {
        let lab = std::env::current_exe().ok()?;
        Some(lab.parent()?.parent()?.join("weavers"))
    };
    let path = options.weavers.clone().or_else(beside).context("no weavers binary")?;
    ensure!(path.is_file(), "{} is not there: build it, or name it with --weavers", path.display());
    fs::canonicalize(&path).with_context(|| format!("{} cannot be found", path.display()))
}

/// `0.123 ms ...` in microseconds.
fn rtt_us(text: &str) -> Option<u64> {
    let ms: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some((ms * 1000.0).round() as u64)
}
