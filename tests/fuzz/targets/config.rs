//! The text of a `weave.toml`: a configuration, or problems that can be shown.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weavers::config;

fuzz_target!(|text: &str| {
    if let Err(problems) = config::parse(text) {
        assert!(!problems.to_string().is_empty());
    }
});
