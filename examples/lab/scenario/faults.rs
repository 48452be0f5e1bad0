//! EC2 as it is on a bad day: each fault in turn, while there is something to write. Containers do not notice.
//!
//! What there is to write are the routes in a second table, which a colleague empties: the packets of the
//! containers do not depend on it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use weavers::{
    sim::vpc::{
        Action, ApiError, Call, Caller, Faults, Find, InstanceId, Metadata, RouteTarget, Signatures, Targets,
        Throttle,
    },
    state::TableId,
};

use super::stage::{Checks, at_work, eventually, holds, report, same};
use crate::{lab::Lab, pinger::end_without_loss, report::Report};

/// A call that is not answered is waited for so long, and the next one again.
const NAMED_WITHIN: Duration = Duration::from_secs(40);
/// Pauses between tries grow up to a minute.
const RECOVERY: Duration = Duration::from_secs(75);
/// How long an account is kept busy by somebody else.
const BUSY: Duration = Duration::from_secs(8);
/// First pause after a step that failed; doubles from one to the next.
const PAUSE: Duration = Duration::from_millis(500);
/// Calls that a step makes before it counts as failed.
const ATTEMPTS: u64 = 2;
/// A stand-in that takes so long never answers, as far as a caller can tell.
const NEVER_MS: u64 = 600_000;

/// A fault, and what it looks like from a host.
struct Trouble {
    what: &'static str,
    faults: Faults,
    /// What status says meanwhile; nothing where it passes unnoticed.
    words: &'static [&'static str],
}

/// Everything that goes wrong with calls.
pub async fn calls(lab: &mut Lab) -> anyhow::Result<Report> {
    let (second, ready) = prepared(lab).await?;
    let mut checks = Checks::default();
    let pingers = lab.ping_ring(&Vec::from_iter(0..lab.containers.len()))?;
    let of = |action, times| BTreeMap::from([(action, times)]);
    let hosts = lab.hosts.len() as u32;
    for trouble in [
        Trouble {
            what: "500 after the change was made",
            faults: Faults { lose: of(Action::CreateRoute, hosts), ..Faults::default() },
            words: &[],
        },
        Trouble {
            what: "answers that break off",
            faults: Faults {
                cut: [(Action::CreateRoute, hosts), (Action::DescribeRouteTables, hosts)].into(),
                ..Faults::default()
            },
            words: &[],
        },
        Trouble {
            what: "reads that fail",
            faults: Faults { fail: of(Action::DescribeRouteTables, 10_000), ..Faults::default() },
            words: &["the VPC cannot be read", "InternalError", "EC2 itself failed"],
        },
        Trouble {
            what: "reads of three seconds ago",
            faults: Faults { stale_ms: 3000, ..Faults::default() },
            words: &[],
        },
        Trouble {
            what: "answers that take two seconds",
            faults: Faults { delay_ms: 2000, ..Faults::default() },
            words: &[],
        },
        Trouble {
            what: "no answer at all",
            faults: Faults { delay_ms: NEVER_MS, ..Faults::default() },
            words: &["the VPC cannot be read", "no answer in time", "the way to the EC2 endpoint"],
        },
    ] {
        suffer(lab, &second, trouble, &mut checks).await?;
    }
    busy(lab, &second, &mut checks).await?;
    finish(lab, ready, checks, pingers).await
}

/// Everything that goes wrong with who calls.
pub async fn callers(lab: &mut Lab) -> anyhow::Result<Report> {
    let (second, ready) = prepared(lab).await?;
    let mut checks = Checks::default();
    let pingers = lab.ping_ring(&Vec::from_iter(0..lab.containers.len()))?;
    let signatures = |signatures| Faults { signatures, ..Faults::default() };
    suffer(
        lab,
        &second,
        Trouble {
            what: "a clock that is off",
            faults: signatures(Signatures::RequestExpired),
            words: &["the VPC cannot be read", "RequestExpired", "chronyc tracking"],
        },
        &mut checks,
    )
    .await?;
    denied(lab, &second, &mut checks).await?;
    // Keys that were handed out are of no use any more; new ones are to be had.
    lab.cloud.expire_keys();
    suffer(
        lab,
        &second,
        Trouble {
            what: "expired credentials",
            faults: signatures(Signatures::ExpiredToken),
            words: &["the VPC cannot be read", "ExpiredToken", "renew"],
        },
        &mut checks,
    )
    .await?;
    for (what, metadata, words) in [
        (
            "metadata that is disabled",
            Metadata::Off,
            &["instance metadata", "IMDS is disabled", "--http-endpoint enabled"],
        ),
        (
            "a hop limit of 1",
            Metadata::TooFar,
            &["instance metadata", "hop-limit 2", "the VPC cannot be read"],
        ),
    ] {
        let faults = Faults { metadata, ..Faults::default() };
        restarted_under(lab, &second, Trouble { what, faults, words }, &mut checks).await?;
    }
    finish(lab, ready, checks, pingers).await
}

