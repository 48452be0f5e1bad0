//! Somebody changes something, and we hear of it.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::{sync::mpsc::Receiver, time::timeout};
use weavers::{
    kernel::{
        Kernel,
        read_back::ReadBack,
        watch::{Changes, disturbances},
    },
    state::{Fate, HostAction, Scope},
};

use crate::{
    stories,
    world::{Container, PATIENCE, World, at, create, rules, sh, uplink},
};

stories![
    every_kind_of_change_is_heard_of,
    a_burst_is_heard_of_once_or_twice,
    looking_disturbs_nobody,
    a_look_at_what_has_changed_shows_what_a_whole_one_shows,
    what_changes_in_a_container_is_told_and_seen_at_once,
    a_container_of_which_nothing_is_told_is_entered_by_a_look_that_comes_by_itself,
    what_was_read_back_when_it_was_made_is_known_and_disturbs_nobody,
    a_link_is_left_to_a_look_where_more_matters_than_the_link,
    neighbours_that_are_not_ours_come_and_go_unnoticed,
];

pub async fn woken(wakings: &mut Receiver<()>) -> bool {
    timeout(PATIENCE, wakings.recv()).await.is_ok()
}

async fn every_kind_of_change_is_heard_of(world: World) {
    drop(world);
    let (mut wakings, _) = disturbances().unwrap();
    for change in [
        "ip link add d0 type veth peer name d1",
        "ip link set d0 mtu 1400 up; ip link set d1 up",
        "ip addr add 192.0.2.1/24 dev d0",
        "ip route add 198.51.100.0/24 dev d0",
        "ip route del 198.51.100.0/24",
        "ip rule add from 192.0.2.1 lookup 100",
        "ip rule del from 192.0.2.1 lookup 100",
        "echo 0 > /proc/sys/net/ipv4/conf/d0/forwarding",
        "echo 1 > /proc/sys/net/ipv4/conf/d0/rp_filter",
        "echo 0 > /proc/sys/net/ipv4/ip_forward",
        "ip nexthop add id 1 dev d0",
        "ip nexthop del id 1",
        "nft add table ip strange",
        "nft flush ruleset",
        "ip link del d0",
    ] {
        sh(change);
        assert!(woken(&mut wakings).await, "{change}");
        while woken(&mut wakings).await {}
    }
    sh(
        "ip link add d0 type veth peer name d1; ip link set d0 up; ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:01 nud permanent dev d0",
    );
    while woken(&mut wakings).await {}
    sh("ip neigh del 192.0.2.9 dev d0");
    assert!(woken(&mut wakings).await, "a neighbour that is deleted");
}

