//! What EC2 would let this host do: asked through the daemon, or without one with what is found here.

use std::collections::BTreeSet;

use super::{
    Failure, Global,
    ask::{self, Daemon},
    validate,
};
use crate::{
    api::{ApiRequest, client::ClientError},
    metrics::Calls,
    node::protocol::request::{Permission, Response, Verdict},
    state::Fault,
    vpc::Ec2,
};

pub(super) async fn check(global: &Global) -> Result<Vec<Permission>, Failure> {
    match Daemon::new(global).ask(ApiRequest::Permissions).await {
        Ok(Response::Permissions(permissions)) => Ok(permissions),
        Ok(other) => Err(ask::unexpected(&other)),
        Err(ClientError::Unreachable { .. }) => offline(global).await,
        Err(error) => Err(error.into()),
    }
}

/// Whether something is denied that weavers does not do without.
pub(super) fn is_stopped(permissions: &[Permission]) -> bool {
    permissions.iter().any(|one| one.verdict == Verdict::Denied && !one.optional)
}

/// With the credentials that are found here, which on an instance are those of the daemon.
async fn offline(global: &Global) -> Result<Vec<Permission>, Failure> {
    let config = validate::check(&global.config)?.config;
    let failed = |fault: Fault| Failure { hint: fault.hint, ..Failure::failed(fault.message) };
    let ec2 = Ec2::connect(&config, Calls::new()).await.map_err(failed)?;
    let tables = config.vpc.route_tables.serving(BTreeSet::new());
    let seen = ec2.observe(&config.universe(), &tables).await;
    let table = seen.as_ref().ok().and_then(|seen| seen.tables.keys().next()).map(|side| &side.table);
    Ok(ec2.permissions(table, config.ipam.range).await)
}
