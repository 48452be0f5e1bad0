//! What must survive a restart: the node's memory, in one redb file.
//!
//! A [`Store`] is synchronous and durable: once `write` returns, power may fail. A [`Saver`] does the
//! writing on a thread of its own, because an fsync takes milliseconds on a good disk and seconds on a bad one.
//! What the records mean is known to `node::persist::memory` alone.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, RenameFlags, renameat2},
};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use thiserror::Error;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::node::persist::memory::Write;

/// Name of the store's file in the state directory.
pub const FILE_NAME: &str = "weave.redb";

/// The store is read once, at start; all that a cache could save is a few reads within a commit.
const CACHE_BYTES: usize = 2 << 20;
/// How long a lock is waited for. A daemon that was killed as it forked leaves a child that holds the lock until it
/// has become another program.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// Saves that may wait for the disk. The node groups its writes, so that one or two are usual.
const SAVES_MAX: usize = 256;
/// How often it is seen that the file is still where the next start looks for it, while nothing is written.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Names that [`set_aside`] tries before it gives up.
const ASIDE_MAX: u32 = 1000;

const MEMORY: TableDefinition<&str, &[u8]> = TableDefinition::new("memory");

/// Why the store could not be opened, read or written.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Another process holds the lock.
    #[error("store {} is in use by another process", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is not what was written to it.
    #[error("store {} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The file system refused: no space, no permission, a failing disk.
    #[error("cannot {verb} store {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        verb: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Another file is in its place.
    #[error("store {} was replaced by another file", path.display())]
    Replaced {
        /// The file.
        path: PathBuf,
    },
    /// More saves wait for the disk than may.
    #[error("the disk is too slow: {SAVES_MAX} saves wait for it")]
    Busy,
    /// The thread that writes is gone.
    #[error("the store was closed")]
    Closed,
}

impl StoreError {
    /// The way out, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            StoreError::InUse { .. } => {
                Some("stop the other weavers, or give this one another --state directory".to_owned())
            }
            StoreError::Damaged { path, .. } => Some(format!(
                "move {} aside and start again: this host then joins as a new peer, \
                 and `weavers forget` takes over the ranges of the old one",
                path.display()
            )),
            StoreError::Io { path, source, .. } => way_out(path.parent().unwrap_or(path), source),
            StoreError::Replaced { path } => Some(format!(
                "move {} away, and what this host knows is written there; a copy is put back while weavers is stopped",
                path.display()
            )),
            StoreError::Busy | StoreError::Closed => None,
        }
    }

    /// The error with all its sources, on one line.
    pub fn in_full(&self) -> String {
        match self {
            StoreError::Io { source, .. } => format!("{self}: {source}"),
            StoreError::InUse { .. }
            | StoreError::Damaged { .. }
            | StoreError::Replaced { .. }
            | StoreError::Busy
            | StoreError::Closed => self.to_string(),
        }
    }
}

/// What to do about a disk that refuses; writes are tried again by themselves.
fn way_out(dir: &Path, refusal: &io::Error) -> Option<String> {
    let dir = dir.display();
    let way_out = match Errno::from_raw(refusal.raw_os_error()?) {
        Errno::ENOSPC => format!("make room on the file system of {dir}: `df {dir}` and `df -i {dir}`"),
        Errno::EDQUOT => format!("raise the quota of the owner of {dir}, or make room there"),
        Errno::EFBIG => format!("raise the limit on file sizes of the service: files in {dir} may not grow"),
        Errno::EROFS => format!(
            "mount the file system of {dir} read-write (`mount -o remount,rw`); \
             if nobody mounted it read-only, the kernel did after an error: see `dmesg`"
        ),
        Errno::EIO => format!("the disk of {dir} fails: see `dmesg`, and move {dir} to another disk"),
        Errno::EACCES | Errno::EPERM => {
            format!(
                "let the user that weavers runs as write to {dir}, and see what else forbids it (SELinux, AppArmor, `lsattr`)"
            )
        }
        _ => return None,
    };
    Some(way_out)
}

/// The store of one node, locked against other processes for as long as it is open.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// `None` after a failed write: redb trusts nothing after an I/O error, so the file is opened
    /// (and checked) anew before the next one.
    open: Mutex<Option<Open>>,
}

