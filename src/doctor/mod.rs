//! What is wrong with this host, why it matters, and what to type.
//!
//! [`gather`] reads all there is to read, with a daemon and without one, and changes nothing;
//! [`examine`] judges it. Everything is looked at, whatever fails.

pub mod facts;
mod cloud;
mod gather;
mod host;
mod mesh;

use serde::{Deserialize, Serialize};

pub use facts::Facts;
pub use gather::gather;

/// How it stands with one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but not as well as it could, or it could not be looked at.
    Warn,
    /// Packets do not flow, or will not after the next change.
    Fail,
}

/// What was found of one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// How it stands.
    pub level: Level,
    /// What is.
    pub what: String,
    /// Why it matters, where it is not well.
    pub why: Option<String>,
    /// What to type.
    pub fix: Option<String>,
}

/// Everything that was found, from the ground up: what is wrong first is the cause of what follows.
pub fn examine(facts: &Facts) -> Vec<Finding> {
    [
        host::configuration(facts),
        host::password(facts.password.as_ref()).into_iter().collect(),
        host::daemon(facts),
        cloud::examine(facts),
        host::examine(facts),
        mesh::examine(facts),
    ]
    .concat()
}

impl Finding {
    fn ok(check: &str, what: impl Into<String>) -> Finding {
        Finding { check: check.to_owned(), level: Level::Ok, what: what.into(), why: None, fix: None }
    }

    fn warn(check: &str, what: impl Into<String>, why: &str) -> Finding {
        Finding { level: Level::Warn, why: Some(why.to_owned()), ..Finding::ok(check, what) }
    }

    fn fail(check: &str, what: impl Into<String>, why: &str) -> Finding {
        Finding { level: Level::Fail, why: Some(why.to_owned()), ..Finding::ok(check, what) }
    }

    fn fix(self, fix: impl Into<String>) -> Finding {
        Finding { fix: Some(fix.into()), ..self }
    }

    fn fix_if(self, fix: Option<String>) -> Finding {
        Finding { fix, ..self }
    }
}
