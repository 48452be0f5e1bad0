//! Our nftables table, and what other programs' chains do to us.

use std::{
    net::{TcpListener, TcpStream, UdpSocket},
    process::Command,
};

use nix::sched::{CloneFlags, unshare};
use weavers::state::{Docker0, Forward, HostAction, Isolation, REST, Rules, Subnet};

use crate::{
    stories,
    world::{Container, PATIENCE, World, at, create, crosses, range, rules, sh, udp, uplink},
};

stories![
    rules_are_read_back_as_they_were_loaded,
    a_daemon_knows_its_rules_where_no_protocol_has_a_name,
    rules_of_an_earlier_life_make_no_route_of_the_host_a_conflict,
    rules_for_uplinks_that_are_not_there_shut_no_peer_out,
    a_container_reaches_the_host_but_not_its_mesh,
    containers_reach_their_own_subnet_and_those_that_it_allows,
    rules_of_many_subnets_are_read_back_as_they_were_loaded,
    what_would_go_from_uplink_to_uplink_is_dropped_and_what_leaves_is_masqueraded,
    what_the_host_itself_sends_into_the_tunnel_comes_from_an_address_that_it_owns,
    a_container_is_answered_by_another_that_it_called_by_a_published_port,
    docker_s_drop_is_opened_and_closed_again,
    a_flushed_forward_chain_is_opened_again,
    what_was_lent_passes_by_interfaces_of_others_where_docker_drops_all_else,
    docker_0_is_seen_with_its_address_and_whether_docker_drops_what_comes_from_elsewhere,
    a_chain_that_only_its_owner_should_amend_is_named,
    old_iptables_are_seen_where_they_are,
    a_container_is_connected_only_under_the_rules_that_were_seen,
    an_uplink_that_is_no_name_reaches_no_script,
];

async fn rules_are_read_back_as_they_were_loaded(mut world: World) {
    let many = Rules { uplinks: ["ens5", "eth0", "a", "eth1.100"].map(Into::into).into(), ..rules() };
    let open = Rules { block_metadata: false, ..rules() };
    let far = Rules { prefix: "fd00:1::/96".parse().ok(), ..by_tunnel() };
    for wanted in [rules(), many, open, far] {
        world.wanted.rules = Some(wanted.clone());
        assert_eq!(world.observe().await.rules, None);
        world.load_rules(wanted.clone()).await;
        assert_eq!(world.observe().await.rules.as_ref(), Some(&wanted));
        // Another life of the program, which remembers nothing, sees it too.
        world.kernel = weavers::kernel::Kernel::new(weavers::kernel::watch::Changes::default()).unwrap();
        assert_eq!(world.observe().await.rules.as_ref(), Some(&wanted));
        let handles = sh("nft -a list ruleset");
        world.load_rules(wanted).await;
        assert_eq!(sh("nft -a list ruleset"), handles, "what is in force is not loaded again");
    }
    sh("nft add rule inet weave forward accept");
    assert_eq!(world.observe().await.rules, None);
    sh("nft flush ruleset");
    assert_eq!(world.observe().await.rules, None);
    world.wanted.rules = None;
    assert_eq!(world.observe().await.rules, None);
    world.load_rules(rules()).await;
    world.wanted.rules = None;
    assert!(world.observe().await.rules.is_some(), "there is something to delete");
}

async fn a_daemon_knows_its_rules_where_no_protocol_has_a_name(mut world: World) {
    // A minimal Debian has no /etc/protocols, and nft lists numbers there.
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    sh("[ ! -e /etc/protocols ] || mount --bind /dev/null /etc/protocols");
    let wanted = Rules { isolation: isolation().into(), ..rules() };
    world.load_rules(wanted.clone()).await;
    assert!(!sh("nft list table inet weave").contains("{ tcp, udp }"));
    world.kernel = weavers::kernel::Kernel::new(weavers::kernel::watch::Changes::default()).unwrap();
    assert_eq!(world.observe().await.rules.as_ref(), Some(&wanted));
    sh("nft add rule inet weave forward meta l4proto 6 accept");
    assert_eq!(world.observe().await.rules, None);
}

