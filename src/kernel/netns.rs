//! Network namespaces: how one is known, and how to look into it.
//!
//! A thread that is to enter a namespace is made for it and thrown away after, so there is nothing
//! to restore and nothing that can be restored wrongly. What stays is a socket, which belongs to the
//! namespace in which it was made. A socket also keeps its namespace alive, so none is kept for later.

use std::{
    fs::{self, File, OpenOptions},
    io,
    net::IpAddr,
    os::{
        fd::{AsFd, AsRawFd, RawFd},
        unix::fs::OpenOptionsExt,
    },
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
use rtnetlink::new_connection_with_strict_check;
use tokio::{runtime, sync::oneshot, task::JoinHandle, time::timeout};

use super::{
    address,
    bound::VISIT,
    fault::{Cause, fault, found},
    link, sysctl, ways,
};
use crate::{
    addr::Address,
    state::{Fault, FaultKind, Mac, Netns},
};

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

/// The namespace of a process, by pid, or the one that a path leads to.
pub fn of_target(target: &str) -> Result<Netns, Fault> {
    let path = Netns::path_of(target);
    if !path.is_absolute() {
        let message = format!("`{target}` is neither a pid nor the absolute path of a network namespace");
        return Err(found(FaultKind::Invalid, message));
    }
    let cookie = cookie_of(&path).map_err(|cause| refused(&path, &cause))?;
    let own = cookie_here()?;
    if cookie == own {
        return Err(found(
            FaultKind::Invalid,
            format!("{} is the host's own network namespace", path.display()),
        ));
    }
    Ok(Netns { boot: boot_id().to_owned(), cookie, path })
}

/// The address of the link of ours that leads into `netns` and ends in this interface, if one does: that of its far end, provided
/// that it bears the MAC that we derive from it.
pub fn link_into(netns: &Netns, interface: &str) -> Option<Address> {
    let name = interface.to_owned();
    let thread =
        inside(open(&netns.path).ok()?, move |entered| entered.ok().and_then(|()| far_address(&name)));
    thread.ok()?.join().ok()?
}

/// The address of the far end in the calling thread's namespace.
fn far_address(name: &str) -> Option<Address> {
    let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build().ok()?;
    let look = async {
        let (connection, handle, _) = new_connection_with_strict_check().ok()?;
        tokio::spawn(connection);
        let far = link::find(&handle, name).await.ok()??;
        let held = address::inside(&handle, far.index).await.ok()?;
        let ours = |address: &Address| Mac::of(*address).0 == far.mac[..];
        held.iter().filter_map(address::ip).find_map(|ip| match ip {
            IpAddr::V4(ip) => Some(Address::from(ip)).filter(ours),
            IpAddr::V6(_) => None,
        })
    };
    runtime.block_on(async { timeout(VISIT, look).await.ok()? })
}

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
    netns.boot == boot_id() && cookie_of(&netns.path) == Ok(netns.cookie)
}

/// Whether neither the path of `netns` nor any other that is known leads to it, for certain. What cannot be told is not
/// gone.
pub fn is_gone(netns: &Netns) -> bool {
    let path_is_over = || match cookie_of(&netns.path) {
        Ok(cookie) => cookie != netns.cookie,
        // Nothing is there, or a file on which the namespace was mounted once.
        Err(cause) => [Errno::ENOENT, Errno::ENOTDIR, Errno::ESRCH, Errno::EINVAL].contains(&cause),
    };
    netns.boot != boot_id() || path_is_over() && ways::to(netns).is_none()
}

/// A namespace that was entered: it can be spoken to, and named to the kernel.
pub(super) struct Inside {
    /// Speaks rtnetlink inside, and is answered what was asked for only.
    pub handle: rtnetlink::Handle,
    /// The namespace, by the path it was found at.
    pub netns: Netns,
    file: File,
    /// Ends with this value, whatever the kernel has still to say.
    _connection: Connection,
}

/// The task that carries what is said.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Inside {
    /// The namespace as a file descriptor, good for as long as `self` is.
    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Sets kernel settings inside.
    pub async fn set(&self, settings: Vec<(String, &'static str)>) -> Result<(), Fault> {
        let what = "setting the far end in a container";
        let cannot = |error: io::Error| fault(what, &error);
        let file = self.file.try_clone().map_err(cannot)?;
        let (done, result) = oneshot::channel();
        let work = move |entered: Result<(), Errno>| {
            let set = match entered {
                Ok(()) => settings.iter().try_for_each(|(name, value)| sysctl::set(name, value)),
                Err(cause) => Err(fault(what, &cause)),
            };
            // Nobody waits any more.
            let _ = done.send(set);
        };
        inside(file, work).map_err(cannot)?;
        let died = || found(FaultKind::Unreachable, format!("{what}: its thread died"));
        result.await.map_err(|_| died())?
    }
}

