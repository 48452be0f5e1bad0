//! Blocks that move so that there are fewer routes.

use super::{
    compact::{Compaction, routes},
    *,
};

const NOBODY: &BTreeSet<PeerName> = &BTreeSet::new();

/// Blocks of all hosts, each by its own ring.
fn blocks(network: &Network) -> usize {
    network.hosts.values().map(|host| host.allocator.blocks()).sum()
}

/// Routes of a table that is laid out at its best.
fn fewest_routes(network: &Network) -> usize {
    let owners = network.hosts[&peer(1)].allocator.ring().owners();
    routes(&owners, net(UNIVERSE).into(), None)
}

/// A host gives what it can do without to whom that saves a block or a route. Returns whether it gave anything.
fn give_one(network: &mut Network, giver: PeerName) -> bool {
    // What it was given a moment ago stays for a while.
    network.now += Duration::from_secs(15);
    let now = network.now;
    let allocator = &mut network.hosts.get_mut(&giver).unwrap().allocator;
    allocator.tick(now);
    let Some((block, taker)) = allocator.next_gift(NOBODY) else { return false };
    if !network.hosts[&taker].allocator.may_take(giver, block) {
        return false;
    }
    let given = network.hosts.get_mut(&giver).unwrap().allocator.give(now, block, taker);
    network.act(giver);
    network.run();
    given
}

/// Hosts whose addresses come and go, and who claim some from each other.
fn stirred(seed: u64, hosts: u64) -> Network {
    let mut network = Network::of(hosts);
    network.rng = ChaCha8Rng::seed_from_u64(seed);
    network.pass(10);
    for _ in 0..60 {
        let (number, chosen) = (network.rng.random_range(1..=hosts), network.rng.random_range(0..12u32));
        let ident = format!("c{chosen}");
        match network.rng.random_range(0..4) {
            0 => drop(network.allocate(number, &ident)),
            1 | 2 => {
                let last = network.rng.random_range(1..255);
                network.claim(number, &ident, &format!("10.32.0.{last}/24"));
            }
            _ => {
                network.promised.remove(&(peer(number), ident.clone()));
                let _ = network.host(number).free(&ident, None);
                let of_it =
                    |(_, asked): &(&Ticket, &(PeerName, String))| **asked == (peer(number), ident.clone());
                let tickets: Vec<Ticket> =
                    network.asked.iter().filter(of_it).map(|(ticket, _)| *ticket).collect();
                tickets.into_iter().for_each(|ticket| network.host(number).cancel(ticket));
                network.act(peer(number));
                network.run();
            }
        }
    }
    // What was freed lately stays where it is.
    network.pass(120);
    for number in 1..=hosts {
        let now = network.now;
        network.host(number).wake(now);
        network.act(peer(number));
    }
    network.run();
    network
}

#[test]
fn each_gift_leaves_fewer_blocks_or_routes_until_there_is_none_to_give_and_what_is_in_use_stays() {
    let (mut before_all, mut after_all, mut gifts) = (0, 0, 0);
    for seed in 0..40 {
        let mut network = stirred(seed, 2 + seed % 4);
        let before = blocks(&network);
        let names: Vec<PeerName> = network.hosts.keys().copied().collect();
        let mut quiet = 0;
        while quiet < names.len() {
            for giver in &names {
                let before = (blocks(&network), fewest_routes(&network));
                let (used, owned) = {
                    let allocator = &network.hosts[giver].allocator;
                    (allocator.space.used().clone(), allocator.used())
                };
                if !give_one(&mut network, *giver) {
                    quiet += 1;
                    continue;
                }
                (quiet, gifts) = (0, gifts + 1);
                let after = (blocks(&network), fewest_routes(&network));
                assert!(after != before && after.0 <= before.0 && after.1 <= before.1, "seed {seed}");
                let allocator = &network.hosts[giver].allocator;
                assert_eq!(allocator.space.used(), &used);
                let free: u32 = allocator.owned().iter().map(|range| allocator.space.free_in(*range)).sum();
                assert!(free >= owned.max(16), "seed {seed}: {free} free beside {owned} in use");
            }
        }
        network.assert_sound();
        network.assert_agreed();
        (before_all, after_all) = (before_all + before, after_all + blocks(&network));
    }
    assert!(
        gifts > 100 && after_all * 4 < before_all * 3,
        "{before_all} blocks, {after_all} after {gifts} gifts"
    );
}

