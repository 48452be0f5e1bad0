//! A host that leaves, and what becomes of its route while an heir takes it over.

use std::{collections::BTreeMap, time::Duration};

use ipnet::Ipv4Net;
use weavers::{
    config,
    ipam::{Ring, Saved, ring::Entry},
    node::{
        Input, Node, Output,
        persist::memory::{Identity, Memory},
        protocol::request::{Refusal, Request, RequestId, Response},
    },
    peer::{PeerName, PeerUid},
    state::{
        Action, Ec2Action, Fault, FaultKind, InterfaceId, Route, RouteState, Table, TableId, Target, Vpc,
    },
    time::Timestamp,
};

use crate::born::born;

const US: PeerName = PeerName::from_u64(1);
const HEIR: PeerName = PeerName::from_u64(2);
/// Our half of the range.
const OURS: &str = "10.32.0.0/13";

#[test]
fn it_has_left_as_soon_as_its_heir_has_its_route() {
    for request in [Request::Reset, Request::Drain] {
        let mut host = Host::at_work();
        host.tell(Input::Asked(RequestId(1), request.clone()));
        host.pass(300);
        assert!(host.answers.is_empty(), "{request:?}: its route leads to it");
        host.lead_to("eni-heir");
        host.pass(2_000);
        assert!(matches!(host.answers.as_slice(), [Ok(_)]), "{request:?}: {:?}", host.answers);
        host.pass(60_000);
        assert_eq!(host.target(), Some("eni-heir"), "{request:?}");
    }
}

#[test]
fn a_route_that_no_heir_takes_is_withdrawn() {
    let mut host = Host::at_work();
    host.tell(Input::Asked(RequestId(1), Request::Reset));
    host.pass(9_000);
    assert_eq!(host.target(), Some("eni-us"));
    host.pass(5_000);
    assert_eq!((host.target(), host.answers.len()), (None, 1));
}

#[test]
fn a_look_from_before_the_heir_took_the_route_withdraws_nothing() {
    let mut host = Host::at_work();
    host.tell(Input::Asked(RequestId(1), Request::Reset));
    host.pass(500);
    host.is_slow = true;
    host.pass(8_500);
    host.lead_to("eni-heir");
    host.pass(3_000);
    host.is_slow = false;
    host.bring_what_was_read();
    host.pass(3_000);
    assert_eq!((host.target(), host.answers.len()), (Some("eni-heir"), 1));
}

#[test]
fn while_ec2_does_not_answer_it_is_not_asked_without_end() {
    let mut host = Host::at_work();
    host.fails = true;
    host.tell(Input::Asked(RequestId(1), Request::Reset));
    let before = host.looks;
    host.pass(60_000);
    assert!(host.looks - before < 12, "{} looks in a minute", host.looks - before);
    assert_eq!(host.target(), Some("eni-us"), "what cannot be read is not changed");
    let [Err(refusal)] = host.answers.as_slice() else { panic!("{:?}", host.answers) };
    assert!(refusal.message.contains("routes may lead here still"), "{refusal:?}");

    host.fails = false;
    host.tell(Input::Asked(RequestId(2), Request::Reset));
    host.pass(12_000);
    assert_eq!((host.target(), host.answers.len()), (None, 2), "asked again it goes on");
}

#[test]
fn its_heir_has_as_much_time_again_when_it_is_asked_again() {
    for before in [Request::Reset, Request::Drain] {
        let mut host = Host::at_work();
        host.fails = before == Request::Reset;
        host.tell(Input::Asked(RequestId(1), before.clone()));
        host.pass(11_000);
        assert_eq!((host.target(), host.answers.len()), (Some("eni-us"), 1), "{before:?}");
        host.fails = false;
        host.tell(Input::Asked(RequestId(2), Request::Reset));
        host.pass(9_000);
        assert_eq!((host.target(), host.answers.len()), (Some("eni-us"), 1), "{before:?}");
        host.lead_to("eni-heir");
        host.pass(2_000);
        assert_eq!((host.target(), host.answers.len()), (Some("eni-heir"), 2), "{before:?}");
    }
}

