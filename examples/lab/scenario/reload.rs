//! A plan before anything moves, an edited file, and a broken one.

use std::{collections::BTreeSet, time::Duration};

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::time::sleep;
use weavers::{
    addr::Address,
    state::{Action, link_name},
};

use super::{
    basic, repair,
    stage::{Checks, at_work, eventually, holds, passes, report, same, unchanged},
};
use crate::{
    lab::{Lab, RANGE},
    report::Report,
};

/// How long until an edited file is noticed.
const NOTICED_WITHIN: Duration = Duration::from_secs(3);
/// How long until a ring is agreed on, or something is named that is not.
const AGREED_WITHIN: Duration = Duration::from_secs(15);
/// How long until the file for runtimes is written.
const WRITTEN_WITHIN: Duration = Duration::from_secs(8);
/// How long until what was adopted is done.
const ADOPTED_WITHIN: Duration = Duration::from_secs(1);

/// Before `run`, `weavers plan` shows every step on the host and changes nothing; afterwards there
/// is nothing left to show.
pub async fn plan(lab: &mut Lab) -> anyhow::Result<Report> {
    let mut checks = Checks::default();
    let before = host_as_it_is(lab).await?;
    let text = lab.ran_in_place(0, &["plan"]).await?;
    let words = ["source_dest_check", "nftables", "routes follow agreement", "Nothing was changed."];
    checks.add("plan before run shows the steps on the host", text.says(0, &words));
    let detailed = lab.ran_in_place(0, &["plan", "--detailed-exitcode"]).await?;
    checks.add("and ends with 2 where that is asked for", detailed.says(2, &[]));
    let planned = planned_actions(&lab.ran_in_place(0, &["plan", "--json"]).await?.stdout)?;
    checks.add("it changed nothing on the host", unchanged(&before, &host_as_it_is(lab).await?));
    let none = lab.writes().is_empty();
    checks.add("nor in EC2", holds(none, || format!("{:?}", lab.writes())));
    let store = std::fs::read_dir(lab.hosts[0].dir.join("state"))?.count();
    checks.add("nor on the disk", same(&0, &store));

    let ready = lab.start_all().await?;
    for host in 0..lab.hosts.len() {
        lab.settled(host).await?.map_err(anyhow::Error::msg)?;
    }
    checks.add("what was done is what was planned, and what was agreed on", foretold(lab, &planned).await?);
    let after = lab.ran_in_place(0, &["plan", "--detailed-exitcode"]).await?;
    checks.add("plan after run shows nothing", after.says(0, &["Plan: nothing to do"]));
    for host in 0..lab.hosts.len() {
        lab.attach(host).await?;
    }
    at_once(lab, &mut checks).await?;
    differences(lab, &mut checks).await?;
    lab.stop_host(0).await?;
    let stopped = lab.ran_in_place(0, &["plan", "--detailed-exitcode"]).await?;
    checks.add("plan with the daemon stopped shows nothing", stopped.says(0, &["Plan: nothing to do"]));
    lab.start_host(0)?;
    lab.await_ready(0).await?;
    report(lab, ready, checks).await
}

/// What has just happened is in the plan, long before the next look is due.
async fn at_once(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let cidr = basic::owned(lab, 0).await?[0];
    let (table, destination, interface) =
        (lab.table.to_string(), cidr.to_string(), lab.hosts[0].interface.to_string());
    let words = ["+ create", &table, &destination, &interface, "Plan: 1 to create. Nothing was changed."];
    repair::delete(lab, cidr)?;
    let ran = lab.ran(0, &["plan"]).await?;
    checks.add("a route deleted in the console is in the plan at once", ran.says(0, &words));
    lab.settled(0).await?.map_err(anyhow::Error::msg)?;
    repair::delete(lab, cidr)?;
    let ran = lab.ran_in_place(0, &["plan", "--detailed-exitcode"]).await?;
    checks.add("in that of the file, too", ran.says(2, &words));
    lab.settled(0).await?.map_err(anyhow::Error::msg)?;
    Ok(())
}

