//! Who dials whom, which connections stay, and when one is given up.

use super::*;

#[test]
fn three_peers_that_start_together_know_each_other_in_half_a_second() {
    let mut world = World::new(3);
    for peer in 0..3 {
        world.connect(peer, &[0, 1, 2]);
    }
    world.run(400);
    for peer in 0..3 {
        assert_eq!(world.peers[peer].reachable().len(), 2, "{peer}");
        assert_eq!(world.peers[peer].routes.unicast().len(), 3, "{peer}");
    }
    world.run(20_000);
    assert!(world.established(0, 1) && world.established(1, 2) && world.established(0, 2));
    let connections: usize = world.peers.iter().map(|peer| peer.connections().count()).sum();
    assert_eq!(connections, 6, "one connection for each pair");
}

#[test]
fn of_two_connections_at_once_both_ends_keep_the_same() {
    for seed in 0..20 {
        let mut world = World::of([
            Settings { uid: PeerUid(seed + 1), ..settings(1) },
            Settings { uid: PeerUid(seed + 100), ..settings(2) },
        ]);
        world.connect(0, &[1]);
        world.connect(1, &[0]);
        world.run(3000);
        assert!(world.established(0, 1));
        let ends: Vec<ConnId> =
            world.peers.iter().flat_map(|peer| peer.connections().map(|c| c.conn)).collect();
        assert_eq!(ends.len(), 2);
        assert_eq!(world.wires[&ends[0]].1, ends[1], "seed {seed}");
    }
}

#[test]
fn a_peer_that_others_mention_is_dialled() {
    let mut world = World::new(3);
    world.connect(0, &[1]);
    world.connect(2, &[1]);
    world.run(3000);
    assert!(world.established(0, 2));
}

#[test]
fn it_is_known_where_a_peer_is_that_only_others_are_connected_to() {
    let world = line();
    assert!(!world.established(0, 2));
    let far =
        world.peers[1].connections().find(|view| view.peer == Some(name(2))).map(|view| view.remote.ip());
    assert!(far.is_some_and(|far| world.peers[0].hosts().contains(&far)), "{:?}", world.peers[0].hosts());
}

#[test]
fn a_name_that_others_mention_is_never_dialled() {
    let mut world = World::new(2);
    world.connect(0, &[1]);
    world.run(400);
    let link = |address: &str, outbound| description::Link::new(address.to_owned(), outbound, true);
    for address in ["evil.example:6783", "10.0.0.9:6783"] {
        world.peers[1].topology.link(PeerName::from_u64(99), link(address, true));
        world.peers[1].announce_soon(world.now);
        world.input(1, Input::Woken);
        world.run(500);
    }
    assert!(world.dials.contains(&(0, "10.0.0.9:6783".to_owned())), "{:?}", world.dials);
    assert!(!world.dials.iter().any(|(_, target)| target.contains("evil")), "{:?}", world.dials);
}

#[test]
fn a_peer_is_dialled_where_it_is_sought_until_it_turned_out_that_it_is_there() {
    let mut world = World::new(2);
    world.connect(0, &[1]);
    world.run(400);
    let sought: IpAddr = [192, 168, 7, 2].into();
    world.peers[0].seek(world.now, &[sought].into());
    world.carry_out(0);
    world.run(10_000);
    assert!(world.dials.len() > 3, "nobody is there: {:?}", world.dials);
    assert!(!world.peers[0].met().any(|met| met == (name(1), sought)));
    world.also_at.insert(sought, 1);
    world.run(30_000);
    assert!(world.peers[0].met().any(|met| met == (name(1), sought)));
    let dials = world.dials.len();
    world.run(300_000);
    assert_eq!(world.dials.len(), dials);
    assert!(world.established(0, 1));
    assert_eq!(world.peers[0].connections().count(), 1);
    world.peers[0].seek(world.now, &BTreeSet::new());
    world.run(60_000);
    assert!(world.established(0, 1));
}

#[test]
fn a_peer_that_restarts_is_heard_again() {
    let mut world = line();
    for _ in 0..20 {
        world.peers[0]
            .topology
            .link(PeerName::from_u64(77), description::Link::new(String::new(), false, false));
        world.peers[0].announce_soon(world.now);
        world.input(0, Input::Woken);
        world.run(200);
    }
    assert!(world.peers[2].topology.peers()[&name(0)].version > 20);
    // The others still believe in the old connection when the new life begins.
    world.peers[0] = mesh(Settings { uid: PeerUid(5), discovery: false, ..settings(1) });
    world.connect(0, &[1]);
    world.run(30_000);
    assert!(world.established(0, 1));
    for peer in [1, 2] {
        assert_eq!(world.peers[peer].topology.peers()[&name(0)].uid, PeerUid(5), "{peer}");
    }
    assert!(world.peers[2].is_reachable(name(0)));
}

