//! Hosts that lost their store, or whose disk was set back.

use super::*;

/// Two seeds; the first gave an address to the second and then lost its store.
fn forgetful_seed() -> Network {
    let seeds = vec![peer(1), peer(2)];
    let mut network = Network::new((1..=2).map(|n| settings(n, Init::Seed(seeds.clone()), 2)).collect());
    network.connect();
    let ticket = network.claim(2, "web", "10.32.0.7/24");
    assert_eq!(network.answer(ticket), Some(Ok("10.32.0.7/24".to_owned())));
    network.hosts.get_mut(&peer(1)).unwrap().saved = Saved::default();
    network.down.insert(peer(2));
    network.restart(peer(1));
    network
}

#[test]
fn a_seed_without_a_memory_makes_no_ring_before_traces_of_an_earlier_life_were_looked_for() {
    let mut network = forgetful_seed();
    network.pass(60);
    assert!(network.host(1).ring().is_empty());
    network.host(1).prove_memory(|owned| {
        assert_eq!(owned, [Range::from(net("10.32.0.0/25"))], "what would be its own");
        false
    });
    assert_eq!(network.host(1).quarantined(), []);
}

#[test]
fn a_seed_that_lost_its_store_uses_nothing_before_every_owner_has_shown_what_it_was_given() {
    let mut network = forgetful_seed();
    network.host(1).prove_memory(|_| true);
    network.host(1).set_unconfirmed(Some(BTreeSet::new()));
    let ticket = network.claim(1, "db", "10.32.0.7/24");
    network.pass(60);
    assert_eq!(network.answer(ticket), None);
    network.down.clear();
    network.connect();
    assert_eq!(network.host(1).quarantined(), []);
    assert!(matches!(network.answer(ticket), Some(Err(_))), "it is the other's");
    network.assert_agreed();
    network.assert_sound();
}

/// 1 - 2 - 3, with a Weave Net router in the middle maybe: the third owns something, is far, and never says so by itself. The first
/// lost its store, and what it gave the third meanwhile.
#[test]
fn a_far_owner_among_weave_net_routers_is_asked_for_its_ring_and_gives_nothing_away() {
    let seeds = vec![peer(1), peer(2), peer(3)];
    let mut network = Network::new((1..=3).map(|n| settings(n, Init::Seed(seeds.clone()), 3)).collect());
    network.cut(1, 3);
    network.connect();
    let ticket = network.claim(3, "web", "10.32.0.7/24");
    assert_eq!(network.answer(ticket), Some(Ok("10.32.0.7/24".to_owned())));
    network.hosts.get_mut(&peer(1)).unwrap().saved = Saved::default();
    network.restart(peer(1));
    network.host(1).prove_memory(|_| true);
    network.host(1).set_unconfirmed(Some(BTreeSet::new()));
    network.connect();
    network.pass(60);
    assert_ne!(network.host(1).quarantined(), [], "the far one has shown nothing");
    let owned = network.host(3).owned();
    network.host(1).set_kin(Some(BTreeSet::new()));
    network.pass(60);
    assert_eq!(network.host(1).quarantined(), []);
    assert_eq!(network.host(3).owned(), owned);
    network.assert_agreed();
    network.assert_sound();
    assert_eq!(network.host(1).next_wake(), None, "nobody is asked any more");
}

#[test]
fn of_many_owners_among_weave_net_routers_some_are_asked_at_a_time() {
    let seeds: Vec<PeerName> = (1..=100).map(peer).collect();
    let mut host = Allocator::new(settings(1, Init::Seed(seeds.clone()), 3), Saved::default()).unwrap();
    host.set_kin(Some(BTreeSet::new()));
    host.set_reachable(Timestamp::ZERO, seeds.iter().copied().collect());
    host.prove_memory(|_| true);
    let mut asked: Vec<PeerName> = Vec::new();
    let mut now = Timestamp::ZERO;
    for round in 1..=4 {
        now = host.next_wake().unwrap().max(now);
        host.wake(now);
        let effects = std::iter::from_fn(|| host.next_effect());
        asked.extend(effects.filter_map(|effect| match effect {
            Effect::Unicast(to, payload) => {
                assert!(matches!(message::Unicast::decode(&payload), Ok(message::Unicast::Request(_))));
                Some(to)
            }
            _ => None,
        }));
        assert!(asked.len() <= 32 * round);
    }
    assert_eq!(asked.iter().copied().collect::<BTreeSet<PeerName>>().len(), 99, "{asked:?}");
}

