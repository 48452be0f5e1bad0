//! Findings: one line each, and below what is not well why it matters and what to type.

use clap::builder::styling::AnsiColor;

use super::{columns, count, paint, printable};
use crate::doctor::{Finding, Level};

/// The findings for people, and how many there are of each kind.
pub fn text(findings: &[Finding]) -> String {
    let rows: Vec<Vec<String>> =
        findings.iter().map(|finding| vec![finding.check.clone(), finding.what.clone()]).collect();
    let mut text = String::new();
    for (finding, line) in findings.iter().zip(columns(&rows, &[2])) {
        text += &format!("{}  {line}\n", finding.level.head());
        for (word, more) in [("why", &finding.why), ("fix", &finding.fix)] {
            text += &more
                .as_ref()
                .map_or_else(String::new, |more| format!("        {word}: {}\n", printable(more)));
        }
    }
    let number = |level| findings.iter().filter(|finding| finding.level == level).count();
    let warnings = count(number(Level::Warn), "warning");
    text + &format!("{}, {warnings}.", count(number(Level::Fail), "failure"))
}

impl Level {
    /// As wide for every level.
    fn head(self) -> String {
        match self {
            Level::Ok => paint(AnsiColor::Green, "ok  "),
            Level::Warn => paint(AnsiColor::Yellow, "warn"),
            Level::Fail => paint(AnsiColor::Red, "FAIL"),
        }
    }
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;

    use super::*;

    #[test]
    fn what_is_not_well_comes_with_its_reason_and_the_command() {
        let finding = |check: &str, level, what: &str| Finding {
            check: check.to_owned(),
            level,
            what: what.to_owned(),
            why: (level != Level::Ok).then(|| "packets are dropped".to_owned()),
            fix: (level != Level::Ok).then(|| "sysctl -w net.ipv4.ip_forward=1".to_owned()),
        };
        let findings = [
            finding("identity", Level::Ok, "i-0abc"),
            finding("forwarding", Level::Fail, "net.ipv4.ip_forward = 0"),
        ];
        insta::assert_snapshot!(strip_str(&text(&findings)), @r"
        ok    identity    i-0abc
        FAIL  forwarding  net.ipv4.ip_forward = 0
                why: packets are dropped
                fix: sysctl -w net.ipv4.ip_forward=1
        1 failure, 0 warnings.
        ");
    }
}