/// The lab at work, with a second table that all hosts keep.
async fn prepared(lab: &mut Lab) -> anyhow::Result<(TableId, Duration)> {
    let second = lab.cloud.with(|vpc, now| vpc.add_table(now));
    let tables = format!("[vpc]\nroute_tables = [\"{}\", \"{second}\"]", lab.table);
    for host in 0..lab.hosts.len() {
        lab.edit(host, "[vpc]", &tables)?;
    }
    let ready = at_work(lab).await?;
    Ok((second, ready))
}

async fn finish(
    lab: &Lab,
    ready: Duration,
    mut checks: Checks,
    pingers: Vec<crate::pinger::Pinger>,
) -> anyhow::Result<Report> {
    let (sent, lost) = end_without_loss(pingers).await?;
    checks.add(format!("none of {sent} pings was lost meanwhile"), lost);
    report(lab, ready, checks).await
}

/// A fault while a table is to be filled: it is named, nothing is withdrawn, and when it ends all is done.
async fn suffer(
    lab: &mut Lab,
    second: &TableId,
    trouble: Trouble,
    checks: &mut Checks,
) -> anyhow::Result<()> {
    let Trouble { what, faults, words } = trouble;
    let (before, routes) = (written(lab), routes(lab, &lab.table));
    let emptied = empty(lab, second, faults);
    name(lab, what, words, checks).await?;
    checks.add(format!("{what}: nothing is withdrawn"), same(&routes, &self::routes(lab, &lab.table)));
    if words.is_empty() {
        // It passes by itself, or does not keep anybody from anything.
        recover(lab, second, what, emptied, &before, checks).await?;
    }
    lab.cloud.with(|vpc, _| vpc.set_faults(Faults::default()));
    if !words.is_empty() {
        recover(lab, second, what, emptied, &before, checks).await?;
    }
    Ok(())
}

