//! One fault stays one fault: a full disk, a namespace that moved, an interface that stands in the way.

use std::path::PathBuf;

use weavers::{
    node::{
        persist::ledger::SaveFault,
        protocol::request::{Container, Request, Response},
    },
    state::{Fault, FaultKind, Netns, Route, RouteState, Target},
};

use super::crowd::Crowd;

fn full() -> SaveFault {
    SaveFault { message: "no space left on device".to_owned(), hint: Some("make room".to_owned()) }
}

fn attach(path: &str) -> Request {
    Request::Attach { netns: netns(path), link: None, name: None, subnet: None }
}

fn netns(path: &str) -> Netns {
    Netns::new("boot", 7, path)
}

#[test]
fn with_a_full_disk_all_that_promises_nothing_is_answered_and_the_disk_is_named() {
    let mut crowd = Crowd::of(1);
    crowd.hosts[0].disk = Err(full());
    assert_eq!(crowd.allocate(0, "c"), None, "an address is a promise");
    for request in [Request::Status, Request::Plan, Request::ShowRing] {
        let answer = crowd.ask(0, request.clone(), 5);
        assert!(matches!(answer, Some(Ok(_))), "{request:?}: {answer:?}");
    }
    let notes = crowd.notes(0);
    assert!(notes.contains("no space left on device") && notes.contains("make room"), "{notes}");
    assert!(!crowd.hosts[0].node.overview().is_ready(), "nothing can be handed out");

    let Some(Err(refusal)) = crowd.ask(0, attach("/proc/1/ns/net"), 40) else {
        panic!("whoever attaches is told that it cannot be now")
    };
    assert!(refusal.message.contains("no space left on device"), "{refusal:?}");

    crowd.hosts[0].disk = Ok(());
    crowd.pass(10);
    assert!(crowd.hosts[0].node.overview().is_ready(), "{}", crowd.notes(0));
    assert!(matches!(crowd.allocate(0, "d"), Some(Ok(_))));
}

#[test]
fn who_has_no_address_to_hand_out_is_sent_to_the_routes_of_others_where_they_are_the_reason() {
    let mut crowd = Crowd::of(1);
    let owned = *crowd.routes.keys().next().unwrap();
    let peering = Target::Other("pcx-1".to_owned());
    crowd.routes.insert(owned, Route { target: peering, state: RouteState::Active, created: true });
    crowd.pass(120);
    let notes = crowd.notes(0);
    assert!(
        notes.contains("none of 10.32.0.0/12 is free here") && notes.contains("`weavers plan` names"),
        "{notes}"
    );
    assert!(!notes.contains("bring hosts back"), "{notes}");
}

#[test]
fn attach_says_at_once_that_ethwe_is_taken_and_goes_on_when_it_is_not_any_more() {
    let mut crowd = Crowd::of(1);
    crowd.hosts[0].refuses = Some(Fault {
        kind: FaultKind::Invalid,
        message: "ethwe in /proc/1/ns/net exists and is not ours".to_owned(),
        hint: Some("remove or rename ethwe there".to_owned()),
        request_id: None,
    });
    let Some(Err(refusal)) = crowd.ask(0, attach("/proc/1/ns/net"), 5) else { panic!("it is known at once") };
    assert!(refusal.message.contains("ethwe in /proc/1/ns/net exists and is not ours"), "{refusal:?}");
    assert!(refusal.hint.unwrap().contains("remove or rename ethwe"));
    assert!(crowd.notes(0).contains("ethwe in /proc/1/ns/net exists"), "{}", crowd.notes(0));

    crowd.hosts[0].refuses = None;
    let answer = crowd.ask(0, attach("/proc/1/ns/net"), 5);
    assert!(matches!(answer, Some(Ok(Response::Attached { .. }))), "{answer:?}");
}

#[test]
fn a_namespace_is_the_same_by_whatever_pid_it_is_attached() {
    let mut crowd = Crowd::of(1);
    let first = crowd.ask(0, attach("/proc/10/ns/net"), 5);
    assert!(matches!(first, Some(Ok(Response::Attached { .. }))), "{first:?}");
    let again = crowd.ask(0, attach("/proc/20/ns/net"), 5);
    assert_eq!(again, first);
    let path = |crowd: &Crowd| crowd.hosts[0].node.status().attachments[0].netns.clone();
    assert_eq!(path(&crowd), "/proc/20/ns/net", "that is where it can be found now");

    // The kernel's side found it by another process.
    crowd.hosts[0].found_at = Some(PathBuf::from("/proc/30/ns/net"));
    crowd.pass(60);
    assert_eq!(path(&crowd), "/proc/30/ns/net");
    assert_eq!(crowd.hosts[0].node.status().attachments[0].missing, None);

    // The process has ended, so its path says nothing about the namespace any more.
    let detached = crowd.ask(0, Request::Detach { target: Container::Name("30".to_owned()) }, 5);
    assert_eq!(detached, Some(Ok(Response::Done)));
    assert_eq!(crowd.hosts[0].node.status().attachments, []);
}
