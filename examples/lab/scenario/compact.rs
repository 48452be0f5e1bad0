//! Hosts are replaced one after the other, and what they leave comes together again: in the end one route leads to each host, and no
//! ping was lost.

use std::time::Duration;

use serde_json::Value;

use super::stage::{self, Checks, eventually, holds, same};
use crate::{lab::Lab, pinger::end_without_loss, report::Report};

/// How long a peer must be silent.
const GRACE: Duration = Duration::from_secs(10);
const LATER: Duration = Duration::from_secs(60);
/// Until all blocks have moved that may.
const MOVED: Duration = Duration::from_secs(240);

/// Those that stay, under pings, and those that are replaced.
const STAY: [usize; 2] = [0, 1];
const GO: [usize; 2] = [2, 3];

/// Two hosts of four are replaced: one is drained, one terminated.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    shorten_grace(lab)?;
    let ready = stage::at_work(lab).await?;
    let hosts = lab.hosts.len();
    let mut checks = Checks::default();
    // The containers are numbered as their hosts.
    let pingers = lab.ping_ring(&STAY)?;
    for (number, gone) in GO.into_iter().enumerate() {
        let new = lab.add_host().await?;
        lab.configure()?;
        shorten_grace(lab)?;
        lab.start_host(new)?;
        lab.await_ready(new).await?;
        lab.attach(new).await?;
        lab.containers.retain(|container| container.host != gone);
        if number == 0 {
            let left = lab.ran(gone, &["reset"]).await?;
            checks.add("a host that is reset gives all away", left.says(0, &[]));
        }
        lab.terminate_host(gone).await?;
        let away = eventually(LATER, async || Ok(same(&Vec::new(), &lab.routes_to(gone))));
        checks.timed(format!("no route leads to h{} any more", gone + 1), away.await?);
    }
    let running: Vec<usize> = (0..lab.hosts.len()).filter(|host| !GO.contains(host)).collect();
    checks.add("there are as many hosts as before", same(&hosts, &running.len()));
    let one_each = eventually(MOVED, async || {
        let routes: Vec<usize> = running.iter().map(|host| lab.routes_to(*host).len()).collect();
        Ok(holds(routes.iter().all(|routes| *routes == 1), || {
            format!("{routes:?} routes lead to {running:?}")
        }))
    });
    checks.timed("one route leads to each host", one_each.await?);
    for &host in &running {
        checks.timed(format!("h{} has nothing left to do", host + 1), lab.settled(host).await?);
        // It knows what another has deleted once it has read the tables again.
        let says = eventually(LATER, async || {
            let compaction = &lab.status(host).await?["ipam"]["compaction"];
            let told = (&compaction["on"], &compaction["routes"], &compaction["routes_least"]);
            let expected = (&Value::from(true), &Value::from(1), &Value::from(1));
            Ok(same(&expected, &told))
        });
        checks.timed(format!("h{} says so", host + 1), says.await?);
    }
    let (sent, lost) = end_without_loss(pingers).await?;
    checks.add(format!("none of {sent} pings between those that stay was lost meanwhile"), lost);
    stage::report(lab, ready, checks).await
}

/// In all files, which were just written.
fn shorten_grace(lab: &Lab) -> anyhow::Result<()> {
    let line = format!("[vpc]\nreclaim = \"{}s\"", GRACE.as_secs());
    (0..lab.hosts.len()).try_for_each(|host| lab.edit(host, "[vpc]", &line))
}
