//! From Weave Net to here: what its router keeps on disk is read, by its own bytes, and what becomes of its host is said before it is done.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use ipnet::Ipv4Net;
use serde::Deserialize;
use weavers::{
    config::{self, Config},
    gob::{Encoder, Schema, Value},
    ipam::Ring,
    migrate::{
        Bridge, Database, DatabaseError, Plan, Survey, WeaveLink,
        bolt::bucket,
        database::{User, key},
        plan::{Fate, Meanwhile, Stage, objection},
    },
    node::{Node, Output, persist::memory::Memory},
    peer::{PeerName, PeerUid},
    sim::router_data,
    state::Netns,
    time::Timestamp,
};

use crate::{born::born, go::unhex};

const ME: PeerName = PeerName::from_u64(0x7a9f_ebb6_0c6e);
const OTHER: PeerName = PeerName::from_u64(2);
const RANGE: &str = "10.32.0.0/12";
/// In the half that is ours.
const WEB: &str = "10.40.0.5/12";

// ===== bolt =====

/// Files of the real library: keys that fill many pages, values that take several, buckets, changes, and what was removed.
#[test]
fn what_the_real_library_writes_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let program = built(dir.path());
    let orders = "bucket other\nput other 0-500 10 aa\nbucket top\nput top version 2 01\nput top 0-3000 40 bb\nput top long 20000 cc\n\
                  delete top 00007\nput top version 3 02\nbucket empty\n";
    let file = dir.path().join("data.db");
    write(&program, &file, orders);
    let bytes = std::fs::read(&file).unwrap();
    let pairs = bucket(&bytes, b"top").unwrap().unwrap();
    let get = |key: &str| pairs.get(key.as_bytes()).map(|value| (value.len(), value[0]));
    assert_eq!(pairs.len(), 3001);
    assert_eq!(get("version"), Some((3, 2)));
    assert_eq!(get("long"), Some((20_000, 0xcc)));
    assert_eq!((get("00000"), get("00007"), get("02999")), (Some((40, 0xbb)), None, Some((40, 0xbb))));
    assert_eq!(bucket(&bytes, b"other").unwrap().unwrap().len(), 500);
    assert_eq!(bucket(&bytes, b"empty").unwrap(), Some(BTreeMap::new()));
    assert_eq!(bucket(&bytes, b"nobody").unwrap(), None);
}

/// With few small values the bucket is a part of the page of another, as a router's is that has just begun.
#[test]
fn a_small_bucket_of_the_real_library_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("data.db");
    write(&built(dir.path()), &file, "bucket top\nput top version 2 01\n");
    let bytes = std::fs::read(&file).unwrap();
    let pairs = bucket(&bytes, b"top").unwrap().unwrap();
    assert_eq!(pairs.into_iter().collect::<Vec<_>>(), [(&b"version"[..], &[1, 1][..])]);
}

fn built(dir: &Path) -> std::path::PathBuf {
    let program = dir.join("bolt");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bolt/main.go");
    let built = Command::new("go")
        .args(["build", "-o"])
        .args([&program, &source])
        .current_dir(dir)
        .env("GO111MODULE", "off")
        .env("GOFLAGS", "")
        .env("GOTOOLCHAIN", "local")
        .env("GOPATH", "/usr/share/gocode")
        .env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go"))
        .output()
        .unwrap_or_else(|error| {
            panic!("cannot run go: {error}; apt-get install golang-go golang-github-boltdb-bolt-dev")
        });
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    program
}

fn write(program: &Path, file: &Path, orders: &str) {
    let mut writer = Command::new(program).arg(file).stdin(Stdio::piped()).spawn().unwrap();
    writer.stdin.take().unwrap().write_all(orders.as_bytes()).unwrap();
    assert!(writer.wait().unwrap().success());
}

// ===== the router's data =====

#[derive(Deserialize)]
struct Vector {
    name: String,
    hex: String,
}

/// A value as the real router has written it.
fn written_by_a_router(name: &str) -> Vec<u8> {
    let all: Vec<Vector> = serde_json::from_str(include_str!("data/ipam_messages.json")).unwrap();
    unhex(&all.iter().find(|vector| vector.name == name).unwrap().hex)
}

