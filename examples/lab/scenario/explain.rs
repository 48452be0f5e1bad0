//! What the daemon says of an address, from wherever it is asked.

use std::{net::Ipv4Addr, time::Duration};

use serde_json::Value;
use weavers::{
    addr::Address,
    sim::vpc::{Action, Call, Caller, Faults},
    state::link_name,
};

use super::{
    basic,
    stage::{Checks, at_work, eventually, report, same},
};
use crate::{lab::Lab, report::Report};

/// How long until a daemon has seen what was done behind its back, and said so.
const SEEN_WITHIN: Duration = Duration::from_secs(10);

/// Addresses in use, free, of a peer and of nobody; and one whose route is missing.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let ready = at_work(lab).await?;
    let mut checks = Checks::default();
    let container = lab.containers[0].clone();
    let address = container.address.to_string();
    let (link, table) = (link_name(Address::from(container.address)), lab.table.to_string());
    let interface = lab.hosts[0].interface.to_string();

    let ran = lab.ran(0, &["explain", &address]).await?;
    let words = ["on this host", &container.name, &link, &table, &interface, "active", "nothing is missing"];
    checks.add("a container is followed from its owner to its link", ran.says(0, &words));
    let ran = lab.ran(1, &["explain", &address]).await?;
    let words = ["in the space of h1", "reachable", &table, &interface, "nothing is missing"];
    checks.add("a peer names its owner and the route there", ran.says(0, &words));
    let free = Ipv4Addr::from(u32::from(container.address) + 100).to_string();
    let ran = lab.ran(0, &["explain", &free]).await?;
    checks.add("a free address is said to be free", ran.says(0, &["this host, free", "unreachable"]));
    let ran = lab.ran(0, &["explain", "10.0.1.12"]).await?;
    checks.add("one of the VPC is known as such", ran.says(0, &["an address of the VPC (10.0.0.0/16)"]));
    let ran = lab.ran(0, &["explain", "192.168.7.9"]).await?;
    checks.add("one of nobody too", ran.says(0, &["outside the container range", "no part in it"]));
    let ran = lab.ran(0, &["explain", "--json", &address]).await?;
    let document: Value = serde_json::from_str(&ran.stdout)?;
    checks.add("the document says the same", same(&Value::from("used"), &document["standing"]));
    checks.add("and is versioned", same(&Value::from("1.0"), &document["format_version"]));

    lab.cloud.with(|vpc, _| {
        let denied = [Action::CreateRoute].into();
        vpc.set_faults(Faults { denied, ..Faults::default() });
    });
    for cidr in basic::owned(lab, 0).await? {
        let (table, destination) = (lab.table.0.clone(), cidr.into());
        let delete = Call::DeleteRoute { table, destination, dry_run: false };
        let deleted = lab.cloud.with(|vpc, now| vpc.call(now, &Caller::Console, &delete).result);
        deleted.map_err(|error| anyhow::anyhow!("{error}"))?;
    }
    let no_route = format!("missing: {table} has no route for it");
    let words = [no_route.as_str(), "ec2:CreateRoute"];
    let said =
        eventually(SEEN_WITHIN, async || Ok(lab.ran(0, &["explain", &address]).await?.says(0, &words)));
    checks.timed("a route that is missing is named, and why nobody makes it", said.await?);
    let words = [no_route.as_str(), "its owner writes that route"];
    checks.add("by a peer, too", lab.ran(1, &["explain", &address]).await?.says(0, &words));
    lab.cloud.with(|vpc, _| vpc.set_faults(Faults::default()));
    checks.add("once it is allowed, apply makes it", lab.ran(0, &["apply"]).await?.says(0, &["created"]));
    let ran = lab.ran(1, &["explain", &address]).await?;
    checks.add("and a peer sees it at once", ran.says(0, &["nothing is missing"]));

    lab.kill_host(2).await?;
    let theirs = lab.containers[2].address.to_string();
    let words = ["in the space of h3", "cannot be reached", "weavers forget"];
    let said = eventually(SEEN_WITHIN, async || Ok(lab.ran(0, &["explain", &theirs]).await?.says(0, &words)));
    checks.timed("an owner that is away is named", said.await?);
    lab.start_host(2)?;
    lab.await_ready(2).await?;
    report(lab, ready, checks).await
}