/// A permission that is taken away. Nobody is told when it is given back, so somebody has to say so.
async fn denied(lab: &mut Lab, second: &TableId, checks: &mut Checks) -> anyhow::Result<()> {
    let what = "a permission taken away";
    let (before, routes) = (written(lab), routes(lab, &lab.table));
    let faults = Faults { denied: [Action::CreateRoute].into(), ..Faults::default() };
    let emptied = empty(lab, second, faults);
    let words = &["CreateRoute", "not allowed", r#"{"Effect": "Allow", "Action": "ec2:CreateRoute""#];
    name(lab, what, words, checks).await?;
    checks.add(format!("{what}: nothing is withdrawn"), same(&routes, &self::routes(lab, &lab.table)));
    lab.cloud.with(|vpc, _| vpc.set_faults(Faults::default()));
    for host in 0..lab.hosts.len() {
        let apply = lab.ran(host, &["apply"]).await?;
        checks
            .add(format!("{what}: given back, apply on h{} goes on", host + 1), apply.says(0, &["Applied"]));
    }
    recover(lab, second, what, emptied, &before, checks).await
}

/// The same for a host that starts while the fault lasts: it knows from its store who it is.
async fn restarted_under(
    lab: &mut Lab,
    second: &TableId,
    Trouble { what, faults, words }: Trouble,
    checks: &mut Checks,
) -> anyhow::Result<()> {
    let (before, routes) = (written(lab), routes(lab, &lab.table));
    lab.stop_host(0).await?;
    let emptied = empty(lab, second, faults);
    lab.start_host(0)?;
    name(lab, what, words, checks).await?;
    checks.add(format!("{what}: nothing is withdrawn"), same(&routes, &self::routes(lab, &lab.table)));
    lab.cloud.with(|vpc, _| vpc.set_faults(Faults::default()));
    recover(lab, second, what, emptied, &before, checks).await
}

/// Somebody else in the account calls as fast as EC2 lets anybody: the buckets are AWS's own.
async fn busy(lab: &mut Lab, second: &TableId, checks: &mut Checks) -> anyhow::Result<()> {
    let what = "a busy account";
    let caller = Caller::Instance(InstanceId("i-of-somebody-else".to_owned()));
    let (cloud, table) = (lab.cloud.clone(), lab.table.0.clone());
    let faults = Faults { throttle: Throttle::Aws, ..Faults::default() };
    let (before, routes) = (written(lab), routes(lab, &lab.table));
    let (turned_away, start) = (turned_away(lab), Instant::now());
    let emptied = empty(lab, second, faults);
    let greedy = tokio::spawn(async move {
        let read = Call::DescribeRouteTables(Find::default());
        let (destination, targets) = ("10.32.0.0/12".into(), Targets::default());
        let write = Call::CreateRoute { table, destination, targets, dry_run: true };
        loop {
            cloud.with(|vpc, now| {
                for call in [&read, &write] {
                    let refused = |error: &ApiError| error.code == "RequestLimitExceeded";
                    while !vpc.call(now, &caller, call).result.as_ref().is_err_and(refused) {}
                }
            });
            sleep(Duration::from_millis(10)).await;
        }
    });
    let words = &["the VPC cannot be read", "RequestLimitExceeded", "the whole account"];
    name(lab, what, words, checks).await?;
    sleep(BUSY).await;
    checks.add(format!("{what}: nothing is withdrawn"), same(&routes, &self::routes(lab, &lab.table)));
    greedy.abort();
    recover(lab, second, what, emptied, &before, checks).await?;
    let turned_away = self::turned_away(lab) - turned_away;
    let most = emptied as u64 * ATTEMPTS * tries_within(start.elapsed());
    checks.add(
        format!("{what}: {turned_away} writing calls more were turned away"),
        holds(turned_away <= most, || format!("more than {most}: pauses did not grow")),
    );
    lab.cloud.with(|vpc, _| vpc.set_faults(Faults::default()));
    Ok(())
}

/// Status tells, and the host does not call itself converged.
async fn name(lab: &Lab, what: &str, words: &[&str], checks: &mut Checks) -> anyhow::Result<()> {
    if words.is_empty() {
        return Ok(());
    }
    let named = eventually(NAMED_WITHIN, async || Ok(lab.ran_when_up(0, &["status"]).await?.says(0, words)));
    checks.timed(format!("{what}: status says so, and what to do"), named.await?);
    let check = lab.ran(0, &["status", "--check"]).await?;
    checks.add(format!("{what}: the host does not call itself converged"), check.says(3, &[]));
    Ok(())
}

/// All is as before, for no more than twice the calls that it took.
async fn recover(
    lab: &Lab,
    second: &TableId,
    what: &str,
    emptied: usize,
    before: &BTreeMap<Action, u64>,
    checks: &mut Checks,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let full = eventually(RECOVERY, async || {
        let found = routes(lab, second).len();
        Ok(holds(found == emptied, || format!("{found} of {emptied} routes are back in {second}")))
    });
    let mut back = full.await?;
    for host in 0..lab.hosts.len() {
        let left = RECOVERY.saturating_sub(start.elapsed());
        let check = eventually(left, async || Ok(lab.ran(host, &["status", "--check"]).await?.says(0, &[])));
        let settled = check.await?;
        back = back.and_then(|_| settled.map(|_| start.elapsed()));
    }
    checks.timed(format!("{what}: all is as before"), back);
    let sum = |calls: &BTreeMap<Action, u64>| calls.values().sum::<u64>() as usize;
    let calls = sum(&written(lab)) - sum(before);
    checks.add(
        format!("{what}: {emptied} routes took {calls} writing calls"),
        holds(calls <= 2 * emptied, || format!("more than {}", 2 * emptied)),
    );
    Ok(())
}

// ===== the VPC =====

/// A colleague empties a table at the moment at which the fault begins; how many routes it had.
fn empty(lab: &Lab, table: &TableId, faults: Faults) -> usize {
    let destinations = routes(lab, table);
    lab.cloud.with(|vpc, now| {
        vpc.set_faults(faults);
        for destination in &destinations {
            let (table, destination) = (table.0.clone(), destination.as_str().into());
            let call = Call::DeleteRoute { table, destination, dry_run: false };
            // Gone already is as good.
            let _ = vpc.call(now, &Caller::Console, &call).result;
        }
    });
    destinations.len()
}

/// Destinations of the routes of a table that lead to an interface.
fn routes(lab: &Lab, table: &TableId) -> Vec<String> {
    let all = lab.cloud.with(|vpc, _| vpc.routes(table));
    let ours = all.iter().filter(|route| matches!(route.target, RouteTarget::Interface(_)));
    ours.map(|route| route.destination.to_string()).collect()
}

/// Writing calls of the hosts so far that EC2 took in. Those that it turned away as too many are counted by themselves:
/// how many there are depends on how long others keep it busy, which nobody can tell without a call.
fn written(lab: &Lab) -> BTreeMap<Action, u64> {
    let mut sums = BTreeMap::new();
    for host in &lab.hosts {
        let caller = Caller::Instance(host.instance.clone());
        let (calls, throttled) = lab.cloud.with(|vpc, _| (vpc.calls_by(&caller), vpc.throttled_by(&caller)));
        for (action, count) in calls.into_iter().filter(|(action, _)| action.mutates()) {
            *sums.entry(action).or_default() += count - throttled.get(&action).copied().unwrap_or_default();
        }
    }
    sums
}

/// Writing calls of the hosts so far that were too many.
fn turned_away(lab: &Lab) -> u64 {
    let callers = lab.hosts.iter().map(|host| Caller::Instance(host.instance.clone()));
    let throttled = callers.flat_map(|caller| lab.cloud.with(|vpc, _| vpc.throttled_by(&caller)));
    throttled.filter(|(action, _)| action.mutates()).map(|(_, count)| count).sum()
}

/// How often something is tried within this time, if each pause is twice the one before.
fn tries_within(time: Duration) -> u64 {
    let pauses = time.as_secs_f64() / PAUSE.as_secs_f64();
    1 + (pauses + 1.0).log2() as u64
}
