//! Packets that die where everything that was written is as it should be: probes between canaries show it, and `status` names the
//! host and the way.

use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::{process::Command, time::sleep};
use weavers::sim::vpc::{Action, Faults};

use super::{
    basic,
    repair::{delete, leads, replace, restored},
    stage::{Checks, at_work, eventually, holds, passes, report},
};
use crate::{fabric, lab::Lab, net, report::Report};

/// How long packets may die without being named.
const NAMED_WITHIN: Duration = Duration::from_secs(15);
/// How long a route that somebody deleted may be missing, however seldom the hosts look.
const REPAIRED_WITHIN: Duration = Duration::from_secs(3);
/// By then every host has sent each other a probe again.
const PROBED_AGAIN: Duration = Duration::from_secs(2);
/// How long it may take until all is known to be well.
const WELL_WITHIN: Duration = Duration::from_secs(15);
/// What a loss of h2 is called on h1.
const TO: &str = "packets of containers to";
const FROM: &str = "packets of containers from";

/// Where something is broken.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// On the way between the hosts: the VPC.
    Way,
    /// On a host.
    Host(usize),
}

/// A way to break the path between h1 and h2 that leaves all that weavers has written as it is.
struct Breakage {
    what: &'static str,
    place: Place,
    breaks: String,
    mends: &'static str,
    /// What h1 says then.
    says: [&'static str; 2],
}

pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let ready = at_work(lab).await?;
    let mut checks = Checks::default();
    checks.timed("all paths are known to carry packets", well(lab).await?);

    let (cidr, own) = (basic::owned(lab, 1).await?[0], lab.hosts[1].interface.clone());
    delete(lab, cidr)?;
    let back = restored(lab, REPAIRED_WITHIN, cidr, &own).await?;
    checks.timed("a route deleted in the VPC is back before the next look is due", back);
    // Losses of that must not run into those of the next.
    sleep(PROBED_AGAIN).await;
    well(lab).await?.map_err(anyhow::Error::msg)?;

    for breakage in breakages(lab).await? {
        breakage.run(lab, &breakage.breaks).await?;
        let named = named(lab, &breakage.says).await?;
        if breakage.says[0] == TO {
            let address = lab.containers[1].address.to_string();
            let explained = lab.ran(0, &["explain", &address]).await?.says(0, &[TO, "have been lost"]);
            checks.add(format!("explain tells of it: {}", breakage.what), explained);
        }
        breakage.run(lab, breakage.mends).await?;
        let well = well(lab).await?.map(|_| ());
        checks.timed(breakage.what, named.and_then(|took| well.map(|()| took)));
    }

    let denied = [Action::CreateRoute, Action::ReplaceRoute, Action::DeleteRoute];
    lab.cloud.with(|vpc, _| vpc.set_faults(Faults { denied: denied.into(), ..Faults::default() }));
    replace(lab, cidr, &lab.hosts[2].interface.clone())?;
    let named = named(lab, &[TO, "which must be an interface of"]).await?;
    lab.cloud.with(|vpc, _| vpc.set_faults(Faults::default()));
    lab.weavers(1, &["apply"]).await?;
    checks.timed("a route that leads to another host and cannot be set back", named);
    checks.add("it leads back", leads(lab, cidr, &own));

    checks.add("packets pass in the end", passes(lab, 0, 1).await?);
    checks.timed("and every host knows it", well(lab).await?);
    report(lab, ready, checks).await
}

