//! What the kernel would do with packets of containers, whatever was written.

use std::net::UdpSocket;

use weavers::state::{Fate, Host, Loss, Packet, Rules};

use crate::{
    stories,
    world::{Container, World, at, rules, sh, udp},
};

stories![
    packets_for_other_hosts_go_by_the_router_and_come_in_by_it,
    a_default_route_in_a_table_of_its_own_leads_to_an_uplink,
    a_default_route_by_a_nexthop_object_leads_to_an_uplink,
    a_default_route_that_is_not_used_makes_no_uplink,
    a_range_that_is_led_by_another_interface_makes_that_an_uplink,
    a_vpn_that_covers_the_range_takes_its_packets_and_is_no_uplink,
    an_unreachable_route_that_covers_the_range_loses_its_packets,
    a_policy_rule_loses_packets_of_containers_alone,
    an_uplink_that_does_not_forward_loses_what_comes_in,
    an_uplink_with_a_strict_reverse_path_loses_what_comes_by_another_way,
    without_a_default_route_packets_are_lost_and_a_restart_settles,
    what_leaves_by_a_second_interface_is_masqueraded,
    a_policy_rule_of_a_second_interface_keeps_answers_from_containers,
];

const A: &str = "10.32.1.2";
const OTHER: &str = "10.40.0.1";

/// A host with an uplink, a container, and another host's range beyond.
async fn at_work(world: &mut World) -> Container {
    sh("ip link add eth0 mtu 9001 type veth peer name far0; ip link set eth0 up; ip link set far0 up");
    sh("ip addr add 10.0.1.12/24 dev eth0; ip route add default via 10.0.1.1");
    let container = Container::new();
    world.wanted.remote.asked.insert(at(OTHER));
    world.wanted.rules = Some(rules());
    world.attach(&container, A, 1500).await;
    container
}

fn fate(seen: &Host, packet: &Packet) -> Fate {
    let path = seen.paths.iter().find(|path| path.packet == *packet);
    path.unwrap_or_else(|| panic!("{packet:?} was not asked about: {:?}", seen.paths)).fate.clone()
}

fn route(seen: &Host, packet: &Packet) -> String {
    let path = seen.paths.iter().find(|path| path.packet == *packet);
    path.and_then(|path| path.route.clone()).unwrap_or_default()
}

fn out() -> Packet {
    Packet::ToOther(at(OTHER))
}

fn comes_in() -> Packet {
    Packet::ToContainer { address: at(A), uplink: "eth0".into() }
}

fn by(interface: &str, gateway: &str) -> Fate {
    Fate::Leaves { interface: interface.into(), gateway: gateway.parse().ok() }
}

fn uplinks(seen: &Host) -> Vec<(&str, u32)> {
    seen.uplinks.iter().map(|(name, mtu)| (name.as_str(), *mtu)).collect()
}

async fn packets_for_other_hosts_go_by_the_router_and_come_in_by_it(mut world: World) {
    let _container = at_work(&mut world).await;
    let seen = world.observe().await;
    assert_eq!(fate(&seen, &out()), by("eth0", "10.0.1.1"));
    assert_eq!(route(&seen, &out()), "0.0.0.0/0 dev eth0");
    assert_eq!(fate(&seen, &Packet::Outside), by("eth0", "10.0.1.1"));
    assert_eq!(fate(&seen, &comes_in()), by("wv0a200102", ""));
    let answers = Packet::FromHost { from: "10.0.1.12".parse().unwrap(), to: at(A) };
    assert_eq!(fate(&seen, &answers), by("wv0a200102", ""));
    assert_eq!(uplinks(&seen), [("eth0", 9001)]);
    // Before there is a container the host itself is asked.
    world.wanted.links_mut().clear();
    assert_eq!(fate(&world.observe().await, &out()), by("eth0", "10.0.1.1"));
}

async fn a_default_route_in_a_table_of_its_own_leads_to_an_uplink(mut world: World) {
    let _container = at_work(&mut world).await;
    sh("ip route del default; ip route add default via 10.0.1.1 dev eth0 table 10001");
    sh("ip rule add lookup 10001 pref 32900");
    let seen = world.observe().await;
    assert_eq!(uplinks(&seen), [("eth0", 9001)]);
    assert_eq!(fate(&seen, &out()), by("eth0", "10.0.1.1"));
    assert_eq!(route(&seen, &out()), "0.0.0.0/0 dev eth0 table 10001");
}

