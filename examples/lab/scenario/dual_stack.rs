//! IPv6 beside IPv4: across hosts, kept apart alike, set right alike; what a container says of routers and of itself changes nothing; and
//! the prefix comes and goes while containers run.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use serde_json::json;
use tokio::process::Command;
use weavers::{
    addr::Address,
    sim::vpc::{Call, Caller, Origin},
};

use super::{
    podman::call_as_netavark,
    stage::{Checks, NOT_CONVERGED, at_work, eventually, holds, report, same},
    v6::{self, PREFIX},
};
use crate::{fabric::addresses6, lab::Lab, net, pinger::end_without_loss, report::Report};

/// How long until what was adopted is done.
const ADOPTED_WITHIN: Duration = Duration::from_secs(10);
/// How long until probes show what becomes of packets.
const PROBED_WITHIN: Duration = Duration::from_secs(20);
/// How long until what somebody changed is set right.
const REPAIRED_WITHIN: Duration = Duration::from_secs(10);

const APART: &str = r#"
[[ipam.subnet]]
name = "web"
cidr = "10.32.0.0/16"
"#;

pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    v6::give_all(lab).await?;
    for host in 0..lab.hosts.len() {
        lab.edit(host, "default_subnet = \"10.32.0.0/12\"", "default_subnet = \"10.40.0.0/13\"")?;
    }
    let ready = at_work(lab).await?;
    lab.attach(0).await?;
    let mut checks = Checks::default();
    reached(lab, &mut checks).await?;
    published(lab, &mut checks).await?;
    routes(lab, &mut checks).await?;
    neighbours(lab, &mut checks).await?;
    forged(lab, &mut checks).await?;
    repaired(lab, &mut checks).await?;
    lost(lab, &mut checks).await?;
    apart(lab, &mut checks).await?;
    comes_and_goes(lab, &mut checks).await?;
    report(lab, ready, checks).await
}

// ===== packets =====

/// Whether a ping passes that is as large as the MTU.
async fn knocks(lab: &Lab, from: usize, to: Ipv6Addr) -> anyhow::Result<Result<(), String>> {
    v6::knocks(lab, from, to, lab.options.mtu).await
}

/// All containers reach all others.
async fn all_reach_all(lab: &Lab) -> anyhow::Result<Result<(), String>> {
    lab.settle().await?;
    for from in 0..lab.containers.len() {
        for to in (0..lab.containers.len()).filter(|to| *to != from) {
            if let Err(why) = knocks(lab, from, v6::address(lab, to)).await? {
                return Ok(Err(why));
            }
        }
    }
    Ok(Ok(()))
}

async fn reached(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    checks.add("every container reaches every other by IPv6, at its MTU", all_reach_all(lab).await?);
    let there = v6::address(lab, 2).to_string();
    let ping = ["ping", "-n", "-c", "1", "-W", "1", &there];
    checks.add("a host reaches a container of another", {
        lab.on_host(0, &ping).await.map(drop).map_err(|error| format!("{error:#}"))
    });
    let [_, other] = addresses6(lab.hosts[1].address);
    checks.add("a container reaches what is outside", knocks(lab, 0, other).await?);
    let rules = lab.on_host(0, &["nft", "list", "chain", "inet", "weave", "postrouting"]).await?;
    let hidden = rules.lines().any(|line| line.contains("ip6 saddr") && !line.contains("packets 0 "));
    checks.add("under the address of its host", holds(hidden, || rules));
    let owned = super::basic::owned(lab, 0).await?[0];
    let free = v6::prefix().address(Address::from(owned.broadcast())).to_string();
    let refused = lab.in_container(2, &["sh", "-c", &format!("ping -n -c 1 -W 3 {free} || true")]).await?;
    checks.add("a free address answers", holds(refused.contains("nreachable"), || refused));
    let document = lab.ran(0, &["attach", &lab.containers[0].netns.to_string_lossy(), "--json"]).await?;
    checks.add("attach tells both addresses", document.says(0, &[&v6::address(lab, 0).to_string()]));
    Ok(())
}

// ===== published ports =====

