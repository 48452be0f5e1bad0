//! `weavers validate`: offline, unprivileged; nothing is read but the files.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::{Exit, Failure, Global, screen::Screen};
use crate::{
    api::FORMAT_VERSION,
    config::{self, Config, Problem, Sources, diagnostic::Severity},
    config_files,
    text::printable,
};

#[derive(Debug, Args)]
pub(super) struct Validate {
    /// File to check by itself; otherwise that of --config with its drop-ins, as the daemon would read them
    file: Option<PathBuf>,
}

/// A configuration without errors.
pub(super) struct Checked {
    /// What its files say.
    pub sources: Sources,
    /// What that means.
    pub config: Config,
    warnings: Vec<Problem>,
}

impl Validate {
    pub fn exec(self, global: &Global, screen: &Screen) -> Result<Exit, Failure> {
        let checked = match &self.file {
            Some(file) => sound(config_files::read_alone(file))?,
            None => check(&global.config)?,
        };
        checked.warn(screen);
        let names: Vec<&str> = checked.sources.iter().map(|source| source.name.as_str()).collect();
        let document = || {
            let warnings = &checked.warnings;
            json!({ "format_version": FORMAT_VERSION, "valid": true, "files": names, "warnings": warnings })
        };
        screen.answer(document, || {
            names.iter().map(|name| format!("{}: valid", printable(name))).collect::<Vec<_>>().join("\n")
        });
        Ok(Exit::Success)
    }
}

/// Reads and checks `file` with its drop-ins.
pub(super) fn check(file: &Path) -> Result<Checked, Failure> {
    sound(config_files::read_given(file))
}

fn sound(read: anyhow::Result<Sources>) -> Result<Checked, Failure> {
    let sources = read.map_err(|error| Failure::unreadable(&error))?;
    match config::check(&sources) {
        Ok((config, warnings)) => Ok(Checked { sources, config, warnings }),
        Err(problems) => Err(Failure::config(sources, problems)),
    }
}

impl Checked {
    /// Says what is accepted and does nothing.
    pub fn warn(&self, screen: &Screen) {
        for warning in &self.warnings {
            screen.problem(Severity::Warning, warning, &self.sources);
        }
    }
}
