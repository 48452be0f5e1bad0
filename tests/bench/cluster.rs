//! How a cluster grows, in simulation: the time it takes to found one and to join it, and what hosts send each other, against
//! the number of hosts.
//!
//! `cargo bench --no-default-features --features sim --bench cluster` prints a table and draws `tests/bench/cluster.svg`; sizes
//! may be given as arguments.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod chart;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use weavers::sim::growth::Growth;

use self::chart::Panel;

const SIZES: [usize; 6] = [3, 10, 30, 100, 200, 500];
/// How long a settled cluster is left alone before it is measured, and measured.
const REST: Duration = Duration::from_secs(120);
const MINUTES: u32 = 2;

/// What one size took.
struct Row {
    hosts: usize,
    first_ring: f64,
    settled: f64,
    join: f64,
    founding_bytes: f64,
    join_bytes: f64,
    idle_bytes: f64,
    cpu: f64,
}

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let sizes = if sizes.is_empty() { SIZES.to_vec() } else { sizes };
    println!(
        "hosts  first ring  settled     join   founding/host   join/host   idle/host/min      CPU    events"
    );
    let rows: Vec<Row> = sizes.into_iter().map(measure).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/cluster.svg");
    if rows.len() > 1 {
        fs::write(&path, picture(&rows)).unwrap();
    }
}

fn measure(hosts: usize) -> Row {
    let begun = Instant::now();
    let mut growth = Growth::new(1, hosts);
    let founding = growth.found().unwrap();
    let of_a_host = |bytes: u64| bytes as f64 / hosts as f64;
    let founding_bytes = of_a_host(growth.bytes());
    growth.idle(REST).unwrap();
    let before = growth.bytes();
    growth.idle(MINUTES * Duration::from_secs(60)).unwrap();
    let idle_bytes = of_a_host(growth.bytes() - before) / f64::from(MINUTES);
    let before = growth.bytes();
    let join = growth.join().unwrap();
    let join_bytes = of_a_host(growth.bytes() - before) - idle_bytes * join.as_secs_f64() / 60.0;
    let row = Row {
        hosts,
        first_ring: founding.first_ring.as_secs_f64(),
        settled: founding.settled.as_secs_f64(),
        join: join.as_secs_f64(),
        founding_bytes,
        join_bytes: join_bytes.max(1.0),
        idle_bytes,
        cpu: begun.elapsed().as_secs_f64(),
    };
    println!(
        "{hosts:5}  {:8.2} s {:8.2} s {:6.2} s {:>15} {:>11} {:>15} {:6.1} s {:9}",
        row.first_ring,
        row.settled,
        row.join,
        bytes(row.founding_bytes),
        bytes(row.join_bytes),
        bytes(row.idle_bytes),
        row.cpu,
        growth.events(),
    );
    row
}

fn bytes(count: f64) -> String {
    match count {
        count if count < 1e3 => format!("{count:.0} B"),
        count if count < 1e6 => format!("{:.1} kB", count / 1e3),
        count => format!("{:.1} MB", count / 1e6),
    }
}

fn seconds(count: f64) -> String {
    format!("{count} s")
}

// ===== the picture =====

fn picture(rows: &[Row]) -> String {
    let hosts: Vec<usize> = rows.iter().map(|row| row.hosts).collect();
    let line = |name, value: fn(&Row) -> f64| (name, rows.iter().map(value).collect());
    let times = vec![
        line("first ring", |row| row.first_ring),
        line("all settled", |row| row.settled),
        line("one more joined", |row| row.join),
    ];
    let traffic = vec![
        line("founding", |row| row.founding_bytes),
        line("one more joined", |row| row.join_bytes),
        line("idle, a minute", |row| row.idle_bytes),
    ];
    let panel = |title, unit, lines| Panel { title, unit, along: "hosts", at: &hosts, lines };
    chart::picture(&[panel("simulated time", seconds, times), panel("bytes sent by a host", bytes, traffic)])
}
