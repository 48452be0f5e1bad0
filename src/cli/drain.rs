//! `weavers drain`: give all ranges of this host away.

use std::time::Duration;

use serde_json::json;

use super::{
    Exit, Failure, Global,
    ask::{self, Daemon},
    progress::{self, Progress},
    screen::Screen,
};
use crate::{
    api::FORMAT_VERSION,
    node::protocol::{
        request::{Request, Response},
        status::Status,
    },
    state::Target,
};

pub(super) async fn exec(global: &Global, screen: &Screen) -> Result<Exit, Failure> {
    let daemon = Daemon::new(global);
    let answer = progress::telling(global, screen, hand_over, daemon.node(Request::Drain)).await?;
    moved(answer, screen)
}

/// What the heir has not taken over yet.
fn hand_over(status: &Status, _: Duration) -> Progress {
    let here = status.interface.clone().map(Target::Interface);
    let routes = status.tables.values().flat_map(|table| table.routes.values());
    let left = routes.filter(|route| here.is_some() && Some(&route.target) == here.as_ref()).count();
    let done = if status.ipam.owned.is_empty() { "all ranges given away" } else { "" };
    let awaited = match left {
        0 => "a look at the route tables".to_owned(),
        1 => "1 route to lead to the new owner".to_owned(),
        many => format!("{many} routes to lead to the new owner"),
    };
    Progress { done: done.to_owned(), awaited }
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
