//! Keeps the tree tidy: the import rule, dead files, file heads, file sizes, links in documents, tests that they name.
//! Every check is a function of text, and is shown to fail on a planted violation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/imports.rs"]
mod imports;
#[path = "tidy/lexer.rs"]
mod lexer;
#[path = "tidy/modules.rs"]
mod modules;
#[path = "tidy/names.rs"]
mod names;

/// Lines above which a file hides a second noun.
const LINES_MAX: usize = 700;

/// Files that are over the limit and known to be. A file that is no longer over must leave the list.
const OVER_LIMIT: [&str; 0] = [];

/// A repository as text: path from its root, with `/`, to content.
type Tree = BTreeMap<String, String>;

/// Everything with one of these endings, without build output and hidden directories.
fn tree(endings: &[&str]) -> Tree {
    fn walk(root: &Path, directory: &Path, endings: &[&str], tree: &mut Tree) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with('.') || name == "target" {
                continue;
            }
            if path.is_dir() {
                walk(root, &path, endings, tree);
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let relative = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
                tree.insert(relative, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut tree = Tree::new();
    walk(&root, &root, endings, &mut tree);
    tree
}

fn sources() -> Tree {
    let sources = tree(&[".rs"]);
    assert!(sources.contains_key("mesh/src/lib.rs"), "the walk finds the sources");
    sources
}

/// A small tree for a test of a check.
fn planted(files: &[(&str, &str)]) -> Tree {
    files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn imports_run_one_way() {
    assert_none(&imports::violations(&sources()));
}

#[test]
fn every_source_file_is_named_by_a_mod() {
    assert_none(&modules::dead_files(&sources()));
}

#[test]
fn every_source_file_begins_with_what_it_is() {
    assert_none(&headless(&sources()));
}

#[test]
fn no_source_file_is_a_giant() {
    assert_none(&giants(&sources(), &OVER_LIMIT));
}

#[test]
fn every_link_in_a_document_resolves() {
    let exists = |path: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists();
    assert_none(&documents::broken_links(&tree(&[".md"]), exists));
}

#[test]
fn every_test_that_a_document_names_exists() {
    let documents = tree(&[".md"]);
    for table in ["ARCHITECTURE.md", "codec/FORMAT.md", "mesh/PROTOCOL.md"] {
        assert!(documents[table].contains("| test "), "{table} names the tests that hold it");
    }
    assert_none(&names::unknown_names(&documents, &sources()));
}

/// Files that do not begin with `//!` and a text behind it.
fn headless(sources: &Tree) -> Vec<String> {
    let has_head = |text: &str| {
        text.lines()
            .next()
            .and_then(|line| line.strip_prefix("//!"))
            .is_some_and(|head| !head.trim().is_empty())
    };
    let without = sources.iter().filter(|(_, text)| !has_head(text));
    without.map(|(path, _)| format!("{path}: begin with `//!` and say what the file is")).collect()
}

/// Files over the limit, and exceptions that are none.
fn giants(sources: &Tree, known: &[&str]) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, text) in sources {
        let lines = text.lines().count();
        let excused = known.contains(&path.as_str());
        if lines > LINES_MAX && !excused {
            problems.push(format!("{path}: {lines} lines, at most {LINES_MAX}: look for a hidden noun"));
        }
        if lines <= LINES_MAX && excused {
            problems.push(format!("{path}: {lines} lines, take it off the list of exceptions"));
        }
    }
    let gone = known.iter().filter(|path| !sources.contains_key(**path));
    problems.extend(gone.map(|path| format!("{path}: is gone, take it off the list of exceptions")));
    problems
}

#[test]
fn a_file_without_a_head_is_found() {
    let tree =
        planted(&[("a.rs", "//! What.\n"), ("b.rs", "use x;\n//! Late.\n"), ("c.rs", "//!\n"), ("d.rs", "")]);
    let found = headless(&tree);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].starts_with("b.rs"));
}

#[test]
fn a_giant_is_found_and_a_stale_exception_too() {
    let tree = planted(&[("big.rs", &"x\n".repeat(701)), ("fits.rs", &"x\n".repeat(700)), ("was.rs", "x\n")]);
    assert_eq!(giants(&tree, &[]).len(), 1);
    assert_eq!(giants(&tree, &["big.rs"]), Vec::<String>::new());
    assert_eq!(giants(&tree, &["big.rs", "was.rs", "gone.rs"]).len(), 2);
}
