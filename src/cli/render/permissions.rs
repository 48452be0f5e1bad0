//! What EC2 would carry out, a line a call, and what to add to a policy.

use clap::builder::styling::AnsiColor;

use super::{paint, printable};
use crate::node::protocol::request::{Permission, Verdict};

/// The permissions for people.
pub fn text(permissions: &[Permission]) -> String {
    permissions.iter().map(line).collect()
}

fn line(permission: &Permission) -> String {
    let Permission { action, verdict, optional, said, statement } = permission;
    let verdict = match verdict {
        Verdict::Allowed => paint(AnsiColor::Green, "allowed"),
        Verdict::Denied => paint(AnsiColor::Red, "DENIED "),
        Verdict::Unknown => paint(AnsiColor::Yellow, "unknown"),
    };
    let optional = if *optional { " (optional)" } else { "" };
    let mut line = format!("{verdict}  ec2:{}{optional}\n", printable(action));
    for more in [said, statement].into_iter().flatten() {
        line += &format!("         {}\n", printable(more));
    }
    line
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;

    use super::*;

    #[test]
    fn a_denied_call_comes_with_what_to_add() {
        let permission = |action: &str, verdict, said: Option<&str>, statement: Option<&str>| Permission {
            action: action.to_owned(),
            verdict,
            optional: false,
            said: said.map(str::to_owned),
            statement: statement.map(str::to_owned),
        };
        let permissions = [
            permission("DescribeRouteTables", Verdict::Allowed, None, None),
            permission("CreateRoute", Verdict::Denied, Some("not allowed"), Some("add to the policy: {}")),
        ];
        insta::assert_snapshot!(strip_str(&text(&permissions)), @r"
        allowed  ec2:DescribeRouteTables
        DENIED   ec2:CreateRoute
                 not allowed
                 add to the policy: {}
        ");
    }
}
