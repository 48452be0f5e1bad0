//! `weavers reset`: undo everything on this host.

use super::{Exit, Failure, Global, ask::Daemon, drain, screen::Screen};
use crate::node::protocol::request::Request;

pub(super) async fn exec(global: &Global, screen: &Screen) -> Result<Exit, Failure> {
    drain::moved(Daemon::new(global).node(Request::Reset).await?, screen)
}
