//! A plan: one line a change, symbols and words, the reason, the totals.

use std::collections::BTreeSet;

use clap::builder::styling::AnsiColor;
use ipnet::{IpNet, Ipv4Net};
use serde::Serialize;
use serde_json::{Value, json};

use super::{columns, count, paint, printable};
use crate::{
    addr::Address,
    api::FORMAT_VERSION,
    plan::{Change, Conflict, Plan, Plane},
    state::{Action, Ec2Action, GATEWAY, HostAction, Side, TUNNEL, TunnelKey, link_name, some_of},
};

/// Containers named behind a change; the document names all.
const NAMED_MAX: usize = 3;

/// What kind of change it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verb {
    Create,
    Replace,
    Delete,
    Refused,
    Conflict,
}

/// A line of the plan.
pub(super) struct Row {
    verb: Verb,
    pub(super) place: String,
    pub(super) thing: String,
    pub(super) before: String,
    pub(super) after: String,
    cause: String,
}

/// A plan that was not carried out.
pub fn pending(plan: &Plan) -> String {
    let total = totals(plan, |number, verb| {
        let word = match verb {
            Verb::Create => "to create",
            Verb::Replace => "to replace",
            Verb::Delete => "to delete",
            Verb::Refused => "refused",
            Verb::Conflict => return count(number, "conflict"),
        };
        format!("{number} {word}")
    });
    sheet(plan, &format!("Plan: {}. Nothing was changed.", joined(plan, &total)))
}

/// A plan that was.
pub fn applied(plan: &Plan) -> String {
    let total = totals(plan, |number, verb| {
        let word = match verb {
            Verb::Create => "created",
            Verb::Replace => "replaced",
            Verb::Delete => "deleted",
            Verb::Refused => "refused",
            Verb::Conflict => return count(number, "conflict"),
        };
        format!("{number} {word}")
    });
    sheet(plan, &format!("Applied: {}.", joined(plan, &total)))
}

/// The plan as a document.
pub fn document(plan: &Plan) -> Value {
    let number = |verb: Verb| plan.changes.iter().filter(|change| row(change).verb == verb).count();
    let described = |change: &Change| {
        let Row { verb, place, thing, before, after, .. } = row(change);
        json!({
            "action": verb, "place": place, "thing": thing, "before": before, "after": after,
            "cause": change.cause, "containers": change.containers, "step": change.action,
        })
    };
    let all = |changes: &[Change]| -> Vec<Value> { changes.iter().map(described).collect() };
    json!({
        "format_version": FORMAT_VERSION,
        "complete": plan.is_complete(),
        "has_changes": !plan.changes.is_empty(),
        "summary": {
            "create": number(Verb::Create),
            "replace": number(Verb::Replace),
            "delete": number(Verb::Delete),
            "refused": plan.refused.len(),
            "conflict": plan.conflicts.len(),
            "containers": concerned(plan).len(),
        },
        "changes": all(&plan.changes),
        "refused": all(&plan.refused),
        "conflicts": plan.conflicts,
        "tables": plan.tables,
        "notes": notes(plan).collect::<Vec<_>>(),
    })
}

fn sheet(plan: &Plan, last: &str) -> String {
    let refused = plan.refused.iter().map(|change| Row { verb: Verb::Refused, ..row(change) });
    let rows = plan.changes.iter().map(row).chain(refused).chain(plan.conflicts.iter().map(conflict));
    let rows: Vec<Row> = rows.collect();
    let cells: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
    let lines = rows.iter().zip(columns(&cells, &[1, 2, 3])).map(|(row, rest)| row.verb.head() + &rest);
    let notes = notes(plan).map(|note| format!("note: {note}"));
    lines
        .chain(usage(plan).chain(notes).map(|line| printable(&line)))
        .chain([last.to_owned()])
        .collect::<Vec<_>>()
        .join("\n")
}

/// What was not read comes first.
fn notes(plan: &Plan) -> impl Iterator<Item = &String> {
    plan.unread.iter().chain(&plan.notes)
}

/// How full the tables are that get another number of routes.
fn usage(plan: &Plan) -> impl Iterator<Item = String> {
    let full = |table: &Side| {
        let of = |change: &Change| Plane::of(&change.action) == Plane::Table(table.clone());
        plan.refused.iter().any(of)
    };
    let other = plan.tables.iter().filter(move |(table, usage)| usage.used != usage.after || full(table));
    other.map(|(table, usage)| {
        let quota = usage.quota.map_or_else(String::new, |quota| format!(" of {quota}"));
        format!("table: {table} holds {}, {}{quota} afterwards", count(usage.used, "route"), usage.after)
    })
}

