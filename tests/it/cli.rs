//! The program itself: exit codes, and what goes to stdout and what to stderr.

#![allow(clippy::unwrap_used)] // A test stops at what it did not expect.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use ipnet::Ipv4Net;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::mpsc, task::JoinHandle};
use weavers::{
    api::{
        Answer, ApiRequest,
        server::{Call, Socket},
    },
    ipam::Ring,
    migrate::Database,
    node::protocol::{
        request::{Refusal, RefusalKind, Request, Response},
        status::Status,
    },
    peer::PeerName,
    plan::{Change, Plan},
    sim::router_data,
    state::{Action, Ec2Action, TableId},
};

/// What the configuration file of a scene says.
const CONFIG: &str = "[ipam]\nrange = \"10.32.0.0/12\"\n";

/// A directory with a control socket in it, and a daemon behind it that answers by rote.
struct Scene {
    directory: TempDir,
    _daemon: JoinHandle<()>,
}

impl Scene {
    async fn with(answer: impl Fn(ApiRequest) -> Answer + Send + 'static) -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let socket = Socket::bind(&directory.path().join("weavers.sock")).await.unwrap();
        let (sender, mut calls) = mpsc::channel::<Call>(4);
        let daemon = tokio::spawn(async move {
            let serving = tokio::spawn(socket.serve(sender));
            while let Some(call) = calls.recv().await {
                let _gone = call.reply.send(answer(call.request));
            }
            serving.abort();
        });
        Scene { directory, _daemon: daemon }
    }

    fn write_config(&self) {
        std::fs::write(self.directory.path().join("weave.toml"), CONFIG).unwrap();
    }

    async fn run(&self, args: &[&str]) -> Output {
        let [socket, config] = ["weavers.sock", "weave.toml"].map(|name| self.directory.path().join(name));
        let args = args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
        tokio::task::spawn_blocking(move || {
            command().args(args).arg("--socket").arg(socket).arg("--config").arg(config).output().unwrap()
        })
        .await
        .unwrap()
    }
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weavers"));
    command.env_remove("CLICOLOR_FORCE").env_remove("FORCE_COLOR");
    command
}

