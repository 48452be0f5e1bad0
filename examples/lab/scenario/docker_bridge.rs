//! Containers of plain `docker run`, on a `docker0` that has a block of weavers: reached from other hosts without NAT.

use std::{fs, net::Ipv4Addr, path::PathBuf, time::Duration};

use ipnet::Ipv4Net;
use serde_json::Value;

use super::{
    basic,
    docker::not_here,
    dockerd::Dockers,
    stage::{Checks, eventually, holds, same},
};
use crate::{lab::Lab, net, report::Report};

/// The network that Docker has by itself.
const NETWORK: &str = "bridge";
/// Docker's file is looked at every five seconds.
const WRITTEN_WITHIN: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_secs(20);
/// What people had written.
const BEFORE: &str = "{\n  \"live-restore\": true,\n  \"log-level\" : \"warn\"\n}\n";

/// Two containers on each `docker0`, and one of ours beside them.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    if !lab.is_root() {
        return not_here(lab).await;
    }
    let mut dockers = Dockers::prepare(lab).await?;
    for host in 0..lab.hosts.len() {
        let file = file(lab, host);
        fs::write(&file, BEFORE)?;
        lab.edit(
            host,
            "[docker]",
            &format!("[docker]\nbridge = \"write\"\nbridge_size = 26\ndaemon_json = {file:?}"),
        )?;
    }
    let ready = lab.start_all().await?;
    let mut checks = Checks::default();
    let blocks = written(lab, &mut checks).await?;
    dockers.start_all(lab).await?;
    for (host, block) in blocks.iter().enumerate() {
        let status = lab.weavers(host, &["status"]).await?;
        let agrees = eventually(SOON, async || {
            let status = lab.weavers(host, &["status"]).await?;
            Ok(holds(status.contains(&format!("{block} is held (write), docker0 has it")), || status))
        });
        checks.timed(format!("h{}: docker0 has the block, says `status`", host + 1), agrees.await?);
        anyhow::ensure!(status.contains("docker0"), "{status}");
        for number in 1..=2 {
            let name = format!("h{}d{number}", host + 1);
            dockers.run_on(lab, host, (&name, NETWORK), &[]).await?;
            let address = lab.containers.last().map(|container| container.address);
            let inside = address.is_some_and(|address| block.contains(&address));
            checks.add(format!("{name} has an address of it"), holds(inside, || format!("{address:?}")));
        }
    }
    lab.attach(0).await?;
    let pings = lab.ping_all().await?;
    without_nat(lab, &mut checks).await?;
    ports(lab, &dockers, &mut checks).await?;
    calm(lab, &blocks, &mut checks).await?;
    off(lab, &dockers, &mut checks).await?;
    let mut report = basic::report(lab).await?;
    (report.ready, report.pings) = (ready, pings);
    report.checks.extend(checks.0);
    Ok(report)
}

fn file(lab: &Lab, host: usize) -> PathBuf {
    lab.hosts[host].dir.join("daemon.json")
}

/// Docker's file says what it has to, and what it said before; the block of each host.
async fn written(lab: &Lab, checks: &mut Checks) -> anyhow::Result<Vec<Ipv4Net>> {
    let mut blocks = Vec::new();
    for host in 0..lab.hosts.len() {
        let found = eventually(WRITTEN_WITHIN, async || {
            let text = fs::read_to_string(file(lab, host))?;
            Ok(holds(text.contains("\"bip\""), || text))
        });
        checks.timed(format!("Docker's file of h{} is written", host + 1), found.await?);
        let text = fs::read_to_string(file(lab, host))?;
        let kept = BEFORE.trim_end_matches("\n}\n");
        checks.add("and begins as it did", holds(text.starts_with(kept), || text.clone()));
        let keys: Value = serde_json::from_str(&text)?;
        let block: Ipv4Net = keys["bip"].as_str().unwrap_or_default().parse()?;
        checks.add(
            "with a key that this Docker does not know left out",
            same(&None, &keys.get("allow-direct-routing").cloned()),
        );
        let printed: Value = serde_json::from_str(&lab.weavers(host, &["docker", "bridge"]).await?)?;
        checks.add("`weavers docker bridge` prints the same", same(&keys["bip"], &printed["bip"]));
        blocks.push(block.trunc());
    }
    Ok(blocks)
}