fn totals(plan: &Plan, word: impl Fn(usize, Verb) -> String) -> String {
    let number = |verb: Verb| match verb {
        Verb::Refused => plan.refused.len(),
        Verb::Conflict => plan.conflicts.len(),
        Verb::Create | Verb::Replace | Verb::Delete => {
            plan.changes.iter().filter(|change| row(change).verb == verb).count()
        }
    };
    [Verb::Create, Verb::Replace, Verb::Delete, Verb::Refused, Verb::Conflict]
        .into_iter()
        .map(|verb| (number(verb), verb))
        .filter(|(number, _)| *number > 0)
        .map(|(number, verb)| word(number, verb))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The totals. There is nothing to do where nothing is, and where that is known.
fn joined(plan: &Plan, total: &str) -> String {
    let parts = match (plan.changes.is_empty(), plan.is_complete()) {
        (true, true) => ["nothing to do", total, ""],
        (true, false) => ["nothing known to do", total, "incomplete"],
        (false, true) => ["", total, ""],
        (false, false) => ["", total, "incomplete"],
    };
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}

pub(super) fn row(change: &Change) -> Row {
    let (verb, place, thing, after) = match &change.action {
        Action::Host(action) => {
            let (verb, thing, after) = host_row(action, change.before.is_nothing());
            (verb, "host".to_owned(), thing, after)
        }
        Action::Ec2(Ec2Action::DisableCheck { interface }) => {
            (Verb::Replace, interface.to_string(), "source_dest_check".to_owned(), "off".to_owned())
        }
        Action::Ec2(Ec2Action::ReplaceRoute { table, destination, interface }) => {
            route(Verb::Replace, table, *destination, interface.to_string())
        }
        Action::Ec2(Ec2Action::CreateRoute { table, destination, interface }) => {
            route(Verb::Create, table, *destination, interface.to_string())
        }
        Action::Ec2(Ec2Action::DeleteRoute { table, destination }) => {
            route(Verb::Delete, table, *destination, String::new())
        }
    };
    Row { verb, place, thing, before: change.before.to_string(), after, cause: cause(change) }
}

fn route(verb: Verb, side: &Side, destination: Ipv4Net, after: String) -> (Verb, String, String, String) {
    (verb, side.table.to_string(), side.destination(destination).to_string(), after)
}

/// What happens to what of the host, and what is there then.
fn host_row(action: &HostAction, is_new: bool) -> (Verb, String, String) {
    let made = if is_new { Verb::Create } else { Verb::Replace };
    let table = |name: &str| (made, "nftables".to_owned(), format!("table inet {name}"));
    let link = |verb, address: &Address| (verb, address.to_string(), link_name(*address));
    let gone = |thing: String| (Verb::Delete, thing, String::new());
    match action {
        HostAction::SetSysctl { name, value } => (Verb::Replace, name.clone(), value.clone()),
        HostAction::LoadRules(_) => table("weave"),
        HostAction::OpenForward { .. } => (Verb::Create, "forward".to_owned(), "accept".to_owned()),
        HostAction::AddBlock(cidr) => (Verb::Create, cidr.to_string(), "unreachable".to_owned()),
        HostAction::SetTunnel { port, mtu, .. } => {
            (made, TUNNEL.to_owned(), format!("UDP {port}, MTU {mtu}"))
        }
        HostAction::SetTunnelPeer { key, allowed, .. } => (made, TUNNEL.to_owned(), end(key, allowed)),
        HostAction::AddHostRoute { destination, hop } => (made, destination.to_string(), hop.to_string()),
        HostAction::AddGateway => (Verb::Create, GATEWAY.to_string(), "lo".to_owned()),
        HostAction::CreateLink { address, .. } => link(Verb::Create, address),
        HostAction::MendLink { address, .. } => link(Verb::Replace, address),
        HostAction::MakePair { address, .. } => link(made, address),
        HostAction::SetPorts(ports) if ports.is_empty() => gone("nftables".to_owned()),
        HostAction::SetPorts(_) => table("weave-ports"),
        HostAction::DeleteLink(address) => gone(address.to_string()),
        HostAction::DeleteGateway => gone(GATEWAY.to_string()),
        HostAction::DeleteBlock(cidr) => gone(cidr.to_string()),
        HostAction::DeleteHostRoute { destination, .. } => gone(destination.to_string()),
        HostAction::DeleteTunnelPeer(_) | HostAction::DeleteTunnel => gone(TUNNEL.to_owned()),
        HostAction::CloseForward => gone("forward".to_owned()),
        HostAction::DeleteRules => gone("nftables".to_owned()),
    }
}

/// The other end of a tunnel, and what is led there.
fn end(key: &TunnelKey, allowed: &BTreeSet<IpNet>) -> String {
    format!("{} for {key}", some_of(allowed))
}

/// Why, and whose packets it touches.
fn cause(change: &Change) -> String {
    let Change { cause, containers, .. } = change;
    if containers.is_empty() {
        return cause.clone();
    }
    let named = containers.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = containers.len().saturating_sub(NAMED_MAX);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{cause}; touches {}: {named}{more}", count(containers.len(), "container"))
}

/// Every container that some change touches, once.
fn concerned(plan: &Plan) -> BTreeSet<&str> {
    plan.changes.iter().flat_map(|change| &change.containers).map(String::as_str).collect()
}

fn conflict(conflict: &Conflict) -> Row {
    let (place, destination) = conflict.found_at();
    Row {
        verb: Verb::Conflict,
        place,
        thing: destination.to_string(),
        before: String::new(),
        after: conflict.target.clone(),
        cause: "not ours, left alone".to_owned(),
    }
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let path = match (self.before.as_str(), self.after.as_str()) {
            (before, "") => before.to_owned(),
            ("", after) => format!("-> {after}"),
            (before, after) => format!("{before} -> {after}"),
        };
        vec![self.place.clone(), self.thing.clone(), path, self.cause.clone()]
    }
}

