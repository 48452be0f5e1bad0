//! The first ring.

use super::*;

#[test]
fn three_hosts_that_meet_agree_at_once() {
    let mut network = Network::of(3);
    let expected = [("10.32.0.0/25", 1), ("10.32.0.128/26", 2), ("10.32.0.192/26", 3)];
    assert_eq!(network.now, Timestamp::ZERO);
    for number in 1..=3 {
        assert_eq!(network.owners(number), expected.map(|(range, owner)| (range.to_owned(), owner)));
        assert!(network.host(number).waits().is_empty());
    }
}

#[test]
fn a_majority_waits_three_seconds_for_the_rest() {
    let mut network = Network::new((1..=3).map(|n| settings(n, Init::Consensus, 3)).collect());
    network.down.insert(peer(1));
    network.connect();
    network.pass(2);
    assert!(network.host(2).ring().is_empty());
    network.pass(2);
    assert_eq!(network.owners(3), [("10.32.0.0/25".to_owned(), 2), ("10.32.0.128/25".to_owned(), 3)]);
    network.assert_agreed();
}

#[test]
fn a_host_that_hears_only_itself_elects_nobody_unless_it_is_alone_by_configuration() {
    let mut network = Network::new(vec![settings(1, Init::Consensus, 2)]);
    network.connect();
    network.pass(600);
    assert!(network.host(1).ring().is_empty());
    let (what, hint) = network.host(1).waits().remove(0);
    assert!(what.contains("heard 1 of 2 expected peers, 2 needed: 00:00:00:00:00:01 (host1)"), "{what}");
    assert!(hint.unwrap().contains("expected_peers"));
    let mut network = Network::new(vec![settings(1, Init::Consensus, 1)]);
    network.connect();
    assert_eq!(network.owners(1), [(UNIVERSE.to_owned(), 1)]);
}

#[test]
fn the_next_lowest_proposes_when_the_lowest_falls_silent() {
    let mut network = Network::new((1..=3).map(|n| settings(n, Init::Consensus, 3)).collect());
    // The lowest is heard and believed to be there, but its proposal never leaves.
    let now = network.now;
    let mut silent = network.hosts.remove(&peer(1)).unwrap();
    let payload = silent.allocator.state().unwrap();
    network.connect();
    for number in 2..=3 {
        let all = (1..=3).map(peer).collect();
        network.host(number).set_reachable(now, all);
        let source = Source::Gossip { from: peer(1) };
        network.host(number).receive(now, source, &payload).unwrap();
    }
    network.run();
    assert!(network.host(2).ring().is_empty());
    network.pass(4);
    network.assert_agreed();
    assert_eq!(network.owners(2).len(), 3, "the silent one has its part");
}

#[test]
fn an_observer_that_is_asked_says_so_at_once() {
    let mut host = Allocator::new(settings(5, Init::Observer, 3), Saved::default()).unwrap();
    host.wake(Timestamp::ZERO);
    let ask = Ask::Allocate { ident: "c".to_owned(), subnet: net(UNIVERSE) };
    host.ask(Timestamp::ZERO, Ticket(1), ask.clone());
    let Some(Effect::Broadcast(state)) = host.next_effect() else { panic!("it asks for a ring") };
    let state = message::State::decode(&state).unwrap();
    assert!(state.paxos.is_none() && state.ring.is_none());
    host.ask(Timestamp::ZERO, Ticket(2), ask);
    assert_eq!(host.next_effect(), None, "once is enough until the next round");
}

#[test]
fn nobody_waits_for_an_elector_that_proposes_only_when_asked() {
    let mut host = Allocator::new(settings(5, Init::Consensus, 3), Saved::default()).unwrap();
    host.set_reachable(Timestamp::ZERO, BTreeSet::from([peer(1), peer(2)]));
    let idle = message::State { paxos: Some(BTreeMap::new()), ..message::State::default() }.encode();
    for from in [peer(1), peer(2)] {
        host.receive(Timestamp::ZERO, Source::Gossip { from }, &idle).unwrap();
    }
    host.wake(Timestamp::ZERO);
    let effects = std::iter::from_fn(|| host.next_effect());
    let proposed = effects.filter_map(|effect| match effect {
        Effect::Broadcast(state) => message::State::decode(&state).unwrap().paxos,
        _ => None,
    });
    assert!(proposed.flat_map(BTreeMap::into_values).any(|claims| claims.promise.exists()));
}

#[test]
fn an_observer_between_two_electors_passes_on_what_they_say() {
    let mut network = Network::new(vec![
        settings(1, Init::Consensus, 2),
        settings(2, Init::Observer, 2),
        settings(3, Init::Consensus, 2),
    ]);
    network.cut(1, 3);
    network.connect();
    network.assert_agreed();
    assert_eq!(network.owners(2), [("10.32.0.0/25".to_owned(), 1), ("10.32.0.128/25".to_owned(), 3)]);
}

#[test]
fn a_promise_is_saved_before_it_is_told_and_kept_across_a_restart() {
    let now = Timestamp::ZERO;
    let promise = paxos::ProposalId { round: 1, proposer: NodeId { name: peer(1), uid: 1001 } };
    let claims = NodeClaims { promise, ..NodeClaims::default() };
    let paxos = Some(paxos::Claims::from([(promise.proposer, claims)]));
    let payload = message::State { paxos, ..message::State::default() }.encode();

    let mut network = Network::new(vec![settings(2, Init::Consensus, 3)]);
    network.host(2).receive(now, Source::Broadcast { from: peer(1) }, &payload).unwrap();
    let effects: Vec<Effect> = std::iter::from_fn(|| network.host(2).next_effect()).collect();
    let [Effect::Save(Record::Paxos(saved)), Effect::Broadcast(_)] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    assert_eq!(saved.promise, promise);
    let saved = Saved { paxos: Some(saved.clone()), ..Saved::default() };
    let mut again = Allocator::new(settings(2, Init::Consensus, 3), saved).unwrap();
    let told = message::State::decode(&again.state().unwrap()).unwrap().paxos.unwrap();
    assert_eq!(told[&NodeId { name: peer(2), uid: 1002 }].promise, promise);
}

#[test]
fn a_host_that_must_join_elects_nobody_and_says_why() {
    let mut network = Network::new((1..=2).map(|n| settings(n, Init::Consensus, 2)).collect());
    network.host(1).hold_election(Some("route 10.32.0.0/25 leads to eni-9".to_owned()));
    network.connect();
    network.pass(60);
    assert!(network.host(2).ring().is_empty());
    assert!(network.host(1).waits()[0].0.contains("eni-9"));
    network.host(1).hold_election(None);
    network.connect();
    network.assert_agreed();
    assert_eq!(network.owners(2).len(), 2);
}

#[test]
fn seeds_make_the_ring_without_an_election() {
    let seeds = vec![peer(2), peer(1)];
    let mut network = Network::new((1..=2).map(|n| settings(n, Init::Seed(seeds.clone()), 2)).collect());
    network.connect();
    assert_eq!(network.owners(1), [("10.32.0.0/25".to_owned(), 1), ("10.32.0.128/25".to_owned(), 2)]);
    network.assert_agreed();
}
