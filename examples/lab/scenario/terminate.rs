//! Hosts die. The terminated are taken over from by one of the others; the stopped are left alone, unless
//! somebody says so.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ipnet::Ipv4Net;
use serde_json::Value;
use tokio::time::sleep;
use weavers::sim::vpc::{Action, Power};

use super::{
    basic::{self, owned},
    stage::{self, Checks, eventually, holds, same},
};
use crate::{lab::Lab, pinger::end_without_loss, report::Report};

/// How long a peer must be silent.
const GRACE: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_secs(10);
/// Until the next try.
const AGAIN: Duration = Duration::from_millis(100);
/// The grace, and a look at EC2.
const LATER: Duration = Duration::from_secs(40);

/// The four hosts, by what becomes of them.
const FIRST: usize = 0;
const SECOND: usize = 1;
const DIES: usize = 2;
const STOPS: usize = 3;

/// One dies while another is stopped; then the stopped one is given up by two at once, and comes back.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    for host in 0..lab.hosts.len() {
        lab.edit(host, "[vpc]", &format!("[vpc]\nreclaim = \"{}s\"", GRACE.as_secs()))?;
    }
    let ready = stage::at_work(lab).await?;
    let mut checks = Checks::default();
    // The containers are numbered as their hosts.
    let pingers = lab.ping_ring(&[FIRST, SECOND])?;
    crashed(lab, &mut checks).await?;
    let dead = owned(lab, DIES).await?;
    without_a_majority(lab, &mut checks).await?;
    taken_over(lab, &mut checks, &dead).await?;
    given_up_and_back(lab, &mut checks).await?;
    let (sent, lost) = end_without_loss(pingers).await?;
    checks.add(format!("none of {sent} pings between those that stay was lost meanwhile"), lost);
    stage::report(lab, ready, checks).await
}

/// The daemon of a running instance is gone: that is no reason to take over from it.
async fn crashed(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    lab.kill_host(STOPS).await?;
    let name = lab.hosts[STOPS].name.clone();
    let refused = eventually(SOON, async || {
        Ok(lab.ran(FIRST, &["forget", &name]).await?.says(5, &["instance", "runs", "stop or terminate"]))
    });
    checks.timed("forget is refused while the instance runs", refused.await?);
    Ok(())
}

/// Of four electors one is terminated and one stopped: the other two see it coming and decide nothing.
async fn without_a_majority(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    set_power(lab, STOPS, Power::Stopped);
    lab.terminate_host(DIES).await?;
    lab.containers.retain(|container| container.host != DIES);
    let writes = lab.writes();
    let instance = lab.hosts[DIES].instance.to_string();
    for command in ["status", "plan"] {
        let coming = eventually(LATER, async || {
            Ok(lab.ran(FIRST, &[command]).await?.says(0, &[&instance, "gone", "taken over in"]))
        });
        checks.timed(format!("{command} shows what is coming"), coming.await?);
    }
    let stopped = lab.hosts[STOPS].name.clone();
    let waits = eventually(LATER, async || {
        Ok(lab.ran(FIRST, &["status"]).await?.says(0, &["once enough of these agree", &stopped]))
    });
    checks.timed("without a majority nothing is decided, and status names who is missing", waits.await?);
    sleep(Duration::from_secs(2)).await;
    checks.add("nothing was written to EC2", same(&writes, &lab.writes()));
    Ok(())
}

/// With a majority one takes over the terminated, with one call for each of its CIDRs.
async fn taken_over(lab: &mut Lab, checks: &mut Checks, dead: &[Ipv4Net]) -> anyhow::Result<()> {
    let (before, kept) = (lab.writes(), lab.routes_to(STOPS));
    let shares = shares(lab, &[FIRST, SECOND]).await?;
    set_power(lab, STOPS, Power::Running);
    lab.start_host(STOPS)?;
    lab.await_ready(STOPS).await?;
    let moved = eventually(LATER, async || Ok(same(&Vec::new(), &lab.routes_to(DIES))));
    checks.timed("the terminated host's routes go to another", moved.await?);
    let more = |action| lab.writes().get(&action).unwrap_or(&0) - before.get(&action).unwrap_or(&0);
    let (moved, deleted) =
        (more(Action::ReplaceRoute) + more(Action::CreateRoute), more(Action::DeleteRoute));
    checks.add(
        format!("{} CIDRs cost one call each and no delete", dead.len()),
        same(&(dead.len() as u64, 0), &(moved, deleted)),
    );
    let after = self::shares(lab, &[FIRST, SECOND]).await?;
    let heirs = shares.iter().filter(|(host, share)| after[*host] > **share).count();
    let others = usize::from(lab.routes_to(STOPS).len() > kept.len());
    checks.add("exactly one host is the heir", same(&1, &(heirs + others)));
    checks.add(
        "the stopped host has what it had",
        holds(kept.iter().all(|cidr| lab.routes_to(STOPS).contains(cidr)), || format!("{kept:?}")),
    );
    for host in [FIRST, SECOND, STOPS] {
        let done = eventually(LATER, async || Ok(lab.ran(host, &["status", "--check"]).await?.says(0, &[])));
        checks.timed(format!("h{} has nothing left to do", host + 1), done.await?);
    }
    Ok(())
}

