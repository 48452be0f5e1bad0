//! What container runtimes find of us and leave for us: the file that names the plugin, notes of what was deleted meanwhile, and ports that
//! nobody else has.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
};

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{Event, docker_bridge::BridgeFile, leases};
use crate::{
    cni::conflist::{self, Reader},
    config::{Cni, Config},
    node::{
        Node,
        protocol::status::{Note, Status},
    },
    spool,
    state::{Key, Port, Protocol},
};

/// What is kept for runtimes beside the node.
#[derive(Debug, Default)]
pub(super) struct Runtimes {
    pub(super) conflists: Conflists,
    pub(super) bridge_file: BridgeFile,
    leases: leases::Looks,
}

impl Runtimes {
    /// Looks at Docker's file, and for network namespaces that are gone, where it is time to.
    pub(super) fn tend(&mut self, node: &Node, config: &Config, events: &mpsc::Sender<Event>) {
        self.leases.look_when_due(node, events);
        self.bridge_file.keep(&config.docker, node.overview().docker_bridge(), events);
    }
}

/// The files that name the plugin.
#[derive(Debug, Default)]
pub(super) struct Conflists {
    /// As they were last written.
    written: Vec<(PathBuf, String)>,
    /// Those that could not be written, and why.
    faults: Vec<Fault>,
}

#[derive(Debug)]
struct Fault {
    path: PathBuf,
    error: io::Error,
}

impl Conflists {
    /// Whether runtimes wait to be told that they can be served.
    pub(super) fn are_due(&self, config: &Cni) -> bool {
        let was_tried = !self.written.is_empty() || !self.faults.is_empty();
        !was_tried && (config.conf_dir.is_some() || config.nomad_conf_dir.is_some())
    }

    /// Writes what this configuration wants and was not written, also what could not be; removes what it wants no more.
    pub(super) fn keep(&mut self, config: &Cni, socket: &Path) {
        let wanted = wanted(config, socket);
        let is_wanted = |path: &PathBuf| wanted.iter().any(|(other, _)| other == path);
        for (path, _) in self.written.extract_if(.., |(path, _)| !is_wanted(path)) {
            remove(&path);
        }
        let known = std::mem::take(&mut self.faults);
        for one in wanted {
            if self.written.contains(&one) {
                continue;
            }
            let (path, text) = one;
            match write(&path, &text) {
                Ok(()) => {
                    info!(path = %path.display(), "conflist written");
                    self.written.retain(|(other, _)| *other != path);
                    self.written.push((path, text));
                }
                Err(error) => {
                    let is_news = !known.iter().any(|fault| fault.path == path && fault.is(&error));
                    if is_news {
                        warn!(path = %path.display(), %error, "conflist cannot be written");
                    }
                    self.faults.push(Fault { path, error });
                }
            }
        }
    }

    /// Adds to a status what could not be written.
    pub(super) fn tell(&self, status: &mut Status) {
        status.problems.extend(self.faults.iter().map(Fault::note));
    }
}

impl Fault {
    fn is(&self, error: &io::Error) -> bool {
        self.error.to_string() == error.to_string()
    }

    fn note(&self) -> Note {
        let (path, error) = (self.path.display(), &self.error);
        let hint = match error.kind() {
            io::ErrorKind::NotFound => {
                "make its directory, or correct it under [cni]: it is tried again every few seconds"
            }
            // The unit opens them for writing when it starts, if they are there.
            io::ErrorKind::ReadOnlyFilesystem => {
                "restart weavers: its unit may write only to /etc/cni/net.d and /opt/cni/config, and only where they were there when it started"
            }
            _ => "see to it that weavers may write there: it is tried again every few seconds",
        };
        let what = format!("runtimes do not find weavers: {path} cannot be written: {error}");
        Note { what, hint: Some(hint.to_owned()) }
    }
}

fn wanted(config: &Cni, socket: &Path) -> Vec<(PathBuf, String)> {
    let of = |dir: &Option<PathBuf>, reader| {
        let text = conflist::text(reader, socket, &config.plugins);
        dir.as_ref().map(|dir| (dir.join(conflist::FILE_NAME), text))
    };
    let all = [of(&config.conf_dir, Reader::Any), of(&config.nomad_conf_dir, Reader::Nomad)];
    all.into_iter().flatten().collect()
}

/// By a rename within the directory: some runtimes take no notice of a file that comes from elsewhere, and none is to read half of it.
fn write(path: &Path, text: &str) -> io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|found| found == text) {
        return Ok(());
    }
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, path)
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => info!(path = %path.display(), "conflist removed"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => warn!(path = %path.display(), %error, "conflist cannot be removed"),
    }
}

/// Whether some program of this host listens there, which nobody would reach any more. What cannot be told is not.
pub(super) fn is_in_use(port: &Port) -> bool {
    let bind = |address: IpAddr| match port.protocol {
        Protocol::Tcp => TcpListener::bind((address, port.host)).map(drop),
        Protocol::Udp => UdpSocket::bind((address, port.host)).map(drop),
        Protocol::Sctp => Ok(()),
    };
    let is_taken = |address| bind(address).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse);
    let is_taken_at_any = || is_taken(Ipv4Addr::UNSPECIFIED.into()) || is_taken(Ipv6Addr::UNSPECIFIED.into());
    port.host != 0 && port.host_ip.map_or_else(is_taken_at_any, is_taken)
}

/// What was deleted while no daemon was there.
pub(super) fn deleted(socket: &Path) -> Vec<Key> {
    spool::read(socket).unwrap_or_else(|error| {
        warn!(%error, "notes of deleted containers cannot be read");
        Vec::new()
    })
}

/// The daemon knows of it by now, or by no means any more.
pub(super) fn forget_note(socket: &Path, key: &Key) {
    if let Err(error) = spool::withdraw(socket, key) {
        warn!(%error, ident = key.ident(), "the note of a deleted container cannot be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflist_that_cannot_be_written_is_told_and_written_once_its_directory_is_there() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("net.d");
        let config = Cni { conf_dir: Some(dir.clone()), ..Cni::default() };
        let (mut conflists, socket) = (Conflists::default(), Path::new("/run/weave/weavers.sock"));
        assert!(conflists.are_due(&config));
        conflists.keep(&config, socket);
        assert!(!conflists.are_due(&config), "it is tried again by time, not at every event");
        let notes: Vec<Note> = conflists.faults.iter().map(Fault::note).collect();
        assert!(notes[0].what.contains("10-weavers.conflist cannot be written: No such file"), "{notes:?}");
        assert!(notes[0].hint.as_ref().unwrap().contains("make its directory"), "{notes:?}");

        fs::create_dir(&dir).unwrap();
        conflists.keep(&config, socket);
        assert!(conflists.faults.is_empty() && dir.join(conflist::FILE_NAME).exists());
        conflists.keep(&Cni::default(), socket);
        assert!(!dir.join(conflist::FILE_NAME).exists(), "what is wanted no more goes");
    }

    #[test]
    fn a_directory_that_the_unit_may_not_write_to_has_a_way_out_of_its_own() {
        let fault = Fault { path: "/x".into(), error: io::ErrorKind::ReadOnlyFilesystem.into() };
        assert!(fault.note().hint.unwrap().starts_with("restart weavers"));
    }
}
