//! Hosts that leave, that are taken over from, and that come back.

use super::*;

/// Both leave at the same moment, and each is the other's heir.
#[test]
fn two_hosts_that_drain_at_once_keep_nothing_of_what_each_gave_the_other() {
    let mut network = Network::of(4);
    let now = network.now;
    for number in [1, 2] {
        network.host(number).drain(now).unwrap();
    }
    network.act(peer(1));
    network.act(peer(2));
    network.run();
    network.connect();
    network.assert_agreed();
    let owners: BTreeSet<u64> = network.owners(3).into_iter().map(|(_, owner)| owner).collect();
    assert_eq!(owners, BTreeSet::from([3, 4]));
}

#[test]
fn what_is_given_to_a_host_that_is_leaving_by_then_goes_to_its_heir_too() {
    let mut network = Network::of(3);
    let now = network.now;
    let request = message::Unicast::Request(Range::from(net("10.32.0.150/32"))).encode();
    network.host(2).receive(now, Source::Unicast { from: peer(1) }, &request).unwrap();
    network.host(1).drain(now).unwrap();
    network.act(peer(2));
    network.act(peer(1));
    network.run();
    network.connect();
    network.assert_agreed();
    assert_eq!(network.host(1).owned(), []);
}

#[test]
fn a_host_that_leaves_is_nobodys_heir_any_more() {
    let mut network = Network::of(3);
    let now = network.now;
    network.host(1).drain(now).unwrap();
    network.act(peer(1));
    network.run();
    network.stop(3);
    network.host(1).bury(now, peer(3), peer(1));
    network.act(peer(1));
    assert_eq!(network.host(1).owned(), [], "it was chosen before they heard that it leaves");
}

#[test]
fn nothing_is_left_to_a_host_that_said_that_it_leaves() {
    let mut network = Network::of(3);
    let now = network.now;
    network.host(1).set_leavers(BTreeSet::from([peer(2)]));
    assert_eq!(network.host(1).drain(now), Ok((128, Some(peer(3)))));
}

#[test]
fn a_dead_peer_is_taken_over_and_a_live_one_is_not() {
    let mut network = Network::of(3);
    let now = network.now;
    assert!(matches!(network.host(1).forget(now, peer(2)), Err(Refused::PeerAlive { .. })));
    assert!(matches!(network.host(1).forget(now, peer(1)), Err(Refused::Myself { .. })));
    assert!(matches!(network.host(1).forget(now, peer(9)), Err(Refused::UnknownPeer { .. })));
    network.stop(2);
    assert_eq!(network.host(1).forget(now, peer(2)), Ok(64));
    network.act(peer(1));
    network.run();
    network.assert_agreed();
    assert_eq!(network.host(3).ring().owner(address("10.32.0.130")), Some(peer(1)));
}

#[test]
fn a_drained_host_leaves_all_to_an_heir_and_takes_no_more_questions() {
    let mut network = Network::of(2);
    let now = network.now;
    network.allocate(1, "web");
    assert!(matches!(network.host(1).drain(now), Err(Refused::StillInUse { count: 1, .. })));
    network.host(1).free("web", None).unwrap();
    network.promised.clear();
    assert_eq!(network.host(1).drain(now), Ok((128, Some(peer(2)))));
    network.act(peer(1));
    network.run();
    assert_eq!(network.owners(2), [(UNIVERSE.to_owned(), 2)]);
    let ticket = network.allocate(1, "web");
    assert_eq!(network.answer(ticket), Some(Err(Refused::Leaving)));
    let ticket = network.allocate(2, "web");
    assert!(matches!(network.answer(ticket), Some(Ok(_))));
}

/// What a host whose disk was set back may have given away since, nobody gets as an heir before every owner has shown what is his.
#[test]
fn what_rests_at_a_host_that_leaves_goes_to_its_heir_when_it_rests_no_more() {
    let mut network = super::memory::set_back("10.32.0.140/24", "10.32.0.150/24");
    network.host(2).set_unconfirmed(Some(BTreeSet::new()));
    let (now, owned) = (network.now, network.host(2).owned());
    let addresses = owned.iter().map(|range| range.len()).sum();
    assert_eq!(network.host(2).drain(now), Ok((addresses, Some(peer(3)))));
    network.act(peer(2));
    network.run();
    assert_eq!(network.host(2).owned(), owned, "the first has shown nothing");
    network.down.clear();
    network.connect();
    network.host(2).set_unconfirmed(Some(BTreeSet::new()));
    network.act(peer(2));
    network.run();
    assert_eq!(network.host(2).owned(), []);
    assert_eq!(network.host(3).ring().owner(address("10.32.0.150")), Some(peer(1)));
    network.assert_agreed();
    network.assert_sound();
}

