//! What Docker connects: by addresses that it was lent, and let go when it says so, or has forgotten.

use ipnet::Ipv4Net;
use weavers::{
    addr::Address,
    ipam::Saved,
    node::{
        persist::memory::{Attached, Memory},
        protocol::{
            docker::{LEASE, Network, Order, Told, ToldEndpoint},
            request::{Connected, Container, Refusal, RefusalKind, Request, Response},
        },
    },
    state::{Far, Key, Kind, Port, PortRange, Protocol, Published},
};

use crate::lone_host::Host;

/// Time in which Docker is answered, whatever happens.
const PATIENCE_MS: u64 = 35_000;

fn ask(host: &mut Host, request: Request) -> Result<Response, Refusal> {
    host.answers.clear();
    host.ask(request);
    if host.answers.is_empty() {
        host.pass(1_000);
    }
    if host.answers.is_empty() {
        host.pass(PATIENCE_MS);
    }
    host.answers.pop().expect("Docker is answered")
}

fn tell(host: &mut Host, order: Order) -> Result<Response, Refusal> {
    ask(host, Request::Docker(order))
}

fn lend(host: &mut Host, name: &str) -> Address {
    let ident = format!("{LEASE}{name}");
    match ask(host, Request::Allocate { ident, subnet: None }) {
        Ok(Response::Addresses(found)) => found[0].addr().into(),
        other => panic!("{other:?}"),
    }
}

fn claim(host: &mut Host, name: &str, address: Address) -> Result<Response, Refusal> {
    ask(host, Request::Claim { ident: format!("{LEASE}{name}"), address })
}

fn endpoint(id: &str, address: Address) -> Order {
    Order::Endpoint { network: "net".to_owned(), id: id.to_owned(), address, mac: None }
}

fn join(id: &str, sandbox: &str) -> Order {
    Order::Join { network: "net".to_owned(), id: id.to_owned(), sandbox: sandbox.to_owned() }
}

fn end(id: &str) -> Order {
    Order::NoEndpoint { network: "net".to_owned(), id: id.to_owned() }
}

fn publish(id: &str, ports: &[(u16, u16)]) -> Order {
    publish_at(id, &ports.iter().map(|&(host, container)| ("", host, container)).collect::<Vec<_>>())
}

fn publish_at(id: &str, ports: &[(&str, u16, u16)]) -> Order {
    let port = |&(host_ip, host, container): &(&str, u16, u16)| {
        let host_ip = Port::host_ip_of(host_ip).unwrap();
        PortRange::from(Port { protocol: Protocol::Tcp, host_ip, host, container })
    };
    let ports = ports.iter().map(port).collect();
    Order::Publish { network: "net".to_owned(), id: id.to_owned(), ports, in_use: Vec::new() }
}

fn told(containers: &[(&str, Address)]) -> Order {
    let endpoint = |&(id, address): &(&str, Address)| ToldEndpoint {
        id: id.to_owned(),
        name: format!("name-of-{id}"),
        address: Some(address),
        mac: None,
    };
    let endpoints = containers.iter().map(endpoint).collect();
    Order::Told(vec![Told {
        id: "net".to_owned(),
        network: Network::default(),
        endpoints,
        reserved: Vec::new(),
    }])
}

fn used(host: &Host) -> usize {
    host.node.overview().allocations().keys().filter(|ident| ident.starts_with(LEASE)).count()
}

#[test]
fn docker_moves_the_other_end_and_nobody_else_touches_it() {
    let mut host = Host::new();
    let address = lend(&mut host, "a");
    let Ok(Response::Connected(Connected { link, .. })) = tell(&mut host, endpoint("a", address)) else {
        panic!("{:?}", host.node.status().attachments)
    };
    assert_eq!(link, format!("wv{:08x}", address.0));
    let made = &host.kernel.links[&address];
    assert!(made.far.moved && made.netns.is_none());
    assert_eq!(made.far.name, format!("wp{:08x}", address.0));
    let Ok(Response::Joined(joined)) = tell(&mut host, join("a", "/var/run/docker/netns/1")) else {
        panic!()
    };
    assert_eq!((joined.interface, joined.internal), (made_name(address), false));
    assert!(matches!(tell(&mut host, endpoint("a", address)), Ok(Response::Connected(_))), "asked again");
    assert!(host.node.overview().plan().is_empty(), "{:?}", host.node.overview().plan());
}

