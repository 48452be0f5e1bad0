//! What is wrong with a host is found and named, and what EC2 would let it do.

use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;
use weavers::sim::vpc::{Action, Call, Caller, Check, Faults, GroupId, Ingress};

use super::stage::{Checks, at_work, eventually, holds, report, same};
use crate::{fabric::link_name, lab::Lab, net, report::Report};

/// How long until the daemon has undone what the scenario did.
const MENDED_WITHIN: Duration = Duration::from_secs(10);
const ROUTE_CALLS: [Action; 3] = [Action::CreateRoute, Action::ReplaceRoute, Action::DeleteRoute];

/// Each thing that can be wrong, one at a time, with a daemon and without.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let ready = at_work(lab).await?;
    let mut checks = Checks::default();
    let (instance, interface) = (lab.hosts[0].instance.to_string(), lab.hosts[0].interface.to_string());
    let ran = lab.ran_in_place(0, &["doctor"]).await?;
    let words = [
        "is ready and converged",
        &instance,
        "all 6 calls are allowed",
        &format!("off on {interface}"),
        "is outside every CIDR of the VPC",
        "net.ipv4.ip_forward = 1",
        "nftables v",
        "links have 9000, eth0 carries 9001",
        "1 connected, none missing",
        "all peers run weavers",
        "packets of 9000 bytes reach 1 of 1 hosts",
        "0 failures",
    ];
    checks.add("a sound host is found to be sound", ran.says(0, &words));
    let document: Value = serde_json::from_str(&lab.ran_in_place(0, &["doctor", "--json"]).await?.stdout)?;
    checks.add("the document says so too", same(&Value::Bool(true), &document["ok"]));

    deny(lab, &[Action::CreateRoute]);
    let ran = lab.ran_in_place(0, &["doctor"]).await?;
    let words = ["FAIL  permissions", "CreateRoute", r#""Action": "ec2:CreateRoute""#, "1 failure"];
    checks.add("a permission that is missing, with the statement", ran.says(1, &words));

    deny(lab, &[Action::ModifyNetworkInterfaceAttribute]);
    set_check(lab, Check::On)?;
    let ran = lab.ran_in_place(0, &["doctor"]).await?;
    let command = format!(
        "modify-network-interface-attribute --no-source-dest-check --network-interface-id {interface}"
    );
    let words = ["FAIL  source/dest check", &command, "FAIL  packets", "all packets to h2 have been lost"];
    checks.add(
        "the source/destination check, with the command, and that packets are lost",
        ran.says(1, &words),
    );
    set_check(lab, Check::Off)?;
    deny(lab, &[]);
    lab.settled(0).await?.map_err(anyhow::Error::msg)?;

    groups(lab, &mut checks).await?;

    lab.cloud.set_clock_ahead(-400);
    let ran = lab.ran_in_place(0, &["doctor"]).await?;
    checks.add("a clock that is wrong", ran.says(1, &["FAIL  clock", "s ahead of EC2's", "chronyc"]));
    lab.cloud.set_clock_ahead(0);

    let link = link_name(lab.hosts[1].address);
    set_mtu(&link, 1500).await?;
    let ran = lab.ran_in_place(0, &["doctor"]).await?;
    checks.add(
        "a path that does not carry large packets",
        ran.says(1, &["FAIL  path mtu", "packets of 9000 bytes do not reach 10.0.1.12, small ones do"]),
    );
    set_mtu(&link, 9001).await?;
    lab.on_host(0, &["ip", "route", "flush", "cache"]).await?;

    lab.edit(0, "mtu = 9000", "mtu = 9200")?;
    let ran = lab.ran_in_place(0, &["doctor"]).await?;
    let words = ["FAIL  mtu", "links have 9200, eth0 carries 9001", "[network] mtu"];
    checks.add("links that are larger than the uplink", ran.says(1, &words));
    lab.edit(0, "mtu = 9200", "mtu = true")?;
    let ran = lab.ran_in_place(0, &["doctor"]).await?;
    checks.add("a file that is broken", ran.says(1, &["FAIL  configuration", "network.mtu"]));
    lab.edit(0, "mtu = true", "mtu = 9000")?;

    lab.stop_host(1).await?;
    let named = eventually(MENDED_WITHIN, async || {
        let ran = lab.ran_in_place(0, &["doctor"]).await?;
        Ok(ran.says(0, &["warn  peers", "10.0.1.12 is not connected", "0 failures"]))
    });
    checks.timed("a peer that is away is a warning", named.await?);
    let ran = lab.ran_in_place(1, &["doctor"]).await?;
    let words = ["warn  daemon", "systemctl start weavers", "all 6 calls are allowed", "0 failures"];
    checks.add("without a daemon it looks at what it can", ran.says(0, &words));
    lab.start_host(1)?;
    lab.await_ready(1).await?;
    for host in 0..lab.hosts.len() {
        lab.settled(host).await?.map_err(anyhow::Error::msg)?;
    }
    report(lab, ready, checks).await
}