/// Enters `netns` by its path, or by another way where its path no longer leads to it: the process that it was found by
/// may have ended, and others live on in it.
pub(super) async fn enter(netns: &Netns) -> Result<Inside, Fault> {
    match enter_by_path(netns).await {
        Err(fault) if fault.kind == FaultKind::Outdated && netns.boot == boot_id() => match ways::to(netns) {
            Some(path) => enter_by_path(&Netns { path, ..netns.clone() }).await,
            None => Err(fault),
        },
        entered => entered,
    }
}

async fn enter_by_path(netns: &Netns) -> Result<Inside, Fault> {
    let path = &netns.path;
    if netns.boot != boot_id() {
        return Err(gone(path, "it was of an earlier boot"));
    }
    let file = open(path).map_err(|cause| refused(path, &cause))?;
    let kept = file.try_clone().map_err(|error| refused(path, &error))?;
    let runtime = runtime::Handle::current();
    let (done, result) = oneshot::channel();
    inside(file, move |entered| {
        let _runtime = runtime.enter();
        let made = entered.and_then(|()| {
            let cookie = cookie()?;
            let connection = new_connection_with_strict_check().map_err(|error| error.errno())?;
            Ok((cookie, connection))
        });
        // Nobody waits any more: the socket closes.
        let _ = done.send(made);
    })
    .map_err(|error| refused(path, &error))?;
    let made = result.await.map_err(|_| panicked(path))?;
    let (cookie, (connection, handle, _)) = made.map_err(|cause| refused(path, &cause))?;
    if cookie != netns.cookie {
        return Err(gone(path, "its path leads to another one now"));
    }
    let _connection = Connection(tokio::spawn(connection));
    Ok(Inside { handle, netns: netns.clone(), file: kept, _connection })
}

/// The cookie of the namespace that a path leads to.
pub(super) fn cookie_of(path: &Path) -> Result<u64, Errno> {
    let thread = inside(open(path)?, |entered| entered.and_then(|()| cookie()));
    thread.map_err(|error| error.errno())?.join().unwrap_or(Err(Errno::ECANCELED))
}

/// Runs `work` on a thread of its own, which has tried to enter the namespace `file`.
fn inside<T: Send + 'static>(
    file: File,
    work: impl FnOnce(Result<(), Errno>) -> T + Send + 'static,
) -> io::Result<thread::JoinHandle<T>> {
    let entered = move || work(setns(file.as_fd(), CloneFlags::CLONE_NEWNET));
    thread::Builder::new().name("netns".into()).spawn(entered)
}

/// Opening must not wait, whatever the path leads to.
fn open(path: &Path) -> Result<File, Errno> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    opened.map_err(|error| error.errno())
}

/// The cookie of the calling thread's namespace.
pub(super) fn cookie() -> Result<u64, Errno> {
    let probe = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    NetnsCookie.get(&probe)
}

fn cookie_here() -> Result<u64, Fault> {
    cookie().map_err(|cause| Fault {
        hint: Some("Linux 5.14 or later is needed".into()),
        ..fault("reading the cookie of the host's network namespace", &cause)
    })
}

fn refused(path: &Path, cause: &impl Cause) -> Fault {
    match cause.errno() {
        Errno::ENOENT | Errno::ESRCH => gone(path, "nothing is there"),
        _ => fault(format_args!("entering network namespace {}", path.display()), cause),
    }
}

fn gone(path: &Path, why: &str) -> Fault {
    Fault {
        hint: Some("if its container lives, attach it again by a path or pid that leads to it".into()),
        ..found(FaultKind::Outdated, format!("network namespace {} is gone: {why}", path.display()))
    }
}

fn panicked(path: &Path) -> Fault {
    found(FaultKind::Unreachable, format!("entering network namespace {}: its thread died", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_s_own_namespace_is_no_target() {
        let fault = of_target("/proc/thread-self/ns/net").unwrap_err();
        assert_eq!(fault.kind, FaultKind::Invalid, "{fault}");
    }

    #[test]
    fn a_target_is_a_pid_or_an_absolute_path_to_a_namespace() {
        assert_eq!(of_target("container").unwrap_err().kind, FaultKind::Invalid);
        assert_eq!(of_target("/proc/self/status").unwrap_err().kind, FaultKind::Invalid);
        assert_eq!(of_target("/nowhere/at/all").unwrap_err().kind, FaultKind::Outdated);
    }
}
