//! Container links and the routes to them.

use std::{
    io::ErrorKind,
    net::TcpStream,
    process::{Child, Command},
    time::Duration,
};

use weavers::{
    kernel::{netns, target, ways},
    state::{Far, FaultKind, HostAction, Link, Netns},
};

use crate::{
    stories,
    world::{Container, PATIENCE, World, at, create, create_as, crosses, mend, range, sh, udp},
};

stories![
    two_containers_of_a_host_reach_each_other_and_the_host,
    a_fresh_link_has_no_fault_and_making_it_again_changes_nothing,
    the_namespace_that_came_last_is_the_first_that_the_kernel_finds,
    every_broken_piece_is_named_and_mended,
    a_changed_mtu_is_applied_to_both_ends_in_place,
    what_others_set_on_the_far_end_is_theirs,
    a_container_whose_mac_is_set_goes_on_at_once,
    a_container_whose_link_goes_down_and_up_goes_on_once_its_routes_are_back,
    the_gateway_s_address_comes_and_goes,
    a_far_end_has_the_name_and_the_mac_that_are_asked_for,
    a_container_with_two_links_of_ours_is_reached_by_both,
    a_free_address_of_ours_answers_at_once,
    a_block_of_one_address_leaves_room_for_its_container,
    a_forged_source_goes_nowhere,
    a_container_with_a_default_route_keeps_it,
    a_container_that_answers_by_another_interface_is_reached,
    an_ethwe_of_somebody_else_is_left_alone,
    a_route_of_somebody_else_is_reported_and_left_alone,
    what_is_deleted_leaves_nothing,
    links_that_go_together_are_found_by_nobody_once_that_is_said_and_can_be_made_again,
    a_namespace_that_is_gone_takes_its_link_along,
    a_path_that_leads_elsewhere_is_not_followed,
    a_namespace_is_found_by_its_bind_mount,
    a_container_whose_first_process_has_ended_is_found_by_another,
    a_link_into_the_wrong_namespace_is_made_anew,
    a_link_that_is_not_wanted_is_seen,
    the_uplink_is_where_the_default_route_leads,
];

const A: &str = "10.32.1.2";
const B: &str = "10.32.1.3";

async fn two_containers_of_a_host_reach_each_other_and_the_host(mut world: World) {
    let (one, other) = (Container::new(), Container::new());
    world.attach(&one, A, 9000).await;
    world.attach(&other, B, 9000).await;
    let (a, b, host) = (one.udp(A), other.udp(B), udp("10.0.1.11"));
    assert!(crosses(&a, &b, 9000), "a packet as large as the MTU, in one piece");
    assert!(!crosses(&a, &b, 9001));
    assert!(crosses(&b, &a, 100));
    assert!(crosses(&host, &a, 100));
    assert!(crosses(&a, &host, 100));
    let asked = one.sh("ip -4 neigh show nud reachable nud stale nud delay nud incomplete");
    assert_eq!(asked, "", "nobody asks for a MAC address");
}

async fn a_fresh_link_has_no_fault_and_making_it_again_changes_nothing(mut world: World) {
    let container = Container::new();
    world.attach(&container, A, 9000).await;
    let before = sh("ip -d link; ip route; ip neigh");
    for end in [sh("ip -d link show dev wv0a200102"), container.sh("ip -d link show dev ethwe")] {
        assert!(
            end.contains("numtxqueues 1 numrxqueues 1 "),
            "the kernel waits for whoever uses others: {end}"
        );
    }
    let seen = world.observe().await;
    assert_eq!(seen.links, world.wanted.links);
    world.apply(create(&container, A, 9000)).await;
    world.apply(mend(&container, A, 9000)).await;
    assert_eq!(sh("ip -d link; ip route; ip neigh"), before);
    assert!(before.contains("02:67:a9:fe:01:01"));
    assert!(container.sh("ip addr show dev ethwe").contains("02:67:0a:20:01:02"));
}

