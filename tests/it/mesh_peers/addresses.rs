//! The address manager of a whole node, and a peer of theirs that answers it as a Weave Net router would.
//!
//! Every message between them is written or read by Go's own `encoding/gob` (see [`crate::go`]).

use serde_json::{Value, json};
use weavers::node::protocol::request::{Request, Response};

use super::{
    eventually,
    ours::{CHANNEL, Ours, Whole},
    theirs::Theirs,
};
use crate::go::Go;

/// `10.32.0.0/12`, where nothing else is configured.
const START: u64 = 0x0a20_0000;
const MIDDLE: u64 = 0x0a28_0000;
const END: u64 = 0x0a30_0000;

/// A peer of theirs that is asked and answers as this test says.
struct Router {
    peer: Theirs,
    go: Go,
    /// Messages read so far.
    read: usize,
}

impl Router {
    fn start() -> Router {
        let peer = Theirs::start(2, &["-channels", CHANNEL]);
        let mut router = Router { peer, go: Go::start(), read: 0 };
        // An idle elector says that it knows no claims, which is not the same as saying nothing.
        let state = router.go.encode("gossipstate", &state(&json!([]), &Value::Null));
        router.peer.set_state(CHANNEL, &state);
        router
    }

    /// Waits for a state that looks as wanted, however it comes.
    fn await_state(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        eventually(what, || {
            let heard = [self.peer.heard("gossip", CHANNEL), self.peer.heard("broadcast", CHANNEL)].concat();
            found = heard.iter().map(|bytes| read(&mut self.go, "gossipstate", bytes)).find(&wanted);
            found.is_some()
        });
        found.unwrap()
    }

    /// The next message to this peer alone: its kind, and what it says.
    fn next_unicast(&mut self) -> (u8, Value) {
        eventually("a message comes", || self.peer.heard("unicast", CHANNEL).len() > self.read);
        let message = self.peer.heard("unicast", CHANNEL).swap_remove(self.read);
        self.read += 1;
        let kind = if message[0] == 1 { "gossipstate" } else { "range" };
        (message[0], read(&mut self.go, kind, &message[1..]))
    }

    fn send(&mut self, to: &Ours<Whole>, kind: u8, what: &Value) {
        let body = self.go.encode(if kind == 1 { "gossipstate" } else { "range" }, what);
        self.peer.unicast(CHANNEL, to.name, &[&[kind], body.as_slice()].concat());
    }

    fn broadcast(&mut self, state: &Value) {
        let bytes = self.go.encode("gossipstate", state);
        self.peer.broadcast(CHANNEL, &bytes);
    }
}

fn read(go: &mut Go, kind: &str, bytes: &[u8]) -> Value {
    let decoded = go.decode(kind, bytes);
    assert_eq!(decoded.error, None, "{bytes:02x?}");
    decoded.value
}

fn state(paxos: &Value, ring: &Value) -> Value {
    json!({"Now": 1_600_000_000, "Nicknames": [{"Name": 2, "NickName": "go2"}], "Paxos": paxos, "Ring": ring})
}

/// What a node of this name claims, in a state.
fn claims(state: &Value, name: u64) -> Option<&Value> {
    state["Paxos"].as_array()?.iter().find(|claims| claims["Node"]["Name"] == name)
}

/// An elector of theirs that promises and accepts what the other proposes.
fn agreeing(state: &Value) -> Value {
    let ours = claims(state, 1).unwrap();
    let mut theirs = ours.clone();
    theirs["Node"] = json!({"Name": 2, "UID": 4711});
    json!([ours, theirs])
}

