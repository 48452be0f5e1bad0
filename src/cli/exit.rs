//! How a command can end.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::{
    api::{FORMAT_VERSION, client::ClientError},
    config::{Problem, Problems, Sources},
    node::protocol::request::{Refusal, RefusalKind},
};

/// The exit codes, which are never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All is well.
    Success = 0,
    /// It went wrong.
    Failure = 1,
    /// Only with `--detailed-exitcode`: changes pending, or made.
    Changes = 2,
    /// `status --check`: running, not converged.
    NotConverged = 3,
    /// The daemon cannot be reached.
    Unreachable = 4,
    /// Refused for safety.
    Unsafe = 5,
    /// Bad command line.
    Usage = 64,
    /// Invalid configuration.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command failed, as it is told to people and to programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The code to end with.
    pub exit: Exit,
    /// A word for programs.
    pub kind: &'static str,
    /// What is wrong, naming the thing.
    pub message: String,
    /// The way out, if there is one.
    pub hint: Option<String>,
    /// What is wrong in a configuration file.
    pub file: Option<Box<BadFile>>,
}

/// A configuration with problems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFile {
    /// What its files say.
    pub sources: Sources,
    /// What is wrong with them.
    pub problems: Vec<Problem>,
}

impl Failure {
    fn new(exit: Exit, kind: &'static str, message: impl Into<String>) -> Failure {
        Failure { exit, kind, message: message.into(), hint: None, file: None }
    }

    /// It could not be done.
    pub fn failed(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Failure, "failed", message)
    }

    /// It would do harm.
    pub fn harmful(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Unsafe, "unsafe", message)
    }

    /// What it names does not exist.
    pub fn not_found(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Failure, "not_found", message)
    }

    /// The command line makes no sense.
    pub fn usage(error: &clap::Error) -> Failure {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        Failure::new(Exit::Usage, "usage", first).hint("see weavers --help")
    }

    /// The configuration file cannot be read at all.
    pub fn unreadable(error: &anyhow::Error) -> Failure {
        Failure::new(Exit::Config, "config", format!("{error:#}"))
    }

    /// The configuration has problems.
    pub fn config(sources: Sources, Problems(problems): Problems) -> Failure {
        let first = problems.first().map_or_else(String::new, |first| format!(": {first}"));
        let name = match problems.first() {
            Some(first) if problems.iter().all(|problem| problem.file == first.file) => first.file.clone(),
            _ => "the configuration".to_owned(),
        };
        let count = match problems.len() {
            1 => "1 problem".to_owned(),
            many => format!("{many} problems, the first"),
        };
        Failure {
            file: Some(Box::new(BadFile { sources, problems })),
            ..Failure::new(Exit::Config, "config", format!("{name} has {count}{first}"))
        }
    }

    /// The same with a way out.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Failure {
        Failure { hint: Some(hint.into()), ..self }
    }

    /// As a JSON document.
    pub fn document(&self) -> Value {
        let mut error = json!({ "kind": self.kind, "message": self.message, "hint": self.hint });
        if let Some(file) = &self.file {
            error["problems"] = json!(file.problems);
        }
        json!({ "format_version": FORMAT_VERSION, "error": error })
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        let hint = error.hint();
        let failure = match error {
            ClientError::Refused(refusal) => return refusal.into(),
            ClientError::Unreachable { ref source, .. } => {
                Failure::new(Exit::Unreachable, "unreachable", format!("{error}: {source}"))
            }
            ClientError::Late(_) => Failure::new(Exit::Failure, "timeout", error.to_string()),
            ClientError::Garbled(_) => Failure::failed(error.to_string()),
        };
        Failure { hint, ..failure }
    }
}

impl From<Refusal> for Failure {
    fn from(Refusal { kind, message, hint }: Refusal) -> Failure {
        let (exit, kind) = match kind {
            RefusalKind::Invalid => (Exit::Failure, "invalid"),
            RefusalKind::NotFound => (Exit::Failure, "not_found"),
            RefusalKind::Unsafe => (Exit::Unsafe, "unsafe"),
            RefusalKind::Untimely => (Exit::Unsafe, "untimely"),
            RefusalKind::Config => (Exit::Config, "config"),
            RefusalKind::Taken => (Exit::Failure, "taken"),
            RefusalKind::Failed => (Exit::Failure, "failed"),
            RefusalKind::Impaired => (Exit::Failure, "impaired"),
        };
        Failure { hint, ..Failure::new(exit, kind, message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_for_safety_has_its_own_code() {
        let refusal = |kind| Failure::from(Refusal::new(kind, "no")).exit;
        assert_eq!(refusal(RefusalKind::Unsafe), Exit::Unsafe);
        assert_eq!(refusal(RefusalKind::Untimely), Exit::Unsafe);
        for kind in [RefusalKind::Invalid, RefusalKind::NotFound, RefusalKind::Failed] {
            assert_eq!(refusal(kind), Exit::Failure);
        }
    }

    #[test]
    fn an_error_is_one_document_with_its_version() {
        let failure = Failure::not_found("no peer named b").hint("weavers status lists them");
        insta::assert_snapshot!(failure.document(), @r#"{"error":{"hint":"weavers status lists them","kind":"not_found","message":"no peer named b"},"format_version":"1.0"}"#);
    }
}
