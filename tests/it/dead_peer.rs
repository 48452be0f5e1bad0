//! What one host makes of what EC2 says of another that it does not hear, and how it comes to know of which
//! instance to ask.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use ipnet::Ipv4Net;
use serde_json::json;
use weavers::{
    addr::Address,
    config,
    mesh::{self, ConnId, Hosts},
    node::{
        Birth, DEAD_CHANNEL, Input, Node, Output,
        persist::memory::{Identity, Memory},
        protocol::{
            request::{Pool, Refusal, RefusalKind, Request, RequestId, Response},
            status::Note,
        },
    },
    peer::{PeerName, PeerUid},
    state::{self, Action, Fault, FaultKind, HostAction, InstanceState, InterfaceId, Vpc},
    time::Timestamp,
};

const US: PeerName = PeerName::from_u64(1);
const OTHER: PeerName = PeerName::from_u64(2);
const NEWCOMER: PeerName = PeerName::from_u64(3);
/// Their instances.
const OURS: &str = "i-1";
const THEIRS: &str = "i-2";
/// Each of them was up all the time.
const BOOT: &str = "boot";
/// A host that is listed by name.
const NAME: &str = "worker.internal";

#[test]
fn nobody_is_given_up_before_ec2_was_asked_about_its_instance() {
    let mut host = Host::of_two(US);
    host.tell(Input::Asked(RequestId(1), forget()));
    assert_eq!(host.looks, [BTreeSet::from([OURS.to_owned(), THEIRS.to_owned()])]);
    assert!(host.owners().contains(&OTHER));
    host.tell(Input::InstancesSeen(Ok(running(&[OURS, THEIRS]))));
    let [Err(refusal)] = host.answers.as_slice() else { panic!("{:?}", host.answers) };
    assert_eq!(refusal.kind, RefusalKind::Unsafe);
    assert!(host.owners().contains(&OTHER), "its instance runs");

    host.pass(10);
    host.tell(Input::Asked(RequestId(2), forget()));
    host.tell(Input::InstancesSeen(Ok(running(&[OURS]))));
    assert!(matches!(host.answers.as_slice(), [_, Ok(Response::Moved { to: Some(US), .. })]));
    assert_eq!(host.owners(), [US].into());
}

#[test]
fn a_host_that_was_booted_where_nobody_else_is_left_gives_the_dead_up_after_a_minute_and_says_so_before() {
    let mut disk = Host::disk_of(US);
    let before = String::from_utf8(disk["decided"].clone()).unwrap();
    let before = before.replace(&format!("\"boot\":\"{BOOT}\""), "\"boot\":\"the last one\"");
    disk.insert("decided".to_owned(), before.into_bytes());
    let mut host = Host::new(US, &Host::init(), disk, US.as_u64());
    host.tell(Input::Asked(RequestId(1), forget()));
    host.tell(Input::InstancesSeen(Ok(running(&[OURS]))));
    host.pass(40);
    let [Err(refusal)] = host.answers.as_slice() else { panic!("{:?}", host.answers) };
    assert!(refusal.hint.as_ref().unwrap().contains("try again in a minute"), "{refusal:?}");
    assert!(host.owners().contains(&OTHER));
    host.pass(25);
    assert_eq!(host.owners(), [US].into());
}

#[test]
fn one_that_is_not_heard_and_of_whose_instance_nobody_knows_is_named_with_the_way_out() {
    let mut host = Host::of_two(OTHER);
    let names_it = |host: &Host| {
        let named = |note: &Note| note.what.contains("which instance") && note.what.contains(&US.to_string());
        host.node.status().problems.iter().any(named)
    };
    host.pass(10);
    assert!(!names_it(&host), "it may come any moment");
    host.pass(15);
    assert!(names_it(&host), "{:?}", host.node.status().problems);
}

#[test]
fn where_weave_net_routers_share_the_cluster_whoever_is_not_heard_is_named_with_the_way_out() {
    let mut host = Host::among_routers(US);
    let names_it = |host: &Host| {
        let way_out = format!("weavers forget {OTHER}");
        let problems = host.node.status().problems;
        problems.iter().any(|note| note.hint.as_ref().is_some_and(|hint| hint.contains(&way_out)))
    };
    host.pass(30);
    assert!(!names_it(&host), "it may come any moment");
    host.pass(60);
    assert!(names_it(&host), "{:?}", host.node.status().problems);
    let mut other = Host::among_routers(OTHER);
    host.meet(&mut other);
    host.talk(&mut other, 2, |_| true);
    assert!(!names_it(&host), "{:?}", host.node.status().problems);
}