/// Hosts 1 and 2 take over host 3 in two halves of the network.
fn taken_over_twice(used_by_one: &[&str], used_by_two: &[&str]) -> Network {
    taken_over_twice_among(3, used_by_one, used_by_two)
}

/// The same, where there are so many hosts. The others hear of it afterwards.
pub(super) fn taken_over_twice_among(hosts: u64, used_by_one: &[&str], used_by_two: &[&str]) -> Network {
    let mut network = Network::of(hosts);
    network.stop(3);
    network.cut(1, 2);
    for other in 4..=hosts {
        network.cut(1, other);
        network.cut(2, other);
    }
    let now = network.now;
    for (number, used) in [(1, used_by_one), (2, used_by_two)] {
        network.host(number).set_reachable(now, BTreeSet::new());
        network.host(number).forget(now, peer(3)).unwrap();
        network.act(peer(number));
        for address in used {
            let ticket = network.claim(number, address, address);
            assert!(matches!(network.answer(ticket), Some(Ok(_))));
        }
    }
    network.run();
    network.cut.clear();
    network.connect();
    network.pass(5);
    network
}

#[test]
fn of_two_take_overs_the_one_that_is_in_use_stands() {
    let mut network = taken_over_twice(&[], &["10.32.0.200/24"]);
    network.assert_agreed();
    network.assert_sound();
    assert_eq!(network.host(1).ring().owner(address("10.32.0.200")), Some(peer(2)));
}

#[test]
fn two_take_overs_without_use_fall_to_the_lower_name() {
    let mut network = taken_over_twice(&[], &[]);
    network.assert_agreed();
    assert_eq!(network.host(2).ring().owner(address("10.32.0.200")), Some(peer(1)));
}

#[test]
fn two_take_overs_that_are_both_in_use_are_taken_apart() {
    let mut network =
        taken_over_twice(&["10.32.0.200/24", "10.32.0.220/24"], &["10.32.0.210/24", "10.32.0.230/24"]);
    network.assert_agreed();
    network.assert_sound();
    assert!(network.host(1).waits().is_empty() && network.host(2).waits().is_empty());
    assert_eq!(network.host(1).ring().owner(address("10.32.0.210")), Some(peer(2)));
    assert_eq!(network.host(1).ring().owner(address("10.32.0.205")), Some(peer(1)));
}

#[test]
fn an_address_that_two_hosts_use_stays_open_and_is_named() {
    let mut network = taken_over_twice(&["10.32.0.200/24"], &["10.32.0.200/24"]);
    assert!(!network.host(2).waits().is_empty());
    assert_eq!(network.host(2).lookup("10.32.0.200/24"), [net("10.32.0.200/24")]);
    network.host(2).free("10.32.0.200/24", None).unwrap();
    network.promised.remove(&(peer(2), "10.32.0.200/24".to_owned()));
    network.connect();
    network.assert_agreed();
    network.assert_sound();
}

#[test]
fn what_a_host_gave_up_to_another_it_leaves_to_nobody_else() {
    let mut network = taken_over_twice_among(4, &["10.32.0.140/24"], &["10.32.0.140/24"]);
    assert!(network.host(2).owned().iter().any(|range| range.contains(address("10.32.0.140"))));
    network.stop(1);
    network.host(2).free("10.32.0.140/24", None).unwrap();
    network.promised.remove(&(peer(2), "10.32.0.140/24".to_owned()));
    let now = network.now;
    let (_, heir) = network.host(2).drain(now).unwrap();
    assert_eq!(heir, Some(peer(4)));
    network.act(peer(2));
    network.run();
    assert_eq!(network.host(2).owned(), []);
    assert_eq!(network.host(4).ring().owner(address("10.32.0.140")), Some(peer(1)), "it has it in use");
    network.down.clear();
    network.connect();
    network.assert_agreed();
    network.assert_sound();
}

/// Host 2 takes over from host 1, which comes back with an address in use.
fn taken_for_dead(kin: Option<BTreeSet<PeerName>>) -> Network {
    let mut network = Network::of(2);
    network.allocate(1, "web");
    network.stop(1);
    let now = network.now;
    network.host(2).forget(now, peer(1)).unwrap();
    network.act(peer(2));
    network.run();
    network.host(1).set_kin(kin);
    network.down.clear();
    network.connect();
    network.pass(5);
    network.assert_agreed();
    network.assert_sound();
    network
}

#[test]
fn whoever_was_taken_for_dead_tells_its_own_kind_that_a_piece_in_use_is_still_its_own() {
    let mut network = taken_for_dead(None);
    assert_eq!(network.host(1).owned(), [net("10.32.0.0/25").into()]);
}

#[test]
fn of_a_weave_net_router_it_asks_for_its_addresses_since_to_be_told_would_crash_it() {
    let mut network = taken_for_dead(Some(BTreeSet::new()));
    assert_eq!(network.host(1).owned(), [net("10.32.0.1/32").into()]);
}
