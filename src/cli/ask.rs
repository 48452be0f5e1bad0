//! Speaks with the daemon, within the time that the caller allows.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{Failure, Global};
use crate::{
    api::{
        ApiRequest, FORMAT_VERSION,
        client::{ClientError, call},
    },
    config::Sources,
    node::protocol::{
        request::{Request, Response},
        status::Status,
    },
};

/// Time between two attempts to reach a daemon that is expected to come.
const RETRY: Duration = Duration::from_millis(100);

/// The daemon, and until when to wait for it.
pub(super) struct Daemon<'a> {
    global: &'a Global,
    until: Instant,
}

impl<'a> Daemon<'a> {
    /// Starts the clock.
    pub fn new(global: &'a Global) -> Daemon<'a> {
        // A timeout that no clock can count is as good as a year.
        let year = Duration::from_secs(365 * 86_400);
        Daemon { global, until: Instant::now() + global.timeout.min(year) }
    }

    /// One question to the daemon itself.
    pub async fn ask(&self, request: ApiRequest) -> Result<Response, ClientError> {
        let left = self.until.saturating_duration_since(Instant::now());
        call(&self.global.socket, &request, left).await.map_err(|error| match error {
            ClientError::Late(_) => ClientError::Late(self.global.timeout),
            other => other,
        })
    }

    /// What it knows of its configuration file, and whether these say something else.
    pub async fn configuration(&self, sources: Option<&Sources>) -> Result<Configuration, Failure> {
        let config = self.status().await?.config;
        let other = |in_force: &String| sources.is_some_and(|sources| sources.digest() != *in_force);
        let pending = config.in_force_sha256.as_ref().map_or(config.pending, other);
        Ok(Configuration {
            daemon: true,
            pending,
            in_force: config.in_force_sha256,
            needs_restart: config.needs_restart,
        })
    }

    /// One question to its node.
    pub async fn node(&self, request: Request) -> Result<Response, ClientError> {
        self.ask(ApiRequest::Node(request)).await
    }

    /// Its status.
    pub async fn status(&self) -> Result<Box<Status>, Failure> {
        match self.node(Request::Status).await? {
            Response::Status(status) => Ok(status),
            other => Err(unexpected(&other)),
        }
    }

    /// As [`Daemon::node`], for a daemon that may be starting: it is expected until the time is over.
    pub async fn node_when_up(&self, request: Request) -> Result<Response, ClientError> {
        loop {
            match self.node(request.clone()).await {
                Err(ClientError::Unreachable { .. }) if Instant::now() + RETRY < self.until => {
                    sleep(RETRY).await
                }
                answer => return answer,
            }
        }
    }
}

/// How far the configuration file is in force.
#[derive(Debug, Default)]
pub(super) struct Configuration {
    /// A daemon runs.
    pub daemon: bool,
    /// The file says something else than what is in force.
    pub pending: bool,
    /// What tells the text in force from others.
    pub in_force: Option<String>,
    /// Keys whose value in force is read at the start only.
    pub needs_restart: Vec<String>,
}

impl Configuration {
    /// Adds it to a document.
    pub fn add_to(&self, document: &mut Value) {
        document["daemon"] = json!(self.daemon);
        document["config"] = json!({ "pending": self.pending, "needs_restart": self.needs_restart });
    }
}

/// The answer does not belong to the question: daemon and program are of different versions.
pub(super) fn unexpected(answer: &Response) -> Failure {
    let kind = match answer {
        Response::Status(_) => "a status",
        Response::Plan(_) => "a plan",
        Response::Metrics(_) => "measurements",
        Response::Attached { .. } => "an attachment",
        Response::Joined(_) | Response::Connected(_) => "a connection",
        Response::Lent(_) => "a loan",
        Response::Ring(_) => "a ring",
        Response::Explanation(_) => "an explanation",
        Response::Permissions(_) => "permissions",
        Response::Addresses(_) => "addresses",
        Response::Moved { .. } => "a move",
        Response::Absent => "the absence of something",
        Response::Done => "done",
    };
    Failure::failed(format!("the daemon answered with {kind}, which was not asked"))
        .hint("is it of another version?")
}

/// A document that says only that it is done.
pub(super) fn done() -> Value {
    json!({ "format_version": FORMAT_VERSION, "done": true })
}