#[test]
fn an_ec2_that_does_not_know_our_own_instance_is_not_believed_about_others() {
    let mut host = Host::of_two(US);
    host.pass(30);
    assert!(!host.looks.is_empty(), "it has not heard the other for a while");
    for _ in 0..10 {
        host.tell(Input::InstancesSeen(Ok(BTreeMap::new())));
        host.pass(61);
    }
    assert!(host.owners().contains(&OTHER));
    host.tell(Input::InstancesSeen(Ok(running(&[OURS]))));
    assert_eq!(host.owners(), [US].into());
}

#[test]
fn whoever_missed_what_a_peer_said_of_its_instance_hears_it_again() {
    let (mut one, mut other) = (Host::of_two(US), Host::of_two(OTHER));
    one.meet(&mut other);
    let says_nothing =
        |bytes: &[u8]| !bytes.windows(DEAD_CHANNEL.len()).any(|at| at == DEAD_CHANNEL.as_bytes());
    one.talk(&mut other, 5, says_nothing);
    assert_eq!((&one.closed, &other.closed), (&Vec::new(), &Vec::new()));
    let known = |other: &Host| other.disk.get(&format!("instance/{US}")).cloned();
    assert_eq!(known(&other), None);
    one.talk(&mut other, 120, |_| true);
    assert_eq!(known(&other), Some(json!(OURS).to_string().into_bytes()));
}

#[test]
fn what_the_dead_gave_to_a_host_that_nobody_heard_of_is_used_by_nobody_else() {
    let (mut heir, mut dead, mut newcomer) = (Host::of_two(US), Host::of_two(OTHER), Host::newcomer());
    let given = newcomer.is_given_an_address(&mut dead, &mut heir);

    heir.running = [address(NEWCOMER)].into();
    heir.pass(30);
    heir.tell(Input::InstancesSeen(Ok(running(&[OURS]))));
    assert_eq!(heir.node.overview().ring().owner(given), Some(US), "it has not heard of the newcomer");
    let rests = |heir: &Host| heir.node.overview().quarantined().iter().any(|range| range.contains(given));
    heir.pass(600);
    assert!(rests(&heir));
    assert!(
        heir.node.overview().waits().iter().any(|wait| wait.what.contains("10.0.0.3")),
        "{:?}",
        heir.node.overview().waits()
    );

    assert!(!heir.keeps_to_itself(given), "packets of its own containers reach it");
    assert_ne!(heir.blocks, BTreeSet::new(), "it has what it had before");
    let claim = Request::Claim { ident: "container".to_owned(), address: given };
    heir.tell(Input::Asked(RequestId(1), claim));
    let names =
        |note: &Note| note.what.contains("container, which nobody may use yet") && note.hint.is_none();
    assert!(heir.node.overview().waits().iter().any(names), "{:?}", heir.node.overview().waits());

    heir.meet(&mut newcomer);
    heir.talk(&mut newcomer, 5, |_| true);
    assert_eq!(heir.node.overview().ring().owner(given), Some(NEWCOMER));
    assert_eq!(newcomer.node.overview().ring().owner(given), Some(NEWCOMER));
    assert!(!rests(&heir));
}

#[test]
fn what_was_taken_over_is_used_once_no_host_runs_that_was_not_heard() {
    let mut heir = Host::of_two(US);
    heir.running = [address(NEWCOMER)].into();
    heir.pass(30);
    heir.tell(Input::InstancesSeen(Ok(running(&[OURS]))));
    assert_eq!(heir.owners(), [US].into());
    let listed = [address(OTHER), address(NEWCOMER)].into();
    assert_eq!(heir.asked_running, [listed]);
    assert!(!heir.node.overview().quarantined().is_empty(), "one that is listed runs");
    heir.running.clear();
    heir.pass(120);
    assert!(heir.node.overview().quarantined().is_empty());
    let looks = heir.asked_running.len();
    heir.pass(600);
    assert_eq!(heir.asked_running.len(), looks, "nobody is looked for any more");
}

