//! What holds whatever happens.

use super::*;

/// Crashes, lost messages, cuts, deaths and returns, one after another.
fn disturb(network: &mut Network, hosts: u64) {
    let number = 1 + network.rng.random_range(0..hosts);
    match network.rng.random_range(0..9) {
        0 if network.rng.random() => network.restart(peer(number)),
        0 => network.boot(number),
        1 => {
            let other = 1 + network.rng.random_range(0..hosts);
            if number != other {
                network.cut.insert((peer(number.min(other)), peer(number.max(other))));
            }
        }
        2 => network.cut.clear(),
        3 if network.down.is_empty() => drop(network.down.insert(peer(number))),
        4 => network.down.clear(),
        5 | 6 => {
            let other = 1 + network.rng.random_range(0..hosts);
            if !network.down.contains(&peer(number)) && number != other {
                network.ask(number, other);
            }
        }
        7 if !network.down.contains(&peer(number)) => network.ask(number, number),
        _ => network.gossip(),
    }
    let seconds = network.rng.random_range(0..6);
    network.pass(seconds);
}

#[test]
fn no_two_peers_ever_know_of_different_decisions() {
    let mut decisions = 0;
    for seed in 0..60 {
        let hosts = 3 + seed % 4;
        let mut network = Network::of(hosts, 1 + seed % hosts);
        network.rng = ChaCha8Rng::seed_from_u64(seed);
        (network.loss, network.crash) = (100, 10);
        for _ in 0..60 {
            disturb(&mut network, hosts);
            network.assert_agreed();
        }
        decisions +=
            network.hosts.values().filter_map(|host| host.takeover.log()).map(Log::next).max().unwrap();
    }
    assert!(decisions > 100, "{decisions}");
}
