//! Metadata that are silent at first: what they say later completes who a host is, or contradicts it.

use std::time::{Duration, Instant};

use anyhow::Context;
use weavers::sim::vpc::Action;

use super::{
    refusal::{named, two_at_work, undisturbed},
    stage::{Checks, eventually, holds, report, same},
};
use crate::{lab::Lab, report::Report};

const METADATA: &str = "169.254.169.254";
const SOON: Duration = Duration::from_secs(10);
/// Pauses between questions grow up to this.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);
const LATE: usize = 2;

pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let mut checks = Checks::default();
    silence(lab, true).await?;
    lab.start_host(LATE)?;
    let ready = two_at_work(lab).await?;
    checks.timed("the silence is named", named(lab, LATE, &["not ready", "metadata"]).await?);
    silence(lab, false).await?;
    lab.await_ready(LATE).await?;
    lab.attach(LATE).await?;
    checks.add("its instance is known then", knows_itself(lab).await?);
    lab.stop_host(LATE).await?;
    silence(lab, true).await?;
    lab.start_host(LATE)?;
    let known = eventually(SOON, async || knows_itself(lab).await).await?;
    checks.timed("and for life", known);
    let attached = attach_again(lab).await?;
    checks.add("restarted beside silent metadata it attaches where its routes stood", attached);
    checks.add("the others are as before", undisturbed(lab).await?);
    copied(lab, &mut checks).await?;
    report(lab, ready, checks).await
}

/// The disk of another host, which goes on in the meantime.
async fn copied(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    lab.stop_host(LATE).await?;
    let own = lab.hosts[LATE].dir.join("own.redb");
    std::fs::rename(lab.hosts[LATE].store(), &own)?;
    lab.stop_host(0).await?; // so that the copy is whole
    std::fs::copy(lab.hosts[0].store(), lab.hosts[LATE].store()).context("the store cannot be copied")?;
    lab.start_host(0)?;
    lab.await_ready(0).await?;
    let writes = lab.writes();
    lab.start_host(LATE)?;
    let doubts = ["to confirm that this is", &lab.hosts[0].instance.0.clone()];
    checks.timed("a copy beside silent metadata says whom it may be", named(lab, LATE, &doubts).await?);
    silence(lab, false).await?;
    let start = Instant::now();
    let ended = lab.hosts[LATE].ended(ANSWERED_WITHIN).await?;
    checks.timed("it ends when they answer", same(&Some(1), &ended.code()).map(|()| start.elapsed()));
    let log = std::fs::read_to_string(lab.hosts[LATE].log())?;
    let words = format!("made on {}, but this is {}", lab.hosts[0].instance.0, lab.hosts[LATE].instance.0);
    checks.add("and says why", holds(log.contains(&words), || log.clone()));
    let routes = [Action::CreateRoute, Action::ReplaceRoute, Action::DeleteRoute];
    let of = |all: &std::collections::BTreeMap<Action, u64>| routes.map(|action| all.get(&action).copied());
    checks.add("it has written no route", same(&of(&writes), &of(&lab.writes())));
    lab.start_host(LATE)?;
    let begun = eventually(SOON, async || {
        let log = std::fs::read_to_string(lab.hosts[LATE].log())?;
        Ok(holds(log.contains("set aside"), || "the store is not set aside".to_owned()))
    });
    checks.timed("the next start sets the copy aside", begun.await?);
    // One that is told to stop before it listens ends as the signal has it.
    lab.ran_when_up(LATE, &["status"]).await?;
    lab.stop_host(LATE).await?;
    std::fs::rename(own, lab.hosts[LATE].store())?;
    lab.start_host(LATE)?;
    lab.await_ready(LATE).await?;
    // Here all hosts are of one boot, so the copy took the links of this host for its own.
    let whole = lab.settled(LATE).await?;
    checks.timed("with its own store its containers are connected again", whole);
    Ok(())
}

async fn silence(lab: &Lab, silent: bool) -> anyhow::Result<()> {
    let verb = if silent { "add" } else { "del" };
    lab.on_host(LATE, &["ip", "route", verb, "prohibit", METADATA]).await.map(drop)
}

async fn knows_itself(lab: &Lab) -> anyhow::Result<Result<(), String>> {
    let ran = lab.ran(LATE, &["status", "--json"]).await?;
    let instance = format!("\"instance\": \"{}\"", lab.hosts[LATE].instance.0);
    Ok(holds(ran.stdout.contains(&instance), || ran.stdout.clone()))
}

async fn attach_again(lab: &Lab) -> anyhow::Result<Result<(), String>> {
    lab.on_host(LATE, &["ip", "netns", "add", "again"]).await?;
    let ran = lab.ran(LATE, &["attach", "/run/netns/again", "--timeout", "5s"]).await?;
    lab.ran(LATE, &["detach", "/run/netns/again"]).await?;
    lab.on_host(LATE, &["ip", "netns", "del", "again"]).await?;
    Ok(ran.says(0, &[]))
}