/// A port of a host leads to a container by either kind, or by one, as whoever publishes it says.
async fn published(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let plugin = lab.binary().with_file_name("weavers-cni");
    let namespace = lab.make_netns(0).await?;
    let path = namespace.path.display().to_string();
    let port = |host_ip: &str, to: u16| json!({ "container_port": to, "host_ip": host_ip, "host_port": 8000 + to, "protocol": "tcp", "range": 1 });
    let container = json!({
        "container_id": "c1", "container_name": "web", "network": { "name": "w", "id": "2f25", "driver": "weavers" },
        "port_mappings": [port("", 80), port("::", 81), port("0.0.0.0", 82)],
        "network_options": { "interface_name": "eth0" },
    });
    let setup = call_as_netavark(lab, &plugin, &["setup", &path], &container).await?;
    checks.add("a container publishes ports", setup.says(0, &["fe80::1"]));
    let index = lab.adopt(0, namespace).await?;
    let (to, from) = (lab.containers[index].netns.clone(), lab.containers[2].netns.clone());
    let v4 = IpAddr::from(lab.hosts[0].address);
    let v6 = IpAddr::from(addresses6(lab.hosts[0].address)[1]);
    let through = async |port: u16, by| net::tcp_echo_by(&from, &to, port, (by, 8000 + port)).await;
    for (port, by) in [(80, v6), (80, v4), (81, v6), (82, v4)] {
        let led = through(port, by).await.map_err(|error| format!("{error:#}"));
        checks.add(format!("port {port} of it is reached at {by}"), led);
    }
    for (port, by) in [(81, v4), (82, v6)] {
        let why = through(port, by).await.map_or_else(|error| format!("{error:#}"), |()| "it is".to_owned());
        checks.add(format!("port {port} is not at {by}"), holds(why.contains("refused"), || why));
    }
    let status = lab.ran(0, &["status"]).await?;
    let shown = ["8080->80/tcp", "[::]:8081->81/tcp", "0.0.0.0:8082->82/tcp"];
    checks.add("status shows the ports", status.says(status.code, &shown));
    let down = call_as_netavark(lab, &plugin, &["teardown", &path], &container).await?;
    checks.add("and they go with it", down.says(0, &[]));
    let left = lab.on_host(0, &["nft", "list", "tables"]).await?;
    checks.add("whole", holds(!left.contains("weave-ports"), || left));
    lab.containers.remove(index);
    Ok(())
}

// ===== routes =====

/// Destinations of routes that hosts have made, of IPv4, and of IPv6 by the IPv4 CIDRs that they go with.
fn destinations(lab: &Lab) -> [Vec<String>; 2] {
    let prefix = v6::prefix();
    lab.cloud.with(|vpc, _| {
        let created = vpc.routes(&lab.table).into_iter().filter(|route| route.origin == Origin::Created);
        let inside = created.filter(|route| lab.range.contains(&route.destination));
        let v4 = inside.map(|route| format!("{} {:?}", route.destination, route.target));
        let v6 = vpc
            .routes6(&lab.table)
            .into_iter()
            .filter_map(|route| Some(format!("{} {:?}", prefix.cidr_of(route.destination)?, route.target)));
        [v4.collect(), v6.collect()]
    })
}

async fn routes(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let [v4, v6_routes] = destinations(lab);
    checks.add("the table has a route of each kind for every block", same(&v4, &v6_routes));
    let address = v6::address(lab, 2).to_string();
    let explained = lab.ran(1, &["explain", &address]).await?;
    let words = [address.as_str(), &lab.containers[2].address.to_string(), "nothing is missing"];
    checks.add("explain follows an address of IPv6", explained.says(0, &words));
    let unknown = lab.ran(1, &["explain", "fd00:9::a20:1"]).await?;
    checks.add("but none of another prefix", unknown.says(1, &["no IPv6 address of a container"]));
    let plan = lab.ran(0, &["plan", "--detailed-exitcode"]).await?;
    checks.add("nothing is left to do", plan.says(0, &["nothing to do"]));
    let doctor = lab.ran_in_place(0, &["doctor"]).await?;
    checks.add("doctor looks at both sides of the table", doctor.says(doctor.code, &[PREFIX]));
    Ok(())
}

/// Nobody is asked for a MAC address.
async fn neighbours(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let link = format!("wv{:08x}", u32::from(lab.containers[0].address));
    let of_host = lab.on_host(0, &["ip", "-6", "neigh", "show", "dev", &link]).await?;
    let address = v6::address(lab, 0).to_string();
    let is_permanent =
        |text: &str, of: &str| text.lines().any(|line| line.starts_with(of) && line.contains("PERMANENT"));
    checks.add(
        "the host knows its container's MAC address",
        holds(is_permanent(&of_host, &address), || of_host),
    );
    let inside = lab.in_container(0, &["ip", "-6", "neigh"]).await?;
    checks.add("and the container the host's", holds(is_permanent(&inside, "fe80::1 "), || inside));
    let held =
        lab.in_container(0, &["ip", "-6", "-o", "addr", "show", "dev", "ethwe", "scope", "global"]).await?;
    checks.add("its address is in use from the start", holds(!held.contains("tentative"), || held));
    Ok(())
}

// ===== what containers say of themselves and of routers =====

