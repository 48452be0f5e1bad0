//! Walks the files: finds what stands there, and keeps every problem it meets on the way.

use std::ops;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    diagnostic::{Problem, Problems},
    schema,
    sources::{Source, Sources},
    value::Wrong,
};

/// Problems kept of a configuration; nobody mends more at a time.
const PROBLEMS_MAX: usize = 100;

/// The files, and what was found wrong with them so far.
pub(super) struct Reader<'t> {
    sources: Vec<&'t Source>,
    tables: &'t [DeTable<'t>],
    problems: Vec<(Place, Problem)>,
    warnings: Vec<(Place, Problem)>,
}

/// Which bytes of which file. What is read earlier is less.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Its number in the order in which files are merged.
    file: usize,
    start: usize,
    end: usize,
}

/// A value, and where it stands.
#[derive(Clone)]
pub(super) struct Found<T> {
    pub value: T,
    pub place: Place,
}

/// What stands somewhere, as TOML.
#[derive(Clone, Copy)]
pub(super) struct Item<'t> {
    file: usize,
    spanned: &'t Spanned<DeValue<'t>>,
}

/// One of a list of tables.
pub(super) struct Entry<'t> {
    table: &'t DeTable<'t>,
    pub place: Place,
}

impl Place {
    fn new(file: usize, bytes: ops::Range<usize>) -> Place {
        Place { file, start: bytes.start, end: bytes.end }
    }

    /// The number of the file, and the bytes.
    pub fn parts(self) -> (usize, ops::Range<usize>) {
        (self.file, self.start..self.end)
    }
}

impl<'t> Item<'t> {
    fn value(self) -> &'t DeValue<'t> {
        self.spanned.get_ref()
    }

    pub fn place(self) -> Place {
        Place::new(self.file, self.spanned.span())
    }

    fn within(self, spanned: &'t Spanned<DeValue<'t>>) -> Item<'t> {
        Item { file: self.file, spanned }
    }
}

impl<'t> Entry<'t> {
    /// Whether it has the last part of this key.
    pub fn has(&self, key: &'static str) -> bool {
        self.get(key).is_some()
    }

    fn get(&self, key: &'static str) -> Option<Item<'t>> {
        let spanned = self.table.get(key.rsplit('.').next().unwrap_or(key))?;
        Some(Item { file: self.place.file, spanned })
    }
}

/// Each text as TOML, or every place where one is not.
pub(super) fn syntax(sources: &Sources) -> Result<Vec<DeTable<'_>>, Problems> {
    let (mut tables, mut problems) = (Vec::new(), Vec::new());
    for source in sources.iter() {
        let (root, errors) = DeTable::parse_recoverable(&source.text);
        tables.push(root.into_inner());
        let mut of_file: Vec<Problem> = errors
            .iter()
            .take(PROBLEMS_MAX - problems.len())
            .map(|error| Problem::at(source, error.span().unwrap_or(0..0), "", error.message().to_owned()))
            .collect();
        // What follows on the same line is mostly an echo of the first.
        of_file.sort_by_key(|problem| problem.span.start);
        of_file.dedup_by_key(|problem| problem.line);
        problems.append(&mut of_file);
    }
    if problems.is_empty() { Ok(tables) } else { Err(Problems(problems)) }
}