/// `plan --diff`: what is and what will be, for people and for Ansible.
async fn differences(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let address = lab.containers[0].address;
    lab.edit(0, "mtu = 9000", "mtu = 1500")?;
    let ran = lab.ran_in_place(0, &["plan", "--diff"]).await?;
    let words = ["--- host (before)\n+++ host (after)\n", &format!("-{address} "), &format!("+{address} ")];
    checks.add("--diff shows each place before and after", ran.says(0, &words));
    let ran = lab.ran_in_place(0, &["plan", "--diff", "--detailed-exitcode", "--json"]).await?;
    let document: Value = serde_json::from_str(&ran.stdout)?;
    let diff = &document["diff"];
    let texts = ["before_header", "after_header", "before", "after"].map(|key| diff[0][key].as_str());
    let lines = texts.iter().all(|text| text.is_some_and(|text| !text.is_empty()));
    checks.add("the document has it as Ansible shows it", holds(lines, || format!("{diff}")));
    checks.add("with the exit code of the plan", ran.says(2, &[]));
    lab.edit(0, "mtu = 1500", "mtu = 9000")?;
    let ran = lab.ran_in_place(0, &["plan", "--diff", "--detailed-exitcode"]).await?;
    checks.add("where nothing differs it prints nothing", same(&(0, ""), &(ran.code, ran.stdout.as_str())));
    Ok(())
}

/// A changed file is shown and waits; adopted, by each of the ways there are, it causes what it must
/// and nothing else.
pub async fn adopt(lab: &mut Lab) -> anyhow::Result<Report> {
    let ready = at_work(lab).await?;
    lab.attach(0).await?;
    let mut checks = Checks::default();
    let (calls, others) = (lab.writes(), without_mtu(lab).await?);

    for host in 0..lab.hosts.len() {
        lab.edit(host, "mtu = 9000", "mtu = 1500")?;
    }
    let shown = eventually(NOTICED_WITHIN, async || pending(lab, 0, true).await).await?;
    checks.timed("an edited file is shown as pending", shown);
    checks.add("and is not adopted by itself", same(&vec![9000; 8], &mtus(lab).await?));
    let plan = lab.ran_in_place(0, &["plan", "--detailed-exitcode"]).await?;
    checks.add(
        "plan shows what it would change",
        plan.says(2, &["mtu 9000 -> 1500", "3 to replace. Nothing was"]),
    );
    checks.add("and changes nothing", same(&vec![9000; 8], &mtus(lab).await?));
    let first = lab.ran(0, &["apply", "--detailed-exitcode"]).await?;
    checks.add("apply adopts it, and changes all links", first.says(2, &["Applied: 3 replaced."]));
    checks.add("naming what changed", first.says(2, &["mtu 9000 -> 1500"]));
    let second = lab.ran(0, &["apply", "--detailed-exitcode"]).await?;
    checks.add("apply once more has nothing to do", second.says(0, &["Applied: nothing to do."]));
    checks.add("it is no longer pending", pending(lab, 0, false).await?);
    let reload = lab.ran(1, &["reload"]).await?;
    checks.add("reload says that the file was accepted", reload.says(0, &["the configuration is adopted"]));
    lab.hosts[2].signal(Signal::SIGHUP)?;
    checks.timed("both ends of every link have the new MTU", all_have(lab, 1500).await?);
    lab.options.mtu = 1500;
    checks.add("nothing else has changed", unchanged(&others, &without_mtu(lab).await?));

    lab.edit(1, "interval =", "on_change = \"apply\"\ninterval =")?;
    checks
        .add("on_change is live", lab.ran(1, &["reload"]).await?.says(0, &["the configuration is adopted"]));
    for host in 0..lab.hosts.len() {
        lab.edit(host, "mtu = 1500", "mtu = 9000")?;
    }
    let noticed = eventually(NOTICED_WITHIN + ADOPTED_WITHIN, async || {
        Ok(same(&vec![9000; 2], &mtus_of(lab, 1).await?))
    });
    checks.timed("with on_change = \"apply\" an edit is adopted at once", noticed.await?);
    for host in [0, 2] {
        let ran = lab.ran(host, &["apply"]).await?;
        checks.add(format!("apply on h{}", host + 1), ran.says(0, &["replaced."]));
    }
    checks.timed("all links are as before", all_have(lab, 9000).await?);
    lab.options.mtu = 9000;

    let steps = lab.status(0).await?["steps"].clone();
    lab.edit(0, ", \"10.0.1.13\"", ", \"10.0.1.13\", \"10.0.1.99\"")?;
    let ran = lab.ran(0, &["apply", "--detailed-exitcode"]).await?;
    checks.add(
        "another peer changes nothing by itself, and is adopted",
        ran.says(2, &["The configuration is adopted.", "Applied: nothing to do."]),
    );
    let dialled = eventually(NOTICED_WITHIN, async || {
        let targets = targets(lab, 0).await?;
        Ok(holds(targets.contains("10.0.1.99"), || format!("{targets:?}")))
    });
    checks.timed("and is dialled", dialled.await?);
    lab.edit(0, ", \"10.0.1.99\"", "")?;
    checks.add("it can be taken out", lab.ran(0, &["reload"]).await?.says(0, &[]));
    let targets = targets(lab, 0).await?;
    checks
        .add("and is not dialled any more", holds(!targets.contains("10.0.1.99"), || format!("{targets:?}")));
    let steps_now = lab.status(0).await?["steps"].clone();
    checks.add("no step was taken for it", same(&outcomes(&steps), &outcomes(&steps_now)));
    checks.add("EC2 was told nothing", same(&calls, &lab.writes()));
    report(lab, ready, checks).await
}

