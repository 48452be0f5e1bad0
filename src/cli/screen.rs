//! What is printed where: data to stdout, talk to stderr.

use std::io::{IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};
use serde_json::Value;

use super::{Colour, Exit, Failure, Global};
use crate::{
    config::{Problem, Sources, diagnostic::Severity},
    text::{printable, printable_lines},
};

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

    /// The answer: a document for programs, or text for people, fit to be shown. Colour goes where none is wanted.
    pub fn answer(&self, document: impl FnOnce() -> Value, text: impl FnOnce() -> String) {
        if self.json {
            return print_json(&document());
        }
        let text = text();
        if !text.is_empty() {
            let text = text.trim_end().split('\n').map(in_colour).collect::<Vec<_>>().join("\n");
            // Whoever closed the pipe has read enough.
            let _closed = writeln!(AutoStream::new(std::io::stdout().lock(), self.colour), "{text}");
        }
    }

    /// A word to the person at the terminal, on one line.
    pub fn say(&self, text: impl AsRef<str>) {
        self.talk(&printable(text.as_ref()));
    }

    /// Text that is fit to be shown.
    fn talk(&self, text: &str) {
        let mut stderr = AutoStream::new(std::io::stderr().lock(), self.colour);
        let _closed = writeln!(stderr, "{text}");
    }

    /// Draws a line of talk in the place of the one before, which was drawn by this, too. It ends none.
    pub fn redraw(&self, text: &str) {
        const BACK: &str = "\r\x1b[K";
        let style = clap::builder::styling::Style::new().dimmed();
        // What moves the cursor is no colour, and stays where none is wanted.
        let mut stderr = std::io::stderr().lock();
        let _closed = write!(stderr, "{BACK}");
        if !text.is_empty() {
            let _closed = write!(AutoStream::new(&mut stderr, self.colour), "{style}{text}{style:#}");
        }
        let _closed = stderr.flush();
    }

    /// What went wrong.
    pub fn failure(&self, failure: &Failure) {
        if self.json {
            return print_json(&failure.document());
        }
        if let Some(file) = &failure.file {
            for problem in &file.problems {
                self.problem(Severity::Error, problem, &file.sources);
            }
            return;
        }
        let error = format!("error: {}", failure.message);
        match failure.exit {
            // Of a file that the daemon refused, each line is a problem.
            Exit::Config => self.talk(&printable_lines(&error)),
            Exit::Success
            | Exit::Failure
            | Exit::Changes
            | Exit::NotConverged
            | Exit::Unreachable
            | Exit::Unsafe
            | Exit::Usage => self.say(error),
        }
        if let Some(hint) = &failure.hint {
            self.say(format!("hint: {hint}"));
        }
    }

    /// A place in a configuration file: a line for editors and logs, and on a terminal a drawing.
    pub fn problem(&self, severity: Severity, problem: &Problem, sources: &Sources) {
        self.say(match severity {
            Severity::Error => problem.to_string(),
            Severity::Warning => format!("warning: {problem}"),
        });
        if std::io::stderr().is_terminal() {
            self.talk(&problem.draw(severity, sources.text_of(&problem.file), true));
        }
    }
}

/// A line fit to be shown that may have colours in it: of what steers a terminal, only those are left.
pub(super) fn in_colour(line: &str) -> String {
    const BEGIN: &str = "\x1b[";
    let mut parts = line.split(BEGIN);
    let mut shown = printable(parts.next().unwrap_or_default());
    for part in parts {
        let behind = part.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        match behind.strip_prefix('m') {
            Some(rest) => {
                shown += BEGIN;
                shown += &part[..part.len() - rest.len()];
                shown += &printable(rest);
            }
            None => shown += &printable(&format!("{BEGIN}{part}")),
        }
    }
    shown
}

/// What is wrong with a command line, which may hold what a file or a container is called.
pub(super) fn print_usage(text: &str) {
    let _closed = writeln!(std::io::stderr().lock(), "{}", printable_lines(text.trim_end()));
}

pub(super) fn print_json(document: &Value) {
    let _closed = writeln!(std::io::stdout().lock(), "{document:#}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colour_stays_and_whatever_else_steers_a_terminal_goes() {
        assert_eq!(in_colour("\x1b[1mpeers\x1b[0m"), "\x1b[1mpeers\x1b[0m");
        assert_eq!(in_colour("a\x1b[38;5;1mb"), "a\x1b[38;5;1mb");
        assert_eq!(in_colour("\x1b[2Jb\x1b]0;title\x07\x1b[\r\u{202e}"), "?[2Jb?]0;title??[??");
    }
}
