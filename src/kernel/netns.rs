//! Network namespaces: how one is known, and what leads to it.
//!
//! A thread that is to enter a namespace here is made for it and thrown away after, so there is nothing
//! to restore and nothing that can be restored wrongly.

use std::{
    fs::{self, File, OpenOptions},
    io,
    net::IpAddr,
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
use rtnetlink::new_connection_with_strict_check;
use tokio::{runtime, time::timeout};

use super::{
    address,
    bound::VISIT,
    fault::{Cause, fault, found},
    link, visit, ways,
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

/// A namespace, and the address of the link of ours that leads into it and ends in an interface, where that was asked for and there
/// is one.
pub type Found = (Netns, Option<Address>);

/// The namespace that a target leads to; waits for it no longer than for any look into a container.
pub async fn find(target: String, interface: Option<String>) -> Result<Found, Fault> {
    let what = format!("looking for the network namespace of {target}");
    let work = async move |_| {
        let netns = of_target(&target)?;
        let link = interface.and_then(|interface| link_into(&netns, &interface));
        Ok((netns, link))
    };
    visit::apart(&what, VISIT, work).await
}

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
    Ok(Netns::new(boot_id(), cookie, path))
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
    *netns.boot == *boot_id() && cookie_of(&netns.path) == Ok(netns.cookie)
}

/// Whether neither the path of `netns` nor any other that is known leads to it, for certain. What cannot be told is not
/// gone.
pub fn is_gone(netns: &Netns) -> bool {
    let path_is_over = || match cookie_of(&netns.path) {
        Ok(cookie) => cookie != netns.cookie,
        // Nothing is there, or a file on which the namespace was mounted once.
        Err(cause) => [Errno::ENOENT, Errno::ENOTDIR, Errno::ESRCH, Errno::EINVAL].contains(&cause),
    };
    *netns.boot != *boot_id() || path_is_over() && ways::to(netns).is_none()
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
pub(super) fn open(path: &Path) -> Result<File, Errno> {
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
