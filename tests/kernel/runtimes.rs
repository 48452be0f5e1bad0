//! Links whose other end a runtime moves, and ports of the host that lead into containers.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use weavers::{
    addr::Prefix,
    kernel::{Kernel, watch::Changes},
    state::{Far, HostAction, Link, Port, Ports, Protocol, Rules, link_name},
};

use crate::{
    stories,
    world::{Container, World, at, crosses, range, rules, sh, uplink},
};

const A: &str = "10.32.0.5";
const B: &str = "10.32.0.6";
const A6: &str = "fd00:1::a20:5";
const B6: &str = "fd00:1::a20:6";

stories![
    a_runtime_moves_the_other_end_and_has_it_to_itself,
    a_link_whose_other_end_is_gone_is_made_anew,
    ports_are_read_back_as_they_were_loaded,
    a_port_leads_to_its_container_from_everywhere,
    a_port_leads_to_the_ipv6_address_of_its_container_from_everywhere,
];

fn want_pair(world: &mut World, address: &str) -> HostAction {
    let far = Far::to_be_moved(at(address), None);
    let link = Link { mtu: 9001, range: range(), far: far.clone(), ..Link::default() };
    world.wanted.links_mut().insert(at(address), link.into());
    HostAction::MakePair { address: at(address), mtu: 9001, prefix: None, far }
}

/// As libnetwork does it.
fn move_in(container: &Container, address: &str) {
    let (peer, task) = (Far::to_be_moved(at(address), None).name, container.task());
    sh(&format!("ip link set {peer} netns {task}"));
    let script = format!(
        "ip link set lo up; ip link set {peer} name eth0; ip addr add {address}/32 dev eth0; ip link set eth0 up; \
         ip route add 169.254.1.1 dev eth0; ip route add default via 169.254.1.1"
    );
    container.run(move || sh(&script));
}

async fn pair(world: &mut World, address: &str) -> Container {
    let (make, container) = (want_pair(world, address), Container::new());
    world.apply(make).await;
    move_in(&container, address);
    container
}

async fn a_runtime_moves_the_other_end_and_has_it_to_itself(mut world: World) {
    world.apply(HostAction::AddGateway).await;
    let make = want_pair(&mut world, A);
    world.apply(make.clone()).await;
    let seen = world.observe().await;
    assert_eq!(seen.links[&at(A)].faults, [""; 0], "it is whole before anybody has the other end");
    assert_eq!((seen.links[&at(A)].netns.as_ref(), seen.idle), (None, BTreeSet::from([at(A)])));
    let container = Container::new();
    move_in(&container, A);
    let b = pair(&mut world, B).await;
    let seen = world.observe().await;
    assert_eq!((seen.links[&at(A)].faults.len(), seen.idle), (0, BTreeSet::new()));
    let (from, to) = (container.udp(A), b.udp(B));
    assert!(crosses(&from, &to, 9001), "with packets as large as the MTU");
    container.sh("ip link set eth0 mtu 1400 name net7");
    container.sh("ip addr add 192.0.2.7/32 dev net7");
    assert_eq!(world.faults(A).await, [""; 0], "what is in there is its runtime's affair");
    world.apply(make).await;
    assert!(container.sh("ip link show net7").contains("mtu 1400"));

    sh(&format!("ip link set {} mtu 1400 down", link_name(at(A))));
    let faults = world.faults(A).await;
    assert!(faults.iter().any(|fault| fault.contains("down")), "{faults:?}");
    let again = want_pair(&mut world, A);
    world.apply(again).await;
    assert_eq!(world.faults(A).await, [""; 0]);
}

