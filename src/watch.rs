//! `weave.toml` changed on disk.
//!
//! The directory is watched, not the file: editors and configuration managers put a new file in
//! place of the old one. An event only says that it is worth a look; whether the file is another one
//! is told by its inode, size and time. A look every few seconds catches what gives no event: a link
//! that leads out of the directory, a directory that was replaced, a host without watches left.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};
use tracing::{debug, warn};

/// How long it must be quiet before a look: a writer is rarely done with one write.
const QUIET: Duration = Duration::from_millis(200);
/// Looked at by now even if it never gets quiet.
const QUIET_WITHIN: Duration = Duration::from_secs(2);
/// Between two looks when nothing is heard.
const LOOK: Duration = Duration::from_secs(5);

/// Says so each time the file at `path` has become another one, or has come or gone. Ends when the
/// receiver is dropped. Changes that were not taken off yet are one change.
pub fn changes(path: PathBuf) -> mpsc::Receiver<()> {
    let (told, changes) = mpsc::channel(1);
    let watch = Watch::new(path);
    tokio::spawn(watch.run(told));
    changes
}

struct Watch {
    path: PathBuf,
    seen: Option<Identity>,
    watched: Option<Watched>,
    /// Something happened to our file, or to the directory. One place: more says nothing more.
    stirred: mpsc::Receiver<()>,
    stir: mpsc::Sender<()>,
}

/// What tells a file from the one that was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// A directory under watch, as long as it is the same.
struct Watched {
    directory: (u64, u64),
    _watcher: RecommendedWatcher,
}

impl Watch {
    fn new(path: PathBuf) -> Watch {
        let path = std::path::absolute(&path).unwrap_or(path);
        let (stir, stirred) = mpsc::channel(1);
        let seen = Identity::of(&path);
        let mut watch = Watch { path, seen, watched: None, stirred, stir };
        watch.keep_watching();
        watch
    }

    async fn run(mut self, told: mpsc::Sender<()>) {
        let mut looks = interval_at(Instant::now() + LOOK, LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = told.closed() => return,
                _ = looks.tick() => self.keep_watching(),
                _ = self.stirred.recv() => self.settle().await,
            }
            let now = Identity::of(&self.path);
            if now != self.seen {
                self.seen = now;
                // A change that still waits to be taken off says as much.
                let _waits = told.try_send(());
            }
        }
    }

    async fn settle(&mut self) {
        let until = Instant::now() + QUIET_WITHIN;
        while Instant::now() < until && timeout(QUIET, self.stirred.recv()).await.is_ok() {}
    }

    /// Watches the directory, again if it is another one than before.
    fn keep_watching(&mut self) {
        let Some(directory) = self.path.parent() else { return };
        let now = fs::metadata(directory).ok().map(|found| (found.dev(), found.ino()));
        if now == self.watched.as_ref().map(|watched| watched.directory) {
            return;
        }
        self.watched = now.and_then(|identity| {
            let watcher = self.watcher(directory).inspect_err(|error| {
                warn!(directory = %directory.display(), %error, "directory not watched, looking at the file by time");
            });
            Some(Watched { directory: identity, _watcher: watcher.ok()? })
        });
    }

    fn watcher(&self, directory: &Path) -> notify::Result<RecommendedWatcher> {
        let name = self.path.file_name().map(OsString::from);
        let stir = self.stir.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let concerns = match &event {
                Ok(event) => !event.kind.is_access() && concerns(event, name.as_ref()),
                Err(_) => true,
            };
            if concerns {
                debug!(?event, "directory stirred");
                let _waits = stir.try_send(());
            }
        })?;
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    }
}

/// Whether it names our file, or no file at all.
fn concerns(event: &Event, name: Option<&OsString>) -> bool {
    event.paths.is_empty() || event.paths.iter().any(|path| path.file_name() == name.map(OsString::as_os_str))
}

impl Identity {
    fn of(path: &Path) -> Option<Identity> {
        let file = fs::metadata(path).ok()?;
        let modified = (file.mtime(), file.mtime_nsec());
        Some(Identity { device: file.dev(), inode: file.ino(), size: file.size(), modified })
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const SOON: Duration = Duration::from_secs(4);

    fn scene() -> (TempDir, PathBuf, mpsc::Receiver<()>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weave.toml");
        fs::write(&path, "peers = []").unwrap();
        let changes = changes(path.clone());
        (directory, path, changes)
    }

    async fn told(changes: &mut mpsc::Receiver<()>, within: Duration) -> bool {
        timeout(within, changes.recv()).await.is_ok()
    }

    #[tokio::test]
    async fn writing_in_place_and_renaming_into_place_are_told() {
        let (directory, path, mut changes) = scene();
        fs::write(&path, "peers = ['a']").unwrap();
        assert!(told(&mut changes, SOON).await, "written in place");
        let other = directory.path().join(".weave.toml.swp");
        fs::write(&other, "peers = ['b']").unwrap();
        fs::rename(&other, &path).unwrap();
        assert!(told(&mut changes, SOON).await, "renamed into place");
        fs::remove_file(&path).unwrap();
        assert!(told(&mut changes, SOON).await, "removed");
    }

    #[tokio::test]
    async fn many_writes_in_a_row_are_one_change() {
        let (_directory, path, mut changes) = scene();
        for i in 0..20 {
            fs::write(&path, format!("# {i}\n")).unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(told(&mut changes, SOON).await);
        assert!(
            !told(&mut changes, Duration::from_millis(600)).await,
            "the last write was told with the rest"
        );
    }

    #[tokio::test]
    async fn other_files_and_readers_are_nobodys_business() {
        let (directory, path, mut changes) = scene();
        fs::write(directory.path().join("weave.toml~"), "").unwrap();
        fs::write(directory.path().join(".ansible_tmp_weave.toml"), "").unwrap();
        fs::read(&path).unwrap();
        assert!(!told(&mut changes, Duration::from_millis(800)).await);
    }

    #[tokio::test]
    async fn a_directory_that_is_replaced_is_found_again() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("weave");
        let path = directory.join("weave.toml");
        fs::create_dir(&directory).unwrap();
        fs::write(&path, "one").unwrap();
        let mut changes = changes(path.clone());
        fs::rename(&directory, root.path().join("old")).unwrap();
        fs::create_dir(&directory).unwrap();
        fs::write(&path, "another").unwrap();
        assert!(told(&mut changes, LOOK * 2).await, "seen by the timer");
        fs::write(&path, "a third").unwrap();
        assert!(told(&mut changes, SOON).await, "the new directory is watched");
    }
}
