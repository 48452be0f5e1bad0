use serde_json::{Value, json};

use super::{
    Call, Wrong,
    input::parse,
    output::{answer, failed, refused},
    told,
};
use crate::{
    node::protocol::{
        docker::{Network, Order},
        request::{Connected, Joined, Pool, Refusal, RefusalKind, Response},
    },
    state::{Mac, Port, PortRange, Protocol},
};

const NETWORK: &str = "9d3a2f0c";
const ENDPOINT: &str = "77e1b4aa";

fn call(path: &str, body: &Value) -> Result<Call, Wrong> {
    parse(path, body.to_string().as_bytes())
}

fn order(path: &str, body: &Value) -> Order {
    match call(path, body) {
        Ok(Call::Tell(order) | Call::Pool(order) | Call::Join(order) | Call::Connect { order, .. }) => order,
        other => panic!("{path}: {other:?}"),
    }
}

fn refusal(path: &str, body: &Value) -> String {
    match call(path, body) {
        Err(Wrong::Refused(what)) => what,
        other => panic!("{path}: {other:?}"),
    }
}

/// As Docker 20.10 asks for a network.
fn network() -> Value {
    json!({
        "NetworkID": NETWORK,
        "Options": {
            "com.docker.network.enable_ipv6": false,
            "com.docker.network.generic": { "weavers.mtu": "1400", "weavers.subnet": "web" },
        },
        "IPv4Data": [{ "AddressSpace": "weavers", "Pool": "10.32.0.0/12", "Gateway": "169.254.1.1/32", "AuxAddresses": {} }],
        "IPv6Data": [],
    })
}

#[test]
fn a_plugin_says_at_once_what_it_is() {
    for (path, expected) in [
        ("/Plugin.Activate", json!({ "Implements": ["NetworkDriver", "IpamDriver"] })),
        (
            "/NetworkDriver.GetCapabilities",
            json!({ "Scope": "local", "ConnectivityScope": "global", "GwAllocChecker": true }),
        ),
        ("/NetworkDriver.GwAllocCheck", json!({ "SkipIPv4": true, "SkipIPv6": true })),
        (
            "/IpamDriver.GetDefaultAddressSpaces",
            json!({ "LocalDefaultAddressSpace": "weavers", "GlobalDefaultAddressSpace": "weavers" }),
        ),
    ] {
        let said = parse(path, b"").unwrap();
        assert_eq!(answer(&said, &Response::Done), expected, "{path}");
    }
}

#[test]
fn a_network_has_the_options_that_are_ours_and_no_others() {
    let network_is = Network { mtu: Some(1400), internal: false };
    assert_eq!(
        order("/NetworkDriver.CreateNetwork", &network()),
        Order::Network {
            id: NETWORK.to_owned(),
            network: network_is,
            pools: vec!["10.32.0.0/12".parse().unwrap()],
            subnet: Some("web".to_owned()),
        }
    );
    let with = |pointer: &str, value: Value| {
        let mut body = network();
        *body.pointer_mut(pointer).unwrap() = value;
        refusal("/NetworkDriver.CreateNetwork", &body)
    };
    let misspelt = with("/Options/com.docker.network.generic", json!({ "weavers.mut": "1400" }));
    assert_eq!(misspelt, "option `weavers.mut` is not known: did you mean \"weavers.mtu\"?");
    let other = with("/IPv4Data/0/AddressSpace", json!("LocalDefault"));
    assert!(other.contains("add --ipam-driver weavers"), "{other}");
    assert!(with("/Options/com.docker.network.enable_ipv6", json!(true)).contains("IPv6"));
    assert!(with("/IPv4Data", json!([])).contains("no IPv4 addresses"));
    let mut internal = network();
    internal["Options"]["com.docker.network.internal"] = json!(true);
    let Order::Network { network, .. } = order("/NetworkDriver.CreateNetwork", &internal) else { panic!() };
    assert!(network.internal);
}

