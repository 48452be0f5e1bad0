//! Routes to what other hosts own, by their addresses.

use weavers::state::{FaultKind, Hop, HostAction, HostRoutes, Rules};

use crate::{
    stories,
    world::{Container, World, rules, sh},
};

stories![
    packets_for_another_host_are_handed_to_its_address,
    a_route_that_leads_elsewhere_is_replaced_and_one_of_others_is_left_alone,
    a_route_to_a_host_that_is_on_no_link_is_refused_with_the_reason,
    what_this_host_owns_is_never_led_away,
    addresses_are_told_with_the_networks_around_them,
    what_is_of_ipv6_is_handed_to_the_address_of_the_other_on_the_link,
    an_address_of_ipv6_on_a_link_is_told_once_nobody_else_has_it,
];

const BLOCK: &str = "10.40.0.0/13";

fn hop(host: &str) -> Hop {
    Hop::direct(host.parse().unwrap(), "eth0")
}

fn add(hop: Hop) -> HostAction {
    HostAction::AddHostRoute { destination: BLOCK.parse().unwrap(), hop }
}

fn only(hop: Hop) -> HostRoutes {
    [(BLOCK.parse().unwrap(), hop)].into()
}

/// A link on which others are.
fn uplink() {
    sh(
        "ip link add eth0 type veth peer name office; ip link set eth0 up; ip link set office up; ip addr add 192.168.7.11/24 dev eth0",
    );
}

async fn routes(world: &mut World) -> HostRoutes {
    (*world.observe().await.remote.routes).clone()
}

async fn packets_for_another_host_are_handed_to_its_address(mut world: World) {
    uplink();
    for _ in 0..2 {
        world.apply(add(hop("192.168.7.12"))).await;
    }
    assert_eq!(routes(&mut world).await, only(hop("192.168.7.12")));
    let way = sh("ip route get 10.41.0.7");
    assert!(way.contains("via 192.168.7.12 dev eth0"), "{way}");
    let container = Container::new();
    world.attach(&container, "10.32.1.2", 9000).await;
    let seen = world.observe().await;
    assert!(seen.foreign.is_empty(), "it is ours: {:?}", seen.foreign);
    for _ in 0..2 {
        let destination = BLOCK.parse().unwrap();
        world.apply(HostAction::DeleteHostRoute { destination, hop: hop("192.168.7.12") }).await;
    }
    assert_eq!(routes(&mut world).await, HostRoutes::new());
}

async fn a_route_that_leads_elsewhere_is_replaced_and_one_of_others_is_left_alone(mut world: World) {
    uplink();
    world.apply(add(hop("192.168.7.12"))).await;
    world.apply(add(hop("192.168.7.13"))).await;
    assert_eq!(routes(&mut world).await, only(hop("192.168.7.13")));
    let destination = BLOCK.parse().unwrap();
    let wrong = HostAction::DeleteHostRoute { destination, hop: hop("192.168.7.12") };
    world.apply(wrong).await;
    assert_eq!(
        routes(&mut world).await,
        only(hop("192.168.7.13")),
        "what led elsewhere is not there any more"
    );
    sh("ip route del 10.40.0.0/13; ip route add 10.40.0.0/13 via 192.168.7.14 metric 2048");
    let refused = world.refused(add(hop("192.168.7.13"))).await;
    assert!(refused.message.contains("10.40.0.0/13 has a route that is not ours"), "{refused}");
    assert_eq!(routes(&mut world).await, HostRoutes::new());
}

async fn a_route_to_a_host_that_is_on_no_link_is_refused_with_the_reason(mut world: World) {
    uplink();
    let refused = world.refused(add(hop("172.16.0.1"))).await;
    assert!(refused.message.contains("adding route"), "{refused}");
    let by = Hop { interface: "eth7".to_owned(), ..hop("192.168.7.12") };
    let refused = world.refused(add(by.clone())).await;
    assert_eq!(
        (refused.kind, refused.message.as_str()),
        (FaultKind::Outdated, "no interface of this host is named eth7")
    );
    let destination = BLOCK.parse().unwrap();
    world.apply(HostAction::DeleteHostRoute { destination, hop: by }).await;
}

async fn what_this_host_owns_is_never_led_away(mut world: World) {
    uplink();
    world.apply(add(hop("192.168.7.12"))).await;
    world.apply(HostAction::AddBlock(BLOCK.parse().unwrap())).await;
    let container = Container::new();
    world.attach(&container, "10.40.0.1", 9000).await;
    let way = sh("ip route get 10.40.0.1; ip route get 10.40.0.2 2>&1 || true");
    assert!(way.contains("dev wv0a280001") && way.contains("No route to host"), "{way}");
}

async fn what_is_of_ipv6_is_handed_to_the_address_of_the_other_on_the_link(mut world: World) {
    uplink();
    world.load_rules(Rules { prefix: "fd00:1::/96".parse().ok(), ..rules() }).await;
    let destination = "fd00:1::a28:0/109".parse().unwrap();
    let lead = |host| HostAction::AddHostRoute { destination, hop: hop(host) };
    for host in ["fe80::12", "fe80::12", "fe80::13"] {
        world.apply(lead(host)).await;
        let seen = world.observe().await;
        assert_eq!(*seen.remote.routes, [(destination, hop(host))].into());
        assert!(seen.foreign.is_empty(), "it is ours: {:?}", seen.foreign);
    }
    let way = sh("ip -6 route get fd00:1::a29:7");
    assert!(way.contains("via fe80::13 dev eth0"), "{way}");
    world.apply(HostAction::AddBlock(destination)).await;
    let refused = sh("ip -6 route get fd00:1::a29:7 2>&1 || true");
    assert!(refused.contains("unreachable") || refused.contains("No route"), "it is owned here: {refused}");
    world.apply(HostAction::DeleteBlock(destination)).await;
    world.apply(HostAction::DeleteHostRoute { destination, hop: hop("fe80::12") }).await;
    assert_eq!(routes(&mut world).await.len(), 1, "what led elsewhere is not there any more");
    for _ in 0..2 {
        world.apply(HostAction::DeleteHostRoute { destination, hop: hop("fe80::13") }).await;
    }
    assert_eq!(routes(&mut world).await, HostRoutes::new());
}

async fn an_address_of_ipv6_on_a_link_is_told_once_nobody_else_has_it(mut world: World) {
    uplink();
    sh(
        "ip -6 addr flush dev eth0; ip addr add fe80::7/64 dev eth0 nodad; ip addr add fd00:9::1/64 dev eth0 nodad",
    );
    let links6 = world.observe().await.remote.links6;
    assert_eq!(links6, [("eth0".to_owned(), "fe80::7".parse().unwrap())].into());
    sh(
        "ip addr del fe80::7/64 dev eth0; echo 100 >/proc/sys/net/ipv6/conf/eth0/dad_transmits; ip addr add fe80::8/64 dev eth0",
    );
    assert!(world.observe().await.remote.links6.is_empty(), "nobody knows yet");
}

async fn addresses_are_told_with_the_networks_around_them(mut world: World) {
    uplink();
    sh("ip addr add 169.254.7.7/16 dev eth0; ip addr add 10.9.0.1/16 dev eth0");
    let networks = world.observe().await.remote.networks;
    let expected = [("10.9.0.1/16", "eth0"), ("192.168.7.11/24", "eth0"), ("10.0.1.11/32", "lo")];
    let expected = expected.map(|(net, link)| (net.parse().unwrap(), link.to_owned()));
    assert_eq!(networks, expected.into());
    sh("ip link set eth0 down");
    assert!(!world.observe().await.remote.networks.values().any(|link| link == "eth0"));
}