#[test]
fn the_values_of_a_real_router_are_read() {
    let file = router_data::bolt_file(&[
        (key::VERSION, vec![1, 0]),
        (key::NAME, written_by_a_router("db.peername")),
        (key::RING, written_by_a_router("db.ring.single")),
        (key::OWNED, written_by_a_router("db.owned")),
        ("directPeers", written_by_a_router("db.directPeers")),
        ("flag:peer-reclaim", written_by_a_router("db.flag")),
    ]);
    let database = Database::read(&file).unwrap();
    assert_eq!(database.name, PeerName::from_u64(1));
    assert_eq!(database.ring.owned_by(database.name), [RANGE.parse::<Ipv4Net>().unwrap().into()]);
    let user = User { is_container: true, addresses: vec!["10.32.0.1/12".parse().unwrap()] };
    assert_eq!(database.users, BTreeMap::from([("deadbeef".to_owned(), user)]));
}

#[test]
fn what_a_router_could_write_is_read_again() {
    for users in [0, 1, 400] {
        let users = (0..users).map(|number: u32| {
            let address = Ipv4Net::new((0x0a28_0000 + number).into(), 12).unwrap();
            (
                format!("{number:064x}"),
                User { is_container: number.is_multiple_of(2), addresses: vec![address] },
            )
        });
        let database = Database { users: users.collect(), ..database() };
        assert_eq!(Database::read(&router_data::file(&database)), Ok(database));
    }
}

#[test]
fn what_is_wrong_is_named_by_its_key() {
    let good = router_data::pairs(&database());
    let with = |key: &'static str, value: Option<Vec<u8>>| {
        let others = good.iter().filter(|(other, _)| *other != key).cloned();
        let all: Vec<_> = others.chain(value.map(|value| (key, value))).collect();
        Database::read(&router_data::bolt_file(&all)).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(with(key::VERSION, Some(vec![1, 7])), Ok(()), "a later version that does no harm");
    assert_eq!(with(key::VERSION, None), Ok(()), "and none at all, which a router takes, too");
    assert_eq!(with(key::OWNED, None), Ok(()), "nothing was in use yet");
    let refused = |key, value, words: &[&str]| {
        let error = with(key, value).unwrap_err();
        assert!(words.iter().all(|word| error.contains(word)), "{error}: {words:?}");
    };
    refused(key::VERSION, Some(vec![2, 0]), &["version", "[2, 0]"]);
    refused(key::NAME, None, &["`peername`"]);
    refused(key::RING, None, &["`ring`"]);
    for key in [key::NAME, key::RING, key::OWNED] {
        refused(key, Some(vec![0xff; 9]), &[&format!("`{key}`")]);
    }
    refused(key::RING, Some(written_by_a_router("db.ring.empty")), &["`ring`", "nobody owns anything"]);
    refused(
        key::RING,
        Some(written_by_a_router("db.ring.single")),
        &["`ring`", "00:00:00:00:00:01", "7a:9f"],
    );
    let name = Encoder::new().encode(&Schema::Uint, &Value::Uint(1 << 48));
    refused(key::NAME, Some(name), &["`peername`", "out of range"]);
    assert!(Database::read(b"no file of bolt's").unwrap_err().to_string().contains("no bolt file"));
    assert_eq!(Database::read(&router_data::bolt_file_of(b"bottom", &[])), Err(DatabaseError::NoBucket));
}

fn database() -> Database {
    Database {
        name: ME,
        ring: Ring::seeded(ME, RANGE.parse::<Ipv4Net>().unwrap().into(), [OTHER, ME]),
        users: BTreeMap::new(),
    }
}

// ===== may it be taken over? =====

fn config(more: &str) -> Config {
    config::parse(&format!("peers = ['10.0.1.12']\n{more}")).unwrap()
}

const SHARED: &str = "[mesh]\nweave_peers = true\n";

