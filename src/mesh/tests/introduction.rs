//! Two sides that say who they are.

use super::*;

#[test]
fn two_peers_connect_in_both_versions_with_and_without_a_password() {
    for only_version_1 in [false, true] {
        for password in ["", "secret"] {
            let mut world = World::with_passwords(&[password, password]);
            world.only_version_1 = only_version_1;
            world.connect(0, &[1]);
            world.run(600);
            assert!(world.established(0, 1), "{only_version_1} {password} {:?}", world.closed);
            let connection = world.peers[1].connections().next().unwrap();
            assert_eq!(connection.encrypted, !password.is_empty());
            assert_eq!(connection.nickname.as_deref(), Some("host1"));
            assert_eq!(world.texts(0, |kind| matches!(kind, Kind::Gossip { .. })), ["state of 1"]);
            assert_eq!(world.texts(1, |kind| matches!(kind, Kind::Gossip { .. })), ["state of 0"]);
            // Who names no overlay, as in version 1, is to send no packets this way.
            let packets = world.peers[0].routes.unicast().contains_key(&name(1));
            assert_eq!(packets, !only_version_1, "both call it established");
        }
    }
}

#[test]
fn another_password_is_named_as_the_likely_cause() {
    for only_version_1 in [false, true] {
        let mut world = World::with_passwords(&["one", "other"]);
        world.only_version_1 = only_version_1;
        world.connect(0, &[1]);
        world.run(2000);
        assert!(!world.established(0, 1));
        assert!(world.target(0).error.unwrap().contains("password"), "{:?}", world.target(0));
        assert!(world.closed.iter().all(|(_, why)| why.contains("passwords differ")), "{:?}", world.closed);
        assert_eq!(world.peers[0].peers().count(), 0);
    }
}

#[test]
fn a_stranger_who_speaks_version_1_is_nobody_until_he_shows_that_he_has_the_password() {
    let mut world = World::with_passwords(&["secret", "secret"]);
    world.connect(0, &[1]);
    world.run(400);
    let conn = ConnId(1000);
    world.input(0, Input::Accepted { conn, remote: SocketAddr::new(address(8), 20000) });
    let group = super::vectors::group("intro_v1_encrypted");
    world.input(0, Input::Received(conn, group[0].1.clone().into()));
    assert_eq!(world.peers[0].peers().count(), 1);
    assert!(world.peers[0].connections().any(|view| view.conn == conn && view.peer.is_none()));
}

#[test]
fn who_lacks_the_password_is_sent_nothing_to_try_passwords_on() {
    let is_sealed = |sent: &[u8]| sent.len() > 40;
    for version in [2, 1] {
        let mut world = World::of([Settings { password: Some(b"secret".to_vec()), ..welcoming(1) }]);
        world.peers[0].handle(
            world.now,
            Input::Accepted { conn: ConnId(1), remote: SocketAddr::new(address(8), 20000) },
        );
        let said = match version {
            1 => super::vectors::group("intro_v1_encrypted")[0].1.clone(),
            _ => [&b"weave\x01\x02\x01"[..], &[9; 32], &[0; 3]].concat(),
        };
        world.peers[0].handle(world.now, Input::Received(ConnId(1), said.into()));
        let outputs = std::iter::from_fn(|| world.peers[0].next_output());
        let mut sent = outputs.filter_map(|output| match output {
            Output::Send(_, bytes) => Some(bytes),
            _ => None,
        });
        assert_eq!(sent.next().unwrap().len(), 7, "the header");
        // In version 1 the features are in clear; whatever follows is sealed.
        let open = sent.next().unwrap();
        assert!(version == 1 || !is_sealed(&open), "a key");
        assert_eq!(sent.next(), None, "version {version}");
    }
}

#[test]
fn version_1_is_spoken_only_where_routers_of_weave_net_are_welcome() {
    for (settings, spoken) in [(settings(1), false), (welcoming(1), true)] {
        let mut world = World::of([settings]);
        world.accept(0, 1, address(8));
        world.input(0, Input::Received(ConnId(1), Bytes::from_static(b"weave\x01\x01")));
        assert_eq!(world.closed.is_empty(), spoken, "{:?}", world.closed);
    }
}

#[test]
fn a_password_on_one_side_only_is_named() {
    for only_version_1 in [false, true] {
        let mut world = World::with_passwords(&["one", ""]);
        world.only_version_1 = only_version_1;
        world.connect(0, &[1]);
        world.run(400);
        let causes: BTreeSet<_> = world.closed.iter().cloned().collect();
        let here = (0, "we have a password and the other side has none".to_owned());
        let there = (1, "the other side has a password and we have none".to_owned());
        assert!(causes.contains(&here) || causes.contains(&there), "{causes:?}");
    }
}

#[test]
fn versions_and_protocols_that_are_not_ours_are_refused_at_the_header() {
    for (header, why) in [
        (&b"WEAVE\x01\x02"[..], "the other side does not speak this protocol"),
        (b"weave\x03\x09", "the other side speaks versions 3 to 9 of the protocol, we 2 to 2"),
        (b"weave\x02\x02\x07", "the other side sent 0x07 where it should say whether it encrypts"),
    ] {
        let mut world = World::new(1);
        let remote = SocketAddr::new(address(8), 40000);
        world.input(0, Input::Accepted { conn: ConnId(1), remote });
        world.input(0, Input::Received(ConnId(1), Bytes::from_static(header)));
        assert_eq!(world.closed, [(0, why.to_owned())]);
    }
}
