//! What scenarios act and look with: commands and how they ended, waits with a limit, checks.

use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::{process::Command, time::sleep};

use crate::{lab::Lab, net};

const POLL: Duration = Duration::from_millis(50);

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

impl Lab {
    /// Runs `weavers` on a host, however it ends.
    pub async fn ran(&self, host: usize, args: &[&str]) -> anyhow::Result<Ran> {
        finish(&mut self.command(host, args)?).await
    }

    /// Runs a command on a host; what it prints.
    pub async fn on_host(&self, host: usize, args: &[&str]) -> anyhow::Result<String> {
        net::run(self.hosts[host].enter()?.args(args)).await
    }

    /// Runs a command in a container; what it prints.
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

/// Runs a command to its end.
pub async fn finish(command: &mut Command) -> anyhow::Result<Ran> {
    let output = net::output(command).await?;
    Ok(Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
