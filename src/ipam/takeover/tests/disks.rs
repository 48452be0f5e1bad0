//! Electors that are started again, boot, lose what they promised, or have an old disk.

use super::*;
use crate::counter::{HONEST_MAX, STEP_MAX};

#[test]
fn an_elector_keeps_its_promises_across_a_restart_and_one_without_a_store_has_none_to_keep() {
    let mut network = Network::of(3, 3);
    network.pass(1);
    network.restart(peer(1));
    assert!(network.hosts[&peer(1)].takeover.paxos.ours().is_some());

    network.terminate(3);
    network.cut.insert((peer(1), peer(2)));
    // Alone it proposes nothing, as nobody seconds; so it is made to.
    let ground = Decision { dead: peer(3), heir: peer(1), ..Decision::default() };
    let host = network.hosts.get_mut(&peer(1)).unwrap();
    host.takeover.paxos.propose(&ground);
    host.takeover.save();
    network.act(peer(1));
    network.lose_store(2);
    network.cut.clear();
    network.gossip();
    network.turn();
    let votes = |network: &Network| network.hosts[&peer(2)].takeover.ballot.known_from().is_some();
    assert!(!votes(&network), "somebody has proposed");
    network.pass(59);
    assert!(!votes(&network));
    network.pass(32);
    assert!(votes(&network));
}

/// Of three electors the first and the second decide, and the third does not hear of it.
fn after_a_decision_that_one_of_three_electors_missed() -> (Network, Saved) {
    let mut network = Network::of(4, 3);
    network.pass(1);
    let before = network.hosts[&peer(1)].saved.clone();
    network.isolate(3);
    network.terminate(4);
    network.ask(1, 4);
    assert_eq!(network.heirs(4), [1].into());
    network.hosts.get_mut(&peer(1)).unwrap().takeover.unask(peer(4));
    // Neither the third nor an old disk of the first knows of it.
    network.owners.insert(peer(4), 96);
    (network, before)
}

#[test]
fn an_elector_whose_disk_was_set_back_does_not_vote_again_with_one_that_missed_its_vote() {
    let (mut network, before) = after_a_decision_that_one_of_three_electors_missed();
    network.cut = BTreeSet::from([(peer(1), peer(2)), (peer(2), peer(3))]);
    network.hosts.get_mut(&peer(1)).unwrap().saved = before;
    network.boot(1);
    network.ask(3, 4);
    network.pass(50);
    assert_eq!(network.hosts[&peer(3)].takeover.log().unwrap().next(), 0, "they cannot know");
    network.cut.clear();
    network.pass(60);
    network.assert_agreed();
    assert!(network.hosts[&peer(3)].takeover.log().unwrap().next() > 0);
}

#[test]
fn an_elector_that_hears_of_a_promise_of_its_own_that_is_not_on_its_disk_says_so_and_keeps_its_vote() {
    let mut network = Network::of(3, 3);
    network.pass(1);
    let before = network.hosts[&peer(1)].saved.clone();
    let elector = &mut network.hosts.get_mut(&peer(1)).unwrap().takeover;
    elector.paxos.propose(&Decision { dead: peer(3), heir: peer(1), ..Decision::default() });
    let promised = elector.all_known();
    let other = &mut network.hosts.get_mut(&peer(2)).unwrap().takeover;
    other.hear(network.now, peer(1), &promised).unwrap();
    let told = other.all_known();
    network.hosts.get_mut(&peer(1)).unwrap().saved = before;
    network.boot(1);
    let elector = &mut network.hosts.get_mut(&peer(1)).unwrap().takeover;
    elector.hear(network.now, peer(2), &told).unwrap();
    assert!(std::iter::from_fn(|| elector.next_effect()).any(|effect| effect == Effect::SetBack));
    assert_eq!(elector.ballot.known_from(), None);
}

#[test]
fn an_elector_that_was_only_booted_votes_as_soon_as_enough_others_have_shown_what_they_know() {
    let mut network = Network::of(6, 5);
    network.pass(1);
    network.terminate(5);
    network.boot(1);
    network.gossip();
    network.turn();
    network.terminate(4);
    network.ask(2, 4);
    network.pass(2);
    assert_eq!(network.heirs(4), [2].into(), "three of five had to agree");
}

#[test]
fn where_one_of_three_electors_is_dead_another_that_was_booted_votes_after_a_while() {
    let mut network = Network::of(3, 3);
    network.pass(1);
    network.terminate(3);
    network.boot(1);
    network.ask(2, 3);
    network.pass(58);
    assert!(network.decisions.is_empty());
    network.pass(20);
    assert_eq!(network.heirs(3), [2].into());
}

#[test]
fn where_one_of_three_electors_is_dead_another_votes_at_once_that_was_started_again_without_a_boot() {
    let mut network = Network::of(3, 3);
    network.pass(1);
    network.terminate(3);
    network.restart(peer(1));
    network.ask(2, 3);
    network.pass(2);
    assert_eq!(network.heirs(3), [2].into());
}

/// A log as far as is believed, or further, that one elector hears of and the others do not.
#[test]
fn where_somebody_says_that_it_came_to_the_last_decision_of_all_there_is_one_more() {
    let believed = HONEST_MAX + STEP_MAX;
    for next in [HONEST_MAX, HONEST_MAX + 1, believed, believed + 1, u64::MAX] {
        let mut network = Network::of(5, 5);
        network.pass(1);
        let ours = network.hosts.get_mut(&peer(5)).unwrap().takeover.all_known();
        let theirs = String::from_utf8(ours).unwrap().replace("\"next\":0", &format!("\"next\":{next}"));
        network.wires.push_back((peer(5), peer(1), theirs.into_bytes()));
        network.terminate(5);
        network.turn();
        network.ask(2, 5);
        network.pass(90);
        assert_eq!(network.heirs(5), [2].into(), "after a log of {next}");
        network.assert_agreed();
    }
}

#[test]
fn a_promise_is_on_disk_before_it_is_told() {
    let mut network = Network::of(3, 3);
    network.pass(1);
    let (owners, reachable) = (network.owners.clone(), network.reachable(peer(1)));
    let view = View { owners: &owners, reachable: &reachable, grace: None };
    let ground = Decision { dead: peer(3), heir: peer(1), ..Decision::default() };
    let one = &mut network.hosts.get_mut(&peer(1)).unwrap().takeover;
    one.paxos.propose(&ground);
    let (said, promised) = (one.summary(), one.paxos.ours().unwrap().promise);

    let two = &mut network.hosts.get_mut(&peer(2)).unwrap().takeover;
    two.hear(Timestamp::ZERO, peer(1), &said).unwrap();
    two.consider(Timestamp::ZERO, view);
    let effects: Vec<Effect> = std::iter::from_fn(|| two.next_effect()).collect();
    let [Effect::Save(kept), Effect::Broadcast(_)] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!(kept.claims.promise, promised);
    let saved = Saved { kept: Some(kept.clone()), ..Saved::default() };
    let again = TakeOver::new(NodeId { name: peer(2), uid: 1002 }, None, saved);
    assert_eq!(again.paxos.ours().unwrap().promise, promised);
}

#[test]
fn the_word_of_a_former_life_is_outdone() {
    let mut network = Network::of(3, 3);
    network.pass(1);
    network.ask(2, 9);
    network.restart(peer(2));
    network.gossip();
    network.turn();
    let known = network.hosts[&peer(1)].takeover.statements.all()[&peer(2)].clone();
    assert!(known.asks.is_empty(), "{known:?}");
}
