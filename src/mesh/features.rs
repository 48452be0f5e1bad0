//! What a peer says of itself when it introduces itself: the feature map.

use thiserror::Error;

use super::frame::Version;
use crate::{
    gob::{GobError, Schema, Value},
    peer::{PeerName, PeerUid},
    text::short,
};

/// A `map[string]string`.
pub const FEATURES: Schema = Schema::Map { name: "", key: &Schema::Str, elem: &Schema::Str };
/// Longest nickname; longer ones are cut.
pub const NICKNAME_LEN_MAX: usize = 255;
/// Short ids are 12 bits.
pub const SHORT_ID_MAX: u16 = 4095;

const FLAVOUR: &str = "mac";
/// The key of a program's version; whoever does not know it passes over it.
const PROGRAM: &str = "WeaversVersion";
/// The key that says that what is known may be compared.
const COMPARES: &str = "WeaversCompares";
/// Longer ones are no versions.
const PROGRAM_LEN_MAX: usize = 32;
/// Nobody has so many overlays.
const OVERLAYS_LEN_MAX: usize = 1024;

/// The features of one side of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// Unique in the mesh.
    pub name: PeerName,
    /// For people.
    pub nickname: String,
    /// This life of the peer.
    pub uid: PeerUid,
    /// Random; the two of a connection together decide between two connections.
    pub conn_id: u64,
    /// Not in version 1.
    pub short_id: Option<u16>,
    /// It thinks that the network between us needs no encryption.
    pub trusted: bool,
    /// Ways to carry packets, by preference. Not in version 1.
    pub overlays: Option<String>,
    /// Only in version 1 with a password.
    pub public_key: Option<[u8; 32]>,
    /// Of the program, where it is one of our own kind. Routers of Weave Net pay no heed to it.
    pub program: Option<String>,
    /// It compares what it knows before it is told all of it. Not in version 1.
    pub compares: bool,
}

