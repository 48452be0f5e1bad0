//! What a host without a memory does before it makes the first ring, and until the disk has it; and one whose memory the routes
//! contradict.

use std::collections::BTreeMap;

use weavers::{
    config,
    node::{
        Birth, Input, Node, Output,
        persist::{
            ledger::SaveId,
            memory::{Identity, Memory},
        },
    },
    peer::PeerUid,
    state::{Action, Ec2Action, Fault, FaultKind, InterfaceId, Route, RouteState, Target},
    time::Timestamp,
};

use crate::born::{born, empty_vpc};

const ME: &str = "02:00:00:00:00:01";
const OTHER: &str = "02:00:00:00:00:02";

#[test]
fn routes_are_written_once_a_crash_cannot_take_the_first_ring() {
    let (mut node, mut steps) = (alone(None), Steps::default());
    steps.take(&mut node);
    node.handle(Timestamp::ZERO, Input::VpcSeen(Ok(empty_vpc())));
    steps.take(&mut node);
    assert!(!node.overview().ring().is_empty(), "it is alone and has its ring from the start");
    assert_eq!(steps.routes, [], "nobody else knows of the ring, and the disk does not have it");
    steps.save_all(&mut node);
    let [Action::Ec2(Ec2Action::CreateRoute { destination, .. })] = steps.routes.as_slice() else {
        panic!("{:?}", steps.routes)
    };
    assert_eq!(destination.to_string(), "10.32.0.0/12");
}

#[test]
fn a_seed_that_lost_its_store_is_shown_so_by_routes_and_touches_none_of_them() {
    for (destination, interface) in [("10.32.0.0/12", "eni-1"), ("10.32.0.7/32", "eni-2")] {
        let (mut node, mut steps) = (alone(Some("i-1")), Steps::default());
        let mut vpc = empty_vpc();
        vpc.tables
            .values_mut()
            .for_each(|table| drop(table.routes.insert(destination.parse().unwrap(), route(interface))));
        node.handle(Timestamp::ZERO, Input::VpcSeen(Ok(vpc)));
        steps.take(&mut node);
        assert!(
            !node.overview().ring().is_empty() && !node.overview().quarantined().is_empty(),
            "{destination} leads to {interface}"
        );
        steps.save_all(&mut node);
        assert_eq!(steps.routes, []);
    }
}

#[test]
fn a_seed_makes_no_ring_while_the_routes_that_may_show_a_former_life_cannot_be_read() {
    let mut node = alone(Some("i-1"));
    let fault =
        Fault { kind: FaultKind::Unreachable, message: "no answer".to_owned(), hint: None, request_id: None };
    node.handle(Timestamp::ZERO, Input::VpcSeen(Err(fault)));
    assert!(node.overview().ring().is_empty());
    assert!(
        node.status()
            .waits
            .iter()
            .any(|wait| wait.what.contains("gave addresses away before, cannot be read"))
    );
    node.handle(Timestamp::ZERO, Input::VpcSeen(Ok(empty_vpc())));
    assert!(!node.overview().ring().is_empty());
    assert_eq!(node.overview().quarantined(), []);
}

#[test]
fn routes_of_a_later_ring_show_an_old_disk_to_a_host_that_hears_nobody() {
    let (mut node, mut steps) = (remembering("boot", Memory::default()), Steps::default());
    node.handle(Timestamp::ZERO, Input::VpcSeen(Ok(empty_vpc())));
    steps.take(&mut node);
    steps.save_all(&mut node);
    let (ours, theirs) = ("10.32.0.0/13", "10.40.0.0/13");
    let owner = node.overview().ring().owner("10.40.0.0".parse().unwrap());
    assert_eq!(owner, OTHER.parse().ok());
    let (active, blackhole) = (RouteState::Active, RouteState::Blackhole);
    for (destination, interface, state, is_old) in [
        ("10.32.0.0/14", "eni-2", active, true),
        ("10.32.0.0/14", "eni-2", blackhole, true),
        (ours, "eni-1", active, false),
        ("10.32.0.0/12", "eni-1", active, false),
        // Given to this host since.
        ("10.44.0.0/14", "eni-1", active, true),
        // A former interface of this host.
        (ours, "eni-3", active, false),
    ] {
        let mut node = remembering("another boot", Memory::read(&steps.disk).unwrap());
        let mut vpc = empty_vpc();
        for table in vpc.tables.values_mut() {
            table.routes.insert(theirs.parse().unwrap(), Route { state, ..route("eni-2") });
            table.routes.insert(destination.parse().unwrap(), Route { state, ..route(interface) });
        }
        node.handle(Timestamp::ZERO, Input::VpcSeen(Ok(vpc)));
        let rests = !node.overview().quarantined().is_empty();
        assert_eq!(rests, is_old, "{destination} leads to {interface}");
        let mut steps = Steps::default();
        steps.take(&mut node);
        steps.save_all(&mut node);
        assert!(!rests || steps.routes.is_empty(), "{:?}", steps.routes);
    }
}

