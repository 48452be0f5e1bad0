//! In one mesh with peers that others wrote: Debian's `golang-github-weaveworks-mesh-dev`, on loopback.
//!
//! `tests/mesh` is such a peer; ours are [`Mesh`](weavers::mesh::Mesh) or [`Node`](weavers::node::Node) behind
//! the real [`Transport`](weavers::transport::Transport). Without the package these tests fail.

mod addresses;
mod ours;
mod theirs;
mod wire;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        OnceLock,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::Handle;
use weavers::{
    mesh::{Kind, OVERLAY, Objection, Recipients, RefusedView, SLEEVE, Settings, TargetState},
    peer::PeerName,
};

pub use self::ours::{Ours, Talker, Whole, settings};
use self::{ours::CHANNEL, theirs::Theirs, wire::Wire};

/// All peers listen on it, each on an address of its own.
const PORT: u16 = 16783;
const SOON: Duration = Duration::from_secs(40);

/// An address of 127.0.0.0/8 that no other test has, nor one of another process.
fn free_address() -> SocketAddr {
    static LAST: AtomicU8 = AtomicU8::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    assert!(number < 255, "the tests have used up a /24");
    let [.., b, c] = std::process::id().to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(127, b, c, number), PORT))
}

/// Where our sockets are served: a thread of its own, for as long as the tests run.
fn runtime() -> &'static Handle {
    static RUNTIME: OnceLock<Handle> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
        handle
    })
}

