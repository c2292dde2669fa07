//! README.md, docs/ and the example configuration held against the code: keys, defaults, metrics, exit codes, excerpts.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::exposition;
use trunkline::config::Config;
use trunkline::config::units::{parse_bytes, parse_duration};
use trunkline::consensus::Timing;
use trunkline::demo::ledger::Tally;
use trunkline::demo::replicas::report::Report as ClusterReport;
use trunkline::demo::report::{Failover, Report, WanBytes};
use trunkline::metrics::Metrics;
use trunkline_mesh::{Settings, join};

fn document(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The cells of all tables under a heading and its subheadings, without the tables' heads.
fn tables(text: &str, heading: &str) -> Vec<Vec<String>> {
    let level = heading.split(' ').next().unwrap_or("").len();
    let at = text.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading `{heading}`"));
    let next = |line: &str| {
        let hashes = line.len() - line.trim_start_matches('#').len();
        (1..=level).contains(&hashes)
    };
    let section: Vec<&str> = text[at + 1..].lines().skip(1).take_while(|line| !next(line)).collect();
    let (mut rows, mut head) = (Vec::new(), 0);
    for line in section {
        if !line.starts_with('|') {
            head = 0;
            continue;
        }
        head += 1;
        if head > 2 {
            rows.push(line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect());
        }
    }
    rows
}

/// The words in backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// A small cluster with one more table.
fn config(table: &str) -> Result<Config, String> {
    let text = format!(
        "[cluster]\nid = \"x\"\n[[node]]\nid = \"m\"\ndc = \"d\"\nroles = [\"member\"]\naddress = \"127.0.0.1:1\"\n{table}"
    );
    Config::parse(Path::new("t.toml"), text.as_bytes()).map_err(|problems| problems.to_string())
}

fn setting(table: &str, key: &str, value: &str) -> Result<Config, String> {
    let bare = value.parse::<u64>().is_ok() || value.parse::<bool>().is_ok();
    let value = if bare { value.to_owned() } else { format!("\"{value}\"") };
    config(&format!("[{table}]\n{key} = {value}\n"))
}

/// One less and one more of an amount, in its smallest unit; no less than nothing.
fn around(amount: &str) -> (Option<String>, String) {
    let (number, unit) = if let Ok(count) = amount.parse() {
        (count, "")
    } else if let Ok(bytes) = parse_bytes(amount) {
        (bytes, " B")
    } else {
        (u64::try_from(parse_duration(amount).unwrap().as_micros()).unwrap(), " us")
    };
    (number.checked_sub(1).map(|less| format!("{less}{unit}")), format!("{}{unit}", number + 1))
}

/// The least that such as "16/15 of `key` and of `key` + `256 B`" allows while all else is at its default, and what is too
/// little, in bytes. A share is cut off to whole bytes, so it may allow one less than it says.
fn border(rows: &[Vec<String>], said: &str) -> (u64, u64) {
    let amount = |word: &str| {
        let of = rows.iter().find(|row| quoted(&row[0])[0] == word);
        parse_bytes(of.map_or(word, |row| quoted(&row[1])[0])).unwrap_or_else(|error| panic!("{error}"))
    };
    let (share, parts) = match said.strip_prefix("16/15 of ") {
        Some(parts) => (true, parts),
        None => (false, said),
    };
    let sums = parts.split(" and of ").map(|part| quoted(part).into_iter().map(amount).sum::<u64>());
    let largest = sums.max().unwrap();
    if share { ((largest * 16).div_ceil(15), largest * 16 / 15 - 1) } else { (largest, largest - 1) }
}

#[test]
fn every_limit_and_timer_has_its_default_and_its_range() {
    let text = document("docs/operator.md");
    let defaults = Settings::default();
    let mut keys = BTreeSet::new();
    for (table, heading) in
        [("limits", "### Limits"), ("timers", "### Timers"), ("consensus", "### Replicas")]
    {
        let rows = tables(&text, heading);
        for row in &rows {
            let (key, default) = (quoted(&row[0])[0], quoted(&row[1])[0]);
            if table != "consensus" {
                keys.insert(key.to_owned());
            }
            let with_default = setting(table, key, default).unwrap_or_else(|error| panic!("{key}: {error}"));
            let same = with_default.settings() == &defaults && with_default.timing() == Timing::default();
            assert!(same, "{key} has another default than {default}");
            let is_amount = |word: &&&str| word.starts_with(|c: char| c.is_ascii_digit());
            let (said_lower, upper) = row[2].split_once(" to ").unwrap_or_else(|| panic!("{key}: a range"));
            let lower = quoted(said_lower);
            let upper = *quoted(upper).iter().find(is_amount).unwrap();
            // At the border it is in range, though perhaps at odds with another setting; beyond it is not.
            let beyond = |value: &str| {
                setting(table, key, value).is_err_and(|error| {
                    error.contains("out of range")
                        || error.contains(" must be at most 256 MiB")
                        || error.contains(" must be at most 1 GiB")
                })
            };
            assert!(!beyond(upper) && beyond(&around(upper).1), "{key}: the upper bound {upper}");
            match lower[..] {
                [lower] if is_amount(&&lower) => {
                    let less = around(lower).0;
                    let held = less.is_none_or(|less| beyond(&less));
                    assert!(!beyond(lower) && held, "{key}: the lower bound {lower}");
                }
                // Bounded by other settings: the border follows from their defaults.
                _ => {
                    let (border, less) = border(&rows, said_lower);
                    let with_border = setting(table, key, &format!("{border} B"));
                    assert!(with_border.is_ok(), "{key}: {}", with_border.unwrap_err());
                    let error = setting(table, key, &format!("{less} B")).unwrap_err();
                    assert!(error.contains("contradicts another limit"), "{key}: {error}");
                }
            }
        }
    }
    for row in tables(&text, "### Codec") {
        let (key, default) = (quoted(&row[0])[0], quoted(&row[1])[0]);
        keys.insert(key.to_owned());
        for value in quoted(&row[2]) {
            let config =
                setting("codec", key, value).unwrap_or_else(|error| panic!("{key} {value}: {error}"));
            assert_eq!(config.settings() == &defaults, value == default, "{key} {value}");
        }
    }
    for row in tables(&text, "### Sockets") {
        let (key, default) = (quoted(&row[0])[0], quoted(&row[1]).first().copied());
        keys.insert(key.to_owned());
        for value in quoted(&row[2]) {
            let config =
                setting("sockets", key, value).unwrap_or_else(|error| panic!("{key} {value}: {error}"));
            assert_eq!(config.settings() == &defaults, Some(value) == default, "{key} {value}");
        }
    }
    assert_eq!(tables(&text, "### Replicas").len(), format!("{:?}", Timing::default()).matches(": ").count());
    // The debug form names all fields.
    let debug = format!("{defaults:?}");
    let fields: BTreeSet<String> =
        debug.split(['{', ',']).filter_map(|part| Some(part.trim().split_once(": ")?.0.to_owned())).collect();
    assert_eq!(keys, fields);
}

#[test]
fn every_metric_is_described_as_it_is() {
    let rows: BTreeSet<Vec<String>> =
        tables(&document("docs/operator.md"), "## Metrics").into_iter().collect();
    let real: BTreeSet<Vec<String>> = Metrics::described()
        .into_iter()
        .map(|metric| {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            vec![
                format!("`{}`", metric.name),
                metric.kind.to_owned(),
                labels.join(", "),
                metric.help.to_owned(),
            ]
        })
        .collect();
    assert_eq!(rows, real);
}

/// What a node says of itself right after its start; nobody else is there.
fn scraped(config: &Config, id: &str) -> BTreeMap<String, exposition::Family> {
    let node = config.topology().nodes().find(|node| node.id.as_str() == id).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let text = runtime.block_on(async {
        let mut mesh = config.mesh(node);
        mesh.listen = node.roles.accepts().then(|| "127.0.0.1:0".parse().unwrap());
        let (client, _inbox) = join(mesh).await.unwrap();
        Metrics::of(client.mesh().clone()).scrape().unwrap()
    });
    exposition::parse(&String::from_utf8(text).unwrap()).unwrap()
}

/// The places in a document that a link can lead to.
fn anchors(document: &str) -> Vec<String> {
    let headings = document.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        words.chars().filter(|c| c.is_alphanumeric() || *c == '-').collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_alert_says_where_to_read_on() {
    let rules = document("deploy/prometheus/trunkline.rules.yml");
    for alert in rules.split("- alert: ").skip(1) {
        let runbook = alert.lines().find_map(|line| line.trim().strip_prefix("runbook: ")).expect(alert);
        let (path, anchor) = runbook.split_once('#').expect(runbook);
        assert!(anchors(&document(path)).iter().any(|there| there == anchor), "{runbook}");
    }
}

/// What of a query's `metric{label="value"}` there is not.
fn no_such_values(query: &str) -> Vec<String> {
    let listed = label_values();
    let mut wrong = Vec::new();
    for (at, selected) in query.match_indices('{').map(|(at, _)| (at, &query[at + 1..])) {
        let metric = query[..at].rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap();
        for one in selected.split('}').next().unwrap().split(',') {
            let (label, value) = one.split_once('=').expect(query);
            let (label, value) = (label.trim_end_matches('!'), value.trim_matches('"'));
            let of = |row: &&Vec<String>| quoted(&row[0]) == [metric] && quoted(&row[1]) == [label];
            if !listed.iter().find(of).is_some_and(|row| quoted(&row[2]).contains(&value)) {
                wrong.push(format!("{metric}{{{one}}}"));
            }
        }
    }
    wrong
}

#[test]
fn alerts_and_queries_ask_for_label_values_that_there_are() {
    let rules = document("deploy/prometheus/trunkline.rules.yml");
    let rows = tables(&document("docs/operator.md"), "## What to watch");
    let alerts = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    let queries = rows.iter().flat_map(|row| quoted(&row[1])).filter(|word| word.contains("trunkline_"));
    for query in alerts.chain(queries) {
        assert_eq!(no_such_values(query), Vec::<String>::new(), "{query}");
    }
    let wrong = r#"trunkline_route_state{state="upp"} + trunkline_no_such{state!="up"}"#;
    assert_eq!(no_such_values(wrong).len(), 2);
}

#[test]
fn alerts_ask_for_metrics_and_labels_that_there_are() {
    let rules = document("deploy/prometheus/trunkline.rules.yml");
    let described = Metrics::described();
    let expressions: Vec<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    assert_eq!(expressions.len(), rules.matches("- alert: ").count());
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    fn after<'a>(expression: &'a str, what: &str) -> Vec<&'a str> {
        expression.split(what).skip(1).filter_map(|rest| rest.split(['}', ')']).next()).collect()
    }
    for expression in expressions {
        let words: Vec<&str> = expression.split(|c| !is_word(c)).filter(|word| !word.is_empty()).collect();
        let asked: Vec<_> = words.iter().filter(|word| word.starts_with("trunkline_")).collect();
        assert!(!asked.is_empty(), "{expression}");
        let mut labels = vec!["instance", "le"];
        for name in asked {
            let of = |metric: &&_| {
                let metric: &trunkline::metrics::Described = metric;
                metric.name == *name
                    || metric.kind == "histogram" && format!("{}_bucket", metric.name) == **name
            };
            let metric = described.iter().find(of).unwrap_or_else(|| panic!("{name}"));
            labels.extend(metric.labels);
        }
        let by = after(expression, " by (").into_iter().flat_map(|list| list.split(", "));
        let selected = after(expression, "{")
            .into_iter()
            .flat_map(|list| list.split(','))
            .filter_map(|one| one.split(['=', '!']).next());
        for label in by.chain(selected) {
            assert!(labels.contains(&label), "{label}: {expression}");
        }
    }
}

