//! A thousand containers come and go by eight callers, while somebody deletes links and the daemon is killed: nothing is lost,
//! nothing is left.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use futures_util::future::try_join_all;
use tokio::time::sleep;
use weavers::{
    api::{
        ApiRequest,
        client::{ClientError, call},
    },
    node::protocol::request::Response,
};

use super::{
    basic,
    stage::{Checks, holds, same},
};
use crate::{
    lab::{Lab, Namespace},
    net,
    report::Report,
};

const ROUNDS: usize = 1000;
const CALLERS: usize = 8;
const NAMESPACES_EACH: usize = 5;
/// Between two links that somebody deletes, and between two deaths of the daemon.
const DELETES: Duration = Duration::from_millis(150);
const KILLS: Duration = Duration::from_secs(3);
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a caller tries again while the daemon is away.
const AWAY_MAX: Duration = Duration::from_secs(20);
const RETRY: Duration = Duration::from_millis(20);
const HOST: usize = 0;

pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let ready = lab.start_all().await?;
    lab.attach(1).await?;
    let mut namespaces = Vec::new();
    for _ in 0..CALLERS * NAMESPACES_EACH {
        namespaces.push(lab.make_netns(HOST).await?);
    }
    let mut checks = Checks::default();
    let socket = lab.hosts[HOST].socket()?;

    let begun = Instant::now();
    let left = Cell::new(ROUNDS);
    let callers = namespaces.chunks(NAMESPACES_EACH).map(|own| come_and_go(&socket, own, &left));
    let (_, kills) = tokio::try_join!(try_join_all(callers), trouble(lab, &left))?;
    checks.timed(
        format!("{ROUNDS} containers came and went, {kills} deaths of the daemon"),
        Ok(begun.elapsed()),
    );

    let addresses = try_join_all(namespaces.iter().map(|one| attach(&socket, one))).await?;
    let given: BTreeSet<Ipv4Addr> = addresses.iter().copied().collect();
    checks.add("no address is given twice", same(&namespaces.len(), &given.len()));
    checks.add("links that nobody deletes any more stay", lab.settled(HOST).await?.map(drop));
    for namespace in namespaces.iter().step_by(NAMESPACES_EACH) {
        lab.adopt(HOST, namespace.clone()).await?;
    }
    let pings = lab.ping_all().await?;
    let mut report = basic::report(lab).await?;
    lab.containers.retain(|container| container.host != HOST);
    try_join_all(namespaces.iter().map(|one| detach(&socket, one))).await?;
    checks.add("nothing is left", nothing_left(lab).await?);
    (report.ready, report.pings) = (ready, pings);
    report.checks.extend(checks.0);
    Ok(report)
}

/// One caller, who attaches and detaches its namespaces in turn.
async fn come_and_go(socket: &Path, own: &[Namespace], left: &Cell<usize>) -> anyhow::Result<()> {
    for namespace in own.iter().cycle() {
        let Some(rest) = left.get().checked_sub(1) else { return Ok(()) };
        left.set(rest);
        attach(socket, namespace).await?;
        detach(socket, namespace).await?;
    }
    Ok(())
}

/// Deletes links and kills the daemon, until the callers are done; how often it was killed.
async fn trouble(lab: &mut Lab, left: &Cell<usize>) -> anyhow::Result<usize> {
    let (mut kills, mut next_kill) = (0, Instant::now() + KILLS);
    while left.get() > 0 {
        sleep(DELETES).await;
        if let Some(name) = links(lab).await?.into_iter().next_back() {
            // Whoever detaches may be quicker.
            let mut command = lab.hosts[HOST].enter()?;
            net::output(command.args(["ip", "link", "del", &name])).await?;
        }
        if Instant::now() >= next_kill {
            lab.kill_host(HOST).await?;
            lab.start_host(HOST)?;
            (kills, next_kill) = (kills + 1, Instant::now() + KILLS);
        }
    }
    Ok(kills)
}

async fn attach(socket: &Path, namespace: &Namespace) -> anyhow::Result<Ipv4Addr> {
    let target = target(namespace);
    match ask(socket, ApiRequest::AttachTarget { target, name: None, subnet: None }).await? {
        Response::Attached { address, .. } => Ok(address.addr()),
        other => bail!("not the answer to an attach: {other:?}"),
    }
}

async fn detach(socket: &Path, namespace: &Namespace) -> anyhow::Result<()> {
    ask(socket, ApiRequest::DetachTarget { target: target(namespace) }).await.map(drop)
}

/// Asks until there is an answer.
async fn ask(socket: &Path, request: ApiRequest) -> anyhow::Result<Response> {
    let begun = Instant::now();
    loop {
        match call(socket, &request, CALL_TIMEOUT).await {
            Err(ClientError::Unreachable { .. } | ClientError::Garbled(_)) if begun.elapsed() < AWAY_MAX => {
                sleep(RETRY).await;
            }
            answer => return answer.with_context(|| format!("{request:?}")),
        }
    }
}

fn target(namespace: &Namespace) -> String {
    namespace.path.to_string_lossy().into_owned()
}

/// The links of containers on the host, but for the canary's.
async fn links(lab: &Lab) -> anyhow::Result<Vec<String>> {
    let all = lab.on_host(HOST, &["ip", "-o", "link", "show", "type", "veth"]).await?;
    let names =
        all.lines().filter_map(|line| line.split([':', '@']).nth(1)).map(|name| name.trim().to_owned());
    let canary = canary(lab).await;
    Ok(names.filter(|name| name.starts_with("wv") && canary.as_ref() != Some(name)).collect())
}

/// The link of the canary, while the daemon says which it is.
async fn canary(lab: &Lab) -> Option<String> {
    let status = lab.status(HOST).await.ok()?;
    let address: Ipv4Addr = status["probe"]["canary"].as_str()?.parse().ok()?;
    Some(weavers::state::link_name(address.into()))
}

async fn nothing_left(lab: &Lab) -> anyhow::Result<Result<(), String>> {
    let (links, status) = (links(lab).await?, lab.status(HOST).await?);
    let attached = status["attachments"].as_array().map_or(0, Vec::len);
    let used = status["ipam"]["used"].as_u64();
    let found = BTreeMap::from([("links", links.len()), ("containers", attached)]);
    let nothing = links.is_empty() && attached == 0 && used == Some(0);
    Ok(holds(nothing, || format!("{found:?}, {used:?} addresses are used; {links:?}")))
}