async fn the_namespace_that_came_last_is_the_first_that_the_kernel_finds(mut world: World) {
    let least = || {
        let numbers = sh("ip netns list-id | grep -o 'nsid [0-9]*' | cut -d' ' -f2");
        numbers.lines().map(|number| number.parse::<u32>().unwrap()).min()
    };
    let (former, later) = (Container::new(), Container::new());
    world.attach(&former, A, 9000).await;
    let before = least();
    world.attach(&later, B, 9000).await;
    assert!(before.is_some() && least() < before, "{before:?} {:?}", least());
}

async fn every_broken_piece_is_named_and_mended(mut world: World) {
    let container = Container::new();
    world.attach(&container, A, 9000).await;
    let host = [
        ("ip link set wv0a200102 mtu 1500", "mtu of the host end is 1500"),
        ("ip link set wv0a200102 down", "host end down"),
        ("ip link set wv0a200102 address 02:00:00:00:00:01", "mac of the host end is 02:00:00:00:00:01"),
        ("ip route del 10.32.1.2", "host route missing"),
        ("ip neigh del 10.32.1.2 dev wv0a200102", "host neighbour missing"),
        (
            "ip neigh replace 10.32.1.2 lladdr 02:00:00:00:00:01 dev wv0a200102",
            "mac of the far end is 02:67:0a:20:01:02, which the host does not know",
        ),
        ("echo 0 > /proc/sys/net/ipv4/conf/wv0a200102/rp_filter", "rp_filter is 0"),
        ("echo 0 > /proc/sys/net/ipv4/conf/wv0a200102/forwarding", "forwarding is 0"),
        (
            "ip addr add 192.0.2.7/24 dev wv0a200102",
            "address 192.0.2.7/24 on the host end, which is to have none",
        ),
        ("ip link set wv0a200102 alias ''", "alias of the host end missing"),
    ];
    let inside = [
        ("ip link set ethwe mtu 9100", "mtu of the far end is 9100"),
        ("ip link set ethwe down", "far end down"),
        ("ip link set lo down", "lo down"),
        ("ip addr flush dev ethwe", "address missing"),
        ("ip addr del 10.32.1.2/12 dev ethwe; ip addr add 10.32.1.2/12 dev ethwe", "address missing"),
        ("ip addr del 10.32.1.2/12 dev ethwe; ip addr add 10.32.1.2/24 dev ethwe", "address missing"),
        ("ip neigh del 169.254.1.1 dev ethwe", "neighbour of the far end missing"),
        ("ip route del 10.32.0.0/12", "range route missing"),
        ("ip route change 10.32.0.0/12 via 169.254.1.1 dev ethwe onlink proto 67", "range route missing"),
        ("ip route del default", "default route missing"),
        (
            "ip route add 10.64.0.0/12 via 169.254.1.1 dev ethwe onlink proto 67",
            "route 10.64.0.0/12 of the far end is stale",
        ),
        ("ip link del ethwe", ""),
    ];
    let host = host.map(|(broken, fault)| (true, broken, fault));
    for (here, broken, fault) in host.into_iter().chain(inside.map(|(broken, fault)| (false, broken, fault)))
    {
        if here {
            sh(broken)
        } else {
            container.sh(broken)
        };
        let seen = world.observe().await.links;
        match seen.get(&at(A)) {
            Some(link) => assert!(link.faults.contains(&fault.to_owned()), "{broken}: {:?}", link.faults),
            None => assert_eq!(fault, "", "{broken}: the link is gone"),
        }
        world.apply(mend(&container, A, 9000)).await;
        assert_eq!(world.observe().await.links, world.wanted.links, "{broken}");
        assert!(crosses(&udp("10.0.1.11"), &container.udp(A), 9000), "{broken}");
    }
}

