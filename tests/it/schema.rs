//! The published JSON Schemas and the documents themselves say the same.

#![allow(clippy::unwrap_used)] // A test stops at what it did not expect.

use std::{collections::BTreeSet, net::SocketAddr};

use serde_json::{Map, Value, json};
use weavers::{
    cli::render,
    config::{self, Config, schema::KEYS},
    mesh::{self, ConnId},
    node::{
        Input, Node,
        persist::memory::{Attached, Identity, Memory},
    },
    peer::{PeerName, PeerUid},
    plan::{Change, Conflict, Plan, Usage},
    state::{
        Action, Ec2Action, Host, HostAction, InterfaceId, Netns, Route, RouteState, Table, TableId, Target,
        Vpc,
    },
    time::Timestamp,
};

use crate::born::born;

const STATUS: &str = include_str!("../../src/cli/schema/status.json");
const PLAN: &str = include_str!("../../src/cli/schema/plan.json");
const CONFIG: &str = include_str!("../../src/cli/schema/config.json");

#[test]
fn a_status_is_as_its_schema_has_it() {
    let status = json!(node_with_something_of_everything().status());
    for list in ["waits", "connections", "targets", "attachments", "steps"] {
        assert!(!status[list].as_array().unwrap().is_empty(), "there is something in `{list}` to hold it to");
    }
    assert_eq!(faults(STATUS, &status), [""; 0]);
}

#[test]
fn a_plan_is_as_its_schema_has_it() {
    let mut document = render::plan::document(&plan());
    document["permissions"] = json!([
        { "action": "CreateRoute", "verdict": "denied", "optional": false, "said": "no", "statement": null },
    ]);
    document["diff"] = render::diff::document(&plan());
    assert_eq!(faults(PLAN, &document), [""; 0]);
    assert_eq!(faults(PLAN, &render::plan::document(&Plan::default())), [""; 0]);
}

#[test]
fn the_schema_of_the_file_has_every_key_and_no_other() {
    let schema: Value = serde_json::from_str(CONFIG).unwrap();
    let mut described = BTreeSet::new();
    for (name, value) in schema["properties"].as_object().unwrap() {
        match value["properties"].as_object() {
            Some(keys) => described.extend(keys.keys().map(|key| format!("{name}.{key}"))),
            None => _ = described.insert(name.clone()),
        }
    }
    let known: BTreeSet<String> = KEYS.iter().map(|key| key.path.to_owned()).collect();
    assert_eq!(described, known);
}

#[test]
fn the_example_is_as_the_schema_has_it() {
    let example: toml::Value = toml::from_str(include_str!("../../weave.toml.example")).unwrap();
    assert_eq!(faults(CONFIG, &json!(example)), [""; 0]);
    assert!(!faults(CONFIG, &json!({ "network": { "mut": 1 } })).is_empty());
    assert!(!faults(CONFIG, &json!({ "vpc": { "source_dest_check": "off" } })).is_empty());
    assert!(!faults(CONFIG, &json!({ "peers": "10.0.0.1" })).is_empty());
}

#[test]
fn what_a_schema_does_not_describe_is_found() {
    let status = json!(node_with_something_of_everything().status());
    for (pointer, value) in [("/ready", json!("yes")), ("/config", json!({})), ("/new", json!(1))] {
        let mut wrong = status.clone();
        match wrong.pointer_mut(pointer) {
            Some(found) => *found = value,
            None => _ = wrong.as_object_mut().unwrap().insert(pointer[1..].to_owned(), value),
        }
        assert!(!faults(STATUS, &wrong).is_empty(), "{pointer}");
    }
}

// ===== the documents =====

pub fn node_with_something_of_everything() -> Node {
    let identity = Identity { name: PeerName::from_u64(1), acceptor: PeerUid(1), instance: None };
    let birth = born(identity);
    let netns = Netns::new("boot", 1, "/run/netns/web");
    let web = Attached {
        ident: "web".to_owned(),
        named: true,
        netns: Some(netns),
        address: Some("10.32.0.1/12".parse().unwrap()),
        ..Attached::default()
    };
    let memory = Memory { attached: [("web".to_owned(), web)].into(), ..Memory::default() };
    let config: Config = config::parse("peers = ['10.0.0.2']").unwrap();
    let mut node = Node::new(Timestamp::ZERO, birth, config, memory).unwrap();
    let remote = SocketAddr::from(([10, 0, 0, 3], 40_000));
    let host = Host { uplinks: [("ens5".to_owned(), 9001)].into(), ..Host::default() };
    let inputs = [
        Input::Mesh(mesh::Input::Accepted { conn: ConnId(1), remote }),
        Input::HostSeen(Ok(host)),
        Input::VpcSeen(Ok(vpc())),
    ];
    let mut now = Timestamp::ZERO;
    for input in inputs {
        now = Timestamp::from_micros(now.as_micros() + 1);
        node.handle(now, input);
        while let Some(output) = node.next_output() {
            match output {
                weavers::node::Output::Save(id, _) => node.handle(now, Input::Stored(id, Ok(()))),
                weavers::node::Output::Apply(action) => node.handle(now, Input::Applied(action, Ok(None))),
                _ => {}
            }
        }
    }
    node
}

