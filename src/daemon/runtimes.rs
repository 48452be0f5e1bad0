//! What container runtimes find of us and leave for us: the file that names the plugin, notes of what was deleted meanwhile, and ports that
//! nobody else has.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
};

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{Event, docker_bridge::BridgeFile, leases};
use crate::{
    cni::conflist::{self, Reader},
    config::{Cni, Config},
    node::Node,
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

/// The files that name the plugin, as they were last written.
#[derive(Debug, Default)]
pub(super) struct Conflists(Vec<(PathBuf, String)>);

impl Conflists {
    /// Whether runtimes wait to be told that they can be served.
    pub(super) fn are_due(&self, config: &Cni) -> bool {
        self.0.is_empty() && (config.conf_dir.is_some() || config.nomad_conf_dir.is_some())
    }

    /// Writes what this configuration wants and was not written; removes what it wants no more.
    pub(super) fn keep(&mut self, config: &Cni, socket: &Path) {
        let wanted = wanted(config, socket);
        for (path, _) in self.0.iter().filter(|(path, _)| !wanted.iter().any(|(other, _)| other == path)) {
            remove(path);
        }
        for (path, text) in wanted.iter().filter(|one| !self.0.contains(one)) {
            match write(path, text) {
                Ok(()) => info!(path = %path.display(), "conflist written"),
                Err(error) => warn!(path = %path.display(), %error, "conflist cannot be written"),
            }
        }
        self.0 = wanted;
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
    let address = (port.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED), port.host);
    let bound = match port.protocol {
        _ if port.host == 0 => return false,
        Protocol::Tcp => TcpListener::bind(address).map(drop),
        Protocol::Udp => UdpSocket::bind(address).map(drop),
        Protocol::Sctp => return false,
    };
    bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
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