/// Each ends as it began; what is broken on a host is in a table or a rule of its own.
async fn breakages(lab: &Lab) -> anyhow::Result<Vec<Breakage>> {
    let range = "10.32.0.0/12";
    let link = fabric::link_name(lab.hosts[1].address);
    let theirs: Ipv4Net = basic::owned(lab, 1).await?[0];
    let table = |rules: &str| format!("nft table inet other {{ {rules}; }}");
    let forward = "type filter hook forward priority -5; policy accept;";
    let gone = "nft delete table inet other";
    let of = |what, place, breaks, mends, says| Breakage { what, place, breaks, mends, says };
    Ok(vec![
        of(
            "the security group of the other host does not let containers in",
            Place::Way,
            table(&format!("chain f {{ {forward} oifname \"{link}\" ip saddr {range} drop; }}")),
            gone,
            [TO, "security group"],
        ),
        of(
            "a network ACL does not let its containers out",
            Place::Way,
            table(&format!("chain f {{ {forward} iifname \"{link}\" ip saddr {range} drop; }}")),
            gone,
            [FROM, "network ACL"],
        ),
        of(
            "the way carries no large packets",
            Place::Way,
            table(&format!("chain f {{ {forward} oifname \"{link}\" meta length > 1500 drop; }}")),
            gone,
            ["packets of 9000 bytes to", "small ones arrive"],
        ),
        of(
            "a firewall drops behind a jump in a chain of its own",
            Place::Host(1),
            table(&format!(
                "chain deep {{ ip saddr {range} ip daddr {range} drop; }}; chain f {{ {forward} jump deep; }}"
            )),
            gone,
            [TO, "nft list ruleset"],
        ),
        of(
            "a firewall drops in prerouting",
            Place::Host(1),
            table(&format!(
                "chain p {{ type filter hook prerouting priority raw; iifname \"eth0\" ip saddr {range} drop; }}"
            )),
            gone,
            [TO, "nft list ruleset"],
        ),
        of(
            "a firewall drops what leaves",
            Place::Host(0),
            table(&format!(
                "chain p {{ type filter hook postrouting priority 0; oifname \"eth0\" ip saddr {range} drop; }}"
            )),
            gone,
            [TO, "this host"],
        ),
        of(
            "a policy rule swallows what goes to the other host",
            Place::Host(0),
            format!("ip rule add to {theirs} priority 90 blackhole"),
            "ip rule del priority 90",
            [TO, ""],
        ),
        of(
            "a route that is not ours covers the whole range",
            Place::Host(0),
            "ip route add blackhole 10.0.0.0/8".to_owned(),
            "ip route del blackhole 10.0.0.0/8",
            [TO, ""],
        ),
        of(
            "the uplink of the other host has a smaller MTU",
            Place::Host(1),
            "ip link set eth0 mtu 1400".to_owned(),
            "ip link set eth0 mtu 9001",
            ["packets of 9000 bytes to", "[network] mtu"],
        ),
        of(
            "a rule masquerades inside the range",
            Place::Host(0),
            table(&format!(
                "chain p {{ type nat hook postrouting priority 90; oifname \"eth0\" ip saddr {range} masquerade; }}"
            )),
            gone,
            ["as if 10.0.1.11 had sent them", "masquerade"],
        ),
    ])
}

impl Breakage {
    /// Runs a command where this breaks: `nft` and what it takes as a script, or words.
    async fn run(&self, lab: &Lab, command: &str) -> anyhow::Result<()> {
        let words: Vec<&str> = match command.strip_prefix("nft ") {
            Some(script) => vec!["nft", script],
            None => command.split(' ').collect(),
        };
        match self.place {
            Place::Way => drop(net::run(Command::new(words[0]).args(&words[1..])).await?),
            Place::Host(host) => drop(lab.on_host(host, &words).await?),
        }
        Ok(())
    }
}

/// Until h1 does not call itself converged and says these words of h2.
async fn named(lab: &Lab, words: &[&str]) -> anyhow::Result<Result<Duration, String>> {
    eventually(NAMED_WITHIN, async || {
        let ran = lab.ran(0, &["status", "--check"]).await?;
        let line = ran
            .stdout
            .lines()
            .find(|line| line.contains("(h2)") && words.iter().all(|word| line.contains(word)));
        let masqueraded = words.iter().any(|word| word.contains("masquerade"));
        let code = if masqueraded { 0 } else { 3 };
        Ok(holds(line.is_some() && ran.code == code, || {
            format!("{words:?} of h2 and exit code {code} are missing ({}):\n{}", ran.code, ran.stdout)
        }))
    })
    .await
}

/// Until every host knows that packets flow to every other.
async fn well(lab: &Lab) -> anyhow::Result<Result<Duration, String>> {
    eventually(WELL_WITHIN, async || {
        for host in 0..lab.hosts.len() {
            let status = lab.status(host).await?;
            let paths = status["probe"]["paths"].as_array().cloned().unwrap_or_default();
            let flows = paths.iter().filter(|path| path["state"] == "flows").count();
            let others = lab.hosts.len() - 1;
            let converged = status["converged"] == true;
            if flows != others || !converged {
                let (probe, problems) = (&status["probe"], &status["problems"]);
                return Ok(Err(format!(
                    "h{}: packets flow to and from {flows} of {others} hosts, converged {converged}: {probe} {problems}",
                    host + 1
                )));
            }
        }
        Ok(Ok(()))
    })
    .await
}
