//! What others break is mended: routes of the VPC, and everything of ours on a host.

use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::time::sleep;
use weavers::{
    addr::Address,
    sim::vpc::{Action, Call, Caller, RouteTarget, Targets},
    state::{InterfaceId, RouteState, link_name},
};

use super::{
    basic,
    stage::{Checks, at_work, eventually, holds, passes, report, same, unchanged},
};
use crate::{lab::Lab, report::Report};

/// How long a repair may take that the kernel tells of.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// What a repair may take on top of the time between two looks.
const ALLOWANCE: Duration = Duration::from_secs(2);
/// A change right after a write of ours: reads begun within five seconds of it do not deny it, and the next one comes a second later.
const BELIEVED: Duration = Duration::from_secs(8);

/// A colleague deletes a route, or leads it elsewhere: it is as before within the interval and two
/// seconds. While no daemon runs it is not: the lab does not cheat.
pub async fn routes(lab: &mut Lab) -> anyhow::Result<Report> {
    let ready = at_work(lab).await?;
    let mut checks = Checks::default();
    let limit = interval(lab)? + ALLOWANCE;
    let (cidr, own) = (basic::owned(lab, 1).await?[0], lab.hosts[1].interface.clone());
    let other = lab.hosts[2].interface.clone();
    let before = lab.writes();

    delete(lab, cidr)?;
    checks.timed("a deleted route is back", restored(lab, limit, cidr, &own).await?);
    replace(lab, cidr, &other)?;
    checks.timed(
        "a route that led elsewhere leads back",
        restored(lab, limit.max(BELIEVED), cidr, &own).await?,
    );
    lab.settled(1).await?.map_err(anyhow::Error::msg)?;
    let mut expected = before;
    *expected.entry(Action::CreateRoute).or_default() += 1;
    *expected.entry(Action::ReplaceRoute).or_default() += 1;
    checks.add("each took one call", same(&expected, &lab.writes()));

    for host in 0..lab.hosts.len() {
        lab.stop_host(host).await?;
    }
    checks.add("the data path stays up without daemons", passes(lab, 0, 1).await?);
    delete(lab, cidr)?;
    sleep(limit).await;
    let found = leads(lab, cidr, &own);
    checks
        .add("without daemons a deleted route stays away", holds(found.is_err(), || "it is back".to_owned()));
    let lost = passes(lab, 0, 1).await?;
    checks.add("and its packets are lost", holds(lost.is_err(), || "they arrive".to_owned()));
    for host in 0..lab.hosts.len() {
        lab.start_host(host)?;
    }
    for host in 0..lab.hosts.len() {
        lab.await_ready(host).await?;
    }
    checks.add("the daemons bring it back", leads(lab, cidr, &own));
    report(lab, ready, checks).await
}

/// Whatever is broken on a host is mended without a call to EC2.
pub async fn host(lab: &mut Lab) -> anyhow::Result<Report> {
    let ready = at_work(lab).await?;
    let mut checks = Checks::default();
    let before = lab.writes();
    for (what, heard, command) in breakages(lab).await? {
        let limit = if heard { HEARD_WITHIN } else { interval(lab)? + ALLOWANCE };
        let (sound, steps) = (picture(lab).await?, steps(lab).await?);
        lab.on_host(0, &["sh", "-ec", &command]).await?;
        let mended = eventually(limit, async || {
            let stepped = holds(self::steps(lab).await? > steps, || "no step was taken".to_owned());
            Ok(stepped.and(unchanged(&sound, &picture(lab).await?)))
        });
        let mended = mended.await?;
        let settled = lab.settled(0).await?.map(|_| ());
        let whole = mended.and_then(|took| settled.map(|()| took));
        checks.timed(what, passes(lab, 1, 0).await?.and(whole));
    }
    checks.add("EC2 was not called for it", same(&before, &lab.writes()));
    report(lab, ready, checks).await
}