/// The other has as few routes as it can, since one of its own covers that address; to give it more would save none.
#[test]
fn an_address_in_the_middle_of_another_hosts_block_gathers_nothing_around_it() {
    let mut network = Network::of(2);
    network.pass(10);
    network.claim(2, "pinned", "10.32.0.77/24");
    network.claim(2, "own", "10.32.0.200/24");
    assert_eq!(network.host(1).next_gift(NOBODY), None);
    network.host(2).free("pinned", None).unwrap();
    network.pass(120);
    let now = network.now;
    network.host(2).wake(now);
    assert_eq!(network.host(2).next_gift(NOBODY), Some((net("10.32.0.77/32"), peer(1))));
}

#[test]
fn a_newcomer_is_given_a_whole_block_that_nobody_uses() {
    let piece =
        |token, owner, free| ring::Entry { token: address(token), owner: peer(owner), version: 1, free };
    let entries = vec![
        piece("10.32.0.0", 1, 128),
        piece("10.32.0.128", 2, 64),
        piece("10.32.0.192", 1, 32),
        piece("10.32.0.224", 2, 32),
    ];
    let universe = net(UNIVERSE).into();
    let ring = Ring::from_parts(peer(1), universe, entries, vec![peer(1), peer(2)]).unwrap();
    let saved = Saved { ring: Some(ring), ..Saved::default() };
    let mut host = Allocator::new(settings(1, Init::Consensus, 2), saved).unwrap();
    assert_eq!((host.blocks(), host.movable()), (2, 0), "it has just become its own");
    let now = at(15);
    host.tick(now);
    assert_eq!((host.spare_blocks().len(), host.movable()), (2, 1), "either may go, and not both");
    host.ask(now, Ticket(1), Ask::Allocate { ident: "one".into(), subnet: net(UNIVERSE) });
    assert_eq!((host.blocks(), host.movable()), (2, 1));
    let asked = message::Unicast::Request(universe).encode();
    let mut give = |to| {
        host.receive(now, Source::Unicast { from: peer(to) }, &asked).unwrap();
        host.ring().owned_by(peer(to))
    };
    assert_eq!(give(3), [Range::from(net("10.32.0.192/27"))], "though a part of the other is larger");
    assert_eq!(give(4), [Range::from(net("10.32.0.96/27"))]);
}

/// The first host has the lower half and the last quarter of the upper one, in which it has a container.
#[test]
fn a_block_that_makes_no_larger_one_goes_where_one_route_can_lead_to_it_and_to_what_is_beside_it() {
    let piece =
        |token, owner, free| ring::Entry { token: address(token), owner: peer(owner), version: 1, free };
    let entries = vec![piece("10.32.0.0", 1, 128), piece("10.32.0.128", 2, 64), piece("10.32.0.192", 1, 64)];
    let universe = net(UNIVERSE).into();
    let host = |number| {
        let ring = Ring::from_parts(peer(number), universe, entries.clone(), vec![peer(1), peer(2)]).unwrap();
        let saved = Saved { ring: Some(ring), ..Saved::default() };
        let mut host = Allocator::new(settings(number, Init::Consensus, 2), saved).unwrap();
        host.set_reachable(at(0), [peer(1), peer(2)].into());
        host.tick(at(15));
        host
    };
    let mut giver = host(1);
    let claim = Ask::Claim { ident: "one".into(), address: net("10.32.0.200/24") };
    giver.ask(at(15), Ticket(1), claim);
    let lower = net("10.32.0.0/25");
    assert_eq!(giver.next_gift(NOBODY), Some((lower, peer(2))));
    assert!(host(2).may_take(peer(1), lower));
    assert!(giver.give(at(15), lower, peer(2)));
    assert_eq!(routes(&giver.ring().owners(), universe, None), 2, "one for each");
}

