//! Gives containers links of weavers in the place of Weave Net's, one after the other, each with the address that it has.
//!
//! Wherever this ends, it can be begun again: a link that was set aside is still found by its address, and one that is ours already is
//! not made again.

use std::time::{Duration, Instant};

use ipnet::Ipv4Net;

use super::super::{Failure, Global};
use crate::{
    addr::Address,
    api::{ApiRequest, client::call},
    kernel::weave_net,
    migrate::WeaveLink,
    node::protocol::request::{Pool, Request, Response},
    state::Fault,
};

/// How long a container may be without a link before it gets its old one back.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reconnects one container. How long it had no link.
pub(super) async fn reconnect(
    global: &Global,
    address: Address,
    ident: &str,
    link: &WeaveLink,
) -> Result<Duration, Failure> {
    expect_record(global, address, ident).await?;
    let begun = Instant::now();
    if link.ours == Some(address) {
        attach(global, address, ident, link).await?;
    } else {
        let aside = weave_net::set_aside(link).await.map_err(failure)?;
        if let Err(failed) = attach(global, address, ident, link).await {
            return Err(match weave_net::put_back(aside).await {
                Ok(()) => failed,
                Err(fault) => Failure { message: format!("{}; {fault}", failed.message), ..failed },
            });
        }
    }
    let gap = begun.elapsed();
    weave_net::remove(link).await.map_err(failure)?;
    Ok(gap)
}

/// An address of which weavers has no record could be given to somebody else.
async fn expect_record(global: &Global, address: Address, ident: &str) -> Result<(), Failure> {
    let lookup = ApiRequest::Node(Request::Lookup { ident: ident.to_owned() });
    match call(&global.socket, &lookup, PATIENCE).await? {
        Response::Addresses(held) if held.iter().any(|held| Address::from(held.addr()) == address) => Ok(()),
        _ => {
            let message = format!(
                "weavers has no record of {address} for `{ident}`: it was given out after the data were taken over"
            );
            Err(Failure::failed(message)
                .hint(format!("run `weavers ipam claim {ident} {address}`, then this again")))
        }
    }
}

/// Only that address will do: a part of the range as small as it holds no other.
async fn attach(global: &Global, address: Address, ident: &str, link: &WeaveLink) -> Result<(), Failure> {
    let request = ApiRequest::AttachTarget {
        target: link.netns.path.display().to_string(),
        name: Some(ident.to_owned()),
        subnet: Some(Pool::Cidr(Ipv4Net::new_assert(address.into(), 32))),
    };
    match call(&global.socket, &request, PATIENCE).await? {
        Response::Attached { address: given, .. } if Address::from(given.addr()) == address => Ok(()),
        other => Err(Failure::failed(format!("the daemon gave {address} another address: {other:?}"))),
    }
}

fn failure(fault: Fault) -> Failure {
    let failed = Failure::failed(fault.message);
    Failure { hint: fault.hint, ..failed }
}
