//! Hosts on EC2 and hosts outside it in one cluster: those of the VPC reach each other by its route tables, those on one link outside
//! directly; between the two no path leads, which is said, with the way out: then there are tunnels.

use std::{net::Ipv4Addr, time::Duration};

use ipnet::IpNet;
use serde_json::Value;
use weavers::sim::vpc::{Call, Caller, Destination, Targets};

use super::{
    stage::{Checks, NOT_CONVERGED, eventually, holds, passes, same},
    tables::add_subnet,
    tunnels, v6,
};
use crate::{
    lab::Lab,
    pinger::end_without_loss,
    report::{Ping, Report},
    site::{OFFICE, Site},
};

/// Two hosts on EC2, in two subnets, and two outside, on one link. Containers are numbered as their hosts.
const ON_EC2: [usize; 2] = [0, 1];
const OUTSIDE: [usize; 2] = [2, 3];
/// How a route of IPv6 to a host on the link begins to say where it leads.
const LINK6: &str = "via fe80::";
const HEARD_WITHIN: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(10);
/// Until a connection of the mesh that answers no more is given up, and others are made.
const LATER: Duration = Duration::from_secs(60);
/// How long a terminated instance must be silent; a host outside EC2 may be for as long as it likes.
const GRACE: Duration = Duration::from_secs(10);

pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let mut checks = Checks::default();
    let subnet = add_subnet(lab, "10.0.2.0/24", Some(&lab.table.clone()));
    lab.add_host_in(&subnet).await?;
    add_hosts_outside(lab).await?;
    for host in 0..lab.hosts.len() {
        let reclaim = format!("[vpc]\nreclaim = \"{}s\"", GRACE.as_secs());
        lab.edit(host, "[vpc]", &reclaim)?;
        v6::turn_on(lab, host)?;
    }
    v6::give(lab, ON_EC2).await?;
    let ready = lab.start_all().await?;
    for host in 0..lab.hosts.len() {
        lab.attach(host).await?;
    }
    let mut pings = paths(lab, &mut checks).await?;
    by_ipv6(lab, &mut checks).await?;
    apart(lab, &mut checks).await?;
    needs_no_ec2(lab, &mut checks).await?;
    repaired(lab, &mut checks).await?;
    restarted(lab, &mut checks).await?;
    moved(lab, &mut checks).await?;
    pings.extend(pairs(lab).await?);
    pings.extend(tunnels::play(lab, &mut checks).await?);
    dead(lab, &mut checks).await?;
    Ok(Report { ready, pings, checks: checks.0, calls: lab.calls(), ..Report::default() })
}

/// Two hosts outside EC2, on one link, beside two that are there; all are configured.
pub(super) async fn add_hosts_outside(lab: &mut Lab) -> anyhow::Result<()> {
    OFFICE.build().await?;
    lead_to(lab, OFFICE)?;
    for _ in OUTSIDE {
        lab.add_host_outside(OFFICE).await?;
    }
    lab.configure()?;
    for host in OUTSIDE {
        // All hosts of the lab are one machine, by which a host outside EC2 is named.
        let outside = format!("provider = \"none\"\n\n[mesh]\nname = \"02:00:00:00:0f:{host:02x}\"");
        lab.edit(host, "endpoint = \"http://169.254.169.254\"", &outside)?;
    }
    Ok(())
}

/// The VPC's table leads to a network outside, so that the hosts hear each other.
pub(super) fn lead_to(lab: &Lab, site: Site) -> anyhow::Result<()> {
    let (table, destination) = (lab.table.0.clone(), Destination { v4: Some(site.cidr()), v6: None });
    let targets = Targets { gateway: Some(site.gateway.to_owned()), ..Targets::default() };
    let call = Call::CreateRoute { table, destination, targets, dry_run: false };
    let made = lab.cloud.with(|vpc, now| vpc.call(now, &Caller::Console, &call).result);
    made.map(drop).map_err(|error| anyhow::anyhow!("{call:?}: {error}"))
}

