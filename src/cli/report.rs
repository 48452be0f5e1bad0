//! `weavers report`: all that is known of this host in one piece, to be read by somebody else.

use std::{process::Command, time::SystemTime};

use clap::Args;
use serde_json::json;

use super::{
    Exit, Failure, Global,
    ask::{Daemon, unexpected},
    render::{self, page},
    screen::Screen,
};
use crate::{
    api::FORMAT_VERSION,
    config::{Source, Sources},
    config_files,
    node::protocol::request::{Request, Response},
};

/// Lines of the log that are shown.
const LOG_LINES: &str = "200";

#[derive(Debug, Args)]
pub(super) struct Report {
    /// Write one HTML page without scripts, for a browser
    #[arg(long)]
    html: bool,
}

impl Report {
    pub async fn exec(self, global: &Global, screen: &Screen) -> Result<Exit, Failure> {
        let daemon = Daemon::new(global);
        let plan = match daemon.node(Request::Plan).await? {
            Response::Plan(plan) => *plan,
            other => return Err(unexpected(&other)),
        };
        let pieces = match daemon.node(Request::ShowRing).await? {
            Response::Ring(pieces) => pieces,
            other => return Err(unexpected(&other)),
        };
        let report = page::Report {
            status: *daemon.status().await?,
            pieces,
            plan,
            doctor: doctor(global).await,
            config: config(global),
            log: log(),
            made: format!("made at {}", humantime::format_rfc3339_seconds(SystemTime::now())),
        };
        let document = || {
            json!({
                "format_version": FORMAT_VERSION,
                "status": report.status,
                "pieces": report.pieces,
                "plan": render::plan::document(&report.plan),
                "doctor": report.doctor,
                "config": report.config,
                "log": report.log,
            })
        };
        screen.answer(document, || if self.html { page::html(&report) } else { page::text(&report) });
        Ok(Exit::Success)
    }
}

/// The text of the file; of several files with the name of each before it.
fn config(global: &Global) -> String {
    match config_files::read(&global.config) {
        Ok(Sources { main, drop_ins }) if drop_ins.is_empty() => main.text,
        Ok(sources) => {
            let texts =
                sources.iter().map(|Source { name, text }| format!("# {name}\n{}\n", text.trim_end()));
            texts.collect::<Vec<_>>().join("\n")
        }
        Err(error) => format!("{error:#}"),
    }
}

#[cfg(feature = "aws")]
async fn doctor(global: &Global) -> String {
    let facts = crate::doctor::gather(&global.config, &global.socket).await;
    render::doctor::text(&crate::doctor::examine(&facts))
}

#[cfg(not(feature = "aws"))]
async fn doctor(_global: &Global) -> String {
    String::new()
}

/// The last lines that the service has said; none where there is no journal.
fn log() -> String {
    let said = Command::new("journalctl")
        .args(["-u", "weavers", "-n", LOG_LINES, "--no-pager", "-o", "short-iso"])
        .output();
    said.ok()
        .filter(|said| said.status.success())
        .map_or_else(String::new, |said| String::from_utf8_lossy(&said.stdout).into_owned())
}