fn made_name(address: Address) -> String {
    format!("wp{:08x}", address.0)
}

#[test]
fn a_container_that_is_on_a_network_of_ours_is_told_that_one_is_enough() {
    let mut host = Host::new();
    let (one, two) = (lend(&mut host, "a"), lend(&mut host, "b"));
    tell(&mut host, endpoint("a", one)).unwrap();
    tell(&mut host, endpoint("b", two)).unwrap();
    tell(&mut host, join("a", "/var/run/docker/netns/1")).unwrap();
    assert_eq!(host.node.status().attachments[0].netns, "/var/run/docker/netns/1");
    let refusal = tell(&mut host, join("b", "/var/run/docker/netns/1")).unwrap_err();
    assert!(refusal.message.contains("already"), "{refusal:?}");
    tell(&mut host, join("a", "/var/run/docker/netns/1")).unwrap();
    tell(&mut host, join("b", "/var/run/docker/netns/2")).unwrap();
}

#[test]
fn an_address_that_was_released_is_lent_again_at_once_to_whoever_names_it() {
    let mut host = Host::new();
    let address = lend(&mut host, "a");
    tell(&mut host, endpoint("a", address)).unwrap();
    assert_eq!(claim(&mut host, "b", address).unwrap_err().kind, RefusalKind::Taken);
    assert_eq!(tell(&mut host, end("a")), Ok(Response::Done));
    assert!(!host.kernel.links.contains_key(&address), "its link is gone before Docker hears of it");
    tell(&mut host, Order::Release { address }).unwrap();
    claim(&mut host, "b", address).unwrap();
    tell(&mut host, endpoint("b", address)).unwrap();
    assert_eq!(used(&host), 1);
}

#[test]
fn an_address_that_is_released_too_early_stays_until_its_link_is_gone() {
    let mut host = Host::new();
    let address = lend(&mut host, "a");
    tell(&mut host, endpoint("a", address)).unwrap();
    host.holds_links = true;
    tell(&mut host, end("a")).unwrap_err();
    tell(&mut host, Order::Release { address }).unwrap();
    assert_eq!(used(&host), 1);
    assert_eq!(claim(&mut host, "b", address).unwrap_err().kind, RefusalKind::Taken);
    host.holds_links = false;
    host.pass(120_000);
    assert_eq!(used(&host), 0);
}

#[test]
fn what_docker_was_not_lent_it_neither_connects_nor_frees() {
    let mut host = Host::new();
    host.attach(1);
    host.pass(1_000);
    let Some(Ok(Response::Attached { address, .. })) = host.answers.pop() else { panic!() };
    let address = Address::from(address.addr());
    let refusal = tell(&mut host, endpoint("a", address)).unwrap_err();
    assert!(refusal.message.contains("not handed out"), "{refusal:?}");
    tell(&mut host, Order::Release { address }).unwrap();
    assert_eq!(host.node.status().attachments.len(), 1);
    assert!(
        host.node.overview().allocations().values().flatten().any(|net| Address::from(net.addr()) == address)
    );

    let lent = lend(&mut host, "a");
    tell(&mut host, endpoint("a", lent)).unwrap();
    let refusal = tell(&mut host, endpoint("b", lent)).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Taken, "{refusal:?}");
    assert_eq!(tell(&mut host, end("b")), Ok(Response::Done));
    assert_eq!(tell(&mut host, publish("b", &[(80, 80)])).unwrap_err().kind, RefusalKind::NotFound);
    for id in ["", "a/b", "..", "a b"] {
        assert_eq!(tell(&mut host, endpoint(id, lent)).unwrap_err().kind, RefusalKind::Invalid, "{id}");
    }
    let name =
        host.node.overview().allocations().keys().find(|ident| ident.starts_with(LEASE)).unwrap().clone();
    let refusal = ask(&mut host, Request::Free { ident: name, address: None }).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Unsafe, "nor does anybody free what a container uses");
}