/// A file that cannot be adopted leaves all as it was and is named; so is a range that the host has
/// a part of already.
pub async fn refuse(lab: &mut Lab) -> anyhow::Result<Report> {
    let ready = at_work(lab).await?;
    let mut checks = Checks::default();
    let (calls, others) = (lab.writes(), without_mtu(lab).await?);
    let file = lab.hosts[0].config().display().to_string();
    let sound = std::fs::read_to_string(lab.hosts[0].config())?;

    lab.edit(0, "mtu = 9000", "mtu = \"fast\"\ncolour = 1")?;
    let places = [format!("{file}:4:7"), format!("{file}:5:1")];
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    let named =
        eventually(NOTICED_WITHIN, async || Ok(lab.ran(0, &["status"]).await?.says(0, &places))).await?;
    checks.timed("status names a broken file, line and column", named);
    checks.add("so does validate", lab.ran(0, &["validate", &file]).await?.says(78, &places));
    checks.add("so does reload", lab.ran(0, &["reload"]).await?.says(78, &places));
    checks.add("so does apply", lab.ran(0, &["apply"]).await?.says(78, &places));
    lab.hosts[0].signal(Signal::SIGHUP)?;
    sleep(ADOPTED_WITHIN).await;
    checks.add("the daemon goes on as before", lab.ran(0, &["status", "--check"]).await?.says(0, &places));
    lab.stop_host(0).await?;
    checks.add("run refuses it", lab.ran_in_place(0, &["run"]).await?.says(78, &places));
    checks.add("packets still flow", passes(lab, 0, 1).await?.and(passes(lab, 1, 0).await?));
    std::fs::write(lab.hosts[0].config(), &sound)?;
    lab.start_host(0)?;
    lab.await_ready(0).await?;

    let other = "10.64.0.0/12";
    lab.edit(0, RANGE, other)?;
    checks.add("another range is valid as such", lab.ran(0, &["validate", &file]).await?.says(0, &["valid"]));
    let words = ["[ipam] range", RANGE, other];
    checks.add("but refused where space is owned", lab.ran(0, &["reload"]).await?.says(5, &words));
    checks.add("by apply, too", lab.ran(0, &["apply"]).await?.says(5, &words));
    sleep(NOTICED_WITHIN).await;
    checks.add("status says so", lab.ran(0, &["status"]).await?.says(0, &words));
    lab.stop_host(0).await?;
    checks.add("run refuses it", lab.ran_in_place(0, &["run"]).await?.says(5, &[RANGE, other]));
    checks.add("packets still flow", passes(lab, 0, 1).await?.and(passes(lab, 1, 0).await?));
    std::fs::write(lab.hosts[0].config(), &sound)?;
    lab.start_host(0)?;
    lab.await_ready(0).await?;
    lab.settled(0).await?.map_err(anyhow::Error::msg)?;
    let clean = lab.status(0).await?;
    checks.add("a sound file is all that it takes", same(&Value::Null, &clean["config"]["error"]));
    checks.add("nothing on the hosts has changed", unchanged(&others, &without_mtu(lab).await?));
    checks.add("EC2 was told nothing", same(&calls, &lab.writes()));
    report(lab, ready, checks).await
}

