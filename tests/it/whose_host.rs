//! Who a host is to its peers and to EC2, and what it does while that is not known.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use ipnet::Ipv4Net;
use weavers::{
    config,
    ipam::{Ring, Saved, ring::Entry},
    mesh::Hosts,
    node::{
        Birth, Input, Node, Output,
        identity::Metadata,
        persist::memory::{Identity, Memory},
        protocol::request::{Refusal, Request, RequestId, Response},
    },
    peer::{PeerName, PeerUid},
    state::{
        Action, Ec2Action, Fault, FaultKind, Host as Network, HostAction, InterfaceId, Link, Netns, Route,
        RouteState, SubnetId, Table, TableId, Target, Vpc, VpcId,
    },
    time::Timestamp,
};

use crate::born::born;

const US: PeerName = PeerName::from_u64(1);
const ALL: &str = "weave.internal";

// ===== one name for all =====

#[test]
fn every_host_behind_one_name_is_dialled_but_not_this_one() {
    let mut host = Host::starting(&format!("peers = ['{ALL}:7000']\nipam.expected_peers = 3"), |_| {});
    host.answer_names(&["10.0.1.11", "10.0.1.12", "10.0.1.13"]);
    assert_eq!(host.targets(), ["10.0.1.12:7000", "10.0.1.13:7000"]);

    host.dials.clear();
    host.answer_names(&["10.0.1.11", "10.0.1.13", "10.0.1.14"]);
    assert_eq!(host.targets(), ["10.0.1.13:7000", "10.0.1.14:7000"], "the targets follow the answer");
    host.pass(1);
    assert!(host.dials.contains(&"10.0.1.14:7000".to_owned()), "{:?}", host.dials);

    host.tell(Input::NamesSeen([(format!("{ALL}:7000"), Err("cannot resolve it".to_owned()))].into()));
    assert_eq!(host.targets(), ["10.0.1.13:7000", "10.0.1.14:7000"], "without an answer the last one holds");
    let problems = host.node.status().problems;
    assert!(problems.iter().any(|note| note.what.contains("cannot resolve it")), "{problems:?}");
}

#[test]
fn the_name_of_a_single_host_stays_a_name() {
    let mut host = Host::starting(&format!("peers = ['{ALL}']\nipam.expected_peers = 2"), |_| {});
    for address in ["10.0.1.12", "10.0.1.99"] {
        host.answer_names(&[address]);
        assert_eq!(host.targets(), [ALL]);
    }
}

#[test]
fn names_are_resolved_anew_from_time_to_time_and_not_all_the_time() {
    let mut host = Host::starting(&format!("peers = ['{ALL}']\nipam.expected_peers = 2"), |_| {});
    host.answer_names(&["10.0.1.12", "10.0.1.13"]);
    host.resolved = 0;
    host.names = vec!["10.0.1.12", "10.0.1.13"];
    host.pass(300);
    assert!((10..=12).contains(&host.resolved), "{} times in ten intervals", host.resolved);
    let mut listed = Host::starting("peers = ['10.0.1.12']", |_| {});
    listed.pass(300);
    assert_eq!(listed.resolved, 0, "there is no name");
}

// ===== which instance =====

#[test]
fn a_host_whose_metadata_was_silent_at_its_first_start_learns_its_instance_for_life() {
    let mut host = Host::starting("", |host| {
        host.memory.identity.as_mut().unwrap().instance = None;
        host.metadata = None;
        host.ec2_fails = true;
    });
    host.pass(30);
    assert_eq!(host.node.status().instance, None);
    host.metadata = Some("i-1");
    host.identify();
    assert_eq!(host.node.status().instance.as_deref(), Some("i-1"));
    let kept = Memory::read(&host.disk).unwrap();
    assert_eq!(kept.identity.unwrap().instance.as_deref(), Some("i-1"));
    assert!(host.stopped.is_none());
}

#[test]
fn a_copied_disk_is_noticed_when_the_metadata_answer_at_last() {
    let mut host = Host::starting("", |host| {
        host.metadata = None;
        host.ec2_fails = true;
    });
    host.pass(30);
    let waits = host.node.status().waits;
    assert!(waits.iter().any(|note| note.what.contains("to confirm that this is i-1")), "{waits:?}");
    host.metadata = Some("i-2");
    host.ec2_fails = false;
    host.identify();
    let refusal = host.stopped.take().expect("it ends");
    assert!(refusal.message.contains("made on i-1, but this is i-2"), "{refusal:?}");
    assert!(refusal.hint.unwrap().contains("aside"));
}

