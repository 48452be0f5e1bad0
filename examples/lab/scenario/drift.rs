//! What happens to a host beside us: its uplink goes, comes back and is renamed, containers have other interfaces,
//! others' routes stand in the way, and packets come that are nobody's.

use std::time::Duration;

use tokio::time::sleep;
use weavers::{
    addr::Address,
    sim::vpc::{Call, Caller, Destination, Targets},
    state::link_name,
};

use super::{
    basic,
    stage::{Checks, at_work, eventually, holds, passes, report, same, shell},
};
use crate::{host::ROUTER, lab::Lab, report::Report};

/// The kernel tells of all of this.
const HEARD_WITHIN: Duration = Duration::from_secs(2);
/// An uplink is away for so long.
const AWAY: Duration = Duration::from_secs(1);

/// One after the other, on the first host.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let ready = at_work(lab).await?;
    let mut checks = Checks::default();
    let writes = lab.writes();
    uplink(lab, &mut checks).await?;
    second_interface(lab, &mut checks).await?;
    route_in_the_way(lab, &mut checks).await?;
    checks.add("nothing of this was written to EC2", same(&writes, &lab.writes()));
    nobody_s(lab, &mut checks).await?;
    report(lab, ready, checks).await
}

/// It goes down and comes back; it is renamed, and back.
async fn uplink(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    shell(lab, "ip link set eth0 down").await?;
    sleep(AWAY).await;
    let up = |name: &str| format!("ip link set {name} up; ip route add default via {ROUTER}");
    shell(lab, &up("eth0")).await?;
    checks.timed("an uplink that was down is an uplink again", serves(lab, "eth0").await?);
    for (from, to) in [("eth0", "ens5"), ("ens5", "eth0")] {
        shell(lab, &format!("ip link set {from} down; ip link set {from} name {to}; {}", up(to))).await?;
        checks.timed(format!("an uplink renamed {to} is taken over into the rules"), serves(lab, to).await?);
    }
    Ok(())
}

/// Rules name the uplink, the host is converged, and packets pass both ways.
async fn serves(lab: &Lab, uplink: &str) -> anyhow::Result<Result<Duration, String>> {
    let named = eventually(HEARD_WITHIN, async || {
        let set = lab.on_host(0, &["nft", "list", "set", "inet", "weave", "uplinks"]).await?;
        Ok(holds(set.contains(&format!("{{ \"{uplink}\" }}")), || set))
    });
    let named = named.await?;
    let settled = lab.settled(0).await?.map(|_| ());
    let both = passes(lab, 0, 1).await?.and(passes(lab, 1, 0).await?);
    Ok(named.and_then(|took| settled.and(both).map(|()| took)))
}

/// As Docker does it: a bridge, another interface, the default route by that, and strict reverse paths.
async fn second_interface(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let name = lab.containers[0].name.clone();
    let script = format!(
        "ip link add br0 type bridge; ip addr add 172.17.0.1/16 dev br0; ip link set br0 up; \
         ip link add other type veth peer name eth0 netns {name}; ip link set other master br0 up; \
         ip -n {name} addr add 172.17.0.2/16 dev eth0; ip -n {name} link set eth0 up; \
         ip -n {name} route replace default via 172.17.0.1; \
         for on in all eth0; do ip netns exec {name} sh -c \"echo 1 >/proc/sys/net/ipv4/conf/$on/rp_filter\"; done"
    );
    shell(lab, &script).await?;
    let what = "a container whose way out is another interface";
    checks.add(format!("{what} reaches the others"), passes(lab, 0, 1).await?);
    checks.add(format!("{what} is reached by them"), passes(lab, 1, 0).await?);
    let address = lab.containers[0].address.to_string();
    let ping = lab.on_host(1, &["ping", "-n", "-c", "3", "-i", "0.1", "-W", "1", &address]).await;
    checks.add(
        format!("{what} is reached by another host"),
        ping.map(drop).map_err(|error| format!("{error:#}")),
    );
    checks.add(format!("{what} keeps it"), lab.settled(0).await?.map(|_| ()));
    let default = lab.in_container(0, &["ip", "route", "show", "default"]).await?;
    checks.add(format!("{what}: that is left alone"), holds(default.contains("172.17.0.1"), || default));
    let undo = format!("ip link del other; ip link del br0; ip -n {name} route show default");
    shell(lab, &undo).await?;
    Ok(())
}