/// Why a feature map is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)] // The messages say what they are.
pub enum FeatureError {
    #[error("the features of the other side are not texts")]
    Gob(#[from] GobError),
    #[error("the other side does not say its {0}")]
    Missing(&'static str),
    #[error("the other side's {key} cannot be `{text}`")]
    Bad { key: &'static str, text: String },
}

impl Features {
    /// Whether it can do with this overlay.
    pub fn offers(&self, overlay: &str) -> bool {
        self.overlays.iter().any(|offered| offered.split(' ').any(|name| name == overlay))
    }

    /// As sent in this version.
    pub fn to_value(&self, version: Version) -> Value {
        let mut entries = vec![
            ("ConnID", self.conn_id.to_string()),
            ("Name", self.name.to_string()),
            ("NickName", self.nickname.clone()),
        ];
        if version == Version::V2 {
            entries.extend(self.overlays.clone().map(|overlays| ("Overlays", overlays)));
        }
        entries.push(("PeerNameFlavour", FLAVOUR.to_owned()));
        if version == Version::V2 {
            entries.extend(self.short_id.map(|id| ("ShortID", id.to_string())));
            entries.push(("Trusted", self.trusted.to_string()));
        }
        entries.push(("UID", self.uid.0.to_string()));
        if version == Version::V2 {
            entries.extend(self.compares.then(|| (COMPARES, true.to_string())));
            entries.extend(self.program.clone().map(|program| (PROGRAM, program)));
        }
        if version == Version::V1 {
            let hex = |key: [u8; 32]| key.iter().map(|byte| format!("{byte:02x}")).collect();
            entries.extend(self.public_key.map(|key| ("PublicKey", hex(key))));
        }
        Value::Map(entries.into_iter().map(|(key, text)| (Value::text(key), Value::Str(text))).collect())
    }

    /// As received in this version. Unknown keys mean nothing.
    pub fn from_value(value: &Value, version: Version) -> Result<Features, FeatureError> {
        let texts = Texts::new(value, version)?;
        texts.parse("PeerNameFlavour", |text| (text == FLAVOUR).then_some(()))?;
        Ok(Features {
            name: texts.parse("Name", |text| text.parse().ok().filter(|name| *name != PeerName::UNKNOWN))?,
            nickname: texts.parse("NickName", |text| Some(short(text, NICKNAME_LEN_MAX)))?,
            uid: PeerUid(texts.parse("UID", decimal)?),
            conn_id: texts.parse("ConnID", decimal)?,
            short_id: texts.parse_if_there("ShortID", short_id)?,
            trusted: texts.parse_if_there("Trusted", boolean)?.unwrap_or(false),
            overlays: texts.parse_if_there("Overlays", |text| Some(short(text, OVERLAYS_LEN_MAX)))?,
            public_key: texts.parse_if_there("PublicKey", public_key)?,
            program: texts.parse_if_there(PROGRAM, |text| Some(short(text, PROGRAM_LEN_MAX)))?,
            compares: texts.parse_if_there(COMPARES, boolean)?.unwrap_or(false),
        })
    }
}

struct Texts<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Texts<'a> {
    fn new(value: &'a Value, version: Version) -> Result<Texts<'a>, FeatureError> {
        let mut texts = Vec::new();
        for (key, text) in value.as_map()? {
            texts.push((key.as_str()?, text.as_str()?));
        }
        let hidden: &[&str] = match version {
            Version::V1 => &["ShortID", "Trusted", "Overlays", PROGRAM, COMPARES],
            Version::V2 => &["PublicKey"],
        };
        texts.retain(|(key, _)| !hidden.contains(key));
        Ok(Texts(texts))
    }

    fn parse_if_there<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, FeatureError> {
        let Some((_, text)) = self.0.iter().find(|(name, _)| *name == key) else { return Ok(None) };
        let shown = || short(text, 64);
        parse(text).map(Some).ok_or_else(|| FeatureError::Bad { key, text: shown() })
    }

    fn parse<T>(&self, key: &'static str, parse: impl Fn(&str) -> Option<T>) -> Result<T, FeatureError> {
        self.parse_if_there(key, parse)?.ok_or(FeatureError::Missing(key))
    }
}

fn decimal(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

fn short_id(text: &str) -> Option<u16> {
    decimal(text)?.try_into().ok().filter(|id| *id <= SHORT_ID_MAX)
}

/// As Go spells them.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn public_key(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let mut key = [0; 32];
    if digits.len() != 2 * key.len() {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(digits.chunks(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = (digit(0)? << 4 | digit(1)?) as u8;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(key: &str, text: Option<&str>) -> Result<Features, FeatureError> {
        let mut entries = vec![
            ("ConnID", "5"),
            ("Name", "::1"),
            ("NickName", ""),
            ("PeerNameFlavour", "mac"),
            ("UID", "0"),
            ("Unheard", "of"),
        ];
        entries.retain(|(name, _)| *name != key);
        entries.extend(text.map(|text| (key, text)));
        let map = entries.iter().map(|(key, text)| (Value::text(*key), Value::text(*text))).collect();
        Features::from_value(&Value::Map(map), Version::V2)
    }

    #[test]
    fn each_of_five_features_is_needed() {
        assert!(changed("", None).is_ok());
        for key in ["ConnID", "Name", "NickName", "PeerNameFlavour", "UID"] {
            assert!(matches!(changed(key, None), Err(FeatureError::Missing(_))), "{key}");
        }
    }

    #[test]
    fn what_the_real_router_refuses_is_refused() {
        for (key, text) in [
            ("ShortID", "4096"),
            ("ShortID", "-1"),
            ("ShortID", ""),
            ("Trusted", "yes"),
            ("UID", "text"),
            ("UID", "18446744073709551616"),
            ("ConnID", "0x1"),
            ("ConnID", "+1"),
            ("PeerNameFlavour", "hash"),
            ("Name", "nonsense"),
            ("Name", "::"),
        ] {
            assert!(matches!(changed(key, Some(text)), Err(FeatureError::Bad { .. })), "{key} {text}");
        }
    }

    #[test]
    fn what_a_stranger_calls_himself_is_one_short_line() {
        let nasty = "web\nMAINPID=1\x1b[2J\u{202e}";
        for key in ["NickName", "Overlays", PROGRAM] {
            let features = changed(key, Some(&nasty.repeat(1000))).unwrap();
            let said = [Some(features.nickname), features.overlays, features.program];
            let longest = said.into_iter().flatten().max_by_key(String::len).unwrap();
            assert!(longest.starts_with("web?MAINPID=1?[2J?") && longest.len() <= 1024, "{key}: {longest}");
        }
        let error = changed("Name", Some(nasty)).unwrap_err().to_string();
        assert!(error.contains("web?MAINPID=1?[2J?"), "{error}");
    }

    #[test]
    fn what_the_real_router_accepts_is_accepted() {
        assert!(changed("Trusted", Some("1")).unwrap().trusted);
        assert_eq!(changed("Name", Some("A:b:C:1:2:3")).unwrap().name.to_string(), "0a:0b:0c:01:02:03");
        assert_eq!(changed("ShortID", Some("4095")).unwrap().short_id, Some(4095));
    }
}