#[test]
fn all_that_is_needed_of_a_pool_is_in_its_id() {
    let asked = json!({ "AddressSpace": "weavers", "Pool": "10.32.0.0/12", "SubPool": "10.40.0.0/16", "Options": null, "V6": false });
    let call = call("/IpamDriver.RequestPool", &asked).unwrap();
    let found = ["10.32.0.0/12", "10.40.0.0/16"].map(|net| net.parse().unwrap());
    let said = answer(&call, &Response::Addresses(found.to_vec()));
    assert_eq!(
        said,
        json!({
            "PoolID": "10.32.0.0/12,10.40.0.0/16", "Pool": "10.32.0.0/12",
            "Data": { "com.docker.network.gateway": "169.254.1.1/32" },
        })
    );
    let lend = |id: &Value, address: &str| {
        let body = json!({ "PoolID": id, "Address": address, "Options": null });
        super::tests::call("/IpamDriver.RequestAddress", &body)
    };
    let part = Pool::Cidr(found[1]);
    assert_eq!(
        lend(&said["PoolID"], ""),
        Ok(Call::Lend { from: Some(part.clone()), address: None }),
        "after a restart nothing else comes"
    );
    let wanted = "10.32.0.77".parse().unwrap();
    assert_eq!(
        lend(&said["PoolID"], "10.32.0.77"),
        Ok(Call::Lend { from: Some(part), address: Some(wanted) })
    );
    let whole = answer(&call, &Response::Addresses(found[..1].to_vec()));
    assert_eq!(lend(&whole["PoolID"], ""), Ok(Call::Lend { from: None, address: None }));
    assert!(matches!(lend(&whole["PoolID"], "192.0.2.1"), Err(Wrong::Refused(_))));
    for id in ["", "10.32.0.0/12", "10.32.0.0/12,x", "a,default", "10.32.0.0/12,default,"] {
        assert!(matches!(lend(&json!(id), ""), Err(Wrong::Garbled(_))), "{id}");
    }
    let lent = answer(
        &lend(&whole["PoolID"], "").unwrap(),
        &Response::Addresses(vec!["10.32.0.5/12".parse().unwrap()]),
    );
    assert_eq!(lent, json!({ "Address": "10.32.0.5/32" }));
}

#[test]
fn containers_have_one_gateway_which_is_no_address_of_the_pool() {
    let gateway = |address: &str| {
        let options = json!({ "RequestAddressType": "com.docker.network.gateway" });
        let body = json!({ "PoolID": "10.32.0.0/12,default", "Address": address, "Options": options });
        call("/IpamDriver.RequestAddress", &body)
    };
    assert_eq!(gateway(""), Ok(Call::Say(json!({ "Address": "169.254.1.1/32" }))));
    assert_eq!(gateway("169.254.1.1"), gateway(""));
    let Err(Wrong::Refused(what)) = gateway("10.32.0.1") else { panic!() };
    assert!(what.contains("leave --gateway out"), "{what}");
    let released = json!({ "PoolID": "10.32.0.0/12,default", "Address": "169.254.1.1" });
    assert_eq!(call("/IpamDriver.ReleaseAddress", &released), Ok(Call::Say(json!({}))));
}

#[test]
fn docker_is_told_the_mac_address_that_it_did_not_name() {
    let body = |mac: &str, options: Value| {
        json!({
            "NetworkID": NETWORK, "EndpointID": ENDPOINT, "Options": options,
            "Interface": { "Address": "10.32.0.5/32", "AddressIPv6": "", "MacAddress": mac },
        })
    };
    let path = "/NetworkDriver.CreateEndpoint";
    let made = Response::Connected(Connected {
        address: "10.32.0.5".parse().unwrap(),
        ipv6: None,
        mac: "02:67:0a:20:00:05".parse().unwrap(),
        mtu: 9001,
        link: "wv0a200005".to_owned(),
    });
    let chosen = call(path, &body("", Value::Null)).unwrap();
    assert_eq!(answer(&chosen, &made), json!({ "Interface": { "MacAddress": "02:67:0a:20:00:05" } }));
    let named = call(path, &body("02:00:00:00:00:07", Value::Null)).unwrap();
    assert_eq!(answer(&named, &made), json!({}));
    let mac_of = |body: Value| match order(path, &body) {
        Order::Endpoint { mac, .. } => mac,
        other => panic!("{other:?}"),
    };
    let mac: Mac = "02:42:ac:11:00:07".parse().unwrap();
    let option = json!({ "com.docker.network.endpoint.macaddress": "AkKsEQAH" });
    assert_eq!(mac_of(body("", option)), Some(mac), "by its option");
    for coded in ["", "AkKsEQA", "AkKsEQAH=", "AkKsEQ!H", "AQBeAAAB"] {
        let option = json!({ "com.docker.network.endpoint.macaddress": coded });
        assert!(call(path, &body("", option)).is_err(), "{coded}");
    }
    assert!(
        refusal(path, &json!({ "NetworkID": "n", "EndpointID": "e", "Interface": null }))
            .contains("--ipam-driver")
    );
}

