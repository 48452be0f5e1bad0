//! The configuration file as the daemon knows it: what is in force, what was edited since, and
//! what is wrong with it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use tracing::{info, warn};

use crate::{
    api::Answer,
    config::{self, Config, OnChange},
    node::{
        memory::Trial,
        order::Terms,
        request::{Refusal, RefusalKind, Response, SavedPlan},
        status::ConfigStatus,
    },
};

/// A file that was read and found sound, on its way into the node.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) config: Config,
    text: String,
}

impl Candidate {
    /// Refused where a plan was made from another text.
    pub(super) fn expected_by(self, plan: Option<&SavedPlan>) -> Result<Candidate, Refusal> {
        if plan.is_none_or(|plan| plan.config_sha256 == config::digest(&self.text)) {
            return Ok(self);
        }
        let message = "the configuration file is not the one that the plan was made from";
        let hint = "make a new plan: `weavers plan --out FILE`";
        Err(Refusal::new(RefusalKind::Untimely, message).hint(hint))
    }
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
    at_start: Config,
    in_force: InForce,
    /// What was in force before the last adoption.
    former: Option<InForce>,
    edit: Edit,
    error: Option<String>,
    /// A text that the node has refused; `error` says why.
    refused: Option<String>,
    needs_restart: Vec<String>,
}

/// A text that was adopted, and what it says.
struct InForce {
    text: String,
    config: Config,
}

impl ConfigFile {
    /// Reads the file at `path` for the first time. One that was tried and never confirmed gives way to the
    /// one that was in force before it.
    pub(super) fn read(path: &Path, trial: Option<&Trial>) -> anyhow::Result<ConfigFile> {
        let written = read(path)?;
        let trial = trial.filter(|trial| trial.candidate == config::digest(&written));
        let (text, refused) = match trial {
            Some(trial) => (trial.former.clone(), Some(written)),
            None => (written, None),
        };
        let (config, warnings) = config::check(&text).map_err(|problems| {
            Refusal::new(RefusalKind::Config, problems.lines(&path.display().to_string()))
        })?;
        for warning in warnings {
            warn!(key = warning.key, "{}", warning.message);
        }
        let error = refused.is_some().then(|| rolled_back("it was not confirmed before the daemon ended"));
        if let Some(error) = &error {
            warn!(error, "the configuration before it is in force");
        }
        Ok(ConfigFile {
            path: path.to_owned(),
            at_start: config.clone(),
            in_force: InForce { text, config },
            former: None,
            edit: if refused.is_some() { Edit::Broken } else { Edit::None },
            error,
            refused,
            needs_restart: Vec::new(),
        })
    }

    pub(super) fn config(&self) -> &Config {
        &self.in_force.config
    }

    pub(super) fn on_change(&self) -> OnChange {
        self.in_force.config.reconcile.on_change
    }

    pub(super) fn status(&self) -> ConfigStatus {
        ConfigStatus {
            path: self.path.display().to_string(),
            pending: self.edit == Edit::Sound,
            error: self.error.clone(),
            needs_restart: self.needs_restart.clone(),
            trial_s: None,
        }
    }

    /// The file was edited: validates it and remembers what it amounts to.
    pub(super) fn look(&mut self) -> Edit {
        match self.candidate() {
            Ok(candidate) if candidate.text == self.in_force.text => {
                (self.edit, self.error) = (Edit::None, None)
            }
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

    /// What comes back if nobody confirms the candidate; nothing where it is in force already.
    pub(super) fn trial(&self, candidate: &Candidate, patience: Duration) -> Option<Terms> {
        let former = &self.in_force.text;
        let record = Trial { former: former.clone(), candidate: config::digest(&candidate.text) };
        (candidate.text != *former).then_some(Terms { record, patience })
    }

    /// The node has adopted the candidate, or refused it.
    pub(super) fn settle(&mut self, Candidate { config, text }: Candidate, result: Answer) -> Answer {
        match result {
            Ok(_) => {
                self.former = Some(std::mem::replace(&mut self.in_force, InForce { text, config }));
                self.compare_with_start();
                (self.edit, self.error, self.refused) = (Edit::None, None, None);
                info!(needs_restart = ?self.needs_restart, "configuration adopted");
                Ok(Response::Done)
            }
            Err(refusal) if refusal.kind == RefusalKind::Untimely => {
                info!(error = refusal.message, "configuration not adopted now");
                Err(refusal)
            }
            Err(refusal) => {
                (self.edit, self.error) = (Edit::Broken, Some(refusal.message.clone()));
                self.refused = Some(text);
                warn!(error = refusal.message, "configuration refused");
                Err(refusal)
            }
        }
    }

    /// The node has gone back to what was in force before.
    pub(super) fn roll_back(&mut self, why: &str) {
        let Some(former) = self.former.take() else { return };
        let tried = std::mem::replace(&mut self.in_force, former);
        self.compare_with_start();
        let error = rolled_back(why);
        warn!(error, "the configuration before it is in force");
        (self.edit, self.error, self.refused) = (Edit::Broken, Some(error), Some(tried.text));
    }

    fn compare_with_start(&mut self) {
        let restart = self.at_start.needs_restart(&self.in_force.config);
        self.needs_restart = restart.into_iter().map(str::to_owned).collect();
    }
}

fn rolled_back(why: &str) -> String {
    format!("rolled back: {why}; `weavers reload` adopts the file as it is")
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
