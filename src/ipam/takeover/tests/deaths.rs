//! Who is taken over from, when, and by whom.

use super::*;

#[test]
fn the_terminated_are_taken_over_from_by_one_once_their_grace_is_over() {
    let mut network = Network::of(4, 3);
    network.pass(1);
    network.terminate(3);
    network.pass(55);
    assert!(network.decisions.is_empty());
    network.pass(10);
    // Peer 4 owns least.
    assert_eq!(network.heirs(3), [4].into());
    assert_eq!(network.decisions.len(), 3, "each of the others heard it once");
    assert_eq!(network.electors(1), [1, 2, 4]);
    network.assert_agreed();
}

#[test]
fn the_stopped_are_left_alone_and_so_are_the_terminated_where_reclaim_is_off() {
    let mut network = Network::of(3, 3);
    network.stop(3);
    network.pass(200);
    assert!(network.decisions.is_empty(), "it is stopped and may come back");
    network.grace = None;
    network.terminate(3);
    network.pass(200);
    assert_eq!(network.heirs(3), [].into());
}

#[test]
fn two_that_ask_at_once_get_one_heir() {
    let mut network = Network::of(3, 3);
    network.terminate(3);
    network.hosts.get_mut(&peer(1)).unwrap().takeover.ask(peer(3));
    network.hosts.get_mut(&peer(2)).unwrap().takeover.ask(peer(3));
    network.turn();
    network.pass(1);
    assert_eq!(network.heirs(3).len(), 1);
}

#[test]
fn whoever_asks_is_the_heir_at_once() {
    let mut network = Network::of(5, 3);
    network.terminate(2);
    network.ask(5, 2);
    assert_eq!(network.heirs(2), [5].into());
    assert!(network.decisions.iter().all(|(_, decision)| decision.dead == peer(2)));
}

#[test]
fn nobody_takes_over_from_a_peer_that_a_majority_hears() {
    let mut network = Network::of(3, 3);
    network.cut.insert((peer(1), peer(3)));
    network.ask(1, 3);
    network.pass(30);
    assert!(network.decisions.is_empty(), "peer 2 hears it");
}

#[test]
fn nobody_takes_over_from_an_instance_that_runs() {
    let mut network = Network::of(3, 3);
    network.down.insert(peer(3));
    network.pass(15);
    network.ask(1, 3);
    network.pass(30);
    assert!(network.decisions.is_empty());
    assert_eq!(network.hosts[&peer(1)].takeover.running(peer(3)), Some("i-3"));
}

#[test]
fn a_minority_decides_nothing_and_names_who_is_missing() {
    let mut network = Network::of(5, 5);
    network.down.extend([peer(4), peer(5)]);
    network.terminate(3);
    network.ask(1, 3);
    network.pass(5);
    assert!(network.decisions.is_empty());
    let reachable = network.reachable(peer(1));
    let view = View { owners: &network.owners, reachable: &reachable, grace: None };
    assert_eq!(network.hosts[&peer(1)].takeover.missing(view, peer(3)), [peer(3), peer(4), peer(5)]);
    network.down.remove(&peer(4));
    network.pass(40);
    assert_eq!(network.heirs(3), [1].into());
}

#[test]
fn where_an_heir_does_not_take_over_it_is_decided_again() {
    let mut network = Network::of(5, 5);
    network.terminate(3);
    network.ask(1, 3);
    assert_eq!(network.heirs(3), [1].into());
    // It died with the decision, and nobody has seen the ring in which it took over.
    network.terminate(1);
    network.owners.insert(peer(3), 97);
    network.pass(15);
    assert_eq!(network.heirs(3), [1].into(), "it may take over yet");
    network.pass(60);
    assert_eq!(network.heirs(3).len(), 2);
    assert!(!network.owners.contains_key(&peer(3)));
}

#[test]
fn where_many_are_not_heard_ec2_is_asked_about_each_in_its_turn() {
    let hosts: BTreeMap<PeerName, String> =
        (2..=260).map(|number| (peer(number), instance(peer(number)))).collect();
    let saved = Saved { kept: None, instances: hosts.clone() };
    let mut elector = TakeOver::new(NodeId { name: peer(1), uid: 1001 }, Some("i-1".to_owned()), saved);
    elector.begin(&[peer(1)]);
    let owners: BTreeMap<PeerName, u64> = (1..=260).map(|number| (peer(number), 1)).collect();
    let reachable = BTreeSet::from([peer(1)]);
    let view = View { owners: &owners, reachable: &reachable, grace: Some(GRACE) };
    elector.consider(Timestamp::ZERO, view);
    let mut asked = BTreeSet::new();
    let mut now = Timestamp::ZERO + SUSPECT_AFTER;
    for _ in 0..3 {
        let about: BTreeSet<String> = elector.suspects(now).into_values().collect();
        assert!(about.len() <= SUSPECTS_MAX);
        let runs = about.iter().map(|id| (id.clone(), InstanceState::Running)).collect();
        elector.hear_ec2(now, &about, &runs);
        asked.extend(about);
        now += Duration::from_secs(60);
    }
    assert_eq!(asked.len(), hosts.len());
}
