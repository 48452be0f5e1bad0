//! From the environment and stdin of a runtime to what is to be done.

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::{Code, Failure, Network, Order, Role, SOCKET, Verb, Version};
use crate::{
    addr::Address,
    config::schema::{did_you_mean, nearest},
    ipam::HOLDS,
    node::protocol::request::{Loan, Wish},
    state::{Key, Kind, Mac},
    text::short,
};

/// Keys of a plugin's configuration that are ours.
const OURS: [&str; 3] = ["socket", "subnet", "mtu"];
/// Keys of its object `ipam`, where that is ours.
const OF_IPAM: [&str; 4] = ["type", "socket", "subnet", "block"];
/// The length of the prefix of a bridge's block, where none is named.
const BLOCK_LEN: u8 = 24;
/// Those of the specification. Runtimes add their own.
const PROTOCOL: [&str; 11] = [
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "capabilities",
    "runtimeConfig",
    "prevResult",
    "args",
    "ipMasq",
    "ipam",
    "dns",
];
/// What is kept of a container's name.
const NAME_LEN_MAX: usize = 128;
/// What is repeated of a value that will not do.
const SAID_MAX: usize = 60;

/// What the environment says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // The variables are named so.
pub struct Environment {
    pub command: Option<String>,
    pub container_id: String,
    pub netns: String,
    pub ifname: String,
    pub args: String,
}

impl Environment {
    /// Reads it by a function that knows the variables.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Environment {
        let or_empty = |name| get(name).unwrap_or_default();
        Environment {
            command: get("CNI_COMMAND").filter(|command| !command.is_empty()),
            container_id: or_empty("CNI_CONTAINERID"),
            netns: or_empty("CNI_NETNS"),
            ifname: or_empty("CNI_IFNAME"),
            args: or_empty("CNI_ARGS"),
        }
    }
}

/// What is to be done by the program in this role.
pub fn parse(role: Role, environment: &Environment, stdin: &[u8]) -> Result<Order, Failure> {
    let Some(command) = &environment.command else { return Ok(Order::About) };
    if command == "VERSION" {
        return Ok(Order::Version(version_to_answer(stdin)));
    }
    let newest = Version::V1_1_0;
    let config = match serde_json::from_slice(stdin) {
        Ok(Value::Object(config)) => config,
        Ok(_) => return Err(Failure::new(newest, Code::Undecoded, "stdin is not a JSON object")),
        Err(wrong) => {
            let failure = Failure::new(newest, Code::Undecoded, "stdin is not JSON");
            return Err(failure.details(wrong.to_string()));
        }
    };
    let call = Call { role, version: version(&config)?, environment, config: &config };
    let network = match role {
        Role::Interfaces => call.network()?,
        Role::Addresses => call.network_of_upper()?,
    };
    let verb = match command.as_str() {
        "ADD" if role == Role::Addresses => call.lend()?,
        "ADD" => call.add()?,
        "DEL" => Verb::Del { key: call.key()? },
        "CHECK" => call.since(Version::V0_4_0, "CHECK").and_then(|()| call.check())?,
        "STATUS" => call.since(Version::V1_1_0, "STATUS").map(|()| Verb::Status)?,
        "GC" => call.since(Version::V1_1_0, "GC").and_then(|()| call.collect())?,
        other => {
            let message = format!("CNI_COMMAND `{}` is not known", short(other, SAID_MAX));
            return Err(call.failure(Code::Environment, message));
        }
    };
    Ok(Order::Of(network, verb))
}

/// That of the question where it can be read and is spoken.
fn version_to_answer(stdin: &[u8]) -> String {
    let config: Value = serde_json::from_slice(stdin).unwrap_or_default();
    let asked = config.get("cniVersion").and_then(Value::as_str).and_then(Version::find);
    asked.unwrap_or(Version::V1_1_0).text().to_owned()
}

fn version(config: &Map<String, Value>) -> Result<Version, Failure> {
    // A configuration of before there were versions says nothing.
    let said = config.get("cniVersion").map_or(Some("0.1.0"), Value::as_str);
    said.and_then(Version::find).ok_or_else(|| {
        let spoken = Version::ALL.map(Version::text).join(", ");
        let said = said.map_or("something that is no text".to_owned(), |text| short(text, SAID_MAX));
        Failure::new(Version::V1_1_0, Code::Version, "incompatible CNI versions")
            .details(format!("config is {said}, weavers speaks {spoken}"))
    })
}