fn vpc() -> Vpc {
    let target = Target::Interface(InterfaceId("eni-1".to_owned()));
    let route = Route { target, state: RouteState::Active, created: true };
    let peering = Route { target: Target::Other("pcx-1".to_owned()), ..route.clone() };
    let routes = [("10.32.0.0/13".parse().unwrap(), route), ("10.40.0.0/13".parse().unwrap(), peering)];
    let table = Table { routes: routes.into(), used: 2, local: vec!["10.0.0.0/16".parse().unwrap()] };
    Vpc {
        interface: InterfaceId("eni-1".to_owned()),
        source_dest_check: Some(true),
        tables: [(TableId("rtb-1".to_owned()).into(), table)].into(),
        retired: Default::default(),
    }
}

pub fn plan() -> Plan {
    let destination = "10.32.0.0/13".parse().unwrap();
    let change = |action| Change {
        action,
        cause: "missing".to_owned(),
        before: weavers::plan::Found::Nothing,
        containers: vec!["web".to_owned()],
    };
    let create = Action::Ec2(Ec2Action::CreateRoute {
        table: TableId("rtb-1".to_owned()).into(),
        destination,
        interface: InterfaceId("eni-1".to_owned()),
    });
    let conflict = Conflict { place: "rtb-1".to_owned().into(), destination, target: "pcx-1".to_owned() };
    Plan {
        refused: vec![change(create.clone())],
        changes: [create, Action::Host(HostAction::DeleteRules)].map(change).into(),
        conflicts: vec![conflict],
        tables: [(TableId("rtb-1".to_owned()).into(), Usage { used: 4, after: 5, quota: None })].into(),
        unread: vec!["the VPC cannot be read".to_owned()],
        notes: vec!["a note".to_owned()],
    }
}

// ===== what our schemas use of JSON Schema =====

/// Where the document is not as the schema has it, or has what the schema does not describe.
fn faults(schema: &str, document: &Value) -> Vec<String> {
    let schema: Value = serde_json::from_str(schema).unwrap();
    let mut faults = Vec::new();
    hold(&schema, &schema, document, "", &mut faults);
    faults
}

fn hold(root: &Value, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        let schema = root.pointer(name.trim_start_matches('#')).unwrap();
        return hold(root, schema, value, at, faults);
    }
    let is_of = |name: &Value| match (name.as_str().unwrap(), value) {
        ("object", Value::Object(_)) | ("array", Value::Array(_)) | ("string", Value::String(_)) => true,
        ("boolean", Value::Bool(_)) | ("null", Value::Null) => true,
        ("integer", Value::Number(number)) => number.is_i64() || number.is_u64(),
        _ => false,
    };
    let fits = match &schema["type"] {
        Value::Array(names) => names.iter().any(is_of),
        name => is_of(name),
    };
    if !fits {
        return faults.push(format!("{at}: {value} is not of type {}", schema["type"]));
    }
    if schema["enum"].as_array().is_some_and(|values| !values.contains(value)) {
        faults.push(format!("{at}: {value} is not one of {}", schema["enum"]));
    }
    match value {
        Value::Object(members) => hold_members(root, schema, members, at, faults),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                hold(root, &schema["items"], item, &format!("{at}/{index}"), faults);
            }
        }
        _ => {}
    }
}

fn hold_members(
    root: &Value,
    schema: &Value,
    members: &Map<String, Value>,
    at: &str,
    faults: &mut Vec<String>,
) {
    for name in schema["required"].as_array().into_iter().flatten() {
        if !members.contains_key(name.as_str().unwrap()) {
            faults.push(format!("{at}: {name} is missing"));
        }
    }
    let (properties, more) = (schema["properties"].as_object(), &schema["additionalProperties"]);
    for (name, value) in members {
        let described = properties.and_then(|all| all.get(name)).or(more.is_object().then_some(more));
        match described {
            Some(schema) => hold(root, schema, value, &format!("{at}/{name}"), faults),
            // A step is for programs, in the words of the program.
            None if at.ends_with("/step") => {}
            None => faults.push(format!("{at}/{name} is not described")),
        }
    }
}
