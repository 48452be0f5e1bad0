//! What a runtime connects: by a key of its own, asked for again and again, and gone when it failed.

use weavers::{
    addr::Address,
    node::{
        Input,
        persist::memory::Attached,
        protocol::request::{Connected, Container, Refusal, RefusalKind, Request, RequestId, Response, Wish},
    },
    state::{Key, Kind, Mac, Netns},
};

use crate::lone_host::{Host, netns};

/// Time in which a runtime is answered, whatever happens.
const PATIENCE_MS: u64 = 26_000;

fn wish(id: &str, interface: &str) -> Wish {
    let key = Key {
        kind: Kind::Cni,
        network: "weavers".to_owned(),
        id: id.to_owned(),
        interface: interface.to_owned(),
    };
    Wish::of(key)
}

fn connect(host: &mut Host, number: u64, wish: Wish) -> Result<Response, Refusal> {
    host.answers.clear();
    host.ask(Request::Connect { netns: netns(number), link: None, wish });
    host.pass(PATIENCE_MS);
    host.answers.pop().expect("a runtime is answered")
}

fn delete(host: &mut Host, wish: &Wish) -> Result<Response, Refusal> {
    host.answers.clear();
    host.ask(Request::Detach { target: Container::Name(wish.key.ident()) });
    host.pass(PATIENCE_MS);
    host.answers.pop().expect("a runtime is answered")
}

fn attached(host: &Host) -> Vec<String> {
    host.node.status().attachments.into_iter().map(|one| one.ident).collect()
}

#[test]
fn the_same_key_has_the_same_answer_and_another_name_for_its_interface() {
    let mut host = Host::new();
    let first = connect(&mut host, 1, wish("a", "eth0")).unwrap();
    let Response::Connected(Connected { address, mac, mtu, link, .. }) = &first else { panic!("{first:?}") };
    assert_eq!((*mac, *mtu), (Mac::of(*address), 1376));
    assert_eq!(*link, format!("wv{:08x}", address.0));
    assert_eq!(host.kernel.links[address].far.name, "eth0");
    assert_eq!(connect(&mut host, 1, wish("a", "eth0")).unwrap(), first);
    assert_eq!(attached(&host), ["cni/weavers/a/eth0"]);
    for expected in [Response::Done, Response::Absent] {
        assert_eq!(delete(&mut host, &wish("a", "eth0")).unwrap(), expected, "twice is no error");
    }
    assert_eq!((attached(&host).len(), host.kernel.links.contains_key(address)), (0, false));
}

#[test]
fn what_waited_in_vain_for_its_key_to_become_free_leaves_nothing() {
    let mut host = Host::new();
    connect(&mut host, 1, wish("a", "eth0")).unwrap();
    host.holds_links = true;
    host.ask(Request::Detach { target: Container::Name(wish("a", "eth0").key.ident()) });
    connect(&mut host, 2, wish("a", "eth0")).unwrap_err();
    host.holds_links = false;
    host.pass(120_000);
    assert!(host.kernel.links.is_empty(), "{:?}", host.kernel.links);
    connect(&mut host, 2, wish("a", "eth0")).unwrap();
}

#[test]
fn what_is_asked_for_is_given_or_refused_and_never_something_else() {
    let mut host = Host::new();
    let address: Address = "10.32.7.7".parse().unwrap();
    let mac: Mac = "02:00:00:00:00:07".parse().unwrap();
    let asked = Wish { address: Some(address), mac: Some(mac), mtu: Some(1400), ..wish("a", "eth0") };
    let answer = connect(&mut host, 1, asked.clone()).unwrap();
    let link = "wv0a200707".to_owned();
    assert_eq!(answer, Response::Connected(Connected { address, ipv6: None, mac, mtu: 1400, link }));
    assert_eq!((host.kernel.links[&address].mtu, host.kernel.links[&address].far.mac), (1400, Some(mac)));

    let other = Wish { key: wish("b", "eth0").key, ..asked.clone() };
    let refusal = connect(&mut host, 2, other).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Taken, "{refusal:?}");
    let moved = Wish { address: Some("10.32.7.8".parse().unwrap()), ..asked };
    assert_eq!(connect(&mut host, 1, moved).unwrap_err().kind, RefusalKind::Taken);
    assert_eq!(attached(&host), ["cni/weavers/a/eth0"], "what was refused leaves nothing");

    let outside = Wish { address: Some("192.0.2.1".parse().unwrap()), ..wish("c", "eth0") };
    assert_eq!(connect(&mut host, 3, outside).unwrap_err().kind, RefusalKind::Invalid);
    let nowhere = Wish { subnet: Some("nowhere".into()), ..wish("c", "eth0") };
    assert_eq!(connect(&mut host, 3, nowhere).unwrap_err().kind, RefusalKind::NotFound);
    let nameless = Wish { key: Key { id: "a/b".to_owned(), ..wish("c", "eth0").key }, ..wish("c", "eth0") };
    assert_eq!(connect(&mut host, 3, nameless).unwrap_err().kind, RefusalKind::Invalid);
}

