//! The files that a configuration is read from: `weave.toml`, and its drop-ins behind it.
//!
//! The last file that has a key says its value, a list whole. So sections are merged key by key, and nothing else is.

use serde::{Deserialize, Serialize};

/// What a text is called that has no file.
const UNNAMED: &str = "weave.toml";

/// A file: what it is called, and what it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// As people find it.
    pub name: String,
    /// The whole of it.
    pub text: String,
}

/// All files of a configuration, in the order in which they are merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// `weave.toml`.
    pub main: Source,
    /// Those of `conf.d`.
    pub drop_ins: Vec<Source>,
}

impl Sources {
    /// Each file; a later one has the last word.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Source> {
        std::iter::once(&self.main).chain(&self.drop_ins)
    }

    /// The text of the file of this name.
    pub fn text_of(&self, name: &str) -> &str {
        self.iter().find(|source| source.name == name).map_or("", |source| &source.text)
    }

    /// Whether they say the same, byte by byte, whatever the files are called.
    pub fn say_the_same(&self, other: &Sources) -> bool {
        self.texts().eq(other.texts())
    }

    /// What tells these texts from others. Of a single file it is its SHA-256; a zero byte, which TOML has nowhere, stands between files.
    pub fn digest(&self) -> String {
        super::digest(&self.texts().collect::<Vec<_>>().join("\0"))
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|source| source.text.as_str())
    }
}

/// A text that stands alone.
impl From<&str> for Sources {
    fn from(text: &str) -> Sources {
        let main = Source { name: UNNAMED.to_owned(), text: text.to_owned() };
        Sources { main, drop_ins: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(texts: &[&str]) -> Sources {
        let named = |text: &&str| Source { name: format!("conf.d/{text}.toml"), text: (*text).to_owned() };
        Sources { drop_ins: texts[1..].iter().map(named).collect(), ..Sources::from(texts[0]) }
    }

    #[test]
    fn the_digest_of_a_single_file_is_its_sha_256_and_no_two_configurations_have_the_same() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sources(&[""]).digest(), empty);
        let all = [&["ab"][..], &["a", "b"], &["ab", ""], &["", "ab"], &["", "a", "b"], &["b", "a"]];
        let digests: std::collections::BTreeSet<_> = all.map(|texts| sources(texts).digest()).into();
        assert_eq!(digests.len(), all.len());
    }
}
