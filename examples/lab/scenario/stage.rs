//! What scenarios act and look with: commands and how they ended, waits with a limit, checks.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{process::Command, time::sleep};
use weavers::sim::vpc::Action;

use super::basic;
use crate::{lab::Lab, net, report::Report};

const POLL: Duration = Duration::from_millis(50);
const ENDS_WITHIN: Duration = Duration::from_secs(10);
const SETTLED_WITHIN: Duration = Duration::from_secs(15);
/// A daemon that was started listens by then.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// The exit code of a command that reaches no daemon.
const UNREACHABLE: i32 = 4;
/// The exit code of `status --check` on a host that is not converged.
pub const NOT_CONVERGED: i32 = 3;

/// What came of a command.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Its exit code; -1 if a signal ended it.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it said.
    pub stderr: String,
}

impl Ran {
    /// Whether it ended with this code and its output, wherever it went, holds all of these words.
    pub fn says(&self, code: i32, words: &[&str]) -> Result<(), String> {
        let all = format!("{}{}", self.stdout, self.stderr);
        let missing: Vec<&&str> = words.iter().filter(|word| !all.contains(**word)).collect();
        if self.code == code && missing.is_empty() {
            return Ok(());
        }
        Err(format!(
            "expected exit code {code} and {words:?}; ended with {}, {missing:?} missing in:\n{all}",
            self.code
        ))
    }
}

/// What should hold, and why it does not.
#[derive(Debug, Default)]
pub struct Checks(pub Vec<(String, Result<(), String>)>);

impl Checks {
    /// One more thing that should hold.
    pub fn add(&mut self, what: impl Into<String>, result: Result<(), String>) {
        self.0.push((what.into(), result));
    }

    /// One more thing that should hold, with the time it took.
    pub fn timed(&mut self, what: impl Into<String>, result: Result<Duration, String>) {
        let took = result.as_ref().map(|took| format!(" ({} ms)", took.as_millis())).unwrap_or_default();
        self.add(format!("{}{took}", what.into()), result.map(|_| ()));
    }
}

/// The two are the same.
pub fn same<T: PartialEq + std::fmt::Debug>(expected: &T, found: &T) -> Result<(), String> {
    if expected == found { Ok(()) } else { Err(format!("expected {expected:?}\nfound    {found:?}")) }
}

/// Nothing has changed between two looks, each a list of lines.
pub fn unchanged(before: &[String], after: &[String]) -> Result<(), String> {
    let only = |these: &[String], others: &[String]| -> Vec<String> {
        these.iter().filter(|line| !others.contains(line)).cloned().collect()
    };
    let (gone, new) = (only(before, after), only(after, before));
    holds(before == after, || format!("was:\n{}\nis:\n{}", gone.join("\n"), new.join("\n")))
}

/// It holds, or `why` not.
pub fn holds(is_so: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(why()) }
}

/// Looks again and again until all is well; how long that took, or what was wrong at the end.
pub async fn eventually(
    limit: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<Result<(), String>>,
) -> anyhow::Result<Result<Duration, String>> {
    let start = Instant::now();
    loop {
        match look().await? {
            Ok(()) => return Ok(Ok(start.elapsed())),
            Err(wrong) if start.elapsed() >= limit => return Ok(Err(format!("after {limit:?}: {wrong}"))),
            Err(_) => sleep(POLL).await,
        }
    }
}

/// Runs a script on the first host; what it prints.
pub async fn shell(lab: &Lab, script: &str) -> anyhow::Result<String> {
    lab.on_host(0, &["sh", "-ec", script]).await
}

/// So many of the hosts make the first ring. The others join it.
pub fn founded_by(lab: &Lab, founders: usize) -> anyhow::Result<()> {
    for host in 0..lab.hosts.len() {
        let init = if host < founders { "consensus" } else { "observer" };
        let ipam = format!("[ipam]\ninit = \"{init}\"\nexpected_peers = {founders}");
        lab.edit(host, "[ipam]", &ipam)?;
    }
    Ok(())
}

