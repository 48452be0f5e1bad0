//! Paths under `/lab/`, in JSON: how things are, and what a colleague with a console does.
//!
//! ```text
//! GET  /lab/calls                    calls by action; ?by=INSTANCE for one caller
//! GET  /lab/state                    instances, interfaces, tables and routes
//! GET  /lab/faults, PUT /lab/faults  {"stale_ms":800,"delay_ms":0,"throttle":"aws","denied":["CreateRoute"],
//!                                     "fail":{"CreateRoute":1},"lose":{"CreateRoute":1},"cut":{"CreateRoute":1},
//!                                     "signatures":"expired_token","metadata":"off"}; "request_expired", "too_far"
//! POST /lab/power                    {"instance":"h1","power":"stopped"}; "running", "terminated"
//! POST /lab/permit                   {"instance":"h1","actions":["ModifyNetworkInterfaceAttribute"]}
//! POST /lab/route                    {"destination":"10.32.0.0/12","target":"h2"}; no target: delete
//! POST /lab/quota                    {"table":"rtb-0..","quota":5}
//! ```
//!
//! An instance is named by its id or its tag `Name`; a table by its id. Where no table is named, those
//! of the subnets are meant.

use std::collections::BTreeSet;

use axum::{
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use weavers::{
    sim::vpc::{Action, Call, Caller, Faults, InstanceId, Power, RouteTarget, Targets, Vpc, state_name},
    state::TableId,
    time::Timestamp,
};

use super::{Asked, Cloud, form};

type Answer = Result<Value, String>;

/// Answers a request below `/lab/`.
pub fn answer(cloud: &Cloud, asked: &Asked) -> Response {
    let path = asked.uri.path().trim_start_matches("/lab/");
    let answer = cloud.with(|vpc, now| match (&asked.method, path) {
        (&Method::GET, "calls") => calls(vpc, asked),
        (&Method::GET, "state") => Ok(state(vpc)),
        (&Method::GET, "faults") => Ok(json!(vpc.faults())),
        (&Method::PUT | &Method::POST, "faults") => read::<Faults>(asked).map(|faults| {
            vpc.set_faults(faults);
            json!(vpc.faults())
        }),
        (&Method::POST, "power") => power(vpc, now, read(asked)?),
        (&Method::POST, "permit") => permit(vpc, read(asked)?),
        (&Method::POST, "route") => route(vpc, now, &read(asked)?),
        (&Method::POST, "quota") => quota(vpc, now, read(asked)?),
        _ => Err(format!("no such thing to do: {} /lab/{path}", asked.method)),
    });
    let (status, body) = match answer {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => (StatusCode::BAD_REQUEST, json!({ "error": error })),
    };
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

#[derive(Deserialize)]
struct SetPower {
    instance: String,
    power: Power,
}

#[derive(Deserialize)]
struct Permit {
    instance: String,
    actions: Vec<Action>,
}

#[derive(Deserialize)]
struct SetRoute {
    table: Option<String>,
    destination: String,
    target: Option<String>,
}

#[derive(Deserialize)]
struct SetQuota {
    table: Option<String>,
    quota: usize,
}

fn read<T: DeserializeOwned>(asked: &Asked) -> Result<T, String> {
    serde_json::from_slice(&asked.body).map_err(|error| format!("the body cannot be read: {error}"))
}

fn calls(vpc: &Vpc, asked: &Asked) -> Answer {
    let fields = form::parse(asked.uri.query().unwrap_or_default());
    match fields.get("by") {
        None => Ok(json!(vpc.calls())),
        Some(by) => Ok(json!(vpc.calls_by(&Caller::Instance(instance(vpc, by)?)))),
    }
}

fn power(vpc: &mut Vpc, now: Timestamp, order: SetPower) -> Answer {
    let instance = instance(vpc, &order.instance)?;
    vpc.set_power(now, &instance, order.power);
    Ok(state(vpc))
}

fn permit(vpc: &mut Vpc, order: Permit) -> Answer {
    let caller = Caller::Instance(instance(vpc, &order.instance)?);
    vpc.permit(&caller, order.actions);
    Ok(json!({}))
}

/// Creates a route, or replaces or deletes the one that is there.
fn route(vpc: &mut Vpc, now: Timestamp, order: &SetRoute) -> Answer {
    for table in tables(vpc, order.table.as_deref())? {
        let (table, destination, dry_run) = (table.0, order.destination.as_str().into(), false);
        let result = match &order.target {
            None => {
                vpc.call(now, &Caller::Console, &Call::DeleteRoute { table, destination, dry_run }).result
            }
            Some(target) => {
                let targets = targets(vpc, target);
                let (again, to) = (table.clone(), targets.clone());
                let create = Call::CreateRoute { table, destination: destination.clone(), targets, dry_run };
                let created = vpc.call(now, &Caller::Console, &create).result;
                match created {
                    Err(error) if error.code == "RouteAlreadyExists" => {
                        let replace = Call::ReplaceRoute { table: again, destination, targets: to, dry_run };
                        vpc.call(now, &Caller::Console, &replace).result
                    }
                    other => other,
                }
            }
        };
        result.map_err(|error| error.to_string())?;
    }
    Ok(state(vpc))
}

fn quota(vpc: &mut Vpc, now: Timestamp, order: SetQuota) -> Answer {
    for table in tables(vpc, order.table.as_deref())? {
        vpc.set_quota(now, &table, order.quota);
    }
    Ok(json!({}))
}

/// A target by interface id, by instance id or name (its first interface), or else a gateway.
fn targets(vpc: &Vpc, target: &str) -> Targets {
    if target.starts_with("eni-") {
        return Targets::interface(target);
    }
    let first =
        instance(vpc, target).ok().and_then(|instance| vpc.interfaces_of(&instance).into_iter().next());
    match first {
        Some((_, interface)) => Targets::interface(interface.0),
        None => Targets { gateway: Some(target.to_owned()), ..Targets::default() },
    }
}

fn tables(vpc: &Vpc, named: Option<&str>) -> Result<Vec<TableId>, String> {
    let Some(named) = named else {
        let serving: BTreeSet<_> = vpc.subnets().keys().filter_map(|subnet| vpc.table_of(subnet)).collect();
        return Ok(serving.into_iter().cloned().collect());
    };
    let found = vpc.tables().find(|table| table.0 == named).cloned();
    found.map(|table| vec![table]).ok_or_else(|| format!("there is no route table {named}"))
}

fn instance(vpc: &Vpc, named: &str) -> Result<InstanceId, String> {
    let is = |name: &str, record: &weavers::sim::vpc::Instance| {
        name == named || record.tags.get("Name").is_some_and(|tag| tag == named)
    };
    let found = vpc.instances().iter().find(|(id, record)| is(&id.0, record));
    found.map(|(id, _)| id.clone()).ok_or_else(|| format!("there is no instance {named}"))
}

fn state(vpc: &Vpc) -> Value {
    let instances = vpc.instances().iter().map(|(id, record)| {
        let interfaces = vpc.interfaces_of(id).into_iter().map(|(device, interface)| {
            let record = &vpc.interfaces()[&interface];
            json!({
                "id": interface, "device": device, "address": record.address,
                "source_dest_check": record.source_dest_check, "subnet": record.subnet,
            })
        });
        json!({
            "id": id, "name": record.tags.get("Name"), "power": record.power,
            "interfaces": interfaces.collect::<Vec<_>>(),
        })
    });
    let tables = vpc.tables().map(|table| (table.0.clone(), routes(vpc, table)));
    json!({
        "instances": instances.collect::<Vec<_>>(),
        "tables": tables.collect::<serde_json::Map<_, _>>(),
    })
}

fn routes(vpc: &Vpc, table: &TableId) -> Value {
    let routes = vpc.routes(table).into_iter().map(|route| {
        json!({
            "destination": route.destination, "target": target_name(&route.target),
            "state": state_name(route.state), "origin": route.origin.name(),
        })
    });
    routes.collect()
}

/// A route's target as people write it.
pub fn target_name(target: &RouteTarget) -> String {
    match target {
        RouteTarget::Local => "local".to_owned(),
        RouteTarget::Interface(interface) => interface.to_string(),
        RouteTarget::Gateway(gateway) => gateway.clone(),
    }
}
