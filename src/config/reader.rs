//! Walks a TOML document with the places of its keys and values, and collects what is wrong.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::lines::Lines;
use super::problem::{Problem, Problems};

/// The text, and what was found wrong in it so far.
pub(super) struct Reader<'a> {
    path: &'a Path,
    lines: Lines<'a>,
    problems: Vec<Problem>,
    /// Keys that an unknown one was most likely meant to be: nobody is told in addition that they are missing.
    meant: BTreeSet<String>,
}

/// One table of the document.
#[derive(Clone)]
pub(super) struct Section<'a> {
    /// As a person names it: `limits`, `node 3`; empty for the document itself.
    name: String,
    table: &'a DeTable<'a>,
    span: Range<usize>,
}

/// A key and its value.
#[derive(Clone)]
pub(super) struct Entry<'a> {
    /// With the tables it stands in.
    pub(super) key: String,
    /// Of the value, or of the key for an unknown one.
    pub(super) span: Range<usize>,
    pub(super) value: Option<&'a DeValue<'a>>,
}

impl Entry<'_> {
    /// A key that is not there, in a file that has no place for it.
    pub(super) fn at_start(key: &str) -> Self {
        Self { key: key.to_owned(), span: 0..0, value: None }
    }
}

impl<'a> Section<'a> {
    pub(super) fn root(table: &'a DeTable<'a>) -> Self {
        Self { name: String::new(), table, span: 0..0 }
    }

    /// A table of an array of tables; `number` counts from 1.
    pub(super) fn item(name: &str, number: usize, table: &'a DeTable<'a>, span: Range<usize>) -> Self {
        Self { name: format!("{name} {number}"), table, span }
    }

    pub(super) fn get(&self, key: &str) -> Option<Entry<'a>> {
        let value = self.table.get(key)?;
        Some(Entry { key: self.path(key), span: value.span(), value: Some(value.get_ref()) })
    }

    /// The table itself, as a place for what is missing in it.
    pub(super) fn missing(&self, key: &str) -> Entry<'a> {
        Entry { key: self.path(key), span: self.span.clone(), value: None }
    }

    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str) -> Self {
        Self { path, lines: Lines::new(text), problems: Vec::new(), meant: BTreeSet::new() }
    }

    pub(super) fn into_problems(self) -> Problems {
        Problems::new(self.path, self.problems)
    }

    /// The document; `None` after reporting where it is no TOML.
    pub(super) fn document(&mut self) -> Option<Spanned<DeTable<'a>>> {
        let (document, errors) = DeTable::parse_recoverable(self.lines.text());
        // What is there twice is there: all else is read as if the first were the only one.
        let is_readable = errors.iter().all(is_duplicate);
        for error in errors {
            let entry = Entry { key: "(syntax)".to_owned(), span: error.span().unwrap_or(0..0), value: None };
            let remedy = if is_duplicate(&error) {
                "remove or rename one of the two"
            } else {
                "write `key = value` lines and `[table]` headers, with text in quotes"
            };
            self.report(&entry, error.message(), remedy);
        }
        is_readable.then_some(document)
    }

    /// Notes that something is wrong.
    pub(super) fn report(&mut self, at: &Entry<'_>, what: &str, remedy: &str) {
        self.problems.push(Problem::new(&self.lines, &at.span, &at.key, what, remedy));
    }

    /// Notes that a key is not there, unless it is there misspelt, which is noted already.
    pub(super) fn report_missing(&mut self, at: &Entry<'_>, what: &str, remedy: &str) {
        if !self.is_misspelt(at) {
            self.report(at, what, remedy);
        }
    }

    /// A key that is not there, and whose name somebody most likely meant.
    pub(super) fn is_misspelt(&self, missing: &Entry<'_>) -> bool {
        self.meant.contains(&missing.key)
    }

    /// Notes an error whose text is `what is wrong: what to do`; what is wrong may quote anything.
    pub(super) fn report_error(&mut self, at: &Entry<'_>, error: &str) {
        let (what, remedy) = error.rsplit_once(": ").unwrap_or((error, "change the value"));
        self.report(at, what, remedy);
    }

    /// The line of a place, from 1.
    pub(super) fn line(&self, at: &Range<usize>) -> usize {
        self.lines.of(at.start).0
    }

    /// Notes every key of a table that is none of these.
    pub(super) fn known_keys(&mut self, section: &Section<'_>, known: &[&str]) {
        for key in section.table.keys() {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            let entry = Entry { key: section.path(name), span: key.span(), value: None };
            let all = known.join(", ");
            let remedy = match nearest(name, known.iter().copied()) {
                Some(near) => {
                    self.meant.insert(section.path(near));
                    format!("did you mean `{near}`? Known here: {all}")
                }
                None => format!("remove it. Known here: {all}"),
            };
            self.report(&entry, "unknown key", &remedy);
        }
    }

    /// A table that may be missing.
    pub(super) fn section<'s>(&mut self, parent: &Section<'s>, key: &str) -> Option<Section<'s>> {
        let entry = parent.get(key)?;
        match entry.value {
            Some(DeValue::Table(table)) => {
                Some(Section { name: entry.key.clone(), table, span: entry.span.clone() })
            }
            _ => {
                self.wrong_type(&entry, &format!("a table: `[{key}]` on a line of its own"));
                None
            }
        }
    }

    /// A text that may be missing.
    pub(super) fn text<'s>(
        &mut self,
        section: &Section<'s>,
        key: &str,
        example: &str,
    ) -> Option<(Entry<'s>, &'s str)> {
        let entry = section.get(key)?;
        match entry.value.and_then(DeValue::as_str) {
            Some(text) => Some((entry, text)),
            None => {
                self.wrong_type(&entry, &format!("a text such as {example}"));
                None
            }
        }
    }

    /// A text that must be there.
    pub(super) fn required_text<'s>(
        &mut self,
        section: &Section<'s>,
        key: &str,
        example: &str,
    ) -> Option<(Entry<'s>, &'s str)> {
        if section.get(key).is_none() {
            self.report_missing(&section.missing(key), "missing", &format!("add `{key} = {example}`"));
            return None;
        }
        self.text(section, key, example)
    }

    /// Notes a value of the wrong type.
    pub(super) fn wrong_type(&mut self, entry: &Entry<'_>, expected: &str) {
        let found = match entry.value {
            Some(DeValue::String(_)) => "a text",
            Some(DeValue::Integer(_)) => "an integer",
            Some(DeValue::Float(_)) => "a fraction",
            Some(DeValue::Boolean(_)) => "true or false",
            Some(DeValue::Datetime(_)) => "a date",
            Some(DeValue::Array(_)) => "a list",
            Some(DeValue::Table(_)) => "a table",
            None => "nothing",
        };
        self.report(entry, &format!("wrong type: {found}"), &format!("write {expected}"));
    }
}

fn is_duplicate(error: &toml::de::Error) -> bool {
    error.message().contains("duplicate key")
}

/// The known word that somebody who wrote `word` most likely meant. Capitals are no difference.
pub(crate) fn nearest<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let word = word.to_lowercase();
    known
        .map(|candidate| (strsim::damerau_levenshtein(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(word.len()).div_ceil(3).min(4))
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_near_words_are_suggested() {
        let known = ["address", "admin", "roles"];
        assert_eq!(nearest("adress", known.into_iter()), Some("address"));
        assert_eq!(nearest("role", known.into_iter()), Some("roles"));
        assert_eq!(nearest("ADMIN", known.into_iter()), Some("admin"));
        assert_eq!(nearest("colour", known.into_iter()), None);
    }
}
