//! Whatever runtimes say, through the programs and the socket themselves: an error, never a panic, and nothing that others notice.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
};
use weavers::{
    addr::Address,
    api::{self, ApiRequest, server::Call},
    node::protocol::{
        docker::{LEASE, Order},
        request::{Request, Response},
    },
};

use crate::lone_host::Host;

/// Calls of the program. Each is a process.
const RUNS: usize = 60;
const CALLS: usize = 150;

/// The same words each time, so that a failure can be played again.
fn runner() -> TestRunner {
    TestRunner::new_with_rng(Config::default(), TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

fn any_json(keys: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-zA-Z0-9:./_-]{0,20}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(vec!["1.0.0", "1.1.0", "0.3.1", "10.32.0.1/12", "weavers", "ptp", "bridge"])
            .prop_map(Value::from),
    ];
    let key = prop_oneof![4 => prop::sample::select(keys).prop_map(str::to_owned), 1 => any::<String>()];
    leaf.prop_recursive(3, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..8)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

const OF_CNI: &[&str] = &[
    "cniVersion",
    "name",
    "type",
    "ipam",
    "block",
    "subnet",
    "runtimeConfig",
    "prevResult",
    "args",
    "ips",
    "mac",
    "mtu",
    "dns",
    "cni.dev/valid-attachments",
    "container_id",
    "network",
    "network_options",
    "port_mappings",
];

#[test]
fn whatever_a_runtime_says_to_the_program_is_answered_by_one_document_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Path::new(env!("CARGO_BIN_EXE_weavers-cni"));
    let names = ["weavers", "weavers-ipam"].map(|name| dir.path().join(name));
    names.iter().for_each(|name| std::os::unix::fs::symlink(ours, name).unwrap());
    let mut runner = runner();
    let verbs = prop::sample::select(vec![
        "ADD", "DEL", "CHECK", "STATUS", "GC", "VERSION", "create", "setup", "teardown", "x",
    ]);
    let words = ("[a-zA-Z0-9/._-]{0,12}", "[a-zA-Z0-9/._-]{0,20}", "[a-z0-9:/]{0,17}", "[A-Z=;0-9.]{0,30}");
    let strategy = (any_json(OF_CNI), verbs, words, 0..2usize);
    for _ in 0..RUNS {
        let (said, verb, (id, netns, ifname, args), which) =
            strategy.new_tree(&mut runner).unwrap().current();
        let mut said = said;
        // Nobody is there, wherever it is looked for.
        let socket = dir.path().join("run/weavers.sock");
        if let Value::Object(object) = &mut said {
            let ipam = json!({ "type": "weavers-ipam", "socket": socket });
            let known = [("cniVersion", json!("1.1.0")), ("name", json!("net")), ("type", json!("ptp"))];
            object.extend(known.map(|(key, value)| (key.to_owned(), value)));
            let (key, value) = if which == 1 { ("ipam", ipam) } else { ("socket", json!(socket)) };
            object.insert(key.to_owned(), value);
        }
        let mut command = Command::new(&names[which]);
        command.env_clear().env("CNI_CONTAINERID", &id).env("CNI_NETNS", &netns).env("CNI_IFNAME", &ifname);
        match verb.chars().all(|c| c.is_ascii_uppercase()) {
            true => command.env("CNI_ARGS", &args).env("CNI_COMMAND", verb),
            false => command.arg(verb).arg(&netns),
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // It may end without having read it all.
        let _ = child.stdin.take().unwrap().write_all(said.to_string().as_bytes());
        let ended = child.wait_with_output().unwrap();
        let (code, stderr) = (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned());
        assert!(
            matches!(code, Some(0 | 1)) && !stderr.contains("panicked"),
            "{verb} {said}: {code:?} {stderr}"
        );
        let told = String::from_utf8_lossy(&ended.stdout).into_owned();
        let document: Option<Value> =
            (!told.trim().is_empty()).then(|| serde_json::from_str(&told).expect("one document"));
        if code == Some(1) {
            let document = document.expect("an error is said");
            let named = document["msg"].as_str().or(document["error"].as_str());
            assert!(named.is_some_and(|text| !text.is_empty()), "{verb} {said}: {document}");
        }
    }
}

const OF_DOCKER: &[&str] = &[
    "NetworkID",
    "EndpointID",
    "Options",
    "Interface",
    "Address",
    "MacAddress",
    "SandboxKey",
    "PoolID",
    "Pool",
    "SubPool",
    "AddressSpace",
    "V6",
    "IPv4Data",
    "com.docker.network.portmap",
    "com.docker.network.generic",
    "Proto",
    "Port",
    "HostPort",
    "HostPortEnd",
    "HostIP",
    "weavers.mtu",
];
const PATHS: &[&str] = &[
    "Plugin.Activate",
    "NetworkDriver.CreateNetwork",
    "NetworkDriver.DeleteNetwork",
    "NetworkDriver.CreateEndpoint",
    "NetworkDriver.EndpointOperInfo",
    "NetworkDriver.Join",
    "NetworkDriver.ProgramExternalConnectivity",
    "NetworkDriver.RevokeExternalConnectivity",
    "NetworkDriver.Leave",
    "NetworkDriver.DeleteEndpoint",
    "IpamDriver.RequestPool",
    "IpamDriver.ReleasePool",
    "IpamDriver.RequestAddress",
    "IpamDriver.ReleaseAddress",
    "NetworkDriver.x",
    "",
];

/// A node behind the socket, with the time that it takes passing at once.
async fn behind(mut host: Host, mut calls: mpsc::Receiver<Call>, mut over: oneshot::Receiver<()>) -> Host {
    loop {
        let Call { request, reply } = tokio::select! {
            Some(call) = calls.recv() => call,
            _ = &mut over => return host,
        };
        let ApiRequest::Node(request) = request else { continue };
        host.answers.clear();
        host.ask(request);
        for _ in 0..40 {
            if host.answers.is_empty() {
                host.pass(1_000);
            }
        }
        let _ = reply.send(host.answers.pop().expect("it is answered"));
    }
}

/// A container of somebody, by this name.
fn connected(host: &mut Host, name: &str) -> Address {
    host.ask(Request::Allocate { ident: format!("{LEASE}{name}"), subnet: None });
    host.pass(1_000);
    let Some(Ok(Response::Addresses(found))) = host.answers.pop() else { panic!("{:?}", host.answers) };
    let address = found[0].addr().into();
    let (network, id) = ("net".to_owned(), name.to_owned());
    host.ask(Request::Docker(Order::Endpoint { network, id, address, mac: None }));
    host.pass(1_000);
    assert!(matches!(host.answers.pop(), Some(Ok(Response::Connected(_)))));
    address
}

#[tokio::test]
async fn whatever_comes_by_docker_s_socket_is_answered_and_the_containers_of_others_stay() {
    let mut host = Host::new();
    let addresses = ["one", "two"].map(|name| connected(&mut host, name));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("docker.sock");
    let (sender, calls) = mpsc::channel(8);
    let (done, over) = oneshot::channel();
    let served = tokio::spawn(api::docker::serve(UnixListener::bind(&path).unwrap(), sender));
    let asked = async {
        let mut runner = runner();
        let strategy = (
            prop::sample::select(PATHS),
            any_json(OF_DOCKER),
            any::<bool>(),
            prop::collection::vec(any::<u8>(), 0..60),
        );
        for number in 0..CALLS {
            let (call, body, is_json, bytes) = strategy.new_tree(&mut runner).unwrap().current();
            let body = if is_json { with_ids(body, number).to_string().into_bytes() } else { bytes };
            let head = format!(
                "POST /{call} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
            let mut told = Vec::new();
            let read = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut told)).await;
            read.expect("it is answered").unwrap();
            let told = String::from_utf8_lossy(&told).into_owned();
            let status: u16 = told.split(' ').nth(1).unwrap().parse().unwrap();
            assert!([200, 400, 404].contains(&status), "{call}: {told}");
            let answer = told.split("\r\n\r\n").nth(1).unwrap();
            assert!(serde_json::from_str::<Value>(answer).is_ok(), "{call}: {told}");
        }
        let _ = done.send(());
    };
    let (host, ()) = tokio::join!(behind(host, calls, over), asked);
    served.abort();
    let there: Vec<Address> = host.kernel.links.keys().copied().collect();
    for (name, address) in ["one", "two"].iter().zip(addresses) {
        let ident = format!("docker/net/{name}/eth");
        let attached = host.node.status().attachments.into_iter().find(|one| one.ident == ident);
        assert_eq!(attached.and_then(|one| one.address), Some(address), "{name}");
        assert!(there.contains(&address), "its link is there");
    }
}

/// Some of them name what might be there.
fn with_ids(mut body: Value, number: usize) -> Value {
    if let (Value::Object(object), true) = (&mut body, number.is_multiple_of(2)) {
        object.insert("NetworkID".to_owned(), json!("net"));
        object.insert("EndpointID".to_owned(), json!(format!("e{}", number % 7)));
    }
    body
}
