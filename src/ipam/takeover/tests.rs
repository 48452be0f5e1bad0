//! Peers on a network in memory that decide about each other: they die, come back, lose what they knew,
//! and are cut off from each other.

use std::collections::VecDeque;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{message::Said, statements::Statement, *};
use crate::{
    counter::{HONEST_MAX, STEP_MAX},
    ipam::paxos::{AcceptedValue, LIVES_MAX, ProposalId, VALUE_NAMES_MAX},
    mesh::MESSAGE_LEN_MAX,
};

const GRACE: Duration = Duration::from_secs(60);

fn peer(number: u64) -> PeerName {
    PeerName::from_u64(number)
}

fn instance(peer: PeerName) -> String {
    format!("i-{}", peer.as_u64())
}

struct Host {
    takeover: TakeOver,
    saved: Saved,
    uid: u64,
    boots: u32,
}

struct Network {
    hosts: BTreeMap<PeerName, Host>,
    seeds: Vec<PeerName>,
    down: BTreeSet<PeerName>,
    cut: BTreeSet<(PeerName, PeerName)>,
    /// Nothing that is sent to them arrives, and nobody has noticed yet.
    deaf: BTreeSet<PeerName>,
    /// Instances that EC2 calls terminated, and such that it calls stopped.
    terminated: BTreeSet<PeerName>,
    stopped: BTreeSet<PeerName>,
    owners: BTreeMap<PeerName, u64>,
    wires: VecDeque<(PeerName, PeerName, Vec<u8>)>,
    /// What each peer was told was decided, in this order.
    decisions: Vec<(PeerName, Decision)>,
    now: Timestamp,
    grace: Option<Duration>,
    rng: ChaCha8Rng,
    /// Of a thousand messages and effects, how many get lost, and how many are a host's last.
    loss: u32,
    crash: u32,
}

impl Network {
    /// So many peers, of which the first few founded the ring and all own a part.
    fn of(peers: u64, founders: u64) -> Network {
        let mut network = Network {
            hosts: BTreeMap::new(),
            seeds: (1..=founders).map(peer).collect(),
            down: BTreeSet::new(),
            cut: BTreeSet::new(),
            deaf: BTreeSet::new(),
            terminated: BTreeSet::new(),
            stopped: BTreeSet::new(),
            owners: (1..=peers).map(|number| (peer(number), 100 - number)).collect(),
            wires: VecDeque::new(),
            decisions: Vec::new(),
            now: Timestamp::ZERO,
            grace: Some(GRACE),
            rng: ChaCha8Rng::seed_from_u64(0),
            loss: 0,
            crash: 0,
        };
        for number in 1..=peers {
            network.install(peer(number), 1000 + number);
        }
        network.turn();
        network
    }

    fn install(&mut self, name: PeerName, uid: u64) {
        let me = NodeId { name, uid };
        let mut takeover = TakeOver::new(me, Some(instance(name)), Saved::default());
        takeover.set_boot("boot 0");
        self.hosts.insert(name, Host { takeover, saved: Saved::default(), uid, boots: 0 });
    }

    fn reachable(&self, of: PeerName) -> BTreeSet<PeerName> {
        let joined = |one: PeerName, other: PeerName| {
            one == other || !self.cut.contains(&(one.min(other), one.max(other)))
        };
        self.hosts.keys().copied().filter(|&other| !self.down.contains(&other) && joined(of, other)).collect()
    }

    fn consider(&mut self, me: PeerName) {
        let reachable = self.reachable(me);
        let (owners, grace, now) = (self.owners.clone(), self.grace, self.now);
        let view = View { owners: &owners, reachable: &reachable, grace };
        let seeds = self.seeds.clone();
        let host = self.hosts.get_mut(&me).unwrap();
        host.takeover.begin(&seeds);
        let suspects: BTreeSet<String> = host.takeover.suspects(now).into_values().collect();
        if !suspects.is_empty() {
            let state = |peer: &PeerName| match self.stopped.contains(peer) {
                true => InstanceState::Stopped,
                false => InstanceState::Running,
            };
            let there = self.owners.keys().filter(|peer| !self.terminated.contains(peer));
            let there = there.map(|peer| (instance(*peer), state(peer))).collect();
            host.takeover.hear_ec2(now, &suspects, &there);
        }
        host.takeover.consider(now, view);
        self.act(me);
    }

