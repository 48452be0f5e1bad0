//! What a comparison finds, and where. In documents both are text.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::state::{Side, TableId, Target};

/// What stands where something is to be changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Found {
    /// Nothing.
    #[default]
    Nothing,
    /// A route.
    Route {
        /// Where it leads.
        target: Target,
        /// Whether that is gone.
        blackhole: bool,
    },
    /// Something else, in words.
    Thing(String),
}

impl Found {
    /// Whether there is nothing.
    pub fn is_nothing(&self) -> bool {
        *self == Found::Nothing
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Found::Nothing => Ok(()),
            Found::Route { target, blackhole: true } => write!(f, "{target} (blackhole)"),
            Found::Route { target, blackhole: false } => write!(f, "{target}"),
            Found::Thing(words) => f.write_str(words),
        }
    }
}

impl From<Found> for String {
    fn from(found: Found) -> String {
        found.to_string()
    }
}

impl From<String> for Found {
    fn from(words: String) -> Found {
        if words.is_empty() { Found::Nothing } else { Found::Thing(words) }
    }
}

impl From<&str> for Found {
    fn from(words: &str) -> Found {
        words.to_owned().into()
    }
}

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Place {
    /// On this host.
    Host,
    /// In a side of a route table.
    Table(Side),
}

/// How documents name the host as a place.
const HOST: &str = "host";

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Host => f.write_str(HOST),
            Place::Table(table) => table.fmt(f),
        }
    }
}

impl From<Place> for String {
    fn from(place: Place) -> String {
        place.to_string()
    }
}

impl From<String> for Place {
    fn from(place: String) -> Place {
        match place.as_str() {
            HOST => Place::Host,
            text => Place::Table(text.parse().unwrap_or_else(|_| TableId(place).into())),
        }
    }
}
