//! Containers and hosts leave: detach, drain, forget, reset, and a daemon that is only stopped.

use std::{collections::BTreeSet, time::Duration};

use ipnet::Ipv4Net;
use tokio::{process::Command, time::sleep};
use weavers::sim::vpc::{Action, Faults, RouteTarget};

use super::{
    basic::{self, owned},
    stage::{Checks, eventually, holds, same},
    terminate::forget,
};
use crate::{lab::Lab, net, pinger::end_without_loss, report::Report};

/// For what should happen at once.
const SOON: Duration = Duration::from_secs(5);
const RESET_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the data path is watched while a daemon is stopped.
const STOPPED: Duration = Duration::from_secs(2);
/// How long EC2 takes for an answer, for somebody who waits to see why.
const SLOW_MS: u64 = 1_000;

/// The four hosts, by what becomes of them.
const STAYS: usize = 0;
const RESET: usize = 1;
const DIES: usize = 2;
const DRAINED: usize = 3;

/// One after the other leaves, until nobody is left.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let ready = lab.start_all().await?;
    for host in 0..lab.hosts.len() {
        lab.attach(host).await?;
    }
    let second = lab.attach(STAYS).await?;
    let mut checks = Checks::default();

    detached(lab, &mut checks, second).await?;
    lab.settle().await?;
    // The containers are numbered as their hosts.
    let pingers = lab.ping_ring(&[STAYS, RESET])?;
    stopped(lab, &mut checks).await?;
    drained(lab, &mut checks).await?;
    forgotten(lab, &mut checks).await?;
    let (sent, lost) = end_without_loss(pingers).await?;
    checks.add(format!("none of {sent} pings between those that stay was lost meanwhile"), lost);

    let pingers = lab.ping_ring(&[STAYS, DRAINED])?;
    reset(lab, &mut checks, RESET).await?;
    let (sent, lost) = end_without_loss(pingers).await?;
    checks.add(format!("none of {sent} pings between those that stay was lost meanwhile"), lost);
    lab.settle().await?;
    let pings = vec![lab.ping(STAYS, DRAINED).await?, lab.ping(DRAINED, STAYS).await?];
    let mut report = basic::report(lab).await?;
    (report.ready, report.pings) = (ready, pings);

    reset(lab, &mut checks, DRAINED).await?;
    reset(lab, &mut checks, STAYS).await?;
    let left = lab.routes_inside();
    checks.add("after the last reset no route is left in the range", same(&Vec::new(), &left));
    report.checks.extend(checks.0);
    Ok(report)
}

/// Nothing of a detached container is left, and its address can be had again.
async fn detached(lab: &mut Lab, checks: &mut Checks, container: usize) -> anyhow::Result<()> {
    let gone = lab.containers[container].clone();
    let ran = lab.ran(gone.host, &["detach", &gone.netns.to_string_lossy()]).await?;
    checks.add("detach succeeds", ran.says(0, &[]));
    let link = format!("wv{:08x}", u32::from(gone.address));
    let links = lab.on_host(gone.host, &["ip", "-o", "link", "show"]).await?;
    let route = lab.on_host(gone.host, &["ip", "route", "show", &gone.address.to_string()]).await?;
    let inside = lab.in_container(container, &["ip", "-o", "link", "show"]).await?;
    checks.add(
        "detach leaves no link and no route",
        holds(!links.contains(&link) && route.trim().is_empty() && !inside.contains("ethwe"), || {
            format!("{links}{route}{inside}")
        }),
    );
    let again = lab.ran(gone.host, &["detach", &gone.netns.to_string_lossy()]).await?;
    checks.add("detach of what is detached is success", again.says(0, &["nothing is attached here"]));
    let claim = lab.ran(gone.host, &["ipam", "claim", "next", &gone.address.to_string()]).await?;
    checks.add("its address is free again", claim.says(0, &[&gone.address.to_string()]));
    lab.weavers(gone.host, &["ipam", "free", "next"]).await?;
    // The pid of a process that has no container.
    let name = std::process::id().to_string();
    lab.weavers(gone.host, &["attach", &gone.netns.to_string_lossy(), "--name", &name]).await?;
    let ran = lab.ran(gone.host, &["detach", &name]).await?;
    let inside = lab.in_container(container, &["ip", "-o", "link", "show"]).await?;
    checks.add(
        "a container whose name is a pid of others is detached by its name",
        ran.says(0, &[]).and(holds(!inside.contains("ethwe"), || inside.clone())),
    );
    lab.containers.remove(container);
    Ok(())
}