fn weavers(args: &[&str]) -> Output {
    command().args(args).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn file(directory: &Path, text: &str) -> PathBuf {
    let path = directory.join("candidate.tmp");
    fs::write(&path, text).unwrap();
    path
}

// ===== without a daemon =====

#[test]
fn a_bad_command_line_is_not_taken_for_pending_changes() {
    for args in [
        &["plan", "--detailed-exit-code"][..],
        &["nonsense"],
        &[],
        &["attach"],
        &["status", "--timeout", "soon"],
    ] {
        assert_eq!(code(&weavers(args)), 64, "{args:?}");
    }
    let output = weavers(&["nonsense", "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["error"]["kind"], "usage");
}

#[test]
fn help_and_version_are_no_errors() {
    assert_eq!(code(&weavers(&["--version"])), 0);
    let output = weavers(&["--help"]);
    assert_eq!(code(&output), 0);
    assert!(stdout(&output).contains("78  invalid configuration"));
}

#[test]
fn without_a_daemon_the_code_is_4_and_the_way_out_is_named() {
    for command in [&["status"][..], &["apply"], &["reload"], &["detach", "1"], &["ipam", "show"], &["drain"]]
    {
        let output = weavers(&[command, &["--socket", "/nonexistent/weavers.sock"]].concat());
        assert_eq!(code(&output), 4, "{command:?}");
        assert!(stdout(&output).is_empty());
        assert!(stderr(&output).contains("hint: is it running?"), "{}", stderr(&output));
    }
}

/// What a router would keep that owns everything.
fn data_of(peer: u64) -> Vec<u8> {
    let name = PeerName::from_u64(peer);
    let ring = Ring::seeded(name, "10.32.0.0/12".parse::<Ipv4Net>().unwrap().into(), [name]);
    router_data::file(&Database { name, ring, users: [].into() })
}

#[test]
fn a_router_is_taken_over_from_once_and_its_data_are_left_as_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let config = file(directory.path(), "peers = ['10.0.1.12']\n[vpc]\nprovider = 'none'\n");
    let (state, data) = (directory.path().join("state"), directory.path().join("weavedata.db"));
    let migrate = |more: &[&str]| {
        let [config, state, data] = [&config, &state, &data].map(|path| path.to_str().unwrap());
        let args = ["migrate", "--config", config, "--state", state, "--database", data];
        weavers(&[&args[..], &["--socket", "/nonexistent/weavers.sock"], more].concat())
    };
    fs::write(&data, "something else").unwrap();
    let output = migrate(&["--yes"]);
    assert_eq!(code(&output), 1);
    assert!(
        stderr(&output).contains("weavedata.db cannot be taken over: it is no bolt file"),
        "{}",
        stderr(&output)
    );
    fs::write(&data, data_of(1)).unwrap();
    let output = migrate(&["--json"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&document["state"], &document["migration"]["name"]),
        (&"before".into(), &"00:00:00:00:00:01".into())
    );
    assert!(!state.exists(), "nothing is written unless it is asked for");
    for _ in 0..2 {
        let output = migrate(&["--yes"]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert!(stdout(&output).contains("The store is written"), "{}", stdout(&output));
    }
    assert_eq!(fs::read(&data).unwrap(), data_of(1));
    fs::write(&data, data_of(2)).unwrap();
    let output = migrate(&["--yes"]);
    assert_eq!(code(&output), 5);
    assert!(stderr(&output).contains("is that of peer 00:00:00:00:00:01"), "{}", stderr(&output));
}

#[test]
fn an_error_is_one_document_too() {
    let output = weavers(&["status", "--json", "--socket", "/nonexistent/weavers.sock"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["format_version"], "1.0");
    assert_eq!(document["error"]["kind"], "unreachable");
    assert!(stderr(&output).is_empty());
}

#[test]
fn a_sound_file_is_one_line_under_any_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "peers = ['10.0.0.1']\n");
    let output = weavers(&["validate", path.to_str().unwrap()]);
    assert_eq!(code(&output), 0);
    assert_eq!(stdout(&output), format!("{}: valid\n", path.display()));
    assert_eq!(stderr(&output), "");
}

#[test]
fn a_bad_file_is_all_its_problems_and_78() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "[network]\nmtu = 1\nmut = 2\n");
    let output = weavers(&["validate", path.to_str().unwrap()]);
    assert_eq!(code(&output), 78);
    let name = path.display();
    let expected = format!(
        "{name}:2:7: network.mtu: 1 is not between 576 and 65535\n{name}:3:1: network.mut: unknown key (did you mean \"mtu\"?)\n"
    );
    assert_eq!(stderr(&output), expected);
    assert_eq!(stdout(&output), "");

    let output = weavers(&["validate", "--json", path.to_str().unwrap()]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["error"]["problems"][1]["line"], 3);
}

#[test]
fn a_file_that_is_not_there_is_no_configuration() {
    assert_eq!(code(&weavers(&["validate", "/nonexistent/weave.toml"])), 78);
    assert_eq!(code(&weavers(&["run", "--config", "/nonexistent/weave.toml"])), 78);
}

#[test]
fn what_has_no_effect_is_said_on_stderr() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "vpc.reclaim = '2h'\nmesh.weave_peers = true\n");
    let output = weavers(&["validate", path.to_str().unwrap()]);
    assert_eq!(code(&output), 0);
    assert!(stderr(&output).starts_with("warning: "), "{}", stderr(&output));
    assert_eq!(stdout(&output).lines().count(), 1);
}

#[test]
fn manual_pages_and_completions_are_written() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(code(&weavers(&["man", directory.path().to_str().unwrap()])), 0);
    assert!(directory.path().join("weavers-plan.8").exists());
    assert!(stdout(&weavers(&["completion", "bash"])).contains("weavers"));
}

// ===== with a daemon =====

fn one_change() -> Plan {
    let action = Action::Ec2(Ec2Action::DeleteRoute {
        table: TableId("rtb-0a1".to_owned()).into(),
        destination: "10.32.0.0/16".parse().unwrap(),
    });
    Plan {
        changes: vec![Change {
            action,
            cause: "given away".to_owned(),
            before: "eni-self".into(),
            containers: vec!["web".to_owned()],
        }],
        ..Plan::default()
    }
}

/// Answers reload and apply; the plan has `changes` or none.
fn applying(plan: Plan) -> impl Fn(ApiRequest) -> Answer + Send + 'static {
    answering(plan, status())
}

fn answering(plan: Plan, status: Status) -> impl Fn(ApiRequest) -> Answer + Send + 'static {
    move |request| match request {
        ApiRequest::Reload => Ok(Response::Done),
        ApiRequest::Node(Request::Apply) | ApiRequest::Preview { .. } => {
            Ok(Response::Plan(Box::new(plan.clone())))
        }
        ApiRequest::Node(Request::Status) => Ok(Response::Status(Box::new(status.clone()))),
        other => panic!("not asked in this scene: {other:?}"),
    }
}

