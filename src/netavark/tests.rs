use super::*;

const RANGE: &str = "10.32.0.0/12";

/// As Podman 5.4 asks for one.
fn network() -> Value {
    json!({
        "name": "w", "id": "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9", "driver": "weavers",
        "created": "0001-01-01T00:00:00Z", "ipv6_enabled": false, "internal": false, "dns_enabled": true,
        "labels": {}, "options": { "mtu": "1400" }, "ipam_options": {},
    })
}

/// As netavark 1.14 asks to connect a container.
fn container() -> Value {
    json!({
        "container_id": "a1b2", "container_name": "web",
        "port_mappings": [{ "container_port": 80, "host_ip": "", "host_port": 8080, "protocol": "tcp,udp", "range": 2 }],
        "network": {
            "name": "w", "id": "2f25", "driver": "weavers", "subnets": null, "options": { "mtu": "1400" },
            "ipam_options": { "driver": "none" }, "internal": false, "dns_enabled": false, "ipv6_enabled": false,
        },
        "network_options": {
            "interface_name": "eth0", "aliases": ["web"], "static_ips": ["10.32.2.77"], "static_mac": "02:00:00:00:00:07",
        },
    })
}

fn created(network: &Value) -> Result<Value, String> {
    create(network.to_string().as_bytes(), RANGE.parse().unwrap())
}

fn parsed(container: &Value) -> Result<Call, String> {
    parse(container.to_string().as_bytes())
}

fn with(mut document: Value, pointer: &str, value: Value) -> Value {
    match document.pointer_mut(pointer) {
        Some(found) => *found = value,
        None => {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            document.pointer_mut(parent).unwrap()[key] = value;
        }
    }
    document
}

#[test]
fn a_network_is_as_it_was_asked_for_but_that_we_hand_out_its_addresses() {
    let made = created(&network()).unwrap();
    let expected = with(network(), "/ipam_options", json!({ "driver": "none" }));
    assert_eq!(made, with(expected, "/dns_enabled", json!(false)));
    let of_subnet = created(&with(network(), "/subnets", json!([{ "subnet": "10.40.0.0/16" }]))).unwrap();
    assert_eq!(of_subnet["ipam_options"], json!({ "driver": "weavers" }), "otherwise Podman hands them out");
}

#[test]
fn a_network_that_cannot_be_is_refused() {
    for (pointer, value, says) in [
        ("/ipv6_enabled", json!(true), "IPv6"),
        ("/internal", json!(true), "--internal"),
        ("/subnets", json!([{ "subnet": "172.17.0.0/16" }]), "outside [ipam] range 10.32.0.0/12"),
        ("/subnets", json!([{ "subnet": "fd00::/64" }]), "IPv6"),
        ("/subnets", json!([{ "subnet": "10.32.0.0/16" }, { "subnet": "10.33.0.0/16" }]), "one subnet"),
        ("/options", json!({ "mut": "1400" }), "did you mean \"mtu\"?"),
        ("/ipam_options", json!({ "driver": "dhcp" }), "leave --ipam-driver out"),
    ] {
        let wrong = created(&with(network(), pointer, value)).unwrap_err();
        assert!(wrong.contains(says), "{pointer}: {wrong}");
    }
    assert!(create(b"", RANGE.parse().unwrap()).unwrap_err().contains("stdin cannot be read"));
}

#[test]
fn a_container_is_asked_for_with_all_that_people_named() {
    let Call { wish, socket } = parsed(&container()).unwrap();
    assert_eq!((wish.key.ident().as_str(), socket), ("podman/w/a1b2/eth0", None));
    assert_eq!((wish.name.as_deref(), wish.mtu, wish.subnet), (Some("web"), Some(1400), None));
    assert_eq!(wish.address, Some("10.32.2.77".parse().unwrap()));
    assert_eq!(wish.mac, Some("02:00:00:00:00:07".parse().unwrap()));
    let ports: Vec<String> = wish.ports.iter().map(ToString::to_string).collect();
    assert_eq!(ports, ["8080->80/tcp", "8081->81/tcp", "8080->80/udp", "8081->81/udp"]);
    let of_subnet = with(container(), "/network/subnets", json!([{ "subnet": "10.40.0.0/16" }]));
    assert_eq!(parsed(&of_subnet).unwrap().wish.subnet, Some(Pool::Cidr("10.40.0.0/16".parse().unwrap())));
    let named = with(of_subnet, "/network/options", json!({ "subnet": "web", "socket": "/run/other.sock" }));
    let Call { wish, socket } = parsed(&named).unwrap();
    assert_eq!(
        (wish.subnet, socket.as_deref()),
        (Some(Pool::Named("web".to_owned())), Some("/run/other.sock"))
    );
}

#[test]
fn what_cannot_be_given_is_refused_by_name() {
    let mapping = |protocol: &str, ip: &str, port: u16, range: u16| json!([{ "container_port": 1, "host_port": port, "host_ip": ip, "protocol": protocol, "range": range }]);
    for (pointer, value, says) in [
        ("/network_options/static_ips", json!(["10.32.0.1", "10.32.0.2"]), "one address"),
        ("/network_options/static_ips", json!(["fd00::1"]), "IPv6"),
        ("/network_options/static_mac", json!("01:00:5e:00:00:01"), "not the MAC address of one interface"),
        ("/network_options/interface_name", json!("e/0"), "interface"),
        ("/container_id", json!("a/b"), "container id"),
        ("/network/options", json!({ "mtu": "wide" }), "mtu"),
        ("/port_mappings", mapping("icmp", "", 1, 1), "protocol `icmp`"),
        ("/port_mappings", mapping("tcp", "eth0", 1, 1), "no address of this host"),
        ("/port_mappings", mapping("tcp", "", 65_535, 2), "more than there are"),
        ("/port_mappings", mapping("tcp", "", 1, 60_000), "more than 4096"),
    ] {
        let wrong = parsed(&with(container(), pointer, value)).unwrap_err();
        assert!(wrong.contains(says), "{pointer}: {wrong}");
    }
}

#[test]
fn an_interface_is_told_with_its_gateway() {
    let call = parsed(&container()).unwrap();
    let made = Connected {
        address: "10.32.2.77".parse().unwrap(),
        ipv6: Some("fd00:1::a20:24d".parse().unwrap()),
        mac: "02:00:00:00:00:07".parse().unwrap(),
        mtu: 1400,
        link: "wv0a20024d".to_owned(),
    };
    assert_eq!(
        connected(&call, &made),
        json!({
            "dns_search_domains": [], "dns_server_ips": [],
            "interfaces": { "eth0": {
                "mac_address": "02:00:00:00:00:07",
                "subnets": [
                    { "gateway": "169.254.1.1", "ipnet": "10.32.2.77/32" },
                    { "gateway": "fe80::1", "ipnet": "fd00:1::a20:24d/128" },
                ],
            } },
        })
    );
    assert_eq!(info()["api_version"], "1.0.0");
    assert_eq!(failed("no"), json!({ "error": "no" }));
}
