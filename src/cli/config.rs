//! `weavers config show`: what the configuration files say together, and which of them says what.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::{
    Exit, Failure, Global,
    ask::{Configuration, Daemon},
    render,
    screen::Screen,
    validate,
};
use crate::{
    api::FORMAT_VERSION,
    config::{
        Sources,
        origin::{self, Origin},
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Show what weave.toml and its drop-ins say together, as one file
    Show(Show),
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// Every key with its value, and the file and line that say so, or "default"
    #[arg(long)]
    origins: bool,
}

impl Config {
    pub async fn exec(self, global: &Global, screen: &Screen) -> Result<Exit, Failure> {
        let Config::Show(show) = self;
        show.exec(global, screen).await
    }
}

impl Show {
    async fn exec(self, global: &Global, screen: &Screen) -> Result<Exit, Failure> {
        let checked = validate::check(&global.config)?;
        checked.warn(screen);
        let sources = checked.sources;
        let origins =
            origin::origins(&sources).map_err(|problems| Failure::config(sources.clone(), problems))?;
        // Files can be read without a daemon, and then nothing is in force.
        let config = Daemon::new(global).configuration(Some(&sources)).await.unwrap_or_default();
        if config.pending {
            screen.say("note: this is not in force yet: `weavers apply` or `weavers reload` adopts it");
        }
        for key in &config.needs_restart {
            screen.say(format!("note: {key} is in force after a restart of the daemon"));
        }
        screen.answer(
            || document(&sources, &origins, &config),
            || match self.origins {
                true => text(&origins),
                false => origin::merged(&origins),
            },
        );
        Ok(Exit::Success)
    }
}

/// The same with and without `--origins`: programs take what they need.
fn document(sources: &Sources, origins: &[Origin], config: &Configuration) -> Value {
    let keys = origins.iter().map(|origin| {
        let (file, line) = origin.place.clone().unzip();
        json!({ "key": origin.key.path, "value": origin.value, "file": file, "line": line, "live": origin.key.live })
    });
    let files: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
    let mut document = json!({
        "format_version": FORMAT_VERSION,
        "files": files,
        "keys": keys.collect::<Vec<_>>(),
        "merged": merged(origins),
    });
    config.add_to(&mut document);
    document
}

/// What is set, as the file would have it.
fn merged(origins: &[Origin]) -> Value {
    let mut merged = Map::new();
    for Origin { key, value, .. } in origins.iter().filter(|origin| origin.place.is_some()) {
        match key.section() {
            "" => drop(merged.insert(key.name().to_owned(), json!(value))),
            section => merged.entry(section).or_insert_with(|| json!({}))[key.name()] = json!(value),
        }
    }
    Value::Object(merged)
}

fn text(origins: &[Origin]) -> String {
    let line = |origin: &Origin| {
        let value = origin.value.as_ref().map_or_else(|| "not set".to_owned(), ToString::to_string);
        let place = origin.place.as_ref().map(|(file, line)| format!("{file}:{line}"));
        vec![origin.key.path.to_owned(), value, place.unwrap_or_else(|| "default".to_owned())]
    };
    render::columns(&origins.iter().map(line).collect::<Vec<_>>(), &[2]).join("\n")
}
