//! README.md and the pages of `packaging/man`: what they name is there, and what they show can be typed.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Whoever wants to know whether this is for them reads this much.
const README_LINES_MAX: usize = 160;

/// README.md, then the pages.
fn texts() -> Vec<(PathBuf, String)> {
    let pages = fs::read_dir("packaging/man").unwrap().map(|entry| entry.unwrap().path());
    let all = [PathBuf::from("README.md")].into_iter().chain(pages);
    all.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn the_readme_is_short_and_leads_to_every_page() {
    let texts = texts();
    let (_, readme) = &texts[0];
    assert!(readme.lines().count() <= README_LINES_MAX, "{} lines", readme.lines().count());
    for (path, _) in &texts[1..] {
        assert!(
            readme.contains(&format!("({})", path.display())),
            "README.md does not name {}",
            path.display()
        );
    }
}

#[test]
fn every_place_that_a_page_names_is_there() {
    for (path, text) in texts() {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let is_elsewhere = link.starts_with("http") || link.starts_with('#');
            let target = path.parent().unwrap_or(Path::new("")).join(link);
            assert!(is_elsewhere || target.exists(), "{}: {link}", path.display());
        }
    }
}

#[test]
fn every_command_that_a_page_shows_is_one_of_this_program() {
    const GROUPS: [&str; 4] = ["ipam", "config", "docker", "schema"];
    let mut shown = BTreeSet::new();
    for (_, text) in texts() {
        // Between every other pair of marks is code; a fence is three of them.
        for line in text.split('`').skip(1).step_by(2).flat_map(str::lines) {
            let line = line.trim_start_matches("$ ").trim_start_matches("sudo ");
            let Some(words) = line.strip_prefix("weavers ") else { continue };
            let words = words.split([' ', '\\', '|', ',']).take_while(is_word);
            let words: Vec<&str> = words.collect();
            let count = if words.first().is_some_and(|word| GROUPS.contains(word)) { 2 } else { 1 };
            shown.insert(words.into_iter().take(count).map(str::to_owned).collect::<Vec<_>>());
        }
    }
    shown.retain(|words| !words.is_empty());
    assert!(shown.len() > 15, "{shown:?}");
    for words in &shown {
        let known = Command::new(env!("CARGO_BIN_EXE_weavers")).args(words).arg("--help").output().unwrap();
        assert!(known.status.success(), "weavers {}", words.join(" "));
    }
}

fn is_word(word: &&str) -> bool {
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') && !word.starts_with('-')
}
