//! The namespaces that the lab lives and dies in.
//!
//! The first process stays outside. It starts the second one as process 1 of a new PID namespace,
//! with its own network, mounts and (without root) users. When that one ends, for whatever reason,
//! the kernel ends all that it started. It ends when its stdin closes, which happens also when the
//! first process is killed.

use std::{
    fs,
    io::Read,
    os::{fd::AsFd, unix::fs::FileTypeExt},
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use nix::mount::{MsFlags, mount};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    time::timeout,
};

use crate::report::print;

const NAMESPACES: [&str; 4] = ["--net", "--mount", "--uts", "--pid"];
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How a shell outside gets in.
pub struct Entry {
    /// The lab's process, as the machine numbers it.
    pub pid: String,
    /// Whether the lab has a user namespace of its own.
    pub user_namespace: bool,
}

/// How a lab ended.
pub struct Ended {
    /// Its exit code.
    pub code: i32,
    /// It was told to end before it was done.
    pub stopped: bool,
    /// The last line that it wrote to stdout.
    pub last: String,
}

/// Outside: starts the lab in its namespaces with our own arguments, but this scenario, and waits for it.
pub async fn run(scenario: &str, hold: bool) -> anyhow::Result<Ended> {
    let users = user_namespace_flags().await?;
    let dir = tempfile::Builder::new().prefix("weavers-lab.").tempdir().context("no temporary directory")?;
    let myself = std::env::current_exe().context("the lab does not find its own binary")?;
    let mut inside = Command::new("unshare")
        .args(users)
        .args(NAMESPACES)
        .args(["--fork", "--kill-child"])
        .arg(myself)
        .args(std::env::args_os().skip(1))
        .args(["--scenario", scenario])
        .arg("--inside")
        .arg(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0) // ctrl-C comes to us alone, and we end the rest in order
        .spawn()
        .context("unshare cannot be run; it is part of util-linux")?;
    // Held here, since `wait` closes the one it finds.
    let leash = inside.stdin.take();
    let echo = tokio::spawn(echo(inside.stdout.take()));
    let (status, stopped) = tokio::select! {
        status = inside.wait() => (status?, false),
        () = signalled() => (stop(&mut inside, leash).await?, true),
        () = stdin_closed(), if hold && stdin_can_close() => (stop(&mut inside, leash).await?, false),
    };
    Ok(Ended { code: status.code().unwrap_or(1), stopped, last: echo.await? })
}

/// Passes on what the lab writes to its stdout, and keeps the last line.
async fn echo(stdout: Option<ChildStdout>) -> String {
    let Some(stdout) = stdout else { return String::new() };
    let mut lines = BufReader::new(stdout).lines();
    let mut last = String::new();
    while let Ok(Some(line)) = lines.next_line().await {
        print(&format!("{line}\n"));
        last = line;
    }
    last
}

/// Closes the lab's stdin, and ends it if that is not enough.
async fn stop(inside: &mut Child, leash: Option<ChildStdin>) -> std::io::Result<ExitStatus> {
    drop(leash);
    match timeout(STOP_TIMEOUT, inside.wait()).await {
        Ok(status) => status,
        Err(_) => {
            inside.start_kill()?;
            inside.wait().await
        }
    }
}

/// Root does without a user namespace; so does nobody else.
async fn user_namespace_flags() -> anyhow::Result<&'static [&'static str]> {
    for flags in [&[][..], &["--user", "--map-root-user"]] {
        let mut probe = Command::new("unshare");
        probe.args(flags).args(NAMESPACES).args(["--fork", "true"]).stderr(Stdio::null());
        if probe.status().await.context("unshare cannot be run; it is part of util-linux")?.success() {
            return Ok(flags);
        }
    }
    bail!("namespaces cannot be made here: run the lab as root, or allow user namespaces")
}

/// Inside: private mounts over `/run`, so that `ip netns` keeps its names to us, and a `/proc` of ours.
pub fn enter() -> anyhow::Result<Entry> {
    // Still the machine's /proc, so this is our number there.
    let pid = fs::read_link("/proc/self").context("/proc cannot be read")?.display().to_string();
    let uids = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let user_namespace = !uids.split_whitespace().eq(["0", "0", "4294967295"]);
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("mounts cannot be made private")?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).context("no tmpfs on /run")?;
    // Some containers forbid a new /proc; the machine's serves too, with other process numbers.
    let _ = mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none);
    Ok(Entry { pid, user_namespace })
}

/// Inside: resolves when the lab is to end.
pub async fn stopped() {
    tokio::select! {
        () = stdin_closed() => {}
        () = signalled() => {}
    }
}

async fn signalled() {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = kinds.map(signal) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}

/// A read of stdin cannot be called off, so it has a thread that ends with the process.
async fn stdin_closed() {
    let (closed, heard) = oneshot::channel();
    std::thread::spawn(move || {
        let mut ignored = [0; 64];
        while std::io::stdin().read(&mut ignored).is_ok_and(|len| len > 0) {}
        closed.send(())
    });
    let _ = heard.await;
}

/// Whether the end of stdin means anything: `/dev/null`, which background jobs are given, has no other.
fn stdin_can_close() -> bool {
    let Ok(stdin) = std::io::stdin().as_fd().try_clone_to_owned() else { return false };
    let terminal = std::io::IsTerminal::is_terminal(&stdin);
    let kind = fs::File::from(stdin).metadata().map(|data| data.file_type());
    terminal || kind.is_ok_and(|kind| kind.is_fifo() || kind.is_socket())
}

/// The text of a script that runs its arguments in a namespace of the lab: `steps` is a command
/// line inside the lab that ends where the arguments go.
pub fn script(entry: &Entry, path: &Path, steps: &str) -> String {
    let users = if entry.user_namespace { "--user --preserve-credentials " } else { "" };
    let tools = path.display();
    format!(
        "#!/bin/sh\n\
         # Runs a command inside the lab: {steps}\n\
         [ $# -gt 0 ] || set -- sh\n\
         PATH=\"{tools}:$PATH\" exec nsenter --target {pid} {users}--mount --net --pid -- {steps} \"$@\"\n",
        pid = entry.pid,
    )
}
