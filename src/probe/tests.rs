//! Stories of hosts whose packets arrive, or do not.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    Canary, Direction, Effect, Prober, REPLIES_MAX, TURN_MAX, Talk, Verdict,
    packet::{Kind, LEN_MIN, Packet, Probe},
};
use crate::{peer::PeerName, time::Timestamp};

const STEP: Duration = Duration::from_millis(10);

/// What the network does with a datagram: from, to, its bytes.
type Drops = Box<dyn Fn(usize, usize, &[u8]) -> bool>;

/// Hosts whose mesh always works, and whose packets are dropped as the test says.
struct Network {
    now: Timestamp,
    hosts: Vec<Prober>,
    drops: Drops,
    /// Hosts that hear nothing over the mesh.
    deaf: BTreeSet<usize>,
    doubts: Vec<(usize, PeerName, Timestamp)>,
}

fn name(host: usize) -> PeerName {
    PeerName::from_u64(host as u64 + 1)
}

fn canary(host: usize) -> Canary {
    Canary {
        address: Ipv4Addr::from(0x0a20_0001 + ((host as u32) << 8)),
        mtu: 9001,
        isolation: None,
        ipv6: "fd00:1::/96".parse().ok(),
    }
}

/// Both addresses of a canary.
fn addresses(host: usize) -> [IpAddr; 2] {
    let Canary { address, ipv6, .. } = canary(host);
    [address.into(), ipv6.unwrap().address(address.into()).into()]
}

fn sends_from(host: usize) -> SocketAddr {
    SocketAddr::new(canary(host).address.into(), 50_000)
}

impl Network {
    fn new(hosts: usize) -> Network {
        let prober = |host| {
            let mut prober = Prober::new(name(host), ChaCha8Rng::seed_from_u64(host as u64));
            prober.set_canary(Timestamp::ZERO, Some(canary(host)));
            let others = (0..hosts).filter(|other| *other != host).map(|other| (name(other), canary(other)));
            prober.set_others(Timestamp::ZERO, others.collect());
            prober
        };
        Network {
            now: Timestamp::ZERO,
            hosts: (0..hosts).map(prober).collect(),
            drops: Box::new(|_, _, _| false),
            deaf: BTreeSet::new(),
            doubts: Vec::new(),
        }
    }

    fn drop_where(&mut self, drops: impl Fn(usize, usize, &[u8]) -> bool + 'static) {
        self.drops = Box::new(drops);
    }

    fn run(&mut self, lasts: Duration) {
        let end = self.now + lasts;
        while self.now < end {
            self.now += STEP;
            for host in 0..self.hosts.len() {
                self.hosts[host].wake(self.now);
            }
            // What is answered at once is on its way within the same step.
            while (0..self.hosts.len()).any(|host| self.carry_out(host)) {}
        }
    }

    fn carry_out(&mut self, host: usize) -> bool {
        let Some(effect) = self.hosts[host].next_effect() else { return false };
        match effect {
            Effect::Send(address, bytes) => {
                let to = (0..self.hosts.len()).find(|to| addresses(*to).contains(&address.ip())).unwrap();
                if !(self.drops)(host, to, &bytes) {
                    self.hosts[to].hear(self.now, sends_from(host), &bytes);
                }
            }
            Effect::Tell(peer, talk) => {
                let to = peer.as_u64() as usize - 1;
                let talk = Talk::decode(&talk.encode()).unwrap();
                if !self.deaf.contains(&to) {
                    self.hosts[to].heard(self.now, name(host), talk);
                }
            }
            Effect::Doubt(peer) => self.doubts.push((host, peer, self.now)),
            Effect::Changed(..) => {}
        }
        true
    }

    fn verdict(&self, host: usize, other: usize) -> Verdict {
        let mut paths = self.hosts[host].paths();
        paths.find(|(peer, _)| *peer == name(other)).map_or(Verdict::Unknown, |(_, path)| path.verdict())
    }

