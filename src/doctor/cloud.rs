//! What EC2 says: who this host is, what it may do, and whether its tables can carry containers.

use ipnet::Ipv4Net;

use super::{Facts, Finding, facts::Cloud};
use crate::{
    addr::Range,
    config::{Config, SourceDestCheck},
    node::protocol::request::{Permission, Verdict},
    state::{Fault, RouteState, Vpc},
    vpc::{groups::Group, overlaps},
};

/// Routes that a table holds unless AWS was asked for more.
const QUOTA: usize = 500;
/// Share of the quota, in percent, from which on it is named.
const FULL_PERCENT: usize = 80;
/// EC2 refuses requests whose time is five minutes off; a clock that drifts gets there.
const AHEAD_MAX_S: u64 = 300;
const AHEAD_GOOD_S: u64 = 30;

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let config = facts.file.1.clone().unwrap_or_default();
    if !config.is_on_ec2() {
        let what =
            "outside EC2, by [vpc] provider = \"none\": no metadata, credentials or route tables are needed";
        return vec![Finding::ok("identity", what)];
    }
    let cloud = match &facts.cloud {
        Ok(cloud) => cloud,
        Err(fault) => {
            let why = "without it this host does not know which interface and which table are its own";
            return vec![unread(Finding::fail("identity", fault.message.clone(), why), fault)];
        }
    };
    let identity = &cloud.identity;
    let who = format!(
        "{}, {} in {} of {}, {}",
        identity.instance, identity.interface, identity.subnet, identity.vpc, identity.region
    );
    let mut findings = vec![Finding::ok("identity", who), clock(cloud.ahead_s)];
    findings.extend(permissions(&cloud.permissions));
    match &cloud.tables {
        Ok(vpc) => {
            findings.push(check(&config, vpc));
            findings.extend(vpc.tables.keys().map(|id| table(&config, vpc, id)));
            findings.push(range(&config, vpc));
        }
        Err(fault) => {
            let why = "what cannot be read is not changed: routes stay as they are, new ones are not made";
            findings.push(unread(Finding::fail("route tables", fault.message.clone(), why), fault));
        }
    }
    findings.extend(cloud.lists.iter().map(list));
    findings.push(groups(&config, cloud));
    findings
}

fn unread(finding: Finding, fault: &Fault) -> Finding {
    finding.fix_if(fault.hint.clone())
}

fn clock(ahead_s: Option<i64>) -> Finding {
    let why = "EC2 refuses requests that are signed by a clock that is minutes off";
    let Some(ahead) = ahead_s else {
        return Finding::warn("clock", "EC2 has not said what time it is", why);
    };
    let off = ahead.unsigned_abs();
    let what = match ahead {
        0 => "as EC2's".to_owned(),
        1.. => format!("{off} s ahead of EC2's"),
        _ => format!("{off} s behind EC2's"),
    };
    let fix = "chronyc makestep; chronyc tracking";
    match off {
        0..AHEAD_GOOD_S => Finding::ok("clock", what),
        AHEAD_GOOD_S..AHEAD_MAX_S => Finding::warn("clock", what, why).fix(fix),
        AHEAD_MAX_S.. => Finding::fail("clock", what, why).fix(fix),
    }
}

fn permissions(permissions: &[Permission]) -> Vec<Finding> {
    let allowed = permissions.iter().filter(|one| one.verdict == Verdict::Allowed).count();
    let mut findings: Vec<Finding> = permissions.iter().filter_map(permission).collect();
    if findings.is_empty() && allowed > 0 {
        findings.push(Finding::ok("permissions", format!("all {allowed} calls are allowed")));
    }
    findings
}

fn permission(permission: &Permission) -> Option<Finding> {
    let Permission { action, verdict, optional, said, statement } = permission;
    let what = said.clone().unwrap_or_default();
    let name = "permissions";
    let finding = match (verdict, optional) {
        (Verdict::Allowed, _) => return None,
        (Verdict::Denied, false) => Finding::fail(name, what, "weavers cannot keep routes without this call"),
        (Verdict::Denied, true) => {
            let why =
                "weavers does without it: source_dest_check = \"warn\", and the check turned off by hand";
            Finding::warn(name, what, why)
        }
        (Verdict::Unknown, _) => {
            Finding::warn(name, format!("{action}: {what}"), "whether it is allowed is not known")
        }
    };
    Some(finding.fix_if(statement.clone()))
}

