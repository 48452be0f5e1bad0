//! Who asks for addresses here, and what the answer is.

use super::*;

#[test]
fn the_lowest_host_address_is_handed_out_and_the_same_one_again() {
    let mut network = Network::of(2);
    let first = network.allocate(1, "web");
    let again = network.allocate(1, "web");
    assert_eq!(network.answer(first), Some(Ok("10.32.0.1/24".to_owned())));
    assert_eq!(network.answer(again), network.answer(first));
    assert_eq!(network.host(1).free("web", None), Ok(vec![net("10.32.0.1/24")]));
    assert_eq!(network.host(1).free("web", None), Err(Refused::NothingHeld { ident: "web".to_owned() }));
    network.promised.clear();
    let next = network.allocate(1, "db");
    assert_eq!(
        network.answer(next),
        Some(Ok("10.32.0.2/24".to_owned())),
        "packets for web are still under way"
    );
}

#[test]
fn a_question_before_the_ring_is_answered_when_it_is_there() {
    let mut network = Network::new((1..=2).map(|n| settings(n, Init::Consensus, 2)).collect());
    let ticket = network.allocate(2, "web");
    assert_eq!(network.answer(ticket), None);
    network.connect();
    assert_eq!(network.answer(ticket), Some(Ok("10.32.0.128/24".to_owned())));
}

#[test]
fn addresses_are_handed_out_until_none_is_left_anywhere() {
    let mut network = Network::of(3);
    for n in 0..254 {
        let ticket = network.allocate(2, &format!("c{n}"));
        assert!(matches!(network.answer(ticket), Some(Ok(_))), "{n}: {:?}", network.answer(ticket));
    }
    network.assert_sound();
    let ticket = network.allocate(2, "one too many");
    assert_eq!(network.answer(ticket), Some(Err(Refused::Exhausted { subnet: net(UNIVERSE) })));
    network.connect();
    assert!((1..=3).all(|number| !network.host(number).has_room(net(UNIVERSE))), "nor does anybody say so");
    network.host(2).free("c7", None).unwrap();
    network.act(peer(2));
    network.promised.remove(&(peer(2), "c7".to_owned()));
    network.run();
    let ticket = network.allocate(1, "elsewhere");
    assert!(matches!(network.answer(ticket), Some(Ok(_))), "a freed address is found by others");
}

#[test]
fn the_edges_of_a_subnet_and_strange_subnets_are_refused() {
    let mut network = Network::of(1);
    let refused = |network: &Network, ticket| network.answer(ticket).unwrap().unwrap_err();
    for edge in ["10.32.0.0/24", "10.32.0.255/24", "10.32.0.64/26", "10.32.0.127/26"] {
        let ticket = network.claim(1, "web", edge);
        assert!(matches!(refused(&network, ticket), Refused::Reserved { .. }), "{edge}");
    }
    let ask = |subnet| Ask::Allocate { ident: "web".to_owned(), subnet: net(subnet) };
    let ticket = network.ask(1, ask("192.168.0.0/24"));
    assert!(matches!(refused(&network, ticket), Refused::OutOfRange { .. }));
    let ticket = network.ask(1, ask("10.32.0.8/31"));
    assert!(matches!(refused(&network, ticket), Refused::TooSmall { .. }));
    let ticket = network.ask(1, ask("10.32.0.8/30"));
    assert_eq!(network.answer(ticket), Some(Ok("10.32.0.9/30".to_owned())));
}

#[test]
fn a_block_is_held_whole_and_space_is_asked_of_others_where_none_is_here() {
    let mut network = Network::of(2);
    let hold =
        |ident: &str, prefix_len| Ask::Hold { ident: ident.to_owned(), subnet: net(UNIVERSE), prefix_len };
    let ticket = network.ask(1, hold("bridge", 26));
    let held = network.answer(ticket).unwrap().unwrap();
    assert_eq!(network.host(1).lookup("bridge").len(), 64, "each of its addresses is in use");
    let again = network.ask(1, hold("bridge", 26));
    assert_eq!(network.answer(again), Some(Ok(held.clone())), "it is the same block");
    let single = network.allocate(1, "web");
    let single = network.answer(single).unwrap().unwrap();
    assert!(!net(&held).contains(&net(&single).addr()));
    // Of the 128 addresses of each host 64 are left to the second, and those that it gives the first one are no whole block.
    let second = network.ask(1, hold("another", 26));
    assert!(matches!(network.answer(second), Some(Ok(_))), "{:?}", network.answer(second));
    for (wrong, prefix_len) in [("large", 8), ("small", 30), ("whole", 20)] {
        let ticket = network.ask(2, hold(wrong, prefix_len));
        assert!(matches!(network.answer(ticket), Some(Err(Refused::NoBlock { .. }))), "{wrong}");
    }
    network.host(1).free("bridge", None).unwrap();
    network.act(peer(1));
    assert_eq!(network.host(1).lookup("bridge"), []);
}

