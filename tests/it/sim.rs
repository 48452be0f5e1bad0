//! Seeded worlds: many hosts, one VPC, and all that goes wrong between them.
//!
//! `WEAVERS_SEEDS` says how many worlds are played, `WEAVERS_SEED` plays one and shows its last events, `WEAVERS_EVENTS` of them.

use std::{
    fs,
    path::Path,
    sync::Mutex,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use weavers::sim::{Outcome, World, growth::Growth, turnover::Turnover};

/// Worlds that are played unless told otherwise.
const SEEDS_DEFAULT: u64 = 200;
/// The same of those in which hosts forget, which last longer.
const SEEDS_FORGETFUL: u64 = 60;
/// Worlds in which something was wrong once: an elector that voted twice, a canary at an address that its host had given away, a
/// user who was told again of such an address, a quarantine without an end, a host that took back, by an old disk, what it had left to
/// its heir, one that left to its heir what it had given up to another, two that gave up an address to each other, and a cluster that all
/// left while one was dead.
const FORGETFUL_KEPT: [u64; 10] = [42, 54, 309, 2022, 3478, 10338, 10391, 10862, 10907, 40839];
/// Hosts in a crowd unless told otherwise. With 60 the troubles of this seed cut the space into more pieces than a table of 1,000 routes
/// holds, and to put so many together takes more writes than hosts make within its time.
const CROWD_DEFAULT: u64 = 59;
/// Hosts of which all list one.
const LISTED_DEFAULT: u64 = 20;
/// The last events of a world that are shown unless told otherwise.
const EVENTS_DEFAULT: usize = 60;
/// Failures that are shown in full.
const SHOWN_MAX: usize = 5;

#[test]
fn hosts_without_trouble_agree_and_settle() {
    for hosts in [1, 2, 3, 5] {
        let outcome = World::calm(hosts as u64, hosts).run();
        assert_eq!(outcome.failure, None);
        assert!(outcome.promised > 0, "somebody was given an address");
    }
}

/// Outside EC2 there is neither a route table nor anybody to ask; beside it nothing of the VPC changes.
#[test]
fn hosts_outside_ec2_reach_each_other_by_routes_of_their_own() {
    for (seed, inside, outside) in [(5, 0, 1), (13, 0, 4), (21, 2, 2), (23, 2, 2), (29, 3, 4)] {
        let outcome = World::mixed(seed, (inside, outside), false, true).keeping(EVENTS_DEFAULT).run();
        assert_eq!(outcome.failure, None);
        assert!(outcome.promised > 0, "somebody was given an address");
    }
}

#[test]
fn hosts_of_one_subnet_reach_each_other_directly_where_they_are_to() {
    let outcome = World::mixed(5, (5, 0), true, true).keeping(EVENTS_DEFAULT).run();
    assert_eq!(outcome.failure, None);
}

/// `WEAVERS_MIXED` says how many. In none of them hosts are found by a tag, which those outside EC2 do not bear.
#[test]
fn paths_survive_crashes_partitions_and_vandals() {
    for number in 0..number("WEAVERS_MIXED").unwrap_or(16) {
        let hosts = [(0, 5), (5, 0), (3, 3), (4, 2)][number as usize % 4];
        let outcome = World::mixed(4 * number + 1 + number % 3, hosts, number % 3 > 0, false)
            .keeping(EVENTS_DEFAULT)
            .run();
        assert_eq!(outcome.failure, None, "{hosts:?}");
    }
}

/// It bears a tag, by which others would be found.
#[test]
fn a_host_that_is_to_be_alone_has_its_ring_though_it_looks_for_others_by_tag() {
    let outcome = World::calm(4, 1).run();
    assert_eq!(outcome.failure, None);
    assert!(outcome.promised > 0);
}

/// `WEAVERS_CROWD` says how many hosts. All that can go wrong does.
#[test]
fn a_crowd_of_hosts_agrees_and_settles() {
    let hosts = number("WEAVERS_CROWD").unwrap_or(CROWD_DEFAULT);
    let begun = Instant::now();
    let outcome = World::crowd(1, hosts as usize).run();
    println!(
        "simulation: {hosts} hosts, {} events in {:.1} s",
        outcome.events,
        begun.elapsed().as_secs_f64()
    );
    assert_eq!(outcome.failure, None);
}

/// `WEAVERS_LISTED` says how many hosts. More than 200 have no room at the one that all list.
#[test]
fn all_hosts_that_list_one_of_them_found_one_cluster_and_one_more_joins_it() {
    let hosts = number("WEAVERS_LISTED").unwrap_or(LISTED_DEFAULT);
    let begun = Instant::now();
    let mut growth = Growth::behind_one(1, hosts as usize);
    let founding = growth.found().unwrap();
    let join = growth.join().unwrap();
    growth.idle(Duration::from_secs(60)).unwrap();
    println!(
        "simulation: {hosts} hosts that list one settle in {:?}, one more joins in {join:?}; {} events in {:.1} s",
        founding.settled,
        growth.events(),
        begun.elapsed().as_secs_f64()
    );
}

/// As many reading calls a minute as EC2 is asked by all hosts together, at most.
const READS_MAX: u64 = 60;

/// Each minute counts: also those after all have looked at once, and those in which EC2 refuses whatever is asked.
/// `WEAVERS_READERS` says how many hosts.
#[test]
fn all_hosts_together_read_less_than_once_a_second() {
    let hosts = number("WEAVERS_READERS").unwrap_or(CROWD_DEFAULT);
    let mut growth = Growth::new(1, hosts as usize);
    growth.found().unwrap();
    // The more hosts there are, the more seldom each of them looks.
    let long = 3 + hosts as usize / 30;
    let settled = minutes(&mut growth, long);
    growth.hurry_everybody();
    growth.idle(Duration::from_secs(5)).unwrap();
    let hurried = minutes(&mut growth, long);
    println!(
        "simulation: {hosts} hosts read {settled:?} times a minute, {hurried:?} after all were disturbed"
    );
    assert!(settled.iter().chain(&hurried).all(|reads| (1..=READS_MAX).contains(reads)));
    growth.throttle(true);
    growth.hurry_everybody();
    let calming = 5 + hosts as usize / 100;
    let throttled = minutes(&mut growth, 2 * calming);
    growth.throttle(false);
    println!("simulation: {hosts} hosts read {throttled:?} times a minute while EC2 refuses");
    assert!(throttled.iter().skip(calming).all(|reads| *reads <= READS_MAX), "they do not ask without end");
}

/// Reading calls in each of the next minutes.
fn minutes(growth: &mut Growth, count: usize) -> Vec<u64> {
    let minute = |_| {
        let before = growth.reads();
        growth.idle(Duration::from_secs(60)).unwrap();
        growth.reads() - before
    };
    (0..count).map(minute).collect()
}

/// Bytes a minute that a host of a cluster sends in which nothing happens, at most. Most are heartbeats.
const IDLE_MAX: u64 = 8_000;

/// `WEAVERS_IDLERS` says how many hosts, `WEAVERS_IDLE_MINUTES` how long they are left alone. Of many hosts it takes some minutes until all
/// have heard of all connections that were made as the cluster was founded.
#[test]
fn hosts_that_know_the_same_tell_each_other_next_to_nothing() {
    let hosts = number("WEAVERS_IDLERS").unwrap_or(20);
    let mut growth = Growth::new(1, hosts as usize);
    growth.found().unwrap();
    growth.idle(Duration::from_secs(20)).unwrap();
    let minute = |_| {
        let before = growth.bytes();
        growth.idle(Duration::from_secs(60)).unwrap();
        (growth.bytes() - before) / hosts
    };
    let of_a_host: Vec<u64> = (0..number("WEAVERS_IDLE_MINUTES").unwrap_or(2)).map(minute).collect();
    println!("simulation: each of {hosts} idle hosts sends {of_a_host:?} bytes, minute by minute");
    assert!(of_a_host.last().is_some_and(|bytes| *bytes <= IDLE_MAX));
}

/// `WEAVERS_TURNOVER` says how many hosts, each of which is replaced five times.
#[test]
fn hosts_that_are_replaced_leave_one_route_each() {
    let hosts = number("WEAVERS_TURNOVER").unwrap_or(10) as usize;
    let mut turnover = Turnover::new(1, hosts, 5, Some(Duration::from_secs(60)));
    turnover.found().unwrap();
    for number in 0..5 * hosts {
        turnover.replace(number % 2 == 0).unwrap();
        turnover.pass(Duration::from_secs(60)).unwrap();
    }
    let before = turnover.routes().0;
    turnover.pass(Duration::from_secs(3600)).unwrap();
    let (routes, running) = turnover.routes();
    println!("simulation: {before} routes lead to {hosts} hosts that were replaced, {routes} an hour later");
    assert_eq!(running, hosts);
    assert!(routes * 10 <= hosts * 11, "{routes} routes of {hosts} hosts: {:?}", turnover.waits());
}

#[test]
fn a_world_follows_from_its_seed() {
    let play = |seed| World::new(seed).run();
    let (one, other) = (play(1), play(1));
    assert_eq!((one.events, one.lasted), (other.events, other.lasted));
    assert_ne!(one.events, play(2).events);
}

#[test]
fn worlds_in_trouble_keep_the_laws() {
    keep_the_laws(World::new, kept(), SEEDS_DEFAULT);
}

#[test]
fn worlds_in_which_hosts_forget_keep_the_laws() {
    keep_the_laws(World::forgetful, FORGETFUL_KEPT.to_vec(), SEEDS_FORGETFUL);
}

/// How a world is made of its seed.
type Make = fn(u64) -> World;

fn keep_the_laws(make: Make, mut seeds: Vec<u64>, count: u64) {
    if let Some(seed) = number("WEAVERS_SEED") {
        let events = number("WEAVERS_EVENTS").map_or(EVENTS_DEFAULT, |events| events as usize);
        let outcome = make(seed).keeping(events).run();
        println!("{outcome:?}");
        assert!(outcome.failure.is_none(), "{}", outcome.failure.unwrap());
        return;
    }
    let count = number("WEAVERS_SEEDS").unwrap_or(count);
    let first = number("WEAVERS_SEED_FIRST").unwrap_or(1);
    let kept = seeds.len();
    seeds.extend(first..first + count);
    let (begun, failed) = (Instant::now(), play_all(make, &seeds));
    let lasted = begun.elapsed();
    println!(
        "simulation: {} seeds kept and {count} from {first} on, {} failed, in {:.1} s, {:.1} worlds a second",
        kept,
        failed.len(),
        lasted.as_secs_f64(),
        seeds.len() as f64 / lasted.as_secs_f64()
    );
    for outcome in failed.iter().take(SHOWN_MAX) {
        // Again, to see what led to it.
        println!("{}\n", make(outcome.seed).keeping(EVENTS_DEFAULT).run().failure.unwrap_or_default());
    }
    let seeds: Vec<u64> = failed.iter().map(|outcome| outcome.seed).collect();
    assert!(seeds.is_empty(), "failed seeds, to be kept in tests/it/data/seeds.txt: {seeds:?}");
}

/// Plays these worlds on all processors; those that failed, by seed.
fn play_all(make: Make, seeds: &[u64]) -> Vec<Outcome> {
    let (next, events, failed) = (AtomicUsize::new(0), AtomicU64::new(0), Mutex::new(Vec::new()));
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = make(seed).run();
                    events.fetch_add(outcome.events, Ordering::Relaxed);
                    if let Some(law) = outcome.failure.as_ref() {
                        println!("failed: {}", law.lines().next().unwrap_or_default());
                        failed.lock().unwrap().push(outcome);
                    }
                }
            });
        }
    });
    println!("simulation: {} events", events.into_inner());
    let mut failed = failed.into_inner().unwrap();
    failed.sort_by_key(|outcome| outcome.seed);
    failed
}

/// Seeds that failed once.
fn kept() -> Vec<u64> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/data/seeds.txt");
    let text = fs::read_to_string(path).unwrap();
    let seed = |line: &str| line.split_whitespace().next().map(|seed| seed.parse().unwrap());
    text.lines().filter(|line| !line.starts_with('#')).filter_map(seed).collect()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}
