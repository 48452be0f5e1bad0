//! A second address of IPv6, by the same link.

use std::time::Duration;

use tokio::time::timeout;
use weavers::{
    addr::Prefix,
    kernel::{Kernel, watch::disturbances},
    state::{HostAction, Link, Rules, Scope},
};

use crate::{
    stories,
    watching::woken,
    world::{Container, World, at, create, mend, rules, sh},
};

stories![
    two_containers_reach_each_other_and_the_host_by_both_kinds,
    what_is_attached_takes_in_what_is_sent_to_it_by_ipv6_from_the_start,
    a_fresh_link_of_both_kinds_has_no_fault_and_making_it_again_changes_nothing,
    every_broken_piece_of_ipv6_is_named_and_mended,
    what_is_changed_of_ipv6_is_told_and_seen_at_once,
    a_new_link_of_both_kinds_disturbs_nobody_once_it_was_looked_at,
    a_free_address_of_ipv6_answers_at_once,
    another_prefix_takes_the_place_of_the_one_before_and_none_leaves_nothing,
    rules_for_both_kinds_are_found_as_they_were_loaded,
    a_forged_source_of_ipv6_goes_nowhere,
];

const A: &str = "10.32.1.2";
const B: &str = "10.32.1.3";
const A6: &str = "fd00:1::a20:102";
const B6: &str = "fd00:1::a20:103";

fn prefix() -> Prefix {
    "fd00:1::/96".parse().unwrap()
}

/// The same action for a link of both kinds.
fn with(prefix: Option<Prefix>, action: HostAction) -> HostAction {
    match action {
        HostAction::CreateLink { address, netns, mtu, range, far, .. } => {
            HostAction::CreateLink { address, netns, mtu, range, prefix, far }
        }
        HostAction::MendLink { address, netns, mtu, range, far, .. } => {
            HostAction::MendLink { address, netns, mtu, range, prefix, far }
        }
        other => panic!("{other:?}"),
    }
}

async fn attach(world: &mut World, container: &Container, address: &str) {
    world.sysctl("net.ipv6.conf.all.forwarding", "1").await;
    world.want(container, address, 9000);
    want(world, address, Some(prefix()));
    world.apply(with(Some(prefix()), create(container, address, 9000))).await;
}

fn want(world: &mut World, address: &str, prefix: Option<Prefix>) {
    let link = Link { prefix, ..world.wanted.links[&at(address)].as_ref().clone() };
    world.wanted.links_mut().insert(at(address), link.into());
}

/// Gives the host an address, which the kernel takes for its own a moment later.
fn give_address() {
    sh("ip addr add fd00:9::1/128 dev lo nodad; until ping -n -q -c 1 -W 1 fd00:9::1; do sleep 0.01; done");
}

async fn two_containers_reach_each_other_and_the_host_by_both_kinds(mut world: World) {
    give_address();
    let (one, other) = (Container::new(), Container::new());
    attach(&mut world, &one, A).await;
    attach(&mut world, &other, B).await;
    one.sh("ping -n -c 1 -W 1 -M do -s 8952 fd00:1::a20:103");
    other.sh("ping -n -c 1 -W 1 fd00:1::a20:102");
    one.sh("ping -n -c 1 -W 1 10.32.1.3");
    one.sh("ping -n -c 1 -W 1 fe80::1%ethwe");
    sh(&format!("ping -n -c 1 -W 1 {A6}; ping -n -c 1 -W 1 {B6}"));
    one.sh("ping -n -c 1 -W 1 fd00:9::1");
    let held = one.sh("ip -6 -o addr show dev ethwe scope global");
    assert!(held.contains(A6) && !held.contains("tentative"), "{held}");
    let asked = sh("ip -6 neigh show to fd00:1::/96 nud reachable nud stale nud delay nud incomplete");
    assert_eq!(asked, "", "nobody asks for a MAC address");
}

/// The kernel makes an address of IPv6 one of the container's in its own time, and drops until then what is sent to it.
async fn what_is_attached_takes_in_what_is_sent_to_it_by_ipv6_from_the_start(mut world: World) {
    give_address();
    for number in 2..42 {
        let container = Container::new();
        attach(&mut world, &container, &format!("10.32.1.{number}")).await;
        sh(&format!("ping -n -c 1 -W 1 fd00:1::a20:1{number:02x}"));
    }
}

async fn a_fresh_link_of_both_kinds_has_no_fault_and_making_it_again_changes_nothing(mut world: World) {
    let container = Container::new();
    attach(&mut world, &container, A).await;
    let look = |container: &Container| {
        // Addresses of links come up in their own time.
        let inside = container.sh("ip -6 route show proto 67; ip -6 -o addr show dev ethwe scope global; ip -6 neigh show nud permanent");
        sh("ip -6 route show proto 67; ip -6 -o addr; ip -6 neigh show nud permanent") + &inside
    };
    let before = look(&container);
    assert_eq!(world.observe().await.links, world.wanted.links);
    world.apply(with(Some(prefix()), create(&container, A, 9000))).await;
    world.apply(with(Some(prefix()), mend(&container, A, 9000))).await;
    assert_eq!(look(&container), before);
    assert_eq!(sh("cat /proc/sys/net/ipv6/conf/wv0a200102/accept_ra"), "0\n");
    assert_eq!(container.sh("cat /proc/sys/net/ipv6/conf/ethwe/accept_ra"), "0\n");
}

