//! `weavers schema`: the JSON Schema of a document, or of the configuration file.

use clap::{Args, ValueEnum};

use super::{Exit, Failure, screen::Screen};

#[derive(Debug, Args)]
pub(super) struct Schema {
    /// Which document
    of: Document,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Document {
    /// `plan --json` and `apply --json`
    Plan,
    /// weave.toml, for editors
    Config,
    /// `status --json`
    Status,
}

impl Schema {
    pub fn exec(self, screen: &Screen) -> Result<Exit, Failure> {
        let text = match self.of {
            Document::Plan => include_str!("schema/plan.json"),
            Document::Config => include_str!("schema/config.json"),
            Document::Status => include_str!("schema/status.json"),
        };
        let document = || serde_json::from_str(text).expect("the schemas are JSON, as a test knows");
        screen.answer(document, || text.to_owned());
        Ok(Exit::Success)
    }
}