/// Where no uplink is known, what is there stays, whatever it is.
async fn rules_of_an_earlier_life_make_no_route_of_the_host_a_conflict(mut world: World) {
    world.load_rules(rules()).await;
    world.wanted.rules = None;
    world.kernel = weavers::kernel::Kernel::new(weavers::kernel::watch::Changes::default()).unwrap();
    world.wanted.rules = world.observe().await.rules;
    assert!(world.wanted.rules.is_some());
    sh("ip route add 172.16.0.0/12 dev lo; ip route add 10.34.0.0/16 dev lo");
    assert_eq!(world.observe().await.foreign.len(), 0, "nobody knows the range");
    let container = Container::new();
    world.attach(&container, "10.32.1.2", 9000).await;
    let foreign: Vec<_> = world.observe().await.foreign.into_keys().collect();
    assert_eq!(foreign, ["10.34.0.0/16".parse().unwrap()]);
}

async fn rules_for_uplinks_that_are_not_there_shut_no_peer_out(mut world: World) {
    let router = Container::new();
    uplink(&router);
    world.load_rules(rules()).await;
    let odd = Rules { uplinks: ["ens5".to_owned()].into(), ..rules() };
    let fault = world.refused(HostAction::LoadRules(odd)).await;
    assert!(fault.message.contains("ens5") && fault.hint.unwrap().contains("[network] uplinks"));
    assert!(world.observe().await.rules.is_some(), "those of before are in force");
    let _mesh = TcpListener::bind("10.0.1.12:6783").unwrap();
    assert!(router.run(|| TcpStream::connect_timeout(&"10.0.1.12:6783".parse().unwrap(), PATIENCE).is_ok()));
}

async fn a_container_reaches_the_host_but_not_its_mesh(mut world: World) {
    let container = Container::new();
    world.attach(&container, "10.32.1.2", 9000).await;
    sh("ip addr add 169.254.169.254/32 dev lo");
    let _listeners =
        ["10.0.1.11:6783", "10.0.1.11:80", "169.254.169.254:80"].map(|at| TcpListener::bind(at).unwrap());
    let reaches = |to: &'static str| {
        container.run(move || TcpStream::connect_timeout(&to.parse().unwrap(), PATIENCE).is_ok())
    };
    let mesh = UdpSocket::bind("10.0.1.11:6783").unwrap();
    mesh.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(reaches("10.0.1.11:6783") && reaches("169.254.169.254:80"), "as long as there are no rules");
    assert!(crosses(&container.udp("10.32.1.2"), &mesh, 70));
    world.load_rules(rules()).await;
    assert!(reaches("10.0.1.11:80"));
    assert!(!reaches("10.0.1.11:6783"));
    assert!(!crosses(&container.udp("10.32.1.2"), &mesh, 70), "nor by datagrams");
    assert!(!reaches("169.254.169.254:80"));
    world.load_rules(Rules { block_metadata: false, ..rules() }).await;
    assert!(reaches("169.254.169.254:80"));
}

/// The answer goes from container to container, and has to be tracked to come from where the call went to.
async fn a_container_is_answered_by_another_that_it_called_by_a_published_port(mut world: World) {
    let (caller, called) = (Container::new(), Container::new());
    world.attach(&caller, "10.32.1.2", 9000).await;
    world.attach(&called, "10.32.1.3", 9000).await;
    world.load_rules(rules()).await;
    sh(
        "nft 'table ip theirs { chain nat { type nat hook prerouting priority dstnat; ip daddr 10.0.1.11 tcp dport 8080 dnat to 10.32.1.3:80; }; }'",
    );
    let _service = called.run(|| TcpListener::bind("10.32.1.3:80").unwrap());
    let calls =
        || caller.run(|| TcpStream::connect_timeout(&"10.0.1.11:8080".parse().unwrap(), PATIENCE).is_ok());
    assert!(calls());
    sh(
        "nft 'table ip untracked { chain p { type filter hook prerouting priority raw; ip saddr 10.32.0.0/12 ip daddr 10.32.0.0/12 notrack; }; }'",
    );
    assert!(!calls(), "this is why our table leaves no traffic untracked");
}

