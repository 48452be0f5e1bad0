//! Blocks that move between whole peers, and what somebody among them may say of blocks.

use std::{collections::BTreeSet, net::Ipv4Addr};

use ipnet::Ipv4Net;
use weavers::{
    addr::Range,
    node::{WRITES_AN_HOUR, protocol::request::Request},
    state::{Fault, FaultKind},
};

use super::crowd::{Crowd, owned};

const CHANNEL: &str = "weavers/compact";
const CLAIMED: Ipv4Addr = Ipv4Addr::new(10, 32, 0, 77);

fn claimed() -> Ipv4Net {
    Ipv4Net::from(CLAIMED)
}

/// A host is given an address of another, which is freed after a while.
fn with_a_claim() -> Crowd {
    let mut crowd = Crowd::of(3);
    let address = CLAIMED.into();
    crowd.ask(1, Request::Claim { ident: "one".to_owned(), address }, 5).unwrap().unwrap();
    crowd.pass(5);
    assert!(crowd.routes.contains_key(&claimed()) && owned(&crowd.hosts[1]).len() == 2);
    crowd
}

#[test]
fn an_address_that_was_claimed_stays_while_it_is_used_and_goes_back_when_it_is_free() {
    let mut crowd = with_a_claim();
    crowd.pass(300);
    assert!(crowd.routes.contains_key(&claimed()), "it is in use");
    let before = crowd.routes.len();
    crowd.ask(1, Request::Free { ident: "one".to_owned(), address: None }, 5).unwrap().unwrap();
    crowd.pass(30);
    assert!(crowd.routes.contains_key(&claimed()), "it was freed a moment ago");
    crowd.pass(300);
    assert_eq!(crowd.routes.len(), before - 1, "{:?}", crowd.routes.keys());
    assert!(owned(&crowd.hosts[0]).iter().any(|range| range.covers(Range::from(claimed()))));
    for host in &crowd.hosts {
        let compaction = host.node.status().ipam.compaction;
        assert_eq!((compaction.routes, compaction.routes_least, compaction.next), (1, 1, None));
    }
}

#[test]
fn a_host_with_more_routes_than_it_needs_says_what_comes_next_or_why_nothing_does() {
    let mut crowd = with_a_claim();
    crowd.ask(1, Request::Free { ident: "one".to_owned(), address: None }, 5).unwrap().unwrap();
    let mut reasons = BTreeSet::new();
    for _ in 0..330 {
        crowd.pass(1);
        for (number, host) in crowd.hosts.iter().enumerate() {
            let compaction = host.node.status().ipam.compaction;
            if compaction.routes > compaction.routes_least {
                assert!(
                    compaction.waits.is_some() || compaction.next.is_some(),
                    "host {number}: {compaction:?}"
                );
                reasons.extend(compaction.waits);
            }
        }
    }
    assert!(reasons.iter().any(|reason| reason.contains("route tables are read again")), "{reasons:?}");
}

fn no_answer() -> Fault {
    Fault { kind: FaultKind::Unreachable, message: "no answer".to_owned(), hint: None, request_id: None }
}

#[test]
fn a_host_whose_neighbour_takes_nothing_says_so() {
    let mut crowd = with_a_claim();
    crowd.hosts[0].unread = Some(no_answer());
    crowd.ask(1, Request::Free { ident: "one".to_owned(), address: None }, 5).unwrap().unwrap();
    let mut reasons = BTreeSet::new();
    for _ in 0..400 {
        crowd.pass(1);
        reasons.extend(crowd.hosts[1].node.status().ipam.compaction.waits);
    }
    assert!(crowd.routes.contains_key(&claimed()));
    assert!(reasons.contains("the hosts beside its blocks take none"), "{reasons:?}");
}

#[test]
fn nothing_moves_while_a_table_cannot_be_read() {
    let mut crowd = with_a_claim();
    crowd.hosts[1].unread = Some(no_answer());
    crowd.ask(1, Request::Free { ident: "one".to_owned(), address: None }, 5).unwrap().unwrap();
    crowd.pass(400);
    assert!(crowd.routes.contains_key(&claimed()));
    let compaction = crowd.hosts[1].node.status().ipam.compaction;
    assert_eq!(compaction.waits.as_deref(), Some("the host or the route tables cannot be read"));
    crowd.hosts[1].unread = None;
    crowd.pass(400);
    assert!(!crowd.routes.contains_key(&claimed()));
}

#[test]
fn whatever_somebody_says_of_blocks_costs_nothing() {
    let mut crowd = with_a_claim();
    crowd.let_in();
    let before: Vec<_> = crowd.hosts.iter().map(owned).collect();
    let routes = crowd.routes.clone();
    let long = vec![b'x'; 100_000];
    let said: [&[u8]; 10] = [
        b"",
        b"{",
        b"{\"offer\":\"10.32.0.0/12\"}",
        b"{\"offer\":\"0.0.0.0/0\"}",
        b"{\"offer\":\"255.255.255.255/32\"}",
        b"{\"take\":\"10.32.0.77/32\"}",
        b"{\"take\":\"10.40.0.0/13\"}",
        b"{\"keep\":\"10.32.0.77/32\"}",
        b"{\"other\":\"10.32.0.77/32\"}",
        &long,
    ];
    for host in 0..crowd.hosts.len() {
        for said in said {
            (0..50).for_each(|_| crowd.whisper(host, CHANNEL, said));
        }
        crowd.pass(20);
    }
    assert_eq!(crowd.hosts.iter().map(owned).collect::<Vec<_>>(), before);
    assert_eq!(crowd.routes, routes);
    crowd.throw_out();
    crowd.ask(1, Request::Free { ident: "one".to_owned(), address: None }, 5).unwrap().unwrap();
    crowd.pass(400);
    assert!(!crowd.routes.contains_key(&claimed()), "and blocks move as before");
}

/// Whatever comes together, at once.
#[test]
fn no_more_writes_are_made_for_it_than_are_said_and_who_has_none_that_fits_meanwhile_says_so() {
    let mut crowd = Crowd::of(2);
    let count = 40;
    for number in 0..count {
        let address = Ipv4Addr::new(10, 32, number, 77).into();
        let request = Request::Claim { ident: format!("c{number}"), address };
        crowd.ask(1, request, 5).unwrap().unwrap();
    }
    crowd.pass(3700);
    for number in 0..count {
        crowd.ask(1, Request::Free { ident: format!("c{number}"), address: None }, 5).unwrap().unwrap();
    }
    let before = crowd.writes;
    let mut reasons = BTreeSet::new();
    for _ in 0..360 {
        crowd.pass(10);
        reasons.extend(crowd.hosts.iter().filter_map(|host| host.node.status().ipam.compaction.waits));
    }
    assert!(reasons.iter().any(|reason| reason.contains("no block fits")), "{reasons:?}");
    let written = crowd.writes - before;
    assert!(written > 0 && written <= 2 * WRITES_AN_HOUR, "{written} writes of two hosts");
}
