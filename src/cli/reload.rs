//! `weavers reload`: as SIGHUP, and says whether the file was accepted.

use super::{Exit, Failure, Global, ask, ask::Daemon, screen::Screen};
use crate::{
    api::{ApiRequest, client::ClientError},
    node::request::RefusalKind,
};

pub(super) async fn exec(global: &Global, screen: &Screen) -> Result<Exit, Failure> {
    reload(&Daemon::new(global), screen).await?;
    screen.answer(ask::done, || "the configuration is adopted".to_owned());
    Ok(Exit::Success)
}

/// Has the daemon read its file again, and names what that cannot change.
pub(super) async fn reload(daemon: &Daemon<'_>, screen: &Screen) -> Result<(), Failure> {
    match daemon.ask(ApiRequest::Reload).await {
        Ok(_) => {}
        Err(ClientError::Refused(refusal)) if refusal.kind == RefusalKind::Invalid => {
            return Err(Failure { exit: Exit::Config, kind: "config", ..refusal.into() });
        }
        Err(error) => return Err(error.into()),
    }
    for key in daemon.status().await?.config.needs_restart {
        screen.say(format!("note: {key} is read at the start only: restart the daemon to adopt it"));
    }
    Ok(())
}
