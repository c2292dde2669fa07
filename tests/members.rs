//! Replicas that come and go while the cluster runs: one whose node no file of the others names, whom the mesh knows as long as it is
//! a member; and a leader that is told to stop.

mod support;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::addresses::own;
use support::http::exchange;
use support::replica::Node;
use support::{exit_code, poll, signal};

const SOON: Duration = Duration::from_secs(60);

/// The nodes of a file, one in each datacenter.
struct Cluster<'a> {
    directory: &'a Path,
    mesh: Vec<SocketAddr>,
    admin: Vec<SocketAddr>,
    api: Vec<SocketAddr>,
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

impl Cluster<'_> {
    fn write_file(&self, nodes: usize) -> String {
        let mut text = "[cluster]\nid = \"members\"\n".to_owned();
        for (at, name) in NAMES.iter().enumerate().take(nodes) {
            let _ = write!(
                text,
                "[[node]]\nid = \"{name}-1\"\ndc = \"{name}\"\nroles = [\"origin\", \"member\"]\naddress = \"{}\"\n\
                 admin = \"{}\"\napi = \"{}\"\ndata = \"{{node}}\"\n",
                self.mesh[at], self.admin[at], self.api[at]
            );
        }
        let path = self.directory.join(format!("{nodes}.toml"));
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn start(&self, file: &str, at: usize) -> Node {
        Node::start(&["--config", file, "--node", &format!("{}-1", NAMES[at])], self.api[at])
    }

    fn ask(&self, address: SocketAddr, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let answer = exchange(address, request.as_bytes())?;
        Some((answer.code, serde_json::from_str(&answer.body).unwrap_or_default()))
    }

    /// Whether the mesh of a node has the newcomer among its peers.
    fn knows_the_newcomer(&self, at: usize) -> bool {
        self.knows(at, "d")
    }

    /// Whether the mesh of a node has nodes in a datacenter.
    fn knows(&self, at: usize, datacenter: &str) -> bool {
        let status = self.ask(self.admin[at], "GET", "/v1/status", "").map(|(_, status)| status);
        let named = format!("\"name\":\"{datacenter}\"");
        status.is_some_and(|status| status["datacenters"].to_string().contains(&named))
    }

    /// Which of the first three leads.
    fn leader(&self) -> usize {
        poll("a leader", SOON, || {
            let leads = |at: &usize| {
                let status = self.ask(self.api[*at], "GET", "/v1/status", "").map(|(_, status)| status);
                status.is_some_and(|status| status["role"] == "leader")
            };
            (0..3).find(leads)
        })
    }

    /// Asks the leader for a change of members until it is made.
    fn change(&self, path: &str) -> Value {
        poll(path, SOON, || {
            let answer = self.ask(self.admin[self.leader()], "POST", path, "");
            answer.filter(|(code, _)| *code == 200).map(|(_, body)| body)
        })
    }

    fn put(&self, at: usize, value: &str) {
        poll("a put", SOON, || {
            let answer = self.ask(self.api[at], "PUT", "/v1/kv/key", value)?;
            (answer.0 == 200).then_some(())
        });
    }
}

#[test]
fn a_node_that_no_file_names_joins_votes_and_leaves_and_the_mesh_of_every_replica_follows() {
    let directory = tempfile::tempdir().unwrap();
    let [mesh, admin, api] = [(); 3].map(|()| own(4));
    let cluster = Cluster { directory: directory.path(), mesh, admin, api };
    let (file, its_own) = (cluster.write_file(3), cluster.write_file(4));
    let mut nodes: Vec<Option<Node>> = (0..3).map(|at| Some(cluster.start(&file, at))).collect();
    cluster.put(cluster.leader(), "one");
    let newcomer = cluster.start(&its_own, 3);
    assert!((0..3).all(|at| !cluster.knows_the_newcomer(at)), "nobody told them");

    let wrong =
        cluster.ask(cluster.admin[cluster.leader()], "POST", "/v1/members/add?node=d-1&datacenter=d", "");
    assert_eq!(wrong.unwrap().0, 400);
    let added = cluster.change(&format!("/v1/members/add?node=d-1&datacenter=d&address={}", cluster.mesh[3]));
    let replica = added["replica"].as_str().unwrap().to_owned();
    cluster.change(&format!("/v1/members/promote?replica={replica}"));
    for at in 0..3 {
        poll("the newcomer is known", SOON, || cluster.knows_the_newcomer(at).then_some(()));
    }

    // Three of four are needed: without one of the others its vote is. And whoever starts again learns of it from its log.
    let leader = cluster.leader();
    let gone = (leader + 1) % 3;
    nodes[gone] = None;
    cluster.put(leader, "two");
    nodes[gone] = Some(cluster.start(&file, gone));
    poll("the newcomer is known again", SOON, || cluster.knows_the_newcomer(gone).then_some(()));
    let read = || cluster.ask(newcomer.api, "GET", "/v1/kv/key", "").map(|(_, read)| read);
    poll("a read at the newcomer", SOON, || read().filter(|read| read["value"]["text"] == "two"));

    cluster.change(&format!("/v1/members/remove?replica={replica}"));
    for at in 0..3 {
        poll("the newcomer is forgotten", SOON, || (!cluster.knows_the_newcomer(at)).then_some(()));
    }
    cluster.put(cluster.leader(), "three");
}

