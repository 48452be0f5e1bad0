//! Hosts on EC2 that reach each other on their link and not by the VPC: two of one subnet that say so, while the router's table is wrong;
//! and one that has a link in common with a host outside.

use std::{net::Ipv4Addr, time::Duration};

use super::{
    mixed::{host_routes, lead_to, path},
    repair::{delete, replace},
    stage::{Checks, at_work, eventually, holds, passes, same},
    tables::add_subnet,
    v6,
};
use crate::{lab::Lab, pinger::end_without_loss, report::Report, site::OFFICE, subnet};

/// Two of one subnet, one of another; and, later, one outside. Containers are numbered as their hosts.
const NEIGHBOURS: [usize; 2] = [0, 1];
const ELSEWHERE: usize = 2;
const OUTSIDE: usize = 3;
const SOON: Duration = Duration::from_secs(15);
/// How often the routes are led astray, a while each.
const ASTRAY_TIMES: usize = 3;
const ASTRAY: Duration = Duration::from_millis(500);
/// What is left of the hops of a packet between containers: each host takes one, and so does the router.
const TTL_BY_ROUTER: u8 = 61;
const TTL_PAST_IT: u8 = 62;

const BY_TABLES: &str = "same_subnet = \"vpc\"";
const BY_LINK: &str = "same_subnet = \"direct\"";

pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let mut checks = Checks::default();
    let subnet = add_subnet(lab, "10.0.2.0/24", Some(&lab.table.clone()));
    lab.add_host_in(&subnet).await?;
    subnet::join(&NEIGHBOURS.map(|host| lab.hosts[host].address)).await?;
    lab.configure()?;
    v6::give_all(lab).await?;
    for host in NEIGHBOURS {
        lab.edit(host, "[vpc]\n", &format!("[vpc]\n{BY_LINK}\n"))?;
    }
    let ready = at_work(lab).await?;
    led(lab, &mut checks, "direct").await?;
    by_link(lab, &mut checks).await?;
    astray(lab, &mut checks).await?;
    turned(lab, &mut checks).await?;
    beside_one_outside(lab, &mut checks).await?;
    Ok(Report { ready, checks: checks.0, calls: lab.calls(), ..Report::default() })
}

/// The path between the neighbours is of this kind, and packets take it.
async fn led(lab: &Lab, checks: &mut Checks, kind: &str) -> anyhow::Result<()> {
    let [one, other] = NEIGHBOURS;
    let left = if kind == "direct" { TTL_PAST_IT } else { TTL_BY_ROUTER };
    for (from, to) in [(one, other), (other, one)] {
        let known = eventually(SOON, async || Ok(same(&kind.to_owned(), &path(lab, from, to).await?)));
        checks.timed(format!("the path from h{} to h{} is {kind}", from + 1, to + 1), known.await?);
        let taken = eventually(SOON, async || Ok(same(&Some(left), &ttl(lab, from, to).await?)));
        checks.timed("and packets take it", taken.await?);
    }
    Ok(())
}

/// How many hops a packet had left that came from a container, if one came.
async fn ttl(lab: &Lab, to: usize, from: usize) -> anyhow::Result<Option<u8>> {
    let address = lab.containers[from].address;
    let said = lab.in_container(to, &["sh", "-c", &format!("ping -n -c 1 -W 1 {address} || true")]).await?;
    Ok(said.split("ttl=").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()))
}

/// Whole packets pass, of IPv6 by the VPC; the host of another subnet is reached as ever; the tables stay what they were.
async fn by_link(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let [one, other] = NEIGHBOURS;
    for (from, to) in [(one, other), (other, one), (one, ELSEWHERE), (ELSEWHERE, one)] {
        checks.add(format!("h{} reaches h{} at its MTU", from + 1, to + 1), passes(lab, from, to).await?);
        let by_v6 =
            eventually(SOON, async || v6::knocks(lab, from, v6::address(lab, to), lab.options.mtu).await);
        checks.timed("and by IPv6", by_v6.await?);
    }
    checks.add(
        "to the other subnet it goes by the VPC",
        same(&"vpc".to_owned(), &path(lab, one, ELSEWHERE).await?),
    );
    let routes = host_routes(lab, one).await?;
    let address = lab.hosts[other].address;
    let via = format!("via {address} dev eth0");
    checks.add(
        "the only routes to other hosts lead to the neighbour by its address",
        holds(!routes.is_empty() && routes.lines().all(|line| line.contains(&via)), || routes),
    );
    for host in NEIGHBOURS {
        let name = &lab.hosts[host].name;
        checks.add(
            format!("the table leads to {name} for all others"),
            holds(!lab.routes_to(host).is_empty(), || "it does not".to_owned()),
        );
        checks.timed(format!("{name} has nothing left to do"), lab.settled(host).await?);
    }
    let explained = lab.ran(one, &["explain", &lab.containers[other].address.to_string()]).await?;
    checks.add(
        "explain says by what its packets go",
        explained.says(0, &["direct", &format!("by {address} on eth0")]),
    );
    Ok(())
}

