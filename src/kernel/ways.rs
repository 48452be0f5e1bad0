//! Ways into network namespaces: processes and bind mounts, for a namespace whose path leads elsewhere.
//!
//! A namespace that is held by an open file alone is not found.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use nix::errno::Errno;

use super::netns::{boot_id, cookie_of};
use crate::state::Netns;

/// Where runtimes mount namespaces.
const MOUNTS: [&str; 3] = ["/run/netns", "/run/docker/netns", "/var/run/docker/netns"];
/// Processes and mounts that are looked at, and namespaces that are entered to learn their cookies.
const PATHS_MAX: usize = 1 << 16;
const NAMESPACES_MAX: usize = 4096;

/// So soon nobody looks again: one look serves all that ask at one time.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Paths by the cookie of the namespace that they lead to.
type Ways = BTreeMap<u64, PathBuf>;

static LAST_LOOK: Mutex<Option<(Instant, Ways)>> = Mutex::new(None);

/// A path that leads to this namespace now.
pub fn to(netns: &Netns) -> Option<PathBuf> {
    let way =
        |ways: &Ways| ways.get(&netns.cookie).filter(|path| cookie_of(path) == Ok(netns.cookie)).cloned();
    let mut last = LAST_LOOK.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((at, ways)) = &*last {
        let known = way(ways);
        if known.is_some() || at.elapsed() < AGAIN_AFTER {
            return known;
        }
    }
    let ways = look();
    let found = way(&ways);
    *last = Some((Instant::now(), ways));
    found
}

/// Every namespace of others to which a way is known.
pub fn all() -> Vec<Netns> {
    look().into_iter().map(|(cookie, path)| Netns::new(boot_id(), cookie, path)).collect()
}

/// Whether neither the path of `netns` nor any other that is known leads to it, for certain. What cannot be told is not
/// gone.
pub fn is_gone(netns: &Netns) -> bool {
    let path_is_over = || match cookie_of(&netns.path) {
        Ok(cookie) => cookie != netns.cookie,
        // Nothing is there, or a file on which the namespace was mounted once.
        Err(cause) => [Errno::ENOENT, Errno::ENOTDIR, Errno::ESRCH, Errno::EINVAL].contains(&cause),
    };
    *netns.boot != *boot_id() || path_is_over() && to(netns).is_none()
}

/// A way into every namespace that has one, by its cookie.
fn look() -> Ways {
    let mut seen: BTreeSet<(u64, u64)> =
        identity(Path::new("/proc/thread-self/ns/net")).into_iter().collect();
    let mut ways = Ways::new();
    for path in mounts().chain(processes()).take(PATHS_MAX) {
        let Some(id) = identity(&path).filter(|id| !seen.contains(id)) else { continue };
        if seen.len() > NAMESPACES_MAX {
            break;
        }
        seen.insert(id);
        if let Ok(cookie) = cookie_of(&path) {
            ways.insert(cookie, path);
        }
    }
    ways
}

fn mounts() -> impl Iterator<Item = PathBuf> {
    MOUNTS.iter().flat_map(|dir| entries(Path::new(dir)))
}

fn processes() -> impl Iterator<Item = PathBuf> {
    let is_pid = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit))
    };
    entries(Path::new("/proc")).filter(is_pid).map(|process| process.join("ns/net"))
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

/// What tells namespaces apart without entering them; good for as long as they live.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}
