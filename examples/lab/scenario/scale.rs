//! Hosts that find each other by a tag: they come and go, and no file is edited.

use std::time::Duration;

use serde_json::Value;
use tokio::time::sleep;
use weavers::sim::vpc::Action;

use super::{
    basic,
    stage::{Checks, eventually, holds, same},
};
use crate::{lab::Lab, report::Report};

const KEY: &str = "weave-cluster";
const VALUE: &str = "prod";
/// How long a host is left alone to see whether it elects by itself.
const ALONE: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(15);

/// One alone, three, five, and four again.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let tag = format!("{KEY}={VALUE}");
    let first = lab.hosts.len();
    lab.configure_by_tag(&tag, first)?;
    let mut checks = Checks::default();

    lab.tag_host(0, KEY, VALUE);
    lab.start_host(0)?;
    sleep(ALONE).await;
    let waits = lab.ran(0, &["status"]).await?;
    checks.add("a host that sees only itself elects nobody, and says so", waits.says(0, &[&tag]));
    checks.add("it owns nothing", same(&0, &basic::owned(lab, 0).await?.len()));

    for host in 1..first {
        lab.tag_host(host, KEY, VALUE);
        lab.start_host(host)?;
    }
    for host in 0..first {
        lab.await_ready(host).await?;
    }
    for host in 0..first {
        lab.attach(host).await?;
    }
    let shares = lab.calls();
    let creates = |calls: &std::collections::BTreeMap<Action, u64>| {
        calls.get(&Action::CreateRoute).copied().unwrap_or_default()
    };
    checks.add("three hosts found by tag make one ring", same(&(first as u64), &creates(&shares)));

    let stranger = lab.add_host().await?;
    let mut late = Vec::new();
    for _ in 0..2 {
        late.push(lab.add_host().await?);
    }
    lab.configure_by_tag(&tag, first)?;
    for &host in &late {
        lab.tag_host(host, KEY, VALUE);
        lab.start_host(host)?;
    }
    for &host in &late {
        lab.await_ready(host).await?;
        lab.attach(host).await?;
    }
    checks.timed("each of the first hosts meets two more", met(lab, 0, first + late.len() - 1).await?);
    let pings = lab.ping_all().await?;
    let listed = targets(&lab.status(0).await?);
    let untagged = lab.hosts[stranger].address.to_string();
    checks.add(
        "an instance without the tag is not dialled",
        holds(!listed.contains(&untagged), || format!("{listed:?}")),
    );

    // As it is while all are there: who is terminated takes its ranges along.
    let mut report = basic::report(lab).await?;
    report.pings = pings;
    let gone = late[1];
    let address = lab.hosts[gone].address.to_string();
    lab.terminate_host(gone).await?;
    lab.containers.retain(|container| container.host != gone);
    let forgotten = eventually(SOON, async || {
        let listed = targets(&lab.status(0).await?);
        Ok(holds(!listed.contains(&address), || format!("{listed:?}")))
    });
    checks.timed("an instance that is terminated is dialled no more", forgotten.await?);

    report.checks.extend(checks.0);
    Ok(report)
}

/// Whom a host dials.
fn targets(status: &Value) -> Vec<String> {
    let all = status["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().filter_map(|target| target["target"].as_str().map(str::to_owned)).collect()
}

/// Waits until a host has established connections to so many.
async fn met(lab: &Lab, host: usize, others: usize) -> anyhow::Result<Result<Duration, String>> {
    eventually(SOON, async || {
        let status = lab.status(host).await?;
        let all = status["connections"].as_array().map(Vec::as_slice).unwrap_or_default();
        let established = all.iter().filter(|one| one["state"] == "established").count();
        Ok(same(&others, &established))
    })
    .await
}
