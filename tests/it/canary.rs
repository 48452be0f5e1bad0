//! The canary of a host: containers come first.

use std::{collections::BTreeMap, net::Ipv4Addr};

use weavers::{
    addr::Address,
    config::{self, Config},
    node::{
        Input, Node, Output,
        persist::memory::{Identity, Memory},
        protocol::request::{Refusal, Request, RequestId, Response},
    },
    peer::PeerUid,
    state::{Action, Fault, FaultKind, Host, HostAction, Link, Netns},
    time::Timestamp,
};

use crate::born::{born, empty_vpc};

const ME: &str = "02:00:00:00:00:01";
/// Addresses of the range below that a container can have.
const USABLE: usize = 14;

#[test]
fn a_canary_gives_its_address_up_before_a_container_would_get_none() {
    let mut life = Life::begin(true);
    assert!(life.canary().is_some(), "there is room enough");
    let given: std::collections::BTreeSet<Ipv4Addr> =
        (0..USABLE).map(|number| life.allocate(&format!("c{number}"))).collect();
    assert_eq!(given.len(), USABLE, "each has one of its own");
    assert_eq!(life.canary(), None);
    assert_eq!(life.host.links.len(), 0, "nobody inherits its link");
}

#[test]
fn a_canary_comes_back_where_there_is_room_again() {
    let mut life = Life::begin(true);
    for number in 0..USABLE {
        life.allocate(&format!("c{number}"));
    }
    for number in 0..USABLE {
        life.ask(Request::Free { ident: format!("c{number}"), address: None }).unwrap();
    }
    // What was freed lately rests for a minute.
    (0..4).for_each(|_| life.look());
    assert!(life.canary().is_some());
}

#[test]
fn whoever_claims_the_address_of_the_canary_is_given_it() {
    let mut life = Life::begin(true);
    let address = life.canary().unwrap();
    life.ask(Request::Claim { ident: "db".to_owned(), address }).unwrap();
    assert!(!life.host.links.contains_key(&address), "its link was gone before");
    assert_ne!(life.canary(), Some(address));
}

#[test]
fn a_canary_that_hears_nothing_any_more_goes_and_another_comes() {
    let mut life = Life::begin(true);
    let fault = Fault { kind: FaultKind::Invalid, message: "no".to_owned(), hint: None, request_id: None };
    life.node.handle(life.now, Input::CanaryMade(Err(fault)));
    life.carry_out();
    assert_eq!((life.canary(), life.host.links.len()), (None, 0), "nobody is to count on it");
    assert!(life.node.status().problems.iter().any(|problem| problem.what.contains("are not probed")));
    (0..4).for_each(|_| life.look());
    assert!(life.canary().is_some() && life.host.links.len() == 1);
}

#[test]
fn a_canary_is_in_no_store_and_counts_as_no_use() {
    let life = Life::begin(true);
    assert!(life.canary().is_some());
    assert_eq!(life.node.status().ipam.used, 0);
    assert!(!life.keys.iter().any(|key| key.starts_with("allocation/") || key.starts_with("attached/")));
}

#[test]
fn a_host_that_does_not_probe_has_no_canary_and_makes_no_namespace() {
    let mut life = Life::begin(false);
    assert_eq!((life.canary(), life.namespaces), (None, 0));
    life.node.handle(life.now, Input::Configured(RequestId(99), Box::new(alone(true))));
    life.carry_out();
    life.look();
    assert_eq!((life.canary().is_some(), life.namespaces), (true, 1));
    life.node.handle(life.now, Input::Configured(RequestId(100), Box::new(alone(false))));
    life.carry_out();
    life.look();
    assert_eq!((life.canary(), life.namespaces, life.host.links.len()), (None, 0, 0));
}

/// A node, and a host that does what it says.
struct Life {
    node: Node,
    now: Timestamp,
    host: Host,
    keys: Vec<String>,
    namespaces: u32,
    answers: BTreeMap<RequestId, Result<Response, Refusal>>,
    asked: u64,
}

