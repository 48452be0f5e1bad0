//! The tunnel and its ends: what holds of every plan for them.

use std::{collections::BTreeSet, net::SocketAddrV4};

use ipnet::IpNet;
use proptest::{collection, option, prelude::*};
use weavers::{
    plan::Plan,
    state::{
        Action, Actual, Desired, Fault, FaultKind, Hop, Host, HostAction, Remote, Tunnel, TunnelKey,
        TunnelPeer,
    },
};

fn plan_of(desired: &Remote, actual: &Remote) -> Plan {
    let host = |remote: &Remote| Host { remote: remote.clone().into(), ..Host::default() };
    let desired = Desired { host: host(desired), vpc: None };
    Plan::new(&desired, Actual { host: Some(&host(actual)), vpc: None })
}

fn with(tunnel: Option<&Tunnel>) -> Remote {
    Remote { tunnel: tunnel.cloned().map(Into::into), ..Remote::default() }
}

fn plan(desired: Option<&Tunnel>, actual: Option<&Tunnel>) -> Plan {
    plan_of(&with(desired), &with(actual))
}

/// What the kernel does: an address is that of one end, the last that was given it, and where no endpoint is named it stays.
fn apply(tunnel: &mut Option<Tunnel>, action: &Action) {
    let Action::Host(action) = action else { panic!("{action} is not asked for") };
    match action {
        HostAction::SetTunnel { key, port, mtu } => {
            let peers = tunnel.take().map(|tunnel| tunnel.peers).unwrap_or_default();
            *tunnel = Some(Tunnel { key: *key, port: *port, mtu: *mtu, up: true, peers });
        }
        HostAction::SetTunnelPeer { key, endpoint, allowed } => {
            let peers = &mut tunnel.as_mut().expect("the device comes first").peers;
            peers.values_mut().for_each(|other| other.allowed.retain(|cidr| !allowed.contains(cidr)));
            let known = peers.get(key).map(|known| (known.endpoint, known.heard));
            let (before, heard) = known.unwrap_or_default();
            let end = TunnelPeer { heard, ..TunnelPeer::new(endpoint.or(before), allowed.clone()) };
            peers.insert(*key, end);
        }
        HostAction::DeleteTunnelPeer(key) => {
            let peers = &mut tunnel.as_mut().expect("it is there").peers;
            assert!(peers.remove(key).is_some(), "it removes what it has seen");
        }
        HostAction::DeleteTunnel => assert!(tunnel.take().is_some(), "it removes what it has seen"),
        other => panic!("{other} is not asked for"),
    }
}

fn any_tunnel() -> impl Strategy<Value = Tunnel> {
    let endpoint = (1..4_u8).prop_map(|host| SocketAddrV4::new([192, 0, 2, host].into(), 6784));
    let end = (1..6_u8, option::of(endpoint), any::<bool>());
    // Each address belongs to the end that is numbered here.
    let owners = collection::vec(0..4_usize, 8);
    let device = (1..3_u8, 6784..6786_u16, 1440..1442_u32, any::<bool>());
    (device, collection::vec(end, 0..4), owners).prop_map(|((key, port, mtu, up), ends, owners)| {
        let mut tunnel = Tunnel { key: TunnelKey([100 + key; 32]), port, mtu, up, peers: [].into() };
        for (number, (key, endpoint, heard)) in ends.into_iter().enumerate() {
            let owned = owners.iter().enumerate().filter(|(_, owner)| **owner == number);
            let allowed: BTreeSet<IpNet> =
                owned.map(|(at, _)| format!("10.{}.0.0/16", 32 + at).parse().unwrap()).collect();
            let end = TunnelPeer { heard, ..TunnelPeer::new(endpoint, allowed) };
            tunnel.peers.entry(TunnelKey([key; 32])).or_insert(end);
        }
        tunnel
    })
}

/// As it is wanted: nothing was observed of it.
fn wanted(tunnel: Option<Tunnel>) -> Option<Tunnel> {
    tunnel.map(|mut tunnel| {
        tunnel.up = true;
        tunnel.peers.values_mut().for_each(|end| end.heard = false);
        tunnel
    })
}

