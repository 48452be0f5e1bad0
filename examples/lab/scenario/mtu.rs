//! Packets as large as each way takes: inside the VPC whatever the uplink takes, to the internet 1500.

use std::time::Duration;

use ipnet::Ipv4Net;
use weavers::{
    addr::Address,
    sim::vpc::{Call, Caller, Targets},
    state::link_name,
};

use super::stage::{Checks, at_work, eventually, holds, report, same};
use crate::{internet, lab::Lab, net, report::Report};

/// The kernel tells of a changed uplink.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

/// Links follow the uplink, and a container with large packets reaches the internet.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let mut checks = Checks::default();
    for host in 0..lab.hosts.len() {
        lab.edit(host, &format!("mtu = {}", lab.options.mtu), "mtu = \"auto\"")?;
    }
    lab.options.mtu = 9001;
    let ready = at_work(lab).await?;
    checks.timed("with mtu = \"auto\" the links are as the uplink", links_have(lab, 9001).await?);
    for mtu in [1500, 9001] {
        lab.on_host(0, &["ip", "link", "set", "eth0", "mtu", &mtu.to_string()]).await?;
        checks
            .timed(format!("the uplink is changed to {mtu}, the links follow"), links_have(lab, mtu).await?);
        let settled = lab.settled(0).await?.map(|_| ());
        checks.add(format!("with {mtu} the host is converged"), settled);
    }
    to_the_internet(lab, &mut checks).await?;
    report(lab, ready, checks).await
}

/// TCP from a container to a host beyond a link of 1500 bytes, both with more on their own links.
async fn to_the_internet(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let far_away = internet::build().await?;
    let (table, destination) = (lab.table.0.clone(), Ipv4Net::default().into());
    let targets = Targets { gateway: Some(internet::GATEWAY.to_owned()), ..Targets::default() };
    let call = Call::CreateRoute { table, destination, targets, dry_run: false };
    let made = lab.cloud.with(|vpc, now| vpc.call(now, &Caller::Console, &call).result);
    made.map_err(|error| anyhow::anyhow!("{call:?}: {error}"))?;
    lab.settle().await?;
    let container = &lab.containers[0];
    let echo = net::tcp_echo(&container.netns, &far_away, internet::FAR_AWAY).await;
    let echo = echo.map_err(|error| format!("{error:#}"));
    checks.add("a megabyte goes to the internet and back by TCP, through 1500 bytes", echo);
    let far_away = internet::FAR_AWAY.to_string();
    let route = lab.in_container(0, &["ip", "route", "get", &far_away]).await?;
    checks.add("the container has learned what passes there", holds(route.contains("mtu 1500"), || route));
    let ping = lab.ping(0, 1).await?;
    checks.add("and goes on with large packets inside", holds(ping.ok, || ping.said));
    Ok(())
}

/// Both ends of the first container's link have this MTU.
async fn links_have(lab: &Lab, mtu: u32) -> anyhow::Result<Result<Duration, String>> {
    let link = link_name(Address::from(lab.containers[0].address));
    let expected = [mtu.to_string(), mtu.to_string()];
    eventually(HEARD_WITHIN, async || {
        let near = lab.on_host(0, &["cat", &format!("/sys/class/net/{link}/mtu")]).await?;
        let far = lab.in_container(0, &["ip", "-o", "link", "show", "ethwe"]).await?;
        let far = far.split_once("mtu ").and_then(|(_, rest)| rest.split(' ').next()).unwrap_or_default();
        Ok(same(&expected, &[near.trim().to_owned(), far.to_owned()]))
    })
    .await
}
