//! Containers that runtimes connect by CNI: across hosts, with daemons that are killed meanwhile, alone and first of a chain.

use std::{collections::BTreeSet, fs, net::Ipv4Addr, path::Path, process::Output, time::Duration};

use serde_json::{Value, json};
use tokio::{process::Command, time::sleep};

use super::{
    basic,
    crash::spread,
    runtime::{Call, Runtime, told},
    stage::{Checks, Ran, eventually, holds, passes, same},
};
use crate::{
    lab::{Lab, Namespace},
    net,
    report::Report,
};

/// A daemon tells runtimes that it can serve some seconds after it can.
const WRITTEN_WITHIN: Duration = Duration::from_secs(10);
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// STATUS is asked every few seconds, of every host. It takes some milliseconds, the shells around it a busy machine's time.
const STATUS_WITHIN: Duration = Duration::from_millis(500);
/// How often a daemon is killed while so many containers come.
const KILLS: usize = 10;
const AT_ONCE: usize = 8;
/// A kill comes at any moment of this time.
const BUSY: Duration = Duration::from_millis(400);
/// Containers that are added one after the other.
const ADDS: usize = 20;

/// Our plugin alone.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    let (runtime, ready, mut checks) = begin(lab, &[]).await?;
    let used = used(lab, 0).await?;
    wishes(lab, &runtime, &mut checks).await?;
    without_a_daemon(lab, &runtime, &mut checks).await?;
    again_and_again(lab, &runtime, &mut checks).await?;
    killed(lab, &runtime, &mut checks).await?;
    checks.add("no address is left of all that", eventually_used(lab, 0, used).await?);
    end(lab, &runtime, ready, checks).await
}

/// With the plugins that others put behind ours.
pub async fn chain(lab: &mut Lab) -> anyhow::Result<Report> {
    let (runtime, ready, mut checks) = begin(lab, &["portmap", "bandwidth", "firewall", "tuning"]).await?;
    ports(lab, &runtime, &mut checks).await?;
    end(lab, &runtime, ready, checks).await
}

/// Two containers on each host, by the library.
async fn begin(lab: &mut Lab, plugins: &[&str]) -> anyhow::Result<(Runtime, Duration, Checks)> {
    let runtime = Runtime::prepare(lab, plugins).await?;
    let ready = lab.start_all().await?;
    let mut checks = Checks::default();
    for host in 0..lab.hosts.len() {
        let written = eventually(WRITTEN_WITHIN, async || {
            Ok(holds(Runtime::conflist(lab, host).is_file(), || "no conflist".to_owned()))
        });
        checks.timed(format!("h{} tells runtimes that it can serve", host + 1), written.await?);
        for _ in 0..2 {
            let container = lab.make_netns(host).await?;
            let added = runtime.list(lab, host, "add", &container, (&json!({}), "")).await?;
            anyhow::ensure!(added.code == 0, "{} was not added: {}", container.name, added.stderr);
            lab.adopt(host, container).await?;
        }
    }
    let valid = runtime.list(lab, 0, "validate", &namespace(lab, 0), (&json!({}), "")).await?;
    checks.add("the library finds all plugins to speak its version", valid.says(0, &[]));
    Ok((runtime, ready, checks))
}

/// Everybody reaches everybody, and nothing is left when all are deleted.
async fn end(
    lab: &mut Lab,
    runtime: &Runtime,
    ready: Duration,
    mut checks: Checks,
) -> anyhow::Result<Report> {
    let pings = lab.ping_all().await?;
    for index in 0..lab.containers.len() {
        let (host, container) = (lab.containers[index].host, namespace(lab, index));
        let deleted = runtime.list(lab, host, "del", &container, (&json!({}), "")).await?;
        checks.add(format!("{} is deleted", container.name), deleted.says(0, &[]));
    }
    lab.containers.clear();
    for host in 0..lab.hosts.len() {
        let links = lab.on_host(host, &["sh", "-c", "ip -br link | grep -c ^wv || true"]).await?;
        // That of the canary.
        checks.add(format!("no link is left on h{}", host + 1), same(&"1", &links.trim()));
    }
    let mut report = basic::report(lab).await?;
    (report.ready, report.pings) = (ready, pings);
    report.checks.extend(checks.0);
    Ok(report)
}