/// The security group of h1, from one that may not be read to one that lets in all that is needed.
async fn groups(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let group = lab.cloud.with(|vpc, _| vpc.interfaces()[&lab.hosts[0].interface].groups[0].clone());
    let range = lab.range.to_string();
    let read = format!("do it by hand: `aws ec2 describe-security-groups --group-ids {group}`");
    let ran = lab.ran_in_place(0, &["doctor"]).await?;
    let words = ["warn  security group", &read, "TCP 6783 from the other hosts", &range, "0 failures"];
    checks.add("a security group that may not be read, with what to look for", ran.says(0, &words));

    let caller = Caller::Instance(lab.hosts[0].instance.clone());
    lab.cloud.with(|vpc, _| vpc.permit(&caller, [Action::DescribeSecurityGroups]));
    let [ssh, mesh] = [22, 6783].map(|port| Ingress { ports: Some((port, port)), ..tcp_from_itself(&group) });
    let all = Ingress { sources: vec![lab.range], groups: Vec::new(), ..Ingress::from_itself(&group) };
    let authorize = format!("aws ec2 authorize-security-group-ingress --group-id {group}");
    for (what, ingress, code, words) in [
        (
            "one that is closed to peers, with the command",
            vec![ssh.clone()],
            1,
            [
                "FAIL  security group",
                &format!("{authorize} --protocol tcp --port 6783 --source-group {group}"),
            ],
        ),
        (
            "one that is closed to containers, with the command",
            vec![ssh, mesh.clone()],
            1,
            ["FAIL  security group", &format!("{authorize} --protocol -1 --cidr {range}")],
        ),
        (
            "one that lets in both",
            vec![mesh, all],
            0,
            ["ok    security group", &format!("{group} lets in TCP 6783, and packets from {range}")],
        ),
    ] {
        lab.cloud.with(|vpc, now| vpc.set_ingress(now, &group, ingress));
        checks.add(what, lab.ran_in_place(0, &["doctor"]).await?.says(code, &words));
    }
    Ok(())
}

fn tcp_from_itself(group: &GroupId) -> Ingress {
    Ingress { protocol: "tcp".to_owned(), ..Ingress::from_itself(group) }
}

