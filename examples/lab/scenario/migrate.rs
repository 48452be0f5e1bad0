//! Hosts of Weave Net in its AWS-VPC mode, as its router leaves them when it stops, come over one after the other: under pings, each
//! container with the address that it has, in one ring, without a call to EC2 that changes anything.

use std::{fs, net::Ipv4Addr, path::PathBuf, time::Duration};

use anyhow::Context;
use ipnet::Ipv4Net;
use tokio::process::Command;
use weavers::{
    ipam::Ring,
    migrate::{Database, SET_ASIDE, database::User},
    node::persist::memory::{Identity, Write},
    peer::{PeerName, PeerUid},
    sim::{
        router_data,
        vpc::{Call, Caller, Check, Destination, Targets},
    },
    store::Store,
};

use super::stage::{self, Checks, Ran, holds, same};
use crate::{lab::Lab, net, pinger::Pinger, report::Report};

/// Containers of each host: two are reconnected, and the last has two addresses, so that it is not.
const CONTAINERS: usize = 3;
/// A container has no link for so long at most.
const GAP: Duration = Duration::from_millis(500);
/// The host whose first container is found half way.
const INTERRUPTED: usize = 1;
/// The host where another peer has left a store.
const USED: usize = 2;

pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let ring = Ring::seeded(name(0), lab.range.into(), (0..lab.hosts.len()).map(name));
    for host in 0..lab.hosts.len() {
        lab.edit(host, "[ipam]", "[mesh]\nweave_peers = true\n\n[ipam]")?;
        as_weave_net_leaves_it(lab, host, &ring).await?;
    }
    lab.settle().await?;
    let mut checks = Checks::default();
    let lost: Vec<String> = lab
        .ping_all()
        .await?
        .into_iter()
        .filter(|ping| !ping.ok)
        .map(|ping| format!("{} {}", ping.from, ping.said))
        .collect();
    checks.add("before, each container reaches each other one by Weave Net", same(&Vec::new(), &lost));
    let before = lab.writes();
    let pingers = lab.ping_ring(&reconnected(lab))?;
    for host in 0..lab.hosts.len() {
        migrated(lab, &mut checks, host).await?;
    }
    checks.add("nothing was changed in EC2: the routes were right", same(&before, &lab.writes()));
    kept(&mut checks, pingers).await?;
    // One that weavers leaves alone is made anew by whoever runs it.
    lab.containers.retain(|container| !container.name.ends_with(&format!("c{CONTAINERS}")));
    for host in 0..lab.hosts.len() {
        lab.attach(host).await?;
        checks.timed(format!("h{}: nothing is left to do", host + 1), lab.settled(host).await?);
    }
    stage::report(lab, Duration::ZERO, checks).await
}

/// Those that are pinged.
fn reconnected(lab: &Lab) -> Vec<usize> {
    (0..lab.containers.len()).filter(|container| container % CONTAINERS != CONTAINERS - 1).collect()
}

fn name(host: usize) -> PeerName {
    PeerName::from_u64(0x02_00_00_00_00_10 + host as u64)
}

// ===== Weave Net =====

/// The bridge, the routes of what the host owns, the containers, and the router's data.
async fn as_weave_net_leaves_it(lab: &mut Lab, host: usize, ring: &Ring) -> anyhow::Result<()> {
    let owned: Vec<Ipv4Net> =
        ring.owned_by(name(host)).into_iter().flat_map(weavers::addr::Range::cidrs).collect();
    let first = u32::from(owned.first().context("it owns nothing")?.network());
    let (mac, mtu, length) = (name(host), lab.options.mtu, lab.range.prefix_len());
    let exposed = Ipv4Addr::from(first + 1);
    let mut script = format!(
        "ip link add weave type bridge; ip link set weave address {mac} mtu {mtu} up\n\
         cd /proc/sys/net/ipv4; echo 1 > ip_forward; echo 1 > conf/weave/proxy_arp; echo 0 > neigh/weave/proxy_delay\n\
         ip addr add {exposed}/{length} dev weave noprefixroute\n"
    );
    for cidr in &owned {
        script += &format!("ip route add {cidr} dev weave scope link src {exposed}\n");
        routed(lab, host, *cidr)?;
    }
    checked_by_nobody(lab, host)?;
    lab.on_host(host, &["sh", "-ec", &script]).await?;
    let mut users = vec![(User::EXPOSED.to_owned(), false, vec![exposed])];
    users.push(("f".repeat(64), true, vec![Ipv4Addr::from(first + 99)]));
    for number in 1..=CONTAINERS {
        let address = Ipv4Addr::from(first + 10 + number as u32);
        let more = (number == CONTAINERS).then(|| Ipv4Addr::from(first + 50));
        let all: Vec<Ipv4Addr> = [address].into_iter().chain(more).collect();
        contain(lab, host, number, &all).await?;
        users.push((format!("{host}{number}").repeat(32), true, all));
    }
    let user = |(ident, is_container, addresses): (String, bool, Vec<Ipv4Addr>)| {
        let nets = addresses.into_iter().map(|address| Ipv4Net::new_assert(address, length));
        (ident, User { is_container, addresses: nets.collect() })
    };
    let users = users.into_iter().map(user).collect();
    let ring = ring.held_by(name(host));
    let data = Database { name: name(host), ring, users };
    fs::write(database(lab, host), router_data::file(&data)).context("the router's data cannot be written")
}

