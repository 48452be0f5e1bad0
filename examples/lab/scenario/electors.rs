//! Electors are lost: for a while, one after another, and most of them at once. Their seats are filled by
//! decisions as long as a majority is there to decide; then by one host alone, if somebody says so.

use std::{collections::BTreeSet, time::Duration};

use ipnet::Ipv4Net;
use weavers::sim::vpc::Power;

use super::{
    basic::owned,
    stage::{self, Checks, eventually, holds, same},
    terminate::{forget, one_owner, out_of_reach, set_power, shares},
};
use crate::{lab::Lab, pinger::end_without_loss, report::Report};

/// The three hosts that make the first ring, by what becomes of them, and how many they are.
const STAYS: usize = 0;
const FIRST: usize = 1;
const SECOND: usize = 2;
const FOUNDERS: usize = 3;
/// How long a terminated host must be silent: at first, and later.
const LONG: &str = "reclaim = \"1h\"";
const SHORT: &str = "reclaim = \"10s\"";
const SOON: Duration = Duration::from_secs(10);
/// The grace, and a look at EC2.
const LATER: Duration = Duration::from_secs(30);
/// How long an elector that is gone keeps its seat, and some looks at EC2.
const UNSEATED: Duration = Duration::from_secs(100);

/// The other five. Seats are filled in the order of names, which each host makes up.
struct Others {
    stays: usize,
    terminated: [usize; 2],
    returns: usize,
    new: usize,
}

impl Others {
    async fn of(lab: &Lab) -> anyhow::Result<Others> {
        let mut named = Vec::new();
        for host in FOUNDERS..lab.hosts.len() {
            named.push((lab.status(host).await?["name"].to_string(), host));
        }
        named.sort();
        let hosts: Vec<usize> = named.into_iter().map(|(_, host)| host).collect();
        let [stays, one, other, returns, new] = hosts[..] else { anyhow::bail!("it takes eight hosts") };
        Ok(Others { stays, terminated: [one, other], returns, new })
    }

    /// Those that are there from the beginning to the end.
    fn survivors(&self) -> [usize; 3] {
        [STAYS, self.stays, self.new]
    }
}

/// Three electors become five, two of which are replaced; of five two are left, and three go on.
pub async fn run(lab: &mut Lab) -> anyhow::Result<Report> {
    stage::founded_by(lab, FOUNDERS)?;
    for host in 0..lab.hosts.len() {
        lab.edit(host, "[vpc]", &format!("[vpc]\n{LONG}"))?;
    }
    let ready = stage::at_work(lab).await?;
    lab.settle().await?;
    let others = Others::of(lab).await?;
    let mut checks = Checks::default();
    // The containers are numbered as their hosts.
    let pingers = lab.ping_ring(&others.survivors())?;
    too_few(lab, &mut checks).await?;
    more(lab, &mut checks, &others).await?;
    let inherited = one_after_another(lab, &mut checks, &others).await?;
    most_at_once(lab, &mut checks, &others).await?;
    alone(lab, &mut checks, &others).await?;
    back(lab, &mut checks, &others, &inherited).await?;
    let (sent, lost) = end_without_loss(pingers).await?;
    checks.add(format!("none of {sent} pings between those that stay was lost meanwhile"), lost);
    stage::report(lab, ready, checks).await
}

/// Two of three electors are stopped: whoever gives one of them up waits, and is told for whom.
async fn too_few(lab: &mut Lab, checks: &mut Checks) -> anyhow::Result<()> {
    let founders = Vec::from_iter(0..FOUNDERS);
    await_electors(lab, checks, "the founders are the first electors", &founders).await?;
    let writes = lab.writes();
    for host in [FIRST, SECOND] {
        lose(lab, host, Power::Stopped).await?;
        not_heard(lab, checks, STAYS, host).await?;
    }
    let (first, second) = (lab.hosts[FIRST].name.clone(), lab.hosts[SECOND].name.clone());
    let refused = forget(lab, STAYS, &[&second]).await?;
    checks.add(
        "without a majority forget names who did not agree, and the way out",
        refused.says(1, &["not agreed", &first, &second, "forget --alone"]),
    );
    checks.add("nothing was written to EC2", same(&writes, &lab.writes()));
    checks.add("nothing was decided", same(&names(lab, &founders), &electors(lab, STAYS).await?));
    Ok(())
}

/// With a majority, hosts that were there all the time become electors too.
async fn more(lab: &mut Lab, checks: &mut Checks, others: &Others) -> anyhow::Result<()> {
    for host in [FIRST, SECOND] {
        set_power(lab, host, Power::Running);
        lab.start_host(host)?;
    }
    for host in [FIRST, SECOND] {
        lab.await_ready(host).await?;
    }
    let five = [STAYS, FIRST, SECOND, others.stays, others.terminated[0]];
    await_electors(lab, checks, "once they are back two more become electors", &five).await
}

