//! A request as a method, a name and a body, and back.

use axum::http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ApiRequest;
use crate::{
    config::{Source, Sources},
    node::protocol::request::{Loan, Pool, Refusal, RefusalKind, Request, SavedPlan, Wish},
    state::Key,
};

/// Calls without a body that change nothing.
const READS: [&str; 8] =
    ["status", "plan", "await_ready", "show_ring", "range", "permissions", "can_connect", "metrics"];

/// A call as it goes over the socket.
#[derive(Debug, PartialEq)]
pub(super) struct Wire {
    pub method: Method,
    pub name: String,
    /// `Null` where there is none.
    pub body: Value,
}

#[derive(Serialize, Deserialize)]
struct AttachBody {
    target: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subnet: Option<Pool>,
}

#[derive(Serialize, Deserialize)]
struct ConnectBody {
    target: String,
    #[serde(flatten)]
    wish: Wish,
}

#[derive(Serialize, Deserialize)]
struct CheckBody {
    target: String,
    key: Key,
}

#[derive(Serialize, Deserialize)]
struct LendBody {
    target: String,
    #[serde(flatten)]
    loan: Loan,
}

#[derive(Serialize, Deserialize)]
struct PreviewBody {
    config: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    drop_ins: Vec<Source>,
}

#[derive(Serialize, Deserialize)]
struct ApplyBody {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    plan: Option<Box<SavedPlan>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    confirm_timeout_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct DetachBody {
    target: String,
}

/// How `request` is put.
pub(super) fn encode(request: &ApiRequest) -> Result<Wire, Refusal> {
    match request {
        ApiRequest::Preview { config } => {
            let body = PreviewBody { config: config.main.text.clone(), drop_ins: config.drop_ins.clone() };
            Ok(Wire::new("preview", to_json(&body)))
        }
        ApiRequest::ApplyOnTerms { plan, confirm_timeout_ms } => {
            let body = ApplyBody { plan: plan.clone(), confirm_timeout_ms: *confirm_timeout_ms };
            Ok(Wire::new("apply", to_json(&body)))
        }
        ApiRequest::Permissions => Ok(Wire::new("permissions", Value::Null)),
        ApiRequest::Metrics => Ok(Wire::new("metrics", Value::Null)),
        ApiRequest::Reload => Ok(Wire::new("reload", Value::Null)),
        ApiRequest::RotateKey => Ok(Wire::new("rotate_key", Value::Null)),
        ApiRequest::AttachTarget { target, name, subnet } => {
            let (target, name, subnet) = (target.clone(), name.clone(), subnet.clone());
            Ok(Wire::new("attach", to_json(&AttachBody { target, name, subnet })))
        }
        ApiRequest::ConnectTarget { target, wish } => {
            let (target, wish) = (target.clone(), wish.clone());
            Ok(Wire::new("connect", to_json(&ConnectBody { target, wish })))
        }
        ApiRequest::CheckTarget { target, key } => {
            let (target, key) = (target.clone(), key.clone());
            Ok(Wire::new("check", to_json(&CheckBody { target, key })))
        }
        ApiRequest::LendTarget { target, loan } => {
            let (target, loan) = (target.clone(), loan.clone());
            Ok(Wire::new("lend", to_json(&LendBody { target, loan })))
        }
        ApiRequest::DetachTarget { target } => {
            Ok(Wire::new("detach", to_json(&DetachBody { target: target.clone() })))
        }
        ApiRequest::Node(
            Request::Attach { .. }
            | Request::Detach { .. }
            | Request::Connect { .. }
            | Request::Check { .. }
            | Request::Lend { .. },
        ) => Err(invalid("a network namespace is named by its target on the control socket")),
        ApiRequest::Node(Request::LeasesGone { .. }) => {
            Err(invalid("namespaces are looked after by the daemon itself"))
        }
        ApiRequest::Node(Request::Docker(_)) => Err(invalid("Docker speaks on a socket of its own")),
        ApiRequest::Node(request) => Ok(match to_json(request) {
            Value::String(name) => Wire::new(&name, Value::Null),
            Value::Object(fields) => {
                let (name, body) = fields.into_iter().next().expect("a variant has its name as key");
                Wire::new(&name, body)
            }
            other => unreachable!("a request is a name or a name with fields, not {other}"),
        }),
    }
}

/// What was asked by this method and name.
pub(super) fn decode(method: &Method, name: &str, body: &[u8]) -> Result<ApiRequest, Refusal> {
    if method != method_of(name) {
        return Err(invalid(format!("{name} is asked with {}, not {method}", method_of(name))));
    }
    let body = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(body).map_err(|wrong| invalid(format!("the body is not JSON: {wrong}")))?
    };
    let request = match name {
        "preview" => serde_json::from_value(body).map(|PreviewBody { config, drop_ins }| {
            ApiRequest::Preview { config: Sources { drop_ins, ..Sources::from(config.as_str()) } }
        }),
        "apply" if !body.is_null() => {
            serde_json::from_value(body).map(|ApplyBody { plan, confirm_timeout_ms }| {
                ApiRequest::ApplyOnTerms { plan, confirm_timeout_ms }
            })
        }
        "permissions" => Ok(ApiRequest::Permissions),
        "metrics" => Ok(ApiRequest::Metrics),
        "reload" => Ok(ApiRequest::Reload),
        "rotate_key" => Ok(ApiRequest::RotateKey),
        "attach" => serde_json::from_value(body)
            .map(|AttachBody { target, name, subnet }| ApiRequest::AttachTarget { target, name, subnet }),
        "connect" => serde_json::from_value(body)
            .map(|ConnectBody { target, wish }| ApiRequest::ConnectTarget { target, wish }),
        "check" => serde_json::from_value(body)
            .map(|CheckBody { target, key }| ApiRequest::CheckTarget { target, key }),
        "lend" => serde_json::from_value(body)
            .map(|LendBody { target, loan }| ApiRequest::LendTarget { target, loan }),
        "detach" => {
            serde_json::from_value(body).map(|DetachBody { target }| ApiRequest::DetachTarget { target })
        }
        _ => serde_json::from_value(tagged(name, body)).map(ApiRequest::Node),
    };
    request.map_err(|wrong| invalid(format!("{name}: {wrong}")))
}

