//! Addresses handed out a second, durable, through the control socket of the real daemon; and, in turn with each
//! that one caller asks for, what a bare flush to the same disk costs.
//!
//! ```sh
//! cargo bench --no-default-features --bench allocate   # in release; without the EC2 client, which takes long to build
//! ```
//!
//! The daemon runs in a network namespace of its own, founds a ring with itself alone and keeps its store on the disk
//! that holds `target/`, or in the directory that is named. Needs root, or user namespaces.
//!
//! Measured on two vCPUs and a disk that takes 0.11 ms for a bare flush, at 0 and at 10,000 addresses in use alike: one
//! caller waits 0.22 to 0.25 ms, eight are given 13,000 to 16,000 a second. Beside the flush it is the commit of the store
//! (75 µs, and seven pages where a bare flush has one) and two threads that wake each other.

#![allow(clippy::print_stdout)]

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, ensure};

/// Addresses in use while it is measured.
const OWNED: [usize; 2] = [0, 10_000];
/// How often one asks in a round, and how often eight do that ask at one time.
const ALONE: usize = 600;
const TOGETHER: usize = 2400;
const ROUNDS: usize = 5;
/// What a bare flush writes: as much as a page of the store.
const PAGE: [u8; 4096] = [0x5a; 4096];
const START_TIMEOUT: Duration = Duration::from_secs(20);

const CONFIG: &str = r#"
[network]
mtu = 1500

[ipam]
range = "10.32.0.0/12"
expected_peers = 1

[mesh]
name = "02:00:00:00:00:01"
nickname = "bench"

[vpc]
source_dest_check = "ignore"
"#;

fn main() -> anyhow::Result<()> {
    // Cargo passes `--bench`.
    let named = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let dir = tempfile::tempdir_in(named.as_deref().unwrap_or(env!("CARGO_TARGET_TMPDIR")))?;
    let daemon = Daemon::start(dir.path())?;
    let mut callers = (0..8).map(|_| daemon.caller()).collect::<anyhow::Result<Vec<Caller>>>()?;
    let mut page = Page::new(dir.path())?;
    println!("{:>6}  {:<13} {:>9}  {:>17}  {:>8}  {:>8}", "in use", "", "a second", "(rounds)", "p50", "p99");
    for owned in OWNED {
        each(&mut callers, owned, |caller, at| caller.allocate(&format!("kept-{at}")))?;
        let [mut bare, mut one, mut eight] = [(); 3].map(|()| Series::default());
        for _ in 0..ROUNDS {
            let (flushes, calls) = alone(&mut callers[0], &mut page)?;
            bare.add(flushes);
            one.add(calls);
            eight.add(together(&mut callers)?);
        }
        bare.print(owned, "bare flush");
        one.print(owned, "one caller");
        eight.print(owned, "eight callers");
        let more = one.percentile(50).saturating_sub(bare.percentile(50));
        println!("{owned:>6}  one caller waits for a bare flush and {more:.0?}");
    }
    Ok(())
}

/// Times bare flushes and allocations in turn, so that both find the disk in the same mood, and gives the addresses back.
fn alone(caller: &mut Caller, page: &mut Page) -> anyhow::Result<(Sample, Sample)> {
    let (mut flushes, mut calls) = (Vec::new(), Vec::new());
    for at in 0..ALONE {
        flushes.push(page.flush()?);
        let start = Instant::now();
        caller.allocate(&format!("a-{at}"))?;
        calls.push(start.elapsed());
    }
    for at in 0..ALONE {
        caller.free(&format!("a-{at}"))?;
    }
    let sample = |latencies: Vec<Duration>| Sample { took: latencies.iter().sum(), latencies };
    Ok((sample(flushes), sample(calls)))
}

/// Times allocations by all callers at once, and gives the addresses back.
fn together(callers: &mut [Caller]) -> anyhow::Result<Sample> {
    let start = Instant::now();
    let latencies = each(callers, TOGETHER, |caller, at| caller.allocate(&format!("c-{at}")))?;
    let sample = Sample { took: start.elapsed(), latencies };
    each(callers, TOGETHER, |caller, at| caller.free(&format!("c-{at}")))?;
    Ok(sample)
}

