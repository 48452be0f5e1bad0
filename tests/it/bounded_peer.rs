//! What a peer can do that was let in and is none of ours: it is named, it is bounded, and it can be undone.

use ipnet::Ipv4Net;
use weavers::{
    addr::Address,
    ipam::ring::{Entry, VERSION_MAX},
    node::protocol::request::{Request, Response},
    peer::PeerName,
};

use super::crowd::{Crowd, LOW, owned};

/// Each host uses an address of its piece.
fn in_use() -> Crowd {
    let mut crowd = Crowd::of(3);
    for host in 0..3 {
        assert!(matches!(crowd.allocate(host, "c"), Some(Ok(Response::Addresses(_)))), "host {host}");
    }
    crowd.pass(3);
    for host in 0..3 {
        assert!(crowd.hosts[host].node.overview().is_ready(), "host {host}: {}", crowd.notes(host));
    }
    crowd
}

fn claimed(entry: Entry, by: u32) -> Entry {
    Entry { owner: LOW, version: entry.version + by, ..entry }
}

fn forget() -> Request {
    Request::Forget { peer: LOW.to_string(), alone: false }
}

#[test]
fn two_claims_of_a_peer_with_a_low_name_are_named_and_one_forget_heals_every_host() {
    let mut crowd = in_use();
    crowd.let_in();
    crowd.claim_all(|entry| claimed(entry, 10));
    crowd.claim_all(|entry| claimed(entry, 1000));
    for host in 0..3 {
        assert!(!crowd.hosts[host].node.overview().is_ready(), "host {host} hands nothing out");
        let notes = crowd.notes(host);
        assert!(notes.contains("(intruder??MAINPID=1?[2J) to give up addresses of"), "host {host}: {notes}");
        assert!(notes.contains("an address to hand out"), "host {host}: {notes}");
    }
    crowd.throw_out();
    crowd.pass(30);
    for host in 0..3 {
        assert!(!crowd.hosts[host].node.overview().is_ready(), "he is gone, and nothing has changed");
        assert!(crowd.notes(host).contains(&format!("weavers forget {LOW}")), "{}", crowd.notes(host));
    }
    let forgotten = crowd.ask(0, forget(), 40);
    assert!(matches!(forgotten, Some(Ok(Response::Moved { .. }))), "{forgotten:?}");
    crowd.pass(60);
    let ring = crowd.hosts[0].node.overview().ring().owners();
    for host in 0..3 {
        assert_eq!(crowd.hosts[host].node.overview().ring().owners(), ring, "host {host} follows");
        assert!(!owned(&crowd.hosts[host]).is_empty());
        assert!(crowd.hosts[host].node.overview().is_ready(), "host {host}: {}", crowd.notes(host));
        let answer = crowd.allocate(host, "another");
        assert!(matches!(answer, Some(Ok(Response::Addresses(_)))), "host {host}: {answer:?}");
    }
}

