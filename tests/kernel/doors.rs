//! What a container must not reach, must not do to its host, and must not hold up.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream, UdpSocket},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::{
    libc,
    sys::socket::{
        AddressFamily, MsgFlags, SetSockOpt, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6,
        sendto, socket,
    },
};
use weavers::state::{HostAction, Rules};

use crate::{
    stories,
    world::{Container, PATIENCE, World, at, create, crosses, mend, rules, sh, udp, uplink},
};

stories![
    a_second_interface_of_a_container_leads_neither_to_the_mesh_nor_to_the_metadata,
    peers_and_the_host_itself_reach_the_mesh,
    the_host_s_loopback_is_no_container_s_even_where_route_localnet_is_set,
    a_router_advertisement_from_a_container_gives_the_host_no_route,
    addresses_that_another_program_gives_to_a_host_end_are_named_and_taken_away,
    a_host_end_that_was_made_a_port_of_a_bridge_is_named_and_freed,
    a_host_end_that_was_renamed_is_known_and_named_back,
    a_renamed_host_end_goes_with_its_container,
    a_hundred_thousand_routes_in_a_container_hold_up_nobody_else,
    a_stray_segment_does_not_end_a_masqueraded_connection,
    what_has_no_connection_does_not_leave_unmasqueraded,
];

const A: &str = "10.32.1.2";
const B: &str = "10.32.1.3";
const HOST_END: &str = "wv0a200102";

fn reaches(container: &Container, to: &'static str) -> bool {
    container.run(move || TcpStream::connect_timeout(&to.parse().unwrap(), PATIENCE).is_ok())
}

async fn a_second_interface_of_a_container_leads_neither_to_the_mesh_nor_to_the_metadata(mut world: World) {
    let (container, router) = (Container::new(), Container::new());
    uplink(&router);
    world.attach(&container, A, 1500).await;
    sh("ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0; ip link set docker0 up");
    let task = container.task();
    sh(&format!("ip link add veth0 type veth peer name eth0 netns {task}"));
    sh("ip link set veth0 master docker0 up; ip addr add 169.254.169.254/32 dev lo");
    container.sh("ip addr add 172.17.0.2/16 dev eth0; ip link set eth0 up; ip route add 169.254.169.254 via 172.17.0.1; ip route add 10.0.1.1 via 172.17.0.1");
    router.sh("ip route add 172.17.0.0/16 via 10.0.1.12");
    let _listeners =
        ["172.17.0.1:6783", "172.17.0.1:80", "169.254.169.254:80"].map(|at| TcpListener::bind(at).unwrap());
    let _peer = router.run(|| TcpListener::bind("10.0.1.1:6783").unwrap());
    let behind = ["172.17.0.1:6783", "169.254.169.254:80", "10.0.1.1:6783"];
    // A port of a bridge that came up drops packets for a moment.
    let reaches_all = || behind.into_iter().all(|to| reaches(&container, to));
    assert!((0..10).any(|_| reaches_all()), "as long as there are no rules");
    world.load_rules(rules()).await;
    assert!(reaches(&container, "172.17.0.1:80"));
    for to in behind {
        assert!(!reaches(&container, to), "{to}");
    }
    // The metadata of a real host is beyond an uplink.
    sh("ip addr del 169.254.169.254/32 dev lo");
    router.sh("ip addr add 169.254.169.254/32 dev lo");
    let _metadata = router.run(|| TcpListener::bind("169.254.169.254:80").unwrap());
    assert!(!reaches(&container, "169.254.169.254:80"));
    world.load_rules(Rules { block_metadata: false, ..rules() }).await;
    assert!(reaches(&container, "169.254.169.254:80"));
}

async fn peers_and_the_host_itself_reach_the_mesh(mut world: World) {
    let router = Container::new();
    uplink(&router);
    world.load_rules(rules()).await;
    let _mesh = TcpListener::bind("10.0.1.12:6783").unwrap();
    assert!(reaches(&router, "10.0.1.12:6783"));
    assert!(TcpStream::connect_timeout(&"10.0.1.12:6783".parse().unwrap(), PATIENCE).is_ok());
}

