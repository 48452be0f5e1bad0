//! `weavers explain`: whose an address is, what carries it, and what is missing.

use std::net::IpAddr;

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
    node::protocol::{
        explanation::Explanation,
        request::{Request, Response},
    },
};

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The address, of IPv4 or IPv6
    address: IpAddr,
}

fn is_asked_about(explanation: &Explanation, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(address) => explanation.ipv6 == Some(address),
    }
}

impl Explain {
    pub async fn exec(self, global: &Global, screen: &Screen) -> Result<Exit, Failure> {
        let address = match self.address {
            IpAddr::V4(address) => Address::from(address),
            // A container's ends with that of IPv4.
            IpAddr::V6(address) => Address(u128::from(address) as u32),
        };
        match Daemon::new(global).node(Request::Explain { address }).await? {
            Response::Explanation(explanation) if !is_asked_about(&explanation, self.address) => {
                let message = format!("{} is no IPv6 address of a container", self.address);
                let hint = "such an address is that of [network] ipv6 and, behind it, the IPv4 address";
                Err(Failure::not_found(message).hint(hint))
            }
            Response::Explanation(explanation) => {
                screen.answer(|| json!(explanation), || render::explain::text(&explanation));
                Ok(Exit::Success)
            }
            other => Err(ask::unexpected(&other)),
        }
    }
}
