//! What was written stands, and packets die all the same: a route, a rule or a setting of somebody else decides what
//! the kernel does with them. Each is named, or mended where it is ours.

use std::{fs, time::Duration};

use tokio::time::sleep;
use weavers::{addr::Address, state::link_name};

use super::stage::{Checks, NOT_CONVERGED, at_work, eventually, holds, passes, report, shell, unchanged};
use crate::{host::ROUTER, lab::Lab, report::Report};

/// The kernel tells of all of this.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// A daemon that starts without its network says what it lacks by then.
const STARTED_WITHIN: Duration = Duration::from_secs(10);
/// So long a daemon is watched, which has then nothing to do, and so often it may wake up.
const WATCHED: Duration = Duration::from_secs(2);
const WAKES_MAX: u64 = 600;

/// One after the other, on the first host.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let ready = at_work(lab).await?;
    let mut checks = Checks::default();
    forwarding(lab, &mut checks).await?;
    for (what, breaks, mends, words) in faults() {
        named(lab, &mut checks, what, (&breaks, &mends), &words).await?;
    }
    past_it(lab, &mut checks).await?;
    wrong_uplink(lab, &mut checks).await?;
    answers(lab, &mut checks).await?;
    default_routes(lab, &mut checks).await?;
    no_default_route(lab, &mut checks).await?;
    report(lab, ready, checks).await
}

/// Of one interface, and of all.
async fn forwarding(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    for setting in ["conf/eth0/forwarding", "ip_forward"] {
        let path = format!("/proc/sys/net/ipv4/{setting}");
        shell(lab, &format!("echo 0 > {path}")).await?;
        let back = eventually(HEARD_WITHIN, async || {
            let value = shell(lab, &format!("cat {path} /proc/sys/net/ipv4/conf/eth0/forwarding")).await?;
            Ok(holds(value == "1\n1\n", || value))
        });
        checks.timed(format!("{setting} turned off is on again"), back.await?);
        settled(lab, checks, setting).await?;
    }
    Ok(())
}

type Fault = (&'static str, String, String, Vec<&'static str>);

/// What it is, what breaks and what mends it, and what is said of it.
fn faults() -> Vec<Fault> {
    let vpn = "ip link add vpn0 type veth peer name vpn1; ip link set vpn0 arp off up; ip link set vpn1 up";
    let fault = |what, breaks: &str, mends: &str, words: &[&'static str]| {
        (what, breaks.to_owned(), mends.to_owned(), words.to_vec())
    };
    vec![
        fault(
            "an unreachable route that covers the range",
            "ip route add unreachable 10.0.0.0/8",
            "ip route del unreachable 10.0.0.0/8",
            &["for other hosts (10.", "(unreachable 10.0.0.0/8)", "ip route add 10.32.0.0/12 via GATEWAY"],
        ),
        fault(
            "a route by a VPN that covers the range",
            &format!("{vpn}; ip route add 10.0.0.0/8 dev vpn0"),
            "ip link del vpn0",
            &["leave by vpn0 (10.0.0.0/8 dev vpn0)", "does not lead into the VPC"],
        ),
        fault(
            "a policy rule that lets nothing of containers through",
            "ip rule add from 10.32.0.0/12 prohibit pref 50",
            "ip rule del pref 50",
            &["a route or rule says prohibit", "`ip rule`"],
        ),
    ]
}

/// It is named at once, wherever somebody asks, and forgotten when it goes.
async fn named(
    lab: &Lab,
    checks: &mut Checks,
    what: &str,
    (breaks, mends): (&str, &str),
    words: &[&str],
) -> anyhow::Result<()> {
    shell(lab, breaks).await?;
    let named = eventually(HEARD_WITHIN, async || {
        Ok(lab.ran(0, &["status", "--check"]).await?.says(NOT_CONVERGED, words))
    });
    checks.timed(format!("{what} is named"), named.await?);
    let status = lab.status(0).await?;
    checks.add(
        format!("{what} makes a host not ready"),
        holds(status["ready"] == false, || status.to_string()),
    );
    let other = lab.containers[1].address.to_string();
    let explained = lab.ran(0, &["explain", &other]).await?;
    checks.add(
        format!("{what} is missing from no explanation"),
        explained.says(0, &["missing: packets", words[0]]),
    );
    shell(lab, mends).await?;
    settled(lab, checks, what).await
}

/// What `status` says to type where a route covers the range.
async fn past_it(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let (covers, past) = ("unreachable 10.0.0.0/8", format!("10.32.0.0/12 via {ROUTER}"));
    shell(lab, &format!("ip route add {covers}; ip route add {past}")).await?;
    settled(lab, checks, "the range led past a route that covers it").await?;
    let status = lab.ran(0, &["status"]).await?;
    let free = !status.stdout.contains("is not ours");
    checks.add("a route for the range is in the way of no address", holds(free, || status.stdout));
    shell(lab, &format!("ip route del {covers}; ip route del {past}")).await.map(drop)
}

async fn settled(lab: &Lab, checks: &mut Checks, what: &str) -> anyhow::Result<()> {
    let settled = lab.settled(0).await?.map(|_| ());
    let both = passes(lab, 0, 1).await?.and(passes(lab, 1, 0).await?);
    checks.add(format!("without it all is well again: {what}"), settled.and(both));
    Ok(())
}