/// `web` reaches `db` and the rest, `db` nobody else, the rest `web`.
fn isolation() -> Isolation {
    let allow = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let subnet = |cidr: &str, names: &[&str]| Subnet { cidr: cidr.parse().unwrap(), allow: allow(names) };
    let web = ("web".to_owned(), subnet("10.32.0.0/16", &["db", REST]));
    let db = ("db".to_owned(), subnet("10.33.0.0/16", &[]));
    Isolation { subnets: [web, db].into(), rest: allow(&["web"]) }
}

async fn containers_reach_their_own_subnet_and_those_that_it_allows(mut world: World) {
    const NAMES: [&str; 6] = ["web", "web", "db", "db", "rest", "rest"];
    const AT: [&str; 6] = ["10.32.0.1", "10.32.0.2", "10.33.0.1", "10.33.255.254", "10.34.0.1", "10.47.0.1"];
    let containers = AT.map(|_| Container::new());
    for (container, address) in containers.iter().zip(AT) {
        world.attach(container, address, 9000).await;
    }
    let sockets: Vec<UdpSocket> = containers.iter().zip(AT).map(|(c, address)| c.udp(address)).collect();
    let reached = || -> Vec<(&str, &str)> {
        let pairs = (0..6).flat_map(|from| (0..6).map(move |to| (from, to))).filter(|(from, to)| from != to);
        let mut reached: Vec<_> = pairs
            .filter(|&(from, to)| crosses(&containers[from].udp(AT[from]), &sockets[to], 100))
            .map(|(from, to)| (NAMES[from], NAMES[to]))
            .collect();
        reached.sort_unstable();
        reached.dedup();
        reached
    };
    world.load_rules(rules()).await;
    assert_eq!(reached().len(), 9, "without subnets all reach all");
    let wanted = Rules { isolation: isolation().into(), ..rules() };
    world.load_rules(wanted.clone()).await;
    let allowed =
        [("db", "db"), ("rest", "rest"), ("rest", "web"), ("web", "db"), ("web", "rest"), ("web", "web")];
    assert_eq!(reached(), allowed);
    assert!(crosses(&udp("10.0.1.11"), &sockets[2], 100), "the host is no container");

    // Who was called may answer, and goes on answering when the way is closed.
    let (caller, called) = (containers[0].udp(AT[0]), &sockets[2]);
    assert!(crosses(&caller, called, 100) && crosses(called, &caller, 100));
    let mut closed = isolation();
    closed.subnets.values_mut().for_each(|subnet| subnet.allow.clear());
    world.load_rules(Rules { isolation: closed.into(), ..rules() }).await;
    assert!(crosses(&caller, called, 100), "an open connection goes on");
    assert_eq!(reached(), [("db", "db"), ("rest", "rest"), ("rest", "web"), ("web", "web")]);

    // What a colleague adds or takes is seen.
    world.load_rules(wanted).await;
    sh("nft add element inet weave to-db '{ 10.34.0.0/16 }'");
    assert_eq!(world.observe().await.rules, None);
    sh("nft delete element inet weave to-db '{ 10.34.0.0/16 }'");
    assert!(world.observe().await.rules.is_some());
    sh("nft flush map inet weave isolation");
    assert_eq!(world.observe().await.rules, None);
}