/// The file that is open, and what tells it from any other that may come to its path.
#[derive(Debug)]
struct Open {
    database: Database,
    identity: (u64, u64),
}

impl Store {
    /// Opens the file at `path`, which is made if it is absent, together with its directory.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        let begun = Instant::now();
        let open = loop {
            match Open::make(path) {
                Err(StoreError::InUse { .. }) if begun.elapsed() < LOCK_PATIENCE => thread::sleep(LOCK_PAUSE),
                opened => break opened?,
            }
        };
        Ok(Store { path: path.to_owned(), open: Mutex::new(Some(open)) })
    }

    /// Everything that was written and not removed.
    pub fn load(&self) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        let mut guard = self.lock();
        let database = self.ready(&mut guard)?;
        read_all(database).map_err(|source| explain(&self.path, "read", source))
    }

    /// Makes all of `writes` durable, or none of them.
    pub fn write(&self, writes: &[Write]) -> Result<(), StoreError> {
        if writes.is_empty() {
            return Ok(());
        }
        let mut guard = self.lock();
        match commit(self.ready(&mut guard)?, writes) {
            Ok(()) => Ok(()),
            // It says no more than that something went wrong before; tried anew it says what.
            Err(redb::Error::PreviousIo) => {
                *guard = None;
                commit(self.ready(&mut guard)?, writes)
            }
            Err(source) => Err(source),
        }
        .map_err(|source| {
            *guard = None;
            explain(&self.path, "write", source)
        })
    }

    /// Puts the file back to its path if somebody has removed it: it is open, and would be gone with this process.
    pub fn keep(&self) -> Result<(), StoreError> {
        let mut guard = self.lock();
        if guard.is_some() { self.ready(&mut guard).map(drop) } else { Ok(()) }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        // A panic in redb leaves the file as the last commit left it: there is nothing to protect.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ready<'a>(&self, slot: &'a mut Option<Open>) -> Result<&'a Database, StoreError> {
        let path = &self.path;
        let found = identity(path).map_err(|source| fail(path, "find", source))?;
        let open = match (slot.take(), found) {
            (Some(open), Some(found)) if open.identity == found => open,
            (Some(open), Some(_)) => {
                *slot = Some(open);
                return Err(StoreError::Replaced { path: path.clone() });
            }
            (Some(open), None) => match open.copied_to(path) {
                Ok(copy) => {
                    warn!(path = %path.display(), "the store's file was gone and is back");
                    copy
                }
                Err(error) => {
                    *slot = Some(open);
                    return Err(error);
                }
            },
            (None, Some(_)) => Open::existing(path)?,
            // What was in it is not known here: an empty one would be taken for all there is.
            (None, None) => return Err(fail(path, "find", io::ErrorKind::NotFound.into())),
        };
        Ok(&slot.insert(open).database)
    }
}

impl Open {
    /// Opens the file, which is made if it is absent.
    fn make(path: &Path) -> Result<Open, StoreError> {
        if let Some(parent) = path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o750)
                .create(parent)
                .map_err(|source| fail(path, "make the directory of", source))?;
        }
        // redb would make the file with the umask's permissions; it holds names, and later secrets.
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(_) => sync_parent(path).map_err(|source| fail(path, "make", source))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(fail(path, "make", source)),
        }
        Open::existing(path)
    }

    fn existing(path: &Path) -> Result<Open, StoreError> {
        let database = redb::Builder::new()
            .set_cache_size(CACHE_BYTES)
            // The file is small: reading it whole costs little, and finds what a bad disk did to it.
            .set_check_integrity_on_open(true)
            .create(path)
            .map_err(|source| explain(path, "open", source))?;
        let identity = identity(path).map_err(|source| fail(path, "find", source))?.unwrap_or_default();
        Ok(Open { database, identity })
    }

    /// All that it holds in a file of its own at `path`, where there is none. It comes there whole or not at all.
    fn copied_to(&self, path: &Path) -> Result<Open, StoreError> {
        let all = read_all(&self.database).map_err(|source| explain(path, "read", source))?;
        let writes: Vec<Write> =
            all.into_iter().map(|(key, value)| Write { key, value: Some(value) }).collect();
        let beside = path.with_extension("new");
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(fail(&beside, "remove", error));
            }
            Ok(()) | Err(_) => {}
        }
        let copy = Open::make(&beside)?;
        commit(&copy.database, &writes).map_err(|source| explain(&beside, "write", source))?;
        renameat2(AT_FDCWD, &beside, AT_FDCWD, path, RenameFlags::RENAME_NOREPLACE)
            .map_err(io::Error::from)
            .and_then(|()| sync_parent(path))
            .map_err(|source| fail(path, "put back", source))?;
        Ok(copy)
    }
}