/// Each that dies leaves its seat to another. Returns what the one that returns later takes over.
async fn one_after_another(
    lab: &mut Lab,
    checks: &mut Checks,
    others: &Others,
) -> anyhow::Result<Vec<Ipv4Net>> {
    let &Others { stays, terminated: [one, other], returns, .. } = others;
    let inherited = owned(lab, FIRST).await?;
    unseated(lab, checks, FIRST, &[STAYS, SECOND, stays, one, other]).await?;
    forgets(lab, checks, returns, &[&lab.hosts[FIRST].name]).await?;
    no_route_to(lab, checks, FIRST).await?;
    for host in (0..lab.hosts.len()).filter(|host| *host != FIRST) {
        lab.edit(host, LONG, SHORT)?;
        let reloaded = lab.ran(host, &["reload"]).await?;
        checks.add(format!("h{} waits less from now on", host + 1), reloaded.says(0, &["adopted"]));
    }
    dies(lab, checks, SECOND, STAYS).await?;
    await_electors(lab, checks, "the seat of the second is filled", &[STAYS, stays, one, other, returns])
        .await?;
    Ok(inherited)
}

/// The seat of one that dies is filled long before anybody takes over from it.
async fn unseated(lab: &mut Lab, checks: &mut Checks, host: usize, seated: &[usize]) -> anyhow::Result<()> {
    let (writes, routes) = (lab.writes(), lab.routes_to(host));
    lose(lab, host, Power::Terminated).await?;
    let seated = names(lab, seated);
    let filled = eventually(UNSEATED, async || Ok(same(&seated, &electors(lab, STAYS).await?))).await?;
    checks.timed("the seat of the first that dies is filled", filled);
    let told = lab.ran(STAYS, &["status"]).await?;
    checks.add("its ranges are not taken over yet", told.says(0, &["its ranges are taken over in"]));
    let as_before = (writes, routes) == (lab.writes(), lab.routes_to(host));
    checks.add("and its routes are as before", holds(as_before, || format!("{:?}", lab.routes_to(host))));
    Ok(())
}

/// One dies, and another takes over from it.
async fn dies(lab: &mut Lab, checks: &mut Checks, host: usize, heir: usize) -> anyhow::Result<()> {
    lose(lab, host, Power::Terminated).await?;
    not_heard(lab, checks, heir, host).await?;
    forgets(lab, checks, heir, &[&lab.hosts[host].name]).await?;
    no_route_to(lab, checks, host).await
}

/// Three of five are lost at once: the other two decide nothing, and say without whom.
async fn most_at_once(lab: &mut Lab, checks: &mut Checks, others: &Others) -> anyhow::Result<()> {
    for host in others.terminated {
        lose(lab, host, Power::Terminated).await?;
    }
    lose(lab, others.returns, Power::Stopped).await?;
    let writes = lab.writes();
    let [one, other] = others.terminated.map(|host| lab.hosts[host].name.clone());
    let words = ["once enough of these agree", &one, &other, &lab.hosts[others.returns].name];
    let waits = eventually(LATER, async || Ok(lab.ran(STAYS, &["status"]).await?.says(0, &words)));
    checks.timed("with most electors lost nothing is decided, and status names them", waits.await?);
    checks.add("nothing was written to EC2", same(&writes, &lab.writes()));
    Ok(())
}

/// One host decides alone about one of the lost. With that they decide again, as ever.
async fn alone(lab: &mut Lab, checks: &mut Checks, others: &Others) -> anyhow::Result<()> {
    let survivors = others.survivors();
    let before = shares(lab, &survivors).await?;
    forgets(lab, checks, STAYS, &["--alone", &lab.hosts[others.terminated[0]].name]).await?;
    await_electors(lab, checks, "those that are there decide from now on", &survivors).await?;
    let lost = lab.hosts[others.returns].name.clone();
    let rests = lab.ran(STAYS, &["status"]).await?;
    checks.add(
        "what was taken over rests for the sake of the stopped one",
        rests.says(0, &[&lost, "confirmation from"]),
    );
    forgets(lab, checks, others.stays, &[&lost]).await?;
    for host in others.terminated.into_iter().chain([others.returns]) {
        no_route_to(lab, checks, host).await?;
    }
    let after = shares(lab, &survivors).await?;
    let grown = [STAYS, others.stays].iter().all(|host| after[host] > before[host]);
    checks.add("the two that gave somebody up are heirs", holds(grown, || format!("{before:?} {after:?}")));
    checks.add("each address has one owner", one_owner(lab).await?);
    Ok(())
}