/// Who is called sees the caller's own address: from another host, from the same bridge, and across to one of ours.
async fn without_nat(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let ours = lab.containers.len() - 1;
    for (from, to) in [(0, 2), (2, 0), (0, 1), (2, ours), (ours, 2), (0, ours)] {
        let [from, to] = [&lab.containers[from], &lab.containers[to]];
        let seen = net::tcp_source(&from.netns, &to.netns, to.address).await;
        let what = format!("{} is seen by {} under its own address", from.name, to.name);
        checks.add(
            what,
            seen.map_err(|error| format!("{error:#}")).and_then(|seen| same(&from.address, &seen)),
        );
    }
    Ok(())
}

/// Docker publishes ports of these containers by itself.
async fn ports(lab: &mut Lab, dockers: &Dockers, checks: &mut Checks) -> anyhow::Result<()> {
    let index = dockers.run_on(lab, 0, ("ports", NETWORK), &["-p", "8080:80"]).await?;
    let (netns, address) = (lab.containers[index].netns.clone(), lab.hosts[0].address);
    let far = lab.containers[2].netns.clone();
    let through = net::tcp_echo_by(&far, &netns, 80, (address, 8080)).await;
    checks.add(
        "a published port leads to its container from another host",
        through.map_err(|error| format!("{error:#}")),
    );
    dockers.docker(lab, 0, &["rm", "-f", "ports"]).await?;
    lab.containers.remove(index);
    Ok(())
}

/// What Docker has made is Docker's.
async fn calm(lab: &Lab, blocks: &[Ipv4Net], checks: &mut Checks) -> anyhow::Result<()> {
    for (host, block) in blocks.iter().enumerate() {
        checks.timed(format!("h{} has nothing left to do", host + 1), lab.settled(host).await?);
        let status = lab.status(host).await?;
        checks.add("and no problem", same(&serde_json::json!([]), &status["problems"]));
        let free = Ipv4Addr::from(u32::from(block.broadcast()) - 1);
        let said = lab.weavers(host, &["explain", &free.to_string()]).await?;
        checks.add("`explain` says what the block is for", holds(said.contains("docker-bridge"), || said));
    }
    Ok(())
}

/// Switched off, the block is held until docker0 has another address.
async fn off(lab: &mut Lab, dockers: &Dockers, checks: &mut Checks) -> anyhow::Result<()> {
    lab.edit(0, "bridge = \"write\"", "bridge = \"off\"")?;
    lab.weavers(0, &["reload"]).await?;
    let held = lab.ran(0, &["ipam", "lookup", "docker-bridge"]).await?;
    checks.add("the block is held as long as docker0 has it", same(&64, &held.stdout.lines().count()));
    let all = dockers.docker(lab, 0, &["ps", "-aq"]).await?;
    let all: Vec<&str> = all.split_whitespace().collect();
    dockers.docker(lab, 0, &[&["rm", "-f"], &all[..]].concat()).await?;
    lab.containers.retain(|container| container.host != 0 || !container.name.contains('d'));
    lab.on_host(0, &["sh", "-ec", "ip addr flush dev docker0; ip addr add 172.17.0.1/16 dev docker0"])
        .await?;
    let freed = eventually(SOON, async || {
        let held = lab.ran(0, &["ipam", "lookup", "docker-bridge"]).await?;
        Ok(holds(held.stdout.trim().is_empty(), || held.stdout))
    });
    checks.timed("and is free when it has another", freed.await?);
    Ok(())
}
