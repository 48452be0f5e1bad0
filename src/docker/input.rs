//! From the path and the body of a call to what is to be done.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use base64::prelude::{BASE64_STANDARD, Engine};
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::{ADDRESS_SPACE, Call, Wrong};
use crate::{
    addr::Address,
    config::schema::{did_you_mean, nearest},
    node::protocol::docker::{Network, Order},
    state::{GATEWAY, Mac, Port, PortRange, Protocol},
    text::short,
};

/// Options of a network that are ours.
pub(super) const OPTIONS: [&str; 3] = [SUBNET, MTU, "com.docker.network.driver.mtu"];
const SUBNET: &str = "weavers.subnet";
const MTU: &str = "weavers.mtu";
/// Where Docker puts what the user gave with `-o`.
const GENERIC: &str = "com.docker.network.generic";
/// What is repeated of a value that will not do.
const SAID_MAX: usize = 60;
/// A path of Docker's has some forty.
const SANDBOX_LEN_MAX: usize = 256;

/// What is to be done.
pub fn parse(path: &str, body: &[u8]) -> Result<Call, Wrong> {
    match path.trim_start_matches('/') {
        "Plugin.Activate" => say(json!({ "Implements": ["NetworkDriver", "IpamDriver"] })),
        "NetworkDriver.GetCapabilities" => {
            say(json!({ "Scope": "local", "ConnectivityScope": "global", "GwAllocChecker": true }))
        }
        "NetworkDriver.GwAllocCheck" => say(json!({ "SkipIPv4": true, "SkipIPv6": true })),
        "NetworkDriver.EndpointOperInfo" => say(json!({ "Value": {} })),
        "NetworkDriver.Leave"
        | "NetworkDriver.DiscoverNew"
        | "NetworkDriver.DiscoverDelete"
        | "IpamDriver.ReleasePool" => say(json!({})),
        "NetworkDriver.CreateNetwork" => network(read(body)?),
        "NetworkDriver.DeleteNetwork" => {
            let Named { network_id: id, .. } = read(body)?;
            Ok(Call::Tell(Order::NoNetwork { id }))
        }
        "NetworkDriver.CreateEndpoint" => endpoint(read(body)?),
        "NetworkDriver.Join" => {
            let Named { network_id: network, endpoint_id: id, sandbox_key, .. } = read(body)?;
            Ok(Call::Join(Order::Join { network, id, sandbox: short(&sandbox_key, SANDBOX_LEN_MAX) }))
        }
        "NetworkDriver.ProgramExternalConnectivity" => {
            let Named { network_id: network, endpoint_id: id, options, .. } = read(body)?;
            let ports = ports(options.unwrap_or_default().get("com.docker.network.portmap"))?;
            Ok(Call::Tell(Order::Publish { network, id, ports, in_use: Vec::new() }))
        }
        "NetworkDriver.RevokeExternalConnectivity" => {
            let Named { network_id: network, endpoint_id: id, .. } = read(body)?;
            Ok(Call::Tell(Order::Unpublish { network, id }))
        }
        "NetworkDriver.DeleteEndpoint" => {
            let Named { network_id: network, endpoint_id: id, .. } = read(body)?;
            Ok(Call::Tell(Order::NoEndpoint { network, id }))
        }
        "IpamDriver.GetCapabilities" => {
            say(json!({ "RequiresMACAddress": false, "RequiresRequestReplay": false }))
        }
        "IpamDriver.GetDefaultAddressSpaces" => say(json!({
            "LocalDefaultAddressSpace": ADDRESS_SPACE, "GlobalDefaultAddressSpace": ADDRESS_SPACE,
        })),
        "IpamDriver.RequestPool" => pool(read(body)?),
        "IpamDriver.RequestAddress" => lend(read(body)?),
        "IpamDriver.ReleaseAddress" => {
            let AddressBody { address, .. } = read(body)?;
            // Docker gives back an address of IPv6, too, which follows from one of IPv4 and goes with it.
            if address.parse::<Ipv6Addr>().is_ok() {
                return say(json!({}));
            }
            let address = one_address(&address)?.ok_or_else(|| garbled("Address is empty"))?;
            // Docker gives back what it was told of gateways, too.
            if address == Address::from(GATEWAY) {
                return say(json!({}));
            }
            Ok(Call::Tell(Order::Release { address }))
        }
        _ => Err(Wrong::Unknown),
    }
}

