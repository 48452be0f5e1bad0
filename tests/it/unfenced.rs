//! A host whose rules cannot be put in force, and containers that come to it meanwhile.

use weavers::node::Input;

use crate::lone_host::{Host, fault};

#[test]
fn no_container_is_connected_while_nft_fails_and_the_attach_says_why() {
    let mut host = Host::new();
    host.flush(true);
    host.attach(1);
    host.pass(35_000);
    let [Err(refusal)] = host.answers.as_slice() else { panic!("{:?}", host.answers) };
    assert!(refusal.message.contains("nft: permission denied"), "{refusal:?}");
    assert_eq!(refusal.hint.as_deref(), Some("give it back"));
    assert!(host.kernel.links.is_empty());
    let status = host.node.status();
    assert!(!status.ready && status.attachments[0].missing.as_ref().unwrap().contains("nft"), "{status:?}");

    host.nft_fails = false;
    host.attach(1);
    host.pass(70_000);
    assert!(matches!(host.answers.as_slice(), [_, Ok(_)]), "{:?}", host.answers);
    assert!(host.node.overview().is_converged());
}

#[test]
fn where_the_rules_cannot_even_be_read_the_attach_says_so() {
    let mut host = Host::new();
    host.unreadable = Some(fault("nft: it failed and said nothing"));
    host.tell(Input::Disturbed);
    host.pass(1_000);
    host.attach(1);
    host.pass(35_000);
    let [Err(refusal)] = host.answers.as_slice() else { panic!("{:?}", host.answers) };
    assert!(refusal.message.contains("nft: it failed and said nothing"), "{refusal:?}");
    assert_eq!(refusal.hint.as_deref(), Some("give it back"));
    assert!(host.kernel.links.is_empty());
}

#[test]
fn what_is_connected_stays_connected_while_the_rules_are_gone() {
    let mut host = Host::new();
    host.attach(1);
    host.pass(1_000);
    assert!(matches!(host.answers.as_slice(), [Ok(_)]), "{:?}", host.answers);
    host.flush(true);
    host.attach(2);
    host.pass(40_000);
    assert_eq!(host.kernel.links.len(), 1, "the one of before, and no other");
    assert!(matches!(host.answers.as_slice(), [Ok(_), Err(_)]), "{:?}", host.answers);
}

#[test]
fn without_an_uplink_no_container_is_connected_and_the_way_out_is_named() {
    let mut host = Host::new();
    host.kernel.uplinks.clear();
    host.flush(false);
    host.attach(1);
    host.pass(35_000);
    let [Err(refusal)] = host.answers.as_slice() else { panic!("{:?}", host.answers) };
    assert!(refusal.message.contains("no uplink is known"), "{refusal:?}");
    assert!(refusal.hint.as_ref().unwrap().contains("[network] uplinks"), "{refusal:?}");
    assert!(host.kernel.links.is_empty() && !host.node.overview().is_ready());
    let status = host.node.status();
    assert!(status.problems.iter().any(|problem| problem.what.contains("no uplink is known")), "{status:?}");

    host.kernel.uplinks = [("ens5".to_owned(), 9001)].into();
    host.tell(Input::Disturbed);
    host.pass(5_000);
    assert_eq!(host.kernel.links.len(), 1);
    assert!(host.node.overview().is_converged());
}