fn status() -> Status {
    serde_json::from_str(include_str!("data/status.json")).unwrap()
}

#[tokio::test]
async fn pending_changes_are_2_only_where_that_is_asked_for() {
    let scene = Scene::with(applying(one_change())).await;
    assert_eq!(code(&scene.run(&["plan"]).await), 78, "the file that was named is not there");
    scene.write_config();
    assert_eq!(code(&scene.run(&["plan"]).await), 0);
    let output = scene.run(&["plan", "--detailed-exitcode"]).await;
    assert_eq!(code(&output), 2);
    assert!(stdout(&output).ends_with("Plan: 1 to delete. Nothing was changed.\n"), "{}", stdout(&output));
    assert!(!stdout(&output).contains('\x1b'), "no colour in a pipe");
    let output = scene.run(&["plan", "--color", "always"]).await;
    assert!(stdout(&output).contains('\x1b'));

    let scene = Scene::with(applying(Plan::default())).await;
    scene.write_config();
    assert_eq!(code(&scene.run(&["plan", "--detailed-exitcode"]).await), 0);
    let output = scene.run(&["plan", "--json"]).await;
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["complete"], true);
}

/// Configuration managers go by the exit code: a file that changes nothing on the host, and is not in force, is a change.
#[tokio::test]
async fn a_file_that_is_not_in_force_is_a_change_though_nothing_else_is() {
    let in_force = |text: &str| {
        let mut status = status();
        status.config.in_force_sha256 = Some(weavers::config::digest(text));
        status
    };
    let scene = Scene::with(answering(Plan::default(), in_force("another text"))).await;
    scene.write_config();
    let output = scene.run(&["plan", "--detailed-exitcode", "--json"]).await;
    assert_eq!(code(&output), 2);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&document["config"]["pending"], &document["daemon"]), (&json!(true), &json!(true)));
    let scene = Scene::with(answering(Plan::default(), in_force(CONFIG))).await;
    scene.write_config();
    assert_eq!(code(&scene.run(&["plan", "--detailed-exitcode"]).await), 0);
}

#[tokio::test]
async fn a_plan_without_the_vpc_is_1_and_says_so() {
    let unread = vec!["the VPC cannot be read: UnauthorizedOperation".to_owned()];
    for plan in [Plan::default(), one_change()] {
        let scene = Scene::with(applying(Plan { unread: unread.clone(), ..plan })).await;
        scene.write_config();
        for args in [&["plan"][..], &["plan", "--detailed-exitcode"], &["plan", "--diff"]] {
            assert_eq!(code(&scene.run(args).await), 1, "{args:?}");
        }
        let output = scene.run(&["plan", "--json"]).await;
        assert_eq!(code(&output), 1);
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["complete"], false);
        assert_eq!(document["notes"][0], unread[0]);
    }
}

#[tokio::test]
async fn an_error_with_a_nickname_in_it_steers_no_terminal() {
    const SAID: &str = "no peer named \x1b[2J\x1b]0;owned\x07web\nhint: all is well\u{202e}";
    let refused = |_| Err(Refusal::new(RefusalKind::NotFound, SAID).hint("not\r\x1b[31m this"));
    let scene = Scene::with(refused).await;
    let output = scene.run(&["forget", "web"]).await;
    assert_eq!(stderr(&output).lines().count(), 2, "{}", stderr(&output));
    assert!(!stderr(&output).contains(['\x1b', '\x07', '\r', '\u{202e}']), "{:?}", stderr(&output));
    let output = scene.run(&["forget", "web", "--json"]).await;
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["error"]["message"], SAID, "programs are told what was said");
}

#[test]
fn the_name_of_a_file_or_a_key_in_it_steers_no_terminal() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("\x1b]0;owned\x07\nx");
    fs::write(&path, "\"a\\u001b]0;b\\n\" = 1\n").unwrap();
    for args in [&["validate"][..], &["plan", "--config"], &["nonsense"]] {
        let output = command().args(args).arg(&path).output().unwrap();
        assert!(!stderr(&output).contains(['\x1b', '\x07']), "{args:?}: {:?}", stderr(&output));
        assert!(!stderr(&output).lines().any(|line| line.starts_with('x')), "{:?}", stderr(&output));
    }
}

