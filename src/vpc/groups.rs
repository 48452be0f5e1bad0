//! The security groups of the own interface, where the role may read them. Nothing else rests on that.

use aws_sdk_ec2::types::{self, IpPermission};
use ipnet::Ipv4Net;

use super::{
    Ec2,
    fault::{Call, refused},
};
use crate::state::Fault;

/// What a security group lets in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// `sg-…`
    pub id: String,
    /// Each lets something in.
    pub rules: Vec<Rule>,
}

/// Something that is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `tcp`, `udp`, `icmp`; `-1` for all.
    pub protocol: String,
    /// First and last port, where ports are named.
    pub ports: Option<(i32, i32)>,
    /// From these addresses.
    pub sources: Vec<Ipv4Net>,
    /// From interfaces in these groups, by their own addresses.
    pub groups: Vec<String>,
}

impl Ec2 {
    /// The groups of the own interface and what they let in.
    pub async fn security_groups(&self) -> Result<Vec<Group>, Fault> {
        let ids = self.group_ids().await?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let by_hand = Some(format!("aws ec2 describe-security-groups --group-ids {}", ids.join(" ")));
        let call = Call { by_hand, ..call("DescribeSecurityGroups", ids.join(", ")) };
        let answer = self.client.describe_security_groups().set_group_ids(Some(ids)).send().await;
        let answer = answer.map_err(|error| refused(&call, error))?;
        Ok(answer.security_groups().iter().map(group).collect())
    }

    async fn group_ids(&self) -> Result<Vec<String>, Fault> {
        let instance = &self.identity.instance;
        let call = call("DescribeInstances", instance.clone());
        let answer = self.client.describe_instances().instance_ids(instance).send().await;
        let answer = answer.map_err(|error| refused(&call, error))?;
        let instances = answer.reservations().iter().flat_map(types::Reservation::instances);
        let interfaces = instances.flat_map(types::Instance::network_interfaces);
        let own = interfaces.filter(|one| one.network_interface_id() == Some(&self.identity.interface.0));
        let groups = own.flat_map(types::InstanceNetworkInterface::groups);
        Ok(groups.filter_map(|group| Some(group.group_id()?.to_owned())).collect())
    }
}

fn call(operation: &'static str, subject: String) -> Call {
    Call { operation, subject, resource: "*".to_owned(), by_hand: None, used: None }
}

fn group(group: &types::SecurityGroup) -> Group {
    Group {
        id: group.group_id().unwrap_or_default().to_owned(),
        rules: group.ip_permissions().iter().map(rule).collect(),
    }
}

fn rule(permission: &IpPermission) -> Rule {
    let cidrs = permission.ip_ranges().iter().filter_map(|range| range.cidr_ip()?.parse().ok());
    let groups = permission.user_id_group_pairs().iter();
    Rule {
        protocol: permission.ip_protocol().unwrap_or_default().to_owned(),
        ports: permission.from_port().zip(permission.to_port()),
        sources: cidrs.collect(),
        groups: groups.filter_map(|pair| Some(pair.group_id()?.to_owned())).collect(),
    }
}
