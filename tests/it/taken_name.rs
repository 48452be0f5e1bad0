//! A container that comes under a name which another one is just giving up.

use weavers::node::protocol::request::{Container, Request, Response};

use crate::lone_host::Host;

#[test]
fn whoever_waits_for_a_name_is_found_by_its_namespace() {
    let mut host = Host::new();
    host.attach_as(1, "web");
    host.pass(5_000);
    host.holds_links = true;
    host.detach(1);
    host.attach_as(2, "web");
    host.pass(1_000);
    host.attach_as(2, "web");
    host.pass(1_000);
    assert!(matches!(host.answers.as_slice(), [Ok(Response::Attached { .. })]), "{:?}", host.answers);

    host.detach(2);
    assert!(matches!(host.answers.last(), Some(Ok(Response::Done))), "{:?}", host.answers);
    host.holds_links = false;
    host.pass(120_000);
    assert!(host.kernel.links.is_empty(), "{:?}", host.kernel.links);
    let connected = |answer: &Result<Response, _>| matches!(answer, Ok(Response::Attached { .. }));
    assert_eq!(host.answers.iter().filter(|answer| connected(answer)).count(), 1, "{:?}", host.answers);
}

#[test]
fn whoever_waits_for_a_name_is_found_by_a_path_that_leads_nowhere_any_more() {
    let mut host = Host::new();
    host.attach_as(1, "web");
    host.pass(5_000);
    host.holds_links = true;
    host.detach(1);
    host.attach_as(2, "web");
    host.pass(1_000);
    host.answers.clear();
    let gone = || Request::Detach { target: Container::Name("/run/netns/2".to_owned()) };
    [gone(), gone()].into_iter().for_each(|detach| host.ask(detach));
    assert_eq!(host.answers, [Ok(Response::Done), Ok(Response::Absent)]);
    host.holds_links = false;
    host.pass(120_000);
    assert!(host.kernel.links.is_empty(), "{:?}", host.kernel.links);
}
