//! A thousand rounds: eight containers at once, by CNI and by Docker, while the daemon is killed and Docker is restarted.
//!
//! Each round adds containers, looks whether any address was given twice, and removes them again. `--containers N` plays N rounds.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::Value;
use tokio::{process::Command, time::sleep};

use super::{
    basic,
    docker::{begin, not_here},
    dockerd::{Dockers, NETWORK},
    runtime::{Call, Runtime, told},
    stage::{Checks, Ran, eventually, finish, holds, same},
};
use crate::{
    lab::{Lab, Namespace},
    net,
    report::Report,
};

const ROUNDS: usize = 1000;
/// Callers of each kind at once.
const BY_CNI: usize = 6;
const BY_DOCKER: usize = 2;
/// In every so many rounds the daemon is killed, or Docker restarted.
const KILLS_EVERY: usize = 3;
const RESTARTS_EVERY: usize = 25;
/// A kill comes at any moment of this time.
const BUSY: Duration = Duration::from_millis(600);
/// Rounds after which is said how far it is.
const SAID_EVERY: usize = 50;
const SOON: Duration = Duration::from_secs(120);

/// What was counted.
#[derive(Default)]
struct Counts {
    kills: usize,
    restarts: usize,
    added: usize,
    refused: usize,
    wrong: Vec<String>,
}

/// On the first host.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let runtime = Runtime::prepare(lab, &[]).await?;
    let Some((mut dockers, ready, mut checks)) = begin(lab).await? else { return not_here(lab).await };
    let rounds = lab.options.containers.first().copied().unwrap_or(ROUNDS);
    let bystander = Bystander::make(lab).await?;
    let before = bystander.look(lab).await?;
    let mut namespaces = Vec::new();
    for _ in 0..BY_CNI {
        namespaces.push(lab.make_netns(0).await?);
    }
    let (mut counts, begun) = (Counts::default(), Instant::now());
    for number in 0..rounds {
        round(lab, &runtime, &mut dockers, &namespaces, number, &mut counts).await?;
        if number % SAID_EVERY == SAID_EVERY - 1 {
            let Counts { kills, restarts, added, refused, wrong } = &counts;
            let (done, wrong) = (number + 1, wrong.len());
            eprintln!(
                "{done} rounds in {:?}: {added} added, {refused} refused, {kills} kills, {restarts} restarts of Docker, {wrong} wrong",
                begun.elapsed()
            );
        }
    }
    let Counts { kills, restarts, added, refused, wrong } = &counts;
    checks.add(
        format!("{rounds} rounds of {} at once, {kills} kills, {restarts} restarts of Docker, {added} added, {refused} refused: no address twice, every end heard", BY_CNI + BY_DOCKER),
        holds(wrong.is_empty(), || wrong.join("\n")),
    );
    checks.add("what is of others is as it was", same(&before, &bystander.look(lab).await?));
    end(lab, &dockers, &mut checks).await?;
    let mut report = basic::report(lab).await?;
    report.ready = ready;
    report.checks.extend(checks.0);
    Ok(report)
}

async fn round(
    lab: &mut Lab,
    runtime: &Runtime,
    dockers: &mut Dockers,
    namespaces: &[Namespace],
    number: usize,
    counts: &mut Counts,
) -> anyhow::Result<()> {
    let mut commands = Vec::new();
    for namespace in namespaces {
        commands.push(cni(lab, runtime, "ADD", namespace, number)?);
    }
    let names: Vec<String> = (0..BY_DOCKER).map(|caller| format!("r{number}c{caller}")).collect();
    for name in &names {
        commands.push(dockers.command(
            lab,
            0,
            &["run", "-d", "--name", name, "--network", NETWORK, dockers.image()],
        )?);
    }
    let running: Vec<_> = commands
        .into_iter()
        .map(|mut command| tokio::spawn(async move { finish(&mut command).await }))
        .collect();
    let kills = number % KILLS_EVERY == KILLS_EVERY - 1;
    if kills {
        sleep(BUSY.mul_f64(rand::random())).await;
        lab.kill_host(0).await?;
        counts.kills += 1;
        sleep(BUSY.mul_f64(rand::random())).await;
        lab.start_host(0)?;
    }
    let mut ran = Vec::new();
    for one in join_all(running).await {
        ran.push(one??);
    }
    let (by_cni, by_docker) = ran.split_at(BY_CNI);
    let mut given: Vec<(String, String)> = by_cni
        .iter()
        .zip(namespaces)
        .filter_map(|(ran, namespace)| Some((namespace.name.clone(), address(ran)?)))
        .collect();
    counts.refused += ran.iter().filter(|ran| ran.code != 0).count();
    if kills {
        lab.await_ready(0).await?;
    }
    if number % RESTARTS_EVERY == RESTARTS_EVERY - 1 {
        dockers.restart(lab, 0).await?;
        counts.restarts += 1;
    }
    for (name, _) in names.iter().zip(by_docker).filter(|(_, ran)| ran.code == 0) {
        given.push((name.clone(), dockers.find(lab, 0, name).await?.address.to_string()));
    }
    counts.added += given.len();
    counts.wrong.extend(twice(&given).map(|what| format!("round {number}: {what}")));
    remove(lab, runtime, dockers, namespaces, &names, number, counts).await
}

