//! What a command that waits says meanwhile: on a terminal a line that is drawn anew, in a pipe a line for each thing that is awaited.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use weavers::{
    api::{
        Answer, ApiRequest,
        server::{Call, Socket},
    },
    node::protocol::{
        request::{Request, Response},
        status::{Note, Status},
    },
};

/// What is awaited, one after the other.
const AWAITED: [&str; 4] =
    ["3 steps of the plan", "2 steps of the plan", "peer müller-データベース to be heard", "packets to flow"];

/// A daemon that awaits these in turn, and is ready when it was asked once more.
async fn scene() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let socket = Socket::bind(&directory.path().join("weavers.sock")).await.unwrap();
    let (sender, mut calls) = mpsc::channel::<Call>(4);
    tokio::spawn(socket.serve(sender));
    tokio::spawn(async move {
        let mut held: Option<oneshot::Sender<Answer>> = None;
        let mut awaited = AWAITED.into_iter();
        while let Some(Call { request, reply, .. }) = calls.recv().await {
            match request {
                ApiRequest::Node(Request::AwaitReady) => held = Some(reply),
                ApiRequest::Node(Request::Status) => {
                    let next = awaited.next();
                    if let (None, Some(held)) = (next, held.take_if(|_| next.is_none())) {
                        drop(held.send(Ok(Response::Done)));
                    }
                    drop(reply.send(Ok(Response::Status(Box::new(waiting_for(next))))));
                }
                other => panic!("not asked in this scene: {other:?}"),
            }
        }
    });
    directory
}

fn waiting_for(what: Option<&str>) -> Status {
    let mut status: Status = serde_json::from_str(include_str!("data/status.json")).unwrap();
    status.waits = what.map(|what| Note { what: what.to_owned(), hint: None }).into_iter().collect();
    status
}

/// The command, as a shell has it; what it says goes to stderr alone.
fn waiting(directory: &Path, more: &str) -> String {
    let (program, socket) = (env!("CARGO_BIN_EXE_weavers"), directory.join("weavers.sock"));
    format!("{program} status --wait ready --socket {} {more} >/dev/null", socket.display())
}

/// What is said on a terminal so many columns wide.
async fn on_a_terminal(columns: usize, variables: &[(&'static str, &'static str)]) -> String {
    let scene = scene().await;
    let script = format!("stty cols {columns}; {}", waiting(scene.path(), ""));
    let mut command = Command::new("script");
    command.args(["-qec", &script, "/dev/null"]).env("TERM", "xterm").envs(variables.to_vec());
    said(command).await.0
}

async fn in_a_pipe(more: &str) -> String {
    let scene = scene().await;
    let mut command = Command::new("sh");
    command.args(["-c", &waiting(scene.path(), more)]);
    said(command).await.1
}

async fn said(mut command: Command) -> (String, String) {
    command.env_remove("CLICOLOR_FORCE").env_remove("FORCE_COLOR").stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).into()
}

#[tokio::test]
async fn on_a_terminal_it_is_one_line_no_wider_than_that_and_gone_in_the_end() {
    const COLUMNS: usize = 30;
    let said = on_a_terminal(COLUMNS, &[("NO_COLOR", "1")]).await;
    assert!(!said.contains('\n'), "{said:?}");
    let drawn: Vec<&str> = said.split("\r\x1b[K").collect();
    assert_eq!(
        drawn[1..5],
        [
            "waiting for 3 steps of the pl",
            "waiting for 2 steps of the pl",
            "waiting for peer müller-デー",
            "waiting for packets to flow"
        ]
    );
    assert_eq!(drawn.last(), Some(&""), "{said:?}");
    assert!(!said.contains("\x1b[2m") && drawn.iter().all(|line| line.chars().count() < COLUMNS), "{said:?}");
}

#[tokio::test]
async fn a_terminal_has_colours_and_one_that_cannot_go_back_has_lines() {
    let (bright, dumb) = tokio::join!(on_a_terminal(200, &[]), on_a_terminal(200, &[("TERM", "dumb")]));
    assert!(bright.contains("\x1b[2mwaiting for 3 steps of the plan\x1b[0m"), "{bright:?}");
    assert!(!dumb.contains('\x1b'), "{dumb:?}");
    assert_eq!(dumb.lines().count(), 3, "{dumb:?}");
}

#[tokio::test]
async fn in_a_pipe_it_is_a_line_for_each_thing_and_none_beside_a_document() {
    // Nobody asks how far it is, so that it waits in vain.
    let (talk, document) = tokio::join!(in_a_pipe(""), in_a_pipe("--json --timeout 2s"));
    let lines: Vec<&str> = talk.lines().collect();
    let expected = [
        "waiting for 3 steps of the plan",
        "waiting for peer müller-データベース to be heard",
        "waiting for packets to flow",
    ];
    assert_eq!(lines, expected, "a number that changes is no news");
    assert_eq!(document, "");
}