/// The lab at work: every daemon ready, a container on each host, everything said to be done.
pub async fn at_work(lab: &mut Lab) -> anyhow::Result<Duration> {
    let ready = lab.start_all().await?;
    for host in 0..lab.hosts.len() {
        lab.attach(host).await?;
    }
    for host in 0..lab.hosts.len() {
        lab.settled(host).await?.map_err(anyhow::Error::msg)?;
    }
    Ok(ready)
}

/// The report of a scenario that ends with all containers reachable.
pub async fn report(lab: &Lab, ready: Duration, checks: Checks) -> anyhow::Result<Report> {
    let pings = lab.ping_all().await?;
    let mut report = basic::report(lab).await?;
    report.ready = ready;
    report.checks.extend(checks.0);
    report.pings = pings;
    Ok(report)
}

impl Lab {
    /// Waits until a host has nothing left to do.
    pub async fn settled(&self, host: usize) -> anyhow::Result<Result<Duration, String>> {
        eventually(SETTLED_WITHIN, async || {
            let ran = self.ran(host, &["status", "--check"]).await?;
            Ok(holds(ran.code == 0, || {
                format!("h{} is not converged ({}):\n{}", host + 1, ran.code, ran.stdout)
            }))
        })
        .await
    }

    /// Calls so far that change something in EC2.
    pub fn writes(&self) -> BTreeMap<Action, u64> {
        self.calls().into_iter().filter(|(action, _)| action.mutates()).collect()
    }

    /// Runs `weavers` on a host, however it ends.
    pub async fn ran(&self, host: usize, args: &[&str]) -> anyhow::Result<Ran> {
        finish(&mut self.command(host, args)?).await
    }

    /// Runs `weavers` with the configuration and the state of a host, as its daemon does, until it
    /// ends. One that has not ended after a while is ended, with code -1.
    pub async fn ran_in_place(&self, host: usize, args: &[&str]) -> anyhow::Result<Ran> {
        let mut command = self.command(host, args)?;
        command.arg("--config").arg(self.hosts[host].config());
        command.arg("--state").arg(self.hosts[host].dir.join("state"));
        match tokio::time::timeout(ENDS_WITHIN, finish(&mut command)).await {
            Ok(ran) => ran,
            Err(_) => {
                let stderr = format!("still running after {ENDS_WITHIN:?}");
                Ok(Ran { code: -1, stdout: String::new(), stderr })
            }
        }
    }

    /// The same, as soon as the daemon can be reached.
    pub async fn ran_when_up(&self, host: usize, args: &[&str]) -> anyhow::Result<Ran> {
        let start = Instant::now();
        loop {
            let ran = self.ran(host, args).await?;
            if ran.code != UNREACHABLE || start.elapsed() >= START_TIMEOUT {
                return Ok(ran);
            }
            sleep(POLL).await;
        }
    }

    /// Runs a command on a host; what it prints.
    pub async fn on_host(&self, host: usize, args: &[&str]) -> anyhow::Result<String> {
        net::run(self.hosts[host].enter()?.args(args)).await
    }

    /// Runs a command in a container; what it prints.
    #[allow(dead_code)] // For scenarios.
    pub async fn in_container(&self, container: usize, args: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new("ip");
        net::run(command.args(["netns", "exec", &self.containers[container].name]).args(args)).await
    }

    /// Edits a host's `weave.toml`: replaces what must be there.
    pub fn edit(&self, host: usize, from: &str, to: &str) -> anyhow::Result<()> {
        let path = self.hosts[host].config();
        let text = std::fs::read_to_string(&path)?;
        anyhow::ensure!(text.contains(from), "{from:?} is not in {}", path.display());
        std::fs::write(&path, text.replace(from, to))
            .with_context(|| format!("{} cannot be written", path.display()))
    }
}

/// Whether the packets of one container reach another.
pub async fn passes(lab: &Lab, from: usize, to: usize) -> anyhow::Result<Result<(), String>> {
    lab.settle().await?;
    let ping = lab.ping(from, to).await?;
    Ok(holds(ping.ok, || format!("{} does not reach {}", ping.from, ping.to)))
}

/// Runs a command to its end.
pub async fn finish(command: &mut Command) -> anyhow::Result<Ran> {
    let output = net::output(command).await?;
    Ok(Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
