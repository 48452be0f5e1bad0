//! Several hosts, one VPC, real packets, no AWS account.
//!
//! The lab runs in namespaces of its own ([`enclosure`]). Its network namespace is the VPC's router:
//! the stand-in for AWS ([`standin`]) listens there, and [`fabric`] turns route tables into kernel
//! routes. Each [`host`] is a namespace wired to it that runs the real `weavers`; containers are
//! namespaces that `weavers attach` connects. A packet arrives only if the route table is right.

use std::{path::PathBuf, process::ExitCode, time::Instant};

use clap::Parser;

mod enclosure;
mod fabric;
mod host;
mod internet;
mod lab;
mod net;
mod pinger;
mod report;
mod scenario;
mod site;
mod standin;
mod stream;
mod subnet;
mod tap;
mod verify;

/// Shows weavers at work on one Linux machine: hosts, a VPC and containers as network namespaces.
#[derive(Parser, Clone, Debug)]
#[command(name = "lab")]
pub struct Options {
    /// How many hosts; otherwise as many as the scenario needs: 3 for the basic one
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=64))]
    hosts: Option<u8>,
    /// Keep it up afterwards, until ctrl-C or until stdin, if it is a pipe or terminal, is closed
    #[arg(long)]
    hold: bool,
    /// End with one JSON object on the last line
    #[arg(long)]
    json: bool,
    /// MTU of the container links
    #[arg(long, default_value_t = 9000, value_parser = clap::value_parser!(u32).range(576..=9001))]
    mtu: u32,
    /// How often a host looks again when nothing happens; otherwise as the scenario has it: 30s in the basic one
    #[arg(long)]
    interval: Option<String>,
    /// Seconds until the hosts must be ready
    #[arg(long, default_value_t = 60)]
    timeout: u64,
    /// What to play
    #[arg(long, default_value = "basic", overrides_with = "scenario", value_parser = scenario::names())]
    scenario: String,
    /// How many containers are there when `--scenario cost` measures what another one costs: 0, 100, 300, 800 and 1000
    #[arg(long, value_delimiter = ',', value_name = "COUNT,...")]
    containers: Vec<usize>,
    /// Where `--scenario cost` draws a picture of what it measured
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// How often to play a scenario that fails, with `--scenario all`; one that passes later is named at the end
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=3))]
    tries: u8,
    /// The weavers binary; otherwise the one built beside the lab
    #[arg(long)]
    weavers: Option<PathBuf>,
    /// An earlier weavers binary, for the scenario `upgrade`; otherwise a copy of the same
    #[arg(long)]
    earlier: Option<PathBuf>,
    /// Set by the lab for itself, once inside its namespaces
    #[arg(long, hide = true)]
    inside: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = Options::parse();
    let code = match options.inside.clone() {
        None => outside(&options).await,
        Some(dir) => {
            let played = play(options.clone(), dir.clone()).await;
            // The process outside does this too, unless it was killed.
            let _ = std::fs::remove_dir_all(dir);
            played
        }
    };
    // A thread may still sit in a read of stdin, so the runtime is not waited for.
    match code {
        Ok(code) => std::process::exit(code),
        Err(error) => {
            eprintln!("lab: {error:#}");
            if options.json {
                let scenario = scenario::find(&options.scenario);
                let hosts = options.hosts.or(scenario.map(|scenario| scenario.hosts).ok());
                report::print(&report::failure(hosts.unwrap_or_default(), &error));
            }
            std::process::exit(1)
        }
    }
}

/// Plays the scenario in namespaces of its own; of all of them, each in its own.
async fn outside(options: &Options) -> anyhow::Result<i32> {
    if options.scenario != scenario::EVERY {
        return Ok(enclosure::run(&options.scenario, options.hold).await?.code);
    }
    let mut played = Vec::new();
    for scenario in scenario::ALL {
        let (one, stopped) = try_to_pass(options, scenario.name).await?;
        played.push(one);
        if stopped {
            break;
        }
    }
    for one in played.iter().filter(|one| one.ok && !one.failures.is_empty()) {
        eprintln!("=== {}: passed only at try {}", one.name, one.failures.len() + 1);
    }
    if options.json {
        report::print(&report::summary(&played));
    }
    let ok = played.len() == scenario::ALL.len() && played.iter().all(|played| played.ok);
    Ok(if ok { 0 } else { 1 })
}

/// Plays a scenario until it passes or was tried often enough; and whether the lab was told to stop.
async fn try_to_pass(options: &Options, name: &'static str) -> anyhow::Result<(report::Played, bool)> {
    let mut played = report::Played { name, ok: false, failures: Vec::new() };
    loop {
        eprintln!("=== {name}");
        let start = Instant::now();
        let ended = enclosure::run(name, options.hold).await?;
        played.ok = ended.code == 0;
        let verdict = if played.ok { "passed" } else { "FAILED" };
        eprintln!("=== {name}: {verdict} in {:.1} s", start.elapsed().as_secs_f64());
        if !played.ok {
            played.failures.push(report::why(&ended.last));
        }
        if played.ok || ended.stopped || played.failures.len() >= options.tries.into() {
            return Ok((played, ended.stopped));
        }
    }
}

/// Plays one scenario inside the namespaces.
async fn play(options: Options, dir: PathBuf) -> anyhow::Result<i32> {
    let scenario = scenario::find(&options.scenario)?;
    let entry = enclosure::enter()?;
    let mut lab = lab::Lab::build(options.clone(), scenario, dir, entry).await?;
    let played = tokio::select! {
        played = (scenario.run)(&mut lab) => played,
        () = enclosure::stopped() => anyhow::bail!("stopped"),
    };
    let report = played.inspect_err(|_| eprint!("{}", lab.log_tails()))?;
    if !report.ok() {
        eprint!("{}", lab.log_tails());
    }
    report::print(&report.text());
    if options.hold {
        report::print(&lab.how_to_enter());
        enclosure::stopped().await;
    }
    if options.json {
        report::print(&format!("{}\n", report.json()));
    }
    Ok(if report.ok() { 0 } else { 1 })
}
