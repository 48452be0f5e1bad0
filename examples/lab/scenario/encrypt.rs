//! Hosts of one VPC whose packets are all encrypted: what crosses the router is WireGuard's, or it is not sent.

use std::time::Duration;

use super::{
    basic,
    mixed::path,
    password,
    stage::{Checks, NOT_CONVERGED, at_work, eventually, holds, passes, report, same},
    tunnels::hosts_reach,
    v6,
};
use crate::{lab::Lab, net, report::Report, tap::Tap};

const SOON: Duration = Duration::from_secs(15);
const LATER: Duration = Duration::from_secs(60);
/// What the uplinks carry, less what a tunnel takes.
const CARRIED: u32 = 8941;
const UDP_PORT: u16 = 6784;
const ON: &str = "tunnel = \"on\"\nencrypt = \"all\"";

pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let mut checks = Checks::default();
    for host in 0..lab.hosts.len() {
        password::set(lab, host, "correct horse battery staple")?;
        let mesh = format!("[mesh]\n{}\n[paths]\n{ON}\n\n[ipam]", password::setting(lab, host));
        lab.edit(host, "[ipam]", &mesh)?;
        v6::turn_on(lab, host)?;
    }
    v6::give(lab, 0..lab.hosts.len()).await?;
    let clear = Tap::on_addresses(lab.range, v6::prefix())?;
    let ready = at_work(lab).await?;
    encrypted(lab, &mut checks).await?;
    meddled_with(lab, &mut checks).await?;
    never_heard(clear, "packet from or to a container", &mut checks)?;
    keyless(lab, &mut checks).await?;
    turned_off(lab, &mut checks).await?;
    let mut report = report(lab, ready, checks).await?;
    report.checks.extend(left(lab).await?.0);
    Ok(report)
}

fn pairs(lab: &Lab) -> impl Iterator<Item = (usize, usize)> {
    let count = lab.hosts.len();
    (0..count)
        .flat_map(move |one| (0..count).filter(move |other| *other != one).map(move |other| (one, other)))
}

fn never_heard(tap: Tap, what: &str, checks: &mut Checks) -> anyhow::Result<()> {
    let (len, _) = tap.heard(&[])?;
    checks.add(
        format!("no {what} has crossed the router in the clear"),
        holds(len == 0, || format!("{len} bytes")),
    );
    Ok(())
}

/// All pairs reach each other, and only datagrams of WireGuard are on the wire.
async fn encrypted(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let sealed = Tap::on_port(UDP_PORT)?;
    for (from, to) in pairs(lab) {
        let known = eventually(SOON, async || Ok(same(&"tunnel".to_owned(), &path(lab, from, to).await?)));
        checks.timed(format!("the path from h{} to h{} is a tunnel", from + 1, to + 1), known.await?);
        checks.timed(format!("h{} reaches h{}", from + 1, to + 1), reaches(lab, from, to).await?);
        let to6 = v6::address(lab, to);
        let by_v6 = eventually(SOON, async || v6::knocks(lab, from, to6, CARRIED).await);
        checks.timed("and by IPv6", by_v6.await?);
    }
    let [one, other] = [&lab.containers[0], &lab.containers[1]];
    let echo = net::tcp_echo(&one.netns, &other.netns, other.address).await;
    checks.add("a megabyte by TCP arrives as it was sent", echo.map_err(|error| format!("{error:#}")));
    for host in 0..lab.hosts.len() {
        let probed = format!("packets flow to and from {0} of {0} hosts", lab.hosts.len() - 1);
        let flows = eventually(LATER, async || Ok(lab.ran(host, &["status"]).await?.says(0, &[&probed])));
        checks.timed(format!("probes of h{} flow to all", host + 1), flows.await?);
        let owned = basic::owned(lab, host).await?;
        let routes = lab.weavers(host, &["status"]).await?;
        let kept = owned.iter().all(|cidr| routes.contains(&cidr.to_string()));
        checks.add(format!("the routes of h{} stay in the tables", host + 1), holds(kept, || routes));
        checks.timed(format!("h{} is converged", host + 1), lab.settled(host).await?);
    }
    hosts_reach(lab, &[(0, 1)], checks).await?;
    let (len, _) = sealed.heard(&[])?;
    checks.add(format!("{len} bytes were sealed"), holds(len > 2 << 20, || "that is too little".to_owned()));
    Ok(())
}

async fn reaches(lab: &Lab, from: usize, to: usize) -> anyhow::Result<Result<Duration, String>> {
    eventually(SOON, async || {
        let ping = lab.ping_with(from, to, CARRIED).await?;
        Ok(holds(ping.ok, || format!("{} does not reach {}", ping.from, ping.to)))
    })
    .await
}

