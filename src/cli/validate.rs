//! `weavers validate`: offline, unprivileged; nothing is read but the file.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::{Exit, Failure, Global, screen::Screen};
use crate::{
    api::FORMAT_VERSION,
    config::{self, Config, Problem, diagnostic::Severity},
    text::printable,
};

#[derive(Debug, Args)]
pub(super) struct Validate {
    /// The file; otherwise that of --config
    file: Option<PathBuf>,
}

/// A file without errors.
pub(super) struct Checked {
    name: String,
    /// What it says.
    pub text: String,
    /// What that means.
    pub config: Config,
    warnings: Vec<Problem>,
}

impl Validate {
    pub fn exec(self, global: &Global, screen: &Screen) -> Result<Exit, Failure> {
        let checked = check(self.file.as_ref().unwrap_or(&global.config))?;
        checked.warn(screen);
        let document =
            || json!({ "format_version": FORMAT_VERSION, "valid": true, "warnings": checked.warnings });
        screen.answer(document, || format!("{}: valid", printable(&checked.name)));
        Ok(Exit::Success)
    }
}

/// Reads and checks `file`.
pub(super) fn check(file: &Path) -> Result<Checked, Failure> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|error| Failure::unreadable(&name, &error))?;
    match config::check(&text) {
        Ok((config, warnings)) => Ok(Checked { name, text, config, warnings }),
        Err(problems) => Err(Failure::config(&name, &text, problems)),
    }
}

impl Checked {
    /// Says what is accepted and does nothing.
    pub fn warn(&self, screen: &Screen) {
        for warning in &self.warnings {
            screen.problem(Severity::Warning, warning, &self.name, &self.text);
        }
    }
}
