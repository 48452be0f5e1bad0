//! What cannot be right is named, with the way out, and costs nothing.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use weavers::sim::vpc::{Action, Faults};

use super::stage::{Checks, at_work, eventually, finish, holds, passes, report, same};
use crate::{
    lab::{Lab, RANGE},
    report::Report,
};

/// How long until a status names what is wrong.
const NAMED_WITHIN: Duration = Duration::from_secs(10);
/// How long `apply` takes to say that it cannot, at most.
const AT_ONCE: Duration = Duration::from_secs(3);
/// How long a peer that speaks garbage is listened to, at most.
const HUNG_UP_WITHIN: Duration = Duration::from_secs(15);

/// A third host with a range that cannot be: inside the VPC, or not that of the others.
pub async fn range(lab: &mut Lab) -> anyhow::Result<Report> {
    let mut checks = Checks::default();
    let ready = two_at_work(lab).await?;
    let writes = route_writes(lab);
    for (what, range, words) in [
        ("a range inside the VPC is named", "10.0.128.0/17", &["10.0.128.0/17 overlaps 10.0.0.0/16"][..]),
        ("a range that is not the peers' is named", "10.64.0.0/12", &["10.64.0.0/12", RANGE]),
    ] {
        lab.edit(2, RANGE, range)?;
        lab.start_host(2)?;
        checks.timed(what, named(lab, 2, words).await?);
        if words[0].contains("overlaps") {
            checks.add("nothing stands in the way of the VPC's own addresses", untouched(lab, 2).await?);
        }
        checks.add("attach does not succeed there", attach_fails(lab, 2).await?);
        checks.add("the others are as before", undisturbed(lab).await?);
        lab.stop_host(2).await?;
        lab.edit(2, range, RANGE)?;
    }
    checks.add("no route was written", same(&writes, &route_writes(lab)));
    lab.start_host(2)?;
    lab.await_ready(2).await?;
    lab.attach(2).await?;
    report(lab, ready, checks).await
}

/// Strangers on the peers' port.
pub async fn garbage(lab: &mut Lab) -> anyhow::Result<Report> {
    let ready = at_work(lab).await?;
    let mut checks = Checks::default();
    let (address, port) = (lab.hosts[0].address, 6783);
    let before = connections(lab).await?;
    for (what, script) in [
        ("noise", "head -c 1000000 /dev/urandom >&3"),
        ("HTTP", "printf 'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' >&3"),
        ("TLS", "printf '\\026\\003\\001\\002\\000\\001\\000\\001\\374\\003\\003' >&3"),
        ("silence", "true"),
        ("the right greeting, then noise", "{ printf weavemesh; head -c 100000 /dev/urandom; } >&3"),
    ] {
        let start = Instant::now();
        // Reads until the daemon hangs up; what it says does not matter.
        let script =
            format!("exec 3<>/dev/tcp/{address}/{port} && {{ {script}; cat <&3 >/dev/null; }} 2>/dev/null");
        let mut command = lab.hosts[2].enter()?;
        let limit = HUNG_UP_WITHIN.as_secs().to_string();
        let ran = finish(command.args(["timeout", &limit, "bash", "-c", &script])).await?;
        let hung_up = holds(ran.code != 124, || format!("still listened to after {HUNG_UP_WITHIN:?}"));
        checks.timed(format!("{what} is hung up on"), hung_up.map(|()| start.elapsed()));
        checks.add(format!("{what} disturbs nobody"), undisturbed(lab).await?);
    }
    checks.add("the connections are those from before", same(&before, &connections(lab).await?));
    report(lab, ready, checks).await
}

