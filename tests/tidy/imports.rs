//! The import rule of the tree: who may name whom. Paths are followed through `use`, `super`, `crate` and renames.
//!
//! ```text
//! codec          → nothing of ours; no IO, no async, no clock
//! mesh::proto    → codec and the mesh's plain types; no tokio, no clock, no sockets
//! mesh::net      → mesh::proto
//! storage        → nothing of ours
//! consensus      → mesh, storage; the Raft engine only in consensus::engine
//! node, api      → consensus, storage, mesh, config
//! main → cli → node
//! ```

use std::collections::BTreeMap;

use super::Tree;
use super::lexer::{Kind, Token, tokens};

/// What a module, and everything in it, may not name.
struct Rule {
    /// Absolute path of the module.
    zone: &'static str,
    /// Paths, each with everything under it. A `*` at the end stands for any rest of the last name.
    forbidden: &'static [&'static str],
    /// Paths that are allowed although they are under a forbidden one.
    except: &'static [&'static str],
}

const CODEC: &str = "trunkline_codec";
const MESH: &str = "trunkline_mesh";
const ROOT: &str = "trunkline";

const RULES: &[Rule] = &[
    Rule {
        zone: "trunkline_codec",
        forbidden: &[
            "trunkline_mesh",
            "trunkline",
            "tokio",
            "socket2",
            "std::net",
            "std::fs",
            "std::time",
            "std::thread",
            "std::process",
            "std::env",
        ],
        except: &[],
    },
    Rule {
        zone: "trunkline_mesh",
        forbidden: &["trunkline", "openraft", "prometheus", "hyper*"],
        except: &[],
    },
    Rule {
        zone: "trunkline_mesh::proto",
        forbidden: &[
            "trunkline_mesh",
            "tokio*",
            "socket2",
            "std::time::Instant",
            "std::time::SystemTime",
            "std::net::Tcp*",
            "std::net::Udp*",
            "std::fs",
            "std::thread",
            "std::process",
            "std::env",
            // Their order is drawn anew in every process; the same seed must give the same trace.
            "std::collections::HashMap",
            "std::collections::HashSet",
            "std::collections::hash_*",
        ],
        except: &[
            "trunkline_mesh::proto",
            "trunkline_mesh::id",
            "trunkline_mesh::message",
            "trunkline_mesh::settings",
            "trunkline_mesh::stats",
            "trunkline_mesh::topology",
        ],
    },
    Rule { zone: "trunkline_mesh::id", forbidden: PLAIN, except: &[] },
    Rule { zone: "trunkline_mesh::message", forbidden: PLAIN, except: &[] },
    Rule { zone: "trunkline_mesh::settings", forbidden: PLAIN, except: &[] },
    Rule { zone: "trunkline_mesh::stats", forbidden: PLAIN, except: &[] },
    Rule { zone: "trunkline_mesh::topology", forbidden: PLAIN, except: &[] },
    Rule {
        zone: "trunkline::storage",
        forbidden: &["trunkline", "trunkline_mesh", "trunkline_codec"],
        except: &["trunkline::storage"],
    },
    Rule {
        zone: "trunkline::consensus",
        forbidden: &["trunkline", "trunkline_codec"],
        except: &["trunkline::consensus", "trunkline::storage"],
    },
    Rule { zone: "trunkline::node", forbidden: &["trunkline::cli"], except: &[] },
    Rule { zone: "trunkline::api", forbidden: &["trunkline::cli"], except: &[] },
    Rule {
        zone: "trunkline::config",
        forbidden: &["trunkline::cli", "trunkline::node", "trunkline::api"],
        except: &[],
    },
    Rule {
        zone: "main",
        forbidden: &["trunkline", "trunkline_mesh", "trunkline_codec"],
        except: &["trunkline::cli"],
    },
];

/// What plain types may not know.
const PLAIN: &[&str] =
    &["tokio*", "socket2", "trunkline_mesh::net", "trunkline_mesh::proto", "std::time::Instant"];

