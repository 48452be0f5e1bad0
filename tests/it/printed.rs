//! Nicknames, reasons, names of containers and tables come from peers, from EC2 and from whoever attaches: in what is
//! printed for people none of them ends a line, steers the terminal or turns the direction of reading.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use weavers::cli::render;

use crate::schema::{node_with_something_of_everything, plan};

const HOSTILE: &str = "\x1b]0;owned\x07\r\nready, converged\u{202e}\u{2028}";

/// The document with each of its texts, and each of its keys, in turn replaced by what somebody hostile would say.
fn spoilt(document: &Value) -> Vec<Value> {
    let within = |key: &dyn Fn(&mut Value, Value), value: &Value| -> Vec<Value> {
        let put = |inner: Value| {
            let mut whole = document.clone();
            key(&mut whole, inner);
            whole
        };
        spoilt(value).into_iter().map(put).collect()
    };
    match document {
        // Where there was nothing another line may be ours.
        Value::String(text) if text.is_empty() => Vec::new(),
        Value::String(_) => vec![json!(HOSTILE)],
        Value::Array(items) => {
            let at = |(index, item)| within(&move |whole, inner| whole[index] = inner, item);
            items.iter().enumerate().flat_map(at).collect()
        }
        Value::Object(members) => {
            let renamed = members.keys().map(|name| {
                let mut renamed = members.clone();
                let value = renamed.remove(name).unwrap();
                renamed.insert(HOSTILE.to_owned(), value);
                Value::Object(renamed)
            });
            let at = |(name, value): (&String, _)| {
                within(&|whole: &mut Value, inner| whole[name.as_str()] = inner, value)
            };
            members.iter().flat_map(at).chain(renamed).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => Vec::new(),
    }
}

/// Renders the document and its spoilt twins; what is no such document any more is passed over.
fn hold<T: DeserializeOwned>(document: &Value, render: impl Fn(&T) -> String) {
    let read = |document: &Value| serde_json::from_value::<T>(document.clone());
    let clean = render(&read(document).unwrap());
    let mut seen = 0;
    for twin in spoilt(document) {
        let Ok(value) = read(&twin) else { continue };
        let text = render(&value);
        let unfit = text.chars().filter(|c| *c == '\n' || *c == '\x1b').count();
        let before = clean.chars().filter(|c| *c == '\n' || *c == '\x1b').count();
        assert!(unfit <= before, "{twin}\nis printed as\n{text:?}");
        assert!(!text.contains(['\x07', '\r', '\u{202e}', '\u{2028}']), "{twin}\nis printed as\n{text:?}");
        seen += usize::from(text.contains("owned"));
    }
    assert!(seen > 0, "some of it is shown");
}

#[test]
fn a_status_shows_what_others_say_on_its_own_lines() {
    let mut status = json!(node_with_something_of_everything().status());
    status["instance"] = json!("i-1");
    status["problems"] = json!([{ "what": "a route of others", "hint": "remove it" }]);
    status["ipam"]["electors"] = json!(["a", "b"]);
    hold(&status, render::status::text);
}

#[test]
fn so_does_a_plan_in_both_its_forms() {
    let plan = json!(plan());
    hold(&plan, render::plan::pending);
    hold(&plan, render::plan::applied);
    hold(&plan, render::diff::text);
}

#[test]
fn so_do_the_ring_an_explanation_and_permissions() {
    let piece = json!({
        "range": "10.32.0.0/13", "size": 524_288, "peer": "02:00:00:00:00:01", "nickname": "web-1",
        "reachable": true, "free": 7,
    });
    hold(&json!([piece]), |pieces: &Vec<_>| render::status::ring(pieces));
    let explanation = json!({
        "format_version": "1.0", "address": "10.32.0.1", "standing": "used", "summary": "container `web` on this host",
        "piece": piece, "ident": "web",
        "container": { "ident": "web", "netns": "/run/netns/web", "address": "10.32.0.1", "missing": "a route" },
        "host": { "destination": "10.32.0.1/32", "target": "wv0a200001" },
        "tables": [{
            "table": "rtb-1", "destination": "10.32.0.0/13", "target": "eni-1", "state": "Active", "here": true,
        }],
        "missing": [{ "what": "a route", "hint": "wait" }],
    });
    hold(&explanation, render::explain::text);
    let permission = json!({
        "action": "CreateRoute", "verdict": "denied", "optional": false, "said": "no", "statement": "add it",
    });
    hold(&json!([permission]), |all: &Vec<_>| render::permissions::text(all));
}