async fn rules_of_many_subnets_are_read_back_as_they_were_loaded(mut world: World) {
    let names = || (0..64).map(|n| format!("subnet-{n}"));
    let of = |n: usize| Subnet {
        cidr: format!("10.{}.{n}.0/24", 32 + n % 3).parse().unwrap(),
        allow: names().step_by(n + 1).collect(),
    };
    let subnets = names().enumerate().map(|(n, name)| (name, of(n))).collect();
    let isolation = Isolation { subnets, rest: names().take(3).collect() };
    let wanted = Rules { isolation: isolation.into(), ..rules() };
    world.load_rules(wanted.clone()).await;
    // Another life of the program, which remembers nothing.
    world.kernel = weavers::kernel::Kernel::new(weavers::kernel::watch::Changes::default()).unwrap();
    assert_eq!(world.observe().await.rules, Some(wanted));
}

async fn what_would_go_from_uplink_to_uplink_is_dropped_and_what_leaves_is_masqueraded(mut world: World) {
    let (container, router) = (Container::new(), Container::new());
    uplink(&router);
    world.attach(&container, "10.32.1.2", 1500).await;
    world.load_rules(rules()).await;
    let (inside, outside) = (container.udp("10.32.1.2"), router.udp("10.0.1.1"));
    inside.send_to(b"hello", outside.local_addr().unwrap()).unwrap();
    let (_, source) = outside.recv_from(&mut [0; 8]).unwrap();
    assert_eq!(source.ip().to_string(), "10.0.1.12", "masqueraded");
    let comes_in = crosses(&router.udp("10.0.1.1"), &container.udp("10.32.1.2"), 100);
    assert!(comes_in, "a packet for a container that is here");
    let _ = outside.send_to(b"nobody", "10.33.0.1:9");
    let dropped = || sh("nft list chain inet weave forward | grep 'loop guard'");
    assert!(dropped().contains("packets 1 "), "{}", dropped());
}

/// The rules of a host that has a tunnel.
fn by_tunnel() -> Rules {
    let uplinks = ["eth0", "weave-tunnel"].map(Into::into).into();
    Rules { uplinks, tunnel_source: Some(at(OWN)), ..rules() }
}

const OWN: &str = "10.32.0.1";

async fn what_the_host_itself_sends_into_the_tunnel_comes_from_an_address_that_it_owns(mut world: World) {
    let (router, far) = (Container::new(), Container::new());
    uplink(&router);
    // A wire without neighbours, as a tunnel is.
    let mac = "02:00:00:00:00:01";
    let ends =
        format!("weave-tunnel address {mac} type veth peer name end0 address {mac} netns {}", far.task());
    sh(&format!(
        "ip link add {ends}; ip link set weave-tunnel arp off up; ip route add 10.40.0.0/14 dev weave-tunnel"
    ));
    far.sh("ip link set end0 arp off up; ip addr add 10.40.0.1/32 dev end0; ip route add default dev end0");
    world.load_rules(by_tunnel()).await;
    let (caller, service) = (udp("0.0.0.0"), far.udp("10.40.0.1"));
    caller.send_to(b"hello", service.local_addr().unwrap()).unwrap();
    let (_, source) = service.recv_from(&mut [0; 8]).unwrap();
    assert_eq!(source.ip().to_string(), OWN);
    service.send_to(b"hi", source).unwrap();
    let (_, answers) = caller.recv_from(&mut [0; 8]).unwrap();
    assert_eq!(answers, service.local_addr().unwrap());
    // Nobody here has asked for this.
    let other = far.udp("10.40.0.1");
    other.send_to(b"me first", ("10.0.1.12", caller.local_addr().unwrap().port())).unwrap();
    let dropped = || sh("nft list chain inet weave input | grep tunnel");
    assert!(dropped().contains("packets 1 "), "{}", dropped());
}

const DOCKER: &str = r#"nft -f - <<'E'
table ip filter {
    chain DOCKER-USER { counter return; }
    chain FORWARD {
        type filter hook forward priority filter; policy drop;
        counter jump DOCKER-USER
    }
}
E"#;