async fn a_burst_is_heard_of_once_or_twice(world: World) {
    drop(world);
    let (mut wakings, _) = disturbances().unwrap();
    sh("ip link add d0 type veth peer name d1; ip link set d0 up; ip link set d1 up");
    while woken(&mut wakings).await {}
    let routes: String = (0..20_000)
        .map(|n| format!("route add 10.{}.{}.{}/32 dev d0\n", n / 6400, n / 80 % 80, n % 80))
        .collect();
    let mut ip = std::process::Command::new("ip")
        .args(["-batch", "-"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut ip.stdin.take().unwrap(), routes.as_bytes()).unwrap();
    assert!(ip.wait().unwrap().success());
    let mut heard = 0;
    while woken(&mut wakings).await {
        heard += 1;
    }
    assert!((1..=3).contains(&heard), "more events than a socket holds, heard of {heard} times");
}

async fn looking_disturbs_nobody(mut world: World) {
    world.load_rules(rules()).await;
    let (mut wakings, _) = disturbances().unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    while woken(&mut wakings).await {}
    for _ in 0..3 {
        world.observe().await;
    }
    assert!(!woken(&mut wakings).await);
}

/// Everything that the kernel tells of, done to one link of several, or to what carries them.
const CHANGES: [&str; 18] = [
    "ip link set wv0a200102 mtu 1400",
    "ip addr add 169.254.77.1/16 dev wv0a200102",
    "ip neigh del 10.32.1.2 dev wv0a200102",
    "ip route del 10.32.1.2",
    "echo 0 > /proc/sys/net/ipv4/conf/wv0a200102/forwarding",
    "echo 0 > /proc/sys/net/ipv4/conf/wv0a200102/rp_filter",
    "ip link set wv0a200102 down",
    "ip link set wv0a200102 up",
    "ip link set wv0a200102 down; ip link set wv0a200102 name veth7",
    "ip link del wv0a200104",
    "ip link add d0 type veth peer name d1; ip addr add 192.0.2.1/24 dev d0; ip link set d0 up",
    "ip route add unreachable 10.32.1.3 metric 9",
    "ip rule add to 10.32.1.3 prohibit pref 50",
    "ip rule del pref 50; ip route del unreachable 10.32.1.3 metric 9",
    "echo 0 > /proc/sys/net/ipv4/conf/eth0/forwarding",
    "nft flush table inet weave",
    "nft add table ip filter; nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'",
    "ip link set eth0 down",
];

/// The same, done inside of one container.
const INSIDE: [&str; 6] = [
    "ip link set ethwe mtu 1600",
    "ip neigh del 169.254.1.1 dev ethwe",
    "ip route flush proto 67",
    "ip addr flush dev ethwe",
    "ip link set lo down",
    "ip link set ethwe down",
];

async fn a_look_at_what_has_changed_shows_what_a_whole_one_shows(mut world: World) {
    let (mut wakings, changes) = disturbances().unwrap();
    world.kernel = Kernel::new(changes).unwrap();
    let router = Container::new();
    uplink(&router);
    world.load_rules(rules()).await;
    let containers = [Container::new(), Container::new(), Container::new()];
    for (container, address) in containers.iter().zip(["10.32.1.2", "10.32.1.3", "10.32.1.4"]) {
        world.attach(container, address, 1500).await;
    }
    world.kernel.observe(&world.wanted, Scope::Changed).await.unwrap();
    let mut before = String::new();
    for (change, inside) in
        CHANGES.iter().map(|change| (*change, false)).chain(INSIDE.map(|change| (change, true)))
    {
        let _ = if inside { containers[1].sh(change) } else { sh(change) };
        assert!(woken(&mut wakings).await, "{change}");
        while woken(&mut wakings).await {}
        let narrow = world.kernel.observe(&world.wanted, Scope::Changed).await.unwrap();
        let mut fresh = Kernel::new(Changes::default()).unwrap();
        let whole = fresh.observe(&world.wanted, Scope::Whole).await.unwrap();
        assert_eq!(narrow, whole, "{change}");
        let now = format!("{whole:?}");
        assert_ne!(now, before, "{change} is seen");
        before = now;
    }
}

async fn what_changes_in_a_container_is_told_and_seen_at_once(mut world: World) {
    let (mut wakings, changes) = disturbances().unwrap();
    world.kernel = Kernel::new(changes).unwrap();
    let (ours, others) = (Container::new(), Container::new());
    world.attach(&ours, "10.32.1.2", 1500).await;
    sh(&format!("ip link add d0 type veth peer name d1 netns {}; ip link set d0 up", others.task()));
    world.kernel.observe(&world.wanted, Scope::Changed).await.unwrap();
    while woken(&mut wakings).await {}
    others.sh("ip link set d1 mtu 1400; ip addr add 192.0.2.1/24 dev d1");
    assert!(!woken(&mut wakings).await, "a namespace that no link of ours leads into");
    ours.sh("ip route del default");
    assert!(woken(&mut wakings).await);
    let seen = world.kernel.observe(&world.wanted, Scope::Changed).await.unwrap();
    assert_eq!(seen.links[&at("10.32.1.2")].faults, ["default route missing"]);
}

async fn a_container_of_which_nothing_is_told_is_entered_by_a_look_that_comes_by_itself(mut world: World) {
    let (quiet, other) = (Container::new(), Container::new());
    world.attach(&quiet, "10.32.1.2", 1500).await;
    let faults = async |world: &mut World, scope| {
        let seen = world.kernel.observe(&world.wanted, scope).await.unwrap();
        seen.links[&at("10.32.1.2")].faults.clone()
    };
    assert_eq!(faults(&mut world, Scope::Changed).await, [""; 0]);
    quiet.sh("ip route del default");
    world.attach(&other, "10.32.1.3", 1500).await;
    assert_eq!(faults(&mut world, Scope::Changed).await, [""; 0]);
    assert_eq!(faults(&mut world, Scope::Routine).await, ["default route missing"]);
    assert_eq!(
        faults(&mut world, Scope::Changed).await,
        ["default route missing"],
        "what is wrong is looked at again"
    );
}

/// A host whose kernel tells of changes, with an uplink and a container that was looked at.
async fn watched(world: &mut World, router: &Container, first: &Container) -> Receiver<()> {
    let (mut wakings, changes) = disturbances().unwrap();
    world.kernel = Kernel::new(changes).unwrap();
    uplink(router);
    world.load_rules(rules()).await;
    world.attach(first, "10.32.1.2", 1500).await;
    world.kernel.observe(&world.wanted, Scope::Changed).await.unwrap();
    while woken(&mut wakings).await {}
    world.kernel.observe(&world.wanted, Scope::Changed).await.unwrap();
    wakings
}

async fn read_back(world: &mut World, action: HostAction) -> Option<ReadBack> {
    let mut ended = std::pin::pin!(world.kernel.apply_to_links(vec![action]).await);
    ended.next().await.unwrap().1.unwrap()
}

async fn what_was_read_back_when_it_was_made_is_known_and_disturbs_nobody(mut world: World) {
    let (router, first, second) = (Container::new(), Container::new(), Container::new());
    let mut wakings = watched(&mut world, &router, &first).await;
    world.want(&second, "10.32.1.3", 1500);
    let read = read_back(&mut world, create(&second, "10.32.1.3", 1500)).await.expect("it is whole");
    assert_eq!(read.made.link, world.wanted.links[&at("10.32.1.3")]);
    let by_it = Fate::Leaves { interface: "wv0a200103".to_owned(), gateway: None };
    assert_eq!(read.made.paths.iter().map(|path| &path.fate).collect::<Vec<_>>(), [&by_it]);
    world.kernel.take_in(read);
    assert!(!woken(&mut wakings).await, "what we did is known");
    let narrow = world.kernel.observe(&world.wanted, Scope::Changed).await.unwrap();
    let mut fresh = Kernel::new(Changes::default()).unwrap();
    assert_eq!(narrow, fresh.observe(&world.wanted, Scope::Whole).await.unwrap());
    for (change, fault) in [
        ("ip neigh del 10.32.1.3 dev wv0a200103", "host neighbour missing"),
        ("ip link set wv0a200103 mtu 1400", "mtu of the host end is 1400"),
    ] {
        sh(change);
        assert!(woken(&mut wakings).await, "{change}");
        let seen = world.kernel.observe(&world.wanted, Scope::Changed).await.unwrap();
        assert!(seen.links[&at("10.32.1.3")].faults.iter().any(|found| found == fault), "{change}: {seen:?}");
        while woken(&mut wakings).await {}
    }
    second.sh("ip route del default");
    assert!(woken(&mut wakings).await);
    let seen = world.kernel.observe(&world.wanted, Scope::Changed).await.unwrap();
    let faults = &seen.links[&at("10.32.1.3")].faults;
    assert!(faults.iter().any(|found| found == "default route missing"), "{faults:?}");
}

async fn a_link_is_left_to_a_look_where_more_matters_than_the_link(mut world: World) {
    let (router, first) = (Container::new(), Container::new());
    let others = [Container::new(), Container::new(), Container::new()];
    let _wakings = watched(&mut world, &router, &first).await;
    sh("ip rule add to 10.32.1.4 prohibit pref 50");
    let read = read_back(&mut world, create(&others[0], "10.32.1.3", 1500)).await;
    assert!(read.is_none(), "a policy rule that nobody has looked at");
    world.kernel.observe(&world.wanted, Scope::Changed).await.unwrap();
    let read = read_back(&mut world, create(&others[1], "10.32.1.4", 1500)).await;
    assert!(read.is_none(), "packets for it are lost: {read:?}");
    world.kernel.observe(&world.wanted, Scope::Changed).await.unwrap();
    assert!(read_back(&mut world, create(&others[2], "10.32.1.5", 1500)).await.is_some());
}

async fn neighbours_that_are_not_ours_come_and_go_unnoticed(mut world: World) {
    let (router, first) = (Container::new(), Container::new());
    let mut wakings = watched(&mut world, &router, &first).await;
    sh("ip neigh add 10.0.1.77 lladdr 02:00:00:00:00:01 dev eth0; ip neigh del 10.0.1.77 dev eth0");
    first.sh("ip neigh add fe80::77 lladdr 02:00:00:00:00:01 dev ethwe; ip neigh del fe80::77 dev ethwe");
    assert!(!woken(&mut wakings).await);
    sh("ip neigh del 10.32.1.2 dev wv0a200102");
    assert!(woken(&mut wakings).await);
}
