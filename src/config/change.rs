//! What another version of the file says differently, and what of that a running node cannot follow.

use trunkline_mesh::NodeId;

use super::{Config, consensus, settings};

/// How one file differs from another, as seen by one node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Difference {
    /// A line per difference, for people.
    pub lines: Vec<String>,
    /// Those of them that ask for a restart, by key.
    pub refused: Vec<String>,
}

impl Config {
    /// What `next` says differently, for a process that runs `node`.
    #[must_use]
    pub fn difference(&self, next: &Self, node: &NodeId) -> Difference {
        let mut found = Difference::default();
        let (mine, theirs) = (&self.topology, &next.topology);
        if mine.cluster() != theirs.cluster() {
            found.refuse("cluster.id", mine.cluster(), theirs.cluster());
        }
        found.lines.extend(mine.changes_to(theirs).iter().map(ToString::to_string));
        match (mine.node(node), theirs.node(node)) {
            (Some(before), Some(after)) => {
                let shown = |address: Option<std::net::SocketAddr>| {
                    address.map_or("none".to_owned(), |address| address.to_string())
                };
                let directory = |data: Option<std::path::PathBuf>| {
                    data.map_or("none".to_owned(), |data| data.display().to_string())
                };
                let keys = [
                    ("dc", before.datacenter.to_string(), after.datacenter.to_string()),
                    ("roles", before.roles.to_string(), after.roles.to_string()),
                    ("address", shown(before.address), shown(after.address)),
                    ("listen", shown(self.listen(node)), shown(next.listen(node))),
                    ("admin", shown(self.admin(node)), shown(next.admin(node))),
                    ("api", shown(self.api(node)), shown(next.api(node))),
                    ("data", directory(self.data(node)), directory(next.data(node))),
                ];
                for (key, before, after) in keys.iter().filter(|(_, before, after)| before != after) {
                    found.refuse(&format!("{key} of node {node}"), before, after);
                }
            }
            _ => found.refused.push(format!("node {node} runs in this process and is not in the file")),
        }
        for other in mine.nodes().map(|spec| &spec.id).filter(|id| *id != node && theirs.node(id).is_some()) {
            let shown = |address: Option<std::net::SocketAddr>| {
                address.map_or("none".to_owned(), |address| address.to_string())
            };
            let data = |config: &Self| {
                config.data(other).map_or("none".to_owned(), |data| data.display().to_string())
            };
            let keys = [
                ("listen", shown(self.listen(other)), shown(next.listen(other))),
                ("admin", shown(self.admin(other)), shown(next.admin(other))),
                ("api", shown(self.api(other)), shown(next.api(other))),
                ("data", data(self), data(next)),
            ];
            for (key, before, after) in keys.iter().filter(|(_, before, after)| before != after) {
                found.lines.push(format!("{key} of node {other} {before} -> {after}"));
            }
        }
        found.lines.extend(settings::differences(&self.settings, &next.settings));
        for (key, before, after) in self.security.differences(&next.security) {
            found.refuse(&format!("security.{key}"), before, after);
        }
        for (key, before, after) in consensus::differences(self.timing, next.timing) {
            found.refuse(&format!("consensus.{key}"), before, after);
        }
        if self.log_level != next.log_level {
            let shown = |level: &Option<String>| level.clone().unwrap_or_else(|| "default".to_owned());
            found.lines.push(format!("log.level {} -> {}", shown(&self.log_level), shown(&next.log_level)));
        }
        found
    }
}