/// What is broken, whether the kernel tells of it, and the command that breaks it on h1.
async fn breakages(lab: &Lab) -> anyhow::Result<Vec<(&'static str, bool, String)>> {
    let container = &lab.containers[0];
    let (address, name) = (container.address, &container.name);
    let link = link_name(Address::from(address));
    let block = basic::owned(lab, 0).await?[0];
    Ok(vec![
        ("the route to a container deleted is back", true, format!("ip route del {address}/32")),
        ("the route of a block deleted is back", true, format!("ip route del unreachable {block}")),
        ("a container's link deleted is back", true, format!("ip link del {link}")),
        ("a container's link set down is up", true, format!("ip link set {link} down")),
        ("the MTU of a link changed on the host is right", true, format!("ip link set {link} mtu 1400")),
        ("a container's neighbour entry deleted is back", true, format!("ip neigh del {address} dev {link}")),
        ("the MTU of a link raised inside is right", false, format!("ip -n {name} link set ethwe mtu 9500")),
        ("the default route inside deleted is back", false, format!("ip -n {name} route del default")),
        ("the address inside deleted is back", false, format!("ip -n {name} addr flush dev ethwe")),
        ("the nftables table flushed is full", true, "nft flush table inet weave".to_owned()),
        ("the nftables table deleted is back", true, "nft delete table inet weave".to_owned()),
        ("the whole ruleset flushed, ours is back", true, "nft flush ruleset".to_owned()),
        ("a start of Docker is let in on the containers", true, format!("nft '{DOCKER}'")),
        ("its chain flushed still lets them pass", true, "nft flush chain ip filter DOCKER-USER".to_owned()),
        ("so does its FORWARD", true, "nft flush chain ip filter FORWARD".to_owned()),
        ("routes flushed as systemd-networkd does are back", true, "ip route flush proto 67".to_owned()),
        ("forwarding turned off is on", true, "echo 0 >/proc/sys/net/ipv4/ip_forward".to_owned()),
        (
            "rp_filter of a link turned off is on",
            true,
            format!("echo 0 >/proc/sys/net/ipv4/conf/{link}/rp_filter"),
        ),
    ])
}

/// What dockerd does to forwarding where it was off before, in nft's words.
const DOCKER: &str = "add table ip filter; add chain ip filter DOCKER-USER; \
    add rule ip filter DOCKER-USER counter return; \
    add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }; \
    add rule ip filter FORWARD counter jump DOCKER-USER";

/// How many steps h1 has taken.
async fn steps(lab: &Lab) -> anyhow::Result<usize> {
    let status = lab.status(0).await?;
    Ok(status["steps"].as_array().map_or(0, Vec::len))
}

/// All of ours on h1 and in its container, without what differs from one link to the next.
async fn picture(lab: &Lab) -> anyhow::Result<Vec<String>> {
    let container = &lab.containers[0];
    let (name, link) = (&container.name, link_name(Address::from(container.address)));
    let host = format!(
        "ip -4 route show; ip -o link show {link} | sed 's/^[0-9]*://; s/@[^ ]*//; s/state [A-Z]*//'; \
         ip -4 neigh show dev {link} nud permanent; nft -s list table inet weave; \
         cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/{link}/rp_filter; \
         ip -n {name} -4 route show; ip -n {name} -4 -o addr show dev ethwe | sed 's/^[0-9]*://'; \
         ip -n {name} -4 neigh show nud permanent; ip -n {name} -o link show ethwe | sed 's/^[0-9]*://; s/@[^ ]*//; s/state [A-Z]*//'"
    );
    let text = lab.on_host(0, &["sh", "-c", &format!("{{ {host}; }} 2>/dev/null || true")]).await?;
    Ok(text.lines().map(|line| line.trim().to_owned()).collect())
}

/// The longest time between two looks.
fn interval(lab: &Lab) -> anyhow::Result<Duration> {
    Ok(humantime::parse_duration(&lab.interval)?)
}

// ===== a colleague with a console =====

pub(super) fn delete(lab: &Lab, cidr: Ipv4Net) -> anyhow::Result<()> {
    let (table, destination) = (lab.table.0.clone(), cidr.into());
    as_colleague(lab, &Call::DeleteRoute { table, destination, dry_run: false })
}

pub(super) fn replace(lab: &Lab, cidr: Ipv4Net, to: &InterfaceId) -> anyhow::Result<()> {
    let (table, destination) = (lab.table.0.clone(), cidr.into());
    let targets = Targets::interface(to.0.clone());
    as_colleague(lab, &Call::ReplaceRoute { table, destination, targets, dry_run: false })
}

pub(super) fn as_colleague(lab: &Lab, call: &Call) -> anyhow::Result<()> {
    let result = lab.cloud.with(|vpc, now| vpc.call(now, &Caller::Console, call).result);
    result.map(|_| ()).map_err(|error| anyhow::anyhow!("{call:?}: {error}"))
}

pub(super) async fn restored(
    lab: &Lab,
    limit: Duration,
    cidr: Ipv4Net,
    own: &InterfaceId,
) -> anyhow::Result<Result<Duration, String>> {
    eventually(limit, async || Ok(leads(lab, cidr, own))).await
}

/// Whether the table has an active route for `cidr` to `own`.
pub(super) fn leads(lab: &Lab, cidr: Ipv4Net, own: &InterfaceId) -> Result<(), String> {
    let routes = lab.cloud.with(|vpc, _| vpc.routes(&lab.table));
    let found = routes.iter().find(|route| route.destination == cidr);
    let good = found.is_some_and(|route| {
        route.state == RouteState::Active && route.target == RouteTarget::Interface(own.clone())
    });
    holds(good, || format!("{cidr} should lead to {own}: {found:?}"))
}
