//! What TLS costs: messages from an origin to a member over one link on loopback, in plaintext and within TLS, in turns in
//! one run. Payloads are random bytes, and within a datacenter nothing compresses.
//!
//! ```text
//! cargo bench --bench tls               # half a minute
//! cargo bench --bench tls -- --quick    # about 3 s
//! ```
//!
//! CPU is that of the whole process, both ends and the bench itself, from `/proc/self/stat`: Linux only.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use trunkline::ca::{Authority, init};
use trunkline_mesh::{
    Batch, CHECK_INTERVAL, Client, ClusterId, Config, Datacenter, Message, NodeId, NodeSpec, Outcome, Roles,
    Security, TlsFiles, Topology, join,
};

/// Batches of one message under way. As many of the longest stay within the budget of one destination.
const UNDER_WAY: usize = 16;
/// More than its certificates have.
const CA_DAYS: u32 = 30;
const CERTIFICATE_DAYS: u32 = 1;
const SIZES: [usize; 3] = [256, 16 * 1024, 128 * 1024];
/// Clock ticks of `/proc/self/stat` in a second, as Linux has them for programs.
const TICKS_PER_S: f64 = 100.0;

/// One way of one size, in one round.
#[derive(Clone, Copy)]
struct Figures {
    bytes_per_s: f64,
    cpu_ns_per_kib: f64,
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (rounds, span) =
        if quick { (1, Duration::from_millis(700)) } else { (5, Duration::from_millis(900)) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(run(rounds, span));
}

async fn run(rounds: usize, span: Duration) {
    let directory = tempfile::tempdir().expect("a directory");
    let plain = pair(None).await;
    let tls = pair(Some(directory.path())).await;
    println!("one link on loopback, {UNDER_WAY} messages under way; {rounds} rounds of {span:?}, medians");
    println!("message B      plain MiB/s        TLS MiB/s    ratio | CPU ns/KiB plain      TLS    ratio");
    for size in SIZES {
        let mut figures: [Vec<Figures>; 2] = Default::default();
        for _ in 0..rounds {
            figures[0].push(pump(&plain, size, span).await);
            figures[1].push(pump(&tls, size, span).await);
        }
        let rate = |way: usize| median(figures[way].iter().map(|of| of.bytes_per_s / 1_048_576.0).collect());
        let cpu = |way: usize| median(figures[way].iter().map(|of| of.cpu_ns_per_kib).collect());
        println!(
            "{size:>9}  {:>15.1}  {:>15.1}  {:>6.2}x | {:>16.0}  {:>7.0}  {:>6.2}x",
            rate(0),
            rate(1),
            rate(1) / rate(0),
            cpu(0),
            cpu(1),
            cpu(1) / cpu(0),
        );
    }
}

/// An origin whose link to a member is up.
async fn pair(certificates: Option<&Path>) -> Client {
    let cluster = ClusterId::new("bench").expect("legal");
    let address: SocketAddr = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("free");
    let node = |name: &str, roles, address| NodeSpec {
        id: NodeId::new(name).expect("legal"),
        datacenter: Datacenter::new("us").expect("legal"),
        roles,
        address,
    };
    let nodes = [node("origin", Roles::ORIGIN, None), node("member", Roles::MEMBER, Some(address))];
    let topology = std::sync::Arc::new(Topology::new(cluster.clone(), nodes.clone()).expect("sound"));
    if let Some(directory) = certificates {
        init(directory, &cluster, CA_DAYS).expect("a CA");
        let authority = Authority::load(directory).expect("the CA");
        for node in &nodes {
            authority
                .issue(&topology.name(node), &[], CERTIFICATE_DAYS, directory, false)
                .expect("a certificate");
        }
    }
    let config = |name: &str| {
        let security = certificates.map_or(Security::Loopback, |directory| {
            Security::Tls(TlsFiles {
                certificate: directory.join(format!("{name}.crt")),
                key: directory.join(format!("{name}.key")),
                ca: directory.join("ca.crt"),
                crl: None,
                check_interval: CHECK_INTERVAL,
            })
        });
        Config { security, ..Config::new(topology.clone(), NodeId::new(name).expect("legal")) }
    };
    let (_, mut inbox) = join(config("member")).await.expect("it starts");
    tokio::spawn(async move { while inbox.recv().await.is_some() {} });
    let (origin, _) = join(config("origin")).await.expect("it starts");
    pump(&origin, 256, Duration::from_millis(100)).await;
    origin
}

async fn pump(origin: &Client, size: usize, span: Duration) -> Figures {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut pool = vec![0; size * 4];
    rng.fill(&mut pool);
    let pool = Bytes::from(pool);
    let member = NodeId::new("member").expect("legal");
    let (began, cpu_before) = (Instant::now(), cpu_s());
    let (mut under_way, mut sent) = (VecDeque::new(), 0_usize);
    loop {
        let over = began.elapsed() >= span;
        while !over && under_way.len() < UNDER_WAY {
            let at = rng.usize(..size * 3);
            let mut batch = Batch::to(Datacenter::new("us").expect("legal"));
            batch.push(Message::new(member.clone(), pool.slice(at..at + size)));
            under_way.push_back(origin.send(batch).await.expect("taken"));
            sent += size;
        }
        let Some(receipt) = under_way.pop_front() else { break };
        let outcomes = receipt.await;
        assert!(matches!(outcomes[..], [Outcome::Delivered { .. }]), "{outcomes:?}");
    }
    let (bytes, passed) = (sent as f64, began.elapsed().as_secs_f64());
    Figures { bytes_per_s: bytes / passed, cpu_ns_per_kib: (cpu_s() - cpu_before) * 1e9 / (bytes / 1024.0) }
}

/// CPU time of this process, user and system, seconds.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(f64::NAN);
    (ticks(11) + ticks(12)) / TICKS_PER_S
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