proptest! {
    #[test]
    fn a_plan_leads_from_the_tunnel_that_is_to_the_one_that_should_be(
        (desired, actual) in (option::of(any_tunnel()), option::of(any_tunnel()))
    ) {
        let desired = wanted(desired);
        let mut tunnel = actual.clone();
        for change in plan(desired.as_ref(), actual.as_ref()).changes {
            apply(&mut tunnel, &change.action);
        }
        prop_assert_eq!(tunnel.is_some(), desired.is_some());
        // An end that has shown where it is stays there, and so does one of which nobody knows where it is.
        let again = plan(desired.as_ref(), tunnel.as_ref());
        prop_assert!(again.is_empty(), "{:?}", again.changes);
        for (key, end) in desired.iter().flat_map(|desired| &desired.peers) {
            let (before, found) = (actual.as_ref().and_then(|actual| actual.peers.get(key)), &tunnel.as_ref().unwrap().peers[key]);
            prop_assert_eq!(&found.allowed, &end.allowed);
            let stays = before.filter(|before| before.heard || end.endpoint.is_none());
            prop_assert_eq!(found.endpoint, stays.map_or(end.endpoint, |before| before.endpoint));
        }
    }

    #[test]
    fn a_tunnel_that_is_as_it_should_be_is_left_alone(tunnel in any_tunnel()) {
        let desired = wanted(Some(tunnel)).unwrap();
        prop_assert!(plan(Some(&desired), Some(&desired)).is_empty());
        let mut unread = with(None);
        let message = "wg is not installed".to_owned();
        unread.tunnel_unread = Some(Fault { kind: FaultKind::Invalid, message, hint: None, request_id: None });
        let plan = plan_of(&with(Some(&desired)), &unread);
        prop_assert!(plan.changes.is_empty(), "what cannot be read is not changed");
        prop_assert_eq!(plan.unread, ["weave-tunnel cannot be read: wg is not installed"]);
    }
}

fn device(ends: &[(u8, TunnelPeer)]) -> Tunnel {
    let peers = ends.iter().map(|(key, end)| (TunnelKey([*key; 32]), end.clone())).collect();
    Tunnel { key: TunnelKey([9; 32]), port: 6784, mtu: 8941, up: true, peers }
}

fn end(endpoint: &str, allowed: &str) -> TunnelPeer {
    TunnelPeer::new(endpoint.parse().ok(), [allowed.parse().unwrap()].into())
}

#[test]
fn an_end_that_is_heard_is_followed_and_not_fought_unless_it_is_known_to_have_moved() {
    let wanted = |moved| device(&[(1, TunnelPeer { moved, ..end("192.0.2.7:6784", "10.40.0.0/13") })]);
    let found = |heard| device(&[(1, TunnelPeer { heard, ..end("192.0.2.1:40001", "10.40.0.0/13") })]);
    let steps = |moved, heard| plan(Some(&wanted(moved)), Some(&found(heard))).changes.len();
    assert_eq!(steps(false, true), 0, "a router has translated its address");
    assert_eq!(steps(false, false), 1, "nobody is there");
    assert_eq!(steps(true, true), 1, "it was there before it moved");
    assert_eq!(plan(Some(&wanted(true)), Some(&wanted(false))).changes.len(), 0, "it was told");
}

#[test]
fn the_device_comes_first_then_its_ends_then_routes_and_they_go_the_other_way_round() {
    let route = [("10.40.0.0/13".parse().unwrap(), Hop::tunnel(Some(1440)))];
    let all = Remote {
        routes: std::sync::Arc::new(route.into()),
        ..with(Some(&device(&[(1, end("192.0.2.7:6784", "10.40.0.0/13"))])))
    };
    let told = |plan: Plan| -> Vec<String> {
        plan.changes.iter().map(|change| format!("{}: {}", change.action, change.cause)).collect()
    };
    let key = TunnelKey([1; 32]);
    assert_eq!(
        told(plan_of(&all, &Remote::default())),
        [
            "set up tunnel weave-tunnel, UDP 6784, MTU 8941: hosts elsewhere are reached by it".to_owned(),
            format!("set tunnel to {key} at 192.0.2.7:6784 for 10.40.0.0/13: a host with that key owns it"),
            "add host route 10.40.0.0/13 dev weave-tunnel mtu 1440: owned by the host that is there"
                .to_owned(),
        ]
    );
    assert_eq!(
        told(plan_of(&Remote::default(), &all)),
        [
            "delete host route 10.40.0.0/13 dev weave-tunnel mtu 1440: no longer owned there, or reached by another path",
            "delete tunnel weave-tunnel: no longer wanted",
        ]
    );
}
