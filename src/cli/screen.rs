//! What is printed where: data to stdout, talk to stderr.

use std::io::{IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};
use serde_json::Value;

use super::{Colour, Failure, Global};
use crate::config::{Problem, diagnostic::Severity};

/// Where a command prints.
pub(super) struct Screen {
    /// One JSON document is wanted.
    pub json: bool,
    colour: ColorChoice,
}

impl Screen {
    pub fn new(global: &Global) -> Screen {
        let colour = match global.color {
            Colour::Auto => ColorChoice::Auto,
            Colour::Always => ColorChoice::Always,
            Colour::Never => ColorChoice::Never,
        };
        Screen { json: global.json, colour }
    }

    /// The answer: a document for programs, or text for people. Colour goes where none is wanted.
    pub fn answer(&self, document: impl FnOnce() -> Value, text: impl FnOnce() -> String) {
        if self.json {
            return print_json(&document());
        }
        let text = text();
        if !text.is_empty() {
            // Whoever closed the pipe has read enough.
            let _closed =
                writeln!(AutoStream::new(std::io::stdout().lock(), self.colour), "{}", text.trim_end());
        }
    }

    /// A word to the person at the terminal.
    pub fn say(&self, text: impl AsRef<str>) {
        let mut stderr = AutoStream::new(std::io::stderr().lock(), self.colour);
        let _closed = writeln!(stderr, "{}", text.as_ref());
    }

    /// What went wrong.
    pub fn failure(&self, failure: &Failure) {
        if self.json {
            return print_json(&failure.document());
        }
        if let Some(file) = &failure.file {
            for problem in &file.problems {
                self.problem(Severity::Error, problem, &file.name, &file.text);
            }
            return;
        }
        self.say(format!("error: {}", failure.message));
        if let Some(hint) = &failure.hint {
            self.say(format!("hint: {hint}"));
        }
    }

    /// A place in a configuration file: a line for editors and logs, and on a terminal a drawing.
    pub fn problem(&self, severity: Severity, problem: &Problem, file: &str, text: &str) {
        let line = match severity {
            Severity::Error => problem.line(file),
            Severity::Warning => format!("warning: {}", problem.line(file)),
        };
        self.say(line);
        if std::io::stderr().is_terminal() {
            self.say(problem.draw(severity, file, text, true));
        }
    }
}

pub(super) fn print_json(document: &Value) {
    let _closed = writeln!(std::io::stdout().lock(), "{document:#}");
}
