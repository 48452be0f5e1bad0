//! What a host does between the first ring and the moment when the disk has it.

use std::collections::BTreeMap;

use weavers::{
    config,
    node::{
        Birth, Input, Node, Output,
        ledger::SaveId,
        memory::{Identity, Memory},
    },
    peer::PeerUid,
    state::{Action, InterfaceId, Table, TableId, Vpc},
    time::Timestamp,
};

const ME: &str = "02:00:00:00:00:01";

#[test]
fn routes_are_written_once_a_crash_cannot_take_the_first_ring() {
    let (mut node, mut steps) = (alone(), Steps::default());
    steps.take(&mut node);
    node.handle(Timestamp::ZERO, Input::VpcSeen(Ok(empty_vpc())));
    steps.take(&mut node);
    assert!(!node.ring().is_empty(), "it is alone and has its ring from the start");
    assert_eq!(steps.routes, [], "nobody else knows of the ring, and the disk does not have it");
    while let Some(id) = steps.saves.pop() {
        node.handle(Timestamp::ZERO, Input::Stored(id, Ok(())));
        steps.take(&mut node);
    }
    let [Action::CreateRoute { destination, .. }] = steps.routes.as_slice() else {
        panic!("{:?}", steps.routes)
    };
    assert_eq!(destination.to_string(), "10.32.0.0/12");
}

/// What a node asked for.
#[derive(Default)]
struct Steps {
    saves: Vec<SaveId>,
    routes: Vec<Action>,
}

impl Steps {
    fn take(&mut self, node: &mut Node) {
        while let Some(output) = node.next_output() {
            match output {
                Output::Save(id, _) => self.saves.push(id),
                Output::Apply(action @ Action::CreateRoute { .. }) => self.routes.push(action),
                _ => {}
            }
        }
    }
}

/// A cluster of one, which has its ring from the start.
fn alone() -> Node {
    let text = format!("[ipam]\nrange = \"10.32.0.0/12\"\ninit = \"seed\"\nseed = [\"{ME}\"]\n");
    let birth = Birth {
        identity: Identity { name: ME.parse().unwrap(), acceptor: PeerUid(1), instance: None },
        uid: PeerUid(2),
        nickname: "h1".to_owned(),
        password: None,
        boot: "boot".to_owned(),
        seed: 1,
    };
    Node::new(Timestamp::ZERO, birth, config::parse(&text).unwrap(), Memory::default()).unwrap()
}

fn empty_vpc() -> Vpc {
    let tables = BTreeMap::from([(TableId("rtb-1".to_owned()), Table::default())]);
    Vpc { interface: InterfaceId("eni-1".to_owned()), source_dest_check: Some(false), tables }
}