impl Verb {
    /// Symbol and word, as wide for every verb.
    fn head(self) -> String {
        match self {
            Verb::Create => format!("  {}   ", paint(AnsiColor::Green, "+ create")),
            Verb::Replace => format!("  {}  ", paint(AnsiColor::Yellow, "~ replace")),
            Verb::Delete => format!("  {}   ", paint(AnsiColor::Red, "- delete")),
            Verb::Refused => format!("{}    ", paint(AnsiColor::Red, "! refused")),
            Verb::Conflict => format!("{}   ", paint(AnsiColor::Magenta, "! conflict")),
        }
    }
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;

    use super::*;
    use crate::{
        plan::Usage,
        state::{InterfaceId, TableId},
    };

    fn change(action: Action, before: &str, cause: &str) -> Change {
        Change { action, before: before.into(), cause: cause.to_owned(), containers: Vec::new() }
    }

    fn example() -> Plan {
        let table = |id: &str| Side::from(TableId(id.to_owned()));
        let interface = || InterfaceId("eni-self".to_owned());
        let destination = "10.40.0.0/13".parse().unwrap();
        let replace = Action::Ec2(Ec2Action::ReplaceRoute {
            table: table("rtb-0a1"),
            destination,
            interface: interface(),
        });
        let create = Action::Ec2(Ec2Action::CreateRoute {
            table: table("rtb-0b2"),
            destination,
            interface: interface(),
        });
        let delete = Action::Host(HostAction::DeleteBlock("10.46.0.0/15".parse().unwrap()));
        Plan {
            changes: vec![
                change(replace, "eni-dead (blackhole)", "range taken over from i-0abc, terminated"),
                change(create, "", "missing in the table"),
                change(delete, "unreachable", "range given to 02:aa:.."),
            ],
            conflicts: vec![Conflict {
                place: "rtb-0b2".to_owned().into(),
                destination: "10.44.0.0/16".parse().unwrap(),
                target: "pcx-77".to_owned(),
            }],
            tables: [(table("rtb-0b2"), Usage { used: 12, after: 13, quota: Some(500) })].into(),
            ..Plan::default()
        }
    }

