//! Floods on every listener of a running cluster: thousands of connections that stay half open, bytes one at a time, clients
//! that never read. What honest nodes send one another arrives meanwhile, and everything is as before when it is over.

mod support;

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use support::cluster::{Cluster, Node, SOON};
use support::replica::Node as Replica;
use support::{http, poll, poll_every, run, trunkline};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

/// Half-open connections, over all listeners; fewer where this process may not have as many descriptors.
const HALF_OPEN: usize = 5_000;
/// Descriptors that are for everything else.
const OTHER_DESCRIPTORS: usize = 500;
/// Connections of each other kind, per listener.
const FEW: usize = 40;
/// Of which latencies are measured, before and during.
const HEARTBEATS: usize = 100;
/// Between two of them.
const PACE: Duration = Duration::from_millis(30);
/// A median and a 99th percentile that are as good as any that is shorter: a machine with much else to do has such.
const FINE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(50));
/// The head of a ClientHello that never comes.
const HELLO: &[u8] = &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01];
/// Connections within TLS that are let go in [`SOON`]: twice as many as handshakes may begin.
const LET_GO: usize = 6_000;
/// How often an admin API is asked while it is flooded.
const ASKED: usize = 5;

/// What strangers did, as far as they got.
#[derive(Default)]
struct Counts {
    connected: AtomicUsize,
    /// How often one was turned away or given up.
    ended: AtomicUsize,
    dribbled: AtomicUsize,
    unread: AtomicUsize,
}

/// As many as this process may open.
fn half_opens() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    let most = soft.map_or(HALF_OPEN, |soft| soft.saturating_sub(OTHER_DESCRIPTORS).min(HALF_OPEN));
    println!("{most} half-open connections, descriptors allowed: {soft:?}");
    most
}

