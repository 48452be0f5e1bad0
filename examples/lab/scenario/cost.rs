//! What a container costs where many are already, beside Debian's CNI plugins `bridge` and `host-local` in the same run.
//!
//! Theirs is a process for each call, as runtimes call it. Ours is a call of the control socket, and the command line beside it.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use tokio::{io::AsyncWriteExt, time::sleep};
use weavers::api::{ApiRequest, client};

use crate::{lab::Lab, net, report::Report};

/// Containers that are there already, where nothing else is asked for. A bridge has 1,023 ports, and those that are measured need some.
const SIZES: [usize; 4] = [0, 100, 300, 800];
/// Calls one after the other, of which the median is told.
const CALLS: usize = 50;
/// Calls by several callers at once, of which the rate is told.
const BURST: usize = 200;
const CALLERS: usize = 8;
/// The host without a daemon, on which the plugins work.
const BARE: usize = 2;
const PATIENCE: Duration = Duration::from_secs(60);
/// Before and while nothing is done.
const CALM: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(60);
/// Ticks a second of the times in `/proc/PID/stat`, the same on every Linux that EC2 offers.
const TICKS: f64 = 100.0;
const PLUGINS: &str = "/usr/lib/cni";

/// Who connects containers.
#[derive(Clone, Copy)]
enum By {
    Socket,
    CommandLine,
    Plugins,
}

#[derive(Clone, Copy)]
enum Verb {
    Add,
    Del,
}

/// Measures at each size, and prints a line for each.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    ensure!(Path::new(PLUGINS).join("bridge").is_file(), "apt-get install containernetworking-plugins");
    let ready = lab.start_hosts(0..BARE).await?;
    let bench = Bench { lab: &*lab, conf: conf(lab.dir())? };
    let mut sizes = lab.options.containers.clone();
    if sizes.is_empty() {
        sizes = SIZES.to_vec();
    }
    let mut text =
        "containers there   attach: socket     CLI    CNI   ratio   eight at once: socket    CNI  ratio   \
                    detach: socket    CNI  ratio   idle CPU   memory\n"
            .to_owned();
    let mut there = 0;
    for size in sizes {
        for by in [By::Socket, By::Plugins] {
            let names = bench.namespaces(by, "base", there..size).await?;
            bench.at_once(by, Verb::Add, &names).await?;
        }
        there = there.max(size);
        let line = bench.measure(size).await?;
        eprint!("{line}");
        text += &line;
    }
    crate::report::print(&text);
    Ok(Report { ready, ..Report::default() })
}

/// The configuration of a bridge with addresses by host-local, and nothing that costs more.
fn conf(dir: &Path) -> anyhow::Result<String> {
    let data = dir.join("cni");
    fs::create_dir_all(&data)?;
    let ipam = serde_json::json!({ "type": "host-local", "subnet": "10.200.0.0/16", "dataDir": data });
    let conf = serde_json::json!({
        "cniVersion": "1.0.0", "name": "bench", "type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": ipam,
    });
    Ok(conf.to_string())
}

struct Bench<'a> {
    lab: &'a Lab,
    conf: String,
}

