//! A host whose rules cannot be put in force, and containers that come to it meanwhile.

use std::{collections::BTreeMap, time::Duration};

use ipnet::Ipv4Net;
use weavers::{
    addr::Address,
    config,
    ipam::{Ring, Saved, ring::Entry},
    node::{
        Input, Node, Output,
        memory::{Identity, Memory},
        request::{Refusal, Request, RequestId, Response},
    },
    peer::{PeerName, PeerUid},
    state::{
        self, Action, Fault, FaultKind, InterfaceId, Link, Netns, Route, RouteState, Table, TableId, Target,
        Vpc,
    },
    time::Timestamp,
};

use crate::born::born;

const US: PeerName = PeerName::from_u64(1);

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
    assert!(host.node.is_converged());
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
    assert!(host.kernel.links.is_empty() && !host.node.is_ready());
    let status = host.node.status();
    assert!(status.problems.iter().any(|problem| problem.what.contains("no uplink is known")), "{status:?}");

    host.kernel.uplinks = [("ens5".to_owned(), 9001)].into();
    host.tell(Input::Disturbed);
    host.pass(5_000);
    assert_eq!(host.kernel.links.len(), 1);
    assert!(host.node.is_converged());
}

/// A host with its kernel, and a VPC in which all is as it should be.
struct Host {
    node: Node,
    now: Timestamp,
    kernel: state::Host,
    nft_fails: bool,
    /// Why a look at the host fails, if it does.
    unreadable: Option<Fault>,
    answers: Vec<Result<Response, Refusal>>,
}

impl Host {
    fn new() -> Host {
        let text = "[ipam]\nrange = '10.32.0.0/12'\n[vpc]\nroute_tables = 'rtb-1'\n";
        let identity = Identity { name: US, acceptor: PeerUid(1), instance: Some("i-1".to_owned()) };
        let birth = born(identity.clone());
        let config = config::parse(text).unwrap();
        let entries = vec![Entry { token: "10.32.0.0".parse().unwrap(), owner: US, version: 1, free: 9 }];
        let ring = Ring::from_parts(US, config.ipam.range.into(), entries, vec![US]).unwrap();
        let memory = Memory {
            identity: Some(identity),
            ipam: Saved { ring: Some(ring), paxos: None, allocations: BTreeMap::new(), rest: Vec::new() },
            reclaim: Default::default(),
            attached: BTreeMap::new(),
            links_known: true,
            trial: None,
            ..Memory::default()
        };
        let mut host = Host {
            node: Node::new(Timestamp::ZERO, birth, config, memory).unwrap(),
            now: Timestamp::ZERO,
            kernel: state::Host { uplinks: [("ens5".to_owned(), 9001)].into(), ..state::Host::default() },
            nft_fails: false,
            unreadable: None,
            answers: Vec::new(),
        };
        host.carry_out();
        host
    }

    /// Somebody flushes the rules, and may keep nft from loading others; the host has seen it.
    fn flush(&mut self, and_lock: bool) {
        (self.nft_fails, self.kernel.rules) = (and_lock, None);
        self.tell(Input::Disturbed);
        self.pass(1_000);
    }

    fn attach(&mut self, number: u64) {
        let path = format!("/run/netns/{number}").into();
        let netns = Netns { boot: "boot".into(), cookie: number, path };
        let request = Request::Attach { netns, link: None, name: Some(format!("c{number}")), subnet: None };
        self.tell(Input::Asked(RequestId(number), request));
    }

    fn tell(&mut self, input: Input) {
        self.node.handle(self.now, input);
        self.carry_out();
    }

    fn pass(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds / 100 {
            self.now += Duration::from_millis(100);
            self.tell(Input::Woken);
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.node.next_output() {
            match output {
                Output::Save(id, _) => self.node.handle(self.now, Input::Stored(id, Ok(()))),
                Output::ObserveHost(_) => {
                    let seen = self.unreadable.clone().map_or_else(|| Ok(self.kernel.clone()), Err);
                    self.node.handle(self.now, Input::HostSeen(seen));
                }
                Output::ObserveVpc(..) => self.node.handle(self.now, Input::VpcSeen(Ok(vpc()))),
                Output::Apply(action) => {
                    let outcome = self.apply(&action).map(|()| None);
                    self.node.handle(self.now, Input::Applied(action, outcome));
                }
                Output::Answer(_, answer) => self.answers.push(answer),
                _ => {}
            }
        }
    }

    fn apply(&mut self, action: &Action) -> Result<(), Fault> {
        match action {
            Action::LoadRules(_) if self.nft_fails => {
                return Err(fault("nft: permission denied"));
            }
            Action::LoadRules(rules) => self.kernel.rules = Some(rules.clone()),
            Action::SetSysctl { name, value } => {
                self.kernel.sysctls.insert(name.clone(), value.clone());
            }
            Action::AddBlock(cidr) => drop(self.kernel.blocks.insert(*cidr)),
            &Action::CreateLink { address, ref netns, mtu, range } => {
                self.connect(address, Link { netns: Some(netns.clone()), mtu, range, faults: Vec::new() });
            }
            _ => {}
        }
        Ok(())
    }

    fn connect(&mut self, address: Address, link: Link) {
        self.kernel.links.insert(address, link);
    }
}

fn vpc() -> Vpc {
    let interface = InterfaceId("eni-us".to_owned());
    let target = Target::Interface(interface.clone());
    let range: Ipv4Net = "10.32.0.0/12".parse().unwrap();
    let routes = [(range, Route { target, state: RouteState::Active, created: true })].into();
    let table = Table { used: 1, routes, local: Vec::new() };
    Vpc { interface, source_dest_check: Some(false), tables: [(TableId("rtb-1".to_owned()), table)].into() }
}

fn fault(message: &str) -> Fault {
    let (kind, hint) = (FaultKind::Invalid, Some("give it back".into()));
    Fault { kind, message: message.to_owned(), hint, request_id: None }
}