#[test]
fn metrics_that_only_some_nodes_have_are_said_to_be_such() {
    let rows = tables(&document("docs/operator.md"), "## What exists when");
    let described: Vec<&str> = Metrics::described().iter().map(|metric| metric.name).collect();
    for row in &rows {
        for name in quoted(&row[0]) {
            assert!(described.contains(&name), "{name}");
        }
    }
    let config = config(
        "[[node]]\nid = \"origin\"\ndc = \"e\"\nroles = [\"origin\"]\n\
         [[node]]\nid = \"proxy\"\ndc = \"d\"\nroles = [\"proxy\"]\naddress = \"127.0.0.1:2\"\n",
    )
    .unwrap();
    let elsewhere =
        ["with certificates", "at a replica", "where members are asked for", "where a file is followed"];
    for (id, own) in [("origin", "at an origin"), ("proxy", "at a proxy"), ("m", "at a member")] {
        let mut found = scraped(&config, id);
        // Those of every process are the library's to describe.
        found.retain(|name, _| !name.starts_with("process_"));
        // Dials may be under way already, and nobody has said what room it has.
        let expected = |name: &&str| match rows.iter().find(|row| quoted(&row[0]).contains(name)) {
            Some(row) if elsewhere.iter().any(|of| row[1].starts_with(of)) => false,
            Some(row) if ["with a link", "for a peer"].iter().any(|of| row[1].starts_with(of)) => {
                found.contains_key(*name)
            }
            Some(row) if row[1].starts_with("with a word") => false,
            Some(row) => row[1].starts_with(own),
            None => true,
        };
        let expected: BTreeSet<&str> = described.iter().copied().filter(expected).collect();
        assert_eq!(found.keys().map(String::as_str).collect::<BTreeSet<_>>(), expected, "{own}");
        for (name, family) in found {
            let zero = family.kind != "counter" || family.samples.values().all(|value| *value < 0.5);
            assert!(zero || name.starts_with("trunkline_dials"), "{name} at {id}");
        }
    }
}

