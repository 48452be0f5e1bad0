//! Network namespaces: how one is known, and how it is entered.
//!
//! A thread that is to enter a namespace here is made for it and thrown away after, so there is nothing
//! to restore and nothing that can be restored wrongly.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::Path,
    sync::OnceLock,
    thread,
};

use nix::{
    errno::Errno,
    libc,
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, GetSockOpt, SockFlag, SockType, socket},
};

use super::fault::{Cause, fault, found};
use crate::state::{Fault, FaultKind, Netns};

/// `SO_NETNS_COOKIE`: the same on every architecture that EC2 offers.
const SO_NETNS_COOKIE: libc::c_int = 71;

#[derive(Clone, Copy)]
struct NetnsCookie;

nix::getsockopt_impl!(
    NetnsCookie,
    libc::SOL_SOCKET,
    SO_NETNS_COOKIE,
    u64,
    nix::sys::socket::sockopt::GetStruct<u64>
);

/// The kernel's boot id; empty where there is none.
pub fn boot_id() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map(|id| id.trim().to_owned())
            .unwrap_or_default()
    })
}

/// Whether the path of `netns` still leads to it.
pub fn verify(netns: &Netns) -> bool {
    *netns.boot == *boot_id() && cookie_of(&netns.path) == Ok(netns.cookie)
}

/// The cookie of the namespace that a path leads to.
pub(super) fn cookie_of(path: &Path) -> Result<u64, Errno> {
    let thread = inside(open(path)?, |entered| entered.and_then(|()| cookie()));
    thread.map_err(|error| error.errno())?.join().unwrap_or(Err(Errno::ECANCELED))
}

/// Runs `work` on a thread of its own, which has tried to enter the namespace `file`.
pub(super) fn inside<T: Send + 'static>(
    file: File,
    work: impl FnOnce(Result<(), Errno>) -> T + Send + 'static,
) -> io::Result<thread::JoinHandle<T>> {
    let entered = move || work(setns(file.as_fd(), CloneFlags::CLONE_NEWNET));
    thread::Builder::new().name("netns".into()).spawn(entered)
}

/// Opening must not wait, whatever the path leads to.
pub(super) fn open(path: &Path) -> Result<File, Errno> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    opened.map_err(|error| error.errno())
}

/// The cookie of the calling thread's namespace.
pub(super) fn cookie() -> Result<u64, Errno> {
    let probe = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    NetnsCookie.get(&probe)
}

/// The same, for a thread in the host's own.
pub(super) fn cookie_here() -> Result<u64, Fault> {
    cookie().map_err(|cause| Fault {
        hint: Some("Linux 5.14 or later is needed".into()),
        ..fault("reading the cookie of the host's network namespace", &cause)
    })
}

pub(super) fn refused(path: &Path, cause: &impl Cause) -> Fault {
    match cause.errno() {
        Errno::ENOENT | Errno::ESRCH => gone(path, "nothing is there"),
        _ => fault(format_args!("entering network namespace {}", path.display()), cause),
    }
}

pub(super) fn gone(path: &Path, why: &str) -> Fault {
    Fault {
        hint: Some("if its container lives, attach it again by a path or pid that leads to it".into()),
        ..found(FaultKind::Outdated, format!("network namespace {} is gone: {why}", path.display()))
    }
}
