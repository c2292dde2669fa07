//! `trunkline node` as a process: what a client sees over HTTP, and what is left after a kill.

mod support;

use std::time::Duration;

use serde_json::Value;

use support::addresses::own;
use support::http::{Answer, exchange, get};
use support::replica::Node;
use support::{exit_code, poll, run, signal};

const SOON: Duration = Duration::from_secs(60);

impl Node {
    fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        exchange(self.api, request.as_bytes()).unwrap_or_else(|| panic!("no answer to {method} {path}"))
    }

    fn json(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let answer = self.ask(method, path, body);
        let json = serde_json::from_str(&answer.body);
        (answer.code, json.unwrap_or_else(|error| panic!("{method} {path}: {error}: {}", answer.body)))
    }
}

#[test]
fn a_client_puts_reads_and_compares_and_nothing_is_lost_by_a_kill() {
    let data = tempfile::tempdir().unwrap();
    let mut node = Node::dev(data.path());
    let (code, put) = node.json("PUT", "/v1/kv/a%2Fb", "one");
    assert_eq!(code, 200, "{put}");
    let index = put["index"].as_u64().unwrap();
    for read in ["linearizable", "lease", "stale"] {
        let (code, got) = node.json("GET", &format!("/v1/kv/a%2Fb?read={read}"), "");
        assert_eq!(
            (code, &got["value"]["text"], &got["mod_index"]),
            (200, &"one".into(), &index.into()),
            "{got}"
        );
        assert_eq!((&got["key"], &got["served_by"]), (&"a/b".into(), &"dev".into()));
    }
    let (code, conflict) = node.json("PUT", "/v1/kv/a%2Fb?if_index=0", "two");
    assert_eq!((code, &conflict["mod_index"], &conflict["definite"]), (409, &index.into(), &true.into()));
    assert_eq!(node.json("PUT", &format!("/v1/kv/a%2Fb?if_index={index}"), "two").0, 200);

    // A session: the same number is applied once, however often it is proposed.
    let client = node.json("POST", "/v1/session", "").1["client"].as_u64().unwrap();
    // "put", with the condition that the key `once` is not there: AQEAAAQAAAAAAAAAAAAAAG9uY2V4.
    let propose = format!(r#"{{"client": {client}, "seq": 1, "op": "AQEAAAQAAAAAAAAAAAAAAG9uY2V4"}}"#);
    let first = node.json("POST", "/v1/propose", &propose);
    assert_eq!((first.0, &first.1["result"]), (200, &"ImRvbmUi".into()), "it is \"done\" in base64");
    let digest = node.json("GET", "/v1/digest", "").1;

    signal(&node.child, "KILL");
    exit_code(&mut node.child, SOON);
    let node = Node::dev(data.path());
    assert_eq!(node.json("GET", "/v1/kv/a%2Fb", "").1["value"]["text"], "two");
    assert_eq!(node.json("POST", "/v1/propose", &propose).1["result"], "ImRvbmUi");
    assert_eq!(node.json("GET", "/v1/kv/once", "").1["value"]["text"], "x");
    assert_ne!(node.json("GET", "/v1/digest", "").1["index"], digest["index"]);

    let (code, deleted) = node.json("DELETE", "/v1/kv/once", "");
    assert_eq!(code, 200, "{deleted}");
    assert_eq!(node.json("GET", "/v1/kv/once", "").1["code"], "no_such_key");
}

#[test]
fn what_a_client_does_wrong_is_told_and_changes_nothing() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::dev(data.path());
    // A linearizable read waits for the leader's first entry: from here on nothing comes but what is proposed.
    assert_eq!(node.json("GET", "/v1/kv/none", "").0, 404);
    let digest = node.json("GET", "/v1/digest", "").1;
    let long = "v".repeat((3 << 19) + 1);
    let no_session = r#"{"client": 99, "op": ""}"#;
    let cases = [
        ("GET", "/v1/kv/none", "", 404, "no_such_key"),
        ("GET", "/v1/kv/a?read=maybe", "", 400, "bad_request"),
        ("PUT", "/v1/kv/a?if_index=x", "", 400, "bad_request"),
        ("PUT", "/v1/kv/a?ifindex=9", "x", 400, "bad_request"),
        ("GET", "/v1/kv/a?reed=lease", "", 400, "bad_request"),
        ("GET", "/v1/log?form=0", "", 400, "bad_request"),
        ("GET", "/v1/digest?index=9999", "", 503, "behind"),
        ("PUT", "/v1/kv/", "x", 400, "bad_request"),
        ("PUT", "/v1/kv/%ff", "x", 400, "bad_request"),
        ("PUT", "/v1/kv/a", &long, 413, "too_large"),
        ("PUT", "/v1/kv/a", &long[..(1 << 20) + 1], 413, "too_large"),
        ("POST", "/v1/kv/a", "x", 405, "method_not_allowed"),
        ("POST", "/v1/propose", "{}", 400, "bad_request"),
        ("POST", "/v1/propose", r#"{"op": "%"}"#, 400, "bad_request"),
        ("POST", "/v1/propose", no_session, 400, "bad_request"),
        ("GET", "/v2", "", 404, "no_such_path"),
    ];
    for (method, path, body, expected, name) in cases {
        let (code, error) = node.json(method, path, body);
        assert_eq!(
            (code, &error["code"], &error["definite"]),
            (expected, &name.into(), &true.into()),
            "{method} {path}"
        );
        assert_eq!(error["leader"], "dev");
    }
    assert_eq!(node.json("GET", "/v1/digest", "").1, digest, "nothing was proposed");
}

#[test]
fn a_directory_is_for_one_process_and_one_node() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::dev(data.path());
    let path = data.path().to_str().unwrap();
    let (code, _, told) = run(&["node", "--dev", "--data", path, "--api", &own(1)[0].to_string()]);
    assert_eq!(code, 69, "{told}");
    assert!(told.contains("is in use by another process"), "{told}");
    let other = tempfile::tempdir().unwrap();
    let (code, _, told) =
        run(&["node", "--dev", "--data", other.path().to_str().unwrap(), "--api", &node.api.to_string()]);
    assert_eq!(code, 69, "{told}");
    let (code, _, told) = run(&["node", "--dev", "--api", "192.0.2.1:80"]);
    assert_eq!(code, 2, "{told}");
    drop(node);

    let file = data.path().join("cluster.toml");
    let text = format!(
        "[cluster]\nid = \"other\"\n[[node]]\nid = \"dev\"\ndc = \"dc\"\nroles = [\"origin\", \"member\"]\naddress = \"{}\"\ndata = \".\"\n",
        own(1)[0]
    );
    std::fs::write(&file, text).unwrap();
    let (code, _, told) = run(&["node", "--config", file.to_str().unwrap()]);
    assert_eq!(code, 78, "{told}");
    assert!(told.contains("of node dev of cluster dev"), "{told}");
}

