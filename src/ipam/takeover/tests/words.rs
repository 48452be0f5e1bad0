//! What is said, how much of it, and what is passed over.

use super::{
    super::{message::Said, statements::Statement},
    *,
};
use crate::ipam::paxos::{AcceptedValue, LIVES_MAX, ProposalId, VALUE_NAMES_MAX};

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