async fn a_link_whose_other_end_is_gone_is_made_anew(mut world: World) {
    let container = pair(&mut world, A).await;
    drop(container);
    // The kernel takes its time to clean up a namespace.
    for _ in 0..200 {
        if !sh("ip -br link").contains(&link_name(at(A))) {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    let seen = world.observe().await;
    assert_eq!(
        (seen.links.len(), seen.gone.len()),
        (0, 0),
        "only its runtime knows whether it is gone for good"
    );
    let make = want_pair(&mut world, A);
    world.apply(make).await;
    assert_eq!(world.faults(A).await, [""; 0]);
    world.apply(HostAction::DeleteLink(at(A))).await;
    assert!(!sh("ip -br link").contains("wp"), "both ends go");
}

fn prefix() -> Option<Prefix> {
    "fd00:1::/96".parse().ok()
}

type Mapping<'a> = (Option<&'a str>, u16, &'a str, u16);

fn ports(list: &[Mapping]) -> Ports {
    ports_of(list, None)
}

fn ports_of(list: &[Mapping], prefix: Option<Prefix>) -> Ports {
    let published = |&(host_ip, host, to, container): &Mapping| {
        let host_ip = host_ip.map(|ip| ip.parse().unwrap());
        Port { protocol: Protocol::Tcp, host_ip, host, container }.to(at(to), prefix)
    };
    list.iter().flat_map(published).collect()
}

async fn ports_are_read_back_as_they_were_loaded(mut world: World) {
    let many: Vec<_> = (0..300).map(|n| (None, 8000 + n, A, 80)).collect();
    let bound = [(Some("127.0.0.1"), 1, A, 80), (Some("10.0.1.11"), 1, B, 80), (None, 2, A, 80)];
    let both = [
        (None, 1, A, 80),
        (Some("fd00:7::c"), 2, A, 80),
        (Some("127.0.0.1"), 2, B, 80),
        (Some("::"), 3, B, 80),
    ];
    let all = [ports(&[(None, 8080, A, 80)]), ports_of(&both, prefix()), ports(&bound), ports(&many)];
    for wanted in all {
        world.wanted.ports = Some(wanted.clone());
        world.apply(HostAction::SetPorts(wanted.clone())).await;
        assert_eq!(world.observe().await.ports.as_ref(), Some(&wanted));
        // Another life of the program, which remembers nothing, sees it too.
        world.kernel = Kernel::new(Changes::default()).unwrap();
        assert_eq!(world.observe().await.ports.as_ref(), Some(&wanted));
    }
    sh("nft add rule inet weave-ports published drop");
    assert_eq!(world.observe().await.ports, Some(Ports::new()), "it is not what was loaded");
    world.wanted.ports = None;
    assert_eq!(
        world.observe().await.ports,
        Some(ports(&many)),
        "who has forgotten it learns what is published"
    );
    world.apply(HostAction::SetPorts(Ports::new())).await;
    assert_eq!(world.observe().await.ports, None);
    assert!(!sh("nft list tables").contains("weave-ports"));
}

/// What a server in the container, which says whom it has heard, says to a client.
fn ask(container: &Container, client: impl FnOnce(SocketAddr) -> String, to: &str) -> String {
    container.run(|| {
        let listener = TcpListener::bind("[::]:80").unwrap();
        thread::spawn(move || {
            let (mut stream, heard) = listener.accept().unwrap();
            // Before the client has heard all: the next server may have its place.
            drop(listener);
            stream.write_all(heard.ip().to_canonical().to_string().as_bytes()).unwrap();
        });
    });
    client(to.parse().unwrap())
}

fn dial(to: SocketAddr) -> String {
    let mut heard = String::new();
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(2));
    stream.and_then(|mut stream| stream.read_to_string(&mut heard)).map_or_else(|e| e.to_string(), |_| heard)
}

async fn a_port_leads_to_its_container_from_everywhere(mut world: World) {
    let router = Container::new();
    uplink(&router);
    world.load_rules(rules()).await;
    world.apply(HostAction::AddGateway).await;
    let (a, b) = (pair(&mut world, A).await, pair(&mut world, B).await);
    world.sysctl(&format!("net.ipv4.conf.{}.route_localnet", link_name(at(A))), "1").await;
    world.apply(HostAction::SetPorts(ports(&[(None, 8080, A, 80)]))).await;

    let outside = |to| router.run(move || dial(to));
    assert_eq!(ask(&a, outside, "10.0.1.12:8080"), "10.0.1.1", "from outside, and it sees who calls");
    assert_eq!(ask(&a, |to| b.run(move || dial(to)), "10.0.1.12:8080"), B, "from another container");
    let own = ask(&a, |to| a.run(move || dial(to)), "10.0.1.12:8080");
    assert!(own.parse::<std::net::Ipv4Addr>().is_ok(), "from itself: {own}");
    let host = ask(&a, dial, "10.0.1.12:8080");
    assert!(host.starts_with("10.0.1."), "from the host: {host}");
    let local = ask(&a, dial, "127.0.0.1:8080");
    assert!(local.starts_with("10.0.1."), "from the host by 127.0.0.1: {local}");
    assert_eq!(dial("127.0.0.1:8081".parse().unwrap()), "Connection refused (os error 111)");

    world.apply(HostAction::SetPorts(ports(&[(Some("127.0.0.1"), 8080, A, 80)]))).await;
    let refused = router.run(|| dial("10.0.1.12:8080".parse().unwrap()));
    assert_eq!(refused, "Connection refused (os error 111)", "at one address it is at no other");
    assert!(ask(&a, dial, "127.0.0.1:8080").starts_with("10.0.1."));
    drop(b);
}

async fn a_port_leads_to_the_ipv6_address_of_its_container_from_everywhere(mut world: World) {
    let router = Container::new();
    uplink(&router);
    sh("ip addr add fd00:7::c/64 dev eth0 nodad");
    router.sh("ip addr add fd00:7::1/64 dev vh1 nodad");
    world.load_rules(Rules { prefix: prefix(), ..rules() }).await;
    world.apply(HostAction::AddGateway).await;
    let (a, b) = (pair_of_both(&mut world, A).await, pair_of_both(&mut world, B).await);
    world.apply(HostAction::SetPorts(ports_of(&[(None, 8080, A, 80)], prefix()))).await;

    let (there, outside) = ("[fd00:7::c]:8080", |to| router.run(move || dial(to)));
    assert_eq!(ask(&a, outside, there), "fd00:7::1", "from outside, and it sees who calls");
    assert_eq!(ask(&a, outside, "10.0.1.12:8080"), "10.0.1.1", "and by IPv4");
    assert_eq!(ask(&a, |to| b.run(move || dial(to)), there), B6, "from another container");
    let own = ask(&a, |to| a.run(move || dial(to)), there);
    assert!(own.parse::<Ipv6Addr>().is_ok() && own != A6, "from itself: {own}");
    let host = ask(&a, dial, there);
    assert!(host.parse::<Ipv6Addr>().is_ok(), "from the host: {host}");
    let local = dial("[::1]:8080".parse().unwrap());
    assert_eq!(local, "Connection refused (os error 111)", "at ::1 the kernel leads nobody into a container");

    world.apply(HostAction::SetPorts(ports_of(&[(Some("::"), 8080, A, 80)], prefix()))).await;
    assert_eq!(ask(&a, outside, there), "fd00:7::1");
    let refused = router.run(|| dial("10.0.1.12:8080".parse().unwrap()));
    assert_eq!(
        refused, "Connection refused (os error 111)",
        "of one kind it is not at addresses of the other"
    );
}

async fn pair_of_both(world: &mut World, address: &str) -> Container {
    world.sysctl("net.ipv6.conf.all.forwarding", "1").await;
    let HostAction::MakePair { address: at, mtu, far, .. } = want_pair(world, address) else {
        unreachable!()
    };
    world.apply(HostAction::MakePair { address: at, mtu, prefix: prefix(), far }).await;
    let container = Container::new();
    move_in(&container, address);
    let address = prefix().unwrap().address(at);
    let script = format!(
        "ip addr add {address}/128 dev eth0 nodad; ip route add fe80::1 dev eth0; ip -6 route add default via fe80::1 dev eth0"
    );
    container.run(move || sh(&script));
    container
}