#[test]
fn our_own_address_among_the_targets_is_harmless() {
    let mut world = World::new(1);
    world.connect(0, &[0]);
    world.run(120_000);
    assert_eq!(world.dials.len(), 1);
    assert_eq!(world.target(0).state, TargetState::Own);
    assert_eq!(world.target(0).error.as_deref(), Some("connected to ourselves"));
    world.connect(0, &[0]);
    world.run(1000);
    assert_eq!(world.dials.len(), 2, "only when told again");
}

#[test]
fn a_peer_with_our_name_is_refused_and_named() {
    let mut world = World::of([settings(1), Settings { uid: PeerUid(7), ..settings(1) }]);
    world.connect(0, &[1]);
    world.run(120_000);
    assert_eq!(world.dials.len(), 1);
    assert!(world.target(0).error.unwrap().contains("another peer has our name 00:00:00:00:00:01"));
    // Whoever was dialled can only be told this way.
    assert!(world.peers[1].refused(world.now).any(|refused| refused.objection == Objection::Name));
}

#[test]
fn without_an_overlay_in_common_there_is_no_connection() {
    let of = |number, overlay: &str| Settings { overlays: vec![overlay.to_owned()], ..settings(number) };
    let mut world = World::of([of(1, OVERLAY), of(2, "sleeve")]);
    world.connect(0, &[1]);
    world.run(400);
    assert!(!world.established(0, 1));
    assert!(world.closed.iter().any(|(_, why)| why.contains("no overlay in common")), "{:?}", world.closed);
    let mut world = World::of([of(1, OVERLAY), Settings { overlays: Vec::new(), ..settings(2) }]);
    world.connect(0, &[1]);
    world.run(400);
    assert!(world.established(0, 1), "who says nothing is content");
}

#[test]
fn a_silent_cut_is_noticed_in_ten_seconds_and_mended_after_it() {
    // Whenever in the time between two heartbeats it comes.
    for phase in (0..2000).step_by(125) {
        let mut world = World::new(2);
        world.connect(0, &[1]);
        world.run(30_000 + phase);
        assert!(world.established(0, 1), "heartbeats keep it: {:?}", world.closed);
        world.cut = true;
        world.run(9_100);
        assert_eq!(world.peers[0].reachable().len() + world.peers[1].reachable().len(), 0, "{phase}");
        world.cut = false;
        world.run(35_000);
        assert!(world.established(0, 1));
    }
}

#[test]
fn a_peer_of_our_own_kind_says_why_it_closes() {
    let mut world = World::new(2);
    world.connect(0, &[1]);
    world.run(20);
    let conn = world.peers[1].connections().next().unwrap().conn;
    world.peers[1].close(world.now, conn, "it has other addresses".to_owned(), dial::Again::Later);
    world.carry_out(1);
    world.run(2);
    let reason = format!("closed by peer {}: it has other addresses", name(1));
    assert_eq!(world.target(0).error, Some(reason));
}

#[test]
fn a_target_that_does_not_answer_is_tried_less_and_less() {
    let mut world = World::new(1);
    world.connect(0, &[4]);
    world.run(600_000);
    let dials = world.dials.len();
    assert!((20..40).contains(&dials), "{dials}");
    assert_eq!(world.target(0).error.as_deref(), Some("connection refused"));
    world.peers[0].set_targets(world.now, BTreeSet::new());
    world.run(600_000);
    assert_eq!(world.dials.len(), dials);
}

#[test]
fn a_peer_that_leaves_is_forgotten_by_all() {
    let mut world = line();
    let conn = world.peers[0].connections().next().unwrap().conn;
    world.peers[0].set_targets(world.now, BTreeSet::new());
    world.peers[0].close(world.now, conn, "it sent nonsense".to_owned(), dial::Again::Later);
    world.peers[0].settle(world.now);
    world.carry_out(0);
    world.run(2000);
    assert!(world.closed.contains(&(0, "it sent nonsense".to_owned())));
    for peer in [1, 2] {
        assert!(!world.peers[peer].is_reachable(name(0)));
        assert!(world.peers[peer].peers().all(|known| known.name != name(0)));
    }
}
