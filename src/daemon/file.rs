//! The configuration as the daemon knows it, `weave.toml` with its drop-ins: what is in force, what was edited since, and
//! what is wrong with it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tracing::{info, warn};

use super::log;
use crate::{
    config::{self, Config, OnChange, Sources},
    config_files,
    node::{
        boundary::order::Terms,
        persist::memory::Trial,
        protocol::{
            request::{Refusal, RefusalKind, SavedPlan},
            status::ConfigStatus,
        },
    },
};

/// A configuration that was read and found sound, on its way into the node.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) config: Config,
    sources: Sources,
}

impl Candidate {
    /// Refused where a plan was made from other texts.
    pub(super) fn expected_by(self, plan: Option<&SavedPlan>) -> Result<Candidate, Refusal> {
        if plan.is_none_or(|plan| plan.config_sha256 == self.sources.digest()) {
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
    /// What the node has refused; `error` says why.
    refused: Option<Sources>,
    needs_restart: Vec<String>,
}

/// Files that were adopted, and what they say.
struct InForce {
    sources: Sources,
    config: Config,
}

impl ConfigFile {
    /// Reads the file at `path` for the first time. One that was tried and never confirmed gives way to the
    /// one that was in force before it.
    pub(super) fn read(path: &Path, trial: Option<&Trial>) -> anyhow::Result<ConfigFile> {
        let written = config_files::read(path)?;
        let trial = trial.filter(|trial| trial.candidate == written.digest());
        let (sources, refused) = match trial {
            Some(trial) => (trial.former_of(&written.main.name), Some(written)),
            None => (written, None),
        };
        let (config, warnings) = config::check(&sources)
            .map_err(|problems| Refusal::new(RefusalKind::Config, problems.to_string()))?;
        for warning in warnings {
            warn!(file = warning.file, key = warning.key, "{}", warning.message);
        }
        let error = refused.is_some().then(|| rolled_back("it was not confirmed before the daemon ended"));
        if let Some(error) = &error {
            warn!(journal.message_id = log::REFUSED, error, "the configuration before it is in force");
        }
        Ok(ConfigFile {
            path: path.to_owned(),
            at_start: config.clone(),
            in_force: InForce { sources, config },
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
            drop_ins: self.drop_ins(),
            in_force_sha256: Some(self.in_force.sources.digest()),
            error: self.error.clone(),
            needs_restart: self.needs_restart.clone(),
            trial_s: None,
        }
    }

    /// The file was edited: validates it and remembers what it amounts to.
    pub(super) fn look(&mut self) -> Edit {
        match self.candidate() {
            Ok(candidate) if candidate.sources.say_the_same(&self.in_force.sources) => {
                (self.edit, self.error) = (Edit::None, None)
            }
            Ok(candidate) if self.was_refused(&candidate.sources) => {}
            Ok(_) => {
                info!("the configuration file was edited: adopt it with `weavers reload`");
                (self.edit, self.error) = (Edit::Sound, None);
            }
            Err(refusal) => warn!(
                journal.message_id = log::REFUSED,
                error = refusal.message,
                "the edited configuration file cannot be adopted"
            ),
        }
        self.edit
    }

    /// Reads the file anew.
    pub(super) fn candidate(&mut self) -> Result<Candidate, Refusal> {
        let sources = config_files::read(&self.path).map_err(|error| refused(format!("{error:#}")));
        let checked = sources.and_then(|sources| Ok(Candidate { config: check(&sources)?, sources }));
        if let Err(refusal) = &checked {
            (self.edit, self.error, self.refused) = (Edit::Broken, Some(refusal.message.clone()), None);
        }
        checked
    }

    /// What comes back if nobody confirms the candidate; nothing where it is in force already.
    pub(super) fn trial(&self, candidate: &Candidate, patience: Duration) -> Option<Terms> {
        let former = &self.in_force.sources;
        let record = Trial::of(former, &candidate.sources);
        (!candidate.sources.say_the_same(former)).then_some(Terms { record, patience })
    }

    /// The node has adopted the candidate.
    pub(super) fn adopt(&mut self, Candidate { config, sources }: Candidate) {
        self.former = Some(std::mem::replace(&mut self.in_force, InForce { sources, config }));
        self.compare_with_start();
        (self.edit, self.error, self.refused) = (Edit::None, None, None);
        info!(journal.message_id = log::ADOPTED, needs_restart = ?self.needs_restart, "configuration adopted");
        // The files may have been edited once more meanwhile.
        self.look();
    }

    /// The candidate cannot come into force, or not now.
    pub(super) fn refuse(&mut self, candidate: Candidate, refusal: &Refusal) {
        if refusal.kind == RefusalKind::Untimely {
            return warn!(error = refusal.message, hint = refusal.hint, "configuration not adopted now");
        }
        (self.edit, self.error) = (Edit::Broken, Some(refusal.message.clone()));
        self.refused = Some(candidate.sources);
        warn!(journal.message_id = log::REFUSED, error = refusal.message, "configuration refused");
    }

    /// The node has gone back to what was in force before.
    pub(super) fn roll_back(&mut self, why: &str) {
        let Some(former) = self.former.take() else { return };
        let tried = std::mem::replace(&mut self.in_force, former);
        self.compare_with_start();
        let error = rolled_back(why);
        warn!(journal.message_id = log::REFUSED, error, "the configuration before it is in force");
        (self.edit, self.error, self.refused) = (Edit::Broken, Some(error), Some(tried.sources));
        // The former files may be back already, or others.
        self.look();
    }

    /// The files could be adopted, and were not.
    pub(super) fn is_edited(&self) -> bool {
        self.edit == Edit::Sound
    }

    fn was_refused(&self, sources: &Sources) -> bool {
        self.refused.as_ref().is_some_and(|refused| refused.say_the_same(sources))
    }

    /// Those that are in force.
    fn drop_ins(&self) -> Vec<String> {
        self.in_force.sources.drop_ins.iter().map(|drop_in| drop_in.name.clone()).collect()
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
pub(super) fn check(sources: &Sources) -> Result<Config, Refusal> {
    config::check(sources).map(|(config, _)| config).map_err(|problems| refused(problems.to_string()))
}

fn refused(message: String) -> Refusal {
    Refusal::new(RefusalKind::Config, message).hint("the running configuration stays in force")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A file in force that says this.
    fn scene(text: &str) -> (tempfile::TempDir, PathBuf, ConfigFile) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weave.toml");
        fs::write(&path, text).unwrap();
        let file = ConfigFile::read(&path, None).unwrap();
        (directory, path, file)
    }

    fn adopt(file: &mut ConfigFile) {
        let candidate = file.candidate().unwrap();
        file.adopt(candidate);
    }

    fn told(file: &ConfigFile) -> (bool, Option<String>) {
        (file.status().pending, file.status().error)
    }

    #[test]
    fn files_that_are_back_before_a_roll_back_are_in_force_and_others_are_pending() {
        let [former, tried, other] = ["network.mtu = 1400", "network.mtu = 1500", "network.mtu = 1600"];
        for (at_the_end, expected) in [(former, false), (tried, true), (other, true)] {
            let (_directory, path, mut file) = scene(former);
            fs::write(&path, tried).unwrap();
            adopt(&mut file);
            fs::write(&path, at_the_end).unwrap();
            file.roll_back("nobody confirmed it in time");
            let (pending, error) = told(&file);
            assert_eq!(pending, expected, "{at_the_end}");
            assert_eq!(error.is_some(), at_the_end == tried, "{at_the_end}: {error:?}");
            assert_eq!(
                file.is_edited(),
                at_the_end == other,
                "{at_the_end} would be adopted where edits are"
            );
            assert_eq!(file.config().network.mtu, Some(1400));
        }
    }

    #[test]
    fn an_edit_while_another_is_adopted_is_pending() {
        let (_directory, path, mut file) = scene("");
        fs::write(&path, "network.mtu = 1500").unwrap();
        let candidate = file.candidate().unwrap();
        fs::write(&path, "network.mtu = 1600").unwrap();
        file.adopt(candidate);
        assert_eq!((told(&file), file.config().network.mtu), ((true, None), Some(1500)));
    }

    #[test]
    fn a_drop_in_that_was_tried_and_is_gone_does_not_come_back_and_one_that_was_in_force_does() {
        let (directory, path, mut file) = scene("network.mtu = 1400");
        let drop_ins = directory.path().join("conf.d");
        fs::create_dir(&drop_ins).unwrap();
        fs::write(drop_ins.join("10.toml"), "network.mtu = 1500").unwrap();
        let candidate = file.candidate().unwrap();
        let terms = file.trial(&candidate, Duration::from_secs(1)).expect("it is another");
        file.adopt(candidate);
        assert_eq!(file.status().drop_ins, [drop_ins.join("10.toml").display().to_string()]);
        let started = ConfigFile::read(&path, Some(&terms.record)).unwrap();
        assert_eq!((told(&started).0, started.config().network.mtu), (true, Some(1400)));

        adopt(&mut file);
        fs::remove_file(drop_ins.join("10.toml")).unwrap();
        let terms = file.trial(&file.candidate_of_now(), Duration::from_secs(1)).expect("it is another");
        let text = serde_json::to_string(&terms.record).unwrap();
        let record = serde_json::from_str(&text).unwrap();
        let started = ConfigFile::read(&path, Some(&record)).unwrap();
        assert_eq!((told(&started).0, started.config().network.mtu), (true, Some(1500)));
        let of_before = r#"{"former":"network.mtu = 1300","candidate":"x"}"#;
        let of_before: Trial = serde_json::from_str(of_before).unwrap();
        assert_eq!(of_before.former_of("weave.toml"), "network.mtu = 1300".into());
    }

    impl ConfigFile {
        fn candidate_of_now(&self) -> Candidate {
            let sources = config_files::read(&self.path).unwrap();
            Candidate { config: check(&sources).unwrap(), sources }
        }
    }
}
