//! Where a Weave Net router keeps its data, and their bytes while no router has them open.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use tokio::{process::Command, time::timeout};

use super::super::Failure;

/// Where routers keep them that are run by Kubernetes, or by Docker as a plugin.
const PLACES: [&str; 2] = ["/var/lib/weave/weave-netdata.db", "/var/lib/weave/weavedata.db"];
/// The container whose volume has them where the script `weave` has started the router, and what the file is called there.
const CONTAINER: &str = "weavedb";
const FILE_NAME: &str = "weavedata.db";
const VOLUME: &str = "{{range .Mounts}}{{if eq .Destination \"/weavedb\"}}{{.Source}}{{end}}{{end}}";
/// Docker that does not answer is as good as absent.
const DOCKER_ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// A router's file has some ten kilobytes.
const FILE_LEN_MAX: u64 = 64 << 20;

/// A router's file, which no router opens meanwhile.
pub(super) struct Data {
    /// Where it is.
    pub path: PathBuf,
    /// What is in it.
    pub bytes: Vec<u8>,
    _lock: Flock<File>,
}

/// The file that is named, or the one that is found.
pub(super) async fn open(named: Option<PathBuf>) -> Result<Data, Failure> {
    let path = match named {
        Some(path) => path,
        None => find().await?,
    };
    let cannot = |error: io::Error| Failure::failed(format!("{} cannot be read: {error}", path.display()));
    let file = File::open(&path).map_err(cannot)?;
    let lock = Flock::lock(file, FlockArg::LockSharedNonblock).map_err(|(_, cause)| in_use(&path, cause))?;
    let mut bytes = Vec::new();
    (&*lock).take(FILE_LEN_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > FILE_LEN_MAX {
        let message = format!("{} is larger than {FILE_LEN_MAX} bytes: it is no router's", path.display());
        return Err(Failure::failed(message));
    }
    Ok(Data { path, bytes, _lock: lock })
}

fn in_use(path: &Path, cause: Errno) -> Failure {
    if cause != Errno::EWOULDBLOCK {
        return Failure::failed(format!("{} cannot be locked: {}", path.display(), cause.desc()));
    }
    let message = format!("a Weave Net router has {} open: it still runs", path.display());
    Failure::harmful(message)
        .hint("stop it, and do not reset it: `weave stop`, or `docker plugin disable` or `kubectl` where one of these runs it")
}

async fn find() -> Result<PathBuf, Failure> {
    let of_docker = volume().await.map(|volume| volume.join(FILE_NAME));
    let places = PLACES.iter().map(PathBuf::from).chain(of_docker);
    let found: Vec<PathBuf> = places.filter(|path| path.exists()).collect();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => {
            let looked = PLACES.join(" or ");
            let message = format!(
                "no data of a Weave Net router are at {looked}, nor in the volume of a container `{CONTAINER}`"
            );
            Err(Failure::not_found(message).hint("name the file with --database"))
        }
        several => {
            let all: Vec<String> = several.iter().map(|path| path.display().to_string()).collect();
            let message = format!("data of Weave Net routers are at {}", all.join(" and at "));
            Err(Failure::harmful(message).hint("name the one with --database that the last router used"))
        }
    }
}

/// Where Docker keeps the volume, if there is one.
async fn volume() -> Option<PathBuf> {
    let asked = Command::new("docker")
        .args(["inspect", "--type", "container", "-f", VOLUME, "--", CONTAINER])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(DOCKER_ANSWERS_WITHIN, asked).await.ok()?.ok()?;
    let path = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && path.starts_with('/')).then(|| path.into())
}

#[cfg(test)]
mod tests {
    use super::super::super::Exit;
    use super::*;

    #[tokio::test]
    async fn a_file_that_a_router_has_open_is_left_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = || Some(file.path().to_owned());
        assert!(open(path()).await.is_ok());
        let held = Flock::lock(file.reopen().unwrap(), FlockArg::LockExclusive).unwrap();
        let failure = open(path()).await.err().unwrap();
        assert_eq!(failure.exit, Exit::Unsafe);
        assert!(failure.message.contains("still runs"), "{}", failure.message);
        drop(held);
        assert!(open(path()).await.is_ok());
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_is_named() {
        let failure = open(Some("/nowhere/weavedata.db".into())).await.err().unwrap();
        assert!(failure.message.starts_with("/nowhere/weavedata.db cannot be read"), "{}", failure.message);
    }
}
