//! What is measured, and what alerts and the dashboard make of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use weavers::{
    config,
    metrics::{Metrics, Process},
    node::{
        Input, Node,
        persist::memory::{Identity, Memory},
    },
    peer::PeerUid,
    state::{Action, Ec2Action, Fault, FaultKind, Host, InterfaceId, Table, TableId, Vpc},
    time::Timestamp,
};

use crate::born::born;

const ME: &str = "02:00:00:00:00:01";

/// A host that founds its cluster alone, by a table that may hold 500 routes.
fn node() -> Node {
    let text = format!("[ipam]\ninit = \"seed\"\nseed = [\"{ME}\"]\n[vpc]\nquota = 500\n");
    let identity =
        Identity { name: ME.parse().unwrap(), acceptor: PeerUid(1), instance: Some("i-1".to_owned()) };
    Node::new(Timestamp::ZERO, born(identity), config::parse(&text).unwrap(), Memory::default()).unwrap()
}

/// It has looked at its host and its table.
fn settled() -> Node {
    let mut node = node();
    let tables = BTreeMap::from([(TableId("rtb-1".to_owned()).into(), Table::default())]);
    let vpc = Vpc {
        interface: InterfaceId("eni-1".to_owned()),
        source_dest_check: Some(false),
        tables,
        retired: BTreeMap::new(),
    };
    node.handle(Timestamp::ZERO, Input::HostSeen(Ok(Host::default())));
    node.handle(Timestamp::ZERO, Input::VpcSeen(Ok(vpc)));
    node
}

fn text(metrics: &Metrics, node: &Node) -> String {
    let process = Process { started_s: 1_800_000_000.0, cpu_s: 1.5, resident: 8 << 20, open_fds: 20 };
    metrics.text(node, &node.status(), &process)
}

/// The names of all that is measured, with those of a histogram's parts.
fn names(text: &str) -> BTreeSet<String> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| Some(line.split(['{', ' ']).next()?.to_owned())).collect()
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Whatever looks like a name of ours in a file, but for what Prometheus itself records.
fn named_in(path: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let words = text.split(|c: char| !is_of_a_name(c) && c != ':' && c != '.');
    let ours = words.filter(|word| word.starts_with("weavers_") || word.starts_with("process_"));
    ours.filter(|word| !word.contains([':', '.'])).map(str::to_owned).collect()
}

#[test]
fn whatever_alerts_and_the_dashboard_ask_for_is_measured() {
    let metrics = Metrics::new();
    metrics.calls().ended("CreateRoute", "OK", std::time::Duration::from_millis(80));
    let measured = names(&text(&metrics, &settled()));
    for file in ["packaging/prometheus/weavers.rules.yml", "packaging/grafana/weavers.json"] {
        let asked = named_in(file);
        assert!(asked.len() > 5, "{file} is read");
        let absent: Vec<_> = asked.difference(&measured).collect();
        assert!(absent.is_empty(), "{file} asks for {absent:?}, of {measured:?}");
    }
}

#[test]
fn each_has_its_help_and_its_type_and_counters_are_there_from_the_start() {
    let text = text(&Metrics::new(), &node());
    let of = |kind: &str| -> Vec<&str> {
        text.lines().filter_map(|line| line.strip_prefix(kind)?.split(' ').next()).collect()
    };
    let (helped, typed) = (of("# HELP "), of("# TYPE "));
    assert_eq!(helped, typed);
    assert!(helped.is_sorted(), "{helped:?}");
    for line in [
        r#"weavers_steps_total{action="CreateRoute",plane="table",result="ok"} 0"#,
        r#"weavers_looks_total{plane="vpc",result="failed"} 0"#,
        r#"weavers_ec2_requests_total{code="OK",operation="CreateRoute"} 0"#,
        "weavers_ready 0",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is not in:\n{text}");
    }
}

#[test]
fn a_step_that_ec2_denies_is_counted_as_a_failed_one() {
    let metrics = Metrics::new();
    let action = Action::Ec2(Ec2Action::DeleteRoute {
        table: TableId("rtb-1".into()).into(),
        destination: "10.32.0.0/16".parse().unwrap(),
    });
    let denied: Result<(), Fault> = Err(Fault {
        kind: FaultKind::Denied,
        message: "not authorized".into(),
        hint: None,
        request_id: None,
    });
    metrics.stepped(&action, &denied);
    let text = text(&metrics, &node());
    let line = r#"weavers_steps_total{action="DeleteRoute",plane="table",result="failed"} 1"#;
    assert!(text.contains(line), "{text}");
    assert!(!text.contains("rtb-1\",\n"), "steps bear no label of a table");
}
