//! IPv6 beside IPv4 on the hosts of a lab.

use std::net::Ipv6Addr;

use weavers::addr::{Address, Prefix};

use super::stage::{Checks, holds};
use crate::{lab::Lab, net};

/// What precedes the IPv4 address of every container.
pub const PREFIX: &str = "fd12:3456:789a:1::/96";

/// As a value.
pub fn prefix() -> Prefix {
    PREFIX.parse().expect("it is written as a prefix")
}

/// Gives hosts of the VPC addresses of IPv6, and has the router pass it on.
pub async fn give(lab: &Lab, on_ec2: impl IntoIterator<Item = usize>) -> anyhow::Result<()> {
    net::sysctl6("conf/all/forwarding", "1")?;
    for host in on_ec2 {
        lab.hosts[host].add_v6().await?;
    }
    Ok(())
}

/// Says in a host's file that its containers have both kinds of addresses.
pub fn turn_on(lab: &Lab, host: usize) -> anyhow::Result<()> {
    lab.edit(host, "[network]", &format!("[network]\nipv6 = \"{PREFIX}\""))
}

/// The same for all hosts of a lab that have not started yet.
pub async fn give_all(lab: &Lab) -> anyhow::Result<()> {
    give(lab, 0..lab.hosts.len()).await?;
    (0..lab.hosts.len()).try_for_each(|host| turn_on(lab, host))
}

/// Containers reach each other, on one host and across hosts, with packets as large as the MTU.
pub async fn reached(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    for (from, to) in [(0, 1), (0, 2), (2, 0)] {
        let (name, other) = (lab.containers[from].name.clone(), lab.containers[to].name.clone());
        checks.add(
            format!("{name} reaches {other} by IPv6"),
            knocks(lab, from, address(lab, to), lab.options.mtu).await?,
        );
    }
    Ok(())
}

/// A container's address of IPv6.
pub fn address(lab: &Lab, container: usize) -> Ipv6Addr {
    prefix().address(Address::from(lab.containers[container].address))
}

/// Whether a packet of this length gets from a container to an address whole, and one comes back.
pub async fn knocks(lab: &Lab, from: usize, to: Ipv6Addr, bytes: u32) -> anyhow::Result<Result<(), String>> {
    let output = lab.knock(from, to.into(), bytes).await?;
    let said = || {
        let texts = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
        format!("{} does not reach {to}: {}", lab.containers[from].name, texts.concat())
    };
    Ok(holds(output.status.success(), said))
}