#[test]
fn what_was_taken_over_rests_while_a_host_that_is_listed_by_name_was_never_met() {
    let mut heir = Host::listing(
        &[address(OTHER).to_string(), NAME.to_owned()],
        US,
        &Host::init(),
        Host::disk_of(US),
        1,
    );
    heir.pass(30);
    heir.tell(Input::InstancesSeen(Ok(running(&[OURS]))));
    assert_eq!(heir.owners(), [US].into());
    heir.pass(300);
    assert!(!heir.node.overview().quarantined().is_empty(), "nobody knows where it is");
    let problems = heir.node.status().problems;
    let named = problems.iter().find(|note| note.what.contains(NAME)).expect("it is named");
    assert!(named.hint.as_ref().unwrap().contains(&format!("getent ahosts {NAME}")));
    heir.names = [(NAME.to_owned(), address(NEWCOMER).into())].into();
    heir.running = [address(NEWCOMER)].into();
    heir.pass(300);
    assert!(!heir.node.overview().quarantined().is_empty(), "it runs and is not heard");
    assert!(!heir.node.status().problems.iter().any(|note| note.what.contains(NAME)));
    assert!(
        heir.node.overview().waits().iter().any(|wait| wait.what.contains(&address(NEWCOMER).to_string()))
    );
    heir.running.clear();
    heir.pass(300);
    assert_eq!(heir.node.overview().quarantined(), []);
}

#[test]
fn what_was_taken_over_rests_while_a_name_that_is_listed_stands_for_a_host_of_which_ec2_cannot_be_asked() {
    let mut heir = Host::listing(&[NAME], US, &Host::init(), Host::disk_of(US), 1);
    heir.names = [(NAME.to_owned(), "fd00::9".parse().unwrap())].into();
    heir.pass(30);
    heir.tell(Input::InstancesSeen(Ok(running(&[OURS]))));
    heir.pass(300);
    assert!(!heir.node.overview().quarantined().is_empty());
    assert!(heir.node.status().problems.iter().any(|note| note.what.contains("fd00::9")));
}

#[test]
fn of_many_hosts_that_are_not_heard_every_single_one_is_asked_about() {
    let (mut heir, last) = Host::of_two_among_many(US);
    heir.running = [last].into();
    heir.pass(30);
    heir.tell(Input::InstancesSeen(Ok(running(&[OURS]))));
    assert_eq!(heir.owners(), [US].into());
    heir.pass(300);
    assert!(!heir.node.overview().quarantined().is_empty(), "the last one that is listed runs");
    assert!(heir.asked_running.iter().all(|asked| asked.len() <= 1000));
    assert!(heir.node.overview().waits().iter().any(|wait| wait.what.contains(&last.to_string())));
    heir.running.clear();
    heir.pass(300);
    assert_eq!(heir.node.overview().quarantined(), []);
}

#[test]
fn while_ec2_says_of_nobody_whether_it_runs_all_rests_and_ec2_is_asked_seldom() {
    let (mut heir, _) = Host::of_two_among_many(US);
    heir.is_ec2_away = true;
    heir.pass(30);
    heir.tell(Input::InstancesSeen(Ok(running(&[OURS]))));
    heir.pass(300);
    assert!(!heir.node.overview().quarantined().is_empty());
    assert!((2..20).contains(&heir.asked_running.len()), "{}", heir.asked_running.len());
    heir.is_ec2_away = false;
    heir.pass(300);
    assert_eq!(heir.node.overview().quarantined(), []);
}

#[test]
fn what_a_host_gave_away_before_it_lost_its_store_is_not_its_own_again() {
    let (mut donor, mut other, mut newcomer) = (Host::of_two(OTHER), Host::of_two(US), Host::newcomer());
    let given = newcomer.is_given_an_address(&mut donor, &mut other);

    let mut donor = Host::reborn(OTHER);
    donor.running = [address(NEWCOMER)].into();
    other.meet(&mut donor);
    other.talk(&mut donor, 5, |_| true);
    assert_eq!(donor.node.overview().ring().owner(given), Some(OTHER), "neither has heard of the newcomer");
    let rests = |host: &Host| host.node.overview().quarantined().iter().any(|range| range.contains(given));
    assert!(rests(&donor) && !rests(&other));
    assert!(!donor.keeps_to_itself(given), "packets of its own containers reach it");
    other.part(&mut donor);
    newcomer.meet(&mut donor);
    newcomer.talk(&mut donor, 5, |_| true);
    assert_eq!(donor.node.overview().ring().owner(given), Some(NEWCOMER));
    assert!(!rests(&donor));
    assert_ne!(donor.blocks, BTreeSet::new(), "it has the rest of what it owned");
}

