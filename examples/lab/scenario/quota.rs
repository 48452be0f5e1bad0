//! A route table fills up: it is said in time, nothing is tried in vain, and room is used as soon as there is some.

use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::time::sleep;
use weavers::{
    sim::vpc::{Action, Call, Targets},
    state::InterfaceId,
};

use super::{
    basic,
    repair::{as_colleague, delete, leads},
    stage::{Checks, at_work, eventually, holds, passes, report, same},
};
use crate::{lab::Lab, report::Report};

const SOON: Duration = Duration::from_secs(10);
/// Several looks, in which nothing is to happen.
const WHILE: Duration = Duration::from_secs(8);

/// A table for ten routes, of which weavers needs two.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let ready = at_work(lab).await?;
    let mut checks = Checks::default();
    let (cidr, own) = (basic::owned(lab, 0).await?[0], lab.hosts[0].interface.clone());

    // Local, h1, h2 and five more: eight.
    (1..=5).try_for_each(|number| create(lab, foreign(number), None))?;
    lab.edit(0, "[vpc]\n", "[vpc]\nquota = 10\n")?;
    lab.weavers(0, &["reload"]).await?;
    let warned = eventually(SOON, async || {
        Ok(lab.ran(0, &["status"]).await?.says(0, &["is nearly full: it holds 8 of 10 routes", "L-93826ACB"]))
    });
    checks.timed("at four fifths of the quota it is said", warned.await?);

    // EC2's own limit is lower than what the file says, and somebody takes h1's place.
    limit(lab, 8);
    delete(lab, cidr)?;
    create(lab, foreign(6), None)?;
    let full = ["cannot create", "the table is full: 8 of 8 routes"];
    let refused = eventually(SOON, async || Ok(lab.ran(0, &["status"]).await?.says(0, &full)));
    checks.timed("a full table is known after one refusal", refused.await?);
    let tries = calls(lab, Action::CreateRoute);
    sleep(WHILE).await;
    checks.add("nothing is tried in vain", same(&tries, &calls(lab, Action::CreateRoute)));
    checks.add(
        "plan shows it",
        lab.ran(0, &["plan"]).await?.says(0, &["! refused", "the table is full", "of 8 afterwards"]),
    );
    let applied = lab.ran(0, &["apply", "--timeout", "20s"]).await?;
    checks.add("apply ends with 1 and the reason", applied.says(1, &["full"]));

    delete(lab, foreign(6))?;
    let restored = eventually(SOON, async || Ok(leads(lab, cidr, &own)));
    checks.timed("as soon as there is room the route is there", restored.await?);
    checks.timed("and its packets arrive", passes(lab, 1, 0).await?.map(|()| Duration::ZERO));
    lab.settled(0).await?.map_err(anyhow::Error::msg)?;

    // Local, h2, six of others, and two of h1's in the place of the one it needs: ten of ten.
    limit(lab, 10);
    lab.weavers(0, &["apply", "--timeout", "20s"]).await?;
    lab.stop_host(0).await?;
    let inner = |length: u8| Ipv4Net::new_assert(cidr.network(), length);
    delete(lab, cidr)?;
    create(lab, inner(cidr.prefix_len() + 1), Some(&own))?;
    create(lab, inner(cidr.prefix_len() + 3), Some(&own))?;
    create(lab, foreign(7), None)?;
    let before = lab.writes();
    lab.start_host(0)?;
    lab.await_ready(0).await?;
    lab.settled(0).await?.map_err(anyhow::Error::msg)?;
    let mut expected = before;
    *expected.entry(Action::CreateRoute).or_default() += 1;
    *expected.entry(Action::DeleteRoute).or_default() += 2;
    checks.add(
        "in a full table what is superfluous goes first: no call is refused",
        same(&expected, &lab.writes()),
    );
    let left = lab.cloud.with(|vpc, _| vpc.routes(&lab.table));
    let ours = left.iter().filter(|route| cidr.contains(&route.destination)).count();
    checks.add("one route is left of three", holds(ours == 1, || format!("{left:?}")));
    report(lab, ready, checks).await
}

fn foreign(number: u8) -> Ipv4Net {
    Ipv4Net::new_assert([172, 16, number, 0].into(), 24)
}

fn create(lab: &Lab, cidr: Ipv4Net, to: Option<&InterfaceId>) -> anyhow::Result<()> {
    let targets = match to {
        Some(interface) => Targets::interface(interface.0.clone()),
        None => Targets { gateway: Some("vgw-1".to_owned()), ..Targets::default() },
    };
    let (table, destination) = (lab.table.0.clone(), cidr.into());
    as_colleague(lab, &Call::CreateRoute { table, destination, targets, dry_run: false })
}

fn limit(lab: &Lab, quota: usize) {
    lab.cloud.with(|vpc, now| vpc.set_quota(now, &lab.table, quota));
}

fn calls(lab: &Lab, action: Action) -> u64 {
    lab.calls().get(&action).copied().unwrap_or_default()
}
