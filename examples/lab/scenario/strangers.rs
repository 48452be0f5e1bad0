//! A host dies that gave space to a newcomer of which nobody else has heard. What is taken over from it is used by
//! nobody while a host runs, by the word of EC2, that is listed and was not heard.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use anyhow::{Context, Error};
use ipnet::Ipv4Net;
use tokio::{task::JoinHandle, time::sleep};
use weavers::sim::vpc::Power;

use super::{
    basic::owned,
    partition::islands,
    stage::{self, Checks, Ran, eventually, finish, holds, same},
    terminate::{forget, set_power},
};
use crate::{
    lab::{Container, Lab, Namespace},
    pinger::end_without_loss,
    report::Report,
};

/// The hosts that make the first ring, and one that joins it.
const HEIR: usize = 0;
const WITNESS: usize = 1;
const DIES: usize = 2;
const FOUNDERS: usize = 3;
const NEWCOMER: usize = 3;
/// Two that are listed and on which no daemon runs, by what becomes of them.
const TERMINATED: usize = 4;
const UNLISTED: usize = 5;

/// Several looks at EC2.
const WHILE: Duration = Duration::from_secs(6);
const SOON: Duration = Duration::from_secs(5);
const LATER: Duration = Duration::from_secs(20);

/// The newcomer is given an address and its donor dies; then one after the other is no stranger any more.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    stage::founded_by(lab, FOUNDERS)?;
    let ready = lab.start_hosts(0..FOUNDERS).await?;
    for host in [HEIR, WITNESS] {
        lab.attach(host).await?;
    }
    let mut checks = Checks::default();
    let theirs = joins_unheard(lab, &mut checks, &[HEIR, WITNESS], [DIES, NEWCOMER]).await?;
    let pingers = lab.ping_ring(&Vec::from_iter(0..lab.containers.len()))?;
    let left = largest(&owned(lab, DIES).await?)?;
    rests(lab, &mut checks, &theirs, left).await?;
    let pending = attach_later(lab, &mut checks, HEIR, left).await?;
    fewer(lab, &mut checks, &theirs, left).await?;
    heard(lab, &mut checks, &theirs, pending).await?;
    let (sent, lost) = end_without_loss(pingers).await?;
    checks.add(format!("none of {sent} pings was lost meanwhile"), lost);
    stage::report(lab, ready, checks).await
}

/// The heir has what the dead owned by its own ring, and nobody uses any of it.
async fn rests(lab: &mut Lab, checks: &mut Checks, theirs: &Container, left: Ipv4Net) -> anyhow::Result<()> {
    lab.terminate_host(DIES).await?;
    let writes = lab.writes();
    let dead = lab.hosts[DIES].name.clone();
    checks.add("the dead host is taken over from", forget(lab, HEIR, &[&dead]).await?.says(0, &[]));
    let all = [NEWCOMER, TERMINATED, UNLISTED];
    checks.timed("what was taken over rests for three strangers", awaits(lab, HEIR, &all).await?);
    let address = lab.hosts[NEWCOMER].address.to_string();
    let words = [
        &address,
        "is running but has not contacted us: start weavers there, or remove it from `peers` and the tag",
    ];
    checks.add("status names the way out", lab.ran(HEIR, &["status"]).await?.says(0, &words));
    let explained = lab.ran(HEIR, &["explain", &theirs.address.to_string()]).await?;
    checks.add("explain says that it rests", explained.says(0, &["another host may have been given it"]));
    sleep(WHILE).await;
    for host in [HEIR, WITNESS] {
        unused(lab, checks, host, theirs.address, left).await?;
    }
    checks.add("nothing was written to EC2", same(&writes, &lab.writes()));
    Ok(())
}

/// Of the two that will never say anything one is listed no more, and one is terminated.
async fn fewer(lab: &Lab, checks: &mut Checks, theirs: &Container, left: Ipv4Net) -> anyhow::Result<()> {
    lab.edit(HEIR, &format!(", \"{}\"", lab.hosts[UNLISTED].address), "")?;
    lab.weavers(HEIR, &["reload"]).await?;
    checks.timed(
        "one that is listed no more is no stranger",
        awaits(lab, HEIR, &[NEWCOMER, TERMINATED]).await?,
    );
    set_power(lab, TERMINATED, Power::Terminated);
    checks.timed("one that is terminated is none", awaits(lab, HEIR, &[NEWCOMER]).await?);
    unused(lab, checks, HEIR, theirs.address, left).await
}

/// The newcomer is heard: it has what it was given, and the heir the rest.
async fn heard(
    lab: &mut Lab,
    checks: &mut Checks,
    theirs: &Container,
    pending: Pending,
) -> anyhow::Result<()> {
    islands(lab, &[&[HEIR, WITNESS, NEWCOMER]]).await?.map_err(Error::msg)?;
    checks.timed("once the newcomer is heard, nothing rests", awaits(lab, HEIR, &[]).await?);
    used(lab, checks, HEIR, theirs, pending).await?;
    for host in [HEIR, WITNESS, NEWCOMER] {
        checks.timed(format!("h{} has nothing left to do", host + 1), lab.settled(host).await?);
    }
    Ok(())
}