/// Each pair that has a path, both ways, with packets as large as the MTU.
async fn pairs(lab: &Lab) -> anyhow::Result<Vec<Ping>> {
    lab.settle().await?;
    let mut pings = Vec::new();
    for [one, other] in [ON_EC2, OUTSIDE] {
        pings.push(lab.ping(one, other).await?);
        pings.push(lab.ping(other, one).await?);
    }
    Ok(pings)
}

/// Those that can have one have it.
async fn paths(lab: &Lab, checks: &mut Checks) -> anyhow::Result<Vec<Ping>> {
    let kinds = [("vpc", ON_EC2), ("direct", OUTSIDE)];
    for (kind, [one, other]) in kinds {
        for (from, to) in [(one, other), (other, one)] {
            let known = eventually(SOON, async || Ok(same(&kind.to_owned(), &path(lab, from, to).await?)));
            checks.timed(format!("the path from h{} to h{} is {kind}", from + 1, to + 1), known.await?);
        }
    }
    let routed = eventually(SOON, async || lead_to_each_other(lab).await);
    checks.timed(
        "hosts outside EC2 have a route of ours of each kind to each piece of the other, by its address",
        routed.await?,
    );
    for host in ON_EC2 {
        checks.add(format!("h{} has none", host + 1), same(&String::new(), &host_routes(lab, host).await?));
    }
    pairs(lab).await
}

/// The same pairs reach each other by IPv6.
async fn by_ipv6(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    for [one, other] in [ON_EC2, OUTSIDE] {
        for (from, to) in [(one, other), (other, one)] {
            let to6 = v6::address(lab, to);
            let passed = eventually(SOON, async || v6::knocks(lab, from, to6, lab.options.mtu).await);
            checks.timed(format!("h{} reaches h{} by IPv6, at its MTU", from + 1, to + 1), passed.await?);
        }
    }
    Ok(())
}

/// What has no path is named, with the way out, and nothing else is wrong.
async fn apart(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    for (from, to) in [(ON_EC2[0], OUTSIDE[0]), (OUTSIDE[0], ON_EC2[0])] {
        let name = &lab.hosts[to].name;
        let none = eventually(SOON, async || Ok(same(&"none".to_owned(), &path(lab, from, to).await?)));
        checks.timed(format!("h{} knows that no path leads to {name}", from + 1), none.await?);
        let way_out = "give both a network in common";
        let status = lab.ran(from, &["status", "--check"]).await?;
        let says = status.says(NOT_CONVERGED, &["no path leads to", name, "outside EC2", way_out]);
        checks.add(format!("status on h{} names it, with the way out", from + 1), says);
        let address = lab.containers[to].address.to_string();
        let explained = lab.ran(from, &["explain", &address]).await?;
        checks.add(format!("explain on h{} does", from + 1), explained.says(0, &["path", "none", way_out]));
        let doctor = lab.ran_in_place(from, &["doctor"]).await?;
        checks.add(format!("doctor on h{} does", from + 1), doctor.says(1, &["none leads to", name]));
        let lost = passes(lab, from, to).await?;
        checks.add("and no packet gets there", holds(lost.is_err(), || "one did".to_owned()));
        let lost = v6::knocks(lab, from, v6::address(lab, to), lab.options.mtu).await?;
        checks.add("nor by IPv6", holds(lost.is_err(), || "one did".to_owned()));
    }
    for host in 0..lab.hosts.len() {
        let status = lab.status(host).await?;
        let problems: Vec<String> = texts(&status["problems"]);
        let others: Vec<&String> =
            problems.iter().filter(|what| !what.starts_with("no path leads to")).collect();
        checks.add(
            format!("h{} has no other problem, and is ready", host + 1),
            holds(others.is_empty() && status["ready"] == true, || {
                format!("{others:?}, waits {:?}", texts(&status["waits"]))
            }),
        );
    }
    Ok(())
}