// ===== EC2 is away =====

/// A host that was at work, and whose daemon is started again while EC2 cannot be asked.
fn restarted(in_which: impl Fn(&mut Host)) -> Host {
    let before = Host::starting("", |_| {});
    let mut disk = before.disk.clone();
    disk.extend(Host::records());
    let blocks = before.blocks.clone();
    Host::starting("", |host| {
        host.memory = Memory { recalled_s: 1000, ..Memory::read(&disk).unwrap() };
        host.blocks.clone_from(&blocks);
        host.ec2_fails = true;
        in_which(host);
    })
}

#[test]
fn a_daemon_that_is_restarted_while_ec2_is_down_attaches_where_its_routes_stood() {
    let mut host = restarted(|_| {});
    host.attach();
    host.pass(5);
    assert!(matches!(host.answers.as_slice(), [Ok(Response::Attached { .. })]), "{:?}", host.answers);
    let status = host.node.status();
    assert!(status.ready && !status.converged);
    assert!(status.waits.iter().any(|note| note.what.contains("as read 16m 4")), "{:?}", status.waits);
    assert!(
        !host.applied.iter().any(is_of_ec2),
        "nothing is written for what was remembered: {:?}",
        host.applied
    );

    host.ec2_fails = false;
    host.routes.clear();
    host.pass(120);
    assert!(host.applied.iter().any(is_of_ec2), "a read says otherwise");
}

#[test]
fn one_that_never_read_or_may_be_a_copy_is_careful() {
    fn never_read(host: &mut Host) {
        host.memory.last_read = None;
    }
    fn copied(host: &mut Host) {
        (host.metadata, host.boot) = (None, "another boot");
    }
    fn exchanged(host: &mut Host) {
        host.interface = "eni-other";
    }
    let first: fn(&mut Host) = never_read;
    let cases = [("never read", first), ("silent metadata", copied), ("another interface", exchanged)];
    for (what, in_which) in cases {
        let mut host = restarted(in_which);
        host.attach();
        host.pass(5);
        assert!(host.answers.is_empty(), "{what}: {:?}", host.answers);
        assert!(!host.node.status().ready, "{what}");
    }
    let mut same_boot = restarted(|host| host.metadata = None);
    same_boot.attach();
    same_boot.pass(5);
    assert!(matches!(same_boot.answers.as_slice(), [Ok(_)]), "the machine was not started anew");
}

#[test]
fn a_route_that_had_gone_at_the_last_read_is_missed() {
    let mut host = restarted(|host| {
        let read = host.memory.last_read.as_mut().unwrap();
        read.led.values_mut().for_each(Vec::clear);
    });
    host.attach();
    host.pass(5);
    assert!(host.answers.is_empty(), "{:?}", host.answers);
    let missing = host.node.status().attachments.remove(0).missing.unwrap();
    assert!(missing.contains("a route to it in rtb-1, as read 16m 4"), "{missing}");
}

#[test]
fn what_was_read_is_written_when_it_changes_and_not_at_every_look() {
    let mut host = Host::starting("", |_| {});
    host.read_kept = 0;
    host.pass(540);
    assert!(host.looks > 15 && host.read_kept == 0, "{} looks, {} writes", host.looks, host.read_kept);
    host.routes.insert("10.33.0.0/16".parse().unwrap(), "eni-rival".to_owned());
    host.pass(60);
    assert!((1..=2).contains(&host.read_kept), "{}", host.read_kept);
}

// ===== a range that cannot be =====

#[test]
fn a_range_over_the_vpc_changes_nothing_on_the_host() {
    let mut host = Host::starting("", |host| host.local = "10.32.0.0/16");
    host.pass(120);
    assert_eq!(host.applied, [], "not even before the first look at the VPC");
    let status = host.node.status();
    assert!(
        status.problems.iter().any(|note| note.what.contains("overlaps 10.32.0.0/16")),
        "{:?}",
        status.problems
    );
    assert!(!status.ready);
}

