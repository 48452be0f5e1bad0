//! Server and client over a real socket.

#![allow(clippy::unwrap_used)] // A test stops at what it did not expect.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::mpsc,
    task::JoinHandle,
};
use weavers::{
    api::{
        ApiRequest,
        client::{ClientError, call},
        server::{Call, Socket},
    },
    node::protocol::request::{Refusal, RefusalKind, Request, Response},
};

const SOON: Duration = Duration::from_secs(10);

struct Daemon {
    directory: TempDir,
    calls: mpsc::Receiver<Call>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Daemon {
    async fn start() -> Daemon {
        let directory = tempfile::tempdir().unwrap();
        let socket = Socket::bind(&directory.path().join("run/weavers.sock")).await.unwrap();
        let (sender, calls) = mpsc::channel(4);
        Daemon { directory, calls, serving: tokio::spawn(socket.serve(sender)) }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.directory.path().join("run/weavers.sock")
    }

    /// Asks in the background.
    fn ask(&self, request: ApiRequest) -> JoinHandle<Result<Response, ClientError>> {
        let socket = self.socket();
        tokio::spawn(async move { call(&socket, &request, SOON).await })
    }

    async fn next(&mut self) -> Call {
        tokio::time::timeout(SOON, self.calls.recv()).await.unwrap().unwrap()
    }

    /// Says what HTTP a program without a library would say.
    async fn raw(&self, text: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

#[tokio::test]
async fn a_question_reaches_the_loop_and_its_answer_the_caller() {
    let mut daemon = Daemon::start().await;
    let asked = daemon.ask(ApiRequest::AttachTarget {
        target: "42".to_owned(),
        name: Some("web".to_owned()),
        subnet: None,
    });
    let taken = daemon.next().await;
    assert_eq!(
        taken.request,
        ApiRequest::AttachTarget { target: "42".to_owned(), name: Some("web".to_owned()), subnet: None }
    );
    let answer = Response::Attached { address: "10.32.0.1/12".parse().unwrap(), ipv6: None, mtu: 1376 };
    taken.reply.send(Ok(answer.clone())).unwrap();
    assert_eq!(asked.await.unwrap().unwrap(), answer);
}

#[tokio::test]
async fn a_refusal_arrives_with_its_way_out() {
    let mut daemon = Daemon::start().await;
    let asked = daemon.ask(ApiRequest::Node(Request::Reset));
    let refusal = Refusal::new(RefusalKind::Unsafe, "containers are attached").hint("detach them");
    daemon.next().await.reply.send(Err(refusal.clone())).unwrap();
    match asked.await.unwrap() {
        Err(ClientError::Refused(arrived)) => assert_eq!(arrived, refusal),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_loop_notices_a_caller_who_went_away() {
    let mut daemon = Daemon::start().await;
    let asked = daemon.ask(ApiRequest::Node(Request::Apply));
    let mut taken = daemon.next().await;
    asked.abort();
    tokio::time::timeout(SOON, taken.reply.closed()).await.expect("the reply is closed");
}

#[tokio::test]
async fn the_loop_notices_a_caller_who_was_out_of_patience() {
    let mut daemon = Daemon::start().await;
    let socket = daemon.socket();
    let asked = tokio::spawn(async move {
        call(&socket, &ApiRequest::Node(Request::Apply), Duration::from_millis(50)).await
    });
    let mut taken = daemon.next().await;
    assert!(matches!(asked.await.unwrap(), Err(ClientError::Late(_))));
    tokio::time::timeout(SOON, taken.reply.closed()).await.expect("the reply is closed");
}

#[tokio::test]
async fn a_daemon_that_drops_a_question_is_stopping() {
    let mut daemon = Daemon::start().await;
    let asked = daemon.ask(ApiRequest::Node(Request::Status));
    drop(daemon.next().await);
    assert!(
        matches!(asked.await.unwrap(), Err(ClientError::Refused(refusal)) if refusal.message.contains("stopping"))
    );
}

#[tokio::test]
async fn any_program_can_ask_in_plain_http() {
    let daemon = Daemon::start().await;
    let answer = daemon.raw("GET /v1/nonsense HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains(r#"{"format_version":"1.0","error":{"kind":"invalid""#), "{answer}");
    let answer = daemon.raw("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

#[tokio::test]
async fn a_body_beyond_its_bound_is_refused() {
    let daemon = Daemon::start().await;
    let head = "POST /v1/attach HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1048577\r\n\r\n";
    let answer = daemon.raw(&(head.to_owned() + &" ".repeat((1 << 20) + 1))).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn callers_beyond_the_bound_are_sent_away_and_the_rest_are_served() {
    let mut daemon = Daemon::start().await;
    let asked: Vec<_> = (0..70).map(|_| daemon.ask(ApiRequest::Node(Request::Plan))).collect();
    let mut waiting = Vec::new();
    while waiting.len() < 64 {
        waiting.push(daemon.next().await);
    }
    for call in waiting {
        call.reply.send(Ok(Response::Done)).unwrap();
    }
    daemon.calls.close();
    let mut served = 0;
    for asked in asked {
        served += usize::from(asked.await.unwrap().is_ok());
    }
    assert_eq!(served, 64);
}

#[tokio::test]
async fn a_trial_is_confirmed_while_as_many_wait_as_may() {
    let mut daemon = Daemon::start().await;
    let attach = |n: usize| ApiRequest::AttachTarget { target: n.to_string(), name: None, subnet: None };
    let _asked: Vec<_> = (0..64).map(|n| daemon.ask(attach(n))).collect();
    let mut waiting = Vec::new();
    while waiting.len() < 64 {
        waiting.push(daemon.next().await);
    }
    let Err(ClientError::Refused(refusal)) = daemon.ask(attach(64)).await.unwrap() else { panic!("refused") };
    assert!(refusal.message.contains("64 calls are waiting"), "{}", refusal.message);
    let short = [Request::Confirm, Request::Status, Request::ShowRing, Request::Lookup { ident: "a".into() }];
    for request in short.map(ApiRequest::Node).into_iter().chain([ApiRequest::Reload]) {
        let asked = daemon.ask(request.clone());
        let call = daemon.next().await;
        assert_eq!(call.request, request);
        call.reply.send(Ok(Response::Done)).unwrap();
        assert_eq!(asked.await.unwrap().unwrap(), Response::Done);
    }
}

/// Asks until a daemon answers there.
async fn answers(daemon: &mut Daemon) {
    let deadline = tokio::time::Instant::now() + SOON;
    while UnixStream::connect(daemon.socket()).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the socket is not back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let asked = daemon.ask(ApiRequest::Reload);
    daemon.next().await.reply.send(Ok(Response::Done)).unwrap();
    assert_eq!(asked.await.unwrap().unwrap(), Response::Done);
}

#[tokio::test]
async fn a_socket_that_was_removed_comes_back_and_so_does_its_directory() {
    let mut daemon = Daemon::start().await;
    let waiting = daemon.ask(ApiRequest::Node(Request::Apply));
    let taken = daemon.next().await;
    fs::remove_file(daemon.socket()).unwrap();
    answers(&mut daemon).await;
    fs::remove_dir_all(daemon.socket().parent().unwrap()).unwrap();
    answers(&mut daemon).await;
    assert_eq!(fs::metadata(daemon.socket()).unwrap().permissions().mode() & 0o777, 0o660);
    taken.reply.send(Ok(Response::Done)).unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), Response::Done, "who was connected stays so");
}

#[tokio::test]
async fn a_daemon_takes_no_socket_from_another_that_serves() {
    let mut daemon = Daemon::start().await;
    fs::remove_file(daemon.socket()).unwrap();
    // With a queue that is full: a caller cannot tell that anybody is there, and somebody is.
    let other = std::os::unix::net::UnixListener::bind(daemon.socket()).unwrap();
    nix::sys::socket::listen(&other, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let _queued = std::os::unix::net::UnixStream::connect(daemon.socket()).unwrap();
    let inode = |path| std::os::unix::fs::MetadataExt::ino(&fs::symlink_metadata(path).unwrap());
    let theirs = inode(daemon.socket());
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(inode(daemon.socket()), theirs);
    drop(other);
    answers(&mut daemon).await;
    fs::remove_file(daemon.socket()).unwrap();
    fs::write(daemon.socket(), "precious").unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(fs::read_to_string(daemon.socket()).unwrap(), "precious");
}

#[tokio::test]
async fn the_socket_is_for_its_owner_and_group() {
    let daemon = Daemon::start().await;
    assert_eq!(fs::metadata(daemon.socket()).unwrap().permissions().mode() & 0o777, 0o660);
}

#[tokio::test]
async fn a_second_daemon_leaves_the_first_alone() {
    let mut daemon = Daemon::start().await;
    let error = Socket::bind(&daemon.socket()).await.unwrap_err();
    assert!(error.to_string().starts_with("another weavers is running"), "{error}");
    let asked = daemon.ask(ApiRequest::Reload);
    daemon.next().await.reply.send(Ok(Response::Done)).unwrap();
    assert_eq!(asked.await.unwrap().unwrap(), Response::Done);
}

#[tokio::test]
async fn a_socket_that_a_dead_daemon_left_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weavers.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    Socket::bind(&path).await.unwrap();
}

#[tokio::test]
async fn what_is_no_socket_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weavers.sock");
    fs::write(&path, "precious").unwrap();
    assert!(Socket::bind(&path).await.is_err());
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn a_daemon_that_ends_takes_its_socket_along() {
    let daemon = Daemon::start().await;
    let path = daemon.socket();
    drop(daemon.calls);
    tokio::time::timeout(SOON, daemon.serving).await.unwrap().unwrap().unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn without_a_daemon_the_caller_learns_what_to_do() {
    let error = call(Path::new("/nonexistent/weavers.sock"), &ApiRequest::Reload, SOON).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }));
    assert!(error.hint().unwrap().contains("systemctl start weavers"));
}