async fn a_changed_mtu_is_applied_to_both_ends_in_place(mut world: World) {
    let container = Container::new();
    world.attach(&container, A, 1376).await;
    let held = container.udp(A);
    world.want(&container, A, 9000);
    assert_eq!(world.faults(A).await, ["mtu of the host end is 1376", "mtu of the far end is 1376"]);
    world.apply(mend(&container, A, 9000)).await;
    assert_eq!(world.observe().await.links, world.wanted.links);
    assert!(crosses(&udp("10.0.1.11"), &held, 9000), "a socket of before the change goes on");
}

async fn what_others_set_on_the_far_end_is_theirs(mut world: World) {
    let container = Container::new();
    world.attach(&container, A, 9000).await;
    container.sh("ip link set ethwe mtu 1400 address 02:00:00:00:00:01; echo 1 > /proc/sys/net/ipv4/conf/ethwe/rp_filter");
    assert_eq!(world.faults(A).await, ["neighbour of the far end missing"], "the kernel dropped it");
    world.apply(mend(&container, A, 9000)).await;
    let link = container.sh("ip link show dev ethwe; cat /proc/sys/net/ipv4/conf/ethwe/rp_filter");
    assert!(
        link.contains("mtu 1400") && link.contains("02:00:00:00:00:01") && link.ends_with("\n1\n"),
        "{link}"
    );
    assert!(crosses(&udp("10.0.1.11"), &container.udp(A), 1400));
}

async fn a_container_whose_mac_is_set_goes_on_at_once(mut world: World) {
    let container = Container::new();
    world.apply(HostAction::AddGateway).await;
    world.attach(&container, A, 9000).await;
    let (host, inside) = (udp("10.0.1.11"), container.udp(A));
    assert!(crosses(&host, &inside, 9000));
    // The very one that it has, another, and the first again. Each time the kernel forgets what is permanent.
    for set in [
        "ip link set ethwe address 02:67:0a:20:01:02",
        "ip link set ethwe address 02:00:00:00:00:01",
        "ip link set ethwe address 02:67:0a:20:01:02",
    ] {
        container.sh(set);
        assert_eq!(container.sh("ip neigh show nud permanent"), "", "{set}");
        assert!(crosses(&host, &inside, 9000), "{set}: it is reached");
        assert!(crosses(&inside, &host, 9000), "{set}: it reaches");
    }
    world.apply(mend(&container, A, 9000)).await;
    assert_ne!(container.sh("ip neigh show nud permanent"), "", "nobody need ask any more");
}

async fn a_container_whose_link_goes_down_and_up_goes_on_once_its_routes_are_back(mut world: World) {
    let container = Container::new();
    world.apply(HostAction::AddGateway).await;
    world.attach(&container, A, 9000).await;
    let (host, inside) = (udp("10.0.1.11"), container.udp(A));
    container.sh("ip link set ethwe down; ip link set ethwe up");
    assert!(!crosses(&inside, &host, 9000), "its routes are gone");
    container.sh("ip route add default via 169.254.1.1 dev ethwe onlink");
    tokio::time::sleep(PATIENCE).await;
    assert!(crosses(&inside, &host, 9000), "whoever puts them back, it asks for the gateway and is answered");
    assert!(crosses(&host, &inside, 9000));
    container.sh("ip route del default; ip link set ethwe down; ip link set ethwe up");
    assert!(world.faults(A).await.contains(&"range route missing".to_owned()));
    world.apply(mend(&container, A, 9000)).await;
    assert_eq!(world.observe().await.links, world.wanted.links);
    assert!(crosses(&inside, &host, 9000) && crosses(&host, &inside, 9000));
}