#[test]
fn before_the_tables_were_read_nobody_is_told_that_no_route_is_left() {
    let mut host = Host::starting(|host| host.fails = true);
    host.tell(Input::Asked(RequestId(1), Request::Reset));
    host.pass(9_000);
    assert!(host.answers.is_empty(), "{:?}", host.answers);
    host.pass(2_000);
    assert!(matches!(host.answers.as_slice(), [Err(_)]), "{:?}", host.answers);
}

/// A host and the one route table; every step on the host succeeds at once.
struct Host {
    node: Node,
    now: Timestamp,
    target: Option<String>,
    /// EC2 takes its time: what a look has read is brought later.
    is_slow: bool,
    read: Option<Vpc>,
    /// EC2 cannot be reached.
    fails: bool,
    looks: usize,
    answers: Vec<Result<Response, Refusal>>,
}

impl Host {
    /// It owns half of the range, and its route is there.
    fn at_work() -> Host {
        Host::starting(|_| {})
    }

    /// The same in a world that is not as it should be.
    fn starting(in_which: impl Fn(&mut Host)) -> Host {
        let text = "peers = ['10.0.0.2']\n[ipam]\nrange = '10.32.0.0/12'\n[vpc]\nroute_tables = 'rtb-1'\n";
        let identity = Identity { name: US, acceptor: PeerUid(1), instance: Some("i-1".to_owned()) };
        let birth = born(identity.clone());
        let config = config::parse(text).unwrap();
        let entry = |token: &str, owner| Entry { token: token.parse().unwrap(), owner, version: 1, free: 9 };
        let entries = vec![entry("10.32.0.0", US), entry("10.40.0.0", HEIR)];
        let ring = Ring::from_parts(US, config.ipam.range.into(), entries, vec![US, HEIR]).unwrap();
        let memory = Memory {
            identity: Some(identity),
            ipam: Saved { ring: Some(ring), paxos: None, allocations: BTreeMap::new(), rest: Vec::new() },
            takeover: Default::default(),
            attached: BTreeMap::new(),
            links_known: true,
            ..Memory::default()
        };
        let mut host = Host {
            node: Node::new(Timestamp::ZERO, birth, config, memory).unwrap(),
            now: Timestamp::ZERO,
            target: Some("eni-us".to_owned()),
            is_slow: false,
            read: None,
            fails: false,
            looks: 0,
            answers: Vec::new(),
        };
        in_which(&mut host);
        host.carry_out();
        host.pass(1_000);
        host
    }

    fn lead_to(&mut self, interface: &str) {
        self.target = Some(interface.to_owned());
    }

    fn target(&self) -> Option<&str> {
        self.target.as_deref()
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
                Output::ObserveHost(wanted, _) => self.node.handle(self.now, Input::HostSeen(Ok(*wanted))),
                Output::ObserveVpc(..) => self.look(),
                Output::Apply(action) => {
                    if let Action::Ec2(Ec2Action::DeleteRoute { .. }) = action {
                        self.target = None;
                    }
                    self.node.handle(self.now, Input::Applied(action, Ok(None)));
                }
                Output::Answer(_, answer) => self.answers.push(answer),
                _ => {}
            }
        }
    }

    fn look(&mut self) {
        self.looks += 1;
        if self.fails {
            let fault = Fault {
                kind: FaultKind::Unreachable,
                message: "no answer".to_owned(),
                hint: None,
                request_id: None,
            };
            return self.node.handle(self.now, Input::VpcSeen(Err(fault)));
        }
        self.read = Some(self.vpc());
        if !self.is_slow {
            self.bring_what_was_read();
        }
    }

    fn bring_what_was_read(&mut self) {
        if let Some(vpc) = self.read.take() {
            self.node.handle(self.now, Input::VpcSeen(Ok(vpc)));
            self.carry_out();
        }
    }

    fn vpc(&self) -> Vpc {
        let route = |to: &String| Route {
            target: Target::Interface(InterfaceId(to.clone())),
            state: RouteState::Active,
            created: true,
        };
        let destination: Ipv4Net = OURS.parse().unwrap();
        let routes: BTreeMap<_, _> = self.target.iter().map(|to| (destination, route(to))).collect();
        let table = Table { used: routes.len(), routes, local: Vec::new() };
        Vpc {
            interface: InterfaceId("eni-us".to_owned()),
            source_dest_check: Some(false),
            tables: BTreeMap::from([(TableId("rtb-1".to_owned()).into(), table)]),
            retired: BTreeMap::new(),
        }
    }
}