#[test]
fn a_port_leads_to_one_container_and_goes_with_it() {
    let mut host = Host::new();
    let (one, two) = (lend(&mut host, "a"), lend(&mut host, "b"));
    tell(&mut host, endpoint("a", one)).unwrap();
    tell(&mut host, endpoint("b", two)).unwrap();
    tell(&mut host, publish("a", &[(8080, 80), (0, 443)])).unwrap();
    let ports = host.kernel.ports.clone().unwrap();
    let port = |host, container| Port { protocol: Protocol::Tcp, host_ip: None, host, container };
    assert!(ports.contains(&Published { port: port(8080, 80), to: one, prefix: None }), "{ports:?}");
    assert!(ports.iter().any(|published| published.port.container == 443 && published.port.host >= 49_153));
    tell(&mut host, publish("a", &[(8080, 80), (0, 443)])).unwrap();
    assert_eq!(host.kernel.ports.clone().unwrap(), ports, "asked again it is the same");
    let refusal = tell(&mut host, publish("b", &[(8080, 80)])).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Taken);
    assert!(refusal.message.contains("8080/tcp is published by `docker/net/a/eth`"), "{refusal:?}");
    assert!(host.node.overview().is_ready(), "a port is no reason not to be");
    tell(&mut host, end("a")).unwrap();
    assert_eq!(host.kernel.ports, None);
    tell(&mut host, publish("b", &[(8080, 80)])).unwrap();
    let status = host.node.status();
    assert_eq!(status.attachments[0].ports, ["8080->80/tcp"]);
}

#[test]
fn a_port_is_published_by_ipv6_as_long_as_its_container_has_an_address_of_it() {
    let mut host = Host::new();
    let address = lend(&mut host, "a");
    tell(&mut host, endpoint("a", address)).unwrap();
    let refusal = tell(&mut host, publish_at("a", &[("::", 8080, 80)])).unwrap_err();
    let said = (refusal.kind, refusal.message.as_str());
    assert_eq!(
        said,
        (
            RefusalKind::Invalid,
            "port [::]:8080/tcp cannot be published: containers have no addresses of IPv6"
        )
    );
    let ports = [("", 8080, 80), ("::", 8081, 80), ("0.0.0.0", 8081, 81)];
    let kinds = |host: &Host| -> Vec<(u16, u16, bool)> {
        let ports = host.kernel.ports.iter().flatten();
        ports.map(|one| (one.port.host, one.port.container, one.prefix.is_some())).collect()
    };
    host.reconfigure("[network]\nipv6 = 'fd00:1::/96'\n");
    host.pass(2_000);
    tell(&mut host, publish_at("a", &ports)).unwrap();
    let of_both = [(8080, 80, false), (8080, 80, true), (8081, 80, true), (8081, 81, false)];
    assert_eq!(kinds(&host), of_both);
    let refusal = tell(&mut host, publish_at("a", &[("::1", 8082, 80)])).unwrap_err();
    assert!(refusal.message.contains("nothing from ::1"), "{refusal:?}");
    host.reconfigure("");
    host.pass(2_000);
    assert_eq!(kinds(&host), [(8080, 80, false), (8081, 81, false)]);
    let attached = &host.node.status().attachments[0];
    assert_eq!(
        (attached.ports.len(), attached.missing.as_deref()),
        (3, None),
        "what leads nowhere is not missed"
    );
}

#[test]
fn of_a_range_of_ports_the_first_that_is_free_leads_to_the_container() {
    let mut host = Host::new();
    for id in ["a", "b", "c", "d"] {
        let address = lend(&mut host, id);
        tell(&mut host, endpoint(id, address)).unwrap();
    }
    let port = |host, container| Port { protocol: Protocol::Tcp, host_ip: None, host, container };
    let range = |id: &str, in_use: &[u16]| Order::Publish {
        network: "net".to_owned(),
        id: id.to_owned(),
        ports: vec![PortRange { first: port(8000, 80), last: 8002 }],
        in_use: in_use.iter().map(|host| port(*host, 80)).collect(),
    };
    tell(&mut host, range("a", &[8000])).unwrap();
    tell(&mut host, range("a", &[])).unwrap();
    tell(&mut host, range("b", &[])).unwrap();
    tell(&mut host, range("c", &[])).unwrap();
    let shown = |host: &Host| -> Vec<Vec<String>> {
        host.node.status().attachments.into_iter().map(|one| one.ports).collect()
    };
    assert_eq!(shown(&host), [vec!["8001->80/tcp"], vec!["8000->80/tcp"], vec!["8002->80/tcp"], vec![]]);
    let refusal = tell(&mut host, range("d", &[])).unwrap_err();
    assert_eq!(
        (refusal.kind, refusal.message.as_str()),
        (RefusalKind::Taken, "no port of 8000-8002->80/tcp is free")
    );
    tell(&mut host, end("b")).unwrap();
    tell(&mut host, range("d", &[])).unwrap();
    assert_eq!(shown(&host).last().unwrap(), &["8000->80/tcp"]);
}

