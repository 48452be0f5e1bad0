//! What monitoring reads: how the node is at that moment, and what the daemon has counted since it began. In the text format of
//! Prometheus, 0.0.4.
//!
//! No label names a peer, a container or an address: a cluster of 500 hosts would have too many. What can be counted is there from the
//! start, as 0.

use std::{collections::BTreeMap, fmt, time::Duration};

use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder,
    core::Collector,
    proto::{Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

use crate::{
    node::{
        Node, Overview,
        protocol::status::{ConnectionState, Status},
    },
    plan::{Place, Plane},
    state::{Action, Fault, FaultKind, RouteState, Side, Table, Target},
};

/// The type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4";
/// Seconds that a call of EC2 takes, up to each of these.
const SECONDS: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// The calls of EC2 that a daemon makes all the time.
const OPERATIONS: [&str; 5] =
    ["CreateRoute", "DeleteRoute", "ReplaceRoute", "DescribeRouteTables", "DescribeInstances"];

/// Counts calls of EC2. A clone counts for the same.
#[derive(Clone)]
pub struct Calls {
    total: IntCounterVec,
    seconds: HistogramVec,
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Calls")
    }
}

impl Default for Calls {
    fn default() -> Calls {
        Calls::new()
    }
}

impl Calls {
    /// None yet.
    pub fn new() -> Calls {
        let total = counter(
            "weavers_ec2_requests_total",
            "Calls of EC2, by what it said last.",
            &["operation", "code"],
        );
        let opts = HistogramOpts::new(
            "weavers_ec2_request_duration_seconds",
            "How long calls of EC2 took, all attempts together.",
        );
        let seconds = HistogramVec::new(opts.buckets(SECONDS.to_vec()), &["operation"]);
        let seconds = seconds.expect("its name and labels are sound");
        for operation in OPERATIONS {
            total.with_label_values(&[operation, "OK"]);
        }
        Calls { total, seconds }
    }

    /// A call has ended, after so long.
    pub fn ended(&self, operation: &str, code: &str, took: Duration) {
        self.total.with_label_values(&[operation, code]).inc();
        self.seconds.with_label_values(&[operation]).observe(took.as_secs_f64());
    }
}

/// What the process takes of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    /// When it began, in seconds since 1970.
    pub started_s: f64,
    /// Time on processors, in seconds.
    pub cpu_s: f64,
    /// Resident memory, in bytes.
    pub resident: u64,
    /// Open file descriptors.
    pub open_fds: u64,
}

/// What is counted, and with what is at the moment put into text.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    calls: Calls,
    looks: IntCounterVec,
    steps: IntCounterVec,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new() -> Metrics {
        let calls = Calls::new();
        let looks = counter("weavers_looks_total", "Looks at the host and at the VPC.", &["plane", "result"]);
        let steps =
            counter("weavers_steps_total", "Steps that were carried out.", &["plane", "action", "result"]);
        for plane in ["host", "vpc"] {
            for result in [OK, FAILED] {
                looks.with_label_values(&[plane, result]);
            }
        }
        for action in ["CreateRoute", "ReplaceRoute", "DeleteRoute"] {
            for result in [OK, FAILED] {
                steps.with_label_values(&["table", action, result]);
            }
        }
        let registry = Registry::new();
        let counted: [Box<dyn Collector>; 4] = [
            Box::new(calls.total.clone()),
            Box::new(calls.seconds.clone()),
            Box::new(looks.clone()),
            Box::new(steps.clone()),
        ];
        for counter in counted {
            registry.register(counter).expect("each has a name of its own");
        }
        Metrics { registry, calls, looks, steps }
    }

    /// What counts calls of EC2.
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    /// A look has ended, at the `host` or the `vpc`.
    pub fn looked<T>(&self, plane: &str, result: &Result<T, Fault>) {
        self.looks.with_label_values(&[plane, word(result)]).inc();
    }

    /// A step has ended.
    pub fn stepped<T>(&self, action: &Action, result: &Result<T, Fault>) {
        let plane = plane(&Plane::of(action));
        self.steps.with_label_values(&[plane, action.kind(), word(result)]).inc();
    }

    /// All of it as text; `status` as the daemon completes it.
    pub fn text(&self, node: &Node, status: &Status, process: &Process) -> String {
        let mut families = self.registry.gather();
        let known = node.overview();
        families.extend(of_node(&known, status));
        families.extend(of_routes(&known, status));
        families.extend(of_peers(&known, status));
        families.extend(of_config(status));
        families.extend(of_process(&known, process));
        families.sort_by(|one, other| one.name().cmp(other.name()));
        let mut text = Vec::new();
        // What is written to memory and has samples is never refused.
        let _ = TextEncoder::new().encode(&families, &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}

const OK: &str = "ok";
const FAILED: &str = "failed";

fn word<T>(result: &Result<T, Fault>) -> &'static str {
    if result.is_ok() { OK } else { FAILED }
}

