//! From the daemon's answer to what a runtime is told.

use serde_json::{Value, json};

use super::{Code, Failure, Network, Verb, Version};
use crate::{
    node::protocol::request::{Connected, Lent, Refusal, RefusalKind, Response},
    state::{GATEWAY, GATEWAY6, HOST_MAC},
};

/// What goes to stdout: nothing where the specification wants nothing.
pub fn answer(network: &Network, verb: &Verb, response: &Response) -> Result<Option<Value>, Failure> {
    match (verb, response) {
        (Verb::Add { netns, wish }, Response::Connected(made)) => {
            Ok(Some(result(network, netns, &wish.key.interface, made)))
        }
        (Verb::Lend { .. }, Response::Lent(lent)) => Ok(Some(loan(network, lent))),
        (Verb::Check { addresses, key, .. }, Response::Connected(Connected { address, .. })) => {
            same(network, &key.interface, addresses, &address.to_string())
        }
        (Verb::Lent { addresses, key }, Response::Lent(Lent { address, .. })) => {
            same(network, &key.interface, addresses, &address.addr().to_string())
        }
        (Verb::Del { .. } | Verb::Status | Verb::Gc, Response::Done | Response::Absent) => Ok(None),
        (_, _) => Err(Failure::new(network.version, Code::Again, "the daemon answered something else")
            .details("is it of another version? restart it")),
    }
}

/// Whether it has the address that the result of ADD lists.
fn same(
    network: &Network,
    interface: &str,
    listed: &[String],
    address: &String,
) -> Result<Option<Value>, Failure> {
    if listed.contains(address) {
        return Ok(None);
    }
    let message = format!("{interface} has {address} and not {}", listed.join(", "));
    Err(Failure::new(network.version, Code::Changed, message).details("delete it and add it anew"))
}

/// The result of ADD for the plugin that makes the interface.
fn loan(network: &Network, Lent { address, gateway }: &Lent) -> Value {
    let mut ip = json!({ "address": address, "gateway": gateway });
    if network.version < Version::V1_0_0 {
        ip["version"] = json!("4");
    }
    json!({
        "cniVersion": network.version.text(),
        "ips": [ip],
        "routes": [{ "dst": "0.0.0.0/0" }],
        "dns": network.dns,
    })
}

/// The result of ADD. Each version has a little more, or less, than the one before.
fn result(network: &Network, netns: &str, interface: &str, made: &Connected) -> Value {
    let Connected { address, ipv6, mac, mtu, link } = made;
    let mut host = json!({ "name": link, "mac": HOST_MAC });
    let mut container = json!({ "name": interface, "mac": mac, "sandbox": netns });
    let mut ip = json!({ "address": format!("{address}/32"), "gateway": GATEWAY, "interface": 1 });
    if network.version < Version::V1_0_0 {
        ip["version"] = json!("4");
    }
    let (mut ips, mut routes) = (vec![ip], vec![json!({ "dst": "0.0.0.0/0", "gw": GATEWAY })]);
    if let Some(ipv6) = ipv6 {
        let mut ip = json!({ "address": format!("{ipv6}/128"), "gateway": GATEWAY6, "interface": 1 });
        if network.version < Version::V1_0_0 {
            ip["version"] = json!("6");
        }
        ips.push(ip);
        routes.push(json!({ "dst": "::/0", "gw": GATEWAY6 }));
    }
    if network.version >= Version::V1_1_0 {
        host["mtu"] = json!(mtu);
        container["mtu"] = json!(mtu);
    }
    json!({
        "cniVersion": network.version.text(),
        "interfaces": [host, container],
        "ips": ips,
        "routes": routes,
        "dns": network.dns,
    })
}

/// The versions that are spoken, in an answer of this one.
pub fn versions(version: &str) -> Value {
    json!({ "cniVersion": version, "supportedVersions": Version::ALL.map(Version::text) })
}

/// The daemon said no.
pub fn refused(network: &Network, verb: &Verb, refusal: &Refusal) -> Failure {
    let code = match (verb, refusal.kind) {
        (Verb::Status, RefusalKind::Impaired) => Code::Impaired,
        (Verb::Status, _) => Code::NotReady,
        (Verb::Check { .. } | Verb::Lent { .. }, RefusalKind::NotFound) => Code::Unknown,
        (Verb::Check { .. } | Verb::Lent { .. }, _) => Code::Changed,
        (_, RefusalKind::Invalid | RefusalKind::NotFound) => Code::Config,
        (_, RefusalKind::Taken) => Code::Taken,
        (
            _,
            RefusalKind::Failed
            | RefusalKind::Impaired
            | RefusalKind::Unsafe
            | RefusalKind::Untimely
            | RefusalKind::Config,
        ) => Code::Again,
    };
    let failure = Failure::new(network.version, code, refusal.message.clone());
    failure.details(refusal.hint.clone().unwrap_or_default())
}

/// No daemon answers.
pub fn unreachable(network: &Network, verb: &Verb, why: &str, way_out: Option<String>) -> Failure {
    let code = if *verb == Verb::Status { Code::NotReady } else { Code::Unreachable };
    Failure::new(network.version, code, why).details(way_out.unwrap_or_default())
}

/// It took too long, or was interrupted.
pub fn late(network: &Network, verb: &Verb, why: &str) -> Failure {
    let code = if *verb == Verb::Status { Code::NotReady } else { Code::Again };
    Failure::new(network.version, code, why).details("`weavers status` says what it waits for")
}
