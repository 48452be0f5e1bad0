//! A host loses its store just after it gave a part of what it owned to a newcomer of which nobody else has heard. What it
//! owns by the word of the others rests until every owner, and every host that runs, has shown what is theirs.

use std::fs;

use anyhow::{Context, Error};
use ipnet::Ipv4Net;

use super::{
    basic::owned,
    partition::islands,
    stage::{self, Checks, holds, same},
    strangers::{attach_later, awaits, joins_unheard, largest, unused, used},
};
use crate::{
    lab::{Container, Lab},
    pinger::end_without_loss,
    report::Report,
};

/// The hosts that make the first ring, and one that joins it.
const LOSES: usize = 0;
const REMEMBERS: usize = 1;
const CUT_OFF: usize = 2;
const FOUNDERS: usize = 3;
const NEWCOMER: usize = 3;

/// The store is lost while two cannot say what is theirs; then one is heard after the other.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    stage::founded_by(lab, FOUNDERS)?;
    let ready = lab.start_hosts(0..FOUNDERS).await?;
    for host in [LOSES, REMEMBERS, CUT_OFF, LOSES] {
        lab.attach(host).await?;
    }
    let mut checks = Checks::default();
    let theirs = joins_unheard(lab, &mut checks, &[REMEMBERS, CUT_OFF], [LOSES, NEWCOMER]).await?;
    let pingers = lab.ping_ring(&Vec::from_iter(0..lab.containers.len()))?;
    let own = largest(&owned(lab, LOSES).await?)?;
    forgets(lab, &mut checks, &theirs, own).await?;
    is_given(lab, &mut checks).await?;
    hears(lab, &mut checks, &theirs, own).await?;
    let (sent, lost) = end_without_loss(pingers).await?;
    checks.add(format!("none of {sent} pings was lost meanwhile"), lost);
    stage::report(lab, ready, checks).await
}

/// Its store is gone, and of all others it hears only one, which has not heard of the newcomer and has been restarted, so
/// that only routes show that there was another life.
async fn forgets(lab: &mut Lab, checks: &mut Checks, theirs: &Container, own: Ipv4Net) -> anyhow::Result<()> {
    lab.stop_host(LOSES).await?;
    let store = lab.hosts[LOSES].store();
    let state = store.parent().context("the store is in no directory")?;
    fs::remove_dir_all(state).with_context(|| format!("{} cannot be removed", state.display()))?;
    let apart = islands(lab, &[&[LOSES, REMEMBERS], &[CUT_OFF], &[NEWCOMER]]).await?;
    checks.timed("two more are cut off", apart);
    lab.stop_host(REMEMBERS).await?;
    lab.start_host(REMEMBERS)?;
    checks.add("another is back", lab.ran_when_up(REMEMBERS, &["status"]).await?.says(0, &[]));
    let writes = lab.writes();
    lab.start_host(LOSES)?;
    // Before it is ready: at no moment may it use what it once gave away.
    let early = ["ipam", "claim", "probe", &theirs.address.to_string(), "--timeout", "3s"];
    let early = lab.ran_when_up(LOSES, &early).await?;
    checks.add("without its store it does not hand out what it gave away", early.says(1, &[]));
    checks.timed("what it owns rests for two hosts", awaits(lab, LOSES, &[CUT_OFF, NEWCOMER]).await?);
    let (status, address) = (lab.status(CUT_OFF).await?, lab.hosts[NEWCOMER].address.to_string());
    let name = status["name"].as_str().unwrap_or_default();
    let words = [name, &address, "confirmation from", "cannot be reached: bring it back"];
    checks.add("status names them and the way out", lab.ran(LOSES, &["status"]).await?.says(0, &words));
    unused(lab, checks, LOSES, theirs.address, own).await?;
    checks.add("nothing was written to EC2", same(&writes, &lab.writes()));
    Ok(())
}

/// Meanwhile its new containers have addresses that another gives it.
async fn is_given(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let before = owned(lab, REMEMBERS).await?;
    let attached = lab.attach(LOSES).await?;
    let address = lab.containers[attached].address;
    checks.add(
        "a new container has an address that another gave",
        holds(before.iter().any(|cidr| cidr.contains(&address)), || {
            format!("{address} was not in {before:?}")
        }),
    );
    let reached = stage::passes(lab, attached, REMEMBERS).await?;
    checks.add("it reaches a container elsewhere", reached);
    Ok(())
}

/// The owner that was cut off is heard, which does not suffice, and then the newcomer.
async fn hears(lab: &mut Lab, checks: &mut Checks, theirs: &Container, own: Ipv4Net) -> anyhow::Result<()> {
    islands(lab, &[&[LOSES, REMEMBERS, CUT_OFF], &[NEWCOMER]]).await?.map_err(Error::msg)?;
    checks.timed("the owner is heard: it rests for one", awaits(lab, LOSES, &[NEWCOMER]).await?);
    let pending = attach_later(lab, checks, LOSES, own).await?;
    unused(lab, checks, LOSES, theirs.address, own).await?;
    islands(lab, &[&[LOSES, REMEMBERS, CUT_OFF, NEWCOMER]]).await?.map_err(Error::msg)?;
    checks.timed("the newcomer is heard: nothing rests", awaits(lab, LOSES, &[]).await?);
    used(lab, checks, LOSES, theirs, pending).await?;
    for host in 0..lab.hosts.len() {
        checks.timed(format!("h{} has nothing left to do", host + 1), lab.settled(host).await?);
    }
    Ok(())
}
