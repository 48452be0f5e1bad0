//! Somebody else leads a route of ours elsewhere, again and again: it is noticed, named, and fought less and less.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use weavers::sim::vpc::Action;

use super::{
    basic,
    repair::{leads, replace},
    stage::{Checks, at_work, eventually, holds, passes, report},
};
use crate::{lab::Lab, report::Report};

/// How long the other writer goes on. A look every two seconds would set the route back fifteen times.
const FIGHT: Duration = Duration::from_secs(30);
const OTHERS_PAUSE: Duration = Duration::from_millis(100);
const SETS_BACK_MIN: u64 = 4;
const SETS_BACK_MAX: u64 = 6;
const SOON: Duration = Duration::from_secs(5);

/// Another program takes a route of h2 for its own.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let ready = at_work(lab).await?;
    let mut checks = Checks::default();
    let (cidr, own) = (basic::owned(lab, 1).await?[0], lab.hosts[1].interface.clone());
    let rival = lab.hosts[2].interface.clone();
    let before = sets_back(lab);
    let start = Instant::now();
    while start.elapsed() < FIGHT {
        if leads(lab, cidr, &own).is_ok() {
            replace(lab, cidr, &rival)?;
        }
        sleep(OTHERS_PAUSE).await;
    }
    let count = sets_back(lab) - before;
    checks.add(
        format!("in {FIGHT:?} the route was set back {count} times"),
        holds((SETS_BACK_MIN..=SETS_BACK_MAX).contains(&count), || format!("{count} times")),
    );
    let words = ["is fought over", &format!("leads it to {rival}"), "cloudtrail"];
    checks.add("status names the fight and the rival", lab.ran(1, &["status"]).await?.says(0, &words));
    checks.add("others' packets are not concerned", passes(lab, 0, 2).await?);
    let status = lab.status(1).await?;
    let told = status["steps"].as_array().into_iter().flatten().any(|step| {
        step["cause"] == "somebody changed it" && step["outcome"] == "done" && step["request_id"].is_string()
    });
    checks.add(
        "the history tells of each repair why and by which request",
        holds(told, || format!("{}", status["steps"])),
    );

    lab.weavers(1, &["apply", "--timeout", "20s"]).await?;
    let restored = eventually(SOON, async || Ok(leads(lab, cidr, &own)));
    checks.timed("the other has gone: who asks need not wait for the pause", restored.await?);
    report(lab, ready, checks).await
}

fn sets_back(lab: &Lab) -> u64 {
    lab.calls().get(&Action::ReplaceRoute).copied().unwrap_or_default()
}