fn database(lab: &Lab, host: usize) -> PathBuf {
    lab.hosts[host].dir.join("weavedata.db")
}

/// A container with a link of Weave Net's, with these addresses.
async fn contain(lab: &mut Lab, host: usize, number: usize, addresses: &[Ipv4Addr]) -> anyhow::Result<()> {
    let netns = lab.make_netns(host).await?;
    let (mtu, length) = (lab.options.mtu, lab.range.prefix_len());
    let link = format!("vethwepl{}{number}", host + 1);
    let make = format!(
        "ip link add {link} mtu {mtu} type veth peer name ethwe mtu {mtu} netns {}; ip link set {link} master weave up",
        netns.name
    );
    lab.on_host(host, &["sh", "-ec", &make]).await?;
    let mut inside = String::new();
    for address in addresses {
        inside += &format!("addr add {address}/{length} dev ethwe\n");
    }
    inside += "link set ethwe up\nroute add 224.0.0.0/4 dev ethwe\n";
    net::feed(Command::new("ip").args(["-n", &netns.name, "-batch", "-"]), &inside).await?;
    lab.adopt(host, netns).await.map(|_| ())
}

/// The router of this mode makes routes to the instance that it is on.
fn routed(lab: &Lab, host: usize, cidr: Ipv4Net) -> anyhow::Result<()> {
    let (table, destination) = (lab.table.0.clone(), Destination::from(cidr));
    let targets = Targets { instance: Some(lab.hosts[host].instance.0.clone()), ..Targets::default() };
    by_hand(lab, &Call::CreateRoute { table, destination, targets, dry_run: false })
}

/// What its documentation asks people to do by hand.
fn checked_by_nobody(lab: &Lab, host: usize) -> anyhow::Result<()> {
    let interface = lab.hosts[host].interface.0.clone();
    by_hand(lab, &Call::ModifyNetworkInterfaceAttribute { interface, check: Check::Off, dry_run: false })
}

fn by_hand(lab: &Lab, call: &Call) -> anyhow::Result<()> {
    let result = lab.cloud.with(|vpc, now| vpc.call(now, &Caller::Console, call).result);
    result.map(drop).map_err(|error| anyhow::anyhow!("{call:?}: {error}"))
}

// ===== from there to here =====

async fn migrate(lab: &Lab, host: usize, more: &[&str]) -> anyhow::Result<Ran> {
    let file = database(lab, host).display().to_string();
    lab.ran_in_place(host, &[&["migrate", "--database", file.as_str()], more].concat()).await
}

