//! `weavers drain`: give all ranges of this host away.

use serde_json::json;

use super::{
    Exit, Failure, Global,
    ask::{self, Daemon},
    screen::Screen,
};
use crate::{
    api::FORMAT_VERSION,
    node::protocol::request::{Request, Response},
};

pub(super) async fn exec(global: &Global, screen: &Screen) -> Result<Exit, Failure> {
    moved(Daemon::new(global).node(Request::Drain).await?, screen)
}

/// How many addresses changed hands, and to whom.
pub(super) fn moved(answer: Response, screen: &Screen) -> Result<Exit, Failure> {
    match answer {
        Response::Moved { addresses, to } => {
            screen.answer(
                || json!({ "format_version": FORMAT_VERSION, "addresses": addresses, "to": to }),
                || match to {
                    Some(peer) => format!("{addresses} addresses went to {peer}"),
                    None => format!("{addresses} addresses changed hands"),
                },
            );
            Ok(Exit::Success)
        }
        Response::Done => {
            screen.answer(ask::done, String::new);
            Ok(Exit::Success)
        }
        other => Err(ask::unexpected(&other)),
    }
}