async fn the_host_s_loopback_is_no_container_s_even_where_route_localnet_is_set(mut world: World) {
    let container = Container::new();
    world.attach(&container, A, 9000).await;
    sh("echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet");
    container.sh("echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.1 via 169.254.1.1 dev ethwe onlink");
    let (inside, private) = (container.udp(A), udp("127.0.0.1"));
    assert!(crosses(&inside, &private, 100), "as long as there are no rules");
    world.load_rules(rules()).await;
    assert!(!crosses(&inside, &private, 100));
    assert!(crosses(&udp("127.0.0.1"), &private, 100), "the host's own");
    // Who offers such a service to others on purpose goes on doing so.
    sh(
        "nft 'table ip theirs { chain nat { type nat hook prerouting priority dstnat; ip daddr 10.0.1.11 udp dport 99 dnat to 127.0.0.1; }; }'",
    );
    let offered = UdpSocket::bind("127.0.0.1:99").unwrap();
    offered.set_read_timeout(Some(PATIENCE)).unwrap();
    inside.send_to(b"hello", "10.0.1.11:99").unwrap();
    assert!(offered.recv_from(&mut [0; 8]).is_ok());
}

// ===== host ends =====

#[derive(Clone, Copy)]
struct MulticastHops;

nix::setsockopt_impl!(
    MulticastHops,
    libc::IPPROTO_IPV6,
    libc::IPV6_MULTICAST_HOPS,
    libc::c_int,
    nix::sys::socket::sockopt::SetStruct<libc::c_int>
);

