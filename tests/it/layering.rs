//! The order of the modules in `src/lib.rs` is the order of dependence: a module uses only the
//! modules above it. Those above `store` are pure, and a foreign crate that changes often has one home. Within every module, however
//! deep, the same holds of the files and folders that it declares, so that nothing goes round in a circle.
//!
//! This reads text, not syntax: a comment that names a forbidden thing is found too, which is a small price.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Where the pure modules end.
const FIRST_HAND: &str = "store";

/// What reaches outside, or has an order of its own.
const IMPURE: &[&str] = &[
    "tokio",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::os",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "Instant",
    "SystemTime",
    "HashMap",
    "HashSet",
    "nix::",
    "hyper::",
    "axum::",
];

/// Crates whose types stay in one module.
const HOMES: &[(&str, &str)] = &[
    ("rtnetlink", "kernel"),
    ("netlink_packet_route", "kernel"),
    ("aws_sdk_ec2", "vpc"),
    ("aws_config", "vpc"),
    ("redb", "store"),
    ("dryoc", "mesh"),
    ("toml", "config"),
    ("notify", "watch"),
];

/// Lines of a file before its tests. A file that needs more holds two ideas.
const LINES_MAX: usize = 600;

/// Fields of a struct. One that needs more is two.
const FIELDS_MAX: usize = 15;

/// Structs that are documents.
const DOCUMENTS: &[&str] = &["Status", "Climate"];

#[test]
fn modules_use_only_the_modules_above_them() {
    let order = order();
    let rank = |name: &str| order.iter().position(|module| module == name);
    let mut wrong = Vec::new();
    for (own, module) in order.iter().enumerate() {
        for (file, text) in sources(module) {
            for used in paths(&text, "crate") {
                let name = used.split("::").nth(1).unwrap_or_default();
                if rank(name).is_some_and(|other| other > own) {
                    wrong
                        .push(format!("{}: `{module}` uses `{used}`, which stands below it", file.display()));
                }
            }
        }
    }
    report(&wrong);
}

/// Two files are compared where their ways part: what the one goes on with is declared after what the other goes on with.
#[test]
fn what_a_module_declares_uses_only_what_is_declared_above_it() {
    let mut wrong = Vec::new();
    for module in order() {
        let declared = declarations(&module);
        for (file, used) in uses_of_files(&module) {
            let below = used.iter().filter(|used| stands_below(&file, used, &declared));
            wrong.extend(below.map(|used| format!("`{file}` uses `{used}`, which stands below it")));
        }
    }
    report(&wrong);
}

/// Only `mod.rs`, which puts the subjects of a node together, has methods of `Node`.
#[test]
fn no_subject_is_the_whole_node() {
    let files = sources("node").into_iter().filter(|(file, _)| !file.ends_with("node/mod.rs"));
    let wrong = files.filter(|(_, text)| mentions(text, "impl Node"));
    let wrong =
        wrong.map(|(file, _)| format!("{}: methods of `Node` stand in src/node/mod.rs", file.display()));
    report(&wrong.collect::<Vec<_>>());
}

#[test]
fn pure_modules_touch_nothing_outside() {
    let mut wrong = Vec::new();
    for module in order().iter().take_while(|module| *module != FIRST_HAND) {
        for (file, text) in sources(module) {
            for word in impure_words(&text) {
                wrong.push(format!("{}: pure module `{module}` mentions `{word}`", file.display()));
            }
        }
    }
    report(&wrong);
}

#[test]
fn foreign_crates_stay_where_they_live() {
    let mut wrong = Vec::new();
    for module in order() {
        for (file, text) in sources(&module) {
            for (name, home) in HOMES.iter().filter(|(_, home)| *home != module) {
                if mentions(&text, &format!("{name}::")) {
                    wrong.push(format!("{}: `{name}` lives in `{home}`", file.display()));
                }
            }
        }
    }
    report(&wrong);
}

/// What is written out and read back, and what a world is drawn by, may list as much as there is to say.
#[test]
fn a_struct_holds_what_one_subject_needs() {
    let mut wrong = Vec::new();
    for module in order() {
        for (file, text) in sources(&module) {
            for (name, fields) in structs(&without_tests(&text)) {
                if fields > FIELDS_MAX && !DOCUMENTS.contains(&name.as_str()) {
                    wrong.push(format!(
                        "{}: `{name}` has {fields} fields, {FIELDS_MAX} are enough",
                        file.display()
                    ));
                }
            }
        }
    }
    report(&wrong);
}

#[test]
fn a_file_holds_one_idea() {
    let mut wrong = Vec::new();
    for module in order() {
        for (file, text) in sources(&module).into_iter().filter(|(file, _)| !file.ends_with("tests.rs")) {
            let lines = before_tests(&text).lines().count();
            if lines > LINES_MAX {
                wrong.push(format!(
                    "{}: {lines} lines before its tests, {LINES_MAX} are enough",
                    file.display()
                ));
            }
        }
    }
    report(&wrong);
}