/// What stands against a query, as far as can be told without Prometheus.
fn query_problem(query: &str) -> Option<String> {
    let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let described = Metrics::described();
    for word in words.filter(|word| word.starts_with("trunkline_")) {
        let known = |metric: &trunkline::metrics::Described| {
            let histogram = metric.kind == "histogram";
            metric.name == word || (histogram && word.strip_suffix("_bucket") == Some(metric.name))
        };
        if !described.iter().any(known) {
            return Some(format!("no metric {word}"));
        }
    }
    for (at, _) in query.match_indices("rate(") {
        let selector = query[at..].split(')').next().unwrap_or_default();
        if !selector.ends_with("m]") {
            return Some(format!("{selector}) has no range"));
        }
    }
    // Both sides of a division must have the same labels: else nothing matches.
    let sides: Vec<&str> = query.split(" / ").collect();
    if sides.len() > 1 && !sides.iter().all(|side| side.contains("sum by (")) {
        return Some("a division of different labels".to_owned());
    }
    (query.matches('(').count() != query.matches(')').count()).then(|| "brackets".to_owned())
}

#[test]
fn queries_are_such_that_prometheus_takes_them() {
    let rows = tables(&document("docs/operator.md"), "## What to watch");
    let mut ranges = 0;
    for row in &rows {
        for query in quoted(&row[1]).into_iter().filter(|word| word.contains("trunkline_")) {
            assert_eq!(query_problem(query), None, "{query}");
            ranges += query.matches("rate(").count();
        }
    }
    assert!(ranges > 5, "{ranges}");
    for wrong in [
        "1 - rate(trunkline_busy_total) / 2",
        "rate(trunkline_busy_total[5m]) / rate(trunkline_busy_total[5m])",
        "trunkline_no_such",
        "sum by (reason) (rate(trunkline_fallbacks_total[5m])",
    ] {
        assert!(query_problem(wrong).is_some(), "{wrong}");
    }
}

