//! `weave.toml` or one of its drop-ins changed on disk.
//!
//! The directories are watched, not the files: editors and configuration managers put a new file in
//! place of the old one. An event only says that it is worth a look; whether a file is another one
//! is told by its inode, size and time. A look every few seconds catches what gives no event: a link
//! that leads out of the directory, a directory that was replaced, a host without watches left.

use std::{
    collections::BTreeMap,
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

use crate::config_files;

/// How long it must be quiet before a look: a writer is rarely done with one write.
const QUIET: Duration = Duration::from_millis(200);
/// Looked at by now even if it never gets quiet.
const QUIET_WITHIN: Duration = Duration::from_secs(2);
/// Between two looks when nothing is heard.
const LOOK: Duration = Duration::from_secs(5);

/// Says so each time the file at `path` or a drop-in of it has become another one, or has come or gone. Ends when
/// the receiver is dropped. Changes that were not taken off yet are one change.
pub fn changes(path: PathBuf) -> mpsc::Receiver<()> {
    let (told, changes) = mpsc::channel(1);
    let watch = Watch::new(path);
    tokio::spawn(watch.run(told));
    changes
}

struct Watch {
    path: PathBuf,
    seen: Seen,
    /// The directory of the file, and that of its drop-ins.
    directories: [PathBuf; 2],
    watched: [Option<Watched>; 2],
    /// Something happened to our files, or to a directory. One place: more says nothing more.
    stirred: mpsc::Receiver<()>,
    stir: mpsc::Sender<()>,
}

/// What the files are, by their paths; of drop-ins that cannot be listed, why.
type Seen = Result<BTreeMap<PathBuf, Option<Identity>>, String>;

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
        let seen = look(&path);
        let directories = [path.parent().unwrap_or(&path).to_owned(), config_files::drop_in_directory(&path)];
        let mut watch = Watch { path, seen, directories, watched: [None, None], stirred, stir };
        watch.keep_watching();
        watch
    }

    async fn run(mut self, told: mpsc::Sender<()>) {
        let mut looks = interval_at(Instant::now() + LOOK, LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = told.closed() => return,
                _ = looks.tick() => {}
                _ = self.stirred.recv() => self.settle().await,
            }
            // Before the look: what comes after it is heard.
            self.keep_watching();
            let now = look(&self.path);
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

    /// Watches each directory, again if it is another one than before.
    fn keep_watching(&mut self) {
        for (number, directory) in self.directories.iter().enumerate() {
            let now = fs::metadata(directory).ok().map(|found| (found.dev(), found.ino()));
            if now == self.watched[number].as_ref().map(|watched| watched.directory) {
                continue;
            }
            self.watched[number] = now.and_then(|identity| {
                let watcher = self.watcher(directory).inspect_err(|error| {
                    warn!(directory = %directory.display(), %error, "directory not watched, looking at its files by time");
                });
                Some(Watched { directory: identity, _watcher: watcher.ok()? })
            });
        }
    }

    fn watcher(&self, directory: &Path) -> notify::Result<RecommendedWatcher> {
        let path = self.path.clone();
        let stir = self.stir.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let concerns = match &event {
                Ok(event) => !event.kind.is_access() && concerns(event, &path),
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

/// Whether it names our file, a drop-in or their directory, or no file at all.
fn concerns(event: &Event, file: &Path) -> bool {
    let drop_ins = config_files::drop_in_directory(file);
    let is_ours = |path: &PathBuf| {
        let is_drop_in =
            path.parent() == Some(&drop_ins) && path.file_name().is_some_and(config_files::is_drop_in);
        path == file || *path == drop_ins || is_drop_in
    };
    event.paths.is_empty() || event.paths.iter().any(is_ours)
}

fn look(path: &Path) -> Seen {
    let drop_ins = config_files::drop_ins(path).map_err(|error| format!("{error:#}"))?;
    let files = [path.to_owned()].into_iter().chain(drop_ins);
    Ok(files.map(|path| (path.clone(), Identity::of(&path))).collect())
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
    async fn drop_ins_are_told_when_they_come_are_edited_and_go_and_so_is_their_directory() {
        let (directory, _path, mut changes) = scene();
        let drop_ins = directory.path().join("conf.d");
        fs::create_dir(&drop_ins).unwrap();
        assert!(!told(&mut changes, Duration::from_millis(800)).await, "an empty directory says nothing");
        let drop_in = drop_ins.join("10-mtu.toml");
        fs::write(&drop_in, "").unwrap();
        assert!(told(&mut changes, SOON).await, "it came");
        fs::write(&drop_in, "network.mtu = 9000").unwrap();
        assert!(told(&mut changes, SOON).await, "it was edited");
        fs::write(drop_ins.join(".10-mtu.toml.swp"), "").unwrap();
        fs::write(drop_ins.join("README"), "").unwrap();
        fs::read(&drop_in).unwrap();
        assert!(!told(&mut changes, Duration::from_millis(800)).await, "those are none");
        fs::rename(&drop_in, drop_ins.join("10-mtu.toml.off")).unwrap();
        assert!(told(&mut changes, SOON).await, "it went");
        fs::remove_dir_all(&drop_ins).unwrap();
        fs::write(&drop_ins, "").unwrap();
        assert!(told(&mut changes, SOON).await, "its directory is none any more");
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