/// Where somebody removes the tunnel, its routes or an end, packets wait; a stopped daemon changes nothing.
async fn meddled_with(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    for script in [
        "ip link del weave-tunnel",
        "ip route flush proto 67 dev weave-tunnel",
        "for peer in $(wg show weave-tunnel peers); do wg set weave-tunnel peer $peer remove; done",
    ] {
        let pinger = lab.ping_on(0, 1)?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        lab.on_host(0, &["sh", "-ec", script]).await?;
        checks.timed(format!("after `{script}` packets pass again"), reaches(lab, 0, 1).await?);
        let seen = pinger.end().await?;
        checks.add(format!("meanwhile: {seen}"), holds(seen.sent > 0, || "nothing was sent".to_owned()));
    }
    lab.stop_host(0).await?;
    lab.on_host(0, &["ip", "link", "del", "weave-tunnel"]).await?;
    let lost = !lab.ping_with(0, 1, CARRIED).await?.ok;
    checks
        .add("without a daemon and a tunnel nothing passes", holds(lost, || "a packet came back".to_owned()));
    let lost = v6::knocks(lab, 0, v6::address(lab, 1), CARRIED).await?;
    checks.add("nor by IPv6", holds(lost.is_err(), || "a packet came back".to_owned()));
    lab.start_host(0)?;
    lab.await_ready(0).await?;
    checks.timed("and with the daemon it does again", reaches(lab, 0, 1).await?);
    Ok(())
}

/// A host without a key is reached by nobody who wants all encrypted, and told so.
async fn keyless(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let host = lab.hosts.len() - 1;
    lab.edit(host, ON, "tunnel = \"off\"")?;
    lab.stop_host(host).await?;
    lab.start_host(host)?;
    lab.await_ready(host).await?;
    for (from, to, why) in [(0, host, "it has no key"), (host, 0, "this host has no key")] {
        let none = eventually(SOON, async || Ok(same(&"none".to_owned(), &path(lab, from, to).await?)));
        checks.timed(format!("no path leads from h{} to h{}", from + 1, to + 1), none.await?);
        let status = lab.ran(from, &["status", "--check"]).await?;
        let way_out = "set paths.tunnel = \"on\"";
        checks.add(
            "which is said, with the way out",
            status.says(NOT_CONVERGED, &["no path leads to", why, way_out]),
        );
    }
    // What the two of one mind send to each other was heard not to be in the clear; now it is about the third.
    let clear = Tap::on_addresses(lab.range, v6::prefix())?;
    for (from, to) in [(0, host), (host, 0)] {
        let lost = passes(lab, from, to).await?;
        checks.add("and no packet gets there", holds(lost.is_err(), || "one did".to_owned()));
        let lost = v6::knocks(lab, from, v6::address(lab, to), CARRIED).await?;
        checks.add("nor by IPv6", holds(lost.is_err(), || "one did".to_owned()));
    }
    never_heard(clear, "packet between them", checks)?;
    Ok(())
}

/// It is turned off without a restart, and all goes by the VPC as before.
async fn turned_off(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    for host in 0..lab.hosts.len() - 1 {
        lab.edit(host, ON, "tunnel = \"on\"")?;
        let reloaded = lab.ran(host, &["reload"]).await?;
        checks.add(format!("h{} encrypts no more", host + 1), reloaded.says(0, &["adopted"]));
    }
    for (from, to) in pairs(lab) {
        let known = eventually(SOON, async || Ok(same(&"vpc".to_owned(), &path(lab, from, to).await?)));
        checks.timed(format!("the path from h{} to h{} is the VPC's", from + 1, to + 1), known.await?);
    }
    for host in 0..lab.hosts.len() {
        checks.timed(format!("h{} is converged", host + 1), lab.settled(host).await?);
    }
    // By the larger segments of TCP containers were told what a tunnel carries, which they remember for ten minutes.
    for container in 0..lab.containers.len() {
        lab.in_container(container, &["ip", "route", "flush", "cache"]).await?;
    }
    for (from, to) in pairs(lab) {
        checks.add(format!("packets from h{} to h{} pass", from + 1, to + 1), passes(lab, from, to).await?);
    }
    Ok(())
}

/// A host that leaves takes its end of tunnels with it, and its key.
async fn left(lab: &mut Lab) -> anyhow::Result<Checks> {
    let mut checks = Checks::default();
    let host = 1;
    let key = lab.hosts[host].dir.join("state/tunnel.key");
    let before = lab.on_host(host, &["ip", "-o", "link"]).await?;
    let was_there = before.contains("weave-tunnel") && key.exists();
    checks.add("a host with an end of tunnels is to leave", holds(was_there, || before));
    let reset = lab.ran(host, &["reset"]).await?;
    checks.add("it is reset", reset.says(0, &[]));
    lab.hosts[host].ended(SOON).await?;
    let after = lab.on_host(host, &["ip", "-o", "link"]).await?;
    checks.add("its end is gone", holds(!after.contains("weave-tunnel"), || after));
    checks.add("and its key", holds(!key.exists(), || key.display().to_string()));
    Ok(checks)
}