#[test]
fn a_claim_gets_the_address_from_its_owner_and_a_second_one_is_denied() {
    let mut network = Network::of(2);
    let ticket = network.claim(1, "web", "10.32.0.200/24");
    assert_eq!(network.answer(ticket), Some(Ok("10.32.0.200/24".to_owned())));
    network.assert_agreed();
    let denied = network.claim(2, "db", "10.32.0.200/24");
    let text = network.answer(denied).unwrap().unwrap_err().to_string();
    assert!(text.contains("10.32.0.200") && text.contains("host1"), "{text}");
    let here = network.claim(1, "other", "10.32.0.200/24");
    assert!(matches!(network.answer(here), Some(Err(Refused::InUse { .. }))));
    network.assert_sound();
}

#[test]
fn a_denial_fails_only_the_question_it_belongs_to() {
    let mut network = Network::of(3);
    network.hosts.get_mut(&peer(3)).unwrap().allocator.space.claim(address("10.32.0.200"));
    network.cut(1, 2);
    network.cut(1, 3);
    let waits = network.claim(1, "waits", "10.32.0.210/24");
    let denied = network.claim(1, "denied", "10.32.0.200/24");
    for range in [net(UNIVERSE), net("10.32.0.200/32")] {
        let payload = message::Unicast::Denied(range.into()).encode();
        let source = Source::Unicast { from: peer(3) };
        let now = network.now;
        network.host(1).receive(now, source, &payload).unwrap();
    }
    network.act(peer(1));
    assert_eq!(network.answer(waits), None);
    assert!(matches!(network.answer(denied), Some(Err(Refused::OwnedByPeer { .. }))));
}

#[test]
fn a_donor_that_does_not_answer_is_followed_by_the_next() {
    let mut network =
        Network::new((1..=3).map(|n| settings(n, Init::Seed(vec![peer(1), peer(2)]), 2)).collect());
    network.connect();
    // Silent, but believed to be there.
    network.down.insert(peer(1));
    let ticket = network.allocate(3, "web");
    assert_eq!(network.answer(ticket), None);
    let waits = network.host(3).waits();
    assert!(waits[0].0.contains("space in 10.32.0.0/24 for web from 00:00:00:00:00:01 (host1)"), "{waits:?}");
    network.pass(3);
    assert_eq!(network.answer(ticket), Some(Ok("10.32.0.192/24".to_owned())));
}

#[test]
fn an_owner_that_cannot_be_reached_is_waited_for_by_name_until_cancelled() {
    let mut network = Network::of(2);
    network.stop(2);
    let ticket = network.claim(1, "web", "10.32.0.200/24");
    network.pass(60);
    assert_eq!(network.answer(ticket), None);
    let (what, hint) = network.host(1).waits().remove(0);
    assert!(what.contains("10.32.0.200") && what.contains("host2"), "{what}");
    assert!(hint.unwrap().contains("weavers forget 00:00:00:00:00:02"));
    network.host(1).cancel(ticket);
    assert!(network.host(1).waits().is_empty());
}

#[test]
fn nothing_is_handed_out_beneath_a_route_of_others() {
    let mut network = Network::of(1);
    network.host(1).set_avoided(vec![net("10.32.0.0/28").into()]);
    let ticket = network.allocate(1, "web");
    assert_eq!(network.answer(ticket), Some(Ok("10.32.0.16/24".to_owned())));
    let ticket = network.claim(1, "db", "10.32.0.3/24");
    assert_eq!(network.answer(ticket), Some(Err(Refused::Avoided { address: address("10.32.0.3") })));
}

#[test]
fn space_that_could_not_be_given_before_is_told_at_once() {
    let mut network = Network::new((1..=2).map(|n| settings(n, Init::Consensus, 2)).collect());
    network.host(1).set_avoided(vec![net(UNIVERSE).into()]);
    network.connect();
    let free = |network: &mut Network, at| {
        let entries = network.host(at).ring().entries();
        entries.iter().filter(|entry| entry.owner == peer(1)).map(|entry| entry.free).sum::<u32>()
    };
    assert_eq!(free(&mut network, 2), 0);
    network.host(1).set_avoided(Vec::new());
    network.act(peer(1));
    network.run();
    assert_eq!(free(&mut network, 2), 127, "all but the first of the range");
    network.host(1).set_avoided(Vec::new());
    assert_eq!(network.host(1).next_effect(), None, "once is enough");
}

#[test]
fn an_address_found_in_use_is_never_handed_out_and_claimed_from_its_owner() {
    let mut network = Network::new((1..=2).map(|n| settings(n, Init::Consensus, 2)).collect());
    network.host(1).adopt("old", net("10.32.0.1/24"));
    network.host(1).adopt("far", net("10.32.0.200/24"));
    network.connect();
    network.assert_agreed();
    assert_eq!(network.host(1).used(), 2);
    assert_eq!(network.host(2).ring().owner(address("10.32.0.200")), Some(peer(1)));
    let ticket = network.allocate(1, "new");
    assert_eq!(network.answer(ticket), Some(Ok("10.32.0.2/24".to_owned())));
    assert!(network.host(1).waits().is_empty());
}
