//! Containers of Debian's plugins `ptp` and `bridge`, which borrow their addresses from weavers: beside our own, across hosts.

use std::{fs, time::Duration};

use serde_json::{Value, json};
use tokio::process::Command;

use super::{
    basic,
    runtime::{Call, Runtime, told},
    stage::{Checks, eventually, holds, same},
};
use crate::{
    lab::{Lab, Namespace},
    net,
    report::Report,
};

/// The network of each plugin, by its name.
const NETWORKS: [(&str, &str); 2] = [("p2p", "ptp"), ("br", "bridge")];
const SOON: Duration = Duration::from_secs(10);
/// What is there to be cleaned up after a look at the host, every few seconds.
const FREED_WITHIN: Duration = Duration::from_secs(20);

/// A container that was added, and the network that it is in.
struct Added {
    network: &'static str,
    host: usize,
    container: Namespace,
}

/// Containers of both plugins and of ours, everybody to everybody.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let runtime = Runtime::prepare(lab, &[]).await?;
    for index in 0..lab.hosts.len() {
        for (number, (network, upper)) in NETWORKS.into_iter().enumerate() {
            let path = lab.hosts[index].dir.join(format!("net.d/2{number}-{network}.conflist"));
            fs::write(path, list(network, upper, lab.options.mtu).to_string())?;
        }
    }
    let ready = lab.start_all().await?;
    let mut checks = Checks::default();
    let mut added = Vec::new();
    for (host, network) in [(0, "p2p"), (0, "p2p"), (0, "br"), (0, "br"), (1, "p2p"), (1, "br")] {
        let container = lab.make_netns(host).await?;
        let ran = runtime.list_of(lab, host, (network, "add"), &container, (&json!({}), "")).await?;
        checks.add(format!("{} is added to {network}", container.name), ran.says(0, &[]));
        anyhow::ensure!(ran.code == 0, "{}", ran.stderr);
        lab.adopt(host, Namespace { name: container.name.clone(), path: container.path.clone() }).await?;
        added.push(Added { network, host, container });
    }
    for host in [0, 2] {
        lab.attach(host).await?;
    }
    let pings = lab.ping_all().await?;
    calm(lab, &mut checks).await?;
    checked(lab, &runtime, &added, &mut checks).await?;
    lender(lab, &runtime, &mut checks).await?;
    without_a_daemon(lab, &runtime, &mut added, &mut checks).await?;
    end(lab, &runtime, &added, &mut checks).await?;
    let mut report = basic::report(lab).await?;
    (report.ready, report.pings) = (ready, pings);
    report.checks.extend(checks.0);
    Ok(report)
}

/// What a user of these plugins writes.
fn list(network: &str, upper: &str, mtu: u32) -> Value {
    let mut plugin = json!({ "type": upper, "mtu": mtu, "ipam": { "type": "weavers-ipam" } });
    if upper == "bridge" {
        plugin["bridge"] = json!("cni0");
        plugin["isGateway"] = json!(true);
        plugin["ipam"]["block"] = json!(26);
    }
    json!({ "cniVersion": "1.0.0", "name": network, "plugins": [plugin] })
}

/// What the plugins have made is theirs, and nothing is to be done about it.
async fn calm(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let before: Vec<String> = routes(lab).await?;
    for host in 0..lab.hosts.len() {
        checks.timed(format!("h{} has nothing left to do", host + 1), lab.settled(host).await?);
        let plan = lab.weavers(host, &["plan"]).await?;
        checks.add("its plan is empty and names no conflict", holds(!plan.contains("conflict"), || plan));
        let status = lab.status(host).await?;
        checks.add("and nothing is a problem", same(&json!([]), &status["problems"]));
    }
    checks.add("the routes of the plugins are as they were", same(&before, &routes(lab).await?));
    let status = lab.weavers(0, &["status"]).await?;
    checks.add(
        "`weavers status` shows whom addresses were lent to",
        holds(status.contains("ipam/p2p/h1"), || status),
    );
    let address = lab.containers[0].address.to_string();
    let said = lab.weavers(0, &["explain", &address]).await?;
    checks.add("and `weavers explain` whose one is", holds(said.contains("ipam/p2p/"), || said));
    Ok(())
}

async fn routes(lab: &Lab) -> anyhow::Result<Vec<String>> {
    let text =
        lab.on_host(0, &["sh", "-c", "ip route | grep -E 'veth|cni0' | sed 's/ linkdown//' | sort"]).await?;
    Ok(text.lines().map(|line| line.trim().to_owned()).collect())
}

