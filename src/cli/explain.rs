//! `weavers explain`: whose an address is, what carries it, and what is missing.

use clap::Args;
use serde_json::json;

use super::{
    Exit, Failure, Global,
    ask::{self, Daemon},
    render,
    screen::Screen,
};
use crate::{
    addr::Address,
    node::protocol::request::{Request, Response},
};

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The address
    address: Address,
}

impl Explain {
    pub async fn exec(self, global: &Global, screen: &Screen) -> Result<Exit, Failure> {
        match Daemon::new(global).node(Request::Explain { address: self.address }).await? {
            Response::Explanation(explanation) => {
                screen.answer(|| json!(explanation), || render::explain::text(&explanation));
                Ok(Exit::Success)
            }
            other => Err(ask::unexpected(&other)),
        }
    }
}
