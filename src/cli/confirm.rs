//! `weavers confirm`: keep the configuration that is being tried.

use super::{
    Exit, Failure, Global,
    ask::{self, Daemon},
    screen::Screen,
};
use crate::node::protocol::request::Request;

pub(super) async fn exec(global: &Global, screen: &Screen) -> Result<Exit, Failure> {
    Daemon::new(global).node(Request::Confirm).await?;
    screen.answer(ask::done, || "the configuration is kept".to_owned());
    Ok(Exit::Success)
}
