//! `weavers status`: peers, addresses, routes and containers of this host, and what it is waiting for.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::{
    Exit, Failure, Global,
    ask::Daemon,
    progress::{self, Progress},
    render,
    screen::Screen,
};
use crate::{
    api::client::ClientError,
    node::protocol::{request::Request, status},
};

#[derive(Debug, Args)]
pub(super) struct Status {
    /// End with 3 unless the last look left nothing to do
    #[arg(long)]
    check: bool,
    /// Wait for it first, also for a daemon that is starting
    #[arg(long, value_name = "WHAT")]
    wait: Option<Wait>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Wait {
    /// A container attached now is reachable
    Ready,
}

impl Status {
    pub async fn exec(self, global: &Global, screen: &Screen) -> Result<Exit, Failure> {
        if let Some(Wait::Ready) = self.wait {
            await_ready(global, screen).await?;
        }
        let status = Daemon::new(global).status().await?;
        screen.answer(|| json!(status), || render::status::text(&status));
        Ok(if self.check && !status.converged { Exit::NotConverged } else { Exit::Success })
    }
}

/// What it waited for in vain is said, since the caller would ask next.
async fn await_ready(global: &Global, screen: &Screen) -> Result<(), Failure> {
    let daemon = Daemon::new(global);
    let ready = daemon.node_when_up(Request::AwaitReady);
    match progress::telling(global, screen, peers, ready).await {
        Ok(_) => Ok(()),
        Err(error @ ClientError::Late(_)) => {
            let waits = Daemon::new(global).status().await.map_or_else(|_| Vec::new(), |status| status.waits);
            let failure = Failure::from(error);
            Err(match waits.first() {
                Some(status::Note { what, hint }) => Failure {
                    message: format!(
                        "not ready within {}: {what}",
                        humantime::format_duration(global.timeout)
                    ),
                    hint: hint.clone(),
                    ..failure
                },
                None => failure,
            })
        }
        Err(error) => Err(error.into()),
    }
}

/// Who is there, and what is missing.
fn peers(status: &status::Status, _: Duration) -> Progress {
    let connected = status.connections.iter().filter(|connection| connection.peer.is_some()).count();
    let done = match connected {
        0 => String::new(),
        1 => "connected to 1 peer".to_owned(),
        many => format!("connected to {many} peers"),
    };
    Progress { done, awaited: progress::first_wait(status, "packets to flow") }
}
