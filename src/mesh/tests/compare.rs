//! What is told of what is known, and how often.

use super::*;

fn is_gossip(kind: &Kind) -> bool {
    matches!(kind, Kind::Gossip { .. })
}

/// Three that all know each other, and what they had to say is said.
fn at_rest(only_version_1: bool) -> World {
    let mut world = World::of((1..=3).map(welcoming));
    world.only_version_1 = only_version_1;
    world.connect(0, &[1, 2]);
    world.connect(1, &[2]);
    world.run(5000);
    world.delivered.iter_mut().for_each(Vec::clear);
    world.bytes = 0;
    world
}

#[test]
fn hosts_that_know_the_same_tell_each_other_nothing() {
    let mut world = at_rest(false);
    world.run(600_000);
    assert_eq!(world.delivered.iter().map(Vec::len).sum::<usize>(), 0);
    let of_a_host = world.bytes / 3 / 10;
    assert!(of_a_host < 1000, "{of_a_host} bytes a minute");
}

#[test]
fn a_host_that_missed_something_is_told_all_of_it_within_a_minute() {
    let mut world = at_rest(false);
    world.knows[2] = Digest(2);
    world.run(60_000);
    let told = |peer: usize| world.texts(peer, is_gossip);
    assert!(told(2).contains(&"all that 0 knows".to_owned()), "{:?}", told(2));
    assert!(told(0).contains(&"all that 2 knows".to_owned()), "{:?}", told(0));
    assert!(told(0).iter().all(|text| text == "all that 2 knows"), "{:?}", told(0));
}

#[test]
fn a_description_that_was_lost_on_its_way_is_told_within_minutes() {
    let mut world = at_rest(false);
    let mut peer = world.peers[0].topology.peers()[&name(1)].clone();
    peer.version += 5;
    let version = peer.version;
    world.peers[0].topology.merge(vec![(name(1), peer)]);
    world.run(120_000);
    for peer in [1, 2] {
        assert!(world.peers[peer].topology.peers()[&name(1)].version > version, "peer {peer}");
    }
}

#[test]
fn whoever_asks_again_and_again_is_told_once() {
    let mut world = at_rest(false);
    world.run(60_000);
    world.delivered.iter_mut().for_each(Vec::clear);
    let conn = world.peers[1].neighbours[&name(0)];
    for _ in 0..100 {
        world.peers[1].want(conn, APPLICATION);
        world.peers[1].want(conn, "weavers/other");
    }
    world.carry_out(1);
    world.run(1000);
    assert_eq!(world.texts(1, is_gossip), ["all that 0 knows"]);
}

#[test]
fn a_message_that_no_frame_can_hold_is_counted_and_named() {
    let mut world = at_rest(false);
    world.peers[0].broadcast(name(0), APPLICATION, &vec![0; MESSAGE_LEN_MAX + 1]);
    world.carry_out(0);
    world.run(1000);
    let unsent: Vec<&UnsentView> = world.peers[0].unsent().collect();
    assert_eq!(unsent.len(), 1);
    assert_eq!((unsent[0].channel.as_str(), unsent[0].count), (APPLICATION, 2));
    assert!(world.established(0, 1) && world.established(0, 2), "nobody closed the connection");
}

#[test]
fn a_host_that_does_not_compare_is_told_everything_unasked() {
    let mut world = at_rest(true);
    world.run(60_000);
    for peer in 0..3 {
        let told = world.texts(peer, is_gossip);
        assert!(!told.is_empty() && told.iter().all(|text| text.starts_with("state of")), "{told:?}");
    }
}