/// Keys that a reload adopts at once, and one that needs a restart and says so.
pub async fn keys(lab: &mut Lab) -> anyhow::Result<Report> {
    let mut checks = Checks::default();
    for host in 0..lab.hosts.len() {
        lab.edit(host, "[ipam]\n", "[ipam]\nexpected_peers = 9\n")?;
    }
    for host in 0..lab.hosts.len() {
        lab.start_host(host)?;
    }
    let waits = ["heard 3 of 9 expected peers", "ipam.expected_peers"];
    let said = eventually(AGREED_WITHIN, async || Ok(lab.ran_when_up(0, &["status"]).await?.says(0, &waits)));
    checks.timed("three of nine expected peers are no majority", said.await?);
    let begin = std::time::Instant::now();
    for host in 0..lab.hosts.len() {
        lab.edit(host, "expected_peers = 9", "expected_peers = 3")?;
        let ran = lab.ran(host, &["reload"]).await?;
        let quiet = holds(!ran.stderr.contains("restart"), || ran.stderr.clone());
        checks.add(format!("h{} takes another number live", host + 1), ran.says(0, &["adopted"]).and(quiet));
    }
    for host in 0..lab.hosts.len() {
        lab.await_ready(host).await?;
        lab.attach(host).await?;
    }
    let ready = begin.elapsed();

    lab.edit(0, "http://169.254.169.254", "http://169.254.169.254:9")?;
    checks.add("another endpoint is taken live", lab.ran(0, &["reload"]).await?.says(0, &["adopted"]));
    let unread = ["the VPC cannot be read"];
    let said = eventually(AGREED_WITHIN, async || Ok(lab.ran(0, &["status"]).await?.says(0, &unread)));
    checks.timed("nobody answers there, and status says so", said.await?);
    checks.add("packets still flow", passes(lab, 0, 1).await?.and(passes(lab, 1, 0).await?));
    lab.edit(0, "http://169.254.169.254:9", "http://169.254.169.254")?;
    checks.add("apply takes the right one", lab.ran(0, &["apply"]).await?.says(0, &["Applied: nothing"]));

    lab.edit(0, "[vpc]\n", "[mesh]\nnickname = \"other\"\ntrusted_subnets = [\"10.0.1.0/24\"]\n\n[vpc]\n")?;
    let name = "mesh.nickname takes effect with a restart";
    checks.add("plan names what needs a restart", lab.ran_in_place(0, &["plan"]).await?.says(0, &[name]));
    let ran = lab.ran(0, &["reload"]).await?;
    let only = holds(!ran.stderr.contains("trusted_subnets"), || ran.stderr.clone());
    checks.add(
        "so does reload, and nothing more",
        ran.says(0, &["mesh.nickname is read at the start"]).and(only),
    );
    conflist(lab, &mut checks).await?;
    report(lab, ready, checks).await
}

/// A directory that is not there when its name is adopted, and comes later.
async fn conflist(lab: &Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let directory = lab.hosts[0].dir.join("late.d");
    let file = directory.join("10-weavers.conflist");
    lab.edit(0, "[vpc]\n", &format!("[cni]\nconf_dir = {directory:?}\n\n[vpc]\n"))?;
    checks
        .add("a directory for runtimes is taken live", lab.ran(0, &["reload"]).await?.says(0, &["adopted"]));
    let named = "runtimes do not find weavers";
    let said = eventually(WRITTEN_WITHIN, async || Ok(lab.ran(0, &["status"]).await?.says(0, &[named])));
    checks.timed("it is not there, and status says so", said.await?);
    checks.add("so does doctor", lab.ran_in_place(0, &["doctor"]).await?.says(0, &[named]));
    std::fs::create_dir(&directory)?;
    let written = eventually(WRITTEN_WITHIN, async || Ok(holds(file.is_file(), || "no conflist".to_owned())));
    checks.timed("it comes, and the conflist is written", written.await?);
    let gone = !lab.ran(0, &["status"]).await?.stdout.contains(named);
    checks.add("status says so no more", holds(gone, || named.to_owned()));
    Ok(())
}

// ===== looks =====