#[tokio::test]
async fn apply_tells_what_it_changed() {
    let scene = Scene::with(applying(one_change())).await;
    let output = scene.run(&["apply", "--detailed-exitcode"]).await;
    assert_eq!(code(&output), 2);
    assert!(stdout(&output).ends_with("Applied: 1 deleted.\n"));
    let output = scene.run(&["apply", "--json"]).await;
    assert_eq!(code(&output), 0);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["summary"]["delete"], 1);
}

#[tokio::test]
async fn a_status_that_is_not_converged_is_3_where_it_is_checked() {
    let scene = Scene::with(applying(Plan::default())).await;
    assert_eq!(code(&scene.run(&["status"]).await), 0);
    let output = scene.run(&["status", "--check", "--json"]).await;
    assert_eq!(code(&output), 3);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["converged"], false);
    assert_eq!(document["format_version"], "1.0");
}

#[tokio::test]
async fn what_the_daemon_refuses_for_safety_is_5_and_a_bad_file_78() {
    let scene = Scene::with(|request| {
        let kind = match request {
            ApiRequest::Reload | ApiRequest::Node(Request::Apply) => RefusalKind::Config,
            ApiRequest::Node(Request::Reset) => RefusalKind::Unsafe,
            _ => RefusalKind::NotFound,
        };
        Err(Refusal::new(kind, "no").hint("try something else"))
    })
    .await;
    assert_eq!(code(&scene.run(&["reset"]).await), 5);
    assert_eq!(code(&scene.run(&["reload"]).await), 78);
    assert_eq!(code(&scene.run(&["apply"]).await), 78);
    let output = scene.run(&["forget", "b"]).await;
    assert_eq!(code(&output), 1);
    assert_eq!(stderr(&output), "error: no\nhint: try something else\n");
}

#[tokio::test]
async fn waiting_in_vain_names_what_was_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let socket = Socket::bind(&directory.path().join("weavers.sock")).await.unwrap();
    let (sender, mut calls) = mpsc::channel::<Call>(4);
    let serving = tokio::spawn(socket.serve(sender));
    let daemon = tokio::spawn(async move {
        let mut waiting = Vec::new();
        while let Some(call) = calls.recv().await {
            match call.request {
                ApiRequest::Node(Request::AwaitReady) => waiting.push(call.reply),
                _ => drop(call.reply.send(Ok(Response::Status(Box::new(status()))))),
            }
        }
    });
    let scene = Scene { directory, _daemon: daemon };
    let output = scene.run(&["status", "--wait", "ready", "--timeout", "300ms"]).await;
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("not ready within 300ms: the first ring"), "{}", stderr(&output));
    serving.abort();
}

#[tokio::test]
async fn an_attached_container_is_its_address() {
    let scene = Scene::with(|request| match request {
        ApiRequest::AttachTarget { target, name, subnet: None } => {
            assert_eq!((target.as_str(), name.as_deref()), ("42", Some("web")));
            Ok(Response::Attached { address: "10.32.0.1/12".parse().unwrap(), ipv6: None, mtu: 1376 })
        }
        other => panic!("not asked in this scene: {other:?}"),
    })
    .await;
    let output = scene.run(&["attach", "42", "--name", "web"]).await;
    assert_eq!((code(&output), stdout(&output)), (0, "10.32.0.1\n"));
}

#[tokio::test]
async fn what_is_not_attached_is_detached_with_a_word_to_the_person() {
    let scene = Scene::with(|request| match request {
        ApiRequest::DetachTarget { target } if target == "web" => Ok(Response::Done),
        ApiRequest::DetachTarget { .. } => Ok(Response::Absent),
        other => panic!("not asked in this scene: {other:?}"),
    })
    .await;
    let output = scene.run(&["detach", "web"]).await;
    assert_eq!((code(&output), stdout(&output), stderr(&output)), (0, "", ""));
    let output = scene.run(&["detach", "no-container-has-this-name"]).await;
    assert_eq!((code(&output), stdout(&output)), (0, ""));
    assert_eq!(stderr(&output), "nothing is attached here as \"no-container-has-this-name\"\n");
}

#[tokio::test]
async fn a_target_that_means_nothing_to_the_daemon_is_looked_up_before_it_is_given_up() {
    let scene = Scene::with(|request| match request {
        ApiRequest::DetachTarget { target } if target.ends_with("/tests") => Ok(Response::Done),
        ApiRequest::DetachTarget { .. } => Ok(Response::Absent),
        other => panic!("not asked in this scene: {other:?}"),
    })
    .await;
    let output = scene.run(&["detach", "./tests"]).await;
    assert_eq!((code(&output), stderr(&output)), (0, ""));
}