/// Of a replica that has everything.
fn replica_status() -> trunkline::consensus::Status {
    let id = Some(trunkline::storage::EntryId { term: 1, index: 1 });
    trunkline::consensus::Status {
        replica: trunkline::consensus::ReplicaId(1),
        role: trunkline::consensus::Role::Leader,
        term: 1,
        leader: None,
        not_ready: None,
        voters: vec![],
        learners: vec![],
        last: Some(1),
        committed: id,
        applied: id,
        snapshot: id,
        snapshots_failed: 0,
        purged: id,
        in_doubt: false,
        clocks_sure: true,
        leases: true,
        stopped: None,
        sent: trunkline::consensus::Sent::default(),
    }
}

/// The values of every label that has a fixed list of them, by metric and label.
fn label_values() -> BTreeSet<Vec<String>> {
    // Every role, and a proxy elsewhere to have a route to.
    let all = config(
        "[[node]]\nid = \"all\"\ndc = \"d\"\nroles = [\"origin\", \"member\", \"proxy\"]\naddress = \"127.0.0.1:2\"\n\
         [[node]]\nid = \"p\"\ndc = \"e\"\nroles = [\"proxy\"]\naddress = \"127.0.0.1:3\"\n",
    )
    .unwrap();
    let mut values: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    let replica = Metrics::of_replica(replica_status).scrape().unwrap();
    let replica = exposition::parse(&String::from_utf8(replica).unwrap()).unwrap();
    for (name, family) in scraped(&all, "all").into_iter().chain(replica) {
        for (label, value) in family.samples.into_keys().flat_map(|(_, labels)| labels) {
            values.entry((name.clone(), label)).or_default().insert(value);
        }
    }
    let fixed = ["version", "datacenter", "peer", "proxy", "le"];
    values
        .into_iter()
        .filter(|((_, label), _)| !fixed.contains(&label.as_str()))
        .map(|((metric, label), values)| {
            let values: Vec<String> = values.into_iter().map(|value| format!("`{value}`")).collect();
            vec![format!("`{metric}`"), format!("`{label}`"), values.join(", ")]
        })
        .collect()
}