async fn docker_s_drop_is_opened_and_closed_again(mut world: World) {
    let (one, other) = (Container::new(), Container::new());
    world.attach(&one, "10.32.1.2", 9000).await;
    world.attach(&other, "10.32.1.3", 9000).await;
    world.load_rules(rules()).await;
    let (a, b) = (one.udp("10.32.1.2"), other.udp("10.32.1.3"));
    assert_eq!(world.observe().await.forward, Forward::Open);
    assert!(crosses(&a, &b, 100));

    sh(DOCKER);
    sh("nft insert rule ip filter DOCKER-USER ip saddr 192.0.2.1 drop");
    let before = sh("nft -s list table ip filter");
    assert_eq!(world.observe().await.forward, Forward::Closed("ip filter DOCKER-USER".into()));
    assert!(!crosses(&a, &b, 100));

    let open = HostAction::OpenForward { uplinks: rules().uplinks, range: None, has_v6: false };
    world.apply(open.clone()).await;
    assert_eq!(world.observe().await.forward, Forward::Opened("ip filter DOCKER-USER".into()));
    assert!(crosses(&a, &b, 100));
    let opened = sh("nft -s list table ip filter");
    world.apply(open).await;
    assert_eq!(sh("nft -s list table ip filter"), opened, "opening twice is opening once");

    // Where iptables is, it can still read its table.
    sh(
        "command -v iptables-nft >/dev/null || exit 0; iptables-nft -S DOCKER-USER | grep -q -- '-o wv+ .*-j ACCEPT'",
    );

    for _ in 0..2 {
        world.apply(HostAction::CloseForward).await;
        assert_eq!(sh("nft -s list table ip filter"), before, "only what was ours is gone");
    }
    assert_eq!(world.observe().await.forward, Forward::Closed("ip filter DOCKER-USER".into()));
}

async fn what_was_lent_passes_by_interfaces_of_others_where_docker_drops_all_else(mut world: World) {
    world.load_rules(rules()).await;
    sh(DOCKER);
    let before = sh("nft -s list table ip filter");
    let open = |range| HostAction::OpenForward { uplinks: rules().uplinks, range, has_v6: false };
    world.apply(open(None)).await;
    assert!(matches!(world.observe().await.forward, Forward::Opened(_)));
    world.wanted.lent = std::sync::Arc::new([range()].into());
    assert!(matches!(world.observe().await.forward, Forward::Closed(_)), "something was lent since");
    world.apply(open(Some(range()))).await;
    assert!(matches!(world.observe().await.forward, Forward::Opened(_)));
    let opened = sh("nft -s list table ip filter");
    assert!(opened.contains(&format!("ip saddr {} ip daddr {}", range(), range())), "{opened}");
    world.apply(open(Some(range()))).await;
    assert_eq!(sh("nft -s list table ip filter"), opened, "opening twice is opening once");
    world.wanted.lent = Default::default();
    assert!(matches!(world.observe().await.forward, Forward::Closed(_)), "nothing is lent any more");
    world.apply(HostAction::CloseForward).await;
    assert_eq!(sh("nft -s list table ip filter"), before, "only what was ours is gone");
}

async fn docker_0_is_seen_with_its_address_and_whether_docker_drops_what_comes_from_elsewhere(
    mut world: World,
) {
    world.load_rules(rules()).await;
    assert_eq!(world.observe().await.surroundings.docker0, None);
    sh("ip link add docker0 type bridge; ip addr add 10.32.8.1/24 dev docker0; ip link set docker0 up");
    let address = "10.32.8.1/24".parse().unwrap();
    assert_eq!(world.observe().await.surroundings.docker0, Some(Docker0 { address, drops: false }));
    let chain = "type filter hook prerouting priority -300; policy accept;";
    sh(&format!(
        "nft 'table ip raw {{ chain PREROUTING {{ {chain} iifname != \"docker0\" ip daddr 10.32.8.2 counter drop; }}; }}'"
    ));
    assert_eq!(world.observe().await.surroundings.docker0, Some(Docker0 { address, drops: true }));
    sh("nft flush chain ip raw PREROUTING; nft add rule ip raw PREROUTING ip daddr 10.32.8.2 drop");
    assert_eq!(
        world.observe().await.surroundings.docker0,
        Some(Docker0 { address, drops: false }),
        "that is somebody else's"
    );
}

