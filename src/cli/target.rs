//! What a container is called, as a pid or a path that the daemon can look up.

use std::{path::Path, process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

use super::Failure;

/// A runtime that does not answer is as good as absent.
const RUNTIME_ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// Where `ip netns` keeps its namespaces.
const NETNS_DIRECTORY: &str = "/run/netns";

/// A namespace that was found.
pub(super) struct Found {
    /// Its pid or absolute path.
    pub target: String,
    /// The container's name, where it was found by that.
    pub name: Option<String>,
}

/// A pid, a path, a name under `/run/netns`, or a container of Docker or Podman, tried in this order.
pub(super) async fn find(target: &str) -> Result<Found, Failure> {
    if !target.is_empty() && target.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(Found { target: target.to_owned(), name: None });
    }
    if target.contains('/') {
        return path(target);
    }
    let named = Path::new(NETNS_DIRECTORY).join(target);
    if !target.is_empty() && named.exists() {
        return Ok(Found { target: named.display().to_string(), name: Some(target.to_owned()) });
    }
    for runtime in ["docker", "podman"] {
        if let Some(pid) = inspect(runtime, target).await {
            return Ok(Found { target: pid.to_string(), name: Some(target.to_owned()) });
        }
    }
    let failure = Failure::not_found(format!("no running container is named {target:?}"));
    Err(failure.hint("give a pid, or the path of a network namespace"))
}

fn path(target: &str) -> Result<Found, Failure> {
    let path = std::path::absolute(target)
        .map_err(|error| Failure::not_found(format!("{target} is not a path: {error}")))?;
    Ok(Found { target: path.display().to_string(), name: None })
}

/// The pid of a running container, as its runtime says; 0 is one that is not running.
async fn inspect(runtime: &str, name: &str) -> Option<u32> {
    let asked = Command::new(runtime)
        .args(["inspect", "--type", "container", "-f", "{{.State.Pid}}", "--", name])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(RUNTIME_ANSWERS_WITHIN, asked).await.ok()?.ok()?;
    let pid = String::from_utf8(output.stdout).ok()?.trim().parse().ok()?;
    (output.status.success() && pid != 0).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pids_and_paths_are_passed_on_and_nobody_else_is_asked() {
        assert_eq!(find("42").await.map(|found| found.target).ok().as_deref(), Some("42"));
        let found = find("/run/netns/../netns/a").await.map(|found| found.target).ok();
        assert_eq!(found.as_deref(), Some("/run/netns/../netns/a"));
        assert!(find("./ns").await.is_ok_and(|found| found.target.starts_with('/')));
    }

    #[tokio::test]
    async fn a_name_that_nobody_knows_is_not_found() {
        assert!(find("no-container-has-this-name").await.is_err());
        assert!(find("").await.is_err());
        assert!(find("--help").await.is_err());
    }
}