/// A host outside EC2 asks for nothing that only EC2 has.
async fn needs_no_ec2(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    for host in OUTSIDE {
        let log = std::fs::read_to_string(lab.hosts[host].log())?;
        let mut said = vec![log];
        for args in [&["status"][..], &["plan"]] {
            said.push(lab.ran(host, args).await?.stdout);
        }
        let words = ["metadata", "credentials", "route tables", "cannot be read", "DescribeRouteTables"];
        let found: Vec<&str> = said
            .iter()
            .flat_map(|text| text.lines())
            .filter(|line| words.iter().any(|word| line.contains(word)))
            .collect();
        checks.add(
            format!("nothing on h{} asks for what EC2 has", host + 1),
            holds(found.is_empty(), || found.join("\n")),
        );
        let status = lab.ran(host, &["status"]).await?;
        checks
            .add(format!("h{} says that it is outside", host + 1), status.says(0, &["outside EC2, weavers"]));
        let doctor = lab.ran_in_place(host, &["doctor"]).await?;
        checks.add("and so does its doctor", doctor.says(1, &["outside EC2, by [vpc] provider"]));
        let refused = lab.ran(host, &["plan", "--check-permissions"]).await?;
        checks.add(
            "who asks what EC2 allows is told",
            holds(refused.code != 0 || refused.stdout.contains("outside"), || refused.stdout),
        );
    }
    Ok(())
}

/// What somebody does to a route to another host is undone.
async fn repaired(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let [one, other] = OUTSIDE;
    let before = host_routes(lab, one).await?;
    let mends = |what: &'static str, script: String| {
        let before = before.clone();
        async move {
            lab.on_host(one, &["sh", "-ec", &script]).await?;
            let back = eventually(HEARD_WITHIN, async || Ok(same(&before, &host_routes(lab, one).await?)));
            anyhow::Ok((what, back.await?))
        }
    };
    let first = before.lines().next().unwrap_or_default().to_owned();
    let destination = first.split(' ').next().unwrap_or_default().to_owned();
    if destination.is_empty() {
        checks.add("there is a route to mend", Err(lab.ran(one, &["status"]).await?.stdout));
        return Ok(());
    }
    for (what, script) in [
        (
            "a route to another host that is deleted is back",
            format!("ip route del {destination} proto 67 metric 2048"),
        ),
        ("and so are those of IPv6", "ip -6 route flush proto 67 metric 3072".to_owned()),
        (
            "one that is led elsewhere leads there again",
            format!("ip route replace {destination} via 192.168.7.1 dev eth0 proto 67 metric 2048"),
        ),
        (
            "one that should not be there goes",
            "ip route add 10.47.255.0/24 via 192.168.7.1 dev eth0 proto 67 metric 2048".to_owned(),
        ),
    ] {
        let (what, back) = mends(what, script).await?;
        checks.timed(what, back);
    }
    let steps = lab.ran(one, &["status"]).await?;
    checks.add("status tells of the steps", steps.says(0, &["add host route", "delete host route"]));
    checks.add("and packets pass", passes(lab, one, other).await?);
    Ok(())
}

/// A daemon that stops or dies leaves the paths as they are, and one that starts knows nothing at first and removes none.
async fn restarted(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let [one, other] = OUTSIDE;
    let pingers = lab.ping_ring(&OUTSIDE)?;
    lab.stop_host(one).await?;
    lab.start_host(one)?;
    lab.await_ready(one).await?;
    lab.kill_host(other).await?;
    lab.start_host(other)?;
    lab.await_ready(other).await?;
    let known = eventually(SOON, async || Ok(same(&"direct".to_owned(), &path(lab, one, other).await?)));
    checks.timed("after restarts the path is direct again", known.await?);
    let (sent, lost) = end_without_loss(pingers).await?;
    checks.add(format!("none of {sent} pings was lost meanwhile"), lost);
    Ok(())
}

