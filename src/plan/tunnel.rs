//! The part of the plan that is about the tunnel: the device, and its other ends.
//!
//! An end that shows that it is somewhere is there: WireGuard follows it by itself, through routers that translate addresses as well.
//! So an endpoint is only set where the other end is new, silent, or known to have moved since.

use super::Plan;
use crate::state::{HostAction, Remote, TUNNEL, Tunnel, TunnelKey, TunnelPeer, some_of};

/// Before anything is led into it.
pub(super) fn set_up(desired: &Remote, actual: &Remote, plan: &mut Plan) {
    if let Some(fault) = &actual.tunnel_unread {
        plan.unread.push(format!("{TUNNEL} cannot be read: {fault}"));
        return;
    }
    let Some(wanted) = &desired.tunnel else { return };
    let found = actual.tunnel.as_deref();
    device(wanted, found, plan);
    for (&key, peer) in &wanted.peers {
        other_end(key, peer, found.and_then(|found| found.peers.get(&key)), plan);
    }
}

/// After nothing is led into it any more.
pub(super) fn tear_down(desired: &Remote, actual: &Remote, plan: &mut Plan) {
    let Some(found) = &actual.tunnel else { return };
    let Some(wanted) = &desired.tunnel else {
        return plan.push(HostAction::DeleteTunnel, found.to_string(), "no longer wanted");
    };
    for (&key, peer) in found.peers.iter().filter(|(key, _)| !wanted.peers.contains_key(key)) {
        let before = some_of(&peer.allowed);
        plan.push(HostAction::DeleteTunnelPeer(key), before, "no host with that key is to be reached by it");
    }
}

fn device(wanted: &Tunnel, found: Option<&Tunnel>, plan: &mut Plan) {
    let Tunnel { key, port, mtu, up, .. } = *wanted;
    let set = HostAction::SetTunnel { key, port, mtu };
    match found {
        None => plan.push(set, "", "hosts elsewhere are reached by it"),
        Some(found) if (found.key, found.port, found.mtu, found.up) == (key, port, mtu, up) => {}
        Some(found) => plan.push(set, found.to_string(), differences(wanted, found)),
    }
}

fn differences(wanted: &Tunnel, found: &Tunnel) -> String {
    let differs = [
        ("another key", wanted.key != found.key),
        ("another port", wanted.port != found.port),
        ("another MTU", wanted.mtu != found.mtu),
        ("down", wanted.up != found.up),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(what, _)| what).collect::<Vec<_>>().join(", ")
}

fn other_end(key: TunnelKey, wanted: &TunnelPeer, found: Option<&TunnelPeer>, plan: &mut Plan) {
    let allowed = wanted.allowed.clone();
    let Some(found) = found else {
        let set = HostAction::SetTunnelPeer { key, endpoint: wanted.endpoint, allowed };
        return plan.push(set, "", "a host with that key owns it");
    };
    let is_astray =
        wanted.endpoint.is_some() && wanted.endpoint != found.endpoint && (wanted.moved || !found.heard);
    let is_right = wanted.allowed == found.allowed && wanted.keepalive_s == found.keepalive_s;
    if is_right && !is_astray {
        return;
    }
    let endpoint = wanted.endpoint.filter(|_| is_astray);
    let cause = match (is_right, wanted.allowed == found.allowed) {
        (true, _) => "it is elsewhere",
        (false, false) => "it owns other addresses",
        (false, true) => "its settings were changed",
    };
    plan.push(HostAction::SetTunnelPeer { key, endpoint, allowed }, some_of(&found.allowed), cause);
}
