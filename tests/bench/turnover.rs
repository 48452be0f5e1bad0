//! What becomes of the route table as hosts are replaced, in simulation: routes for each host against simulated time, with blocks
//! that move and without, and the writes that it took.
//!
//! `cargo bench --no-default-features --features sim --bench turnover` plays 200 hosts, each replaced five times; another number
//! may be given, how often, and the seconds between two that are replaced.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::{Duration, Instant};

use weavers::sim::turnover::Turnover;

const HOSTS: usize = 200;
const TIMES: usize = 5;
/// Time between two hosts that are replaced.
const PAUSE_S: usize = 10;
/// How long it is watched afterwards, and how often.
const AFTER: Duration = Duration::from_secs(300);
const LOOKS: usize = 12;

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let number = |at: usize, otherwise| numbers.get(at).copied().unwrap_or(otherwise);
    let (hosts, times) = (number(0, HOSTS), number(1, TIMES));
    let pause = Duration::from_secs(number(2, PAUSE_S) as u64);
    for compact in [Some(Duration::from_secs(60)), None] {
        println!("{hosts} hosts, each replaced {times} times; blocks move: {}", compact.is_some());
        println!("      time  replaced  routes  a host  blocks  created  replaced  deleted      CPU");
        let begun = Instant::now();
        let mut turnover = Turnover::new(1, hosts, times, compact);
        turnover.found().unwrap();
        show(&turnover, 0, begun);
        for number in 1..=times * hosts {
            turnover.replace(number % 2 == 0).unwrap();
            turnover.pass(pause).unwrap();
            if number % (hosts / 2).max(1) == 0 {
                show(&turnover, number, begun);
            }
        }
        for _ in 0..LOOKS {
            turnover.pass(AFTER).unwrap();
            show(&turnover, times * hosts, begun);
        }
        println!("{:?}", turnover.waits());
    }
}

fn show(turnover: &Turnover, number: usize, begun: Instant) {
    let (routes, running) = turnover.routes();
    let [created, replaced, deleted] = turnover.writes();
    println!(
        "{:8.0} s  {number:8}  {routes:6}  {:6.2}  {:6}  {created:7}  {replaced:8}  {deleted:7}  {:5.0} s",
        turnover.now().as_secs_f64(),
        routes as f64 / running.max(1) as f64,
        turnover.blocks(),
        begun.elapsed().as_secs_f64()
    );
}