impl Life {
    fn begin(enable: bool) -> Life {
        let birth = born(Identity { name: ME.parse().unwrap(), acceptor: PeerUid(1), instance: None });
        let node = Node::new(Timestamp::ZERO, birth, alone(enable), Memory::default()).unwrap();
        let host = Host { uplinks: [("eth0".to_owned(), 9001)].into(), ..Host::default() };
        let mut life = Life {
            node,
            now: Timestamp::ZERO,
            host,
            keys: Vec::new(),
            namespaces: 0,
            answers: BTreeMap::new(),
            asked: 0,
        };
        life.carry_out();
        life.look();
        life
    }

    /// Lets time pass until nothing is left to do.
    fn look(&mut self) {
        for _ in 0..20 {
            self.now += std::time::Duration::from_secs(1);
            self.node.handle(self.now, Input::Disturbed);
            self.carry_out();
            self.node.handle(self.now, Input::Woken);
            self.carry_out();
        }
    }

    fn canary(&self) -> Option<Address> {
        self.node.status().probe.canary
    }

    fn allocate(&mut self, ident: &str) -> Ipv4Addr {
        let answer = self.ask(Request::Allocate { ident: ident.to_owned(), subnet: None }).unwrap();
        let Response::Addresses(given) = answer else { panic!("{answer:?}") };
        given[0].addr()
    }

    fn ask(&mut self, request: Request) -> Result<Response, Refusal> {
        self.asked += 1;
        let id = RequestId(self.asked);
        self.node.handle(self.now, Input::Asked(id, request));
        self.carry_out();
        self.answers.remove(&id).expect("it is answered at once")
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.node.next_output() {
            let input = match output {
                Output::Save(id, writes) => {
                    self.keys.extend(writes.into_iter().map(|write| write.key));
                    Input::Stored(id, Ok(()))
                }
                Output::Answer(id, answer) => {
                    self.answers.insert(id, answer);
                    continue;
                }
                Output::MakeCanary => {
                    self.namespaces += 1;
                    let path = "/proc/1/task/2/ns/net";
                    Input::CanaryMade(Ok(Netns::new("boot", 7, path)))
                }
                Output::DropCanary => {
                    self.namespaces -= 1;
                    continue;
                }
                Output::Apply(action) => {
                    self.apply(&action);
                    Input::Applied(action, Ok(None))
                }
                Output::ObserveHost(wanted, _) => {
                    let rules = wanted.rules.clone();
                    Input::HostSeen(Ok(Host { rules, sysctls: wanted.sysctls, ..self.host.clone() }))
                }
                Output::ObserveVpc(..) => Input::VpcSeen(Ok(empty_vpc())),
                _ => continue,
            };
            self.node.handle(self.now, input);
        }
    }

    fn apply(&mut self, action: &Action) {
        match action {
            Action::Host(HostAction::CreateLink { address, netns, mtu, range, prefix, far }) => {
                let link = Link {
                    netns: Some(netns.clone()),
                    mtu: *mtu,
                    range: *range,
                    prefix: *prefix,
                    far: far.clone(),
                    faults: Vec::new(),
                };
                self.host.links_mut().insert(*address, link.into());
            }
            Action::Host(HostAction::DeleteLink(address)) => drop(self.host.links_mut().remove(address)),
            Action::Host(HostAction::AddGateway) => self.host.gateway = true,
            Action::Host(HostAction::AddBlock(cidr)) => drop(self.host.blocks.insert(*cidr)),
            _ => {}
        }
    }
}

/// A cluster of one in a small range, which has its ring from the start.
fn alone(enable: bool) -> Config {
    let text = format!(
        "[ipam]\nrange = \"10.32.0.0/28\"\ninit = \"seed\"\nseed = [\"{ME}\"]\n[probe]\nenable = {enable}\n"
    );
    config::parse(&text).unwrap()
}
