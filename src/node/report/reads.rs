//! What reads have shown, and what of it a next life goes by.

use std::collections::BTreeMap;

use super::overview::Overview;
use crate::{
    addr::{Range, join},
    config::{Config, RouteTables},
    node::{observe::last_read::LED_MAX, persist::memory::LastRead},
    plan,
};

impl Overview<'_> {
    /// What a plan for this configuration rests on, and no look has shown.
    pub(in crate::node) fn unread(&self, config: &Config) -> Vec<String> {
        let views =
            [("the host", self.work.converge.host.unread()), ("the VPC", self.work.converge.vpc.unread())];
        let views = views.into_iter().filter_map(|(view, why)| Some(format!("{view} {}", why?)));
        views.chain(self.unread_tables(config)).collect()
    }

    /// Tables are looked at as the configuration in force selects them.
    fn unread_tables(&self, config: &Config) -> Vec<String> {
        let Some(seen) = self.work.converge.vpc.seen() else { return Vec::new() };
        let later = |what: &str| vec![format!("{what}: they are looked for once the file is adopted")];
        if config.ipam.range != self.facts.config.ipam.range {
            return later(&format!("routes inside {} are not known", config.ipam.range));
        }
        if let Some(prefix) =
            config.network.ipv6.filter(|_| config.network.ipv6 != self.facts.config.network.ipv6)
        {
            return later(&format!("routes inside {prefix} are not known"));
        }
        match &config.vpc.route_tables {
            RouteTables::Named(ids) => {
                let unseen = ids.iter().filter(|table| !seen.has(table));
                let why = match config.vpc.route_tables == self.facts.config.vpc.route_tables {
                    true => "it is not there, or serves a gateway",
                    false => "if it is there, it is looked at once the file is adopted",
                };
                unseen.map(|table| format!("{table} was not read: {why}")).collect()
            }
            other if *other != self.facts.config.vpc.route_tables => {
                later("the tables that vpc.route_tables selects are not known")
            }
            RouteTables::Auto | RouteTables::Tagged(..) => Vec::new(),
        }
    }

    /// What there is to be kept of the last look; nothing where the range was refused.
    pub(in crate::node) fn as_read(&self) -> Option<LastRead> {
        let vpc = self.work.converge.vpc.seen().filter(|_| self.overlap().is_none())?;
        let owned = join(self.peers.ipam.settled());
        let led = |table| {
            let parts = owned.iter().flat_map(|range| plan::led(table, *range, &vpc.interface));
            parts.flat_map(Range::cidrs).collect::<Vec<_>>()
        };
        let mut led: BTreeMap<_, _> = vpc.tables.iter().map(|(id, table)| (id.clone(), led(table))).collect();
        // A prefix that is in use no more is remembered for as long as some route of it leads here.
        let left =
            vpc.retired.iter().map(|(id, table)| (id.clone(), table.leading_to(&vpc.interface).collect()));
        led.extend(left.filter(|(_, led): &(_, Vec<_>)| !led.is_empty()));
        let read = LastRead {
            at_s: self.observed.last_reads.wall_s(self.facts.now),
            boot: self.facts.boot.clone(),
            range: self.facts.config.ipam.range,
            interface: vpc.interface.clone(),
            source_dest_check: vpc.source_dest_check,
            led,
        };
        (read.led.values().map(Vec::len).sum::<usize>() <= LED_MAX).then_some(read)
    }
}
