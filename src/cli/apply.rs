//! `weavers apply`: reload, converge now, wait until the plan is empty.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use serde_json::json;

use super::{
    Exit, Failure, Global,
    ask::{self, Daemon},
    plan_file,
    progress::{self, Progress},
    reload, render,
    screen::Screen,
};
use crate::{
    api::ApiRequest,
    node::protocol::{
        request::{Request, Response},
        status::Status,
    },
};

#[derive(Debug, Args)]
pub(super) struct Apply {
    /// A plan that `plan --out` has kept: carried out as it is, or refused with 5 if the world has moved
    plan: Option<PathBuf>,
    /// Go back to the former configuration unless `weavers confirm` follows within this time, and
    /// sooner when a peer that was reachable is lost for more than 5 seconds
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    confirm_timeout: Option<Duration>,
    /// End with 2 if something was changed
    #[arg(long)]
    detailed_exitcode: bool,
}

impl Apply {
    pub async fn exec(self, global: &Global, screen: &Screen) -> Result<Exit, Failure> {
        let daemon = Daemon::new(global);
        // Where it cannot be asked for, what is asked for next says why.
        let before = daemon.configuration(None).await.ok().and_then(|config| config.in_force);
        let answer = progress::telling(global, screen, steps, daemon.ask(self.request()?)).await;
        let plan = match answer? {
            Response::Plan(plan) => plan,
            other => return Err(ask::unexpected(&other)),
        };
        reload::name_what_needs_a_restart(&daemon, screen).await?;
        if self.confirm_timeout.is_some() {
            say_what_is_tried(&daemon, screen).await?;
        }
        let config = daemon.configuration(None).await?;
        let adopted = config.in_force != before;
        let document = || {
            let mut document = render::plan::document(&plan);
            config.add_to(&mut document);
            document["config"]["adopted"] = json!(adopted);
            document
        };
        screen.answer(document, || {
            let configuration = if adopted { "The configuration is adopted.\n" } else { "" };
            format!("{configuration}{}", render::plan::applied(&plan))
        });
        let has_changed = adopted || !plan.changes.is_empty();
        Ok(if self.detailed_exitcode && has_changed { Exit::Changes } else { Exit::Success })
    }

    fn request(&self) -> Result<ApiRequest, Failure> {
        if self.plan.is_none() && self.confirm_timeout.is_none() {
            return Ok(ApiRequest::Node(Request::Apply));
        }
        let plan = self.plan.as_deref().map(plan_file::read).transpose()?.map(Box::new);
        let confirm_timeout_ms =
            self.confirm_timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        Ok(ApiRequest::ApplyOnTerms { plan, confirm_timeout_ms })
    }
}

/// What was done since it was asked for, and what is left.
fn steps(status: &Status, since: Duration) -> Progress {
    let recent = status.steps.iter().filter(|step| step.age_s < since.as_secs() && step.outcome == "done");
    let done = match recent.count() {
        0 => String::new(),
        1 => "1 step done".to_owned(),
        many => format!("{many} steps done"),
    };
    Progress { done, awaited: progress::first_wait(status, "a look at the host and the route tables") }
}

async fn say_what_is_tried(daemon: &Daemon<'_>, screen: &Screen) -> Result<(), Failure> {
    screen.say(match daemon.status().await?.config.trial_s {
        Some(left) => {
            format!("note: `weavers confirm` keeps it; otherwise the former one is back in {left} s")
        }
        None => "note: this configuration was in force already: there is nothing to confirm".to_owned(),
    });
    Ok(())
}
