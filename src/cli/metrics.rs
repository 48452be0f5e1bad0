//! `weavers metrics`: what is measured, on standard output or in a file for others to read.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::json;

use super::{
    Exit, Failure, Global,
    ask::{Daemon, unexpected},
    screen::Screen,
};
use crate::{
    api::{ApiRequest, FORMAT_VERSION},
    node::protocol::request::Response,
};

/// Whoever collects it may be anybody.
const MODE: u32 = 0o644;

/// Arguments of `metrics`.
#[derive(Debug, Args)]
pub struct Metrics {
    /// Write to this file, whole or not at all: for the textfile collector of node_exporter, whose files end in `.prom`
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

impl Metrics {
    pub(super) async fn exec(self, global: &Global, screen: &Screen) -> Result<Exit, Failure> {
        let text = match Daemon::new(global).ask(ApiRequest::Metrics).await? {
            Response::Metrics(text) => text,
            other => return Err(unexpected(&other)),
        };
        match &self.write {
            Some(file) => {
                written(file, &text).map_err(|error| {
                    Failure::failed(format!("{} cannot be written: {error}", file.display()))
                })?;
            }
            None => {
                let document = || json!({ "format_version": FORMAT_VERSION, "metrics": text });
                screen.answer(document, || text.trim_end().to_owned());
            }
        }
        Ok(Exit::Success)
    }
}

/// Renamed into place, so that nobody reads half of it.
fn written(file: &Path, text: &str) -> std::io::Result<()> {
    // The collector reads files that end in `.prom`, and no others.
    let fresh = file.with_extension(format!("new-{}", std::process::id()));
    let put = || {
        fs::write(&fresh, text)?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(MODE))?;
        fs::rename(&fresh, file)
    };
    put().inspect_err(|_| drop(fs::remove_file(&fresh)))
}