/// A host is given another address: routes follow, and containers keep theirs.
async fn moved(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let [one, other] = OUTSIDE;
    let before = lab.containers[other].address;
    let new = OFFICE.address_of(34);
    let script = format!(
        "ip -4 addr flush dev eth0 && ip addr add {new}/24 dev eth0 && ip route replace default via 192.168.7.1 dev eth0"
    );
    lab.on_host(other, &["sh", "-ec", &script]).await?;
    lab.hosts[other].address = new;
    let led = format!("via {new} ");
    let follows = eventually(LATER, async || {
        let routes = host_routes(lab, one).await?;
        Ok(holds(
            routes.lines().all(|line| [&led, LINK6].iter().any(|via| line.contains(*via)))
                && routes.contains(&led),
            || routes,
        ))
    });
    checks.timed("a host has another address, and routes lead to that", follows.await?);
    let passed = eventually(LATER, async || passes(lab, one, other).await);
    checks.timed("packets pass again", passed.await?);
    let name = lab.containers[other].name.clone();
    checks.add("its container has kept its address", same(&before, &lab.address_in(&name).await?));
    Ok(())
}

/// A host outside EC2 that is dead stays what it was until somebody says so: EC2 knows nothing of it.
async fn dead(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let [one, other] = OUTSIDE;
    lab.kill_host(other).await?;
    lab.on_host(other, &["ip", "link", "set", "eth0", "down"]).await?;
    tokio::time::sleep(GRACE * 2).await;
    let kept = host_routes(lab, one).await?;
    checks.add(
        "nobody takes over from it by himself",
        holds(!kept.is_empty(), || "its routes are gone".to_owned()),
    );
    let name = lab.hosts[other].name.clone();
    let forgotten = eventually(LATER, async || Ok(lab.ran(one, &["forget", &name]).await?.says(0, &[])));
    checks.timed("forget does", forgotten.await?);
    let gone = eventually(SOON, async || Ok(same(&String::new(), &host_routes(lab, one).await?)));
    checks.timed("and the routes to it go", gone.await?);
    Ok(())
}

/// The path from one host to another, by the word of the first.
pub(super) async fn path(lab: &Lab, from: usize, to: usize) -> anyhow::Result<String> {
    let status = lab.status(from).await?;
    let paths = status["peer_paths"].as_array().cloned().unwrap_or_default();
    let path = paths.iter().find(|path| path["nickname"] == lab.hosts[to].name.as_str());
    Ok(path.and_then(|path| path["path"].as_str()).unwrap_or("not there").to_owned())
}

/// Routes of ours to other hosts, a line each.
pub(super) async fn host_routes(lab: &Lab, host: usize) -> anyhow::Result<String> {
    let all = lab.on_host(host, &["ip", "-4", "route", "show", "proto", "67"]).await?;
    let v6 = lab.on_host(host, &["ip", "-6", "route", "show", "proto", "67"]).await?;
    let via: Vec<&str> = all.lines().chain(v6.lines()).filter(|line| line.contains(" via ")).collect();
    Ok(via.join("\n"))
}

async fn lead_to_each_other(lab: &Lab) -> anyhow::Result<Result<(), String>> {
    let [one, other] = OUTSIDE;
    for (from, to) in [(one, other), (other, one)] {
        let routes = host_routes(lab, from).await?;
        let via: Ipv4Addr = lab.hosts[to].address;
        let owned = super::basic::owned(lab, to).await?;
        let led = |cidr: &ipnet::Ipv4Net| {
            let v6 = v6::prefix().cidr(*cidr);
            let has = |cidr: IpNet, via: &str| routes.contains(&format!("{cidr} {via}"));
            has((*cidr).into(), &format!("via {via} dev eth0")) && has(v6.into(), LINK6)
        };
        if owned.is_empty() || !owned.iter().all(led) || routes.lines().count() > 2 * owned.len() {
            return Ok(Err(format!("h{} owns {owned:?}, h{} has {routes}", to + 1, from + 1)));
        }
    }
    Ok(Ok(()))
}

fn texts(notes: &Value) -> Vec<String> {
    let notes = notes.as_array().into_iter().flatten();
    notes.filter_map(|note| note["what"].as_str().map(str::to_owned)).collect()
}