#[test]
fn what_docker_has_forgotten_is_let_go_and_not_before_a_minute() {
    let mut host = Host::new();
    let (one, two) = (lend(&mut host, "a"), lend(&mut host, "b"));
    let lent = lend(&mut host, "c");
    for (id, address) in [("a", one), ("b", two)] {
        tell(&mut host, endpoint(id, address)).unwrap();
    }
    host.kernel.idle = [one].into();
    host.pass(31_000);
    tell(&mut host, told(&[])).unwrap();
    host.pass(50_000);
    tell(&mut host, told(&[])).unwrap();
    assert_eq!(host.node.status().attachments.len(), 2, "it may only just have come");
    host.pass(20_000);
    tell(&mut host, told(&[])).unwrap();
    host.pass(5_000);
    let left: Vec<String> = host.node.status().attachments.into_iter().map(|one| one.ident).collect();
    assert_eq!(left, ["docker/net/b/eth"], "somebody uses that link");
    assert!(!host.node.overview().allocations().contains_key(&format!("{LEASE}c")), "{lent} was for nobody");
    assert_eq!(used(&host), 1);
}

/// Docker starts before us and gives nothing back while we are not there.
#[test]
fn after_a_boot_what_docker_had_is_free_and_what_lives_on_is_kept() {
    let remembered = |id: &str, boot: Option<&str>, address: Address| Attached {
        ident: format!("docker/net/{id}/eth"),
        key: Some(Key {
            kind: Kind::Docker,
            network: "net".to_owned(),
            id: id.to_owned(),
            interface: "eth".to_owned(),
        }),
        address: Some(Ipv4Net::new_assert(address.into(), 12)),
        far: Far::to_be_moved(address, None),
        ports: vec![Port { protocol: Protocol::Tcp, host_ip: None, host: 8080, container: 80 }],
        boot: boot.map(str::to_owned),
        ..Attached::default()
    };
    let addresses = ["10.32.0.5", "10.32.0.6", "10.32.0.7"].map(|text| text.parse::<Address>().unwrap());
    let [gone, alive, unknown] = addresses;
    let attached = [
        remembered("gone", Some("of yesterday"), gone),
        remembered("alive", Some("boot"), alive),
        remembered("of an earlier version", None, unknown),
    ];
    let lease =
        |address: Address| (format!("{LEASE}{address}"), vec![Ipv4Net::new_assert(address.into(), 12)]);
    let mut host = Host::with(Memory {
        ipam: Saved { allocations: addresses.map(lease).into(), ..Saved::default() },
        attached: attached.map(|one| (one.ident.clone(), one)).into(),
        ..Memory::default()
    });
    host.pass(1_000);
    let left: Vec<String> = host.node.status().attachments.into_iter().map(|one| one.ident).collect();
    assert_eq!(left, ["docker/net/alive/eth", "docker/net/of an earlier version/eth"]);
    claim(&mut host, "again", gone).expect("its address can be given at once");
    assert_eq!(claim(&mut host, "no", alive).unwrap_err().kind, RefusalKind::Taken);
}

/// A host whose store was lost, and a link that was found.
fn with_found(address: Address) -> Host {
    let net = Ipv4Net::new_assert(address.into(), 12);
    let ident = format!("found-wv{:08x}", address.0);
    let mut host = Host::remembering(vec![Attached { ident, address: Some(net), ..Attached::default() }]);
    host.pass(31_000);
    host
}