#[test]
fn a_host_of_a_tag_that_is_to_be_alone_elects_itself_once_it_has_looked_for_others() {
    let elects = |expected: u32, found: &[&str]| {
        let text = format!(
            "[ipam]\nrange = \"10.32.0.0/12\"\nexpected_peers = {expected}\n[discovery]\nec2_tag = \"cluster=prod\"\n"
        );
        let birth = born(Identity {
            name: ME.parse().unwrap(),
            acceptor: PeerUid(1),
            instance: Some("i-1".to_owned()),
        });
        let mut node =
            Node::new(Timestamp::ZERO, birth, config::parse(&text).unwrap(), Memory::default()).unwrap();
        node.handle(Timestamp::ZERO, Input::VpcSeen(Ok(empty_vpc())));
        assert!(node.overview().ring().is_empty(), "nobody has looked for others");
        let found = found.iter().map(|found| found.parse().unwrap()).collect();
        node.handle(Timestamp::ZERO, Input::PeersSeen(Ok(found)));
        !node.overview().ring().is_empty()
    };
    assert!(elects(1, &[]));
    assert!(!elects(1, &["10.0.0.10"]), "another bears the tag");
    assert!(!elects(2, &[]));
}

/// What a node asked for, and what it saved.
#[derive(Default)]
struct Steps {
    saves: Vec<SaveId>,
    disk: BTreeMap<String, Vec<u8>>,
    routes: Vec<Action>,
}

impl Steps {
    fn save_all(&mut self, node: &mut Node) {
        while let Some(id) = self.saves.pop() {
            node.handle(Timestamp::ZERO, Input::Stored(id, Ok(())));
            self.take(node);
        }
    }

    fn take(&mut self, node: &mut Node) {
        while let Some(output) = node.next_output() {
            match output {
                Output::Save(id, writes) => {
                    self.saves.push(id);
                    self.disk.extend(writes.into_iter().filter_map(|write| Some((write.key, write.value?))));
                }
                Output::Apply(
                    action @ (Action::Ec2(Ec2Action::CreateRoute { .. })
                    | Action::Ec2(Ec2Action::ReplaceRoute { .. })
                    | Action::Ec2(Ec2Action::DeleteRoute { .. })),
                ) => self.routes.push(action),
                _ => {}
            }
        }
    }
}

/// A cluster of one, which has its ring from the start; on EC2 once it has read the route tables.
fn alone(instance: Option<&str>) -> Node {
    seeded(&[ME], instance, "boot", Memory::default())
}

/// One of two, with what is on its disk, in this boot of its host.
fn remembering(boot: &str, memory: Memory) -> Node {
    seeded(&[ME, OTHER], Some("i-1"), boot, memory)
}

fn seeded(seeds: &[&str], instance: Option<&str>, boot: &str, memory: Memory) -> Node {
    let text = format!(
        "peers = [\"10.0.0.9\"]\n[ipam]\nrange = \"10.32.0.0/12\"\ninit = \"seed\"\nseed = {seeds:?}\n"
    );
    let birth = born(Identity {
        name: ME.parse().unwrap(),
        acceptor: PeerUid(1),
        instance: instance.map(str::to_owned),
    });
    let birth = Birth { boot: boot.to_owned(), ..birth };
    Node::new(Timestamp::ZERO, birth, config::parse(&text).unwrap(), memory).unwrap()
}

fn route(interface: &str) -> Route {
    let target = Target::Interface(InterfaceId(interface.to_owned()));
    Route { target, state: RouteState::Active, created: true }
}
