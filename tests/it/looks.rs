//! How often a host looks, and at what.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use weavers::node::{Input, protocol::request::Response};

use crate::{
    crowd::Crowd,
    lone_host::{Host, fault},
};

#[test]
fn looks_that_fail_are_as_far_apart_as_others_however_much_happens() {
    let looks_of_a_second = |fails: bool| {
        let mut host = Host::new();
        host.pass(5_000);
        host.unreadable = fails.then(|| fault("netlink: no buffer space available"));
        let before = host.looks;
        for _ in 0..10 {
            (0..100).for_each(|_| host.tell(Input::Disturbed));
            host.pass(100);
        }
        host.looks - before
    };
    let (failed, seen) = (looks_of_a_second(true), looks_of_a_second(false));
    assert!((1..=6).contains(&failed), "{failed} looks that fail in a second");
    assert!(failed <= seen + 1, "{failed} looks that fail, and {seen} others");
}

#[test]
fn the_subnet_is_asked_for_of_a_host_that_only_a_neighbour_is_connected_to() {
    // Between the first and the last there is no connection, and neither lists the other.
    let mut crowd = Crowd::joined(3, |_| BTreeMap::new(), |one, other| one.abs_diff(other) == 1);
    crowd.reconfigure(0, "route_tables = 'auto'");
    crowd.pass(30);
    let hosts: BTreeSet<Ipv4Addr> = [[10, 0, 0, 3], [10, 0, 0, 4]].map(Ipv4Addr::from).into();
    assert_eq!(crowd.hosts[0].places, hosts);
}

#[test]
fn a_link_that_was_read_back_is_relied_on_before_the_host_is_looked_at() {
    let mut host = Host::new();
    host.reads_back = true;
    host.pass(1_000);
    let before = host.looks;
    host.attach(1);
    assert!(matches!(host.answers[..], [Ok(Response::Attached { .. })]), "{:?}", host.answers);
    assert_eq!(host.looks, before);
    host.pass(300);
    assert_eq!(host.looks, before + 1, "and soon afterwards the host is looked at");
    host.reads_back = false;
    host.attach(2);
    assert_eq!((host.looks, host.answers.len()), (before + 2, 2), "what was not is looked at");
}