#[test]
fn a_container_has_as_many_interfaces_as_are_asked_for_and_each_once() {
    let mut host = Host::new();
    connect(&mut host, 1, wish("a", "eth0")).unwrap();
    connect(&mut host, 1, wish("a", "net1")).unwrap();
    host.attach(1);
    host.pass(1_000);
    assert!(matches!(host.answers.pop(), Some(Ok(Response::Attached { .. }))));
    assert_eq!(attached(&host).len(), 3);
    let refusal = connect(&mut host, 1, wish("b", "eth0")).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Taken, "{refusal:?}");
    assert!(refusal.message.contains("cni/weavers/a/eth0"), "{refusal:?}");
}

#[test]
fn a_container_that_was_made_anew_is_connected_anew() {
    let mut host = Host::new();
    connect(&mut host, 1, wish("a", "eth0")).unwrap();
    let again = connect(&mut host, 2, wish("a", "eth0")).unwrap();
    let Response::Connected(Connected { address, .. }) = again else { panic!("{again:?}") };
    assert_eq!(host.kernel.links.len(), 1, "the link of before is gone");
    assert_eq!(host.kernel.links[&address].netns, Some(netns(2)));
}

#[test]
fn a_connection_that_cannot_be_made_or_that_nobody_waits_for_leaves_nothing() {
    let mut host = Host::new();
    host.flush(true);
    let refusal = connect(&mut host, 1, wish("a", "eth0")).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Failed);
    host.pass(1_000);
    assert_eq!(attached(&host), [""; 0], "{refusal:?}");

    host.ask(Request::Connect { netns: netns(2), link: None, wish: wish("b", "eth0") });
    assert_eq!(attached(&host).len(), 1);
    let last = host.asked;
    host.tell(Input::Cancelled(RequestId(last)));
    host.pass(1_000);
    assert_eq!(attached(&host), [""; 0]);
}

#[test]
fn whoever_asks_whether_all_is_well_is_told_by_a_look_begun_then() {
    let mut host = Host::new();
    connect(&mut host, 1, wish("a", "eth0")).unwrap();
    let check = |host: &mut Host, number, id| {
        host.answers.clear();
        host.ask(Request::Check { key: wish(id, "eth0").key, netns: netns(number) });
        host.pass(PATIENCE_MS);
        host.answers.pop().expect("a runtime is answered")
    };
    assert!(matches!(check(&mut host, 1, "a"), Ok(Response::Connected(_))));
    assert_eq!(check(&mut host, 1, "b").unwrap_err().kind, RefusalKind::NotFound);
    assert_eq!(check(&mut host, 2, "a").unwrap_err().kind, RefusalKind::Invalid);
    let links = host.kernel.links_mut().values_mut().map(std::sync::Arc::make_mut);
    links.for_each(|link| link.faults.push("range route missing".to_owned()));
    let refusal = check(&mut host, 1, "a").unwrap_err();
    assert!(refusal.message.contains("range route missing"), "{refusal:?}");
    assert_eq!(attached(&host).len(), 1, "it stays connected");
}

#[test]
fn after_a_reboot_what_runtimes_had_connected_is_free_and_what_lives_on_is_kept() {
    let remembered = |id: &str, boot: &str, address: &str| {
        let Wish { key, .. } = wish(id, "eth0");
        let netns = Some(Netns { boot: boot.into(), ..netns(1) });
        let address = Some(address.parse().unwrap());
        Attached { ident: key.ident(), key: Some(key), netns, address, ..Attached::default() }
    };
    let before = remembered("gone", "of yesterday", "10.32.0.5/12");
    let mut host = Host::remembering(vec![before, remembered("alive", "boot", "10.32.0.6/12")]);
    host.pass(1_000);
    assert_eq!(attached(&host), ["cni/weavers/alive/eth0"], "nobody has said DEL");
    let again = Wish { address: Some("10.32.0.5".parse().unwrap()), ..wish("new", "eth0") };
    assert!(connect(&mut host, 2, again).is_ok(), "its address can be given at once");
}
