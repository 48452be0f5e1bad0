//! The page of `weave.toml`, from the list of its keys and the schema that editors read.

use std::io;

use roff::{Roff, bold, italic, roman};
use serde_json::Value;

use super::{COMMANDS, FILES, MANUAL, Page, see_also, source};
use crate::config::schema::{KEYS, Key, Missing};

const NAME: &str = "weave.toml";
const SCHEMA: &str = include_str!("../schema/config.json");

const ABOUT: [&str; 4] = [
    "The configuration of weavers is a file in TOML. A key that is missing has a value that holds without it, so that an empty file is a valid one.",
    "A key that is called live is adopted by weavers reload, weavers apply and SIGHUP; any other is read when the daemon starts, and weavers status \
     names one that waits for that. A file with an error in it changes nothing: weavers validate names every error, with its line and the way out.",
    "Drop-ins, the files *.toml of the directory conf.d beside the file, are merged over it in the order of their names. A key is what the last file that has \
     it says, and a list, also that of [[ipam.subnet]], as a whole. A file whose name begins with a dot is none. There are up to 64, and 1 MiB of all files. An \
     error is named with its own file; a value that a later file replaces is not judged. weavers config show --origins tells where each value comes from.",
    "Times are written as in 30s, 5m or 1h; networks as in 10.32.0.0/12.",
];

pub(super) fn page(date: &str) -> io::Result<Page> {
    let schema: Value = serde_json::from_str(SCHEMA).map_err(io::Error::other)?;
    let mut roff = Roff::new();
    roff.control("TH", [NAME, FILES, date, source().as_str(), MANUAL]);
    roff.control("SH", ["NAME"]);
    roff.text([roman(format!("{NAME} - what a host of weavers should be"))]);
    roff.control("SH", ["DESCRIPTION"]);
    for paragraph in ABOUT {
        roff.control("PP", []);
        roff.text([roman(paragraph)]);
    }
    let mut section = None;
    for key in KEYS {
        if section != Some(key.section()) {
            section = Some(key.section());
            let title = match key.section() {
                "" => "KEYS BEFORE THE FIRST SECTION".to_owned(),
                name => format!("[{name}]"),
            };
            roff.control("SH", [title.as_str()]);
        }
        describe(&mut roff, key, &schema);
    }
    let mut text = Vec::new();
    roff.to_writer(&mut text)?;
    let commands = ["weavers", "weavers-validate", "weavers-config-show"];
    see_also(&commands.map(|name| (name.to_owned(), COMMANDS))).to_writer(&mut text)?;
    Ok(Page { name: NAME.to_owned(), section: FILES, text })
}

fn describe(roff: &mut Roff, key: &Key, schema: &Value) {
    let of_file = &schema["properties"];
    let entry = match key.section() {
        "" => &of_file[key.name()],
        section => &of_file[section]["properties"][key.name()],
    };
    let words = entry["description"].as_str().unwrap_or_default();
    let stop = if words.ends_with('.') || words.is_empty() { "" } else { "." };
    roff.control("TP", []);
    roff.text(match key.missing {
        Missing::Default(value) => [bold(key.name()), roman(" = "), italic(value)],
        Missing::Example(value) => [bold(key.name()), roman(", not set; for example "), italic(value)],
    });
    let live = if key.live { "Live." } else { "Read at the start." };
    roff.text([roman(format!("{words}{stop} {live}"))]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_of_the_file_is_on_its_page_with_words() {
        let text = String::from_utf8(page("").unwrap().text).unwrap();
        for key in KEYS {
            assert!(text.contains(&format!("\\fB{}\\fR", key.name().replace('-', "\\-"))), "{}", key.path);
        }
        assert!(
            !text.lines().any(|line| line.starts_with(" Live") || line.starts_with(". ")),
            "each has words"
        );
    }
}
