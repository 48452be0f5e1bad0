//! Manual pages and completion scripts, for packages.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Exit, Failure};

#[derive(Debug, Args)]
pub(super) struct Man {
    /// Where to write them
    directory: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Completion {
    /// For which shell
    shell: Shell,
}

impl Man {
    pub fn exec(self) -> Result<Exit, Failure> {
        let shown = self.directory.display();
        std::fs::create_dir_all(&self.directory)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), &self.directory))
            .map_err(|error| {
                Failure::failed(format!("manual pages cannot be written to {shown}: {error}"))
            })?;
        Ok(Exit::Success)
    }
}

impl Completion {
    pub fn exec(self) -> Result<Exit, Failure> {
        clap_complete::generate(self.shell, &mut Cli::command(), "weavers", &mut std::io::stdout().lock());
        Ok(Exit::Success)
    }
}