#[test]
fn what_is_heard_to_be_its_own_rests_until_a_host_without_a_memory_is_known_to_be_new() {
    let seeds = vec![peer(1), peer(2)];
    let mut network = Network::new((1..=3).map(|n| settings(n, Init::Seed(seeds.clone()), 2)).collect());
    network.down.insert(peer(3));
    network.hosts.get_mut(&peer(1)).unwrap().saved = Saved::default();
    network.restart(peer(1));
    network.connect();
    assert_eq!(network.host(1).quarantined(), [Range::from(net("10.32.0.0/25"))]);
    network.host(1).prove_memory(|_| false);
    assert_eq!(network.host(1).quarantined(), []);
}

/// Three hosts; the disk of the second is one that was copied before it gave two addresses to the first, which is down. The third
/// heard of one gift, not of the other.
pub(super) fn set_back(heard: &str, unheard: &str) -> Network {
    let network = Network::of(3);
    let copy = network.hosts[&peer(2)].saved.clone();
    set_back_to(network, copy, heard, unheard)
}

fn set_back_to(mut network: Network, copy: Saved, heard: &str, unheard: &str) -> Network {
    let ticket = network.claim(1, "heard", heard);
    assert!(matches!(network.answer(ticket), Some(Ok(_))));
    network.cut(1, 3);
    network.cut(2, 3);
    let ticket = network.claim(1, "unheard", unheard);
    assert!(matches!(network.answer(ticket), Some(Ok(_))));
    network.stop(1);
    network.hosts.get_mut(&peer(2)).unwrap().saved = copy;
    network.restart(peer(2));
    // What only this host can have written proves an old disk, whatever its boot.
    network.host(2).trust_memory();
    network.cut.clear();
    network.connect();
    network
}

#[test]
fn a_host_that_hears_nobody_uses_nothing_where_the_routes_say_that_its_disk_is_old() {
    for (led_to_peers, of_this_boot) in [(true, false), (true, true), (false, false)] {
        let mut network = Network::of(3);
        network.down.extend([peer(1), peer(3)]);
        network.restart(peer(2));
        if of_this_boot {
            network.host(2).trust_memory();
        }
        network.host(2).compare_memory(|_| led_to_peers);
        let asked = network.allocate(2, "db");
        network.pass(60);
        let is_old = led_to_peers && !of_this_boot;
        assert_eq!(network.answer(asked).is_none(), is_old, "{led_to_peers} {of_this_boot}");
    }
}

#[test]
fn routes_that_others_may_have_written_since_the_first_look_say_nothing_of_the_disk() {
    let mut network = Network::of(3);
    network.restart(peer(2));
    network.host(2).compare_memory(|_| false);
    network.host(2).compare_memory(|_| true);
    assert_eq!(network.host(2).quarantined(), []);
}

#[test]
fn a_host_whose_disk_was_set_back_uses_nothing_before_every_owner_has_shown_what_it_was_given() {
    // The second gift begins where a piece does: all that stays is a piece of which the old disk knows nothing.
    for heard in ["10.32.0.140/24", "10.32.0.128/24"] {
        let mut network = set_back(heard, "10.32.0.150/24");
        network.host(2).set_unconfirmed(Some(BTreeSet::new()));
        let claimed = network.claim(2, "db", "10.32.0.150/24");
        network.pass(60);
        assert_eq!(network.answer(claimed), None, "{heard}: it may have given it away since");
        network.down.clear();
        network.connect();
        network.host(2).set_unconfirmed(Some(BTreeSet::new()));
        assert_eq!(network.host(2).quarantined(), [], "{heard}");
        assert!(matches!(network.answer(claimed), Some(Err(_))), "{heard}: it is the other's");
        network.assert_agreed();
        network.assert_sound();
    }
}