/// Two give a stopped host up at the same moment: there is one heir. It comes back, and its container is reached.
async fn given_up_and_back(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    lab.kill_host(STOPS).await?;
    set_power(lab, STOPS, Power::Stopped);
    let name = lab.hosts[STOPS].name.clone();
    for host in [FIRST, SECOND] {
        let silent = eventually(SOON, async || out_of_reach(lab, host, STOPS).await);
        checks.timed(format!("h{} does not hear it any more", host + 1), silent.await?);
    }
    let name = [name.as_str()];
    let (one, two) = futures_util::future::join(forget(lab, FIRST, &name), forget(lab, SECOND, &name)).await;
    let (one, two) = (one?, two?);
    checks.add("two that give it up at once succeed", one.says(0, &[]).and(two.says(0, &[])));
    let heir = |ran: &stage::Ran| ran.stdout.split_whitespace().last().map(str::to_owned);
    checks.add("both are told of the same heir", same(&heir(&one), &heir(&two)));
    let moved = eventually(SOON, async || Ok(same(&Vec::new(), &lab.routes_to(STOPS))));
    checks.timed("the stopped host's routes go to another", moved.await?);
    checks.add("each address has one owner", one_owner(lab).await?);

    set_power(lab, STOPS, Power::Running);
    lab.start_host(STOPS)?;
    lab.await_ready(STOPS).await?;
    let container = lab.containers.iter().position(|container| container.host == STOPS);
    let container = container.ok_or_else(|| anyhow::anyhow!("the stopped host has no container"))?;
    let back = eventually(LATER, async || stage::passes(lab, FIRST, container).await);
    checks.timed("one that was taken for dead comes back, and its container is reached", back.await?);
    for host in [FIRST, SECOND, STOPS] {
        let done = eventually(LATER, async || Ok(lab.ran(host, &["status", "--check"]).await?.says(0, &[])));
        checks.timed(format!("h{} has nothing left to do", host + 1), done.await?);
    }
    Ok(())
}

/// Whether a host can reach another no more, over whomever.
pub(super) async fn out_of_reach(lab: &Lab, host: usize, other: usize) -> anyhow::Result<Result<(), String>> {
    let ring: Value = serde_json::from_str(&lab.weavers(host, &["ipam", "show", "--json"]).await?)?;
    let pieces = ring["pieces"].as_array().cloned().unwrap_or_default();
    let its: Vec<&Value> =
        pieces.iter().filter(|piece| piece["nickname"] == *lab.hosts[other].name).collect();
    Ok(holds(its.iter().all(|piece| piece["reachable"] == false), || format!("{its:?}")))
}

/// Has a host give up one that has just fallen silent. What others said of it while they still heard it may be on
/// its way: as long as the host takes it for alive, it is asked again.
pub(super) async fn forget(lab: &Lab, by: usize, whom: &[&str]) -> anyhow::Result<stage::Ran> {
    let start = Instant::now();
    loop {
        let ran = lab.ran(by, &[&["forget"], whom].concat()).await?;
        if !ran.stderr.contains("is alive") || start.elapsed() > SOON {
            return Ok(ran);
        }
        sleep(AGAIN).await;
    }
}

/// Stops an instance, or starts it again.
pub(super) fn set_power(lab: &Lab, host: usize, power: Power) {
    let instance = lab.hosts[host].instance.clone();
    lab.cloud.with(|vpc, now| vpc.set_power(now, &instance, power));
}

/// Whether what the running hosts own is the whole range, each address once, and the routes say so.
pub(super) async fn one_owner(lab: &Lab) -> anyhow::Result<Result<(), String>> {
    let report = basic::report(lab).await?;
    let wrong =
        report.checks.into_iter().find_map(|(what, result)| Some(format!("{what}: {}", result.err()?)));
    Ok(wrong.map_or(Ok(()), Err))
}

/// Addresses that hosts own.
pub(super) async fn shares(lab: &Lab, hosts: &[usize]) -> anyhow::Result<BTreeMap<usize, u64>> {
    let mut shares = BTreeMap::new();
    for &host in hosts {
        let cidrs = owned(lab, host).await?;
        shares.insert(host, cidrs.iter().map(|cidr| 1u64 << (32 - cidr.prefix_len())).sum());
    }
    Ok(shares)
}
