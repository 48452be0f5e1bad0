//! `weavers plan`: what would change, and why; changes nothing.

use clap::Args;

use super::{Exit, Failure, Global, ask, ask::Daemon, render, run, screen::Screen, validate};
use crate::{
    api::{ApiRequest, client::ClientError},
    node::request::{Request, Response},
    plan,
};

#[derive(Debug, Args)]
pub(super) struct Plan {
    /// End with 2 if there is something to change
    #[arg(long)]
    detailed_exitcode: bool,
}

impl Plan {
    pub async fn exec(self, global: &Global, screen: &Screen) -> Result<Exit, Failure> {
        let plan = obtain(global, screen).await?;
        screen.answer(|| render::plan::document(&plan), || render::plan::pending(&plan));
        Ok(if self.detailed_exitcode && !plan.changes.is_empty() { Exit::Changes } else { Exit::Success })
    }
}

/// From the daemon, for the file as it is now, adopted or not; or without a daemon from what can be
/// read here.
async fn obtain(global: &Global, screen: &Screen) -> Result<plan::Plan, Failure> {
    match Daemon::new(global).ask(question(global, screen)?).await {
        Ok(Response::Plan(plan)) => Ok(*plan),
        Ok(other) => Err(ask::unexpected(&other)),
        Err(ClientError::Unreachable { socket, source }) => {
            offline(global, screen, ClientError::Unreachable { socket, source }).await
        }
        Err(error) => Err(error.into()),
    }
}

/// Whoever may not read the file, or has none at that place, sees the plan of the configuration in force.
fn question(global: &Global, screen: &Screen) -> Result<ApiRequest, Failure> {
    match validate::check(&global.config) {
        Ok(checked) => {
            checked.warn(screen);
            Ok(ApiRequest::Preview { config: checked.text })
        }
        Err(failure) if failure.file.is_none() => {
            screen.say(format!("note: {}: this is the plan of the configuration in force", failure.message));
            Ok(ApiRequest::Node(Request::Plan))
        }
        Err(failure) => Err(failure),
    }
}

async fn offline(global: &Global, screen: &Screen, unreachable: ClientError) -> Result<plan::Plan, Failure> {
    validate::check(&global.config)?;
    screen.say(format!("note: {unreachable}: this is the plan of a daemon that would start now"));
    crate::daemon::plan_offline(run::options(global)).await.map_err(run::failure)
}