#[test]
fn a_host_whose_disk_was_set_back_does_not_promise_again_what_it_gave_back_since() {
    let mut network = Network::of(3);
    let held = network.claim(2, "old", "10.32.0.150/24");
    assert!(matches!(network.answer(held), Some(Ok(_))));
    let copy = network.hosts[&peer(2)].saved.clone();
    network.host(2).free("old", None).unwrap();
    network.act(peer(2));
    let mut network = set_back_to(network, copy, "10.32.0.140/24", "10.32.0.150/24");
    network.host(2).set_unconfirmed(Some(BTreeSet::new()));
    for again in [network.claim(2, "old", "10.32.0.150/24"), network.allocate(2, "old")] {
        network.pass(60);
        assert_eq!(network.answer(again), None);
    }
}

#[test]
fn a_gift_leaves_a_trace_in_what_the_giver_keeps() {
    let mut network = Network::of(3);
    // A piece of one address is left of what was before this, and is given away as it is.
    for address in ["10.32.0.131/24", "10.32.0.129/24"] {
        network.claim(1, address, address);
    }
    let copy = network.hosts[&peer(2)].saved.clone();
    let before = network.host(2).owned();
    let ticket = network.claim(1, "last", "10.32.0.130/24");
    assert!(matches!(network.answer(ticket), Some(Ok(_))));
    network.run();
    assert_ne!(network.host(2).owned(), before);
    network.hosts.get_mut(&peer(2)).unwrap().saved = copy;
    network.restart(peer(2));
    network.host(2).trust_memory();
    network.connect();
    assert!(!network.host(2).quarantined().is_empty());
}

/// Of three hosts the second used an address, freed it, and gave all that it had to the first, which is down. Then its disk is one that
/// was copied before.
fn set_back_to_before_it_drained() -> Network {
    let mut network = Network::of(3);
    let held = network.claim(2, "old", "10.32.0.150/24");
    assert!(matches!(network.answer(held), Some(Ok(_))));
    let copy = network.hosts[&peer(2)].saved.clone();
    network.host(2).free("old", None).unwrap();
    network.promised.clear();
    let now = network.now;
    assert_eq!(network.host(2).drain(now), Ok((64, Some(peer(1)))));
    network.act(peer(2));
    network.run();
    network.stop(1);
    network.hosts.get_mut(&peer(2)).unwrap().saved = copy;
    network.restart(peer(2));
    network
}

/// Nothing that it owns bears a trace of what it gave away: it owns nothing.
#[test]
fn a_host_whose_disk_was_set_back_to_before_it_drained_gives_nothing_away_that_its_heir_may_use() {
    let mut network = set_back_to_before_it_drained();
    network.connect();
    network.host(2).set_unconfirmed(Some(BTreeSet::new()));
    assert_ne!(network.host(2).quarantined(), [], "what it uses, by its old disk, may be its heir's");
    network.host(2).free("old", None).unwrap();
    network.act(peer(2));
    let claimed = network.claim(3, "db", "10.32.0.150/24");
    network.pass(60);
    assert!(!matches!(network.answer(claimed), Some(Ok(_))));
    network.down.clear();
    // Once for what it claims, and once for the answers.
    network.connect();
    network.connect();
    network.host(2).set_unconfirmed(Some(BTreeSet::new()));
    assert_eq!(network.host(2).quarantined(), []);
    network.assert_agreed();
    network.assert_sound();
}

/// An address is used by one host, and then by another: what the disk of the first says while it uses it.
fn used_and_given_away(network: &mut Network, first: u64, then: u64, cidr: &str) -> Saved {
    let held = network.claim(first, "old", cidr);
    assert!(matches!(network.answer(held), Some(Ok(_))));
    let copy = network.hosts[&peer(first)].saved.clone();
    network.host(first).free("old", None).unwrap();
    network.act(peer(first));
    network.promised.clear();
    let taken = network.claim(then, "web", cidr);
    assert!(matches!(network.answer(taken), Some(Ok(_))));
    copy
}

