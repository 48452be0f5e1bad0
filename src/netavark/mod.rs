//! Plugins of netavark, by which Podman connects containers: what it says, and what it is answered.
//!
//! ```text
//!  create   a network, on stdin ─► the same, as we have it
//!  setup    NETNS, a container  ─► (the daemon) ─► its interface
//!  teardown NETNS, a container  ─► (the daemon)
//! ```
//!
//! Pure: nothing is asked or read here. Errors are texts: netavark knows no others.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::{
    addr::Address,
    config::schema::{did_you_mean, nearest},
    node::protocol::request::{Connected, Pool, Wish},
    state::{GATEWAY, GATEWAY6, Key, Kind, Mac, Port, Protocol},
    text::short,
};

/// What netavark calls us with.
pub const VERBS: [&str; 4] = ["info", "create", "setup", "teardown"];
/// The version of its protocol.
const API_VERSION: &str = "1.0.0";
/// Options of a network.
const OPTIONS: [&str; 3] = ["mtu", "subnet", "socket"];
/// What is repeated of a value that will not do.
const SAID_MAX: usize = 60;
/// What is kept of a container's name.
const NAME_LEN_MAX: usize = 128;
/// Ports of one container; a range is one entry.
const PORTS_MAX: usize = 4096;

/// What this is.
pub fn info() -> Value {
    json!({ "version": env!("CARGO_PKG_VERSION"), "api_version": API_VERSION })
}

/// What went wrong, as it is written to stdout.
pub fn failed(why: &str) -> Value {
    json!({ "error": why })
}

/// A container that is to be connected, or not any more.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// What it is to have.
    pub wish: Wish,
    /// The control socket, unless it is the usual one.
    pub socket: Option<String>,
}

fn read<T: DeserializeOwned>(stdin: &[u8]) -> Result<T, String> {
    serde_json::from_slice(stdin).map_err(|wrong| format!("stdin cannot be read: {wrong}"))
}

// ===== networks =====

/// The subnets of a network that is to be created, and the control socket that it names.
pub fn asked_of(stdin: &[u8]) -> Result<(Vec<Ipv4Net>, Option<String>), String> {
    let network: Map<String, Value> = read(stdin)?;
    let options = options(network.get("options"))?;
    let subnets = network.get("subnets").and_then(Value::as_array).cloned().unwrap_or_default();
    let subnets = subnets.iter().map(|subnet| {
        let text = subnet.get("subnet").and_then(Value::as_str).unwrap_or_default();
        match text.parse() {
            Ok(IpNet::V4(net)) => Ok(net),
            Ok(IpNet::V6(net)) => Err(format!("subnet {net} is of IPv6, which weavers does not do")),
            Err(_) => Err(format!("subnet `{}` is none", short(text, SAID_MAX))),
        }
    });
    Ok((subnets.collect::<Result<_, String>>()?, options.get("socket").cloned()))
}

/// The network as we have it: its addresses are ours to hand out, and names are not resolved on it. `range` is the container address
/// space.
pub fn create(stdin: &[u8], range: Ipv4Net) -> Result<Value, String> {
    let (subnets, _) = asked_of(stdin)?;
    let mut network: Map<String, Value> = read(stdin)?;
    let flag = |name: &str| network.get(name).and_then(Value::as_bool).unwrap_or_default();
    if flag("ipv6_enabled") {
        return Err("weavers does no IPv6: leave --ipv6 out".to_owned());
    }
    if flag("internal") {
        let way_out =
            "keep its containers apart by an [[ipam.subnet]] of weave.toml, and leave --internal out";
        return Err(format!("a network of weavers has a way out: {way_out}"));
    }
    if let Some(outside) = subnets.iter().find(|subnet| !range.contains(*subnet)) {
        return Err(format!("subnet {outside} is outside [ipam] range {range}"));
    }
    if let [_, _, ..] = subnets[..] {
        return Err("a network of weavers has one subnet, or none of its own".to_owned());
    }
    let driver = network.get("ipam_options").and_then(|options| options.get("driver")?.as_str());
    if driver.is_some_and(|driver| !["", "none", "host-local", "weavers"].contains(&driver)) {
        return Err("ipam: weavers hands out addresses itself: leave --ipam-driver out".to_owned());
    }
    // Without a subnet Podman would choose one.
    let driver = if subnets.is_empty() { "none" } else { "weavers" };
    network.insert("ipam_options".to_owned(), json!({ "driver": driver }));
    network.insert("dns_enabled".to_owned(), json!(false));
    Ok(Value::Object(network))
}

fn options(given: Option<&Value>) -> Result<BTreeMap<String, String>, String> {
    let given: BTreeMap<String, String> = match given {
        None | Some(Value::Null) => BTreeMap::new(),
        Some(given) => serde_json::from_value(given.clone()).map_err(|wrong| format!("options: {wrong}"))?,
    };
    if let Some(name) = given.keys().find(|name| !OPTIONS.contains(&name.as_str())) {
        let known = || format!("there are {}", OPTIONS.join(", "));
        let hint = nearest(name, OPTIONS).map_or_else(known, did_you_mean);
        return Err(format!("option `{}` is not known: {hint}", short(name, SAID_MAX)));
    }
    if let Some(socket) = given.get("socket").filter(|socket| !socket.starts_with('/')) {
        return Err(format!("option `socket`: {} is not an absolute path", short(socket, SAID_MAX)));
    }
    Ok(given)
}