/// Crates that only one module may name, so that it can be replaced.
const HIDDEN: &[(&str, &str)] =
    &[("bincode", "trunkline_mesh::proto::wire"), ("openraft*", "trunkline::consensus::engine")];

/// The absolute path of the module that a file is, or `None` for files under no rule (tests, benches).
fn module_of(path: &str) -> Option<Vec<String>> {
    let (name, rest) = [("codec/src/", CODEC), ("mesh/src/", MESH), ("src/", ROOT)]
        .iter()
        .find_map(|(prefix, name)| Some((*name, path.strip_prefix(prefix)?)))?;
    let rest = rest.strip_suffix(".rs")?;
    if name == ROOT && rest == "main" {
        return Some(vec!["main".to_owned()]);
    }
    let parts = rest.split('/').filter(|part| !matches!(*part, "lib" | "mod"));
    Some(std::iter::once(name).chain(parts).map(str::to_owned).collect())
}

/// A path that a file names, absolute as far as it can be known.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    path: Vec<String>,
    line: usize,
}

/// All paths of two or more names, and everything that `use` brings in.
fn named_paths(module: &[String], source: &str) -> Vec<Named> {
    let tokens = tokens(source);
    let mut imports: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut found = Vec::new();
    // Inline modules that are open, with the depth of their braces: `super` counts from there.
    let (mut inline, mut depth): (Vec<(String, usize)>, usize) = (Vec::new(), 0);
    let mut at = 0;
    while at < tokens.len() {
        let here = || -> Vec<String> {
            module.iter().cloned().chain(inline.iter().map(|(name, _)| name.clone())).collect()
        };
        match &tokens[at].kind {
            Kind::Sign('{') => depth += 1,
            Kind::Sign('}') => {
                depth = depth.saturating_sub(1);
                inline.retain(|(_, opened)| *opened <= depth);
            }
            Kind::Name(word) if word == "mod" => {
                if let (Some(Kind::Name(name)), Some(Kind::Sign('{'))) =
                    (kind(&tokens, at + 1), kind(&tokens, at + 2))
                {
                    inline.push((name.clone(), depth + 1));
                }
            }
            Kind::Name(word) if word == "use" => {
                let mut leaves = Vec::new();
                at = use_tree(&tokens, at + 1, &[], &mut leaves);
                for (path, rename, line) in leaves {
                    let path = absolute(&here(), &path, &imports);
                    if let Some(name) = rename.or_else(|| path.last().cloned()) {
                        imports.insert(name, path.clone());
                    }
                    found.push(Named { path, line });
                }
                continue;
            }
            Kind::Name(first) => {
                let line = tokens[at].line;
                let mut path = vec![first.clone()];
                while let (Some(Kind::Path), Some(Kind::Name(next))) =
                    (kind(&tokens, at + 1), kind(&tokens, at + 2))
                {
                    path.push(next.clone());
                    at += 2;
                }
                if path.len() > 1 {
                    found.push(Named { path: absolute(&here(), &path, &imports), line });
                }
            }
            Kind::Path | Kind::Text(_) | Kind::Sign(_) => {}
        }
        at += 1;
    }
    found
}

fn kind(tokens: &[Token], at: usize) -> Option<&Kind> {
    tokens.get(at).map(|token| &token.kind)
}

