//! Links of Weave Net's, as its router makes them: found, taken out of use, put back.

use std::{
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use weavers::{
    kernel::weave_net,
    migrate::{SET_ASIDE, Survey},
    peer::PeerName,
    state::FaultKind,
};

use crate::{
    stories,
    world::{Container, PATIENCE, World, sh},
};

stories![
    each_link_is_found_with_its_addresses_and_no_other,
    a_link_that_was_set_aside_is_found_and_put_back_as_it_was,
    where_a_link_of_ours_is_made_meanwhile_the_old_one_goes,
    a_link_that_leads_nowhere_known_is_named,
    a_link_that_has_changed_is_left_alone,
    a_host_without_weave_net_has_nothing,
];

const A: &str = "10.32.1.2";

/// A process in a namespace of its own, as a container is found.
struct Inhabited(Child);

impl Inhabited {
    fn new() -> Inhabited {
        let child =
            Command::new("unshare").args(["--net", "sleep", "600"]).stdin(Stdio::null()).spawn().unwrap();
        let inhabited = Inhabited(child);
        let (begun, own) = (Instant::now(), std::fs::read_link("/proc/thread-self/ns/net").unwrap());
        let theirs = || std::fs::read_link(format!("/proc/{}/ns/net", inhabited.0.id()));
        while theirs().is_ok_and(|theirs| theirs == own) {
            assert!(begun.elapsed() < PATIENCE, "no namespace");
            sleep(Duration::from_millis(5));
        }
        inhabited
    }

    fn sh(&self, script: &str) -> String {
        sh(&format!("nsenter --net=/proc/{}/ns/net sh -ec '{script}'", self.0.id()))
    }

    /// Connects it as the router does.
    fn connect(&self, number: u8, address: &str) {
        sh(&format!(
            "ip link add vethwepl{number} type veth peer name ethwe netns {}; ip link set vethwepl{number} master weave up",
            self.0.id()
        ));
        self.sh(&format!(
            "ip addr add {address}/12 dev ethwe; ip link set lo up; ip link set ethwe up; ip route add 224.0.0.0/4 dev ethwe; \
             ip route add default via 10.32.0.1"
        ));
    }
}

impl Drop for Inhabited {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn bridge() {
    sh("ip link add weave type bridge; ip link set weave address 7a:9f:eb:b6:0c:6e up");
    sh(
        "ip link add vethwe-bridge type veth peer name vethwe-pcap; ip link set vethwe-bridge master weave up",
    );
}

/// What is found, with the name of each link and its addresses.
async fn survey() -> (Survey, Vec<String>) {
    let survey = weave_net::survey().await.unwrap();
    let text = survey.links.iter().map(|link| {
        let addresses: Vec<String> = link.addresses.iter().map(ToString::to_string).collect();
        format!("{} {} {}", link.host_end.1, link.interface.1, addresses.join(" "))
    });
    let text = text.collect();
    (survey, text)
}

async fn each_link_is_found_with_its_addresses_and_no_other(_world: World) {
    bridge();
    let (one, two, other) = (Inhabited::new(), Inhabited::new(), Inhabited::new());
    one.connect(1, A);
    two.connect(2, "10.32.1.3");
    two.sh("ip addr add 10.32.1.4/12 dev ethwe");
    sh(&format!(
        "ip link add docker1 type veth peer name eth0 netns {}; ip link set docker1 up",
        other.0.id()
    ));
    let (survey, found) = survey().await;
    assert_eq!(found, ["vethwepl1 ethwe 10.32.1.2/12", "vethwepl2 ethwe 10.32.1.3/12 10.32.1.4/12"]);
    assert_eq!(survey.unread, [""; 0]);
    let bridge = survey.bridge.unwrap();
    assert_eq!((bridge.name, bridge.is_aws_vpc), (Some(PeerName::from_u64(0x7a9f_ebb6_0c6e)), false));
    sh("echo 1 > /proc/sys/net/ipv4/conf/weave/proxy_arp");
    assert!(
        weave_net::survey().await.unwrap().bridge.unwrap().is_aws_vpc,
        "it answers for what is elsewhere"
    );
}

async fn a_link_that_was_set_aside_is_found_and_put_back_as_it_was(_world: World) {
    bridge();
    let container = Inhabited::new();
    container.connect(1, A);
    let state =
        || container.sh("ip -4 -o addr show dev ethwe; ip route; ip -o link show dev ethwe | cut -d: -f2");
    let before = state();
    let (found, _) = survey().await;
    let aside = weave_net::set_aside(&found.links[0]).await.unwrap();
    assert_eq!(container.sh("ip route"), "", "it is out of use");
    let (_, text) = survey().await;
    assert_eq!(text, [format!("vethwepl1 {SET_ASIDE} 10.32.1.2/12")], "and found by its address");
    weave_net::put_back(aside).await.unwrap();
    assert_eq!(state(), before);
}

async fn where_a_link_of_ours_is_made_meanwhile_the_old_one_goes(mut world: World) {
    bridge();
    let container = Inhabited::new();
    container.connect(1, A);
    let (found, _) = survey().await;
    let link = &found.links[0];
    weave_net::set_aside(link).await.unwrap();
    world
        .apply(weavers::state::HostAction::CreateLink {
            address: crate::world::at(A),
            netns: link.netns.clone(),
            mtu: 1500,
            range: crate::world::range(),
            prefix: None,
            far: weavers::state::Far::default(),
        })
        .await;
    let (found, _) = survey().await;
    assert_eq!(found.links[0].ours, Some(crate::world::at(A)), "both are there for a moment");
    weave_net::remove(&found.links[0]).await.unwrap();
    weave_net::remove(&found.links[0]).await.unwrap();
    assert_eq!(survey().await.1, [""; 0]);
    let left = container.sh("ip -o -4 addr show scope global; ip route get 10.33.0.1");
    assert!(left.contains("10.32.1.2/12") && left.contains("via 169.254.1.1 dev ethwe"), "{left}");
}

async fn a_link_that_leads_nowhere_known_is_named(_world: World) {
    bridge();
    let (known, unknown) = (Inhabited::new(), Container::new());
    known.connect(1, A);
    // The namespace of a thread is none of those that are looked into.
    sh(&format!(
        "ip link add vethwepl2 type veth peer name ethwe netns {}; ip link set vethwepl2 master weave up",
        unknown.task()
    ));
    let (survey, found) = survey().await;
    assert_eq!(found, ["vethwepl1 ethwe 10.32.1.2/12"]);
    assert!(survey.unread.iter().any(|why| why.starts_with("vethwepl2: ")), "{:?}", survey.unread);
}

async fn a_link_that_has_changed_is_left_alone(_world: World) {
    bridge();
    let container = Inhabited::new();
    container.connect(1, A);
    let (found, _) = survey().await;
    sh("ip link set vethwepl1 down; ip link set vethwepl1 name another");
    let fault = weave_net::set_aside(&found.links[0]).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Outdated, "{fault}");
    weave_net::remove(&found.links[0]).await.unwrap();
    assert!(sh("ip -o link show").contains("another"), "what bears that index is another's");
}

async fn a_host_without_weave_net_has_nothing(_world: World) {
    assert_eq!(weave_net::survey().await.unwrap(), Survey::default());
}