#[test]
fn a_cidr_that_the_vpc_was_given_later_takes_back_its_addresses_and_leaves_the_containers() {
    let mut host = Host::starting("", |_| {});
    host.attach();
    host.pass(5);
    let (links, blocks) = (host.links.clone(), host.blocks.clone());
    assert!(links.len() == 1 && blocks.len() == 1, "{links:?} {blocks:?}");
    host.applied.clear();
    host.local = "10.40.0.0/16";
    host.pass(120);
    assert_eq!((&host.links, &host.blocks), (&links, &BTreeSet::new()), "{:?}", host.applied);
}

#[test]
fn before_the_first_look_at_the_vpc_what_stands_is_kept_and_nothing_is_added() {
    let away = |host: &mut Host| host.ec2_fails = true;
    let mut fresh = Host::starting("", away);
    fresh.pass(60);
    assert_eq!(fresh.applied, []);
    let mut restarted = Host::starting("", |host| {
        away(host);
        host.blocks.insert("10.32.0.0/12".parse().unwrap());
    });
    restarted.pass(60);
    assert!(
        !restarted.applied.iter().any(|action| matches!(action, Action::Host(HostAction::DeleteBlock(_))))
    );
    assert_eq!(restarted.blocks.len(), 1);
}

// ===== a full table, a permission =====

#[test]
fn a_full_table_is_read_at_the_usual_pace() {
    let mut host = Host::starting("", |host| {
        host.routes.clear();
        host.quota = 20;
        host.others = 20;
    });
    host.looks = 0;
    host.pass(90);
    assert!(host.looks <= 6, "{} looks in 90 s", host.looks);
    assert!(host.refusals <= 2, "{} calls were refused", host.refusals);
    host.others = 19;
    host.pass(60);
    assert!(!host.routes.is_empty(), "room is used when there is some");
}

#[test]
fn a_permission_that_was_granted_works_within_a_minute() {
    let mut host = Host::starting("", |host| {
        host.routes.clear();
        host.denied = true;
    });
    host.pass(130);
    assert!((2..=4).contains(&host.refusals), "{} calls were refused in 130 s", host.refusals);
    host.denied = false;
    host.pass(61);
    assert!(!host.routes.is_empty());
}

fn is_of_ec2(action: &Action) -> bool {
    matches!(
        action,
        Action::Ec2(Ec2Action::CreateRoute { .. })
            | Action::Ec2(Ec2Action::ReplaceRoute { .. })
            | Action::Ec2(Ec2Action::DeleteRoute { .. })
    )
}

/// A host alone in its ring, and the one route table; every step on the host succeeds at once.
struct Host {
    node: Node,
    memory: Memory,
    now: Timestamp,
    boot: &'static str,
    /// What the metadata say, if they answer.
    metadata: Option<&'static str>,
    interface: &'static str,
    /// EC2 cannot be reached.
    ec2_fails: bool,
    denied: bool,
    /// CIDR of the VPC.
    local: &'static str,
    routes: BTreeMap<Ipv4Net, String>,
    /// Routes outside the range.
    others: usize,
    quota: usize,
    blocks: BTreeSet<ipnet::IpNet>,
    links: BTreeMap<weavers::addr::Address, Link>,
    rules: Option<weavers::state::Rules>,
    disk: BTreeMap<String, Vec<u8>>,
    /// What its names stand for, where they are answered at once.
    names: Vec<&'static str>,
    resolved: usize,
    /// The name by which its peers are listed.
    listed: String,
    dials: Vec<String>,
    applied: Vec<Action>,
    looks: usize,
    refusals: usize,
    read_kept: usize,
    answers: Vec<Result<Response, Refusal>>,
    stopped: Option<Refusal>,
}

impl Host {
    /// It owns the range, and its route is there, in a world that may not be as it should be.
    fn starting(text: &str, in_which: impl Fn(&mut Host)) -> Host {
        let text = format!(
            "{text}\nipam.range = '10.32.0.0/12'\nvpc.route_tables = 'rtb-1'\nnetwork.uplinks = ['eth0']\n"
        );
        let memory = Host::remembered();
        let mut host = Host {
            node: Host::node(&text, "boot", Host::remembered()),
            memory,
            now: Timestamp::ZERO,
            boot: "boot",
            metadata: Some("i-1"),
            interface: "eni-us",
            ec2_fails: false,
            denied: false,
            local: "10.0.0.0/16",
            routes: [("10.32.0.0/12".parse().unwrap(), "eni-us".to_owned())].into(),
            others: 1,
            quota: 50,
            blocks: BTreeSet::new(),
            links: BTreeMap::new(),
            rules: None,
            disk: BTreeMap::new(),
            names: Vec::new(),
            resolved: 0,
            listed: String::new(),
            dials: Vec::new(),
            applied: Vec::new(),
            looks: 0,
            refusals: 0,
            read_kept: 0,
            answers: Vec::new(),
            stopped: None,
        };
        in_which(&mut host);
        host.node = Host::node(&text, host.boot, std::mem::take(&mut host.memory));
        host.identify();
        host.carry_out();
        host.pass(2);
        host
    }

