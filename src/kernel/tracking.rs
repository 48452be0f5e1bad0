//! Connection tracking: whether its table has room for another connection.

use std::fs;

use crate::state::Tracking;

/// In `/proc/sys/net/netfilter`, of this network namespace and of the machine.
const USED: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
const MOST: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// One line for each processor, in hexadecimal, below the names.
const STATISTICS: &str = "/proc/net/stat/nf_conntrack";

/// How many connections were turned away until the last look.
#[derive(Debug, Default)]
pub struct Watch {
    dropped: Option<u64>,
}

impl Watch {
    /// How the table is, if it is full or connections were turned away since the last look.
    pub fn observe(&mut self) -> Option<Tracking> {
        let number = |path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let (used, most) = (number(USED)?, number(MOST)?);
        let now = fs::read_to_string(STATISTICS).ok().and_then(|text| dropped(&text));
        let before = std::mem::replace(&mut self.dropped, now);
        let dropped = now.zip(before).map_or(0, |(now, before)| now.saturating_sub(before));
        (used >= most || dropped > 0).then_some(Tracking { used, most, dropped })
    }
}

/// Connections for which no room was found.
fn dropped(statistics: &str) -> Option<u64> {
    let mut lines = statistics.lines();
    let column = lines.next()?.split_whitespace().position(|name| name == "drop")?;
    let of_one = |line: &str| u64::from_str_radix(line.split_whitespace().nth(column)?, 16).ok();
    lines.map(of_one).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_processor_turned_away_counts() {
        let statistics = "entries searched found new invalid ignore delete delete_list insert insert_failed drop early_drop\n\
                          00000010 00000000 00000000 0 0 0 0 0 0 00000001 0000000a 00000000\n\
                          00000010 00000000 00000000 0 0 0 0 0 0 00000001 00000010 00000000\n";
        assert_eq!(dropped(statistics), Some(26));
        assert_eq!(dropped("entries searched\n"), None);
    }
}
