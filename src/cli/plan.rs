//! `weavers plan`: what would change, and why; changes nothing.

use clap::Args;

use super::{Exit, Failure, Global, ask, ask::Daemon, render, screen::Screen};
use crate::{
    api::{ApiRequest, client::ClientError},
    node::request::Response,
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
    let checked = super::validate::check(&global.config)?;
    checked.warn(screen);
    match Daemon::new(global).ask(ApiRequest::Preview { config: checked.text }).await {
        Ok(Response::Plan(plan)) => Ok(*plan),
        Ok(other) => Err(ask::unexpected(&other)),
        Err(ClientError::Unreachable { socket, source }) => {
            offline(global, screen, ClientError::Unreachable { socket, source }).await
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(feature = "aws")]
async fn offline(global: &Global, screen: &Screen, unreachable: ClientError) -> Result<plan::Plan, Failure> {
    use super::run;

    screen.say(format!("note: {unreachable}: this is the plan of a daemon that would start now"));
    crate::daemon::plan_offline(run::options(global)).await.map_err(run::failure)
}

#[cfg(not(feature = "aws"))]
async fn offline(
    _global: &Global,
    _screen: &Screen,
    unreachable: ClientError,
) -> Result<plan::Plan, Failure> {
    Err(unreachable.into())
}