/// Waits until it happens.
pub fn eventually(what: &str, mut happens: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happens() {
        assert!(start.elapsed() < SOON, "it should have come true: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn ours(number: u64) -> Ours<Talker> {
    Ours::<Talker>::start(settings(number))
}

/// A peer of theirs that takes part in our channel.
fn theirs(number: u64) -> Theirs {
    Theirs::start(number, &["-channels", CHANNEL])
}

fn wait_for_connection(ours: &Ours<Talker>, theirs: &mut Theirs) {
    eventually("both ends call it established", || {
        ours.is_connected_to(theirs.name) && theirs.is_connected_to(ours.name)
    });
}

// ===== connections =====

#[test]
fn we_are_introduced_whoever_dials_in_both_versions_with_and_without_a_password() {
    for (case, version_1, password, they_dial) in
        (0..8).map(|case| (case, case & 1 == 1, case & 2 == 2, case & 4 == 4))
    {
        let secret = password.then(|| b"open sesame".to_vec());
        // Only where routers of Weave Net are welcome is version 1 spoken; these keep no overlay up.
        let overlays = if version_1 { vec![OVERLAY, SLEEVE] } else { vec![OVERLAY] };
        let overlays = overlays.into_iter().map(str::to_owned).collect();
        let ours = Ours::<Talker>::start(Settings { password: secret, overlays, ..settings(1) });
        let flags = ["-channels", CHANNEL, "-password", if password { "open sesame" } else { "" }];
        let mut theirs = Theirs::start(2, &flags);
        ours.with(|talker, _| talker.state = b"our state".to_vec());
        theirs.set_state(CHANNEL, b"their state");
        let far = if they_dial { ours.address } else { theirs.address };
        let wire = if version_1 { Wire::of_version_1(far) } else { Wire::to(far) };
        if they_dial {
            theirs.dial(wire.address)
        } else {
            ours.dial(&[wire.address])
        }
        eventually("both ends are introduced", || {
            ours.introduced() == [(theirs.name, password)] && theirs.is_connected_to(ours.name)
        });
        let version = if version_1 { "protocol version 1" } else { "protocol version 2" };
        assert!(theirs.logged(version), "case {case}");
        eventually("each knows the other's state", || {
            let heard = theirs.heard("gossip", CHANNEL);
            ours.has_heard_gossip(b"their state") && heard.contains(&b"our state".to_vec())
        });
        let mut unicasts = || {
            ours.with(|talker, _| talker.mesh.unicast(theirs.name, CHANNEL, b"to you").unwrap());
            theirs.unicast(CHANNEL, ours.name, b"and to you");
            thread::sleep(Duration::from_millis(50));
            theirs.heard("unicast", CHANNEL).contains(&b"to you".to_vec())
                && ours.has_heard(Kind::Unicast { from: theirs.name }, b"and to you")
        };
        eventually("they talk to each other", &mut unicasts);
    }
}

#[test]
fn another_password_or_none_is_refused_by_both_and_named_here() {
    for (here, there, reason) in [
        ("one", "other", "password"),
        ("one", "", "we have a password and the other side has none"),
        ("", "one", "the other side has a password and we have none"),
    ] {
        let secret = Some(here.as_bytes().to_vec()).filter(|secret| !secret.is_empty());
        let ours = Ours::<Talker>::start(Settings { password: secret, ..settings(1) });
        let mut theirs = Theirs::start(2, &["-password", there]);
        ours.dial(&[theirs.address]);
        // Whoever notices first closes, so what the other sees is a closed connection now and then.
        eventually(reason, || ours.target().error.is_some_and(|error| error.contains("password")));
        assert!(ours.neighbours().is_empty() && theirs.neighbours().is_empty());
        eventually("so is theirs", || theirs.logged("connection shutting down due to error"));
    }
}

#[test]
fn the_overlay_encrypts_unless_both_trust_the_network() {
    let trust = ["-trusted", "127.0.0.0/8"];
    for (we_trust, they_trust, flags) in
        [(true, true, &trust[..]), (true, false, &[]), (false, true, &trust[..])]
    {
        let trusted_subnets = if we_trust { vec!["127.0.0.0/8".parse().unwrap()] } else { Vec::new() };
        let password = Some(b"secret".to_vec());
        let ours = Ours::<Talker>::start(Settings { password, trusted_subnets, ..settings(1) });
        let mut theirs = Theirs::start(2, &[&["-password", "secret"], flags].concat());
        ours.dial(&[theirs.address]);
        wait_for_connection(&ours, &mut theirs);
        assert_eq!(ours.neighbours(), [(theirs.name, true)], "the stream is encrypted all the same");
        let met = theirs.events("connection");
        assert_eq!(met[0]["secret"], !(we_trust && they_trust), "we {we_trust}, they {they_trust}");
        assert_eq!(met[0]["offers"], "weavers");
    }
}

#[test]
fn a_peer_of_theirs_without_an_overlay_in_common_is_turned_away_and_named() {
    let ours = ours(1);
    for (number, offered, common) in
        [(2, "fastdp sleeve", false), (3, "awsvpc", false), (4, "fastdp weavers", true)]
    {
        let mut theirs = Theirs::start(number, &["-overlays", offered]);
        theirs.dial(ours.address);
        if common {
            wait_for_connection(&ours, &mut theirs);
            continue;
        }
        let named = |refused: &RefusedView| {
            let wanted = Objection::Overlay { theirs: offered.to_owned(), ours: "weavers".to_owned() };
            refused.peer == theirs.name && refused.objection == wanted
        };
        eventually("it is named", || ours.with(|talker, now| talker.mesh.refused(now).any(named)));
        assert!(!ours.is_connected_to(theirs.name));
    }
}

#[test]
fn a_router_is_established_by_heartbeats_over_udp_that_go_understands() {
    let trusted: [&[&str]; 2] = [&[], &["-trusted", "127.0.0.0/8"]];
    for (password, trust, they_dial) in
        [("", 0, false), ("", 0, true), ("secret", 0, false), ("secret", 0, true), ("secret", 1, true)]
    {
        let ours = Ours::<Talker>::start(Settings {
            password: (!password.is_empty()).then(|| password.as_bytes().to_vec()),
            trusted_subnets: if trust == 1 { vec!["127.0.0.0/8".parse().unwrap()] } else { Vec::new() },
            overlays: vec![OVERLAY.to_owned(), SLEEVE.to_owned()],
            ..settings(1)
        });
        let flags = ["-overlays", "fastdp sleeve", "-sleeve", "-password", password];
        let mut theirs = Theirs::start(2, &[&flags, trusted[trust]].concat());
        if they_dial {
            theirs.dial(ours.address)
        } else {
            ours.dial(&[theirs.address])
        }
        wait_for_connection(&ours, &mut theirs);
        assert!(
            !theirs.logged("strange") && !theirs.logged("cannot be opened"),
            "{:?}",
            theirs.events("log")
        );
        let described = links(&theirs.status());
        eventually("we ask for no packets", || links(&theirs.status()).contains(&(1, 2, false)));
        assert!(described.contains(&(2, 1, true)), "{described:?}");
    }
}

#[test]
fn of_two_connections_dialled_at_once_both_ends_keep_one() {
    for round in 0..5 {
        let (ours, mut theirs) = (ours(1), theirs(2));
        theirs.dial(ours.address);
        ours.dial(&[theirs.address]);
        wait_for_connection(&ours, &mut theirs);
        // What lost is gone, and is not dialled again and again.
        thread::sleep(Duration::from_millis(1500));
        assert_eq!(ours.neighbours().len(), 1, "round {round}");
        assert!(ours.is_connected_to(theirs.name) && theirs.is_connected_to(ours.name), "round {round}");
        assert_eq!(theirs.neighbours(), [ours.name.to_string()], "round {round}");
    }
}

#[test]
fn a_peer_of_theirs_with_our_name_is_refused_whoever_dials() {
    let (here, mut there) = (ours(1), theirs(1));
    here.dial(&[there.address]);
    eventually("we give it up", || here.target().state == TargetState::Suspended);
    assert!(here.target().error.unwrap().contains("another peer has our name 00:00:00:00:00:01"));
    there.dial(here.address);
    eventually("it is closed there", || {
        there.logged("peer names collision") || there.logged("reset by peer")
    });
    assert!(here.neighbours().is_empty() && there.neighbours().is_empty());
}

#[test]
fn the_connection_limit_of_either_side_holds() {
    let (first, second) = (ours(1), ours(2));
    let mut narrow = Theirs::start(3, &["-conn-limit", "1"]);
    first.dial(&[narrow.address]);
    wait_for_connection(&first, &mut narrow);
    second.dial(&[narrow.address]);
    eventually("the second is turned away", || narrow.logged("Connection limit reached"));
    assert!(!narrow.is_connected_to(second.name) && narrow.is_connected_to(first.name));

    let narrow = Ours::<Talker>::start(Settings { conn_limit: 1, ..settings(4) });
    let (mut first, mut second) = (theirs(5), theirs(6));
    first.dial(narrow.address);
    wait_for_connection(&narrow, &mut first);
    second.dial(narrow.address);
    eventually("the second is turned away", || second.logged("shutting down due to error"));
    assert_eq!(narrow.neighbours(), [(first.name, false)]);
}

#[test]
fn a_silent_peer_of_theirs_is_given_the_time_that_it_takes_itself() {
    let (ours, mut theirs) = (ours(1), theirs(2));
    let wire = Wire::to(theirs.address);
    ours.dial(&[wire.address]);
    wait_for_connection(&ours, &mut theirs);
    wire.cut();
    // Their heartbeats are 30 s apart.
    thread::sleep(Duration::from_secs(12));
    assert!(ours.is_connected_to(theirs.name) && theirs.is_connected_to(ours.name));
}

// ===== who is in the mesh =====

#[test]
fn three_of_theirs_and_three_of_ours_come_to_know_the_same_mesh() {
    let all_ours = [ours(1), ours(3), ours(5)];
    let mut all_theirs = [theirs(2), theirs(4), theirs(6)];
    // A ring: 1 - 2 - 3 - 4 - 5 - 6 - 1.
    for at in 0..3 {
        all_ours[at].dial(&[all_theirs[at].address]);
        all_theirs[at].dial(all_ours[(at + 1) % 3].address);
    }
    let six: BTreeSet<u64> = (1..=6).collect();
    for theirs in &mut all_theirs {
        eventually("they know six peers and twelve links", || links(&theirs.status()).len() == 12);
        let status = theirs.status();
        let known: BTreeSet<u64> = status["Peers"].as_array().unwrap().iter().map(number).collect();
        assert_eq!(known, six);
        assert!(links(&status).iter().all(|(_, _, established)| *established), "{:?}", links(&status));
    }
    let described = described(&all_theirs[0].status());
    for theirs in &mut all_theirs {
        assert_eq!(self::described(&theirs.status()), described);
    }
    for ours in &all_ours {
        eventually("we know five others, all in reach", || {
            ours.with(|talker, _| talker.mesh.reachable().len() == 5)
        });
        let known: BTreeSet<_> = ours.with(|talker, _| {
            talker.mesh.peers().map(|peer| (peer.name.to_string(), peer.uid.0, peer.nickname)).collect()
        });
        let others = described.iter().filter(|(name, ..)| *name != ours.name.to_string());
        assert_eq!(known, others.cloned().collect::<BTreeSet<_>>());
    }
}

fn number(peer: &serde_json::Value) -> u64 {
    peer["Name"].as_str().unwrap().parse::<PeerName>().unwrap().as_u64()
}

/// Who is connected to whom, and whether it calls that established.
fn links(status: &serde_json::Value) -> BTreeSet<(u64, u64, bool)> {
    let mut links = BTreeSet::new();
    for peer in status["Peers"].as_array().unwrap() {
        for link in peer["Connections"].as_array().into_iter().flatten() {
            links.insert((number(peer), number(link), link["Established"].as_bool().unwrap()));
        }
    }
    links
}

/// Name, life and nickname of each peer.
fn described(status: &serde_json::Value) -> BTreeSet<(String, u64, String)> {
    let peers = status["Peers"].as_array().unwrap().iter();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    peers.map(|peer| (text(&peer["Name"]), peer["UID"].as_u64().unwrap(), text(&peer["NickName"]))).collect()
}

#[test]
fn peers_find_each_other_through_one_of_either_kind() {
    let found = |number| Settings { discovery: true, ..settings(number) };
    let (first, last) = (Ours::<Talker>::start(found(1)), Ours::<Talker>::start(found(3)));
    let middle = theirs(2);
    first.dial(&[middle.address]);
    last.dial(&[middle.address]);
    eventually("ours find each other", || {
        first.is_connected_to(last.name) && last.is_connected_to(first.name)
    });

    let middle_of_ours = ours(5);
    let flags = ["-channels", CHANNEL, "-discovery"];
    let (mut first, mut last) = (Theirs::start(4, &flags), Theirs::start(6, &flags));
    first.dial(middle_of_ours.address);
    last.dial(middle_of_ours.address);
    eventually("theirs find each other", || first.is_connected_to(last.name));
    drop(middle);
    eventually("and have one connection", || last.is_connected_to(first.name));
}

#[test]
fn a_peer_that_leaves_is_forgotten_at_both_ends_of_a_chain() {
    // 1 - 2 - 3 - 4, ours and theirs in turn.
    let (first, third) = (ours(1), ours(3));
    let (mut second, mut fourth) = (theirs(2), theirs(4));
    first.dial(&[second.address]);
    third.dial(&[second.address, fourth.address]);
    let knows =
        |ours: &Ours<Talker>, name| ours.with(|talker, _| talker.mesh.peers().any(|p| p.name == name));
    eventually("all know all", || {
        first.with(|talker, _| talker.mesh.reachable().len() == 3)
            && described(&fourth.status()).len() == 4
            && knows(&third, first.name)
    });
    let gone = first.name;
    drop(first);
    eventually("it is forgotten", || {
        !knows(&third, gone)
            && described(&second.status()).len() == 3
            && described(&fourth.status()).len() == 3
    });
    let gone = fourth.name;
    drop(fourth);
    eventually("so is one of theirs", || !knows(&third, gone) && described(&second.status()).len() == 2);
}

#[test]
fn a_peer_of_ours_that_restarts_is_heard_again_by_theirs() {
    let (first, third) = (ours(1), ours(3));
    let (mut second, fourth, fifth) = (theirs(2), theirs(4), theirs(5));
    third.dial(&[second.address]);
    wait_for_connection(&third, &mut second);
    // Each connection is a new description: the next life begins with fewer.
    first.dial(&[fourth.address, fifth.address, second.address]);
    eventually("it describes three connections", || {
        first.neighbours().len() == 3 && links(&second.status()).len() == 8
    });
    drop(first);
    let again = ours(1);
    again.dial(&[second.address]);
    wait_for_connection(&again, &mut second);
    eventually("the new life is in reach of all", || {
        third.with(|talker, _| talker.mesh.is_reachable(again.name))
            && again.with(|talker, _| talker.mesh.is_reachable(third.name))
            && links(&second.status()).contains(&(1, 2, true))
    });
}

// ===== relaying =====

#[test]
fn theirs_pass_on_for_us_on_a_channel_that_they_do_not_know() {
    let (first, mut middle, last) = (ours(1), Theirs::start(2, &[]), ours(3));
    first.dial(&[middle.address]);
    last.dial(&[middle.address]);
    wait_for_connection(&first, &mut middle);
    wait_for_connection(&last, &mut middle);
    assert_passed_on(&first, &last);
    assert!(middle.logged("created surrogate channel"));
}

#[test]
fn theirs_pass_on_for_us_on_a_channel_that_they_know() {
    let (first, mut middle, last) = (ours(1), theirs(2), ours(3));
    first.dial(&[middle.address]);
    last.dial(&[middle.address]);
    wait_for_connection(&first, &mut middle);
    wait_for_connection(&last, &mut middle);
    assert_passed_on(&first, &last);
    assert!(middle.heard("broadcast", CHANNEL).contains(&b"to all".to_vec()));
}

fn assert_passed_on(first: &Ours<Talker>, last: &Ours<Talker>) {
    eventually("they are in reach", || first.with(|talker, _| talker.mesh.is_reachable(last.name)));
    eventually("all three kinds arrive", || {
        first.with(|talker, _| {
            talker.mesh.unicast(last.name, CHANNEL, b"to you").unwrap();
            talker.mesh.broadcast(first.name, CHANNEL, b"to all");
            talker.mesh.gossip(Recipients::Neighbours { except: None }, CHANNEL, b"to some");
        });
        thread::sleep(Duration::from_millis(50));
        last.has_heard(Kind::Unicast { from: first.name }, b"to you")
            && last.has_heard(Kind::Broadcast { from: first.name }, b"to all")
            && last.has_heard_gossip(b"to some")
    });
}

#[test]
fn we_pass_on_for_theirs_on_channels_that_we_know_and_that_we_do_not() {
    for channel in [CHANNEL, "nameserver"] {
        let middle = ours(2);
        let flags = ["-channels", channel];
        let (mut first, mut last) = (Theirs::start(1, &flags), Theirs::start(3, &flags));
        last.dial(middle.address);
        wait_for_connection(&middle, &mut last);
        // Gossip goes out with the connection, when the last is there already.
        first.set_state(channel, b"to some");
        first.dial(middle.address);
        wait_for_connection(&middle, &mut first);
        eventually("gossip arrives", || last.heard("gossip", channel).contains(&b"to some".to_vec()));
        eventually("unicasts and broadcasts arrive", || {
            first.unicast(channel, last.name, b"to you");
            first.broadcast(channel, b"to all");
            thread::sleep(Duration::from_millis(50));
            last.heard("unicast", channel).contains(&b"to you".to_vec())
                && last.heard("broadcast", channel).contains(&b"to all".to_vec())
        });
        let from = |event: &serde_json::Value| event["from"].as_str().unwrap().to_owned();
        for kind in ["unicast", "broadcast"] {
            assert!(last.events(kind).iter().all(|event| from(event) == first.name.to_string()), "{channel}");
        }
        assert_eq!(first.heard("broadcast", channel), [[0; 0]; 0], "it does not come back");
    }
}