/// The fourth owns one address, which was the second one's, and was in use there by its old disk.
#[test]
fn a_host_whose_disk_was_set_back_waits_for_whoever_owns_nothing_but_what_is_in_use_by_the_old_disk() {
    let founders = (1..=3).map(|n| settings(n, Init::Consensus, 3));
    let mut network = Network::new(founders.chain([settings(4, Init::Observer, 3)]).collect());
    network.connect();
    let copy = used_and_given_away(&mut network, 2, 4, "10.32.0.150/24");
    network.stop(4);
    network.hosts.get_mut(&peer(2)).unwrap().saved = copy;
    network.restart(peer(2));
    network.connect();
    network.connect();
    network.host(2).set_unconfirmed(Some(BTreeSet::new()));
    assert_eq!(network.host(2).awaited(), &[peer(4)].into());
    network.host(2).free("old", None).unwrap();
    network.act(peer(2));
    let claimed = network.claim(3, "db", "10.32.0.150/24");
    network.pass(60);
    assert!(!matches!(network.answer(claimed), Some(Ok(_))));
    network.down.clear();
    // Once for what it claims, and once for the answers.
    network.connect();
    network.connect();
    network.host(2).set_unconfirmed(Some(BTreeSet::new()));
    assert_eq!(network.host(2).quarantined(), []);
    network.assert_agreed();
    network.assert_sound();
}

/// Of three hosts and one that owned nothing when its disk was copied. The routes say that the disk is an old one.
fn set_back_to_before_it_owned_anything(since: impl FnOnce(&mut Network)) -> Network {
    let founders = (1..=3).map(|n| settings(n, Init::Consensus, 3));
    let mut network = Network::new(founders.chain([settings(4, Init::Observer, 3)]).collect());
    network.connect();
    let copy = network.hosts[&peer(4)].saved.clone();
    since(&mut network);
    network.stop(1);
    network.hosts.get_mut(&peer(4)).unwrap().saved = copy;
    network.restart(peer(4));
    network.host(4).compare_memory(|_| true);
    assert_eq!(network.host(4).owned(), []);
    network.connect();
    network.host(4).set_unconfirmed(Some(BTreeSet::new()));
    network
}

/// The second gave it an address, and does not know that it has given that to the first since.
#[test]
fn a_host_whose_disk_was_set_back_gives_nothing_away_that_it_hears_it_was_given_in_what_it_forgot() {
    let mut network = set_back_to_before_it_owned_anything(|network| {
        used_and_given_away_unheard(network, "10.32.0.150/24");
    });
    let given = address("10.32.0.150");
    assert_eq!(network.host(4).ring().owner(given), Some(peer(4)));
    assert!(network.host(4).quarantined().iter().any(|range| range.contains(given)));
    let claimed = network.claim(3, "db", "10.32.0.150/24");
    network.pass(60);
    assert!(!matches!(network.answer(claimed), Some(Ok(_))), "it is the first one's");
    network.down.clear();
    network.connect();
    network.connect();
    network.host(4).set_unconfirmed(Some(BTreeSet::new()));
    assert_eq!(network.host(4).quarantined(), []);
    assert_eq!(network.host(4).ring().owner(given), Some(peer(1)));
    network.assert_agreed();
    network.assert_sound();
}

/// The fourth uses an address of the second, and then the first does, of which neither the second nor the third hears.
fn used_and_given_away_unheard(network: &mut Network, cidr: &str) {
    let held = network.claim(4, "old", cidr);
    assert!(matches!(network.answer(held), Some(Ok(_))));
    for (one, other) in [(1, 2), (1, 3), (2, 4), (3, 4)] {
        network.cut(one, other);
    }
    network.host(4).free("old", None).unwrap();
    network.act(peer(4));
    network.promised.clear();
    let taken = network.claim(1, "web", cidr);
    assert!(matches!(network.answer(taken), Some(Ok(_))));
    network.stop(1);
    network.cut.clear();
}

#[test]
fn a_host_whose_disk_was_set_back_uses_what_it_is_given_by_those_that_it_has_heard() {
    let mut network = set_back_to_before_it_owned_anything(|_| {});
    let asked = network.allocate(4, "db");
    assert!(matches!(network.answer(asked), Some(Ok(_))));
    assert_eq!(network.host(4).quarantined(), []);
}

