//! What runtimes were seen to say, what they might, and what they are told.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    Code, Order, Role, Verb, Version,
    input::{Environment, parse},
    output,
};
use crate::node::protocol::request::{Connected, Lent, Loan, Refusal, RefusalKind, Response};

fn environment(command: &str, args: &str) -> Environment {
    Environment {
        command: Some(command.to_owned()),
        container_id: "a1".to_owned(),
        netns: "/run/netns/a1".to_owned(),
        ifname: "eth0".to_owned(),
        args: args.to_owned(),
    }
}

/// A configuration with these keys more.
fn config(version: &str, more: Value) -> Value {
    let mut config = json!({ "cniVersion": version, "name": "weavers", "type": "weavers" });
    let more = more.as_object().expect("keys").clone();
    config.as_object_mut().expect("keys").extend(more);
    config
}

fn ordered(command: &str, args: &str, config: &Value) -> Result<(super::Network, Verb), super::Failure> {
    match parse(Role::Interfaces, &environment(command, args), config.to_string().as_bytes())? {
        Order::Of(network, verb) => Ok((network, verb)),
        other => panic!("{other:?}"),
    }
}

fn added(args: &str, more: Value) -> Result<crate::node::protocol::request::Wish, super::Failure> {
    match ordered("ADD", args, &config("1.0.0", more))?.1 {
        Verb::Add { wish, .. } => Ok(*wish),
        other => panic!("{other:?}"),
    }
}

fn connected() -> Response {
    let (address, mac) = ("10.32.0.5".parse().unwrap(), "02:67:0a:20:00:05".parse().unwrap());
    let link = "wv0a200005".to_owned();
    Response::Connected(Connected { address, ipv6: None, mac, mtu: 9001, link })
}

#[test]
fn a_container_with_two_addresses_is_told_both_and_the_gateway_of_each() {
    let result = |version: &str| {
        let Response::Connected(made) = connected() else { panic!() };
        let made = Connected { ipv6: Some("fd00:1::a20:5".parse().unwrap()), ..made };
        let (network, verb) = ordered("ADD", "", &config(version, json!({}))).unwrap();
        output::answer(&network, &verb, &Response::Connected(made)).unwrap().unwrap()
    };
    let six = json!({ "address": "fd00:1::a20:5/128", "gateway": "fe80::1", "interface": 1 });
    assert_eq!(result("1.1.0")["ips"][1], six);
    assert_eq!(result("1.1.0")["routes"][1], json!({ "dst": "::/0", "gw": "fe80::1" }));
    assert_eq!(result("0.4.0")["ips"][1]["version"], "6");
}

#[test]
fn a_container_s_key_is_its_network_its_id_and_its_interface() {
    let wish = added("IgnoreUnknown=1;K8S_POD_NAME=web", json!({})).unwrap();
    assert_eq!(wish.key.ident(), "cni/weavers/a1/eth0");
    assert_eq!((wish.address, wish.mac, wish.mtu, wish.subnet), (None, None, None, None));
    let wish = added("", json!({ "subnet": "web", "mtu": 1400 })).unwrap();
    assert_eq!((wish.mtu, wish.subnet), (Some(1400), Some("web".into())));
}

#[test]
fn the_runtime_s_wish_goes_before_the_configuration_s_and_that_before_the_arguments() {
    let runtime = json!({ "ips": ["10.32.0.1"], "mac": "02:00:00:00:00:01" });
    let args = json!({ "cni": { "ips": ["10.32.0.2/12"], "mac": "02:00:00:00:00:02" } });
    let argument = "IgnoreUnknown=1;IP=10.32.0.3;MAC=02:00:00:00:00:03;OTHER=a=b";
    let capitals = json!({ "IPs": ["10.32.0.1/32"], "Mac": "02:00:00:00:00:01" });
    for (more, last) in [
        (json!({ "runtimeConfig": runtime, "args": args }), 1),
        (json!({ "runtimeConfig": capitals, "args": args }), 1),
        (json!({ "runtimeConfig": { "ips": [], "mac": "" }, "args": args }), 2),
        (json!({ "runtimeConfig": { "portMappings": [] } }), 3),
        (json!({}), 3),
    ] {
        let wish = added(argument, more).unwrap();
        assert_eq!(wish.address.unwrap().to_string(), format!("10.32.0.{last}"));
        assert_eq!(wish.mac.unwrap().to_string(), format!("02:00:00:00:00:0{last}"));
    }
}

