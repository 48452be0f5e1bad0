//! `weavers apply`: reload, converge now, wait until the plan is empty.

use clap::Args;

use super::{Exit, Failure, Global, ask, ask::Daemon, reload, render, screen::Screen};
use crate::node::request::{Request, Response};

#[derive(Debug, Args)]
pub(super) struct Apply {
    /// End with 2 if something was changed
    #[arg(long)]
    detailed_exitcode: bool,
}

impl Apply {
    pub async fn exec(self, global: &Global, screen: &Screen) -> Result<Exit, Failure> {
        let daemon = Daemon::new(global);
        let plan = match daemon.node(Request::Apply).await? {
            Response::Plan(plan) => plan,
            other => return Err(ask::unexpected(&other)),
        };
        reload::name_what_needs_a_restart(&daemon, screen).await?;
        screen.answer(|| render::plan::document(&plan), || render::plan::applied(&plan));
        Ok(if self.detailed_exitcode && !plan.changes.is_empty() { Exit::Changes } else { Exit::Success })
    }
}