async fn migrated(lab: &mut Lab, checks: &mut Checks, host: usize) -> anyhow::Result<()> {
    let h = format!("h{}", host + 1);
    let data = fs::read(database(lab, host))?;
    refused(lab, checks, host).await?;
    let (own, first) = (name(host).to_string(), lab.containers[host * CONTAINERS].address.to_string());
    let words = [
        own.as_str(),
        first.as_str(),
        "until now by vethwepl",
        "packets pass by the VPC",
        "weavers gives it one",
        "container is gone",
        "2 containers to reconnect, 2 addresses to free",
        "Then weavers, once started",
    ];
    let plan = migrate(lab, host, &[]).await?;
    checks.add(format!("{h}: the plan says what would happen"), plan.says(0, &words));
    let writes = plan.stdout.lines().find(|line| line.contains("rtb-")).map(str::to_owned);
    checks.add(format!("{h}: no route table is in the plan"), same(&None, &writes));
    checks.add(
        format!("{h}: nothing is written by that"),
        holds(!lab.hosts[host].store().exists(), || "a store".into()),
    );

    let words = ["The store is written", "Start weavers"];
    checks.add(format!("{h}: the store is written"), migrate(lab, host, &["--yes"]).await?.says(0, &words));
    checks.add(format!("{h}: once"), migrate(lab, host, &["--yes"]).await?.says(0, &words));
    lab.start_host(host)?;
    lab.ran_when_up(host, &["status"]).await?;
    let status = lab.status(host).await?;
    checks.add(
        format!("{h}: weavers is the peer that the router was"),
        same(&serde_json::json!(own), &status["name"]),
    );
    if host == INTERRUPTED {
        half_way(lab, host).await?;
    }
    let ran = migrate(lab, host, &["--yes"]).await?;
    let gaps: Vec<&str> = ran.stderr.lines().filter(|line| line.contains("without a link")).collect();
    checks.add(
        format!("{h}: reconnected: {}", gaps.join("; ")),
        ran.says(0, &["2 containers reconnected", "ip link del weave"]),
    );
    let again = migrate(lab, host, &["--yes"]).await?;
    checks.add(
        format!("{h}: and asked again there is nothing to do"),
        again.says(0, &["0 containers reconnected"]),
    );
    for container in host * CONTAINERS..host * CONTAINERS + 2 {
        checks.add(
            format!("{h}: {} is connected as before", lab.containers[container].name),
            as_before(lab, container).await?,
        );
    }
    lab.on_host(host, &["ip", "link", "del", "weave"]).await?;
    checks
        .add(format!("{h}: Weave Net's data are as they were"), same(&data, &fs::read(database(lab, host))?));
    Ok(())
}

/// While a router runs, and where another peer was before, nothing is begun.
async fn refused(lab: &Lab, checks: &mut Checks, host: usize) -> anyhow::Result<()> {
    let h = format!("h{}", host + 1);
    let file = fs::File::open(database(lab, host))?;
    let router =
        nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).map_err(|(_, cause)| cause)?;
    let ran = migrate(lab, host, &["--yes"]).await?;
    checks.add(
        format!("{h}: while the router runs nothing is done"),
        ran.says(5, &["still runs", "weave stop"]),
    );
    drop(router);
    if host == USED {
        let other = Identity { name: PeerName::from_u64(7), acceptor: PeerUid(7), instance: None };
        Store::open(&lab.hosts[host].store())?.write(&[Write::identity(&other)])?;
        let ran = migrate(lab, host, &["--yes"]).await?;
        let words = ["is that of peer 00:00:00:00:00:07", "weavers reset"];
        checks.add(format!("{h}: the store of another peer is not overwritten"), ran.says(5, &words));
        fs::remove_file(lab.hosts[host].store())?;
    }
    Ok(())
}

/// As it was left by somebody who was ended after the old link was set aside.
async fn half_way(lab: &Lab, host: usize) -> anyhow::Result<()> {
    let lines = format!("link set ethwe down\nlink set ethwe name {SET_ASIDE}\n");
    let name = &lab.containers[host * CONTAINERS].name;
    net::feed(Command::new("ip").args(["-n", name, "-batch", "-"]), &lines).await.map(|_| ())
}

/// It has one link, with the address that it had, and that is ours.
async fn as_before(lab: &Lab, container: usize) -> anyhow::Result<Result<(), String>> {
    let links = lab.in_container(container, &["ip", "-o", "link"]).await?;
    let found = lab.address_in(&lab.containers[container].name).await?;
    let is_ours = links.lines().count() == 2 && links.contains("ethwe") && !links.contains(SET_ASIDE);
    Ok(same(&lab.containers[container].address, &found).and(holds(is_ours, || links)))
}

/// Pings went on, but for the moments in which the links of the two were made.
async fn kept(checks: &mut Checks, pingers: Vec<Pinger>) -> anyhow::Result<()> {
    for pinger in pingers {
        let seen = pinger.end().await?;
        checks
            .add(format!("{seen}"), holds(seen.sent > 0 && seen.gap <= GAP, || format!("more than {GAP:?}")));
    }
    Ok(())
}