/// A container of the lab, as runtimes know it.
fn namespace(lab: &Lab, index: usize) -> Namespace {
    let container = &lab.containers[index];
    Namespace { name: container.name.clone(), path: container.netns.clone() }
}

/// What is asked for is given: an address, a MAC address; and the tuning plugin's way with it, by hand.
async fn wishes(lab: &mut Lab, runtime: &Runtime, checks: &mut Checks) -> anyhow::Result<()> {
    let owned = basic::owned(lab, 0).await?[0];
    let wanted = Ipv4Addr::from(u32::from(owned.network()) + 0x1234);
    let args = format!("IgnoreUnknown=1;IP={wanted};MAC=02:00:00:00:12:34");
    let container = lab.make_netns(0).await?;
    let added = runtime.list(lab, 0, "add", &container, (&json!({}), &args)).await?;
    let result = told(&added);
    let address = result.pointer("/ips/0/address").and_then(Value::as_str).unwrap_or_default();
    checks.add("the wanted address is given", same(&format!("{wanted}/32").as_str(), &address));
    let mac = result.pointer("/interfaces/1/mac").and_then(Value::as_str).unwrap_or_default();
    checks.add("and the wanted MAC address", same(&"02:00:00:00:12:34", &mac));
    let index = lab.adopt(0, container).await?;
    let taken = lab.make_netns(0).await?;
    let refused = runtime.list(lab, 0, "add", &taken, (&json!({}), &args)).await?;
    checks.add("it is given once", refused.says(1, &["already in use"]));
    let bare = net::run(Command::new("ip").args(["-n", &taken.name, "-br", "link"])).await?;
    checks.add("and who was refused has nothing of it", holds(!bare.contains("eth0"), || bare));

    for set in ["02:00:00:00:12:34", "02:00:00:00:56:78"] {
        lab.in_container(index, &["ip", "link", "set", "eth0", "address", set]).await?;
        let both = passes(lab, index, 2).await?.and(passes(lab, 2, index).await?);
        checks.add(format!("it is reached, and reaches others, once it is set to {set}"), both);
    }
    lab.in_container(index, &["sh", "-c", "ip link set eth0 down; ip link set eth0 up"]).await?;
    let back = eventually(GONE_WITHIN, async || Ok(passes(lab, index, 2).await?));
    checks.timed("and once its link was down", back.await?);
    let (container, none) = (namespace(lab, index), json!({}));
    let check = runtime.list(lab, 0, "check", &container, (&none, "")).await?;
    checks.add("CHECK finds nothing wrong with that", check.says(0, &[]));
    Ok(())
}

/// What is asked while no daemon is there.
async fn without_a_daemon(lab: &mut Lab, runtime: &Runtime, checks: &mut Checks) -> anyhow::Result<()> {
    let container = lab.make_netns(0).await?;
    let netns = container.path.to_string_lossy().into_owned();
    let call = Call { id: &container.name, netns: &netns, previous: None };
    let (up, took) = runtime.call(lab, 0, "STATUS", call).await?;
    checks.add("STATUS says that it can serve", up.says(0, &[]));
    let (added, _) = runtime.call(lab, 0, "ADD", call).await?;
    checks.add(
        format!("in {} ms, shells included", took.as_millis()),
        holds(took < STATUS_WITHIN, String::new),
    );
    checks.add("ADD by the plugin itself", added.says(0, &["169.254.1.1", "\"mtu\""]));

    lab.kill_host(0).await?;
    let (down, _) = runtime.call(lab, 0, "STATUS", call).await?;
    checks.add("STATUS says that no daemon is there", down.says(1, &["\"code\":50", "cannot be reached"]));
    let other = Call { id: "other", ..call };
    let (refused, _) = runtime.call(lab, 0, "ADD", other).await?;
    checks.add("ADD says so as well", refused.says(1, &["\"code\":100", "systemctl start weavers"]));
    for netns in [netns.as_str(), ""] {
        let (deleted, _) = runtime.call(lab, 0, "DEL", Call { netns, ..call }).await?;
        checks.add("DEL succeeds, whoever hears of it", deleted.says(0, &[]));
    }
    lab.start_host(0)?;
    lab.await_ready(0).await?;
    let gone = eventually(GONE_WITHIN, async || {
        let links = net::run(Command::new("ip").args(["-n", &container.name, "-br", "link"])).await?;
        Ok(holds(!links.contains("eth0"), || links))
    });
    checks.timed("the daemon deletes it when it is back", gone.await?);
    let (again, _) = runtime.call(lab, 0, "ADD", call).await?;
    checks.add("the same container can be added again", again.says(0, &[]));
    lab.kill_host(0).await?;
    lab.start_host(0)?;
    lab.await_ready(0).await?;
    let (check, _) = runtime.call(lab, 0, "CHECK", Call { previous: Some(&told(&again)), ..call }).await?;
    checks.add("and what was deleted before is not deleted twice", check.says(0, &[]));
    net::run(Command::new("ip").args(["netns", "del", &container.name])).await?;
    let (deleted, _) = runtime.call(lab, 0, "DEL", call).await?;
    checks.add("DEL of a namespace that is gone succeeds", deleted.says(0, &[]));
    let (unknown, _) = runtime.call(lab, 0, "ADD", call).await?;
    checks.add("ADD of it does not", unknown.says(1, &["\"code\":8", "cannot be entered"]));
    let (collected, _) = runtime.call(lab, 0, "GC", Call::default()).await?;
    checks.add("GC is understood", collected.says(0, &[]));
    Ok(())
}

