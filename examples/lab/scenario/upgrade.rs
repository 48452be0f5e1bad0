//! Another version of the program takes over, host by host, under containers that run.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, time::Instant};

use anyhow::Context;
use weavers::{
    node::persist::memory::{FORMAT, Write},
    store::Store,
};

use super::stage::{Checks, report, same};
use crate::{lab::Lab, pinger::end_without_loss, report::Report};

/// The host whose store comes to be of a newer version.
const AHEAD: usize = 2;

/// From the earlier version to this one, with both at work in between, and not back from a newer one.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let mut checks = Checks::default();
    let earlier = earlier(lab)?;
    let start = Instant::now();
    for host in 0..lab.hosts.len() {
        lab.start_host_with(host, &earlier)?;
    }
    for host in 0..lab.hosts.len() {
        lab.await_ready(host).await?;
        lab.attach(host).await?;
    }
    let ready = start.elapsed();
    for host in 0..lab.hosts.len() {
        lab.settled(host).await?.map_err(anyhow::Error::msg)?;
    }
    lab.settle().await?;
    let (writes, links) = (lab.writes(), links(lab).await?);
    let pingers = lab.ping_ring(&Vec::from_iter(0..lab.containers.len()))?;
    for host in 0..lab.hosts.len() {
        lab.stop_host(host).await?;
        lab.start_host(host)?;
        lab.await_ready(host).await?;
        lab.settled(host).await?.map_err(anyhow::Error::msg)?;
        for attaches in [host, (host + 1) % lab.hosts.len()] {
            let attached = lab.attach(attaches).await.map(|_| ()).map_err(|error| format!("{error:#}"));
            checks.add(format!("h{} is upgraded: h{} attaches", host + 1, attaches + 1), attached);
        }
    }
    checks.add("no link was made anew", same(&links, &self::links(lab).await?[..links.len()].to_vec()));
    newer(lab, &mut checks).await?;
    let (sent, lost) = end_without_loss(pingers).await?;
    checks.add(format!("none of {sent} pings was lost meanwhile"), lost);
    checks.add("nothing was written to EC2", same(&writes, &lab.writes()));
    report(lab, ready, checks).await
}

/// A store that a newer version wrote is refused in clear words, and is left as it is.
async fn newer(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    lab.stop_host(AHEAD).await?;
    set_format(lab, FORMAT + 1)?;
    let words = ["a newer weavers", &format!("format is {}", FORMAT + 1), "install that version again"];
    let ran = lab.ran_in_place(AHEAD, &["run"]).await?;
    checks.add("a store of a newer version is refused, with what to do", ran.says(5, &words));
    let again = lab.ran_in_place(AHEAD, &["run"]).await?;
    checks.add("and is left as it is", again.says(5, &words));
    set_format(lab, FORMAT)?;
    lab.start_host(AHEAD)?;
    lab.await_ready(AHEAD).await?;
    lab.settled(AHEAD).await?.map_err(anyhow::Error::msg)?;
    Ok(())
}

fn set_format(lab: &Lab, format: u32) -> anyhow::Result<()> {
    let write = Write { key: "format".to_owned(), value: Some(format.to_string().into_bytes()) };
    Ok(Store::open(&lab.hosts[AHEAD].store())?.write(&[write])?)
}

/// The binary that hosts are upgraded from.
fn earlier(lab: &Lab) -> anyhow::Result<PathBuf> {
    if let Some(path) = &lab.options.earlier {
        return path.canonicalize().with_context(|| format!("{} is not there", path.display()));
    }
    let copy = lab.dir().join("weavers-earlier");
    fs::copy(lab.binary(), &copy).context("the binary cannot be copied")?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    Ok(copy)
}

/// Indices of the containers' links, which a new link would not have.
async fn links(lab: &Lab) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for container in 0..lab.containers.len() {
        found.push(lab.in_container(container, &["cat", "/sys/class/net/ethwe/ifindex"]).await?);
    }
    Ok(found)
}