    fn node(text: &str, boot: &str, memory: Memory) -> Node {
        let birth = Birth { boot: boot.to_owned(), ..born(memory.identity.clone().unwrap()) };
        Node::new(Timestamp::ZERO, birth, config::parse(text).unwrap(), memory).unwrap()
    }

    fn remembered() -> Memory {
        let entry = Entry { token: "10.32.0.0".parse().unwrap(), owner: US, version: 1, free: 9 };
        let range: Ipv4Net = "10.32.0.0/12".parse().unwrap();
        let ring = Ring::from_parts(US, range.into(), vec![entry], vec![US]).unwrap();
        Memory {
            identity: Some(Identity { name: US, acceptor: PeerUid(1), instance: Some("i-1".to_owned()) }),
            ipam: Saved { ring: Some(ring), paxos: None, allocations: BTreeMap::new(), rest: Vec::new() },
            links_known: true,
            ..Memory::default()
        }
    }

    /// The same, as it is on disk.
    fn records() -> BTreeMap<String, Vec<u8>> {
        use weavers::{ipam::Record, node::persist::memory::Write};
        let Memory { identity, ipam, .. } = Host::remembered();
        let ring = Write::ipam(&Record::Ring(ipam.ring.unwrap()));
        let writes = [Write::identity(&identity.unwrap()), ring, Write::links_known()];
        writes.into_iter().map(|write| (write.key, write.value.unwrap())).collect()
    }

    // ===== what happens =====

    fn identify(&mut self) {
        if let Some(instance) = self.metadata {
            let (instance, interface) = (instance.to_owned(), InterfaceId(self.interface.to_owned()));
            self.tell(Input::Identified(Metadata {
                instance,
                interface,
                subnet: SubnetId("subnet-1".to_owned()),
                vpc: VpcId("vpc-1".to_owned()),
            }));
        }
    }

    fn answer_names(&mut self, found: &[&str]) {
        let own = ["10.0.1.11".parse().unwrap()].into();
        let hosts = Hosts::new(found.iter().map(|one| one.parse::<IpAddr>().unwrap()), &own);
        let listed = self.listed.clone();
        self.tell(Input::NamesSeen([(listed, Ok(hosts))].into()));
    }

    fn attach(&mut self) {
        let netns = Netns::new(self.boot, 1, "/run/netns/web");
        self.tell(Input::Asked(
            RequestId(1),
            Request::Attach { netns, link: None, name: Some("web".to_owned()), subnet: None },
        ));
    }

    fn targets(&self) -> Vec<String> {
        self.node.status().targets.into_iter().map(|target| target.target).collect()
    }

