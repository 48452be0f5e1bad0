//! Containers of Docker: across hosts, with addresses and ports that people name, while daemons are killed.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::Value;

use super::{
    basic,
    dockerd::{Dockers, NETWORK},
    stage::{Checks, eventually, holds, passes, same},
    v6,
};
use crate::{fabric::addresses6, lab::Lab, net, report::Report};

const SOON: Duration = Duration::from_secs(10);
/// Docker looks for a plugin when it needs one; the plugin looks every two seconds whether there is a Docker.
const SERVED_WITHIN: Duration = Duration::from_secs(10);
/// Docker is asked every ten seconds what it knows.
const NAMED_WITHIN: Duration = Duration::from_secs(20);
/// What Docker has forgotten is let go a minute after that is known.
const COLLECTED_WITHIN: Duration = Duration::from_secs(110);

/// Three hosts, two containers each, and what people do with them.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    if lab.is_root() {
        v6::give_all(lab).await?;
    }
    let Some((dockers, ready, mut checks)) = begin(lab).await? else { return not_here(lab).await };
    subnet(lab, &dockers, &mut checks).await?;
    for host in 0..lab.hosts.len() {
        for number in 1..=2 {
            dockers.run(lab, host, &format!("h{}d{number}", host + 1), &[]).await?;
        }
    }
    let pings = lab.ping_all().await?;
    v6::reached(lab, &mut checks).await?;
    wishes(lab, &dockers, &mut checks).await?;
    ports(lab, &dockers, &mut checks).await?;
    killed(lab, &dockers, &mut checks).await?;
    named(lab, &mut checks).await?;
    let mut report = end(lab, &dockers, checks).await?;
    (report.ready, report.pings) = (ready, pings);
    Ok(report)
}

/// Docker removes a container while nobody is there to hear it, and never says so again.
pub async fn forgotten(lab: &mut Lab) -> anyhow::Result<Report> {
    let Some((dockers, ready, mut checks)) = begin(lab).await? else { return not_here(lab).await };
    let [gone, kept] = ["gone", "kept"];
    let index = dockers.run(lab, 0, gone, &["-p", "8080:80"]).await?;
    let address = lab.containers[index].address;
    dockers.run(lab, 0, kept, &[]).await?;
    lab.kill_host(0).await?;
    let removed = dockers.ran(lab, 0, &["rm", "-f", gone]).await?;
    checks.add("Docker removes it after a while", removed.says(0, &[]));
    lab.start_host(0)?;
    lab.await_ready(0).await?;
    let has = |status: &Value| status["attachments"].to_string().contains(&address.to_string());
    checks.add("weavers has it still", holds(has(&lab.status(0).await?), || "it has not".to_owned()));
    let collected = eventually(COLLECTED_WITHIN, async || {
        Ok(holds(!has(&lab.status(0).await?), || "it is still there".to_owned()))
    });
    checks.timed("and lets it go when Docker says that it has none", collected.await?);
    let again = ["--ip", &address.to_string(), "-p", "8080:80"];
    let index = dockers.run(lab, 0, "again", &again).await?;
    checks.add("its address is free, and its port", passes(lab, index, 1).await?);
    let mut report = end(lab, &dockers, checks).await?;
    report.ready = ready;
    Ok(report)
}

/// A network of ours on each host; nothing where there cannot be a Docker.
pub async fn begin(lab: &mut Lab) -> anyhow::Result<Option<(Dockers, Duration, Checks)>> {
    if !lab.is_root() {
        return Ok(None);
    }
    let mut dockers = Dockers::prepare(lab).await?;
    let ready = lab.start_all().await?;
    dockers.start_all(lab).await?;
    for host in 0..lab.hosts.len() {
        let served = eventually(SERVED_WITHIN, async || {
            let ran = lab.on_host(host, &["ls", "/run/docker/plugins"]).await.unwrap_or_default();
            Ok(holds(ran.contains("weavers.sock"), || ran.clone()))
        });
        served.await?.map_err(anyhow::Error::msg).context("the plugin's socket")?;
        let range = lab.range.to_string();
        let create = ["network", "create", "-d", "weavers", "--ipam-driver", "weavers", "--subnet", &range];
        dockers.docker(lab, host, &[&create[..], &[NETWORK]].concat()).await?;
    }
    Ok(Some((dockers, ready, Checks::default())))
}