#[test]
fn every_label_value_is_listed() {
    let rows: BTreeSet<Vec<String>> =
        tables(&document("docs/operator.md"), "## Label values").into_iter().collect();
    let real = label_values();
    let shown = |row: &Vec<String>| format!("| {} |", row.join(" | "));
    let missing: Vec<String> = real.difference(&rows).map(shown).collect();
    let wrong: Vec<String> = rows.difference(&real).map(shown).collect();
    assert!(
        missing.is_empty() && wrong.is_empty(),
        "missing:\n{}\nwrong:\n{}",
        missing.join("\n"),
        wrong.join("\n")
    );
}

#[test]
fn every_key_of_the_demos_cluster_is_explained() {
    let rows = tables(&document("docs/operator.md"), "## The demo's cluster");
    let explained: BTreeSet<&str> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
    let mut json: serde_json::Value = serde_json::from_str(&ClusterReport::default().json()).unwrap();
    // What is wrong is explained with the key that says that something is.
    json.as_object_mut().unwrap().remove("contradiction");
    let keys: BTreeSet<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(explained, keys);
}

#[test]
fn every_key_of_the_demo_is_explained() {
    let document = document("docs/operator.md");
    let rows = tables(&document, "## The demo");
    let explained: BTreeSet<&str> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
    let bytes = WanBytes { direct: 0, diff: 0, wan: 0 };
    let failover = Failover { rtt: Duration::ZERO, clean_max: None, silent_max: None };
    let report = Report::new(Tally::default(), bytes, failover, None, None, Duration::ZERO);
    let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    let keys: BTreeSet<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(explained, keys);
    // The words of the summary are quoted as they are.
    for row in &rows {
        if let Some((label, _)) = row[2].strip_prefix('"').and_then(|cell| cell.split_once('"')) {
            assert!(report.summary().contains(&format!("\n{label} ")), "{label}");
        }
    }
}