    /// Carries out what a peer wants to be done, unless it crashes before the end.
    fn act(&mut self, me: PeerName) {
        while let Some(effect) = self.hosts.get_mut(&me).and_then(|host| host.takeover.next_effect()) {
            if self.rng.random_range(0..1000) < self.crash {
                return self.restart(me);
            }
            let host = self.hosts.get_mut(&me).unwrap();
            match effect {
                Effect::Save(kept) => host.saved.kept = Some(kept),
                Effect::SaveInstance(peer, Some(instance)) => {
                    drop(host.saved.instances.insert(peer, instance))
                }
                Effect::SaveInstance(peer, None) => drop(host.saved.instances.remove(&peer)),
                Effect::Broadcast(said) => {
                    let others: Vec<PeerName> =
                        self.reachable(me).into_iter().filter(|to| *to != me).collect();
                    self.wires.extend(others.into_iter().map(|to| (me, to, said.clone())));
                }
                Effect::Tell(to, said) => self.wires.push_back((me, to, said)),
                Effect::Decided(decision) => {
                    if decision.heir == me
                        && let Some(share) = self.owners.remove(&decision.dead)
                    {
                        *self.owners.entry(me).or_default() += share;
                    }
                    self.decisions.push((me, decision));
                }
                Effect::Awaited(_) | Effect::SetBack => {}
            }
        }
    }

    fn restart(&mut self, me: PeerName) {
        let host = self.hosts.get_mut(&me).unwrap();
        let id = NodeId { name: me, uid: host.uid };
        host.takeover = TakeOver::new(id, Some(instance(me)), host.saved.clone());
        host.takeover.set_boot(&format!("boot {}", host.boots));
    }

    fn boot(&mut self, number: u64) {
        self.hosts.get_mut(&peer(number)).unwrap().boots += 1;
        self.restart(peer(number));
    }

    fn lose_store(&mut self, number: u64) {
        let uid = self.hosts[&peer(number)].uid + 1_000_000;
        self.install(peer(number), uid);
    }

    /// Everybody thinks, and all messages arrive.
    fn turn(&mut self) {
        for me in self.hosts.keys().copied().collect::<Vec<_>>() {
            if !self.down.contains(&me) {
                self.consider(me);
            }
        }
        while let Some((from, to, said)) = self.wires.pop_front() {
            let lost = self.rng.random_range(0..1000) < self.loss || self.deaf.contains(&to);
            let fits = said.len() <= MESSAGE_LEN_MAX;
            if lost || !fits || self.down.contains(&to) || !self.reachable(to).contains(&from) {
                continue;
            }
            let host = self.hosts.get_mut(&to).unwrap();
            host.takeover.hear(self.now, from, &said).unwrap();
            self.consider(to);
        }
    }

    /// Lets time pass; every half minute neighbours tell each other the gist.
    fn pass(&mut self, seconds: u64) {
        for second in 0..seconds * 4 {
            self.now += Duration::from_millis(250);
            if second % 120 == 0 {
                self.gossip();
            }
            self.turn();
        }
    }

    fn gossip(&mut self) {
        for from in self.hosts.keys().copied().collect::<Vec<_>>() {
            let said = self.hosts.get_mut(&from).unwrap().takeover.all_known();
            for to in self.reachable(from).into_iter().filter(|to| *to != from) {
                self.wires.push_back((from, to, said.clone()));
            }
        }
    }

    fn ask(&mut self, number: u64, dead: u64) {
        self.hosts.get_mut(&peer(number)).unwrap().takeover.ask(peer(dead));
        self.turn();
    }

    /// Nobody hears a peer any more, nor does it hear them.
    fn isolate(&mut self, number: u64) {
        let others: Vec<PeerName> =
            self.hosts.keys().copied().filter(|other| *other != peer(number)).collect();
        self.cut.extend(others.into_iter().map(|other| (peer(number).min(other), peer(number).max(other))));
    }