/// Its only neighbour has nothing to give, and of the two others one is dead: the gift of the far one rests, as it has not been heard
/// before, and the next one does not.
#[test]
fn a_host_that_lost_its_store_is_given_addresses_by_one_that_is_far_while_another_is_dead() {
    let founders = (1..=3).map(|n| settings(n, Init::Consensus, 3));
    let mut network = Network::new(founders.chain([settings(4, Init::Observer, 3)]).collect());
    network.connect();
    network.stop(1);
    network.cut(2, 3);
    for container in 0..network.host(3).owned().iter().map(|range| range.len()).sum() {
        network.allocate(3, &format!("c{container}"));
    }
    network.cut.clear();
    network.cut(2, 4);
    network.hosts.get_mut(&peer(4)).unwrap().saved = Saved::default();
    network.restart(peer(4));
    network.host(4).prove_memory(|_| true);
    network.connect();
    network.host(4).set_unconfirmed(Some(BTreeSet::new()));
    let asked = network.allocate(4, "db");
    network.pass(60);
    assert!(matches!(network.answer(asked), Some(Ok(_))));
    assert_ne!(network.host(4).quarantined(), [], "the first gift");
    network.assert_sound();
}

#[test]
fn a_host_that_was_taken_for_dead_and_whose_disk_is_no_old_one_goes_on_with_what_it_uses() {
    let mut network = Network::of(3);
    let held = network.claim(2, "web", "10.32.0.150/24");
    assert!(matches!(network.answer(held), Some(Ok(_))));
    network.stop(2);
    let now = network.now;
    network.host(1).forget(now, peer(2)).unwrap();
    network.act(peer(1));
    network.run();
    network.restart(peer(2));
    network.host(2).trust_memory();
    network.down.clear();
    network.connect();
    network.assert_agreed();
    assert_eq!(network.host(2).quarantined(), []);
    let again = network.allocate(2, "web");
    assert_eq!(network.answer(again), Some(Ok("10.32.0.150/24".to_owned())));
    network.assert_sound();
}

/// Two stand by one piece, and the second yielded it to the first, which then lost its store and hears first of all that the piece is its
/// own.
fn yielded_to_one_that_lost_its_store() -> Network {
    let mut network = leaving::taken_over_twice_among(4, &["10.32.0.150/24"], &["10.32.0.150/24"]);
    assert!(!network.host(2).contested().is_empty());
    network.promised.remove(&(peer(1), "10.32.0.150/24".to_owned()));
    network.hosts.get_mut(&peer(1)).unwrap().saved = Saved::default();
    network.restart(peer(1));
    network.host(1).prove_memory(|_| true);
    network.cut(1, 2);
    network.connect();
    network
}

/// Two stand by one piece, and the second yielded it to the first, which then lost its store: what it owns rests until the second shows
/// that all of it is the first one's, and the second waits to be given what it uses of it.
#[test]
fn whoever_lost_its_store_gives_an_address_that_rests_to_the_host_that_uses_it_and_yielded_the_rest() {
    let mut network = yielded_to_one_that_lost_its_store();
    assert!(network.host(1).quarantined().iter().any(|range| range.contains(address("10.32.0.150"))));
    network.cut.clear();
    network.host(1).set_unconfirmed(Some(BTreeSet::new()));
    for _ in 0..3 {
        network.pass(40);
        network.connect();
    }
    network.assert_agreed();
    network.assert_sound();
    assert_eq!(network.host(1).quarantined(), []);
    assert_eq!(network.host(1).ring().owner(address("10.32.0.150")), Some(peer(2)));
    assert!(network.host(2).contested().is_empty());
}