/// ADD, ADD again, CHECK and DEL, many times.
async fn again_and_again(lab: &mut Lab, runtime: &Runtime, checks: &mut Checks) -> anyhow::Result<()> {
    let container = lab.make_netns(0).await?;
    let netns = container.path.to_string_lossy().into_owned();
    let (mut adds, mut wrong) = (Vec::new(), Vec::new());
    for number in 0..ADDS {
        let call = Call { id: &format!("x{number}"), netns: &netns, previous: None };
        let (added, took) = runtime.call(lab, 0, "ADD", call).await?;
        let (again, _) = runtime.call(lab, 0, "ADD", call).await?;
        let (other, _) = runtime.call(lab, 0, "ADD", Call { id: "other", ..call }).await?;
        let (deleted, _) = runtime.call(lab, 0, "DEL", call).await?;
        adds.push(took);
        let same_twice = same(&added.stdout, &again.stdout);
        let one_each = other.says(1, &["\"code\":101", &format!("cni/weavers/x{number}/eth0")]);
        wrong.extend(
            [added.says(0, &[]), same_twice, one_each, deleted.says(0, &[])]
                .into_iter()
                .filter_map(Result::err),
        );
    }
    checks.add(format!("ADD took {}, shells included", spread(adds)), Ok(()));
    checks
        .add("and again the same each time, for one container", holds(wrong.is_empty(), || wrong.join("\n")));
    Ok(())
}

/// Eight come at once, and the daemon is killed meanwhile.
async fn killed(lab: &mut Lab, runtime: &Runtime, checks: &mut Checks) -> anyhow::Result<()> {
    let (mut wrong, mut made) = (Vec::new(), 0);
    let mut containers = Vec::new();
    for _ in 0..AT_ONCE {
        containers.push(lab.make_netns(0).await?);
    }
    for round in 0..KILLS {
        let adds = all(lab, runtime, "ADD", round, &containers)?;
        sleep(BUSY.mul_f64(rand::random())).await;
        lab.kill_host(0).await?;
        let added = join(adds).await?;
        let given: Vec<String> = added.iter().filter(|ran| ran.code == 0).filter_map(address).collect();
        let distinct: BTreeSet<&String> = given.iter().collect();
        if distinct.len() != given.len() {
            wrong.push(format!("given twice: {given:?}"));
        }
        made += given.len();
        // Half of them while no daemon is there.
        let (before, after) = containers.split_at(AT_ONCE / 2);
        let dels = join(all(lab, runtime, "DEL", round, before)?).await?;
        lab.start_host(0)?;
        lab.await_ready(0).await?;
        let more = join(all(lab, runtime, "DEL", round, after)?).await?;
        wrong.extend(dels.iter().chain(&more).filter_map(|ran| ran.says(0, &[]).err()));
    }
    checks.add(
        format!("{KILLS} kills while {AT_ONCE} were added at once, of which {made} were: no address twice, every DEL succeeds"),
        holds(wrong.is_empty(), || wrong.join("\n")),
    );
    Ok(())
}