/// Reads one `use` tree. Gives where it ends; leaves are (path, new name, line), a glob's last name is `*`.
fn use_tree(
    tokens: &[Token],
    mut at: usize,
    prefix: &[String],
    leaves: &mut Vec<(Vec<String>, Option<String>, usize)>,
) -> usize {
    let mut path = prefix.to_vec();
    let line = tokens.get(at).map_or(0, |token| token.line);
    while let Some(kind) = kind(tokens, at) {
        match kind {
            Kind::Name(word) if word == "as" => {
                let rename = match self::kind(tokens, at + 1) {
                    Some(Kind::Name(name)) => Some(name.clone()),
                    _ => None,
                };
                leaves.push((path, rename, line));
                return at + 2;
            }
            Kind::Name(word) if word == "self" && !path.is_empty() => {}
            Kind::Name(word) => path.push(word.clone()),
            Kind::Sign('*') => path.push("*".to_owned()),
            Kind::Path => {}
            Kind::Sign('{') => {
                at += 1;
                while at < tokens.len() && self::kind(tokens, at) != Some(&Kind::Sign('}')) {
                    let end = use_tree(tokens, at, &path, leaves);
                    // A comma between branches, or something that is no `use` at all.
                    at =
                        if self::kind(tokens, end) == Some(&Kind::Sign('}')) { end } else { end.max(at) + 1 };
                }
                return at + 1;
            }
            Kind::Sign(_) | Kind::Text(_) => break,
        }
        at += 1;
    }
    leaves.push((path, None, line));
    at
}

fn absolute(module: &[String], path: &[String], imports: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let Some((first, rest)) = path.split_first() else { return Vec::new() };
    let mut base = match first.as_str() {
        "crate" => module[..1].to_vec(),
        "self" => module.to_vec(),
        "super" => module[..module.len().saturating_sub(1)].to_vec(),
        name => imports.get(name).cloned().unwrap_or_else(|| vec![name.to_owned()]),
    };
    for name in rest {
        if name == "super" {
            base.pop();
        } else {
            base.push(name.clone());
        }
    }
    base
}

/// `path` is under `pattern`, or a glob that reaches into it.
fn under(path: &[String], pattern: &str) -> bool {
    let pattern: Vec<&str> = pattern.split("::").collect();
    for (index, wanted) in pattern.iter().enumerate() {
        match path.get(index) {
            None => return false,
            Some(found) if found == "*" => return index > 0,
            Some(found) => {
                let equal = match wanted.strip_suffix('*') {
                    Some(begin) => found.starts_with(begin),
                    None => found == wanted,
                };
                if !equal {
                    return false;
                }
            }
        }
    }
    true
}

/// What names somebody that it must not know.
pub(crate) fn violations(sources: &Tree) -> Vec<String> {
    let mut problems = Vec::new();
    for (file, source) in sources {
        let Some(module) = module_of(file) else { continue };
        let named = named_paths(&module, source);
        for rule in RULES.iter().filter(|rule| under(&module, rule.zone)) {
            for Named { path, line } in &named {
                let broken = rule.forbidden.iter().any(|pattern| under(path, pattern));
                let excused = rule.except.iter().any(|pattern| {
                    under(path, pattern)
                        && path
                            .last()
                            .is_none_or(|last| last != "*" || path.len() > pattern.split("::").count())
                });
                if broken && !excused {
                    problems.push(format!(
                        "{file}:{line}: {} must not know `{}`",
                        rule.zone,
                        path.join("::")
                    ));
                }
            }
        }
        for (hidden, home) in HIDDEN.iter().filter(|(_, home)| !under(&module, home)) {
            for Named { path, line } in named.iter().filter(|named| under(&named.path, hidden)) {
                problems.push(format!("{file}:{line}: `{}` is for {home} alone", path.join("::")));
            }
        }
    }
    problems
}

#[cfg(test)]
fn found(file: &str, source: &str) -> usize {
    violations(&super::planted(&[(file, source)])).len()
}