/// A stopped daemon leaves the data path as it is.
async fn stopped(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let writes = lab.writes();
    // Ends with an error unless the exit code is 0.
    lab.stop_host(RESET).await?;
    let ran = lab.ran(RESET, &["status"]).await?;
    checks.add("a stopped daemon cannot be reached", ran.says(4, &[]));
    sleep(STOPPED).await;
    lab.start_host(RESET)?;
    lab.await_ready(RESET).await?;
    checks.add("a stop and a start write nothing to EC2", same(&writes, &lab.writes()));
    Ok(())
}

/// A drained host has given its ranges away, and after a restart lives on what others give.
async fn drained(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let refused = lab.ran(DRAINED, &["drain"]).await?;
    checks.add("drain is refused while a container is attached", refused.says(5, &["attached"]));
    let container = lab.containers[DRAINED].clone();
    let netns = container.netns.to_string_lossy().into_owned();
    lab.weavers(DRAINED, &["detach", &netns]).await?;
    lab.cloud.with(|vpc, _| vpc.set_faults(Faults { delay_ms: SLOW_MS, ..Faults::default() }));
    let drained = lab.ran(DRAINED, &["drain"]).await?;
    lab.cloud.with(|vpc, _| vpc.set_faults(Faults::default()));
    checks.add("drain succeeds", drained.says(0, &[]));
    let waited = drained.stderr.contains("all ranges given away")
        && drained.stderr.contains("to lead to the new owner");
    checks.add("and says what it waits for while EC2 is slow", holds(waited, || drained.stderr.clone()));
    same_after(lab, checks, "its ranges and routes went to an heir", DRAINED).await?;
    let attach = lab.ran(DRAINED, &["attach", &netns]).await?;
    checks.add(
        "a drained host takes no container, and says what to do",
        attach.says(1, &["leaving", "restart"]),
    );
    lab.stop_host(DRAINED).await?;
    lab.start_host(DRAINED)?;
    let attach = lab.ran_when_up(DRAINED, &["attach", &netns]).await?;
    checks.add("after a restart it is given space when it needs some", attach.says(0, &[]));
    lab.containers[DRAINED].address = lab.address_in(&container.name).await?;
    lab.settle().await?;
    let ping = lab.ping(STAYS, DRAINED).await?;
    checks.add("its container is reached", holds(ping.ok, || "no ping passes".to_owned()));
    Ok(())
}

/// A dead host's ranges are taken over with one call each; a living one's are not.
async fn forgotten(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let name = lab.hosts[DIES].name.clone();
    let refused = lab.ran(STAYS, &["forget", &name]).await?;
    checks.add("forget is refused while the host is alive", refused.says(5, &["alive"]));
    let had = owned(lab, DIES).await?;
    lab.terminate_host(DIES).await?;
    let before = lab.writes();
    let forgot = forget(lab, STAYS, &[&name]).await?;
    checks.add("forget succeeds once it is seen to be dead", forgot.says(0, &[]));
    // A route to it that covers what is routed by more specific ones goes once all that changed hands has settled.
    let led = eventually(SOON, async || led_by_the_ring(lab).await).await?;
    checks.timed("its ranges and routes were taken over", led);
    let after = lab.writes();
    let more = |action| after.get(&action).unwrap_or(&0) - before.get(&action).unwrap_or(&0);
    let (moved, deleted) =
        (more(Action::ReplaceRoute) + more(Action::CreateRoute), more(Action::DeleteRoute));
    checks.add(
        format!("{} CIDRs cost one call each and no delete", had.len()),
        same(&(had.len() as u64, 0), &(moved, deleted)),
    );
    Ok(())
}

