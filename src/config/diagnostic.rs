//! A problem in the file, where it is, and how it is shown.

use std::{fmt, ops};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::Serialize;
use thiserror::Error;

use super::sources::Source;
use crate::text::printable;

/// Something wrong in the file, or accepted without effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file, as it was named.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub col: usize,
    /// Bytes of the text that it is about.
    pub span: ops::Range<usize>,
    /// The key with its section; empty where the text is not TOML.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// The way out, if there is one.
    pub hint: Option<String>,
}

/// Every problem found in a configuration, in the order of its files and their text; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Error)]
#[serde(transparent)]
pub struct Problems(pub Vec<Problem>);

/// Whether a problem stops the file from being used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It does.
    Error,
    /// It does not.
    Warning,
}

impl Problem {
    /// A problem at these bytes of a file.
    pub fn at(source: &Source, span: ops::Range<usize>, key: impl Into<String>, message: String) -> Problem {
        let before = source.text.get(..span.start).unwrap_or(&source.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Problem {
            file: source.name.clone(),
            line: before.matches('\n').count() + 1,
            col: before[line_start..].chars().count() + 1,
            span,
            key: key.into(),
            message,
            hint: None,
        }
    }

    /// The line of its file with the place marked, as a compiler draws it.
    pub fn draw(&self, severity: Severity, text: &str, colour: bool) -> String {
        let level = match severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = if self.key.is_empty() {
            self.message.clone()
        } else {
            format!("{}: {}", self.key, self.message)
        };
        let file = printable(&self.file);
        let snippet =
            Snippet::source(text).path(&file).annotation(AnnotationKind::Primary.span(self.span.clone()));
        let mut group = level.primary_title(title).element(snippet);
        if let Some(hint) = &self.hint {
            group = group.element(Level::HELP.message(hint));
        }
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[group]).to_string()
    }
}

/// `file:line:col: key: message (hint)`, on one line: a key may be written with escapes.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", printable(&self.file), self.line, self.col)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", printable(&self.key))?;
        }
        f.write_str(&printable(&self.message))?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({})", printable(hint)))
    }
}

/// A line each.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source { name: "weave.toml".to_owned(), text: text.to_owned() }
    }

    fn problem() -> (Problem, &'static str) {
        let text = "# für\n[vpc]\nquota = 0\n";
        let mut problem = Problem::at(&source(text), 21..22, "vpc.quota", "0 is below 1".to_owned());
        problem.hint = Some("leave it out".to_owned());
        (problem, text)
    }

    #[test]
    fn a_problem_is_one_line_that_an_editor_can_jump_to() {
        let (problem, _) = problem();
        assert_eq!(problem.to_string(), "weave.toml:3:9: vpc.quota: 0 is below 1 (leave it out)");
    }

    #[test]
    fn columns_count_characters_and_spans_count_bytes() {
        let text = "peers = [\"ü\", 3]";
        let at = text.find('3').unwrap()..text.len() - 1;
        let problem = Problem::at(&source(text), at, "peers", String::new());
        assert_eq!((problem.line, problem.col), (1, 15));
    }

    #[test]
    fn a_drawing_shows_the_line_and_the_way_out() {
        let (problem, text) = problem();
        insta::assert_snapshot!(problem.draw(Severity::Error, text, false), @r"
        error: vpc.quota: 0 is below 1
         --> weave.toml:3:9
          |
        3 | quota = 0
          |         ^
          |
          = help: leave it out
        ");
    }
}