#[test]
fn an_arrow_that_runs_the_other_way_is_found() {
    for (file, source) in [
        ("codec/src/encode.rs", "use trunkline_mesh::id::NodeId;"),
        ("codec/src/encode.rs", "fn f() { std::fs::read(\"x\"); }"),
        ("mesh/src/proto/links.rs", "use tokio::net::TcpStream;"),
        ("mesh/src/proto/links.rs", "use std::time::{Duration, Instant};"),
        ("mesh/src/proto/links.rs", "use std::time;\nfn f() { time::Instant::now(); }"),
        ("mesh/src/proto/links.rs", "use std::time as t;\nfn f() { t::SystemTime::now(); }"),
        ("mesh/src/proto/links.rs", "use std::time::*;"),
        ("mesh/src/proto/links.rs", "fn f(s: std::net::TcpStream) {}"),
        ("mesh/src/proto/links.rs", "use super::super::net::Driver;"),
        ("mesh/src/proto/frame/tests.rs", "use super::super::super::net::Driver;"),
        ("mesh/src/proto/links.rs", "use crate::{id::NodeId, net};"),
        ("mesh/src/proto/links.rs", "use crate::*;"),
        ("mesh/src/proto/links.rs", "mod tests { use super::super::super::net::x; }"),
        ("mesh/src/proto/links.rs", "use crate::Mesh;"),
        ("mesh/src/proto/links.rs", "use std::collections::HashMap;"),
        ("mesh/src/proto/links.rs", "fn f() { bincode::decode(); }"),
        ("mesh/src/id.rs", "use crate::proto::time::Micros;"),
        ("mesh/src/net/mod.rs", "use trunkline::config::Config;"),
        ("src/storage/log.rs", "use crate::consensus::Entry;"),
        ("src/storage/log.rs", "use trunkline_mesh::id::NodeId;"),
        ("src/consensus/mod.rs", "use crate::node::Node;"),
        ("src/consensus/mod.rs", "use openraft::Raft;"),
        ("src/node.rs", "use crate::cli::Args;"),
        ("src/main.rs", "use trunkline::node::Node;"),
        ("src/main.rs", "use trunkline_mesh::Mesh;"),
    ] {
        assert_eq!(found(file, source), 1, "{file}: {source}");
    }
}

#[test]
fn arrows_that_run_the_right_way_are_not_found() {
    for (file, source) in [
        ("codec/src/encode.rs", "use bytes::Bytes;\nuse crate::error::EncodeError;\n//! tokio::x"),
        (
            "mesh/src/proto/links.rs",
            "use std::net::SocketAddr;\nuse std::time::Duration;\nuse trunkline_codec::Payload;",
        ),
        (
            "mesh/src/proto/links.rs",
            "use super::wire::{Ack, self as w};\nuse crate::id::{Lane, NodeId};\nuse crate::settings::Settings;",
        ),
        ("mesh/src/proto/links.rs", "use super::*;\nmod tests { use super::*; use super::super::run; }"),
        ("mesh/src/proto/node.rs", "fn f() -> super::frame::X { trunkline_codec::Frame::parse() }"),
        ("mesh/src/proto/wire.rs", "fn f() { bincode::serde::encode(); }"),
        (
            "mesh/src/net/mod.rs",
            "use tokio::net::TcpStream;\nuse crate::proto::node::Node;\nuse std::time::Instant;",
        ),
        ("mesh/src/sim.rs", "use crate::proto::node::Node;"),
        (
            "src/consensus/engine/mod.rs",
            "use openraft::Raft;\nuse crate::storage::Log;\nuse trunkline_mesh::Mesh;",
        ),
        ("src/cli/mod.rs", "use crate::node::Node;"),
        ("src/main.rs", "fn main() { trunkline::cli::run() }"),
        ("tests/journey.rs", "use tokio::net::TcpStream;"),
    ] {
        assert_eq!(
            found(file, source),
            0,
            "{file}: {source}: {:?}",
            violations(&super::planted(&[(file, source)]))
        );
    }
}

#[test]
fn use_trees_are_read_whole() {
    let source = "pub use a::{b, c::{d as e, f::*}, self};\nuse g;\nuse super::h;";
    let module = ["m".to_owned(), "n".to_owned()];
    let paths: Vec<String> =
        named_paths(&module, source).into_iter().map(|named| named.path.join("::")).collect();
    assert_eq!(paths, ["a::b", "a::c::d", "a::c::f::*", "a", "g", "m::h"]);
}