async fn checked(lab: &Lab, runtime: &Runtime, added: &[Added], checks: &mut Checks) -> anyhow::Result<()> {
    for Added { network, host, container } in added {
        let ran = runtime.list_of(lab, *host, (network, "check"), container, (&json!({}), "")).await?;
        checks.add(format!("CHECK of {} finds nothing wrong", container.name), ran.says(0, &[]));
    }
    Ok(())
}

/// The plugin alone, as the others call it.
async fn lender(lab: &Lab, runtime: &Runtime, checks: &mut Checks) -> anyhow::Result<()> {
    let container = lab.make_netns(0).await?;
    let netns = container.path.to_string_lossy().into_owned();
    let call = Call { id: "alone", netns: &netns, previous: None };
    let of = |verb| ("p2p", "ptp", verb);
    let first = runtime.lender(lab, 0, of("ADD"), call).await?;
    checks.add("ADD by the plugin alone", first.says(0, &["/12", "0.0.0.0/0"]));
    let again = runtime.lender(lab, 0, of("ADD"), call).await?;
    checks.add("is answered again the same", same(&told(&first), &told(&again)));
    let previous = told(&first);
    let check = runtime.lender(lab, 0, of("CHECK"), Call { previous: Some(&previous), ..call }).await?;
    checks.add("CHECK finds nothing wrong", check.says(0, &[]));
    let status = runtime.lender(lab, 0, of("STATUS"), Call::default()).await?;
    checks.add("STATUS says that it can serve", status.says(0, &[]));
    let refused = runtime.lender(lab, 0, ("p2p", "macvlan", "ADD"), call).await?;
    checks.add("macvlan is lent nothing", refused.says(1, &["\"code\":2", "macvlan"]));
    net::run(Command::new("ip").args(["netns", "del", &container.name])).await?;
    let collected = runtime.lender(lab, 0, of("GC"), Call::default()).await?;
    checks.add("GC is understood", collected.says(0, &[]));
    let left = lab.ran(0, &["ipam", "lookup", "ipam/p2p/alone/eth0"]).await?;
    checks.add(
        "and frees what a namespace had that is gone",
        holds(left.stdout.trim().is_empty(), || left.stdout),
    );
    Ok(())
}

/// DEL while no daemon is there, and the address again once it is.
async fn without_a_daemon(
    lab: &mut Lab,
    runtime: &Runtime,
    added: &mut Vec<Added>,
    checks: &mut Checks,
) -> anyhow::Result<()> {
    lab.kill_host(0).await?;
    for index in [2, 0] {
        let Added { network, container, .. } = added.remove(index);
        lab.containers.remove(index);
        let ran = runtime.list_of(lab, 0, (network, "del"), &container, (&json!({}), "")).await?;
        checks.add(
            format!("{} is deleted from {network} while no daemon is there", container.name),
            ran.says(0, &[]),
        );
    }
    lab.start_host(0)?;
    lab.await_ready(0).await?;
    let freed = eventually(SOON, async || {
        let status = lab.weavers(0, &["status"]).await?;
        let left = status.matches("ipam/").count();
        Ok(holds(left == 2, || status))
    });
    checks.timed("the next one takes their addresses back, and keeps the others", freed.await?);
    checks.add("containers go on", both_ways(lab).await?);
    Ok(())
}

async fn both_ways(lab: &Lab) -> anyhow::Result<Result<(), String>> {
    let bad: Vec<String> =
        lab.ping_all().await?.into_iter().filter(|ping| !ping.ok).map(|ping| ping.said).collect();
    Ok(holds(bad.is_empty(), || bad.join("\n")))
}

/// All are deleted, and the bridges: nothing is left.
async fn end(lab: &mut Lab, runtime: &Runtime, added: &[Added], checks: &mut Checks) -> anyhow::Result<()> {
    for Added { network, host, container } in added {
        let ran = runtime.list_of(lab, *host, (network, "del"), container, (&json!({}), "")).await?;
        checks.add(format!("{} is deleted", container.name), ran.says(0, &[]));
    }
    for container in lab.containers.split_off(added.len()) {
        lab.weavers(container.host, &["detach", &container.netns.to_string_lossy()]).await?;
    }
    lab.containers.clear();
    let held = lab.ran(0, &["ipam", "lookup", "ipam-block/br"]).await?;
    checks.add(
        "the block is held as long as the bridge is there",
        holds(!held.stdout.trim().is_empty(), String::new),
    );
    for host in 0..2 {
        lab.on_host(host, &["ip", "link", "del", "cni0"]).await?;
    }
    for host in 0..lab.hosts.len() {
        let freed = eventually(FREED_WITHIN, async || {
            let status = lab.status(host).await?;
            Ok(same(&Some(0), &status.pointer("/ipam/used").and_then(Value::as_u64)))
        });
        checks.timed(format!("no address is left in use on h{}", host + 1), freed.await?);
    }
    Ok(())
}