#[test]
fn a_nickname_is_one_line_of_what_is_told_and_steers_no_terminal() {
    let mut crowd = in_use();
    crowd.let_in();
    crowd.claim_all(|entry| claimed(entry, 10));
    crowd.claim_all(|entry| claimed(entry, 1000));
    let status = crowd.hosts[0].node.status();
    let of_notes = status.waits.iter().chain(&status.problems).map(|note| &note.what);
    let texts: Vec<&String> =
        of_notes.chain(status.connections.iter().filter_map(|one| one.nickname.as_ref())).collect();
    assert!(texts.iter().any(|text| text.contains("MAINPID")), "{texts:?}");
    for text in texts {
        assert!(!text.chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
    }
}

#[test]
fn a_version_that_no_honest_history_reaches_is_not_believed_and_what_bears_it_is_named() {
    for version in [u32::MAX, u32::MAX - 1, VERSION_MAX + 1] {
        let mut crowd = Crowd::of(3);
        let before = crowd.hosts[0].node.overview().ring().owners();
        crowd.let_in();
        crowd.claim_all(|entry| Entry { owner: LOW, version, ..entry });
        // In the middle of a piece, where nothing was.
        let token = Address(before[1].0.start.0 + 4096);
        crowd.claim(vec![Entry { token, owner: LOW, version, free: 1 }]);
        // And the victim's own, so that it could give away nothing any more.
        crowd.claim_all(|entry| Entry { version, ..entry });
        for host in 0..3 {
            assert_eq!(crowd.hosts[host].node.overview().ring().owners(), before, "version {version}");
            let notes = crowd.notes(host);
            assert!(notes.contains("which no honest history reaches"), "{notes}");
        }
        crowd.throw_out();
        let drained = crowd.ask(2, Request::Drain, 20);
        assert!(matches!(drained, Some(Ok(Response::Moved { to: Some(_), .. }))), "{drained:?}");
        crowd.pass(5);
        assert_eq!(
            crowd.hosts[0].node.overview().ring().shares().len(),
            2,
            "it went where it was said to go"
        );
    }
}

#[test]
fn what_nobody_can_outbid_is_named_and_not_reported_as_moved() {
    let mut crowd = Crowd::of(3);
    crowd.let_in();
    let last = crowd.hosts[0].node.overview().ring().entries().len() - 1;
    let entries = crowd.hosts[0].node.overview().ring().entries().to_vec();
    let owner = |at: usize, entry: &Entry| if at == last { LOW } else { entry.owner };
    let taken: Vec<Entry> = entries
        .iter()
        .enumerate()
        .map(|(at, entry)| Entry { owner: owner(at, entry), version: VERSION_MAX, ..*entry })
        .collect();
    crowd.claim(taken);
    crowd.throw_out();
    for host in 0..3 {
        let notes = crowd.notes(host);
        assert!(notes.contains("can never change hands"), "host {host}: {notes}");
    }
    let Some(Err(refusal)) = crowd.ask(0, forget(), 60) else { panic!("nothing was taken over") };
    assert!(refusal.message.contains("still are those of"), "{refusal:?}");
    let Some(Err(refusal)) = crowd.ask(0, Request::Drain, 20) else { panic!("nothing was given away") };
    assert!(refusal.message.contains("stay with this host"), "{refusal:?}");
}

#[test]
fn a_stored_ring_with_such_a_version_counts_for_nothing_after_a_restart_and_is_named() {
    let mut crowd = Crowd::of(3);
    crowd.pass(5);
    let disks: Vec<_> = crowd.hosts.iter().map(|host| (host.name, host.saved.clone())).collect();
    let poisoned = |name: PeerName| {
        let mut disk = disks.iter().find(|(of, _)| *of == name).unwrap().1.clone();
        let mut ring: serde_json::Value = serde_json::from_slice(&disk["ring"]).unwrap();
        for entry in ring["entries"].as_array_mut().unwrap() {
            entry["version"] = u32::MAX.into();
        }
        disk.insert("ring".to_owned(), ring.to_string().into_bytes());
        disk
    };
    let mut crowd = Crowd::remembering(3, poisoned);
    assert!(crowd.notes(0).contains("which no honest history reaches"), "{}", crowd.notes(0));
    let drained = crowd.ask(2, Request::Drain, 20);
    assert!(matches!(drained, Some(Ok(Response::Moved { to: Some(_), .. }))), "{drained:?}");
    crowd.pass(5);
    for host in 0..3 {
        assert_eq!(crowd.hosts[host].node.overview().ring().shares().len(), 2, "host {host}");
    }
}

#[test]
fn owners_that_nobody_has_met_are_named_with_the_way_out() {
    let mut crowd = Crowd::of(3);
    crowd.let_in();
    let start = crowd.hosts[2].node.overview().ring().owned_by(crowd.hosts[2].name)[0].start;
    let fragment = |number: u32| Entry {
        token: Address(start.0 + 256 * (1 + number)),
        owner: PeerName::from_u64(1000 + u64::from(number)),
        version: 1,
        free: 1,
    };
    crowd.claim((0..46).map(fragment).collect());
    crowd.throw_out();
    crowd.pass(90);
    for host in 0..3 {
        let notes = crowd.notes(host);
        assert!(notes.contains("46 owners"), "host {host}: {notes}");
        assert!(notes.contains("weavers forget"), "host {host}: {notes}");
    }
    let nobody = PeerName::from_u64(1000);
    let forgotten = crowd.ask(0, Request::Forget { peer: nobody.to_string(), alone: false }, 40);
    assert!(matches!(forgotten, Some(Ok(Response::Moved { .. }))), "{forgotten:?}");
    assert!(!crowd.hosts[0].node.overview().ring().shares().contains_key(&nobody));
}

#[test]
fn a_foreign_route_over_a_64th_of_the_piece_is_a_conflict_and_the_rest_is_ready() {
    let mut crowd = Crowd::of(1);
    assert!(crowd.hosts[0].node.overview().is_ready(), "{}", crowd.notes(0));
    let foreign: Ipv4Net = "10.47.192.0/18".parse().unwrap();
    let target = weavers::state::Target::Other("pcx-77".to_owned());
    let route = weavers::state::Route { target, state: weavers::state::RouteState::Active, created: true };
    crowd.routes.insert(foreign, route);
    crowd.pass(60);
    assert!(crowd.notes(0).contains("10.47.192.0/18 -> pcx-77 is not ours"), "{}", crowd.notes(0));
    assert!(crowd.hosts[0].node.overview().is_ready(), "{}", crowd.notes(0));
    assert!(matches!(crowd.allocate(0, "c"), Some(Ok(_))), "what is beside it is handed out");

    // Over an address that is in use it is more than that.
    let route = crowd.routes.remove(&foreign).unwrap();
    crowd.routes.insert("10.32.0.0/24".parse().unwrap(), route);
    crowd.pass(60);
    assert!(!crowd.hosts[0].node.overview().is_ready());
}
