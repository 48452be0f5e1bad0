//! How fast packets are by each path, beside the two hosts themselves and beside an overlay of VXLAN between them, in one run.

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use tokio::process::Command;

use super::{
    mixed::{add_hosts_outside, path},
    stage::{at_work, eventually, same},
    tunnels::give_password,
};
use crate::{
    lab::Lab,
    net,
    report::{self, Report},
    stream::{self, Speed},
};

/// Each path, two hosts that have it, and the longest packet that goes by it as far as hosts know.
const PATHS: [(&str, [usize; 2], u32); 3] =
    [("vpc", [0, 1], 9001), ("direct", [2, 3], 9001), ("tunnel", [0, 2], 1500)];
/// Each is measured so often, in turns, and the best is told: what else the machine does only makes it worse.
const ROUNDS: usize = 9;
const LATER: Duration = Duration::from_secs(60);
/// By how much VXLAN makes a packet longer.
const VXLAN_OVERHEAD: u32 = 50;

const HEAD: &str = "path      TCP, 10⁹ bits a second: hosts, containers, VXLAN      there and back, µs: hosts, containers, VXLAN";

/// Measures, and prints a line for each path.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    add_hosts_outside(lab).await?;
    for host in 0..lab.hosts.len() {
        lab.edit(host, "[ipam]", "[paths]\ntunnel = \"on\"\n\n[ipam]")?;
        give_password(lab, host)?;
    }
    let ready = at_work(lab).await?;
    let mut lines = vec![HEAD.to_owned()];
    for (number, (kind, pair, longest)) in PATHS.into_iter().enumerate() {
        for [from, to] in [pair, [pair[1], pair[0]]] {
            let known = eventually(LATER, async || Ok(same(&kind.to_owned(), &path(lab, from, to).await?)));
            known.await?.map_err(anyhow::Error::msg)?;
        }
        let overlaid = overlay(lab, number, pair, longest - VXLAN_OVERHEAD).await?;
        let ends = [hosts(lab, pair)?, containers(lab, pair), overlaid];
        lines.push(format!("{kind:8}{}", line(&best(&ends).await?)));
    }
    report::print(&format!("{}\n", lines.join("\n")));
    Ok(Report { ready, ..Report::default() })
}

/// Two namespaces, and the address of the second.
struct Ends {
    from: PathBuf,
    to: PathBuf,
    address: Ipv4Addr,
}

fn hosts(lab: &Lab, [from, to]: [usize; 2]) -> anyhow::Result<Ends> {
    Ok(Ends { from: lab.hosts[from].netns()?, to: lab.hosts[to].netns()?, address: lab.hosts[to].address })
}

/// Containers are numbered as their hosts.
fn containers(lab: &Lab, [from, to]: [usize; 2]) -> Ends {
    let netns = |container: usize| lab.containers[container].netns.clone();
    Ends { from: netns(from), to: netns(to), address: lab.containers[to].address }
}

/// On each of two hosts a bridge with a namespace, and VXLAN between the two, as Docker makes its overlays.
async fn overlay(lab: &Lab, number: usize, pair: [usize; 2], mtu: u32) -> anyhow::Result<Ends> {
    let address = |end: usize| Ipv4Addr::new(10, 250, number as u8, 1 + end as u8);
    let mut ends = Vec::new();
    for (end, (host, other)) in [(pair[0], pair[1]), (pair[1], pair[0])].into_iter().enumerate() {
        let netns = lab.make_netns(host).await?;
        let (local, remote) = (lab.hosts[host].address, lab.hosts[other].address);
        let (vxlan, bridge, port, inner) = (
            format!("vxlan{number}"),
            format!("overlay{number}"),
            format!("port{number}"),
            format!("in{number}"),
        );
        let lines = [
            format!("link add {bridge} mtu {mtu} type bridge"),
            format!(
                "link add {vxlan} type vxlan id {} local {local} remote {remote} dstport 4789 dev eth0",
                100 + number
            ),
            format!("link set {vxlan} mtu {mtu} master {bridge} up"),
            format!("link add {port} mtu {mtu} type veth peer name {inner} mtu {mtu}"),
            format!("link set {port} master {bridge} up"),
            format!("link set {bridge} up"),
            format!("link set {inner} netns {}", netns.name),
        ];
        net::feed(lab.hosts[host].enter()?.args(["ip", "-batch", "-"]), &(lines.join("\n") + "\n")).await?;
        let lines = format!("addr add {}/24 dev {inner}\nlink set {inner} up\n", address(end));
        net::feed(Command::new("ip").args(["-n", &netns.name, "-batch", "-"]), &lines).await?;
        ends.push(netns.path);
    }
    let (to, from) = (ends.pop().unwrap_or_default(), ends.pop().unwrap_or_default());
    Ok(Ends { from, to, address: address(1) })
}

async fn best(all: &[Ends; 3]) -> anyhow::Result<[Speed; 3]> {
    let mut best = [Speed { gbit: 0.0, round_us: f64::INFINITY }; 3];
    for _ in 0..ROUNDS {
        for (Ends { from, to, address }, best) in all.iter().zip(&mut best) {
            let seen = stream::measure(from, to, *address).await?;
            best.gbit = best.gbit.max(seen.gbit);
            best.round_us = best.round_us.min(seen.round_us);
        }
    }
    Ok(best)
}

/// What was measured, and how much of what hosts have that is.
fn line([hosts, containers, vxlan]: &[Speed; 3]) -> String {
    format!(
        "{:21.1} {:6.1} ({:.2}) {:6.1} ({:.2}) {:26.0} {:6.0} ({:.2}) {:6.0} ({:.2})",
        hosts.gbit,
        containers.gbit,
        containers.gbit / hosts.gbit,
        vxlan.gbit,
        vxlan.gbit / hosts.gbit,
        hosts.round_us,
        containers.round_us,
        containers.round_us / hosts.round_us,
        vxlan.round_us,
        vxlan.round_us / hosts.round_us,
    )
}
