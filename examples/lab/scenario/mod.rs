//! What can be played in the lab. A scenario acts through [`Lab`] and ends with a report.

use anyhow::Context;
use futures_util::future::LocalBoxFuture;

use crate::{lab::Lab, report::Report};

mod basic;
mod cni;
mod cni_ipam;
mod containerd;
mod disk;
mod docker;
mod docker_bridge;
mod docker_cost;
mod dockerd;
mod dual_stack;
mod encrypt;
mod engine;
mod compact;
mod cost;
mod doctor;
mod doors;
mod explain;
mod refusal;
mod reload;
mod repair;
mod start;
mod churn;
mod crash;
mod leave;
mod hand_over;
mod identity;
mod names;
mod neighbours;
mod partition;
mod paths;
mod probes;
mod password;
mod podman;
mod drift;
mod drop_ins;
mod faults;
mod isolation;
mod migrate;
mod mixed;
mod mtu;
mod restart;
mod rounds;
mod runtime;
mod space;
mod speed;
mod store;
mod fight;
mod interfaces;
mod quota;
mod scale;
mod terminate;
mod electors;
mod strangers;
mod amnesia;
mod stage;
mod terms;
mod tunnels;
mod upgrade;
mod v6;
mod tables;

/// Plays a scenario.
type Play = for<'a> fn(&'a mut Lab) -> LocalBoxFuture<'a, anyhow::Result<Report>>;

/// A scenario.
pub struct Scenario {
    /// What `--scenario` calls it.
    pub name: &'static str,
    /// How many hosts it has, unless `--hosts` says otherwise.
    pub hosts: u8,
    /// How often its hosts look again, unless `--interval` says otherwise.
    pub interval: &'static str,
    /// Plays it.
    pub run: Play,
}