    fn tell(&mut self, input: Input) {
        self.node.handle(self.now, input);
        self.carry_out();
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds * 4 {
            self.now += Duration::from_millis(250);
            if self.node.next_wake().is_some_and(|due| due <= self.now) {
                self.tell(Input::Woken);
            }
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.node.next_output() {
            match output {
                Output::Dial(target) => {
                    self.dials.push(target.clone());
                    let reason = "nobody is there".to_owned();
                    let failed = weavers::mesh::Input::DialFailed { target, reason };
                    self.node.handle(self.now, Input::Mesh(failed));
                }
                Output::Save(id, writes) => {
                    for write in writes {
                        self.read_kept += usize::from(write.key == "last_read");
                        match write.value {
                            Some(value) => drop(self.disk.insert(write.key, value)),
                            None => drop(self.disk.remove(&write.key)),
                        }
                    }
                    self.node.handle(self.now, Input::Stored(id, Ok(())));
                }
                Output::ObserveNames(names) => {
                    self.resolved += 1;
                    self.listed = names.first().cloned().unwrap_or_default();
                    let found = self.names.iter().map(|one| one.parse::<IpAddr>().unwrap());
                    let hosts = Hosts::new(found, &BTreeSet::new());
                    if !self.names.is_empty() {
                        let answers = names.into_iter().map(|name| (name, Ok(hosts.clone()))).collect();
                        self.node.handle(self.now, Input::NamesSeen(answers));
                    }
                }
                Output::ObserveHost(wanted, _) => {
                    let links = self.links.iter().map(|(address, link)| (*address, link.clone().into()));
                    let links: weavers::state::Links = links.collect();
                    let seen = Network {
                        sysctls: wanted.sysctls.keys().map(|key| (key.clone(), "1".to_owned())).collect(),
                        rules: self.rules.clone(),
                        gateway: wanted.gateway,
                        blocks: self.blocks.clone(),
                        links: links.into(),
                        uplinks: [("eth0".to_owned(), 9001)].into(),
                        ..Network::default()
                    };
                    self.node.handle(self.now, Input::HostSeen(Ok(seen)));
                }
                Output::ObserveVpc(..) => {
                    self.looks += 1;
                    let seen = self.read();
                    self.node.handle(self.now, Input::VpcSeen(seen));
                }
                Output::Apply(action) => {
                    let outcome = self.apply(&action);
                    if outcome.is_ok() {
                        self.applied.push(action.clone());
                    }
                    self.node.handle(self.now, Input::Applied(action, outcome));
                }
                Output::Answer(_, answer) => self.answers.push(answer),
                Output::Stop(refusal) => self.stopped = Some(refusal),
                _ => {}
            }
        }
    }

    fn read(&self) -> Result<Vpc, Fault> {
        if self.ec2_fails {
            return Err(fault(FaultKind::Unreachable));
        }
        let route = |target: &String| Route {
            target: Target::Interface(InterfaceId(target.clone())),
            state: RouteState::Active,
            created: true,
        };
        let table = Table {
            routes: self.routes.iter().map(|(cidr, target)| (*cidr, route(target))).collect(),
            used: self.routes.len() + self.others,
            local: vec![self.local.parse().unwrap()],
        };
        Ok(Vpc {
            interface: InterfaceId(self.interface.to_owned()),
            source_dest_check: Some(false),
            tables: [(TableId("rtb-1".to_owned()).into(), table)].into(),
            retired: BTreeMap::new(),
        })
    }

    fn apply(&mut self, action: &Action) -> Result<Option<String>, Fault> {
        match action {
            Action::Ec2(Ec2Action::CreateRoute { .. }) if self.denied => {
                self.refusals += 1;
                return Err(fault(FaultKind::Denied));
            }
            Action::Ec2(Ec2Action::CreateRoute { .. }) if self.routes.len() + self.others >= self.quota => {
                self.refusals += 1;
                return Err(fault(FaultKind::Quota));
            }
            Action::Ec2(Ec2Action::CreateRoute { destination, interface, .. })
            | Action::Ec2(Ec2Action::ReplaceRoute { destination, interface, .. }) => {
                self.routes.insert(*destination, interface.0.clone());
            }
            Action::Ec2(Ec2Action::DeleteRoute { destination, .. }) => drop(self.routes.remove(destination)),
            Action::Host(HostAction::AddBlock(cidr)) => drop(self.blocks.insert(*cidr)),
            Action::Host(HostAction::DeleteBlock(cidr)) => drop(self.blocks.remove(cidr)),
            Action::Host(HostAction::LoadRules(rules)) => self.rules = Some(rules.clone()),
            Action::Host(HostAction::CreateLink { address, netns, mtu, range, prefix, far }) => {
                let link = Link {
                    netns: Some(netns.clone()),
                    mtu: *mtu,
                    range: *range,
                    prefix: *prefix,
                    far: far.clone(),
                    faults: Vec::new(),
                };
                self.links.insert(*address, link);
            }
            Action::Host(HostAction::DeleteLink(address)) => drop(self.links.remove(address)),
            other => panic!("there is nothing else to do: {other}"),
        }
        Ok(None)
    }
}

fn fault(kind: FaultKind) -> Fault {
    Fault { kind, message: format!("{kind:?}"), hint: None, request_id: None }
}
