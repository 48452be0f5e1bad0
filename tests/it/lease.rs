//! Addresses that are lent to other plugins: one by one, and out of a block of a network's own.

use std::collections::BTreeSet;

use ipnet::Ipv4Net;
use weavers::{
    addr::Address,
    node::{
        Input,
        persist::memory::{Lease, Memory, Write},
        protocol::request::{Container, Lent, Loan, Refusal, RefusalKind, Request, RequestId, Response},
    },
    state::{Key, Kind},
};

use crate::lone_host::{Host, netns};

/// Time in which whoever asks is answered, whatever happens.
const PATIENCE_MS: u64 = 26_000;
/// Time in which a look at the host follows a change.
const SOON_MS: u64 = 2_000;

fn key(network: &str, id: &str) -> Key {
    let [network, id, interface] = [network, id, "eth0"].map(str::to_owned);
    Key { kind: Kind::Ipam, network, id, interface }
}

fn loan(id: &str) -> Loan {
    Loan { key: key("p2p", id), address: None, subnet: None, block: None, name: None }
}

/// One for a bridge whose block is this long.
fn of_bridge(id: &str, length: u8) -> Loan {
    Loan { key: key("br", id), block: Some(length), ..loan(id) }
}

fn lend(host: &mut Host, number: u64, loan: Loan) -> Result<Lent, Refusal> {
    host.answers.clear();
    host.ask(Request::Lend { netns: netns(number), loan });
    host.pass(PATIENCE_MS);
    match host.answers.pop().expect("whoever asks is answered") {
        Ok(Response::Lent(lent)) => Ok(lent),
        Ok(other) => panic!("{other:?}"),
        Err(refusal) => Err(refusal),
    }
}

fn delete(host: &mut Host, key: &Key) -> Response {
    host.answers.clear();
    host.ask(Request::Detach { target: Container::Name(key.ident()) });
    host.pass(SOON_MS);
    host.answers.pop().expect("whoever asks is answered").unwrap()
}

fn used(host: &Host) -> Vec<String> {
    host.node.overview().allocations().keys().cloned().collect()
}

/// As the other plugin does it.
fn lead_to(host: &mut Host, destination: &str, interface: &str) {
    host.kernel.foreign.insert(destination.parse().unwrap(), format!("unicast dev {interface}"));
    host.tell(Input::Disturbed);
    host.pass(SOON_MS);
}

#[test]
fn the_same_key_is_lent_the_same_address_until_it_gives_it_back() {
    let mut host = Host::new();
    let first = lend(&mut host, 1, loan("a")).unwrap();
    assert_eq!(first.address.prefix_len(), 12, "the whole range is behind the gateway");
    assert_ne!(Address::from(first.address.addr()), first.gateway);
    assert_eq!(lend(&mut host, 1, loan("a")).unwrap(), first);
    assert_eq!(lend(&mut host, 9, loan("a")).unwrap(), first, "the container was made anew");
    let second = lend(&mut host, 2, loan("b")).unwrap();
    assert_eq!((second.gateway, second.address == first.address), (first.gateway, false));
    for expected in [Response::Done, Response::Absent] {
        assert_eq!(delete(&mut host, &key("p2p", "a")), expected, "twice is no error");
    }
    assert_eq!(used(&host), ["ipam-gateway", "ipam/p2p/b/eth0"]);
    delete(&mut host, &key("p2p", "b"));
    assert_eq!(used(&host), [""; 0], "with the last one the gateway goes");
}

#[test]
fn a_route_to_what_is_lent_is_no_conflict_and_any_other_is() {
    let mut host = Host::new();
    let Lent { address, .. } = lend(&mut host, 1, loan("a")).unwrap();
    lead_to(&mut host, &format!("{}/32", address.addr()), "veth1234");
    let Lent { address, .. } = lend(&mut host, 2, of_bridge("b", 24)).unwrap();
    lead_to(&mut host, &address.trunc().to_string(), "cni0");
    let status = host.node.status();
    assert!(
        host.node.overview().plan().conflicts.is_empty() && status.problems.is_empty(),
        "{:?}",
        status.problems
    );
    assert!(status.converged, "{:?}", status.waits);
    let shown: Vec<&str> = status.attachments.iter().map(|one| one.ident.as_str()).collect();
    assert_eq!(shown, ["ipam/br/b/eth0", "ipam/p2p/a/eth0"]);
    lead_to(&mut host, "10.33.0.0/16", "tun0");
    assert_eq!(host.node.overview().plan().conflicts.len(), 1);
}

