//! Walks the file: finds what stands there, and keeps every problem it meets on the way.

use std::ops;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    diagnostic::{Problem, Problems},
    schema,
    value::Wrong,
};

/// Problems kept of one file; nobody mends more at a time.
const PROBLEMS_MAX: usize = 100;

/// A file, and what was found wrong with it so far.
pub(super) struct Reader<'t> {
    text: &'t str,
    root: &'t DeTable<'t>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

/// A value, and the bytes that say it.
#[derive(Clone)]
pub(super) struct Found<T> {
    pub value: T,
    pub span: ops::Range<usize>,
}

/// One of a list of tables.
pub(super) struct Entry<'t> {
    table: &'t DeTable<'t>,
    /// The bytes that say it.
    pub span: ops::Range<usize>,
}

impl<'t> Entry<'t> {
    /// Whether it has the last part of this key.
    pub fn has(&self, key: &'static str) -> bool {
        self.get(key).is_some()
    }

    fn get(&self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.table.get(key.rsplit('.').next().unwrap_or(key))
    }
}

/// The text as TOML, or every place where it is not.
pub(super) fn syntax(text: &str) -> Result<Spanned<DeTable<'_>>, Problems> {
    let (root, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(root);
    }
    let mut problems: Vec<Problem> = errors
        .iter()
        .take(PROBLEMS_MAX)
        .map(|error| Problem::at(text, error.span().unwrap_or(0..0), "", error.message().to_owned()))
        .collect();
    // What follows on the same line is mostly an echo of the first.
    problems.sort_by_key(|problem| problem.span.start);
    problems.dedup_by_key(|problem| problem.line);
    Err(Problems(problems))
}

impl<'t> Reader<'t> {
    /// Starts with what does not belong into the file.
    pub fn new(text: &'t str, root: &'t DeTable<'t>) -> Reader<'t> {
        let mut reader = Reader { text, root, problems: Vec::new(), warnings: Vec::new() };
        reader.reject_unknown();
        reader
    }

    /// Problems in the order of the text, or what was made of it and the warnings.
    pub fn finish<T>(mut self, made: T) -> Result<(T, Vec<Problem>), Problems> {
        if self.problems.is_empty() {
            self.warnings.sort_by_key(|warning| warning.span.start);
            return Ok((made, self.warnings));
        }
        self.problems.sort_by_key(|problem| problem.span.start);
        Err(Problems(self.problems))
    }

    /// Keeps a problem.
    pub fn problem(&mut self, key: &str, span: ops::Range<usize>, wrong: Wrong) {
        if self.problems.len() < PROBLEMS_MAX {
            let problem = Problem::at(self.text, span, key, wrong.message);
            self.problems.push(Problem { hint: wrong.hint, ..problem });
        }
    }

    /// Keeps a problem with the value of a key that is there.
    pub fn problem_at_key(&mut self, key: &'static str, wrong: Wrong) {
        let span = self.value(key).map_or(0..0, Spanned::span);
        self.problem(key, span, wrong);
    }

    /// Keeps a warning.
    pub fn warning(&mut self, key: &str, span: ops::Range<usize>, what: &str) {
        self.warnings.push(Problem::at(self.text, span, key, what.to_owned()));
    }

    /// A text that `parse` understands.
    pub fn read<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<Found<T>> {
        let found = self.value(key)?;
        self.one(key, found, &parse)
    }

    /// A list of texts; an item that is wrong is left out.
    pub fn list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<Found<Vec<Found<T>>>> {
        let found = self.value(key)?;
        Some(Found { value: self.items(key, found, &parse)?, span: found.span() })
    }

    /// One text, or a list of them.
    pub fn one_or_more<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<Found<Vec<Found<T>>>> {
        let found = self.value(key)?;
        if found.get_ref().is_array() {
            return self.list(key, parse);
        }
        let only = self.one(key, found, &parse)?;
        Some(Found { value: vec![only], span: found.span() })
    }

    /// A list of tables that have these keys and no others.
    pub fn tables(&mut self, key: &'static str, names: &[&'static str]) -> Vec<Entry<'t>> {
        let Some(found) = self.value(key) else { return Vec::new() };
        let Some(items) = found.get_ref().as_array() else {
            self.mistyped(key, found, "a list of tables");
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in items.iter() {
            let Some(table) = item.get_ref().as_table() else {
                self.mistyped(key, item, "a table");
                continue;
            };
            for name in table.keys().filter(|name| !names.contains(&name.get_ref().as_ref())) {
                let near = schema::nearest(name.get_ref(), names.iter().copied());
                let wrong = Wrong { message: "unknown key".to_owned(), hint: near.map(schema::did_you_mean) };
                self.problem(&format!("{key}.{}", name.get_ref()), name.span(), wrong);
            }
            tables.push(Entry { table, span: item.span() });
        }
        tables
    }

    /// A text of one of a list of tables, under the last part of its key.
    pub fn read_in<T>(
        &mut self,
        entry: &Entry<'t>,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<Found<T>> {
        self.one(key, entry.get(key)?, &parse)
    }