async fn a_far_end_has_the_name_and_the_mac_that_are_asked_for(mut world: World) {
    let container = Container::new();
    let far = Far { name: "eth0".to_owned(), mac: Some("02:00:00:00:00:07".parse().unwrap()), moved: false };
    world.want(&container, A, 9000);
    world.wanted.link_mut(at(A)).unwrap().far = far.clone();
    world.apply(create_as(&far, &container, A, 9000)).await;
    assert_eq!(world.observe().await.links, world.wanted.links);
    assert!(container.sh("ip link show dev eth0").contains("02:00:00:00:00:07"));
    assert!(crosses(&udp("10.0.1.11"), &container.udp(A), 9000), "the host finds it by that");
    assert_eq!(target::link_into(&container.netns, "ethwe"), None);
}

async fn a_container_with_two_links_of_ours_is_reached_by_both(mut world: World) {
    let container = Container::new();
    for (address, name) in [(A, "eth0"), (B, "net1")] {
        let far = Far { name: name.to_owned(), mac: None, moved: false };
        world.want(&container, address, 9000);
        world.wanted.link_mut(at(address)).unwrap().far = far.clone();
        world.apply(create_as(&far, &container, address, 9000)).await;
        assert_eq!(target::link_into(&container.netns, name), Some(at(address)));
    }
    assert_eq!(world.observe().await.links, world.wanted.links);
    for address in [A, B] {
        let (host, inside) = (udp("10.0.1.11"), container.udp(address));
        assert!(crosses(&host, &inside, 9000), "{address} is reached");
        assert!(crosses(&inside, &host, 9000), "{address} answers");
    }
}

async fn the_gateway_s_address_comes_and_goes(mut world: World) {
    let source = "ip -o route get 192.0.2.1 | grep -o 'src [0-9.]*'";
    sh(
        "ip link add eth0 type veth peer name vpc; ip link set eth0 up; ip link set vpc up; ip route add default dev eth0",
    );
    let before = sh(source);
    for there in [true, false] {
        for _ in 0..2 {
            world.apply(if there { HostAction::AddGateway } else { HostAction::DeleteGateway }).await;
        }
        assert_eq!(world.observe().await.gateway, there);
        assert_eq!(sh(source), before, "nothing leaves this host under it");
    }
}

async fn a_free_address_of_ours_answers_at_once(mut world: World) {
    let container = Container::new();
    world.attach(&container, A, 9000).await;
    world.wanted.blocks = ["10.32.1.0/24".parse().unwrap()].into();
    for _ in 0..2 {
        world.apply(HostAction::AddBlock("10.32.1.0/24".parse().unwrap())).await;
    }
    assert_eq!(world.observe().await.blocks, world.wanted.blocks);
    let error = container
        .run(|| TcpStream::connect_timeout(&"10.32.1.77:80".parse().unwrap(), PATIENCE).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::HostUnreachable, "{error}");
    for _ in 0..2 {
        world.apply(HostAction::DeleteBlock("10.32.1.0/24".parse().unwrap())).await;
    }
    assert!(world.observe().await.blocks.is_empty());
}

async fn a_block_of_one_address_leaves_room_for_its_container(mut world: World) {
    let container = Container::new();
    let block = "10.32.1.2/32".parse().unwrap();
    world.apply(HostAction::AddBlock(block)).await;
    world.attach(&container, A, 9000).await;
    assert!(crosses(&udp("10.0.1.11"), &container.udp(A), 100));
    assert_eq!(world.faults(A).await, [""; 0]);
    world.apply(HostAction::DeleteBlock(block)).await;
    assert!(world.observe().await.blocks.is_empty());
    assert_eq!(world.faults(A).await, [""; 0], "the route to the container stays");
}