    fn dies(&self, host: usize, other: usize) -> Option<(Probe, Direction)> {
        match self.verdict(host, other) {
            Verdict::Dies { probe, direction, .. } => Some((probe, direction)),
            Verdict::Unknown | Verdict::Flows => None,
        }
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn where_all_is_well_every_path_is_known_to_be_and_nobody_doubts() {
    let mut network = Network::new(3);
    network.run(seconds(30));
    for (host, other) in [(0, 1), (1, 0), (0, 2), (2, 1)] {
        assert_eq!(network.verdict(host, other), Verdict::Flows);
    }
    assert_eq!(network.doubts, []);
}

#[test]
fn packets_that_die_on_the_way_out_are_told_from_those_that_die_on_the_way_back() {
    let mut network = Network::new(2);
    network.run(seconds(5));
    network.drop_where(|from, to, _| (from, to) == (0, 1));
    network.run(seconds(5));
    assert_eq!(network.dies(0, 1), Some((Probe::Small, Direction::Out)));
    assert_eq!(network.dies(1, 0), Some((Probe::Small, Direction::Back)));
}

#[test]
fn only_large_packets_die_where_the_mtu_of_the_way_is_smaller() {
    let mut network = Network::new(2);
    network.drop_where(|from, _, bytes| from == 1 && bytes.len() > 1500);
    network.run(seconds(10));
    assert_eq!(network.dies(0, 1), Some((Probe::Large, Direction::Back)));
    assert_eq!(network.dies(1, 0), Some((Probe::Large, Direction::Out)));
}

#[test]
fn since_when_is_the_first_loss_and_a_path_that_is_mended_flows_again() {
    let mut network = Network::new(2);
    network.run(seconds(10));
    let broken = network.now;
    network.drop_where(|_, _, _| true);
    network.run(seconds(20));
    let Verdict::Dies { since, .. } = network.verdict(0, 1) else { panic!("{:?}", network.verdict(0, 1)) };
    assert!(since >= broken && since.since(broken) < seconds(2), "{since} {broken}");
    network.drop_where(|_, _, _| false);
    network.run(seconds(3));
    assert_eq!(network.verdict(0, 1), Verdict::Flows);
}

#[test]
fn a_packet_lost_now_and_then_is_no_alarm() {
    let mut network = Network::new(3);
    let chance = std::cell::RefCell::new(ChaCha8Rng::seed_from_u64(5));
    network.drop_where(move |_, _, _| chance.borrow_mut().random_range(0..100) < 5);
    for _ in 0..60 {
        network.run(seconds(2));
        for (host, other) in [(0, 1), (1, 2), (2, 0)] {
            assert_eq!(network.dies(host, other), None);
        }
    }
    assert!(!network.doubts.is_empty(), "and yet it is a reason to look");
}

#[test]
fn a_loss_is_doubted_within_two_seconds_on_both_sides() {
    let mut network = Network::new(2);
    network.run(seconds(5));
    let broken = network.now;
    network.drop_where(|from, to, _| (from, to) == (0, 1));
    network.run(seconds(2));
    for host in [0, 1] {
        let first = network.doubts.iter().find(|(doubter, ..)| *doubter == host).expect("it doubts");
        assert!(first.2.since(broken) < seconds(2), "{first:?}");
    }
}

#[test]
fn a_host_that_says_nothing_over_the_mesh_is_not_said_to_lose_packets() {
    let mut network = Network::new(2);
    network.deaf.insert(1);
    network.drop_where(|_, _, _| true);
    network.run(seconds(60));
    assert_eq!(network.verdict(0, 1), Verdict::Unknown, "its process may stand still");
}

#[test]
fn a_host_without_a_canary_is_not_taken_for_dead() {
    let mut network = Network::new(2);
    network.hosts[1].set_canary(Timestamp::ZERO, None);
    network.drop_where(|_, _, _| true);
    network.run(seconds(30));
    assert_eq!(network.verdict(0, 1), Verdict::Unknown);
    let nobody = BTreeMap::new();
    network.hosts[0].set_others(network.now, nobody);
    assert_eq!(network.hosts[0].next_wake(), None, "there is nobody to probe");
}

#[test]
fn a_reply_that_comes_late_is_a_reply() {
    let mut network = Network::new(2);
    network.run(seconds(2));
    // The host is busy: it answers after the patience of the other, and is not said to lose anything.
    let mut prober = network.hosts.remove(0);
    let (mut now, mut late) = (network.now, std::collections::VecDeque::new());
    for _ in 0..2000 {
        now += STEP;
        prober.wake(now);
        while let Some(effect) = prober.next_effect() {
            match effect {
                Effect::Send(_, bytes) => {
                    let request = Packet::decode(&bytes).unwrap();
                    let seen = canary(0).address;
                    let reply = Packet { kind: Kind::Reply, sender: name(1), seen, ..request };
                    late.push_back((now + Duration::from_millis(900), reply.encode(bytes.len())));
                }
                Effect::Changed(_, Verdict::Dies { .. }) => panic!("it only was busy"),
                Effect::Tell(peer, Talk::Got { small, large, v6 }) => {
                    let got = |asked: Vec<u64>| (!asked.is_empty()).then_some(true);
                    let (small, large, v6) = (got(small), got(large), got(v6));
                    // Its answer is as late as all it does.
                    let _ = (peer, Talk::Answer { canary: true, small, large, v6 });
                }
                Effect::Tell(..) | Effect::Doubt(_) | Effect::Changed(..) => {}
            }
        }
        while late.front().is_some_and(|(due, _)| *due <= now) {
            let (_, bytes) = late.pop_front().unwrap();
            prober.hear(now, sends_from(1), &bytes);
        }
    }
}

#[test]
fn an_address_that_somebody_puts_in_place_of_the_canary_s_is_noticed() {
    let mut network = Network::new(2);
    network.run(seconds(2));
    let prober = &mut network.hosts[0];
    let request = loop {
        network.now += STEP;
        prober.wake(network.now);
        if let Some(Effect::Send(_, bytes)) = prober.next_effect() {
            break Packet::decode(&bytes).unwrap();
        }
    };
    let host = Ipv4Addr::new(10, 0, 1, 11);
    let reply = Packet { kind: Kind::Reply, sender: name(1), seen: host, ..request };
    prober.hear(network.now, sends_from(1), &reply.encode(LEN_MIN));
    let (_, path) = prober.paths().next().unwrap();
    assert_eq!(path.rewritten, Some(host));
}

#[test]
fn each_of_five_hundred_hosts_sends_no_more_than_one_of_four() {
    let rate = |hosts: usize| {
        let mut prober = Prober::new(name(0), ChaCha8Rng::seed_from_u64(7));
        prober.set_canary(Timestamp::ZERO, Some(canary(0)));
        let others = (1..hosts).map(|other| (name(other), canary(other))).collect();
        prober.set_others(Timestamp::ZERO, others);
        let (mut now, mut probed, mut sent) = (Timestamp::ZERO, BTreeSet::new(), 0);
        while now < Timestamp::ZERO + seconds(180) {
            now += STEP;
            prober.wake(now);
            while let Some(effect) = prober.next_effect() {
                if let Effect::Send(to, bytes) = effect {
                    let other = (1..hosts).find(|other| addresses(*other).contains(&to.ip())).unwrap();
                    (sent, _) = (sent + 1, probed.insert(other));
                    let request = Packet::decode(&bytes).unwrap();
                    let seen = canary(0).address;
                    let reply = Packet { kind: Kind::Reply, sender: name(other), seen, ..request };
                    prober.hear(now, to, &reply.encode(bytes.len()));
                }
            }
        }
        assert_eq!(probed.len(), hosts - 1, "each is probed within three minutes");
        sent
    };
    let (few, many) = (rate(4), rate(500));
    assert!(many <= few * 3 / 2, "{few} and {many}");
    assert!(many <= 180 * TURN_MAX * 3 + 50, "{many}");
}

#[test]
fn when_all_packets_of_a_large_cluster_die_what_is_sent_stays_bounded() {
    let mut prober = Prober::new(name(0), ChaCha8Rng::seed_from_u64(7));
    prober.set_canary(Timestamp::ZERO, Some(canary(0)));
    prober.set_others(Timestamp::ZERO, (1..500).map(|other| (name(other), canary(other))).collect());
    let (mut now, mut sent, mut told) = (Timestamp::ZERO, 0, 0);
    while now < Timestamp::ZERO + seconds(300) {
        now += STEP;
        prober.wake(now);
        while let Some(effect) = prober.next_effect() {
            match effect {
                Effect::Send(..) => sent += 1,
                Effect::Tell(peer, Talk::Got { .. }) => {
                    told += 1;
                    let answer = Talk::Answer { canary: true, small: Some(false), large: None, v6: None };
                    prober.heard(now, peer, answer);
                }
                Effect::Tell(..) | Effect::Doubt(_) | Effect::Changed(..) => {}
            }
        }
    }
    assert!(sent < 300 * 40, "{sent} probes in 300 s");
    assert!(told < 300 * 20, "{told} questions in 300 s");
    assert!(prober.paths().filter(|(_, path)| matches!(path.verdict(), Verdict::Dies { .. })).count() > 400);
}

#[test]
fn whoever_floods_a_canary_is_not_answered_without_end() {
    let mut network = Network::new(2);
    let request = Packet {
        kind: Kind::Request,
        probe: Probe::Large,
        nonce: 1,
        sender: name(1),
        seen: Ipv4Addr::UNSPECIFIED,
    };
    let bytes = request.encode(9000);
    let prober = &mut network.hosts[0];
    for nonce in 0..100_000u64 {
        let now = Timestamp::from_micros(nonce);
        prober.hear(now, sends_from(1), &bytes);
    }
    let answers = std::iter::from_fn(|| prober.next_effect()).count();
    assert!(answers <= REPLIES_MAX as usize, "{answers}");
}

#[test]
fn a_question_without_bound_is_not_read() {
    let none = || Talk::Got { small: Vec::new(), large: Vec::new(), v6: Vec::new() };
    let many = || (0..100).collect();
    for wrong in [
        Talk::Got { small: many(), large: Vec::new(), v6: Vec::new() },
        Talk::Got { small: Vec::new(), large: Vec::new(), v6: many() },
    ] {
        assert!(Talk::decode(&wrong.encode()).is_err());
    }
    assert_eq!(
        none().encode(),
        b"{\"got\":{\"small\":[],\"large\":[]}}",
        "as a version before IPv6 reads it"
    );
    assert!(Talk::decode(&vec![b' '; 10_000]).is_err());
    assert!(Talk::decode(b"{\"got\":{}}").is_ok(), "a later version may say more, or less");
}

/// Whether a datagram is a request that goes by IPv6.
fn asks_by_v6(bytes: &[u8]) -> bool {
    let packet = Packet::decode(bytes).unwrap();
    (packet.kind, packet.probe) == (Kind::Request, Probe::V6)
}

#[test]
fn packets_of_ipv6_that_die_are_told_from_those_of_ipv4_and_on_which_way() {
    let mut network = Network::new(3);
    network.drop_where(|from, to, bytes| (from, to) == (0, 1) && asks_by_v6(bytes));
    network.run(seconds(20));
    assert_eq!(network.dies(0, 1), Some((Probe::V6, Direction::Out)));
    for (one, other) in [(1, 0), (0, 2), (2, 1)] {
        assert_eq!(network.verdict(one, other), Verdict::Flows, "{one} {other}");
    }
    let answers_by_v6 =
        |bytes: &[u8]| Packet::decode(bytes).unwrap().probe == Probe::V6 && !asks_by_v6(bytes);
    network.drop_where(move |from, to, bytes| (from, to) == (1, 0) && answers_by_v6(bytes));
    network.run(seconds(20));
    assert_eq!(network.dies(0, 1), Some((Probe::V6, Direction::Back)));
    network.drop_where(|from, to, _| (from, to) == (0, 1));
    network.run(seconds(20));
    assert_eq!(network.dies(0, 1), Some((Probe::Small, Direction::Out)), "of all packets that says more");
    network.drop_where(|_, _, _| false);
    network.run(seconds(20));
    assert_eq!(network.verdict(0, 1), Verdict::Flows);
}

#[test]
fn nobody_is_probed_by_ipv6_who_has_another_prefix_or_none_or_whom_too_little_reaches() {
    for other in [
        Canary { ipv6: None, ..canary(1) },
        Canary { ipv6: "fd00:2::/96".parse().ok(), ..canary(1) },
        Canary { mtu: 1279, ..canary(1) },
    ] {
        let mut network = Network::new(2);
        let prober = &mut network.hosts[0];
        prober.set_others(Timestamp::ZERO, [(name(1), other)].into());
        network.drop_where(|_, _, bytes| asks_by_v6(bytes));
        network.run(seconds(20));
        assert_eq!(network.verdict(0, 1), Verdict::Flows, "{other:?}");
    }
}
