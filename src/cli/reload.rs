//! `weavers reload`: as SIGHUP, and says whether the file was accepted.

use super::{Exit, Failure, Global, ask, ask::Daemon, screen::Screen};
use crate::api::ApiRequest;

pub(super) async fn exec(global: &Global, screen: &Screen) -> Result<Exit, Failure> {
    reload(&Daemon::new(global), screen).await?;
    screen.answer(ask::done, || "the configuration is adopted".to_owned());
    Ok(Exit::Success)
}

/// Has the daemon read its file again, and names what that cannot change.
pub(super) async fn reload(daemon: &Daemon<'_>, screen: &Screen) -> Result<(), Failure> {
    daemon.ask(ApiRequest::Reload).await?;
    for key in daemon.status().await?.config.needs_restart {
        screen.say(format!("note: {key} is read at the start only: restart the daemon to adopt it"));
    }
    Ok(())
}