/// Without root there are no control groups for Docker.
pub async fn not_here(lab: &mut Lab) -> anyhow::Result<Report> {
    let ready = lab.start_all().await?;
    let mut report = basic::report(lab).await?;
    report.ready = ready;
    report.checks.push(("Docker needs root: not played".to_owned(), Ok(())));
    Ok(report)
}

/// Docker 20.10 asks for ever where a pool overlaps a route of the host.
async fn subnet(lab: &Lab, dockers: &Dockers, checks: &mut Checks) -> anyhow::Result<()> {
    let create = ["network", "create", "-d", "weavers", "--ipam-driver", "weavers"];
    let start = Instant::now();
    let ran = dockers.ran(lab, 0, &[&create[..], &["x"]].concat()).await?;
    checks.add(
        "a network without a subnet is refused, with the way out",
        ran.says(1, &["--subnet 10.32.0.0/12"]),
    );
    checks
        .add("at once", holds(start.elapsed() < Duration::from_secs(5), || format!("{:?}", start.elapsed())));
    let log = std::fs::read_to_string(lab.hosts[0].log())?;
    checks.add("by one call", same(&1, &log.matches("/IpamDriver.RequestPool").count()));
    for (more, says) in [
        (&["--subnet", "172.30.0.0/16"][..], "outside [ipam] range"),
        (&["--subnet", "10.32.0.0/12", "-o", "weavers.mut=1400"], "did you mean"),
        (&["--subnet", "10.32.0.0/12", "-o", "weavers.subnet=web"], "there is no subnet `web`"),
        (&["--subnet", "10.32.0.0/12", "--gateway", "10.32.0.1"], "leave --gateway out"),
    ] {
        let ran = dockers.ran(lab, 0, &[&create[..], more, &["x"]].concat()).await?;
        checks.add(format!("so is one with {}", more.last().unwrap_or(&"nothing")), ran.says(1, &[says]));
    }
    let other = ["network", "create", "-d", "weavers", "--subnet", "10.32.0.0/12", "x"];
    let ran = dockers.ran(lab, 0, &other).await?;
    checks.add("and one of Docker's own addresses", ran.says(1, &["--ipam-driver weavers"]));
    Ok(())
}

/// An address that is named, kept over a restart, and given once.
async fn wishes(lab: &mut Lab, dockers: &Dockers, checks: &mut Checks) -> anyhow::Result<()> {
    let owned = basic::owned(lab, 0).await?[0];
    let wanted = Ipv4Addr::from(u32::from(owned.network()) + 0x1234);
    let ip = wanted.to_string();
    let index = dockers.run(lab, 0, "wish", &["--ip", &ip]).await?;
    checks.add("the wanted address is given", same(&wanted, &lab.containers[index].address));
    let refused = ["run", "-d", "--name", "late", "--network", NETWORK, "--ip", &ip, dockers.image()];
    let ran = dockers.ran(lab, 0, &refused).await?;
    checks.add("it is given once", ran.says(125, &["already in use"]));
    let taken = eventually(SOON, async || Ok(dockers.ran(lab, 0, &["rm", "-f", "late"]).await?.says(0, &[])));
    checks.timed("who was refused has nothing of it", taken.await?);
    dockers.docker(lab, 0, &["restart", "-t", "0", "wish"]).await?;
    let found = dockers.find(lab, 0, "wish").await?;
    checks.add("and given again at a restart", same(&wanted, &found.address));
    lab.containers[index] = found;
    checks.add("where it is reached", passes(lab, 2, index).await?);
    dockers.docker(lab, 0, &["network", "disconnect", NETWORK, "wish"]).await?;
    dockers.docker(lab, 0, &["network", "connect", NETWORK, "wish"]).await?;
    lab.containers[index] = dockers.find(lab, 0, "wish").await?;
    let both = passes(lab, index, 2).await?.and(passes(lab, 2, index).await?);
    checks.add("one that was disconnected is connected again", both);
    let twice =
        ["network", "create", "-d", "weavers", "--ipam-driver", "weavers", "--subnet", "10.32.0.0/12"];
    dockers.docker(lab, 0, &[&twice[..], &["twice"]].concat()).await?;
    let ran = dockers.ran(lab, 0, &["network", "connect", "twice", "wish"]).await?;
    checks.add("a container is on one network of weavers", ran.says(1, &["one is enough"]));
    let mtu = [
        "network",
        "create",
        "-d",
        "weavers",
        "--ipam-driver",
        "weavers",
        "--subnet",
        "10.32.0.0/12",
        "-o",
        "weavers.mtu=1400",
        "narrow",
    ];
    dockers.docker(lab, 0, &mtu).await?;
    let show = ["run", "--rm", "--network", "narrow", dockers.image(), "ip", "link", "show", "eth0"];
    let said = dockers.docker(lab, 0, &show).await?;
    checks.add("a network has an MTU of its own", holds(said.contains("mtu 1400"), || said.clone()));
    Ok(())
}