async fn a_flushed_forward_chain_is_opened_again(mut world: World) {
    world.wanted.rules = Some(rules());
    sh(DOCKER);
    let open = HostAction::OpenForward { uplinks: rules().uplinks, range: None, has_v6: false };
    world.apply(open.clone()).await;
    sh("nft flush chain ip filter FORWARD");
    assert_eq!(world.observe().await.forward, Forward::Closed("ip filter DOCKER-USER".into()));
    world.apply(open).await;
    assert_eq!(world.observe().await.forward, Forward::Opened("ip filter DOCKER-USER".into()));
    world.wanted.rules = None;
    assert!(matches!(world.observe().await.forward, Forward::Opened(_)), "there is something to close");
    world.wanted.rules = Some(rules());
    sh("nft flush ruleset");
    assert_eq!(world.observe().await.forward, Forward::Open, "nothing drops any more");
}

async fn a_chain_that_only_its_owner_should_amend_is_named(mut world: World) {
    world.wanted.rules = Some(rules());
    sh(
        "nft 'table inet firewalld { chain filter_FORWARD { type filter hook forward priority 10; policy accept; ct state established accept; reject with icmpx admin-prohibited; }; }'",
    );
    let firewalld = Forward::Foreign("inet firewalld filter_FORWARD".into());
    assert_eq!(world.observe().await.forward, firewalld);
    sh(DOCKER);
    assert!(matches!(world.observe().await.forward, Forward::Closed(_)), "what we can amend comes first");
    world.apply(HostAction::OpenForward { uplinks: rules().uplinks, range: None, has_v6: false }).await;
    assert_eq!(world.observe().await.forward, firewalld);
    sh("nft insert rule inet firewalld filter_FORWARD oifname '\"wv*\"' accept");
    let opened = Forward::Opened("ip filter DOCKER-USER".into());
    assert_eq!(world.observe().await.forward, opened, "its owner has dealt with it");
}

async fn old_iptables_are_seen_where_they_are(mut world: World) {
    world.wanted.rules = Some(rules());
    let drop = Command::new("iptables-legacy").args(["-P", "FORWARD", "DROP"]).output();
    if !drop.is_ok_and(|output| output.status.success()) {
        return; // They are on their way out: many machines have none, and only root may lock them.
    }
    assert_eq!(world.observe().await.forward, Forward::Foreign("iptables-legacy FORWARD".into()));
    sh("iptables-legacy -A FORWARD -o wv+ -j ACCEPT");
    assert_eq!(world.observe().await.forward, Forward::Open);
}

async fn an_uplink_that_is_no_name_reaches_no_script(mut world: World) {
    let odd = Rules { uplinks: ["a\" }; flush ruleset".to_owned()].into(), ..rules() };
    let fault = world.refused(HostAction::LoadRules(odd)).await;
    assert!(fault.message.contains("is not the name of an interface"), "{fault}");
    assert_eq!(sh("nft list ruleset"), "");
}

async fn a_container_is_connected_only_under_the_rules_that_were_seen(mut world: World) {
    world.load_rules(rules()).await;
    let (first, second) = (Container::new(), Container::new());
    sh("nft add table inet other");
    world.attach(&first, "10.32.1.2", 1500).await;
    sh("nft flush table inet weave");
    for _ in 0..2 {
        let refused = world.refused(create(&second, "10.32.1.3", 1500)).await;
        assert!(refused.message.contains("table inet weave is not as it was loaded"), "{refused}");
        assert!(!sh("ip link").contains("wv0a200103"));
    }
    world.load_rules(rules()).await;
    world.attach(&second, "10.32.1.3", 1500).await;
}
