//! Manual pages and completion scripts, for packages.

mod guide;
mod commands;
mod file;

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use roff::{Roff, bold, roman};

use super::{Cli, Exit, Failure};

/// What all pages belong to.
const MANUAL: &str = "weavers";
/// Where commands are that administrators use, where files are described, and where is told how things go together.
const COMMANDS: &str = "8";
const FILES: &str = "5";
const GUIDES: &str = "7";

#[derive(Debug, Args)]
pub(super) struct Man {
    /// Where to write them
    directory: PathBuf,
    /// The date that they bear
    #[arg(long, value_name = "DATE", default_value = "")]
    date: String,
}

#[derive(Debug, Args)]
pub(super) struct Completion {
    /// For which shell
    shell: Shell,
}

/// A page: its name, its section, its text.
struct Page {
    name: String,
    section: &'static str,
    text: Vec<u8>,
}

impl Man {
    pub fn exec(self) -> Result<Exit, Failure> {
        let shown = self.directory.display();
        self.write(&self.directory).map_err(|error| {
            Failure::failed(format!("manual pages cannot be written to {shown}: {error}"))
        })?;
        Ok(Exit::Success)
    }

    fn write(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        let mut pages = commands::pages(Cli::command(), &self.date)?;
        pages.push(file::page(&self.date)?);
        pages.extend(guide::pages(&self.date)?);
        for Page { name, section, text } in pages {
            fs::write(directory.join(format!("{name}.{section}")), text)?;
        }
        Ok(())
    }
}

impl Completion {
    pub fn exec(self) -> Result<Exit, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "weavers", &mut script);
        // Whoever closed the pipe has read enough.
        let _closed = std::io::stdout().lock().write_all(&script);
        Ok(Exit::Success)
    }
}

/// By which version a page was written.
fn source() -> String {
    format!("weavers {}", env!("CARGO_PKG_VERSION"))
}

/// A section of terms, each with what it stands for.
fn terms<'a>(title: &str, terms: impl IntoIterator<Item = (&'a str, &'a str)>) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", [title]);
    for (term, words) in terms {
        roff.control("TP", []);
        roff.text([bold(term)]);
        roff.text([roman(words)]);
    }
    roff
}

/// Other pages.
fn see_also(pages: &[(String, &str)]) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    let mut words = Vec::new();
    for (number, (name, section)) in pages.iter().enumerate() {
        words.push(bold(name));
        words.push(roman(format!("({section}){}", if number + 1 < pages.len() { ", " } else { "" })));
    }
    roff.text(words);
    roff
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn written() -> Vec<(String, String)> {
        let directory = tempfile::tempdir().unwrap();
        let man = Man { directory: directory.path().to_owned(), date: "2026-11-29".to_owned() };
        man.write(directory.path()).unwrap();
        let files = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
        files
            .map(|file| {
                (file.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(file).unwrap())
            })
            .collect()
    }

    #[test]
    fn every_page_that_another_one_names_is_there() {
        let pages = written();
        let there: BTreeSet<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        for page in
            ["weavers.8", "weave.toml.5", "weavers-docker.7", "weavers-status.8", "weavers-ipam-show.8"]
        {
            assert!(there.contains(page), "{page} is missing of {there:?}");
        }
        assert!(!there.contains("weavers-man.8"), "what only packages use has none");
        for (name, text) in &pages {
            let (_, others) = text.split_once("SEE ALSO").unwrap();
            for named in others.split("\\fB").skip(1) {
                let (page, rest) = named.split_once("\\fR").unwrap();
                let section = rest.trim_start_matches('(').split(')').next().unwrap();
                let file = format!("{}.{section}", page.replace("\\-", "-"));
                assert!(there.contains(file.as_str()), "{name} names {file}");
            }
        }
    }

    #[test]
    fn the_page_of_all_says_how_commands_end_and_each_page_what_it_is() {
        for (name, text) in written() {
            assert!(text.contains(".TH "), "{name}");
            assert!(text.contains("2026"), "{name}");
            assert_eq!(text.contains("EXIT STATUS"), name == "weavers.8", "{name}");
            assert!(name == "weavers.8" || !text.contains("\\-\\-socket"), "{name} repeats what all know");
        }
    }
}