/// Says that the way to the world leads by the far end, and that 2001:db8:bad::/64 is on the link.
fn advertise(container: &Container) {
    container.sh("ip -6 addr show dev ethwe | grep -q fe80::1/ || ip -6 addr add fe80::1/64 dev ethwe nodad");
    let index = container
        .sh("cat /proc/self/net/dev_mcast | grep -m1 ethwe")
        .split_whitespace()
        .next()
        .map(|index| index.parse().unwrap())
        .unwrap();
    container.run(move || {
        let mut message = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        message.extend([3, 4, 64, 0xc0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        message.extend("2001:db8:bad::".parse::<Ipv6Addr>().unwrap().octets());
        let from =
            socket(AddressFamily::Inet6, SockType::Raw, SockFlag::empty(), SockProtocol::IcmpV6).unwrap();
        MulticastHops.set(&from, &255).unwrap();
        let all_nodes = SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, index);
        use std::os::fd::AsRawFd;
        sendto(from.as_raw_fd(), &message, &SockaddrIn6::from(all_nodes), MsgFlags::empty()).unwrap();
    });
    thread::sleep(PATIENCE);
}

async fn a_router_advertisement_from_a_container_gives_the_host_no_route(mut world: World) {
    if !Path::new("/proc/sys/net/ipv6").exists() {
        return; // A kernel without IPv6 has nothing to fear.
    }
    let container = Container::new();
    let of_host = || {
        sh(
            "ip -6 route show table all | grep -v '^fe80\\|^ff00\\|^multicast' || true; ip -6 addr show scope global",
        )
    };
    let before = of_host();
    world.attach(&container, A, 9000).await;
    assert_eq!(world.faults(A).await, [""; 0]);
    advertise(&container);
    assert_eq!(of_host(), before);

    // Somebody allows IPv6 on all interfaces: nobody listens, and the link is not as it should be.
    sh("echo 0 > /proc/sys/net/ipv6/conf/all/disable_ipv6");
    advertise(&container);
    assert_eq!(of_host(), before);
    let faults = world.faults(A).await;
    assert!(faults.contains(&"disable_ipv6 is 0".into()), "{faults:?}");
    sh(&format!("echo 1 > /proc/sys/net/ipv6/conf/{HOST_END}/accept_ra"));
    advertise(&container);
    assert!(of_host().contains("2001:db8:bad::"), "it is these settings that stop it");
    world.apply(mend(&container, A, 9000)).await;
    assert_eq!(of_host(), before);
    assert_eq!(world.faults(A).await, [""; 0]);
}

async fn addresses_that_another_program_gives_to_a_host_end_are_named_and_taken_away(mut world: World) {
    let container = Container::new();
    world.attach(&container, A, 9000).await;
    let before = sh("ip route; ip addr");
    sh(&format!("ip addr add 169.254.77.1/16 dev {HOST_END}"));
    assert!(sh("ip route get 169.254.169.254").contains(HOST_END), "the metadata leads into a container");
    let named = ["address 169.254.77.1/16 on the host end, which is to have none"];
    assert_eq!(world.faults(A).await, named);
    world.apply(mend(&container, A, 9000)).await;
    assert_eq!(sh("ip route; ip addr"), before);
    assert_eq!(world.faults(A).await, [""; 0]);
    if Path::new("/proc/sys/net/ipv6").exists() {
        sh(&format!("echo 0 > /proc/sys/net/ipv6/conf/{HOST_END}/disable_ipv6"));
        sh(&format!("ip -6 addr add 2001:db8:bad::1/64 dev {HOST_END} nodad"));
        let faults = world.faults(A).await;
        assert!(faults.iter().any(|fault| fault.contains("2001:db8:bad::1/64")), "{faults:?}");
        world.apply(mend(&container, A, 9000)).await;
        assert_eq!(sh("ip route; ip addr"), before);
    }
}

async fn a_host_end_that_was_made_a_port_of_a_bridge_is_named_and_freed(mut world: World) {
    let container = Container::new();
    world.attach(&container, A, 9000).await;
    sh(&format!("ip link add br9 type bridge; ip link set br9 up; ip link set {HOST_END} master br9"));
    let named = ["host end is a port of br9, which takes its packets"];
    assert_eq!(world.faults(A).await, named);
    world.apply(mend(&container, A, 9000)).await;
    assert_eq!(world.faults(A).await, [""; 0]);
    assert!(crosses(&udp("10.0.1.11"), &container.udp(A), 9000));
}

fn rename() {
    sh(&format!("ip link set {HOST_END} down; ip link set {HOST_END} name veth7; ip link set veth7 up"));
}

async fn a_host_end_that_was_renamed_is_known_and_named_back(mut world: World) {
    let container = Container::new();
    world.attach(&container, A, 9000).await;
    rename();
    let faults = world.faults(A).await;
    assert_eq!(faults[0], "host end is named veth7");
    world.apply(mend(&container, A, 9000)).await;
    assert_eq!(world.observe().await.links, world.wanted.links);
    assert!(crosses(&udp("10.0.1.11"), &container.udp(A), 9000));

    // An earlier version gave it no alias: the pair tells.
    sh(&format!("ip link set {HOST_END} alias ''"));
    rename();
    assert!(world.observe().await.links.is_empty());
    world.apply(create(&container, A, 9000)).await;
    assert_eq!(world.observe().await.links, world.wanted.links);
}

async fn a_renamed_host_end_goes_with_its_container(mut world: World) {
    let container = Container::new();
    world.attach(&container, A, 9000).await;
    rename();
    world.apply(HostAction::DeleteLink(at(A))).await;
    assert_eq!(container.sh("ip link show ethwe 2>&1 || true").matches("does not exist").count(), 1);
    assert!(world.observe().await.links.is_empty());
}

// ===== bounds =====

async fn a_hundred_thousand_routes_in_a_container_hold_up_nobody_else(mut world: World) {
    const ROUTES: u32 = 150_000;
    let (flooder, other) = (Container::new(), Container::new());
    world.attach(&flooder, A, 9000).await;
    let batch = tempfile::NamedTempFile::new().unwrap();
    let route = |n: u32| format!("route add {}/32 dev ethwe proto 67\n", Ipv4Addr::from(0x0b00_0000 + n));
    fs::write(batch.path(), (0..ROUTES).map(route).collect::<String>()).unwrap();
    let path = batch.path().display().to_string();
    flooder.run(move || sh(&format!("ip -batch {path}")));

    let begun = Instant::now();
    let faults = world.faults(A).await;
    let mended = world.refused(mend(&flooder, A, 9000)).await;
    world.attach(&other, B, 9000).await;
    assert_eq!(world.faults(B).await, [""; 0]);
    // Much less on a machine that does nothing else.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(crosses(&udp("10.0.1.11"), &other.udp(B), 9000));
    assert!(faults.len() == 1 && faults[0].contains("more than 256 routes"), "{faults:?}");
    assert!(mended.message.contains("more than 256 routes") && mended.hint.is_some(), "{mended}");

    // Routes of others are no concern of ours, however many there are.
    flooder.sh("ip route flush table main proto 67");
    fs::write(batch.path(), (0..ROUTES).map(route).collect::<String>().replace("67\n", "186\n")).unwrap();
    let path = batch.path().display().to_string();
    flooder.run(move || sh(&format!("ip -batch {path}")));
    world.apply(mend(&flooder, A, 9000)).await;
    let begun = Instant::now();
    assert_eq!(world.observe().await.links, world.wanted.links);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

// ===== connection tracking =====

/// A TCP segment that fits no connection, or hardly any, in its packet.
fn segment(from: SocketAddrV4, to: SocketAddrV4, flags: u8, sequence: u32) -> Vec<u8> {
    let (source, destination) = (from.ip().octets(), to.ip().octets());
    let mut tcp = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    tcp.extend(sequence.to_be_bytes());
    tcp.extend([0x5b, 0x44, 0x55, 0x66, 0x50, flags, 0x10, 0, 0, 0, 0, 0]);
    let pseudo = [&source[..], &destination[..], &[0, 6, 0, tcp.len() as u8], &tcp[..]].concat();
    let sum: u32 = pseudo.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    tcp[16..18].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    let mut packet = vec![0x45, 0, 0, 20 + tcp.len() as u8, 0, 0, 0x40, 0, 64, 6, 0, 0];
    packet.extend(source.into_iter().chain(destination));
    packet.extend(tcp);
    packet
}

fn send_raw(container: &Container, packet: Vec<u8>, to: SocketAddrV4) {
    container.run(move || {
        use std::os::fd::AsRawFd;
        let from = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw).unwrap();
        sendto(from.as_raw_fd(), &packet, &SockaddrIn::from(to), MsgFlags::empty()).unwrap();
    });
    thread::sleep(PATIENCE);
}

const RST: u8 = 0x04;
const ACK: u8 = 0x10;

async fn a_stray_segment_does_not_end_a_masqueraded_connection(mut world: World) {
    let (container, router) = (Container::new(), Container::new());
    uplink(&router);
    world.attach(&container, A, 1500).await;
    world.load_rules(rules()).await;
    router.sh("nft 'table ip count { chain in { type filter hook prerouting priority raw; tcp flags rst counter; }; }'");
    let listener = router.run(|| TcpListener::bind("10.0.1.1:80").unwrap());
    let _client = container.run(|| TcpStream::connect("10.0.1.1:80").unwrap());
    let (_server, client) = listener.accept().unwrap();
    assert_eq!(client.ip().to_string(), "10.0.1.12", "masqueraded");
    let (from, to) = ("10.0.1.1:80".parse().unwrap(), client.to_string().parse().unwrap());
    let resets = || {
        let listed = router.sh("nft list chain ip count in");
        listed.split_once("packets ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok()).unwrap_or(99)
    };
    // What is behind the window passes; one of these is beyond it.
    let stray = || {
        for sequence in [0, 1 << 30, 2 << 30, 3 << 30] {
            send_raw(&router, segment(from, to, ACK, sequence), to);
        }
    };
    stray();
    assert_eq!(resets(), 0);
    sh("nft flush chain inet weave output");
    stray();
    assert!(resets() > 0, "it is this rule that stops it");

    // Who calls at a port where nobody listens is still told so.
    world.load_rules(rules()).await;
    let refused = router.run(|| TcpStream::connect_timeout(&"10.0.1.12:81".parse().unwrap(), PATIENCE));
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}

async fn what_has_no_connection_does_not_leave_unmasqueraded(mut world: World) {
    let (container, router) = (Container::new(), Container::new());
    uplink(&router);
    world.attach(&container, A, 1500).await;
    router.sh("nft 'table ip count { chain in { type filter hook prerouting priority raw; ip saddr 10.32.0.0/12 counter; }; }'");
    world.load_rules(rules()).await;
    let (from, to) = ("10.32.1.2:4000".parse().unwrap(), "10.0.1.1:80".parse().unwrap());
    send_raw(&container, segment(from, to, RST, 7), to);
    let bare = || router.sh("nft list chain ip count in");
    assert!(bare().contains("packets 0 "), "{}", bare());
    sh("nft flush chain inet weave forward");
    send_raw(&container, segment(from, to, RST, 7), to);
    assert!(bare().contains("packets 1 "), "it is this rule that stops it: {}", bare());
}
