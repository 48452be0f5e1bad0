//! What hosts tell and ask each other.

use super::*;

#[test]
fn a_latecomer_learns_the_ring_and_gets_space() {
    let mut network = Network::new((1..=3).map(|n| settings(n, Init::Consensus, 2)).collect());
    network.down.insert(peer(3));
    network.connect();
    network.down.clear();
    network.connect();
    let ticket = network.allocate(3, "web");
    assert_eq!(network.answer(ticket), Some(Ok("10.32.0.64/24".to_owned())));
    network.assert_agreed();
    network.assert_sound();
}

#[test]
fn a_ring_of_another_universe_is_not_gone_on_with() {
    let mut network = Network::of(2);
    network.allocate(1, "web");
    let saved = network.hosts[&peer(1)].saved.clone();
    let other = Settings { universe: net("10.48.0.0/12").into(), ..settings(1, Init::Consensus, 2) };
    let error = Allocator::new(other, saved.clone()).unwrap_err();
    assert!(matches!(error, StartError::OtherUniverse { .. }));
    let again = Allocator::new(settings(1, Init::Consensus, 2), saved).unwrap();
    assert_eq!(again.lookup("web"), [net("10.32.0.1/24")]);
    assert_eq!(again.used(), 1);
}

#[test]
fn two_clusters_that_meet_refuse_each_other_and_say_so() {
    let mut network = Network::new((1..=2).map(|n| settings(n, Init::Seed(vec![peer(n)]), 1)).collect());
    let other = network.host(2).state().unwrap();
    let now = network.now;
    let error = network.host(1).receive(now, Source::Gossip { from: peer(2) }, &other).unwrap_err();
    assert!(error.to_string().contains("seeded by different peers"), "{error}");
    let elsewhere =
        Settings { universe: net("10.48.0.0/24").into(), ..settings(3, Init::Seed(vec![peer(3)]), 1) };
    let mut elsewhere = Allocator::new(elsewhere, Saved::default()).unwrap();
    elsewhere.prove_memory(|_| false);
    let other = elsewhere.state().unwrap();
    let mut network = Network::new(vec![settings(4, Init::Consensus, 2)]);
    let error = network.host(4).receive(now, Source::Gossip { from: peer(3) }, &other).unwrap_err();
    assert!(error.to_string().contains("10.48.0.0/24, ours: 10.32.0.0/24"), "{error}");
}

#[test]
fn bytes_that_are_no_message_are_errors_and_change_nothing() {
    let mut network = Network::of(2);
    let before = network.host(1).ring().clone();
    for source in [
        Source::Unicast { from: peer(2) },
        Source::Gossip { from: peer(2) },
        Source::Broadcast { from: peer(2) },
    ] {
        for payload in [&[][..], &[7], &[0, 1, 2], &[1], &[2, 0xff]] {
            let now = network.now;
            assert!(network.host(1).receive(now, source, payload).is_err(), "{source:?} {payload:?}");
        }
    }
    assert_eq!(network.host(1).ring(), &before);
    assert_eq!(network.host(1).next_effect(), None);
}

#[test]
fn a_request_is_always_answered_with_a_ring_after_a_denial_if_there_is_one() {
    let mut network = Network::of(2);
    let source = Source::Unicast { from: peer(2) };
    let now = network.now;
    for (range, kinds) in [("10.32.0.7/32", vec![1]), ("10.32.0.200/32", vec![2, 1])] {
        let payload = message::Unicast::Request(net(range).into()).encode();
        network.host(1).receive(now, source, &payload).unwrap();
        let effects: Vec<Effect> = std::iter::from_fn(|| network.host(1).next_effect()).collect();
        let sent: Vec<u8> = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Unicast(_, payload) => payload.first().copied(),
                _ => None,
            })
            .collect();
        assert_eq!(sent, kinds);
        let saved = effects.iter().position(|effect| matches!(effect, Effect::Save(Record::Ring(_))));
        let told = effects.iter().position(|effect| matches!(effect, Effect::Broadcast(_)));
        assert_eq!(saved.is_some(), kinds.len() == 1);
        assert!(saved <= told, "what is given is saved before it is told");
    }
}

#[test]
fn of_two_pieces_that_are_free_the_one_is_given_that_can_change_hands() {
    let piece = |token, owner, version, free| ring::Entry {
        token: address(token),
        owner: peer(owner),
        version,
        free,
    };
    let entries = vec![
        piece("10.32.0.0", 1, ring::VERSION_MAX, 128),
        piece("10.32.0.128", 2, 1, 64),
        piece("10.32.0.192", 1, 5, 64),
    ];
    let universe = net(UNIVERSE).into();
    let ring = Ring::from_parts(peer(1), universe, entries, vec![peer(1), peer(2)]).unwrap();
    let saved = Saved { ring: Some(ring), ..Saved::default() };
    let mut host = Allocator::new(settings(1, Init::Consensus, 2), saved).unwrap();
    let asked = message::Unicast::Request(universe).encode();
    for _ in 0..10 {
        host.receive(Timestamp::ZERO, Source::Unicast { from: peer(2) }, &asked).unwrap();
    }
    let others = host.ring().owned_by(peer(2));
    assert_eq!(others, [Range::from(net("10.32.0.128/25"))], "all of it, bit by bit, and nothing else");
}