fn say(answer: Value) -> Result<Call, Wrong> {
    Ok(Call::Say(answer))
}

/// A call that is tried again after a connection broke may come without its body.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Wrong> {
    serde_json::from_slice(body).map_err(|wrong| garbled(format!("the body cannot be read: {wrong}")))
}

fn garbled(what: impl Into<String>) -> Wrong {
    Wrong::Garbled(what.into())
}

fn refused(what: impl Into<String>) -> Wrong {
    Wrong::Refused(what.into())
}

/// What most calls name.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Named {
    #[serde(rename = "NetworkID")]
    network_id: String,
    #[serde(rename = "EndpointID", default)]
    endpoint_id: String,
    #[serde(default)]
    sandbox_key: String,
    #[serde(default)]
    options: Option<Map<String, Value>>,
}

// ===== networks =====

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkBody {
    #[serde(rename = "NetworkID")]
    network_id: String,
    #[serde(default)]
    options: Option<Map<String, Value>>,
    #[serde(rename = "IPv4Data", default)]
    ipv4_data: Option<Vec<PoolData>>,
    #[serde(rename = "IPv6Data", default)]
    ipv6_data: Option<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PoolData {
    #[serde(default)]
    address_space: String,
    #[serde(default)]
    pool: String,
}

fn network(body: NetworkBody) -> Result<Call, Wrong> {
    let options = body.options.unwrap_or_default();
    let flag = |name: &str| options.get(name).and_then(Value::as_bool).unwrap_or_default();
    if flag("com.docker.network.enable_ipv6") || body.ipv6_data.is_some_and(|data| !data.is_empty()) {
        return Err(refused("weavers does no IPv6: leave --ipv6 out"));
    }
    let pools = body.ipv4_data.unwrap_or_default();
    if pools.is_empty() {
        return Err(refused("the network has no IPv4 addresses, and weavers does no others"));
    }
    if let Some(other) = pools.iter().find(|data| data.address_space != ADDRESS_SPACE) {
        let what = short(&other.pool, SAID_MAX);
        return Err(refused(format!("{what} is of another IPAM driver: add --ipam-driver weavers")));
    }
    let pools = pools.iter().map(|data| net(&data.pool)).collect::<Result<Vec<Ipv4Net>, Wrong>>()?;
    let given: BTreeMap<String, Value> = match options.get(GENERIC) {
        None | Some(Value::Null) => BTreeMap::new(),
        Some(Value::Object(given)) => given.clone().into_iter().collect(),
        Some(_) => return Err(garbled(format!("{GENERIC} is no object"))),
    };
    if let Some(name) = given.keys().find(|name| !OPTIONS.contains(&name.as_str())) {
        let hint =
            nearest(name, OPTIONS).map_or_else(|| format!("there are {}", OPTIONS.join(", ")), did_you_mean);
        return Err(refused(format!("option `{}` is not known: {hint}", short(name, SAID_MAX))));
    }
    let network = Network { mtu: mtu(&given)?, internal: flag("com.docker.network.internal") };
    let subnet = given.get(SUBNET).and_then(Value::as_str).map(str::to_owned);
    Ok(Call::Tell(Order::Network { id: body.network_id, network, pools, subnet }))
}

/// The MTU that options name.
pub(super) fn mtu(options: &BTreeMap<String, Value>) -> Result<Option<u32>, Wrong> {
    let named = OPTIONS.iter().filter(|name| name.ends_with("mtu"));
    let Some((name, value)) = named.filter_map(|name| Some((name, options.get(*name)?))).next() else {
        return Ok(None);
    };
    let number = value.as_str().map_or_else(|| value.as_u64(), |text| text.parse().ok());
    let number = number.and_then(|number| u32::try_from(number).ok());
    let wrong = || refused(format!("option `{name}`: `{}` is no MTU", short(&value.to_string(), SAID_MAX)));
    // Docker's 0 stands for the one that follows from elsewhere.
    number.map(|mtu| Some(mtu).filter(|mtu| *mtu > 0)).ok_or_else(wrong)
}

// ===== endpoints =====

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EndpointBody {
    #[serde(rename = "NetworkID")]
    network_id: String,
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    #[serde(default)]
    interface: Option<InterfaceData>,
    #[serde(default)]
    options: Option<Map<String, Value>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InterfaceData {
    #[serde(default)]
    address: String,
    #[serde(rename = "AddressIPv6", default)]
    address_ipv6: String,
    #[serde(default)]
    mac_address: String,
}

fn endpoint(body: EndpointBody) -> Result<Call, Wrong> {
    let InterfaceData { address, address_ipv6, mac_address } = body.interface.unwrap_or_default();
    if !address_ipv6.is_empty() {
        return Err(refused("weavers does no IPv6"));
    }
    let none = || refused("the endpoint has no address: create the network with --ipam-driver weavers");
    let address = one_address(&address)?.ok_or_else(none)?;
    let option = || body.options.as_ref()?.get("com.docker.network.endpoint.macaddress")?.as_str();
    let mac = match (mac_address.as_str(), option()) {
        ("", None) => None,
        ("", Some(coded)) => Some(mac_of_base64(coded)?),
        (text, _) => Some(text.parse::<Mac>().map_err(|wrong| refused(wrong.to_string()))?),
    };
    let order = Order::Endpoint { network: body.network_id, id: body.endpoint_id, address, mac };
    Ok(Call::Connect { order, tell_mac: mac_address.is_empty() })
}

/// Six bytes, as Go writes them in JSON.
fn mac_of_base64(text: &str) -> Result<Mac, Wrong> {
    let wrong = || garbled(format!("`{}` is no MAC address", short(text, SAID_MAX)));
    let bytes = BASE64_STANDARD.decode(text).ok().filter(|bytes| bytes.len() == 6).ok_or_else(wrong)?;
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    hex.join(":").parse::<Mac>().map_err(|wrong| refused(wrong.to_string()))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Binding {
    proto: u8,
    port: u16,
    #[serde(rename = "HostIP", default)]
    host_ip: String,
    #[serde(default)]
    host_port: u16,
    #[serde(default)]
    host_port_end: u16,
}

/// Ports of a range from which one is chosen. Each is tried.
const RANGE_LEN_MAX: u16 = 1024;

/// The published ports. Docker says those of IPv6 beside those of IPv4 where a port is published at all addresses, which is one
/// port here.
fn ports(portmap: Option<&Value>) -> Result<Vec<PortRange>, Wrong> {
    let bindings: Vec<Binding> = match portmap {
        None | Some(Value::Null) => Vec::new(),
        Some(list) => serde_json::from_value(list.clone())
            .map_err(|wrong| garbled(format!("the ports cannot be read: {wrong}")))?,
    };
    let mut ports = Vec::new();
    for Binding { proto, port, host_ip, host_port, host_port_end } in bindings {
        let last = host_port_end.max(host_port);
        if last - host_port >= RANGE_LEN_MAX || (host_port == 0 && last > 0) {
            return Err(refused(format!(
                "ports {host_port}-{last}: a range has at most {RANGE_LEN_MAX} ports"
            )));
        }
        let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.number() == proto);
        let protocol = protocol.ok_or_else(|| refused(format!("protocol {proto} has no ports")))?;
        let host_ip = Port::host_ip_of(&host_ip)
            .map_err(|_| refused(format!("`{}` is no address of this host", short(&host_ip, SAID_MAX))))?;
        let first = Port { protocol, host_ip, host: host_port, container: port };
        ports.push(PortRange { first, last });
    }
    Ok(with_both_kinds_as_one(ports))
}

fn with_both_kinds_as_one(ports: Vec<PortRange>) -> Vec<PortRange> {
    let at = |range: &PortRange, host_ip| PortRange { first: Port { host_ip, ..range.first }, ..*range };
    let (v4, v6) = (Some(Ipv4Addr::UNSPECIFIED.into()), Some(Ipv6Addr::UNSPECIFIED.into()));
    let known: BTreeSet<PortRange> = ports.iter().copied().collect();
    let has_both = |range: &PortRange| [v4, v6].iter().all(|kind| known.contains(&at(range, *kind)));
    let is_of_all = |range: &PortRange| [v4, v6].contains(&range.first.host_ip) && has_both(range);
    let mut one: Vec<PortRange> =
        ports.iter().map(|range| if is_of_all(range) { at(range, None) } else { *range }).collect();
    one.dedup();
    one
}

// ===== addresses =====

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PoolBody {
    #[serde(default)]
    address_space: String,
    #[serde(default)]
    pool: String,
    #[serde(default)]
    sub_pool: String,
    #[serde(default)]
    options: Option<BTreeMap<String, Value>>,
    #[serde(rename = "V6", default)]
    v6: bool,
}

fn pool(body: PoolBody) -> Result<Call, Wrong> {
    if body.v6 {
        return Err(refused("weavers does no IPv6: leave --ipv6 and subnets of IPv6 out"));
    }
    if ![ADDRESS_SPACE, ""].contains(&body.address_space.as_str()) {
        let space = short(&body.address_space, SAID_MAX);
        return Err(refused(format!("address space `{space}` is not that of weavers")));
    }
    if let Some(option) = body.options.unwrap_or_default().into_keys().next() {
        return Err(refused(format!("--ipam-opt {} is not known", short(&option, SAID_MAX))));
    }
    let given = |text: &str| (!text.is_empty()).then(|| net(text)).transpose();
    Ok(Call::Pool(Order::Pool { pool: given(&body.pool)?, part: given(&body.sub_pool)? }))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AddressBody {
    #[serde(rename = "PoolID", default)]
    pool_id: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    options: Option<BTreeMap<String, Value>>,
}

fn lend(body: AddressBody) -> Result<Call, Wrong> {
    let address = one_address(&body.address)?;
    let kind = body.options.unwrap_or_default().remove("RequestAddressType");
    if kind.is_some_and(|kind| kind == "com.docker.network.gateway") {
        return match address {
            Some(other) if other != Address::from(GATEWAY) => Err(refused(format!(
                "{other} cannot be the gateway: containers have {GATEWAY}; leave --gateway out"
            ))),
            _ => say(json!({ "Address": format!("{GATEWAY}/32") })),
        };
    }
    let (pool, from) = of_pool_id(&body.pool_id)?;
    if let Some(address) = address.filter(|address| !pool.contains(&Ipv4Addr::from(*address))) {
        return Err(refused(format!("{address} is not in {pool}")));
    }
    Ok(Call::Lend { from: from.map(crate::node::protocol::request::Pool::Cidr), address })
}

/// The pool and where its addresses come from; otherwise the default subnet.
fn of_pool_id(id: &str) -> Result<(Ipv4Net, Option<Ipv4Net>), Wrong> {
    let wrong = || garbled(format!("`{}` is the id of no pool of weavers", short(id, SAID_MAX)));
    let (pool, from) = id.split_once(',').ok_or_else(wrong)?;
    let from = match from {
        super::output::DEFAULT => None,
        cidr => Some(cidr.parse().map_err(|_| wrong())?),
    };
    Ok((pool.parse().map_err(|_| wrong())?, from))
}

fn net(text: &str) -> Result<Ipv4Net, Wrong> {
    match text.parse() {
        Ok(IpNet::V4(net)) => Ok(net),
        Ok(IpNet::V6(net)) => Err(refused(format!("{net} is of IPv6, which weavers does not do"))),
        Err(_) => Err(garbled(format!("`{}` is no network", short(text, SAID_MAX)))),
    }
}

/// `10.32.0.5`, with or without a length.
pub(super) fn one_address(text: &str) -> Result<Option<Address>, Wrong> {
    if text.is_empty() {
        return Ok(None);
    }
    let ip = text.parse::<IpNet>().map(|net| net.addr()).or_else(|_| text.parse());
    match ip {
        Ok(IpAddr::V4(ip)) => Ok(Some(ip.into())),
        Ok(IpAddr::V6(ip)) => Err(refused(format!("{ip} is of IPv6, which weavers does not do"))),
        Err(_) => Err(garbled(format!("`{}` is no address", short(text, SAID_MAX)))),
    }
}
