//! What can be played in the lab. A scenario acts through [`Lab`] and ends with a report.

use anyhow::Context;
use futures_util::future::LocalBoxFuture;

use crate::{lab::Lab, report::Report};

mod basic;
#[allow(dead_code)] // What scenarios share; not all of it is used yet.
mod stage;

/// Plays a scenario.
type Play = for<'a> fn(&'a mut Lab) -> LocalBoxFuture<'a, anyhow::Result<Report>>;

/// A scenario.
pub struct Scenario {
    /// What `--scenario` calls it.
    pub name: &'static str,
    /// How many hosts it has, unless `--hosts` says otherwise.
    pub hosts: u8,
    /// How often its hosts look again, unless `--interval` says otherwise.
    pub interval: &'static str,
    /// Plays it.
    pub run: Play,
}

/// All scenarios, in the order in which `all` plays them.
pub const ALL: &[Scenario] =
    &[Scenario { name: "basic", hosts: 3, interval: "30s", run: |lab| Box::pin(basic::run(lab)) }];

/// What `--scenario` calls all of them, one after another, each in a lab of its own.
pub const EVERY: &str = "all";

/// What `--scenario` accepts.
pub fn names() -> Vec<&'static str> {
    ALL.iter().map(|scenario| scenario.name).chain([EVERY]).collect()
}

/// The scenario of this name.
pub fn find(name: &str) -> anyhow::Result<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name).with_context(|| format!("there is no scenario {name}"))
}