/// What somebody does to the host end of a link, and the fault that it is named by.
const BROKEN: [(&str, &str); 7] = [
    ("ip -6 route del fd00:1::a20:102", "host route of IPv6 missing"),
    ("ip neigh del fd00:1::a20:102 dev wv0a200102", "host neighbour of IPv6 missing"),
    (
        "ip neigh replace fd00:1::a20:102 lladdr 02:00:00:00:00:01 nud permanent dev wv0a200102",
        "host neighbour of IPv6 missing",
    ),
    ("ip addr del fe80::1/64 dev wv0a200102", "address fe80::1 of the host end missing"),
    ("echo 1 > /proc/sys/net/ipv6/conf/wv0a200102/accept_ra", "accept_ra is 1"),
    ("echo 1 > /proc/sys/net/ipv6/conf/wv0a200102/disable_ipv6", "disable_ipv6 is 1"),
    (
        "ip addr add fd00:9::9/64 dev wv0a200102 nodad",
        "address fd00:9::9/64 on the host end, which is to have none",
    ),
];

/// The same inside the container.
const BROKEN_INSIDE: [(&str, &str); 8] = [
    ("ip -6 addr del fd00:1::a20:102/128 dev ethwe", "address of IPv6 missing"),
    (
        "ip -6 addr add fd00:7::a20:102/128 dev ethwe noprefixroute",
        "address fd00:7::a20:102/128 of the far end is stale",
    ),
    ("ip -6 neigh del fe80::1 dev ethwe", "neighbour of the far end of IPv6 missing"),
    ("ip -6 route del fd00:1::a20:0/108", "range route of IPv6 missing"),
    ("ip -6 route del default", "default route of IPv6 missing"),
    (
        "ip -6 route add fd00:2::/96 via fe80::1 dev ethwe proto 67",
        "route fd00:2::/96 of the far end is stale",
    ),
    ("echo 1 > /proc/sys/net/ipv6/conf/ethwe/disable_ipv6", "the far end heeds routers, or takes in no IPv6"),
    ("echo 1 > /proc/sys/net/ipv6/conf/ethwe/accept_ra", "the far end heeds routers, or takes in no IPv6"),
];

async fn every_broken_piece_of_ipv6_is_named_and_mended(mut world: World) {
    let container = Container::new();
    attach(&mut world, &container, A).await;
    for (broken, named) in BROKEN {
        sh(broken);
        mended(&mut world, &container, broken, named).await;
    }
    for (broken, named) in BROKEN_INSIDE {
        container.sh(broken);
        mended(&mut world, &container, broken, named).await;
    }
    give_address();
    sh("ping -n -c 1 -W 1 fd00:1::a20:102");
}

/// Neighbours of IPv6 come and go by themselves, and the kernel tells of no change of `accept_ra`.
async fn what_is_changed_of_ipv6_is_told_and_seen_at_once(mut world: World) {
    let (mut wakings, changes) = disturbances().unwrap();
    world.kernel = Kernel::new(changes).unwrap();
    let container = Container::new();
    attach(&mut world, &container, A).await;
    world.kernel.observe(&world.wanted, Scope::Changed).await.unwrap();
    while woken(&mut wakings).await {}
    let of_host = BROKEN.iter().map(|story| (story, false));
    let all = of_host.chain(BROKEN_INSIDE.iter().map(|story| (story, true)));
    for (&(broken, named), is_inside) in all {
        if broken.contains("neigh") || broken.contains("accept_ra") {
            continue;
        }
        let _ = if is_inside { container.sh(broken) } else { sh(broken) };
        assert!(woken(&mut wakings).await, "{broken}");
        while woken(&mut wakings).await {}
        let seen = world.kernel.observe(&world.wanted, Scope::Changed).await.unwrap();
        let faults = &seen.links[&at(A)].faults;
        assert!(faults.iter().any(|fault| fault == named), "{broken}: {faults:?}");
        world.apply(with(Some(prefix()), mend(&container, A, 9000))).await;
        world.kernel.observe(&world.wanted, Scope::Changed).await.unwrap();
        while woken(&mut wakings).await {}
    }
    let block = "fd00:1::a20:100/120".parse().unwrap();
    world.apply(HostAction::AddBlock(block)).await;
    world.kernel.observe(&world.wanted, Scope::Changed).await.unwrap();
    while woken(&mut wakings).await {}
    sh("ip -6 route del unreachable fd00:1::a20:100/120");
    assert!(woken(&mut wakings).await, "a block");
    let seen = world.kernel.observe(&world.wanted, Scope::Changed).await.unwrap();
    assert!(!seen.blocks.contains(&block));
}

