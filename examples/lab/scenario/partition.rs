//! A host is cut off from the others, and then all of them from EC2. Containers do not notice.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    basic,
    stage::{Checks, eventually, same},
    terminate::out_of_reach,
};
use crate::{lab::Lab, pinger::end_without_loss, report::Report};

const CUT_OFF: usize = 2;
/// A connection that brings only silence is not noticed before the heartbeat is late.
const SILENCE: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_secs(10);
/// Pauses between tries grow while EC2 does not answer.
const RECOVERY: Duration = Duration::from_secs(60);
/// Longer than a call is waited for.
const EC2_AWAY: Duration = Duration::from_secs(15);

/// Packets of the mesh are dropped, or answered by a reset, which both ends notice.
const DROP: &str = "drop";
const RESET: &str = "reject with tcp reset";

/// Cuts, attaches on both sides, and heals.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let ready = lab.start_all().await?;
    for host in 0..lab.hosts.len() {
        lab.attach(host).await?;
    }
    lab.settle().await?;
    let mut checks = Checks::default();
    let pingers = lab.ping_ring(&Vec::from_iter(0..lab.containers.len()))?;
    let writes = lab.writes();
    peers_away(lab, &mut checks).await?;
    ec2_away(lab, &mut checks).await?;
    checks.add("nothing was written to EC2", same(&writes, &lab.writes()));
    let (sent, lost) = end_without_loss(pingers).await?;
    checks.add(format!("none of {sent} pings was lost meanwhile"), lost);
    let pings = lab.ping_all().await?;
    let mut report = basic::report(lab).await?;
    (report.ready, report.pings) = (ready, pings);
    report.checks.extend(checks.0);
    Ok(report)
}

/// TCP 6783 of one host is cut: each side goes on inside what it owns.
async fn peers_away(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let before = ring(lab, 0).await?;
    for (how, verdict) in [("silence", DROP), ("a broken connection", RESET)] {
        cut(lab, CUT_OFF, &format!("tcp dport 6783 {verdict}; tcp sport 6783 {verdict}")).await?;
        if verdict == DROP {
            sleep(SILENCE).await;
        } else {
            let noticed = eventually(SOON, async || Ok(same(&0, &established(lab, CUT_OFF).await?))).await?;
            checks.timed(format!("{how}: it is noticed"), noticed);
        }
        for host in [0, CUT_OFF] {
            let attached = lab.attach(host).await.map(|_| ()).map_err(|error| format!("{error:#}"));
            checks.add(format!("{how}: h{} attaches as before", host + 1), attached);
        }
        lab.settle().await?;
        let newest = lab.containers.len() - 1;
        for (from, to) in [(newest, newest - 1), (newest - 1, newest)] {
            let ping = lab.ping(from, to).await?;
            let name = format!("{how}: {} reaches {}", ping.from, ping.to);
            checks.add(name, if ping.ok { Ok(()) } else { Err("no ping passes".to_owned()) });
        }
    }
    heal(lab, CUT_OFF).await?;
    let merged = eventually(Duration::from_secs(60), async || {
        same(&(lab.hosts.len() - 1), &established(lab, CUT_OFF).await?)
            .map_or_else(|wrong| Ok(Err(wrong)), |()| Ok(Ok(())))
    });
    checks.timed("the cut is healed: all are connected again", merged.await?);
    for host in 0..lab.hosts.len() {
        let converged =
            eventually(SOON, async || Ok(lab.ran(host, &["status", "--check"]).await?.says(0, &[])));
        checks.timed(format!("the cut is healed: h{} has nothing to do", host + 1), converged.await?);
        checks.add(
            format!("the cut is healed: h{} has the ring that was before", host + 1),
            same(&before, &ring(lab, host).await?),
        );
    }
    Ok(())
}