#[test]
fn every_module_of_the_tree_is_on_the_map() {
    let order = order();
    let mut wrong = Vec::new();
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if !["lib", "main", "bin"].contains(&name.as_str()) && !order.contains(&name) {
            wrong.push(format!("{}: not declared in src/lib.rs", path.display()));
        }
    }
    report(&wrong);
}

#[test]
fn what_stands_below_is_found_however_deep_it_is() {
    let list = |module: &str, text: &str| (module.to_owned(), declared(text));
    let lists = [
        list("node", "mod observe;\nmod cluster;\n"),
        list("node::observe", "/// What was seen.\npub(super) mod view;\nmod names;\n"),
    ];
    let below = |own: &str, used: &str| stands_below(own, used, &lists.clone().into());
    assert!(below("node::observe::view", "node::observe::names"));
    assert!(!below("node::observe::names", "node::observe::view"));
    assert!(below("node::observe::names", "node::cluster::peers"), "the folder stands below");
    assert!(!below("node::cluster::peers", "node::observe::names"));
    assert!(below("node::observe::names::parts", "node::cluster"));
    assert!(!below("node::observe", "node::observe::view"), "a module is put together of its parts");

    let above = |path: &str| resolved("node::persist::ledger", path);
    assert_eq!(above("super::memory::Write"), "node::persist::memory::Write");
    assert_eq!(above("super::super::boundary::io"), "node::boundary::io");
    assert_eq!(above("self::tests"), "node::persist::ledger::tests");
    assert_eq!(above("crate::node::boundary::io"), "node::boundary::io");
    let files = ["node", "node::boundary::io", "node::persist::memory"].map(str::to_owned).into();
    assert_eq!(file_of("node::persist::memory::Write", &files), Some("node::persist::memory"));
    assert_eq!(file_of("node::Node", &files), Some("node"));
    assert_eq!(file_of("plan::Plan", &files), None);
}

#[test]
fn what_the_rules_look_for_is_found() {
    let text =
        "use crate::{addr::{Address, Range}, node::request,\n    plan};\nlet x = crate::vpc::observe();";
    let used = [
        "crate::addr::Address",
        "crate::addr::Range",
        "crate::node::request",
        "crate::plan",
        "crate::vpc::observe",
    ];
    assert_eq!(paths(text, "crate"), used.map(str::to_owned).into());

    let text = "pub struct Small {\n    /// Of: docs.\n    pub one: u8,\n    two: Vec<u8>,\n    \
         pub(in crate::node) three: u8,\n}\nstruct Tuple(u8);\n";
    assert_eq!(structs(text), [("Small".to_owned(), 3)]);

    assert_eq!(impure_words("use std::{fmt, fs::File};"), ["std::fs"]);
    assert_eq!(impure_words("let now = Instant::now(); nix::unistd::sync();"), ["Instant", "nix::"]);
    assert!(impure_words("an Instantaneous phoenix, std::fmt, unix::Hash").is_empty());
    assert!(order().iter().any(|module| module == "vpc"), "modules behind a feature count");
}

// ===== reading the tree =====

/// The modules, as `src/lib.rs` lists them, with or without an attribute before them.
fn order() -> Vec<String> {
    let order = declared(&fs::read_to_string(root().join("src/lib.rs")).unwrap());
    assert!(order.iter().any(|module| module == FIRST_HAND), "src/lib.rs lists no `{FIRST_HAND}`: {order:?}");
    order
}

/// The modules that a file declares, in its order.
fn declared(text: &str) -> Vec<String> {
    let name = |line: &str| Some(line.rsplit_once("mod ")?.1.strip_suffix(';')?.to_owned());
    text.lines().filter(|line| !line.trim_start().starts_with("//")).filter_map(name).collect()
}

/// The files of a module: `src/NAME.rs` and all below `src/NAME/`.
fn sources(module: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut pending = vec![root().join(format!("src/{module}.rs")), root().join("src").join(module)];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") && path.exists() {
            let text = fs::read_to_string(&path).unwrap();
            files.push((path, text));
        }
    }
    assert!(!files.is_empty(), "no file of module `{module}`");
    files
}

/// Which files of a module use which others of it, by their paths as modules; what a file takes from those that it is a part of
/// is not counted.
type Uses = BTreeMap<String, BTreeSet<String>>;

fn uses_of_files(module: &str) -> Uses {
    let sources = sources(module).into_iter().filter(|(file, _)| !is_of_tests(file));
    let texts: BTreeMap<String, String> =
        sources.map(|(file, text)| (module_path(&file), without_tests(&text))).collect();
    let files: BTreeSet<String> = texts.keys().cloned().collect();
    let uses = |own: &String, text: &String| {
        let used = ["crate", "super", "self"].into_iter().flat_map(|root| paths(text, root));
        let used = used.filter_map(|path| file_of(&resolved(own, &path), &files).map(str::to_owned));
        used.filter(|used| used != own && !own.starts_with(&format!("{used}::"))).collect()
    };
    texts.iter().map(|(own, text)| (own.clone(), uses(own, text))).collect()
}

