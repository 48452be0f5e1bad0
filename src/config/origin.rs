//! Where the value of each key comes from, and all of them as one file.

use std::fmt::Write;

use toml::{Table, Value};

use super::{
    Problems,
    diagnostic::Problem,
    reader::{last, syntax},
    schema::{KEYS, Key, Missing},
    sources::Sources,
};

/// A key, and what holds for it.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The key.
    pub key: &'static Key,
    /// Its value; `None` where it has none, or one that follows from elsewhere.
    pub value: Option<Value>,
    /// The file that says so, and the line; `None` where the value is the default.
    pub place: Option<(String, usize)>,
}

/// Of each key, in the order of the schema.
pub fn origins(sources: &Sources) -> Result<Vec<Origin>, Problems> {
    let tables = syntax(sources)?;
    let files: Vec<_> = sources.iter().collect();
    let values: Vec<Table> = files.iter().map(|file| file.text.parse().unwrap_or_default()).collect();
    let of = |key: &'static Key| match last(&tables, key.path) {
        None => Origin { key, value: default(key), place: None },
        Some(found) => {
            let (file, bytes) = found.place().parts();
            let problem = Problem::at(files[file], bytes, key.path, String::new());
            Origin { key, value: stands(&values[file], key), place: Some((problem.file, problem.line)) }
        }
    };
    Ok(KEYS.iter().map(of).collect())
}

/// One file that says what these say together: what is set, and no defaults.
pub fn merged(origins: &[Origin]) -> String {
    let mut text = String::new();
    let mut section = "";
    let mut tables = String::new();
    for Origin { key, value, .. } in origins.iter().filter(|origin| origin.place.is_some()) {
        let Some(value) = value else { continue };
        if key.section() != section {
            text.push_str(&std::mem::take(&mut tables));
            section = key.section();
            let gap = if text.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{gap}[{section}]");
        }
        match as_tables(value) {
            // Tables of a list end the section that they stand in.
            Some(list) => list.iter().for_each(|table| tables.push_str(&entry(key.path, table))),
            None => {
                let _ = writeln!(text, "{} = {value}", key.name());
            }
        }
    }
    text + &tables
}

fn entry(path: &str, table: &Table) -> String {
    let lines = table.iter().map(|(name, value)| format!("{name} = {value}\n"));
    format!("\n[[{path}]]\n{}", lines.collect::<String>())
}

fn as_tables(value: &Value) -> Option<Vec<&Table>> {
    let list = value.as_array().filter(|list| !list.is_empty())?;
    list.iter().map(Value::as_table).collect()
}

fn stands(table: &Table, key: &Key) -> Option<Value> {
    match key.section() {
        "" => table.get(key.name()).cloned(),
        section => table.get(section)?.get(key.name()).cloned(),
    }
}

fn default(key: &Key) -> Option<Value> {
    match key.missing {
        Missing::Default(text) => format!("v = {text}").parse::<Table>().ok()?.remove("v"),
        Missing::Example(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Source, check};

    fn sources() -> Sources {
        let drop_in = |name: &str, text: &str| Source { name: name.to_owned(), text: text.to_owned() };
        Sources {
            drop_ins: vec![
                drop_in("conf.d/10-mtu.toml", "[network]\n# jumbo\nmtu = 9000\n"),
                drop_in("conf.d/20-subnets.toml", "[[ipam.subnet]]\nname = 'rest'\nallow = ['rest']\n"),
            ],
            ..Sources::from(
                "peers = ['a',\n 'b']\n[network]\nmtu = 1400\nuplinks = 'eth0'\n[ipam]\nrange = '10.48.0.0/16'\n",
            )
        }
    }

    #[test]
    fn each_value_is_told_with_the_file_that_has_the_last_word_and_others_are_defaults() {
        let origins = origins(&sources()).unwrap();
        assert_eq!(origins.len(), KEYS.len());
        let told = |path: &str| {
            let origin = origins.iter().find(|origin| origin.key.path == path).unwrap();
            let place = origin.place.as_ref().map(|(file, line)| format!("{file}:{line}"));
            (origin.value.as_ref().map(Value::to_string), place)
        };
        let at = |value: &str, place: &str| (Some(value.to_owned()), Some(place.to_owned()));
        assert_eq!(told("peers"), at(r#"["a", "b"]"#, "weave.toml:1"));
        assert_eq!(told("network.mtu"), at("9000", "conf.d/10-mtu.toml:3"));
        assert_eq!(told("network.uplinks"), at(r#""eth0""#, "weave.toml:5"));
        assert_eq!(told("reconcile.interval"), (Some(r#""30s""#.to_owned()), None));
        assert_eq!(told("vpc.quota"), (None, None));
    }

    #[test]
    fn the_merged_file_means_the_same_and_has_no_defaults() {
        let sources = sources();
        let text = merged(&origins(&sources).unwrap());
        assert_eq!(check(&text.as_str().into()).unwrap().0, check(&sources).unwrap().0, "{text}");
        insta::assert_snapshot!(text, @r#"
        peers = ["a", "b"]

        [network]
        uplinks = "eth0"
        mtu = 9000

        [ipam]
        range = "10.48.0.0/16"

        [[ipam.subnet]]
        allow = ["rest"]
        name = "rest"
        "#);
    }
}
