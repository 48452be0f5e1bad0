//! How many routes a table holds, where EC2 was asked for one more and refused.
//!
//! The quota itself cannot be read with the permissions that weavers has. What was learned is doubted after a while, since it
//! can be raised.

use std::{collections::BTreeMap, time::Duration};

use crate::{node::protocol::status::Note, plan::Usage, state::Side, time::Timestamp};

/// How long a refusal is believed without another try.
const BELIEVED_FOR: Duration = Duration::from_secs(600);
/// What EC2 gives an account that did not ask for more, and the most that it gives.
const USUAL: [usize; 2] = [500, 1000];
/// The share of the quota, in percent, from which on somebody should know.
const NEARLY_FULL: usize = 80;
const WAY_OUT: &str = "remove routes that nobody needs, or raise the quota `Routes per route table` (L-93826ACB), which can be 1000";

/// Tables that were full.
#[derive(Debug, Default)]
pub struct Quotas {
    full: BTreeMap<Side, (usize, Timestamp)>,
}

impl Quotas {
    /// EC2 refused this table another route while it held so many.
    pub fn learn(&mut self, now: Timestamp, table: &Side, used: usize) {
        self.full.insert(table.clone(), (used, now));
    }

    /// A table was seen to hold so many: it can hold more than was thought.
    pub fn seen(&mut self, table: &Side, used: usize) {
        self.full.retain(|full, (most, _)| full != table || *most >= used);
    }

    /// Somebody asks: perhaps the quota was raised.
    pub fn doubt(&mut self) {
        self.full.clear();
    }

    /// What is believed now.
    pub fn full(&self, now: Timestamp) -> BTreeMap<Side, usize> {
        let believed = self.full.iter().filter(|(_, (_, since))| now.since(*since) < BELIEVED_FOR);
        believed.map(|(table, (most, _))| (table.clone(), *most)).collect()
    }
}

/// What to say of a table that is full, or will be before long.
pub fn warning(table: &Side, usage: &Usage) -> Option<Note> {
    let Usage { used, after, quota } = *usage;
    let most = quota.or_else(|| USUAL.into_iter().find(|usual| used <= *usual))?;
    let fullest = used.max(after);
    let what = match quota {
        _ if fullest * 100 < most * NEARLY_FULL => return None,
        Some(quota) if fullest >= quota => format!("{table} is full: it holds {used} of {quota} routes"),
        Some(quota) => format!("{table} is nearly full: it holds {used} of {quota} routes"),
        None => {
            format!("{table} may be nearly full: it holds {used} routes, and EC2's usual quota is {most}")
        }
    };
    let hint = match quota {
        Some(_) => WAY_OUT.to_owned(),
        None => format!("say what its quota is in `[vpc] quota`; {WAY_OUT}"),
    };
    Some(Note { what, hint: Some(hint) })
}

/// The way out of a full table.
pub fn way_out() -> String {
    WAY_OUT.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::TableId;

    const NOW: Timestamp = Timestamp::ZERO;

    fn table() -> Side {
        TableId("rtb-1".into()).into()
    }

    fn warned(used: usize, quota: Option<usize>) -> Option<String> {
        warning(&table(), &Usage { used, after: used, quota }).map(|note| note.what)
    }

    #[test]
    fn a_table_is_warned_about_from_four_fifths_on() {
        assert_eq!(warned(39, Some(50)), None);
        assert_eq!(warned(40, Some(50)).unwrap(), "rtb-1 is nearly full: it holds 40 of 50 routes");
        assert_eq!(warned(50, Some(50)).unwrap(), "rtb-1 is full: it holds 50 of 50 routes");
    }

    #[test]
    fn without_a_known_quota_the_usual_one_is_assumed() {
        assert_eq!(warned(399, None), None);
        assert!(warned(400, None).unwrap().contains("EC2's usual quota is 500"));
        assert_eq!(warned(501, None), None, "it was raised, then");
        assert!(warned(800, None).unwrap().contains("is 1000"));
    }

    #[test]
    fn a_refusal_is_believed_until_more_is_seen_or_a_while_has_passed() {
        let mut quotas = Quotas::default();
        quotas.learn(NOW, &table(), 50);
        quotas.seen(&table(), 50);
        assert_eq!(quotas.full(NOW + BELIEVED_FOR / 2), [(table(), 50)].into());
        assert!(quotas.full(NOW + BELIEVED_FOR).is_empty());
        quotas.seen(&table(), 51);
        assert!(quotas.full(NOW).is_empty());
    }
}