type Running = tokio::task::JoinHandle<std::io::Result<Output>>;

/// Our plugin does this to all of these containers at once.
fn all(
    lab: &Lab,
    runtime: &Runtime,
    verb: &str,
    round: usize,
    containers: &[Namespace],
) -> anyhow::Result<Vec<Running>> {
    let started = containers.iter().map(|container| {
        let (id, netns) = (format!("{}-{round}", container.name), container.path.to_string_lossy());
        let mut command = runtime.ours(lab, 0, verb, Call { id: &id, netns: &netns, previous: None })?;
        Ok(tokio::spawn(async move { command.output().await }))
    });
    started.collect()
}

async fn join(running: Vec<Running>) -> anyhow::Result<Vec<Ran>> {
    let mut all = Vec::new();
    for one in running {
        let output = one.await??;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().unwrap_or(-1);
        all.push(Ran { code, stdout: text(&output.stdout), stderr: text(&output.stderr) });
    }
    Ok(all)
}

fn address(ran: &Ran) -> Option<String> {
    Some(told(ran).pointer("/ips/0/address")?.as_str()?.to_owned())
}

/// A port of a host leads into a container, from another host; and what others set up is theirs.
async fn ports(lab: &mut Lab, runtime: &Runtime, checks: &mut Checks) -> anyhow::Result<()> {
    let capabilities = json!({
        "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }],
        "bandwidth": { "ingressRate": 1_000_000_000, "ingressBurst": 100_000_000, "egressRate": 1_000_000_000, "egressBurst": 100_000_000 },
        "mac": "02:00:00:00:00:99",
    });
    let container = lab.make_netns(0).await?;
    let added = runtime.list(lab, 0, "add", &container, (&capabilities, "")).await?;
    checks
        .add("ADD with a port, a bandwidth and a MAC address", added.says(0, &["02:00:00:00:00:99", "bwp"]));
    let index = lab.adopt(0, container).await?;
    let (netns, host) = (lab.containers[index].netns.clone(), lab.hosts[0].address);
    let asker = lab.containers[2].netns.clone();
    let through = net::tcp_echo_by(&asker, &netns, 80, (host, 8080)).await;
    checks.add(
        "a container of another host reaches it by that port",
        through.map_err(|error| format!("{error:#}")),
    );
    let settled = lab.settled(0).await?;
    checks.timed("and nothing of that is fought", settled);
    // Of the chain as a whole 1.1.1 of the others makes a mess: portmap looks for IPv6, bandwidth dies where there is none.
    let (name, netns) = (&lab.containers[index].name, netns.to_string_lossy());
    let call = Call { id: name, netns: &netns, previous: Some(&told(&added)) };
    let (check, _) = runtime.call(lab, 0, "CHECK", call).await?;
    checks.add("CHECK finds nothing wrong with what they have added and changed", check.says(0, &[]));
    let shaped = lab.on_host(0, &["sh", "-c", "tc qdisc show | grep -c tbf"]).await?;
    checks.add("the bandwidth is still bounded", holds(shaped.trim() != "0", || shaped));
    Ok(())
}

/// Addresses that are in use on a host.
async fn used(lab: &Lab, host: usize) -> anyhow::Result<u64> {
    let status = lab.status(host).await?;
    Ok(status.pointer("/ipam/used").and_then(Value::as_u64).unwrap_or_default())
}

async fn eventually_used(lab: &Lab, host: usize, before: u64) -> anyhow::Result<Result<(), String>> {
    // That of the container that asked for its address stays.
    let kept = lab.containers.iter().filter(|container| container.host == host).count() as u64 - 2;
    let expected = before + kept;
    let gone = eventually(GONE_WITHIN, async || Ok(same(&expected, &used(lab, host).await?))).await?;
    let spool = format!("/proc/{}/root/run/weave/deleted", lab.hosts[host].keeper_pid()?);
    let notes = fs::read_dir(Path::new(&spool)).map(Iterator::count).unwrap_or_default();
    Ok(gone.map(drop).and(same(&0, &notes)))
}