fn check(config: &Config, vpc: &Vpc) -> Finding {
    let (name, interface) = ("source/dest check", &vpc.interface);
    let why = "EC2 drops packets whose source or destination is a container while it is on";
    let fix = format!(
        "aws ec2 modify-network-interface-attribute --no-source-dest-check --network-interface-id {interface}"
    );
    match vpc.source_dest_check {
        Some(false) => Finding::ok(name, format!("off on {interface}")),
        None => Finding::warn(name, format!("that of {interface} cannot be read"), why).fix(fix),
        Some(true) if config.vpc.source_dest_check == SourceDestCheck::Ignore => {
            Finding::warn(name, format!("on on {interface}, which is to be ignored"), why).fix(fix)
        }
        Some(true) => Finding::fail(name, format!("on on {interface}"), why).fix(fix),
    }
}

fn table(config: &Config, vpc: &Vpc, id: &crate::state::Side) -> Finding {
    let (table, name) = (&vpc.tables[id], "route tables");
    let quota = config.vpc.quota.unwrap_or(QUOTA);
    let inside = |cidr: &Ipv4Net| Range::from(config.ipam.range).covers((*cidr).into());
    let dead = table.routes.iter().find(|(cidr, route)| inside(cidr) && route.state == RouteState::Blackhole);
    if let Some((cidr, route)) = dead {
        let why = "its addresses are unreachable until the owner, or its heir, replaces the route";
        return Finding::warn(
            name,
            format!("{} {} -> {} is a blackhole", id.table, id.destination(*cidr), route.target),
            why,
        )
        .fix("weavers status; weavers forget PEER if that host is gone for good");
    }
    if table.used * 100 >= quota * FULL_PERCENT {
        let what = format!("{id} holds {} of {quota} routes", table.used);
        let why = "a range that gets no route cannot be reached";
        return Finding::warn(name, what, why)
            .fix("ask for a higher quota: `Routes per route table` (L-93826ACB), which can be 1000");
    }
    Finding::ok(name, format!("{id} holds {} of {quota} routes", table.used))
}

fn list(fault: &Fault) -> Finding {
    let why =
        "weavers does without it, and cannot tell whether the list leads addresses of the range elsewhere";
    unread(Finding::warn("prefix list", fault.message.clone(), why), fault)
}

fn range(config: &Config, vpc: &Vpc) -> Finding {
    match overlaps(config.ipam.range, vpc) {
        None => Finding::ok("range", format!("{} is outside every CIDR of the VPC", config.ipam.range)),
        Some(fault) => {
            let why = "the VPC's own routes win: no route to a container can be written";
            unread(Finding::fail("range", fault.message.clone(), why), &fault)
        }
    }
}

// ===== security groups =====

fn groups(config: &Config, cloud: &Cloud) -> Finding {
    let name = "security group";
    let (port, range) = (i32::from(config.mesh.listen.port()), config.ipam.range);
    let groups = match &cloud.groups {
        Ok(groups) => groups,
        Err(fault) => {
            let why = format!(
                "weavers does without it, and cannot tell whether it lets in TCP {port} from the other hosts, and packets \
                 from {range}"
            );
            return unread(Finding::warn(name, fault.message.clone(), &why), fault);
        }
    };
    let ids = groups.iter().map(|group| group.id.as_str()).collect::<Vec<_>>().join(", ");
    if groups.is_empty() {
        return Finding::warn(name, "the interface names none", "what is let in is not known");
    }
    if !lets_in_the_mesh(groups, port) {
        let why = "peers cannot reach this host, which is left with what it owns";
        let fix = format!(
            "aws ec2 authorize-security-group-ingress --group-id {} --protocol tcp --port {port} --source-group {}",
            groups[0].id, groups[0].id
        );
        return Finding::fail(name, format!("{ids} lets no TCP {port} in"), why).fix(fix);
    }
    if !lets_in_containers(groups, range) {
        let why = "a rule that names a group matches the hosts' addresses only, never those of containers";
        let fix = format!(
            "aws ec2 authorize-security-group-ingress --group-id {} --protocol -1 --cidr {range}",
            groups[0].id
        );
        return Finding::fail(name, format!("{ids} lets nothing in from {range}"), why).fix(fix);
    }
    Finding::ok(name, format!("{ids} lets in TCP {port}, and packets from {range}"))
}