    /// A peer decides alone that another is dead.
    fn force(&mut self, number: u64, dead: u64) {
        let (owners, reachable) = (self.owners.clone(), self.reachable(peer(number)));
        let view = View { owners: &owners, reachable: &reachable, grace: None };
        let now = self.now;
        self.hosts.get_mut(&peer(number)).unwrap().takeover.force(now, view, peer(dead));
        self.turn();
    }

    fn terminate(&mut self, number: u64) {
        self.down.insert(peer(number));
        self.terminated.insert(peer(number));
    }

    fn stop(&mut self, number: u64) {
        self.down.insert(peer(number));
        self.stopped.insert(peer(number));
    }

    fn electors(&self, number: u64) -> Vec<u64> {
        let log = self.hosts[&peer(number)].takeover.log().unwrap();
        log.electors().iter().map(|peer| peer.as_u64()).collect()
    }

    /// Who took over from this peer, as everybody that is up has it.
    fn heirs(&self, dead: u64) -> BTreeSet<u64> {
        let is_heir = |heir| heir != PeerName::UNKNOWN;
        let about = self.decisions.iter().map(|(_, decision)| decision);
        let about = about.filter(|decision| decision.dead == peer(dead) && is_heir(decision.heir));
        about.map(|decision| decision.heir.as_u64()).collect()
    }

    /// Whoever has come equally far has the same electors: nobody decides apart from the others.
    fn assert_agreed(&self) {
        let mut by_number: BTreeMap<u64, &Log> = BTreeMap::new();
        for host in self.hosts.values() {
            let Some(log) = host.takeover.log() else { continue };
            let first = by_number.entry(log.next()).or_insert(log);
            assert_eq!(first, &log);
        }
    }
}

#[test]
fn the_terminated_are_taken_over_from_by_one_once_their_grace_is_over() {
    let mut network = Network::of(4, 3);
    network.pass(1);
    network.terminate(3);
    network.pass(55);
    assert!(network.decisions.is_empty());
    network.pass(10);
    // Peer 4 owns least.
    assert_eq!(network.heirs(3), [4].into());
    assert_eq!(network.decisions.len(), 3, "each of the others heard it once");
    assert_eq!(network.electors(1), [1, 2, 4]);
    network.assert_agreed();
}

#[test]
fn the_stopped_are_left_alone_and_so_are_the_terminated_where_reclaim_is_off() {
    let mut network = Network::of(3, 3);
    network.stop(3);
    network.pass(200);
    assert!(network.decisions.is_empty(), "it is stopped and may come back");
    network.grace = None;
    network.terminate(3);
    network.pass(200);
    assert_eq!(network.heirs(3), [].into());
}

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
fn two_that_ask_at_once_get_one_heir() {
    let mut network = Network::of(3, 3);
    network.terminate(3);
    network.hosts.get_mut(&peer(1)).unwrap().takeover.ask(peer(3));
    network.hosts.get_mut(&peer(2)).unwrap().takeover.ask(peer(3));
    network.turn();
    network.pass(1);
    assert_eq!(network.heirs(3).len(), 1);
}

#[test]
fn whoever_asks_is_the_heir_at_once() {
    let mut network = Network::of(5, 3);
    network.terminate(2);
    network.ask(5, 2);
    assert_eq!(network.heirs(2), [5].into());
    assert!(network.decisions.iter().all(|(_, decision)| decision.dead == peer(2)));
}

#[test]
fn nobody_takes_over_from_a_peer_that_a_majority_hears() {
    let mut network = Network::of(3, 3);
    network.cut.insert((peer(1), peer(3)));
    network.ask(1, 3);
    network.pass(30);
    assert!(network.decisions.is_empty(), "peer 2 hears it");
}

/// What a peer might have promised, and accepted, of a decision by which so many others leave the electors.
fn promised(node: NodeId, names: u64) -> NodeClaims<Decision> {
    let proposal = ProposalId { round: 1, proposer: node };
    let leaves = (0..names).map(|number| peer((1 << 40) + number)).collect();
    let value = AcceptedValue { value: Decision { leaves, ..Decision::default() }, origin: proposal };
    NodeClaims { promise: proposal, accepted: ProposalId::default(), value }
}