#[test]
fn exit_codes_are_those_of_the_help() {
    let help = Command::new(env!("CARGO_BIN_EXE_trunkline")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let from = help.find("Exit codes:\n").unwrap() + "Exit codes:\n".len();
    let said: Vec<(String, String)> = help[from..]
        .lines()
        .take_while(|line| !line.is_empty())
        .map(|line| line.trim().split_once("  ").unwrap())
        .map(|(code, meaning)| (code.to_owned(), meaning.to_owned()))
        .collect();
    let written: Vec<(String, String)> = tables(&document("docs/operator.md"), "## Exit codes")
        .into_iter()
        .map(|row| (row[0].clone(), row[1].clone()))
        .collect();
    assert_eq!(written, said);
}

#[test]
fn the_example_shows_the_defaults_it_promises() {
    let text = document("deploy/config/example.toml");
    let debug = format!("{:?}", Settings::default());
    let is_key =
        |line: &str| line.split_once(" = ").is_some_and(|(key, _)| debug.contains(&format!("{key}: ")));
    let shown = |line: &str| line.strip_prefix("# ").filter(|line| is_key(line)).map(str::to_owned);
    let open: Vec<String> = text.lines().map(|line| shown(line).unwrap_or_else(|| line.to_owned())).collect();
    let opened = open.iter().filter(|line| is_key(line)).count();
    assert_eq!(opened, debug.matches(": ").count(), "every key is shown");
    let config = Config::parse(Path::new("example.toml"), open.join("\n").as_bytes()).unwrap();
    assert_eq!(config.settings(), &Settings::default());
}

#[test]
fn the_example_says_the_ranges_of_counts() {
    let text = document("deploy/config/example.toml");
    let mut counts = 0;
    for row in tables(&document("docs/operator.md"), "### Limits") {
        let (key, range) = (quoted(&row[0])[0], quoted(&row[2]));
        let (Ok(lower), Ok(upper)) = (range[0].parse::<u64>(), range[1].parse::<u64>()) else { continue };
        let above = text[..text.find(&format!("# {key} = ")).unwrap()].trim_end();
        let shown = match upper {
            1_000_000 => "1,000,000",
            100 => "100",
            other => panic!("{key}: say {other} with its commas"),
        };
        assert!(above.ends_with(&format!(" {lower} to {shown}.")), "{key}: …{}", &above[above.len() - 60..]);
        counts += 1;
    }
    assert_eq!(counts, 5);
}

/// Lines of a document's Rust blocks that are not lines of the source, in its order.
fn not_of(document: &str, source: &str) -> Vec<String> {
    let mut lines = source.lines().map(str::trim);
    let blocks = document.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next());
    let excerpt = blocks.flat_map(str::lines).map(str::trim).filter(|line| !line.is_empty());
    excerpt.filter(|line| !lines.any(|of| of == *line)).map(str::to_owned).collect()
}

/// The shell blocks of a document, in its order.
fn shell(document: &str) -> String {
    document.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn the_readme_can_be_followed_from_its_top_to_its_end() {
    let shell = shell(&document("README.md"));
    let mut commands = shell.split(['\n', ';', '&', '|']).map(str::trim);
    let leaves = commands
        .find(|command| ["cd", "pushd", "exit", "exec"].contains(&command.split(' ').next().unwrap()));
    assert_eq!(leaves, None, "what follows is for the root of the repository");
    let at = |part: &str| shell.find(part).unwrap_or_else(|| panic!("no `{part}`"));
    let nodes = at("trunkline member ")..at("kill $(jobs -p)");
    for with_nodes in ["trunkline send ", "/readyz", "/metrics", "/v1/status", "--example leader"] {
        assert!(nodes.contains(&at(with_nodes)), "the nodes run: {with_nodes}");
    }
}

/// `#[test]` and `#[tokio::test]` in a test binary's own files.
fn tests_of(binary: &Path) -> usize {
    let mut files = vec![binary.to_owned()];
    if let Ok(entries) = std::fs::read_dir(binary.with_extension("")) {
        files.extend(entries.map(|entry| entry.unwrap().path()));
    }
    let text = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect::<String>();
    let is_test = |line: &&str| {
        let line = line.trim_start();
        line.starts_with("#[test]") || line.starts_with("#[tokio::test")
    };
    text.lines().filter(is_test).count()
}

#[test]
fn the_readme_counts_the_tests_as_they_are() {
    let readme = document("README.md");
    let shown = readme.split("     Running ").skip(1);
    let mut package = Path::new(env!("CARGO_MANIFEST_DIR")).to_owned();
    let mut counted = 0;
    for shown in shown {
        let (binary, rest) = shown.split_once('\n').unwrap();
        let passed = rest
            .strip_prefix("test result: ok. ")
            .and_then(|rest| rest.split_once(" passed; 0 failed; 0 ign"));
        let (passed, _) = passed.unwrap_or_else(|| panic!("{binary}: {rest}"));
        assert_eq!(passed, tests_of(&package.join(binary)).to_string(), "{binary}");
        counted += 1;
        // What comes behind the ellipsis is of the mesh.
        if shown.contains("\n…\n") {
            package.push("mesh");
        }
    }
    assert_eq!(counted, 5);
}

#[test]
fn the_readme_shows_lines_of_the_example() {
    let (readme, example) = (document("README.md"), document("examples/leader.rs"));
    assert!(readme.contains("```rust\n"));
    assert!(example.lines().count() < 60, "short enough to be read whole");
    assert_eq!(not_of(&readme, &example), Vec::<String>::new());
    assert_eq!(not_of("```rust\n  b\na\n```\n", "a\n b\n"), ["a"], "in order");
}
