//! A container with several links of ours: what it sends under the address of a link goes by that link, or the host would drop it
//! as forged. The link that is preferred has the main table, each other one a table of its own.

use std::net::IpAddr;

use rtnetlink::{
    Handle, IpVersion,
    packet_route::{
        route::{RouteAttribute, RouteMessage},
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};

use super::{
    address::family_of,
    bound::{self, READ_MAX},
    fault::{already_there, fault},
    route::Entry,
};
use crate::state::Fault;

/// Numbers of these tables: this, and the index of the interface.
const TABLE_FIRST: u32 = 0x6700_0000;

/// Whether what is sent under the source of `way_out` goes that way.
pub async fn is_right(handle: &Handle, way_out: &Entry) -> Result<bool, Fault> {
    let Some((table, source)) = parts(way_out) else { return Ok(true) };
    let mut question = RouteMessage::default();
    question.header.address_family = family_of(source);
    question.attributes.push(RouteAttribute::Table(table));
    let routes = bound::all(handle.route().get(question).execute(), "routes", READ_MAX).await?;
    if !routes.iter().any(|route| Entry::read_of(route).as_ref() == Some(way_out)) {
        return Ok(false);
    }
    let rules = bound::all(handle.rule().get(version(source)).execute(), "policy rules", READ_MAX).await?;
    Ok(rules.iter().any(|rule| is_ours(rule, table, source)))
}

/// Makes it be so.
pub async fn ensure(handle: &Handle, way_out: &Entry) -> Result<(), Fault> {
    let Some((table, source)) = parts(way_out) else { return Ok(()) };
    let mut route = way_out.message();
    route.attributes.push(RouteAttribute::Table(table));
    let what = |error| fault(format_args!("leading what {source} sends by its own link"), &error);
    already_there(handle.route().add(route).execute().await).map_err(what)?;
    let rules = bound::all(handle.rule().get(version(source)).execute(), "policy rules", READ_MAX).await?;
    if rules.iter().any(|rule| is_ours(rule, table, source)) {
        return Ok(());
    }
    let add = handle.rule().add().table_id(table).action(RuleAction::ToTable);
    let added = match source {
        IpAddr::V4(source) => add.v4().source_prefix(source, 32).execute().await,
        IpAddr::V6(source) => add.v6().source_prefix(source, 128).execute().await,
    };
    already_there(added).map_err(what)
}

/// The table of its own that a route out has, and its source.
fn parts(way_out: &Entry) -> Option<(u32, IpAddr)> {
    Some((TABLE_FIRST | way_out.interface?, way_out.source?))
}

fn version(address: IpAddr) -> IpVersion {
    match address {
        IpAddr::V4(_) => IpVersion::V4,
        IpAddr::V6(_) => IpVersion::V6,
    }
}

fn is_ours(rule: &RuleMessage, table: u32, source: IpAddr) -> bool {
    let has = |wanted: RuleAttribute| rule.attributes.contains(&wanted);
    has(RuleAttribute::Table(table)) && has(RuleAttribute::Source(source))
}
