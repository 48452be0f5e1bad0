//! What came of it, for people and for programs.

use std::{collections::BTreeMap, io::Write as _, time::Duration};

use comfy_table::Table;
use serde::Serialize;
use serde_json::json;
use weavers::sim::vpc::Action;

/// One container pinged another.
#[derive(Clone, Debug, Serialize)]
pub struct Ping {
    /// Container that asked.
    pub from: String,
    /// Container that was asked.
    pub to: String,
    /// Every answer came.
    pub ok: bool,
    /// The quickest answer.
    pub rtt_us: Option<u64>,
    /// What `ping` wrote, if it got none.
    #[serde(skip)]
    pub said: String,
}

/// A route of a route table.
#[derive(Clone, Debug, Serialize)]
pub struct RouteLine {
    /// `rtb-…`
    pub table: String,
    /// CIDR.
    pub destination: String,
    /// `eni-…`, `local`, a gateway.
    pub target: String,
    /// `active` or `blackhole`.
    pub state: String,
}

/// A host and what it owns.
#[derive(Clone, Debug)]
pub struct HostLine {
    /// `h1`
    pub name: String,
    /// Private address.
    pub address: String,
    /// `eni-…`
    pub interface: String,
    /// CIDRs that it owns.
    pub owned: Vec<String>,
    /// Containers and their addresses.
    pub containers: Vec<String>,
}

/// What a scenario found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The hosts.
    pub hosts: Vec<HostLine>,
    /// From the start of the daemons until the last was ready.
    pub ready: Duration,
    /// All routes.
    pub routes: Vec<RouteLine>,
    /// Pings that should pass.
    pub pings: Vec<Ping>,
    /// What should hold, and why it does not.
    pub checks: Vec<(String, Result<(), String>)>,
    /// Calls by action.
    pub calls: BTreeMap<Action, u64>,
}

impl Report {
    /// All that should pass passed.
    pub fn ok(&self) -> bool {
        self.pings.iter().all(|ping| ping.ok) && self.checks.iter().all(|(_, result)| result.is_ok())
    }

    /// For people.
    pub fn text(&self) -> String {
        let passed = self.pings.iter().filter(|ping| ping.ok).count();
        let calls: Vec<String> =
            self.calls.iter().map(|(action, count)| format!("{action} {count}")).collect();
        let mut text = format!(
            "{}\n\n{}\n\n{}\n\npings: {passed} of {} passed\nready: {} ms after the start of the daemons\n\
             EC2 calls: {}\n",
            self.host_table(),
            self.route_table(),
            self.ping_table(),
            self.pings.len(),
            self.ready.as_millis(),
            calls.join(", "),
        );
        for (what, result) in &self.checks {
            text += &match result {
                Ok(()) => format!("ok      {what}\n"),
                Err(error) => format!("FAILED  {what}: {error}\n"),
            };
        }
        text
    }

    /// For programs, on one line.
    pub fn json(&self) -> String {
        let document = json!({
            "ok": self.ok(), "hosts": self.hosts.len(), "ready_ms": self.ready.as_millis() as u64,
            "routes": self.routes, "pings": self.pings, "ec2_calls": self.calls, "failed": self.failed(),
        });
        document.to_string()
    }

    /// What should have passed and did not, a line each.
    fn failed(&self) -> Vec<String> {
        let pings = self.pings.iter().filter(|ping| !ping.ok);
        let pings = pings
            .map(|ping| format!("no answer to the ping from {} to {}: {}", ping.from, ping.to, ping.said));
        let checks = self.checks.iter().filter_map(|(what, result)| match result {
            Ok(()) => None,
            Err(error) => Some(format!("{what}: {error}")),
        });
        pings.chain(checks).collect()
    }

    fn host_table(&self) -> Table {
        let mut table = plain(["host", "address", "interface", "owns", "containers"]);
        for host in &self.hosts {
            let (owned, containers) = (host.owned.join("\n"), host.containers.join("\n"));
            table.add_row([&host.name, &host.address, &host.interface, &owned, &containers]);
        }
        table
    }

    fn route_table(&self) -> Table {
        let mut table = plain(["table", "destination", "target", "state"]);
        for route in &self.routes {
            table.add_row([&route.table, &route.destination, &route.target, &route.state]);
        }
        table
    }

    /// One row a sender, one column a receiver.
    fn ping_table(&self) -> Table {
        let mut names: Vec<&str> = self.pings.iter().map(|ping| ping.from.as_str()).collect();
        names.dedup();
        let mut table = plain(std::iter::once("ping, us").chain(names.iter().copied()));
        for from in &names {
            let cell = |to: &&str| {
                let ping = self.pings.iter().find(|ping| ping.from == *from && ping.to == *to);
                match ping {
                    None => String::new(),
                    Some(Ping { ok: true, rtt_us: Some(rtt), .. }) => rtt.to_string(),
                    Some(_) => "FAILED".to_owned(),
                }
            };
            table.add_row(std::iter::once((*from).to_owned()).chain(names.iter().map(cell)));
        }
        table
    }
}

/// For programs, when it came to no report.
pub fn failure(hosts: u8, error: &anyhow::Error) -> String {
    let document = json!({
        "ok": false, "hosts": hosts, "ready_ms": null, "routes": [], "pings": [], "ec2_calls": {},
        "error": format!("{error:#}"),
    });
    format!("{document}\n")
}

/// A scenario that was played, as the process outside sees it.
pub struct Played {
    /// Its name.
    pub name: &'static str,
    /// It ended with 0 at the last try.
    pub ok: bool,
    /// Why each try failed that did.
    pub failures: Vec<serde_json::Value>,
}

/// Why a scenario failed, by the last line that it wrote.
pub fn why(last: &str) -> serde_json::Value {
    let report: serde_json::Value = serde_json::from_str(last).unwrap_or_default();
    let known = ["error", "failed"].into_iter().find_map(|key| report.get(key));
    known.cloned().unwrap_or_else(|| json!("it ended without a report"))
}

/// For programs, after all scenarios.
pub fn summary(played: &[Played]) -> String {
    let ok = played.iter().all(|played| played.ok);
    let scenarios: BTreeMap<_, _> = played.iter().map(|played| (played.name, played.ok)).collect();
    let failures = |ok: bool| -> BTreeMap<_, _> {
        let those = played.iter().filter(|played| played.ok == ok && !played.failures.is_empty());
        those.map(|played| (played.name, &played.failures)).collect()
    };
    let (failed, flaky) = (failures(false), failures(true));
    format!("{}\n", json!({ "ok": ok, "scenarios": scenarios, "failed": failed, "flaky": flaky }))
}

fn plain<'a>(header: impl IntoIterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(header);
    table
}

/// Writes to stdout; a reader that went away does not matter.
pub fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
