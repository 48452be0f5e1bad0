//! The main job, and what every scenario reports at its end.

use std::time::{Duration, Instant};

use anyhow::Context;
use ipnet::Ipv4Net;
use tokio::time::sleep;
use weavers::sim::vpc::{RouteView, state_name};

use crate::{
    lab::Lab,
    net,
    report::{HostLine, Report, RouteLine},
    standin::target_name,
    verify::{self, Owners},
};

/// How long routes may take to follow the ring: two looks of the scenarios in which it changes.
const SETTLES: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);

/// The main job: hosts agree on ranges, routes appear, containers reach each other everywhere.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let ready = lab.start_all().await?;
    for host in 0..lab.hosts.len() {
        lab.attach(host).await?;
    }
    lab.attach(0).await?; // two on one host, so that they meet without the VPC
    let pings = lab.ping_all().await?;
    let mut report = report(lab).await?;
    report.ready = ready;
    report.checks.push(("there are no more routes than owned CIDRs".to_owned(), thrifty(lab, &report)));
    report.checks.push(("a megabyte goes there and back by TCP".to_owned(), echo_ring(lab).await));
    report.pings = pings;
    Ok(report)
}

/// Hosts whose daemon runs, routes and calls as they are now, and whether the routes say what the ring says.
async fn snapshot(lab: &Lab) -> anyhow::Result<Report> {
    let mut report = Report { calls: lab.calls(), ..Report::default() };
    let mut owners = Owners::new();
    for (index, host) in lab.hosts.iter().enumerate().filter(|(_, host)| host.runs()) {
        let owned = owned(lab, index).await?;
        owners.extend(owned.iter().map(|&cidr| (cidr, host.interface.clone())));
        let own = lab.containers.iter().filter(|container| container.host == index);
        report.hosts.push(HostLine {
            name: host.name.clone(),
            address: host.address.to_string(),
            interface: host.interface.to_string(),
            owned: owned.iter().map(ToString::to_string).collect(),
            containers: own.map(|container| format!("{} {}", container.name, container.address)).collect(),
        });
    }
    let range = lab.range;
    let routes = lab.cloud.with(|vpc, _| vpc.routes(&lab.table));
    report.checks = vec![
        (format!("the hosts own {range}, each address once"), verify::owned_once(range, &owners)),
        ("every longest match leads to the owner".to_owned(), verify::leads_to_owners(&owners, &routes)),
    ];
    report.routes = routes.iter().map(|route| line(&lab.table.0, route)).collect();
    Ok(report)
}

/// The same, once every route of a range that has just changed hands is its new owner's.
pub async fn report(lab: &Lab) -> anyhow::Result<Report> {
    let deadline = Instant::now() + SETTLES;
    loop {
        let report = snapshot(lab).await?;
        if report.ok() || Instant::now() >= deadline {
            return Ok(report);
        }
        sleep(POLL).await;
    }
}

/// Whether there are no more routes than owned CIDRs. That is so at first; a range that was taken over
/// keeps its route also where it joins another.
pub fn thrifty(lab: &Lab, report: &Report) -> Result<(), String> {
    let owned = report.hosts.iter().map(|host| host.owned.len()).sum();
    let routes = lab.cloud.with(|vpc, _| vpc.routes(&lab.table));
    verify::no_more_than_owned(lab.range, owned, &routes)
}

/// What a host owns, by its own word.
pub async fn owned(lab: &Lab, host: usize) -> anyhow::Result<Vec<Ipv4Net>> {
    let status = lab.status(host).await?;
    let owned = status.pointer("/ipam/owned").with_context(|| format!("no ipam.owned in {status}"))?;
    Ok(serde_json::from_value(owned.clone())?)
}

/// TCP from each container to the next.
async fn echo_ring(lab: &Lab) -> Result<(), String> {
    for (index, from) in lab.containers.iter().enumerate() {
        let to = &lab.containers[(index + 1) % lab.containers.len()];
        let echo = net::tcp_echo(&from.netns, &to.netns, to.address).await;
        echo.map_err(|error| format!("{} to {}: {error:#}", from.name, to.name))?;
    }
    Ok(())
}

fn line(table: &str, route: &RouteView) -> RouteLine {
    RouteLine {
        table: table.to_owned(),
        destination: route.destination.to_string(),
        target: target_name(&route.target),
        state: state_name(route.state).to_owned(),
    }
}