async fn a_new_link_of_both_kinds_disturbs_nobody_once_it_was_looked_at(mut world: World) {
    let (mut wakings, changes) = disturbances().unwrap();
    world.kernel = Kernel::new(changes).unwrap();
    let (first, second) = (Container::new(), Container::new());
    attach(&mut world, &first, A).await;
    world.kernel.observe(&world.wanted, Scope::Changed).await.unwrap();
    while woken(&mut wakings).await {}
    attach(&mut world, &second, B).await;
    world.kernel.observe(&world.wanted, Scope::Changed).await.unwrap();
    let _ = timeout(Duration::from_millis(100), wakings.recv()).await;
    world.kernel.observe(&world.wanted, Scope::Changed).await.unwrap();
    assert!(timeout(Duration::from_millis(2500), wakings.recv()).await.is_err(), "its own address came");
}

async fn mended(world: &mut World, container: &Container, broken: &str, named: &str) {
    let faults = world.faults(A).await;
    assert!(faults.iter().any(|fault| fault == named), "{broken}: {faults:?}");
    world.apply(with(Some(prefix()), mend(container, A, 9000))).await;
    assert_eq!(world.faults(A).await, Vec::<String>::new(), "{broken}");
}

async fn a_free_address_of_ipv6_answers_at_once(mut world: World) {
    let container = Container::new();
    attach(&mut world, &container, A).await;
    let block = "fd00:1::a20:100/120".parse().unwrap();
    world.apply(HostAction::AddBlock(block)).await;
    assert!(world.observe().await.blocks.contains(&block));
    let said = container.sh("ping -n -c 1 -W 2 fd00:1::a20:177 || true");
    assert!(said.contains("nreachable"), "{said}");
    container.sh("ping -n -c 1 -W 1 fe80::1%ethwe");
    let one = "fd00:1::a20:102/128".parse().unwrap();
    world.apply(HostAction::AddBlock(one)).await;
    assert_eq!(
        world.faults(A).await,
        Vec::<String>::new(),
        "a block of one address leaves room for its container"
    );
    for block in [block, one] {
        world.apply(HostAction::DeleteBlock(block)).await;
    }
    assert!(world.observe().await.blocks.is_empty());
}

async fn another_prefix_takes_the_place_of_the_one_before_and_none_leaves_nothing(mut world: World) {
    let container = Container::new();
    attach(&mut world, &container, A).await;
    let other: Prefix = "fd00:5::/96".parse().unwrap();
    want(&mut world, A, Some(other));
    assert!(!world.faults(A).await.is_empty());
    world.apply(with(Some(other), mend(&container, A, 9000))).await;
    assert_eq!(world.faults(A).await, Vec::<String>::new());
    let held = container.sh("ip -6 -o addr show dev ethwe scope global; ip -6 route show proto 67");
    assert!(held.contains("fd00:5::a20:102") && !held.contains("fd00:1"), "{held}");
    want(&mut world, A, None);
    assert_eq!(world.faults(A).await[0], "disable_ipv6 is 0");
    world.apply(mend(&container, A, 9000)).await;
    assert_eq!(world.faults(A).await, Vec::<String>::new());
    let left = container.sh("ip -6 -o addr show dev ethwe scope global; ip -6 route show proto 67");
    assert_eq!(left + &sh("ip -6 route show proto 67"), "", "nothing of it is left");
}

async fn rules_for_both_kinds_are_found_as_they_were_loaded(mut world: World) {
    let both = Rules { prefix: Some(prefix()), ..rules() };
    world.load_rules(both.clone()).await;
    assert_eq!(world.observe().await.rules, Some(both.clone()));
    let fresh = weavers::kernel::Kernel::new(Default::default()).unwrap();
    world.kernel = fresh;
    assert_eq!(world.observe().await.rules, Some(both), "by whoever did not load them, too");
    sh("nft flush chain inet weave prerouting");
    assert_eq!(world.observe().await.rules, None);
}

async fn a_forged_source_of_ipv6_goes_nowhere(mut world: World) {
    let (one, other) = (Container::new(), Container::new());
    world.load_rules(Rules { prefix: Some(prefix()), ..rules() }).await;
    attach(&mut world, &one, A).await;
    attach(&mut world, &other, B).await;
    one.sh("ping -n -c 1 -W 1 fd00:1::a20:103");
    let forged = "ip -6 addr add fd00:1::a20:109/128 dev ethwe nodad; ping -n -c 1 -W 1 -I fd00:1::a20:109 fd00:1::a20:103 || true";
    let said = one.sh(forged);
    assert!(said.contains("100% packet loss"), "{said}");
    let listed = sh("nft list chain inet weave prerouting");
    let counted = listed.lines().find(|line| line.contains("forged source")).unwrap();
    assert!(!counted.contains("packets 0 "), "{listed}");
}