/// What was committed in a cluster is not given up by whoever adds one of its nodes to another one.
#[test]
fn a_node_that_has_founded_a_cluster_of_its_own_is_not_added_to_another_one() {
    let directory = tempfile::tempdir().unwrap();
    let [mesh, admin, api] = [(); 3].map(|()| own(4));
    let cluster = Cluster { directory: directory.path(), mesh, admin, api };
    let (file, all) = (cluster.write_file(3), cluster.write_file(4));
    let _nodes: Vec<Node> = (0..3).map(|at| cluster.start(&file, at)).collect();
    cluster.put(cluster.leader(), "one");
    // In its own file it is the only replica.
    let alone = directory.path().join("alone.toml");
    let text = std::fs::read_to_string(&all).unwrap();
    let (others, its_own) = text.split_once("[[node]]\nid = \"d-1\"").unwrap();
    let kept = |line: &&str| !line.starts_with("data = ") && !line.starts_with("api = ");
    let others = others.split_inclusive('\n').filter(kept).collect::<String>();
    std::fs::write(&alone, format!("{others}[[node]]\nid = \"d-1\"{its_own}")).unwrap();
    let founder = cluster.start(alone.to_str().unwrap(), 3);
    cluster.put(3, "its own");

    let add = format!("/v1/members/add?node=d-1&datacenter=d&address={}", cluster.mesh[3]);
    let is_now = |at: usize| {
        let (_, status) = cluster.ask(cluster.api[at], "GET", "/v1/status", "").unwrap();
        ["voters", "learners", "term", "last_index", "commit_index"].map(|key| status[key].clone())
    };
    let leader = cluster.leader();
    let before = (is_now(leader), is_now(3));
    let refused =
        |answer: &Value| answer["error"].as_str().is_some_and(|why| why.contains("another cluster"));
    let (code, answer) = poll("a refusal", SOON, || {
        // Until the newcomer is linked it is silent, and nothing changes either.
        cluster.ask(cluster.admin[leader], "POST", &add, "").filter(|(code, _)| *code != 504)
    });
    assert!(code == 409 && answer["definite"] == true && refused(&answer), "{code} {answer}");
    let why = answer["error"].as_str().unwrap();
    assert!(
        why.contains("has 1 members, and none of them is here. Nothing was changed, here or there"),
        "{why}"
    );
    assert!(why.contains("empty its data directory"), "{why}");
    assert_eq!((is_now(leader), is_now(3)), before);
    poll("the founder is nobody here", SOON, || (!cluster.knows_the_newcomer(leader)).then_some(()));
    let (_, read) = cluster.ask(cluster.api[3], "GET", "/v1/kv/key", "").unwrap();
    assert_eq!(read["value"]["text"], "its own", "{read}");

    // With its log given up it is a newcomer. Taken out again it may come back with the log of this cluster.
    drop(founder);
    std::fs::remove_dir_all(directory.path().join("d-1")).unwrap();
    let _newcomer = cluster.start(&all, 3);
    let replica = cluster.change(&add)["replica"].as_str().unwrap().to_owned();
    let has_it = || {
        let (code, read) = cluster.ask(cluster.api[3], "GET", "/v1/kv/key?read=stale", "")?;
        (code == 200 && read["value"]["text"] == "one").then_some(())
    };
    poll("the newcomer has the log", SOON, has_it);
    cluster.change(&format!("/v1/members/remove?replica={replica}"));
    assert_eq!(cluster.change(&add)["replica"], replica);
}