#[test]
fn what_will_not_do_is_refused_by_a_code_and_by_name() {
    for (more, code, said) in [
        (json!({ "subnett": "web" }), Code::Unsupported, "subnett"),
        (json!({ "ipam": { "type": "host-local" } }), Code::Unsupported, "ipam"),
        (json!({ "mtu": "1400" }), Code::Config, "mtu"),
        (json!({ "mtu": -1 }), Code::Config, "mtu"),
        (json!({ "subnet": 7 }), Code::Config, "subnet"),
        (json!({ "socket": "weavers.sock" }), Code::Config, "socket"),
        (json!({ "name": "a/b" }), Code::Config, "network"),
        (json!({ "name": null }), Code::Config, "name"),
        (json!({ "runtimeConfig": { "ips": ["fd00::1"] } }), Code::Config, "fd00::1"),
        (json!({ "runtimeConfig": { "ips": ["10.32.0.1", "10.32.0.2"] } }), Code::Config, "several"),
        (json!({ "runtimeConfig": { "ips": "10.32.0.1" } }), Code::Config, "runtimeConfig.ips"),
        (json!({ "runtimeConfig": { "mac": "ff:ff:ff:ff:ff:ff" } }), Code::Config, "runtimeConfig.mac"),
        (json!({ "args": { "cni": { "ips": ["nowhere"] } } }), Code::Config, "nowhere"),
        (json!({ "prevResult": { "interfaces": [{ "name": "cni0" }] } }), Code::Config, "first"),
    ] {
        let failure = added("", more.clone()).unwrap_err();
        assert_eq!(failure.code, code, "{more}: {failure}");
        assert!(failure.to_string().contains(said), "{more}: {failure}");
        assert_eq!(failure.document()["cniVersion"], "1.0.0");
    }
    for args in ["IP=10.32.0.x", "MAC=02"] {
        assert_eq!(added(args, json!({})).unwrap_err().code, Code::Config, "{args}");
    }
    // What runtimes add is no slip of anybody's.
    let theirs =
        json!({ "nerdctlID": "x", "cni.dev/attachments": [], "prevResult": { "interfaces": [], "ips": [] } });
    added("", theirs).unwrap();
}

