//! A start of several hosts costs no more calls than it must, and nobody comes too late for the first ring.

use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::time::sleep;
use weavers::sim::vpc::Action;

use super::{
    basic,
    stage::{Checks, holds, report, same},
};
use crate::{lab::Lab, report::Report};

/// Within this time of each other the hosts start.
const STAGGER_MS: u64 = 2000;
/// The share of a second that each host may take for a look at EC2, at least; see design, rule 8.
const LOOK_SHARE: Duration = Duration::from_millis(1200);

/// Hosts that start within two seconds of each other.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let begin = Instant::now();
    let hosts = lab.hosts.len();
    let pause = Duration::from_millis(STAGGER_MS / hosts as u64);
    for host in 0..hosts {
        if host > 0 {
            sleep(pause.mul_f64(rand::rng().random_range(0.0..=1.0))).await;
        }
        lab.start_host(host)?;
    }
    for host in 0..hosts {
        lab.await_ready(host).await?;
    }
    let ready = begin.elapsed();
    for host in 0..hosts {
        lab.settled(host).await?.map_err(anyhow::Error::msg)?;
    }

    let mut checks = Checks::default();
    let writes = lab.writes();
    let (mut cidrs, mut shares) = (0, Vec::new());
    for host in 0..hosts {
        let owned = basic::owned(lab, host).await?;
        cidrs += owned.len() as u64;
        shares.push(owned.iter().map(|cidr| 1_u64 << (32 - cidr.prefix_len())).sum::<u64>());
    }
    let count = |action| writes.get(&action).copied().unwrap_or_default();
    let (least, most) = (shares.iter().min().copied(), shares.iter().max().copied());
    let fair = least.zip(most).is_some_and(|(least, most)| least > 0 && most <= 2 * least);
    checks.add("each host has its share of the first ring", holds(fair, || format!("{shares:?}")));
    checks.add("CreateRoute was called once for each owned CIDR", same(&cidrs, &count(Action::CreateRoute)));
    checks.add("ReplaceRoute was not called", same(&0, &count(Action::ReplaceRoute)));
    checks.add("DeleteRoute was not called", same(&0, &count(Action::DeleteRoute)));
    let checked = count(Action::ModifyNetworkInterfaceAttribute);
    checks.add("each turned its source/destination check off once", same(&(hosts as u64), &checked));
    let interval = humantime::parse_duration(&lab.interval)?.max(LOOK_SHARE * hosts as u32);
    sleep(2 * interval).await;
    checks.add("over two intervals nothing was written", same(&writes, &lab.writes()));
    for host in 0..hosts {
        lab.attach(host).await?;
    }
    report(lab, ready, checks).await
}
