//! Several subnets and route tables: every host's routes are in all that matter, and nowhere else.

use std::time::Duration;

use weavers::{
    sim::vpc::{Origin, SubnetId},
    state::TableId,
};

use super::{
    basic,
    stage::{Checks, at_work, eventually, holds, report, same},
};
use crate::{
    lab::Lab,
    report::Report,
    verify::{self, Owners},
};

/// Two looks and what they bring: first it is found where a peer lives, then what that table lacks.
const SOON: Duration = Duration::from_secs(12);

/// A second subnet with a table of its own; then a third that a host appears in, on the main table until that is changed. A table
/// that serves a gateway is left alone all the while.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let mut checks = Checks::default();
    let (second, edge) = lab.cloud.with(|vpc, now| {
        let edge = vpc.add_table(now);
        vpc.associate_edge(now, &edge, "igw-1");
        (vpc.add_table(now), edge)
    });
    let subnet = add_subnet(lab, "10.0.2.0/24", Some(&second));
    lab.add_host_in(&subnet).await?;
    lab.configure()?;
    let ready = at_work(lab).await?;
    let main = lab.cloud.with(|vpc, _| vpc.main_table().clone());
    let first = lab.table.clone();
    for table in [&first, &second] {
        checks.timed(format!("{table} leads to every owner"), led(lab, table).await?);
    }
    for table in [&main, &edge] {
        checks.add(format!("{table}, which serves no host, was left alone"), same(&0, &created(lab, table)));
    }

    let subnet = add_subnet(lab, "10.0.3.0/24", None);
    let late = lab.add_host_in(&subnet).await?;
    lab.configure()?;
    lab.start_host(late)?;
    lab.await_ready(late).await?;
    lab.attach(late).await?;
    for table in [&first, &second, &main] {
        checks.timed(
            format!("with a host in a new subnet {table} leads to every owner"),
            led(lab, table).await?,
        );
    }
    let pings = lab.ping_all().await?;
    let lost = pings.iter().filter(|ping| !ping.ok).count();
    checks.add("the new host's container reaches all others, and they it", same(&0, &lost));

    let third = lab.cloud.with(|vpc, now| {
        let table = vpc.add_table(now);
        vpc.associate(now, &subnet, Some(&table));
        table
    });
    let before = created(lab, &main);
    checks.timed(
        format!("a subnet was given another table: {third} leads to every owner"),
        led(lab, &third).await?,
    );
    checks.add("the table that serves nobody any more keeps its routes", same(&before, &created(lab, &main)));
    checks.add("the table of the gateway was left alone", same(&0, &created(lab, &edge)));
    for host in 0..lab.hosts.len() {
        lab.settled(host).await?.map_err(anyhow::Error::msg)?;
    }
    let status = lab.status(0).await?;
    let kept: Vec<String> =
        status["upkeep"].as_object().into_iter().flatten().map(|(table, _)| table.clone()).collect();
    let all = [&first, &second, &third];
    checks.add(
        "status tells of each table that it is kept",
        holds(all.iter().all(|table| kept.contains(&table.0)) && kept.len() == 3, || format!("{kept:?}")),
    );
    report(lab, ready, checks).await
}

pub(super) fn add_subnet(lab: &Lab, cidr: &str, table: Option<&TableId>) -> SubnetId {
    lab.cloud.with(|vpc, now| {
        let subnet = vpc.add_subnet(now, cidr.parse().expect("it is written as a network"), "eu-central-1b");
        vpc.associate(now, &subnet, table);
        subnet
    })
}

/// How long it takes until the longest match of every owned address leads to its owner.
async fn led(lab: &Lab, table: &TableId) -> anyhow::Result<Result<Duration, String>> {
    eventually(SOON, async || {
        let mut owners = Owners::new();
        for (index, host) in lab.hosts.iter().enumerate() {
            let owned = basic::owned(lab, index).await?;
            owners.extend(owned.into_iter().map(|cidr| (cidr, host.interface.clone())));
        }
        Ok(verify::leads_to_owners(&owners, &lab.cloud.with(|vpc, _| vpc.routes(table))))
    })
    .await
}

/// Routes in a table that somebody created.
fn created(lab: &Lab, table: &TableId) -> usize {
    let routes = lab.cloud.with(|vpc, _| vpc.routes(table));
    routes.iter().filter(|route| route.origin == Origin::Created).count()
}
