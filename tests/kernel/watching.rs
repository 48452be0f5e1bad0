//! Somebody changes something, and we hear of it.

use std::time::Duration;

use tokio::{sync::mpsc::Receiver, time::timeout};
use weavers::kernel::watch::disturbances;

use crate::{
    stories,
    world::{PATIENCE, World, rules, sh},
};

stories![every_kind_of_change_is_heard_of, a_burst_is_heard_of_once_or_twice, looking_disturbs_nobody];

async fn woken(wakings: &mut Receiver<()>) -> bool {
    timeout(PATIENCE, wakings.recv()).await.is_ok()
}

async fn every_kind_of_change_is_heard_of(world: World) {
    drop(world);
    let mut wakings = disturbances().unwrap();
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
    let mut wakings = disturbances().unwrap();
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
    let mut wakings = disturbances().unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    while woken(&mut wakings).await {}
    for _ in 0..3 {
        world.observe().await;
    }
    assert!(!woken(&mut wakings).await);
}
