//! The store is lost, or another host's lies in its place, or all that the kernel held is gone.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use anyhow::Context;
use serde_json::Value;
use tokio::time::sleep;
use weavers::sim::vpc::Action;

use super::{
    basic,
    stage::{Checks, eventually, holds, same},
};
use crate::{lab::Lab, pinger::end_without_loss, report::Report};

/// Addresses handed out after a store was lost.
const ALLOCATIONS: usize = 40;
/// How long a daemon with a new store lives before it is killed: before and after it has looked around.
const LIVES_MS: [u64; 5] = [10, 20, 30, 50, 100];
const SOON: Duration = Duration::from_secs(5);

const LOSES: usize = 0;
const COPIES: usize = 1;
const REBOOTS: usize = 2;

/// One after the other, on a host each.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let ready = lab.start_all().await?;
    for host in 0..lab.hosts.len() {
        lab.attach(host).await?;
    }
    lab.attach(LOSES).await?;
    lab.settle().await?;
    let mut checks = Checks::default();
    lost(lab, &mut checks).await?;
    copied(lab, &mut checks).await?;
    rebooted(lab, &mut checks).await?;
    let pings = lab.ping_all().await?;
    let mut report = basic::report(lab).await?;
    (report.ready, report.pings) = (ready, pings);
    report.checks.extend(checks.0);
    Ok(report)
}

/// A host whose store is gone comes back as who it was, and learns from its links what is in use.
async fn lost(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let (before, calls) = (lab.status(LOSES).await?, lab.calls());
    let pingers = lab.ping_ring(&Vec::from_iter(0..lab.containers.len()))?;
    for life in LIVES_MS.map(Duration::from_millis) {
        lab.kill_host(LOSES).await?;
        // A daemon that lived too short for a store has none to lose.
        let _ = std::fs::remove_file(lab.hosts[LOSES].store());
        lab.start_host(LOSES)?;
        sleep(life).await;
        lab.kill_host(LOSES).await?;
        lab.start_host(LOSES)?;
    }
    // Before it is ready: nothing may be handed out until it is known what is in use.
    let mut given = Vec::new();
    for number in 0..ALLOCATIONS {
        let ran = lab.ran_when_up(LOSES, &["ipam", "allocate", &format!("new-{number}")]).await?;
        given.push(ran.stdout.trim().parse::<Ipv4Addr>().with_context(|| format!("{ran:?}"))?);
    }
    lab.await_ready(LOSES).await?;
    let after = lab.status(LOSES).await?;
    checks.add("a lost store: the same name again", same(&before["name"], &after["name"]));
    checks.add("a lost store: the same ranges", same(&before["ipam"]["owned"], &after["ipam"]["owned"]));
    let used: BTreeSet<Ipv4Addr> = lab.containers.iter().map(|container| container.address).collect();
    let again: Vec<&Ipv4Addr> = given.iter().filter(|address| used.contains(address)).collect();
    checks.add(
        format!("a lost store: of {ALLOCATIONS} new addresses none is in use"),
        same(&Vec::new(), &again),
    );
    let distinct: BTreeSet<&Ipv4Addr> = given.iter().collect();
    checks.add("a lost store: no address was given twice", same(&given.len(), &distinct.len()));
    let count = |calls: &std::collections::BTreeMap<Action, u64>, action| calls.get(&action).copied();
    for action in [Action::CreateRoute, Action::ReplaceRoute, Action::DeleteRoute] {
        checks.add(
            format!("a lost store: no {action}"),
            same(&count(&calls, action), &count(&lab.calls(), action)),
        );
    }
    // From now on its memory is as good as any.
    lab.stop_host(LOSES).await?;
    lab.start_host(LOSES)?;
    lab.await_ready(LOSES).await?;
    let (sent, lost) = end_without_loss(pingers).await?;
    checks.add(format!("a lost store: none of {sent} pings was lost"), lost);
    for number in 0..ALLOCATIONS {
        lab.weavers(LOSES, &["ipam", "free", &format!("new-{number}")]).await?;
    }
    let first = lab.containers[LOSES].netns.to_string_lossy().into_owned();
    let attach = lab.ran(LOSES, &["attach", &first]).await?;
    let address = lab.containers[LOSES].address.to_string();
    checks.add(
        "a lost store: a container that runs is attached again where it is",
        attach
            .says(0, &[])
            .and(holds(attach.stdout.contains(&address), || format!("not {address}: {attach:?}"))),
    );
    // The name it was attached under went with the store.
    let second = lab.containers.len() - 1;
    let link = format!("found-wv{:08x}", u32::from(lab.containers[second].address));
    let status = lab.ran(LOSES, &["status"]).await?;
    checks.add("a lost store: status shows what was found", status.says(0, &[&link]));
    let detach = lab.ran(LOSES, &["detach", &lab.containers[second].netns.to_string_lossy()]).await?;
    let links = lab.in_container(second, &["ip", "-o", "link"]).await?;
    checks.add(
        "a lost store: what was found can be detached",
        detach.says(0, &[]).and(holds(!links.contains("ethwe"), || links)),
    );
    lab.containers.remove(second);
    Ok(())
}