/// A variant as serde writes it: its name alone, or its name with its fields.
fn tagged(name: &str, body: Value) -> Value {
    match body {
        Value::Null => Value::String(name.to_owned()),
        body => Value::Object(Map::from_iter([(name.to_owned(), body)])),
    }
}

fn method_of(name: &str) -> Method {
    if READS.contains(&name) { Method::GET } else { Method::POST }
}

fn to_json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("requests have string keys")
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Invalid, message)
}

impl Wire {
    fn new(name: &str, body: Value) -> Wire {
        Wire { method: method_of(name), name: name.to_owned(), body }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Kind, Port, Protocol};

    fn key() -> Key {
        let [network, id, interface] = ["weavers", "a1", "eth0"].map(str::to_owned);
        Key { kind: Kind::Cni, network, id, interface }
    }

    fn all() -> Vec<ApiRequest> {
        let ident = "web".to_owned();
        let address = "10.32.0.1".parse().unwrap();
        [
            Request::Status,
            Request::Plan,
            Request::Apply,
            Request::AwaitReady,
            Request::ShowRing,
            Request::Range,
            Request::CanConnect,
            Request::Collect,
            Request::Explain { address },
            Request::Confirm,
            Request::Allocate { ident: ident.clone(), subnet: Some("10.32.0.0/24".into()) },
            Request::Claim { ident: ident.clone(), address },
            Request::Free { ident: ident.clone(), address: None },
            Request::Lookup { ident },
            Request::Lent { key: key() },
            Request::Forget { peer: "b".to_owned(), alone: false },
            Request::Drain,
            Request::Reset,
        ]
        .into_iter()
        .map(ApiRequest::Node)
        .chain([
            ApiRequest::Permissions,
            ApiRequest::Metrics,
            ApiRequest::Reload,
            ApiRequest::RotateKey,
            ApiRequest::ApplyOnTerms { plan: None, confirm_timeout_ms: Some(120_000) },
            ApiRequest::AttachTarget {
                target: "7".to_owned(),
                name: Some("web".to_owned()),
                subnet: Some("db".into()),
            },
            ApiRequest::ConnectTarget {
                target: "/run/netns/a".to_owned(),
                wish: Wish {
                    key: key(),
                    address: Some(address),
                    mac: Some("02:00:00:00:00:07".parse().unwrap()),
                    mtu: Some(1400),
                    subnet: Some("db".into()),
                    name: Some("web".to_owned()),
                    ports: vec![Port { protocol: Protocol::Tcp, host_ip: None, host: 8080, container: 80 }],
                },
            },
            ApiRequest::CheckTarget { target: "/run/netns/a".to_owned(), key: key() },
            ApiRequest::LendTarget {
                target: "/run/netns/a".to_owned(),
                loan: Loan {
                    key: key(),
                    address: Some(address),
                    subnet: Some("10.33.0.0/16".into()),
                    block: Some(24),
                    name: Some("web".to_owned()),
                },
            },
            ApiRequest::DetachTarget { target: "/run/netns/a".to_owned() },
        ])
        .collect()
    }

    #[test]
    fn every_request_arrives_as_it_was_put() {
        for request in all() {
            let wire = encode(&request).unwrap();
            let body = if wire.body.is_null() { Vec::new() } else { wire.body.to_string().into_bytes() };
            assert_eq!(decode(&wire.method, &wire.name, &body), Ok(request));
        }
    }

    #[test]
    fn the_documentation_lists_every_call() {
        let documented = include_str!("mod.rs");
        for request in all() {
            let wire = encode(&request).unwrap();
            let line = format!("//! | `{} /v1/{}` |", wire.method, wire.name);
            assert!(documented.contains(&line), "{line}");
        }
    }

    #[test]
    fn nothing_is_changed_by_a_get() {
        assert!(decode(&Method::GET, "reset", b"").is_err());
        assert!(decode(&Method::GET, "apply", b"").is_err());
    }

    #[test]
    fn a_question_that_makes_no_sense_is_refused_by_name() {
        for (name, body) in
            [("nonsense", ""), ("claim", "{}"), ("claim", "not json"), ("drain", "[1]"), ("attach", "")]
        {
            let refusal = decode(&Method::POST, name, body.as_bytes()).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::Invalid, "{name}");
        }
    }

    #[test]
    fn a_namespace_is_not_named_by_what_only_the_daemon_can_know() {
        let body = r#"{"netns":{"boot":"b","cookie":1,"path":"/"},"name":null}"#;
        assert!(decode(&Method::POST, "attach", body.as_bytes()).is_err());
    }
}
