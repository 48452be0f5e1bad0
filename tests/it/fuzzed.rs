//! The fuzz targets, as the fuzzer runs them, over the inputs that it begins with: a target must go on reaching what it is for.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use self::targets::TARGETS;

#[path = "../fuzz/src/targets/mod.rs"]
mod targets;

/// Inputs by the name of the target.
fn seeds() -> BTreeMap<String, Vec<Vec<u8>>> {
    let directory = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds.py");
    let status = Command::new("python3").arg(script).arg(directory.path()).status().unwrap();
    assert!(status.success());
    let corpora = fs::read_dir(directory.path()).unwrap().map(|corpus| corpus.unwrap());
    let read = |corpus: &fs::DirEntry| {
        let files = fs::read_dir(corpus.path()).unwrap();
        files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
    };
    corpora.map(|corpus| (corpus.file_name().into_string().unwrap(), read(&corpus))).collect()
}

#[test]
fn every_fuzz_target_understands_an_input_that_it_begins_with() {
    let seeds = seeds();
    assert_eq!(seeds.len(), TARGETS.len());
    for (name, target) in TARGETS {
        assert!(seeds[name].iter().any(|input| target(input)), "{name} understands none of its inputs");
    }
}
