//! Who was away, came back, or decided alone meanwhile.

use super::*;

#[test]
fn whoever_was_away_learns_what_was_decided_and_by_whom_it_goes_on() {
    let mut network = Network::of(5, 5);
    network.down.extend([peer(4), peer(5)]);
    network.terminate(3);
    network.ask(1, 3);
    network.pass(5);
    assert!(network.heirs(3).is_empty(), "two of five are no majority");
    network.down.remove(&peer(4));
    network.pass(40);
    assert_eq!(network.heirs(3), [1].into());
    assert_eq!(network.electors(4), network.electors(1));
    network.assert_agreed();
}

/// Peer 3 was stopped and taken over from by peer 1; then it came back, and owns something again.
fn after_a_return() -> Network {
    let mut network = Network::of(5, 5);
    network.stop(3);
    network.pass(20);
    network.ask(1, 3);
    assert_eq!(network.heirs(3), [1].into());
    network.hosts.get_mut(&peer(1)).unwrap().takeover.unask(peer(3));
    network.down.clear();
    network.stopped.clear();
    network.owners.insert(peer(3), 7);
    network.pass(40);
    network
}

#[test]
fn a_host_that_lost_its_store_robs_nobody_who_was_taken_for_dead_once_and_came_back() {
    let mut network = after_a_return();
    network.lose_store(1);
    network.cut.insert((peer(1), peer(3)));
    network.pass(90);
    assert!(network.owners.contains_key(&peer(3)), "it obeyed a decision of long ago");
    assert_eq!(network.electors(1), network.electors(2), "it has the state all the same");
    network.assert_agreed();
}

#[test]
fn an_heir_that_was_cut_off_as_it_was_chosen_takes_nothing_when_it_hears_of_it_later() {
    let mut network = Network::of(5, 3);
    network.stop(4);
    network.pass(20);
    network.deaf.insert(peer(5));
    network.ask(5, 4);
    assert_eq!(network.hosts[&peer(1)].takeover.log().unwrap().next(), 1, "it was chosen");
    network.isolate(5);
    network.deaf.clear();
    network.down.clear();
    network.stopped.clear();
    network.hosts.get_mut(&peer(5)).unwrap().takeover.unask(peer(4));
    network.pass(600);
    network.cut.retain(|(one, _)| *one == peer(4));
    network.pass(90);
    assert!(network.owners.contains_key(&peer(4)), "it came back long ago");
    network.assert_agreed();
}

#[test]
fn an_heir_that_hears_what_became_of_a_proposal_before_it_hears_the_votes_takes_over() {
    let mut network = Network::of(4, 3);
    network.pass(1);
    let proposer = &mut network.hosts.get_mut(&peer(1)).unwrap().takeover;
    proposer.paxos.propose(&Decision { dead: peer(3), heir: peer(4), ..Decision::default() });
    let proposed = proposer.all_known();
    let mut after = proposer.clone();
    after.log.as_mut().unwrap().add(Decision { dead: peer(3), heir: peer(4), ..Decision::default() });
    after.open_next(NodeClaims::default());
    let heir = &mut network.hosts.get_mut(&peer(4)).unwrap().takeover;
    while heir.next_effect().is_some() {}
    heir.hear(network.now, peer(1), &proposed).unwrap();
    heir.hear(network.now, peer(2), &after.all_known()).unwrap();
    let decided =
        std::iter::from_fn(|| heir.next_effect()).any(|effect| matches!(effect, Effect::Decided(_)));
    assert!(decided);
}

#[test]
fn two_halves_in_which_somebody_decided_alone_and_that_came_equally_far_go_on_as_one() {
    let mut network = Network::of(7, 5);
    network.pass(1);
    [5, 6].into_iter().for_each(|number| network.terminate(number));
    let halves = [[1, 2].as_slice(), &[3, 4, 7]];
    let between = halves[0].iter().flat_map(|one| halves[1].iter().map(|other| (peer(*one), peer(*other))));
    network.cut.extend(between);
    network.force(2, 5);
    network.force(3, 5);
    // The numbers are made of the names, and these are neighbours.
    network.ask(1, 6);
    let next = |network: &Network, number| network.hosts[&peer(number)].takeover.log().unwrap().next();
    assert_eq!(next(&network, 1), next(&network, 3));
    assert_ne!(network.electors(1), network.electors(3));
    network.cut.clear();
    network.pass(40);
    network.assert_agreed();
    assert_eq!(network.electors(1), network.electors(3));
    network.terminate(7);
    network.ask(1, 7);
    network.pass(30);
    assert_eq!(network.heirs(7).len(), 1);
    network.assert_agreed();
}

#[test]
fn electors_of_another_log_have_no_say_in_ours() {
    let mut network = Network::of(4, 3);
    network.pass(1);
    let mut theirs = network.hosts[&peer(2)].takeover.clone();
    let ours = &mut network.hosts.get_mut(&peer(1)).unwrap().takeover;
    // As far as ours, and of two that we do not count on; it is the lesser of the two.
    theirs.log.as_mut().unwrap().add(Decision { joins: [peer(0)].into(), ..Decision::default() });
    ours.log.as_mut().unwrap().add(Decision::default());
    let ground = Decision { dead: peer(3), heir: peer(2), ..Decision::default() };
    ours.open_next(NodeClaims::default());
    theirs.open_next(NodeClaims::default());
    theirs.paxos.propose(&ground);
    ours.hear(network.now, peer(2), &theirs.all_known()).unwrap();
    assert!(!ours.paxos.is_under_way());
}