/// All scenarios, in the order in which `all` plays them.
pub const ALL: &[Scenario] = &[
    Scenario { name: "basic", hosts: 3, interval: "30s", run: |lab| Box::pin(basic::run(lab)) },
    Scenario { name: "plan", hosts: 3, interval: "30s", run: |lab| Box::pin(reload::plan(lab)) },
    Scenario { name: "reload", hosts: 3, interval: "30s", run: |lab| Box::pin(reload::adopt(lab)) },
    Scenario { name: "live-keys", hosts: 3, interval: "2s", run: |lab| Box::pin(reload::keys(lab)) },
    Scenario { name: "apply-file", hosts: 3, interval: "4s", run: |lab| Box::pin(terms::file(lab)) },
    Scenario { name: "confirm", hosts: 3, interval: "4s", run: |lab| Box::pin(terms::confirm(lab)) },
    Scenario { name: "drop-ins", hosts: 2, interval: "4s", run: |lab| Box::pin(drop_ins::drop_ins(lab)) },
    Scenario { name: "explain", hosts: 3, interval: "2s", run: |lab| Box::pin(explain::run(lab)) },
    Scenario { name: "doctor", hosts: 2, interval: "4s", run: |lab| Box::pin(doctor::run(lab)) },
    Scenario { name: "permissions", hosts: 2, interval: "4s", run: |lab| Box::pin(doctor::permissions(lab)) },
    Scenario { name: "broken-file", hosts: 2, interval: "4s", run: |lab| Box::pin(reload::refuse(lab)) },
    Scenario { name: "repair-routes", hosts: 3, interval: "4s", run: |lab| Box::pin(repair::routes(lab)) },
    Scenario { name: "repair-host", hosts: 3, interval: "4s", run: |lab| Box::pin(repair::host(lab)) },
    Scenario { name: "probes", hosts: 3, interval: "30s", run: |lab| Box::pin(probes::run(lab)) },
    Scenario { name: "doors", hosts: 2, interval: "30s", run: |lab| Box::pin(doors::run(lab)) },
    Scenario { name: "disk", hosts: 2, interval: "4s", run: |lab| Box::pin(disk::run(lab)) },
    Scenario { name: "names", hosts: 3, interval: "2s", run: |lab| Box::pin(names::run(lab)) },
    Scenario { name: "identity", hosts: 3, interval: "2s", run: |lab| Box::pin(identity::run(lab)) },
    Scenario { name: "start-3", hosts: 3, interval: "4s", run: |lab| Box::pin(start::run(lab)) },
    Scenario { name: "start-8", hosts: 8, interval: "4s", run: |lab| Box::pin(start::run(lab)) },
    Scenario { name: "bad-range", hosts: 3, interval: "2s", run: |lab| Box::pin(refusal::range(lab)) },
    Scenario { name: "password", hosts: 3, interval: "2s", run: |lab| Box::pin(password::run(lab)) },
    Scenario { name: "garbage", hosts: 3, interval: "2s", run: |lab| Box::pin(refusal::garbage(lab)) },
    Scenario { name: "denied", hosts: 3, interval: "2s", run: |lab| Box::pin(refusal::permission(lab)) },
    Scenario { name: "no-metadata", hosts: 3, interval: "2s", run: |lab| Box::pin(refusal::metadata(lab)) },
    Scenario { name: "bad-requests", hosts: 3, interval: "2s", run: |lab| Box::pin(refusal::requests(lab)) },
    Scenario { name: "restart", hosts: 4, interval: "2s", run: |lab| Box::pin(restart::run(lab)) },
    Scenario { name: "crash", hosts: 3, interval: "2s", run: |lab| Box::pin(crash::run(lab)) },
    Scenario { name: "churn", hosts: 2, interval: "2s", run: |lab| Box::pin(churn::run(lab)) },
    Scenario { name: "leave", hosts: 4, interval: "2s", run: |lab| Box::pin(leave::run(lab)) },
    Scenario { name: "hand-over", hosts: 4, interval: "30s", run: |lab| Box::pin(hand_over::run(lab)) },
    Scenario { name: "terminate", hosts: 4, interval: "2s", run: |lab| Box::pin(terminate::run(lab)) },
    Scenario { name: "electors", hosts: 8, interval: "2s", run: |lab| Box::pin(electors::run(lab)) },
    Scenario { name: "strangers", hosts: 6, interval: "2s", run: |lab| Box::pin(strangers::run(lab)) },
    Scenario { name: "amnesia", hosts: 4, interval: "2s", run: |lab| Box::pin(amnesia::run(lab)) },
    Scenario { name: "store", hosts: 3, interval: "2s", run: |lab| Box::pin(store::run(lab)) },
    Scenario { name: "space", hosts: 3, interval: "2s", run: |lab| Box::pin(space::run(lab)) },
    Scenario { name: "scale-out", hosts: 3, interval: "2s", run: |lab| Box::pin(scale::run(lab)) },
    Scenario { name: "ec2-faults", hosts: 3, interval: "2s", run: |lab| Box::pin(faults::calls(lab)) },
    Scenario { name: "ec2-callers", hosts: 3, interval: "2s", run: |lab| Box::pin(faults::callers(lab)) },
    Scenario { name: "host-drift", hosts: 3, interval: "30s", run: |lab| Box::pin(drift::run(lab)) },
    Scenario { name: "isolation", hosts: 3, interval: "4s", run: |lab| Box::pin(isolation::run(lab)) },
    Scenario { name: "dual-stack", hosts: 3, interval: "4s", run: |lab| Box::pin(dual_stack::run(lab)) },
    Scenario { name: "mtu", hosts: 2, interval: "30s", run: |lab| Box::pin(mtu::run(lab)) },
    Scenario { name: "upgrade", hosts: 3, interval: "2s", run: |lab| Box::pin(upgrade::run(lab)) },
    Scenario { name: "compact", hosts: 4, interval: "2s", run: |lab| Box::pin(compact::run(lab)) },
    Scenario { name: "mixed", hosts: 1, interval: "2s", run: |lab| Box::pin(mixed::run(lab)) },
    Scenario { name: "neighbours", hosts: 2, interval: "2s", run: |lab| Box::pin(neighbours::run(lab)) },
    Scenario { name: "encrypt", hosts: 3, interval: "2s", run: |lab| Box::pin(encrypt::run(lab)) },
    Scenario { name: "migrate", hosts: 3, interval: "2s", run: |lab| Box::pin(migrate::run(lab)) },
    Scenario { name: "tables", hosts: 3, interval: "2s", run: |lab| Box::pin(tables::run(lab)) },
    Scenario { name: "interfaces", hosts: 3, interval: "8s", run: |lab| Box::pin(interfaces::run(lab)) },
    Scenario { name: "paths", hosts: 2, interval: "30s", run: |lab| Box::pin(paths::run(lab)) },
    Scenario { name: "quota", hosts: 2, interval: "2s", run: |lab| Box::pin(quota::run(lab)) },
    Scenario { name: "fight", hosts: 3, interval: "2s", run: |lab| Box::pin(fight::run(lab)) },
    Scenario { name: "cni", hosts: 3, interval: "4s", run: |lab| Box::pin(cni::run(lab)) },
    Scenario { name: "cni-chain", hosts: 3, interval: "4s", run: |lab| Box::pin(cni::chain(lab)) },
    Scenario { name: "cni-ipam", hosts: 3, interval: "4s", run: |lab| Box::pin(cni_ipam::run(lab)) },
    Scenario { name: "docker", hosts: 3, interval: "4s", run: |lab| Box::pin(docker::run(lab)) },
    Scenario {
        name: "docker-bridge",
        hosts: 2,
        interval: "4s",
        run: |lab| Box::pin(docker_bridge::run(lab)),
    },
    Scenario { name: "podman", hosts: 3, interval: "4s", run: |lab| Box::pin(podman::run(lab)) },
    Scenario { name: "containerd", hosts: 2, interval: "4s", run: |lab| Box::pin(containerd::run(lab)) },
    Scenario { name: "partition", hosts: 3, interval: "2s", run: |lab| Box::pin(partition::run(lab)) },
];

/// What is measured rather than tried, or takes minutes; played when it is asked for by name.
pub const MEASURES: &[Scenario] = &[
    Scenario { name: "cost", hosts: 3, interval: "30s", run: |lab| Box::pin(cost::run(lab)) },
    Scenario { name: "speed", hosts: 2, interval: "30s", run: |lab| Box::pin(speed::run(lab)) },
    Scenario { name: "docker-cost", hosts: 2, interval: "30s", run: |lab| Box::pin(docker_cost::run(lab)) },
    Scenario { name: "rounds", hosts: 2, interval: "30s", run: |lab| Box::pin(rounds::run(lab)) },
    Scenario {
        name: "docker-forgotten",
        hosts: 2,
        interval: "4s",
        run: |lab| Box::pin(docker::forgotten(lab)),
    },
];

/// What `--scenario` calls all of them, one after another, each in a lab of its own.
pub const EVERY: &str = "all";

/// What `--scenario` accepts.
pub fn names() -> Vec<&'static str> {
    ALL.iter().chain(MEASURES).map(|scenario| scenario.name).chain([EVERY]).collect()
}

/// The scenario of this name.
pub fn find(name: &str) -> anyhow::Result<&'static Scenario> {
    let mut all = ALL.iter().chain(MEASURES);
    all.find(|scenario| scenario.name == name).with_context(|| format!("there is no scenario {name}"))
}