#[test]
fn a_network_with_a_bridge_has_a_block_to_itself_as_long_as_the_bridge_is_there() {
    let mut host = Host::new();
    let first = lend(&mut host, 1, of_bridge("a", 29)).unwrap();
    let block = first.address.trunc();
    assert_eq!(block.prefix_len(), 29);
    assert_eq!(first.gateway, Address(Address::from(block.network()).0 + 1));
    lead_to(&mut host, &block.to_string(), "cni0");
    let mut seen = BTreeSet::from([first.address]);
    for (number, id) in [(2, "b"), (3, "c"), (4, "d"), (5, "e")] {
        let lent = lend(&mut host, number, of_bridge(id, 29)).unwrap();
        assert_eq!((lent.address.trunc(), lent.gateway), (block, first.gateway));
        assert!(seen.insert(lent.address), "{} was lent already", lent.address);
    }
    let refusal = lend(&mut host, 6, of_bridge("f", 29)).unwrap_err();
    assert!(refusal.message.contains(&block.to_string()), "{refusal:?}");
    let alone = lend(&mut host, 7, loan("g")).unwrap();
    assert!(!block.contains(&alone.address.addr()), "nobody else is given an address of it");
    for id in ["a", "b", "c", "d", "e"] {
        delete(&mut host, &key("br", id));
    }
    assert!(used(&host).contains(&"ipam-block/br".to_owned()), "the bridge has an address of it still");
    let again = lend(&mut host, 1, of_bridge("a", 29)).unwrap();
    assert_eq!(again.address.trunc(), block);
    delete(&mut host, &key("br", "a"));
    host.kernel.foreign.clear();
    host.tell(Input::Disturbed);
    host.pass(SOON_MS);
    assert!(!used(&host).contains(&"ipam-block/br".to_owned()));
}

#[test]
fn what_is_asked_for_is_lent_or_refused_and_never_something_else() {
    let mut host = Host::new();
    let wanted: Address = "10.32.7.7".parse().unwrap();
    let asked = Loan { address: Some(wanted), ..loan("a") };
    assert_eq!(lend(&mut host, 1, asked.clone()).unwrap().address.to_string(), "10.32.7.7/12");
    let refused = |host: &mut Host, loan: Loan| lend(host, 2, loan).unwrap_err().kind;
    assert_eq!(refused(&mut host, Loan { key: key("p2p", "b"), ..asked.clone() }), RefusalKind::Taken);
    let moved = Loan { address: Some("10.32.7.8".parse().unwrap()), ..asked };
    assert_eq!(refused(&mut host, moved), RefusalKind::Taken);
    let of_block = lend(&mut host, 3, of_bridge("c", 24)).unwrap();
    let block = of_block.address.trunc();
    for (address, kind) in [
        (Address::from(block.network()), RefusalKind::Taken),
        (of_block.gateway, RefusalKind::Taken),
        (of_block.address.addr().into(), RefusalKind::Taken),
        ("10.40.0.1".parse().unwrap(), RefusalKind::Invalid),
    ] {
        let loan = Loan { address: Some(address), ..of_bridge("d", 24) };
        assert_eq!(refused(&mut host, loan), kind, "{address}");
    }
    let last = Address(Address::from(block.broadcast()).0 - 1);
    let loan_of_last = Loan { address: Some(last), ..of_bridge("d", 24) };
    assert_eq!(Address::from(lend(&mut host, 4, loan_of_last).unwrap().address.addr()), last);
    let kind = Key { kind: Kind::Cni, ..key("p2p", "e") };
    for wrong in [
        of_bridge("e", 8),
        of_bridge("e", 30),
        Loan { key: kind, ..loan("e") },
        Loan { key: Key { id: "a/b".to_owned(), ..key("p2p", "e") }, ..loan("e") },
        Loan { address: Some("192.0.2.1".parse().unwrap()), ..loan("e") },
    ] {
        assert_eq!(refused(&mut host, wrong.clone()), RefusalKind::Invalid, "{wrong:?}");
    }
    let nowhere = Loan { subnet: Some("nowhere".into()), ..loan("e") };
    assert_eq!(refused(&mut host, nowhere), RefusalKind::NotFound);
    assert_eq!(host.node.status().attachments.len(), 3, "what was refused leaves nothing");
}