/// The end of a round, half of it without a daemon in some.
async fn remove(
    lab: &mut Lab,
    runtime: &Runtime,
    dockers: &Dockers,
    namespaces: &[Namespace],
    names: &[String],
    number: usize,
    counts: &mut Counts,
) -> anyhow::Result<()> {
    let alone = number.is_multiple_of(2 * KILLS_EVERY);
    if alone {
        lab.kill_host(0).await?;
        counts.kills += 1;
    }
    let mut commands = Vec::new();
    for namespace in namespaces {
        commands.push(cni(lab, runtime, "DEL", namespace, number)?);
    }
    let deleted = join_all(commands.iter_mut().map(finish)).await;
    for ran in deleted {
        counts.wrong.extend(ran?.says(0, &[]).err().map(|why| format!("round {number}: DEL: {why}")));
    }
    if alone {
        lab.start_host(0)?;
        lab.await_ready(0).await?;
    }
    let removed = dockers
        .ran(lab, 0, &[&["rm", "-f"], &names.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat())
        .await?;
    // What was never made cannot be removed.
    let is_fine = removed.code == 0 || removed.stderr.contains("No such container");
    counts.wrong.extend((!is_fine).then(|| format!("round {number}: rm: {}", removed.stderr)));
    Ok(())
}

fn cni(
    lab: &Lab,
    runtime: &Runtime,
    verb: &str,
    namespace: &Namespace,
    number: usize,
) -> anyhow::Result<Command> {
    let (id, netns) = (format!("{}-{number}", namespace.name), namespace.path.to_string_lossy());
    runtime.ours(lab, 0, verb, Call { id: &id, netns: &netns, previous: None })
}

fn address(ran: &Ran) -> Option<String> {
    let result = (ran.code == 0).then(|| told(ran))?;
    let address = result.pointer("/ips/0/address")?.as_str()?;
    Some(address.split('/').next().unwrap_or(address).to_owned())
}

fn twice(given: &[(String, String)]) -> Option<String> {
    let mut holders: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (who, address) in given {
        holders.entry(address).or_default().insert(who);
    }
    let shared = holders.into_iter().find(|(_, holders)| holders.len() > 1)?;
    Some(format!("address {} was given to {:?}", shared.0, shared.1))
}

/// A network namespace with a link of its own, of which nobody told us.
struct Bystander(String);

impl Bystander {
    async fn make(lab: &Lab) -> anyhow::Result<Bystander> {
        let name = "bystander".to_owned();
        net::run(Command::new("ip").args(["netns", "add", &name])).await?;
        let script =
            "ip link add by0 type veth peer name by1; ip addr add 192.0.2.1/24 dev by0; ip link set by0 up";
        lab.on_host(0, &["sh", "-ec", script]).await?;
        let enter = format!("--net={}", lab.hosts[0].netns()?.display());
        net::run(Command::new("nsenter").args([
            &enter,
            "ip",
            "link",
            "set",
            "by1",
            "netns",
            &format!("/run/netns/{name}"),
        ]))
        .await?;
        let script = "ip addr add 192.0.2.2/24 dev by1; ip link set by1 up; ip route add default via 192.0.2.1; sysctl -qw net.ipv4.conf.by1.rp_filter=2";
        net::run(Command::new("ip").args(["netns", "exec", &name, "sh", "-ec", script])).await?;
        Ok(Bystander(name))
    }

    /// All that could be changed, in both places.
    async fn look(&self, lab: &Lab) -> anyhow::Result<String> {
        let there =
            "ip -o link; ip -o -4 addr; ip route; ip neigh show nud permanent; sysctl net.ipv4.conf.by1";
        let inside = net::run(Command::new("ip").args(["netns", "exec", &self.0, "sh", "-c", there])).await?;
        let outside = lab
            .on_host(0, &["sh", "-c", "ip -o link show by0; ip -o -4 addr show by0; ip route show dev by0"])
            .await?;
        Ok(format!("{inside}{outside}"))
    }
}

/// Nothing is left when all are gone.
async fn end(lab: &mut Lab, dockers: &Dockers, checks: &mut Checks) -> anyhow::Result<()> {
    let all = dockers.docker(lab, 0, &["ps", "-aq"]).await?;
    checks.add("Docker has no container left", same(&"", &all.trim()));
    let freed = eventually(SOON, async || {
        let status = lab.status(0).await?;
        let used = status.pointer("/ipam/used").and_then(Value::as_u64);
        let attached = status["attachments"].as_array().map(Vec::len);
        Ok(same(&(Some(0), Some(0)), &(used, attached))
            .map_err(|why| format!("{why}\n{}", status["attachments"])))
    });
    checks.timed("nothing is attached, and no address used", freed.await?);
    // That of the canary.
    let links = lab.on_host(0, &["sh", "-c", "ip -br link | grep -c '^w[vp]' || true"]).await?;
    checks.add("nor a link left", same(&"1", &links.trim()));
    let tables = lab.on_host(0, &["nft", "list", "tables"]).await?;
    checks.add("nor a table of ports", holds(!tables.contains("weave-ports"), || tables.clone()));
    checks.timed("and nothing is left to do", lab.settled(0).await?);
    Ok(())
}