async fn a_forged_source_goes_nowhere(mut world: World) {
    let (one, other) = (Container::new(), Container::new());
    world.attach(&one, A, 9000).await;
    world.attach(&other, B, 9000).await;
    one.sh("ip addr add 10.32.1.99/32 dev ethwe");
    sh(
        "ip link add eth0 type veth peer name vpc; ip link set eth0 up; ip link set vpc up; ip route add default dev eth0",
    );
    let (forger, honest, victim) = (one.udp("10.32.1.99"), one.udp(A), other.udp(B));
    assert!(!crosses(&forger, &victim, 100));
    assert!(crosses(&honest, &victim, 100));

    // The looser of an interface's setting and that of `all` counts, and Ubuntu sets `all` to 2. On an
    // interface without an address, as a host end is, 2 is as strict.
    world.sysctl("net.ipv4.conf.all.rp_filter", "2").await;
    assert!(!crosses(&forger, &victim, 100));
    assert!(crosses(&honest, &victim, 100));
    world.sysctl("net.ipv4.conf.all.rp_filter", "0").await;
    sh("echo 0 > /proc/sys/net/ipv4/conf/wv0a200102/rp_filter");
    assert!(crosses(&forger, &victim, 100), "it is this setting that stops it");
}

async fn a_container_with_a_default_route_keeps_it(mut world: World) {
    let container = Container::new();
    container.sh("ip link add d0 type veth peer name d1; ip link set d0 up; ip addr add 172.17.0.2/16 dev d0; ip route add default via 172.17.0.1");
    world.attach(&container, A, 9000).await;
    assert!(container.sh("ip route show default").starts_with("default via 172.17.0.1 dev d0"));
    assert_eq!(world.faults(A).await, [""; 0]);
    assert!(
        crosses(&udp("10.0.1.11"), &container.udp(A), 100)
            || container.sh("ip route").contains("10.32.0.0/12")
    );
}

async fn a_container_that_answers_by_another_interface_is_reached(mut world: World) {
    let container = Container::new();
    container.sh(
        "echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter; echo 1 > /proc/sys/net/ipv4/conf/default/rp_filter",
    );
    container.sh("ip link add eth0 type veth peer name away; ip link set away up; ip link set eth0 up; ip addr add 172.17.0.2/16 dev eth0; ip route add default via 172.17.0.1");
    world.attach(&container, A, 9000).await;
    assert!(world.faults(A).await.is_empty());
    assert!(crosses(&udp("10.0.1.11"), &container.udp(A), 100), "its way back is not the way that it came");
}

async fn an_ethwe_of_somebody_else_is_left_alone(mut world: World) {
    let container = Container::new();
    container.sh("ip link add ethwe type veth peer name other");
    let fault = world.refused(create(&container, A, 9000)).await;
    assert_eq!(fault.kind, FaultKind::Invalid);
    assert!(fault.message.contains("ethwe") && fault.hint.is_some(), "{fault}");
    container.sh("ip link show other");
    assert!(world.observe().await.links.is_empty());

    let attached = Container::new();
    world.attach(&attached, A, 9000).await;
    let fault = world.refused(create(&attached, B, 9000)).await;
    assert_eq!(fault.kind, FaultKind::Outdated, "the link of before may be on its way out");
    assert!(fault.message.contains(A), "{fault}");
    world.apply(HostAction::DeleteLink(at(A))).await;
    world.attach(&attached, B, 9000).await;
}

async fn a_route_of_somebody_else_is_reported_and_left_alone(mut world: World) {
    let container = Container::new();
    sh("ip link add d0 type veth peer name d1; ip link set d0 up; ip link set d1 up");
    sh(
        "ip route add 10.32.1.2/32 dev d0; ip route add unreachable 10.40.0.0/16; ip route add 10.99.0.0/16 dev d0",
    );
    world.wanted.rules = Some(crate::world::rules());
    let foreign = world.observe().await.foreign;
    assert_eq!(foreign.keys().map(ToString::to_string).collect::<Vec<_>>(), ["10.32.1.2/32", "10.40.0.0/16"]);
    assert!(foreign.values().next().unwrap().ends_with("dev d0"), "{foreign:?}");
    let fault = world.refused(create(&container, A, 9000)).await;
    assert!(fault.message.contains("10.32.1.2/32"), "{fault}");
    world.apply(HostAction::DeleteBlock("10.40.0.0/16".parse().unwrap())).await;
    assert_eq!(world.observe().await.foreign, foreign);
}

