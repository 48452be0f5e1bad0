//! What a container, or another program on the host, might open: each is shut again at once, and nothing is connected while it
//! cannot be shut.

use std::time::Duration;

use weavers::state::link_name;

use super::stage::{Checks, NOT_CONVERGED, at_work, eventually, holds, passes, report, shell};
use crate::{lab::Lab, report::Report};

/// The kernel tells of all of this.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// A way that is shut gives no answer for so long.
const SILENT_S: u32 = 1;

/// One after the other, on the first host.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let ready = at_work(lab).await?;
    let mut checks = Checks::default();
    let link = link_name(lab.containers[0].address.into());
    deaf(lab, &mut checks, &link).await?;
    given_an_address(lab, &mut checks, &link).await?;
    renamed(lab, &mut checks, &link).await?;
    by_a_bridge(lab, &mut checks).await?;
    unfenced(lab, &mut checks).await?;
    report(lab, ready, checks).await
}

/// A host end listens to no router advertisement.
async fn deaf(lab: &Lab, checks: &mut Checks, link: &str) -> anyhow::Result<()> {
    let path = format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6");
    let off = shell(lab, &format!("cat {path} 2>/dev/null || echo 1")).await?;
    checks.add("a host end speaks no IPv6", holds(off == "1\n", || off));
    shell(lab, &format!("! test -e {path} || echo 0 > {path}")).await?;
    let off = eventually(HEARD_WITHIN, async || {
        let value = shell(lab, &format!("cat {path} 2>/dev/null || echo 1")).await?;
        Ok(holds(value == "1\n", || value))
    });
    checks.timed("turned on by somebody, it is off again", off.await?);
    Ok(())
}

/// As systemd-networkd does for whatever matches `Name=*`. It leads the metadata into the container.
async fn given_an_address(lab: &Lab, checks: &mut Checks, link: &str) -> anyhow::Result<()> {
    shell(lab, &format!("ip addr add 169.254.77.1/16 dev {link}")).await?;
    let gone = eventually(HEARD_WITHIN, async || {
        let addresses =
            shell(lab, &format!("ip -4 addr show dev {link}; ip route get 169.254.169.254")).await?;
        Ok(holds(!addresses.contains("169.254.77.1") && !addresses.contains(link), || addresses))
    });
    checks.timed("an address that another program gives to a host end is gone", gone.await?);
    let log = std::fs::read_to_string(lab.hosts[0].log())?;
    checks.add("the log names it", holds(log.contains("address 169.254.77.1/16 on the host end"), || log));
    Ok(())
}

async fn renamed(lab: &Lab, checks: &mut Checks, link: &str) -> anyhow::Result<()> {
    shell(lab, &format!("ip link set {link} down; ip link set {link} name veth7; ip link set veth7 up"))
        .await?;
    let back = eventually(HEARD_WITHIN, async || {
        let links = shell(lab, "ip -o link show").await?;
        Ok(holds(links.contains(&format!("{link}@")) && !links.contains("veth7"), || links))
    });
    checks.timed("a host end that was renamed has its name again", back.await?);
    checks.add("and carries packets", passes(lab, 0, 1).await?.and(passes(lab, 1, 0).await?));
    Ok(())
}

/// A container that has an interface on Docker's bridge as well.
async fn by_a_bridge(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let name = &lab.containers[0].name;
    let bridge = format!(
        "ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0; ip link set docker0 up\n\
         ip link add veth0 type veth peer name eth9 netns {name}; ip link set veth0 master docker0 up\n\
         ip -n {name} addr add 172.17.0.2/16 dev eth9; ip -n {name} link set eth9 up\n\
         ip -n {name} route add 169.254.169.254 via 172.17.0.1"
    );
    shell(lab, &bridge).await?;
    let reached = shell(lab, &format!("ip netns exec {name} ping -c 3 -i 0.2 172.17.0.1")).await;
    checks.add(
        "a bridge of others is no business of ours",
        reached.map(drop).map_err(|error| error.to_string()),
    );
    for (what, to) in [("mesh", "172.17.0.1/6783"), ("metadata", "169.254.169.254/80")] {
        let dial = format!("ip netns exec {name} timeout {SILENT_S} bash -c '</dev/tcp/{to}' 2>/dev/null");
        let answer = shell(lab, &format!("{dial} && echo reached || echo shut")).await?;
        checks.add(format!("by it a container reaches no {what}"), holds(answer == "shut\n", || answer));
    }
    shell(lab, "ip link del docker0; ip link del veth0").await.map(drop)
}

/// Nothing is connected before the rules are in force.
async fn unfenced(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    shell(lab, "nft flush ruleset; mount --bind /bin/false \"$(command -v nft)\"").await?;
    let netns = lab.make_netns(0).await?;
    let path = netns.path.to_string_lossy().into_owned();
    let links = shell(lab, "ip -o link show | cut -d' ' -f2").await?;
    let refused = lab.ran(0, &["attach", &path, "--timeout", "3s"]).await?;
    checks.add("without rules nothing is connected", holds(refused.code != 0, || refused.stdout));
    let named = lab.ran(0, &["status", "--check"]).await?;
    checks.add("status says why", named.says(NOT_CONVERGED, &["nft"]));
    let after = shell(lab, "ip -o link show | cut -d' ' -f2").await?;
    checks.add("no link is left of it", holds(links == after, || format!("{links}{after}")));
    shell(lab, "umount \"$(command -v nft)\"").await?;
    let ran = lab.ran(0, &["attach", &path]).await?;
    checks.add("with rules it is", ran.says(0, &[]));
    lab.adopt(0, netns).await?;
    let rules = shell(lab, "nft list ruleset").await?;
    checks.add("the rules are in force by then", holds(rules.contains("table inet weave"), || rules));
    Ok(())
}
