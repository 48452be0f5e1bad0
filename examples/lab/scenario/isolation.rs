//! Subnets that are kept apart: by a file that is edited while containers run, on the host of either.

use std::{collections::BTreeSet, time::Duration};

use super::stage::{Checks, at_work, eventually, holds, passes, report, same};
use crate::{lab::Lab, pinger::end_without_loss, report::Report};

/// How long until what was adopted is done.
const ADOPTED_WITHIN: Duration = Duration::from_secs(2);
const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// How long packets may die until it is said why.
const NAMED_WITHIN: Duration = Duration::from_secs(20);

const APART: &str = r#"
[[ipam.subnet]]
name = "web"
cidr = "10.32.0.0/16"
allow = ["db"]

[[ipam.subnet]]
name = "db"
cidr = "10.33.0.0/16"
"#;

/// The rest, two of web and two of db, each pair on two hosts.
const GROUPS: [&str; 7] = ["rest", "rest", "rest", "web", "web", "db", "db"];

/// Apart, less apart, and together again.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    for host in 0..lab.hosts.len() {
        lab.edit(host, "default_subnet = \"10.32.0.0/12\"", "default_subnet = \"10.40.0.0/13\"")?;
    }
    let ready = at_work(lab).await?;
    let mut checks = Checks::default();
    let unknown = lab.ran(0, &["ipam", "allocate", "x", "--subnet", "web"]).await?;
    checks
        .add("a subnet that is not configured is not known", unknown.says(1, &["there is no subnet `web`"]));
    refused(lab, &mut checks).await?;

    for host in 0..lab.hosts.len() {
        append(lab, host, APART)?;
        let reload = lab.ran(host, &["reload"]).await?;
        checks.add(format!("h{} adopts subnets while it runs", host + 1), reload.says(0, &[]));
    }
    for (host, subnet) in [(0, "web"), (1, "web"), (0, "db"), (2, "db")] {
        lab.attach_with(host, &["--subnet", subnet]).await?;
    }
    let again = lab.containers[3].netns.to_string_lossy().into_owned();
    let moved = lab.ran(0, &["attach", &again, "--subnet", "db"]).await?;
    checks.add("a container does not change its subnet", moved.says(1, &["10.33.0.0/16", "detach"]));
    let unknown = lab.ran(0, &["ipam", "allocate", "x", "--subnet", "dp"]).await?;
    checks.add(
        "a name that is none is told the names",
        unknown.says(1, &["there is no subnet `dp`", "db, web"]),
    );

    let apart = pairs(&[("rest", "rest"), ("web", "web"), ("db", "db"), ("web", "db")]);
    checks.timed("web reaches db, and nobody else another's", reached(lab, ADOPTED_WITHIN, &apart).await?);
    for host in 0..lab.hosts.len() {
        lab.on_host(host, &["nft", "flush", "map", "inet", "weave", "isolation"]).await?;
    }
    checks.timed("what was taken out of the rules is back", reached(lab, HEARD_WITHIN, &apart).await?);

    // One host alone is enough, wherever it stands.
    let open = pairs(&[("rest", "rest"), ("web", "web"), ("db", "db")]);
    let call = lab.ping_on(4, 6)?;
    tokio::time::sleep(HEARD_WITHIN).await;
    lab.edit(2, "allow = [\"db\"]", "allow = []")?;
    checks.add("plan shows what an edit would do", {
        lab.ran_in_place(2, &["plan", "--detailed-exitcode"]).await?.says(2, &["inet weave"])
    });
    checks.add("h3 closes its db", lab.ran(2, &["apply"]).await?.says(0, &["Applied"]));
    checks.add("web on h2 reaches the db on h1", passes(lab, 4, 5).await?);
    checks.add("but not the one on h3", closed(lab, 4, 6).await?);
    let (sent, lost) = end_without_loss(vec![call]).await?;
    checks.add(format!("a call that was there goes on: none of {sent} pings was lost"), lost);
    for host in [0, 1] {
        lab.edit(host, "allow = [\"db\"]", "allow = []")?;
        checks.add(
            format!("h{} closes it, too", host + 1),
            lab.ran(host, &["apply"]).await?.says(0, &["Applied"]),
        );
    }
    checks.timed("each keeps to itself", reached(lab, ADOPTED_WITHIN, &open).await?);

    for host in 0..lab.hosts.len() {
        lab.edit(host, &APART.replace("allow = [\"db\"]", "allow = []"), "")?;
        checks.add(
            format!("h{} has no subnets any more", host + 1),
            lab.ran(host, &["apply"]).await?.says(0, &[]),
        );
    }
    let rules = lab.on_host(0, &["nft", "list", "table", "inet", "weave"]).await?;
    checks.add("and no rules for them", holds(!rules.contains("isolation"), || rules));
    first_to_adopt(lab, &mut checks).await?;
    report(lab, ready, checks).await
}