/// What the last file that has this key says.
pub(super) fn last<'t>(tables: &'t [DeTable<'t>], key: &str) -> Option<Item<'t>> {
    let stands_in = |table: &'t DeTable<'t>| match key.split_once('.') {
        None => table.get(key),
        Some((section, name)) => table.get(section)?.get_ref().as_table()?.get(name),
    };
    let mut files = tables.iter().enumerate().rev();
    files.find_map(|(file, table)| Some(Item { file, spanned: stands_in(table)? }))
}

impl<'t> Reader<'t> {
    /// Starts with what does not belong into the files.
    pub fn new(sources: &'t Sources, tables: &'t [DeTable<'t>]) -> Reader<'t> {
        let sources = sources.iter().collect();
        let mut reader = Reader { sources, tables, problems: Vec::new(), warnings: Vec::new() };
        for (file, table) in tables.iter().enumerate() {
            reader.reject_unknown(file, table);
        }
        reader
    }

    /// Problems in the order of the files and their text, or what was made of them and the warnings.
    pub fn finish<T>(self, made: T) -> Result<(T, Vec<Problem>), Problems> {
        let in_order = |mut found: Vec<(Place, Problem)>| -> Vec<Problem> {
            found.sort_by(|one, other| one.0.cmp(&other.0));
            found.into_iter().map(|(_, problem)| problem).collect()
        };
        match self.problems.is_empty() {
            true => Ok((made, in_order(self.warnings))),
            false => Err(Problems(in_order(self.problems))),
        }
    }

    /// Keeps a problem.
    pub fn problem(&mut self, key: &str, place: Place, wrong: Wrong) {
        if self.problems.len() < PROBLEMS_MAX {
            let problem = self.at(key, &place, wrong.message);
            self.problems.push((place, Problem { hint: wrong.hint, ..problem }));
        }
    }

    /// Keeps a problem with the value of a key that is there.
    pub fn problem_at_key(&mut self, key: &'static str, wrong: Wrong) {
        let place = self.value(key).map(Item::place).unwrap_or_default();
        self.problem(key, place, wrong);
    }

    /// Keeps a warning.
    pub fn warning(&mut self, key: &str, place: Place, what: &str) {
        let warning = self.at(key, &place, what.to_owned());
        self.warnings.push((place, warning));
    }

    /// Keeps a warning about a key, if it is there.
    pub fn warning_at_key(&mut self, key: &'static str, what: &str) {
        if let Some(place) = self.value(key).map(Item::place) {
            self.warning(key, place, what);
        }
    }

    fn at(&self, key: &str, place: &Place, message: String) -> Problem {
        let (file, bytes) = place.clone().parts();
        Problem::at(self.sources[file], bytes, key, message)
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
        Some(Found { value: self.items(key, found, &parse)?, place: found.place() })
    }

    /// One text, or a list of them.
    pub fn one_or_more<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<Found<Vec<Found<T>>>> {
        let found = self.value(key)?;
        if found.value().is_array() {
            return self.list(key, parse);
        }
        let only = self.one(key, found, &parse)?;
        Some(Found { value: vec![only], place: found.place() })
    }

    /// A list of tables that have these keys and no others.
    pub fn tables(&mut self, key: &'static str, names: &[&'static str]) -> Vec<Entry<'t>> {
        let Some(found) = self.value(key) else { return Vec::new() };
        let Some(items) = found.value().as_array() else {
            self.mistyped(key, found, "a list of tables");
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in items.iter().map(|item| found.within(item)) {
            let Some(table) = item.value().as_table() else {
                self.mistyped(key, item, "a table");
                continue;
            };
            for name in table.keys().filter(|name| !names.contains(&name.get_ref().as_ref())) {
                let near = schema::nearest(name.get_ref(), names.iter().copied());
                let wrong = Wrong { message: "unknown key".to_owned(), hint: near.map(schema::did_you_mean) };
                self.problem(&format!("{key}.{}", name.get_ref()), Place::new(item.file, name.span()), wrong);
            }
            tables.push(Entry { table, place: item.place() });
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
        self.value(key).and_then(|found| found.value().as_array()).is_some_and(|list| list.is_empty())
    }

    /// Whether the value is this word.
    pub fn is_word(&self, key: &'static str, word: &str) -> bool {
        self.value(key).and_then(|found| found.value().as_str()) == Some(word)
    }

    /// Whether the value is a text that begins like this.
    pub fn is_prefixed(&self, key: &'static str, prefix: &str) -> bool {
        let text = self.value(key).and_then(|found| found.value().as_str());
        text.is_some_and(|text| text.starts_with(prefix))
    }

    /// A whole number within bounds.
    pub fn number(&mut self, key: &'static str, bounds: ops::RangeInclusive<u32>) -> Option<Found<u32>> {
        let found = self.value(key)?;
        let Some(digits) = found.value().as_integer() else {
            self.mistyped(key, found, "a whole number");
            return None;
        };
        let number = i64::from_str_radix(digits.as_str(), digits.radix()).unwrap_or(i64::MAX);
        match u32::try_from(number).ok().filter(|number| bounds.contains(number)) {
            Some(value) => Some(Found { value, place: found.place() }),
            None => {
                let (low, high) = (bounds.start(), bounds.end());
                let wrong = Wrong::new(format!("{digits} is not between {low} and {high}"));
                self.problem(key, found.place(), wrong);
                None
            }
        }
    }

    /// Yes or no.
    pub fn flag(&mut self, key: &'static str) -> Option<Found<bool>> {
        let found = self.value(key)?;
        let Some(value) = found.value().as_bool() else {
            self.mistyped(key, found, "true or false");
            return None;
        };
        Some(Found { value, place: found.place() })
    }

    fn items<T>(
        &mut self,
        key: &'static str,
        found: Item<'t>,
        parse: &impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<Vec<Found<T>>> {
        let Some(items) = found.value().as_array() else {
            self.mistyped(key, found, "a list of strings");
            return None;
        };
        Some(items.iter().filter_map(|item| self.one(key, found.within(item), parse)).collect())
    }

    fn one<T>(
        &mut self,
        key: &'static str,
        found: Item<'t>,
        parse: &impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<Found<T>> {
        let Some(text) = found.value().as_str() else {
            self.mistyped(key, found, "a string");
            return None;
        };
        match parse(text) {
            Ok(value) => Some(Found { value, place: found.place() }),
            Err(wrong) => {
                self.problem(key, found.place(), wrong);
                None
            }
        }
    }

    fn value(&self, key: &'static str) -> Option<Item<'t>> {
        debug_assert!(schema::KEYS.iter().any(|known| known.path == key), "{key} is in the schema");
        last(self.tables, key)
    }

    fn mistyped(&mut self, key: &str, found: Item<'t>, expected: &str) {
        let kind = found.value().type_str();
        let article = if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
        self.problem(key, found.place(), Wrong::new(format!("expected {expected}, found {article} {kind}")));
    }

    fn reject_unknown(&mut self, file: usize, root: &'t DeTable<'t>) {
        for (name, spanned) in root {
            let known = name.get_ref().as_ref();
            match spanned.get_ref().as_table() {
                Some(table) if schema::is_section(known) => self.reject_unknown_in(file, known, table),
                None if schema::is_section(known) => self.mistyped(known, Item { file, spanned }, "a table"),
                _ if schema::find("", known).is_some() => {}
                _ => self.unknown("", file, name),
            }
        }
    }

    fn reject_unknown_in(&mut self, file: usize, section: &str, table: &DeTable<'t>) {
        for name in table.keys().filter(|name| schema::find(section, name.get_ref()).is_none()) {
            self.unknown(section, file, name);
        }
    }

    fn unknown(&mut self, section: &str, file: usize, name: &Spanned<std::borrow::Cow<'t, str>>) {
        let typed = name.get_ref().as_ref();
        let key = if section.is_empty() { typed.to_owned() } else { format!("{section}.{typed}") };
        let wrong = Wrong { message: "unknown key".to_owned(), hint: schema::suggest(section, typed) };
        self.problem(&key, Place::new(file, name.span()), wrong);
    }
}