#[test]
fn docker_is_told_of_ipv6_what_goes_with_the_address_that_it_knows() {
    let body = json!({
        "NetworkID": NETWORK, "EndpointID": ENDPOINT, "Options": {},
        "Interface": { "Address": "10.32.0.5/32", "AddressIPv6": "", "MacAddress": "02:67:0a:20:00:05" },
    });
    let made = Response::Connected(Connected {
        address: "10.32.0.5".parse().unwrap(),
        ipv6: Some("fd00:1::a20:5".parse().unwrap()),
        mac: "02:67:0a:20:00:05".parse().unwrap(),
        mtu: 9001,
        link: "wv0a200005".to_owned(),
    });
    let endpoint = call("/NetworkDriver.CreateEndpoint", &body).unwrap();
    assert_eq!(answer(&endpoint, &made), json!({ "Interface": { "AddressIPv6": "fd00:1::a20:5/128" } }));
    let body = json!({ "NetworkID": NETWORK, "EndpointID": ENDPOINT, "SandboxKey": "/x", "Options": {} });
    let joined = |internal| {
        let (interface, range) = ("wp0a200005".to_owned(), "10.32.0.0/12".parse().unwrap());
        let range6 = Some("fd00:1::a20:0/108".parse().unwrap());
        let joined = Response::Joined(Joined { interface, range, range6, internal });
        answer(&call("/NetworkDriver.Join", &body).unwrap(), &joined)
    };
    assert_eq!(joined(false)["GatewayIPv6"], "fe80::1");
    let route = json!({ "Destination": "fd00:1::a20:0/108", "RouteType": 0, "NextHop": "fe80::1" });
    assert_eq!(joined(true)["StaticRoutes"][2], route);
    assert_eq!(joined(true).get("GatewayIPv6"), None);
    let given_back = json!({ "PoolID": "", "Address": "fd00:1::a20:5" });
    assert_eq!(
        call("/IpamDriver.ReleaseAddress", &given_back),
        Ok(Call::Say(json!({}))),
        "it follows from the other"
    );
}

#[test]
fn a_container_gets_its_way_out_unless_its_network_is_internal() {
    let join = call(
        "/NetworkDriver.Join",
        &json!({ "NetworkID": NETWORK, "EndpointID": ENDPOINT, "SandboxKey": "/x", "Options": {} }),
    );
    let joined = |internal| {
        let joined = Joined {
            interface: "wp0a200005".to_owned(),
            range: "10.32.0.0/12".parse().unwrap(),
            range6: None,
            internal,
        };
        answer(join.as_ref().unwrap(), &Response::Joined(joined))
    };
    assert_eq!(
        joined(false),
        json!({
            "InterfaceName": { "SrcName": "wp0a200005", "DstPrefix": "eth" },
            "Gateway": "169.254.1.1",
            "StaticRoutes": [
                { "Destination": "169.254.1.1/32", "RouteType": 1, "NextHop": "" },
                { "Destination": "10.32.0.0/12", "RouteType": 0, "NextHop": "169.254.1.1" },
            ],
        })
    );
    assert_eq!(joined(true).get("Gateway"), None);
}