/// A cluster of one of ours and one of theirs that have agreed, and its ring.
fn agreed() -> (Ours<Whole>, Router, Value) {
    let mut router = Router::start();
    let node = Ours::<Whole>::start(1, 2);
    node.dial(&[router.peer.address], 2);
    let promised = router
        .await_state("we propose", |state| claims(state, 1).is_some_and(|c| c["Promise"]["Round"] != 0));
    router.broadcast(&state(&agreeing(&promised), &Value::Null));
    let accepted = router.await_state("we accept what they promised", |state| {
        claims(state, 1).is_some_and(|c| c["Accepted"]["Round"] != 0)
    });
    let value = &claims(&accepted, 1).unwrap()["AcceptedVal"]["Value"];
    assert_eq!(value, &json!([1, 2]));
    router.broadcast(&state(&agreeing(&accepted), &Value::Null));
    let ring = router.await_state("we make the ring", |state| !state["Ring"].is_null())["Ring"].take();
    (node, router, ring)
}

fn owners(ring: &Value) -> Vec<(u64, u64)> {
    let entries = ring["Entries"].as_array().unwrap().iter();
    entries.map(|entry| (entry["Token"].as_u64().unwrap(), entry["Peer"].as_u64().unwrap())).collect()
}

#[test]
fn one_of_ours_and_one_of_theirs_elect_and_make_the_ring_that_theirs_would_make() {
    let (_node, _router, ring) = agreed();
    assert_eq!((ring["Start"].as_u64(), ring["End"].as_u64()), (Some(START), Some(END)));
    assert_eq!(owners(&ring), [(START, 1), (MIDDLE, 2)]);
    assert_eq!(ring["Seeds"], json!([1, 2]));
}

#[test]
fn space_that_theirs_ask_for_is_given_or_denied_and_the_ring_follows_either_way() {
    let (node, mut router, _) = agreed();
    router.send(&node, 0, &json!({"Start": START, "End": END}));
    let (kind, update) = router.next_unicast();
    assert_eq!(kind, 1, "what was given is in the ring");
    let owners = owners(&update["Ring"]);
    assert!(owners.iter().any(|&(token, peer)| peer == 2 && token < MIDDLE), "{owners:?}");

    let id = node.ask(Request::Claim { ident: "c".into(), address: "10.32.0.9".parse().unwrap() });
    node.answer(id).unwrap();
    let address = json!({"Start": START + 9, "End": START + 10});
    router.send(&node, 0, &address);
    let (kind, denied) = router.next_unicast();
    assert_eq!((kind, denied), (2, address), "it is in use: the denial comes first");
    assert_eq!(router.next_unicast().0, 1, "and then the ring");
}

#[test]
fn an_address_that_theirs_own_is_asked_for_and_taken_or_refused_as_they_answer() {
    let (node, mut router, mut ring) = agreed();
    let ask =
        |address: &str| node.ask(Request::Claim { ident: "c".into(), address: address.parse().unwrap() });
    let first = ask("10.40.0.5");
    let (kind, wanted) = router.next_unicast();
    assert_eq!((kind, wanted), (0, json!({"Start": MIDDLE + 5, "End": MIDDLE + 6})));
    let piece = |token: u64, peer: u64, version: u64, end: u64| json!({"Token": token, "Peer": peer, "Version": version, "Free": end - token});
    let given =
        [piece(MIDDLE, 2, 1, MIDDLE + 5), piece(MIDDLE + 5, 1, 0, MIDDLE + 6), piece(MIDDLE + 6, 2, 0, END)];
    let entries = ring["Entries"].as_array_mut().unwrap();
    entries.truncate(1);
    entries.extend(given);
    let update = state(&Value::Null, &ring);
    router.send(&node, 1, &update);
    assert!(matches!(node.answer(first), Ok(Response::Addresses(_))));

    let second = ask("10.40.0.6");
    let (kind, wanted) = router.next_unicast();
    assert_eq!((kind, wanted.clone()), (0, json!({"Start": MIDDLE + 6, "End": MIDDLE + 7})));
    router.send(&node, 2, &wanted);
    router.send(&node, 1, &update);
    let refusal = node.answer(second).unwrap_err();
    assert!(refusal.message.contains("in use at peer 00:00:00:00:00:02 (go2)"), "{refusal:?}");
}