/// Somebody deletes the routes to a neighbour, and leads them elsewhere: between the two no packet is lost.
async fn astray(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let [_, other] = NEIGHBOURS;
    let pingers = lab.ping_ring(&NEIGHBOURS)?;
    let elsewhere = lab.hosts[ELSEWHERE].interface.clone();
    for _ in 0..ASTRAY_TIMES {
        for cidr in lab.routes_to(other) {
            replace(lab, cidr, &elsewhere)?;
            tokio::time::sleep(ASTRAY).await;
            delete(lab, cidr)?;
        }
        lab.settle().await?;
        tokio::time::sleep(ASTRAY).await;
        let back =
            eventually(SOON, async || Ok(holds(!lab.routes_to(other).is_empty(), || "none".to_owned())));
        checks.timed("routes of the VPC that were led astray and deleted are back", back.await?);
    }
    let (sent, lost) = end_without_loss(pingers).await?;
    checks.add(format!("none of {sent} pings between the neighbours was lost meanwhile"), lost);
    Ok(())
}

/// One of the two takes its word back, and gives it again, while both are at work.
async fn turned(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let [one, _] = NEIGHBOURS;
    let pingers = lab.ping_ring(&NEIGHBOURS)?;
    for (from, to, kind) in [(BY_LINK, BY_TABLES, "vpc"), (BY_TABLES, BY_LINK, "direct")] {
        lab.edit(one, from, to)?;
        lab.weavers(one, &["reload"]).await?;
        led(lab, checks, kind).await?;
    }
    let (sent, lost) = end_without_loss(pingers).await?;
    checks.add(format!("none of {sent} pings was lost while the path changed"), lost);
    Ok(())
}

/// A host outside EC2 comes, and one of those on EC2 gets an interface on its link, with this address.
async fn add_one_outside(lab: &mut Lab, address: Ipv4Addr) -> anyhow::Result<()> {
    OFFICE.build().await?;
    lead_to(lab, OFFICE)?;
    let [one, _] = NEIGHBOURS;
    OFFICE.plug_in(lab.hosts[one].keeper_pid()?, ("of-h1", "eth1"), address).await?;
    let outside = lab.add_host_outside(OFFICE).await?;
    assert_eq!(outside, OUTSIDE, "the fourth");
    let text = std::fs::read_to_string(lab.hosts[ELSEWHERE].config())?;
    std::fs::write(lab.hosts[outside].config(), text)?;
    lab.edit(
        outside,
        "endpoint = \"http://169.254.169.254\"",
        "provider = \"none\"\n\n[mesh]\nname = \"02:00:00:00:0f:04\"",
    )?;
    lab.edit(one, "[network]\n", "[network]\nuplinks = [\"eth0\", \"eth1\"]\n")?;
    lab.weavers(one, &["reload"]).await?;
    lab.start_host(outside)?;
    lab.await_ready(outside).await?;
    lab.attach(outside).await?;
    Ok(())
}

/// The two reach each other, and nobody else reaches the one outside.
async fn beside_one_outside(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let ([one, other], outside) = (NEIGHBOURS, OUTSIDE);
    let address = OFFICE.address_of(11);
    add_one_outside(lab, address).await?;
    for (from, to, wanted) in
        [(one, outside, "direct"), (outside, one, "direct"), (other, outside, "none"), (one, other, "direct")]
    {
        let known = eventually(SOON, async || Ok(same(&wanted.to_owned(), &path(lab, from, to).await?)));
        checks.timed(format!("the path from h{} to h{} is {wanted}", from + 1, to + 1), known.await?);
    }
    let routes = host_routes(lab, outside).await?;
    let via = format!("via {address} dev eth0");
    checks.add(
        "the host outside leads to the other by its address there",
        holds(routes.contains(&via), || routes),
    );
    for (from, to) in [(one, outside), (outside, one)] {
        let passed = eventually(SOON, async || passes(lab, from, to).await);
        checks.timed(format!("h{} reaches h{} at its MTU", from + 1, to + 1), passed.await?);
        let by_v6 =
            eventually(SOON, async || v6::knocks(lab, from, v6::address(lab, to), lab.options.mtu).await);
        checks.timed("and by IPv6", by_v6.await?);
    }
    let lost = passes(lab, other, outside).await?;
    checks.add("what is not on that link does not reach it", holds(lost.is_err(), || "it did".to_owned()));
    let unchanged = lab.routes_to(one);
    checks.add(
        "routes of the VPC lead to its first interface",
        holds(!unchanged.is_empty(), || "none".to_owned()),
    );
    checks.add("and its packets to the neighbour pass", passes(lab, one, other).await?);
    Ok(())
}