#[test]
fn sighup_takes_a_changed_file_on_beside_who_joined_and_refuses_a_wrong_one_whole() {
    let directory = tempfile::tempdir().unwrap();
    let [mesh, admin, api] = [(); 3].map(|()| own(3));
    let cluster = Cluster { directory: directory.path(), mesh, admin, api };
    let (its_own, file) = (cluster.write_file(2), cluster.write_file(1));
    let told = directory.path().join("log");
    let mut node = Node::start_logged(&["--config", &file, "--node", "a-1"], cluster.api[0], &told);
    let _newcomer = cluster.start(&its_own, 1);
    cluster.change(&format!("/v1/members/add?node=b-1&datacenter=b&address={}", cluster.mesh[1]));
    poll("the newcomer is known", SOON, || cluster.knows(0, "b").then_some(()));

    let whole = std::fs::read_to_string(&file).unwrap();
    let read_again = |text: &str, says: &str| {
        std::fs::write(&file, text).unwrap();
        signal(&node.child, "HUP");
        let said = || std::fs::read_to_string(&told).unwrap_or_default();
        poll(says, SOON, || said().contains(says).then_some(()));
    };
    let more = format!(
        "{whole}[[node]]\nid = \"c-1\"\ndc = \"c\"\nroles = [\"member\"]\naddress = \"{}\"\n",
        cluster.mesh[2]
    );
    read_again(&more, "reload: node c-1 added: member of datacenter c");
    poll("the file's new node is known", SOON, || cluster.knows(0, "c").then_some(()));
    assert!(cluster.knows(0, "b"), "who joined stays");

    // Each of them leaves c-1 out, which is not taken on either.
    let slower = format!("{whole}[consensus]\nelection = \"7 s\"\n");
    read_again(&slower, "only a restart changes consensus.election (2 s -> 7 s)");
    let elsewhere = whole.replace("data = \"{node}\"", "data = \"other\"");
    read_again(&elsewhere, "only a restart changes data of node a-1");
    read_again(&format!("{whole}[limits]\nmessage_bytes_max = \"1 MiB\"\n"), "replicas need [limits]");
    read_again("[cluster", "the old configuration stays: ");
    assert!(cluster.knows(0, "b") && cluster.knows(0, "c"));

    read_again(&whole, "reload: node c-1 removed");
    poll("the file's node is forgotten", SOON, || (!cluster.knows(0, "c")).then_some(()));
    assert!(cluster.knows(0, "b"));
    cluster.put(0, "one");
    signal(&node.child, "TERM");
    assert_eq!(exit_code(&mut node.child, SOON), 0);
}

/// What clients of a node are told, one put after the other, until it is over: the answers' codes, and whether each is definite.
fn writes(cluster: &Cluster, at: usize, over: &AtomicBool) -> Vec<(u16, bool)> {
    let mut told = Vec::new();
    while !over.load(Ordering::Acquire) {
        let key = format!("/v1/kv/of-{at}-{}", told.len());
        let (code, body) = cluster.ask(cluster.api[at], "PUT", &key, "x").expect("it answers");
        told.push((code, body["definite"] != false));
    }
    told
}

#[test]
fn a_leader_that_is_told_to_stop_hands_over_first_and_fails_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let [mesh, admin, api] = [(); 3].map(|()| own(3));
    let cluster = Cluster { directory: directory.path(), mesh, admin, api };
    let file = cluster.write_file(3);
    let mut nodes: Vec<Node> = (0..3).map(|at| cluster.start(&file, at)).collect();
    let leader = cluster.leader();
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    for at in 0..3 {
        cluster.put(at, "before");
    }
    let term = cluster.ask(cluster.api[leader], "GET", "/v1/status", "").unwrap().1["term"].as_u64().unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers = others.map(|at| {
            scope.spawn({
                let (cluster, over) = (&cluster, &over);
                move || writes(cluster, at, over)
            })
        });
        cluster.put(others[0], "under way");
        signal(&nodes[leader].child, "TERM");
        let code = exit_code(&mut nodes[leader].child, SOON);
        // Each of them takes more after it.
        for at in others {
            cluster.put(at, "after");
        }
        over.store(true, Ordering::Release);
        assert_eq!(code, 0);
        for told in writers.map(|writer| writer.join().unwrap()) {
            assert!(told.iter().any(|(code, _)| *code == 200));
            // Whoever is told that nothing was done tries again.
            let failed: Vec<_> = told.iter().filter(|(code, definite)| *code != 200 && !definite).collect();
            assert!(failed.is_empty(), "{failed:?} of {}", told.len());
        }
    });
    // Whoever leads now asked for it as it was told to, and not because it heard of nobody any longer.
    let asked: Vec<Value> = others
        .iter()
        .flat_map(|at| {
            let events = support::http::get(cluster.api[*at], "/v1/events").unwrap().body;
            let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            events
                .into_iter()
                .filter(|event| event["kind"] == "asks_for_votes" && event["term"].as_u64() > Some(term))
        })
        .collect();
    assert!(
        !asked.is_empty() && asked.iter().all(|event| event["reason"] == "the leader hands over"),
        "{asked:?}"
    );
}

