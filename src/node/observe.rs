//! When to look at the host and at EC2, so that a whole cluster asks EC2 less than once a second.

use std::{ops::Range, time::Duration};

use rand::RngExt;

use super::{Node, io::Output, overview::Overview};
use crate::{
    config::{Config, RouteTables},
    state::{Fault, Host, Vpc},
};

/// Time from one reading call of a peer to its next, for each peer of the cluster: all of them together make three calls in four
/// seconds, which leaves room for what is asked now and then.
const READS_SHARE: Duration = Duration::from_millis(1333);
/// The same where calls are spread by chance, and many may fall into one minute.
const SPREAD_SHARE: Duration = Duration::from_millis(1800);
/// Where each peer looks at least once in so long, the looks of a minute even out by themselves.
const OFTEN: Duration = Duration::from_secs(60);
/// How much of the usual time passes there.
const SPREAD_OFTEN: Range<f64> = 0.4..1.3;
/// How many times the usual time passes at most.
const SPREAD_MAX: f64 = 4.0;

impl Node {
    pub(super) fn look(&mut self) {
        self.look_at_names();
        self.look_for_peers();
        self.look_for_instances();
        self.look_for_unconfirmed();
        self.look_for_places();
        if self.observed.looked_for != self.overview().rules_to_look_for() {
            self.work.converge.host.look_by(self.facts.now);
        }
        if self.work.converge.begin_host(self.facts.now) {
            self.local.containers.look_begins();
            let wanted =
                Host { others: self.overview().others_to_ask_for(), ..self.overview().ground().looked_for() };
            self.observed.looked_for = wanted.rules.clone();
            let scope = self.work.converge.host.scope();
            self.out.outputs.push_back(Output::ObserveHost(Box::new(wanted), scope));
        }
        if self.work.converge.begin_vpc(self.facts.now) {
            if self.overview().has_room_for_the_check() {
                self.out.outputs.push_back(Output::DoubtCheck);
            }
            self.out
                .outputs
                .push_back(Output::ObserveVpc(self.facts.config.ipam.range, self.overview().tables()));
        }
    }

    pub(super) fn on_host_seen(&mut self, result: Result<Host, Fault>) {
        let interval = self.jittered(self.facts.config.reconcile.interval);
        self.work.converge.host_seen(self.facts.now, result, interval);
        if !self.out.ledger.unkept_containers().is_empty() {
            self.local.containers.touch();
        }
        self.judge_paths();
        self.out.disturbed = true;
        if self.work.converge.host.fault().is_none() {
            self.tend_containers();
        }
    }

    pub(super) fn on_vpc_seen(&mut self, result: Result<Vpc, Fault>) {
        self.observed.spread = match SPREAD_SHARE * self.overview().readers() < OFTEN {
            true => self.observed.rng.random_range(SPREAD_OFTEN),
            false => spread(self.observed.rng.random()),
        };
        let interval = self.vpc_interval();
        if let Ok(vpc) = &result {
            vpc.tables.iter().for_each(|(id, table)| self.work.quotas.seen(id, table.used));
        }
        let has_read = result.is_ok();
        self.work.converge.vpc_seen(self.facts.now, result, interval);
        if has_read {
            self.keep_read();
        }
        self.out.disturbed = true;
        self.look_for_traces();
        self.judge_election();
    }

    /// Time from one look at EC2 to the next. It grows with the cluster, so that all of it asks no more often, and is then spread
    /// so that this holds for each minute, even after all looked at once.
    pub(super) fn vpc_interval(&mut self) -> Duration {
        let interval = self.jittered(self.facts.config.reconcile.interval);
        if self.overview().is_small() { interval } else { interval.max(self.overview().reads_share()) }
    }

    /// Looks that were to come soon when the cluster was smaller.
    pub(super) fn put_off_looks(&mut self) {
        if self.overview().is_small() {
            return;
        }
        let share = self.overview().reads_share();
        self.work.converge.vpc.put_off(share);
        self.observed.discovery.found.put_off(share);
        self.observed.places.put_off(share);
    }

    /// Up to a tenth earlier, so that hosts that started together do not go on in step.
    pub(super) fn jittered(&mut self, interval: Duration) -> Duration {
        interval.mul_f64(self.observed.rng.random_range(0.9..1.0))
    }
}

impl Overview<'_> {
    /// What a plan for this configuration rests on, and no look has shown.
    pub(super) fn unread(&self, config: &Config) -> Vec<String> {
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
        match &config.vpc.route_tables {
            RouteTables::Named(ids) => {
                let unseen = ids.iter().filter(|table| !seen.tables.contains_key(table));
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

    /// Whether all peers may look as often as is configured.
    fn is_small(&self) -> bool {
        self.facts.config.reconcile.interval >= self.usual_share()
    }

    /// Time between reading calls of this peer if all take the same.
    pub(super) fn usual_share(&self) -> Duration {
        READS_SHARE * self.readers()
    }

    /// The same where it is a matter of chance.
    fn reads_share(&self) -> Duration {
        (SPREAD_SHARE * self.readers()).mul_f64(self.observed.spread)
    }

    /// How many take turns in reading: of each peer the tables, and the instances that bear a tag.
    pub(super) fn readers(&self) -> u32 {
        let peers = self.peers.mesh.reachable().len() as u32 + 1;
        peers * (1 + u32::from(self.facts.config.ec2_tag.is_some()))
    }

    /// Whether every look may ask for the source/destination check, too, and all of the cluster still asks no more
    /// often than a large one.
    fn has_room_for_the_check(&self) -> bool {
        2 * self.usual_share() <= self.facts.config.reconcile.interval
    }
}

/// Which part of the usual time passes before the next look, by chance: as far apart as the calls of people who know nothing of each
/// other, so that each minute brings as many as any other, whatever happened to all of them at once.
fn spread(chance: f64) -> f64 {
    -(1.0 - chance).ln() % SPREAD_MAX
}
