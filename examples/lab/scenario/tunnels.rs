//! The second half of `mixed`: hosts that have no network in common reach each other by tunnels, one of them from behind a router that
//! translates addresses.

use std::{net::IpAddr, os::unix::fs::PermissionsExt, time::Duration};

use super::{
    basic,
    mixed::{lead_to, path},
    password,
    stage::{Checks, eventually, holds, same},
    v6,
};
use crate::{
    lab::Lab,
    net,
    pinger::{Pinger, end_without_loss},
    report::Ping,
    site::{HOME, OFFICE},
};

/// Two hosts on EC2, in two subnets; two in the office, on one link; one at home.
const ON_EC2: [usize; 2] = [0, 1];
const OFFICE_HOSTS: [usize; 2] = [2, 3];
const AT_HOME: usize = 4;
const SOON: Duration = Duration::from_secs(15);
const LATER: Duration = Duration::from_secs(60);
/// What gets through a tunnel that may leave the VPC, and what does not.
const CARRIED: u32 = 1440;
const CAUTION: Duration = Duration::from_secs(1);
/// A port of a host at which something listens.
const SERVICE: u16 = 7777;

pub async fn play(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<Vec<Ping>> {
    let addresses: Vec<_> = lab.containers.iter().map(|container| container.address).collect();
    turned_on(lab, checks).await?;
    let pings = reached(lab, checks).await?;
    repaired(lab, checks).await?;
    restarted(lab, checks).await?;
    moved(lab, checks).await?;
    rotated(lab, checks).await?;
    let found: Vec<_> = lab.containers.iter().map(|container| container.address).take(4).collect();
    checks.add("no container's address has changed", same(&addresses, &found));
    Ok(pings)
}

/// The kind of path that two hosts are to have.
fn kind(one: usize, other: usize) -> &'static str {
    match () {
        () if ON_EC2.contains(&one) && ON_EC2.contains(&other) => "vpc",
        () if OFFICE_HOSTS.contains(&one) && OFFICE_HOSTS.contains(&other) => "direct",
        () => "tunnel",
    }
}

fn pairs() -> impl Iterator<Item = (usize, usize)> {
    let all = ON_EC2.into_iter().chain(OFFICE_HOSTS).chain([AT_HOME]);
    all.clone()
        .flat_map(move |one| all.clone().filter(move |other| *other != one).map(move |other| (one, other)))
}

/// Says in a host's file which password the mesh has. A host outside EC2 says other things of the mesh there, too.
pub(super) fn give_password(lab: &Lab, host: usize) -> anyhow::Result<()> {
    password::set(lab, host, "correct horse battery staple")?;
    let line = password::setting(lab, host);
    match ON_EC2.contains(&host) {
        true => lab.edit(host, "[paths]", &format!("[mesh]\n{line}\n[paths]")),
        false => lab.edit(host, "[mesh]\n", &format!("[mesh]\n{line}")),
    }
}

/// A password and tunnels, on all hosts; and one more host.
async fn turned_on(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    HOME.build().await?;
    lead_to(lab, HOME)?;
    let home = lab.add_host_outside(HOME).await?;
    assert_eq!(home, AT_HOME, "the fifth");
    let text = std::fs::read_to_string(lab.hosts[OFFICE_HOSTS[0]].config())?;
    std::fs::write(lab.hosts[home].config(), text.replace("02:00:00:00:0f:02", "02:00:00:00:0f:04"))?;
    let without = lab.ran_in_place(home, &["validate"]).await?;
    checks.add("without tunnels the file is valid", without.says(0, &[]));
    for host in 0..lab.hosts.len() {
        lab.edit(host, "[ipam]", "[paths]\ntunnel = \"on\"\n\n[ipam]")?;
        if host == home {
            let refused = lab.ran_in_place(home, &["validate"]).await?;
            let says = refused.says(78, &["paths.tunnel", "without a password", "mesh.password_file"]);
            checks.add("a tunnel without a password of the mesh is refused, with the way out", says);
        }
        give_password(lab, host)?;
    }
    // What was reached goes on being reached.
    let pingers = [lab.ping_ring(&ON_EC2)?, lab.ping_ring(&OFFICE_HOSTS)?].into_iter().flatten().collect();
    for host in 0..home {
        lab.stop_host(host).await?;
    }
    for host in 0..=home {
        lab.start_host(host)?;
    }
    for host in 0..=home {
        lab.await_ready(host).await?;
    }
    lab.attach(home).await?;
    let (sent, lost) = end_without_loss(pingers).await?;
    checks.add(
        format!("tunnels are turned on everywhere, and none of {sent} pings by other paths was lost"),
        lost,
    );
    let mode = std::fs::metadata(lab.hosts[home].dir.join("state/tunnel.key"))?.permissions().mode();
    checks.add("the private key is its owner's alone", same(&0o600, &(mode & 0o777)));
    Ok(())
}

