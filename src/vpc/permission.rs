//! Whether EC2 would carry out what weavers asks of it, by DryRun.
//!
//! A stand-in that does not know DryRun carries the call out. So DescribeRouteTables is asked first, and
//! unless EC2 says that it would have gone through, nothing more is sent.

use std::error::Error;

use aws_sdk_ec2::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    types::AttributeBooleanValue,
};
use ipnet::Ipv4Net;

use super::{
    Ec2,
    fault::{Call, refused},
};
use crate::{
    node::protocol::request::{Permission, Verdict},
    state::{FaultKind, TableId},
};

/// EC2's word for "it would have gone through".
const WOULD: &str = "DryRunOperation";

impl Ec2 {
    /// What EC2 says of each call that weavers makes. The calls on routes name `table` and the whole container
    /// range, which no route of ours ever is.
    pub async fn permissions(&self, table: Option<&TableId>, range: Ipv4Net) -> Vec<Permission> {
        let first = self.may_describe_tables().await;
        let proven = first.verdict == Verdict::Allowed;
        let mut all = vec![first];
        if !proven {
            all.extend(REST.map(|(action, optional)| unasked(action, optional)));
            return all;
        }
        all.push(self.may_describe_instances().await);
        match table {
            Some(table) => all.extend(self.may_write_routes(table, range.trunc().to_string()).await),
            None => all.extend(REST[1..4].iter().map(|(action, optional)| unasked(action, *optional))),
        }
        all.push(self.may_disable_check().await);
        all
    }

    async fn may_describe_tables(&self) -> Permission {
        let call = call("DescribeRouteTables", "route tables", "*".to_owned());
        judged(&call, false, self.client.describe_route_tables().dry_run(true).send().await)
    }

    async fn may_describe_instances(&self) -> Permission {
        let call = call("DescribeInstances", &self.identity.instance, "*".to_owned());
        let request = self.client.describe_instances().instance_ids(&self.identity.instance);
        judged(&call, false, request.dry_run(true).send().await)
    }

    async fn may_write_routes(&self, table: &TableId, range: String) -> [Permission; 3] {
        let subject = format!("{range} in {table}");
        let of = |operation| call(operation, &subject, self.arn(&format!("route-table/{table}")));
        let interface = &self.identity.interface.0;
        let create = self.client.create_route().route_table_id(&table.0).destination_cidr_block(&range);
        let create = create.network_interface_id(interface).dry_run(true).send().await;
        let replace = self.client.replace_route().route_table_id(&table.0).destination_cidr_block(&range);
        let replace = replace.network_interface_id(interface).dry_run(true).send().await;
        let delete = self.client.delete_route().route_table_id(&table.0).destination_cidr_block(&range);
        let delete = delete.dry_run(true).send().await;
        [
            judged(&of("CreateRoute"), false, create),
            judged(&of("ReplaceRoute"), false, replace),
            judged(&of("DeleteRoute"), false, delete),
        ]
    }

    async fn may_disable_check(&self) -> Permission {
        let interface = &self.identity.interface;
        let arn = self.arn(&format!("network-interface/{interface}"));
        let call = call("ModifyNetworkInterfaceAttribute", &interface.0, arn);
        let request = self.client.modify_network_interface_attribute().network_interface_id(&interface.0);
        let off = AttributeBooleanValue::builder().value(false).build();
        judged(&call, true, request.source_dest_check(off).dry_run(true).send().await)
    }
}

/// What is asked behind the first, and whether weavers does without it.
const REST: [(&str, bool); 5] = [
    ("DescribeInstances", false),
    ("CreateRoute", false),
    ("ReplaceRoute", false),
    ("DeleteRoute", false),
    ("ModifyNetworkInterfaceAttribute", true),
];

fn call(operation: &'static str, subject: &str, resource: String) -> Call {
    Call { operation, subject: subject.to_owned(), resource, by_hand: None, used: None }
}

fn unasked(action: &str, optional: bool) -> Permission {
    Permission {
        action: action.to_owned(),
        verdict: Verdict::Unknown,
        optional,
        said: Some("not asked: EC2 has not shown that it answers a dry run as one".to_owned()),
        statement: None,
    }
}

fn judged<T, E>(call: &Call, optional: bool, answer: Result<T, SdkError<E, HttpResponse>>) -> Permission
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let permission = |verdict, said| Permission {
        action: call.operation.to_owned(),
        verdict,
        optional,
        said,
        statement: None,
    };
    let Err(error) = answer else {
        let said = "it was answered as if it were no dry run: nothing more was asked of this endpoint";
        return permission(Verdict::Unknown, Some(said.to_owned()));
    };
    let refused = refused(call, error);
    if refused.code == WOULD {
        return permission(Verdict::Allowed, None);
    }
    match refused.fault.kind {
        FaultKind::Denied => Permission {
            statement: refused.fault.hint.clone(),
            ..permission(Verdict::Denied, Some(refused.fault.message))
        },
        FaultKind::Unsigned
        | FaultKind::Throttled
        | FaultKind::Quota
        | FaultKind::Outdated
        | FaultKind::Unreachable
        | FaultKind::Invalid => permission(Verdict::Unknown, Some(refused.fault.message)),
    }
}
