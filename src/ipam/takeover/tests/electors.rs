//! Who has a vote.

use super::*;

#[test]
fn hosts_that_are_replaced_one_after_the_other_within_the_grace_time_leave_a_majority_that_decides() {
    for grace in [None, Some(10 * GRACE)] {
        // The founders go, and those who take their seats; of nine, no more than two stay.
        let mut network = Network::of(9, 3);
        network.grace = grace;
        network.pass(60);
        for number in 1..=7 {
            network.terminate(number);
            network.pass(75);
            assert!(
                (1..=number).all(|gone| !network.electors(9).contains(&gone)),
                "{:?}",
                network.electors(9)
            );
            assert_eq!(network.heirs(number), [].into(), "{number}: the grace is not over");
        }
        network.assert_agreed();
        network.pass(600);
        for number in 1..=7 {
            let expected = usize::from(grace.is_some());
            assert_eq!(network.heirs(number).len(), expected, "{number}, with a grace of {grace:?}");
        }
        network.ask(9, 1);
        network.pass(5);
        assert_eq!(network.heirs(1).len(), 1, "whoever asks need not wait");
    }
}

#[test]
fn an_elector_that_is_stopped_keeps_its_seat_and_so_does_one_that_a_majority_hears() {
    let mut network = Network::of(4, 3);
    network.grace = Some(10 * GRACE);
    network.stop(3);
    network.terminated.insert(peer(2));
    network.cut.insert((peer(1), peer(2)));
    network.pass(200);
    assert_eq!(network.electors(1), [1, 2, 3]);
}

#[test]
fn one_taken_for_dead_that_comes_back_is_a_peer_and_no_elector() {
    let mut network = Network::of(4, 3);
    network.stop(3);
    network.pass(20);
    network.ask(1, 3);
    network.down.remove(&peer(3));
    network.pass(40);
    assert_eq!(network.electors(3), network.electors(1));
    assert!(!network.electors(1).contains(&3));
    assert!(!network.owners.contains_key(&peer(3)));
    network.terminate(4);
    network.ask(2, 4);
    network.pass(2);
    assert_eq!(network.heirs(4), [2].into());
}

#[test]
fn an_elector_that_leaves_is_not_counted_on() {
    let mut network = Network::of(3, 3);
    network.pass(1);
    network.ask(3, 3);
    assert_eq!(network.electors(1), [1], "of two electors none may be lost");
    assert_eq!(network.heirs(3), [].into(), "it leaves nothing");
    network.terminate(2);
    network.ask(1, 2);
    network.pass(2);
    assert_eq!(network.heirs(2), [1].into());
}

#[test]
fn where_one_founded_the_cluster_others_decide_too_after_a_while() {
    let mut network = Network::of(4, 1);
    network.pass(10);
    assert_eq!(network.electors(4), [1]);
    network.pass(60);
    assert_eq!(network.electors(4), [1, 2, 3]);
    network.terminate(1);
    network.ask(4, 1);
    network.pass(2);
    assert_eq!(network.heirs(1), [4].into());
}

#[test]
fn if_most_electors_are_gone_somebody_may_decide_alone_and_the_others_follow() {
    let mut network = Network::of(5, 3);
    network.pass(1);
    [1, 2].into_iter().for_each(|number| network.terminate(number));
    network.ask(4, 1);
    network.pass(100);
    assert!(network.decisions.is_empty());
    network.force(4, 1);
    assert_eq!(network.heirs(1), [4].into());
    assert_eq!(network.electors(5), [3, 4, 5]);
    network.assert_agreed();
    network.ask(5, 2);
    network.pass(2);
    assert_eq!(network.heirs(2), [5].into());
}
