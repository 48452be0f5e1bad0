//! The tunnel: a WireGuard device and its ends, as they are made, read and removed.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipnet::IpNet;
use weavers::{
    kernel::{Kernel, watch::Changes},
    state::{FaultKind, Hop, HostAction, Rules, Scope, Tunnel, TunnelKey, TunnelPeer},
    tunnel_key,
};

use crate::{
    stories,
    world::{World, rules, sh},
};

stories![
    a_tunnel_is_made_read_back_and_removed,
    what_others_do_to_it_is_seen_when_all_is_looked_at,
    routes_lead_into_it_and_say_how_long_packets_may_be,
    a_tunnel_without_a_key_is_refused_and_one_of_others_is_left_alone,
];

/// The program that stands in for the kernel finds a device by its name, in one directory for all.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Nothing of it is left, however the story ends: a program would go on by itself.
struct Turn {
    _alone: MutexGuard<'static, ()>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        sh("for link in weave-tunnel wg0; do ip link del $link 2>/dev/null || true; done");
    }
}

/// Whether there can be a tunnel here: with a kernel that has WireGuard, or with a device that a program may open.
fn may_tunnel() -> Option<Turn> {
    let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let in_kernel =
        sh("ip link add wgtry type wireguard 2>/dev/null && ip link del wgtry && echo yes || true");
    let opens = || fs::File::options().read(true).write(true).open("/dev/net/tun").is_ok();
    if in_kernel.is_empty() && !opens() {
        eprintln!("there is no WireGuard here: it takes a kernel that has it, or root");
        return None;
    }
    Some(Turn { _alone: guard })
}

/// A host with a key for its end.
fn with_key(world: &mut World) -> (tempfile::TempDir, TunnelKey) {
    let state = tempfile::tempdir().unwrap();
    let key = tunnel_key::load_or_make(state.path()).unwrap();
    world.kernel = Kernel::new(Changes::default()).unwrap().with_tunnel_key(tunnel_key::file(state.path()));
    (state, key)
}

async fn tunnel(world: &mut World) -> Option<Tunnel> {
    let remote = world.observe().await.remote;
    assert_eq!(remote.tunnel_unread, None);
    remote.tunnel.map(Arc::unwrap_or_clone)
}

fn cidrs(list: &[&str]) -> BTreeSet<IpNet> {
    list.iter().map(|cidr| cidr.parse().unwrap()).collect()
}

fn end(key: u8, endpoint: Option<&str>, allowed: &[&str]) -> HostAction {
    let endpoint = endpoint.map(|endpoint| endpoint.parse().unwrap());
    HostAction::SetTunnelPeer { key: key_of(key), endpoint, allowed: cidrs(allowed) }
}

/// The public key of some secret one: whoever calls himself by another is no end.
fn key_of(number: u8) -> TunnelKey {
    TunnelKey(weavers::mesh::public_key_of([number; 32]))
}

fn set(key: TunnelKey, port: u16, mtu: u32) -> HostAction {
    HostAction::SetTunnel { key, port, mtu }
}

async fn a_tunnel_is_made_read_back_and_removed(mut world: World) {
    let Some(_turn) = may_tunnel() else { return };
    let (_state, key) = with_key(&mut world);
    assert_eq!(tunnel(&mut world).await, None);
    for port in [6784, 6784, 7000] {
        world.apply(set(key, port, 1440)).await;
        let made = Tunnel { key, port, mtu: 1440, up: true, peers: [].into() };
        assert_eq!(tunnel(&mut world).await, Some(made));
    }
    world.apply(end(1, Some("192.0.2.7:6784"), &["10.32.0.0/14", "10.40.0.0/14"])).await;
    world.apply(end(2, None, &["10.40.0.0/14"])).await;
    let peers = tunnel(&mut world).await.unwrap().peers;
    let endpoint = "192.0.2.7:6784".parse().ok();
    assert_eq!(
        peers[&key_of(1)],
        TunnelPeer::new(endpoint, cidrs(&["10.32.0.0/14"])),
        "the other has it now"
    );
    assert_eq!(peers[&key_of(2)], TunnelPeer::new(None, cidrs(&["10.40.0.0/14"])));
    world.apply(end(1, None, &[])).await;
    let peers = tunnel(&mut world).await.unwrap().peers;
    assert_eq!(peers[&key_of(1)], TunnelPeer::new(endpoint, [].into()), "the endpoint stays as it is");
    for _ in 0..2 {
        world.apply(HostAction::DeleteTunnelPeer(key_of(1))).await;
    }
    assert_eq!(tunnel(&mut world).await.unwrap().peers.len(), 1);
    for _ in 0..2 {
        world.apply(HostAction::DeleteTunnel).await;
        assert_eq!(tunnel(&mut world).await, None);
    }
}

