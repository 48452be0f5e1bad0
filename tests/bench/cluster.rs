//! How a cluster grows, in simulation: the time it takes to found one and to join it, and what hosts send each other, against
//! the number of hosts.
//!
//! `cargo bench --no-default-features --features sim --bench cluster` prints a table and draws `tests/bench/cluster.svg`; sizes
//! may be given as arguments.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use weavers::sim::growth::Growth;

const SIZES: [usize; 6] = [3, 10, 30, 100, 200, 500];
/// How long a settled cluster is left alone before it is measured, and measured.
const REST: Duration = Duration::from_secs(20);
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

/// Colours that are told apart on light and dark ground, and in grey.
const COLOURS: [&str; 3] = ["#1b7fbd", "#d1602a", "#3a9a5b"];
const WIDTH: f64 = 380.0;
const HEIGHT: f64 = 240.0;

type Series<'a> = (&'a str, fn(&Row) -> f64);

fn picture(rows: &[Row]) -> String {
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 960 360\" font-family=\"sans-serif\" \
         font-size=\"12\" fill=\"#777\">\n",
    );
    let times: [Series; 3] = [
        ("first ring", |row| row.first_ring),
        ("all settled", |row| row.settled),
        ("one more joined", |row| row.join),
    ];
    let traffic: [Series; 3] = [
        ("founding", |row| row.founding_bytes),
        ("one more joined", |row| row.join_bytes),
        ("idle, a minute", |row| row.idle_bytes),
    ];
    panel(&mut svg, 70.0, "simulated time", seconds, rows, &times);
    panel(&mut svg, 550.0, "bytes sent by a host", bytes, rows, &traffic);
    svg + "</svg>\n"
}

/// One chart with logarithmic axes.
fn panel(svg: &mut String, left: f64, title: &str, unit: fn(f64) -> String, rows: &[Row], series: &[Series]) {
    let values = || series.iter().flat_map(|(_, value)| rows.iter().map(value));
    let lowest = values().fold(f64::MAX, f64::min).log10().floor();
    let highest = values().fold(f64::MIN, f64::max).log10().ceil().max(lowest + 1.0);
    let (first, last) = (rows[0].hosts as f64, rows[rows.len() - 1].hosts as f64);
    let x = |hosts: f64| left + WIDTH * (hosts / first).ln() / (last / first).ln();
    let y = |value: f64| 40.0 + HEIGHT * (highest - value.log10()) / (highest - lowest);
    writeln!(svg, "<text x=\"{left}\" y=\"22\" font-size=\"14\">{title}</text>").unwrap();
    for power in lowest as i32..=highest as i32 {
        let (value, right) = (10f64.powi(power), left + WIDTH);
        let at = y(value);
        writeln!(svg, "<path d=\"M{left} {at:.1}H{right}\" stroke=\"#8884\"/>").unwrap();
        writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 6.0,
            at + 4.0,
            unit(value)
        )
        .unwrap();
    }
    for row in rows {
        let (at, bottom) = (x(row.hosts as f64), 40.0 + HEIGHT + 18.0);
        writeln!(svg, "<text x=\"{at:.1}\" y=\"{bottom}\" text-anchor=\"middle\">{}</text>", row.hosts)
            .unwrap();
    }
    for (number, ((name, value), colour)) in series.iter().zip(COLOURS).enumerate() {
        let points: Vec<String> =
            rows.iter().map(|row| format!("{:.1},{:.1}", x(row.hosts as f64), y(value(row)))).collect();
        writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        )
        .unwrap();
        let (at, bottom) = (left + 130.0 * number as f64, 40.0 + HEIGHT + 48.0);
        writeln!(svg, "<path d=\"M{at} {bottom}h18\" stroke=\"{colour}\" stroke-width=\"2\"/>").unwrap();
        writeln!(svg, "<text x=\"{}\" y=\"{}\">{name}</text>", at + 24.0, bottom + 4.0).unwrap();
    }
    writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">hosts</text>",
        left + WIDTH,
        40.0 + HEIGHT + 34.0
    )
    .unwrap();
}