#[test]
fn a_log_without_the_number_of_its_directory_is_nobodys() {
    let data = tempfile::tempdir().unwrap();
    let mut node = Node::dev(data.path());
    assert_eq!(node.json("PUT", "/v1/kv/a", "x").0, 200);
    signal(&node.child, "KILL");
    exit_code(&mut node.child, SOON);
    std::fs::remove_file(data.path().join("replica")).unwrap();
    let (code, _, told) =
        run(&["node", "--dev", "--data", data.path().to_str().unwrap(), "--api", "127.0.0.1:0"]);
    assert_eq!(code, 65, "{told}");
    assert!(told.contains("it is gone, and the log is there"), "{told}");
}

#[test]
fn the_log_can_be_followed_from_any_index() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::dev(data.path());
    for number in 0..5 {
        assert_eq!(node.json("PUT", &format!("/v1/kv/{number}"), "x").0, 200);
    }
    let lines = |from: u64, count: usize| -> Vec<Value> {
        use std::io::{BufRead, Write};
        let mut stream = support::http::connect(node.api).unwrap();
        write!(stream, "GET /v1/log?from={from} HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let lines = std::io::BufReader::new(stream).lines().map(Result::unwrap);
        // Chunks have their lengths between them.
        lines
            .filter(|line| line.starts_with("{\"index\""))
            .take(count)
            .map(|line| serde_json::from_str(&line).unwrap())
            .collect()
    };
    let all = lines(0, 7);
    let indexes: Vec<u64> = all.iter().map(|line| line["index"].as_u64().unwrap()).collect();
    assert_eq!(indexes, [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(lines(4, 3), all[4..]);
}

#[test]
fn what_became_of_each_operation_is_told_with_it_also_after_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let mut node = Node::dev(data.path());
    let put = |node: &Node, condition: &str| node.json("PUT", &format!("/v1/kv/key{condition}"), "x");
    let (_, first) = put(&node, "?if_index=0");
    assert_eq!(put(&node, "?if_index=0").0, 409);
    assert_eq!(put(&node, "").0, 200);
    let client = node.json("POST", "/v1/session", "").1["client"].as_u64().unwrap();
    let propose = |client: u64, op: &str| {
        let body = format!("{{\"client\":{client},\"seq\":1,\"op\":\"{op}\"}}");
        node.json("POST", "/v1/propose", &body).0
    };
    // Of an operation that is none, twice, and in a session that is none.
    assert_eq!((propose(client, "eA=="), propose(client, "eA=="), propose(99, "eA==")), (200, 200, 410));
    let followed = |node: &Node| -> Vec<(u64, Value)> {
        let last = node.json("GET", "/v1/status", "").1["last_index"].as_u64().unwrap();
        let until = last.to_string();
        let api = node.api.to_string();
        let (code, lines, stderr) =
            support::run(&["tail", "--api", &api, "--from", "0", "--until", &until, "--json"]);
        assert_eq!(code, 0, "{stderr}");
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let operations = lines.filter(|line| line["kind"] == "operation");
        operations
            .map(|line| (line["index"].as_u64().unwrap(), line["operation"]["outcome"].clone()))
            .collect()
    };
    let told = followed(&node);
    let conflict = serde_json::json!({ "conflict": { "mod_index": first["index"] } });
    let invalid = serde_json::json!({ "invalid": { "why": "an operation has at least 16 B" } });
    let became: Vec<&Value> = told.iter().map(|(_, outcome)| outcome).collect();
    assert_eq!(became[..3], [&"done".into(), &conflict, &"done".into()]);
    assert_eq!(became[3..], [&invalid, &"repeated".into(), &"session_expired".into()]);
    drop(node);
    node = Node::dev(data.path());
    assert_eq!(followed(&node), told);
}

#[test]
fn votes_and_elections_are_told_with_their_reasons_also_after_a_kill() {
    let data = tempfile::tempdir().unwrap();
    let mut node = Node::dev(data.path());
    let events = |node: &Node, from: u64| -> Vec<Value> {
        let answer = node.ask("GET", &format!("/v1/events?from={from}"), "");
        assert_eq!(answer.code, 200);
        answer.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let kinds = |events: &[Value]| -> Vec<String> {
        events.iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect()
    };
    // By then the first entry, which says who is in the cluster, is applied.
    assert_eq!(node.json("PUT", "/v1/kv/a", "x").0, 200);
    let first = events(&node, 0);
    for expected in ["started", "vote_saved", "leader", "members"] {
        assert!(kinds(&first).iter().any(|kind| kind == expected), "{expected} in {first:?}");
    }
    let term = node.json("GET", "/v1/status", "").1["term"].as_u64().unwrap();
    let saved = first.iter().find(|event| event["kind"] == "vote_saved" && event["leads"] == true).unwrap();
    assert_eq!(saved["term"].as_u64(), Some(term));

    // What is on its way to the file is there before the process is gone for good.
    let last = first.last().unwrap()["seq"].as_u64().unwrap();
    let file = data.path().join("events/events.jsonl");
    poll("the file", SOON, || {
        std::fs::read_to_string(&file).ok().filter(|text| text.contains(&format!("\"seq\":{last},")))
    });
    signal(&node.child, "KILL");
    exit_code(&mut node.child, SOON);
    let node = Node::dev(data.path());
    let all = events(&node, 0);
    assert_eq!(&all[..first.len()], &first[..]);
    assert!(kinds(&events(&node, last + 1)).contains(&"started".to_owned()));
    assert_eq!(node.json("POST", "/v1/events", "").0, 405);
}

#[test]
fn members_are_changed_through_the_admin_api_alone() {
    let data = tempfile::tempdir().unwrap();
    let [address, admin, api] = own(3)[..] else { unreachable!("three were asked for") };
    let file = data.path().join("cluster.toml");
    let text = format!(
        "[cluster]\nid = \"one\"\n[[node]]\nid = \"one-1\"\ndc = \"one\"\nroles = [\"origin\", \"member\"]\n\
         address = \"{address}\"\nadmin = \"{admin}\"\napi = \"{api}\"\ndata = \"{{node}}\"\n"
    );
    std::fs::write(&file, text).unwrap();
    let mut node = Node::start(&["--config", file.to_str().unwrap()], api);
    node.ready();
    assert_eq!(node.json("PUT", "/v1/kv/a", "x").0, 200);
    let own = node.json("GET", "/v1/status", "").1["replica"].as_str().unwrap().to_owned();
    let post = |path: &str| {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
        let answer = exchange(admin, request.as_bytes()).unwrap();
        (answer.code, serde_json::from_str::<Value>(&answer.body).unwrap())
    };
    assert_eq!(post("/v1/snapshot").0, 200);
    let other = "00000000000000aa";
    for (path, expected) in [
        ("/v1/members/add".to_owned(), 400),
        ("/v1/members/add?node=nobody".to_owned(), 504),
        ("/v1/members/promote".to_owned(), 400),
        (format!("/v1/members/promote?replica={other}"), 404),
        (format!("/v1/members/remove?replica={other}"), 404),
        (format!("/v1/leader/transfer?replica={other}"), 404),
        // The last voter stays.
        (format!("/v1/members/remove?replica={own}"), 409),
    ] {
        let (code, error) = post(&path);
        assert_eq!((code, &error["definite"]), (expected, &true.into()), "{path}: {error}");
    }
    // What a browser sends for a page of somebody else, whatever name that one made lead here.
    for (line, answered) in [
        ("host: evil.example", false),
        ("host: localhost\r\norigin: https://evil.example", false),
        ("host: localhost\r\norigin: http://localhost", true),
    ] {
        for (at, request) in [(admin, "POST /v1/snapshot"), (api, "PUT /v1/kv/page")] {
            let request =
                format!("{request} HTTP/1.1\r\n{line}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            let answer = exchange(at, request.as_bytes()).unwrap();
            assert_eq!(answer.code, if answered { 200 } else { 403 }, "{request}: {}", answer.body);
        }
    }
    assert_eq!(get(admin, "/v1/snapshot").unwrap().code, 405);
    assert_eq!(node.json("POST", "/v1/snapshot", "").0, 405, "clients cannot");
    poll("a snapshot", SOON, || node.json("GET", "/v1/status", "").1["snapshot_index"].as_u64());

    // A damaged one is no state to go on with, and nothing is made up for it.
    signal(&node.child, "KILL");
    exit_code(&mut node.child, SOON);
    let snapshots = std::fs::read_dir(data.path().join("one-1/snapshots")).unwrap();
    let snapshot = snapshots.map(|entry| entry.unwrap().path()).next().unwrap();
    let mut bytes = std::fs::read(&snapshot).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&snapshot, bytes).unwrap();
    let (code, _, told) = run(&["node", "--config", file.to_str().unwrap()]);
    assert_eq!(code, 65, "{told}");
    assert!(told.contains("snapshot-") && told.contains("checksum"), "{told}");
}

#[test]
fn limits_below_what_replicas_send_are_refused() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("cluster.toml");
    let text = format!(
        "[cluster]\nid = \"one\"\n[limits]\nmessage_bytes_max = \"1 MiB\"\n[[node]]\nid = \"one-1\"\ndc = \"one\"\n\
         roles = [\"origin\", \"member\"]\naddress = \"{}\"\ndata = \"data\"\n",
        own(1)[0]
    );
    std::fs::write(&file, text).unwrap();
    let (code, _, told) = run(&["node", "--config", file.to_str().unwrap()]);
    assert_eq!(code, 78, "{told}");
    assert!(told.contains("message_bytes_max of at least 2 MiB"), "{told}");
}
