//! A host with two interfaces: routes lead to the one by which its packets leave.

use std::time::Duration;

use weavers::{
    sim::vpc::{Call, Check},
    state::{InterfaceId, TableId},
};

use super::{
    basic,
    repair::as_colleague,
    stage::{Checks, at_work, eventually, holds, passes, report, same},
    tables::add_subnet,
};
use crate::{lab::Lab, report::Report};

/// What a repair may take on top of the time between two looks.
const ALLOWANCE: Duration = Duration::from_secs(2);

/// h1's default route goes by its second interface, in a subnet of its own; the mesh still meets at the first. Then
/// that interface is exchanged, and its check is turned on again.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let mut checks = Checks::default();
    let first = lab.hosts[0].interface.clone();
    let table = lab.cloud.with(|vpc, now| vpc.add_table(now));
    let subnet = add_subnet(lab, "10.0.2.0/24", Some(&table));
    lab.add_interface(0, &subnet).await?;
    let second = lab.hosts[0].interface.clone();
    let ready = at_work(lab).await?;
    let status = lab.status(0).await?;
    checks.add(
        "the host knows the interface that carries its traffic",
        same(&Some(second.0.as_str()), &status["interface"].as_str()),
    );
    checks.add("its source/destination check is off", same(&Some(false), &check_of(lab, &second)));
    checks.add("that of the other was left alone", same(&Some(true), &check_of(lab, &first)));
    let mut kept: Vec<&String> =
        status["upkeep"].as_object().into_iter().flatten().map(|(table, _)| table).collect();
    kept.sort();
    checks.add("the tables of both subnets are kept", same(&vec![&lab.table.0, &table.0], &kept));
    exchanged(lab, &mut checks, &table).await?;
    turned_on(lab, &mut checks).await?;
    told(lab, &mut checks, &first).await?;
    report(lab, ready, checks).await
}

/// The interface that carries the traffic is detached, and another is attached.
async fn exchanged(lab: &mut Lab, checks: &mut Checks, table: &TableId) -> anyhow::Result<()> {
    let limit = humantime::parse_duration(&lab.interval)? + ALLOWANCE;
    let former = lab.hosts[0].interface.clone();
    lab.detach_interface(0).await?;
    let subnet = add_subnet(lab, "10.0.3.0/24", Some(table));
    lab.add_interface(0, &subnet).await?;
    let now = lab.hosts[0].interface.clone();
    let followed = eventually(limit, async || followed(lab, &now).await).await?;
    checks.timed("another interface in its place is found at the next look", followed);
    checks.add("packets flow by it", passes(lab, 1, 0).await?);
    let log = std::fs::read_to_string(lab.hosts[0].log())?;
    let told = log.lines().find(|line| line.contains("another interface carries the traffic"));
    let names = told.is_some_and(|line| line.contains(&former.0) && line.contains(&now.0));
    checks.add("the log names both", holds(names, || format!("{told:?}")));
    Ok(())
}

/// Whether all routes of h1 lead to this interface, whose check is off, and its status says so.
async fn followed(lab: &Lab, to: &InterfaceId) -> anyhow::Result<Result<(), String>> {
    let owned = basic::owned(lab, 0).await?;
    let astray = owned.iter().find_map(|cidr| super::repair::leads(lab, *cidr, to).err());
    let status = lab.status(0).await?;
    Ok(astray
        .map_or(Ok(()), Err)
        .and(same(&Some(to.0.as_str()), &status["interface"].as_str()))
        .and(same(&Some(false), &check_of(lab, to))))
}

/// A colleague turns the check on: it is off again after the next look, and at once where somebody asks.
async fn turned_on(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let limit = humantime::parse_duration(&lab.interval)? + ALLOWANCE;
    let interface = lab.hosts[0].interface.clone();
    let call = Call::ModifyNetworkInterfaceAttribute {
        interface: interface.0.clone(),
        check: Check::On,
        dry_run: false,
    };
    as_colleague(lab, &call)?;
    let off = eventually(limit, async || Ok(same(&Some(false), &check_of(lab, &interface)))).await?;
    checks.timed("a check that is turned on again is off after the next look", off);
    lab.settled(0).await?.map_err(anyhow::Error::msg)?;
    as_colleague(lab, &call)?;
    let ran = lab.ran(0, &["plan"]).await?;
    checks.add("plan sees it at once", ran.says(0, &[&interface.0, "source_dest_check", "1 to replace"]));
    lab.settled(0).await?.map_err(anyhow::Error::msg)?;
    Ok(())
}

/// The file names another uplink, and the routes lead to it before the next look would be due.
async fn told(lab: &Lab, checks: &mut Checks, first: &InterfaceId) -> anyhow::Result<()> {
    let (auto, named) = ("[network]\n", "[network]\nuplinks = [\"eth0\"]\n");
    let second = lab.hosts[0].interface.clone();
    for (from, to, expected) in [(auto, named, first), (named, auto, &second)] {
        lab.edit(0, from, to)?;
        lab.weavers(0, &["reload"]).await?;
        let led = eventually(ALLOWANCE, async || {
            let status = lab.status(0).await?;
            Ok(same(&Some(expected.0.as_str()), &status["interface"].as_str()))
        });
        checks.timed("an uplink that is configured is the interface that routes lead to", led.await?);
    }
    lab.settled(0).await?.map_err(anyhow::Error::msg)?;
    Ok(())
}

fn check_of(lab: &Lab, interface: &InterfaceId) -> Option<bool> {
    lab.cloud.with(|vpc, _| vpc.interfaces().get(interface).map(|one| one.source_dest_check))
}