#[test]
fn data_of_another_host_and_another_range_are_refused() {
    let refusal = |config: &Config, survey: &Survey, name| {
        objection(&database(), survey, config, name).map(|refusal| refusal.message).unwrap_or_default()
    };
    let (shared, here) = (config(SHARED), bridge(false));
    assert_eq!(refusal(&shared, &here, None), "");
    assert_eq!(
        refusal(&shared, &Survey::default(), None),
        "",
        "without a bridge there is nothing to compare with"
    );
    let elsewhere =
        Survey { bridge: Some(Bridge { name: Some(OTHER), is_aws_vpc: false }), ..Survey::default() };
    assert!(refusal(&shared, &elsewhere, None).contains("bridge `weave` is that of 00:00:00:00:00:02"));
    assert_eq!(
        refusal(&shared, &elsewhere, Some(ME)),
        "",
        "a router that was given a name has another bridge"
    );
    assert!(refusal(&shared, &here, Some(OTHER)).contains("not of 00:00:00:00:00:02"));
    let named = config(&format!("{SHARED}name = '00:00:00:00:00:02'\n"));
    assert!(refusal(&named, &here, None).contains("not of 00:00:00:00:00:02"));
    let smaller = config(&format!("{SHARED}[ipam]\nrange = '10.32.0.0/13'\n"));
    assert!(refusal(&smaller, &here, None).contains("[ipam] range is 10.32.0.0/13"));
    assert!(refusal(&config(""), &here, None).contains("[mesh] weave_peers is false"));
    let mut alone = database();
    alone.ring = Ring::seeded(ME, alone.ring.universe(), [ME]);
    assert_eq!(objection(&alone, &here, &config(""), None), None, "nobody else has anything");
}

// ===== what becomes of it =====

fn bridge(is_aws_vpc: bool) -> Survey {
    Survey { bridge: Some(Bridge { name: Some(ME), is_aws_vpc }), ..Survey::default() }
}

/// A link into a namespace of this number with these addresses.
fn link(number: u64, addresses: &[&str]) -> WeaveLink {
    WeaveLink {
        host_end: (number as u32, format!("vethwepl{number}")),
        interface: (7, "ethwe".to_owned()),
        netns: Netns::new("boot", number, format!("/proc/{number}/ns/net")),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        ours: None,
    }
}

fn with_users(users: &[(&str, bool, &[&str])]) -> Database {
    let user = |(ident, is_container, addresses): &(&str, bool, &[&str])| {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        ((*ident).to_owned(), User { is_container: *is_container, addresses })
    };
    Database { users: users.iter().map(user).collect(), ..database() }
}

/// `ident address: fate` of each.
fn fates(database: &Database, survey: &Survey, stage: &Stage) -> Vec<String> {
    let plan = Plan::new(database, survey, stage);
    let fate = |fate: &Fate| match fate {
        Fate::Move { host_end, .. } => format!("move from {host_end}"),
        Fate::Moved => "moved".to_owned(),
        Fate::Keep { why } => format!("keep, {why}"),
        Fate::Free { why } => format!("free, {why}"),
    };
    plan.addresses
        .iter()
        .map(|used| format!("{} {}: {}", used.ident, used.address.addr(), fate(&used.fate)))
        .collect()
}

#[test]
fn a_container_with_its_link_is_reconnected_and_one_that_is_gone_leaves_its_address() {
    let database = with_users(&[
        ("gone", true, &["10.40.0.9/12"]),
        ("pod", false, &["10.40.0.8/12"]),
        ("web", true, &[WEB]),
        (User::EXPOSED, false, &["10.40.0.1/12"]),
    ]);
    let survey = Survey { links: vec![link(1, &[WEB])], ..bridge(false) };
    let expected = [
        "gone 10.40.0.9: free, its container is gone",
        "pod 10.40.0.8: keep, no container with it was found: `weavers ipam free` frees it",
        "weave:expose 10.40.0.1: free, the host's own address on the bridge, until that goes",
        "web 10.40.0.5: move from vethwepl1",
    ];
    assert_eq!(fates(&database, &survey, &Stage::Before), expected);
    let unread = Survey { unread: vec!["vethwepl2: it is not known where it leads".to_owned()], ..survey };
    assert_eq!(
        fates(&database, &unread, &Stage::Before)[0],
        "gone 10.40.0.9: keep, not every container could be looked at",
        "its container may be the one that was not"
    );
}

