//! `weavers ipam`: show and hand out addresses.

use clap::Subcommand;
use serde_json::json;

use super::{
    Exit, Failure, Global,
    ask::{self, Daemon},
    render,
    screen::Screen,
};
use crate::{
    addr::Address,
    api::FORMAT_VERSION,
    node::protocol::request::{Request, Response},
};

#[derive(Debug, Subcommand)]
pub(super) enum Ipam {
    /// Show which peer owns which addresses
    Show,
    /// Draw which peer owns which addresses: a lane for each, over the whole range
    Map {
        /// Write SVG, for a browser or a document
        #[arg(long)]
        svg: bool,
    },
    /// Hand out an address to a name of your choice
    Allocate {
        /// The name
        ident: String,
        /// Take the address from this part of the range, or from the subnet of this name in weave.toml
        #[arg(long, value_name = "CIDR|NAME")]
        subnet: Option<String>,
    },
    /// Hand out this address
    Claim {
        /// The name
        ident: String,
        /// The address
        address: Address,
    },
    /// Take back one address of a name, or all of them
    Free {
        /// The name
        ident: String,
        /// The address
        address: Option<Address>,
    },
    /// Show the addresses of a name
    Lookup {
        /// The name
        ident: String,
    },
}

impl Ipam {
    pub async fn exec(self, global: &Global, screen: &Screen) -> Result<Exit, Failure> {
        let drawn = match self {
            Ipam::Map { svg } => Some(svg),
            _ => None,
        };
        match (Daemon::new(global).node(self.into()).await?, drawn) {
            (Response::Ring(pieces), Some(true)) => screen.answer(
                || json!({ "format_version": FORMAT_VERSION, "pieces": pieces }),
                || render::map::svg(&pieces).into_string() + "\n",
            ),
            (Response::Ring(pieces), Some(false)) => screen.answer(
                || json!({ "format_version": FORMAT_VERSION, "pieces": pieces }),
                || render::map::text(&pieces),
            ),
            (Response::Ring(pieces), None) => screen.answer(
                || json!({ "format_version": FORMAT_VERSION, "pieces": pieces }),
                || render::status::ring(&pieces),
            ),
            (Response::Addresses(addresses), _) => screen.answer(
                || json!({ "format_version": FORMAT_VERSION, "addresses": addresses }),
                || addresses.iter().map(|cidr| format!("{}\n", cidr.addr())).collect(),
            ),
            (Response::Done, _) => screen.answer(ask::done, String::new),
            (other, _) => return Err(ask::unexpected(&other)),
        }
        Ok(Exit::Success)
    }
}

impl From<Ipam> for Request {
    fn from(command: Ipam) -> Request {
        match command {
            Ipam::Show | Ipam::Map { .. } => Request::ShowRing,
            Ipam::Allocate { ident, subnet } => {
                Request::Allocate { ident, subnet: subnet.as_deref().map(Into::into) }
            }
            Ipam::Claim { ident, address } => Request::Claim { ident, address },
            Ipam::Free { ident, address } => Request::Free { ident, address },
            Ipam::Lookup { ident } => Request::Lookup { ident },
        }
    }
}