/// Every pair is reached, by the path that it is to have, with packets as large as that carries, and whoever sends larger ones is told.
async fn reached(lab: &Lab, checks: &mut Checks) -> anyhow::Result<Vec<Ping>> {
    for (from, to) in pairs() {
        let wanted = kind(from, to).to_owned();
        // By which name people call a host that has just come is told a while later.
        let known = eventually(LATER, async || Ok(same(&wanted, &path(lab, from, to).await?)));
        checks.timed(format!("the path from h{} to h{} is {wanted}", from + 1, to + 1), known.await?);
    }
    let mut pings = Vec::new();
    for (from, to) in pairs() {
        let bytes = if kind(from, to) == "tunnel" { CARRIED } else { lab.options.mtu };
        let passed = eventually(SOON, async || {
            let ping = lab.ping_with(from, to, bytes).await?;
            Ok(holds(ping.ok, || format!("{} does not reach {}", ping.from, ping.to)))
        });
        checks.timed(format!("h{} reaches h{} with {bytes} bytes", from + 1, to + 1), passed.await?);
        pings.push(lab.ping_with(from, to, bytes).await?);
        let by_v6 = eventually(SOON, async || v6::knocks(lab, from, v6::address(lab, to), bytes).await);
        checks.timed("and by IPv6", by_v6.await?);
    }
    for (from, to) in [(ON_EC2[0], AT_HOME), (AT_HOME, ON_EC2[0]), (OFFICE_HOSTS[0], ON_EC2[1])] {
        let ends = [
            (lab.containers[to].address.to_string(), CARRIED + 1 - 28),
            (v6::address(lab, to).to_string(), CARRIED + 1 - 48),
        ];
        for (to, size) in ends {
            let script = format!("ping -n -M do -c 2 -i 0.2 -W 1 -s {size} {to} 2>&1 || true");
            let said = lab.in_container(from, &["sh", "-c", &script]).await?;
            let is_told = [" = ", "=", ": "].iter().any(|is| said.contains(&format!("mtu{is}{CARRIED}")));
            checks.add(
                format!("a container on h{} that sends {to} one byte more is told", from + 1),
                holds(is_told, || said),
            );
        }
    }
    for host in 0..lab.hosts.len() {
        checks.timed(format!("h{} is converged", host + 1), lab.settled(host).await?);
        let plan = lab.ran(host, &["plan", "--detailed-exitcode"]).await?;
        checks.add(format!("h{} has nothing to change", host + 1), plan.says(0, &[]));
        let flows = eventually(LATER, async || {
            let said = lab.ran(host, &["status"]).await?;
            Ok(said.says(0, &["packets flow to and from 4 of 4 hosts"]))
        });
        checks.timed(format!("probes of h{} flow to all", host + 1), flows.await?);
    }
    hosts_reach(lab, &[(ON_EC2[0], AT_HOME), (AT_HOME, ON_EC2[0]), (OFFICE_HOSTS[0], ON_EC2[1])], checks)
        .await?;
    shown(lab, checks).await?;
    Ok(pings)
}

/// What a host itself sends to containers of a host elsewhere gets there and is answered; what they send it first is not let in.
pub(super) async fn hosts_reach(
    lab: &Lab,
    pairs: &[(usize, usize)],
    checks: &mut Checks,
) -> anyhow::Result<()> {
    for &(from, to) in pairs {
        let of_host = lab.hosts[from].netns()?;
        let container = &lab.containers[to];
        let echo = net::tcp_echo(&of_host, &container.netns, container.address).await;
        let what = format!("h{} itself reaches {} by TCP", from + 1, container.name);
        checks.add(what, echo.map_err(|error| format!("{error:#}")));
        for (family, address) in
            [("IPv4", IpAddr::from(container.address)), ("IPv6", IpAddr::from(v6::address(lab, to)))]
        {
            let answered =
                lab.on_host(from, &["ping", "-n", "-c", "1", "-W", "1", &address.to_string()]).await;
            let answered = answered.map(drop).map_err(|error| format!("{error:#}"));
            checks.add(format!("and is answered by {family}"), answered);
        }
        let source = net::tcp_source(&of_host, &container.netns, container.address).await?;
        let owned = basic::owned(lab, from).await?;
        let is_of_host = owned.iter().any(|cidr| cidr.contains(&source));
        checks.add(
            format!("{source}, under which it does, is one of h{}", from + 1),
            holds(is_of_host, || format!("{owned:?}")),
        );
        let called = net::tcp_echo_by(&container.netns, &of_host, SERVICE, (source, SERVICE)).await;
        checks.add("under which no service of it is reached", holds(called.is_err(), || "one is".to_owned()));
    }
    Ok(())
}

