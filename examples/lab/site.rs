//! A network outside the VPC, with hosts on one link; the VPC leads to it by a gateway, and it to the VPC by its router.
//!
//! ```text
//!  h1, h2 ── VPC router ── office 192.168.7.1 ═╦═ h3 192.168.7.13
//!                                              ╚═ h4 192.168.7.14
//! ```

use std::net::Ipv4Addr;

use anyhow::Context;
use tokio::process::{Child, Command};

use crate::{host, net};

/// The gateway as routes of the VPC name it.
pub const GATEWAY: &str = "vgw-office";
/// The link that its hosts share, and the router's end of it.
pub const LINK: &str = "office";
/// Its addresses.
pub const CIDR: &str = "192.168.7.0/24";
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);
const LINK_MTU: u32 = 9001;

/// How the router's kernel sends a packet there.
pub fn hop() -> String {
    format!("dev {LINK}")
}

/// The address of a host in it.
pub fn address_of(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 7, number)
}

/// Makes it, without hosts.
pub async fn build() -> anyhow::Result<()> {
    net::ip_batch(&[
        format!("link add {LINK} mtu {LINK_MTU} type bridge"),
        format!("addr add {ROUTER}/24 dev {LINK}"),
        format!("link set {LINK} up"),
    ])
    .await
}

/// Makes a host's namespaces and its link; the process that keeps them.
pub async fn wire(name: &str, address: Ipv4Addr) -> anyhow::Result<Child> {
    let keeper = host::keep_namespaces(name).await?;
    let pid = keeper.id().context("the keeper of the namespaces has ended")?;
    let port = format!("of-{name}");
    net::ip_batch(&[
        format!("link add {port} mtu {LINK_MTU} type veth peer name eth0 mtu {LINK_MTU} netns {pid}"),
        format!("link set {port} master {LINK}"),
        format!("link set {port} up"),
    ])
    .await?;
    let lines = format!(
        "link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\nroute replace default via {ROUTER} dev eth0\n"
    );
    net::feed(host::enter(pid).args(["ip", "-batch", "-"]), &lines).await?;
    host::await_carrier(&mut Command::new("ip"), &port).await?;
    host::await_carrier(host::enter(pid).arg("ip"), "eth0").await?;
    Ok(keeper)
}