/// A port of the host leads into a container, from wherever it is called.
async fn ports(lab: &mut Lab, dockers: &Dockers, checks: &mut Checks) -> anyhow::Result<()> {
    let index =
        dockers.run(lab, 0, "ports", &["-p", "8080:80", "-p", "127.0.0.1:9000:90", "-p", "70"]).await?;
    let (netns, address) = (lab.containers[index].netns.clone(), lab.hosts[0].address.into());
    let [_, address6] = addresses6(lab.hosts[0].address);
    let of_host = lab.hosts[0].netns()?;
    let far = lab.containers[2].netns.clone();
    let local = IpAddr::from(Ipv4Addr::LOCALHOST);
    for (what, from, by) in [
        ("a container of another host", &far, (address, 8080)),
        ("a container of another host by IPv6", &far, (address6.into(), 8080)),
        ("itself by IPv6", &netns, (address6.into(), 8080)),
        ("its host by its own address", &of_host, (address, 8080)),
        ("its host by 127.0.0.1", &of_host, (local, 8080)),
        ("itself", &netns, (address, 8080)),
    ] {
        let through = net::tcp_echo_by(from, &netns, 80, by).await;
        checks
            .add(format!("port 8080 leads to it from {what}"), through.map_err(|error| format!("{error:#}")));
    }
    let bound = net::tcp_echo_by(&of_host, &netns, 90, (local, 9000)).await;
    checks.add("one of 127.0.0.1 from there", bound.map_err(|error| format!("{error:#}")));
    let outside = lab.on_host(1, &["nft", "list", "tables"]).await?;
    checks.add(
        "no other host has a table of ports",
        holds(!outside.contains("weave-ports"), || outside.clone()),
    );
    let status = lab.weavers(0, &["status"]).await?;
    checks.add("`weavers status` shows them", holds(status.contains("8080->80/tcp"), || status.clone()));
    let chosen = status.contains("->70/tcp");
    checks.add("and the one that was chosen", holds(chosen, || status.clone()));
    forgotten_ports(lab, index, checks).await?;
    ranges(lab, dockers, checks).await?;
    let other = ["run", "-d", "--name", "other", "--network", NETWORK, "-p", "8080:81", dockers.image()];
    let ran = dockers.ran(lab, 0, &other).await?;
    checks.add("a port leads to one container", ran.says(125, &["8080/tcp is published by"]));
    dockers.docker(lab, 0, &["rm", "-f", "other"]).await?;
    let of_weavers = ["run", "-d", "--name", "other", "--network", NETWORK, "-p", "6783:81", dockers.image()];
    let ran = dockers.ran(lab, 0, &of_weavers).await?;
    checks.add("and is no program's of the host", ran.says(125, &["6783/tcp is in use by a program"]));
    dockers.docker(lab, 0, &["rm", "-f", "other"]).await?;
    dockers.docker(lab, 0, &["rm", "-f", "ports"]).await?;
    lab.containers.remove(index);
    let gone = lab.on_host(0, &["nft", "list", "tables"]).await?;
    checks.add("and goes with it", holds(!gone.contains("weave-ports"), || gone.clone()));
    checks.timed("which leaves nothing to do", lab.settled(0).await?);
    Ok(())
}

/// Ports lead to a container also after the store of its host was lost.
async fn forgotten_ports(lab: &mut Lab, index: usize, checks: &mut Checks) -> anyhow::Result<()> {
    lab.kill_host(0).await?;
    fs::remove_file(lab.hosts[0].store())?;
    lab.start_host(0)?;
    lab.await_ready(0).await?;
    let known = eventually(NAMED_WITHIN, async || {
        let status = lab.weavers(0, &["status"]).await?;
        let all = ["ports", "8080->80/tcp", "127.0.0.1:9000->90/tcp", "->70/tcp"];
        Ok(holds(all.iter().all(|one| status.contains(one)), || status.clone()))
    });
    checks.timed("a lost store: whose ports are published is known", known.await?);
    let (netns, far) = (lab.containers[index].netns.clone(), lab.containers[2].netns.clone());
    let through = net::tcp_echo_by(&far, &netns, 80, (lab.hosts[0].address, 8080)).await;
    checks.add("and they lead there", through.map_err(|error| format!("{error:#}")));
    Ok(())
}