/// A call that the host's role may not make.
pub async fn permission(lab: &mut Lab) -> anyhow::Result<Report> {
    let mut checks = Checks::default();
    deny(lab, &[Action::CreateRoute]);
    for host in 0..lab.hosts.len() {
        lab.start_host(host)?;
    }
    let statement = r#"{"Effect": "Allow", "Action": "ec2:CreateRoute""#;
    let words = ["not ready", "CreateRoute", "not allowed", statement];
    checks.timed("status names the action and the line of the policy", named(lab, 0, &words).await?);
    // Each host has had its own first try before they are counted.
    for host in 1..lab.hosts.len() {
        checks.timed(format!("h{} names it too", host + 1), named(lab, host, &words).await?);
    }
    let calls = lab.writes();
    let start = Instant::now();
    let ran = lab.ran(0, &["apply"]).await?;
    let quick = holds(start.elapsed() < AT_ONCE, || format!("it took {:?}", start.elapsed()));
    checks.add("apply says so at once", ran.says(1, &["CreateRoute", statement]).and(quick));
    sleep(2 * humantime::parse_duration(&lab.interval)?).await;
    let by_apply = lab.writes()[&Action::CreateRoute] - calls[&Action::CreateRoute];
    checks.add("it is not tried again at every look", same(&1, &by_apply));
    deny(lab, &[]);
    let start = Instant::now();
    for host in 0..lab.hosts.len() {
        let ran = lab.ran(host, &["apply"]).await?;
        checks.add(
            format!("once it is allowed, apply on h{} converges", host + 1),
            ran.says(0, &["Applied: 1 created"]),
        );
    }
    let ready = start.elapsed();
    for host in 0..lab.hosts.len() {
        lab.await_ready(host).await?;
        lab.attach(host).await?;
    }
    report(lab, ready, checks).await
}

/// A host that starts before it can reach the metadata service.
pub async fn metadata(lab: &mut Lab) -> anyhow::Result<Report> {
    let mut checks = Checks::default();
    lab.on_host(2, &["ip", "route", "add", "prohibit", "169.254.169.254"]).await?;
    lab.start_host(2)?;
    let ready = two_at_work(lab).await?;
    checks.timed("status names the metadata", named(lab, 2, &["not ready", "metadata"]).await?);
    checks.add("the others are as before", undisturbed(lab).await?);
    lab.on_host(2, &["ip", "route", "del", "prohibit", "169.254.169.254"]).await?;
    let start = Instant::now();
    lab.await_ready(2).await?;
    checks.timed("it goes on when the metadata is there", Ok(start.elapsed()));
    lab.attach(2).await?;
    report(lab, ready, checks).await
}

/// Requests that cannot be granted.
pub async fn requests(lab: &mut Lab) -> anyhow::Result<Report> {
    let ready = at_work(lab).await?;
    let mut checks = Checks::default();
    let ran = lab.ran(0, &["attach", "/run/netns/nowhere"]).await?;
    checks.add("attach of a namespace that is gone", ran.says(1, &["/run/netns/nowhere"]));
    let ran = lab.ran(0, &["attach", "999999"]).await?;
    checks.add("attach of a process that is gone", ran.says(1, &["999999"]));
    let ran = lab.ran(0, &["detach", "nobody"]).await?;
    checks.add("detach of what is not attached is success", ran.says(0, &[]));

    let taken = lab.containers[0].address.to_string();
    let ran = lab.ran(0, &["ipam", "claim", "x", &taken]).await?;
    checks.add("claim of a container's address", ran.says(1, &[&taken, "in use"]));
    let free = Ipv4Addr::from(u32::from(lab.containers[0].address) + 100).to_string();
    let ran = lab.ran(0, &["ipam", "claim", "x", &free]).await?;
    checks.add("claim of a free address", ran.says(0, &[&free]));
    let ran = lab.ran(0, &["ipam", "claim", "x", &free]).await?;
    checks.add("the same again is no error", ran.says(0, &[&free]));
    let ran = lab.ran(0, &["ipam", "claim", "y", &free]).await?;
    checks.add("by another it is, and names who holds it", ran.says(1, &[&free, "x"]));
    let theirs = lab.containers[1].address.to_string();
    let ran = lab.ran(0, &["ipam", "claim", "x", &theirs]).await?;
    checks.add("claim of another host's address names that host", ran.says(1, &[&theirs, "h2"]));
    let ran = lab.ran(0, &["ipam", "allocate", "z", "--subnet", "192.168.0.0/24"]).await?;
    checks.add("allocation outside the range", ran.says(1, &["192.168.0.0/24", RANGE]));
    let ran = lab.ran(0, &["ipam", "lookup", "x"]).await?;
    checks.add(
        "lookup shows what was granted, and no more",
        ran.says(0, &[&free]).and(holds(!ran.stdout.contains(&theirs), || ran.stdout.clone())),
    );
    let ran = lab.ran(0, &["forget", "nobody"]).await?;
    checks.add("forget of an unknown peer", ran.says(1, &["nobody"]));
    let ran = lab.ran(0, &["nonsense"]).await?;
    checks.add("a command that does not exist", ran.says(64, &["nonsense"]));
    checks.add("all is as before", undisturbed(lab).await?);
    report(lab, ready, checks).await
}

