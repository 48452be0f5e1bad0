//! `weavers docker`: what Docker has to be told.

use clap::Subcommand;
use serde_json::json;

use super::{
    Exit, Failure, Global,
    ask::{self, Daemon},
    screen::Screen,
};
use crate::{
    api::FORMAT_VERSION,
    node::protocol::{
        request::{Request, Response},
        status::Status,
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum Docker {
    /// Print what Docker's daemon.json has to say for docker0 to have the block that is held for it
    Bridge,
}

impl Docker {
    pub async fn exec(self, global: &Global, screen: &Screen) -> Result<Exit, Failure> {
        let Docker::Bridge = self;
        let status = match Daemon::new(global).node(Request::Status).await? {
            Response::Status(status) => status,
            other => return Err(ask::unexpected(&other)),
        };
        let told = status.docker_bridge.as_ref().ok_or_else(off)?;
        let keys = told.daemon_json.as_ref().ok_or_else(|| not_yet(&status))?;
        screen.answer(
            || json!({ "format_version": FORMAT_VERSION, "docker_bridge": told }),
            || format!("{:#}\n", json!(keys)),
        );
        Ok(Exit::Success)
    }
}

fn off() -> Failure {
    Failure::failed("weavers holds no block for docker0")
        .hint("set [docker] bridge = \"print\" or \"write\" in weave.toml, then `weavers reload`")
}

fn not_yet(status: &Status) -> Failure {
    let why = status.waits.first().map_or("a look at the host", |wait| wait.what.as_str());
    Failure::failed(format!("no block is held for docker0 yet: waiting for {why}"))
        .hint("see `weavers status`")
}
