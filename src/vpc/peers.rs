//! Peers by tag: the running instances of our VPC that bear it.

use std::{collections::BTreeSet, net::Ipv4Addr};

use super::{
    Ec2,
    fault::{Call, refused},
    observe::filter,
};
use crate::state::{Fault, FaultKind};

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
        let request = self.client.describe_instances().set_filters(Some(filters)).max_results(PAGE_LEN);
        let mut found = BTreeSet::new();
        let mut token = None;
        for _ in 0..PAGES_MAX {
            let page = request.clone().set_next_token(token).send().await;
            let page = page.map_err(|error| refused(&call, error).fault)?;
            let instances = page.reservations().iter().flat_map(|reservation| reservation.instances());
            found.extend(instances.filter_map(|one| one.private_ip_address()?.parse::<Ipv4Addr>().ok()));
            token = page.next_token.filter(|token| !token.is_empty());
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
