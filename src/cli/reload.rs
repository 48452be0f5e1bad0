//! `weavers reload`: as SIGHUP, and says whether the file was accepted.

use super::{Exit, Failure, Global, ask, ask::Daemon, screen::Screen};
use crate::api::ApiRequest;

pub(super) async fn exec(global: &Global, screen: &Screen) -> Result<Exit, Failure> {
    let daemon = Daemon::new(global);
    daemon.ask(ApiRequest::Reload).await?;
    name_what_needs_a_restart(&daemon, screen).await?;
    screen.answer(ask::done, || "the configuration is adopted".to_owned());
    Ok(Exit::Success)
}

/// Names what the daemon cannot adopt while it runs.
pub(super) async fn name_what_needs_a_restart(daemon: &Daemon<'_>, screen: &Screen) -> Result<(), Failure> {
    for key in daemon.status().await?.config.needs_restart {
        screen.say(format!("note: {key} is read at the start only: restart the daemon to adopt it"));
    }
    Ok(())
}
