//! Who is let in, and who makes room.

use super::*;

#[test]
fn who_is_turned_away_is_named_until_it_comes_in() {
    let mut world = World::of([settings(1), router(2)]);
    world.connect(1, &[0]);
    world.run(400);
    let refused: Vec<_> = world.peers[0].refused(world.now).cloned().collect();
    let objection = Objection::Overlay { theirs: "fastdp sleeve".to_owned(), ours: OVERLAY.to_owned() };
    let remote = refused[0].remote;
    let nickname = "host2".to_owned();
    assert_eq!(refused, [RefusedView { peer: name(1), nickname, remote, objection }]);
    assert_eq!(remote.ip(), address(1));
    world.peers[1] = mesh(Settings { uid: PeerUid(5), ..settings(2) });
    world.connect(1, &[0]);
    world.run(400);
    assert_eq!(world.peers[0].refused(world.now).count(), 0);
}

#[test]
fn who_says_nothing_or_stops_in_the_middle_is_closed_after_ten_seconds() {
    for said in [&b""[..], b"weave\x01\x02", b"weave\x01\x02\x00\x00\x00"] {
        let mut world = World::new(1);
        world.accept(0, 1, address(8));
        world.run(5_000);
        world.input(0, Input::Received(ConnId(1), Bytes::from_static(said)));
        world.run(4_900);
        assert_eq!(world.peers[0].connections().count(), 1);
        world.run(200);
        let why = if said.is_empty() {
            "the other side did not say what it speaks"
        } else {
            "the introduction took too long"
        };
        assert_eq!(world.closed, [(0, why.to_owned())]);
    }
}

#[test]
fn idle_connections_from_one_host_keep_no_other_host_out() {
    let mut world = World::new(2);
    (0..100).for_each(|conn| world.accept(0, 1000 + conn, address(8)));
    assert!(world.peers[0].connections().count() <= 4, "{:?}", world.closed.last());
    world.connect(1, &[0]);
    world.run(400);
    assert!(world.established(0, 1), "{:?}", world.closed);
}

#[test]
fn idle_connections_from_many_hosts_give_way_to_those_that_come_later() {
    let mut world = World::new(2);
    for conn in 0..200 {
        world.accept(0, 1000 + conn, Ipv4Addr::new(10, 1, 0, conn as u8).into());
    }
    assert_eq!(world.peers[0].connections().count(), INTRODUCTIONS_MAX);
    // Of the most crowded address the oldest goes first.
    world.accept(0, 2000, Ipv4Addr::new(10, 1, 0, 199).into());
    world.accept(0, 2001, Ipv4Addr::new(10, 2, 0, 0).into());
    let left: BTreeSet<u64> = world.peers[0].connections().map(|view| view.conn.0).collect();
    assert!(!left.contains(&1199) && left.contains(&1198) && left.contains(&2000), "{left:?}");
    world.connect(1, &[0]);
    world.run(400);
    assert!(world.established(0, 1), "{:?}", world.closed);
}

#[test]
fn hosts_that_we_dial_and_that_say_nothing_keep_nobody_out() {
    let mut world = World::new(2);
    for number in 0..100u8 {
        let remote = SocketAddr::from(([10, 1, 0, number], 6783));
        let input =
            Input::Dialled { target: remote.to_string(), conn: ConnId(1000 + u64::from(number)), remote };
        world.input(0, input);
    }
    world.connect(1, &[0]);
    world.run(400);
    assert!(world.established(0, 1), "{:?}", world.closed);
}

#[test]
fn the_connection_limit_holds() {
    let quiet = |number, conn_limit| Settings { conn_limit, discovery: false, ..settings(number) };
    let mut world = World::of([quiet(1, 1), quiet(2, 9), quiet(3, 9)]);
    world.connect(1, &[0]);
    world.run(400);
    world.connect(2, &[0]);
    world.run(2000);
    assert!(world.established(0, 1) && !world.established(0, 2));
    assert!(world.closed.iter().any(|(_, why)| why.contains("which is the limit")));
    // Who is refused is told so.
    let error = world.target(2).error.unwrap();
    assert!(
        error.contains("there are 1 connections, which is the limit, and no neighbour can be spared"),
        "{error}"
    );
    world.connect(0, &[2]);
    world.run(2000);
    assert!(!world.dials.iter().any(|(from, _)| *from == 0), "nobody is dialled at the limit");
}

#[test]
fn all_peers_that_know_one_address_come_in_though_it_has_no_room_for_all() {
    come_in_by_one_address(60);
}

#[test]
#[ignore = "takes five minutes and 5 GB; the same with fewer peers is played always"]
fn five_hundred_peers_that_know_one_address_come_in_though_it_has_room_for_200() {
    come_in_by_one_address(500);
}

/// The limit is two fifths of them.
fn come_in_by_one_address(count: u64) {
    let conn_limit = count as usize * 2 / 5;
    let mut world = World::of((1..=count).map(|number| Settings { conn_limit, ..settings(number) }));
    for peer in 1..count as usize {
        world.connect(peer, &[0]);
        world.run(20);
    }
    let everybody = count as usize - 1;
    let is_in = |world: &World, peer: usize| world.peers[peer].reachable().len() == everybody;
    let mut seconds = 0;
    while !(0..count as usize).all(|peer| is_in(&world, peer)) {
        let alone = (0..count as usize).filter(|peer| !is_in(&world, *peer)).count();
        assert!(seconds < 120, "{alone} of {count} are not in: {:?}", world.closed.last());
        world.run(1000);
        seconds += 1;
    }
    // Nobody takes places from others any more.
    world.run(60_000);
    world.closed.clear();
    world.run(60_000);
    let taken: Vec<_> = world.closed.iter().filter(|(_, why)| why.contains("takes this place")).collect();
    assert!(taken.is_empty(), "{taken:?}");
    assert!((0..count as usize).all(|peer| is_in(&world, peer)));
    assert!(world.peers.iter().all(|peer| peer.connections().count() <= conn_limit));
    // Those for which there is no room at the listed one miss nothing.
    let errors: Vec<_> = (1..count as usize).filter_map(|peer| world.target(peer).error).collect();
    assert_eq!(errors, [""; 0]);
}

#[test]
fn at_the_limit_a_peer_that_is_in_already_is_refused_and_whom_we_dialled_is_kept() {
    let limited = |number, conn_limit| Settings { conn_limit, discovery: false, ..settings(number) };
    let mut world = World::of([limited(1, 2), limited(2, 9), limited(3, 9), limited(4, 9), limited(5, 9)]);
    // 1 and 2 are connected to each other and to 0, which dialled one of them.
    world.connect(0, &[1]);
    world.connect(2, &[0, 1]);
    world.connect(3, &[1, 0]);
    world.run(3000);
    assert!(
        world.established(0, 1) && world.established(0, 2) && world.established(1, 3),
        "{:?}",
        world.closed
    );
    let error = world.peers[3].targets().into_iter().find_map(|target| target.error).unwrap();
    assert!(error.contains("is connected to others"), "{error}");
    // Whom nobody else knows takes the place of 2, which can do without.
    world.connect(4, &[0]);
    world.run(3000);
    assert!(
        world.established(0, 1) && world.established(0, 4) && !world.established(0, 2),
        "{:?}",
        world.closed
    );
    assert_eq!(world.peers[4].reachable().len(), 4);
}
