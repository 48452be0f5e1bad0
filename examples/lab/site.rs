//! Networks outside the VPC, each with hosts on one link; the VPC leads to them by gateways, and they to the VPC by its router.
//!
//! ```text
//!  h1, h2 ── VPC router ─┬─ office 192.168.7.1 ═╦═ h3 192.168.7.13
//!                        │                      ╚═ h4 192.168.7.14
//!                        └─ home   192.168.8.1 ══ h5 192.168.8.15      nobody gets in, and all that gets out has the router's address
//! ```

use std::net::Ipv4Addr;

use anyhow::Context;
use tokio::process::{Child, Command};

use crate::{host, net};

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// The gateway to it as routes of the VPC name it.
    pub gateway: &'static str,
    /// The link that its hosts share, and the router's end of it.
    pub link: &'static str,
    /// The last byte but one of its addresses.
    net: u8,
    /// The router translates addresses of what leaves it, and lets nothing in that nobody there has asked for.
    translates: bool,
}

/// A network that is led to.
pub const OFFICE: Site = Site { gateway: "vgw-office", link: "office", net: 7, translates: false };
/// One behind a router that translates addresses.
pub const HOME: Site = Site { gateway: "vgw-home", link: "home", net: 8, translates: true };
/// All of them.
pub const ALL: [Site; 2] = [OFFICE, HOME];

const LINK_MTU: u32 = 9001;

impl Site {
    /// Its addresses.
    pub fn cidr(self) -> String {
        format!("192.168.{}.0/24", self.net)
    }

    /// The address of a host in it.
    pub fn address_of(self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, self.net, number)
    }

    /// The router's address there.
    pub fn router(self) -> Ipv4Addr {
        self.address_of(1)
    }

    /// Makes it, without hosts.
    pub async fn build(self) -> anyhow::Result<()> {
        let (link, router) = (self.link, self.router());
        net::ip_batch(&[
            format!("link add {link} mtu {LINK_MTU} type bridge"),
            format!("addr add {router}/24 dev {link}"),
            format!("link set {link} up"),
        ])
        .await?;
        if self.translates {
            net::feed(Command::new("nft").args(["-f", "-"]), &self.translation()).await?;
        }
        Ok(())
    }

    fn translation(self) -> String {
        let Site { link, .. } = self;
        format!(
            "table ip {link} {{\n  \
             chain forward {{\n    type filter hook forward priority -1;\n    oifname \"{link}\" ct state new drop\n  }}\n  \
             chain postrouting {{\n    type nat hook postrouting priority srcnat;\n    ip saddr {} oifname != \"{link}\" masquerade\n  }}\n}}\n",
            self.cidr()
        )
    }

    /// Makes a host's namespaces and its link; the process that keeps them.
    pub async fn wire(self, name: &str, address: Ipv4Addr) -> anyhow::Result<Child> {
        let keeper = host::keep_namespaces(name).await?;
        let pid = keeper.id().context("the keeper of the namespaces has ended")?;
        self.plug_in(pid, (&format!("of-{name}"), "eth0"), address).await?;
        let route = format!("route replace default via {} dev eth0\n", self.router());
        net::feed(host::enter(pid).args(["ip", "-batch", "-"]), &route).await?;
        Ok(keeper)
    }

    /// Links a host to it, from the port of this name to the device of that.
    pub async fn plug_in(
        self,
        pid: u32,
        (port, device): (&str, &str),
        address: Ipv4Addr,
    ) -> anyhow::Result<()> {
        net::ip_batch(&[
            format!("link add {port} mtu {LINK_MTU} type veth peer name {device} mtu {LINK_MTU} netns {pid}"),
            format!("link set {port} master {}", self.link),
            format!("link set {port} up"),
        ])
        .await?;
        let lines = format!("link set lo up\naddr add {address}/24 dev {device}\nlink set {device} up\n");
        net::feed(host::enter(pid).args(["ip", "-batch", "-"]), &lines).await?;
        host::await_carrier(&mut Command::new("ip"), port).await?;
        host::await_carrier(host::enter(pid).arg("ip"), device).await
    }
}