/// Nobody's route leads to the host any more, and the others' routes say what their ring says.
async fn same_after(lab: &Lab, checks: &mut Checks, what: &str, host: usize) -> anyhow::Result<()> {
    let moved = eventually(SOON, async || {
        let to_it = lab.routes_to(host);
        Ok(led_by_the_ring(lab).await?.and_then(|()| same(&Vec::new(), &to_it)))
    });
    checks.timed(what, moved.await?);
    Ok(())
}

/// The routes say what the ring says.
async fn led_by_the_ring(lab: &Lab) -> anyhow::Result<Result<(), String>> {
    let report = basic::report(lab).await?;
    let wrong = report.checks.into_iter().find_map(|(what, result)| Some((what, result.err()?)));
    Ok(wrong.map_or(Ok(()), |(what, why)| Err(format!("{what}: {why}"))))
}

/// Nothing of ours is left on a host that was reset; only forwarding stays on, which others may need.
async fn reset(lab: &mut Lab, checks: &mut Checks, host: usize) -> anyhow::Result<()> {
    let name = lab.hosts[host].name.clone();
    let ran = lab.ran(host, &["reset"]).await?;
    checks.add(format!("{name}: reset succeeds"), ran.says(0, &[]));
    let status = lab.hosts[host].ended(RESET_TIMEOUT).await?;
    checks.add(format!("{name}: its daemon has ended with 0"), same(&Some(0), &status.code()));
    let links = lab.on_host(host, &["ip", "-o", "link", "show"]).await?;
    let ours: Vec<&str> = links.lines().filter(|line| line.contains(": wv")).collect();
    checks.add(format!("{name}: no link is left"), same(&Vec::new(), &ours));
    let routes = lab.on_host(host, &["ip", "route", "show", "table", "all", "proto", "67"]).await?;
    checks.add(format!("{name}: no host route is left"), same(&"", &routes.trim()));
    let tables = lab.on_host(host, &["nft", "list", "tables"]).await?;
    checks.add(format!("{name}: no nftables table is left"), same(&"", &tables.trim()));
    checks.add(format!("{name}: no VPC route leads to it"), same(&Vec::new(), &lab.routes_to(host)));
    let store = lab.hosts[host].store();
    checks.add(format!("{name}: no store is left"), same(&false, &store.exists()));
    for container in lab.containers.iter().filter(|container| container.host == host) {
        let inside = net::run(Command::new("ip").args(["-n", &container.name, "-o", "link"])).await?;
        let empty = holds(!inside.contains("ethwe"), || inside.clone());
        checks.add(format!("{name}: its container has no link any more"), empty);
    }
    Ok(())
}

impl Lab {
    /// Destinations inside the range that lead to a host.
    pub fn routes_to(&self, host: usize) -> Vec<Ipv4Net> {
        let target = RouteTarget::Interface(self.hosts[host].interface.clone());
        let routes = self.cloud.with(|vpc, _| vpc.routes(&self.table));
        routes.into_iter().filter(|route| route.target == target).map(|route| route.destination).collect()
    }

    /// All destinations inside the range.
    pub fn routes_inside(&self) -> Vec<Ipv4Net> {
        let routes = self.cloud.with(|vpc, _| vpc.routes(&self.table));
        let destinations: BTreeSet<Ipv4Net> = routes.into_iter().map(|route| route.destination).collect();
        destinations.into_iter().filter(|destination| self.range.contains(destination)).collect()
    }
}