/// Connects and says nothing more than `first`; anew when it is turned away.
async fn half_open(address: SocketAddr, first: &'static [u8], counts: Arc<Counts>) {
    let mut connected = false;
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            // Each is counted once, whatever becomes of it.
            if !std::mem::replace(&mut connected, true) {
                counts.connected.fetch_add(1, Ordering::Relaxed);
            }
            let _ = stream.write_all(first).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
            counts.ended.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// One byte per second of something that never ends; anew when it is turned away.
async fn dribble(address: SocketAddr, first: &'static [u8], counts: Arc<Counts>) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            for byte in first.iter().copied().chain(std::iter::repeat(b'a')) {
                if stream.write_all(&[byte]).await.is_err() {
                    break;
                }
                counts.dribbled.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Says as much as it can and reads nothing of the answers; anew when it is turned away.
async fn never_read(address: SocketAddr, said: &'static [u8], counts: Arc<Counts>) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            while stream.write_all(said).await.is_ok() {
                counts.unread.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn start_send(cluster: &Cluster, to: &str) -> (Child, ChildStdin) {
    let log = std::fs::File::create(cluster.path("us-leader.log")).unwrap();
    let mut command = trunkline();
    command
        .args(["send", "--config", cluster.file(), "--node", "us-leader", "--to", to])
        .stdin(Stdio::piped())
        .stderr(log)
        .stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    let stdin = child.stdin.take().unwrap();
    (child, stdin)
}

/// Lines that a sender is given one by one, and what a member wrote of them.
struct Heartbeats<'a> {
    cluster: &'a Cluster,
    stdin: ChildStdin,
    sent: String,
    number: usize,
}

impl Heartbeats<'_> {
    /// Sends one and waits until it is there. Gives how long that took.
    fn send(&mut self) -> Duration {
        self.number += 1;
        let line = format!("heartbeat {}\n", self.number);
        let began = Instant::now();
        self.stdin.write_all(line.as_bytes()).unwrap();
        self.sent.push_str(&line);
        let arrived = || (self.cluster.received("eu-m1") == self.sent).then_some(());
        poll_every(Duration::from_millis(1), SOON, arrived)
            .unwrap_or_else(|| panic!("{line}\n{}", self.cluster.log("us-leader")));
        began.elapsed()
    }

    /// The median of so many, and what 99 of 100 do not take longer than.
    fn measure(&mut self, count: usize) -> (Duration, Duration) {
        let paced = |_| {
            let _ = poll_every(PACE, PACE, || None::<()>);
            self.send()
        };
        let mut all: Vec<Duration> = (0..count).map(paced).collect();
        all.sort();
        (all[count / 2], all[count * 99 / 100 - 1])
    }
}

/// The connections of a node's link to a peer that is up, by their numbers.
fn connections(cluster: &Cluster, node: &str, peer: &str) -> Option<Vec<u64>> {
    let status = http::get(cluster.admin(node), "/v1/status")?;
    let status: serde_json::Value = serde_json::from_str(&status.body).ok()?;
    let is_it =
        |link: &&serde_json::Value| link["peer"] == peer && link["dialled"] == true && link["up"] == true;
    let link = status["links"].as_array()?.iter().find(is_it)?;
    link["connections"].as_array()?.iter().map(|connection| connection["conn"].as_u64()).collect()
}

/// A cluster of the example with changes, in which `ap-m3` is a replica, and a link is not given up because the machine is slow.
fn cluster(security: &str) -> Cluster {
    let replica = "id = \"ap-m3\"\ndc = \"ap\"\nroles = [\"origin\", \"member\"]\ndata = \"data\"\napi = \"127.0.0.1:1\"";
    Cluster::new(&[
        ("insecure = false", security),
        ("# silence_timeout = \"3 s\"", "silence_timeout = \"30 s\""),
        ("id = \"ap-m3\"\ndc = \"ap\"\nroles = [\"member\"]", replica),
    ])
}

/// One flood at a time; whether the other one found something is its own affair.
fn alone() -> MutexGuard<'static, ()> {
    static FLOOD: Mutex<()> = Mutex::new(());
    FLOOD.lock().unwrap_or_else(PoisonError::into_inner)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// `mesh` are the first bytes of a handshake.
fn survives(cluster: &Cluster, mesh: &'static [u8]) {
    let _flood = alone();
    let nodes = ["eu-m1", "eu-p1"];
    let _nodes = cluster.start_all(&nodes);
    let replica = Replica::start(&["--config", cluster.file(), "--node", "ap-m3"], cluster.api("ap-m3"));
    replica.ready();
    let (child, stdin) = start_send(cluster, "eu-m1");
    let _sender = Node { id: "us-leader".to_owned(), child };
    let mut heartbeats = Heartbeats { cluster, stdin, sent: String::new(), number: 0 };
    heartbeats.send();
    let way = [("us-leader", "eu-p1"), ("eu-p1", "eu-m1")];
    let linked = || {
        way.map(|(node, peer)| {
            poll(&format!("{node} is linked with {peer}"), SOON, || connections(cluster, node, peer))
        })
    };
    let linked_before = linked();
    let before = heartbeats.measure(HEARTBEATS);

    let runtime = runtime();
    let counts = Arc::new(Counts::default());
    let head: &[u8] = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nx: ";
    let whole: &[u8] = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let listeners = [
        (cluster.mesh("eu-p1"), mesh, mesh),
        (cluster.mesh("eu-m1"), mesh, mesh),
        (cluster.mesh("ap-m3"), mesh, mesh),
        (cluster.admin("eu-p1"), head, whole),
        (cluster.admin("eu-m1"), head, whole),
        (cluster.admin("ap-m3"), head, whole),
        (cluster.admin("us-leader"), head, whole),
        (
            replica.api,
            b"PUT /v1/kv/x HTTP/1.1\r\nhost: localhost\r\nx: ",
            b"GET /v1/kv/x HTTP/1.1\r\nhost: localhost\r\n\r\n",
        ),
    ];
    let half_open_each = half_opens() / listeners.len();
    for (address, first, said) in listeners {
        for _ in 0..half_open_each {
            runtime.spawn(half_open(address, first, Arc::clone(&counts)));
        }
        for _ in 0..FEW {
            runtime.spawn(dribble(address, first, Arc::clone(&counts)));
            runtime.spawn(never_read(address, said, Arc::clone(&counts)));
        }
    }
    let reached = |count: &AtomicUsize, least| (count.load(Ordering::Relaxed) >= least).then_some(());
    poll("the flood is a flood", 2 * SOON, || {
        heartbeats.send();
        reached(&counts.connected, half_open_each * listeners.len())
            .and(reached(&counts.dribbled, 2 * FEW * listeners.len()))
            .and(reached(&counts.unread, 200))
    });
    let during = heartbeats.measure(HEARTBEATS);
    println!("median and p99 of heartbeats: {before:?} before, {during:?} while all listeners are flooded");
    for node in ["eu-p1", "eu-m1", "ap-m3", "us-leader"] {
        let lives = || {
            // It may have been given up as one of those that say nothing, where it is that slow: whoever asks tries again.
            let answer = http::get(cluster.admin(node), "/livez")?;
            assert_eq!(answer.code, 200, "{node} does not live while it is flooded");
            Some(())
        };
        for _ in 0..ASKED {
            poll(&format!("{node} answers while it is flooded"), SOON, lives);
        }
    }
    runtime.shutdown_background();
    let fine = (before.0.max(FINE.0) * 20, before.1.max(FINE.1) * 20);
    assert!(during.0 < fine.0 && during.1 < fine.1, "{during:?}, before it was {before:?}");

    for node in ["eu-p1", "eu-m1", "ap-m3", "us-leader"] {
        let ready = || http::get(cluster.admin(node), "/readyz").filter(|answer| answer.code == 200);
        poll(&format!("{node} answers again"), SOON, ready);
    }
    let put = || {
        let request =
            b"PUT /v1/kv/after HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 3\r\n\r\nyes";
        http::exchange(replica.api, request).filter(|answer| answer.code == 200)
    };
    poll("the API for clients answers again", SOON, put);
    let read = http::get(replica.api, "/v1/kv/after").unwrap();
    assert!(read.code == 200 && read.body.contains("yes"), "{read:?}");
    heartbeats.send();
    assert_eq!(linked(), linked_before, "the links of honest nodes are those of before");
}

#[test]
fn heartbeats_get_through_while_every_listener_is_flooded() {
    survives(&cluster("insecure = false"), b"TRUNKLN\x01");
}

/// With certificates.
fn cluster_within_tls(more: &str) -> Cluster {
    let security = format!(
        "certificate = \"tls/{{node}}.crt\"\nkey = \"tls/{{node}}.key\"\nca = \"tls/ca.crt\"\n{more}"
    );
    let cluster = cluster(&security);
    let tls = cluster.path("tls").to_str().unwrap().to_owned();
    assert_eq!(run(&["ca", "init", "--cluster", "example", "--dir", &tls]).0, 0);
    assert_eq!(run(&["ca", "issue", "--dir", &tls, "--config", cluster.file(), "--all"]).0, 0);
    cluster
}

#[test]
fn heartbeats_get_through_while_every_listener_is_flooded_within_tls() {
    survives(&cluster_within_tls(""), HELLO);
}

/// Whoever is given up comes anew: they are let go as fast as they come, and do not fill the listener's queue for everybody else.
#[test]
fn an_admin_api_within_tls_answers_while_it_is_flooded() {
    let _flood = alone();
    let cluster = cluster_within_tls("admin_tls = true");
    let _node = cluster.start("eu-m1");
    let status = || run(&["status", "--config", cluster.file(), "--node", "eu-m1"]);
    cluster.poll("eu-m1", "answers", || (status().0 == 0).then_some(()));

    let (runtime, counts) = (runtime(), Arc::new(Counts::default()));
    for _ in 0..half_opens() {
        runtime.spawn(half_open(cluster.admin("eu-m1"), HELLO, Arc::clone(&counts)));
    }
    let ended = || counts.ended.load(Ordering::Relaxed);
    // At the rate at which handshakes may begin this would take minutes.
    poll("those that say nothing are let go", SOON, || (ended() >= LET_GO).then_some(()));
    for _ in 0..ASKED {
        let (before, began) = (ended(), Instant::now());
        let answered = || (status().0 == 0).then_some(());
        cluster.poll("eu-m1", "answers while it is flooded", answered);
        println!("answered within {:?}, in which {} were let go", began.elapsed(), ended() - before);
    }
    runtime.shutdown_background();
}
