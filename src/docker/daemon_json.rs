//! Docker's `daemon.json`: keys of ours are put in, and everything else stays as it is written, to the letter.

use std::ops::Range;

use ipnet::Ipv4Net;
use serde_json::{Map, Value, json};
use thiserror::Error;

/// A version of Docker, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl Version {
    /// The first that knows the key by which it does not drop what comes for containers of `docker0` by another interface, as it does since
    /// 28.0; older ones refuse to start with it.
    pub const KNOWS_DIRECT_ROUTING: Version = Version(28, 2);

    /// In `20.10.24+dfsg1`, or in a sentence such as `Docker version 20.10.24, build 297e128`.
    pub fn find(text: &str) -> Option<Version> {
        let starts = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
        let mut parts = text.split_whitespace().find(starts)?.split('.');
        let mut number = || parts.next()?.parse().ok();
        Some(Version(number()?, number()?))
    }
}

/// Keys of the file, with what is to stand there.
pub type Keys = Vec<(&'static str, Value)>;

/// What the file has to say for `docker0` to have this block: all of it, since Docker takes what is around an address for its neighbours.
/// Nothing of it takes effect before Docker is restarted.
pub fn keys(block: Ipv4Net, mtu: u32, version: Option<Version>) -> Keys {
    let first = std::net::Ipv4Addr::from(u32::from(block.network()) + 1);
    let bip = format!("{first}/{}", block.prefix_len());
    // The table `inet weave` masquerades what leaves the range, and nothing else.
    let mut keys = vec![("bip", json!(bip)), ("ip-masq", json!(false)), ("mtu", json!(mtu))];
    if version.is_some_and(|version| version >= Version::KNOWS_DIRECT_ROUTING) {
        keys.push(("allow-direct-routing", json!(true)));
    }
    keys
}

/// Why a file is left as it is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Wrong {
    /// It cannot be parsed.
    #[error("it is not JSON: {0}")]
    NotJson(String),
    /// It says something, but not key by key.
    #[error("it is no JSON object")]
    NotAnObject,
}

/// Which of these keys the file does not have as they are to be.
pub fn missing(text: &str, keys: &Keys) -> Result<Vec<&'static str>, Wrong> {
    let found = read(text)?;
    let differs = |(key, value): &&(&'static str, Value)| found.get(*key) != Some(value);
    Ok(keys.iter().filter(differs).map(|(key, _)| *key).collect())
}

/// The file with these keys. What is right already is not written anew.
pub fn merged(text: &str, keys: &Keys) -> Result<String, Wrong> {
    let missing = missing(text, keys)?;
    let members = members(text);
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    let mut new = Vec::new();
    for (key, value) in keys.iter().filter(|(key, _)| missing.contains(key)) {
        let mut there = members.iter().filter(|member| member.key == *key).peekable();
        if there.peek().is_none() {
            new.push(format!("\"{key}\": {value}"));
        }
        edits.extend(there.map(|member| (member.value.clone(), value.to_string())));
    }
    if !new.is_empty() {
        edits.push(addition(text, &members, &new));
    }
    edits.sort_by_key(|(range, _)| range.start);
    let mut merged = text.to_owned();
    for (range, with) in edits.into_iter().rev() {
        merged.replace_range(range, &with);
    }
    Ok(merged)
}

/// Docker takes a file without a word for one without a key.
fn read(text: &str) -> Result<Map<String, Value>, Wrong> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(found)) => Ok(found),
        Ok(_) => Err(Wrong::NotAnObject),
        Err(wrong) => Err(Wrong::NotJson(wrong.to_string())),
    }
}

/// Where new members go: behind the last one, as that one is written.
fn addition(text: &str, members: &[Member], new: &[String]) -> (Range<usize>, String) {
    let Some(last) = members.last() else {
        let lines: Vec<String> = new.iter().map(|member| format!("    {member}")).collect();
        return (0..text.len(), format!("{{\n{}\n}}\n", lines.join(",\n")));
    };
    let before = &text[..last.key_start];
    let indent = before.rfind('\n').map(|at| &before[at..]).filter(|indent| indent.trim().is_empty());
    let between = indent.unwrap_or(" ");
    let added: String = new.iter().map(|member| format!(",{between}{member}")).collect();
    (last.value.end..last.value.end, added)
}

/// A member of the outermost object: its key, and where its parts are.
#[derive(Debug)]
struct Member {
    key: String,
    key_start: usize,
    value: Range<usize>,
}

/// The members of a text that is known to be an object, or blank.
fn members(text: &str) -> Vec<Member> {
    let bytes = text.as_bytes();
    let mut members = Vec::new();
    let Some(start) = text.find('{') else { return members };
    let mut at = start + 1;
    loop {
        at = skip(bytes, at, |byte| byte.is_ascii_whitespace() || byte == b',');
        if bytes.get(at) != Some(&b'"') {
            return members;
        }
        let (key_start, key_end) = (at, end_of_string(bytes, at));
        at = skip(bytes, key_end, |byte| byte.is_ascii_whitespace() || byte == b':');
        let value = at..end_of_value(bytes, at);
        at = value.end;
        let key = serde_json::from_str(&text[key_start..key_end]).unwrap_or_default();
        members.push(Member { key, key_start, value });
    }
}

