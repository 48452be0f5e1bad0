//! Whatever happens.

use super::*;

/// One step of a world in which anything may happen.
fn disturb(network: &mut Network, hosts: u64) {
    let number = network.rng.random_range(1..=hosts);
    let ident = format!("c{}", network.rng.random_range(0..30u32));
    match network.rng.random_range(0..12) {
        0..=4 => {
            network.allocate(number, &ident);
        }
        5 => {
            let last = network.rng.random_range(1..255);
            network.claim(number, &ident, &format!("10.32.0.{last}/24"));
        }
        6 | 7 => {
            network.promised.remove(&(peer(number), ident.clone()));
            let _ = network.host(number).free(&ident, None);
            let tickets: Vec<Ticket> = network.asked.keys().copied().collect();
            for ticket in tickets {
                if network.asked[&ticket] == (peer(number), ident.clone()) {
                    network.host(number).cancel(ticket);
                }
            }
            network.act(peer(number));
        }
        8 => {
            let other = network.rng.random_range(1..=hosts);
            if number < other {
                network.cut(number, other);
            }
            network.connect();
        }
        9 => {
            network.cut.clear();
            network.connect();
        }
        10 => {
            network.restart(peer(number));
            network.connect();
        }
        _ => network.pass(3),
    }
    network.run();
}

#[test]
fn there_is_one_ring_no_address_has_two_holders_and_nothing_acknowledged_is_lost() {
    let mut answered = 0;
    for seed in 0..60 {
        let hosts = 3 + seed % 3;
        let mut network =
            Network::new((1..=hosts).map(|n| settings(n, Init::Consensus, hosts as usize)).collect());
        network.rng = ChaCha8Rng::seed_from_u64(seed);
        (network.loss, network.crash) = (100, 30);
        network.connect();
        let mut seeds: BTreeSet<Vec<PeerName>> = BTreeSet::new();
        for _ in 0..80 {
            disturb(&mut network, hosts);
            network.assert_sound();
            let rings = network.hosts.values().map(|host| host.allocator.ring());
            seeds.extend(rings.filter(|ring| !ring.is_empty()).map(|ring| ring.seeds().to_vec()));
            assert!(seeds.len() <= 1, "seed {seed}: {seeds:?}");
        }
        (network.loss, network.crash) = (0, 0);
        network.cut.clear();
        for _ in 0..4 {
            network.connect();
            network.pass(40);
        }
        network.assert_agreed();
        network.assert_sound();
        assert!(!network.owners(1).is_empty(), "seed {seed}: no ring");
        answered += network.answers.values().filter(|answer| answer.is_ok()).count();
    }
    assert!(answered > 600, "only {answered} questions were answered");
}