#[test]
fn a_port_at_all_addresses_of_both_kinds_is_one_port() {
    let body = |portmap: Value| {
        let options =
            json!({ "com.docker.network.portmap": portmap, "com.docker.network.endpoint.exposedports": [] });
        json!({ "NetworkID": NETWORK, "EndpointID": ENDPOINT, "Options": options })
    };
    let path = "/NetworkDriver.ProgramExternalConnectivity";
    let binding = |proto: u8, ip: &str, host: u16| json!({ "Proto": proto, "IP": "", "Port": 80, "HostIP": ip, "HostPort": host, "HostPortEnd": host });
    let port = |protocol, ip: Option<&str>, host| {
        let host_ip = ip.map(|ip| ip.parse().unwrap());
        PortRange::from(Port { protocol, host_ip, host, container: 80 })
    };
    let list = json!([
        binding(6, "0.0.0.0", 8080),
        binding(6, "::", 8080),
        binding(6, "::", 8081),
        binding(6, "0.0.0.0", 8082),
        binding(17, "127.0.0.1", 0),
        binding(132, "", 9)
    ]);
    let Order::Publish { ports, .. } = order(path, &body(list)) else { panic!() };
    let expected = [
        port(Protocol::Tcp, None, 8080),
        port(Protocol::Tcp, Some("::"), 8081),
        port(Protocol::Tcp, Some("0.0.0.0"), 8082),
        port(Protocol::Udp, Some("127.0.0.1"), 0),
        port(Protocol::Sctp, None, 9),
    ];
    assert_eq!(ports, expected);
    let Order::Publish { ports, .. } = order(path, &json!({ "NetworkID": "n", "EndpointID": "e" })) else {
        panic!()
    };
    assert_eq!(ports, []);
    let range = |first: u16, last: u16| {
        body(json!([{ "Proto": 6, "Port": 80, "HostIP": "", "HostPort": first, "HostPortEnd": last }]))
    };
    let Order::Publish { ports, .. } = order(path, &range(8000, 8010)) else { panic!() };
    assert_eq!(ports, [PortRange { first: port(Protocol::Tcp, None, 8000).first, last: 8010 }]);
    for (first, last) in [(1, 65_535), (0, 5)] {
        assert!(refusal(path, &range(first, last)).contains("at most"), "{first}-{last}");
    }
    assert!(refusal(path, &body(json!([binding(6, "eth0", 1)]))).contains("no address of this host"));
    assert!(refusal(path, &body(json!([binding(1, "", 1)]))).contains("protocol 1"));
    assert!(matches!(call(path, &body(json!([{ "Proto": 6, "Port": 70_000 }]))), Err(Wrong::Garbled(_))));
}

#[test]
fn docker_reads_what_went_wrong_by_either_of_two_keys() {
    let refusal = Refusal::new(RefusalKind::Invalid, "no").hint("do");
    assert_eq!(refused(&refusal), json!({ "Err": "no: do", "Error": "no: do" }));
    assert_eq!(failed("no", None)["Error"], "no");
}

#[test]
fn what_is_no_call_is_said_to_be_none() {
    assert_eq!(parse("/NetworkDriver.AllocateNetwork", b"{}"), Err(Wrong::Unknown));
    assert_eq!(parse("/v1/reset", b""), Err(Wrong::Unknown));
    for path in ["CreateNetwork", "DeleteNetwork", "CreateEndpoint", "Join", "DeleteEndpoint"] {
        let path = format!("/NetworkDriver.{path}");
        for body in [&b""[..], b"null", b"[]", b"{\"NetworkID\":7}", b"\xff"] {
            assert!(matches!(parse(&path, body), Err(Wrong::Garbled(_))), "{path}");
        }
    }
}

#[test]
fn docker_tells_of_containers_that_run() {
    let list = json!([{ "Id": "a1", "Driver": "weavers", "Name": "w" }, { "Id": "b2", "Driver": "bridge", "Name": "bridge" }]);
    assert_eq!(told::ids("weavers", list.to_string().as_bytes()), Ok(vec!["a1".to_owned()]));
    assert!(told::ids("weavers", b"[{}]").is_err(), "half of the truth is none");
    assert_eq!(told::list_of("wea&vers"), "/networks?filters=%7B%22driver%22%3A%5B%22weavers%22%5D%7D");
    let about = json!({
        "Id": "a1", "Driver": "weavers", "Internal": true, "Options": { "weavers.mtu": "1400" },
        "IPAM": { "Driver": "weavers", "Config": [{ "Subnet": "10.32.0.0/12", "AuxiliaryAddresses": { "x": "10.32.0.9" } }] },
        "Containers": { "c1": { "Name": "web", "EndpointID": ENDPOINT, "MacAddress": "02:67:0a:20:00:05", "IPv4Address": "10.32.0.5/32", "IPv6Address": "" } },
    });
    let network = told::network(about.to_string().as_bytes()).unwrap();
    assert_eq!((network.id.as_str(), network.network), ("a1", Network { mtu: Some(1400), internal: true }));
    assert_eq!(network.reserved, ["10.32.0.9".parse().unwrap()]);
    assert_eq!((network.endpoints[0].name.as_str(), network.endpoints[0].id.as_str()), ("web", ENDPOINT));
    assert_eq!(network.endpoints[0].address, Some("10.32.0.5".parse().unwrap()));
}