/// It is named and not fought, and when it goes all is as before.
async fn route_in_the_way(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let (address, link) = (lab.containers[0].address, link_name(Address::from(lab.containers[0].address)));
    // Beside a container's route, and then in its place.
    let beside = std::net::Ipv4Addr::from(u32::from(address) + 64);
    let route = format!("{beside}/32 via {ROUTER}");
    shell(lab, &format!("ip route add {route}")).await?;
    let words = [beside.to_string(), "is not ours and is left alone".to_owned()];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let named = eventually(HEARD_WITHIN, async || Ok(lab.ran(0, &["status"]).await?.says(0, &words)));
    checks.timed("another program's route inside the range is named", named.await?);
    let claim = lab.ran(0, &["ipam", "claim", "x", &beside.to_string()]).await?;
    checks.add("no address beneath it is handed out", holds(claim.code == 1, || claim.stdout));
    shell(lab, &format!("ip route del {route}")).await?;

    shell(lab, &format!("ip route del {address}/32; ip route add {address}/32 via {ROUTER}")).await?;
    let words = [format!("{address}/32 has a route that is not ours"), format!("ip route show {address}")];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let named = eventually(HEARD_WITHIN * 2, async || Ok(lab.ran(0, &["status"]).await?.says(0, &words)));
    checks.timed("one in the place of a container's is named, with the way out", named.await?);
    sleep(AWAY).await;
    let routes = shell(lab, &format!("ip route show {address}")).await?;
    checks.add("and is not fought over", holds(routes.contains("via"), || routes));
    shell(lab, &format!("ip route del {address}/32 via {ROUTER}")).await?;
    let back = eventually(HEARD_WITHIN * 2, async || {
        let routes = shell(lab, &format!("ip route show {address}")).await?;
        Ok(holds(routes.contains(&link), || routes))
    });
    checks.timed("when it goes, the container's is back", back.await?);
    checks.add("and the host is converged", lab.settled(0).await?.map(|_| ()));
    Ok(())
}

/// The VPC sends a host what is another's: dropped at once, not sent back and forth until it dies of age.
async fn nobody_s(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let theirs = basic::owned(lab, 2).await?[0];
    let free = std::net::Ipv4Addr::from(u32::from(theirs.network()) + 0x1234);
    let (table, destination) = (lab.table.0.clone(), Destination::from(format!("{free}/32").as_str()));
    let targets = Targets::interface(lab.hosts[0].interface.0.clone());
    let (of, route) = (table.clone(), destination.clone());
    let before = guarded(lab).await?;
    as_colleague(lab, &Call::CreateRoute { table, destination, targets, dry_run: false })?;
    lab.settle().await?;
    let from = lab.containers[1].name.clone();
    let script = format!("ip netns exec {from} ping -n -c 5 -i 0.1 -W 1 {free} || true");
    let said = shell(lab, &script).await?;
    let dropped = guarded(lab).await? - before;
    checks.add("a packet for another's address is dropped where it came, once", same(&5, &dropped));
    checks.add("and does not go round", holds(!said.contains("Time to live"), || said));
    as_colleague(lab, &Call::DeleteRoute { table: of, destination: route, dry_run: false })
}

fn as_colleague(lab: &Lab, call: &Call) -> anyhow::Result<()> {
    let result = lab.cloud.with(|vpc, now| vpc.call(now, &Caller::Console, call).result);
    result.map(drop).map_err(|error| anyhow::anyhow!("{call:?}: {error}"))
}

/// Packets that the loop guard of the first host has dropped.
async fn guarded(lab: &Lab) -> anyhow::Result<u64> {
    let rules = shell(lab, "nft list chain inet weave forward | grep 'loop guard'").await?;
    let count = rules.split_once("packets ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    Ok(count.unwrap_or_default())
}
