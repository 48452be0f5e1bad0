//! `weavers detach`: disconnect a container.

use clap::Args;

use super::{Exit, Failure, Global, ask, ask::Daemon, screen::Screen, target};
use crate::{
    api::{ApiRequest, client::ClientError},
    node::request::RefusalKind,
};

#[derive(Debug, Args)]
pub(super) struct Detach {
    /// What was attached: its name, pid, or the path of its network namespace
    target: String,
}

impl Detach {
    pub async fn exec(self, global: &Global, screen: &Screen) -> Result<Exit, Failure> {
        let daemon = Daemon::new(global);
        let by_name = daemon.ask(ApiRequest::DetachTarget { target: self.target.clone() }).await;
        match by_name {
            Ok(_) => {}
            // The daemon knows it by its namespace only: a runtime may know the name.
            Err(ClientError::Refused(refusal)) if refusal.kind == RefusalKind::NotFound => {
                let found = target::find(&self.target).await.map_err(|_| Failure::from(refusal))?;
                daemon.ask(ApiRequest::DetachTarget { target: found.target }).await?;
            }
            Err(error) => return Err(error.into()),
        }
        screen.answer(ask::done, String::new);
        Ok(Exit::Success)
    }
}
