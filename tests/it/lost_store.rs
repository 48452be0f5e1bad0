//! A host that lost its store while containers run learns from their links what is in use.

use std::collections::BTreeMap;

use weavers::{
    addr::Address,
    config::{self, Config},
    node::{
        Input, Node, Output,
        persist::memory::{Identity, Memory},
        protocol::request::{Request, RequestId, Response},
    },
    peer::PeerUid,
    state::{Action, Host, HostAction, Link, Port, Ports, Protocol, Published},
    time::Timestamp,
};

use crate::born::born;

const ME: &str = "02:00:00:00:00:01";
/// The first address that is handed out.
const IN_USE: &str = "10.32.0.1";

#[test]
fn nothing_is_handed_out_before_the_links_were_looked_at() {
    let mut life = Life::begin(BTreeMap::new());
    life.tell(Input::Asked(RequestId(1), allocate()));
    assert_eq!(life.answers, [], "the ring is there, but not what is in use");
    life.tell(Input::HostSeen(Ok(host_with_a_link())));
    let [Response::Addresses(given)] = life.answers.as_slice() else { panic!("{:?}", life.answers) };
    assert_eq!(given.len(), 1);
    assert_ne!(given[0].addr().to_string(), IN_USE);
}

#[test]
fn whoever_gave_up_before_that_is_given_nothing() {
    let mut life = Life::begin(BTreeMap::new());
    life.tell(Input::Asked(RequestId(1), allocate()));
    life.tell(Input::Cancelled(RequestId(1)));
    life.tell(Input::HostSeen(Ok(Host::default())));
    assert_eq!(life.answers, []);
    assert!(!life.disk.keys().any(|key| key.starts_with("allocation/")), "{:?}", life.disk.keys());
}

#[test]
fn what_was_found_stays_through_the_restarts_that_follow() {
    let mut life = Life::begin(BTreeMap::new());
    life.tell(Input::HostSeen(Ok(host_with_a_link())));
    for _ in 0..2 {
        life = Life::begin(life.disk);
        life.tell(Input::HostSeen(Ok(host_with_a_link())));
        assert!(!life.deletes_a_link(), "{:?}", life.actions);
    }
}

#[test]
fn a_crash_before_the_first_look_forgets_nothing() {
    let life = Life::begin(BTreeMap::new());
    assert!(!life.disk.is_empty(), "it has saved who it is");
    let mut life = Life::begin(life.disk);
    life.tell(Input::HostSeen(Ok(host_with_a_link())));
    assert!(!life.deletes_a_link(), "{:?}", life.actions);
}

#[test]
fn a_link_that_goes_takes_along_what_was_found() {
    let mut life = Life::begin(BTreeMap::new());
    life.tell(Input::HostSeen(Ok(host_with_a_link())));
    let mut life = Life::begin(life.disk);
    life.tell(Input::HostSeen(Ok(Host::default())));
    let claim = Request::Claim { ident: "again".to_owned(), address: IN_USE.parse().unwrap() };
    life.tell(Input::Asked(RequestId(1), claim));
    let [Response::Addresses(given)] = life.answers.as_slice() else { panic!("{:?}", life.answers) };
    assert_eq!(given[0].addr().to_string(), IN_USE, "it is free again");
}

#[test]
fn what_a_container_published_stays_published() {
    let mut life = Life::begin(BTreeMap::new());
    let [ours, of_nobody] = [IN_USE, "10.32.0.99"].map(|to| {
        let port = Port { protocol: Protocol::Tcp, host_ip: None, host: 8080, container: 80 };
        Published { port, to: to.parse().unwrap(), prefix: None }
    });
    life.tell(Input::HostSeen(Ok(Host { ports: Some([ours].into()), ..host_with_a_link() })));
    assert_eq!(life.publishes(), None, "it is as it should be");
    assert_eq!(life.node.status().attachments[0].ports, ["8080->80/tcp"]);
    // Another life, and another host, where a port leads to a container that is gone.
    let mut life = Life::begin(life.disk);
    life.tell(Input::HostSeen(Ok(Host { ports: Some(Ports::new()), ..host_with_a_link() })));
    assert_eq!(life.publishes(), Some(&[ours].into()));
    let mut life = Life::begin(BTreeMap::new());
    life.tell(Input::HostSeen(Ok(Host { ports: Some([of_nobody].into()), ..host_with_a_link() })));
    assert_eq!(life.publishes(), Some(&Ports::new()));
}

/// One run of a node, from its start to a crash, on a disk that outlives it.
struct Life {
    node: Node,
    disk: BTreeMap<String, Vec<u8>>,
    answers: Vec<Response>,
    actions: Vec<Action>,
}

impl Life {
    fn begin(disk: BTreeMap<String, Vec<u8>>) -> Life {
        let birth = born(Identity { name: ME.parse().unwrap(), acceptor: PeerUid(1), instance: None });
        let memory = Memory::read(&disk).unwrap();
        let node = Node::new(Timestamp::ZERO, birth, alone(), memory).unwrap();
        let mut life = Life { node, disk, answers: Vec::new(), actions: Vec::new() };
        life.carry_out();
        life
    }

    fn tell(&mut self, input: Input) {
        self.node.handle(Timestamp::ZERO, input);
        self.carry_out();
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
                    self.node.handle(Timestamp::ZERO, Input::Stored(id, Ok(())));
                }
                Output::Answer(_, answer) => self.answers.push(answer.unwrap()),
                Output::Apply(action) => {
                    self.actions.push(action.clone());
                    self.node.handle(Timestamp::ZERO, Input::Applied(action, Ok(None)));
                }
                _ => {}
            }
        }
    }

    fn publishes(&self) -> Option<&Ports> {
        self.actions.iter().find_map(|action| match action {
            Action::Host(HostAction::SetPorts(ports)) => Some(ports),
            _ => None,
        })
    }

    fn deletes_a_link(&self) -> bool {
        self.actions.iter().any(|action| matches!(action, Action::Host(HostAction::DeleteLink(_))))
    }
}

/// A cluster of one, which has its ring from the start.
fn alone() -> Config {
    config::parse(&format!("[ipam]\nrange = \"10.32.0.0/12\"\ninit = \"seed\"\nseed = [\"{ME}\"]\n")).unwrap()
}

fn allocate() -> Request {
    Request::Allocate { ident: "new".to_owned(), subnet: None }
}

fn host_with_a_link() -> Host {
    let address = Address::from(IN_USE.parse::<std::net::Ipv4Addr>().unwrap());
    let link = Link { mtu: 9000, ..Link::default() };
    Host { links: BTreeMap::from([(address, link.into())]).into(), ..Host::default() }
}