fn is_of_tests(file: &Path) -> bool {
    file.iter().any(|part| part == "tests" || part == "tests.rs")
}

/// What a file holds before the tests that stand in it.
fn before_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {\n").next().unwrap_or(text)
}

fn without_tests(text: &str) -> String {
    let lines = before_tests(text).lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// `node::persist::ledger` of `src/node/persist/ledger.rs`, `node` of `src/node/mod.rs`.
fn module_path(file: &Path) -> String {
    let path = file.strip_prefix(root().join("src")).unwrap().with_extension("");
    let parts = path.iter().map(|part| part.to_str().unwrap()).filter(|part| *part != "mod");
    parts.collect::<Vec<_>>().join("::")
}

/// A path as it reads from the root of the crate, where `own` uses it.
fn resolved(own: &str, path: &str) -> String {
    let (root, mut rest) = path.split_once("::").unwrap_or((path, ""));
    let mut base: Vec<&str> = if root == "crate" { vec![] } else { own.split("::").collect() };
    if root == "super" {
        base.pop();
    }
    while let Some(further) = rest.strip_prefix("super::") {
        base.pop();
        rest = further;
    }
    base.into_iter().chain([rest]).collect::<Vec<_>>().join("::")
}

/// The structs of a file with named fields, and how many each has.
fn structs(text: &str) -> Vec<(String, usize)> {
    let name = |line: &str| {
        let rest = line.split_once("struct ").filter(|(before, _)| !before.contains("//"))?.1;
        Some(rest.strip_suffix(" {")?.split('<').next()?.to_owned())
    };
    let is_field = |line: &&str| {
        let named = line.split_once(": ").filter(|(before, _)| !before.contains("//"));
        named.and_then(|(before, _)| before.rsplit(' ').next()).is_some_and(|name| {
            name.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit())
        })
    };
    let mut lines = text.lines();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        if let Some(name) = name(line) {
            found.push((name, lines.by_ref().take_while(|line| line.trim() != "}").filter(is_field).count()));
        }
    }
    found
}

/// The file that a path leads into.
fn file_of<'a>(path: &str, files: &'a BTreeSet<String>) -> Option<&'a str> {
    let leads_into = |file: &&String| path == *file || path.starts_with(&format!("{file}::"));
    files.iter().filter(leads_into).max_by_key(|file| file.len()).map(String::as_str)
}

/// What each module below this one, and it itself, declares, by its path.
fn declarations(module: &str) -> BTreeMap<String, Vec<String>> {
    sources(module).iter().map(|(file, text)| (module_path(file), declared(text))).collect()
}

/// Whether the module that `own` and `used` are both in declares the way to `used` after the way to `own`.
fn stands_below(own: &str, used: &str, declared: &BTreeMap<String, Vec<String>>) -> bool {
    let shared = own.split("::").zip(used.split("::")).take_while(|(own, used)| own == used).count();
    let module: Vec<&str> = own.split("::").take(shared).collect();
    let rank = |file: &str| {
        let part = file.split("::").nth(shared)?;
        declared.get(&module.join("::"))?.iter().position(|declared| declared == part)
    };
    let is_in_it = |file: &str| file.split("::").count() > shared;
    is_in_it(own) && is_in_it(used) && rank(used) > rank(own)
}

fn impure_words(text: &str) -> Vec<&'static str> {
    let used = paths(text, "std");
    let imported =
        |word: &str| used.iter().any(|path| path == word || path.starts_with(&format!("{word}::")));
    IMPURE.iter().copied().filter(|word| mentions(text, word) || imported(word)).collect()
}

/// Whether `word` stands in `text` by itself and not inside a longer name.
fn mentions(text: &str, word: &str) -> bool {
    let part_of_a_name = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let after = &text[at + word.len()..];
        !text[..at].ends_with(part_of_a_name) && (word.ends_with(':') || !after.starts_with(part_of_a_name))
    })
}

/// Every path in `text` that begins with `root::`, the branches of `root::{…}` spelt out.
fn paths(text: &str, root: &str) -> BTreeSet<String> {
    let start = format!("{root}::");
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices(&start) {
        if !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
            expand(root, &text[at + start.len()..], &mut found);
        }
    }
    found
}

/// Reads one use tree from the start of `rest` and adds its paths under `prefix`; gives what follows it.
fn expand<'a>(prefix: &str, rest: &'a str, found: &mut BTreeSet<String>) -> &'a str {
    let Some(mut branches) = rest.strip_prefix('{') else {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let path = format!("{prefix}::{}", &rest[..end]);
        return match rest[end..].strip_prefix("::") {
            Some(deeper) => expand(&path, deeper, found),
            None => {
                found.insert(path);
                &rest[end..]
            }
        };
    };
    loop {
        branches = branches.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
        match branches.strip_prefix('}') {
            Some(after) => return after,
            None if branches.is_empty() => return branches,
            None => {
                let after = expand(prefix, branches, found);
                // `name as other`, `*` and comments end at the next comma or brace.
                branches = &after[after.find([',', '}']).unwrap_or(after.len())..];
            }
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn report(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