/// A lost elector comes back with all that it knew: it is a peer, and owns what its container uses.
async fn back(
    lab: &mut Lab,
    checks: &mut Checks,
    others: &Others,
    inherited: &[Ipv4Net],
) -> anyhow::Result<()> {
    let &Others { returns, .. } = others;
    set_power(lab, returns, Power::Running);
    lab.start_host(returns)?;
    lab.await_ready(returns).await?;
    let (from, to) = (container_of(lab, STAYS)?, container_of(lab, returns)?);
    let reached = eventually(SOON, async || stage::passes(lab, from, to).await);
    checks.timed("a lost elector comes back, and its container is reached", reached.await?);
    for host in others.survivors().into_iter().chain([returns]) {
        checks.timed(format!("h{} has nothing left to do", host + 1), lab.settled(host).await?);
        let same = same(&names(lab, &others.survivors()), &electors(lab, host).await?);
        checks.add(format!("h{} has the same electors", host + 1), same);
    }
    let (kept, address) = (owned(lab, returns).await?, lab.containers[to].address);
    let uses = kept.iter().any(|cidr| cidr.contains(&address));
    checks.add("it owns what its container uses", holds(uses, || format!("{address} is not in {kept:?}")));
    let unused = kept.iter().any(|cidr| inherited.iter().any(|one| one.contains(cidr) || cidr.contains(one)));
    checks.add("what it does not use stays lost", holds(!unused, || format!("{inherited:?} in {kept:?}")));
    checks.add("each address has one owner", one_owner(lab).await?);
    Ok(())
}

/// Ends a host's daemon and its instance. Of a terminated one no container is left.
async fn lose(lab: &mut Lab, host: usize, power: Power) -> anyhow::Result<()> {
    lab.kill_host(host).await?;
    set_power(lab, host, power);
    lab.containers.retain(|container| container.host != host || power != Power::Terminated);
    Ok(())
}

/// Gives a host up, so that the one on which that is said takes over.
async fn forgets(lab: &Lab, checks: &mut Checks, heir: usize, whom: &[&str]) -> anyhow::Result<()> {
    let ran = forget(lab, heir, whom).await?;
    let status = lab.status(heir).await?;
    let name = status["name"].as_str().unwrap_or_default();
    checks.add(format!("h{}: forget {}", heir + 1, whom.join(" ")), ran.says(0, &[name]));
    Ok(())
}

/// Waits until a host does not hear another any more.
async fn not_heard(lab: &Lab, checks: &mut Checks, by: usize, host: usize) -> anyhow::Result<()> {
    let silent = eventually(SOON, async || out_of_reach(lab, by, host).await).await?;
    checks.timed(format!("h{} does not hear h{} any more", by + 1, host + 1), silent);
    Ok(())
}

/// Waits until no route leads to a host.
async fn no_route_to(lab: &Lab, checks: &mut Checks, host: usize) -> anyhow::Result<()> {
    let moved = eventually(LATER, async || Ok(same(&Vec::new(), &lab.routes_to(host)))).await?;
    checks.timed(format!("the routes of h{} go to another", host + 1), moved);
    Ok(())
}

/// Waits until the first host says that these are the electors.
async fn await_electors(lab: &Lab, checks: &mut Checks, what: &str, hosts: &[usize]) -> anyhow::Result<()> {
    let expected = names(lab, hosts);
    let found = eventually(SOON, async || Ok(same(&expected, &electors(lab, STAYS).await?))).await?;
    checks.timed(what, found);
    Ok(())
}

/// The electors, by a host's word.
async fn electors(lab: &Lab, host: usize) -> anyhow::Result<BTreeSet<String>> {
    let status = lab.status(host).await?;
    let all = status["ipam"]["electors"].as_array().map(Vec::as_slice).unwrap_or_default();
    let nickname = |elector: &str| Some(elector.split_once(" (")?.1.trim_end_matches(')').to_owned());
    Ok(all.iter().filter_map(|elector| nickname(elector.as_str()?)).collect())
}

fn names(lab: &Lab, hosts: &[usize]) -> BTreeSet<String> {
    hosts.iter().map(|&host| lab.hosts[host].name.clone()).collect()
}

fn container_of(lab: &Lab, host: usize) -> anyhow::Result<usize> {
    let found = lab.containers.iter().position(|container| container.host == host);
    found.ok_or_else(|| anyhow::anyhow!("h{} has no container", host + 1))
}