/// One call, once its version is known.
struct Call<'a> {
    role: Role,
    version: Version,
    environment: &'a Environment,
    config: &'a Map<String, Value>,
}

impl Call<'_> {
    fn failure(&self, code: Code, message: impl Into<String>) -> Failure {
        Failure::new(self.version, code, message)
    }

    fn wrong(&self, key: &str, what: impl std::fmt::Display) -> Failure {
        self.failure(Code::Config, format!("{key}: {what}"))
    }

    fn since(&self, first: Version, verb: &str) -> Result<(), Failure> {
        if self.version >= first {
            return Ok(());
        }
        let message = format!("there is no {verb} in CNI {}", self.version.text());
        Err(self.failure(Code::Version, message).details(format!("it came with {}", first.text())))
    }

    /// The part of the configuration that all verbs need.
    fn network(&self) -> Result<Network, Failure> {
        for key in self.config.keys().filter(|key| !PROTOCOL.contains(&key.as_str())) {
            let meant = nearest(key, OURS).filter(|meant| *meant != key.as_str());
            if let Some(meant) = meant {
                let message = format!("unknown key `{}`", short(key, SAID_MAX));
                return Err(self.failure(Code::Unsupported, message).details(did_you_mean(meant)));
            }
        }
        let ipam = self.config.get("ipam").and_then(Value::as_object);
        if ipam.is_some_and(|ipam| !ipam.is_empty()) {
            let failure = self.failure(Code::Unsupported, "ipam: weavers hands out addresses itself");
            return Err(failure.details("remove the key; `subnet` says where addresses come from"));
        }
        let socket = self.text(self.config, "socket")?.unwrap_or(SOCKET);
        if !socket.starts_with('/') {
            return Err(self.wrong("socket", "is not an absolute path"));
        }
        let dns = self.config.get("dns").filter(|dns| dns.is_object()).cloned();
        Ok(Network {
            version: self.version,
            socket: socket.into(),
            dns: dns.unwrap_or_else(|| Value::Object(Map::new())),
        })
    }

    /// The same, from the configuration of the plugin that asks for an address.
    fn network_of_upper(&self) -> Result<Network, Failure> {
        let ours = self.ipam()?;
        if let Some(unknown) = ours.keys().find(|key| !OF_IPAM.contains(&key.as_str())) {
            let message = format!("unknown key `{}` in ipam", short(unknown, SAID_MAX));
            let known = || format!("there are {}", OF_IPAM.join(", "));
            let hint = nearest(unknown, OF_IPAM).map_or_else(known, did_you_mean);
            return Err(self.failure(Code::Unsupported, message).details(hint));
        }
        let socket = self.text(ours, "socket")?.unwrap_or(SOCKET);
        if !socket.starts_with('/') {
            return Err(self.wrong("ipam.socket", "is not an absolute path"));
        }
        // Whoever asks has the word on name servers.
        Ok(Network { version: self.version, socket: socket.into(), dns: Value::Object(Map::new()) })
    }

    fn ipam(&self) -> Result<&Map<String, Value>, Failure> {
        let missing = || self.wrong("ipam", "is missing, or no object");
        self.config.get("ipam").and_then(Value::as_object).ok_or_else(missing)
    }

    fn lend(&self) -> Result<Verb, Failure> {
        let (netns, key, ours) = (self.netns()?, self.key()?, self.ipam()?);
        let loan = Loan {
            key,
            address: self.address()?,
            subnet: self.text(ours, "subnet")?.map(Into::into),
            block: self.block(ours)?,
            name: self.argument("K8S_POD_NAME").map(|name| short(name, NAME_LEN_MAX)),
        };
        Ok(Verb::Lend { netns, loan: Box::new(loan) })
    }

    /// A bridge puts all addresses around its containers' on one link, so that they have to be its own.
    fn block(&self, ours: &Map<String, Value>) -> Result<Option<u8>, Failure> {
        let given = match ours.get("block") {
            None | Some(Value::Null) => None,
            Some(value) => {
                let length = value.as_u64().and_then(|number| u8::try_from(number).ok());
                let rule = || format!("`{value}` is not between {} and {}", HOLDS.start(), HOLDS.end());
                let length = length.filter(|length| HOLDS.contains(length));
                Some(length.ok_or_else(|| self.wrong("ipam.block", short(&rule(), SAID_MAX)))?)
            }
        };
        match (self.text(self.config, "type")?.unwrap_or_default(), given) {
            ("ptp", None) => Ok(None),
            ("ptp", Some(_)) => Err(self.wrong("ipam.block", "containers of ptp have addresses one by one")),
            ("bridge", given) => Ok(Some(given.unwrap_or(BLOCK_LEN))),
            (other, _) => {
                let message = format!("addresses are not lent to plugin `{}`", short(other, SAID_MAX));
                let failure = self.failure(Code::Unsupported, message);
                Err(failure.details("to ptp and bridge they are, whose packets find back in a VPC"))
            }
        }
    }

    fn key(&self) -> Result<Key, Failure> {
        let Environment { container_id, ifname, .. } = self.environment;
        self.need(&[("CNI_CONTAINERID", container_id), ("CNI_IFNAME", ifname)])?;
        let network = self.text(self.config, "name")?.ok_or_else(|| self.wrong("name", "is missing"))?;
        let key = Key {
            kind: match self.role {
                Role::Interfaces => Kind::Cni,
                Role::Addresses => Kind::Ipam,
            },
            network: network.to_owned(),
            id: container_id.clone(),
            interface: ifname.clone(),
        };
        let code = |part| if part == "network" { Code::Config } else { Code::Environment };
        key.check().map_err(|wrong| self.failure(code(wrong.part), wrong.to_string()))?;
        Ok(key)
    }

    /// The path of the namespace, which ADD and CHECK need.
    fn netns(&self) -> Result<String, Failure> {
        let netns = &self.environment.netns;
        self.need(&[("CNI_NETNS", netns)])?;
        if !netns.starts_with('/') {
            let message = format!("CNI_NETNS `{}` is not an absolute path", short(netns, SAID_MAX));
            return Err(self.failure(Code::Environment, message));
        }
        Ok(netns.clone())
    }

    fn need(&self, variables: &[(&str, &String)]) -> Result<(), Failure> {
        let missing = variables.iter().filter(|(_, value)| value.is_empty()).map(|(name, _)| *name);
        let missing: Vec<&str> = missing.collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(self.failure(Code::Environment, format!("{} not set", missing.join(" and "))))
    }

    fn add(&self) -> Result<Verb, Failure> {
        let (netns, key) = (self.netns()?, self.key()?);
        let made = |list| self.previous(list).is_some_and(|list: &Vec<Value>| !list.is_empty());
        if made("interfaces") || made("ips") {
            let failure = self.failure(Code::Config, "weavers must be the first plugin of its list");
            return Err(failure.details("another one has made an interface already"));
        }
        let wish = Wish {
            key,
            address: self.address()?,
            mac: self.mac()?,
            mtu: self.mtu()?,
            subnet: self.text(self.config, "subnet")?.map(Into::into),
            name: self.argument("K8S_POD_NAME").map(|name| short(name, NAME_LEN_MAX)),
            // Those are the business of portmap.
            ports: Vec::new(),
        };
        Ok(Verb::Add { netns, wish: Box::new(wish) })
    }

    fn check(&self) -> Result<Verb, Failure> {
        let (netns, key) = (self.netns()?, self.key()?);
        let ips =
            self.previous("ips").ok_or_else(|| self.wrong("prevResult", "is missing, or lists no ips"))?;
        let addresses = ips.iter().filter_map(|ip| ip.get("address")?.as_str());
        let addresses = addresses.map(|cidr| cidr.split('/').next().unwrap_or(cidr).to_owned()).collect();
        Ok(match self.role {
            Role::Interfaces => Verb::Check { netns, key, addresses },
            Role::Addresses => Verb::Lent { key, addresses },
        })
    }

    /// What is not listed is let go only where its namespace is gone: two runtimes may share one network, and each lists its own.
    fn collect(&self) -> Result<Verb, Failure> {
        const LIST: &str = "cni.dev/valid-attachments";
        let Some(list) = self.config.get(LIST) else { return Ok(Verb::Gc) };
        let is_attachment = |one: &Value| ["containerID", "ifname"].iter().all(|key| one[*key].is_string());
        match list.as_array().filter(|list| list.iter().all(is_attachment)) {
            Some(_) => Ok(Verb::Gc),
            None => Err(self.wrong(LIST, not_a("list of containerID and ifname", list))),
        }
    }

    /// A list of the result of the plugins before.
    fn previous(&self, list: &str) -> Option<&Vec<Value>> {
        self.config.get("prevResult")?.get(list)?.as_array()
    }

    /// The wanted address: of the runtime, of the configuration, or of the arguments, in this order.
    fn address(&self) -> Result<Option<Address>, Failure> {
        let lists = [("runtimeConfig.ips", self.of_runtime("ips")), ("args.cni.ips", self.of_args("ips"))];
        for (key, list) in lists {
            match list.map(|list| (list.as_array().map(Vec::as_slice), list)) {
                None | Some((Some([]), _)) | Some((None, Value::Null)) => {}
                Some((Some([Value::String(text)]), _)) => return self.one_address(key, text).map(Some),
                Some((Some([_, _, ..]), _)) => {
                    return Err(self.wrong(key, "lists several addresses; an interface has one"));
                }
                Some((_, other)) => return Err(self.wrong(key, not_a("list of addresses", other))),
            }
        }
        self.argument("IP").map(|text| self.one_address("CNI_ARGS IP", text)).transpose()
    }

    /// `10.32.0.5`, with or without a length, which is ours to choose.
    fn one_address(&self, key: &str, text: &str) -> Result<Address, Failure> {
        let ip = text.parse::<IpNet>().map(|net| net.addr()).or_else(|_| text.parse());
        match ip {
            Ok(std::net::IpAddr::V4(ip)) => Ok(ip.into()),
            Ok(std::net::IpAddr::V6(ip)) => {
                Err(self.wrong(key, format!("{ip} is of IPv6, which weavers does not do")))
            }
            Err(_) => Err(self.wrong(key, format!("`{}` is no address", short(text, SAID_MAX)))),
        }
    }

    fn mac(&self) -> Result<Option<Mac>, Failure> {
        for (key, value) in
            [("runtimeConfig.mac", self.of_runtime("mac")), ("args.cni.mac", self.of_args("mac"))]
        {
            match value {
                None | Some(Value::Null) => {}
                Some(Value::String(text)) if text.is_empty() => {}
                Some(Value::String(text)) => return self.one_mac(key, text).map(Some),
                Some(other) => return Err(self.wrong(key, not_a("MAC address", other))),
            }
        }
        self.argument("MAC").map(|text| self.one_mac("CNI_ARGS MAC", text)).transpose()
    }

    fn one_mac(&self, key: &str, text: &str) -> Result<Mac, Failure> {
        text.parse().map_err(|wrong| self.wrong(key, wrong))
    }

    fn mtu(&self) -> Result<Option<u32>, Failure> {
        match self.config.get("mtu") {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
                // In other plugins 0 stands for the one that follows from elsewhere.
                number
                    .map(|mtu| (mtu > 0).then_some(mtu))
                    .ok_or_else(|| self.wrong("mtu", not_a("number", value)))
            }
        }
    }

    /// What the runtime says for a capability. Some write the first letter small, some do not.
    fn of_runtime(&self, name: &str) -> Option<&Value> {
        let given = self.config.get("runtimeConfig")?.as_object()?;
        given
            .get(name)
            .or_else(|| given.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
    }

    fn of_args(&self, name: &str) -> Option<&Value> {
        self.config.get("args")?.get("cni")?.get(name)
    }

    /// A value of CNI_ARGS. What else is in there is for others.
    fn argument(&self, name: &str) -> Option<&str> {
        let pairs = self.environment.args.split(';').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, value)| *key == name && !value.is_empty()).map(|(_, value)| value).next()
    }

    fn text<'c>(&self, object: &'c Map<String, Value>, key: &str) -> Result<Option<&'c str>, Failure> {
        match object.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, not_a("text", other))),
        }
    }
}

fn not_a(what: &str, value: &Value) -> String {
    format!("`{}` is no {what}", short(&value.to_string(), SAID_MAX))
}