#[test]
fn nothing_is_lent_where_packets_could_not_flow_and_nothing_is_left_of_that() {
    let mut host = Host::new();
    host.flush(true);
    let refusal = lend(&mut host, 1, loan("a")).unwrap_err();
    assert!(refusal.message.contains("the rules that guard containers"), "{refusal:?}");
    assert_eq!(used(&host), [""; 0]);
    host.ask(Request::Lend { netns: netns(2), loan: loan("b") });
    let last = host.asked;
    host.tell(Input::Cancelled(RequestId(last)));
    host.pass(SOON_MS);
    assert_eq!(used(&host), [""; 0], "whoever asked is gone");
}

#[test]
fn an_address_is_lent_once_the_disk_has_it() {
    let mut host = Host::new();
    host.pass(SOON_MS);
    host.holds_disk = true;
    host.answers.clear();
    host.ask(Request::Lend { netns: netns(1), loan: loan("a") });
    host.pass(SOON_MS);
    assert!(host.answers.is_empty());
    host.saved();
    host.saved();
    host.pass(SOON_MS);
    assert!(matches!(host.answers.pop(), Some(Ok(Response::Lent(_)))));
}

#[test]
fn a_namespace_that_is_gone_has_nothing_and_one_that_came_in_its_place_keeps_what_it_has() {
    let mut host = Host::new();
    lend(&mut host, 1, loan("gone")).unwrap();
    lend(&mut host, 2, loan("made-anew")).unwrap();
    let before = host.node.overview().borrowers();
    lend(&mut host, 3, loan("made-anew")).unwrap();
    host.ask(Request::LeasesGone { gone: before });
    assert_eq!(used(&host), ["ipam-gateway", "ipam/p2p/made-anew/eth0"]);
}

#[test]
fn after_a_reboot_what_was_lent_is_free_and_what_lives_on_is_kept() {
    let lease = |id: &str, boot: &str, address: Option<&str>| Lease {
        key: key("p2p", id),
        netns: weavers::state::Netns { boot: boot.into(), ..netns(1) },
        address: address.map(|address| address.parse().unwrap()),
        of_block: false,
        label: None,
    };
    let leases = [
        lease("alive", "boot", Some("10.32.0.5")),
        lease("before", "of yesterday", Some("10.32.0.6")),
        lease("unanswered", "boot", None),
    ];
    let mut memory = Memory::default();
    for lease in leases {
        let ident = lease.key.ident();
        let address = lease.address.map(|address| Ipv4Net::new(address.into(), 12).unwrap());
        memory.ipam.allocations.insert(ident.clone(), address.into_iter().collect());
        memory.leases.insert(ident, lease);
    }
    let mut host = Host::with(memory);
    host.pass(SOON_MS);
    assert_eq!(used(&host), ["ipam/p2p/alive/eth0"]);
    let kept = lend(&mut host, 1, loan("alive")).unwrap();
    assert_eq!(kept.address.to_string(), "10.32.0.5/12");
    delete(&mut host, &key("p2p", "alive"));
}

#[test]
fn a_record_of_a_lease_is_read_as_it_was_written() {
    let lease = Lease {
        key: key("p2p", "a"),
        netns: netns(1),
        address: Some("10.32.0.5".parse().unwrap()),
        of_block: true,
        label: Some("web".to_owned()),
    };
    let Write { key, value } = Write::lease(&lease.key.ident(), Some(&lease));
    let memory = Memory::read(&[(key, value.unwrap())].into()).unwrap();
    assert_eq!(memory.leases.into_values().collect::<Vec<_>>(), [lease]);
}

#[test]
fn an_address_that_is_lent_is_explained_by_whoever_has_it_and_not_freed_by_hand() {
    let mut host = Host::new();
    let lent = lend(&mut host, 1, Loan { name: Some("web".to_owned()), ..loan("a") }).unwrap();
    host.ask(Request::Free { ident: key("p2p", "a").ident(), address: None });
    let refusal = host.answers.pop().unwrap().unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Unsafe, "{refusal:?}");
    host.ask(Request::Explain { address: lent.address.addr().into() });
    host.pass(PATIENCE_MS);
    let Some(Ok(Response::Explanation(explanation))) = host.answers.pop() else { panic!() };
    assert_eq!(explanation.summary, "container `web` (ipam/p2p/a/eth0) on this host");
    host.ask(Request::Lent { key: key("p2p", "a") });
    assert_eq!(host.answers.pop(), Some(Ok(Response::Lent(lent))));
    host.ask(Request::Lent { key: key("p2p", "b") });
    assert_eq!(host.answers.pop().unwrap().unwrap_err().kind, RefusalKind::NotFound);
}
