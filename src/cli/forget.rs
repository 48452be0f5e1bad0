//! `weavers forget`: take over the ranges of a peer that is gone for good.

use clap::Args;

use super::{Exit, Failure, Global, ask::Daemon, drain, screen::Screen};
use crate::node::protocol::request::Request;

#[derive(Debug, Args)]
pub(super) struct Forget {
    /// Name or nickname of the peer
    peer: String,

    /// Do not wait for the others to agree: only if most electors are gone for good
    #[arg(long)]
    alone: bool,
}

impl Forget {
    pub async fn exec(self, global: &Global, screen: &Screen) -> Result<Exit, Failure> {
        let answer = Daemon::new(global).node(Request::Forget { peer: self.peer, alone: self.alone }).await?;
        drain::moved(answer, screen)
    }
}