/// A host that is the first to adopt subnets drops what the others send: both sides say so, and blame nothing else.
async fn first_to_adopt(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let (file, former) = (lab.hosts[0].config(), std::fs::read_to_string(lab.hosts[0].config())?);
    lab.edit(0, "default_subnet = \"10.40.0.0/13\"", "default_subnet = \"10.32.0.0/13\"")?;
    append(lab, 0, "\n[[ipam.subnet]]\nname = \"own\"\ncidr = \"10.32.0.0/13\"\n")?;
    checks.add("h1 is the first to adopt a subnet", lab.ran(0, &["reload"]).await?.says(0, &[]));
    let causes = [(0, "(h2) has no [[ipam.subnet]] yet"), (1, "this host has no [[ipam.subnet]] yet, and")];
    for (host, cause) in causes {
        let named =
            eventually(NAMED_WITHIN, async || Ok(lab.ran(host, &["status"]).await?.says(0, &[cause])))
                .await?;
        checks.timed(format!("h{} says why packets die", host + 1), named);
    }
    let first_of_h2 = super::basic::owned(lab, 1).await?[0].network().to_string();
    let explained = lab.ran(0, &["explain", &first_of_h2]).await?;
    checks.add("and so does explain", explained.says(0, &["(h2) has no [[ipam.subnet]] yet"]));
    checks.add(
        "which blames no security group",
        holds(!explained.stdout.contains("security group"), || explained.stdout),
    );
    std::fs::write(&file, former)?;
    checks.add("h1 gives it up", lab.ran(0, &["apply"]).await?.says(0, &["Applied"]));
    Ok(())
}

/// Subnets that cannot be are refused together, each with its place.
async fn refused(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let file = lab.hosts[0].config();
    let sound = std::fs::read_to_string(&file)?;
    let first = sound.lines().count() + 2;
    append(lab, 0, &APART.replace("10.33.0.0/16", "10.32.128.0/17").replace("[\"db\"]", "[\"bd\"]"))?;
    let places =
        [format!(":{}:10: ipam.subnet.allow", first + 3), format!(":{}:8: ipam.subnet.cidr", first + 7)];
    let words = [&places[0], &places[1], "there is no subnet bd", "overlaps 10.32.0.0/16 of web"];
    let ran = lab.ran(0, &["reload"]).await?;
    checks.add("subnets that cannot be are refused, each with its place", ran.says(78, &words.map(|w| w)));
    Ok(std::fs::write(&file, sound)?)
}

fn append(lab: &Lab, host: usize, text: &str) -> anyhow::Result<()> {
    let path = lab.hosts[host].config();
    Ok(std::fs::write(&path, std::fs::read_to_string(&path)? + text)?)
}

/// Pairs of groups, by name.
fn pairs(list: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    list.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect()
}

/// Waits until exactly these groups reach each other, all of one or none.
async fn reached(
    lab: &Lab,
    limit: Duration,
    expected: &BTreeSet<(String, String)>,
) -> anyhow::Result<Result<Duration, String>> {
    let all = || (0..GROUPS.len()).flat_map(|from| (0..GROUPS.len()).map(move |to| (from, to)));
    eventually(limit, async || {
        let knocks = all().filter(|(from, to)| from != to).map(async |(from, to)| {
            let open = expected.contains(&(GROUPS[from].to_owned(), GROUPS[to].to_owned()));
            let (one, other) = (&lab.containers[from].name, &lab.containers[to].name);
            let found = if open { "does not reach" } else { "reaches" };
            let wrong = format!("{one} ({}) {found} {other} ({})", GROUPS[from], GROUPS[to]);
            anyhow::Ok((knocks(lab, from, to).await? != open).then_some(wrong))
        });
        let wrong = futures_util::future::try_join_all(knocks).await?;
        Ok(same(&Vec::<String>::new(), &wrong.into_iter().flatten().collect()))
    })
    .await
}

async fn closed(lab: &Lab, from: usize, to: usize) -> anyhow::Result<Result<(), String>> {
    Ok(holds(!knocks(lab, from, to).await?, || "it passes".to_owned()))
}

/// Whether one small ping passes; where none is to pass, waiting for it is all that it costs.
async fn knocks(lab: &Lab, from: usize, to: usize) -> anyhow::Result<bool> {
    let mut command = tokio::process::Command::new("ip");
    command.args(["netns", "exec", &lab.containers[from].name, "ping", "-n", "-c", "1", "-W", "0.2"]);
    let output = crate::net::output(command.arg(lab.containers[to].address.to_string())).await?;
    Ok(output.status.success())
}
