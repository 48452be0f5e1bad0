//! Bytes that Weave Net's own code made, for the tests.

use serde_json::Value as Json;

/// All vectors.
pub fn all() -> Vec<Json> {
    serde_json::from_str(include_str!("../../tests/it/data/mesh.json")).unwrap()
}

/// The vectors of one group, with their bytes.
pub fn group(name: &str) -> Vec<(Json, Vec<u8>)> {
    let vectors = all().into_iter().filter(|vector| vector["group"] == name);
    let with_bytes: Vec<_> = vectors.map(|vector| (vector.clone(), unhex(&vector["hex"]))).collect();
    assert!(!with_bytes.is_empty(), "{name}");
    with_bytes
}

pub fn unhex(text: &Json) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
