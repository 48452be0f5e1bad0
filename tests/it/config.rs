//! `weave.toml.example` and the schema say the same.

use std::collections::BTreeMap;

use weavers::config::{
    self, Config,
    schema::{KEYS, Missing},
};

const EXAMPLE: &str = include_str!("../../weave.toml.example");

/// A key as the example shows it.
struct Shown {
    value: String,
    comment: String,
    commented_out: bool,
}

#[test]
fn the_example_says_what_an_empty_file_says() {
    let (example, warnings) = config::check(EXAMPLE).unwrap();
    assert_eq!(example, Config::default());
    assert_eq!(warnings, [], "whoever starts from the example is not warned of it");
}

#[test]
fn the_example_shows_every_key_and_no_other() {
    let shown: Vec<String> = shown().into_keys().collect();
    let mut known: Vec<&str> = KEYS.iter().map(|key| key.path).collect();
    known.sort_unstable();
    assert_eq!(shown, known);
}

#[test]
fn every_key_has_its_value_and_a_word_on_how_it_is_adopted() {
    let shown = shown();
    for key in KEYS {
        let line = &shown[key.path];
        let (Missing::Default(value) | Missing::Example(value)) = key.missing;
        assert_eq!(line.value, value, "{}", key.path);
        let word = if key.live { "Live. " } else { "Restart. " };
        assert!(line.comment.starts_with(word), "{}: {}", key.path, line.comment);
        assert!(line.comment.len() > word.len() + 10, "{} has a line on it", key.path);
        let has_none = matches!(key.missing, Missing::Example(_));
        assert!(line.commented_out || !has_none, "{} has no value of its own", key.path);
    }
}

#[test]
fn the_default_that_the_schema_names_is_the_one_that_holds() {
    for key in KEYS {
        if let Missing::Default(value) = key.missing {
            let written = config::parse(&format!("{} = {value}", key.path)).unwrap();
            assert_eq!(written, Config::default(), "{}", key.path);
        }
    }
}

#[test]
fn the_value_shown_for_a_key_without_default_is_one_that_is_taken() {
    for key in KEYS {
        if let Missing::Example(value) = key.missing {
            assert!(config::parse(&format!("{} = {value}", key.path)).is_ok(), "{}", key.path);
        }
    }
}

#[test]
fn a_key_of_the_design_cannot_be_misspelt_in_silence() {
    for key in KEYS {
        let problems = config::parse(&format!("{}_ = 1", key.path)).unwrap_err();
        assert_eq!(problems.0.len(), 1);
        let hint = problems.0[0].hint.as_deref().unwrap_or_default();
        assert!(hint.contains(key.name()), "{}: {hint}", key.path);
    }
}

/// The keys of the example by path. A line that is `name = value  # comment`, itself behind `# ` or not.
fn shown() -> BTreeMap<String, Shown> {
    let (mut section, mut keys) = (String::new(), BTreeMap::new());
    for line in EXAMPLE.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = format!("{name}.");
        }
        let bare = line.strip_prefix("# ").unwrap_or(line);
        let Some((name, rest)) = bare.split_once(" = ").filter(|(name, _)| is_name(name)) else { continue };
        let (value, comment) = rest.split_once('#').expect("every key has a comment");
        let key = Shown {
            value: value.trim().to_owned(),
            comment: comment.trim().to_owned(),
            commented_out: bare != line,
        };
        keys.insert(format!("{section}{name}"), key);
    }
    keys
}

fn is_name(word: &str) -> bool {
    word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}
