//! `weavers plan`: what would change, and why; changes nothing. Ends with 1 where that is not wholly known.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::{
    CONFIG, Exit, Failure, Global,
    ask::{self, Configuration, Daemon},
    permissions, plan_file, render, run,
    screen::Screen,
    validate,
};
use crate::{
    api::{ApiRequest, client::ClientError},
    config::Sources,
    node::protocol::request::{Permission, Request, Response, SavedPlan},
    plan,
};

#[derive(Debug, Args)]
pub(super) struct Plan {
    /// Keep the plan in a file that `apply FILE` carries out as it is, or not at all
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Ask EC2, by dry runs, which calls it would carry out; ends with 1 if one that is needed is denied
    #[arg(long)]
    check_permissions: bool,
    /// Print what is and what will be, instead of the steps; in the document as Ansible's --diff has it
    #[arg(long)]
    diff: bool,
    /// End with 2 if there is something to change
    #[arg(long)]
    detailed_exitcode: bool,
}

impl Plan {
    pub async fn exec(self, global: &Global, screen: &Screen) -> Result<Exit, Failure> {
        let (plan, config) = match &self.out {
            Some(file) => keep(file, global, screen).await?,
            None => obtain(global, screen).await?,
        };
        if config.pending {
            screen.say("note: the file is not in force yet: `weavers apply` or `weavers reload` adopts it");
        }
        let permissions = match self.check_permissions {
            true => Some(permissions::check(global).await?),
            false => None,
        };
        screen.answer(|| self.document(&plan, &config, &permissions), || self.text(&plan, &permissions));
        Ok(match &permissions {
            Some(all) if permissions::is_stopped(all) => Exit::Failure,
            Some(_) | None if !plan.is_complete() => Exit::Failure,
            Some(_) | None if self.detailed_exitcode && (!plan.changes.is_empty() || config.pending) => {
                Exit::Changes
            }
            Some(_) | None => Exit::Success,
        })
    }

    fn document(
        &self,
        plan: &plan::Plan,
        config: &Configuration,
        permissions: &Option<Vec<Permission>>,
    ) -> Value {
        let mut document = render::plan::document(plan);
        config.add_to(&mut document);
        if let Some(permissions) = permissions {
            document["permissions"] = json!(permissions);
        }
        if self.diff {
            document["diff"] = render::diff::document(plan);
        }
        document
    }

    fn text(&self, plan: &plan::Plan, permissions: &Option<Vec<Permission>>) -> String {
        let shown = if self.diff { render::diff::text(plan) } else { render::plan::pending(plan) + "\n" };
        shown + &permissions.as_deref().map_or_else(String::new, render::permissions::text)
    }
}

/// Only a daemon that runs can carry a kept plan out, and only with the file that it was made from.
async fn keep(file: &Path, global: &Global, screen: &Screen) -> Result<(plan::Plan, Configuration), Failure> {
    let checked = validate::check(&global.config)?;
    checked.warn(screen);
    let daemon = Daemon::new(global);
    let plan = match daemon.ask(ApiRequest::Preview { config: checked.sources.clone() }).await? {
        Response::Plan(plan) => *plan,
        other => return Err(ask::unexpected(&other)),
    };
    let node = daemon.status().await?.name;
    let config_sha256 = checked.sources.digest();
    plan_file::write(file, SavedPlan { node, config_sha256, plan: plan.clone() })?;
    screen.say(format!("note: `weavers apply {}` carries out this plan and no other", file.display()));
    Ok((plan, daemon.configuration(Some(&checked.sources)).await?))
}

/// From the daemon, for the file as it is now, adopted or not; or without a daemon from what can be
/// read here.
async fn obtain(global: &Global, screen: &Screen) -> Result<(plan::Plan, Configuration), Failure> {
    let daemon = Daemon::new(global);
    let sources = sources(global, screen)?;
    let question = match &sources {
        Some(sources) => ApiRequest::Preview { config: sources.clone() },
        None => ApiRequest::Node(Request::Plan),
    };
    match daemon.ask(question).await {
        Ok(Response::Plan(plan)) => Ok((*plan, daemon.configuration(sources.as_ref()).await?)),
        Ok(other) => Err(ask::unexpected(&other)),
        Err(ClientError::Unreachable { socket, source }) => {
            let plan = offline(global, screen, ClientError::Unreachable { socket, source }).await?;
            Ok((plan, Configuration::default()))
        }
        Err(error) => Err(error.into()),
    }
}

/// What the file says. Whoever names none, and may not read the usual one or has none, sees the plan of the configuration in force.
fn sources(global: &Global, screen: &Screen) -> Result<Option<Sources>, Failure> {
    match validate::check(&global.config) {
        Ok(checked) => {
            checked.warn(screen);
            Ok(Some(checked.sources))
        }
        Err(failure) if failure.file.is_none() && global.config == Path::new(CONFIG) => {
            screen.say(format!("note: {}: this is the plan of the configuration in force", failure.message));
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

async fn offline(global: &Global, screen: &Screen, unreachable: ClientError) -> Result<plan::Plan, Failure> {
    validate::check(&global.config)?;
    screen.say(format!("note: {unreachable}: this is the plan of a daemon that would start now"));
    crate::daemon::plan_offline(run::options(global), None).await.map_err(run::failure)
}