#[test]
fn what_weavers_cannot_do_for_a_container_is_not_begun() {
    let database = with_users(&[
        ("both", true, &["10.40.0.2/12", "10.40.0.3/12"]),
        ("outside", false, &["192.168.7.1/24"]),
        ("twice", true, &["10.40.0.4/12"]),
    ]);
    let links = vec![
        link(1, &["10.40.0.2/12", "10.40.0.3/12"]),
        link(2, &["10.40.0.4/12"]),
        link(3, &["10.40.0.4/12"]),
    ];
    let survey = Survey { links, ..bridge(false) };
    let fates = fates(&database, &survey, &Stage::Before);
    assert!(fates.iter().all(|fate| fate.contains(": keep, ")), "{fates:?}");
    assert_eq!(fates.len(), 4);
    let mut other = link(1, &[WEB]);
    other.ours = Some("10.40.0.77".parse().unwrap());
    let survey = Survey { links: vec![other], ..bridge(false) };
    let web = with_users(&[("web", true, &[WEB])]);
    assert!(
        self::fates(&web, &survey, &Stage::Before)[0].contains("keep, "),
        "it has a link of ours with another address"
    );
}

#[test]
fn an_address_that_the_data_have_not_is_in_use_all_the_same() {
    let survey = Survey { links: vec![link(1, &[WEB])], ..bridge(false) };
    assert_eq!(fates(&database(), &survey, &Stage::Before), ["10.40.0.5 10.40.0.5: move from vethwepl1"]);
}

#[test]
fn after_the_take_over_only_containers_are_left_to_do() {
    let database = with_users(&[("gone", true, &["10.40.0.9/12"]), ("web", true, &[WEB])]);
    let stage = Stage::TakenOver([WEB.parse::<Ipv4Net>().unwrap().addr().into()].into());
    assert_eq!(fates(&database, &bridge(false), &stage), ["web 10.40.0.5: moved"]);
    let survey = Survey { links: vec![link(1, &[WEB])], ..bridge(false) };
    assert_eq!(
        fates(&database, &survey, &stage),
        ["web 10.40.0.5: move from vethwepl1"],
        "it was interrupted before the old link went"
    );
}

#[test]
fn how_packets_pass_meanwhile_is_said_of_each_peer() {
    let meanwhile = |survey: &Survey| {
        let plan = Plan::new(&database(), survey, &Stage::Before);
        plan.peers.iter().map(|peer| (peer.name, peer.addresses, peer.meanwhile)).collect::<Vec<_>>()
    };
    let half = 1 << 19;
    assert_eq!(meanwhile(&bridge(true)), [(OTHER, half, Meanwhile::ByVpc)]);
    assert_eq!(meanwhile(&bridge(false)), [(OTHER, half, Meanwhile::NotAtAll)]);
    assert_eq!(meanwhile(&Survey::default()), [(OTHER, half, Meanwhile::Unknown)]);
}

/// The store that is written is one that weavers starts from: as the same peer, with the same ring, and every address that is in use.
#[test]
fn weavers_starts_from_what_was_written_as_the_peer_that_the_router_was() {
    let database = with_users(&[
        ("gone", true, &["10.40.0.9/12"]),
        ("outside", false, &["192.168.7.1/24"]),
        ("pod", false, &["10.40.0.8/12"]),
        ("web", true, &[WEB]),
    ]);
    let survey = Survey { links: vec![link(1, &[WEB])], ..bridge(false) };
    let records = Plan::new(&database, &survey, &Stage::Before).records(&database, PeerUid(5));
    let records = records.into_iter().filter_map(|write| Some((write.key, write.value?))).collect();
    let memory = Memory::read(&records).unwrap();
    let identity = memory.identity.clone().unwrap();
    assert_eq!((identity.name, identity.acceptor), (ME, PeerUid(5)));
    let users: Vec<&str> = memory.ipam.allocations.keys().map(String::as_str).collect();
    assert_eq!(users, ["pod", "web"], "what is free or outside the range is not weavers' to note");
    let mut node = Node::new(Timestamp::ZERO, born(identity), config(SHARED), memory).unwrap();
    while let Some(output) = node.next_output() {
        assert!(!matches!(output, Output::Stop(_)), "{output:?}");
    }
    let status = node.status();
    assert_eq!(status.name, ME);
    assert_eq!(status.ipam.owned, ["10.40.0.0/13".parse().unwrap()]);
    assert_eq!(status.ipam.used, 2);
}