/// The file of another kind of host.
async fn wrong_uplink(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let (auto, named) = ("[network]\n", "[network]\nuplinks = [\"ens5\"]\n");
    lab.edit(0, auto, named)?;
    lab.weavers(0, &["reload"]).await?;
    let words =
        ["leave by eth0", "which [network] uplinks does not name (ens5)", "name eth0 in [network] uplinks"];
    let said = eventually(HEARD_WITHIN, async || {
        Ok(lab.ran(0, &["status", "--check"]).await?.says(NOT_CONVERGED, &words))
    });
    checks.timed("an uplink that this host does not have is named", said.await?);
    lab.edit(0, named, auto)?;
    lab.weavers(0, &["reload"]).await?;
    settled(lab, checks, "uplinks that are another host's").await
}

/// A second interface, with a policy rule for what it sends, as cloud images set them up.
async fn answers(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let second = "ip link add eth9 type veth peer name far9; ip link set eth9 up; ip link set far9 up; \
                  ip addr add 10.0.9.11/24 dev eth9; ip route add default via 10.0.9.1 table 10009; \
                  ip rule add from 10.0.9.11 lookup 10009 pref 10009";
    shell(lab, second).await?;
    let rule = "ip rule add to 10.32.0.0/12 lookup main suppress_prefixlength 0 priority 100";
    let words = ["answers of this host's own address 10.0.9.11 to containers leave by eth9", rule];
    let said = eventually(HEARD_WITHIN, async || Ok(lab.ran(0, &["status"]).await?.says(0, &words)));
    checks.timed("a policy rule that keeps answers from containers is named", said.await?);
    let doctor = lab.ran(0, &["doctor"]).await?;
    checks.add("doctor says which rule to add", holds(doctor.stdout.contains(rule), || doctor.stdout));
    checks.add("the containers reach each other all the same", lab.settled(0).await?.map(|_| ()));
    let address = "10.0.9.11";
    let ping = ["ping", "-n", "-c", "1", "-W", "1", address];
    let before = lab.in_container(0, &ping).await;
    checks.add("without it nobody answers there", holds(before.is_err(), || format!("{before:?}")));
    shell(lab, rule).await?;
    let after = lab.in_container(0, &ping).await;
    checks.add("with it the host does", after.map(drop).map_err(|error| format!("{error:#}")));
    shell(lab, "ip rule del pref 100; ip rule del pref 10009; ip link del eth9").await.map(drop)
}

/// Wherever it is, and however it is written. A daemon that starts then has nothing else to go by.
async fn default_routes(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let back = format!("ip route replace default via {ROUTER} dev eth0");
    let own_table = format!(
        "ip route add default via {ROUTER} dev eth0 table 10001; ip rule add lookup 10001 pref 32900; \
         ip route del default"
    );
    let nexthop = format!("ip nexthop add id 1 via {ROUTER} dev eth0; ip route replace default nhid 1");
    for (what, script, undo) in [
        ("a default route in a table of its own", own_table, format!("{back}; ip rule del pref 32900")),
        ("a default route by a nexthop object", nexthop, format!("ip route del default; {back}")),
    ] {
        shell(lab, &script).await?;
        lab.stop_host(0).await?;
        shell(lab, "nft delete table inet weave").await?;
        lab.start_host(0)?;
        lab.await_ready(0).await?;
        settled(lab, checks, what).await?;
        let set = shell(lab, "nft list set inet weave uplinks").await?;
        checks.add(format!("{what} leads to an uplink"), holds(set.contains("{ \"eth0\" }"), || set));
        shell(lab, &undo).await?;
        lab.settled(0).await?.map_err(anyhow::Error::msg)?;
    }
    Ok(())
}

/// It is lost, and the daemon starts before it is back.
async fn no_default_route(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    // The canary's link ends with its daemon.
    let link = link_name(Address::from(lab.containers[0].address));
    let ours = format!("nft -s list table inet weave; ip -o link show {link} | sed 's/state [A-Z]*//'");
    let before: Vec<String> = shell(lab, &ours).await?.lines().map(str::to_owned).collect();
    shell(lab, "ip route del default").await?;
    let words = ["there is no default route", "ip route add default via GATEWAY"];
    for (when, limit) in [("at once", HEARD_WITHIN), ("after a restart", STARTED_WITHIN)] {
        let said = eventually(limit, async || {
            Ok(lab.ran(0, &["status", "--check"]).await?.says(NOT_CONVERGED, &words))
        });
        checks.timed(format!("that there is no default route is said {when}"), said.await?);
        if when == "at once" {
            lab.stop_host(0).await?;
            lab.start_host(0)?;
        }
    }
    let wakes = wakes(lab)?;
    sleep(WATCHED).await;
    let woken = self::wakes(lab)? - wakes;
    checks.add(
        "a daemon without one does not look without end",
        holds(woken < WAKES_MAX, || format!("{woken}")),
    );
    let after: Vec<String> = shell(lab, &ours).await?.lines().map(str::to_owned).collect();
    checks.add("what is there stays as it is", unchanged(&before, &after));
    shell(lab, &format!("ip route add default via {ROUTER}")).await?;
    settled(lab, checks, "no default route").await
}

/// How often the daemon of the first host has gone to sleep so far.
fn wakes(lab: &Lab) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", lab.hosts[0].daemon_pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    Ok(line.and_then(|count| count.trim().parse().ok()).unwrap_or_default())
}