/// EC2 does not answer: nothing is withdrawn, and what needs no new route goes on.
async fn ec2_away(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    for host in 0..lab.hosts.len() {
        cut(lab, host, "ip daddr 169.254.169.254 drop").await?;
    }
    let noticed = eventually(Duration::from_secs(40), async || {
        Ok(lab.ran(0, &["status"]).await?.says(0, &["the VPC cannot be read"]))
    });
    checks.timed("EC2 is away: status names it", noticed.await?);
    sleep(EC2_AWAY).await;
    for host in 0..lab.hosts.len() {
        let attached = lab.attach(host).await.map(|_| ()).map_err(|error| format!("{error:#}"));
        checks.add(format!("EC2 is away: h{} attaches inside what it owns", host + 1), attached);
    }
    let check = lab.ran(0, &["status", "--check"]).await?;
    checks.add("EC2 is away: the host does not call itself converged", check.says(3, &[]));
    for host in 0..lab.hosts.len() {
        heal(lab, host).await?;
    }
    for host in 0..lab.hosts.len() {
        let converged =
            eventually(RECOVERY, async || Ok(lab.ran(host, &["status", "--check"]).await?.says(0, &[])));
        checks.timed(format!("EC2 is back: h{} has nothing to do", host + 1), converged.await?);
    }
    Ok(())
}

/// These rules meet what a host hears and says. Its cut before, if any, is over.
async fn cut(lab: &Lab, host: usize, rules: &str) -> anyhow::Result<()> {
    let table = format!(
        "add table ip cut; delete table ip cut; table ip cut {{ \
         chain in {{ type filter hook input priority -10; {rules}; }}; \
         chain out {{ type filter hook output priority -10; {rules}; }}; }}"
    );
    lab.on_host(host, &["nft", &table]).await.map(|_| ())
}

/// Cuts the hosts into islands, none of which hears another; a single one mends all. Packets of containers pass. Returns how
/// long it took until nobody is heard any more.
pub(super) async fn islands(lab: &Lab, islands: &[&[usize]]) -> anyhow::Result<Result<Duration, String>> {
    let mut apart = Vec::new();
    for island in islands {
        let others: Vec<usize> = islands.concat().into_iter().filter(|host| !island.contains(host)).collect();
        for &host in *island {
            part(lab, host, &others).await?;
            apart.extend(others.iter().map(|&other| (host, other)).filter(|_| lab.hosts[host].runs()));
        }
    }
    eventually(SOON, async || {
        for &(host, other) in &apart {
            let silent = out_of_reach(lab, host, other).await?;
            if let Err(heard) = silent {
                return Ok(Err(format!("h{} hears h{}: {heard}", host + 1, other + 1)));
            }
        }
        Ok(Ok(()))
    })
    .await
}

/// What a host sends to some others is answered by a reset.
async fn part(lab: &Lab, host: usize, others: &[usize]) -> anyhow::Result<()> {
    let rule = |&other: &usize| format!("ip daddr {} meta l4proto tcp {RESET}", lab.hosts[other].address);
    cut(lab, host, &others.iter().map(rule).collect::<Vec<String>>().join("; ")).await
}

async fn heal(lab: &Lab, host: usize) -> anyhow::Result<()> {
    lab.on_host(host, &["nft", "delete table ip cut"]).await.map(|_| ())
}

/// Connections of a host that are established.
async fn established(lab: &Lab, host: usize) -> anyhow::Result<usize> {
    let status = lab.status(host).await?;
    let connections = status["connections"].as_array().cloned().unwrap_or_default();
    Ok(connections.iter().filter(|connection| connection["state"] == "established").count())
}

/// Who owns what, by a host's own word; what it says of free addresses and of reachability does not count.
async fn ring(lab: &Lab, host: usize) -> anyhow::Result<Vec<(String, String)>> {
    let text = lab.weavers(host, &["ipam", "show", "--json"]).await?;
    let ring: serde_json::Value = serde_json::from_str(&text)?;
    let pieces = ring["pieces"].as_array().cloned().unwrap_or_default();
    Ok(pieces.iter().map(|piece| (piece["range"].to_string(), piece["peer"].to_string())).collect())
}
