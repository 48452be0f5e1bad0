//! What Docker's own API says of our networks.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::input::{mtu, one_address};
use crate::{
    node::protocol::docker::{Network, Told, ToldEndpoint},
    text::short,
};

/// What is kept of a container's name.
const NAME_LEN_MAX: usize = 128;

/// The call that lists the networks of a driver.
pub fn list_of(driver: &str) -> String {
    let plain = |c: &char| c.is_ascii_alphanumeric() || "-_.".contains(*c);
    let driver: String = driver.chars().filter(plain).collect();
    format!("/networks?filters=%7B%22driver%22%3A%5B%22{driver}%22%5D%7D")
}

/// The call that tells of one.
pub fn about(id: &str) -> String {
    format!("/networks/{id}")
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    driver: String,
}

/// The ids of the networks of this driver.
pub fn ids(driver: &str, body: &[u8]) -> Result<Vec<String>, String> {
    let all: Vec<Listed> = serde_json::from_slice(body).map_err(|wrong| wrong.to_string())?;
    let plain = |id: &str| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    Ok(all.into_iter().filter(|one| one.driver == driver && plain(&one.id)).map(|one| one.id).collect())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct About {
    id: String,
    #[serde(default)]
    internal: bool,
    #[serde(default)]
    options: Option<BTreeMap<String, Value>>,
    #[serde(rename = "IPAM", default)]
    ipam: Option<Ipam>,
    containers: Option<BTreeMap<String, Container>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Ipam {
    #[serde(default)]
    config: Option<Vec<Config>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    auxiliary_addresses: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    #[serde(default)]
    name: String,
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    #[serde(default)]
    mac_address: String,
    #[serde(rename = "IPv4Address", default)]
    ipv4_address: String,
}

/// What is told of one network.
pub fn network(body: &[u8]) -> Result<Told, String> {
    let about: About = serde_json::from_slice(body).map_err(|wrong| wrong.to_string())?;
    let address = |text: &String| one_address(text).ok().flatten();
    let endpoint = |container: Container| ToldEndpoint {
        address: address(&container.ipv4_address),
        mac: container.mac_address.parse().ok(),
        name: short(&container.name, NAME_LEN_MAX),
        id: container.endpoint_id,
    };
    let configs = about.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
    let aside = configs.into_iter().flat_map(|config| config.auxiliary_addresses.unwrap_or_default());
    Ok(Told {
        id: about.id,
        network: Network {
            mtu: mtu(&about.options.unwrap_or_default()).ok().flatten(),
            internal: about.internal,
        },
        endpoints: about.containers.unwrap_or_default().into_values().map(endpoint).collect(),
        reserved: aside.filter_map(|(_, text)| address(&text)).collect(),
    })
}
