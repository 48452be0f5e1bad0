//! The configuration file as the daemon knows it: what is in force, what was edited since, and
//! what is wrong with it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tracing::{info, warn};

use crate::{
    api::Answer,
    config::{self, Config, OnChange},
    node::{
        request::{Refusal, RefusalKind, Response},
        status::ConfigStatus,
    },
};

/// A file that was read and found sound, on its way into the node.
pub(super) struct Candidate {
    pub(super) config: Config,
    text: String,
}

/// What an edit amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edit {
    /// The file says what is in force.
    None,
    /// It says something else, and could be adopted.
    Sound,
    /// It cannot be adopted.
    Broken,
}

pub(super) struct ConfigFile {
    path: PathBuf,
    text: String,
    config: Config,
    edit: Edit,
    error: Option<String>,
    /// A text that the node has refused; `error` says why.
    refused: Option<String>,
    needs_restart: Vec<String>,
}

impl ConfigFile {
    /// Reads the file at `path` for the first time.
    pub(super) fn read(path: &Path) -> anyhow::Result<ConfigFile> {
        let text = read(path)?;
        let (config, warnings) = config::check(&text).map_err(|problems| {
            Refusal::new(RefusalKind::Config, problems.lines(&path.display().to_string()))
        })?;
        for warning in warnings {
            warn!(key = warning.key, "{}", warning.message);
        }
        Ok(ConfigFile {
            path: path.to_owned(),
            text,
            config,
            edit: Edit::None,
            error: None,
            refused: None,
            needs_restart: Vec::new(),
        })
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn on_change(&self) -> OnChange {
        self.config.reconcile.on_change
    }

    pub(super) fn status(&self) -> ConfigStatus {
        ConfigStatus {
            path: self.path.display().to_string(),
            pending: self.edit == Edit::Sound,
            error: self.error.clone(),
            needs_restart: self.needs_restart.clone(),
        }
    }

    /// The file was edited: validates it and remembers what it amounts to.
    pub(super) fn look(&mut self) -> Edit {
        match self.candidate() {
            Ok(candidate) if candidate.text == self.text => (self.edit, self.error) = (Edit::None, None),
            Ok(candidate) if self.refused.as_ref() == Some(&candidate.text) => {}
            Ok(_) => {
                info!("the configuration file was edited: adopt it with `weavers reload`");
                (self.edit, self.error) = (Edit::Sound, None);
            }
            Err(refusal) => warn!(error = refusal.message, "the edited configuration file cannot be adopted"),
        }
        self.edit
    }

    /// Reads the file anew.
    pub(super) fn candidate(&mut self) -> Result<Candidate, Refusal> {
        let text = read(&self.path).map_err(|error| refused(format!("{error:#}")));
        let checked = text.and_then(|text| {
            let config = check(&self.path.display().to_string(), &text)?;
            Ok(Candidate { config, text })
        });
        if let Err(refusal) = &checked {
            (self.edit, self.error, self.refused) = (Edit::Broken, Some(refusal.message.clone()), None);
        }
        checked
    }

    /// The node has adopted the candidate, or refused it.
    pub(super) fn settle(&mut self, candidate: Candidate, result: Answer) -> Answer {
        match result {
            Ok(_) => {
                self.needs_restart =
                    self.config.needs_restart(&candidate.config).into_iter().map(str::to_owned).collect();
                self.config.reconcile = candidate.config.reconcile.clone();
                self.text = candidate.text;
                (self.edit, self.error, self.refused) = (Edit::None, None, None);
                info!(needs_restart = ?self.needs_restart, "configuration adopted");
                Ok(Response::Done)
            }
            Err(refusal) => {
                (self.edit, self.error) = (Edit::Broken, Some(refusal.message.clone()));
                self.refused = Some(candidate.text);
                warn!(error = refusal.message, "configuration refused");
                Err(refusal)
            }
        }
    }
}

/// Reads a configuration that the daemon could go on with; refused if it is not sound.
pub(super) fn check(name: &str, text: &str) -> Result<Config, Refusal> {
    config::parse(text).map_err(|problems| refused(problems.lines(name)))
}

fn refused(message: String) -> Refusal {
    Refusal::new(RefusalKind::Config, message).hint("the running configuration stays in force")
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path)
        .with_context(|| format!("configuration file {} cannot be read", path.display()))
}