/// The second waits for an address that rests at the first, which lost its store, does not know of it, and leaves.
#[test]
fn whoever_leaves_gives_an_address_that_rests_to_the_host_that_uses_it() {
    let mut network = yielded_to_one_that_lost_its_store();
    let now = network.now;
    network.host(1).drain(now).unwrap();
    network.act(peer(1));
    network.cut.clear();
    network.host(1).set_unconfirmed(Some(BTreeSet::new()));
    for _ in 0..3 {
        network.pass(40);
        network.connect();
    }
    assert_eq!(network.host(1).owned(), []);
    assert_eq!(network.host(4).ring().owner(address("10.32.0.150")), Some(peer(2)));
    network.assert_agreed();
    network.assert_sound();
}

/// Of two hosts that use an address the first yielded it: it was given away after what is on its disk, which was set back.
fn yielded_after_a_set_back() -> Network {
    let mut network = Network::of(3);
    let copy = used_and_given_away(&mut network, 1, 2, "10.32.0.7/24");
    network.hosts.get_mut(&peer(1)).unwrap().saved = copy;
    network.restart(peer(1));
    network.connect();
    assert_eq!(network.host(1).contested(), [(net("10.32.0.7/32").into(), peer(2))]);
    assert_eq!(network.host(2).contested(), []);
    network
}

fn version_of(network: &mut Network, number: u64, address: Address) -> u32 {
    network.host(number).ring().entry_of(address).unwrap().version
}

/// The third remembers a higher claim of the first, from before its disk was set back: the second yields as well.
fn yielded_by_both() -> Network {
    let mut network = yielded_after_a_set_back();
    let claimed = |entry: &ring::Entry| match entry.token == address("10.32.0.7") {
        true => ring::Entry { version: entry.version + 10, ..*entry },
        false => *entry,
    };
    let ring = network.host(1).ring();
    let entries = ring.entries().iter().map(claimed).collect();
    let remembered = Ring::from_parts(peer(3), ring.universe(), entries, ring.seeds().to_vec()).unwrap();
    let state = message::State { ring: Some(remembered), ..message::State::default() };
    network.wires.push_back((peer(1), (peer(3), Source::Gossip { from: peer(3) }, state.encode())));
    network.run();
    assert_eq!(network.host(1).contested(), [(net("10.32.0.7/32").into(), peer(2))]);
    assert_eq!(network.host(2).contested(), [(net("10.32.0.7/32").into(), peer(1))]);
    network
}

#[test]
fn whoever_yielded_a_piece_does_not_claim_it_again_by_what_it_gives_away() {
    let mut network = yielded_by_both();
    network.host(1).set_unconfirmed(Some(BTreeSet::new()));
    network.connect();
    assert_eq!(network.host(1).quarantined(), []);
    let disputed = address("10.32.0.7");
    let before = version_of(&mut network, 1, disputed);
    for given in ["10.32.0.20/24", "10.32.0.30/24", "10.32.0.40/24", "10.32.0.50/24"] {
        let ticket = network.claim(3, given, given);
        assert!(matches!(network.answer(ticket), Some(Ok(_))));
    }
    assert_eq!(version_of(&mut network, 1, disputed), before);
}

#[test]
fn of_two_that_yielded_an_address_to_each_other_the_one_keeps_it_that_does_not_free_it() {
    for (freed, by, keeper) in [("old", 1, 2), ("web", 2, 1)] {
        let mut network = yielded_by_both();
        network.promised.clear();
        network.host(by).free(freed, None).unwrap();
        network.act(peer(by));
        network.run();
        // As soon as the other asks again.
        network.pass(31);
        assert_eq!(network.host(1).contested(), [], "{by} freed it");
        assert_eq!(network.host(2).contested(), [], "{by} freed it");
        assert_eq!(network.host(3).ring().owner(address("10.32.0.7")), Some(peer(keeper)));
        network.assert_agreed();
        network.assert_sound();
    }
}

#[test]
fn of_two_that_yielded_an_address_to_each_other_the_one_keeps_it_that_stays() {
    let mut network = yielded_by_both();
    network.host(1).free("old", None).unwrap();
    let now = network.now;
    network.host(1).drain(now).unwrap();
    network.act(peer(1));
    network.run();
    network.connect();
    assert_eq!(network.host(3).ring().owner(address("10.32.0.7")), Some(peer(2)));
    assert_eq!(network.host(2).contested(), []);
    network.assert_agreed();
    network.assert_sound();
}
