//! Names that documents cite in their tables: what enforces a rule, and the test that fails when it is broken.
//!
//! A column with the head `test` may name tests, and helpers of tests; one with the head `enforced in` functions. Files
//! are named by the end of their path, in any column.

use std::collections::BTreeSet;

use super::Tree;
use super::lexer::{Kind, Token, tokens};

/// What a repository declares.
struct Declared {
    functions: BTreeSet<String>,
    /// Functions with an attribute that makes them tests, and all functions of files under `tests`.
    tests: BTreeSet<String>,
}

fn declared(sources: &Tree) -> Declared {
    let (mut functions, mut tests) = (BTreeSet::new(), BTreeSet::new());
    for (path, source) in sources {
        let under_tests = path.split('/').any(|part| part == "tests");
        let tokens = tokens(source);
        let mut marked = false;
        for (at, token) in tokens.iter().enumerate() {
            match (&token.kind, tokens.get(at + 1).map(|next| &next.kind)) {
                (Kind::Sign('#'), Some(Kind::Sign('['))) => marked |= is_test(&tokens[at + 2..]),
                (Kind::Name(word), Some(Kind::Name(name))) if word == "fn" => {
                    functions.insert(name.clone());
                    if std::mem::take(&mut marked) || under_tests {
                        tests.insert(name.clone());
                    }
                }
                _ => {}
            }
        }
    }
    Declared { functions, tests }
}

/// The attribute that begins here is `test`, or a path that ends so, such as `tokio::test`.
fn is_test(attribute: &[Token]) -> bool {
    let path = attribute.iter().take_while(|token| matches!(token.kind, Kind::Name(_) | Kind::Path));
    path.last().is_some_and(|last| last.kind == Kind::Name("test".to_owned()))
}

fn cells(row: &str) -> Vec<&str> {
    row.trim().trim_matches('|').split('|').map(str::trim).collect()
}

/// The words in backticks that could be names: no spaces, no signs but those of paths.
fn cited(cell: &str) -> impl Iterator<Item = &str> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_./".contains(c);
    cell.split('`').skip(1).step_by(2).filter(move |word| word.chars().all(legal) && !word.ends_with('/'))
}

/// Tests, functions and files that documents name and that are not there.
pub(crate) fn unknown_names(documents: &Tree, sources: &Tree) -> Vec<String> {
    let declared = declared(sources);
    let is_file = |name: &str| sources.keys().any(|path| path == name || path.ends_with(&format!("/{name}")));
    let mut problems = Vec::new();
    for (path, text) in documents {
        let mut head: Vec<&str> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if !line.starts_with('|') {
                head.clear();
                continue;
            }
            if head.is_empty() {
                head = cells(line);
                continue;
            }
            for (column, cell) in head.iter().zip(cells(line)) {
                for name in cited(cell) {
                    let known = match *column {
                        _ if name.ends_with(".rs") => is_file(name),
                        "test" => declared.tests.contains(name),
                        "enforced in" => declared.functions.contains(name),
                        _ => true,
                    };
                    if !known {
                        problems.push(format!("{path}:{}: {column}: there is no `{name}`", index + 1));
                    }
                }
            }
        }
    }
    problems
}

#[test]
fn a_name_that_is_not_there_is_found() {
    let sources = super::planted(&[
        ("mesh/src/proto/a.rs", "fn keep() {}\n#[test]\nfn it_is_kept() {}\n"),
        ("mesh/tests/b.rs", "#[tokio::test(flavor = \"x\")]\nasync fn and_here() {}\nfn helper() {}\n"),
    ]);
    let table = |row: &str| format!("| rule | enforced in | test |\n|---|---|---|\n{row}\n\ntext `gone`\n");
    let problems = |path: &str, row: &str| unknown_names(&super::planted(&[(path, &table(row))]), &sources);
    let good =
        "| `Any Thing` | `proto/a.rs`: `keep` | `it_is_kept`, `tests/b.rs`: `and_here`, `helper`; `x y` |";
    assert_eq!(problems("mesh/P.md", good), Vec::<String>::new());
    let bad = problems("A.md", "| `gone`, `gone.rs` | `to/a.rs`: `gone` | `keep`, `gone_too` |");
    assert_eq!(bad.len(), 5, "{bad:?}");
    assert_eq!(bad[1], "A.md:3: enforced in: there is no `to/a.rs`");
}