#[test]
fn two_promises_that_name_300_000_peers_each_do_not_end_all_take_overs() {
    let mut network = Network::of(5, 5);
    let liar = peer(5);
    let lives = [7, 8].map(|uid| NodeId { name: liar, uid });
    let claims = lives.map(|node| {
        let claims = promised(node, 300_000);
        (node, NodeClaims { accepted: claims.promise, ..claims })
    });
    for claims in claims {
        let log = network.hosts[&liar].takeover.log().cloned();
        let said = Said::new(log.as_ref(), &BTreeMap::from([claims]), BTreeMap::new()).encode();
        assert!(said.len() < MESSAGE_LEN_MAX);
        network.wires.extend((1..=4).map(|to| (liar, peer(to), said.clone())));
    }
    network.turn();
    network.terminate(5);
    network.pass(100);
    assert_eq!(network.heirs(5), [4].into());
    let excess =
        |host: u64| network.hosts[&peer(host)].takeover.excess().recent(network.now).collect::<Vec<_>>();
    let named = excess(1);
    assert_eq!(named[0].1, liar);
    assert!(named[0].0.contains("promises about the dead were passed over, 2 so far"), "{named:?}");
}

#[test]
fn all_that_is_known_fits_into_one_message_and_every_word_has_its_turn() {
    let mut network = Network::of(5, 5);
    let mut log = network.hosts[&peer(1)].takeover.log().cloned().unwrap();
    let crowd = |first: u64| (first..).take(1024).map(|number| peer((1 << 41) + number)).collect();
    for _ in 0..40 {
        log.add(Decision { leaves: crowd(0), ..Decision::default() });
    }
    let hear = |network: &mut Network, said: Said| {
        let host = network.hosts.get_mut(&peer(1)).unwrap();
        host.takeover.hear(network.now, peer(5), &said.encode()).unwrap();
    };
    let statement = Statement {
        number: 1,
        gone: crowd(0),
        asks: crowd(0),
        seconds: crowd(0),
        awaits: crowd(0),
        ..Statement::default()
    };
    let statements: BTreeMap<PeerName, Statement> =
        (100..200).map(|speaker| (peer(speaker), statement.clone())).collect();
    hear(&mut network, Said::new(None, &BTreeMap::new(), statements));
    for elector in 2..=5 {
        let lives = (0..LIVES_MAX as u64 + 4).map(|uid| NodeId { name: peer(elector), uid });
        let claims = lives.map(|node| (node, promised(node, VALUE_NAMES_MAX as u64)));
        let claims = claims.map(|(node, claims)| (node, NodeClaims { accepted: claims.promise, ..claims }));
        hear(&mut network, Said::new(Some(&log), &claims.collect(), BTreeMap::new()));
    }
    let host = network.hosts.get_mut(&peer(1)).unwrap();
    assert_eq!(host.takeover.log().unwrap().next(), 40);
    let mut heard = BTreeSet::new();
    for _ in 0..4 {
        let said = host.takeover.all_known();
        assert!(said.len() < MESSAGE_LEN_MAX, "{}", said.len());
        let said = Said::decode(&said).unwrap();
        assert!(said.statements.contains_key(&peer(1)), "our own statement is never left out");
        heard.extend(said.statements.into_keys());
    }
    assert!((100..200).all(|speaker| heard.contains(&peer(speaker))), "{} of 100", heard.len());
}

#[test]
fn nobody_takes_over_from_an_instance_that_runs() {
    let mut network = Network::of(3, 3);
    network.down.insert(peer(3));
    network.pass(15);
    network.ask(1, 3);
    network.pass(30);
    assert!(network.decisions.is_empty());
    assert_eq!(network.hosts[&peer(1)].takeover.running(peer(3)), Some("i-3"));
}