#[test]
fn a_lost_store_learns_from_docker_whose_its_links_are() {
    let address = "10.32.0.9".parse().unwrap();
    let mut host = with_found(address);
    assert_eq!(tell(&mut host, Order::Pending), Ok(Response::Done), "Docker is asked");
    tell(&mut host, told(&[("a", address)])).unwrap();
    let left = host.node.status().attachments;
    assert_eq!((left.len(), left[0].ident.as_str()), (1, "docker/net/a/eth"));
    assert_eq!(left[0].name.as_deref(), Some("name-of-a"));
    assert_eq!(tell(&mut host, end("a")), Ok(Response::Done));
    tell(&mut host, Order::Release { address }).unwrap();
    assert!(host.node.overview().allocations().is_empty(), "{:?}", host.node.overview().allocations());
}

#[test]
fn a_link_that_a_lost_store_left_is_let_go_when_docker_releases_it_and_nobody_uses_it() {
    let address = "10.32.0.9".parse().unwrap();
    let mut host = with_found(address);
    tell(&mut host, Order::Release { address }).unwrap();
    host.pass(5_000);
    assert_eq!(host.node.status().attachments.len(), 1, "somebody uses it");
    host.kernel.idle = [address].into();
    host.pass(31_000);
    tell(&mut host, Order::Release { address }).unwrap();
    host.pass(5_000);
    assert_eq!(host.node.status().attachments.len(), 0);
}

#[test]
fn a_link_that_a_lost_store_left_is_let_go_when_docker_has_not_known_it_for_a_minute() {
    let (of_docker, of_others) = ("10.32.0.9".parse().unwrap(), "10.32.0.10".parse().unwrap());
    let found = |address: Address| Attached {
        ident: format!("found-wv{:08x}", address.0),
        address: Some(Ipv4Net::new_assert(address.into(), 12)),
        ..Attached::default()
    };
    let mut host = Host::remembering(vec![found(of_docker), found(of_others)]);
    host.pass(31_000);
    host.kernel.idle = [of_docker].into();
    host.pass(31_000);
    tell(&mut host, told(&[])).unwrap();
    host.pass(30_000);
    tell(&mut host, told(&[])).unwrap();
    assert_eq!(host.node.status().attachments.len(), 2, "it may only just have come");
    host.pass(31_000);
    tell(&mut host, told(&[])).unwrap();
    host.pass(5_000);
    let left: Vec<String> = host.node.status().attachments.into_iter().map(|one| one.ident).collect();
    assert_eq!(left, ["found-wv0a20000a"], "somebody uses that link");
}

#[test]
fn people_call_containers_as_docker_does() {
    let mut host = Host::new();
    let address = lend(&mut host, "a");
    tell(&mut host, endpoint("a", address)).unwrap();
    tell(&mut host, told(&[("a", address)])).unwrap();
    assert_eq!(host.node.status().attachments[0].name.as_deref(), Some("name-of-a"));
    let target = Container::Name("name-of-a".to_owned());
    assert_eq!(ask(&mut host, Request::Detach { target }), Ok(Response::Done));
    assert_eq!(host.node.status().attachments.len(), 0);
}

#[test]
fn a_pool_is_a_part_of_the_range_and_never_chosen_by_us() {
    let mut host = Host::new();
    let mut pool = |pool: Option<&str>, part: Option<&str>| {
        let net = |text: &str| text.parse().unwrap();
        tell(&mut host, Order::Pool { pool: pool.map(net), part: part.map(net) })
    };
    let refusal = pool(None, None).unwrap_err();
    assert_eq!(refusal.hint.as_deref(), Some("name the subnet: --subnet 10.32.0.0/12"));
    assert!(pool(Some("172.17.0.0/16"), None).is_err());
    assert!(pool(Some("10.32.0.0/16"), Some("10.33.0.0/16")).is_err());
    assert!(pool(Some("10.32.0.0/31"), None).is_err());
    let found =
        |nets: &[&str]| Ok(Response::Addresses(nets.iter().map(|net| net.parse().unwrap()).collect()));
    assert_eq!(pool(Some("10.32.0.0/12"), None), found(&["10.32.0.0/12"]));
    assert_eq!(pool(Some("10.40.0.0/16"), None), found(&["10.40.0.0/16", "10.40.0.0/16"]));
}