// ===== containers =====

#[derive(Deserialize)]
struct Body {
    container_id: String,
    #[serde(default)]
    container_name: String,
    #[serde(default)]
    port_mappings: Option<Vec<Mapping>>,
    network: Network,
    network_options: PerContainer,
}

#[derive(Deserialize)]
struct Network {
    name: String,
    #[serde(default)]
    subnets: Option<Vec<Subnet>>,
    #[serde(default)]
    options: Option<Value>,
}

#[derive(Deserialize)]
struct Subnet {
    subnet: IpNet,
}

#[derive(Deserialize)]
struct PerContainer {
    interface_name: String,
    #[serde(default)]
    static_ips: Option<Vec<IpAddr>>,
    #[serde(default)]
    static_mac: Option<String>,
}

#[derive(Deserialize)]
struct Mapping {
    container_port: u16,
    host_port: u16,
    #[serde(default)]
    host_ip: String,
    #[serde(default)]
    protocol: String,
    #[serde(default = "one")]
    range: u16,
}

fn one() -> u16 {
    1
}

/// The container that a call is about.
pub fn parse(stdin: &[u8]) -> Result<Call, String> {
    let Body { container_id, container_name, port_mappings, network, network_options } = read(stdin)?;
    let PerContainer { interface_name, static_ips, static_mac } = network_options;
    let key = Key { kind: Kind::Podman, network: network.name, id: container_id, interface: interface_name };
    key.check().map_err(|wrong| wrong.to_string())?;
    let options = options(network.options.as_ref())?;
    let subnet = match (options.get("subnet"), network.subnets.unwrap_or_default().first()) {
        (Some(name), _) => Some(Pool::from(name.as_str())),
        (None, Some(Subnet { subnet: IpNet::V4(net) })) => Some(Pool::Cidr(*net)),
        (None, Some(Subnet { subnet })) => {
            return Err(format!("{subnet} is of IPv6, which weavers does not do"));
        }
        (None, None) => None,
    };
    let mac = static_mac.filter(|mac| !mac.is_empty());
    let mtu = options.get("mtu").map(|mtu| mtu.parse().map_err(|_| mtu));
    let wish = Wish {
        address: one_address(&static_ips.unwrap_or_default())?,
        mac: mac.map(|mac| mac.parse::<Mac>()).transpose().map_err(|wrong| wrong.to_string())?,
        mtu: mtu.transpose().map_err(|mtu| format!("option `mtu`: {} is none", short(mtu, SAID_MAX)))?,
        subnet,
        name: Some(short(&container_name, NAME_LEN_MAX)).filter(|name| !name.is_empty()),
        ports: ports(&port_mappings.unwrap_or_default())?,
        ..Wish::of(key)
    };
    Ok(Call { wish, socket: options.get("socket").cloned() })
}

fn one_address(ips: &[IpAddr]) -> Result<Option<Address>, String> {
    match ips {
        [] => Ok(None),
        [IpAddr::V4(ip)] => Ok(Some((*ip).into())),
        [IpAddr::V6(ip)] => Err(format!("{ip} is of IPv6, which weavers does not do")),
        [_, _, ..] => Err("an interface has one address".to_owned()),
    }
}

/// Each port by itself: an entry may stand for a range of them, and for several protocols.
fn ports(mappings: &[Mapping]) -> Result<Vec<Port>, String> {
    let mut ports = Vec::new();
    for Mapping { container_port, host_port, host_ip, protocol, range } in mappings {
        let host_ip = Port::host_ip_of(host_ip)
            .map_err(|_| format!("`{}` is no address of this host", short(host_ip, SAID_MAX)))?;
        for word in protocol.split(',') {
            let known = |one: &Protocol| one.text() == word || (word.is_empty() && *one == Protocol::Tcp);
            let protocol = Protocol::ALL.into_iter().find(known);
            let protocol =
                protocol.ok_or_else(|| format!("protocol `{}` has no ports", short(word, SAID_MAX)))?;
            if ports.len() + usize::from(*range) > PORTS_MAX {
                return Err(format!("more than {PORTS_MAX} ports are published"));
            }
            for step in 0..(*range).max(1) {
                let (host, container) = (host_port.checked_add(step), container_port.checked_add(step));
                let (Some(host), Some(container)) = (host, container) else {
                    return Err(format!("{range} ports from {host_port} are more than there are"));
                };
                ports.push(Port { protocol, host_ip, host, container });
            }
        }
    }
    Ok(ports)
}

/// The interface that a container was given.
pub fn connected(call: &Call, made: &Connected) -> Value {
    let Connected { address, ipv6, mac, .. } = made;
    let mut subnets = vec![json!({ "gateway": GATEWAY, "ipnet": format!("{address}/32") })];
    subnets.extend(ipv6.map(|ipv6| json!({ "gateway": GATEWAY6, "ipnet": format!("{ipv6}/128") })));
    json!({
        "dns_search_domains": [], "dns_server_ips": [],
        "interfaces": { &call.wish.key.interface: { "mac_address": mac, "subnets": subnets } },
    })
}

#[cfg(test)]
mod tests;