async fn what_others_do_to_it_is_seen_when_all_is_looked_at(mut world: World) {
    let Some(_turn) = may_tunnel() else { return };
    let (_state, key) = with_key(&mut world);
    world.apply(set(key, 6784, 1440)).await;
    world.apply(end(1, None, &["10.32.0.0/14"])).await;
    let before = tunnel(&mut world).await.unwrap();
    let one = key_of(1);
    for script in [
        format!("wg set weave-tunnel peer {one} remove"),
        format!("wg set weave-tunnel peer {one} allowed-ips 10.32.0.0/14,fd00::/64"),
        format!("wg set weave-tunnel peer {one} persistent-keepalive off"),
        "wg set weave-tunnel listen-port 7777".to_owned(),
        "ip link set weave-tunnel down".to_owned(),
        "ip link set weave-tunnel mtu 1300".to_owned(),
        "wg genkey >$TMPDIR/other; wg set weave-tunnel private-key $TMPDIR/other".to_owned(),
    ] {
        let dir = tempfile::tempdir().unwrap();
        sh(&format!("export TMPDIR={}; {script}", dir.path().display()));
        assert_ne!(tunnel(&mut world).await.unwrap(), before, "{script}");
        world.apply(set(key, 6784, 1440)).await;
        world.apply(end(1, None, &["10.32.0.0/14"])).await;
        assert_eq!(tunnel(&mut world).await.unwrap(), before, "{script}");
    }
    // What has not changed is not asked for again where only containers are looked at.
    sh(&format!("wg set weave-tunnel peer {one} remove"));
    let narrow = world.kernel.observe(&world.wanted, Scope::Changed).await.unwrap();
    assert_eq!(narrow.remote.tunnel.as_deref(), Some(&before));
    world.apply(HostAction::DeleteTunnel).await;
}

async fn routes_lead_into_it_and_say_how_long_packets_may_be(mut world: World) {
    let Some(_turn) = may_tunnel() else { return };
    let (_state, key) = with_key(&mut world);
    world.load_rules(Rules { prefix: "fd00:1::/96".parse().ok(), ..rules() }).await;
    let lead = |destination, mtu| HostAction::AddHostRoute { destination, hop: Hop::tunnel(mtu) };
    let refused = world.refused(lead("10.40.0.0/14".parse().unwrap(), None)).await;
    assert_eq!(refused.message, "no interface of this host is named weave-tunnel");
    world.apply(set(key, 6784, 8941)).await;
    for destination in ["10.40.0.0/14", "fd00:1::a28:0/110"].map(|cidr| cidr.parse().unwrap()) {
        for mtu in [None, Some(1440), Some(1440), Some(1340), None] {
            world.apply(lead(destination, mtu)).await;
            let seen = world.observe().await;
            assert_eq!(*seen.remote.routes, [(destination, Hop::tunnel(mtu))].into());
            assert!(seen.foreign.is_empty());
        }
        world.apply(HostAction::DeleteHostRoute { destination, hop: Hop::tunnel(None) }).await;
        assert!(world.observe().await.remote.routes.is_empty());
    }
    world.apply(HostAction::DeleteTunnel).await;
}

async fn a_tunnel_without_a_key_is_refused_and_one_of_others_is_left_alone(mut world: World) {
    let Some(_turn) = may_tunnel() else { return };
    let refused = world.refused(set(key_of(1), 6784, 1440)).await;
    assert_eq!(
        (refused.kind, refused.message.as_str()),
        (FaultKind::Invalid, "this host has no key for a tunnel")
    );
    let (state, key) = with_key(&mut world);
    sh("ip link add wg0 type wireguard 2>/dev/null || wireguard-go wg0");
    world.apply(set(key, 6784, 1440)).await;
    world.apply(HostAction::DeleteTunnel).await;
    assert!(sh("wg show wg0 dump").ends_with("off\n"), "it is there");
    sh("ip link del wg0");
    // An interface of that name that is no tunnel is not read as one, and said to be there.
    sh("ip link add weave-tunnel type bridge");
    let remote = world.observe().await.remote;
    assert!(remote.tunnel.is_none() && remote.tunnel_unread.is_some());
    assert!(Path::new(&tunnel_key::file(state.path())).exists());
}
