//! Space runs out: on one host, which is given some of another's, and then everywhere.

use std::time::{Duration, Instant};

use super::{
    basic,
    stage::{Checks, holds},
};
use crate::{lab::Lab, report::Report};

/// 16 addresses, the first and the last of which are nobody's.
const RANGE: &str = "10.32.0.0/28";
const USABLE: usize = 14;
/// Everything is used: nothing is waited for.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Attaches until nothing is left.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    lab.range = RANGE.parse()?;
    lab.configure()?;
    let ready = lab.start_all().await?;
    let mut checks = Checks::default();
    for host in 1..lab.hosts.len() {
        lab.attach(host).await?;
    }
    let own = basic::owned(lab, 0).await?.iter().map(|cidr| 1usize << (32 - cidr.prefix_len())).sum();
    let mut slowest = Duration::ZERO;
    while lab.containers.len() < USABLE {
        let start = Instant::now();
        lab.attach(0).await?;
        slowest = slowest.max(start.elapsed());
    }
    let count = lab.containers.iter().filter(|container| container.host == 0).count();
    checks.add(
        format!(
            "a host that owned {own} addresses has {count} containers; the slowest took {} ms",
            slowest.as_millis()
        ),
        holds(count > own, || "it was given nothing".to_owned()),
    );
    let pings = lab.ping_all().await?;

    for host in 0..lab.hosts.len() {
        let start = Instant::now();
        let ran = lab.ran(host, &["ipam", "allocate", "one-more"]).await?;
        let took = start.elapsed();
        checks.add(
            format!("all is used: h{} says so after {} ms", host + 1, took.as_millis()),
            ran.says(1, &["no address of 10.32.0.0/28 is free to be given"])
                .and(holds(took < AT_ONCE, || format!("it took {took:?}"))),
        );
    }
    let netns = lab.make_netns(1).await?;
    let ran = lab.ran(1, &["attach", &netns.path.to_string_lossy()]).await?;
    checks.add(
        "all is used: attach says so too",
        ran.says(1, &["no address of 10.32.0.0/28 is free to be given"]),
    );

    let last = lab.containers.pop().map(|container| container.netns.to_string_lossy().into_owned());
    lab.weavers(0, &["detach", &last.unwrap_or_default()]).await?;
    let start = Instant::now();
    let ran = lab.ran(1, &["attach", &netns.path.to_string_lossy()]).await?;
    checks.add(
        format!(
            "an address that was freed on one host is had by another after {} ms",
            start.elapsed().as_millis()
        ),
        ran.says(0, &[]),
    );
    let newest = lab.adopt(1, netns).await?;
    lab.settle().await?;
    let there = lab.ping(0, newest).await?;
    let back = lab.ping(newest, 0).await?;
    let mut report = basic::report(lab).await?;
    (report.ready, report.pings) = (ready, pings);
    report.pings.extend([there, back]);
    report.checks.extend(checks.0);
    Ok(report)
}