#[test]
fn of_what_rests_at_another_host_nobody_is_told_that_it_is_in_use() {
    let (mut one, mut other) = (Host::of_two(US), Host::of_two(OTHER));
    one.meet(&mut other);
    one.talk(&mut other, 5, |_| true);
    one.part(&mut other);

    let mut reborn = Host::reborn(OTHER);
    reborn.running = [address(NEWCOMER)].into();
    one.meet(&mut reborn);
    one.talk(&mut reborn, 5, |_| true);
    let [rests] = reborn.node.overview().quarantined() else {
        panic!("{:?}", reborn.node.overview().quarantined())
    };
    let subnet = Ipv4Net::new(rests.start.into(), 24).unwrap();
    let request = Request::Allocate { ident: "container".to_owned(), subnet: Some(Pool::Cidr(subnet)) };
    one.tell(Input::Asked(RequestId(1), request));
    one.talk(&mut reborn, 5, |_| true);
    let [Err(refusal)] = one.answers.as_slice() else { panic!("{:?}", one.answers) };
    assert!(
        refusal.message.starts_with(&format!("no address of {subnet} is free to be given")),
        "{refusal:?}"
    );
}

#[test]
fn nothing_rests_on_a_host_that_is_started_again_or_that_is_new() {
    let (mut one, mut other) = (Host::of_two(US), Host::of_two(OTHER));
    one.meet(&mut other);
    one.talk(&mut other, 5, |_| true);
    one.part(&mut other);
    // Each remembers the other's instance only.
    let (mut one, mut again) = (Host::again(one), Host::again(other));
    one.meet(&mut again);
    one.talk(&mut again, 5, |_| true);
    assert_eq!(again.node.overview().quarantined(), []);
    assert_eq!(one.node.overview().quarantined(), []);
}

fn forget() -> Request {
    Request::Forget { peer: OTHER.to_string(), alone: false }
}

fn running(instances: &[&str]) -> BTreeMap<String, InstanceState> {
    instances.iter().map(|instance| ((*instance).to_owned(), InstanceState::Running)).collect()
}

fn no_answer() -> Fault {
    let message = "no answer".to_owned();
    Fault { kind: FaultKind::Unreachable, message, hint: None, request_id: None }
}

/// Where a host is: at the address that ends with its name.
fn address(host: PeerName) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, host.as_u64() as u8)
}

/// A host, and what it asked for.
struct Host {
    name: PeerName,
    conn: ConnId,
    node: Node,
    now: Timestamp,
    disk: BTreeMap<String, Vec<u8>>,
    looks: Vec<BTreeSet<String>>,
    /// Which instances run.
    running: BTreeSet<Ipv4Addr>,
    /// What the name server knows.
    names: BTreeMap<String, IpAddr>,
    asked_running: Vec<BTreeSet<Ipv4Addr>>,
    is_ec2_away: bool,
    answers: Vec<Result<Response, Refusal>>,
    /// What no packet leaves the host for.
    blocks: BTreeSet<ipnet::IpNet>,
    sent: Vec<Vec<u8>>,
    closed: Vec<String>,
}

impl Host {
    /// One of two that share the range. The first of them decides about the dead, and remembers the instance of the
    /// other.
    fn of_two(me: PeerName) -> Host {
        Host::new(me, &Host::init(), Host::disk_of(me), me.as_u64())
    }

    /// The same after its store was lost.
    fn reborn(me: PeerName) -> Host {
        Host::new(me, "init = 'observer'", BTreeMap::new(), 100 + me.as_u64())
    }

    /// The same with its store, in its next life.
    fn again(former: Host) -> Host {
        Host::new(former.name, &Host::init(), former.disk, former.name.as_u64())
    }

    /// One of two that Weave Net routers share the cluster with.
    fn among_routers(me: PeerName) -> Host {
        let init = format!("{}\n[mesh]\nweave_peers = true", Host::init());
        Host::new(me, &init, BTreeMap::new(), me.as_u64())
    }

    fn init() -> String {
        format!("init = 'seed'\nseed = ['{US}', '{OTHER}']")
    }

