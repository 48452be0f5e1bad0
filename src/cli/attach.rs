//! `weavers attach`: connect a container.

use clap::Args;
use serde_json::json;

use super::{
    Exit, Failure, Global,
    ask::{self, Daemon},
    screen::Screen,
    target,
};
use crate::{
    api::{ApiRequest, FORMAT_VERSION},
    node::protocol::request::Response,
};

#[derive(Debug, Args)]
pub(super) struct Attach {
    /// A pid, the path or name of a network namespace, or the name of a Docker or Podman container
    target: String,
    /// Name to remember the container by; otherwise its own
    #[arg(long)]
    name: Option<String>,
    /// Take the address from this part of the range, or from the subnet of this name in weave.toml
    #[arg(long, value_name = "CIDR|NAME")]
    subnet: Option<String>,
}

impl Attach {
    pub async fn exec(self, global: &Global, screen: &Screen) -> Result<Exit, Failure> {
        let found = target::find(&self.target).await?;
        let request = ApiRequest::AttachTarget {
            target: found.target,
            name: self.name.or(found.name),
            subnet: self.subnet.as_deref().map(Into::into),
        };
        match Daemon::new(global).ask(request).await? {
            Response::Attached { address, ipv6, mtu } => {
                let document = || {
                    let mut document =
                        json!({ "format_version": FORMAT_VERSION, "address": address, "mtu": mtu });
                    if let Some(ipv6) = ipv6 {
                        document["ipv6"] = json!(ipv6);
                    }
                    document
                };
                screen.answer(document, || address.addr().to_string());
                Ok(Exit::Success)
            }
            other => Err(ask::unexpected(&other)),
        }
    }
}