/// status, explain and doctor tell of tunnels.
async fn shown(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let [one, _] = ON_EC2;
    let status = lab.ran(one, &["status"]).await?;
    checks.add("status tells of tunnels", status.says(0, &["tunnel", "to 192.168.7.13", "to 10.0.1.1"]));
    let address = lab.containers[AT_HOME].address.to_string();
    let explained = lab.ran(one, &["explain", &address]).await?;
    checks.add("explain does", explained.says(0, &["path", "tunnel", "weave-tunnel"]));
    let doctor = lab.ran_in_place(one, &["doctor"]).await?;
    let counted = "1 hosts by the VPC, 0 on a link of this host, 3 by a tunnel";
    checks.add("doctor does", doctor.says(doctor.code, &[counted]));
    Ok(())
}

/// What `wg` says of a host's tunnel, but for what changes by itself.
async fn device(lab: &Lab, host: usize) -> anyhow::Result<String> {
    let dump = lab.on_host(host, &["sh", "-c", "wg show weave-tunnel dump 2>&1 || true"]).await?;
    let lines = dump.lines().map(|line| {
        let words: Vec<&str> = line.split('\t').collect();
        match words[..] {
            [key, _, endpoint, allowed, _, _, _, keepalive] => [key, endpoint, allowed, keepalive].join(" "),
            _ => words.get(1..).unwrap_or_default().join(" "),
        }
    });
    let mut lines: Vec<String> = lines.collect();
    lines.sort();
    Ok(lines.join("\n"))
}

/// What somebody does to the tunnel is undone, and what is not ours stays as it is.
async fn repaired(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let host = ON_EC2[0];
    let before = device(lab, host).await?;
    let key =
        before.lines().find(|line| line.contains("192.168.7.13")).and_then(|line| line.split(' ').next());
    let Some(key) = key.map(str::to_owned) else {
        checks.add("the host has an end in the office", Err(before));
        return Ok(());
    };
    for (what, script) in [
        ("an end that somebody removes is back", format!("wg set weave-tunnel peer {key} remove")),
        (
            "addresses that somebody gives it are taken again",
            format!("wg set weave-tunnel peer {key} allowed-ips 10.47.255.0/24,0.0.0.0/0"),
        ),
        (
            "an end of somebody else's in it goes",
            "wg set weave-tunnel peer $(wg genkey | wg pubkey) allowed-ips 10.47.254.0/24".to_owned(),
        ),
        ("the port is as it was", "wg set weave-tunnel listen-port 7777".to_owned()),
        ("a device that somebody deletes is back", "ip link del weave-tunnel".to_owned()),
        ("one that is down is up", "ip link set weave-tunnel down".to_owned()),
    ] {
        lab.on_host(host, &["sh", "-ec", &script]).await?;
        let back = eventually(SOON, async || {
            let found = device(lab, host).await?;
            let settled = lab.ran(host, &["status", "--check"]).await?;
            Ok(same(&before, &found).and(holds(settled.code == 0, || settled.stdout)))
        });
        checks.timed(what, back.await?);
        // A host behind a router is there where it was heard last, at a port that the router chose.
        for other in [OFFICE_HOSTS[0], AT_HOME] {
            let passed = eventually(SOON, async || {
                let ping = lab.ping_with(host, other, CARRIED).await?;
                Ok(holds(ping.ok, || format!("{} does not reach {}", ping.from, ping.to)))
            });
            checks.timed(format!("and packets to h{} pass", other + 1), passed.await?);
        }
    }
    Ok(())
}

/// A daemon that stops or dies leaves tunnels as they are, and one that starts changes none.
async fn restarted(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let pingers = lab.ping_ring(&[ON_EC2[0], OFFICE_HOSTS[0], AT_HOME])?;
    tokio::time::sleep(CAUTION).await;
    for host in [ON_EC2[0], OFFICE_HOSTS[0], AT_HOME] {
        lab.kill_host(host).await?;
        tokio::time::sleep(CAUTION).await;
        lab.start_host(host)?;
        lab.await_ready(host).await?;
    }
    for host in [ON_EC2[0], OFFICE_HOSTS[0], AT_HOME] {
        checks.timed(format!("h{} is converged after its restart", host + 1), lab.settled(host).await?);
    }
    let (sent, lost) = end_without_loss(pingers).await?;
    checks.add(format!("none of {sent} pings through tunnels was lost meanwhile"), lost);
    Ok(())
}

