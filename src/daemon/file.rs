//! The configuration file as the daemon knows it: what is in force, what was edited since, and
//! what is wrong with it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use nix::libc;
use tracing::{info, warn};

use crate::{
    api::Answer,
    config::{self, Config, OnChange},
    node::{
        boundary::order::Terms,
        persist::memory::Trial,
        protocol::{
            request::{Refusal, RefusalKind, Response, SavedPlan},
            status::ConfigStatus,
        },
    },
};

/// More than any configuration needs.
const LEN_MAX: u64 = 1 << 20;

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
            pending: self.edit != Edit::None,
            in_force_sha256: Some(config::digest(&self.in_force.text)),
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
    let name = path.display();
    let cannot = || format!("configuration file {name} cannot be read");
    let file = open(path).with_context(cannot)?;
    anyhow::ensure!(file.metadata().with_context(cannot)?.is_file(), "{}: it is no regular file", cannot());
    let mut text = String::new();
    file.take(LEN_MAX + 1).read_to_string(&mut text).with_context(cannot)?;
    anyhow::ensure!(text.len() as u64 <= LEN_MAX, "{}: it is larger than {LEN_MAX} bytes", cannot());
    Ok(text)
}

/// Opens it for reading without waiting for whoever might write, as in a named pipe: the loop would wait, too.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    #[test]
    fn what_comes_in_the_place_of_the_file_is_read_neither_for_ever_nor_whatever_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let [pipe, large, small] = ["pipe", "large", "small"].map(|name| dir.path().join(name));
        mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        fs::write(&large, "#".repeat(LEN_MAX as usize + 1)).unwrap();
        fs::write(&small, "#".repeat(LEN_MAX as usize)).unwrap();
        let refusal = |path: &Path| read(path).unwrap_err().to_string();
        for path in [&pipe, Path::new("/dev/zero"), dir.path()] {
            assert!(refusal(path).ends_with("cannot be read: it is no regular file"), "{}", refusal(path));
        }
        assert!(refusal(&large).ends_with("it is larger than 1048576 bytes"));
        assert!(read(&small).is_ok());
    }
}
