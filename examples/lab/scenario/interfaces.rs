//! A host with two interfaces: routes lead to the one by which its packets leave.

use super::{
    stage::{Checks, at_work, report, same},
    tables::add_subnet,
};
use crate::{lab::Lab, report::Report};

/// h1's default route goes by its second interface, in a subnet of its own; the mesh still meets at the first.
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
    let check = |id| lab.cloud.with(|vpc, _| vpc.interfaces().get(id).map(|one| one.source_dest_check));
    checks.add("its source/destination check is off", same(&Some(false), &check(&second)));
    checks.add("that of the other was left alone", same(&Some(true), &check(&first)));
    let mut kept: Vec<&String> =
        status["upkeep"].as_object().into_iter().flatten().map(|(table, _)| table).collect();
    kept.sort();
    checks.add("the tables of both subnets are kept", same(&vec![&lab.table.0, &table.0], &kept));
    report(lab, ready, checks).await
}
