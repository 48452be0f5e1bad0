//! The control socket's file: bound, put back where it is gone, and left alone where it is another daemon's.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use axum::serve::Listener;
use tokio::{
    net::{UnixListener, UnixStream, unix::SocketAddr},
    time::{Interval, MissedTickBehavior, interval, sleep},
};
use tracing::{info, warn};

/// Read and write for the owner and the group.
const MODE: u32 = 0o660;
/// Everybody may look for it, as where systemd makes the directory.
const DIRECTORY_MODE: u32 = 0o755;
/// How often the file is looked for.
const LOOKS: Duration = Duration::from_secs(2);
/// Time before the next connection is taken where one could not be: files that are open may become fewer.
const PAUSE: Duration = Duration::from_millis(200);

/// The control socket, bound. Its file goes when this goes.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    file: File,
    looks: Interval,
    /// Why it could not be put back, as it was last said.
    said: Option<String>,
}

/// The file of the socket, known by more than its path: another daemon may have put its own there.
#[derive(Debug)]
struct File {
    path: PathBuf,
    inode: u64,
}

impl Socket {
    /// Binds `path`. A file that a dead daemon left behind is replaced; a living one is left alone.
    pub async fn bind(path: &Path) -> anyhow::Result<Socket> {
        let (listener, inode) = put(path).await?;
        let mut looks = interval(LOOKS);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Socket { listener, file: File { path: path.to_owned(), inode }, looks, said: None })
    }

    /// Puts the file back where something removed it, its directory perhaps with it. Whoever is connected stays so.
    async fn keep(&mut self) {
        if self.file.is_there() {
            return self.said = None;
        }
        let path = self.file.path.display();
        match put(&self.file.path).await {
            Ok((listener, inode)) => {
                info!(%path, "the control socket was gone and is back");
                (self.listener, self.file.inode) = (listener, inode);
                self.said = None;
            }
            Err(error) => {
                let error = format!("{error:#}");
                if self.said.as_ref() != Some(&error) {
                    warn!(%path, error, "the control socket is gone and cannot be put back");
                    self.said = Some(error);
                }
            }
        }
    }
}

impl Listener for Socket {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            tokio::select! {
                // First whoever came by the file that is gone.
                biased;
                accepted = self.listener.accept() => match accepted {
                    Ok(accepted) => return accepted,
                    Err(error) => {
                        warn!(%error, "a call cannot be taken");
                        sleep(PAUSE).await;
                    }
                },
                _ = self.looks.tick() => self.keep().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl File {
    fn is_there(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if self.is_there() {
            let _gone = fs::remove_file(&self.path);
        }
    }
}

/// Binds a socket and puts its file at `path`.
async fn put(path: &Path) -> anyhow::Result<(UnixListener, u64)> {
    reject_occupied(path).await?;
    if let Some(directory) = path.parent().filter(|directory| !directory.exists()) {
        fs::create_dir_all(directory)
            .and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(DIRECTORY_MODE)))
            .with_context(|| format!("directory {} cannot be made", directory.display()))?;
    }
    // Renamed into place, so that it is never there with other permissions.
    let fresh = path.with_extension("new");
    remove(&fresh)?;
    let listener =
        UnixListener::bind(&fresh).with_context(|| format!("socket {} cannot be bound", path.display()))?;
    let settled = || -> io::Result<u64> {
        fs::set_permissions(&fresh, fs::Permissions::from_mode(MODE))?;
        fs::rename(&fresh, path)?;
        Ok(fs::symlink_metadata(path)?.ino())
    };
    let inode = settled().with_context(|| format!("socket {} cannot be put in place", path.display()))?;
    Ok((listener, inode))
}

/// Only a socket that nobody serves may be replaced: one whose queue is full is served, too.
async fn reject_occupied(path: &Path) -> anyhow::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => {
            bail!("{} is not a socket: move it away", path.display())
        }
        Ok(_) => {}
        Err(_) => return Ok(()),
    }
    match UnixStream::connect(path).await {
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            Ok(())
        }
        Ok(_) | Err(_) => bail!("another weavers is running: it answers on {}", path.display()),
    }
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}
