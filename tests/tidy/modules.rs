//! Which source files are part of a crate: those that a chain of `mod` lines leads to from a root.

use std::collections::BTreeSet;

use super::Tree;
use super::lexer::{Kind, tokens};

/// Files that cargo itself names: libraries, binaries, tests, benches, examples, fuzz targets.
fn is_root(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    let Some((file, directories)) = parts.split_last() else { return false };
    match directories {
        [.., "src"] => *file == "lib.rs" || *file == "main.rs",
        [.., "tests" | "benches" | "examples" | "fuzz_targets"] | [.., "src", "bin"] => true,
        [.., "tests" | "benches" | "examples" | "bin", _] => *file == "main.rs",
        _ => *file == "build.rs",
    }
}

/// The files that a source names with `mod name;`, each as the paths it may have.
pub(crate) fn named(path: &str, source: &str) -> Vec<Vec<String>> {
    let (directory, file) = path.rsplit_once('/').unwrap_or(("", path));
    let stem = file.trim_end_matches(".rs");
    let own =
        if is_root(path) || stem == "mod" { directory.to_owned() } else { format!("{directory}/{stem}") };
    let tokens = tokens(source);
    let mut named = Vec::new();
    for (at, window) in tokens.windows(3).enumerate() {
        let (Kind::Name(word), Kind::Name(name), Kind::Sign(';')) =
            (&window[0].kind, &window[1].kind, &window[2].kind)
        else {
            continue;
        };
        if word != "mod" {
            continue;
        }
        // `#[path = "x.rs"]`, perhaps with `pub(crate)` in between.
        let before = &tokens[at.saturating_sub(9)..at];
        let attribute = before.windows(5).rev().find_map(|part| {
            match [&part[0].kind, &part[1].kind, &part[2].kind, &part[3].kind, &part[4].kind] {
                [Kind::Sign('['), Kind::Name(path), Kind::Sign('='), Kind::Text(file), Kind::Sign(']')]
                    if path == "path" =>
                {
                    Some(file)
                }
                _ => None,
            }
        });
        let since = before.iter().rposition(|token| token.kind == Kind::Sign(';'));
        let ours = |file: &&String| {
            since.is_none_or(|since| {
                before[since..].iter().any(|token| token.kind == Kind::Text((*file).clone()))
            })
        };
        named.push(match attribute.filter(ours) {
            Some(file) => vec![normal(&format!("{directory}/{file}"))],
            None => vec![normal(&format!("{own}/{name}.rs")), normal(&format!("{own}/{name}/mod.rs"))],
        });
    }
    named
}

/// A path without `.` and `..`.
pub(crate) fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Source files that no `mod` leads to, and `mod` lines that lead nowhere.
pub(crate) fn dead_files(sources: &Tree) -> Vec<String> {
    let mut alive: BTreeSet<String> = BTreeSet::new();
    let mut open: Vec<String> = sources.keys().filter(|path| is_root(path)).cloned().collect();
    let mut problems = Vec::new();
    while let Some(path) = open.pop() {
        if !alive.insert(path.clone()) {
            continue;
        }
        for candidates in named(&path, &sources[&path]) {
            match candidates.iter().find(|candidate| sources.contains_key(*candidate)) {
                Some(found) => open.push(found.clone()),
                None => problems
                    .push(format!("{path}: names a module without a file: {}", candidates.join(" or "))),
            }
        }
    }
    let dead = sources.keys().filter(|path| !alive.contains(*path));
    problems.extend(dead.map(|path| format!("{path}: no `mod` names it")));
    problems
}

#[test]
fn a_file_that_no_mod_names_is_found() {
    let files = [
        (
            "src/lib.rs",
            "//! x\nmod a;\n#[cfg(test)]\nmod tests { fn f() {} }\n// mod gone;\n#[path = \"odd/b.rs\"]\npub(crate) mod c;\npub mod e;",
        ),
        ("src/a.rs", "mod d;"),
        ("src/a/d.rs", ""),
        ("src/odd/b.rs", ""),
        ("src/e/mod.rs", "mod f;"),
        ("src/e/f.rs", ""),
        ("tests/t.rs", "#[path = \"t/help.rs\"]\nmod help;\nmod plain;"),
        ("tests/t/help.rs", ""),
        ("tests/plain.rs", ""),
        ("mesh/src/main.rs", ""),
    ];
    assert_eq!(dead_files(&super::planted(&files)), Vec::<String>::new());
    let with_dead = super::planted(&[&files[..], &[("src/dead.rs", ""), ("src/a/dead/mod.rs", "")]].concat());
    assert_eq!(dead_files(&with_dead).len(), 2);
    let without = super::planted(&files[..2]);
    assert_eq!(dead_files(&without).len(), 3, "d, b and e are missing");
}