/// A host that is given another address is followed.
async fn moved(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let host = OFFICE_HOSTS[1];
    let pingers = [lab.ping_on(ON_EC2[0], host)?, lab.ping_on(host, AT_HOME)?];
    tokio::time::sleep(CAUTION).await;
    let new = OFFICE.address_of(44);
    let script = format!(
        "ip -4 addr flush dev eth0 && ip addr add {new}/24 dev eth0 && ip route replace default via {} dev eth0",
        OFFICE.router()
    );
    lab.on_host(host, &["sh", "-ec", &script]).await?;
    lab.hosts[host].address = new;
    let follows = eventually(LATER, async || {
        let found = device(lab, ON_EC2[0]).await?;
        Ok(holds(found.contains(&format!("{new}:6784")), || found))
    });
    checks.timed("a host has another address, and its tunnels lead there", follows.await?);
    for (from, to) in [(ON_EC2[0], host), (AT_HOME, host)] {
        let passed = eventually(LATER, async || {
            let ping = lab.ping_with(from, to, CARRIED).await?;
            Ok(holds(ping.ok, || format!("{} does not reach {}", ping.from, ping.to)))
        });
        checks.timed(format!("packets from h{} pass", from + 1), passed.await?);
    }
    tokio::time::sleep(CAUTION).await;
    for pinger in pingers {
        gap(pinger, "while its address changed", LATER, checks).await?;
    }
    for other in [ON_EC2[0], AT_HOME] {
        checks.timed(format!("h{} is converged", other + 1), lab.settled(other).await?);
    }
    Ok(())
}

/// A host gets another key: the others are told, and the old one is gone.
async fn rotated(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    for (host, other) in [(ON_EC2[0], OFFICE_HOSTS[0]), (AT_HOME, ON_EC2[1])] {
        let old = key_of(lab, host).await?;
        let file = lab.hosts[host].dir.join("state/tunnel.key");
        let secret = std::fs::read_to_string(&file)?;
        let pingers = [lab.ping_on(host, other)?, lab.ping_on(other, host)?];
        tokio::time::sleep(CAUTION).await;
        let ran = lab.ran(host, &["rotate-key"]).await?;
        checks.add(format!("h{} is given another key", host + 1), ran.says(0, &["new key"]));
        let told = eventually(SOON, async || {
            let (new, ends) = (key_of(lab, host).await?, device(lab, other).await?);
            let is_new = new != old && ends.contains(&new) && !ends.contains(&old);
            Ok(holds(is_new, || format!("{new} after {old}, and {ends}")))
        });
        checks.timed(format!("h{} knows it by that, and by the old one no more", other + 1), told.await?);
        let is_gone = std::fs::read_to_string(&file)? != secret;
        checks.add("the old private key is gone", holds(is_gone, || file.display().to_string()));
        let passed = eventually(LATER, async || {
            let ping = lab.ping_with(host, other, CARRIED).await?;
            Ok(holds(ping.ok, || format!("{} does not reach {}", ping.from, ping.to)))
        });
        checks.timed("packets pass", passed.await?);
        tokio::time::sleep(CAUTION).await;
        for pinger in pingers {
            gap(pinger, "while the key was rotated", SOON, checks).await?;
        }
        checks.timed(format!("h{} is converged", host + 1), lab.settled(host).await?);
    }
    let refused = lab.ran(ON_EC2[0], &["rotate-key", "--json"]).await?;
    checks.add("whoever asks again is served again", refused.says(0, &["done"]));
    Ok(())
}

/// What others know a host's end by.
async fn key_of(lab: &Lab, host: usize) -> anyhow::Result<String> {
    Ok(lab.on_host(host, &["wg", "show", "weave-tunnel", "public-key"]).await?.trim().to_owned())
}

/// The longest time without an answer, said and bounded.
async fn gap(pinger: Pinger, when: &str, most: Duration, checks: &mut Checks) -> anyhow::Result<()> {
    let seen = pinger.end().await?;
    let is_short = seen.sent > 0 && seen.gap < most;
    checks.add(format!("{when}: {seen}"), holds(is_short, || format!("longer than {most:?}")));
    Ok(())
}
