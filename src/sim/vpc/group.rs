//! Security groups: what they let in, as DescribeSecurityGroups tells it. The model drops no packet by them.

use std::fmt;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::{Answer, ApiError, Find, State, filter};

const PAGE_MAX: usize = 1000;

/// A security group, `sg-…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GroupId(pub String);

/// Something that a group lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// `tcp`, `udp`, `icmp`; `-1` for all.
    pub protocol: String,
    /// First and last port, where ports are named.
    pub ports: Option<(u16, u16)>,
    /// From these addresses.
    pub sources: Vec<Ipv4Net>,
    /// From interfaces in these groups.
    pub groups: Vec<GroupId>,
}

/// A group as DescribeSecurityGroups shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields are EC2's.
pub struct GroupView {
    pub id: GroupId,
    pub vpc_id: String,
    pub owner: String,
    pub ingress: Vec<Ingress>,
}

impl Ingress {
    /// All that comes from interfaces in the same group: what a VPC's default group lets in.
    pub fn from_itself(group: &GroupId) -> Ingress {
        Ingress { protocol: "-1".to_owned(), ports: None, sources: Vec::new(), groups: vec![group.clone()] }
    }
}

impl State {
    pub(super) fn describe_groups(&self, find: &Find) -> Result<Answer, ApiError> {
        filter::check(find)?;
        if let Some(unknown) = find.ids.iter().find(|id| !self.groups.contains_key(&GroupId((*id).clone()))) {
            let message = format!("the security group '{unknown}' does not exist");
            return Err(ApiError::client("InvalidGroup.NotFound", message));
        }
        let mut found = Vec::new();
        for (id, ingress) in &self.groups {
            if (find.ids.is_empty() || find.ids.contains(&id.0)) && self.group_passes(id, find)? {
                let (vpc_id, owner) = (self.vpc_id.clone(), self.account.clone());
                found.push(GroupView { id: id.clone(), vpc_id, owner, ingress: ingress.clone() });
            }
        }
        let (groups, next_token) = filter::page(found, find, PAGE_MAX)?;
        Ok(Answer::Groups { groups, next_token })
    }

    fn group_passes(&self, id: &GroupId, find: &Find) -> Result<bool, ApiError> {
        let mut passes = true;
        for (name, patterns) in &find.filters {
            let value = match name.as_str() {
                "group-id" => id.to_string(),
                "vpc-id" => self.vpc_id.clone(),
                other => return Err(filter::unknown(other)),
            };
            passes &= filter::matches(patterns, &[value]);
        }
        Ok(passes)
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
