//! Messages that a peer passes on.

use super::*;

#[test]
fn a_middle_peer_passes_messages_on() {
    let mut world = line();
    assert_eq!(world.peers[0].reachable(), &BTreeSet::from([name(1), name(2)]));
    world.peers[0].unicast(name(2), APPLICATION, b"to you").unwrap();
    world.peers[0].broadcast(name(0), APPLICATION, b"to all");
    world.peers[0].broadcast(name(0), "nameserver", b"of others");
    world.carry_out(0);
    world.run(20);
    assert_eq!(world.texts(2, |kind| matches!(kind, Kind::Unicast { .. })), ["to you"]);
    assert_eq!(world.texts(1, |kind| matches!(kind, Kind::Unicast { .. })), [""; 0]);
    // A broadcast of a channel of its own is the application's to pass on, under the origin.
    assert_eq!(world.texts(1, |kind| matches!(kind, Kind::Broadcast { .. })), ["to all"]);
    assert_eq!(world.texts(2, |kind| matches!(kind, Kind::Broadcast { .. })), [""; 0]);
    world.peers[1].broadcast(name(0), APPLICATION, b"to all");
    world.carry_out(1);
    world.run(20);
    assert_eq!(world.delivered[2].last().unwrap().kind, Kind::Broadcast { from: name(0) });
    assert_eq!(world.texts(0, |kind| matches!(kind, Kind::Broadcast { .. })), [""; 0], "not sent back");
}

#[test]
fn garbage_of_a_far_peer_closes_no_connection_to_the_peer_that_passed_it_on() {
    let torn = |message: Vec<u8>| message[..message.len() - 3].to_vec();
    let garbage = [
        (name(0), torn(message::unicast(APPLICATION, name(0), name(2), b"to you"))),
        (name(0), message::unicast(TOPOLOGY, name(0), name(2), b"to you")),
        (name(7), message::broadcast(TOPOLOGY, name(7), b"to all")),
    ];
    for (from, message) in garbage {
        let mut world = line();
        let conn = world.peers[0].neighbours[&name(1)];
        world.peers[0].send(conn, &message);
        world.carry_out(0);
        world.run(1000);
        assert_eq!(world.closed, []);
        let dropped: Vec<_> =
            world.peers[2].dropped(world.now).chain(world.peers[1].dropped(world.now)).collect();
        assert_eq!((dropped.len(), dropped[0].from, dropped[0].count), (1, Some(from), 1), "{dropped:?}");
    }
}

/// What a router that is no kin of ours passes on as it came, in the name of whoever it likes.
#[test]
fn garbage_that_a_router_passes_on_closes_no_connection_to_it() {
    let long = "x".repeat(message::CHANNEL_LEN_MAX + 1);
    for message in [
        message::unicast(TOPOLOGY, name(1), name(0), b"to you"),
        message::unicast(&long, name(7), name(0), b"to you"),
        message::broadcast(TOPOLOGY, name(1), b"to all"),
        message::gossip(&long, name(1), b"news"),
    ] {
        let mut world = World::of([welcoming(1), router(2)]);
        world.connect(0, &[1]);
        world.run(600);
        let conn = world.peers[1].neighbours[&name(0)];
        world.peers[1].send(conn, &message);
        world.carry_out(1);
        world.run(1000);
        assert_eq!(world.closed, []);
        assert_eq!(world.peers[0].dropped(world.now).next().map(|dropped| dropped.came_by), Some(name(1)));
    }
}

#[test]
fn garbage_that_bears_the_name_of_the_peer_that_passes_it_on_closes_nothing_either() {
    let mut world = line();
    let conn = world.peers[0].neighbours[&name(1)];
    let forged = message::unicast(TOPOLOGY, name(1), name(2), b"to you");
    world.peers[0].send(conn, &forged);
    world.carry_out(0);
    world.run(1000);
    assert_eq!(world.closed, []);
}

#[test]
fn garbage_of_the_neighbour_itself_closes_its_connection() {
    for message in [
        message::unicast(TOPOLOGY, name(0), name(1), b"to you"),
        message::gossip(TOPOLOGY, name(0), b"news"),
        message::gossip(TOPOLOGY, name(0), b"news")[..8].to_vec(),
    ] {
        let mut world = line();
        let conn = world.peers[0].neighbours[&name(1)];
        world.peers[0].send(conn, &message);
        world.carry_out(0);
        world.run(5);
        assert!(world.closed.iter().any(|(peer, _)| *peer == 1), "{:?}", world.closed);
    }
}

#[test]
fn channels_that_are_not_ours_are_passed_on_once() {
    let mut world = line();
    world.peers[1].set_channels(&[]);
    world.peers[0].gossip(Recipients::Neighbours { except: None }, APPLICATION, b"news");
    world.peers[0].gossip(Recipients::Neighbours { except: None }, APPLICATION, b"news");
    world.peers[0].broadcast(name(0), APPLICATION, b"to all");
    world.carry_out(0);
    world.run(20);
    let is_new = |text: &&String| !text.starts_with("state");
    let texts = world.texts(2, |_| true);
    assert_eq!(texts.iter().filter(is_new).collect::<Vec<_>>(), ["news", "to all"]);
}