impl Bench<'_> {
    /// One line of the table.
    async fn measure(&self, size: usize) -> anyhow::Result<String> {
        let mut singles = Vec::new();
        for by in [By::Socket, By::CommandLine, By::Plugins] {
            let names = self.namespaces(by, "one", 0..CALLS).await?;
            singles.push(self.one_by_one(by, Verb::Add, &names).await?);
            self.one_by_one(by, Verb::Del, &names).await?;
            remove(&names).await?;
        }
        let mut rates = Vec::new();
        for by in [By::Socket, By::Plugins] {
            let names = self.namespaces(by, "burst", 0..BURST).await?;
            let add = self.at_once(by, Verb::Add, &names).await?;
            let del = self.at_once(by, Verb::Del, &names).await?;
            rates.push((add, del));
            remove(&names).await?;
        }
        let (cpu, memory) = self.idle().await?;
        let [socket, cli, cni] = singles[..] else { unreachable!("three were measured") };
        let [(add, del), (cni_add, cni_del)] = rates[..] else { unreachable!("two were measured") };
        let mut line = String::new();
        writeln!(
            line,
            "{size:16} {:13.1} ms {:4.1} ms {:3.1} ms {:6.2}   {add:20.0}/s {cni_add:4.0}/s {:5.2} {del:14.0}/s {cni_del:4.0}/s {:5.2} {cpu:9.2} % {memory:5.1} MB",
            ms(socket),
            ms(cli),
            ms(cni),
            ms(cni) / ms(socket),
            add / cni_add,
            del / cni_del,
        )?;
        Ok(line)
    }

    /// Namespaces, made and attached to nothing.
    async fn namespaces(
        &self,
        by: By,
        kind: &str,
        of: std::ops::Range<usize>,
    ) -> anyhow::Result<Vec<String>> {
        let side = match by {
            By::Socket => "ours",
            By::CommandLine => "cli",
            By::Plugins => "cni",
        };
        let names: Vec<String> = of.map(|number| format!("{side}-{kind}-{number}")).collect();
        let lines: Vec<String> = names.iter().map(|name| format!("netns add {name}")).collect();
        if !lines.is_empty() {
            net::ip_batch(&lines).await?;
        }
        Ok(names)
    }

    /// The median of calls that follow each other.
    async fn one_by_one(&self, by: By, verb: Verb, names: &[String]) -> anyhow::Result<Duration> {
        let mut took = Vec::new();
        for name in names {
            let begun = Instant::now();
            self.call(by, verb, name).await?;
            took.push(begun.elapsed());
        }
        took.sort();
        Ok(took[took.len() / 2])
    }

    /// Calls a second where several callers have one under way each.
    async fn at_once(&self, by: By, verb: Verb, names: &[String]) -> anyhow::Result<f64> {
        let begun = Instant::now();
        let queue = std::cell::RefCell::new(names.iter().collect::<VecDeque<_>>());
        let caller = async || {
            loop {
                let Some(name) = queue.borrow_mut().pop_front() else { return anyhow::Ok(()) };
                self.call(by, verb, name).await?;
            }
        };
        try_join_all((0..CALLERS).map(|_| caller())).await?;
        Ok(names.len() as f64 / begun.elapsed().as_secs_f64())
    }

    async fn call(&self, by: By, verb: Verb, name: &str) -> anyhow::Result<()> {
        let target = path(name).to_string_lossy().into_owned();
        match (by, verb) {
            (By::Socket, Verb::Add) => {
                self.ask(ApiRequest::AttachTarget { target, name: None, subnet: None }).await
            }
            (By::Socket, Verb::Del) => self.ask(ApiRequest::DetachTarget { target }).await,
            (By::CommandLine, Verb::Add) => self.lab.weavers(0, &["attach", &target]).await.map(drop),
            (By::CommandLine, Verb::Del) => self.lab.weavers(0, &["detach", &target]).await.map(drop),
            (By::Plugins, verb) => self.plugin(verb, name, &target).await,
        }
    }

    async fn ask(&self, request: ApiRequest) -> anyhow::Result<()> {
        let socket = self.lab.hosts[0].socket()?;
        client::call(&socket, &request, PATIENCE).await.map(drop).with_context(|| format!("{request:?}"))
    }

    /// On a host where no daemon of ours runs.
    async fn plugin(&self, verb: Verb, name: &str, netns: &str) -> anyhow::Result<()> {
        let verb = match verb {
            Verb::Add => "ADD",
            Verb::Del => "DEL",
        };
        let mut command = self.lab.hosts[BARE].enter()?;
        command.arg(Path::new(PLUGINS).join("bridge")).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", name).env("CNI_NETNS", netns);
        command.env("CNI_IFNAME", "eth0").env("CNI_PATH", PLUGINS);
        let mut child = command.spawn()?;
        child.stdin.take().context("no stdin")?.write_all(self.conf.as_bytes()).await?;
        let output = child.wait_with_output().await?;
        ensure!(output.status.success(), "{verb} {name}: {}", String::from_utf8_lossy(&output.stdout));
        Ok(())
    }

    /// Percents of a core that the daemon takes while nothing happens, and what it keeps in memory of its own, in MB.
    async fn idle(&self) -> anyhow::Result<(f64, f64)> {
        sleep(CALM).await;
        let pid = self.lab.hosts[0].daemon_pid()?;
        let before = cpu_seconds(pid)?;
        sleep(IDLE).await;
        let cpu = 100.0 * (cpu_seconds(pid)? - before) / IDLE.as_secs_f64();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let anonymous =
            status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
        let kilobytes: f64 = anonymous.trim().trim_end_matches(" kB").parse()?;
        Ok((cpu, kilobytes / 1000.0))
    }
}

fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // What follows the name, which is in brackets and may hold spaces.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).context("too few fields")?.parse::<f64>().context("not a number");
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}

async fn remove(names: &[String]) -> anyhow::Result<()> {
    let lines: Vec<String> = names.iter().map(|name| format!("netns del {name}")).collect();
    net::ip_batch(&lines).await
}

fn path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