    fn newcomer() -> Host {
        Host::new(NEWCOMER, "init = 'observer'", BTreeMap::new(), NEWCOMER.as_u64())
    }

    fn disk_of(me: PeerName) -> BTreeMap<String, Vec<u8>> {
        let unknown = PeerName::UNKNOWN;
        let nothing = json!({ "dead": unknown, "heir": unknown, "joins": [], "leaves": [] });
        let decided = json!({
            "log": { "cluster": 7, "next": 0, "electors": [US], "recent": [] },
            "votes_from": 0,
            "boot": BOOT,
            "claims": { "promise": nobody(), "accepted": nobody(), "value": { "value": nothing, "origin": nobody() } },
        });
        let mut disk = BTreeMap::from([("decided".to_owned(), decided.to_string().into_bytes())]);
        if me == US {
            disk.insert(format!("instance/{OTHER}"), json!(THEIRS).to_string().into_bytes());
        }
        disk
    }

    /// One of two where more hosts are listed than EC2 is asked about at a time; and the last of them.
    fn of_two_among_many(me: PeerName) -> (Host, Ipv4Addr) {
        let many = (0..2500).map(|number| Ipv4Addr::from(0x0a01_0000 + number));
        let many: Vec<Ipv4Addr> = many.collect();
        let host = Host::listing(&many, me, &Host::init(), Host::disk_of(me), me.as_u64());
        (host, many[many.len() - 1])
    }

    fn new(me: PeerName, init: &str, disk: BTreeMap<String, Vec<u8>>, store: u64) -> Host {
        Host::listing(&[address(OTHER), address(NEWCOMER)], me, init, disk, store)
    }

    fn listing(
        peers: &[impl ToString],
        me: PeerName,
        init: &str,
        disk: BTreeMap<String, Vec<u8>>,
        store: u64,
    ) -> Host {
        let instance = format!("i-{}", me.as_u64());
        let peers: Vec<String> = peers.iter().map(|peer| format!("'{}'", peer.to_string())).collect();
        let peers = peers.join(", ");
        let text =
            format!("peers = [{peers}]\n[ipam]\nrange = '10.32.0.0/12'\n{init}\n[vpc]\nreclaim = '20s'\n");
        let birth = Birth {
            identity: Identity { name: me, acceptor: PeerUid(store), instance: Some(instance.clone()) },
            uid: PeerUid(me.as_u64()),
            nickname: instance,
            password: None,
            boot: BOOT.to_owned(),
            seed: me.as_u64(),
        };
        let memory = Memory::read(&disk).unwrap();
        let node = Node::new(Timestamp::ZERO, birth, config::parse(&text).unwrap(), memory).unwrap();
        let mut host = Host {
            name: me,
            conn: ConnId(0),
            node,
            now: Timestamp::ZERO,
            disk,
            looks: Vec::new(),
            running: BTreeSet::new(),
            names: BTreeMap::new(),
            asked_running: Vec::new(),
            is_ec2_away: false,
            answers: Vec::new(),
            blocks: BTreeSet::new(),
            sent: Vec::new(),
            closed: Vec::new(),
        };
        host.tell(Input::Woken);
        host
    }
}

/// A proposal that nobody has made.
fn nobody() -> serde_json::Value {
    json!({ "round": 0, "proposer": { "name": PeerName::UNKNOWN, "uid": 0 } })
}

