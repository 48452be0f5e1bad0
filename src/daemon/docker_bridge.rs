//! What Docker's `daemon.json` has to say for `docker0` to have the block that is held for it: printed, or written.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use ipnet::Ipv4Net;
use serde_json::Value;
use tokio::{
    process::Command,
    sync::mpsc,
    time::{Instant, timeout},
};
use tracing::{info, warn};

use super::Event;
use crate::{
    api::client,
    config::{self, Bridge},
    config_files,
    docker::daemon_json::{self, Keys, Version},
    node::protocol::status::{Note, Status},
};

/// How often it is looked which Docker there is: another one may know another key.
const LOOKS: Duration = Duration::from_secs(60);
/// How long Docker may take to say so.
const PATIENCE: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// More than any such file has.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What is known of Docker and of its file.
#[derive(Debug, Default)]
pub(super) struct BridgeFile {
    version: Option<Version>,
    looked_at: Option<Instant>,
    keys: Keys,
    /// Keys that the file lacks.
    missing: Vec<&'static str>,
    /// Why the file is not as it should be.
    fault: Option<String>,
}

impl BridgeFile {
    /// Looks at the file, and writes it if it is to be written.
    pub(super) fn keep(
        &mut self,
        config: &config::Docker,
        block: Option<(Ipv4Net, u32)>,
        events: &mpsc::Sender<Event>,
    ) {
        let Some((block, mtu)) = block.filter(|_| config.bridge != Bridge::Off) else {
            *self = BridgeFile::default();
            return;
        };
        if self.looked_at.is_none_or(|at| at.elapsed() >= LOOKS) {
            self.looked_at = Some(Instant::now());
            let (socket, events) = (config.socket.clone(), events.clone());
            // The loop is gone only when the daemon stops.
            tokio::spawn(
                async move { drop(events.send(Event::DockerVersion(version(&socket).await)).await) },
            );
        }
        self.keys = daemon_json::keys(block, mtu, self.version);
        let kept = self.compare_or_write(config);
        let fault = kept.err().map(|why| format!("{} is left as it is: {why}", config.daemon_json.display()));
        if fault != self.fault {
            fault.iter().for_each(|fault| warn!(fault, "Docker's file cannot be kept"));
            self.fault = fault;
        }
    }

    fn compare_or_write(&mut self, config: &config::Docker) -> Result<(), String> {
        let path = target(&config.daemon_json);
        let text = read(&path).map_err(|error| error.to_string())?;
        self.missing = daemon_json::missing(&text, &self.keys).map_err(|wrong| wrong.to_string())?;
        if config.bridge == Bridge::Write && !self.missing.is_empty() {
            let merged = daemon_json::merged(&text, &self.keys).map_err(|wrong| wrong.to_string())?;
            write(&path, &merged).map_err(|error| format!("it cannot be written: {error}"))?;
            info!(path = %path.display(), keys = self.missing.join(", "), "Docker's file written: restart Docker");
            self.missing.clear();
        }
        Ok(())
    }

    /// It is known which Docker there is, if there is one.
    pub(super) fn learn(&mut self, version: Option<Version>) {
        self.version = version.or(self.version);
    }

    /// Adds to a status what is known here.
    pub(super) fn tell(&self, config: &config::Docker, status: &mut Status) {
        let Some(told) = status.docker_bridge.as_mut().filter(|_| !self.keys.is_empty()) else { return };
        told.daemon_json =
            Some(self.keys.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect());
        told.missing = self.missing.iter().map(|key| (*key).to_owned()).collect();
        let path = config.daemon_json.display();
        if let Some(fault) = &self.fault {
            let hint = format!("correct {path}: Docker does not start with a file that it cannot read");
            status.problems.push(Note { what: fault.clone(), hint: Some(hint) });
        } else if !self.missing.is_empty() {
            status.problems.push(Note {
                what: format!("{path} does not say what docker0 needs: {}", self.missing.join(", ")),
                hint: Some(
                    "put in what `weavers docker bridge` prints, or set [docker] bridge = \"write\"".into(),
                ),
            });
        }
    }
}

/// Docker's own word, or that of its program where it does not run.
async fn version(socket: &Path) -> Option<Version> {
    let asked = timeout(PATIENCE, client::get(socket, "/version", ANSWER_BYTES_MAX)).await;
    let answer: Option<Value> =
        asked.ok().and_then(Result::ok).and_then(|body| serde_json::from_slice(&body).ok());
    if let Some(version) = answer.as_ref().and_then(|answer| answer["Version"].as_str()) {
        return Version::find(version);
    }
    let mut command = Command::new("dockerd");
    command.arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.ok()?.ok()?;
    Version::find(&String::from_utf8_lossy(&output.stdout))
}

/// What a link of that name leads to is the file.
fn target(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// What is not there says nothing.
fn read(path: &Path) -> io::Result<String> {
    let file = match config_files::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        file => file?,
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// Whole or not at all, with the rights that it has.
fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let new = path.with_extension("json.weavers");
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    if let Ok(found) = fs::metadata(path) {
        file.set_permissions(found.permissions())?;
    }
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(file: &mut BridgeFile, path: &Path, bridge: Bridge) -> Result<(), String> {
        let config =
            config::Docker { bridge, daemon_json: path.to_owned(), ..config::Config::default().docker };
        file.keys = daemon_json::keys("10.40.8.0/24".parse().unwrap(), 9001, None);
        file.compare_or_write(&config)
    }

    #[test]
    fn docker_s_file_is_written_where_that_is_asked_for_and_left_alone_where_it_cannot_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let [there, link, new] =
            ["daemon.json", "link.json", "sub/new.json"].map(|name| dir.path().join(name));
        fs::write(&there, "{\"live-restore\": true}").unwrap();
        std::os::unix::fs::symlink(&there, &link).unwrap();
        let mut file = BridgeFile::default();
        kept(&mut file, &there, Bridge::Print).unwrap();
        assert_eq!(file.missing, ["bip", "ip-masq", "mtu"]);
        assert_eq!(fs::read_to_string(&there).unwrap(), "{\"live-restore\": true}");
        for path in [&link, &new] {
            kept(&mut file, path, Bridge::Write).unwrap();
            assert!(file.missing.is_empty());
        }
        let text = fs::read_to_string(&there).unwrap();
        assert!(text.starts_with("{\"live-restore\": true, \"bip\""), "{text}");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink(), "a link stays one");
        assert!(fs::read_to_string(&new).unwrap().contains("10.40.8.1/24"));
        for broken in ["{\"live-restore\": ", "[]", "{} x"] {
            fs::write(&there, broken).unwrap();
            assert!(kept(&mut file, &there, Bridge::Write).is_err());
            assert_eq!(fs::read_to_string(&there).unwrap(), broken);
        }
        assert!(kept(&mut file, dir.path(), Bridge::Write).unwrap_err().contains("no regular file"));
    }
}
