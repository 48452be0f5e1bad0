//! Peers by tag, the running instances of our VPC that bear it; and which of some instances are there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use aws_sdk_ec2::types::{Filter, Instance, InstanceStateName};

use super::{
    Ec2,
    fault::{Call, refused},
    observe::filter,
};
use crate::state::{Fault, FaultKind, InstanceState};

/// Instances on one page: as many as EC2 gives.
const PAGE_LEN: i32 = 1000;
/// Pages of one answer.
const PAGES_MAX: usize = 10;

impl Ec2 {
    /// The primary private addresses of the running instances in our VPC whose tag `key` is `value`.
    pub async fn peers(&self, key: &str, value: &str) -> Result<BTreeSet<Ipv4Addr>, Fault> {
        let call = Call {
            operation: "DescribeInstances",
            subject: format!("instances with tag {key}={value}"),
            resource: "*".to_owned(),
            by_hand: None,
            used: None,
        };
        let filters = vec![
            filter(&format!("tag:{key}"), value),
            filter("instance-state-name", "running"),
            filter("vpc-id", &self.identity.vpc),
        ];
        let found = self.instances_where(&call, filters).await?;
        Ok(found.iter().filter_map(|one| one.private_ip_address()?.parse().ok()).collect())
    }

    /// Those of these addresses that running instances in our VPC have.
    pub async fn running(&self, addresses: &BTreeSet<Ipv4Addr>) -> Result<BTreeSet<Ipv4Addr>, Fault> {
        let found = self.addresses(addresses, &["running"]).await?;
        Ok(addresses.iter().filter(|address| found.contains_key(*address)).copied().collect())
    }

    /// Those of these instances that are not terminated. EC2 forgets a terminated one within hours.
    pub async fn instances(&self, ids: &BTreeSet<String>) -> Result<BTreeMap<String, InstanceState>, Fault> {
        let call = Call {
            operation: "DescribeInstances",
            subject: format!("{} instances", ids.len()),
            resource: "*".to_owned(),
            by_hand: None,
            used: None,
        };
        // A filter, since an id that is not known is an error where instances are named.
        let ids = ids.iter().cloned().collect();
        let filters = vec![Filter::builder().name("instance-id").set_values(Some(ids)).build()];
        let found = self.instances_where(&call, filters).await?;
        let state = |one: &Instance| match one.state().and_then(|state| state.name()) {
            Some(InstanceStateName::Terminated) => None,
            Some(InstanceStateName::Stopped) => Some(InstanceState::Stopped),
            Some(_) | None => Some(InstanceState::Running),
        };
        Ok(found.iter().filter_map(|one| Some((one.instance_id()?.to_owned(), state(one)?))).collect())
    }

    /// Every page of an answer.
    pub(super) async fn instances_where(
        &self,
        call: &Call,
        filters: Vec<Filter>,
    ) -> Result<Vec<Instance>, Fault> {
        let request = self.client.describe_instances().set_filters(Some(filters)).max_results(PAGE_LEN);
        let mut found = Vec::new();
        let mut token = None;
        for _ in 0..PAGES_MAX {
            let page = request.clone().set_next_token(token).send().await;
            let page = page.map_err(|error| refused(call, error).fault)?;
            token = page.next_token.filter(|token| !token.is_empty());
            let reservations = page.reservations.unwrap_or_default();
            found.extend(reservations.into_iter().flat_map(|one| one.instances.unwrap_or_default()));
            if token.is_none() {
                return Ok(found);
            }
        }
        Err(Fault {
            kind: FaultKind::Invalid,
            message: format!("{}: more than {PAGES_MAX} pages", call.subject),
            hint: Some("choose a tag that only peers bear".to_owned()),
            request_id: None,
        })
    }
}
