//! The container network interface, as the specification has it: what a runtime says, and what it is answered.
//!
//! ```text
//!  environment, stdin ─► input ─► Order ─► (the daemon) ─► output ─► stdout, exit code
//! ```
//!
//! Pure: nothing is asked or read here. [`conflist`] is the file by which runtimes find us.

use std::{fmt, path::PathBuf};

use serde_json::{Value, json};

use crate::{
    node::protocol::request::{Loan, Wish},
    state::Key,
};

pub mod conflist;
pub mod input;
pub mod output;

/// The control socket unless the network's configuration names another.
pub const SOCKET: &str = "/run/weave/weavers.sock";

/// A version of the protocol, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // The names say it.
pub enum Version {
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    /// All that are spoken.
    pub const ALL: [Version; 4] = [Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];

    /// That of this text, if it is spoken.
    pub fn find(text: &str) -> Option<Version> {
        Version::ALL.into_iter().find(|version| version.text() == text)
    }

    /// As it is written.
    pub fn text(self) -> &'static str {
        match self {
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }
}

/// In whose place the program stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It makes interfaces.
    Interfaces,
    /// It lends addresses to the plugin that makes them.
    Addresses,
}

impl Role {
    /// The program's name in configurations.
    pub fn program(self) -> &'static str {
        match self {
            Role::Interfaces => "weavers",
            Role::Addresses => "weavers-ipam",
        }
    }

    /// That of the program that was started by this path.
    pub fn of(path: &std::path::Path) -> Role {
        let is_ipam = path.file_name().is_some_and(|name| name == Role::Addresses.program());
        if is_ipam { Role::Addresses } else { Role::Interfaces }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Nothing was asked: say what this is.
    About,
    /// Say which versions are spoken, in an answer of this one.
    Version(String),
    /// Something of a network.
    Of(Network, Verb),
}

/// The network that an order is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// In which version it is answered.
    pub version: Version,
    /// Where the daemon listens.
    pub socket: PathBuf,
    /// What its configuration says of name servers, which is passed on.
    pub dns: Value,
}

/// What is to be done in a network.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // The names say it.
pub enum Verb {
    Add {
        netns: String,
        wish: Box<Wish>,
    },
    Lend {
        netns: String,
        loan: Box<Loan>,
    },
    Del {
        key: Key,
    },
    /// `addresses` are those that the result of ADD lists.
    Check {
        netns: String,
        key: Key,
        addresses: Vec<String>,
    },
    /// The same of an address that was lent.
    Lent {
        key: Key,
        addresses: Vec<String>,
    },
    Status,
    Gc,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The version of the answer.
    pub version: String,
    /// What a program decides by.
    pub code: Code,
    /// What is wrong.
    pub message: String,
    /// More of it, and the way out.
    pub details: String,
}

/// What a program decides by. The first ones are the specification's, those from 100 on ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// The version is not spoken.
    Version = 1,
    /// A key of the configuration is not known.
    Unsupported = 2,
    /// What is asked about was never added.
    Unknown = 3,
    /// A variable of the environment is missing, or will not do.
    Environment = 4,
    /// stdin cannot be read.
    Unread = 5,
    /// stdin is no JSON object.
    Undecoded = 6,
    /// A key of the configuration has a value that will not do.
    Config = 7,
    /// The network namespace is not there, or the host's own.
    Namespace = 8,
    /// Not now: the same may succeed later.
    Again = 11,
    /// Nothing could be added now (STATUS).
    NotReady = 50,
    /// Nor do all packets of what was added before arrive (STATUS).
    Impaired = 51,
    /// No daemon answers.
    Unreachable = 100,
    /// The address or the interface that is asked for is somebody else's.
    Taken = 101,
    /// It is not as it was added (CHECK).
    Changed = 102,
}

impl Failure {
    /// One of this version.
    pub fn new(version: Version, code: Code, message: impl Into<String>) -> Failure {
        Failure { version: version.text().to_owned(), code, message: message.into(), details: String::new() }
    }

    /// The same with the way out.
    #[must_use]
    pub fn details(self, details: impl Into<String>) -> Failure {
        Failure { details: details.into(), ..self }
    }

    /// As it is written to stdout.
    pub fn document(&self) -> Value {
        json!({ "cniVersion": self.version, "code": self.code as u32, "msg": self.message, "details": self.details })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        if !self.details.is_empty() {
            write!(f, "; {}", self.details)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