#[test]
fn what_is_not_the_givers_or_makes_more_blocks_is_not_taken() {
    let mut network = Network::of(3);
    network.pass(10);
    let owners = network.owners(1);
    assert_eq!(
        owners,
        [("10.32.0.0/25".into(), 1), ("10.32.0.128/26".into(), 2), ("10.32.0.192/26".into(), 3)]
    );
    let may_take =
        |network: &mut Network, from: u64, block: &str| network.host(2).may_take(peer(from), net(block));
    assert!(may_take(&mut network, 3, "10.32.0.192/26"), "it makes a larger one");
    assert!(
        may_take(&mut network, 1, "10.32.0.0/25"),
        "it makes no larger one, and one route can lead to both"
    );
    assert!(!may_take(&mut network, 3, "10.32.0.224/27"), "it stands alone");
    assert!(!may_take(&mut network, 1, "10.32.0.192/26"), "it is another's");
    assert!(!may_take(&mut network, 2, "10.32.0.128/26"), "it is its own");
    for nonsense in ["0.0.0.0/0", "10.33.0.0/24", "255.255.255.255/32", "10.32.0.0/24"] {
        assert!(!may_take(&mut network, 1, nonsense), "{nonsense}");
    }
    let now = network.now;
    assert!(!network.host(1).give(now, net("10.32.0.0/25"), peer(2)), "it is all it has");
    assert!(!network.host(1).give(now, net("10.32.0.192/26"), peer(2)), "it is not its own");
    assert_eq!(network.owners(1), owners);
}

const BLOCK: &str = "10.32.0.64/26";

fn offered(to: u64) -> Compaction {
    let mut giver = Compaction::default();
    assert!(giver.is_due(Timestamp::ZERO, Duration::from_secs(60)));
    giver.offer(Timestamp::ZERO, net(BLOCK), peer(to));
    giver
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::ZERO + Duration::from_secs(seconds)
}

#[test]
fn a_block_is_given_to_whom_it_was_offered_once_and_in_time() {
    assert!(!Compaction::default().is_taken(at(1), peer(2), net(BLOCK)), "nothing was offered");
    assert!(!offered(2).is_taken(at(1), peer(3), net(BLOCK)), "to another");
    assert!(!offered(2).is_taken(at(1), peer(2), net("10.32.0.0/26")), "something else");
    assert!(!offered(2).is_taken(at(10), peer(2), net(BLOCK)), "too late");
    let mut giver = offered(2);
    assert!(giver.is_taken(at(1), peer(2), net(BLOCK)));
    assert!(!giver.is_taken(at(1), peer(2), net(BLOCK)), "again");
}

#[test]
fn whoever_took_nothing_is_left_alone_for_a_while() {
    let mut giver = offered(2);
    assert!(!giver.is_due(at(5), Duration::from_secs(60)), "one exchange at a time");
    assert!(
        !giver.is_due(at(59), Duration::from_secs(60)),
        "the answer is given up, and it is too early for another"
    );
    assert_eq!(giver.left_out(), [peer(2)].into());
    assert!(giver.is_due(at(60), Duration::from_secs(60)));
    assert!(giver.is_due(at(400), Duration::from_secs(60)));
    assert!(giver.left_out().is_empty());
    let mut refused = offered(2);
    refused.on_kept(at(1), peer(3), net(BLOCK));
    assert!(refused.left_out().is_empty(), "another was not asked");
    refused.on_kept(at(1), peer(2), net(BLOCK));
    assert_eq!(refused.left_out(), [peer(2)].into());
}

#[test]
fn of_two_that_offer_each_other_something_the_lower_name_gives() {
    let (low, high) = (peer(1), peer(2));
    let (mut giver, mut taker) = (offered(2), offered(1));
    assert!(!giver.take(at(1), low, high, net(BLOCK)));
    assert!(taker.take(at(1), high, low, net(BLOCK)));
    assert!(!taker.is_taken(at(1), low, net(BLOCK)), "its own offer is void");
    assert!(giver.is_taken(at(1), high, net(BLOCK)));
    assert!(!taker.take(at(2), high, peer(3), net(BLOCK)), "one exchange at a time");
    taker.see(at(2), Duration::from_secs(60), &[Range::from(net("10.32.0.0/24"))]);
    assert!(taker.take(at(2), high, peer(3), net(BLOCK)), "it has come");
}