    /// A list of texts of one of a list of tables; an item that is wrong is left out.
    pub fn list_in<T>(
        &mut self,
        entry: &Entry<'t>,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Vec<Found<T>> {
        let Some(found) = entry.get(key) else { return Vec::new() };
        self.items(key, found, &parse).unwrap_or_default()
    }

    /// As [`Reader::read`]; `word` is as good as a missing key.
    pub fn read_unless<T>(
        &mut self,
        key: &'static str,
        word: &str,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<Found<T>> {
        if self.is_word(key, word) { None } else { self.read(key, parse) }
    }

    /// Whether the key is there at all.
    pub fn has(&self, key: &'static str) -> bool {
        self.value(key).is_some()
    }

    /// Whether the value is a list of nothing.
    pub fn is_empty_list(&self, key: &'static str) -> bool {
        self.value(key).and_then(|found| found.get_ref().as_array()).is_some_and(|list| list.is_empty())
    }

    /// Whether the value is this word.
    pub fn is_word(&self, key: &'static str, word: &str) -> bool {
        self.value(key).and_then(|found| found.get_ref().as_str()) == Some(word)
    }

    /// Whether the value is a text that begins like this.
    pub fn is_prefixed(&self, key: &'static str, prefix: &str) -> bool {
        let text = self.value(key).and_then(|found| found.get_ref().as_str());
        text.is_some_and(|text| text.starts_with(prefix))
    }

    /// A whole number within bounds.
    pub fn number(&mut self, key: &'static str, bounds: ops::RangeInclusive<u32>) -> Option<Found<u32>> {
        let found = self.value(key)?;
        let Some(digits) = found.get_ref().as_integer() else {
            self.mistyped(key, found, "a whole number");
            return None;
        };
        let number = i64::from_str_radix(digits.as_str(), digits.radix()).unwrap_or(i64::MAX);
        match u32::try_from(number).ok().filter(|number| bounds.contains(number)) {
            Some(value) => Some(Found { value, span: found.span() }),
            None => {
                let (low, high) = (bounds.start(), bounds.end());
                let wrong = Wrong::new(format!("{digits} is not between {low} and {high}"));
                self.problem(key, found.span(), wrong);
                None
            }
        }
    }

    /// Yes or no.
    pub fn flag(&mut self, key: &'static str) -> Option<Found<bool>> {
        let found = self.value(key)?;
        let Some(value) = found.get_ref().as_bool() else {
            self.mistyped(key, found, "true or false");
            return None;
        };
        Some(Found { value, span: found.span() })
    }

    fn items<T>(
        &mut self,
        key: &'static str,
        found: &'t Spanned<DeValue<'t>>,
        parse: &impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<Vec<Found<T>>> {
        let Some(items) = found.get_ref().as_array() else {
            self.mistyped(key, found, "a list of strings");
            return None;
        };
        Some(items.iter().filter_map(|item| self.one(key, item, parse)).collect())
    }

    fn one<T>(
        &mut self,
        key: &'static str,
        found: &Spanned<DeValue<'t>>,
        parse: &impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<Found<T>> {
        let Some(text) = found.get_ref().as_str() else {
            self.mistyped(key, found, "a string");
            return None;
        };
        match parse(text) {
            Ok(value) => Some(Found { value, span: found.span() }),
            Err(wrong) => {
                self.problem(key, found.span(), wrong);
                None
            }
        }
    }

    fn value(&self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        debug_assert!(schema::KEYS.iter().any(|known| known.path == key), "{key} is in the schema");
        match key.split_once('.') {
            None => self.root.get(key),
            Some((section, name)) => self.root.get(section)?.get_ref().as_table()?.get(name),
        }
    }

    fn mistyped(&mut self, key: &str, found: &Spanned<DeValue<'t>>, expected: &str) {
        let kind = found.get_ref().type_str();
        let article = if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
        self.problem(key, found.span(), Wrong::new(format!("expected {expected}, found {article} {kind}")));
    }

    fn reject_unknown(&mut self) {
        for (name, value) in self.root {
            let known = name.get_ref().as_ref();
            match value.get_ref().as_table() {
                Some(table) if schema::is_section(known) => self.reject_unknown_in(known, table),
                None if schema::is_section(known) => self.mistyped(known, value, "a table"),
                _ if schema::find("", known).is_some() => {}
                _ => self.unknown("", name),
            }
        }
    }

    fn reject_unknown_in(&mut self, section: &str, table: &DeTable<'t>) {
        for name in table.keys().filter(|name| schema::find(section, name.get_ref()).is_none()) {
            self.unknown(section, name);
        }
    }

    fn unknown(&mut self, section: &str, name: &Spanned<std::borrow::Cow<'t, str>>) {
        let typed = name.get_ref().as_ref();
        let key = if section.is_empty() { typed.to_owned() } else { format!("{section}.{typed}") };
        let wrong = Wrong { message: "unknown key".to_owned(), hint: schema::suggest(section, typed) };
        self.problem(&key, name.span(), wrong);
    }
}
