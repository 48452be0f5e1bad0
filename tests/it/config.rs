//! `weave.toml.example` and the schema say the same.

use std::collections::BTreeMap;

use weavers::config::{
    self, Config, Source, Sources,
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
    let (example, warnings) = config::check(&EXAMPLE.into()).unwrap();
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

// ===== drop-ins =====

fn with_drop_ins(main: &str, drop_ins: &[&str]) -> Sources {
    let named = |(number, text): (usize, &&str)| Source {
        name: format!("conf.d/{number}0.toml"),
        text: (*text).to_owned(),
    };
    Sources { drop_ins: drop_ins.iter().enumerate().map(named).collect(), ..Sources::from(main) }
}

#[test]
fn a_later_file_has_the_last_word_key_by_key_and_a_list_is_replaced_whole() {
    let main = "peers = ['a', 'b']\n[network]\nmtu = 1400\nuplinks = ['eth0']\n[[ipam.subnet]]\nname = 'web'\ncidr = '10.32.0.0/16'\n";
    let more = "peers = ['c']\n[network]\nmtu = 9000\n";
    let last = "network.mtu = 8000\n[ipam]\ndefault_subnet = '10.40.0.0/13'\n[[ipam.subnet]]\nname = 'db'\ncidr = '10.33.0.0/16'\n";
    let (config, _) = config::check(&with_drop_ins(main, &[more, last])).unwrap();
    assert_eq!(config.peers, ["c"]);
    assert_eq!(config.network.mtu, Some(8000));
    assert_eq!(config.network.uplinks, Some(["eth0".to_owned()].into()));
    assert_eq!(config.ipam.isolation.subnets.into_keys().collect::<Vec<_>>(), ["db"]);
}

#[test]
fn every_problem_of_every_file_is_told_with_its_own_place_also_what_follows_from_two_files() {
    let main = "[ipam]\nrange = '10.48.0.0/16'\ninit = 'seed'\n[network]\nmtu = 1\nmut = 1\n";
    let drop_ins = [
        "[network]\nmtu = 1400\nmut = 2\n",
        "ipam.default_subnet = '10.32.0.0/24'\n",
        "vpc = 3\nnetwrok.mtu = 1\npeers = [7]\n",
    ];
    let problems = config::check(&with_drop_ins(main, &drop_ins)).unwrap_err();
    insta::assert_snapshot!(problems, @r#"
    weave.toml:3:8: ipam.init: init = "seed" needs the list of the first peers (set ipam.seed to their names, the same on every host)
    weave.toml:6:1: network.mut: unknown key (did you mean "mtu"?)
    conf.d/00.toml:3:1: network.mut: unknown key (did you mean "mtu"?)
    conf.d/10.toml:1:23: ipam.default_subnet: 10.32.0.0/24 is outside ipam.range 10.48.0.0/16 (leave it out to use the whole range)
    conf.d/20.toml:1:7: vpc: expected a table, found an integer
    conf.d/20.toml:2:1: netwrok: unknown key (did you mean "network"?)
    conf.d/20.toml:3:10: peers: expected a string, found an integer
    "#);
    let broken = config::check(&with_drop_ins("peers = [", &["mtu", "peers = []", "x = = 1"])).unwrap_err();
    let files: Vec<&str> = broken.0.iter().map(|problem| problem.file.as_str()).collect();
    assert_eq!(files, ["weave.toml", "conf.d/00.toml", "conf.d/20.toml"], "{broken}");
}

#[test]
fn what_is_wrong_with_two_files_together_is_told_where_the_last_word_is() {
    let seed = with_drop_ins("ipam.seed = ['::1']\nipam.init = 'seed'\n", &["", "ipam.init = 'observer'\n"]);
    let problems = config::check(&seed).unwrap_err();
    assert!(problems.to_string().starts_with("weave.toml:1:13: ipam.seed: has no meaning"), "{problems}");
    let large = with_drop_ins("#", &["#".repeat(1 << 20).as_str()]);
    assert!(config::check(&large).unwrap_err().to_string().starts_with("conf.d/00.toml:1:1: up to its end"));
}