async fn what_is_deleted_leaves_nothing(mut world: World) {
    let looks = "ip link; ip addr; ip route show table all; ip neigh; nft list ruleset";
    sh("ip link add eth0 type bridge");
    let container = Container::new();
    let (here, inside) = (sh(looks), container.sh("ip link set lo up; ip link; ip route"));
    let block = "10.32.1.0/24".parse().unwrap();
    world.load_rules(crate::world::rules()).await;
    world.apply(HostAction::AddBlock(block)).await;
    world.attach(&container, A, 9000).await;
    for _ in 0..2 {
        world.apply(HostAction::DeleteLink(at(A))).await;
        world.apply(HostAction::DeleteBlock(block)).await;
        world.apply(HostAction::CloseForward).await;
        world.apply(HostAction::DeleteRules).await;
    }
    assert_eq!(sh(looks), here);
    assert_eq!(container.sh("ip link; ip route"), inside);
}

async fn links_that_go_together_are_found_by_nobody_once_that_is_said_and_can_be_made_again(
    mut world: World,
) {
    let containers = [A, B, "10.32.1.4"].map(|address| (address, Container::new()));
    let looks = "ip -o link | grep -c wv || true; ip route show proto 67; ip neigh show nud permanent";
    for _ in 0..5 {
        for (address, container) in &containers {
            world.attach(container, address, 9000).await;
        }
        let gone = "10.32.1.9";
        let all = containers.iter().map(|(address, _)| at(address)).chain([at(gone)]).collect();
        let results = world.kernel.remover().remove(all).await;
        assert_eq!(sh(looks), "0\n");
        assert_eq!(results.values().filter(|result| result.is_ok()).count(), 4, "{results:?}");
        for (_, container) in &containers {
            assert_eq!(container.sh("ip -o link | grep -c ethwe || true"), "0\n");
        }
    }
}

