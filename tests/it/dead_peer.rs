//! What one host makes of what EC2 says of another that it does not hear, and how it comes to know of which
//! instance to ask.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use serde_json::json;
use weavers::{
    config,
    mesh::{self, ConnId},
    node::{
        Birth, DEAD_CHANNEL, Input, Node, Output,
        memory::{Identity, Memory},
        request::{Refusal, RefusalKind, Request, RequestId, Response},
    },
    peer::{PeerName, PeerUid},
    state::InstanceState,
    time::Timestamp,
};

const US: PeerName = PeerName::from_u64(1);
const OTHER: PeerName = PeerName::from_u64(2);
/// Their instances.
const OURS: &str = "i-1";
const THEIRS: &str = "i-2";

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

fn forget() -> Request {
    Request::Forget { peer: OTHER.to_string(), alone: false }
}

fn running(instances: &[&str]) -> BTreeMap<String, InstanceState> {
    instances.iter().map(|instance| ((*instance).to_owned(), InstanceState::Running)).collect()
}

/// One of two hosts that share the range, and what it asked for. The first of them decides about the dead, and
/// remembers the instance of the other.
struct Host {
    node: Node,
    now: Timestamp,
    disk: BTreeMap<String, Vec<u8>>,
    looks: Vec<BTreeSet<String>>,
    answers: Vec<Result<Response, Refusal>>,
    sent: Vec<Vec<u8>>,
    closed: Vec<String>,
}

impl Host {
    fn of_two(me: PeerName) -> Host {
        let instance = if me == US { OURS } else { THEIRS };
        let text = format!(
            "peers = ['10.0.0.2']\n[ipam]\nrange = '10.32.0.0/12'\ninit = 'seed'\nseed = ['{US}', '{OTHER}']\n\
             [vpc]\nreclaim = '20s'\n"
        );
        let unknown = PeerName::UNKNOWN;
        let nothing = json!({ "dead": unknown, "heir": unknown, "joins": [], "leaves": [] });
        let decided = json!({
            "log": { "cluster": 7, "next": 0, "electors": [US], "recent": [] },
            "votes_from": 0,
            "claims": { "promise": nobody(), "accepted": nobody(), "value": { "value": nothing, "origin": nobody() } },
        });
        let mut disk = BTreeMap::from([("decided".to_owned(), decided.to_string().into_bytes())]);
        if me == US {
            disk.insert(format!("instance/{OTHER}"), json!(THEIRS).to_string().into_bytes());
        }
        let birth = Birth {
            identity: Identity {
                name: me,
                acceptor: PeerUid(me.as_u64()),
                instance: Some(instance.to_owned()),
            },
            uid: PeerUid(me.as_u64()),
            nickname: instance.to_owned(),
            password: None,
            boot: "boot".to_owned(),
            seed: me.as_u64(),
        };
        let memory = Memory::read(&disk).unwrap();
        let node = Node::new(Timestamp::ZERO, birth, config::parse(&text).unwrap(), memory).unwrap();
        let (looks, answers, sent, closed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut host = Host { node, now: Timestamp::ZERO, disk, looks, answers, sent, closed };
        host.carry_out();
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
                Output::ObserveInstances(instances) => self.looks.push(instances),
                Output::Answer(_, answer) => self.answers.push(answer),
                Output::Send(_, bytes) => self.sent.push(bytes.to_vec()),
                Output::Close(_, why) => self.closed.push(why),
                _ => {}
            }
        }
    }

    fn owners(&self) -> BTreeSet<PeerName> {
        self.node.ring().shares().into_keys().collect()
    }

    // ===== two of them =====

    fn meet(&mut self, other: &mut Host) {
        let address = |number: u8| SocketAddr::from(([10, 0, 0, number], 6783));
        let (target, conn) = ("10.0.0.2".to_owned(), ConnId(1));
        self.tell(Input::Mesh(mesh::Input::Dialled { target, conn, remote: address(2) }));
        other.tell(Input::Mesh(mesh::Input::Accepted { conn, remote: address(1) }));
    }

    /// Carries for some seconds what they say, as far as it is let through.
    fn talk(&mut self, other: &mut Host, seconds: u64, passes: impl Fn(&[u8]) -> bool) {
        for _ in 0..seconds {
            self.pass(1);
            other.pass(1);
            while !self.sent.is_empty() || !other.sent.is_empty() {
                let (there, back) = (std::mem::take(&mut self.sent), std::mem::take(&mut other.sent));
                let heard = |bytes: Vec<u8>| Input::Mesh(mesh::Input::Received(ConnId(1), bytes.into()));
                there.into_iter().filter(|bytes| passes(bytes)).for_each(|bytes| other.tell(heard(bytes)));
                back.into_iter().filter(|bytes| passes(bytes)).for_each(|bytes| self.tell(heard(bytes)));
            }
        }
    }
}
