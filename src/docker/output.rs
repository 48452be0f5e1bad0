//! From the node's answer to what Docker is told.

use ipnet::Ipv4Net;
use serde_json::{Value, json};

use super::Call;
use crate::{
    node::protocol::request::{Connected, Joined, Refusal, Response},
    state::{GATEWAY, GATEWAY6},
};

/// In the id of a pool: its addresses come from the default subnet, whatever that is by then.
pub const DEFAULT: &str = "default";

/// What Docker is answered.
pub fn answer(call: &Call, response: &Response) -> Value {
    match (call, response) {
        (Call::Say(answer), _) => answer.clone(),
        (Call::Pool(_), Response::Addresses(found)) => pool(found),
        (Call::Lend { .. }, Response::Addresses(found)) => match found.first() {
            // The length is what the container is given: all others are behind its gateway.
            Some(found) => json!({ "Address": format!("{}/32", found.addr()) }),
            None => failed("no address was handed out", None),
        },
        (Call::Tell(_), Response::Done | Response::Absent | Response::Connected(_)) => json!({}),
        (Call::Connect { tell_mac, .. }, Response::Connected(made)) => connected(*tell_mac, made),
        (Call::Join(_), Response::Joined(joined)) => join(joined),
        (_, _) => failed("the daemon answered something else", None),
    }
}

/// `found`: the pool, and where addresses come from, unless that is the default subnet. No address of the pool is spent on a gateway.
fn pool(found: &[Ipv4Net]) -> Value {
    let Some(pool) = found.first() else { return failed("no pool was found", None) };
    let from = found.get(1).map_or_else(|| DEFAULT.to_owned(), ToString::to_string);
    json!({
        "PoolID": format!("{pool},{from}"),
        "Pool": pool,
        "Data": { "com.docker.network.gateway": format!("{GATEWAY}/32") },
    })
}

/// What Docker does not know yet of an interface. It is told of IPv6 alone what it has not asked about.
fn connected(tell_mac: bool, Connected { mac, ipv6, .. }: &Connected) -> Value {
    let mut interface = serde_json::Map::new();
    if tell_mac {
        interface.insert("MacAddress".to_owned(), json!(mac));
    }
    if let Some(ipv6) = ipv6 {
        interface.insert("AddressIPv6".to_owned(), json!(format!("{ipv6}/128")));
    }
    if interface.is_empty() { json!({}) } else { json!({ "Interface": interface }) }
}

/// The whole range has a route of its own: the default route may be that of another network.
fn join(Joined { interface, range, range6, internal }: &Joined) -> Value {
    let mut routes = vec![
        json!({ "Destination": format!("{GATEWAY}/32"), "RouteType": 1, "NextHop": "" }),
        json!({ "Destination": range, "RouteType": 0, "NextHop": GATEWAY }),
    ];
    routes.extend(range6.map(|range| json!({ "Destination": range, "RouteType": 0, "NextHop": GATEWAY6 })));
    let mut answer = json!({
        "InterfaceName": { "SrcName": interface, "DstPrefix": "eth" },
        "StaticRoutes": routes,
    });
    if !internal {
        answer["Gateway"] = json!(GATEWAY);
        if range6.is_some() {
            answer["GatewayIPv6"] = json!(GATEWAY6);
        }
    }
    answer
}

/// Drivers of networks read one key, those of addresses the other.
pub fn failed(message: &str, hint: Option<&str>) -> Value {
    let text = hint.map_or_else(|| message.to_owned(), |hint| format!("{message}: {hint}"));
    json!({ "Err": text, "Error": text })
}

/// The node said no.
pub fn refused(refusal: &Refusal) -> Value {
    failed(&refusal.message, refusal.hint.as_deref())
}