/// A newcomer joins by one host only, which is cut off with it from the others, and is given an address by it.
pub(super) async fn joins_unheard(
    lab: &mut Lab,
    checks: &mut Checks,
    others: &[usize],
    [donor, newcomer]: [usize; 2],
) -> anyhow::Result<Container> {
    let apart = islands(lab, &[others, &[donor, newcomer]]).await?;
    checks.timed(format!("h{} is cut off from the others", donor + 1), apart);
    let before = owned(lab, donor).await?;
    lab.start_host(newcomer)?;
    lab.await_ready(newcomer).await?;
    let container = lab.attach(newcomer).await?;
    let container = lab.containers[container].clone();
    let was_its = before.iter().any(|cidr| cidr.contains(&container.address));
    let given = holds(was_its, || format!("{} was not in {before:?}", container.address));
    checks.add(format!("h{} gives a newcomer space of which nobody else hears", donor + 1), given);
    checks.timed("the newcomer has nothing left to do", lab.settled(newcomer).await?);
    lab.settle().await?;
    Ok(container)
}

/// Waits until something rests on a host for the sake of these hosts; of none of them, until nothing does.
pub(super) async fn awaits(
    lab: &Lab,
    host: usize,
    others: &[usize],
) -> anyhow::Result<Result<Duration, String>> {
    let names = |other: usize| [lab.hosts[other].address.to_string(), format!("({})", lab.hosts[other].name)];
    let expected = (!others.is_empty()).then(|| BTreeSet::from_iter(others.iter().copied()));
    eventually(LATER, async || {
        let status = lab.status(host).await?;
        let waits = status["waits"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut texts = waits.iter().filter_map(|wait| wait["what"].as_str());
        let named = texts.find(|text| text.contains("quarantined addresses")).map(|text| {
            let is_named = |other: &usize| names(*other).iter().any(|name| text.contains(name));
            (0..lab.hosts.len()).filter(is_named).collect::<BTreeSet<usize>>()
        });
        Ok(same(&expected, &named))
    })
    .await
}

/// A host hands out neither the address of a newcomer's container nor any other of what rests.
pub(super) async fn unused(
    lab: &Lab,
    checks: &mut Checks,
    host: usize,
    theirs: Ipv4Addr,
    resting: Ipv4Net,
) -> anyhow::Result<()> {
    let claim = lab.ran(host, &["ipam", "claim", "probe", &theirs.to_string(), "--timeout", "1s"]).await?;
    checks.add(format!("h{} does not hand out the newcomer's address", host + 1), claim.says(1, &[]));
    let probe = ["ipam", "allocate", "probe", "--subnet", &resting.to_string(), "--timeout", "1s"];
    let other = lab.ran(host, &probe).await?;
    checks.add(format!("h{} hands out nothing of what rests", host + 1), other.says(1, &[]));
    Ok(())
}

/// A container whose `weavers attach` has not ended yet.
pub(super) struct Pending {
    netns: Namespace,
    ran: JoinHandle<anyhow::Result<Ran>>,
}

/// Attaches a container to what rests on a host: that waits, and status says so.
pub(super) async fn attach_later(
    lab: &Lab,
    checks: &mut Checks,
    host: usize,
    resting: Ipv4Net,
) -> anyhow::Result<Pending> {
    let netns = lab.make_netns(host).await?;
    let subnet = resting.to_string();
    let mut command = lab.command(host, &["attach", &netns.path.to_string_lossy(), "--subnet", &subnet])?;
    let ran = tokio::spawn(async move { finish(&mut command).await });
    let named = eventually(SOON, async || {
        Ok(lab.ran(host, &["status"]).await?.says(0, &[&subnet, "which nobody may use yet"]))
    });
    checks.timed("an attach that needs what rests waits, and status names it", named.await?);
    Ok(Pending { netns, ran })
}

/// A host is refused the address of a newcomer's container, and what waited for the rest of what rested goes on.
pub(super) async fn used(
    lab: &mut Lab,
    checks: &mut Checks,
    host: usize,
    theirs: &Container,
    Pending { netns, ran }: Pending,
) -> anyhow::Result<()> {
    let claim = lab.ran(host, &["ipam", "claim", "probe", &theirs.address.to_string()]).await?;
    let owner = lab.hosts[theirs.host].name.clone();
    checks.add("the newcomer's address is refused, since it is its own", claim.says(1, &[&owner]));
    checks.add("the attach that waited goes on", ran.await??.says(0, &[]));
    lab.adopt(host, netns).await?;
    let addresses: BTreeSet<Ipv4Addr> = lab.containers.iter().map(|container| container.address).collect();
    checks.add("no address is there twice", same(&lab.containers.len(), &addresses.len()));
    Ok(())
}

/// The largest of some CIDRs.
pub(super) fn largest(cidrs: &[Ipv4Net]) -> anyhow::Result<Ipv4Net> {
    cidrs.iter().copied().min_by_key(Ipv4Net::prefix_len).context("it owns nothing")
}