fn skip(bytes: &[u8], from: usize, passes: impl Fn(u8) -> bool) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    from + rest.iter().take_while(|byte| passes(**byte)).count()
}

/// Behind the quote that ends the string that begins here.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn end_of_value(bytes: &[u8], start: usize) -> usize {
    match bytes.get(start) {
        Some(b'"') => end_of_string(bytes, start),
        Some(b'{' | b'[') => end_of_nested(bytes, start),
        _ => skip(bytes, start, |byte| !byte.is_ascii_whitespace() && !b",}]".contains(&byte)),
    }
}

fn end_of_nested(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0usize);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at = end_of_string(bytes, at);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ours() -> Keys {
        keys("10.40.8.0/24".parse().unwrap(), 9001, Some(Version(20, 10)))
    }

    #[test]
    fn docker_0_gets_the_whole_block_and_a_key_only_from_a_docker_that_knows_it() {
        let said = |version| -> Vec<String> {
            let keys = keys("10.40.8.0/24".parse().unwrap(), 9001, version);
            keys.iter().map(|(key, value)| format!("{key}={value}")).collect()
        };
        let plain = ["bip=\"10.40.8.1/24\"", "ip-masq=false", "mtu=9001"];
        for version in [None, Some(Version(20, 10)), Some(Version(28, 1))] {
            assert_eq!(said(version), plain, "{version:?}");
        }
        assert_eq!(said(Some(Version(28, 2))).last().unwrap(), "allow-direct-routing=true");
    }

    #[test]
    fn versions_are_found_as_docker_says_them() {
        for (text, version) in [
            ("20.10.24+dfsg1", Some(Version(20, 10))),
            ("Docker version 28.5.2, build ecc6942", Some(Version(28, 5))),
            ("Docker version 26.1.5+dfsg1, build a72d7cd", Some(Version(26, 1))),
            ("dev", None),
            ("", None),
            ("28", None),
        ] {
            assert_eq!(Version::find(text), version, "{text}");
        }
    }

    #[test]
    fn what_others_have_written_stays_as_it_is_to_the_letter() {
        let text = "{\n  // no comment\n}";
        assert!(matches!(merged(text, &ours()), Err(Wrong::NotJson(_))), "a comment is no JSON");
        assert_eq!(merged("[]", &ours()), Err(Wrong::NotAnObject));
        let nothing = "{\n    \"bip\": \"10.40.8.1/24\",\n    \"ip-masq\": false,\n    \"mtu\": 9001\n}\n";
        for blank in ["", "\n", "{}", "{ }\n"] {
            assert_eq!(merged(blank, &ours()).unwrap(), nothing);
        }
        let text = "{\n\t\"log-opts\" : {\"max-size\":\"1e2\", \"bip\": [\"}\"]},\n\t\"bip\":  \"172.17.0.1/16\" ,\n\t\"x\": 1.0e0\n}\n";
        let expected = "{\n\t\"log-opts\" : {\"max-size\":\"1e2\", \"bip\": [\"}\"]},\n\t\"bip\":  \"10.40.8.1/24\" ,\n\t\"x\": 1.0e0,\n\t\"ip-masq\": false,\n\t\"mtu\": 9001\n}\n";
        assert_eq!(merged(text, &ours()).unwrap(), expected);
        assert_eq!(merged(expected, &ours()).unwrap(), expected, "what is right is not written anew");
        assert_eq!(
            merged("{\"live-restore\":true}", &ours()).unwrap(),
            "{\"live-restore\":true, \"bip\": \"10.40.8.1/24\", \"ip-masq\": false, \"mtu\": 9001}"
        );
        let twice = "{\"mtu\":1,\"bip\":\"10.40.8.1/24\",\"ip-masq\":false,\"mtu\":2}";
        assert_eq!(missing(twice, &ours()).unwrap(), ["mtu"]);
        assert_eq!(missing(&merged(twice, &ours()).unwrap(), &ours()), Ok(vec![]));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[\"\\\\{}\\[\\],: ]{0,6}".prop_map(Value::from),
        ];
        let keys = prop_oneof![
            prop::sample::select(vec!["bip", "mtu", "ip-masq", "live-restore", "a\"b\\"])
                .prop_map(str::to_owned),
            any::<String>(),
        ];
        leaf.prop_recursive(3, 24, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((keys.clone(), inner), 0..5)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_file_that_can_be_parsed_has_our_keys_afterwards_and_all_its_others(
            value in any_json(),
            pretty in any::<bool>(),
            text in any::<String>(),
        ) {
            let written = if pretty { format!("{value:#}") } else { value.to_string() };
            match (&value, merged(&written, &ours())) {
                (Value::Object(before), Ok(after)) => {
                    let after: Map<String, Value> = serde_json::from_str(&after).unwrap();
                    for (key, value) in ours() {
                        prop_assert_eq!(after.get(key), Some(&value));
                    }
                    let is_ours = |key: &String| ours().iter().any(|(ours, _)| ours == key);
                    let others = |map: &Map<String, Value>| -> Vec<(String, Value)> {
                        map.clone().into_iter().filter(|(key, _)| !is_ours(key)).collect()
                    };
                    prop_assert_eq!(others(before), others(&after));
                }
                (_, merged) => prop_assert_eq!(merged, Err(Wrong::NotAnObject)),
            }
            // Whatever it is, it ends with an answer.
            let _ = merged(&text, &ours());
        }
    }
}
