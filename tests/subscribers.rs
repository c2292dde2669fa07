//! Those who follow the log: what they get, in which order, and what they are told when they cannot have it.

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;
use trunkline::client::{Address, Snapshot, SnapshotError, SubscribeError, Subscription, What};
use trunkline::config::Protection;
use trunkline::consensus::key_value::{KeyValue, Operation};
use trunkline::consensus::{Replica, ReplicaConfig, Timing};
use trunkline::service::{Limits, Service};
use trunkline_mesh::{ClusterId, Config, Datacenter, NodeId, NodeSpec, Roles, Topology, join};

use support::addresses::own;
use support::http::{exchange, get};
use support::replica::Node;
use support::{exit_code, poll, run, signal, trunkline};

const SOON: Duration = Duration::from_secs(60);

impl Node {
    /// Whether it was acknowledged.
    fn put(&self, key: &str, value: &str) -> bool {
        put(self.api, key, value)
    }

    fn status(&self) -> Value {
        serde_json::from_str(&get(self.api, "/v1/status").unwrap().body).unwrap()
    }
}

fn put(api: SocketAddr, key: &str, value: &str) -> bool {
    let request = format!(
        "PUT /v1/kv/{key} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{value}",
        value.len()
    );
    exchange(api, request.as_bytes()).is_some_and(|answer| answer.code == 200)
}

/// The lines of a stream's body as they come: chunks have their lengths, and empty lines, between them.
fn follow(api: SocketAddr, query: &str, headers: &str) -> impl Iterator<Item = String> + use<> {
    let stream = open(api, query, headers, None);
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    lines.filter(|line| {
        line.starts_with('{') || ["id: ", "data: ", "event: "].iter().any(|it| line.starts_with(it))
    })
}

/// A stream of the log of which nothing is read yet; `room` is for the kernel's buffer at this end, B.
fn open(api: SocketAddr, query: &str, headers: &str, room: Option<usize>) -> TcpStream {
    open_at(api, &format!("/v1/log?{query}"), headers, room)
}

fn open_at(api: SocketAddr, path: &str, headers: &str, room: Option<usize>) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    if let Some(room) = room {
        socket.set_recv_buffer_size(room).unwrap();
    }
    socket.connect(&api.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SOON)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n").unwrap();
    stream
}

/// What a map is made of: values, and which entry put each of them there.
type Map = BTreeMap<String, (bytes::Bytes, u64)>;

async fn map_of(snapshot: &mut Snapshot) -> Result<Map, SnapshotError> {
    let mut map = Map::new();
    while let Some(pair) = snapshot.next().await? {
        map.insert(pair.key, (pair.value, pair.mod_index));
    }
    Ok(map)
}