fn plane(plane: &Plane) -> &'static str {
    match plane {
        Plane::Host | Plane::Removal => "host",
        Plane::Interface => "interface",
        Plane::Table(_) => "table",
    }
}

fn counter(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), labels).expect("its name and labels are sound")
}

// ===== what is at the moment =====

/// Labels and a value.
type Sample<'a> = (Vec<(&'a str, &'a str)>, f64);

fn gauge<'a>(name: &str, help: &str, samples: impl IntoIterator<Item = Sample<'a>>) -> MetricFamily {
    let metric = |(labels, value): Sample<'_>| {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = Metric::from_gauge(gauge);
        metric.set_label(labels.into_iter().map(label).collect());
        metric
    };
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(MetricType::GAUGE);
    family.set_metric(samples.into_iter().map(metric).collect());
    family
}

fn label((name, value): (&str, &str)) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

fn one(name: &str, help: &str, value: impl Into<f64>) -> MetricFamily {
    gauge(name, help, [(Vec::new(), value.into())])
}

/// One sample for each value of a label.
fn by<'a>(label: &'a str, samples: &[(&'a str, f64)]) -> Vec<Sample<'a>> {
    samples.iter().map(|&(value, count)| (vec![(label, value)], count)).collect()
}

fn count(number: usize) -> f64 {
    number as f64
}

fn of_node(known: &Overview<'_>, status: &Status) -> Vec<MetricFamily> {
    let addresses = [
        ("owned", f64::from(status.ipam.owned_addresses)),
        ("used", f64::from(status.ipam.used)),
        ("quarantined", f64::from(known.quarantined().iter().map(|range| range.len()).sum::<u32>())),
        ("unreachable", f64::from(known.unreachable_addresses())),
    ];
    let range = 2f64.powi(32 - i32::from(status.ipam.range.prefix_len()));
    let pending = |wanted: &str, denied: bool| {
        let changes =
            known.plan().changes.iter().filter(|change| plane(&Plane::of(&change.action)) == wanted);
        let is_denied = |fault: Option<&Fault>| fault.is_some_and(|fault| fault.kind == FaultKind::Denied);
        count(changes.filter(|change| is_denied(known.failure(&change.action)) == denied).count())
    };
    let steps = ["host", "interface", "table"].into_iter().flat_map(|plane| {
        [("waiting", false), ("denied", true)]
            .map(|(state, denied)| (vec![("plane", plane), ("state", state)], pending(plane, denied)))
    });
    vec![
        gauge(
            "weavers_build_info",
            "Always 1; the version that runs.",
            [(vec![("version", status.version.as_str())], 1.0)],
        ),
        one("weavers_ready", "Whether a container that is attached now is reachable.", status.ready),
        one("weavers_converged", "Whether the last looks left nothing to do.", status.converged),
        gauge("weavers_steps_pending", "Steps of the plan that are not done.", steps),
        gauge("weavers_ipam_addresses", "Addresses, by what is known of them.", by("state", &addresses)),
        one("weavers_ipam_range_addresses", "Addresses of the whole container range.", range),
        one("weavers_ipam_ranges", "Ranges that this host owns.", count(status.ipam.owned.len())),
        one(
            "weavers_ipam_requests_pending",
            "Requests for addresses that wait.",
            count(known.pending_requests()),
        ),
        one(
            "weavers_containers",
            "Containers that are attached to this host.",
            count(status.attachments.len()),
        ),
        one("weavers_problems", "Problems that `weavers status` shows.", count(status.problems.len())),
        one("weavers_waits", "What `weavers status` waits for.", count(status.waits.len())),
    ]
}

fn of_routes(known: &Overview<'_>, status: &Status) -> Vec<MetricFamily> {
    let ours = status.interface.clone().map(Target::Interface);
    let states = |(id, table): (&Side, &Table)| {
        let of = |is_it: &dyn Fn(&crate::state::Route) -> bool| {
            count(table.routes.values().filter(|route| is_it(route)).count())
        };
        let leads_here = |route: &crate::state::Route| ours.as_ref() == Some(&route.target);
        let dead = |route: &crate::state::Route| route.state == RouteState::Blackhole;
        let place = Place::Table(id.clone());
        let conflicts = known.plan().conflicts.iter().filter(|conflict| conflict.place == place).count();
        let upkeep = status.upkeep.get(id);
        [
            ("kept", of(&|route| leads_here(route) && !dead(route))),
            ("others", of(&|route| !leads_here(route) && !dead(route)) - count(conflicts)),
            ("blackhole", of(&dead)),
            ("conflict", count(conflicts)),
            ("missing", upkeep.map_or(0.0, |upkeep| count(upkeep.missing.len()))),
        ]
    };
    let names: BTreeMap<&Side, String> = status.tables.keys().map(|id| (id, id.to_string())).collect();
    let name = |id| names.get(id).map_or("", String::as_str);
    let routes = status.tables.iter().flat_map(|(id, table)| {
        states((id, table)).map(|(state, value)| (vec![("table", name(id)), ("state", state)], value))
    });
    let used = status.upkeep.iter().map(|(id, upkeep)| (vec![("table", name(id))], count(upkeep.used)));
    let quota = status
        .upkeep
        .iter()
        .filter_map(|(id, upkeep)| Some((vec![("table", name(id))], count(upkeep.quota?))));
    let families = [
        gauge("weavers_routes", "Routes inside the container range, as last read.", routes),
        gauge("weavers_route_table_routes", "Routes that a table holds, as its quota counts them.", used),
        gauge("weavers_route_table_quota", "Routes that a table may hold, where that is known.", quota),
    ];
    let fought = known.fought_over();
    let fought =
        one("weavers_routes_fought_over", "Routes that somebody else keeps changing.", count(fought));
    // A family without samples cannot be written.
    let written = families.into_iter().filter(|family| !family.get_metric().is_empty());
    written.chain([fought]).collect()
}

fn of_peers(known: &Overview<'_>, status: &Status) -> Vec<MetricFamily> {
    let state = |state: ConnectionState| {
        (state.word(), count(status.connections.iter().filter(|one| one.state == state).count()))
    };
    let states = ConnectionState::ALL.map(state);
    let missing = status.targets.iter().filter(|target| target.is_missing()).count();
    vec![
        gauge("weavers_peers", "Connections to peers, by how far they are.", by("state", &states)),
        one(
            "weavers_peers_known",
            "Peers that are reached, this one included.",
            count(known.reachable().len() + 1),
        ),
        one("weavers_peers_missing", "Peers that are listed or tagged, and not connected.", count(missing)),
        one(
            "weavers_electors",
            "Peers that agree on who takes over from the dead.",
            count(status.ipam.electors.len()),
        ),
    ]
}

fn of_config(status: &Status) -> Vec<MetricFamily> {
    let config = &status.config;
    vec![
        one(
            "weavers_config_last_reload_successful",
            "Whether the configuration file, as it was last looked at, could be adopted.",
            config.error.is_none(),
        ),
        one("weavers_config_pending", "Whether the file was edited and is not adopted.", config.pending),
        one(
            "weavers_config_restart_required",
            "Whether a key was changed that is read at the start only.",
            !config.needs_restart.is_empty(),
        ),
    ]
}

fn of_process(known: &Overview<'_>, process: &Process) -> Vec<MetricFamily> {
    let began = process.started_s;
    let looks = known.last_looks();
    let looks = looks.iter().filter_map(|(plane, seen)| {
        let at = began + seen.as_ref()?.as_micros() as f64 / 1e6;
        Some((vec![("plane", *plane)], at))
    });
    let last = gauge(
        "weavers_plane_last_look_timestamp_seconds",
        "When the host and the VPC were last read with success.",
        looks,
    );
    let mut families = vec![
        one("process_start_time_seconds", "When the process began, since 1970.", began),
        one("process_resident_memory_bytes", "Resident memory.", process.resident as f64),
        one("process_open_fds", "Open file descriptors.", process.open_fds as f64),
    ];
    let mut cpu = one("process_cpu_seconds_total", "Time on processors.", process.cpu_s);
    counted(&mut cpu);
    families.push(cpu);
    families.extend(Some(last).filter(|last| !last.get_metric().is_empty()));
    families
}

/// Makes a counter of a gauge.
fn counted(family: &mut MetricFamily) {
    family.set_field_type(MetricType::COUNTER);
    for metric in family.mut_metric() {
        let mut counter = prometheus::proto::Counter::default();
        counter.set_value(metric.get_gauge().get_value());
        metric.set_counter(counter);
    }
}