/// Everything on h1 that a plan could have changed.
async fn host_as_it_is(lab: &Lab) -> anyhow::Result<Vec<String>> {
    // Whether a link is up at the other end, too, is the lab's business.
    let script = "ip -o link | sed 's/<.*>//; s/state [A-Z]*//'; ip -4 -o addr; ip -4 route show table all; \
                  ip -4 rule; ip -4 neigh show nud permanent; nft -s list ruleset; \
                  grep -r . /proc/sys/net/ipv4/conf /proc/sys/net/ipv4/ip_forward";
    let text = lab.on_host(0, &["sh", "-c", script]).await?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// The steps of a plan, as `status` names them.
fn planned_actions(document: &str) -> anyhow::Result<BTreeSet<String>> {
    let document: Value = serde_json::from_str(document)?;
    let changes = document["changes"].as_array().into_iter().flatten();
    changes.map(|change| Ok(serde_json::from_value::<Action>(change["step"].clone())?.to_string())).collect()
}

/// Whether h1 did all that was planned, and beyond it only what follows from the ring.
async fn foretold(lab: &Lab, planned: &BTreeSet<String>) -> anyhow::Result<Result<(), String>> {
    let status = lab.status(0).await?;
    let done: BTreeSet<String> = outcomes(&status["steps"]).into_iter().map(|(action, _)| action).collect();
    let owned: Vec<String> = serde_json::from_value(status["ipam"]["owned"].clone())?;
    let canary = canary_link(lab, 0).await?;
    let agreed = |action: &&String| owned.iter().chain(&canary).any(|of_ring| action.contains(of_ring));
    let beyond: BTreeSet<String> =
        done.difference(planned).filter(|action| !agreed(action)).cloned().collect();
    let left: BTreeSet<String> = planned.difference(&done).cloned().collect();
    let fits = beyond.is_empty() && left.is_empty();
    Ok(holds(fits, || format!("done and not planned: {beyond:?}; planned and not done: {left:?}")))
}

/// The host's end of the link of its canary.
async fn canary_link(lab: &Lab, host: usize) -> anyhow::Result<Option<String>> {
    let canary: Option<Address> = serde_json::from_value(lab.status(host).await?["probe"]["canary"].clone())?;
    Ok(canary.map(link_name))
}

/// What was done and how it ended.
fn outcomes(steps: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let steps = steps.as_array().into_iter().flatten();
    steps.map(|step| (text(&step["action"]), text(&step["outcome"]))).collect()
}

async fn pending(lab: &Lab, host: usize, expected: bool) -> anyhow::Result<Result<(), String>> {
    let status = lab.status(host).await?;
    Ok(same(&Value::Bool(expected), &status["config"]["pending"]))
}

async fn targets(lab: &Lab, host: usize) -> anyhow::Result<BTreeSet<String>> {
    let status = lab.status(host).await?;
    let targets = status["targets"].as_array().into_iter().flatten();
    Ok(targets.filter_map(|target| Some(target["target"].as_str()?.to_owned())).collect())
}

/// Waits until every link has this MTU at both ends.
async fn all_have(lab: &Lab, mtu: u32) -> anyhow::Result<Result<Duration, String>> {
    let expected = vec![mtu; 2 * lab.containers.len()];
    eventually(ADOPTED_WITHIN, async || Ok(same(&expected, &mtus(lab).await?))).await
}

/// The MTUs of all links, host end and far end.
async fn mtus(lab: &Lab) -> anyhow::Result<Vec<u32>> {
    let mut all = Vec::new();
    for host in 0..lab.hosts.len() {
        all.extend(mtus_of(lab, host).await?);
    }
    Ok(all)
}

pub async fn mtus_of(lab: &Lab, host: usize) -> anyhow::Result<Vec<u32>> {
    let mut all = Vec::new();
    for container in lab.containers.iter().filter(|container| container.host == host) {
        let link = link_name(Address::from(container.address));
        let near = lab.on_host(host, &["cat", &format!("/sys/class/net/{link}/mtu")]).await?;
        let far = lab.on_host(host, &["ip", "-n", &container.name, "-o", "link", "show", "ethwe"]).await?;
        let far = far.split(" mtu ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
        all.extend([near.trim().parse::<u32>()?, far.parse()?]);
    }
    Ok(all)
}

/// All hosts and containers as they are, but for the MTUs.
async fn without_mtu(lab: &Lab) -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    let script =
        "ip -o link; ip -o -4 addr; ip -4 route; ip -4 neigh show nud permanent; nft -s list ruleset";
    for host in 0..lab.hosts.len() {
        all.push(lab.on_host(host, &["sh", "-c", script]).await?);
    }
    for container in &lab.containers {
        let (host, inside) = (
            container.host,
            format!("for each in link addr route; do ip -n {} -4 -o $each; done", container.name),
        );
        all.push(lab.on_host(host, &["sh", "-c", &inside]).await?);
    }
    // A canary lasts as long as its daemon.
    let mut canaries = Vec::new();
    for host in 0..lab.hosts.len() {
        canaries.extend(canary_link(lab, host).await?);
    }
    let lines = all.iter().flat_map(|text| text.lines());
    let lines = lines.filter(|line| !canaries.iter().any(|link| line.contains(link)));
    Ok(lines.map(strip_mtu).collect())
}

/// A line of `ip` without ` mtu N`.
fn strip_mtu(line: &str) -> String {
    match line.split_once(" mtu ") {
        Some((before, after)) => {
            let rest = after.split_once(' ').map_or("", |(_, rest)| rest);
            format!("{before} {rest}")
        }
        None => line.to_owned(),
    }
}
