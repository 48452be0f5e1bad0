//! Daemons are restarted, half of them at once and then all, and no packet notices.

use std::time::{Duration, Instant};

use super::{
    basic,
    crash::spread,
    stage::{Checks, same},
};
use crate::{lab::Lab, pinger::end_without_loss, report::Report};

/// How often each half is restarted.
const ROUNDS: usize = 3;
const ATTACHES: usize = 20;

/// Restarts under a ping from each host to the next, and measures.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let ready = lab.start_all().await?;
    for host in 0..lab.hosts.len() {
        lab.attach(host).await?;
    }
    lab.settle().await?;
    let writes = lab.writes();
    let pingers = lab.ping_ring(&Vec::from_iter(0..lab.containers.len()))?;
    let (even, odd): (Vec<usize>, Vec<usize>) = (0..lab.hosts.len()).partition(|host| host % 2 == 0);
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        took.push(restart(lab, &even).await?);
        took.push(restart(lab, &odd).await?);
    }
    let all = restart(lab, &[even, odd].concat()).await?;
    let (sent, lost) = end_without_loss(pingers).await?;

    let mut checks = Checks::default();
    checks.add(format!("none of {sent} pings was lost"), lost);
    checks.add("nothing was written to EC2", same(&writes, &lab.writes()));
    checks.add(format!("half of the hosts were ready again after {}", spread(took)), Ok(()));
    checks.add(format!("all of them, restarted at once, after {} ms", all.as_millis()), Ok(()));
    let pings = lab.ping_all().await?;
    let mut attaches = Vec::new();
    for _ in 0..ATTACHES {
        attaches.push(attach(lab).await?);
    }
    checks.add(format!("attach, with the start of the command, took {}", spread(attaches)), Ok(()));
    let mut report = basic::report(lab).await?;
    (report.ready, report.pings) = (ready, pings);
    report.checks.extend(checks.0);
    Ok(report)
}

/// Stops these daemons as a service manager does and starts them; until the last is ready.
async fn restart(lab: &mut Lab, hosts: &[usize]) -> anyhow::Result<Duration> {
    for &host in hosts {
        lab.stop_host(host).await?;
    }
    let start = Instant::now();
    for &host in hosts {
        lab.start_host(host)?;
    }
    for &host in hosts {
        lab.await_ready(host).await?;
    }
    Ok(start.elapsed())
}

/// One more container on the first host; how long the command took.
async fn attach(lab: &mut Lab) -> anyhow::Result<Duration> {
    let netns = lab.make_netns(0).await?;
    let start = Instant::now();
    lab.weavers(0, &["attach", &netns.path.to_string_lossy()]).await?;
    let took = start.elapsed();
    lab.adopt(0, netns).await?;
    Ok(took)
}