async fn forged(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let look = async || -> anyhow::Result<Vec<String>> {
        let on_host = lab.on_host(0, &["sh", "-c", "ip -6 route; ip -6 -o addr"]).await?;
        let mut lines: Vec<String> = on_host.lines().map(ToOwned::to_owned).collect();
        for container in [0, 2, 3] {
            let inside = lab.in_container(container, &["sh", "-c", "ip -6 route; ip -6 -o addr"]).await?;
            lines.extend(inside.lines().map(ToOwned::to_owned));
        }
        // The kernel's own addresses of links come into use in their own time.
        Ok(lines.into_iter().filter(|line| !line.contains("scope link")).collect())
    };
    let before = look().await?;
    net::advertise_a_router(&lab.containers[0].netns).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let ra = lab.on_host(0, &["sh", "-c", "ip -6 route | grep 'proto ra' || true"]).await?;
    checks.add("a container that advertises itself as a router is not heeded", holds(ra.is_empty(), || ra));
    checks.add("and changes nothing", super::stage::unchanged(&before, &look().await?));
    let rules = lab.on_host(0, &["nft", "list", "chain", "inet", "weave", "prerouting"]).await?;
    let counted = |rules: &str, word: &str| {
        rules.lines().any(|line| line.contains(word) && !line.contains("packets 0 "))
    };
    checks.add("it is counted", holds(counted(&rules, "router advertisement"), || rules));

    let (name, forged) = (lab.containers[0].name.clone(), "fd12:3456:789a:1::a2f:909");
    lab.in_container(0, &["ip", "addr", "add", &format!("{forged}/128"), "dev", "ethwe", "nodad"]).await?;
    let to = v6::address(lab, 3).to_string();
    let script = format!("ping -n -c 1 -W 1 -I {forged} {to} || true");
    let said = lab.in_container(0, &["sh", "-c", &script]).await?;
    checks.add(
        format!("{name} cannot send under another address"),
        holds(said.contains("100% packet loss"), || said),
    );
    let rules = lab.on_host(0, &["nft", "list", "chain", "inet", "weave", "prerouting"]).await?;
    checks.add("which is counted, too", holds(counted(&rules, "forged source"), || rules));
    lab.in_container(0, &["ip", "addr", "del", &format!("{forged}/128"), "dev", "ethwe"]).await?;
    Ok(())
}

// ===== what others change =====

async fn repaired(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let address = v6::address(lab, 0).to_string();
    let broken: [(&str, Vec<&str>); 3] = [
        ("a host route that somebody deletes", vec!["ip", "-6", "route", "del", &address]),
        ("rules that somebody flushes", vec!["nft", "flush", "chain", "inet", "weave", "forward"]),
        (
            "addresses that somebody flushes",
            vec![
                "ip",
                "netns",
                "exec",
                &lab.containers[0].name,
                "ip",
                "-6",
                "addr",
                "flush",
                "dev",
                "ethwe",
                "scope",
                "global",
            ],
        ),
    ];
    for (what, command) in broken {
        lab.on_host(0, &command).await?;
        // Nobody is told of what changes of IPv6 alone.
        lab.ran(0, &["apply"]).await?;
        let back = eventually(REPAIRED_WITHIN, async || {
            let whole = lab.ran(0, &["status", "--check"]).await?.says(0, &[]);
            Ok(whole.and(knocks(lab, 2, v6::address(lab, 0)).await?))
        });
        checks.timed(format!("{what} are set right"), back.await?);
    }
    let gone = lab.cloud.with(|vpc, now| {
        let table = lab.table.clone();
        let destination = vpc.routes6(&table)[0].destination;
        let call = Call::DeleteRoute {
            table: table.0,
            destination: ipnet::IpNet::from(destination).into(),
            dry_run: false,
        };
        vpc.call(now, &Caller::Console, &call).result
    });
    checks.add("a colleague deletes a route of IPv6", gone.map(drop).map_err(|error| error.to_string()));
    let back = eventually(REPAIRED_WITHIN, async || {
        let [v4, v6_routes] = destinations(lab);
        Ok(same(&v4, &v6_routes))
    });
    checks.timed("and it is back", back.await?);
    Ok(())
}

// ===== packets that die on the way =====

