//! How long a plan takes, and how much memory: 1,000 routes and 10,000 attachments, in one table and in three.
//!
//! ```sh
//! cargo bench --no-default-features --features sim --bench plan   # in release; without the EC2 client, which takes long to build
//! ```
//!
//! Time is that of the fastest of several runs, memory what the process grew by.

#![allow(clippy::print_stdout)]

use std::{
    collections::BTreeMap,
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::{IpNet, Ipv4Net};
use weavers::{
    addr::{Address, Range},
    peer::PeerName,
    plan::Plan,
    state::{
        Action, Actual, Desired, DesiredVpc, Ec2Action, Host, InterfaceId, Link, Netns, Route, RouteState,
        SpareWrites, Table, TableId, Target, Vpc,
    },
};

const ROUTES: u32 = 1000;
const ATTACHMENTS: u32 = 10_000;
const RUNS: u32 = 10;
/// What one plan may take.
const LIMIT: Duration = Duration::from_millis(50);
const FIRST: u32 = 0x0a20_0000;
/// Addresses of a route: a /22.
const BLOCK: u32 = 1 << 10;

fn main() {
    let mut slow = Vec::new();
    for tables in [1, 3] {
        for (what, seen) in [("nothing to do", 1), ("every second route missing", 2), ("no route there", 0)] {
            let before = resident_kib();
            let world = World::new(tables, seen);
            let grown = resident_kib().saturating_sub(before);
            let (took, changes) = world.measure();
            println!(
                "plan: {ROUTES} routes, {ATTACHMENTS} attachments, {tables} tables, {what}: {changes} changes, {:.1} ms, {grown} KiB for what it compares",
                took.as_secs_f64() * 1000.0
            );
            if took > LIMIT * tables {
                slow.push(what);
            }
        }
    }
    println!("plan: the process took {} KiB at most", status("VmHWM"));
    assert!(slow.is_empty(), "slower than {LIMIT:?} a table: {slow:?}");
}

/// A host that owns every other of 2,000 ranges, and another that owns the rest.
struct World {
    desired: Desired,
    host: Host,
    vpc: Vpc,
}

impl World {
    /// `seen`: every so many of our routes is missing; 0: all are.
    fn new(tables: u32, seen: u32) -> World {
        let block = |number: u32| {
            let start = FIRST + number * BLOCK;
            Range::new(Address(start), Address(start + BLOCK))
        };
        let owner = |number: u32| PeerName::from_u64(u64::from(number % 2) + 1);
        let owners: Vec<(Range, PeerName)> =
            (0..ROUTES).map(|number| (block(number), owner(number))).collect();
        let is_there =
            |number: u32| number % 2 == 1 || seen == 1 || seen > 0 && (number / 2).is_multiple_of(seen);
        let routes: BTreeMap<Ipv4Net, Route> = (0..ROUTES)
            .filter(|number| is_there(*number))
            .map(|number| (block(number).cidrs()[0], route(number % 2)))
            .collect();
        let table = Table { used: routes.len(), routes, local: Vec::new() };
        let range = Range::new(Address(FIRST), Address(FIRST + ROUTES * BLOCK));
        let vpc = DesiredVpc {
            range,
            prefix: None,
            me: PeerName::from_u64(1),
            interface: interface(0),
            disable_check: true,
            owners,
            quota: Some(1000),
            full: BTreeMap::new(),
            restless: Vec::new(),
            spare_writes: SpareWrites::default(),
            withdraw: false,
        };
        let host = host();
        World {
            host: host.clone(),
            vpc: Vpc {
                interface: interface(0),
                source_dest_check: Some(false),
                tables: (0..tables)
                    .map(|number| (TableId(format!("rtb-{number}")).into(), table.clone()))
                    .collect(),
                retired: BTreeMap::new(),
            },
            desired: Desired { host, vpc: Some(vpc) },
        }
    }

    fn measure(&self) -> (Duration, usize) {
        let runs = (0..RUNS).map(|_| {
            let begun = Instant::now();
            let actual = Actual { host: Some(&self.host), vpc: Some(&self.vpc) };
            let plan = Plan::new(&self.desired, actual);
            let took = begun.elapsed();
            assert!(
                plan.changes
                    .iter()
                    .all(|change| matches!(change.action, Action::Ec2(Ec2Action::CreateRoute { .. })))
            );
            (took, plan.changes.len())
        });
        runs.min().expect("there are runs")
    }
}

fn host() -> Host {
    let range: Ipv4Net = "10.32.0.0/12".parse().expect("it is written as a network");
    let link = |number: u32| {
        let netns = Netns::new(
            "b6f7f6a0-7d3c-4a57-9a55-0d8f6b1c6a11",
            u64::from(number),
            format!("/run/docker/netns/{number:012x}"),
        );
        let link = Link { netns: Some(netns), mtu: 9001, range, ..Link::default() };
        (Address(FIRST + (number / BLOCK) * 2 * BLOCK + number % BLOCK), Arc::new(link))
    };
    let blocks = (0..ROUTES / 2).map(|number| {
        let start = Address(FIRST + number * 2 * BLOCK);
        Ipv4Net::new_assert(start.into(), 22)
    });
    Host {
        blocks: blocks.map(IpNet::from).collect(),
        links: Arc::new((0..ATTACHMENTS).map(link).collect()),
        ..Host::default()
    }
}

fn interface(number: u32) -> InterfaceId {
    InterfaceId(format!("eni-{number:017x}"))
}

fn route(number: u32) -> Route {
    Route { target: Target::Interface(interface(number)), state: RouteState::Active, created: true }
}

fn resident_kib() -> u64 {
    status("VmRSS")
}

/// A figure of this process, in KiB.
fn status(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").expect("Linux tells a process of itself");
    let line = text.lines().find(|line| line.starts_with(name)).expect("the figure is there");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("it is a number")
}
