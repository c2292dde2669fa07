//! Floods on every listener of a running cluster: thousands of connections that stay half open, bytes one at a time, clients
//! that never read. What honest nodes send one another arrives meanwhile, and everything is as before when it is over.

mod support;

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use support::cluster::{Cluster, Node, SOON};
use support::{http, poll, run, trunkline};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Half-open connections, over all listeners.
const HALF_OPEN: usize = 5_000;
/// Connections of each other kind, per listener.
const FEW: usize = 40;

/// What strangers did, as far as they got.
#[derive(Default)]
struct Counts {
    connected: AtomicUsize,
    dribbled: AtomicUsize,
    unread: AtomicUsize,
}

/// Connects and says nothing more than `first`.
async fn half_open(address: SocketAddr, first: &'static [u8], counts: Arc<Counts>) {
    let Ok(mut stream) = TcpStream::connect(address).await else { return };
    let _ = stream.write_all(first).await;
    counts.connected.fetch_add(1, Ordering::Relaxed);
    std::future::pending::<()>().await;
}

/// One byte after the other of something that never ends; anew when it is turned away.
async fn dribble(address: SocketAddr, first: &'static [u8], counts: Arc<Counts>) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            for byte in first.iter().copied().chain(std::iter::repeat(b'a')) {
                if stream.write_all(&[byte]).await.is_err() {
                    break;
                }
                counts.dribbled.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
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
    let mut command = trunkline();
    command
        .args(["send", "--config", cluster.file(), "--to", to])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    let stdin = child.stdin.take().unwrap();
    (child, stdin)
}

/// `mesh` are the first bytes of a handshake.
fn survives(cluster: &Cluster, mesh: &'static [u8]) {
    let _nodes = cluster.start_all(&["eu-m1", "eu-p1"]);
    let (child, mut stdin) = start_send(cluster, "eu-m1");
    let _sender = Node { id: "us-leader".to_owned(), child };
    let mut sent = String::new();
    let mut heartbeat = |number: usize| {
        let line = format!("heartbeat {number}\n");
        stdin.write_all(line.as_bytes()).unwrap();
        sent.push_str(&line);
        poll(&line, SOON, || (cluster.received("eu-m1") == sent).then_some(()));
    };
    heartbeat(0);

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let counts = Arc::new(Counts::default());
    let head: &[u8] = b"GET /metrics HTTP/1.1\r\nhost: x\r\nx: ";
    let whole: &[u8] = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";
    let listeners = [
        (cluster.mesh("eu-p1"), mesh, mesh),
        (cluster.mesh("eu-m1"), mesh, mesh),
        (cluster.admin("eu-p1"), head, whole),
        (cluster.admin("eu-m1"), head, whole),
        (cluster.admin("us-leader"), head, whole),
    ];
    for (address, first, said) in listeners {
        for _ in 0..HALF_OPEN / listeners.len() {
            runtime.spawn(half_open(address, first, Arc::clone(&counts)));
        }
        for _ in 0..FEW {
            runtime.spawn(dribble(address, first, Arc::clone(&counts)));
            runtime.spawn(never_read(address, said, Arc::clone(&counts)));
        }
    }
    let reached = |count: &AtomicUsize, least| (count.load(Ordering::Relaxed) >= least).then_some(());
    let mut number = 0;
    poll("the flood is a flood", 2 * SOON, || {
        number += 1;
        heartbeat(number);
        reached(&counts.connected, HALF_OPEN / 2)
            .and(reached(&counts.dribbled, 200))
            .and(reached(&counts.unread, 200))
    });
    for more in 1..=20 {
        heartbeat(number + more);
    }
    runtime.shutdown_background();

    for node in ["eu-p1", "eu-m1", "us-leader"] {
        let ready = || http::get(cluster.admin(node), "/readyz").filter(|answer| answer.code == 200);
        poll(&format!("{node} answers again"), SOON, ready);
    }
    heartbeat(number + 21);
}

#[test]
fn heartbeats_get_through_while_every_listener_is_flooded() {
    survives(&Cluster::new(&[]), b"TRUNKLN\x01");
}

#[test]
fn heartbeats_get_through_while_every_listener_is_flooded_within_tls() {
    let security = "certificate = \"tls/{node}.crt\"\nkey = \"tls/{node}.key\"\nca = \"tls/ca.crt\"";
    let cluster = Cluster::new(&[("insecure = false", security)]);
    let tls = cluster.path("tls").to_str().unwrap().to_owned();
    assert_eq!(run(&["ca", "init", "--cluster", "example", "--dir", &tls]).0, 0);
    assert_eq!(run(&["ca", "issue", "--dir", &tls, "--config", cluster.file(), "--all"]).0, 0);
    // The head of a ClientHello that never comes.
    survives(&cluster, &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01]);
}