/// A store that was made on another instance is noticed and set aside: no host takes another's name.
async fn copied(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let (own, other) = (lab.status(COPIES).await?, lab.status(LOSES).await?);
    let writes = lab.writes();
    let pingers = lab.ping_ring(&Vec::from_iter(0..lab.containers.len()))?;
    lab.stop_host(COPIES).await?;
    lab.stop_host(LOSES).await?; // so that the copy is whole
    let store = lab.hosts[COPIES].store();
    std::fs::copy(lab.hosts[LOSES].store(), &store).context("the store cannot be copied")?;
    lab.start_host(LOSES)?;
    lab.start_host(COPIES)?;
    lab.await_ready(LOSES).await?;
    lab.await_ready(COPIES).await?;
    let (own_after, other_after) = (lab.status(COPIES).await?, lab.status(LOSES).await?);
    checks.add("a copied store: the host comes up as itself", same(&own["name"], &own_after["name"]));
    checks.add("a copied store: with its own ranges", same(&owned(&own), &owned(&own_after)));
    checks.add(
        "a copied store: the host it was copied from is the same",
        same(&owned(&other), &owned(&other_after)),
    );
    let dir = store.parent().context("no directory")?;
    let aside = format!("weave.redb.{}", lab.hosts[LOSES].instance);
    checks.add(
        "a copied store: it was set aside",
        holds(dir.join(&aside).exists(), || format!("no {aside} in {}", dir.display())),
    );
    checks.add("a copied store: nothing was written to EC2", same(&writes, &lab.writes()));
    let (sent, lost) = end_without_loss(pingers).await?;
    checks.add(format!("a copied store: none of {sent} pings was lost"), lost);
    Ok(())
}

/// What a reboot takes from the kernel is taken: links, host routes, rules, namespaces. The boot id
/// stays, since a namespace cannot have one of its own; the simulator has that part.
async fn rebooted(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let before = lab.status(REBOOTS).await?;
    let named = lab.weavers(REBOOTS, &["ipam", "allocate", "kept"]).await?;
    let writes = lab.writes();
    lab.stop_host(REBOOTS).await?;
    let container = lab.containers.iter().position(|container| container.host == REBOOTS);
    let container = container.context("no container")?;
    let script = "for link in $(ip -o link | grep -o 'wv[0-9a-f]*' | sort -u); do ip link del $link; done; \
                  ip route flush proto 67; nft delete table inet weave; echo 0 > /proc/sys/net/ipv4/ip_forward";
    lab.on_host(REBOOTS, &["sh", "-c", script]).await?;
    let name = lab.containers[container].name.clone();
    crate::net::run(tokio::process::Command::new("ip").args(["netns", "del", &name])).await?;
    lab.containers.remove(container);
    lab.start_host(REBOOTS)?;
    lab.await_ready(REBOOTS).await?;
    let converged =
        eventually(SOON, async || Ok(lab.ran(REBOOTS, &["status", "--check"]).await?.says(0, &[])));
    checks.timed("a reboot: it converges again", converged.await?);
    let after = lab.status(REBOOTS).await?;
    checks.add("a reboot: with its ranges", same(&owned(&before), &owned(&after)));
    let lookup = lab.weavers(REBOOTS, &["ipam", "lookup", "kept"]).await?;
    checks.add("a reboot: an address that was allocated by name is kept", same(&named, &lookup));
    let routes = lab.on_host(REBOOTS, &["ip", "route", "show", "type", "unreachable"]).await?;
    let blocks = owned(&after).as_array().map_or(0, Vec::len);
    checks.add("a reboot: its blocks are back", same(&blocks, &routes.lines().count()));
    checks.add("a reboot: nothing was written to EC2", same(&writes, &lab.writes()));
    checks.add(
        "a reboot: the container that went with it holds no address",
        same(&Some(1), &after.pointer("/ipam/used").and_then(Value::as_u64)),
    );
    lab.attach(REBOOTS).await?;
    Ok(())
}

fn owned(status: &Value) -> Value {
    status["ipam"]["owned"].clone()
}