    #[test]
    fn what_does_not_fit_into_a_table_is_told_apart_from_what_is_to_be_done() {
        let mut plan = example();
        plan.refused =
            vec![Change { cause: "the table is full: 500 of 500 routes".into(), ..plan.changes.remove(1) }];
        plan.tables =
            [(TableId("rtb-0b2".into()).into(), Usage { used: 500, after: 500, quota: Some(500) })].into();
        insta::assert_snapshot!(strip_str(&pending(&plan)), @r"
          ~ replace  rtb-0a1 10.40.0.0/13  eni-dead (blackhole) -> eni-self   range taken over from i-0abc, terminated
          - delete   host    10.46.0.0/15  unreachable                        range given to 02:aa:..
        ! refused    rtb-0b2 10.40.0.0/13  -> eni-self                        the table is full: 500 of 500 routes
        ! conflict   rtb-0b2 10.44.0.0/16  -> pcx-77                          not ours, left alone
        table: rtb-0b2 holds 500 routes, 500 of 500 afterwards
        Plan: 1 to replace, 1 to delete, 1 refused, 1 conflict. Nothing was changed.
        ");
    }

    #[test]
    fn a_plan_reads_as_the_contract_has_it() {
        insta::assert_snapshot!(strip_str(&pending(&example())), @r"
          ~ replace  rtb-0a1 10.40.0.0/13  eni-dead (blackhole) -> eni-self   range taken over from i-0abc, terminated
          + create   rtb-0b2 10.40.0.0/13  -> eni-self                        missing in the table
          - delete   host    10.46.0.0/15  unreachable                        range given to 02:aa:..
        ! conflict   rtb-0b2 10.44.0.0/16  -> pcx-77                          not ours, left alone
        table: rtb-0b2 holds 12 routes, 13 of 500 afterwards
        Plan: 1 to create, 1 to replace, 1 to delete, 1 conflict. Nothing was changed.
        ");
    }

    #[test]
    fn colour_is_on_the_words_only() {
        let text = pending(&example());
        assert!(text.contains('\x1b'));
        assert!(text.lines().last().is_some_and(|totals| !totals.contains('\x1b')));
    }

    #[test]
    fn what_was_done_is_told_as_done() {
        let text = applied(&example());
        assert_eq!(text.lines().last(), Some("Applied: 1 created, 1 replaced, 1 deleted, 1 conflict."));
    }

    #[test]
    fn a_change_names_the_containers_that_it_touches_and_counts_the_rest() {
        let mut plan = example();
        plan.changes[0].containers = ["a", "b", "c", "d", "e"].map(str::to_owned).into();
        plan.changes[1].containers = vec!["a".to_owned()];
        let text = strip_str(&pending(&plan)).to_string();
        assert!(text.contains("terminated; touches 5 containers: a, b, c and 2 more\n"), "{text}");
        assert!(text.contains("missing in the table; touches 1 container: a\n"), "{text}");
        assert_eq!(document(&plan)["summary"]["containers"], 5);
        assert_eq!(document(&plan)["changes"][1]["containers"][0], "a");
    }

    #[test]
    fn nothing_to_do_is_said_and_notes_are_kept() {
        let plan = Plan { notes: vec!["routes follow agreement".to_owned()], ..Plan::default() };
        insta::assert_snapshot!(pending(&plan), @r"
        note: routes follow agreement
        Plan: nothing to do. Nothing was changed.
        ");
        assert_eq!(applied(&Plan::default()), "Applied: nothing to do.");
    }

    #[test]
    fn what_was_not_read_is_not_told_as_nothing_to_do() {
        let unread = vec!["the VPC cannot be read: UnauthorizedOperation".to_owned()];
        let plan = Plan { unread: unread.clone(), ..Plan::default() };
        insta::assert_snapshot!(pending(&plan), @r"
        note: the VPC cannot be read: UnauthorizedOperation
        Plan: nothing known to do, incomplete. Nothing was changed.
        ");
        let document = document(&plan);
        assert_eq!((&document["complete"], &document["notes"]), (&json!(false), &json!(unread)));
        assert!(
            pending(&Plan { unread, ..example() }).ends_with("1 conflict, incomplete. Nothing was changed.")
        );
    }

    #[test]
    fn the_hosts_own_changes_are_told_in_the_same_columns() {
        let sysctl = Action::Host(HostAction::SetSysctl {
            name: "net.ipv4.ip_forward".to_owned(),
            value: "1".to_owned(),
        });
        let check = Action::Ec2(Ec2Action::DisableCheck { interface: InterfaceId("eni-self".to_owned()) });
        let plan = Plan {
            changes: vec![
                change(sysctl, "0", "containers need it"),
                change(check, "on", "EC2 drops container packets while it is on"),
                change(Action::Host(HostAction::AddBlock("10.32.0.0/13".parse().unwrap())), "", "owned here"),
                change(
                    Action::Host(HostAction::DeleteLink("10.32.0.1".parse().unwrap())),
                    "link",
                    "no container attached to it",
                ),
            ],
            ..Plan::default()
        };
        insta::assert_snapshot!(strip_str(&pending(&plan)), @r"
          ~ replace  host     net.ipv4.ip_forward  0 -> 1           containers need it
          ~ replace  eni-self source_dest_check    on -> off        EC2 drops container packets while it is on
          + create   host     10.32.0.0/13         -> unreachable   owned here
          - delete   host     10.32.0.1            link             no container attached to it
        Plan: 1 to create, 2 to replace, 1 to delete. Nothing was changed.
        ");
    }

    #[test]
    fn the_document_counts_what_the_text_counts() {
        let document = document(&example());
        assert_eq!(document["format_version"], "1.0");
        assert_eq!(document["has_changes"], true);
        insta::assert_snapshot!(document["summary"], @r#"{"conflict":1,"containers":0,"create":1,"delete":1,"refused":0,"replace":1}"#);
        assert_eq!(document["changes"][0]["action"], "replace");
        assert_eq!(document["changes"][0]["before"], "eni-dead (blackhole)");
        assert_eq!(document["changes"][1]["after"], "eni-self");
    }
}
