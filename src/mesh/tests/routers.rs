//! Routers of Weave Net among us.

use super::*;

#[test]
fn routers_of_weave_net_in_its_own_vpc_mode_are_refused_and_plain_ones_accepted() {
    for (vector, established) in [("awsvpc_dialler", false), ("minimal_features_dialler", true)] {
        let vectors = vectors::group("intro_v2_plain").into_iter();
        let (_, bytes) = vectors.rev().find(|(v, _)| v["name"].as_str().unwrap().ends_with(vector)).unwrap();
        let mut world = World::new(1);
        let remote = SocketAddr::new(address(8), 40000);
        world.input(0, Input::Accepted { conn: ConnId(1), remote });
        world.input(0, Input::Received(ConnId(1), bytes.into()));
        assert_eq!(world.peers[0].connections().any(|connection| connection.established), established);
    }
}

#[test]
fn a_peer_of_another_kind_is_left_its_own_times() {
    let mut world = World::of([welcoming(1), router(2)]);
    world.connect(0, &[1]);
    world.run(100_000);
    assert!(world.established(0, 1), "heartbeats every thirty seconds keep it: {:?}", world.closed);
    world.cut = true;
    world.run(30_000);
    assert!(world.established(0, 1));
    world.run(31_000);
    assert_eq!(world.peers[0].reachable().len() + world.peers[1].reachable().len(), 0);
}

#[test]
fn a_router_that_closes_as_soon_as_it_hears_of_us_is_suspected_of_other_addresses() {
    for (after, suspected) in [(20, true), (5_000, false)] {
        let mut world = World::of([welcoming(1), router(2)]);
        world.connect(0, &[1]);
        world.run(after);
        let conn = world.peers[1].connections().next().unwrap().conn;
        world.peers[1].close(world.now, conn, "it has other addresses".to_owned(), dial::Again::Later);
        world.carry_out(1);
        world.run(2);
        assert_eq!(world.target(0).error.unwrap().contains("ipam.range may differ"), suspected);
    }
}

#[test]
fn a_router_is_established_by_heartbeats_over_udp_whoever_dials_and_whether_encrypted_or_trusted() {
    for (from, to) in [(0, 1), (1, 0)] {
        for (password, trust) in
            [(false, [false; 2]), (true, [false; 2]), (true, [true, false]), (true, [true; 2])]
        {
            let with = |settings: Settings, trusts| Settings {
                password: password.then(|| b"secret".to_vec()),
                trusted_subnets: if trusts { vec!["10.0.0.0/8".parse().unwrap()] } else { Vec::new() },
                ..settings
            };
            let mut world = World::of([with(welcoming(1), trust[0]), with(router(2), trust[1])]);
            world.no_datagrams = true;
            world.connect(from, &[to]);
            world.run(5_000);
            assert_eq!(world.peers[0].reachable().len(), 1, "gossip goes all the same");
            assert!(!world.established(0, 1));
            world.no_datagrams = false;
            world.run(600);
            assert!(world.established(0, 1), "{from} dials, password {password}, trust {trust:?}");
            let before = world.datagrams;
            world.run(60_000);
            assert!((10..=14).contains(&(world.datagrams - before)), "then one in ten seconds each");
            // Nobody is to send packets this way: both ends say so.
            assert!(!world.peers[1].routes.unicast().contains_key(&name(0)));
        }
    }
}

#[test]
fn an_old_router_that_names_no_overlay_is_established_too() {
    let mut world = World::of([welcoming(1), router(2)]);
    world.only_version_1 = true;
    world.connect(0, &[1]);
    world.run(600);
    assert!(world.established(0, 1), "{:?}", world.closed);
}

#[test]
fn among_ourselves_no_datagram_is_sent() {
    let mut world = World::of([welcoming(1), welcoming(2), settings(3)]);
    world.connect(0, &[1, 2]);
    world.run(60_000);
    assert!(world.established(0, 1) && world.established(0, 2) && world.established(1, 2));
    assert_eq!(world.datagrams, 0);
}

#[test]
fn datagrams_of_strangers_and_of_our_own_kind_mean_nothing() {
    let mut world = World::of([welcoming(1), welcoming(2)]);
    world.connect(0, &[1]);
    world.run(400);
    let from = SocketAddr::new(address(7), 6783);
    for sender in [2u64, 9] {
        let bytes = [&sender.to_be_bytes()[2..], &[0; 36]].concat();
        world.input(0, Input::Datagram { from, bytes: bytes.into() });
    }
    world.input(0, Input::Datagram { from, bytes: Bytes::new() });
    world.run(1_000);
    assert_eq!(world.datagrams, 0);
    assert!(world.established(0, 1));
}