async fn a_namespace_that_is_gone_takes_its_link_along(mut world: World) {
    let container = Container::new();
    let make = create(&container, A, 9000);
    world.attach(&container, A, 9000).await;
    assert!(netns::verify(&container.netns));
    let netns = container.netns.clone();
    drop(container);
    assert!(!netns::verify(&netns));
    // The kernel takes the namespace apart in its own time.
    for _ in 0..100 {
        if world.observe().await.links.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let seen = world.observe().await;
    assert!(seen.links.is_empty());
    assert_eq!(seen.gone, [at(A)].into());
    let fault = world.refused(make).await;
    assert_eq!(fault.kind, FaultKind::Outdated);
    assert!(fault.message.contains("gone"), "{fault}");
}

async fn a_path_that_leads_elsewhere_is_not_followed(mut world: World) {
    let container = Container::new();
    world.attach(&container, A, 9000).await;
    let other = Netns { cookie: container.netns.cookie + 1, ..container.netns.clone() };
    assert!(!netns::verify(&other) && ways::is_gone(&other));
    assert!(!ways::is_gone(&container.netns));
    world.wanted.link_mut(at(A)).unwrap().netns = Some(other);
    let link = world.observe().await.links_mut().remove(&at(A)).unwrap();
    assert_eq!(link.netns, None);
    assert!(link.faults[0].contains("leads to another"), "{:?}", link.faults);

    let earlier = Netns { boot: "of yesterday".into(), ..container.netns.clone() };
    assert!(!netns::verify(&earlier));
    let fault = target::of_target("/proc/thread-self/ns/net").unwrap_err();
    assert!(fault.message.contains("host's own"), "{fault}");
}

async fn a_namespace_is_found_by_its_bind_mount(mut world: World) {
    let mut container = Container::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    sh(&format!("mount --bind {} {path}", container.netns.path.display()));
    let by_mount = target::of_target(path).unwrap();
    assert_eq!(by_mount.cookie, container.netns.cookie);
    assert_eq!(by_mount.path.to_str(), Some(path));
    container.netns = by_mount;
    world.attach(&container, A, 9000).await;
    assert_eq!(world.observe().await.links, world.wanted.links);
    sh(&format!("umount {path}"));
    assert!(ways::is_gone(&container.netns), "a file that is left is no namespace");
    // The namespace lives on, and so does its link: nobody is to forget it.
    assert!(world.observe().await.gone.is_empty());
}

async fn a_link_into_the_wrong_namespace_is_made_anew(mut world: World) {
    let (one, other) = (Container::new(), Container::new());
    world.attach(&one, A, 9000).await;
    world.want(&other, A, 9000);
    assert!(world.faults(A).await.contains(&"far end missing".to_owned()));
    world.apply(create(&other, A, 9000)).await;
    assert_eq!(world.observe().await.links, world.wanted.links);
    assert!(!one.sh("ip link").contains("ethwe"));
}

async fn a_link_that_is_not_wanted_is_seen(mut world: World) {
    let container = Container::new();
    world.attach(&container, A, 9000).await;
    sh("ip link add wvelse type veth peer name wvother");
    world.wanted.links_mut().clear();
    let links = world.observe().await.links;
    assert_eq!(links.keys().collect::<Vec<_>>(), [&at(A)]);
    assert_eq!(links[&at(A)].netns, None);
}

async fn the_uplink_is_where_the_default_route_leads(mut world: World) {
    assert!(world.observe().await.uplinks.is_empty());
    sh("ip link add ens5 mtu 9001 type veth peer name far; ip link set ens5 up; ip link set far up");
    sh("ip route add default dev ens5 metric 100; ip route add 10.0.0.0/16 dev far");
    world.sysctl("net.ipv4.conf.ens5.forwarding", "1").await;
    let seen = world.observe().await;
    assert_eq!(seen.uplinks, [("ens5".to_owned(), 9001)].into());
    assert_eq!(seen.sysctls, world.wanted.sysctls);
    world.wanted.sysctls.insert("net.ipv4.conf.nosuch.forwarding".into(), "1".into());
    assert_eq!(world.observe().await.sysctls.len(), 2, "what does not exist is not read");
}

async fn a_container_whose_first_process_has_ended_is_found_by_another(mut world: World) {
    let container = Container::new();
    let sleeper = || container.run(|| Command::new("sleep").arg("60").spawn().unwrap());
    let (mut first, mut second) = (sleeper(), sleeper());
    let of = |process: &Child| target::of_target(&process.id().to_string()).unwrap();
    let known = of(&first);
    let link = Link { netns: Some(known.clone()), mtu: 1500, range: range(), ..Link::default() };
    world.wanted.links_mut().insert(at(A), link.into());
    let create = |netns: &Netns| HostAction::CreateLink {
        address: at(A),
        netns: netns.clone(),
        mtu: 1500,
        range: range(),
        prefix: None,
        far: Far::default(),
    };
    world.apply(create(&known)).await;
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(!netns::verify(&known), "its path leads nowhere");
    // Stories that run beside this one may have looked for other namespaces just before.
    std::thread::sleep(PATIENCE);

    let seen = world.observe().await;
    assert_eq!(seen.links[&at(A)].faults, [""; 0]);
    let found = seen.links[&at(A)].netns.clone().unwrap();
    assert!(found.is_same(&known) && found.path == of(&second).path, "{found:?}");

    // Neither is its namespace gone where the link was not made yet, and it can be made.
    sh("ip link del wv0a200102");
    assert!(!world.observe().await.gone.contains(&at(A)));
    world.apply(create(&known)).await;
    assert_eq!(world.faults(A).await, [""; 0]);

    second.kill().unwrap();
    second.wait().unwrap();
    sh("ip link del wv0a200102");
    drop(container);
    std::thread::sleep(Duration::from_millis(500));
    assert!(world.observe().await.gone.contains(&at(A)), "nobody is in it any more");
}