async fn a_default_route_by_a_nexthop_object_leads_to_an_uplink(mut world: World) {
    let _container = at_work(&mut world).await;
    sh("ip route del default; ip nexthop add id 1 via 10.0.1.1 dev eth0; ip route add default nhid 1");
    sh("ip route add 10.33.0.0/24 nhid 1; echo 0 > /proc/sys/net/ipv4/nexthop_compat_mode");
    let seen = world.observe().await;
    assert_eq!(uplinks(&seen), [("eth0", 9001)]);
    assert_eq!(fate(&seen, &out()), by("eth0", "10.0.1.1"));
    let foreign = seen.foreign.values().next().cloned().unwrap_or_default();
    assert!(foreign.ends_with("nhid 1"), "{foreign}");
}

async fn a_default_route_that_is_not_used_makes_no_uplink(mut world: World) {
    let _container = at_work(&mut world).await;
    sh("ip link add eth1 mtu 1400 type veth peer name far1; ip link set eth1 up; ip link set far1 up");
    sh("ip addr add 10.0.2.12/24 dev eth1; ip route add default via 10.0.2.1 metric 500");
    assert_eq!(uplinks(&world.observe().await), [("eth0", 9001)]);
}

async fn a_range_that_is_led_by_another_interface_makes_that_an_uplink(mut world: World) {
    let _container = at_work(&mut world).await;
    sh("ip link add eth1 mtu 1400 type veth peer name far1; ip link set eth1 up; ip link set far1 up");
    sh("ip addr add 10.0.2.12/24 dev eth1; ip route add 10.32.0.0/12 via 10.0.2.1");
    let seen = world.observe().await;
    assert_eq!(seen.foreign, [].into(), "it is in the way of no address");
    assert_eq!(uplinks(&seen), [("eth0", 9001), ("eth1", 1400)]);
    assert_eq!(fate(&seen, &out()), by("eth1", "10.0.2.1"));
}

async fn a_vpn_that_covers_the_range_takes_its_packets_and_is_no_uplink(mut world: World) {
    let _container = at_work(&mut world).await;
    sh(
        "ip link add vpn0 type veth peer name vpn1; ip link set vpn1 up; ip link set vpn0 arp off up; ip route add 10.0.0.0/8 dev vpn0",
    );
    let seen = world.observe().await;
    assert_eq!(uplinks(&seen), [("eth0", 9001)]);
    assert_eq!(fate(&seen, &out()), by("vpn0", ""));
    assert_eq!(route(&seen, &out()), "10.0.0.0/8 dev vpn0");
    // One that takes everything: the way into the VPC is beneath it.
    sh("ip route del 10.0.0.0/8; ip route add 0.0.0.0/1 dev vpn0; ip route add 128.0.0.0/1 dev vpn0");
    let seen = world.observe().await;
    assert_eq!(uplinks(&seen), [("eth0", 9001)]);
    assert_eq!(fate(&seen, &out()), by("vpn0", ""));
}

async fn an_unreachable_route_that_covers_the_range_loses_its_packets(mut world: World) {
    let _container = at_work(&mut world).await;
    for (kind, loss) in
        [("unreachable", Loss::Unreachable), ("prohibit", Loss::Prohibited), ("blackhole", Loss::Blackhole)]
    {
        sh(&format!("ip route add {kind} 10.0.0.0/8"));
        let seen = world.observe().await;
        assert_eq!(fate(&seen, &out()), Fate::Lost(loss.clone()), "{kind}");
        assert_eq!(route(&seen, &out()), format!("{kind} 10.0.0.0/8"));
        world.wanted.links_mut().clear();
        assert_eq!(fate(&world.observe().await, &out()), Fate::Lost(loss), "{kind}, asked as the host's own");
        let container = Container::new();
        world.attach(&container, A, 1500).await;
        sh(&format!("ip route del {kind} 10.0.0.0/8"));
    }
}

async fn a_policy_rule_loses_packets_of_containers_alone(mut world: World) {
    let _container = at_work(&mut world).await;
    sh("ip rule add iif wv0a200102 prohibit pref 100");
    assert_eq!(fate(&world.observe().await, &out()), Fate::Lost(Loss::Prohibited));
    sh("ip rule del pref 100");
    assert_eq!(fate(&world.observe().await, &out()), by("eth0", "10.0.1.1"));
}

async fn an_uplink_that_does_not_forward_loses_what_comes_in(mut world: World) {
    let _container = at_work(&mut world).await;
    sh("echo 0 > /proc/sys/net/ipv4/conf/eth0/forwarding");
    let seen = world.observe().await;
    assert_eq!(fate(&seen, &comes_in()), Fate::Lost(Loss::NotForwarded("eth0".into())));
    assert_eq!(fate(&seen, &out()), by("eth0", "10.0.1.1"));
    world.sysctl("net.ipv4.conf.eth0.forwarding", "1").await;
    assert_eq!(fate(&world.observe().await, &comes_in()), by("wv0a200102", ""));
}