fn lent(upper: &str, ipam: Value) -> Result<Loan, super::Failure> {
    let config = config("1.0.0", json!({ "type": upper, "ipam": ipam }));
    match parse(Role::Addresses, &environment("ADD", "K8S_POD_NAME=web"), config.to_string().as_bytes())? {
        Order::Of(_, Verb::Lend { netns, loan }) => {
            assert_eq!(netns, "/run/netns/a1");
            Ok(*loan)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn ptp_borrows_addresses_one_by_one_and_a_bridge_out_of_a_block() {
    let loan = lent("ptp", json!({ "type": "weavers-ipam", "subnet": "web" })).unwrap();
    assert_eq!(loan.key.ident(), "ipam/weavers/a1/eth0");
    assert_eq!((loan.block, loan.subnet, loan.name.as_deref()), (None, Some("web".into()), Some("web")));
    assert_eq!(lent("bridge", json!({})).unwrap().block, Some(24));
    assert_eq!(lent("bridge", json!({ "block": 22 })).unwrap().block, Some(22));
    for (upper, ipam, code, said) in [
        ("ptp", json!({ "block": 24 }), Code::Config, "one by one"),
        ("bridge", json!({ "block": 8 }), Code::Config, "20 and 29"),
        ("bridge", json!({ "block": "24" }), Code::Config, "ipam.block"),
        ("bridge", json!({ "bolck": 24 }), Code::Unsupported, "did you mean"),
        ("bridge", json!({ "ranges": [] }), Code::Unsupported, "ranges"),
        ("bridge", json!({ "socket": "x" }), Code::Config, "ipam.socket"),
        ("bridge", json!(null), Code::Config, "ipam"),
        ("macvlan", json!({}), Code::Unsupported, "macvlan"),
    ] {
        let failure = lent(upper, ipam.clone()).unwrap_err();
        assert_eq!(failure.code, code, "{upper} {ipam}: {failure}");
        assert!(failure.to_string().contains(said), "{upper} {ipam}: {failure}");
    }
    let plain = config("1.1.0", json!({ "type": "ptp", "ipam": {} })).to_string();
    for verb in ["DEL", "STATUS", "GC"] {
        assert!(parse(Role::Addresses, &environment(verb, ""), plain.as_bytes()).is_ok(), "{verb}");
    }
    assert_eq!(Role::of(Path::new("/opt/cni/bin/weavers-ipam")), Role::Addresses);
    assert_eq!(Role::of(Path::new("/opt/cni/bin/weavers")), Role::Interfaces);
}

#[test]
fn the_result_of_a_loan_has_no_interface_and_the_length_that_its_borrower_needs() {
    let response = Response::Lent(Lent {
        address: "10.32.0.5/12".parse().unwrap(),
        gateway: "10.32.0.1".parse().unwrap(),
    });
    for version in Version::ALL {
        let told = config(version.text(), json!({ "type": "ptp", "ipam": {}, "prevResult": { "ips": [] } }));
        let parsed = |verb: &str, config: &Value| match parse(
            Role::Addresses,
            &environment(verb, ""),
            config.to_string().as_bytes(),
        )
        .unwrap()
        {
            Order::Of(network, verb) => (network, verb),
            other => panic!("{other:?}"),
        };
        let (network, verb) = parsed("ADD", &told);
        let result = output::answer(&network, &verb, &response).unwrap().unwrap();
        let mut expected = json!({
            "cniVersion": version.text(),
            "ips": [{ "address": "10.32.0.5/12", "gateway": "10.32.0.1" }],
            "routes": [{ "dst": "0.0.0.0/0" }],
            "dns": {},
        });
        if version < Version::V1_0_0 {
            expected["ips"][0]["version"] = json!("4");
        }
        assert_eq!(result, expected);
        if version >= Version::V0_4_0 {
            let after = config(version.text(), json!({ "type": "ptp", "ipam": {}, "prevResult": expected }));
            let (network, verb) = parsed("CHECK", &after);
            assert_eq!(output::answer(&network, &verb, &response), Ok(None));
            let (network, verb) = parsed("CHECK", &told);
            assert_eq!(output::answer(&network, &verb, &response).unwrap_err().code, Code::Changed);
        }
    }
}

#[test]
fn each_verb_needs_what_the_specification_says() {
    let plain = config("1.1.0", json!({})).to_string();
    let with = |change: fn(&mut Environment), command| {
        let mut environment = environment(command, "");
        change(&mut environment);
        parse(Role::Interfaces, &environment, plain.as_bytes())
            .map_err(|failure| (failure.code, failure.message))
    };
    let missing = |said: &str| Err((Code::Environment, format!("{said} not set")));
    assert_eq!(with(|env| env.netns.clear(), "ADD"), missing("CNI_NETNS"));
    assert_eq!(with(|env| env.ifname.clear(), "DEL"), missing("CNI_IFNAME"));
    let nothing: fn(&mut Environment) =
        |env| *env = Environment { command: env.command.clone(), ..Default::default() };
    assert_eq!(with(nothing, "DEL"), missing("CNI_CONTAINERID and CNI_IFNAME"));
    for fine in [with(|env| env.netns.clear(), "DEL"), with(nothing, "STATUS"), with(nothing, "GC")] {
        assert!(fine.is_ok(), "{fine:?}");
    }
    for wrong in [
        with(|env| env.ifname = "a/b".to_owned(), "ADD"),
        with(|env| env.container_id = "../a".to_owned(), "DEL"),
        with(|env| env.netns = "netns".to_owned(), "ADD"),
        with(nothing, "add"),
    ] {
        assert_eq!(wrong.unwrap_err().0, Code::Environment);
    }
    let about = Environment::default();
    assert_eq!(parse(Role::Interfaces, &about, b"").unwrap(), Order::About);
}

#[test]
fn a_list_of_valid_attachments_is_one_or_gc_is_refused() {
    let gc = |more| ordered("GC", "", &config("1.1.0", more)).map(drop).map_err(|failure| failure.code);
    let list = json!([{ "containerID": "a1", "ifname": "eth0" }]);
    for fine in [json!({}), json!({ "cni.dev/valid-attachments": list, "cni.dev/attachments": list })] {
        assert_eq!(gc(fine), Ok(()));
    }
    for wrong in [json!(null), json!({}), json!("a1"), json!([7]), json!([{ "containerID": "a1" }])] {
        assert_eq!(gc(json!({ "cni.dev/valid-attachments": wrong })), Err(Code::Config), "{wrong}");
    }
}

#[test]
fn versions_are_told_to_whoever_asks_and_others_refused() {
    let asked = |stdin: &str| parse(Role::Interfaces, &environment("VERSION", ""), stdin.as_bytes()).unwrap();
    assert_eq!(asked(r#"{"cniVersion":"0.4.0"}"#), Order::Version("0.4.0".to_owned()));
    for unknown in [r#"{"cniVersion":"2.0.0"}"#, "", "no JSON"] {
        assert_eq!(asked(unknown), Order::Version("1.1.0".to_owned()), "{unknown}");
    }
    let told = output::versions("1.1.0");
    assert_eq!(told["supportedVersions"], json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    for version in ["0.2.0", "1.2.0", "1.0"] {
        let failure = ordered("ADD", "", &config(version, json!({}))).unwrap_err();
        assert_eq!(failure.code, Code::Version, "{version}");
        assert!(failure.details.contains(version), "{failure}");
    }
    for (verb, first) in [("CHECK", Version::V0_4_0), ("STATUS", Version::V1_1_0), ("GC", Version::V1_1_0)] {
        for version in Version::ALL {
            let config = config(version.text(), json!({ "prevResult": { "ips": [] } }));
            let known = ordered(verb, "", &config).map_err(|failure| failure.code);
            assert_eq!(known.is_ok(), version >= first, "{verb} {version:?}: {known:?}");
        }
    }
}

#[test]
fn a_result_says_in_each_version_what_that_has() {
    let response = connected();
    for version in Version::ALL {
        let dns = json!({ "nameservers": ["10.9.9.9"] });
        let (network, verb) = ordered("ADD", "", &config(version.text(), json!({ "dns": dns }))).unwrap();
        let result = output::answer(&network, &verb, &response).unwrap().unwrap();
        let mut expected = json!({
            "cniVersion": version.text(),
            "interfaces": [
                { "name": "wv0a200005", "mac": "02:67:a9:fe:01:01" },
                { "name": "eth0", "mac": "02:67:0a:20:00:05", "sandbox": "/run/netns/a1" },
            ],
            "ips": [{ "address": "10.32.0.5/32", "gateway": "169.254.1.1", "interface": 1 }],
            "routes": [{ "dst": "0.0.0.0/0", "gw": "169.254.1.1" }],
            "dns": dns,
        });
        if version < Version::V1_0_0 {
            expected["ips"][0]["version"] = json!("4");
        }
        if version >= Version::V1_1_0 {
            expected["interfaces"][0]["mtu"] = json!(9001);
            expected["interfaces"][1]["mtu"] = json!(9001);
        }
        assert_eq!(result, expected);
    }
}

#[test]
fn a_check_compares_what_is_ours_and_nothing_else() {
    let response = connected();
    // As `bandwidth` and `tuning` leave it: an interface more, another MAC address.
    let after = |address: &str| {
        json!({ "prevResult": {
            "interfaces": [{ "name": "wv0a200005" }, { "name": "eth0", "mac": "02:00:00:00:00:01" }, { "name": "bwp1" }],
            "ips": [{ "address": address, "interface": 1 }],
        }})
    };
    let check = |address: &str| {
        let (network, verb) = ordered("CHECK", "", &config("1.0.0", after(address)))?;
        output::answer(&network, &verb, &response)
    };
    assert_eq!(check("10.32.0.5/32"), Ok(None));
    assert_eq!(check("10.32.0.6/32").unwrap_err().code, Code::Changed);
    assert_eq!(ordered("CHECK", "", &config("1.0.0", json!({}))).unwrap_err().code, Code::Config);
}

#[test]
fn a_refusal_has_the_code_that_tells_a_runtime_what_to_do() {
    let (network, add) = ordered("ADD", "", &config("1.0.0", json!({}))).unwrap();
    let previous = json!({ "prevResult": { "ips": [] } });
    let (_, check) = ordered("CHECK", "", &config("1.0.0", previous)).unwrap();
    for (verb, kind, code) in [
        (&add, RefusalKind::Failed, 11),
        (&add, RefusalKind::Taken, 101),
        (&add, RefusalKind::NotFound, 7),
        (&add, RefusalKind::Invalid, 7),
        (&check, RefusalKind::NotFound, 3),
        (&check, RefusalKind::Failed, 102),
        (&Verb::Status, RefusalKind::Failed, 50),
        (&Verb::Status, RefusalKind::Impaired, 51),
    ] {
        let refusal = Refusal::new(kind, "what is wrong").hint("the way out");
        let document = output::refused(&network, verb, &refusal).document();
        let expected =
            json!({ "cniVersion": "1.0.0", "code": code, "msg": "what is wrong", "details": "the way out" });
        assert_eq!(document, expected, "{verb:?} {kind:?}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let words = "[a-zA-Z0-9:./_-]{0,20}";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        words.prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    let keys = prop_oneof![
        proptest::sample::select(vec![
            "cniVersion",
            "name",
            "runtimeConfig",
            "ips",
            "mac",
            "args",
            "cni",
            "prevResult",
            "interfaces",
            "mtu",
            "subnet",
            "socket",
            "dns",
            "ipam",
            "address",
        ])
        .prop_map(str::to_owned),
        any::<String>(),
    ];
    leaf.prop_recursive(4, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((keys.clone(), inner), 0..8)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_comes_is_understood_or_refused(
        more in any_json(),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        command in prop::sample::select(vec!["ADD", "DEL", "CHECK", "STATUS", "GC", "VERSION", "x"]),
        version in prop::sample::select(vec!["0.3.1", "0.4.0", "1.0.0", "1.1.0"]),
        (id, netns, ifname, args) in any::<(String, String, String, String)>(),
        role in prop::sample::select(vec![Role::Interfaces, Role::Addresses]),
    ) {
        let hostile = Environment { command: Some(command.to_owned()), container_id: id, netns, ifname, args };
        let object = match &more {
            Value::Object(more) => config(version, Value::Object(more.clone())),
            other => other.clone(),
        };
        let object = object.to_string();
        for environment in [&environment(command, "IP=;MAC"), &hostile] {
            for stdin in [object.as_bytes(), &bytes] {
                if let Err(failure) = parse(role, environment, stdin) {
                    prop_assert!(Version::find(&failure.version).is_some() && !failure.message.is_empty());
                }
            }
        }
    }
}