#[test]
fn a_leader_that_cannot_hand_over_stops_at_the_second_signal() {
    let directory = tempfile::tempdir().unwrap();
    let [mesh, admin, api] = [(); 3].map(|()| own(3));
    let cluster = Cluster { directory: directory.path(), mesh, admin, api };
    let file = cluster.write_file(3);
    let text = std::fs::read_to_string(&file).unwrap() + "[consensus]\nelection = \"40 s\"\n";
    std::fs::write(&file, text).unwrap();
    let told = directory.path().join("log");
    let start = |at: usize| {
        Node::start_logged(
            &["--config", &file, "--node", &format!("{}-1", NAMES[at])],
            cluster.api[at],
            &told,
        )
    };
    let mut nodes: Vec<Node> = (0..3).map(start).collect();
    let leader = cluster.leader();
    cluster.put(leader, "one");
    // They acknowledged something a moment ago, and will not again.
    (0..3).filter(|at| *at != leader).for_each(|at| signal(&nodes[at].child, "STOP"));
    signal(&nodes[leader].child, "TERM");
    let said = || std::fs::read_to_string(&told).unwrap_or_default();
    poll("it is told to stop", SOON, || said().contains("SIGTERM: stopping").then_some(()));
    let ready = || cluster.ask(cluster.api[leader], "GET", "/readyz", "").filter(|(code, _)| *code == 503);
    let (_, not_ready) = poll("not ready", SOON, ready);
    assert_eq!(not_ready["reasons"][0], "the node is draining");
    assert_eq!(nodes[leader].child.try_wait().unwrap(), None, "it waits for another one to lead");
    signal(&nodes[leader].child, "TERM");
    assert_eq!(exit_code(&mut nodes[leader].child, SOON), 1);
}

/// With an election of 40 s it would be waited for longer than this test does that somebody takes over.
#[test]
fn where_all_are_told_to_stop_at_once_nobody_waits_for_another_one_to_lead() {
    let directory = tempfile::tempdir().unwrap();
    let [mesh, admin, api] = [(); 3].map(|()| own(3));
    let cluster = Cluster { directory: directory.path(), mesh, admin, api };
    let file = cluster.write_file(3);
    let text = std::fs::read_to_string(&file).unwrap() + "[consensus]\nelection = \"40 s\"\n";
    std::fs::write(&file, text).unwrap();
    let mut nodes: Vec<Node> = (0..3).map(|at| cluster.start(&file, at)).collect();
    let leader = cluster.leader();
    cluster.put(leader, "one");
    nodes.iter().for_each(|node| signal(&node.child, "TERM"));
    let began = Instant::now();
    for node in &mut nodes {
        assert_eq!(exit_code(&mut node.child, SOON), 0);
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn a_node_without_a_majority_is_not_ready_at_either_api_and_is_again_when_that_is_back() {
    let directory = tempfile::tempdir().unwrap();
    let [mesh, admin, api] = [(); 3].map(|()| own(3));
    let cluster = Cluster { directory: directory.path(), mesh, admin, api };
    let file = cluster.write_file(3);
    let nodes: Vec<Node> = (0..3).map(|at| cluster.start(&file, at)).collect();
    let leader = cluster.leader();
    let asked = |address, expected| {
        poll(&format!("/readyz is {expected}"), SOON, || {
            cluster.ask(address, "GET", "/readyz", "").filter(|(code, _)| *code == expected)
        })
        .1
    };
    let both = [cluster.admin[leader], cluster.api[leader]];
    both.iter().for_each(|address| drop(asked(*address, 200)));
    let others = || (0..3).filter(|at| *at != leader);
    others().for_each(|at| signal(&nodes[at].child, "STOP"));
    let reason = "its leader was answered by no majority for 2s";
    assert_eq!(asked(both[0], 503)["reasons"], serde_json::json!([format!("the replica: {reason}")]));
    assert_eq!(asked(both[1], 503)["reasons"], serde_json::json!([reason]));
    let (_, status) = cluster.ask(both[1], "GET", "/v1/status", "").unwrap();
    assert_eq!((&status["leader"], &status["ready"]), (&Value::Null, &false.into()));
    others().for_each(|at| signal(&nodes[at].child, "CONT"));
    both.iter().for_each(|address| drop(asked(*address, 200)));
}