#[test]
fn a_minority_decides_nothing_and_names_who_is_missing() {
    let mut network = Network::of(5, 5);
    network.down.extend([peer(4), peer(5)]);
    network.terminate(3);
    network.ask(1, 3);
    network.pass(5);
    assert!(network.decisions.is_empty());
    let reachable = network.reachable(peer(1));
    let view = View { owners: &network.owners, reachable: &reachable, grace: None };
    assert_eq!(network.hosts[&peer(1)].takeover.missing(view, peer(3)), [peer(3), peer(4), peer(5)]);
    network.down.remove(&peer(4));
    network.pass(40);
    assert_eq!(network.heirs(3), [1].into());
}

#[test]
fn whoever_was_away_learns_what_was_decided_and_by_whom_it_goes_on() {
    let mut network = Network::of(5, 5);
    network.down.extend([peer(4), peer(5)]);
    network.terminate(3);
    network.ask(1, 3);
    network.pass(5);
    assert!(network.heirs(3).is_empty(), "two of five are no majority");
    network.down.remove(&peer(4));
    network.pass(40);
    assert_eq!(network.heirs(3), [1].into());
    assert_eq!(network.electors(4), network.electors(1));
    network.assert_agreed();
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
fn where_an_heir_does_not_take_over_it_is_decided_again() {
    let mut network = Network::of(5, 5);
    network.terminate(3);
    network.ask(1, 3);
    assert_eq!(network.heirs(3), [1].into());
    // It died with the decision, and nobody has seen the ring in which it took over.
    network.terminate(1);
    network.owners.insert(peer(3), 97);
    network.pass(15);
    assert_eq!(network.heirs(3), [1].into(), "it may take over yet");
    network.pass(60);
    assert_eq!(network.heirs(3).len(), 2);
    assert!(!network.owners.contains_key(&peer(3)));
}

/// Peer 3 was stopped and taken over from by peer 1; then it came back, and owns something again.
fn after_a_return() -> Network {
    let mut network = Network::of(5, 5);
    network.stop(3);
    network.pass(20);
    network.ask(1, 3);
    assert_eq!(network.heirs(3), [1].into());
    network.hosts.get_mut(&peer(1)).unwrap().takeover.unask(peer(3));
    network.down.clear();
    network.stopped.clear();
    network.owners.insert(peer(3), 7);
    network.pass(40);
    network
}

#[test]
fn a_host_that_lost_its_store_robs_nobody_who_was_taken_for_dead_once_and_came_back() {
    let mut network = after_a_return();
    network.lose_store(1);
    network.cut.insert((peer(1), peer(3)));
    network.pass(90);
    assert!(network.owners.contains_key(&peer(3)), "it obeyed a decision of long ago");
    assert_eq!(network.electors(1), network.electors(2), "it has the state all the same");
    network.assert_agreed();
}

#[test]
fn an_heir_that_was_cut_off_as_it_was_chosen_takes_nothing_when_it_hears_of_it_later() {
    let mut network = Network::of(5, 3);
    network.stop(4);
    network.pass(20);
    network.deaf.insert(peer(5));
    network.ask(5, 4);
    assert_eq!(network.hosts[&peer(1)].takeover.log().unwrap().next(), 1, "it was chosen");
    network.isolate(5);
    network.deaf.clear();
    network.down.clear();
    network.stopped.clear();
    network.hosts.get_mut(&peer(5)).unwrap().takeover.unask(peer(4));
    network.pass(600);
    network.cut.retain(|(one, _)| *one == peer(4));
    network.pass(90);
    assert!(network.owners.contains_key(&peer(4)), "it came back long ago");
    network.assert_agreed();
}

#[test]
fn an_heir_that_hears_what_became_of_a_proposal_before_it_hears_the_votes_takes_over() {
    let mut network = Network::of(4, 3);
    network.pass(1);
    let proposer = &mut network.hosts.get_mut(&peer(1)).unwrap().takeover;
    proposer.paxos.propose(&Decision { dead: peer(3), heir: peer(4), ..Decision::default() });
    let proposed = proposer.all_known();
    let mut after = proposer.clone();
    after.log.as_mut().unwrap().add(Decision { dead: peer(3), heir: peer(4), ..Decision::default() });
    after.open_next(NodeClaims::default());
    let heir = &mut network.hosts.get_mut(&peer(4)).unwrap().takeover;
    while heir.next_effect().is_some() {}
    heir.hear(network.now, peer(1), &proposed).unwrap();
    heir.hear(network.now, peer(2), &after.all_known()).unwrap();
    let decided =
        std::iter::from_fn(|| heir.next_effect()).any(|effect| matches!(effect, Effect::Decided(_)));
    assert!(decided);
}

#[test]
fn two_halves_in_which_somebody_decided_alone_and_that_came_equally_far_go_on_as_one() {
    let mut network = Network::of(7, 5);
    network.pass(1);
    [5, 6].into_iter().for_each(|number| network.terminate(number));
    let halves = [[1, 2].as_slice(), &[3, 4, 7]];
    let between = halves[0].iter().flat_map(|one| halves[1].iter().map(|other| (peer(*one), peer(*other))));
    network.cut.extend(between);
    network.force(2, 5);
    network.force(3, 5);
    // The numbers are made of the names, and these are neighbours.
    network.ask(1, 6);
    let next = |network: &Network, number| network.hosts[&peer(number)].takeover.log().unwrap().next();
    assert_eq!(next(&network, 1), next(&network, 3));
    assert_ne!(network.electors(1), network.electors(3));
    network.cut.clear();
    network.pass(40);
    network.assert_agreed();
    assert_eq!(network.electors(1), network.electors(3));
    network.terminate(7);
    network.ask(1, 7);
    network.pass(30);
    assert_eq!(network.heirs(7).len(), 1);
    network.assert_agreed();
}

#[test]
fn electors_of_another_log_have_no_say_in_ours() {
    let mut network = Network::of(4, 3);
    network.pass(1);
    let mut theirs = network.hosts[&peer(2)].takeover.clone();
    let ours = &mut network.hosts.get_mut(&peer(1)).unwrap().takeover;
    // As far as ours, and of two that we do not count on; it is the lesser of the two.
    theirs.log.as_mut().unwrap().add(Decision { joins: [peer(0)].into(), ..Decision::default() });
    ours.log.as_mut().unwrap().add(Decision::default());
    let ground = Decision { dead: peer(3), heir: peer(2), ..Decision::default() };
    ours.open_next(NodeClaims::default());
    theirs.open_next(NodeClaims::default());
    theirs.paxos.propose(&ground);
    ours.hear(network.now, peer(2), &theirs.all_known()).unwrap();
    assert!(!ours.paxos.is_under_way());
}

#[test]
fn where_many_are_not_heard_ec2_is_asked_about_each_in_its_turn() {
    let hosts: BTreeMap<PeerName, String> =
        (2..=260).map(|number| (peer(number), instance(peer(number)))).collect();
    let saved = Saved { kept: None, instances: hosts.clone() };
    let mut elector = TakeOver::new(NodeId { name: peer(1), uid: 1001 }, Some("i-1".to_owned()), saved);
    elector.begin(&[peer(1)]);
    let owners: BTreeMap<PeerName, u64> = (1..=260).map(|number| (peer(number), 1)).collect();
    let reachable = BTreeSet::from([peer(1)]);
    let view = View { owners: &owners, reachable: &reachable, grace: Some(GRACE) };
    elector.consider(Timestamp::ZERO, view);
    let mut asked = BTreeSet::new();
    let mut now = Timestamp::ZERO + SUSPECT_AFTER;
    for _ in 0..3 {
        let about: BTreeSet<String> = elector.suspects(now).into_values().collect();
        assert!(about.len() <= SUSPECTS_MAX);
        let runs = about.iter().map(|id| (id.clone(), InstanceState::Running)).collect();
        elector.hear_ec2(now, &about, &runs);
        asked.extend(about);
        now += Duration::from_secs(60);
    }
    assert_eq!(asked.len(), hosts.len());
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
fn an_elector_keeps_its_promises_across_a_restart_and_one_without_a_store_has_none_to_keep() {
    let mut network = Network::of(3, 3);
    network.pass(1);
    network.restart(peer(1));
    assert!(network.hosts[&peer(1)].takeover.paxos.ours().is_some());

    network.terminate(3);
    network.cut.insert((peer(1), peer(2)));
    // Alone it proposes nothing, as nobody seconds; so it is made to.
    let ground = Decision { dead: peer(3), heir: peer(1), ..Decision::default() };
    let host = network.hosts.get_mut(&peer(1)).unwrap();
    host.takeover.paxos.propose(&ground);
    host.takeover.save();
    network.act(peer(1));
    network.lose_store(2);
    network.cut.clear();
    network.gossip();
    network.turn();
    let votes = |network: &Network| network.hosts[&peer(2)].takeover.ballot.known_from().is_some();
    assert!(!votes(&network), "somebody has proposed");
    network.pass(59);
    assert!(!votes(&network));
    network.pass(32);
    assert!(votes(&network));
}

/// Of three electors the first and the second decide, and the third does not hear of it.
fn after_a_decision_that_one_of_three_electors_missed() -> (Network, Saved) {
    let mut network = Network::of(4, 3);
    network.pass(1);
    let before = network.hosts[&peer(1)].saved.clone();
    network.isolate(3);
    network.terminate(4);
    network.ask(1, 4);
    assert_eq!(network.heirs(4), [1].into());
    network.hosts.get_mut(&peer(1)).unwrap().takeover.unask(peer(4));
    // Neither the third nor an old disk of the first knows of it.
    network.owners.insert(peer(4), 96);
    (network, before)
}

#[test]
fn an_elector_whose_disk_was_set_back_does_not_vote_again_with_one_that_missed_its_vote() {
    let (mut network, before) = after_a_decision_that_one_of_three_electors_missed();
    network.cut = BTreeSet::from([(peer(1), peer(2)), (peer(2), peer(3))]);
    network.hosts.get_mut(&peer(1)).unwrap().saved = before;
    network.boot(1);
    network.ask(3, 4);
    network.pass(50);
    assert_eq!(network.hosts[&peer(3)].takeover.log().unwrap().next(), 0, "they cannot know");
    network.cut.clear();
    network.pass(60);
    network.assert_agreed();
    assert!(network.hosts[&peer(3)].takeover.log().unwrap().next() > 0);
}

#[test]
fn an_elector_that_hears_of_a_promise_of_its_own_that_is_not_on_its_disk_says_so_and_keeps_its_vote() {
    let mut network = Network::of(3, 3);
    network.pass(1);
    let before = network.hosts[&peer(1)].saved.clone();
    let elector = &mut network.hosts.get_mut(&peer(1)).unwrap().takeover;
    elector.paxos.propose(&Decision { dead: peer(3), heir: peer(1), ..Decision::default() });
    let promised = elector.all_known();
    let other = &mut network.hosts.get_mut(&peer(2)).unwrap().takeover;
    other.hear(network.now, peer(1), &promised).unwrap();
    let told = other.all_known();
    network.hosts.get_mut(&peer(1)).unwrap().saved = before;
    network.boot(1);
    let elector = &mut network.hosts.get_mut(&peer(1)).unwrap().takeover;
    elector.hear(network.now, peer(2), &told).unwrap();
    assert!(std::iter::from_fn(|| elector.next_effect()).any(|effect| effect == Effect::SetBack));
    assert_eq!(elector.ballot.known_from(), None);
}

#[test]
fn an_elector_that_was_only_booted_votes_as_soon_as_enough_others_have_shown_what_they_know() {
    let mut network = Network::of(6, 5);
    network.pass(1);
    network.terminate(5);
    network.boot(1);
    network.gossip();
    network.turn();
    network.terminate(4);
    network.ask(2, 4);
    network.pass(2);
    assert_eq!(network.heirs(4), [2].into(), "three of five had to agree");
}

#[test]
fn where_one_of_three_electors_is_dead_another_that_was_booted_votes_after_a_while() {
    let mut network = Network::of(3, 3);
    network.pass(1);
    network.terminate(3);
    network.boot(1);
    network.ask(2, 3);
    network.pass(58);
    assert!(network.decisions.is_empty());
    network.pass(20);
    assert_eq!(network.heirs(3), [2].into());
}

#[test]
fn where_one_of_three_electors_is_dead_another_votes_at_once_that_was_started_again_without_a_boot() {
    let mut network = Network::of(3, 3);
    network.pass(1);
    network.terminate(3);
    network.restart(peer(1));
    network.ask(2, 3);
    network.pass(2);
    assert_eq!(network.heirs(3), [2].into());
}

/// A log as far as is believed, or further, that one elector hears of and the others do not.
#[test]
fn where_somebody_says_that_it_came_to_the_last_decision_of_all_there_is_one_more() {
    let believed = HONEST_MAX + STEP_MAX;
    for next in [HONEST_MAX, HONEST_MAX + 1, believed, believed + 1, u64::MAX] {
        let mut network = Network::of(5, 5);
        network.pass(1);
        let ours = network.hosts.get_mut(&peer(5)).unwrap().takeover.all_known();
        let theirs = String::from_utf8(ours).unwrap().replace("\"next\":0", &format!("\"next\":{next}"));
        network.wires.push_back((peer(5), peer(1), theirs.into_bytes()));
        network.terminate(5);
        network.turn();
        network.ask(2, 5);
        network.pass(90);
        assert_eq!(network.heirs(5), [2].into(), "after a log of {next}");
        network.assert_agreed();
    }
}

#[test]
fn who_missed_a_word_hears_it_from_those_who_did_not() {
    let mut network = Network::of(100, 3);
    network.pass(1);
    let (owners, reachable) = (network.owners.clone(), network.reachable(peer(1)));
    let view = View { owners: &owners, reachable: &reachable, grace: None };
    let id = NodeId { name: peer(200), uid: 1200 };
    let mut late = TakeOver::new(id, None, Saved::default());
    late.begin(&network.seeds);
    late.consider(network.now, view);
    let teller = &mut network.hosts.get_mut(&peer(1)).unwrap().takeover;
    for _ in 0..2 {
        late.hear(network.now, peer(1), &teller.summary()).unwrap();
    }
    let unknown: Vec<&PeerName> = owners.keys().filter(|peer| late.instance(**peer).is_none()).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn a_promise_is_on_disk_before_it_is_told() {
    let mut network = Network::of(3, 3);
    network.pass(1);
    let (owners, reachable) = (network.owners.clone(), network.reachable(peer(1)));
    let view = View { owners: &owners, reachable: &reachable, grace: None };
    let ground = Decision { dead: peer(3), heir: peer(1), ..Decision::default() };
    let one = &mut network.hosts.get_mut(&peer(1)).unwrap().takeover;
    one.paxos.propose(&ground);
    let (said, promised) = (one.summary(), one.paxos.ours().unwrap().promise);

    let two = &mut network.hosts.get_mut(&peer(2)).unwrap().takeover;
    two.hear(Timestamp::ZERO, peer(1), &said).unwrap();
    two.consider(Timestamp::ZERO, view);
    let effects: Vec<Effect> = std::iter::from_fn(|| two.next_effect()).collect();
    let [Effect::Save(kept), Effect::Broadcast(_)] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!(kept.claims.promise, promised);
    let saved = Saved { kept: Some(kept.clone()), ..Saved::default() };
    let again = TakeOver::new(NodeId { name: peer(2), uid: 1002 }, None, saved);
    assert_eq!(again.paxos.ours().unwrap().promise, promised);
}

#[test]
fn the_word_of_a_former_life_is_outdone() {
    let mut network = Network::of(3, 3);
    network.pass(1);
    network.ask(2, 9);
    network.restart(peer(2));
    network.gossip();
    network.turn();
    let known = network.hosts[&peer(1)].takeover.statements.all()[&peer(2)].clone();
    assert!(known.asks.is_empty(), "{known:?}");
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

#[test]
fn bytes_that_are_no_message_are_an_error_and_change_nothing() {
    let mut network = Network::of(3, 3);
    network.pass(1);
    let host = network.hosts.get_mut(&peer(1)).unwrap();
    let before = host.takeover.all_known();
    for bytes in [&b""[..], b"[1,2", b"\xff\xff", b"{\"log\":{\"cluster\":1}}"] {
        assert!(host.takeover.hear(Timestamp::ZERO, peer(2), bytes).is_err());
    }
    assert_eq!(host.takeover.all_known(), before);
    assert_eq!(host.takeover.next_effect(), None);
}

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