/// A rule leads answers elsewhere than to where the question came in.
async fn an_uplink_with_a_strict_reverse_path_loses_what_comes_by_another_way(mut world: World) {
    let _container = at_work(&mut world).await;
    sh("ip link add eth1 type veth peer name far1; ip link set eth1 up; ip link set far1 up");
    sh("ip addr add 10.0.2.12/24 dev eth1; ip route add default via 10.0.2.1 table 100");
    sh("ip rule add iif wv0a200102 lookup 100 pref 100");
    sh("echo 1 > /proc/sys/net/ipv4/conf/eth0/rp_filter");
    let lost = Fate::Lost(Loss::ReversePath("eth0".into()));
    assert_eq!(fate(&world.observe().await, &comes_in()), lost);
    sh("echo 2 > /proc/sys/net/ipv4/conf/eth0/rp_filter");
    assert_eq!(fate(&world.observe().await, &comes_in()), by("wv0a200102", ""));
}

async fn without_a_default_route_packets_are_lost_and_a_restart_settles(mut world: World) {
    let _container = at_work(&mut world).await;
    world.load_rules(Rules { block_metadata: false, ..rules() }).await;
    sh("ip route del default");
    let seen = world.observe().await;
    assert_eq!(fate(&seen, &out()), Fate::Lost(Loss::NoRoute));
    assert_eq!(fate(&seen, &Packet::Outside), Fate::Lost(Loss::NoRoute));
    assert_eq!(uplinks(&seen), []);
    // A daemon that starts now knows no uplink, and wants the rules to be as they are.
    world.kernel = weavers::kernel::Kernel::new(weavers::kernel::watch::Changes::default()).unwrap();
    world.wanted.rules = None;
    let mut looks = 0;
    loop {
        let rules = world.observe().await.rules;
        looks += 1;
        if rules == world.wanted.rules {
            break;
        }
        assert!(looks < 5, "it looks without end");
        world.wanted.rules = rules;
    }
    assert!(world.wanted.rules.is_some(), "what is there stays");
}

/// The other side of a second interface, as `eth1` sees it.
fn neighbour() -> (Container, UdpSocket) {
    let router = Container::new();
    let path = router.netns.path.to_string_lossy().replace("/ns/net", "");
    let task = path.rsplit_once('/').unwrap().1.to_owned();
    sh(&format!("ip link add eth1 type veth peer name vh1 netns {task}; ip link set eth1 up"));
    sh("ip addr add 10.0.2.12/24 dev eth1");
    router.sh("ip link set vh1 up; ip addr add 10.0.2.7/24 dev vh1");
    let socket = router.udp("10.0.2.7");
    (router, socket)
}

async fn what_leaves_by_a_second_interface_is_masqueraded(mut world: World) {
    let container = at_work(&mut world).await;
    let (_router, outside) = neighbour();
    world.load_rules(rules()).await;
    let inside = container.udp(A);
    inside.send_to(b"hello", outside.local_addr().unwrap()).unwrap();
    let (_, source) = outside.recv_from(&mut [0; 8]).unwrap();
    assert_eq!(source.ip().to_string(), "10.0.2.12", "nobody there knows the way back to a container");
    outside.send_to(b"hello", source).unwrap();
    assert_eq!(inside.recv_from(&mut [0; 8]).unwrap().1, outside.local_addr().unwrap());
}

async fn a_policy_rule_of_a_second_interface_keeps_answers_from_containers(mut world: World) {
    let container = at_work(&mut world).await;
    let (_router, _) = neighbour();
    let (inside, service) = (container.udp(A), udp("10.0.2.12"));
    let answers = || {
        inside.send_to(b"hello", service.local_addr().unwrap()).unwrap();
        // What it cannot answer is not believed: the reverse path is strict where containers are.
        let asked = service.recv_from(&mut [0; 8]);
        asked.is_ok_and(|(_, client)| service.send_to(b"hello", client).is_ok())
            && inside.recv_from(&mut [0; 8]).is_ok()
    };
    assert!(answers());
    sh("ip rule add from 10.0.2.12 lookup 10001 pref 1000; ip route add default via 10.0.2.1 table 10001");
    assert!(!answers());
    let packet = Packet::FromHost { from: "10.0.2.12".parse().unwrap(), to: at(A) };
    assert_eq!(fate(&world.observe().await, &packet), by("eth1", "10.0.2.1"));
    // What `doctor` says to type.
    sh("ip rule add to 10.32.0.0/12 lookup main suppress_prefixlength 0 priority 100");
    assert_eq!(fate(&world.observe().await, &packet), by("wv0a200102", ""));
    assert!(answers());
}