/// What tells a file from every other that is there; `None` if there is none.
fn identity(path: &Path) -> io::Result<Option<(u64, u64)>> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some((found.dev(), found.ino()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn fail(path: &Path, verb: &'static str, source: io::Error) -> StoreError {
    StoreError::Io { path: path.to_owned(), verb, source }
}

fn read_all(database: &Database) -> Result<BTreeMap<String, Vec<u8>>, redb::Error> {
    let transaction = database.begin_read()?;
    let table = match transaction.open_table(MEMORY) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(BTreeMap::new()),
        Err(e) => return Err(e.into()),
    };
    let mut all = BTreeMap::new();
    for entry in table.iter()? {
        let (key, value) = entry?;
        all.insert(key.value().to_owned(), value.value().to_owned());
    }
    Ok(all)
}

/// One transaction, one fsync: redb's defaults. Its two-phase commit and quick repair cost a second one;
/// the first guards against an attacker who controls the disk, the other against a slow check of a big file.
fn commit(database: &Database, writes: &[Write]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(MEMORY)?;
        for write in writes {
            match &write.value {
                Some(value) => table.insert(write.key.as_str(), value.as_slice())?,
                None => table.remove(write.key.as_str())?,
            };
        }
    }
    transaction.commit()?;
    Ok(())
}

