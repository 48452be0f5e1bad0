//! What a container costs where many are already, beside Debian's CNI plugins `bridge` and `host-local` in the same run.
//!
//! Theirs is a process for each call, as runtimes call it. Ours is a call of the control socket, and beside it the command line and the plugin
//! that runtimes call.

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use tokio::{sync::oneshot, time::sleep};
use weavers::api::{ApiRequest, client};

use self::chart::Panel;
use crate::{host::run_inside, lab::Lab, net, report::Report};

#[path = "../../../tests/bench/chart.rs"]
mod chart;

/// Containers that are there already, where nothing else is asked for.
const SIZES: [usize; 5] = [0, 100, 300, 800, 1000];
/// A bridge has 1,023 ports, and those that are measured need some: where more containers are, ours are measured alone.
const BRIDGED_MAX: usize = 800;
/// Calls one after the other, of which the median is told.
const CALLS: usize = 50;
/// Calls by several callers at once, of which the rate is told.
const BURST: usize = 200;
const CALLERS: usize = 8;
/// The host without a daemon, on which the plugins work.
const BARE: usize = 2;
const PATIENCE: Duration = Duration::from_secs(60);
/// Before and while nothing is done. What the kernel knows of neighbours ages for so long, and it tells of that.
const CALM: Duration = Duration::from_secs(45);
const IDLE: Duration = Duration::from_secs(60);
/// Ticks a second of the times in `/proc/PID/stat`, the same on every Linux that EC2 offers.
const TICKS: f64 = 100.0;
const PLUGINS: &str = "/usr/lib/cni";
/// What our plugin is told.
const OURS: &str = r#"{"cniVersion":"1.0.0","name":"weavers","type":"weavers"}"#;

/// Who connects containers.
#[derive(Clone, Copy)]
enum By {
    Socket,
    CommandLine,
    /// Our plugin of CNI, as runtimes call it.
    Cni,
    /// Those of others.
    Plugins,
}

#[derive(Clone, Copy)]
enum Verb {
    Add,
    Del,
}

/// What it costs at one size, ours and theirs.
struct Cost {
    size: usize,
    ours: Times,
    command_line: f64,
    cni: Times,
    theirs: Option<Times>,
    /// Percents of a core that the daemon takes while nothing happens.
    cpu: f64,
    /// What it keeps in memory of its own, in MB.
    memory: f64,
}

/// Milliseconds that one call takes, the median, and calls a second where several callers have one under way each.
#[derive(Clone, Copy)]
struct Times {
    add_ms: f64,
    add_rate: f64,
    del_rate: f64,
}

const HEAD: &str = "there   one by the socket, the command line, our CNI plugin, bridge+host-local   eight at once: socket, our CNI plugin, bridge   \
     eight deleted: socket, our CNI plugin, bridge   idle CPU   memory";

