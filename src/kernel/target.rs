//! What a target leads to: the network namespace of a process, or of a path.

use std::{net::IpAddr, path::Path};

use nix::errno::Errno;
use rtnetlink::{new_connection_with_strict_check, packet_route::AddressFamily};
use tokio::{runtime, time::timeout};

use super::{
    address,
    bound::VISIT,
    fault::found,
    link,
    netns::{boot_id, cookie_here, cookie_of, inside, open, refused},
    visit,
};
use crate::{
    addr::Address,
    state::{Fault, FaultKind, Mac, Netns},
};

/// A namespace, and the address of the link of ours that leads into it and ends in an interface, where that was asked for and there
/// is one.
pub type Found = (Netns, Option<Address>);

/// The namespace that a target leads to; waits for it no longer than for any look into a container.
pub async fn find(target: String, interface: Option<String>) -> Result<Found, Fault> {
    let what = format!("looking for the network namespace of {target}");
    let work = async move |visitor: visit::Visitor| {
        let netns = known_by(&target, |path| visitor.cookie_of(path))?;
        let link = interface.and_then(|interface| link_into(&netns, &interface));
        Ok((netns, link))
    };
    visit::apart(&visit::FOR_TARGETS, &what, VISIT, work).await
}

/// The namespace of a process, by pid, or the one that a path leads to.
pub fn of_target(target: &str) -> Result<Netns, Fault> {
    known_by(target, cookie_of)
}

fn known_by(target: &str, cookie_of: impl FnOnce(&Path) -> Result<u64, Errno>) -> Result<Netns, Fault> {
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
        let held = address::inside(&handle, far.index, AddressFamily::Inet).await.ok()?;
        let ours = |address: &Address| Mac::of(*address).0 == far.mac[..];
        held.iter().filter_map(address::ip).find_map(|ip| match ip {
            IpAddr::V4(ip) => Some(Address::from(ip)).filter(ours),
            IpAddr::V6(_) => None,
        })
    };
    runtime.block_on(async { timeout(VISIT, look).await.ok()? })
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
