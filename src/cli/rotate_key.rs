//! `weavers rotate-key`: another key for this host's end of tunnels.

use super::{
    Exit, Failure, Global,
    ask::{self, Daemon},
    screen::Screen,
};
use crate::api::ApiRequest;

pub(super) async fn exec(global: &Global, screen: &Screen) -> Result<Exit, Failure> {
    Daemon::new(global).ask(ApiRequest::RotateKey).await?;
    screen
        .answer(ask::done, || "this host's tunnels have a new key, and the other hosts are told".to_owned());
    Ok(Exit::Success)
}
