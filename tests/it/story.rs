//! What the log tells of a cluster.

use std::collections::{BTreeMap, BTreeSet};

use weavers::{
    mesh::Hosts,
    node::{Input, protocol::request::Request},
    state::{Fault, FaultKind, Route, RouteState, Target},
};

use crate::crowd::Crowd;

fn has(told: &[String], words: &[&str]) -> bool {
    told.iter().any(|line| words.iter().all(|word| line.contains(word)))
}

#[test]
fn a_host_that_joins_tells_who_is_there_and_what_it_owns() {
    let crowd = Crowd::of(2);
    let other = crowd.hosts[1].name.to_string();
    let told = &crowd.hosts[0].told;
    assert!(has(told, &["peer", &other, "is connected to the cluster"]), "{told:#?}");
    assert!(has(told, &["the first ring was agreed on", &other]), "{told:#?}");
    assert!(has(told, &["range 10.32.0.0", "received"]), "{told:#?}");
}

#[test]
fn ranges_that_change_hands_are_told_by_both() {
    let mut crowd = Crowd::of(2);
    crowd.hosts.iter_mut().for_each(|host| host.told.clear());
    crowd.ask(0, Request::Drain, 30).expect("it is answered").expect("the other takes it all");
    let (giver, heir) = (&crowd.hosts[0], &crowd.hosts[1]);
    assert!(has(&giver.told, &["range", "given to", &heir.name.to_string()]), "{:#?}", giver.told);
    assert!(has(&heir.told, &["range", "received from", &giver.name.to_string()]), "{:#?}", heir.told);
}

#[test]
fn reads_that_fail_are_told_once_with_the_reason_and_once_when_they_work_again() {
    let mut crowd = Crowd::of(2);
    crowd.hosts[0].told.clear();
    let message = "DescribeRouteTables: UnauthorizedOperation".to_owned();
    crowd.hosts[0].unread = Some(Fault { kind: FaultKind::Denied, message, hint: None, request_id: None });
    crowd.pass(300);
    let told = std::mem::take(&mut crowd.hosts[0].told);
    assert_eq!(told, ["the VPC cannot be read: DescribeRouteTables: UnauthorizedOperation"]);
    crowd.hosts[0].unread = None;
    crowd.pass(300);
    assert_eq!(crowd.hosts[0].told, ["the VPC can be read again"]);
}

#[test]
fn a_host_tells_once_that_it_is_ready_and_once_of_a_route_that_is_not_ours() {
    let mut crowd = Crowd::of(2);
    crowd.pass(60);
    let told =
        |crowd: &Crowd, words: &str| crowd.hosts[0].told.iter().filter(|line| line.contains(words)).count();
    assert_eq!(told(&crowd, "ready: a container"), 1, "{:#?}", crowd.hosts[0].told);
    let target = Target::Other("pcx-77".to_owned());
    let foreign = Route { target, state: RouteState::Active, created: true };
    crowd.routes.insert("10.44.0.0/24".parse().unwrap(), foreign);
    crowd.pass(900);
    assert_eq!(told(&crowd, "conflict: rtb-1 10.44.0.0/24 -> pcx-77"), 1, "{:#?}", crowd.hosts[0].told);
    assert_eq!(told(&crowd, "ready: a container"), 1);
}

#[test]
fn names_that_cannot_be_resolved_are_told_as_other_reads_are() {
    let mut crowd = Crowd::of(1);
    crowd.hosts[0].told.clear();
    let failed = |why: &str| BTreeMap::from([("h2.example".to_owned(), Err(why.to_owned()))]);
    for _ in 0..3 {
        crowd.tell(0, Input::NamesSeen(failed("h2.example cannot be resolved")));
    }
    let found = Hosts::new(["10.0.0.2".parse().unwrap()], &BTreeSet::new());
    crowd.tell(0, Input::NamesSeen([("h2.example".to_owned(), Ok(found))].into()));
    let told = [
        "the addresses of the names in `peers` cannot be read: h2.example cannot be resolved",
        "the addresses of the names in `peers` can be read again",
    ];
    let of_names = crowd.hosts[0].told.iter().filter(|line| line.contains("names in"));
    assert_eq!(of_names.collect::<Vec<_>>(), told);
}