fn lets_in_the_mesh(groups: &[Group], port: i32) -> bool {
    let mut rules = groups.iter().flat_map(|group| &group.rules);
    rules.any(|rule| {
        let protocol = matches!(rule.protocol.as_str(), "-1" | "tcp" | "6");
        let port = rule.ports.is_none_or(|(first, last)| (first..=last).contains(&port));
        protocol && port && !(rule.sources.is_empty() && rule.groups.is_empty())
    })
}

fn lets_in_containers(groups: &[Group], range: Ipv4Net) -> bool {
    let mut rules = groups.iter().flat_map(|group| &group.rules);
    rules.any(|rule| rule.sources.iter().any(|source| Range::from(*source).overlaps(range.into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{doctor::Level, vpc::groups::Rule};

    fn rule(protocol: &str, ports: Option<(i32, i32)>, source: Option<&str>) -> Rule {
        Rule {
            protocol: protocol.to_owned(),
            ports,
            sources: source.map(|source| source.parse().unwrap()).into_iter().collect(),
            groups: if source.is_none() { vec!["sg-1".to_owned()] } else { Vec::new() },
        }
    }

    fn group(rules: Vec<Rule>) -> Vec<Group> {
        vec![Group { id: "sg-1".to_owned(), rules }]
    }

    #[test]
    fn a_group_that_names_itself_lets_the_mesh_in_and_no_container() {
        let own = group(vec![rule("-1", None, None)]);
        assert!(lets_in_the_mesh(&own, 6783));
        assert!(!lets_in_containers(&own, "10.32.0.0/12".parse().unwrap()));
        let range = group(vec![rule("-1", None, Some("10.32.0.0/12"))]);
        assert!(lets_in_containers(&range, "10.32.0.0/12".parse().unwrap()));
        assert!(!lets_in_the_mesh(&group(vec![rule("tcp", Some((22, 80)), Some("10.0.0.0/8"))]), 6783));
        assert!(!lets_in_the_mesh(&group(vec![rule("udp", Some((6783, 6783)), Some("10.0.0.0/8"))]), 6783));
        assert!(!lets_in_the_mesh(&group(Vec::new()), 6783));
    }

    #[test]
    fn a_clock_that_drifts_is_named_before_requests_fail() {
        let level = |ahead| clock(ahead).level;
        assert_eq!(level(Some(-2)), Level::Ok);
        assert_eq!(level(Some(45)), Level::Warn);
        assert_eq!(level(Some(-301)), Level::Fail);
        assert_eq!(level(None), Level::Warn);
        assert_eq!(clock(Some(-400)).what, "400 s behind EC2's");
    }

    #[test]
    fn a_call_that_is_denied_is_a_failure_unless_weavers_does_without_it() {
        let of = |verdict, optional| {
            let said = (verdict != Verdict::Allowed).then(|| "not allowed".to_owned());
            Permission { action: "CreateRoute".to_owned(), verdict, optional, said, statement: None }
        };
        let levels =
            |all: &[Permission]| permissions(all).into_iter().map(|one| one.level).collect::<Vec<_>>();
        assert_eq!(levels(&[of(Verdict::Allowed, false), of(Verdict::Allowed, true)]), [Level::Ok]);
        assert_eq!(
            levels(&[of(Verdict::Denied, false), of(Verdict::Denied, true)]),
            [Level::Fail, Level::Warn]
        );
        assert_eq!(levels(&[of(Verdict::Unknown, false)]), [Level::Warn]);
    }
}