/// What drops IPv6 alone is found by probes.
async fn lost(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let hook = "type filter hook forward priority -1;";
    let drops = format!("table ip6 lost {{\n chain forward {{\n {hook}\n ip6 daddr {PREFIX} drop\n }}\n}}\n");
    net::feed(Command::new("nft").args(["-f", "-"]), &drops).await?;
    let named = eventually(PROBED_WITHIN, async || {
        let says = ["packets of IPv6 of containers to", &lab.hosts[1].name, "security group"];
        Ok(lab.ran(0, &["status", "--check"]).await?.says(NOT_CONVERGED, &says))
    });
    checks.timed("packets of IPv6 that die on the way are named", named.await?);
    let explained = lab.ran(0, &["explain", &v6::address(lab, 1).to_string()]).await?;
    checks.add("explain tells of them", explained.says(0, &["packets of IPv6 of containers"]));
    let doctor = lab.ran_in_place(0, &["doctor"]).await?;
    checks.add("doctor does", doctor.says(doctor.code, &["packets of IPv6"]));
    let log = std::fs::read_to_string(lab.hosts[0].log())?;
    let is_logged = log.lines().any(|line| line.contains("packets are lost") && line.contains("of IPv6"));
    checks.add("and the log", holds(is_logged, || "it says nothing".to_owned()));
    net::feed(Command::new("nft").args(["-f", "-"]), "delete table ip6 lost\n").await?;
    let flow = format!("packets flow to and from {0} of {0} hosts", lab.hosts.len() - 1);
    let well =
        eventually(PROBED_WITHIN, async || Ok(lab.ran(0, &["status", "--check"]).await?.says(0, &[&flow])));
    checks.timed("and are known to flow again", well.await?);
    Ok(())
}

// ===== kept apart =====

async fn apart(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let files: Vec<String> =
        lab.hosts.iter().map(|host| std::fs::read_to_string(host.config())).collect::<Result<_, _>>()?;
    for (host, file) in files.iter().enumerate() {
        std::fs::write(lab.hosts[host].config(), file.clone() + APART)?;
        checks.add(format!("h{} adopts a subnet", host + 1), lab.ran(host, &["reload"]).await?.says(0, &[]));
    }
    let web = lab.attach_with(0, &["--subnet", "web"]).await?;
    let other = lab.attach_with(1, &["--subnet", "web"]).await?;
    let passes = eventually(ADOPTED_WITHIN, async || knocks(lab, web, v6::address(lab, other)).await);
    checks.timed("containers of a subnet reach each other by IPv6", passes.await?);
    let closed = eventually(ADOPTED_WITHIN, async || {
        for (from, to) in [(0, web), (web, 0), (2, web), (web, 3)] {
            if knocks(lab, from, v6::address(lab, to)).await?.is_ok() {
                return Ok(Err(format!("{} reaches {}", lab.containers[from].name, lab.containers[to].name)));
            }
        }
        Ok(Ok(()))
    });
    checks.timed("and nobody else reaches them", closed.await?);
    for (host, file) in files.iter().enumerate() {
        std::fs::write(lab.hosts[host].config(), file)?;
        checks.add(format!("h{} gives it up", host + 1), lab.ran(host, &["apply"]).await?.says(0, &[]));
    }
    Ok(())
}

// ===== the prefix comes and goes =====

async fn comes_and_goes(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let line = format!("\nipv6 = \"{PREFIX}\"");
    let call = lab.ping_on(0, 2)?;
    lab.edit(0, &line, "")?;
    checks.add("h1 leaves the prefix out", lab.ran(0, &["apply"]).await?.says(0, &[]));
    let told = eventually(ADOPTED_WITHIN, async || {
        Ok(lab.ran(1, &["status"]).await?.says(0, &["[network] ipv6 of", "is none"]))
    });
    checks.timed("the others say so", told.await?);
    for host in 1..lab.hosts.len() {
        lab.edit(host, &line, "")?;
        checks.add(format!("h{} leaves it out", host + 1), lab.ran(host, &["apply"]).await?.says(0, &[]));
    }
    let gone = eventually(ADOPTED_WITHIN, async || {
        let [_, left] = destinations(lab);
        let blocks = lab.on_host(0, &["ip", "-6", "route", "show", "proto", "67"]).await?;
        let inside = lab
            .in_container(0, &["ip", "-6", "-o", "addr", "show", "dev", "ethwe", "scope", "global"])
            .await?;
        Ok(holds(left.is_empty() && blocks.is_empty() && inside.is_empty(), || {
            format!("{left:?} {blocks} {inside}")
        }))
    });
    checks.timed("no route and no address of it is left", gone.await?);
    for host in 0..lab.hosts.len() {
        v6::turn_on(lab, host)?;
        checks.add(format!("h{} takes it up again", host + 1), lab.ran(host, &["apply"]).await?.says(0, &[]));
    }
    let back = eventually(ADOPTED_WITHIN, async || all_reach_all(lab).await);
    checks.timed("and all reach all by IPv6", back.await?);
    let (sent, lost) = end_without_loss(vec![call]).await?;
    checks.add(format!("of {sent} pings by IPv4 none was lost meanwhile"), lost);
    Ok(())
}