/// Shares `count` calls among the callers, each of which makes one at a time; how long each took.
fn each(
    callers: &mut [Caller],
    count: usize,
    call: impl Fn(&mut Caller, usize) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<Vec<Duration>> {
    let (call, step) = (&call, callers.len());
    let share = |caller: &mut Caller, first| -> anyhow::Result<Vec<Duration>> {
        let timed = |at| {
            let start = Instant::now();
            call(caller, at).map(|()| start.elapsed())
        };
        (first..count).step_by(step).map(timed).collect()
    };
    thread::scope(|scope| {
        let threads = callers.iter_mut().enumerate();
        let threads = threads.map(|(first, caller)| scope.spawn(move || share(caller, first)));
        let shares = threads.collect::<Vec<_>>().into_iter().map(|thread| thread.join());
        let shares = shares.map(|share| share.map_err(|_| anyhow!("a caller panicked"))?);
        Ok(shares.collect::<anyhow::Result<Vec<_>>>()?.concat())
    })
}

/// A page on the disk of the store.
struct Page(File);

impl Page {
    fn new(dir: &Path) -> anyhow::Result<Page> {
        let mut file = File::create(dir.join("page"))?;
        file.write_all(&PAGE)?;
        file.sync_all()?;
        Ok(Page(file))
    }

    /// Writes it over itself and waits for the disk; how long that took.
    fn flush(&mut self) -> anyhow::Result<Duration> {
        let start = Instant::now();
        self.0.seek(SeekFrom::Start(0))?;
        self.0.write_all(&PAGE)?;
        self.0.sync_data()?;
        Ok(start.elapsed())
    }
}

// ===== figures =====

struct Sample {
    took: Duration,
    latencies: Vec<Duration>,
}

/// The rounds of one measurement.
#[derive(Default)]
struct Series {
    rates: Vec<f64>,
    latencies: Vec<Duration>,
}

impl Series {
    fn add(&mut self, sample: Sample) {
        self.rates.push(sample.latencies.len() as f64 / sample.took.as_secs_f64());
        self.rates.sort_by(f64::total_cmp);
        self.latencies.extend(sample.latencies);
        self.latencies.sort();
    }

    fn percentile(&self, percent: usize) -> Duration {
        self.latencies[(self.latencies.len() - 1) * percent / 100]
    }

    fn print(&self, owned: usize, what: &str) {
        let ms = |percent| format!("{:.2} ms", self.percentile(percent).as_secs_f64() * 1e3);
        let (rate, least, most) = (self.rates[ROUNDS / 2], self.rates[0], self.rates[ROUNDS - 1]);
        let spread = format!("({least:.0} to {most:.0})");
        println!("{owned:>6}  {what:<13} {rate:>9.0}  {spread:>17}  {:>8}  {:>8}", ms(50), ms(99));
    }
}

// ===== the daemon and who asks it =====

struct Daemon {
    process: Child,
    socket: PathBuf,
}

impl Daemon {
    fn start(dir: &Path) -> anyhow::Result<Daemon> {
        // The daemon watches the directory of its configuration: nothing else may happen there.
        let (config, socket) = (dir.join("etc/weave.toml"), dir.join("socket"));
        fs::create_dir(dir.join("etc"))?;
        fs::write(&config, CONFIG)?;
        let users: &[&str] =
            if nix::unistd::geteuid().is_root() { &[] } else { &["--user", "--map-root-user"] };
        let process = Command::new("unshare")
            .args(users)
            .args(["--net", env!("CARGO_BIN_EXE_weavers"), "run"])
            .args(["--config".as_ref(), config.as_os_str()])
            .args(["--state".as_ref(), dir.join("state").as_os_str()])
            .args(["--socket".as_ref(), socket.as_os_str()])
            .stderr(Stdio::from(File::create(dir.join("log"))?))
            .spawn()
            .context("unshare cannot be run; it is part of util-linux")?;
        Ok(Daemon { process, socket })
    }

    /// Connects to it, as soon as it listens.
    fn caller(&self) -> anyhow::Result<Caller> {
        let begun = Instant::now();
        loop {
            if let Ok(stream) = UnixStream::connect(&self.socket) {
                return Ok(Caller(BufReader::new(stream)));
            }
            let log = || fs::read_to_string(self.socket.with_file_name("log")).unwrap_or_default();
            ensure!(begun.elapsed() < START_TIMEOUT, "the daemon does not listen: {}", log());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One who asks, and stays connected.
struct Caller(BufReader<UnixStream>);

impl Caller {
    fn allocate(&mut self, ident: &str) -> anyhow::Result<()> {
        self.call("allocate", ident)
    }

    fn free(&mut self, ident: &str) -> anyhow::Result<()> {
        self.call("free", ident)
    }

    /// As little of HTTP as it takes, so that it is not the caller that is measured.
    fn call(&mut self, name: &str, ident: &str) -> anyhow::Result<()> {
        let body = format!(r#"{{"ident":"{ident}"}}"#);
        let head = format!("POST /v1/{name} HTTP/1.1\r\nhost: weavers\r\ncontent-length: {}", body.len());
        self.0.get_mut().write_all(format!("{head}\r\n\r\n{body}").as_bytes())?;
        let (mut head, mut len) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let start = head.len();
            ensure!(self.0.read_line(&mut head)? > 0, "the daemon hung up");
            if let Some(value) = head[start..].to_ascii_lowercase().strip_prefix("content-length:") {
                len = value.trim().parse()?;
            }
        }
        let mut answer = vec![0; len];
        self.0.read_exact(&mut answer)?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{name} {ident}: {}", String::from_utf8_lossy(&answer));
        Ok(())
    }
}