// ===== the scene =====

/// The first two of three hosts, which are a quorum, with a container each.
pub async fn two_at_work(lab: &mut Lab) -> anyhow::Result<Duration> {
    let start = Instant::now();
    lab.start_host(0)?;
    lab.start_host(1)?;
    for host in [0, 1] {
        lab.await_ready(host).await?;
        lab.attach(host).await?;
    }
    Ok(start.elapsed())
}

/// Calls so far that change a route.
fn route_writes(lab: &Lab) -> BTreeMap<Action, u64> {
    let routes = [Action::CreateRoute, Action::ReplaceRoute, Action::DeleteRoute];
    lab.writes().into_iter().filter(|(action, _)| routes.contains(action)).collect()
}

fn deny(lab: &Lab, actions: &[Action]) {
    let faults = Faults { denied: actions.iter().copied().collect(), ..Faults::default() };
    lab.cloud.with(|vpc, _| vpc.set_faults(faults));
}

/// Waits until the status of a host holds these words.
pub async fn named(lab: &Lab, host: usize, words: &[&str]) -> anyhow::Result<Result<Duration, String>> {
    eventually(NAMED_WITHIN, async || Ok(lab.ran(host, &["status"]).await?.says(0, words))).await
}

/// Whether h1 and h2 are converged and reach each other.
pub async fn undisturbed(lab: &Lab) -> anyhow::Result<Result<(), String>> {
    for host in [0, 1] {
        if let Err(wrong) = lab.settled(host).await? {
            return Ok(Err(wrong));
        }
    }
    Ok(passes(lab, 0, 1).await?.and(passes(lab, 1, 0).await?))
}

/// Whether a host has neither routes nor rules of ours.
async fn untouched(lab: &Lab, host: usize) -> anyhow::Result<Result<(), String>> {
    let routes = lab.on_host(host, &["ip", "route", "show", "proto", "67"]).await?;
    let tables = lab.on_host(host, &["nft", "list", "tables"]).await?;
    Ok(holds(routes.is_empty() && !tables.contains("inet weave"), || format!("{routes}{tables}")))
}

/// An attachment that cannot be made does not pretend to be.
async fn attach_fails(lab: &Lab, host: usize) -> anyhow::Result<Result<(), String>> {
    lab.on_host(host, &["ip", "netns", "add", "vain"]).await?;
    let ran = lab.ran(host, &["attach", "/run/netns/vain", "--timeout", "2s"]).await?;
    lab.on_host(host, &["ip", "netns", "del", "vain"]).await?;
    Ok(holds(ran.code == 1, || format!("ended with {}: {}{}", ran.code, ran.stdout, ran.stderr)))
}

/// Who h1 is connected to.
async fn connections(lab: &Lab) -> anyhow::Result<Vec<String>> {
    let status = lab.status(0).await?;
    let connections = status["connections"].as_array().into_iter().flatten();
    let mut names: Vec<String> = connections.map(|connection| connection["nickname"].to_string()).collect();
    names.sort();
    Ok(names)
}