impl Difference {
    fn refuse(&mut self, key: &str, before: impl std::fmt::Display, after: impl std::fmt::Display) {
        self.refused.push(format!("{key} ({before} -> {after})"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const BASE: &str = "[cluster]\nid = \"x\"\n[[node]]\nid = \"m\"\ndc = \"d\"\nroles = [\"member\"]\n\
                        address = \"127.0.0.1:1\"\nadmin = \"127.0.0.1:2\"\n\
                        [[node]]\nid = \"o\"\ndc = \"d\"\nroles = [\"origin\"]\n";

    fn difference(changes: &[(&str, &str)], more: &str) -> Difference {
        let parse = |text: &str| Config::parse(Path::new("t.toml"), text.as_bytes()).unwrap();
        let next = changes.iter().fold(BASE.to_owned(), |text, (from, to)| text.replace(from, to)) + more;
        parse(BASE).difference(&parse(&next), &NodeId::new("m").unwrap())
    }

    #[test]
    fn what_another_node_announces_otherwise_is_a_line_and_refused_by_nobody() {
        let more = "admin = \"127.0.0.1:3\"\n";
        let found = difference(&[], more);
        assert_eq!(found.lines, ["admin of node o none -> 127.0.0.1:3"]);
        assert_eq!(found.refused, [""; 0]);
    }

    #[test]
    fn every_difference_is_a_line() {
        assert_eq!(difference(&[], ""), Difference::default());
        let more = "[limits]\nmessage_bytes_max = \"1 MiB\"\ndials_per_second = 7\n[timers]\nack_delay = \"2 ms\"\n\
                    [codec]\nsecond_stage = \"none\"\n[log]\nlevel = \"warn\"\n\
                    [[node]]\nid = \"n\"\ndc = \"e\"\nroles = [\"proxy\"]\naddress = \"127.0.0.1:9\"\n";
        let found = difference(
            &[("roles = [\"origin\"]", "roles = [\"origin\", \"member\"]\naddress = \"127.0.0.1:5\"")],
            more,
        );
        assert_eq!(
            found.lines,
            [
                "node n added: proxy of datacenter e, 127.0.0.1:9",
                "node o changed: roles origin -> origin+member, address no address -> 127.0.0.1:5",
                "limits.message_bytes_max 4 MiB -> 1 MiB",
                "limits.dials_per_second 200 -> 7",
                "timers.ack_delay 1 ms -> 2 ms",
                "codec.second_stage lz4 -> none",
                "log.level default -> warn",
            ]
        );
        assert_eq!(found.refused, Vec::<String>::new());
    }

    #[test]
    fn what_asks_for_a_restart_is_named() {
        for (from, to, named) in [
            ("id = \"x\"", "id = \"y\"", "cluster.id (x -> y)"),
            ("127.0.0.1:1", "127.0.0.1:8", "address of node m (127.0.0.1:1 -> 127.0.0.1:8)"),
            ("127.0.0.1:2", "127.0.0.1:8", "admin of node m (127.0.0.1:2 -> 127.0.0.1:8)"),
            ("roles = [\"member\"]", "roles = [\"proxy\"]", "roles of node m (member -> proxy)"),
            ("admin", "listen = \"127.0.0.1:7\"\nadmin", "listen of node m (none -> 127.0.0.1:7)"),
            ("id = \"m\"", "id = \"k\"", "node m runs in this process and is not in the file"),
        ] {
            assert_eq!(difference(&[(from, to)], "").refused, [named]);
        }
        let security = "[security]\ninsecure = true\ncertificate = \"c\"\nkey = \"k\"\nca = \"a\"\ncrl = \"l\"\n\
                        check_interval = \"1 s\"\nadmin_tls = true\n";
        let named = [
            "security.insecure (false -> true)",
            "security.certificate (none -> c)",
            "security.key (none -> k)",
            "security.ca (none -> a)",
            "security.crl (none -> l)",
            "security.check_interval (10 s -> 1 s)",
            "security.admin_tls (false -> true)",
        ];
        assert_eq!(difference(&[], security).refused, named);
        let replica = |data: &str, api: &str| {
            let text = BASE.replace("[\"member\"]", "[\"origin\", \"member\"]");
            let text = text.replace("admin", &format!("data = \"{data}\"\napi = \"{api}\"\nadmin"));
            Config::parse(Path::new("t.toml"), text.as_bytes()).unwrap()
        };
        let found =
            replica("a", "127.0.0.1:7").difference(&replica("b", "127.0.0.1:9"), &NodeId::new("m").unwrap());
        assert_eq!(found.refused, ["api of node m (127.0.0.1:7 -> 127.0.0.1:9)", "data of node m (a -> b)"]);
        let consensus = "[consensus]\nelection = \"3 s\"\nsnapshot_entries = 7\n";
        let named = ["consensus.election (2 s -> 3 s)", "consensus.snapshot_entries (100000 -> 7)"];
        assert_eq!(difference(&[], consensus).refused, named);
    }
}