/// EC2 is asked by dry runs, and never more than it answers as such.
pub async fn permissions(lab: &mut Lab) -> anyhow::Result<Report> {
    let mut checks = Checks::default();
    let plan = ["plan", "--check-permissions"];
    let before = lab.cloud.with(|vpc, _| vpc.version());
    let ran = lab.ran_in_place(0, &plan).await?;
    let words = ["allowed  ec2:CreateRoute", "allowed  ec2:DeleteRoute", "allowed  ec2:DescribeInstances"];
    checks.add("before run: all is allowed", ran.says(0, &words));
    checks.add("and nothing was changed", same(&before, &lab.cloud.with(|vpc, _| vpc.version())));

    lab.cloud.with(|vpc, _| vpc.set_faults(Faults { deaf_to_dry_runs: true, ..Faults::default() }));
    let asked = route_calls(lab);
    let ran = lab.ran_in_place(0, &plan).await?;
    let words = ["unknown  ec2:DescribeRouteTables", "as if it were no dry run", "unknown  ec2:CreateRoute"];
    checks.add("an endpoint that knows no dry run is found out", ran.says(0, &words));
    checks.add("and asked nothing that it would carry out", same(&asked, &route_calls(lab)));
    checks.add("so nothing was changed", same(&before, &lab.cloud.with(|vpc, _| vpc.version())));
    deny(lab, &[]);

    let ready = at_work(lab).await?;
    let before = lab.cloud.with(|vpc, _| vpc.version());
    deny(lab, &[Action::ReplaceRoute, Action::ModifyNetworkInterfaceAttribute]);
    let ran = lab.ran_in_place(0, &plan).await?;
    let words = [
        "allowed  ec2:CreateRoute",
        "DENIED   ec2:ReplaceRoute",
        r#""Action": "ec2:ReplaceRoute", "Resource": "arn:aws:ec2:eu-central-1:*:route-table/rtb-"#,
        "DENIED   ec2:ModifyNetworkInterfaceAttribute (optional)",
    ];
    checks.add("the daemon is asked: a call that is denied comes with its statement", ran.says(1, &words));
    let ran = lab.ran_in_place(0, &["plan", "--check-permissions", "--json"]).await?;
    let document: Value = serde_json::from_str(&ran.stdout)?;
    let denied = document["permissions"].as_array().into_iter().flatten();
    let denied = denied.filter(|one| one["verdict"] == "denied").count();
    checks.add("the document too", same(&2, &denied));
    deny(lab, &[Action::ModifyNetworkInterfaceAttribute]);
    let ran = lab.ran_in_place(0, &plan).await?;
    checks.add("what weavers does without is no failure", ran.says(0, &["(optional)"]));
    deny(lab, &[Action::DescribeRouteTables]);
    let asked = route_calls(lab);
    let ran = lab.ran_in_place(0, &plan).await?;
    let words = ["DENIED   ec2:DescribeRouteTables", "unknown  ec2:CreateRoute", "not asked"];
    checks.add("without the first nothing else is asked", ran.says(1, &words));
    checks.add("not one call", same(&asked, &route_calls(lab)));
    deny(lab, &[]);
    let unchanged = lab.cloud.with(|vpc, _| vpc.version());
    checks.add("nothing was changed", holds(before == unchanged, || format!("{before} -> {unchanged}")));
    for host in 0..lab.hosts.len() {
        checks.add(format!("h{} is well", host + 1), lab.ran(host, &["apply"]).await?.says(0, &[]));
    }
    report(lab, ready, checks).await
}

/// Calls on routes so far, dry runs included.
fn route_calls(lab: &Lab) -> u64 {
    let calls = lab.calls();
    ROUTE_CALLS.iter().filter_map(|action| calls.get(action)).sum()
}

fn deny(lab: &Lab, actions: &[Action]) {
    let faults = Faults { denied: actions.iter().copied().collect(), ..Faults::default() };
    lab.cloud.with(|vpc, _| vpc.set_faults(faults));
}

/// A colleague with a console sets the check of h1's interface.
fn set_check(lab: &Lab, check: Check) -> anyhow::Result<()> {
    let interface = lab.hosts[0].interface.to_string();
    let call = Call::ModifyNetworkInterfaceAttribute { interface, check, dry_run: false };
    let result = lab.cloud.with(|vpc, now| vpc.call(now, &Caller::Console, &call).result);
    result.map(|_| ()).map_err(|error| anyhow::anyhow!("{error}"))
}

async fn set_mtu(link: &str, mtu: u32) -> anyhow::Result<()> {
    net::run(Command::new("ip").args(["link", "set", link, "mtu", &mtu.to_string()])).await.map(|_| ())
}
