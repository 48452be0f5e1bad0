//! A plan as before and after: for people in unified form, for Ansible as its `--diff` shows it.

use serde_json::{Value, json};

use super::{
    plan::{Row, row},
    printable,
};
use crate::plan::Plan;

/// What changes at one place.
struct Difference {
    place: String,
    before: Vec<String>,
    after: Vec<String>,
}

/// Each place with what goes and what comes, a line a thing.
pub fn text(plan: &Plan) -> String {
    let mut text = String::new();
    for Difference { place, before, after } in differences(plan) {
        let place = printable(&place);
        text += &format!("--- {place} (before)\n+++ {place} (after)\n");
        text.extend(before.iter().map(|line| format!("-{}\n", printable(line))));
        text.extend(after.iter().map(|line| format!("+{}\n", printable(line))));
    }
    text
}

/// The same as a list of what an Ansible module returns as `diff`.
pub fn document(plan: &Plan) -> Value {
    let joined = |lines: &[String]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let differences = differences(plan).into_iter().map(|Difference { place, before, after }| {
        json!({
            "before_header": place, "after_header": place,
            "before": joined(&before), "after": joined(&after),
        })
    });
    differences.collect()
}

fn differences(plan: &Plan) -> Vec<Difference> {
    let mut all: Vec<Difference> = Vec::new();
    for change in &plan.changes {
        let Row { place, thing, before, after, .. } = row(change);
        let at = all.iter().position(|known| known.place == place).unwrap_or_else(|| {
            all.push(Difference { place, before: Vec::new(), after: Vec::new() });
            all.len() - 1
        });
        let line = |state: &str| format!("{thing} {state}");
        if !before.is_empty() {
            all[at].before.push(line(&before));
        }
        if !after.is_empty() {
            all[at].after.push(format!("{}  # {}", line(&after), change.cause));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        plan::Change,
        state::{Action, Ec2Action, HostAction, InterfaceId, Side, TableId},
    };

    fn example() -> Plan {
        let (table, interface) =
            (Side::from(TableId("rtb-1".to_owned())), InterfaceId("eni-self".to_owned()));
        let change = |action, before: &str, cause: &str| Change {
            action,
            before: before.into(),
            cause: cause.to_owned(),
            containers: Vec::new(),
        };
        let destination = "10.40.0.0/13".parse().unwrap();
        let replace = Action::Ec2(Ec2Action::ReplaceRoute { table: table.clone(), destination, interface });
        let delete =
            Action::Ec2(Ec2Action::DeleteRoute { table, destination: "10.40.0.0/16".parse().unwrap() });
        let block = Action::Host(HostAction::AddBlock("10.40.0.0/13".parse().unwrap()));
        Plan {
            changes: vec![
                change(block, "", "owned here"),
                change(replace, "eni-dead (blackhole)", "its target is gone"),
                change(delete, "eni-self", "another route leads there"),
            ],
            ..Plan::default()
        }
    }

    #[test]
    fn each_place_has_its_before_and_after() {
        insta::assert_snapshot!(text(&example()), @r"
        --- host (before)
        +++ host (after)
        +10.40.0.0/13 unreachable  # owned here
        --- rtb-1 (before)
        +++ rtb-1 (after)
        -10.40.0.0/13 eni-dead (blackhole)
        -10.40.0.0/16 eni-self
        +10.40.0.0/13 eni-self  # its target is gone
        ");
    }

    #[test]
    fn ansible_gets_both_as_text() {
        let document = document(&example());
        assert_eq!(document[1]["before_header"], "rtb-1");
        assert_eq!(document[1]["before"], "10.40.0.0/13 eni-dead (blackhole)\n10.40.0.0/16 eni-self\n");
        assert_eq!(document[0]["before"], "");
    }
}
