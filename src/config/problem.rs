//! What is wrong with a configuration file: where, which key, and what to do about it.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::lines::Lines;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The key, with the tables it stands in.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
    /// The line as it stands in the file, shortened.
    excerpt: String,
    /// Characters to underline, counted in the excerpt.
    marked: Range<usize>,
}

/// Everything that is wrong with one file, in its order. Never empty when it is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    path: PathBuf,
    list: Vec<Problem>,
}

/// Longest excerpt of a line, characters.
const EXCERPT_CHARS_MAX: usize = 96;

impl Problem {
    /// A problem with the bytes `span` of a text.
    pub(super) fn new(lines: &Lines<'_>, span: &Range<usize>, key: &str, what: &str, remedy: &str) -> Self {
        let text = lines.text();
        let mut start = span.start.min(text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let (line, line_start) = lines.of(start);
        let line_text = text[line_start..].lines().next().unwrap_or_default();
        let before = text[line_start..start].chars().count();
        let mut end = span.end.clamp(start, line_start + line_text.len().max(start - line_start));
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let marked = text[start..end].chars().count().max(1);
        // A quoted key may hold anything; a terminal must not be steered by it.
        let shown = |c: char| if c.is_control() { ' ' } else { c };
        let plain = |text: &str| text.chars().map(shown).collect::<String>();
        Self {
            line,
            column: before + 1,
            key: plain(key),
            what: plain(what),
            remedy: plain(remedy),
            excerpt: line_text.chars().take(EXCERPT_CHARS_MAX).map(shown).collect(),
            marked: before.min(EXCERPT_CHARS_MAX)..(before + marked).min(EXCERPT_CHARS_MAX + 1),
        }
    }
}

impl Problems {
    pub(super) fn new(path: &Path, mut list: Vec<Problem>) -> Self {
        list.sort_by(|a, b| (a.line, a.column, &a.key).cmp(&(b.line, b.column, &b.key)));
        Self { path: path.to_owned(), list }
    }

    /// In the order of the file.
    #[must_use]
    pub fn list(&self) -> &[Problem] {
        &self.list
    }

    /// Nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

/// A file that is not even text.
pub(super) fn not_utf8(path: &Path, bytes: &[u8], at: usize) -> Problems {
    let text = String::from_utf8_lossy(bytes);
    // Everything before `at` is valid: it has the same length in both.
    let what = format!("byte {at} is not UTF-8");
    let problem =
        Problem::new(&Lines::new(&text), &(at..at + 1), "(text)", &what, "save the file as UTF-8 text");
    Problems::new(path, vec![problem])
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            let Problem { line, column, key, what, remedy, excerpt, marked } = problem;
            let number = line.to_string();
            let margin = " ".repeat(number.len());
            let (indent, marks) = (" ".repeat(marked.start), "^".repeat(marked.len().max(1)));
            writeln!(f, "{}:{line}:{column}: {key}: {what}", self.path.display())?;
            writeln!(f, "  {number} | {excerpt}")?;
            writeln!(f, "  {margin} | {indent}{marks}")?;
            write!(f, "  remedy: {remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_counted_in_characters_from_one() {
        let text = "a = 1\né = \"ü\" # x\n";
        let at = text.find('"').unwrap();
        let problem = Problem::new(&Lines::new(text), &(at..at + 4), "é", "w", "r");
        assert_eq!((problem.line, problem.column), (2, 5));
        assert_eq!(problem.marked, 4..7);
        assert_eq!(problem.excerpt, "é = \"ü\" # x");
        let lines = Lines::new("\"\u{1b}[31m\" = 1");
        assert_eq!(Problem::new(&lines, &(0..1), "\u{1b}[31m", "w", "r").key, " [31m");
    }

    #[test]
    fn any_span_is_survived() {
        let lines = Lines::new("é = 1");
        for start in 0..9 {
            for end in 0..9 {
                let problem = Problem::new(&lines, &(start..end), "k", "w", "r");
                assert_eq!(problem.line, 1);
            }
        }
        assert_eq!(Problem::new(&Lines::new(""), &(0..0), "k", "w", "r").column, 1);
        assert_eq!(Problem::new(&Lines::new("a\n"), &(2..2), "k", "w", "r").line, 2);
    }
}