fn is_mark(line: &str) -> bool {
    line.starts_with("{\"progress\"")
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

fn index(line: &str) -> u64 {
    json(line)["index"].as_u64().unwrap_or_else(|| panic!("{line}"))
}

/// Many at once, of both formats, from anywhere, while entries come: what they get differs in where it begins alone.
#[test]
fn all_who_follow_get_every_entry_once_and_in_order_wherever_they_begin() {
    const LAST: u64 = 120;
    let data = tempfile::tempdir().unwrap();
    let node = Node::dev(data.path());
    let api = node.api;
    let writer = std::thread::spawn(move || {
        (0..LAST).for_each(|number| assert!(put(api, &format!("key-{number}"), &"x".repeat(2_000))));
    });
    let followers: Vec<_> = (0..40)
        .map(|number: u64| {
            std::thread::spawn(move || {
                let from = number * 3;
                let events = number % 4 == 3;
                let accept = if events { "accept: text/event-stream\r\n" } else { "" };
                let mut lines = follow(api, &format!("from={from}"), accept);
                let entries: BTreeMap<u64, String> = (from..LAST)
                    .map(|expected| {
                        if events {
                            assert_eq!(lines.next().unwrap(), format!("id: {expected}"));
                        }
                        let line = lines.next().unwrap();
                        let line = line.strip_prefix("data: ").unwrap_or(&line);
                        assert_eq!(index(line), expected);
                        (expected, line.to_owned())
                    })
                    .collect();
                entries
            })
        })
        .collect();
    writer.join().unwrap();
    let told: Vec<_> = followers.into_iter().map(|follower| follower.join().unwrap()).collect();
    for later in &told[1..] {
        let same = later.iter().all(|(index, line)| told[0][index] == *line);
        assert!(same, "an entry is the same for all");
    }
    poll("nobody follows", SOON, || (node.status()["followers"]["count"] == 0).then_some(()));

    // A browser that resumes says after which event.
    let headers = "accept: text/event-stream\r\nlast-event-id: 17\r\n";
    assert_eq!(follow(api, "from=3", headers).next().unwrap(), "id: 18");
    // A filter, and marks where nothing passes it.
    let mut filtered = follow(api, "from=0&prefix=key-1&progress=1", "");
    let keys = (0..LAST).filter(|number| number.to_string().starts_with('1')).count();
    let mut seen = None;
    for line in filtered.by_ref().filter(|line| !is_mark(line)).take(keys) {
        let index = index(&line);
        assert!(seen < Some(index));
        seen = Some(index);
    }
    assert!(node.put("other", "x"));
    let commit = node.status()["commit_index"].as_u64().unwrap();
    let marks = filtered.map(|line| json(&line)["progress"].as_u64().expect("a mark, and no entry"));
    assert!(marks.take(5).any(|mark| mark == commit), "up to {commit}");
    for bad in
        ["from=x", "progress=0", "progress=3601", "prefix=%zz", &format!("prefix={}", "k".repeat(1_025))]
    {
        let answer = get(api, &format!("/v1/log?{bad}")).unwrap();
        assert_eq!((answer.code, &json(&answer.body)["code"]), (400, &"bad_request".into()), "{bad}");
    }
}

/// A replica in this process, with limits that a test can reach.
struct Served {
    replica: Replica<KeyValue>,
    service: Service,
    mesh: trunkline_mesh::Mesh,
    _data: tempfile::TempDir,
}

impl Served {
    async fn start(limits: Limits, snapshot_entries: u64) -> Self {
        let id = NodeId::new("one").unwrap();
        let spec = NodeSpec {
            id: id.clone(),
            datacenter: Datacenter::new("dc").unwrap(),
            roles: Roles { origin: true, member: true, proxy: false },
            address: Some(own(1)[0]),
        };
        let topology = Arc::new(Topology::new(ClusterId::new("cluster").unwrap(), [spec]).unwrap());
        let (client, inbox) = join(Config::new(topology, id.clone())).await.unwrap();
        let data = tempfile::tempdir().unwrap();
        let timing = Timing { snapshot_entries, ..Timing::default() };
        let config = ReplicaConfig { data: data.path().join("one"), founders: vec![id.clone()], timing };
        let mesh = client.mesh().clone();
        let replica = Replica::start(config, KeyValue::default(), client, inbox, &id).await.unwrap();
        let address = "127.0.0.1:0".parse().unwrap();
        let service =
            Service::bind(address, Protection::Plaintext, mesh.clone(), replica.clone(), id, limits);
        Self { replica, service: service.unwrap(), mesh, _data: data }
    }

    async fn put(&self, bytes: usize) -> u64 {
        self.put_at("k", bytes).await
    }

    async fn put_at(&self, key: &str, bytes: usize) -> u64 {
        let operation = Operation::Put { key: key.to_owned(), value: vec![7; bytes].into(), if_index: None };
        let answer = timeout(SOON, self.replica.propose(None, operation.encode())).await.unwrap().unwrap();
        answer.id.index
    }

    async fn followers(&self) -> Value {
        let api = self.service.address();
        let status = tokio::task::spawn_blocking(move || get(api, "/v1/status")).await.unwrap().unwrap();
        json(&status.body)["followers"].clone()
    }

    async fn stop(self) {
        self.service.close().await;
        self.replica.stop().await;
        self.mesh.close();
    }
}

/// All lines of a stream to its end.
async fn rest(stream: TcpStream) -> Vec<String> {
    let lines = move || {
        let lines = BufReader::new(stream).lines().map_while(Result::ok);
        lines.filter(|line| line.starts_with('{')).collect()
    };
    tokio::task::spawn_blocking(lines).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_takes_nothing_is_told_and_let_go_of_and_disturbs_nobody() {
    const ENTRIES: usize = 12;
    let patience = Duration::from_millis(500);
    let limits = Limits { shared_bytes: 2 << 20, patience, ..Limits::default() };
    let served = Served::start(limits, 100_000).await;
    let api = served.service.address();
    let slow = open(api, "from=0", "", Some(16 << 10));
    let mut quick = Subscription::open([Address::plaintext(api.to_string())], 0);
    for _ in 0..ENTRIES {
        let last = served.put(1_000_000).await;
        while quick.position() <= last {
            let expected = quick.position();
            assert_eq!(timeout(SOON, quick.next()).await.unwrap().unwrap().index, expected);
        }
        let followers = served.followers().await;
        let shared = followers["shared_bytes"].as_u64().unwrap();
        assert!(shared <= 2 << 20, "bounded: {followers}");
    }
    assert_eq!(served.followers().await["let_go"], 0, "nobody has asked for more after long");
    // It was given what its socket takes long ago; from now on its patience passes for certain.
    tokio::time::sleep(patience * 4).await;
    let lines = rest(slow).await;
    let (told, words) = (&lines[..lines.len() - 1], json(lines.last().unwrap()));
    assert!(told.len() < ENTRIES, "{}", told.len());
    assert!(told.iter().enumerate().all(|(expected, line)| index(line) == expected as u64));
    assert_eq!((&words["code"], &words["index"]), (&"slow".into(), &told.len().into()), "{words}");
    assert_eq!(served.followers().await["let_go"], 1);

    // It goes on where it was.
    let mut resumed = Subscription::open([Address::plaintext(api.to_string())], told.len() as u64);
    assert_eq!(timeout(SOON, resumed.next()).await.unwrap().unwrap().index, told.len() as u64);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_is_told_at_the_start_and_in_the_middle() {
    let limits = Limits { shared_bytes: 2 << 20, patience: SOON * 60, ..Limits::default() };
    let served = Served::start(limits, 24).await;
    let api = served.service.address();
    let stalled = open(api, "from=0", "", Some(16 << 10));
    // A snapshot comes by itself after every 24 entries, and half as many are kept.
    let mut last = 0;
    for _ in 0..30 {
        last = served.put(600_000).await;
    }
    let deadline = tokio::time::Instant::now() + SOON;
    while served.replica.first_index() == 0 {
        assert!(tokio::time::Instant::now() < deadline, "nothing was purged");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let first = served.replica.first_index();
    let lines = rest(stalled).await;
    let (told, words) = (&lines[..lines.len() - 1], json(lines.last().unwrap()));
    assert!(told.iter().enumerate().all(|(expected, line)| index(line) == expected as u64));
    assert_eq!(words["code"], "compacted", "{words}");
    assert_eq!((words["index"].as_u64(), words["first"].as_u64()), (Some(told.len() as u64), Some(first)));
    assert!((told.len() as u64) < first);

    let gone = tokio::task::spawn_blocking(move || get(api, "/v1/log?from=0")).await.unwrap().unwrap();
    let body = json(&gone.body);
    assert_eq!((gone.code, &body["code"], body["first"].as_u64()), (410, &"compacted".into(), Some(first)));
    assert_eq!((&words["snapshot"], &body["snapshot"]), (&"/v1/snapshot".into(), &"/v1/snapshot".into()));
    let mut early = Subscription::open([Address::plaintext(api.to_string())], 0);
    let error = timeout(SOON, early.next()).await.unwrap().unwrap_err();
    assert_eq!(error, SubscribeError::Compacted { index: 0, first });
    let mut rest = Subscription::open([Address::plaintext(api.to_string())], first);
    for expected in first..=last {
        assert_eq!(timeout(SOON, rest.next()).await.unwrap().unwrap().index, expected);
    }
    served.stop().await;
}

/// Of the keys that [`big`] puts.
const KEYS: u64 = 24;

/// A state that no socket takes at once.
async fn big(limits: Limits) -> (Served, [Address; 1]) {
    let served = Served::start(limits, 100_000).await;
    for key in 0..KEYS {
        served.put_at(&format!("key-{key:02}"), 1_000_000).await;
    }
    let address = Address::plaintext(served.service.address().to_string());
    (served, [address])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_a_snapshot_slowly_is_told_and_let_go_of() {
    let patience = Duration::from_millis(500);
    let (served, _) = big(Limits { patience, ..Limits::default() }).await;
    let slow = open_at(served.service.address(), "/v1/snapshot", "", Some(16 << 10));
    // It was given what its socket takes long ago; from now on its patience passes for certain.
    tokio::time::sleep(patience * 4).await;
    let lines = rest(slow).await;
    assert!(lines[0].starts_with("{\"snapshot\""), "{}", lines[0]);
    assert!((lines.len() as u64) < KEYS, "{}", lines.len());
    assert_eq!(json(lines.last().unwrap())["code"], "slow");
    assert_eq!(served.followers().await["let_go"], 1);
    assert_eq!(served.followers().await["snapshots"], 0);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_of_one_entry_whatever_changes_and_is_an_error_when_its_node_ends() {
    let (served, addresses) =
        big(Limits { patience: SOON * 60, snapshots_max: 3, ..Limits::default() }).await;
    let get = |prefix: &'static str, at_least| Snapshot::get(&addresses, prefix, at_least, SOON);
    let mut part = get("key-1", KEYS).await.unwrap();
    let mut same = get("key-1", KEYS).await.unwrap();
    let whole = get("", KEYS).await.unwrap();
    assert_eq!(served.followers().await["snapshots"], 3);
    let many = Snapshot::get(&addresses, "", 0, Duration::from_millis(1)).await.unwrap_err();
    assert!(many.to_string().contains("too many take a snapshot"), "{many}");
    drop(whole);
    poll_async(async || served.followers().await["snapshots"] == 2).await;
    let changed = served.put_at("key-10", 3).await;
    let ahead = Snapshot::get(&addresses, "", changed + 100, Duration::from_millis(1)).await.unwrap_err();
    assert!(ahead.to_string().contains("has not applied entry"), "{ahead}");
    let map = timeout(SOON, map_of(&mut part)).await.unwrap().unwrap();
    assert_eq!(map.len(), 10);
    assert!(map.values().all(|(value, index)| value.len() == 1_000_000 && *index < changed));
    let mut later = get("key-10", changed).await.unwrap();
    assert!(later.index() >= changed);
    let map = timeout(SOON, map_of(&mut later)).await.unwrap().unwrap();
    assert_eq!(map["key-10"], (vec![7; 3].into(), changed));

    // A third state is not held while two older ones are.
    let mut cut = get("", changed).await.unwrap();
    assert!(cut.next().await.unwrap().is_some());
    assert!(same.next().await.unwrap().is_some());
    let next = served.put_at("key-10", 4).await;
    let third = Snapshot::get(&addresses, "", next, Duration::from_millis(1)).await.unwrap_err();
    assert!(third.to_string().contains("still being taken"), "{third}");
    served.stop().await;
    let error = timeout(SOON, map_of(&mut cut)).await.unwrap().unwrap_err();
    assert!(matches!(error, SnapshotError::CutOff { keys, .. } if keys < KEYS), "{error}");
}

async fn poll_async(mut look: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + SOON;
    while !look().await {
        assert!(tokio::time::Instant::now() < deadline, "not within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A client that keeps the state of the cluster.
struct State {
    subscription: Subscription,
    map: Map,
    snapshots: usize,
}

impl State {
    /// Until it has the entry of this index, by the log, or by a snapshot where that is gone.
    async fn advance(&mut self, to: u64) {
        while self.subscription.position() <= to {
            match timeout(SOON, self.subscription.next()).await.unwrap() {
                Ok(entry) => {
                    let What::Operation { operation, .. } = entry.what else { continue };
                    match Operation::decode(&operation).unwrap() {
                        Operation::Put { key, value, .. } => drop(self.map.insert(key, (value, entry.index))),
                        Operation::Delete { key, .. } => drop(self.map.remove(&key)),
                    }
                }
                Err(SubscribeError::Compacted { index, first }) => {
                    assert!(index < first);
                    let mut snapshot = self.subscription.snapshot().await.unwrap();
                    assert!(snapshot.index() + 1 >= index, "it does not go back");
                    self.map = timeout(SOON, map_of(&mut snapshot)).await.unwrap().unwrap();
                    self.subscription.go_on_at(snapshot.index() + 1);
                    self.snapshots += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// A client that was away for too long: the snapshot of one node and the log behind it make the state that every node has,
/// while others go on writing.
#[test]
fn a_map_of_a_snapshot_and_the_log_behind_it_is_the_state_at_every_node() {
    let data = tempfile::tempdir().unwrap();
    let (nodes, file) = three_with(data.path(), "[consensus]\nsnapshot_entries = 40\n");
    let apis: Vec<SocketAddr> = nodes.iter().map(|node| node.api).collect();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let writer = std::thread::spawn({
        let api = apis[0];
        move || {
            let mut number = 0;
            while let Err(std::sync::mpsc::TryRecvError::Empty) = stopped.try_recv() {
                // Keys come, change and go.
                let key = format!("{}-{}", if number % 3 == 0 { "a" } else { "b" }, number % 17);
                match number % 7 {
                    6 => drop(exchange(
                        api,
                        format!(
                            "DELETE /v1/kv/{key} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
                        )
                        .as_bytes(),
                    )),
                    _ => drop(put(api, &key, &format!("value {number}"))),
                }
                number += 1;
            }
        }
    });
    poll("all logs begin later", SOON, || {
        nodes.iter().all(|node| node.status()["first_index"].as_u64() > Some(0)).then_some(())
    });
    let addresses: Vec<Address> = apis.iter().map(|api| Address::plaintext(api.to_string())).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut state =
        State { subscription: Subscription::open(addresses.clone(), 0), map: Map::new(), snapshots: 0 };
    runtime.block_on(async {
        state.advance(0).await;
        assert!(state.snapshots > 0 && !state.map.is_empty());
        let begun = state.subscription.position();
        state.advance(begun + 60).await;
    });
    drop(stop);
    writer.join().unwrap();
    let last = nodes.iter().map(|node| node.status()["last_index"].as_u64().unwrap()).max().unwrap();
    runtime.block_on(async {
        state.advance(last).await;
        for address in &addresses {
            for prefix in ["", "a-"] {
                let at_least = state.subscription.position() - 1;
                let mut snapshot =
                    Snapshot::get(std::slice::from_ref(address), prefix, at_least, SOON).await.unwrap();
                state.advance(snapshot.index()).await;
                let expected = state.map.clone().into_iter().filter(|(key, _)| key.starts_with(prefix));
                assert_eq!(map_of(&mut snapshot).await.unwrap(), expected.collect(), "{address:?}");
            }
        }
    });
    let (map, last) = (state.map, state.subscription.position() - 1);

    // The same as a command: what there is, and the log behind it.
    let tail = |more: &[&str]| run(&[&["tail", "--config", &file, "--snapshot"], more].concat());
    let until = last.to_string();
    let (code, lines, told) = tail(&["--until", &until, "--json"]);
    assert_eq!(code, 0, "{told}");
    assert!(json(lines.lines().next().unwrap())["snapshot"]["index"].as_u64() >= Some(last), "{lines}");
    assert_eq!(json(lines.lines().last().unwrap())["end"]["keys"], map.len(), "{lines}");
    assert_eq!(lines.lines().count(), map.len() + 2);
    let (code, lines, told) = tail(&["--until", &until, "--prefix", "a-"]);
    assert_eq!(code, 0, "{told}");
    let (key, (value, index)) = map.iter().find(|(key, _)| key.starts_with("a-")).unwrap();
    let value = std::str::from_utf8(value).unwrap();
    assert!(lines.contains(&format!("index {index:<8}  term -     is         {key} = {value}\n")), "{lines}");
    assert!(lines.lines().last().unwrap().contains("  snapshot   "), "{lines}");
    let (code, _, told) = run(&["tail", "--config", &file, "--from", "0"]);
    assert_eq!((code, told.contains("--snapshot")), (1, true), "{told}");
    assert_eq!(run(&["tail", "--config", &file, "--snapshot", "--from", "0"]).0, 2);
}

/// Three replicas as processes, each in a datacenter of its own.
fn three(data: &Path) -> (Vec<Node>, String) {
    three_with(data, "")
}

fn three_with(data: &Path, more: &str) -> (Vec<Node>, String) {
    let (mesh, apis) = (own(3), own(3));
    let mut text = format!("[cluster]\nid = \"three\"\n{more}");
    for (number, (mesh, api)) in mesh.iter().zip(&apis).enumerate() {
        text.push_str(&format!(
            "[[node]]\nid = \"n{number}\"\ndc = \"d{number}\"\nroles = [\"origin\", \"member\"]\naddress = \"{mesh}\"\n\
             api = \"{api}\"\ndata = \"{{node}}\"\n"
        ));
    }
    let file = support::cluster::write(&data.join("cluster.toml"), text);
    let start = |(number, api): (usize, &SocketAddr)| {
        Node::start(&["--config", &file, "--node", &format!("n{number}")], *api)
    };
    let nodes: Vec<Node> = apis.iter().enumerate().map(start).collect();
    nodes.iter().for_each(Node::ready);
    (nodes, file)
}

#[test]
fn a_client_goes_on_without_a_gap_or_a_duplicate_when_the_node_it_follows_is_killed() {
    let data = tempfile::tempdir().unwrap();
    let (mut nodes, file) = three(data.path());
    let apis: Vec<SocketAddr> = nodes.iter().map(|node| node.api).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let writer = std::thread::spawn({
        let apis = apis.clone();
        move || {
            let mut acknowledged = 0;
            while let Err(std::sync::mpsc::TryRecvError::Empty) = stopped.try_recv() {
                // Whoever is alive takes it; what is not acknowledged is put again.
                acknowledged += usize::from(apis.iter().any(|api| put(*api, "key", "value")));
            }
            acknowledged
        }
    });
    // The one that leads is followed, and is killed: the hardest case.
    let leader = poll("a leader", SOON, || nodes.iter().position(|node| node.status()["role"] == "leader"));
    let mut order: Vec<SocketAddr> = apis.clone();
    order.rotate_left(leader);
    let addresses = order.iter().map(|api| Address::plaintext(api.to_string()));
    let mut subscription = Subscription::open(addresses, 0);
    let mut lines = Vec::new();
    let next = |subscription: &mut Subscription, lines: &mut Vec<String>| {
        let entry = runtime.block_on(async { timeout(SOON, subscription.next()).await.unwrap() }).unwrap();
        assert_eq!(entry.index, lines.len() as u64);
        lines.push(entry.line);
    };
    while lines.len() < 30 {
        next(&mut subscription, &mut lines);
    }
    signal(&nodes[leader].child, "KILL");
    exit_code(&mut nodes[leader].child, SOON);
    while lines.len() < 90 {
        next(&mut subscription, &mut lines);
    }
    drop(stop);
    assert!(writer.join().unwrap() >= 50);
    // What it was told at two nodes is what the third one tells.
    let told: Vec<String> = follow(order[2], "from=0", "").take(lines.len()).collect();
    assert_eq!(lines, told);

    // The same as a command, from the file.
    let tail = [
        "tail",
        "--config",
        &file,
        "--node",
        &format!("n{leader}"),
        "--from",
        "0",
        "--until",
        "89",
        "--json",
    ];
    let (code, stdout, stderr) = run(&tail);
    assert_eq!(
        (code, stdout.lines().collect::<Vec<_>>()),
        (0, lines.iter().map(String::as_str).collect()),
        "{stderr}"
    );
}

#[test]
fn nothing_is_told_that_is_not_committed() {
    let data = tempfile::tempdir().unwrap();
    let (mut nodes, _) = three(data.path());
    assert!(nodes[0].put("before", "x"));
    let leader = poll("a leader", SOON, || nodes.iter().position(|node| node.status()["role"] == "leader"));
    let node = nodes.swap_remove(leader);
    let committed = node.status()["commit_index"].as_u64().unwrap();
    let mut lines = follow(node.api, "from=0&progress=1", "");
    for (expected, line) in (0..=committed).zip(lines.by_ref().filter(|line| !is_mark(line))) {
        assert_eq!(index(&line), expected);
    }
    // Without a majority it appends what it cannot commit.
    drop(nodes);
    let api = node.api;
    let writer = std::thread::spawn(move || put(api, "never", "x"));
    let appended = || node.status()["last_index"].as_u64().filter(|last| *last > committed);
    poll("appended", SOON, appended);
    for line in lines.by_ref().take(3) {
        assert_eq!(line, format!("{{\"progress\":{committed}}}"));
    }
    assert!(!writer.join().unwrap(), "it was not acknowledged");
    assert_eq!(lines.next().unwrap(), format!("{{\"progress\":{committed}}}"));
}

#[test]
fn tail_shows_entries_as_they_come_and_ends_as_its_exit_codes_say() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::dev(data.path());
    assert!(node.put("a%2Fone", "first") && node.put("b", "second") && node.put("a%2Ftwo", "third"));
    let api = node.api.to_string();
    let tail = |more: &[&str]| run(&[&["tail", "--api", &api], more].concat());
    let (code, all, told) = tail(&["--from", "0", "--until", "4"]);
    assert_eq!((code, all.lines().count()), (0, 5), "{all}{told}");
    assert!(all.lines().next().unwrap().starts_with("index 0         term "), "{all}");
    assert!(all.contains("  put        a/one = first\n"), "{all}");
    let (code, some, told) = tail(&["--from", "0", "--prefix", "a/", "--count", "2"]);
    assert_eq!((code, some.lines().count(), some.contains("second")), (0, 2, false), "{some}{told}");
    // What a filter leaves out is passed over, not waited for.
    let (code, none, _) = tail(&["--from", "0", "--prefix", "c", "--until", "4"]);
    assert_eq!((code, none.as_str()), (0, ""));
    let (_, lines, _) = tail(&["--from", "3", "--count", "1", "--json"]);
    assert_eq!(index(lines.trim_end()), 3);

    // From now on, until a signal.
    let mut child = trunkline().args(["tail", "--api", &api, "--json"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    poll("it follows", SOON, || (node.status()["followers"]["count"] == 1).then_some(()));
    let before = node.status()["last_index"].as_u64().unwrap();
    assert!(node.put("later", "x"));
    assert_eq!(index(&lines.next().unwrap()), before + 1);
    signal(&child, "TERM");
    assert_eq!(exit_code(&mut child, SOON), 0);

    drop(node);
    let (code, _, told) = tail(&["--from", "0", "--patience", "100 ms"]);
    assert_eq!(code, 69, "{told}");
    assert!(told.contains("cannot be reached"), "{told}");
    assert_eq!(tail(&[]).0, 69);
    for wrong in [&["tail"][..], &["tail", "--api", "nowhere"], &["tail", "--api", &api, "--count", "0"]] {
        assert_eq!(run(wrong).0, 2, "{wrong:?}");
    }
    let (code, _, told) = run(&["tail", "--config", "deploy/config/example.toml"]);
    assert_eq!(code, 78, "{told}");
    assert!(told.contains("no node serves clients"), "{told}");
}
