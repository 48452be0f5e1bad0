//! Our gob against Go's own: what we write, Go reads as we meant it, and the other way round.
//!
//! `tests/gob/main.go` speaks for Go. It is built here, so these tests need the `go` command; without it they fail.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde::Deserialize;
use serde_json::{Value, json};
use weavers::gob::{self, Decoder, Encoder, Schema};

/// A running Go program that encodes and decodes.
pub struct Go {
    process: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    _dir: tempfile::TempDir,
}

/// What Go made of a byte string.
#[derive(Debug, Deserialize)]
pub struct Decoded {
    /// What was read, up to the error if there is one.
    pub value: Value,
    /// What Go found wrong.
    pub error: Option<String>,
}

impl Go {
    /// Builds and starts the program.
    pub fn start() -> Go {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("gob");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gob/main.go");
        let built = Command::new("go")
            .args(["build", "-o"])
            .args([&program, &source])
            .current_dir(dir.path())
            // Nothing is fetched, and no home directory is needed.
            .env("GO111MODULE", "off")
            .env("GOFLAGS", "")
            .env("GOTOOLCHAIN", "local")
            .env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go"))
            .output()
            .unwrap_or_else(|e| panic!("cannot run go: {e}; install it with `apt-get install golang-go`"));
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let mut process = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let questions = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().unwrap());
        Go { process, questions, answers, _dir: dir }
    }

    /// What Go reads in `bytes`.
    pub fn decode(&mut self, kind: &str, bytes: &[u8]) -> Decoded {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        serde_json::from_value(self.ask(&format!("decode {kind} {digits}"))).unwrap()
    }

    /// What Go writes for `value`.
    pub fn encode(&mut self, kind: &str, value: &Value) -> Vec<u8> {
        let answer = self.ask(&format!("encode {kind} {value}"));
        unhex(answer["hex"].as_str().unwrap_or_else(|| panic!("cannot encode {value}: {answer}")))
    }

    fn ask(&mut self, question: &str) -> Value {
        let questions = self.questions.as_mut().expect("open until it is dropped");
        writeln!(questions, "{question}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{e} in {answer:?}, asked {question:.200}"))
    }
}

impl Drop for Go {
    fn drop(&mut self) {
        self.questions = None;
        let _ = self.process.wait();
    }
}

/// Bytes of the real router, with what they mean or what its decoder said of them.
#[derive(Deserialize)]
pub struct Vector {
    pub name: String,
    pub kind: String,
    pub hex: String,
    pub value: Option<Value>,
    pub error: Option<String>,
    pub peers: Option<usize>,
}

/// The vectors of `data/gob.json`.
pub fn vectors() -> Vec<Vector> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/data/gob.json");
    let vectors: Vec<Vector> = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert!(vectors.len() > 50, "only {} vectors", vectors.len());
    vectors
}

/// Bytes of hexadecimal digits.
pub fn unhex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn go_reads_the_routers_bytes_as_the_router_did() {
    let mut go = Go::start();
    for vector in vectors() {
        let decoded = go.decode(&vector.kind, &unhex(&vector.hex));
        match &vector.value {
            Some(value) => {
                assert_eq!(decoded.error, None, "{}", vector.name);
                assert_eq!(&decoded.value, value, "{}", vector.name);
            }
            None => {
                assert_eq!(decoded.error.is_some(), vector.error.is_some(), "{}: {decoded:?}", vector.name);
                assert_eq!(decoded.value.as_array().map(Vec::len), vector.peers, "{}", vector.name);
            }
        }
    }
}

#[test]
fn what_go_writes_it_reads_again() {
    let mut go = Go::start();
    for vector in vectors() {
        let Some(value) = vector.value else { continue };
        let bytes = go.encode(&vector.kind, &value);
        assert_eq!(go.decode(&vector.kind, &bytes).value, value, "{}", vector.name);
        // Lengths do not depend on the order of maps, nor on type ids of the same size.
        if vector.kind == "topology" && !vector.name.starts_with("tolerance") {
            assert_eq!(bytes.len(), vector.hex.len() / 2, "{}", vector.name);
        }
    }
}

#[test]
fn go_reads_what_we_write() {
    const RANGE: Schema =
        Schema::Struct { name: "Range", fields: &[("Start", Schema::Uint), ("End", Schema::Uint)] };
    const FEATURES: Schema = Schema::Map { name: "", key: &Schema::Str, elem: &Schema::Str };
    let mut go = Go::start();
    let range =
        gob::Value::fields([("Start", gob::Value::Uint(0)), ("End", gob::Value::Uint(u32::MAX.into()))]);
    let decoded = go.decode("range", &Encoder::new().encode(&RANGE, &range));
    assert_eq!((decoded.value, decoded.error), (json!({"Start": 0, "End": u32::MAX}), None));

    let features = gob::Value::Map(vec![
        (gob::Value::text("Name"), gob::Value::text("02:1f:00:00:00:01")),
        (gob::Value::text("NickName"), gob::Value::text("")),
    ]);
    let decoded = go.decode("features", &Encoder::numbered_from(64).encode(&FEATURES, &features));
    assert_eq!((decoded.value, decoded.error), (json!({"Name": "02:1f:00:00:00:01", "NickName": ""}), None));

    let mut envelope = Encoder::new().encode(&Schema::Str, &gob::Value::text("topology"));
    envelope.extend(Encoder::new().encode(&Schema::Uint, &gob::Value::Uint(0xffff_ffff_ffff)));
    envelope.extend(Encoder::new().encode(&Schema::Bytes, &gob::Value::Bytes(vec![0xab; 300])));
    let decoded = go.decode("envelope-gossip", &envelope);
    let expected = json!({"Channel": "topology", "Source": 0xffff_ffff_ffffu64, "Data": "ab".repeat(300)});
    assert_eq!((decoded.value, decoded.error), (expected, None));
}

#[test]
fn we_read_what_go_writes() {
    let mut go = Go::start();
    for vector in vectors() {
        let Some(value) = vector.value else { continue };
        let bytes = go.encode(&vector.kind, &value);
        let (mut decoder, mut rest, mut values) = (Decoder::new(), &bytes[..], 0);
        while decoder.next(&mut rest).unwrap_or_else(|e| panic!("{}: {e}", vector.name)).is_some() {
            values += 1;
        }
        let expected = match vector.kind.as_str() {
            "topology" => 2 * value.as_array().unwrap().len(),
            "envelope-gossip" => 3,
            "envelope-unicast" => 4,
            _ => 1,
        };
        assert_eq!(values, expected, "{}", vector.name);
    }
    let bytes = go.encode("range", &json!({"Start": 5, "End": 6}));
    let range = Decoder::new().next(&mut &bytes[..]).unwrap().unwrap();
    assert_eq!((range.uint_at("Start"), range.uint_at("End")), (Ok(5), Ok(6)));
}

#[test]
fn a_question_that_makes_no_sense_is_refused() {
    let mut go = Go::start();
    for question in
        ["decode nothing 00", "explain range 00", "decode range xyz", r#"encode range {"Begin":1}"#]
    {
        assert!(go.ask(question)["error"].is_string(), "{question}");
    }
}
