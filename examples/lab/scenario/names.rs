//! One name for all hosts, as a private DNS zone has it: each host resolves it to all of them, itself among them.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::Context;

use super::{
    basic,
    stage::{Checks, eventually, holds, report, same},
};
use crate::{lab::Lab, report::Report};

const NAME: &str = "weave.internal";
/// How long until a daemon that is refused has ended, and until a new answer is followed.
const SOON: Duration = Duration::from_secs(10);
/// Exit code of an invalid configuration.
const INVALID: i32 = 78;

pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let mut checks = Checks::default();
    let all: Vec<Ipv4Addr> = lab.hosts.iter().map(|host| host.address).collect();
    let listed: Vec<String> = all.iter().map(|address| format!("\"{address}\"")).collect();
    for host in 0..lab.hosts.len() {
        resolve(lab, host, &all).await?;
        lab.edit(host, &listed.join(", "), &format!("\"{NAME}\""))?;
    }
    lab.start_host(0)?;
    let ended = lab.hosts[0].ended(SOON).await?;
    checks.add("a name of several hosts alone is refused", same(&Some(INVALID), &ended.code()));
    let log = std::fs::read_to_string(lab.hosts[0].log())?;
    let way_out = ["weave.internal stands for 3 hosts", "ipam.expected_peers"];
    checks.add("with the way out", holds(way_out.iter().all(|words| log.contains(words)), || log.clone()));

    let start = Instant::now();
    for host in 0..lab.hosts.len() {
        lab.edit(host, "[ipam]\n", &format!("[ipam]\nexpected_peers = {}\n", all.len()))?;
        lab.start_host(host)?;
    }
    for host in 0..lab.hosts.len() {
        lab.await_ready(host).await?;
        lab.attach(host).await?;
    }
    let ready = start.elapsed();
    for host in 0..lab.hosts.len() {
        let status = lab.status(host).await?;
        checks.add(
            format!("h{} is in the one ring of all", host + 1),
            same(&Some(all.len() as u64), &status["ipam"]["owners"].as_u64()),
        );
        checks.add(
            format!("h{} dials the others and not itself", host + 1),
            same(&others(&all, all[host]), &targets(lab, host).await?),
        );
    }

    resolve(lab, 0, &all[..2]).await?;
    let fewer = eventually(SOON, async || Ok(same(&others(&all[..2], all[0]), &targets(lab, 0).await?)));
    checks.timed("h1 follows the answer", fewer.await?);

    lab.edit(0, &format!("expected_peers = {}\n", all.len()), "")?;
    let reload = lab.ran(0, &["reload"]).await?;
    checks.add("a reload without the number is refused", reload.says(INVALID, &["ipam.expected_peers"]));
    lab.edit(0, "[ipam]\n", &format!("[ipam]\nexpected_peers = {}\n", all.len()))?;
    lab.weavers(0, &["reload"]).await?;
    lab.edit(1, &format!("expected_peers = {}\n", all.len()), "")?;
    lab.stop_host(1).await?;
    lab.start_host(1)?;
    lab.await_ready(1).await?;
    checks.add(
        "a host that has a ring starts without it",
        basic::owned(lab, 1).await.map(drop).map_err(|error| format!("{error:#}")),
    );
    report(lab, ready, checks).await
}

/// Has the resolver of a host answer with these addresses.
async fn resolve(lab: &Lab, host: usize, addresses: &[Ipv4Addr]) -> anyhow::Result<()> {
    let (file, order) = (lab.hosts[host].dir.join("hosts"), lab.hosts[host].dir.join("host.conf"));
    let lines: String = addresses.iter().map(|address| format!("{address} {NAME}\n")).collect();
    std::fs::write(&file, format!("127.0.0.1 localhost\n{lines}"))?;
    // Without it the C library gives the first address of a name in the file.
    std::fs::write(&order, "multi on\n")?;
    for (file, place) in [(&file, "/etc/hosts"), (&order, "/etc/host.conf")] {
        let file = file.to_str().context("the lab's directory has no plain name")?;
        lab.on_host(host, &["touch", place]).await?;
        lab.on_host(host, &["mount", "--bind", file, place]).await?;
    }
    Ok(())
}

fn others(all: &[Ipv4Addr], own: Ipv4Addr) -> Vec<String> {
    all.iter().filter(|address| **address != own).map(ToString::to_string).collect()
}

/// Whom a host dials because it is listed.
async fn targets(lab: &Lab, host: usize) -> anyhow::Result<Vec<String>> {
    let status = lab.status(host).await?;
    let targets = status["targets"].as_array().context("no targets")?;
    let mut targets: Vec<String> =
        targets.iter().filter_map(|target| Some(target["target"].as_str()?.to_owned())).collect();
    targets.retain(|target| !target.contains(':'));
    targets.sort();
    Ok(targets)
}