/// Measures at each size, and prints a line for each; draws a picture if it is told where.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    ensure!(Path::new(PLUGINS).join("bridge").is_file(), "apt-get install containernetworking-plugins");
    let ready = lab.start_hosts(0..BARE).await?;
    let plugin = lab.binary().with_file_name("weavers-cni");
    ensure!(plugin.is_file(), "{} is not there: build it", plugin.display());
    let bench = Bench { lab: &*lab, conf: conf(lab.dir())?, plugin };
    let mut sizes = lab.options.containers.clone();
    if sizes.is_empty() {
        sizes = SIZES.to_vec();
    }
    let (mut costs, mut there) = (Vec::new(), 0);
    eprintln!("{HEAD}");
    for size in sizes {
        for by in [By::Socket, By::Plugins].into_iter().filter(|by| by.can_hold(size)) {
            let names = bench.namespaces(by, "base", there..size).await?;
            bench.at_once(by, Verb::Add, &names).await?;
        }
        there = there.max(size);
        let cost = bench.measure(size).await?;
        eprintln!("{}", cost.line());
        costs.push(cost);
    }
    let lines: Vec<String> = costs.iter().map(Cost::line).collect();
    crate::report::print(&format!("{HEAD}\n{}\n", lines.join("\n")));
    if let Some(path) = &lab.options.picture {
        fs::write(path, picture(&costs)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(Report { ready, ..Report::default() })
}

impl By {
    fn can_hold(self, size: usize) -> bool {
        match self {
            By::Socket | By::CommandLine | By::Cni => true,
            By::Plugins => size <= BRIDGED_MAX,
        }
    }
}

impl Cost {
    fn line(&self) -> String {
        let Cost { size, ours, command_line, cni, theirs, cpu, memory } = self;
        let of_theirs = |value: fn(&Times) -> f64| {
            theirs.as_ref().map_or_else(|| "-".to_owned(), |times| format!("{:.1}", value(times)))
        };
        format!(
            "{size:5} {:9.1} ms {command_line:9.1} ms {:9.1} ms {:>9} ms {:11.0}/s {:6.0}/s {:>7}/s {:11.0}/s {:6.0}/s {:>7}/s {cpu:9.2} % {memory:6.1} MB",
            ours.add_ms,
            cni.add_ms,
            of_theirs(|times| times.add_ms),
            ours.add_rate,
            cni.add_rate,
            of_theirs(|times| times.add_rate),
            ours.del_rate,
            cni.del_rate,
            of_theirs(|times| times.del_rate),
        )
    }
}

fn picture(costs: &[Cost]) -> String {
    let sizes: Vec<usize> = costs.iter().map(|cost| cost.size).collect();
    let ours = |value: fn(&Times) -> f64| costs.iter().map(|cost| value(&cost.ours)).collect();
    let theirs =
        |value: fn(&Times) -> f64| costs.iter().filter_map(|cost| cost.theirs.as_ref()).map(value).collect();
    let command_line = costs.iter().map(|cost| cost.command_line).collect();
    let by_cni = |value: fn(&Times) -> f64| costs.iter().map(|cost| value(&cost.cni)).collect();
    let times = vec![
        ("control socket", ours(|times| times.add_ms)),
        ("bridge+host-local", theirs(|times| times.add_ms)),
        ("command line", command_line),
        ("weavers by CNI", by_cni(|times| times.add_ms)),
    ];
    let rates = vec![
        ("control socket", ours(|times| times.add_rate)),
        ("weavers by CNI", by_cni(|times| times.add_rate)),
        ("bridge+host-local", theirs(|times| times.add_rate)),
    ];
    let panel = |title, unit, lines| Panel { title, unit, along: "containers there", at: &sizes, lines };
    chart::picture(&[
        panel("one more container", |ms| format!("{ms} ms"), times),
        panel("eight at once", |rate| format!("{rate}/s"), rates),
    ])
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
    /// Our plugin of CNI.
    plugin: PathBuf,
}

impl Bench<'_> {
    async fn measure(&self, size: usize) -> anyhow::Result<Cost> {
        let ours = self.times(By::Socket).await?;
        let command_line = ms(self.median(By::CommandLine).await?);
        let cni = self.times(By::Cni).await?;
        let theirs = match By::Plugins.can_hold(size) {
            true => Some(self.times(By::Plugins).await?),
            false => None,
        };
        let (cpu, memory) = self.idle().await?;
        Ok(Cost { size, ours, command_line, cni, theirs, cpu, memory })
    }

    async fn times(&self, by: By) -> anyhow::Result<Times> {
        let add_ms = ms(self.median(by).await?);
        let names = self.namespaces(by, "burst", 0..BURST).await?;
        let add_rate = self.at_once(by, Verb::Add, &names).await?;
        let del_rate = self.at_once(by, Verb::Del, &names).await?;
        remove(&names).await?;
        Ok(Times { add_ms, add_rate, del_rate })
    }

    async fn median(&self, by: By) -> anyhow::Result<Duration> {
        let names = self.namespaces(by, "one", 0..CALLS).await?;
        let took = self.one_by_one(by, Verb::Add, &names).await?;
        self.one_by_one(by, Verb::Del, &names).await?;
        remove(&names).await?;
        Ok(took)
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
            By::Cni => "cni",
            By::Plugins => "bridge",
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
            (By::Cni, verb) => self.plugin((0, &self.plugin, OURS), verb, name, &target).await,
            (By::Plugins, verb) => {
                let bridge = Path::new(PLUGINS).join("bridge");
                self.plugin((BARE, &bridge, &self.conf), verb, name, &target).await
            }
        }
    }

    async fn ask(&self, request: ApiRequest) -> anyhow::Result<()> {
        let socket = self.lab.hosts[0].socket()?;
        client::call(&socket, &request, PATIENCE).await.map(drop).with_context(|| format!("{request:?}"))
    }

    /// Theirs on a host where no daemon of ours runs.
    async fn plugin(
        &self,
        (host, program, conf): (usize, &Path, &str),
        verb: Verb,
        name: &str,
        netns: &str,
    ) -> anyhow::Result<()> {
        let verb = match verb {
            Verb::Add => "ADD",
            Verb::Del => "DEL",
        };
        let mut command = std::process::Command::new(program);
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", name).env("CNI_NETNS", netns);
        command.env("CNI_IFNAME", "eth0").env("CNI_PATH", PLUGINS);
        let (pid, conf) = (self.lab.hosts[host].keeper_pid()?, conf.to_owned());
        let (done, ended) = oneshot::channel();
        thread::spawn(move || done.send(run_inside(pid, command, conf.as_bytes())));
        let output = ended.await.context("the thread of a plugin has ended")??;
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