impl Host {
    fn tell(&mut self, input: Input) {
        self.node.handle(self.now, input);
        self.carry_out();
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            self.tell(Input::Woken);
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.node.next_output() {
            match output {
                Output::Save(id, writes) => {
                    for write in writes {
                        match write.value {
                            Some(value) => drop(self.disk.insert(write.key, value)),
                            None => drop(self.disk.remove(&write.key)),
                        }
                    }
                    self.node.handle(self.now, Input::Stored(id, Ok(())));
                }
                Output::ObserveHost(wanted, _) => {
                    let seen = state::Host { blocks: self.blocks.clone(), ..*wanted };
                    self.node.handle(self.now, Input::HostSeen(Ok(seen)));
                }
                Output::Apply(action) => {
                    match &action {
                        Action::Host(HostAction::AddBlock(cidr)) => drop(self.blocks.insert(*cidr)),
                        Action::Host(HostAction::DeleteBlock(cidr)) => drop(self.blocks.remove(cidr)),
                        other => panic!("there is nothing else to do: {other}"),
                    }
                    self.node.handle(self.now, Input::Applied(action, Ok(None)));
                }
                Output::ObservePlaces(_) => {
                    self.node.handle(self.now, Input::PlacesSeen(Ok(BTreeMap::new())));
                }
                Output::ObserveVpc(..) => {
                    let interface = InterfaceId(format!("eni-{}", self.name.as_u64()));
                    let seen = Vpc {
                        interface,
                        source_dest_check: Some(false),
                        tables: BTreeMap::new(),
                        retired: BTreeMap::new(),
                    };
                    self.node.handle(self.now, Input::VpcSeen(Ok(seen)));
                }
                Output::ObserveNames(names) => {
                    let hosts = |ip: &IpAddr| Hosts::new([*ip], &BTreeSet::new());
                    let answer = |name: String| {
                        let found = self.names.get(&name).map(hosts);
                        let found = found.ok_or_else(|| format!("{name} cannot be resolved"));
                        (name, found)
                    };
                    let answers = names.into_iter().map(answer).collect();
                    self.node.handle(self.now, Input::NamesSeen(answers));
                }
                Output::ObserveInstances(instances) => self.looks.push(instances),
                Output::ObserveRunning(addresses) => {
                    let there = addresses.intersection(&self.running).copied().collect();
                    self.asked_running.push(addresses);
                    let answer = if self.is_ec2_away { Err(no_answer()) } else { Ok(there) };
                    self.node.handle(self.now, Input::RunningSeen(answer));
                }
                Output::Answer(_, answer) => self.answers.push(answer),
                Output::Send(_, bytes) => self.sent.push(bytes.to_vec()),
                Output::Close(_, why) => self.closed.push(why),
                _ => {}
            }
        }
    }

    fn owners(&self) -> BTreeSet<PeerName> {
        self.node.overview().ring().shares().into_keys().collect()
    }

    fn keeps_to_itself(&self, address: Address) -> bool {
        self.blocks.iter().any(|cidr| cidr.contains(&std::net::IpAddr::V4(address.into())))
    }

    // ===== two of them =====

    fn meet(&mut self, other: &mut Host) {
        let at = |host: &Host| SocketAddr::from((address(host.name), 6783));
        (self.conn, other.conn) = (ConnId(self.conn.0 + 1), ConnId(other.conn.0 + 1));
        let (target, conn) = (address(other.name).to_string(), self.conn);
        let remote = at(self);
        self.tell(Input::Mesh(mesh::Input::Dialled { target, conn, remote: at(other) }));
        other.tell(Input::Mesh(mesh::Input::Accepted { conn: other.conn, remote }));
    }

    fn part(&mut self, other: &mut Host) {
        for host in [self, other] {
            host.tell(Input::Mesh(mesh::Input::Closed(host.conn, "cut".to_owned())));
        }
    }

    /// Takes an address from a donor that has met another host before, which does not hear of it.
    fn is_given_an_address(&mut self, donor: &mut Host, other: &mut Host) -> Address {
        other.meet(donor);
        other.talk(donor, 5, |_| true);
        other.part(donor);
        self.meet(donor);
        let request = Request::Allocate { ident: "container".to_owned(), subnet: None };
        self.tell(Input::Asked(RequestId(1), request));
        self.talk(donor, 5, |_| true);
        self.part(donor);
        let [Ok(Response::Addresses(given))] = self.answers.as_slice() else { panic!("{:?}", self.answers) };
        Address::from(given[0].addr())
    }

    /// Carries for some seconds what they say, as far as it is let through.
    fn talk(&mut self, other: &mut Host, seconds: u64, passes: impl Fn(&[u8]) -> bool) {
        let heard = |host: &Host, bytes: Vec<u8>| Input::Mesh(mesh::Input::Received(host.conn, bytes.into()));
        for _ in 0..seconds {
            self.pass(1);
            other.pass(1);
            while !self.sent.is_empty() || !other.sent.is_empty() {
                let (there, back) = (std::mem::take(&mut self.sent), std::mem::take(&mut other.sent));
                there
                    .into_iter()
                    .filter(|bytes| passes(bytes))
                    .for_each(|bytes| other.tell(heard(other, bytes)));
                back.into_iter()
                    .filter(|bytes| passes(bytes))
                    .for_each(|bytes| self.tell(heard(self, bytes)));
            }
        }
    }
}
