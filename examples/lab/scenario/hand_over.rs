//! Hosts that own many pieces leave, where nobody looks often and EC2 takes its time: an heir takes over one route after
//! another, and none that it has taken is withdrawn.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::Context;
use weavers::{
    addr::Address,
    sim::vpc::{Action, Caller, Faults},
};

use super::{
    basic::{self, owned},
    repair::leads,
    stage::{Checks, at_work, eventually, holds, passes, same},
    strangers::largest,
    terminate::one_owner,
};
use crate::{lab::Lab, pinger::end_without_loss, report::Report};

/// As EC2 takes for an answer.
const DELAY_MS: u64 = 150;
/// Addresses that a host is given by another before it leaves, each a piece with a route of its own.
const PIECES: u32 = 5;
/// From one of them to the next.
const STEP: u32 = 4;
/// A host that leaves waits no longer than ten seconds for its heir.
const QUICK: Duration = Duration::from_secs(6);
const SOON: Duration = Duration::from_secs(15);
/// Pauses between looks that fail grow.
const RECOVERY: Duration = Duration::from_secs(75);

/// One is reset and one drained, both with an heir; the last is reset while EC2 cannot be read.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    lab.cloud.with(|vpc, _| vpc.set_faults(slow()));
    let ready = at_work(lab).await?;
    let all = by_place(lab).await?;
    let [heir, giver, reset, drained] = all;
    let mut checks = Checks::default();
    // The containers are numbered as their hosts.
    let pingers = lab.ping_ring(&[heir, giver])?;
    left(lab, &mut checks, "reset", reset, all).await?;
    lab.hosts[reset].ended(SOON).await?;
    let netns = lab.containers[drained].netns.to_string_lossy().into_owned();
    lab.weavers(drained, &["detach", &netns]).await?;
    left(lab, &mut checks, "drain", drained, all).await?;
    let (sent, lost) = end_without_loss(pingers).await?;
    checks.add(format!("none of {sent} pings between those that stay was lost meanwhile"), lost);

    unread(lab, &mut checks, giver).await?;
    lab.containers.retain(|container| container.host == heir);
    let ping = vec![lab.ping(0, 1).await?];
    let mut report = basic::report(lab).await?;
    (report.ready, report.pings) = (ready, ping);
    report.checks.extend(checks.0);
    Ok(report)
}

/// A host with pieces from another leaves by this command.
async fn left(
    lab: &mut Lab,
    checks: &mut Checks,
    command: &str,
    host: usize,
    all: [usize; 4],
) -> anyhow::Result<()> {
    let [heir, giver, ..] = all;
    let given = given(lab, checks, host, giver).await?;
    let cidrs = owned(lab, host).await?;
    let (deleted, start) = (deleted_by(lab, host), Instant::now());
    let ran = lab.ran(host, &[command]).await?;
    let took = start.elapsed();
    let to = &lab.hosts[heir].interface;
    let astray: Vec<String> = cidrs.iter().filter_map(|cidr| leads(lab, *cidr, to).err()).collect();
    checks.add(
        format!("{command} of a host with {} CIDRs succeeds after {} ms", cidrs.len(), took.as_millis()),
        ran.says(0, &[]).and(holds(took < QUICK, || format!("that is more than {QUICK:?}"))),
    );
    checks.add(format!("{command}: each of them leads to the heir at once"), same(&Vec::new(), &astray));
    let more = deleted_by(lab, host) - deleted;
    checks.add(format!("{command}: the host that leaves has deleted no route"), same(&0, &more));
    checks.add(format!("{command}: no route leads to it"), same(&Vec::new(), &lab.routes_to(host)));
    let new = lab.attach_with(heir, &["--subnet", &format!("{}/30", given[0])]).await?;
    let reached = passes(lab, giver, new).await?;
    checks.add(format!("{command}: a container of the heir in one of them is reached at once"), reached);
    Ok(())
}

/// The host is given pieces that are between those of another, and does not use them.
async fn given(lab: &Lab, checks: &mut Checks, host: usize, giver: usize) -> anyhow::Result<Vec<Ipv4Addr>> {
    let largest = largest(&owned(lab, giver).await?)?;
    // Nobody has had an address at its end.
    let end = u32::from(largest.broadcast()) - 1;
    let pieces: Vec<Ipv4Addr> =
        (1..=PIECES).map(|piece| Ipv4Addr::from(end - STEP * (host as u32 * PIECES + piece))).collect();
    for piece in &pieces {
        let (ident, piece) = (format!("piece-{piece}"), piece.to_string());
        lab.weavers(host, &["ipam", "claim", &ident, &piece]).await?;
    }
    let routed = eventually(SOON, async || one_owner(lab).await).await?;
    checks.timed(format!("h{} is given {PIECES} pieces, each with a route", host + 1), routed);
    for settles in [giver, host] {
        lab.settled(settles).await?.map_err(anyhow::Error::msg)?;
    }
    for piece in &pieces {
        lab.weavers(host, &["ipam", "free", &format!("piece-{piece}")]).await?;
    }
    Ok(pieces)
}

/// A host is reset while EC2 fails for everybody: it does not say that it has left, and asked again it leaves.
async fn unread(lab: &mut Lab, checks: &mut Checks, host: usize) -> anyhow::Result<()> {
    let routes = lab.routes_to(host);
    let calls = [Action::DescribeRouteTables, Action::CreateRoute, Action::ReplaceRoute, Action::DeleteRoute];
    let fail = calls.map(|action| (action, 10_000)).into();
    lab.cloud.with(|vpc, _| vpc.set_faults(Faults { fail, ..slow() }));
    let ran = lab.ran(host, &["reset"]).await?;
    let words = ["routes may lead here still", "InternalError", "weavers reset"];
    checks.add("a reset that cannot read the tables says so", ran.says(1, &words));
    checks.add("it has changed no route", same(&routes, &lab.routes_to(host)));
    lab.cloud.with(|vpc, _| vpc.set_faults(slow()));
    let deleted = deleted_by(lab, host);
    let start = Instant::now();
    let again = lab.ran(host, &["reset"]).await?;
    let took = start.elapsed().as_millis();
    checks.add(format!("asked again once it can it leaves after {took} ms"), again.says(0, &[]));
    checks.add("it has deleted no route", same(&0, &(deleted_by(lab, host) - deleted)));
    lab.hosts[host].ended(SOON).await?;
    checks.add("no route leads to it any more", same(&Vec::new(), &lab.routes_to(host)));
    let moved = eventually(RECOVERY, async || one_owner(lab).await).await?;
    checks.timed("each address leads to its owner", moved);
    Ok(())
}

/// The hosts by where in the range they own: the first is the heir of whoever leaves.
async fn by_place(lab: &Lab) -> anyhow::Result<[usize; 4]> {
    let mut places = Vec::new();
    for host in 0..lab.hosts.len() {
        let first = owned(lab, host).await?.into_iter().map(|cidr| Address::from(cidr.network())).min();
        places.push((first, host));
    }
    places.sort();
    let hosts: Vec<usize> = places.into_iter().map(|(_, host)| host).collect();
    hosts.try_into().ok().context("not four hosts")
}

fn deleted_by(lab: &Lab, host: usize) -> u64 {
    let caller = Caller::Instance(lab.hosts[host].instance.clone());
    lab.cloud.with(|vpc, _| vpc.calls_by(&caller)).get(&Action::DeleteRoute).copied().unwrap_or_default()
}

fn slow() -> Faults {
    Faults { delay_ms: DELAY_MS, ..Faults::default() }
}
