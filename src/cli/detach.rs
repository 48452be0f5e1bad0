//! `weavers detach`: disconnect a container.

use clap::Args;

use super::{
    Exit, Failure, Global,
    ask::{self, Daemon},
    screen::Screen,
    target,
};
use crate::{api::ApiRequest, node::protocol::request::Response};

#[derive(Debug, Args)]
pub(super) struct Detach {
    /// What was attached: its name, pid, or the path of its network namespace
    target: String,
}

impl Detach {
    pub async fn exec(self, global: &Global, screen: &Screen) -> Result<Exit, Failure> {
        let daemon = Daemon::new(global);
        let detach = async |target| match daemon.ask(ApiRequest::DetachTarget { target }).await? {
            Response::Absent => Ok(false),
            Response::Done => Ok(true),
            other => Err(ask::unexpected(&other)),
        };
        let mut was_there = detach(self.target.clone()).await?;
        // The daemon may know it by its namespace only: a runtime may know the name.
        if !was_there && let Ok(found) = target::find(&self.target).await {
            was_there = detach(found.target).await?;
        }
        if !was_there {
            screen.say(format!("nothing is attached here as {:?}", self.target));
        }
        screen.answer(ask::done, String::new);
        Ok(Exit::Success)
    }
}