/// Of a range of ports the first that is free leads to one container; one range leads to another, port by port.
async fn ranges(lab: &mut Lab, dockers: &Dockers, checks: &mut Checks) -> anyhow::Result<()> {
    for (name, publish, shown) in [
        ("first", "8080-8090:80", "8081->80/tcp"),
        ("second", "8080-8090:80", "8082->80/tcp"),
        ("several", "9100-9102:70-72", "9102->72/tcp"),
    ] {
        let index = dockers.run(lab, 0, name, &["-p", publish]).await?;
        let status = lab.weavers(0, &["status"]).await?;
        checks.add(format!("-p {publish} is {shown}"), holds(status.contains(shown), || status.clone()));
        let netns = lab.containers[index].netns.clone();
        let (port, inside) = shown.trim_end_matches("/tcp").split_once("->").context("a port")?;
        let (by, far) = ((lab.hosts[0].address, port.parse()?), lab.containers[2].netns.clone());
        let through = net::tcp_echo_by(&far, &netns, inside.parse()?, by).await;
        checks.add("and leads there", through.map_err(|error| format!("{error:#}")));
    }
    for name in ["first", "second", "several"] {
        dockers.docker(lab, 0, &["rm", "-f", name]).await?;
        lab.containers.pop();
    }
    Ok(())
}

/// Daemons are killed while containers run, and more containers come.
async fn killed(lab: &mut Lab, dockers: &Dockers, checks: &mut Checks) -> anyhow::Result<()> {
    for number in 0..3 {
        dockers.run(lab, 0, &format!("before{number}"), &[]).await?;
    }
    lab.kill_host(0).await?;
    checks.add("containers of a host without weavers are reached", passes(lab, 2, 0).await?);
    lab.start_host(0)?;
    lab.await_ready(0).await?;
    for number in 0..3 {
        dockers.run(lab, 0, &format!("after{number}"), &[]).await?;
    }
    let addresses: BTreeSet<Ipv4Addr> = lab.containers.iter().map(|container| container.address).collect();
    checks.add("after a crash no address is given twice", same(&lab.containers.len(), &addresses.len()));
    let last = lab.containers.len() - 1;
    let both = passes(lab, last, 2).await?.and(passes(lab, 0, last).await?);
    checks.add("and all are reached", both);
    Ok(())
}

async fn named(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let named = eventually(NAMED_WITHIN, async || {
        let status = lab.weavers(0, &["status"]).await?;
        Ok(holds(status.contains("h1d1") && status.contains("after2"), || status.clone()))
    });
    checks.timed("`weavers status` calls containers as Docker does", named.await?);
    Ok(())
}

/// Nothing is left when all are removed.
async fn end(lab: &mut Lab, dockers: &Dockers, mut checks: Checks) -> anyhow::Result<Report> {
    for host in 0..lab.hosts.len() {
        let all = dockers.docker(lab, host, &["ps", "-aq"]).await?;
        let all: Vec<&str> = all.split_whitespace().collect();
        if !all.is_empty() {
            dockers.docker(lab, host, &[&["rm", "-f"], &all[..]].concat()).await?;
        }
        dockers.docker(lab, host, &["network", "rm", NETWORK]).await?;
        let status = lab.status(host).await?;
        let attached = status.pointer("/attachments").and_then(Value::as_array).map(Vec::len);
        checks.add(format!("nothing is attached on h{}", host + 1), same(&Some(0), &attached));
        checks.add(
            "and no address used",
            same(&Some(0), &status.pointer("/ipam/used").and_then(Value::as_u64)),
        );
        // That of the canary.
        let links = lab.on_host(host, &["sh", "-c", "ip -br link | grep -c '^w[vp]' || true"]).await?;
        checks.add("nor a link left", same(&"1", &links.trim()));
    }
    lab.containers.clear();
    let mut report = basic::report(lab).await?;
    report.checks.extend(checks.0);
    Ok(report)
}