fn explain(path: &Path, verb: &'static str, source: impl Into<redb::Error>) -> StoreError {
    let path = path.to_owned();
    match source.into() {
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => StoreError::InUse { path },
        redb::Error::Io(e) if e.kind() == io::ErrorKind::InvalidData => {
            StoreError::Damaged { path, reason: e.to_string() }
        }
        redb::Error::Io(source) => StoreError::Io { path, verb, source },
        redb::Error::PreviousIo => {
            StoreError::Io { path, verb, source: io::Error::other("an earlier write failed") }
        }
        redb::Error::Corrupted(reason) => StoreError::Damaged { path, reason },
        other => StoreError::Damaged { path, reason: other.to_string() },
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Renames a store that belongs to another instance to `PATH.SUFFIX`, or `PATH.SUFFIX.1` and so on
/// where that is taken. Nothing is overwritten.
pub fn set_aside(path: &Path, suffix: &str) -> io::Result<PathBuf> {
    for attempt in 0..ASIDE_MAX {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{suffix}"));
        if attempt > 0 {
            name.push(format!(".{attempt}"));
        }
        let aside = PathBuf::from(name);
        match renameat2(AT_FDCWD, path, AT_FDCWD, &aside, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => {
                sync_parent(path)?;
                info!(path = %path.display(), aside = %aside.display(), "store set aside");
                return Ok(aside);
            }
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(io::Error::other(format!("{ASIDE_MAX} stores are set aside as {}.{suffix}", path.display())))
}

// ===== writing without waiting =====

/// A thread that writes saves in the order in which they come, and reports each.
#[derive(Debug)]
pub struct Saver {
    saves: Option<SyncSender<(u64, Vec<Write>)>>,
    thread: Option<JoinHandle<()>>,
}

impl Saver {
    /// Takes over the store. Every accepted save is reported once; nothing is skipped after a failure.
    pub fn start(
        store: Store,
        reports: mpsc::Sender<(u64, Result<(), StoreError>)>,
    ) -> Result<Saver, StoreError> {
        let (saves, queue) = sync_channel(SAVES_MAX);
        let path = store.path.clone();
        let thread = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || save_all(&store, &queue, &reports))
            .map_err(|source| StoreError::Io { path, verb: "start the writer of", source })?;
        Ok(Saver { saves: Some(saves), thread: Some(thread) })
    }

    /// Hands over a save and returns at once. What is refused here is not reported.
    pub fn save(&self, id: u64, writes: Vec<Write>) -> Result<(), StoreError> {
        let saves = self.saves.as_ref().ok_or(StoreError::Closed)?;
        saves.try_send((id, writes)).map_err(|e| match e {
            TrySendError::Full(_) => StoreError::Busy,
            TrySendError::Disconnected(_) => StoreError::Closed,
        })
    }

    /// Waits until what was accepted is written, and closes the store. Blocks: the receiver of the reports
    /// must be drained meanwhile or dropped before.
    pub fn finish(mut self) {
        self.saves = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the writer of the store had panicked");
        }
    }
}

fn save_all(
    store: &Store,
    queue: &Receiver<(u64, Vec<Write>)>,
    reports: &mpsc::Sender<(u64, Result<(), StoreError>)>,
) {
    let mut is_kept = true;
    loop {
        let (id, writes) = match queue.recv_timeout(LOOK_EVERY) {
            Ok(save) => save,
            Err(RecvTimeoutError::Timeout) => {
                let kept = store.keep();
                if let (Err(error), true) = (&kept, is_kept) {
                    warn!(
                        error = error.in_full(),
                        hint = error.hint(),
                        "the next start will not find the store"
                    );
                }
                is_kept = kept.is_ok();
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let result = store.write(&writes);
        if let Err(error) = &result {
            warn!(error = error.in_full(), hint = error.hint(), "save failed");
        }
        // A daemon that is stopping listens no more; what it handed over is written all the same.
        let _ = reports.blocking_send((id, result));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        env,
        io::{BufRead, BufReader, Write as _},
        os::unix::fs::PermissionsExt,
        process::{Command, Stdio},
        time::Duration,
    };

    use super::*;

    /// Set in a child process of these tests: the store it works on.
    const CHILD: &str = "WEAVERS_TEST_STORE";

    #[test]
    fn what_was_written_is_there_after_a_restart() {
        let (_dir, path) = scratch();
        let store = Store::open(&path).unwrap();
        assert!(store.load().unwrap().is_empty(), "a new store is empty");
        store.write(&[put("ring", b"one"), put("name", b"02:aa")]).unwrap();
        store.write(&[put("ring", b"two"), remove("name"), remove("never there")]).unwrap();
        drop(store);

        let all = Store::open(&path).unwrap().load().unwrap();
        assert_eq!(all, BTreeMap::from([("ring".to_owned(), b"two".to_vec())]));
    }

    #[test]
    fn only_its_owner_reads_the_file() {
        let (dir, _) = scratch();
        let path = dir.path().join("var/lib/weave").join(FILE_NAME);
        let _store = Store::open(&path).unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()) & 0o027, 0, "others stay out of the directory");
    }

    #[test]
    fn a_store_in_use_says_so_and_is_left_alone() {
        let (_dir, path) = scratch();
        let store = Store::open(&path).unwrap();
        let error = Store::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::InUse { .. }), "{error:?}");
        assert!(error.to_string().contains(path.to_str().unwrap()));
        store.write(&[put("ring", b"one")]).unwrap();
    }

    #[test]
    fn a_file_that_is_no_store_is_named_and_kept() {
        let (_dir, path) = scratch();
        fs::write(&path, b"# weave.toml, copied to the wrong place\n").unwrap();
        let error = Store::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
        assert!(error.hint().unwrap().contains(path.to_str().unwrap()));
        assert!(fs::read(&path).unwrap().starts_with(b"# weave.toml"));
    }

    #[test]
    fn a_store_that_a_bad_disk_changed_is_damaged_and_not_believed() {
        let (_dir, path) = scratch();
        let store = Store::open(&path).unwrap();
        store.write(&[put("ring", &[0xa5; 2000])]).unwrap();
        drop(store);
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.windows(64).position(|w| w == [0xa5; 64]).expect("the value is in the file");
        for byte in &mut bytes[at..at + 64] {
            *byte = 0;
        }
        fs::write(&path, bytes).unwrap();
        let error = Store::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
    }

    #[test]
    fn a_store_that_was_cut_short_is_an_error() {
        let (_dir, path) = scratch();
        let store = Store::open(&path).unwrap();
        store.write(&[put("ring", &[0xa5; 2000])]).unwrap();
        drop(store);
        OpenOptions::new().write(true).open(&path).unwrap().set_len(6000).unwrap();
        let error = Store::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. } | StoreError::Io { .. }), "{error:?}");
    }

    #[test]
    fn a_store_whose_file_is_removed_is_put_back_with_all_that_is_in_it() {
        let (_dir, path) = scratch();
        let store = Store::open(&path).unwrap();
        store.write(&[put("ring", b"one"), put("name", b"02:aa")]).unwrap();
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        store.write(&[put("ring", b"two")]).unwrap();
        fs::remove_file(&path).unwrap();
        store.keep().unwrap();
        store.write(&[put("last", b"three")]).unwrap();
        drop(store);
        let all = Store::open(&path).unwrap().load().unwrap();
        let values: Vec<&[u8]> = all.values().map(Vec::as_slice).collect();
        assert_eq!(values, [&b"three"[..], b"02:aa", b"two"]);
    }

    #[test]
    fn a_store_in_whose_place_another_file_comes_promises_nothing_until_that_is_gone() {
        let (_dir, path) = scratch();
        let store = Store::open(&path).unwrap();
        store.write(&[put("ring", b"one")]).unwrap();
        let other = path.with_extension("other");
        fs::write(&other, "somebody's").unwrap();
        fs::rename(&other, &path).unwrap();
        let refused = store.write(&[put("ring", b"two")]).unwrap_err();
        assert!(matches!(refused, StoreError::Replaced { .. }), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "somebody's");
        fs::remove_file(&path).unwrap();
        store.write(&[put("ring", b"three")]).unwrap();
        drop(store);
        assert_eq!(Store::open(&path).unwrap().load().unwrap()["ring"], b"three");
    }

    #[test]
    fn a_store_of_another_instance_is_set_aside_and_nothing_is_overwritten() {
        let (_dir, path) = scratch();
        for content in ["first", "second", "third"] {
            fs::write(&path, content).unwrap();
            set_aside(&path, "i-0abc").unwrap();
        }
        assert!(!path.exists());
        let read = |end: &str| fs::read_to_string(format!("{}{end}", path.display())).unwrap();
        assert_eq!([read(".i-0abc"), read(".i-0abc.1"), read(".i-0abc.2")], ["first", "second", "third"]);
        assert_eq!(set_aside(&path, "i-0abc").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_process_killed_in_the_middle_of_a_write_loses_nothing_acknowledged() {
        if let Ok(path) = env::var(CHILD) {
            write_for_ever(Path::new(&path));
        }
        let (_dir, path) = scratch();
        for round in 0..8u64 {
            let mut child = child("a_process_killed_in_the_middle_of_a_write", &path).spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let mut acknowledged = 0;
            while acknowledged < 3 + round {
                let line = lines.next().expect("the child goes on until it is killed").unwrap();
                acknowledged = count_of(&line).unwrap_or(acknowledged);
            }
            thread::sleep(Duration::from_micros(700 * round));
            child.kill().unwrap();
            child.wait().unwrap();
            let last =
                lines.map_while(Result::ok).filter_map(|l| count_of(&l)).last().unwrap_or(acknowledged);

            let all = Store::open(&path).unwrap().load().unwrap();
            let kept = u64::from_le_bytes(all["a"].as_slice().try_into().unwrap());
            assert_eq!(all["a"], all["b"], "both records of a save or neither");
            assert!(kept >= last, "acknowledged {last}, kept {kept}");
        }
    }

    #[test]
    fn a_full_disk_is_an_error_and_not_the_end() {
        if let Ok(path) = env::var(CHILD) {
            fill(Path::new(&path));
        }
        let (_dir, path) = scratch();
        Store::open(&path).unwrap().write(&[put("ring", b"one")]).unwrap();
        // The limit stands for the full disk: the kernel refuses to let the file grow.
        let inner = child("a_full_disk_is_an_error_and_not_the_end", &path);
        let status = Command::new("sh")
            .args(["-c", r#"ulimit -f 4096; trap "" XFSZ; exec "$@""#, "sh"])
            .arg(inner.get_program())
            .args(inner.get_args())
            .env(CHILD, &path)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(42), "the child saw the error and could go on");
        let all = Store::open(&path).unwrap().load().unwrap();
        assert_eq!(all["ring"], b"two");
        assert!(!all.contains_key("big"));
    }

    #[test]
    fn a_disk_that_is_full_one_that_fails_and_one_that_is_read_only_are_told_apart() {
        let way_out = |errno: Errno| {
            let source = io::Error::from_raw_os_error(errno as i32);
            let error = StoreError::Io { path: "/var/lib/weave/weave.redb".into(), verb: "write", source };
            assert!(error.in_full().contains("/var/lib/weave/weave.redb: "), "{}", error.in_full());
            error.hint().unwrap()
        };
        let known = [Errno::ENOSPC, Errno::EROFS, Errno::EIO, Errno::EACCES, Errno::EDQUOT, Errno::EFBIG];
        let ways: std::collections::BTreeSet<String> = known.into_iter().map(way_out).collect();
        assert_eq!(ways.len(), known.len());
        assert!(ways.iter().all(|way| way.contains("/var/lib/weave")), "{ways:?}");
    }

    #[test]
    fn saves_are_reported_in_order_and_written_before_it_ends() {
        let (_dir, path) = scratch();
        let (sender, mut reports) = mpsc::channel(4);
        let saver = Saver::start(Store::open(&path).unwrap(), sender).unwrap();
        for id in 0..20 {
            saver.save(id, vec![put("id", &[id as u8])]).unwrap();
        }
        for id in 0..10 {
            let (reported, result) = reports.blocking_recv().unwrap();
            assert_eq!((reported, result.is_ok()), (id, true));
        }
        drop(reports);
        saver.finish();
        assert_eq!(Store::open(&path).unwrap().load().unwrap()["id"], [19]);
    }

    #[test]
    fn a_disk_that_does_not_keep_up_is_noticed() {
        let (_dir, path) = scratch();
        // Nobody takes the reports, so the writer stands still after the second.
        let (sender, reports) = mpsc::channel(1);
        let saver = Saver::start(Store::open(&path).unwrap(), sender).unwrap();
        let refused = (0..2 * SAVES_MAX as u64).find_map(|id| saver.save(id, vec![]).err());
        assert!(matches!(refused, Some(StoreError::Busy)), "{refused:?}");
        drop(reports);
        saver.finish();
    }

    fn write_for_ever(path: &Path) -> ! {
        let store = Store::open(path).unwrap();
        let begin =
            store.load().unwrap().get("a").map_or(0, |v| u64::from_le_bytes(v[..].try_into().unwrap()));
        for count in begin + 1.. {
            store.write(&[put("a", &count.to_le_bytes()), put("b", &count.to_le_bytes())]).unwrap();
            println_now(count - begin);
        }
        unreachable!("the parent kills this process");
    }

    fn fill(path: &Path) -> ! {
        let store = Store::open(path).unwrap();
        let error = store.write(&[put("ring", b"lost"), put("big", &vec![7; 8 << 20])]).unwrap_err();
        assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
        assert!(error.hint().is_some_and(|hint| hint.contains("may not grow")), "{error:?}");
        store.write(&[put("ring", b"two")]).unwrap();
        std::process::exit(42);
    }

    /// The harness holds back what a test prints; the pipe to the parent must not wait.
    fn println_now(count: u64) {
        let mut out = io::stdout().lock();
        writeln!(out, "\nacknowledged {count}").unwrap();
        out.flush().unwrap();
    }

    fn count_of(line: &str) -> Option<u64> {
        line.strip_prefix("acknowledged ")?.parse().ok()
    }

    /// This very test, in a process of its own.
    fn child(test: &str, path: &Path) -> Command {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args([&format!("store::tests::{test}"), "--nocapture", "--test-threads=1"]);
        command.env(CHILD, path).stdout(Stdio::piped());
        command
    }

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        (dir, path)
    }

    fn put(key: &str, value: &[u8]) -> Write {
        Write { key: key.to_owned(), value: Some(value.to_vec()) }
    }

    fn remove(key: &str) -> Write {
        Write { key: key.to_owned(), value: None }
    }
}
